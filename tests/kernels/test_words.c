/* The kernels behind the cards' light words against torch and transformers (word_reference.h), in f64, f32 and bf16, on every
 * instruction set; and their bits over threads and instruction sets. */
#include "kernel_test.h"
#include "word_reference.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

/* f32: a few ulp of numbers around 1, sums of some tens of terms; bf16: inputs exact, one rounding (2^-9) at the store */
#define USUAL {1e-13, 3e-6, 4e-3}
#define SUMS {1e-13, 1e-5, 1.6e-2}
#define R(x, ...) {x, 'r', __VA_ARGS__}

static void map_case(int64_t map, am_attrs attrs, const double *x, int64_t n, const double *y, const double *dy, const double *dx)
{
    attrs.map = map;
    kt_compare(&(kt_case){.op = "map", .attrs = attrs, .num_in = 1, .num_out = 1, .in = {R(x, 1, {n})}, .out = {R(y, 1, {n})}, .tolerance = USUAL});
    if (!dy) return;
    kt_compare(&(kt_case){.op = "map_bwd", .attrs = attrs, .num_in = 2, .num_out = 1, .in = {R(dy, 1, {n}), R(x, 1, {n})},
                          .out = {R(dx, 1, {n})}, .tolerance = USUAL});
}

static void test_words__map(void **state)
{
    const am_attrs none = {0};
#define SIGNED(name, E, attrs) map_case(AM_MAP_##E, attrs, map_x, 40, map_##name##_y, map_##name##_dy, map_##name##_d0)
#define POSITIVE(name, E, attrs) map_case(AM_MAP_##E, attrs, map_p, 40, map_##name##_y, map_##name##_dy, map_##name##_d0)
    SIGNED(exp, EXP, none);
    SIGNED(expm1, EXPM1, none);
    SIGNED(abs, ABS, none);
    SIGNED(softplus, SOFTPLUS, none);
    SIGNED(square, SQUARE, none);
    SIGNED(clamp, CLAMP, ((am_attrs){.low = -0.5, .high = 0.75}));
    SIGNED(affine, AFFINE, ((am_attrs){.scale = -1.5, .shift = 0.25}));
    POSITIVE(log, LOG, none);
    POSITIVE(log1p, LOG1P, none);
    POSITIVE(root, ROOT, none);
    POSITIVE(rsqrt, RSQRT, none);
    POSITIVE(reciprocal, RECIPROCAL, ((am_attrs){.scale = 3}));
    map_case(AM_MAP_FLOOR, none, map_x, 40, map_floor_y, NULL, NULL);
    map_case(AM_MAP_LT, (am_attrs){.shift = 0.5}, map_x, 40, map_lt_y, NULL, NULL);
    map_case(AM_MAP_GE, (am_attrs){.shift = 0.5}, map_x, 40, map_ge_y, NULL, NULL);
}

static void test_words__activations(void **state)
{
#define ACT(name, E)                                                                                                      \
    kt_compare(&(kt_case){.op = "act", .attrs.act = AM_ACT_##E, .num_in = 1, .num_out = 1, .in = {R(more_x, 1, {48})},    \
                          .out = {R(more_##name##_y, 1, {48})}, .tolerance = USUAL});                                     \
    kt_compare(&(kt_case){.op = "act_bwd", .attrs.act = AM_ACT_##E, .num_in = 2, .num_out = 1,                            \
                          .in = {R(more_##name##_dy, 1, {48}), R(more_x, 1, {48})}, .out = {R(more_##name##_d0, 1, {48})}, \
                          .tolerance = {1e-12, 1e-5, 8e-3}})
    ACT(quick_gelu, QUICK_GELU);
    ACT(relu6, RELU6);
    ACT(leaky_relu, LEAKY_RELU);
    ACT(mish, MISH);
    ACT(laplace, LAPLACE);
    static const double p = 0.375, n = -0.625, beta = 0.4375, eps = -0.125;
    kt_compare(&(kt_case){.op = "xielu", .num_in = 5, .num_out = 1,
                          .in = {R(more_x, 1, {48}), R(&p, 1, {1}), R(&n, 1, {1}), R(&beta, 1, {1}), R(&eps, 1, {1})},
                          .out = {R(xielu_y, 1, {48})}, .tolerance = USUAL});
    kt_case back = {.op = "xielu_bwd", .num_in = 6, .num_out = 1,
                    .in = {R(xielu_dy, 1, {48}), R(more_x, 1, {48}), R(&p, 1, {1}), R(&n, 1, {1}), R(&beta, 1, {1}), R(&eps, 1, {1})},
                    .out = {R(xielu_dx, 1, {48})}, .tolerance = USUAL};
    kt_compare(&back);
    back.op = "xielu_dalpha";
    back.accumulates = true;
    back.out[0] = (kt_operand){xielu_dp, 'w', 1, {1}};
    kt_compare(&back);
    back.attrs.index = 1;
    back.out[0] = (kt_operand){xielu_dn, 'w', 1, {1}};
    kt_compare(&back);
}

/* b lacks dimensions of a [5,3,4]: y, and what flows back to it; as a gradient of a parameter (f32*) and of a value */
static void pair_case(int64_t bits, const double *b, int64_t n, const double *const y[4], const double *dy, const double *add_db,
                      const double *mul_da, const double *mul_db)
{
    static const int64_t op[4] = {AM_PAIR_ADD, AM_PAIR_MUL, AM_PAIR_SUB, AM_PAIR_DIV};
    for (int k = 0; k < 4; k++)
        kt_compare(&(kt_case){.op = "pair", .attrs = {.pair = op[k], .a_dims = 7, .b_dims = bits}, .num_in = 2, .num_out = 1,
                              .in = {R(pair_a, 1, {60}), R(b, 1, {n})}, .out = {R(y[k], 3, {5, 3, 4})}, .tolerance = {1e-13, 3e-6, 5e-3}});
    kt_compare(&(kt_case){.op = "pair", .attrs = {.pair = AM_PAIR_MUL, .a_dims = 7, .b_dims = bits}, .num_in = 2, .num_out = 1,
                          .in = {R(dy, 1, {60}), R(b, 1, {n})}, .out = {R(mul_da, 3, {5, 3, 4})}, .tolerance = USUAL});
    for (int wide = 0; wide < 2; wide++) {
        kt_case sum = {.op = "sum_to", .attrs = {.a_dims = bits}, .num_in = 1, .num_out = 1, .accumulates = wide,
                       .in = {R(dy, 3, {5, 3, 4})}, .out = {{add_db, wide ? 'w' : 'r', 1, {n}}}, .tolerance = SUMS};
        kt_compare(&sum);
        sum.num_in = 2;
        sum.in[1] = (kt_operand)R(pair_a, 1, {60});
        sum.attrs.b_dims = 7;
        sum.out[0].values = mul_db;
        kt_compare(&sum);
    }
}

static void test_words__pair(void **state)
{
#define PAIR(name, bits, n)                                                                                               \
    pair_case(bits, pair_##name, n, (const double *const[]){add_##name##_y, mul_##name##_y, sub_##name##_y, div_##name##_y}, \
              add_##name##_dy, add_##name##_d1, mul_##name##_d0, mul_##name##_d1)
    PAIR(last, 4, 4);
    PAIR(middle, 2, 3);
    PAIR(first, 1, 5);
    PAIR(tail, 6, 12);
    PAIR(head, 3, 15);
    PAIR(ends, 5, 20);
    PAIR(one, 0, 1);
    kt_compare(&(kt_case){.op = "where", .attrs = {.c_dims = 7, .a_dims = 7, .b_dims = 7}, .num_in = 3, .num_out = 1,
                          .in = {R(where_c, 1, {60}), R(pair_a, 1, {60}), R(pair_b, 1, {60})}, .out = {R(where_y, 3, {5, 3, 4})},
                          .tolerance = USUAL});
}

static void test_words__rows(void **state)
{
    kt_compare(&(kt_case){.op = "softmax", .num_in = 1, .num_out = 1, .in = {R(row_x, 2, {6, 21})}, .out = {R(softmax_y, 2, {6, 21})},
                          .tolerance = USUAL});
    kt_compare(&(kt_case){.op = "softmax_bwd", .num_in = 2, .num_out = 1, .in = {R(softmax_dy, 2, {6, 21}), R(softmax_y, 2, {6, 21})},
                          .out = {R(softmax_d0, 2, {6, 21})}, .tolerance = {1e-13, 3e-6, 1.6e-2}});
    kt_compare(&(kt_case){.op = "row_max", .num_in = 1, .num_out = 1, .in = {R(row_x, 2, {6, 21})}, .out = {R(row_max_y, 1, {6})},
                          .tolerance = {0, 0, 0}});
    kt_compare(&(kt_case){.op = "row_max_bwd", .num_in = 2, .num_out = 1, .in = {R(row_max_dy, 1, {6}), R(row_x, 2, {6, 21})},
                          .out = {R(row_max_d0, 2, {6, 21})}, .tolerance = {0, 0, 0}});
    kt_compare(&(kt_case){.op = "cat", .num_in = 3, .num_out = 1, .in = {R(cat_a, 2, {6, 5}), R(cat_b, 2, {3, 2}), R(cat_c, 2, {6, 3})},
                          .out = {R(cat_y, 2, {6, 10})}, .tolerance = {0, 0, 0}});
    kt_compare(&(kt_case){.op = "split", .num_in = 1, .num_out = 3, .in = {R(cat_dy, 2, {6, 10})},
                          .out = {R(cat_d0, 2, {6, 5}), R(cat_d1, 2, {3, 2}), R(cat_d2, 2, {6, 3})}, .tolerance = USUAL});
}

static void norm_case(am_attrs attrs, int64_t rows, int64_t d, const double *w, const double *b, const double *mean,
                      const double *rstd, const double *y, const double *dy, const double *dx, const double *dw)
{
    const int64_t width = d * (attrs.groups ? attrs.groups : 1);
    attrs.eps = 1e-5;
    kt_compare(&(kt_case){.op = "layernorm", .attrs = attrs, .num_in = 3, .num_out = 3,
                          .in = {R(ln_x, 2, {rows, d}), R(w, w != NULL, {width}), R(b, b != NULL, {width})},
                          .out = {R(y, 2, {rows, d}), {mean, 'w', 1, {rows}}, {rstd, 'w', 1, {rows}}}, .tolerance = {1e-13, 4e-6, 8e-3}});
    kt_compare(&(kt_case){.op = "layernorm_dx", .attrs = attrs, .num_in = 5, .num_out = 1, .accumulates = true,
                          .in = {R(dy, 2, {rows, d}), R(ln_x, 2, {rows, d}), R(w, w != NULL, {width}), {mean, 'w', 1, {rows}}, {rstd, 'w', 1, {rows}}},
                          .out = {R(dx, 2, {rows, d})}, .tolerance = {1e-13, 6e-6, 8e-3}});
    if (dw)
        kt_compare(&(kt_case){.op = "layernorm_dw", .attrs = attrs, .num_in = 4, .num_out = 1, .accumulates = true,
                              .in = {R(dy, 2, {rows, d}), R(ln_x, 2, {rows, d}), {mean, 'w', 1, {rows}}, {rstd, 'w', 1, {rows}}},
                              .out = {{dw, 'w', 1, {width}}}, .tolerance = {1e-13, 6e-6, 6e-6}});
}

static void test_words__norms(void **state)
{
    const am_attrs none = {0}, plus = {.plus = 1}, groups = {.groups = 4, .eps = 1e-5};
    norm_case(none, 6, 40, ln_w, ln_b, ln_mean, ln_rstd, ln_full_y, ln_full_dy, ln_full_d0, ln_full_d1);
    norm_case(plus, 6, 40, ln_w, NULL, ln_mean, ln_rstd, ln_plus_y, ln_plus_dy, ln_plus_d0, ln_plus_d1);
    norm_case(none, 6, 40, NULL, NULL, ln_mean, ln_rstd, ln_bare_y, ln_bare_dy, ln_bare_d0, NULL);
    norm_case(groups, 24, 10, ln_w, ln_b, ln_group_mean, ln_group_rstd, ln_group_y, ln_group_dy, ln_group_d0, ln_group_d1);
    am_attrs rms = groups;
    rms.weight_f32 = 1;
    kt_compare(&(kt_case){.op = "rmsnorm", .attrs = rms, .num_in = 2, .num_out = 2, .in = {R(ln_x, 2, {24, 10}), R(ln_w, 1, {40})},
                          .out = {R(rms_group_y, 2, {24, 10}), {rms_group_rstd, 'w', 1, {24}}}, .tolerance = {1e-13, 4e-6, 8e-3}});
    kt_compare(&(kt_case){.op = "rmsnorm_dx", .attrs = rms, .num_in = 4, .num_out = 1,
                          .in = {R(rms_group_dy, 2, {24, 10}), R(ln_x, 2, {24, 10}), R(ln_w, 1, {40}), {rms_group_rstd, 'w', 1, {24}}},
                          .out = {R(rms_group_d0, 2, {24, 10})}, .tolerance = {1e-13, 6e-6, 8e-3}});
    kt_compare(&(kt_case){.op = "rmsnorm_dw", .attrs = rms, .num_in = 3, .num_out = 1, .accumulates = true,
                          .in = {R(rms_group_dy, 2, {24, 10}), R(ln_x, 2, {24, 10}), {rms_group_rstd, 'w', 1, {24}}},
                          .out = {{rms_group_d1, 'w', 1, {40}}}, .tolerance = {1e-13, 6e-6, 6e-6}});
}

/* many rows: every block of them is counted once */
static void test_words__blocks(void **state)
{
    enum { N = 1000, D = 6 };
    static double ones[N * D], sums[D];
    for (int i = 0; i < N * D; i++) ones[i] = 1;
    for (int i = 0; i < D; i++) sums[i] = N;
    kt_compare(&(kt_case){.op = "sum_to", .attrs = {.a_dims = 2}, .num_in = 1, .num_out = 1, .accumulates = true,
                          .in = {R(ones, 2, {N, D})}, .out = {{sums, 'w', 1, {D}}}, .tolerance = {0, 0, 0}});
    const double all = N * D;
    kt_compare(&(kt_case){.op = "sum_to", .num_in = 1, .num_out = 1, .in = {R(ones, 2, {N, D})}, .out = {{&all, 'w', 1, {1}}},
                          .tolerance = {0, 0, 0}});
}

/* large enough for several threads and blocks, with rows that are no whole vectors */
static void test_words__bits(void **state)
{
    enum { N = 513, D = 301 };
    for (int64_t bits = 0; bits < 7; bits++) {
        int64_t n = (bits & 1 ? N : 1) * (bits & 2 ? 7 : 1) * (bits & 4 ? 43 : 1);
        kt_bitwise(&(kt_case){.op = "sum_to", .attrs = {.a_dims = bits, .b_dims = 7}, .num_in = 2, .num_out = 1, .accumulates = true,
                              .in = {R(NULL, 3, {N, 7, 43}), R(NULL, 1, {N * 7 * 43})}, .out = {{NULL, 'w', 1, {n}}}});
        kt_bitwise(&(kt_case){.op = "pair", .attrs = {.pair = AM_PAIR_MUL, .a_dims = 7, .b_dims = bits}, .num_in = 2, .num_out = 1,
                              .in = {R(NULL, 1, {N * 7 * 43}), R(NULL, 1, {n})}, .out = {R(NULL, 3, {N, 7, 43})}});
    }
    for (int64_t m = 0; m < AM_MAP_COUNT; m++)
        kt_bitwise(&(kt_case){.op = "map_bwd", .attrs = {.map = m, .low = -0.2, .high = 0.3, .scale = 2, .shift = 0.1}, .num_in = 2,
                              .num_out = 1, .in = {R(NULL, 1, {N * D}), R(NULL, 1, {N * D})}, .out = {R(NULL, 1, {N * D})}});
    kt_bitwise(&(kt_case){.op = "softmax", .num_in = 1, .num_out = 1, .in = {R(NULL, 2, {N, D})}, .out = {R(NULL, 2, {N, D})}});
    kt_bitwise(&(kt_case){.op = "layernorm", .attrs = {.eps = 1e-5}, .num_in = 3, .num_out = 3,
                          .in = {R(NULL, 2, {N, D}), R(NULL, 1, {D}), R(NULL, 1, {D})},
                          .out = {R(NULL, 2, {N, D}), {NULL, 'w', 1, {N}}, {NULL, 'w', 1, {N}}}});
    kt_bitwise(&(kt_case){.op = "layernorm_dw", .num_in = 4, .num_out = 1, .accumulates = true,
                          .in = {R(NULL, 2, {N, D}), R(NULL, 2, {N, D}), {NULL, 'w', 1, {N}}, {NULL, 'w', 1, {N}}},
                          .out = {{NULL, 'w', 1, {D}}}});
    kt_bitwise(&(kt_case){.op = "xielu_dalpha", .num_in = 6, .num_out = 1, .accumulates = true,
                          .in = {R(NULL, 1, {N * D}), R(NULL, 1, {N * D}), R(NULL, 1, {1}), R(NULL, 1, {1}), R(NULL, 1, {1}), R(NULL, 1, {1})},
                          .out = {{NULL, 'w', 1, {1}}}});
    kt_bitwise(&(kt_case){.op = "split", .num_in = 1, .num_out = 2, .in = {R(NULL, 2, {4 * N, D})},
                          .out = {R(NULL, 2, {4 * N, 100}), R(NULL, 2, {N, D - 100})}});
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_words__map),  cmocka_unit_test(test_words__activations), cmocka_unit_test(test_words__pair),
        cmocka_unit_test(test_words__rows), cmocka_unit_test(test_words__norms),       cmocka_unit_test(test_words__bits),
        cmocka_unit_test(test_words__blocks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
