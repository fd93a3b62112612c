/* metrics: training.jsonl and validation.jsonl with Automodel's field names, and the line a person reads.  Rank 0 only. */
#ifndef AM_METRICS_H
#define AM_METRICS_H

#include "base/base.h"

typedef struct am_metrics am_metrics;

typedef struct am_step_metrics {
    int64_t step, epoch, total_steps; /* step counts from 1 */
    double  loss, grad_norm, lr, mem_gib, seconds;
    int64_t tokens, label_tokens;     /* of the step, all ranks */
    int     ranks;
    bool    skipped; /* the gradient was not finite: nothing was updated */
} am_step_metrics;

/** Opens RUN_DIR/training.jsonl and validation.jsonl for appending; lines of steps after `resumed_at` are dropped first (a run that goes
 *  on from an older checkpoint writes them again). */
am_status am_metrics_open(const char *run_dir, int64_t resumed_at, am_metrics **out) AM_WARN_UNUSED;
void      am_metrics_close(am_metrics **m);
am_status am_metrics_step(am_metrics *m, const am_step_metrics *s) AM_WARN_UNUSED;
am_status am_metrics_validation(am_metrics *m, const char *name, int64_t step, int64_t epoch, double loss, double lr, int64_t label_tokens,
                                double mem_gib) AM_WARN_UNUSED;
/** Peak resident memory of this process, GiB (VmHWM). */
double am_metrics_peak_gib(void);

#endif
