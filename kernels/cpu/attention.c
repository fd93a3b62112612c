/* attention: causal, windowed, document-bounded attention with shared key/value heads, as index arrays
 * decide. Read: call → am_att; which tiles see which; phases over tiles (f32 and bf16; bodies in
 * simd_attention.inc); the f64 reference is in attention_f64.c.
 *
 * A unit of work is a tile of queries of one head (in backward of several that share keys, see
 * heads_together); units are dealt out by a counter, and which thread does one changes no bit of it.  In
 * backward, units add to the sums of dk and dv of the key tiles they see, in the order in which they are
 * dealt out: each waits, tile by tile, for the unit before it (see backward_unit). */
#include "attention.h"

#include <math.h>
#include <omp.h>
#include <sched.h>
#include <stdatomic.h>

/* ---- call → am_att ------------------------------------------------------------------------------- */

static am_status check_heads(const char *op, const am_att *t)
{
    am_status st = AM_OK;
    AM_CHECK(t->head_begin >= 0 && t->kv_begin >= 0 && t->window >= 0 && t->chunk >= 0, AM_ERR_SHAPE,
             "kernel %s: head_begin %" PRId64 ", kv_begin %" PRId64 ", window %" PRId64 " and chunk %" PRId64
             " must not be negative",
             op, t->head_begin, t->kv_begin, t->window, t->chunk);
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
    t->chunk = a->chunk;
    t->alibi_scale = a->alibi_scale != 0 ? a->alibi_scale : 1;
    t->alibi_rounded = a->alibi_rounded != 0;
    t->key_block = a->key_block ? a->key_block : 1;
    t->softcap = a->softcap;
    t->scale = a->scale != 0 ? a->scale : 1.0 / sqrt((double)(t->d ? t->d : 1));
}

static am_status fill_forward(const am_kernel_call *c, am_dtype real, am_att *t)
{
    am_status st = AM_OK;
    am_cpu_dims n;
    AM_TRY(am_cpu_check(c, "attention",
                        "q:r[N,H,d] k:r[M,K,d] v:r[M,K,e] q_idx:i[N] k_idx:i[M] doc_start:i[N] sinks:p[H]? "
                        "slopes:p[H]? bias:p[.]? buckets:p[R]? keys:i[N,L,n]? > o:r[N,H,e] lse:w[N,H]",
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
    t->sinks = am_attention_operand(c, 6);
    AM_TRY(am_attention_take_bias(c, 7, "attention", t));
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
                        "k_idx:i[M] doc_start:i[N] slopes:p[H]? bias:p[.]? buckets:p[R]? keys:i[N,L,n]? + > dq:r[N,H,d]? "
                        "dk:r[M,K,d]? dv:r[M,K,e]? dbias:p[.]?",
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
                  .dq = c->out[0].rank ? c->out[0].data : NULL,
                  .dk = c->out[1].rank ? c->out[1].data : NULL,
                  .dv_out = c->out[2].rank ? c->out[2].data : NULL};
    AM_CHECK(!t->dq == !t->dk && !t->dk == !t->dv_out, AM_ERR_SHAPE,
             "kernel attention_bwd: dq, dk and dv are given together or not at all");
    fill_attrs(c->attrs, t);
    AM_TRY(am_attention_take_bias(c, 9, "attention_bwd", t));
    AM_TRY(am_attention_take_dbias(c, t));
    AM_TRY(check_heads("attention_bwd", t));
done:
    return st;
}

/* ---- workspace ----------------------------------------------------------------------------------- */

typedef struct att_ws {
    char *scratch;        /* threads × heads of a unit × scratch_bytes */
    size_t scratch_bytes; /* of one head of a unit of work */
    int32_t *reach;       /* [2 × key tiles]: see tile_views */
    atomic_int *progress; /* backward, per (query tile, head): key tiles below this one have been added to */
} att_ws;

/* Query heads of one kv head that backward takes together: key tile for key tile, so that keys, values and
 * the sums of dk and dv come from far away once for all of them.  It changes no bit.  One, where threads
 * would get few units. */
static int64_t heads_together(const am_att *t, int64_t threads)
{
    int64_t most = am_min_i64(t->group, 4 * 128 / am_max_i64(am_max_i64(t->d, t->dv), 128));
    while (most > 1 && am_ceil_div(t->nq, AM_ATT_BQ) * am_ceil_div(t->heads, most) < 8 * threads) most--;
    return am_max_i64(most, 1);
}

/* Bounds for every instruction set and type.  Beside what a thread needs, it grows with the keys alone:
 * 4 bytes × kv heads × nk × (dv in forward; 2·d + dv in backward), and a few numbers a tile; a table of biases
 * adds its own size a tile of queries. */
static att_ws carve(am_bump *b, am_att *t, const am_simd *s, int threads, bool backward)
{
    int64_t tiles = am_ceil_div(t->nk, AM_ATT_BK), qtiles = am_ceil_div(t->nq, AM_ATT_BQ),
            count = tiles * t->kv_heads, d = backward ? t->d : t->dv;
    att_ws w = {0};
    t->turned_units = (size_t)(AM_ATT_BK * am_round_up(d, AM_SIMD_MR));
    t->turned = am_bump_take(b, (size_t)count * t->turned_units * 4);
    if (backward) {
        t->ld_dk = am_round_up(t->d, 16);
        t->ld_dv = am_round_up(t->dv, 16);
        t->sums = am_bump_take(b, (size_t)(count * AM_ATT_BK * (t->ld_dk + t->ld_dv)) * 4);
        w.progress = am_bump_take(b, (size_t)(qtiles * t->heads) * sizeof *w.progress);
    }
    t->key_range = am_bump_take(b, (size_t)tiles * 8);
    t->query_range = am_bump_take(b, (size_t)qtiles * 16);
    t->keys_seen = am_bump_take(b, (size_t)qtiles * 8);
    t->seen_by = am_bump_take(b, (size_t)tiles * 8);
    w.reach = am_bump_take(b, (size_t)tiles * 8);
    am_attention_carve_bias(b, t, qtiles, backward);
    t->together = backward ? heads_together(t, threads) : 1;
    w.scratch_bytes =
        (size_t)am_round_up((int64_t)(s ? s : &am_simd_portable)->att_scratch(t, backward), 128);
    w.scratch = am_bump_take(b, w.scratch_bytes * (size_t)(t->together * threads));
    return w;
}

static size_t query(const am_kernel_call *c, bool backward)
{
    const am_tensor *q = &c->in[backward], *k = q + 1, *v = q + 2;
    am_att t = {.nq = q->dim[0],
                .group = c->attrs->group ? c->attrs->group : 1,
                .heads = q->dim[1],
                .d = q->dim[2],
                .nk = k->dim[0],
                .kv_heads = k->dim[1],
                .dv = v->dim[2],
                .sinks = backward ? NULL : am_attention_operand(c, 6)};
    am_attention_bias_operands(c, backward ? 9 : 7, &t);
    am_bump b = {0};
    (void)carve(&b, &t, NULL, c->threads, backward);
    return b.used;
}
static size_t forward_workspace(const am_kernel_call *c) { return query(c, false); }
static size_t backward_workspace(const am_kernel_call *c) { return query(c, true); }

/* ---- which tiles see which ----------------------------------------------------------------------- */

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

/* first of n ascending numbers (two apart) that is at least x; n: none */
static int64_t lower_bound(const int32_t *from, int64_t n, int64_t x)
{
    int64_t begin = 0, end = n;
    while (begin < end) {
        int64_t middle = (begin + end) / 2;
        if (from[2 * middle] >= x)
            end = middle;
        else
            begin = middle + 1;
    }
    return begin;
}

/* keys_seen and seen_by.  reach: the largest index up to a key tile and the smallest from it on, both
 * ascending: no tile before the first whose largest reaches a query's bound can be seen by it, and none
 * behind the last whose smallest does; in between stands nearly nothing that is not seen. */
static void tile_views(const am_att *t, int32_t *reach)
{
    int64_t tiles = am_ceil_div(t->nk, AM_ATT_BK), qtiles = am_ceil_div(t->nq, AM_ATT_BQ);
    for (int64_t kt = 0; kt < tiles; kt++) {
        const int32_t *k = t->key_range + 2 * kt;
        reach[2 * kt] = kt && reach[2 * kt - 2] > k[1] ? reach[2 * kt - 2] : k[1];
        t->seen_by[2 * kt] = 0;
        t->seen_by[2 * kt + 1] = -1;
    }
    for (int64_t kt = tiles - 1; kt >= 0; kt--) {
        int32_t least = t->key_range[2 * kt];
        reach[2 * kt + 1] = kt + 1 < tiles && reach[2 * kt + 3] < least ? reach[2 * kt + 3] : least;
    }
    for (int64_t qt = 0; qt < qtiles; qt++) {
        const int32_t *q = t->query_range + 4 * qt;
        int64_t first = lower_bound(reach, tiles, q[0]),
                last = lower_bound(reach + 1, tiles, (int64_t)q[3] + 1) - 1;
        while (first <= last && am_att_tile_view(t, qt, first) == AM_ATT_NONE) first++;
        while (first <= last && am_att_tile_view(t, qt, last) == AM_ATT_NONE) last--;
        t->keys_seen[2 * qt] = (int32_t)first;
        t->keys_seen[2 * qt + 1] = (int32_t)last;
        for (int64_t kt = first; kt <= last; kt++) {
            if (am_att_tile_view(t, qt, kt) == AM_ATT_NONE) continue;
            if (t->seen_by[2 * kt + 1] < 0) t->seen_by[2 * kt] = (int32_t)qt;
            t->seen_by[2 * kt + 1] = (int32_t)qt;
        }
    }
}

/* ---- phases -------------------------------------------------------------------------------------- */

/* What the threads of a call share. */
typedef struct att_team {
    const am_att *t;
    const am_simd *s;
    const att_ws *w;
    bool backward;
    int64_t key_tiles, query_tiles;
    atomic_llong packing, units, tables;
} att_team;

/* query heads of a kv head */
static void heads_of(const am_att *t, int64_t kv, int64_t *begin, int64_t *end)
{
    *begin = am_max_i64((t->kv_begin + kv) * t->group - t->head_begin, 0);
    *end = am_min_i64((t->kv_begin + kv + 1) * t->group - t->head_begin, t->heads);
}

static void pack_all(att_team *m)
{
    const am_att *t = m->t;
    for (int64_t at; (at = atomic_fetch_add_explicit(&m->packing, 1, memory_order_relaxed)) <
                     m->key_tiles * t->kv_heads;) {
        int64_t tile = at / t->kv_heads, kv = at % t->kv_heads, begin, end;
        heads_of(t, kv, &begin, &end);
        bool seen = t->seen_by[2 * tile + 1] >= 0 && begin < end;
        if (seen)
            m->s->att_pack(t, kv, tile, m->backward);
        else if (m->backward)
            m->s->att_bwd_keys(t, tile, kv, false);
    }
}

/* The heads of a unit of backward: of one kv head, at most `together` of them. */
static int64_t unit_end(const am_att *t, int64_t head)
{
    int64_t begin, end;
    heads_of(t, (t->head_begin + head) / t->group - t->kv_begin, &begin, &end);
    return am_min_i64(head + t->together, end);
}

static int64_t units_a_tile(const am_att *t)
{
    int64_t n = 0;
    for (int64_t head = 0; head < t->heads; head = unit_end(t, head)) n++;
    return n;
}

static int64_t first_head(const am_att *t, int64_t unit)
{
    int64_t head = 0;
    while (unit-- > 0) head = unit_end(t, head);
    return head;
}

/* The unit before (tile, head and those with it) at key tile kt: the one before of the same kv head, else its
 * last one at the next later tile whose stretch holds kt; false: there is none. */
static bool unit_before(const am_att *t, int64_t tile, int64_t head, int64_t kt, int64_t *before)
{
    int64_t begin, end, latest = t->seen_by[2 * kt + 1];
    heads_of(t, (t->head_begin + head) / t->group - t->kv_begin, &begin, &end);
    *before = tile * t->heads + head - t->together;
    if (head > begin) return true;
    for (int64_t qt = tile + 1; qt <= latest; qt++)
        if (t->keys_seen[2 * qt] <= kt && kt <= t->keys_seen[2 * qt + 1]) {
            *before = qt * t->heads + begin + (end - 1 - begin) / t->together * t->together;
            return true;
        }
    return false;
}

static void wait_for(atomic_int *progress, int64_t key_tile)
{
    for (int spins = 0; atomic_load_explicit(progress, memory_order_acquire) <= key_tile; spins++)
        if (spins > 200) (void)sched_yield();
}

/* One tile of queries of one head or of several of the same kv head, over its key tiles from first to last.
 * dk and dv of a key tile are sums over units from the last query tile to the first and over heads in their
 * order; units are dealt out in the same order, so the one waited for is always at work already or done.  The
 * first one begins the sums, the last one stores them. */
static void backward_unit(att_team *m, int64_t tile, int64_t first, char *scratch)
{
    const am_att *t = m->t;
    const size_t room = m->w->scratch_bytes;
    int64_t kv = (t->head_begin + first) / t->group - t->kv_begin, begin, end, before,
            last = unit_end(t, first);
    atomic_int *progress = m->w->progress;
    heads_of(t, kv, &begin, &end);
    for (int64_t h = first; h < last; h++)
        m->s->att_bwd_begin(t, tile, h, scratch + (size_t)(h - first) * room);
    for (int64_t kt = t->keys_seen[2 * tile]; kt <= t->keys_seen[2 * tile + 1]; kt++) {
        bool sees = am_att_tile_view(t, tile, kt) != AM_ATT_NONE,
             follows = unit_before(t, tile, first, kt, &before);
        const int32_t *by = t->seen_by + 2 * kt;
        for (int64_t h = first; h < last; h++) {
            char *own = scratch + (size_t)(h - first) * room;
            if (sees) m->s->att_bwd_tile(t, tile, kt, h, own);
            if (h == first && follows) wait_for(&progress[before], kt);
            if (sees) m->s->att_bwd_add(t, tile, kt, h, tile == by[1] && h == begin, own);
        }
        if (tile == by[0] && last == end) m->s->att_bwd_keys(t, kt, kv, true);
        atomic_store_explicit(&progress[tile * t->heads + first], (int)kt + 1, memory_order_release);
    }
    for (int64_t h = first; h < last; h++)
        m->s->att_bwd_end(t, tile, h, scratch + (size_t)(h - first) * room);
}

/* units: tiles × heads (or heads together), longest work first where attention is causal */
static void team(att_team *m, int tid)
{
    const am_att *t = m->t;
    char *scratch = m->w->scratch + (size_t)(tid * t->together) * m->w->scratch_bytes;
    int64_t per_tile = m->backward ? units_a_tile(t) : t->heads;
    pack_all(m);
#pragma omp barrier
    for (int64_t at;
         (at = atomic_fetch_add_explicit(&m->units, 1, memory_order_relaxed)) < m->query_tiles * per_tile;) {
        int64_t tile = m->query_tiles - 1 - at / per_tile, n = at % per_tile;
        if (m->backward)
            backward_unit(m, tile, first_head(t, n), scratch);
        else
            m->s->att_forward(t, tile, n, scratch);
    }
    if (!t->dbias || !t->profile) return;
#pragma omp barrier
    for (int64_t head; (head = atomic_fetch_add_explicit(&m->tables, 1, memory_order_relaxed)) < t->heads;)
        am_attention_sum_table(t, m->query_tiles, head);
}

static void run_team(const am_att *t, const am_simd *s, const att_ws *w, bool backward, int threads)
{
    att_team m = {.t = t,
                  .s = s,
                  .w = w,
                  .backward = backward,
                  .key_tiles = am_ceil_div(t->nk, AM_ATT_BK),
                  .query_tiles = am_ceil_div(t->nq, AM_ATT_BQ)};
    am_attention_read_bias(t);
    key_ranges(t);
    query_ranges(t);
    tile_views(t, w->reach);
    for (int64_t i = 0; backward && i < m.query_tiles * t->heads; i++) atomic_init(&w->progress[i], 0);
    if (threads == 1) { /* libgomp asks for memory for every region of one thread */
        team(&m, 0);
        return;
    }
#pragma omp parallel num_threads(threads)
    team(&m, omp_get_thread_num());
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
