/* Who gets which cores, on synthetic machines. */
#include "topo_test.h"

/* 2 packages × 8 cores × 2 hardware threads: core c has threads 2c and 2c+1 */
static const char sixteen[] = "pack:2 [numa] core:8 pu:2";

static void place(const am_topo *t, const am_topo_request *q, am_topo_placement *p)
{
    OK(am_topo_place(t, q, p));
}

static void test_topo_place__16_cores_2_ranks(void **state)
{
    am_topo *t = load_topo("HWLOC_SYNTHETIC", sixteen);
    assert_int_equal(am_topo_cores(t), 16);
    assert_int_equal(am_topo_numa_nodes(t), 2);
    static const char *const share[] = {"0-15", "16-31"}, *const numa[] = {"NUMA 0", "NUMA 1"};
    for (int r = 0; r < 2; r++) {
        am_topo_placement p;
        place(t, &(am_topo_request){.local_rank = r, .local_size = 2}, &p);
        assert_int_equal(p.cores, 8);
        assert_int_equal(p.threads, 8);
        assert_string_equal(p.share, share[r]);
        for (int i = 0; i < 8; i++)
            assert_int_equal(p.pu[i], 16 * r + 2 * i); /* one hardware thread a core */
        assert_non_null(strstr(p.line, numa[r]));
        am_topo_placement_release(&p);
    }
    for (int ranks = 1; ranks <= 16; ranks++) check_even(t, ranks);
    am_topo_free(&t);
}

/* what mpirun -np 2 does: each rank on one core; widened to 8, and the line says so */
static void test_topo_place__one_core_is_widened(void **state)
{
    am_topo *t = load_topo("HWLOC_SYNTHETIC", sixteen);
    static const char *const bound[] = {"0-1", "16"}, *const share[] = {"0-15", "16-31"};
    for (int r = 0; r < 2; r++) {
        am_topo_placement p;
        place(t, &(am_topo_request){.local_rank = r, .local_size = 2, .assume_bound = bound[r]}, &p);
        assert_int_equal(p.launcher_cores, 1);
        assert_true(p.corrected);
        assert_string_equal(p.share, share[r]);
        assert_int_equal(p.threads, 8);
        assert_non_null(strstr(p.line, "bound this rank to 1 core"));
        am_topo_placement_release(&p);
        place(t,
              &(am_topo_request){
                  .local_rank = r, .local_size = 2, .assume_bound = bound[r], .policy = AM_TOPO_KEEP},
              &p);
        assert_int_equal(p.cores, 1);
        assert_int_equal(p.threads, 1);
        assert_false(p.corrected);
        assert_string_equal(p.share, bound[r]);
        am_topo_placement_release(&p);
    }
    am_topo_free(&t);
}

static void test_topo_place__launchers_binding(void **state)
{
    am_topo *t = load_topo("HWLOC_SYNTHETIC", sixteen);
    am_topo_placement p;
    /* four cores each, as srun -c gives: kept, on one hardware thread each where only one is bound */
    place(t, &(am_topo_request){.local_rank = 1, .local_size = 2, .assume_bound = "9,11,13,15"}, &p);
    assert_int_equal(p.cores, 4);
    assert_false(p.corrected);
    assert_string_equal(p.share, "9,11,13,15");
    for (int i = 0; i < 4; i++) assert_int_equal(p.pu[i], 9 + 2 * i);
    am_topo_placement_release(&p);
    /* a NUMA node for each of four ranks on two nodes, as mpirun -np 4: bindings overlap, cut evenly */
    static const char *const share[] = {"0-7", "8-15", "16-23", "24-31"};
    for (int r = 0; r < 4; r++) {
        place(t,
              &(am_topo_request){.local_rank = r, .local_size = 4, .assume_bound = r % 2 ? "16-31" : "0-15"},
              &p);
        assert_true(p.corrected);
        assert_string_equal(p.share, share[r]);
        am_topo_placement_release(&p);
    }
    /* one core each on a machine with no more: nothing to correct */
    am_topo_free(&t);
    t = load_topo("HWLOC_SYNTHETIC", "core:2 pu:1");
    place(t, &(am_topo_request){.local_rank = 0, .local_size = 2, .assume_bound = "1"}, &p);
    assert_false(p.corrected);
    assert_string_equal(p.share, "1");
    am_topo_placement_release(&p);
    am_topo_free(&t);
}

static void test_topo_place__threads(void **state)
{
    am_topo *t = load_topo("HWLOC_SYNTHETIC", "core:4 pu:2");
    am_topo_placement p;
    place(t, &(am_topo_request){.local_size = 1, .spare_cores = 1}, &p);
    assert_int_equal(p.threads, 3);
    am_topo_placement_release(&p);
    place(t, &(am_topo_request){.local_size = 1, .spare_cores = 9}, &p);
    assert_int_equal(p.threads, 1);
    am_topo_placement_release(&p);
    place(t, &(am_topo_request){.local_size = 1, .threads = 6},
          &p); /* second hardware threads after all first ones */
    assert_true(p.shared);
    static const int pu[] = {0, 2, 4, 6, 1, 3};
    for (int i = 0; i < 6; i++) assert_int_equal(p.pu[i], pu[i]);
    assert_non_null(strstr(p.line, "more threads than cores"));
    am_topo_placement_release(&p);
    place(t, &(am_topo_request){.local_size = 1, .threads = 9},
          &p); /* more than the hardware has: not pinned one by one */
    assert_null(p.pu);
    am_topo_placement_release(&p);
    for (int r = 0; r < 6; r++) { /* more ranks than cores */
        place(t, &(am_topo_request){.local_rank = r, .local_size = 6}, &p);
        assert_true(p.shared);
        assert_int_equal(p.threads, 1);
        assert_non_null(strstr(p.line, "6 local ranks on 4 cores"));
        am_topo_placement_release(&p);
    }
    am_topo_free(&t);
}

static void test_topo_place__refusals(void **state)
{
    am_topo *t = load_topo("HWLOC_SYNTHETIC", "core:4 pu:1");
    am_topo_placement p;
    assert_int_equal(am_topo_place(t, &(am_topo_request){.local_rank = 2, .local_size = 2}, &p),
                     AM_ERR_CONFIG);
    assert_int_equal(am_topo_place(t, &(am_topo_request){.local_size = 1, .threads = -1}, &p), AM_ERR_CONFIG);
    assert_int_equal(am_topo_place(t, &(am_topo_request){.local_size = 1, .assume_bound = "7"}, &p),
                     AM_ERR_ENVIRONMENT);
    assert_int_equal(am_topo_place(t, &(am_topo_request){.local_size = 1, .assume_bound = "x"}, &p),
                     AM_ERR_ENVIRONMENT);
    am_topo_free(&t);
    setenv("HWLOC_HIDE_ERRORS", "2", 1);
    setenv("HWLOC_SYNTHETIC", "core:", 1);
    assert_int_equal(am_topo_create(&t), AM_ERR_ENVIRONMENT);
    assert_non_null(strstr(am_error_message(), "HWLOC_SYNTHETIC=core:"));
    unsetenv("HWLOC_SYNTHETIC");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_topo_place__16_cores_2_ranks),
        cmocka_unit_test(test_topo_place__one_core_is_widened),
        cmocka_unit_test(test_topo_place__launchers_binding),
        cmocka_unit_test(test_topo_place__threads),
        cmocka_unit_test(test_topo_place__refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
