/* recompute.c: full recomputation.  Before the first backward node of a layer, the layer's forward nodes that
 * its backward reads from are emitted again; the backward nodes then read the clones.  What enters a layer
 * from outside it is saved; nothing else is. A clone keeps the id of its original, so counter-based
 * randomness repeats. */
#include "graph/pass.h"

#include <string.h>

typedef struct am_clones {
    am_graph *g;
    int forward; /* forward nodes */
    int *map;    /* by value: the clone's value, or -1 */
    size_t num_map;
    bool *needed; /* by forward node, within the layer at hand */
    int *order;   /* the new order of all nodes */
    size_t num_order;
} am_clones;

static int producer_in_layer(const am_clones *k, int value, int layer)
{
    if (value < 0) return -1;
    int n = k->g->values[k->g->values[value].root].producer;
    return n >= 0 && n < k->forward && k->g->nodes[n].layer == layer ? n : -1;
}

static void need_inputs(am_clones *k, const am_node *x, int layer)
{
    for (int i = 0; i < x->num_in; i++) {
        int n = producer_in_layer(k, x->in[i], layer);
        if (n >= 0) k->needed[n] = true;
    }
}

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

static am_status clone_node(am_clones *k, int n)
{
    am_status st = AM_OK;
    am_graph *g = k->g;
    am_node x = g->nodes[n];
    x.phase = AM_PHASE_B;
    for (int i = 0; i < x.num_in; i++) AM_TRY(replacement(k, x.in[i], &x.in[i]));
    for (int i = 0; i < x.num_out; i++) {
        int old = x.out[i];
        if (old < 0) continue;
        AM_TRY(am_graph_value_like(g, g->values[old].name, old, g->values[old].dtype, &x.out[i]));
        g->values[x.out[i]].producer = (int)g->num_nodes;
        k->map[g->values[old].root] = x.out[i];
    }
    AM_TRY(am_grow(&g->nodes, &g->cap_nodes, g->num_nodes + 1, sizeof *g->nodes));
    k->order[k->num_order++] = (int)g->num_nodes;
    g->nodes[g->num_nodes++] = x;
done:
    return st;
}

static am_status clone_layer(am_clones *k, int layer, int nodes_before)
{
    am_status st = AM_OK;
    am_graph *g = k->g;
    memset(k->needed, 0, (size_t)k->forward * sizeof *k->needed);
    for (int n = k->forward; n < nodes_before; n++)
        if (g->nodes[n].layer == layer) need_inputs(k, &g->nodes[n], layer);
    for (int n = k->forward - 1; n >= 0; n--)
        if (k->needed[n]) need_inputs(k, &g->nodes[n], layer);
    for (int n = 0; n < k->forward; n++)
        if (k->needed[n]) AM_TRY(clone_node(k, n));
    for (int n = k->forward; n < nodes_before; n++)
        for (int i = 0; g->nodes[n].layer == layer && i < g->nodes[n].num_in; i++) {
            int v = -1;
            AM_TRY(replacement(k, g->nodes[n].in[i], &v));
            g->nodes[n].in[i] = v;
        }
    for (size_t v = 0; v < k->num_map; v++) k->map[v] = -1;
done:
    return st;
}

am_status am_pass_recompute(am_compile *c)
{
    am_status st = AM_OK;
    am_graph *g = c->g;
    int before = (int)g->num_nodes;
    am_clones k = {.g = g, .forward = c->forward_nodes, .num_map = g->num_values};
    bool *done_layer = NULL;
    AM_TRY(am_calloc(k.num_map, sizeof *k.map, &k.map));
    AM_TRY(am_calloc((size_t)k.forward + 1, sizeof *k.needed, &k.needed));
    AM_TRY(am_calloc(2 * g->num_nodes + 1, sizeof *k.order, &k.order));
    AM_TRY(am_calloc((size_t)g->num_layers + 1, sizeof *done_layer, &done_layer));
    for (size_t v = 0; v < k.num_map; v++) k.map[v] = -1;
    for (int n = 0; n < before; n++) {
        int layer = g->nodes[n].layer;
        if (n >= k.forward && layer >= 0 && layer < g->num_layers && !done_layer[layer]) {
            done_layer[layer] = true;
            AM_TRY(clone_layer(&k, layer, before));
        }
        k.order[k.num_order++] = n;
    }
    AM_TRY(am_graph_reorder(g, k.order, k.num_order));
done:
    am_free(&k.map);
    am_free(&k.needed);
    am_free(&k.order);
    am_free(&done_layer);
    return st;
}
