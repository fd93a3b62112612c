/* io_shim.c: see io_shim.h.  Descriptors are turned into paths through /proc/self/fd, so no table has to be
 * kept. */
#include "io_shim.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

void io_shim_set(const char *prefix, io_shim_mode mode, unsigned mask, int error, long at);
long io_shim_count(void);
const io_shim_record *io_shim_log(long *n);

static struct {
    pthread_mutex_t lock;
    char prefix[PATH_MAX];
    io_shim_mode mode;
    unsigned mask;
    int error;
    long at, count;
    io_shim_record *log;
    long num_log, cap_log;
} shim = {.lock = PTHREAD_MUTEX_INITIALIZER};

#define REAL(result, name, ...)                                                                              \
    static result (*real_##name)(__VA_ARGS__);                                                               \
    static void find_##name(void)                                                                            \
    {                                                                                                        \
        void *p = real_##name ? NULL : dlsym(RTLD_NEXT, #name);                                              \
        if (p) memcpy(&real_##name, &p, sizeof p);                                                           \
    }
REAL(int, openat, int, const char *, int, ...)
REAL(int, mkdir, const char *, mode_t)
REAL(ssize_t, write, int, const void *, size_t)
REAL(ssize_t, pwrite, int, const void *, size_t, off_t)
REAL(int, fsync, int)
REAL(int, close, int)
REAL(int, rename, const char *, const char *)
REAL(int, unlink, const char *)
REAL(int, unlinkat, int, const char *, int)
REAL(int, rmdir, const char *)

void io_shim_set(const char *prefix, io_shim_mode mode, unsigned mask, int error, long at)
{
    pthread_mutex_lock(&shim.lock);
    for (long i = 0; i < shim.num_log; i++) {
        free(shim.log[i].path);
        free(shim.log[i].to);
        free(shim.log[i].data);
    }
    shim.num_log = shim.count = 0;
    snprintf(shim.prefix, sizeof shim.prefix, "%s", prefix);
    shim.mask = mask;
    shim.error = error;
    shim.at = at;
    shim.mode = mode;
    pthread_mutex_unlock(&shim.lock);
}

long io_shim_count(void)
{
    return shim.count;
}

const io_shim_record *io_shim_log(long *n)
{
    *n = shim.num_log;
    return shim.log;
}

/* ---- paths ---------------------------------------------------------------------------------------- */

static int fd_path(int fd, char out[PATH_MAX])
{
    char link[40];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, out, PATH_MAX - 1);
    out[n > 0 ? n : 0] = 0;
    return n > 0;
}

static void at_path(int dir_fd, const char *name, char out[PATH_MAX])
{
    char base[PATH_MAX] = "";
    if (name[0] != '/' && dir_fd != AT_FDCWD) fd_path(dir_fd, base);
    if (snprintf(out, PATH_MAX, "%s%s%s", base, base[0] ? "/" : "", name) >= PATH_MAX) out[0] = 0;
}

static int ours(const char *path)
{
    size_t n = strlen(shim.prefix);
    return shim.mode != IO_SHIM_OFF && n && strncmp(path, shim.prefix, n) == 0;
}

static int fd_ours(int fd, char path[PATH_MAX])
{
    return shim.mode != IO_SHIM_OFF && fd_path(fd, path) && ours(path);
}

/* ---- what happens to a call ----------------------------------------------------------------------- */

enum { GO_ON, FAIL, INTERRUPT };

static int decide(unsigned op)
{
    int what = GO_ON;
    pthread_mutex_lock(&shim.lock);
    if (shim.mask & op) {
        long n = ++shim.count;
        if (shim.mode == IO_SHIM_KILL && n == shim.at) kill(getpid(), SIGKILL);
        if (shim.mode == IO_SHIM_FAIL && n == shim.at) what = FAIL;
        if (shim.mode == IO_SHIM_FAIL_FROM && n >= shim.at) what = FAIL;
        if (shim.mode == IO_SHIM_RAGGED && n % 3 == 0 && (op & (IO_SHIM_WRITE | IO_SHIM_FSYNC)))
            what = INTERRUPT;
    }
    pthread_mutex_unlock(&shim.lock);
    if (what == FAIL) errno = shim.error;
    if (what == INTERRUPT) errno = EINTR;
    return what;
}

static void record(int op, const char *path, const char *to, const void *data, size_t size, long long offset,
                   int is_dir, int truncate)
{
    if (shim.mode != IO_SHIM_RECORD || !(shim.mask & (unsigned)op)) return;
    pthread_mutex_lock(&shim.lock);
    if (shim.num_log == shim.cap_log) {
        shim.cap_log = shim.cap_log ? 2 * shim.cap_log : 64;
        shim.log = realloc(shim.log, (size_t)shim.cap_log * sizeof *shim.log);
    }
    io_shim_record *r = &shim.log[shim.num_log++];
    *r = (io_shim_record){.op = op,
                          .path = strdup(path),
                          .to = to ? strdup(to) : NULL,
                          .size = size,
                          .offset = offset,
                          .is_dir = is_dir,
                          .truncate = truncate};
    if (data && size) {
        r->data = malloc(size);
        memcpy(r->data, data, size);
    }
    pthread_mutex_unlock(&shim.lock);
}

/* ---- the calls ------------------------------------------------------------------------------------ */

static int open_at(int dir_fd, const char *name, int flags, mode_t mode)
{
    char path[PATH_MAX];
    find_openat();
    if (!(flags & O_CREAT)) return real_openat(dir_fd, name, flags, mode);
    at_path(dir_fd, name, path);
    if (!ours(path)) return real_openat(dir_fd, name, flags, mode);
    if (decide(IO_SHIM_OPEN)) return -1;
    int fd = real_openat(dir_fd, name, flags, mode);
    if (fd >= 0) record(IO_SHIM_OPEN, path, NULL, NULL, 0, 0, 0, (flags & O_TRUNC) != 0);
    return fd;
}

static mode_t mode_of(int flags, va_list ap)
{
    return flags & O_CREAT ? (mode_t)va_arg(ap, int) : 0;
}

int open(const char *name, int flags, ...)
{
    va_list ap;
    va_start(ap, flags);
    mode_t mode = mode_of(flags, ap);
    va_end(ap);
    return open_at(AT_FDCWD, name, flags, mode);
}

int open64(const char *name, int flags, ...) __attribute__((alias("open")));

int openat(int dir_fd, const char *name, int flags, ...)
{
    va_list ap;
    va_start(ap, flags);
    mode_t mode = mode_of(flags, ap);
    va_end(ap);
    return open_at(dir_fd, name, flags, mode);
}

int openat64(int dir_fd, const char *name, int flags, ...) __attribute__((alias("openat")));

int mkdir(const char *path, mode_t mode)
{
    find_mkdir();
    if (!ours(path)) return real_mkdir(path, mode);
    if (decide(IO_SHIM_MKDIR)) return -1;
    int failed = real_mkdir(path, mode);
    if (!failed) record(IO_SHIM_MKDIR, path, NULL, NULL, 0, 0, 1, 0);
    return failed;
}

static size_t ragged(size_t n)
{
    return shim.mode == IO_SHIM_RAGGED && n > 1 ? 1 + (size_t)(shim.count * 7919) % (n - 1) : n;
}

ssize_t write(int fd, const void *data, size_t n)
{
    char path[PATH_MAX];
    find_write();
    if (!fd_ours(fd, path)) return real_write(fd, data, n);
    if (decide(IO_SHIM_WRITE)) return -1;
    off_t at = lseek(fd, 0, SEEK_CUR);
    ssize_t put = real_write(fd, data, ragged(n));
    if (put > 0) record(IO_SHIM_WRITE, path, NULL, data, (size_t)put, at, 0, 0);
    return put;
}

ssize_t pwrite(int fd, const void *data, size_t n, off_t at)
{
    char path[PATH_MAX];
    find_pwrite();
    if (!fd_ours(fd, path)) return real_pwrite(fd, data, n, at);
    if (decide(IO_SHIM_WRITE)) return -1;
    ssize_t put = real_pwrite(fd, data, ragged(n), at);
    if (put > 0) record(IO_SHIM_WRITE, path, NULL, data, (size_t)put, at, 0, 0);
    return put;
}

ssize_t pwrite64(int fd, const void *data, size_t n, off_t at) __attribute__((alias("pwrite")));

int fsync(int fd)
{
    char path[PATH_MAX];
    struct stat info;
    find_fsync();
    if (!fd_ours(fd, path)) return real_fsync(fd);
    if (decide(IO_SHIM_FSYNC)) return -1;
    record(IO_SHIM_FSYNC, path, NULL, NULL, 0, 0, fstat(fd, &info) == 0 && S_ISDIR(info.st_mode), 0);
    return 0; /* the tests' disk may be slow, and nothing here pulls the plug */
}

/* Only of files open for writing: closing what was read cannot lose anything. */
int close(int fd)
{
    char path[PATH_MAX];
    find_close();
    int flags = shim.mode != IO_SHIM_OFF ? fcntl(fd, F_GETFL) : -1;
    if (flags < 0 || (flags & O_ACCMODE) == O_RDONLY || !fd_ours(fd, path)) return real_close(fd);
    int what = decide(IO_SHIM_CLOSE), why = errno;
    int failed = real_close(fd);
    if (what) errno = why;
    return what ? -1 : failed;
}

int rename(const char *from, const char *to)
{
    find_rename();
    if (!ours(to)) return real_rename(from, to);
    if (decide(IO_SHIM_RENAME)) return -1;
    int failed = real_rename(from, to);
    if (!failed) record(IO_SHIM_RENAME, from, to, NULL, 0, 0, 0, 0);
    return failed;
}

int unlink(const char *path)
{
    find_unlink();
    if (!ours(path)) return real_unlink(path);
    if (decide(IO_SHIM_UNLINK)) return -1;
    int failed = real_unlink(path);
    if (!failed) record(IO_SHIM_UNLINK, path, NULL, NULL, 0, 0, 0, 0);
    return failed;
}

int unlinkat(int dir_fd, const char *name, int flags)
{
    char path[PATH_MAX];
    find_unlinkat();
    at_path(dir_fd, name, path);
    if (!ours(path)) return real_unlinkat(dir_fd, name, flags);
    if (decide(IO_SHIM_UNLINK)) return -1;
    int failed = real_unlinkat(dir_fd, name, flags);
    if (!failed) record(IO_SHIM_UNLINK, path, NULL, NULL, 0, 0, (flags & AT_REMOVEDIR) != 0, 0);
    return failed;
}

int rmdir(const char *path)
{
    find_rmdir();
    if (!ours(path)) return real_rmdir(path);
    if (decide(IO_SHIM_UNLINK)) return -1;
    int failed = real_rmdir(path);
    if (!failed) record(IO_SHIM_UNLINK, path, NULL, NULL, 0, 0, 1, 0);
    return failed;
}
