/* tokenizer, normalisers: each takes the view and either leaves it as it is (the usual case: nothing is
 * copied) or writes a new text with the origin of every character.  Unicode forms are made cluster by
 * cluster, so that origins stay close. */
#include "hf/tokenizer_internal.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

/* ---- Unicode forms ---- */

enum { nfc_flags = UTF8PROC_STABLE | UTF8PROC_COMPOSE };

/* The library's tables end with Unicode 9 or so: to it, later marks are ordinary characters and later compatibility
 * characters have no decomposition (found by asking it for every character of Unicode 14). */
static bool is_unknown_to_library(int32_t cp)
{
    static const int32_t newer[][2] = {
        {0x7fd, 0x7fd},     {0x898, 0x89f},     {0x8ca, 0x8d3},     {0x9fe, 0x9fe},     {0xc3c, 0xc3c},     {0xd3b, 0xd3c},
        {0xeba, 0xeba},     {0x1715, 0x1715},   {0x1abf, 0x1ace},   {0x1df6, 0x1dfa},   {0x32ff, 0x32ff},   {0xa7f2, 0xa7f4},
        {0xa82c, 0xa82c},   {0xab69, 0xab69},   {0x10781, 0x107ba}, {0x10d24, 0x10d27}, {0x10eab, 0x10eac}, {0x10efd, 0x10eff},
        {0x10f46, 0x10f50}, {0x10f82, 0x10f85}, {0x11070, 0x11070}, {0x1133b, 0x1133b}, {0x1145e, 0x1145e}, {0x11839, 0x1183a},
        {0x11938, 0x11938}, {0x1193d, 0x1193e}, {0x11943, 0x11943}, {0x119e0, 0x119e0}, {0x11a34, 0x11a34}, {0x11a47, 0x11a47},
        {0x11a99, 0x11a99}, {0x11d42, 0x11d42}, {0x11d44, 0x11d45}, {0x11d97, 0x11d97}, {0x11f41, 0x11f42}, {0x16ff0, 0x16ff1},
        {0x1e030, 0x1e06d}, {0x1e08f, 0x1e08f}, {0x1e130, 0x1e136}, {0x1e2ae, 0x1e2ae}, {0x1e2ec, 0x1e2ef}, {0x1e4ec, 0x1e4ef},
    };
    if (cp < 0x7fd) return false;
    for (size_t i = 0; i < sizeof newer / sizeof *newer && newer[i][0] <= cp; i++)
        if (cp <= newer[i][1]) return true;
    return false;
}

static bool composes_backwards(int32_t cp)
{
    if (is_unknown_to_library(cp)) return false;
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
    if (is_unknown_to_library(cp)) return true;
    const utf8proc_property_t *p = utf8proc_get_property(cp);
    return p->decomp_seqindex == UINT16_MAX && !composes_backwards(cp);
}

/* ---- NFC alone: most texts are in it ---- */

enum { NFC_TABLE = 0x20000 };

static uint64_t nfc_stirs[NFC_TABLE / 64]; /* a bit for every character that may change, or join the one before */
static pthread_once_t nfc_once = PTHREAD_ONCE_INIT;

/* Decomposed and composed again, the character is what it was; compatibility decompositions are none of NFC's. */
static bool is_own_nfc(int32_t cp)
{
    const utf8proc_property_t *p = utf8proc_get_property(cp);
    if (p->decomp_seqindex == UINT16_MAX || p->decomp_type != 0) return true;
    char utf8[5] = {0};
    (void)am_tok_utf8_put(cp, utf8);
    utf8proc_uint8_t *form = utf8proc_NFC((const utf8proc_uint8_t *)utf8);
    bool same = form != NULL && strcmp((const char *)form, utf8) == 0;
    free(form);
    return same;
}

static bool is_still_in_nfc(int32_t cp)
{
    return is_inert(cp) || (cp >= 0xac00 && cp <= 0xd7a3) || (!composes_backwards(cp) && is_own_nfc(cp));
}

static void make_nfc(void)
{
    for (int32_t cp = 0; cp < NFC_TABLE; cp++)
        if (!is_still_in_nfc(cp)) nfc_stirs[cp / 64] |= UINT64_C(1) << cp % 64;
}

/* True when the form leaves the character as it is wherever no neighbour joins it, and it joins none before it. */
static inline bool is_still(const am_norm *norm, int32_t cp)
{
    if (norm->unicode_flags != nfc_flags || cp >= NFC_TABLE) return is_inert(cp);
    return (nfc_stirs[cp / 64] >> cp % 64 & 1) == 0;
}

static bool all_still(const am_norm *norm, const am_view *v)
{
    for (size_t i = 0; i < v->n;) {
        uint64_t eight;
        int32_t cp;
        if (i + 8 <= v->n) {
            memcpy(&eight, v->s + i, 8);
            if ((eight & UINT64_C(0x8080808080808080)) == 0) {
                i += 8;
                continue;
            }
        }
        i += am_tok_utf8_get(v->s + i, &cp);
        if (!is_still(norm, cp)) return false;
    }
    return true;
}

/* A starter and what may combine with it: [i, end). */
static size_t cluster_end(const am_view *v, size_t i)
{
    int32_t cp;
    i += am_tok_utf8_get(v->s + i, &cp);
    if (is_unknown_to_library(cp)) return i;
    while (i < v->n) {
        size_t len = am_tok_utf8_get(v->s + i, &cp);
        if (cp < 0xa0 || !composes_backwards(cp)) break;
        i += len;
    }
    return i;
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

/* A cluster that no form changes: nothing decomposes or composes, and the marks are in order. */
static bool is_normal_already(const am_view *v, size_t i, size_t end)
{
    utf8proc_propval_t before = 0;
    while (i < end) {
        int32_t cp;
        i += am_tok_utf8_get(v->s + i, &cp);
        const utf8proc_property_t *p = utf8proc_get_property(cp);
        bool second = p->comb_index != UINT16_MAX && p->comb_index >= 0x8000;
        if (p->decomp_seqindex != UINT16_MAX || second || (cp >= 0x1160 && cp <= 0x11ff) || (cp >= 0xac00 && cp <= 0xd7a3) ||
            (p->combining_class != 0 && p->combining_class < before))
            return false;
        before = p->combining_class;
    }
    return true;
}

static am_status normalize_unicode(const am_norm *norm, am_tok_scratch *s, am_view *v)
{
    am_status st = AM_OK;
    if (norm->unicode_flags == nfc_flags) pthread_once(&nfc_once, make_nfc); /* with the first text: some milliseconds */
    if (all_still(norm, v)) return AM_OK;
    am_tok_text *out = am_tok_scratch_other(s, v);
    size_t kept = 0; /* [kept, i) stays as it is */
    for (size_t i = 0, end; i < v->n; i = end) {
        int32_t cp;
        end = cluster_end(v, i);
        if ((am_tok_utf8_get(v->s + i, &cp) == end - i && is_still(norm, cp)) || is_normal_already(v, i, end)) continue;
        AM_TRY(am_tok_text_copy(out, v, kept, i));
        AM_TRY(push_cluster(out, v, i, end, norm->unicode_flags));
        kept = end;
    }
    AM_TRY(am_tok_text_copy(out, v, kept, v->n));
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
        AM_TRY(am_tok_text_copy(out, v, done_to, at.start));
        size_t last = at.end > 0 ? at.end - 1 : 0;
        while (last > 0 && ((unsigned char)v->s[last] & 0xc0) == 0x80) last--;
        am_span o = am_tok_view_origin(v, last, at.end > 0 ? at.end : 0);
        AM_TRY(am_tok_text_push(out, norm->content, norm->content_len, o.start, o.end));
        done_to = at.end;
    }
    AM_TRY(am_tok_text_copy(out, v, done_to, v->n));
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
    AM_TRY(am_tok_text_copy(out, v, 0, v->n));
    *v = am_tok_view_of(out);
done:
    return st;
}

static am_status normalize_map(const am_norm *norm, am_tok_scratch *s, am_view *v)
{
    am_status st = AM_OK;
    am_tok_text *out = am_tok_scratch_other(s, v);
    for (size_t i = 0; i < v->n;) {
        int32_t cp;
        char utf8[4];
        size_t len = am_tok_utf8_get(v->s + i, &cp);
        int32_t with = norm->map(cp);
        am_span o = am_tok_view_origin(v, i, i + len);
        if (with >= 0) AM_TRY(am_tok_text_push(out, utf8, am_tok_utf8_put(with, utf8), o.start, o.end));
        i += len;
    }
    *v = am_tok_view_of(out);
done:
    return st;
}

/* The ideographs of BERT's own list. */
static bool is_cjk(int32_t cp)
{
    return (cp >= 0x4e00 && cp <= 0x9fff) || (cp >= 0x3400 && cp <= 0x4dbf) || (cp >= 0x20000 && cp <= 0x2a6df) ||
           (cp >= 0x2a700 && cp <= 0x2b73f) || (cp >= 0x2b740 && cp <= 0x2b81f) || (cp >= 0x2b920 && cp <= 0x2ceaf) ||
           (cp >= 0xf900 && cp <= 0xfaff) || (cp >= 0x2f800 && cp <= 0x2fa1f);
}

static am_status normalize_cjk(am_tok_scratch *s, am_view *v)
{
    am_status st = AM_OK;
    am_tok_text *out = am_tok_scratch_other(s, v);
    for (size_t i = 0; i < v->n;) {
        int32_t cp;
        size_t len = am_tok_utf8_get(v->s + i, &cp);
        am_span o = am_tok_view_origin(v, i, i + len);
        bool apart = is_cjk(cp);
        if (apart) AM_TRY(am_tok_text_push(out, " ", 1, o.start, o.end));
        AM_TRY(am_tok_text_push(out, v->s + i, len, o.start, o.end));
        if (apart) AM_TRY(am_tok_text_push(out, " ", 1, o.start, o.end));
        i += len;
    }
    *v = am_tok_view_of(out);
done:
    return st;
}

static am_status normalize_bytes(am_tok_scratch *s, am_view *v)
{
    am_status st = AM_OK;
    am_tok_text *out = am_tok_scratch_other(s, v);
    for (size_t i = 0; i < v->n; i++) {
        char c[4];
        am_span o = am_tok_view_origin(v, i, i + 1);
        AM_TRY(am_tok_text_push(out, c, am_tok_utf8_put(am_tok_byte_to_char((unsigned char)v->s[i]), c), o.start, o.end));
    }
    *v = am_tok_view_of(out);
done:
    return st;
}

/* ---- maps ---- */

static int32_t map_strip_accents(int32_t cp)
{
    uint8_t k = am_tok_kind(cp);
    return k == UTF8PROC_CATEGORY_MN || k == UTF8PROC_CATEGORY_MC || k == UTF8PROC_CATEGORY_ME
               ? (am_tok_kept_by(AM_KEPT_BY_STRIP_ACCENTS, cp) ? cp : -1) : cp;
}

static int32_t map_strip_nonspacing(int32_t cp)
{
    return am_tok_kind(cp) == UTF8PROC_CATEGORY_MN && !am_tok_kept_by(AM_KEPT_BY_BERT, cp) ? -1 : cp;
}

/* BERT's clean_text: control characters go, white space is a blank. */
static int32_t map_clean(int32_t cp)
{
    uint8_t k = am_tok_kind(cp);
    if (cp == '\t' || cp == '\n' || cp == '\r') return ' ';
    if (cp == 0 || cp == 0xfffd || k == UTF8PROC_CATEGORY_CC || k == AM_KIND_WHITE || k == UTF8PROC_CATEGORY_CF ||
        k == UTF8PROC_CATEGORY_CO)
        return am_tok_kept_by(AM_KEPT_BY_CLEAN, cp) ? cp : -1;
    return am_tok_is_white_space(cp) ? ' ' : cp;
}

/* NMT of SentencePiece: some controls go, odd blanks become one. */
static int32_t map_nmt(int32_t cp)
{
    if ((cp >= 1 && cp <= 8) || cp == 0xb || (cp >= 0xe && cp <= 0x1f) || cp == 0x7f || cp == 0x8f || cp == 0x9f) return -1;
    bool blank = cp == 9 || cp == 0xa || cp == 0xc || cp == 0xd || cp == 0x1680 || (cp >= 0x200b && cp <= 0x200f) ||
                 cp == 0x2028 || cp == 0x2029 || cp == 0x2581 || cp == 0xfeff || cp == 0xfffd;
    return blank ? ' ' : cp;
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
        case AM_NORM_MAP:
            AM_TRY(normalize_map(norm, s, v));
            break;
        case AM_NORM_CJK:
            AM_TRY(normalize_cjk(s, v));
            break;
        case AM_NORM_BYTES:
            AM_TRY(normalize_bytes(s, v));
            break;
        case AM_NORM_PRECOMPILED:
            AM_TRY(am_tok_normalize_precompiled(&norm->charsmap, s, v));
            break;
        case AM_NORM_SPM:
            AM_TRY(am_tok_normalize_spm(norm, s, v));
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
    {"NFC", nfc_flags},
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

static am_status load_charsmap(const am_tokenizer *t, json_t *j, am_charsmap *out)
{
    am_status st = AM_OK;
    am_str raw = {0};
    const char *text = NULL;
    size_t n = 0;
    AM_TRY(am_tok_get_string(t, j, "precompiled_charsmap", &text, &n));
    AM_TRY(am_tok_base64(text, n, &raw));
    AM_TRY(am_tok_charsmap_load(raw.s, raw.len, t->path, out));
done:
    am_str_release(&raw);
    return st;
}

am_status am_tok_add_norm(am_tokenizer *t, am_norm_kind kind, am_norm **out)
{
    am_status st = AM_OK;
    AM_TRY(am_grow(&t->norm, &t->norm_cap, t->num_norm + 1, sizeof *t->norm));
    *out = &t->norm[t->num_norm++];
    (*out)->kind = kind;
done:
    return st;
}

static am_status add_map(am_tokenizer *t, int32_t (*map)(int32_t))
{
    am_status st = AM_OK;
    am_norm *out = NULL;
    AM_TRY(am_tok_add_norm(t, AM_NORM_MAP, &out));
    out->map = map;
done:
    return st;
}

static am_status load_bert(am_tokenizer *t, json_t *j)
{
    am_status st = AM_OK;
    am_norm *out = NULL;
    bool clean, cjk, lower, strip;
    AM_TRY(am_tok_get_bool(t, j, "clean_text", true, &clean));
    AM_TRY(am_tok_get_bool(t, j, "handle_chinese_chars", true, &cjk));
    AM_TRY(am_tok_get_bool(t, j, "lowercase", true, &lower));
    AM_TRY(am_tok_get_bool(t, j, "strip_accents", lower, &strip));
    if (clean) AM_TRY(add_map(t, map_clean));
    if (cjk) AM_TRY(am_tok_add_norm(t, AM_NORM_CJK, &out));
    if (strip) {
        AM_TRY(am_tok_add_norm(t, AM_NORM_UNICODE, &out));
        out->unicode_flags = UTF8PROC_STABLE | UTF8PROC_DECOMPOSE;
        AM_TRY(add_map(t, map_strip_nonspacing));
    }
    if (lower) AM_TRY(am_tok_add_norm(t, AM_NORM_LOWERCASE, &out));
done:
    return st;
}

static const struct {
    const char *type;
    am_norm_kind kind;
} norm_kinds[] = {
    {"Lowercase", AM_NORM_LOWERCASE}, {"Strip", AM_NORM_STRIP},       {"Replace", AM_NORM_REPLACE},
    {"Prepend", AM_NORM_PREPEND},     {"ByteLevel", AM_NORM_BYTES},   {"Precompiled", AM_NORM_PRECOMPILED},
};

static am_status load_keys(const am_tokenizer *t, json_t *j, am_norm *out)
{
    am_status st = AM_OK;
    switch (out->kind) {
    case AM_NORM_STRIP:
        AM_TRY(am_tok_get_bool(t, j, "strip_left", true, &out->left));
        AM_TRY(am_tok_get_bool(t, j, "strip_right", true, &out->right));
        break;
    case AM_NORM_REPLACE:
        AM_TRY(load_content(t, j, "content", out));
        AM_TRY(am_tok_get_pattern(t, j, "pattern", &out->re));
        break;
    case AM_NORM_PREPEND:
        return load_content(t, j, "prepend", out);
    case AM_NORM_PRECOMPILED:
        return load_charsmap(t, j, &out->charsmap);
    default:
        break;
    }
done:
    return st;
}

static am_status load_one(am_tokenizer *t, json_t *j)
{
    am_status st = AM_OK;
    am_norm *out = NULL;
    const char *type = am_tok_type(j);
    for (size_t i = 0; i < sizeof unicode_forms / sizeof *unicode_forms; i++) {
        if (strcmp(type, unicode_forms[i].type) != 0) continue;
        AM_TRY(am_tok_add_norm(t, AM_NORM_UNICODE, &out));
        out->unicode_flags = unicode_forms[i].flags;
        return AM_OK;
    }
    for (size_t i = 0; i < sizeof norm_kinds / sizeof *norm_kinds; i++) {
        if (strcmp(type, norm_kinds[i].type) != 0) continue;
        AM_TRY(am_tok_add_norm(t, norm_kinds[i].kind, &out));
        return load_keys(t, j, out);
    }
    if (strcmp(type, "StripAccents") == 0) return add_map(t, map_strip_accents);
    if (strcmp(type, "Nmt") == 0) return add_map(t, map_nmt);
    if (strcmp(type, "BertNormalizer") == 0) return load_bert(t, j);
    AM_FAIL(AM_ERR_MODEL,
            "%s: the normalizer \"%s\" is not supported (supported: NFC, NFD, NFKC, NFKD, Lowercase, Strip, StripAccents, "
            "Replace, Prepend, Nmt, Precompiled, BertNormalizer, ByteLevel, Sequence)",
            t->path, type);
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
    AM_TRY(load_one(t, j));
done:
    return st;
}

void am_tok_norm_release(am_norm *n)
{
    am_free(&n->content);
    am_tok_regex_release(&n->re);
    am_tok_charsmap_release(&n->charsmap);
}
