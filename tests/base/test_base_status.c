/* Status list, error trace, log switches. */
#include "base/base.h"

#include <setjmp.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

static am_status inner(void)
{
    am_status st = AM_OK;
    AM_FAIL(AM_ERR_CONFIG, "key \"%s\" is wrong", "lr");
done:
    return st;
}

static am_status outer(void)
{
    am_status st = AM_OK;
    AM_TRY(inner());
done:
    return st;
}

static am_status broken(int x)
{
    am_status st = AM_OK;
    AM_ASSERT(x == 1);
done:
    return st;
}

/* The exit codes of the published table of commands. */
static void test_base_status__exit_codes(void **state)
{
    assert_int_equal(am_status_exit_code(AM_OK), 0);
    assert_int_equal(am_status_exit_code(AM_ERR_INTERNAL), 1);
    assert_int_equal(am_status_exit_code(AM_ERR_USAGE), 2);
    assert_int_equal(am_status_exit_code(AM_ERR_CONFIG), 2);
    assert_int_equal(am_status_exit_code(AM_ERR_MODEL), 3);
    assert_int_equal(am_status_exit_code(AM_ERR_CHECKPOINT), 3);
    assert_int_equal(am_status_exit_code(AM_ERR_PLAN), 4);
    assert_int_equal(am_status_exit_code(AM_ERR_NUMERIC), 5);
    assert_int_equal(am_status_exit_code(AM_INTERRUPTED), 6);
    assert_int_equal(am_status_exit_code(AM_ERR_WATCHDOG), 7);
    assert_string_equal(am_status_name(AM_ERR_CONFIG), "ERR_CONFIG");
    assert_string_equal(am_status_name((am_status)999), "unknown status");
}

static void capture_error(char *out, size_t size)
{
    FILE *f = tmpfile();
    assert_non_null(f);
    am_error_print(f, 3);
    rewind(f);
    size_t n = fread(out, 1, size - 1, f);
    out[n] = '\0';
    fclose(f);
}

static void test_base_status__trace_keeps_the_first_sentence(void **state)
{
    char text[4096];
    unsetenv("AM_DEBUG");
    assert_int_equal(outer(), AM_ERR_CONFIG);
    assert_string_equal(am_error_message(), "key \"lr\" is wrong");
    capture_error(text, sizeof text);
    assert_string_equal(text, "automodel: [rank 3] error: key \"lr\" is wrong\n");
    setenv("AM_DEBUG", "comm,trace", 1);
    capture_error(text, sizeof text);
    assert_non_null(strstr(text, "while doing inner() at "));
    unsetenv("AM_DEBUG");
    am_error_clear();
    assert_string_equal(am_error_message(), "");
}

/* On several nodes a line names the node; a name of any length leaves the line whole. */
static void test_base_status__labels(void **state)
{
    char text[4096], label[AM_LOG_LABEL], longest[300];
    am_fail(AM_ERR_CONFIG, "no");
    assert_string_equal(am_log_label(5, label, sizeof label), "[rank 5] ");
    assert_string_equal(am_log_label(-1, label, sizeof label), "");
    for (int i = 0; i < 2; i++) { /* a name may follow a name */
        am_log_set_rank(5, i ? "n2" : "n1");
        assert_string_equal(am_log_label(5, label, sizeof label), i ? "[rank 5 n2] " : "[rank 5 n1] ");
    }
    assert_string_equal(am_log_label(-1, label, sizeof label), "");
    capture_error(text, sizeof text);
    assert_string_equal(text, "automodel: [rank 3 n2] error: no\n");
    memset(longest, 'x', sizeof longest - 1);
    longest[sizeof longest - 1] = '\0';
    am_log_set_rank(2147483647, longest);
    longest[63] = '\0';
    snprintf(text, sizeof text, "[rank 2147483647 %s] ", longest);
    assert_string_equal(am_log_label(2147483647, label, sizeof label), text);
    am_log_set_rank(-1, NULL);
    assert_string_equal(am_log_label(5, label, sizeof label), "[rank 5] ");
    am_error_clear();
}

/* The line of a log, as the reader of a job's output sees it. */
static void test_base_status__log_lines(void **state)
{
    char text[256] = "";
    FILE *f = tmpfile();
    assert_non_null(f);
    fflush(stderr);
    int saved = dup(2);
    assert_true(saved >= 0 && dup2(fileno(f), 2) == 2);
    am_log(AM_LOG_INFO, "train", "alone");
    am_log_set_rank(5, "n2");
    am_log(AM_LOG_INFO, "train", "of rank 0 only");
    am_log(AM_LOG_WARN, "train", "%d words", 2);
    am_log_set_rank(5, NULL);
    am_log(AM_LOG_ERROR, "train", "end");
    am_log_set_rank(-1, NULL);
    fflush(stderr);
    assert_int_equal(dup2(saved, 2), 2);
    close(saved);
    rewind(f);
    assert_true(fread(text, 1, sizeof text - 1, f) > 0);
    fclose(f);
    assert_string_equal(
        text, "automodel: alone\nautomodel: [rank 5 n2] warning: 2 words\nautomodel: [rank 5] error: end\n");
}

/* A new sentence may quote the old one. */
static void test_base_status__rewrap(void **state)
{
    assert_int_equal(inner(), AM_ERR_CONFIG);
    am_fail(AM_ERR_DATA, "in line 3: %s", am_error_message());
    assert_string_equal(am_error_message(), "in line 3: key \"lr\" is wrong");
}

static void test_base_status__broken_invariant(void **state)
{
    assert_int_equal(broken(1), AM_OK);
    assert_int_equal(broken(2), AM_ERR_INTERNAL);
    assert_non_null(strstr(am_error_message(), "broken invariant: x == 1"));
}

static void test_base_status__debug_subsystems(void **state)
{
    setenv("AM_DEBUG", "comm,ckpt", 1);
    assert_true(am_debug_enabled("comm"));
    assert_true(am_debug_enabled("ckpt"));
    assert_false(am_debug_enabled("com"));
    assert_false(am_debug_enabled("data"));
    setenv("AM_DEBUG", "all", 1);
    assert_true(am_debug_enabled("data"));
    unsetenv("AM_DEBUG");
    assert_false(am_debug_enabled("comm"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_base_status__exit_codes),
        cmocka_unit_test(test_base_status__trace_keeps_the_first_sentence),
        cmocka_unit_test(test_base_status__labels),
        cmocka_unit_test(test_base_status__log_lines),
        cmocka_unit_test(test_base_status__rewrap),
        cmocka_unit_test(test_base_status__broken_invariant),
        cmocka_unit_test(test_base_status__debug_subsystems),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
