/* pieces.c: which element ranges of which parameters a rank holds: the unit's shard cut at the entries' borders. */
#include "ckpt/ckpt_internal.h"

const char *const am_ckpt_role_name[AM_CKPT_ROLES] = {"master", "m", "v"};

static am_status add_entry(const am_program *p, int unit, int entry, int64_t from, int64_t to, am_pieces *out)
{
    am_status st = AM_OK;
    const am_unit *u = &p->store.unit[unit];
    const am_unit_entry *e = &u->entry[entry];
    int64_t begin = am_max_i64(e->offset, from), end = am_min_i64(e->offset + e->count, to);
    for (int role = 0; begin < end && role < (u->trainable ? AM_CKPT_ROLES : 1); role++) {
        AM_TRY(am_grow(&out->at, &out->cap, out->n + 1, sizeof *out->at));
        out->at[out->n++] = (am_piece){.param = e->param, .unit = unit, .role = role, .begin = begin - e->offset, .count = end - begin,
                                       .in_shard = begin - u->shard_begin};
    }
done:
    return st;
}

am_status am_pieces_list(const am_program *p, bool split, am_pieces *out)
{
    am_status st = AM_OK;
    int64_t replicas = split ? am_mesh_group_size(&p->options.mesh, AM_GROUP_DP_REPLICATE) : 1;
    int64_t replica = split ? am_mesh_group_index(&p->options.mesh, AM_GROUP_DP_REPLICATE, p->options.rank) : 0;
    for (int u = 0; u < p->store.num_units; u++) {
        const am_unit *unit = &p->store.unit[u];
        int64_t share = unit->shard_elements / replicas, from = unit->shard_begin + replica * share;
        for (int e = 0; e < unit->num_entries; e++) AM_TRY(add_entry(p, u, e, from, from + share, out));
    }
done:
    return st;
}
