/* process_memory: what the kernel says that this process holds, to stand beside what the plan says. */
#ifndef AM_PROCESS_MEMORY_H
#define AM_PROCESS_MEMORY_H

#include "base/base.h"

/* Bytes, of /proc/self/status; all 0 where it cannot be read. */
typedef struct am_process_memory {
    int64_t peak;        /* VmHWM: the most that was ever resident */
    int64_t now;         /* VmRSS = anon + file + shmem */
    int64_t anon, file, shmem;
    int64_t page_tables; /* VmPTE: not part of now */
    int64_t huge;        /* HugetlbPages: not part of now either; transparent huge pages are in anon */
} am_process_memory;
/** Asks for no memory. */
am_process_memory am_process_memory_now(void);

/* What stands behind an address. */
#define AM_MAPPING_KINDS(X)                                                                                   \
    X(ANON, "anonymous") X(HEAP, "heap") X(STACK, "stack") X(CODE, "program and libraries")                     \
    X(WEIGHTS, "files of weights (*.safetensors)") X(DATA, "files of tokens (*.h5)") X(SHARED, "shared memory") \
    X(OTHER, "other files")
typedef enum am_mapping_kind {
#define X(e, text) AM_MAPPING_##e,
    AM_MAPPING_KINDS(X)
#undef X
    AM_MAPPING_COUNT
} am_mapping_kind;
const char *am_mapping_name(am_mapping_kind k);

/** Resident bytes of this process's mappings by kind (/proc/self/smaps).  @return AM_ERR_IO where it cannot be read. */
am_status am_process_mappings(int64_t bytes[AM_MAPPING_COUNT]) AM_WARN_UNUSED;
/** Bytes of [begin, begin + bytes) that are resident (mincore); -1 where the kernel does not tell. */
int64_t am_resident_bytes(const void *begin, size_t bytes);

/** When this process was started, on the clock of am_now(); as fine as the kernel's tick, 10 ms on most machines. */
double am_process_started(void);

#endif
