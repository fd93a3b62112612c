/* The sections of a recipe and how a key finds its row.  The rows stand in table_*.c, by group. */
#include "config/config_internal.h"

#include <string.h>

#define NO_EFFECT(n, why)                                                                                    \
    {                                                                                                        \
        .name = n, .effect = AM_EFFECT_NONE, .remedy = why                                                   \
    }
#define REFUSED(n, what)                                                                                     \
    {                                                                                                        \
        .name = n, .effect = AM_EFFECT_REFUSED, .remedy = what                                               \
    }
#define REFUSED_WHEN(n, key, what)                                                                           \
    {                                                                                                        \
        .name = n, .effect = AM_EFFECT_REFUSED, .enabled_key = key, .remedy = what                           \
    }

#define LOGGER                                                                                               \
    "remote loggers are not used; training.jsonl and validation.jsonl are always "     \
    "written"
#define DISTILL      "knowledge distillation is not offered: remove it and train on the teacher's texts"
#define OLD_PARALLEL "write its keys under `distributed:` (pp_size, activation_checkpointing, …)"

const am_section am_sections[] = {
    {.name = "", .help = "At top level", .options = am_options_top},
    {.name = "step_scheduler",
     .help = "Batch sizes, length of the run, when to evaluate and to save",
     .options = am_options_step_scheduler},
    {.name = "model",
     .help = "The model to train: a Hugging Face directory",
     .options = am_options_model,
     .targets = am_targets_model,
     .default_target = "NeMoAutoModelForCausalLM.from_pretrained"},
    {.name = "freeze_config",
     .help = "Parameters that stay as they are",
     .options = am_options_freeze_config},
    {.name = "distributed",
     .help = "How the model is cut over ranks",
     .options = am_options_distributed,
     .targets = am_targets_distributed,
     .default_target = "FSDP2Config"},
    {.name = "loss_fn",
     .help = "The loss: cross-entropy over the supervised tokens",
     .options = am_options_loss_fn,
     .targets = am_targets_loss_fn,
     .default_target = "MaskedCrossEntropy"},
    {.name = "dataset",
     .help = "What to train on",
     .options = am_options_dataset,
     .targets = am_targets_dataset},
    {.name = "validation_dataset*",
     .help = "What to evaluate on; several named ones are taken "
             "(`validation_dataset`, `validation_dataset_code` …)",
     .options = am_options_dataset,
     .targets = am_targets_dataset},
    {.name = "packed_sequence",
     .help = "Packing of samples into sequences of one length",
     .options = am_options_packed_sequence},
    {.name = "dataloader",
     .help = "Order of the training samples",
     .options = am_options_dataloader,
     .targets = am_targets_dataloader,
     .default_target = "StatefulDataLoader"},
    {.name = "validation_dataloader*",
     .help = "Order of the validation samples",
     .options = am_options_validation_dataloader,
     .targets = am_targets_dataloader,
     .default_target = "StatefulDataLoader"},
    {.name = "optimizer",
     .help = "The optimizer",
     .options = am_options_optimizer,
     .targets = am_targets_optimizer,
     .default_target = "AdamW"},
    {.name = "lr_scheduler",
     .help = "Learning rate over the run; without this section it is constant",
     .options = am_options_lr_scheduler,
     .targets = am_targets_lr_scheduler,
     .default_target = "LRSchedulerConfig"},
    {.name = "clip_grad_norm", .help = "Gradient clipping", .options = am_options_clip_grad_norm},
    {.name = "checkpoint", .help = "Checkpoints and the exported model", .options = am_options_checkpoint},
    {.name = "rng",
     .help = "Random numbers",
     .options = am_options_rng,
     .targets = am_targets_rng,
     .default_target = "StatefulRNG"},
    {.name = "dist_env", .help = "Communication", .options = am_options_dist_env},
    {.name = "run", .help = "Where the run lives and on what it runs", .options = am_options_run},

    REFUSED("peft",
            "adapters (LoRA, DoRA) are not offered in this version: remove the section to train all weights, "
            "or freeze some by name with `freeze_config.patterns`"),
    REFUSED_WHEN("quantization", "load_in_4bit|load_in_8bit",
                 "quantised base weights (QLoRA) are not offered in this version: remove the section"),
    REFUSED_WHEN("fp8", "enabled",
                 "fp8 products are not offered in this version: write `fp8.enabled: false` to train "
                 "in `model.torch_dtype`"),
    REFUSED_WHEN("compile", "enabled",
                 "torch.compile has no counterpart, every program is compiled before the first "
                 "step: write `compile.enabled: false`"),
    REFUSED_WHEN("qat", "enabled", "quantisation-aware training is not offered: write `qat.enabled: false`"),
    REFUSED("neftune", "noise on embeddings is not offered: remove the section"),
    REFUSED("teacher_model", DISTILL),
    REFUSED("teacher_distributed", DISTILL),
    REFUSED("kd_loss_fn", DISTILL),
    REFUSED("tokenizer",
            "the tokenizer is the model's: prepare its directory, or name another by `dataset.tokenizer`"),
    REFUSED("autopipeline", OLD_PARALLEL),
    REFUSED("parallelizer", OLD_PARALLEL),
    REFUSED("distributed_config", OLD_PARALLEL),
    REFUSED("embedding_row_repair", "repair of embedding rows is not offered: remove the section"),
    REFUSED("tool_call_eval", "evaluation of tool calls during training is not offered: remove the section"),
    REFUSED("slurm", "recipes carry no job: use the scripts in slurm/"),
    REFUSED("moe", "write it as `distributed.moe`"),

    NO_EFFECT("ci", "test metadata"),
    NO_EFFECT("skypilot", "the launcher decides where it runs"),
    NO_EFFECT("wandb", LOGGER),
    NO_EFFECT("mlflow", LOGGER),
    NO_EFFECT("comet", LOGGER),
    NO_EFFECT("benchmark", "every step's speed is written to training.jsonl"),
    NO_EFFECT("autonvtx", "profiler ranges of the other implementation"),
    NO_EFFECT("moe_metrics", "no such metrics are logged"),
    NO_EFFECT("mfu", "FLOPs are counted from the program"),
    NO_EFFECT("prewarm", "nothing is tuned while running"),
    NO_EFFECT("_*", "a name that only holds anchors"),
    {0},
};

const am_section *am_section_find(const char *name)
{
    for (const am_section *s = am_sections; s->name != NULL; s++)
        if (s->name[0] != '\0' && am_glob_match(s->name, name)) return s;
    return NULL;
}

static const am_option *find_row(const am_option *rows, const char *key, bool globs)
{
    for (const am_option *o = rows; o != NULL && o->key != NULL; o++)
        if (globs ? strchr(o->key, '*') != NULL && am_glob_match(o->key, key) : strcmp(o->key, key) == 0)
            return o;
    return NULL;
}

const am_option *am_option_find(const am_section *s, const am_target *t, const char *key)
{
    const am_option *own = t != NULL ? t->options : NULL, *o = find_row(own, key, false);
    if (o == NULL) o = find_row(s->options, key, false);
    if (o == NULL) o = find_row(own, key, true);
    if (o == NULL) o = find_row(s->options, key, true);
    return o;
}

const char *am_config_choices(const char *path)
{
    char section[64];
    size_t n = strcspn(path, ".");
    if (n >= sizeof section || path[n] == '\0') return NULL;
    snprintf(section, sizeof section, "%.*s", (int)n, path);
    const am_section *s = am_section_find(section);
    const am_option *o = s ? am_option_find(s, NULL, path + n + 1) : NULL;
    if (o == NULL || o->effect != AM_EFFECT_USED) return NULL;
    return o->type == AM_OPTION_BOOL ? "true|false" : o->type == AM_OPTION_ENUM ? o->values : NULL;
}

static bool any_below(const am_option *rows, const char *key)
{
    size_t n = strlen(key);
    for (const am_option *o = rows; o != NULL && o->key != NULL; o++)
        if (strncmp(o->key, key, n) == 0 && o->key[n] == '.') return true;
    return false;
}

bool am_option_is_prefix(const am_section *s, const am_target *t, const char *key)
{
    return any_below(s->options, key) || (t != NULL && any_below(t->options, key));
}
