/* tokenizer, patterns as lists: the split regexes of nearly all tokenizers are alternatives, each a row of "characters of a
 * set, so many times", at times with a literal group and a look ahead at its end.  Such a pattern is run here by tables,
 * without a regex engine; whatever has more to it is left to PCRE2 (am_tok_pattern_compile then gives NULL).  Matches are
 * the same as those of a backtracking engine: alternatives in order, repeats greedy, giving back one character at a time.
 *
 * A character's kind is its general category, or WHITE for the control characters that are White_Space: one byte a code
 * point in a table made at the first use.  A set is then 32 bits over kinds and, for what is named singly, ranges. */
#include "hf/tokenizer_internal.h"

#include <ctype.h>
#include <pthread.h>
#include <stdlib.h>
#include <utf8proc.h>

enum { MAX_ALTS = 32, MAX_ITEMS = 8, MAX_RANGES = 48, MAX_WORDS = 12, MAX_LETTERS = 4, KIND_TABLE = 0x32400 };
enum { UNBOUNDED = INT32_MAX };

typedef struct set {
    uint32_t kinds;
    bool     negated;
    int      num_ranges;
    struct { int32_t first, last; } range[MAX_RANGES];
    uint8_t  ascii[128]; /* 1: in the set */
    bool     beyond;     /* a range lies beyond ASCII: kinds alone do not tell */
} set;

typedef enum item_kind { ITEM_SET, ITEM_WORDS, ITEM_NOT_AHEAD } item_kind;

typedef struct item {
    item_kind kind;
    int       set;            /* ITEM_SET, ITEM_NOT_AHEAD */
    int32_t   min, max;
    bool      possessive;
    bool      keeps;          /* giving back never helps: what follows cannot start with a character of the set */
    int       words[MAX_WORDS][MAX_LETTERS + 1]; /* ITEM_WORDS: rows of sets, each closed by −1 */
    int       num_words;
} item;

typedef struct alternative {
    item at[MAX_ITEMS];
    int  n;
} alternative;

struct am_tok_pattern {
    set        *set;
    int         num_sets;
    size_t      set_cap;
    alternative *alt;
    int         num_alts;
    uint32_t    ascii_alts[128], kind_alts[32]; /* which alternatives can begin with a character */
};

/* ---- kinds ---- */

static uint8_t kind_table[KIND_TABLE];
static pthread_once_t kind_once = PTHREAD_ONCE_INIT;

static uint8_t kind_of_old(int32_t cp)
{
    if ((cp >= 9 && cp <= 13) || cp == 0x85) return AM_KIND_WHITE;
    return (uint8_t)utf8proc_category(cp);
}

static uint8_t kind_computed(int32_t cp)
{
    int32_t stand_in = am_tok_stand_in(cp);
    return kind_of_old(stand_in != 0 ? stand_in : cp);
}

static void make_kinds(void)
{
    for (int32_t cp = 0; cp < KIND_TABLE; cp++) kind_table[cp] = kind_of_old(cp);
    int32_t first, last, stand_in;
    for (size_t i = 0; am_tok_stand_in_range(i, &first, &last, &stand_in); i++)
        for (int32_t cp = first; cp <= last; cp++) kind_table[cp] = kind_of_old(stand_in);
}

static inline uint8_t kind_of(int32_t cp) { return cp < KIND_TABLE ? kind_table[cp] : kind_computed(cp); }

uint8_t am_tok_kind(int32_t cp)
{
    pthread_once(&kind_once, make_kinds);
    return kind_of(cp);
}

/* ---- sets ---- */

static bool in_ranges(const set *s, int32_t cp)
{
    for (int i = 0; i < s->num_ranges; i++)
        if (cp >= s->range[i].first && cp <= s->range[i].last) return true;
    return false;
}

static inline bool holds_wide(const set *s, int32_t cp)
{
    bool in = s->kinds >> kind_of(cp) & 1;
    if (s->beyond && !in) in = in_ranges(s, cp);
    return in != s->negated;
}

/* Bytes of the character at p if it is in the set, else 0. */
static inline size_t step(const set *s, const char *p, const char *end)
{
    if (p >= end) return 0;
    unsigned char c = (unsigned char)*p;
    if (c < 0x80) return s->ascii[c];
    int32_t cp;
    size_t  len = am_tok_utf8_get(p, &cp);
    return holds_wide(s, cp) ? len : 0;
}

static void close_set(set *s)
{
    for (int c = 0; c < 128; c++) s->ascii[c] = ((s->kinds >> kind_of(c) & 1) || in_ranges(s, c)) != s->negated;
    for (int i = 0; i < s->num_ranges; i++) s->beyond = s->beyond || s->range[i].last >= 0x80;
}

/* True when no character can be in both (a sufficient test). */
static bool disjoint(const set *a, const set *b)
{
    uint32_t ka = a->negated ? ~a->kinds : a->kinds, kb = b->negated ? ~b->kinds : b->kinds;
    for (int c = 0; c < 128; c++)
        if (a->ascii[c] && b->ascii[c]) return false;
    return !a->beyond && !b->beyond && (ka & kb) == 0; /* ranges lie in ASCII, which has been compared */
}

/* ---- parsing: anything unknown gives up ---- */

typedef struct parser {
    const char     *p, *end;
    am_tok_pattern *out;
    am_status       st;
    bool            caseless;
} parser;

static const struct { const char *name; uint32_t kinds; } properties[] = {
#define C(x) (1u << UTF8PROC_CATEGORY_##x)
    {"Lu", C(LU)}, {"Ll", C(LL)}, {"Lt", C(LT)}, {"Lm", C(LM)}, {"Lo", C(LO)}, {"Mn", C(MN)}, {"Mc", C(MC)}, {"Me", C(ME)},
    {"Nd", C(ND)}, {"Nl", C(NL)}, {"No", C(NO)}, {"Pc", C(PC)}, {"Pd", C(PD)}, {"Ps", C(PS)}, {"Pe", C(PE)}, {"Pi", C(PI)},
    {"Pf", C(PF)}, {"Po", C(PO)}, {"Sm", C(SM)}, {"Sc", C(SC)}, {"Sk", C(SK)}, {"So", C(SO)}, {"Zs", C(ZS)}, {"Zl", C(ZL)},
    {"Zp", C(ZP)},
    {"L", C(LU) | C(LL) | C(LT) | C(LM) | C(LO)}, {"M", C(MN) | C(MC) | C(ME)}, {"N", C(ND) | C(NL) | C(NO)},
    {"P", C(PC) | C(PD) | C(PS) | C(PE) | C(PI) | C(PF) | C(PO)}, {"S", C(SM) | C(SC) | C(SK) | C(SO)},
    {"Z", C(ZS) | C(ZL) | C(ZP)},
};
static const uint32_t white_kinds = C(ZS) | C(ZL) | C(ZP) | 1u << AM_KIND_WHITE;
#undef C

static bool add_range(set *s, int32_t first, int32_t last)
{
    if (s->num_ranges == MAX_RANGES || first > last) return false;
    s->range[s->num_ranges].first = first;
    s->range[s->num_ranges++].last = last;
    return true;
}

/* One character and, where case does not matter, what folds to it: letters of ASCII have ſ and the Kelvin sign. */
static bool add_letter(set *s, int32_t cp, bool caseless)
{
    if (!add_range(s, cp, cp)) return false;
    if (!caseless || cp > 0x7f) return cp <= 0x7f || !caseless;
    if (!isalpha(cp)) return true;
    if (!add_range(s, cp ^ 0x20, cp ^ 0x20)) return false;
    if ((cp | 0x20) == 's') return add_range(s, 0x17f, 0x17f);
    return (cp | 0x20) != 'k' || add_range(s, 0x212a, 0x212a);
}

/* Behind a backslash: a set of kinds in *kinds, or a character in *cp (−1: kinds). */
static bool parse_escape(parser *k, uint32_t *kinds, int32_t *cp)
{
    static const char from[] = "rntf", to[] = "\r\n\t\f";
    if (k->p >= k->end) return false;
    char c = *k->p++;
    *cp = -1;
    if (c == 's') {
        *kinds = white_kinds;
        return true;
    }
    if (c == 'p') {
        const char *close = k->p < k->end && *k->p == '{' ? memchr(k->p, '}', (size_t)(k->end - k->p)) : NULL;
        for (size_t i = 0; close != NULL && i < sizeof properties / sizeof *properties; i++) {
            size_t n = (size_t)(close - k->p - 1);
            if (strlen(properties[i].name) != n || memcmp(k->p + 1, properties[i].name, n) != 0) continue;
            *kinds = properties[i].kinds;
            k->p = close + 1;
            return true;
        }
        return false;
    }
    const char *found = c != '\0' ? strchr(from, c) : NULL;
    if (found != NULL) *cp = to[found - from];
    else if ((unsigned char)c < 0x80 && !isalnum((unsigned char)c)) *cp = c;
    else return false;
    return true;
}

static bool parse_char(parser *k, int32_t *cp)
{
    if (k->p >= k->end) return false;
    k->p += am_tok_utf8_get(k->p, cp);
    return true;
}

/* At the '['. */
static bool parse_class(parser *k, set *s)
{
    k->p++;
    s->negated = k->p < k->end && *k->p == '^';
    k->p += s->negated;
    for (bool first = true; k->p < k->end && (first || *k->p != ']'); first = false) {
        uint32_t kinds = 0;
        int32_t  cp = -1, last;
        if (*k->p == '[' || *k->p == ']' || (*k->p == '&' && k->p + 1 < k->end && k->p[1] == '&')) return false;
        if (*k->p == '\\') {
            k->p++;
            if (!parse_escape(k, &kinds, &cp)) return false;
        } else if (!parse_char(k, &cp)) {
            return false;
        }
        s->kinds |= kinds;
        if (cp < 0) continue;
        last = cp;
        if (k->p + 1 < k->end && *k->p == '-' && k->p[1] != ']') {
            k->p++;
            if (*k->p == '\\' || *k->p == '[') return false;
            if (!parse_char(k, &last)) return false;
        }
        if (k->caseless || !add_range(s, cp, last)) return false;
    }
    if (k->p >= k->end) return false;
    k->p++;
    return true;
}

static int new_set(parser *k)
{
    am_tok_pattern *o = k->out;
    k->st = am_grow(&o->set, &o->set_cap, (size_t)o->num_sets + 1, sizeof *o->set);
    return k->st == AM_OK ? o->num_sets++ : -1;
}

/* One atom that is a set of characters: its index, −1 if it is none. */
static int parse_set(parser *k)
{
    int index = new_set(k);
    if (index < 0) return -1;
    set *s = &k->out->set[index];
    *s = (set){0};
    uint32_t kinds = 0;
    int32_t  cp = -1;
    if (*k->p == '[') {
        if (!parse_class(k, s)) return -1;
    } else if (*k->p == '\\') {
        k->p++;
        bool upper = k->p < k->end && *k->p == 'S';
        if (upper) { /* \S */
            k->p++;
            kinds = white_kinds;
            s->negated = true;
        } else if (!parse_escape(k, &kinds, &cp)) {
            return -1;
        }
        s->kinds = kinds;
        if (cp >= 0 && !add_letter(s, cp, k->caseless)) return -1;
    } else {
        if (strchr("(){}*+?|^$.", *k->p) != NULL) return -1;
        if (!parse_char(k, &cp) || !add_letter(s, cp, k->caseless)) return -1;
    }
    close_set(s);
    return index;
}

static bool parse_quantifier(parser *k, item *it)
{
    it->min = it->max = 1;
    char c = k->p < k->end ? *k->p : '\0';
    if (c == '?' || c == '*' || c == '+') {
        it->min = c == '+';
        it->max = c == '?' ? 1 : UNBOUNDED;
        k->p++;
    } else if (c == '{') {
        char *end;
        if (k->p + 1 >= k->end || !isdigit((unsigned char)k->p[1])) return false;
        it->min = it->max = (int32_t)strtol(k->p + 1, &end, 10);
        if (*end == ',' && isdigit((unsigned char)end[1])) it->max = (int32_t)strtol(end + 1, &end, 10);
        else if (*end == ',') it->max = UNBOUNDED, end++;
        if (*end != '}' || it->min > it->max) return false;
        k->p = end + 1;
        return k->p >= k->end || strchr("+?*{", *k->p) == NULL;
    } else {
        return true;
    }
    if (k->p < k->end && *k->p == '+') {
        it->possessive = true;
        k->p++;
    }
    return k->p >= k->end || strchr("?*+{", *k->p) == NULL;
}

/* 's|'t|… up to the closing bracket, which is consumed. */
static bool parse_words(parser *k, item *it)
{
    it->kind = ITEM_WORDS;
    for (int letters = 0;;) {
        if (k->p >= k->end || it->num_words == MAX_WORDS) return false;
        if (*k->p == '|' || *k->p == ')') {
            if (letters == 0) return false;
            it->words[it->num_words++][letters] = -1;
            letters = 0;
            if (*k->p++ == ')') return true;
            continue;
        }
        int s = letters < MAX_LETTERS ? parse_set(k) : -1;
        if (s < 0 || (k->p < k->end && strchr("*+?{", *k->p) != NULL)) return false;
        it->words[it->num_words][letters++] = s;
    }
}

static bool starts(const parser *k, const char *what)
{
    size_t n = strlen(what);
    return (size_t)(k->end - k->p) >= n && memcmp(k->p, what, n) == 0;
}

/* (?!\S), (?i:…), (?:…). */
static bool parse_group(parser *k, item *it)
{
    if (starts(k, "(?!")) {
        k->p += 3;
        it->kind = ITEM_NOT_AHEAD;
        it->set = k->p < k->end ? parse_set(k) : -1;
        if (it->set < 0 || k->p >= k->end || *k->p != ')') return false;
        k->p++;
        it->min = it->max = 1;
        return true;
    }
    bool caseless = starts(k, "(?i:"), before = k->caseless;
    if (!caseless && !starts(k, "(?:")) return false;
    k->p += caseless ? 4 : 3;
    k->caseless = k->caseless || caseless;
    bool good = parse_words(k, it);
    k->caseless = before;
    return good && parse_quantifier(k, it) && it->max == 1 && !it->possessive;
}

static bool parse_alternative(parser *k, alternative *a)
{
    while (k->p < k->end && *k->p != '|') {
        if (a->n == MAX_ITEMS) return false;
        item *it = &a->at[a->n++];
        if (*k->p == '(') {
            if (!parse_group(k, it)) return false;
            continue;
        }
        it->kind = ITEM_SET;
        it->set = parse_set(k);
        if (it->set < 0 || !parse_quantifier(k, it)) return false;
    }
    return a->n > 0;
}

/* ---- what can be known beforehand ---- */

/* Whether the alternative can match nothing, or begin with a character (ASCII c, or of kind c − 128 beyond it). */
static bool can_begin(const am_tok_pattern *o, const alternative *a, int c)
{
    for (int i = 0; i < a->n; i++) {
        const item *it = &a->at[i];
        if (it->kind == ITEM_NOT_AHEAD) return true;
        for (int w = 0; it->kind == ITEM_WORDS && w < it->num_words; w++) {
            const set *s = &o->set[it->words[w][0]];
            if (c < 128 ? s->ascii[c] : s->beyond || (s->kinds >> (c - 128) & 1) != s->negated) return true;
        }
        if (it->kind == ITEM_SET) {
            const set *s = &o->set[it->set];
            if (c < 128 ? s->ascii[c] : s->beyond || (s->kinds >> (c - 128) & 1) != s->negated) return true;
        }
        if (it->min > 0) return false;
    }
    return true;
}

static bool always_takes(const item *it) { return it->kind == ITEM_SET && it->min > 0; }

static void prepare(am_tok_pattern *o)
{
    for (int i = 0; i < o->num_alts; i++) {
        alternative *a = &o->alt[i];
        for (int c = 0; c < 128; c++) o->ascii_alts[c] |= (uint32_t)can_begin(o, a, c) << i;
        for (int c = 0; c < 32; c++) o->kind_alts[c] |= (uint32_t)can_begin(o, a, 128 + c) << i;
        for (int k = 0; k < a->n; k++) {
            item *it = &a->at[k];
            if (it->kind != ITEM_SET) continue;
            it->keeps = it->possessive || k + 1 == a->n ||
                        (always_takes(&a->at[k + 1]) && disjoint(&o->set[it->set], &o->set[a->at[k + 1].set]));
        }
    }
}

/* Patterns that may match the empty text are left to the engine. */
static bool takes_something(const alternative *a)
{
    for (int i = 0; i < a->n; i++)
        if (a->at[i].kind != ITEM_NOT_AHEAD && a->at[i].min > 0) return true;
    return false;
}

am_status am_tok_pattern_compile(const char *pattern, size_t n, am_tok_pattern **out)
{
    am_status st = AM_OK;
    am_tok_pattern *o = NULL;
    bool good = n > 0;
    *out = NULL;
    pthread_once(&kind_once, make_kinds);
    AM_TRY(am_calloc(1, sizeof *o, &o));
    AM_TRY(am_calloc(MAX_ALTS, sizeof *o->alt, &o->alt));
    parser k = {.p = pattern, .end = pattern + n, .out = o};
    while (good) {
        alternative *a = &o->alt[o->num_alts];
        if (starts(&k, "(?i:") && memchr(k.p, ')', (size_t)(k.end - k.p)) == NULL) good = false;
        good = good && parse_alternative(&k, a) && takes_something(a);
        if (!good || ++o->num_alts == MAX_ALTS || k.p >= k.end) break;
        k.p++; /* the bar */
        good = k.p < k.end;
    }
    AM_TRY(k.st);
    if (!good || o->num_alts == MAX_ALTS) goto done;
    prepare(o);
    *out = o;
    o = NULL;
done:
    am_tok_pattern_free(&o);
    return st;
}

void am_tok_pattern_free(am_tok_pattern **p)
{
    if (*p == NULL) return;
    am_free(&(*p)->set);
    am_free(&(*p)->alt);
    am_free(p);
}

/* ---- matching ---- */

static const char *match_items(const am_tok_pattern *o, const item *it, const item *last, const char *p, const char *end);

static const char *match_words(const am_tok_pattern *o, const item *it, const item *last, const char *p, const char *end)
{
    for (int w = 0; w < it->num_words; w++) {
        const char *q = p;
        const int  *s = it->words[w];
        size_t      len = 1;
        for (; *s >= 0 && len > 0; s++) q += len = step(&o->set[*s], q, end);
        const char *found = len > 0 ? match_items(o, it + 1, last, q, end) : NULL;
        if (found != NULL) return found;
    }
    return it->min == 0 ? match_items(o, it + 1, last, p, end) : NULL;
}

static const char *match_set(const am_tok_pattern *o, const item *it, const item *last, const char *p, const char *end)
{
    const set *s = &o->set[it->set];
    const char *q = p, *floor = p;
    int32_t count = 0;
    for (size_t len; count < it->max && (len = step(s, q, end)) > 0; count++) {
        q += len;
        if (count + 1 == it->min) floor = q;
    }
    if (count < it->min) return NULL;
    if (it + 1 == last) return q;
    for (;;) {
        const char *found = match_items(o, it + 1, last, q, end);
        if (found != NULL || it->keeps || q <= floor) return found;
        do q--;
        while (q > floor && ((unsigned char)*q & 0xc0) == 0x80);
    }
}

/* The end of what the items match at p, NULL if they do not. */
static const char *match_items(const am_tok_pattern *o, const item *it, const item *last, const char *p, const char *end)
{
    for (; it < last; it++) {
        if (it->kind == ITEM_NOT_AHEAD) {
            if (step(&o->set[it->set], p, end) > 0) return NULL;
        } else if (it->kind == ITEM_WORDS) {
            return match_words(o, it, last, p, end);
        } else if (it->max == 1 && it->min == 1) {
            size_t len = step(&o->set[it->set], p, end);
            if (len == 0) return NULL;
            p += len;
        } else {
            return match_set(o, it, last, p, end);
        }
    }
    return p;
}

size_t am_tok_pattern_match(const am_tok_pattern *o, const char *s, size_t n)
{
    const char *end = s + n;
    unsigned char c = (unsigned char)*s;
    int32_t cp = c;
    if (c >= 0x80) am_tok_utf8_get(s, &cp);
    uint32_t alts = c < 0x80 ? o->ascii_alts[c] : o->kind_alts[kind_of(cp)];
    for (; alts != 0; alts &= alts - 1) {
        const alternative *a = &o->alt[__builtin_ctz(alts)];
        const char *found = match_items(o, a->at, a->at + a->n, s, end);
        if (found != NULL) return (size_t)(found - s);
    }
    return 0;
}
