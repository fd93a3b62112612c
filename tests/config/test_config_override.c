/* Command-line overrides of a recipe. */
#include "test_config_support.h"

#define COUNT(a) ((int)(sizeof(a) / sizeof(a)[0]))

static const char base[] = "optimizer:\n  lr: 1e-5\n  betas: [0.9, 0.95]\n"
                           "  param_group_overrides:\n    - {pattern: a}\n    - {pattern: b}\n";

static void test_config_override__forms(void **state)
{
    static const char *const args[] = {
        "--optimizer.lr",
        "0.5",
        "--optimizer.eps=1e-3",
        "--distributed.reshard_after_forward=false",
        "--packed_sequence.drop_long_samples",
        "--run.dir",
        "a=b c",
        "--optimizer.betas",
        "[0.1, 0.2]",
        "--optimizer.param_group_overrides.1.lr_mult",
        "3",
        "--seed",
        "9",
        "--optimizer.lr",
        "0.25",
        "--freeze_config.patterns",
        "*mlp*",
        "--clip_grad_norm",
        "{max_norm: 2}",
        "--dataset._target_=ShardDataset",
        "--dataset.data_dir",
        "/x",
        "--distributed.mp_policy.reduce_dtype",
        "bf16",
    };
    am_config *cfg = parse_ok(base, COUNT(args), args);
    assert_true(am_config_float(cfg, "optimizer.lr") == 0.25); /* the later one */
    assert_string_equal(am_config_where(cfg, "optimizer.lr"), "command line, --optimizer.lr");
    assert_true(am_config_float(cfg, "optimizer.eps") == 1e-3);
    assert_false(am_config_bool(cfg, "distributed.reshard_after_forward"));
    assert_true(am_config_bool(cfg, "packed_sequence.drop_long_samples"));
    assert_string_equal(am_config_string(cfg, "run.dir"), "a=b c");
    assert_true(am_config_item_float(cfg, "optimizer.betas", 1) == 0.2);
    assert_true(am_config_float(cfg, "optimizer.param_group_overrides.1.lr_mult") == 3);
    assert_true(am_config_float(cfg, "optimizer.param_group_overrides.0.lr_mult") == 1);
    assert_int_equal(am_config_int(cfg, "rng.seed"), 9);
    assert_string_equal(am_config_item(cfg, "freeze_config.patterns", 0), "*mlp*"); /* no alias of YAML */
    assert_true(am_config_float(cfg, "clip_grad_norm.max_norm") == 2);
    assert_string_equal(am_config_string(cfg, "dataset.data_dir"), "/x");
    am_dtype t;
    assert_true(am_config_dtype(cfg, "distributed.mp_policy.reduce_dtype", &t));
    assert_int_equal(t, AM_BF16);
    am_config_free(&cfg);
}

static void test_config_override__negative_numbers_are_values(void **state)
{
    static const char *const args[] = {"--optimizer.lr", "-1"};
    parse_fails(base, 2, args, "command line, --optimizer.lr: optimizer.lr: -1 is outside of [0, inf)");
}

static void test_config_override__null_takes_a_value_back(void **state)
{
    static const char *const args[] = {"--optimizer.lr=none", "--peft=null"};
    am_config *cfg = parse_ok("optimizer: {lr: 0.5}\npeft: {dim: 8}\n", 2, args);
    assert_false(am_config_given(cfg, "optimizer.lr"));
    assert_true(am_config_float(cfg, "optimizer.lr") == 1e-5);
    am_config_free(&cfg);
}

/* A recipe that says rng.seed and a command line that says seed, or the other way round: the command line wins. */
static void test_config_override__wins_under_another_spelling(void **state)
{
    static const char *const alias[] = {"--seed=9"}, *const plain[] = {"--rng.seed=9"};
    am_config *cfg = parse_ok("rng: {seed: 2}\n", 1, alias);
    assert_int_equal(am_config_int(cfg, "rng.seed"), 9);
    assert_string_equal(am_config_where(cfg, "rng.seed"), "command line, --seed");
    am_config_free(&cfg);
    cfg = parse_ok("seed: 2\n", 1, plain);
    assert_int_equal(am_config_int(cfg, "rng.seed"), 9);
    am_config_free(&cfg);
    static const char *const both[] = {"--rng.seed=9", "--seed=8"};
    parse_fails("seed: 2\n", 2, both, "command line, --seed: seed is another spelling of rng.seed, which has another value "
                                      "(command line, --rng.seed): keep one of the two");
}

static void test_config_override__refusals(void **state)
{
    static const struct {
        const char *arg, *value, *sentence;
    } cases[] = {
        {"--optimizer.learning", "1",
         "command line, --optimizer.learning: unknown key \"learning\" in optimizer with _target_ AdamW; "
         "`automodel "
         "train --options optimizer` lists its keys"},
        {"--optimzer.lr", "1",
         "command line, --optimzer.lr: unknown section \"optimzer\"; did you mean \"optimizer\"?"},
        {"lr", "1", "\"lr\" is no override: write --section.key value, or --section.key=value"},
        {"--optimizer.lr.x", "1",
         "command line, --optimizer.lr.x: \"lr\" is the value \"1e-5\" in the recipe, not a mapping that "
         "could hold "
         "further keys"},
        {"--optimizer..lr", "1", "command line, --optimizer..lr: a name is missing between two dots"},
        {"--optimizer.", "1", "command line, --optimizer.: the name of an option is missing"},
        {"--optimizer.betas", "[0.1",
         "command line, --optimizer.betas: the value [0.1 is not a valid YAML list or mapping"},
        {"--optimizer.param_group_overrides.2.lr_mult", "1",
         "command line, --optimizer.param_group_overrides.2.lr_mult: \"2\" is no entry of this list, which "
         "has 2 (0 is "
         "the first)"},
        {"--optimizer.betas", "[0.1, 0.2, 0.3]",
         "command line, --optimizer.betas: optimizer.betas: 2 entries are expected, not 3"},
    };
    for (int i = 0; i < COUNT(cases); i++) {
        const char *const args[] = {cases[i].arg, cases[i].value};
        parse_fails(base, 2, args, cases[i].sentence);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_config_override__forms),
        cmocka_unit_test(test_config_override__negative_numbers_are_values),
        cmocka_unit_test(test_config_override__null_takes_a_value_back),
        cmocka_unit_test(test_config_override__wins_under_another_spelling),
        cmocka_unit_test(test_config_override__refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
