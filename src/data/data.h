/* data: from JSON lines to the rows a step trains on.
 *
 *   JSONL ── am_data_prepare ──► token shards (*.h5) ── am_dataset_open ──► am_data_sample(index) ──► prefetch ring
 *
 * A sample is a pure function of its index: order = f(seed, epoch, index), rows and their supervised targets come
 * from a table derived at open.  Nothing here knows ranks but the prefetcher, which picks this rank's indices.
 * Names: a SEQUENCE is what prepare wrote (one chat, one document); a PIECE is the part of it that is trained on
 * (all of it, but for truncated or split ones); a ROW is T cells filled with pieces; a SAMPLE is a row at an index.
 *
 * Threads: the HDF5 library is called by one thread at a time (a process-wide lock inside this module).
 * am_data_sample may be called from any thread, but one dataset serves one caller at a time; the functions that only
 * read tables (targets, counts, hash) may be called from any thread at any time. */
#ifndef AM_DATA_H
#define AM_DATA_H

#include "base/base.h"

#define AM_DATA_IGNORE (-100) /* label of a cell that is not supervised */

/* ---- JSON lines ---------------------------------------------------------------------------------- */

typedef struct am_jsonl am_jsonl;

/** Open a file of JSON lines, plain or gzip (told by its first bytes).
 *  @param first,end  the lines that START in bytes [first, end) are given; end < 0: to the end of the file.
 *                    A range needs a plain file. */
am_status am_jsonl_open(const char *path, int64_t first, int64_t end, am_jsonl **out) AM_WARN_UNUSED;
/** Next line that is not blank, split at "\n" only (U+2028 and "\r" are part of a line), NUL-terminated, valid until
 *  the next call.  @param[out] line  NULL at the end.  A gzip file that is cut off or corrupt is AM_ERR_DATA. */
am_status am_jsonl_next(am_jsonl *r, const char **line, size_t *len) AM_WARN_UNUSED;
/** 1-based number of the last line given.  After opening at a byte range this counts the lines before it: slow, for
 *  error messages.  0 when it cannot be told. */
int64_t am_jsonl_line_number(const am_jsonl *r);
void    am_jsonl_close(am_jsonl **r);

/* ---- token shards -------------------------------------------------------------------------------- */

#define AM_SHARD_FORMAT_VERSION 1

/* What a shard says about itself (attributes of the root group). */
typedef struct am_shard_info {
    int64_t vocab_size;            /* every token id is below it */
    char    tokenizer_sha256[65];  /* lower-case hex; "" unknown (such a shard passes no check against a tokenizer) */
    char    chat_template_sha256[65]; /* "" where no template was used */
    char    preparation[65];       /* same in all shards of one preparation; "" unknown */
    char  **sources;               /* names of the source files */
    int64_t num_sources;
    int64_t num_sequences, num_tokens, num_supervised; /* supervised after the shift: Σ sequence_targets */
} am_shard_info;

void am_shard_info_release(am_shard_info *info);

typedef struct am_shard_writer am_shard_writer;
/** Start `path`; everything goes to a temporary name beside it until commit.
 *  @param info     vocab_size, hashes, sources (copied); counts are ignored
 *  @param deflate  0: none; 1…9 */
am_status am_shard_writer_create(const char *path, const am_shard_info *info, int deflate, am_shard_writer **out) AM_WARN_UNUSED;
/** Append one sequence of n >= 1 tokens; mask[t] is 0 or 1: token t is supervised (as the target of token t−1). */
am_status am_shard_writer_add(am_shard_writer *w, const uint32_t *tokens, const uint8_t *mask, int64_t n) AM_WARN_UNUSED;
/** Write what is buffered and the counts, flush, fsync, rename to the final name, fsync the directory. */
am_status am_shard_writer_commit(am_shard_writer *w, am_shard_info *counts) AM_WARN_UNUSED;
/** Frees; without a commit the temporary file is deleted. */
void am_shard_writer_free(am_shard_writer **w);

typedef struct am_shard am_shard;
/** Open and check: version, types, shapes, chunking and Fletcher32 of every dataset, offsets that start at 0, rise
 *  strictly and end at the number of tokens, targets below the lengths, counts equal to the attributes.
 *  @return AM_ERR_DATA naming the file and what is wrong. */
am_status            am_shard_open(const char *path, am_shard **out) AM_WARN_UNUSED;
const am_shard_info *am_shard_get_info(const am_shard *s);
const char          *am_shard_path(const am_shard *s);
const uint64_t      *am_shard_offsets(const am_shard *s); /* [num_sequences + 1] */
const uint32_t      *am_shard_targets(const am_shard *s); /* [num_sequences] */
/** n tokens from `start`.  tokens or mask may be NULL.  A chunk that fails its checksum, a token id >= vocab_size and a
 *  mask that is not 0 or 1 are AM_ERR_DATA naming the file. */
am_status am_shard_read(am_shard *s, int64_t start, int64_t n, uint32_t *tokens, uint8_t *mask) AM_WARN_UNUSED;
void      am_shard_close(am_shard **s);

/* ---- order --------------------------------------------------------------------------------------- */

/** Image of i under the keyed permutation of 0…n−1 (0 <= i < n): a Feistel network over am_random_u64 with cycle
 *  walking; O(1), no table.  Source: Luby and Rackoff 1988; Black and Rogaway 2002 (cycle walking). */
int64_t am_permute(uint64_t seed, uint64_t stream, int64_t n, int64_t i);

/* ---- data set -------------------------------------------------------------------------------------- */

typedef enum am_long_samples {
    AM_LONG_REFUSE,   /* a sequence longer than a row is an error naming it */
    AM_LONG_DROP,     /* left out, counted */
    AM_LONG_TRUNCATE, /* its first T tokens */
    AM_LONG_SPLIT     /* cut into pieces of T cells; no supervised token is lost at a cut (pretraining) */
} am_long_samples;

typedef struct am_dataset_options {
    const char *const *paths; /* shards, or folders whose *.h5 are taken in name order */
    int                num_paths;
    int64_t            row_len;  /* T, tokens in a row; 1 … 2^30 */
    bool               packed;   /* several sequences a row; false: one */
    bool               shuffle;  /* false: source order, every epoch */
    uint64_t           seed;
    am_long_samples    long_samples;
    int64_t            num_epochs;  /* samples beyond num_epochs × rows are empty rows; 0: without end */
    int64_t            limit_sequences; /* use the first n sequences only; 0: all */
    int64_t            vocab_size;       /* the model's; a shard with a larger vocabulary is refused; 0: not checked */
    const char        *tokenizer_sha256; /* the model's; a shard with another is refused; NULL: not checked */
} am_dataset_options;

typedef struct am_dataset am_dataset;

typedef struct am_dataset_counts {
    int64_t  num_shards, num_sequences, num_tokens, num_supervised; /* as on disk */
    int64_t  num_pieces, num_rows;                                  /* one epoch */
    int64_t  dropped, truncated, split;                             /* sequences longer than a row */
    int64_t  cells_used;                                            /* of num_rows × row_len */
    int64_t  targets;                                               /* supervised targets of one epoch */
    uint64_t table_hash;                                            /* XXH3 of pieces and rows: stands in the manifest */
} am_dataset_counts;

/** Open the shards, derive the table.  Refused: no shard, shards of different preparations or tokenizers, a shard of
 *  a set missing, nothing supervised. */
am_status                am_dataset_open(const am_dataset_options *options, am_dataset **out) AM_WARN_UNUSED;
const am_dataset_counts *am_dataset_get_counts(const am_dataset *d);
const am_shard_info     *am_dataset_get_info(const am_dataset *d); /* of the first shard: hashes, vocabulary */
int64_t                  am_dataset_row_len(const am_dataset *d);
void                     am_dataset_close(am_dataset **d);

/** Supervised targets of sample `index`, without reading tokens. */
int64_t am_data_sample_targets(const am_dataset *d, int64_t index);
/** N of a step: Σ over samples step·rows … step·rows + rows − 1.  The same on every rank, known ahead. */
int64_t am_data_step_targets(const am_dataset *d, int64_t step, int64_t rows_per_step);
/** Steps in `epochs` epochs: ceil(epochs · num_rows / rows_per_step); the last one may have empty rows if num_epochs says so. */
int64_t am_data_num_steps(const am_dataset *d, int64_t epochs, int64_t rows_per_step);

/** Sample `index` >= 0: row f(seed, index / num_rows, index % num_rows).
 *  @param[out] input_ids     [T]  0 in cells that belong to no document
 *  @param[out] labels        [T]  already shifted: the next token of the same document if supervised, else −100
 *  @param[out] position_ids  [T]  t − doc_start[t]
 *  @param[out] doc_start     [T]  first cell of the document of cell t, relative to the row (a batch of rows adds row·T);
 *                                 an unused cell is a document of its own
 *  @param[out] targets       supervised labels in the row; may be NULL */
am_status am_data_sample(am_dataset *d, int64_t index, int32_t *input_ids, int32_t *labels, int32_t *position_ids,
                         int32_t *doc_start, int64_t *targets) AM_WARN_UNUSED;

/* ---- prefetch ------------------------------------------------------------------------------------ */

/* Micro-batch a (0 <= a < accumulation) of data-parallel rank r in step s holds, for j < rows, the samples
 * s·G + (a·dp_size + r)·rows + j with G = rows · accumulation · dp_size. */
typedef struct am_prefetch_options {
    int64_t rows;         /* rows of a micro-batch */
    int64_t accumulation; /* micro-batches of a step */
    int64_t dp_rank, dp_size;
    int64_t first_step, end_step; /* steps [first_step, end_step); end_step < 0: without end */
    int     depth;                /* batches in the ring, >= 2; 0: 4 */
} am_prefetch_options;

typedef struct am_batch {
    int64_t  step, micro;
    int64_t  rows, row_len;
    int32_t *input_ids, *labels, *position_ids, *doc_start; /* [rows, T]; doc_start relative to its row */
    int64_t  targets;      /* supervised labels in this micro-batch */
    int64_t  step_targets; /* N: of the whole step, over all ranks and micro-batches */
} am_batch;

typedef struct am_prefetch am_prefetch;
/** Allocates the ring and starts the thread; nothing is allocated after this.  The dataset must outlive it and is
 *  read by its thread alone until am_prefetch_stop. */
am_status am_prefetch_start(am_dataset *d, const am_prefetch_options *options, am_prefetch **out) AM_WARN_UNUSED;
/** The next micro-batch in order of (step, micro); waits for it.  *out is NULL after the last.  The batch given before
 *  is handed back to the ring by this call.  An error of the thread is returned here, at the batch that failed. */
am_status am_prefetch_next(am_prefetch *p, const am_batch **out) AM_WARN_UNUSED;
/** Ends the thread and frees; accepts NULL. */
void am_prefetch_stop(am_prefetch **p);
/** Host bytes of the ring that am_prefetch_start will allocate. */
int64_t am_prefetch_bytes(const am_prefetch_options *options, int64_t row_len);

/* ---- prepare -------------------------------------------------------------------------------------- */

/* A line is one of
 *   {"messages": […], "tools": […]?}          a chat, through the model's template: the assistant's turns are supervised
 *   {"prompt": "…", "completion": "…"}         BOS as the tokenizer adds it, prompt, completion, EOS; the last two supervised
 *   {"text": "…"}                             BOS as the tokenizer adds it, text, EOS; all supervised
 * A token counts as supervised when it starts in a supervised part. */
typedef struct am_prepare_options {
    const char *const *inputs; /* JSONL files, plain or gzip, in order */
    int                num_inputs;
    const char        *model_dir;  /* tokenizer.json, tokenizer_config.json, chat template */
    const char        *output_dir; /* made when missing; gets shard-WWWWW-of-PPPPP.h5 */
    int                deflate;    /* 0 … 9 */
    int64_t            vocab_size; /* of the model: a sample with an id at or above it is refused; 0: the tokenizer's */
    int64_t            max_length; /* a longer sample is refused; 0: no limit (the dataset decides) */
    const char        *prompt_key, *completion_key, *text_key; /* NULL: "prompt", "completion", "text" */
    const char        *context_key;         /* of a text put before the prompt, with a space between; NULL: none */
    const char        *system_prompt;       /* a first turn for chats that have no system turn; NULL: none */
    bool               columns_as_chat;     /* prompt and completion become a user's and an assistant's turn */
    bool               one_sample_per_turn; /* a chat becomes one sample an assistant turn */
    bool               supervise_all;       /* every token is supervised, not the answers alone */
    bool               special_as_text;     /* "<|im_end|>" in a prompt or text is ordinary text; in a chat it is refused */
} am_prepare_options;

/* int64 throughout, so that the ranks' counts are added element by element (longest: the maximum). */
typedef struct am_prepare_counts {
    int64_t lines;                /* JSON lines read */
    int64_t samples, tokens;      /* written */
    int64_t supervised;           /* after the shift */
    int64_t unsupervised_samples; /* with nothing to supervise: left out */
    int64_t turns;                /* assistant turns */
    int64_t unsupervised_turns;   /* of these: the template rewrites earlier turns, or has no block for them */
    int64_t special_in_text;      /* strings in the data that spell a special token */
    int64_t longest;              /* tokens of the longest sample */
} am_prepare_counts;

typedef struct am_prepare am_prepare;
/** Check the inputs, read the tokenizer; when a file starts with a chat, start the template's helper process: call it
 *  BEFORE MPI_Init.  Strings of `options` must outlive it. */
am_status am_prepare_open(const am_prepare_options *options, am_prepare **out) AM_WARN_UNUSED;
/** Tokenise worker's share of the lines into one shard: contiguous blocks, so that the shards in name order are in source
 *  order for any number of workers (a gzip file is one worker's).  No communication: workers are ranks, or calls in a row.
 *  Errors name file:line.  @param[out] counts  of this worker */
am_status am_data_prepare(am_prepare *p, int worker, int num_workers, am_prepare_counts *counts) AM_WARN_UNUSED;
/** Add one worker's counts to the total. */
void am_prepare_counts_add(am_prepare_counts *total, const am_prepare_counts *one);
/** Judge the total of all workers: no line, nothing supervised are AM_ERR_DATA.  Else *report gets the text that a
 *  person reads: one line of figures, one for each thing that was counted against the data. */
am_status am_prepare_check(const am_prepare *p, const am_prepare_counts *total, am_str *report) AM_WARN_UNUSED;
void      am_prepare_close(am_prepare **p);

#endif
