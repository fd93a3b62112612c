/* tokenizer, regex syntax: tokenizer.json speaks Oniguruma's Ruby dialect, PCRE2 runs it.  Most of a pattern
 * is the same in both; this file rewrites what would silently mean something else: \s \w \h \v         other
 * sets                      \p{Han}  the script, not its extensions {1,3}+  {,3}        repetition, {0,3}
 * (?m)     "." matches LF [a&&[^b]]  [a[bc]]  intersection, nested classes    \uHHHH   \x{HHHH} and refuses
 * the rest of Oniguruma by name.  Read am_tok_regex_translate first. */
#include "hf/tokenizer_internal.h"

#include <ctype.h>
#include <string.h>

enum { MAX_DEPTH = 64 };

typedef struct onig {
    const char *p, *end;
    const char *pattern, *where;
    int n;
    size_t open[MAX_DEPTH]; /* where each group that is open starts in the output */
    int depth;
    size_t atom; /* where the last atom starts in the output: what a quantifier applies to */
} onig;

#define WORD_SET "\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}" /* \w inside of brackets */
#define WORD_BARE                                                                                            \
    WORD_SET "\\xb2\\xb3\\xb9\\xbc-\\xbe" /* outside Oniguruma has six numbers of Latin-1 as well */

static am_status put(am_str *out, const char *s)
{
    return am_str_append(out, s, strlen(s));
}

static am_status refuse(const onig *o, const char *what)
{
    return am_fail(AM_ERR_MODEL, "%s: the regular expression \"%.*s\" uses %s, which is not supported",
                   o->where, o->n, o->pattern, what);
}

/* Names that Oniguruma spells out and PCRE2 abbreviates; POSIX names as Oniguruma's Unicode tables define
 * them. */
static const char *const property_names[][2] = {
    {"letter", "L"},
    {"mark", "M"},
    {"number", "N"},
    {"punctuation", "P"},
    {"symbol", "S"},
    {"separator", "Z"},
    {"other", "C"},
    {"uppercaseletter", "Lu"},
    {"lowercaseletter", "Ll"},
    {"titlecaseletter", "Lt"},
    {"modifierletter", "Lm"},
    {"otherletter", "Lo"},
    {"nonspacingmark", "Mn"},
    {"spacingmark", "Mc"},
    {"enclosingmark", "Me"},
    {"decimalnumber", "Nd"},
    {"letternumber", "Nl"},
    {"othernumber", "No"},
    {"connectorpunctuation", "Pc"},
    {"dashpunctuation", "Pd"},
    {"mathsymbol", "Sm"},
    {"currencysymbol", "Sc"},
    {"modifiersymbol", "Sk"},
    {"othersymbol", "So"},
    {"spaceseparator", "Zs"},
    {"control", "Cc"},
    {"format", "Cf"},
    {"alpha", "Alphabetic"},
    {"digit", "Nd"},
    {"space", "White_Space"},
    {"upper", "Uppercase"},
    {"lower", "Lowercase"},
};

static bool compiles(const char *pattern)
{
    int code;
    size_t at;
    pcre2_code *re =
        pcre2_compile((PCRE2_SPTR)pattern, PCRE2_ZERO_TERMINATED, PCRE2_UTF | PCRE2_UCP, &code, &at, NULL);
    if (re != NULL) pcre2_code_free(re);
    return re != NULL;
}

/* \p{Name}, \p{^Name}, \P{Name}: o->p is behind the p. */
static am_status put_property(onig *o, bool negated, am_str *out)
{
    am_status st = AM_OK;
    am_str try = {0};
    char plain[64];
    size_t n = 0;
    if (o->p >= o->end || *o->p != '{') return refuse(o, "\\p without braces");
    const char *close = memchr(o->p, '}', (size_t)(o->end - o->p));
    if (close == NULL) return refuse(o, "\\p{ without }");
    const char *name = o->p + 1;
    o->p = close + 1;
    if (name < close && *name == '^') {
        negated = !negated;
        name++;
    }
    for (const char *c = name; c < close && n + 1 < sizeof plain; c++) {
        if (*c != '_' && *c != ' ' && *c != '-') plain[n++] = (char)tolower((unsigned char)*c);
    }
    plain[n] = '\0';
    const char *found = NULL;
    for (size_t i = 0; i < sizeof property_names / sizeof *property_names; i++) {
        if (strcmp(plain, property_names[i][0]) == 0) found = property_names[i][1];
    }
    AM_TRY(am_str_printf(&try, "\\p{sc:%.*s}", (int)(close - name), name));
    const char *script = found == NULL && n > 2 && compiles(try.s) ? "sc:" : "";
    AM_TRY(am_str_printf(out, "\\%c{%s%.*s}", negated ? 'P' : 'p', script,
                         found != NULL ? (int)strlen(found) : (int)(close - name),
                         found != NULL ? found : name));
done:
    am_str_release(&try);
    return st;
}

/* \xHH, \x{H…}, \uHHHH: o->p is behind the letter. */
static am_status put_code_point(onig *o, char letter, am_str *out)
{
    const char *p = o->p;
    char hex[9] = {0};
    size_t n = 0;
    bool braces = letter == 'x' && p < o->end && *p == '{';
    if (braces) p++;
    size_t max = braces ? 8 : letter == 'u' ? 4 : 2;
    while (p < o->end && n < max && isxdigit((unsigned char)*p)) hex[n++] = *p++;
    if (n == 0 || (letter == 'u' && n != 4)) return refuse(o, "an incomplete \\x or \\u");
    if (letter == 'x' && !braces && n == 2 && hex[0] >= '8') return refuse(o, "\\xHH for a byte above 7F");
    if (braces && (p >= o->end || *p++ != '}')) return refuse(o, "\\x{ without }");
    o->p = p;
    return am_str_printf(out, "\\x{%s}", hex);
}

/* The sets that both kinds of place share; *done tells whether the letter was one of them. */
static am_status put_set(onig *o, char c, am_str *out, bool *done)
{
    *done = true;
    switch (c) {
    case 's':
        return put(out, "\\p{White_Space}");
    case 'S':
        return put(out, "\\P{White_Space}");
    case 'd':
        return put(out, "\\p{Nd}");
    case 'D':
        return put(out, "\\P{Nd}");
    case 'v':
        return put(out, "\\x0b");
    case 'p':
    case 'P':
        return put_property(o, c == 'P', out);
    case 'x':
    case 'u':
        return put_code_point(o, c, out);
    case 'n':
    case 'r':
    case 't':
    case 'f':
    case 'a':
    case 'e':
        return am_str_printf(out, "\\%c", c);
    default:
        break;
    }
    if (!isalnum((unsigned char)c)) { /* an escaped literal, of one byte or more */
        size_t len = am_tok_utf8_len((unsigned char)c);
        am_status st = len == 1 ? put(out, "\\") : AM_OK;
        if (st == AM_OK) st = am_str_append(out, o->p - 1, len);
        o->p += len - 1;
        return st;
    }
    *done = false;
    return AM_OK;
}

static am_status put_escape(onig *o, am_str *out)
{
    bool done = false;
    if (o->p >= o->end) return refuse(o, "a backslash at its end");
    char c = *o->p++;
    am_status st = put_set(o, c, out, &done);
    if (st != AM_OK || done) return st;
    switch (c) {
    case 'w':
        return put(out, "[" WORD_BARE "]");
    case 'W':
        return put(out, "[^" WORD_BARE "]");
    case 'h':
        return put(out, "[0-9a-fA-F]");
    case 'H':
        return put(out, "[^0-9a-fA-F]");
    case 'b':
        return put(out,
                   "(?:(?<=[" WORD_BARE "])(?![" WORD_BARE "])|(?<![" WORD_BARE "])(?=[" WORD_BARE "]))");
    case 'B':
        return put(out,
                   "(?:(?<=[" WORD_BARE "])(?=[" WORD_BARE "])|(?<![" WORD_BARE "])(?![" WORD_BARE "]))");
    case 'A':
    case 'z':
    case 'Z':
    case 'G':
    case 'R':
    case '1':
    case '2':
    case '3':
    case '4':
    case '5':
    case '6':
    case '7':
    case '8':
    case '9':
        return am_str_printf(out, "\\%c", c);
    default:
        break;
    }
    char what[32];
    snprintf(what, sizeof what, "\\%c", c);
    return refuse(o, what);
}

/* ---- character classes ---- */

static am_status put_class(onig *o, am_str *out, int depth);

typedef struct class_union {
    am_str flat;   /* what can stand inside one pair of brackets */
    am_str nested; /* classes that cannot, each after a '|' */
} class_union;

static am_status put_class_escape(onig *o, class_union *u)
{
    bool done = false;
    if (o->p >= o->end) return refuse(o, "a backslash at its end");
    char c = *o->p++;
    am_status st = put_set(o, c, &u->flat, &done);
    if (st != AM_OK || done) return st;
    switch (c) {
    case 'w':
        return put(&u->flat, WORD_SET);
    case 'W':
        return put(&u->nested, "|[^" WORD_SET "]");
    case 'h':
        return put(&u->flat, "0-9a-fA-F");
    case 'H':
        return put(&u->nested, "|[^0-9a-fA-F]");
    case 'b':
        return put(&u->flat, "\\x08");
    default:
        break;
    }
    char what[48];
    snprintf(what, sizeof what, "\\%c in a character class", c);
    return refuse(o, what);
}

/* [:name:] or [:^name:] at o->p, as Oniguruma's Unicode tables define it (PCRE2's differ in nearly all). */
static am_status put_posix_bracket(onig *o, am_str *out)
{
    static const char *const sets[][3] = {
        {"alpha", "\\p{Alphabetic}", "\\P{Alphabetic}"},
        {"digit", "\\p{Nd}", "\\P{Nd}"},
        {"space", "\\p{White_Space}", "\\P{White_Space}"},
        {"upper", "\\p{Uppercase}", "\\P{Uppercase}"},
        {"lower", "\\p{Lowercase}", "\\P{Lowercase}"},
        {"cntrl", "\\p{Cc}", "\\P{Cc}"},
        {"alnum", "\\p{Alphabetic}\\p{Nd}", NULL},
        {"punct", "\\p{P}\\p{S}", NULL},
        {"blank", "\\p{Zs}\\t", NULL},
        {"word", WORD_SET, NULL},
        {"xdigit", "0-9a-fA-F", NULL},
    };
    const char *name = o->p + 2, *close = memmem(o->p, (size_t)(o->end - o->p), ":]", 2);
    if (close == NULL) return refuse(o, "[: without :]");
    bool negated = *name == '^';
    name += negated;
    o->p = close + 2;
    for (size_t i = 0; i < sizeof sets / sizeof *sets; i++) {
        if (strlen(sets[i][0]) != (size_t)(close - name) ||
            memcmp(name, sets[i][0], (size_t)(close - name)) != 0)
            continue;
        const char *set = sets[i][negated ? 2 : 1];
        if (set != NULL) return put(out, set);
    }
    return refuse(o, "a POSIX bracket other than alpha, digit, space, upper, lower, cntrl, alnum, punct, "
                     "blank, word, xdigit");
}

static am_status class_item(onig *o, class_union *u, int depth)
{
    am_status st = AM_OK;
    if (*o->p == '\\') {
        o->p++;
        return put_class_escape(o, u);
    }
    if (*o->p != '[') return am_str_append(&u->flat, o->p++, 1);
    if (o->p + 1 < o->end && o->p[1] == ':') return put_posix_bracket(o, &u->flat);
    AM_TRY(put(&u->nested, "|"));
    AM_TRY(put_class(o, &u->nested, depth + 1));
done:
    return st;
}

/* One union as a pattern that matches exactly one character. */
static am_status put_union(const onig *o, const class_union *u, am_str *out)
{
    am_status st = AM_OK;
    if (u->nested.len == 0) {
        if (u->flat.len == 0) return refuse(o, "an empty character class");
        AM_TRY(am_str_printf(out, "[%s]", u->flat.s));
    } else if (u->flat.len == 0) {
        AM_TRY(am_str_printf(out, "(?:%s)", u->nested.s + 1));
    } else {
        AM_TRY(am_str_printf(out, "(?:[%s]%s)", u->flat.s, u->nested.s));
    }
done:
    return st;
}

/* o->p is at the opening bracket. */
static am_status put_class(onig *o, am_str *out, int depth)
{
    am_status st = AM_OK;
    class_union u = {0};
    am_str left = {0}; /* (?=A)(?=B)… of the intersection so far */
    if (depth > MAX_DEPTH) return refuse(o, "character classes nested too deeply");
    o->p++;
    bool negated = o->p < o->end && *o->p == '^';
    if (negated) o->p++;
    if (o->p < o->end && *o->p == ']') {
        AM_TRY(put(&u.flat, "\\]"));
        o->p++;
    }
    for (;;) {
        if (o->p >= o->end) {
            st = refuse(o, "[ without ]");
            goto done;
        }
        if (*o->p == ']') break;
        if (*o->p == '&' && o->p + 1 < o->end && o->p[1] == '&') {
            o->p += 2;
            AM_TRY(put(&left, "(?="));
            AM_TRY(put_union(o, &u, &left));
            AM_TRY(put(&left, ")"));
            am_str_release(&u.flat);
            am_str_release(&u.nested);
            u = (class_union){0};
            continue;
        }
        AM_TRY(class_item(o, &u, depth));
    }
    o->p++;
    if (left.len == 0 && u.nested.len == 0 && u.flat.len > 0) { /* the ordinary case */
        AM_TRY(am_str_printf(out, "[%s%s]", negated ? "^" : "", u.flat.s));
        goto done;
    }
    AM_TRY(put(out, negated ? "(?:(?!" : "(?:"));
    if (left.len > 0) AM_TRY(am_str_append(out, left.s, left.len));
    AM_TRY(put_union(o, &u, out));
    AM_TRY(put(out, negated ? ")(?s:.))" : ")"));
done:
    am_str_release(&u.flat);
    am_str_release(&u.nested);
    am_str_release(&left);
    return st;
}

/* ---- groups and quantifiers ---- */

/* The letters of (?imx-imx: or (?imx): Ruby's m is PCRE2's s. */
static am_status put_group_options(onig *o, am_str *out)
{
    am_status st = AM_OK;
    while (o->p < o->end && *o->p != ':' && *o->p != ')') {
        char c = *o->p++;
        if (c != 'i' && c != 'm' && c != 'x' && c != '-')
            return refuse(o, "a group option other than i, m and x");
        AM_TRY(am_str_append(out, c == 'm' ? "s" : &c, 1));
    }
done:
    return st;
}

static am_status put_group_open(onig *o, am_str *out)
{
    am_status st = AM_OK;
    if (o->depth == MAX_DEPTH) return refuse(o, "groups nested too deeply");
    o->open[o->depth++] = out->len;
    AM_TRY(am_str_append(out, o->p++, 1));
    if (o->p >= o->end || *o->p != '?') goto done;
    AM_TRY(am_str_append(out, o->p++, 1));
    if (o->p < o->end && strchr("imx-", *o->p) != NULL) {
        AM_TRY(put_group_options(o, out));
    } else if (o->p < o->end && strchr("~(", *o->p) != NULL) {
        st = refuse(o, "an absent or conditional group");
    } else if (o->p < o->end && *o->p == '#') { /* a comment: nothing in it is syntax */
        while (o->p < o->end && *o->p != ')') o->p++;
        out->len = o->open[--o->depth];
        out->s[out->len] = '\0';
        if (o->p < o->end) o->p++;
    }
done:
    return st;
}

/* {n}, {n,}, {,m}, {n,m} at o->p; 0 when the brace is a literal. */
static size_t interval_length(const onig *o)
{
    const char *p = o->p + 1;
    size_t low = 0, high = 0;
    while (p < o->end && isdigit((unsigned char)*p)) p++, low++;
    bool comma = p < o->end && *p == ',';
    if (comma) p++;
    while (p < o->end && isdigit((unsigned char)*p)) p++, high++;
    if (p >= o->end || *p != '}' || (low == 0 && high == 0)) return 0;
    return (size_t)(p + 1 - o->p);
}

static am_status put_interval(onig *o, size_t n, am_str *out)
{
    am_status st = AM_OK;
    am_str atom = {0};
    AM_TRY(am_str_append(out, o->p[1] == ',' ? "{0" : "{", o->p[1] == ',' ? 2 : 1));
    AM_TRY(am_str_append(out, o->p + 1, n - 1));
    o->p += n;
    bool single = memchr(o->p - n, ',', n) == NULL;
    if (o->p < o->end && (*o->p == '+' || (*o->p == '?' && single))) {
        /* Ruby: a quantifier of the repetition; PCRE2 would read possessive or lazy */
        AM_TRY(am_str_append(&atom, out->s + o->atom, out->len - o->atom));
        out->len = o->atom;
        AM_TRY(am_str_printf(out, "(?:%s)", atom.s));
    }
done:
    am_str_release(&atom);
    return st;
}

static am_status put_next(onig *o, am_str *out)
{
    size_t start = out->len, interval;
    switch (*o->p) {
    case '\\':
        o->p++;
        o->atom = start;
        return put_escape(o, out);
    case '[':
        o->atom = start;
        return put_class(o, out, 0);
    case '(':
        return put_group_open(o, out);
    case ')':
        if (o->depth == 0) return refuse(o, ") without (");
        o->atom = o->open[--o->depth];
        return am_str_append(out, o->p++, 1);
    case '{':
        interval = interval_length(o);
        if (interval > 0) return put_interval(o, interval, out);
        o->atom = start;
        o->p++;
        return put(out, "\\{");
    case '*':
    case '+':
    case '?':
        return am_str_append(out, o->p++, 1);
    default: {
        size_t len = am_tok_utf8_len((unsigned char)*o->p);
        o->atom = start;
        o->p += len;
        return am_str_append(out, o->p - len, len);
    }
    }
}

am_status am_tok_regex_translate(const char *onig_pattern, size_t n, const char *where, am_str *out)
{
    am_status st = AM_OK;
    onig o = {
        .p = onig_pattern, .end = onig_pattern + n, .pattern = onig_pattern, .where = where, .n = (int)n};
    AM_CHECK(n <= 1 << 20 && am_tok_utf8_valid_prefix(onig_pattern, n) == n, AM_ERR_MODEL,
             "%s: a regular expression of %zu bytes is too long or not UTF-8", where, n);
    AM_TRY(am_str_append(out, "", 0));
    while (o.p < o.end) AM_TRY(put_next(&o, out));
    AM_CHECK(o.depth == 0, AM_ERR_MODEL, "%s: the regular expression \"%.*s\" has a ( without )", where,
             (int)n, onig_pattern);
done:
    return st;
}
