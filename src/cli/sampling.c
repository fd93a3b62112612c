/* sampling.c: greedy choice, or temperature, top-k and top-p over sorted logits with counter-based random
 * numbers. */
#include "cli/sampling.h"

#include <math.h>
#include <stdlib.h>

static int by_logit(const void *a, const void *b, void *logits)
{
    int32_t i = *(const int32_t *)a, k = *(const int32_t *)b;
    float x = ((const float *)logits)[i], y = ((const float *)logits)[k];
    if (x != y) return x > y ? -1 : 1;
    return (i > k) - (i < k);
}

static am_status largest(const float *logits, int64_t vocab, int32_t *token)
{
    am_status st = AM_OK;
    *token = 0;
    for (int64_t v = 0; v < vocab; v++) {
        AM_CHECK(isfinite(logits[v]), AM_ERR_NUMERIC,
                 "the logit of token %" PRId64 " is %f: the weights or the computation are broken", v,
                 (double)logits[v]);
        if (logits[v] > logits[*token]) *token = (int32_t)v;
    }
done:
    return st;
}

/* order[0..n): the tokens that stay, most likely first.  weight(i) = exp((logit_i - max) / temperature). */
static int64_t keep(const am_sampling *o, const float *logits, int64_t vocab, int32_t *order, double *mass)
{
    double max = 0, total = 0, before = 0;
    int64_t n = o->top_k > 0 && o->top_k < vocab ? o->top_k : vocab, k = 0;
    for (int64_t v = 0; v < vocab; v++) order[v] = (int32_t)v;
    qsort_r(order, (size_t)vocab, sizeof *order, by_logit, (void *)(uintptr_t)logits);
    max = (double)logits[order[0]];
    for (int64_t i = 0; i < n; i++) total += exp(((double)logits[order[i]] - max) / o->temperature);
    for (; k < n && (k == 0 || before < o->top_p * total); k++)
        before += exp(((double)logits[order[k]] - max) / o->temperature);
    *mass = before;
    return k;
}

static int32_t draw(const am_sampling *o, const float *logits, int64_t vocab, int32_t *order, int64_t step)
{
    double mass = 0, sum = 0;
    int64_t n = keep(o, logits, vocab, order, &mass);
    double u = (double)(am_random_u64(o->seed, 0x67656e, (uint64_t)step) >> 11) * 0x1p-53 * mass;
    for (int64_t i = 0; i < n; i++) {
        sum += exp(((double)logits[order[i]] - (double)logits[order[0]]) / o->temperature);
        if (u < sum) return order[i];
    }
    return order[n - 1]; /* rounding */
}

am_status am_sample_token(const am_sampling *o, const float *logits, int64_t vocab, int32_t *order,
                          int64_t step, int32_t *token, double *logprob)
{
    am_status st = AM_OK;
    double sum = 0;
    AM_TRY(largest(logits, vocab, token));
    double max = (double)logits[*token];
    for (int64_t v = 0; v < vocab; v++) sum += exp((double)logits[v] - max);
    if (o->temperature > 0) *token = draw(o, logits, vocab, order, step);
    *logprob = (double)logits[*token] - max - log(sum);
done:
    return st;
}
