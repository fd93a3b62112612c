/* engine: what every command that runs programs needs: communicator, placement on cores, device; and programs over one model. */
#ifndef AM_ENGINE_H
#define AM_ENGINE_H

#include "comm/comm.h"
#include "device/device.h"
#include "graph/model.h"
#include "graph/program.h"
#include "topo/topo.h"
#include "train/start_clock.h"

typedef struct am_engine {
    am_comm          *comm;
    am_topo          *topo;
    am_topo_allocation allocation; /* of the batch job, and this node's name */
    am_topo_placement placement;
    char             *placements;  /* rank 0: a line for each rank, node and placement; others: NULL */
    am_device        *device;
    int               rank, size, threads;
} am_engine;

typedef struct am_engine_options {
    const char *device;  /* "cpu" or "guarded"; NULL = cpu */
    int         threads; /* 0 = the cores of this rank's share */
    const char *huge_pages; /* "auto", "true" or "false", see run.huge_pages; NULL = auto */
    double      timeout_seconds;
    bool        quiet;   /* no line about the placement */
    am_start_clock *clock; /* NULL: nobody asks how long it takes */
} am_engine_options;

/** Joins the other ranks, takes its share of the cores, makes the device.  [collective] */
am_status am_engine_open(const am_engine_options *o, am_engine **out) AM_WARN_UNUSED;
/** Fills topo, allocation, placement, placements and threads of an engine whose comm, rank and size are set; prints this rank's line
 *  unless quiet; rank 0 warns of ranks on one core and of cores that no rank uses.  Binds nothing.  [collective] */
am_status am_engine_place(am_engine *e, int threads, bool quiet) AM_WARN_UNUSED;
/** [collective] */
am_status am_engine_close(am_engine **e) AM_WARN_UNUSED;
/** The command's door: a failure on any rank ends all ranks (see am_cli_finish). */
am_comm *am_engine_current(void);

/** Rank `mine` found out alone, told to all: AM_OK only where all have it.  Of the ranks that failed the first one gets its status back and
 * reports; the others wait here until that ends them, so that N ranks with one trouble print one sentence.  [collective]
 *  ERR_COMM and ERR_WATCHDOG come back at once: there is no agreeing with ranks that do not answer. */
am_status am_engine_together(const am_engine *e, am_status mine) AM_WARN_UNUSED;
/** For a command that was refused before its engine was open (its recipe, say): joins the others' first am_engine_together.  [collective] */
am_status am_engine_refuse(am_status why) AM_WARN_UNUSED;

/** tp ranks that have parts of the same layers, which must divide the ranks; the others data parallel: shards × replicas × tp = ranks. */
am_mesh am_engine_mesh(const am_engine *e, bool fsdp, int tp);
/** All ranks compiled the same: program hashes, signatures and micro-batches are compared; a difference names the rank and the operator at
 *  which its program and rank 0's part.  [collective] */
am_status am_engine_agree(const am_engine *e, am_program *const *programs, int n) AM_WARN_UNUSED;
/** Where this rank's text and rank 0's differ first: a piece of both, in *out; empty where they are equal.  For error sentences.
 *  [collective] */
am_status am_engine_first_difference(const am_engine *e, const am_str *text, am_str *out) AM_WARN_UNUSED;
/** Refuses, before anything is allocated, a plan that does not fit into the node's memory; names the regions.  [collective]
 *  @param extra_bytes host memory of this rank outside of programs (staging, prefetch ring). */
am_status am_engine_fits(const am_engine *e, am_program *const *programs, int n, int64_t extra_bytes) AM_WARN_UNUSED;
/** Bytes the programs take together on this rank, as am_exec_create will allocate them. */
int64_t am_engine_plan_bytes(am_program *const *programs, int n);

#endif
