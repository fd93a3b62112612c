/* bench_ceilings.c: what this machine can do, measured with the very kernel that the step uses on a shape
 * that suits it, and with a sum of arrays that no cache holds (in place: a third array would be read before
 * it is written, uncounted). */
#include "train/bench.h"

#include <string.h>

#define TRY_SECONDS 1.0

enum { M = 2048, K = 1024, N = 4096 };

static void fill(void *data, am_dtype t, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        float x = (float)((double)am_random_u64(1, 0, (uint64_t)i) / 0x1p64 - 0.5);
        if (t == AM_BF16)
            ((uint16_t *)data)[i] = am_f32_to_bf16(x);
        else
            ((float *)data)[i] = x;
    }
}

static am_status product(const am_device *d, am_dtype t, double *best)
{
    am_status st = AM_OK;
    static const int64_t rows[3] = {M, N, M}, columns[3] = {K, K, N};
    void *data[3] = {0}, *workspace = NULL;
    const am_kernel *k = am_device_kernel(d, "linear");
    AM_ASSERT(k);
    am_attrs attrs;
    memset(&attrs, 0, sizeof attrs);
    am_kernel_call call = {.attrs = &attrs, .num_in = 2, .num_out = 1, .threads = am_device_threads(d)};
    for (int i = 0; i < 3; i++) {
        am_tensor *x = i < 2 ? &call.in[i] : &call.out[0];
        AM_TRY(am_calloc((size_t)(rows[i] * columns[i]), am_dtype_bytes(t), &data[i]));
        *x = (am_tensor){.data = data[i], .dtype = t, .rank = 2, .dim = {rows[i], columns[i]}};
        fill(data[i], t, rows[i] * columns[i]);
    }
    call.workspace_bytes = k->workspace ? k->workspace(&call) : 0;
    AM_TRY(am_calloc(call.workspace_bytes + 64, 1, &workspace));
    call.workspace = (char *)workspace + (-(uintptr_t)workspace & 63);
    *best = 0;
    for (double end = am_now() + TRY_SECONDS, begin; (begin = am_now()) < end;) {
        AM_TRY((t == AM_BF16 ? k->bf16 : k->f32)(&call));
        double rate = 2.0 * M * K * N / (am_now() - begin);
        if (rate > *best) *best = rate;
    }
done:
    for (int i = 0; i < 3; i++) am_free(&data[i]);
    am_free(&workspace);
    return st;
}

static am_status stream(int threads, double *best)
{
    am_status st = AM_OK;
    enum { ELEMENTS = 1 << 24 };
    float *x = NULL;
    AM_TRY(am_calloc((size_t)2 * ELEMENTS, sizeof *x, &x));
    *best = 0;
    for (double end = am_now() + TRY_SECONDS, begin; (begin = am_now()) < end;) {
#pragma omp parallel for num_threads(threads) schedule(static)
        for (int64_t i = 0; i < ELEMENTS; i++) x[i] += x[ELEMENTS + i];
        double rate = 3.0 * ELEMENTS * sizeof *x / (am_now() - begin);
        if (rate > *best) *best = rate;
    }
done:
    am_free(&x);
    return st;
}

am_status am_bench_ceilings(const am_device *d, am_dtype compute, am_ceilings *out)
{
    am_status st = AM_OK;
    AM_TRY(product(d, compute, &out->flops));
    AM_TRY(stream(am_device_threads(d), &out->bytes));
done:
    return st;
}
