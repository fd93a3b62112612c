/* hf/tokenizer: a Hugging Face tokenizer.json, read and run: text → ids with the place of every token in the text, and
 * ids → text.  The reference is the Python library `tokenizers` (Tokenizer.from_file(...).encode), never AutoTokenizer.
 *
 * What is run: models BPE (ignore_merges, byte_fallback, unk_token, fuse_unk, continuing_subword_prefix, end_of_word_suffix),
 * Unigram, WordPiece, WordLevel; normalizers NFC, NFD, NFKC, NFKD, Lowercase, Strip, StripAccents, Replace, Prepend, Nmt,
 * Precompiled, BertNormalizer, ByteLevel; pre-tokenizers ByteLevel, Split, Digits, Punctuation, Whitespace, WhitespaceSplit,
 * Metaspace, BertPreTokenizer, CharDelimiterSplit, FixedLength, UnicodeScripts; post-processors ByteLevel, TemplateProcessing,
 * BertProcessing, RobertaProcessing; decoders ByteLevel, ByteFallback, Fuse, Strip, Replace, Metaspace, WordPiece, BPEDecoder;
 * Sequence of each; added tokens with all their flags.  Whatever else a file names (CTC …) is refused with the name and the
 * file: AM_ERR_MODEL; so are dropout and sampling.  `truncation` and `padding` are not applied.
 *
 * A folder without tokenizer.json: the first there is of tekken.json (Mistral), tokenizer.model (SentencePiece, or Llama 3's
 * tiktoken lines: told apart by the bytes), tiktoken.model (Kimi), qwen.tiktoken, spiece.model, sentencepiece.bpe.model.
 * Control pieces of these are special tokens found in text.  tokenizer_config.json's add_bos_token and add_eos_token count;
 * where nothing is said, SentencePiece BPE, Llama 3 and tekken have a BOS in front.
 *
 * Known differences from the library: it repeats text (or panics) where an rstrip token is followed by an added token of
 * white space; UnicodeScripts of characters newer than Unicode 9, and Punctuation and BertPreTokenizer of punctuation newer
 * than that, follow Unicode 14 here.
 *
 * Threads: an am_tokenizer is constant after am_tokenizer_open and shared by any number of threads; an am_tok_scratch
 * (buffers, a cache of pieces, the stack of the regex engine) belongs to one thread.  Nothing here is collective.
 * Text is UTF-8, checked; offsets are bytes of the text as the caller gave it. */
#ifndef AM_HF_TOKENIZER_H
#define AM_HF_TOKENIZER_H

#include "base/base.h"

typedef struct am_tokenizer am_tokenizer;

/** Read DIR/tokenizer.json or what stands for it (and the names of special tokens in tokenizer_config.json, special_tokens_map.json), or one
 *  tokenizer.json named directly (then its folder is searched for the other two).
 *  @return AM_ERR_MODEL with the file and the key; AM_ERR_IO. */
am_status am_tokenizer_open(const char *path, am_tokenizer **out) AM_WARN_UNUSED;
void      am_tokenizer_free(am_tokenizer **t);

const char *am_tokenizer_path(const am_tokenizer *t);   /* of the file that was read */
/** Of that file's bytes, 64 hex digits and a NUL.  Opening does not need it, so the file is read again here.
 *  @return AM_ERR_IO, also where the file has been written since it was opened. */
am_status   am_tokenizer_sha256(const am_tokenizer *t, char out[65]) AM_WARN_UNUSED;
/** The largest id + 1, added tokens included.  config.json's vocab_size may be larger (padding) and wins there. */
int64_t am_tokenizer_vocab_size(const am_tokenizer *t);
/** How many ids at or above `id` are added tokens: Gemma 3's tokenizer has an image token that its text models have no row for. */
int64_t am_tokenizer_added_from(const am_tokenizer *t, int64_t id);
/** The token as the file spells it ("Ġthe"), NUL-terminated; NULL for an id that has none. */
const char *am_tokenizer_token(const am_tokenizer *t, int64_t id);
/** The id of a token spelled as in the file; false when there is none. */
bool am_tokenizer_id(const am_tokenizer *t, const char *token, int64_t *id);
/** True for added tokens marked `special` (control tokens: begin, end, role markers …). */
bool am_tokenizer_is_special(const am_tokenizer *t, int64_t id);
/** The id behind a role of tokenizer_config.json: "bos_token", "eos_token", "pad_token", "unk_token" …
 *  False when the model names none. */
bool am_tokenizer_role_id(const am_tokenizer *t, const char *role, int64_t *id);

/* ---- encode -------------------------------------------------------------------------------------------------------- */

typedef struct am_tok_scratch am_tok_scratch;
/** @param t must outlive the scratch. */
am_status am_tok_scratch_create(const am_tokenizer *t, am_tok_scratch **out) AM_WARN_UNUSED;
void      am_tok_scratch_free(am_tok_scratch **s);

/* An encoding is reused: am_tokenizer_encode replaces what it holds and keeps its memory. */
typedef struct am_encoding {
    uint32_t *ids;
    /* Token i stands for bytes [start[i], end[i]) of the text, widened to whole characters (a byte-level token may hold
     * a part of one); the tokens that the post-processor adds have [0, 0).  Equal to `offsets` of the library, but for
     * characters that a vocabulary without fallback drops (the library's offsets then slip) and for combining marks that
     * normalisation reorders (within their character). */
    uint32_t *start, *end;
    size_t    n;
    size_t    num_special; /* special tokens that the TEXT spelled out (not those that were added) */
    size_t    id_cap, start_cap, end_cap; /* private */
} am_encoding;
void am_encoding_release(am_encoding *e);

typedef enum am_encode_flags {
    AM_ENCODE_PLAIN = 0,
    AM_ENCODE_ADD_SPECIAL = 1,     /* what the post-processor adds: BOS and the like */
    AM_ENCODE_SPECIAL_AS_TEXT = 2, /* "<|im_end|>" in the text is ordinary text, not the control token */
} am_encode_flags;

/** @param text n bytes of UTF-8, n < 2^31; may hold NUL bytes.   @param flags AM_ENCODE_… or-ed.
 *  @return AM_ERR_DATA for invalid UTF-8 (with the byte), for a text that is too long or that exhausts the regex engine. */
am_status am_tokenizer_encode(const am_tokenizer *t, am_tok_scratch *s, const char *text, size_t n, int flags,
                              am_encoding *out) AM_WARN_UNUSED;

/* ---- decode -------------------------------------------------------------------------------------------------------- */

/** Append the text of n ids to *out: valid UTF-8 always (bytes that form no character become U+FFFD, as the library does).
 *  @param skip_special leave special tokens out (the library's default).
 *  @return AM_ERR_DATA naming an id that the tokenizer does not have. */
am_status am_tokenizer_decode(const am_tokenizer *t, const uint32_t *ids, size_t n, bool skip_special,
                              am_str *out) AM_WARN_UNUSED;

#endif
