/* The errors that kernels_cpu_vec.h and kernels_cpu_math.h state for exp, tanh, erf, sine, cosine and bf16
 * rounding, against the C library in double (its error, about 1e-16, does not show in float ulp); every
 * instruction set of this machine gives the same bits. */
#include "cpu/kernels_cpu.h"

#define AM_BODY "../tests/kernels/vector_functions.inc"
#include "cpu/kernels_cpu_each.h"

#include <float.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

/* distance of `got` from the exact value in units of the last place of a float of that size */
static double ulps(float got, double exact)
{
    if (fabs(exact) > FLT_MAX) return isinf(got) ? 0 : 1e9;
    int e;
    frexp(exact, &e);
    double ulp = ldexp(1.0, (e < -125 ? -125 : e) - 24);
    return fabs((double)got - exact) / ulp;
}

enum { BATCH = 4096 };
typedef void (*map_fn)(const float *x, float *y, int64_t n);
#define MAPS(f) {f##_f32_portable, f##_f32_avx2, f##_f32_avx512, f##_f32_avx512_bf16}

/* f(x[0…n)) by every instruction set of this machine, n <= BATCH: equal bits, left in y */
static void map_all(const map_fn f[AM_ISA_COUNT], const float *x, float *y, int64_t n)
{
    static float other[BATCH];
    f[0](x, y, n);
    for (int isa = 1; isa <= (int)am_kernels_cpu_isa(); isa++) {
        f[isa](x, other, n);
        for (int64_t i = 0; i < n; i++)
            if (am_cpu_float_bits(other[i]) != am_cpu_float_bits(y[i]) && !(isnan(y[i]) && isnan(other[i])))
                fail_msg("at %a: %a portable, %a %s", x[i], y[i], other[i], am_isa_name((am_isa)isa));
    }
}
static float one(const map_fn f[AM_ISA_COUNT], float x)
{
    float y;
    map_all(f, &x, &y, 1);
    return y;
}

/* every 211th float of both signs, infinity included; the last batch is not a whole number of vectors */
static double worst(const map_fn f[AM_ISA_COUNT], double (*exact)(double))
{
    static float x[BATCH], y[BATCH];
    double max = 0;
    for (uint32_t sign = 0; sign < 2; sign++)
        for (uint32_t u = 0; u < 0x7f800000u;) {
            int64_t n = 0;
            for (; n < BATCH && u < 0x7f800000u; n++, u += 211) x[n] = am_cpu_bits_float(u | sign << 31);
            x[n - 1] = n < BATCH ? am_cpu_bits_float(0x7f800000u | sign << 31) : x[n - 1];
            map_all(f, x, y, n);
            for (int64_t i = 0; i < n; i++) max = fmax(max, ulps(y[i], exact((double)x[i])));
        }
    const uint32_t nan[4] = {0x7fc00000u, 0xffc00000u, 0x7f800001u, 0xffffffffu};
    for (int i = 0; i < 4; i++) assert_true(isnan(one(f, am_cpu_bits_float(nan[i]))));
    return max;
}

/* the same where the exact function is not a number for some: there the result must not be one either */
static double worst_of(const map_fn f[AM_ISA_COUNT], double (*exact)(double))
{
    static float x[BATCH], y[BATCH];
    double max = 0;
    for (uint64_t u = 0; u <= UINT32_MAX;) {
        int64_t n = 0;
        for (; n < BATCH && u <= UINT32_MAX; n++, u += 211) x[n] = am_cpu_bits_float((uint32_t)u);
        map_all(f, x, y, n);
        for (int64_t i = 0; i < n; i++) {
            double want = exact((double)x[i]);
            if (isnan(want) != isnan(y[i])) fail_msg("at %a: %a, not %a", x[i], y[i], want);
            if (isnan(want) || (isinf(want) && isinf(y[i]) && (want < 0) == (y[i] < 0))) continue;
            double u_ = ulps(y[i], want);
            if (u_ > max) max = u_;
        }
    }
    return max;
}

static void test_cpu_math__exp(void **state)
{
    static const map_fn f[] = MAPS(map_exp);
    double e = worst(f, exp);
    print_message("exp: %.3f ulp\n", e);
    assert_true(e <= 1.0);
    assert_true(one(f, -INFINITY) == 0 && isinf(one(f, INFINITY)) && one(f, 0.0f) == 1.0f);
    assert_true(isinf(one(f, 88.73f)) && isfinite(one(f, 88.72f)));
    assert_true(one(f, -104.0f) == 0 && one(f, -103.9f) > 0);
}

static void test_cpu_math__tanh(void **state)
{
    static const map_fn f[] = MAPS(map_tanh);
    double e = worst(f, tanh);
    print_message("tanh: %.3f ulp\n", e);
    assert_true(e <= 1.5);
    assert_true(one(f, INFINITY) == 1 && one(f, -INFINITY) == -1 && one(f, 1e30f) == 1);
    assert_true(signbit(one(f, -0.0f)));
}

static void test_cpu_math__erf(void **state)
{
    static const map_fn f[] = MAPS(map_erf);
    double e = worst(f, erf);
    print_message("erf: %.3f ulp\n", e);
    assert_true(e <= 1.5);
    assert_true(one(f, INFINITY) == 1 && one(f, -INFINITY) == -1 && signbit(one(f, -0.0f)));
}

static void test_cpu_math__logarithms(void **state)
{
    static const map_fn f[] = MAPS(map_log), g[] = MAPS(map_log1p), h[] = MAPS(map_expm1);
    double a = worst_of(f, log), b = worst_of(g, log1p), c = worst_of(h, expm1);
    print_message("log: %.3f ulp, log1p: %.3f ulp, expm1: %.3f ulp\n", a, b, c);
    assert_true(a <= 1.5 && b <= 1.5 && c <= 2);
    assert_true(one(f, 0.0f) == -INFINITY && isnan(one(f, -1.0f)) && one(f, INFINITY) == INFINITY && one(f, 1.0f) == 0);
    assert_true(one(g, -1.0f) == -INFINITY && isnan(one(g, -1.5f)) && one(g, INFINITY) == INFINITY);
    assert_true(one(h, -INFINITY) == -1 && one(h, INFINITY) == INFINITY);
}

static void test_cpu_math__floor_and_sqrt(void **state)
{
    static const map_fn f[] = MAPS(map_floor), g[] = MAPS(map_sqrt);
    assert_true(worst_of(f, floor) == 0);
    assert_true(worst_of(g, sqrt) <= 0.5);
}

static void test_cpu_math__sincos(void **state)
{
    double max = 0;
    for (uint64_t i = 0; i < 400000; i++) {
        double x = (double)(int64_t)am_random_u64(1, 0, i) / (i % 3 ? 0x1p32 : 0x1p60), s, c;
        am_cpu_sincos(x, &s, &c);
        max = fmax(max, fmax(fabs(s - sin(x)), fabs(c - cos(x))));
    }
    print_message("sine and cosine: %.2e\n", max);
    assert_true(max <= 1e-13);
}

typedef void (*bf16_fn)(const float *x, uint16_t *y, int64_t n);

static void bf16_all(const float *x)
{
    static const bf16_fn f[] = MAPS(map_bf16);
    static uint16_t y[3 * BATCH] __attribute__((aligned(64)));
    for (int isa = 0; isa <= (int)am_kernels_cpu_isa(); isa++) {
        f[isa](x, y, BATCH);
        for (int i = 0; i < 3 * BATCH; i++)
            if (y[i] != am_f32_to_bf16(x[i % BATCH]))
                fail_msg("bf16 of %a, %s, way %d: %04x, not %04x", x[i % BATCH], am_isa_name((am_isa)isa),
                         i / BATCH, y[i], am_f32_to_bf16(x[i % BATCH]));
    }
}

/* a sample of all floats, and every lower half (ties, denormals, NaN payloads) below some upper halves */
static void test_cpu_math__bf16(void **state)
{
    static float x[BATCH];
    uint64_t n = 0;
    for (uint64_t u = 0; u <= UINT32_MAX; u += 1021) {
        const float f = am_cpu_bits_float((uint32_t)u);
        assert_int_equal(am_cpu_to_bf16(f), am_f32_to_bf16(f));
        x[n++ % BATCH] = f;
        if (n % BATCH == 0) bf16_all(x);
    }
    const uint32_t upper[] = {0x0000, 0x0001, 0x007f, 0x0080, 0x3f80, 0x3f81, 0x7f7f, 0x7f80,
                              0x7fff, 0x8000, 0x807f, 0x8080, 0xbf80, 0xff7f, 0xff80, 0xffff};
    for (size_t h = 0; h < sizeof upper / sizeof *upper; h++)
        for (uint32_t low = 0; low < 65536; low += BATCH) {
            for (uint32_t i = 0; i < BATCH; i++) x[i] = am_cpu_bits_float(upper[h] << 16 | (low + i));
            bf16_all(x);
        }
    assert_int_equal(am_cpu_to_bf16(1.00390625f), 0x3f80); /* ties to even: 1 + 2^-8 down, 1 + 3·2^-8 up */
    assert_int_equal(am_cpu_to_bf16(1.01171875f), 0x3f82);
    assert_int_equal(am_cpu_to_bf16(FLT_MAX), 0x7f80);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cpu_math__exp),  cmocka_unit_test(test_cpu_math__tanh),
        cmocka_unit_test(test_cpu_math__erf),  cmocka_unit_test(test_cpu_math__logarithms),
        cmocka_unit_test(test_cpu_math__floor_and_sqrt), cmocka_unit_test(test_cpu_math__sincos),
        cmocka_unit_test(test_cpu_math__bf16),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
