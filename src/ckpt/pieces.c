/* pieces.c: which element ranges of which parameters a rank holds: the unit's shard cut at the entries'
 * borders.  Padding lies outside of every entry and so in no piece. */
#include "ckpt/ckpt_internal.h"

#include <stdlib.h>

const char *const am_ckpt_role_name[AM_CKPT_ROLES] = {"master", "m", "v"};

static int num_roles(bool trainable)
{
    return trainable ? AM_CKPT_ROLES : 1;
}

static am_status add_entry(const am_program *p, int unit, int entry, int64_t from, int64_t to, am_pieces *out)
{
    am_status st = AM_OK;
    const am_unit *u = &p->store.unit[unit];
    const am_unit_entry *e = &u->entry[entry];
    int64_t begin = am_max_i64(e->offset, from), end = am_min_i64(e->offset + e->count, to);
    for (int role = 0; begin < end && role < num_roles(u->trainable); role++) {
        AM_TRY(am_grow(&out->at, &out->cap, out->n + 1, sizeof *out->at));
        out->at[out->n++] = (am_piece){.param = e->param,
                                       .unit = unit,
                                       .role = role,
                                       .begin = begin - e->offset,
                                       .count = end - begin,
                                       .in_shard = begin - u->shard_begin};
    }
done:
    return st;
}

am_status am_pieces_list(const am_program *p, bool split, am_pieces *out)
{
    am_status st = AM_OK;
    const am_mesh *mesh = &p->options.mesh;
    int64_t replicas = split ? am_mesh_group_size(mesh, AM_GROUP_DP_REPLICATE) : 1;
    int64_t replica = split ? am_mesh_group_index(mesh, AM_GROUP_DP_REPLICATE, p->options.rank) : 0;
    for (int u = 0; u < p->store.num_units; u++) {
        const am_unit *unit = &p->store.unit[u];
        int64_t begin, end;
        am_shard_range(unit->shard_elements, 1, replicas, replica, &begin, &end);
        for (int e = 0; e < unit->num_entries; e++)
            AM_TRY(add_entry(p, u, e, unit->shard_begin + begin, unit->shard_begin + end, out));
    }
done:
    return st;
}

static int by_place(const void *a, const void *b)
{
    const am_piece *x = a, *y = b;
    if (x->param != y->param) return x->param < y->param ? -1 : 1;
    if (x->role != y->role) return x->role - y->role;
    return (x->begin > y->begin) - (x->begin < y->begin);
}

void am_pieces_sort(am_piece *piece, size_t n)
{
    if (n > 0) qsort(piece, n, sizeof *piece, by_place);
}

am_status am_pieces_check_whole(const am_program *p, const am_piece *piece, size_t n)
{
    am_status st = AM_OK;
    size_t i = 0;
    for (int param = 0; param < am_graph_num_params(p->graph); param++) {
        const am_param *x = am_graph_param_at(p->graph, param);
        for (int role = 0; role < num_roles(x->trainable); role++) {
            int64_t at = 0;
            for (; i < n && piece[i].param == param && piece[i].role == role && piece[i].begin == at; i++)
                at += piece[i].count;
            AM_CHECK(at == am_param_elements(x), AM_ERR_INTERNAL,
                     "%s/%s: the ranks' pieces leave out or repeat element %" PRId64, am_ckpt_role_name[role],
                     x->name, at);
        }
    }
    AM_CHECK(i == n, AM_ERR_INTERNAL, "the ranks wrote %zu pieces that no parameter has", n - i);
done:
    return st;
}
