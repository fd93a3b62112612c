/* WALLS 24: randomness is a function of (seed, step, operator, GLOBAL element).  A dropout operator that src does
 * not know is registered here and stands inside every layer, where recompute has to run it again; its mask is
 * Philox with counter (token in the global batch, feature, step, operator) and the seed as key.  The operator's
 * number comes from its place in the card (layer, line, column) and travels in attrs.index, which recompute's
 * clones and the gradient keep.
 *   - recompute on or off, frames, order of issue: the same bits;
 *   - 2 ranks = 1 rank within rounding (fp64, 1e-11);
 *   - gradients agree with difference quotients through the same masks;
 *   - seed, step and layer each change the mask. */
#include "../graph/program_test.h"

#include "graph/autodiff.h"
#include "graph/graph_internal.h"

#include <math.h>
#include <string.h>

static const double KEEP = 0.75;
static am_comm *comm, *alone;

/* ---- the operator ----------------------------------------------------------------------------------- */

static bool kept(const double *scalars, int64_t op, int32_t token, int64_t feature)
{
    uint32_t key[2] = {(uint32_t)scalars[AM_SCALAR_SEED], 0}, out[4];
    uint32_t counter[4] = {(uint32_t)token, (uint32_t)feature, (uint32_t)scalars[AM_SCALAR_STEP],
                           (uint32_t)op};
    am_philox4x32(counter, key, out);
    return out[0] < KEEP * 0x1p32;
}

/* x [N, D], token i32[N], scalars → x or 0, by 1/KEEP; its gradient is the same function of dy. */
#define DROPOUT(name, type, load, store)                                                                     \
    static am_status name(const am_kernel_call *c)                                                           \
    {                                                                                                        \
        const type *x = c->in[0].data;                                                                       \
        const int32_t *token = c->in[1].data;                                                                \
        type *y = c->out[0].data;                                                                            \
        int64_t width = c->in[0].dim[1];                                                                     \
        for (int64_t i = 0; i < am_tensor_elements(&c->in[0]); i++)                                          \
            y[i] = kept(c->in[2].data, c->attrs->index, token[i / width], i % width)                         \
                       ? store((type)0 + load(x[i]) / KEEP)                                                  \
                       : store(0.0);                                                                         \
        return AM_OK;                                                                                        \
    }
#define PLAIN(x)   (x)
#define TO_F32(x)  (float)(x)
#define TO_BF16(x) am_f32_to_bf16((float)(x))
DROPOUT(dropout_f64, double, PLAIN, PLAIN)
DROPOUT(dropout_f32, float, PLAIN, TO_F32)
DROPOUT(dropout_bf16, uint16_t, am_bf16_to_f32, TO_BF16)

static am_status like_x(am_graph *g, am_node *n)
{
    am_value x = g->values[n->in[0]];
    n->num_out = 1;
    return n->out[0] >= 0 ? AM_OK : am_graph_value(g, "dropout", x.dtype, x.rank, x.dim, &n->out[0]);
}

/* The card writes dropout(x); where randomness comes from is added here. */
static am_status dropout_infer(am_graph *g, am_node *n)
{
    am_status st = AM_OK;
    int64_t place[3] = {n->layer, n->line, n->column};
    AM_TRY(am_graph_input(g, "token", &n->in[1]));
    AM_TRY(am_graph_scalars(g, &n->in[2]));
    n->num_in = 3;
    n->attrs.index = (int64_t)(am_hash64(place, sizeof place, 0) >> 1);
    AM_TRY(like_x(g, n));
done:
    return st;
}

#define KERNELS(n)                                                                                           \
    {                                                                                                        \
        .name = n, .f64 = dropout_f64, .f32 = dropout_f32, .bf16 = dropout_bf16                              \
    }
static const am_op_def dropout_bwd = {.name = "test_dropout_bwd",
                                      .view_in = {AM_VIEW_LAST},
                                      .view_out = {AM_VIEW_LAST},
                                      .infer = like_x,
                                      .own_kernel = KERNELS("test_dropout_bwd")};

static am_status dropout_vjp(am_autodiff *ad, const am_node *n)
{
    am_status st = AM_OK;
    int dy = -1, dx = -1;
    am_node forward = *n; /* emitting moves the graph's nodes */
    AM_TRY(am_graph_register_op(am_ad_graph(ad), &dropout_bwd));
    AM_TRY(am_ad_grad(ad, forward.out[0], &dy));
    AM_TRY(am_ad_emit(ad, "test_dropout_bwd", (int[]){dy, forward.in[1], forward.in[2]}, 3, &forward.attrs,
                      AM_ACC_NO, &dx, 1));
    AM_TRY(am_ad_contribute(ad, forward.in[0], dx));
done:
    return st;
}
static const am_op_def dropout = {.name = "test_dropout",
                                  .view_in = {AM_VIEW_LAST},
                                  .view_out = {AM_VIEW_LAST},
                                  .infer = dropout_infer,
                                  .vjp = dropout_vjp,
                                  .own_kernel = KERNELS("test_dropout")};

/* ---- a model: x + W2 silu(dropout(W1 norm(x))), three layers ---------------------------------------- */

static int param(am_graph *g, const char *name, int layer, int64_t rows, int64_t columns)
{
    am_param p = {.rank = columns ? 2 : 1, .dim = {rows, columns}, .layer = layer};
    char full[64];
    int index = -1, value = -1;
    snprintf(full, sizeof full, "layers.%d.%s", layer, name);
    PT_OK(am_graph_strdup(g, full, &p.name));
    PT_OK(am_graph_param(g, &p, &index, &value));
    return value;
}

static int apply(am_graph *g, const char *op, int a, int b, const am_attrs *attrs)
{
    int out[AM_MAX_OUT];
    PT_OK(am_graph_apply(g, op, (int[]){a, b}, b >= 0 ? 2 : 1, attrs, out));
    return out[0];
}

enum { SEQ = 12, D = 24, F = 40, V = 61, LAYERS = 3 };

static am_graph *make_graph(am_dtype compute)
{
    static const am_attrs eps = {.eps = 1e-5}, silu = {.act = AM_ACT_SILU};
    am_graph *g = NULL;
    int ids = -1;
    PT_OK(am_graph_create(1, SEQ, compute, &g));
    PT_OK(am_graph_register_op(g, &dropout));
    am_graph_set_layers(g, LAYERS);
    am_graph_at(g, -1, 1, 1);
    PT_OK(am_graph_input(g, "ids", &ids));
    int x = apply(g, "embed", ids, param(g, "embed", -1, V, D), NULL);
    for (int i = 0; i < LAYERS; i++) {
        am_graph_at(g, i, 2, 1);
        int h = apply(g, "linear", apply(g, "rmsnorm", x, param(g, "norm", i, D, 0), &eps),
                      param(g, "up", i, F, D), NULL);
        h = apply(g, "act", apply(g, "test_dropout", h, -1, NULL), -1, &silu);
        x = apply(g, "add", x, apply(g, "linear", h, param(g, "down", i, D, F), NULL), NULL);
    }
    am_graph_at(g, LAYERS, 3, 1);
    x = apply(g, "rmsnorm", x, param(g, "norm", LAYERS, D, 0), &eps);
    PT_OK(am_graph_set_logits(g, apply(g, "linear", x, param(g, "head", LAYERS, V, D), NULL)));
    return g;
}

/* ---- running ---------------------------------------------------------------------------------------- */

static void create(pt_run *r, am_dtype compute, const am_program_options *options, int n, am_comm *c,
                   const am_exec_options *x)
{
    memset(r, 0, sizeof *r);
    r->comm = c;
    r->num_programs = n;
    r->global_rows_offset = am_comm_rank(c);
    r->rows_per_step = am_comm_size(c);
    PT_OK(am_comm_set_mesh(c, &options[0].mesh));
    PT_OK(am_device_create("cpu", 1, &r->device));
    for (int i = 0; i < n; i++) {
        am_graph *g = make_graph(compute);
        am_program_options o = options[i];
        o.rank = am_comm_rank(c);
        PT_OK(am_program_compile(&g, &o, &r->program[i]));
        PT_OK(am_program_check(r->program[i]));
    }
    PT_OK(am_exec_create(r->device, c, r->program, n, x, &r->exec));
    pt_write_weights(r);
}

typedef struct batch {
    pt_run *r;
    int step;
} batch;

static am_status feed(void *context, am_exec *e, int program, int micro, int frame, int64_t *tokens)
{
    am_status st = AM_OK;
    const batch *b = context;
    static const char *const names[] = {"ids", "labels", "pos", "doc_start", "index", "token"};
    int64_t row = micro * b->r->rows_per_step + b->r->global_rows_offset; /* one row a micro-batch */
    int32_t in[6][SEQ];
    for (int64_t t = 0; t < SEQ; t++) {
        uint64_t x = am_random_u64(17, (uint64_t)(b->step * 1000 + row), (uint64_t)t);
        in[0][t] = (int32_t)(x % (uint64_t)V);
        in[1][t] = (int32_t)((x >> 8) % (uint64_t)V);
        in[2][t] = in[4][t] = (int32_t)t;
        in[3][t] = 0;
        in[5][t] = (int32_t)(row * SEQ + t);
    }
    *tokens = SEQ;
    for (int i = 0; i < 6; i++) AM_TRY(am_exec_write_input(e, program, frame, names[i], in[i], SEQ));
done:
    return st;
}

static double run_once(pt_run *r, int program, int step, double seed)
{
    batch b = {r, step};
    double n = (double)(r->rows_per_step * r->program[program]->options.micro_batches * SEQ), sum = 0,
           all[64], total = 0;
    PT_OK(am_exec_set_scalar(r->exec, AM_SCALAR_SEED, seed));
    PT_OK(am_exec_set_scalar(r->exec, AM_SCALAR_LR, 1e-2));
    PT_OK(am_exec_set_scalar(r->exec, AM_SCALAR_STEP, step + 1));
    PT_OK(am_exec_set_scalar(r->exec, AM_SCALAR_INV_N, 1 / n));
    PT_OK(am_exec_set_scalar(r->exec, AM_SCALAR_MAX_NORM, 0.5));
    PT_OK(am_exec_set_scalar(r->exec, AM_SCALAR_LOSS_SUM, 0));
    PT_OK(am_exec_run(r->exec, program, feed, &b));
    PT_OK(am_exec_get_scalar(r->exec, AM_SCALAR_LOSS_SUM, &sum));
    PT_OK(am_comm_allgather(r->comm, &sum, sizeof sum, all));
    for (int i = 0; i < am_comm_size(r->comm); i++) total += all[i];
    return total / n;
}

enum { STEPS = 3 };
typedef struct outcome {
    double loss[STEPS], *weights;
    int64_t n;
} outcome;

static outcome train(am_program_options o, am_comm *c, am_dtype compute, uint64_t shuffle, double seed)
{
    pt_run r;
    outcome out = {0};
    am_exec_options x = {.shuffle_seed = shuffle, .poison = shuffle != 0};
    o.eps = 1e-3;
    create(&r, compute, &o, 1, c, &x);
    for (int i = 0; i < STEPS; i++) out.loss[i] = run_once(&r, 0, i, seed);
    for (int p = 0; p < am_graph_num_params(r.program[0]->graph); p++) {
        int64_t n = 0;
        double *w = pt_gather_param(&r, 0, p, 0, &n);
        out.weights = realloc(out.weights, (size_t)(out.n + n) * sizeof *w);
        memcpy(out.weights + out.n, w, (size_t)n * sizeof *w);
        out.n += n;
        free(w);
    }
    pt_free(&r);
    return out;
}

static am_program_options layout(int64_t shards, int micro)
{
    am_program_options o = am_program_defaults(AM_PROGRAM_TRAIN);
    o.mesh.size[AM_MESH_DP_SHARD] = shards;
    o.micro_batches = micro;
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

/* ---- tests ------------------------------------------------------------------------------------------ */

static void variants(am_dtype compute)
{
    int ranks = am_comm_size(comm);
    am_program_options base = layout(ranks, 2), o;
    outcome plain = train(base, comm, compute, 0, 5);
    assert_true(isfinite(plain.loss[STEPS - 1]));
    o = base, o.recompute = AM_RECOMPUTE_SELECTIVE;
    same_bits(&plain, train(o, comm, compute, 0, 5), "selective recompute");
    o.recompute = AM_RECOMPUTE_FULL;
    same_bits(&plain, train(o, comm, compute, 0, 5), "recompute");
    same_bits(&plain, train(o, comm, compute, 3, 5), "recompute, another legal order");
    o.gpipe = o.split_w = true;
    same_bits(&plain, train(o, comm, compute, 0, 5), "recompute, a frame a micro-batch, W apart");
    outcome other = train(base, comm, compute, 0, 6);
    assert_true(other.loss[0] != plain.loss[0]); /* the seed counts */
    free(other.weights);
    free(plain.weights);
}

static void test_random__recompute_same_bits(void **state)
{
    variants(AM_F32);
    variants(AM_BF16);
}

static void test_random__ranks_equal_one(void **state)
{
    int ranks = am_comm_size(comm);
    outcome one = train(layout(1, 2 * ranks), alone, AM_F64, 0, 5),
            many = train(layout(ranks, 2), comm, AM_F64, 0, 5);
    double diff = 0, norm = 0;
    for (int i = 0; i < STEPS; i++)
        if (!(fabs(one.loss[i] - many.loss[i]) <= 1e-11 * one.loss[i]))
            fail_msg("loss of step %d is %.17g on %d ranks, %.17g on one", i, many.loss[i], ranks,
                     one.loss[i]);
    for (int64_t i = 0; i < one.n; i++) {
        diff += (one.weights[i] - many.weights[i]) * (one.weights[i] - many.weights[i]);
        norm += one.weights[i] * one.weights[i];
    }
    if (!(sqrt(diff / norm) <= 1e-11)) fail_msg("weights differ by %.3g", sqrt(diff / norm));
    free(one.weights);
    free(many.weights);
}

static void nudge(pt_run *r, int param, int64_t i, double by)
{
    int unit = -1;
    int64_t offset = 0;
    double w = 0;
    am_program_locate(r->program[0], param, &unit, &offset);
    PT_OK(am_exec_read_slot(r->exec, unit, 0, offset + i, 1, &w));
    w += by;
    PT_OK(am_exec_write_slot(r->exec, unit, 0, offset + i, 1, &w));
}

/* The loss through fixed masks is smooth: a step of 1e-5 leaves an error of about 1e-10. */
static void test_random__gradients_through_the_masks(void **state)
{
    pt_run r;
    am_program_options o[2] = {am_program_defaults(AM_PROGRAM_VERIFY), am_program_defaults(AM_PROGRAM_EVAL)};
    o[0].recompute = AM_RECOMPUTE_FULL;
    create(&r, AM_F64, o, 2, alone, NULL);
    run_once(&r, 0, 1, 5);
    for (int p = 0; p < am_graph_num_params(r.program[0]->graph); p++) {
        int64_t n = 0;
        double *grad = pt_gather_grad(&r, 0, p, &n), h = 1e-5;
        int64_t i = (int64_t)(am_random_u64(5, (uint64_t)p, 0) % (uint64_t)n);
        nudge(&r, p, i, h);
        double up = run_once(&r, 1, 1, 5);
        nudge(&r, p, i, -2 * h);
        double down = run_once(&r, 1, 1, 5), expected = (up - down) / (2 * h);
        nudge(&r, p, i, h);
        if (fabs(grad[i] - expected) > 1e-8 + 1e-6 * fabs(expected))
            fail_msg("%s[%ld]: gradient %.12g, difference quotient %.12g",
                     am_graph_param_at(r.program[0]->graph, p)->name, (long)i, grad[i], expected);
        free(grad);
    }
    pt_free(&r);
}

/* Same tokens, other step, other mask; and every layer has its own. */
static void test_random__step_and_layer_count(void **state)
{
    pt_run r;
    am_program_options o = am_program_defaults(AM_PROGRAM_EVAL);
    int64_t key[8];
    int keys = 0;
    create(&r, AM_F64, &o, 1, alone, NULL);
    batch b = {&r, 0};
    double loss[2];
    for (int i = 0; i < 2; i++) {
        PT_OK(am_exec_set_scalar(r.exec, AM_SCALAR_SEED, 5));
        PT_OK(am_exec_set_scalar(r.exec, AM_SCALAR_STEP, i + 1));
        PT_OK(am_exec_set_scalar(r.exec, AM_SCALAR_LOSS_SUM, 0));
        PT_OK(am_exec_run(r.exec, 0, feed, &b));
        PT_OK(am_exec_get_scalar(r.exec, AM_SCALAR_LOSS_SUM, &loss[i]));
    }
    assert_true(loss[0] != loss[1]);
    for (int k = 0; k < r.program[0]->num_segments; k++)
        for (int i = 0; i < r.program[0]->segment[k].num_ops; i++)
            if (r.program[0]->segment[k].op[i].def == &dropout)
                key[keys++] = r.program[0]->segment[k].op[i].attrs.index;
    assert_int_equal(keys, LAYERS);
    for (int i = 0; i < keys; i++)
        for (int k = 0; k < i; k++) assert_true((uint32_t)key[i] != (uint32_t)key[k]);
    pt_free(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_random__recompute_same_bits),
        cmocka_unit_test(test_random__ranks_equal_one),
        cmocka_unit_test(test_random__gradients_through_the_masks),
        cmocka_unit_test(test_random__step_and_layer_count),
    };
    am_comm_options options = {.max_requests = 512};
    if (am_comm_create(NULL, &options, &comm) != AM_OK || am_comm_create("self", &options, &alone) != AM_OK)
        return 1;
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    if (am_comm_free(&comm) != AM_OK || am_comm_free(&alone) != AM_OK) return 1;
    return failed;
}
