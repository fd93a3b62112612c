/* A save whose calls of the operating system fail, transfer less, or are the last thing that the process
 * does.  tests/faults/io_shim.c stands before libc (LD_PRELOAD); every call of a save is tried in turn.  And
 * a power cut at every moment: what a save did is recorded and replayed keeping only what had been flushed.
 */
#include "ckpt_test.h"

#include "io_shim.h"

#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static io_shim_set_fn shim_set;
static io_shim_count_fn shim_count;
static io_shim_log_fn shim_log;

static pt_run r;

static int setup(void **state)
{
    pt_shape s = pt_default_shape();
    s.rows = 1;
    s.layers = 1;
    s.D = 9;
    ct_run(&r, &s, 1, 1, "*norm*", ct_comm);
    return 0;
}

static int teardown(void **state)
{
    pt_free(&r);
    return 0;
}

static void shim_off(void)
{
    shim_set("", IO_SHIM_OFF, 0, 0, 0);
}

/* Step `from` is committed in `dir`, nothing else is there. */
static am_ckpt *fresh(const char *dir, int64_t from, bool async)
{
    ct_remove(dir);
    am_ckpt *k = ct_ckpt(&r, dir, 1, async);
    ct_save(&r, k, from);
    return k;
}

/* Fill with `salt` and save as step `step`; was it committed? */
static bool try_save(am_ckpt *k, int64_t step, uint64_t salt)
{
    bool failed = true;
    am_ckpt_state s = ct_state(step);
    ct_fill(&r, salt);
    PT_OK(am_ckpt_save(k, &s));
    PT_OK(am_ckpt_poll(k, true, &failed));
    assert_true(failed == (am_ckpt_failure(k) != NULL));
    return !failed;
}

static long calls_of_a_save(const char *dir, unsigned mask, bool async)
{
    am_ckpt *k = fresh(dir, 1, async);
    shim_set(dir, IO_SHIM_COUNT, mask, 0, 0);
    assert_true(try_save(k, 2, 2));
    long n = shim_count();
    shim_off();
    am_ckpt_free(&k);
    return n;
}

/* ---- errors --------------------------------------------------------------------------------------- */

static void fail_at_each(const char *dir, io_shim_mode mode, unsigned mask, int error, bool async)
{
    long n = calls_of_a_save(dir, mask, async), refused = 0;
    assert_true(n >= 2);
    for (long at = 1; at <= n; at++) {
        am_ckpt *k = fresh(dir, 1, async);
        shim_set(dir, mode, mask, error, at);
        bool committed = try_save(k, 2, 2);
        shim_off();
        if (committed) { /* the error met the removal of the old one */
            assert_int_equal(ct_latest(dir, &r, ct_comm), 2);
            assert_non_null(strstr(am_ckpt_last(k), "step_00000002"));
        } else {
            refused++;
            const char *why = am_ckpt_failure(k);
            if (!strstr(why, strerror(error)) || !strstr(why, dir))
                fail_msg("call %ld: '%s' names not file and reason", at, why);
            assert_non_null(strstr(am_ckpt_last(k), "step_00000001"));
            int64_t found =
                ct_latest(dir, &r, ct_comm); /* a manifest that can neither be flushed nor removed is whole */
            if (found != 1) assert_true(found == 2 && mode == IO_SHIM_FAIL_FROM && (mask & IO_SHIM_UNLINK));
            if (!(mask & IO_SHIM_UNLINK))
                assert_false(ct_exists(ct_path("%s/step_00000002", dir))); /* its space is free again */
        }
        ct_save(&r, k, 3); /* the same object goes on */
        assert_int_equal(ct_latest(dir, &r, ct_comm), 3);
        assert_int_equal(ct_count(dir), 1);
        am_ckpt_free(&k);
    }
    assert_true(refused >= n - 8);
}

static void test_faults__no_space(void **state)
{
    const char *dir = ct_path("%s/c", ct_own_dir());
    unsigned mask = IO_SHIM_OPEN | IO_SHIM_MKDIR | IO_SHIM_WRITE | IO_SHIM_RENAME;
    char *d = strdup(dir);
    for (int async = 0; async < 2; async++) {
        fail_at_each(d, IO_SHIM_FAIL, mask, ENOSPC, async);
        fail_at_each(d, IO_SHIM_FAIL_FROM, mask, ENOSPC, async);
    }
    free(d);
}

static void test_faults__input_output_error(void **state)
{
    char *d = strdup(ct_path("%s/c", ct_own_dir()));
    fail_at_each(d, IO_SHIM_FAIL, IO_SHIM_WRITE | IO_SHIM_FSYNC | IO_SHIM_CLOSE, EIO, false);
    fail_at_each(d, IO_SHIM_FAIL, IO_SHIM_ALL, EIO, true);
    fail_at_each(d, IO_SHIM_FAIL_FROM, IO_SHIM_ALL, EIO, false);
    free(d);
}

/* ---- short and interrupted transfers -------------------------------------------------------------- */

/* The file with the save's id blanked. */
static char *without_id(const char *path, const char *id, size_t *n)
{
    char *data = ct_read(path, n), *at = memmem(data, *n, id, strlen(id));
    assert_non_null(at);
    memset(at, '-', strlen(id));
    return data;
}

static void test_faults__short_and_interrupted(void **state)
{
    size_t n = 0, m = 0;
    char *d = strdup(ct_path("%s/c", ct_own_dir()));
    am_ckpt *k = fresh(d, 2, false);
    char *plain = without_id(ct_path("%s/step_00000002/rank-00000.safetensors", d), k->save_id, &n);
    am_ckpt_free(&k);
    ct_remove(d);
    k = ct_ckpt(&r, d, 1, true);
    shim_set(d, IO_SHIM_RAGGED, IO_SHIM_ALL, 0, 0);
    assert_true(try_save(k, 2, 2));
    assert_true(shim_count() > 30);
    shim_off();
    char *ragged = without_id(ct_path("%s/step_00000002/rank-00000.safetensors", d), k->save_id, &m);
    assert_int_equal(n, m);
    assert_memory_equal(plain, ragged, n);
    assert_int_equal(ct_latest(d, &r, ct_comm), 2);
    am_ckpt_free(&k);
    free(plain);
    free(ragged);
    free(d);
}

/* ---- SIGKILL -------------------------------------------------------------------------------------- */

/* The state of a directory whose step 1 was saved with salt 1, and whose next save (of `step`, salt 50) was
 * cut off: true when the next start gets the new one, false for the old one; anything else fails. */
static bool new_one(const char *dir, int64_t step)
{
    am_manifest *m = NULL;
    PT_OK(am_ckpt_find_latest(dir, ct_comm, &m));
    assert_non_null(m);
    int64_t found = am_manifest_state(m).step;
    ct_fill(&r, 12345);
    PT_OK(am_ckpt_load(r.exec, r.program[0], m));
    am_manifest_free(&m);
    bool is_old = ct_different(&r, 1) == 0, is_new = ct_different(&r, 50) == 0;
    if (is_old)
        assert_int_equal(found, 1);
    else if (is_new)
        assert_int_equal(found, step);
    else
        fail_msg("step %d was found, and its contents are neither save's", (int)found);
    return is_new;
}

/* The same step again: the old one is replaced at once. */
static void kill_at_each(const char *dir, int64_t step, bool async)
{
    long at = 1;
    int olds = 0, news = 0;
    for (bool killed = true; killed; at++) {
        int how = 0;
        am_ckpt *k = fresh(dir, 1, async);
        pid_t child = fork();
        if (child == 0) {
            shim_set(dir, IO_SHIM_KILL, IO_SHIM_ALL, 0, at);
            _exit(try_save(k, step, 50) ? 0 : 1);
        }
        assert_int_equal(waitpid(child, &how, 0), child);
        killed = WIFSIGNALED(how);
        if (killed)
            assert_int_equal(WTERMSIG(how), SIGKILL);
        else
            assert_int_equal(how, 0);
        bool is_new = new_one(dir, step);
        if (news || !killed) assert_true(is_new); /* a commit is never taken back */
        if (is_new)
            news++;
        else
            olds++;
        am_ckpt_free(&k);
        k = ct_ckpt(&r, dir, 1, async); /* the next start, in what is left there */
        ct_save(&r, k, 3);
        assert_int_equal(ct_latest(dir, &r, ct_comm), 3);
        assert_int_equal(ct_count(dir), 1);
        am_ckpt_free(&k);
    }
    assert_true(olds > 10 && news >= 3);
}

static void test_faults__killed_at_every_call(void **state)
{
    char *d = strdup(ct_path("%s/c", ct_own_dir()));
    for (int async = 0; async < 2; async++) {
        kill_at_each(d, 2, async);
        kill_at_each(d, 1, async);
    }
    free(d);
}

/* ---- power cut ------------------------------------------------------------------------------------ */

/* A file system of which only what was flushed is sure: names (in the cache, on disk) of nodes, whose data
 * are in the cache or on disk. */
enum { MAX_NODES = 256 };
typedef struct inode {
    bool is_dir;
    char *cached, *flushed;
    size_t num_cached, num_flushed;
} inode;
typedef struct names {
    int node[MAX_NODES];
    char *path[MAX_NODES];
    int n;
} names;
static struct {
    inode at[MAX_NODES];
    int n;
    names cached, flushed;
} fs;

static int find_name(const names *x, const char *path)
{
    for (int i = 0; i < x->n; i++)
        if (strcmp(x->path[i], path) == 0) return i;
    return -1;
}

static void set_name(names *x, const char *path, int node)
{
    int i = find_name(x, path);
    if (i < 0) {
        i = x->n++;
        assert_true(i < MAX_NODES);
        x->path[i] = strdup(path);
    }
    x->node[i] = node;
}

static void drop_name(names *x, const char *path)
{
    int i = find_name(x, path);
    if (i < 0) return;
    free(x->path[i]);
    x->n--;
    x->path[i] = x->path[x->n];
    x->node[i] = x->node[x->n];
}

static bool is_in(const char *path, const char *dir)
{
    size_t n = strlen(dir);
    return strncmp(path, dir, n) == 0 && path[n] == '/' && !strchr(path + n + 1, '/');
}

static int new_node(bool is_dir)
{
    assert_true(fs.n < MAX_NODES);
    fs.at[fs.n] = (inode){.is_dir = is_dir};
    return fs.n++;
}

static void fs_write(inode *x, const char *data, size_t n, size_t offset)
{
    if (offset + n > x->num_cached) {
        x->cached = realloc(x->cached, offset + n);
        memset(x->cached + x->num_cached, 0, offset + n - x->num_cached);
        x->num_cached = offset + n;
    }
    memcpy(x->cached + offset, data, n);
}

static void fs_flush(int at, const char *path)
{
    inode *x = &fs.at[at];
    if (!x->is_dir) {
        free(x->flushed);
        x->flushed = malloc(x->num_cached + 1);
        memcpy(x->flushed, x->cached, x->num_cached);
        x->num_flushed = x->num_cached;
        return;
    }
    for (int i = fs.flushed.n; i-- > 0;)
        if (is_in(fs.flushed.path[i], path) && find_name(&fs.cached, fs.flushed.path[i]) < 0)
            drop_name(&fs.flushed, fs.flushed.path[i]);
    for (int i = 0; i < fs.cached.n; i++)
        if (is_in(fs.cached.path[i], path)) set_name(&fs.flushed, fs.cached.path[i], fs.cached.node[i]);
}

static void fs_reset(void)
{
    for (int i = 0; i < fs.n; i++) {
        free(fs.at[i].cached);
        free(fs.at[i].flushed);
    }
    while (fs.cached.n) drop_name(&fs.cached, fs.cached.path[0]);
    while (fs.flushed.n) drop_name(&fs.flushed, fs.flushed.path[0]);
    fs.n = 0;
}

static void fs_apply(const io_shim_record *x)
{
    int at = find_name(&fs.cached, x->path), node = at < 0 ? -1 : fs.cached.node[at];
    switch (x->op) {
    case IO_SHIM_MKDIR:
        set_name(&fs.cached, x->path, new_node(true));
        break;
    case IO_SHIM_OPEN:
        if (node < 0)
            set_name(&fs.cached, x->path, new_node(false));
        else if (x->truncate)
            fs.at[node].num_cached = 0;
        break;
    case IO_SHIM_WRITE:
        assert_true(node >= 0);
        fs_write(&fs.at[node], x->data, x->size, (size_t)x->offset);
        break;
    case IO_SHIM_FSYNC:
        if (node >= 0) fs_flush(node, x->path);
        break;
    case IO_SHIM_RENAME:
        assert_true(node >= 0);
        set_name(&fs.cached, x->to, node);
        drop_name(&fs.cached, x->path);
        break;
    default:
        drop_name(&fs.cached, x->path);
    }
}

/* The tree as it would be found after the cut.  `names_too`: the disk happened to have got every change of a
 * directory, and of the data still only what was flushed. */
static void fs_after_cut(bool names_too, const char *from, const char *to)
{
    const names *x = names_too ? &fs.cached : &fs.flushed;
    ct_remove(to);
    assert_int_equal(mkdir(to, 0755), 0);
    for (int depth = 1; depth < 6; depth++)
        for (int i = 0; i < x->n; i++) {
            const inode *y = &fs.at[x->node[i]];
            const char *rest = x->path[i] + strlen(from);
            int slashes = 0;
            for (const char *c = rest; *c; c++) slashes += *c == '/';
            if (slashes != depth) continue;
            const char *path = ct_path("%s%s", to, rest),
                       *parent = ct_path("%.*s", (int)(strrchr(path, '/') - path), path);
            if (!ct_exists(parent)) continue; /* the folder's own name was lost */
            if (y->is_dir)
                assert_int_equal(mkdir(path, 0755), 0);
            else
                ct_write(path, y->flushed ? y->flushed : "", y->num_flushed);
        }
}

static void fs_scan(const char *path)
{
    const char *list = ct_path("cd %s && find . -mindepth 1 > %s.list", path, path);
    char line[PATH_MAX];
    struct stat info;
    assert_int_equal(system(list), 0);
    set_name(&fs.cached, path, new_node(true));
    set_name(&fs.flushed, path, 0);
    FILE *f = fopen(ct_path("%s.list", path), "r");
    assert_non_null(f);
    while (fgets(line, sizeof line, f)) {
        line[strcspn(line, "\n")] = '\0';
        const char *whole = ct_path("%s%s", path, line + 1);
        assert_int_equal(lstat(whole, &info), 0);
        int at = new_node(S_ISDIR(info.st_mode));
        if (!S_ISDIR(info.st_mode)) fs.at[at].cached = ct_read(whole, &fs.at[at].num_cached);
        set_name(&fs.cached, whole, at);
        set_name(&fs.flushed, whole, at);
        if (!S_ISDIR(info.st_mode)) fs_flush(at, whole);
    }
    fclose(f);
}

static void cut_at_each(const char *dir, int64_t step)
{
    char *after = strdup(ct_path("%s/after", ct_own_dir()));
    int olds = 0, news = 0;
    long n = 0;
    am_ckpt *k = fresh(dir, 1, true);
    fs_reset();
    fs_scan(dir);
    shim_set(dir, IO_SHIM_RECORD, IO_SHIM_ALL & ~IO_SHIM_CLOSE, 0, 0);
    assert_true(try_save(k, step, 50));
    const io_shim_record *log = shim_log(&n); /* further calls are outside of `dir` */
    assert_true(n > 10);
    for (long i = 0; i <= n; i++) {
        for (int names_too = 0; names_too < 2; names_too++) {
            fs_after_cut(names_too, dir, after);
            bool is_new = new_one(after, step);
            if (i == n) assert_true(is_new); /* the save was reported as committed */
            if (is_new)
                news++;
            else
                olds++;
        }
        if (i < n) fs_apply(&log[i]);
    }
    shim_off();
    assert_true(olds > 10 && news > 1);
    am_ckpt_free(&k);
    fs_reset();
    free(after);
}

static void test_faults__power_cut_at_every_call(void **state)
{
    char *d = strdup(ct_path("%s/c", ct_own_dir()));
    cut_at_each(d, 2);
    cut_at_each(d, 1);
    free(d);
}

static bool find_shim(void)
{
    void *set = dlsym(RTLD_DEFAULT, "io_shim_set"), *count = dlsym(RTLD_DEFAULT, "io_shim_count"),
         *log = dlsym(RTLD_DEFAULT, "io_shim_log");
    memcpy(&shim_set, &set, sizeof set);
    memcpy(&shim_count, &count, sizeof count);
    memcpy(&shim_log, &log, sizeof log);
    return set && count && log;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_faults__no_space, setup),
        cmocka_unit_test(test_faults__input_output_error),
        cmocka_unit_test(test_faults__short_and_interrupted),
        cmocka_unit_test(test_faults__killed_at_every_call),
        cmocka_unit_test_teardown(test_faults__power_cut_at_every_call, teardown),
    };
    if (!find_shim()) {
        printf("skipped: start this test with LD_PRELOAD=libio_shim.so\n");
        return 77;
    }
    return ct_main("ckpt faults", tests, sizeof tests / sizeof *tests);
}
