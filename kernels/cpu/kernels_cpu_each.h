/* kernels_cpu_each: compiles the file named by AM_BODY eleven times: for the portable, AVX2 and AVX-512 instruction sets,
 * and in each for f64, f32 and bf16 ("kernels_cpu_types.h"), and for AVX-512 with bf16 conversions, f32 and bf16.  Include
 * it once per .c file; no include guard on purpose.  Loops are either left to the compiler (AM_SIMD where aliasing would
 * stop it) or written in the vectors of "kernels_cpu_vec.h". */
#include <math.h>
#include <string.h>
#include <immintrin.h>
#include "kernels_cpu_math.h"

#define AM_CPU_PRAGMA(x) _Pragma(#x)
#define AM_SIMD AM_CPU_PRAGMA(omp simd)

#define AM_CPU_ISA portable
#define AM_CPU_W 4
#include "kernels_cpu_vec.h"
#include "kernels_cpu_types.h"
#undef AM_CPU_ISA
#undef AM_CPU_W

#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c")
#define AM_CPU_ISA avx2
#define AM_CPU_W 8
#include "kernels_cpu_vec.h"
#include "kernels_cpu_types.h"
#undef AM_CPU_ISA
#undef AM_CPU_W
#pragma GCC pop_options

#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,prefer-vector-width=512")
#define AM_CPU_ISA avx512
#define AM_CPU_W 16
#include "kernels_cpu_vec.h"
#include "kernels_cpu_types.h"
#undef AM_CPU_ISA
#pragma GCC pop_options

#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,prefer-vector-width=512")
#define AM_CPU_ISA avx512_bf16
#define AM_CPU_BF16 1
#include "kernels_cpu_vec.h"
#include "kernels_cpu_types.h"
#undef AM_CPU_ISA
#undef AM_CPU_BF16
#undef AM_CPU_W
#pragma GCC pop_options
