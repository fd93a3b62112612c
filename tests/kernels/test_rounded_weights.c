/* test_rounded_weights: in a bf16 call the weights of linear, linear_dx, linear_ce, linear_ce_bwd, linear_ce_grad and the table of embed
 * may stand in fp32.  The outputs are those of the same weights rounded beforehand (am_f32_to_bf16, which the
 * kernels do not use), bit for bit, on every instruction set.  The weights need rounding: full fp32 numbers,
 * ties of both kinds, numbers that round up into the next binade, subnormals. */
#include "heavy_test.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static double *weights(int64_t n)
{
    static const uint32_t hard[] = {0x3f808000u, 0x3f818000u, 0x3f80ffffu, 0x3f7fffffu, 0xbf7f8000u,
                                    0x3f807fffu, 0x00008001u, 0x80018000u, 0x3dffff00u, 0xbe018000u};
    double *w = ht_random(5, n), *low = ht_random(6, n);
    for (int64_t i = 0; i < n; i++) {
        float x = (float)(w[i] * (1 + low[i] / 64));
        if (i % 7 == 3) memcpy(&x, &hard[i / 7 % 10], sizeof x);
        w[i] = x;
    }
    free(low);
    return w;
}

static double *rounded(const double *w, int64_t n)
{
    double *r = malloc((size_t)n * sizeof *r);
    assert_non_null(r);
    for (int64_t i = 0; i < n; i++) r[i] = am_bf16_to_f32(am_f32_to_bf16((float)w[i]));
    return r;
}

/* operand `at` of the case in fp32 and rounded */
static void same_bits(const kt_case *k, int at)
{
    kt_case wide = *k, narrow = *k;
    int64_t n = 1, outputs = 0;
    for (int i = 0; i < k->in[at].rank; i++) n *= k->in[at].dim[i];
    double *w = weights(n), *r = rounded(w, n);
    int64_t changed = 0;
    for (int64_t i = 0; i < n; i++) changed += w[i] != r[i];
    assert_true(changed > n / 2);
    wide.in[at].values = w, wide.in[at].type = 'w';
    narrow.in[at].values = r, narrow.in[at].type = 'r';
    for (int i = 0; i < k->num_out; i++) outputs += ht_elements(&k->out[i]);
    for (int threads = 1; threads <= 2; threads++) {
        double *a = ht_run(&wide, AM_BF16, threads, false), *b = ht_run(&narrow, AM_BF16, threads, false);
        for (int64_t i = 0; i < outputs; i++)
            if (a[i] != b[i]) fail_msg("%s: output %ld is %.9g, with rounded weights %.9g", k->op, (long)i, a[i], b[i]);
        free(a);
        free(b);
    }
    free(w);
    free(r);
}

static void products(void *context)
{
    static const int64_t sizes[][3] = {{1, 64, 48}, {5, 33, 65}, {70, 200, 131}, {13, 801, 130}}; /* N, I, O */
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
        int64_t n = sizes[s][0], in = sizes[s][1], out = sizes[s][2];
        double *x = ht_random(1, n * in), *dy = ht_random(2, n * out);
        kt_case forward = {.op = "linear", .num_in = 2, .num_out = 1, .in = {{x, 'r', 2, {n, in}}, {NULL, 'r', 2, {out, in}}},
                           .out = {{NULL, 'r', 2, {n, out}}}};
        kt_case dx = {.op = "linear_dx", .num_in = 2, .num_out = 1, .in = {{dy, 'r', 2, {n, out}}, {NULL, 'r', 2, {out, in}}},
                      .out = {{NULL, 'r', 2, {n, in}}}};
        same_bits(&forward, 1);
        same_bits(&dx, 1);
        free(x);
        free(dy);
    }
}

static void heads(void *context)
{
    enum { N = 21, D = 50, V = 150 };
    double *h = ht_random(1, N * D), *dlogp = ht_random(3, N), lse[N];
    int32_t labels[N];
    for (int t = 0; t < N; t++) {
        labels[t] = t % 4 == 1 ? -100 : t * 131 % V;
        lse[t] = 5.5;
    }
    kt_operand ch = {h, 'r', 2, {N, D}}, cw = {NULL, 'r', 2, {V, D}}, cl = {labels, 'i', 1, {N}}, cd = {dlogp, 'w', 1, {N}},
               ce = {lse, 'w', 1, {N}}, row = {NULL, 'w', 1, {N}}, dh = {NULL, 'r', 2, {N, D}}, dw = {NULL, 'w', 2, {V, D}};
    kt_case forward = {.op = "linear_ce", .num_in = 3, .num_out = 2, .in = {ch, cw, cl}, .out = {row, row}};
    kt_case backward = {.op = "linear_ce_bwd", .num_in = 5, .num_out = 2, .in = {ch, cw, cl, ce, cd}, .out = {dh, dw}};
    kt_case both = {.op = "linear_ce_grad", .num_in = 4, .num_out = 4, .in = {ch, cw, cl, cd}, .out = {row, row, dh, dw}};
    same_bits(&forward, 1);
    same_bits(&backward, 1);
    same_bits(&both, 1);
    free(h);
    free(dlogp);
}

static void test_rounded_weights__products(void **state) { ht_each_isa(products, NULL); }
static void test_rounded_weights__loss_heads(void **state) { ht_each_isa(heads, NULL); }

static void test_rounded_weights__embedding(void **state)
{
    enum { N = 9, V = 30, D = 70 };
    int32_t ids[N];
    for (int t = 0; t < N; t++) ids[t] = t * 7 % V;
    kt_case embed = {.op = "embed", .num_in = 2, .num_out = 1, .in = {{ids, 'i', 1, {N}}, {NULL, 'r', 2, {V, D}}}, .out = {{NULL, 'r', 2, {N, D}}}};
    same_bits(&embed, 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rounded_weights__products),
        cmocka_unit_test(test_rounded_weights__loss_heads),
        cmocka_unit_test(test_rounded_weights__embedding),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
