/* JSON as a stream: the large parts of a tokenizer file never become a tree.  Private to the tokenizer.
 *
 * The text is followed by AM_SCAN_SLACK zero bytes, so that 16 bytes can be looked at together wherever the scanner stands:
 * runs of white space and strings end at a NUL without a comparison with the end.  RFC 8259; a NUL inside the text is a
 * control character like any other.  Errors name path:line:column. */
#ifndef AM_HF_TOKENIZER_SCAN_H
#define AM_HF_TOKENIZER_SCAN_H

#include "base/base.h"

#include <string.h>

#ifdef __SSE2__
#include <emmintrin.h>
#endif

enum { AM_SCAN_SLACK = 32, AM_SCAN_DEPTH = 256 };

typedef struct am_json_scan {
    const char *s, *p, *end; /* valid UTF-8, AM_SCAN_SLACK zero bytes behind it */
    const char *path;
    am_str      text[2];     /* strings with escapes, in turn: the last two strings read stay valid */
    int         turn;
    int         max_depth;   /* of brackets in a value that is stepped over; 0: AM_SCAN_DEPTH */
} am_json_scan;

/** Stand at the start of n bytes, AM_SCAN_SLACK zeros behind them.  @return AM_ERR_MODEL where they are not UTF-8. */
am_status am_json_scan_begin(am_json_scan *j, const char *text, size_t n) AM_WARN_UNUSED;
/** Nothing but white space is left. */
am_status am_json_scan_finish(am_json_scan *j) AM_WARN_UNUSED;
am_status am_json_scan_expect(am_json_scan *j, char c) AM_WARN_UNUSED;
/** The string at the scanner; *out is valid until the string after the next is read, and 16 bytes behind it can be read.
 *  May hold NUL bytes. */
am_status am_json_scan_string(am_json_scan *j, const char **out, size_t *n) AM_WARN_UNUSED;
am_status am_json_scan_integer(am_json_scan *j, int64_t *out) AM_WARN_UNUSED;
am_status am_json_scan_number(am_json_scan *j, double *out) AM_WARN_UNUSED;
/** Step over one value, which must be well formed (NaN and Infinity as Python writes them are taken; names that occur twice
 *  are not looked for).  @param[out] from, n  its text; may be NULL. */
am_status am_json_scan_skip(am_json_scan *j, const char **from, size_t *n) AM_WARN_UNUSED;
/** Between the members of an object or array that `open` began: true when another one follows (the scanner stands at it). */
am_status am_json_scan_next(am_json_scan *j, char close, bool first, bool *more) AM_WARN_UNUSED;
/** A flag; null leaves it as it is. */
am_status am_json_scan_flag(am_json_scan *j, bool *out) AM_WARN_UNUSED;
/** AM_ERR_MODEL with path:line:column of the scanner. */
am_status am_json_scan_fail(const am_json_scan *j, const char *what) AM_WARN_UNUSED;
void      am_json_scan_release(am_json_scan *j);

/** The first byte at or behind p that is no white space. */
static inline const char *am_scan_blanks(const char *p)
{
#ifdef __SSE2__
    if ((unsigned char)*p > ' ') return p;
    for (;; p += 16) {
        __m128i c = _mm_loadu_si128((const __m128i *)(const void *)p);
        __m128i blank = _mm_or_si128(_mm_or_si128(_mm_cmpeq_epi8(c, _mm_set1_epi8(' ')), _mm_cmpeq_epi8(c, _mm_set1_epi8('\n'))),
                                     _mm_or_si128(_mm_cmpeq_epi8(c, _mm_set1_epi8('\r')), _mm_cmpeq_epi8(c, _mm_set1_epi8('\t'))));
        unsigned other = (unsigned)_mm_movemask_epi8(blank) ^ 0xffff;
        if (other != 0) return p + __builtin_ctz(other);
    }
#else
    while (*p == ' ' || *p == '\n' || *p == '\r' || *p == '\t') p++;
    return p;
#endif
}

/** The first byte at or behind p that does not stand for itself in a string: a quote, a backslash, a control character. */
static inline const char *am_scan_plain(const char *p)
{
#ifdef __SSE2__
    for (;; p += 16) {
        __m128i c = _mm_loadu_si128((const __m128i *)(const void *)p);
        __m128i stop = _mm_or_si128(_mm_or_si128(_mm_cmpeq_epi8(c, _mm_set1_epi8('"')), _mm_cmpeq_epi8(c, _mm_set1_epi8('\\'))),
                                    _mm_cmpeq_epi8(_mm_min_epu8(c, _mm_set1_epi8(0x1f)), c));
        unsigned found = (unsigned)_mm_movemask_epi8(stop);
        if (found != 0) return p + __builtin_ctz(found);
    }
#else
    while (*p != '"' && *p != '\\' && (unsigned char)*p >= 0x20) p++;
    return p;
#endif
}

/** The first blank of [p, end), behind which 16 bytes can be read; NULL: none. */
static inline const char *am_scan_space(const char *p, const char *end)
{
#ifdef __SSE2__
    for (; p < end; p += 16) {
        __m128i c = _mm_loadu_si128((const __m128i *)(const void *)p);
        unsigned found = (unsigned)_mm_movemask_epi8(_mm_cmpeq_epi8(c, _mm_set1_epi8(' ')));
        if (found == 0) continue;
        p += __builtin_ctz(found);
        return p < end ? p : NULL;
    }
    return NULL;
#else
    return memchr(p, ' ', (size_t)(end - p));
#endif
}

/** Behind white space: the next byte, '\0' at the end. */
static inline char am_json_scan_peek(am_json_scan *j)
{
    j->p = am_scan_blanks(j->p);
    return *j->p;
}

/** The usual string, without escapes; false (and nothing read): any other, or an error. */
static inline bool am_json_scan_simple(am_json_scan *j, const char **out, size_t *n)
{
    if (am_json_scan_peek(j) != '"') return false;
    const char *p = j->p + 1, *stop = am_scan_plain(p);
    if (*stop != '"') return false;
    *out = p;
    *n = (size_t)(stop - p);
    j->p = stop + 1;
    return true;
}

/** Punctuation, where it is what is expected. */
static inline bool am_json_scan_takes(am_json_scan *j, char c)
{
    if (am_json_scan_peek(j) != c) return false;
    j->p++;
    return true;
}

#endif
