/* Learning rates against Automodel's OptimizerParamScheduler (its output, printed by Python with repr),
 * against closed forms at points where cosine and roots are known, and the refusal of what does not fit
 * together. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <math.h>
#include <string.h>
#include <cmocka.h>

#include "optim/optim.h"

#define POINTS 13
static const int64_t steps[POINTS] = {0, 1, 3, 4, 5, 9, 13, 14, 15, 17, 20, 21, 500};

/* lr_decay_steps 20, lr 1e-4; values of the reference at `steps` */
static const struct reference {
    am_lr_style style;
    int64_t warmup;
    double init_lr, min_lr;
    am_wsd_style wsd; /* wsd_decay_steps 7 */
    double lr[POINTS];
} references[] = {
    {AM_LR_CONSTANT,
     4,
     1e-5,
     1e-6,
     AM_WSD_NONE,
     {1e-05, 3.2500000000000004e-05, 7.75e-05, 0.0001, 0.0001, 0.0001, 0.0001, 0.0001, 0.0001, 0.0001, 0.0001,
      0.0001, 0.0001}},
    {AM_LR_LINEAR,
     4,
     1e-5,
     1e-6,
     AM_WSD_NONE,
     {1e-05, 3.2500000000000004e-05, 7.75e-05, 0.0001, 9.381250000000001e-05, 6.90625e-05, 4.43125e-05,
      3.8125e-05, 3.19375e-05, 1.95625e-05, 1e-06, 1e-06, 1e-06}},
    {AM_LR_COSINE,
     4,
     1e-5,
     1e-6,
     AM_WSD_NONE,
     {1e-05, 3.2500000000000004e-05, 7.75e-05, 0.0001, 9.90488713799599e-05, 7.80007265344703e-05,
      4.0843029060201655e-05, 3.1557170097928055e-05, 2.2999273465529706e-05, 9.342254191024006e-06, 1e-06,
      1e-06, 1e-06}},
    {AM_LR_COSINE,
     0,
     1e-5,
     1e-6,
     AM_WSD_NONE,
     {0.0001, 9.939057285945933e-05, 9.460482294732421e-05, 9.05463412215599e-05, 8.55017856687341e-05,
      5.8243506019491436e-05, 2.8027470262892437e-05, 2.1404630011522586e-05, 1.54982143312659e-05,
      6.395177052675795e-06, 1e-06, 1e-06, 1e-06}},
    {AM_LR_INVERSE_SQUARE_ROOT,
     4,
     0,
     5e-5,
     AM_WSD_NONE,
     {0.0, 2.5e-05, 7.500000000000001e-05, 0.0001, 8.944271909999159e-05, 6.666666666666667e-05,
      5.5470019622522915e-05, 5.345224838248488e-05, 5.163977794943223e-05, 5e-05, 5e-05, 5e-05, 5e-05}},
    {AM_LR_INVERSE_SQUARE_ROOT,
     0,
     0,
     1e-6,
     AM_WSD_NONE,
     {0.0001, 0.0001, 5.7735026918962585e-05, 5e-05, 4.4721359549995795e-05, 3.3333333333333335e-05,
      2.7735009811261458e-05, 2.672612419124244e-05, 2.5819888974716114e-05, 2.42535625036333e-05,
      2.2360679774997898e-05, 1e-06, 1e-06}},
    {AM_LR_WSD,
     4,
     1e-5,
     1e-6,
     AM_WSD_LINEAR,
     {1e-05, 3.2500000000000004e-05, 7.75e-05, 0.0001, 0.0001, 0.0001, 0.0001, 8.585714285714286e-05,
      7.171428571428572e-05, 4.342857142857143e-05, 1e-06, 1e-06, 1e-06}},
    {AM_LR_WSD,
     4,
     1e-5,
     1e-6,
     AM_WSD_COSINE,
     {1e-05, 3.2500000000000004e-05, 7.75e-05, 0.0001, 0.0001, 0.0001, 0.0001, 9.509795896116975e-05,
      8.136274519200731e-05, 3.948521376916244e-05, 1e-06, 1e-06, 1e-06}},
    {AM_LR_WSD,
     4,
     1e-5,
     1e-6,
     AM_WSD_EXPONENTIAL,
     {1e-05, 3.2500000000000004e-05, 7.75e-05, 0.0001, 0.0001, 0.0001, 0.0001, 8.133328552425353e-05,
      6.442640048951232e-05, 3.524411907060326e-05, 1e-06, 1e-06, 1e-06}},
    {AM_LR_WSD,
     0,
     1e-5,
     1e-6,
     AM_WSD_MINUS_SQRT,
     {0.0001, 0.0001, 0.0001, 0.0001, 0.0001, 0.0001, 0.0001, 6.25815171720865e-05, 4.708227410133997e-05,
      2.5163034344173016e-05, 1e-06, 1e-06, 1e-06}},
};

/* Both are doubles; cos, pow and sqrt of another library may differ in the last bits: 1e-13 relative. */
static void test_schedule__equals_the_reference(void **state)
{
    for (size_t i = 0; i < sizeof references / sizeof references[0]; i++) {
        const struct reference *r = &references[i];
        am_lr_schedule s = {r->init_lr, 1e-4, r->min_lr, r->warmup, 20, r->style, 7, r->wsd};
        assert_int_equal(am_lr_check(&s), AM_OK);
        for (int k = 0; k < POINTS; k++) assert_true(fabs(am_lr_at(&s, steps[k]) - r->lr[k]) <= 1e-13 * 1e-4);
    }
}

static void test_schedule__closed_forms(void **state)
{
    am_lr_schedule s = {.init_lr = 0, .max_lr = 6, .min_lr = 2, .decay_steps = 60, .style = AM_LR_COSINE};
    assert_true(fabs(am_lr_at(&s, 20) - (2 + 4 * 0.75)) < 1e-12); /* cos 60° = 1/2 */
    assert_true(fabs(am_lr_at(&s, 30) - 4) < 1e-12);
    assert_true(fabs(am_lr_at(&s, 60) - 2) < 1e-12);
    s.style = AM_LR_INVERSE_SQUARE_ROOT;
    s.warmup_steps = 4;
    assert_true(fabs(am_lr_at(&s, 16) - 3) < 1e-12);
    assert_true(am_lr_at(&s, 49) == 2); /* 12/7 is below min_lr */
    am_lr_schedule c = am_lr_constant(3e-4);
    assert_int_equal(am_lr_check(&c), AM_OK);
    assert_true(am_lr_at(&c, 0) == 3e-4 && am_lr_at(&c, INT64_C(1) << 50) == 3e-4);
}

static void test_schedule__defaults_are_automodels(void **state)
{
    am_lr_schedule s = am_lr_default(1e-3, 500);
    assert_true(s.warmup_steps == 50 && s.decay_steps == 500 && s.style == AM_LR_COSINE);
    assert_true(s.init_lr == 1e-3 * 0.1 && s.max_lr == 1e-3 && s.min_lr == 1e-3 * 0.01);
    assert_int_equal(am_lr_default(1e-3, 1000000).warmup_steps, 1000);
    s = am_lr_default(1e-3, 5); /* no warm-up: the first step has the full rate */
    assert_int_equal(am_lr_check(&s), AM_OK);
    assert_true(am_lr_at(&s, 0) == 1e-3);
}

static void test_schedule__words(void **state)
{
    am_lr_style s;
    am_wsd_style w;
    assert_true(am_lr_style_parse("inverse-square-root", &s) && s == AM_LR_INVERSE_SQUARE_ROOT);
    assert_true(am_lr_style_parse("WSD", &s) && s == AM_LR_WSD);
    assert_string_equal(am_lr_style_name(AM_LR_COSINE), "cosine");
    assert_false(am_lr_style_parse("wsd", &s));
    assert_true(am_wsd_style_parse("minus_sqrt", &w) && w == AM_WSD_MINUS_SQRT);
    assert_false(am_wsd_style_parse("sqrt", &w));
}

static void test_schedule__contradictions_are_refused(void **state)
{
    static const struct {
        am_lr_schedule s;
        const char *says;
    } cases[] = {
        {{0, 1, 2, 0, 10, AM_LR_LINEAR, -1, 0}, "min_lr 2 is above"},
        {{0, 1, -1, 0, 10, AM_LR_LINEAR, -1, 0}, "min_lr is -1"},
        {{0, NAN, 0, 0, 10, AM_LR_LINEAR, -1, 0}, "must be numbers"},
        {{2, 1, 0, 0, 10, AM_LR_LINEAR, -1, 0}, "init_lr 2"},
        {{0, 1, 0, 0, 0, AM_LR_LINEAR, -1, 0}, "lr_decay_steps is 0"},
        {{0, 1, 0, 10, 10, AM_LR_LINEAR, -1, 0}, "lr_warmup_steps 10"},
        {{0, 1, 0, -1, 10, AM_LR_LINEAR, -1, 0}, "lr_warmup_steps -1"},
        {{0, 1, 0, 0, 10, AM_LR_WSD, -1, AM_WSD_LINEAR}, "wsd_decay_steps"},
        {{0, 1, 0, 0, 10, AM_LR_WSD, 11, AM_WSD_LINEAR}, "wsd_decay_steps"},
        {{0, 1, 0, 0, 10, AM_LR_WSD, 5, AM_WSD_NONE}, "lr_wsd_decay_style"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        assert_int_equal(am_lr_check(&cases[i].s), AM_ERR_CONFIG);
        assert_non_null(strstr(am_error_message(), cases[i].says));
    }
    am_error_clear();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_schedule__equals_the_reference),
        cmocka_unit_test(test_schedule__closed_forms),
        cmocka_unit_test(test_schedule__defaults_are_automodels),
        cmocka_unit_test(test_schedule__words),
        cmocka_unit_test(test_schedule__contradictions_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
