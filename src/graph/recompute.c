/* recompute.c: values of the forward pass that are computed again in the backward pass instead of being kept.
 *   full:      a layer keeps what enters it; all else that its backward reads is computed again.
 *   selective: what one pass over memory makes of values that are kept anyway (a norm of the residual stream, a gated
 *              activation) is computed again; nothing else is.
 * A clone of the node stands before the first backward node that reads it.  It keeps the id of its original, so that
 * counter-based randomness repeats, and gives the same bits. */
#include "graph/pass.h"

#include <string.h>

typedef struct am_clones {
    am_graph *g;
    int forward, before; /* forward nodes; nodes in all before this pass */
    bool split_w;        /* phases B and W are segments of their own */
    int *map;            /* by value: the clone's value, or -1 */
    size_t num_map;
    bool *again; /* by forward node: to be cloned */
    int *order;  /* the new order of all nodes */
    size_t num_order;
} am_clones;

static int producer_in_layer(const am_clones *k, int value, int layer)
{
    if (value < 0) return -1;
    int n = k->g->values[k->g->values[value].root].producer;
    return n >= 0 && n < k->forward && k->g->nodes[n].layer == layer ? n : -1;
}

/* ---- which nodes ----------------------------------------------------------------------------------------- */

static void need_inputs(am_clones *k, const am_node *x, int layer)
{
    for (int i = 0; i < x->num_in; i++) {
        int n = producer_in_layer(k, x->in[i], layer);
        if (n >= 0) k->again[n] = true;
    }
}

static void choose_full(am_clones *k, int layer)
{
    for (int n = k->forward; n < k->before; n++)
        if (k->g->nodes[n].layer == layer) need_inputs(k, &k->g->nodes[n], layer);
    for (int n = k->forward - 1; n >= 0; n--)
        if (k->again[n] && k->g->nodes[n].layer == layer) need_inputs(k, &k->g->nodes[n], layer);
}

/* How the backward pass reads a forward value: never, by its own layer, or also by another one. */
typedef struct am_readers {
    int count, elsewhere, phases;
} am_readers;

static am_readers readers_of(const am_clones *k, int root, int layer)
{
    am_readers r = {0};
    for (int n = k->forward; n < k->before; n++) {
        const am_node *x = &k->g->nodes[n];
        if (!am_node_reads(k->g, x, root)) continue;
        r.count++;
        r.elsewhere += x->layer != layer;
        r.phases |= 1 << x->phase;
    }
    return r;
}

/* Is the value at hand in the backward pass without being kept for this?  Parameters are, and inputs of the model.  One that
 * is itself computed again is, too, but not where W may have to wait for B or B for W. */
static bool at_hand(const am_clones *k, int value)
{
    if (value < 0) return true;
    int root = k->g->values[value].root, n = k->g->values[root].producer;
    if (n < 0 || n >= k->forward) return true;
    if (k->again[n] && k->g->nodes[n].out[0] == root) return !k->split_w;
    return readers_of(k, root, -1).count > 0;
}

static void choose_selective(am_clones *k, int layer)
{
    for (int n = 0; n < k->forward; n++) {
        const am_node *x = &k->g->nodes[n];
        if (x->layer != layer || !(x->def->traits & AM_OP_ONE_PASS)) continue;
        int root = k->g->values[x->out[0]].root;
        am_readers r = readers_of(k, root, layer);
        bool fits = root == x->out[0] && r.count > 0 && r.elsewhere == 0 &&
                    (!k->split_w || (r.phases & (r.phases - 1)) == 0);
        for (int i = 0; fits && i < x->num_in; i++) fits = at_hand(k, x->in[i]);
        k->again[n] = fits;
    }
}

/* ---- the clones ------------------------------------------------------------------------------------------ */

/* The value that replaces v for readers in the backward pass of its layer. */
static am_status replacement(am_clones *k, int v, int *out)
{
    am_status st = AM_OK;
    am_graph *g = k->g;
    *out = v;
    if (v < 0) goto done;
    am_value x = g->values[v];
    if ((size_t)x.root >= k->num_map || k->map[x.root] < 0) goto done;
    if (x.root == v)
        *out = k->map[v];
    else
        AM_TRY(am_graph_subvalue(g, x.name, k->map[x.root], x.root_offset, x.rank, x.dim, out));
done:
    return st;
}

/* Clones the node, and before it those of its inputs that are to be cloned; selective: only its first output is replaced. */
static am_status clone_node(am_clones *k, int n, am_phase phase, bool full)
{
    am_status st = AM_OK;
    am_graph *g = k->g;
    am_node x = g->nodes[n];
    k->again[n] = false;
    for (int i = 0; i < x.num_in; i++) {
        int p = producer_in_layer(k, x.in[i], x.layer);
        if (p >= 0 && k->again[p]) AM_TRY(clone_node(k, p, phase, full));
        AM_TRY(replacement(k, x.in[i], &x.in[i]));
    }
    x.phase = phase;
    for (int i = 0; i < x.num_out; i++) {
        int old = x.out[i];
        if (old < 0) continue;
        AM_TRY(am_graph_value_like(g, g->values[old].name, old, g->values[old].dtype, &x.out[i]));
        g->values[x.out[i]].producer = (int)g->num_nodes;
        if (full || i == 0) k->map[g->values[old].root] = x.out[i];
    }
    AM_TRY(am_grow(&g->nodes, &g->cap_nodes, g->num_nodes + 1, sizeof *g->nodes));
    k->order[k->num_order++] = (int)g->num_nodes;
    g->nodes[g->num_nodes++] = x;
done:
    return st;
}

/* The backward node n reads clones where there are any; those that are missing are made before it. */
static am_status read_clones(am_clones *k, int n, bool full)
{
    am_status st = AM_OK;
    am_graph *g = k->g;
    const int layer = g->nodes[n].layer;
    for (int i = 0; i < g->nodes[n].num_in; i++) {
        int p = producer_in_layer(k, g->nodes[n].in[i], layer), v = -1;
        bool wanted = p >= 0 && k->again[p] && (full || g->values[g->nodes[n].in[i]].root == g->nodes[p].out[0]);
        if (wanted) AM_TRY(clone_node(k, p, full ? AM_PHASE_B : g->nodes[n].phase, full));
        if (p < 0) continue;
        AM_TRY(replacement(k, g->nodes[n].in[i], &v));
        g->nodes[n].in[i] = v;
    }
done:
    return st;
}

am_status am_pass_recompute(am_compile *c)
{
    am_status st = AM_OK;
    am_graph *g = c->g;
    const bool full = c->o->recompute == AM_RECOMPUTE_FULL;
    am_clones k = {.g = g, .forward = c->forward_nodes, .before = (int)g->num_nodes, .split_w = c->o->split_w,
                   .num_map = g->num_values};
    AM_TRY(am_calloc(k.num_map, sizeof *k.map, &k.map));
    AM_TRY(am_calloc((size_t)k.forward + 1, sizeof *k.again, &k.again));
    AM_TRY(am_calloc(2 * g->num_nodes + 1, sizeof *k.order, &k.order));
    for (size_t v = 0; v < k.num_map; v++) k.map[v] = -1;
    for (int layer = 0; layer < g->num_layers; layer++)
        if (full) choose_full(&k, layer);
        else choose_selective(&k, layer);
    for (int n = 0; n < k.before; n++) {
        int layer = g->nodes[n].layer;
        if (n >= k.forward && layer >= 0 && layer < g->num_layers) AM_TRY(read_clones(&k, n, full));
        k.order[k.num_order++] = n;
    }
    AM_TRY(am_graph_reorder(g, k.order, k.num_order));
done:
    am_free(&k.map);
    am_free(&k.again);
    am_free(&k.order);
    return st;
}
