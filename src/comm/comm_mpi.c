/* Backend mpi, the side of the host threads.  A start copies the request into its slot, appends the slot's
 * number to a list and wakes the service thread; done reads one flag; wait looks at the flag for a moment,
 * then sleeps until the service thread says that something ended.  Nothing here calls MPI or allocates after
 * creation. */
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "comm/comm_mpi_internal.h"

#define SPIN_SECONDS   20e-6
#define REPORT_SECONDS 5.0 /* the service thread may need two of them to ask the others */
#define ABORT_SECONDS  5

static struct timespec deadline_in(double seconds)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    seconds = seconds < 1e9 ? seconds : 1e9;
    t.tv_sec += (time_t)seconds;
    t.tv_nsec += (long)((seconds - (double)(time_t)seconds) * 1e9);
    t.tv_sec += t.tv_nsec / 1000000000;
    t.tv_nsec %= 1000000000;
    return t;
}

/* ---- posting ------------------------------------------------------------------------------------------- */

static void remember(mpi_comm *m, const am_comm_request *r)
{
    const char *name = am_mpi_request_name(r);
    mpi_last *last = &m->last[r->group];
    size_t n = strnlen(name, sizeof last->name - 1);
    last->any = true;
    last->kind = r->kind;
    last->sequence = r->sequence;
    last->bytes = r->bytes;
    memcpy(last->name, name, n);
    last->name[n] = 0;
}

static am_status replay_failure(mpi_comm *m)
{
    return am_fail(m->failed, "%s", m->failure); /* constant once has_failed is seen */
}

/* The slot is filled in by the caller, whose it is until now. */
static void post(mpi_comm *m, int slot)
{
    mpi_slot *s = &m->slots[slot];
    pthread_mutex_lock(&m->lock);
    atomic_store_explicit(&s->state, SLOT_BUSY, memory_order_release);
    m->posted[m->num_posted++] = slot;
    if (!s->is_control) remember(m, &s->request);
    pthread_cond_signal(&m->wake);
    pthread_mutex_unlock(&m->lock);
}

static am_status mpi_start(am_comm *c, const am_comm_request *r)
{
    am_status st = AM_OK;
    mpi_comm *m = (mpi_comm *)c;
    mpi_slot *s = &m->slots[r->slot];
    if (atomic_load(&m->has_failed)) return replay_failure(m);
    AM_CHECK(atomic_load_explicit(&s->state, memory_order_acquire) != SLOT_BUSY, AM_ERR_INTERNAL,
             "comm: '%s' was started in slot %d, where '%s' is still in flight", am_mpi_request_name(r),
             r->slot, am_mpi_request_name(&s->request));
    s->request = *r;
    s->comm = m->data;
    s->tag = (int)(((r->sequence & (m->tag_window - 1)) * 2 + r->kind) * NUM_GROUPS + r->group);
    atomic_fetch_add_explicit(&m->operations, 1, memory_order_relaxed);
    post(m, r->slot);
done:
    return st;
}

/* ---- waiting ------------------------------------------------------------------------------------------- */

static bool slot_done(const mpi_comm *m, int slot)
{
    return atomic_load_explicit(&m->slots[slot].state, memory_order_acquire) != SLOT_BUSY;
}

/* True also after a failure: a wait would not block, and says why. */
static bool mpi_done(const am_comm *c, int slot)
{
    const mpi_comm *m = (const mpi_comm *)c;
    return slot_done(m, slot) || atomic_load(&m->has_failed);
}

/* The deadline has passed: let the service thread write the sentence; if it hangs inside MPI, write a shorter
 * one. */
static am_status report_late(mpi_comm *m, int slot, double waited)
{
    am_status st = AM_OK;
    am_str what = {0};
    struct timespec until = deadline_in(REPORT_SECONDS);
    bool ready;
    pthread_mutex_lock(&m->lock);
    m->report_ready = false;
    m->report_waited = waited;
    m->report_slot = slot;
    pthread_cond_signal(&m->wake);
    while (!m->report_ready)
        if (pthread_cond_timedwait(&m->finished, &m->lock, &until)) break;
    ready = m->report_ready;
    pthread_mutex_unlock(&m->lock);
    if (ready) AM_FAIL(AM_ERR_WATCHDOG, "%s", m->report);
    AM_TRY(am_mpi_describe(m, slot, &what));
    AM_FAIL(AM_ERR_WATCHDOG,
            "rank %d waited %.1f s for %s; its own MPI library does not come back from a call", m->base.rank,
            waited, what.s);
done:
    am_str_release(&what);
    return st;
}

static am_status mpi_wait(am_comm *c, int slot)
{
    mpi_comm *m = (mpi_comm *)c;
    double begin = am_now();
    do {
        if (slot_done(m, slot)) return AM_OK;
    } while (am_now() - begin < SPIN_SECONDS);
    struct timespec until = deadline_in(c->options.timeout_seconds);
    bool late = false;
    pthread_mutex_lock(&m->lock);
    while (!late && !slot_done(m, slot) && !m->failed)
        late = pthread_cond_timedwait(&m->finished, &m->lock, &until) != 0;
    bool done = slot_done(m, slot), failed = m->failed != AM_OK;
    pthread_mutex_unlock(&m->lock);
    if (done) return AM_OK;
    return failed ? replay_failure(m) : report_late(m, slot, am_now() - begin);
}

static am_status mpi_control(am_comm *c, const am_comm_control *op)
{
    am_status st = AM_OK;
    mpi_comm *m = (mpi_comm *)c;
    int slot = am_mpi_control_slot(m);
    mpi_slot *s = &m->slots[slot];
    bool collective = op->kind == AM_COMM_CONTROL_GATHER || op->kind == AM_COMM_CONTROL_BCAST;
    if (atomic_load(&m->has_failed)) return replay_failure(m);
    AM_CHECK(slot_done(m, slot), AM_ERR_COMM, "comm: '%s' was called after '%s' had failed", op->name,
             s->control.name);
    s->is_control = true;
    s->control = *op;
    s->request = (am_comm_request){
        .name = op->name, .bytes = op->bytes, .group = AM_GROUP_WORLD, .sequence = m->control_sequence};
    s->comm = m->ctl;
    s->tag =
        collective
            ? (int)((m->control_sequence & (m->tag_window - 1)) * 2 + (op->kind == AM_COMM_CONTROL_BCAST)) + 1
            : TAG_POINT_TO_POINT;
    post(m, slot);
    AM_TRY(mpi_wait(c, slot));
    if (collective) {
        pthread_mutex_lock(&m->lock);
        m->control_sequence++;
        pthread_mutex_unlock(&m->lock);
    }
done:
    return st;
}

/* ---- the rest of the vtable ------------------------------------------------------------------------------
 */

static am_comm_counters mpi_count(const am_comm *c)
{
    const mpi_comm *m = (const mpi_comm *)c;
    return (am_comm_counters){atomic_load(&m->operations), atomic_load(&m->messages), atomic_load(&m->bytes)};
}

static bool mpi_idle(const am_comm *c)
{
    const mpi_comm *m = (const mpi_comm *)c;
    for (int i = 0; i < c->options.max_requests; i++)
        if (!slot_done(m, i)) return false;
    return true;
}

static void mpi_set_delay(am_comm *c, double seconds)
{
    atomic_store(&((mpi_comm *)c)->delay, seconds);
}

void am_comm_set_message_bytes(am_comm *c, size_t most)
{
    if (!strcmp(c->backend->name, "mpi")) ((mpi_comm *)c)->message_bytes = most;
}

/* MPI_Abort is the service thread's to call; when it does not get there, leaving with a code makes the
 * launcher end the others as well. */
static void mpi_abort(am_comm *c, int exit_code)
{
    mpi_comm *m = (mpi_comm *)c;
    struct timespec t = {ABORT_SECONDS, 0};
    pthread_mutex_lock(&m->lock);
    m->abort_code = exit_code;
    m->aborting = true;
    pthread_cond_signal(&m->wake);
    pthread_mutex_unlock(&m->lock);
    while (nanosleep(&t, &t)) {
    }
    _exit(exit_code);
}

static void release(mpi_comm *m)
{
    for (int i = 0; m->slots && i <= am_mpi_control_slot(m); i++) am_free(&m->slots[i].lanes);
    am_free(&m->slots);
    am_free(&m->posted);
    am_free(&m->taken);
    am_free(&m->active);
    am_free(&m->requests);
    am_free(&m->owner);
    am_free(&m->settled);
    am_free(&m->statuses);
    am_free(&m->indices);
    pthread_cond_destroy(&m->wake);
    pthread_cond_destroy(&m->finished);
    pthread_mutex_destroy(&m->lock);
}

static am_status mpi_free(am_comm *c)
{
    am_status st = AM_OK;
    mpi_comm *m = (mpi_comm *)c;
    struct timespec until = deadline_in(c->options.timeout_seconds);
    bool late = false;
    if (atomic_load(&m->has_failed)) return replay_failure(m);
    AM_CHECK(mpi_idle(c) && slot_done(m, am_mpi_control_slot(m)), AM_ERR_COMM,
             "comm: transfers are in flight, MPI cannot be finalized; the ranks must be aborted instead");
    pthread_mutex_lock(&m->lock);
    m->stop = true;
    pthread_cond_signal(&m->wake);
    while (!m->gone && !late) late = pthread_cond_timedwait(&m->finished, &m->lock, &until) != 0;
    late = !m->gone;
    pthread_mutex_unlock(&m->lock);
    AM_CHECK(!late, AM_ERR_WATCHDOG,
             "rank %d waited %.0f s in MPI_Finalize: another rank has not come to its end", c->rank,
             c->options.timeout_seconds);
    pthread_join(m->thread, NULL);
    if (atomic_load(&m->has_failed)) return replay_failure(m);
    release(m);
done:
    return st;
}

static const am_comm_vtable mpi_backend = {
    .name = "mpi",
    .free = mpi_free,
    .start = mpi_start,
    .done = mpi_done,
    .wait = mpi_wait,
    .control = mpi_control,
    .count = mpi_count,
    .idle = mpi_idle,
    .set_delay = mpi_set_delay,
    .abort = mpi_abort,
};

static am_status launch(mpi_comm *m)
{
    am_status st = AM_OK;
    pthread_condattr_t attr;
    struct timespec until = deadline_in(m->base.options.timeout_seconds);
    pthread_mutex_init(&m->lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&m->wake, &attr);
    pthread_cond_init(&m->finished, &attr);
    pthread_condattr_destroy(&attr);
    AM_CHECK(pthread_create(&m->thread, NULL, am_mpi_service, m) == 0, AM_ERR_MEMORY,
             "the communication thread could not be started; raise the limit of processes (ulimit -u)");
    pthread_mutex_lock(&m->lock);
    bool late = false;
    while (!m->ready && !late) late = pthread_cond_timedwait(&m->finished, &m->lock, &until) != 0;
    late = !m->ready;
    pthread_mutex_unlock(&m->lock);
    AM_CHECK(!late, AM_ERR_WATCHDOG, "MPI_Init did not return within %.0f s: a rank did not start",
             m->base.options.timeout_seconds);
    if (atomic_load(&m->has_failed)) AM_TRY(replay_failure(m));
done:
    return st;
}

/* After a failure the structure is left behind on purpose: the service thread still uses it, and the process
 * is to end. */
am_status am_comm_create_mpi(const am_comm_options *options, am_comm **out)
{
    am_status st = AM_OK;
    mpi_comm *m = NULL;
    AM_TRY(am_calloc(1, sizeof *m, &m));
    m->base.backend = &mpi_backend;
    m->base.options = *options;
    m->message_bytes = AM_COMM_MESSAGE_BYTES;
    m->report_slot = -1;
    atomic_store(&m->delay, options->delay_seconds);
    AM_TRY(launch(m));
    *out = &m->base;
done:
    return st;
}
