/* swap: two dimensions that change places. */
#include "kernels_cpu.h"

#include <string.h>

/* [begin, end): tokens */
static void swap_range(const am_kernel_call *c, int64_t begin, int64_t end)
{
    const am_tensor *x = &c->in[0];
    const int64_t a = x->dim[1], b = x->dim[2];
    const size_t bytes = (size_t)x->dim[3] * am_dtype_bytes(x->dtype);
    for (int64_t n = begin; n < end; n++)
        for (int64_t i = 0; i < a; i++)
            for (int64_t j = 0; j < b; j++)
                memcpy((char *)c->out[0].data + (size_t)((n * b + j) * a + i) * bytes,
                       (const char *)x->data + (size_t)((n * a + i) * b + j) * bytes, bytes);
}

static am_status run_swap(const am_kernel_call *c, am_dtype real)
{
    am_status st = AM_OK;
    am_cpu_dims d;
    AM_TRY(am_cpu_check(c, "swap", "x:r[N,A,B,D] > y:r[N,B,A,D]", real, &d));
    am_cpu_for(c, d.of['N'], 1, 2 * d.of['A'] * d.of['B'] * d.of['D'] * (int64_t)am_dtype_bytes(real),
               swap_range);
done:
    return st;
}

AM_CPU_ROW(swap, run_swap, NULL);
