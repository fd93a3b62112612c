/* WALLS 12: every message is made 20 ms late.  With overlap the step hides most of it; without it does not.
 * Both programs are bound to one store in one process, so that four kinds of step alternate: overlap on and off,
 * with and without delay.  A layer computes longer than 20 ms here.  Neighbours may take the cores away, hence the
 * least of several rounds and three attempts; the claim is only
 *     (on, late) − (on) < half of (off, late) − (off),   and that the latter is really there. */
#include "../graph/program_test.h"

enum { ROUNDS = 2, ATTEMPTS = 3, ON = 0, OFF = 1 };

static const double DELAY = 20e-3;
static am_comm *comm;

/* Seconds of one step, the slowest rank's. */
static double timed_step(pt_run *r, int program, double delay, int step)
{
    int64_t ns = 0, worst = 0;
    am_comm_set_delay(comm, delay);
    PT_OK(am_comm_barrier(comm));
    double start = am_now();
    pt_step(r, program, step, 1e-4, 1);
    ns = (int64_t)((am_now() - start) * 1e9);
    am_comm_set_delay(comm, 0);
    PT_OK(am_comm_max(comm, ns, &worst));
    return (double)worst * 1e-9;
}

/* best[program][late]: the least of ROUNDS alternating rounds. */
static void measure(pt_run *r, double best[2][2], int *step)
{
    for (int i = 0; i < 4; i++) best[i / 2][i % 2] = 1e9;
    for (int round = 0; round < ROUNDS; round++)
        for (int late = 0; late < 2; late++)
            for (int program = ON; program <= OFF; program++) {
                double t = timed_step(r, program, late ? DELAY : 0, (*step)++);
                if (t < best[program][late]) best[program][late] = t;
            }
}

static int collectives(const am_program *p)
{
    int n = 0;
    for (int k = 0; k < p->num_entries; k++) n += p->segment[p->schedule[k].segment].num_comm;
    return n;
}

static void test_overlap__hides_late_messages(void **state)
{
    pt_run r;
    pt_shape s = {.rows = 1,
                  .seq = 448,
                  .D = 384,
                  .H = 6,
                  .K = 6,
                  .d = 64,
                  .F = 1024,
                  .V = 61,
                  .layers = 6,
                  .tied = true};
    am_program_options o[2];
    for (int i = 0; i < 2; i++) {
        o[i] = am_program_defaults(AM_PROGRAM_TRAIN);
        o[i].mesh.size[AM_MESH_DP_SHARD] = am_comm_size(comm);
        o[i].overlap = i == ON;
    }
    pt_create(&r, &s, AM_F32, o, 2, "cpu", comm, NULL);
    int step = 0, n = collectives(r.program[OFF]);
    assert_true(n > 15);
    for (int i = ON; i <= OFF; i++) timed_step(&r, i, 0, step++); /* caches and pages warm */
    bool good = false;
    for (int attempt = 0; attempt < ATTEMPTS && !good; attempt++) {
        double t[2][2];
        measure(&r, t, &step);
        double on = t[ON][1] - t[ON][0], off = t[OFF][1] - t[OFF][0];
        good = on < 0.5 * off && off > 0.5 * n * DELAY;
        if (am_comm_rank(comm) == 0)
            print_message("%d collectives late by %.0f ms: overlap on %.0f → %.0f ms (+%.0f), off %.0f → "
                          "%.0f ms (+%.0f)%s\n",
                          n, DELAY * 1e3, t[ON][0] * 1e3, t[ON][1] * 1e3, on * 1e3, t[OFF][0] * 1e3,
                          t[OFF][1] * 1e3, off * 1e3, good ? "" : ": not convincing");
    }
    assert_true(good);
    pt_free(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_overlap__hides_late_messages)};
    am_comm_options options = {.max_requests = 512};
    if (am_comm_create(NULL, &options, &comm) != AM_OK) return 1;
    if (am_comm_size(comm) < 2) {
        print_message("skipped: one rank sends no messages\n");
        return am_comm_free(&comm) == AM_OK ? 77 : 1;
    }
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    return am_comm_free(&comm) == AM_OK ? failed : 1;
}
