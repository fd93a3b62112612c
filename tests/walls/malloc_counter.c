/* malloc_counter: a library to be preloaded into `automodel train`.  It counts who asks for memory while
 * steps FROM to TO run, by thread and by caller, and how many threads there are after each step.
 *   AM_COUNT_FILE   report goes to AM_COUNT_FILE.<pid>;  AM_COUNT_FROM, AM_COUNT_TO: steps (3 and 10)
 * It knows a step's end by the program opening /proc/self/status: every rank looks up its peak memory once a
 * step, after everything else.
 * How to read: the replaced functions at the end; above them note (one request), mark (one step), report. */
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <execinfo.h>
#include <fcntl.h>
#include <malloc.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { FRAMES = 8, MAX_ROWS = 2048, MAX_STEPS = 64 };
#define HERE                                                                                                 \
    __attribute__((tls_model("initial-exec"))) /* no memory is asked for by touching a thread's variable */

typedef struct row {
    char thread[40];
    void *frame[FRAMES];
    int frames;
    long count;
    size_t bytes;
} row;

static row rows[MAX_ROWS];
static int num_rows, steps, threads_after[MAX_STEPS], from = 3, to = 10;
static long lost;
static atomic_bool counting;
static atomic_flag lock = ATOMIC_FLAG_INIT;
static const char *file;
static _Thread_local bool inside HERE; /* this library's own requests are nobody's */
static _Thread_local bool reads_data HERE;
static _Thread_local const void *starter HERE; /* code that started this thread */

void *__libc_malloc(size_t n);
void *__libc_calloc(size_t n, size_t m);
void *__libc_realloc(void *p, size_t n);
void *__libc_memalign(size_t a, size_t n);

static const char *module_of(const void *address, const void **base)
{
    Dl_info i;
    if (!dladdr(address, &i) || !i.dli_fname) return "unknown";
    if (base) *base = i.dli_fbase;
    const char *slash = strrchr(i.dli_fname, '/');
    return slash ? slash + 1 : i.dli_fname;
}

/* main, comm (it has that name), data (it reads HDF5), team (started by OpenMP), else who started it. */
static void name_thread(char out[40])
{
    char own[17] = "";
    prctl(PR_GET_NAME, own);
    const char *by = starter ? module_of(starter, NULL) : "";
    if (syscall(SYS_gettid) == getpid())
        snprintf(out, 40, "main");
    else if (strcmp(own, "automodel-comm") == 0)
        snprintf(out, 40, "comm");
    else if (reads_data)
        snprintf(out, 40, "data");
    else if (strncmp(by, "libgomp", 7) == 0)
        snprintf(out, 40, "team");
    else
        snprintf(out, 40, "of:%s", by);
}

static bool same_row(const row *a, const row *b)
{
    return strcmp(a->thread, b->thread) == 0 && memcmp(a->frame, b->frame, sizeof a->frame) == 0;
}

/* One more request of r's kind. */
static void add(const row *r, size_t bytes)
{
    int i = 0;
    while (atomic_flag_test_and_set(&lock)) continue;
    while (i < num_rows && !same_row(&rows[i], r)) i++;
    if (i < MAX_ROWS) {
        if (i == num_rows) rows[num_rows++] = *r;
        rows[i].count++;
        rows[i].bytes += bytes;
    } else {
        lost++;
    }
    atomic_flag_clear(&lock);
}

static void note(size_t bytes)
{
    void *stack[FRAMES + 2] = {0};
    row r = {0};
    if (inside || !atomic_load_explicit(&counting, memory_order_relaxed)) return;
    inside = true;
    int n = backtrace(stack, FRAMES + 2) - 2; /* without this function and the replaced one */
    r.frames = n < 0 ? 0 : n;
    memcpy(r.frame, stack + 2, sizeof r.frame);
    name_thread(r.thread);
    add(&r, bytes);
    inside = false;
}

static int count_threads(void)
{
    int n = 0;
    DIR *d = opendir("/proc/self/task");
    for (struct dirent *e; d && (e = readdir(d)) != NULL;) n += e->d_name[0] != '.';
    if (d) closedir(d);
    return n;
}

/* "threads STEP N", then "alloc THREAD COUNT BYTES MODULE+OFFSET …" with the caller first; "end" last. */
static void report(void)
{
    char path[4096];
    snprintf(path, sizeof path, "%s.%d", file, (int)getpid());
    FILE *f = fopen(path, "w");
    if (!f) return;
    for (int i = 1; i <= steps; i++) fprintf(f, "threads %d %d\n", i, threads_after[i]);
    for (int i = 0; i < num_rows; i++) {
        fprintf(f, "alloc %s %ld %zu", rows[i].thread, rows[i].count, rows[i].bytes);
        for (int k = 0; k < rows[i].frames && k < FRAMES; k++) {
            const void *base = NULL;
            const char *module = module_of(rows[i].frame[k], &base);
            fprintf(f, " %s+0x%zx", module, (size_t)((const char *)rows[i].frame[k] - (const char *)base));
        }
        fputc('\n', f);
    }
    fprintf(f, "lost %ld\nend\n", lost);
    fclose(f);
}

static void mark(const char *path)
{
    if (!file || inside || strcmp(path, "/proc/self/status") != 0 || syscall(SYS_gettid) != getpid()) return;
    inside = true;
    if (++steps < MAX_STEPS) threads_after[steps] = count_threads();
    if (steps == from - 1) atomic_store(&counting, true);
    if (steps == to) {
        atomic_store(&counting, false);
        report();
    }
    inside = false;
}

__attribute__((constructor)) static void start(void)
{
    void *stack[4];
    file = getenv("AM_COUNT_FILE");
    if (getenv("AM_COUNT_FROM")) from = (int)strtol(getenv("AM_COUNT_FROM"), NULL, 10);
    if (getenv("AM_COUNT_TO")) to = (int)strtol(getenv("AM_COUNT_TO"), NULL, 10);
    backtrace(stack, 4); /* the first call loads the unwinder */
}

/* ---- memory ----------------------------------------------------------------------------------------- */

void *malloc(size_t n)
{
    note(n);
    return __libc_malloc(n);
}
void *calloc(size_t n, size_t m)
{
    note(n * m);
    return __libc_calloc(n, m);
}
void *realloc(void *p, size_t n)
{
    note(n);
    return __libc_realloc(p, n);
}
void *memalign(size_t a, size_t n)
{
    note(n);
    return __libc_memalign(a, n);
}
void *aligned_alloc(size_t a, size_t n)
{
    note(n);
    return __libc_memalign(a, n);
}
int posix_memalign(void **p, size_t a, size_t n)
{
    note(n);
    *p = __libc_memalign(a, n);
    return *p ? 0 : ENOMEM;
}
static void *map(void *at, size_t n, int protection, int flags, int fd, off_t offset)
{
    return (void *)syscall(SYS_mmap, at, n, protection, flags, fd, offset);
}
void *mmap(void *at, size_t n, int protection, int flags, int fd, off_t offset)
{
    note(n);
    return map(at, n, protection, flags, fd, offset);
}
void *mmap64(void *at, size_t n, int protection, int flags, int fd, off_t offset)
{
    note(n);
    return map(at, n, protection, flags, fd, offset);
}

/* ---- threads ---------------------------------------------------------------------------------------- */

typedef struct launch {
    void *(*run)(void *);
    void *arg;
    const void *starter;
} launch;

static void *begin(void *p)
{
    launch l = *(launch *)p;
    inside = true;
    free(p);
    inside = false;
    starter = l.starter;
    return l.run(l.arg);
}

int pthread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*run)(void *), void *arg)
{
    int (*real)(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *) = NULL;
    *(void **)&real = dlsym(RTLD_NEXT, "pthread_create");
    launch *l = __libc_malloc(sizeof *l);
    if (!l) return EAGAIN;
    *l = (launch){run, arg, __builtin_return_address(0)};
    return real(thread, attr, begin, l);
}

/* herr_t H5Dread(hid_t dset, hid_t mem_type, hid_t mem_space, hid_t file_space, hid_t dxpl, void *buf) */
int H5Dread(int64_t, int64_t, int64_t, int64_t, int64_t, void *);
int H5Dread(int64_t a, int64_t b, int64_t c, int64_t d, int64_t e, void *buf)
{
    static int (*real)(int64_t, int64_t, int64_t, int64_t, int64_t, void *);
    if (!real) *(void **)&real = dlsym(RTLD_NEXT, "H5Dread");
    reads_data = syscall(SYS_gettid) != getpid();
    return real(a, b, c, d, e, buf);
}

/* ---- steps ------------------------------------------------------------------------------------------ */

FILE *fopen(const char *path, const char *mode)
{
    static FILE *(*real)(const char *, const char *);
    if (!real) *(void **)&real = dlsym(RTLD_NEXT, "fopen");
    mark(path);
    return real(path, mode);
}
int open(const char *path, int flags, ...)
{
    va_list ap;
    va_start(ap, flags);
    int mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(ap, int) : 0;
    va_end(ap);
    mark(path);
    return (int)syscall(SYS_openat, AT_FDCWD, path, flags, mode);
}
