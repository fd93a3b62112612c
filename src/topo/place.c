/* place: which cores a rank gets.  The launcher's binding is kept when it can be meant: it leaves this rank
 * more than one core (or there is only one for each), and as many such bindings as there are local ranks fit
 * side by side.  Otherwise the allowed cores are cut evenly: mpirun's default (a core a rank up to two ranks,
 * a NUMA node shared by several ranks beyond) and an absent binding both end there. */
#include "topo_internal.h"

#include <string.h>

/* indices into core_sets of the cores that `set` touches; returns their number */
static int cores_in(const am_topo *t, hwloc_const_bitmap_t set, int *out)
{
    int n = 0;
    for (int i = 0; i < t->cores; i++)
        if (hwloc_bitmap_intersects(t->core_sets[i], set)) out[n++] = i;
    return n;
}

/* The launcher's binding within the allowed set. */
static am_status read_bound(const am_topo *t, const char *assume, hwloc_bitmap_t bound)
{
    am_status st = AM_OK;
    if (assume)
        AM_CHECK(hwloc_bitmap_list_sscanf(bound, assume) == 0, AM_ERR_ENVIRONMENT,
                 "\"%s\" is not a list of hardware threads such as 0-3,8", assume);
    else if (!t->this_machine || hwloc_get_cpubind(t->hwloc, bound, HWLOC_CPUBIND_THREAD) != 0)
        hwloc_bitmap_fill(bound); /* synthetic, or a kernel without affinity: not bound */
    hwloc_bitmap_and(bound, bound, hwloc_topology_get_allowed_cpuset(t->hwloc));
    AM_CHECK(!hwloc_bitmap_iszero(bound), AM_ERR_ENVIRONMENT,
             "the binding %s has none of the hardware threads this process may use",
             assume ? assume : "of this process");
done:
    return st;
}

/* Local rank r's even part of all cores; with more ranks than cores, one core that others have as well. */
static int even_part(const am_topo *t, const am_topo_request *q, int *out)
{
    if (q->local_size > t->cores) {
        out[0] = (int)((int64_t)q->local_rank * t->cores / q->local_size);
        return 1;
    }
    int each = t->cores / q->local_size, extra = t->cores % q->local_size;
    int n = each + (q->local_rank < extra),
        first = q->local_rank * each + (int)am_min_i64(q->local_rank, extra);
    for (int i = 0; i < n; i++) out[i] = first + i;
    return n;
}

/* Keeps the launcher's cores (in list[bound_cores]) or replaces them; returns the number, and why. */
static int choose(const am_topo *t, const am_topo_request *q, int *list, int bound_cores, const char **why,
                  bool *kept)
{
    int fair = (int)am_max_i64(1, t->cores / q->local_size);
    *kept = true;
    if (q->policy != AM_TOPO_AUTO) {
        *why = q->policy == AM_TOPO_KEEP ? "the launcher's binding, kept as asked" : "not bound, as asked";
        return bound_cores;
    }
    *kept = false;
    if (bound_cores == t->cores) {
        *why = q->local_size == 1 ? "all cores this process may use"
                                  : "no binding by the launcher, cores cut evenly among the local ranks";
        return even_part(t, q, list);
    }
    if (bound_cores == 1 && fair > 1) {
        *why = "the launcher had bound this rank to 1 core (mpirun's default), widened to its even part";
        return even_part(t, q, list);
    }
    if ((int64_t)bound_cores * q->local_size > t->cores) {
        *why = "the launcher's bindings of the local ranks overlap, cores cut evenly instead";
        return even_part(t, q, list);
    }
    *kept = true;
    *why = "the launcher's binding";
    return bound_cores;
}

static int choose_threads(const am_topo *t, const am_topo_request *q, int cores, bool *by_quota)
{
    *by_quota = false;
    if (q->threads > 0) return q->threads;
    int threads = (int)am_max_i64(1, cores - q->spare_cores);
    if (t->quota > 0 && t->quota / q->local_size < threads) {
        threads = (int)am_max_i64(1, (int64_t)(t->quota / q->local_size));
        *by_quota = true;
    }
    return threads;
}

/* The hardware thread number `level` of a core among those of the share; -1 when it has fewer. */
static int core_pu(hwloc_const_bitmap_t core, hwloc_const_bitmap_t share, int level)
{
    for (int pu = hwloc_bitmap_first(core); pu >= 0; pu = hwloc_bitmap_next(core, pu))
        if (hwloc_bitmap_isset(share, (unsigned)pu) && level-- == 0) return pu;
    return -1;
}

/* One hardware thread per core first; further threads take the cores' second ones. */
static am_status assign_threads(const am_topo *t, const int *list, int cores, hwloc_const_bitmap_t share,
                                int threads, am_topo_placement *out)
{
    am_status st = AM_OK;
    int placed = 0;
    AM_TRY(am_calloc((size_t)threads, sizeof *out->pu, &out->pu));
    for (int level = 0, found = 1; placed < threads && found; level++) {
        found = 0;
        for (int i = 0; i < cores && placed < threads; i++) {
            int pu = core_pu(t->core_sets[list[i]], share, level);
            if (pu < 0) continue;
            out->pu[placed++] = pu;
            found = 1;
        }
    }
    if (placed < threads) am_free(&out->pu); /* more threads than hardware has: the kernel distributes them */
    out->shared |= threads > cores;
done:
    return st;
}

/* "1,2" of the NUMA nodes that hold the share */
static am_status numa_list(const am_topo *t, hwloc_const_bitmap_t share, am_str *out)
{
    am_status st = AM_OK;
    hwloc_obj_t node = NULL;
    while ((node = hwloc_get_next_obj_by_type(t->hwloc, HWLOC_OBJ_NUMANODE, node)))
        if (hwloc_bitmap_intersects(node->cpuset, share))
            AM_TRY(am_str_printf(out, "%s%u", out->len ? "," : "", node->os_index));
done:
    return st;
}

static am_status write_line(const am_topo *t, const am_topo_request *q, const char *why, bool by_quota,
                            hwloc_const_bitmap_t share, am_topo_placement *p)
{
    am_status st = AM_OK;
    am_str line = {0}, nodes = {0};
    AM_TRY(numa_list(t, share, &nodes));
    AM_TRY(am_str_printf(&line, "%d of %d cores (hardware threads %s, NUMA %s), %d compute thread%s: %s",
                         p->cores, t->cores, p->share, nodes.s ? nodes.s : "none", p->threads,
                         p->threads == 1 ? "" : "s", why));
    if (by_quota)
        AM_TRY(am_str_printf(&line, "; the cgroup's quota of %.1f CPUs limits the threads", t->quota));
    if (q->spare_cores > 0 && q->threads == 0)
        AM_TRY(am_str_printf(&line, "; %d left to service threads", q->spare_cores));
    if (q->local_size > t->cores)
        AM_TRY(am_str_printf(&line, "; %d local ranks on %d cores share them: start fewer ranks",
                             q->local_size, t->cores));
    else if (p->threads > p->cores)
        AM_TRY(am_str_printf(&line, "; more threads than cores: they share them"));
    if (!t->this_machine) AM_TRY(am_str_printf(&line, "; computed for a described machine, not bound"));
    p->line = line.s;
    line = (am_str){0};
done:
    am_str_release(&line);
    am_str_release(&nodes);
    return st;
}

am_status am_topo_place(const am_topo *topo, const am_topo_request *request, am_topo_placement *out)
{
    am_status st = AM_OK;
    am_topo_placement p = {0};
    hwloc_bitmap_t bound = hwloc_bitmap_alloc(), share = hwloc_bitmap_alloc();
    int *list = NULL;
    char *text = NULL;
    const char *why = "";
    bool by_quota, kept;
    AM_CHECK(bound && share, AM_ERR_MEMORY, "no memory for a set of hardware threads");
    AM_CHECK(request->local_size >= 1 && request->local_rank >= 0 &&
                 request->local_rank < request->local_size,
             AM_ERR_CONFIG, "local rank %d of %d", request->local_rank, request->local_size);
    AM_CHECK(request->threads >= 0 && request->spare_cores >= 0, AM_ERR_CONFIG,
             "%d compute threads, %d spare cores: neither may be negative", request->threads,
             request->spare_cores);
    AM_TRY(read_bound(topo, request->assume_bound, bound));
    AM_TRY(am_calloc((size_t)topo->cores, sizeof *list, &list));
    p.launcher_cores = cores_in(topo, bound, list);
    p.cores = choose(topo, request, list, p.launcher_cores, &why, &kept);
    for (int i = 0; i < p.cores; i++) hwloc_bitmap_or(share, share, topo->core_sets[list[i]]);
    p.corrected = !kept && p.launcher_cores < topo->cores;
    if (kept) hwloc_bitmap_and(share, share, bound);
    p.threads = choose_threads(topo, request, p.cores, &by_quota);
    p.shared = request->local_size > topo->cores;
    p.bind = topo->this_machine && request->policy != AM_TOPO_NONE;
    if (request->policy != AM_TOPO_NONE && !p.shared)
        AM_TRY(assign_threads(topo, list, p.cores, share, p.threads, &p));
    AM_CHECK(hwloc_bitmap_list_asprintf(&text, share) >= 0, AM_ERR_MEMORY,
             "no memory for a list of hardware threads");
    AM_TRY(am_strdup(text, &p.share));
    AM_TRY(write_line(topo, request, why, by_quota, share, &p));
    *out = p;
    p = (am_topo_placement){0};
done:
    am_topo_placement_release(&p);
    am_free(&list);
    am_free(&text);
    hwloc_bitmap_free(bound);
    hwloc_bitmap_free(share);
    return st;
}

void am_topo_placement_release(am_topo_placement *p)
{
    am_free(&p->pu);
    am_free(&p->share);
    am_free(&p->line);
    memset(p, 0, sizeof *p);
}
