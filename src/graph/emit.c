/* emit.c: nodes → segments of program operators, and how long values live.  After this pass the executor
 * needs no graph: an operator's operands are {region, offset} (offsets are filled by memory.c). */
#include "graph/pass.h"

#include <string.h>

static const am_phase segment_phase[] = {AM_PHASE_PRE, AM_PHASE_F, AM_PHASE_B, AM_PHASE_W, AM_PHASE_POST};
enum { NUM_PHASES = sizeof segment_phase / sizeof *segment_phase };

static am_phase phase_of(const am_compile *c, const am_node *x)
{
    return x->phase == AM_PHASE_W && !c->o->split_w ? AM_PHASE_B : x->phase;
}

/* A value touched in one segment is transient; in several of one micro-batch, it lives in the frame; in
 * others too, for the step. */
am_status am_pass_lives(am_compile *c)
{
    am_status st = AM_OK;
    am_graph *g = c->g;
    unsigned *touched = NULL;
    const unsigned micro = 1u << AM_PHASE_F | 1u << AM_PHASE_B | 1u << AM_PHASE_W;
    AM_TRY(am_calloc(g->num_values + 1, sizeof *touched, &touched));
    for (size_t n = 0; n < g->num_nodes; n++) {
        const am_node *x = &g->nodes[n];
        unsigned bit = 1u << phase_of(c, x);
        for (int i = 0; i < x->num_in; i++)
            if (x->in[i] >= 0) touched[g->values[x->in[i]].root] |= bit;
        for (int i = 0; i < x->num_out; i++)
            if (x->out[i] >= 0) touched[g->values[x->out[i]].root] |= bit;
    }
    if (g->logits >= 0) touched[g->values[g->logits].root] |= micro; /* the host reads it after the segment */
    if (c->o->kind == AM_PROGRAM_VERIFY)
        for (int u = 0; u < c->store.num_units; u++)
            if (c->grad_shard[u] >= 0) touched[g->values[c->grad_shard[u]].root] |= ~0u;
    for (size_t v = 0; v < g->num_values; v++) {
        am_value *x = &g->values[v];
        if (x->root != (int)v || x->life != AM_LIFE_TRANSIENT) continue;
        unsigned t = touched[v];
        if ((t & (t - 1)) == 0)
            x->life = AM_LIFE_TRANSIENT;
        else
            x->life = (t & ~micro) == 0 ? AM_LIFE_FRAME : AM_LIFE_STEP;
    }
    for (size_t v = 0; v < g->num_values; v++) g->values[v].life = g->values[g->values[v].root].life;
done:
    am_free(&touched);
    return st;
}

/* The shape in which a kernel sees a value. */
static am_tensor kernel_shape(const am_value *v, am_view view)
{
    am_tensor t = {.dtype = v->dtype, .rank = v->rank};
    int64_t all = am_value_elements(v), last = v->rank ? v->dim[v->rank - 1].local : 1,
            first = v->rank ? v->dim[0].local : 1;
    for (int i = 0; i < v->rank; i++) t.dim[i] = v->dim[i].local;
    if (view == AM_VIEW_FLAT) {
        t.rank = 1;
        t.dim[0] = all;
    } else if (view == AM_VIEW_ROWS || view == AM_VIEW_LAST) {
        t.rank = 2;
        t.dim[0] = view == AM_VIEW_ROWS ? first : all / (last ? last : 1);
        t.dim[1] = view == AM_VIEW_ROWS ? all / (first ? first : 1) : last;
    }
    return t;
}

static am_prog_tensor operand(const am_graph *g, int value, am_view view)
{
    static const am_region_id region[] = {
        [AM_LIFE_TRANSIENT] = AM_REGION_ARENA, [AM_LIFE_FRAME] = AM_REGION_FRAME,
        [AM_LIFE_STEP] = AM_REGION_STEP,       [AM_LIFE_STORE] = AM_REGION_STORE,
        [AM_LIFE_STATE] = AM_REGION_STATE,     [AM_LIFE_SCALARS] = AM_REGION_SCALARS,
        [AM_LIFE_CONST] = AM_REGION_CONST};
    am_prog_tensor t = {.region = AM_REGION_COUNT, .value = -1};
    if (value < 0) return t;
    const am_value *v = &g->values[value];
    t.shape = kernel_shape(v, view);
    t.region = region[g->values[v->root].life];
    t.bounded = v->rank > 0 && v->dim[0].role == AM_ROLE_TOKENS;
    t.value = value;
    return t;
}

static int64_t tensor_bytes(const am_prog_tensor *t)
{
    return t->region == AM_REGION_COUNT
               ? 0
               : am_tensor_elements(&t->shape) * (int64_t)am_dtype_bytes(t->shape.dtype);
}

static am_status set_workspace(const am_compile *c, am_prog_op *op)
{
    am_status st = AM_OK;
    const am_kernel *k = op->def->own_kernel.name ? &op->def->own_kernel : NULL;
    if (!k && op->def->kernel) {
        k = am_kernels_cpu_find(op->def->kernel);
        AM_CHECK(k, AM_ERR_INTERNAL, "the backend has no kernel %s", op->def->kernel);
    }
    if (!k || !k->workspace) goto done;
    am_kernel_call call = {
        .attrs = &op->attrs, .num_in = op->num_in, .num_out = op->num_out, .threads = c->o->threads};
    for (int i = 0; i < op->num_in; i++) call.in[i] = op->in[i].shape;
    for (int i = 0; i < op->num_out; i++) call.out[i] = op->out[i].shape;
    op->workspace_bytes = k->workspace(&call);
done:
    return st;
}

/* What an operator has to read and write: its operands once; of a table by token id a row for each token, and the gradient of such a
 * table is read, too, and all of it zeroed before where nothing stands in it. */
static int64_t op_bytes(const am_prog_op *op)
{
    int64_t bytes = 0;
    for (int i = 0; i < op->num_in; i++) bytes += tensor_bytes(&op->in[i]);
    for (int i = 0; i < op->num_out; i++) bytes += tensor_bytes(&op->out[i]);
    if (!(op->def->traits & AM_OP_ROWS_BY_ID)) return bytes;
    bool gradient = strcmp(op->def->name, "embed") != 0;
    const am_prog_tensor *table = gradient ? &op->out[0] : &op->in[1], *rows = gradient ? &op->in[0] : &op->out[0];
    int64_t touched = am_tensor_elements(&rows->shape) * (int64_t)am_dtype_bytes(table->shape.dtype);
    bytes += touched * (gradient ? 2 : 1);
    return gradient && op->acc == AM_ACC_NO ? bytes : bytes - tensor_bytes(table);
}

static am_status emit_op(am_compile *c, const am_node *x, am_segment *s)
{
    am_status st = AM_OK;
    am_prog_op *op = &s->op[s->num_ops++];
    *op = (am_prog_op){.def = x->def,
                       .attrs = x->attrs,
                       .num_in = x->num_in,
                       .num_out = x->num_out,
                       .queue = x->queue,
                       .acc = x->acc,
                       .when = x->when,
                       .phase = x->phase,
                       .layer = x->layer,
                       .id = x->id,
                       .group = x->group,
                       .slot = -1};
    snprintf(op->label, sizeof op->label, "%s layer %d", x->def->name, x->layer);
    for (int i = 0; i < x->num_in; i++) op->in[i] = operand(c->g, x->in[i], x->def->view_in[i]);
    for (int i = 0; i < x->num_out; i++) op->out[i] = operand(c->g, x->out[i], x->def->view_out[i]);
    op->bytes = op_bytes(op);
    if (x->def->flops) op->flops = x->def->flops(c->g, x);
    if (x->group) {
        int64_t parts =
            strcmp(x->def->name, "all_gather") == 0 ? 1 : am_mesh_group_size(&c->o->mesh, x->group);
        op->piece_bytes = tensor_bytes(&op->in[0]) / parts;
        op->slot = s->num_comm++;
    }
    AM_TRY(set_workspace(c, op));
done:
    return st;
}

am_status am_pass_emit(am_compile *c, am_program *p)
{
    am_status st = AM_OK;
    am_graph *g = c->g;
    AM_TRY(am_calloc(NUM_PHASES, sizeof *p->segment, &p->segment));
    for (int k = 0; k < NUM_PHASES; k++) {
        int count = 0;
        for (size_t n = 0; n < g->num_nodes; n++) count += phase_of(c, &g->nodes[n]) == segment_phase[k];
        if (!count) continue;
        am_segment *s = &p->segment[p->num_segments++];
        s->phase = segment_phase[k];
        AM_TRY(am_calloc((size_t)count, sizeof *s->op, &s->op));
        for (size_t n = 0; n < g->num_nodes; n++)
            if (phase_of(c, &g->nodes[n]) == segment_phase[k]) AM_TRY(emit_op(c, &g->nodes[n], s));
    }
done:
    return st;
}
