/* Choosing a token: greedy, temperature, top-k, top-p, log probabilities.  Expected values: softmax computed
 * by hand. */
#include "cli/sampling.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

enum { V = 5, DRAWS = 20000 };
/* softmax of log p is p */
static const double p[V] = {0.4, 0.05, 0.3, 0.05, 0.2};

static void fill(float logits[V])
{
    for (int i = 0; i < V; i++) logits[i] = (float)log(p[i]);
}

static void draw(const am_sampling *o, double freq[V])
{
    float logits[V];
    int32_t order[V], token;
    double logprob;
    fill(logits);
    memset(freq, 0, V * sizeof *freq);
    for (int s = 0; s < DRAWS; s++) {
        assert_int_equal(am_sample_token(o, logits, V, order, s, &token, &logprob), AM_OK);
        assert_true(token >= 0 && token < V);
        assert_true(fabs(logprob - log(p[token])) < 1e-6);
        freq[token] += 1.0 / DRAWS;
    }
}

/* A frequency of n draws has the standard deviation sqrt(p(1-p)/n) <= 0.0036; five of them. */
static void assert_close(const double *freq, const double *expected)
{
    for (int i = 0; i < V; i++) assert_true(fabs(freq[i] - expected[i]) < 0.018);
}

static void test_cli_sampling__greedy(void **state)
{
    float logits[V] = {1, 3, 3, -2, 0};
    int32_t order[V], token;
    double logprob, sum = exp(1) + 2 * exp(3) + exp(-2) + 1;
    am_sampling o = {.temperature = 0, .top_p = 1};
    assert_int_equal(am_sample_token(&o, logits, V, order, 0, &token, &logprob), AM_OK);
    assert_int_equal(token, 1); /* the lower id of two equal ones */
    assert_true(fabs(logprob - (3 - log(sum))) < 1e-12);
}

static void test_cli_sampling__plain(void **state)
{
    double freq[V];
    am_sampling o = {.temperature = 1, .top_p = 1, .seed = 5};
    draw(&o, freq);
    assert_close(freq, p);
}

static void test_cli_sampling__temperature(void **state)
{
    double freq[V], expected[V], sum = 0;
    am_sampling o = {.temperature = 0.5, .top_p = 1, .seed = 6};
    for (int i = 0; i < V; i++) sum += expected[i] = p[i] * p[i];
    for (int i = 0; i < V; i++) expected[i] /= sum;
    draw(&o, freq);
    assert_close(freq, expected);
}

static void test_cli_sampling__top_k(void **state)
{
    double freq[V];
    const double expected[V] = {0.4 / 0.7, 0, 0.3 / 0.7, 0, 0};
    am_sampling o = {.temperature = 1, .top_k = 2, .top_p = 1, .seed = 7};
    draw(&o, freq);
    assert_close(freq, expected);
    assert_true(freq[4] == 0 && freq[1] == 0 && freq[3] == 0);
}

/* 0.4 does not reach 0.65, 0.4 + 0.3 does */
static void test_cli_sampling__top_p(void **state)
{
    double freq[V];
    const double expected[V] = {0.4 / 0.7, 0, 0.3 / 0.7, 0, 0};
    am_sampling o = {.temperature = 1, .top_p = 0.65, .seed = 8};
    draw(&o, freq);
    assert_close(freq, expected);
    assert_true(freq[4] == 0);
    o.top_p = 1e-9; /* always one */
    draw(&o, freq);
    assert_true(fabs(freq[0] - 1) < 1e-9);
}

static void test_cli_sampling__seed(void **state)
{
    float logits[V];
    int32_t order[V], a[64], b[64], c[64];
    double logprob;
    am_sampling o = {.temperature = 1, .top_p = 1, .seed = 1},
                other = {.temperature = 1, .top_p = 1, .seed = 2};
    fill(logits);
    for (int s = 0; s < 64; s++) {
        assert_int_equal(am_sample_token(&o, logits, V, order, s, &a[s], &logprob), AM_OK);
        assert_int_equal(am_sample_token(&o, logits, V, order, s, &b[s], &logprob), AM_OK);
        assert_int_equal(am_sample_token(&other, logits, V, order, s, &c[s], &logprob), AM_OK);
    }
    assert_memory_equal(a, b, sizeof a);
    assert_memory_not_equal(a, c, sizeof a);
}

static void test_cli_sampling__not_finite(void **state)
{
    float logits[V] = {0, 1, NAN, 3, 4};
    int32_t order[V], token;
    double logprob;
    am_sampling o = {.temperature = 0, .top_p = 1};
    assert_int_equal(am_sample_token(&o, logits, V, order, 0, &token, &logprob), AM_ERR_NUMERIC);
    assert_non_null(strstr(am_error_message(), "token 2"));
    logits[2] = INFINITY;
    assert_int_equal(am_sample_token(&o, logits, V, order, 0, &token, &logprob), AM_ERR_NUMERIC);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cli_sampling__greedy),      cmocka_unit_test(test_cli_sampling__plain),
        cmocka_unit_test(test_cli_sampling__temperature), cmocka_unit_test(test_cli_sampling__top_k),
        cmocka_unit_test(test_cli_sampling__top_p),       cmocka_unit_test(test_cli_sampling__seed),
        cmocka_unit_test(test_cli_sampling__not_finite),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
