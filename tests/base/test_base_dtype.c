/* Conversions against torch: the arrays below were printed by torch (tensor.to(dtype).view(integer)) for edge
 * values: ties, halves of the smallest subnormal, overflow thresholds, infinities. */
#include "base/base.h"

#include <math.h>
#include <setjmp.h>
#include <string.h>
#include <cmocka.h>

enum { N = 37 };
static const uint32_t f32[N] = {
    0x00000000, 0x80000000, 0x3f800000, 0x3eaaaaab, 0xbf2aaaab, 0x477fe000, 0x477fefe6, 0x477ff000,
    0x322bcc77, 0x3380d959, 0x32fffae5, 0x33000000, 0x33800000, 0x7f7fc99e, 0xff7fffff, 0x3f808000,
    0x3f818000, 0x43e00000, 0x43e80000, 0x43e88000, 0x43f00000, 0x3b000000, 0x3a800000, 0x3a800000,
    0x47600000, 0x476fff00, 0x47700000, 0x3727c5ac, 0x00800000, 0x000116c2, 0x80000001, 0x7f800000,
    0xff800000, 0x3fc00000, 0x40400000, 0x3f400000, 0x40c00000,
};
static const uint16_t bf16[N] = {
    0x0000, 0x8000, 0x3f80, 0x3eab, 0xbf2b, 0x4780, 0x4780, 0x4780, 0x322c, 0x3381, 0x3300, 0x3300, 0x3380,
    0x7f80, 0xff80, 0x3f80, 0x3f82, 0x43e0, 0x43e8, 0x43e8, 0x43f0, 0x3b00, 0x3a80, 0x3a80, 0x4760, 0x4770,
    0x4770, 0x3728, 0x0080, 0x0001, 0x8000, 0x7f80, 0xff80, 0x3fc0, 0x4040, 0x3f40, 0x40c0,
};
static const uint16_t f16[N] = {
    0x0000, 0x8000, 0x3c00, 0x3555, 0xb955, 0x7bff, 0x7bff, 0x7c00, 0x0000, 0x0001, 0x0000, 0x0000, 0x0001,
    0x7c00, 0xfc00, 0x3c04, 0x3c0c, 0x5f00, 0x5f40, 0x5f44, 0x5f80, 0x1800, 0x1400, 0x1400, 0x7b00, 0x7b80,
    0x7b80, 0x00a8, 0x0000, 0x0000, 0x8000, 0x7c00, 0xfc00, 0x3e00, 0x4200, 0x3a00, 0x4600,
};
static const uint8_t e4m3[N] = {
    0x00, 0x80, 0x38, 0x2b, 0xb3, 0x7e, 0x7e, 0x7e, 0x00, 0x00, 0x00, 0x00, 0x00,
    0x7e, 0xfe, 0x38, 0x38, 0x7e, 0x7e, 0x7e, 0x7e, 0x01, 0x00, 0x00, 0x7e, 0x7e,
    0x7e, 0x00, 0x00, 0x00, 0x80, 0x7e, 0xfe, 0x3c, 0x44, 0x34, 0x4c,
};
static const uint8_t e5m2[N] = {
    0x00, 0x80, 0x3c, 0x35, 0xb9, 0x7c, 0x7c, 0x7c, 0x00, 0x00, 0x00, 0x00, 0x00,
    0x7c, 0xfc, 0x3c, 0x3c, 0x5f, 0x5f, 0x5f, 0x60, 0x18, 0x14, 0x14, 0x7b, 0x7b,
    0x7c, 0x01, 0x00, 0x00, 0x80, 0x7c, 0xfc, 0x3e, 0x42, 0x3a, 0x46,
};
static const uint8_t e8m0[N] = {
    0x00, 0x00, 0x7f, 0x7d, 0x7e, 0x8f, 0x8f, 0x8f, 0x64, 0x67, 0x66, 0x66, 0x67,
    0xff, 0xff, 0x7f, 0x7f, 0x88, 0x88, 0x88, 0x88, 0x76, 0x75, 0x75, 0x8f, 0x8f,
    0x8f, 0x6e, 0x01, 0x00, 0x00, 0xff, 0xff, 0x80, 0x81, 0x7f, 0x82,
};

static void check(am_dtype from, const void *src, am_dtype to, const void *expected)
{
    unsigned char out[N * 8];
    assert_int_equal(am_convert(src, from, out, to, N), AM_OK);
    for (size_t i = 0; i < N; i++) {
        size_t w = am_dtype_bytes(to);
        if (memcmp(out + i * w, (const char *)expected + i * w, w) != 0)
            fail_msg("%s to %s differs at element %zu", am_dtype_name(from), am_dtype_name(to), i);
    }
}

static void test_base_dtype__from_f32(void **state)
{
    check(AM_F32, f32, AM_BF16, bf16);
    check(AM_F32, f32, AM_F16, f16);
    check(AM_F32, f32, AM_F8_E4M3, e4m3);
    check(AM_F32, f32, AM_F8_E5M2, e5m2);
    check(AM_F32, f32, AM_F8_E8M0, e8m0);
}

/* F32 is exact in F64: the general path must give what the F32 path gives. */
static void test_base_dtype__from_f64(void **state)
{
    double d[N];
    assert_int_equal(am_convert(f32, AM_F32, d, AM_F64, N), AM_OK);
    check(AM_F64, d, AM_F32, f32);
    check(AM_F64, d, AM_BF16, bf16);
    check(AM_F64, d, AM_F16, f16);
}

/* One rounding, not two: this double lies just above a tie of bf16, its nearest float lies on the tie. */
static void test_base_dtype__f64_rounds_once(void **state)
{
    double d = 1.0 + 0x1p-8 + 0x1p-40;
    uint16_t h;
    assert_int_equal(am_convert(&d, AM_F64, &h, AM_BF16, 1), AM_OK);
    assert_int_equal(h, 0x3f81);
}

/* Every pattern of a small format survives the way to F32 and back; NaN stays NaN. */
static void round_trip(am_dtype t, int patterns)
{
    for (int i = 0; i < patterns; i++) {
        uint16_t in = (uint16_t)i, out = 0;
        float f, g;
        double d;
        assert_int_equal(am_convert(&in, t, &f, AM_F32, 1), AM_OK);
        assert_int_equal(am_convert(&in, t, &d, AM_F64, 1), AM_OK);
        assert_true((double)f == d ||
                    (isnan(f) && isnan(d))); /* the short way gives what the long one does */
        assert_true(!signbit(f) == !signbit(d) || isnan(f));
        assert_int_equal(am_convert(&f, AM_F32, &out, t, 1), AM_OK);
        if (isnan(f)) {
            assert_int_equal(am_convert(&out, t, &g, AM_F32, 1), AM_OK);
            assert_true(isnan(g));
        } else {
            assert_int_equal(in, out);
        }
    }
}

/* Count of non-finite patterns and infinities, largest and smallest magnitude, as torch decodes them. */
static void test_base_dtype__all_patterns(void **state)
{
    static const struct {
        am_dtype t;
        int patterns, non_finite, infinite;
        double largest, smallest;
    } rows[] = {
        {AM_F16, 65536, 2048, 2, 0x1.ffc0000000000p+15, 0x1.0000000000000p-24},
        {AM_BF16, 65536, 256, 2, 0x1.fe00000000000p+127, 0x1.0000000000000p-133},
        {AM_F8_E4M3, 256, 2, 0, 0x1.c000000000000p+8, 0x1.0000000000000p-9},
        {AM_F8_E5M2, 256, 8, 2, 0x1.c000000000000p+15, 0x1.0000000000000p-16},
        {AM_F8_E8M0, 256, 1, 0, 0x1.0000000000000p+127, 0x1.0000000000000p-127},
    };
    for (size_t r = 0; r < sizeof rows / sizeof rows[0]; r++) {
        int non_finite = 0, infinite = 0;
        double largest = 0, smallest = INFINITY;
        for (int i = 0; i < rows[r].patterns; i++) {
            uint16_t in = (uint16_t)i;
            double d;
            assert_int_equal(am_convert(&in, rows[r].t, &d, AM_F64, 1), AM_OK);
            infinite += isinf(d) != 0;
            non_finite += !isfinite(d);
            if (!isfinite(d)) continue;
            if (fabs(d) > largest) largest = fabs(d);
            if (d != 0 && fabs(d) < smallest) smallest = fabs(d);
        }
        assert_int_equal(non_finite, rows[r].non_finite);
        assert_int_equal(infinite, rows[r].infinite);
        assert_true(largest == rows[r].largest);
        assert_true(smallest == rows[r].smallest);
        round_trip(rows[r].t, rows[r].patterns);
    }
}

static void test_base_dtype__names(void **state)
{
    static const struct {
        const char *name;
        am_dtype t;
    } good[] = {{"BF16", AM_BF16},       {"bfloat16", AM_BF16}, {"torch.bfloat16", AM_BF16},
                {"bf16", AM_BF16},       {"float32", AM_F32},   {"fp32", AM_F32},
                {"F8_E4M3", AM_F8_E4M3}, {"half", AM_F16},      {"torch.float8_e4m3fn", AM_F8_E4M3},
                {"int64", AM_I64},       {"bool", AM_BOOL}};
    am_dtype t;
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
        assert_true(am_dtype_parse(good[i].name, &t));
        assert_int_equal(t, good[i].t);
    }
    assert_false(am_dtype_parse("bf17", &t));
    assert_false(am_dtype_parse("auto", &t));
    assert_int_equal(am_dtype_bytes(AM_F64), 8);
    assert_int_equal(am_dtype_bytes(AM_BF16), 2);
    assert_int_equal(am_dtype_bytes(AM_F8_E8M0), 1);
    assert_true(am_dtype_is_float(AM_F8_E5M2));
    assert_false(am_dtype_is_float(AM_I64));
    assert_string_equal(am_dtype_name(AM_F8_E4M3), "F8_E4M3");
    int64_t x = 0;
    assert_int_equal(am_convert(&x, AM_I64, &x, AM_F32, 1), AM_ERR_SHAPE);
    assert_string_equal(am_error_message(), "cannot convert I64 to F32: both must be floating dtypes");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_base_dtype__from_f32),        cmocka_unit_test(test_base_dtype__from_f64),
        cmocka_unit_test(test_base_dtype__f64_rounds_once), cmocka_unit_test(test_base_dtype__all_patterns),
        cmocka_unit_test(test_base_dtype__names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
