/* Tokenizer files of other kinds than tokenizer.json (SentencePiece, tiktoken, tekken) and SentencePiece's table of replacements against
 * the libraries they belong to: ids and decoded text of data/tokenizer_files.json, which data/make_tokenizer_files.py wrote. */
#include "hf_test.h"

#include "hf/tokenizer_internal.h"

static json_t *entry_named(json_t *files, const char *name)
{
    size_t i;
    json_t *e;
    json_array_foreach(files, i, e) if (strcmp(json_string_value(json_object_get(e, "name")), name) == 0) return e;
    fail_msg("no entry %s", name);
    return NULL;
}

/* Lines of 4-byte tokens that occur in no text: ids far above a vocabulary are refused as broken. */
static void add_fillers(am_str *file, int64_t n, int64_t first)
{
    static const char digit[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for (int64_t i = 0; i < n; i++) {
        uint32_t b = (uint32_t)((0x80 + i / 64) << 8 | (0x80 + i % 64)); /* behind ff fe */
        assert_ok(am_str_printf(file, "//6%c%c%c== %" PRId64 "\n", digit[b >> 8 & 63], digit[b >> 2 & 63], digit[(b & 3) << 4], first + i));
    }
}

static int64_t count_lines(const am_str *s)
{
    int64_t n = 0;
    for (size_t i = 0; i < s->len; i++) n += s->s[i] == '\n';
    return n;
}

/* The entry's file, and its tokenizer_config.json, in a folder; tiktoken's entries share the lines of the first. */
static const char *lay_out(json_t *files, json_t *e)
{
    const char *dir = temporary_folder(), *file = json_string_value(json_object_get(e, "file"));
    json_t *packed = json_object_get(e, "base64"), *config = json_object_get(e, "config"), *text = json_object_get(e, "text");
    am_str bytes = {0};
    if (packed != NULL) {
        assert_ok(am_tok_base64(json_string_value(packed), json_string_length(packed), &bytes));
    } else {
        if (text == NULL) text = json_object_get(entry_named(files, "tiktoken_llama3"), "text");
        assert_ok(am_str_append(&bytes, json_string_value(text), json_string_length(text)));
    }
    int64_t fillers = json_integer_value(json_object_get(e, "fillers"));
    if (fillers > 0) add_fillers(&bytes, fillers, count_lines(&bytes));
    write_file(dir, file, bytes.s, bytes.len);
    if (config != NULL) {
        char *said = json_dumps(config, 0);
        write_text(dir, "tokenizer_config.json", said);
        free(said);
    }
    am_str_release(&bytes);
    return dir;
}

static int check_ids(const char *name, const char *text, const am_encoding *e, json_t *ids)
{
    size_t i = 0, n = json_array_size(ids);
    while (i < n && i < e->n && e->ids[i] == json_integer_value(json_array_get(ids, i))) i++;
    if (i == n && i == e->n) return 0;
    print_error("%s: '%s': token %zu of %zu is %d, expected %d of %zu\n", name, text, i, e->n, i < e->n ? (int)e->ids[i] : -1,
                i < n ? (int)json_integer_value(json_array_get(ids, i)) : -1, n);
    return 1;
}

static int check_decoded(const am_tokenizer *t, const char *name, json_t *in, json_t *ids, json_t *want)
{
    am_str text = {0};
    uint32_t *id = calloc(json_array_size(ids) + 1, sizeof *id);
    assert_non_null(id);
    for (size_t i = 0; i < json_array_size(ids); i++) id[i] = (uint32_t)json_integer_value(json_array_get(ids, i));
    assert_ok(am_tokenizer_decode(t, id, json_array_size(ids), true, &text));
    if (json_is_true(want)) want = in;
    bool same = text.len == json_string_length(want) && (text.len == 0 || memcmp(text.s, json_string_value(want), text.len) == 0);
    if (!same) print_error("%s: decoded '%s', expected '%s'\n", name, text.s, json_string_value(want));
    am_str_release(&text);
    free(id);
    return same ? 0 : 1;
}

/* One way of encoding, all texts. */
static int check_mode(const am_tokenizer *t, am_tok_scratch *s, const char *name, json_t *texts, json_t *more, json_t *mode)
{
    json_t *all = json_object_get(mode, "ids"), *ids, *decoded = json_object_get(mode, "decoded");
    int flags = (int)json_integer_value(json_object_get(mode, "flags")), bad = 0;
    size_t i, n = json_array_size(texts);
    am_encoding e = {0};
    json_array_foreach(all, i, ids)
    {
        json_t *text = i < n ? json_array_get(texts, i) : json_array_get(more, i - n), *want = json_array_get(decoded, i);
        if (json_is_null(ids)) continue;
        assert_ok(am_tokenizer_encode(t, s, json_string_value(text), json_string_length(text), flags, &e));
        bad += check_ids(name, json_string_value(text), &e, ids);
        if (want != NULL && !json_is_null(want)) bad += check_decoded(t, name, text, ids, want);
    }
    am_encoding_release(&e);
    return bad;
}

static int check_entry(json_t *files, json_t *common, json_t *e)
{
    am_tokenizer *t = NULL;
    am_tok_scratch *s = NULL;
    json_t *own = json_object_get(e, "texts"), *mode;
    const char *name = json_string_value(json_object_get(e, "name")), *file = json_string_value(json_object_get(e, "file"));
    const char *dir = lay_out(files, e);
    char path[700];
    int bad = 0;
    size_t i;
    snprintf(path, sizeof path, "%s/%s", dir, file);
    const char *error = json_string_value(json_object_get(e, "error"));
    if (error != NULL) {
        assert_fails(am_tokenizer_open(dir, &t), AM_ERR_MODEL, error);
        remove_folder(dir);
        return 0;
    }
    /* the folder alone, where the name is one that is looked for there */
    assert_ok(am_tokenizer_open(strstr(file, "_base.tiktoken") != NULL ? path : dir, &t));
    assert_ok(am_tok_scratch_create(t, &s));
    for (int twice = 0; twice < 2; twice++) /* the second time from the caches */
        json_array_foreach(json_object_get(e, "modes"), i, mode)
            bad += check_mode(t, s, name, own != NULL ? own : common, json_object_get(e, "more_texts"), mode);
    am_tok_scratch_free(&s);
    am_tokenizer_free(&t);
    remove_folder(dir);
    return bad;
}

static void test_hf_tokenizer_files__equal_their_libraries(void **state)
{
    json_t *all = NULL, *e;
    int bad = 0;
    size_t i;
    assert_ok(am_json_load(source_path("tests/hf/data/tokenizer_files.json"), 0, &all));
    json_t *files = json_object_get(all, "files");
    assert_true(json_array_size(files) >= 15);
    json_array_foreach(files, i, e) bad += check_entry(files, json_object_get(all, "texts"), e);
    assert_int_equal(bad, 0);
    json_decref(all);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_hf_tokenizer_files__equal_their_libraries)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
