/* Packed tensors: what torch and transformers make of fp8 blocks and mxfp4 (tests/hf/make_packed.py) is read here, whole and in
 * pieces; and what cannot be read is told. */
#include "hf_test.h"

static void compare_tensor(const am_hf_model *m, const am_safetensors *expected, const am_safetensors_tensor *want)
{
    const am_safetensors_tensor *t = am_hf_model_find(m, want->name);
    assert_non_null(t);
    assert_int_equal(t->dtype, AM_BF16);
    assert_int_equal(t->rank, want->rank);
    for (int i = 0; i < t->rank; i++) assert_int_equal(t->shape[i], want->shape[i]);
    int64_t n = want->elements;
    uint16_t *a = malloc((size_t)n * 2), *b = malloc((size_t)n * 2);
    float *wide = malloc((size_t)n * sizeof *wide);
    assert_ok(am_safetensors_read(expected, want, 0, n, a, AM_BF16));
    assert_ok(am_hf_model_read(m, t, 0, n, b, AM_BF16));
    assert_memory_equal(a, b, (size_t)n * 2);
    memset(b, 0, (size_t)n * 2);
    for (int64_t at = 0, step = 1; at < n; at += step, step = step * 2 + 1) { /* pieces that begin and end anywhere */
        step = am_min_i64(step, n - at);
        assert_ok(am_hf_model_read(m, t, at, step, b + at, AM_BF16));
    }
    assert_memory_equal(a, b, (size_t)n * 2);
    assert_ok(am_hf_model_read(m, t, 0, n, wide, AM_F32));
    for (int64_t i = 0; i < n; i++) assert_true(wide[i] == am_bf16_to_f32(a[i]));
    free(a);
    free(b);
    free(wide);
}

static void compare_folder(const char *rel)
{
    char path[700];
    am_hf_model *m = NULL;
    am_safetensors *expected = NULL;
    assert_ok(am_hf_model_open(source_path(rel), AM_HF_WEIGHTS_REQUIRED, &m));
    snprintf(path, sizeof path, "%s/expected.safetensors", source_path(rel));
    assert_ok(am_safetensors_open(path, &expected));
    assert_int_equal(m->num_tensors, am_safetensors_count(expected));
    for (int64_t i = 0; i < am_safetensors_count(expected); i++)
        compare_tensor(m, expected, am_safetensors_at(expected, i));
    am_safetensors_free(&expected);
    am_hf_model_free(&m);
}

static void test_hf_packed__fp8(void **state)
{
    (void)state;
    compare_folder("tests/hf/data/packed_fp8");
}

static void test_hf_packed__mxfp4(void **state)
{
    (void)state;
    compare_folder("tests/hf/data/packed_mxfp4");
}

static void test_hf_packed__outside(void **state)
{
    (void)state;
    am_hf_model *m = NULL;
    uint16_t x[4];
    assert_ok(am_hf_model_open(source_path("tests/hf/data/packed_mxfp4"), AM_HF_WEIGHTS_REQUIRED, &m));
    const am_safetensors_tensor *t = am_hf_model_find(m, "e.gate_up_proj");
    assert_int_equal(m->num_packed, 1);
    assert_null(am_hf_model_find(m, "e.gate_up_proj_blocks"));
    assert_fails(am_hf_model_read(m, t, t->elements - 3, 4, x, AM_BF16), AM_ERR_MODEL, "which has 1920");
    assert_fails(am_hf_model_read(m, t, 0, 4, x, AM_I64), AM_ERR_MODEL, "read as a floating dtype");
    am_hf_model_free(&m);
}

static void refused(const char *quantization, const char *sentence)
{
    char text[400];
    am_hf_model *m = NULL;
    const char *folder = temporary_folder();
    static const char header[] = "{\"w\":{\"dtype\":\"F8_E4M3\",\"shape\":[4,4],\"data_offsets\":[0,16]},"
                                 "\"w_scale_inv\":{\"dtype\":\"F32\",\"shape\":[2,1],\"data_offsets\":[16,24]}}";
    snprintf(text, sizeof text, "{\"model_type\": \"x\", \"quantization_config\": %s}", quantization);
    write_text(folder, "config.json", text);
    write_safetensors(folder, "model.safetensors", header, -1, 24);
    assert_fails(am_hf_model_open(folder, AM_HF_WEIGHTS_REQUIRED, &m), AM_ERR_MODEL, sentence);
    remove_folder(folder);
}

static void test_hf_packed__refused(void **state)
{
    (void)state;
    refused("{\"quant_method\": \"awq\", \"bits\": 4}", "quantised as \"awq\" cannot be read");
    refused("{\"bits\": 4}", "names no quant_method");
    refused("{\"quant_method\": \"fp8\", \"weight_block_size\": [0, 4]}", "two positive numbers");
    refused("{\"quant_method\": \"fp8\", \"weight_block_size\": [4, 4]}", "holds 2 scales");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_hf_packed__fp8),
        cmocka_unit_test(test_hf_packed__mxfp4),
        cmocka_unit_test(test_hf_packed__outside),
        cmocka_unit_test(test_hf_packed__refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
