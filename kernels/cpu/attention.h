/* attention: the f64 reference that attention.c calls; am_att stands in simd.h. */
#ifndef AM_CPU_ATTENTION_H
#define AM_CPU_ATTENTION_H

#include "simd.h"

void am_attention_f64(const am_att *t, int threads);
void am_attention_bwd_f64(const am_att *t, int threads);

#endif
