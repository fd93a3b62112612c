/* Growing strings, whole-string number parsing, spelling suggestions and shell-like matching. */
#include "base/base.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

am_status am_str_append(am_str *b, const char *s, size_t n)
{
    am_status st = AM_OK;
    size_t need;
    AM_CHECK(am_add_size(b->len, n, &need) && am_add_size(need, 1, &need), AM_ERR_MEMORY,
             "a string of %zu + %zu bytes is too long", b->len, n);
    AM_TRY(am_grow(&b->s, &b->cap, need, 1));
    if (n > 0) memcpy(b->s + b->len, s, n);
    b->len += n;
    b->s[b->len] = '\0';
done:
    return st;
}

am_status am_str_printf(am_str *b, const char *fmt, ...)
{
    am_status st = AM_OK;
    size_t need;
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    AM_CHECK(n >= 0, AM_ERR_INTERNAL, "the format \"%s\" cannot be printed", fmt);
    AM_CHECK(am_add_size(b->len, (size_t)n + 1, &need), AM_ERR_MEMORY, "a string is too long");
    AM_TRY(am_grow(&b->s, &b->cap, need, 1));
    va_start(ap, fmt);
    vsnprintf(b->s + b->len, (size_t)n + 1, fmt, ap);
    va_end(ap);
    b->len += (size_t)n;
done:
    return st;
}

void am_str_release(am_str *b)
{
    am_free(&b->s);
    b->len = b->cap = 0;
}

enum { MAX_WORD = 127 };

static size_t min3(size_t a, size_t b, size_t c)
{
    size_t m = a < b ? a : b;
    return m < c ? m : c;
}

/* Edit distance where a swap of neighbours counts once; upper and lower case are the same letter. */
static size_t edit_distance(const char *a, size_t na, const char *b, size_t nb)
{
    size_t rows[3][MAX_WORD + 1];
    size_t *two = rows[0], *one = rows[1], *now = rows[2];
    for (size_t j = 0; j <= nb; j++) one[j] = j;
    for (size_t i = 1; i <= na; i++) {
        now[0] = i;
        for (size_t j = 1; j <= nb; j++) {
            int x = tolower((unsigned char)a[i - 1]), y = tolower((unsigned char)b[j - 1]);
            size_t d = min3(one[j] + 1, now[j - 1] + 1, one[j - 1] + (x != y));
            if (i > 1 && j > 1 && x == tolower((unsigned char)b[j - 2]) &&
                y == tolower((unsigned char)a[i - 2]) && two[j - 2] + 1 < d)
                d = two[j - 2] + 1;
            now[j] = d;
        }
        size_t *t = two;
        two = one;
        one = now;
        now = t;
    }
    return one[nb];
}

const char *am_did_you_mean(const char *word, const char *const *names, size_t n)
{
    size_t len = strlen(word), best = len / 3 + 2;
    const char *found = NULL;
    if (len > MAX_WORD) return NULL;
    for (size_t i = 0; i < n; i++) {
        size_t m = strlen(names[i]);
        if (m > MAX_WORD) continue;
        size_t d = edit_distance(word, len, names[i], m);
        if (d < best) {
            best = d;
            found = names[i];
        }
    }
    return found;
}

bool am_glob_match(const char *pattern, const char *name)
{
    const char *star = NULL, *resume = NULL;
    while (*name != '\0') {
        if (*pattern == '*') {
            star = ++pattern;
            resume = name;
        } else if (*pattern == '?' || *pattern == *name) {
            pattern++;
            name++;
        } else if (star != NULL) { /* let the last star take one character more */
            pattern = star;
            name = ++resume;
        } else {
            return false;
        }
    }
    while (*pattern == '*') pattern++;
    return *pattern == '\0';
}

bool am_parse_i64(const char *s, int64_t *out)
{
    char *end = NULL;
    if (*s == '\0' || isspace((unsigned char)*s)) return false;
    errno = 0;
    long long v = strtoll(s, &end, 10);
    if (errno != 0 || end == s || *end != '\0') return false;
    *out = v;
    return true;
}

bool am_parse_f64(const char *s, double *out)
{
    char *end = NULL;
    if (*s == '\0' || isspace((unsigned char)*s)) return false;
    errno = 0;
    double v = strtod(s, &end);
    /* ERANGE is also set for numbers that are merely tiny: those are kept */
    if (end == s || *end != '\0' || (errno == ERANGE && isinf(v))) return false;
    *out = v;
    return true;
}
