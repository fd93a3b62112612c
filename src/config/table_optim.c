/* Options of the optimizer: optimizer, lr_scheduler, clip_grad_norm. */
#include "config/config_internal.h"

#define SAME_RESULT   "the program chooses its kernels; the result is the same"
#define ADAMW_INSTEAD "write torch.optim.AdamW (fp32 master weights and states)"

static const am_option adamw_options[] = {
    AM_OPT("weight_decay", FLOAT, "0.01", "Decoupled: w -= lr · weight_decay · w.", .range = "[0, inf)"),
    {0},
};
static const am_option adam_options[] = {
    AM_OPT("weight_decay", FLOAT, "0", "Only 0: then Adam is AdamW.", .range = "[0, inf)"),
    {0},
};

const am_target am_targets_optimizer[] = {
    {.name = "AdamW", .roots = "torch", .example = "torch.optim.AdamW", .options = adamw_options},
    {.name = "Adam", .roots = "torch", .example = "torch.optim.Adam", .options = adam_options},
    {.name = "FusedAdam", .roots = "transformer_engine|apex", .remedy = ADAMW_INSTEAD},
    {.name = "FlashAdamW", .roots = "flashoptim|nemo_automodel", .remedy = ADAMW_INSTEAD},
    {.name = "Muon", .roots = "dion|nemo_automodel|torch", .remedy = ADAMW_INSTEAD},
    {.name = "SGD", .roots = "torch", .remedy = ADAMW_INSTEAD},
    {0},
};

static const am_option override_fields[] = {
    AM_OPT("pattern", STRING, NULL, "Regular expression, searched anywhere in a parameter's name on disk.",
           .required = true),
    AM_OPT("lr_mult", FLOAT, "1", "Their learning rate is multiplied by it.", .range = "[0, inf)"),
    AM_OPT("wd_mult", FLOAT, "1", "Their weight decay is multiplied by it.", .range = "[0, inf)"),
    {0},
};

const am_option am_options_optimizer[] = {
    AM_OPT("lr", FLOAT, "1e-5", "Largest learning rate.", .range = "[0, inf)"),
    AM_OPT("betas", FLOATS, "[0.9, 0.999]", "Decay of the two moments.", .range = "[0, 1)", .count = 2),
    AM_OPT("eps", FLOAT, "1e-8", "Added to the root of the second moment.", .range = "[0, inf)"),
    AM_OPT("param_group_overrides", RECORDS, NULL,
           "Groups of parameters with their own rates; the first that matches decides.",
           .fields = override_fields),
    AM_OPT_NO_EFFECT("fused", SAME_RESULT),
    AM_OPT_NO_EFFECT("foreach", SAME_RESULT),
    AM_OPT_NO_EFFECT("capturable", SAME_RESULT),
    AM_OPT_NO_EFFECT("flatten", SAME_RESULT),
    AM_OPT_REFUSED("amsgrad", "false", "not offered: remove it"),
    AM_OPT_REFUSED("maximize", "false", "the loss is minimised: remove it"),
    AM_OPT_REFUSED("differentiable", "false", "not offered: remove it"),
    {0},
};

#define CONSTANT_DECAY "weight decay is constant over the run: write optimizer.weight_decay"

const am_option am_options_lr_scheduler[] = {
    AM_OPT("lr_decay_style", ENUM, "cosine", "Shape from optimizer.lr down to min_lr.",
           .values = "constant|linear|cosine|inverse-square-root|WSD"),
    AM_OPT("lr_warmup_steps", INT, NULL,
           "Linear rise from init_lr; none: a tenth of the steps, at most 1000.", .units = "steps",
           .range = "[0, inf)"),
    AM_OPT("lr_decay_steps", INT, NULL, "Where min_lr is reached; none: the last step.", .units = "steps",
           .range = "[1, inf)"),
    AM_OPT("init_lr", FLOAT, NULL, "Where the rise begins; none: a tenth of optimizer.lr.",
           .range = "[0, inf)"),
    AM_OPT("min_lr", FLOAT, NULL, "none: a hundredth of optimizer.lr.", .range = "[0, inf)"),
    AM_OPT("wsd_decay_steps", INT, NULL, "Length of the final decay of WSD.", .units = "steps",
           .range = "[1, inf)", .conditional = true),
    AM_OPT("lr_wsd_decay_style", ENUM, "linear", "Shape of the final decay of WSD.",
           .values = "linear|cosine|exponential|minus_sqrt", .conditional = true),
    AM_OPT_REFUSED("max_lr", NULL, "write optimizer.lr"),
    AM_OPT_REFUSED("start_wd", NULL, CONSTANT_DECAY),
    AM_OPT_REFUSED("end_wd", NULL, CONSTANT_DECAY),
    AM_OPT_REFUSED("wd_incr_steps", NULL, CONSTANT_DECAY),
    AM_OPT_REFUSED("wd_incr_style", "constant", CONSTANT_DECAY),
    AM_OPT_REFUSED("use_checkpoint_opt_param_scheduler", "true",
                   "a resumed run goes on with its own schedule: remove it"),
    AM_OPT_REFUSED("override_opt_param_scheduler", "false",
                   "a resumed run goes on with its own schedule: remove it"),
    {0},
};
const am_target am_targets_lr_scheduler[] = {
    {.name = "LRSchedulerConfig",
     .roots = "nemo_automodel",
     .example = "nemo_automodel.components.optim.optimizer.LRSchedulerConfig"},
    {.name = "OptimizerParamScheduler",
     .roots = "nemo_automodel",
     .example = "nemo_automodel.components.optim.scheduler.OptimizerParamScheduler"},
    {0},
};

const am_option am_options_clip_grad_norm[] = {
    AM_OPT("max_norm", FLOAT, "1.0",
           "Gradients are scaled down to this global norm; 0 or none: they are not.", .range = "[0, inf)",
           .null_text = "0"),
    AM_OPT_REFUSED("norm_type", "2|2.0", "the norm is the Euclidean one: remove it"),
    AM_OPT_NO_EFFECT("foreach", SAME_RESULT),
    {0},
};
