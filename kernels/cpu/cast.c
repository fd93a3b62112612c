/* cast and fill.  Conversions among f64, f32 and bf16 are vectorised (f64 to bf16 excepted); the others, met
 * only where weights are loaded or decoded, go through am_convert on one thread. */
#include "kernels_cpu.h"
#include "kernels_cpu_math.h"

#include <string.h>

#define STREAM_BYTES (4 << 20) /* an output of this size leaves the caches anyway */

#define AM_BODY "cast.inc"
#include "kernels_cpu_each.h"

AM_CPU_RANGES(to_f64);
AM_CPU_RANGES(to_f32);
static const am_cpu_range_table to_bf16_ranges = {
    {NULL, NULL, NULL, NULL},
    {to_bf16_f32_portable, to_bf16_f32_avx2, to_bf16_f32_avx512, to_bf16_f32_avx512_bf16},
    {to_bf16_bf16_portable, to_bf16_bf16_avx2, to_bf16_bf16_avx512, to_bf16_bf16_avx512_bf16}};

static bool is_real(am_dtype t)
{
    return t == AM_F64 || t == AM_F32 || t == AM_BF16;
}

/* positions and the like become features: few, on one thread */
static void integers(const am_kernel_call *c, int64_t n)
{
    const int32_t *x = c->in[0].data;
    for (int64_t i = 0; i < n; i++)
        switch (c->out[0].dtype) {
        case AM_F64: ((double *)c->out[0].data)[i] = (double)x[i]; break;
        case AM_F32: ((float *)c->out[0].data)[i] = (float)x[i]; break;
        default: ((uint16_t *)c->out[0].data)[i] = am_cpu_to_bf16((float)x[i]); break;
        }
}

static am_status run_cast(const am_kernel_call *c, am_dtype real)
{
    am_status st = AM_OK;
    am_cpu_dims dims;
    AM_TRY(am_cpu_check(c, "cast", "x:x[M] > y:x[M]", real, &dims));
    const am_dtype from = c->in[0].dtype, to = c->out[0].dtype;
    if (from == AM_I32 && is_real(to)) {
        integers(c, dims.of['M']);
        goto done;
    }
    AM_CHECK(am_dtype_is_float(from) && am_dtype_is_float(to), AM_ERR_SHAPE,
             "kernel cast: %s to %s is not a conversion between floats", am_dtype_name(from),
             am_dtype_name(to));
    am_cpu_range_fn fn = NULL;
    if (is_real(from))
        fn = to == AM_F64    ? am_cpu_pick(to_f64_ranges, from)
             : to == AM_F32  ? am_cpu_pick(to_f32_ranges, from)
             : to == AM_BF16 ? am_cpu_pick(to_bf16_ranges, from)
                             : NULL;
    if (fn)
        am_cpu_for(c, dims.of['M'], 64, (int64_t)(am_dtype_bytes(from) + am_dtype_bytes(to)), fn);
    else
        AM_TRY(am_convert(c->in[0].data, from, c->out[0].data, to, dims.of['M']));
done:
    return st;
}

static void zero_range(const am_kernel_call *c, int64_t begin, int64_t end)
{
    const size_t size = am_dtype_bytes(c->out[0].dtype);
    memset((char *)c->out[0].data + (size_t)begin * size, 0, (size_t)(end - begin) * size);
}

static am_status run_fill(const am_kernel_call *c, am_dtype real)
{
    am_status st = AM_OK;
    am_cpu_dims dims;
    AM_TRY(am_cpu_check(c, "fill", "> y:x[M]", real, &dims));
    am_cpu_for(c, dims.of['M'], 64, (int64_t)am_dtype_bytes(c->out[0].dtype), zero_range);
done:
    return st;
}

AM_CPU_ROW(cast, run_cast, NULL);
AM_CPU_ROW(fill, run_fill, NULL);
