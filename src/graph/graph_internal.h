/* graph_internal: the insides of am_graph, for the files of src/graph only. */
#ifndef AM_GRAPH_INTERNAL_H
#define AM_GRAPH_INTERNAL_H

#include "graph/graph.h"

#include <string.h>

typedef struct am_arena_block {
    struct am_arena_block *next;
    size_t used, size;
    char bytes[];
} am_arena_block;

typedef struct am_constant {
    int     value;
    double *data;
    int64_t n;
} am_constant;

struct am_graph {
    int64_t rows, seq_len;
    am_dtype compute; /* dtype of activations */
    am_dtype precise; /* f32; f64 when compute is f64: statistics, gradients of parameters, scalars' companions */
    am_value *values;
    size_t num_values, cap_values;
    am_node *nodes;
    size_t num_nodes, cap_nodes;
    am_param *params;
    size_t num_params, cap_params;
    int *param_value; /* by param: the value nodes read */
    size_t cap_param_value;
    am_constant *constants;
    size_t num_constants, cap_constants;
    am_op_def const **own_ops;
    size_t num_own_ops, cap_own_ops;
    int num_layers, logits, scalars;
    int layer, line, column; /* current place */
    am_phase phase;          /* tag of new nodes */
    uint64_t next_id;
    am_arena_block *arena;
};

/* The same dimension of the model, whatever of it is here. */
static inline bool am_dim_same(const am_dim *a, const am_dim *b)
{
    return strcmp(a->name, b->name) == 0 && a->global == b->global;
}

/** Insert room: move nodes so that `order[i]` (old index) becomes node i; producers are renumbered. */
am_status am_graph_reorder(am_graph *g, const int *order, size_t n) AM_WARN_UNUSED;
/** Append a node with given operands and phase, running its infer; returns its index. */
am_status am_graph_emit(am_graph *g, const char *op, const int *in, int num_in, const am_attrs *attrs, am_acc acc, int *out,
                        int *node) AM_WARN_UNUSED;
/** The value of scalars f64[AM_SCALAR_COUNT]. */
am_status am_graph_scalars(am_graph *g, int *out) AM_WARN_UNUSED;
/** Value whose memory is `root` from element `offset` on. */
am_status am_graph_subvalue(am_graph *g, const char *name, int root, int64_t offset, int rank, const am_dim *dims, int *out)
    AM_WARN_UNUSED;
/** New value with the dims of `like`. */
am_status am_graph_value_like(am_graph *g, const char *name, int like, am_dtype dtype, int *out) AM_WARN_UNUSED;

/* passes, in the order they run; each file says what it needs and what it leaves */
am_status am_pass_fuse(am_graph *g) AM_WARN_UNUSED;

#endif
