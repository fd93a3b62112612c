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
    NR, W, false, pack, block,
    att_scratch, att_pack, att_forward, att_index, att_bwd_begin, att_bwd_tile, att_bwd_add, att_bwd_end, att_bwd_keys,
    ce_row, ce_grad_row, ce_both_row,
};
#endif
