/* tokenizer, normalisers: each takes the view and either leaves it as it is (the usual case: nothing is
 * copied) or writes a new text with the origin of every character.  Unicode forms are made cluster by
 * cluster, so that origins stay close. */
#include "hf/tokenizer_internal.h"

#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

/* ---- Unicode forms ---- */

static bool composes_backwards(int32_t cp)
{
    const utf8proc_property_t *p = utf8proc_get_property(cp);
    if (p->combining_class != 0) return true;
    if (p->comb_index != UINT16_MAX && p->comb_index >= 0x8000)
        return true;                               /* second of a pair that composes */
    if (cp >= 0x1160 && cp <= 0x11ff) return true; /* Hangul vowels and finals */
    if (p->decomp_seqindex == UINT16_MAX) return false;
    utf8proc_int32_t parts[32];
    int boundary = 0;
    utf8proc_ssize_t n =
        utf8proc_decompose_char(cp, parts, 32, UTF8PROC_DECOMPOSE | UTF8PROC_COMPAT, &boundary);
    return n > 0 && n <= 32 && parts[0] != cp && composes_backwards(parts[0]);
}

/* True when no form changes this character whatever its neighbours (a fast sufficient test). */
static bool is_inert(int32_t cp)
{
    if (cp < 0xa0) return true;
    if (cp >= 0xac00 && cp <= 0xd7a3) return false;
    const utf8proc_property_t *p = utf8proc_get_property(cp);
    return p->decomp_seqindex == UINT16_MAX && !composes_backwards(cp);
}

static bool all_inert(const am_view *v)
{
    for (size_t i = 0; i < v->n;) {
        int32_t cp;
        if ((unsigned char)v->s[i] < 0x80) {
            i++;
            continue;
        }
        i += am_tok_utf8_get(v->s + i, &cp);
        if (!is_inert(cp)) return false;
    }
    return true;
}

/* A starter and what may combine with it: [i, end). */
static size_t cluster_end(const am_view *v, size_t i)
{
    int32_t cp;
    i += am_tok_utf8_get(v->s + i, &cp);
    while (i < v->n) {
        size_t len = am_tok_utf8_get(v->s + i, &cp);
        if (cp < 0xa0 || !composes_backwards(cp)) break;
        i += len;
    }
    return i;
}

static am_status push_char(am_tok_text *out, const am_view *v, size_t i, size_t len)
{
    am_span o = am_tok_view_origin(v, i, i + len);
    return am_tok_text_push(out, v->s + i, len, o.start, o.end);
}

/* Code points of the full decomposition of a character. */
static size_t decomposed_length(int32_t cp, int flags)
{
    utf8proc_int32_t parts[32];
    int boundary = 0;
    int how = UTF8PROC_DECOMPOSE | (flags & UTF8PROC_COMPAT);
    utf8proc_ssize_t n = utf8proc_decompose_char(cp, parts, 32, (utf8proc_option_t)how, &boundary);
    return n > 0 ? (size_t)n : 1;
}

/* A character of the result comes from the character that stands at its place when both are decomposed (marks
 * that change places with each other exchange their origins: nothing asks for them). */
static am_status push_cluster(am_tok_text *out, const am_view *v, size_t i, size_t end, int flags)
{
    am_status st = AM_OK;
    utf8proc_uint8_t *form = NULL;
    utf8proc_ssize_t n = utf8proc_map((const utf8proc_uint8_t *)v->s + i, (utf8proc_ssize_t)(end - i), &form,
                                      (utf8proc_option_t)flags);
    int32_t cp;
    size_t at = i, place = 0, at_end = 0; /* decomposed places: of the result, behind the input's character */
    AM_CHECK(n >= 0, AM_ERR_MEMORY, "normalising the text failed: %s", utf8proc_errmsg(n));
    size_t width = am_tok_utf8_get(v->s + at, &cp);
    at_end = decomposed_length(cp, flags);
    for (size_t k = 0; k < (size_t)n;) {
        while (place >= at_end && at + width < end) {
            at += width;
            width = am_tok_utf8_get(v->s + at, &cp);
            at_end += decomposed_length(cp, flags);
        }
        size_t len = am_tok_utf8_get((const char *)form + k, &cp);
        am_span o = am_tok_view_origin(v, at, at + width);
        AM_TRY(am_tok_text_push(out, (const char *)form + k, len, o.start, o.end));
        place += decomposed_length(cp, flags);
        k += len;
    }
done:
    free(form);
    return st;
}

static am_status normalize_unicode(const am_norm *norm, am_tok_scratch *s, am_view *v)
{
    am_status st = AM_OK;
    if (all_inert(v)) return AM_OK;
    am_tok_text *out = am_tok_scratch_other(s, v);
    for (size_t i = 0; i < v->n;) {
        size_t end = cluster_end(v, i);
        int32_t cp;
        if (am_tok_utf8_get(v->s + i, &cp) == end - i && is_inert(cp))
            AM_TRY(push_char(out, v, i, end - i));
        else
            AM_TRY(push_cluster(out, v, i, end, norm->unicode_flags));
        i = end;
    }
    *v = am_tok_view_of(out);
done:
    return st;
}

/* ---- the others ---- */

static am_status normalize_lowercase(am_tok_scratch *s, am_view *v)
{
    am_status st = AM_OK;
    am_tok_text *out = am_tok_scratch_other(s, v);
    for (size_t i = 0; i < v->n;) {
        int32_t cp;
        char low[4];
        size_t len = am_tok_utf8_get(v->s + i, &cp);
        am_span o = am_tok_view_origin(v, i, i + len);
        if (cp == 0x130) { /* İ is the one letter whose lower case is two characters */
            AM_TRY(am_tok_text_push(out, "i\xcc\x87", 3, o.start, o.end));
        } else {
            size_t n = am_tok_utf8_put(utf8proc_tolower(cp), low);
            AM_TRY(am_tok_text_push(out, low, n, o.start, o.end));
        }
        i += len;
    }
    *v = am_tok_view_of(out);
done:
    return st;
}

static void normalize_strip(const am_norm *norm, am_view *v)
{
    int32_t cp;
    size_t i = 0, j = v->n;
    while (norm->left && i < j) {
        size_t len = am_tok_utf8_get(v->s + i, &cp);
        if (!am_tok_is_white_space(cp)) break;
        i += len;
    }
    while (norm->right && j > i) {
        size_t k = j - 1;
        while (k > i && ((unsigned char)v->s[k] & 0xc0) == 0x80) k--;
        am_tok_utf8_get(v->s + k, &cp);
        if (!am_tok_is_white_space(cp)) break;
        j = k;
    }
    *v = am_tok_view_sub(v, i, j);
}

static am_status push_range(am_tok_text *out, const am_view *v, size_t i, size_t end)
{
    am_status st = AM_OK;
    while (i < end) {
        size_t len = am_tok_utf8_len((unsigned char)v->s[i]);
        AM_TRY(push_char(out, v, i, len));
        i += len;
    }
done:
    return st;
}

/* What replaces a match has the origin of the match's last character, as in the library. */
static am_status normalize_replace(const am_norm *norm, am_tok_scratch *s, am_view *v)
{
    am_status st = AM_OK;
    size_t done_to = 0;
    s->matches.n = 0;
    AM_TRY(am_tok_regex_find_all(&norm->re, &s->matcher, v->s, v->n, &s->matches));
    if (s->matches.n == 0) return AM_OK;
    am_tok_text *out = am_tok_scratch_other(s, v);
    for (size_t m = 0; m < s->matches.n; m++) {
        am_span at = s->matches.at[m];
        AM_TRY(push_range(out, v, done_to, at.start));
        size_t last = at.end > 0 ? at.end - 1 : 0;
        while (last > 0 && ((unsigned char)v->s[last] & 0xc0) == 0x80) last--;
        am_span o = am_tok_view_origin(v, last, at.end > 0 ? at.end : 0);
        AM_TRY(am_tok_text_push(out, norm->content, norm->content_len, o.start, o.end));
        done_to = at.end;
    }
    AM_TRY(push_range(out, v, done_to, v->n));
    *v = am_tok_view_of(out);
done:
    return st;
}

static am_status normalize_prepend(const am_norm *norm, am_tok_scratch *s, am_view *v)
{
    am_status st = AM_OK;
    if (v->n == 0) return AM_OK;
    am_tok_text *out = am_tok_scratch_other(s, v);
    am_span o = am_tok_view_origin(v, 0, am_tok_utf8_len((unsigned char)v->s[0]));
    AM_TRY(am_tok_text_push(out, norm->content, norm->content_len, o.start, o.end));
    AM_TRY(push_range(out, v, 0, v->n));
    *v = am_tok_view_of(out);
done:
    return st;
}

static am_status normalize_strip_accents(am_tok_scratch *s, am_view *v)
{
    am_status st = AM_OK;
    am_tok_text *out = am_tok_scratch_other(s, v);
    for (size_t i = 0; i < v->n;) {
        int32_t cp;
        size_t len = am_tok_utf8_get(v->s + i, &cp);
        utf8proc_category_t c = utf8proc_category(cp);
        if (c != UTF8PROC_CATEGORY_MN && c != UTF8PROC_CATEGORY_MC && c != UTF8PROC_CATEGORY_ME)
            AM_TRY(push_char(out, v, i, len));
        i += len;
    }
    *v = am_tok_view_of(out);
done:
    return st;
}

am_status am_tok_normalize(const am_tokenizer *t, am_tok_scratch *s, am_view *v)
{
    am_status st = AM_OK;
    for (size_t i = 0; i < t->num_norm; i++) {
        const am_norm *norm = &t->norm[i];
        switch (norm->kind) {
        case AM_NORM_UNICODE:
            AM_TRY(normalize_unicode(norm, s, v));
            break;
        case AM_NORM_LOWERCASE:
            AM_TRY(normalize_lowercase(s, v));
            break;
        case AM_NORM_STRIP:
            normalize_strip(norm, v);
            break;
        case AM_NORM_REPLACE:
            AM_TRY(normalize_replace(norm, s, v));
            break;
        case AM_NORM_PREPEND:
            AM_TRY(normalize_prepend(norm, s, v));
            break;
        case AM_NORM_STRIP_ACCENTS:
            AM_TRY(normalize_strip_accents(s, v));
            break;
        }
    }
done:
    return st;
}

/* ---- loading ---- */

static const struct {
    const char *type;
    int flags;
} unicode_forms[] = {
    {"NFC", UTF8PROC_STABLE | UTF8PROC_COMPOSE},
    {"NFD", UTF8PROC_STABLE | UTF8PROC_DECOMPOSE},
    {"NFKC", UTF8PROC_STABLE | UTF8PROC_COMPOSE | UTF8PROC_COMPAT},
    {"NFKD", UTF8PROC_STABLE | UTF8PROC_DECOMPOSE | UTF8PROC_COMPAT},
};

static am_status load_content(const am_tokenizer *t, json_t *j, const char *key, am_norm *out)
{
    am_status st = AM_OK;
    const char *content = NULL;
    AM_TRY(am_tok_get_string(t, j, key, &content, &out->content_len));
    AM_TRY(am_calloc(out->content_len + 1, 1, &out->content));
    memcpy(out->content, content, out->content_len);
done:
    return st;
}

static am_status load_one(const am_tokenizer *t, json_t *j, am_norm *out)
{
    am_status st = AM_OK;
    const char *type = am_tok_type(j);
    for (size_t i = 0; i < sizeof unicode_forms / sizeof *unicode_forms; i++) {
        if (strcmp(type, unicode_forms[i].type) != 0) continue;
        out->kind = AM_NORM_UNICODE;
        out->unicode_flags = unicode_forms[i].flags;
        return AM_OK;
    }
    if (strcmp(type, "Lowercase") == 0) {
        out->kind = AM_NORM_LOWERCASE;
    } else if (strcmp(type, "StripAccents") == 0) {
        out->kind = AM_NORM_STRIP_ACCENTS;
    } else if (strcmp(type, "Strip") == 0) {
        out->kind = AM_NORM_STRIP;
        AM_TRY(am_tok_get_bool(t, j, "strip_left", true, &out->left));
        AM_TRY(am_tok_get_bool(t, j, "strip_right", true, &out->right));
    } else if (strcmp(type, "Replace") == 0) {
        out->kind = AM_NORM_REPLACE;
        AM_TRY(load_content(t, j, "content", out));
        AM_TRY(am_tok_get_pattern(t, j, "pattern", &out->re));
    } else if (strcmp(type, "Prepend") == 0) {
        out->kind = AM_NORM_PREPEND;
        AM_TRY(load_content(t, j, "prepend", out));
    } else {
        AM_FAIL(
            AM_ERR_MODEL,
            "%s: the normalizer \"%s\" is not supported (supported: NFC, NFD, NFKC, NFKD, Lowercase, Strip, "
            "StripAccents, Replace, Prepend, Sequence)",
            t->path, type);
    }
done:
    return st;
}

am_status am_tok_load_normalizer(am_tokenizer *t, json_t *j)
{
    am_status st = AM_OK;
    size_t i;
    json_t *item;
    if (j == NULL || json_is_null(j)) return AM_OK;
    if (strcmp(am_tok_type(j), "Sequence") == 0) {
        json_t *list = json_object_get(j, "normalizers");
        AM_CHECK(json_is_array(list), AM_ERR_MODEL, "%s: a Sequence normalizer without \"normalizers\"",
                 t->path);
        json_array_foreach(list, i, item) AM_TRY(am_tok_load_normalizer(t, item));
        return AM_OK;
    }
    AM_TRY(am_grow(&t->norm, &t->norm_cap, t->num_norm + 1, sizeof *t->norm));
    AM_TRY(load_one(t, j, &t->norm[t->num_norm++]));
done:
    return st;
}

void am_tok_norm_release(am_norm *n)
{
    am_free(&n->content);
    am_tok_regex_release(&n->re);
}
