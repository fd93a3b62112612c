/* train: a run, from a recipe to a Hugging Face directory. */
#ifndef AM_TRAIN_H
#define AM_TRAIN_H

#include "config/config.h"

/** Train as the recipe says; resumes by itself.  Opens and closes the engine.
 *  @return AM_INTERRUPTED after a signal, checkpoint committed. */
am_status am_train(const am_config *cfg) AM_WARN_UNUSED;

/** `why` is what loading the recipe gave: AM_OK at once; otherwise the ranks that were refused agree on which of them reports. */
am_status am_train_refused(am_status why) AM_WARN_UNUSED;

typedef struct am_dry_run {
    int64_t ranks;   /* of the job that is asked about; 0 = 1 */
    int64_t rank;    /* print this rank's program; -1: none */
    int     threads; /* per rank; 0 = run.threads, else this machine's cores */
    bool    json;
} am_dry_run;
/** Resolve, check, compile the first and the last rank by the function that train uses, print bytes, FLOPs and messages.  No MPI,
 *  no weights, no data. */
am_status am_train_dry_run(const am_config *cfg, const am_dry_run *o) AM_WARN_UNUSED;

/** The programs of a run on one rank: train, and eval when the recipe validates. */
struct am_settings;
struct am_model;
struct am_program;
am_status am_train_compile(const struct am_settings *s, const struct am_model *m, int64_t rank, int threads, bool validates, struct am_program *out[2],
                           int *count) AM_WARN_UNUSED;

#endif
