/* kernels_cpu_math: exp, tanh, erf and bf16 rounding of floats, and sine and cosine, as straight-line code that the
 * compiler vectorises.  Errors against exact values, found over all or densely sampled floats by
 * tests/kernels/test_cpu_math.c: exp <= 1 ulp (0, denormals, inf, NaN right), tanh and erf <= 1.5 ulp,
 * sine and cosine <= 1e-13 absolute for |x| < 2^31.  No fused operations: the same bits on every instruction set.
 * The polynomials: Taylor for exp, sine, cosine; interpolation at Chebyshev nodes for tanh and erf. */
#ifndef AM_KERNELS_CPU_MATH_H
#define AM_KERNELS_CPU_MATH_H

#include "base/base.h"

#include <math.h>

#define AM_INLINE static inline __attribute__((always_inline))

AM_INLINE float am_cpu_bits_float(uint32_t u)
{
    union { uint32_t u; float f; } v = {.u = u};
    return v.f;
}
AM_INLINE uint32_t am_cpu_float_bits(float f)
{
    union { float f; uint32_t u; } v = {.f = f};
    return v.u;
}

AM_INLINE float am_cpu_load_bf16(const uint16_t *p) { return am_cpu_bits_float((uint32_t)*p << 16); }
AM_INLINE uint16_t am_cpu_to_bf16(float x) /* nearest even; NaN stays NaN; no branch */
{
    uint32_t u = am_cpu_float_bits(x);
    uint32_t rounded = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16, nan = (u >> 16) | 0x40u;
    return (uint16_t)((u & 0x7fffffffu) > 0x7f800000u ? nan : rounded);
}
AM_INLINE float am_cpu_round_bf16(float x) { return am_cpu_bits_float((uint32_t)am_cpu_to_bf16(x) << 16); }

/* e^x = 2^n e^r, |r| <= ln2/2; 2^n in two factors so that the ends of the range come out right */
AM_INLINE float am_cpu_expf(float x)
{
    const float magic = 12582912.0f; /* 1.5·2^23: adding it rounds to an integer kept in the low bits */
    x = x > 89.0f ? 89.0f : x;
    x = x < -105.0f ? -105.0f : x;
    float t = x * 1.44269504088896341f + magic;
    float n = t - magic;
    float r = (x - n * 0.693359375f) + n * 2.12194440054690583e-4f; /* ln2 = 0.693359375 − 2.1219e-4 */
    float p = 1.0f / 5040;
    p = p * r + 1.0f / 720;
    p = p * r + 1.0f / 120;
    p = p * r + 1.0f / 24;
    p = p * r + 1.0f / 6;
    p = p * r + 0.5f;
    p = 1.0f + (r + r * r * p);
    uint32_t k = am_cpu_float_bits(t) - am_cpu_float_bits(magic) + 512u; /* n + 512 > 0 */
    uint32_t half = (k >> 1) - 256u, rest = k - 512u - half;
    return p * am_cpu_bits_float((half + 127u) << 23) * am_cpu_bits_float((rest + 127u) << 23);
}

AM_INLINE float am_cpu_tanhf(float x)
{
    float a = am_cpu_bits_float(am_cpu_float_bits(x) & 0x7fffffffu), u = x * x;
    float p = -8.621347266e-04f;
    p = p * u + 3.306158933e-03f;
    p = p * u - 8.790968884e-03f;
    p = p * u + 2.185988923e-02f;
    p = p * u - 5.396763909e-02f;
    p = p * u + 1.333333184e-01f;
    p = p * u - 3.333333333e-01f;
    float small = x + x * (u * p);
    float large = 1.0f - 2.0f / (am_cpu_expf(2.0f * a) + 1.0f);
    float y = a < 0.625f ? small : large;
    return am_cpu_bits_float(am_cpu_float_bits(y) | (am_cpu_float_bits(x) & 0x80000000u));
}

AM_INLINE float am_cpu_erff(float x)
{
    float a = am_cpu_bits_float(am_cpu_float_bits(x) & 0x7fffffffu), u = x * x;
    float p = -1.026474606e-05f;
    p = p * u + 1.144678863e-04f;
    p = p * u - 8.505492809e-04f;
    p = p * u + 5.222283182e-03f;
    p = p * u - 2.686580392e-02f;
    p = p * u + 1.128378776e-01f;
    p = p * u - 3.761263874e-01f;
    float small = x * 1.0f + x * (p * u + 1.283791671e-01f); /* 2/sqrt(pi) = 1 + 0.12837… */
    float c = a > 4.0f ? 4.0f : a; /* log(erfc) as a polynomial; erf(4) rounds to 1 */
    float q = 1.643063656e-06f;
    q = q * c - 4.616385863e-05f;
    q = q * c + 5.975857702e-04f;
    q = q * c - 4.762625833e-03f;
    q = q * c + 2.642763715e-02f;
    q = q * c - 1.100871665e-01f;
    q = q * c - 6.318239181e-01f;
    q = q * c - 1.130231055e+00f;
    q = q * c + 3.185396624e-04f;
    float large = 1.0f - am_cpu_expf(q);
    large = am_cpu_bits_float(am_cpu_float_bits(large) | (am_cpu_float_bits(x) & 0x80000000u));
    large = x != x ? x : large;
    return a < 0.92f ? small : large;
}

/* Sine and cosine of a double with |x| < 2^31: x = k·pi/2 + r, pi/2 in three parts whose products with k are exact. */
AM_INLINE void am_cpu_sincos(double x, double *sine, double *cosine)
{
    const double magic = 6755399441055744.0; /* 1.5·2^52 */
    union { double f; uint64_t u; } t = {.f = x * 0.63661977236758134308 + magic};
    double k = t.f - magic;
    double r = ((x - k * 1.570796012878418) - k * 3.139164164167596e-07) - k * 6.223372171896613e-14;
    double u = r * r;
    double s = 1.0 / 6227020800.0, c = 1.0 / 479001600.0 - u * (1.0 / 87178291200.0);
    s = s * u - 1.0 / 39916800.0;
    s = s * u + 1.0 / 362880.0;
    s = s * u - 1.0 / 5040.0;
    s = s * u + 1.0 / 120.0;
    s = s * u - 1.0 / 6.0;
    s = r + r * (u * s);
    c = c * u - 1.0 / 3628800.0;
    c = c * u + 1.0 / 40320.0;
    c = c * u - 1.0 / 720.0;
    c = c * u + 1.0 / 24.0;
    c = 1.0 - u * (0.5 - u * c);
    uint64_t quarter = t.u; /* low bits: k modulo 4 */
    double a = (quarter & 1u) ? c : s, b = (quarter & 1u) ? s : c;
    *sine = (quarter & 2u) ? -a : a;
    *cosine = ((quarter + 1u) & 2u) ? -b : b;
}

#endif
