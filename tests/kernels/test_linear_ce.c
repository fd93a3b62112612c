/* test_linear_ce: linear + cross-entropy against PyTorch (heavy_reference.h), against a naive definition
 * holding all logits, by finite differences in f64, over vocabulary parts joined by lse, with few and no
 * supervised tokens, with chunks of any size; threads; refusals.
 *
 * Tolerances: f64 1e-11; f32 2e-5 (sums of D <= 80 products of numbers <= 1, then exp and log of values up to
 * 20); bf16: inputs are exact, logits fp32; dlogits are rounded to bf16 (2^-9 relative), dh as well: 2^-7 of
 * the sum's size. */
#include "heavy_reference.h"
#include "heavy_test.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static const double forward_tol[3] = {1e-11, 2e-5, 2e-5}, backward_tol[3] = {1e-11, 2e-5, 0x1p-7};

typedef struct problem {
    int64_t n, d, v;
    am_attrs attrs;
    int32_t *labels;
    double *h, *w, *dlogp;
    double *lse, *target, *dh, *dw; /* naive */
    double *bias, *db;              /* NULL: none */
} problem;

static void *room(int64_t n, size_t size)
{
    void *p = calloc((size_t)n + 1, size);
    assert_non_null(p);
    return p;
}

/* every `every`-th token is supervised; 0: none */
static problem make(int64_t n, int64_t d, int64_t v, int every)
{
    problem p = {.n = n,
                 .d = d,
                 .v = v,
                 .labels = room(n, 4),
                 .h = ht_random(1, n * d),
                 .w = ht_random(2, v * d),
                 .dlogp = ht_random(3, n)};
    for (int64_t t = 0; t < n; t++) p.labels[t] = every && t % every == 0 ? (int32_t)(t * 131 % v) : -100;
    return p;
}

static void solve(problem *p)
{
    double *x = room(p->v, 8), *bend = room(p->v, 8), cap = p->attrs.softcap;
    p->lse = room(p->n, 8);
    p->target = room(p->n, 8);
    p->dh = room(p->n * p->d, 8);
    p->dw = room(p->v * p->d, 8);
    p->db = p->bias ? room(p->v, 8) : NULL;
    for (int64_t t = 0; t < p->n; t++) {
        if (p->labels[t] < 0) continue;
        double sum = 0;
        for (int64_t v = 0; v < p->v; v++) {
            x[v] = p->bias ? p->bias[v] : 0;
            for (int64_t i = 0; i < p->d; i++) x[v] += p->h[t * p->d + i] * p->w[v * p->d + i];
            bend[v] = cap != 0 ? tanh(x[v] / cap) : 0;
            if (cap != 0) x[v] = cap * bend[v];
            sum += exp(x[v]); /* |x| <= 80 */
        }
        p->lse[t] = log(sum);
        p->target[t] = x[p->labels[t]];
        for (int64_t v = 0; v < p->v; v++) {
            double g = p->dlogp[t] * ((v == p->labels[t]) - exp(x[v]) / sum) * (1 - bend[v] * bend[v]);
            if (p->db) p->db[v] += g;
            for (int64_t i = 0; i < p->d; i++) {
                p->dh[t * p->d + i] += g * p->w[v * p->d + i];
                p->dw[v * p->d + i] += g * p->h[t * p->d + i];
            }
        }
    }
    free(x);
    free(bend);
}

static void release(problem *p)
{
    void *all[] = {p->labels, p->h, p->w, p->dlogp, p->lse, p->target, p->dh, p->dw, p->bias, p->db};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) free(all[i]);
}

static kt_case forward_case(const problem *p)
{
    return (kt_case){.op = "linear_ce",
                     .attrs = p->attrs,
                     .num_in = p->bias ? 4 : 3,
                     .num_out = 2,
                     .in = {{p->h, 'r', 2, {p->n, p->d}},
                            {p->w, 'r', 2, {p->v, p->d}},
                            {p->labels, 'i', 1, {p->n}},
                            {p->bias, 'r', 1, {p->v}}},
                     .out = {{NULL, 'w', 1, {p->n}}, {NULL, 'w', 1, {p->n}}}};
}

static kt_case backward_case(const problem *p)
{
    return (kt_case){.op = "linear_ce_bwd",
                     .attrs = p->attrs,
                     .num_in = p->bias ? 6 : 5,
                     .num_out = p->bias ? 3 : 2,
                     .accumulates = true,
                     .in = {{p->h, 'r', 2, {p->n, p->d}},
                            {p->w, 'r', 2, {p->v, p->d}},
                            {p->labels, 'i', 1, {p->n}},
                            {p->lse, 'w', 1, {p->n}},
                            {p->dlogp, 'w', 1, {p->n}},
                            {p->bias, 'r', 1, {p->v}}},
                     .out = {{NULL, 'r', 2, {p->n, p->d}}, {NULL, 'w', 2, {p->v, p->d}}, {NULL, 'w', 1, {p->v}}}};
}

static kt_case grad_case(const problem *p, int64_t chunk)
{
    kt_case k = {.op = "linear_ce_grad",
                 .attrs = p->attrs,
                 .num_in = 4,
                 .num_out = 4,
                 .accumulates = true,
                 .in = {{p->h, 'r', 2, {p->n, p->d}},
                        {p->w, 'r', 2, {p->v, p->d}},
                        {p->labels, 'i', 1, {p->n}},
                        {p->dlogp, 'w', 1, {p->n}}},
                 .out = {{NULL, 'w', 1, {p->n}},
                         {NULL, 'w', 1, {p->n}},
                         {NULL, 'r', 2, {p->n, p->d}},
                         {NULL, 'w', 2, {p->v, p->d}}}};
    k.attrs.chunk = chunk;
    return k;
}

/* Forward and backward in one, chunk by chunk: all rows, one, and a number that does not divide them. */
static void compare_both_here(const problem *p)
{
    static const int64_t chunks[] = {0, 1, 3};
    for (int type = 0; type < 3; type++)
        for (int i = 0; i < 6; i++) {
            kt_case k = grad_case(p, chunks[i / 2]);
            double *got = ht_run(&k, ht_reals[type], 2, i % 2), *dh = got + 2 * p->n, *dw = dh + p->n * p->d;
            for (int64_t j = 0; i % 2 && j < p->v * p->d; j++) dw[j] -= 1; /* dw alone accumulates */
            ht_near("lse of both", ht_reals[type], got, p->lse, p->n, forward_tol[type]);
            ht_near("target of both", ht_reals[type], got + p->n, p->target, p->n, forward_tol[type]);
            ht_near("dh of both", ht_reals[type], dh, p->dh, p->n * p->d, backward_tol[type]);
            ht_near("dw of both", ht_reals[type], dw, p->dw, p->v * p->d, backward_tol[type]);
            free(got);
        }
}

static void compare_here(void *context)
{
    problem *p = context;
    if (p->attrs.softcap == 0 && !p->bias) compare_both_here(p);
    kt_case f = forward_case(p), b = backward_case(p);
    for (int type = 0; type < 3; type++) {
        double *got = ht_run(&f, ht_reals[type], 2, false);
        ht_near("lse", ht_reals[type], got, p->lse, p->n, forward_tol[type]);
        ht_near("target", ht_reals[type], got + p->n, p->target, p->n, forward_tol[type]);
        free(got);
        for (int acc = 0; acc < 2; acc++) {
            got = ht_run(&b, ht_reals[type], 2, acc);
            double *db = got + (p->n + p->v) * p->d;
            for (int64_t i = 0; acc && i < p->v * p->d; i++)
                got[p->n * p->d + i] -= 1; /* dw and db accumulate, dh does not */
            for (int64_t i = 0; acc && p->bias && i < p->v; i++) db[i] -= 1;
            if (p->bias) ht_near("db", ht_reals[type], db, p->db, p->v, backward_tol[type]);
            ht_near("dh", ht_reals[type], got, p->dh, p->n * p->d, backward_tol[type]);
            ht_near("dw", ht_reals[type], got + p->n * p->d, p->dw, p->v * p->d, backward_tol[type]);
            free(got);
        }
    }
}

static void compare(problem p)
{
    solve(&p);
    ht_each_isa(compare_here, &p);
    release(&p);
}

static void test_linear_ce__matches_definition(void **state)
{
    compare(make(1, 1, 1, 1));
    compare(make(37, 80, 301, 1));
    compare(make(70, 33, 1500, 2));
    compare(make(300, 8, 130, 7));
}

static void test_linear_ce__nothing_supervised(void **state)
{
    compare(make(20, 16, 50, 0)); /* zeros, and dw is written (or left as it was when accumulating) */
}

static void test_linear_ce__softcap(void **state)
{
    problem p = make(30, 24, 200, 1);
    p.attrs.softcap = 3;
    compare(p);
}

static void test_linear_ce__bias(void **state)
{
    static const int every[] = {1, 2, 7, 0}; /* supervised tokens */
    for (size_t i = 0; i < sizeof every / sizeof *every; i++) {
        problem p = make(50, 24, 1300, every[i]);
        p.bias = ht_random(4, p.v);
        p.attrs.softcap = i == 1 ? 3 : 0;
        p.attrs.chunk = 4;
        compare(p);
    }
}

static void test_linear_ce__chunks_of_any_size(void **state)
{
    for (int64_t chunk = 1; chunk <= 256; chunk *= 4) {
        problem p = make(60, 16, 1000, 1);
        p.attrs.chunk = chunk;
        compare(p);
    }
}

/* ---- against PyTorch
 * ------------------------------------------------------------------------------------------------ */

static void torch_here(void *context)
{
    static int32_t labels[5] = {3, -100, 10, 0, 7};
    problem p = {.n = 5,
                 .d = 6,
                 .v = 11,
                 .labels = labels,
                 .h = ht_pattern(5, 30),
                 .w = ht_pattern(6, 66),
                 .dlogp = ht_pattern(7, 5)};
    static const double tol[3] = {1e-12, 1e-6, 0x1p-8};
    for (int type = 0; type < 3; type++) {
        kt_case f = forward_case(&p);
        double *got = ht_run(&f, ht_reals[type], 2, false);
        for (int t = 0; t < 5; t++) {
            double logp = got[5 + t] - got[t];
            ht_near("log p", ht_reals[type], &logp, &torch_ce_logp[t], 1, tol[type ? 1 : 0]);
        }
        p.lse = got;
        kt_case b = backward_case(&p);
        double *grad = ht_run(&b, ht_reals[type], 2, false);
        ht_near("dh", ht_reals[type], grad, torch_ce_dh, 30, tol[type]);
        ht_near("dw", ht_reals[type], grad + 30, torch_ce_dw, 66, tol[type]);
        free(got);
        free(grad);
    }
    free(p.h);
    free(p.w);
    free(p.dlogp);
}
static void test_linear_ce__matches_torch(void **state) { ht_each_isa(torch_here, NULL); }

/* ---- properties
 * -------------------------------------------------------------------------------------------------------- */

/* the vocabulary in two parts: lse joins by log-sum-exp, targets add, gradients are the whole's */
static void parts_here(void *context)
{
    problem p = make(40, 24, 300, 1);
    solve(&p);
    static const int64_t begin[] = {0, 170, 300};
    double *parts[2], *dh = room(40 * 24, 8);
    for (int part = 0; part < 2; part++) {
        problem c = p;
        c.v = begin[part + 1] - begin[part];
        c.w = p.w + begin[part] * 24;
        c.attrs.offset = begin[part];
        c.attrs.count = 300;
        kt_case f = forward_case(&c), b = backward_case(&c); /* backward with the lse of the whole */
        parts[part] = ht_run(&f, AM_F32, 2, false);
        double *got = ht_run(&b, AM_F32, 2, false);
        for (int i = 0; i < 40 * 24; i++) dh[i] += got[i];
        ht_near("dw of a part", AM_F32, got + 40 * 24, p.dw + begin[part] * 24, c.v * 24, backward_tol[1]);
        free(got);
    }
    for (int t = 0; t < 40; t++) {
        double lse = log(exp(parts[0][t]) + exp(parts[1][t])), target = parts[0][40 + t] + parts[1][40 + t];
        ht_near("lse joined", AM_F32, &lse, &p.lse[t], 1, forward_tol[1]);
        ht_near("target joined", AM_F32, &target, &p.target[t], 1, forward_tol[1]);
    }
    ht_near("dh of both parts", AM_F32, dh, p.dh, 40 * 24, 2 * backward_tol[1]);
    free(parts[0]);
    free(parts[1]);
    free(dh);
    release(&p);
}
static void test_linear_ce__vocabulary_in_two_parts(void **state) { ht_each_isa(parts_here, NULL); }

/* either gradient alone (the other has rank 0 or is not counted) has the bits it has beside the other; f32 */
static void alone_here(void *context)
{
    problem p = make(30, 16, 200, 1);
    float h[30 * 16], w[200 * 16], lse[30], dlogp[30], dh[2][30 * 16], dw[2][200 * 16];
    solve(&p);
    for (int i = 0; i < 30 * 16; i++) h[i] = (float)p.h[i];
    for (int i = 0; i < 200 * 16; i++) w[i] = (float)p.w[i];
    for (int i = 0; i < 30; i++) {
        lse[i] = (float)p.lse[i];
        dlogp[i] = (float)p.dlogp[i];
    }
    const am_kernel *row = am_kernels_cpu_find("linear_ce_bwd");
    am_kernel_call c = {.attrs = &p.attrs,
                        .num_in = 5,
                        .num_out = 2,
                        .threads = 2,
                        .in = {{h, AM_F32, 2, {30, 16}},
                               {w, AM_F32, 2, {200, 16}},
                               {p.labels, AM_I32, 1, {30}},
                               {lse, AM_F32, 1, {30}},
                               {dlogp, AM_F32, 1, {30}}},
                        .out = {{dh[0], AM_F32, 2, {30, 16}}, {dw[0], AM_F32, 2, {200, 16}}}};
    c.workspace_bytes = row->workspace(&c);
    c.workspace = aligned_alloc(64, (c.workspace_bytes + 63) / 64 * 64);
    assert_int_equal(row->f32(&c), AM_OK);
    c.num_out = 1;
    c.out[0].data = dh[1];
    assert_int_equal(row->f32(&c), AM_OK);
    c.num_out = 2;
    c.out[0] = (am_tensor){.rank = 0};
    c.out[1].data = dw[1];
    assert_int_equal(row->f32(&c), AM_OK);
    assert_memory_equal(dh[0], dh[1], sizeof dh[0]);
    assert_memory_equal(dw[0], dw[1], sizeof dw[0]);
    free(c.workspace);
    release(&p);
}
static void test_linear_ce_bwd__either_output_alone(void **state) { ht_each_isa(alone_here, NULL); }

/* Logits of 512, 0, 0, …: all probability is entry 0's, and exp of the others underflows.  Token 0 is labelled
 * 0 (no gradient at all), token 1 V − 1, in the last vector's rest.  Every number is exact in every dtype. */
static void far_apart_here(void *context)
{
    enum { V = 77 };
    double h[2] = {64, 64}, w[V] = {8}, dlogp[2] = {-0.5, -0.5}, lse[2] = {512, 512}, target[2] = {512, 0};
    double dh[2] = {0, 4}, dw[V] = {32};
    int32_t labels[2] = {0, V - 1};
    dw[V - 1] = -32;
    problem p = {.n = 2, .d = 1, .v = V, .labels = labels, .h = h, .w = w, .dlogp = dlogp};
    p.lse = lse;
    p.target = target;
    p.dh = dh;
    p.dw = dw;
    compare_here(&p);
}
static void test_linear_ce__logits_far_apart(void **state) { ht_each_isa(far_apart_here, NULL); }

static void test_linear_ce__threads_change_no_bit(void **state)
{
    problem p = make(90, 40, 1300, 2);
    p.attrs.chunk = 20;
    solve(&p);
    kt_case g = grad_case(&p, 20);
    ht_bitwise(&g);
    for (int biased = 0; biased < 2; biased++) {
        if (biased) p.bias = ht_random(4, p.v);
        kt_case f = forward_case(&p), b = backward_case(&p);
        ht_bitwise(&f);
        ht_bitwise(&b);
    }
    release(&p);
}

static double weighted_logp(const problem *p)
{
    kt_case f = forward_case(p);
    double *got = ht_run(&f, AM_F64, 1, false), sum = 0;
    for (int64_t t = 0; t < p->n; t++) sum += p->dlogp[t] * (got[p->n + t] - got[t]);
    free(got);
    return sum;
}

static void check_gradient(problem *p, const char *name, double *x, const double *grad, int64_t n)
{
    const double h = 1e-5; /* error h²·f''' ~ 1e-10 and 1e-15/h ~ 1e-10 */
    for (int64_t i = 0; i < n; i++) {
        double keep = x[i];
        x[i] = keep + h;
        double up = weighted_logp(p);
        x[i] = keep - h;
        double slope = (up - weighted_logp(p)) / (2 * h);
        x[i] = keep;
        ht_near(name, AM_F64, &grad[i], &slope, 1, 1e-8);
    }
}

static void test_linear_ce_bwd__finite_differences(void **state)
{
    problem p = make(7, 5, 13, 2);
    p.attrs.softcap = 2.5;
    solve(&p);
    kt_case b = backward_case(&p);
    double *got = ht_run(&b, AM_F64, 2, false);
    check_gradient(&p, "dh", p.h, got, 35);
    check_gradient(&p, "dw", p.w, got + 35, 65);
    free(got);
    release(&p);
}

static void test_linear_ce__refuses_labels_outside_the_vocabulary(void **state)
{
    problem p = make(4, 4, 10, 1);
    p.labels[2] = 10;
    kt_case f = forward_case(&p);
    assert_int_equal(kt_call(&f, AM_F32, 1, false, NULL, NULL), AM_ERR_DATA);
    assert_non_null(strstr(am_error_message(), "label 10 of token 2"));
    p.attrs.count = 11; /* entry 10 is on another rank */
    f = forward_case(&p);
    assert_int_equal(kt_call(&f, AM_F32, 1, false, NULL, NULL), AM_OK);
    p.attrs.offset = 5;
    f = forward_case(&p);
    assert_int_equal(kt_call(&f, AM_F32, 1, false, NULL, NULL), AM_ERR_SHAPE);
    release(&p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_linear_ce__matches_torch),
        cmocka_unit_test(test_linear_ce__matches_definition),
        cmocka_unit_test(test_linear_ce__nothing_supervised),
        cmocka_unit_test(test_linear_ce__softcap),
        cmocka_unit_test(test_linear_ce__bias),
        cmocka_unit_test(test_linear_ce__chunks_of_any_size),
        cmocka_unit_test(test_linear_ce__vocabulary_in_two_parts),
        cmocka_unit_test(test_linear_ce_bwd__either_output_alone),
        cmocka_unit_test(test_linear_ce__logits_far_apart),
        cmocka_unit_test(test_linear_ce__threads_change_no_bit),
        cmocka_unit_test(test_linear_ce_bwd__finite_differences),
        cmocka_unit_test(test_linear_ce__refuses_labels_outside_the_vocabulary),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
