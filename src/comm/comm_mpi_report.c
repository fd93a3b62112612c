/* A wait that took too long gets a sentence: what, which group, who is missing, and what the missing ranks
 * themselves say they are doing.  For the last part every service thread listens for questions on a
 * communicator of its own; a rank whose host thread hangs still answers, one that is stopped or dead does
 * not, and that is said too. */
#include <string.h>
#include <time.h>

#include "comm/comm_mpi_internal.h"

#define MAX_NAMED      16 /* ranks listed in a sentence */
#define MAX_ASKED      8
#define ANSWER_SECONDS 2.0

/* ---- describing ---------------------------------------------------------------------------------------- */

static am_status describe_control(const mpi_slot *s, am_str *out)
{
    const am_comm_control *c = &s->control;
    if (c->kind == AM_COMM_CONTROL_SEND || c->kind == AM_COMM_CONTROL_RECV)
        return am_str_printf(out, "the control call '%s' (%zu bytes %s rank %d)", c->name, c->bytes,
                             c->kind == AM_COMM_CONTROL_SEND ? "to" : "from", c->peer);
    return am_str_printf(out, "the control call '%s' (number %" PRId64 ", all ranks, %zu bytes)", c->name,
                         s->request.sequence, c->bytes);
}

am_status am_mpi_describe(const mpi_comm *m, int slot, am_str *out)
{
    am_status st = AM_OK;
    const mpi_slot *s = &m->slots[slot];
    const am_comm_request *r = &s->request;
    if (s->is_control) return describe_control(s, out);
    int64_t n = am_mesh_group_size(&m->base.mesh, r->group);
    AM_TRY(am_str_printf(out, "'%s' (%s, sequence %" PRId64 " of group ", am_mpi_request_name(r),
                         am_comm_kind_name(r->kind), r->sequence));
    AM_TRY(am_comm_group_name(r->group, out));
    AM_TRY(am_str_printf(out, " = ranks"));
    for (int64_t i = 0; i < n && i < MAX_NAMED; i++)
        AM_TRY(
            am_str_printf(out, " %" PRId64, am_mesh_group_member(&m->base.mesh, r->group, m->base.rank, i)));
    if (n > MAX_NAMED) AM_TRY(am_str_printf(out, " ... (%" PRId64 " ranks)", n));
    AM_TRY(am_str_printf(out, ", %zu bytes a piece)", r->bytes));
done:
    return st;
}

/* "rank 2" / "ranks 2 3 5 and 7 more"; the lanes of one direction that are not finished. */
static am_status list_missing(const mpi_slot *s, bool receives, am_str *out, int *count)
{
    am_status st = AM_OK;
    *count = 0;
    for (int i = 0; i < s->num_lanes; i++) {
        const mpi_lane *l = &s->lanes[i];
        if (l->receives != receives || l->state == LANE_FINISHED) continue;
        if (*count < MAX_NAMED) AM_TRY(am_str_printf(out, " %d", l->peer));
        ++*count;
    }
    if (*count > MAX_NAMED) AM_TRY(am_str_printf(out, " and %d more", *count - MAX_NAMED));
done:
    return st;
}

/* ---- answering ------------------------------------------------------------------------------------------
 */

am_status am_mpi_listen(mpi_comm *m)
{
    am_status st = AM_OK;
    m->answer_request = MPI_REQUEST_NULL;
    m->question_request = MPI_REQUEST_NULL;
    AM_TRY_MPI(MPI_Irecv(&m->question, (int)sizeof m->question, MPI_BYTE, MPI_ANY_SOURCE, TAG_QUESTION,
                         m->ask, &m->question_request));
done:
    return st;
}

am_status am_mpi_stop_listening(mpi_comm *m)
{
    am_status st = AM_OK;
    if (m->question_request != MPI_REQUEST_NULL) {
        AM_TRY_MPI(MPI_Cancel(&m->question_request));
        AM_TRY_MPI(MPI_Request_free(&m->question_request));
    }
done:
    return st;
}

static const mpi_slot *find_same(const mpi_comm *m, const mpi_question *q)
{
    for (int i = 0; i < m->base.options.max_requests; i++) {
        const mpi_slot *s = &m->slots[i];
        if (atomic_load_explicit(&s->state, memory_order_acquire) == SLOT_BUSY &&
            s->request.group == q->group && s->request.sequence == q->sequence)
            return s;
    }
    return NULL;
}

/* What I do, seen from the question; with the lock held. */
static am_status compose_answer(mpi_comm *m, const mpi_question *q, am_str *out)
{
    am_status st = AM_OK;
    const mpi_slot *same = q->control ? NULL : find_same(m, q);
    const mpi_slot *control = &m->slots[am_mpi_control_slot(m)];
    const mpi_last *last = &m->last[q->group & AM_GROUP_WORLD];
    if (same)
        AM_TRY(am_str_printf(out, "is in it too, as '%s' (%s, %zu bytes a piece)",
                             am_mpi_request_name(&same->request), am_comm_kind_name(same->request.kind),
                             same->request.bytes));
    else if (!q->control && last->any)
        AM_TRY(am_str_printf(out,
                             "is not in it; what it last started in this group is '%s' (%s, sequence %" PRId64
                             ", %zu bytes a piece)",
                             last->name, am_comm_kind_name(last->kind), last->sequence, last->bytes));
    else if (!q->control)
        AM_TRY(am_str_printf(out, "has started nothing in this group"));
    if (atomic_load_explicit(&control->state, memory_order_acquire) == SLOT_BUSY) {
        AM_TRY(am_str_printf(out, "%swaits in ", q->control ? "" : ", and "));
        AM_TRY(describe_control(control, out));
    } else if (q->control) {
        AM_TRY(am_str_printf(out, "is in no control call; it has finished %" PRId64, m->control_sequence));
    }
    if (m->failed) AM_TRY(am_str_printf(out, "; it has failed itself: %.200s", m->failure));
done:
    return st;
}

/* Receive a question, send the answer, listen again: one step a call, never blocking. */
am_status am_mpi_answer(mpi_comm *m)
{
    am_status st = AM_OK;
    am_str text = {0};
    MPI_Status status;
    int done = 0;
    if (m->answer_request != MPI_REQUEST_NULL) {
        AM_TRY_MPI(MPI_Test(&m->answer_request, &done, MPI_STATUS_IGNORE));
        if (done) AM_TRY(am_mpi_listen(m));
        goto done;
    }
    AM_TRY_MPI(MPI_Test(&m->question_request, &done, &status));
    if (!done) goto done;
    pthread_mutex_lock(&m->lock);
    st = compose_answer(m, &m->question, &text);
    pthread_mutex_unlock(&m->lock);
    AM_TRY(st);
    snprintf(m->answer, sizeof m->answer, "%s", text.s);
    AM_TRY_MPI(MPI_Isend(m->answer, ANSWER_BYTES, MPI_BYTE, status.MPI_SOURCE, TAG_ANSWER, m->ask,
                         &m->answer_request));
done:
    am_str_release(&text);
    return st;
}

/* ---- asking ---------------------------------------------------------------------------------------------
 */

typedef struct inquiry {
    int count, peer[MAX_ASKED];
    MPI_Request sent[MAX_ASKED], received[MAX_ASKED];
    bool answered[MAX_ASKED];
    char text[MAX_ASKED][ANSWER_BYTES];
    mpi_question question;
} inquiry;

static am_status ask(mpi_comm *m, const mpi_slot *s, inquiry *q)
{
    am_status st = AM_OK;
    q->question = (mpi_question){s->request.sequence, s->request.group, s->is_control};
    for (int pass = 0; pass < 2 && q->count == 0; pass++)
        for (int i = 0; i < s->num_lanes && q->count < MAX_ASKED; i++) {
            const mpi_lane *l = &s->lanes[i];
            if (l->receives != (pass == 0) || l->state == LANE_FINISHED) continue;
            int k = q->count++;
            q->peer[k] = l->peer;
            AM_TRY_MPI(
                MPI_Irecv(q->text[k], ANSWER_BYTES, MPI_BYTE, l->peer, TAG_ANSWER, m->ask, &q->received[k]));
            AM_TRY_MPI(MPI_Isend(&q->question, (int)sizeof q->question, MPI_BYTE, l->peer, TAG_QUESTION,
                                 m->ask, &q->sent[k]));
        }
done:
    return st;
}

/* Others may be asking us at the same time, and other transfers go on. */
static am_status await_answers(mpi_comm *m, inquiry *q)
{
    am_status st = AM_OK;
    const struct timespec pause = {0, 1000000};
    double end = am_now() + ANSWER_SECONDS;
    for (int open = q->count; open > 0 && am_now() < end;) {
        bool moved;
        if (!atomic_load(&m->has_failed)) AM_TRY(am_mpi_poll(m, &moved));
        AM_TRY(am_mpi_answer(m));
        open = 0;
        for (int i = 0; i < q->count; i++) {
            int done = q->answered[i];
            if (!done) AM_TRY_MPI(MPI_Test(&q->received[i], &done, MPI_STATUS_IGNORE));
            q->answered[i] = done;
            open += !done;
        }
        if (open) nanosleep(&pause, NULL);
    }
    for (int i = 0; i < q->count; i++) {
        if (q->answered[i]) continue;
        AM_TRY_MPI(MPI_Cancel(&q->received[i]));
        AM_TRY_MPI(MPI_Wait(&q->received[i], MPI_STATUS_IGNORE));
    }
    for (int i = 0; i < q->count; i++)
        AM_TRY_MPI(MPI_Request_free(&q->sent[i])); /* small: already handed over */
done:
    return st;
}

am_status am_mpi_write_report(mpi_comm *m, int slot, double waited, am_str *out)
{
    am_status st = AM_OK;
    const mpi_slot *s = &m->slots[slot];
    am_str from = {0}, to = {0};
    int num_from = 0, num_to = 0;
    inquiry *q = NULL;
    AM_TRY(am_str_printf(out, "rank %d waited %.1f s for ", m->base.rank, waited));
    AM_TRY(am_mpi_describe(m, slot, out));
    AM_TRY(list_missing(s, true, &from, &num_from));
    AM_TRY(list_missing(s, false, &to, &num_to));
    if (num_from)
        AM_TRY(am_str_printf(out, "; missing: the data of rank%s%s", num_from > 1 ? "s" : "", from.s));
    if (num_to) AM_TRY(am_str_printf(out, "; rank%s%s did not take ours", num_to > 1 ? "s" : "", to.s));
    if (!num_from && !num_to) AM_TRY(am_str_printf(out, "; it ended just after the deadline"));
    AM_TRY(am_calloc(1, sizeof *q, &q));
    AM_TRY(ask(m, s, q));
    AM_TRY(await_answers(m, q));
    for (int i = 0; i < q->count; i++)
        AM_TRY(q->answered[i]
                   ? am_str_printf(out, "; rank %d %s", q->peer[i], q->text[i])
                   : am_str_printf(out, "; rank %d does not answer (stopped, dead, or already gone)",
                                   q->peer[i]));
    AM_TRY(am_str_printf(out, ". If the ranks are merely slow, raise dist_env.timeout_minutes"));
done:
    am_str_release(&from);
    am_str_release(&to);
    am_free(&q);
    return st;
}
