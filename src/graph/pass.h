/* pass.h: the passes of compilation, in the order in which compile.c runs them.  Each takes the graph as the one before left it. */
#ifndef AM_PASS_H
#define AM_PASS_H

#include "graph/graph_internal.h"
#include "graph/program.h"

/* What the passes know besides the graph. */
typedef struct am_compile {
    am_graph                 *g;
    const am_program_options *o;
    am_store_layout           store;
    int64_t                   shards, replicas; /* members of the dp_shard and dp_replicate groups */
    int64_t                   shard_index, replica_index;
    /* by unit, filled by units.c and shard.c; value indices or -1 */
    int *master, *m, *v, *grad;  /* grad: the whole unit's gradient while it is formed */
    int *grad_shard;             /* what the optimizer reads: this rank's shard, reduced */
    int *param_grad;             /* by param: value that W nodes write, filled by autodiff */
    int *unit_of, *entry_of;     /* by param */
    int  forward_nodes;          /* the first nodes are the forward pass */
} am_compile;

am_status am_pass_freeze(am_compile *c) AM_WARN_UNUSED;    /* marks parameters that are not trained */
am_status am_pass_reach(am_compile *c) AM_WARN_UNUSED;     /* what no gradient can reach is not trained */
am_status am_pass_head(am_compile *c) AM_WARN_UNUSED;      /* logits → loss, or logits of chosen rows */
am_status am_pass_cache(am_compile *c) AM_WARN_UNUSED;     /* attention reads keys and values from a cache (STATE) */
am_status am_pass_tensor(am_compile *c) AM_WARN_UNUSED;    /* heads and feed-forward layers cut over the ranks of tp */
am_status am_pass_autodiff(am_compile *c) AM_WARN_UNUSED;  /* phases B and W */
am_status am_pass_tensor_join(am_compile *c) AM_WARN_UNUSED; /* what enters a cut is the value itself again */
am_status am_pass_fuse_loss(am_compile *c) AM_WARN_UNUSED; /* linear_ce and its backward: one operator in B, one product less */
am_status am_pass_recompute(am_compile *c) AM_WARN_UNUSED; /* clones of forward nodes in the backward pass */
am_status am_pass_tensor_reduce(am_compile *c) AM_WARN_UNUSED; /* what leaves a cut is added over the ranks of tp */
am_status am_pass_units(am_compile *c) AM_WARN_UNUSED;     /* parameters → units and slots */
am_status am_pass_place(am_compile *c) AM_WARN_UNUSED;     /* replicated, sharded or partial, per mesh dimension */
am_status am_pass_shard(am_compile *c) AM_WARN_UNUSED;     /* gathers, casts, reductions */
am_status am_pass_optimizer(am_compile *c) AM_WARN_UNUSED; /* norm, clip, AdamW: phase POST */
am_status am_pass_lives(am_compile *c) AM_WARN_UNUSED;     /* transient, frame or step: by the segments that touch a value */
am_status am_pass_accumulate(am_compile *c) AM_WARN_UNUSED; /* sums formed by the kernel that makes the last summand */
am_status am_pass_emit(am_compile *c, am_program *p) AM_WARN_UNUSED;   /* nodes → segments of program operators */
am_status am_pass_waits(am_program *p) AM_WARN_UNUSED;     /* cross-queue dependencies → waits */
am_status am_pass_memory(am_compile *c, am_program *p) AM_WARN_UNUSED; /* values → region and offset */
am_status am_pass_schedule(am_program *p) AM_WARN_UNUSED;  /* segments × micro-batches → the step; sums and hashes */

/* Are gradients accumulated whole over the micro-batches and reduced once, at the last? */
static inline bool am_gradients_persist(const am_compile *c)
{
    return c->o->micro_batches > 1 && (c->shards == 1 || c->o->defer_sync);
}

/* Happens-before inside a segment.  clock[op][q]: operators of queue q with a smaller or equal number are complete when op starts
 * (compute queue: in order; communication queues complete only through a wait, and a wait on one covers all before it). */
typedef struct am_order { int num_ops; int *clock; /* num_ops × AM_QUEUE_COUNT */ int *number; /* within its queue, from 1 */ } am_order;
am_status am_order_make(const am_segment *s, am_order *out) AM_WARN_UNUSED;
void      am_order_release(am_order *o);
static inline bool am_order_before(const am_order *o, const am_segment *s, int a, int b)
{
    return o->number[a] <= o->clock[b * AM_QUEUE_COUNT + s->op[a].queue];
}

/* Does the node read (any part of) the value `root` owns memory for? */
static inline bool am_node_reads(const am_graph *g, const am_node *x, int root)
{
    for (int i = 0; i < x->num_in; i++)
        if (x->in[i] >= 0 && g->values[x->in[i]].root == root) return true;
    return false;
}

#endif
