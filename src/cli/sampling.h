/* sampling: from logits to the next token. */
#ifndef AM_SAMPLING_H
#define AM_SAMPLING_H

#include "base/base.h"

typedef struct am_sampling {
    double   temperature; /* 0: greedy: the largest logit, the lower id among equals */
    int64_t  top_k;       /* only the k largest; 0: all */
    double   top_p;       /* only the fewest tokens whose probabilities reach p; 1: all */
    uint64_t seed;
} am_sampling;

/** Choose a token.  Sampling is a function of (logits, options, step): the same command twice says the same.
 *  Temperature, then top_k, then top_p, as transformers applies them.
 *  @param logits   [vocab]
 *  @param order    [vocab] scratch
 *  @param step     number of the token that is generated
 *  @param logprob  out: log of the probability that the model itself gives this token (temperature 1)
 *  @return AM_ERR_NUMERIC when a logit is not finite. */
am_status am_sample_token(const am_sampling *o, const float *logits, int64_t vocab, int32_t *order, int64_t step, int32_t *token,
                          double *logprob) AM_WARN_UNUSED;

#endif
