/* ckpt: model weights in and out of the parameter store; checkpoints.
 *
 *   am_ckpt_load_model   HF directory ─► master slots: each rank preads only its own slices
 *   am_ckpt_save_*       slots ─► step_00000100/{rank-00000.safetensors …, manifest.json}: capture, write, commit
 *   am_ckpt_load         any layout's checkpoint ─► this layout's slots
 *   am_ckpt_export       checkpoint or model ─► Hugging Face safetensors, with bounded memory
 *
 * A piece is a range of one parameter's elements (row major, as on disk for a plain tensor) in one role (master, m, v).  Its
 * hash is taken at capture, and a file counts as written only after it was read back and matched.  The manifest is written last,
 * by rank 0, after all ranks agreed that their files are on disk: a directory without a valid manifest is no checkpoint.  Padding
 * of units is never saved. */
#ifndef AM_CKPT_H
#define AM_CKPT_H

#include "comm/comm.h"
#include "graph/program.h"
#include "hf/hf.h"

/* ---- weights ------------------------------------------------------------------------------------------- */

/** Fill the master slots of this rank from the model's files, by as many threads as the program has.  [not collective]
 *  @return AM_ERR_MODEL naming tensor and file. */
am_status am_ckpt_load_model(am_exec *e, const am_program *p, const am_hf_model *m) AM_WARN_UNUSED;

/* ---- what a checkpoint remembers besides tensors ------------------------------------------------------------ */

typedef struct am_ckpt_state {
    int64_t  step;          /* completed steps */
    int64_t  samples;       /* data cursor: index of the next packed sample */
    int64_t  tokens;        /* trained on so far */
    uint64_t seed, data_hash;
    const char *recipe;     /* resolved YAML */
    const char *model_dir;  /* where the source model stands: config, tokenizer */
    const char *family;     /* the card */
} am_ckpt_state;

typedef struct am_ckpt am_ckpt;

typedef struct am_ckpt_options {
    const char *dir;       /* run's checkpoint directory; made when missing */
    int         keep;      /* most recent checkpoints kept, the one just committed included; 0 = all */
    bool        async;     /* stage in host memory, write while training goes on */
    double      test_write_delay; /* tests: seconds before this rank's file is complete; AM_CKPT_DELAY_S=SECONDS[@RANK] */
} am_ckpt_options;

/** Host bytes of the staging buffer that async needs on this rank. */
int64_t   am_ckpt_staging_bytes(const am_program *p);
/** Bytes of one checkpoint of all ranks together. */
int64_t   am_ckpt_total_bytes(const am_program *p);
/** Makes the directory.  One that everybody may write to is refused (AM_ERR_CHECKPOINT).  [collective] */
am_status am_ckpt_create(const am_ckpt_options *o, am_exec *e, const am_program *p, am_comm *c, am_ckpt **out) AM_WARN_UNUSED;
/** Waits for a writer; a write in progress is not committed (am_ckpt_poll does). */
void      am_ckpt_free(am_ckpt **k);
/** Is there room for `count` checkpoints and one export?  Rank 0 looks, all ranks get the answer.  [collective] */
am_status am_ckpt_check_space(am_ckpt *k, int count, int64_t extra_bytes) AM_WARN_UNUSED;
/** Capture and start writing (async) or write.  A write in progress is finished first.  AM_OK also when the save failed: ask
 *  am_ckpt_poll or am_ckpt_failure.  A step that was saved before is replaced at once, at the commit.  [collective] */
am_status am_ckpt_save(am_ckpt *k, const am_ckpt_state *state) AM_WARN_UNUSED;
/** Commit a write in progress when all ranks are done; with `wait`, be done.  A save that failed (no space, an error of the
 *  disk, bytes read back that are not those captured) leaves the previous checkpoint, gives its space back and is reported once:
 *  *failed here, whether it was found here or in am_ckpt_save, and a sentence in the log; training may go on.  [collective]
 *  @return an error only where the run must end: communication, memory. */
am_status am_ckpt_poll(am_ckpt *k, bool wait, bool *failed) AM_WARN_UNUSED;
bool      am_ckpt_busy(const am_ckpt *k);
/** Directory of the last commit by this object, or NULL. */
const char *am_ckpt_last(const am_ckpt *k);
/** Why the last save that ended was not committed, naming the rank; NULL when it was. */
const char *am_ckpt_failure(const am_ckpt *k);

/* ---- reading ----------------------------------------------------------------------------------------------------- */

typedef struct am_manifest am_manifest;
/** Read and check a manifest: its own hash, its structure, every element of every tensor in one piece.  Links beneath the
 *  directory are not followed; a directory that everybody may write to is refused. */
am_status am_manifest_open(const char *step_dir, am_manifest **out) AM_WARN_UNUSED;
void      am_manifest_free(am_manifest **m);
am_ckpt_state am_manifest_state(const am_manifest *m); /* strings live as long as the manifest */
/** Check size, header and save of every file and hash every piece.  part/parts: this rank's share of the files.
 *  @return AM_ERR_CHECKPOINT naming file and tensor. */
am_status am_manifest_verify(const am_manifest *m, int part, int parts) AM_WARN_UNUSED;

/** The newest step directory under `dir` whose manifest and pieces are valid; older ones are tried in turn, each refusal logged
 *  with file and tensor; directories without a manifest are passed over.  [collective]
 *  @param[out] out NULL when there is no manifest at all.
 *  @return AM_ERR_CHECKPOINT when there are some and none is valid, or `dir` cannot be read. */
am_status am_ckpt_find_latest(const char *dir, am_comm *c, am_manifest **out) AM_WARN_UNUSED;
/** Read this rank's part of every slot.  The checkpoint must be of the same model: the same parameters and shapes.
 *  [not collective]  @return AM_ERR_CHECKPOINT naming tensor, role and range. */
am_status am_ckpt_load(am_exec *e, const am_program *p, const am_manifest *m) AM_WARN_UNUSED;

/* ---- export --------------------------------------------------------------------------------------------------------- */

typedef struct am_export_options {
    const char *out_dir;
    bool        has_dtype;
    am_dtype    dtype;           /* of floating tensors; else as in the source */
    int64_t     max_shard_bytes; /* 0 = 5 GB */
} am_export_options;

/** One process.  `manifest` NULL: the model itself; otherwise it is verified first, so that no corrupted weight goes out.
 *  `g` holds the parameters of the source model (card elaborated over `source`); tensors of the source that no parameter covers
 *  are carried over as they are.  config.json goes verbatim unless the dtype changes; tokenizer and further files do (m->aux).
 *  Memory: a few MB (one matrix where the disk has it transposed).
 *  @return AM_ERR_USAGE when out_dir holds weights; AM_ERR_CHECKPOINT, AM_ERR_MODEL naming the tensor. */
am_status am_ckpt_export(const am_manifest *manifest, const am_hf_model *source, am_graph *g, const am_export_options *o)
    AM_WARN_UNUSED;

#endif
