/* tokenizer, JSON as a stream: a vocabulary of 200,000 names and as many merges goes into its tables straight from the
 * bytes of the file; small parts are handed to the JSON library as text (am_json_scan_skip gives their extent).
 * RFC 8259; strings of the file are valid UTF-8 (checked once, for the whole file). */
#include "hf/tokenizer_internal.h"

#include <ctype.h>
#include <math.h>
#include <stdlib.h>

am_status am_json_scan_fail(const am_json_scan *j, const char *what)
{
    size_t line = 1, column = 1;
    for (const char *p = j->s; p < j->p && p < j->end; p++) {
        column = *p == '\n' ? 1 : column + 1;
        line += *p == '\n';
    }
    return am_fail(AM_ERR_MODEL, "%s:%zu:%zu: %s", j->path, line, column, what);
}

am_status am_json_scan_begin(am_json_scan *j, const char *text, size_t n)
{
    size_t valid = am_tok_utf8_valid_prefix(text, n);
    j->s = text;
    j->end = text + n;
    j->p = text + valid;
    if (valid != n) return am_json_scan_fail(j, "the file is not UTF-8");
    j->p = text;
    return AM_OK;
}

am_status am_json_scan_finish(am_json_scan *j)
{
    am_json_scan_peek(j);
    return j->p < j->end ? am_json_scan_fail(j, "text behind the end of the value") : AM_OK;
}

am_status am_json_scan_expect(am_json_scan *j, char c)
{
    char what[40];
    if (am_json_scan_peek(j) == c) {
        j->p++;
        return AM_OK;
    }
    snprintf(what, sizeof what, "'%c' expected", c);
    return am_json_scan_fail(j, what);
}

am_status am_json_scan_next(am_json_scan *j, char close, bool first, bool *more)
{
    char c = am_json_scan_peek(j);
    *more = c != close;
    if (c == close) {
        j->p++;
        return AM_OK;
    }
    return first ? AM_OK : am_json_scan_expect(j, ',');
}

/* ---- strings ---- */

static int hex4(const char *p, const char *end)
{
    int v = 0;
    if (end - p < 4) return -1;
    for (int i = 0; i < 4; i++) {
        char c = p[i];
        int  d = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
        if (d < 0) return -1;
        v = v * 16 + d;
    }
    return v;
}

/* \uXXXX, and the pair of them that makes a character beyond U+FFFF; j->p is behind the u. */
static am_status unicode_escape(am_json_scan *j, am_str *out)
{
    int32_t cp = hex4(j->p, j->end);
    if (cp >= 0xd800 && cp < 0xdc00 && j->end - j->p >= 10 && j->p[4] == '\\' && j->p[5] == 'u') {
        int low = hex4(j->p + 6, j->end);
        if (low >= 0xdc00 && low < 0xe000) {
            cp = 0x10000 + ((cp - 0xd800) << 10) + (low - 0xdc00);
            j->p += 6;
        }
    }
    if (cp < 0 || (cp >= 0xd800 && cp < 0xe000)) return am_json_scan_fail(j, "an invalid \\u escape");
    j->p += 4;
    char utf8[4];
    return am_str_append(out, utf8, am_tok_utf8_put(cp, utf8));
}

static am_status string_with_escapes(am_json_scan *j, const char **out, size_t *n)
{
    static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
    am_status st = AM_OK;
    am_str *text = &j->text[j->turn ^= 1];
    text->len = 0;
    AM_TRY(am_str_append(text, "", 0));
    for (;;) {
        const char *p = am_scan_plain(j->p);
        AM_TRY(am_str_append(text, j->p, (size_t)(p - j->p)));
        j->p = p;
        if (p >= j->end || (unsigned char)*p < 0x20) return am_json_scan_fail(j, "a string that does not end");
        j->p++;
        if (*p == '"') break;
        if (j->p >= j->end) return am_json_scan_fail(j, "a string that does not end");
        char c = *j->p++;
        const char *found = c != '\0' ? strchr(from, c) : NULL;
        if (c == 'u') {
            AM_TRY(unicode_escape(j, text));
        } else if (found != NULL) {
            AM_TRY(am_str_append(text, &to[found - from], 1));
        } else {
            return am_json_scan_fail(j, "an unknown escape in a string");
        }
    }
    AM_TRY(am_grow(&text->s, &text->cap, text->len + 17, 1)); /* as readable behind as the file */
    *out = text->s;
    *n = text->len;
done:
    return st;
}

am_status am_json_scan_string(am_json_scan *j, const char **out, size_t *n)
{
    if (am_json_scan_simple(j, out, n)) return AM_OK;
    if (*j->p != '"') return am_json_scan_fail(j, "a string expected");
    j->p++;
    return string_with_escapes(j, out, n);
}

/* ---- numbers ---- */

static const char *skip_digits(const char *p)
{
    while (*p >= '0' && *p <= '9') p++;
    return p;
}

/* RFC 8259, section 6; NULL: no number.  The NUL behind the text ends every run. */
static const char *number_end(const char *p)
{
    const char *from = p += *p == '-';
    p = skip_digits(p);
    if (p == from || (*from == '0' && p > from + 1)) return NULL;
    if (*p == '.') {
        from = ++p;
        if ((p = skip_digits(p)) == from) return NULL;
    }
    if (*p == 'e' || *p == 'E') {
        from = p += 1 + (p[1] == '-' || p[1] == '+');
        if ((p = skip_digits(p)) == from) return NULL;
    }
    return p;
}

am_status am_json_scan_integer(am_json_scan *j, int64_t *out)
{
    int64_t v = 0;
    bool negative = am_json_scan_peek(j) == '-';
    const char *p = j->p + negative, *start = p;
    while (p < j->end && *p >= '0' && *p <= '9' && p - start < 18) v = v * 10 + (*p++ - '0');
    if (p == start || (*start == '0' && p > start + 1) || (p < j->end && (*p == '.' || *p == 'e' || *p == 'E' || (*p >= '0' && *p <= '9'))))
        return am_json_scan_fail(j, "an integer expected");
    *out = negative ? -v : v;
    j->p = p;
    return AM_OK;
}

/* As the library reads numbers (serde_json without float_roundtrip): up to 19 digits as an integer, then one division or
 * multiplication by a power of ten.  That can differ from the nearest double by one unit, which decides near ties of scores. */
static double scaled(uint64_t digits, int exponent)
{
    double f = (double)digits;
    for (; exponent < -308 && f != 0; exponent += 308) f /= 1e308;
    if (exponent > 308) return f == 0 ? 0 : HUGE_VAL;
    char power[16];
    snprintf(power, sizeof power, "1e%d", exponent < 0 ? -exponent : exponent);
    return exponent < 0 ? f / strtod(power, NULL) : f * strtod(power, NULL);
}

static bool add_digit(uint64_t *digits, char c)
{
    uint64_t d = (uint64_t)(c - '0');
    if (*digits > (UINT64_MAX - d) / 10) return false;
    *digits = *digits * 10 + d;
    return true;
}

am_status am_json_scan_number(am_json_scan *j, double *out)
{
    uint64_t digits = 0;
    int exponent = 0, e = 0;
    bool negative = am_json_scan_peek(j) == '-', room = true, minus = false;
    const char *p = j->p + negative, *end = j->end;
    if (number_end(j->p) == NULL) return am_json_scan_fail(j, "a number expected");
    for (; p < end && isdigit((unsigned char)*p); p++)
        if (!(room = room && add_digit(&digits, *p))) exponent++;
    if (p < end && *p == '.')
        for (p++; p < end && isdigit((unsigned char)*p); p++)
            if ((room = room && add_digit(&digits, *p))) exponent--;
    if (p < end && (*p == 'e' || *p == 'E')) {
        p++;
        minus = p < end && *p == '-';
        if (p < end && (*p == '-' || *p == '+')) p++;
        for (; p < end && isdigit((unsigned char)*p) && e < 100000; p++) e = e * 10 + (*p - '0');
        exponent += minus ? -e : e;
    }
    *out = scaled(digits, exponent);
    if (negative) *out = -*out;
    j->p = p;
    return AM_OK;
}

/* ---- any value ---- */

static bool word_ends(const am_json_scan *j, const char *p)
{
    return p >= j->end || (*p != '\0' && strchr(" \n\r\t,]}", *p) != NULL);
}

/* A number, or one of the words of JSON and of Python's writer. */
static am_status skip_word(am_json_scan *j)
{
    static const char *const words[] = {"true", "false", "null", "NaN", "Infinity", "-Infinity"};
    const char *end = NULL;
    for (size_t i = 0; i < sizeof words / sizeof *words && end == NULL; i++)
        if (strncmp(j->p, words[i], strlen(words[i])) == 0) end = j->p + strlen(words[i]);
    if (end == NULL) end = number_end(j->p);
    if (end == NULL || !word_ends(j, end)) return am_json_scan_fail(j, "a value expected");
    j->p = end;
    return AM_OK;
}

/* A member's name and its colon, in an object. */
static am_status skip_name(am_json_scan *j)
{
    const char *s;
    size_t n;
    am_status st = am_json_scan_string(j, &s, &n);
    return st != AM_OK ? st : am_json_scan_expect(j, ':');
}

/* One value that is not opened, or the opening bracket of one. */
static am_status skip_start(am_json_scan *j, char *bracket)
{
    const char *s;
    size_t n;
    char c = am_json_scan_peek(j);
    *bracket = '\0';
    if (c == '"') return am_json_scan_string(j, &s, &n);
    if (c != '{' && c != '[') return skip_word(j);
    *bracket = c;
    j->p++;
    return AM_OK;
}

am_status am_json_scan_skip(am_json_scan *j, const char **from, size_t *n)
{
    am_status st = AM_OK;
    char close[AM_SCAN_DEPTH] = {0}, bracket;
    int depth = 0, limit = j->max_depth > 0 && j->max_depth < AM_SCAN_DEPTH ? j->max_depth : AM_SCAN_DEPTH;
    bool first = false, more = true;
    am_json_scan_peek(j);
    const char *start = j->p;
    do {
        if (depth > 0) AM_TRY(am_json_scan_next(j, close[depth - 1], first, &more));
        first = false;
        if (!more) {
            depth--;
            more = true;
            continue;
        }
        if (depth > 0 && close[depth - 1] == '}') AM_TRY(skip_name(j));
        AM_TRY(skip_start(j, &bracket));
        if (bracket == '\0') continue;
        if (depth == limit) return am_json_scan_fail(j, "brackets nested too deeply");
        close[depth++] = bracket == '{' ? '}' : ']';
        first = true;
    } while (depth > 0);
    if (from != NULL) *from = start;
    if (n != NULL) *n = (size_t)(j->p - start);
done:
    return st;
}

am_status am_json_scan_flag(am_json_scan *j, bool *out)
{
    am_status st = AM_OK;
    const char *v, *start;
    size_t n;
    am_json_scan_peek(j);
    start = j->p;
    AM_TRY(am_json_scan_skip(j, &v, &n));
    if (n == 4 && memcmp(v, "null", 4) == 0) return AM_OK;
    bool yes = n == 4 && memcmp(v, "true", 4) == 0, no = n == 5 && memcmp(v, "false", 5) == 0;
    j->p = yes || no ? j->p : start;
    if (!yes && !no) return am_json_scan_fail(j, "true or false expected");
    *out = yes;
done:
    return st;
}

void am_json_scan_release(am_json_scan *j)
{
    am_str_release(&j->text[0]);
    am_str_release(&j->text[1]);
}
