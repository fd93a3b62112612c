/* Recurrences in whole programs: made-up cards with conv, ssd and mamba1.
 *   - gradients against central differences in fp64, with recompute, accumulation, W apart;
 *   - layouts on the ranks this test is started with: against one rank within 1e-11, the same bits on DDP and
 * FSDP, with recompute, in another legal order, on the guarded device;
 *   - a text in pieces through the GENERATE program: the logits of the whole. */
#include "program_test.h"

#include "graph/card.h"
#include "graph/graph_internal.h"

#include <math.h>
#include <string.h>
#include <unistd.h>

static am_comm *comm, *alone;
enum { STEPS = 2, VOCAB = 61 };

static const char config_json[] = "{\"model_type\": \"made_up\", \"hidden_size\": 16, \"num_hidden_layers\": "
                                  "2, \"vocab_size\": 61, \"heads\": 6, \"groups\": 2, "
                                  "\"states\": 5, \"head_dim\": 3, \"tie_word_embeddings\": false}";

#define CARD(body)                                                                                           \
    "family made_up\n"                                                                                       \
    "config:\n"                                                                                              \
    "  L = num_hidden_layers\n"                                                                              \
    "  D = hidden_size\n"                                                                                    \
    "  vocab V = vocab_size\n"                                                                               \
    "  heads H = heads\n"                                                                                    \
    "  kv_heads G = groups\n"                                                                                \
    "  S = states\n"                                                                                         \
    "  p = head_dim\n"                                                                                       \
    "  ffn I = 10\n"                                                                                         \
    "  ignore heads groups states head_dim\n"                                                                \
    "model:\n"                                                                                               \
    "  x = embed(ids, model.embed : D)\n"                                                                    \
    "  for i < L at model.layers.{i}:\n"                                                                     \
    "    x = x + mix(rmsnorm(x, .norm, 1e-5), .mix)\n"                                                       \
    "  logits = linear(rmsnorm(x, model.norm, 1e-5), head : V)\n" body

/* parts of one tensor through one filter; parameters as A and D; a chunk shorter than a row */
static const char ssd_card[] =
    CARD("def mix(h, name P):\n"
         "  z, u, B, C, dt = linear(h, P.in : H p + H p + G S + G S + H)\n"
         "  u, B, C = silu(conv((u, B, C), P.filter, k = 4, bias = true))\n"
         "  y = ssd(u, sigmoid(dt), param(P.A : H), B, C, param(P.D : H), chunk = 7)\n"
         "  return linear(y * silu(z), P.out : D)\n");
static const char mamba1_card[] = CARD(
    "def mix(h, name P):\n"
    "  u = silu(conv(linear(h, P.in : I), P.filter, k = 3))\n"
    "  B, C = linear(u, P.bc : S + S)\n"
    "  dt = sigmoid(linear(u, P.dt : I, bias = true))\n"
    "  return linear(mamba1(u, dt, param(P.A : I S), B, C, param(P.D : I), chunk = 5) + u, P.out : D)\n");
/* in heads, each with a B and C and a time step of its own channels; A and D as [heads, channels …] */
static const char heads_card[] = CARD(
    "def mix(h, name P):\n"
    "  u, z = linear(h, P.in : H p (1 + 1))\n"
    "  u = silu(conv(u, P.filter, k = 3))\n"
    "  dt, B, C = linear(u, P.x[H] : 2 + S + S)\n"
    "  dt = sigmoid(linear(dt, P.dt[H] : p) + param(P.shift : H p))\n"
    "  y = mamba1(u, dt, -exp(param(P.A : H p S)), B, C, param(P.D : H p), chunk = 5)\n"
    "  return linear(y * silu(z), P.out : D)\n");
/* without D; B and C of one group for all heads, made of the embedding: a value that many layers read */
static const char bare_card[] =
    CARD("def mix(h, name P):\n"
         "  u = conv(linear(h, P.in : H p), P.filter, k = 2, bias = true)\n"
         "  B, C = linear(x, P.bc : G S + G S)\n"
         "  y = ssd(u, sigmoid(linear(h, P.dt : H)), param(P.A : H), B, C, none)\n"
         "  return linear(y, P.out : D)\n");

static pt_shape shape_of(const char *card)
{
    pt_shape s = pt_default_shape();
    s.card = card;
    s.config = config_json;
    return s;
}

/* ---- gradients ---- */

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
    o.recompute = AM_RECOMPUTE_FULL;
    check(card, &o);
    o.fuse = true;
    o.recompute = AM_RECOMPUTE_SELECTIVE;
    o.micro_batches = 2;
    check(card, &o);
    o.gpipe = o.split_w = true;
    check(card, &o);
}

static void test_scan__gradients(void **state)
{
    if (am_comm_size(comm) > 1) skip();
    check_variants(ssd_card);
    check_variants(mamba1_card);
    check_variants(heads_card);
    check_variants(bare_card);
}

/* ---- layouts ---- */

typedef struct outcome {
    double loss[STEPS], *weights;
    int64_t n;
} outcome;

static outcome run(const char *card, const am_program_options *o, am_comm *c, am_dtype compute,
                   const char *device, const am_exec_options *x)
{
    pt_run r;
    pt_shape s = shape_of(card);
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

static void equal_to_one_rank(const char *card)
{
    int P = am_comm_size(comm);
    am_program_options one = layout(1, 1, P), fsdp = layout(P, 1, 1);
    outcome a = run(card, &one, alone, AM_F64, "cpu", NULL), b = run(card, &fsdp, comm, AM_F64, "cpu", NULL);
    for (int i = 0; i < STEPS; i++) assert_true(fabs(a.loss[i] - b.loss[i]) <= 1e-11 * fabs(a.loss[i]));
    assert_int_equal(a.n, b.n);
    for (int64_t i = 0; i < a.n; i++)
        if (!(fabs(a.weights[i] - b.weights[i]) <= 1e-11))
            fail_msg("weight %ld: %.17g, not %.17g", (long)i, b.weights[i], a.weights[i]);
    free(a.weights);
    free(b.weights);
}

static void test_scan__equal_to_one_rank(void **state)
{
    equal_to_one_rank(ssd_card);
    equal_to_one_rank(mamba1_card);
    equal_to_one_rank(heads_card);
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

static void bits_of(const char *card, am_dtype type)
{
    int P = am_comm_size(comm);
    am_program_options ddp = layout(1, P, 2), fsdp = layout(P, 1, 2), o = fsdp;
    outcome base = run(card, &fsdp, comm, type, "cpu", NULL);
    same_bits(&base, run(card, &ddp, comm, type, "cpu", NULL), "DDP");
    o.recompute = AM_RECOMPUTE_FULL;
    same_bits(&base, run(card, &o, comm, type, "cpu", NULL), "recompute");
    o.threads = 3;
    same_bits(&base, run(card, &o, comm, type, "guarded", NULL), "guarded device, 3 threads");
    o = fsdp, o.gpipe = o.split_w = true;
    same_bits(&base, run(card, &o, comm, type, "cpu", NULL), "GPipe order, W apart");
    am_exec_options x = {.shuffle_seed = 1, .poison = true};
    same_bits(&base, run(card, &fsdp, comm, type, "cpu", &x), "another legal order, dead memory poisoned");
    free(base.weights);
}

static void test_scan__same_bits(void **state)
{
    bits_of(ssd_card, AM_F32);
    bits_of(ssd_card, AM_BF16);
    bits_of(mamba1_card, AM_BF16);
}

/* ---- a text in pieces ---- */

enum { TEXT = 24 };

typedef struct text {
    int64_t begin, count;
} text;

static am_status feed(void *context, am_exec *e, int program, int micro, int frame, int64_t *tokens)
{
    am_status st = AM_OK;
    const text *t = context;
    int32_t ids[TEXT], at[TEXT], zero[TEXT] = {0}, keys[TEXT], labels[TEXT], last = (int32_t)t->count - 1;
    for (int64_t i = 0; i < TEXT; i++) {
        ids[i] = (int32_t)((7 + (t->begin + i) * 23) % VOCAB);
        at[i] = (int32_t)(t->begin + i);
        keys[i] = i < t->begin + t->count ? (int32_t)i : INT32_MAX;
        labels[i] = 1;
    }
    *tokens = t->count;
    AM_TRY(am_exec_write_input(e, program, frame, "ids", ids, t->count));
    AM_TRY(am_exec_write_input(e, program, frame, "labels", labels, t->count));
    AM_TRY(am_exec_write_input(e, program, frame, "pos", at, t->count));
    AM_TRY(am_exec_write_input(e, program, frame, "index", at, t->count));
    AM_TRY(am_exec_write_input(e, program, frame, "slots", at, t->count));
    AM_TRY(am_exec_write_input(e, program, frame, "doc_start", zero, t->count));
    AM_TRY(am_exec_write_input(e, program, frame, "k_index", keys, TEXT));
    AM_TRY(am_exec_write_input(e, program, frame, "rows", &last, 1));
done:
    return st;
}

static void check_pieces(const char *card, am_dtype compute, double tolerance)
{
    static const int64_t pieces[] = {1, 1, 2, 5, 1, 11, 3};
    float whole[TEXT * VOCAB], part[VOCAB];
    pt_run r;
    pt_shape s = shape_of(card);
    am_program_options o[2] = {am_program_defaults(AM_PROGRAM_VERIFY),
                               am_program_defaults(AM_PROGRAM_GENERATE)};
    text t = {0, TEXT};
    o[1].cache_tokens = TEXT;
    pt_create(&r, &s, compute, o, 2, "guarded", alone, NULL);
    assert_int_equal(r.program[1]->tokens, TEXT);
    PT_OK(am_exec_run(r.exec, 0, feed, &t));
    PT_OK(am_exec_read_logits(r.exec, 0, 0, whole, TEXT * VOCAB));
    for (int twice = 0; twice < 2; twice++) /* the second text does not see what the first has left */
        for (size_t k = t.begin = 0; k < sizeof pieces / sizeof *pieces; t.begin += pieces[k++]) {
            t.count = pieces[k];
            PT_OK(am_exec_run(r.exec, 1, feed, &t));
            PT_OK(am_exec_read_logits(r.exec, 1, 0, part, VOCAB));
            const float *want = whole + (t.begin + t.count - 1) * VOCAB;
            for (int i = 0; i < VOCAB; i++)
                if (!(fabs((double)part[i] - (double)want[i]) <= tolerance))
                    fail_msg("token %ld, logit %d: %.9g, not %.9g", (long)(t.begin + t.count), i,
                             (double)part[i], (double)want[i]);
        }
    pt_free(&r);
}

static void test_scan__pieces(void **state)
{
    if (am_comm_size(comm) > 1) skip();
    const char *const cards[] = {ssd_card, mamba1_card, heads_card, bare_card};
    for (size_t i = 0; i < sizeof cards / sizeof *cards; i++) {
        check_pieces(cards[i], AM_F64, 1e-6); /* logits are read as f32 */
        check_pieces(cards[i], AM_F32, 1e-5);
        check_pieces(cards[i], AM_BF16, 3e-2); /* rounded in another order */
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_scan__gradients),
        cmocka_unit_test(test_scan__equal_to_one_rank),
        cmocka_unit_test(test_scan__same_bits),
        cmocka_unit_test(test_scan__pieces),
    };
    am_comm_options options = {.max_requests = 512};
    if (am_comm_create(NULL, &options, &comm) != AM_OK || am_comm_create("self", &options, &alone) != AM_OK)
        return 1;
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    if (am_comm_free(&comm) != AM_OK || am_comm_free(&alone) != AM_OK) return 1;
    return failed;
}
