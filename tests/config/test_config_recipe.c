/* A recipe in Automodel's words is taken as it is; every value arrives typed, with its position. */
#include "test_config_support.h"

/* clang-format off */
static const char recipe[] =
    "recipe: TrainFinetuneRecipeForNextTokenPrediction\n"                          /*  1 */
    "\n"                                                                           /*  2 */
    "step_scheduler:\n"                                                            /*  3 */
    "  global_batch_size: 64\n"                                                    /*  4 */
    "  local_batch_size: 8\n"                                                      /*  5 */
    "  ckpt_every_steps: 100\n"                                                    /*  6 */
    "  val_every_steps: 20  # will run every x number of gradient steps\n"         /*  7 */
    "  num_epochs: 2\n"                                                            /*  8 */
    "  max_steps: 500\n"                                                           /*  9 */
    "  gc_every_steps: 10\n"                                                       /* 10 */
    "dist_env:\n"                                                                  /* 11 */
    "  backend: nccl\n"                                                            /* 12 */
    "  timeout_minutes: 1\n"                                                       /* 13 */
    "rng:\n"                                                                       /* 14 */
    "  _target_: nemo_automodel.components.training.rng.StatefulRNG\n"             /* 15 */
    "  seed: 42\n"                                                                 /* 16 */
    "  ranked: true\n"                                                             /* 17 */
    "model:\n"                                                                     /* 18 */
    "  _target_: nemo_automodel.NeMoAutoModelForCausalLM.from_pretrained\n"        /* 19 */
    "  pretrained_model_name_or_path: Qwen/Qwen2.5-7B-Instruct\n"                  /* 20 */
    "  torch_dtype: bfloat16\n"                                                    /* 21 */
    "  attn_implementation: flash_attention_2\n"                                   /* 22 */
    "  use_liger_kernel: false\n"                                                  /* 23 */
    "  ignore_config_keys: [sliding_window]\n"                                     /* 24 */
    "compile:\n"                                                                   /* 25 */
    "  enabled: false\n"                                                           /* 26 */
    "  mode: \"default\"\n"                                                        /* 27 */
    "checkpoint:\n"                                                                /* 28 */
    "  enabled: true\n"                                                            /* 29 */
    "  checkpoint_dir: checkpoints/\n"                                             /* 30 */
    "  model_save_format: safetensors\n"                                           /* 31 */
    "  save_consolidated: True\n"                                                  /* 32 */
    "distributed:\n"                                                               /* 33 */
    "  strategy: fsdp2\n"                                                          /* 34 */
    "  dp_size: none\n"                                                            /* 35 */
    "  tp_size: 1\n"                                                               /* 36 */
    "  cp_size: 1\n"                                                               /* 37 */
    "  sequence_parallel: false\n"                                                 /* 38 */
    "  activation_checkpointing: true\n"                                           /* 39 */
    "  mp_policy:\n"                                                               /* 40 */
    "    _target_: torch.distributed.fsdp.MixedPrecisionPolicy\n"                  /* 41 */
    "    param_dtype: bfloat16\n"                                                  /* 42 */
    "    reduce_dtype: float32\n"                                                  /* 43 */
    "loss_fn:\n"                                                                   /* 44 */
    "  _target_: nemo_automodel.components.loss.masked_ce.MaskedCrossEntropy\n"    /* 45 */
    "dataset:\n"                                                                   /* 46 */
    "  _target_: nemo_automodel.components.datasets.llm.chat_dataset.ChatDataset\n" /* 47 */
    "  path_or_dataset_id: train.jsonl\n"                                          /* 48 */
    "  seq_length: 2048\n"                                                         /* 49 */
    "packed_sequence:\n"                                                           /* 50 */
    "  packed_sequence_size: 4096\n"                                               /* 51 */
    "  packing_strategy: thd\n"                                                    /* 52 */
    "dataloader:\n"                                                                /* 53 */
    "  _target_: torchdata.stateful_dataloader.StatefulDataLoader\n"               /* 54 */
    "  collate_fn:\n"                                                              /* 55 */
    "    _target_: nemo_automodel.components.datasets.utils.default_collater\n"    /* 56 */
    "    pad_seq_len_divisible: 16\n"                                              /* 57 */
    "  shuffle: false\n"                                                           /* 58 */
    "  num_workers: 4\n"                                                           /* 59 */
    "validation_dataset:\n"                                                        /* 60 */
    "  _target_: nemo_automodel.components.datasets.llm.column_mapped_text_instruction_dataset."
    "ColumnMappedTextInstructionDataset\n"                                         /* 61 */
    "  path_or_dataset_id: [a.jsonl, b.jsonl]\n"                                   /* 62 */
    "  column_mapping: {question: prompt, answer: completion}\n"                   /* 63 */
    "validation_dataset_code:\n"                                                   /* 64 */
    "  _target_: automodel.ShardDataset\n"                                         /* 65 */
    "  data_dir: /data/code\n"                                                     /* 66 */
    "validation_dataloader:\n"                                                     /* 67 */
    "  _target_: torchdata.stateful_dataloader.StatefulDataLoader\n"               /* 68 */
    "optimizer:\n"                                                                 /* 69 */
    "  _target_: torch.optim.AdamW\n"                                              /* 70 */
    "  betas: [0.9, 0.95]\n"                                                       /* 71 */
    "  eps: 1e-8\n"                                                                /* 72 */
    "  lr: 1.0e-5\n"                                                               /* 73 */
    "  param_group_overrides:\n"                                                   /* 74 */
    "    - {pattern: router, lr_mult: 0.1}\n"                                      /* 75 */
    "    - pattern: embed\n"                                                       /* 76 */
    "      wd_mult: 0\n"                                                           /* 77 */
    "lr_scheduler:\n"                                                              /* 78 */
    "  lr_decay_style: cosine\n"                                                   /* 79 */
    "  min_lr: 1.0e-6\n"                                                           /* 80 */
    "clip_grad_norm:\n"                                                            /* 81 */
    "  max_norm: 0.5\n"                                                            /* 82 */
    "freeze_config:\n"                                                             /* 83 */
    "  patterns: '*embed*'\n"                                                      /* 84 */
    "wandb:\n"                                                                     /* 85 */
    "  project: x\n"                                                               /* 86 */
    "ci:\n"                                                                        /* 87 */
    "  recipe_owner: someone\n";                                                   /* 88 */
/* clang-format on */

static void test_config_recipe__automodel_words(void **state)
{
    am_config *cfg = parse_ok(recipe, 0, NULL);
    am_dtype t;
    assert_int_equal(am_config_int(cfg, "step_scheduler.global_batch_size"), 64);
    assert_string_equal(am_config_where(cfg, "step_scheduler.global_batch_size"), "r.yaml:4:22");
    assert_int_equal(am_config_int(cfg, "step_scheduler.val_every_steps"), 20);
    assert_true(am_config_float(cfg, "dist_env.timeout_minutes") == 1.0);
    assert_int_equal(am_config_int(cfg, "rng.seed"), 42);
    assert_string_equal(am_config_target(cfg, "model"), "NeMoAutoModelForCausalLM.from_pretrained");
    assert_string_equal(am_config_string(cfg, "model.pretrained_model_name_or_path"),
                        "Qwen/Qwen2.5-7B-Instruct");
    assert_true(am_config_dtype(cfg, "model.torch_dtype", &t));
    assert_int_equal(t, AM_BF16);
    assert_int_equal(am_config_count(cfg, "model.ignore_config_keys"), 1);
    assert_string_equal(am_config_item(cfg, "model.ignore_config_keys", 0), "sliding_window");
    assert_string_equal(am_config_string(cfg, "checkpoint.save_consolidated"),
                        "every"); /* True of older files */
    assert_string_equal(am_config_string(cfg, "distributed.strategy"), "fsdp2");
    assert_false(am_config_has(cfg, "distributed.dp_size")); /* none: derived */
    assert_string_equal(am_config_string(cfg, "distributed.recompute"), "full");
    assert_string_equal(am_config_where(cfg, "distributed.recompute"), "r.yaml:39:29");
    assert_true(am_config_dtype(cfg, "distributed.mp_policy.reduce_dtype", &t));
    assert_int_equal(t, AM_F32);
    assert_string_equal(am_config_target(cfg, "loss_fn"), "MaskedCrossEntropy");
    assert_string_equal(am_config_target(cfg, "dataset"), "ChatDataset");
    assert_int_equal(am_config_count(cfg, "dataset.path_or_dataset_id"), 1);
    assert_string_equal(am_config_item(cfg, "dataset.path_or_dataset_id", 0), "train.jsonl");
    assert_int_equal(am_config_int(cfg, "packed_sequence.packed_sequence_size"), 4096);
    assert_false(am_config_bool(cfg, "dataloader.shuffle"));
    assert_int_equal(am_config_count(cfg, "validation_dataset.path_or_dataset_id"), 2);
    assert_string_equal(am_config_string(cfg, "validation_dataset.column_mapping.answer"), "completion");
    assert_string_equal(am_config_where(cfg, "validation_dataset.column_mapping.answer"), "r.yaml:63:46");
    assert_string_equal(am_config_string(cfg, "validation_dataset_code.data_dir"), "/data/code");
    assert_string_equal(am_config_target(cfg, "optimizer"), "AdamW");
    assert_int_equal(am_config_count(cfg, "optimizer.betas"), 2);
    assert_true(am_config_item_float(cfg, "optimizer.betas", 1) == 0.95);
    assert_true(am_config_float(cfg, "optimizer.lr") == 1e-5);
    assert_true(am_config_float(cfg, "optimizer.weight_decay") == 0.01); /* torch's default for AdamW */
    assert_string_equal(am_config_where(cfg, "optimizer.weight_decay"), "default");
    assert_int_equal(am_config_count(cfg, "optimizer.param_group_overrides"), 2);
    assert_true(am_config_float(cfg, "optimizer.param_group_overrides.0.lr_mult") == 0.1);
    assert_true(am_config_float(cfg, "optimizer.param_group_overrides.1.lr_mult") == 1.0);
    assert_string_equal(am_config_where(cfg, "optimizer.param_group_overrides.1.wd_mult"), "r.yaml:77:16");
    assert_true(am_config_float(cfg, "clip_grad_norm.max_norm") == 0.5);
    assert_string_equal(am_config_item(cfg, "freeze_config.patterns", 0), "*embed*");
    assert_int_equal(am_config_defects(cfg), 0);
    am_config_free(&cfg);
}

static void test_config_recipe__sections_in_order(void **state)
{
    am_config *cfg = parse_ok(recipe, 0, NULL);
    assert_string_equal(am_config_section_at(cfg, "validation_dataset*", 0), "validation_dataset");
    assert_string_equal(am_config_section_at(cfg, "validation_dataset*", 1), "validation_dataset_code");
    assert_null(am_config_section_at(cfg, "validation_dataset*", 2));
    assert_true(am_config_section(cfg, "lr_scheduler"));
    assert_false(am_config_section(cfg, "run"));
    am_config_free(&cfg);
}

static void test_config_recipe__ignored_keys_are_listed(void **state)
{
    static const char *const expected[] = {
        "r.yaml:10:3: step_scheduler.gc_every_steps: nothing is garbage-collected",
        "r.yaml:12:3: dist_env.backend: communication follows from run.device and the launcher",
        "r.yaml:17:3: rng.ranked: ",
        "r.yaml:22:3: model.attn_implementation: ",
        "r.yaml:23:3: model.use_liger_kernel: ",
        "r.yaml:25:1: compile: not enabled",
        "r.yaml:52:3: packed_sequence.packing_strategy: ",
        "r.yaml:55:3: dataloader.collate_fn: ",
        "r.yaml:59:3: dataloader.num_workers: ",
        "r.yaml:85:1: wandb: ",
        "r.yaml:87:1: ci: test metadata",
    };
    size_t n = sizeof expected / sizeof expected[0];
    am_config *cfg = parse_ok(recipe, 0, NULL);
    for (size_t i = 0; i < n; i++) {
        assert_non_null(am_config_ignored(cfg, i));
        if (strncmp(am_config_ignored(cfg, i), expected[i], strlen(expected[i])) != 0)
            fail_msg("%s\ninstead of %s", am_config_ignored(cfg, i), expected[i]);
    }
    assert_null(am_config_ignored(cfg, n));
    am_config_free(&cfg);
}

static void test_config_recipe__defaults(void **state)
{
    am_config *cfg = parse_ok("run: {dir: x}\n", 0, NULL);
    assert_int_equal(am_config_int(cfg, "step_scheduler.global_batch_size"), 32);
    assert_int_equal(am_config_int(cfg, "step_scheduler.num_epochs"), 1);
    assert_false(am_config_has(cfg, "step_scheduler.max_steps"));
    assert_true(am_config_bool(cfg, "distributed.overlap"));
    assert_true(am_config_bool(cfg, "distributed.defer_fsdp_grad_sync"));
    assert_true(am_config_bool(cfg, "distributed.reshard_after_forward"));
    assert_string_equal(am_config_string(cfg, "distributed.recompute"), "selective");
    assert_string_equal(am_config_string(cfg, "run.device"), "cpu");
    assert_string_equal(am_config_string(cfg, "lr_scheduler.lr_decay_style"),
                        "constant"); /* without the section */
    assert_int_equal(am_config_int(cfg, "lr_scheduler.lr_warmup_steps"), 0);
    assert_true(am_config_float(cfg, "clip_grad_norm.max_norm") == 1.0);
    assert_int_equal(am_config_count(cfg, "optimizer.betas"), 2);
    assert_true(am_config_item_float(cfg, "optimizer.betas", 0) == 0.9);
    assert_true(am_config_item_float(cfg, "optimizer.betas", 1) == 0.999);
    assert_null(am_config_target(cfg, "dataset"));
    assert_null(am_config_string(cfg, "dataset.data_dir"));
    assert_false(am_config_given(cfg, "optimizer.lr"));
    assert_int_equal(am_config_defects(cfg), 0);
    am_config_free(&cfg);
    cfg = parse_ok(
        "lr_scheduler: {lr_decay_style: WSD, wsd_decay_steps: 10}\nclip_grad_norm: {max_norm: null}\n"
        "step_scheduler: {max_steps: 5, local_batch_size: none}\ndistributed: {recompute: none}\n"
        "optimizer: {_target_: torch.optim.Adam}\nmodel: {torch_dtype: auto}\nvalidation_dataset: none\n",
        0, NULL);
    assert_false(am_config_has(cfg, "lr_scheduler.lr_warmup_steps"));
    assert_true(am_config_float(cfg, "clip_grad_norm.max_norm") == 0); /* a written null: no clipping */
    assert_false(am_config_has(cfg, "step_scheduler.num_epochs"));     /* as many as max_steps needs */
    assert_int_equal(am_config_int(cfg, "step_scheduler.local_batch_size"), 1);
    assert_true(am_config_given(cfg, "distributed.recompute"));       /* here none is a word, not a null */
    assert_true(am_config_float(cfg, "optimizer.weight_decay") == 0); /* torch's default for Adam */
    am_dtype t;
    assert_false(am_config_dtype(cfg, "model.torch_dtype", &t));
    assert_false(am_config_section(cfg, "validation_dataset"));
    am_config_free(&cfg);
}

static void test_config_recipe__targets(void **state)
{
    am_config *cfg =
        parse_ok("optimizer: {_target_: AdamW}\n"
                 "model: {_target_: nemo_automodel.NeMoAutoModelForCausalLM.from_config, config: "
                 "{_target_: transformers.AutoConfig.from_pretrained, pretrained_model_name_or_path: d}}\n"
                 "distributed: {_target_: nemo_automodel.components.distributed.ddp.DDPManager}\n"
                 "loss_fn: {_target_: nemo_automodel.components.loss.linear_ce.FusedLinearCrossEntropy}\n",
                 0, NULL);
    assert_string_equal(am_config_target(cfg, "optimizer"), "AdamW");
    assert_string_equal(am_config_target(cfg, "model"), "NeMoAutoModelForCausalLM.from_config");
    assert_string_equal(am_config_string(cfg, "model.config"), "d");
    assert_string_equal(am_config_string(cfg, "distributed.strategy"), "ddp");
    assert_string_equal(am_config_target(cfg, "loss_fn"), "FusedLinearCrossEntropy");
    am_config_free(&cfg);
}

/* {context, answer} without a question: the context is the prompt. */
static void test_config_recipe__context_alone(void **state)
{
    am_config *cfg =
        parse_ok("dataset: {_target_: ColumnMappedTextInstructionDataset, path_or_dataset: x.jsonl,\n"
                 "  column_mapping: {context: ctx, answer: ending}}\n",
                 0, NULL);
    assert_string_equal(am_config_string(cfg, "dataset.column_mapping.question"), "ctx");
    assert_null(am_config_string(cfg, "dataset.column_mapping.context"));
    assert_string_equal(am_config_item(cfg, "dataset.path_or_dataset_id", 0), "x.jsonl");
    am_config_free(&cfg);
}

static void test_config_recipe__unread_options_are_found(void **state)
{
    am_config *cfg = parse_ok("optimizer: {lr: 1, eps: 0.5}\nrun: {threads: 2}\n", 0, NULL);
    assert_true(am_config_float(cfg, "optimizer.eps") == 0.5);
    assert_string_equal(am_config_unread(cfg, 0), "optimizer.lr");
    assert_string_equal(am_config_unread(cfg, 1), "run.threads");
    assert_null(am_config_unread(cfg, 2));
    am_config_free(&cfg);
}

static void test_config_recipe__wrong_getters_are_counted(void **state)
{
    am_config *cfg = parse_ok("dataset: {_target_: ShardDataset, data_dir: x}\n", 0, NULL);
    assert_null(am_config_item(cfg, "dataset.path_or_dataset_id", 0)); /* of another _target_: just absent */
    assert_int_equal(am_config_defects(cfg), 0);
    assert_int_equal(am_config_int(cfg, "optimizer.learning_rate"), 0);
    assert_int_equal(am_config_int(cfg, "optimizer.lr"), 0); /* it is a float */
    assert_int_equal(am_config_defects(cfg), 2);
    am_config_free(&cfg);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_config_recipe__automodel_words),
        cmocka_unit_test(test_config_recipe__sections_in_order),
        cmocka_unit_test(test_config_recipe__ignored_keys_are_listed),
        cmocka_unit_test(test_config_recipe__defaults),
        cmocka_unit_test(test_config_recipe__targets),
        cmocka_unit_test(test_config_recipe__context_alone),
        cmocka_unit_test(test_config_recipe__unread_options_are_found),
        cmocka_unit_test(test_config_recipe__wrong_getters_are_counted),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
