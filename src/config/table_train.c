/* Options of the run as a whole: top level, step_scheduler, rng, dist_env, run, checkpoint. */
#include "config/config_internal.h"

#define DISTILL "knowledge distillation is not offered: remove this key and train on the teacher's texts"

const am_target am_targets_recipe[] = {
    {.name = "TrainFinetuneRecipeForNextTokenPrediction",
     .roots = "nemo_automodel|automodel",
     .example = "TrainFinetuneRecipeForNextTokenPrediction",
     .help = "fine-tuning and pretraining"},
    {.name = "BenchmarkingRecipeForNextTokenPrediction",
     .roots = "nemo_automodel",
     .remedy =
         "benchmarks are not run from recipes; to train, write TrainFinetuneRecipeForNextTokenPrediction"},
    {.name = "KnowledgeDistillationRecipeForNextTokenPrediction",
     .roots = "nemo_automodel",
     .remedy = "train on the teacher's texts with TrainFinetuneRecipeForNextTokenPrediction"},
    {.name = "TrainFinetuneRecipeForSequenceClassification",
     .roots = "nemo_automodel",
     .remedy = "only next-token prediction is trained here: write TrainFinetuneRecipeForNextTokenPrediction"},
    {0},
};

const am_option am_options_top[] = {
    AM_OPT("recipe", TARGET, "TrainFinetuneRecipeForNextTokenPrediction", "What the run does.",
           .targets = am_targets_recipe, .conditional = true),
    AM_OPT_ALIAS("recipe._target_", "recipe"),
    AM_OPT_ALIAS("seed", "rng.seed"),
    AM_OPT_NO_EFFECT("nvtx", "profiler ranges of the other implementation"),
    AM_OPT_REFUSED("kd_ratio", "0|0.0", DISTILL),
    AM_OPT_REFUSED("separate_meshes", "false", DISTILL),
    AM_OPT_REFUSED("longalign", "false", "remove it; long samples are packed by `packed_sequence`"),
    {0},
};

const am_option am_options_step_scheduler[] = {
    AM_OPT("global_batch_size", INT, "32",
           "Sequences of one optimizer step, over all ranks and accumulation.", .units = "sequences",
           .range = "[1, inf)"),
    AM_OPT("local_batch_size", INT, "1",
           "Sequences of one micro-batch of one rank; the number of accumulated "
           "micro-batches follows from it.",
           .units = "sequences", .range = "[1, inf)"),
    AM_OPT("max_steps", INT, NULL, "End of the run; none: by num_epochs.", .units = "steps",
           .range = "[1, inf)"),
    AM_OPT("num_epochs", INT, NULL,
           "Passes over the data; none: 1, or as many as max_steps needs when that is "
           "given.",
           .units = "epochs", .range = "[1, inf)"),
    AM_OPT("ckpt_every_steps", INT, NULL,
           "Save a checkpoint every so many steps (one is always saved at the end).", .units = "steps",
           .range = "[1, inf)"),
    AM_OPT("save_checkpoint_every_epoch", BOOL, "true", "Save a checkpoint at the end of every epoch."),
    AM_OPT("val_every_steps", INT, NULL, "Evaluate every so many steps.", .units = "steps",
           .range = "[1, inf)"),
    AM_OPT_NO_EFFECT("preemption_signal", "each of SIGTERM, SIGINT, SIGUSR1 and SIGUSR2 saves, commits and ends the run with exit code 6"),
    AM_OPT_NO_EFFECT("gc_every_steps", "nothing is garbage-collected"),
    AM_OPT_NO_EFFECT("log_remote_every_steps", "every step is written to training.jsonl"),
    AM_OPT_NO_EFFECT("loss_average_window_steps", "every step's own loss is logged"),
    AM_OPT_REFUSED("start_step", "0", "the checkpoint says where to go on: use `checkpoint.restore_from`"),
    AM_OPT_REFUSED("start_epoch", "0", "the checkpoint says where to go on: use `checkpoint.restore_from`"),
    {0},
};

const am_option am_options_rng[] = {
    AM_OPT("seed", INT, "1111", "Of everything random: data order, initial weights, dropout.",
           .range = "[0, inf)"),
    AM_OPT_NO_EFFECT("ranked", "random numbers are functions of the element, never of the rank"),
    {0},
};
const am_target am_targets_rng[] = {
    {.name = "StatefulRNG",
     .roots = "nemo_automodel",
     .example = "nemo_automodel.components.training.rng.StatefulRNG"},
    {0},
};

const am_option am_options_dist_env[] = {
    AM_OPT("timeout_minutes", FLOAT, "10",
           "A rank that waits longer for another ends the job with exit code 7.", .units = "minutes",
           .range = "(0, inf)"),
    AM_OPT_NO_EFFECT("backend", "communication follows from run.device and the launcher"),
    AM_OPT_NO_EFFECT("init_method", "ranks come from the launcher"),
    {0},
};

const am_option am_options_run[] = {
    AM_OPT("dir", STRING, NULL,
           "Run directory (config.yaml, run.json, training.jsonl …); none: runs/run."),
    AM_OPT("data_dir", STRING, NULL,
           "Where prepare puts the token shards of this recipe; none: data in run.dir. Runs may share it."),
    AM_OPT("device", ENUM, "cpu", "guarded: as cpu, with device memory the host cannot touch (for tests).",
           .values = "cpu|guarded"),
    AM_OPT("threads", INT, NULL, "Threads of one rank; none: the cores the rank is bound to.",
           .units = "threads", .range = "[1, 4096]"),
    AM_OPT("huge_pages", ENUM, "auto",
           "Transparent huge pages for weights, states and activations; auto: unless in a virtual machine, "
           "where the first touch of a huge page can cost several times that of small pages.",
           .values = "auto|true|false"),
    AM_OPT("fuse", BOOL, "true", "Fused operators where there are some; false: their unfused twins, to compare."),
    {0},
};

#define OWN_WRITER "shards are streamed, with bounded memory, by every rank"

const am_option am_options_checkpoint[] = {
    AM_OPT("enabled", BOOL, "true", "Save checkpoints at all."),
    AM_OPT("checkpoint_dir", STRING, NULL, "none: checkpoints/ in the run directory."),
    AM_OPT("model_save_format", ENUM, "safetensors", "Format of saved weights.",
           .values = "safetensors|torch_save", .conditional = true),
    AM_OPT("save_consolidated", ENUM, "final", "When to write a Hugging Face directory beside the shards.",
           .values = "final|every|false", .map = "true=every"),
    AM_OPT("is_async", BOOL, "false", "Train on while the checkpoint is being written."),
    AM_OPT("max_recent_checkpoints", INT, NULL, "Older ones are removed; none: all are kept.",
           .units = "checkpoints", .range = "[1, inf)"),
    AM_OPT("best_metric_key", STRING, "default", "Validation set whose loss decides the best checkpoint.",
           .conditional = true),
    AM_OPT("restore_from", STRING, NULL, "LATEST or a checkpoint's path; none: LATEST where there is one."),
    AM_OPT_NO_EFFECT("staging_dir", OWN_WRITER),
    AM_OPT_NO_EFFECT("wait_for_staging", OWN_WRITER),
    AM_OPT_NO_EFFECT("cpu_offload", OWN_WRITER),
    AM_OPT_NO_EFFECT("single_rank_consolidation", OWN_WRITER),
    AM_OPT_NO_EFFECT("consolidation_timeout_minutes", OWN_WRITER),
    AM_OPT_NO_EFFECT("dequantize_base_checkpoint", "weights on disk are decoded as their dtype says"),
    AM_OPT_NO_EFFECT("model_cache_dir", "the model's own directory is read"),
    AM_OPT_NO_EFFECT("model_repo_id", "the model's own directory is read"),
    AM_OPT_NO_EFFECT("original_model_root_dir", "the model's own directory is read"),
    AM_OPT_NO_EFFECT("model_state_dict_keys", "names come from the model's files"),
    AM_OPT_NO_EFFECT("is_peft", "it follows from the model"),
    AM_OPT_REFUSED("skip_task_head_prefixes_for_base_model", NULL,
                   "only causal language models are trained: remove it"),
    AM_OPT_REFUSED("allow_legacy_pickle_restore", "false",
                   "pickles can run code: convert the checkpoint to safetensors"),
    AM_OPT_REFUSED("v4_compatible", "false", "the model's own config.json is exported unchanged: remove it"),
    AM_OPT_REFUSED("diffusers_compatible", "false", "only language models are exported: remove it"),
    {0},
};
