/* simd_portable: the heavy kernels for the compiler's baseline: 4 lanes, micro-tiles of 6 × 8. */
#include "simd.h"

#define W 4
#define NRV 2
#include "simd_vec.inc"
#include "simd_gemm.inc"
#include "simd_attention.inc"
#include "simd_ce.inc"

const am_simd am_simd_portable = {
    NR, W, false, pack, block,
    att_scratch, att_pack, att_forward, att_index, att_bwd_begin, att_bwd_tile, att_bwd_add, att_bwd_end, att_bwd_keys,
    ce_row, ce_grad_row, ce_both_row,
};
