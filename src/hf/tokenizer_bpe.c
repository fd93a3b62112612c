/* tokenizer, BPE of one piece: characters (byte mode: bytes) become symbols, then the pair of the lowest
 * rank, leftmost first, is merged until none is left (Sennrich et al. 2016).  Short pieces by scanning, long
 * ones (a line without blanks) by a heap.  The results of short pieces, of any model, are remembered in a
 * cache, which is emptied when it is full; in front of it stands a smaller one of the shortest pieces, which
 * am_tokenizer_encode asks itself. */
#include "hf/tokenizer_internal.h"

#include <string.h>

enum { PLACE_BITS = 6, SCAN_MAX = 1 << PLACE_BITS, NOTHING = INT32_MAX };
enum { CACHE_SLOTS = 1 << 15, CACHE_PIECE_MAX = 96, CACHE_ARENA = 2 << 20, CACHE_IDS = 1 << 18 };

/* ---- cache: piece → symbols ---- */

typedef struct am_piece_cache {
    struct cache_slot {
        uint32_t hash, key, ids;
        uint16_t len, n; /* len 0: empty */
    } slot[CACHE_SLOTS];
    char arena[CACHE_ARENA];
    uint32_t id[CACHE_IDS];
    uint8_t end[CACHE_IDS];
    size_t used, arena_n, ids_n;
} am_piece_cache;

static struct cache_slot *cache_slot_of(am_piece_cache *c, uint32_t hash, const char *s, size_t n)
{
    for (size_t h = hash & (CACHE_SLOTS - 1);; h = (h + 1) & (CACHE_SLOTS - 1)) {
        struct cache_slot *e = &c->slot[h];
        if (e->len == 0 || (e->hash == hash && e->len == n && memcmp(c->arena + e->key, s, n) == 0)) return e;
    }
}

static void cache_put(am_piece_cache *c, uint32_t hash, const char *s, size_t n, const am_bpe_work *w)
{
    if (c->used > CACHE_SLOTS / 2 || c->arena_n + n > CACHE_ARENA || c->ids_n + w->n > CACHE_IDS) {
        memset(c->slot, 0, sizeof c->slot);
        c->used = c->arena_n = c->ids_n = 0;
    }
    struct cache_slot *e = cache_slot_of(c, hash, s, n);
    *e = (struct cache_slot){hash, (uint32_t)c->arena_n, (uint32_t)c->ids_n, (uint16_t)n, (uint16_t)w->n};
    memcpy(c->arena + c->arena_n, s, n);
    c->arena_n += n;
    for (size_t i = 0; i < w->n; i++) {
        c->id[c->ids_n] = w->sym[i].id;
        c->end[c->ids_n++] = (uint8_t)w->sym[i].end;
    }
    c->used++;
}

am_status am_bpe_work_init(am_bpe_work *w)
{
    am_status st = AM_OK;
    *w = (am_bpe_work){0};
    AM_TRY(am_calloc(1, sizeof *w->cache, &w->cache));
    AM_TRY(am_calloc(AM_QUICK_SLOTS, sizeof *w->quick, &w->quick));
done:
    return st;
}

void am_bpe_work_release(am_bpe_work *w)
{
    am_free(&w->sym);
    am_free(&w->heap);
    am_free(&w->best);
    am_str_release(&w->text);
    am_free(&w->cache);
    am_free(&w->quick);
}

/* ---- symbols ---- */

am_status am_bpe_push_symbol(am_bpe_work *w, uint32_t id, size_t start, size_t end)
{
    am_status st = AM_OK;
    if (w->n == w->cap) AM_TRY(am_grow(&w->sym, &w->cap, w->n + 1, sizeof *w->sym));
    w->sym[w->n++] = (am_symbol){.id = id, .start = (uint32_t)start, .end = (uint32_t)end};
done:
    return st;
}

static bool has_fallback(const am_bpe *b, const char *s, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        if (b->fallback_id[(unsigned char)s[i]] == AM_NO_ID) return false;
    }
    return true;
}

/* The character as it is looked up: continued words have a prefix, ended ones a suffix (OpenAI's first GPT). */
static am_status dress(const am_bpe *b, am_bpe_work *w, const char **s, size_t *len, bool first, bool last)
{
    am_status st = AM_OK;
    bool prefix = b->prefix != NULL && !first, suffix = b->suffix != NULL && last;
    if (!prefix && !suffix) return AM_OK;
    w->text.len = 0;
    if (prefix) AM_TRY(am_str_append(&w->text, b->prefix, b->prefix_len));
    AM_TRY(am_str_append(&w->text, *s, *len));
    if (suffix) AM_TRY(am_str_append(&w->text, b->suffix, b->suffix_len));
    *s = w->text.s;
    *len = w->text.len;
done:
    return st;
}

static am_status make_byte_symbols(const am_bpe *b, am_bpe_work *w, const char *s, size_t n)
{
    am_status st = AM_OK;
    if (w->cap < n) AM_TRY(am_grow(&w->sym, &w->cap, n, sizeof *w->sym));
    for (size_t i = 0; i < n; i++) {
        uint32_t id = b->byte_id[(unsigned char)s[i]];
        if (id != AM_NO_ID) w->sym[w->n++] = (am_symbol){.id = id, .start = (uint32_t)i, .end = (uint32_t)i + 1};
        else if (b->has_unk) break;
    }
done:
    return st;
}

static uint32_t char_id(const am_bpe *b, const char *s, size_t len)
{
    int32_t cp;
    if (b->bmp_id == NULL || len > 3) return am_bpe_name_id(b, s, len);
    am_tok_utf8_get(s, &cp);
    return b->bmp_id[cp];
}

/* A character without a token: its bytes' tokens, else the unknown token, else (as in the library) nothing at
 * all. */
static am_status make_symbols(const am_bpe *b, am_bpe_work *w, const char *s, size_t n)
{
    am_status st = AM_OK;
    bool pending = false, dressed = b->prefix != NULL || b->suffix != NULL; /* pending: an unknown token that may grow */
    size_t unk_start = 0, unk_end = 0;
    w->n = 0;
    if (b->byte_mode && !b->has_unk && !dressed) return make_byte_symbols(b, w, s, n);
    for (size_t i = 0, len; i < n; i += len) {
        len = b->byte_mode ? 1 : am_tok_utf8_len((unsigned char)s[i]);
        const char *name = s + i;
        size_t name_len = len;
        if (dressed) AM_TRY(dress(b, w, &name, &name_len, i == 0, i + len == n));
        uint32_t id = b->byte_mode ? b->byte_id[(unsigned char)s[i]]
                      : dressed    ? am_bpe_name_id(b, name, name_len)
                                   : char_id(b, name, name_len);
        if (id != AM_NO_ID) {
            if (pending) AM_TRY(am_bpe_push_symbol(w, b->unk_id, unk_start, unk_end));
            pending = false;
            AM_TRY(am_bpe_push_symbol(w, id, i, i + len));
        } else if (b->byte_fallback && has_fallback(b, name, name_len)) {
            for (size_t k = 0; k < name_len; k++)
                AM_TRY(am_bpe_push_symbol(w, b->fallback_id[(unsigned char)name[k]], i + (k < len ? k : len), i + (k < len ? k + 1 : len)));
        } else if (b->has_unk) {
            if (pending && !b->fuse_unk) AM_TRY(am_bpe_push_symbol(w, b->unk_id, unk_start, unk_end));
            if (!pending || !b->fuse_unk) unk_start = i;
            unk_end = i + len;
            pending = true;
        }
    }
    if (pending) AM_TRY(am_bpe_push_symbol(w, b->unk_id, unk_start, unk_end));
done:
    return st;
}

static inline bool may_exist(const am_bpe *b, uint64_t key)
{
    size_t bit = am_pair_seen_bit(key);
    return b->pair_seen[bit >> 6] >> (bit & 63) & 1;
}

static inline uint64_t pair_find(const am_bpe *b, uint32_t left, uint32_t right)
{
    uint64_t key = am_pair_key(left, right);
    if (!may_exist(b, key)) return UINT64_MAX;
    for (size_t h = am_pair_home(b, key);; h = (h + 1) & b->pair_mask) {
        if (b->pair[h].key == key) return b->pair[h].val;
        if (b->pair[h].key == 0) return UINT64_MAX;
    }
}

static void fetch_pair(const am_bpe *b, uint32_t left, uint32_t right)
{
    __builtin_prefetch(&b->pair[am_pair_home(b, am_pair_key(left, right))]);
}

am_status am_bpe_index_bytes(am_bpe *b)
{
    am_status st = AM_OK;
    if (!b->byte_mode || b->has_unk || b->prefix != NULL || b->suffix != NULL || b->pair == NULL) return AM_OK;
    AM_TRY(am_calloc(256 * 256, sizeof *b->byte_pair, &b->byte_pair));
    for (size_t left = 0; left < 256; left++) {
        for (size_t right = 0; right < 256; right++)
            if (may_exist(b, am_pair_key(b->byte_id[left], b->byte_id[right]))) fetch_pair(b, b->byte_id[left], b->byte_id[right]);
        for (size_t right = 0; right < 256; right++)
            b->byte_pair[left << 8 | right] = pair_find(b, b->byte_id[left], b->byte_id[right]);
    }
done:
    return st;
}

/* ---- merging ---- */

/* A short piece: what may be merged stands at its place as rank * 64 + place, so that the least of all is the next to merge. */
typedef struct scan_row {
    int32_t  order[SCAN_MAX]; /* of the pair that begins here; NOTHING: none, or swallowed */
    uint32_t id[SCAN_MAX], merged[SCAN_MAX], end[SCAN_MAX];
    uint8_t  next[SCAN_MAX], prev[SCAN_MAX + 1];
} scan_row;

static inline int32_t least(const int32_t *order, size_t n)
{
    int32_t best = NOTHING;
    for (size_t i = 0; i < n; i++) best = order[i] < best ? order[i] : best;
    return best;
}

static inline void set_pair(scan_row *r, size_t i, uint64_t v)
{
    r->order[i] = v == UINT64_MAX ? NOTHING : (int32_t)(v >> 32 << PLACE_BITS | i);
    r->merged[i] = (uint32_t)v;
}

static inline void look_up(const am_bpe *b, scan_row *r, size_t i, size_t k)
{
    set_pair(r, i, pair_find(b, r->id[i], r->id[k]));
}

/* `bytes` where every symbol is a byte's: more than half of all pairs asked for are those a piece begins with, and few pairs of
 * bytes occur, so that their table stays in the first caches. */
static void scan_begin(const am_bpe *b, const am_bpe_work *w, const unsigned char *bytes, scan_row *r, size_t rows)
{
    const am_symbol *sym = w->sym;
    size_t n = w->n;
    for (size_t i = 0; bytes == NULL && i + 1 < n; i++) fetch_pair(b, sym[i].id, sym[i + 1].id);
    for (size_t i = 0; i < n; i++) {
        r->id[i] = sym[i].id;
        r->end[i] = sym[i].end;
        r->next[i] = (uint8_t)(i + 1);
        r->prev[i + 1] = (uint8_t)i;
    }
    for (size_t i = 0; bytes == NULL && i + 1 < n; i++) look_up(b, r, i, i + 1);
    for (size_t i = 0; bytes != NULL && i + 1 < n; i++) set_pair(r, i, b->byte_pair[(size_t)bytes[i] << 8 | bytes[i + 1]]);
    for (size_t i = n - 1; i < rows; i++) r->order[i] = NOTHING;
}

static void merge_by_scan(const am_bpe *b, am_bpe_work *w, const unsigned char *bytes)
{
    scan_row r;
    am_symbol *sym = w->sym;
    size_t n = w->n, rows = (n + 7) / 8 * 8; /* whole vectors */
    if (n < 2) return;
    scan_begin(b, w, bytes, &r, rows);
    for (int32_t best; (best = least(r.order, rows)) != NOTHING;) {
        size_t i = (size_t)best % SCAN_MAX, j = r.next[i], k = r.next[j];
        r.id[i] = r.merged[i];
        r.end[i] = r.end[j];
        r.next[i] = (uint8_t)k;
        r.prev[k] = (uint8_t)i;
        r.order[i] = r.order[j] = NOTHING;
        if (i > 0 && k < n) fetch_pair(b, r.id[r.prev[i]], r.id[i]); /* both on their way at once */
        if (k < n) look_up(b, &r, i, k);
        if (i > 0) look_up(b, &r, r.prev[i], i);
    }
    uint32_t start = sym[0].start;
    w->n = 0;
    for (size_t i = 0; i < n; i = r.next[i]) {
        sym[w->n++] = (am_symbol){.id = r.id[i], .start = start, .end = r.end[i]};
        start = r.end[i];
    }
}

static bool merge_before(const am_merge *a, const am_merge *b)
{
    return a->rank != b->rank ? a->rank < b->rank : a->pos < b->pos;
}

static am_status heap_push(am_bpe_work *w, am_merge m)
{
    am_status st = AM_OK;
    AM_TRY(am_grow(&w->heap, &w->heap_cap, w->heap_n + 1, sizeof *w->heap));
    size_t i = w->heap_n++;
    while (i > 0 && merge_before(&m, &w->heap[(i - 1) / 2])) {
        w->heap[i] = w->heap[(i - 1) / 2];
        i = (i - 1) / 2;
    }
    w->heap[i] = m;
done:
    return st;
}

static am_merge heap_pop(am_bpe_work *w)
{
    am_merge top = w->heap[0], last = w->heap[--w->heap_n];
    size_t i = 0;
    for (size_t child; (child = 2 * i + 1) < w->heap_n; i = child) {
        if (child + 1 < w->heap_n && merge_before(&w->heap[child + 1], &w->heap[child])) child++;
        if (!merge_before(&w->heap[child], &last)) break;
        w->heap[i] = w->heap[child];
    }
    w->heap[i] = last;
    return top;
}

static am_status push_pair(const am_bpe *b, am_bpe_work *w, int32_t pos)
{
    if (pos < 0 || w->sym[pos].next < 0) return AM_OK;
    uint64_t v = pair_find(b, w->sym[pos].id, w->sym[w->sym[pos].next].id);
    if (v == UINT64_MAX) return AM_OK;
    return heap_push(w, (am_merge){(uint32_t)(v >> 32), (uint32_t)pos, (uint32_t)v});
}

/* Symbols are a linked list; a swallowed one has start == end.  Entries of the heap that the list has
 * outlived are recognised by their result no longer being that of the pair at their place. */
static am_status merge_by_heap(const am_bpe *b, am_bpe_work *w)
{
    am_status st = AM_OK;
    am_symbol *sym = w->sym;
    w->heap_n = 0;
    for (size_t i = 0; i < w->n; i++) {
        sym[i].prev = (int32_t)i - 1;
        sym[i].next = i + 1 < w->n ? (int32_t)i + 1 : -1;
    }
    for (size_t i = 0; i < w->n; i++) AM_TRY(push_pair(b, w, (int32_t)i));
    while (w->heap_n > 0) {
        am_merge top = heap_pop(w);
        am_symbol *a = &sym[top.pos];
        if (a->start == a->end || a->next < 0) continue;
        am_symbol *c = &sym[a->next];
        uint64_t v = pair_find(b, a->id, c->id);
        if (v == UINT64_MAX || (uint32_t)v != top.id) continue;
        a->id = top.id;
        a->end = c->end;
        a->next = c->next;
        c->start = c->end;
        if (a->next >= 0) sym[a->next].prev = (int32_t)top.pos;
        AM_TRY(push_pair(b, w, a->prev));
        AM_TRY(push_pair(b, w, (int32_t)top.pos));
    }
    size_t n = 0;
    for (int32_t i = w->n > 0 ? 0 : -1; i >= 0; i = sym[i].next) sym[n++] = sym[i];
    w->n = n;
done:
    return st;
}

am_status am_bpe_encode(const am_bpe *b, am_bpe_work *w, const char *s, size_t n)
{
    am_status st = AM_OK;
    uint32_t id = b->ignore_merges ? am_bpe_piece_id(b, s, n) : AM_NO_ID;
    w->n = 0;
    if (id != AM_NO_ID) return am_bpe_push_symbol(w, id, 0, n);
    AM_TRY(make_symbols(b, w, s, n));
    if (w->n <= SCAN_MAX && b->max_rank < (NOTHING >> PLACE_BITS))
        merge_by_scan(b, w, b->byte_pair != NULL && w->n == n ? (const unsigned char *)s : NULL);
    else
        AM_TRY(merge_by_heap(b, w));
done:
    return st;
}

/* ---- any model, remembered ---- */

static am_status encode_anew(const am_tokenizer *t, am_bpe_work *w, const char *s, size_t n)
{
    switch (t->model) {
    case AM_MODEL_UNIGRAM:
        return am_unigram_encode(&t->unigram, &t->bpe, w, s, n);
    case AM_MODEL_WORDPIECE:
        return am_wordpiece_encode(&t->wordpiece, &t->bpe, w, s, n);
    case AM_MODEL_WORDLEVEL:
        return am_wordlevel_encode(&t->bpe, w, s, n);
    case AM_MODEL_BPE:
        break;
    }
    return am_bpe_encode(&t->bpe, w, s, n);
}

/* What starts are is told by the ends before, but for symbols that share their text (Unigram's bytes) or leave gaps. */
static bool starts_follow(const am_bpe_work *w)
{
    uint32_t start = 0;
    for (size_t i = 0; i < w->n; i++) {
        if (w->sym[i].start != start) return false;
        start = w->sym[i].end;
    }
    return true;
}

am_status am_tok_model_encode(const am_tokenizer *t, am_bpe_work *w, const char *s, size_t n)
{
    am_status st = AM_OK;
    uint32_t hash = 0;
    bool cached = n <= CACHE_PIECE_MAX;
    w->n = 0;
    if (n == 0) return AM_OK;
    if (cached) {
        hash = am_tok_hash(s, n);
        const struct cache_slot *e = cache_slot_of(w->cache, hash, s, n);
        for (uint32_t i = 0, start = 0; i < e->n && e->len > 0; i++) {
            AM_TRY(am_bpe_push_symbol(w, w->cache->id[e->ids + i], start, w->cache->end[e->ids + i]));
            start = w->cache->end[e->ids + i];
        }
        if (e->len > 0) return AM_OK;
    }
    AM_TRY(encode_anew(t, w, s, n));
    if (cached && starts_follow(w)) cache_put(w->cache, hash, s, n, w);
done:
    return st;
}
