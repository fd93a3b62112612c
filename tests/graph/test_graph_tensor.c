/* Tensor parallelism: the same model and batch on one rank and cut over several.
 *   - losses and the clipped gradient norm of three steps of AdamW against one rank (fp64, so that only a wrong sum can show), for
 *     ranks that divide the heads and ranks that do not, beside data parallelism, with accumulation and recomputation;
 *   - what is added up over the ranks in a step, counted from the algorithm (Shoeybi et al. 2019: two sums a layer forward, two
 *     backward) and by comm;
 *   - a 70B model's share a rank from its config.json alone;
 *   - what stays whole, and why. */
#include "program_test.h"

#include "graph/graph_internal.h"
#include "graph/model.h"

#include <math.h>
#include <string.h>

static am_comm *comm, *alone;

enum { STEPS = 3, LAYERS = 2 };

/* Norms of heads, whose weight every rank reads for its heads; biases on both sides of a cut; a tied head. */
static const char card[] = "family made_up\n"
                           "config:\n"
                           "  D = hidden_size\n"
                           "  heads H = heads\n"
                           "  kv_heads K = kv_heads\n"
                           "  d = 8\n"
                           "  ffn F = ffn\n"
                           "  vocab V = vocab_size\n"
                           "  R = rope_table(d, theta = 10000)\n"
                           "  whole = whole_rows\n"
                           "model:\n"
                           "  x = embed(ids, e : D)\n"
                           "  for i < 2 at l.{i}:\n"
                           "    x = x + attn(rmsnorm(x, .n1, 1e-5), .a)\n"
                           "    x = x + mlp(rmsnorm(x, .n2, 1e-5), .m)\n"
                           "  logits = linear(rmsnorm(x, n, 1e-5), e : V)\n"
                           "def attn(h, name P):\n"
                           "  q = linear(h, P.q : H d, bias = true)\n"
                           "  q = rmsnorm(q, P.qn : H d, 1e-5) if whole else rmsnorm(q, P.qn, 1e-5)\n"
                           "  k = rmsnorm(linear(h, P.k : K d, bias = true), P.kn, 1e-5)\n"
                           "  v = linear(h, P.v : K d)\n"
                           "  return linear(attention(rope(q, R), rope(k, R), v), P.o : D, bias = true)\n"
                           "def mlp(h, name P):\n"
                           "  return linear(silu(linear(h, P.g : F)) * linear(h, P.u : F), P.d : D, bias = true)\n";

static pt_shape shape(int heads, int kv_heads, bool whole_rows, char *config, size_t size)
{
    pt_shape s = pt_default_shape();
    snprintf(config, size,
             "{\"model_type\": \"made_up\", \"hidden_size\": 24, \"heads\": %d, \"kv_heads\": %d, \"ffn\": 40, \"vocab_size\": 61,"
             " \"whole_rows\": %s}",
             heads, kv_heads, whole_rows ? "true" : "false");
    s.rows = 1;
    s.card = card;
    s.config = config;
    return s;
}

typedef struct outcome {
    double loss[STEPS + 1], norm[STEPS];
} outcome;

static am_program_options layout(int64_t tp, int64_t shards, int64_t replicas, int micro)
{
    am_program_options o = am_program_defaults(AM_PROGRAM_TRAIN);
    o.mesh.size[AM_MESH_TP] = tp;
    o.mesh.size[AM_MESH_DP_SHARD] = shards;
    o.mesh.size[AM_MESH_DP_REPLICATE] = replicas;
    o.micro_batches = micro;
    o.weight_decay = 0.1;
    o.eps = 1e-3; /* a smooth update: see test_graph_layouts */
    return o;
}

static outcome run(const pt_shape *s, const am_program_options *o, am_comm *c, am_dtype compute)
{
    pt_run r;
    outcome out;
    pt_create(&r, s, compute, o, 1, "cpu", c, NULL);
    am_comm_counters before = am_comm_count(c);
    for (int i = 0; i < STEPS; i++) {
        out.loss[i] = pt_step(&r, 0, i, 1e-2, 0.5);
        PT_OK(am_exec_get_scalar(r.exec, AM_SCALAR_GRAD_NORM, &out.norm[i]));
    }
    am_comm_counters after = am_comm_count(c);
    assert_int_equal(after.messages - before.messages, STEPS * r.program[0]->messages);
    assert_int_equal(after.bytes - before.bytes, STEPS * r.program[0]->message_bytes);
    out.loss[STEPS] = pt_step(&r, 0, STEPS, 0, 0.5);
    pt_free(&r);
    return out;
}

static void close_to(const outcome *a, outcome b, double tolerance, const char *what)
{
    for (int i = 0; i <= STEPS; i++)
        if (!(fabs(a->loss[i] - b.loss[i]) <= tolerance * fabs(a->loss[i])))
            fail_msg("%s: loss of step %d is %.17g, not %.17g", what, i, b.loss[i], a->loss[i]);
    for (int i = 0; i < STEPS; i++)
        if (!(fabs(a->norm[i] - b.norm[i]) <= tolerance * a->norm[i]))
            fail_msg("%s: the gradient's norm in step %d is %.17g, not %.17g", what, i, b.norm[i], a->norm[i]);
}

/* tp × others = the ranks of this test, for every tp that divides them. */
static void equal_to_one_rank(int heads, int kv_heads)
{
    const int P = am_comm_size(comm);
    char config[256];
    pt_shape s = shape(heads, kv_heads, false, config, sizeof config);
    for (int tp = 1; tp <= P; tp++) {
        if (P % tp) continue;
        const int dp = P / tp;
        for (int micro = 1; micro <= 2; micro++) {
            am_program_options one = layout(1, 1, 1, dp * micro), o = layout(tp, dp, 1, micro);
            outcome whole = run(&s, &one, alone, AM_F64);
            close_to(&whole, run(&s, &o, comm, AM_F64), 1e-11, "fsdp");
            o.defer_sync = false;
            o.recompute = AM_RECOMPUTE_FULL;
            close_to(&whole, run(&s, &o, comm, AM_F64), 1e-11, "fsdp, reduced every micro-batch, recomputed");
            o = layout(tp, 1, dp, micro);
            o.split_w = true;
            o.overlap = false;
            close_to(&whole, run(&s, &o, comm, AM_F64), 1e-11, "ddp, weight gradients apart");
        }
    }
}

static void test_tensor__equal_to_one_rank(void **state)
{
    equal_to_one_rank(6, 6); /* no groups */
}
static void test_tensor__uneven_groups(void **state)
{
    equal_to_one_rank(9, 3); /* over 2: 6 and 3 heads; over 4: every rank has all kv heads */
}

/* bf16 adds rounded summands: within a few of its roundings. */
static void test_tensor__bf16(void **state)
{
    const int P = am_comm_size(comm);
    char config[256];
    pt_shape s = shape(6, 6, false, config, sizeof config);
    am_program_options one = layout(1, 1, 1, 1), o = layout(P, 1, 1, 1);
    outcome whole = run(&s, &one, alone, AM_BF16);
    close_to(&whole, run(&s, &o, comm, AM_BF16), 0.02, "bf16");
    outcome first = run(&s, &o, comm, AM_BF16), again = run(&s, &o, comm, AM_BF16);
    assert_memory_equal(&first, &again, sizeof first);
}

static am_program *compile(const am_model *m, const pt_shape *s, int64_t tp, int64_t rank)
{
    am_graph *g = NULL;
    am_program *p = NULL;
    am_program_options o = layout(tp, 1, 1, 1);
    o.rank = rank;
    if (m)
        PT_OK(am_model_graph(m, 1, 4096, AM_BF16, &g));
    else
        g = pt_graph(s, AM_BF16);
    PT_OK(am_program_compile(&g, &o, &p));
    PT_OK(am_program_check(p));
    return p;
}

/* Two sums forward and two backward a layer, of an activation each; besides those the gradients of norms of heads and of the biases
 * behind a sum (qn, kn: d; o.bias, d.bias: D), in float32, and the sums of squares. */
static void test_tensor__sums_of_a_step(void **state)
{
    char config[256];
    pt_shape s = shape(6, 6, false, config, sizeof config);
    am_program *p = compile(NULL, &s, 2, 1);
    const int64_t activation = s.rows * s.seq * 24 * 2, small = (8 + 8 + 24 + 24) * 4;
    int64_t bytes = 0, large = 0;
    for (int k = 0; k < p->num_segments; k++)
        for (int i = 0; i < p->segment[k].num_ops; i++) {
            const am_prog_op *op = &p->segment[k].op[i];
            if (op->group != 1u << AM_MESH_TP) continue;
            bytes += op->piece_bytes;
            large += op->piece_bytes == activation;
        }
    assert_int_equal(large, 4 * LAYERS);
    assert_int_equal(bytes, LAYERS * (4 * activation + small));
    am_program_free(&p);
}

static void test_tensor__70b_over_8(void **state)
{
    char path[512];
    const char *source = getenv("AM_SOURCE_DIR");
    am_model *m = NULL;
    snprintf(path, sizeof path, "%s/configs/llama3_70b/config.json", source ? source : ".");
    PT_OK(am_model_open(path, AM_HF_WEIGHTS_NONE, NULL, NULL, 0, &m));
    /* 80 layers of D = 8192: q, o: D², k, v: D²/8, three of D × 28672; whole: embedding and head of 128256 × D, 161 norms of D */
    const int64_t D = 8192, layer = 2 * D * D + 2 * D * D / 8 + 3 * D * 28672, whole = 2 * 128256 * D + 161 * D;
    for (int64_t rank = 0; rank < 8; rank += 7) {
        am_program *p = compile(m, NULL, 8, rank);
        int64_t here = 0;
        for (int i = 0; i < am_graph_num_params(p->graph); i++) here += am_param_elements(am_graph_param_at(p->graph, i));
        assert_int_equal(here, 80 * layer / 8 + whole);
        assert_int_equal(p->store.bytes, 12 * here); /* every size is a multiple of 256 */
        am_program_free(&p);
    }
    am_model_free(&m);
}

static const char *why_whole(const am_program *p, const char *name, int64_t *rows)
{
    for (int i = 0; i < am_graph_num_params(p->graph); i++) {
        const am_param *x = am_graph_param_at(p->graph, i);
        if (strcmp(x->name, name) != 0) continue;
        *rows = x->dim[0];
        return x->why_whole;
    }
    fail_msg("no parameter %s", name);
    return NULL;
}

/* A norm over all heads: attention stays whole and says so, the feed-forward layer is cut. */
static void test_tensor__what_stays_whole(void **state)
{
    char config[256];
    int64_t rows;
    pt_shape s = shape(6, 6, true, config, sizeof config);
    am_program *p = compile(NULL, &s, 2, 0);
    assert_string_equal(why_whole(p, "l.0.a.q.weight", &rows), "rmsnorm (line 19 of the card) needs all of H d");
    assert_int_equal(rows, 48);
    assert_non_null(why_whole(p, "l.1.a.v.weight", &rows));
    assert_null(why_whole(p, "l.1.m.g.weight", &rows));
    assert_int_equal(rows, 20);
    am_program_free(&p);
    s = shape(6, 2, false, config, sizeof config);
    p = compile(NULL, &s, 4, 3);
    assert_string_equal(why_whole(p, "l.0.a.k.weight", &rows), "K = 2 is too few for 4 ranks");
    assert_int_equal(rows, 16);
    assert_null(why_whole(p, "l.0.a.q.weight", &rows)); /* 2, 2, 1 and 1 heads */
    assert_int_equal(rows, 8);
    am_program_free(&p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_tensor__equal_to_one_rank), cmocka_unit_test(test_tensor__uneven_groups),
        cmocka_unit_test(test_tensor__bf16),              cmocka_unit_test(test_tensor__sums_of_a_step),
        cmocka_unit_test(test_tensor__70b_over_8),        cmocka_unit_test(test_tensor__what_stays_whole),
    };
    am_comm_options options = {.max_requests = 512};
    if (am_comm_create(NULL, &options, &comm) != AM_OK || am_comm_create("self", &options, &alone) != AM_OK) return 1;
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    if (am_comm_free(&comm) != AM_OK || am_comm_free(&alone) != AM_OK) return 1;
    return failed;
}
