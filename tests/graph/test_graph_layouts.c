/* One model, one global batch, every layout of the ranks this test is started with.
 *   - against the same batch on one rank (fp64, so that only a wrong sum can show): losses and weights within
 * 1e-11;
 *   - DDP = FSDP, overlap, resharding, recompute, order of issue, GPipe order, the guarded device: the same
 * bits (fp32 and bf16);
 *   - messages and bytes counted by comm = the sums over the program, exactly. */
#include "program_test.h"

#include "graph/graph_internal.h"

#include <math.h>
#include <string.h>

static am_comm *comm, *alone;

enum { STEPS = 3 };

typedef struct outcome {
    double loss[STEPS];
    double *weights;
    int64_t n;
} outcome;

static outcome run(const am_program_options *o, am_comm *c, am_dtype compute, const char *device,
                   const am_exec_options *x)
{
    pt_run r;
    pt_shape s = pt_default_shape();
    outcome out = {0};
    s.rows = 1;
    pt_create(&r, &s, compute, o, 1, device, c, x);
    am_comm_counters before = am_comm_count(c);
    for (int i = 0; i < STEPS; i++) out.loss[i] = pt_step(&r, 0, i, 1e-2, 0.5);
    am_comm_counters after = am_comm_count(c);
    assert_int_equal(after.messages - before.messages, STEPS * r.program[0]->messages);
    assert_int_equal(after.bytes - before.bytes, STEPS * r.program[0]->message_bytes);
    for (int p = 0; p < am_graph_num_params(r.program[0]->graph); p++) {
        int64_t n;
        double *w = pt_gather_param(&r, 0, p, 0, &n);
        out.weights = realloc(out.weights, (size_t)(out.n + n) * sizeof *w);
        memcpy(out.weights + out.n, w, (size_t)n * sizeof *w);
        out.n += n;
        free(w);
    }
    pt_free(&r);
    return out;
}

static am_program_options layout(int64_t shards, int64_t replicas, int micro)
{
    am_program_options o = am_program_defaults(AM_PROGRAM_TRAIN);
    o.mesh.size[AM_MESH_DP_SHARD] = shards;
    o.mesh.size[AM_MESH_DP_REPLICATE] = replicas;
    o.micro_batches = micro;
    o.weight_decay = 0.1;
    return o;
}

static void same_bits(const outcome *a, outcome b, const char *what)
{
    for (int i = 0; i < STEPS; i++)
        if (a->loss[i] != b.loss[i])
            fail_msg("%s: loss of step %d is %.17g, not %.17g", what, i, b.loss[i], a->loss[i]);
    assert_int_equal(a->n, b.n);
    if (memcmp(a->weights, b.weights, (size_t)b.n * sizeof *b.weights) != 0)
        fail_msg("%s: weights differ", what);
    free(b.weights);
}

static void close_to(const outcome *a, outcome b, double tolerance, const char *what)
{
    double diff = 0, norm = 0;
    for (int i = 0; i < STEPS; i++)
        if (!(fabs(a->loss[i] - b.loss[i]) <= tolerance * fabs(a->loss[i])))
            fail_msg("%s: loss of step %d is %.17g, not %.17g", what, i, b.loss[i], a->loss[i]);
    for (int64_t i = 0; i < b.n; i++) {
        diff += (a->weights[i] - b.weights[i]) * (a->weights[i] - b.weights[i]);
        norm += a->weights[i] * a->weights[i];
    }
    if (!(sqrt(diff / norm) <= tolerance)) fail_msg("%s: weights differ by %.3g", what, sqrt(diff / norm));
    free(b.weights);
}

/* AdamW's first step divides a gradient by its own size, which magnifies rounding where a gradient is nearly
 * 0: eps 1e-3 keeps the update a smooth function, so that 1e-11 is 1e4 roundings of fp64. */
static void test_layouts__equal_to_one_rank(void **state)
{
    int P = am_comm_size(comm);
    for (int micro = 1; micro <= 2; micro++) {
        am_program_options one = layout(1, 1, P * micro);
        one.eps = 1e-3;
        outcome whole = run(&one, alone, AM_F64, "cpu", NULL);
        for (int shards = 1; shards <= P; shards++) {
            if (P % shards) continue;
            am_program_options o = layout(shards, P / shards, micro);
            o.eps = 1e-3;
            close_to(&whole, run(&o, comm, AM_F64, "cpu", NULL), 1e-11, "layout against one rank");
            o.defer_sync = false;
            o.recompute = AM_RECOMPUTE_FULL;
            close_to(&whole, run(&o, comm, AM_F64, "cpu", NULL), 1e-11, "reduced every micro-batch");
        }
        free(whole.weights);
    }
}

static void variants(am_dtype compute, int micro)
{
    int P = am_comm_size(comm);
    am_program_options ddp = layout(1, P, micro), fsdp = layout(P, 1, micro), o;
    outcome base = run(&fsdp, comm, compute, "cpu", NULL);
    same_bits(&base, run(&fsdp, comm, compute, "cpu", NULL), "the same run twice");
    same_bits(&base, run(&ddp, comm, compute, "cpu", NULL), "DDP");
    o = fsdp, o.overlap = false;
    same_bits(&base, run(&o, comm, compute, "cpu", NULL), "overlap off");
    o = fsdp, o.reshard = false;
    same_bits(&base, run(&o, comm, compute, "cpu", NULL), "weights kept");
    o = fsdp, o.recompute = AM_RECOMPUTE_FULL;
    same_bits(&base, run(&o, comm, compute, "cpu", NULL), "recompute");
    o.recompute = AM_RECOMPUTE_SELECTIVE;
    same_bits(&base, run(&o, comm, compute, "cpu", NULL), "selective recompute");
    o.fuse = false; /* an activation and its product with something else are a chain of two */
    am_program_options plain = fsdp;
    plain.fuse = false;
    outcome unfused = run(&plain, comm, compute, "cpu", NULL);
    same_bits(&unfused, run(&o, comm, compute, "cpu", NULL), "selective recompute of a chain");
    o.gpipe = o.split_w = plain.gpipe = plain.split_w = true;
    outcome apart = run(&plain, comm, compute, "cpu", NULL);
    same_bits(&apart, run(&o, comm, compute, "cpu", NULL), "selective recompute, W apart");
    free(unfused.weights);
    free(apart.weights);
    o = fsdp, o.gpipe = true;
    same_bits(&base, run(&o, comm, compute, "cpu", NULL), "GPipe order");
    o = fsdp, o.gpipe = o.split_w = true;
    same_bits(&base, run(&o, comm, compute, "cpu", NULL), "GPipe order, W apart");
    same_bits(&base, run(&fsdp, comm, compute, "guarded", NULL), "guarded device");
    for (uint64_t seed = 1; seed <= 3; seed++) {
        am_exec_options x = {.shuffle_seed = seed, .poison = true};
        same_bits(&base, run(&fsdp, comm, compute, "cpu", &x), "another legal order, dead memory poisoned");
        same_bits(&base, run(&ddp, comm, compute, "cpu", &x),
                  "DDP, another legal order, dead memory poisoned");
    }
    free(base.weights);
}

static void test_layouts__same_bits_fp32(void **state)
{
    variants(AM_F32, 1);
    variants(AM_F32, 2);
}
static void test_layouts__same_bits_bf16(void **state)
{
    variants(AM_BF16, 2);
}

static void test_layouts__hsdp(void **state)
{
    if (am_comm_size(comm) != 4) {
        print_message("skipped: HSDP 2x2 needs 4 ranks\n");
        skip();
    }
    am_program_options hsdp = layout(2, 2, 2), fsdp = layout(4, 1, 2), o;
    hsdp.eps = fsdp.eps = 1e-3;
    outcome base = run(&hsdp, comm, AM_F32, "cpu", NULL), flat = run(&fsdp, comm, AM_F32, "cpu", NULL);
    close_to(&flat, base, 1e-5, "HSDP 2x2 against FSDP 4");
    base = run(&hsdp, comm, AM_F32, "cpu", NULL);
    o = hsdp, o.overlap = false;
    same_bits(&base, run(&o, comm, AM_F32, "cpu", NULL), "HSDP, overlap off");
    am_exec_options x = {.shuffle_seed = 5, .poison = true};
    same_bits(&base, run(&hsdp, comm, AM_F32, "cpu", &x), "HSDP, another legal order");
    free(base.weights);
    free(flat.weights);
}

static int64_t frame_bytes(const pt_shape *s, am_recompute recompute, int64_t *flops)
{
    am_program_options o = am_program_defaults(AM_PROGRAM_TRAIN);
    am_graph *g = pt_graph(s, AM_BF16);
    am_program *p = NULL;
    o.recompute = recompute;
    PT_OK(am_program_compile(&g, &o, &p));
    int64_t bytes = p->region_bytes[AM_REGION_FRAME];
    *flops = p->flops;
    am_program_free(&p);
    return bytes;
}

/* Not kept: two norms and one gated activation a layer, [N, D] and [N, F] in bf16, each rounded up to 64 bytes. */
static void test_layouts__selective_recompute_keeps_less(void **state)
{
    pt_shape s = pt_default_shape();
    s.rows = 4, s.seq = 32;
    int64_t N = s.rows * s.seq, none_flops, flops;
    int64_t saved = s.layers * (2 * (N * s.D * 2) + N * s.F * 2);
    int64_t none = frame_bytes(&s, AM_RECOMPUTE_NONE, &none_flops), selective = frame_bytes(&s, AM_RECOMPUTE_SELECTIVE, &flops);
    assert_int_equal(N * s.D * 2 % 64 + N * s.F * 2 % 64, 0);
    assert_int_equal(none - selective, saved);
    assert_int_equal(flops, none_flops); /* no product is run again */
    assert_true(frame_bytes(&s, AM_RECOMPUTE_FULL, &flops) < selective);
    assert_true(flops > none_flops);
}

/* A wait taken out is found by the checker. */
static void test_layouts__checker_finds_missing_wait(void **state)
{
    pt_shape s = pt_default_shape();
    am_program_options o = layout(2, 1, 1);
    am_program *p = NULL;
    am_graph *g = pt_graph(&s, AM_F32);
    int found = 0, waits = 0;
    PT_OK(am_program_compile(&g, &o, &p));
    PT_OK(am_program_check(p));
    for (int k = 0; k < p->num_segments; k++)
        for (int i = 0; i < p->segment[k].num_ops; i++) {
            am_prog_op *op = &p->segment[k].op[i];
            for (int w = 0; w < op->num_waits; w++) {
                if (p->segment[k].op[op->wait[w]].queue == AM_QUEUE_COMPUTE) continue;
                int kept = op->wait[w];
                op->wait[w] = op->wait[op->num_waits - 1];
                op->num_waits--;
                waits++;
                found += am_program_check(p) == AM_ERR_INTERNAL;
                op->num_waits++;
                op->wait[w] = kept;
                w = op->num_waits; /* order of the list has changed; one a operator is enough */
            }
        }
    am_error_clear();
    assert_true(waits > 10);
    assert_int_equal(found, waits);
    am_program_free(&p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_layouts__equal_to_one_rank),
        cmocka_unit_test(test_layouts__same_bits_fp32),
        cmocka_unit_test(test_layouts__same_bits_bf16),
        cmocka_unit_test(test_layouts__hsdp),
        cmocka_unit_test(test_layouts__selective_recompute_keeps_less),
        cmocka_unit_test(test_layouts__checker_finds_missing_wait),
    };
    am_comm_options options = {.max_requests = 512};
    if (am_comm_create(NULL, &options, &comm) != AM_OK || am_comm_create("self", &options, &alone) != AM_OK)
        return 1;
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    if (am_comm_free(&comm) != AM_OK || am_comm_free(&alone) != AM_OK) return 1;
    return failed;
}
