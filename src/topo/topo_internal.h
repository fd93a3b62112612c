/* topo_internal: shared by the files of topo. */
#ifndef AM_TOPO_INTERNAL_H
#define AM_TOPO_INTERNAL_H

#include "topo/topo.h"

#include <hwloc.h>

struct am_topo {
    hwloc_topology_t hwloc;
    bool   this_machine;
    int    cores, numa_nodes;
    hwloc_bitmap_t *core_sets; /* [cores] allowed hardware threads of each core, in topology order */
    int   *core_first;         /* [cores] first hardware thread of each core, allowed or not: its name for others */
    double quota;              /* CPUs granted by the cgroup; 0 = no quota */
};

/** The launcher's binding within the allowed set; see am_topo_bound. */
am_status am_topo_read_bound(const am_topo *topo, const char *assume, hwloc_bitmap_t bound) AM_WARN_UNUSED;
void      am_topo_set_add(am_topo_set *set, unsigned pu);
am_topo_set am_topo_set_of(hwloc_const_bitmap_t bitmap);

/** CPUs that cpu.max (cgroup 2) or cpu.cfs_quota_us (cgroup 1) grant this process; 0 without a quota.  Both readers take the
 *  places of /proc and /sys/fs/cgroup, so that tests hand them others. */
double    am_topo_cpu_quota(const char *proc, const char *cgroup_root);
am_status am_topo_memory_read(const char *proc, const char *cgroup_root, am_topo_memory *out) AM_WARN_UNUSED;

#endif
