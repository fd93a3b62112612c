/* act: activations and gated activations, forward and backward.  Bodies in act.inc.
 * Numerics: f32 within a few ulp of the exact function (kernels_cpu_vec.h); bf16 rounds once, at the store.
 */
#include "kernels_cpu.h"

#define AM_BODY "act.inc"
#include "kernels_cpu_each.h"

AM_CPU_RANGES(act);
AM_CPU_RANGES(act_bwd);
AM_CPU_RANGES(act_mul);
AM_CPU_RANGES(act_mul_bwd);

static am_status run(const am_kernel_call *c, const char *op, const char *signature, am_dtype real,
                     const am_cpu_range_table ranges)
{
    am_status st = AM_OK;
    am_cpu_dims dims;
    AM_TRY(am_cpu_check(c, op, signature, real, &dims));
    AM_CHECK(c->attrs->act >= 0 && c->attrs->act < AM_ACT_COUNT, AM_ERR_INTERNAL,
             "kernel %s: no activation %lld", op, (long long)c->attrs->act);
    am_cpu_for(c, dims.of['M'], 64, 16 * (int64_t)am_dtype_bytes(real), am_cpu_pick(ranges, real));
done:
    return st;
}

static am_status run_act(const am_kernel_call *c, am_dtype real)
{
    return run(c, "act", "x:r[M] > y:r[M]", real, act_ranges);
}
static am_status run_act_bwd(const am_kernel_call *c, am_dtype real)
{
    return run(c, "act_bwd", "dy:r[M] x:r[M] > dx:r[M]", real, act_bwd_ranges);
}
static am_status run_act_mul(const am_kernel_call *c, am_dtype real)
{
    return run(c, "act_mul", "g:r[M] u:r[M] > y:r[M]", real, act_mul_ranges);
}
static am_status run_act_mul_bwd(const am_kernel_call *c, am_dtype real)
{
    return run(c, "act_mul_bwd", "dy:r[M] g:r[M] u:r[M] > dg:r[M] du:r[M]", real, act_mul_bwd_ranges);
}

AM_CPU_ROW(act, run_act, NULL);
AM_CPU_ROW(act_bwd, run_act_bwd, NULL);
AM_CPU_ROW(act_mul, run_act_mul, NULL);
AM_CPU_ROW(act_mul_bwd, run_act_mul_bwd, NULL);
