/* attention_f64: attention in double, one (query, head) or (key, kv head) at a time, straight from the
 * definition. The reference for the other types and the body of gradient checks; needs no workspace, skips
 * nothing by tiles. */
#include "attention.h"

#include <math.h>

static bool sees(const am_att *t, int64_t i, int64_t j)
{
    int32_t lo, hi;
    am_att_bounds(t, i, &lo, &hi);
    return t->k_idx[j] >= lo && t->k_idx[j] <= hi;
}

static double dot(const double *a, const double *b, int64_t n)
{
    double s = 0;
    for (int64_t i = 0; i < n; i++) s += a[i] * b[i];
    return s;
}

static int64_t kv_of(const am_att *t, int64_t head)
{
    return (t->head_begin + head) / t->group - t->kv_begin;
}

/* the score of query i and key j, and its derivative by q·k */
static double score(const am_att *t, int64_t i, int64_t head, int64_t j, double *slope)
{
    const double *q = (const double *)t->q + (i * t->heads + head) * t->d;
    const double *k = (const double *)t->k + (j * t->kv_heads + kv_of(t, head)) * t->d;
    double s = t->scale * dot(q, k, t->d), y = t->softcap != 0 ? tanh(s / t->softcap) : 0;
    *slope = t->scale * (1 - y * y);
    return t->softcap != 0 ? t->softcap * y : s;
}

static void forward_row(const am_att *t, int64_t i, int64_t head)
{
    double top = -INFINITY, sum = 0, slope, *o = (double *)t->out_o + (i * t->heads + head) * t->dv;
    for (int64_t j = 0; j < t->nk; j++)
        if (sees(t, i, j)) top = fmax(top, score(t, i, head, j, &slope));
    for (int64_t e = 0; e < t->dv; e++) o[e] = 0;
    for (int64_t j = 0; j < t->nk; j++) {
        if (!sees(t, i, j)) continue;
        const double *v = (const double *)t->v + (j * t->kv_heads + kv_of(t, head)) * t->dv;
        double p = exp(score(t, i, head, j, &slope) - top);
        sum += p;
        for (int64_t e = 0; e < t->dv; e++) o[e] += p * v[e];
    }
    for (int64_t e = 0; e < t->dv && sum != 0; e++) o[e] /= sum;
    ((double *)t->lse)[i * t->heads + head] = sum == 0 ? -INFINITY : top + log(sum);
}

void am_attention_f64(const am_att *t, int threads)
{
#pragma omp parallel for num_threads(threads) schedule(dynamic, 4)
    for (int64_t at = 0; at < t->nq * t->heads; at++) forward_row(t, at / t->heads, at % t->heads);
}

/* probability of key j for query i, and the gradient of q·k */
static double pair_gradient(const am_att *t, int64_t i, int64_t head, int64_t j, double *ds)
{
    int64_t at = i * t->heads + head;
    const double *g = (const double *)t->dout + at * t->dv, *o = (const double *)t->o + at * t->dv;
    const double *v = (const double *)t->v + (j * t->kv_heads + kv_of(t, head)) * t->dv;
    double slope, p = exp(score(t, i, head, j, &slope) - ((const double *)t->lse)[at]);
    *ds = p * (dot(g, v, t->dv) - dot(g, o, t->dv)) * slope;
    return p;
}

static void query_gradient(const am_att *t, int64_t i, int64_t head)
{
    double ds, *dq = (double *)t->dq + (i * t->heads + head) * t->d;
    for (int64_t e = 0; e < t->d; e++) dq[e] = 0;
    for (int64_t j = 0; j < t->nk; j++) {
        if (!sees(t, i, j)) continue;
        const double *k = (const double *)t->k + (j * t->kv_heads + kv_of(t, head)) * t->d;
        (void)pair_gradient(t, i, head, j, &ds);
        for (int64_t e = 0; e < t->d; e++) dq[e] += ds * k[e];
    }
}

static void key_gradient(const am_att *t, int64_t j, int64_t kv)
{
    double ds, *dk = (double *)t->dk + (j * t->kv_heads + kv) * t->d,
               *dv = (double *)t->dv_out + (j * t->kv_heads + kv) * t->dv;
    for (int64_t e = 0; e < t->d; e++) dk[e] = 0;
    for (int64_t e = 0; e < t->dv; e++) dv[e] = 0;
    for (int64_t at = 0; at < t->nq * t->heads; at++) {
        int64_t i = at / t->heads, head = at % t->heads;
        if (kv_of(t, head) != kv || !sees(t, i, j)) continue;
        double p = pair_gradient(t, i, head, j, &ds);
        for (int64_t e = 0; e < t->d; e++) dk[e] += ds * ((const double *)t->q)[at * t->d + e];
        for (int64_t e = 0; e < t->dv; e++) dv[e] += p * ((const double *)t->dout)[at * t->dv + e];
    }
}

void am_attention_bwd_f64(const am_att *t, int threads)
{
#pragma omp parallel num_threads(threads)
    {
#pragma omp for schedule(dynamic, 4) nowait
        for (int64_t at = 0; at < t->nq * t->heads; at++) query_gradient(t, at / t->heads, at % t->heads);
#pragma omp for schedule(dynamic, 4)
        for (int64_t at = 0; at < t->nk * t->kv_heads; at++)
            key_gradient(t, at / t->kv_heads, at % t->kv_heads);
    }
}
