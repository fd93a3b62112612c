/* wkv: the weighted mean over the past of RWKV 4, forward and backward; a channel is a recurrence of its own.
 *   y_t = (Σ_{j<t} e^{w·(t−1−j) + k_j}·v_j + e^{u + k_t}·v_t) / (the same without v),  j from the first row
 * of the document with w <= 0.  Both sums decay by e^w a row; they are held relative to their largest
 * exponent.  Body in wkv.inc. Source: Peng et al. 2023, section 3.1. */
#include "kernels_cpu.h"

#include <omp.h>

typedef struct am_wkv {
    int64_t n, width;
    const int32_t *index, *doc;
    const void *state; /* [3, width]: numerator, denominator, exponent */
    void *new_state;
    size_t kept_bytes; /* backward, of a thread */
} am_wkv;

static am_wkv am_wkv_of(const am_kernel_call *c, int backward)
{
    const am_tensor *in = c->in + backward;
    am_wkv t = {.n = in[0].dim[0],
                .width = in[0].dim[1],
                .index = in[4].data,
                .doc = in[5].data,
                .kept_bytes =
                    (size_t)am_round_up(3 * in[0].dim[0] * 64, 128)}; /* a vector is 64 bytes at most */
    if (!backward && c->num_in > 6) t.state = in[6].data;
    if (!backward && c->num_out > 1) t.new_state = c->out[1].data;
    return t;
}

#define AM_BODY "wkv.inc"
#include "kernels_cpu_each.h"

AM_CPU_RANGES(wkv);
AM_CPU_RANGES(wkv_bwd);

static size_t forward_workspace(const am_kernel_call *c)
{
    return 3 * (size_t)c->in[0].dim[1] * sizeof(double);
}
static size_t backward_workspace(const am_kernel_call *c)
{
    return am_wkv_of(c, 1).kept_bytes * (size_t)c->threads;
}

static am_status run(const am_kernel_call *c, const char *op, const char *signature, am_dtype real,
                     size_t need, const am_cpu_range_table ranges)
{
    am_status st = AM_OK;
    am_cpu_dims dims;
    AM_TRY(am_cpu_check(c, op, signature, real, &dims));
    AM_CHECK(c->workspace_bytes >= need, AM_ERR_INTERNAL, "kernel %s: workspace of %zu bytes, %zu needed", op,
             c->workspace_bytes, need);
    am_cpu_for(c, dims.of['C'], 64, 8 * dims.of['N'] * (int64_t)am_dtype_bytes(real),
               am_cpu_pick(ranges, real));
done:
    return st;
}

static am_status run_forward(const am_kernel_call *c, am_dtype real)
{
    return run(
        c, "wkv",
        "k:r[N,C] v:r[N,C] w:w[C] u:w[C] index:i[N] doc_start:i[N] state:w[s,C]? > y:r[N,C] state:w[s,C]?",
        real, forward_workspace(c), wkv_ranges);
}
static am_status run_backward(const am_kernel_call *c, am_dtype real)
{
    return run(c, "wkv_bwd",
               "dy:r[N,C] k:r[N,C] v:r[N,C] w:w[C] u:w[C] index:i[N] doc_start:i[N] > dk:r[N,C] dv:r[N,C] "
               "dw:w[C] du:w[C]",
               real, backward_workspace(c), wkv_bwd_ranges);
}

AM_CPU_ROW(wkv, run_forward, forward_workspace);
AM_CPU_ROW(wkv_bwd, run_backward, backward_workspace);
