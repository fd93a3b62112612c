/* Experts in whole programs: made-up cards, which no family has.
 *   - gradients against central differences in fp64 (one rank): factors behind and before the experts,
 * biases, stacked and transposed tensors in two parts, experts without tensors, groups, slots kept apart;
 * with recompute, accumulation, W apart;
 *   - layouts on the ranks this test is started with: against one rank within 1e-11, the same bits on DDP and
 * FSDP, with recompute, in another legal order, on the guarded device;
 *   - experts are a unit of their own; FLOPs by slots; errors of cards by sentence. */
#include "program_test.h"

#include "graph/card.h"
#include "graph/graph_internal.h"

#include <math.h>
#include <string.h>
#include <unistd.h>

static am_comm *comm, *alone;
enum { STEPS = 2, SLOTS = 2, WIDTH = 12 };

static const char config_json[] = "{\"model_type\": \"made_up\", \"hidden_size\": 16, \"num_hidden_layers\": "
                                  "2, \"intermediate_size\": 12, \"vocab_size\": 61, "
                                  "\"num_experts\": 5, \"scores\": 8, \"tie_word_embeddings\": false}";

#define CARD(body)                                                                                           \
    "family made_up\n"                                                                                       \
    "config:\n"                                                                                              \
    "  L = num_hidden_layers\n"                                                                              \
    "  D = hidden_size\n"                                                                                    \
    "  ffn F = intermediate_size\n"                                                                          \
    "  vocab V = vocab_size\n"                                                                               \
    "  experts E = num_experts\n"                                                                            \
    "  ignore scores intermediate_size\n"                                                                    \
    "  X = scores\n"                                                                                         \
    "  A = 4\n"                                                                                              \
    "  B = 2\n"                                                                                              \
    "model:\n"                                                                                               \
    "  x = embed(ids, model.embed : D)\n"                                                                    \
    "  for i < L at model.layers.{i}:\n"                                                                     \
    "    x = x + moe(rmsnorm(x, .norm, 1e-5), .moe)\n"                                                       \
    "  logits = linear(rmsnorm(x, model.norm, 1e-5), head : V)\n" body "def expert(h, name P):\n"            \
    "  return linear(silu(linear(h, P.gate : F)) * linear(h, P.up : F, bias = true), P.down : D, bias = "    \
    "true)\n"

static const char behind_card[] = CARD("def moe(h, name P):\n"
                                       "  w, e = topk(sigmoid(linear(h, P.router : E)), 2)\n"
                                       "  return sum[e](w * expert(h, P.experts.{E}))\n");
static const char before_card[] =
    CARD("def moe(h, name P):\n"
         "  w, e = topk(sigmoid(linear(h, P.router : E)), 2)\n"
         "  return sum[e](fused(h * w, P.experts)) + sum[e](expert(h, P.others.{E}) * w * 0.5)\n"
         "def fused(h, name P):\n"
         "  g, u = linear(h, P.both[E]^T : F + F)\n"
         "  return linear(silu(g) * u, P.down[E]^T : D)\n");
static const char some_card[] = CARD("def moe(h, name P):\n"
                                     "  s = sigmoid(linear(h, P.router : X))\n"
                                     "  e = argtop(view(groups(view(s : A B)) : X), 2)\n"
                                     "  return sum[e < E](s[e] * expert(h, P.experts.{E})) + h\n"
                                     "def groups(t): return t * topmask(t, 1)\n");
static const char each_card[] = CARD("def moe(h, name P):\n"
                                     "  w, e = topk(linear(h, P.router : E), 2)\n"
                                     "  y = gelu(each[e](linear(h, P.in.{E} : F)))\n"
                                     "  return sum[e](w * linear(y, P.out.{E} : D))\n");

static pt_shape shape_of(const char *card)
{
    pt_shape s = pt_default_shape();
    s.card = card;
    s.config = config_json;
    return s;
}

/* ---- gradients ------------------------------------------------------------------------------------------
 */

static void check(const char *card, const am_program_options *o)
{
    pt_shape s = shape_of(card);
    pt_check_gradients(&s, o, alone, 3);
}

static void check_variants(const char *card)
{
    am_program_options o = am_program_defaults(AM_PROGRAM_VERIFY);
    check(card, &o);
    o.fuse = false;
    check(card, &o);
    o.recompute = AM_RECOMPUTE_FULL;
    check(card, &o);
    o.fuse = true;
    o.recompute = AM_RECOMPUTE_SELECTIVE;
    o.micro_batches = 2;
    check(card, &o);
    o.gpipe = o.split_w = true;
    check(card, &o);
}

static void test_moe__gradients(void **state)
{
    if (am_comm_size(comm) > 1) skip();
    check_variants(behind_card);
    check_variants(before_card);
    check_variants(some_card);
    check_variants(each_card);
}

/* ---- layouts ---------------------------------------------------------------------------------------------
 */

typedef struct outcome {
    double loss[STEPS], *weights;
    int64_t n;
} outcome;

static outcome run(const am_program_options *o, am_comm *c, am_dtype compute, const char *device,
                   const am_exec_options *x)
{
    pt_run r;
    pt_shape s = shape_of(before_card);
    outcome out = {.weights = NULL};
    s.rows = 1;
    pt_create(&r, &s, compute, o, 1, device, c, x);
    for (int i = 0; i < STEPS; i++) out.loss[i] = pt_step(&r, 0, i, 1e-2, 0.5);
    for (int p = 0; p < am_graph_num_params(r.program[0]->graph); p++) {
        int64_t n;
        double *w = pt_gather_param(&r, 0, p, 0, &n);
        out.weights = realloc(out.weights, (size_t)(out.n + n) * sizeof *w);
        assert_non_null(out.weights);
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
    o.eps = 1e-3; /* test_graph_layouts.c tells why */
    return o;
}

static void test_moe__equal_to_one_rank(void **state)
{
    int P = am_comm_size(comm);
    am_program_options one = layout(1, 1, P), fsdp = layout(P, 1, 1);
    outcome a = run(&one, alone, AM_F64, "cpu", NULL), b = run(&fsdp, comm, AM_F64, "cpu", NULL);
    for (int i = 0; i < STEPS; i++) assert_true(fabs(a.loss[i] - b.loss[i]) <= 1e-11 * fabs(a.loss[i]));
    assert_int_equal(a.n, b.n);
    for (int64_t i = 0; i < a.n; i++)
        if (!(fabs(a.weights[i] - b.weights[i]) <= 1e-11))
            fail_msg("weight %ld: %.17g, not %.17g", (long)i, b.weights[i], a.weights[i]);
    free(a.weights);
    free(b.weights);
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

static void test_moe__same_bits(void **state)
{
    static const am_dtype types[] = {AM_F32, AM_BF16};
    int P = am_comm_size(comm);
    for (int t = 0; t < 2; t++) {
        am_program_options ddp = layout(1, P, 2), fsdp = layout(P, 1, 2), o = fsdp;
        outcome base = run(&fsdp, comm, types[t], "cpu", NULL);
        same_bits(&base, run(&ddp, comm, types[t], "cpu", NULL), "DDP");
        o.recompute = AM_RECOMPUTE_FULL;
        same_bits(&base, run(&o, comm, types[t], "cpu", NULL), "recompute");
        o.recompute = AM_RECOMPUTE_SELECTIVE;
        same_bits(&base, run(&o, comm, types[t], "cpu", NULL), "selective recompute");
        o.threads = 3;
        same_bits(&base, run(&o, comm, types[t], "guarded", NULL), "guarded device, 3 threads");
        o = fsdp, o.gpipe = o.split_w = true;
        same_bits(&base, run(&o, comm, types[t], "cpu", NULL), "GPipe order, W apart");
        am_exec_options x = {.shuffle_seed = 1, .poison = true};
        same_bits(&base, run(&fsdp, comm, types[t], "cpu", &x), "another legal order, dead memory poisoned");
        free(base.weights);
    }
}

/* ---- the plan ---------------------------------------------------------------------------------------------
 */

static void test_moe__units_and_flops(void **state)
{
    pt_run r;
    pt_shape s = shape_of(behind_card);
    am_program_options o = am_program_defaults(AM_PROGRAM_TRAIN);
    pt_create(&r, &s, AM_F32, &o, 1, "cpu", alone, NULL);
    const am_program *p = r.program[0];
    int experts = 0;
    for (int u = 0; u < p->store.num_units; u++) {
        const am_unit *unit = &p->store.unit[u];
        for (int e = 0; e < unit->num_entries; e++)
            assert_int_equal(p->graph->params[unit->entry[e].param].rank == 3, unit->experts);
        experts += unit->experts;
    }
    assert_int_equal(experts, 2); /* one a layer */
    int64_t slots = SLOTS * s.rows * s.seq, flops = 0;
    for (int k = 0; k < p->num_segments; k++)
        for (int i = 0; i < p->segment[k].num_ops; i++)
            if (strncmp(p->segment[k].op[i].def->name, "grouped_linear", 14) == 0)
                flops += p->segment[k].op[i].flops;
    assert_int_equal(flops, 2 * 3 * 3 * 2 * slots * 16 * WIDTH); /* layers · tensors · (y, dx, dw) · 2 */
    pt_free(&r);
}

static void test_moe__errors(void **state)
{
    static const struct {
        const char *line, *error;
    } cases[] = {
        {"expert(h, P.experts.{E})",
         "a tensor stacked over experts is used outside of sum[e](…) and each[e](…)"},
        {"sum[e](h)", "what stands in sum[…](…) must come from tensors that are stacked over the experts"},
        {"sum[w](expert(h, P.experts.{E}))",
         "in the brackets of sum[…] stand the selected experts of each token"},
        {"sum[e](sum[e](expert(h, P.experts.{E})))", "sum[…] stands inside of another one"},
        {"sum[e < X](expert(h, P.experts.{E}))", "the slots are those of 8 experts"},
        {"topk(h, 0)", "the number of values of topk"},
        {"top(h, 17)", "topk: the 17 largest of 16"},
        {"w[h]", "a tensor is indexed by selected experts"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char text[2048];
        am_graph *g = NULL;
        snprintf(text, sizeof text, "%sdef wrong(h, w, e, name P): return %s\n",
                 CARD("def moe(h, name P):\n"
                      "  w, e = topk(linear(h, P.router : E), 2)\n"
                      "  return wrong(h, w, e, P)\n"),
                 cases[i].line);
        assert_int_not_equal(pt_elaborate(text, config_json, 2, 8, AM_F32, &g), AM_OK);
        if (!strstr(am_error_message(), cases[i].error))
            fail_msg("%s: %s", cases[i].line, am_error_message());
        am_graph_free(&g);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_moe__gradients), cmocka_unit_test(test_moe__equal_to_one_rank),
        cmocka_unit_test(test_moe__same_bits), cmocka_unit_test(test_moe__units_and_flops),
        cmocka_unit_test(test_moe__errors),
    };
    am_comm_options options = {.max_requests = 512};
    if (am_comm_create(NULL, &options, &comm) != AM_OK || am_comm_create("self", &options, &alone) != AM_OK)
        return 1;
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    if (am_comm_free(&comm) != AM_OK || am_comm_free(&alone) != AM_OK) return 1;
    return failed;
}
