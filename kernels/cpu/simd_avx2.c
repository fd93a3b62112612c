/* simd_avx2: the heavy kernels for AVX2 and FMA: 8 lanes, micro-tiles of 6 × 16. */
#ifdef __x86_64__
#include <immintrin.h>
#include "simd.h"

#pragma GCC target("avx2,fma,f16c")
#define W 8
#define NRV 2
#include "simd_vec.inc"
#include "simd_gemm.inc"
#include "simd_attention.inc"
#include "simd_ce.inc"

const am_simd am_simd_avx2 = {
    NR, false, pack, block,
    att_scratch, att_pack, att_forward, att_delta, att_backward_kv, att_backward_q,
    ce_row, ce_grad_row,
};
#endif
