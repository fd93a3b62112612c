/* columns: sums over the rows of a matrix, one per column (bias_db, rmsnorm_dw).  The rows are cut into am_cpu_blocks(M)
 * blocks, a number that depends on M alone; each block's sums go into a row of the workspace, then the blocks are added
 * in order: the result does not depend on the number of threads. */
#ifndef AM_COLUMNS_H
#define AM_COLUMNS_H

#include "kernels_cpu.h"

#include <string.h>

static inline int am_cpu_blocks(int64_t rows) { return (int)am_max_i64(1, am_min_i64(32, rows / 64)); }

/** Workspace for M rows and d columns of type `wide`. */
static inline size_t am_cpu_columns_workspace(int64_t rows, int64_t d, am_dtype wide)
{
    return (size_t)am_cpu_blocks(rows) * (size_t)d * am_dtype_bytes(wide);
}

#endif
