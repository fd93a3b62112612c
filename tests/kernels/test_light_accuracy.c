/* The f32 rows of activations against the f64 rows over the whole range of floats, on every instruction set:
 * infinities, NaN, denormals and huge arguments included.  Unit: 2^-24 of max(1, |exact|), a rounding of a number
 * of that size. */
#include "kernels.h"

#include <float.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { N = 1 << 18 };
static float x32[N], one32[N], a32[N], b32[N];
static double x64[N], one64[N], a64[N], b64[N];

/* two thirds of the sample between -30 and 30 evenly, the rest over all exponents, and the ends of the range */
static void sample(void)
{
    const float ends[] = {0.0f, -0.0f, FLT_MIN, -FLT_MIN, 1e-45f, -1e-45f, 88.5f, -88.5f, 1e4f, -1e4f};
    for (int i = 0; i < N; i++) {
        double u = (double)(am_random_u64(3, 1, (uint64_t)i) >> 11) * 0x1p-53;
        double any = ldexp(i % 2 ? 1 + u : -1 - u, (int)(u * 1e6) % 150 - 140);
        x32[i] = (float)(i % 3 ? 60 * u - 30 : any);
        if (i < (int)(sizeof ends / sizeof *ends)) x32[i] = ends[i];
        x64[i] = (double)x32[i];
        one32[i] = 1;
        one64[i] = 1;
    }
}

static void call(const am_kernel *row, int act, bool wide, int num_in, int num_out)
{
    am_attrs attrs = {.act = act};
    am_kernel_call c = {.attrs = &attrs, .num_in = num_in, .num_out = num_out, .threads = 1};
    void *in[3] = {wide ? (void *)one64 : one32, wide ? (void *)x64 : x32, wide ? (void *)one64 : one32};
    void *out[2] = {wide ? (void *)a64 : a32, wide ? (void *)b64 : b32};
    for (int i = 0; i < num_in; i++)
        c.in[i] = (am_tensor){in[num_in == 1 ? 1 : i], wide ? AM_F64 : AM_F32, 1, {N}};
    for (int i = 0; i < num_out; i++) c.out[i] = (am_tensor){out[i], wide ? AM_F64 : AM_F32, 1, {N}};
    assert_int_equal((wide ? row->f64 : row->f32)(&c), AM_OK);
}

static double worst(const float *got, const double *exact)
{
    double max = 0;
    for (int i = 0; i < N; i++) {
        double e = fabs((double)got[i] - exact[i]) / (0x1p-24 * fmax(1, fabs(exact[i])));
        if (fabs(exact[i]) < (double)FLT_MAX) max = e > max || isnan(e) ? e : max;
    }
    return max;
}

/* value (act), derivative and value again (act_mul_bwd with dy = u = 1): a handful of roundings each; gelu_tanh's
 * derivative multiplies 1 − t², which lost up to a rounding of 1, by x·inner <= 20, mish's by x <= 10, and quick_gelu's
 * multiplies 1 − s by 1.702·x <= 17 */
static void test_light_accuracy__activations(void **state)
{
    static const struct { const char *name; double limit; } acts[AM_ACT_COUNT] = {
#define X(name_, E) [AM_ACT_##E] = {name_, AM_ACT_##E == AM_ACT_GELU_TANH || AM_ACT_##E == AM_ACT_QUICK_GELU || AM_ACT_##E == AM_ACT_MISH ? 24 : 6},
        AM_ACT_LIST(X)
#undef X
    };
    const am_kernel *act = am_kernels_cpu_find("act"), *both = am_kernels_cpu_find("act_mul_bwd");
    const am_isa last = am_kernels_cpu_isa();
    sample();
    for (int a = 0; a < AM_ACT_COUNT; a++)
        for (int isa = 0; isa <= (int)last; isa++) {
            double e[3];
            setenv("AM_ISA", am_isa_name((am_isa)isa), 1);
            call(act, a, true, 1, 1);
            call(act, a, false, 1, 1);
            e[0] = worst(a32, a64);
            call(both, a, true, 3, 2);
            call(both, a, false, 3, 2);
            e[1] = worst(a32, a64);
            e[2] = worst(b32, b64);
            if (isa == 0 || isa == (int)last)
                print_message("%-9s value %5.2f, derivative %5.2f, value beside it %5.2f\n", acts[a].name, e[0],
                              e[1], e[2]);
            for (int k = 0; k < 3; k++) assert_true(e[k] <= acts[a].limit);
        }
    unsetenv("AM_ISA");
}

static float value_of(am_act act, float x)
{
    x32[0] = x;
    call(am_kernels_cpu_find("act"), act, false, 1, 1);
    return a32[0];
}
/* far out: the limits of the functions, NaN for NaN */
static void test_light_accuracy__ends(void **state)
{
    sample();
    static const float above[AM_ACT_COUNT] = {[AM_ACT_SIGMOID] = 1, [AM_ACT_TANH] = 1, [AM_ACT_LAPLACE] = 1, [AM_ACT_RELU6] = 6};
    for (int a = 0; a < AM_ACT_COUNT; a++) {
        assert_true(isnan(value_of((am_act)a, NAN)));
        float far = a == AM_ACT_RELU2 ? 1e15f : 1e30f;
        float limit = above[a] > 0 ? above[a] : a == AM_ACT_RELU2 ? far * far : far;
        assert_true(value_of((am_act)a, far) == limit);
        assert_true(value_of((am_act)a, -1e30f) == (a == AM_ACT_TANH ? -1.0f : a == AM_ACT_LEAKY_RELU ? 0.01f * -1e30f : 0.0f));
        assert_true(isfinite(value_of((am_act)a, -88.5f)) && fabsf(value_of((am_act)a, -88.5f)) <= 1);
    }
    assert_true(value_of(AM_ACT_SIGMOID, INFINITY) == 1 && value_of(AM_ACT_SIGMOID, -INFINITY) == 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_light_accuracy__activations),
        cmocka_unit_test(test_light_accuracy__ends),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
