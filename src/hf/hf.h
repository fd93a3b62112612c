/* hf: Hugging Face model directories: strict JSON, safetensors files (read and written), sharded weights with their
 * index, config.json and generation_config.json, and the local Hugging Face cache.  The tokenizer has its own header,
 * hf/tokenizer.h.
 *
 * Everything read here comes from outside, so nothing is believed: lengths are compared with the size of the file
 * before memory is asked for, shapes are multiplied with checks, names are looked up once, and files of a model
 * directory are opened beneath it without following symbolic links (the links of a Hugging Face cache snapshot into its
 * own blobs folder are the one exception).  Pickle files are never parsed.
 *
 * Nothing in this module is collective.  Handles are read by several threads at a time; they are not written so.
 * Every error of a safetensors file ends with a code in brackets, "[safetensors/HOLE]", from the list below. */
#ifndef AM_HF_H
#define AM_HF_H

#include "base/base.h"

#include <jansson.h>

#define AM_HF_MAX_RANK 8 /* dimensions of a tensor on disk; more are refused (RANK) */

/* ---- JSON --------------------------------------------------------------------------------------------------------
 * jansson behind one strict door.  Refused, with file:line:column: duplicate keys, more than AM_JSON_MAX_DEPTH levels,
 * bytes after the value, invalid UTF-8.  "\u0000" in strings is accepted (but not in keys).
 * Two things that Python writes and JSON has not are accepted outside of strings:
 *   NaN, Infinity, -Infinity   become {"__float__": "NaN"} …, which is how transformers 5 spells them itself;
 *   integers beyond 64 bits    become reals (tokenizer_config.json: "model_max_length": 1000000000000000019884624838656).
 * Read numbers with am_json_number() / am_json_integer(), which know all spellings. */

#define AM_JSON_MAX_DEPTH 64

/** Parse `len` bytes.  `name` stands for the file in errors.  @param[out] out new reference.  @return AM_ERR_MODEL. */
am_status am_json_parse(const char *text, size_t len, const char *name, json_t **out) AM_WARN_UNUSED;
/** Read and parse a file of at most max_bytes (0 means 64 MiB).  The path is the user's: links are followed. */
am_status am_json_load(const char *path, size_t max_bytes, json_t **out) AM_WARN_UNUSED;
/** Write indented by 2, keys in the order of the object, a newline at the end, atomically. */
am_status am_json_save(const char *path, const json_t *value) AM_WARN_UNUSED;
/** The value at a dotted path, "rope_parameters.rope_type"; NULL where it is absent.  JSON null is returned as such.
 *  A key that itself contains a dot cannot be reached this way. */
const json_t *am_json_at(const json_t *root, const char *path);
/** True for integers, reals and {"__float__": "NaN" | "Infinity" | "-Infinity"}. */
bool am_json_number(const json_t *v, double *out);
/** True for integers, and for reals with an integral value below 2^53 in magnitude (8.0). */
bool am_json_integer(const json_t *v, int64_t *out);

/* ---- safetensors: errors ----------------------------------------------------------------------------------------- */

/* X(code printed in the sentence, what it means) */
#define AM_SAFETENSORS_ERROR_LIST(X)                                                                                   \
    X(IO, "the file cannot be opened, or read at this place")                                                           \
    X(NOT_REGULAR, "a folder, FIFO, socket or device where a file was expected")                                        \
    X(PICKLE, "a pickle (.bin, .pt, .pth, .pkl, .ckpt): not parsed; convert it to safetensors")                          \
    X(LFS_POINTER, "the pointer of Git LFS, not the weights")                                                           \
    X(HEADER_TOO_SMALL, "fewer than the 8 bytes of the header length")                                                  \
    X(HEADER_TOO_LARGE, "a header of more than 100,000,000 bytes")                                                      \
    X(HEADER_LENGTH, "the header reaches beyond the end of the file")                                                   \
    X(HEADER_UTF8, "the header is not UTF-8")                                                                           \
    X(HEADER_START, "the header does not start with {")                                                                 \
    X(HEADER_JSON, "the header is not JSON of the expected form")                                                       \
    X(METADATA, "__metadata__ is not a map of strings to strings")                                                      \
    X(TENSOR_INFO, "a tensor's entry lacks dtype, shape or data_offsets, or has something else")                        \
    X(DUPLICATE, "a name occurs twice")                                                                                 \
    X(DTYPE_UNKNOWN, "a dtype that safetensors does not have")                                                          \
    X(DTYPE_UNSUPPORTED, "a dtype of safetensors that automodel does not hold: F4, F6, C64")                            \
    X(RANK, "more dimensions than AM_HF_MAX_RANK")                                                                      \
    X(OVERFLOW, "a shape or offset beyond 64-bit arithmetic")                                                           \
    X(MISALIGNED, "a sub-byte tensor that does not end on a byte")                                                      \
    X(OFFSET_ORDER, "data_offsets end before they start")                                                               \
    X(TENSOR_SIZE, "data_offsets and shape × dtype disagree")                                                           \
    X(HOLE, "bytes between two tensors that belong to none")                                                            \
    X(OVERLAP, "two tensors share bytes")                                                                               \
    X(TRUNCATED, "the file ends before the data of its tensors")                                                        \
    X(TRAILING, "bytes after the last tensor")                                                                          \
    X(TENSOR_NOT_FOUND, "no tensor of this name")                                                                       \
    X(SLICE, "elements asked for lie outside of the tensor")                                                            \
    X(CONVERT, "no conversion between these dtypes")                                                                    \
    X(WRITE_ORDER, "a writer was used out of order (declare, begin, write, close)")                                     \
    X(WRITE_TWICE, "elements were written twice")                                                                       \
    X(WRITE_MISSING, "a file was to be closed with elements never written")

/* ---- safetensors: reading ---------------------------------------------------------------------------------------- */

typedef struct am_safetensors_tensor {
    const char *name; /* borrowed from the file's handle */
    am_dtype    dtype;
    int         rank; /* 0: a scalar, one element */
    int64_t     shape[AM_HF_MAX_RANK];
    int64_t     elements, bytes; /* both 0 when a dimension is 0 */
    int64_t     offset;          /* of the first byte, from the start of the file */
    int         file;            /* index in am_hf_model.files; 0 for a file opened alone */
} am_safetensors_tensor;

typedef struct am_safetensors am_safetensors;

/** Open, read and check the header: all of it is valid afterwards and the file's size fits.  Holds the file open.
 *  `path` is the user's: links are followed.  Memory: the header plus about 120 bytes a tensor.
 *  @return AM_ERR_IO, AM_ERR_MODEL with a code of the list above. */
am_status am_safetensors_open(const char *path, am_safetensors **out) AM_WARN_UNUSED;
/** The same for a descriptor (taken over, closed on failure too); `path` is its name in errors. */
am_status am_safetensors_open_fd(int fd, const char *path, am_safetensors **out) AM_WARN_UNUSED;
void      am_safetensors_free(am_safetensors **f);

const char *am_safetensors_path(const am_safetensors *f);
int64_t     am_safetensors_count(const am_safetensors *f);
/** Tensor i of count, in the order of the data. */
const am_safetensors_tensor *am_safetensors_at(const am_safetensors *f, int64_t i);
/** By name; NULL when there is none. */
const am_safetensors_tensor *am_safetensors_find(const am_safetensors *f, const char *name);
/** By name; an error (TENSOR_NOT_FOUND, with the nearest name) when there is none. */
am_status am_safetensors_get(const am_safetensors *f, const char *name, const am_safetensors_tensor **out) AM_WARN_UNUSED;
/** A string of __metadata__, or NULL. */
const char *am_safetensors_metadata(const am_safetensors *f, const char *key);
int64_t     am_safetensors_metadata_count(const am_safetensors *f);
void        am_safetensors_metadata_at(const am_safetensors *f, int64_t i, const char **key, const char **value);

/** Read `count` elements of `t` from element `begin` (row major) into dst, as dst_dtype.
 *  Equal dtypes are read in place; floating ones are converted (am_convert) in chunks of 64 KiB on the stack; nothing is
 *  allocated.  Other pairs are refused (CONVERT). */
am_status am_safetensors_read(const am_safetensors *f, const am_safetensors_tensor *t, int64_t begin, int64_t count,
                              void *dst, am_dtype dst_dtype) AM_WARN_UNUSED;

/* ---- safetensors: writing one file -------------------------------------------------------------------------------
 * create → metadata* → declare* → begin → write*, any order → close.  Memory is bounded by the declarations and by the
 * number of separate pieces outstanding.  Until close the file has the name "PATH.tmp-<pid>"; close checks that every
 * element was written once, flushes, renames and flushes the directory.  Free without close removes the temporary.
 * The layout is that of the Python library: `__metadata__` first, tensors by falling alignment, then by name; files with
 * at most one metadata entry are equal byte by byte. */

typedef struct am_safetensors_writer am_safetensors_writer;

am_status am_safetensors_writer_create(const char *path, am_safetensors_writer **out) AM_WARN_UNUSED;
/** Add an entry of __metadata__; {"format": "pt"} is there from the start (giving "format" replaces it). */
am_status am_safetensors_writer_metadata(am_safetensors_writer *w, const char *key, const char *value) AM_WARN_UNUSED;
/** @param[out] index for am_safetensors_writer_write: 0, 1, 2 … in the order of declaration. */
am_status am_safetensors_writer_declare(am_safetensors_writer *w, const char *name, am_dtype dtype, int rank,
                                        const int64_t *shape, int64_t *index) AM_WARN_UNUSED;
am_status am_safetensors_writer_begin(am_safetensors_writer *w) AM_WARN_UNUSED;
/** Write n elements of src (dtype src_dtype, converted if the tensor's differs) at element `begin`. */
am_status am_safetensors_writer_write(am_safetensors_writer *w, int64_t index, int64_t begin, const void *src, int64_t n,
                                      am_dtype src_dtype) AM_WARN_UNUSED;
am_status am_safetensors_writer_close(am_safetensors_writer *w) AM_WARN_UNUSED;
void      am_safetensors_writer_free(am_safetensors_writer **w);

/* ---- safetensors: writing the weights of a model directory --------------------------------------------------------
 * The same steps over several files.  Tensors fill shards in the order of declaration, as save_pretrained does: a tensor
 * above max_shard_bytes gets a shard of its own, otherwise a shard is closed when the next tensor would not fit.
 * One shard: model.safetensors, no index.  Several: model-00001-of-0000N.safetensors and model.safetensors.index.json,
 * written last.  A folder that already holds weights (model*.safetensors or an index) is refused. */

typedef struct am_hf_writer am_hf_writer;

/** @param max_shard_bytes 0 means 5 GB (5·10^9, save_pretrained's unit).  The folder is made when missing. */
am_status am_hf_writer_create(const char *dir, int64_t max_shard_bytes, am_hf_writer **out) AM_WARN_UNUSED;
am_status am_hf_writer_metadata(am_hf_writer *w, const char *key, const char *value) AM_WARN_UNUSED;
am_status am_hf_writer_declare(am_hf_writer *w, const char *name, am_dtype dtype, int rank, const int64_t *shape,
                               int64_t *index) AM_WARN_UNUSED;
am_status am_hf_writer_begin(am_hf_writer *w) AM_WARN_UNUSED;
am_status am_hf_writer_write(am_hf_writer *w, int64_t index, int64_t begin, const void *src, int64_t n,
                             am_dtype src_dtype) AM_WARN_UNUSED;
am_status am_hf_writer_close(am_hf_writer *w) AM_WARN_UNUSED;
void      am_hf_writer_free(am_hf_writer **w);
int       am_hf_writer_num_shards(const am_hf_writer *w); /* 0 before begin */
int64_t   am_hf_writer_total_bytes(const am_hf_writer *w);

/** "5GB", "500MB" (powers of 1000), "5GiB" (of 1024), "123" (bytes); false for anything else. */
bool am_hf_parse_bytes(const char *s, int64_t *out);

/* ---- model directory --------------------------------------------------------------------------------------------- */

typedef enum am_hf_weights {
    AM_HF_WEIGHTS_REQUIRED, /* no weights is an error that says what was found instead */
    AM_HF_WEIGHTS_OPTIONAL, /* opened when present */
    AM_HF_WEIGHTS_NONE      /* not looked at: a dry run */
} am_hf_weights;

typedef struct am_hf_model {
    char *dir;                 /* the folder, links in it resolved */
    char *config_path;         /* for errors: DIR/config.json, or the file that was named */
    json_t *config;            /* an object */
    json_t *generation_config; /* NULL when the folder has none */
    const char *model_type;    /* of config; "" when absent */
    bool     has_dtype;        /* config names a dtype ("dtype", else "torch_dtype"; "auto" counts as none) */
    am_dtype dtype;
    bool     has_auto_map; /* the model wants Python code of its own: an error unless a card fits it */
    int64_t *eos_ids;      /* generation_config.json's, else config.json's eos_token_id: one or a list */
    size_t   num_eos;

    am_safetensors **files; /* shards, by name */
    size_t           num_files;
    const am_safetensors_tensor **tensors; /* of all files, by file and offset */
    int64_t num_tensors, total_bytes;
    struct am_hf_packed *packed; /* private: tensors stored in 8 or 4 bits beside their scales (fp8 blocks, mxfp4); in `tensors` */
    size_t num_packed;           /* each is one BF16 tensor of the plain name, and am_hf_model_read dequantises */

    char **aux; /* files to carry verbatim into an export, relative to dir: tokenizer, chat templates, generation */
    size_t num_aux; /* config, licence.  Not README.md (it describes the original) and no Python code. */

    struct am_name_table *names; /* private: use am_hf_model_find */
} am_hf_model;

/** Where a model stands: a folder or file that exists; else `org/name` in the Hugging Face cache
 *  ($HF_HUB_CACHE, $HF_HOME/hub, $XDG_CACHE_HOME/huggingface/hub, ~/.cache/huggingface/hub; revision refs/main).
 *  The network is never used: a model that is not there is an error with the command that fetches it. */
am_status am_hf_resolve(const char *spec, char **out) AM_WARN_UNUSED;

/** Open a model: `spec` as for am_hf_resolve, or the path of a config.json alone (weights are then never looked at).
 *  Weights are `model.safetensors`, else the files of `model.safetensors.index.json`, each one basename in the folder;
 *  a tensor in the index but not in its file, or in a file but not in the index, is an error.  The index's
 *  metadata.total_size is not compared: many published ones are wrong.  Memory: headers only. */
am_status am_hf_model_open(const char *spec, am_hf_weights weights, am_hf_model **out) AM_WARN_UNUSED;
void      am_hf_model_free(am_hf_model **m);

/** By name over all shards; NULL when there is none. */
const am_safetensors_tensor *am_hf_model_find(const am_hf_model *m, const char *name);
/** am_safetensors_read on the file that holds `t`. */
am_status am_hf_model_read(const am_hf_model *m, const am_safetensors_tensor *t, int64_t begin, int64_t count, void *dst,
                           am_dtype dst_dtype) AM_WARN_UNUSED;
/** Copy the files of m->aux into another folder (made when missing), subfolders included, each one atomically. */
am_status am_hf_model_copy_aux(const am_hf_model *m, const char *dst_dir) AM_WARN_UNUSED;
/** Is `id` one of the end-of-sequence ids? */
bool am_hf_model_is_eos(const am_hf_model *m, int64_t id);

/* Getters over m->config with a dotted path; null counts as absent.
 * _i64, _f64, _bool, _str: the value, or `fallback` when absent; AM_ERR_MODEL naming file and key when of another type. */
am_status am_hf_config_i64(const am_hf_model *m, const char *path, int64_t fallback, int64_t *out) AM_WARN_UNUSED;
am_status am_hf_config_f64(const am_hf_model *m, const char *path, double fallback, double *out) AM_WARN_UNUSED;
am_status am_hf_config_bool(const am_hf_model *m, const char *path, bool fallback, bool *out) AM_WARN_UNUSED;
am_status am_hf_config_str(const am_hf_model *m, const char *path, const char *fallback, const char **out) AM_WARN_UNUSED;

#endif
