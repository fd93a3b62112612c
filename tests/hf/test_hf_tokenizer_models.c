/* Tokenizers of every model kind against the Python library: ids and decoded text of data/tokenizer_models.json, which
 * data/make_tokenizer_models.py wrote; then split patterns as tables beside the regex engine, on every character. */
#include "hf_test.h"

#include "hf/tokenizer_internal.h"

static void check_case(const am_tokenizer *t, am_tok_scratch *s, const char *name, json_t *c)
{
    am_encoding e = {0};
    am_str text = {0};
    json_t *in = json_object_get(c, "text"), *ids = json_object_get(c, "ids"), *decoded = json_object_get(c, "decoded");
    assert_ok(am_tokenizer_encode(t, s, json_string_value(in), json_string_length(in), AM_ENCODE_ADD_SPECIAL, &e));
    if (e.n != json_array_size(ids)) fail_msg("%s: '%s': %zu ids", name, json_string_value(in), e.n);
    for (size_t i = 0; i < e.n; i++)
        if (e.ids[i] != json_integer_value(json_array_get(ids, i)))
            fail_msg("%s: '%s': token %zu is %u", name, json_string_value(in), i, e.ids[i]);
    assert_ok(am_tokenizer_decode(t, e.ids, e.n, true, &text));
    if (text.len != json_string_length(decoded) || memcmp(text.s, json_string_value(decoded), text.len) != 0)
        fail_msg("%s: '%s' decodes to '%s'", name, json_string_value(in), text.s);
    am_str_release(&text);
    am_encoding_release(&e);
}

static void test_hf_tokenizer_models__equal_the_library(void **state)
{
    json_t *all = NULL, *m, *c;
    size_t i, k;
    assert_ok(am_json_load(source_path("tests/hf/data/tokenizer_models.json"), 0, &all));
    assert_true(json_array_size(all) >= 9);
    json_array_foreach(all, i, m)
    {
        am_tokenizer *t = NULL;
        am_tok_scratch *s = NULL;
        const char *dir = temporary_folder();
        char *text = json_dumps(json_object_get(m, "tokenizer"), JSON_REAL_PRECISION(17));
        write_text(dir, "tokenizer.json", text);
        assert_ok(am_tokenizer_open(dir, &t));
        assert_ok(am_tok_scratch_create(t, &s));
        for (int twice = 0; twice < 2; twice++) /* the second time from the caches */
            json_array_foreach(json_object_get(m, "cases"), k, c)
                check_case(t, s, json_string_value(json_object_get(m, "name")), c);
        am_tok_scratch_free(&s);
        am_tokenizer_free(&t);
        remove_folder(dir);
        free(text);
    }
    json_decref(all);
}

#define UPPER "\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}"
#define LOWER "\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}"
static const char *const patterns[] = {
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+",
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
    "[^\\r\\n\\p{L}\\p{N}]?[" UPPER "]*[" LOWER "]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\\r\\n\\p{L}\\p{N}]?[" UPPER "]+[" LOWER
    "]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
    "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\\r\\n]+|"
    "\\s+(?!\\S)|\\s+",
    "[一-龥぀-ゟ゠-ヿ]+", "\\p{N}", "\\s",
};

static void compare(const am_tok_regex *re, am_tok_matcher *m, const char *s, size_t n, uint64_t trial)
{
    am_spans a = {0}, b = {0};
    am_str copy = {0};
    const char *shown = s;
    assert_ok(am_tok_regex_find_all(re, m, s, n, &a));
    assert_ok(am_tok_stand_ins(s, n, &copy, &shown));
    assert_ok(am_tok_regex_find_by_engine(re, m, shown, n, &b));
    if (a.n != b.n || (a.n > 0 && memcmp(a.at, b.at, a.n * sizeof *a.at) != 0)) fail_msg("text %zu: other matches", (size_t)trial);
    am_free(&a.at);
    am_free(&b.at);
    am_str_release(&copy);
}

/* Every character between letters, then random rows of awkward ones. */
static void test_hf_tokenizer_models__tables_match_like_the_engine(void **state)
{
    static const int32_t awkward[] = {' ', ' ', '\n', '\r', '\t', 'a', 'B', '\'', 's', 'S', 't', 'l', 'd', '7', '.', '/', '-', 0x17f,
                                      0x212a, 0xe9, 0x301, 0x4e2d, 0x3042, 0x85, 0xa0, 0x2028, 0x180e, 0x1c5, 0x2b0, 0x663, 0x1f600};
    am_tok_matcher m;
    assert_ok(am_tok_matcher_init(&m));
    for (size_t p = 0; p < sizeof patterns / sizeof *patterns; p++) {
        am_tok_regex re;
        assert_ok(am_tok_regex_compile(patterns[p], strlen(patterns[p]), false, "pattern", &re));
        assert_non_null(re.pattern);
        char text[512];
        for (int32_t cp = 0; cp < 0x110000; cp++) {
            if (cp >= 0xd800 && cp < 0xe000) continue;
            size_t n = 0;
            text[n++] = 'a';
            n += am_tok_utf8_put(cp, text + n);
            n += am_tok_utf8_put(cp, text + n);
            text[n++] = ' ';
            n += am_tok_utf8_put(cp, text + n);
            compare(&re, &m, text, n, (uint64_t)cp);
        }
        for (uint64_t trial = 0; trial < 20000; trial++) {
            size_t n = 0, len = 1 + am_random_u64(7, trial, 0) % 40;
            for (size_t i = 0; i < len; i++)
                n += am_tok_utf8_put(awkward[am_random_u64(7, trial, i + 1) % (sizeof awkward / sizeof *awkward)], text + n);
            compare(&re, &m, text, n, trial);
        }
        am_tok_regex_release(&re);
    }
    am_tok_matcher_release(&m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_hf_tokenizer_models__equal_the_library),
        cmocka_unit_test(test_hf_tokenizer_models__tables_match_like_the_engine),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
