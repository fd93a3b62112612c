/* attention: what attention.c shares with attention_f64.c (the f64 reference) and attention_bias.c (sinks, slopes,
 * tables of biases); am_att stands in simd.h. */
#ifndef AM_CPU_ATTENTION_H
#define AM_CPU_ATTENTION_H

#include "simd.h"

void am_attention_f64(const am_att *t, int threads);
void am_attention_bwd_f64(const am_att *t, int threads);

/** Input i, or NULL where it is not given. */
const am_tensor *am_attention_operand(const am_kernel_call *c, int i);
/** slopes, bias, buckets and keys are the inputs from `first` on: pointers and sizes, unchecked. */
void am_attention_bias_operands(const am_kernel_call *c, int first, am_att *t);
/** The same, with shapes checked against nq and heads. */
am_status am_attention_take_bias(const am_kernel_call *c, int first, const char *op, am_att *t) AM_WARN_UNUSED;
/** Output 3 of attention_bwd, where it is given. */
am_status am_attention_take_dbias(const am_kernel_call *c, am_att *t) AM_WARN_UNUSED;
void am_attention_carve_bias(am_bump *b, am_att *t, int64_t query_tiles, bool backward);
/** Fills what am_attention_carve_bias carved from the operands. */
void am_attention_read_bias(const am_att *t);
/** dbias of one head from the sums of its units, last tile of queries first. */
void am_attention_sum_table(const am_att *t, int64_t query_tiles, int64_t head);

#endif
