/* kernels_cpu: what the files of this folder share.  Read in this order: the list of rows; the operand check; how
 * work is cut among threads; how one source body becomes eleven functions (types × instruction sets).
 *
 * An operator file has a body (`<family>.inc`, range functions written once in terms of `elem`, `real`, LOAD, STORE)
 * and a .c file that includes it through "kernels_cpu_each.h", checks operands and publishes the row.
 * No function here contracts a*b+c into a fused operation, so light kernels give the same bits on every ISA. */
#ifndef AM_KERNELS_CPU_H
#define AM_KERNELS_CPU_H

#include "kernels.h"

/* ---- rows -------------------------------------------------------------------------------------- */

#define AM_CPU_KERNEL_LIST(X)                                                                             \
    X(embed) X(embed_dw) X(linear) X(linear_dx) X(linear_dw) X(bias_db) X(rmsnorm) X(rmsnorm_dx)          \
    X(rmsnorm_dw) X(rope_angles) X(rope) X(attention) X(attention_bwd) X(attention_dsinks) X(index_keys) X(act) X(act_bwd) X(act_mul)       \
    X(act_mul_bwd) X(add) X(mul) X(scale) X(linear_ce) X(linear_ce_bwd) X(linear_ce_grad) X(loss_sum) X(loss_dlogp) X(cast) \
    X(fill) X(rank_sum) X(sumsq) X(clip_coef) X(adamw) X(gather_rows) X(scatter_rows) X(softcap)          \
    X(gated_delta) X(gated_delta_bwd) X(lightning) X(lightning_bwd) X(rg_lru) X(rg_lru_bwd) X(wkv) X(wkv_bwd) X(shift) X(block_linear) X(block_linear_dx) X(block_linear_dw)                                       \
    X(softcap_bwd) \
    X(layernorm) X(layernorm_dx) X(layernorm_dw) X(map) X(map_bwd) X(pair) X(where) X(sum_to) X(softmax) X(softmax_bwd)    \
    X(row_max) X(row_max_bwd) X(cat) X(split) X(xielu) X(xielu_bwd) X(xielu_dalpha)                                                             \
    X(topk) X(topmask) X(pick) X(pick_bwd) X(route) X(dispatch) X(combine) X(slot_scale) X(slot_dot)               \
    X(grouped_linear) X(grouped_linear_dx) X(grouped_linear_dw) X(grouped_bias_db) X(sparsemixer) X(sparsemixer_bwd) X(swap) \
    X(conv) X(conv_dx) X(conv_dw) X(ssd) X(ssd_bwd) X(ssd_sums) X(mamba1) X(mamba1_bwd) X(mamba1_split)
#define X(op) extern const am_kernel am_kernel_##op;
AM_CPU_KERNEL_LIST(X)
#undef X

/** What AM_ISA says is one of the names of am_isa_name and not more than this machine has.
 *  @return AM_ERR_ENVIRONMENT with the choices otherwise (am_kernels_cpu_isa alone would silently take the best). */
am_status am_kernels_cpu_isa_check(void) AM_WARN_UNUSED;

/* ---- operands ---------------------------------------------------------------------------------- */

/* Sizes bound by am_cpu_check, indexed by the letter of the signature: dims.of['N']. */
typedef struct am_cpu_dims { int64_t of[128]; } am_cpu_dims;

/** Check number, types and shapes of the operands of `op` and return the sizes.
 *  signature: "ids:i[N] table:r[V,D] bias:r[O]? > y:r[N,D]": operands before > are in[], behind it out[]; `?` optional.
 *  Types: r = the compute dtype `real`; w = f32* (f64 when real is f64); p = r or w; i = i32; d = f64; x = any.
 *  Shapes: a letter is bound at its first use and compared afterwards.  A tensor of higher rank than the signature has
 *  its leading dimensions folded into the first letter ([N,H,d] fits [M,d] with M = N·H); `.` as last letter takes the
 *  product of all remaining dimensions and binds it ("x:x[N,.]").
 *  An absent optional operand has rank 0 and data NULL.  A `+` before the `>` says that accumulate is offered.
 *  @return AM_ERR_SHAPE with operator, operand, and both shapes in the sentence. */
am_status am_cpu_check(const am_kernel_call *call, const char *op, const char *signature, am_dtype real,
                       am_cpu_dims *dims) AM_WARN_UNUSED;
/** dtype of f32* operands for this compute dtype. */
static inline am_dtype am_cpu_wide(am_dtype real) { return real == AM_F64 ? AM_F64 : AM_F32; }

/* ---- threads ----------------------------------------------------------------------------------- */

typedef void (*am_cpu_range_fn)(const am_kernel_call *call, int64_t begin, int64_t end);

/** fn over [0, n), cut at multiples of `granule` into call->threads contiguous parts inside one parallel region.
 *  bytes: memory touched by one of the n items; when all together are small, fn(call, 0, n) runs on this thread.
 *  The cut depends on the number of threads, so fn's result for an item must not depend on begin and end. */
void am_cpu_for(const am_kernel_call *call, int64_t n, int64_t granule, int64_t bytes, am_cpu_range_fn fn);
/** Two such loops in one region, the second after all of the first. */
void am_cpu_for2(const am_kernel_call *call, int64_t n, int64_t granule, int64_t bytes, am_cpu_range_fn fn,
                 int64_t n2, int64_t granule2, am_cpu_range_fn fn2);
/** Part `index` of `parts` of [0, n) cut at multiples of granule. */
void am_cpu_part(int64_t n, int64_t granule, int parts, int index, int64_t *begin, int64_t *end);

/* ---- types and instruction sets ------------------------------------------------------------------ */

#define AM_CPU_CAT2_(a, b) a##_##b
#define AM_CPU_CAT2(a, b) AM_CPU_CAT2_(a, b)
#define AM_CPU_CAT3_(a, b, c) a##_##b##_##c
#define AM_CPU_CAT3(a, b, c) AM_CPU_CAT3_(a, b, c)

/* After "kernels_cpu_each.h" compiled a body that defines FN(op): the eleven functions as a table [type][isa]. */
typedef am_cpu_range_fn am_cpu_range_table[3][AM_ISA_COUNT];
#define AM_CPU_RANGES(op)                                                                                \
    static const am_cpu_range_table op##_ranges = {                                                      \
        {op##_f64_portable, op##_f64_avx2, op##_f64_avx512, op##_f64_avx512},                            \
        {op##_f32_portable, op##_f32_avx2, op##_f32_avx512, op##_f32_avx512_bf16},                       \
        {op##_bf16_portable, op##_bf16_avx2, op##_bf16_avx512, op##_bf16_avx512_bf16}}
static inline am_cpu_range_fn am_cpu_pick(const am_cpu_range_table ranges, am_dtype real)
{
    return ranges[real == AM_F64 ? 0 : real == AM_F32 ? 1 : 2][am_kernels_cpu_isa()];
}

/* Row of an operator whose three types share `static am_status run(const am_kernel_call *, am_dtype real)`. */
#define AM_CPU_ROW(op, run, workspace_fn)                                                                \
    static am_status op##_row_f64(const am_kernel_call *c) { return run(c, AM_F64); }                    \
    static am_status op##_row_f32(const am_kernel_call *c) { return run(c, AM_F32); }                    \
    static am_status op##_row_bf16(const am_kernel_call *c) { return run(c, AM_BF16); }                  \
    const am_kernel am_kernel_##op = {#op, op##_row_f64, op##_row_f32, op##_row_bf16, workspace_fn}

#endif
