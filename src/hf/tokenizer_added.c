/* tokenizer, added tokens: found in the text before anything else looks at it, leftmost and longest first, by
 * a trie of their bytes.  single_word asks for no word character on either side; lstrip and rstrip swallow
 * the white space there. */
#include "hf/tokenizer_internal.h"

#include <string.h>

am_status am_tok_trie_add(am_trie *t, const char *s, size_t n, int32_t token)
{
    am_status st = AM_OK;
    uint32_t at = 0;
    for (size_t i = 0; i < n; i++) {
        uint8_t byte = (uint8_t)s[i];
        uint32_t next = i == 0 ? t->first[byte] : t->node[at].child;
        while (i > 0 && next != 0 && t->node[next].byte != byte) next = t->node[next].sibling;
        if (next == 0) {
            if (t->n == 0) t->n = 1; /* index 0 means none */
            AM_TRY(am_grow(&t->node, &t->cap, t->n + 1, sizeof *t->node));
            next = (uint32_t)t->n++;
            t->node[next] = (struct am_trie_node){.byte = byte, .token = -1};
            if (i == 0) {
                t->first[byte] = next;
            } else {
                t->node[next].sibling = t->node[at].child;
                t->node[at].child = next;
            }
        }
        at = next;
    }
    if (n > 0) t->node[at].token = token;
done:
    return st;
}

void am_tok_trie_release(am_trie *t)
{
    am_free(&t->node);
    *t = (am_trie){0};
}

/* The longest token that starts at s; its bytes, 0 for none. */
static size_t longest_at(const am_tokenizer *t, const am_trie *trie, const char *s, size_t n,
                         bool skip_special, int32_t *token)
{
    size_t best = 0;
    uint32_t at = trie->first[(uint8_t)s[0]];
    for (size_t i = 1; at != 0; i++) {
        int32_t here = trie->node[at].token;
        if (here >= 0 && !(skip_special && t->added[here].special)) {
            best = i;
            *token = here;
        }
        if (i >= n) break;
        uint32_t next = trie->node[at].child;
        while (next != 0 && trie->node[next].byte != (uint8_t)s[i]) next = trie->node[next].sibling;
        at = next;
    }
    return best;
}

size_t am_tok_trie_longest(const am_tokenizer *t, const am_trie *trie, const char *s, size_t n)
{
    int32_t token = -1;
    return trie->n > 0 && n > 0 ? longest_at(t, trie, s, n, false, &token) : 0;
}

static size_t char_before(const char *s, size_t i, int32_t *cp)
{
    size_t k = i - 1;
    while (k > 0 && ((unsigned char)s[k] & 0xc0) == 0x80) k--;
    am_tok_utf8_get(s + k, cp);
    return k;
}

static bool is_single_word(const char *s, size_t n, size_t start, size_t end)
{
    int32_t cp;
    if (start > 0) {
        char_before(s, start, &cp);
        if (am_tok_is_word(cp)) return false;
    }
    if (end < n) {
        am_tok_utf8_get(s + end, &cp);
        if (am_tok_is_word(cp)) return false;
    }
    return true;
}

static void swallow_white_space(const am_added *a, const char *s, size_t n, size_t floor, size_t *start,
                                size_t *end)
{
    int32_t cp;
    while (a->lstrip && *start > floor) {
        size_t k = char_before(s, *start, &cp);
        if (!am_tok_is_white_space(cp)) break;
        *start = k;
    }
    while (a->rstrip && *end < n) {
        size_t len = am_tok_utf8_get(s + *end, &cp);
        if (!am_tok_is_white_space(cp)) break;
        *end += len;
    }
}

static am_status push_segment(am_segments *v, size_t start, size_t end, int32_t token)
{
    am_status st = AM_OK;
    if (start >= end) return AM_OK;
    AM_TRY(am_grow(&v->at, &v->cap, v->n + 1, sizeof *v->at));
    v->at[v->n++] = (am_segment){(uint32_t)start, (uint32_t)end, token};
done:
    return st;
}

am_status am_tok_added_find(const am_tokenizer *t, const am_trie *trie, const char *s, size_t n,
                            bool skip_special, am_segments *out)
{
    am_status st = AM_OK;
    size_t text = 0; /* start of the text not yet emitted */
    for (size_t i = 0; i < n && trie->n > 0;) {
        int32_t token = -1;
        size_t len =
            trie->first[(uint8_t)s[i]] == 0 ? 0 : longest_at(t, trie, s + i, n - i, skip_special, &token);
        if (len == 0) {
            i++;
            continue;
        }
        const am_added *a = &t->added[token];
        size_t start = i, end = i + len;
        i = end;
        if (a->single_word && !is_single_word(s, n, start, end)) continue;
        swallow_white_space(a, s, n, text, &start, &end);
        if (start < text) continue; /* lies in what the token before has swallowed */
        AM_TRY(push_segment(out, text, start, -1));
        AM_TRY(push_segment(out, start, end, token));
        text = end;
    }
    AM_TRY(push_segment(out, text, n, -1));
done:
    return st;
}
