/* counters: the processor's own counters of the compute threads (perf_event_open), where the kernel lets a program read them. */
#ifndef AM_COUNTERS_H
#define AM_COUNTERS_H

#include "base/base.h"

/* X(enumerator, name for JSON, heading of a column) */
#define AM_COUNTER_LIST(X)                                                                                      \
    X(CYCLES, "cycles", "cycles") X(INSTRUCTIONS, "instructions", "instr") X(LLC, "llc_misses", "LLC miss")       \
    X(L1D, "l1d_misses", "L1d miss") X(DTLB, "dtlb_misses", "dTLB miss") X(FAULTS, "page_faults", "faults")
typedef enum am_counter {
#define X(e, name, title) AM_COUNTER_##e,
    AM_COUNTER_LIST(X)
#undef X
    AM_COUNTER_COUNT
} am_counter;
const char *am_counter_name(am_counter c);
const char *am_counter_title(am_counter c);

typedef struct am_counts { double of[AM_COUNTER_COUNT]; } am_counts;
typedef struct am_counters am_counters;

/** A group of counters on each thread of the compute team, user mode only, counting from here on.  To be called outside of
 *  parallel regions by the thread that issues kernels.  What the kernel refuses is no error: see am_counters_missing.
 *  @param threads  size of the team. */
am_status am_counters_open(int threads, am_counters **out) AM_WARN_UNUSED;
void      am_counters_close(am_counters **c);
bool      am_counters_have(const am_counters *c, am_counter which);
/** "": all are there; else a sentence: which are not, and what the kernel said. */
const char *am_counters_missing(const am_counters *c);
/** Sums over the team since it was opened (counters that had to take turns are scaled up); 0 for those that are missing.
 *  A system call a thread. */
am_counts am_counters_read(const am_counters *c);

#endif
