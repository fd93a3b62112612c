/* attention: causal, windowed, document-bounded attention with shared key/value heads, as index arrays
 * decide. Read: call → am_att; f32 and bf16 (phases over tiles, bodies in simd_attention.inc); the f64
 * reference is in attention_f64.c.  Units of work (a tile of one head) are dealt out by a counter: which
 * thread does a unit changes no bit of it. */
#include "attention.h"

#include <math.h>
#include <omp.h>
#include <stdatomic.h>

/* ---- call → am_att ------------------------------------------------------------------------------- */

static am_status check_heads(const char *op, const am_att *t)
{
    am_status st = AM_OK;
    AM_CHECK(t->head_begin >= 0 && t->kv_begin >= 0 && t->window >= 0, AM_ERR_SHAPE,
             "kernel %s: head_begin %" PRId64 ", kv_begin %" PRId64 " and window %" PRId64
             " must not be negative",
             op, t->head_begin, t->kv_begin, t->window);
    AM_CHECK(t->group >= 1, AM_ERR_SHAPE,
             "kernel %s: group (query heads per kv head) is %" PRId64 ", must be at least 1", op, t->group);
    if (t->heads == 0) goto done;
    int64_t first = t->head_begin / t->group, last = (t->head_begin + t->heads - 1) / t->group;
    AM_CHECK(first >= t->kv_begin && last < t->kv_begin + t->kv_heads, AM_ERR_SHAPE,
             "kernel %s: query heads %" PRId64 "-%" PRId64 " need kv heads %" PRId64 "-%" PRId64
             ", here are %" PRId64 "-%" PRId64,
             op, t->head_begin, t->head_begin + t->heads - 1, first, last, t->kv_begin,
             t->kv_begin + t->kv_heads - 1);
done:
    return st;
}

static void fill_attrs(const am_attrs *a, am_att *t)
{
    t->head_begin = a->head_begin;
    t->kv_begin = a->kv_begin;
    t->group = a->group ? a->group : 1;
    t->window = a->window;
    t->softcap = a->softcap;
    t->scale = a->scale != 0 ? a->scale : 1.0 / sqrt((double)(t->d ? t->d : 1));
}

static am_status fill_forward(const am_kernel_call *c, am_dtype real, am_att *t)
{
    am_status st = AM_OK;
    am_cpu_dims n;
    AM_TRY(am_cpu_check(c, "attention",
                        "q:r[N,H,d] k:r[M,K,d] v:r[M,K,e] q_idx:i[N] k_idx:i[M] doc_start:i[N] > "
                        "o:r[N,H,e] lse:w[N,H]",
                        real, &n));
    *t = (am_att){.nq = n.of['N'],
                  .nk = n.of['M'],
                  .heads = n.of['H'],
                  .kv_heads = n.of['K'],
                  .d = n.of['d'],
                  .dv = n.of['e'],
                  .real = real,
                  .q = c->in[0].data,
                  .k = c->in[1].data,
                  .v = c->in[2].data,
                  .q_idx = c->in[3].data,
                  .k_idx = c->in[4].data,
                  .doc_start = c->in[5].data,
                  .out_o = c->out[0].data,
                  .lse = c->out[1].data};
    fill_attrs(c->attrs, t);
    AM_TRY(check_heads("attention", t));
done:
    return st;
}

static am_status fill_backward(const am_kernel_call *c, am_dtype real, am_att *t)
{
    am_status st = AM_OK;
    am_cpu_dims n;
    AM_TRY(am_cpu_check(c, "attention_bwd",
                        "do:r[N,H,e] q:r[N,H,d] k:r[M,K,d] v:r[M,K,e] o:r[N,H,e] lse:w[N,H] q_idx:i[N] "
                        "k_idx:i[M] doc_start:i[N] > dq:r[N,H,d] dk:r[M,K,d] dv:r[M,K,e]",
                        real, &n));
    *t = (am_att){.nq = n.of['N'],
                  .nk = n.of['M'],
                  .heads = n.of['H'],
                  .kv_heads = n.of['K'],
                  .d = n.of['d'],
                  .dv = n.of['e'],
                  .real = real,
                  .dout = c->in[0].data,
                  .q = c->in[1].data,
                  .k = c->in[2].data,
                  .v = c->in[3].data,
                  .o = c->in[4].data,
                  .lse = c->in[5].data,
                  .q_idx = c->in[6].data,
                  .k_idx = c->in[7].data,
                  .doc_start = c->in[8].data,
                  .dq = c->out[0].data,
                  .dk = c->out[1].data,
                  .dv_out = c->out[2].data};
    fill_attrs(c->attrs, t);
    AM_TRY(check_heads("attention_bwd", t));
done:
    return st;
}

/* ---- workspace ----------------------------------------------------------------------------------- */

typedef struct att_ws {
    char *scratch; /* threads × scratch_bytes */
    size_t scratch_bytes;
} att_ws;

/* sizes for the widest panels and fp32 units: a bound for every instruction set and type */
static att_ws carve(am_bump *b, am_att *t, const am_simd *s, int threads, bool backward)
{
    int64_t tiles = am_ceil_div(t->nk, AM_ATT_BK), qtiles = am_ceil_div(t->nq, AM_ATT_BQ),
            count = tiles * t->kv_heads;
    int64_t width = am_round_up(t->d, AM_SIMD_NR_MAX), width_v = am_round_up(t->dv, AM_SIMD_NR_MAX);
    t->kt_units = (size_t)(AM_ATT_BK * (t->d + 1));
    t->vt_units = (size_t)(AM_ATT_BK * (width_v + 1));
    t->kc_units = (size_t)(AM_ATT_BK * width);
    t->kt = am_bump_take(b, (size_t)count * t->kt_units * 4);
    t->vt = am_bump_take(b, (size_t)count * t->vt_units * 4);
    if (backward) {
        t->kc = am_bump_take(b, (size_t)count * t->kc_units * 4);
        t->delta = am_bump_take(b, (size_t)(t->nq * t->heads) * 4);
    }
    t->key_range = am_bump_take(b, (size_t)tiles * 8);
    t->query_range = am_bump_take(b, (size_t)qtiles * 16);
    size_t scratch =
        s ? s->att_scratch(t->d, t->dv, backward) : am_simd_portable.att_scratch(width, width_v, backward);
    att_ws w = {.scratch_bytes = am_round_up((int64_t)scratch, 128)};
    w.scratch = am_bump_take(b, w.scratch_bytes * (size_t)threads);
    return w;
}

static size_t query(const am_kernel_call *c, bool backward)
{
    const am_tensor *q = &c->in[backward], *k = q + 1, *v = q + 2;
    am_att t = {.nq = q->dim[0],
                .heads = q->dim[1],
                .d = q->dim[2],
                .nk = k->dim[0],
                .kv_heads = k->dim[1],
                .dv = v->dim[2]};
    am_bump b = {0};
    (void)carve(&b, &t, NULL, c->threads, backward);
    return b.used;
}
static size_t forward_workspace(const am_kernel_call *c) { return query(c, false); }
static size_t backward_workspace(const am_kernel_call *c) { return query(c, true); }

/* ---- phases -------------------------------------------------------------------------------------- */

static void key_ranges(const am_att *t)
{
    for (int64_t at = 0; at < t->nk; at++) {
        int32_t *r = t->key_range + at / AM_ATT_BK * 2, k = t->k_idx[at];
        if (at % AM_ATT_BK == 0) r[0] = r[1] = k;
        if (k < r[0]) r[0] = k;
        if (k > r[1]) r[1] = k;
    }
}

static void query_ranges(const am_att *t)
{
    for (int64_t i = 0; i < t->nq; i++) {
        int32_t *r = t->query_range + i / AM_ATT_BQ * 4, lo, hi;
        am_att_bounds(t, i, &lo, &hi);
        if (i % AM_ATT_BQ == 0) {
            r[0] = r[1] = lo;
            r[2] = r[3] = hi;
        }
        if (lo < r[0]) r[0] = lo;
        if (lo > r[1]) r[1] = lo;
        if (hi < r[2]) r[2] = hi;
        if (hi > r[3]) r[3] = hi;
    }
}

/* tiles × heads, longest work first where attention is causal */
typedef struct units {
    int64_t tiles, heads;
} units;
static bool next_unit(atomic_llong *counter, const units *u, int64_t *tile, int64_t *head)
{
    int64_t at = atomic_fetch_add_explicit(counter, 1, memory_order_relaxed);
    if (at >= u->tiles * u->heads) return false;
    *tile = at / u->heads;
    *head = at % u->heads;
    return true;
}

/* What the threads of a call share. */
typedef struct att_team {
    const am_att *t;
    const am_simd *s;
    const att_ws *w;
    units keys, queries;
    atomic_llong packing, by_key, by_query;
} att_team;

static void forward_team(att_team *m, int tid, int threads)
{
    char *scratch = m->w->scratch + (size_t)tid * m->w->scratch_bytes;
    int64_t tile, head;
    while (next_unit(&m->packing, &m->keys, &tile, &head)) m->s->att_pack(m->t, head, tile, false);
#pragma omp barrier
    while (next_unit(&m->by_query, &m->queries, &tile, &head))
        m->s->att_forward(m->t, m->queries.tiles - 1 - tile, head, scratch);
}

static void backward_team(att_team *m, int tid, int threads)
{
    char *scratch = m->w->scratch + (size_t)tid * m->w->scratch_bytes;
    int64_t tile, head, begin, end;
    am_cpu_part(m->t->nq * m->t->heads, 16, threads, tid, &begin, &end);
    m->s->att_delta(m->t, begin, end);
    while (next_unit(&m->packing, &m->keys, &tile, &head)) m->s->att_pack(m->t, head, tile, true);
#pragma omp barrier
    while (next_unit(&m->by_key, &m->keys, &tile, &head)) m->s->att_backward_kv(m->t, tile, head, scratch);
    while (next_unit(&m->by_query, &m->queries, &tile, &head))
        m->s->att_backward_q(m->t, m->queries.tiles - 1 - tile, head, scratch);
}

static void run_team(const am_att *t, const am_simd *s, const att_ws *w, bool backward, int threads)
{
    void (*team)(att_team *, int, int) = backward ? backward_team : forward_team;
    att_team m = {.t = t,
                  .s = s,
                  .w = w,
                  .keys = {am_ceil_div(t->nk, AM_ATT_BK), t->kv_heads},
                  .queries = {am_ceil_div(t->nq, AM_ATT_BQ), t->heads}};
    key_ranges(t);
    query_ranges(t);
    if (threads == 1) { /* libgomp asks for memory for every region of one thread */
        team(&m, 0, 1);
        return;
    }
#pragma omp parallel num_threads(threads)
    team(&m, omp_get_thread_num(), omp_get_num_threads());
}

/* ---- rows ---------------------------------------------------------------------------------------- */

static am_status run(const am_kernel_call *call, am_dtype real, bool backward)
{
    am_status st = AM_OK;
    am_att t;
    AM_TRY(backward ? fill_backward(call, real, &t) : fill_forward(call, real, &t));
    if (real == AM_F64) {
        backward ? am_attention_bwd_f64(&t, call->threads) : am_attention_f64(&t, call->threads);
        goto done;
    }
    const am_simd *s = am_simd_get();
    t.pairs = s->pairs && real == AM_BF16;
    size_t need = query(call, backward);
    AM_CHECK(call->workspace && call->workspace_bytes >= need, AM_ERR_INTERNAL,
             "kernel attention%s: workspace of %zu bytes, needs %zu", backward ? "_bwd" : "",
             call->workspace_bytes, need);
    am_bump b = {call->workspace, 0};
    att_ws w = carve(&b, &t, s, call->threads, backward);
    run_team(&t, s, &w, backward, call->threads);
done:
    return st;
}

static am_status run_forward(const am_kernel_call *call, am_dtype real) { return run(call, real, false); }
static am_status run_backward(const am_kernel_call *call, am_dtype real) { return run(call, real, true); }

AM_CPU_ROW(attention, run_forward, forward_workspace);
AM_CPU_ROW(attention_bwd, run_backward, backward_workspace);
