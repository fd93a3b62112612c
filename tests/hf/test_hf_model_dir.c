/* Model directories: one file or shards, every way an index can be wrong, links, the cache of Hugging Face,
 * dry runs, and what travels along on export. */
#include "hf_test.h"

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

static const char *at(const char *name)
{
    static char paths[4][600];
    static int turn;
    char *path = paths[turn++ % 4];
    snprintf(path, 600, "%s/%s", folder, name);
    return path;
}

static void make_folder(const char *name)
{
    assert_ok(am_mkdirs(at(name)));
}

/* tensors a (2 bytes) and b (3 bytes) in one file each */
#define FILE_A      "{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]}}"
#define FILE_B      "{\"b\":{\"dtype\":\"U8\",\"shape\":[3],\"data_offsets\":[0,3]}}"
#define INDEX(a, b) "{\"metadata\":{\"total_size\":5},\"weight_map\":{\"a\":" a ",\"b\":" b "}}"

static void write_sharded(const char *index)
{
    write_text(folder, "config.json", "{\"model_type\": \"llama\"}");
    write_safetensors(folder, "model-00001-of-00002.safetensors", FILE_A, -1, 2);
    write_safetensors(folder, "model-00002-of-00002.safetensors", FILE_B, -1, 3);
    write_text(folder, "model.safetensors.index.json", index);
}

static void refused_with(const char *index, const char *text)
{
    am_hf_model *m = NULL;
    write_sharded(index);
    assert_fails(am_hf_model_open(folder, AM_HF_WEIGHTS_REQUIRED, &m), AM_ERR_MODEL, text);
    assert_null(m);
}

static const char good_index[] =
    INDEX("\"model-00001-of-00002.safetensors\"", "\"model-00002-of-00002.safetensors\"");

static void test_hf_model_dir__one_file_and_config(void **state)
{
    (void)state;
    am_hf_model *m = NULL;
    int64_t i;
    double x;
    bool b;
    const char *s;
    write_text(
        folder, "config.json",
        "{\"model_type\": \"qwen3\", \"torch_dtype\": \"bfloat16\", \"eos_token_id\": 2, \"hidden_size\": 64,"
        " \"eps\": 1e-6, \"tie\": true, \"rope_parameters\": {\"rope_type\": \"llama3\", \"factor\": 8}, "
        "\"null\": null}");
    write_safetensors(folder, "model.safetensors", FILE_A, -1, 2);
    write_text(folder, "model.safetensors.index.json", "not looked at");
    assert_ok(am_hf_model_open(folder, AM_HF_WEIGHTS_REQUIRED, &m));
    assert_string_equal(m->model_type, "qwen3");
    assert_true(m->has_dtype && m->dtype == AM_BF16);
    assert_false(m->has_auto_map);
    assert_true(m->num_eos == 1 && m->eos_ids[0] == 2);
    assert_true(am_hf_model_is_eos(m, 2) && !am_hf_model_is_eos(m, 3));
    assert_int_equal(m->num_tensors, 1);
    assert_non_null(am_hf_model_find(m, "a"));
    assert_null(am_hf_model_find(m, "b"));
    assert_ok(am_hf_config_i64(m, "hidden_size", 1, &i));
    assert_int_equal(i, 64);
    assert_ok(am_hf_config_i64(m, "null", 17, &i));
    assert_int_equal(i, 17);
    assert_ok(am_hf_config_f64(m, "rope_parameters.factor", 1, &x));
    assert_true(x == 8.0);
    assert_ok(am_hf_config_bool(m, "tie", false, &b));
    assert_true(b);
    assert_ok(am_hf_config_str(m, "rope_parameters.rope_type", NULL, &s));
    assert_string_equal(s, "llama3");
    assert_ok(am_hf_config_str(m, "absent", NULL, &s));
    assert_null(s);
    assert_fails(am_hf_config_i64(m, "eps", 0, &i), AM_ERR_MODEL,
                 "'eps' is a real number where an integer is needed");
    assert_fails(am_hf_config_f64(m, "model_type", 0, &x), AM_ERR_MODEL, "'model_type' is a string");
    assert_fails(am_hf_config_bool(m, "hidden_size", false, &b), AM_ERR_MODEL, "config.json");
    assert_fails(am_hf_config_str(m, "tie", NULL, &s), AM_ERR_MODEL, "'tie' is true");
    am_hf_model_free(&m);
}

static void test_hf_model_dir__config_digest(void **state)
{
    (void)state;
    am_hf_model *m = NULL;
    write_text(folder, "config.json",
               "{\"dtype\": \"float32\", \"torch_dtype\": \"float16\", \"eos_token_id\": 2,"
               " \"auto_map\": {\"AutoModel\": \"x.py\"}}");
    write_text(folder, "generation_config.json", "{\"eos_token_id\": [128001, 128008, 128009]}");
    assert_ok(am_hf_model_open(folder, AM_HF_WEIGHTS_OPTIONAL, &m));
    assert_true(m->has_dtype && m->dtype == AM_F32 && m->has_auto_map);
    assert_true(m->num_eos == 3 && m->eos_ids[0] == 128001 && m->eos_ids[2] == 128009);
    assert_string_equal(m->model_type, "");
    assert_null(am_hf_model_find(m, "a"));
    am_hf_model_free(&m);
    write_text(folder, "generation_config.json", "{\"eos_token_id\": [1, \"x\"]}");
    assert_fails(am_hf_model_open(folder, AM_HF_WEIGHTS_NONE, &m), AM_ERR_MODEL,
                 "generation_config.json: 'eos_token_id'");
    write_text(folder, "generation_config.json", "{}");
    write_text(folder, "config.json", "{\"dtype\": \"auto\"}");
    assert_ok(am_hf_model_open(folder, AM_HF_WEIGHTS_NONE, &m));
    assert_true(!m->has_dtype && m->num_eos == 0);
    am_hf_model_free(&m);
    write_text(folder, "config.json", "{\"dtype\": \"float33\"}");
    assert_fails(am_hf_model_open(folder, AM_HF_WEIGHTS_NONE, &m), AM_ERR_MODEL, "'float33'");
    write_text(folder, "config.json", "[]");
    assert_fails(am_hf_model_open(folder, AM_HF_WEIGHTS_NONE, &m), AM_ERR_MODEL, "a map is needed");
    write_text(folder, "config.json", "{\"a\": 1, \"a\": 2}");
    assert_fails(am_hf_model_open(folder, AM_HF_WEIGHTS_NONE, &m), AM_ERR_MODEL, "config.json:1:");
}

static void test_hf_model_dir__shards(void **state)
{
    (void)state;
    am_hf_model *m = NULL;
    write_sharded(good_index);
    assert_ok(am_hf_model_open(folder, AM_HF_WEIGHTS_REQUIRED, &m));
    assert_int_equal(m->num_files, 2);
    assert_int_equal(m->num_tensors, 2);
    assert_int_equal(m->total_bytes, 5);
    assert_int_equal(am_hf_model_find(m, "a")->file, 0);
    assert_int_equal(am_hf_model_find(m, "b")->file, 1);
    am_hf_model_free(&m);
}

static void test_hf_model_dir__wrong_index(void **state)
{
    (void)state;
    am_hf_model *m = NULL;
#define A "\"model-00001-of-00002.safetensors\""
#define B "\"model-00002-of-00002.safetensors\""
    refused_with(INDEX(A, "\"../model-00002-of-00002.safetensors\""),
                 "only the name of a file in the same folder");
    refused_with(INDEX(A, "\"/etc/passwd\""), "only the name of a file in the same folder");
    refused_with(INDEX(A, "\"sub/b.safetensors\""), "only the name of a file in the same folder");
    refused_with(INDEX(A, "\"..\""), "only the name of a file in the same folder");
    refused_with(INDEX(A, "\"\""), "only the name of a file in the same folder");
    refused_with(INDEX(A, "\"b.safetensors\\u0000x\""), "must be a string");
    refused_with(INDEX(A, "7"), "must be a string");
    refused_with(INDEX(A, "\"pytorch_model.bin\""), "[safetensors/PICKLE]");
    refused_with(INDEX(A, "\"model-00003-of-00003.safetensors\""),
                 "the download is incomplete: fetch model-00003-of-00003");
    refused_with(INDEX(A, A),
                 "tensor 'b' is said to be in model-00001-of-00002.safetensors, which does not hold it");
    refused_with(INDEX(B, A), "which does not hold it");
    refused_with("{\"weight_map\":{\"a\":" A ",\"b\":" B ",\"c\":" B "}}", "tensor 'c' is said to be in");
    refused_with("{\"weight_map\":{\"a\":" A "}}\n{}", "model.safetensors.index.json:2:");
    refused_with("{\"weight_map\":{\"a\":" A ",\"a\":" A "}}", "duplicate object key");
    refused_with("{\"weight_map\":{}}", "'weight_map'");
    refused_with("{\"weight_map\":[]}", "'weight_map'");
    refused_with("[]", "'weight_map'");
    write_sharded("{\"weight_map\":{\"a\":" A ",\"b\":" B "}}");
    write_safetensors(folder, "model-00002-of-00002.safetensors",
                      "{\"b\":{\"dtype\":\"U8\",\"shape\":[3],\"data_offsets\":[0,3]},"
                      "\"x\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[3,4]}}",
                      -1, 4);
    assert_fails(am_hf_model_open(folder, AM_HF_WEIGHTS_REQUIRED, &m), AM_ERR_MODEL,
                 "model-00002-of-00002.safetensors holds the tensor 'x', which model.safetensors.index.json "
                 "does not know");
    write_sharded("{\"weight_map\":{\"a\":" A ",\"b\":" B "}}");
    write_safetensors(folder, "model-00002-of-00002.safetensors",
                      "{\"b\":{\"dtype\":\"U8\",\"shape\":[3],\"data_offsets\":[0,3]},"
                      "\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[3,4]}}",
                      -1, 4);
    assert_fails(am_hf_model_open(folder, AM_HF_WEIGHTS_REQUIRED, &m), AM_ERR_MODEL,
                 "[safetensors/DUPLICATE]");
    write_safetensors(folder, "model-00002-of-00002.safetensors", FILE_B, -1, 2);
    assert_fails(am_hf_model_open(folder, AM_HF_WEIGHTS_REQUIRED, &m), AM_ERR_MODEL,
                 "[safetensors/TRUNCATED]");
}

static void test_hf_model_dir__no_weights(void **state)
{
    (void)state;
    am_hf_model *m = NULL;
    assert_fails(am_hf_model_open(folder, AM_HF_WEIGHTS_REQUIRED, &m), AM_ERR_MODEL, "has no config.json");
    write_text(folder, "adapter_config.json", "{}");
    assert_fails(am_hf_model_open(folder, AM_HF_WEIGHTS_REQUIRED, &m), AM_ERR_MODEL, "PEFT adapter");
    assert_int_equal(unlink(at("adapter_config.json")), 0);
    write_text(folder, "config.json", "{}");
    assert_fails(am_hf_model_open(folder, AM_HF_WEIGHTS_REQUIRED, &m), AM_ERR_MODEL,
                 "neither model.safetensors nor");
    write_text(folder, "pytorch_model.bin", "pickle");
    assert_fails(am_hf_model_open(folder, AM_HF_WEIGHTS_REQUIRED, &m), AM_ERR_MODEL, "[safetensors/PICKLE]");
    assert_non_null(strstr(am_error_message(), "pytorch_model.bin"));
    write_safetensors(folder, "model-00001-of-00002.safetensors", FILE_A, -1, 2);
    assert_fails(am_hf_model_open(folder, AM_HF_WEIGHTS_REQUIRED, &m), AM_ERR_MODEL,
                 "fetch the missing file");
    assert_ok(am_hf_model_open(folder, AM_HF_WEIGHTS_OPTIONAL, &m));
    assert_int_equal(m->num_tensors, 0);
    am_hf_model_free(&m);
}

static void test_hf_model_dir__config_alone(void **state)
{
    (void)state;
    am_hf_model *m = NULL;
    write_text(folder, "llama70b.json", "{\"model_type\": \"llama\"}");
    write_safetensors(folder, "model.safetensors", "broken", -1, 2);
    assert_ok(am_hf_model_open(at("llama70b.json"), AM_HF_WEIGHTS_NONE, &m));
    assert_string_equal(m->model_type, "llama");
    am_hf_model_free(&m);
    assert_ok(am_hf_model_open(at("llama70b.json"), AM_HF_WEIGHTS_OPTIONAL, &m));
    am_hf_model_free(&m);
    assert_fails(am_hf_model_open(at("llama70b.json"), AM_HF_WEIGHTS_REQUIRED, &m), AM_ERR_MODEL,
                 "a config alone");
    assert_fails(am_hf_model_open(at("model.safetensors"), AM_HF_WEIGHTS_NONE, &m), AM_ERR_MODEL,
                 "give the model's folder");
}

static void test_hf_model_dir__links_are_refused(void **state)
{
    (void)state;
    am_hf_model *m = NULL;
    write_text(folder, "config.json", "{}");
    make_folder("outside");
    write_safetensors(at("outside"), "w.safetensors", FILE_A, -1, 2);
    assert_int_equal(symlink("outside/w.safetensors", at("model.safetensors")), 0);
    assert_fails(am_hf_model_open(folder, AM_HF_WEIGHTS_REQUIRED, &m), AM_ERR_MODEL,
                 "is a symbolic link to outside/w");
    assert_int_equal(unlink(at("model.safetensors")), 0);
    assert_int_equal(mkfifo(at("model.safetensors"), 0600), 0);
    assert_fails(am_hf_model_open(folder, AM_HF_WEIGHTS_REQUIRED, &m), AM_ERR_MODEL, "not a regular file");
    assert_int_equal(unlink(at("model.safetensors")), 0);
    make_folder("model.safetensors");
    assert_fails(am_hf_model_open(folder, AM_HF_WEIGHTS_REQUIRED, &m), AM_ERR_MODEL, "not a regular file");
    assert_int_equal(unlink(at("config.json")), 0);
    assert_int_equal(symlink("/etc/passwd", at("config.json")), 0);
    assert_fails(am_hf_model_open(folder, AM_HF_WEIGHTS_NONE, &m), AM_ERR_MODEL,
                 "symbolic link to /etc/passwd");
}

/* hub/models--org--tiny/{blobs, refs/main, snapshots/abc} as huggingface_hub lays it out */
static void make_cache(void)
{
    make_folder("hub/models--org--tiny/blobs");
    make_folder("hub/models--org--tiny/refs");
    make_folder("hub/models--org--tiny/snapshots/abc/additional_chat_templates");
    write_text(at("hub/models--org--tiny/refs"), "main", "abc");
    const char *blobs = at("hub/models--org--tiny/blobs");
    write_text(blobs, "c0", "{\"model_type\": \"llama\"}");
    write_text(blobs, "j0", "{{ x }}");
    write_safetensors(blobs, "w0", FILE_A, -1, 2);
    assert_int_equal(symlink("../../blobs/c0", at("hub/models--org--tiny/snapshots/abc/config.json")), 0);
    assert_int_equal(symlink("../../blobs/w0", at("hub/models--org--tiny/snapshots/abc/model.safetensors")),
                     0);
    assert_int_equal(symlink("../../../blobs/j0",
                             at("hub/models--org--tiny/snapshots/abc/additional_chat_templates/tool.jinja")),
                     0);
}

static void test_hf_model_dir__cache(void **state)
{
    (void)state;
    am_hf_model *m = NULL;
    char *path = NULL;
    make_cache();
    unsetenv("HF_HUB_CACHE");
    setenv("HF_HOME", folder, 1);
    assert_ok(am_hf_model_open("org/tiny", AM_HF_WEIGHTS_REQUIRED, &m));
    assert_string_equal(m->model_type, "llama");
    assert_int_equal(m->num_tensors, 1);
    assert_int_equal(m->num_aux, 1);
    assert_ok(am_hf_model_copy_aux(m, at("out")));
    assert_true(am_path_exists(at("out/additional_chat_templates/tool.jinja")));
    am_hf_model_free(&m);
    setenv("HF_HUB_CACHE", at("hub"), 1);
    assert_ok(am_hf_resolve("org/tiny", &path));
    assert_string_equal(path, at("hub/models--org--tiny/snapshots/abc"));
    free(path);
    assert_fails(am_hf_resolve("org/other", &path), AM_ERR_MODEL, "hf download org/other");
    write_text(at("hub/models--org--tiny/refs"), "main", "def\n");
    assert_fails(am_hf_resolve("org/tiny", &path), AM_ERR_MODEL, "hf download org/tiny");
    write_text(at("hub/models--org--tiny/refs"), "main", "../../x");
    assert_fails(am_hf_resolve("org/tiny", &path), AM_ERR_MODEL, "does not hold a revision");
    assert_fails(am_hf_resolve("./nothing/here", &path), AM_ERR_MODEL, "does not exist");
    assert_fails(am_hf_resolve("org/../x", &path), AM_ERR_MODEL, "does not exist");
    unsetenv("HF_HUB_CACHE");
    unsetenv("HF_HOME");
}

static void test_hf_model_dir__cache_links_elsewhere(void **state)
{
    (void)state;
    am_hf_model *m = NULL;
    make_cache();
    const char *snapshot = at("hub/models--org--tiny/snapshots/abc");
    const char *weights = at("hub/models--org--tiny/snapshots/abc/model.safetensors");
    static const char *const wrong[] = {"../../blobs/../refs/main",
                                        "../../../models--org--tiny/blobs/w0",
                                        "../../blobs/",
                                        "/etc/passwd",
                                        "config.json",
                                        "../../blobs/.."};
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        assert_int_equal(unlink(weights), 0);
        assert_int_equal(symlink(wrong[i], weights), 0);
        assert_fails(am_hf_model_open(snapshot, AM_HF_WEIGHTS_REQUIRED, &m), AM_ERR_MODEL,
                     "is a symbolic link to");
    }
    assert_int_equal(unlink(weights), 0);
    assert_int_equal(symlink("../../blobs/gone", weights), 0);
    assert_fails(am_hf_model_open(snapshot, AM_HF_WEIGHTS_REQUIRED, &m), AM_ERR_IO,
                 "the download is incomplete");
    assert_int_equal(symlink("w0", at("hub/models--org--tiny/blobs/gone")),
                     0); /* a blob that is itself a link */
    assert_fails(am_hf_model_open(snapshot, AM_HF_WEIGHTS_REQUIRED, &m), AM_ERR_IO, "cannot open");
}

/* The same links in folders that are no snapshot of a cache. */
static void test_hf_model_dir__blob_links_outside_a_cache(void **state)
{
    (void)state;
    static const char *const no_cache[] = {"plain/snapshots/abc", "models--org--x/other/abc",
                                           "models--/snapshots/abc"};
    am_hf_model *m = NULL;
    for (size_t i = 0; i < sizeof no_cache / sizeof no_cache[0]; i++) {
        char name[100], blobs[100];
        snprintf(name, sizeof name, "%s/config.json", no_cache[i]);
        snprintf(blobs, sizeof blobs, "%s/../../blobs", no_cache[i]);
        make_folder(no_cache[i]);
        make_folder(blobs);
        write_text(at(blobs), "c0", "{}");
        assert_int_equal(symlink("../../blobs/c0", at(name)), 0);
        assert_fails(am_hf_model_open(at(no_cache[i]), AM_HF_WEIGHTS_NONE, &m), AM_ERR_MODEL,
                     "is a symbolic link to");
    }
}

static void test_hf_model_dir__aux(void **state)
{
    (void)state;
    static const char *const carried[] = {
        "LICENSE",        "chat_template.jinja", "generation_config.json",
        "tokenizer.json", "tokenizer.model",     "additional_chat_templates/rag.jinja"};
    static const char *const left[] = {"README.md", "modeling_x.py", "pytorch_model.bin", "tokenizer.py"};
    am_hf_model *m = NULL;
    char *text = NULL;
    size_t n;
    make_folder("additional_chat_templates");
    write_text(folder, "config.json", "{}");
    for (size_t i = 0; i < 6; i++) write_text(folder, carried[i], i == 2 ? "{}" : carried[i]);
    for (size_t i = 0; i < 4; i++) write_text(folder, left[i], "x");
    assert_ok(am_hf_model_open(folder, AM_HF_WEIGHTS_OPTIONAL, &m));
    assert_int_equal(m->num_aux, 6);
    for (size_t i = 0; i < 6; i++) assert_string_equal(m->aux[i], carried[i]);
    assert_ok(am_hf_model_copy_aux(m, at("out/deep")));
    assert_ok(am_file_read(at("out/deep/additional_chat_templates/rag.jinja"), 100, &text, &n));
    assert_string_equal(text, carried[5]);
    assert_false(am_path_exists(at("out/deep/README.md")));
    free(text);
    am_hf_model_free(&m);
}

/* Folders and references that Python wrote: every tensor has its gradient there, of the same shape. */
static void test_hf_model_dir__golden(void **state)
{
    (void)state;
    static const char *const names[] = {
        "llama", "llama_rope3_tied", "llama_linear_bias", "mistral", "qwen2", "qwen2_full",
        "qwen3", "qwen3_tied_bias"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        char path[200];
        am_hf_model *m = NULL;
        am_safetensors *reference = NULL;
        snprintf(path, sizeof path, "tests/golden/%s", names[i]);
        assert_ok(am_hf_model_open(source_path(path), AM_HF_WEIGHTS_REQUIRED, &m));
        assert_memory_equal(m->model_type, names[i], strlen(m->model_type));
        assert_true(m->has_dtype && m->dtype == (i == 0 ? AM_F32 : AM_BF16)); /* both spellings of the key */
        assert_true(am_hf_model_is_eos(m, 2));
        snprintf(path, sizeof path, "tests/golden/%s/reference.safetensors", names[i]);
        assert_ok(am_safetensors_open(source_path(path), &reference));
        assert_int_equal(am_safetensors_count(reference), m->num_tensors + 6);
        for (int64_t k = 0; k < m->num_tensors; k++) {
            const am_safetensors_tensor *t = m->tensors[k], *g;
            snprintf(path, sizeof path, "grad.%s", t->name);
            assert_ok(am_safetensors_get(reference, path, &g));
            assert_int_equal(g->rank, t->rank);
            assert_memory_equal(g->shape, t->shape, sizeof t->shape);
        }
        am_safetensors_free(&reference);
        am_hf_model_free(&m);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_hf_model_dir__one_file_and_config, setup, teardown),
        cmocka_unit_test_setup_teardown(test_hf_model_dir__config_digest, setup, teardown),
        cmocka_unit_test_setup_teardown(test_hf_model_dir__shards, setup, teardown),
        cmocka_unit_test_setup_teardown(test_hf_model_dir__wrong_index, setup, teardown),
        cmocka_unit_test_setup_teardown(test_hf_model_dir__no_weights, setup, teardown),
        cmocka_unit_test_setup_teardown(test_hf_model_dir__config_alone, setup, teardown),
        cmocka_unit_test_setup_teardown(test_hf_model_dir__links_are_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(test_hf_model_dir__cache, setup, teardown),
        cmocka_unit_test_setup_teardown(test_hf_model_dir__cache_links_elsewhere, setup, teardown),
        cmocka_unit_test_setup_teardown(test_hf_model_dir__blob_links_outside_a_cache, setup, teardown),
        cmocka_unit_test_setup_teardown(test_hf_model_dir__aux, setup, teardown),
        cmocka_unit_test(test_hf_model_dir__golden),
    };
    return cmocka_run_group_tests_name("hf_model_dir", tests, NULL, NULL);
}
