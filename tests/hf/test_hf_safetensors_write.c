/* Writing: our file equals, byte by byte, the one the Python library wrote of the same tensors; pieces in any
 * order and dtype; what was forgotten or written twice is refused; shards are cut as huggingface_hub cuts
 * them (values printed by tests/hf/data/make_python_written.py). */
#include "hf_test.h"

#include <signal.h>
#include <sys/resource.h>

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

static const char *in_folder(const char *name)
{
    static char path[600];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return path;
}

static void assert_only(const char *names) /* `ls` of the folder */
{
    char command[700], line[700];
    snprintf(command, sizeof command, "ls -A '%s' | tr '\\n' ' '", folder);
    FILE *p = popen(command, "r");
    assert_non_null(p);
    if (fgets(line, sizeof line, p) == NULL) line[0] = '\0';
    pclose(p);
    assert_string_equal(line, names);
}

static void test_hf_safetensors_write__equals_python(void **state)
{
    (void)state;
    am_safetensors *from = NULL;
    am_safetensors_writer *w = NULL;
    char data[512], *ours = NULL, *theirs = NULL;
    size_t n_ours, n_theirs;
    int64_t index;
    char source[600];
    snprintf(source, sizeof source, "%s", source_path("tests/hf/data/python_written.safetensors"));
    assert_ok(am_safetensors_open(source, &from));
    assert_ok(am_safetensors_writer_create(in_folder("ours.safetensors"), &w));
    int64_t n = am_safetensors_count(from);
    for (int64_t i = 0; i < n; i++) { /* declared backwards: the layout is the writer's own */
        const am_safetensors_tensor *t = am_safetensors_at(from, n - 1 - i);
        assert_ok(am_safetensors_writer_declare(w, t->name, t->dtype, t->rank, t->shape, &index));
        assert_int_equal(index, i);
    }
    assert_ok(am_safetensors_writer_begin(w));
    for (int64_t i = 0; i < n; i++) {
        const am_safetensors_tensor *t = am_safetensors_at(from, n - 1 - i);
        int64_t half = t->elements / 2;
        size_t size = am_dtype_bytes(t->dtype);
        assert_ok(am_safetensors_read(from, t, 0, t->elements, data, t->dtype));
        assert_ok(am_safetensors_writer_write(w, i, half, data + (size_t)half * size, t->elements - half,
                                              t->dtype));
        assert_ok(am_safetensors_writer_write(w, i, 0, data, half, t->dtype));
    }
    assert_ok(am_safetensors_writer_close(w));
    am_safetensors_writer_free(&w);
    am_safetensors_free(&from);
    assert_ok(am_file_read(in_folder("ours.safetensors"), 1 << 20, &ours, &n_ours));
    assert_ok(am_file_read(source, 1 << 20, &theirs, &n_theirs));
    assert_int_equal(n_ours, n_theirs);
    assert_memory_equal(ours, theirs, n_ours);
    free(ours);
    free(theirs);
    assert_only("ours.safetensors ");
}

/* Pieces of a ramp in an order that opens, joins and closes gaps (a fixed permutation: 37·i mod 101). */
static void test_hf_safetensors_write__any_order_and_dtype(void **state)
{
    (void)state;
    am_safetensors_writer *w = NULL;
    am_safetensors *f = NULL;
    int64_t index, shape[2] = {101, 3};
    float x[3], back[303];
    assert_ok(am_safetensors_writer_create(in_folder("any.safetensors"), &w));
    assert_ok(am_safetensors_writer_metadata(w, "format", "am"));
    assert_ok(am_safetensors_writer_metadata(w, "tab\t\"quote\"", "\xc3\xbc\n"));
    assert_ok(am_safetensors_writer_declare(w, "w", AM_BF16, 2, shape, &index));
    assert_ok(am_safetensors_writer_begin(w));
    for (int i = 0; i < 101; i++) {
        int row = 37 * i % 101;
        for (int k = 0; k < 3; k++) x[k] = (float)(row - k); /* small integers are exact in bf16 */
        assert_ok(am_safetensors_writer_write(w, index, 3 * row, x, 3, AM_F32));
    }
    assert_ok(am_safetensors_writer_close(w));
    am_safetensors_writer_free(&w);
    assert_ok(am_safetensors_open(in_folder("any.safetensors"), &f));
    assert_string_equal(am_safetensors_metadata(f, "format"), "am");
    assert_string_equal(am_safetensors_metadata(f, "tab\t\"quote\""), "\xc3\xbc\n");
    assert_ok(am_safetensors_read(f, am_safetensors_at(f, 0), 0, 303, back, AM_F32));
    for (int i = 0; i < 303; i++) assert_true(back[i] == (float)(i / 3 - i % 3));
    am_safetensors_free(&f);
}

/* Converted in several chunks of 64 KiB: 100,000 elements, each |i mod 251|, both ways. */
static void test_hf_safetensors_write__large_conversion(void **state)
{
    (void)state;
    enum { N = 100000 };
    am_safetensors_writer *w = NULL;
    am_safetensors *f = NULL;
    int64_t index, shape[1] = {N};
    double *x = malloc(N * sizeof *x);
    assert_non_null(x);
    for (int i = 0; i < N; i++) x[i] = i % 251;
    assert_ok(am_safetensors_writer_create(in_folder("large.safetensors"), &w));
    assert_ok(am_safetensors_writer_declare(w, "w", AM_F16, 1, shape, &index));
    assert_ok(am_safetensors_writer_begin(w));
    assert_ok(am_safetensors_writer_write(w, index, 0, x, N, AM_F64));
    assert_ok(am_safetensors_writer_close(w));
    am_safetensors_writer_free(&w);
    memset(x, 0, N * sizeof *x);
    assert_ok(am_safetensors_open(in_folder("large.safetensors"), &f));
    assert_ok(am_safetensors_read(f, am_safetensors_at(f, 0), 7, N - 7, x, AM_F64));
    for (int i = 0; i < N - 7; i++) assert_true(x[i] == (i + 7) % 251);
    am_safetensors_free(&f);
    free(x);
}

static void test_hf_safetensors_write__refuses(void **state)
{
    (void)state;
    am_safetensors_writer *w = NULL;
    int64_t a, b, two[1] = {2}, negative[1] = {-1}, huge[2] = {INT64_C(1) << 40, INT64_C(1) << 40};
    uint8_t bytes[4] = {1, 2, 3, 4};
    const char *path = in_folder("no.safetensors");
    assert_ok(am_safetensors_writer_create(path, &w));
    assert_ok(am_safetensors_writer_declare(w, "a", AM_U8, 1, two, &a));
    assert_fails(am_safetensors_writer_declare(w, "a", AM_U8, 1, two, &b), AM_ERR_MODEL,
                 "[safetensors/DUPLICATE]");
    assert_fails(am_safetensors_writer_declare(w, "__metadata__", AM_U8, 1, two, &b), AM_ERR_MODEL,
                 "[safetensors/DUPLICATE]");
    assert_fails(am_safetensors_writer_declare(w, "n", AM_U8, 1, negative, &b), AM_ERR_MODEL,
                 "[safetensors/OVERFLOW]");
    assert_fails(am_safetensors_writer_declare(w, "h", AM_U8, 2, huge, &b), AM_ERR_MODEL,
                 "[safetensors/OVERFLOW]");
    assert_fails(am_safetensors_writer_declare(w, "r", AM_U8, 9, huge, &b), AM_ERR_MODEL,
                 "[safetensors/RANK]");
    assert_fails(am_safetensors_writer_declare(w, "\xff", AM_U8, 1, two, &b), AM_ERR_MODEL,
                 "[safetensors/HEADER_UTF8]");
    assert_fails(am_safetensors_writer_metadata(w, "k", "\xff"), AM_ERR_MODEL, "[safetensors/HEADER_UTF8]");
    assert_fails(am_safetensors_writer_write(w, a, 0, bytes, 2, AM_U8), AM_ERR_INTERNAL,
                 "[safetensors/WRITE_ORDER]");
    assert_fails(am_safetensors_writer_close(w), AM_ERR_INTERNAL, "[safetensors/WRITE_ORDER]");
    assert_ok(am_safetensors_writer_begin(w));
    assert_fails(am_safetensors_writer_declare(w, "late", AM_U8, 1, two, &b), AM_ERR_INTERNAL,
                 "[safetensors/WRITE_ORDER]");
    assert_fails(am_safetensors_writer_write(w, a, 1, bytes, 2, AM_U8), AM_ERR_MODEL, "[safetensors/SLICE]");
    assert_fails(am_safetensors_writer_write(w, a, 0, bytes, 1, AM_F32), AM_ERR_MODEL,
                 "[safetensors/CONVERT]");
    assert_ok(am_safetensors_writer_write(w, a, 1, bytes, 1, AM_U8));
    assert_fails(am_safetensors_writer_write(w, a, 0, bytes, 2, AM_U8), AM_ERR_INTERNAL,
                 "[safetensors/WRITE_TWICE]");
    assert_fails(am_safetensors_writer_close(w), AM_ERR_INTERNAL,
                 "element 0 is missing [safetensors/WRITE_MISSING]");
    assert_false(am_path_exists(path)); /* nothing under the final name … */
    am_safetensors_writer_free(&w);
    assert_only(""); /* … and no temporary stays behind */
    assert_ok(am_safetensors_writer_create("/nonexistent_folder/x.safetensors", &w));
    assert_fails(am_safetensors_writer_begin(w), AM_ERR_IO, "[safetensors/IO]");
    am_safetensors_writer_free(&w);
}

/* A file-size limit stands for the full disk: the header fits, the data do not. */
static void test_hf_safetensors_write__disk_full(void **state)
{
    (void)state;
    am_safetensors_writer *w = NULL;
    struct rlimit before, limited;
    int64_t index, shape[1] = {4096};
    char data[4096] = {0};
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    limited = before;
    limited.rlim_cur = 2048;
    signal(SIGXFSZ, SIG_IGN);
    assert_ok(am_safetensors_writer_create(in_folder("full.safetensors"), &w));
    assert_ok(am_safetensors_writer_declare(w, "w", AM_U8, 1, shape, &index));
    assert_ok(am_safetensors_writer_begin(w));
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &limited), 0);
    am_status st = am_safetensors_writer_write(w, index, 0, data, sizeof data, AM_U8);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
    assert_fails(st, AM_ERR_IO, "cannot write");
    am_safetensors_writer_free(&w);
    assert_only("");
}

/* A link planted at the temporary name is not followed. */
static void test_hf_safetensors_write__planted_link(void **state)
{
    (void)state;
    am_safetensors_writer *w = NULL;
    char link[700], victim[600];
    snprintf(victim, sizeof victim, "%s", in_folder("victim"));
    write_text(folder, "victim", "untouched");
    snprintf(link, sizeof link, "%s/x.safetensors.tmp-%ld", folder, (long)getpid());
    assert_int_equal(symlink(victim, link), 0);
    assert_ok(am_safetensors_writer_create(in_folder("x.safetensors"), &w));
    assert_fails(am_safetensors_writer_begin(w), AM_ERR_IO, "[safetensors/IO]");
    am_safetensors_writer_free(&w);
    char *text = NULL;
    size_t n;
    assert_ok(am_file_read(victim, 100, &text, &n));
    assert_string_equal(text, "untouched");
    free(text);
}

static void declare_all(am_hf_writer *w, const int64_t *sizes, int n)
{
    for (int i = 0; i < n; i++) {
        char name[16];
        int64_t index;
        snprintf(name, sizeof name, "t%d", i);
        assert_ok(am_hf_writer_declare(w, name, AM_U8, 1, &sizes[i], &index));
        assert_int_equal(index, i);
    }
}

static void test_hf_safetensors_write__shards_as_huggingface_hub(void **state)
{
    (void)state;
    static const int64_t sizes[10] = {3, 5, 12, 4, 4, 10, 1, 0, 11, 2};
    static const int shard[10] = {2, 2, 1, 3, 3, 4, 6, 6, 5, 6};
    am_hf_writer *w = NULL;
    json_t *index = NULL;
    uint8_t bytes[16];
    assert_ok(am_hf_writer_create(folder, 10, &w));
    declare_all(w, sizes, 10);
    assert_ok(am_hf_writer_begin(w));
    assert_int_equal(am_hf_writer_num_shards(w), 6);
    assert_int_equal(am_hf_writer_total_bytes(w), 52);
    for (int i = 9; i >= 0; i--) {
        memset(bytes, 'a' + i, sizeof bytes);
        assert_ok(am_hf_writer_write(w, i, 0, bytes, sizes[i], AM_U8));
    }
    assert_ok(am_hf_writer_close(w));
    am_hf_writer_free(&w);
    assert_ok(am_json_load(in_folder("model.safetensors.index.json"), 0, &index));
    assert_int_equal(json_integer_value(am_json_at(index, "metadata.total_size")), 52);
    assert_int_equal(json_object_size(json_object_get(index, "weight_map")), 10);
    for (int i = 0; i < 10; i++) {
        char name[16], file[64];
        snprintf(name, sizeof name, "t%d", i);
        snprintf(file, sizeof file, "model-%05d-of-00006.safetensors", shard[i]);
        assert_string_equal(json_string_value(json_object_get(json_object_get(index, "weight_map"), name)),
                            file);
    }
    json_decref(index);

    am_hf_model *m = NULL;
    write_text(folder, "config.json", "{}");
    assert_ok(am_hf_model_open(folder, AM_HF_WEIGHTS_REQUIRED, &m));
    assert_int_equal(m->num_tensors, 10);
    assert_int_equal(m->total_bytes, 52);
    assert_ok(am_hf_model_read(m, am_hf_model_find(m, "t8"), 0, 11, bytes, AM_U8));
    for (int i = 0; i < 11; i++) assert_int_equal(bytes[i], 'a' + 8);
    am_hf_model_free(&m);

    assert_ok(am_hf_writer_create(folder, 10, &w)); /* the folder is not empty now */
    assert_fails(am_hf_writer_begin(w), AM_ERR_USAGE, "already holds weights");
    am_hf_writer_free(&w);
}

static void test_hf_safetensors_write__one_shard_has_no_index(void **state)
{
    (void)state;
    static const int64_t sizes[2] = {3, 5};
    am_hf_writer *w = NULL;
    assert_ok(am_hf_writer_create(folder, 0, &w));
    assert_ok(am_hf_writer_metadata(w, "made_by", "automodel"));
    declare_all(w, sizes, 2);
    assert_ok(am_hf_writer_begin(w));
    assert_int_equal(am_hf_writer_num_shards(w), 1);
    assert_ok(am_hf_writer_write(w, 0, 0, "abc", 3, AM_U8));
    assert_fails(am_hf_writer_close(w), AM_ERR_INTERNAL, "'t1'");
    assert_ok(am_hf_writer_write(w, 1, 0, "abcde", 5, AM_U8));
    assert_ok(am_hf_writer_close(w));
    am_hf_writer_free(&w);
    assert_only("model.safetensors ");
    assert_int_equal(unlink(in_folder("model.safetensors")), 0);

    int64_t index;
    assert_ok(am_hf_writer_create(folder, 0, &w));
    assert_ok(am_hf_writer_declare(w, "t", AM_U8, 1, &sizes[0], &index));
    assert_ok(am_hf_writer_declare(w, "t", AM_U8, 1, &sizes[0], &index));
    assert_fails(am_hf_writer_begin(w), AM_ERR_MODEL, "[safetensors/DUPLICATE]");
    am_hf_writer_free(&w);
    assert_only("");
}

static void test_hf_safetensors_write__sizes(void **state)
{
    (void)state;
    int64_t n;
    assert_true(am_hf_parse_bytes("5GB", &n) && n == 5000000000);
    assert_true(am_hf_parse_bytes("5GiB", &n) && n == 5368709120);
    assert_true(am_hf_parse_bytes("1024", &n) && n == 1024);
    assert_true(am_hf_parse_bytes("200MB", &n) && n == 200000000);
    assert_false(am_hf_parse_bytes("", &n));
    assert_false(am_hf_parse_bytes("GB", &n));
    assert_false(am_hf_parse_bytes("-1GB", &n));
    assert_false(am_hf_parse_bytes("5 GB", &n));
    assert_false(am_hf_parse_bytes("5gb!", &n));
    assert_false(am_hf_parse_bytes("9223372036854775808", &n));
    assert_false(am_hf_parse_bytes("9999999999TB", &n));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_hf_safetensors_write__equals_python, setup, teardown),
        cmocka_unit_test_setup_teardown(test_hf_safetensors_write__any_order_and_dtype, setup, teardown),
        cmocka_unit_test_setup_teardown(test_hf_safetensors_write__large_conversion, setup, teardown),
        cmocka_unit_test_setup_teardown(test_hf_safetensors_write__refuses, setup, teardown),
        cmocka_unit_test_setup_teardown(test_hf_safetensors_write__disk_full, setup, teardown),
        cmocka_unit_test_setup_teardown(test_hf_safetensors_write__planted_link, setup, teardown),
        cmocka_unit_test_setup_teardown(test_hf_safetensors_write__shards_as_huggingface_hub, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_hf_safetensors_write__one_shard_has_no_index, setup, teardown),
        cmocka_unit_test(test_hf_safetensors_write__sizes),
    };
    return cmocka_run_group_tests_name("hf_safetensors_write", tests, NULL, NULL);
}
