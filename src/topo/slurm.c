/* slurm: what the environment says about the batch job this process belongs to.  Slurm's manual (sbatch,
 * srun: OUTPUT ENVIRONMENT VARIABLES) is the source of every name here.
 *
 * Three kinds of process see three environments.  The batch script has the job's variables, and
 * SLURM_PROCID=0, but no SLURM_STEP_ID.  A task of srun has its step's.  A rank of mpirun has the batch
 * script's on the first node and, on the others, those of the step that carried mpirun's daemon there: what
 * that step says of tasks is true of daemons only. */
#include "topo_internal.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MEBIBYTE ((int64_t)1 << 20)

/* An empty variable counts as one that is not set. */
static const char *variable(const char *name)
{
    const char *s = getenv(name);
    return s && *s ? s : NULL;
}

static am_status number(const char *name, int64_t *out)
{
    am_status st = AM_OK;
    const char *s = variable(name);
    if (!s) return AM_OK;
    AM_CHECK(am_parse_i64(s, out) && *out >= 0, AM_ERR_ENVIRONMENT,
             "Slurm's variable %s=%s is no whole number: leave it as Slurm set it", name, s);
done:
    return st;
}

/* The first of two names that is set. */
static am_status number_of(const char *first, const char *second, int64_t *out)
{
    return number(variable(first) ? first : second, out);
}

/* One "count" or "count(xtimes)" of a list; the end of it, or NULL. */
static const char *run_of(const char *s, int64_t *count, int64_t *times)
{
    char digits[2][24] = {"", "1"};
    size_t n = strspn(s, "0123456789");
    if (n == 0 || n >= sizeof digits[0]) return NULL;
    memcpy(digits[0], s, n);
    s += n;
    if (strncmp(s, "(x", 2) == 0) {
        n = strspn(s += 2, "0123456789");
        if (n == 0 || n >= sizeof digits[1] || s[n] != ')') return NULL;
        memcpy(digits[1], s, n);
        digits[1][n] = '\0';
        s += n + 1;
    }
    return am_parse_i64(digits[0], count) && am_parse_i64(digits[1], times) && *times > 0 ? s : NULL;
}

/* "2(x3),1": sum 7, least 1, most 2 */
typedef struct node_list { int64_t sum, least, most; } node_list;

static am_status list(const char *name, node_list *out)
{
    am_status st = AM_OK;
    const char *text = variable(name), *s = text;
    node_list l = {.least = INT64_MAX};
    *out = (node_list){0};
    if (!text) return AM_OK;
    do {
        int64_t count = 0, times = 0, all = 0;
        s = run_of(s, &count, &times);
        AM_CHECK(s && (*s == ',' || *s == '\0') && am_mul_i64(count, times, &all) &&
                     am_add_i64(l.sum, all, &l.sum),
                 AM_ERR_ENVIRONMENT,
                 "Slurm's variable %s=%s is no list of numbers such as 2(x3),1: leave it as Slurm set it",
                 name, text);
        l.least = am_min_i64(l.least, count);
        l.most = am_max_i64(l.most, count);
    } while (*s++ == ',');
    *out = l;
done:
    return st;
}

/* Started by mpirun, not by srun.  In a job that a rank of mpirun submitted, that one's variables are still
 * about: the name space tells Slurm's PMIx server ("slurm.pmix.JOB.STEP") from mpirun's. */
static bool of_mpirun(void)
{
    const char *space = variable("PMIX_NAMESPACE");
    return variable("OMPI_COMM_WORLD_RANK") && !(space && strncmp(space, "slurm.", 6) == 0);
}

static am_status read_name(am_topo_allocation *a)
{
    am_status st = AM_OK;
    const char *array = variable("SLURM_ARRAY_JOB_ID"), *task = variable("SLURM_ARRAY_TASK_ID");
    const char *job = variable("SLURM_JOB_ID"), *node = variable("SLURMD_NODENAME");
    int64_t id = 0;
    AM_TRY(number("SLURM_JOB_ID", &id));
    AM_TRY(number("SLURM_ARRAY_JOB_ID", &id));
    AM_TRY(number("SLURM_ARRAY_TASK_ID", &id));
    if (array && task) snprintf(a->job, sizeof a->job, "%.30s_%.30s", array, task);
    else snprintf(a->job, sizeof a->job, "%.63s", job);
    if (node) snprintf(a->node, sizeof a->node, "%.255s", node);
done:
    return st;
}

/* A batch script without --ntasks has no SLURM_NTASKS, and its SLURM_TASKS_PER_NODE counts a task for each
 * CPU (slots for mpirun); srun starts one task a node there. */
static am_status read_ranks(am_topo_allocation *a)
{
    am_status st = AM_OK;
    node_list tasks;
    const char *counts = a->step && variable("SLURM_STEP_TASKS_PER_NODE") ? "SLURM_STEP_TASKS_PER_NODE"
                                                                          : "SLURM_TASKS_PER_NODE";
    const bool asked = variable("SLURM_NTASKS") || variable("SLURM_STEP_NUM_TASKS");
    AM_TRY(number_of(a->step ? "SLURM_STEP_NUM_NODES" : "SLURM_JOB_NUM_NODES", "SLURM_NNODES", &a->nodes));
    AM_TRY(list(counts, &tasks));
    a->ranks = asked ? tasks.sum : a->nodes;
    a->ranks_per_node = asked ? tasks.most : a->nodes > 0;
    AM_TRY(number_of(a->step ? "SLURM_STEP_NUM_TASKS" : "SLURM_NTASKS", "SLURM_NTASKS", &a->ranks));
done:
    return st;
}

/* Its size is known to mpirun alone. */
static am_status read_mpirun(am_topo_allocation *a)
{
    am_status st = AM_OK;
    AM_TRY(number_of("SLURM_JOB_NUM_NODES", "SLURM_NNODES", &a->nodes));
    AM_TRY(number("OMPI_COMM_WORLD_SIZE", &a->ranks));
    AM_TRY(number("OMPI_COMM_WORLD_LOCAL_SIZE", &a->ranks_per_node));
done:
    return st;
}

static am_status read_cpus(am_topo_allocation *a)
{
    am_status st = AM_OK;
    node_list cpus;
    AM_TRY(number("SLURM_CPUS_PER_TASK", &a->cpus_per_rank));
    AM_TRY(number("SLURM_THREADS_PER_CORE", &a->threads_per_core));
    AM_TRY(number("SLURM_CPUS_ON_NODE", &a->cpus_on_node));
    AM_TRY(list("SLURM_JOB_CPUS_PER_NODE", &cpus));
    if (cpus.least == cpus.most) a->job_cpus_on_node = cpus.most;
    /* the step of mpirun's daemon may have been given fewer */
    if (!a->step && (a->mpirun || a->cpus_on_node == 0) && a->job_cpus_on_node > 0)
        a->cpus_on_node = a->job_cpus_on_node;
done:
    return st;
}

static am_status read_memory(am_topo_allocation *a)
{
    am_status st = AM_OK;
    int64_t node = 0, cpu = 0, bytes = 0;
    AM_TRY(number("SLURM_MEM_PER_NODE", &node));
    AM_TRY(number("SLURM_MEM_PER_CPU", &cpu));
    AM_CHECK(am_mul_i64(node, MEBIBYTE, &node), AM_ERR_ENVIRONMENT,
             "Slurm's variable SLURM_MEM_PER_NODE=%s is beyond any memory", variable("SLURM_MEM_PER_NODE"));
    AM_CHECK(am_mul_i64(cpu, MEBIBYTE, &bytes) && am_mul_i64(bytes, a->cpus_on_node, &bytes),
             AM_ERR_ENVIRONMENT, "Slurm's variable SLURM_MEM_PER_CPU=%s is beyond any memory",
             variable("SLURM_MEM_PER_CPU"));
    a->memory_per_node = node > 0 ? node : bytes;
    if (a->memory_per_node > 0)
        snprintf(a->memory_from, sizeof a->memory_from, "%s", node > 0 ? "--mem" : "--mem-per-cpu");
done:
    return st;
}

am_status am_topo_allocation_read(am_topo_allocation *out)
{
    am_status st = AM_OK;
    am_topo_allocation a = {.mpirun = of_mpirun()};
    if (gethostname(a.node, sizeof a.node - 1) != 0) a.node[0] = '\0';
    a.slurm = variable("SLURM_JOB_ID") != NULL;
    if (a.slurm) {
        a.step = !a.mpirun && variable("SLURM_STEP_ID") && variable("SLURM_PROCID");
        AM_TRY(read_name(&a));
        AM_TRY(a.mpirun ? read_mpirun(&a) : read_ranks(&a));
        AM_TRY(read_cpus(&a));
        AM_TRY(read_memory(&a));
        AM_TRY(number("SLURM_RESTART_COUNT", &a.restarts));
    }
    *out = a;
done:
    return st;
}
