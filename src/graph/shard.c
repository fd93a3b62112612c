/* shard.c: where a product's weight comes from, and where its gradient goes.
 *
 *   weights:   master shard (STORE) ─► cast to the compute dtype ─► all_gather over dp_shard
 *              ─► views that the nodes read.  Steps that change nothing are left out: one rank in fp32 reads
 *              its master slot itself; so does one in bf16 where every reader of a parameter rounds it on its way
 *              into the product (AM_OP_ROUNDS_WEIGHT), and only the others, norms mostly, are cast.
 *   gradients: W nodes write views of the unit's buffer ─► exchange over dp_shard ─► rank_sum (the shard)
 *              ─► exchange, rank_sum, all_gather over dp_replicate.   Sums are formed in rank order.
 *
 * DDP is shards = 1, FSDP is replicas = 1, HSDP is both: one engine.  With overlap, a unit's weights are
 * fetched while the unit before it computes, and each stage of a reduction is finished only when the next
 * unit's gradients are ready. */
#include "graph/pass.h"

#include <string.h>

typedef struct am_list {
    int *at;
    size_t n, cap;
} am_list;

typedef enum am_seg { SEG_PRE, SEG_F, SEG_B, SEG_W, SEG_COUNT } am_seg;

typedef struct am_pending {
    int unit, stage, parts; /* what the last exchange brings */
} am_pending;

typedef struct am_sharder {
    am_compile *c;
    am_graph *g;
    am_list old[SEG_COUNT], made[SEG_COUNT]; /* node indices before and after */
    int *weights; /* by unit: value of the whole unit in the compute dtype, in the segment at hand; -1: not
                     made yet */
    int *view;    /* by param: its value in the segment at hand */
    bool hoist;   /* weights are made once, in PRE */
    bool rounds;  /* … of those parameters only whose readers do not round them */
    bool persist; /* gradients are accumulated whole over the micro-batches and reduced at the last */
    am_pending *pending;
    size_t num_pending, cap_pending;
    am_list *into; /* where new nodes go */
} am_sharder;

static am_status push(am_list *l, int node)
{
    am_status st = am_grow(&l->at, &l->cap, l->n + 1, sizeof *l->at);
    if (st == AM_OK) l->at[l->n++] = node;
    return st;
}

static uint64_t made_id(const char *what, int unit, int stage)
{
    return am_hash64(what, strlen(what), (uint64_t)(unit * 16 + stage));
}

/* Emit a node with one given output and put it into the list at hand. */
static am_status make(am_sharder *s, const char *op, int in, int out, am_acc acc, am_when when, int unit,
                      int stage, uint32_t group)
{
    am_status st = AM_OK;
    int outs[AM_MAX_OUT] = {out, -1, -1, -1}, node = -1;
    am_graph_at(s->g, s->c->store.unit[unit].layer, 0, 0);
    AM_TRY(am_graph_emit(s->g, op, &in, in >= 0, NULL, acc, outs, &node));
    am_node *x = &s->g->nodes[node];
    x->when = when;
    x->id = made_id(op, unit, stage);
    x->group = group;
    if (group) x->queue = strcmp(op, "all_gather") == 0 && stage == 0 ? AM_QUEUE_GATHER : AM_QUEUE_REDUCE;
    AM_TRY(push(s->into, node));
done:
    return st;
}

static am_status new_flat(am_sharder *s, const char *what, int unit, am_dtype dtype, int64_t a, int64_t b,
                          int *out)
{
    char name[48];
    am_dim dims[2] = {am_dim_number(a), am_dim_number(b)};
    snprintf(name, sizeof name, "%s layer %d", what, s->c->store.unit[unit].layer);
    return am_graph_value(s->g, name, dtype, b > 1 ? 2 : 1, dims, out);
}

/* ---- weights
 * ------------------------------------------------------------------------------------------------ */

static am_status make_weights(am_sharder *s, int unit)
{
    am_status st = AM_OK;
    am_compile *c = s->c;
    const am_unit *u = &c->store.unit[unit];
    int value = c->master[unit], next = -1;
    if (s->g->compute != s->g->precise) {
        AM_TRY(new_flat(s, "cast", unit, s->g->compute, u->shard_elements, 1, &next));
        AM_TRY(make(s, "cast", value, next, AM_ACC_NO, AM_WHEN_ALWAYS, unit, 0, 0));
        value = next;
    }
    if (c->shards > 1) {
        AM_TRY(new_flat(s, "weights", unit, s->g->compute, u->elements, 1, &next));
        AM_TRY(make(s, "all_gather", value, next, AM_ACC_NO, AM_WHEN_ALWAYS, unit, 0, AM_GROUP_DP_SHARD));
        value = next;
    }
    s->weights[unit] = value;
done:
    return st;
}

/* Does every node that reads parameter p round it by itself? */
static bool readers_round(const am_sharder *s, int p)
{
    for (size_t n = 0; n < s->g->num_nodes; n++) {
        const am_node *x = &s->g->nodes[n];
        for (int i = 0; i < x->num_in; i++)
            if (x->in[i] >= 0 && s->g->values[x->in[i]].param == p &&
                (i != 1 || !(x->def->traits & AM_OP_ROUNDS_WEIGHT)))
                return false;
    }
    return true;
}

/* A unit whose parameters are read from the master slot, or cast one by one. */
static am_status make_views(am_sharder *s, int unit)
{
    am_status st = AM_OK;
    const am_unit *u = &s->c->store.unit[unit];
    for (int e = 0; e < u->num_entries; e++) {
        int p = u->entry[e].param, master, cast = -1;
        am_value v = s->g->values[s->g->param_value[p]];
        AM_TRY(am_graph_subvalue(s->g, v.name, s->c->master[unit], u->entry[e].offset, v.rank, v.dim, &master));
        s->view[p] = master;
        if (!readers_round(s, p)) {
            AM_TRY(am_graph_value(s->g, v.name, s->g->compute, v.rank, v.dim, &cast));
            AM_TRY(make(s, "cast", master, cast, AM_ACC_NO, AM_WHEN_ALWAYS, unit, 0, 0));
            s->g->nodes[s->into->at[s->into->n - 1]].id = am_hash64(v.name, strlen(v.name), 0);
            s->view[p] = cast;
        }
        s->g->values[s->view[p]].param = p;
    }
done:
    return st;
}

static int node_unit(const am_sharder *s, const am_node *x, int i)
{
    int p = x->in[i] >= 0 ? s->g->values[x->in[i]].param : -1;
    return p >= 0 && s->g->values[x->in[i]].life == AM_LIFE_TRANSIENT ? s->c->unit_of[p] : -1;
}

/* Units in the order of their first use in a segment; first[] holds where. */
static am_status units_used(am_sharder *s, am_seg seg, am_list *units, am_list *first)
{
    am_status st = AM_OK;
    bool *seen = NULL;
    AM_TRY(am_calloc((size_t)s->c->store.num_units, sizeof *seen, &seen));
    for (size_t k = 0; k < s->old[seg].n; k++) {
        const am_node *x = &s->g->nodes[s->old[seg].at[k]];
        for (int i = 0; i < x->num_in; i++) {
            int u = node_unit(s, x, i);
            if (u < 0 || seen[u]) continue;
            seen[u] = true;
            AM_TRY(push(units, u));
            AM_TRY(push(first, (int)k));
        }
    }
done:
    am_free(&seen);
    return st;
}

/* The value that stands for parameter p here: a part of its unit's weights. */
static am_status param_view(am_sharder *s, int p, int *out)
{
    am_status st = AM_OK;
    if (s->view[p] < 0) {
        const am_unit *u = &s->c->store.unit[s->c->unit_of[p]];
        am_value v = s->g->values[s->g->param_value[p]];
        AM_TRY(am_graph_subvalue(s->g, v.name, s->weights[s->c->unit_of[p]],
                                 u->entry[s->c->entry_of[p]].offset, v.rank, v.dim, &s->view[p]));
        s->g->values[s->view[p]].param = p;
    }
    *out = s->view[p];
done:
    return st;
}

static am_status rewrite_inputs(am_sharder *s, int node)
{
    am_status st = AM_OK;
    for (int i = 0; i < s->g->nodes[node].num_in; i++) {
        int v = s->g->nodes[node].in[i], view;
        if (v < 0 || s->g->values[v].param < 0) continue;
        const int p = s->g->values[v].param;
        const am_value x = s->g->values[v];
        AM_TRY(param_view(s, p, &view));
        if (x.rank != s->g->values[view].rank && s->g->nodes[node].phase != AM_PHASE_PRE) { /* seen with other dims */
            AM_TRY(am_graph_subvalue(s->g, x.name, view, 0, x.rank, x.dim, &view));
            s->g->values[view].param = p;
        }
        s->g->nodes[node].in[i] = view;
    }
done:
    return st;
}

/* ---- gradients
 * ------------------------------------------------------------------------------------------------ */

static bool zero_needed(const am_sharder *s, const am_unit *u, int entry)
{
    return s->c->param_grad[u->entry[entry].param] < 0;
}

/* Zero what no W node writes: padding, and parameters without a gradient. */
static am_status fill_gaps(am_sharder *s, int unit)
{
    am_status st = AM_OK;
    const am_unit *u = &s->c->store.unit[unit];
    int64_t from = 0;
    for (int e = 0; e <= u->num_entries; e++) {
        bool last = e == u->num_entries;
        if (!last && zero_needed(s, u, e)) continue;
        int64_t to = last ? u->elements : u->entry[e].offset;
        if (to > from) {
            am_dim dim = am_dim_number(to - from);
            int gap;
            AM_TRY(am_graph_subvalue(s->g, "padding", s->c->grad[unit], from, 1, &dim, &gap));
            AM_TRY(make(s, "fill", -1, gap, AM_ACC_NO, AM_WHEN_ALWAYS, unit, e, 0));
        }
        if (!last) from = u->entry[e].offset + u->entry[e].count;
    }
done:
    return st;
}

/* The placement pass says that a gradient is a partial sum over the data-parallel ranks: that is why it is
 * reduced, and over which. */
static am_status check_partial(const am_sharder *s, int grad)
{
    am_status st = AM_OK;
    const am_place *place = s->g->values[grad].place;
    AM_ASSERT(s->c->shards == 1 || place[AM_MESH_DP_SHARD] == AM_PLACE_PARTIAL);
    AM_ASSERT(s->c->replicas == 1 || place[AM_MESH_DP_REPLICATE] == AM_PLACE_PARTIAL);
done:
    return st;
}

/* One buffer for the unit's gradients; the parameters' gradient values become parts of it. */
static am_status make_grad_buffer(am_sharder *s, int unit)
{
    am_status st = AM_OK;
    am_compile *c = s->c;
    const am_unit *u = &c->store.unit[unit];
    AM_TRY(new_flat(s, "gradients", unit, s->g->precise, u->elements, 1, &c->grad[unit]));
    if (s->persist) s->g->values[c->grad[unit]].life = AM_LIFE_STEP;
    for (int e = 0; e < u->num_entries; e++) {
        int v = c->param_grad[u->entry[e].param];
        if (v < 0) continue;
        AM_TRY(check_partial(s, v));
        for (size_t i = 0; i < s->g->num_values; i++)
            if (s->g->values[i].root == v) {
                s->g->values[i].root = c->grad[unit];
                s->g->values[i].root_offset += u->entry[e].offset;
            }
    }
    c->grad_shard[unit] = c->grad[unit];
    if (c->shards > 1)
        AM_TRY(
            new_flat(s, "gradient shard", unit, s->g->precise, u->shard_elements, 1, &c->grad_shard[unit]));
done:
    return st;
}

/* Start a transfer of `from` into `parts` pieces, to be summed by the next step. */
static am_status start_exchange(am_sharder *s, am_pending *p, int from, int64_t parts, int64_t piece,
                                am_when when, int stage, uint32_t group)
{
    am_status st = AM_OK;
    AM_TRY(new_flat(s, "pieces", p->unit, s->g->precise, parts, piece, &p->parts));
    AM_TRY(make(s, "exchange", from, p->parts, AM_ACC_NO, when, p->unit, stage, group));
    p->stage = stage;
done:
    return st;
}

/* Take the next step of a unit's reduction: each starts a transfer, but the last. */
static am_status reduce_step(am_sharder *s, am_pending *p, bool *finished)
{
    am_status st = AM_OK;
    am_compile *c = s->c;
    const am_unit *u = &c->store.unit[p->unit];
    bool many = c->o->micro_batches > 1;
    am_when each = s->persist ? AM_WHEN_LAST : AM_WHEN_ALWAYS, once = many ? AM_WHEN_LAST : AM_WHEN_ALWAYS;
    int shard = c->grad_shard[p->unit], mine;
    int64_t piece = u->shard_elements / c->replicas;
    am_dim dim = am_dim_number(piece);
    *finished = false;
    if (p->stage == 0 && c->shards > 1) {
        AM_TRY(
            start_exchange(s, p, c->grad[p->unit], c->shards, u->shard_elements, each, 1, AM_GROUP_DP_SHARD));
        goto done;
    }
    if (p->stage == 1)
        AM_TRY(make(s, "rank_sum", p->parts, shard, !s->persist && many ? AM_ACC_UNLESS_FIRST : AM_ACC_NO,
                    each, p->unit, 1, 0));
    if (p->stage <= 1 && c->replicas > 1) {
        AM_TRY(start_exchange(s, p, shard, c->replicas, piece, once, 2, AM_GROUP_DP_REPLICATE));
        goto done;
    }
    if (p->stage == 2) {
        AM_TRY(am_graph_subvalue(s->g, "my piece", shard, piece * c->replica_index, 1, &dim, &mine));
        AM_TRY(make(s, "rank_sum", p->parts, mine, AM_ACC_NO, once, p->unit, 2, 0));
        AM_TRY(make(s, "all_gather", mine, shard, AM_ACC_NO, once, p->unit, 2, AM_GROUP_DP_REPLICATE));
    }
    *finished = true;
done:
    return st;
}

/* Every pending reduction advances by one step; with `all`, to its end. */
static am_status advance(am_sharder *s, bool all)
{
    am_status st = AM_OK;
    size_t kept = 0;
    for (size_t i = 0; i < s->num_pending; i++) {
        am_pending p = s->pending[i];
        bool finished = false;
        do AM_TRY(reduce_step(s, &p, &finished));
        while (all && !finished);
        if (!finished) s->pending[kept++] = p;
    }
    s->num_pending = kept;
done:
    return st;
}

static am_status start_reduction(am_sharder *s, int unit)
{
    am_status st = AM_OK;
    am_pending p = {.unit = unit};
    bool finished = false;
    AM_TRY(advance(s, !s->c->o->overlap));
    do AM_TRY(reduce_step(s, &p, &finished));
    while (!finished && !s->c->o->overlap);
    if (finished) goto done;
    AM_TRY(am_grow(&s->pending, &s->cap_pending, s->num_pending + 1, sizeof *s->pending));
    s->pending[s->num_pending++] = p;
done:
    return st;
}

/* Last (or first) position at which a node of the segments B, W writes a unit's gradients. */
static void writers_of(const am_sharder *s, int unit, bool last, am_seg *seg, size_t *at)
{
    *seg = SEG_COUNT;
    for (am_seg k = SEG_B; k <= SEG_W; k++)
        for (size_t i = 0; i < s->old[k].n; i++) {
            const am_node *x = &s->g->nodes[s->old[k].at[i]];
            for (int o = 0; o < x->num_out; o++)
                if (x->out[o] >= 0 && s->g->values[x->out[o]].root == s->c->grad[unit] &&
                    (last || *seg == SEG_COUNT)) {
                    *seg = k;
                    *at = i;
                }
        }
}

/* ---- one segment
 * ------------------------------------------------------------------------------------------------ */

typedef struct am_marks {
    am_seg first_seg, last_seg;
    size_t first_at, last_at;
} am_marks;

static am_status weave(am_sharder *s, am_seg seg, const am_marks *marks)
{
    am_status st = AM_OK;
    am_list units = {0}, first = {0};
    size_t next = 0;
    int nu = s->c->store.num_units;
    s->into = &s->made[seg];
    s->g->phase = seg == SEG_F ? AM_PHASE_F : seg == SEG_B ? AM_PHASE_B : AM_PHASE_W;
    if (!s->hoist) {
        for (int u = 0; u < nu; u++) s->weights[u] = -1;
        for (size_t p = 0; p < s->g->num_params; p++) s->view[p] = -1;
        AM_TRY(units_used(s, seg, &units, &first));
    }
    for (size_t k = 0; k < s->old[seg].n; k++) {
        int node = s->old[seg].at[k];
        /* fetch what starts here, and with overlap also the unit after it */
        while (next < units.n && (size_t)first.at[next] <= k) AM_TRY(make_weights(s, units.at[next++]));
        bool starts = false;
        for (size_t i = 0; i < first.n; i++) starts = starts || (size_t)first.at[i] == k;
        if (s->c->o->overlap && starts && next < units.n) AM_TRY(make_weights(s, units.at[next++]));
        for (int u = 0; marks && !s->persist && u < nu; u++)
            if (marks[u].first_seg == seg && marks[u].first_at == k) AM_TRY(fill_gaps(s, u));
        AM_TRY(rewrite_inputs(s, node));
        AM_TRY(push(s->into, node));
        for (int u = 0; marks && s->c->shards * s->c->replicas > 1 && u < nu; u++)
            if (marks[u].last_seg == seg && marks[u].last_at == k) AM_TRY(start_reduction(s, u));
    }
    AM_TRY(advance(s, true));
done:
    am_free(&units.at);
    am_free(&first.at);
    return st;
}

static am_status split_segments(am_sharder *s)
{
    am_status st = AM_OK;
    for (size_t n = 0; n < s->g->num_nodes; n++) {
        am_phase p = s->g->nodes[n].phase;
        am_seg seg = p == AM_PHASE_F ? SEG_F : p == AM_PHASE_W && s->c->o->split_w ? SEG_W : SEG_B;
        AM_TRY(push(&s->old[seg], (int)n));
    }
done:
    return st;
}

static am_status prepare_gradients(am_sharder *s, am_marks *marks)
{
    am_status st = AM_OK;
    am_compile *c = s->c;
    for (int u = 0; u < c->store.num_units; u++) {
        marks[u] = (am_marks){.first_seg = SEG_COUNT, .last_seg = SEG_COUNT};
        if (!c->store.unit[u].trainable) continue;
        AM_TRY(make_grad_buffer(s, u));
        writers_of(s, u, false, &marks[u].first_seg, &marks[u].first_at);
        writers_of(s, u, true, &marks[u].last_seg, &marks[u].last_at);
        AM_CHECK(marks[u].first_seg != SEG_COUNT, AM_ERR_CONFIG,
                 "no gradient reaches the parameters of layer %d; freeze them", c->store.unit[u].layer);
        if (s->persist) AM_TRY(fill_gaps(s, u));
    }
done:
    return st;
}

/* One micro-batch a step, or gradients that do not outlive one: nothing to add to. */
static void settle_accumulation(am_sharder *s)
{
    for (size_t n = 0; n < s->g->num_nodes; n++) {
        am_node *x = &s->g->nodes[n];
        bool gradient = x->phase == AM_PHASE_W || x->phase == AM_PHASE_B;
        if (gradient && x->acc == AM_ACC_UNLESS_FIRST && (s->c->o->micro_batches == 1 || !s->persist))
            x->acc = AM_ACC_NO;
    }
}

am_status am_pass_shard(am_compile *c)
{
    am_status st = AM_OK;
    am_sharder s = {.c = c, .g = c->g};
    am_marks *marks = NULL;
    am_list all = {0};
    size_t nu = (size_t)c->store.num_units;
    bool backward = c->o->kind == AM_PROGRAM_TRAIN || c->o->kind == AM_PROGRAM_VERIFY;
    s.hoist = c->shards == 1 || !c->o->reshard;
    s.rounds = c->shards == 1 && c->g->compute != c->g->precise && c->o->fuse && c->o->kind != AM_PROGRAM_GENERATE;
    s.persist = am_gradients_persist(c);
    AM_TRY(am_calloc(nu, sizeof *s.weights, &s.weights));
    AM_TRY(am_calloc(c->g->num_params, sizeof *s.view, &s.view));
    AM_TRY(am_calloc(nu, sizeof *marks, &marks));
    AM_TRY(am_calloc(nu, sizeof *c->grad, &c->grad));
    AM_TRY(am_calloc(nu, sizeof *c->grad_shard, &c->grad_shard));
    for (size_t u = 0; u < nu; u++) c->grad[u] = c->grad_shard[u] = s.weights[u] = -1;
    for (size_t p = 0; p < c->g->num_params; p++) s.view[p] = -1;
    AM_TRY(split_segments(&s));
    settle_accumulation(&s);
    s.into = &s.made[SEG_PRE];
    c->g->phase = AM_PHASE_PRE;
    for (size_t u = 0; s.hoist && u < nu; u++)
        AM_TRY(s.rounds ? make_views(&s, (int)u) : make_weights(&s, (int)u));
    if (backward) AM_TRY(prepare_gradients(&s, marks));
    AM_TRY(weave(&s, SEG_F, NULL));
    if (backward) AM_TRY(weave(&s, SEG_B, marks));
    if (backward) AM_TRY(weave(&s, SEG_W, marks));
    for (am_seg k = SEG_PRE; k < SEG_COUNT; k++)
        for (size_t i = 0; i < s.made[k].n; i++) AM_TRY(push(&all, s.made[k].at[i]));
    AM_TRY(am_graph_reorder(c->g, all.at, all.n));
done:
    for (am_seg k = SEG_PRE; k < SEG_COUNT; k++) {
        am_free(&s.old[k].at);
        am_free(&s.made[k].at);
    }
    am_free(&all.at);
    am_free(&s.weights);
    am_free(&s.view);
    am_free(&s.pending);
    am_free(&marks);
    return st;
}
