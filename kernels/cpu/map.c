/* map: functions of one number: y = f(x) and dx = dy·f'(x).  Bodies in map.inc; f32 within a few ulp (kernels_cpu_vec.h). */
#include "kernels_cpu.h"

#define AM_BODY "map.inc"
#include "kernels_cpu_each.h"

AM_CPU_RANGES(map);
AM_CPU_RANGES(map_bwd);

static am_status run(const am_kernel_call *c, const char *op, const char *signature, am_dtype real,
                     const am_cpu_range_table ranges)
{
    am_status st = AM_OK;
    am_cpu_dims dims;
    AM_TRY(am_cpu_check(c, op, signature, real, &dims));
    AM_CHECK(c->attrs->map >= 0 && c->attrs->map < AM_MAP_COUNT, AM_ERR_INTERNAL, "kernel %s: no function %lld", op,
             (long long)c->attrs->map);
    am_cpu_for(c, dims.of['M'], 64, 8 * (int64_t)am_dtype_bytes(real), am_cpu_pick(ranges, real));
done:
    return st;
}

static am_status run_map(const am_kernel_call *c, am_dtype real)
{
    return run(c, "map", "x:r[M] > y:r[M]", real, map_ranges);
}
static am_status run_map_bwd(const am_kernel_call *c, am_dtype real)
{
    return run(c, "map_bwd", "dy:r[M] x:r[M] > dx:r[M]", real, map_bwd_ranges);
}

AM_CPU_ROW(map, run_map, NULL);
AM_CPU_ROW(map_bwd, run_map_bwd, NULL);
