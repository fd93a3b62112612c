/* tokenizer, texts on their way: bytes with the place in the original that each came from, and the UTF-8 and
 * character class questions the other parts ask.  Character classes are Unicode's, by utf8proc. */
#include "hf/tokenizer_internal.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <utf8proc.h>

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23 /* Linux 5.14; older kernels refuse it, which does no harm */
#endif

void am_tok_touch(void *p, size_t n)
{
    enum { PAGE = 4096, LARGE = 1 << 18 };
    uintptr_t from = ((uintptr_t)p + PAGE - 1) & ~(uintptr_t)(PAGE - 1), to = ((uintptr_t)p + n) & ~(uintptr_t)(PAGE - 1);
    if (p != NULL && n >= LARGE && to > from) (void)madvise((char *)p + (from - (uintptr_t)p), to - from, MADV_POPULATE_WRITE);
}

am_status am_tok_table_alloc(size_t n, bool zeroed, void *ptr_ptr)
{
    enum { LARGE_PAGE = 2 << 20 };
    void *p = NULL;
    size_t all;
    if (n < LARGE_PAGE / 2) {
        am_status st = am_calloc(n, 1, &p);
        memcpy(ptr_ptr, &p, sizeof p);
        return st;
    }
    if (am_add_size(n, LARGE_PAGE - 1, &all)) p = aligned_alloc(LARGE_PAGE, all / LARGE_PAGE * LARGE_PAGE);
    memcpy(ptr_ptr, &p, sizeof p);
    if (p == NULL) return am_fail(AM_ERR_MEMORY, "the host refused %zu bytes of memory", n);
    (void)madvise(p, all / LARGE_PAGE * LARGE_PAGE, MADV_HUGEPAGE);
    if (zeroed) memset(p, 0, n);
    return AM_OK;
}

am_status am_tok_text_push(am_tok_text *t, const char *s, size_t n, uint32_t from, uint32_t to)
{
    am_status st = AM_OK;
    AM_CHECK(t->n + n < UINT32_MAX, AM_ERR_DATA,
             "a text grows beyond 4 GiB under the tokenizer's normaliser");
    if (t->n + n >= t->s_cap || t->n + n >= t->from_cap || t->n + n >= t->to_cap) {
        AM_TRY(am_grow(&t->s, &t->s_cap, t->n + n + 1, 1));
        AM_TRY(am_grow(&t->from, &t->from_cap, t->n + n + 1, sizeof *t->from));
        AM_TRY(am_grow(&t->to, &t->to_cap, t->n + n + 1, sizeof *t->to));
    }
    memcpy(t->s + t->n, s, n);
    for (size_t i = 0; i < n; i++) {
        t->from[t->n + i] = from;
        t->to[t->n + i] = to;
    }
    t->n += n;
done:
    return st;
}

am_status am_tok_text_copy(am_tok_text *t, const am_view *v, size_t i, size_t end)
{
    am_status st = AM_OK;
    size_t n = end - i;
    AM_CHECK(t->n + n < UINT32_MAX, AM_ERR_DATA, "a text grows beyond 4 GiB under the tokenizer's normaliser");
    AM_TRY(am_grow(&t->s, &t->s_cap, t->n + n + 1, 1));
    AM_TRY(am_grow(&t->from, &t->from_cap, t->n + n + 1, sizeof *t->from));
    AM_TRY(am_grow(&t->to, &t->to_cap, t->n + n + 1, sizeof *t->to));
    memcpy(t->s + t->n, v->s + i, n);
    if (v->from != NULL) {
        memcpy(t->from + t->n, v->from + i, n * sizeof *t->from);
        memcpy(t->to + t->n, v->to + i, n * sizeof *t->to);
    } else {
        uint32_t *from = t->from + t->n, *to = t->to + t->n;
        for (size_t k = i, len; k < end; k += len) {
            len = am_tok_utf8_len((unsigned char)v->s[k]);
            for (size_t c = 0; c < len; c++) {
                *from++ = v->base + (uint32_t)k;
                *to++ = v->base + (uint32_t)(k + len);
            }
        }
    }
    t->n += n;
done:
    return st;
}

void am_tok_text_release(am_tok_text *t)
{
    am_free(&t->s);
    am_free(&t->from);
    am_free(&t->to);
    *t = (am_tok_text){0};
}

am_status am_tok_spans_push(am_spans *v, size_t start, size_t end)
{
    am_status st = AM_OK;
    if (v->n == v->cap) AM_TRY(am_grow(&v->at, &v->cap, v->n + 1, sizeof *v->at));
    v->at[v->n++] = (am_span){(uint32_t)start, (uint32_t)end};
done:
    return st;
}

static bool is_continuation(char c)
{
    return ((unsigned char)c & 0xc0) == 0x80;
}

am_span am_tok_view_origin(const am_view *v, size_t i, size_t j)
{
    if (i >= j) { /* nothing: the place where it would be */
        uint32_t at = v->from == NULL ? v->base + (uint32_t)i
                      : i > 0         ? v->to[i - 1]
                      : v->n > 0      ? v->from[0]
                                      : v->base;
        return (am_span){at, at};
    }
    if (v->from != NULL) return (am_span){v->from[i], v->to[j - 1]};
    while (i > 0 && is_continuation(v->s[i])) i--;
    while (j < v->n && is_continuation(v->s[j])) j++;
    return (am_span){v->base + (uint32_t)i, v->base + (uint32_t)j};
}

am_view am_tok_view_sub(const am_view *v, size_t i, size_t j)
{
    am_view out = {.s = v->s + i, .n = j - i, .base = v->base + (uint32_t)i};
    if (v->from != NULL) {
        out.from = v->from + i;
        out.to = v->to + i;
    }
    return out;
}

am_view am_tok_view_of(const am_tok_text *t)
{
    return (am_view){.s = t->s, .n = t->n, .from = t->from, .to = t->to};
}

bool am_tok_is_white_space(int32_t cp)
{
    if (cp < 0x80) return cp == ' ' || (cp >= 9 && cp <= 13);
    return cp == 0x85 || cp == 0xa0 || cp == 0x1680 || (cp >= 0x2000 && cp <= 0x200a) || cp == 0x2028 ||
           cp == 0x2029 || cp == 0x202f || cp == 0x205f || cp == 0x3000;
}

bool am_tok_is_word(int32_t cp)
{
    switch (utf8proc_category(cp)) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_PC:
        return true;
    default: /* Join_Control, and the circled letters, which are Alphabetic */
        return cp == 0x200c || cp == 0x200d || (cp >= 0x24b6 && cp <= 0x24e9);
    }
}
