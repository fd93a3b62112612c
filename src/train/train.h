/* train: a run, from a recipe to a Hugging Face directory. */
#ifndef AM_TRAIN_H
#define AM_TRAIN_H

#include "config/config.h"

/** Train as the recipe says; resumes by itself.  Opens and closes the engine.
 *  @return AM_INTERRUPTED after a signal, checkpoint committed. */
am_status am_train(const am_config *cfg) AM_WARN_UNUSED;
struct am_start_clock;
/** The same up to the end of the first step, which nothing is saved of: what `automodel bench start` measures.
 *  @param clock  begun; gets a mark for each part of the start.  @param[out] rank  of this process. */
am_status am_train_first_step(const am_config *cfg, struct am_start_clock *clock, int *rank) AM_WARN_UNUSED;

/** `why` is what loading the recipe gave: AM_OK at once; otherwise the ranks that were refused agree on which of them reports. */
am_status am_train_refused(am_status why) AM_WARN_UNUSED;

/* The job that is asked about.  What is 0 is taken from the Slurm job that this process is in, if it is in one. */
typedef struct am_dry_run {
    int64_t ranks;          /* else 1 */
    int64_t ranks_per_node; /* else all on one node */
    int64_t node_bytes;     /* memory of a node; else unknown, and everything fits */
    int64_t rank;           /* print this rank's program; -1: none */
    int     threads;        /* per rank; else run.threads, else the CPUs of a rank in the Slurm job, else this machine's cores */
    bool    json;
} am_dry_run;
/** Resolve, check, compile the first and the last rank by the function that train uses, print bytes, FLOPs and messages.  No MPI,
 *  no weights, no data.
 *  @return AM_ERR_PLAN, after printing, when the ranks do not fit into a node (am_fit_check's sentence). */
am_status am_train_dry_run(const am_config *cfg, const am_dry_run *o) AM_WARN_UNUSED;

/** The programs of a run on one rank: train, and eval when the recipe validates. */
struct am_settings;
struct am_model;
struct am_program;
am_status am_train_compile(const struct am_settings *s, const struct am_model *m, int64_t rank, int threads, bool validates, struct am_program *out[2],
                           int *count) AM_WARN_UNUSED;

#endif
