/* The resolved recipe, --help and the reference page. */
#include "test_config_support.h"

static char *dump_of(const am_config *cfg)
{
    am_str s = {0};
    assert_int_equal(am_config_dump(cfg, &s), AM_OK);
    return s.s;
}

static void strip_comments(char *s)
{
    char *out = s;
    for (char *c = s; *c != '\0'; c++) {
        if (strncmp(c, "  # default", 11) == 0) c += 11;
        *out++ = *c;
    }
    *out = '\0';
}

/* What was dumped resolves to the same values, texts with every kind of character included. */
static void test_config_print__dump_round_trip(void **state)
{
    static const char text[] =
        "run: {dir: \"a \\\"b\\\" \\\\ $${X} \\n tab\\t ä: #\", threads: 3}\n"
        "model: {pretrained_model_name_or_path: 'true', card: '1.5', torch_dtype: bf16, ignore_config_keys: "
        "[a, 'b, c']}\n"
        "optimizer: {lr: 0.1, betas: [0.123456789012345678, 0.5], param_group_overrides: [{pattern: '.*x'}, "
        "{pattern: b, "
        "wd_mult: 0}]}\n"
        "distributed: {_target_: DDPManager, mp_policy: {reduce_dtype: bf16}, activation_checkpointing: "
        "true}\n"
        "dataset: {_target_: ColumnMappedTextInstructionDataset, path_or_dataset_id: x, column_mapping: "
        "{answer: none}}\n"
        "validation_dataset_b: {_target_: ShardDataset, data_dir: none of it}\n"
        "lr_scheduler: {lr_decay_style: linear}\nstep_scheduler: {max_steps: 3}\nseed: 5\n";
    am_config *a = parse_ok(text, 0, NULL);
    char *one = dump_of(a);
    am_config *b = parse_ok(one, 0, NULL);
    char *two = dump_of(b);
    assert_string_equal(am_config_string(b, "run.dir"), "a \"b\" \\ ${X} \n tab\t ä: #");
    assert_string_equal(am_config_string(b, "model.pretrained_model_name_or_path"), "true");
    assert_string_equal(am_config_string(b, "model.card"), "1.5");
    assert_string_equal(am_config_item(b, "model.ignore_config_keys", 1), "b, c");
    assert_true(am_config_item_float(b, "optimizer.betas", 0) == 0.123456789012345678);
    assert_true(am_config_float(b, "optimizer.param_group_overrides.1.wd_mult") == 0);
    assert_string_equal(am_config_string(b, "optimizer.param_group_overrides.0.pattern"), ".*x");
    assert_string_equal(am_config_string(b, "distributed.strategy"), "ddp");
    assert_string_equal(am_config_string(b, "distributed.recompute"), "full");
    assert_int_equal(am_config_int(b, "rng.seed"), 5);
    assert_false(am_config_has(b, "step_scheduler.num_epochs"));
    strip_comments(one);
    strip_comments(two);
    assert_string_equal(one, two);
    free(one);
    free(two);
    am_config_free(&a);
    am_config_free(&b);
}

/* An absent lr_scheduler is a constant rate; its dump must not turn it into the default cosine. */
static void test_config_print__dump_keeps_absent_sections_absent(void **state)
{
    am_config *a = parse_ok("run: {dir: x}\n", 0, NULL);
    char *one = dump_of(a);
    assert_null(strstr(one, "lr_scheduler"));
    assert_null(strstr(one, "dataset"));
    am_config *b = parse_ok(one, 0, NULL);
    assert_string_equal(am_config_string(b, "lr_scheduler.lr_decay_style"), "constant");
    assert_non_null(strstr(one, "  global_batch_size: 32  # default\n"));
    assert_non_null(strstr(one, "  dir: x\n"));
    free(one);
    am_config_free(&a);
    am_config_free(&b);
}

static char *printed(const char *section, am_status expected)
{
    char *text = NULL;
    FILE *f = tmpfile();
    assert_non_null(f);
    assert_int_equal(am_config_print_help(f, section), expected);
    long n = ftell(f);
    assert_true(n >= 0);
    rewind(f);
    assert_int_equal(am_calloc((size_t)n + 1, 1, &text), AM_OK);
    assert_int_equal(fread(text, 1, (size_t)n, f), n);
    fclose(f);
    return text;
}

static void test_config_print__help(void **state)
{
    char *s = printed("clip_grad_norm", AM_OK);
    assert_string_equal(s, "\nclip_grad_norm: Gradient clipping\n"
                           "  --clip_grad_norm.max_norm  <number in [0, inf)>  default: 1.0\n"
                           "      Gradients are scaled down to this global norm; 0 or none: they are not.\n");
    free(s);
    s = printed("optimizer.AdamW", AM_OK);
    assert_non_null(strstr(s, "--optimizer.weight_decay  <number in [0, inf)>  default: 0.01"));
    assert_non_null(strstr(s, "--optimizer.param_group_overrides.N.lr_mult"));
    assert_null(strstr(s, "torch.optim.Adam\n"));
    free(s);
    s = printed("validation_dataset_code", AM_OK);
    assert_non_null(strstr(s, "--validation_dataset*.data_dir"));
    free(s);
    s = printed("peft", AM_OK);
    assert_memory_equal(s, "peft: not offered: ", 19);
    free(s);
    s = printed("optimzer", AM_ERR_USAGE);
    assert_string_equal(am_error_message(),
                        "a recipe has no section \"optimzer\"; did you mean \"optimizer\"?");
    free(s);
    s = printed(NULL, AM_OK);
    assert_non_null(strstr(s, "--seed\n      Another spelling of rng.seed."));
    assert_non_null(strstr(s, "--distributed.recompute  <none|selective|full>  default: selective"));
    free(s);
}

static void test_config_print__reference(void **state)
{
    char *text = NULL;
    FILE *f = tmpfile();
    assert_non_null(f);
    am_config_print_reference(f);
    long n = ftell(f);
    rewind(f);
    assert_int_equal(am_calloc((size_t)n + 1, 1, &text), AM_OK);
    assert_int_equal(fread(text, 1, (size_t)n, f), n);
    fclose(f);
    assert_memory_equal(text, "# Options of a recipe\n", 22);
    assert_non_null(strstr(text, "| `recompute` | none\\|selective\\|full | `selective` | What backward computes again"));
    assert_non_null(strstr(text, "| `wandb` | accepted, no effect: "));
    assert_non_null(strstr(text, "| `fp8` | not offered when `enabled` is true: "));
    assert_non_null(strstr(text, "`_target_: automodel.ShardDataset`: token shards"));
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_config_print__dump_round_trip),
        cmocka_unit_test(test_config_print__dump_keeps_absent_sections_absent),
        cmocka_unit_test(test_config_print__help),
        cmocka_unit_test(test_config_print__reference),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
