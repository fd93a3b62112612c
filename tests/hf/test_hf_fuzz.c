/* Deterministic mutations of valid files: each is read or refused with a sentence, never anything else.  What
 * the parsers accept is then read whole.  Build with -DAM_SANITIZE=address,undefined to see more than
 * crashes. */
#include "hf_test.h"

#include "hf/tokenizer_internal.h"

#include <sys/mman.h>

enum { TRIALS = 20000, MAX_BYTES = 4096 };

typedef struct bytes {
    char data[2 * MAX_BYTES];
    size_t n;
} bytes;

static uint64_t draw(uint64_t trial, uint64_t *index, uint64_t below)
{
    return below > 0 ? am_random_u64(2026, trial, (*index)++) % below : 0;
}

static void remove_range(bytes *b, size_t at, size_t n)
{
    memmove(b->data + at, b->data + at + n, b->n - at - n);
    b->n -= n;
}

static void insert_range(bytes *b, size_t at, const char *what, size_t n)
{
    if (b->n + n > sizeof b->data) return;
    memmove(b->data + at + n, b->data + at, b->n - at);
    memcpy(b->data + at, what, n);
    b->n += n;
}

/* One change, mostly in the first `hot` bytes (header or text). */
static void mutate(bytes *b, size_t hot, uint64_t trial, uint64_t *k)
{
    static const char *const words[] = {"\"",
                                        "\\",
                                        "{",
                                        "}",
                                        "[",
                                        "]",
                                        ",",
                                        ":",
                                        "0",
                                        "9",
                                        "-",
                                        "null",
                                        "1e9",
                                        "\\u",
                                        "\\ud8",
                                        "true",
                                        "NaN",
                                        "Infinity",
                                        "[[[",
                                        "{\"a\":",
                                        "F4",
                                        "18446744073709551615",
                                        "9223372036854775808",
                                        "\xff"};
    if (b->n == 0) return;
    size_t limit = draw(trial, k, 8) > 0 && hot < b->n ? hot : b->n;
    size_t at = draw(trial, k, limit);
    size_t n = 1 + draw(trial, k, 16);
    if (n > b->n - at) n = b->n - at;
    char copy[16];
    memcpy(copy, b->data + at, n);
    const char *word = words[draw(trial, k, sizeof words / sizeof words[0])];
    switch (draw(trial, k, 7)) {
    case 0:
        b->data[at] ^= (char)(1 << draw(trial, k, 8));
        break;
    case 1:
        b->data[at] = (char)draw(trial, k, 256);
        break;
    case 2:
        remove_range(b, at, n);
        break;
    case 3:
        insert_range(b, draw(trial, k, b->n), copy, n);
        break;
    case 4:
        insert_range(b, at, word, strlen(word));
        break;
    case 5:
        b->n = at;
        break;
    default: /* a digit changed keeps the text well formed and the numbers wrong */
        while (at < b->n && (b->data[at] < '0' || b->data[at] > '9')) at++;
        if (at < b->n) b->data[at] = (char)('0' + draw(trial, k, 10));
    }
}

static void load(const char *path, bytes *b)
{
    char *data = NULL;
    assert_ok(am_file_read(path, MAX_BYTES, &data, &b->n));
    memcpy(b->data, data, b->n);
    free(data);
}

static bool try_safetensors(const bytes *b)
{
    am_safetensors *f = NULL;
    char out[2 * MAX_BYTES];
    int fd = memfd_create("fuzz", MFD_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, b->data, b->n), b->n);
    am_error_clear();
    am_status st = am_safetensors_open_fd(fd, "fuzz.safetensors", &f);
    if (st != AM_OK) {
        assert_null(f);
        assert_int_equal(st, AM_ERR_MODEL);
        assert_non_null(strstr(am_error_message(), "[safetensors/"));
        return false;
    }
    int64_t end = 0;
    for (int64_t i = 0; i < am_safetensors_count(f); i++) {
        const am_safetensors_tensor *t = am_safetensors_at(f, i);
        assert_true(t->bytes <= (int64_t)b->n && t->offset + t->bytes <= (int64_t)b->n && t->offset >= end);
        assert_ok(am_safetensors_read(f, t, 0, t->elements, out, t->dtype));
        assert_ptr_equal(am_safetensors_find(f, t->name), t);
        end = t->offset + t->bytes;
    }
    am_safetensors_free(&f);
    return true;
}

static void test_hf_fuzz__safetensors(void **state)
{
    (void)state;
    bytes original, b;
    int accepted = 0;
    load(source_path("tests/hf/data/python_written.safetensors"), &original);
    for (uint64_t trial = 0; trial < TRIALS; trial++) {
        uint64_t k = 0, changes = 1 + draw(trial, &k, 3);
        b = original;
        for (uint64_t c = 0; c < changes; c++) mutate(&b, 1000, trial, &k);
        /* half of the time the announced length follows the text, so that the parser is reached */
        if (draw(trial, &k, 2) == 0 && b.n > 8 + 377) {
            uint64_t n = b.n - 8 - 377;
            memcpy(b.data, &n, 8);
        }
        accepted += try_safetensors(&b);
    }
    print_message("%d of %d mutated files were valid\n", accepted, TRIALS);
    assert_true(accepted > 0 && accepted < TRIALS);
}

static void test_hf_fuzz__json(void **state)
{
    (void)state;
    static const char text[] =
        "{\"architectures\": [\"LlamaForCausalLM\"], \"eos_token_id\": [1, 2], \"rms_norm_eps\": 1e-06,\n"
        " \"limits\": [0.0, Infinity], \"n\": NaN, \"big\": 1000000000000000019884624838656, \"x\": "
        "-Infinity,\n"
        " \"rope_scaling\": {\"factor\": 8.0, \"rope_type\": \"llama3\"}, \"s\": \"\\u00e9\\n\\\"\", \"t\": "
        "null}";
    int accepted = 0;
    for (uint64_t trial = 0; trial < TRIALS; trial++) {
        uint64_t k = 0, changes = 1 + draw(trial, &k, 3);
        bytes b = {.n = sizeof text - 1};
        json_t *v = NULL;
        memcpy(b.data, text, b.n);
        for (uint64_t c = 0; c < changes; c++) mutate(&b, b.n, trial + TRIALS, &k);
        char *exact =
            malloc(b.n > 0 ? b.n : 1); /* of exact size, so that a sanitizer sees a read beyond it */
        assert_non_null(exact);
        memcpy(exact, b.data, b.n);
        am_status st = am_json_parse(exact, b.n, "fuzz.json", &v);
        assert_true((st == AM_OK) == (v != NULL));
        assert_true(st == AM_OK ||
                    (st == AM_ERR_MODEL && strncmp(am_error_message(), "fuzz.json:", 10) == 0));
        accepted += st == AM_OK;
        json_decref(v);
        free(exact);
    }
    print_message("%d of %d mutated texts were valid\n", accepted, TRIALS);
    assert_true(accepted > 0 && accepted < TRIALS);
}

/* ---- the scanner of tokenizer files ---- */

static am_status step_over(const char *text, size_t n, size_t *taken)
{
    am_json_scan j = {.path = "fuzz.json", .max_depth = AM_JSON_MAX_DEPTH};
    char *exact = calloc(1, n + AM_SCAN_SLACK);
    const char *from = NULL;
    assert_non_null(exact);
    memcpy(exact, text, n);
    am_status st = am_json_scan_begin(&j, exact, n);
    if (st == AM_OK) st = am_json_scan_skip(&j, &from, taken);
    if (st == AM_OK) st = am_json_scan_finish(&j);
    assert_true(st == AM_OK || strncmp(am_error_message(), "fuzz.json:", 10) == 0);
    am_json_scan_release(&j);
    free(exact);
    return st;
}

/* What the JSON library takes, the scanner takes; what it takes beyond that is a name that occurs twice or that
 * holds a NUL, and a number too large for a double. */
static void compare_scanner(const char *text, size_t n, int *accepted, int *twice)
{
    json_t *v = NULL;
    size_t taken = 0;
    am_error_clear();
    am_status tree = am_json_parse(text, n, "tree.json", &v);
    const char *why = tree == AM_OK ? "" : am_error_message();
    bool lax = strstr(why, "duplicate object key") != NULL || strstr(why, "NUL byte in object key") != NULL ||
               strstr(why, "real number overflow") != NULL;
    char kept[512];
    snprintf(kept, sizeof kept, "%s", why);
    am_status scanned = step_over(text, n, &taken);
    if (tree == AM_OK ? scanned != AM_OK : !lax && scanned == AM_OK)
        fail_msg("'%.*s': tree %d (%s), scanner %d (%s)", (int)n, text, (int)tree, kept, (int)scanned, scanned == AM_OK ? "" : am_error_message());
    *accepted += tree == AM_OK;
    *twice += lax;
    json_decref(v);
}

static void test_hf_fuzz__scanner(void **state)
{
    (void)state;
    static const char text[] = "{\"a\": [1, -0.5e+3, \"\\u00e9\\\"\\n\", {\"b\": {}}, [], [[true], null]],\n\t\"long name, longer than sixteen bytes\": "
                               "\"\xc3\xa9\xe6\xbc\xa2\", \"n\": NaN, \"x\": 0, \"y\": 1E5}";
    static const char *const whole[] = {"1", " \"s\" ", "[1 2]", "[01]", "[1.]", "[.5]", "[-]", "[1e]", "[+1]", "[tru]", "[truefalse]", "{\"a\" 1}",
                                        "{\"a\": 1,}", "[1,]", "[,1]", "{1: 2}", "[\"\\x\"]", "[\"\\ud800\"]", "[\"\t\"]", "[}", "{]", "[1]]", "", "  ", "[\"a]"};
    int accepted = 0, twice = 0;
    for (size_t i = 0; i < sizeof whole / sizeof *whole; i++) compare_scanner(whole[i], strlen(whole[i]), &accepted, &twice);
    assert_int_equal(accepted, 2);
    for (uint64_t trial = 0; trial < 3 * TRIALS; trial++) {
        uint64_t k = 0, changes = draw(trial, &k, 4);
        bytes b = {.n = sizeof text - 1};
        memcpy(b.data, text, b.n);
        for (uint64_t c = 0; c < changes; c++) mutate(&b, b.n, trial + (5 << 20), &k);
        compare_scanner(b.data, b.n, &accepted, &twice);
    }
    print_message("%d of %d mutated texts were valid, %d more but for a name or a number\n", accepted, 3 * TRIALS, twice);
}

/* RFC 3629, a character at a time: how many bytes of s are valid. */
static size_t valid_utf8(const unsigned char *s, size_t n)
{
    static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
    for (size_t i = 0, len, k; i < n; i += len) {
        unsigned char c = s[i];
        len = c < 0x80 ? 1 : c >> 5 == 6 ? 2 : c >> 4 == 14 ? 3 : c >> 3 == 30 ? 4 : 0;
        if (len == 0 || len > n - i) return i;
        uint32_t cp = len == 1 ? c : c & (0x7fu >> len);
        for (k = 1; k < len && s[i + k] >> 6 == 2; k++) cp = cp << 6 | (s[i + k] & 0x3fu);
        if (k < len || cp < least[len] || cp > 0x10ffff || (cp >= 0xd800 && cp < 0xe000)) return i;
    }
    return n;
}

static void test_hf_fuzz__utf8(void **state)
{
    (void)state;
    static const int32_t below[] = {0x80, 0x80, 0x80, 0x800, 0x800, 0x10000, 0x110000, 0x110000};
    enum { LONGEST = 200 };
    int whole = 0;
    for (uint64_t trial = 0; trial < 10 * TRIALS; trial++) {
        uint64_t k = 0, n = draw(trial, &k, LONGEST), faults = draw(trial, &k, 3);
        char text[LONGEST + 4];
        size_t used = 0;
        while (used < n) used += am_tok_utf8_put((int32_t)draw(trial, &k, (uint64_t)below[draw(trial, &k, 8)]), text + used); /* surrogates: nothing */
        for (uint64_t f = 0; f < faults && n > 0; f++) text[draw(trial, &k, n)] = (char)draw(trial, &k, 256);
        char *exact = malloc(n + (n == 0));
        assert_non_null(exact);
        memcpy(exact, text, n); /* may cut the last character */
        size_t expected = valid_utf8((unsigned char *)exact, n);
        if (am_tok_utf8_valid_prefix(exact, n) != expected) fail_msg("trial %" PRIu64 ": %zu of %" PRIu64 " bytes are valid", trial, expected, n);
        whole += expected == n;
        free(exact);
    }
    assert_true(whole > 1000 && whole < 9 * TRIALS);
}

/* ---- whole tokenizer files ---- */

/* Written to a file, opened; what opens encodes and decodes a text. */
static bool try_tokenizer(const char *path, const bytes *b)
{
    static const char text[] = "ab the\xc3\xa9 <s> 12  \n\xe6\xbc\xa2";
    am_tokenizer *t = NULL;
    am_tok_scratch *s = NULL;
    am_encoding e = {0};
    am_str out = {0};
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(b->data, 1, b->n, f), b->n);
    assert_int_equal(fclose(f), 0);
    am_error_clear();
    am_status st = am_tokenizer_open(path, &t);
    if (st == AM_OK) {
        assert_ok(am_tok_scratch_create(t, &s));
        am_status encoded = am_tokenizer_encode(t, s, text, sizeof text - 1, AM_ENCODE_ADD_SPECIAL, &e);
        assert_true(encoded == AM_OK || encoded == AM_ERR_DATA);
        if (encoded == AM_OK) assert_ok(am_tokenizer_decode(t, e.ids, e.n, false, &out));
    } else {
        assert_null(t);
        assert_true(am_error_message()[0] != '\0');
    }
    am_str_release(&out);
    am_encoding_release(&e);
    am_tok_scratch_free(&s);
    am_tokenizer_free(&t);
    return st == AM_OK;
}

static const char tiny_bpe[] =
    "{\"added_tokens\": [{\"id\": 0, \"content\": \"<s>\", \"special\": true}], \"normalizer\": {\"type\": \"NFC\"},"
    "\"pre_tokenizer\": {\"type\": \"Split\", \"pattern\": {\"Regex\": \" ?\\\\p{L}+|\\\\s+(?!\\\\S)|\\\\p{N}{1,3}\"}, \"behavior\": "
    "\"Isolated\"}, \"decoder\": {\"type\": \"ByteFallback\"}, \"model\": {\"type\": \"BPE\", \"unk_token\": \"<s>\", \"vocab\": "
    "{\"<s>\": 0, \"a\": 1, \"b\": 2, \"ab\": 3, \"t\": 4, \"h\": 5, \"e\": 6, \"th\": 7, \"\\u00e9\": 8}, \"merges\": [\"a b\", [\"t\", \"h\"]]}}";
static const char tiny_unigram[] =
    "{\"normalizer\": {\"type\": \"Sequence\", \"normalizers\": [{\"type\": \"Precompiled\", \"precompiled_charsmap\": \"CAAAAAAAAAAAAAAAYQA=\"},"
    "{\"type\": \"BertNormalizer\"}]}, \"pre_tokenizer\": {\"type\": \"Metaspace\", \"replacement\": \"_\"}, \"model\": {\"type\": "
    "\"Unigram\", \"unk_id\": 0, \"vocab\": [[\"<unk>\", 0.0], [\"a\", -1.5], [\"b\", -2e0], [\"ab\", -2.25], [\"_the\", -3.0]]}}";
static const char tiny_spm[] =
    "\x0a\x0e\x0a\x05<unk>\x15\x00\x00\x00\x00\x18\x02\x0a\x08\x0a\x01" "a\x15\x00\x00\x80\xbf\x0a\x08\x0a\x01" "b\x15\x00\x00\x80\xbf"
    "\x0a\x09\x0a\x02" "ab\x15\x00\x00\x00\xc0\x12\x02\x18\x02\x1a\x02\x18\x01";
static const char tiny_tekken[] =
    "{\"config\": {\"pattern\": \"\\\\p{L}+|.\", \"default_vocab_size\": 300, \"default_num_special_tokens\": 3}, \"vocab\": [{\"rank\": 0, "
    "\"token_bytes\": \"YQ==\", \"token_str\": \"a\"}, {\"rank\": 1, \"token_bytes\": \"Yg==\", \"token_str\": null}]}";

static void fuzz_tokenizer(const char *name, const char *original, size_t n, uint64_t seed, bool opens)
{
    enum { TOKENIZER_TRIALS = 1500 };
    const char *dir = temporary_folder();
    char path[4096];
    int accepted = 0;
    snprintf(path, sizeof path, "%s/%s", dir, name);
    for (uint64_t trial = 0; trial < TOKENIZER_TRIALS; trial++) {
        uint64_t k = 0, changes = trial == 0 ? 0 : 1 + draw(trial + seed, &k, 3);
        bytes b = {.n = n};
        memcpy(b.data, original, n);
        for (uint64_t c = 0; c < changes; c++) mutate(&b, b.n, trial + seed, &k);
        bool ok = try_tokenizer(path, &b);
        if (trial == 0 && ok != opens) fail_msg("%s: %s", name, am_error_message());
        accepted += ok;
    }
    print_message("%s: %d of %d mutated files were valid\n", name, accepted, TOKENIZER_TRIALS);
    remove_folder(dir);
}

/* Enough tokens and merges for several batches, printed as the library prints them: names shorter and longer than a tag, escapes,
 * merges of both spellings, a name that occurs twice. */
static void many_merges(am_str *out, bool pairs)
{
    static const char *const more[] = {"abababababababab", "\\\"", "\\\\", "\\\"\\\\", "\\u00e9", "\xc3\xa9" "a", "abababababababababababababababab"};
    am_str merges = {0};
    assert_ok(am_str_printf(out, "{\n  \"model\": {\n    \"type\": \"BPE\",\n    \"vocab\": {\n      \"a\": 0,\n      \"b\": 1,\n      \"ab\": 2,\n      \"abab\": 3,\n      "
                            "\"abababab\": 4"));
    for (int i = 0; i < 7; i++) assert_ok(am_str_printf(out, ",\n      \"%s\": %d", more[i], 5 + i));
    assert_ok(am_str_printf(out, ",\n      \"ab\": 2\n    },\n    \"merges\": [\n"));
    static const char *const halves[][2] = {{"a", "b"}, {"ab", "ab"}, {"abab", "abab"}, {"abababab", "abababab"}, {"\\\"", "\\\\"}, {"\\u00e9", "a"},
                                            {"abababababababab", "abababababababab"}};
    for (int i = 0; i < 70; i++) {
        const char *const *h = halves[i % 7];
        assert_ok(am_str_printf(&merges, pairs && i % 3 != 0 ? "%s      [\n        \"%s\",\n        \"%s\"\n      ]" : "%s      \"%s %s\"", i > 0 ? ",\n" : "", h[0], h[1]));
    }
    assert_ok(am_str_printf(out, "%s\n    ]\n  }\n}\n", merges.s));
    am_str_release(&merges);
    assert_true(out->len < MAX_BYTES);
}

static void test_hf_fuzz__tokenizers(void **state)
{
    (void)state;
    for (int pairs = 0; pairs < 2; pairs++) {
        am_str text = {0};
        many_merges(&text, pairs == 1);
        fuzz_tokenizer("tokenizer.json", text.s, text.len, (uint64_t)(6 + pairs) << 20, true);
        am_str_release(&text);
    }
    fuzz_tokenizer("tokenizer.json", tiny_bpe, sizeof tiny_bpe - 1, 1 << 20, true);
    fuzz_tokenizer("unigram.json", tiny_unigram, sizeof tiny_unigram - 1, 2 << 20, true);
    fuzz_tokenizer("spiece.model", tiny_spm, sizeof tiny_spm - 1, 3 << 20, true);
    fuzz_tokenizer("tekken.json", tiny_tekken, sizeof tiny_tekken - 1, 4 << 20, false); /* it lacks most bytes */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_hf_fuzz__safetensors),
        cmocka_unit_test(test_hf_fuzz__json),
        cmocka_unit_test(test_hf_fuzz__scanner), cmocka_unit_test(test_hf_fuzz__utf8),
        cmocka_unit_test(test_hf_fuzz__tokenizers),
    };
    return cmocka_run_group_tests_name("hf_fuzz", tests, NULL, NULL);
}
