/* Light kernels against torch and transformers (light_reference.h), in f64, f32 and bf16, on every
 * instruction set. */
#include "kernel_test.h"
#include "light_reference.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* f32: a few ulp of numbers around 1, sums of some tens of terms; bf16: inputs exact, one rounding (2^-9) at
 * the store, where rounding stands inside (rope's cosine, the norm) two or three of them. */
#define USUAL                                                                                                \
    {                                                                                                        \
        1e-13, 2e-6, 4e-3                                                                                    \
    }

static void test_light_reference__act(void **state)
{
#define X(name_, E)                                                                                          \
    kt_compare(&(kt_case){.op = "act",                                                                       \
                          .attrs.act = AM_ACT_##E,                                                           \
                          .num_in = 1,                                                                       \
                          .num_out = 1,                                                                      \
                          .in = {{act_x, 'r', 1, {24}}},                                                     \
                          .out = {{act_##name_##_y, 'r', 1, {24}}},                                          \
                          .tolerance = USUAL});                                                              \
    kt_compare(&(kt_case){.op = "act_bwd",                                                                   \
                          .attrs.act = AM_ACT_##E,                                                           \
                          .num_in = 2,                                                                       \
                          .num_out = 1,                                                                      \
                          .in = {{act_dy, 'r', 1, {24}}, {act_x, 'r', 2, {4, 6}}},                           \
                          .out = {{act_##name_##_dx, 'r', 1, {24}}},                                         \
                          .tolerance = USUAL});                                                              \
    kt_compare(&(kt_case){.op = "act_mul",                                                                   \
                          .attrs.act = AM_ACT_##E,                                                           \
                          .num_in = 2,                                                                       \
                          .num_out = 1,                                                                      \
                          .in = {{act_x, 'r', 1, {24}}, {act_u, 'r', 1, {24}}},                              \
                          .out = {{act_##name_##_mul_y, 'r', 1, {24}}},                                      \
                          .tolerance = USUAL});                                                              \
    kt_compare(                                                                                              \
        &(kt_case){.op = "act_mul_bwd",                                                                      \
                   .attrs.act = AM_ACT_##E,                                                                  \
                   .num_in = 3,                                                                              \
                   .num_out = 2,                                                                             \
                   .in = {{act_dy, 'r', 1, {24}}, {act_x, 'r', 1, {24}}, {act_u, 'r', 1, {24}}},             \
                   .out = {{act_##name_##_mul_dg, 'r', 1, {24}}, {act_##name_##_mul_du, 'r', 1, {24}}},      \
                   .tolerance = USUAL});
    X(silu, SILU)
    X(gelu, GELU) X(gelu_tanh, GELU_TANH) X(relu, RELU) X(relu2, RELU2) X(sigmoid, SIGMOID) X(tanh, TANH)
#undef X
}

static void test_light_reference__softcap(void **state)
{
    kt_compare(&(kt_case){.op = "softcap",
                          .attrs.softcap = 30,
                          .num_in = 1,
                          .num_out = 1,
                          .in = {{softcap_x, 'r', 1, {16}}},
                          .out = {{softcap_y, 'r', 1, {16}}},
                          .tolerance = USUAL});
    kt_compare(&(kt_case){.op = "softcap_bwd",
                          .attrs.softcap = 30,
                          .num_in = 2,
                          .num_out = 1,
                          .in = {{softcap_dy, 'r', 1, {16}}, {softcap_x, 'r', 1, {16}}},
                          .out = {{softcap_dx, 'r', 1, {16}}},
                          .tolerance = USUAL});
}

static void norm_case(const double *w, double plus, int64_t weight_f32, const double *y, const double *dx,
                      const double *dw)
{
    am_attrs attrs = {.eps = 1e-5, .plus = plus, .weight_f32 = weight_f32};
    int rank = w ? 1 : 0;
    kt_compare(&(kt_case){.op = "rmsnorm",
                          .attrs = attrs,
                          .num_in = 2,
                          .num_out = 2,
                          .in = {{norm_x, 'r', 2, {5, 37}}, {w, 'r', rank, {37}}},
                          .out = {{y, 'r', 2, {5, 37}}, {norm_rstd, 'w', 1, {5}}},
                          .tolerance = {1e-13, 2e-6, 8e-3}});
    kt_compare(&(kt_case){.op = "rmsnorm_dx",
                          .attrs = attrs,
                          .num_in = 4,
                          .num_out = 1,
                          .accumulates = true,
                          .in = {{norm_dy, 'r', 2, {5, 37}},
                                 {norm_x, 'r', 2, {5, 37}},
                                 {w, 'r', rank, {37}},
                                 {norm_rstd, 'w', 1, {5}}},
                          .out = {{dx, 'r', 2, {5, 37}}},
                          .tolerance = USUAL});
    if (!dw) return;
    kt_compare(
        &(kt_case){.op = "rmsnorm_dw",
                   .attrs = attrs,
                   .num_in = 3,
                   .num_out = 1,
                   .accumulates = true,
                   .in = {{norm_dy, 'r', 2, {5, 37}}, {norm_x, 'r', 2, {5, 37}}, {norm_rstd, 'w', 1, {5}}},
                   .out = {{dw, 'w', 1, {37}}},
                   .tolerance = {1e-13, 4e-6, 3e-2}});
}

static void test_light_reference__rmsnorm(void **state)
{
    norm_case(norm_w, 0, 0, norm_llama_y, norm_llama_dx, norm_llama_dw);
    norm_case(norm_w, 1, 1, norm_gemma_y, norm_gemma_dx, norm_gemma_dw);
    norm_case(NULL, 0, 0, norm_bare_y, norm_bare_dx, NULL);
}

/* where the roundings stand: transformers' own modules in bf16, bit for bit */
static void test_light_reference__rmsnorm_bf16_bits(void **state)
{
    const uint16_t *want[2] = {norm_llama_bf16_bits, norm_gemma_bf16_bits};
    for (int i = 0; i < 2; i++) {
        kt_case k = {.op = "rmsnorm",
                     .attrs = {.eps = 1e-5, .plus = i, .weight_f32 = i},
                     .num_in = 2,
                     .num_out = 2,
                     .in = {{norm_x, 'r', 2, {5, 37}}, {norm_w, 'r', 1, {37}}},
                     .out = {{NULL, 'r', 2, {5, 37}}, {NULL, 'w', 1, {5}}}};
        char *got;
        size_t bytes;
        assert_int_equal(kt_call(&k, AM_BF16, 1, false, &got, &bytes), AM_OK);
        assert_memory_equal(got, want[i], 5 * 37 * sizeof(uint16_t));
        free(got);
    }
}

static void test_light_reference__rope_angles(void **state)
{
    kt_case k = {.op = "rope_angles",
                 .num_in = 2,
                 .num_out = 2,
                 .in = {{rope_pos, 'i', 1, {6}}, {rope_inv_freq, 'w', 1, {4}}},
                 .out = {{rope_cos, 'w', 2, {6, 4}}, {rope_sin, 'w', 2, {6, 4}}}};
    k.tolerance[0] = 1; /* the f64 kernel does not round the angle to f32: compared below */
    k.tolerance[1] = k.tolerance[2] = 7e-8; /* half an ulp of f32 below 1 */
    kt_compare(&k);
    k.out[0].values = rope_cos_f64;
    k.out[1].values = rope_sin_f64;
    k.tolerance[0] = 1e-10; /* position 1e6: the angle itself has an error of 1e-10 in f64 */
    k.tolerance[1] = k.tolerance[2] = 0.1;
    kt_compare(&k);
    double doubled[24];
    for (int i = 0; i < 24; i++) doubled[i] = 1.5 * rope_cos[i];
    k.attrs.rope_factor = 1.5;
    k.out[0].values = doubled;
    k.out[1].values = NULL;
    k.tolerance[0] = 1;
    k.tolerance[1] = k.tolerance[2] = 2e-7;
    kt_compare(&k);
}

static void test_light_reference__rope(void **state)
{
    kt_case k = {.op = "rope",
                 .num_in = 3,
                 .num_out = 1,
                 .tolerance = {1e-13, 2e-6, 2e-2},
                 .in = {{rope_x, 'r', 3, {6, 2, 10}}, {rope_cos, 'w', 2, {6, 4}}, {rope_sin, 'w', 2, {6, 4}}},
                 .out = {{rope_halves_y, 'r', 3, {6, 2, 10}}}};
    kt_compare(&k);
    k.attrs.pairs = 1;
    k.out[0].values = rope_pairs_y;
    kt_compare(&k);
    for (k.attrs.pairs = 0; k.attrs.pairs < 2; k.attrs.pairs++) { /* backwards: what was turned comes back */
        k.attrs.inverse = 1;
        k.in[0].values = k.attrs.pairs ? rope_pairs_y : rope_halves_y;
        k.out[0].values = rope_x;
        k.tolerance[2] = 4e-2;
        kt_compare(&k);
    }
    kt_case b = {
        .op = "rope",
        .num_in = 3,
        .num_out = 1,
        .tolerance = {1, 1, 1.2e-2}, /* three roundings there, one here */
        .in = {{rope_bf16_x, 'r', 3, {6, 2, 8}}, {rope_cos, 'w', 2, {6, 4}}, {rope_sin, 'w', 2, {6, 4}}},
        .out = {{rope_bf16_y, 'r', 3, {6, 2, 8}}}};
    kt_compare(&b);
}

static void test_light_reference__embed(void **state)
{
    kt_compare(&(kt_case){.op = "embed",
                          .num_in = 2,
                          .num_out = 1,
                          .in = {{embed_ids, 'i', 1, {6}}, {embed_table, 'r', 2, {6, 5}}},
                          .out = {{embed_y, 'r', 2, {6, 5}}},
                          .tolerance = {0, 0, 0}});
    kt_compare(&(kt_case){.op = "embed_dw",
                          .num_in = 2,
                          .num_out = 1,
                          .accumulates = true,
                          .in = {{embed_dy, 'r', 2, {6, 5}}, {embed_ids, 'i', 1, {6}}},
                          .out = {{embed_dtable, 'w', 2, {6, 5}}},
                          .tolerance = {1e-15, 1e-6, 1e-6}});
    kt_compare(&(kt_case){.op = "bias_db",
                          .num_in = 1,
                          .num_out = 1,
                          .accumulates = true,
                          .in = {{embed_dy, 'r', 2, {6, 5}}},
                          .out = {{embed_db, 'w', 1, {5}}},
                          .tolerance = {1e-15, 1e-6, 1e-6}});
}

/* ten steps with a changing rate; the f32 state against torch's f32 within 1e-6 relative */
static void adamw_case(double beta1, double beta2, double eps, const double *p, const double *m,
                       const double *v)
{
    enum { N = 19, PAD = 3 };
    const am_kernel *row = am_kernels_cpu_find("adamw");
    am_attrs attrs = {.beta1 = beta1,
                      .beta2 = beta2,
                      .eps = eps,
                      .weight_decay = 0.1,
                      .lr_mult = 2,
                      .offset = PAD,
                      .count = N};
    double scalars[AM_SCALAR_COUNT] = {0};
    float g[N + 2 * PAD] = {0}, state3[3][N + 2 * PAD] = {{0}};
    for (int i = 0; i < N; i++) state3[0][PAD + i] = (float)adamw_p[i];
    am_kernel_call c = {.attrs = &attrs,
                        .num_in = 5,
                        .num_out = 3,
                        .threads = 1,
                        .in[0] = {scalars, AM_F64, 1, {AM_SCALAR_COUNT}},
                        .in[1] = {g, AM_F32, 1, {N + 2 * PAD}}};
    for (int i = 0; i < 3; i++) c.in[2 + i] = c.out[i] = (am_tensor){state3[i], AM_F32, 1, {N + 2 * PAD}};
    scalars[AM_SCALAR_CLIP] = 0.5;
    for (int k = 0; k < 11; k++) {
        scalars[AM_SCALAR_STEP] = k + 1;
        scalars[AM_SCALAR_LR] = 0.5e-3 * (k + 1); /* lr_mult doubles it */
        scalars[AM_SCALAR_SKIP] = k == 10;        /* the eleventh call must change nothing */
        for (int i = 0; i < N; i++) g[PAD + i] = (float)adamw_g[(k % 10) * N + i];
        assert_int_equal(row->f32(&c), AM_OK);
    }
    const double *want[3] = {p, m, v};
    for (int s = 0; s < 3;
         s++) { /* relative to the largest: where terms cancel, roundings have the size of the terms */
        double largest = 0;
        for (int i = 0; i < N; i++) largest = fmax(largest, fabs(want[s][i]));
        for (int i = 0; i < N; i++) {
            double have = (double)state3[s][PAD + i], w = want[s][i];
            if (fabs(have - w) > 1e-6 * fmin(largest, 3 * fabs(w) + 0.1 * largest))
                fail_msg("adamw state %d element %d: %.9g, torch %.9g", s, i, have, w);
        }
    }
    for (int s = 0; s < 3; s++) /* outside the range: untouched */
        for (int i = 0; i < PAD; i++) assert_true(state3[s][i] == 0 && state3[s][PAD + N + i] == 0);
}

static void test_light_reference__adamw(void **state)
{
    for (int i = 0; i < 3; i++) {
        setenv("AM_ISA", am_isa_name((am_isa)i), 1);
        adamw_case(0.9, 0.95, 1e-8, adamw_usual_p, adamw_usual_m, adamw_usual_v);
        adamw_case(0.3, 0.999, 1e-2, adamw_low_p, adamw_low_m, adamw_low_v);
    }
    unsetenv("AM_ISA");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_light_reference__act),
        cmocka_unit_test(test_light_reference__softcap),
        cmocka_unit_test(test_light_reference__rmsnorm),
        cmocka_unit_test(test_light_reference__rmsnorm_bf16_bits),
        cmocka_unit_test(test_light_reference__rope_angles),
        cmocka_unit_test(test_light_reference__rope),
        cmocka_unit_test(test_light_reference__embed),
        cmocka_unit_test(test_light_reference__adamw),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
