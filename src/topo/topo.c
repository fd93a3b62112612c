/* topo: reading the topology and binding; the decision who gets which cores is in place.c. */
#include "topo_internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* Fills core_sets; a machine without core objects (some virtual ones) counts its hardware threads. */
static am_status list_cores(am_topo *t)
{
    am_status st = AM_OK;
    hwloc_const_bitmap_t allowed = hwloc_topology_get_allowed_cpuset(t->hwloc);
    hwloc_obj_type_t type =
        hwloc_get_nbobjs_by_type(t->hwloc, HWLOC_OBJ_CORE) > 0 ? HWLOC_OBJ_CORE : HWLOC_OBJ_PU;
    int count = hwloc_get_nbobjs_by_type(t->hwloc, type);
    AM_CHECK(count > 0, AM_ERR_ENVIRONMENT, "hwloc sees no core in this topology");
    AM_TRY(am_calloc((size_t)count, sizeof *t->core_sets, &t->core_sets));
    AM_TRY(am_calloc((size_t)count, sizeof *t->core_first, &t->core_first));
    for (int i = 0; i < count; i++) {
        hwloc_obj_t core = hwloc_get_obj_by_type(t->hwloc, type, (unsigned)i);
        if (!hwloc_bitmap_intersects(core->cpuset, allowed)) continue;
        hwloc_bitmap_t set = hwloc_bitmap_alloc();
        AM_CHECK(set, AM_ERR_MEMORY, "no memory for a set of hardware threads");
        hwloc_bitmap_and(set, core->cpuset, allowed);
        t->core_first[t->cores] = hwloc_bitmap_first(core->complete_cpuset);
        t->core_sets[t->cores++] = set;
    }
    AM_CHECK(t->cores > 0, AM_ERR_ENVIRONMENT, "this process is allowed on none of the machine's %d cores",
             count);
    for (int i = 0; i < hwloc_get_nbobjs_by_type(t->hwloc, HWLOC_OBJ_NUMANODE); i++)
        t->numa_nodes += hwloc_bitmap_intersects(
            hwloc_get_obj_by_type(t->hwloc, HWLOC_OBJ_NUMANODE, (unsigned)i)->cpuset, allowed);
done:
    return st;
}

am_status am_topo_create(am_topo **out)
{
    am_status st = AM_OK;
    am_topo *t = NULL;
    const char *synthetic = getenv("HWLOC_SYNTHETIC"), *xml = getenv("HWLOC_XMLFILE");
    AM_TRY(am_calloc(1, sizeof *t, &t));
    AM_CHECK(hwloc_topology_init(&t->hwloc) == 0, AM_ERR_ENVIRONMENT, "hwloc cannot be started: %s",
             strerror(errno));
    AM_CHECK(hwloc_topology_load(t->hwloc) == 0, AM_ERR_ENVIRONMENT,
             "hwloc cannot read the topology (HWLOC_SYNTHETIC=%s, HWLOC_XMLFILE=%s): %s",
             synthetic ? synthetic : "not set", xml ? xml : "not set", strerror(errno));
    t->this_machine = hwloc_topology_is_thissystem(t->hwloc) != 0;
    /* hwloc falls back to this machine, with a note of its own, when a variable holds nonsense */
    AM_CHECK(!t->this_machine || (!(synthetic && *synthetic) && !(xml && *xml)) || getenv("HWLOC_THISSYSTEM"),
             AM_ERR_ENVIRONMENT,
             "HWLOC_SYNTHETIC=%s or HWLOC_XMLFILE=%s describes no topology that hwloc understands",
             synthetic ? synthetic : "", xml ? xml : "");
    AM_TRY(list_cores(t));
    t->quota = t->this_machine ? am_topo_cpu_quota("/proc", "/sys/fs/cgroup") : 0;
    *out = t;
    t = NULL;
done:
    am_topo_free(&t);
    return st;
}

void am_topo_free(am_topo **topo)
{
    am_topo *t = *topo;
    if (!t) return;
    for (int i = 0; i < t->cores; i++) hwloc_bitmap_free(t->core_sets[i]);
    am_free(&t->core_sets);
    am_free(&t->core_first);
    if (t->hwloc) hwloc_topology_destroy(t->hwloc);
    am_free(topo);
}

bool am_topo_is_this_machine(const am_topo *topo)
{
    return topo->this_machine;
}
int am_topo_cores(const am_topo *topo)
{
    return topo->cores;
}
int am_topo_numa_nodes(const am_topo *topo)
{
    return topo->numa_nodes;
}

void am_topo_set_add(am_topo_set *set, unsigned pu)
{
    if (pu < AM_TOPO_SET_BITS) set->word[pu / 64] |= (uint64_t)1 << pu % 64;
    else set->beyond = am_hash64(&pu, sizeof pu, set->beyond) | 1;
}

am_topo_set am_topo_set_of(hwloc_const_bitmap_t bitmap)
{
    am_topo_set set = {0};
    for (int pu = hwloc_bitmap_first(bitmap); pu >= 0; pu = hwloc_bitmap_next(bitmap, pu))
        am_topo_set_add(&set, (unsigned)pu);
    return set;
}

am_status am_topo_read_bound(const am_topo *t, const char *assume, hwloc_bitmap_t bound)
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

am_status am_topo_bound(const am_topo *topo, const char *assume, am_topo_set *out)
{
    am_status st = AM_OK;
    hwloc_bitmap_t bound = hwloc_bitmap_alloc();
    AM_CHECK(bound, AM_ERR_MEMORY, "no memory for a set of hardware threads");
    AM_TRY(am_topo_read_bound(topo, assume, bound));
    *out = am_topo_set_of(bound);
done:
    hwloc_bitmap_free(bound);
    return st;
}

static am_status bind_set(const am_topo *topo, hwloc_const_bitmap_t set, int flags, const char *what)
{
    am_status st = AM_OK;
    AM_CHECK(hwloc_set_cpubind(topo->hwloc, set, flags) == 0, AM_ERR_ENVIRONMENT,
             "%s cannot be bound to its cores: %s; set the placement policy to \"none\" to run unbound", what,
             strerror(errno));
done:
    return st;
}

am_status am_topo_bind_process(const am_topo *topo, const am_topo_placement *p)
{
    am_status st = AM_OK;
    if (!p->bind) return st;
    hwloc_bitmap_t set = hwloc_bitmap_alloc();
    AM_CHECK(set && hwloc_bitmap_list_sscanf(set, p->share) == 0, AM_ERR_MEMORY,
             "no memory for a set of hardware threads");
    AM_TRY(bind_set(topo, set, HWLOC_CPUBIND_PROCESS, "the process"));
done:
    hwloc_bitmap_free(set);
    return st;
}

am_status am_topo_bind_thread(const am_topo *topo, const am_topo_placement *p, int index)
{
    am_status st = AM_OK;
    hwloc_bitmap_t set = NULL;
    if (!p->bind || !p->pu) return st;
    AM_CHECK(index >= 0 && index < p->threads, AM_ERR_INTERNAL, "thread %d of a team of %d asked to be bound",
             index, p->threads);
    set = hwloc_bitmap_alloc();
    AM_CHECK(set && hwloc_bitmap_only(set, (unsigned)p->pu[index]) == 0, AM_ERR_MEMORY,
             "no memory for a set of hardware threads");
    AM_TRY(bind_set(topo, set, HWLOC_CPUBIND_THREAD, "a compute thread"));
done:
    hwloc_bitmap_free(set);
    return st;
}

void am_topo_print(const am_topo_placement *p, const char *node, int rank, FILE *f)
{
    fprintf(f, "automodel: [rank %d] %s: %s\n", rank, node, p->line);
}
