/* ops_internal: what the files of operator rows (ops_<family>.c) share. */
#ifndef AM_OPS_INTERNAL_H
#define AM_OPS_INTERNAL_H

#include "graph/autodiff.h"
#include "graph/graph_internal.h"

/* Rows of a family, ended by one without a name. */
extern const am_op_def am_ops_attention[], am_ops_scan[];
extern const am_op_def am_ops_base[], am_ops_moe[];
extern const am_op_def am_ops_delta[];

extern const am_op_def am_ops_light[];

/* Operand i of node n of graph g. */
#define AM_OP_IN(i) (&g->values[n->in[i]])

/** Create output i, or check the one that was given. */
am_status am_op_set_out(am_graph *g, am_node *n, int i, const char *name, am_dtype dtype, int rank, const am_dim *dims)
    AM_WARN_UNUSED;
am_status am_op_want_inputs(const am_node *n, int least, int most) AM_WARN_UNUSED;
/** Elements of a token: the product of all dims but the first. */
int64_t   am_op_features(const am_value *v);

/** Are the dims of `part` among those of `whole`, in their order?  *mask: bit k for dimension k of the whole.  One number
 *  (of rank 1) is within everything, with no bits. */
int       am_op_dims_within(const am_value *whole, const am_value *part, int64_t *mask);

#endif
