/* rmsnorm: root-mean-square normalisation, its input gradient and its weight gradient.  Bodies in rmsnorm.inc
 * (rows) and columns.inc (sums over rows).  y = round(x·rstd)·(w+plus), or one rounding with weight_f32, as
 * the families do: Llama rounds before the weight, Gemma and OLMo 2 after it. */
#include "columns.h"

#define AM_BODY "rmsnorm_all.inc"
#include "kernels_cpu_each.h"

AM_CPU_RANGES(rmsnorm);
AM_CPU_RANGES(rmsnorm_dx);
AM_CPU_RANGES(rmsnorm_dw);
AM_CPU_RANGES(bias_db);
AM_CPU_RANGES(add_blocks);

/* groups: a row of the weight covers so many rows of x */
static am_status check_groups(const am_kernel_call *c, const char *op, const am_cpu_dims *dims)
{
    am_status st = AM_OK;
    const int64_t groups = am_max_i64(c->attrs->groups, 1);
    AM_CHECK(dims->of['M'] % groups == 0 && (dims->of['W'] < 0 || dims->of['W'] == groups * dims->of['d']), AM_ERR_SHAPE,
             "kernel %s: %lld weights for %lld groups of %lld features in %lld rows", op, (long long)dims->of['W'],
             (long long)groups, (long long)dims->of['d'], (long long)dims->of['M']);
done:
    return st;
}

static am_status run_rmsnorm(const am_kernel_call *c, am_dtype real)
{
    am_status st = AM_OK;
    am_cpu_dims dims;
    AM_TRY(am_cpu_check(c, "rmsnorm", "x:r[M,d] w:r[W]? > y:r[M,d] rstd:w[M]", real, &dims));
    AM_TRY(check_groups(c, "rmsnorm", &dims));
    am_cpu_for(c, dims.of['M'], 1, 2 * dims.of['d'] * (int64_t)am_dtype_bytes(real),
               am_cpu_pick(rmsnorm_ranges, real));
done:
    return st;
}

static am_status run_rmsnorm_dx(const am_kernel_call *c, am_dtype real)
{
    am_status st = AM_OK;
    am_cpu_dims dims;
    AM_TRY(am_cpu_check(c, "rmsnorm_dx", "dy:r[M,d] x:r[M,d] w:r[W]? rstd:w[M] > dx:r[M,d] +", real, &dims));
    AM_TRY(check_groups(c, "rmsnorm_dx", &dims));
    am_cpu_for(c, dims.of['M'], 1, 3 * dims.of['d'] * (int64_t)am_dtype_bytes(real),
               am_cpu_pick(rmsnorm_dx_ranges, real));
done:
    return st;
}

/* bias_db and rmsnorm_dw: blocks of rows, then columns */
static am_status sum_columns(const am_kernel_call *c, const char *op, const char *signature, am_dtype real,
                             const am_cpu_range_table ranges)
{
    am_status st = AM_OK;
    am_cpu_dims dims;
    AM_TRY(am_cpu_check(c, op, signature, real, &dims));
    AM_TRY(check_groups(c, op, &dims));
    const int64_t d = dims.of['W'] >= 0 ? dims.of['W'] : dims.of['d'];
    const int64_t rows = dims.of['M'] * dims.of['d'] / am_max_i64(d, 1);
    size_t need = am_cpu_columns_workspace(rows, d, am_cpu_wide(real));
    AM_CHECK(c->workspace_bytes >= need, AM_ERR_INTERNAL, "kernel %s: workspace of %zu bytes, %zu needed", op,
             c->workspace_bytes, need);
    int blocks = am_cpu_blocks(rows);
    am_cpu_for2(c, blocks, 1, am_ceil_div(rows, blocks) * d * (int64_t)am_dtype_bytes(real),
                am_cpu_pick(ranges, real), d, 64, am_cpu_pick(add_blocks_ranges, real));
done:
    return st;
}

static am_status run_rmsnorm_dw(const am_kernel_call *c, am_dtype real)
{
    return sum_columns(c, "rmsnorm_dw", "dy:r[M,d] x:r[M,d] rstd:w[M] > dw:w[W] +", real, rmsnorm_dw_ranges);
}

static am_status run_bias_db(const am_kernel_call *c, am_dtype real)
{
    return sum_columns(c, "bias_db", "dy:r[M,d] > db:w[d] +", real, bias_db_ranges);
}

static size_t columns_workspace(const am_kernel_call *c)
{
    int64_t d = c->out[0].dim[0];
    return am_cpu_columns_workspace(am_tensor_elements(&c->in[0]) / am_max_i64(d, 1), d, c->out[0].dtype);
}

AM_CPU_ROW(rmsnorm, run_rmsnorm, NULL);
AM_CPU_ROW(rmsnorm_dx, run_rmsnorm_dx, NULL);
AM_CPU_ROW(rmsnorm_dw, run_rmsnorm_dw, columns_workspace);
AM_CPU_ROW(bias_db, run_bias_db, columns_workspace);
