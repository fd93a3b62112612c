/* attention_f64: attention in double, one (query, head) or (key, kv head) at a time, straight from the
 * definition. The reference for the other types and the body of gradient checks; needs no workspace, skips
 * nothing by tiles. */
#include "attention.h"

#include <math.h>

static bool sees(const am_att *t, int64_t i, int64_t head, int64_t j)
{
    int32_t lo, hi;
    am_att_bounds(t, i, &lo, &hi);
    if (t->k_idx[j] < lo || t->k_idx[j] > hi) return false;
    if (!t->keys) return true;
    const uint32_t *list = am_att_list(t, i, head), at = (uint32_t)((t->k_idx[j] - t->doc_start[i]) / t->key_block);
    int64_t n = t->keys->dim[2], found = am_att_find(list, n, at);
    return found < n && list[found] == at;
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

static double number(const am_tensor *x, int64_t i)
{
    return x->dtype == AM_F64 ? ((const double *)x->data)[i] : (double)am_att_number(x, i);
}

/* which of bias' numbers holds for a query and a key that it sees; −1: none */
static int64_t bias_at(const am_att *t, int64_t i, int64_t head, int64_t j)
{
    int64_t far = t->q_idx[i] - t->k_idx[j], at = far < t->reach ? far : t->reach - 1;
    if (!t->bias) return -1;
    if (t->bias->rank == 3) return far < t->reach ? (i * t->heads + head) * t->reach + far : -1;
    return head * t->num_buckets + (t->buckets ? (int64_t)number(t->buckets, at) : at);
}

static double rounded(double x)
{
    return (double)am_bf16_to_f32(am_f32_to_bf16((float)x));
}

static double alibi_of(const am_att *t, int64_t i, int64_t head, int64_t j)
{
    double slope = number(t->slopes, head);
    if (!t->alibi_rounded) return t->alibi_scale * slope * (t->k_idx[j] - t->q_idx[i]);
    double key = rounded(t->k_idx[j] - t->doc_start[i]), query = rounded(t->q_idx[i] - t->doc_start[i]);
    return t->alibi_scale * (rounded(rounded(slope) * key) - rounded(rounded(slope) * query));
}

/* the score of query i and key j, and its derivative by q·k */
static double score(const am_att *t, int64_t i, int64_t head, int64_t j, double *slope)
{
    const double *q = (const double *)t->q + (i * t->heads + head) * t->d;
    const double *k = (const double *)t->k + (j * t->kv_heads + kv_of(t, head)) * t->d;
    double s = t->scale * dot(q, k, t->d), y = t->softcap != 0 ? tanh(s / t->softcap) : 0;
    *slope = t->scale * (1 - y * y);
    if (t->softcap != 0) s = t->softcap * y;
    if (t->slopes) s += alibi_of(t, i, head, j);
    int64_t at = bias_at(t, i, head, j);
    return at < 0 ? s : s + number(t->bias, at);
}

static void forward_row(const am_att *t, int64_t i, int64_t head)
{
    double top = -INFINITY, sum = 0, slope, *o = (double *)t->out_o + (i * t->heads + head) * t->dv;
    if (t->sinks) top = number(t->sinks, head);
    for (int64_t j = 0; j < t->nk; j++)
        if (sees(t, i, head, j)) top = fmax(top, score(t, i, head, j, &slope));
    for (int64_t e = 0; e < t->dv; e++) o[e] = 0;
    if (t->sinks && top > -INFINITY) sum = exp(number(t->sinks, head) - top);
    for (int64_t j = 0; j < t->nk; j++) {
        if (!sees(t, i, head, j)) continue;
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

/* probability of key j for query i, and the gradients of its score and of q·k */
static double pair_gradient(const am_att *t, int64_t i, int64_t head, int64_t j, double *dscore, double *ds)
{
    int64_t at = i * t->heads + head;
    const double *g = (const double *)t->dout + at * t->dv, *o = (const double *)t->o + at * t->dv;
    const double *v = (const double *)t->v + (j * t->kv_heads + kv_of(t, head)) * t->dv;
    double slope, p = exp(score(t, i, head, j, &slope) - ((const double *)t->lse)[at]);
    *dscore = p * (dot(g, v, t->dv) - dot(g, o, t->dv));
    *ds = *dscore * slope;
    return p;
}

static void query_gradient(const am_att *t, int64_t i, int64_t head)
{
    double score, ds, *dq = (double *)t->dq + (i * t->heads + head) * t->d;
    for (int64_t e = 0; e < t->d; e++) dq[e] = 0;
    for (int64_t j = 0; j < t->nk; j++) {
        if (!sees(t, i, head, j)) continue;
        const double *k = (const double *)t->k + (j * t->kv_heads + kv_of(t, head)) * t->d;
        (void)pair_gradient(t, i, head, j, &score, &ds);
        for (int64_t e = 0; e < t->d; e++) dq[e] += ds * k[e];
    }
}

static void key_gradient(const am_att *t, int64_t j, int64_t kv)
{
    double score, ds, *dk = (double *)t->dk + (j * t->kv_heads + kv) * t->d,
               *dv = (double *)t->dv_out + (j * t->kv_heads + kv) * t->dv;
    for (int64_t e = 0; e < t->d; e++) dk[e] = 0;
    for (int64_t e = 0; e < t->dv; e++) dv[e] = 0;
    for (int64_t at = 0; at < t->nq * t->heads; at++) {
        int64_t i = at / t->heads, head = at % t->heads;
        if (kv_of(t, head) != kv || !sees(t, i, head, j)) continue;
        double p = pair_gradient(t, i, head, j, &score, &ds);
        for (int64_t e = 0; e < t->d; e++) dk[e] += ds * ((const double *)t->q)[at * t->d + e];
        for (int64_t e = 0; e < t->dv; e++) dv[e] += p * ((const double *)t->dout)[at * t->dv + e];
    }
}

/* of one head: its numbers are nobody else's */
static void bias_gradient(const am_att *t, int64_t head)
{
    double score, ds, *out = t->dbias;
    bool table = t->bias->rank == 2;
    for (int64_t at = 0; at < t->num_buckets && table && !t->add_dbias; at++) out[head * t->num_buckets + at] = 0;
    for (int64_t i = 0; i < t->nq; i++) {
        for (int64_t at = 0; at < t->reach && !table; at++) out[(i * t->heads + head) * t->reach + at] = 0;
        for (int64_t j = 0; j < t->nk; j++) {
            int64_t at = sees(t, i, head, j) ? bias_at(t, i, head, j) : -1;
            if (at < 0) continue;
            (void)pair_gradient(t, i, head, j, &score, &ds);
            out[at] += score;
        }
    }
}

void am_attention_bwd_f64(const am_att *t, int threads)
{
#pragma omp parallel num_threads(threads)
    {
#pragma omp for schedule(dynamic, 4) nowait
        for (int64_t at = 0; at < (t->dq ? t->nq * t->heads : 0); at++)
            query_gradient(t, at / t->heads, at % t->heads);
#pragma omp for schedule(dynamic, 4) nowait
        for (int64_t at = 0; at < (t->dk ? t->nk * t->kv_heads : 0); at++)
            key_gradient(t, at / t->kv_heads, at % t->kv_heads);
#pragma omp for schedule(dynamic, 1)
        for (int64_t head = 0; head < (t->dbias ? t->heads : 0); head++) bias_gradient(t, head);
    }
}
