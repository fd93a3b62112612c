/* Time: an injected delay is really there, it is hidden by computation, delays of several transfers overlap;
 * an idle process does not burn its core; a late rank is named within the deadline. */
#include <sys/resource.h>
#include <time.h>

#include "comm_test.h"

#define DELAY 0.020

static am_comm *comm;
static int me, world;
static int64_t sequence;
static unsigned char *send_buf, *recv_buf;

static int setup(void **state)
{
    am_comm_options o = {.max_requests = 8, .timeout_seconds = 1.5};
    am_mesh m = {{1, 1, 1, 1, 1, 1}};
    if (am_comm_create("mpi", &o, &comm) != AM_OK) return 1;
    me = am_comm_rank(comm);
    world = am_comm_size(comm);
    m.size[AM_MESH_DP_SHARD] = world;
    send_buf = calloc(8, 65536);
    recv_buf = calloc((size_t)world * 8, 65536);
    return am_comm_set_mesh(comm, &m) != AM_OK;
}

static int teardown(void **state)
{
    free(send_buf);
    free(recv_buf);
    if (am_comm_free(&comm) == AM_OK) return 0;
    am_error_print(stderr, -1);
    am_comm_abort(comm, 1);
}

static am_comm_request request(int slot, size_t bytes, const char *name)
{
    return (am_comm_request){AM_COMM_ALL_GATHER,
                             AM_GROUP_DP,
                             sequence++,
                             name,
                             send_buf + (size_t)slot * 65536,
                             recv_buf + (size_t)slot * 65536 * (size_t)world,
                             bytes,
                             slot};
}

static double thread_seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static double process_seconds(void)
{
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) +
           1e-6 * (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec);
}

static void nap(double seconds)
{
    struct timespec t = {(time_t)seconds, (long)((seconds - (double)(time_t)seconds) * 1e9)};
    nanosleep(&t, NULL);
}

static void test_delay__is_injected_and_overlaps(void **state)
{
    double best = 1e9;
    assert_ok(am_comm_barrier(comm));
    am_comm_set_delay(comm, DELAY);
    for (int trial = 0; trial < 4; trial++) { /* the best of four: others may use this machine */
        assert_ok(am_comm_barrier(comm));
        double begin = am_now();
        for (int i = 0; i < 8; i++) {
            am_comm_request r = request(i, 20000, "delayed");
            assert_ok(am_comm_start(comm, &r));
        }
        for (int i = 0; i < 8; i++) {
            assert_ok(am_comm_wait(comm, i));
            assert_true(am_now() - begin >= DELAY);
        }
        best = best < am_now() - begin ? best : am_now() - begin;
    }
    assert_true(best < 5 * DELAY); /* eight delays side by side, not 160 ms one after the other */
    double begin = am_now();
    for (int i = 0; i < 20; i++) assert_ok(am_comm_barrier(comm)); /* control calls are not delayed */
    assert_true(am_now() - begin < 20 * DELAY);
    am_comm_set_delay(comm, 0);
    assert_ok(am_comm_barrier(comm));
}

/* 60 ms of computation behind a start hide a delay of 20 ms: the wait finds everything done. */
static void test_delay__is_hidden_by_computation(void **state)
{
    volatile double x = 1;
    double best = 1e9;
    assert_ok(am_comm_barrier(comm));
    am_comm_set_delay(comm, DELAY);
    for (int trial = 0; trial < 5; trial++) {
        am_comm_request r = request(trial, 65536, "hidden");
        assert_ok(am_comm_barrier(comm));
        assert_ok(am_comm_start(comm, &r));
        for (double end = am_now() + 0.060; am_now() < end;) x = x * 1.0000001;
        double begin = am_now();
        assert_ok(am_comm_wait(comm, trial));
        best = best < am_now() - begin ? best : am_now() - begin;
    }
    am_comm_set_delay(comm, 0);
    assert_true(best < 0.5 * DELAY);
}

static void test_wait__sleeps_and_idle_costs_nothing(void **state)
{
    assert_ok(am_comm_barrier(comm));
    double cpu = process_seconds(), begin = am_now();
    nap(0.5);
    double idle = (process_seconds() - cpu) / (am_now() - begin);
    assert_true(idle < 0.10); /* of one core: looks at MPI 50 times a second */
    assert_ok(am_comm_barrier(comm));
    am_comm_set_delay(comm, 0.3);
    am_comm_request r = request(0, 1000, "slow");
    double mine = thread_seconds();
    assert_ok(am_comm_start(comm, &r));
    assert_ok(am_comm_wait(comm, 0));
    assert_true(thread_seconds() - mine < 0.1); /* the waiting thread slept */
    am_comm_set_delay(comm, 0);
    assert_ok(am_comm_barrier(comm));
}

/* The last rank joins late; the others say so in time, and once it has come the transfer ends. */
static void test_timeout__names_the_rank_that_is_missing(void **state)
{
    char missing[64], last[128];
    am_comm_request before = request(1, 10, "gather layer 2"), r = request(2, 1000, "reduce layer 3");
    assert_ok(am_comm_barrier(comm));
    assert_ok(am_comm_start(comm, &before));
    assert_ok(am_comm_wait(comm, 1));
    snprintf(missing, sizeof missing, "missing: the data of rank %d;", world - 1);
    snprintf(last, sizeof last,
             "rank %d is not in it; what it last started in this group is 'gather layer 2'", world - 1);
    if (me == world - 1) nap(3.5);
    assert_ok(am_comm_start(comm, &r));
    if (me != world - 1) {
        double begin = am_now();
        assert_int_equal(am_comm_wait(comm, 2), AM_ERR_WATCHDOG);
        double took = am_now() - begin;
        assert_true(took >= 1.5 && took < 3.4); /* the deadline, and at most two seconds for the answers */
        const char *m = am_error_message();
        if (!strstr(m, missing) || !strstr(m, last)) fail_msg("%s", m);
        assert_null(strstr(m, "did not take ours")); /* so short a message MPI takes at once */
        assert_non_null(strstr(m, "'reduce layer 3' (all-gather, sequence "));
        assert_non_null(strstr(m, world == 2 ? "of group dp_shard+dp_replicate = ranks 0 1, 1000 bytes"
                                             : "= ranks 0 1 2,"));
        while (!am_comm_done(comm, 2)) nap(0.01);
    }
    assert_ok(am_comm_wait(comm, 2));
    assert_ok(am_comm_barrier(comm));
}

static void test_timeout__of_a_control_call(void **state)
{
    char says[64];
    assert_ok(am_comm_barrier(comm));
    snprintf(says, sizeof says, "rank %d is in no control call", world - 1);
    if (me == world - 1) {
        nap(3.5);
        assert_ok(am_comm_barrier(comm));
        return;
    }
    assert_int_equal(am_comm_barrier(comm), AM_ERR_WATCHDOG);
    const char *m = am_error_message();
    if (!strstr(m, "the control call 'barrier'") || !strstr(m, says)) fail_msg("%s", m);
    nap(2.5);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_delay__is_injected_and_overlaps),
        cmocka_unit_test(test_delay__is_hidden_by_computation),
        cmocka_unit_test(test_wait__sleeps_and_idle_costs_nothing),
        cmocka_unit_test(test_timeout__names_the_rank_that_is_missing),
        cmocka_unit_test(test_timeout__of_a_control_call),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
