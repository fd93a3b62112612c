/* accumulate.c: y = a + f(x), where f's kernel can add to what stands in its output and nobody needs a or f(x) afterwards: f
 * adds to a, and the addition is gone, with one rounding and three passes over memory.  In a backward pass these are the
 * gradients of a value that several products read: q, k and v; gate and up.
 *
 * Whether it is done follows from the graph alone, not from the order of the segments: with weight gradients apart or not,
 * the bits are the same.  So nothing that a weight's gradient is made of is added to. */
#include "graph/pass.h"

#include <string.h>

/* How a value, or a part of it, is read. */
typedef struct am_reads {
    int count, last;  /* nodes; the last one, `except` not counted, -1 for none */
    bool for_weights; /* by a node of phase W */
} am_reads;

static am_reads reads_of(const am_graph *g, int root, int except)
{
    am_reads r = {.last = -1};
    for (int n = 0; n < (int)g->num_nodes; n++) {
        if (n == except || !am_node_reads(g, &g->nodes[n], root)) continue;
        r.count++;
        r.last = n;
        r.for_weights = r.for_weights || g->nodes[n].phase == AM_PHASE_W;
    }
    return r;
}

/* The root of a value that is all of it and of no special kind; else -1. */
static int whole(const am_graph *g, int value)
{
    int root = value < 0 ? -1 : g->values[value].root;
    bool all = root >= 0 && g->values[root].life == AM_LIFE_TRANSIENT && g->values[root].param < 0 &&
               am_value_elements(&g->values[value]) == am_value_elements(&g->values[root]);
    return all ? root : -1;
}

static void become_part_of(am_graph *g, int root, int of)
{
    for (size_t v = 0; v < g->num_values; v++)
        if (g->values[v].root == root) g->values[v].root = of;
}

/* add: node; side: which operand f makes.  Whether it was done. */
static bool add_into(am_graph *g, int add, int side)
{
    am_node *sum = &g->nodes[add];
    int a = whole(g, sum->in[1 - side]), b = whole(g, sum->in[side]), y = whole(g, sum->out[0]);
    if (a < 0 || b < 0 || y < 0 || a == b) return false;
    int f = g->values[b].producer, before = g->values[a].producer;
    if (f < 0 || before < 0 || before >= f || !(g->nodes[f].def->traits & AM_OP_ADDS) || g->nodes[f].acc != AM_ACC_NO ||
        g->nodes[f].out[0] != b || g->nodes[f].phase != sum->phase)
        return false;
    am_reads others = reads_of(g, a, add);
    if (reads_of(g, b, add).count > 0 || others.last >= f || others.for_weights) return false;
    become_part_of(g, b, a);
    become_part_of(g, y, a);
    g->nodes[f].acc = AM_ACC_ALWAYS;
    sum->num_in = 0; /* it reads nothing any more */
    return true;
}

am_status am_pass_accumulate(am_compile *c)
{
    am_status st = AM_OK;
    am_graph *g = c->g;
    int *order = NULL;
    size_t n = 0;
    AM_TRY(am_calloc(g->num_nodes + 1, sizeof *order, &order));
    for (int i = 0; i < (int)g->num_nodes; i++) {
        bool gone = strcmp(g->nodes[i].def->name, "add") == 0 && g->nodes[i].phase == AM_PHASE_B &&
                    (add_into(g, i, 1) || add_into(g, i, 0));
        if (!gone) order[n++] = i;
    }
    AM_TRY(am_graph_reorder(g, order, n));
done:
    am_free(&order);
    return st;
}
