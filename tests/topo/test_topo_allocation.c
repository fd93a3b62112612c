/* What the environment of a batch job says.  The sets of variables are those that Slurm 22.05 was seen to
 * give a batch script, a task of srun and a rank of mpirun, cut to those that are read. */
#include "topo_test.h"

#include <unistd.h>

static const char *const names[] = {
    "SLURM_JOB_ID", "SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID", "SLURMD_NODENAME", "SLURM_JOB_NUM_NODES",
    "SLURM_NNODES", "SLURM_NTASKS", "SLURM_TASKS_PER_NODE", "SLURM_STEP_ID", "SLURM_PROCID",
    "SLURM_STEP_NUM_NODES", "SLURM_STEP_NUM_TASKS", "SLURM_STEP_TASKS_PER_NODE", "SLURM_CPUS_PER_TASK",
    "SLURM_CPUS_ON_NODE", "SLURM_JOB_CPUS_PER_NODE", "SLURM_THREADS_PER_CORE", "SLURM_MEM_PER_NODE",
    "SLURM_MEM_PER_CPU", "SLURM_RESTART_COUNT", "PMIX_NAMESPACE", "OMPI_COMM_WORLD_RANK",
    "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_SIZE",
};

/* "A=1 B=2": these and no others */
static void environment(const char *text)
{
    char name[64], value[128];
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) unsetenv(names[i]);
    while (*text) {
        size_t n = strcspn(text, "="), m = strcspn(text + n + 1, " ");
        snprintf(name, sizeof name, "%.*s", (int)n, text);
        snprintf(value, sizeof value, "%.*s", (int)m, text + n + 1);
        setenv(name, value, 1);
        text += n + 1 + m;
        text += *text == ' ';
    }
}

static am_topo_allocation read_of(const char *text)
{
    am_topo_allocation a;
    environment(text);
    OK(am_topo_allocation_read(&a));
    return a;
}

#define JOB "SLURM_JOB_ID=12 SLURMD_NODENAME=n1 SLURM_JOB_NUM_NODES=2 SLURM_NNODES=2 SLURM_PROCID=0 "

static void test_topo_allocation__none(void **state)
{
    char host[256] = "";
    am_topo_allocation a = read_of("SLURM_NTASKS=7 SLURMD_NODENAME=elsewhere");
    gethostname(host, sizeof host - 1);
    assert_false(a.slurm || a.step || a.mpirun);
    assert_string_equal(a.node, host);
    assert_int_equal(a.ranks, 0);
    assert_string_equal(a.job, "");
    assert_true(read_of("OMPI_COMM_WORLD_RANK=0 PMIX_NAMESPACE=1395589121").mpirun);
    assert_false(read_of("SLURM_JOB_ID=").slurm);
}

static void test_topo_allocation__batch_script(void **state)
{
    am_topo_allocation a = read_of(JOB "SLURM_NTASKS=4 SLURM_TASKS_PER_NODE=2(x2) SLURM_CPUS_PER_TASK=3 "
                                       "SLURM_CPUS_ON_NODE=6 SLURM_JOB_CPUS_PER_NODE=6(x2) "
                                       "SLURM_MEM_PER_NODE=1000 SLURM_RESTART_COUNT=2");
    assert_true(a.slurm);
    assert_false(a.step || a.mpirun);
    assert_string_equal(a.job, "12");
    assert_string_equal(a.node, "n1");
    assert_int_equal(a.nodes, 2);
    assert_int_equal(a.ranks, 4);
    assert_int_equal(a.ranks_per_node, 2);
    assert_int_equal(a.cpus_per_rank, 3);
    assert_int_equal(a.cpus_on_node, 6);
    assert_int_equal(a.memory_per_node, 1048576000);
    assert_string_equal(a.memory_from, "--mem");
    assert_int_equal(a.restarts, 2);
    /* -N2 --exclusive, 64 CPUs each, no --ntasks: a slot for each CPU, but srun starts one task a node */
    a = read_of(JOB "SLURM_TASKS_PER_NODE=64(x2) SLURM_CPUS_ON_NODE=64");
    assert_int_equal(a.ranks, 2);
    assert_int_equal(a.ranks_per_node, 1);
    a = read_of(JOB "SLURM_NTASKS=7 SLURM_TASKS_PER_NODE=2(x3),1");
    assert_int_equal(a.ranks, 7);
    assert_int_equal(a.ranks_per_node, 2);
    a = read_of(JOB "SLURM_NTASKS=9 SLURM_TASKS_PER_NODE=1,8");
    assert_int_equal(a.ranks_per_node, 8);
    assert_string_equal(read_of(JOB "SLURM_ARRAY_JOB_ID=1234 SLURM_ARRAY_TASK_ID=7").job, "1234_7");
    a = read_of(JOB "SLURM_MEM_PER_CPU=300 SLURM_CPUS_ON_NODE=2");
    assert_int_equal(a.memory_per_node, 629145600);
    assert_string_equal(a.memory_from, "--mem-per-cpu");
    a = read_of(JOB "SLURM_MEM_PER_NODE=0 SLURM_NTASKS= SLURM_TASKS_PER_NODE="); /* --mem=0: all there is */
    assert_int_equal(a.memory_per_node, 0);
    assert_string_equal(a.memory_from, "");
}

static void test_topo_allocation__task_of_srun(void **state)
{
    am_topo_allocation a =
        read_of(JOB "SLURM_STEP_ID=0 SLURM_STEP_NUM_NODES=1 SLURM_STEP_NUM_TASKS=2 "
                    "SLURM_STEP_TASKS_PER_NODE=2 SLURM_NTASKS=2 SLURM_TASKS_PER_NODE=2 SLURM_CPUS_ON_NODE=2 "
                    "SLURM_JOB_CPUS_PER_NODE=8(x2) PMIX_NAMESPACE=slurm.pmix.12.0 SLURM_THREADS_PER_CORE=1");
    assert_true(a.step);
    assert_int_equal(a.nodes, 1); /* the step's, as the rest */
    assert_int_equal(a.ranks, 2);
    assert_int_equal(a.ranks_per_node, 2);
    assert_int_equal(a.cpus_on_node, 2);
    assert_int_equal(a.job_cpus_on_node, 8); /* --exclusive, and a step that asked for less */
    assert_int_equal(a.threads_per_core, 1);
    /* submitted by a rank of mpirun: its variables are inherited, the name space is the step's own */
    a = read_of(JOB "SLURM_STEP_ID=0 SLURM_STEP_NUM_TASKS=2 OMPI_COMM_WORLD_RANK=3 "
                    "PMIX_NAMESPACE=slurm.pmix.12.0");
    assert_true(a.step);
    assert_false(a.mpirun);
}

static void test_topo_allocation__rank_of_mpirun(void **state)
{
    /* on another node than the first: in the step of mpirun's daemon, one task with one CPU */
    am_topo_allocation a =
        read_of(JOB "SLURM_STEP_ID=1 SLURM_STEP_NUM_NODES=1 SLURM_STEP_NUM_TASKS=1 "
                    "SLURM_STEP_TASKS_PER_NODE=1 SLURM_NTASKS=1 SLURM_TASKS_PER_NODE=1 "
                    "SLURM_CPUS_ON_NODE=1 SLURM_JOB_CPUS_PER_NODE=8(x2) "
                    "OMPI_COMM_WORLD_RANK=5 OMPI_COMM_WORLD_SIZE=6 OMPI_COMM_WORLD_LOCAL_SIZE=3 "
                    "PMIX_NAMESPACE=1395589121");
    assert_true(a.slurm && a.mpirun);
    assert_false(a.step);
    assert_int_equal(a.nodes, 2);
    assert_int_equal(a.ranks, 6);
    assert_int_equal(a.ranks_per_node, 3);
    assert_int_equal(a.cpus_on_node, 8);
    a = read_of(JOB "SLURM_CPUS_ON_NODE=2 SLURM_JOB_CPUS_PER_NODE=2,1 OMPI_COMM_WORLD_RANK=0");
    assert_int_equal(a.cpus_on_node, 2);
    assert_int_equal(a.job_cpus_on_node, 0);
}

static void test_topo_allocation__broken(void **state)
{
    static const struct { const char *text, *in; } bad[] = {
        {"SLURM_TASKS_PER_NODE=x", "SLURM_TASKS_PER_NODE=x"},
        {"SLURM_TASKS_PER_NODE=2(x3),", "2(x3),"},
        {"SLURM_TASKS_PER_NODE=,2", "list"},
        {"SLURM_TASKS_PER_NODE=2(x3", "list"},
        {"SLURM_TASKS_PER_NODE=2(3)", "list"},
        {"SLURM_TASKS_PER_NODE=2(x0)", "list"},
        {"SLURM_TASKS_PER_NODE=2(x3)1", "list"},
        {"SLURM_TASKS_PER_NODE=-2", "list"},
        {"SLURM_TASKS_PER_NODE=9223372036854775808", "list"},
        {"SLURM_TASKS_PER_NODE=4611686018427387904(x2)", "list"},
        {"SLURM_TASKS_PER_NODE=9223372036854775807,1", "list"},
        {"SLURM_TASKS_PER_NODE=2(x99999999999999999999999999999999)", "list"},
        {"SLURM_JOB_CPUS_PER_NODE=a", "SLURM_JOB_CPUS_PER_NODE=a"},
        {"SLURM_NTASKS=two", "SLURM_NTASKS=two"},
        {"SLURM_NTASKS=-1", "SLURM_NTASKS=-1"},
        {"SLURM_CPUS_PER_TASK=1.5", "SLURM_CPUS_PER_TASK=1.5"},
        {"SLURM_CPUS_ON_NODE=2(x2)", "SLURM_CPUS_ON_NODE=2(x2)"},
        {"SLURM_MEM_PER_NODE=9223372036854775807", "beyond any memory"},
        {"SLURM_CPUS_ON_NODE=9000000 SLURM_MEM_PER_CPU=9000000000000", "beyond any memory"},
        {"SLURM_RESTART_COUNT=again", "SLURM_RESTART_COUNT=again"},
        {"SLURM_ARRAY_JOB_ID=5 SLURM_ARRAY_TASK_ID=a", "SLURM_ARRAY_TASK_ID=a"},
        {"SLURM_JOB_ID=12a", "SLURM_JOB_ID=12a"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        char text[512];
        am_topo_allocation a;
        snprintf(text, sizeof text, JOB "%s", bad[i].text);
        environment(text);
        if (am_topo_allocation_read(&a) != AM_ERR_ENVIRONMENT) fail_msg("accepted: %s", bad[i].text);
        if (!strstr(am_error_message(), bad[i].in)) fail_msg("%s: %s", bad[i].text, am_error_message());
    }
}

/* the job's memory beside the machine's and a cgroup's; 4 GB of 10 are free */
static void test_topo_allocation__memory(void **state)
{
    am_topo_allocation a = {.slurm = true, .job = "12", .memory_per_node = 3000, .memory_from = "--mem"};
    am_topo_memory m = {.total_bytes = 10000, .available_bytes = 4000, .limit_bytes = -1};
    am_topo_memory_allow(&m, &a);
    assert_int_equal(m.available_bytes, 3000);
    assert_int_equal(m.limit_bytes, 3000);
    assert_string_equal(m.limited_by, "--mem of Slurm job 12");
    m = (am_topo_memory){.available_bytes = 4000, .limit_bytes = 2000, .limited_by = "memory.max"};
    am_topo_memory_allow(&m, &a); /* the cgroup is the narrower one */
    assert_int_equal(m.limit_bytes, 2000);
    assert_string_equal(m.limited_by, "memory.max");
    m = (am_topo_memory){.available_bytes = 4000, .limit_bytes = -1};
    a.memory_per_node = 0;
    am_topo_memory_allow(&m, &a);
    assert_int_equal(m.available_bytes, 4000);
    assert_int_equal(m.limit_bytes, -1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_topo_allocation__none),
        cmocka_unit_test(test_topo_allocation__batch_script),
        cmocka_unit_test(test_topo_allocation__task_of_srun),
        cmocka_unit_test(test_topo_allocation__rank_of_mpirun),
        cmocka_unit_test(test_topo_allocation__broken),
        cmocka_unit_test(test_topo_allocation__memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
