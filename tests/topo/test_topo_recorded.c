/* Placement on recorded machines: hwloc XML exports in the folder AM_SHARED_TOPOLOGIES.  Skipped where it is
 * missing. */
#include "topo_test.h"

static am_topo *load_recorded(const char *name)
{
    char *path = NULL;
    OK(am_path_join(getenv("AM_SHARED_TOPOLOGIES"), name, &path));
    am_topo *t = load_topo("HWLOC_XMLFILE", path);
    free(path);
    return t;
}

/* Two tasks of srun on each NUMA node, bound to it (--cpu-bind=ldoms), dealt out in turn: a half each. */
static void test_topo_recorded__slurm_ldoms(void **state)
{
    enum { NODES = 8, RANKS = 16 };
    am_topo *t = load_recorded("epyc-7451-2socket.xml");
    am_topo_allocation a = {.slurm = true, .step = true, .node = "n1", .cpus_on_node = 96};
    am_topo_set bound[RANKS];
    am_topo_record records[RANKS];
    char *numa[NODES], *path = NULL, *found[AM_TOPO_FINDINGS];
    hwloc_topology_t h;
    OK(am_path_join(getenv("AM_SHARED_TOPOLOGIES"), "epyc-7451-2socket.xml", &path));
    assert_int_equal(hwloc_topology_init(&h) | hwloc_topology_set_xml(h, path) | hwloc_topology_load(h), 0);
    for (int k = 0; k < NODES; k++) {
        hwloc_obj_t node = hwloc_get_obj_by_type(h, HWLOC_OBJ_NUMANODE, (unsigned)k);
        assert_true(hwloc_bitmap_list_asprintf(&numa[k], node->cpuset) > 0);
    }
    for (int r = 0; r < RANKS; r++) OK(am_topo_bound(t, numa[r % NODES], &bound[r]));
    for (int r = 0; r < RANKS; r++) {
        am_topo_placement p;
        am_topo_request q = {.local_rank = r, .local_size = RANKS, .assume_bound = numa[r % NODES],
                             .bound = bound, .allocation = &a};
        OK(am_topo_place(t, &q, &p));
        assert_int_equal(p.threads, 3);
        assert_non_null(strstr(p.line, "Slurm's binding of 6 cores, the same for 2 local ranks"));
        records[r] = am_topo_record_of(&p, &a);
        am_topo_placement_release(&p);
    }
    OK(am_topo_review(records, RANKS, &a, found));
    for (int k = 0; k < AM_TOPO_FINDINGS; k++) assert_null(found[k]);
    records[9].used = records[1].used;
    OK(am_topo_review(records, RANKS, &a, found));
    assert_non_null(strstr(found[1], "ranks 1 and 9 of node n1 run on the same core"));
    assert_non_null(strstr(found[2], "3 of node n1's 48 cores"));
    for (int k = 0; k < AM_TOPO_FINDINGS; k++) free(found[k]);
    for (int k = 0; k < NODES; k++) free(numa[k]);
    hwloc_topology_destroy(h);
    free(path);
    am_topo_free(&t);
}

/* 2 sockets, 8 NUMA nodes of 6 cores with 2 threads */
static void test_topo_recorded__epyc(void **state)
{
    am_topo *t = load_recorded("epyc-7451-2socket.xml");
    assert_int_equal(am_topo_cores(t), 48);
    assert_int_equal(am_topo_numa_nodes(t), 8);
    static const int ranks[] = {1, 2, 3, 8, 16, 48};
    for (size_t i = 0; i < sizeof ranks / sizeof *ranks; i++) check_even(t, ranks[i]);
    for (int r = 0; r < 8; r++) { /* a NUMA node each */
        am_topo_placement p;
        char numa[32];
        snprintf(numa, sizeof numa, "NUMA %d)", r);
        OK(am_topo_place(t, &(am_topo_request){.local_rank = r, .local_size = 8}, &p));
        assert_int_equal(p.cores, 6);
        assert_non_null(strstr(p.line, numa));
        am_topo_placement_release(&p);
    }
    am_topo_free(&t);
}

static void test_topo_recorded__xeon(void **state)
{
    am_topo *t = load_recorded("xeon-4socket-pci.xml");
    assert_int_equal(am_topo_cores(t), 96);
    assert_int_equal(am_topo_numa_nodes(t), 4);
    for (int ranks = 1; ranks <= 12; ranks++) check_even(t, ranks);
    am_topo_free(&t);
}

/* recorded inside a job that was allowed 4 of the cores */
static void test_topo_recorded__dgx2(void **state)
{
    am_topo *t = load_recorded("dgx2-16gpu-nvlink.xml");
    assert_int_equal(am_topo_cores(t), 4);
    check_even(t, 2);
    check_even(t, 3);
    am_topo_free(&t);
}

int main(void)
{
    const char *folder = getenv("AM_SHARED_TOPOLOGIES");
    if (!folder || !am_path_exists(folder)) {
        printf("skipped: AM_SHARED_TOPOLOGIES names no folder with recorded topologies\n");
        return 77;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_topo_recorded__epyc),
        cmocka_unit_test(test_topo_recorded__slurm_ldoms),
        cmocka_unit_test(test_topo_recorded__xeon),
        cmocka_unit_test(test_topo_recorded__dgx2),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
