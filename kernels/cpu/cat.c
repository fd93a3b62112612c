/* cat and split: rows put side by side and taken apart, up to four of them.  An operand with fewer rows than the whole is
 * repeated (one head's features for all heads: MLA); what is taken apart into fewer rows is summed.  Bodies in cat.inc. */
#include "kernels_cpu.h"

#include <string.h>

#define AM_BODY "cat.inc"
#include "kernels_cpu_each.h"

AM_CPU_RANGES(split);

/* the parts' widths add up, their rows divide the whole's */
static am_status check_parts(const char *op, const am_tensor *whole, const am_tensor *part, int num)
{
    am_status st = AM_OK;
    int64_t width = 0, rows = whole->dim[0];
    for (int i = 0; i < num; i++) {
        AM_CHECK(part[i].rank == 2 && part[i].dtype == whole->dtype && part[i].dim[0] > 0 && rows % part[i].dim[0] == 0,
                 AM_ERR_SHAPE, "kernel %s: part %d does not fit the whole", op, i);
        width += part[i].dim[1];
    }
    AM_CHECK(width == whole->dim[1], AM_ERR_SHAPE, "kernel %s: the parts are %lld wide, the whole is %lld", op, (long long)width,
             (long long)whole->dim[1]);
done:
    return st;
}

static void cat_range(const am_kernel_call *c, int64_t first, int64_t last)
{
    const size_t size = am_dtype_bytes(c->out[0].dtype), width = (size_t)c->out[0].dim[1] * size;
    char *y = (char *)c->out[0].data + (size_t)first * width;
    for (int64_t r = first; r < last; r++)
        for (int p = 0; p < c->num_in; p++) {
            const size_t bytes = (size_t)c->in[p].dim[1] * size;
            const int64_t row = r / (c->out[0].dim[0] / c->in[p].dim[0]);
            memcpy(y, (const char *)c->in[p].data + (size_t)row * bytes, bytes);
            y += bytes;
        }
}

static am_status run_cat(const am_kernel_call *c, am_dtype real)
{
    am_status st = AM_OK;
    am_cpu_dims dims;
    AM_TRY(am_cpu_check(c, "cat", "a:r[A] b:r[B]? c:r[C]? d:r[E]? > y:r[M,w]", real, &dims));
    if (dims.of['M'] == 0) goto done;
    AM_TRY(check_parts("cat", &c->out[0], c->in, c->num_in));
    am_cpu_for(c, dims.of['M'], 1, 2 * dims.of['w'] * (int64_t)am_dtype_bytes(real), cat_range);
done:
    return st;
}

static am_status run_split(const am_kernel_call *c, am_dtype real)
{
    am_status st = AM_OK;
    am_cpu_dims dims;
    int64_t least = INT64_MAX;
    AM_TRY(am_cpu_check(c, "split", "x:r[M,w] > a:r[A] b:r[B]? c:r[C]? d:r[E]?", real, &dims));
    if (dims.of['M'] == 0) goto done;
    AM_TRY(check_parts("split", &c->in[0], c->out, c->num_out));
    for (int i = 0; i < c->num_out; i++) least = am_min_i64(least, c->out[i].dim[0]);
    am_cpu_for(c, least, 1, 2 * dims.of['M'] / least * dims.of['w'] * (int64_t)am_dtype_bytes(real), am_cpu_pick(split_ranges, real));
done:
    return st;
}

AM_CPU_ROW(cat, run_cat, NULL);
AM_CPU_ROW(split, run_split, NULL);
