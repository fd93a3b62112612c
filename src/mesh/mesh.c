/* The arithmetic behind mesh.h.  A rank is a number in mixed radix whose digits are the coordinates, the
 * dimension tp being the least significant digit; a group keeps some digits fixed and lets the others run.
 * Since the digits of a group keep their order of significance, counting in the group's own radix is counting
 * in order of rank. */
#include "mesh/mesh.h"

static const char *const dim_names[AM_MESH_DIM_COUNT] = {
#define X(e, name) name,
    AM_MESH_DIMS(X)
#undef X
};

const char *am_mesh_dim_name(am_mesh_dim d)
{
    return (unsigned)d < AM_MESH_DIM_COUNT ? dim_names[d] : "?";
}

int64_t am_mesh_ranks(const am_mesh *m)
{
    return am_mesh_group_size(m, AM_GROUP_WORLD);
}

am_status am_mesh_check(const am_mesh *m, int64_t ranks)
{
    am_status st = AM_OK;
    int64_t product = 1;
    for (int d = 0; d < AM_MESH_DIM_COUNT; d++) {
        AM_CHECK(m->size[d] >= 1, AM_ERR_CONFIG,
                 "the mesh has %s = %" PRId64 "; every size must be at least 1", dim_names[d], m->size[d]);
        AM_CHECK(am_mul_i64(product, m->size[d], &product), AM_ERR_CONFIG,
                 "the mesh has more than 2^63 ranks (%s = %" PRId64 ")", dim_names[d], m->size[d]);
    }
    AM_CHECK(product == ranks, AM_ERR_CONFIG,
             "the mesh tp %" PRId64 " x cp %" PRId64 " x ep %" PRId64 " x dp_shard %" PRId64
             " x dp_replicate %" PRId64 " x pp %" PRId64 " needs %" PRId64 " ranks, but %" PRId64
             " are there; change a size or the number of ranks",
             m->size[AM_MESH_TP], m->size[AM_MESH_CP], m->size[AM_MESH_EP], m->size[AM_MESH_DP_SHARD],
             m->size[AM_MESH_DP_REPLICATE], m->size[AM_MESH_PP], product, ranks);
done:
    return st;
}

am_coords am_mesh_coords(const am_mesh *m, int64_t rank)
{
    am_coords c;
    for (int d = 0; d < AM_MESH_DIM_COUNT; d++) {
        c.at[d] = rank % m->size[d];
        rank /= m->size[d];
    }
    return c;
}

int64_t am_mesh_rank(const am_mesh *m, const am_coords *c)
{
    int64_t rank = 0;
    for (int d = AM_MESH_DIM_COUNT - 1; d >= 0; d--) rank = rank * m->size[d] + c->at[d];
    return rank;
}

int64_t am_mesh_group_size(const am_mesh *m, uint32_t dims)
{
    int64_t n = 1;
    for (int d = 0; d < AM_MESH_DIM_COUNT; d++)
        if (dims >> d & 1u) n *= m->size[d];
    return n;
}

int64_t am_mesh_group_index(const am_mesh *m, uint32_t dims, int64_t rank)
{
    am_coords c = am_mesh_coords(m, rank);
    int64_t index = 0;
    for (int d = AM_MESH_DIM_COUNT - 1; d >= 0; d--)
        if (dims >> d & 1u) index = index * m->size[d] + c.at[d];
    return index;
}

int64_t am_mesh_group_member(const am_mesh *m, uint32_t dims, int64_t rank, int64_t index)
{
    am_coords c = am_mesh_coords(m, rank);
    for (int d = 0; d < AM_MESH_DIM_COUNT; d++) {
        if (!(dims >> d & 1u)) continue;
        c.at[d] = index % m->size[d];
        index /= m->size[d];
    }
    return am_mesh_rank(m, &c);
}

/* Whole granules are dealt out, the first `extra` parts get one more; what is left of a granule goes to the
 * last. */
void am_shard_range(int64_t n, int64_t granule, int64_t parts, int64_t index, int64_t *begin, int64_t *end)
{
    int64_t granules = n / granule, each = granules / parts, extra = granules % parts;
    *begin = (index * each + am_min_i64(index, extra)) * granule;
    *end = index == parts - 1 ? n : *begin + (each + (index < extra)) * granule;
}
