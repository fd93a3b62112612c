/* Options of the model and of how it is cut over ranks: model, freeze_config, distributed, loss_fn. */
#include "config/config_internal.h"

#define SAME_RESULT "the program chooses its kernels; the result is the same"
#define TEXT_ONLY                                                                                            \
    "only causal language models over text are trained: NeMoAutoModelForCausalLM.from_pretrained"
#define MTP "extra next-token layers are not trained: remove it"

const am_target am_targets_auto_config[] = {
    {.name = "AutoConfig.from_pretrained",
     .roots = "transformers|nemo_automodel",
     .example = "transformers.AutoConfig.from_pretrained"},
    {0},
};

const am_target am_targets_model[] = {
    {.name = "NeMoAutoModelForCausalLM.from_pretrained",
     .roots = "nemo_automodel|automodel",
     .example = "nemo_automodel.NeMoAutoModelForCausalLM.from_pretrained",
     .help = "weights of a Hugging Face directory"},
    {.name = "NeMoAutoModelForCausalLM.from_config",
     .roots = "nemo_automodel|automodel",
     .example = "nemo_automodel.NeMoAutoModelForCausalLM.from_config",
     .help = "fresh random weights, from a config.json"},
    {.name = "AutoModelForCausalLM.from_pretrained",
     .roots = "transformers",
     .example = "transformers.AutoModelForCausalLM.from_pretrained",
     .help = "the same as NeMoAutoModelForCausalLM"},
    {.name = "NeMoAutoModelForSequenceClassification.from_pretrained",
     .roots = "nemo_automodel",
     .remedy = TEXT_ONLY},
    {.name = "NeMoAutoModelForSeq2SeqLM.from_pretrained", .roots = "nemo_automodel", .remedy = TEXT_ONLY},
    {.name = "NeMoAutoModelForImageTextToText.from_pretrained",
     .roots = "nemo_automodel",
     .remedy = TEXT_ONLY},
    {.name = "build_gpt2_model",
     .roots = "nemo_automodel",
     .remedy = "write NeMoAutoModelForCausalLM.from_config with `config:` naming a gpt2 config.json"},
    {0},
};

const am_option am_options_model[] = {
    AM_OPT("pretrained_model_name_or_path", STRING, NULL,
           "Directory with config.json, *.safetensors and the tokenizer, "
           "or the name of one in the local Hugging Face cache."),
    AM_OPT("config", STRING, NULL,
           "A config.json alone (or its directory): enough for --dry-run and from_config."),
    AM_OPT_ALIAS("config.pretrained_model_name_or_path", ".config"),
    AM_OPT_ALIAS("config.name_or_path", ".config"),
    AM_OPT("config._target_", TARGET, NULL, "", .targets = am_targets_auto_config, .conditional = true),
    AM_OPT("card", STRING, NULL, "Name or file of the model card; none: chosen by model_type."),
    AM_OPT("ignore_config_keys", STRINGS, NULL, "Keys of config.json that may stay unread."),
    AM_OPT("torch_dtype", DTYPE, NULL,
           "dtype of the computation; auto or none: what config.json says. Master weights "
           "are F32.",
           .values = "BF16|F32"),
    AM_OPT_ALIAS("dtype", ".torch_dtype"),
    AM_OPT_NO_EFFECT("attn_implementation", SAME_RESULT),
    AM_OPT_NO_EFFECT("use_liger_kernel", SAME_RESULT),
    AM_OPT_NO_EFFECT("use_sdpa_patching", SAME_RESULT),
    AM_OPT_NO_EFFECT("sdpa_method", SAME_RESULT),
    AM_OPT_NO_EFFECT("force_hf", SAME_RESULT),
    AM_OPT_NO_EFFECT("output_hidden_states", "the fused loss needs no such output"),
    AM_OPT_NO_EFFECT("use_cache", "there is no key-value cache in training"),
    AM_OPT_NO_EFFECT("low_cpu_mem_usage", "weights are read in slices"),
    AM_OPT_NO_EFFECT("trust_remote_code", "no code of a model is ever run"),
    AM_OPT_REFUSED("revision", NULL, "name the directory of that snapshot in pretrained_model_name_or_path"),
    AM_OPT_REFUSED("load_base_model", "false",
                   "write NeMoAutoModelForCausalLM.from_pretrained to load weights"),
    AM_OPT_REFUSED("quantization_config", NULL,
                   "quantised base weights are not offered in this version: remove it"),
    AM_OPT_REFUSED("num_nextn_predict_layers", "0", MTP),
    AM_OPT_REFUSED("mtp_loss_scaling_factor", "0|0.0", MTP),
    AM_OPT_REFUSED("mtp_use_repeated_layer", "false", MTP),
    AM_OPT_REFUSED("backend.te_fp8", NULL, "fp8 products are not offered in this version: remove it"),
    AM_OPT_REFUSED("backend.fake_balanced_gate", "false", "it replaces the router by a fake one: remove it"),
    AM_OPT_NO_EFFECT("backend.*", SAME_RESULT),
    AM_OPT_NO_EFFECT("config.trust_remote_code", "no code of a model is ever run"),
    AM_OPT_NO_EFFECT("config.use_cache", "there is no key-value cache in training"),
    AM_OPT_NO_EFFECT("config.*attn_implementation*", SAME_RESULT),
    AM_OPT_REFUSED("config.*", NULL,
                   "write the key into a copy of config.json and name that file in `model.config`"),
    {0},
};

const am_option am_options_freeze_config[] = {
    AM_OPT("patterns", STRINGS, NULL,
           "Parameters whose name on disk matches one of these (`*`, `?`) are not trained."),
    AM_OPT_REFUSED("freeze_embeddings", "false", "write `patterns: ['*embed_tokens*']`"),
    AM_OPT_REFUSED("freeze_language_model", "false", "write the parameters to freeze in `patterns`"),
    AM_OPT_NO_EFFECT("freeze_vision_tower", "a text model has none"),
    AM_OPT_NO_EFFECT("freeze_audio_tower", "a text model has none"),
    {0},
};

static const am_target mp_policies[] = {
    {.name = "MixedPrecisionPolicy",
     .roots = "torch|nemo_automodel",
     .example = "torch.distributed.fsdp.MixedPrecisionPolicy"},
    {0},
};

#define MANAGER(n, h)                                                                                        \
    {                                                                                                        \
        .name = n, .roots = "nemo_automodel", .help = h,                                                     \
        .example = "nemo_automodel.components.distributed.config." n                                         \
    }
const am_target am_targets_distributed[] = {
    MANAGER("FSDP2Config", "weights, gradients and optimizer cut over dp ranks"),
    MANAGER("FSDP2Manager", "the older name of FSDP2Config"),
    MANAGER("DDPConfig", "every rank holds all weights"),
    MANAGER("DDPManager", "the older name of DDPConfig"),
    MANAGER("MegatronFSDPConfig", "the same engine as FSDP2Config"),
    MANAGER("MegatronFSDPManager", "the same engine as FSDP2Config"),
    {0},
};

#define SIZE(k, h)    AM_OPT(k, INT, "1", h, .units = "ranks", .range = "[1, inf)")
#define PIPELINE_ONLY "stages are cut from the program"
#define ONE_OVERLAP   "see distributed.overlap"

const am_option am_options_distributed[] = {
    AM_OPT("strategy", ENUM, "fsdp2",
           "fsdp2: weights, gradients and optimizer state cut over the data-parallel ranks; "
           "ddp: every rank holds all. megatron_fsdp means fsdp2.",
           .values = "fsdp2|ddp", .map = "megatron_fsdp=fsdp2"),
    AM_OPT("dp_size", INT, NULL, "Data-parallel ranks; none: all ranks divided by the other sizes.",
           .units = "ranks", .range = "[1, inf)"),
    SIZE("dp_replicate_size", "Copies of the sharded model (HSDP); it divides dp_size."),
    SIZE("tp_size", "Tensor-parallel ranks; 1 for training in this version (verify and inspect --tp-size run and tell more)."),
    SIZE("cp_size", "Context-parallel ranks."),
    SIZE("pp_size", "Pipeline stages."),
    SIZE("ep_size", "Expert-parallel ranks."),
    AM_OPT("sequence_parallel", BOOL, "false", "With tp_size > 1: norms are cut over the sequence.",
           .conditional = true),
    AM_OPT("recompute", ENUM, "selective",
           "What backward computes again instead of keeping it. selective: norms and activations, which cost one "
           "pass over memory; full: a layer keeps its input only. The bits are the same.",
           .values = "none|selective|full", .map = "true=full|false=none"),
    AM_OPT_ALIAS("activation_checkpointing", ".recompute"),
    AM_OPT("defer_fsdp_grad_sync", BOOL, "true", "Reduce gradients once a step, after the last micro-batch."),
    AM_OPT("reshard_after_forward", BOOL, "true", "Free a layer's gathered weights after its forward pass."),
    AM_OPT("overlap", BOOL, "true", "Let communication run beside computation."),
    AM_OPT("mp_policy._target_", TARGET, NULL, "", .targets = mp_policies, .conditional = true),
    AM_OPT("mp_policy.param_dtype", DTYPE, NULL, "dtype of the computation; none: model.torch_dtype.",
           .values = "BF16|F32"),
    AM_OPT("mp_policy.reduce_dtype", DTYPE, "float32", "dtype in which gradients travel and are summed.",
           .values = "F32|BF16"),
    AM_OPT("pipeline.pp_schedule", ENUM, "1f1b", "Order of the micro-batches, with pp_size > 1.",
           .values = "1f1b|gpipe|interleaved1f1b|looped_bfs|zero_bubble", .conditional = true),
    AM_OPT("pipeline.pp_microbatch_size", INT, "1", "With pp_size > 1.", .units = "sequences",
           .range = "[1, inf)", .conditional = true),
    AM_OPT("pipeline.layers_per_stage", INT, NULL, "With pp_size > 1; none: cut evenly.", .units = "layers",
           .range = "[1, inf)", .conditional = true),
    AM_OPT_NO_EFFECT("pipeline.*", PIPELINE_ONLY),
    AM_OPT_REFUSED("moe.lm_head_precision", NULL, "the head runs in the dtype of the model: remove it"),
    AM_OPT_REFUSED("moe.mp_policy", NULL, "write `distributed.mp_policy`"),
    AM_OPT_NO_EFFECT("moe.*", "experts are cut by the same engine as the rest"),
    AM_OPT_REFUSED("moe", NULL, "write a mapping, or none"),
    AM_OPT_NO_EFFECT("mp_policy.output_dtype", "logits never leave the fused loss"),
    AM_OPT_NO_EFFECT("mp_policy.cast_forward_inputs", "inputs are token ids"),
    AM_OPT_NO_EFFECT("enable_async_tensor_parallel", ONE_OVERLAP),
    AM_OPT_NO_EFFECT("overlap_grad_reduce", ONE_OVERLAP),
    AM_OPT_NO_EFFECT("overlap_param_gather", ONE_OVERLAP),
    AM_OPT_NO_EFFECT("enable_fsdp2_prefetch", ONE_OVERLAP),
    AM_OPT_NO_EFFECT("*prefetch_depth", "gathers are placed by the plan"),
    AM_OPT_NO_EFFECT("enable_compile", "every program is compiled before the first step"),
    AM_OPT_NO_EFFECT("patch_is_packed_sequence", SAME_RESULT),
    AM_OPT_NO_EFFECT("nccl_ub", SAME_RESULT),
    AM_OPT_NO_EFFECT("fsdp_double_buffer", SAME_RESULT),
    AM_OPT_NO_EFFECT("bucket_cap_mb", SAME_RESULT),
    AM_OPT_NO_EFFECT("gradient_as_bucket_view", SAME_RESULT),
    AM_OPT_NO_EFFECT("static_graph", SAME_RESULT),
    AM_OPT_NO_EFFECT("find_unused_parameters", SAME_RESULT),
    AM_OPT_NO_EFFECT("broadcast_buffers", SAME_RESULT),
    AM_OPT_NO_EFFECT("check_for_nan_in_grad", "the gradient norm is always checked"),
    AM_OPT_REFUSED("zero_dp_strategy", "3|optim_grads_params",
                   "write `strategy: fsdp2` (all is cut) or `strategy: ddp`"),
    AM_OPT_REFUSED("activation_checkpointing_scope", "all", "every layer is recomputed or none: remove it"),
    AM_OPT_REFUSED("offload_policy", "false",
                   "offloading to the host is not offered in this version: remove it"),
    AM_OPT_REFUSED("tp_plan", NULL, "how tensors are cut follows from the model's card: remove it"),
    AM_OPT_REFUSED("autocast_dtype", NULL, "write `model.torch_dtype`"),
    AM_OPT_REFUSED("multimodal", NULL, "only text models are trained: remove it"),
    {0},
};

#define CROSS_ENTROPY(n, file)                                                                               \
    {                                                                                                        \
        .name = n, .roots = "nemo_automodel", .help = "cross-entropy over supervised tokens",                \
        .example = "nemo_automodel.components.loss." file "." n                                              \
    }
const am_target am_targets_loss_fn[] = {
    CROSS_ENTROPY("MaskedCrossEntropy", "masked_ce"),
    CROSS_ENTROPY("ChunkedCrossEntropy", "chunked_ce"),
    CROSS_ENTROPY("FusedLinearCrossEntropy", "linear_ce"),
    CROSS_ENTROPY("TEParallelCrossEntropy", "te_parallel_ce"),
    {.name = "KDLoss",
     .roots = "nemo_automodel",
     .remedy = "knowledge distillation is not offered: write "
               "nemo_automodel.components.loss.masked_ce.MaskedCrossEntropy"},
    {0},
};

const am_option am_options_loss_fn[] = {
    AM_OPT_NO_EFFECT("fp32_upcast", "the loss is always computed in F32"),
    AM_OPT_NO_EFFECT("chunk_len", "the loss is always computed in chunks"),
    AM_OPT_NO_EFFECT("compile", SAME_RESULT),
    AM_OPT_REFUSED("ignore_index", "-100", "targets that do not count are -100 here: remove it"),
    AM_OPT_REFUSED("reduction", "sum",
                   "the loss is the sum over the global number of supervised tokens: remove it"),
    AM_OPT_REFUSED("logit_softcapping", "0|0.0", "it follows from the model's card: remove it"),
    {0},
};
