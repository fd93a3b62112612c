/* cli_support: what several commands share: opening MODEL|CHECKPOINT, looking at directories, leaving with one message. */
#ifndef AM_CLI_SUPPORT_H
#define AM_CLI_SUPPORT_H

#include "ckpt/ckpt.h"
#include "config/config.h"
#include "graph/model.h"
#include "hf/tokenizer.h"
#include "train/engine.h"

/* ---- MODEL|CHECKPOINT ------------------------------------------------------------------------------------------ */

/* Where weights come from: a model directory, or a checkpoint together with the model it was trained from. */
typedef struct am_cli_source {
    char         *step_dir;   /* the checkpoint's step directory; NULL: a model */
    am_manifest  *manifest;   /* NULL: a model */
    am_ckpt_state state;      /* of the manifest */
    am_config    *recipe;     /* of the checkpoint; NULL where there is none or it does not parse any more */
    const char  **ignore;     /* model.ignore_config_keys of the recipe */
    am_model     *model;      /* config, tokenizer, card; weights as asked for */
} am_cli_source;

typedef struct am_cli_source_options {
    am_hf_weights weights;   /* of a model; beside a checkpoint REQUIRED means OPTIONAL: it has its own */
    const char   *card;      /* --card; NULL: the recipe's, the checkpoint's family, or by model_type */
    const char   *model_dir; /* --model: where a checkpoint's source model stands now; NULL: where it stood */
} am_cli_source_options;

/** The step directory that `spec` names: itself when it holds manifest.json (or is called step_…), else the newest complete
 *  step of it or of its checkpoints/.  *out NULL: no checkpoint (then it should be a model). */
am_status am_cli_find_step(const char *spec, char **out) AM_WARN_UNUSED;
/** @param[out] out  released by am_cli_source_release, also after a failure. */
am_status am_cli_source_open(const char *spec, const am_cli_source_options *o, am_cli_source *out) AM_WARN_UNUSED;
void      am_cli_source_release(am_cli_source *s);
/** Master weights into the store, from the checkpoint (every piece's hash is compared first) or the model. */
am_status am_cli_source_load(const am_cli_source *s, am_exec *e, const am_program *p) AM_WARN_UNUSED;
/** "float32", "bfloat16" …: `text`, else what config.json says where we compute in it, else float32. */
am_status am_cli_compute_dtype(const char *text, const am_hf_model *m, am_dtype *out) AM_WARN_UNUSED;
/** Refuses a tokenizer whose ids go beyond the model's vocabulary, unless those ids are added tokens (then one line says so). */
am_status am_cli_check_tokenizer(const am_tokenizer *t, const am_hf_model *m) AM_WARN_UNUSED;

/* ---- ranks ------------------------------------------------------------------------------------------------------- */

/** AM_ERR_USAGE when there are several ranks.  [collective] */
am_status am_cli_one_rank(am_engine *e, const char *command) AM_WARN_UNUSED;

/* ---- files ------------------------------------------------------------------------------------------------------- */

bool    am_cli_is_dir(const char *path);
/** Names in `dir` that match `pattern` (am_glob_match), sorted; *count 0 when there are none or `dir` is no directory.
 *  Each name and the list are freed by am_cli_free_names. */
am_status am_cli_list(const char *dir, const char *pattern, char ***names, size_t *count) AM_WARN_UNUSED;
void      am_cli_free_names(char ***names, size_t count);
/** "1.23 GB", "45 kB": powers of 1000. */
const char *am_cli_bytes(int64_t bytes, char out[32]);
/** "1,234,567" */
const char *am_cli_thousands(int64_t n, char out[32]);

#endif
