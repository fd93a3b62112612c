/* memory.c: values → region and offset.  ARENA is reused by happens-before: u's bytes may become v's only
 * when every operator that touches u is ordered before the first that touches v (waits.c), never because it
 * stands earlier in the list.  Placement is greedy: the largest first, or the longest-lived first where that
 * takes less, each at the lowest offset free of values it may not share with. */
#include "graph/pass.h"

#include <stdlib.h>
#include <string.h>

enum { ALIGN = 64 };

typedef struct am_span { /* something that needs bytes in the arena of one segment */
    int64_t bytes, offset;
    int first;                /* operator that touches it first */
    int last[AM_QUEUE_COUNT]; /* number of the last operator of each queue that touches it; 0: none */
    int root;                 /* value, or -1: workspace of operator `first` */
} am_span;

static int64_t root_bytes(const am_graph *g, int root)
{
    return am_round_up(am_value_elements(&g->values[root]) * (int64_t)am_dtype_bytes(g->values[root].dtype),
                       ALIGN);
}

/* Output 0 takes over an input that dies here: same bytes, both transient, nobody else still needs it. */
static void merge_inplace(am_program *p, const am_segment *s, const am_order *o, int i,
                          const int (*last)[AM_QUEUE_COUNT])
{
    const am_prog_op *op = &s->op[i];
    am_graph *g = p->graph;
    if (!op->def->inplace_in || op->queue != AM_QUEUE_COMPUTE) return;
    const am_prog_tensor *in = &op->in[op->def->inplace_in - 1], *out = &op->out[0];
    if (in->region != AM_REGION_ARENA || out->region != AM_REGION_ARENA) return;
    int a = g->values[in->value].root, b = g->values[out->value].root;
    if (a == b || root_bytes(g, a) != root_bytes(g, b)) return;
    for (int q = 0; q < AM_QUEUE_COUNT; q++) {
        int limit = q == AM_QUEUE_COMPUTE ? o->number[i] : o->clock[i * AM_QUEUE_COUNT + q];
        if (last[a][q] > limit) return;
    }
    for (int k = 0; k < op->num_in; k++) /* the other operands may not be the same memory */
        if (k != op->def->inplace_in - 1 && op->in[k].value >= 0 && g->values[op->in[k].value].root == a)
            return;
    for (size_t v = 0; v < g->num_values; v++)
        if (g->values[v].root == b) {
            g->values[v].root = a;
            g->values[v].root_offset += g->values[in->value].root_offset;
        }
}

static void touch_last(const am_graph *g, const am_segment *s, const am_order *o, int (*last)[AM_QUEUE_COUNT])
{
    for (int i = 0; i < s->num_ops; i++)
        for (int k = 0; k < s->op[i].num_in + s->op[i].num_out; k++) {
            const am_prog_tensor *t =
                k < s->op[i].num_in ? &s->op[i].in[k] : &s->op[i].out[k - s->op[i].num_in];
            if (t->value >= 0) last[g->values[t->value].root][s->op[i].queue] = o->number[i];
        }
}

static am_status alias_outputs(am_program *p, const am_segment *s, const am_order *o)
{
    am_status st = AM_OK;
    am_graph *g = p->graph;
    int(*last)[AM_QUEUE_COUNT] = NULL;
    AM_TRY(am_calloc(g->num_values + 1, sizeof *last, &last));
    touch_last(g, s, o, last);
    for (int i = s->num_ops - 1; i >= 0; i--) {
        int b = s->op[i].num_out && s->op[i].out[0].value >= 0 ? g->values[s->op[i].out[0].value].root : -1;
        merge_inplace(p, s, o, i, (const int(*)[AM_QUEUE_COUNT])last);
        int a = b >= 0 ? g->values[b].root : -1;
        for (int q = 0; a != b && q < AM_QUEUE_COUNT; q++)
            if (last[b][q] > last[a][q]) last[a][q] = last[b][q];
    }
done:
    am_free(&last);
    return st;
}

static am_status collect(const am_program *p, const am_segment *s, const am_order *o, am_span **out,
                         size_t *count)
{
    am_status st = AM_OK;
    const am_graph *g = p->graph;
    am_span *spans = NULL;
    size_t cap = 0, n = 0;
    int *where = NULL;
    AM_TRY(am_calloc(g->num_values + 1, sizeof *where, &where));
    for (int i = 0; i < s->num_ops; i++) {
        const am_prog_op *op = &s->op[i];
        for (int k = -1; k < op->num_in + op->num_out; k++) {
            const am_prog_tensor *t = k < 0 ? NULL : k < op->num_in ? &op->in[k] : &op->out[k - op->num_in];
            if (k < 0 ? op->workspace_bytes == 0 : t->region != AM_REGION_ARENA) continue;
            int root = k < 0 ? -1 : g->values[t->value].root;
            if (root < 0 || !where[root]) {
                AM_TRY(am_grow(&spans, &cap, n + 1, sizeof *spans));
                spans[n] = (am_span){.first = i,
                                     .root = root,
                                     .bytes = k < 0 ? am_round_up((int64_t)op->workspace_bytes, ALIGN)
                                                    : root_bytes(g, root)};
                n++;
                if (root >= 0) where[root] = (int)n;
            }
            spans[root < 0 ? n - 1 : (size_t)where[root] - 1].last[op->queue] = o->number[i];
        }
    }
    *out = spans;
    *count = n;
    spans = NULL;
done:
    am_free(&spans);
    am_free(&where);
    return st;
}

/* Everything that touches u comes before the first operator that touches v. */
static bool span_before(const am_segment *s, const am_order *o, const am_span *u, const am_span *v)
{
    (void)s;
    for (int q = 0; q < AM_QUEUE_COUNT; q++)
        if (u->last[q] > o->clock[v->first * AM_QUEUE_COUNT + q]) return false;
    return true;
}

static int by_size(const void *a, const void *b)
{
    const am_span *x = a, *y = b;
    if (x->bytes != y->bytes) return x->bytes < y->bytes ? 1 : -1;
    return (x->first > y->first) - (x->first < y->first);
}

typedef struct am_hole {
    int64_t begin, end;
} am_hole;

static int by_begin(const void *a, const void *b)
{
    const am_hole *x = a, *y = b;
    return (x->begin > y->begin) - (x->begin < y->begin);
}

/* how long it lives in the compute queue, nearly: one is a place in its queue, the other in the segment */
static int span_operators(const am_span *x)
{
    return x->last[AM_QUEUE_COMPUTE] - x->first;
}

/* the longest-lived first */
static int by_life(const void *a, const void *b)
{
    const am_span *x = a, *y = b;
    if (span_operators(x) != span_operators(y)) return span_operators(x) < span_operators(y) ? 1 : -1;
    return by_size(a, b);
}

static am_status place_in_order(const am_segment *s, const am_order *o, am_span *spans, size_t n,
                                int (*order)(const void *, const void *), int64_t *bytes)
{
    am_status st = AM_OK;
    am_hole *taken = NULL;
    AM_TRY(am_calloc(n + 1, sizeof *taken, &taken));
    if (n) qsort(spans, n, sizeof *spans, order);
    *bytes = 0;
    for (size_t i = 0; i < n; i++) {
        size_t m = 0;
        int64_t at = 0;
        for (size_t j = 0; j < i; j++)
            if (!span_before(s, o, &spans[i], &spans[j]) && !span_before(s, o, &spans[j], &spans[i]))
                taken[m++] = (am_hole){spans[j].offset, spans[j].offset + spans[j].bytes};
        if (m) qsort(taken, m, sizeof *taken, by_begin);
        for (size_t j = 0; j < m && taken[j].begin < at + spans[i].bytes; j++)
            at = am_max_i64(at, taken[j].end);
        spans[i].offset = at;
        *bytes = am_max_i64(*bytes, at + spans[i].bytes);
    }
done:
    am_free(&taken);
    return st;
}

/* Greedy placement is a heuristic: of two orders the one that takes less. */
static am_status place_spans(const am_segment *s, const am_order *o, am_span *spans, size_t n, int64_t *bytes)
{
    am_status st = AM_OK;
    int64_t other;
    AM_TRY(place_in_order(s, o, spans, n, by_life, &other));
    AM_TRY(place_in_order(s, o, spans, n, by_size, bytes));
    if (other < *bytes) AM_TRY(place_in_order(s, o, spans, n, by_life, bytes));
done:
    return st;
}

static am_status plan_segment(am_program *p, am_segment *s)
{
    am_status st = AM_OK;
    am_order o = {0};
    am_span *spans = NULL;
    size_t n = 0;
    AM_TRY(am_order_make(s, &o));
    AM_TRY(alias_outputs(p, s, &o));
    AM_TRY(collect(p, s, &o, &spans, &n));
    AM_TRY(place_spans(s, &o, spans, n, &s->arena_bytes));
    for (size_t i = 0; i < n; i++) {
        p->arena_sum += spans[i].bytes;
        if (spans[i].root >= 0)
            p->graph->values[spans[i].root].offset = spans[i].offset;
        else
            s->op[spans[i].first].workspace_offset = spans[i].offset;
    }
    p->region_bytes[AM_REGION_ARENA] = am_max_i64(p->region_bytes[AM_REGION_ARENA], s->arena_bytes);
done:
    am_order_release(&o);
    am_free(&spans);
    return st;
}

/* The other regions: one after the other. */
static void bump(am_program *p, am_life life, am_region_id region)
{
    am_graph *g = p->graph;
    for (size_t v = 0; v < g->num_values; v++) {
        if (g->values[v].root != (int)v || g->values[v].life != life) continue;
        g->values[v].offset = p->region_bytes[region];
        p->region_bytes[region] += root_bytes(g, (int)v);
    }
}

static void resolve(const am_graph *g, am_prog_tensor *t)
{
    if (t->value < 0) return;
    const am_value *v = &g->values[t->value];
    t->offset = g->values[v->root].offset + v->root_offset * (int64_t)am_dtype_bytes(v->dtype);
}

am_status am_pass_memory(am_compile *c, am_program *p)
{
    am_status st = AM_OK;
    p->region_bytes[AM_REGION_STORE] = c->store.bytes;
    bump(p, AM_LIFE_SCALARS, AM_REGION_SCALARS);
    bump(p, AM_LIFE_CONST, AM_REGION_CONST);
    bump(p, AM_LIFE_STATE, AM_REGION_STATE);
    bump(p, AM_LIFE_STEP, AM_REGION_STEP);
    bump(p, AM_LIFE_FRAME, AM_REGION_FRAME);
    for (int k = 0; k < p->num_segments; k++) AM_TRY(plan_segment(p, &p->segment[k]));
    for (int k = 0; k < p->num_segments; k++)
        for (int i = 0; i < p->segment[k].num_ops; i++) {
            am_prog_op *op = &p->segment[k].op[i];
            for (int n = 0; n < op->num_in; n++) resolve(p->graph, &op->in[n]);
            for (int n = 0; n < op->num_out; n++) resolve(p->graph, &op->out[n]);
        }
done:
    return st;
}
