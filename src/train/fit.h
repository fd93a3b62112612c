/* fit: whether the ranks of a job fit into the memory of their nodes, and if not, which settings would.
 * Asked by a dry run of the allocation that it is told or that it finds itself in, and by a run of its node. */
#ifndef AM_FIT_H
#define AM_FIT_H

#include "graph/model.h"
#include "train/settings.h"
#include "topo/topo.h"

enum { AM_PREFETCH_DEPTH = 4 }; /* micro-batches that the data thread may be ahead */

typedef struct am_fit_room {
    int64_t ranks_per_node;
    int64_t bytes;       /* that the ranks of a node may take together; 0 = not known, everything fits */
    char    source[320]; /* who says so: "--mem of Slurm job 7" */
} am_fit_room;

/** What this machine and batch job allow: free memory, limits of cgroups, Slurm's --mem. */
am_status am_fit_room_here(const am_topo_allocation *a, int64_t ranks_per_node, am_fit_room *out) AM_WARN_UNUSED;

/** Host memory of one rank, bytes: programs, checkpoint staging, prefetched rows, and what the process itself takes. */
int64_t am_fit_rank_bytes(const am_settings *s, am_program *const *programs, int n);

/** @param rank, threads, validates  as the programs were compiled with (am_train_compile).
 *  @return AM_ERR_PLAN naming need, room, regions, and the settings or allocations that would fit: each was compiled, none is guessed. */
am_status am_fit_check(const am_settings *s, const am_model *m, int threads, bool validates, const am_fit_room *room,
                       am_program *const *programs, int n) AM_WARN_UNUSED;

#endif
