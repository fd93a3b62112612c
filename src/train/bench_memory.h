/* bench_memory: the plan's parts beside what the process really holds of them, and what it holds besides. */
#ifndef AM_BENCH_MEMORY_H
#define AM_BENCH_MEMORY_H

#include "graph/program.h"
#include "train/process_memory.h"

enum { AM_MEMORY_PARTS = 12 };

typedef struct am_memory_part { const char *name; int64_t plan, resident; } am_memory_part;

typedef struct am_memory_report {
    am_memory_part part[AM_MEMORY_PARTS]; /* their plan sums to am_engine_plan_bytes */
    int            num_parts;
    int64_t        plan, resident;        /* of all parts */
    int64_t        besides[AM_MAPPING_COUNT]; /* resident outside of the plan, by what is mapped; resident + these = rss */
    am_process_memory process;            /* before the report was made */
} am_memory_report;

/** @param programs  those that `e` binds; the first one's parts are told apart.
 *  @return AM_ERR_IO where /proc/self cannot be read. */
am_status am_memory_report_make(const am_exec *e, am_program *const *programs, int n, am_memory_report *out) AM_WARN_UNUSED;

#endif
