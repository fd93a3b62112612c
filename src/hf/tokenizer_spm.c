/* tokenizer, tokenizer.model of SentencePiece (Kudo and Richardson 2018): a protobuf message, read field by field.
 *   ModelProto      1 pieces {1 piece, 2 score (f32), 3 type}   2 TrainerSpec {3 model_type, 24 suffix, 35 byte_fallback}
 *                   3 NormalizerSpec {2 precompiled_charsmap, 3 add_dummy_prefix, 4 remove_extra_whitespaces}
 *   piece types     1 normal  2 unknown  3 control  4 user defined  5 unused  6 byte
 * BPE merges whatever two neighbours make a piece, the highest score first: as merges, every split of a piece into two
 * pieces, with one rank for equal scores.  Control pieces are added tokens, found in text as Hugging Face's conversions
 * find them (AM_ENCODE_SPECIAL_AS_TEXT leaves them text, which is SentencePiece's own way). */
#include "hf/tokenizer_internal.h"

#include "hf/hf.h"

#include <math.h>
#include <stdlib.h>

enum { PIECE_NORMAL = 1, PIECE_UNKNOWN, PIECE_CONTROL, PIECE_USER, PIECE_UNUSED, PIECE_BYTE };
enum { MODEL_UNIGRAM = 1, MODEL_BPE = 2 };
#define MARK "\xe2\x96\x81" /* ▁ */

typedef struct wire {
    const unsigned char *p, *end;
} wire;

typedef struct field {
    uint32_t number, type; /* 0 varint, 1 64 bits, 2 bytes, 5 32 bits */
    uint64_t value;        /* types 0, 1 and 5 */
    wire     bytes;        /* type 2 */
} field;

typedef struct piece {
    const char *s;
    size_t      n;
    float       score;
    int         type;
} piece;

typedef struct spm {
    am_tokenizer *t;
    piece        *piece;
    size_t        n, cap;
    int           model;
    bool          byte_fallback, suffix, dummy, extra;
    const char   *charsmap;
    size_t        charsmap_len;
} spm;

/* ---- protobuf ---- */

static bool varint(wire *w, uint64_t *out)
{
    *out = 0;
    for (int shift = 0; shift < 64 && w->p < w->end; shift += 7) {
        unsigned char c = *w->p++;
        *out |= (uint64_t)(c & 0x7f) << shift;
        if (c < 0x80) return true;
    }
    return false;
}

/* The next field; false at the end (*bad: because it is broken). */
static bool next_field(wire *w, field *f, bool *bad)
{
    uint64_t key, n = 0;
    if (w->p >= w->end) return false;
    *bad = true;
    if (!varint(w, &key) || key >> 3 == 0 || key >> 3 > 0x1fffffff) return false;
    f->number = (uint32_t)(key >> 3);
    f->type = (uint32_t)(key & 7);
    if (f->type == 0) {
        if (!varint(w, &f->value)) return false;
    } else if (f->type == 2) {
        if (!varint(w, &n) || n > (uint64_t)(w->end - w->p)) return false;
        f->bytes = (wire){w->p, w->p + n};
        w->p += n;
    } else if (f->type == 1 || f->type == 5) {
        n = f->type == 1 ? 8 : 4;
        if (n > (uint64_t)(w->end - w->p)) return false;
        f->value = 0;
        memcpy(&f->value, w->p, n);
        w->p += n;
    } else {
        return false;
    }
    *bad = false;
    return true;
}

static am_status read_piece(spm *m, wire w)
{
    am_status st = AM_OK;
    bool bad = false;
    field f;
    piece p = {.s = "", .type = PIECE_NORMAL};
    while (next_field(&w, &f, &bad)) {
        if (f.number == 1 && f.type == 2) {
            p.s = (const char *)f.bytes.p;
            p.n = (size_t)(f.bytes.end - f.bytes.p);
        } else if (f.number == 2 && f.type == 5) {
            uint32_t bits = (uint32_t)f.value;
            memcpy(&p.score, &bits, 4);
        } else if (f.number == 3 && f.type == 0) {
            p.type = (int)f.value;
        }
    }
    AM_CHECK(!bad, AM_ERR_MODEL, "%s: piece %zu is broken", m->t->path, m->n);
    AM_CHECK(p.n > 0 && p.n < 1024 && memchr(p.s, 0, p.n) == NULL && am_tok_utf8_valid_prefix(p.s, p.n) == p.n, AM_ERR_MODEL,
             "%s: piece %zu is empty, too long or not UTF-8", m->t->path, m->n);
    AM_CHECK(p.score == p.score, AM_ERR_MODEL, "%s: piece %zu has a score that is not a number", m->t->path, m->n);
    AM_TRY(am_grow(&m->piece, &m->cap, m->n + 1, sizeof *m->piece));
    m->piece[m->n++] = p;
done:
    return st;
}

static void read_specs(spm *m, uint32_t which, wire w, bool *bad)
{
    field f;
    while (next_field(&w, &f, bad)) {
        if (which == 2 && f.type == 0) {
            if (f.number == 3) m->model = (int)f.value;
            if (f.number == 24) m->suffix = f.value != 0;
            if (f.number == 35) m->byte_fallback = f.value != 0;
        } else if (which == 3 && f.number == 2 && f.type == 2) {
            m->charsmap = (const char *)f.bytes.p;
            m->charsmap_len = (size_t)(f.bytes.end - f.bytes.p);
        } else if (which == 3 && f.type == 0) {
            if (f.number == 3) m->dummy = f.value != 0;
            if (f.number == 4) m->extra = f.value != 0;
        }
    }
}

static am_status read_model(spm *m, const char *data, size_t n)
{
    am_status st = AM_OK;
    wire w = {(const unsigned char *)data, (const unsigned char *)data + n};
    bool bad = false;
    field f;
    while (next_field(&w, &f, &bad)) {
        if (f.type != 2) continue;
        if (f.number == 1) AM_TRY(read_piece(m, f.bytes));
        if (f.number == 2 || f.number == 3) read_specs(m, f.number, f.bytes, &bad);
        if (bad) break;
    }
    AM_CHECK(!bad, AM_ERR_MODEL, "%s: not a SentencePiece model, or cut short (byte %zu)", m->t->path,
             (size_t)((const char *)w.p - data));
    AM_CHECK(m->n > 0, AM_ERR_MODEL, "%s: a SentencePiece model without pieces", m->t->path);
    AM_CHECK(m->model == MODEL_UNIGRAM || m->model == MODEL_BPE, AM_ERR_MODEL,
             "%s: SentencePiece's model type %d is not supported (supported: 1 Unigram, 2 BPE)", m->t->path, m->model);
    AM_CHECK(!m->suffix, AM_ERR_MODEL, "%s: treat_whitespace_as_suffix is not supported", m->t->path);
done:
    return st;
}

/* ---- into tables ---- */

static int by_score(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return (x < y) - (x > y);
}

/* Rank of a score: how many greater ones there are. */
static uint32_t rank_of(const float *scores, size_t n, float score)
{
    size_t low = 0, high = n;
    while (low < high) {
        size_t mid = (low + high) / 2;
        if (scores[mid] > score) low = mid + 1;
        else high = mid;
    }
    return (uint32_t)low;
}

static bool merges(const spm *m, uint32_t id) { return id != AM_NO_ID && m->piece[id].type == PIECE_NORMAL; }

static am_status add_merges(spm *m)
{
    am_status st = AM_OK;
    am_bpe *b = &m->t->bpe;
    float *scores = NULL;
    AM_TRY(am_calloc(m->n, sizeof *scores, &scores));
    for (size_t i = 0; i < m->n; i++) scores[i] = m->piece[i].score;
    qsort(scores, m->n, sizeof *scores, by_score);
    for (size_t i = 0; i < m->n; i++) {
        const piece *p = &m->piece[i];
        AM_CHECK(p->type != PIECE_UNUSED, AM_ERR_MODEL,
                 "%s: piece %zu is marked unused; BPE models with unused pieces are not supported", m->t->path, i);
        if (p->type != PIECE_NORMAL) continue;
        for (size_t k = am_tok_utf8_len((unsigned char)p->s[0]); k < p->n; k += am_tok_utf8_len((unsigned char)p->s[k])) {
            uint32_t left = am_bpe_name_id(b, p->s, k), right = am_bpe_name_id(b, p->s + k, p->n - k);
            if (!merges(m, left) || !merges(m, right)) continue;
            AM_TRY(am_bpe_put_merge(b, left, right, rank_of(scores, m->n, p->score), (uint32_t)i));
            am_bpe_mark_crossing(b, p->s, k, p->s + k);
        }
    }
done:
    am_free(&scores);
    return st;
}

static am_status add_pieces(spm *m)
{
    am_status st = AM_OK;
    am_bpe *b = &m->t->bpe;
    am_unigram *u = &m->t->unigram;
    b->unk_id = AM_NO_ID;
    for (size_t i = 0; i < m->n; i++) {
        const piece *p = &m->piece[i];
        AM_TRY(am_bpe_put_token(b, p->s, p->n, (uint32_t)i));
        if (p->type == PIECE_UNKNOWN) b->unk_id = (uint32_t)i;
        AM_TRY(am_grow(&u->score, &u->score_cap, i + 1, sizeof *u->score));
        bool found = p->type == PIECE_NORMAL || p->type == PIECE_USER; /* the others are no part of the search */
        u->score[i] = found ? (double)p->score : (double)-INFINITY;
        u->num_scores = i + 1;
    }
    b->has_unk = b->unk_id != AM_NO_ID;
    b->fuse_unk = true;
    b->byte_fallback = m->byte_fallback;
    m->t->model = m->model == MODEL_BPE ? AM_MODEL_BPE : AM_MODEL_UNIGRAM;
    if (m->model == MODEL_BPE) AM_TRY(add_merges(m));
    else AM_TRY(am_unigram_build(u, b));
    if (m->model == MODEL_UNIGRAM) { /* the unknown character's score counts from the pieces' own */
        u->float_sums = true;
        u->min_score = 0;
        for (size_t i = 0; i < m->n; i++)
            if (m->piece[i].type == PIECE_NORMAL && m->piece[i].score < u->min_score) u->min_score = m->piece[i].score;
    }
    AM_TRY(am_bpe_finish(b, m->t->path));
done:
    return st;
}

/* Control and user-defined pieces as added tokens; the latter are matched in normalised text. */
static am_status add_symbols(spm *m)
{
    am_status st = AM_OK;
    for (size_t i = 0; i < m->n; i++) {
        const piece *p = &m->piece[i];
        if (p->type != PIECE_CONTROL && p->type != PIECE_USER && p->type != PIECE_UNKNOWN) continue;
        AM_TRY(am_tok_add_added(m->t, p->s, p->n, (uint32_t)i, p->type != PIECE_USER, p->type == PIECE_USER));
    }
done:
    return st;
}

static am_status add_steps(spm *m)
{
    static const char decoder[] =
        "{\"type\":\"Sequence\",\"decoders\":[{\"type\":\"Replace\",\"pattern\":{\"String\":\"" MARK "\"},\"content\":\" \"},"
        "{\"type\":\"ByteFallback\"},{\"type\":\"Fuse\"},{\"type\":\"Strip\",\"content\":\" \",\"start\":%d,\"stop\":0}]}";
    am_status st = AM_OK;
    am_norm *norm = NULL;
    am_str text = {0};
    json_t *j = NULL;
    AM_TRY(am_tok_add_norm(m->t, AM_NORM_SPM, &norm));
    norm->left = m->dummy;
    norm->right = m->extra;
    if (m->charsmap_len > 0) AM_TRY(am_tok_charsmap_load(m->charsmap, m->charsmap_len, m->t->path, &norm->charsmap));
    AM_TRY(am_str_printf(&text, decoder, m->dummy));
    AM_TRY(am_json_parse(text.s, text.len, m->t->path, &j));
    AM_TRY(am_tok_load_decoder(m->t, j));
done:
    json_decref(j);
    am_str_release(&text);
    return st;
}

am_status am_tok_load_spm(am_tokenizer *t, const char *data, size_t n)
{
    am_status st = AM_OK;
    spm m = {.t = t, .model = MODEL_UNIGRAM, .dummy = true, .extra = true};
    AM_TRY(read_model(&m, data, n));
    AM_TRY(add_pieces(&m));
    AM_TRY(add_symbols(&m));
    AM_TRY(add_steps(&m));
    t->adds_bos = m.model == MODEL_BPE;
done:
    am_free(&m.piece);
    return st;
}

/* ---- the normaliser: left is add_dummy_prefix, right is remove_extra_whitespaces ---- */

typedef struct prefix {
    const char *with;
    size_t      n, taken;
} prefix;

/* What the start of v[i…] becomes: a user-defined symbol stays, else the longest entry of the table, else the character. */
static prefix next_prefix(const am_norm *norm, const am_tokenizer *t, const am_view *v, size_t i)
{
    prefix p = {.with = v->s + i};
    p.taken = am_tok_trie_longest(t, &t->normalized, v->s + i, v->n - i);
    p.n = p.taken;
    if (p.taken > 0) return p;
    const char *with = norm->charsmap.unit == NULL
                           ? NULL : am_tok_charsmap_find(&norm->charsmap, v->s + i, v->n - i, true, &p.n, &p.taken);
    if (with != NULL) p.with = with;
    else p.n = p.taken = am_tok_utf8_len((unsigned char)v->s[i]);
    return p;
}

static am_status push_prefix(am_tok_text *out, const am_view *v, size_t i, const prefix *p, size_t skip)
{
    am_status st = AM_OK;
    am_span o = am_tok_view_origin(v, i, i + p->taken);
    for (size_t k = skip; k < p->n;) {
        size_t len = am_tok_utf8_len((unsigned char)p->with[k]);
        if (p->with[k] == ' ') AM_TRY(am_tok_text_push(out, MARK, 3, o.start, o.end));
        else AM_TRY(am_tok_text_push(out, p->with + k, len, o.start, o.end));
        k += len;
    }
done:
    return st;
}

am_status am_tok_normalize_spm(const am_norm *norm, am_tok_scratch *s, am_view *v)
{
    am_status st = AM_OK;
    am_tok_text *out = am_tok_scratch_other(s, v);
    size_t i = 0;
    bool before = norm->right; /* the character before was a blank */
    for (prefix p; norm->right && i < v->n; i += p.taken) {
        p = next_prefix(norm, s->t, v, i);
        if (p.n != 1 || p.with[0] != ' ') break;
    }
    if (i < v->n && norm->left) {
        am_span o = am_tok_view_origin(v, i, i + am_tok_utf8_len((unsigned char)v->s[i]));
        AM_TRY(am_tok_text_push(out, MARK, 3, o.start, o.end));
    }
    while (i < v->n) {
        prefix p = next_prefix(norm, s->t, v, i);
        size_t skip = 0;
        while (before && skip < p.n && p.with[skip] == ' ') skip++;
        AM_TRY(push_prefix(out, v, i, &p, skip));
        if (skip < p.n) before = norm->right && p.with[p.n - 1] == ' ';
        i += p.taken;
    }
    while (norm->right && out->n >= 3 && memcmp(out->s + out->n - 3, MARK, 3) == 0) out->n -= 3;
    AM_TRY(am_grow(&out->s, &out->s_cap, 1, 1)); /* an empty text is a text */
    *v = am_tok_view_of(out);
done:
    return st;
}
