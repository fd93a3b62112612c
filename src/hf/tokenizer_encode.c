/* tokenizer, text → ids.  Read am_tokenizer_encode from the bottom up: the raw text is cut at added tokens,
 * each stretch of text is normalised and cut at the added tokens that match there, the rest is split into
 * pieces, pieces become ids. */
#include "hf/tokenizer_internal.h"

#include <string.h>

am_status am_tok_scratch_create(const am_tokenizer *t, am_tok_scratch **out)
{
    am_status st = AM_OK;
    am_tok_scratch *s = NULL;
    *out = NULL;
    AM_TRY(am_calloc(1, sizeof *s, &s));
    s->t = t;
    AM_TRY(am_tok_matcher_init(&s->matcher));
    AM_TRY(am_bpe_work_init(&s->work));
    *out = s;
    s = NULL;
done:
    am_tok_scratch_free(&s);
    return st;
}

void am_tok_scratch_free(am_tok_scratch **p)
{
    am_tok_scratch *s = *p;
    if (s == NULL) return;
    am_tok_matcher_release(&s->matcher);
    am_bpe_work_release(&s->work);
    am_tok_text_release(&s->text[0]);
    am_tok_text_release(&s->text[1]);
    am_tok_text_release(&s->kept);
    am_free(&s->pieces.at);
    am_free(&s->next_pieces.at);
    am_free(&s->matches.at);
    am_free(&s->raw.at);
    am_free(&s->inner.at);
    am_free(&s->origin);
    am_str_release(&s->bytes);
    am_str_release(&s->shown);
    am_free(p);
}

void am_encoding_release(am_encoding *e)
{
    am_free(&e->ids);
    am_free(&e->start);
    am_free(&e->end);
    *e = (am_encoding){0};
}

static bool holds(const am_tok_text *t, const am_view *v)
{
    return t->s != NULL && v->s >= t->s && v->s <= t->s + t->s_cap;
}

am_tok_text *am_tok_scratch_other(am_tok_scratch *s, const am_view *v)
{
    am_tok_text *out = holds(&s->text[0], v) ? &s->text[1] : &s->text[0];
    out->n = 0;
    return out;
}

static am_status reserve_tokens(am_encoding *e, size_t n)
{
    am_status st = AM_OK;
    AM_TRY(am_grow(&e->ids, &e->id_cap, e->n + n, sizeof *e->ids));
    AM_TRY(am_grow(&e->start, &e->start_cap, e->n + n, sizeof *e->start));
    AM_TRY(am_grow(&e->end, &e->end_cap, e->n + n, sizeof *e->end));
done:
    return st;
}

static inline void put_token(am_encoding *e, uint32_t id, am_span at)
{
    e->ids[e->n] = id;
    e->start[e->n] = at.start;
    e->end[e->n++] = at.end;
}

static am_status push_token(am_encoding *e, uint32_t id, am_span at)
{
    am_status st = AM_OK;
    AM_TRY(reserve_tokens(e, 1));
    put_token(e, id, at);
done:
    return st;
}

/* ---- pieces ---- */

/* A piece spelled in ByteLevel's alphabet, back into bytes; origin[k] is the byte of the view behind raw byte
 * k. */
static am_status turn_back(am_tok_scratch *s, const am_view *v, am_span piece)
{
    am_status st = AM_OK;
    s->bytes.len = 0;
    for (uint32_t i = piece.start; i < piece.end;) {
        int32_t cp;
        size_t len = am_tok_utf8_get(v->s + i, &cp);
        char b = (char)am_tok_char_to_byte(cp);
        AM_TRY(am_grow(&s->origin, &s->origin_cap, s->bytes.len + 2, sizeof *s->origin));
        s->origin[s->bytes.len] = i;
        AM_TRY(am_str_append(&s->bytes, &b, 1));
        i += (uint32_t)len;
        s->origin[s->bytes.len] = i;
    }
done:
    return st;
}

/* ---- the shortest pieces ---- */

/* Up to 15 bytes as two words, their number in the topmost byte.  `room` bytes can be read at s. */
static inline void quick_key(const char *s, size_t n, size_t room, uint64_t key[2])
{
    key[0] = key[1] = 0;
    if (room >= 16) {
        memcpy(key, s, 16);
        if (n < 8) {
            key[0] &= (UINT64_C(1) << 8 * n) - 1;
            key[1] = 0;
        } else {
            key[1] &= (UINT64_C(1) << 8 * (n - 8)) - 1;
        }
    } else {
        memcpy(key, s, n);
    }
    key[1] |= (uint64_t)n << 56;
}

static inline struct am_quick *quick_slot(const am_bpe_work *w, const uint64_t key[2])
{
    uint64_t h = (key[0] ^ key[0] >> 32) * UINT64_C(0x9e3779b97f4a7c15) ^ (key[1] ^ key[1] >> 29) * UINT64_C(0xc2b2ae3d27d4eb4f);
    return &w->quick[(h ^ h >> 31) * UINT64_C(0x9e3779b97f4a7c15) >> 49];
}

static void quick_put(struct am_quick *q, const uint64_t key[2], const am_bpe_work *w)
{
    uint32_t start = 0;
    if (w->n > 3) return;
    for (size_t i = 0; i < w->n; start = w->sym[i++].end)
        if (w->sym[i].start != start) return;
    *q = (struct am_quick){.key = {key[0], key[1]}, .n = (uint8_t)w->n};
    for (size_t i = 0; i < w->n; i++) {
        q->id[i] = w->sym[i].id;
        q->end[i] = (uint8_t)w->sym[i].end;
    }
}

/* Bytes [i, j) of the view as am_tok_view_origin gives them. */
static inline am_span origin(const am_view *v, size_t i, size_t j)
{
    if (v->from != NULL) return (am_span){v->from[i], v->to[j - 1]};
    while (i > 0 && ((unsigned char)v->s[i] & 0xc0) == 0x80) i--;
    while (j < v->n && ((unsigned char)v->s[j] & 0xc0) == 0x80) j++;
    return (am_span){v->base + (uint32_t)i, v->base + (uint32_t)j};
}

static am_status encode_plain(const am_tokenizer *t, am_tok_scratch *s, const am_view *v, size_t start, size_t end,
                              am_encoding *out)
{
    am_status st = AM_OK;
    am_bpe_work *w = &s->work;
    size_t n = end - start;
    struct am_quick *q = NULL;
    uint64_t key[2];
    if (n <= AM_QUICK_BYTES) {
        quick_key(v->s + start, n, v->n - start, key);
        q = quick_slot(w, key);
        if (q->key[0] == key[0] && q->key[1] == key[1]) {
            AM_TRY(reserve_tokens(out, 3));
            for (size_t i = 0, at = start; i < q->n; i++) {
                put_token(out, q->id[i], origin(v, at, start + q->end[i]));
                at = start + q->end[i];
            }
            return AM_OK;
        }
    }
    AM_TRY(am_tok_model_encode(t, w, v->s + start, n));
    AM_TRY(reserve_tokens(out, w->n));
    for (size_t i = 0; i < w->n; i++) {
        size_t a = start + w->sym[i].start, b = start + w->sym[i].end;
        put_token(out, w->sym[i].id, b > a ? origin(v, a, b) : am_tok_view_origin(v, a, b));
    }
    if (q != NULL) quick_put(q, key, w);
done:
    return st;
}

/* The next place where no merge crosses: behind `i`, at most `end`.  Characters without a token are not cut off: unknown
 * neighbours may fuse, and what is dropped joins its neighbours. */
static size_t next_cut(const am_bpe *b, const char *s, size_t i, size_t end)
{
    int32_t last, cp;
    i += am_tok_utf8_get(s + i, &last);
    bool known = last < 0x10000 && b->bmp_id[last] != AM_NO_ID;
    while (i < end) {
        size_t len = am_tok_utf8_get(s + i, &cp);
        bool next_known = cp < 0x10000 && b->bmp_id[cp] != AM_NO_ID;
        uint32_t bit = am_crossing_bit(last, cp);
        if (known && next_known && (b->crossing[bit >> 6] >> (bit & 63) & 1) == 0) break;
        i += len;
        last = cp;
        known = next_known;
    }
    return i;
}

static am_status encode_turned(const am_tokenizer *t, am_tok_scratch *s, const am_view *v, am_span piece, am_encoding *out)
{
    am_status st = AM_OK;
    AM_TRY(turn_back(s, v, piece));
    AM_TRY(am_tok_model_encode(t, &s->work, s->bytes.s, s->bytes.len));
    for (size_t i = 0; i < s->work.n; i++) {
        const am_symbol *sym = &s->work.sym[i];
        AM_TRY(push_token(out, sym->id, am_tok_view_origin(v, s->origin[sym->start], s->origin[sym->end])));
    }
done:
    return st;
}

static am_status encode_piece(const am_tokenizer *t, am_tok_scratch *s, const am_view *v, am_span piece,
                              am_encoding *out)
{
    am_status st = AM_OK;
    if (t->bytes_written) return encode_turned(t, s, v, piece, out);
    if (t->model != AM_MODEL_BPE || t->bpe.bmp_id == NULL) return encode_plain(t, s, v, piece.start, piece.end, out);
    for (size_t i = piece.start, end; i < piece.end; i = end) {
        end = next_cut(&t->bpe, v->s, i, piece.end);
        AM_TRY(encode_plain(t, s, v, i, end, out));
    }
done:
    return st;
}

static am_status encode_text(const am_tokenizer *t, am_tok_scratch *s, am_view v, am_encoding *out)
{
    am_status st = AM_OK;
    AM_TRY(am_tok_split(t, s, &v));
    for (size_t i = 0; i < s->pieces.n; i++) {
        if (s->pieces.at[i].start < s->pieces.at[i].end) AM_TRY(encode_piece(t, s, &v, s->pieces.at[i], out));
    }
done:
    return st;
}

/* ---- added tokens ---- */

static am_status push_added(const am_tokenizer *t, int32_t token, am_span at, am_encoding *out)
{
    if (t->added[token].special) out->num_special++;
    return push_token(out, t->added[token].id, at);
}

/* One stretch of raw text: normalised, then cut at the added tokens that are matched in normalised text. */
static am_status encode_stretch(const am_tokenizer *t, am_tok_scratch *s, am_view v, int flags,
                                am_encoding *out)
{
    am_status st = AM_OK;
    bool skip_special = (flags & AM_ENCODE_SPECIAL_AS_TEXT) != 0;
    AM_TRY(am_tok_normalize(t, s, &v));
    s->inner.n = 0;
    AM_TRY(am_tok_added_find(t, &t->normalized, v.s, v.n, skip_special, &s->inner));
    for (int k = 0; k < 2; k++) { /* splitting may write both buffers: the normalised text steps aside */
        if (!holds(&s->text[k], &v)) continue;
        am_tok_text swap = s->text[k];
        s->text[k] = s->kept;
        s->kept = swap;
        break;
    }
    for (size_t i = 0; i < s->inner.n; i++) {
        am_segment seg = s->inner.at[i];
        if (seg.token >= 0)
            AM_TRY(push_added(t, seg.token, am_tok_view_origin(&v, seg.start, seg.end), out));
        else if ((flags & AM_ENCODE_COUNT_ONLY) == 0)
            AM_TRY(encode_text(t, s, am_tok_view_sub(&v, seg.start, seg.end), out));
    }
done:
    return st;
}

/* ---- post-processor ---- */

static bool is_blank(const char *s)
{
    int32_t cp;
    am_tok_utf8_get(s, &cp);
    return cp == 0x120 /* Ġ */ || am_tok_is_white_space(cp);
}

static bool is_inside(const char *text, size_t i)
{
    return ((unsigned char)text[i] & 0xc0) == 0x80;
}

/* Blank characters at the ends of a token's spelling. */
static void count_blanks(const char *name, size_t *leading, size_t *trailing)
{
    size_t n = strlen(name);
    *leading = *trailing = 0;
    for (size_t k = 0; k < n && is_blank(name + k); k += am_tok_utf8_len((unsigned char)name[k])) ++*leading;
    while (n > 0) {
        do n--;
        while (n > 0 && is_inside(name, n));
        if (!is_blank(name + n)) break;
        ++*trailing;
    }
}

/* White space at the ends of tokens leaves their offsets (ByteLevel's trim_offsets), character by character
 * of the text, as the library counts it. */
static void trim_offsets(const am_tokenizer *t, am_encoding *e, size_t first, const char *text)
{
    for (size_t i = first; i < e->n; i++) {
        size_t leading, trailing;
        const char *name = am_tokenizer_token(t, e->ids[i]);
        if (name == NULL) continue;
        count_blanks(name, &leading, &trailing);
        if (leading == 1 && t->trim_prefix_space && (i == first || e->start[i] == 0)) leading = 0;
        for (; leading > 0 && e->start[i] < e->end[i]; leading--) {
            do e->start[i]++;
            while (e->start[i] < e->end[i] && is_inside(text, e->start[i]));
        }
        for (; trailing > 0 && e->end[i] > e->start[i]; trailing--) {
            do e->end[i]--;
            while (e->end[i] > e->start[i] && is_inside(text, e->end[i]));
        }
    }
}

am_status am_tokenizer_encode(const am_tokenizer *t, am_tok_scratch *s, const char *text, size_t n, int flags,
                              am_encoding *out)
{
    am_status st = AM_OK;
    bool skip_special = (flags & AM_ENCODE_SPECIAL_AS_TEXT) != 0, add = (flags & AM_ENCODE_ADD_SPECIAL) != 0;
    am_view whole = {.s = text, .n = n};
    out->n = out->num_special = 0;
    AM_ASSERT(s->t == t);
    AM_CHECK(n < INT32_MAX, AM_ERR_DATA, "a text of %zu bytes: at most 2 GiB can be tokenised at once", n);
    size_t valid = am_tok_utf8_valid_prefix(text, n);
    AM_CHECK(valid == n, AM_ERR_DATA, "the text is not UTF-8: byte %zu (0x%02x)", valid,
             (unsigned char)text[valid]);
    for (size_t i = 0; add && i < t->num_prefix; i++) AM_TRY(push_token(out, t->prefix[i], (am_span){0, 0}));
    size_t prefix = out->n;
    s->raw.n = 0;
    AM_TRY(am_tok_added_find(t, &t->raw, text, n, skip_special, &s->raw));
    for (size_t i = 0; i < s->raw.n; i++) {
        am_segment seg = s->raw.at[i];
        if (seg.token >= 0)
            AM_TRY(push_added(t, seg.token, (am_span){seg.start, seg.end}, out));
        else
            AM_TRY(encode_stretch(t, s, am_tok_view_sub(&whole, seg.start, seg.end), flags, out));
    }
    if (t->trim_offsets) trim_offsets(t, out, prefix, text);
    for (size_t i = 0; add && i < t->num_suffix; i++) AM_TRY(push_token(out, t->suffix[i], (am_span){0, 0}));
done:
    return st;
}
