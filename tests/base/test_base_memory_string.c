/* Memory with checked sizes, growing strings, number parsing, suggestions, matching. */
#include "base/base.h"

#include <math.h>
#include <setjmp.h>
#include <string.h>
#include <cmocka.h>

static void test_base_memory__overflow(void **state)
{
    size_t z;
    int64_t i;
    void *p = &z;
    assert_int_equal(am_calloc(SIZE_MAX / 2 + 1, 2, &p), AM_ERR_MEMORY); /* the product wraps to 0 */
    assert_null(p);
    assert_false(am_mul_size(SIZE_MAX / 2, 3, &z));
    assert_false(am_add_size(SIZE_MAX, 1, &z));
    assert_false(am_mul_i64(INT64_MAX / 2, 3, &i));
    assert_false(am_add_i64(INT64_MIN, -1, &i));
    assert_true(am_mul_i64(3000000000, 3, &i));
    assert_int_equal(i, 9000000000);
    size_t cap = 0;
    int *grown = NULL;
    assert_int_equal(am_grow(&grown, &cap, SIZE_MAX / 4 + 1, sizeof(int)), AM_ERR_MEMORY);
    assert_null(grown);
    assert_int_equal(cap, 0);
    assert_int_equal(am_round_up(13, 8), 16);
    assert_int_equal(am_ceil_div(16, 8), 2);
}

static void test_base_memory__calloc_and_grow(void **state)
{
    int *a = NULL;
    size_t cap = 0;
    for (size_t i = 0; i < 1000; i++) {
        assert_int_equal(am_grow(&a, &cap, i + 1, sizeof *a), AM_OK);
        assert_int_equal(a[i], 0);
        a[i] = (int)i;
    }
    for (size_t i = 0; i < 1000; i++) assert_int_equal(a[i], i);
    assert_true(cap >= 1000 && cap <= 2048);
    am_free(&a);
    assert_null(a);
    am_free(&a);
    char *none = NULL;
    assert_int_equal(am_calloc(0, 8, &none), AM_OK);
    assert_non_null(none);
    am_free(&none);
    char *s = NULL;
    assert_int_equal(am_strndup("abcdef", 3, &s), AM_OK);
    assert_string_equal(s, "abc");
    am_free(&s);
}

static void test_base_string__append(void **state)
{
    am_str b = {0};
    assert_int_equal(am_str_append(&b, "", 0), AM_OK);
    assert_string_equal(b.s, "");
    for (int i = 0; i < 100; i++) assert_int_equal(am_str_printf(&b, "%d,", i), AM_OK);
    assert_int_equal(b.len, 290); /* 10 numbers of one digit, 90 of two, 100 commas */
    assert_int_equal(strlen(b.s), 290);
    am_str_release(&b);
    assert_null(b.s);
}

static void test_base_string__numbers(void **state)
{
    int64_t i;
    double d;
    assert_true(am_parse_i64("-9223372036854775808", &i));
    assert_int_equal(i, INT64_MIN);
    assert_false(am_parse_i64("9223372036854775808", &i));
    assert_false(am_parse_i64("", &i));
    assert_false(am_parse_i64(" 1", &i));
    assert_false(am_parse_i64("1k", &i));
    assert_false(am_parse_i64("1.0", &i));
    assert_true(am_parse_f64("1e-5", &d));
    assert_true(d == 1e-5);
    assert_true(am_parse_f64("5e-324", &d));
    assert_true(d > 0);
    assert_false(am_parse_f64("1e999", &d));
    assert_true(am_parse_f64("inf", &d));
    assert_true(isinf(d));
    assert_false(am_parse_f64("1.0x", &d));
    assert_false(am_parse_f64("", &d));
}

static void test_base_string__did_you_mean(void **state)
{
    static const char *const names[] = {"lr", "betas", "eps", "weight_decay", "global_batch_size"};
    assert_string_equal(am_did_you_mean("wieght_decay", names, 5), "weight_decay");
    assert_string_equal(am_did_you_mean("weigth-decay", names, 5), "weight_decay");
    assert_string_equal(am_did_you_mean("global_batchsize", names, 5), "global_batch_size");
    assert_string_equal(am_did_you_mean("LR", names, 5), "lr");
    assert_string_equal(am_did_you_mean("beta", names, 5), "betas");
    assert_null(am_did_you_mean("momentum", names, 5));
    assert_null(am_did_you_mean("xyz", names, 1));
    char huge[300];
    memset(huge, 'a', sizeof huge - 1);
    huge[sizeof huge - 1] = '\0';
    assert_null(am_did_you_mean(huge, names, 5));
}

static void test_base_string__glob(void **state)
{
    assert_true(am_glob_match("*mlp*", "model.layers.0.mlp.up_proj.weight"));
    assert_true(am_glob_match("model.layers.?.mlp.*", "model.layers.7.mlp.up_proj.weight"));
    assert_false(am_glob_match("model.layers.?.mlp.*", "model.layers.17.mlp.up_proj.weight"));
    assert_false(am_glob_match("mlp", "model.mlp"));
    assert_true(am_glob_match("*", ""));
    assert_false(am_glob_match("?", ""));
    assert_true(am_glob_match("a*b*c", "a/x/b.y.bzc"));
    assert_false(am_glob_match("a*b*c", "abcd"));
    assert_true(am_glob_match("", ""));
    /* must not take exponential time */
    assert_false(am_glob_match("*a*a*a*a*a*a*a*a*a*a*a*a*a*a*a*a*b",
                               "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_base_memory__overflow),     cmocka_unit_test(test_base_memory__calloc_and_grow),
        cmocka_unit_test(test_base_string__append),       cmocka_unit_test(test_base_string__numbers),
        cmocka_unit_test(test_base_string__did_you_mean), cmocka_unit_test(test_base_string__glob),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
