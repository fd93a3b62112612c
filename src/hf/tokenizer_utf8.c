/* tokenizer, UTF-8: decoding, encoding and the check that a text is valid (RFC 3629: no overlong forms, no surrogates,
 * nothing beyond U+10FFFF).  Every text passes the check once; on AVX2 it looks at 32 bytes together, after Keiser and
 * Lemire, "Validating UTF-8 in less than one instruction per byte" (2021): what two neighbouring bytes may not be is told by
 * three tables of sixteen, and what has to be a third or fourth byte by the bytes two and three places before. */
#include "hf/tokenizer_internal.h"

#include <utf8proc.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

size_t am_tok_utf8_get(const char *s, int32_t *cp)
{
    const unsigned char *p = (const unsigned char *)s;
    if (p[0] < 0x80) {
        *cp = p[0];
        return 1;
    }
    if (p[0] < 0xe0) {
        *cp = (p[0] & 0x1f) << 6 | (p[1] & 0x3f);
        return 2;
    }
    if (p[0] < 0xf0) {
        *cp = (p[0] & 0x0f) << 12 | (p[1] & 0x3f) << 6 | (p[2] & 0x3f);
        return 3;
    }
    *cp = (p[0] & 0x07) << 18 | (p[1] & 0x3f) << 12 | (p[2] & 0x3f) << 6 | (p[3] & 0x3f);
    return 4;
}

size_t am_tok_utf8_put(int32_t cp, char out[4])
{
    return (size_t)utf8proc_encode_char(cp, (utf8proc_uint8_t *)out);
}

/* Bytes of one valid character at s, 0 if there is none. */
static size_t valid_char(const unsigned char *s, size_t n)
{
    unsigned char c = s[0];
    if (c < 0x80) return 1;
    if (c < 0xc2 || c > 0xf4) return 0;
    size_t len = am_tok_utf8_len(c);
    if (len > n) return 0;
    unsigned char low = c == 0xe0   ? 0xa0
                        : c == 0xf0 ? 0x90
                                    : 0x80,
                  high = c == 0xed   ? 0x9f
                         : c == 0xf4 ? 0x8f
                                     : 0xbf;
    if (s[1] < low || s[1] > high) return 0;
    for (size_t i = 2; i < len; i++) {
        if ((s[i] & 0xc0) != 0x80) return 0;
    }
    return len;
}

/* From i, where a character begins; i or more: the end of what is valid, or of the first character at or behind `stop`. */
static size_t valid_until(const char *s, size_t i, size_t n, size_t stop)
{
    while (i < stop) {
        uint64_t eight;
        if (i + 8 <= n) {
            memcpy(&eight, s + i, 8);
            if ((eight & UINT64_C(0x8080808080808080)) == 0) {
                i += 8;
                continue;
            }
        }
        size_t len = valid_char((const unsigned char *)s + i, n - i);
        if (len == 0) break;
        i += len;
    }
    return i;
}

#if defined(__x86_64__)

enum { /* what is wrong with two neighbours */
    TOO_SHORT = 1,      /* a lead, and no continuation behind it */
    TOO_LONG = 2,       /* a continuation behind ASCII */
    OVERLONG_3 = 4,
    TOO_LARGE = 8,      /* beyond U+10FFFF */
    SURROGATE = 16,
    OVERLONG_2 = 32,
    TOO_LARGE_LEAD = 64, /* F5 and up before 80 … 8F */
    OVERLONG_4 = 64,
    TWO_CONTS = 128,    /* right only as the third or fourth byte */
    CARRY = TOO_SHORT | TOO_LONG | TWO_CONTS, /* not told by the low half of the first byte */
    LARGE = CARRY | TOO_LARGE | TOO_LARGE_LEAD
};

#define S (char)
__attribute__((target("avx2"))) static inline __m256i table(const char t[16])
{
    return _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)(const void *)t));
}

/* A bit set anywhere: the 32 bytes at p are no continuation of valid UTF-8.  3 bytes before p are read. */
__attribute__((target("avx2"))) static inline __m256i faults(const char *p)
{
    static const char first_high[16] = {
        TOO_LONG, TOO_LONG, TOO_LONG, TOO_LONG, TOO_LONG, TOO_LONG, TOO_LONG, TOO_LONG, S TWO_CONTS, S TWO_CONTS, S TWO_CONTS,
        S TWO_CONTS, TOO_SHORT | OVERLONG_2, TOO_SHORT, TOO_SHORT | OVERLONG_3 | SURROGATE,
        TOO_SHORT | TOO_LARGE | TOO_LARGE_LEAD | OVERLONG_4};
    static const char first_low[16] = {
        S(CARRY | OVERLONG_3 | OVERLONG_2 | OVERLONG_4), S(CARRY | OVERLONG_2), S CARRY, S CARRY, S(CARRY | TOO_LARGE), S LARGE,
        S LARGE, S LARGE, S LARGE, S LARGE, S LARGE, S LARGE, S LARGE, S(LARGE | SURROGATE), S LARGE, S LARGE};
    static const char second_high[16] = {
        TOO_SHORT, TOO_SHORT, TOO_SHORT, TOO_SHORT, TOO_SHORT, TOO_SHORT, TOO_SHORT, TOO_SHORT,
        S(TOO_LONG | OVERLONG_2 | TWO_CONTS | OVERLONG_3 | TOO_LARGE_LEAD | OVERLONG_4),
        S(TOO_LONG | OVERLONG_2 | TWO_CONTS | OVERLONG_3 | TOO_LARGE), S(TOO_LONG | OVERLONG_2 | TWO_CONTS | SURROGATE | TOO_LARGE),
        S(TOO_LONG | OVERLONG_2 | TWO_CONTS | SURROGATE | TOO_LARGE), TOO_SHORT, TOO_SHORT, TOO_SHORT, TOO_SHORT};
    const __m256i low4 = _mm256_set1_epi8(0x0f);
    __m256i here = _mm256_loadu_si256((const __m256i *)(const void *)p);
    __m256i before = _mm256_loadu_si256((const __m256i *)(const void *)(p - 1));
    __m256i third = _mm256_subs_epu8(_mm256_loadu_si256((const __m256i *)(const void *)(p - 2)), _mm256_set1_epi8(0xe0 - 0x80));
    __m256i fourth = _mm256_subs_epu8(_mm256_loadu_si256((const __m256i *)(const void *)(p - 3)), _mm256_set1_epi8(0xf0 - 0x80));
    __m256i wrong = _mm256_and_si256(
        _mm256_and_si256(_mm256_shuffle_epi8(table(first_high), _mm256_and_si256(_mm256_srli_epi16(before, 4), low4)),
                         _mm256_shuffle_epi8(table(first_low), _mm256_and_si256(before, low4))),
        _mm256_shuffle_epi8(table(second_high), _mm256_and_si256(_mm256_srli_epi16(here, 4), low4)));
    __m256i later = _mm256_and_si256(_mm256_or_si256(third, fourth), _mm256_set1_epi8(S 0x80));
    return _mm256_xor_si256(later, wrong);
}
#undef S

/* The start of the first 32 bytes with a fault, or of the rest.  i ≥ 3 begins a character. */
__attribute__((target("avx2"))) static size_t valid_blocks(const char *s, size_t i, size_t n)
{
    for (bool open = false; i + 32 <= n; i += 32) {
        int high = _mm256_movemask_epi8(_mm256_loadu_si256((const __m256i *)(const void *)(s + i)));
        if (high != 0 || open) {
            __m256i f = faults(s + i);
            if (!_mm256_testz_si256(f, f)) break;
        }
        open = high < 0; /* the last byte belongs to a character that may go on */
    }
    return i;
}

size_t am_tok_utf8_valid_prefix(const char *s, size_t n)
{
    if (n < 64 || !__builtin_cpu_supports("avx2")) return valid_until(s, 0, n, n);
    size_t i = valid_until(s, 0, n, 3);
    if (i < 3) return i;
    i = valid_blocks(s, i, n);
    for (int k = 0; k < 3 && ((unsigned char)s[i - 1] & 0xc0) == 0x80; k++) i--;
    if ((unsigned char)s[i - 1] >= 0xc0) i--;
    return valid_until(s, i, n, n);
}

#else

size_t am_tok_utf8_valid_prefix(const char *s, size_t n)
{
    return valid_until(s, 0, n, n);
}

#endif
