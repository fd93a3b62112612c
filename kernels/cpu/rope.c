/* rope: rotary positions: the angles once per step, the rotation of queries and keys.  Bodies in rope.inc.
 * Angles are position × frequency rounded to f32 as transformers forms them, their sine and cosine then exact
 * to f32 whatever the position; in bf16 cosine and sine are rounded to bf16 before the products, the result
 * once. */
#include "kernels_cpu.h"

#include <string.h>

#define AM_BODY "rope.inc"
#include "kernels_cpu_each.h"

AM_CPU_RANGES(rope_angles);
AM_CPU_RANGES(rope);

static am_status run_rope_angles(const am_kernel_call *c, am_dtype real)
{
    am_status st = AM_OK;
    am_cpu_dims dims;
    AM_TRY(am_cpu_check(c, "rope_angles", "pos:i[N] inv_freq:w[r] > cos:w[N,r] sin:w[N,r]", real, &dims));
    am_cpu_for(c, dims.of['N'], 1, 64 * dims.of['r'], am_cpu_pick(rope_angles_ranges, real));
done:
    return st;
}

static am_status run_rope(const am_kernel_call *c, am_dtype real)
{
    am_status st = AM_OK;
    am_cpu_dims dims;
    AM_TRY(am_cpu_check(c, "rope", "x:r[N,H,d] cos:w[N,r] sin:w[N,r] > y:r[N,H,d]", real, &dims));
    AM_CHECK(2 * dims.of['r'] <= dims.of['d'], AM_ERR_SHAPE,
             "kernel rope: %lld angles turn %lld features, a head has %lld", (long long)dims.of['r'],
             2 * (long long)dims.of['r'], (long long)dims.of['d']);
    am_cpu_for(c, dims.of['N'], 1, 2 * dims.of['H'] * dims.of['d'] * (int64_t)am_dtype_bytes(real),
               am_cpu_pick(rope_ranges, real));
done:
    return st;
}

AM_CPU_ROW(rope_angles, run_rope_angles, NULL);
AM_CPU_ROW(rope, run_rope, NULL);
