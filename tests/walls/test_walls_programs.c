/* WALLS 15: 1, 7 and 300 tokens through one program planned for 300 give the bits of programs planned for
 * exactly so many.
 * WALLS 6: several programs over one store: two instances give equal logits before and after a step; evaluating
 * at another length, verifying and generating between steps change no bit of training; generation's logits are
 * those of the whole sequence at once.  fp64 where only rounding may differ. */
#include "../graph/program_test.h"

#include <math.h>
#include <string.h>

enum { MAX_TOKENS = 300 };
static am_comm *comm;

/* ---- one store, programs of several shapes ---------------------------------------------------------- */

static void create(pt_run *r, const pt_shape *shapes, const am_program_options *options, int n,
                   am_dtype compute, bool poison)
{
    am_exec_options x = {.poison = poison};
    memset(r, 0, sizeof *r);
    r->shape = shapes[0];
    r->comm = comm;
    r->num_programs = n;
    r->rows_per_step = shapes[0].rows;
    PT_OK(am_comm_set_mesh(comm, &options[0].mesh));
    PT_OK(am_device_create("cpu", 1, &r->device));
    for (int i = 0; i < n; i++) {
        am_graph *g = pt_graph(&shapes[i], compute);
        PT_OK(am_program_compile(&g, &options[i], &r->program[i]));
        PT_OK(am_program_check(r->program[i]));
    }
    PT_OK(am_exec_create(r->device, comm, r->program, n, &x, &r->exec));
    pt_write_weights(r);
}

static int32_t token_at(int64_t t)
{
    return (int32_t)(am_random_u64(3, 1, (uint64_t)t) % 61);
}

/* The first n tokens of one endless text with a document's end every `document` tokens; every fifth label is
 * ignored. */
typedef struct text {
    int64_t n, document;
} text;

static am_status feed_text(void *context, am_exec *e, int program, int micro, int frame, int64_t *tokens)
{
    am_status st = AM_OK;
    const text *x = context;
    static const char *const names[] = {"ids", "labels", "pos", "doc_start", "index"};
    int32_t in[5][MAX_TOKENS];
    for (int64_t t = 0; t < x->n; t++) {
        in[0][t] = token_at(t);
        in[1][t] = t % 5 == 4 ? -100 : token_at(t + 1);
        in[2][t] = (int32_t)(t % x->document);
        in[3][t] = (int32_t)(t - t % x->document);
        in[4][t] = (int32_t)t;
    }
    *tokens = x->n;
    for (int i = 0; i < 5; i++) AM_TRY(am_exec_write_input(e, program, frame, names[i], in[i], x->n));
done:
    return st;
}

typedef struct result {
    double loss, count;
    float *logits;
    int64_t num_logits;
    double *grad;
    int64_t num_grad;
} result;

static void release(result *r)
{
    free(r->logits);
    free(r->grad);
}

/* Loss, logits and all gradients of a text by a VERIFY program. */
static result verify(pt_run *r, int program, text x)
{
    result out = {.num_logits = x.n * r->shape.V};
    PT_OK(am_exec_set_scalar(r->exec, AM_SCALAR_INV_N, 1.0 / (double)x.n));
    PT_OK(am_exec_set_scalar(r->exec, AM_SCALAR_LOSS_SUM, 0));
    PT_OK(am_exec_set_scalar(r->exec, AM_SCALAR_LOSS_COUNT, 0));
    PT_OK(am_exec_run(r->exec, program, feed_text, &x));
    PT_OK(am_exec_get_scalar(r->exec, AM_SCALAR_LOSS_SUM, &out.loss));
    PT_OK(am_exec_get_scalar(r->exec, AM_SCALAR_LOSS_COUNT, &out.count));
    out.logits = calloc((size_t)out.num_logits, sizeof *out.logits);
    PT_OK(am_exec_read_logits(r->exec, program, 0, out.logits, out.num_logits));
    for (int p = 0; p < am_graph_num_params(r->program[program]->graph); p++) {
        int64_t n = 0;
        double *g = pt_gather_grad(r, program, p, &n);
        out.grad = realloc(out.grad, (size_t)(out.num_grad + n) * sizeof *g);
        memcpy(out.grad + out.num_grad, g, (size_t)n * sizeof *g);
        out.num_grad += n;
        free(g);
    }
    return out;
}

static void same_bits(const result *a, const result *b, const char *what)
{
    if (a->loss != b->loss || a->count != b->count)
        fail_msg("%s: loss %.17g over %g, not %.17g over %g", what, b->loss, b->count, a->loss, a->count);
    assert_int_equal(a->num_logits, b->num_logits);
    for (int64_t i = 0; i < a->num_logits; i++)
        if (a->logits[i] != b->logits[i])
            fail_msg("%s: logit %ld is %.9g, not %.9g", what, (long)i, b->logits[i], a->logits[i]);
    assert_int_equal(a->num_grad, b->num_grad);
    for (int64_t i = 0; i < a->num_grad; i++)
        if (a->grad[i] != b->grad[i])
            fail_msg("%s: gradient element %ld is %.9g, not %.9g", what, (long)i, b->grad[i], a->grad[i]);
}

/* ---- bounded dimensions ----------------------------------------------------------------------------- */

/* The unfed part of the planned frame is NaN (poison): whoever reads beyond the actual count shows. */
static void counts_through_one(am_dtype compute, am_recompute recompute)
{
    static const int64_t counts[] = {300, 7, 1, 300, 2, 7};
    pt_shape s = pt_default_shape();
    am_program_options o = am_program_defaults(AM_PROGRAM_VERIFY);
    pt_run wide, exact;
    o.recompute = recompute;
    s.rows = 1;
    s.seq = MAX_TOKENS;
    create(&wide, &s, &o, 1, compute, true);
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
        char what[64];
        text x = {counts[i], 5};
        s.seq = counts[i];
        create(&exact, &s, &o, 1, compute, false);
        result a = verify(&exact, 0, x), b = verify(&wide, 0, x);
        snprintf(what, sizeof what, "%ld tokens in a program for %d, %s", (long)x.n, MAX_TOKENS,
                 am_dtype_name(compute));
        assert_true(isfinite(a.loss) && a.count > 0);
        same_bits(&a, &b, what);
        release(&a);
        release(&b);
        pt_free(&exact);
    }
    pt_free(&wide);
}

static void test_programs__bounded_dims(void **state)
{
    counts_through_one(AM_F32, AM_RECOMPUTE_SELECTIVE);
    counts_through_one(AM_BF16, AM_RECOMPUTE_FULL);
    counts_through_one(AM_F64, AM_RECOMPUTE_NONE);
}

/* ---- several programs, one store -------------------------------------------------------------------- */

static void test_programs__two_instances_equal_logits(void **state)
{
    for (int i = 0; i < 2; i++) {
        pt_shape s = pt_default_shape(), shapes[3];
        am_program_options o[3] = {am_program_defaults(AM_PROGRAM_TRAIN),
                                   am_program_defaults(AM_PROGRAM_VERIFY),
                                   am_program_defaults(AM_PROGRAM_VERIFY)};
        pt_run r;
        text x = {20, 7};
        shapes[0] = shapes[1] = shapes[2] = s;
        shapes[1].rows = shapes[2].rows = 1;
        shapes[1].seq = 20;
        shapes[2].seq = 33; /* the second instance is planned for more, and keeps other values */
        o[2].recompute = AM_RECOMPUTE_FULL;
        create(&r, shapes, o, 3, i ? AM_BF16 : AM_F32, true);
        result a = verify(&r, 1, x), b = verify(&r, 2, x);
        same_bits(&a, &b, "two instances");
        pt_step(&r, 0, 0, 1e-2, 1);
        result c = verify(&r, 1, x), d = verify(&r, 2, x);
        same_bits(&c, &d, "two instances after a step");
        assert_memory_not_equal(a.logits, c.logits,
                                (size_t)a.num_logits * sizeof *a.logits); /* they do read that store */
        release(&a);
        release(&b);
        release(&c);
        release(&d);
        pt_free(&r);
    }
}

/* ---- generating ------------------------------------------------------------------------------------- */

typedef struct piece {
    int64_t begin, count, cache;
} piece;

/* Tokens [begin, begin + count) of the text; earlier ones are in the cache. */
static am_status feed_piece(void *context, am_exec *e, int program, int micro, int frame, int64_t *tokens)
{
    am_status st = AM_OK;
    const piece *x = context;
    int32_t ids[MAX_TOKENS], at[MAX_TOKENS], zero[MAX_TOKENS] = {0}, keys[MAX_TOKENS],
                                             last = (int32_t)x->count - 1;
    for (int64_t t = 0; t < x->count; t++) {
        ids[t] = token_at(x->begin + t);
        at[t] = (int32_t)(x->begin + t);
    }
    for (int64_t t = 0; t < x->cache; t++) keys[t] = t < x->begin + x->count ? (int32_t)t : INT32_MAX;
    *tokens = x->count;
    AM_TRY(am_exec_write_input(e, program, frame, "ids", ids, x->count));
    AM_TRY(am_exec_write_input(e, program, frame, "doc_start", zero, x->count));
    static const char *const by_position[] = {"pos", "index", "slots"};
    for (int i = 0; i < 3; i++) AM_TRY(am_exec_write_input(e, program, frame, by_position[i], at, x->count));
    AM_TRY(am_exec_write_input(e, program, frame, "k_index", keys, x->cache));
    AM_TRY(am_exec_write_input(e, program, frame, "rows", &last, 1));
done:
    return st;
}

enum { PREFILL = 6, GENERATED = 5, CACHE = 16 };

/* Prefill, then a token at a time; logits [GENERATED + 1][V] of the last token of each call. */
static void generate(pt_run *r, int program, float *logits)
{
    for (int64_t k = 0; k <= GENERATED; k++) {
        piece x = {k == 0 ? 0 : PREFILL + k - 1, k == 0 ? PREFILL : 1, CACHE};
        PT_OK(am_exec_run(r->exec, program, feed_piece, &x));
        if (logits) PT_OK(am_exec_read_logits(r->exec, program, 0, logits + k * r->shape.V, r->shape.V));
    }
}

static am_program_options generating(void)
{
    am_program_options o = am_program_defaults(AM_PROGRAM_GENERATE);
    o.cache_tokens = CACHE;
    return o;
}

static void test_programs__generation_equals_whole_sequence(void **state)
{
    pt_shape shapes[2] = {pt_default_shape(), pt_default_shape()};
    am_program_options o[2] = {am_program_defaults(AM_PROGRAM_VERIFY), generating()};
    pt_run r;
    for (int i = 0; i < 2; i++) shapes[i].rows = 1;
    create(&r, shapes, o, 2, AM_F64, false);
    float *cached = calloc((size_t)((GENERATED + 1) * r.shape.V), sizeof *cached);
    generate(&r, 1, cached);
    result whole = verify(&r, 0, (text){PREFILL + GENERATED, MAX_TOKENS});
    for (int64_t k = 0; k <= GENERATED; k++)
        for (int64_t v = 0; v < r.shape.V; v++) {
            double a = whole.logits[(PREFILL - 1 + k) * r.shape.V + v], b = cached[k * r.shape.V + v];
            if (!(fabs(a - b) <= 1e-6 * (1 + fabs(a))))
                fail_msg("token %ld, logit %ld: %.9g from the cache, %.9g at once", (long)k, (long)v, b, a);
        }
    free(cached);
    release(&whole);
    pt_free(&r);
}

/* ---- between steps ---------------------------------------------------------------------------------- */

enum { STEPS = 4 };

/* Losses, then weights and both moments of every parameter after STEPS steps. */
static double *trained(pt_run *r, bool disturbed, int64_t *count)
{
    double *out = NULL;
    *count = 0;
    for (int step = 0; step < STEPS; step++) {
        double loss = pt_step(r, 0, step, 1e-2, 0.5);
        out = realloc(out, (size_t)(*count + 1) * sizeof *out);
        out[(*count)++] = loss;
        if (!disturbed) continue;
        text x = {MAX_TOKENS, 11};
        double sum = 0;
        PT_OK(am_exec_set_scalar(r->exec, AM_SCALAR_LOSS_SUM, 0));
        PT_OK(am_exec_run(r->exec, 1, feed_text, &x)); /* evaluate, at another length */
        PT_OK(am_exec_get_scalar(r->exec, AM_SCALAR_LOSS_SUM, &sum));
        assert_true(sum > 0);
        generate(r, 2, NULL);
        result v = verify(r, 3, (text){9, 4});
        release(&v);
    }
    for (int p = 0; p < am_graph_num_params(r->program[0]->graph); p++)
        for (int role = 0; role < 3; role++) {
            int64_t n = 0;
            double *w = pt_gather_param(r, 0, p, role, &n);
            out = realloc(out, (size_t)(*count + n) * sizeof *out);
            memcpy(out + *count, w, (size_t)n * sizeof *w);
            *count += n;
            free(w);
        }
    return out;
}

static void test_programs__others_between_steps_change_no_bit(void **state)
{
    for (int i = 0; i < 4; i++) {
        am_dtype compute = i % 2 ? AM_BF16 : AM_F32;
        pt_shape s = pt_default_shape(), shapes[4] = {s, s, s, s};
        am_program_options o[4] = {am_program_defaults(AM_PROGRAM_TRAIN),
                                   am_program_defaults(AM_PROGRAM_EVAL), generating(),
                                   am_program_defaults(AM_PROGRAM_VERIFY)};
        pt_run alone, among;
        int64_t n = 0, m = 0;
        for (int k = 1; k < 4; k++) shapes[k].rows = 1;
        shapes[1].seq = MAX_TOKENS;
        o[0].micro_batches = 2;
        o[0].reshard = i / 2 == 0;
        create(&alone, shapes, o, 1, compute, false);
        create(&among, shapes, o, 4, compute, false);
        double *a = trained(&alone, false, &n), *b = trained(&among, true, &m);
        assert_int_equal(n, m);
        for (int64_t k = 0; k < n; k++)
            if (a[k] != b[k])
                fail_msg("%s, element %ld (losses first): %.17g alone, %.17g among other programs",
                         am_dtype_name(compute), (long)k, a[k], b[k]);
        free(a);
        free(b);
        pt_free(&alone);
        pt_free(&among);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_programs__bounded_dims),
        cmocka_unit_test(test_programs__two_instances_equal_logits),
        cmocka_unit_test(test_programs__generation_equals_whole_sequence),
        cmocka_unit_test(test_programs__others_between_steps_change_no_bit),
    };
    am_comm_options options = {.max_requests = 512};
    if (am_comm_create("self", &options, &comm) != AM_OK) return 1;
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    return am_comm_free(&comm) == AM_OK ? failed : 1;
}
