/* The control plane under mpirun: gather, broadcast, maximum, exact sums, point to point; and that a rank
 * that waits in a control call still moves the transfers it has started. */
#include <time.h>

#include "comm_test.h"

static am_comm *comm;
static int me, world;

static int setup(void **state)
{
    am_comm_options o = {.max_requests = 4, .timeout_seconds = 60};
    if (am_comm_create("auto", &o, &comm) != AM_OK) { /* under mpirun this is mpi */
        am_error_print(stderr, -1);
        return 1;
    }
    me = am_comm_rank(comm);
    world = am_comm_size(comm);
    return strcmp(am_comm_backend(comm), "mpi") != 0;
}

static int teardown(void **state)
{
    if (am_comm_free(&comm) == AM_OK) return 0;
    am_error_print(stderr, -1);
    am_comm_abort(comm, 1);
}

static void test_control__ranks_of_one_node(void **state)
{
    int64_t seen = 0;
    assert_int_equal(am_comm_local_rank(comm), me);
    assert_int_equal(am_comm_local_size(comm), world);
    assert_ok(am_comm_sum(comm, (int64_t)1 << me, &seen));
    assert_int_equal(seen, ((int64_t)1 << world) - 1);
}

static void test_control__gather_and_bcast(void **state)
{
    static const size_t sizes[] = {0, 1, 8, 4097, 3000000};
    for (int i = 0; i < 5; i++) {
        size_t b = sizes[i];
        unsigned char *send = malloc(b + 1), *recv = malloc(b * (size_t)world + 1);
        fill(send, b, me, TO_ALL, i);
        assert_ok(am_comm_allgather(comm, send, b, recv));
        for (int r = 0; r < world; r++) assert_true(matches(recv + (size_t)r * b, b, r, TO_ALL, i));
        for (int root = 0; root < world; root++) {
            fill(send, b, me, root, 100 + i);
            assert_ok(am_comm_bcast(comm, send, b, root));
            assert_true(matches(send, b, root, root, 100 + i));
        }
        free(send);
        free(recv);
    }
}

/* 2^53 + 1 and its like are lost in a double: these sums are exact in int64 only. */
static void test_control__max_and_exact_sum(void **state)
{
    int64_t v = 0, big = ((int64_t)1 << 53) + 1;
    assert_ok(am_comm_sum(comm, big + me, &v));
    assert_true(v == big * world + world * (world - 1) / 2);
    assert_ok(am_comm_sum(comm, me == 0 ? INT64_MAX : -1, &v));
    assert_true(v == INT64_MAX - (world - 1));
    assert_ok(am_comm_max(comm, me == world - 1 ? -3 : -1000, &v));
    assert_int_equal(v, -3);
    assert_ok(am_comm_max(comm, INT64_MIN, &v));
    assert_true(v == INT64_MIN);
    if (world > 1) {
        assert_int_equal(am_comm_sum(comm, INT64_MAX, &v), AM_ERR_INTERNAL);
        assert_non_null(strstr(am_error_message(), "int64"));
        am_error_clear();
    }
    for (int i = 0; i < 200; i++) {
        assert_ok(am_comm_max(comm, i * 7 + (me == i % world), &v));
        assert_int_equal(v, i * 7 + 1);
    }
}

static void test_control__send_and_recv(void **state)
{
    const size_t b = 1500000;
    unsigned char *p = malloc(b);
    for (int from = 1; from < world; from++) { /* shards to rank 0, then back, more of them in between */
        if (me == from) {
            fill(p, b, me, 0, 1);
            assert_ok(am_comm_send(comm, p, b, 0));
            assert_ok(am_comm_send(comm, p, 10, 0));
            assert_ok(am_comm_recv(comm, p, b / 2, 0));
            assert_true(matches(p, b / 2, 0, me, 2));
        } else if (me == 0) {
            assert_ok(am_comm_recv(comm, p, b, from));
            assert_true(matches(p, b, from, 0, 1));
            assert_ok(am_comm_recv(comm, p, 10, from));
            assert_true(matches(p, 10, from, 0, 1));
            fill(p, b / 2, 0, from, 2);
            assert_ok(am_comm_send(comm, p, b / 2, from));
        }
    }
    assert_int_equal(am_comm_send(comm, p, 1, me), AM_ERR_INTERNAL);
    assert_int_equal(am_comm_recv(comm, p, 1, world), AM_ERR_INTERNAL);
    am_error_clear();
    free(p);
    assert_ok(am_comm_barrier(comm));
}

static void test_control__barrier_holds_until_the_last(void **state)
{
    struct timespec nap = {0, 150000000};
    double begin;
    assert_ok(am_comm_barrier(comm));
    begin = am_now();
    if (me == world - 1) nanosleep(&nap, NULL);
    assert_ok(am_comm_barrier(comm));
    assert_true(world == 1 || am_now() - begin > 0.14);
}

/* Rank 0 starts an exchange and sits in a barrier; the others need rank 0's data before they come to the
 * barrier. */
static void test_control__transfers_move_meanwhile(void **state)
{
    am_mesh m = {{1, 1, 1, world, 1, 1}};
    const size_t b = 2000000;
    unsigned char *send = malloc(b * (size_t)world), *recv = malloc(b * (size_t)world);
    assert_ok(am_comm_set_mesh(comm, &m));
    for (int d = 0; d < world; d++) fill(send + (size_t)d * b, b, me, d, 9);
    am_comm_request r = {AM_COMM_EXCHANGE, AM_GROUP_WORLD, 0, "meanwhile", send, recv, b, 1};
    assert_ok(am_comm_start(comm, &r));
    if (me != 0) assert_ok(am_comm_wait(comm, 1));
    assert_ok(am_comm_barrier(comm));
    assert_ok(am_comm_wait(comm, 1));
    for (int s = 0; s < world; s++) assert_true(matches(recv + (size_t)s * b, b, s, me, 9));
    free(send);
    free(recv);
}

static void test_control__different_meshes_are_refused(void **state)
{
    am_mesh a = {{world, 1, 1, 1, 1, 1}}, b = {{1, 1, 1, world, 1, 1}};
    if (world == 1) { /* nobody to differ from: a mesh of another size is refused instead */
        b.size[AM_MESH_DP_SHARD] = 2;
        assert_int_equal(am_comm_set_mesh(comm, &b), AM_ERR_CONFIG);
        return;
    }
    am_status st = am_comm_set_mesh(comm, me == 1 ? &b : &a);
    assert_int_equal(st, AM_ERR_CONFIG);
    assert_non_null(strstr(am_error_message(), "different meshes"));
    am_error_clear();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_control__ranks_of_one_node),
        cmocka_unit_test(test_control__gather_and_bcast),
        cmocka_unit_test(test_control__max_and_exact_sum),
        cmocka_unit_test(test_control__send_and_recv),
        cmocka_unit_test(test_control__barrier_holds_until_the_last),
        cmocka_unit_test(test_control__transfers_move_meanwhile),
        cmocka_unit_test(test_control__different_meshes_are_refused),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
