/* reduce: rank_sum (parts of all ranks added in rank order), sumsq (sum of squares in fixed blocks) and
 * clip_coef (global norm and clipping factor).  None depends on the number of threads. */
#include "kernels_cpu.h"

#include <math.h>
#include <string.h>

#define SUMSQ_BLOCK 4096

#define AM_BODY "reduce.inc"
#include "kernels_cpu_each.h"

AM_CPU_RANGES(sumsq);
AM_CPU_RANGES(rank_sum);

static am_status run_rank_sum(const am_kernel_call *c, am_dtype real)
{
    am_status st = AM_OK;
    am_cpu_dims dims;
    const am_dtype type = c->in[0].dtype;
    AM_TRY(am_cpu_check(c, "rank_sum", "parts:x[P,.] > y:x[.] +", real, &dims));
    AM_CHECK(dims.of['P'] >= 1, AM_ERR_SHAPE, "kernel rank_sum: no parts");
    AM_CHECK(type == c->out[0].dtype && (type == am_cpu_wide(real) || type == real), AM_ERR_SHAPE,
             "kernel rank_sum: parts in %s, their sum in %s", am_dtype_name(type), am_dtype_name(c->out[0].dtype));
    am_cpu_for(c, dims.of['.'], 64, (dims.of['P'] + 1) * (int64_t)am_dtype_bytes(type), am_cpu_pick(rank_sum_ranges, type));
done:
    return st;
}

static size_t sumsq_workspace(const am_kernel_call *c)
{
    return (size_t)am_ceil_div(am_tensor_elements(&c->in[0]), SUMSQ_BLOCK) * sizeof(double);
}

static am_status run_sumsq(const am_kernel_call *c, am_dtype real)
{
    am_status st = AM_OK;
    am_cpu_dims dims;
    AM_TRY(am_cpu_check(c, "sumsq", "g:w[n] > s:d[o] +", real, &dims));
    AM_CHECK(c->workspace_bytes >= sumsq_workspace(c), AM_ERR_INTERNAL,
             "kernel sumsq: workspace of %zu bytes, %zu needed", c->workspace_bytes, sumsq_workspace(c));
    int64_t blocks = am_ceil_div(dims.of['n'], SUMSQ_BLOCK);
    am_cpu_for(c, blocks, 1, SUMSQ_BLOCK * (int64_t)am_dtype_bytes(am_cpu_wide(real)),
               am_cpu_pick(sumsq_ranges, real));
    const double *partial = c->workspace;
    double sum = 0, *s = c->out[0].data;
    for (int64_t b = 0; b < blocks; b++) sum += partial[b];
    *s = c->accumulate ? *s + sum : sum;
done:
    return st;
}

/* torch.nn.utils.clip_grad_norm_: factor min(1, max_norm / (norm + 1e-6)) */
static am_status run_clip_coef(const am_kernel_call *c, am_dtype real)
{
    am_status st = AM_OK;
    am_cpu_dims dims;
    AM_TRY(am_cpu_check(c, "clip_coef", "parts:d[P] scalars:d[S] > scalars:d[S]", real, &dims));
    AM_CHECK(dims.of['S'] >= AM_SCALAR_COUNT, AM_ERR_SHAPE, "kernel clip_coef: %lld scalars, %d needed",
             (long long)dims.of['S'], (int)AM_SCALAR_COUNT);
    const double *parts = c->in[0].data;
    double *s = c->out[0].data, sum = 0;
    if (s != c->in[1].data) memcpy(s, c->in[1].data, (size_t)dims.of['S'] * sizeof *s);
    for (int64_t i = 0; i < dims.of['P']; i++) sum += parts[i];
    double norm = sqrt(sum), max_norm = s[AM_SCALAR_MAX_NORM];
    s[AM_SCALAR_GRAD_NORM] = norm;
    if (!isfinite(norm)) {
        s[AM_SCALAR_CLIP] = 0;
        s[AM_SCALAR_SKIP] = 1;
    } else {
        s[AM_SCALAR_CLIP] = max_norm > 0 ? fmin(1.0, max_norm / (norm + 1e-6)) : 1.0;
    }
done:
    return st;
}

AM_CPU_ROW(rank_sum, run_rank_sum, NULL);
AM_CPU_ROW(sumsq, run_sumsq, sumsq_workspace);
AM_CPU_ROW(clip_coef, run_clip_coef, NULL);
