/* loss: from log-sum-exp and target logit per token to the step's loss, and the weight of each token in
 * backward. */
#include "kernels_cpu.h"

#include <string.h>

static am_status check_scalars(const char *op, const am_cpu_dims *dims)
{
    am_status st = AM_OK;
    AM_CHECK(dims->of['S'] >= AM_SCALAR_COUNT, AM_ERR_SHAPE, "kernel %s: %lld scalars, %d needed", op,
             (long long)dims->of['S'], (int)AM_SCALAR_COUNT);
done:
    return st;
}

/* Σ(lse − target) in double, in the order of the tokens, on one thread */
static am_status run_loss_sum(const am_kernel_call *c, am_dtype real)
{
    am_status st = AM_OK;
    am_cpu_dims dims;
    AM_TRY(am_cpu_check(c, "loss_sum", "lse:w[N] target:w[N] labels:i[N] scalars:d[S] > scalars:d[S]", real,
                        &dims));
    AM_TRY(check_scalars("loss_sum", &dims));
    const int32_t *labels = c->in[2].data;
    double *s = c->out[0].data, sum = 0;
    int64_t count = 0;
    if (s != c->in[3].data) memcpy(s, c->in[3].data, (size_t)dims.of['S'] * sizeof *s);
    for (int64_t t = 0; t < dims.of['N']; t++) {
        if (labels[t] < 0) continue;
        count++;
        if (real == AM_F64)
            sum += ((const double *)c->in[0].data)[t] - ((const double *)c->in[1].data)[t];
        else
            sum += (double)((const float *)c->in[0].data)[t] - (double)((const float *)c->in[1].data)[t];
    }
    s[AM_SCALAR_LOSS_SUM] += sum;
    s[AM_SCALAR_LOSS_COUNT] += (double)count;
done:
    return st;
}

static am_status run_loss_dlogp(const am_kernel_call *c, am_dtype real)
{
    am_status st = AM_OK;
    am_cpu_dims dims;
    AM_TRY(am_cpu_check(c, "loss_dlogp", "labels:i[N] scalars:d[S] > dlogp:w[N]", real, &dims));
    AM_TRY(check_scalars("loss_dlogp", &dims));
    const int32_t *labels = c->in[0].data;
    const double weight = -((const double *)c->in[1].data)[AM_SCALAR_INV_N];
    for (int64_t t = 0; t < dims.of['N']; t++) {
        double w = labels[t] < 0 ? 0.0 : weight;
        if (real == AM_F64)
            ((double *)c->out[0].data)[t] = w;
        else
            ((float *)c->out[0].data)[t] = (float)w;
    }
done:
    return st;
}

AM_CPU_ROW(loss_sum, run_loss_sum, NULL);
AM_CPU_ROW(loss_dlogp, run_loss_dlogp, NULL);
