/* train_internal: the state of a run, shared by train.c (start, loop, end) and save.c (checkpoints, exports, run files). */
#ifndef AM_TRAIN_INTERNAL_H
#define AM_TRAIN_INTERNAL_H

#include "ckpt/ckpt.h"
#include "train/engine.h"
#include "train/evaluate.h"
#include "train/metrics.h"
#include "train/run_dir.h"
#include "train/settings.h"
#include "train/train.h"

#include "hf/tokenizer.h"

enum { AM_MAX_VALIDATIONS = 8, AM_TRAIN = 0, AM_EVAL = 1 };

typedef struct am_run {
    const am_config *cfg;
    am_settings      s;
    am_engine       *engine;
    am_run_dir      *dir; /* held until the end */
    am_model        *model;
    am_program      *program[2]; /* AM_TRAIN, AM_EVAL */
    int              num_programs;
    am_exec         *exec;
    am_dataset      *data, *validation[AM_MAX_VALIDATIONS];
    const char      *validation_name[AM_MAX_VALIDATIONS];
    int              num_validations;
    am_prefetch     *prefetch;
    am_evaluator    *evaluator;
    am_ckpt         *ckpt;
    am_metrics      *metrics; /* rank 0 */
    am_lr_schedule   schedule;
    am_str           recipe; /* resolved */
    int32_t         *scratch;
    struct am_control *control; /* [ranks] */
    int64_t          total_steps, steps_per_epoch, step, tokens; /* step: completed; tokens: trained on */
    int64_t          saved_at, evaluated_at; /* steps, -1 = never */
    int64_t          step_targets;
    int              skipped_in_a_row;
    am_start_clock  *clock; /* NULL: nobody asks how long the start takes */
} am_run;

/** All ranks read the same recipe and the same data and are the same binary; else the first other one is named, with the difference.
 *  [collective] */
am_status am_run_identify(am_run *r) AM_WARN_UNUSED;
/** config.yaml, run.json, program.txt.  Rank 0. */
am_status am_run_write_files(am_run *r) AM_WARN_UNUSED;
/** Begin (and, unless async, finish) a checkpoint of the current step.  [collective] */
am_status am_run_save(am_run *r) AM_WARN_UNUSED;
/** Load the checkpoint that the recipe asks for, or the latest; else the model's weights.  Sets r->step.  [collective] */
am_status am_run_restore(am_run *r) AM_WARN_UNUSED;
/** RUN_DIR/hf/step_X: the last checkpoint as a Hugging Face directory.  [collective] */
am_status am_run_export(am_run *r) AM_WARN_UNUSED;

#endif
