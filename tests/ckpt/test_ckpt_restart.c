/* Train, save, go on; start again from the checkpoint: the same bits as the undisturbed run, in every layout
 * of the ranks this test is started with, written at once or while training goes on.  And a checkpoint
 * written slowly by one rank is not there before that rank is done. */
#include "ckpt_test.h"

#include <string.h>
#include <unistd.h>

enum { BEFORE = 2, AFTER = 2 };

static pt_shape small(void)
{
    pt_shape s = pt_default_shape();
    s.rows = 1;
    s.layers = 2;
    return s;
}

static char *train(const pt_run *r, int from, int to, size_t *bytes)
{
    for (int i = from; i < to; i++) (void)pt_step((pt_run *)(uintptr_t)r, 0, i, 1e-2, 0.5);
    return ct_slots(r, bytes);
}

static void same_slots(const char *a, size_t na, const char *b, size_t nb, const char *what)
{
    assert_int_equal(na, nb);
    if (memcmp(a, b, na) != 0) fail_msg("%s: the slots differ", what);
}

static void one_layout(int64_t shards, int64_t replicas, bool async, const char *frozen)
{
    pt_run r, again;
    pt_shape s = small();
    size_t n = 0, m = 0;
    am_manifest *found = NULL;
    bool failed = true;
    am_ckpt_state state = ct_state(BEFORE);
    const char *dir = ct_dir();
    ct_run(&r, &s, shards, replicas, frozen, ct_comm);
    am_ckpt *k = ct_ckpt(&r, ct_path("%s/runs/a/checkpoints", dir), 2, async); /* several levels are made */
    free(train(&r, 0, BEFORE, &n));
    PT_OK(am_ckpt_save(k, &state));
    assert_int_equal(am_ckpt_busy(k), async);
    char *undisturbed = train(&r, BEFORE, BEFORE + AFTER, &n); /* the writer is at work meanwhile */
    PT_OK(am_ckpt_poll(k, true, &failed));
    assert_false(failed);
    assert_string_equal(am_ckpt_last(k), ct_path("%s/runs/a/checkpoints/step_%08d", dir, BEFORE));
    am_ckpt_free(&k);
    pt_free(&r);

    ct_run(&again, &s, shards, replicas, frozen, ct_comm);
    ct_fill(&again, 77);
    PT_OK(am_ckpt_find_latest(ct_path("%s/runs/a/checkpoints", dir), ct_comm, &found));
    assert_non_null(found);
    assert_int_equal(am_manifest_state(found).step, BEFORE);
    PT_OK(am_ckpt_load(again.exec, again.program[0], found));
    am_manifest_free(&found);
    char *resumed = train(&again, BEFORE, BEFORE + AFTER, &m);
    same_slots(undisturbed, n, resumed, m, async ? "async" : "sync");
    free(undisturbed);
    free(resumed);
    pt_free(&again);
}

static void test_restart__bitwise_in_every_layout(void **state)
{
    int P = am_comm_size(ct_comm);
    one_layout(P, 1, false, NULL);
    one_layout(1, P, true, NULL);
    one_layout(P, 1, true, "*_proj.weight");
    if (P == 4) one_layout(2, 2, true, NULL);
}

/* ---- a slow writer -------------------------------------------------------------------------------- */

#define DELAY 5.0

static void test_restart__no_manifest_before_the_slowest_rank(void **state)
{
    pt_run r, plain;
    pt_shape s = small();
    size_t n = 0, m = 0;
    bool failed = true;
    int steps = 0, ranks = am_comm_size(ct_comm);
    am_ckpt_state state_now = ct_state(1);
    const char *dir = ct_dir();
    if (ranks != 2) skip(); /* once is enough */
    ct_run(&r, &s, 2, 1, NULL, ct_comm);
    am_ckpt *k = ct_ckpt(&r, dir, 1, true);
    ct_save(&r, k, 0);
    pt_write_weights(&r);
    (void)pt_step(&r, 0, 0, 1e-2, 0.5);
    k->o.test_write_delay = am_comm_rank(ct_comm) == 1 ? DELAY : 0;
    double begin = am_now(), committed = 0;
    PT_OK(am_ckpt_save(k, &state_now));
    while (am_ckpt_busy(k)) {
        (void)pt_step(&r, 0, ++steps, 1e-2, 0.5);
        usleep(100000);
        PT_OK(am_ckpt_poll(k, false, &failed));
        bool there = ct_exists(ct_path("%s/step_00000001/manifest.json", dir));
        if (am_now() - begin < DELAY - 0.5) assert_false(there);
        if (there && committed == 0) committed = am_now() - begin;
    }
    assert_false(failed);
    if (am_comm_rank(ct_comm) == 0) assert_true(committed >= DELAY - 0.5);
    assert_true(steps > 5);
    char *slow = ct_slots(&r, &n);
    am_ckpt_free(&k);
    pt_free(&r);

    ct_run(&plain, &s, 2, 1, NULL, ct_comm);
    ct_fill(&plain, 0); /* the moments, as ct_save left them */
    pt_write_weights(&plain);
    char *free_run = train(&plain, 0, steps + 1, &m);
    same_slots(slow, n, free_run, m, "with and without a checkpoint being written");
    free(slow);
    free(free_run);
    pt_free(&plain);
}

/* The hash is of the capture: bytes that change between capture and disk never become a checkpoint. */
static void test_restart__staging_corrupted_after_the_capture(void **state)
{
    pt_run r;
    pt_shape s = small();
    bool failed = false;
    am_ckpt_state next = ct_state(2);
    int last = am_comm_size(ct_comm) - 1;
    const char *dir = ct_dir();
    ct_run(&r, &s, am_comm_size(ct_comm), 1, NULL, ct_comm);
    am_ckpt *k = ct_ckpt(&r, dir, 1, true);
    ct_save(&r, k, 1);
    k->o.test_write_delay = 0.3;
    ct_fill(&r, 2);
    PT_OK(am_ckpt_save(k, &next));
    if (am_comm_rank(ct_comm) == last) k->staging[am_ckpt_staging_bytes(r.program[0]) / 2] ^= 4;
    PT_OK(am_ckpt_poll(k, true, &failed));
    assert_true(failed);
    assert_non_null(strstr(am_ckpt_failure(k), ct_path("rank %d: ", last)));
    assert_non_null(strstr(am_ckpt_failure(k), "does not hold what was captured"));
    assert_non_null(strstr(am_ckpt_failure(k), ".weight"));
    PT_OK(am_comm_barrier(ct_comm));
    assert_false(ct_exists(ct_path("%s/step_00000002", dir)));
    assert_int_equal(ct_latest(dir, &r, ct_comm), 1);
    k->o.test_write_delay = 0;
    ct_save(&r, k, 3); /* the next save is clean */
    assert_int_equal(ct_latest(dir, &r, ct_comm), 3);
    am_ckpt_free(&k);
    pt_free(&r);
}

/* A failed write is told once, by poll, also when it was found by the next save. */
static void test_restart__failure_is_told_once(void **state)
{
    pt_run r;
    pt_shape s = small();
    bool failed = false;
    am_ckpt_state first = ct_state(1), second = ct_state(2);
    const char *dir = ct_dir();
    ct_run(&r, &s, 1, am_comm_size(ct_comm), NULL, ct_comm);
    am_ckpt *k = ct_ckpt(&r, dir, 0, true);
    if (am_comm_rank(ct_comm) == 0) ct_write(ct_path("%s/step_00000001", dir), "in the way", 10);
    PT_OK(am_comm_barrier(ct_comm));
    ct_fill(&r, 1);
    PT_OK(am_ckpt_save(k, &first));
    ct_fill(&r, 2);
    PT_OK(am_ckpt_save(k, &second));
    PT_OK(am_ckpt_poll(k, true, &failed));
    assert_true(failed);
    assert_null(am_ckpt_failure(k)); /* the second one was committed */
    PT_OK(am_ckpt_poll(k, true, &failed));
    assert_false(failed);
    assert_int_equal(ct_latest(dir, &r, ct_comm), 2);
    am_ckpt_free(&k);
    pt_free(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_restart__bitwise_in_every_layout),
        cmocka_unit_test(test_restart__no_manifest_before_the_slowest_rank),
        cmocka_unit_test(test_restart__staging_corrupted_after_the_capture),
        cmocka_unit_test(test_restart__failure_is_told_once),
    };
    return ct_main("ckpt restart", tests, sizeof tests / sizeof *tests);
}
