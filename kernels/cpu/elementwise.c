/* elementwise: add, mul, scale, softcap and its gradient.  Bodies in elementwise.inc; an output may be an
 * input. */
#include "kernels_cpu.h"

#define AM_BODY "elementwise.inc"
#include "kernels_cpu_each.h"

AM_CPU_RANGES(add);
AM_CPU_RANGES(mul);
AM_CPU_RANGES(scale);
AM_CPU_RANGES(softcap);
AM_CPU_RANGES(softcap_bwd);

static am_status run(const am_kernel_call *c, const char *op, const char *signature, am_dtype real,
                     const am_cpu_range_table ranges)
{
    am_status st = AM_OK;
    am_cpu_dims dims;
    AM_TRY(am_cpu_check(c, op, signature, real, &dims));
    am_cpu_for(c, dims.of['M'], 64, 3 * (int64_t)am_dtype_bytes(real), am_cpu_pick(ranges, real));
done:
    return st;
}

static am_status run_add(const am_kernel_call *c, am_dtype real)
{
    return run(c, "add", "a:r[M] b:r[M] > y:r[M]", real, add_ranges);
}
static am_status run_mul(const am_kernel_call *c, am_dtype real)
{
    return run(c, "mul", "a:r[M] b:r[M] > y:r[M]", real, mul_ranges);
}
static am_status run_scale(const am_kernel_call *c, am_dtype real)
{
    return run(c, "scale", "x:r[M] > y:r[M]", real, scale_ranges);
}

static am_status run_softcap(const am_kernel_call *c, am_dtype real)
{
    am_status st = AM_OK;
    AM_CHECK(c->attrs->softcap > 0, AM_ERR_INTERNAL, "kernel softcap: the cap %g is not positive",
             c->attrs->softcap);
    AM_TRY(run(c, "softcap", "x:r[M] > y:r[M]", real, softcap_ranges));
done:
    return st;
}
static am_status run_softcap_bwd(const am_kernel_call *c, am_dtype real)
{
    am_status st = AM_OK;
    AM_CHECK(c->attrs->softcap > 0, AM_ERR_INTERNAL, "kernel softcap_bwd: the cap %g is not positive",
             c->attrs->softcap);
    AM_TRY(run(c, "softcap_bwd", "dy:r[M] x:r[M] > dx:r[M]", real, softcap_bwd_ranges));
done:
    return st;
}

AM_CPU_ROW(add, run_add, NULL);
AM_CPU_ROW(mul, run_mul, NULL);
AM_CPU_ROW(scale, run_scale, NULL);
AM_CPU_ROW(softcap, run_softcap, NULL);
AM_CPU_ROW(softcap_bwd, run_softcap_bwd, NULL);
