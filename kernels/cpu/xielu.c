/* xielu: Apertus' activation (Huang et al. 2024) with its two trained numbers.  Bodies in xielu.inc.  The numbers' gradients are
 * summed in blocks of fixed size, added in order: independent of threads. */
#include "kernels_cpu.h"

#include <string.h>

enum { XIELU_BLOCK = 4096 };

#define AM_BODY "xielu.inc"
#include "kernels_cpu_each.h"

AM_CPU_RANGES(xielu);
AM_CPU_RANGES(xielu_bwd);
AM_CPU_RANGES(xielu_dalpha);
AM_CPU_RANGES(xielu_add);

static am_status run_xielu(const am_kernel_call *c, am_dtype real)
{
    am_status st = AM_OK;
    am_cpu_dims dims;
    AM_TRY(am_cpu_check(c, "xielu", "x:r[M] p:r[o] n:r[o] beta:r[o] eps:r[o] > y:r[M]", real, &dims));
    am_cpu_for(c, dims.of['M'], 64, 16 * (int64_t)am_dtype_bytes(real), am_cpu_pick(xielu_ranges, real));
done:
    return st;
}

static am_status run_xielu_bwd(const am_kernel_call *c, am_dtype real)
{
    am_status st = AM_OK;
    am_cpu_dims dims;
    AM_TRY(am_cpu_check(c, "xielu_bwd", "dy:r[M] x:r[M] p:r[o] n:r[o] beta:r[o] eps:r[o] > dx:r[M]", real, &dims));
    am_cpu_for(c, dims.of['M'], 64, 16 * (int64_t)am_dtype_bytes(real), am_cpu_pick(xielu_bwd_ranges, real));
done:
    return st;
}

static size_t dalpha_workspace(const am_kernel_call *c)
{
    return (size_t)am_ceil_div(am_tensor_elements(&c->in[0]), XIELU_BLOCK) * sizeof(double);
}

static am_status run_xielu_dalpha(const am_kernel_call *c, am_dtype real)
{
    am_status st = AM_OK;
    am_cpu_dims dims;
    AM_TRY(am_cpu_check(c, "xielu_dalpha", "dy:r[M] x:r[M] p:r[o] n:r[o] beta:r[o] eps:r[o] > d:w[o] +", real, &dims));
    AM_CHECK(c->workspace_bytes >= dalpha_workspace(c), AM_ERR_INTERNAL, "kernel xielu_dalpha: workspace of %zu bytes, %zu needed",
             c->workspace_bytes, dalpha_workspace(c));
    am_cpu_for2(c, am_ceil_div(dims.of['M'], XIELU_BLOCK), 1, XIELU_BLOCK * 16 * (int64_t)am_dtype_bytes(real),
                am_cpu_pick(xielu_dalpha_ranges, real), 1, 1, am_cpu_pick(xielu_add_ranges, real));
done:
    return st;
}

AM_CPU_ROW(xielu, run_xielu, NULL);
AM_CPU_ROW(xielu_bwd, run_xielu_bwd, NULL);
AM_CPU_ROW(xielu_dalpha, run_xielu_dalpha, dalpha_workspace);
