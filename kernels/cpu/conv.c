/* conv: causal convolution over time, a filter of k taps for each channel; its input gradient and its weight
 * gradient.  A tap that would reach before the first token of the document reads 0.  Bodies in conv.inc. */
#include "columns.h"

#define AM_BODY "conv.inc"
#include "kernels_cpu_each.h"

AM_CPU_RANGES(conv);
AM_CPU_RANGES(conv_turn);
AM_CPU_RANGES(conv_dx);
AM_CPU_RANGES(conv_dw);
AM_CPU_RANGES(conv_dw_add);

static am_status want_workspace(const am_kernel_call *c, const char *op, size_t need)
{
    am_status st = AM_OK;
    AM_CHECK(c->workspace_bytes >= need, AM_ERR_INTERNAL, "kernel %s: workspace of %zu bytes, %zu needed", op,
             c->workspace_bytes, need);
done:
    return st;
}

/* taps and bias, channels side by side */
static size_t turned_bytes(int64_t channels, int64_t k)
{
    return (size_t)(channels * (k + 1)) * sizeof(double);
}
static size_t conv_workspace(const am_kernel_call *c)
{
    return turned_bytes(c->in[1].dim[0], c->in[1].dim[1]);
}

/* The last k - 1 inputs, the oldest first: in place where the operands are one. */
static void keep_inputs(const am_kernel_call *c, am_dtype real, int64_t n, int64_t channels)
{
    const size_t row = (size_t)channels * am_dtype_bytes(real);
    const int64_t kept = c->out[1].dim[0];
    for (int64_t r = 0; r < kept; r++) {
        char *to = (char *)c->out[1].data + (size_t)r * row;
        if (r + n >= kept)
            memcpy(to, (const char *)c->in[0].data + (size_t)(r + n - kept) * row, row);
        else if (c->in[5].data)
            memmove(to, (const char *)c->in[5].data + (size_t)(r + n) * row, row);
        else
            memset(to, 0, row);
    }
}

static am_status run_conv(const am_kernel_call *c, am_dtype real)
{
    am_status st = AM_OK;
    am_cpu_dims dims;
    AM_TRY(am_cpu_check(
        c, "conv",
        "x:r[N,C] w:r[C,k] bias:r[C]? index:i[N] doc_start:i[N] state:r[j,C]? > y:r[N,C] state:r[j,C]?", real,
        &dims));
    const int64_t n = dims.of['N'], channels = dims.of['C'], k = dims.of['k'];
    AM_CHECK(dims.of['j'] < 0 || dims.of['j'] == k - 1, AM_ERR_SHAPE,
             "kernel conv: a state of %" PRId64 " inputs, %" PRId64 " taps need %" PRId64, dims.of['j'], k,
             k - 1);
    AM_TRY(want_workspace(c, "conv", turned_bytes(channels, k)));
    am_cpu_for2(c, channels, 64, 2 * n * (int64_t)am_dtype_bytes(real), am_cpu_pick(conv_turn_ranges, real),
                n, 1, am_cpu_pick(conv_ranges, real));
    if (dims.of['j'] > 0 && c->num_out > 1 && c->out[1].data) keep_inputs(c, real, n, channels);
done:
    return st;
}

static am_status run_conv_dx(const am_kernel_call *c, am_dtype real)
{
    am_status st = AM_OK;
    am_cpu_dims dims;
    AM_TRY(
        am_cpu_check(c, "conv_dx", "dy:r[N,C] w:r[C,k] index:i[N] doc_start:i[N] > dx:r[N,C]", real, &dims));
    AM_TRY(want_workspace(c, "conv_dx", turned_bytes(dims.of['C'], dims.of['k'])));
    am_cpu_for2(c, dims.of['C'], 64, 2 * dims.of['N'] * (int64_t)am_dtype_bytes(real),
                am_cpu_pick(conv_turn_ranges, real), dims.of['N'], 1, am_cpu_pick(conv_dx_ranges, real));
done:
    return st;
}

static size_t sums_bytes(int64_t n, int64_t channels, int64_t k)
{
    return (size_t)(am_cpu_blocks(n) * channels * k) * sizeof(double);
}
static size_t conv_dw_workspace(const am_kernel_call *c)
{
    return sums_bytes(c->in[0].dim[0], c->out[0].dim[0], c->out[0].dim[1]);
}

static am_status run_conv_dw(const am_kernel_call *c, am_dtype real)
{
    am_status st = AM_OK;
    am_cpu_dims dims;
    AM_TRY(am_cpu_check(c, "conv_dw", "dy:r[N,C] x:r[N,C] index:i[N] doc_start:i[N] > dw:w[C,k] +", real,
                        &dims));
    const int64_t n = dims.of['N'], channels = dims.of['C'];
    AM_TRY(want_workspace(c, "conv_dw", sums_bytes(n, channels, dims.of['k'])));
    const int blocks = am_cpu_blocks(n);
    am_cpu_for2(c, blocks, 1, am_ceil_div(n, blocks) * channels * 2 * (int64_t)am_dtype_bytes(real),
                am_cpu_pick(conv_dw_ranges, real), channels, 64, am_cpu_pick(conv_dw_add_ranges, real));
done:
    return st;
}

AM_CPU_ROW(conv, run_conv, conv_workspace);
AM_CPU_ROW(conv_dx, run_conv_dx, conv_workspace);
AM_CPU_ROW(conv_dw, run_conv_dw, conv_dw_workspace);
