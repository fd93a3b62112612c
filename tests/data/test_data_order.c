/* The keyed permutation: a bijection for every n, spread evenly, moved by seed and stream. */
#include "data_test.h"

static void check_bijection(uint64_t seed, uint64_t stream, int64_t n)
{
    uint8_t *seen = calloc((size_t)n, 1);
    for (int64_t i = 0; i < n; i++) {
        int64_t x = am_permute(seed, stream, n, i);
        assert_true(x >= 0 && x < n);
        assert_int_equal(seen[x], 0);
        seen[x] = 1;
    }
    free(seen);
}

static void test_order__bijection(void **state)
{
    for (int64_t n = 1; n <= 600; n++) check_bijection(7, 3, n);
    for (int64_t n = 601; n <= 10000; n += 97) check_bijection((uint64_t)n, 1, n);
    const int64_t edges[] = {1023, 1024, 1025, 4095, 4096, 4097, 8192, 8193, 9999, 10000};
    for (size_t i = 0; i < sizeof edges / sizeof *edges; i++)
        for (uint64_t stream = 0; stream < 3; stream++) check_bijection(UINT64_MAX, stream, edges[i]);
}

static void test_order__large_domain(void **state)
{
    int64_t n = (int64_t)1 << 50;
    for (int64_t i = 0; i < 1000; i++) {
        int64_t x = am_permute(1, 2, n - 3, n - 4 - i);
        assert_true(x >= 0 && x < n - 3);
    }
}

/* χ² of where one index goes over 4000 seeds, 10 bins: 9 degrees of freedom, P(χ² > 33.7) = 1e-4. */
static void test_order__even(void **state)
{
    for (int64_t n = 10; n <= 1000; n *= 10) {
        double count[10] = {0}, chi2 = 0;
        for (uint64_t seed = 0; seed < 4000; seed++) count[am_permute(seed, 5, n, 3) * 10 / n] += 1;
        for (int b = 0; b < 10; b++) chi2 += (count[b] - 400) * (count[b] - 400) / 400;
        assert_true(chi2 < 33.7);
    }
}

/* A random permutation has one fixed point and one kept neighbour on average, whatever n: far from the
 * identity. */
static void test_order__streams_differ(void **state)
{
    int64_t n = 5000, same_seed = 0, same_stream = 0, fixed = 0, neighbours = 0;
    for (int64_t i = 0; i < n; i++) {
        int64_t x = am_permute(1, 1, n, i);
        same_stream += x == am_permute(2, 1, n, i);
        same_seed += x == am_permute(1, 2, n, i);
        fixed += x == i;
        if (i + 1 < n) neighbours += am_permute(1, 1, n, i + 1) == x + 1;
    }
    assert_true(same_seed < 12 && same_stream < 12 && fixed < 12 &&
                neighbours < 12); /* Poisson(1): P < 1e-9 */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_order__bijection),
        cmocka_unit_test(test_order__large_domain),
        cmocka_unit_test(test_order__even),
        cmocka_unit_test(test_order__streams_differ),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
