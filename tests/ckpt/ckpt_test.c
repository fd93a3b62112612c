/* ckpt_test.c: see ckpt_test.h. */
#include "ckpt_test.h"

#include <dirent.h>
#include <errno.h>
#include <ftw.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

am_comm *ct_comm, *ct_alone;

enum { MAX_DIRS = 32 };
static char dirs[MAX_DIRS][PATH_MAX];
static int num_dirs;

/* ---- directories ---------------------------------------------------------------------------------- */

static void make_dir(char out[PATH_MAX])
{
    struct statvfs f;
    const char *base = getenv("TMPDIR");
    if (!base)
        base = statvfs("/dev/shm", &f) == 0 && (double)f.f_bavail * (double)f.f_frsize > 4e9 ? "/dev/shm"
                                                                                             : "/tmp";
    snprintf(out, PATH_MAX, "%s/am_ckpt_XXXXXX", base);
    assert_non_null(mkdtemp(out));
}

const char *ct_own_dir(void)
{
    assert_true(num_dirs < MAX_DIRS);
    make_dir(dirs[num_dirs]);
    return dirs[num_dirs++];
}

const char *ct_dir(void)
{
    assert_true(num_dirs < MAX_DIRS);
    char *d = dirs[num_dirs++];
    if (am_comm_rank(ct_comm) == 0) make_dir(d);
    PT_OK(am_comm_bcast(ct_comm, d, PATH_MAX, 0));
    return d;
}

static int remove_entry(const char *path, const struct stat *info, int type, struct FTW *at)
{
    return remove(path);
}

void ct_remove(const char *path)
{
    (void)nftw(path, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
}

bool ct_exists(const char *path)
{
    struct stat info;
    return lstat(path, &info) == 0;
}

int ct_count(const char *dir)
{
    DIR *d = opendir(dir);
    int n = 0;
    if (!d) return -1;
    for (struct dirent *x; (x = readdir(d));) n += x->d_name[0] != '.';
    closedir(d);
    return n;
}

const char *ct_path(const char *fmt, ...)
{
    static char buffer[8][PATH_MAX];
    static int next;
    char *s = buffer[next++ % 8];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(s, PATH_MAX, fmt, ap);
    va_end(ap);
    return s;
}

char *ct_read(const char *path, size_t *n)
{
    char *data = NULL;
    PT_OK(am_file_read(path, 1u << 30, &data, n));
    return data;
}

void ct_write(const char *path, const void *data, size_t n)
{
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(data, 1, n, f), n);
    assert_int_equal(fclose(f), 0);
}

void ct_copy(const char *from, const char *to)
{
    size_t n = 0;
    char *data = ct_read(from, &n);
    ct_write(to, data, n);
    free(data);
}

void ct_copy_dir(const char *from, const char *to)
{
    DIR *d = opendir(from);
    assert_non_null(d);
    assert_int_equal(mkdir(to, 0777), 0);
    for (struct dirent *x; (x = readdir(d));)
        if (x->d_name[0] != '.') ct_copy(ct_path("%s/%s", from, x->d_name), ct_path("%s/%s", to, x->d_name));
    closedir(d);
}

void ct_error_has(const char *a, const char *b)
{
    const char *said = am_error_message();
    if (!strstr(said, a) || !strstr(said, b)) fail_msg("'%s' names not both of '%s' and '%s'", said, a, b);
}

/* ---- runs ----------------------------------------------------------------------------------------- */

void ct_run(pt_run *r, const pt_shape *s, int64_t shards, int64_t replicas, const char *frozen, am_comm *comm)
{
    static const char *pattern[1];
    am_program_options o = am_program_defaults(AM_PROGRAM_TRAIN);
    o.mesh.size[AM_MESH_DP_SHARD] = shards;
    o.mesh.size[AM_MESH_DP_REPLICATE] = replicas;
    o.weight_decay = 0.1;
    pattern[0] = frozen;
    o.freeze = pattern;
    o.num_freeze = frozen ? 1 : 0;
    pt_create(r, s, AM_F32, &o, 1, "cpu", comm, NULL);
}

static float wanted(const char *param, int role, int64_t i, uint64_t salt)
{
    uint64_t x = am_random_u64(salt * 4 + (uint64_t)role, am_hash64(param, strlen(param), 7), (uint64_t)i);
    return (float)((double)(x >> 11) * 0x1p-53 - 0.5);
}

/* This rank's shard of a unit in a role, padding 0. */
static float *wanted_shard(const am_program *p, int unit, int role, uint64_t salt)
{
    const am_unit *u = &p->store.unit[unit];
    float *x = calloc((size_t)u->shard_elements, sizeof *x);
    for (int e = 0; e < u->num_entries; e++) {
        const am_unit_entry *y = &u->entry[e];
        for (int64_t i = 0; i < y->count; i++) {
            int64_t at = y->offset + i - u->shard_begin;
            if (at >= 0 && at < u->shard_elements)
                x[at] = wanted(am_graph_param_at(p->graph, y->param)->name, role, i, salt);
        }
    }
    return x;
}

void ct_fill(const pt_run *r, uint64_t salt)
{
    const am_store_layout *s = &r->program[0]->store;
    for (int u = 0; u < s->num_units; u++)
        for (int role = 0; role < (s->unit[u].trainable ? 3 : 1); role++) {
            float *x = wanted_shard(r->program[0], u, role, salt);
            PT_OK(am_exec_write_slot(r->exec, u, role, 0, s->unit[u].shard_elements, x));
            free(x);
        }
}

int64_t ct_different(const pt_run *r, uint64_t salt)
{
    const am_store_layout *s = &r->program[0]->store;
    int64_t bad = 0;
    for (int u = 0; u < s->num_units; u++)
        for (int role = 0; role < (s->unit[u].trainable ? 3 : 1); role++) {
            int64_t n = s->unit[u].shard_elements;
            float *x = wanted_shard(r->program[0], u, role, salt), *y = calloc((size_t)n, sizeof *y);
            PT_OK(am_exec_read_slot(r->exec, u, role, 0, n, y));
            for (int64_t i = 0; i < n; i++) bad += memcmp(&x[i], &y[i], sizeof *x) != 0;
            free(x);
            free(y);
        }
    return bad;
}

char *ct_slots(const pt_run *r, size_t *bytes)
{
    const am_store_layout *s = &r->program[0]->store;
    size_t size = am_dtype_bytes(s->dtype), at = 0;
    char *all = calloc((size_t)s->bytes, 1);
    for (int u = 0; u < s->num_units; u++)
        for (int role = 0; role < (s->unit[u].trainable ? 3 : 1); role++) {
            PT_OK(am_exec_read_slot(r->exec, u, role, 0, s->unit[u].shard_elements, all + at));
            at += (size_t)s->unit[u].shard_elements * size;
        }
    *bytes = at;
    return all;
}

am_ckpt *ct_ckpt(const pt_run *r, const char *dir, int keep, bool async)
{
    am_ckpt *k = NULL;
    am_ckpt_options o = {.dir = dir, .keep = keep, .async = async};
    PT_OK(am_ckpt_create(&o, r->exec, r->program[0], r->comm, &k));
    return k;
}

am_ckpt_state ct_state(int64_t step)
{
    return (am_ckpt_state){.step = step,
                           .samples = 10 * step,
                           .tokens = 1000 * step,
                           .seed = 0xfedcba9876543210u + (uint64_t)step,
                           .data_hash = 0x8000000000000001u,
                           .recipe = "model: {}\n\"quoted\" é\n",
                           .model_dir = "/models/tiny",
                           .family = "llama"};
}

void ct_save(const pt_run *r, am_ckpt *k, int64_t step)
{
    bool failed = true;
    am_ckpt_state s = ct_state(step);
    ct_fill(r, (uint64_t)step);
    PT_OK(am_ckpt_save(k, &s));
    PT_OK(am_ckpt_poll(k, true, &failed));
    if (failed) fail_msg("step %d is not committed: %s", (int)step, am_ckpt_failure(k));
    assert_null(am_ckpt_failure(k));
    assert_false(am_ckpt_busy(k));
}

int64_t ct_latest(const char *dir, const pt_run *r, am_comm *comm)
{
    am_manifest *m = NULL;
    if (am_ckpt_find_latest(dir, comm, &m) != AM_OK) return -2;
    if (!m) return -1;
    am_ckpt_state s = am_manifest_state(m), want = ct_state(s.step);
    assert_int_equal(s.samples, want.samples);
    assert_int_equal(s.tokens, want.tokens);
    assert_true(s.seed == want.seed && s.data_hash == want.data_hash);
    assert_string_equal(s.recipe, want.recipe);
    assert_string_equal(s.model_dir, want.model_dir);
    assert_string_equal(s.family, want.family);
    if (r) {
        ct_fill(r, 999999);
        PT_OK(am_ckpt_load(r->exec, r->program[0], m));
        assert_int_equal(ct_different(r, (uint64_t)s.step), 0);
    }
    am_manifest_free(&m);
    return s.step;
}

/* ---- main ----------------------------------------------------------------------------------------- */

int ct_main(const char *name, const struct CMUnitTest *tests, size_t n)
{
    am_comm_options o = {.timeout_seconds = 40}; /* a rank whose case failed leaves the others waiting */
    umask(022);
    if (am_comm_create(NULL, &o, &ct_comm) != AM_OK || am_comm_create("self", NULL, &ct_alone) != AM_OK) {
        am_error_print(stderr, -1);
        return 1;
    }
    am_log_set_rank(am_comm_rank(ct_comm), NULL);
    int failed = _cmocka_run_group_tests(name, tests, n, NULL, NULL);
    am_status st = failed ? AM_OK : am_comm_barrier(ct_comm);
    for (int i = 0; i < num_dirs; i++) ct_remove(dirs[i]);
    if (failed) am_comm_abort(ct_comm, 1); /* the others may stand in a collective */
    if (st == AM_OK) st = am_comm_free(&ct_alone);
    if (st == AM_OK) st = am_comm_free(&ct_comm);
    return st != AM_OK;
}
