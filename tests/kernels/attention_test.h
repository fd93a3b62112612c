/* attention_test: what the tests of attention share: a problem, its naive solution with the whole score matrix, the
 * kernels' calls, and comparisons of both over types and instruction sets. */
#ifndef AM_ATTENTION_TEST_H
#define AM_ATTENTION_TEST_H

#include "heavy_test.h"

/* By type: f64, f32, bf16; why so much stands in test_attention.c. */
static const double forward_tol[3] = {1e-10, 2e-5, 1e-2}, backward_tol[3] = {1e-10, 5e-5, 4e-2};

typedef struct problem {
    int64_t nq, nk, heads, kv, d, dv;
    am_attrs attrs;
    int32_t *q_idx, *k_idx, *doc;
    double *q, *k, *v, *g;           /* g: do */
    double *o, *lse, *dq, *dk, *dvv; /* naive */
    /* options, NULL = not given; bias: table [heads][numbers], or by_query [nq][heads][reach] */
    double *sinks, *slopes, *bias, *buckets;
    int64_t reach, numbers;
    bool by_query;
    double *dsinks, *dbias; /* naive */
    int32_t *keys; /* [nq][lists][listed], NULL = not given */
    int64_t lists, listed;
} problem;

/** n zeroed elements; fails the test without memory. */
void *room(int64_t n, size_t size);
/** The kv head that query head h of the problem reads. */
int64_t kv_head(const problem *p, int64_t h);
/** Indices 0…nk−1, queries at the end of them; a document starts at every multiple of `doc` (0: one document). */
problem make(int64_t nq, int64_t nk, int64_t heads, int64_t kv, int64_t d, int64_t dv, int64_t window, int64_t doc);
/** Fills o, lse and the gradients. */
void solve(problem *p);
void release(problem *p);
kt_case forward_case(const problem *p);
kt_case backward_case(const problem *p);
kt_case sinks_case(const problem *p);
/** Solves, compares everything in all types on all instruction sets, and releases. */
void compare(problem p);
/** The same bits for several numbers of threads; releases. */
void same_bits(problem p);
/** grad against central differences of Σ o·g in f64, every third element of x. */
void check_gradient(problem *p, const char *name, double *x, const double *grad, int64_t n);

#endif
