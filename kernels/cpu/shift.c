/* shift: the row before, within the document: y_t = x_{t−1}, 0 at the first row.  inverse: its gradient, the
 * row behind. */
#include "kernels_cpu.h"

#include <string.h>

static void shift_rows(const am_kernel_call *c, int64_t begin, int64_t end)
{
    const size_t row = (size_t)c->in[0].dim[1] * am_dtype_bytes(c->in[0].dtype);
    const int32_t *index = c->in[1].data, *doc = c->in[2].data;
    const int64_t n = c->in[0].dim[0], step = c->attrs->inverse ? 1 : -1;
    const char *x = c->in[0].data, *state = c->num_in > 3 ? c->in[3].data : NULL;
    char *y = c->out[0].data;
    for (int64_t r = begin; r < end; r++) {
        const int64_t from = r + step, starts = step > 0 ? from : r; /* the row that may begin a document */
        const char *source = from >= 0 && from < n ? x + (size_t)from * row : from < 0 ? state : NULL;
        if (source && doc[starts] < index[starts])
            memcpy(y + (size_t)r * row, source, row);
        else
            memset(y + (size_t)r * row, 0, row);
    }
}

static am_status run(const am_kernel_call *c, am_dtype real)
{
    am_status st = AM_OK;
    am_cpu_dims dims;
    AM_TRY(am_cpu_check(c, "shift", "x:r[N,C] index:i[N] doc_start:i[N] state:r[C]? > y:r[N,C] state:r[C]?",
                        real, &dims));
    const size_t row = (size_t)dims.of['C'] * am_dtype_bytes(real);
    am_cpu_for(c, dims.of['N'], 1, 2 * (int64_t)row, shift_rows);
    if (c->num_out > 1 && c->out[1].data && dims.of['N'] > 0)
        memcpy(c->out[1].data, (const char *)c->in[0].data + (size_t)(dims.of['N'] - 1) * row, row);
done:
    return st;
}

AM_CPU_ROW(shift, run, NULL);
