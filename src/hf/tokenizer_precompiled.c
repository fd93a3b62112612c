/* tokenizer, the normaliser Precompiled: SentencePiece's table of replacements as its files carry it, in base64:
 *   u32 bytes of the trie | the trie, units of u32 (Darts double array) | replacements, each closed by NUL
 * A unit holds its own byte in bits 0–7, whether a value follows in bit 8, and the way to its children in bits 9–31; the
 * value is the replacement's place.  The library asks for each grapheme cluster of under six bytes as a whole and, where
 * that finds nothing (or it is longer), for each of its characters; of the prefixes found the shortest counts. */
#include "hf/tokenizer_internal.h"

#include <stdlib.h>
#include <utf8proc.h>

enum { CLUSTER_MAX = 6 };

static int base64_digit(char c)
{
    return c >= 'A' && c <= 'Z' ? c - 'A' : c >= 'a' && c <= 'z' ? c - 'a' + 26 : c >= '0' && c <= '9' ? c - '0' + 52 : c == '+' ? 62
           : c == '/' ? 63 : -1;
}

am_status am_tok_base64(const char *text, size_t n, am_str *out)
{
    am_status st = AM_OK;
    uint32_t bits = 0;
    int have = 0;
    while (n > 0 && text[n - 1] == '=') n--;
    AM_TRY(am_grow(&out->s, &out->cap, out->len + n + 4, 1));
    for (size_t i = 0; i < n; i++) {
        int d = base64_digit(text[i]);
        AM_CHECK(d >= 0, AM_ERR_MODEL, "byte %zu of a base64 text is '%c'", i, text[i]);
        bits = bits << 6 | (uint32_t)d;
        have += 6;
        if (have < 8) continue;
        have -= 8;
        out->s[out->len++] = (char)(bits >> have & 0xff);
    }
    out->s[out->len] = '\0';
done:
    return st;
}

static uint32_t u32_at(const unsigned char *p) { return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24; }

am_status am_tok_charsmap_load(const char *data, size_t n, const char *where, am_charsmap *out)
{
    am_status st = AM_OK;
    const unsigned char *p = (const unsigned char *)data;
    AM_CHECK(n >= 8, AM_ERR_MODEL, "%s: precompiled_charsmap of %zu bytes", where, n);
    size_t bytes = u32_at(p);
    AM_CHECK(bytes >= 4 && bytes % 4 == 0 && bytes <= n - 4, AM_ERR_MODEL,
             "%s: precompiled_charsmap: a trie of %zu bytes in a table of %zu", where, bytes, n);
    out->num_units = bytes / 4;
    out->text_len = n - 4 - bytes;
    AM_TRY(am_calloc(out->num_units, sizeof *out->unit, &out->unit));
    for (size_t i = 0; i < out->num_units; i++) out->unit[i] = u32_at(p + 4 + 4 * i);
    AM_TRY(am_calloc(out->text_len + 1, 1, &out->text));
    memcpy(out->text, p + 4 + bytes, out->text_len);
    AM_CHECK(am_tok_utf8_valid_prefix(out->text, out->text_len) == out->text_len, AM_ERR_MODEL,
             "%s: precompiled_charsmap: replacements that are not UTF-8", where);
done:
    return st;
}

void am_tok_charsmap_release(am_charsmap *m)
{
    am_free(&m->unit);
    am_free(&m->text);
}

static uint32_t way(uint32_t unit) { return unit >> 10 << ((unit & 1u << 9) >> 6); }

const char *am_tok_charsmap_find(const am_charsmap *m, const char *s, size_t n, bool longest, size_t *len,
                                 size_t *taken)
{
    uint32_t at = way(m->unit[0]);
    const char *found = NULL;
    for (size_t i = 0; i < n && s[i] != '\0'; i++) {
        at ^= (unsigned char)s[i];
        if (at >= m->num_units) break;
        uint32_t unit = m->unit[at];
        if ((unit & (1u << 31 | 0xff)) != (unsigned char)s[i]) break;
        at ^= way(unit);
        if (at >= m->num_units) break;
        if ((unit >> 8 & 1) == 0) continue;
        uint32_t place = m->unit[at] & 0x7fffffff;
        if (place > m->text_len || ((unsigned char)m->text[place] & 0xc0) == 0x80) break;
        *len = strlen(m->text + place);
        *taken = i + 1;
        found = m->text + place;
        if (!longest) break;
    }
    return found;
}

static am_status push(const am_charsmap *m, am_tok_text *out, const am_view *v, size_t i, size_t end, bool *found)
{
    am_status st = AM_OK;
    size_t len = 0, taken = 0;
    const char *with = am_tok_charsmap_find(m, v->s + i, end - i, false, &len, &taken);
    am_span o = am_tok_view_origin(v, i, end);
    *found = with != NULL;
    for (size_t k = 0; with != NULL && k < len;) {
        size_t c = am_tok_utf8_len((unsigned char)with[k]);
        AM_TRY(am_tok_text_push(out, with + k, c, o.start, o.end));
        k += c;
    }
done:
    return st;
}

static size_t cluster_end(const am_view *v, size_t i)
{
    int32_t a, b;
    utf8proc_int32_t state = 0;
    i += am_tok_utf8_get(v->s + i, &a);
    while (i < v->n) {
        size_t len = am_tok_utf8_get(v->s + i, &b);
        if ((a < 0x80 && b < 0x80 && !(a == '\r' && b == '\n')) || utf8proc_grapheme_break_stateful(a, b, &state)) break;
        i += len;
        a = b;
    }
    return i;
}

am_status am_tok_normalize_precompiled(const am_charsmap *m, am_tok_scratch *s, am_view *v)
{
    am_status st = AM_OK;
    am_tok_text *out = am_tok_scratch_other(s, v);
    for (size_t i = 0; i < v->n;) {
        size_t end = cluster_end(v, i);
        bool found = false;
        if (end - i < CLUSTER_MAX) AM_TRY(push(m, out, v, i, end, &found));
        while (!found && i < end) {
            size_t len = am_tok_utf8_len((unsigned char)v->s[i]);
            bool one = false;
            AM_TRY(push(m, out, v, i, i + len, &one));
            if (!one) AM_TRY(am_tok_text_copy(out, v, i, i + len));
            i += len;
        }
        i = end;
    }
    *v = am_tok_view_of(out);
done:
    return st;
}
