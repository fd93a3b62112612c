/* rows: gather_rows and scatter_rows, for tensors of any dtype.  scatter_rows is cut by bytes within a row,
 * so that of two equal targets the later always wins, whatever the number of threads. */
#include "kernels_cpu.h"

#include <string.h>

static am_status check_rows(const char *op, const am_tensor *rows, int64_t least, int64_t n)
{
    am_status st = AM_OK;
    const int32_t *row = rows->data;
    int64_t count = am_tensor_elements(rows);
    for (int64_t i = 0; i < count; i++)
        AM_CHECK(row[i] >= least && row[i] < n, AM_ERR_INTERNAL,
                 "kernel %s: entry %lld asks for row %d of %lld", op, (long long)i, row[i], (long long)n);
done:
    return st;
}

static void gather_range(const am_kernel_call *c, int64_t begin, int64_t end)
{
    const int32_t *rows = c->in[1].data;
    const size_t bytes =
        (size_t)(am_tensor_elements(&c->out[0]) / c->out[0].dim[0]) * am_dtype_bytes(c->in[0].dtype);
    for (int64_t i = begin; i < end; i++)
        memcpy((char *)c->out[0].data + (size_t)i * bytes,
               (const char *)c->in[0].data + (size_t)rows[i] * bytes, bytes);
}

static am_status run_gather_rows(const am_kernel_call *c, am_dtype real)
{
    am_status st = AM_OK;
    am_cpu_dims dims;
    AM_TRY(am_cpu_check(c, "gather_rows", "x:x[N,.] rows:i[R] > y:x[R,.]", real, &dims));
    AM_CHECK(c->in[0].dtype == c->out[0].dtype, AM_ERR_SHAPE, "kernel gather_rows: x is %s, y is %s",
             am_dtype_name(c->in[0].dtype), am_dtype_name(c->out[0].dtype));
    AM_TRY(check_rows("gather_rows", &c->in[1], 0, dims.of['N']));
    am_cpu_for(c, dims.of['R'], 1, 2 * dims.of['.'] * (int64_t)am_dtype_bytes(c->in[0].dtype), gather_range);
done:
    return st;
}

/* [begin, end): bytes of a row */
static void scatter_range(const am_kernel_call *c, int64_t begin, int64_t end)
{
    const int32_t *rows = c->in[1].data;
    const int64_t count = am_tensor_elements(&c->in[1]);
    const size_t bytes = (size_t)(am_tensor_elements(&c->in[0]) / count) * am_dtype_bytes(c->in[0].dtype);
    for (int64_t i = 0; i < count; i++)
        if (rows[i] >= 0)
            memcpy((char *)c->out[0].data + (size_t)rows[i] * bytes + begin,
                   (const char *)c->in[0].data + (size_t)i * bytes + begin, (size_t)(end - begin));
}

static am_status run_scatter_rows(const am_kernel_call *c, am_dtype real)
{
    am_status st = AM_OK;
    am_cpu_dims dims;
    AM_TRY(am_cpu_check(c, "scatter_rows", "x:x[R,.] rows:i[R] > y:x[N,.]", real, &dims));
    AM_CHECK(c->in[0].dtype == c->out[0].dtype, AM_ERR_SHAPE, "kernel scatter_rows: x is %s, y is %s",
             am_dtype_name(c->in[0].dtype), am_dtype_name(c->out[0].dtype));
    AM_TRY(check_rows("scatter_rows", &c->in[1], INT32_MIN, dims.of['N']));
    if (dims.of['R'] > 0)
        am_cpu_for(c, dims.of['.'] * (int64_t)am_dtype_bytes(c->in[0].dtype), 64, 2 * dims.of['R'],
                   scatter_range);
done:
    return st;
}

AM_CPU_ROW(gather_rows, run_gather_rows, NULL);
AM_CPU_ROW(scatter_rows, run_scatter_rows, NULL);
