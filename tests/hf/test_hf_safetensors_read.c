/* Reading a file that the Python library wrote (tests/hf/data/python_written.safetensors, safetensors 0.8.0;
 * the script stands in tests/hf/data/README): every dtype, slices, scalars, empty tensors, conversions.
 * Expected values are closed forms of what the script stored, and bf16/f16 values as torch printed them. */
#include "hf_test.h"

#include <fcntl.h>
#include <math.h>

static am_safetensors *file;

static int setup(void **state)
{
    (void)state;
    return am_safetensors_open(source_path("tests/hf/data/python_written.safetensors"), &file) == AM_OK ? 0
                                                                                                        : -1;
}

static int teardown(void **state)
{
    (void)state;
    am_safetensors_free(&file);
    return 0;
}

static const am_safetensors_tensor *get(const char *name)
{
    const am_safetensors_tensor *t = NULL;
    assert_ok(am_safetensors_get(file, name, &t));
    return t;
}

static void test_hf_safetensors_read__lists_in_order_of_data(void **state)
{
    (void)state;
    assert_int_equal(am_safetensors_count(file), 15);
    assert_string_equal(am_safetensors_at(file, 0)->name, "ids.i64");
    assert_string_equal(am_safetensors_at(file, 14)->name, "mask");
    const am_safetensors_tensor *t = get("ramp.f32");
    assert_int_equal(t->dtype, AM_F32);
    assert_int_equal(t->rank, 3);
    assert_int_equal(t->shape[0], 3);
    assert_int_equal(t->shape[1], 4);
    assert_int_equal(t->shape[2], 5);
    assert_int_equal(t->elements, 60);
    assert_int_equal(t->bytes, 240);
    assert_int_equal(t->offset, 8 + 992 + 40); /* "data_offsets": [40, 280] behind a header of 992 bytes */
    assert_string_equal(am_safetensors_metadata(file, "format"), "pt");
    assert_null(am_safetensors_metadata(file, "nothing"));
    assert_non_null(am_safetensors_find(file, "odd \"name\"\\\xc3\xbc\n"));
    assert_null(am_safetensors_find(file, "ramp"));
}

static void test_hf_safetensors_read__slices(void **state)
{
    (void)state;
    const am_safetensors_tensor *t = get("ramp.f32");
    for (int64_t begin = 0; begin <= 60; begin += 7) {
        for (int64_t count = 0; count <= 60 - begin; count++) {
            float x[61];
            for (int i = 0; i < 61; i++) x[i] = -1.0f;
            assert_ok(am_safetensors_read(file, t, begin, count, x, AM_F32));
            for (int64_t i = 0; i < count; i++) assert_true(x[i] == (float)(begin + i) * 0.1f);
            assert_true(x[count] == -1.0f);
        }
    }
}

static void test_hf_safetensors_read__bf16_and_f16_as_f32(void **state)
{
    (void)state;
    static const float bf16[24] = {
        -3.0f,     -2.625f,      -2.265625f,     -1.890625f,   -1.5234375f, -1.1484375f,
        -0.78125f, -0.41015625f, -0.0400390625f, 0.330078125f, 0.69921875f, 1.0703125f,
        1.4375f,   1.8125f,      2.1875f,        2.546875f,    2.921875f,   3.296875f,
        3.65625f,  4.03125f,     4.40625f,       4.78125f,     5.125f,      5.5f};
    static const float f16[10] = {-5.0f, -3.30078125f, -1.599609375f, 0.0999755859375f, 1.7998046875f,
                                  3.5f,  5.19921875f,  6.8984375f,    8.6015625f,       10.296875f};
    float x[24];
    double y[3];
    assert_ok(am_safetensors_read(file, get("ramp.bf16"), 0, 24, x, AM_F32));
    for (int i = 0; i < 24; i++) assert_true(x[i] == bf16[i]);
    assert_ok(am_safetensors_read(file, get("ramp.f16"), 0, 10, x, AM_F32));
    for (int i = 0; i < 10; i++) assert_true(x[i] == f16[i]);
    assert_ok(am_safetensors_read(file, get("ramp.f16"), 7, 3, y, AM_F64));
    for (int i = 0; i < 3; i++) assert_true(y[i] == (double)f16[7 + i]);
}

static void test_hf_safetensors_read__small_floats(void **state)
{
    (void)state;
    static const float e4m3[5] = {0.0f, -0.5f, 448.0f, 0.0625f, 1.125f}, e5m2[3] = {1.0f, -57344.0f, 0.25f};
    float x[5];
    assert_ok(am_safetensors_read(file, get("e4m3"), 0, 5, x, AM_F32));
    assert_memory_equal(x, e4m3, sizeof e4m3);
    assert_ok(am_safetensors_read(file, get("e5m2"), 0, 3, x, AM_F32));
    assert_memory_equal(x, e5m2, sizeof e5m2);
}

static void test_hf_safetensors_read__integers_bit_by_bit(void **state)
{
    (void)state;
    int64_t i64[4];
    int32_t i32[2];
    int16_t i16[2];
    int8_t i8[3];
    uint8_t u8[2], mask[3];
    assert_ok(am_safetensors_read(file, get("ids.i64"), 0, 4, i64, AM_I64));
    assert_true(i64[0] == INT64_MIN && i64[1] == -1 && i64[2] == 0 && i64[3] == INT64_MAX);
    assert_ok(am_safetensors_read(file, get("ids.i32"), 0, 2, i32, AM_I32));
    assert_true(i32[0] == INT32_MIN && i32[1] == INT32_MAX);
    assert_ok(am_safetensors_read(file, get("ids.i16"), 0, 2, i16, AM_I16));
    assert_true(i16[0] == -7 && i16[1] == 32767);
    assert_ok(am_safetensors_read(file, get("ids.i8"), 0, 3, i8, AM_I8));
    assert_true(i8[0] == -128 && i8[1] == 127 && i8[2] == 5);
    assert_ok(am_safetensors_read(file, get("ids.u8"), 0, 2, u8, AM_U8));
    assert_true(u8[0] == 0 && u8[1] == 255);
    assert_ok(am_safetensors_read(file, get("mask"), 0, 3, mask, AM_BOOL));
    assert_true(mask[0] == 1 && mask[1] == 0 && mask[2] == 1);
}

static void test_hf_safetensors_read__scalar_and_empty(void **state)
{
    (void)state;
    double x = 0;
    float untouched = 7.0f;
    assert_int_equal(get("scalar")->rank, 0);
    assert_int_equal(get("scalar")->elements, 1);
    assert_ok(am_safetensors_read(file, get("scalar"), 0, 1, &x, AM_F64));
    assert_true(x == 2.5);
    assert_int_equal(get("empty")->rank, 2);
    assert_int_equal(get("empty")->elements, 0);
    assert_int_equal(get("empty_too")->bytes, 0);
    assert_ok(am_safetensors_read(file, get("empty"), 0, 0, &untouched, AM_F32));
    assert_ok(am_safetensors_read(file, get("empty_too"), 0, 0, &untouched, AM_F32));
    assert_true(untouched == 7.0f);
}

static void test_hf_safetensors_read__refuses_wrong_requests(void **state)
{
    (void)state;
    const am_safetensors_tensor *t;
    char x[512];
    assert_fails(am_safetensors_get(file, "ramp.f3", &t), AM_ERR_MODEL, "did you mean 'ramp.f");
    assert_fails(am_safetensors_get(file, "zzzzzzzz", &t), AM_ERR_MODEL, "[safetensors/TENSOR_NOT_FOUND]");
    t = get("ramp.f32");
    assert_fails(am_safetensors_read(file, t, 0, 61, x, AM_F32), AM_ERR_MODEL, "[safetensors/SLICE]");
    assert_fails(am_safetensors_read(file, t, 59, 2, x, AM_F32), AM_ERR_MODEL, "[safetensors/SLICE]");
    assert_fails(am_safetensors_read(file, t, 61, 0, x, AM_F32), AM_ERR_MODEL, "[safetensors/SLICE]");
    assert_fails(am_safetensors_read(file, t, -1, 2, x, AM_F32), AM_ERR_MODEL, "[safetensors/SLICE]");
    assert_fails(am_safetensors_read(file, t, 1, INT64_MAX, x, AM_F32), AM_ERR_MODEL, "[safetensors/SLICE]");
    assert_fails(am_safetensors_read(file, t, 0, 1, x, AM_I32), AM_ERR_MODEL, "[safetensors/CONVERT]");
    assert_fails(am_safetensors_read(file, get("ids.i32"), 0, 1, x, AM_I64), AM_ERR_MODEL,
                 "[safetensors/CONVERT]");
}

/* 5 GiB of holes on disk: offsets beyond 32 bits, the last element of the second tensor set by hand. */
static void test_hf_safetensors_read__offsets_beyond_4_gib(void **state)
{
    (void)state;
    const char *dir = temporary_folder();
    const char header[] =
        "{\"a\":{\"dtype\":\"U8\",\"shape\":[5368709120],\"data_offsets\":[0,5368709120]},"
        "\"b\":{\"dtype\":\"BF16\",\"shape\":[3,1],\"data_offsets\":[5368709120,5368709126]}}";
    write_safetensors(dir, "big.safetensors", header, -1, 0);
    char path[300];
    snprintf(path, sizeof path, "%s/big.safetensors", dir);
    int64_t data = 8 + (int64_t)strlen(header);
    uint16_t one = 0x3f80; /* bf16 1.0 */
    int fd = open(path, O_RDWR | O_CLOEXEC);
    assert_true(fd >= 0);
    bool sparse = ftruncate(fd, data + 5368709126) == 0;
    if (sparse) assert_int_equal(pwrite(fd, &one, 2, data + 5368709124), 2);
    close(fd);
    if (!sparse) {
        remove_folder(dir);
        print_message("skipped: this file system holds no sparse file of 5 GiB\n");
        skip();
    }
    am_safetensors *big = NULL;
    float x[3];
    uint8_t u;
    assert_ok(am_safetensors_open(path, &big));
    assert_ok(am_safetensors_read(big, am_safetensors_find(big, "b"), 0, 3, x, AM_F32));
    assert_true(x[0] == 0.0f && x[1] == 0.0f && x[2] == 1.0f);
    assert_ok(am_safetensors_read(big, am_safetensors_find(big, "a"), 5368709119, 1, &u, AM_U8));
    assert_int_equal(u, 0);
    am_safetensors_free(&big);
    remove_folder(dir);
}

static void test_hf_safetensors_read__truncated_after_open(void **state)
{
    (void)state;
    const char *dir = temporary_folder();
    char path[300];
    float x[4];
    snprintf(path, sizeof path, "%s/t.safetensors", dir);
    write_safetensors(dir, "t.safetensors",
                      "{\"a\":{\"dtype\":\"F32\",\"shape\":[4],\"data_offsets\":[0,16]}}", -1, 16);
    am_safetensors *f = NULL;
    assert_ok(am_safetensors_open(path, &f));
    assert_ok(am_safetensors_read(f, am_safetensors_at(f, 0), 0, 4, x, AM_F32));
    assert_int_equal(truncate(path, 60), 0);
    assert_fails(am_safetensors_read(f, am_safetensors_at(f, 0), 0, 4, x, AM_F32), AM_ERR_IO,
                 "t.safetensors");
    am_safetensors_free(&f);
    remove_folder(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_hf_safetensors_read__lists_in_order_of_data),
        cmocka_unit_test(test_hf_safetensors_read__slices),
        cmocka_unit_test(test_hf_safetensors_read__bf16_and_f16_as_f32),
        cmocka_unit_test(test_hf_safetensors_read__small_floats),
        cmocka_unit_test(test_hf_safetensors_read__integers_bit_by_bit),
        cmocka_unit_test(test_hf_safetensors_read__scalar_and_empty),
        cmocka_unit_test(test_hf_safetensors_read__refuses_wrong_requests),
        cmocka_unit_test(test_hf_safetensors_read__offsets_beyond_4_gib),
        cmocka_unit_test(test_hf_safetensors_read__truncated_after_open),
    };
    return cmocka_run_group_tests_name("hf_safetensors_read", tests, setup, teardown);
}
