/* topk: the k largest of a row with their indices, the mask of the k largest, and values by index with the
 * gradient. Of equal values the one with the lowest index is the larger: PyTorch leaves that open, here it is
 * fixed. */
#include "kernels_cpu.h"

#define AM_BODY "topk.inc"
#include "kernels_cpu_each.h"

AM_CPU_RANGES(topk);
AM_CPU_RANGES(topmask);
AM_CPU_RANGES(pick);
AM_CPU_RANGES(pick_bwd);

static am_status check_count(const char *op, int64_t k, int64_t width)
{
    am_status st = AM_OK;
    AM_CHECK(k >= 1 && k <= width, AM_ERR_SHAPE, "kernel %s: the %lld largest of %lld values", op,
             (long long)k, (long long)width);
done:
    return st;
}

static am_status check_index(const char *op, const am_tensor *index, int64_t width)
{
    am_status st = AM_OK;
    const int32_t *at = index->data;
    const int64_t n = am_tensor_elements(index);
    for (int64_t i = 0; i < n; i++)
        AM_CHECK(at[i] >= 0 && at[i] < width, AM_ERR_INTERNAL,
                 "kernel %s: index %lld is %d, there are %lld values", op, (long long)i, at[i],
                 (long long)width);
done:
    return st;
}

static am_status run_topk(const am_kernel_call *c, am_dtype real)
{
    am_status st = AM_OK;
    am_cpu_dims d;
    AM_TRY(am_cpu_check(c, "topk", "x:r[M,E] > y:r[M,K] index:i[M,K]", real, &d));
    AM_TRY(check_count("topk", d.of['K'], d.of['E']));
    am_cpu_for(c, d.of['M'], 1, 8 * d.of['E'] * (int64_t)am_dtype_bytes(real),
               am_cpu_pick(topk_ranges, real));
done:
    return st;
}

static am_status run_topmask(const am_kernel_call *c, am_dtype real)
{
    am_status st = AM_OK;
    am_cpu_dims d;
    AM_TRY(am_cpu_check(c, "topmask", "x:r[M,E] > y:r[M,E]", real, &d));
    AM_TRY(check_count("topmask", c->attrs->count, d.of['E']));
    am_cpu_for(c, d.of['M'], 1, 8 * d.of['E'] * c->attrs->count, am_cpu_pick(topmask_ranges, real));
done:
    return st;
}

static am_status run_pick(const am_kernel_call *c, am_dtype real)
{
    am_status st = AM_OK;
    am_cpu_dims d;
    AM_TRY(am_cpu_check(c, "pick", "x:r[M,E] index:i[M,K] > y:r[M,K]", real, &d));
    AM_TRY(check_index("pick", &c->in[1], d.of['E']));
    am_cpu_for(c, d.of['M'], 1, 4 * d.of['K'] * (int64_t)am_dtype_bytes(real),
               am_cpu_pick(pick_ranges, real));
done:
    return st;
}

static am_status run_pick_bwd(const am_kernel_call *c, am_dtype real)
{
    am_status st = AM_OK;
    am_cpu_dims d;
    AM_TRY(am_cpu_check(c, "pick_bwd", "dy:r[M,K] index:i[M,K] > dx:r[M,E]", real, &d));
    AM_TRY(check_index("pick_bwd", &c->in[1], d.of['E']));
    am_cpu_for(c, d.of['M'], 1, 2 * d.of['E'] * (int64_t)am_dtype_bytes(real),
               am_cpu_pick(pick_bwd_ranges, real));
done:
    return st;
}

AM_CPU_ROW(topk, run_topk, NULL);
AM_CPU_ROW(topmask, run_topmask, NULL);
AM_CPU_ROW(pick, run_pick, NULL);
AM_CPU_ROW(pick_bwd, run_pick_bwd, NULL);
