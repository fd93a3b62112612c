/* test_experts: selection and grouped products against their definitions in double: the k largest by sorting
 * all, the route by looking at every slot, rows and factors by index, products by loops over an expert's
 * rows.  Experts without rows, one with nearly all, slots of experts that have no tensors (their rows are
 * zero); independence of threads, bit for bit; weights of a bf16 product in fp32.
 *
 * Tolerances of products: those of test_linear.c.  Rows that are moved or chosen are exact. */
#include "heavy_test.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* ---- selection -------------------------------------------------------------------------------------------
 */

enum { M = 33, E = 11, K = 4 };

/* few different values: many are equal */
static double *coarse(int64_t n)
{
    double *x = ht_random(9, n);
    for (int64_t i = 0; i < n; i++) x[i] = floor(x[i] * 64) / 4;
    return x;
}

/* does i come before j among the largest of a row? */
static bool before(const double *x, int i, int j)
{
    return x[i] > x[j] || (x[i] == x[j] && i < j);
}

static int rank_of(const double *x, int i)
{
    int rank = 0;
    for (int j = 0; j < E; j++) rank += before(x, j, i);
    return rank;
}

static void test_topk__values_falling_lowest_index_first(void **state)
{
    double *x = coarse(M * E), y[M * K], index[M * K], mask[M * E];
    for (int m = 0; m < M; m++)
        for (int i = 0; i < E; i++) {
            int r = rank_of(x + m * E, i);
            mask[m * E + i] = r < K;
            if (r < K) y[m * K + r] = x[m * E + i], index[m * K + r] = i;
        }
    kt_case k = {.op = "topk",
                 .num_in = 1,
                 .num_out = 2,
                 .in = {{x, 'r', 2, {M, E}}},
                 .out = {{y, 'r', 2, {M, K}}, {index, 'i', 2, {M, K}}}};
    kt_compare(&k);
    kt_bitwise(&k);
    k = (kt_case){.op = "topmask",
                  .attrs = {.count = K},
                  .num_in = 1,
                  .num_out = 1,
                  .in = {{x, 'r', 2, {M, E}}},
                  .out = {{mask, 'r', 2, {M, E}}}};
    kt_compare(&k);
    free(x);
}

static void test_topk__refuses_more_than_there_are(void **state)
{
    kt_case k = {.op = "topk",
                 .num_in = 1,
                 .num_out = 2,
                 .in = {{NULL, 'r', 2, {2, 3}}},
                 .out = {{NULL, 'r', 2, {2, 4}}, {NULL, 'i', 2, {2, 4}}}};
    assert_int_equal(kt_call(&k, AM_F32, 1, false, NULL, NULL), AM_ERR_SHAPE);
}

static void test_pick__and_its_gradient(void **state)
{
    double *x = ht_random(1, M * E), *dy = ht_random(2, M * K), y[M * K], dx[M * E] = {0};
    int32_t index[M * K];
    for (int i = 0; i < M * K; i++) {
        index[i] = (int32_t)((i / K * 5 + i % K * 7) % E);
        y[i] = x[i / K * E + index[i]];
        dx[i / K * E + index[i]] += dy[i];
    }
    kt_case k = {.op = "pick",
                 .num_in = 2,
                 .num_out = 1,
                 .in = {{x, 'r', 2, {M, E}}, {index, 'i', 2, {M, K}}},
                 .out = {{y, 'r', 2, {M, K}}}};
    kt_compare(&k);
    k = (kt_case){.op = "pick_bwd",
                  .num_in = 2,
                  .num_out = 1,
                  .in = {{dy, 'r', 2, {M, K}}, {index, 'i', 2, {M, K}}},
                  .out = {{dx, 'r', 2, {M, E}}}};
    kt_compare(&k);
    free(x);
    free(dy);
}

/* ---- routes
 * ------------------------------------------------------------------------------------------------- */

typedef struct table {
    int64_t tokens, k, slots, experts;
    int32_t *expert, *slot, *place, *offsets;
} table;

/* expert 1 gets most slots, expert 2 none; every eleventh slot belongs to an expert without tensors */
static table make_table(int64_t tokens, int64_t k, int64_t experts)
{
    table t = {tokens, k, tokens * k, experts, NULL, NULL, NULL, NULL};
    t.expert = malloc((size_t)(4 * t.slots + experts + 1) * sizeof *t.expert);
    assert_non_null(t.expert);
    t.slot = t.expert + t.slots, t.place = t.slot + t.slots, t.offsets = t.place + t.slots;
    int32_t row = 0;
    for (int64_t i = 0; i < t.slots; i++) {
        uint64_t r = am_random_u64(1, 2, (uint64_t)i);
        t.expert[i] = i % 11 == 5 ? (int32_t)(experts + i % 2)
                      : r % 2     ? 1 % (int32_t)experts
                                  : (int32_t)(r / 2 % (uint64_t)experts);
        if (t.expert[i] == 2) t.expert[i] = 0;
        t.place[i] = t.slot[i] = -1;
    }
    for (int32_t e = 0; e < experts; e++) {
        t.offsets[e] = row;
        for (int64_t i = 0; i < t.slots; i++)
            if (t.expert[i] == e) t.slot[row] = (int32_t)i, t.place[i] = row++;
    }
    t.offsets[experts] = row;
    return t;
}

static double *doubles(const int32_t *x, int64_t n)
{
    double *d = malloc((size_t)n * sizeof *d);
    assert_non_null(d);
    for (int64_t i = 0; i < n; i++) d[i] = x[i];
    return d;
}

static void test_route__is_stable_and_leaves_out_what_has_no_tensors(void **state)
{
    static const int64_t experts[] = {1, 5, 40};
    for (int i = 0; i < 3; i++) {
        table t = make_table(37, 3, experts[i]);
        double *slot = doubles(t.slot, t.slots), *place = doubles(t.place, t.slots),
               *offsets = doubles(t.offsets, t.experts + 1);
        kt_case k = {.op = "route",
                     .num_in = 1,
                     .num_out = 3,
                     .in = {{t.expert, 'i', 1, {t.slots}}},
                     .out = {{slot, 'i', 1, {t.slots}},
                             {place, 'i', 1, {t.slots}},
                             {offsets, 'i', 1, {t.experts + 1}}}};
        kt_compare(&k);
        free(slot), free(place), free(offsets), free(t.expert);
    }
}

/* ---- rows and factors
 * ------------------------------------------------------------------------------------------ */

typedef struct rows {
    table t;
    double *x, *h, *w, *y; /* [tokens, W] or [slots, W]; sorted [slots, W]; [slots]; results */
} rows;

enum { WIDTH = 45 };

static rows make_rows(void)
{
    rows r = {.t = make_table(41, 3, 6)};
    r.x = ht_random(1, r.t.slots * WIDTH), r.h = ht_random(2, r.t.slots * WIDTH),
    r.w = ht_random(3, r.t.slots);
    r.y = calloc((size_t)(r.t.slots * WIDTH), sizeof *r.y);
    assert_non_null(r.y);
    return r;
}

static void free_rows(rows *r)
{
    free(r->x), free(r->h), free(r->w), free(r->y), free(r->t.expert);
}

static void check_rows(rows *r, const char *op, int num_in, const kt_operand *first, const kt_operand *out,
                       char factor)
{
    const table *t = &r->t;
    kt_case k = {.op = op,
                 .num_in = num_in,
                 .num_out = 1,
                 .out = {*out},
                 .tolerance = {0, 1e-6, 0x1p-7},
                 .in = {*first,
                        {t->slot, 'i', 1, {t->slots}},
                        {t->place, 'i', 1, {t->slots}},
                        {r->w, factor, 1, {t->slots}}}};
    kt_compare(&k);
    kt_bitwise(&k);
}

/* each: slots of a row of x: t.k (x of the tokens) or 1 (x of the slots) */
static void test_dispatch__repeats_or_sorts(void **state)
{
    for (int variant = 0; variant < 6; variant++) {
        rows r = make_rows();
        int64_t each = variant % 2 ? 1 : r.t.k;
        bool weighted = variant / 2 > 0;
        for (int64_t p = 0; p < r.t.slots; p++)
            for (int c = 0; c < WIDTH && r.t.slot[p] >= 0; c++)
                r.y[p * WIDTH + c] = (weighted ? r.w[r.t.slot[p]] : 1) * r.x[r.t.slot[p] / each * WIDTH + c];
        check_rows(&r, "dispatch", weighted ? 4 : 3, &(kt_operand){r.x, 'r', 1, {r.t.slots / each * WIDTH}},
                   &(kt_operand){r.y, 'r', 2, {r.t.slots, WIDTH}}, variant / 2 == 2 ? 'w' : 'r');
        free_rows(&r);
    }
}

static void test_combine__adds_a_tokens_slots(void **state)
{
    for (int variant = 0; variant < 6; variant++) {
        rows r = make_rows();
        int64_t each = variant % 2 ? 1 : r.t.k, n = r.t.slots / each;
        bool weighted = variant / 2 > 0;
        for (int64_t i = 0; i < r.t.slots; i++)
            for (int c = 0; c < WIDTH && r.t.place[i] >= 0; c++)
                r.y[i / each * WIDTH + c] += (weighted ? r.w[i] : 1) * r.h[r.t.place[i] * WIDTH + c];
        check_rows(&r, "combine", weighted ? 4 : 3, &(kt_operand){r.h, 'r', 2, {r.t.slots, WIDTH}},
                   &(kt_operand){r.y, 'r', 1, {n * WIDTH}}, variant / 2 == 2 ? 'w' : 'r');
        free_rows(&r);
    }
}

static void test_slot_scale__and_the_gradient_of_factors(void **state)
{
    for (int sorted = 0; sorted < 2; sorted++) {
        rows r = make_rows();
        const table *t = &r.t;
        double *dw = calloc((size_t)t->slots, sizeof *dw);
        assert_non_null(dw);
        for (int64_t p = 0; p < t->slots; p++)
            for (int c = 0; c < WIDTH; c++)
                r.y[p * WIDTH + c] = t->slot[p] < 0 ? 0 : r.w[t->slot[p]] * r.h[p * WIDTH + c];
        check_rows(&r, "slot_scale", 4, &(kt_operand){r.h, 'r', 2, {t->slots, WIDTH}},
                   &(kt_operand){r.y, 'r', 2, {t->slots, WIDTH}}, sorted ? 'w' : 'r');
        for (int64_t i = 0; i < t->slots; i++)
            for (int c = 0; c < WIDTH && t->place[i] >= 0; c++)
                dw[i] += r.x[(sorted ? t->place[i] : i / t->k) * WIDTH + c] * r.h[t->place[i] * WIDTH + c];
        kt_case k = {.op = "slot_dot",
                     .attrs = {.index = sorted},
                     .num_in = 3,
                     .num_out = 1,
                     .tolerance = {1e-14, 1e-5, 0x1p-6},
                     .in = {{r.x, 'r', 1, {(sorted ? t->slots : t->tokens) * WIDTH}},
                            {r.h, 'r', 2, {t->slots, WIDTH}},
                            {t->place, 'i', 1, {t->slots}}},
                     .out = {{dw, sorted ? 'r' : 'w', 1, {t->slots}}}};
        kt_compare(&k);
        kt_bitwise(&k);
        free(dw);
        free_rows(&r);
    }
}

/* ---- SparseMixer, swap ------------------------------------------------------------------------------------
 */

/* the definition, with masks: what lies further below the largest than 2·eps of max(|x|, largest) is left out */
static void sparsemixer_row(const double *x, double eps, double *y, double *index)
{
    bool taken[E] = {false};
    for (int k = 0; k < 2; k++) {
        int best = -1;
        double sum = 0;
        for (int j = 0; j < E; j++)
            if (!taken[j] && (best < 0 || x[j] > x[best])) best = j;
        for (int j = 0; j < E; j++)
            if (!taken[j] && (x[best] - x[j]) / fmax(fabs(x[j]), x[best]) <= 2 * eps) sum += exp(x[j] - x[best]);
        y[k] = 1 / sum;
        index[k] = best;
        taken[best] = true;
    }
}

static void test_sparsemixer__definition(void **state)
{
    double *x = ht_random(3, M * E), y[M * 2], index[M * 2];
    for (int m = 0; m < M; m++) sparsemixer_row(x + m * E, 0.4, y + 2 * m, index + 2 * m);
    kt_case k = {.op = "sparsemixer",
                 .attrs = {.eps = 0.4},
                 .num_in = 1,
                 .num_out = 2,
                 .tolerance = {1e-14, 1e-6, 0x1p-8},
                 .in = {{x, 'r', 2, {M, E}}},
                 .out = {{y, 'r', 2, {M, 2}}, {index, 'i', 2, {M, 2}}}};
    kt_compare(&k);
    kt_bitwise(&k);
    free(x);
}

/* against central differences of the definition, in f64: step 1e-6, so that an error of 1e-9 is what to expect */
static void test_sparsemixer__gradient(void **state)
{
    double *x = ht_random(3, M * E), *dy = ht_random(5, M * 2), y[2], picked[M * 2], unused[2], want[M * E];
    int32_t index[M * 2];
    for (int m = 0; m < M; m++) sparsemixer_row(x + m * E, 0.4, y, picked + 2 * m);
    for (int i = 0; i < 2 * M; i++) index[i] = (int32_t)picked[i];
    for (int i = 0; i < M * E; i++) {
        const double keep = x[i], h = 1e-6;
        want[i] = 0;
        for (int sign = 1; sign >= -1; sign -= 2) {
            x[i] = keep + sign * h;
            sparsemixer_row(x + i / E * E, 0.4, y, unused);
            want[i] += sign * (dy[i / E * 2] * y[0] + dy[i / E * 2 + 1] * y[1]) / (2 * h);
        }
        x[i] = keep;
    }
    kt_case k = {.op = "sparsemixer_bwd",
                 .attrs = {.eps = 0.4},
                 .num_in = 3,
                 .num_out = 1,
                 .tolerance = {1e-8, 1e-5, 0x1p-7},
                 .in = {{dy, 'r', 2, {M, 2}}, {x, 'r', 2, {M, E}}, {index, 'i', 2, {M, 2}}},
                 .out = {{want, 'r', 2, {M, E}}}};
    kt_compare(&k);
    free(x);
    free(dy);
}

static void test_swap__is_exact(void **state)
{
    enum { N = 7, A = 3, B = 5, D = 4 };
    double *x = ht_random(1, N * A * B * D), y[N * A * B * D];
    for (int i = 0; i < N * A * B * D; i++)
        y[((i / (A * B * D) * B + i / D % B) * A + i / (B * D) % A) * D + i % D] = x[i];
    kt_case k = {.op = "swap",
                 .num_in = 1,
                 .num_out = 1,
                 .in = {{x, 'r', 4, {N, A, B, D}}},
                 .out = {{y, 'r', 4, {N, B, A, D}}}};
    kt_compare(&k);
    free(x);
}

/* ---- products
 * ---------------------------------------------------------------------------------------------------- */

enum { FORWARD, DX, DW, DB };
static const char *const ops[] = {"grouped_linear", "grouped_linear_dx", "grouped_linear_dw",
                                  "grouped_bias_db"};
static const double tolerance[3] = {1e-12, 1e-5, 0x1p-8};

typedef struct product {
    table t;
    kt_case k;
    double *x, *dy, *w, *bias, *want;
    int64_t in, out;
} product;

static void define(int op, product *p)
{
    const int64_t I = p->in, O = p->out;
    for (int64_t e = 0; e < p->t.experts; e++)
        for (int64_t s = p->t.offsets[e]; s < p->t.offsets[e + 1]; s++)
            for (int64_t o = 0; o < O; o++) {
                const double dy = p->dy[s * O + o], *w = p->w + (e * O + o) * I, *x = p->x + s * I;
                double *want = p->want + (op == FORWARD ? s * O + o
                                          : op == DX    ? s * I
                                          : op == DW    ? (e * O + o) * I
                                                        : e * O + o);
                if (op == FORWARD) *want += p->bias[e * O + o];
                if (op == DB) *want += dy;
                for (int64_t i = 0; i < I && op != DB; i++)
                    want[op == FORWARD ? 0 : i] += op == DX ? dy * w[i] : op == DW ? dy * x[i] : x[i] * w[i];
            }
}

static product make(int op, int64_t tokens, int64_t k, int64_t experts, int64_t in, int64_t out)
{
    product p = {.t = make_table(tokens, k, experts), .in = in, .out = out};
    const table *t = &p.t;
    int64_t S = t->slots, sizes[] = {S * out, S * in, experts * out * in, experts * out};
    p.x = ht_random(1, S * in), p.dy = ht_random(2, S * out), p.w = ht_random(3, sizes[2]),
    p.bias = ht_random(4, experts * out);
    p.want = calloc((size_t)sizes[op], sizeof *p.want);
    assert_non_null(p.want);
    define(op, &p);
    kt_operand x = {p.x, 'r', 2, {S, in}}, dy = {p.dy, 'r', 2, {S, out}},
               w = {p.w, 'r', 3, {experts, out, in}}, at = {t->offsets, 'i', 1, {experts + 1}},
               bias = {p.bias, 'r', 2, {experts, out}};
    p.k = (kt_case){.op = ops[op],
                    .num_in = op == FORWARD ? 4
                              : op == DB    ? 2
                                            : 3,
                    .num_out = 1,
                    .accumulates = op != FORWARD};
    const kt_operand operands[4][4] = {{x, w, at, bias}, {dy, w, at}, {dy, x, at}, {dy, at}};
    const kt_operand outs[4] = {{NULL, 'r', 2, {S, out}},
                                {NULL, 'r', 2, {S, in}},
                                {NULL, 'w', 3, {experts, out, in}},
                                {NULL, 'w', 2, {experts, out}}};
    memcpy(p.k.in, operands[op], sizeof operands[op]);
    p.k.out[0] = outs[op];
    return p;
}

static void release(product *p)
{
    free(p->x), free(p->dy), free(p->w), free(p->bias), free(p->want), free(p->t.expert);
}

static void compare_here(void *context)
{
    product *p = context;
    int64_t n = ht_elements(&p->k.out[0]);
    for (int type = 0; type < 3; type++)
        for (int acc = 0; acc <= (int)p->k.accumulates; acc++) {
            double *got = ht_run(&p->k, ht_reals[type], 2, acc), *want = malloc((size_t)n * sizeof *want);
            assert_non_null(want);
            for (int64_t i = 0; i < n; i++) want[i] = p->want[i] + acc;
            bool wide = p->k.out[0].type == 'w';
            ht_near(p->k.op, ht_reals[type], got, want, n,
                    (wide && type == 2 ? tolerance[1] : tolerance[type]) * (type == 1 || wide ? 3 : 1));
            free(want);
            free(got);
        }
}

/* tokens, slots of a token, experts, in, out: all slots one expert's; odd everything; columns beyond a piece;
 * k in blocks */
static const int64_t shapes[][5] = {
    {5, 1, 1, 3, 2}, {37, 3, 7, 33, 17}, {20, 2, 40, 16, 24}, {130, 2, 4, 70, 700}, {30, 2, 3, 900, 40}};

static void test_grouped__match_their_definitions(void **state)
{
    for (int op = FORWARD; op <= DB; op++)
        for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++) {
            product p = make(op, shapes[s][0], shapes[s][1], shapes[s][2], shapes[s][3], shapes[s][4]);
            ht_each_isa(compare_here, &p);
            release(&p);
        }
}

static void test_grouped__threads_change_no_bit(void **state)
{
    for (int op = FORWARD; op <= DB; op++)
        for (size_t s = 1; s < sizeof shapes / sizeof *shapes; s++) {
            product p = make(op, shapes[s][0], shapes[s][1], shapes[s][2], shapes[s][3], shapes[s][4]);
            ht_bitwise(&p.k);
            release(&p);
        }
}

/* one expert with all rows is linear: the same bits */
static void one_expert_here(void *context)
{
    for (int op = FORWARD; op <= DW; op++) {
        product p = make(op, 50, 1, 1, 801, 70);
        p.t.offsets[1] = 50;
        kt_case dense = p.k;
        dense.op = op == FORWARD ? "linear" : op == DX ? "linear_dx" : "linear_dw";
        if (op == DW)
            dense.out[0] = (kt_operand){NULL, 'w', 2, {70, 801}};
        else
            dense.in[1] = (kt_operand){p.w, 'r', 2, {70, 801}};
        dense.in[2] = op == FORWARD ? (kt_operand){p.bias, 'r', 1, {70}} : (kt_operand){0};
        dense.num_in = op == FORWARD ? 3 : 2;
        for (int type = 1; type < 3; type++) {
            double *a = ht_run(&p.k, ht_reals[type], 3, false), *b = ht_run(&dense, ht_reals[type], 2, false);
            assert_memory_equal(a, b, (size_t)ht_elements(&p.k.out[0]) * sizeof *a);
            free(a);
            free(b);
        }
        release(&p);
    }
}
static void test_grouped__one_expert_is_linear(void **state)
{
    ht_each_isa(one_expert_here, NULL);
}

/* w in fp32 in a bf16 product: as if rounded before */
static void rounded_here(void *context)
{
    for (int op = FORWARD; op <= DX; op++) {
        product p = make(op, 37, 3, 7, 34, 18);
        int64_t n = 7 * 34 * 18;
        double *wide = malloc((size_t)n * sizeof *wide);
        assert_non_null(wide);
        for (int64_t i = 0; i < n; i++) {
            wide[i] = (float)(p.w[i] * (1 + p.x[i % 100] / 64));
            p.w[i] = am_bf16_to_f32(am_f32_to_bf16((float)wide[i]));
        }
        kt_case unrounded = p.k;
        unrounded.in[1].values = wide, unrounded.in[1].type = 'w';
        double *a = ht_run(&unrounded, AM_BF16, 2, false), *b = ht_run(&p.k, AM_BF16, 2, false);
        assert_memory_equal(a, b, (size_t)ht_elements(&p.k.out[0]) * sizeof *a);
        free(a), free(b), free(wide);
        release(&p);
    }
}
static void test_grouped__weights_in_fp32(void **state)
{
    ht_each_isa(rounded_here, NULL);
}

static void test_grouped__refuses_offsets_that_do_not_fit(void **state)
{
    product p = make(FORWARD, 5, 2, 3, 4, 4);
    p.t.offsets[3] = 11;
    assert_int_equal(kt_call(&p.k, AM_F32, 1, false, NULL, NULL), AM_ERR_INTERNAL);
    p.k.in[2].dim[0] = 3;
    assert_int_equal(kt_call(&p.k, AM_F32, 1, false, NULL, NULL), AM_ERR_SHAPE);
    release(&p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_topk__values_falling_lowest_index_first),
        cmocka_unit_test(test_topk__refuses_more_than_there_are),
        cmocka_unit_test(test_pick__and_its_gradient),
        cmocka_unit_test(test_route__is_stable_and_leaves_out_what_has_no_tensors),
        cmocka_unit_test(test_dispatch__repeats_or_sorts),
        cmocka_unit_test(test_combine__adds_a_tokens_slots),
        cmocka_unit_test(test_slot_scale__and_the_gradient_of_factors),
        cmocka_unit_test(test_sparsemixer__definition),
        cmocka_unit_test(test_sparsemixer__gradient),
        cmocka_unit_test(test_swap__is_exact),
        cmocka_unit_test(test_grouped__match_their_definitions),
        cmocka_unit_test(test_grouped__threads_change_no_bit),
        cmocka_unit_test(test_grouped__one_expert_is_linear),
        cmocka_unit_test(test_grouped__weights_in_fp32),
        cmocka_unit_test(test_grouped__refuses_offsets_that_do_not_fit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
