/* tokenizer, JSON as a stream: a vocabulary of 200,000 names and as many merges goes into its tables straight from the
 * bytes of the file; small parts are handed to the JSON library as text (am_json_scan_skip gives their extent).
 * RFC 8259; strings of the file are valid UTF-8 (checked once, for the whole file). */
#include "hf/tokenizer_internal.h"

#include <ctype.h>
#include <math.h>
#include <stdlib.h>

enum { MAX_DEPTH = 256 };

am_status am_json_scan_fail(const am_json_scan *j, const char *what)
{
    size_t line = 1, column = 1;
    for (const char *p = j->s; p < j->p && p < j->end; p++) {
        column = *p == '\n' ? 1 : column + 1;
        line += *p == '\n';
    }
    return am_fail(AM_ERR_MODEL, "%s:%zu:%zu: %s", j->path, line, column, what);
}

char am_json_scan_peek(am_json_scan *j)
{
    const char *p = j->p;
    while (p < j->end && (*p == ' ' || *p == '\n' || *p == '\r' || *p == '\t')) p++;
    j->p = p;
    return p < j->end ? *p : '\0';
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
        const char *p = j->p;
        while (p < j->end && *p != '"' && *p != '\\' && (unsigned char)*p >= 0x20) p++;
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
    *out = text->s;
    *n = text->len;
done:
    return st;
}

am_status am_json_scan_string(am_json_scan *j, const char **out, size_t *n)
{
    if (am_json_scan_peek(j) != '"') return am_json_scan_fail(j, "a string expected");
    const char *p = ++j->p;
    while (p < j->end && *p != '"' && *p != '\\' && (unsigned char)*p >= 0x20) p++;
    if (p >= j->end || *p != '"') return string_with_escapes(j, out, n);
    *out = j->p;
    *n = (size_t)(p - j->p);
    j->p = p + 1;
    return AM_OK;
}

/* ---- numbers ---- */

am_status am_json_scan_integer(am_json_scan *j, int64_t *out)
{
    int64_t v = 0;
    bool negative = am_json_scan_peek(j) == '-';
    const char *p = j->p + negative, *start = p;
    while (p < j->end && *p >= '0' && *p <= '9' && p - start < 18) v = v * 10 + (*p++ - '0');
    if (p == start || (p < j->end && (*p == '.' || *p == 'e' || *p == 'E' || (*p >= '0' && *p <= '9'))))
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
    int exponent = 0, e = 0, seen = 0;
    bool negative = am_json_scan_peek(j) == '-', room = true, minus = false;
    const char *p = j->p + negative, *end = j->end;
    for (; p < end && isdigit((unsigned char)*p); p++, seen++)
        if (!(room = room && add_digit(&digits, *p))) exponent++;
    if (p < end && *p == '.')
        for (p++; p < end && isdigit((unsigned char)*p); p++, seen++)
            if ((room = room && add_digit(&digits, *p))) exponent--;
    if (seen == 0) return am_json_scan_fail(j, "a number expected");
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

static am_status skip_word(am_json_scan *j)
{
    const char *start = j->p;
    while (j->p < j->end && strchr(" \n\r\t,]}:\"[{", *j->p) == NULL) j->p++;
    return j->p > start ? AM_OK : am_json_scan_fail(j, "a value expected");
}

/* What is skipped is parsed later or not looked at: brackets and strings are enough. */
am_status am_json_scan_skip(am_json_scan *j, const char **from, size_t *n)
{
    am_status st = AM_OK;
    int depth = 0;
    const char *s;
    size_t len;
    am_json_scan_peek(j);
    const char *start = j->p;
    do {
        char c = am_json_scan_peek(j);
        if (c == '"') {
            AM_TRY(am_json_scan_string(j, &s, &len));
        } else if (c == '{' || c == '[') {
            if (++depth > MAX_DEPTH) return am_json_scan_fail(j, "brackets nested too deeply");
            j->p++;
        } else if (c == '}' || c == ']') {
            if (--depth < 0) return am_json_scan_fail(j, "a value expected");
            j->p++;
        } else if (depth > 0 && (c == ',' || c == ':')) {
            j->p++;
        } else {
            AM_TRY(skip_word(j));
        }
    } while (depth > 0);
    if (from != NULL) *from = start;
    if (n != NULL) *n = (size_t)(j->p - start);
done:
    return st;
}

void am_json_scan_release(am_json_scan *j)
{
    am_str_release(&j->text[0]);
    am_str_release(&j->text[1]);
}
