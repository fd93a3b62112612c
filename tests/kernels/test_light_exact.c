/* Light kernels whose results are known exactly, and the sentences of wrong calls. */
#include "cpu/kernels_cpu.h"
#include "kernel_test.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define EXACT                                                                                                \
    {                                                                                                        \
        0, 0, 0                                                                                              \
    }

static void test_light_exact__add_mul_scale(void **state)
{
    static const double a[] = {1, -2, 0.5, 4, 8, -16, 3}, b[] = {0.25, 2, 2, -1, 0, 0.5, 3};
    static const double sum[] = {1.25, 0, 2.5, 3, 8, -15.5, 6}, product[] = {0.25, -4, 1, -4, 0, -8, 9};
    static const double scaled[] = {-0.5, 1, -0.25, -2, -4, 8, -1.5};
    kt_case k = {.op = "add",
                 .num_in = 2,
                 .num_out = 1,
                 .in = {{a, 'r', 1, {7}}, {b, 'r', 1, {7}}},
                 .out = {{sum, 'r', 1, {7}}},
                 .tolerance = EXACT};
    kt_compare(&k);
    k.op = "mul";
    k.out[0].values = product;
    kt_compare(&k);
    k = (kt_case){.op = "scale",
                  .attrs.scale = -0.5,
                  .num_in = 1,
                  .num_out = 1,
                  .in = {{a, 'r', 1, {7}}},
                  .out = {{scaled, 'r', 1, {7}}},
                  .tolerance = EXACT};
    kt_compare(&k);
}

/* values that round differently in each dtype, among them a tie, a value that f64 → f32 → bf16 would round
 * twice, NaN */
static void test_light_exact__cast(void **state)
{
    const double x[] = {1.0,   -2.5,      0x1.01p0, 0x1.03p0, 0x1.0100000000001p0,
                        1e300, -INFINITY, 0x1p-130, 65504.0,  NAN};
    const uint16_t bf16[] = {0x3f80, 0xc020, 0x3f80, 0x3f82, 0x3f81, 0x7f80, 0xff80, 0x0008, 0x4780};
    enum { N = 10 };
    uint16_t half[N];
    float single[N];
    double back[N];
    am_attrs attrs = {0};
    am_kernel_call c = {.attrs = &attrs, .num_in = 1, .num_out = 1, .threads = 1};
    const am_kernel *row = am_kernels_cpu_find("cast");
    c.in[0] = (am_tensor){(void *)x, AM_F64, 1, {N}};
    c.out[0] = (am_tensor){half, AM_BF16, 1, {N}};
    assert_int_equal(row->bf16(&c), AM_OK);
    assert_memory_equal(half, bf16, sizeof bf16);
    assert_true(isnan(am_bf16_to_f32(half[9])));
    c.out[0] = (am_tensor){single, AM_F32, 1, {N}};
    assert_int_equal(row->f32(&c), AM_OK);
    for (int i = 0; i < N - 1; i++) assert_true(single[i] == (float)x[i]);
    c.in[0] = (am_tensor){half, AM_BF16, 1, {N}};
    c.out[0] = (am_tensor){back, AM_F64, 1, {N}};
    assert_int_equal(row->f64(&c), AM_OK);
    for (int i = 0; i < N - 1; i++) assert_true(back[i] == (double)am_bf16_to_f32(bf16[i]));
    c.in[0] = (am_tensor){single, AM_F32, 1, {N}};
    c.out[0] =
        (am_tensor){half, AM_F16, 1, {N}}; /* a type the compute kernels do not know: through am_convert */
    assert_int_equal(row->f32(&c), AM_OK);
    assert_int_equal(half[0], 0x3c00);
    assert_int_equal(half[8], 0x7bff);
    c.out[0].dtype = AM_I16;
    assert_int_equal(row->f32(&c), AM_ERR_SHAPE);
}

/* An output above the 4 MiB from which on cast stores past the caches, aligned to a cache line and not: the numbers of
 * am_f32_to_bf16, nothing behind the end. */
static void test_light_exact__cast_large(void **state)
{
    enum { N = (5 << 20) / 2 + 77, GUARD = 64 };
    float *x = malloc(N * sizeof *x);
    char *memory = aligned_alloc(64, (N * sizeof(uint16_t) + 4 * GUARD) / 64 * 64);
    assert_non_null(x);
    assert_non_null(memory);
    for (int i = 0; i < N; i++) {
        uint32_t u = (uint32_t)am_random_u64(8, 1, (uint64_t)i); /* any float: NaN and denormals too */
        memcpy(&x[i], &u, sizeof u);
    }
    for (int isa = 0; isa <= (int)AM_ISA_AVX512_BF16; isa++)
        for (int shift = 0; shift < 2; shift++) {
            uint16_t *y = (uint16_t *)(memory + 2 * shift);
            memset(memory, 0x5a, N * sizeof *y + 2 * GUARD);
            am_attrs none = {0};
            am_kernel_call c = {.attrs = &none, .num_in = 1, .num_out = 1, .threads = 2,
                                .in[0] = {x, AM_F32, 1, {N}}, .out[0] = {y, AM_BF16, 1, {N}}};
            setenv("AM_ISA", am_isa_name((am_isa)isa), 1);
            assert_int_equal(am_kernels_cpu_find("cast")->bf16(&c), AM_OK);
            for (int i = 0; i < N; i++)
                if (y[i] != am_f32_to_bf16(x[i]))
                    fail_msg("element %d, %s: %04x, not %04x", i, am_isa_name((am_isa)isa), y[i],
                             am_f32_to_bf16(x[i]));
            for (int i = 0; i < 32; i++) assert_int_equal(y[N + i], 0x5a5a);
        }
    unsetenv("AM_ISA");
    free(x);
    free(memory);
}

static void test_light_exact__fill(void **state)
{
    static const double zeros[12] = {0};
    kt_compare(&(kt_case){.op = "fill", .num_out = 1, .out = {{zeros, 'r', 2, {3, 4}}}, .tolerance = EXACT});
}

/* 2^24 + 1 + 1 in f32: in rank order both ones vanish; in f64 they stay */
static void test_light_exact__rank_sum(void **state)
{
    static const double parts[] = {16777216, 1, 1, 2, 1, 3, 1, 4, -16777216, 5}; /* [5, 2] */
    am_attrs attrs = {0};
    float p[10], y[2] = {10, 10};
    for (int i = 0; i < 10; i++) p[i] = (float)parts[i];
    am_kernel_call c = {.attrs = &attrs,
                        .num_in = 1,
                        .num_out = 1,
                        .threads = 1,
                        .in[0] = {p, AM_F32, 2, {5, 2}},
                        .out[0] = {y, AM_F32, 1, {2}}};
    const am_kernel *row = am_kernels_cpu_find("rank_sum");
    assert_int_equal(row->f32(&c), AM_OK);
    assert_true(y[0] == 0 && y[1] == 15);
    c.accumulate = true;
    assert_int_equal(row->bf16(&c), AM_OK);
    assert_true(y[0] == 0 && y[1] == 30);
    static const double sums[] = {3, 15};
    kt_case k = {.op = "rank_sum",
                 .num_in = 1,
                 .num_out = 1,
                 .accumulates = true,
                 .in = {{parts, 'w', 2, {5, 2}}},
                 .out = {{sums, 'w', 1, {2}}},
                 .tolerance = {0, 4, 4}};
    kt_compare(&k);
}

static void test_light_exact__sumsq(void **state)
{
    enum { N = 3 * 4096 + 21 };
    double *g = calloc(N, sizeof *g), sum = 0;
    for (int i = 0; i < N; i++) {
        g[i] = (i % 7) - 3; /* squares of small integers: exact in every order */
        sum += g[i] * g[i];
    }
    kt_compare(&(kt_case){.op = "sumsq",
                          .num_in = 1,
                          .num_out = 1,
                          .accumulates = true,
                          .in = {{g, 'w', 1, {N}}},
                          .out = {{&sum, 'd', 1, {1}}},
                          .tolerance = EXACT});
    free(g);
}

static void clip_case(double part0, double part1, double max_norm, double norm, double clip, double skip)
{
    double s[AM_SCALAR_COUNT] = {[AM_SCALAR_MAX_NORM] = max_norm, [AM_SCALAR_CLIP] = -1},
           parts[2] = {part0, part1};
    am_attrs attrs = {0};
    am_kernel_call c = {.attrs = &attrs,
                        .num_in = 2,
                        .num_out = 1,
                        .threads = 1,
                        .in[0] = {parts, AM_F64, 1, {2}},
                        .in[1] = {s, AM_F64, 1, {AM_SCALAR_COUNT}},
                        .out[0] = {s, AM_F64, 1, {AM_SCALAR_COUNT}}};
    assert_int_equal(am_kernels_cpu_find("clip_coef")->f32(&c), AM_OK);
    if (isfinite(norm))
        assert_true(fabs(s[AM_SCALAR_GRAD_NORM] - norm) < 1e-15);
    else
        assert_false(isfinite(s[AM_SCALAR_GRAD_NORM]));
    assert_true(fabs(s[AM_SCALAR_CLIP] - clip) < 1e-12);
    assert_true(s[AM_SCALAR_SKIP] == skip);
}

static void test_light_exact__clip_coef(void **state)
{
    clip_case(9, 16, 1, 5, 1 / (5 + 1e-6), 0);
    clip_case(9, 16, 10, 5, 1, 0);
    clip_case(9, 16, 0, 5, 1, 0);
    clip_case(9, INFINITY, 1, INFINITY, 0, 1);
    clip_case(NAN, 1, 0, NAN, 0, 1);
}

static void test_light_exact__loss(void **state)
{
    float lse[] = {3, 100, 2.5f, 7}, target[] = {1, 5, 2, 0}, dlogp[4];
    int32_t labels[] = {4, -100, 0, -1};
    double s[AM_SCALAR_COUNT] = {
        [AM_SCALAR_INV_N] = 0.125, [AM_SCALAR_LOSS_SUM] = 10, [AM_SCALAR_LOSS_COUNT] = 7};
    am_attrs attrs = {0};
    am_tensor scalars = {s, AM_F64, 1, {AM_SCALAR_COUNT}}, label = {labels, AM_I32, 1, {4}};
    am_kernel_call c = {.attrs = &attrs,
                        .num_in = 4,
                        .num_out = 1,
                        .threads = 2,
                        .in[0] = {lse, AM_F32, 1, {4}},
                        .in[1] = {target, AM_F32, 1, {4}},
                        .in[2] = label,
                        .in[3] = scalars,
                        .out[0] = scalars};
    assert_int_equal(am_kernels_cpu_find("loss_sum")->bf16(&c), AM_OK);
    assert_true(s[AM_SCALAR_LOSS_SUM] == 12.5 && s[AM_SCALAR_LOSS_COUNT] == 9);
    c = (am_kernel_call){.attrs = &attrs,
                         .num_in = 2,
                         .num_out = 1,
                         .threads = 1,
                         .in[0] = label,
                         .in[1] = scalars,
                         .out[0] = {dlogp, AM_F32, 1, {4}}};
    assert_int_equal(am_kernels_cpu_find("loss_dlogp")->f32(&c), AM_OK);
    assert_true(dlogp[0] == -0.125f && dlogp[1] == 0 && dlogp[2] == -0.125f && dlogp[3] == 0);
}

static void test_light_exact__gather_scatter(void **state)
{
    static const double x[] = {1, 2, 3, 4, 5, 6, 7, 8}, taken[] = {5, 6, 1, 2, 5, 6};
    static const int32_t rows[] = {2, 0, 2};
    kt_compare(&(kt_case){.op = "gather_rows",
                          .num_in = 2,
                          .num_out = 1,
                          .in = {{x, 'r', 3, {4, 1, 2}}, {rows, 'i', 1, {3}}},
                          .out = {{taken, 'r', 3, {3, 1, 2}}},
                          .tolerance = EXACT});
    uint16_t from[] = {10, 11, 20, 21, 30, 31, 40, 41}, to[] = {1, 2, 3, 4, 5, 6, 7, 8};
    static const uint16_t want[] = {40, 41, 3, 4, 20, 21, 7, 8};
    int32_t where[] = {0, 2, -1, 0}; /* two for row 0: the later stays */
    am_attrs attrs = {0};
    am_kernel_call c = {.attrs = &attrs,
                        .num_in = 2,
                        .num_out = 1,
                        .threads = 2,
                        .in[0] = {from, AM_BF16, 2, {4, 2}},
                        .in[1] = {where, AM_I32, 1, {4}},
                        .out[0] = {to, AM_BF16, 2, {4, 2}}};
    assert_int_equal(am_kernels_cpu_find("scatter_rows")->bf16(&c), AM_OK);
    assert_memory_equal(to, want, sizeof want);
    where[1] = 4;
    assert_int_equal(am_kernels_cpu_find("scatter_rows")->bf16(&c), AM_ERR_INTERNAL);
}

/* The sentence of a wrong call names operator, operand and shapes. */
static void expect_refused(const kt_case *k, am_status want, const char *text)
{
    am_status st = kt_call(k, AM_F32, 1, k->accumulates, NULL, NULL);
    if (st != want || !strstr(am_error_message(), text))
        fail_msg("%s: %s \"%s\", expected \"%s\"", k->op, am_status_name(st), am_error_message(), text);
}

static void test_light_exact__refusals(void **state)
{
    static const int32_t ids[] = {0, 9, 1};
    expect_refused(&(kt_case){.op = "embed",
                              .num_in = 2,
                              .num_out = 1,
                              .in = {{ids, 'i', 1, {3}}, {NULL, 'r', 2, {9, 2}}},
                              .out = {{NULL, 'r', 2, {3, 2}}}},
                   AM_ERR_DATA, "token 1 has id 9, the embedding table has rows 0 to 8");
    expect_refused(&(kt_case){.op = "add",
                              .num_in = 2,
                              .num_out = 1,
                              .in = {{NULL, 'r', 1, {4}}, {NULL, 'r', 2, {2, 3}}},
                              .out = {{NULL, 'r', 1, {4}}}},
                   AM_ERR_SHAPE, "kernel add: operand b has shape [2,3], expected [M], where M is 4");
    expect_refused(&(kt_case){.op = "add",
                              .num_in = 1,
                              .num_out = 1,
                              .in = {{NULL, 'r', 1, {4}}},
                              .out = {{NULL, 'r', 1, {4}}}},
                   AM_ERR_SHAPE, "operand b is missing");
    expect_refused(&(kt_case){.op = "scale",
                              .num_in = 2,
                              .num_out = 1,
                              .in = {{NULL, 'r', 1, {4}}, {NULL, 'r', 1, {4}}},
                              .out = {{NULL, 'r', 1, {4}}}},
                   AM_ERR_SHAPE, "2 input operands given, it takes 1");
    expect_refused(&(kt_case){.op = "scale",
                              .num_in = 1,
                              .num_out = 1,
                              .accumulates = true,
                              .in = {{NULL, 'r', 1, {4}}},
                              .out = {{NULL, 'r', 1, {4}}}},
                   AM_ERR_INTERNAL, "kernel scale cannot add into its output");
    expect_refused(&(kt_case){.op = "scale",
                              .num_in = 1,
                              .num_out = 1,
                              .in = {{NULL, 'd', 1, {4}}},
                              .out = {{NULL, 'r', 1, {4}}}},
                   AM_ERR_SHAPE, "operand x has dtype F64");
    expect_refused(&(kt_case){.op = "softcap",
                              .num_in = 1,
                              .num_out = 1,
                              .in = {{NULL, 'r', 1, {4}}},
                              .out = {{NULL, 'r', 1, {4}}}},
                   AM_ERR_INTERNAL, "cap 0 is not positive");
    expect_refused(&(kt_case){.op = "act",
                              .attrs.act = AM_ACT_COUNT,
                              .num_in = 1,
                              .num_out = 1,
                              .in = {{NULL, 'r', 1, {4}}},
                              .out = {{NULL, 'r', 1, {4}}}},
                   AM_ERR_INTERNAL, "no activation 12");
    expect_refused(
        &(kt_case){.op = "rope",
                   .num_in = 3,
                   .num_out = 1,
                   .in = {{NULL, 'r', 3, {2, 1, 6}}, {NULL, 'w', 2, {2, 4}}, {NULL, 'w', 2, {2, 4}}},
                   .out = {{NULL, 'r', 3, {2, 1, 6}}}},
        AM_ERR_SHAPE, "4 angles turn 8 features, a head has 6");
}

static void test_light_exact__table(void **state)
{
    static const char *const names[] = {
        "embed",         "embed_dw",     "linear",     "linear_dx",     "linear_dw",   "bias_db",
        "rmsnorm",       "rmsnorm_dx",   "rmsnorm_dw", "rope_angles",   "rope",        "attention",
        "attention_bwd", "act",          "act_bwd",    "act_mul",       "act_mul_bwd", "add",
        "mul",           "scale",        "linear_ce",  "linear_ce_bwd", "loss_sum",    "loss_dlogp",
        "cast",          "fill",         "rank_sum",   "sumsq",         "clip_coef",   "adamw",
        "gather_rows",   "scatter_rows", "softcap",    "softcap_bwd",   "linear_ce_grad"};
    int count;
    am_kernels_cpu_table(&count);
    const int named = (int)(sizeof names / sizeof *names);
    assert_true(count >= named); /* the others stand in the tests of their families */
    for (int i = 0; i < named; i++) {
        assert_non_null(am_kernels_cpu_find(names[i]));
        assert_string_equal(am_kernels_cpu_find(names[i])->name, names[i]);
    }
    assert_null(am_kernels_cpu_find("lineal"));
}

static void test_light_exact__isa(void **state)
{
    unsetenv("AM_ISA");
    am_isa best = am_kernels_cpu_isa();
    assert_int_equal(am_kernels_cpu_isa_check(), AM_OK);
    setenv("AM_ISA", "portable", 1);
    assert_int_equal(am_kernels_cpu_isa(), AM_ISA_PORTABLE);
    assert_int_equal(am_kernels_cpu_isa_check(), AM_OK);
    setenv("AM_ISA", "avx513", 1);
    assert_int_equal(am_kernels_cpu_isa_check(), AM_ERR_ENVIRONMENT);
    assert_non_null(strstr(am_error_message(), "AM_ISA=avx513"));
    if (best < AM_ISA_AVX512_BF16) {
        setenv("AM_ISA", "avx512_bf16", 1);
        assert_int_equal(am_kernels_cpu_isa_check(), AM_ERR_ENVIRONMENT);
    }
    unsetenv("AM_ISA");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_light_exact__add_mul_scale), cmocka_unit_test(test_light_exact__cast),
        cmocka_unit_test(test_light_exact__fill),          cmocka_unit_test(test_light_exact__rank_sum),
        cmocka_unit_test(test_light_exact__sumsq),         cmocka_unit_test(test_light_exact__clip_coef),
        cmocka_unit_test(test_light_exact__loss),          cmocka_unit_test(test_light_exact__gather_scatter),
        cmocka_unit_test(test_light_exact__refusals),      cmocka_unit_test(test_light_exact__table),
        cmocka_unit_test(test_light_exact__isa),           cmocka_unit_test(test_light_exact__cast_large),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
