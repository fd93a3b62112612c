/* ops.c: the operator table.  One row says everything the passes know of an operator: how kernels see its
 * operands, its outputs' shapes, its gradient and its FLOPs.  The comment of each kernel stands in kernels.h.
 * Rows stand by family in ops_<family>.c; here are the list of families and what their functions share. */
#include "graph/ops_internal.h"

#include <string.h>

static const am_op_def *const families[] = {am_ops_base, am_ops_attention, am_ops_moe, am_ops_scan, am_ops_delta, am_ops_light};

const am_op_def *am_op_find(const char *name)
{
    for (size_t f = 0; f < sizeof families / sizeof *families; f++)
        for (const am_op_def *d = families[f]; d->name; d++)
            if (strcmp(d->name, name) == 0) return d;
    return NULL;
}

/* Create output i, or check the one that was given. */
am_status am_op_set_out(am_graph *g, am_node *n, int i, const char *name, am_dtype dtype, int rank,
                         const am_dim *dims)
{
    am_status st = AM_OK;
    if (n->num_out <= i) n->num_out = i + 1;
    if (n->out[i] < 0) {
        AM_TRY(am_graph_value(g, name, dtype, rank, dims, &n->out[i]));
    } else {
        int64_t want = 1;
        for (int k = 0; k < rank; k++) want *= dims[k].local;
        AM_CHECK(want == am_value_elements(&g->values[n->out[i]]), AM_ERR_SHAPE,
                 "%s: output %s has %" PRId64 " elements, not %" PRId64, n->def->name,
                 g->values[n->out[i]].name, am_value_elements(&g->values[n->out[i]]), want);
    }
done:
    return st;
}

int64_t am_op_features(const am_value *v)
{
    int64_t n = 1;
    for (int i = 1; i < v->rank; i++) n *= v->dim[i].local;
    return n;
}

am_status am_op_want_inputs(const am_node *n, int least, int most)
{
    am_status st = AM_OK;
    AM_CHECK(n->num_in >= least && n->num_in <= most, AM_ERR_CARD, "%s takes %d to %d operands, not %d",
             n->def->name, least, most, n->num_in);
done:
    return st;
}

am_status am_op_infer_like(am_graph *g, am_node *n)
{
    am_value x = *AM_OP_IN(0);
    return am_op_set_out(g, n, 0, n->def->name, x.dtype, x.rank, x.dim);
}

am_status am_op_infer_given(am_graph *g, am_node *n)
{
    am_status st = AM_OK;
    (void)g;
    n->num_out = 0;
    for (int i = 0; i < AM_MAX_OUT; i++)
        if (n->out[i] >= 0) n->num_out = i + 1;
    AM_ASSERT(n->num_out > 0);
done:
    return st;
}

int am_op_output_dims(const am_graph *g, const am_value *w, int axis, am_dim *dims)
{
    const am_layout *l = w->param >= 0 ? g->params[w->param].layout[axis] : NULL;
    if (!l || l->kind != AM_LAYOUT_PRODUCT || l->num_parts > AM_MAX_RANK - 1) {
        dims[0] = w->dim[axis];
        return 1;
    }
    for (int i = 0; i < l->num_parts; i++)
        dims[i] = l->part[i]->kind == AM_LAYOUT_DIM ? l->part[i]->dim : am_dim_number(l->part[i]->size);
    return l->num_parts;
}

am_status am_op_vjp_product(am_autodiff *ad, const am_node *n, const char *dx_op, const char *dw_op)
{
    am_status st = AM_OK;
    int dy, dx;
    AM_TRY(am_ad_grad(ad, n->out[0], &dy));
    if (dy < 0) goto done;
    if (am_ad_wants(ad, n->in[0])) {
        AM_TRY(am_ad_like(ad, n->in[0], &dx));
        AM_TRY(am_ad_emit(ad, dx_op, (int[]){dy, n->in[1]}, 2, NULL, AM_ACC_NO, &dx, 1));
        AM_TRY(am_ad_contribute(ad, n->in[0], dx));
    }
    if (am_ad_wants(ad, n->in[1]))
        AM_TRY(am_ad_param_grad(ad, dw_op, (int[]){dy, n->in[0]}, 2, NULL, n->in[1], 0));
    if (n->num_in > 2 && n->in[2] >= 0 && am_ad_wants(ad, n->in[2]))
        AM_TRY(am_ad_param_grad(ad, "bias_db", (int[]){dy}, 1, NULL, n->in[2], 0));
done:
    return st;
}
