/* The service thread: MPI_Init_thread, the loop, MPI_Finalize.  No blocking MPI call stands between init and
 * finalize except in init itself: whatever a host thread waits for, the messages of the others keep moving.
 * Without work the thread sleeps and looks at MPI ever less often (Open MPI moves a message only inside MPI
 * calls, also one that it has already declared sent); a request wakes it at once. */
#include <signal.h>
#include <sys/prctl.h>
#include <time.h>

#include "comm/comm_mpi_internal.h"

#define IDLE_SECONDS 20e-3 /* longest sleep without work */

/* Signals are for the main thread; faults stay with who commits them.  Threads that MPI starts inherit this.
 */
static void block_signals(void)
{
    sigset_t set;
    sigfillset(&set);
    sigdelset(&set, SIGSEGV);
    sigdelset(&set, SIGBUS);
    sigdelset(&set, SIGFPE);
    sigdelset(&set, SIGILL);
    sigdelset(&set, SIGABRT);
    pthread_sigmask(SIG_SETMASK, &set, NULL);
}

static am_status read_world(mpi_comm *m)
{
    am_status st = AM_OK;
    MPI_Comm node = MPI_COMM_NULL;
    am_comm *c = &m->base;
    int *tag_ub = NULL, found = 0;
    MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN); /* inherited by the duplicates */
    AM_TRY_MPI(MPI_Comm_rank(MPI_COMM_WORLD, &c->rank));
    AM_TRY_MPI(MPI_Comm_size(MPI_COMM_WORLD, &c->size));
    AM_TRY_MPI(MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, c->rank, MPI_INFO_NULL, &node));
    AM_TRY_MPI(MPI_Comm_rank(node, &c->local_rank));
    AM_TRY_MPI(MPI_Comm_size(node, &c->local_size));
    AM_TRY_MPI(MPI_Comm_free(&node));
    AM_TRY_MPI(MPI_Comm_dup(MPI_COMM_WORLD, &m->data));
    AM_TRY_MPI(MPI_Comm_dup(MPI_COMM_WORLD, &m->ctl));
    AM_TRY_MPI(MPI_Comm_dup(MPI_COMM_WORLD, &m->ask));
    AM_TRY_MPI(MPI_Comm_get_attr(MPI_COMM_WORLD, MPI_TAG_UB, &tag_ub, &found));
    /* tag = (sequence mod window) × 2 kinds × groups + … */
    m->tag_window = 1;
    while (found && m->tag_window < (int64_t)1 << 24 && m->tag_window * 2 * 2 * NUM_GROUPS - 1 <= *tag_ub)
        m->tag_window *= 2;
    AM_CHECK(m->tag_window >= 4 * (int64_t)c->options.max_requests, AM_ERR_ENVIRONMENT,
             "this MPI offers tags up to %d only, too few for %d transfers in flight", found ? *tag_ub : 0,
             c->options.max_requests);
done:
    return st;
}

static am_status allocate(mpi_comm *m)
{
    am_status st = AM_OK;
    size_t slots = (size_t)m->base.options.max_requests + 1, lanes = 2 * (size_t)(m->base.size - 1),
           n = slots * lanes + 1;
    AM_TRY(am_calloc(slots, sizeof *m->slots, &m->slots));
    for (size_t i = 0; i < slots; i++) AM_TRY(am_calloc(lanes + 1, sizeof(mpi_lane), &m->slots[i].lanes));
    AM_TRY(am_calloc(slots, sizeof *m->posted, &m->posted));
    AM_TRY(am_calloc(slots, sizeof *m->taken, &m->taken));
    AM_TRY(am_calloc(slots, sizeof *m->active, &m->active));
    AM_TRY(am_calloc(n, sizeof *m->requests, &m->requests));
    AM_TRY(am_calloc(n, sizeof *m->owner, &m->owner));
    AM_TRY(am_calloc(n, sizeof *m->settled, &m->settled));
    AM_TRY(am_calloc(n, sizeof *m->statuses, &m->statuses));
    AM_TRY(am_calloc(n, sizeof *m->indices, &m->indices));
done:
    return st;
}

static am_status start_mpi(mpi_comm *m)
{
    am_status st = AM_OK;
    int provided = 0;
    AM_TRY_MPI(MPI_Init_thread(NULL, NULL, MPI_THREAD_FUNNELED, &provided));
    AM_CHECK(provided >= MPI_THREAD_FUNNELED, AM_ERR_ENVIRONMENT,
             "this MPI does not allow threads beside the one that calls it (MPI_THREAD_FUNNELED); use one "
             "that does");
    AM_TRY(read_world(m));
    AM_TRY(allocate(m));
    AM_TRY(am_mpi_listen(m));
done:
    return st;
}

static void record_failure(mpi_comm *m, am_status st)
{
    pthread_mutex_lock(&m->lock);
    if (m->failed == AM_OK) {
        m->failed = st;
        snprintf(m->failure, sizeof m->failure, "%s", am_error_message());
        atomic_store(&m->has_failed, true);
    }
    pthread_cond_broadcast(&m->finished);
    pthread_mutex_unlock(&m->lock);
}

static void publish_report(mpi_comm *m, int slot, double waited)
{
    am_str text = {0};
    am_status st = am_mpi_write_report(m, slot, waited, &text);
    pthread_mutex_lock(&m->lock);
    snprintf(m->report, sizeof m->report, "%s", st == AM_OK ? text.s : am_error_message());
    m->report_slot = -1;
    m->report_ready = true;
    pthread_cond_broadcast(&m->finished);
    pthread_mutex_unlock(&m->lock);
    am_str_release(&text);
}

/* What the host wants, taken in one go; sleeps up to `pause` seconds when it wants nothing. */
typedef struct wishes {
    int num_taken, report_slot, abort_code;
    double report_waited;
    bool stop, aborting;
} wishes;

static wishes take_wishes(mpi_comm *m, double pause)
{
    wishes w = {0};
    pthread_mutex_lock(&m->lock);
    if (pause > 0 && m->num_posted == 0 && !m->stop && !m->aborting && m->report_slot < 0) {
        struct timespec until;
        clock_gettime(CLOCK_MONOTONIC, &until);
        until.tv_nsec += (long)(pause * 1e9);
        until.tv_sec += until.tv_nsec / 1000000000;
        until.tv_nsec %= 1000000000;
        pthread_cond_timedwait(&m->wake, &m->lock, &until);
    }
    for (; w.num_taken < m->num_posted; w.num_taken++) m->taken[w.num_taken] = m->posted[w.num_taken];
    m->num_posted = 0;
    w.stop = m->stop;
    w.aborting = m->aborting;
    w.abort_code = m->abort_code;
    w.report_slot = m->report_slot;
    w.report_waited = m->report_waited;
    pthread_mutex_unlock(&m->lock);
    return w;
}

static void run(mpi_comm *m)
{
    double pause = 0, poll = m->base.options.poll_seconds, eager_until = 0;
    for (;;) {
        am_status st = AM_OK;
        bool moved = false;
        wishes w = take_wishes(m, pause);
        if (w.aborting) MPI_Abort(MPI_COMM_WORLD, w.abort_code);
        if (w.stop) return;
        for (int i = 0; i < w.num_taken && st == AM_OK; i++) st = am_mpi_activate(m, m->taken[i]);
        /* after a failure nothing is trusted any more; only abort, answers and reports remain */
        if (st == AM_OK && !atomic_load(&m->has_failed)) st = am_mpi_poll(m, &moved);
        if (st == AM_OK && !atomic_load(&m->has_failed)) st = am_mpi_answer(m);
        if (st != AM_OK) record_failure(m, st);
        if (w.report_slot >= 0) publish_report(m, w.report_slot, w.report_waited);
        if (moved || w.num_taken) eager_until = am_now() + poll;
        if (m->num_active)
            pause = am_now() < eager_until ? 0 : poll;
        else
            pause = pause < poll ? poll : pause * 2 < IDLE_SECONDS ? pause * 2 : IDLE_SECONDS;
    }
}

static void raise_flag(mpi_comm *m, bool *flag)
{
    pthread_mutex_lock(&m->lock);
    *flag = true;
    pthread_cond_broadcast(&m->finished);
    pthread_mutex_unlock(&m->lock);
}

void *am_mpi_service(void *arg)
{
    mpi_comm *m = arg;
    block_signals();
    prctl(PR_SET_NAME, "automodel-comm");
    prctl(PR_SET_TIMERSLACK, 1000ul); /* a pause of 50 us should not become 100 */
    am_status st = start_mpi(m);
    if (st != AM_OK) record_failure(m, st);
    raise_flag(m, &m->ready);
    run(m);
    st = am_mpi_stop_listening(m);
    if (st == AM_OK && MPI_Finalize() != MPI_SUCCESS) st = am_fail(AM_ERR_COMM, "MPI_Finalize failed");
    if (st != AM_OK) record_failure(m, st);
    raise_flag(m, &m->gone);
    return NULL;
}
