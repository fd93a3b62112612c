/* Binding on this machine, started by mpirun (which may have bound each rank to one core): afterwards the
 * process may use its share, and every thread of an OpenMP team runs on its own core. */
#include "topo_test.h"

#include <omp.h>
#include <sched.h>

static int variable(const char *name, int otherwise)
{
    const char *s = getenv(name);
    int64_t v;
    return s && am_parse_i64(s, &v) ? (int)v : otherwise;
}

static void affinity(hwloc_bitmap_t out)
{
    cpu_set_t set;
    assert_int_equal(sched_getaffinity(0, sizeof set, &set), 0);
    hwloc_bitmap_zero(out);
    for (unsigned i = 0; i < CPU_SETSIZE; i++)
        if (CPU_ISSET(i, &set)) hwloc_bitmap_set(out, i);
}

static void test_topo_bind__share_and_team(void **state)
{
    const int rank = variable("OMPI_COMM_WORLD_LOCAL_RANK", 0),
              size = variable("OMPI_COMM_WORLD_LOCAL_SIZE", 1);
    hwloc_bitmap_t set = hwloc_bitmap_alloc(), share = hwloc_bitmap_alloc();
    am_topo *t = NULL;
    am_topo_placement p;
    OK(am_topo_create(&t));
    affinity(set);
    const int before = hwloc_bitmap_weight(set);
    OK(am_topo_place(t, &(am_topo_request){.local_rank = rank, .local_size = size}, &p));
    am_topo_print(&p, "here", rank, stderr);
    if (before == 1 && am_topo_cores(t) >= 2 * size)
        assert_true(p.corrected && p.cores == am_topo_cores(t) / size);
    assert_true(p.bind == am_topo_is_this_machine(t));
    OK(am_topo_bind_process(t, &p));
    assert_int_equal(hwloc_bitmap_list_sscanf(share, p.share), 0);
    affinity(set);
    assert_true(hwloc_bitmap_isequal(set, share));
    int failed = 0;
#pragma omp parallel num_threads(p.threads) reduction(+ : failed)
    {
        cpu_set_t mine;
        failed += am_topo_bind_thread(t, &p, omp_get_thread_num()) != AM_OK;
        failed += p.pu && (sched_getaffinity(0, sizeof mine, &mine) != 0 || CPU_COUNT(&mine) != 1 ||
                           !CPU_ISSET(p.pu[omp_get_thread_num()], &mine) ||
                           sched_getcpu() != p.pu[omp_get_thread_num()]);
    }
    assert_int_equal(failed, 0);
    am_topo_placement_release(&p);
    am_topo_free(&t);
    hwloc_bitmap_free(set);
    hwloc_bitmap_free(share);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_topo_bind__share_and_team)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
