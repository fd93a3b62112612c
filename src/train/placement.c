/* placement.c: which cores each rank gets, agreed upon by all.  topo decides from what it is told; here the
 * ranks tell one another: first who is on which node and how it is bound, then what each took, which rank 0
 * reviews. */
#include "train/engine.h"

#include <string.h>

typedef struct origin { /* of a rank, before it is placed */
    uint64_t    node;
    am_topo_set bound;
} origin;

enum { LINE_BYTES = 1024 }; /* of a rank's line as rank 0 keeps it; longer ones are cut */

static am_status look_around(am_engine *e, origin *mine)
{
    am_status st = AM_OK;
    AM_TRY(am_topo_create(&e->topo));
    AM_TRY(am_topo_allocation_read(&e->allocation));
    mine->node = am_topo_node_id(&e->allocation);
    AM_TRY(am_topo_bound(e->topo, NULL, &mine->bound));
done:
    return st;
}

/* The ranks of this node and their bindings. */
static void pick_local(const am_engine *e, const origin *mine, const origin *all, am_topo_set *bound,
                       am_topo_request *q)
{
    for (int r = 0; r < e->size; r++) {
        if (all[r].node != mine->node) continue;
        q->local_rank += r < e->rank;
        bound[q->local_size++] = all[r].bound;
    }
    q->bound = bound;
    q->allocation = &e->allocation;
}

/* Rank 0 warns of what the placements show side by side. */
static am_status review(const am_engine *e)
{
    am_status st = AM_OK;
    am_topo_record mine = am_topo_record_of(&e->placement, &e->allocation), *all = NULL;
    char *found[AM_TOPO_FINDINGS] = {0};
    AM_TRY(am_calloc((size_t)e->size, sizeof *all, &all));
    AM_TRY(am_comm_allgather(e->comm, &mine, sizeof mine, all));
    if (e->rank > 0) goto done;
    AM_TRY(am_topo_review(all, e->size, &e->allocation, found));
    for (int k = 0; k < AM_TOPO_FINDINGS; k++)
        if (found[k]) am_log(AM_LOG_WARN, "topo", "%s", found[k]);
done:
    for (int k = 0; k < AM_TOPO_FINDINGS; k++) am_free(&found[k]);
    am_free(&all);
    return st;
}

/* All ranks' lines at rank 0, for the run's record. */
static am_status gather_lines(am_engine *e)
{
    am_status st = AM_OK;
    am_str text = {0};
    char line[LINE_BYTES] = "";
    snprintf(line, sizeof line, "rank %d on %s: %s", e->rank, e->allocation.node, e->placement.line);
    if (e->rank > 0) AM_TRY(am_comm_send(e->comm, line, sizeof line, 0));
    for (int r = 0; r < (e->rank > 0 ? 0 : e->size); r++) {
        if (r > 0) AM_TRY(am_comm_recv(e->comm, line, sizeof line, r));
        AM_TRY(am_str_printf(&text, "%s\n", line));
    }
    e->placements = text.s;
    text = (am_str){0};
done:
    am_str_release(&text);
    return st;
}

am_status am_engine_place(am_engine *e, int threads, bool quiet)
{
    am_status st = AM_OK;
    origin mine = {0}, *all = NULL;
    am_topo_set *bound = NULL;
    am_topo_request request = {.threads = threads};
    AM_TRY(am_engine_together(e, look_around(e, &mine)));
    AM_TRY(am_calloc((size_t)e->size, sizeof *all, &all));
    AM_TRY(am_calloc((size_t)e->size, sizeof *bound, &bound));
    AM_TRY(am_comm_allgather(e->comm, &mine, sizeof mine, all));
    pick_local(e, &mine, all, bound, &request);
    AM_TRY(am_engine_together(e, am_topo_place(e->topo, &request, &e->placement)));
    e->threads = e->placement.threads;
    if (!quiet) am_topo_print(&e->placement, e->allocation.node, e->rank, stderr);
    AM_TRY(review(e));
    AM_TRY(gather_lines(e));
done:
    am_free(&bound);
    am_free(&all);
    return st;
}
