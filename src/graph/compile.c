/* compile.c: the passes in their order, then the schedule: read am_program_compile first. */
#include "graph/pass.h"

#include <string.h>

const char *am_region_name(am_region_id r)
{
    static const char *const names[] = {
#define X(e, name) name,
        AM_REGION_LIST(X)
#undef X
    };
    return r < AM_REGION_COUNT ? names[r] : "none";
}

am_program_options am_program_defaults(am_program_kind kind)
{
    am_program_options o = {.kind = kind,
                            .threads = 1,
                            .micro_batches = 1,
                            .overlap = true,
                            .reshard = true,
                            .defer_sync = true,
                            .fuse = true,
                            .beta1 = 0.9,
                            .beta2 = 0.999,
                            .eps = 1e-8,
                            .weight_decay = 0.01,
                            .logit_rows = 1};
    for (int d = 0; d < AM_MESH_DIM_COUNT; d++) o.mesh.size[d] = 1;
    return o;
}

static am_status check_options(const am_program_options *o)
{
    am_status st = AM_OK;
    static const am_mesh_dim later[] = {AM_MESH_CP, AM_MESH_EP, AM_MESH_PP};
    for (size_t i = 0; i < sizeof later / sizeof *later; i++)
        AM_CHECK(o->mesh.size[later[i]] == 1, AM_ERR_CONFIG,
                 "distributed.%s_size = %" PRId64 ": this version offers data and tensor parallelism; set it to 1",
                 am_mesh_dim_name(later[i]), o->mesh.size[later[i]]);
    AM_CHECK(o->micro_batches >= 1 && o->threads >= 1, AM_ERR_CONFIG,
             "micro-batches and threads must be at least 1");
    AM_CHECK(o->kind != AM_PROGRAM_GENERATE || o->cache_tokens > 0, AM_ERR_CONFIG,
             "generation needs a cache of at least one token");
done:
    return st;
}

static am_status run_passes(am_compile *c, am_program *p)
{
    am_status st = AM_OK;
    const am_program_options *o = c->o;
    bool backward = o->kind == AM_PROGRAM_TRAIN || o->kind == AM_PROGRAM_VERIFY;
    AM_TRY(am_calloc(c->g->num_params + 1, sizeof *c->param_grad, &c->param_grad));
    for (size_t i = 0; i < c->g->num_params; i++) c->param_grad[i] = -1;
    AM_TRY(am_pass_freeze(c));
    AM_TRY(am_pass_reach(c));
    if (o->fuse) AM_TRY(am_pass_fuse(c->g));
    AM_TRY(am_pass_head(c));
    if (o->kind == AM_PROGRAM_GENERATE) AM_TRY(am_pass_cache(c));
    AM_TRY(am_pass_tensor(c));
    c->forward_nodes = (int)c->g->num_nodes;
    if (backward) AM_TRY(am_pass_autodiff(c));
    AM_TRY(am_pass_tensor_join(c));
    if (backward && o->recompute) AM_TRY(am_pass_recompute(c));
    if (backward && o->fuse) AM_TRY(am_pass_fuse_loss(c));
    AM_TRY(am_pass_tensor_reduce(c));
    AM_TRY(am_pass_place(c));
    AM_TRY(am_pass_units(c));
    AM_TRY(am_pass_shard(c));
    if (o->kind == AM_PROGRAM_TRAIN) AM_TRY(am_pass_optimizer(c));
    if (backward && o->fuse) AM_TRY(am_pass_accumulate(c));
    AM_TRY(am_pass_lives(c));
    AM_TRY(am_pass_emit(c, p));
    AM_TRY(am_pass_waits(p));
    AM_TRY(am_pass_memory(c, p));
    AM_TRY(am_pass_schedule(p));
    if (am_debug_enabled("program")) AM_TRY(am_program_check(p));
done:
    return st;
}

static void place_tensor(am_program *p, int value, am_prog_tensor *t)
{
    const am_value *v = &p->graph->values[value], *root = &p->graph->values[v->root];
    *t = (am_prog_tensor){.shape = {.dtype = v->dtype, .rank = v->rank}, .value = value};
    for (int i = 0; i < v->rank; i++) t->shape.dim[i] = v->dim[i].local;
    t->bounded = v->rank > 0 && v->dim[0].role == AM_ROLE_TOKENS;
    t->region = root->life == AM_LIFE_FRAME   ? AM_REGION_FRAME
                : root->life == AM_LIFE_STATE ? AM_REGION_STATE
                                              : AM_REGION_STEP;
    t->offset = root->offset + v->root_offset * (int64_t)am_dtype_bytes(v->dtype);
}

/* What the host reads and writes by name. */
static am_status bind_names(am_compile *c, am_program *p)
{
    am_status st = AM_OK;
    am_graph *g = p->graph;
    AM_TRY(am_calloc(g->num_values + 1, sizeof *p->input, &p->input));
    for (size_t v = 0; v < g->num_values; v++)
        if (g->values[v].life == AM_LIFE_FRAME && g->values[v].producer < 0 && g->values[v].dtype == AM_I32 &&
            g->values[v].root == (int)v) {
            am_binding *b = &p->input[p->num_inputs++];
            b->name = g->values[v].name;
            place_tensor(p, (int)v, &b->tensor);
        }
    p->logits.region = AM_REGION_COUNT;
    if (g->logits >= 0) place_tensor(p, g->logits, &p->logits);
    AM_TRY(am_calloc((size_t)c->store.num_units + 1, sizeof *p->unit_grad, &p->unit_grad));
    for (int u = 0; u < c->store.num_units; u++) {
        p->unit_grad[u].region = AM_REGION_COUNT;
        if (p->options.kind == AM_PROGRAM_VERIFY && c->grad_shard[u] >= 0)
            place_tensor(p, c->grad_shard[u], &p->unit_grad[u]);
    }
done:
    return st;
}

static void release_compile(am_compile *c)
{
    int **arrays[] = {&c->master,     &c->m,          &c->v,       &c->grad,
                      &c->grad_shard, &c->param_grad, &c->unit_of, &c->entry_of};
    for (size_t i = 0; i < sizeof arrays / sizeof *arrays; i++) am_free(arrays[i]);
}

am_status am_program_compile(am_graph **g, const am_program_options *options, am_program **out)
{
    am_status st = AM_OK;
    am_program *p = NULL;
    am_compile c = {0};
    AM_TRY(am_calloc(1, sizeof *p, &p));
    p->graph = *g;
    *g = NULL;
    p->options = *options;
    AM_TRY(check_options(options));
    p->tokens = p->graph->rows * p->graph->seq_len;
    c.g = p->graph;
    c.o = &p->options;
    c.shards = am_mesh_group_size(&options->mesh, AM_GROUP_DP_SHARD);
    c.replicas = am_mesh_group_size(&options->mesh, AM_GROUP_DP_REPLICATE);
    c.shard_index = am_mesh_group_index(&options->mesh, AM_GROUP_DP_SHARD, options->rank);
    c.replica_index = am_mesh_group_index(&options->mesh, AM_GROUP_DP_REPLICATE, options->rank);
    st = run_passes(&c, p);
    p->store = c.store;
    AM_TRY(st);
    AM_TRY(bind_names(&c, p));
    *out = p;
    p = NULL;
done:
    release_compile(&c);
    am_program_free(&p);
    return st;
}

void am_program_free(am_program **pp)
{
    if (!pp || !*pp) return;
    am_program *p = *pp;
    for (int k = 0; k < p->num_segments; k++) {
        for (int i = 0; i < p->segment[k].num_ops; i++) am_free(&p->segment[k].op[i].wait);
        am_free(&p->segment[k].op);
    }
    for (int u = 0; u < p->store.num_units; u++) am_free(&p->store.unit[u].entry);
    am_free(&p->store.unit);
    am_free(&p->segment);
    am_free(&p->schedule);
    am_free(&p->input);
    am_free(&p->unit_grad);
    am_graph_free(&p->graph);
    am_free(pp);
}

const am_binding *am_program_input(const am_program *p, const char *name)
{
    for (int i = 0; i < p->num_inputs; i++)
        if (strcmp(p->input[i].name, name) == 0) return &p->input[i];
    return NULL;
}

void am_program_locate(const am_program *p, int param, int *unit, int64_t *offset)
{
    *unit = -1;
    for (int u = 0; u < p->store.num_units; u++)
        for (int e = 0; e < p->store.unit[u].num_entries; e++)
            if (p->store.unit[u].entry[e].param == param) {
                *unit = u;
                *offset = p->store.unit[u].entry[e].offset;
            }
}
