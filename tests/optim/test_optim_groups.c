/* Overrides of AdamW's hyper-parameters by pattern: the first that is found anywhere in the name decides. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <math.h>
#include <string.h>
#include <cmocka.h>

#include "optim/optim.h"

static const am_optim_override overrides[] = {
    {"router|\\.gate\\.", 0.1, 1.0},               /* a word anywhere, or a module */
    {"^model\\.embed_tokens\\.weight$", 0.5, 0.0}, /* anchored */
    {"(norm\\.weight|\\.bias)$", 1.0, 0.0},        /* no decay */
    {"layers\\.\\d+\\.mlp", 2.0, 3.0},             /* Python's \d */
    {"never_there", 1.0, 1.0},
};

static void test_groups__first_match_decides(void **state)
{
    static const struct {
        const char *name;
        int index;
        double lr_mult, decay;
    } cases[] = {
        {"model.layers.0.self_attn.q_proj.weight", 0, 1.0, 0.2},
        {"model.layers.3.mlp.gate.weight", 1, 0.1, 0.2}, /* also matches the fourth */
        {"model.layers.3.block_sparse_moe.router.weight", 1, 0.1, 0.2},
        {"model.embed_tokens.weight", 2, 0.5, 0.0},
        {"xmodel.embed_tokens.weight", 0, 1.0, 0.2},
        {"model.layers.11.input_layernorm.weight", 3, 1.0, 0.0},
        {"model.layers.11.mlp.up_proj.bias", 3, 1.0, 0.0},
        {"model.layers.11.mlp.up_proj.weight", 4, 2.0, 0.6},
        {"model.layers.x.mlp.up_proj.weight", 0, 1.0, 0.2},
    };
    static const int64_t matched[] = {2, 1, 2, 1, 0};
    am_adamw base = am_adamw_default();
    am_optim_groups *g = NULL;
    base.weight_decay = 0.2;
    assert_int_equal(am_optim_groups_create(&base, overrides, 5, &g), AM_OK);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        am_optim_group got;
        assert_int_equal(am_optim_groups_find(g, cases[i].name, &got), AM_OK);
        assert_int_equal(got.index, cases[i].index);
        assert_true(got.lr_mult == cases[i].lr_mult);
        assert_true(fabs(got.weight_decay - cases[i].decay) < 1e-15);
    }
    for (size_t i = 1; i <= 5; i++) assert_int_equal(am_optim_groups_matched(g, i), matched[i - 1]);
    am_optim_groups_free(&g);
    assert_null(g);
}

static void test_groups__no_overrides(void **state)
{
    am_adamw base = am_adamw_default();
    am_optim_groups *g = NULL;
    am_optim_group got;
    assert_int_equal(am_optim_groups_create(&base, NULL, 0, &g), AM_OK);
    assert_int_equal(am_optim_groups_find(g, "lm_head.weight", &got), AM_OK);
    assert_true(got.index == 0 && got.lr_mult == 1.0 && got.weight_decay == 0.01); /* torch's default decay */
    am_optim_groups_free(&g);
}

static void test_groups__wrong_ones_are_refused(void **state)
{
    static const struct {
        am_optim_override o;
        const char *says;
    } cases[] = {
        {{"*embed*", 1, 1}, "write 'router'"}, /* a file-name pattern */
        {{"layers.(0", 1, 1}, "'layers.(0' is wrong at character"},
        {{"x", -1, 1}, "lr_mult -1"},
        {{"x", 1, NAN}, "wd_mult"},
    };
    am_adamw base = am_adamw_default();
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        am_optim_groups *g = NULL;
        assert_int_equal(am_optim_groups_create(&base, &cases[i].o, 1, &g), AM_ERR_CONFIG);
        assert_non_null(strstr(am_error_message(), cases[i].says));
        assert_null(g);
    }
    static const am_adamw bad[] = {{-1, .9, .9, 0, 0}, {1, 1, .9, 0, 0},   {1, .9, -.1, 0, 0},
                                   {1, .9, .9, -1, 0}, {1, .9, .9, 0, -1}, {NAN, .9, .9, 0, 0}};
    static const char *const words[] = {"lr is", "betas", "betas", "eps", "weight_decay", "lr is"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        assert_int_equal(am_adamw_check(&bad[i]), AM_ERR_CONFIG);
        assert_non_null(strstr(am_error_message(), words[i]));
    }
    am_error_clear();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_groups__first_match_decides),
        cmocka_unit_test(test_groups__no_overrides),
        cmocka_unit_test(test_groups__wrong_ones_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
