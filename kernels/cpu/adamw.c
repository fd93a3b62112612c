/* adamw: the optimizer's update of master weights and both moments, in place, over [offset, offset+count).
 * count is taken literally: 0 updates nothing.  Scalars read: LR, STEP, CLIP (a factor of the gradient:
 * whoever runs no clip_coef writes 1), SKIP. */
#include "kernels_cpu.h"

#define AM_BODY "adamw.inc"
#include "kernels_cpu_each.h"

AM_CPU_RANGES(adamw);

static am_status run_adamw(const am_kernel_call *c, am_dtype real)
{
    am_status st = AM_OK;
    am_cpu_dims dims;
    const am_attrs *a = c->attrs;
    AM_TRY(am_cpu_check(c, "adamw",
                        "scalars:d[S] g:w[n] master:w[n] m:w[n] v:w[n] > master:w[n] m:w[n] v:w[n]", real,
                        &dims));
    AM_CHECK(dims.of['S'] >= AM_SCALAR_COUNT, AM_ERR_SHAPE, "kernel adamw: %lld scalars, %d needed",
             (long long)dims.of['S'], (int)AM_SCALAR_COUNT);
    for (int i = 0; i < 3; i++)
        AM_CHECK(c->in[2 + i].data == c->out[i].data, AM_ERR_INTERNAL,
                 "kernel adamw works in place: output %d is not input %d", i, 2 + i);
    AM_CHECK(a->offset >= 0 && a->count >= 0 && a->offset <= dims.of['n'] - a->count, AM_ERR_SHAPE,
             "kernel adamw: the range [%lld, +%lld) leaves the %lld elements", (long long)a->offset,
             (long long)a->count, (long long)dims.of['n']);
    const double *scalars = c->in[0].data;
    if (scalars[AM_SCALAR_SKIP] != 0) goto done;
    AM_CHECK(scalars[AM_SCALAR_STEP] >= 1, AM_ERR_INTERNAL, "kernel adamw: step %g, the first is 1",
             scalars[AM_SCALAR_STEP]);
    am_cpu_for(c, a->count, 64, 7 * (int64_t)am_dtype_bytes(am_cpu_wide(real)),
               am_cpu_pick(adamw_ranges, real));
done:
    return st;
}

AM_CPU_ROW(adamw, run_adamw, NULL);
