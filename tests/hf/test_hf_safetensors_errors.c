/* Every way in which a safetensors file can be wrong has its own code; files are made of bytes here.
 * The kinds of the reference (SafeTensorError of the Rust library) and where they are:
 *   InvalidHeader HEADER_UTF8 · InvalidHeaderStart HEADER_START · InvalidHeaderDeserialization HEADER_JSON,
 * METADATA, TENSOR_INFO · HeaderTooLarge · HeaderTooSmall · InvalidHeaderLength HEADER_LENGTH ·
 * TensorNotFound (read test) · TensorInvalidInfo TENSOR_SIZE · InvalidOffset OFFSET_ORDER, HOLE, OVERLAP ·
 * IoError IO · JsonError HEADER_UTF8 of the writer (write test) · InvalidTensorView CONVERT, SLICE (read and
 * write test) · MetadataIncompleteBuffer TRUNCATED, TRAILING · ValidationOverflow OVERFLOW · MisalignedSlice
 * MISALIGNED. */
#include "hf_test.h"

#define T(name, dtype, shape, begin, end)                                                                    \
    "\"" name "\":{\"dtype\":\"" dtype "\",\"shape\":[" shape "],\"data_offsets\":[" #begin "," #end "]}"

static char folder[256];

static int setup(void **state)
{
    (void)state;
    snprintf(folder, sizeof folder, "%s", temporary_folder());
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    remove_folder(folder);
    return 0;
}

static am_status open_named(const char *name)
{
    char path[600];
    am_safetensors *f = NULL;
    snprintf(path, sizeof path, "%s/%s", folder, name);
    am_status st = am_safetensors_open(path, &f);
    if (st == AM_OK)
        am_safetensors_free(&f);
    else
        assert_non_null(strstr(am_error_message(), name)); /* the sentence names the file */
    assert_null(f);
    return st;
}

static am_status open_header(const char *header, int64_t announced, size_t data)
{
    write_safetensors(folder, "x.safetensors", header, announced, data);
    return open_named("x.safetensors");
}

typedef struct wrong {
    const char *header;
    size_t data;
    const char *code;
} wrong;

static void check_all(const wrong *w, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        char code[64];
        snprintf(code, sizeof code, "[safetensors/%s]", w[i].code);
        am_status st = open_header(w[i].header, -1, w[i].data);
        if (st != AM_ERR_MODEL || strstr(am_error_message(), code) == NULL)
            fail_msg("%s: %s, '%s'; %s was expected", w[i].header, am_status_name(st), am_error_message(),
                     code);
    }
}

static void test_hf_safetensors_errors__good_ones_pass(void **state)
{
    (void)state;
    assert_ok(open_header("{}", -1, 0));
    assert_ok(open_header("{\"__metadata__\":{}}     ", -1, 0));
    assert_ok(open_header(
        "{ \"a\" : { \"shape\" : [ 2 , 3 ] , \"data_offsets\" : [ 0 , 6 ] , \"dtype\" : \"U8\" } }\n", -1,
        6));
    assert_ok(open_header(
        "{" T("b", "U8", "2", 3, 5) "," T("a", "U8", "3", 0, 3) "," T("z", "F32", "0", 3, 3) "}", -1, 5));
    assert_ok(open_header(
        "{\"\\u00fc\\ud83d\\ude00\\n\":{\"dtype\":\"BOOL\",\"shape\":[],\"data_offsets\":[0,1]}}", -1, 1));
    assert_ok(open_header("{" T("r8", "U8", "1,1,1,1,1,1,1,1", 0, 1) "}", -1, 1));
}

static void test_hf_safetensors_errors__escapes_in_names(void **state)
{
    (void)state;
    char path[600];
    am_safetensors *f = NULL;
    write_safetensors(folder, "x.safetensors",
                      "{\"\\u00fc\\ud83d\\ude00\\n\\/"
                      "\\\"\\u20aC\":{\"dtype\":\"BOOL\",\"shape\":[],\"data_offsets\":[0,1]}}",
                      -1, 1);
    snprintf(path, sizeof path, "%s/x.safetensors", folder);
    assert_ok(am_safetensors_open(path, &f));
    assert_string_equal(am_safetensors_at(f, 0)->name,
                        "\xc3\xbc\xf0\x9f\x98\x80\n/\"\xe2\x82\xac"); /* ü 😀 newline / " € */
    am_safetensors_free(&f);
}

static void test_hf_safetensors_errors__frame(void **state)
{
    (void)state;
    write_file(folder, "x.safetensors", "1234567", 7);
    assert_fails(open_named("x.safetensors"), AM_ERR_MODEL, "[safetensors/HEADER_TOO_SMALL]");
    write_file(folder, "x.safetensors", "", 0);
    assert_fails(open_named("x.safetensors"), AM_ERR_MODEL, "[safetensors/HEADER_TOO_SMALL]");
    assert_fails(open_header("{}", 100000001, 0), AM_ERR_MODEL, "[safetensors/HEADER_TOO_LARGE]");
    assert_fails(open_header("{}", INT64_MAX, 0), AM_ERR_MODEL, "[safetensors/HEADER_TOO_LARGE]");
    write_file(folder, "x.safetensors", "\xff\xff\xff\xff\xff\xff\xff\xff{}", 10);
    assert_fails(open_named("x.safetensors"), AM_ERR_MODEL, "[safetensors/HEADER_TOO_LARGE]");
    assert_fails(open_header("{}", 100000000, 0), AM_ERR_MODEL, "[safetensors/HEADER_LENGTH]");
    assert_fails(open_header("{}", 3, 0), AM_ERR_MODEL, "[safetensors/HEADER_LENGTH]");
    assert_fails(open_header("{\"a\xff\":1}", -1, 0), AM_ERR_MODEL, "[safetensors/HEADER_UTF8]");
    assert_fails(open_header("{\"\xc0\xaf\":1}", -1, 0), AM_ERR_MODEL,
                 "[safetensors/HEADER_UTF8]"); /* overlong */
    assert_fails(open_header("{\"\xed\xa0\x80\":1}", -1, 0), AM_ERR_MODEL,
                 "[safetensors/HEADER_UTF8]"); /* surrogate */
    assert_fails(open_header("", 0, 0), AM_ERR_MODEL, "[safetensors/HEADER_START]");
    assert_fails(open_header(" {}", -1, 0), AM_ERR_MODEL, "[safetensors/HEADER_START]");
    assert_fails(open_header("[]", -1, 0), AM_ERR_MODEL, "[safetensors/HEADER_START]");
}

static void test_hf_safetensors_errors__header_text(void **state)
{
    (void)state;
    static const wrong cases[] = {
        {"{", 0, "HEADER_JSON"},
        {"{}x", 0, "HEADER_JSON"},
        {"{}{}", 0, "HEADER_JSON"},
        {"{\"a\"}", 0, "HEADER_JSON"},
        {"{\"a", 0, "HEADER_JSON"},
        {"{\"a\\", 0, "HEADER_JSON"},
        {"{\"a\\u12", 0, "HEADER_JSON"},
        {"{\"a\\q\":1}", 0, "HEADER_JSON"},
        {"{\"\\u0000\":1}", 0, "HEADER_JSON"},
        {"{\"\\ud800\":1}", 0, "HEADER_JSON"},
        {"{\"\\ud800\\u0041\":1}", 0, "HEADER_JSON"},
        {"{\"a\tb\":1}", 0, "HEADER_JSON"},
        {"{" T("a", "U8", "1", 0, 1) ",}", 1, "HEADER_JSON"},
        {"{\"__metadata__\":[]}", 0, "METADATA"},
        {"{\"__metadata__\":{\"a\":1}}", 0, "METADATA"},
        {"{\"__metadata__\":{\"a\":{\"b\":\"c\"}}}", 0, "METADATA"},
        {"{\"__metadata__\":{\"a\":\"1\",\"a\":\"1\"}}", 0, "DUPLICATE"},
        {"{\"__metadata__\":{},\"__metadata__\":{}}", 0, "DUPLICATE"},
        {"{" T("a", "U8", "1", 0, 1) "," T("a", "U8", "1", 1, 2) "}", 2, "DUPLICATE"},
        {"{" T("a", "U8", "1", 0, 1) "," T("\\u0061", "U8", "1", 1, 2) "}", 2, "DUPLICATE"},
        {"{\"a\":{\"dtype\":\"U8\",\"dtype\":\"U8\",\"shape\":[],\"data_offsets\":[0,1]}}", 1, "DUPLICATE"},
        {"{\"a\":1}", 0, "TENSOR_INFO"},
        {"{\"a\":{}}", 0, "TENSOR_INFO"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1]}}", 1, "TENSOR_INFO"},
        {"{\"a\":{\"dtype\":\"U8\",\"data_offsets\":[0,1]}}", 1, "TENSOR_INFO"},
        {"{\"a\":{\"shape\":[1],\"data_offsets\":[0,1]}}", 1, "TENSOR_INFO"},
        {"{\"a\":{\"dtype\":8,\"shape\":[1],\"data_offsets\":[0,1]}}", 1, "TENSOR_INFO"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":1,\"data_offsets\":[0,1]}}", 1, "TENSOR_INFO"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0]}}", 1, "TENSOR_INFO"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1],\"more\":1}}", 1, "TENSOR_INFO"},
        {"{" T("a", "U8", "-1", 0, 1) "}", 1, "TENSOR_INFO"},
        {"{" T("a", "U8", "1.0", 0, 1) "}", 1, "TENSOR_INFO"},
        {"{" T("a", "U8", "01", 0, 1) "}", 1, "TENSOR_INFO"},
        {"{" T("a", "U8", "1e0", 0, 1) "}", 1, "TENSOR_INFO"},
        {"{" T("a", "U8", "\\\"1\\\"", 0, 1) "}", 1, "TENSOR_INFO"},
        {"{" T("a", "F7", "1", 0, 1) "}", 1, "DTYPE_UNKNOWN"},
        {"{" T("a", "f32", "1", 0, 4) "}", 4, "DTYPE_UNKNOWN"},
        {"{" T("a", "bfloat16", "1", 0, 2) "}", 2, "DTYPE_UNKNOWN"},
        {"{" T("a", "F4", "2", 0, 1) "}", 1, "DTYPE_UNSUPPORTED"},
        {"{" T("a", "F6_E2M3", "4", 0, 3) "}", 3, "DTYPE_UNSUPPORTED"},
        {"{" T("a", "C64", "1", 0, 8) "}", 8, "DTYPE_UNSUPPORTED"},
        {"{" T("a", "F4", "3", 0, 1) "}", 1, "MISALIGNED"},
        {"{" T("a", "F6_E3M2", "2", 0, 1) "}", 1, "MISALIGNED"},
        {"{" T("a", "U8", "1,1,1,1,1,1,1,1,1", 0, 1) "}", 1, "RANK"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1,2]}}", 1, "RANK"},
    };
    check_all(cases, sizeof cases / sizeof cases[0]);
}

static void test_hf_safetensors_errors__arithmetic(void **state)
{
    (void)state;
    static const wrong cases[] = {
        {"{" T("a", "U8", "9223372036854775808", 0, 1) "}", 1, "OVERFLOW"},   /* 2^63 */
        {"{" T("a", "U8", "18446744073709551616", 0, 1) "}", 1, "OVERFLOW"},  /* 2^64 */
        {"{" T("a", "U8", "4294967296,4294967296", 0, 0) "}", 0, "OVERFLOW"}, /* product 2^64 = 0 unchecked */
        {"{" T("a", "F32", "4611686018427387904", 0, 0) "}", 0, "OVERFLOW"},  /* × 4 bytes = 2^64 */
        {"{" T("a", "U8", "2305843009213693952", 0, 0) "}", 0, "OVERFLOW"},   /* bits beyond 2^64 */
        {"{" T("a", "U8", "4294967296,4294967296,0", 0, 0) "}", 0,
         "OVERFLOW"}, /* as the reference: no short cut */
        {"{" T("a", "U8", "1", 18446744073709551614, 18446744073709551615) "}", 1, "OVERFLOW"},
        {"{" T("a", "U8", "1", 0, 99999999999999999999) "}", 1, "OVERFLOW"},
        {"{" T("a", "U8", "1", 2, 1) "}", 1, "OFFSET_ORDER"},
        {"{" T("a", "U8", "2", 0, 1) "}", 1, "TENSOR_SIZE"},
        {"{" T("a", "F32", "2,2", 0, 15) "}", 15, "TENSOR_SIZE"},
        {"{" T("a", "F32", "0", 0, 4) "}", 4, "TENSOR_SIZE"},
        {"{" T("a", "U8", "1", 1, 2) "}", 2, "HOLE"},
        {"{" T("a", "U8", "1", 0, 1) "," T("b", "U8", "1", 2, 3) "}", 3, "HOLE"},
        {"{" T("a", "U8", "2", 0, 2) "," T("b", "U8", "2", 1, 3) "}", 3, "OVERLAP"},
        {"{" T("a", "U8", "2", 0, 2) "," T("b", "U8", "2", 0, 2) "}", 2, "OVERLAP"},
        {"{" T("a", "U8", "3", 0, 3) "," T("b", "U8", "0", 1, 1) "}", 3, "OVERLAP"},
        {"{" T("a", "U8", "2", 0, 2) "}", 1, "TRUNCATED"},
        {"{" T("a", "U8", "9000000000000000", 0, 9000000000000000) "}", 1, "TRUNCATED"},
        {"{" T("a", "U8", "2", 0, 2) "}", 3, "TRAILING"},
        {"{}", 1, "TRAILING"},
    };
    check_all(cases, sizeof cases / sizeof cases[0]);
}

static void test_hf_safetensors_errors__not_a_safetensors_file(void **state)
{
    (void)state;
    char path[600];
    assert_fails(open_named("missing.safetensors"), AM_ERR_IO, "[safetensors/IO]");
    write_text(folder, "w.bin", "anything");
    assert_fails(open_named("w.bin"), AM_ERR_MODEL, "[safetensors/PICKLE]");
    assert_fails(open_named("w.pt"), AM_ERR_MODEL, "convert it");
    write_file(folder, "x.safetensors", "PK\3\4\0\0\10\10 archive/data.pkl", 26);
    assert_fails(open_named("x.safetensors"), AM_ERR_MODEL, "PyTorch pickle");
    write_text(folder, "x.safetensors",
               "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n");
    assert_fails(open_named("x.safetensors"), AM_ERR_MODEL, "[safetensors/LFS_POINTER]");
    assert_fails(open_named("."), AM_ERR_MODEL, "[safetensors/NOT_REGULAR]");
    snprintf(path, sizeof path, "%s/fifo.safetensors", folder);
    assert_int_equal(mkfifo(path, 0600), 0);
    assert_fails(open_named("fifo.safetensors"), AM_ERR_MODEL,
                 "[safetensors/NOT_REGULAR]"); /* and does not wait */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_hf_safetensors_errors__good_ones_pass),
        cmocka_unit_test(test_hf_safetensors_errors__escapes_in_names),
        cmocka_unit_test(test_hf_safetensors_errors__frame),
        cmocka_unit_test(test_hf_safetensors_errors__header_text),
        cmocka_unit_test(test_hf_safetensors_errors__arithmetic),
        cmocka_unit_test(test_hf_safetensors_errors__not_a_safetensors_file),
    };
    return cmocka_run_group_tests_name("hf_safetensors_errors", tests, setup, teardown);
}
