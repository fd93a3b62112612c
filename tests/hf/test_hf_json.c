/* The strict door of JSON: what is refused and where, and the two things Python writes that JSON has not. */
#include "hf_test.h"

#include <math.h>

static am_status parse(const char *text, json_t **out)
{
    return am_json_parse(text, strlen(text), "f.json", out);
}

static void refused(const char *text, const char *position)
{
    json_t *v = NULL;
    assert_fails(parse(text, &v), AM_ERR_MODEL, position);
    assert_null(v);
}

static void test_hf_json__refused_with_position(void **state)
{
    (void)state;
    refused("", "f.json:1:1: not valid JSON");
    refused("{\"a\": 1,\n \"b\": 2,\n \"a\": 3}", "f.json:3:5: not valid JSON: duplicate object key");
    refused("{\"a\": 1,}", "f.json:1:");
    refused("{\n  \"a\": tru\n}", "f.json:2:");
    refused("{} {}", "f.json:1:5: not valid JSON: end of file expected");
    refused("{\"a\": \"\xff\"}", "f.json:1:");
    refused("{'a': 1}", "f.json:1:");
    refused("{\"a\": Nan}", "f.json:1:");
    refused("{\"a\": 1e999}", "f.json:1:");
    refused("[0123456789012345678901234567890]", "f.json:1:");
}

static void test_hf_json__depth(void **state)
{
    (void)state;
    char text[400];
    json_t *v = NULL;
    memset(text, '[', AM_JSON_MAX_DEPTH);
    memset(text + AM_JSON_MAX_DEPTH, ']', AM_JSON_MAX_DEPTH);
    text[2 * AM_JSON_MAX_DEPTH] = '\0';
    assert_ok(parse(text, &v));
    json_decref(v);
    memset(text, '[', AM_JSON_MAX_DEPTH + 1);
    memset(text + AM_JSON_MAX_DEPTH + 1, ']', AM_JSON_MAX_DEPTH + 1);
    text[2 * AM_JSON_MAX_DEPTH + 2] = '\0';
    refused(text, "f.json:1:65: more than 64 nested levels");
    assert_ok(
        parse("[\"[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[\\\"[[\"]", &v));
    json_decref(v); /* brackets in a string are text */
}

static void test_hf_json__what_python_writes(void **state)
{
    (void)state;
    json_t *v = NULL;
    double x;
    /* mamba2's config.json, a tokenizer_config.json, and strings that only look like it */
    assert_ok(parse(
        "{\"a\": [0.0, Infinity], \"b\": -Infinity, \"c\":NaN, \"s\": \"Infinity, NaN\",\n"
        " \"m\": 1000000000000000019884624838656, \"n\": -9223372036854775808, \"o\": 9223372036854775808,"
        " \"d\": 12345678901234567890.5}",
        &v));
    assert_true(am_json_number(json_array_get(am_json_at(v, "a"), 1), &x) && isinf(x) && x > 0);
    assert_true(am_json_number(am_json_at(v, "b"), &x) && isinf(x) && x < 0);
    assert_true(am_json_number(am_json_at(v, "c"), &x) && isnan(x));
    assert_string_equal(json_string_value(am_json_at(v, "s")), "Infinity, NaN");
    assert_true(am_json_number(am_json_at(v, "m"), &x) && x == 1e30);
    assert_true(json_is_integer(am_json_at(v, "n")) && json_integer_value(am_json_at(v, "n")) == INT64_MIN);
    assert_true(am_json_number(am_json_at(v, "o"), &x) && x == 9223372036854775808.0);
    assert_true(am_json_number(am_json_at(v, "d"), &x) && x == 12345678901234567890.5);
    assert_false(am_json_number(am_json_at(v, "s"), &x));
    json_decref(v);
    assert_ok(parse("{\"a\": {\"__float__\": \"-Infinity\"}, \"b\": {\"__float__\": \"1\"}}",
                    &v)); /* transformers 5 */
    assert_true(am_json_number(am_json_at(v, "a"), &x) && isinf(x) && x < 0);
    assert_false(am_json_number(am_json_at(v, "b"), &x));
    json_decref(v);
    refused("{\"a\": Infinity, \"b\": NaN, \"c\" 1}",
            "f.json:1:"); /* … and the column is that of the original: */
    assert_non_null(strstr(am_error_message(), "f.json:1:32:"));
}

static void test_hf_json__nul_in_strings(void **state)
{
    (void)state;
    json_t *v = NULL;
    assert_ok(parse("[\"a\\u0000b\"]", &v));
    assert_int_equal(json_string_length(json_array_get(v, 0)), 3);
    json_decref(v);
    refused("{\"a\\u0000b\": 1}", "f.json:1:");
}

static void test_hf_json__paths_and_integers(void **state)
{
    (void)state;
    json_t *v = NULL;
    int64_t i;
    assert_ok(parse("{\"a\": {\"b\": {\"c\": 8.0}, \"n\": null}, \"x\": 8.5, \"y\": 1e16, \"t\": true}", &v));
    assert_true(am_json_integer(am_json_at(v, "a.b.c"), &i) && i == 8);
    assert_null(am_json_at(v, "a.c"));
    assert_null(am_json_at(v, "x.y"));
    assert_true(json_is_null(am_json_at(v, "a.n")));
    assert_false(am_json_integer(am_json_at(v, "x"), &i));
    assert_false(am_json_integer(am_json_at(v, "y"), &i));
    assert_false(am_json_integer(am_json_at(v, "t"), &i));
    json_decref(v);
}

static void test_hf_json__files(void **state)
{
    (void)state;
    char dir[256], path[600];
    json_t *v = NULL, *w = NULL;
    snprintf(dir, sizeof dir, "%s", temporary_folder());
    snprintf(path, sizeof path, "%s/x.json", dir);
    assert_fails(am_json_load(path, 0, &v), AM_ERR_IO, path);
    assert_ok(parse("{\"b\": [1, 2.5, \"\\u00fc\"], \"a\": null}", &v));
    assert_ok(am_json_save(path, v));
    assert_ok(am_json_load(path, 0, &w));
    assert_true(json_equal(v, w));
    json_decref(w);
    assert_fails(am_json_load(path, 10, &w), AM_ERR_IO, "more than the 10 allowed");
    json_decref(v);
    remove_folder(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_hf_json__refused_with_position), cmocka_unit_test(test_hf_json__depth),
        cmocka_unit_test(test_hf_json__what_python_writes),    cmocka_unit_test(test_hf_json__nul_in_strings),
        cmocka_unit_test(test_hf_json__paths_and_integers),    cmocka_unit_test(test_hf_json__files),
    };
    return cmocka_run_group_tests_name("hf_json", tests, NULL, NULL);
}
