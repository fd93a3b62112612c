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

#include <jansson.h>
#include <pcre2.h>

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

am_status am_tok_text_push(am_tok_text *t, const char *s, size_t n, uint32_t from, uint32_t to) AM_WARN_UNUSED;
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

typedef struct am_tok_regex {
    pcre2_code *code;
} am_tok_regex;

typedef struct am_tok_matcher { /* one per scratch */
    pcre2_match_data    *data;
    pcre2_match_context *context;
    pcre2_jit_stack     *stack;
} am_tok_matcher;

am_status am_tok_matcher_init(am_tok_matcher *m) AM_WARN_UNUSED;
void      am_tok_matcher_release(am_tok_matcher *m);
/** The pattern in PCRE2's syntax; refuses with a sentence what has no equal there. */
am_status am_tok_regex_translate(const char *onig, size_t n, const char *where, am_str *out) AM_WARN_UNUSED;
/** @param literal the pattern is plain text.  @param where file and key for errors. */
am_status am_tok_regex_compile(const char *pattern, size_t n, bool literal, const char *where,
                               am_tok_regex *out) AM_WARN_UNUSED;
void      am_tok_regex_release(am_tok_regex *re);
/** All matches in s, left to right, as find_iter gives them (appended to *out). */
am_status am_tok_regex_find_all(const am_tok_regex *re, am_tok_matcher *m, const char *s, size_t n,
                                am_spans *out) AM_WARN_UNUSED;

/** The text as the regexes are to see it: s itself, or a copy with stand-ins for characters newer than their tables. */
am_status am_tok_stand_ins(const char *s, size_t n, am_str *copy, const char **out) AM_WARN_UNUSED;

/* A flag of am_tokenizer_encode for this module alone: only added tokens are looked for (num_special), nothing is encoded. */
#define AM_ENCODE_COUNT_ONLY 0x100

/* ---- steps of the file, as flat lists (Sequences opened) ------------------------------------------------------------ */

typedef enum am_norm_kind {
    AM_NORM_UNICODE, AM_NORM_LOWERCASE, AM_NORM_STRIP, AM_NORM_REPLACE, AM_NORM_PREPEND, AM_NORM_STRIP_ACCENTS
} am_norm_kind;

typedef struct am_norm {
    am_norm_kind kind;
    int          unicode_flags; /* utf8proc's */
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
    AM_DEC_BYTE_LEVEL, AM_DEC_BYTE_FALLBACK, AM_DEC_FUSE, AM_DEC_STRIP, AM_DEC_REPLACE, AM_DEC_METASPACE
} am_dec_kind;

typedef struct am_dec {
    am_dec_kind  kind;
    am_tok_regex re;      /* Replace */
    char        *content; /* Replace, Strip, Metaspace */
    size_t       content_len;
    int64_t      left, right; /* Strip */
    bool         drop_first;  /* Metaspace: the first token loses its marks */
} am_dec;

/* ---- BPE ------------------------------------------------------------------------------------------------------------ */

#define AM_NO_ID UINT32_MAX

typedef struct am_bytes_map { /* bytes → id; open addressing; keys lie in the arena of am_bpe */
    uint32_t *slot;           /* index of an entry + 1; 0 empty */
    size_t    mask;
    struct am_bytes_entry {
        uint32_t off, len, id;
    }     *entry;
    size_t n, cap;
} am_bytes_map;

typedef struct am_bpe {
    char        *arena;
    size_t       arena_len, arena_cap;
    am_bytes_map names;  /* tokens as spelled in the file */
    am_bytes_map pieces; /* byte mode: tokens as raw bytes (those made of the byte alphabet alone) */
    bool         byte_mode;
    uint64_t    *pair_key; /* left << 32 | right; open addressing, UINT64_MAX empty */
    uint64_t    *pair_val; /* rank << 32 | merged id */
    size_t       pair_mask;
    uint32_t     byte_id[256];     /* byte mode: the byte's token; char mode: ASCII characters' */
    uint32_t     fallback_id[256]; /* "<0xHH>" */
    bool         ignore_merges, byte_fallback, fuse_unk, has_unk;
    uint32_t     unk_id;
} am_bpe;

typedef struct am_symbol {
    uint32_t id, start, end; /* bytes of the piece */
    int32_t  prev, next;     /* −1: none */
} am_symbol;

typedef struct am_merge {
    uint32_t rank, pos, id;
} am_merge;

typedef struct am_bpe_work { /* per scratch */
    am_symbol *sym;
    size_t     n, cap; /* after am_bpe_encode: n symbols, in order */
    am_merge  *heap;
    size_t     heap_n, heap_cap;
    struct am_piece_cache *cache;
} am_bpe_work;

/** @param byte_mode the pre-tokenizer ends in ByteLevel: pieces are raw bytes. */
am_status am_bpe_load(json_t *model, bool byte_mode, const char *path, am_bpe *out) AM_WARN_UNUSED;
void      am_bpe_release(am_bpe *b);
uint32_t  am_bpe_name_id(const am_bpe *b, const char *s, size_t n); /* AM_NO_ID: none */
uint32_t  am_bpe_piece_id(const am_bpe *b, const char *s, size_t n); /* of a whole piece; byte mode: raw bytes */
am_status am_bpe_work_init(am_bpe_work *w) AM_WARN_UNUSED;
void      am_bpe_work_release(am_bpe_work *w);
am_status am_bpe_encode(const am_bpe *b, am_bpe_work *w, const char *s, size_t n) AM_WARN_UNUSED;
/** ByteLevel's alphabet: the code point that stands for a byte, and back (−1: none). */
int32_t am_tok_byte_to_char(unsigned char b);
int     am_tok_char_to_byte(int32_t cp);

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
    char     sha256[65];
    am_norm *norm;
    size_t   num_norm, norm_cap;
    am_pre  *pre;
    size_t   num_pre, pre_cap;
    bool     byte_level;    /* a ByteLevel among the pre-tokenizers: pieces become raw bytes */
    bool     bytes_written; /* an AM_PRE_BYTES step writes the alphabet out: pieces are turned back at the end */
    am_bpe   bpe;
    am_added *added;
    size_t    num_added, added_cap;
    am_trie   raw, normalized; /* added tokens matched in the raw and in the normalised text */
    uint32_t *prefix, *suffix; /* of the post-processor */
    size_t    num_prefix, prefix_cap, num_suffix, suffix_cap;
    bool      trim_offsets, trim_prefix_space;
    am_dec   *dec;
    size_t    num_dec, dec_cap;
    bool      has_decoder;
    const char **token;    /* [vocab_size] spelling by id; NULL: none */
    const char **decoded;  /* [vocab_size] what decoding starts from: the same but for normalised added tokens */
    uint8_t     *special;  /* [vocab_size] */
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

am_status am_tok_load_normalizer(am_tokenizer *t, json_t *j) AM_WARN_UNUSED;
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
/** An object of role → token from tokenizer_config.json and special_tokens_map.json of a folder. */
am_status   am_tok_load_roles(const char *dir, json_t **out) AM_WARN_UNUSED;
/** {"String": s} or {"Regex": s} under `key`. */
am_status   am_tok_get_pattern(const am_tokenizer *t, json_t *j, const char *key, am_tok_regex *out) AM_WARN_UNUSED;

#endif
