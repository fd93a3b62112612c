/* init_weights: fresh weights for from_config: a pure function of (seed, parameter, element), the same on every layout. */
#ifndef AM_INIT_WEIGHTS_H
#define AM_INIT_WEIGHTS_H

#include "graph/program.h"

/** Norm weights 1, biases 0, everything else normal(0, std). */
am_status am_init_weights(am_exec *e, const am_program *p, uint64_t seed, double std) AM_WARN_UNUSED;

#endif
