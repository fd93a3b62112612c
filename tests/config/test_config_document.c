/* YAML to a document: what is taken, what is refused and where. */
#include "test_config_support.h"

static void test_config_document__anchors_and_merges(void **state)
{
    am_config *cfg = parse_ok("_shared: &loader\n"
                              "  _target_: torchdata.stateful_dataloader.StatefulDataLoader\n"
                              "  shuffle: false\n"
                              "dataloader: *loader\n"
                              "_opt: &opt {lr: 0.5, eps: 1e-3}\n"
                              "_more: &more {lr: 0.25, weight_decay: 0.125}\n"
                              "optimizer:\n"
                              "  <<: [*opt, *more]\n"
                              "  eps: 1e-4\n",
                              0, NULL);
    assert_true(am_config_given(cfg, "dataloader.shuffle"));
    assert_false(am_config_bool(cfg, "dataloader.shuffle"));
    assert_string_equal(am_config_where(cfg, "dataloader.shuffle"), "r.yaml:3:12"); /* the anchor's text */
    assert_true(am_config_float(cfg, "optimizer.lr") == 0.5);   /* the first of the list wins */
    assert_true(am_config_float(cfg, "optimizer.eps") == 1e-4); /* its own key wins */
    assert_true(am_config_float(cfg, "optimizer.weight_decay") == 0.125);
    am_config_free(&cfg);
    assert_null(cfg);
}

/* An override of one section must not reach another that shares the anchor. */
static void test_config_document__alias_is_a_copy(void **state)
{
    static const char *const args[] = {"--validation_dataset.limit_dataset_samples", "7"};
    am_config *cfg = parse_ok("dataset: &d {_target_: ChatDataset, path_or_dataset_id: a.jsonl}\n"
                              "validation_dataset: *d\n",
                              2, args);
    assert_int_equal(am_config_int(cfg, "validation_dataset.limit_dataset_samples"), 7);
    assert_false(am_config_has(cfg, "dataset.limit_dataset_samples"));
    am_config_free(&cfg);
}

static void test_config_document__refusals(void **state)
{
    parse_fails("optimizer:\n  lr: 1\n  eps: 1\n  lr: 2\n", 0, NULL,
                "r.yaml:4:3: the key \"lr\" stands twice; the first is at line 2: remove one");
    parse_fails("run:\n  dir: !!python/object x\n", 0, NULL,
                "r.yaml:2:8: the tag tag:yaml.org,2002:python/object is refused: a recipe holds values, "
                "never types or "
                "code; remove it");
    parse_fails("run: !x {dir: a}\n", 0, NULL,
                "r.yaml:1:6: the tag !x is refused: a recipe holds values, never types or code; remove it");
    parse_fails("", 0, NULL, "r.yaml is empty: a recipe names at least a model, a dataset and an optimizer");
    parse_fails("# only this\n", 0, NULL,
                "r.yaml is empty: a recipe names at least a model, a dataset and an optimizer");
    parse_fails("- a\n- b\n", 0, NULL,
                "r.yaml:1:1: a recipe is a mapping of sections (`model:`, `dataset:` …)");
    parse_fails("run: {dir: a}\n---\nrun: {dir: b}\n", 0, NULL,
                "r.yaml:2:1: a second document begins here; a recipe is one document");
    parse_fails("run:\n  dir: *nowhere\n", 0, NULL,
                "r.yaml:2:8: the alias *nowhere has no anchor &nowhere before it (a text that begins with * "
                "is written "
                "in quotes)");
    parse_fails("run: &r\n  dir: *r\n", 0, NULL, "r.yaml:2:8: the alias *r stands inside its own anchor");
    parse_fails("run:\n  [a]: b\n", 0, NULL, "r.yaml:2:3: a key must be a plain word, not a list or mapping");
    parse_fails("run:\n  dir: \"a\\0b\"\n", 0, NULL, "r.yaml:2:8: a NUL character stands in this text");
    parse_fails("optimizer: {<<: 3}\n", 0, NULL,
                "r.yaml:1:17: `<<` takes an alias of a mapping, or a list of them");
}

static void test_config_document__syntax_errors_have_positions(void **state)
{
    am_config *cfg = NULL;
    const char *bad = "run:\n  dir: [a, b\nmodel: x\n";
    assert_int_equal(am_config_parse(bad, strlen(bad), "r.yaml", 0, NULL, &cfg), AM_ERR_CONFIG);
    assert_memory_equal(am_error_message(), "r.yaml:3:", 9);
    bad = "run:\n\tdir: a\n";
    assert_int_equal(am_config_parse(bad, strlen(bad), "r.yaml", 0, NULL, &cfg), AM_ERR_CONFIG);
    assert_memory_equal(am_error_message(), "r.yaml:2:1: not valid YAML", 26);
    bad = "run:\n  dir: \xff\xfe\n";
    assert_int_equal(am_config_parse(bad, strlen(bad), "r.yaml", 0, NULL, &cfg), AM_ERR_CONFIG);
    assert_memory_equal(am_error_message(), "r.yaml:2:8: not valid YAML", 26);
}

static void test_config_document__depth(void **state)
{
    am_str s = {0};
    for (int ok = 0; ok < 2; ok++) { /* ci is ignored, but its depth is not */
        int lists = ok ? 31 : 32;    /* the root mapping is the first level */
        s.len = 0;
        assert_int_equal(am_str_printf(&s, "ci: "), AM_OK);
        for (int i = 0; i < lists; i++) assert_int_equal(am_str_append(&s, "[", 1), AM_OK);
        assert_int_equal(am_str_append(&s, "x", 1), AM_OK);
        for (int i = 0; i < lists; i++) assert_int_equal(am_str_append(&s, "]", 1), AM_OK);
        if (ok) {
            am_config *cfg = parse_ok(s.s, 0, NULL);
            am_config_free(&cfg);
        } else {
            parse_fails(s.s, 0, NULL, "r.yaml:1:36: nested deeper than 32 levels");
        }
    }
    am_str_release(&s);
}

/* Nine levels of ten aliases each would be 10^9 nodes. */
static void test_config_document__alias_bomb(void **state)
{
    am_str s = {0};
    assert_int_equal(am_str_printf(&s, "ci:\n  a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n"), AM_OK);
    for (int i = 1; i <= 9; i++) {
        assert_int_equal(am_str_printf(&s, "  a%d: &a%d [", i, i), AM_OK);
        for (int j = 0; j < 10; j++)
            assert_int_equal(am_str_printf(&s, "%s*a%d", j > 0 ? ", " : "", i - 1), AM_OK);
        assert_int_equal(am_str_printf(&s, "]\n"), AM_OK);
    }
    am_config *cfg = NULL;
    assert_int_equal(am_config_parse(s.s, s.len, "r.yaml", 0, NULL, &cfg), AM_ERR_CONFIG);
    assert_non_null(strstr(am_error_message(), "more than 100000 nodes once its aliases are expanded"));
    am_str_release(&s);
}

/* 98 copies of a list of 1,000 are below the limit, 99 beyond it. */
static void test_config_document__number_of_nodes(void **state)
{
    for (int copies = 98; copies <= 99; copies++) {
        am_str s = {0};
        am_config *cfg = NULL;
        assert_int_equal(am_str_printf(&s, "_list: &list ["), AM_OK);
        for (int i = 0; i < 1000; i++) assert_int_equal(am_str_append(&s, "x,", 2), AM_OK);
        assert_int_equal(am_str_printf(&s, "]\nci: ["), AM_OK);
        for (int i = 0; i < copies; i++) assert_int_equal(am_str_append(&s, "*list ,", 7), AM_OK);
        assert_int_equal(am_str_printf(&s, "]\n"), AM_OK);
        am_status expected = copies == 98 ? AM_OK : AM_ERR_CONFIG;
        assert_int_equal(am_config_parse(s.s, s.len, "r.yaml", 0, NULL, &cfg), expected);
        am_config_free(&cfg);
        am_str_release(&s);
    }
}

static void test_config_document__size(void **state)
{
    size_t n = (1 << 20) + 1;
    char *text = NULL;
    am_config *cfg = NULL;
    assert_int_equal(am_calloc(n + 1, 1, &text), AM_OK);
    memset(text, '#', n);
    assert_int_equal(am_config_parse(text, n, "r.yaml", 0, NULL, &cfg), AM_ERR_CONFIG);
    assert_string_equal(am_error_message(), "r.yaml has 1048577 bytes; a recipe has at most 1048576");
    am_free(&text);
    assert_int_equal(am_config_load("/nonexistent/r.yaml", 0, NULL, &cfg), AM_ERR_CONFIG);
}

static void test_config_document__environment(void **state)
{
    setenv("AM_TEST_DIR", "/data/x", 1);
    setenv("AM_TEST_LR", "0.5", 1);
    unsetenv("AM_TEST_NONE");
    am_config *cfg =
        parse_ok("run:\n  dir: ${AM_TEST_DIR}/run-${oc.env:AM_TEST_NONE,7}\n"
                 "optimizer:\n  lr: ${oc.env:AM_TEST_LR}\n  eps: ${AM_TEST_NONE,1e-6}\n"
                 "dataset: {_target_: ShardDataset, data_dir: 'a$${b}', pattern: '${AM_TEST_NONE,}'}\n"
                 "skypilot: {hf_token: '${AM_TEST_NONE}'}\n", /* not looked at */
                 0, NULL);
    assert_string_equal(am_config_string(cfg, "run.dir"), "/data/x/run-7");
    assert_true(am_config_float(cfg, "optimizer.lr") == 0.5);
    assert_true(am_config_float(cfg, "optimizer.eps") == 1e-6);
    assert_string_equal(am_config_string(cfg, "dataset.data_dir"), "a${b}");
    am_config_free(&cfg);
    parse_fails("run:\n  dir: a/${AM_TEST_NONE}\n", 0, NULL,
                "r.yaml:2:8: the environment variable AM_TEST_NONE is not set: export it, or write "
                "${AM_TEST_NONE,default}");
    parse_fails(
        "run: {dir: '${model.lr}'}\n", 0, NULL,
        "r.yaml:1:12: ${model.lr} is no environment variable: write ${NAME} or ${NAME,default} ($${ for a "
        "literal ${)");
    parse_fails("run: {dir: '${X'}\n", 0, NULL, "r.yaml:1:12: ${ without its } ($${ for a literal ${)");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_config_document__anchors_and_merges),
        cmocka_unit_test(test_config_document__alias_is_a_copy),
        cmocka_unit_test(test_config_document__refusals),
        cmocka_unit_test(test_config_document__syntax_errors_have_positions),
        cmocka_unit_test(test_config_document__depth),
        cmocka_unit_test(test_config_document__alias_bomb),
        cmocka_unit_test(test_config_document__number_of_nodes),
        cmocka_unit_test(test_config_document__size),
        cmocka_unit_test(test_config_document__environment),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
