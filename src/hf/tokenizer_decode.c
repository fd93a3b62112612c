/* tokenizer, ids → text: the tokens' spellings pass through the decoder's steps as a list of strings, then
 * are joined. Every step keeps strings valid UTF-8; bytes that form no character become U+FFFD. */
#include "hf/tokenizer_internal.h"

#include <string.h>

typedef struct strings { /* n strings in one arena */
    am_str bytes;
    size_t *end;
    size_t n, cap;
} strings;

static am_status strings_close(strings *v)
{
    am_status st = AM_OK;
    AM_TRY(am_grow(&v->end, &v->cap, v->n + 1, sizeof *v->end));
    v->end[v->n++] = v->bytes.len;
done:
    return st;
}

static const char *strings_at(const strings *v, size_t i, size_t *n)
{
    size_t start = i > 0 ? v->end[i - 1] : 0;
    *n = v->end[i] - start;
    return v->bytes.s + start;
}

static void strings_clear(strings *v)
{
    v->n = v->bytes.len = 0;
}

static void strings_release(strings *v)
{
    am_str_release(&v->bytes);
    am_free(&v->end);
}

#define REPLACEMENT "\xef\xbf\xbd"

/* Each maximal part of an ill-formed character becomes one U+FFFD (Unicode 15, 3.9, U+FFFD substitution). */
static am_status append_lossy(am_str *out, const char *s, size_t n)
{
    am_status st = AM_OK;
    for (size_t i = 0; i < n;) {
        size_t ok = am_tok_utf8_valid_prefix(s + i, n - i);
        AM_TRY(am_str_append(out, s + i, ok));
        i += ok;
        if (i >= n) break;
        AM_TRY(am_str_append(out, REPLACEMENT, 3));
        unsigned char c = (unsigned char)s[i];
        size_t len = c >= 0xc2 && c <= 0xf4 ? am_tok_utf8_len(c) : 1, k = 1;
        unsigned char low = c == 0xe0   ? 0xa0
                            : c == 0xf0 ? 0x90
                                        : 0x80,
                      high = c == 0xed   ? 0x9f
                             : c == 0xf4 ? 0x8f
                                         : 0xbf;
        for (; k < len && i + k < n; k++) {
            unsigned char d = (unsigned char)s[i + k];
            if (d < (k == 1 ? low : 0x80) || d > (k == 1 ? high : 0xbf)) break;
        }
        i += k;
    }
done:
    return st;
}

/* ---- steps ---- */

static am_status step_byte_level(const strings *in, strings *out)
{
    am_status st = AM_OK;
    am_str raw = {0};
    for (size_t i = 0; i < in->n; i++) {
        size_t n, before = raw.len;
        const char *s = strings_at(in, i, &n);
        for (size_t k = 0; k < n;) {
            int32_t cp;
            k += am_tok_utf8_get(s + k, &cp);
            int b = am_tok_char_to_byte(cp);
            if (b < 0) { /* not of the alphabet: an added token, taken as it is */
                raw.len = before;
                AM_TRY(am_str_append(&raw, s, n));
                break;
            }
            char c = (char)b;
            AM_TRY(am_str_append(&raw, &c, 1));
        }
    }
    AM_TRY(append_lossy(&out->bytes, raw.s, raw.len));
    AM_TRY(strings_close(out));
done:
    am_str_release(&raw);
    return st;
}

static int hex_digit(char c)
{
    return c >= '0' && c <= '9'   ? c - '0'
           : c >= 'A' && c <= 'F' ? c - 'A' + 10
           : c >= 'a' && c <= 'f' ? c - 'a' + 10
                                  : -1;
}

static am_status flush_bytes(am_str *bytes, strings *out)
{
    am_status st = AM_OK;
    if (bytes->len == 0) return AM_OK;
    bool valid = am_tok_utf8_valid_prefix(bytes->s, bytes->len) == bytes->len;
    if (valid) AM_TRY(am_str_append(&out->bytes, bytes->s, bytes->len));
    for (size_t i = 0; i < bytes->len && !valid; i++) AM_TRY(am_str_append(&out->bytes, REPLACEMENT, 3));
    AM_TRY(strings_close(out));
    bytes->len = 0;
done:
    return st;
}

static am_status step_byte_fallback(const strings *in, strings *out)
{
    am_status st = AM_OK;
    am_str bytes = {0};
    for (size_t i = 0; i < in->n; i++) {
        size_t n;
        const char *s = strings_at(in, i, &n);
        int high = -1, low = -1;
        if (n == 6 && memcmp(s, "<0x", 3) == 0 && s[5] == '>') {
            high = hex_digit(s[3]);
            low = hex_digit(s[4]);
        }
        if (high >= 0 && low >= 0) {
            char c = (char)(high * 16 + low);
            AM_TRY(am_str_append(&bytes, &c, 1));
            continue;
        }
        AM_TRY(flush_bytes(&bytes, out));
        AM_TRY(am_str_append(&out->bytes, s, n));
        AM_TRY(strings_close(out));
    }
    AM_TRY(flush_bytes(&bytes, out));
done:
    am_str_release(&bytes);
    return st;
}

static am_status step_strip(const am_dec *d, const char *s, size_t n, am_str *out)
{
    for (int64_t k = 0; k < d->left && n >= d->content_len && memcmp(s, d->content, d->content_len) == 0;
         k++) {
        s += d->content_len;
        n -= d->content_len;
    }
    for (int64_t k = 0; k < d->right && n >= d->content_len &&
                        memcmp(s + n - d->content_len, d->content, d->content_len) == 0;
         k++)
        n -= d->content_len;
    return am_str_append(out, s, n);
}

static am_status step_metaspace(const am_dec *d, size_t index, const char *s, size_t n, am_str *out)
{
    am_status st = AM_OK;
    for (size_t i = 0; i < n;) {
        bool mark = n - i >= d->content_len && memcmp(s + i, d->content, d->content_len) == 0;
        if (!mark)
            AM_TRY(am_str_append(out, s + i, 1));
        else if (index > 0 || !d->drop_first)
            AM_TRY(am_str_append(out, " ", 1));
        i += mark ? d->content_len : 1;
    }
done:
    return st;
}

static am_status step_replace(const am_dec *d, am_tok_matcher *m, const char *s, size_t n, am_str *out)
{
    am_status st = AM_OK;
    am_spans hits = {0};
    size_t at = 0;
    AM_TRY(am_tok_regex_find_all(&d->re, m, s, n, &hits));
    for (size_t i = 0; i < hits.n; i++) {
        AM_TRY(am_str_append(out, s + at, hits.at[i].start - at));
        AM_TRY(am_str_append(out, d->content, d->content_len));
        at = hits.at[i].end;
    }
    AM_TRY(am_str_append(out, s + at, n - at));
done:
    am_free(&hits.at);
    return st;
}

/* s with every occurrence of `what` replaced, left to right; *s is the buffer that holds it. */
static am_status replace_all(am_str *s, const char *what, const char *with)
{
    am_status st = AM_OK;
    am_str out = {0};
    size_t n = strlen(what), at = 0;
    const char *hit;
    if (s->len == 0 || memmem(s->s, s->len, what, n) == NULL) return AM_OK;
    while ((hit = memmem(s->s + at, s->len - at, what, n)) != NULL) {
        AM_TRY(am_str_append(&out, s->s + at, (size_t)(hit - s->s) - at));
        AM_TRY(am_str_append(&out, with, strlen(with)));
        at = (size_t)(hit - s->s) + n;
    }
    AM_TRY(am_str_append(&out, s->s + at, s->len - at));
    s->len = 0;
    AM_TRY(am_str_append(s, out.s, out.len));
done:
    am_str_release(&out);
    return st;
}

static am_status step_wordpiece(const am_dec *d, size_t index, const char *s, size_t n, am_str *out)
{
    static const char *const tidy[][2] = {{" .", "."}, {" ?", "?"}, {" !", "!"}, {" ,", ","}, {" ' ", "'"}, {" n't", "n't"},
                                          {" 'm", "'m"}, {" do not", " don't"}, {" 's", "'s"}, {" 've", "'ve"}, {" 're", "'re"}};
    am_status st = AM_OK;
    am_str token = {0};
    bool continued = n >= d->content_len && memcmp(s, d->content, d->content_len) == 0;
    if (index > 0 && !continued) AM_TRY(am_str_append(&token, " ", 1));
    size_t cut = index > 0 && continued ? d->content_len : 0;
    AM_TRY(am_str_append(&token, s + cut, n - cut));
    for (size_t i = 0; d->cleanup && i < sizeof tidy / sizeof *tidy; i++) AM_TRY(replace_all(&token, tidy[i][0], tidy[i][1]));
    AM_TRY(am_str_append(out, token.s, token.len));
done:
    am_str_release(&token);
    return st;
}

static am_status step_bpe(const am_dec *d, bool last, const char *s, size_t n, am_str *out)
{
    am_status st = AM_OK;
    am_str token = {0};
    AM_TRY(am_str_append(&token, s, n));
    if (d->content_len > 0) AM_TRY(replace_all(&token, d->content, last ? "" : " "));
    AM_TRY(am_str_append(out, token.s, token.len));
done:
    am_str_release(&token);
    return st;
}

static am_status run_step(const am_dec *d, am_tok_matcher *m, const strings *in, strings *out)
{
    am_status st = AM_OK;
    AM_TRY(am_str_append(&out->bytes, "", 0));
    if (d->kind == AM_DEC_BYTE_LEVEL) return step_byte_level(in, out);
    if (d->kind == AM_DEC_BYTE_FALLBACK) return step_byte_fallback(in, out);
    for (size_t i = 0; i < in->n; i++) {
        size_t n;
        const char *s = strings_at(in, i, &n);
        if (d->kind == AM_DEC_STRIP)
            AM_TRY(step_strip(d, s, n, &out->bytes));
        else if (d->kind == AM_DEC_METASPACE)
            AM_TRY(step_metaspace(d, i, s, n, &out->bytes));
        else if (d->kind == AM_DEC_REPLACE)
            AM_TRY(step_replace(d, m, s, n, &out->bytes));
        else if (d->kind == AM_DEC_WORDPIECE)
            AM_TRY(step_wordpiece(d, i, s, n, &out->bytes));
        else if (d->kind == AM_DEC_BPE)
            AM_TRY(step_bpe(d, i + 1 == in->n, s, n, &out->bytes));
        else
            AM_TRY(am_str_append(&out->bytes, s, n)); /* Fuse: one string, closed below */
        if (d->kind != AM_DEC_FUSE) AM_TRY(strings_close(out));
    }
    if (d->kind == AM_DEC_FUSE) AM_TRY(strings_close(out));
done:
    return st;
}

am_status am_tokenizer_decode(const am_tokenizer *t, const uint32_t *ids, size_t n, bool skip_special,
                              am_str *out)
{
    am_status st = AM_OK;
    strings a = {0}, b = {0};
    am_tok_matcher m = {0};
    AM_TRY(am_tok_matcher_init(&m));
    AM_TRY(am_str_append(&a.bytes, "", 0));
    for (size_t i = 0; i < n; i++) {
        const char *name = ids[i] < t->vocab_size ? t->token[ids[i]].decoded : NULL;
        AM_CHECK(name != NULL, AM_ERR_DATA, "ids[%zu] = %" PRIu32 " is no token of %s (it has %zu ids)", i,
                 ids[i], t->path, t->vocab_size);
        if (skip_special && am_tokenizer_is_special(t, ids[i])) continue;
        if (!t->has_decoder && a.n > 0)
            AM_TRY(am_str_append(&a.bytes, " ", 1)); /* as the library joins them then */
        AM_TRY(am_str_append(&a.bytes, name, t->token[ids[i]].decoded_len));
        AM_TRY(strings_close(&a));
    }
    for (size_t k = 0; k < t->num_dec && a.n > 0; k++) {
        strings_clear(&b);
        AM_TRY(run_step(&t->dec[k], &m, &a, &b));
        strings swap = a;
        a = b;
        b = swap;
    }
    AM_TRY(am_str_append(out, a.bytes.s, a.bytes.len));
done:
    am_tok_matcher_release(&m);
    strings_release(&a);
    strings_release(&b);
    return st;
}

/* ---- loading ---- */

static am_status load_content(const am_tokenizer *t, json_t *j, const char *key, am_dec *d)
{
    am_status st = AM_OK;
    const char *content = NULL;
    AM_TRY(am_tok_get_string(t, j, key, &content, &d->content_len));
    AM_TRY(am_calloc(d->content_len + 1, 1, &d->content));
    memcpy(d->content, content, d->content_len);
done:
    return st;
}

static am_status load_metaspace(const am_tokenizer *t, json_t *j, am_dec *d)
{
    am_status st = AM_OK;
    const char *scheme = "always";
    bool legacy = true;
    d->kind = AM_DEC_METASPACE;
    AM_TRY(load_content(t, j, "replacement", d));
    AM_CHECK(d->content_len > 0, AM_ERR_MODEL, "%s: the Metaspace decoder has an empty replacement", t->path);
    if (json_object_get(j, "prepend_scheme") != NULL)
        AM_TRY(am_tok_get_string(t, j, "prepend_scheme", &scheme, NULL));
    AM_TRY(am_tok_get_bool(t, j, "add_prefix_space", true, &legacy));
    d->drop_first = legacy && strcmp(scheme, "never") != 0;
done:
    return st;
}

static am_status load_one(const am_tokenizer *t, json_t *j, am_dec *d)
{
    am_status st = AM_OK;
    const char *type = am_tok_type(j);
    if (strcmp(type, "ByteLevel") == 0) {
        d->kind = AM_DEC_BYTE_LEVEL;
    } else if (strcmp(type, "ByteFallback") == 0) {
        d->kind = AM_DEC_BYTE_FALLBACK;
    } else if (strcmp(type, "Fuse") == 0) {
        d->kind = AM_DEC_FUSE;
    } else if (strcmp(type, "Metaspace") == 0) {
        AM_TRY(load_metaspace(t, j, d));
    } else if (strcmp(type, "Replace") == 0) {
        d->kind = AM_DEC_REPLACE;
        AM_TRY(load_content(t, j, "content", d));
        AM_TRY(am_tok_get_pattern(t, j, "pattern", &d->re));
    } else if (strcmp(type, "Strip") == 0) {
        d->kind = AM_DEC_STRIP;
        AM_TRY(load_content(t, j, "content", d));
        d->left = json_integer_value(json_object_get(j, "start"));
        d->right = json_integer_value(json_object_get(j, "stop"));
        AM_CHECK(d->content_len > 0, AM_ERR_MODEL, "%s: the Strip decoder has no content", t->path);
    } else if (strcmp(type, "WordPiece") == 0) {
        d->kind = AM_DEC_WORDPIECE;
        AM_TRY(load_content(t, j, "prefix", d));
        AM_TRY(am_tok_get_bool(t, j, "cleanup", true, &d->cleanup));
    } else if (strcmp(type, "BPEDecoder") == 0) {
        d->kind = AM_DEC_BPE;
        AM_TRY(load_content(t, j, "suffix", d));
    } else {
        AM_FAIL(AM_ERR_MODEL,
                "%s: the decoder \"%s\" is not supported (supported: ByteLevel, ByteFallback, Fuse, Strip, "
                "Replace, Metaspace, WordPiece, BPEDecoder, Sequence)",
                t->path, type);
    }
done:
    return st;
}

static am_status load_list(am_tokenizer *t, json_t *j)
{
    am_status st = AM_OK;
    size_t i;
    json_t *item;
    if (strcmp(am_tok_type(j), "Sequence") == 0) {
        json_t *list = json_object_get(j, "decoders");
        AM_CHECK(json_is_array(list), AM_ERR_MODEL, "%s: a Sequence decoder without \"decoders\"", t->path);
        json_array_foreach(list, i, item) AM_TRY(load_list(t, item));
        return AM_OK;
    }
    AM_TRY(am_grow(&t->dec, &t->dec_cap, t->num_dec + 1, sizeof *t->dec));
    AM_TRY(load_one(t, j, &t->dec[t->num_dec++]));
done:
    return st;
}

am_status am_tok_load_decoder(am_tokenizer *t, json_t *j)
{
    if (j == NULL || json_is_null(j)) return AM_OK;
    t->has_decoder = true;
    return load_list(t, j);
}

void am_tok_dec_release(am_dec *d)
{
    am_free(&d->content);
    am_tok_regex_release(&d->re);
}
