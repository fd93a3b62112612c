/* bench: what a machine can do and what a recipe's step makes of it: measured in one process, so that the two compare. */
#ifndef AM_BENCH_H
#define AM_BENCH_H

#include "config/config.h"
#include "graph/program.h"

/* Best of a second of tries each. */
typedef struct am_ceilings {
    double flops; /* FLOP/s of a product of 2048 x 1024 by 1024 x 4096, in the compute dtype, on all threads */
    double bytes; /* bytes/s read and written by adding two float arrays of 64 MiB into a third */
} am_ceilings;

/** @param compute  AM_F32 or AM_BF16. */
am_status am_bench_ceilings(const am_device *d, am_dtype compute, am_ceilings *out) AM_WARN_UNUSED;

typedef struct am_step_bench {
    int64_t  tokens;              /* of a step of this rank */
    int      threads, ranks, rank;
    am_dtype compute;
    int      steps;
    double   seconds;             /* of a step: the median */
    /* of the fastest of these steps: */
    am_profile_row *rows;
    int      num_rows;
    double   between;             /* seconds outside of operators: waits, feeding, the executor itself */
    double   waits;               /* of these, waiting for messages */
    int64_t  flops, plan_bytes;   /* of a step; of all regions */
    double   peak_gib;            /* of this process */
    am_ceilings ceilings;
} am_step_bench;

/** The recipe's step on random tokens and its model's weights (from_config: random ones), after one step that is not counted.
 *  Writes nothing.  [collective]  @param out  of this rank; caller releases. */
am_status am_bench_step(const am_config *cfg, int steps, am_step_bench *out) AM_WARN_UNUSED;
void      am_step_bench_release(am_step_bench *b);

#endif
