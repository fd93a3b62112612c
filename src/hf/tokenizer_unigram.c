/* tokenizer, Unigram (Kudo 2018): of all ways to cut a piece into tokens the one with the greatest sum of scores, by dynamic
 * programming over byte positions (Viterbi).  Tokens are found by a double-array trie (Aoe 1989) over their bytes.  A
 * character without a token costs the least score less 10, and adjacent unknown characters become one token.  Tokens whose
 * score is infinite are not looked for. */
#include "hf/tokenizer_internal.h"

#include <math.h>
#include <stdlib.h>

static const double unknown_penalty = 10.0;

/* ---- the trie ---- */

typedef struct builder {
    am_unigram   *u;
    const am_bpe *b;
    uint32_t     *order; /* entries of the vocabulary by their bytes */
    size_t        cap, next; /* units; where to look for room */
} builder;

static int by_bytes(const void *x, const void *y, void *names)
{
    const am_bpe *b = names;
    const struct am_bytes_entry *p = &b->names.entry[*(const uint32_t *)x], *q = &b->names.entry[*(const uint32_t *)y];
    int c = memcmp(b->arena + p->off, b->arena + q->off, p->len < q->len ? p->len : q->len);
    return c != 0 ? c : (p->len > q->len) - (p->len < q->len);
}

static am_status reserve(builder *k, size_t n)
{
    am_status st = AM_OK;
    AM_CHECK(n < INT32_MAX, AM_ERR_MODEL, "a vocabulary whose trie is too large");
    size_t before = k->cap;
    AM_TRY(am_grow(&k->u->unit, &k->cap, n, sizeof *k->u->unit));
    for (size_t i = before; i < k->cap; i++) k->u->unit[i].id = AM_NO_ID;
    k->u->num_units = k->cap;
done:
    return st;
}

/* A base whose places for all the bytes are free. */
static am_status find_base(builder *k, const unsigned char *bytes, size_t n, uint32_t *out)
{
    am_status st = AM_OK;
    size_t tried = 0, at = k->next;
    for (size_t base = at > bytes[0] ? at - bytes[0] : 1;; base++, tried++) {
        AM_TRY(reserve(k, base + 257));
        bool free_place = base > 0;
        for (size_t i = 0; i < n && free_place; i++) free_place = k->u->unit[base + bytes[i]].check == 0 && base + bytes[i] != 0;
        if (!free_place) continue;
        if (tried > 64) k->next = base; /* the units before are nearly full */
        *out = (uint32_t)base;
        return AM_OK;
    }
done:
    return st;
}

/* The children of `node`: entries order[first, last) share `depth` bytes. */
static am_status insert(builder *k, uint32_t node, size_t first, size_t last, size_t depth)
{
    am_status st = AM_OK;
    const am_bpe *b = k->b;
    unsigned char bytes[256];
    size_t from[257], n = 0;
    uint32_t base = 0;
    while (first < last && b->names.entry[k->order[first]].len == depth) k->u->unit[node].id = b->names.entry[k->order[first++]].id;
    for (size_t i = first; i < last; i++) {
        unsigned char c = (unsigned char)b->arena[b->names.entry[k->order[i]].off + depth];
        if (n > 0 && bytes[n - 1] == c) continue;
        bytes[n] = c;
        from[n++] = i;
    }
    from[n] = last;
    if (n == 0) return AM_OK;
    AM_TRY(find_base(k, bytes, n, &base));
    k->u->unit[node].base = base;
    for (size_t i = 0; i < n; i++) k->u->unit[base + bytes[i]].check = node + 1;
    for (size_t i = 0; i < n; i++) AM_TRY(insert(k, base + bytes[i], from[i], from[i + 1], depth + 1));
done:
    return st;
}

am_status am_unigram_build(am_unigram *u, const am_bpe *names)
{
    am_status st = AM_OK;
    builder k = {.u = u, .b = names, .next = 1};
    size_t n = names->names.n;
    u->min_score = INFINITY;
    for (size_t i = 0; i < u->num_scores; i++) {
        AM_CHECK(!isnan(u->score[i]), AM_ERR_MODEL, "model.vocab: the score of token %zu is not a number", i);
        if (u->score[i] < u->min_score) u->min_score = u->score[i];
    }
    AM_TRY(am_calloc(n + 1, sizeof *k.order, &k.order));
    for (size_t i = 0; i < n; i++) {
        k.order[i] = (uint32_t)i;
        AM_CHECK(names->names.entry[i].len < 1024, AM_ERR_MODEL, "model.vocab: a token of more than 1023 bytes");
    }
    qsort_r(k.order, n, sizeof *k.order, by_bytes, (void *)(uintptr_t)names);
    AM_TRY(reserve(&k, 512));
    AM_TRY(insert(&k, 0, 0, n, 0));
    u->unit[0].id = AM_NO_ID; /* the empty token is never found */
done:
    am_free(&k.order);
    return st;
}

void am_unigram_release(am_unigram *u)
{
    am_free(&u->unit);
    am_free(&u->score);
}

/* ---- Viterbi ---- */

static void reach(const am_unigram *u, am_best *at, double score, uint32_t start, uint32_t id)
{
    if (u->float_sums) score = (double)(float)score;
    if (at->start != UINT32_MAX && score <= at->score) return;
    *at = (am_best){score, start, id};
}

static am_status best_ways(const am_unigram *u, am_best *best, const char *s, size_t n)
{
    double unknown = u->min_score - unknown_penalty;
    if (u->float_sums) unknown = (double)(float)unknown;
    for (size_t i = 0; i <= n; i++) best[i] = (am_best){0, UINT32_MAX, AM_NO_ID};
    for (size_t i = 0, len; i < n; i += len) {
        double here = best[i].score;
        bool single = false;
        uint32_t node = 0;
        len = am_tok_utf8_len((unsigned char)s[i]);
        for (size_t k = i; k < n; k++) {
            uint32_t base = u->unit[node].base, next = base + (unsigned char)s[k];
            if (base == 0 || u->unit[next].check != node + 1) break;
            node = next;
            uint32_t id = u->unit[node].id;
            if (id == AM_NO_ID || isinf(u->score[id])) continue;
            reach(u, &best[k + 1], here + u->score[id], (uint32_t)i, id);
            single = single || k + 1 - i == len;
        }
        if (!single) reach(u, &best[i + len], here + unknown, (uint32_t)i, AM_NO_ID);
    }
    return AM_OK;
}

/* Unknown text as its bytes' tokens if all are there, else as one unknown token. */
static am_status push_unknown(const am_bpe *b, am_bpe_work *w, const char *s, size_t start, size_t end)
{
    am_status st = AM_OK;
    bool bytes = b->byte_fallback;
    for (size_t i = start; i < end && bytes; i++) bytes = b->fallback_id[(unsigned char)s[i]] != AM_NO_ID;
    for (size_t i = start; i < end && bytes; i++) /* every byte stands for the whole, as in the library */
        AM_TRY(am_bpe_push_symbol(w, b->fallback_id[(unsigned char)s[i]], start, end));
    if (bytes) return AM_OK;
    AM_CHECK(b->has_unk, AM_ERR_DATA, "the tokenizer has no token for \"%.*s\" and no unk_id", (int)(end - start), s + start);
    AM_TRY(am_bpe_push_symbol(w, b->unk_id, start, end));
done:
    return st;
}

am_status am_unigram_encode(const am_unigram *u, const am_bpe *b, am_bpe_work *w, const char *s, size_t n)
{
    am_status st = AM_OK;
    w->n = 0;
    AM_TRY(am_grow(&w->best, &w->best_cap, n + 1, sizeof *w->best));
    AM_TRY(best_ways(u, w->best, s, n));
    /* the way back, written into `start` of each place as the end of the token that begins there */
    size_t end = n;
    uint32_t next = UINT32_MAX;
    while (end > 0) {
        uint32_t start = w->best[end].start;
        w->best[end].start = next;
        next = (uint32_t)end;
        end = start;
    }
    for (size_t start = 0; next != UINT32_MAX;) {
        size_t stop = next;
        uint32_t id = w->best[stop].id;
        next = w->best[stop].start;
        if (id == AM_NO_ID || id == b->unk_id) {
            for (; next != UINT32_MAX && (w->best[next].id == AM_NO_ID || w->best[next].id == b->unk_id); next = w->best[stop].start)
                stop = next;
            uint32_t known = am_bpe_name_id(b, s + start, stop - start); /* the text may spell the unknown token itself */
            if (known != AM_NO_ID && !isinf(u->score[known])) AM_TRY(am_bpe_push_symbol(w, known, start, stop));
            else AM_TRY(push_unknown(b, w, s, start, stop));
        } else {
            AM_TRY(am_bpe_push_symbol(w, id, start, stop));
        }
        start = stop;
    }
done:
    return st;
}
