/* units.c: parameters → units → slots of the store.  A unit is one flat buffer of the parameters of one key
 * (layer, trainable, of experts, cut over tp); what is sharded, gathered and reduced is always a whole unit.  The layout depends on
 * parameters and mesh alone, not on the kind of program, so that every program of a set reads the same slots.
 */
#include "graph/pass.h"

#include <string.h>

enum { AM_UNIT_ALIGN = 256 }; /* elements: entries and cuts */

/* Most of a layer's elements, and wanted last: a unit of their own, so that what stands before them need not wait. */
static bool of_experts(const am_param *p)
{
    const am_layout *l = p->layout[0];
    return l && l->kind == AM_LAYOUT_DIM && l->dim.role == AM_ROLE_EXPERTS && p->rank == 3;
}

static am_status find_unit(am_compile *c, const am_param *p, size_t *cap, am_unit **out)
{
    am_status st = AM_OK;
    am_store_layout *s = &c->store;
    for (int u = 0; u < s->num_units; u++)
        if (s->unit[u].layer == p->layer && s->unit[u].trainable == p->trainable && s->unit[u].experts == of_experts(p) &&
            s->unit[u].cut == (p->cut_of > 0)) {
            *out = &s->unit[u];
            goto done;
        }
    AM_TRY(am_grow(&s->unit, cap, (size_t)s->num_units + 1, sizeof *s->unit));
    *out = &s->unit[s->num_units++];
    memset(*out, 0, sizeof **out);
    (*out)->layer = p->layer;
    (*out)->trainable = p->trainable;
    (*out)->experts = of_experts(p);
    (*out)->cut = p->cut_of > 0;
    (*out)->store_m = (*out)->store_v = -1;
    AM_TRY(am_calloc(c->g->num_params, sizeof *(*out)->entry, &(*out)->entry));
done:
    return st;
}

static am_status add_entry(am_compile *c, int param, size_t *cap)
{
    am_status st = AM_OK;
    am_unit *u = NULL;
    const am_param *p = &c->g->params[param];
    AM_TRY(find_unit(c, p, cap, &u));
    int64_t n = am_param_elements(p);
    c->unit_of[param] = (int)(u - c->store.unit);
    c->entry_of[param] = u->num_entries;
    u->entry[u->num_entries++] = (am_unit_entry){.param = param, .offset = u->elements, .count = n};
    AM_CHECK(am_add_i64(u->elements, am_round_up(n, AM_UNIT_ALIGN), &u->elements), AM_ERR_MODEL,
             "parameter %s is too large", p->name);
done:
    return st;
}

static am_status slot_value(am_compile *c, const am_unit *u, const char *role, int64_t *offset, int *value)
{
    am_status st = AM_OK;
    char name[48];
    am_dim dim = am_dim_number(u->shard_elements);
    snprintf(name, sizeof name, "%s layer %d%s%s", role, u->layer, u->experts ? " experts" : "",
             u->trainable ? "" : " frozen");
    AM_TRY(am_graph_value(c->g, name, c->g->precise, 1, &dim, value));
    am_value *v = &c->g->values[*value];
    v->life = AM_LIFE_STORE;
    v->region = AM_REGION_STORE;
    v->offset = *offset = c->store.bytes;
    c->store.bytes += u->shard_elements * (int64_t)am_dtype_bytes(c->g->precise);
done:
    return st;
}

am_status am_pass_units(am_compile *c)
{
    am_status st = AM_OK;
    size_t cap = 0, np = c->g->num_params;
    int64_t ranks = c->shards * c->replicas;
    AM_TRY(am_calloc(np, sizeof *c->unit_of, &c->unit_of));
    AM_TRY(am_calloc(np, sizeof *c->entry_of, &c->entry_of));
    for (size_t p = 0; p < np; p++) AM_TRY(add_entry(c, (int)p, &cap));
    size_t nu = (size_t)c->store.num_units;
    AM_TRY(am_calloc(nu, sizeof *c->master, &c->master));
    AM_TRY(am_calloc(nu, sizeof *c->m, &c->m));
    AM_TRY(am_calloc(nu, sizeof *c->v, &c->v));
    c->store.dtype = c->g->precise;
    for (size_t i = 0; i < nu; i++) {
        am_unit *u = &c->store.unit[i];
        u->elements = am_round_up(u->elements, AM_UNIT_ALIGN * ranks);
        u->shard_elements = u->elements / c->shards;
        u->shard_begin = u->shard_elements * c->shard_index;
        AM_TRY(slot_value(c, u, "master", &u->store_master, &c->master[i]));
    }
    c->store.moments = c->store.bytes;
    for (size_t i = 0; i < nu; i++) {
        am_unit *u = &c->store.unit[i];
        c->m[i] = c->v[i] = -1;
        if (!u->trainable) continue;
        AM_TRY(slot_value(c, u, "m", &u->store_m, &c->m[i]));
        AM_TRY(slot_value(c, u, "v", &u->store_v, &c->v[i]));
    }
done:
    return st;
}
