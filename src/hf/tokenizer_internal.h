/* Private to the tokenizer: its parts in the order in which a text passes through them.
 *
 *   added (raw) → normalise → added (normalised) → split into pieces → BPE of a piece → post-processor
 *
 * A text on its way is an am_view: bytes and, for every byte, where it came from in the caller's text.  As long as
 * nothing has rewritten it, from == NULL and byte i is byte base + i of the original; steps that rewrite fill one of two
 * am_tok_text buffers of the scratch and the view then borrows from it. */
#ifndef AM_HF_TOKENIZER_INTERNAL_H
#define AM_HF_TOKENIZER_INTERNAL_H

#define PCRE2_CODE_UNIT_WIDTH 8
#include "hf/tokenizer.h"
#include "hf/tokenizer_scan.h"

#include <jansson.h>
#include <pcre2.h>
#include <string.h>

typedef struct am_view {
    const char     *s;
    size_t          n;
    const uint32_t *from, *to; /* per byte: [from, to) of its character in the original; NULL: identity */
    uint32_t        base;
} am_view;

typedef struct am_tok_text {
    char     *s;
    uint32_t *from, *to;
    size_t    n, s_cap, from_cap, to_cap;
} am_tok_text;

typedef struct am_span {
    uint32_t start, end;
} am_span;

typedef struct am_spans {
    am_span *at;
    size_t   n, cap;
} am_spans;

/** Large memory that is about to be written all over: have its pages now, together, not one fault at a time. */
void      am_tok_touch(void *p, size_t n);
/** n bytes for a table that is read all over: in large pages where the system has them.  am_free.  @param zeroed as by calloc. */
am_status am_tok_table_alloc(size_t n, bool zeroed, void *ptr_ptr) AM_WARN_UNUSED;
am_status am_tok_text_push(am_tok_text *t, const char *s, size_t n, uint32_t from, uint32_t to) AM_WARN_UNUSED;
/** Bytes [i, end) of the view, whole characters, with their origins. */
am_status am_tok_text_copy(am_tok_text *t, const am_view *v, size_t i, size_t end) AM_WARN_UNUSED;
void      am_tok_text_release(am_tok_text *t);
am_status am_tok_spans_push(am_spans *v, size_t start, size_t end) AM_WARN_UNUSED;
/** Bytes [i, j) of the view as [from, to) of the original, widened to characters. */
am_span am_tok_view_origin(const am_view *v, size_t i, size_t j);
am_view am_tok_view_sub(const am_view *v, size_t i, size_t j);
am_view am_tok_view_of(const am_tok_text *t);
/** Bytes of the character that starts with byte c (valid UTF-8). */
static inline size_t am_tok_utf8_len(unsigned char c) { return c < 0x80 ? 1 : c < 0xe0 ? 2 : c < 0xf0 ? 3 : 4; }
/** Decode the character at s (valid UTF-8); returns its bytes. */
size_t am_tok_utf8_get(const char *s, int32_t *cp);
size_t am_tok_utf8_put(int32_t cp, char out[4]);
/** Bytes of the valid UTF-8 at the start of s: n if all is valid. */
size_t am_tok_utf8_valid_prefix(const char *s, size_t n);
bool   am_tok_is_white_space(int32_t cp); /* Unicode White_Space */
bool   am_tok_is_word(int32_t cp);        /* \w of Unicode TS 18 */

/* ---- regexes: Oniguruma's syntax run by PCRE2 --------------------------------------------------------------------- */

typedef struct am_tok_pattern am_tok_pattern; /* tokenizer_pattern.c: a regex as a table */

typedef struct am_tok_regex {
    pcre2_code     *code;
    am_tok_pattern *pattern; /* the same as a table, NULL: the regex has more to it */
    char           *literal; /* a plain text; NULL: a regex */
    size_t          literal_len;
} am_tok_regex;

/** @param pattern in Oniguruma's syntax.  @param[out] out NULL when the pattern is none of the kind that tables can run. */
am_status am_tok_pattern_compile(const char *pattern, size_t n, am_tok_pattern **out) AM_WARN_UNUSED;
void      am_tok_pattern_free(am_tok_pattern **p);
/** Bytes of the match at s, 0 for none.  n > 0; s is the character as it is (no stand-ins). */
size_t am_tok_pattern_match(const am_tok_pattern *p, const char *s, size_t n);
/** General category (utf8proc's numbers) as of Unicode 16; 30 for control characters that are white space. */
uint8_t am_tok_kind(int32_t cp);
enum { AM_KIND_WHITE = 30 };
/** Marks and controls that the library, whose tables are older, does not take for such. */
typedef enum am_tok_keeper { AM_KEPT_BY_STRIP_ACCENTS, AM_KEPT_BY_BERT, AM_KEPT_BY_CLEAN } am_tok_keeper;
bool am_tok_kept_by(am_tok_keeper who, int32_t cp);
/** What stands for a character that is newer than PCRE2's tables; 0: it is not. */
int32_t am_tok_stand_in(int32_t cp);
bool    am_tok_stand_in_range(size_t i, int32_t *first, int32_t *last, int32_t *stand_in);

typedef struct am_tok_matcher { /* one per scratch */
    pcre2_match_data    *data;
    pcre2_match_context *context;
    pcre2_jit_stack     *stack;
    bool                 engine_only; /* tables are left aside: tests compare the two */
} am_tok_matcher;

am_status am_tok_matcher_init(am_tok_matcher *m) AM_WARN_UNUSED;
void      am_tok_matcher_release(am_tok_matcher *m);
/** The pattern in PCRE2's syntax; refuses with a sentence what has no equal there. */
am_status am_tok_regex_translate(const char *onig, size_t n, const char *where, am_str *out) AM_WARN_UNUSED;
/** @param literal the pattern is plain text.  @param where file and key for errors. */
am_status am_tok_regex_compile(const char *pattern, size_t n, bool literal, const char *where,
                               am_tok_regex *out) AM_WARN_UNUSED;
void      am_tok_regex_release(am_tok_regex *re);
am_status am_tok_regex_find_by_engine(const am_tok_regex *re, am_tok_matcher *m, const char *s, size_t n,
                                      am_spans *out) AM_WARN_UNUSED;
/** All matches in s, left to right, as find_iter gives them (appended to *out). */
am_status am_tok_regex_find_all(const am_tok_regex *re, am_tok_matcher *m, const char *s, size_t n,
                                am_spans *out) AM_WARN_UNUSED;

/** The text as the regexes are to see it: s itself, or a copy with stand-ins for characters newer than their tables. */
am_status am_tok_stand_ins(const char *s, size_t n, am_str *copy, const char **out) AM_WARN_UNUSED;

/* A flag of am_tokenizer_encode for this module alone: only added tokens are looked for (num_special), nothing is encoded. */
#define AM_ENCODE_COUNT_ONLY 0x100

/* ---- steps of the file, as flat lists (Sequences opened) ------------------------------------------------------------ */

typedef enum am_norm_kind {
    AM_NORM_UNICODE, AM_NORM_LOWERCASE, AM_NORM_STRIP, AM_NORM_REPLACE, AM_NORM_PREPEND,
    AM_NORM_MAP,   /* character by character: Nmt, StripAccents, BertNormalizer's clean_text and strip_accents */
    AM_NORM_CJK,   /* BertNormalizer: blanks around ideographs */
    AM_NORM_BYTES, /* ByteLevel's alphabet */
    AM_NORM_PRECOMPILED,
    AM_NORM_SPM    /* SentencePiece's own way with white space (tokenizer.model) */
} am_norm_kind;

typedef struct am_charsmap { /* Precompiled: tokenizer_precompiled.c */
    uint32_t *unit;
    size_t    num_units;
    char     *text;
    size_t    text_len;
} am_charsmap;

am_status am_tok_base64(const char *text, size_t n, am_str *out) AM_WARN_UNUSED;
am_status am_tok_charsmap_load(const char *data, size_t n, const char *where, am_charsmap *out) AM_WARN_UNUSED;
void      am_tok_charsmap_release(am_charsmap *m);
/** The replacement of the shortest or longest prefix of s[0, n) that the table has; NULL: none.  @param[out] taken  bytes of that prefix. */
const char *am_tok_charsmap_find(const am_charsmap *m, const char *s, size_t n, bool longest, size_t *len, size_t *taken);
am_status am_tok_normalize_precompiled(const am_charsmap *m, am_tok_scratch *s, am_view *v) AM_WARN_UNUSED;

typedef struct am_norm {
    am_norm_kind kind;
    int          unicode_flags; /* utf8proc's */
    int32_t    (*map)(int32_t cp); /* −1: the character goes */
    am_charsmap  charsmap;
    bool         left, right;   /* Strip */
    am_tok_regex re;            /* Replace */
    char        *content;       /* Replace, Prepend */
    size_t       content_len;
} am_norm;

typedef enum am_split_behaviour {
    AM_SPLIT_REMOVED, AM_SPLIT_ISOLATED, AM_SPLIT_WITH_PREVIOUS, AM_SPLIT_WITH_NEXT, AM_SPLIT_CONTIGUOUS
} am_split_behaviour;

typedef enum am_pre_kind {
    AM_PRE_SPLIT,
    AM_PRE_PREFIX_SPACE, /* ByteLevel's add_prefix_space */
    AM_PRE_BYTES,        /* ByteLevel's alphabet, written out because another step looks at it afterwards */
    AM_PRE_METASPACE
} am_pre_kind;

typedef enum am_prepend { AM_PREPEND_ALWAYS, AM_PREPEND_FIRST, AM_PREPEND_NEVER } am_prepend;

typedef struct am_pre {
    am_pre_kind        kind;
    am_tok_regex       re;
    am_split_behaviour behaviour;
    bool               invert;
    char               content[8]; /* Metaspace: the replacement */
    am_prepend         prepend;
} am_pre;

typedef enum am_dec_kind {
    AM_DEC_BYTE_LEVEL, AM_DEC_BYTE_FALLBACK, AM_DEC_FUSE, AM_DEC_STRIP, AM_DEC_REPLACE, AM_DEC_METASPACE, AM_DEC_WORDPIECE,
    AM_DEC_BPE
} am_dec_kind;

typedef struct am_dec {
    am_dec_kind  kind;
    am_tok_regex re;      /* Replace */
    char        *content; /* Replace, Strip, Metaspace; WordPiece: prefix; BPEDecoder: suffix */
    size_t       content_len;
    int64_t      left, right; /* Strip */
    bool         drop_first;  /* Metaspace: the first token loses its marks */
    bool         cleanup;     /* WordPiece */
} am_dec;

/* ---- BPE ------------------------------------------------------------------------------------------------------------ */

#define AM_NO_ID UINT32_MAX

typedef struct am_map_slot {
    uint64_t tag;   /* am_name_tag of the key: up to 7 bytes are their own tag */
    uint32_t entry; /* index of an entry + 1; 0 empty */
    uint32_t id;
} am_map_slot;

typedef struct am_bytes_map { /* bytes → id; open addressing; keys lie in the arena of am_bpe */
    am_map_slot *slot;
    size_t       mask;
    int          shift; /* 64 − log2 of the number of slots */
    struct am_bytes_entry {
        uint32_t off, len, id;
    }     *entry;
    size_t n, cap;
} am_bytes_map;

typedef struct am_pair {
    uint64_t key; /* am_pair_key; 0 empty */
    uint64_t val; /* rank << 32 | merged id */
} am_pair;

enum { AM_QUICK_SLOTS = 1 << 15, AM_QUICK_BYTES = 15 };
enum { AM_SEEN_BITS = 21, AM_CROSSING_BITS = 18, AM_MERGE_BATCH = 64 };

typedef struct am_bpe {
    char        *arena;
    size_t       arena_len, arena_cap;
    am_bytes_map names;  /* tokens as spelled in the file */
    am_bytes_map pieces; /* tokens as raw bytes (those made of the byte alphabet alone): where am_bpe_index_pieces was called */
    struct am_byte_name {
        char    s[4];
        uint8_t n;
    }            byte_name[256]; /* the alphabet, spelled */
    size_t       longest_name;   /* bytes; 0: pieces are not looked up by their spelling */
    bool         byte_mode;
    am_pair     *pair; /* open addressing */
    size_t       pair_mask, num_pairs;
    int          pair_shift;
    uint32_t     max_rank;
    uint64_t     pair_seen[1 << (AM_SEEN_BITS - 6)]; /* by am_pair_seen_bit: most pairs that are asked for do not exist */
    uint64_t    *byte_pair; /* byte mode: [256 left bytes][256 right] (rank << 32 | merged id) of two bytes' tokens; NULL: see am_bpe_index_bytes */
    uint64_t     crossing[1 << (AM_CROSSING_BITS - 6)]; /* pairs of characters that some merge joins, by am_crossing_bit */
    uint32_t     byte_id[256];     /* byte mode: the byte's token; char mode: ASCII characters' */
    uint32_t     fallback_id[256]; /* "<0xHH>" */
    uint32_t    *bmp_id;           /* char mode: [65536] tokens that are one character; NULL in byte mode */
    bool         ignore_merges, byte_fallback, fuse_unk, has_unk;
    uint32_t     unk_id;
    char        *prefix, *suffix; /* continuing_subword_prefix, end_of_word_suffix; NULL: none */
    size_t       prefix_len, suffix_len;
} am_bpe;

typedef struct am_symbol {
    uint32_t id, start, end; /* bytes of the piece */
    int32_t  prev, next;     /* −1: none */
} am_symbol;

typedef struct am_merge {
    uint32_t rank, pos, id;
} am_merge;

typedef struct am_best { /* Unigram: the best way to a place */
    double   score;
    uint32_t start, id; /* id AM_NO_ID: an unknown character; start UINT32_MAX: no way yet */
} am_best;

typedef struct am_bpe_work { /* per scratch */
    am_symbol *sym;
    size_t     n, cap; /* after am_bpe_encode: n symbols, in order */
    am_merge  *heap;
    size_t     heap_n, heap_cap;
    am_best   *best; /* Unigram */
    size_t     best_cap;
    am_str     text; /* WordPiece: prefix and rest */
    struct am_piece_cache *cache;
    struct am_quick {
        uint64_t key[2]; /* up to 15 bytes, the number of them in the topmost; 0: empty */
        uint32_t id[3];
        uint8_t  n, end[3];
    }         *quick; /* [AM_QUICK_SLOTS], by hash of the key; the newcomer takes the place */
} am_bpe_work;

/* Merges on their way into the tables, whose lookups are made together so that memory is fetched ahead. */
typedef struct am_merge_batch {
    struct am_merge_text {
        const char *left, *right; /* 8 bytes behind their ends can be read */
        uint32_t    na, nb;
        uint64_t    tag[2];
    }      at[AM_MERGE_BATCH];
    size_t n, first; /* rank of at[0] */
    size_t guess;    /* entry of the last merge's result: merges stand in the order of what they make */
    am_str joined;
} am_merge_batch;

static inline uint64_t am_pair_key(uint32_t left, uint32_t right) { return ((uint64_t)left << 32 | right) + 1; }
static inline size_t   am_pair_home(const am_bpe *b, uint64_t key)
{
    return (size_t)((key ^ key >> 29) * UINT64_C(0x9e3779b97f4a7c15) >> b->pair_shift);
}
static inline size_t am_pair_seen_bit(uint64_t key)
{
    return (size_t)((key ^ key >> 29) * UINT64_C(0x9e3779b97f4a7c15) >> (64 - AM_SEEN_BITS));
}
static inline uint32_t am_crossing_bit(int32_t last, int32_t first)
{
    return ((uint32_t)last * 0x9e3779b1u ^ (uint32_t)first * 0x85ebca6bu) >> (32 - AM_CROSSING_BITS);
}
/** n bytes at s, hashed; reads nothing beyond them. */
static inline uint64_t am_tok_hash64(const char *s, size_t n)
{
    uint64_t a = 0, b = 0, h = n * UINT64_C(0x9fb21c651e98df25);
    for (; n > 16; s += 16, n -= 16) {
        memcpy(&a, s, 8);
        memcpy(&b, s + 8, 8);
        h = (h ^ a) * UINT64_C(0x9e3779b97f4a7c15);
        h = (h ^ h >> 32 ^ b) * UINT64_C(0xc2b2ae3d27d4eb4f);
    }
    if (n >= 8) {
        memcpy(&a, s, 8);
        memcpy(&b, s + n - 8, 8);
    } else if (n >= 4) {
        uint32_t x, y;
        memcpy(&x, s, 4);
        memcpy(&y, s + n - 4, 4);
        a = x;
        b = y;
    } else if (n > 0) {
        a = (uint64_t)(unsigned char)s[0] << 16 | (uint64_t)(unsigned char)s[n / 2] << 8 | (unsigned char)s[n - 1];
        b = 0;
    }
    h = (h ^ a) * UINT64_C(0x9e3779b97f4a7c15);
    return (h ^ h >> 32 ^ b) * UINT64_C(0xc2b2ae3d27d4eb4f);
}
static inline uint32_t am_tok_hash(const char *s, size_t n)
{
    uint64_t h = am_tok_hash64(s, n);
    return (uint32_t)(h >> 32) ^ (uint32_t)h;
}

enum { AM_TAG_BYTES = 7 };
/** Up to 7 bytes with their number in the topmost byte, which no other name shares; else a hash whose topmost bit is set. */
static inline uint64_t am_name_tag(const char *s, size_t n)
{
    uint64_t tag = 0;
    if (n > AM_TAG_BYTES) return am_tok_hash64(s, n) | UINT64_C(1) << 63;
    for (size_t i = 0; i < n; i++) tag |= (uint64_t)(unsigned char)s[i] << 8 * i;
    return tag | (uint64_t)n << 56;
}
/** The same where 8 bytes behind the name can be read. */
static inline uint64_t am_name_tag_padded(const char *s, size_t n)
{
    uint64_t tag;
    if (n > AM_TAG_BYTES) return am_tok_hash64(s, n) | UINT64_C(1) << 63;
    memcpy(&tag, s, 8);
    return (tag & ((UINT64_C(1) << 8 * n) - 1)) | (uint64_t)n << 56;
}
static inline size_t am_map_home(const am_bytes_map *m, uint64_t tag)
{
    return (size_t)((tag ^ tag >> 29) * UINT64_C(0x9e3779b97f4a7c15) >> m->shift);
}
/** n bytes at x and y are the same; 8 bytes behind both can be read. */
static inline bool am_same_padded(const char *x, const char *y, size_t n)
{
    uint64_t a, b;
    for (;; x += 8, y += 8, n -= 8) {
        memcpy(&a, x, 8);
        memcpy(&b, y, 8);
        if (n < 8) break;
        if (a != b) return false;
    }
    return ((a ^ b) & ((UINT64_C(1) << 8 * n) - 1)) == 0;
}
/** The entry of a name by its tag: NULL for none.  The map must not be empty; 8 bytes behind s can be read where `padded`. */
static inline const am_map_slot *am_map_slot_of(const am_bytes_map *m, const char *arena, const char *s, size_t n, uint64_t tag,
                                                bool padded)
{
    for (size_t h = am_map_home(m, tag);; h = (h + 1) & m->mask) {
        const am_map_slot *slot = &m->slot[h];
        if (slot->entry == 0) return NULL;
        if (slot->tag != tag) continue;
        if (n <= AM_TAG_BYTES) return slot;
        const struct am_bytes_entry *e = &m->entry[slot->entry - 1];
        if (e->len == n && (padded ? am_same_padded(arena + e->off, s, n) : memcmp(arena + e->off, s, n) == 0)) return slot;
    }
}

am_status am_bpe_put_token(am_bpe *b, const char *name, size_t n, uint32_t id) AM_WARN_UNUSED;
/** Many tokens: appended one by one, then indexed together (nothing is found before). */
am_status am_bpe_append_token(am_bpe *b, const char *name, size_t n, uint32_t id) AM_WARN_UNUSED;
am_status am_bpe_index_tokens(am_bpe *b) AM_WARN_UNUSED;
am_status am_bpe_put_merge(am_bpe *b, uint32_t left, uint32_t right, uint32_t rank, uint32_t merged) AM_WARN_UNUSED;
/** One merge by its halves' spellings, which stay where they are (and 8 bytes behind them readable) until the batch goes into
 *  the tables: when it is full, and with am_bpe_batch_flush. */
am_status am_bpe_batch_add(am_bpe *b, am_merge_batch *m, const char *left, size_t na, const char *right, size_t nb,
                           const char *path) AM_WARN_UNUSED;
am_status am_bpe_batch_flush(am_bpe *b, am_merge_batch *m, const char *path) AM_WARN_UNUSED;
/** A merge joins the last character of left and the first of right. */
void      am_bpe_mark_crossing(am_bpe *b, const char *left, size_t na, const char *right);
/** No place of a text may be cut (what a symbol is depends on more than its neighbours). */
void      am_bpe_mark_all(am_bpe *b);
/** After the last token and merge: the tables that follow from them. */
am_status am_bpe_finish(am_bpe *b, const char *path) AM_WARN_UNUSED;
am_status am_bpe_pairs_reserve(am_bpe *b, size_t n) AM_WARN_UNUSED;
void      am_bpe_pair_put(am_bpe *b, uint64_t key, uint64_t val);
/** Byte mode, after the last merge: byte_pair, where a symbol is a byte and nothing else (no unknown token, no dressed characters). */
am_status am_bpe_index_bytes(am_bpe *b) AM_WARN_UNUSED;
/** Byte mode: every token made of the alphabet is entered a second time, as raw bytes. */
am_status am_bpe_index_pieces(am_bpe *b) AM_WARN_UNUSED;
void      am_bpe_release(am_bpe *b);
uint32_t  am_bpe_name_id(const am_bpe *b, const char *s, size_t n); /* AM_NO_ID: none */
uint32_t  am_bpe_piece_id(const am_bpe *b, const char *s, size_t n); /* of a whole piece; byte mode: raw bytes */
am_status am_bpe_work_init(am_bpe_work *w) AM_WARN_UNUSED;
void      am_bpe_work_release(am_bpe_work *w);
am_status am_bpe_push_symbol(am_bpe_work *w, uint32_t id, size_t start, size_t end) AM_WARN_UNUSED;
/** One piece into w->sym. */
am_status am_bpe_encode(const am_bpe *b, am_bpe_work *w, const char *s, size_t n) AM_WARN_UNUSED;
/** ByteLevel's alphabet: the code point that stands for a byte, and back (−1: none). */
int32_t am_tok_byte_to_char(unsigned char b);
int     am_tok_char_to_byte(int32_t cp);

/* ---- the other models: their names lie in am_bpe as well --------------------------------------------------------------- */

typedef enum am_model_kind { AM_MODEL_BPE, AM_MODEL_UNIGRAM, AM_MODEL_WORDPIECE, AM_MODEL_WORDLEVEL } am_model_kind;

typedef struct am_unigram {
    struct am_dart_unit {
        uint32_t base, check; /* child of byte c: base + c, whose check is this node + 1 */
        uint32_t id;          /* of the token that ends here; AM_NO_ID: none */
    }      *unit;             /* double array over the tokens' bytes; the root is 0 */
    size_t  num_units;
    double *score;
    size_t  num_scores, score_cap;
    double  min_score;
    bool    float_sums; /* sums are rounded to float, as SentencePiece's are: equal ways differ by their rounding */
} am_unigram;

/** From the names and u->score[id]. */
am_status am_unigram_build(am_unigram *u, const am_bpe *names) AM_WARN_UNUSED;
void      am_unigram_release(am_unigram *u);
am_status am_unigram_encode(const am_unigram *u, const am_bpe *b, am_bpe_work *w, const char *s, size_t n) AM_WARN_UNUSED;

typedef struct am_wordpiece {
    char  *prefix; /* continuing_subword_prefix, "##" */
    size_t prefix_len;
    size_t max_chars; /* longer words are unknown */
} am_wordpiece;

am_status am_wordpiece_encode(const am_wordpiece *p, const am_bpe *b, am_bpe_work *w, const char *s, size_t n) AM_WARN_UNUSED;
/** A piece by the tokenizer's model into w->sym, or from the cache. */
am_status am_tok_model_encode(const am_tokenizer *t, am_bpe_work *w, const char *s, size_t n) AM_WARN_UNUSED;
am_status am_wordlevel_encode(const am_bpe *b, am_bpe_work *w, const char *s, size_t n) AM_WARN_UNUSED;

/* ---- added tokens ---------------------------------------------------------------------------------------------------- */

typedef struct am_added {
    char    *content;
    size_t   len;
    char    *decoded; /* what decoding gives: with `normalized` the normalised content */
    uint32_t id;
    bool     single_word, lstrip, rstrip, normalized, special;
} am_added;

typedef struct am_trie { /* of added tokens' bytes */
    struct am_trie_node {
        uint32_t child, sibling; /* node indices, 0: none */
        int32_t  token;          /* index of the added token that ends here; −1: none */
        uint8_t  byte;
    }     *node;
    size_t   n, cap;
    uint32_t first[256]; /* node of a first byte, 0: none */
} am_trie;

am_status am_tok_trie_add(am_trie *t, const char *s, size_t n, int32_t token) AM_WARN_UNUSED;
/** Bytes of the longest token at s; 0: none. */
size_t    am_tok_trie_longest(const am_tokenizer *t, const am_trie *trie, const char *s, size_t n);
void      am_tok_trie_release(am_trie *t);

typedef struct am_segment { /* of a view: an added token or (token < 0) text */
    uint32_t start, end;
    int32_t  token;
} am_segment;

typedef struct am_segments {
    am_segment *at;
    size_t      n, cap;
} am_segments;

/** Cut s into added tokens and the text between them (appended).  @param skip_special special tokens are not matched. */
am_status am_tok_added_find(const am_tokenizer *t, const am_trie *trie, const char *s, size_t n, bool skip_special,
                        am_segments *out) AM_WARN_UNUSED;

/* ---- the whole -------------------------------------------------------------------------------------------------------- */

struct am_tokenizer {
    char    *path;
    struct am_file_state {
        uint64_t device, inode, size;
        int64_t  seconds, nanoseconds; /* of the last change */
    }        state; /* of the file, as it was read */
    char     sha256[65]; /* of what can be read only once; "": of the file, when somebody asks */
    am_norm *norm;
    size_t   num_norm, norm_cap;
    am_pre  *pre;
    size_t   num_pre, pre_cap;
    bool     byte_level;    /* a ByteLevel among the pre-tokenizers: pieces become raw bytes */
    bool     bytes_written; /* an AM_PRE_BYTES step writes the alphabet out: pieces are turned back at the end */
    am_model_kind model;
    am_bpe        bpe; /* BPE's tables, and every model's names */
    am_unigram    unigram;
    am_wordpiece  wordpiece;
    am_bpe        added_names; /* names alone: content of an added token → id */
    bool          adds_bos;    /* files that do not say: a BOS in front */
    size_t        next_id;     /* of an added token that the vocabulary does not have */
    am_added *added;
    size_t    num_added, added_cap;
    am_trie   raw, normalized; /* added tokens matched in the raw and in the normalised text */
    uint32_t *prefix, *suffix; /* of the post-processor */
    size_t    num_prefix, prefix_cap, num_suffix, suffix_cap;
    bool      trim_offsets, trim_prefix_space;
    am_dec   *dec;
    size_t    num_dec, dec_cap;
    bool      has_decoder;
    struct am_token_text {
        const char *spelled; /* NULL: no such id */
        const char *decoded; /* what decoding starts from: the same but for normalised added tokens */
        uint32_t    decoded_len;
        bool        special;
    }          *token;     /* [vocab_size] */
    size_t       vocab_size;
    json_t      *roles;    /* "eos_token" → "<|im_end|>" */
};

struct am_tok_scratch {
    const am_tokenizer *t;
    am_tok_matcher      matcher;
    am_bpe_work         work;
    am_tok_text         text[2]; /* one holds the current view, the other is written next */
    am_tok_text         kept;    /* the normalised text, while its parts are split */
    am_spans            pieces, next_pieces, matches;
    am_segments         raw, inner;
    am_str              bytes;  /* a piece turned back into raw bytes */
    am_str              shown;  /* the text as the regexes see it, where that differs */
    uint32_t           *origin; /* bytes_written: byte of the view behind each raw byte */
    size_t              origin_cap;
};

/** An added token whose id is known.  @param normalized  matched in normalised text, as it is spelled. */
am_status am_tok_add_added(am_tokenizer *t, const char *content, size_t n, uint32_t id, bool special, bool normalized) AM_WARN_UNUSED;
am_status am_tok_add_split(am_tokenizer *t, const char *pattern) AM_WARN_UNUSED; /* Split, Isolated */
/* Files other than tokenizer.json: whole files into an empty tokenizer. */
am_status am_tok_load_spm(am_tokenizer *t, const char *data, size_t n) AM_WARN_UNUSED;
am_status am_tok_load_tiktoken(am_tokenizer *t, const char *data, size_t n) AM_WARN_UNUSED;
am_status am_tok_load_tekken(am_tokenizer *t, const char *data, size_t n) AM_WARN_UNUSED;
/** Kimi's tiktoken.model: <|reserved_token_ID|> for those of the 256 ids behind the ranks that tokenizer_config.json does not name. */
am_status am_tok_tiktoken_reserve(am_tokenizer *t) AM_WARN_UNUSED;
bool      am_tok_looks_like_tiktoken(const char *data, size_t n);
am_status am_tok_load_model(am_tokenizer *t, am_json_scan *j) AM_WARN_UNUSED;
am_status am_tok_load_normalizer(am_tokenizer *t, json_t *j) AM_WARN_UNUSED;
am_status am_tok_add_norm(am_tokenizer *t, am_norm_kind kind, am_norm **out) AM_WARN_UNUSED;
am_status am_tok_normalize_spm(const am_norm *norm, am_tok_scratch *s, am_view *v) AM_WARN_UNUSED;
am_status am_tok_normalize(const am_tokenizer *t, am_tok_scratch *s, am_view *v) AM_WARN_UNUSED;
am_status am_tok_load_pre(am_tokenizer *t, json_t *j) AM_WARN_UNUSED;
/** Cut *v into s->pieces; *v changes when a step rewrites the text. */
am_status am_tok_split(const am_tokenizer *t, am_tok_scratch *s, am_view *v) AM_WARN_UNUSED;
am_status am_tok_load_post(am_tokenizer *t, json_t *j) AM_WARN_UNUSED;
am_status am_tok_load_decoder(am_tokenizer *t, json_t *j) AM_WARN_UNUSED;
void      am_tok_norm_release(am_norm *n);
void      am_tok_pre_release(am_pre *p);
void      am_tok_dec_release(am_dec *d);
/** The buffer that does not hold v, emptied. */
am_tok_text *am_tok_scratch_other(am_tok_scratch *s, const am_view *v);

/* ---- reading the file: a key that is absent or null takes the default; a wrong type is an error ------------------------ */

const char *am_tok_type(json_t *j); /* j["type"], or "" */
am_status   am_tok_get_bool(const am_tokenizer *t, json_t *j, const char *key, bool def, bool *out) AM_WARN_UNUSED;
am_status   am_tok_get_string(const am_tokenizer *t, json_t *j, const char *key, const char **out, size_t *n) AM_WARN_UNUSED;
/** A whole file, AM_SCAN_SLACK zeros behind it; am_free.  @param[out] state  inode 0: no regular file; may be NULL. */
am_status am_tok_read_file(const char *path, size_t max_bytes, char **out, size_t *n, struct am_file_state *state) AM_WARN_UNUSED;
/** An object of role → token from tokenizer_config.json and special_tokens_map.json of a folder. */
am_status   am_tok_load_roles(const char *dir, json_t **out) AM_WARN_UNUSED;
/** {"String": s} or {"Regex": s} under `key`. */
am_status   am_tok_get_pattern(const am_tokenizer *t, json_t *j, const char *key, am_tok_regex *out) AM_WARN_UNUSED;

#endif
