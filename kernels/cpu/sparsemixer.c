/* sparsemixer: SparseMixer-v2's choice of two experts (Liu et al. 2024, arXiv:2409.12136) without its
 * sampling: the largest score, then the largest of the rest; each weighs its share of a softmax over the
 * scores that lie near it.  With this choice its gradient estimator is the derivative of that share. */
#include "kernels_cpu.h"

#define AM_BODY "sparsemixer.inc"
#include "kernels_cpu_each.h"

AM_CPU_RANGES(sparsemixer);
AM_CPU_RANGES(sparsemixer_bwd);

static am_status check_sizes(const am_cpu_dims *d)
{
    am_status st = AM_OK;
    AM_CHECK(d->of['K'] == 2 && d->of['E'] >= 2, AM_ERR_SHAPE,
             "kernel sparsemixer: %lld of %lld scores; it picks two", (long long)d->of['K'],
             (long long)d->of['E']);
done:
    return st;
}

static am_status run_sparsemixer(const am_kernel_call *c, am_dtype real)
{
    am_status st = AM_OK;
    am_cpu_dims d;
    AM_TRY(am_cpu_check(c, "sparsemixer", "x:r[N,E] > y:r[N,K] index:i[N,K]", real, &d));
    AM_TRY(check_sizes(&d));
    am_cpu_for(c, d.of['N'], 1, 64 * d.of['E'], am_cpu_pick(sparsemixer_ranges, real));
done:
    return st;
}

static am_status run_sparsemixer_bwd(const am_kernel_call *c, am_dtype real)
{
    am_status st = AM_OK;
    am_cpu_dims d;
    AM_TRY(am_cpu_check(c, "sparsemixer_bwd", "dy:r[N,K] x:r[N,E] index:i[N,K] > dx:r[N,E]", real, &d));
    AM_TRY(check_sizes(&d));
    am_cpu_for(c, d.of['N'], 1, 128 * d.of['E'], am_cpu_pick(sparsemixer_bwd_ranges, real));
done:
    return st;
}

AM_CPU_ROW(sparsemixer, run_sparsemixer, NULL);
AM_CPU_ROW(sparsemixer_bwd, run_sparsemixer_bwd, NULL);
