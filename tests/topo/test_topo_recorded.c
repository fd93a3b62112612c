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
        cmocka_unit_test(test_topo_recorded__xeon),
        cmocka_unit_test(test_topo_recorded__dgx2),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
