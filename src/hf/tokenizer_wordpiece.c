/* tokenizer, models without merges: WordPiece (the longest token that fits, again and again; Wu et al. 2016) and WordLevel
 * (the word as a whole). */
#include "hf/tokenizer_internal.h"

static am_status unknown(const am_bpe *b, am_bpe_work *w, size_t n)
{
    w->n = 0;
    return am_bpe_push_symbol(w, b->unk_id, 0, n);
}

/* The longest token at the start of s[0, n), behind the prefix when the word has begun; its bytes, 0 for none. */
static am_status longest(const am_wordpiece *p, const am_bpe *b, am_bpe_work *w, bool continued, const char *s, size_t n,
                         uint32_t *id, size_t *len)
{
    am_status st = AM_OK;
    size_t before = continued ? p->prefix_len : 0;
    if (before > 0) {
        w->text.len = 0;
        AM_TRY(am_str_append(&w->text, p->prefix, before));
        AM_TRY(am_str_append(&w->text, s, n));
        s = w->text.s + before;
    }
    for (*len = n; *len > 0;) {
        *id = am_bpe_name_id(b, s - before, before + *len);
        if (*id != AM_NO_ID) break;
        do --*len;
        while (*len > 0 && ((unsigned char)s[*len] & 0xc0) == 0x80);
    }
done:
    return st;
}

am_status am_wordpiece_encode(const am_wordpiece *p, const am_bpe *b, am_bpe_work *w, const char *s, size_t n)
{
    am_status st = AM_OK;
    size_t chars = 0, len = 0;
    w->n = 0;
    for (size_t i = 0; i < n; i++) chars += ((unsigned char)s[i] & 0xc0) != 0x80;
    if (chars > p->max_chars) return unknown(b, w, n);
    for (size_t i = 0; i < n; i += len) {
        uint32_t id = AM_NO_ID;
        AM_TRY(longest(p, b, w, i > 0, s + i, n - i, &id, &len));
        if (len == 0) return unknown(b, w, n);
        AM_TRY(am_bpe_push_symbol(w, id, i, i + len));
    }
done:
    return st;
}

am_status am_wordlevel_encode(const am_bpe *b, am_bpe_work *w, const char *s, size_t n)
{
    uint32_t id = am_bpe_name_id(b, s, n);
    w->n = 0;
    return am_bpe_push_symbol(w, id != AM_NO_ID ? id : b->unk_id, 0, n);
}
