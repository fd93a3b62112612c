/* Save on layout P, load on Q, for every pair of DDP, FSDP and HSDP layouts of 1 to 4 ranks and random uneven
 * shapes, some parameters frozen: every element of every slot comes back with its bits, padding stays 0.
 * Driven by test_ckpt_layouts.sh, which starts this program once per rank count to write and once to read:
 * test_ckpt_layouts write|read DIR. */
#include "ckpt_test.h"

#include <string.h>
#include <sys/stat.h>

enum { SHAPES = 4, MOST = 4 };

static const char *mode, *root;

static int64_t draw(int shape, int what, int64_t from, int64_t to)
{
    return from + (int64_t)(am_random_u64(31, (uint64_t)shape, (uint64_t)what) % (uint64_t)(to - from + 1));
}

/* Sizes with nothing in common with 256 or the rank counts; shape 0 is one that leaves ranks without a share
 * of a layer. */
static pt_shape random_shape(int i)
{
    pt_shape s = pt_default_shape();
    s.rows = 1;
    s.seq = 8;
    s.K = draw(i, 1, 1, 3);
    s.H = s.K * draw(i, 2, 1, 3);
    s.d = 2 * draw(i, 3, 1, 5);
    s.D = draw(i, 4, 3, 37);
    s.F = draw(i, 5, 5, 61);
    s.V = draw(i, 6, 11, 131);
    s.layers = (int)draw(i, 7, 1, 3);
    s.tied = i % 2;
    s.bias = i / 2 % 2;
    s.sandwich = i == 3;
    if (i == 0) s.D = 3, s.F = 5, s.H = s.K = 1, s.d = 2;
    return s;
}

static const char *frozen_of(int i)
{
    static const char *const pattern[SHAPES] = {NULL, "*_proj.weight", "embed.*", "layers.0.*"};
    return pattern[i];
}

static const char *dir_of(int64_t ranks, int64_t shards, int shape)
{
    return ct_path("%s/ranks%d_shards%d_shape%d", root, (int)ranks, (int)shards, shape);
}

static void write_one(int64_t shards, int64_t ranks, int shape)
{
    pt_run r;
    pt_shape s = random_shape(shape);
    int64_t bytes = 0;
    ct_run(&r, &s, shards, ranks / shards, frozen_of(shape), ct_comm);
    am_ckpt *k = ct_ckpt(&r, dir_of(ranks, shards, shape), 0, shape % 2);
    ct_save(&r, k, shape + 1);
    PT_OK(am_comm_sum(ct_comm, am_ckpt_staging_bytes(r.program[0]), &bytes));
    assert_int_equal(bytes,
                     am_ckpt_total_bytes(r.program[0])); /* replicas share the work, padding is not written */
    am_ckpt_free(&k);
    pt_free(&r);
}

static void read_all(int64_t shards, int64_t ranks, int shape)
{
    pt_run r;
    pt_shape s = random_shape(shape);
    ct_run(&r, &s, shards, ranks / shards, frozen_of(shape), ct_comm);
    for (int64_t p = 1; p <= MOST; p++)
        for (int64_t q = 1; q <= p; q++) {
            if (p % q) continue;
            int64_t step = ct_latest(dir_of(p, q, shape), &r, ct_comm);
            if (step != shape + 1)
                fail_msg("%s: found step %d: %s", dir_of(p, q, shape), (int)step, am_error_message());
        }
    pt_free(&r);
}

static void test_layouts__every_pair(void **state)
{
    int64_t ranks = am_comm_size(ct_comm);
    for (int shape = 0; shape < SHAPES; shape++)
        for (int64_t shards = 1; shards <= ranks; shards++) {
            if (ranks % shards) continue;
            if (strcmp(mode, "write") == 0)
                write_one(shards, ranks, shape);
            else
                read_all(shards, ranks, shape);
        }
}

/* A checkpoint of another model is refused, whatever of it would fit. */
static void test_layouts__another_model(void **state)
{
    static const char *const says[] = {"another shape", "does not hold the parameter",
                                       "which this model does not have", "was frozen when it was saved"};
    int64_t ranks = am_comm_size(ct_comm);
    if (strcmp(mode, "read") != 0) skip();
    for (int i = 0; i < 4; i++) {
        pt_run r;
        am_manifest *m = NULL;
        int of = i == 2 ? 2 : 1; /* shape 2 was written with biases */
        pt_shape s = random_shape(of);
        if (i == 0) s.V -= 1; /* every element asked for is there */
        if (i == 1) s.bias = true;
        if (i == 2) s.bias = false;
        ct_run(&r, &s, ranks, 1, i == 3 ? NULL : frozen_of(of), ct_comm);
        PT_OK(am_manifest_open(ct_path("%s/step_%08d", dir_of(4, 2, of), of + 1), &m));
        assert_int_equal(am_ckpt_load(r.exec, r.program[0], m), AM_ERR_CHECKPOINT);
        ct_error_has(says[i], "step_0000000");
        am_manifest_free(&m);
        pt_free(&r);
    }
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_layouts__every_pair),
        cmocka_unit_test(test_layouts__another_model),
    };
    if (argc != 3) {
        fprintf(stderr, "usage: %s write|read DIR\n", argv[0]);
        return 2;
    }
    mode = argv[1];
    root = argv[2];
    return ct_main("ckpt layouts", tests, sizeof tests / sizeof *tests);
}
