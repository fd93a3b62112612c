/* tensor.c: tensor parallelism, inferred from the roles of dimensions (heads, kv_heads, ffn).
 *
 *   am_pass_tensor         forward graph: a product whose output has such a dimension begins a cut: every rank of the group tp makes
 *                          its own part of it.  Operators carry the cut on (AM_CUT_…, a word of their row) until a product contracts
 *                          the dimension: what it leaves are summands (tp_sum).  What enters a cut whole goes through a tp_branch,
 *                          whose gradient is the sum over the ranks.  Where an operator needs its operand whole, the products that
 *                          began that cut stay whole, and say why (am_param.why_whole); the search starts again without them.
 *   am_pass_tensor_join    after autodiff: a branch is the value itself
 *   am_pass_tensor_reduce  sums become all_gather and rank_sum, added in rank order; so do the gradients of parameters that are
 *                          whole but read by what is cut
 *
 * Weights that are cut are parameters with smaller dims, whose disk view says which elements of a tensor they are (disk.h). */
#include "graph/tensor.h"

#include <string.h>

/* ---- cutting ------------------------------------------------------------------------------------------------------ */

/* The parameter's axis as a product of plain dimensions, one of them cut. */
static am_status cut_axis(am_cutter *k, int param)
{
    am_status st = AM_OK;
    am_graph *g = k->g;
    am_param *p = &g->params[param];
    const int a = k->axis[param];
    am_layout *l = NULL, *leaf = NULL;
    const am_layout **at = NULL;
    am_layout_part part;
    AM_TRY(am_layout_part_at(p->layout[a], 0, &part));
    AM_TRY(am_graph_alloc(g, sizeof *l, &l));
    AM_TRY(am_graph_alloc(g, (size_t)part.num_dims * sizeof *leaf, &leaf));
    AM_TRY(am_graph_alloc(g, (size_t)part.num_dims * sizeof *at, &at));
    *l = (am_layout){.kind = AM_LAYOUT_PRODUCT, .num_parts = part.num_dims, .part = at, .size = 1};
    for (int i = 0; i < part.num_dims; i++) {
        if (am_dim_same(&part.dim[i], &k->dim[param])) part.dim[i] = k->dim[param];
        leaf[i] = (am_layout){.kind = AM_LAYOUT_DIM, .dim = part.dim[i], .size = part.dim[i].local};
        at[i] = &leaf[i];
        l->size *= leaf[i].size;
    }
    if (!p->disk.whole) {
        p->disk.whole = p->layout[a];
        p->disk.axis = a;
        p->disk.part = 0;
    }
    p->layout[a] = part.num_dims == 1 ? leaf : l;
    p->dim[a] = l->size;
    p->cut_of = k->parts;
    am_value *v = &g->values[g->param_value[param]];
    if (part.num_dims == 1) v->dim[a] = part.dim[0];
    v->dim[a].local = l->size;
done:
    return st;
}

static am_status cut_values(am_cutter *k)
{
    am_status st = AM_OK;
    am_value *values = k->g->values;
    for (int v = 0; v < (int)k->g->num_values; v++) { /* views first: they ask for what is not cut yet */
        am_dim d;
        int at = values[v].root != v ? am_tensor_cut(k, v, &d) : WHOLE;
        if (at >= 0) values[v].dim[at] = d;
    }
    for (int v = 0; v < (int)k->g->num_values; v++)
        if (values[v].root == v && k->cut[v] >= 0) {
            values[v].dim[k->cut[v]] = k->span[v];
            values[v].place[AM_MESH_TP] = AM_PLACE_SHARDED;
        }
    for (int p = 0; p < (int)k->g->num_params; p++) {
        if (k->axis[p] >= 0) AM_TRY(cut_axis(k, p));
        k->g->params[p].summed = (k->use[p] & USED_BY_CUT) != 0;
    }
done:
    return st;
}

/* Appends a node for `node` and puts it into the new order. */
static am_status add_node(am_cutter *k, const char *op, int node, int i, int in, const am_attrs *attrs, int *out, int *order, size_t *n)
{
    am_status st = AM_OK;
    int outs[AM_MAX_OUT] = {*out, -1, -1, -1}, made;
    const am_node x = k->g->nodes[node];
    am_graph_at(k->g, x.layer, x.line, x.column);
    AM_TRY(am_graph_emit(k->g, op, &in, 1, attrs, AM_ACC_NO, outs, &made));
    k->g->nodes[made].id = am_hash64(op, strlen(op), x.id + (uint64_t)i);
    k->g->nodes[made].group = 0;
    *out = outs[0];
    order[(*n)++] = made;
done:
    return st;
}

/* Head ranges of attention, groups of a norm's rows, slopes of the heads here. */
static am_status tell_ranges(am_cutter *k, int node)
{
    enum { SLOPES = 7 };
    am_status st = AM_OK;
    am_node *x = &k->g->nodes[node];
    const am_value *y = &k->g->values[x->out[0]];
    const am_dim d = y->dim[k->cut[x->out[0]]];
    if (x->attrs.groups > 1) x->attrs.groups = d.local;
    if (AM_OP_CUT(x->def->traits) != AM_CUT_ATTENTION) goto done;
    const am_dim q = k->g->values[x->in[0]].dim[1], kv = k->g->values[x->in[1]].dim[1];
    x->attrs.head_begin = q.start;
    x->attrs.kv_begin = kv.start;
    if (x->attrs.group <= 0) x->attrs.group = q.global / kv.global;
    if (x->num_in > SLOPES && x->in[SLOPES] >= 0) {
        am_dim here = am_dim_number(q.local);
        int slopes;
        AM_TRY(am_graph_subvalue(k->g, "slopes", x->in[SLOPES], q.start, 1, &here, &slopes));
        k->g->nodes[node].in[SLOPES] = slopes;
    }
done:
    return st;
}

/* Branches before a node (one for all nodes that read the value), sums behind it.  Each rank adds its share of a bias. */
static am_status insert_around(am_cutter *k, int node, int *branch_of, int *order, size_t *n)
{
    am_status st = AM_OK;
    am_graph *g = k->g;
    for (int i = 0; i < g->nodes[node].num_in; i++) {
        const int v = g->nodes[node].in[i];
        if (!(k->branch[node] >> i & 1)) continue;
        if (branch_of[v] < 0) AM_TRY(add_node(k, "tp_branch", node, i, v, NULL, &branch_of[v], order, n));
        g->nodes[node].in[i] = branch_of[v];
    }
    if (k->sum[node]) {
        const int b = g->values[g->nodes[node].in[1]].rank, y = g->nodes[node].out[0];
        int bias = -1, summand = -1;
        if (g->nodes[node].num_in > b && g->nodes[node].in[b] >= 0) {
            am_attrs share = {.scale = 1.0 / (double)k->parts};
            g->params[g->values[g->nodes[node].in[b]].param].uses--;
            AM_TRY(add_node(k, "scale", node, b, g->nodes[node].in[b], &share, &bias, order, n));
            g->nodes[node].in[b] = bias;
        }
        AM_TRY(am_graph_value_like(g, "summand", y, g->values[y].dtype, &summand));
        g->values[summand].producer = node;
        g->values[summand].place[AM_MESH_TP] = AM_PLACE_PARTIAL;
        order[(*n)++] = node;
        g->nodes[node].out[0] = summand;
        int whole = y;
        AM_TRY(add_node(k, "tp_sum", node, 0, summand, NULL, &whole, order, n));
        g->values[y].producer = order[*n - 1];
        goto done;
    }
    if (k->cut[g->values[g->nodes[node].out[0]].root] >= 0) AM_TRY(tell_ranges(k, node));
    order[(*n)++] = node;
done:
    return st;
}

static am_status insert_nodes(am_cutter *k)
{
    am_status st = AM_OK;
    const size_t nodes = k->g->num_nodes, values = k->g->num_values;
    int *order = NULL, *branch_of = NULL;
    size_t n = 0;
    AM_TRY(am_calloc(nodes * 8 + 1, sizeof *order, &order));
    AM_TRY(am_calloc(values + 1, sizeof *branch_of, &branch_of));
    for (size_t v = 0; v < values; v++) branch_of[v] = -1;
    k->g->phase = AM_PHASE_F;
    for (size_t i = 0; i < nodes; i++) AM_TRY(insert_around(k, (int)i, branch_of, order, &n));
    AM_TRY(am_graph_reorder(k->g, order, n));
done:
    am_free(&order);
    am_free(&branch_of);
    return st;
}

am_status am_pass_tensor(am_compile *c)
{
    am_status st = AM_OK;
    am_cutter k = {.c = c, .g = c->g, .parts = c->o->mesh.size[AM_MESH_TP]};
    if (k.parts == 1) goto done;
    k.index = am_mesh_coords(&c->o->mesh, c->o->rank).at[AM_MESH_TP];
    AM_TRY(am_tensor_search(&k));
    AM_TRY(cut_values(&k));
    AM_TRY(insert_nodes(&k));
done:
    am_tensor_release(&k);
    return st;
}

/* ---- after autodiff -------------------------------------------------------------------------------------------------- */

am_status am_pass_tensor_join(am_compile *c)
{
    am_status st = AM_OK;
    am_graph *g = c->g;
    int *order = NULL;
    size_t n = 0;
    const size_t forward = (size_t)c->forward_nodes;
    if (c->o->mesh.size[AM_MESH_TP] == 1) goto done;
    AM_TRY(am_calloc(g->num_nodes + 1, sizeof *order, &order));
    for (size_t i = 0; i < g->num_nodes; i++) {
        const am_node *x = &g->nodes[i];
        if (AM_OP_CUT(x->def->traits) != AM_CUT_BRANCH) {
            order[n++] = (int)i;
            continue;
        }
        const am_value from = g->values[x->in[0]];
        const int branch = x->out[0];
        for (size_t v = 0; v < g->num_values; v++)
            if (g->values[v].root == branch) {
                g->values[v].root = from.root;
                g->values[v].root_offset += from.root_offset;
            }
        if (i < forward) c->forward_nodes--;
    }
    AM_TRY(am_graph_reorder(g, order, n));
done:
    am_free(&order);
    return st;
}

typedef struct am_reducer {
    am_compile *c;
    int        *order;
    size_t      n;
} am_reducer;

/* `from` of every rank of the group, added into `to`. */
static am_status add_up(am_reducer *r, int from, int to, int like, am_when when)
{
    am_status st = AM_OK;
    am_graph *g = r->c->g;
    const int like_in = from;
    const am_node x = g->nodes[like];
    const am_value v = g->values[from];
    const int64_t size = am_value_elements(&v);
    am_dim dims[2] = {am_dim_number(r->c->o->mesh.size[AM_MESH_TP]), am_dim_number(size)};
    int parts, all, outs[AM_MAX_OUT] = {-1, -1, -1, -1}, node;
    AM_TRY(am_graph_value(g, "summands", v.dtype, 2, dims, &parts));
    AM_TRY(am_graph_subvalue(g, v.name, to, 0, 1, &dims[1], &all)); /* all that was planned for, whatever the number of tokens */
    AM_TRY(am_graph_subvalue(g, v.name, from, 0, 1, &dims[1], &from));
    am_graph_at(g, x.layer, x.line, x.column);
    g->phase = x.phase;
    for (int k = 0; k < 2; k++) {
        const char *op = k ? "rank_sum" : "all_gather";
        outs[0] = k ? all : parts;
        AM_TRY(am_graph_emit(g, op, k ? &parts : &from, 1, NULL, AM_ACC_NO, outs, &node));
        g->nodes[node].id = am_hash64(op, strlen(op), x.id);
        g->nodes[node].when = when;
        g->nodes[node].group = k ? 0 : 1u << AM_MESH_TP;
        g->nodes[node].queue = k ? AM_QUEUE_COMPUTE : AM_QUEUE_GATHER;
        r->order[r->n++] = node;
    }
    if (to != like_in) g->values[g->values[to].root].producer = node;
done:
    return st;
}

/* The node that writes a gradient last. */
static int last_writer(const am_graph *g, int grad)
{
    int last = -1;
    for (int n = 0; n < (int)g->num_nodes; n++)
        for (int o = 0; o < g->nodes[n].num_out; o++)
            if (g->nodes[n].out[o] >= 0 && g->values[g->nodes[n].out[o]].root == grad &&
                (last < 0 || g->nodes[n].phase == AM_PHASE_W || g->nodes[last].phase != AM_PHASE_W))
                last = n;
    return last;
}

am_status am_pass_tensor_reduce(am_compile *c)
{
    am_status st = AM_OK;
    am_graph *g = c->g;
    am_reducer r = {.c = c};
    const size_t nodes = g->num_nodes;
    int *grad_behind = NULL; /* by node: parameter + 1 whose gradient is complete there */
    if (c->o->mesh.size[AM_MESH_TP] == 1) goto done;
    AM_TRY(am_calloc(nodes * 2 + 2 * g->num_params + 1, sizeof *r.order, &r.order));
    AM_TRY(am_calloc(nodes * 2, sizeof *grad_behind, &grad_behind));
    const am_when when = am_gradients_persist(c) ? AM_WHEN_LAST : AM_WHEN_ALWAYS;
    for (size_t p = 0; p < g->num_params; p++) {
        int last = g->params[p].summed && c->param_grad[p] >= 0 ? last_writer(g, c->param_grad[p]) : -1;
        if (last < 0) continue;
        AM_CHECK(!grad_behind[last], AM_ERR_INTERNAL, "two gradients of %s are complete at once", g->params[p].name);
        grad_behind[last] = (int)p + 1;
    }
    for (size_t i = 0; i < nodes; i++) {
        const am_node x = g->nodes[i];
        if (AM_OP_CUT(x.def->traits) == AM_CUT_SUM)
            AM_TRY(add_up(&r, x.in[0], x.out[0], (int)i, AM_WHEN_ALWAYS));
        else
            r.order[r.n++] = (int)i;
        if ((int)i + 1 == c->forward_nodes) c->forward_nodes = (int)r.n;
        if (grad_behind[i]) {
            int grad = c->param_grad[grad_behind[i] - 1];
            AM_TRY(add_up(&r, grad, grad, (int)i, when));
        }
    }
    AM_TRY(am_graph_reorder(g, r.order, r.n));
done:
    am_free(&r.order);
    am_free(&grad_behind);
    return st;
}
