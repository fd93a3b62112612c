/* bench: what a machine can do and what a recipe's step makes of it: measured in one process, so that the two compare; its
 * variants each in a process of its own, since what a process held at most is never forgotten. */
#ifndef AM_BENCH_H
#define AM_BENCH_H

#include "config/config.h"
#include "graph/program.h"
#include "train/bench_memory.h"
#include "train/counters.h"
#include "train/start_clock.h"

/* Best of a second of tries each. */
typedef struct am_ceilings {
    double flops; /* FLOP/s of a product of 2048 x 1024 by 1024 x 4096, in the compute dtype, on all threads */
    double bytes; /* bytes/s read and written by adding one float array of 64 MiB to another */
} am_ceilings;

/** @param compute  AM_F32 or AM_BF16. */
am_status am_bench_ceilings(const am_device *d, am_dtype compute, am_ceilings *out) AM_WARN_UNUSED;

/* Products by expert beside one product of all their rows: FLOP/s, the best of half a second of tries each. */
typedef struct am_expert_rate {
    const char *op;
    int64_t     tokens, slots, experts, in, out; /* slots of a token */
    double      grouped, dense;
} am_expert_rate;

enum { AM_EXPERT_RATES = 9 };
/** @param rows  [AM_EXPERT_RATES] */
am_status am_bench_experts(const am_device *d, am_dtype compute, am_expert_rate *rows, int *num) AM_WARN_UNUSED;
void      am_bench_print_experts(const am_expert_rate *rows, int num, am_dtype compute, int threads);
void      am_bench_json_experts(const am_expert_rate *rows, int num);

typedef struct am_bench_options {
    int  steps;    /* measured, after one that is not counted */
    bool counters; /* a further step with the processor's counters read around every operator */
    bool memory;   /* the plan beside the process, after these steps */
    bool ceilings; /* else 0 */
    bool quiet;    /* no line about the placement */
} am_bench_options;

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
    double   peak_gib;            /* of this process, before the ceilings were measured */
    am_ceilings ceilings;
    /* as asked for: */
    am_counts *counts;            /* by row, of one step; NULL: not asked for */
    bool     counted[AM_COUNTER_COUNT]; /* which of them there are */
    char     not_counted[512];    /* the sentence about the others; "" where all are there */
    am_memory_report memory;
    am_start_clock   clock;       /* the process after each part of the start and after the steps */
} am_step_bench;

/** The recipe's step on random tokens and its model's weights (from_config: random ones), after one step that is not counted.
 *  Writes nothing.  [collective]  @param out  of this rank; caller releases. */
am_status am_bench_step(const am_config *cfg, const am_bench_options *o, am_step_bench *out) AM_WARN_UNUSED;
void      am_step_bench_release(am_step_bench *b);

/* ---- passes on and off -------------------------------------------------------------------------------------------- */

enum { AM_BENCH_VARIANTS = 16, AM_BENCH_ROUNDS = 32 };

/* The recipe with one pass set to another value. */
typedef struct am_bench_variant {
    const char   *key;       /* "run.fuse"; NULL: the recipe as it is */
    char          value[32];
    am_step_bench best;      /* of the round in which its step took least; rows NULL: it never ran */
    double        seconds[AM_BENCH_ROUNDS]; /* the median step of each round */
    int           exit_code; /* of a round that failed; 0: none did */
} am_bench_variant;

typedef struct am_pass_bench {
    am_bench_variant variant[AM_BENCH_VARIANTS]; /* the first is the recipe */
    int              num_variants, rounds;
    bool             child; /* this is the process of a variant: it has said what it had to say, and only leaves */
} am_pass_bench;

/** The step of `path` with `overrides`, beside the same with each optional pass set to each of its other values, in
 *  alternation: every round runs all of them, each in a fresh process.  A variant that fails has said why on standard error.
 *  To be called before anything else of the process has been started (it forks), and without a launcher.
 *  @param out  caller releases, also after a failure.  Look at `child` first. */
am_status am_bench_passes(const char *path, int num_overrides, const char *const *overrides, int steps, int rounds,
                          am_pass_bench *out) AM_WARN_UNUSED;
void      am_pass_bench_release(am_pass_bench *b);

/* ---- start -------------------------------------------------------------------------------------------------------- */

/** The start of `automodel train` by its own functions, up to the end of the first step, in a run directory of its own
 *  beneath the recipe's, which is removed again.  [collective]  @param[out] rank  of this process; -1: it got none. */
am_status am_bench_start(const char *path, int num_overrides, const char *const *overrides, am_start_clock *out,
                         int *rank) AM_WARN_UNUSED;

#endif
