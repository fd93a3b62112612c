/* ckpt_internal: pieces and manifests, for the files of src/ckpt. */
#ifndef AM_CKPT_INTERNAL_H
#define AM_CKPT_INTERNAL_H

#include "ckpt/ckpt.h"

#define AM_CKPT_ROLES 3 /* master, m, v */
extern const char *const am_ckpt_role_name[AM_CKPT_ROLES];
enum { AM_CKPT_CHUNK = 1 << 18 }; /* elements moved at a time: bounds the memory of loading, saving and exporting */

/* A range of one parameter that this rank holds (and, when saving, writes: replicas share the work). */
typedef struct am_piece {
    int      param, unit, role;
    int64_t  begin, count;   /* elements of the parameter */
    int64_t  in_shard;       /* first element within this rank's shard of the unit */
    uint64_t hash;           /* XXH3 of the bytes, filled at capture */
    int64_t  tensor;         /* index in the writer */
} am_piece;

typedef struct am_pieces { am_piece *at; size_t n, cap; } am_pieces;

/** What this rank holds of every parameter in every role it has; `split` cuts a shard among its replicas. */
am_status am_pieces_list(const am_program *p, bool split, am_pieces *out) AM_WARN_UNUSED;

/* A piece as a manifest tells it. */
typedef struct am_stored_piece {
    const char *param;
    int         role, file;
    int64_t     begin, count;
    uint64_t    hash;
} am_stored_piece;

struct am_manifest {
    char            *dir;
    json_t          *json;
    am_ckpt_state    state;
    am_stored_piece *piece;
    size_t           num_pieces;
    am_safetensors **file; /* opened on first use */
    char           **file_name;
    int              num_files;
    am_dtype         dtype;
    const char      *save_id;
};

/** Elements [begin, begin+count) of a parameter in a role, put together from pieces. */
am_status am_manifest_read(am_manifest *m, const char *param, int role, int64_t begin, int64_t count, void *dst, am_dtype dtype)
    AM_WARN_UNUSED;
am_status am_manifest_file(am_manifest *m, int file, am_safetensors **out) AM_WARN_UNUSED;
am_status am_step_dir(const char *dir, int64_t step, char **out) AM_WARN_UNUSED;

/** Elements [begin, begin+count) of a parameter from the model's files, as the graph lays it out. */
am_status am_disk_read(const am_hf_model *m, const am_param *p, int64_t begin, int64_t count, void *dst, am_dtype dtype) AM_WARN_UNUSED;

#endif
