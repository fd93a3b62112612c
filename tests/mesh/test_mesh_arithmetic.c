/* Ranks, coordinates and groups over random meshes, and the cutting of ranges.  Expected values come from the
 * definitions in mesh.h written out as brute force (all ranks compared pairwise), not from the code under
 * test. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <string.h>
#include <cmocka.h>

#include "mesh/mesh.h"

static uint64_t lcg;
static int64_t draw(int64_t below) /* Knuth's MMIX generator */
{
    lcg = lcg * 6364136223846793005ull + 1442695040888963407ull;
    return (int64_t)((lcg >> 33) % (uint64_t)below);
}

static am_mesh random_mesh(void)
{
    am_mesh m;
    for (int d = 0; d < AM_MESH_DIM_COUNT; d++) m.size[d] = 1 + draw(4);
    return m;
}

static int setup(void **state)
{
    lcg = 20240607;
    return 0;
}

static void test_mesh__order_is_that_of_the_header(void **state)
{
    am_mesh m = {{2, 3, 5, 7, 11, 13}};
    am_coords c = {{1, 2, 4, 6, 10, 12}};
    assert_int_equal(am_mesh_ranks(&m), 2 * 3 * 5 * 7 * 11 * 13);
    assert_int_equal(am_mesh_rank(&m, &c), 1 + 2 * (2 + 3 * (4 + 5 * (6 + 7 * (10 + 11 * 12)))));
    am_coords next_tp = am_mesh_coords(&m, 1), next_cp = am_mesh_coords(&m, 2);
    assert_int_equal(next_tp.at[AM_MESH_TP], 1);
    assert_int_equal(next_cp.at[AM_MESH_CP], 1);
    assert_string_equal(am_mesh_dim_name(AM_MESH_TP), "tp");
    assert_string_equal(am_mesh_dim_name(AM_MESH_DP_REPLICATE), "dp_replicate");
    assert_string_equal(am_mesh_dim_name(AM_MESH_PP), "pp");
}

static void test_mesh__coords_and_rank_are_inverse(void **state)
{
    for (int trial = 0; trial < 50; trial++) {
        am_mesh m = random_mesh();
        int64_t n = am_mesh_ranks(&m);
        assert_int_equal(am_mesh_check(&m, n), AM_OK);
        for (int64_t r = 0; r < n; r++) {
            am_coords c = am_mesh_coords(&m, r);
            for (int d = 0; d < AM_MESH_DIM_COUNT; d++) assert_true(c.at[d] >= 0 && c.at[d] < m.size[d]);
            assert_int_equal(am_mesh_rank(&m, &c), r);
        }
    }
}

/* a and b belong together iff they agree outside `dims` */
static bool together(const am_mesh *m, uint32_t dims, int64_t a, int64_t b)
{
    am_coords x = am_mesh_coords(m, a), y = am_mesh_coords(m, b);
    for (int d = 0; d < AM_MESH_DIM_COUNT; d++)
        if (!(dims >> d & 1u) && x.at[d] != y.at[d]) return false;
    return true;
}

static void test_mesh__groups_partition_the_world_in_order_of_rank(void **state)
{
    for (int trial = 0; trial < 40; trial++) {
        am_mesh m = {{1 + draw(3), 1 + draw(2), 1 + draw(2), 1 + draw(4), 1 + draw(3), 1 + draw(2)}};
        int64_t n = am_mesh_ranks(&m);
        uint32_t dims = (uint32_t)draw(64);
        for (int64_t r = 0; r < n; r++) {
            int64_t size = 0, before = 0;
            for (int64_t o = 0; o < n; o++) {
                if (!together(&m, dims, r, o)) continue;
                assert_int_equal(am_mesh_group_member(&m, dims, r, size), o);
                before += o < r;
                size++;
            }
            assert_int_equal(am_mesh_group_size(&m, dims), size);
            assert_int_equal(am_mesh_group_index(&m, dims, r), before);
        }
    }
}

static void test_mesh__check_names_the_sizes(void **state)
{
    am_mesh m = {{2, 1, 1, 4, 1, 1}};
    assert_int_equal(am_mesh_check(&m, 8), AM_OK);
    assert_int_equal(am_mesh_check(&m, 9), AM_ERR_CONFIG);
    assert_non_null(strstr(am_error_message(), "tp 2"));
    assert_non_null(strstr(am_error_message(), "dp_shard 4"));
    assert_non_null(strstr(am_error_message(), "9 are there"));
    m.size[AM_MESH_EP] = 0;
    assert_int_equal(am_mesh_check(&m, 8), AM_ERR_CONFIG);
    assert_non_null(strstr(am_error_message(), "ep = 0"));
    am_mesh huge = {{INT64_MAX, 2, 1, 1, 1, 1}};
    assert_int_equal(am_mesh_check(&huge, 2), AM_ERR_CONFIG);
    am_error_clear();
}

static void check_cut(int64_t n, int64_t granule, int64_t parts)
{
    int64_t at = 0, longest = 0, shortest = INT64_MAX;
    for (int64_t i = 0; i < parts; i++) {
        int64_t b, e;
        am_shard_range(n, granule, parts, i, &b, &e);
        assert_int_equal(b, at);
        assert_true(e >= b);
        assert_true(b % granule == 0);
        assert_true(i == parts - 1 || e % granule == 0);
        longest = am_max_i64(longest, e - b);
        shortest = am_min_i64(shortest, e - b);
        at = e;
    }
    assert_int_equal(at, n);
    assert_true(longest - shortest <= granule);
}

static void test_shard_range__covers_disjointly_at_granules(void **state)
{
    for (int trial = 0; trial < 3000; trial++) {
        int64_t granule = trial % 3 == 0 ? 1 : 1 + draw(300);
        check_cut(draw(5000), granule, 1 + draw(17));
    }
}

static void test_shard_range__holds_beyond_2_to_33_elements(void **state)
{
    for (int trial = 0; trial < 300; trial++) {
        int64_t n = ((int64_t)1 << 33) + draw((int64_t)1 << 30) * 8191;
        check_cut(n, 256, 1 + draw(4096));
    }
    int64_t b, e;
    am_shard_range((int64_t)3 << 40, 256, 3, 2, &b, &e);
    assert_true(b == (int64_t)2 << 40 && e == (int64_t)3 << 40);
}

static void test_shard_range__known_cuts(void **state)
{
    /* SmolLM2: 9 heads on two ranks; 3 heads on four; an odd end of 2 behind two granules of 4 */
    static const struct {
        int64_t n, granule, parts, index, begin, end;
    } cases[] = {
        {9, 1, 2, 0, 0, 5},   {9, 1, 2, 1, 5, 9}, {3, 1, 4, 2, 2, 3}, {3, 1, 4, 3, 3, 3}, {10, 4, 2, 0, 0, 4},
        {10, 4, 2, 1, 4, 10}, {2, 4, 2, 0, 0, 0}, {2, 4, 2, 1, 0, 2}, {0, 4, 3, 1, 0, 0}, {7, 7, 1, 0, 0, 7},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        int64_t b, e;
        am_shard_range(cases[i].n, cases[i].granule, cases[i].parts, cases[i].index, &b, &e);
        assert_int_equal(b, cases[i].begin);
        assert_int_equal(e, cases[i].end);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_mesh__order_is_that_of_the_header, setup),
        cmocka_unit_test_setup(test_mesh__coords_and_rank_are_inverse, setup),
        cmocka_unit_test_setup(test_mesh__groups_partition_the_world_in_order_of_rank, setup),
        cmocka_unit_test_setup(test_mesh__check_names_the_sizes, setup),
        cmocka_unit_test_setup(test_shard_range__covers_disjointly_at_granules, setup),
        cmocka_unit_test_setup(test_shard_range__holds_beyond_2_to_33_elements, setup),
        cmocka_unit_test_setup(test_shard_range__known_cuts, setup),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
