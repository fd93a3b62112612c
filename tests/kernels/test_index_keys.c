/* test_index_keys: lists of the best keys against a naive selection over the whole score matrix, sorted in full; blocks,
 * local blocks, documents, ties; threads.
 *
 * Operands are small multiples of 1/8, so that scores are exact in every type and ties are ties. */
#include "heavy_test.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

typedef struct problem {
    int64_t nq, nk, heads, d, count, block, local;
    bool weights;
    int32_t *q_idx, *k_idx, *doc;
    double *q, *k, *w;
} problem;

static double *eighths(int seed, int64_t n)
{
    double *x = malloc((size_t)n * sizeof *x);
    assert_non_null(x);
    for (int64_t i = 0; i < n; i++)
        x[i] = (double)(int64_t)(am_random_u64(5, (uint64_t)seed, (uint64_t)i) % 17) / 8 - 1;
    return x;
}

static problem make(int64_t nq, int64_t nk, int64_t heads, int64_t d, int64_t count, int64_t doc, bool weights)
{
    problem p = {.nq = nq, .nk = nk, .heads = heads, .d = d, .count = count, .block = 1, .weights = weights};
    p.q_idx = calloc((size_t)nq, 4);
    p.k_idx = calloc((size_t)nk, 4);
    p.doc = calloc((size_t)nq, 4);
    assert_true(p.q_idx && p.k_idx && p.doc);
    for (int64_t j = 0; j < nk; j++) p.k_idx[j] = (int32_t)j;
    for (int64_t i = 0; i < nq; i++) {
        p.q_idx[i] = (int32_t)(i + nk - nq);
        p.doc[i] = doc ? (int32_t)(p.q_idx[i] / doc * doc) : 0;
    }
    p.q = eighths(1, nq * heads * d);
    p.k = eighths(2, nk * d);
    p.w = eighths(3, nq * heads);
    return p;
}

static void release(problem *p)
{
    void *all[] = {p->q_idx, p->k_idx, p->doc, p->q, p->k, p->w};
    for (int i = 0; i < 6; i++) free(all[i]);
}

static double score(const problem *p, int64_t i, int64_t j, int64_t list)
{
    double sum = 0;
    for (int64_t a = 0; a < p->heads; a++) {
        double x = 0;
        for (int64_t e = 0; e < p->d; e++) x += p->q[(i * p->heads + a) * p->d + e] * p->k[j * p->d + e];
        x *= 0.5;
        if (p->weights)
            sum += p->w[i * p->heads + a] * fmax(0, x);
        else if (a == list)
            sum = x;
    }
    return sum;
}

typedef struct ranked {
    double score;
    int block;
} ranked;
static int by_score(const void *a, const void *b)
{
    const ranked *x = a, *y = b;
    return x->score != y->score ? (x->score < y->score ? 1 : -1) : x->block - y->block;
}
static int by_block(const void *a, const void *b) { return ((const ranked *)a)->block - ((const ranked *)b)->block; }

static void naive(const problem *p, int64_t i, int64_t list, int32_t *out)
{
    ranked all[600];
    int n = 0;
    for (int64_t j = 0; j < p->nk; j++) {
        if (p->k_idx[j] < p->doc[i] || p->k_idx[j] > p->q_idx[i]) continue;
        int block = (int)((p->k_idx[j] - p->doc[i]) / p->block), at = 0;
        double x = score(p, i, j, list);
        if (block > (p->q_idx[i] - p->doc[i]) / p->block - p->local) x = INFINITY;
        while (at < n && all[at].block != block) at++;
        if (at == n) all[n++] = (ranked){x, block};
        if (x > all[at].score) all[at].score = x;
    }
    qsort(all, (size_t)n, sizeof *all, by_score);
    if (n > p->count) n = (int)p->count;
    qsort(all, (size_t)n, sizeof *all, by_block);
    for (int e = 0; e < p->count; e++) out[e] = e < n ? all[e].block : -1;
}

static kt_case case_of(const problem *p)
{
    return (kt_case){.op = "index_keys",
                     .attrs = {.scale = 0.5, .key_block = p->block, .local = p->local},
                     .num_in = 6,
                     .num_out = 1,
                     .in = {{p->q, 'r', 3, {p->nq, p->heads, p->d}},
                            {p->k, 'r', 2, {p->nk, p->d}},
                            {p->q_idx, 'i', 1, {p->nq}},
                            {p->k_idx, 'i', 1, {p->nk}},
                            {p->doc, 'i', 1, {p->nq}},
                            {p->w, 'w', p->weights ? 2 : 0, {p->nq, p->heads}}},
                     .out = {{NULL, 'i', 3, {p->nq, p->weights ? 1 : p->heads, p->count}}}};
}

static void lists_here(void *context)
{
    const problem *p = context;
    kt_case c = case_of(p);
    int64_t lists = p->weights ? 1 : p->heads;
    int32_t want[600];
    for (int type = 0; type < 3; type++)
        for (int threads = 1; threads < 4; threads++) {
            char *bytes = NULL;
            size_t size = 0;
            if (kt_call(&c, ht_reals[type], threads, false, &bytes, &size) != AM_OK) fail_msg("%s", am_error_message());
            const int32_t *got = (const int32_t *)(void *)bytes;
            assert_int_equal(size, (size_t)(p->nq * lists * p->count) * 4);
            for (int64_t at = 0; at < p->nq * lists; at++) {
                naive(p, at / lists, at % lists, want);
                if (memcmp(got + at * p->count, want, (size_t)p->count * 4))
                    fail_msg("%s isa %s: list %lld of query %lld begins %d %d %d, expected %d %d %d",
                             am_dtype_name(ht_reals[type]), am_isa_name(am_kernels_cpu_isa()), (long long)(at % lists),
                             (long long)(at / lists), got[at * p->count], got[at * p->count + 1],
                             got[at * p->count + 2], want[0], want[1], want[2]);
            }
            free(bytes);
        }
}

static void check(problem p)
{
    ht_each_isa(lists_here, &p);
    release(&p);
}

static void test_index_keys__weighted_heads(void **state)
{
    check(make(150, 150, 3, 16, 20, 0, true));
    check(make(70, 200, 5, 7, 64, 90, true));
    check(make(1, 130, 2, 8, 30, 0, true));
    check(make(40, 40, 2, 8, 100, 0, true)); /* more than there are */
}

static void test_index_keys__blocks_of_each_head(void **state)
{
    for (int64_t local = 0; local < 3; local++) {
        problem p = make(150, 170, 2, 16, 4, local == 2 ? 0 : 77, false);
        p.block = 8;
        p.local = local;
        check(p);
    }
}

static void test_index_keys__ties_go_to_the_first(void **state)
{
    problem p = make(100, 100, 2, 4, 10, 0, true);
    for (int64_t i = 0; i < 200; i++) p.w[i] = 0;
    check(p);
}

static void test_index_keys__shuffled_tokens(void **state)
{
    problem p = make(130, 130, 2, 8, 9, 0, true);
    for (int64_t i = 0; i < 130; i++) {
        p.q_idx[i] = (int32_t)(i * 77 % 130);
        p.doc[i] = p.q_idx[i] / 60 * 60;
        p.k_idx[i] = (int32_t)(i * 57 % 130);
    }
    check(p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_index_keys__weighted_heads),
        cmocka_unit_test(test_index_keys__blocks_of_each_head),
        cmocka_unit_test(test_index_keys__ties_go_to_the_first),
        cmocka_unit_test(test_index_keys__shuffled_tokens),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
