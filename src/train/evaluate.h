/* evaluate: loss over a data set with the EVAL program, rows dealt to the ranks. */
#ifndef AM_EVALUATE_H
#define AM_EVALUATE_H

#include "data/data.h"
#include "train/engine.h"

typedef struct am_evaluator am_evaluator; /* host buffers for micro-batches, made once */
am_status am_evaluator_create(int64_t rows, int64_t seq_len, am_evaluator **out) AM_WARN_UNUSED;
void      am_evaluator_free(am_evaluator **v);

/* loss: per supervised token.  signal: a signal that some rank received meanwhile; then the evaluation was left. */
typedef struct am_evaluation { double loss; int64_t targets, rows, signal; } am_evaluation;

/** Run program `program` (kind EVAL) over one epoch of `data`.  Changes no slot.  [collective]
 *  @param pending  asked between micro-batches, on every rank: the signal to leave for, or 0; NULL: never. */
am_status am_evaluate(am_evaluator *v, const am_engine *e, am_exec *x, int program, am_dataset *data, int (*pending)(void),
                      am_evaluation *out) AM_WARN_UNUSED;

/** Write one micro-batch into a frame: labels, positions and document starts as the data set gives them (doc_start relative to its row).
 *  @param first_token  index of the first token in the step's global batch. */
am_status am_feed_rows(am_exec *x, int program, int frame, int64_t rows, int64_t seq_len, const int32_t *ids, const int32_t *labels, const int32_t *pos,
                       const int32_t *doc_start, int64_t first_token, int32_t *scratch) AM_WARN_UNUSED; /* scratch [3·rows·seq_len] */

#endif
