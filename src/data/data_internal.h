/* Private to src/data: the HDF5 door, the table of pieces and rows, one line's way to tokens. */
#ifndef AM_DATA_INTERNAL_H
#define AM_DATA_INTERNAL_H

#include "data/data.h"

#include <hdf5.h>

/* ---- HDF5 ---------------------------------------------------------------------------------------- */

/* Whoever touches the library holds this lock (recursive: functions that lock may call each other). */
void am_h5_lock(void);
void am_h5_unlock(void);
/** AM_ERR with "path: what: deepest reason HDF5 gives"; empties HDF5's error stack. */
am_status am_h5_fail(am_status code, const char *path, const char *what);
/** Close what is open (id > 0) with its kind's function; sets it to 0.  Failures to close are not errors of a reader. */
void am_h5_close(hid_t *id);

#define AM_TRY_H5(expr_, code_, path_, what_)                                                                        \
    do {                                                                                                              \
        if ((expr_) < 0) {                                                                                            \
            st = am_h5_fail((code_), (path_), (what_));                                                               \
            goto done;                                                                                                \
        }                                                                                                             \
    } while (0)

am_status am_h5_write_attr_i64(hid_t file, const char *path, const char *name, int64_t value) AM_WARN_UNUSED;
/** n strings as fixed-length, NUL-padded UTF-8: those lie in checksummed metadata, variable ones do not. */
am_status am_h5_write_attr_str(hid_t file, const char *path, const char *name, const char *const *values, int64_t n,
                               bool scalar) AM_WARN_UNUSED;
am_status am_h5_read_attr_i64(hid_t file, const char *path, const char *name, int64_t *value) AM_WARN_UNUSED;
/** Scalar or 1-D strings, fixed or variable; absent: *values NULL, *n 0.  Free with am_strings_free. */
am_status am_h5_read_attr_str(hid_t file, const char *path, const char *name, char ***values, int64_t *n) AM_WARN_UNUSED;
void      am_strings_free(char ***values, int64_t n);

/* ---- shards in use ---------------------------------------------------------------------------------- */

bool am_shard_is_awake(const am_shard *s);
/** Close the file but keep what was read of it; the next am_shard_read opens it again. */
void am_shard_sleep(am_shard *s);

/* ---- pieces and rows ------------------------------------------------------------------------------- */

typedef struct am_piece {
    int64_t  start;   /* first token in its shard's /tokens */
    uint32_t shard;
    int32_t  length;  /* cells it takes, 1 … T */
    uint32_t targets;
    uint32_t next;    /* 1: the token after the piece is of the same document and labels its last cell */
} am_piece;

typedef struct am_table {
    am_piece *pieces;
    size_t    num_pieces, cap_pieces;
    int64_t   num_rows;
    int64_t  *row_first;  /* [num_rows + 1] into row_pieces */
    uint64_t *row_pieces; /* [num_pieces] */
    uint64_t *row_targets; /* [num_rows] */
} am_table;

am_status am_table_add(am_table *t, const am_piece *piece) AM_WARN_UNUSED;
/** Fill rows from the pieces, taken in the order of the permutation (stream AM_STREAM_PACK; source order if !shuffle).
 *  Packed: first fit into at most AM_OPEN_ROWS open rows; else one piece a row. */
am_status am_table_pack(am_table *t, int64_t row_len, bool packed, bool shuffle, uint64_t seed) AM_WARN_UNUSED;
uint64_t  am_table_hash(const am_table *t);
void      am_table_release(am_table *t);

#define AM_OPEN_ROWS 16
#define AM_STREAM_PACK UINT64_C(0)               /* streams of am_permute */
#define AM_STREAM_EPOCH(e) (UINT64_C(1) + (uint64_t)(e))

/* ---- one line → samples ------------------------------------------------------------------------------ */

typedef struct am_encoder am_encoder;
typedef am_status (*am_sample_fn)(void *user, const uint32_t *tokens, const uint8_t *mask, int64_t n);

/** @param chat  start the template's helper. */
am_status   am_encoder_create(const am_prepare_options *options, bool chat, am_encoder **out) AM_WARN_UNUSED;
const char *am_encoder_tokenizer_sha256(const am_encoder *e);
const char *am_encoder_template_sha256(const am_encoder *e); /* "" without the helper */
int64_t     am_encoder_vocab_size(const am_encoder *e);
/** Does this line go through the template?  AM_ERR_DATA for a line that is no JSON object. */
am_status am_line_is_chat(const am_prepare_options *options, const char *line, size_t len, bool *chat) AM_WARN_UNUSED;
/** Tokenise one JSON line; counts grow by what was met, but for samples, tokens, supervised and longest, which `add`
 *  counts.  Errors say what, not where: the caller knows the line. */
am_status am_encoder_line(am_encoder *e, const char *line, size_t len, am_prepare_counts *counts, am_sample_fn add,
                          void *user) AM_WARN_UNUSED;
void      am_encoder_free(am_encoder **e);

#endif
