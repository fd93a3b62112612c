/* ckpt_internal: pieces, directories and manifests, for the files of src/ckpt.
 *
 *   pieces.c     what a rank holds: element ranges of parameters
 *   directory.c  step directories: names, listing, removal, files opened beneath them
 *   save.c       the object, the collective side of a save;  write.c  one rank's file: capture, write, read back
 *   commit.c     the manifest, retention
 *   manifest.c   a manifest read and checked;      read.c    its files: verified, read in any layout, loaded
 *   latest.c     the newest valid checkpoint;      load_model.c, export.c  Hugging Face models in and out */
#ifndef AM_CKPT_INTERNAL_H
#define AM_CKPT_INTERNAL_H

#include "ckpt/ckpt.h"

#include <pthread.h>

#define AM_CKPT_ROLES 3 /* master, m, v */
extern const char *const am_ckpt_role_name[AM_CKPT_ROLES];
enum { AM_CKPT_CHUNK = 1 << 18 }; /* elements moved at a time: bounds the memory of loading, saving and exporting */
enum { AM_CKPT_NAME_BYTES = 64 };

/* ---- pieces ------------------------------------------------------------------------------------------------------- */

/* A range of one parameter that this rank holds (and, when saving, writes: replicas share the work). */
typedef struct am_piece {
    int      param, unit, role, file; /* file: rank that wrote it, known at the commit */
    int64_t  begin, count;            /* elements of the parameter */
    int64_t  in_shard;                /* first element within this rank's shard of the unit */
    uint64_t hash;                    /* XXH3 of the bytes, filled at capture */
    int64_t  tensor;                  /* index in the writer */
} am_piece;

typedef struct am_pieces { am_piece *at; size_t n, cap; } am_pieces;

/** What this rank holds of every parameter in every role it has; `split` cuts a shard among its replicas. */
am_status am_pieces_list(const am_program *p, bool split, am_pieces *out) AM_WARN_UNUSED;
/** By parameter, role, first element. */
void am_pieces_sort(am_piece *piece, size_t n);
/** Do sorted pieces hold every element of every parameter in every role it has, once?  The error names the first gap. */
am_status am_pieces_check_whole(const am_program *p, const am_piece *piece, size_t n) AM_WARN_UNUSED;

/* ---- directories ---------------------------------------------------------------------------------------------------- */

typedef struct am_step_entry { int64_t step; bool committed; /* has a manifest, valid or not */ } am_step_entry;

am_status am_step_dir(const char *dir, int64_t step, char **out) AM_WARN_UNUSED;
/** Step directories under `dir`, newest first: real folders (no links) whose name is exactly that of am_step_dir.
 *  A `dir` that does not exist holds none; one that cannot be read is an error. */
am_status am_steps_list(const char *dir, am_step_entry **out, size_t *n) AM_WARN_UNUSED;
/** Remove a step directory and everything in it, the manifest first; links are removed and never followed. */
am_status am_step_remove(const char *dir, int64_t step) AM_WARN_UNUSED;
/** Make a step directory (it may be there; a link or a file of this name is refused). */
am_status am_step_make(const char *step_dir) AM_WARN_UNUSED;
/** Remove the plain files of a step directory that `keep` (JSON array of {"name"}) does not list; subfolders stay. */
void am_step_sweep(const char *step_dir, const json_t *keep);
/** fsync a folder, and, with `ancestors`, the folders above it as far as they can be opened. */
am_status am_dir_sync(const char *dir, bool ancestors) AM_WARN_UNUSED;
/** Make the checkpoint directory when missing, flush it and the folders above; refused when everybody may write to it: a later
 *  start would refuse what stands there. */
am_status am_dir_prepare(const char *dir) AM_WARN_UNUSED;
/** A folder's descriptor; refused when others may write to it or to its parent (a sticky bit excuses). */
am_status am_dir_open(const char *dir, int *fd) AM_WARN_UNUSED;
/** Open a regular file beneath a folder for reading; no link is followed.  `path` names it in errors. */
am_status am_file_open_beneath(int dir_fd, const char *name, const char *path, int *fd) AM_WARN_UNUSED;

/* ---- files of a checkpoint -------------------------------------------------------------------------------------------- */

/* A rank's file as the manifest knows it: its size, and the hash of what stands before the data. */
typedef struct am_rank_file { int64_t bytes; uint64_t header; } am_rank_file;

/** Size and header hash of an open safetensors file; the descriptor stays open. */
am_status am_rank_file_look(int fd, const char *path, am_rank_file *out) AM_WARN_UNUSED;
/** XXH3 of a tensor's bytes, read through `chunk` (AM_CKPT_CHUNK elements). */
am_status am_tensor_hash(const am_safetensors *f, const am_safetensors_tensor *t, void *chunk, uint64_t *hash) AM_WARN_UNUSED;

/* ---- saving ------------------------------------------------------------------------------------------------------------ */

struct am_ckpt {
    char             *dir, *step_dir, *last;
    am_ckpt_options   o;
    am_exec          *e;
    const am_program *p;
    am_comm          *c;
    am_pieces         pieces;
    char             *staging; /* async: all pieces one after the other; NULL otherwise */
    void             *chunk;   /* the writer's */
    am_ckpt_state     state;
    char             *recipe, *model_dir, *family;
    char              save_id[33];
    bool              again; /* the step directory has a manifest already: files get names that the old ones do not have */
    am_rank_file      file;  /* as written by this rank */
    pthread_t         thread;
    pthread_mutex_t   lock;
    pthread_cond_t    changed;
    bool              has_lock, busy, written, threaded, unreported;
    bool              made; /* this rank's file may stand under its name */
    am_status         status;       /* of the writer, valid once `written` */
    char              message[512]; /* likewise: its error trace belongs to its thread */
    char              failure[640]; /* of the last save, "" when it was committed */
};

/** Async: slots → staging, with their hashes. */
am_status am_ckpt_capture(am_ckpt *k) AM_WARN_UNUSED;
/** Start the writer thread; a failure to do so is the save's failure.  `written` comes with the end, whatever it is. */
void am_ckpt_start_writer(am_ckpt *k);
/** Has the writer ended?  Waits for it at most so long. */
bool am_ckpt_wait_written(am_ckpt *k, double seconds);
/** Name of a rank's file in a save. */
void am_rank_file_name(const am_ckpt *k, int rank, char out[AM_CKPT_NAME_BYTES]);
/** Collective.  All ranks have written: gather the pieces, write the manifest, retain.  *reason: "" or why it was not committed;
 *  the status tells only of failures that must end the run. */
am_status am_ckpt_commit(am_ckpt *k, char *reason, size_t size) AM_WARN_UNUSED;

/* ---- manifests ----------------------------------------------------------------------------------------------------------- */

typedef struct am_stored_piece {
    int      file;
    int64_t  begin, count;
    uint64_t hash;
} am_stored_piece;

typedef struct am_stored_tensor {
    const char      *name;
    int              rank;
    int64_t          dim[AM_HF_MAX_RANK], elements;
    bool             trainable;
    am_stored_piece *piece[AM_CKPT_ROLES]; /* by first element; they tile the tensor */
    size_t           num_pieces[AM_CKPT_ROLES];
} am_stored_tensor;

typedef struct am_stored_file {
    char           *path, *name;
    am_rank_file    expected;
    am_safetensors *open; /* on first use */
} am_stored_file;

struct am_manifest {
    char             *dir, *path;
    int               dir_fd;
    json_t           *body;
    am_ckpt_state     state;
    am_stored_tensor *tensor; /* by name */
    size_t            num_tensors;
    am_stored_file   *file;
    int               num_files, num_open, evict;
    am_dtype          dtype;
    const char       *save_id;
};

const am_stored_tensor *am_manifest_find(const am_manifest *m, const char *param);
/** Elements [begin, begin+count) of a parameter in a role, put together from pieces. */
am_status am_manifest_read(am_manifest *m, const char *param, int role, int64_t begin, int64_t count, void *dst, am_dtype dtype)
    AM_WARN_UNUSED;
/** Open a file (or find it open): a regular file of the right size, header and save. */
am_status am_manifest_file(am_manifest *m, int file, am_safetensors **out) AM_WARN_UNUSED;

/** Elements [begin, begin+count) of a parameter from the model's files, as the graph lays it out. */
am_status am_disk_read(const am_hf_model *m, const am_param *p, int64_t begin, int64_t count, void *dst, am_dtype dtype)
    AM_WARN_UNUSED;

#endif
