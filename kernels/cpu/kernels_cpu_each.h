/* kernels_cpu_each: compiles the file named by AM_BODY nine times: for the portable, AVX2 and AVX-512 instruction sets,
 * and in each for f64, f32 and bf16 ("kernels_cpu_types.h").  Include it once per .c file; no include guard on purpose.
 * The compiler vectorises the loops; the body marks them with AM_SIMD where aliasing would stop it. */
#include <math.h>
#include "kernels_cpu_math.h"

#define AM_CPU_PRAGMA(x) _Pragma(#x)
#define AM_SIMD AM_CPU_PRAGMA(omp simd)

#define AM_CPU_ISA portable
#include "kernels_cpu_types.h"
#undef AM_CPU_ISA

#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c")
#define AM_CPU_ISA avx2
#include "kernels_cpu_types.h"
#undef AM_CPU_ISA
#pragma GCC pop_options

#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,prefer-vector-width=512")
#define AM_CPU_ISA avx512
#include "kernels_cpu_types.h"
#undef AM_CPU_ISA
#pragma GCC pop_options
