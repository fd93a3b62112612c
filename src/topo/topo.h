/* topo: which cores and how much memory this rank may use, and binding its threads to them.
 *
 * Three sets of cores matter.  `allowed`: what the kernel lets this process use at all (cgroup cpuset).  `granted`: how
 * many of them Slurm gave the job; fewer than allowed where nothing confines jobs, and then nobody says which.  `bound`: what
 * the launcher narrowed this rank to.  Open MPI's mpirun binds each of two ranks to ONE core however many the job has; a rank
 * may widen that within `allowed` when all of it is the job's, and topo does, reporting it.  A binding by Slurm is never widened:
 * the cores beside it may be another job's.
 *
 * A topology may also be synthetic (HWLOC_SYNTHETIC="pack:2 core:8 pu:2") or recorded (HWLOC_XMLFILE=node.xml): then
 * everything is computed as for that machine and nothing is bound. */
#ifndef AM_TOPO_H
#define AM_TOPO_H

#include "base/base.h"

typedef struct am_topo am_topo;

/** Reads the topology.  @return AM_ERR_ENVIRONMENT when hwloc cannot (the sentence names HWLOC_* variables that are set). */
am_status am_topo_create(am_topo **out) AM_WARN_UNUSED;
void      am_topo_free(am_topo **topo);
/** Whether it describes the machine we run on (else nothing is bound). */
bool am_topo_is_this_machine(const am_topo *topo);
int  am_topo_cores(const am_topo *topo);      /* cores with at least one allowed hardware thread */
int  am_topo_numa_nodes(const am_topo *topo); /* that hold one of those cores */

/* ---- the allocation of a batch job ------------------------------------------------------------- */

/* What Slurm says, in the environment of this process, that the job was given.  Numbers that it does not tell are 0; an empty
 * variable counts as one that is not set. */
typedef struct am_topo_allocation {
    bool    slurm;           /* inside a Slurm job; else all but mpirun and node is 0 or "" */
    bool    step;            /* started by srun as a task of a step (else the batch script, or a rank of mpirun) */
    bool    mpirun;          /* a rank of mpirun, inside of Slurm or not */
    char    job[64];         /* "1234"; "1234_7" for task 7 of an array */
    char    node[256];       /* Slurm's name of this node; outside of Slurm the host's */
    int64_t nodes, ranks;    /* of the job, or of the step; without --ntasks one rank a node, as srun starts them */
    int64_t ranks_per_node;  /* on the node that has most */
    int64_t cpus_per_rank;   /* --cpus-per-task */
    int64_t threads_per_core; /* --threads-per-core; 1 for --hint=nomultithread */
    int64_t cpus_on_node;    /* granted on this node (Slurm counts hardware threads where cores have two); in a step, to the step */
    int64_t job_cpus_on_node; /* and to the job, of which a step may have less; 0 where its nodes have unequal numbers */
    int64_t memory_per_node; /* bytes granted on this node; 0 = all of the node's, or not told */
    char    memory_from[64]; /* the option that said so, "--mem" or "--mem-per-cpu" */
    int64_t restarts;        /* how often the job was requeued */
} am_topo_allocation;

/** Reads SLURM_* variables.
 *  @return AM_ERR_ENVIRONMENT for one that is no number or list where there must be one (named, with its value). */
am_status am_topo_allocation_read(am_topo_allocation *out) AM_WARN_UNUSED;

/* ---- placement --------------------------------------------------------------------------------- */

typedef enum am_topo_policy {
    AM_TOPO_AUTO, /* keep a launcher's binding that gives this rank a fair share of its own, else cut the allowed cores evenly */
    AM_TOPO_KEEP, /* keep the launcher's binding whatever it is */
    AM_TOPO_NONE, /* count threads, bind nothing (loose) */
} am_topo_policy;

/* Hardware threads by their OS index, of a fixed size so that thousands can be gathered. */
enum { AM_TOPO_SET_BITS = 1024 };
typedef struct am_topo_set {
    uint64_t word[AM_TOPO_SET_BITS / 64];
    uint64_t beyond; /* those with higher indices, as a hash of their list: 0 without any */
} am_topo_set;

/** The launcher's binding of the calling thread within the allowed hardware threads; all of these where it is not bound.
 *  @param assume "0-3,8" is taken for the binding; NULL = ask the kernel.
 *  @return AM_ERR_ENVIRONMENT for an `assume` that is no list or has nothing allowed in it. */
am_status am_topo_bound(const am_topo *topo, const char *assume, am_topo_set *out) AM_WARN_UNUSED;

typedef struct am_topo_request {
    int            local_rank, local_size; /* among the ranks of this node */
    int            threads;                /* compute threads wanted; 0 = one per core of the share */
    int            spare_cores;            /* cores of the share left to communication, prefetch and checkpoint threads */
    am_topo_policy policy;
    const char    *assume_bound;           /* hardware threads ("0-3,8") taken as the launcher's binding; NULL = ask the kernel */
    const am_topo_allocation *allocation;  /* NULL = not in a batch job */
    const am_topo_set *bound;              /* [local_size] am_topo_bound of each local rank; NULL = not known */
} am_topo_request;

typedef struct am_topo_placement {
    int  threads;        /* size of the compute team, >= 1 */
    int  cores;          /* cores of this rank's share */
    int  launcher_cores; /* cores the launcher had left it */
    int  granted;        /* cores of this node that are the job's: those allowed, or fewer where Slurm granted fewer */
    int  cpus_per_core;  /* what Slurm counts as CPUs in a core: 1, or its hardware threads */
    bool corrected;      /* the share is not what the launcher bound */
    bool shared;         /* more ranks or threads than cores: some run on the same core */
    bool loose;          /* the share is a number of cores only, nobody says which: `share` is where this rank may run */
    bool bind;           /* am_topo_bind_* do something */
    int *pu;             /* [threads] OS index of the hardware thread of each compute thread; NULL when shared or not bound */
    am_topo_set used;    /* the first hardware thread (allowed or not) of each core of the share; empty when loose */
    char *share;         /* OS indices of all hardware threads of the share, "0-7,16-23" */
    char *line;          /* one sentence for people: cores, threads, and why */
} am_topo_placement;

/** The share of local rank r.  Local ranks with one and the same binding narrower than `allowed` divide it among them.  Without a
 *  binding (or with mpirun's of one core) the allowed cores are divided: contiguous in topology order, hence within as few NUMA
 *  nodes as its size allows; disjoint, and numbers differ by at most one.  Where Slurm granted fewer CPUs than are allowed and
 *  binds nothing, the share is a number of threads and nothing is bound.  A CPU quota (cgroup cpu.max) limits the threads.
 *  @param[out] out caller releases with am_topo_placement_release.
 *  @return AM_ERR_ENVIRONMENT for an assume_bound that is no list or has nothing allowed in it; AM_ERR_CONFIG for
 *          threads < 0 or a local rank outside local_size. */
am_status am_topo_place(const am_topo *topo, const am_topo_request *request, am_topo_placement *out) AM_WARN_UNUSED;
void      am_topo_placement_release(am_topo_placement *p);

/** Give this process (threads it has and will have) the share.  Call before the compute team is made. */
am_status am_topo_bind_process(const am_topo *topo, const am_topo_placement *p) AM_WARN_UNUSED;
/** Bind the calling thread, number `index` of the team, to its core: each thread calls it in one parallel region. */
am_status am_topo_bind_thread(const am_topo *topo, const am_topo_placement *p, int index) AM_WARN_UNUSED;
/** "automodel: [rank 1] node7: 8 cores (…)": a line per rank, to be called by every rank.
 *  @param node as the allocation names it. */
void am_topo_print(const am_topo_placement *p, const char *node, int rank, FILE *f);

/* ---- all ranks together ------------------------------------------------------------------------ */

/* What the others know of one rank's placement; gathered in rank order. */
typedef struct am_topo_record {
    char        node[40]; /* for people; may be cut */
    uint64_t    node_id;  /* am_topo_node_id */
    int32_t     cores, granted, cpus_per_core;
    int32_t     loose;
    am_topo_set used;
} am_topo_record;

/** Tells nodes apart: by Slurm's name in a job (virtual nodes may share a host), else by host name and boot. */
uint64_t       am_topo_node_id(const am_topo_allocation *a);
am_topo_record am_topo_record_of(const am_topo_placement *p, const am_topo_allocation *a);

enum { AM_TOPO_FINDINGS = 3 };
/** What is wrong with the placements of all ranks, a sentence each with the option that helps: more ranks than cores on a
 *  node; ranks that run on one core though there are enough; cores of the job that no rank uses.  Each kind once, naming the
 *  first node (and ranks) and how many more.  A process that no launcher started is told nothing.
 *  @param     records [n] in rank order.
 *  @param     a       of this process: names the launcher, and with it the option.
 *  @param[out] out    [AM_TOPO_FINDINGS] caller frees; NULL = no such finding. */
am_status am_topo_review(const am_topo_record *records, int n, const am_topo_allocation *a, char **out) AM_WARN_UNUSED;

/* ---- memory ------------------------------------------------------------------------------------ */

typedef struct am_topo_memory {
    int64_t total_bytes;     /* of the machine */
    int64_t available_bytes; /* may still be taken: MemAvailable, and limit − use + reclaimable cache of the cgroup */
    int64_t limit_bytes;     /* smallest limit of a cgroup above this process, or of the job; -1 = none */
    char    limited_by[256]; /* file that holds that limit, or "--mem of Slurm job 7"; "" without one */
} am_topo_memory;
/** A batch job's memory is a limit too: where no cgroup holds it, Slurm may still end the job for it. */
void am_topo_memory_allow(am_topo_memory *m, const am_topo_allocation *a);
/** Shared by all ranks of the node: divide by their number.  @return AM_ERR_ENVIRONMENT when /proc/meminfo is unreadable. */
am_status am_topo_memory_limit(am_topo_memory *out) AM_WARN_UNUSED;

#endif
