/* ops.c: the operator table.  One row says everything the passes know of an operator: how kernels see its
 * operands, its outputs' shapes, its gradient and its FLOPs.  The comment of each kernel stands in kernels.h.
 * Rows stand by family in ops_<family>.c; here are the list of families and what their infer functions share. */
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
