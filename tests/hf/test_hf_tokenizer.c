/* The tokenizer against the Python library `tokenizers`: ids, byte offsets and decoded text of
 * data/tokenizer_cases.json, which data/make_tokenizer_cases.py wrote; then what is refused, and what the
 * queries say. */
#include "hf_test.h"

#include "hf/tokenizer.h"

#include <pthread.h>

static const char *data_path(const char *name)
{
    static char path[4096];
    const char *source = getenv("AM_SOURCE_DIR");
    snprintf(path, sizeof path, "%s/tests/hf/data/%s", source != NULL ? source : ".", name);
    return path;
}

static json_t *load(const char *name)
{
    json_t *j = NULL;
    assert_ok(am_json_load(data_path(name), 0, &j));
    return j;
}

/* The base file with `overrides` laid over it (inside of "model" key by key), opened. */
static am_status open_variant(const char *base, json_t *overrides, am_tokenizer **out)
{
    char name[64];
    const char *dir = temporary_folder(), *key;
    json_t *v;
    snprintf(name, sizeof name, "%s/tokenizer.json", base);
    json_t *j = load(name);
    json_object_foreach(overrides, key, v)
    {
        if (strcmp(key, "model") == 0)
            assert_int_equal(json_object_update(json_object_get(j, "model"), v), 0);
        else
            assert_int_equal(json_object_set(j, key, v), 0);
    }
    char *text = json_dumps(j, 0);
    write_text(dir, "tokenizer.json", text);
    am_status st = am_tokenizer_open(dir, out);
    remove_folder(dir);
    free(text);
    json_decref(j);
    return st;
}

static void check_case(const am_tokenizer *t, am_tok_scratch *s, const char *name, json_t *c)
{
    am_encoding e = {0};
    am_str text = {0};
    json_t *in = json_object_get(c, "text"), *ids = json_object_get(c, "ids"),
           *offsets = json_object_get(c, "offsets");
    json_t *decoded = json_object_get(c, "decoded");
    assert_ok(
        am_tokenizer_encode(t, s, json_string_value(in), json_string_length(in), AM_ENCODE_ADD_SPECIAL, &e));
    if (e.n != json_array_size(ids)) fail_msg("%s: '%s': %zu ids", name, json_string_value(in), e.n);
    for (size_t i = 0; i < e.n; i++) {
        json_t *at = json_array_get(offsets, i);
        if (e.ids[i] != json_integer_value(json_array_get(ids, i)) ||
            (at != NULL && (e.start[i] != json_integer_value(json_array_get(at, 0)) ||
                            e.end[i] != json_integer_value(json_array_get(at, 1)))))
            fail_msg("%s: '%s': token %zu is %u [%u, %u)", name, json_string_value(in), i, e.ids[i],
                     e.start[i], e.end[i]);
    }
    assert_ok(am_tokenizer_decode(t, e.ids, e.n, true, &text));
    if (text.len != json_string_length(decoded) || memcmp(text.s, json_string_value(decoded), text.len) != 0)
        fail_msg("%s: '%s' decodes to '%s'", name, json_string_value(in), text.s);
    am_str_release(&text);
    am_encoding_release(&e);
}

static void test_hf_tokenizer__equals_the_library(void **state)
{
    json_t *variants = load("tokenizer_cases.json"), *v, *c;
    size_t i, k;
    assert_true(json_array_size(variants) > 40);
    json_array_foreach(variants, i, v)
    {
        am_tokenizer *t = NULL;
        am_tok_scratch *s = NULL;
        assert_ok(
            open_variant(json_string_value(json_object_get(v, "base")), json_object_get(v, "overrides"), &t));
        assert_ok(am_tok_scratch_create(t, &s));
        for (int twice = 0; twice < 2; twice++) /* the second time from the cache of pieces */
            json_array_foreach(json_object_get(v, "cases"), k, c)
                check_case(t, s, json_string_value(json_object_get(v, "name")), c);
        am_tok_scratch_free(&s);
        am_tokenizer_free(&t);
    }
    json_decref(variants);
}

static void put_character(am_str *s, uint32_t cp)
{
    char utf8[4];
    size_t n = cp < 0x80 ? 1 : cp < 0x800 ? 2 : cp < 0x10000 ? 3 : 4;
    static const unsigned char lead[5] = {0, 0, 0xc0, 0xe0, 0xf0};
    for (size_t i = n; i-- > 1; cp >>= 6) utf8[i] = (char)(0x80 | (cp & 0x3f));
    utf8[0] = (char)(lead[n] | cp);
    assert_ok(am_str_append(s, utf8, n));
}

/* Every character below U+20000, behind an x and before a mark, 64 a text: the SHA-256 of all texts' NFC is the library's
 * (data/make_tokenizer_cases.py --nfc).  Ids of bytes decode to the text as it was normalized. */
static void test_hf_tokenizer__nfc_of_every_character(void **state)
{
    static const uint32_t marks[6] = {0x301, 0x323, 0x338, 0x3099, 0x1161, 0x11a8};
    am_tokenizer *t = NULL;
    am_tok_scratch *s = NULL;
    am_encoding e = {0};
    am_str text = {0}, all = {0};
    char hash[65];
    json_t *nfc = json_pack("{s:{s:s}}", "normalizer", "type", "NFC");
    assert_ok(open_variant("byte_bpe", nfc, &t));
    assert_ok(am_tok_scratch_create(t, &s));
    for (uint32_t first = 0x40; first < 0x20000; first += 64) {
        if (first >= 0xd800 && first < 0xe000) continue;
        text.len = 0;
        for (uint32_t c = first; c < first + 64; c++) {
            put_character(&text, 'x');
            put_character(&text, c);
            put_character(&text, '\n');
            put_character(&text, c);
            put_character(&text, marks[c % 6]);
            put_character(&text, '\n');
        }
        assert_ok(am_tokenizer_encode(t, s, text.s, text.len, 0, &e));
        text.len = 0;
        assert_ok(am_tokenizer_decode(t, e.ids, e.n, false, &text));
        assert_ok(am_str_append(&all, text.s, text.len));
    }
    assert_ok(am_sha256_hex(all.s, all.len, hash));
    assert_string_equal(hash, "df218fecbc84d4630325f7aaa47321269573bbf2d78f5ca555e90da54d6ab482");
    am_str_release(&text);
    am_str_release(&all);
    am_encoding_release(&e);
    am_tok_scratch_free(&s);
    am_tokenizer_free(&t);
    json_decref(nfc);
}

static void test_hf_tokenizer__queries(void **state)
{
    am_tokenizer *t = NULL;
    int64_t id = -1;
    const char *dir = temporary_folder();
    json_t *j = load("byte_bpe/tokenizer.json");
    char *text = json_dumps(j, JSON_COMPACT);
    write_text(dir, "tokenizer.json", text);
    write_text(dir, "tokenizer_config.json",
               "{\"eos_token\": {\"content\": \"<|im_end|>\"}, \"bos_token\": null}");
    write_text(dir, "special_tokens_map.json", "{\"pad_token\": \"</s>\", \"eos_token\": \"<s>\"}");
    assert_ok(am_tokenizer_open(dir, &t));
    assert_int_equal(am_tokenizer_vocab_size(t), 477);
    assert_string_equal(am_tokenizer_token(t, 2), "<|im_start|>");
    assert_null(am_tokenizer_token(t, 477));
    assert_null(am_tokenizer_token(t, -1));
    assert_true(am_tokenizer_is_special(t, 3));
    assert_false(am_tokenizer_is_special(t, 4));
    assert_true(am_tokenizer_role_id(t, "eos_token", &id)); /* tokenizer_config.json goes first */
    assert_int_equal(id, 3);
    assert_true(am_tokenizer_role_id(t, "pad_token", &id));
    assert_int_equal(id, 1);
    assert_false(am_tokenizer_role_id(t, "bos_token", &id));
    assert_false(am_tokenizer_id(t, "no such token", &id));
    char expected[65], sha256[65];
    assert_ok(am_sha256_hex(text, strlen(text), expected));
    assert_ok(am_tokenizer_sha256(t, sha256));
    assert_string_equal(sha256, expected);
    write_text(dir, "tokenizer.json", "{}");
    assert_fails(am_tokenizer_sha256(t, sha256), AM_ERR_IO, "has been written since");
    am_tokenizer_free(&t);
    remove_folder(dir);
    free(text);
    json_decref(j);
}

/* A control token spelled out by the text is counted, and is text when asked for. */
/* A name that the vocabulary has twice, shorter and longer than a tag: the later id counts (asked of the library). */
static void test_hf_tokenizer__a_name_twice(void **state)
{
    am_tokenizer *t = NULL;
    am_tok_scratch *s = NULL;
    am_encoding e = {0};
    int64_t id = -1;
    const char *dir = temporary_folder();
    write_text(dir, "tokenizer.json", "{\"model\": {\"type\": \"BPE\", \"vocab\": {\"a\": 0, \"b\": 1, \"abababab\": 3, \"a\": 2, \"abababab\": 4}, \"merges\": []}}");
    assert_ok(am_tokenizer_open(dir, &t));
    assert_true(am_tokenizer_id(t, "a", &id));
    assert_int_equal(id, 2);
    assert_true(am_tokenizer_id(t, "abababab", &id));
    assert_int_equal(id, 4);
    assert_ok(am_tok_scratch_create(t, &s));
    assert_ok(am_tokenizer_encode(t, s, "ab", 2, 0, &e));
    assert_int_equal(e.n, 2);
    assert_int_equal(e.ids[0], 2);
    am_encoding_release(&e);
    am_tok_scratch_free(&s);
    am_tokenizer_free(&t);
    remove_folder(dir);
    (void)state;
}

static void test_hf_tokenizer__special_tokens_in_text(void **state)
{
    static const char text[] = "a<|im_end|>b<|im_end|>";
    am_tokenizer *t = NULL;
    am_tok_scratch *s = NULL;
    am_encoding e = {0};
    am_str back = {0};
    assert_ok(am_tokenizer_open(data_path("byte_bpe"), &t));
    assert_ok(am_tok_scratch_create(t, &s));
    assert_ok(am_tokenizer_encode(t, s, text, strlen(text), AM_ENCODE_PLAIN, &e));
    assert_int_equal(e.num_special, 2);
    assert_int_equal(e.n, 4);
    assert_ok(am_tokenizer_decode(t, e.ids, e.n, true, &back));
    assert_string_equal(back.s, "ab");
    assert_ok(am_tokenizer_encode(t, s, text, strlen(text), AM_ENCODE_SPECIAL_AS_TEXT, &e));
    assert_int_equal(e.num_special, 0);
    for (size_t i = 0; i < e.n; i++) assert_int_not_equal(e.ids[i], 3);
    back.len = 0;
    assert_ok(am_tokenizer_decode(t, e.ids, e.n, true, &back));
    assert_string_equal(back.s, text);
    am_str_release(&back);
    am_encoding_release(&e);
    am_tok_scratch_free(&s);
    am_tokenizer_free(&t);
}

static void test_hf_tokenizer__bad_input(void **state)
{
    am_tokenizer *t = NULL;
    am_tok_scratch *s = NULL;
    am_encoding e = {0};
    am_str out = {0};
    uint32_t id = 477;
    assert_ok(am_tokenizer_open(data_path("byte_bpe"), &t));
    assert_ok(am_tok_scratch_create(t, &s));
    assert_fails(am_tokenizer_encode(t, s, "ab\xc3(", 4, 0, &e), AM_ERR_DATA, "byte 2 (0xc3)");
    assert_fails(am_tokenizer_encode(t, s, "\xed\xa0\x80", 3, 0, &e), AM_ERR_DATA,
                 "not UTF-8");                                                               /* a surrogate */
    assert_fails(am_tokenizer_encode(t, s, "\xc0\xaf", 2, 0, &e), AM_ERR_DATA, "not UTF-8"); /* overlong */
    assert_fails(am_tokenizer_encode(t, s, "\xf4\x90\x80\x80", 4, 0, &e), AM_ERR_DATA, "not UTF-8");
    assert_fails(am_tokenizer_decode(t, &id, 1, true, &out), AM_ERR_DATA, "ids[0] = 477");
    am_str_release(&out);
    am_encoding_release(&e);
    am_tok_scratch_free(&s);
    am_tokenizer_free(&t);
}

static void refused(const char *overrides, const char *sentence)
{
    am_tokenizer *t = NULL;
    json_t *j = NULL;
    assert_ok(am_json_parse(overrides, strlen(overrides), "overrides", &j));
    assert_fails(open_variant("byte_bpe", j, &t), AM_ERR_MODEL, sentence);
    assert_non_null(strstr(am_error_message(), "tokenizer.json"));
    json_decref(j);
}

static void test_hf_tokenizer__refused_by_name(void **state)
{
    refused("{\"model\": {\"type\": \"Unigram\"}}", "not an array of [token, score]");
    refused("{\"model\": {\"type\": \"WordPiece\"}}", "[UNK]");
    refused("{\"model\": {\"type\": \"Hash\"}}", "model type \"Hash\"");
    refused("{\"normalizer\": {\"type\": \"Precompiled\"}}", "precompiled_charsmap");
    refused("{\"normalizer\": {\"type\": \"Precompiled\", \"precompiled_charsmap\": \"AAAA\"}}", "3 bytes");
    refused("{\"normalizer\": {\"type\": \"Sequence\", \"normalizers\": [{\"type\": \"Odd\"}]}}",
            "normalizer \"Odd\"");
    refused("{\"pre_tokenizer\": {\"type\": \"Odd\"}}", "pre_tokenizer \"Odd\"");
    refused("{\"pre_tokenizer\": {\"type\": \"FixedLength\", \"length\": 0}}", "FixedLength.length");
    refused("{\"pre_tokenizer\": {\"type\": \"Split\", \"pattern\": {\"Regex\": \"(?~a)\"}}}", "absent");
    refused("{\"pre_tokenizer\": {\"type\": \"Split\", \"pattern\": {\"Regex\": \"\\\\p{Klingon}\"}}}",
            "Klingon");
    refused("{\"pre_tokenizer\": {\"type\": \"Split\", \"pattern\": {\"Regex\": \"(a\"}}}", "( without )");
    refused(
        "{\"pre_tokenizer\": {\"type\": \"Split\", \"pattern\": {\"String\": \"a\"}, \"behavior\": \"Odd\"}}",
        "Odd");
    refused("{\"post_processor\": {\"type\": \"Wrap\"}}", "post_processor \"Wrap\"");
    refused("{\"decoder\": {\"type\": \"CTC\"}}", "decoder \"CTC\"");
    refused("{\"model\": {\"dropout\": 0.1}}", "dropout");
    refused("{\"model\": {\"merges\": [\"Ġ t\", \"no pair\"]}}", "merges[1]");
    refused("{\"model\": {\"merges\": [\"abc\"]}}", "merges[0]");
    refused("{\"model\": {\"vocab\": {\"a\": -1}}}", "model.vocab");
    refused("{\"model\": {\"unk_token\": \"<none>\"}}", "<none>");
}

static void test_hf_tokenizer__missing_files(void **state)
{
    am_tokenizer *t = NULL;
    const char *dir = temporary_folder();
    assert_fails(am_tokenizer_open("/no/such/folder", &t), AM_ERR_MODEL, "/no/such/folder");
    assert_fails(am_tokenizer_open(dir, &t), AM_ERR_MODEL, "has no tokenizer.json");
    write_text(dir, "tokenizer.model", "x");
    assert_fails(am_tokenizer_open(dir, &t), AM_ERR_MODEL, "not a SentencePiece model");
    write_text(dir, "tokenizer.json", "{\"model\": ");
    assert_fails(am_tokenizer_open(dir, &t), AM_ERR_MODEL, "tokenizer.json");
    assert_null(t);
    remove_folder(dir);
}

/* One tokenizer, four threads: what each gets is what one gets alone. */
typedef struct worker {
    const am_tokenizer *t;
    json_t *cases;
    bool same;
} worker;

static void *encode_many(void *p)
{
    worker *w = p;
    am_tok_scratch *s = NULL;
    am_encoding e = {0};
    w->same = am_tok_scratch_create(w->t, &s) == AM_OK;
    for (int round = 0; round < 30 && w->same; round++) {
        for (size_t k = 0; k < json_array_size(w->cases) && w->same; k++) {
            json_t *c = json_array_get(w->cases, k), *in = json_object_get(c, "text"),
                   *ids = json_object_get(c, "ids");
            w->same = am_tokenizer_encode(w->t, s, json_string_value(in), json_string_length(in),
                                          AM_ENCODE_ADD_SPECIAL, &e) == AM_OK &&
                      e.n == json_array_size(ids);
            for (size_t i = 0; i < e.n && w->same; i++)
                w->same = e.ids[i] == json_integer_value(json_array_get(ids, i));
        }
    }
    am_encoding_release(&e);
    am_tok_scratch_free(&s);
    return NULL;
}

static void test_hf_tokenizer__threads_share_it(void **state)
{
    json_t *variants = load("tokenizer_cases.json");
    am_tokenizer *t = NULL;
    worker w[4];
    pthread_t thread[4];
    assert_ok(am_tokenizer_open(data_path("byte_bpe"), &t));
    for (int i = 0; i < 4; i++) {
        w[i] = (worker){t, json_object_get(json_array_get(variants, 0), "cases"), false};
        assert_int_equal(pthread_create(&thread[i], NULL, encode_many, &w[i]), 0);
    }
    for (int i = 0; i < 4; i++) {
        pthread_join(thread[i], NULL);
        assert_true(w[i].same);
    }
    am_tokenizer_free(&t);
    json_decref(variants);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_hf_tokenizer__equals_the_library),
        cmocka_unit_test(test_hf_tokenizer__nfc_of_every_character),
        cmocka_unit_test(test_hf_tokenizer__queries),
        cmocka_unit_test(test_hf_tokenizer__a_name_twice),
        cmocka_unit_test(test_hf_tokenizer__special_tokens_in_text),
        cmocka_unit_test(test_hf_tokenizer__bad_input),
        cmocka_unit_test(test_hf_tokenizer__refused_by_name),
        cmocka_unit_test(test_hf_tokenizer__missing_files),
        cmocka_unit_test(test_hf_tokenizer__threads_share_it),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
