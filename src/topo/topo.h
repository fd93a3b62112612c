/* topo: which cores and how much memory this rank may use, and binding its threads to them.
 *
 * Two sets of cores matter.  `allowed`: what the kernel lets this process use at all (cgroup cpuset: the job's
 * allocation).  `bound`: what the launcher narrowed it to.  Open MPI's mpirun binds each of two ranks to ONE core however
 * many the job has; a rank may widen its binding within `allowed`, and topo does, reporting it.
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

typedef enum am_topo_policy {
    AM_TOPO_AUTO, /* keep a launcher's binding that gives this rank a fair share of its own, else cut the allowed cores evenly */
    AM_TOPO_KEEP, /* keep the launcher's binding whatever it is */
    AM_TOPO_NONE, /* count threads, bind nothing */
} am_topo_policy;

typedef struct am_topo_request {
    int            local_rank, local_size; /* among the ranks of this node, which are taken to share `allowed` */
    int            threads;                /* compute threads wanted; 0 = one per core of the share */
    int            spare_cores;            /* cores of the share left to communication, prefetch and checkpoint threads */
    am_topo_policy policy;
    const char    *assume_bound;           /* hardware threads ("0-3,8") taken as the launcher's binding; NULL = ask the kernel */
} am_topo_request;

typedef struct am_topo_placement {
    int  threads;        /* size of the compute team, >= 1 */
    int  cores;          /* cores of this rank's share */
    int  launcher_cores; /* cores the launcher had left it */
    bool corrected;      /* the share is not what the launcher bound */
    bool shared;         /* more ranks or threads than cores: some run on the same core */
    bool bind;           /* am_topo_bind_* do something */
    int *pu;             /* [threads] OS index of the hardware thread of each compute thread; NULL when shared or not bound */
    char *share;         /* OS indices of all hardware threads of the share, "0-7,16-23" */
    char *line;          /* one sentence for people: cores, threads, and why */
} am_topo_placement;

/** The share of local rank r: contiguous in topology order, hence within as few NUMA nodes as its size allows; local ranks
 *  get disjoint cores whose numbers differ by at most one.  A CPU quota (cgroup cpu.max) limits the threads.
 *  @param[out] out caller releases with am_topo_placement_release.
 *  @return AM_ERR_ENVIRONMENT for an assume_bound that is no list or has nothing allowed in it; AM_ERR_CONFIG for
 *          threads < 0 or a local rank outside local_size. */
am_status am_topo_place(const am_topo *topo, const am_topo_request *request, am_topo_placement *out) AM_WARN_UNUSED;
void      am_topo_placement_release(am_topo_placement *p);

/** Give this process (threads it has and will have) the share.  Call before the compute team is made. */
am_status am_topo_bind_process(const am_topo *topo, const am_topo_placement *p) AM_WARN_UNUSED;
/** Bind the calling thread, number `index` of the team, to its core: each thread calls it in one parallel region. */
am_status am_topo_bind_thread(const am_topo *topo, const am_topo_placement *p, int index) AM_WARN_UNUSED;
/** "automodel: [rank 1] node7: 8 cores (…)": a line per rank, to be called by every rank. */
void am_topo_print(const am_topo_placement *p, int rank, FILE *f);

/* ---- the allocation of a batch job ------------------------------------------------------------- */

/* What Slurm says, in the environment of this process, that the job was given.  Numbers that it does not tell are 0. */
typedef struct am_topo_allocation {
    bool    slurm;           /* inside a Slurm job; else the rest is 0 or "" */
    bool    step;            /* started by srun as a task of a step (else the batch script, or a rank of mpirun) */
    char    job[64];         /* "1234"; "1234_7" for task 7 of an array */
    char    node[256];       /* Slurm's name of this node; outside of Slurm the host's */
    int64_t nodes, ranks;    /* of the job */
    int64_t ranks_per_node;  /* on the node that has most */
    int64_t cpus_per_rank;   /* --cpus-per-task */
    int64_t cpus_on_node;    /* granted on this node (Slurm counts hardware threads where cores have two) */
    int64_t memory_per_node; /* bytes granted on this node; 0 = all of the node's, or not told */
    char    memory_from[64]; /* the option that said so, "--mem" or "--mem-per-cpu" */
    int64_t restarts;        /* how often the job was requeued */
} am_topo_allocation;

/** Reads SLURM_* variables.  @return AM_ERR_ENVIRONMENT for one that is no number or list where there must be one (named, with its value). */
am_status am_topo_allocation_read(am_topo_allocation *out) AM_WARN_UNUSED;

/* ---- memory ------------------------------------------------------------------------------------ */

typedef struct am_topo_memory {
    int64_t total_bytes;     /* of the machine */
    int64_t available_bytes; /* may still be taken: MemAvailable, and limit − use + reclaimable cache of the cgroup */
    int64_t limit_bytes;     /* smallest limit of a cgroup above this process; -1 = none */
    char    limited_by[256]; /* file that holds that limit; "" without one */
} am_topo_memory;
/** Shared by all ranks of the node: divide by their number.  @return AM_ERR_ENVIRONMENT when /proc/meminfo is unreadable. */
am_status am_topo_memory_limit(am_topo_memory *out) AM_WARN_UNUSED;

#endif
