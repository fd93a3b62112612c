/* Run by test_comm_faults.py under mpirun: `comm_fault MODE`.  Every mode ends by one door: the first error
 * is printed and am_comm_abort is called with its exit code, as the program itself does. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "comm/comm.h"

static volatile sig_atomic_t signalled;
static pid_t main_thread;
static void on_signal(int sig)
{
    signalled = gettid() == main_thread ? 1 : 2;
}

static void nap(double seconds)
{
    struct timespec t = {(time_t)seconds, (long)((seconds - (double)(time_t)seconds) * 1e9)};
    while (nanosleep(&t, &t)) {
    }
}

/* a rank kills or stops itself, or leaves its place in the program; the others try to go on */
static am_status collectives(am_comm *c, const char *mode)
{
    am_status st = AM_OK;
    static char send[400000], recv[400000];
    bool odd = am_comm_rank(c) == 1;
    am_comm_request r = {AM_COMM_EXCHANGE, AM_GROUP_DP, 7, "reduce layer 3", send, recv, 100, 0};
    if (odd && !strcmp(mode, "kill")) raise(SIGKILL);
    if (odd && !strcmp(mode, "stop")) raise(SIGSTOP);
    if (odd && !strcmp(mode, "longer")) r.bytes = 300;
    if (odd && !strcmp(mode, "shorter")) r.bytes = 30;
    if (!strcmp(mode, "large")) r.bytes = odd ? 100000 : 90000; /* beyond what MPI sends eagerly */
    if (odd && !strcmp(mode, "kind")) r.kind = AM_COMM_ALL_GATHER, r.name = "gather layer 4";
    if (odd && !strcmp(mode, "sequence")) r.sequence = 8, r.name = "gather layer 4";
    AM_TRY(am_comm_start(c, &r));
    AM_TRY(am_comm_wait(c, 0));
    AM_TRY(am_comm_barrier(c));
done:
    return st;
}

static am_status run(am_comm *c, const char *mode)
{
    am_status st = AM_OK;
    am_mesh m = {{1, 1, 1, am_comm_size(c), 1, 1}};
    AM_TRY(am_comm_set_mesh(c, &m));
    AM_TRY(am_comm_barrier(c));
    if (!strcmp(mode, "code") && am_comm_rank(c) == 1) {
        nap(0.3);
        AM_FAIL(AM_ERR_NUMERIC, "rank 1 found a NaN");
    }
    if (!strcmp(mode, "signal")) { /* while main blocks it nobody else may take it; then main gets it */
        sigset_t usr1;
        sigemptyset(&usr1);
        sigaddset(&usr1, SIGUSR1);
        sigprocmask(SIG_BLOCK, &usr1, NULL);
        kill(getpid(), SIGUSR1);
        nap(0.2);
        bool early = signalled;
        sigprocmask(SIG_UNBLOCK, &usr1, NULL);
        nap(0.05);
        printf("signal seen by %s\n", !early && signalled == 1 ? "main"
                                      : signalled              ? "another thread"
                                                               : "nobody");
        return AM_OK;
    }
    if (!strcmp(
            mode,
            "point")) { /* rank 1 sends less than rank 0 expects; nobody else has anything to complain of */
        char buf[100];
        if (am_comm_rank(c) == 0) AM_TRY(am_comm_recv(c, buf, 100, 1));
        if (am_comm_rank(c) == 1) AM_TRY(am_comm_send(c, buf, 30, 0));
        AM_TRY(am_comm_barrier(c));
        return AM_OK;
    }
    AM_TRY(collectives(c, mode));
done:
    return st;
}

int main(int argc, char **argv)
{
    am_comm *c = NULL;
    am_comm_options o = {.max_requests = 4, .timeout_seconds = 2};
    struct sigaction sa = {.sa_handler = on_signal};
    const char *mode = argc > 1 ? argv[1] : "none";
    main_thread = gettid();
    sigaction(SIGUSR1, &sa, NULL);
    am_status st = am_comm_create(NULL, &o, &c);
    if (st == AM_OK) st = run(c, mode);
    if (st == AM_OK) st = am_comm_free(&c);
    if (st == AM_OK) return 0;
    fprintf(stderr, "FAULT %s\n", am_error_message());
    am_comm_abort(c, am_status_exit_code(st));
}
