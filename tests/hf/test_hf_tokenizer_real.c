/* Real tokenizers (Llama 3.1, Qwen3, DeepSeek V3, Gemma 3), whose licences keep them out of the project: the
 * folder $AM_SHARED_TOKENIZERS holds NAME.tar.xz or NAME/tokenizer.json; without it the test is skipped (77).
 * Expected: data/real_tokenizer_cases.json, from the Python library `tokenizers`. */
#include "hf_test.h"

#include "hf/tokenizer.h"

static int compare(const am_tokenizer *t, am_tok_scratch *s, json_t *c, const char *name)
{
    am_encoding e = {0};
    am_str text = {0};
    json_t *in = json_object_get(c, "text"), *ids = json_object_get(c, "ids"),
           *offsets = json_object_get(c, "offsets");
    bool same = am_tokenizer_encode(t, s, json_string_value(in), json_string_length(in),
                                    AM_ENCODE_ADD_SPECIAL, &e) == AM_OK &&
                e.n == json_array_size(ids);
    for (size_t i = 0; i < e.n && same; i++) {
        json_t *at = json_array_get(offsets, i);
        same = e.ids[i] == json_integer_value(json_array_get(ids, i)) &&
               (at == NULL || (e.start[i] == json_integer_value(json_array_get(at, 0)) &&
                               e.end[i] == json_integer_value(json_array_get(at, 1))));
    }
    same = same && am_tokenizer_decode(t, e.ids, e.n, true, &text) == AM_OK &&
           strcmp(text.s, json_string_value(json_object_get(c, "decoded"))) == 0;
    if (!same) fprintf(stderr, "%s: '%s' differs\n", name, json_string_value(in));
    am_encoding_release(&e);
    am_str_release(&text);
    return same ? 0 : 1;
}

static int check(const char *folder, json_t *entry)
{
    char command[4096], path[2048];
    am_tokenizer *t = NULL;
    am_tok_scratch *s = NULL;
    const char *name = json_string_value(json_object_get(entry, "name")), *work = temporary_folder();
    json_t *c;
    size_t i;
    int bad = 0;
    snprintf(path, sizeof path, "%s/%s", folder, name);
    if (!am_path_exists(path)) {
        snprintf(command, sizeof command, "tar -C '%s' -xf '%s/%s.tar.xz'", work, folder, name);
        assert_int_equal(system(command), 0);
        snprintf(path, sizeof path, "%s/%s", work, name);
    }
    assert_ok(am_tokenizer_open(path, &t));
    char sha256[65];
    assert_ok(am_tokenizer_sha256(t, sha256));
    assert_string_equal(sha256, json_string_value(json_object_get(entry, "sha256")));
    assert_ok(am_tok_scratch_create(t, &s));
    json_array_foreach(json_object_get(entry, "cases"), i, c) bad += compare(t, s, c, name);
    am_tok_scratch_free(&s);
    am_tokenizer_free(&t);
    remove_folder(work);
    return bad;
}

static void test_hf_tokenizer_real__equal_the_library(void **state)
{
    char path[2048];
    const char *source = getenv("AM_SOURCE_DIR");
    json_t *entries = NULL, *entry;
    size_t i;
    int bad = 0;
    snprintf(path, sizeof path, "%s/tests/hf/data/real_tokenizer_cases.json", source != NULL ? source : ".");
    assert_ok(am_json_load(path, 0, &entries));
    json_array_foreach(entries, i, entry) bad += check(getenv("AM_SHARED_TOKENIZERS"), entry);
    assert_int_equal(bad, 0);
    json_decref(entries);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_hf_tokenizer_real__equal_the_library)};
    const char *folder = getenv("AM_SHARED_TOKENIZERS");
    if (folder == NULL || !am_path_exists(folder)) {
        printf("skipped: AM_SHARED_TOKENIZERS names no folder with llama3_1.tar.xz …\n");
        return 77;
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
