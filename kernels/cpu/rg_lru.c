/* rg_lru: the gated linear recurrence of Griffin (RecurrentGemma), forward and backward; a channel is a
 * recurrence of its own. h_t = e^{l_t}·h_{t−1} + √(1 − e^{2·l_t})·x_t;   at the first row of a document h_t =
 * x_t Backward reads h_{t−1} as forward stored it.  Body in rg_lru.inc.  Source: De et al. 2024, section 2.4.
 */
#include "kernels_cpu.h"

typedef struct am_rg_lru {
    int64_t n, width;
    const int32_t *index, *doc;
    const void *state;
    void *new_state;
} am_rg_lru;

/* backward: dy stands in front, y behind l, and nothing is kept */
static am_rg_lru am_rg_lru_of(const am_kernel_call *c, int backward)
{
    const am_tensor *rest = c->in + (backward ? 4 : 2);
    am_rg_lru t = {
        .n = c->in[0].dim[0], .width = c->in[0].dim[1], .index = rest[0].data, .doc = rest[1].data};
    if (!backward && c->num_in > 4) t.state = c->in[4].data;
    if (!backward && c->num_out > 1) t.new_state = c->out[1].data;
    return t;
}

#define AM_BODY "rg_lru.inc"
#include "kernels_cpu_each.h"

AM_CPU_RANGES(rg_lru);
AM_CPU_RANGES(rg_lru_bwd);

static size_t workspace(const am_kernel_call *c)
{
    return (size_t)c->in[0].dim[1] * sizeof(double);
}

static am_status run(const am_kernel_call *c, const char *op, const char *signature, am_dtype real,
                     const am_cpu_range_table ranges)
{
    am_status st = AM_OK;
    am_cpu_dims dims;
    AM_TRY(am_cpu_check(c, op, signature, real, &dims));
    AM_CHECK(c->workspace_bytes >= workspace(c), AM_ERR_INTERNAL,
             "kernel %s: workspace of %zu bytes, %zu needed", op, c->workspace_bytes, workspace(c));
    am_cpu_for(c, dims.of['C'], 64, 8 * dims.of['N'] * (int64_t)am_dtype_bytes(real),
               am_cpu_pick(ranges, real));
done:
    return st;
}

static am_status run_forward(const am_kernel_call *c, am_dtype real)
{
    return run(c, "rg_lru", "x:r[N,C] l:p[N,C] index:i[N] doc_start:i[N] state:w[C]? > y:r[N,C] state:w[C]?",
               real, rg_lru_ranges);
}
static am_status run_backward(const am_kernel_call *c, am_dtype real)
{
    return run(c, "rg_lru_bwd",
               "dy:r[N,C] x:r[N,C] l:p[N,C] y:r[N,C] index:i[N] doc_start:i[N] > dx:r[N,C] dl:p[N,C]", real,
               rg_lru_bwd_ranges);
}

AM_CPU_ROW(rg_lru, run_forward, workspace);
AM_CPU_ROW(rg_lru_bwd, run_backward, workspace);
