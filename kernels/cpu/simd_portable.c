/* simd_portable: the heavy kernels for the compiler's baseline: 4 lanes, micro-tiles of 6 × 8. */
#include "simd.h"

#define W 4
#define NRV 2
#include "simd_vec.inc"
#include "simd_gemm.inc"
#include "simd_attention.inc"
#include "simd_ce.inc"

const am_simd am_simd_portable = {
    NR, false, pack, block,
    att_scratch, att_pack, att_forward, att_delta, att_backward_kv, att_backward_q,
    ce_row, ce_grad_row,
};
