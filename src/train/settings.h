/* settings: a recipe as the numbers a run needs, checked against each other and against the number of ranks. */
#ifndef AM_SETTINGS_H
#define AM_SETTINGS_H

#include "config/config.h"
#include "data/data.h"
#include "graph/model.h"
#include "graph/program.h"
#include "optim/optim.h"

typedef struct am_settings {
    const am_config *cfg;
    const char *model_spec, *card;
    bool        from_config; /* fresh random weights */
    const char **ignore, **freeze;
    int         num_ignore, num_freeze;
    am_dtype    compute;
    int64_t     ranks, dp, global_rows, local_rows, micro_batches, seq_len;
    am_mesh     mesh;
    uint64_t    seed;
    am_recompute recompute;
    bool        packed, shuffle, overlap, reshard, defer_sync, fuse;
    am_long_samples long_samples;
    int64_t     limit_samples, num_epochs, max_steps, ckpt_every, val_every; /* 0 = not given */
    bool        ckpt_every_epoch, ckpt_enabled, ckpt_async, export_final, export_every;
    int         ckpt_keep;
    const char *restore_from;
    double      max_norm, timeout_seconds;
    am_adamw    adamw;
    char       *run_dir, *ckpt_dir;
    const char *device;
    int         threads;
    const char *huge_pages;
} am_settings;

/** @param ranks  of the job (or those of a dry run).  @return AM_ERR_CONFIG with the place in the recipe. */
am_status am_settings_read(const am_config *cfg, const am_model *model, int64_t ranks, am_settings *out) AM_WARN_UNUSED;
void      am_settings_release(am_settings *s);
/** Only what is needed before the model is opened: spec, card, ignored keys, device, threads, timeout. */
am_status am_settings_begin(const am_config *cfg, am_settings *out) AM_WARN_UNUSED;

/** Learning-rate schedule for a run of total_steps. */
am_status am_settings_schedule(const am_settings *s, int64_t total_steps, am_lr_schedule *out) AM_WARN_UNUSED;
/** Options for compiling a program of this run for `rank`.  Parameter groups are resolved over `g`'s parameters; *groups is the
 *  caller's to free. */
am_status am_settings_program(const am_settings *s, am_program_kind kind, int64_t rank, int threads, const am_graph *g,
                              am_program_options *out, am_param_group **groups) AM_WARN_UNUSED;
/** Open the shards of a dataset section ("dataset", "validation_dataset…").  training: shuffled, epochs counted. */
am_status am_settings_dataset(const am_settings *s, const char *section, bool training, const char *tokenizer_sha256, int64_t vocab_size,
                              am_dataset **out) AM_WARN_UNUSED;

#endif
