/* place.c: where the elements of every value are with respect to each mesh dimension.  One rule for every
 * operator, by the names of dimensions: a dimension that is cut and stands in the output leaves it cut; one
 * that is contracted leaves a partial sum. Tokens are cut over the data-parallel dimensions; parameters are
 * whole here (their storage is cut by shard.c). */
#include "graph/pass.h"

static bool has_tokens(const am_value *v)
{
    for (int i = 0; i < v->rank; i++)
        if (v->dim[i].role == AM_ROLE_TOKENS) return true;
    return false;
}

static void place_outputs(am_graph *g, const am_node *x, int d)
{
    bool cut = false, partial = false;
    for (int i = 0; i < x->num_in; i++) {
        const am_value *v = x->in[i] >= 0 ? &g->values[g->values[x->in[i]].root] : NULL;
        if (!v || v->life == AM_LIFE_SCALARS) continue;
        cut = cut || v->place[d] == AM_PLACE_SHARDED;
        partial = partial || v->place[d] == AM_PLACE_PARTIAL;
    }
    for (int i = 0; i < x->num_out; i++) {
        am_value *v = x->out[i] >= 0 ? &g->values[x->out[i]] : NULL;
        if (!v || v->life == AM_LIFE_SCALARS) continue;
        v->place[d] = cut       ? (has_tokens(v) ? AM_PLACE_SHARDED : AM_PLACE_PARTIAL)
                      : partial ? AM_PLACE_PARTIAL
                                : v->place[d];
        g->values[v->root].place[d] = v->place[d];
    }
}

am_status am_pass_place(am_compile *c)
{
    static const am_mesh_dim data_parallel[] = {AM_MESH_DP_SHARD, AM_MESH_DP_REPLICATE};
    am_graph *g = c->g;
    for (size_t k = 0; k < 2; k++) {
        am_mesh_dim d = data_parallel[k];
        if (c->o->mesh.size[d] <= 1) continue;
        for (size_t v = 0; v < g->num_values; v++)
            if (g->values[v].life == AM_LIFE_FRAME && g->values[v].producer < 0 && has_tokens(&g->values[v]))
                g->values[v].place[d] = AM_PLACE_SHARDED;
        for (size_t n = 0; n < g->num_nodes; n++) place_outputs(g, &g->nodes[n], d);
    }
    return AM_OK;
}
