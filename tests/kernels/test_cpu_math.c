/* The errors that kernels_cpu_math.h states for exp, tanh, erf, sine, cosine and bf16 rounding, against the C
 * library in double (its error, about 1e-16, does not show in float ulp). */
#include "cpu/kernels_cpu_math.h"

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

static float no_expf(float x)
{
    return am_cpu_expf(x);
}
static float no_tanhf(float x)
{
    return am_cpu_tanhf(x);
}
static float no_erff(float x)
{
    return am_cpu_erff(x);
}

/* every 97th float of both signs up to `limit` */
static double worst(float (*f)(float), double (*exact)(double), float limit)
{
    double max = 0;
    for (uint32_t u = 0; u <= am_cpu_float_bits(limit); u += 97)
        for (uint32_t sign = 0; sign < 2; sign++) {
            float x = am_cpu_bits_float(u | sign << 31);
            double e = ulps(f(x), exact((double)x));
            if (e > max) max = e;
        }
    return max;
}

static void test_cpu_math__exp(void **state)
{
    double e = worst(no_expf, exp, 110.0f);
    print_message("exp: %.3f ulp\n", e);
    assert_true(e <= 1.0);
    assert_true(no_expf(-INFINITY) == 0 && isinf(no_expf(INFINITY)) && no_expf(0.0f) == 1.0f &&
                isnan(no_expf(NAN)));
    assert_true(isinf(no_expf(88.8f)) && isfinite(no_expf(88.7f)) && no_expf(-104.0f) == 0 &&
                no_expf(-100.0f) > 0);
}

static void test_cpu_math__tanh(void **state)
{
    double e = worst(no_tanhf, tanh, 30.0f);
    print_message("tanh: %.3f ulp\n", e);
    assert_true(e <= 1.5);
    assert_true(no_tanhf(INFINITY) == 1 && no_tanhf(-INFINITY) == -1 && isnan(no_tanhf(NAN)) &&
                no_tanhf(1e30f) == 1);
    assert_true(signbit(no_tanhf(-0.0f)));
}

static void test_cpu_math__erf(void **state)
{
    double e = worst(no_erff, erf, 10.0f);
    print_message("erf: %.3f ulp\n", e);
    assert_true(e <= 1.5);
    assert_true(no_erff(INFINITY) == 1 && no_erff(-INFINITY) == -1 && isnan(no_erff(NAN)));
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

static void test_cpu_math__bf16(void **state)
{
    for (uint64_t u = 0; u <= UINT32_MAX; u += 1021) {
        float x = am_cpu_bits_float((uint32_t)u);
        assert_int_equal(am_cpu_to_bf16(x), am_f32_to_bf16(x));
    }
    assert_int_equal(am_cpu_to_bf16(1.00390625f), 0x3f80); /* ties to even: 1 + 2^-8 down, 1 + 3·2^-8 up */
    assert_int_equal(am_cpu_to_bf16(1.01171875f), 0x3f82);
    assert_int_equal(am_cpu_to_bf16(FLT_MAX), 0x7f80);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cpu_math__exp),  cmocka_unit_test(test_cpu_math__tanh),
        cmocka_unit_test(test_cpu_math__erf),  cmocka_unit_test(test_cpu_math__sincos),
        cmocka_unit_test(test_cpu_math__bf16),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
