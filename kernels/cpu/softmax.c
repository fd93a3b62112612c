/* softmax: softmax over the last dimension and its gradient; the largest of a row and its gradient.  Bodies in softmax.inc. */
#include "kernels_cpu.h"

#include <string.h>

#define AM_BODY "softmax.inc"
#include "kernels_cpu_each.h"

AM_CPU_RANGES(softmax);
AM_CPU_RANGES(softmax_bwd);
AM_CPU_RANGES(row_max);
AM_CPU_RANGES(row_max_bwd);

static am_status run(const am_kernel_call *c, const char *op, const char *signature, am_dtype real,
                     const am_cpu_range_table ranges)
{
    am_status st = AM_OK;
    am_cpu_dims dims;
    AM_TRY(am_cpu_check(c, op, signature, real, &dims));
    AM_CHECK(dims.of['d'] > 0, AM_ERR_SHAPE, "kernel %s: rows without elements", op);
    am_cpu_for(c, dims.of['M'], 1, 4 * dims.of['d'] * (int64_t)am_dtype_bytes(real), am_cpu_pick(ranges, real));
done:
    return st;
}

static am_status run_softmax(const am_kernel_call *c, am_dtype real)
{
    return run(c, "softmax", "x:r[M,d] > y:r[M,d]", real, softmax_ranges);
}
static am_status run_softmax_bwd(const am_kernel_call *c, am_dtype real)
{
    return run(c, "softmax_bwd", "dy:r[M,d] y:r[M,d] > dx:r[M,d]", real, softmax_bwd_ranges);
}
static am_status run_row_max(const am_kernel_call *c, am_dtype real)
{
    return run(c, "row_max", "x:r[M,d] > y:r[M]", real, row_max_ranges);
}
static am_status run_row_max_bwd(const am_kernel_call *c, am_dtype real)
{
    return run(c, "row_max_bwd", "dy:r[M] x:r[M,d] > dx:r[M,d]", real, row_max_bwd_ranges);
}

AM_CPU_ROW(softmax, run_softmax, NULL);
AM_CPU_ROW(softmax_bwd, run_softmax_bwd, NULL);
AM_CPU_ROW(row_max, run_row_max, NULL);
AM_CPU_ROW(row_max_bwd, run_row_max_bwd, NULL);
