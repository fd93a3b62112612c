/* kernels_cpu_math: what light kernels compute on scalars, as straight-line code that the compiler vectorises: bf16
 * rounding of floats, sine and cosine of doubles.  Errors, found by tests/kernels/test_cpu_math.c: sine and cosine <= 1e-13
 * absolute for |x| < 2^31 (Taylor).  Vectors, and exp, tanh and erf of floats: kernels_cpu_vec.h.  No fused operations: the
 * same bits on every instruction set. */
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
