/* attention_test: see attention_test.h. */
#include "attention_test.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* ---- a problem and its naive solution ------------------------------------------------------------ */

void *room(int64_t n, size_t size)
{
    void *p = calloc((size_t)n + 1, size);
    assert_non_null(p);
    return p;
}

int64_t kv_head(const problem *p, int64_t h)
{
    return (p->attrs.head_begin + h) / p->attrs.group - p->attrs.kv_begin;
}

static bool visible(const problem *p, int64_t i, int64_t j)
{
    int64_t at = p->k_idx[j], first = p->doc[i], chunk = p->attrs.chunk;
    if (chunk && (at < first || (at - first) / chunk != (p->q_idx[i] - first) / chunk)) return false;
    if (p->attrs.window > 0 && p->q_idx[i] - p->attrs.window + 1 > first)
        first = p->q_idx[i] - p->attrs.window + 1;
    return first <= at && at <= p->q_idx[i];
}

/* visible, and listed where there are lists */
static bool sees(const problem *p, int64_t i, int64_t h, int64_t j)
{
    int64_t block = p->attrs.key_block ? p->attrs.key_block : 1;
    if (!visible(p, i, j) || !p->keys) return visible(p, i, j);
    const int32_t *list = p->keys + (i * p->lists + (p->lists > 1 ? kv_head(p, h) : 0)) * p->listed;
    for (int64_t e = 0; e < p->listed; e++)
        if (list[e] == (p->k_idx[j] - p->doc[i]) / block) return true;
    return false;
}

/* 8 significant bits, ties to even */
static double rounded(double x)
{
    int e;
    (void)frexp(x, &e);
    return ldexp(rint(ldexp(x, 8 - e)), e - 8);
}

/* which number of bias holds, -1: none */
static int64_t bias_at(const problem *p, int64_t i, int64_t h, int64_t j)
{
    int64_t far = p->q_idx[i] - p->k_idx[j];
    if (!p->bias || far < 0 || (p->by_query && far >= p->reach)) return -1;
    if (p->by_query) return (i * p->heads + h) * p->reach + far;
    far = far < p->reach ? far : p->reach - 1;
    return h * p->numbers + (p->buckets ? (int64_t)p->buckets[far] : far);
}

/* what is added to a score; Falcon's form differs by a number of the query, which lse alone shows */
static double added(const problem *p, int64_t i, int64_t h, int64_t j)
{
    double x = 0, factor = p->attrs.alibi_scale != 0 ? p->attrs.alibi_scale : 1;
    if (p->slopes && p->attrs.alibi_rounded)
        x = factor * (rounded(rounded(p->slopes[h]) * rounded(p->k_idx[j] - p->doc[i])) -
                      rounded(rounded(p->slopes[h]) * rounded(p->q_idx[i] - p->doc[i])));
    else if (p->slopes)
        x = factor * p->slopes[h] * (p->k_idx[j] - p->q_idx[i]);
    int64_t at = bias_at(p, i, h, j);
    return at < 0 ? x : x + p->bias[at];
}

/* one row of the score matrix and its softmax; y/c of the softcap in `bend` */
static double naive_row(const problem *p, int64_t i, int64_t h, double *prob, double *bend)
{
    double sum = p->sinks ? exp(p->sinks[h]) : 0, cap = p->attrs.softcap;
    for (int64_t j = 0; j < p->nk; j++) {
        double s = 0;
        for (int64_t e = 0; e < p->d; e++)
            s += p->q[(i * p->heads + h) * p->d + e] * p->k[(j * p->kv + kv_head(p, h)) * p->d + e];
        s *= p->attrs.scale != 0 ? p->attrs.scale : 1 / sqrt((double)p->d);
        bend[j] = cap != 0 ? tanh(s / cap) : 0;
        /* scores are small here */
        prob[j] = sees(p, i, h, j) ? exp((cap != 0 ? cap * bend[j] : s) + added(p, i, h, j)) : 0;
        sum += prob[j];
    }
    for (int64_t j = 0; j < p->nk; j++) prob[j] = sum > 0 ? prob[j] / sum : 0;
    return sum > 0 ? log(sum) : -INFINITY;
}

static void naive_pair(problem *p, int64_t i, int64_t h, double *prob, double *bend)
{
    int64_t at = i * p->heads + h;
    double scale = p->attrs.scale != 0 ? p->attrs.scale : 1 / sqrt((double)p->d), mean = 0,
           *dprob = room(p->nk, 8);
    p->lse[at] = naive_row(p, i, h, prob, bend);
    for (int64_t j = 0; j < p->nk; j++)
        for (int64_t e = 0; e < p->dv; e++) {
            double v = p->v[(j * p->kv + kv_head(p, h)) * p->dv + e];
            p->o[at * p->dv + e] += prob[j] * v;
            dprob[j] += p->g[at * p->dv + e] * v;
            p->dvv[(j * p->kv + kv_head(p, h)) * p->dv + e] += prob[j] * p->g[at * p->dv + e];
        }
    for (int64_t j = 0; j < p->nk; j++) mean += prob[j] * dprob[j];
    if (p->sinks) p->dsinks[h] -= exp(p->sinks[h] - p->lse[at]) * mean;
    for (int64_t j = 0; j < p->nk; j++) {
        int64_t b = bias_at(p, i, h, j);
        if (b >= 0) p->dbias[b] += prob[j] * (dprob[j] - mean);
        double ds = prob[j] * (dprob[j] - mean) * scale * (1 - bend[j] * bend[j]);
        for (int64_t e = 0; e < p->d; e++) {
            p->dq[at * p->d + e] += ds * p->k[(j * p->kv + kv_head(p, h)) * p->d + e];
            p->dk[(j * p->kv + kv_head(p, h)) * p->d + e] += ds * p->q[at * p->d + e];
        }
    }
    free(dprob);
}

/* documents: a new one starts at every multiple of `doc` (0: one document); indices 0…n−1, queries at the end
 * of them */
problem make(int64_t nq, int64_t nk, int64_t heads, int64_t kv, int64_t d, int64_t dv, int64_t window,
                    int64_t doc)
{
    problem p = {.nq = nq,
                 .nk = nk,
                 .heads = heads,
                 .kv = kv,
                 .d = d,
                 .dv = dv,
                 .attrs = {.window = window, .group = heads / kv}};
    p.q_idx = room(nq, 4);
    p.k_idx = room(nk, 4);
    p.doc = room(nq, 4);
    for (int64_t j = 0; j < nk; j++) p.k_idx[j] = (int32_t)j;
    for (int64_t i = 0; i < nq; i++) {
        p.q_idx[i] = (int32_t)(i + nk - nq);
        p.doc[i] = doc ? (int32_t)(p.q_idx[i] / doc * doc) : 0;
    }
    p.q = ht_random(1, nq * heads * d);
    p.k = ht_random(2, nk * kv * d);
    p.v = ht_random(3, nk * kv * dv);
    p.g = ht_random(4, nq * heads * dv);
    return p;
}

void solve(problem *p)
{
    double *prob = room(p->nk, 8), *bend = room(p->nk, 8);
    p->o = room(p->nq * p->heads * p->dv, 8);
    p->lse = room(p->nq * p->heads, 8);
    p->dq = room(p->nq * p->heads * p->d, 8);
    p->dk = room(p->nk * p->kv * p->d, 8);
    p->dvv = room(p->nk * p->kv * p->dv, 8);
    p->dsinks = room(p->heads, 8);
    p->dbias = room(p->nq * p->heads * p->reach + p->heads * p->numbers, 8);
    for (int64_t at = 0; at < p->nq * p->heads; at++) naive_pair(p, at / p->heads, at % p->heads, prob, bend);
    free(prob);
    free(bend);
}

void release(problem *p)
{
    void *all[] = {p->q_idx, p->k_idx, p->doc,   p->q,      p->k,    p->v,       p->g,      p->o,    p->lse,
                   p->dq,    p->dk,    p->dvv,   p->sinks,  p->slopes, p->bias, p->buckets, p->dsinks, p->dbias,
                   p->keys};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) free(all[i]);
}

static kt_operand bias_operand(const problem *p)
{
    if (!p->bias) return (kt_operand){0};
    if (p->by_query) return (kt_operand){p->bias, 'r', 3, {p->nq, p->heads, p->reach}};
    return (kt_operand){p->bias, 'r', 2, {p->heads, p->numbers}};
}
static kt_operand one_a_head(const problem *p, const double *x, char type)
{
    return (kt_operand){x, type, x ? 1 : 0, {p->heads}};
}
static kt_operand list_operand(const problem *p)
{
    return (kt_operand){p->keys, 'i', p->keys ? 3 : 0, {p->nq, p->lists, p->listed}};
}
static kt_operand bucket_operand(const problem *p)
{
    return (kt_operand){p->buckets, 'w', p->buckets ? 1 : 0, {p->reach}};
}

kt_case forward_case(const problem *p)
{
    return (kt_case){.op = "attention",
                     .attrs = p->attrs,
                     .num_in = p->keys ? 11 : p->sinks || p->slopes || p->bias ? 10 : 6,
                     .num_out = 2,
                     .in = {{p->q, 'r', 3, {p->nq, p->heads, p->d}},
                            {p->k, 'r', 3, {p->nk, p->kv, p->d}},
                            {p->v, 'r', 3, {p->nk, p->kv, p->dv}},
                            {p->q_idx, 'i', 1, {p->nq}},
                            {p->k_idx, 'i', 1, {p->nk}},
                            {p->doc, 'i', 1, {p->nq}},
                            one_a_head(p, p->sinks, 'r'),
                            one_a_head(p, p->slopes, 'w'),
                            bias_operand(p),
                            bucket_operand(p),
                            list_operand(p)},
                     .out = {{NULL, 'r', 3, {p->nq, p->heads, p->dv}}, {NULL, 'w', 2, {p->nq, p->heads}}}};
}

kt_case backward_case(const problem *p)
{
    return (kt_case){.op = "attention_bwd",
                     .attrs = p->attrs,
                     .num_in = p->keys ? 13 : p->slopes || p->bias ? 12 : 9,
                     .num_out = p->bias ? 4 : 3,
                     .in = {{p->g, 'r', 3, {p->nq, p->heads, p->dv}},
                            {p->q, 'r', 3, {p->nq, p->heads, p->d}},
                            {p->k, 'r', 3, {p->nk, p->kv, p->d}},
                            {p->v, 'r', 3, {p->nk, p->kv, p->dv}},
                            {p->o, 'r', 3, {p->nq, p->heads, p->dv}},
                            {p->lse, 'w', 2, {p->nq, p->heads}},
                            {p->q_idx, 'i', 1, {p->nq}},
                            {p->k_idx, 'i', 1, {p->nk}},
                            {p->doc, 'i', 1, {p->nq}},
                            one_a_head(p, p->slopes, 'w'),
                            bias_operand(p),
                            bucket_operand(p),
                            list_operand(p)},
                     .out = {{NULL, 'r', 3, {p->nq, p->heads, p->d}},
                             {NULL, 'r', 3, {p->nk, p->kv, p->d}},
                             {NULL, 'r', 3, {p->nk, p->kv, p->dv}},
                             p->by_query ? (kt_operand){NULL, 'r', 3, {p->nq, p->heads, p->reach}}
                                         : (kt_operand){NULL, 'w', p->bias ? 2 : 0, {p->heads, p->numbers}}}};
}

kt_case sinks_case(const problem *p)
{
    return (kt_case){.op = "attention_dsinks",
                     .num_in = 4,
                     .num_out = 1,
                     .accumulates = true,
                     .in = {{p->g, 'r', 3, {p->nq, p->heads, p->dv}},
                            {p->o, 'r', 3, {p->nq, p->heads, p->dv}},
                            {p->lse, 'w', 2, {p->nq, p->heads}},
                            one_a_head(p, p->sinks, 'r')},
                     .out = {{p->dsinks, 'w', 1, {p->heads}}}};
}

/* ---- against the naive definition
 * ----------------------------------------------------------------------------- */

static void compare_here(void *context)
{
    problem *p = context;
    kt_case f = forward_case(p), b = backward_case(p);
    int64_t no = p->nq * p->heads * p->dv, nl = p->nq * p->heads, ndq = nl * p->d, ndk = p->nk * p->kv * p->d;
    for (int type = 0; type < 3; type++) {
        double *got = ht_run(&f, ht_reals[type], 2, false);
        ht_near("attention o", ht_reals[type], got, p->o, no, forward_tol[type]);
        ht_near("attention lse", ht_reals[type], got + no, p->lse, nl, forward_tol[type ? 1 : 0]);
        free(got);
        got = ht_run(&b, ht_reals[type], 2, false);
        ht_near("attention dq", ht_reals[type], got, p->dq, ndq, backward_tol[type]);
        ht_near("attention dk", ht_reals[type], got + ndq, p->dk, ndk, backward_tol[type]);
        ht_near("attention dv", ht_reals[type], got + ndq + ndk, p->dvv, p->nk * p->kv * p->dv,
                backward_tol[type]);
        int64_t at = ndq + ndk + p->nk * p->kv * p->dv,
                n = p->by_query ? p->nq * p->heads * p->reach : p->heads * p->numbers;
        if (p->bias) ht_near("attention dbias", ht_reals[type], got + at, p->dbias, n, backward_tol[type]);
        free(got);
        if (!p->sinks) continue;
        kt_case s = sinks_case(p);
        got = ht_run(&s, ht_reals[type], 2, false);
        ht_near("attention dsinks", ht_reals[type], got, p->dsinks, p->heads, backward_tol[type]);
        free(got);
    }
}

void compare(problem p)
{
    solve(&p);
    ht_each_isa(compare_here, &p);
    release(&p);
}

/* the same bits for any number of threads, every number twice: units of backward wait for each other */
static void bits_here(void *context)
{
    static const int threads[] = {1, 2, 3, 4, 7, 2, 3, 4, 7};
    const kt_case *k = context;
    for (int type = 1; type < 3; type++) {
        char *first = NULL, *got;
        size_t bytes;
        for (size_t i = 0; i < sizeof threads / sizeof *threads; i++) {
            assert_int_equal(kt_call(k, ht_reals[type], threads[i], false, &got, &bytes), AM_OK);
            if (first && memcmp(first, got, bytes))
                fail_msg("%s %s isa %s: %d threads give other bits than 1", k->op,
                         am_dtype_name(ht_reals[type]), am_isa_name(am_kernels_cpu_isa()), threads[i]);
            if (first) free(got);
            if (!first) first = got;
        }
        free(first);
    }
}

void same_bits(problem p)
{
    solve(&p);
    kt_case f = forward_case(&p), b = backward_case(&p);
    ht_each_isa(bits_here, &f);
    ht_each_isa(bits_here, &b);
    release(&p);
}

static double weighted_output(const problem *p)
{
    kt_case f = forward_case(p);
    double *got = ht_run(&f, AM_F64, 1, false), sum = 0;
    for (int64_t i = 0; i < p->nq * p->heads * p->dv; i++) sum += got[i] * p->g[i];
    free(got);
    return sum;
}

void check_gradient(problem *p, const char *name, double *x, const double *grad, int64_t n)
{
    const double h = 1e-5; /* error h²·f''' ~ 1e-10 and 1e-16/h ~ 1e-11 */
    for (int64_t i = 0; i < n; i += 3) {
        double keep = x[i];
        x[i] = keep + h;
        double up = weighted_output(p);
        x[i] = keep - h;
        double slope = (up - weighted_output(p)) / (2 * h);
        x[i] = keep;
        ht_near(name, AM_F64, &grad[i], &slope, 1, 1e-8);
    }
}
