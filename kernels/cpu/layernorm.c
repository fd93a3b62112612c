/* layernorm: normalisation by mean and variance, its input gradient and its weight gradient (the bias' is bias_db).  Bodies in
 * layernorm.inc; fp32 within, one rounding at the store.  groups: a row of features is that many rows, the weight goes on from
 * one to the next. */
#include "columns.h"

#define AM_BODY "layernorm.inc"
#include "kernels_cpu_each.h"

AM_CPU_RANGES(layernorm);
AM_CPU_RANGES(layernorm_dx);
AM_CPU_RANGES(layernorm_dw);
AM_CPU_RANGES(add_blocks);

static am_status check(const am_kernel_call *c, const char *op, const char *signature, am_dtype real, am_cpu_dims *dims)
{
    am_status st = AM_OK;
    const int64_t groups = am_max_i64(c->attrs->groups, 1);
    AM_TRY(am_cpu_check(c, op, signature, real, dims));
    AM_CHECK(dims->of['W'] < 0 || dims->of['W'] == groups * dims->of['d'], AM_ERR_SHAPE,
             "kernel %s: %lld weights for %lld groups of %lld features", op, (long long)dims->of['W'], (long long)groups,
             (long long)dims->of['d']);
    AM_CHECK(dims->of['M'] % groups == 0, AM_ERR_SHAPE, "kernel %s: %lld rows are not whole groups of %lld", op,
             (long long)dims->of['M'], (long long)groups);
done:
    return st;
}

static am_status run_layernorm(const am_kernel_call *c, am_dtype real)
{
    am_status st = AM_OK;
    am_cpu_dims dims;
    AM_TRY(check(c, "layernorm", "x:r[M,d] w:r[W]? b:r[W]? > y:r[M,d] mean:w[M] rstd:w[M]", real, &dims));
    am_cpu_for(c, dims.of['M'], 1, 2 * dims.of['d'] * (int64_t)am_dtype_bytes(real), am_cpu_pick(layernorm_ranges, real));
done:
    return st;
}

static am_status run_layernorm_dx(const am_kernel_call *c, am_dtype real)
{
    am_status st = AM_OK;
    am_cpu_dims dims;
    AM_TRY(check(c, "layernorm_dx", "dy:r[M,d] x:r[M,d] w:r[W]? mean:w[M] rstd:w[M] > dx:r[M,d] +", real, &dims));
    am_cpu_for(c, dims.of['M'], 1, 3 * dims.of['d'] * (int64_t)am_dtype_bytes(real), am_cpu_pick(layernorm_dx_ranges, real));
done:
    return st;
}

static size_t dw_workspace(const am_kernel_call *c)
{
    int64_t d = c->out[0].dim[0];
    return am_cpu_columns_workspace(am_tensor_elements(&c->in[0]) / am_max_i64(d, 1), d, c->out[0].dtype);
}

static am_status run_layernorm_dw(const am_kernel_call *c, am_dtype real)
{
    am_status st = AM_OK;
    am_cpu_dims dims;
    AM_TRY(check(c, "layernorm_dw", "dy:r[M,d] x:r[M,d] mean:w[M] rstd:w[M] > dw:w[W] +", real, &dims));
    AM_CHECK(c->workspace_bytes >= dw_workspace(c), AM_ERR_INTERNAL, "kernel layernorm_dw: workspace of %zu bytes, %zu needed",
             c->workspace_bytes, dw_workspace(c));
    int64_t width = dims.of['W'], rows = dims.of['M'] * dims.of['d'] / am_max_i64(width, 1);
    int blocks = am_cpu_blocks(rows);
    am_cpu_for2(c, blocks, 1, am_ceil_div(rows, blocks) * width * (int64_t)am_dtype_bytes(real),
                am_cpu_pick(layernorm_dw_ranges, real), width, 64, am_cpu_pick(add_blocks_ranges, real));
done:
    return st;
}

AM_CPU_ROW(layernorm, run_layernorm, NULL);
AM_CPU_ROW(layernorm_dx, run_layernorm_dx, NULL);
AM_CPU_ROW(layernorm_dw, run_layernorm_dw, dw_workspace);
