/* autodiff: what an operator's vjp talks to (op rows outside src/graph may bring their own). */
#ifndef AM_AUTODIFF_H
#define AM_AUTODIFF_H

#include "graph/graph.h"

am_graph *am_ad_graph(am_autodiff *ad);
/** Weight gradients run in a segment of their own: an operator may not give dx and dw in one node. */
bool am_ad_splits(const am_autodiff *ad);
/** Does a gradient have to reach this value?  (Something trainable lies upstream of it.) */
bool am_ad_wants(const am_autodiff *ad, int value);
/** What am_ad_wants() answers from: wanted[root of a value] where something trainable lies upstream among the first
 *  `num_nodes` nodes, which stand in the order of execution. */
void am_ad_mark_wanted(const am_graph *g, int num_nodes, bool *wanted);
/** The gradient of an output of the node at hand, with the dims of `value`; -1 when nothing depends on it. */
am_status am_ad_grad(am_autodiff *ad, int value, int *out) AM_WARN_UNUSED;
/** Emit a node of the backward pass (phase B).  out[i] >= 0 on entry: write there; else a new value is made; `acc` is for the
 *  outputs that the kernel marks (acc). */
am_status am_ad_emit(am_autodiff *ad, const char *op, const int *in, int num_in, const am_attrs *attrs, am_acc acc, int *out,
                     int num_out) AM_WARN_UNUSED;
/** A fresh value with the dims and dtype of `like`, to be given as out. */
am_status am_ad_like(am_autodiff *ad, int like, int *out) AM_WARN_UNUSED;
/** Is it the compute value of a parameter?  Its gradient is formed in phase W, in the precise dtype. */
bool am_ad_is_param(const am_autodiff *ad, int value);
/** `grad` is (a part of) the gradient of `value`; several contributions are added.  Of another float dtype, it is rounded to the
 *  value's; a parameter's is added to as it is. */
am_status am_ad_contribute(am_autodiff *ad, int value, int grad) AM_WARN_UNUSED;
/** Emit a node (phase W) whose output `which` is (added to) the gradient of the parameter that `param_value` stands for; where
 *  that is a computed value, the node makes a gradient in the precise dtype, and it is contributed. */
am_status am_ad_param_grad(am_autodiff *ad, const char *op, const int *in, int num_in, const am_attrs *attrs, int param_value,
                           int which) AM_WARN_UNUSED;
/** The gradient value of that parameter, for nodes with several outputs; *acc says whether to add. */
am_status am_ad_param_value(am_autodiff *ad, int param_value, int *out, am_acc *acc) AM_WARN_UNUSED;

#endif
