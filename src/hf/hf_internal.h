/* Private to src/hf: the name table, the folder that opens only what lies beneath it, the header parser. */
#ifndef AM_HF_INTERNAL_H
#define AM_HF_INTERNAL_H

#include "hf/hf.h"

/* an error of a safetensors file: the sentence, then its code (a name of AM_SAFETENSORS_ERROR_LIST, checked here) */
enum {
#define X(e, doc) AM_SAFETENSORS_##e,
    AM_SAFETENSORS_ERROR_LIST(X)
#undef X
};
#define AM_SAFETENSORS_FAIL(code_, st_, fmt_, ...)                                             \
    do {                                                                                       \
        (void)AM_SAFETENSORS_##code_;                                                          \
        AM_FAIL((st_), fmt_ " [safetensors/" #code_ "]", __VA_ARGS__);                         \
    } while (0)
#define AM_SAFETENSORS_CHECK(cond_, code_, ...)                                                \
    do {                                                                                       \
        if (!(cond_)) AM_SAFETENSORS_FAIL(code_, AM_ERR_MODEL, __VA_ARGS__);                   \
    } while (0)

/* ---- names → numbers ------------------------------------------------------------------------- */

/* Open addressing over borrowed keys, which must outlive the table. */
typedef struct am_name_table am_name_table;
am_status am_name_table_create(am_name_table **out) AM_WARN_UNUSED;
/** Insert key → value unless the key is there; *existing is its value then, -1 otherwise. */
am_status am_name_table_insert(am_name_table *t, const char *key, int64_t value, int64_t *existing) AM_WARN_UNUSED;
int64_t   am_name_table_find(const am_name_table *t, const char *key); /* -1: not there */
void      am_name_table_free(am_name_table **t);

/* ---- a model's folder -------------------------------------------------------------------------- */

typedef struct am_hf_dir {
    int   fd;       /* -1 when not open */
    char *path;     /* real path */
    bool  snapshot; /* …/models--X/snapshots/REV: links to ../../blobs/HASH are followed */
} am_hf_dir;

am_status am_hf_dir_open(const char *path, am_hf_dir *out) AM_WARN_UNUSED;
void      am_hf_dir_release(am_hf_dir *d);
/** True for one path component that names a file: not empty, ".", "..", and without '/'. */
bool am_hf_is_basename(const char *name);
/** Is there an entry of this name (whatever it is)?  rel is NAME or FOLDER/NAME. */
bool am_hf_dir_has(const am_hf_dir *d, const char *rel);
/** Open a regular file beneath the folder.  rel is NAME or FOLDER/NAME.  @return AM_ERR_MODEL, AM_ERR_IO. */
am_status am_hf_dir_open_file(const am_hf_dir *d, const char *rel, int *fd) AM_WARN_UNUSED;
/** Whole file, NUL-terminated beyond *len, at most max_bytes. */
am_status am_hf_dir_read(const am_hf_dir *d, const char *rel, size_t max_bytes, char **text, size_t *len) AM_WARN_UNUSED;
/** Names in the folder, or in its subfolder `sub` when not NULL (none when that is missing), sorted. */
am_status am_hf_dir_list(const am_hf_dir *d, const char *sub, char ***names, size_t *count) AM_WARN_UNUSED;
void      am_hf_names_free(char ***names, size_t count);
/** Does the name end in .bin, .pt, .pth, .pkl, .pickle or .ckpt? */
bool am_hf_is_pickle_name(const char *name);

/* ---- safetensors header ------------------------------------------------------------------------- */

typedef struct am_safetensors_pair {
    const char *key, *value;
} am_safetensors_pair;

typedef struct am_safetensors_header {
    am_safetensors_tensor *tensors; /* sorted by offset, which is absolute */
    int64_t                num_tensors;
    am_safetensors_pair   *metadata;
    int64_t                num_metadata;
    am_name_table         *names; /* → index in tensors */
} am_safetensors_header;

/** Parse and check `text` (len bytes, text[len] == 0; rewritten in place: names point into it and it must live on) of a
 *  file of file_bytes bytes. */
am_status am_safetensors_header_parse(char *text, size_t len, int64_t file_bytes, const char *path,
                                      am_safetensors_header *out) AM_WARN_UNUSED;
void      am_safetensors_header_release(am_safetensors_header *h);

/** fsync the folder that holds `path`. */
am_status am_hf_sync_dir_of(const char *path) AM_WARN_UNUSED;
/** Mark the tensors of a file as those of shard `index`. */
void am_safetensors_set_file(am_safetensors *f, int index);

/* ---- text ---------------------------------------------------------------------------------------- */

/** 1-based line and column (in characters) of byte `at`. */
void am_text_position(const char *text, size_t at, int64_t *line, int64_t *column);
/** Length of the valid UTF-8 prefix of s[0..n): n when all of it is (no overlong forms, no surrogates). */
size_t am_utf8_valid(const char *s, size_t n);

/* ---- packed tensors (packed.c) ------------------------------------------------------------------------ */

typedef struct am_hf_packed am_hf_packed;
/** Where config.json has a quantization_config: put one BF16 tensor in the place of every packed one and its scales.
 *  @return AM_ERR_MODEL: a method that cannot be read, scales that do not fit. */
am_status am_hf_packed_collect(am_hf_model *m) AM_WARN_UNUSED;
void      am_hf_packed_free(am_hf_model *m);
/** The packed form of a tensor of m->tensors; NULL: it is plain. */
const am_hf_packed *am_hf_packed_of(const am_hf_model *m, const am_safetensors_tensor *t);
am_status am_hf_packed_read(const am_hf_model *m, const am_hf_packed *p, int64_t begin, int64_t count, void *dst,
                            am_dtype dtype) AM_WARN_UNUSED;

/* ---- config.json ----------------------------------------------------------------------------------- */

/** Read what am_hf_model promises of m->config and m->generation_config (dtype, eos, model_type, auto_map). */
am_status am_hf_config_digest(am_hf_model *m) AM_WARN_UNUSED;

#endif
