/* Cutting of long pieces, names of groups, detection of the launcher, and the backend self.  No MPI is
 * started. */
#include <mpi.h>

#include "comm_test.h"

static void test_cut__pieces_beyond_2_to_31_bytes(void **state)
{
    const size_t gib = (size_t)1 << 30;
    static const struct {
        size_t bytes;
        int64_t messages;
    } cases[] = {
        {0, 0},
        {1, 1},
        {((size_t)1 << 30) - 1, 1},
        {(size_t)1 << 30, 1},
        {((size_t)1 << 30) + 1, 2},
        {((size_t)1 << 31) + 5, 3},
        {(size_t)12800000000, 12}, /* 3.2e9 floats of a 405B layer: 11.92 GiB */
        {(size_t)1 << 40, 1024},
    };
    assert_int_equal(AM_COMM_MESSAGE_BYTES, gib);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        size_t at = 0;
        int64_t n = 0;
        for (; at < cases[i].bytes; n++) {
            size_t len = am_comm_message_length(cases[i].bytes, at, gib);
            assert_true(len > 0 && len <= gib && len <= INT32_MAX);
            assert_true(len == gib || at + len == cases[i].bytes);
            at += len;
        }
        assert_true(at == cases[i].bytes);
        assert_int_equal(n, cases[i].messages);
        assert_int_equal(am_comm_num_messages(cases[i].bytes, gib), cases[i].messages);
    }
}

static void test_group_name__lists_dimensions(void **state)
{
    static const struct {
        uint32_t group;
        const char *name;
    } cases[] = {{AM_GROUP_WORLD, "world"},
                 {AM_GROUP_DP, "dp_shard+dp_replicate"},
                 {1u << AM_MESH_TP, "tp"},
                 {0, "(empty)"}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        am_str s = {0};
        assert_ok(am_comm_group_name(cases[i].group, &s));
        assert_string_equal(s.s, cases[i].name);
        am_str_release(&s);
    }
}

static void clear_launcher(void)
{
    unsetenv("OMPI_COMM_WORLD_SIZE");
    unsetenv("PMIX_RANK");
    unsetenv("SLURM_STEP_NUM_TASKS");
    unsetenv("AM_COMM_DELAY_MS");
}

static void test_launcher__is_detected(void **state)
{
    bool mpi;
    clear_launcher();
    assert_ok(am_comm_detect_launcher(&mpi));
    assert_false(mpi);
    setenv("SLURM_STEP_NUM_TASKS", "1", 1);
    assert_ok(am_comm_detect_launcher(&mpi));
    assert_false(mpi);
    setenv("SLURM_STEP_NUM_TASKS", "8", 1);
    assert_int_equal(am_comm_detect_launcher(&mpi), AM_ERR_ENVIRONMENT);
    assert_non_null(strstr(am_error_message(), "--mpi=pmix"));
    setenv("PMIX_RANK", "3", 1);
    assert_ok(am_comm_detect_launcher(&mpi));
    assert_true(mpi);
    clear_launcher();
    setenv("OMPI_COMM_WORLD_SIZE", "2", 1);
    assert_ok(am_comm_detect_launcher(&mpi));
    assert_true(mpi);
    clear_launcher();
}

static void test_create__refuses_what_it_does_not_know(void **state)
{
    am_comm *c;
    clear_launcher();
    assert_int_equal(am_comm_create("gloo", NULL, &c), AM_ERR_CONFIG);
    assert_non_null(strstr(am_error_message(), "gloo"));
    assert_int_equal(am_comm_create("self", &(am_comm_options){.timeout_seconds = -1}, &c), AM_ERR_CONFIG);
    setenv("AM_COMM_DELAY_MS", "soon", 1);
    assert_int_equal(am_comm_create("self", NULL, &c), AM_ERR_CONFIG);
    assert_non_null(strstr(am_error_message(), "soon"));
    clear_launcher();
    assert_null(c);
}

static void test_self__copies_and_starts_no_mpi(void **state)
{
    am_comm *c = NULL;
    am_mesh one = {{1, 1, 1, 1, 1, 1}}, two = {{1, 1, 1, 2, 1, 1}};
    unsigned char send[1000], recv[1000];
    int64_t v = 0;
    int started = 1;
    clear_launcher();
    assert_ok(am_comm_create(NULL, NULL, &c));
    assert_string_equal(am_comm_backend(c), "self");
    assert_int_equal(am_comm_size(c), 1);
    assert_int_equal(am_comm_local_size(c), 1);
    assert_int_equal(am_comm_set_mesh(c, &two), AM_ERR_CONFIG);
    am_comm_request r = {AM_COMM_EXCHANGE, AM_GROUP_DP, 0, "x", send, recv, sizeof send, 3};
    assert_int_equal(am_comm_start(c, &r), AM_ERR_INTERNAL); /* no mesh yet */
    assert_ok(am_comm_set_mesh(c, &one));
    for (int kind = AM_COMM_ALL_GATHER; kind <= AM_COMM_EXCHANGE; kind++) {
        fill(send, sizeof send, 0, kind, 5);
        r.kind = (am_comm_kind)kind;
        assert_ok(am_comm_start(c, &r));
        assert_true(am_comm_done(c, 3));
        assert_ok(am_comm_wait(c, 3));
        assert_true(matches(recv, sizeof recv, 0, kind, 5));
    }
    r.bytes = sizeof send;
    r.recv = send + 1;
    assert_int_equal(am_comm_start(c, &r), AM_ERR_INTERNAL); /* overlap */
    assert_non_null(strstr(am_error_message(), "overlap"));
    am_comm_counters n = am_comm_count(c);
    assert_true(n.operations == 2 && n.messages == 0 && n.bytes == 0);
    assert_ok(am_comm_barrier(c));
    assert_ok(am_comm_max(c, -7, &v));
    assert_int_equal(v, -7);
    assert_ok(am_comm_sum(c, INT64_MAX, &v));
    assert_true(v == INT64_MAX);
    assert_ok(am_comm_bcast(c, send, 10, 0));
    assert_int_equal(am_comm_bcast(c, send, 10, 1), AM_ERR_INTERNAL);
    assert_int_equal(am_comm_send(c, send, 10, 0), AM_ERR_INTERNAL);
    assert_ok(am_comm_free(&c));
    assert_null(c);
    MPI_Initialized(&started);
    assert_false(started);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cut__pieces_beyond_2_to_31_bytes),
        cmocka_unit_test(test_group_name__lists_dimensions),
        cmocka_unit_test(test_launcher__is_detected),
        cmocka_unit_test(test_create__refuses_what_it_does_not_know),
        cmocka_unit_test(test_self__copies_and_starts_no_mpi),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
