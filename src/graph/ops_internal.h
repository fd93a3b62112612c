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
/** Infer functions of many rows: output 0 like input 0; every output is given by the caller. */
am_status am_op_infer_like(am_graph *g, am_node *n) AM_WARN_UNUSED;
am_status am_op_infer_given(am_graph *g, am_node *n) AM_WARN_UNUSED;
/** Gradients of a product x, w, bias?: the operators that give those of x and of w; the bias' is bias_db. */
am_status am_op_vjp_product(am_autodiff *ad, const am_node *n, const char *dx_op, const char *dw_op) AM_WARN_UNUSED;
/** The dims of a product's output features: the layout of the weight's axis `axis` where it is a product, else that axis.  @return their number */
int       am_op_output_dims(const am_graph *g, const am_value *w, int axis, am_dim *dims);
/** Elements of a token: the product of all dims but the first. */
int64_t   am_op_features(const am_value *v);

/** Are the dims of `part` among those of `whole`, in their order?  *mask: bit k for dimension k of the whole.  One number
 *  (of rank 1) is within everything, with no bits. */
int       am_op_dims_within(const am_value *whole, const am_value *part, int64_t *mask);

#endif
