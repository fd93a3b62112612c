/* test_scan: conv, ssd and mamba1 against plain recurrences in f64, token by token; gradients against central
 * differences of those; several documents, borders of chunks, odd sizes; a text in pieces with a state; any
 * number of threads. */
#include "heavy_test.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define MOST_INPUTS 6
#define MOST_TOKENS 512

/* ---- a problem ---- */

typedef struct problem {
    const char *op;
    int64_t n, h, p, g, s, chunk; /* mamba1: h channels in g groups; conv: h channels, s taps */
    int num_in;
    double *in[MOST_INPUTS]; /* x, dt, A, B, C, D; conv: x, w, bias */
    int64_t count[MOST_INPUTS];
    double *dy;
    int64_t num_y, num_state;
    int32_t index[MOST_TOKENS], doc_start[MOST_TOKENS];
    void (*naive)(const struct problem *q, double *y, double *state); /* state: in and out */
} problem;

static double *ht_positive(int64_t n)
{
    double *v = malloc((size_t)n * sizeof *v);
    for (int64_t i = 0; i < n; i++) v[i] = (double)(1 + (i * 29 + 7) % 97) / 128;
    return v;
}
static double *ht_negative(int64_t n)
{
    double *v = malloc((size_t)n * sizeof *v);
    for (int64_t i = 0; i < n; i++) v[i] = -(double)(1 + (i * 13) % 23) / 8;
    return v;
}

static void documents(problem *q, const int *starts)
{
    int32_t start = 0;
    for (int64_t t = 0; t < q->n; t++) {
        for (int i = 0; starts[i] >= 0; i++)
            if (starts[i] == t) start = (int32_t)t;
        q->index[t] = (int32_t)t;
        q->doc_start[t] = start;
    }
}

static bool first(const problem *q, int64_t t)
{
    return q->index[t] == q->doc_start[t];
}

static void naive_conv(const problem *q, double *y, double *state)
{
    const int64_t channels = q->h, k = q->s;
    for (int64_t t = 0; t < q->n; t++)
        for (int64_t c = 0; c < channels; c++) {
            double sum = q->in[2][c];
            for (int64_t j = 0; j < k; j++) {
                int64_t from = t - (k - 1) + j;
                if (q->index[t] - (k - 1) + j < q->doc_start[t]) continue;
                sum += q->in[1][c * k + j] *
                       (from >= 0 ? q->in[0][from * channels + c] : state[(k - 1 + from) * channels + c]);
            }
            y[t * channels + c] = sum;
        }
    double *kept = malloc((size_t)(channels * (k + q->n)) * sizeof *kept); /* state ++ x */
    memcpy(kept, state, (size_t)(channels * (k - 1)) * sizeof *kept);
    memcpy(kept + channels * (k - 1), q->in[0], (size_t)(channels * q->n) * sizeof *kept);
    memcpy(state, kept + channels * q->n, (size_t)(channels * (k - 1)) * sizeof *kept);
    free(kept);
}

static void naive_ssd(const problem *q, double *y, double *state)
{
    const double *x = q->in[0], *dt = q->in[1], *b = q->in[3], *c = q->in[4];
    for (int64_t t = 0; t < q->n; t++)
        for (int64_t h = 0; h < q->h; h++) {
            const int64_t g = h / (q->h / q->g);
            const double d = dt[t * q->h + h], decay = exp(d * q->in[2][h]);
            for (int64_t p = 0; p < q->p; p++) {
                const double xt = x[(t * q->h + h) * q->p + p];
                double sum = q->in[5][h] * xt;
                for (int64_t s = 0; s < q->s; s++) {
                    double *at = &state[(h * q->s + s) * q->p + p];
                    *at = (first(q, t) ? 0 : decay * *at) + d * xt * b[(t * q->g + g) * q->s + s];
                    sum += *at * c[(t * q->g + g) * q->s + s];
                }
                y[(t * q->h + h) * q->p + p] = sum;
            }
        }
}

static void naive_mamba1(const problem *q, double *y, double *state)
{
    const double *x = q->in[0], *dt = q->in[1], *a = q->in[2], *b = q->in[3], *c = q->in[4];
    for (int64_t t = 0; t < q->n; t++)
        for (int64_t i = 0; i < q->h; i++) {
            const double xt = x[t * q->h + i], d = dt[t * q->h + i];
            const int64_t of = (t * q->g + i / (q->h / q->g)) * q->s; /* B and C of its group */
            double sum = q->in[5][i] * xt;
            for (int64_t s = 0; s < q->s; s++) {
                double *at = &state[s * q->h + i];
                *at = (first(q, t) ? 0 : exp(d * a[i * q->s + s]) * *at) + d * xt * b[of + s];
                sum += *at * c[of + s];
            }
            y[t * q->h + i] = sum;
        }
}

static problem make(const char *op, int64_t n, int64_t h, int64_t p, int64_t g, int64_t s, int64_t chunk,
                    const int *starts)
{
    problem q = {
        .op = op, .n = n, .h = h, .p = p, .g = g, .s = s, .chunk = chunk, .num_y = n * h * p, .num_in = 6};
    const bool conv = strcmp(op, "conv") == 0, ssd = strcmp(op, "ssd") == 0;
    q.naive = conv ? naive_conv : ssd ? naive_ssd : naive_mamba1;
    q.num_state = conv ? h * (s - 1) : h * s * p;
    int64_t count[MOST_INPUTS] = {n * h * p, n * h, ssd ? h : h * s, n * g * s, n * g * s, h};
    if (conv) {
        q.num_in = 3;
        count[1] = h * s;
        count[2] = h;
    }
    for (int i = 0; i < q.num_in; i++) {
        q.count[i] = count[i];
        q.in[i] = !conv && i == 1   ? ht_positive(count[i])
                  : !conv && i == 2 ? ht_negative(count[i])
                                    : ht_pattern(i + 1, count[i]);
    }
    q.dy = ht_pattern(11, q.num_y);
    assert_true(n <= MOST_TOKENS);
    documents(&q, starts);
    return q;
}

static void release(problem *q)
{
    for (int i = 0; i < q->num_in; i++) free(q->in[i]);
    free(q->dy);
}

/* ---- cases ---- */

static int64_t num_chunks(const problem *q)
{
    return (q->n + q->chunk - 1) / q->chunk;
}

static kt_operand tokens(const int32_t *v, int64_t n)
{
    return (kt_operand){v, 'i', 1, {n}};
}

/* operands x … D of ssd or mamba1 from in[at] on, then index and doc_start */
static void scan_inputs(const problem *q, kt_case *k, int at)
{
    const bool ssd = strcmp(q->op, "ssd") == 0;
    const kt_operand in[8] = {{q->in[0], 'r', ssd ? 3 : 2, {q->n, q->h, q->p}},
                              {q->in[1], 'r', 2, {q->n, q->h}},
                              {q->in[2], 'w', ssd ? 1 : 2, {q->h, q->s}},
                              {q->in[3], 'r', ssd ? 3 : 2, {q->n, ssd ? q->g : q->g * q->s, q->s}},
                              {q->in[4], 'r', ssd ? 3 : 2, {q->n, ssd ? q->g : q->g * q->s, q->s}},
                              {q->in[5], 'r', 1, {q->h}},
                              tokens(q->index, q->n),
                              tokens(q->doc_start, q->n)};
    for (int i = 0; i < 8; i++) k->in[at + i] = in[i];
    k->num_in = at + 8;
    k->attrs.chunk = q->chunk;
}

static kt_operand states_of(const problem *q, const double *values)
{
    if (strcmp(q->op, "ssd") == 0) return (kt_operand){values, 'w', 4, {num_chunks(q), q->h, q->s, q->p}};
    return (kt_operand){values, 'w', 3, {num_chunks(q), q->s, q->h}};
}
static kt_operand state_of(const problem *q, const double *values)
{
    if (strcmp(q->op, "conv") == 0) return (kt_operand){values, 'r', 2, {q->s - 1, q->h}};
    if (strcmp(q->op, "ssd") == 0) return (kt_operand){values, 'w', 3, {q->h, q->s, q->p}};
    return (kt_operand){values, 'w', 2, {q->s, q->h}};
}

/* state: NULL none */
static kt_case forward_case(const problem *q, const double *state)
{
    kt_case k = {.op = q->op};
    if (strcmp(q->op, "conv") == 0) {
        const kt_operand in[6] = {{q->in[0], 'r', 2, {q->n, q->h}}, {q->in[1], 'r', 2, {q->h, q->s}},
                                  {q->in[2], 'r', 1, {q->h}},       tokens(q->index, q->n),
                                  tokens(q->doc_start, q->n),       state_of(q, state)};
        memcpy(k.in, in, sizeof in);
        k.num_in = state ? 6 : 5;
        k.out[0] = (kt_operand){NULL, 'r', 2, {q->n, q->h}};
        k.out[1] = state_of(q, NULL);
        k.num_out = state ? 2 : 1;
        return k;
    }
    scan_inputs(q, &k, 0);
    if (state) k.in[k.num_in++] = state_of(q, state);
    k.out[0] = (kt_operand){NULL, 'r', strcmp(q->op, "ssd") == 0 ? 3 : 2, {q->n, q->h, q->p}};
    k.out[1] = states_of(q, NULL);
    k.out[2] = state_of(q, NULL);
    k.num_out = state ? 3 : 2;
    return k;
}

static kt_case backward_case(const problem *q, const double *states)
{
    const bool ssd = strcmp(q->op, "ssd") == 0;
    kt_case k = {.op = ssd ? "ssd_bwd" : "mamba1_bwd"};
    k.in[0] = (kt_operand){q->dy, 'r', ssd ? 3 : 2, {q->n, q->h, q->p}};
    scan_inputs(q, &k, 1);
    k.in[k.num_in++] = states_of(q, states);
    k.out[0] = (kt_operand){NULL, 'r', k.in[0].rank, {q->n, q->h, q->p}};
    k.out[1] =
        ssd ? (kt_operand){NULL, 'r', 3, {q->n, q->g, q->s}} : (kt_operand){NULL, 'r', 2, {q->n, q->h}};
    k.out[2] = ssd ? k.out[1] : (kt_operand){NULL, 'w', 3, {q->n, 2, q->g * q->s}};
    k.out[3] =
        ssd ? (kt_operand){NULL, 'w', 3, {q->n, 3, q->h}} : (kt_operand){NULL, 'w', 2, {q->s + 1, q->h}};
    k.num_out = 4;
    return k;
}

/* ---- gradients ---- */

typedef struct gradients {
    double *of[MOST_INPUTS];
} gradients;

static void gradients_of_ssd(const problem *q, am_dtype real, const double *out, gradients *d)
{
    const double *dd = out + q->count[0] + 2 * q->count[3];
    kt_case k = {.op = "ssd_sums", .num_in = 3, .num_out = 3};
    k.in[0] = (kt_operand){dd, 'w', 3, {q->n, 3, q->h}};
    k.in[1] = (kt_operand){q->in[1], 'r', 2, {q->n, q->h}};
    k.in[2] = (kt_operand){q->in[2], 'w', 1, {q->h}};
    k.out[0] = (kt_operand){NULL, 'r', 2, {q->n, q->h}};
    k.out[1] = k.out[2] = (kt_operand){NULL, 'w', 1, {q->h}};
    double *sums = ht_run(&k, real, 1, false);
    const double *from[MOST_INPUTS] = {out,
                                       sums,
                                       sums + q->count[1],
                                       out + q->count[0],
                                       out + q->count[0] + q->count[3],
                                       sums + q->count[1] + q->h};
    for (int i = 0; i < 6; i++) memcpy(d->of[i], from[i], (size_t)q->count[i] * sizeof(double));
    free(sums);
}

static void gradients_of_mamba1(const problem *q, am_dtype real, const double *out, gradients *d)
{
    const double *dbc = out + 2 * q->count[0], *dad = dbc + 2 * q->count[3];
    kt_case k = {.op = "mamba1_split", .num_in = 2, .num_out = 4};
    k.in[0] = (kt_operand){dbc, 'w', 3, {q->n, 2, q->g * q->s}};
    k.in[1] = (kt_operand){dad, 'w', 2, {q->s + 1, q->h}};
    k.out[0] = k.out[1] = (kt_operand){NULL, 'r', 2, {q->n, q->g * q->s}};
    k.out[2] = (kt_operand){NULL, 'w', 2, {q->h, q->s}};
    k.out[3] = (kt_operand){NULL, 'w', 1, {q->h}};
    double *split = ht_run(&k, real, 1, false);
    const double *from[MOST_INPUTS] = {out,   out + q->count[0],   split + 2 * q->count[3],
                                       split, split + q->count[3], split + 2 * q->count[3] + q->count[2]};
    for (int i = 0; i < 6; i++) memcpy(d->of[i], from[i], (size_t)q->count[i] * sizeof(double));
    free(split);
}

static void gradients_of_conv(const problem *q, am_dtype real, gradients *d)
{
    const kt_operand dy = {q->dy, 'r', 2, {q->n, q->h}}, x = {q->in[0], 'r', 2, {q->n, q->h}},
                     w = {q->in[1], 'r', 2, {q->h, q->s}}, index = tokens(q->index, q->n),
                     doc = tokens(q->doc_start, q->n);
    const kt_case k[3] = {
        {.op = "conv_dx",
         .num_in = 4,
         .num_out = 1,
         .in = {dy, w, index, doc},
         .out = {{NULL, 'r', 2, {q->n, q->h}}}},
        {.op = "conv_dw",
         .num_in = 4,
         .num_out = 1,
         .in = {dy, x, index, doc},
         .out = {{NULL, 'w', 2, {q->h, q->s}}}},
        {.op = "bias_db", .num_in = 1, .num_out = 1, .in = {dy}, .out = {{NULL, 'w', 1, {q->h}}}}};
    for (int i = 0; i < 3; i++) {
        double *v = ht_run(&k[i], real, 1, false);
        memcpy(d->of[i], v, (size_t)q->count[i] * sizeof(double));
        free(v);
    }
}

static gradients run_gradients(const problem *q, am_dtype real)
{
    gradients d;
    for (int i = 0; i < q->num_in; i++) d.of[i] = malloc((size_t)q->count[i] * sizeof(double));
    if (strcmp(q->op, "conv") == 0) {
        gradients_of_conv(q, real, &d);
        return d;
    }
    kt_case f = forward_case(q, NULL);
    double *y = ht_run(&f, real, 1, false);
    kt_case b = backward_case(q, y + q->num_y);
    double *out = ht_run(&b, real, 1, false);
    strcmp(q->op, "ssd") == 0 ? gradients_of_ssd(q, real, out, &d) : gradients_of_mamba1(q, real, out, &d);
    free(y);
    free(out);
    return d;
}

static double loss(const problem *q)
{
    double *y = malloc((size_t)q->num_y * sizeof *y),
           *state = calloc((size_t)q->num_state + 1, sizeof *state), sum = 0;
    q->naive(q, y, state);
    for (int64_t i = 0; i < q->num_y; i++) sum += q->dy[i] * y[i];
    free(y);
    free(state);
    return sum;
}

/* f64 kernels against central differences of the plain recurrence: their error is h²·f''' / 6 and
 * 1e-16·|loss| / h, 1e-8 in all */
static void check_differences(problem *q)
{
    static const char *const names[] = {"dx", "ddt (dw)", "dA (db)", "dB", "dC", "dD"};
    const double step = 1e-5;
    gradients d = run_gradients(q, AM_F64);
    for (int i = 0; i < q->num_in; i++) {
        double *want = malloc((size_t)q->count[i] * sizeof *want);
        for (int64_t k = 0; k < q->count[i]; k++) {
            const double was = q->in[i][k];
            q->in[i][k] = was + step;
            const double up = loss(q);
            q->in[i][k] = was - step;
            want[k] = (up - loss(q)) / (2 * step);
            q->in[i][k] = was;
        }
        ht_near(names[i], AM_F64, d.of[i], want, q->count[i], 3e-8);
        free(want);
        free(d.of[i]);
    }
}

/* ---- what is checked of a problem ---- */

static const double tolerance[3] = {
    1e-12, 2e-5, 1.2e-2}; /* f64, f32: sums of 100 products of order 1; bf16: 2^-9 of y, and of x */

static void check_forward_here(void *context)
{
    const problem *q = context;
    double *want = malloc((size_t)q->num_y * sizeof *want),
           *state = calloc((size_t)q->num_state + 1, sizeof *state);
    q->naive(q, want, state);
    kt_case k = forward_case(q, NULL);
    for (int r = 0; r < 3; r++) {
        double *got = ht_run(&k, ht_reals[r], 1, false);
        ht_near(q->op, ht_reals[r], got, want, q->num_y, tolerance[r]);
        free(got);
    }
    free(want);
    free(state);
}

/* the gradients in f32 and bf16 against those in f64, on this instruction set */
static void check_backward_here(void *context)
{
    const problem *q = context;
    gradients want = run_gradients(q, AM_F64);
    for (int r = 1; r < 3; r++) {
        gradients got = run_gradients(q, ht_reals[r]);
        for (int i = 0; i < q->num_in; i++) {
            double scale = 1;
            for (int64_t k = 0; k < q->count[i]; k++) scale = fmax(scale, fabs(want.of[i][k]));
            for (int64_t k = 0; k < q->count[i]; k++) {
                got.of[i][k] /= scale;
                want.of[i][k] /= scale;
            }
            ht_near(q->op, ht_reals[r], got.of[i], want.of[i], q->count[i], tolerance[r]);
            for (int64_t k = 0; k < q->count[i]; k++) want.of[i][k] *= scale;
            free(got.of[i]);
        }
    }
    for (int i = 0; i < q->num_in; i++) free(want.of[i]);
}

static void check_threads(const problem *q)
{
    kt_case f = forward_case(q, NULL);
    ht_bitwise(&f);
    if (strcmp(q->op, "conv") == 0) {
        const kt_operand dy = {q->dy, 'r', 2, {q->n, q->h}}, index = tokens(q->index, q->n),
                         doc = tokens(q->doc_start, q->n);
        kt_case k = {.op = "conv_dw",
                     .num_in = 4,
                     .num_out = 1,
                     .in = {dy, {q->in[0], 'r', 2, {q->n, q->h}}, index, doc},
                     .out = {{NULL, 'w', 2, {q->h, q->s}}},
                     .accumulates = true};
        ht_bitwise(&k);
        return;
    }
    kt_case b = backward_case(q, NULL);
    ht_bitwise(&b);
}

static void check(problem q, bool differences)
{
    ht_each_isa(check_forward_here, &q);
    if (differences) check_differences(&q);
    ht_each_isa(check_backward_here, &q);
    check_threads(&q);
    release(&q);
}

/* ---- a text in pieces ---- */

/* The tokens from `begin` on, `n` of them; the arrays belong to q. */
static problem piece(const problem *q, int64_t begin, int64_t n)
{
    problem r = *q;
    const bool conv = strcmp(q->op, "conv") == 0;
    r.n = n;
    r.num_y = q->num_y / q->n * n;
    for (int i = 0; i < q->num_in; i++)
        if (conv ? i == 0 : i != 2 && i != 5) r.in[i] += q->count[i] / q->n * begin;
    memmove(r.index, q->index + begin, (size_t)n * sizeof *r.index);
    memmove(r.doc_start, q->doc_start + begin, (size_t)n * sizeof *r.doc_start);
    return r;
}

static void check_pieces(problem q, const int *sizes)
{
    double *want = malloc((size_t)q.num_y * sizeof *want),
           *none = calloc((size_t)q.num_state + 1, sizeof *none);
    q.naive(&q, want, none);
    for (int r = 0; r < 3; r++) {
        double *state = malloc((size_t)(q.num_state + 1) * sizeof *state);
        for (int64_t i = 0; i < q.num_state; i++) state[i] = NAN; /* of another text */
        for (int64_t at = 0, k = 0; at < q.n; k++) {
            const problem part = piece(&q, at, sizes[k]);
            kt_case c = forward_case(&part, state);
            double *got = ht_run(&c, ht_reals[r], 2, false);
            ht_near("piece", ht_reals[r], got, want + q.num_y / q.n * at, part.num_y, tolerance[r]);
            memcpy(state,
                   got + part.num_y + (strcmp(q.op, "conv") == 0 ? 0 : num_chunks(&part) * q.num_state),
                   (size_t)q.num_state * sizeof *state);
            free(got);
            at += sizes[k];
        }
        ht_near("last state", ht_reals[r], state, none, q.num_state, tolerance[r]);
        free(state);
    }
    free(want);
    free(none);
    release(&q);
}

/* ---- cases ---- */

static const int one[] = {0, -1}, several[] = {0, 3, 8, 21, 22, 36, -1}, far[] = {0, 100, 128, 255, -1};

static void test_conv__documents(void **s)
{
    check(make("conv", 37, 13, 1, 1, 4, 1, several), true);
}
static void test_conv__one_tap_and_many_channels(void **s)
{
    check(make("conv", 70, 67, 1, 1, 1, 1, one), false);
    check(make("conv", 200, 100, 1, 1, 3, 1, far), false);
}
static void test_conv__pieces(void **s)
{
    check_pieces(make("conv", 37, 13, 1, 1, 4, 1, several), (int[]){1, 1, 2, 5, 12, 1, 1, 14});
}

static void test_ssd__documents(void **s)
{
    check(make("ssd", 37, 4, 5, 2, 6, 8, several), true);
}
static void test_ssd__one_document_ragged_chunk(void **s)
{
    check(make("ssd", 33, 3, 9, 1, 7, 16, one), true);
}
static void test_ssd__one_chunk(void **s)
{
    check(make("ssd", 21, 2, 3, 2, 5, 128, one), true);
}
static void test_ssd__wide(void **s)
{
    check(make("ssd", 300, 6, 65, 2, 40, 128, far), false);
}
static void test_ssd__heads_beyond_the_strips(void **s)
{
    check(make("ssd", 40, 38, 4, 2, 8, 16, several), false);
}
static void test_ssd__pieces(void **s)
{
    check_pieces(make("ssd", 37, 4, 5, 2, 6, 8, several), (int[]){1, 1, 2, 5, 12, 1, 1, 14});
}

static void test_mamba1__documents(void **s)
{
    check(make("mamba1", 37, 11, 1, 1, 6, 8, several), true);
}
static void test_mamba1__one_document_ragged_chunk(void **s)
{
    check(make("mamba1", 33, 5, 1, 1, 16, 16, one), true);
}
static void test_mamba1__wide(void **s)
{
    check(make("mamba1", 300, 200, 1, 1, 16, 64, far), false);
}
/* groups narrower than a vector, and of several strips */
static void test_mamba1__groups(void **s)
{
    check(make("mamba1", 37, 15, 1, 3, 6, 8, several), true);
    check(make("mamba1", 75, 300, 1, 2, 5, 64, far), false);
}
static void test_mamba1__pieces(void **s)
{
    check_pieces(make("mamba1", 37, 11, 1, 1, 6, 8, several), (int[]){1, 1, 2, 5, 12, 1, 1, 14});
    check_pieces(make("mamba1", 37, 12, 1, 4, 6, 8, several), (int[]){1, 1, 2, 5, 12, 1, 1, 14});
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_conv__documents),
        cmocka_unit_test(test_conv__one_tap_and_many_channels),
        cmocka_unit_test(test_conv__pieces),
        cmocka_unit_test(test_ssd__documents),
        cmocka_unit_test(test_ssd__one_document_ragged_chunk),
        cmocka_unit_test(test_ssd__one_chunk),
        cmocka_unit_test(test_ssd__wide),
        cmocka_unit_test(test_ssd__heads_beyond_the_strips),
        cmocka_unit_test(test_ssd__pieces),
        cmocka_unit_test(test_mamba1__documents),
        cmocka_unit_test(test_mamba1__one_document_ragged_chunk),
        cmocka_unit_test(test_mamba1__wide),
        cmocka_unit_test(test_mamba1__groups),
        cmocka_unit_test(test_mamba1__pieces),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
