/* optimizer.c: the end of a step as operators: sum of squares over this rank's piece of every unit, gathered
 * over the data-parallel ranks and added in rank order, the clipping factor, AdamW on the shard.  Each
 * element is counted once: DDP and FSDP look at the same pieces in the same order, so the norm is the same
 * bits. */
#include "graph/pass.h"

#include <string.h>

/* The last transfers into a gradient are complete here: a segment ends when all its operators are. */

static am_status emit_post(am_graph *g, const char *op, const int *in, int num_in, const am_attrs *attrs,
                           am_acc acc, const int *out, int num_out, uint64_t id, int *node)
{
    am_status st = AM_OK;
    int outs[AM_MAX_OUT] = {-1, -1, -1, -1}, made;
    for (int i = 0; i < num_out; i++) outs[i] = out[i];
    AM_TRY(am_graph_emit(g, op, in, num_in, attrs, acc, outs, &made));
    g->nodes[made].id = am_hash64(op, strlen(op), id);
    if (node) *node = made;
done:
    return st;
}

/* Of the units that are whole in every rank of tp, or of those that are cut: one number a rank of the group, into parts
 * [at, at + members). */
static am_status sums_of_squares(am_compile *c, bool cut, uint32_t group, int parts, int64_t at)
{
    am_status st = AM_OK;
    am_graph *g = c->g;
    const int64_t members = am_mesh_group_size(&c->o->mesh, group);
    am_dim one = am_dim_number(1), many = am_dim_number(members);
    int sum, all, node;
    bool first = true;
    AM_TRY(am_graph_subvalue(g, "sums of squares", parts, at, 1, &many, &all));
    sum = all;
    if (members > 1) AM_TRY(am_graph_value(g, "sum of squares", AM_F64, 1, &one, &sum));
    for (int u = 0; u < c->store.num_units; u++) {
        const am_unit *x = &c->store.unit[u];
        int mine;
        if (!x->trainable || x->cut != cut) continue;
        am_dim piece = am_dim_number(x->shard_elements / c->replicas);
        AM_TRY(am_graph_subvalue(g, "my piece", c->grad_shard[u], piece.local * c->replica_index, 1, &piece,
                                 &mine));
        am_graph_at(g, x->layer, 0, 0);
        AM_TRY(emit_post(g, "sumsq", &mine, 1, NULL, first ? AM_ACC_NO : AM_ACC_ALWAYS, &sum, 1, (uint64_t)u,
                         NULL));
        first = false;
    }
    if (members > 1) {
        AM_TRY(emit_post(g, "all_gather", &sum, 1, NULL, AM_ACC_NO, &all, 1, cut, &node));
        g->nodes[node].queue = AM_QUEUE_REDUCE;
        g->nodes[node].group = group;
    }
done:
    return st;
}

static am_status global_norm(am_compile *c, int scalars)
{
    am_status st = AM_OK;
    am_graph *g = c->g;
    const uint32_t group[2] = {AM_GROUP_DP, AM_GROUP_DP | 1u << AM_MESH_TP};
    int64_t members[2] = {0, 0};
    int parts;
    for (int u = 0; u < c->store.num_units; u++) {
        const am_unit *x = &c->store.unit[u];
        if (x->trainable) members[x->cut] = am_mesh_group_size(&c->o->mesh, group[x->cut]);
    }
    am_dim all = am_dim_number(members[0] + members[1]);
    AM_TRY(am_graph_value(g, "sums of squares", AM_F64, 1, &all, &parts));
    for (int cut = 0; cut < 2; cut++)
        if (members[cut]) AM_TRY(sums_of_squares(c, cut, group[cut], parts, cut ? members[0] : 0));
    AM_TRY(emit_post(g, "clip_coef", (int[]){parts, scalars}, 2, NULL, AM_ACC_NO, &scalars, 1, 0, NULL));
done:
    return st;
}

static am_param_group group_of(const am_compile *c, int param)
{
    for (int i = 0; i < c->o->num_groups; i++)
        if (am_glob_match(c->o->groups[i].pattern, c->g->params[param].name)) return c->o->groups[i];
    return (am_param_group){.lr_mult = 1, .wd_mult = 1};
}

/* One AdamW for every run of entries with the same hyper-parameters, cut to this rank's shard. */
static am_status update_unit(am_compile *c, int unit, int scalars)
{
    am_status st = AM_OK;
    const am_unit *u = &c->store.unit[unit];
    am_graph_at(c->g, u->layer, 0, 0);
    for (int e = 0; e < u->num_entries;) {
        am_param_group group = group_of(c, u->entry[e].param);
        int64_t begin = u->entry[e].offset, end = u->elements;
        int next = e + 1;
        for (; next < u->num_entries; next++) {
            am_param_group other = group_of(c, u->entry[next].param);
            if (other.lr_mult != group.lr_mult || other.wd_mult != group.wd_mult) break;
        }
        if (next < u->num_entries) end = u->entry[next].offset;
        begin = am_max_i64(begin, u->shard_begin);
        end = am_min_i64(end, u->shard_begin + u->shard_elements);
        if (begin < end) {
            am_attrs attrs = {.beta1 = c->o->beta1,
                              .beta2 = c->o->beta2,
                              .eps = c->o->eps,
                              .lr_mult = group.lr_mult,
                              .weight_decay = c->o->weight_decay * group.wd_mult,
                              .offset = begin - u->shard_begin,
                              .count = end - begin};
            int in[5] = {scalars, c->grad_shard[unit], c->master[unit], c->m[unit], c->v[unit]};
            AM_TRY(emit_post(c->g, "adamw", in, 5, &attrs, AM_ACC_NO, in + 2, 3, (uint64_t)(unit * 1024 + e),
                             NULL));
        }
        e = next;
    }
done:
    return st;
}

am_status am_pass_optimizer(am_compile *c)
{
    am_status st = AM_OK;
    int scalars;
    c->g->phase = AM_PHASE_POST;
    AM_TRY(am_graph_scalars(c->g, &scalars));
    AM_TRY(global_norm(c, scalars));
    for (int u = 0; u < c->store.num_units; u++)
        if (c->store.unit[u].trainable) AM_TRY(update_unit(c, u, scalars));
done:
    return st;
}
