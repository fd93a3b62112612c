/* tokenizer, pre-tokenizers: the text is cut into pieces; BPE never merges across a cut.  Steps that cut
 * refine the list of pieces; steps that rewrite (a space in front, ▁ for " ", the byte alphabet) make a new
 * text and a new list. ByteLevel is opened into up to three steps when the file is read: space in front,
 * GPT-2's regex, bytes. */
#include "hf/tokenizer_internal.h"

#include <string.h>
#include <utf8proc.h>

/* ---- cutting ---- */

typedef struct cutter {
    am_spans *out;
    size_t base;   /* of the piece in the view */
    bool previous; /* the range before was a match (merging behaviours) */
    bool any;      /* something of this piece was emitted */
} cutter;

static am_status emit(cutter *c, size_t start, size_t end)
{
    if (start >= end) return AM_OK;
    c->any = true;
    return am_tok_spans_push(c->out, c->base + start, c->base + end);
}

static void extend(cutter *c, size_t end)
{
    c->out->at[c->out->n - 1].end = (uint32_t)(c->base + end);
}

/* The ranges arrive left to right and cover the piece; `match` tells matches from the text between them. */
static am_status cut_range(cutter *c, am_split_behaviour behaviour, size_t start, size_t end, bool match)
{
    am_status st = AM_OK;
    if (start >= end) return AM_OK;
    bool joins = false;
    switch (behaviour) {
    case AM_SPLIT_REMOVED:
        if (!match) AM_TRY(emit(c, start, end));
        return AM_OK;
    case AM_SPLIT_ISOLATED:
        break;
    case AM_SPLIT_CONTIGUOUS:
        joins = match == c->previous;
        break;
    case AM_SPLIT_WITH_PREVIOUS:
        joins = match && !c->previous;
        break;
    case AM_SPLIT_WITH_NEXT:
        joins = c->previous && !match;
        break;
    }
    if (joins && c->any)
        extend(c, end);
    else
        AM_TRY(emit(c, start, end));
    c->previous = match;
done:
    return st;
}

/* The usual case, Isolated by a table: matches and what lies between them are pieces alike. */
static am_status isolate(const am_tok_pattern *p, const char *text, am_span piece, am_spans *out)
{
    am_status st = AM_OK;
    size_t start = piece.start, i = start;
    while (i < piece.end) {
        size_t len = am_tok_pattern_match(p, text + i, piece.end - i);
        if (len == 0) {
            i += am_tok_utf8_len((unsigned char)text[i]);
            continue;
        }
        if (out->n + 2 > out->cap) AM_TRY(am_grow(&out->at, &out->cap, out->n + 2, sizeof *out->at));
        if (i > start) out->at[out->n++] = (am_span){(uint32_t)start, (uint32_t)i};
        out->at[out->n++] = (am_span){(uint32_t)i, (uint32_t)(i + len)};
        start = i += len;
    }
    if (piece.end > start) AM_TRY(am_tok_spans_push(out, start, piece.end));
done:
    return st;
}

static am_status cut_piece(const am_pre *pre, am_tok_scratch *s, const char *shown, am_span piece)
{
    am_status st = AM_OK;
    if (pre->behaviour == AM_SPLIT_ISOLATED && pre->re.pattern != NULL && !s->matcher.engine_only)
        return isolate(pre->re.pattern, shown, piece, &s->next_pieces);
    const char *text = shown + piece.start;
    size_t n = piece.end - piece.start, at = 0;
    cutter c = {.out = &s->next_pieces, .base = piece.start};
    s->matches.n = 0;
    AM_TRY(am_tok_regex_find_all(&pre->re, &s->matcher, text, n, &s->matches));
    for (size_t m = 0; m < s->matches.n; m++) {
        am_span hit = s->matches.at[m];
        AM_TRY(cut_range(&c, pre->behaviour, at, hit.start, pre->invert));
        AM_TRY(cut_range(&c, pre->behaviour, hit.start, hit.end, !pre->invert));
        at = hit.end;
    }
    AM_TRY(cut_range(&c, pre->behaviour, at, n, pre->invert));
done:
    return st;
}

/* ---- rewriting ---- */

static am_status push_chars(am_tok_text *out, const am_view *v, size_t i, size_t end, const am_pre *mark)
{
    am_status st = AM_OK;
    while (i < end) {
        size_t len = am_tok_utf8_len((unsigned char)v->s[i]);
        am_span o = am_tok_view_origin(v, i, i + len);
        bool space = mark != NULL && v->s[i] == ' ';
        AM_TRY(am_tok_text_push(out, space ? mark->content : v->s + i, space ? strlen(mark->content) : len,
                                o.start, o.end));
        i += len;
    }
done:
    return st;
}

static am_status push_bytes(am_tok_text *out, const am_view *v, size_t i, size_t end)
{
    am_status st = AM_OK;
    for (; i < end; i++) {
        char c[4];
        size_t len = am_tok_utf8_put(am_tok_byte_to_char((unsigned char)v->s[i]), c);
        am_span o = am_tok_view_origin(v, i, i + 1);
        AM_TRY(am_tok_text_push(out, c, len, o.start, o.end));
    }
done:
    return st;
}

static am_status prefix_piece(am_tok_text *out, const am_view *v, am_span piece, const char *prefix)
{
    am_span o =
        am_tok_view_origin(v, piece.start, piece.start + am_tok_utf8_len((unsigned char)v->s[piece.start]));
    return am_tok_text_push(out, prefix, strlen(prefix), o.start, o.end);
}

static bool starts_with(const am_view *v, am_span piece, const char *s)
{
    size_t n = strlen(s);
    return piece.end - piece.start >= n && memcmp(v->s + piece.start, s, n) == 0;
}

static am_status rewrite_piece(const am_pre *pre, am_tok_text *out, const am_view *v, am_span piece)
{
    am_status st = AM_OK;
    if (piece.start == piece.end) return AM_OK;
    if (pre->kind == AM_PRE_BYTES) return push_bytes(out, v, piece.start, piece.end);
    if (pre->kind == AM_PRE_PREFIX_SPACE) {
        if (v->s[piece.start] != ' ') AM_TRY(prefix_piece(out, v, piece, " "));
        return push_chars(out, v, piece.start, piece.end, NULL);
    }
    bool at_start = am_tok_view_origin(v, piece.start, piece.end).start == 0;
    bool wanted = pre->prepend == AM_PREPEND_ALWAYS || (pre->prepend == AM_PREPEND_FIRST && at_start);
    if (wanted && v->s[piece.start] != ' ' && !starts_with(v, piece, pre->content))
        AM_TRY(prefix_piece(out, v, piece, pre->content));
    AM_TRY(push_chars(out, v, piece.start, piece.end, pre));
done:
    return st;
}

static am_status rewrite_all(const am_pre *pre, am_tok_scratch *s, am_view *v)
{
    am_status st = AM_OK;
    am_tok_text *out = am_tok_scratch_other(s, v);
    for (size_t i = 0; i < s->pieces.n; i++) {
        size_t start = out->n;
        AM_TRY(rewrite_piece(pre, out, v, s->pieces.at[i]));
        s->pieces.at[i] = (am_span){(uint32_t)start, (uint32_t)out->n};
    }
    *v = am_tok_view_of(out);
done:
    return st;
}

am_status am_tok_split(const am_tokenizer *t, am_tok_scratch *s, am_view *v)
{
    am_status st = AM_OK;
    const char *shown = NULL;
    s->pieces.n = 0;
    AM_TRY(am_tok_spans_push(&s->pieces, 0, v->n));
    for (size_t k = 0; k < t->num_pre; k++) {
        const am_pre *pre = &t->pre[k];
        if (pre->kind != AM_PRE_SPLIT) {
            AM_TRY(rewrite_all(pre, s, v));
            continue;
        }
        if ((pre->re.pattern != NULL && !s->matcher.engine_only) || pre->re.literal != NULL) shown = v->s; /* tables know the new characters */
        else AM_TRY(am_tok_stand_ins(v->s, v->n, &s->shown, &shown));
        s->next_pieces.n = 0;
        for (size_t i = 0; i < s->pieces.n; i++) AM_TRY(cut_piece(pre, s, shown, s->pieces.at[i]));
        am_spans swap = s->pieces;
        s->pieces = s->next_pieces;
        s->next_pieces = swap;
    }
done:
    return st;
}

/* ---- loading ---- */

/* GPT-2's pattern: Radford et al. 2019, as the library states it. */
static const char gpt2_pattern[] =
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";
static const char punctuation_pattern[] = "[!-/:-@\\[-`{-~\\p{P}]";

static am_status add_step(am_tokenizer *t, am_pre_kind kind, am_pre **out)
{
    am_status st = AM_OK;
    AM_TRY(am_grow(&t->pre, &t->pre_cap, t->num_pre + 1, sizeof *t->pre));
    *out = &t->pre[t->num_pre++];
    (*out)->kind = kind;
done:
    return st;
}

static am_status add_split(am_tokenizer *t, const char *pattern, bool literal, am_split_behaviour behaviour,
                           bool invert)
{
    am_status st = AM_OK;
    am_pre *pre = NULL;
    AM_TRY(add_step(t, AM_PRE_SPLIT, &pre));
    pre->behaviour = behaviour;
    pre->invert = invert;
    AM_TRY(am_tok_regex_compile(pattern, strlen(pattern), literal, t->path, &pre->re));
done:
    return st;
}

am_status am_tok_add_split(am_tokenizer *t, const char *pattern)
{
    return add_split(t, pattern, false, AM_SPLIT_ISOLATED, false);
}

static am_status get_behaviour(const am_tokenizer *t, json_t *j, am_split_behaviour *out)
{
    static const char *const names[] = {"Removed", "Isolated", "MergedWithPrevious", "MergedWithNext",
                                        "Contiguous"};
    am_status st = AM_OK;
    const char *name = NULL;
    if (json_object_get(j, "behavior") == NULL) return AM_OK;
    AM_TRY(am_tok_get_string(t, j, "behavior", &name, NULL));
    for (int i = 0; i < 5; i++) {
        if (strcmp(name, names[i]) != 0) continue;
        *out = (am_split_behaviour)i;
        return AM_OK;
    }
    AM_FAIL(AM_ERR_MODEL, "%s: the pre_tokenizer behavior \"%s\" is not known", t->path, name);
done:
    return st;
}

static am_status load_split(am_tokenizer *t, json_t *j)
{
    am_status st = AM_OK;
    am_pre *pre = NULL;
    AM_TRY(add_step(t, AM_PRE_SPLIT, &pre));
    AM_TRY(get_behaviour(t, j, &pre->behaviour));
    AM_TRY(am_tok_get_bool(t, j, "invert", false, &pre->invert));
    AM_TRY(am_tok_get_pattern(t, j, "pattern", &pre->re));
done:
    return st;
}

static am_status load_byte_level(am_tokenizer *t, json_t *j)
{
    am_status st = AM_OK;
    am_pre *pre = NULL;
    bool space = true, regex = true;
    AM_CHECK(!t->byte_level, AM_ERR_MODEL,
             "%s: two ByteLevel pre_tokenizers one after the other are not supported", t->path);
    AM_TRY(am_tok_get_bool(t, j, "add_prefix_space", true, &space));
    AM_TRY(am_tok_get_bool(t, j, "use_regex", true, &regex));
    if (space) AM_TRY(add_step(t, AM_PRE_PREFIX_SPACE, &pre));
    if (regex) AM_TRY(add_split(t, gpt2_pattern, false, AM_SPLIT_ISOLATED, false));
    AM_TRY(add_step(t, AM_PRE_BYTES, &pre));
    t->byte_level = true;
done:
    return st;
}

static am_status load_metaspace(am_tokenizer *t, json_t *j)
{
    am_status st = AM_OK;
    am_pre *pre = NULL;
    const char *mark = "▁", *scheme = "always";
    size_t n = strlen(mark);
    bool split = true, legacy = true;
    if (json_object_get(j, "replacement") != NULL) AM_TRY(am_tok_get_string(t, j, "replacement", &mark, &n));
    if (json_object_get(j, "prepend_scheme") != NULL)
        AM_TRY(am_tok_get_string(t, j, "prepend_scheme", &scheme, NULL));
    AM_TRY(am_tok_get_bool(t, j, "add_prefix_space", true, &legacy)); /* the key of older files */
    AM_TRY(am_tok_get_bool(t, j, "split", true, &split));
    AM_TRY(add_step(t, AM_PRE_METASPACE, &pre));
    AM_CHECK(n > 0 && n < sizeof pre->content, AM_ERR_MODEL,
             "%s: Metaspace's replacement must be one character", t->path);
    memcpy(pre->content, mark, n);
    bool always = strcmp(scheme, "always") == 0, first = strcmp(scheme, "first") == 0;
    AM_CHECK(always || first || strcmp(scheme, "never") == 0, AM_ERR_MODEL,
             "%s: Metaspace's prepend_scheme \"%s\" is not one of always, first, never", t->path, scheme);
    pre->prepend = !legacy  ? AM_PREPEND_NEVER
                   : always ? AM_PREPEND_ALWAYS
                   : first  ? AM_PREPEND_FIRST
                            : AM_PREPEND_NEVER;
    if (split) {
        char kept[8];
        memcpy(kept, pre->content, sizeof kept);
        AM_TRY(add_split(t, kept, true, AM_SPLIT_WITH_NEXT, false));
    }
done:
    return st;
}

static am_status load_digits(am_tokenizer *t, json_t *j)
{
    am_status st = AM_OK;
    bool each = false;
    AM_TRY(am_tok_get_bool(t, j, "individual_digits", false, &each));
    AM_TRY(add_split(t, "\\p{N}", false, each ? AM_SPLIT_ISOLATED : AM_SPLIT_CONTIGUOUS, false));
done:
    return st;
}

static am_status load_punctuation(am_tokenizer *t, json_t *j)
{
    am_status st = AM_OK;
    am_split_behaviour behaviour = AM_SPLIT_ISOLATED;
    AM_TRY(get_behaviour(t, j, &behaviour));
    AM_TRY(add_split(t, punctuation_pattern, false, behaviour, false));
done:
    return st;
}

/* Runs of one script, of those that the library knows; what has none of them (and the blank) stays with the run before it,
 * and in front of the first run it goes, as in the library.  Kana counts as Han. */
static am_status add_scripts(am_tokenizer *t)
{
    static const char *const names[] = {
        "Latin", "Common", "Adlam", "Ahom", "Anatolian_Hieroglyphs", "Arabic", "Armenian", "Avestan", "Balinese",
        "Bamum", "Bassa_Vah", "Batak", "Bengali", "Bhaiksuki", "Bopomofo", "Brahmi", "Braille", "Buginese", "Buhid",
        "Canadian_Aboriginal", "Carian", "Caucasian_Albanian", "Chakma", "Cham", "Cherokee", "Coptic", "Cuneiform",
        "Cypriot", "Cyrillic", "Deseret", "Devanagari", "Duployan", "Egyptian_Hieroglyphs", "Elbasan", "Ethiopic",
        "Georgian", "Glagolitic", "Gothic", "Grantha", "Greek", "Gujarati", "Gurmukhi", "Hangul", "Hanunoo",
        "Hatran", "Hebrew", "Imperial_Aramaic", "Inherited", "Inscriptional_Pahlavi", "Inscriptional_Parthian",
        "Javanese", "Kaithi", "Kannada", "Kayah_Li", "Kharoshthi", "Khmer", "Khojki", "Khudawadi", "Lao", "Lepcha",
        "Limbu", "Linear_A", "Linear_B", "Lisu", "Lycian", "Lydian", "Mahajani", "Malayalam", "Mandaic",
        "Manichaean", "Marchen", "Meetei_Mayek", "Mende_Kikakui", "Meroitic_Cursive", "Meroitic_Hieroglyphs",
        "Miao", "Modi", "Mongolian", "Mro", "Multani", "Myanmar", "Nabataean", "New_Tai_Lue", "Newa", "Nko",
        "Ogham", "Ol_Chiki", "Old_Hungarian", "Old_Italic", "Old_North_Arabian", "Old_Permic", "Old_Persian",
        "Old_South_Arabian", "Old_Turkic", "Oriya", "Osage", "Osmanya", "Pahawh_Hmong", "Palmyrene", "Pau_Cin_Hau",
        "Phags_Pa", "Phoenician", "Psalter_Pahlavi", "Rejang", "Runic", "Samaritan", "Saurashtra", "Sharada",
        "Shavian", "Siddham", "SignWriting", "Sinhala", "Sora_Sompeng", "Sundanese", "Syloti_Nagri", "Syriac",
        "Tagalog", "Tagbanwa", "Tai_Le", "Tai_Tham", "Tai_Viet", "Takri", "Tamil", "Tangut", "Telugu", "Thaana",
        "Thai", "Tibetan", "Tifinagh", "Tirhuta", "Ugaritic", "Vai", "Warang_Citi", "Yi",
    };
    static const char han[] = "\\p{Han}\\p{Hiragana}\\p{Katakana}ー";
    am_status st = AM_OK;
    am_str pattern = {0}, none = {0};
    AM_TRY(am_str_printf(&none, " |[^%s", han)); /* of no script */
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) AM_TRY(am_str_printf(&none, "\\p{%s}", names[i]));
    AM_TRY(am_str_printf(&pattern, "[%s](?:[%s]|%s])*", han, han, none.s));
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        const char *bar = strcmp(names[i], "Common") == 0 ? "(?![ ー])" : ""; /* Common by Unicode, not here */
        AM_TRY(am_str_printf(&pattern, "|%s\\p{%s}(?:%s\\p{%s}|%s])*", bar, names[i], bar, names[i], none.s));
    }
    AM_TRY(add_split(t, pattern.s, false, AM_SPLIT_REMOVED, true));
done:
    am_str_release(&pattern);
    am_str_release(&none);
    return st;
}

static am_status load_bert(am_tokenizer *t)
{
    am_status st = AM_OK;
    AM_TRY(add_split(t, "\\s", false, AM_SPLIT_REMOVED, false));
    AM_TRY(add_split(t, punctuation_pattern, false, AM_SPLIT_ISOLATED, false));
done:
    return st;
}

static am_status load_delimiter(am_tokenizer *t, json_t *j)
{
    am_status st = AM_OK;
    const char *c = NULL;
    size_t n = 0;
    AM_TRY(am_tok_get_string(t, j, "delimiter", &c, &n));
    AM_CHECK(n > 0 && am_tok_utf8_len((unsigned char)c[0]) == n, AM_ERR_MODEL,
             "%s: CharDelimiterSplit.delimiter is not one character", t->path);
    AM_TRY(add_split(t, c, true, AM_SPLIT_REMOVED, false));
done:
    return st;
}

static am_status load_fixed_length(am_tokenizer *t, json_t *j)
{
    am_status st = AM_OK;
    json_t *v = json_object_get(j, "length");
    json_int_t n = v == NULL ? 5 : json_is_integer(v) ? json_integer_value(v) : 0;
    char pattern[40];
    AM_CHECK(n > 0 && n < 65536, AM_ERR_MODEL, "%s: FixedLength.length is not a number from 1 to 65535", t->path);
    snprintf(pattern, sizeof pattern, "(?m:.{1,%d})", (int)n);
    AM_TRY(add_split(t, pattern, false, AM_SPLIT_ISOLATED, false));
done:
    return st;
}

static am_status load_one(am_tokenizer *t, json_t *j)
{
    static const char whitespace[] =
        "[\\w\\x{200c}\\x{200d}]+|[^\\w\\s\\x{200c}\\x{200d}]+"; /* Rust's \w has the joiners */
    const char *type = am_tok_type(j);
    if (strcmp(type, "ByteLevel") == 0) return load_byte_level(t, j);
    if (strcmp(type, "Split") == 0) return load_split(t, j);
    if (strcmp(type, "Metaspace") == 0) return load_metaspace(t, j);
    if (strcmp(type, "Digits") == 0) return load_digits(t, j);
    if (strcmp(type, "Punctuation") == 0) return load_punctuation(t, j);
    if (strcmp(type, "Whitespace") == 0) return add_split(t, whitespace, false, AM_SPLIT_REMOVED, true);
    if (strcmp(type, "BertPreTokenizer") == 0) return load_bert(t);
    if (strcmp(type, "CharDelimiterSplit") == 0) return load_delimiter(t, j);
    if (strcmp(type, "FixedLength") == 0) return load_fixed_length(t, j);
    if (strcmp(type, "UnicodeScripts") == 0) return add_scripts(t);
    if (strcmp(type, "WhitespaceSplit") == 0) return add_split(t, "\\s", false, AM_SPLIT_REMOVED, false);
    return am_fail(
        AM_ERR_MODEL,
        "%s: the pre_tokenizer \"%s\" is not supported (supported: ByteLevel, Split, Digits, Punctuation, "
        "Whitespace, WhitespaceSplit, Metaspace, BertPreTokenizer, CharDelimiterSplit, FixedLength, UnicodeScripts, Sequence)",
        t->path, type);
}

static am_status load_list(am_tokenizer *t, json_t *j)
{
    am_status st = AM_OK;
    size_t i;
    json_t *item;
    if (strcmp(am_tok_type(j), "Sequence") != 0) return load_one(t, j);
    json_t *list = json_object_get(j, "pretokenizers");
    AM_CHECK(json_is_array(list), AM_ERR_MODEL, "%s: a Sequence pre_tokenizer without \"pretokenizers\"",
             t->path);
    json_array_foreach(list, i, item) AM_TRY(load_list(t, item));
done:
    return st;
}

am_status am_tok_load_pre(am_tokenizer *t, json_t *j)
{
    am_status st = AM_OK;
    if (j == NULL || json_is_null(j)) return AM_OK;
    AM_TRY(load_list(t, j));
    if (t->num_pre > 0 && t->pre[t->num_pre - 1].kind == AM_PRE_BYTES)
        t->num_pre--; /* nobody looks at the alphabet */
    else
        t->bytes_written = t->byte_level;
done:
    return st;
}

void am_tok_pre_release(am_pre *p)
{
    am_tok_regex_release(&p->re);
}
