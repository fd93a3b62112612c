/* Names, sizes and conversions of element types.
 * Every floating dtype is exact in a double, so the general path is decode → double → encode with one
 * rounding; the pairs that load whole models (BF16, F16, FP8 to F32, and F32 to BF16) have their own loops.
 * Beyond the largest finite value F16, BF16, F32, E5M2 give infinity; E4M3 (which has none) saturates as
 * torch does; E8M0 is an unsigned power of two. */
#include "base/base.h"

#include <math.h>
#include <string.h>
#include <strings.h>

static const struct {
    const char *name;
    size_t bits;
    bool is_float;
} dtypes[] = {
#define X(e, name, bits, fp) {name, bits, fp},
    AM_DTYPE_LIST(X)
#undef X
};

/* other spellings: torch, numpy, config.json */
static const struct {
    const char *name;
    am_dtype dtype;
} aliases[] = {
    {"float64", AM_F64},
    {"double", AM_F64},
    {"fp64", AM_F64},
    {"float32", AM_F32},
    {"float", AM_F32},
    {"fp32", AM_F32},
    {"bfloat16", AM_BF16},
    {"float16", AM_F16},
    {"half", AM_F16},
    {"fp16", AM_F16},
    {"float8_e4m3fn", AM_F8_E4M3},
    {"float8_e4m3", AM_F8_E4M3},
    {"float8_e5m2", AM_F8_E5M2},
    {"float8_e8m0fnu", AM_F8_E8M0},
    {"float8_e8m0", AM_F8_E8M0},
    {"int64", AM_I64},
    {"long", AM_I64},
    {"uint64", AM_U64},
    {"int32", AM_I32},
    {"int", AM_I32},
    {"uint32", AM_U32},
    {"int16", AM_I16},
    {"uint16", AM_U16},
    {"int8", AM_I8},
    {"uint8", AM_U8},
};

const char *am_dtype_name(am_dtype t)
{
    return (unsigned)t < AM_DTYPE_COUNT ? dtypes[t].name : "unknown dtype";
}
size_t am_dtype_bytes(am_dtype t)
{
    return (unsigned)t < AM_DTYPE_COUNT ? dtypes[t].bits / 8 : 0;
}
bool am_dtype_is_float(am_dtype t)
{
    return (unsigned)t < AM_DTYPE_COUNT && dtypes[t].is_float;
}

bool am_dtype_parse(const char *name, am_dtype *out)
{
    if (strncmp(name, "torch.", 6) == 0) name += 6;
    for (int i = 0; i < AM_DTYPE_COUNT; i++) {
        if (strcasecmp(name, dtypes[i].name) == 0) {
            *out = (am_dtype)i;
            return true;
        }
    }
    for (size_t i = 0; i < sizeof aliases / sizeof aliases[0]; i++) {
        if (strcasecmp(name, aliases[i].name) == 0) {
            *out = aliases[i].dtype;
            return true;
        }
    }
    return false;
}

/* A small IEEE-like format: sign, exponent of `exponent` bits, mantissa of `mantissa` bits. */
typedef struct small_format {
    int exponent, mantissa, bias;
    uint32_t largest;  /* bits of the largest finite value */
    uint32_t overflow; /* written beyond it: infinity, or the largest value where there is none */
    uint32_t nan;
} small_format;

static const small_format format_bf16 = {8, 7, 127, 0x7f7f, 0x7f80, 0x7fc0};
static const small_format format_f16 = {5, 10, 15, 0x7bff, 0x7c00, 0x7e00};
static const small_format format_e4m3 = {4, 3, 7, 0x7e, 0x7e, 0x7f};
static const small_format format_e5m2 = {5, 2, 15, 0x7b, 0x7c, 0x7f};

static uint32_t encode_small(double x, const small_format *f)
{
    uint64_t u;
    memcpy(&u, &x, sizeof u);
    uint32_t sign = (uint32_t)(u >> 63) << (f->exponent + f->mantissa);
    uint64_t fraction = u & 0xfffffffffffffull;
    int e = (int)(u >> 52 & 0x7ff);
    if (e == 0x7ff) return sign | (fraction != 0 ? f->nan : f->overflow);
    if (e == 0) return sign; /* zero, or a double subnormal: far below every small format */
    e -= 1023;
    if (e > f->bias + 1) return sign | f->overflow;

    int smallest = 1 - f->bias;
    bool subnormal = e < smallest;
    int shift = 52 - f->mantissa + (subnormal ? smallest - e : 0);
    if (shift > 53) return sign;
    uint64_t significand = fraction | 1ull << 52, half = 1ull << (shift - 1);
    uint64_t q = significand >> shift, rest = significand & ((1ull << shift) - 1);
    if (rest > half || (rest == half && (q & 1))) q++; /* a carry runs into the exponent, as it should */
    uint32_t bits = (uint32_t)q;
    if (!subnormal) bits += (uint32_t)(e + f->bias - 1) << f->mantissa;
    return sign | (bits > f->largest ? f->overflow : bits);
}

static double decode_small(uint32_t bits, const small_format *f)
{
    uint32_t magnitude = bits & ((1u << (f->exponent + f->mantissa)) - 1);
    double sign = bits >> (f->exponent + f->mantissa) & 1 ? -1.0 : 1.0;
    if (magnitude > f->largest) {
        return sign * (magnitude == f->overflow ? INFINITY : NAN);
    }
    int e = (int)(magnitude >> f->mantissa);
    uint32_t m = magnitude & ((1u << f->mantissa) - 1);
    if (e == 0) return sign * ldexp((double)m, 1 - f->bias - f->mantissa);
    return sign * ldexp((double)(m | 1u << f->mantissa), e - f->bias - f->mantissa);
}

/* 2^(bits − 127); the sign is lost, a tie between two powers goes up. */
static uint8_t encode_e8m0(double x)
{
    if (isnan(x) || isinf(x)) return 0xff;
    int e;
    double m = frexp(fabs(x), &e); /* |x| = m 2^e with 0.5 <= m < 1 */
    if (m == 0.0) return 0;
    int bits = e - 1 + 127;
    if (bits < 0) return 0;
    if (m >= 0.75) bits++;
    return bits > 0xfe ? 0xff : (uint8_t)bits;
}

static double decode_e8m0(uint8_t bits)
{
    return bits == 0xff ? (double)NAN : ldexp(1.0, (int)bits - 127);
}

/* noinline: gcc 12 warns of the wider types when it sees a caller with a one-byte buffer */
__attribute__((noinline)) static double load_element(const void *src, am_dtype t, int64_t i)
{
    switch (t) {
    case AM_F64:
        return ((const double *)src)[i];
    case AM_F32:
        return ((const float *)src)[i];
    case AM_BF16:
        return am_bf16_to_f32(((const uint16_t *)src)[i]);
    case AM_F16:
        return decode_small(((const uint16_t *)src)[i], &format_f16);
    case AM_F8_E4M3:
        return decode_small(((const uint8_t *)src)[i], &format_e4m3);
    case AM_F8_E5M2:
        return decode_small(((const uint8_t *)src)[i], &format_e5m2);
    default:
        return decode_e8m0(((const uint8_t *)src)[i]);
    }
}

static void store_element(void *dst, am_dtype t, int64_t i, double x)
{
    switch (t) {
    case AM_F64:
        ((double *)dst)[i] = x;
        break;
    case AM_F32:
        ((float *)dst)[i] = (float)x;
        break;
    case AM_BF16:
        ((uint16_t *)dst)[i] = (uint16_t)encode_small(x, &format_bf16);
        break;
    case AM_F16:
        ((uint16_t *)dst)[i] = (uint16_t)encode_small(x, &format_f16);
        break;
    case AM_F8_E4M3:
        ((uint8_t *)dst)[i] = (uint8_t)encode_small(x, &format_e4m3);
        break;
    case AM_F8_E5M2:
        ((uint8_t *)dst)[i] = (uint8_t)encode_small(x, &format_e5m2);
        break;
    default:
        ((uint8_t *)dst)[i] = encode_e8m0(x);
        break;
    }
}

static float f16_to_f32(uint16_t h)
{
    union {
        uint32_t u;
        float f;
    } v;
    uint32_t sign = (uint32_t)(h & 0x8000u) << 16, e = h >> 10 & 0x1fu, m = h & 0x3ffu;
    if (e == 0) {
        v.f = (float)m * 0x1p-24f;
        v.u |= sign;
    } else {
        v.u = sign | (e == 0x1f ? 0xffu : e + 112) << 23 | m << 13;
    }
    return v.f;
}

/* A byte has 256 values: decode each once. */
static void f8_to_f32(const uint8_t *x, am_dtype from, float *y, int64_t n)
{
    float table[256];
    for (int i = 0; i < 256; i++) {
        uint8_t b = (uint8_t)i;
        table[i] = (float)load_element(&b, from, 0);
    }
    for (int64_t i = 0; i < n; i++) y[i] = table[x[i]];
}

am_status am_convert(const void *src, am_dtype from, void *dst, am_dtype to, int64_t n)
{
    if (!am_dtype_is_float(from) || !am_dtype_is_float(to))
        return am_fail(AM_ERR_SHAPE, "cannot convert %s to %s: both must be floating dtypes",
                       am_dtype_name(from), am_dtype_name(to));
    if (n < 0) return am_fail(AM_ERR_INTERNAL, "cannot convert %" PRId64 " elements", n);
    if (from == to) {
        memmove(dst, src, (size_t)n * am_dtype_bytes(from));
    } else if (from == AM_F32 && to == AM_BF16) {
        const float *x = src;
        uint16_t *y = dst;
        for (int64_t i = 0; i < n; i++) y[i] = am_f32_to_bf16(x[i]);
    } else if (from == AM_BF16 && to == AM_F32) {
        const uint16_t *x = src;
        float *y = dst;
        for (int64_t i = 0; i < n; i++) y[i] = am_bf16_to_f32(x[i]);
    } else if (from == AM_F16 && to == AM_F32) {
        const uint16_t *x = src;
        float *y = dst;
        for (int64_t i = 0; i < n; i++) y[i] = f16_to_f32(x[i]);
    } else if (am_dtype_bytes(from) == 1 && to == AM_F32) {
        f8_to_f32(src, from, dst, n);
    } else {
        for (int64_t i = 0; i < n; i++) store_element(dst, to, i, load_element(src, from, i));
    }
    return AM_OK;
}
