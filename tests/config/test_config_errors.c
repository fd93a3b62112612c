/* Every kind of refusal: the sentence names file:line:column, key, value and what to write instead. */
#include "test_config_support.h"

typedef struct wrong {
    const char *text, *sentence;
} wrong;

static void check_all(const wrong *cases, size_t n)
{
    for (size_t i = 0; i < n; i++) parse_fails(cases[i].text, 0, NULL, cases[i].sentence);
}
#define CHECK_ALL(cases) check_all(cases, sizeof cases / sizeof cases[0])

static void test_config_errors__unknown_keys(void **state)
{
    static const wrong cases[] = {
        {"optimizer:\n  wieght_decay: 0\n", "r.yaml:2:3: unknown key \"wieght_decay\" in optimizer with "
                                            "_target_ AdamW; did you mean \"weight_decay\"?"},
        {"step_scheduler:\n  local_batch_size: 2\n  global_batchsize: 4\n",
         "r.yaml:3:3: unknown key \"global_batchsize\" in step_scheduler; did you mean "
         "\"global_batch_size\"?"},
        {"distributed:\n  mp_policy:\n    param_dtyp: bf16\n",
         "r.yaml:3:5: unknown key \"mp_policy.param_dtyp\" in distributed with _target_ FSDP2Config; did you "
         "mean "
         "\"mp_policy.param_dtype\"?"},
        {"optimizer:\n  lr_warmup_steps: 3\n", "r.yaml:2:3: unknown key \"lr_warmup_steps\" in optimizer "
                                               "with _target_ AdamW; it belongs to the section "
                                               "`lr_scheduler`"},
        {"dataset:\n  _target_: ChatDataset\n  path_or_dataset_id: x\n  data_dir: y\n",
         "r.yaml:4:3: unknown key \"data_dir\" in dataset with _target_ ChatDataset; it belongs to _target_ "
         "automodel.ShardDataset"},
        {"run:\n  colour: red\n",
         "r.yaml:2:3: unknown key \"colour\" in run; `automodel train --options run` lists its keys"},
        {"optimiser:\n  lr: 1\n", "r.yaml:1:1: unknown section \"optimiser\"; did you mean \"optimizer\"?"},
        {"run: {dir: x}\nfood: 1\n",
         "r.yaml:2:1: unknown section \"food\"; `automodel train --options all` lists the sections"},
        {"optimizer:\n  param_group_overrides:\n    - {pattern: a, lr_multt: 2}\n",
         "r.yaml:3:20: unknown key \"lr_multt\" in optimizer.param_group_overrides.0; did you mean "
         "\"lr_mult\"?"},
    };
    CHECK_ALL(cases);
}

static void test_config_errors__targets(void **state)
{
    static const wrong cases[] = {
        {"optimizer:\n  lr: 1\n  _target_: torch.optim.AdamWW\n",
         "r.yaml:3:13: optimizer: unknown _target_ \"torch.optim.AdamWW\"; did you mean torch.optim.AdamW?"},
        {"optimizer:\n  _target_: my_code.train.AdamW\n", /* the user's own class of that name is not torch's
                                                           */
         "r.yaml:2:13: optimizer: unknown _target_ \"my_code.train.AdamW\"; did you mean torch.optim.AdamW?"},
        {"loss_fn: {_target_: os.system}\n",
         "r.yaml:1:21: loss_fn: unknown _target_ \"os.system\" (a closed table of names, never code); write "
         "one of "
         "nemo_automodel.components.loss.masked_ce.MaskedCrossEntropy, "
         "nemo_automodel.components.loss.chunked_ce.ChunkedCrossEntropy, "
         "nemo_automodel.components.loss.linear_ce.FusedLinearCrossEntropy, "
         "nemo_automodel.components.loss.te_parallel_ce.TEParallelCrossEntropy"},
        {"dataset:\n  path_or_dataset_id: x\n",
         "r.yaml:1:1: dataset needs a _target_, for example "
         "nemo_automodel.components.datasets.llm.chat_dataset.ChatDataset"},
        {"dataset:\n  _target_: nemo_automodel.components.datasets.llm.hellaswag.HellaSwag\n",
         "r.yaml:2:13: dataset: nemo_automodel.components.datasets.llm.hellaswag.HellaSwag is not offered: "
         "nothing is "
         "downloaded here: save it as JSON lines and write `_target_: nemo_automodel.components.datasets.llm."
         "column_mapped_text_instruction_dataset.ColumnMappedTextInstructionDataset`, `path_or_dataset_id: "
         "FILE.jsonl`, "
         "`column_mapping: {context: ctx, answer: ending}`"},
        {"optimizer: {_target_: dion.Muon}\n", "r.yaml:1:23: optimizer: dion.Muon is not offered: write "
                                               "torch.optim.AdamW (fp32 master weights and states)"},
        {"recipe: KnowledgeDistillationRecipeForNextTokenPrediction\n",
         "r.yaml:1:9: recipe: KnowledgeDistillationRecipeForNextTokenPrediction is not offered: train on the "
         "teacher's "
         "texts with TrainFinetuneRecipeForNextTokenPrediction"},
        {"model:\n  config:\n    _target_: a.b.MyConfig.from_pretrained\n",
         "r.yaml:3:15: model.config._target_: unknown _target_ \"a.b.MyConfig.from_pretrained\"; did you "
         "mean "
         "transformers.AutoConfig.from_pretrained?"},
    };
    CHECK_ALL(cases);
}

static void test_config_errors__types(void **state)
{
    static const wrong cases[] = {
        {"step_scheduler:\n  global_batch_size: many\n",
         "r.yaml:2:22: step_scheduler.global_batch_size: \"many\" is not a whole number, in sequences"},
        {"step_scheduler:\n  global_batch_size: 1.5\n",
         "r.yaml:2:22: step_scheduler.global_batch_size: \"1.5\" is not a whole number, in sequences"},
        {"optimizer: {lr: fast}\n", "r.yaml:1:17: optimizer.lr: \"fast\" is not a number"},
        {"optimizer: {betas: [0.9, x]}\n", "r.yaml:1:26: optimizer.betas: \"x\" is not a number"},
        {"optimizer: {betas: [0.9]}\n", "r.yaml:1:20: optimizer.betas: 2 entries are expected, not 1"},
        {"dataloader: {shuffle: 3}\n", "r.yaml:1:23: dataloader.shuffle: \"3\" is not a true or false"},
        {"run: {device: cpus}\n",
         "r.yaml:1:15: run.device: \"cpus\" is not one of cpu|guarded; did you mean \"cpu\"?"},
        {"model: {torch_dtype: fp16}\n", "r.yaml:1:22: model.torch_dtype: \"fp16\" is not one of BF16|F32 "
                                         "(bfloat16 and float32 are other spellings)"},
        {"optimizer:\n  lr: [1, 2]\n", "r.yaml:2:7: optimizer.lr: a number is expected, not a list"},
        {"optimizer:\n  lr: {a: 1}\n", "r.yaml:2:7: optimizer.lr: a number is expected, not a mapping"},
        {"run: 7\n", "r.yaml:1:6: run must be a mapping of its keys"},
        {"distributed: {mp_policy: 3}\n", "r.yaml:1:26: distributed.mp_policy: a mapping is expected"},
        {"freeze_config: {patterns: [[a]]}\n",
         "r.yaml:1:28: freeze_config.patterns: an entry must be a single value"},
        {"optimizer: {param_group_overrides: 3}\n",
         "r.yaml:1:36: optimizer.param_group_overrides: a list of mappings is expected"},
        {"optimizer: {param_group_overrides: [3]}\n",
         "r.yaml:1:37: optimizer.param_group_overrides: each entry is a mapping `{pattern: …}`"},
        {"optimizer: {param_group_overrides: [{lr_mult: 3}]}\n",
         "r.yaml:1:37: optimizer.param_group_overrides.0.pattern is missing"},
        {"dataset:\n  _target_: ShardDataset\n", "r.yaml:1:1: dataset.data_dir is missing: Folder of the "
                                                 "token shards that `automodel prepare` wrote."},
    };
    CHECK_ALL(cases);
}

static void test_config_errors__ranges(void **state)
{
    static const wrong cases[] = {
        {"step_scheduler: {global_batch_size: 0}\n",
         "r.yaml:1:37: step_scheduler.global_batch_size: 0 is outside of [1, inf) sequences"},
        {"optimizer: {betas: [0.9, 1.0]}\n", "r.yaml:1:26: optimizer.betas: 1.0 is outside of [0, 1)"},
        {"optimizer: {lr: -1e-5}\n", "r.yaml:1:17: optimizer.lr: -1e-5 is outside of [0, inf)"},
        {"optimizer: {lr: nan}\n", "r.yaml:1:17: optimizer.lr: nan is outside of [0, inf)"},
        {"optimizer: {lr: inf}\n", "r.yaml:1:17: optimizer.lr: inf is outside of [0, inf)"},
        {"run: {threads: 5000}\n", "r.yaml:1:16: run.threads: 5000 is outside of [1, 4096] threads"},
        {"dist_env: {timeout_minutes: 0}\n",
         "r.yaml:1:29: dist_env.timeout_minutes: 0 is outside of (0, inf) minutes"},
        {"rng: {seed: 99999999999999999999}\n",
         "r.yaml:1:13: rng.seed: \"99999999999999999999\" is not a whole number"},
    };
    CHECK_ALL(cases);
}

static void test_config_errors__refused_by_name(void **state)
{
    static const wrong cases[] = {
        {"run: {dir: x}\npeft:\n  _target_: nemo_automodel.components._peft.lora.PeftConfig\n  dim: 8\n",
         "r.yaml:2:1: peft is not offered: adapters (LoRA, DoRA) are not offered in this version: remove the "
         "section to "
         "train all weights, or freeze some by name with `freeze_config.patterns`"},
        {"fp8:\n  recipe_name: tensorwise\n  enabled: true\n",
         "r.yaml:3:12: fp8.enabled: true is not offered: fp8 products are not offered in this version: write "
         "`fp8.enabled: false` to train in `model.torch_dtype`"},
        {"compile: {enabled: True}\n", "r.yaml:1:20: compile.enabled: True is not offered: torch.compile has "
                                       "no counterpart, every program is "
                                       "compiled before the first step: write `compile.enabled: false`"},
        {"quantization: {load_in_8bit: false, load_in_4bit: true}\n",
         "r.yaml:1:51: quantization.load_in_4bit: true is not offered: quantised base weights (QLoRA) are "
         "not offered in "
         "this version: remove the section"},
        {"model: {backend: {fake_balanced_gate: true}}\n",
         "r.yaml:1:19: model.backend.fake_balanced_gate: true is not offered: it replaces the router by a "
         "fake one: "
         "remove it"},
        {"model: {config: {num_hidden_layers: 2}}\n", "r.yaml:1:18: model.config.num_hidden_layers: 2 is not "
                                                      "offered: write the key into a copy of config.json and "
                                                      "name that file in `model.config`"},
        {"loss_fn: {reduction: mean}\n", "r.yaml:1:11: loss_fn.reduction: mean is not offered: the loss is "
                                         "the sum over the global number of supervised "
                                         "tokens: remove it"},
        {"distributed: {offload_policy: {_target_: x}}\n",
         "r.yaml:1:15: distributed.offload_policy is not offered: offloading to the host is not offered in "
         "this version: "
         "remove it"},
    };
    CHECK_ALL(cases);
    /* the same keys, asking for nothing */
    am_config *cfg =
        parse_ok("peft: none\nfp8: {enabled: false}\nquantization: {load_in_4bit: false}\nteacher_model:\n"
                 "model: {backend: {fake_balanced_gate: False}, revision: null}\n"
                 "distributed: {offload_policy: null, moe: none, tp_plan: {}}\n",
                 0, NULL);
    am_config_free(&cfg);
}

static void test_config_errors__relations(void **state)
{
    static const wrong cases[] = {
        {"step_scheduler:\n  global_batch_size: 10\n  local_batch_size: 4\n",
         "r.yaml:2:22: step_scheduler.global_batch_size: 10 is no multiple of local_batch_size 4 "
         "(r.yaml:3:21)"},
        {"optimizer:\n  _target_: torch.optim.Adam\n  weight_decay: 0.1\n",
         "r.yaml:3:17: optimizer.weight_decay: Adam with weight decay adds it to the gradient, which is not "
         "offered: "
         "write torch.optim.AdamW, or weight_decay: 0"},
        {"optimizer: {lr: 1e-5}\nlr_scheduler: {min_lr: 1e-4}\n",
         "r.yaml:2:24: lr_scheduler.min_lr: 0.0001 is larger than optimizer.lr 1e-05 (r.yaml:1:17)"},
        {"lr_scheduler: {lr_warmup_steps: 9, lr_decay_steps: 9}\n",
         "r.yaml:1:33: lr_scheduler.lr_warmup_steps: 9 leaves nothing of the 9 lr_decay_steps (r.yaml:1:52)"},
        {"lr_scheduler: {lr_decay_style: WSD}\n", "r.yaml:1:32: lr_scheduler.lr_decay_style: WSD needs "
                                                  "lr_scheduler.wsd_decay_steps, the length of its final "
                                                  "decay"},
        {"distributed: {_target_: DDPConfig, strategy: fsdp2}\n",
         "r.yaml:1:46: distributed.strategy: fsdp2 does not go with _target_ DDPConfig: keep one of the two"},
        {"distributed: {dp_size: 6, dp_replicate_size: 4}\n",
         "r.yaml:1:46: distributed.dp_replicate_size: 4 does not divide dp_size 6 (r.yaml:1:24)"},
        {"checkpoint: {model_save_format: torch_save}\n",
         "r.yaml:1:33: checkpoint.model_save_format: torch_save is not offered (pickles can run code): write "
         "safetensors"},
        {"seed: 1\nrng: {seed: 2}\n", "r.yaml:1:7: seed is another spelling of rng.seed, which has another "
                                      "value (r.yaml:2:13): keep one of the two"},
        {"packed_sequence: {drop_long_samples: true, split_across_pack: true}\n",
         "r.yaml:1:38: packed_sequence.drop_long_samples: with split_across_pack (r.yaml:1:63) no sample is "
         "too long: "
         "keep one of the two"},
        {"dataset: {_target_: ShardDataset, data_dir: x, truncation: true}\npacked_sequence: "
         "{drop_long_samples: true}\n",
         "r.yaml:1:60: dataset.truncation: with packed_sequence.drop_long_samples (r.yaml:2:38) no sample is "
         "truncated: "
         "keep one of the two"},
    };
    CHECK_ALL(cases);
    am_config *cfg = parse_ok(
        "seed: 2\nrng: {seed: 2}\ncheckpoint: {enabled: false, model_save_format: torch_save}\n", 0, NULL);
    assert_int_equal(am_config_int(cfg, "rng.seed"), 2);
    am_config_free(&cfg);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_config_errors__unknown_keys),
        cmocka_unit_test(test_config_errors__targets),
        cmocka_unit_test(test_config_errors__types),
        cmocka_unit_test(test_config_errors__ranges),
        cmocka_unit_test(test_config_errors__refused_by_name),
        cmocka_unit_test(test_config_errors__relations),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
