/* parallel: how the light kernels cut their work among threads.  The only parallel regions of those kernels
 * are here. */
#include "kernels_cpu.h"

#include <omp.h>

#define SERIAL_BYTES (64 * 1024) /* below this a region costs more than it saves */

void am_cpu_part(int64_t n, int64_t granule, int parts, int index, int64_t *begin, int64_t *end)
{
    int64_t grains = am_ceil_div(n, granule), each = grains / parts, extra = grains % parts;
    int64_t first = index * each + am_min_i64(index, extra);
    *begin = am_min_i64(n, first * granule);
    *end = am_min_i64(n, (first + each + (index < extra)) * granule);
}

static void run_part(const am_kernel_call *call, int64_t n, int64_t granule, am_cpu_range_fn fn)
{
    int64_t begin, end;
    am_cpu_part(n, granule, omp_get_num_threads(), omp_get_thread_num(), &begin, &end);
    if (begin < end) fn(call, begin, end);
}

void am_cpu_for2(const am_kernel_call *call, int64_t n, int64_t granule, int64_t bytes, am_cpu_range_fn fn,
                 int64_t n2, int64_t granule2, am_cpu_range_fn fn2)
{
    if (call->threads <= 1 || n * bytes < SERIAL_BYTES) {
        if (n > 0) fn(call, 0, n);
        if (n2 > 0) fn2(call, 0, n2);
        return;
    }
#pragma omp parallel num_threads(call->threads)
    {
        run_part(call, n, granule, fn);
        if (n2 > 0) {
#pragma omp barrier
            run_part(call, n2, granule2, fn2);
        }
    }
}

void am_cpu_for(const am_kernel_call *call, int64_t n, int64_t granule, int64_t bytes, am_cpu_range_fn fn)
{
    am_cpu_for2(call, n, granule, bytes, fn, 0, 1, NULL);
}
