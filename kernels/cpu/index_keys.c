/* index_keys: which keys a query is to attend to: the blocks of largest score, in lists that attention takes.  A unit of
 * work is a tile of queries; its scores lie in [keys][AM_ATT_BQ] numbers of its thread, and per query are gathered,
 * pooled by block and selected.  Scores are sums in one order: the same for any number of threads. */
#include "attention.h"

#include <math.h>
#include <omp.h>
#include <stdatomic.h>
#include <string.h>

typedef struct index_job {
    am_att t;
    const float *w; /* [nq][heads] */
    int64_t lists, count, block, local;
    int32_t *keys; /* out */
    const am_simd *s;
    char *room;
    size_t bytes; /* of a thread */
    atomic_llong units;
} index_job;

/* of one thread; a block is named by its number within the document */
typedef struct index_room {
    float *scores;   /* [key tiles · AM_ATT_BK][AM_ATT_BQ] */
    double *best;    /* [nk]: score of a block, −∞: nothing of it is seen */
    int32_t *order;  /* [nk] */
    void *scratch;
} index_room;

static index_room index_carve(am_bump *b, const am_att *t)
{
    index_room r;
    int64_t padded = am_round_up(t->nk, AM_ATT_BK);
    r.scores = am_bump_take(b, (size_t)(padded * AM_ATT_BQ) * 4);
    r.best = am_bump_take(b, (size_t)t->nk * 8);
    r.order = am_bump_take(b, (size_t)t->nk * 4);
    r.scratch = am_bump_take(b, (size_t)am_round_up((int64_t)am_simd_portable.att_scratch(t, false), 128));
    return r;
}

static am_att shapes(const am_kernel_call *c)
{
    return (am_att){.nq = c->in[0].dim[0],
                    .heads = c->in[0].dim[1],
                    .d = c->in[0].dim[2],
                    .dv = c->in[0].dim[2],
                    .nk = c->in[1].dim[0],
                    .kv_heads = 1};
}

static size_t index_workspace(const am_kernel_call *c)
{
    am_att t = shapes(c);
    am_bump one = {0}, all = {0};
    (void)index_carve(&one, &t);
    (void)am_bump_take(&all, (size_t)(t.nq * t.heads) * 4);
    (void)am_bump_take(&all, one.used * (size_t)c->threads);
    return all.used;
}

/* ---- selection ----------------------------------------------------------------------------------------- */

/* Does block a come before block b? */
static bool before(const double *best, int32_t a, int32_t b)
{
    return best[a] > best[b] || (best[a] == best[b] && a < b);
}

/* The first n of order[0..size) become the n that come first (Hoare's selection). */
static void select_first(const double *best, int32_t *order, int64_t size, int64_t n)
{
    int64_t left = 0, right = size - 1;
    while (left < right) {
        int32_t pivot = order[(left + right) / 2];
        int64_t i = left, j = right;
        while (i <= j) {
            while (before(best, order[i], pivot)) i++;
            while (before(best, pivot, order[j])) j--;
            if (i > j) break;
            int32_t x = order[i];
            order[i++] = order[j];
            order[j--] = x;
        }
        if (n <= j)
            right = j;
        else if (n >= i)
            left = i;
        else
            return;
    }
}

static void sink_down(int32_t *x, int64_t at, int64_t n)
{
    for (int64_t child; (child = 2 * at + 1) < n; at = child) {
        if (child + 1 < n && x[child + 1] > x[child]) child++;
        if (x[at] >= x[child]) return;
        int32_t y = x[at];
        x[at] = x[child];
        x[child] = y;
    }
}
static void sort_up(int32_t *x, int64_t n)
{
    for (int64_t at = n / 2 - 1; at >= 0; at--) sink_down(x, at, n);
    for (int64_t end = n - 1; end > 0; end--) {
        int32_t y = x[0];
        x[0] = x[end];
        x[end] = y;
        sink_down(x, 0, end);
    }
}

/* The list of query i from its scores: score[j·step] of key j. */
static void list_of(const index_job *job, const index_room *r, int64_t i, int64_t list, const float *score,
                    const double *exact, int64_t step)
{
    const am_att *t = &job->t;
    int32_t *out = job->keys + (i * job->lists + list) * job->count, lo, hi;
    am_att_bounds(t, i, &lo, &hi);
    int64_t blocks = hi < lo ? 0 : (hi - t->doc_start[i]) / job->block + 1, n = 0;
    blocks = am_min_i64(blocks, t->nk); /* every block that is seen holds a key */
    for (int64_t b = 0; b < blocks; b++) r->best[b] = -INFINITY;
    for (int64_t j = 0; j < t->nk; j++) {
        int64_t b = ((int64_t)t->k_idx[j] - t->doc_start[i]) / job->block;
        if (t->k_idx[j] < lo || t->k_idx[j] > hi || b >= blocks) continue;
        double x = exact ? exact[j * step] : (double)score[j * step];
        if (x > r->best[b] || r->best[b] == -INFINITY) r->best[b] = x;
    }
    for (int64_t b = 0; b < blocks; b++) {
        if (b >= blocks - job->local) r->best[b] = INFINITY;
        if (r->best[b] > -INFINITY) r->order[n++] = (int32_t)b;
    }
    int64_t take = am_min_i64(n, job->count);
    if (take < n) select_first(r->best, r->order, n, take);
    sort_up(r->order, take);
    for (int64_t at = 0; at < job->count; at++) out[at] = at < take ? r->order[at] : -1;
}

/* ---- scores ------------------------------------------------------------------------------------------------ */

/* whether a query of the tile may see a key of the other; what none sees is not computed, and not read */
static bool near(const am_att *t, int64_t tile, int64_t kt)
{
    int32_t first = INT32_MAX, last = INT32_MIN, lo, hi;
    for (int64_t i = tile * AM_ATT_BQ; i < am_min_i64(tile * AM_ATT_BQ + AM_ATT_BQ, t->nq); i++) {
        am_att_bounds(t, i, &lo, &hi);
        if (lo < first) first = lo;
        if (hi > last) last = hi;
    }
    for (int64_t j = kt * AM_ATT_BK; j < am_min_i64(kt * AM_ATT_BK + AM_ATT_BK, t->nk); j++)
        if (t->k_idx[j] >= first && t->k_idx[j] <= last) return true;
    return false;
}

static void tile_lists(const index_job *job, const index_room *r, int64_t tile)
{
    const am_att *t = &job->t;
    int64_t tiles = am_ceil_div(t->nk, AM_ATT_BK), n = am_min_i64(t->nq - tile * AM_ATT_BQ, AM_ATT_BQ);
    for (int64_t list = 0; list < job->lists; list++) {
        int64_t first = job->w ? 0 : list, last = job->w ? t->heads : list + 1;
        if (job->w) memset(r->scores, 0, (size_t)(tiles * AM_ATT_BK * AM_ATT_BQ) * 4);
        for (int64_t kt = 0; kt < tiles; kt++)
            for (int64_t head = first; head < last && near(t, tile, kt); head++)
                job->s->att_index(t, tile, kt, head, job->w, r->scratch, r->scores + kt * AM_ATT_BK * AM_ATT_BQ);
        for (int64_t j = 0; j < n; j++)
            list_of(job, r, tile * AM_ATT_BQ + j, list, r->scores + j, NULL, AM_ATT_BQ);
    }
}

/* f64: a query at a time, straight from the definition; scores take the place of the f32 ones */
static void exact_lists(const index_job *job, const index_room *r, const am_tensor *w, int64_t i)
{
    const am_att *t = &job->t;
    double *score = (double *)(void *)r->scores;
    for (int64_t list = 0; list < job->lists; list++) {
        for (int64_t j = 0; j < t->nk; j++) {
            score[j] = 0;
            for (int64_t head = w ? 0 : list; head < (w ? t->heads : list + 1); head++) {
                const double *q = (const double *)t->q + (i * t->heads + head) * t->d,
                             *k = (const double *)t->k + j * t->d;
                double x = 0;
                for (int64_t e = 0; e < t->d; e++) x += q[e] * k[e];
                x *= t->scale;
                score[j] = w ? score[j] + ((const double *)w->data)[i * t->heads + head] * fmax(0, x) : x;
            }
        }
        list_of(job, r, i, list, NULL, score, 1);
    }
}

static void index_team(index_job *job, int tid)
{
    am_bump b = {job->room + (size_t)tid * job->bytes, 0};
    index_room r = index_carve(&b, &job->t);
    int64_t tiles = am_ceil_div(job->t.nq, AM_ATT_BQ);
    for (int64_t tile; (tile = atomic_fetch_add_explicit(&job->units, 1, memory_order_relaxed)) < tiles;)
        tile_lists(job, &r, tiles - 1 - tile);
}

static am_status fill_job(const am_kernel_call *c, am_dtype real, index_job *job)
{
    am_status st = AM_OK;
    am_cpu_dims n;
    AM_TRY(am_cpu_check(c, "index_keys",
                        "q:r[N,A,d] k:r[M,d] q_idx:i[N] k_idx:i[M] doc_start:i[N] w:p[N,A]? > keys:i[N,L,n]", real, &n));
    am_att *t = &job->t;
    *t = shapes(c);
    t->real = real;
    t->q = c->in[0].data;
    t->k = c->in[1].data;
    t->q_idx = c->in[2].data;
    t->k_idx = c->in[3].data;
    t->doc_start = c->in[4].data;
    t->group = t->heads;
    t->scale = c->attrs->scale != 0 ? c->attrs->scale : 1;
    job->lists = n.of['L'];
    job->count = n.of['n'];
    job->block = c->attrs->key_block ? c->attrs->key_block : 1;
    job->local = c->attrs->local;
    job->keys = c->out[0].data;
    AM_CHECK(job->lists == (am_attention_operand(c, 5) ? 1 : t->heads), AM_ERR_SHAPE,
             "kernel index_keys: %" PRId64 " lists for a query; with weights there is one, without one for each head",
             job->lists);
    AM_CHECK(job->block > 0 && job->local >= 0, AM_ERR_SHAPE, "kernel index_keys: blocks of %" PRId64 " keys, %" PRId64 " local ones",
             job->block, job->local);
done:
    return st;
}

static am_status run_index(const am_kernel_call *c, am_dtype real)
{
    am_status st = AM_OK;
    index_job job = {0};
    AM_TRY(fill_job(c, real, &job));
    am_bump one = {0}, all = {c->workspace, 0};
    (void)index_carve(&one, &job.t);
    AM_CHECK(c->workspace && c->workspace_bytes >= index_workspace(c), AM_ERR_INTERNAL,
             "kernel index_keys: workspace of %zu bytes, needs %zu", c->workspace_bytes, index_workspace(c));
    const am_tensor *w = am_attention_operand(c, 5);
    float *weights = am_bump_take(&all, (size_t)(job.t.nq * job.t.heads) * 4);
    job.bytes = one.used;
    job.room = am_bump_take(&all, one.used * (size_t)c->threads);
    if (real == AM_F64) {
        am_bump b = {job.room, 0};
        index_room r = index_carve(&b, &job.t);
        for (int64_t i = 0; i < job.t.nq; i++) exact_lists(&job, &r, w, i);
        goto done;
    }
    for (int64_t i = 0; w && i < job.t.nq * job.t.heads; i++) weights[i] = am_att_number(w, i);
    job.w = w ? weights : NULL;
    job.s = am_simd_get();
    job.t.pairs = job.s->pairs && real == AM_BF16;
    if (c->threads == 1) {
        index_team(&job, 0);
        goto done;
    }
#pragma omp parallel num_threads(c->threads)
    index_team(&job, omp_get_thread_num());
done:
    return st;
}

AM_CPU_ROW(index_keys, run_index, index_workspace);
