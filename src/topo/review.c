/* review: the placements of all ranks beside one another.  Each node is looked at once and gives a node_view;
 * of each kind of trouble the first node's is kept for the sentence, of the others their number and names. */
#include "topo_internal.h"

#include <stdlib.h>
#include <string.h>

typedef struct node_view {
    const am_topo_record *first;     /* of its lowest rank */
    int ranks, granted, cpus_per_core;
    int least, most;                 /* cores of a rank */
    int used;                        /* cores that some rank uses */
    int clashes, rank_a, rank_b, pu; /* ranks that share a core with a lower one; the first pair, and where */
} node_view;

typedef struct finding {
    int       nodes, ranks;
    node_view first;
    am_str    names; /* of the first few nodes */
} finding;

typedef enum kind { CROWDED, CLASH, UNUSED } kind;

uint64_t am_topo_node_id(const am_topo_allocation *a)
{
    char *boot = NULL;
    size_t n = 0;
    uint64_t id = am_hash64(a->node, strlen(a->node), 0);
    if (a->slurm) return id;
    if (am_file_read("/proc/sys/kernel/random/boot_id", 4096, &boot, &n) != AM_OK) am_error_clear();
    else id = am_hash64(boot, n, id);
    am_free(&boot);
    return id;
}

am_topo_record am_topo_record_of(const am_topo_placement *p, const am_topo_allocation *a)
{
    am_topo_record r = {.node_id = am_topo_node_id(a), .cores = p->cores, .granted = p->granted,
                        .cpus_per_core = p->cpus_per_core, .loose = p->loose || p->used.beyond != 0,
                        .used = p->used};
    snprintf(r.node, sizeof r.node, "%.39s", a->node);
    return r;
}

/* ---- one node ------------------------------------------------------------------------------------- */

/* The lowest of the ranks before number `i` of this node that use hardware thread `pu`. */
static int owner(const am_topo_record *records, const int *order, int i, int pu)
{
    for (int k = 0; k < i; k++)
        if (!records[order[k]].loose && records[order[k]].used.word[pu / 64] >> pu % 64 & 1) return order[k];
    return -1;
}

/* Ranks order[0 .. n), ascending, are those of one node. */
static node_view look(const am_topo_record *records, const int *order, int n)
{
    node_view v = {.first = &records[order[0]], .ranks = n, .least = INT32_MAX, .cpus_per_core = 1};
    am_topo_set all = {0};
    for (int i = 0; i < n; i++) {
        const am_topo_record *r = &records[order[i]];
        v.granted = (int)am_max_i64(v.granted, r->granted);
        v.cpus_per_core = (int)am_max_i64(v.cpus_per_core, r->cpus_per_core);
        v.least = (int)am_min_i64(v.least, r->cores);
        v.most = (int)am_max_i64(v.most, r->cores);
        if (r->loose) {
            v.used += r->cores;
            continue;
        }
        int clash = -1;
        for (int w = AM_TOPO_SET_BITS / 64 - 1; w >= 0; w--) {
            uint64_t both = all.word[w] & r->used.word[w];
            if (both) clash = w * 64 + __builtin_ctzll(both);
            v.used += __builtin_popcountll(r->used.word[w] & ~all.word[w]);
            all.word[w] |= r->used.word[w];
        }
        if (clash < 0) continue;
        if (v.clashes++ > 0) continue;
        v.rank_a = owner(records, order, i, clash);
        v.rank_b = order[i];
        v.pu = clash;
    }
    return v;
}

static bool has(const node_view *v, kind k)
{
    switch (k) {
    case CROWDED: return v->ranks > v->granted;
    case CLASH: return v->ranks <= v->granted && v->clashes > 0;
    case UNUSED: return v->ranks <= v->granted && v->used < v->granted;
    }
    return false;
}

/* ---- sentences ------------------------------------------------------------------------------------ */

/* "; so it is on 5 nodes (n1, n2, n3, …)" */
static am_status tell_nodes(const finding *f, am_str *out)
{
    am_status st = AM_OK;
    if (f->nodes > 1) AM_TRY(am_str_printf(out, "; so it is on %d nodes (%s)", f->nodes, f->names.s));
done:
    return st;
}

static am_status tell_crowded(const finding *f, const am_topo_allocation *a, am_str *out)
{
    am_status st = AM_OK;
    const node_view *v = &f->first;
    AM_TRY(am_str_printf(out, "the %d ranks of node %s share %d core%s%s", v->ranks, v->first->node,
                         v->granted, v->granted == 1 ? "" : "s", a->slurm ? " of this job" : ""));
    AM_TRY(tell_nodes(f, out));
    if (!a->slurm)
        AM_TRY(am_str_printf(out, ": start no more than there are cores, mpirun --map-by ppr:%d:node",
                             v->granted));
    else
        AM_TRY(am_str_printf(
            out, ": ask sbatch for --ntasks-per-node=%d, or for a core each: --cpus-per-task=%d, without %s",
            v->granted, v->cpus_per_core, a->mpirun ? "mpirun's --oversubscribe" : "--overcommit"));
done:
    return st;
}

/* Each rank its even part. */
static am_status tell_apart(const node_view *v, const am_topo_allocation *a, am_str *out)
{
    am_status st = AM_OK;
    const int each = (int)am_max_i64(1, v->granted / v->ranks), cpus = each * v->cpus_per_core;
    if (a->mpirun)
        AM_TRY(am_str_printf(out, ": start them with mpirun --map-by slot:PE=%d --bind-to core", each));
    else
        AM_TRY(am_str_printf(out,
                             ": ask sbatch for --cpus-per-task=%d and start them with srun "
                             "--cpus-per-task=%d --cpu-bind=cores",
                             cpus, cpus));
done:
    return st;
}

static am_status tell_clash(const finding *f, const am_topo_allocation *a, am_str *out)
{
    am_status st = AM_OK;
    const node_view *v = &f->first;
    AM_TRY(am_str_printf(out, "ranks %d and %d of node %s run on the same core (that of hardware thread %d)",
                         v->rank_a, v->rank_b, v->first->node, v->pu));
    if (f->ranks > 1) AM_TRY(am_str_printf(out, ", and %d more ranks share one", f->ranks - 1));
    AM_TRY(tell_nodes(f, out));
    AM_TRY(tell_apart(v, a, out));
done:
    return st;
}

/* More cores for each rank, or more ranks, or (where neither divides the node) both.  The ranks are disjoint
 * and leave cores over, hence fewer than the cores. */
static am_status tell_use(const node_view *v, const am_topo_allocation *a, am_str *out)
{
    am_status st = AM_OK;
    const int each = v->granted / v->ranks, per_core = v->cpus_per_core;
    int ranks = v->granted / v->most, cores = v->most;
    if (each <= v->least && ranks <= v->ranks) {
        for (ranks = v->ranks + 1; ranks < v->granted && v->granted % ranks; ranks++) {}
        cores = v->granted / ranks;
    }
    if (a->mpirun) {
        AM_TRY(am_str_printf(out, ": mpirun "));
        if (each > v->least) AM_TRY(am_str_printf(out, "--map-by slot:PE=%d --bind-to core", each));
        else AM_TRY(am_str_printf(out, "--map-by ppr:%d:node:PE=%d --bind-to core", ranks, cores));
        return st;
    }
    AM_TRY(am_str_printf(out, ": ask sbatch for "));
    if (each > v->least)
        AM_TRY(am_str_printf(out,
                             "--cpus-per-task=%d, and srun as well (which does not take it over: srun "
                             "--cpus-per-task=%d, or SRUN_CPUS_PER_TASK=%d)",
                             each * per_core, each * per_core, each * per_core));
    if (ranks > v->ranks)
        AM_TRY(am_str_printf(out, "%s--ntasks-per-node=%d --cpus-per-task=%d",
                             each > v->least ? ", or for " : "", ranks, cores * per_core));
done:
    return st;
}

static am_status tell_unused(const finding *f, const am_topo_allocation *a, am_str *out)
{
    am_status st = AM_OK;
    const node_view *v = &f->first;
    const int unused = v->granted - v->used;
    AM_TRY(am_str_printf(out, "%d of node %s's %d cores%s %s used by no rank (%d rank%s there)", unused,
                         v->first->node, v->granted, a->slurm ? " of this job" : "",
                         unused == 1 ? "is" : "are", v->ranks, v->ranks == 1 ? "" : "s"));
    AM_TRY(tell_nodes(f, out));
    AM_TRY(v->clashes ? tell_apart(v, a, out) : tell_use(v, a, out));
done:
    return st;
}

/* ---- all nodes ------------------------------------------------------------------------------------ */

static am_status keep(finding *f, const node_view *v, kind k)
{
    am_status st = AM_OK;
    if (f->nodes++ == 0) f->first = *v;
    f->ranks += k == CLASH ? v->clashes : v->ranks;
    if (f->nodes <= 4) AM_TRY(am_str_printf(&f->names, "%s%s", f->nodes > 1 ? ", " : "", v->first->node));
    else if (f->nodes == 5) AM_TRY(am_str_printf(&f->names, ", …"));
done:
    return st;
}

typedef struct place_of { uint64_t node; int rank, leader; } place_of;

static int by_node(const void *x, const void *y)
{
    const place_of *a = x, *b = y;
    if (a->node != b->node) return a->node < b->node ? -1 : 1;
    return a->rank - b->rank;
}

static int by_leader(const void *x, const void *y)
{
    const place_of *a = x, *b = y;
    return a->leader != b->leader ? a->leader - b->leader : a->rank - b->rank;
}

/* The ranks node by node, in the order of each node's lowest rank. */
static am_status sort_ranks(const am_topo_record *records, int n, int **order)
{
    am_status st = AM_OK;
    place_of *p = NULL;
    AM_TRY(am_calloc((size_t)n, sizeof *p, &p));
    AM_TRY(am_calloc((size_t)n, sizeof **order, order));
    for (int r = 0; r < n; r++) p[r] = (place_of){.node = records[r].node_id, .rank = r};
    qsort(p, (size_t)n, sizeof *p, by_node);
    for (int i = 0; i < n; i++)
        p[i].leader = i > 0 && p[i].node == p[i - 1].node ? p[i - 1].leader : p[i].rank;
    qsort(p, (size_t)n, sizeof *p, by_leader);
    for (int i = 0; i < n; i++) (*order)[i] = p[i].rank;
done:
    am_free(&p);
    return st;
}

am_status am_topo_review(const am_topo_record *records, int n, const am_topo_allocation *a, char **out)
{
    am_status st = AM_OK;
    finding found[AM_TOPO_FINDINGS] = {0};
    am_str text[AM_TOPO_FINDINGS] = {0};
    int *order = NULL;
    for (int k = 0; k < AM_TOPO_FINDINGS; k++) out[k] = NULL;
    if (!a->slurm && !a->mpirun) return AM_OK;
    AM_TRY(sort_ranks(records, n, &order));
    for (int i = 0, end; i < n; i = end) {
        for (end = i + 1; end < n && records[order[end]].node_id == records[order[i]].node_id;) end++;
        const node_view v = look(records, order + i, end - i);
        for (int k = 0; k < AM_TOPO_FINDINGS; k++)
            if (has(&v, k)) AM_TRY(keep(&found[k], &v, k));
    }
    if (found[CROWDED].nodes) AM_TRY(tell_crowded(&found[CROWDED], a, &text[CROWDED]));
    if (found[CLASH].nodes) AM_TRY(tell_clash(&found[CLASH], a, &text[CLASH]));
    if (found[UNUSED].nodes) AM_TRY(tell_unused(&found[UNUSED], a, &text[UNUSED]));
    for (int k = 0; k < AM_TOPO_FINDINGS; k++) {
        out[k] = text[k].s;
        text[k] = (am_str){0};
    }
done:
    for (int k = 0; k < AM_TOPO_FINDINGS; k++) {
        am_str_release(&found[k].names);
        am_str_release(&text[k]);
    }
    am_free(&order);
    return st;
}
