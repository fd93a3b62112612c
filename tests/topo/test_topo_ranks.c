/* The ranks' placements agreed upon over MPI, on a described machine: who shares a node, what rank 0 warns of
 * (once), what is kept for the run's record. */
#include "topo_test.h"

#include "train/engine.h"

#include <unistd.h>

static am_comm *comm;

/* am_engine_place on the machine `synthetic`; what this rank wrote to stderr. */
static char *place(am_engine *e, const char *synthetic)
{
    char path[] = "/tmp/am_topo_ranks_XXXXXX", *text = NULL;
    size_t n;
    *e = (am_engine){.comm = comm, .rank = am_comm_rank(comm), .size = am_comm_size(comm)};
    setenv("HWLOC_SYNTHETIC", synthetic, 1);
    int file = mkstemp(path), old = dup(STDERR_FILENO);
    assert_true(file >= 0 && old >= 0 && dup2(file, STDERR_FILENO) >= 0);
    am_status st = am_engine_place(e, 0, false);
    fflush(stderr);
    assert_true(dup2(old, STDERR_FILENO) >= 0);
    close(file);
    close(old);
    OK(st);
    OK(am_file_read(path, 1 << 20, &text, &n));
    unlink(path);
    return text;
}

static void end(am_engine *e, char **text)
{
    am_topo_placement_release(&e->placement);
    am_topo_free(&e->topo);
    am_free(&e->placements);
    am_free(text);
}

static int lines(const char *s)
{
    int n = 0;
    for (; s && *s; s++) n += *s == '\n';
    return n;
}

static void test_topo_ranks__one_node(void **state)
{
    am_engine e;
    char *text = place(&e, "pack:2 [numa] core:4 pu:2"), want[400];
    assert_int_equal(e.threads, 8 / e.size);
    assert_int_equal(lines(text), 1); /* its own line, and no warning */
    snprintf(want, sizeof want, "automodel: [rank %d] %s: %d of 8 cores", e.rank, e.allocation.node,
             8 / e.size);
    assert_non_null(strstr(text, want));
    assert_int_equal(lines(e.placements), e.rank == 0 ? e.size : 0);
    snprintf(want, sizeof want, "\nrank %d on ", e.size - 1);
    if (e.rank == 0) assert_non_null(strstr(e.placements, want));
    end(&e, &text);
}

static void test_topo_ranks__too_many(void **state)
{
    am_engine e;
    char *text = place(&e, "core:1 pu:2"), want[64];
    assert_int_equal(e.threads, 1);
    assert_int_equal(lines(text), e.rank == 0 ? 2 : 1);
    snprintf(want, sizeof want, "warning: the %d ranks of node", e.size);
    if (e.rank == 0) assert_non_null(strstr(text, want));
    if (e.rank == 0) assert_non_null(strstr(text, "mpirun --map-by ppr:1:node"));
    end(&e, &text);
}

/* ranks in turn on two virtual nodes, of mpirun in an allocation of 8 of 16 CPUs on each; then of 7 */
static void test_topo_ranks__virtual_nodes(void **state)
{
    am_engine e;
    char node[8];
    snprintf(node, sizeof node, "n%d", am_comm_rank(comm) % 2 + 1);
    setenv("SLURM_JOB_ID", "7", 1);
    setenv("SLURM_JOB_NUM_NODES", "2", 1);
    setenv("SLURMD_NODENAME", node, 1);
    setenv("SLURM_JOB_CPUS_PER_NODE", "8(x2)", 1);
    char *text = place(&e, "core:16 pu:1");
    assert_true(e.allocation.mpirun && !e.allocation.step);
    assert_int_equal(e.threads, 8 / (e.size / 2));
    assert_true(e.placement.loose);
    assert_int_equal(lines(text), 1);
    assert_non_null(strstr(text, node));
    if (e.rank == 0) assert_non_null(strstr(e.placements, "rank 1 on n2: "));
    end(&e, &text);
    setenv("SLURM_JOB_CPUS_PER_NODE", "7(x2)", 1);
    text = place(&e, "core:16 pu:1");
    assert_int_equal(e.threads, 7 / (e.size / 2));
    if (e.size == 4 && e.rank == 0) {
        assert_non_null(strstr(text, "1 of node n1's 7 cores of this job is used by no rank (2 ranks there)"));
        assert_non_null(strstr(text, "so it is on 2 nodes (n1, n2)"));
    } else assert_int_equal(lines(text), 1);
    end(&e, &text);
}

int main(void)
{
    am_comm_options o = {.max_requests = 16};
    static const char *const slurm[] = {"SLURM_JOB_ID", "SLURM_STEP_ID", "SLURMD_NODENAME"};
    unsetenv("HWLOC_XMLFILE");
    if (am_comm_create(NULL, &o, &comm) != AM_OK) {
        am_error_print(stderr, -1);
        return 1;
    }
    for (size_t i = 0; i < sizeof slurm / sizeof *slurm; i++) unsetenv(slurm[i]);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_topo_ranks__one_node),
        cmocka_unit_test(test_topo_ranks__too_many),
        cmocka_unit_test(test_topo_ranks__virtual_nodes),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    return am_comm_free(&comm) == AM_OK ? failed : 1;
}
