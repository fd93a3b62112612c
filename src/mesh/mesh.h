/* mesh: the arithmetic of ranks: coordinates, groups, and how a range of elements is cut.  No communicator, no
 * memory: everything here can be asked for 4,096 ranks on a laptop. */
#ifndef AM_MESH_H
#define AM_MESH_H

#include "base/base.h"

/* Dimensions, leftmost = nearest neighbours: rank = tp + TP·(cp + CP·(ep + EP·(dp_shard + DS·(dp_replicate + DR·pp)))) */
#define AM_MESH_DIMS(X) X(TP, "tp") X(CP, "cp") X(EP, "ep") X(DP_SHARD, "dp_shard") X(DP_REPLICATE, "dp_replicate") X(PP, "pp")
typedef enum am_mesh_dim {
#define X(e, name) AM_MESH_##e,
    AM_MESH_DIMS(X)
#undef X
    AM_MESH_DIM_COUNT
} am_mesh_dim;

typedef struct am_mesh { int64_t size[AM_MESH_DIM_COUNT]; } am_mesh; /* every size >= 1 */
typedef struct am_coords { int64_t at[AM_MESH_DIM_COUNT]; } am_coords;

/* Which ranks act together: those that differ from me only in the dimensions of the bit set `dims`. */
#define AM_GROUP_DP_SHARD (1u << AM_MESH_DP_SHARD)
#define AM_GROUP_DP_REPLICATE (1u << AM_MESH_DP_REPLICATE)
#define AM_GROUP_DP (AM_GROUP_DP_SHARD | AM_GROUP_DP_REPLICATE)
#define AM_GROUP_WORLD ((1u << AM_MESH_DIM_COUNT) - 1u)

const char *am_mesh_dim_name(am_mesh_dim d);
int64_t     am_mesh_ranks(const am_mesh *m);
/** @return AM_ERR_CONFIG when the product of the sizes is not `ranks` (the sentence names the sizes). */
am_status   am_mesh_check(const am_mesh *m, int64_t ranks) AM_WARN_UNUSED;
am_coords   am_mesh_coords(const am_mesh *m, int64_t rank);
int64_t     am_mesh_rank(const am_mesh *m, const am_coords *c);
int64_t     am_mesh_group_size(const am_mesh *m, uint32_t dims);
/** My index among the group's members; members are ordered by rank. */
int64_t     am_mesh_group_index(const am_mesh *m, uint32_t dims, int64_t rank);
/** World rank of member `index` of the group that `rank` belongs to. */
int64_t     am_mesh_group_member(const am_mesh *m, uint32_t dims, int64_t rank, int64_t index);

/** Part `index` of `parts` of n elements, cut at multiples of `granule` (the last part takes the odd end); parts
 *  differ by at most one granule, larger parts first; a part may be empty.  Elements [*begin, *end). */
void am_shard_range(int64_t n, int64_t granule, int64_t parts, int64_t index, int64_t *begin, int64_t *end);

#endif
