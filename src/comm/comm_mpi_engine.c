/* A transfer becomes lanes: one per peer and direction.  A lane has one message under way at a time; all
 * messages under way stand in one dense array for MPI_Testsome.  My own piece is copied between polls, a part
 * at a time, so that a long copy does not stop the messages of other transfers.  With an injected delay a
 * message to be sent waits before it is handed to MPI, and one that was received waits until its delay is
 * over. */
#include <string.h>

#include "comm/comm_mpi_internal.h"

#define COPY_BYTES ((size_t)4 << 20) /* of my own piece, per poll */

/* ---- building ---------------------------------------------------------------------------------------- */

static void add_lane(mpi_slot *s, int slot, bool receives, int peer, const void *base, size_t bytes)
{
    if (bytes == 0) return;
    s->lanes[s->num_lanes++] = (mpi_lane){.base = (char *)base,
                                          .bytes = bytes,
                                          .peer = peer,
                                          .slot = slot,
                                          .receives = receives,
                                          .state = LANE_FINISHED};
}

/* Receives first, so that they are posted when the data arrive; the nearest neighbour first, so that the
 * members of a group do not all write to the same one. */
static void build_request(mpi_comm *m, mpi_slot *s, int slot)
{
    const am_comm_request *r = &s->request;
    const am_mesh *mesh = &m->base.mesh;
    int64_t rank = m->base.rank, n = am_mesh_group_size(mesh, r->group),
            me = am_mesh_group_index(mesh, r->group, rank);
    bool gather = r->kind == AM_COMM_ALL_GATHER;
    for (int pass = 0; pass < 2; pass++)
        for (int64_t k = 1; k < n; k++) {
            int64_t other = pass == 0 ? (me + n - k) % n : (me + k) % n;
            int peer = (int)am_mesh_group_member(mesh, r->group, rank, other);
            size_t at = (size_t)other * r->bytes;
            if (pass == 0)
                add_lane(s, slot, true, peer, (char *)r->recv + at, r->bytes);
            else
                add_lane(s, slot, false, peer, (const char *)r->send + (gather ? 0 : at), r->bytes);
        }
    s->copy_from = (const char *)r->send + (gather ? 0 : (size_t)me * r->bytes);
    s->copy_to = (char *)r->recv + (size_t)me * r->bytes;
    s->copy_left = s->copy_from == s->copy_to ? 0 : r->bytes;
}

static void build_control(mpi_comm *m, mpi_slot *s, int slot)
{
    const am_comm_control *c = &s->control;
    int rank = m->base.rank, size = m->base.size;
    s->copy_left = 0;
    switch (c->kind) {
    case AM_COMM_CONTROL_SEND:
        add_lane(s, slot, false, c->peer, c->send, c->bytes);
        return;
    case AM_COMM_CONTROL_RECV:
        add_lane(s, slot, true, c->peer, c->recv, c->bytes);
        return;
    case AM_COMM_CONTROL_BCAST:
        if (rank != c->peer) add_lane(s, slot, true, c->peer, c->recv, c->bytes);
        for (int k = 1; rank == c->peer && k < size; k++)
            add_lane(s, slot, false, (rank + k) % size, c->recv, c->bytes);
        return;
    case AM_COMM_CONTROL_GATHER:
        for (int k = 1; k < size; k++) {
            int from = (rank + size - k) % size;
            add_lane(s, slot, true, from, (char *)c->recv + (size_t)from * c->bytes, c->bytes);
        }
        for (int k = 1; k < size; k++) add_lane(s, slot, false, (rank + k) % size, c->send, c->bytes);
        s->copy_from = c->send;
        s->copy_to = (char *)c->recv + (size_t)rank * c->bytes;
        s->copy_left = s->copy_from == s->copy_to ? 0 : c->bytes;
        return;
    }
}

/* ---- moving ------------------------------------------------------------------------------------------ */

static double delay_of(const mpi_comm *m, const mpi_slot *s)
{
    return s->is_control ? 0 : atomic_load_explicit(&m->delay, memory_order_relaxed);
}

static am_status post_message(mpi_comm *m, mpi_slot *s, mpi_lane *l)
{
    am_status st = AM_OK;
    MPI_Request *r = &m->requests[m->num_requests];
    char *at = l->base + l->offset;
    if (l->receives) {
        AM_TRY_MPI(MPI_Irecv(at, (int)l->length, MPI_BYTE, l->peer, s->tag, s->comm, r));
    } else {
        AM_TRY_MPI(MPI_Isend(at, (int)l->length, MPI_BYTE, l->peer, s->tag, s->comm, r));
        if (!s->is_control) {
            atomic_fetch_add_explicit(&m->messages, 1, memory_order_relaxed);
            atomic_fetch_add_explicit(&m->bytes, (int64_t)l->length, memory_order_relaxed);
        }
    }
    m->owner[m->num_requests++] = l;
    l->state = LANE_ACTIVE;
done:
    return st;
}

static void hold(mpi_slot *s, mpi_lane *l)
{
    l->state = LANE_HELD;
    s->held_lanes++;
}

static am_status begin_message(mpi_comm *m, mpi_slot *s, mpi_lane *l)
{
    l->length = am_comm_message_length(l->bytes, l->offset, m->message_bytes);
    l->started = am_now();
    if (!l->receives && delay_of(m, s) > 0) {
        hold(s, l);
        return AM_OK;
    }
    return post_message(m, s, l);
}

static am_status end_message(mpi_comm *m, mpi_slot *s, mpi_lane *l)
{
    l->offset += l->length;
    if (l->offset < l->bytes) return begin_message(m, s, l);
    l->state = LANE_FINISHED;
    s->open_lanes--;
    return AM_OK;
}

am_status am_mpi_activate(mpi_comm *m, int slot)
{
    am_status st = AM_OK;
    mpi_slot *s = &m->slots[slot];
    s->num_lanes = s->held_lanes = 0;
    if (s->is_control)
        build_control(m, s, slot);
    else
        build_request(m, s, slot);
    s->open_lanes = s->num_lanes;
    m->active[m->num_active++] = slot;
    for (int i = 0; i < s->num_lanes; i++) AM_TRY(begin_message(m, s, &s->lanes[i]));
done:
    return st;
}

/* A peer that runs another program sends another length: MPI truncates, or delivers less.  Name both. */
static am_status check_received(mpi_comm *m, const mpi_lane *l, const MPI_Status *status, int error)
{
    am_status st = AM_OK;
    am_str what = {0};
    MPI_Count got = 0;
    int class = MPI_SUCCESS, length = 0;
    char text[MPI_MAX_ERROR_STRING] = "";
    if (error != MPI_SUCCESS) MPI_Error_class(error, &class);
    if (l->receives && (class == MPI_SUCCESS || class == MPI_ERR_TRUNCATE))
        MPI_Get_elements_x(status, MPI_BYTE, &got);
    if (class == MPI_SUCCESS && (!l->receives || (size_t)got == l->length)) return AM_OK;
    AM_TRY(am_mpi_describe(m, l->slot, &what));
    if (l->receives && (class == MPI_SUCCESS || class == MPI_ERR_TRUNCATE))
        AM_FAIL(AM_ERR_COMM,
                "rank %d and rank %d do not run the same collective: rank %d is in %s and expects a message "
                "of %zu bytes, "
                "rank %d sent %s%lld bytes under the same group and number",
                m->base.rank, l->peer, m->base.rank, what.s, l->length, l->peer,
                class == MPI_ERR_TRUNCATE ? "more: " : "", (long long)got);
    MPI_Error_string(error, text, &length);
    AM_FAIL(AM_ERR_COMM, "MPI reports '%s' %s rank %d in %s", text,
            l->receives ? "receiving from" : "sending to", l->peer, what.s);
done:
    am_str_release(&what);
    return st;
}

/* MPI does not say whether a test moved part of a message.  The time it took does: a test that finds nothing
 * is short, the shortest of late is the measure.  Where it is wrong, one pause is left out. */
static bool was_busy(mpi_comm *m, double seconds)
{
    bool busy = seconds > 2 * m->quiet_test + 2e-6;
    m->quiet_test = seconds < m->quiet_test || m->quiet_test == 0 ? seconds : m->quiet_test * 1.001;
    return busy;
}

/* Test all messages under way; the lanes of those that ended go to m->settled, the array stays dense. */
static am_status collect(mpi_comm *m, int *num_settled, bool *moved)
{
    am_status st = AM_OK;
    int count = 0, kept = 0, rc;
    double begin = am_now();
    *num_settled = 0;
    if (m->num_requests == 0) return AM_OK;
    rc = MPI_Testsome(m->num_requests, m->requests, &count, m->indices, m->statuses);
    *moved = was_busy(m, am_now() - begin);
    if (rc != MPI_SUCCESS && rc != MPI_ERR_IN_STATUS) AM_TRY_MPI(rc);
    if (count <= 0) return AM_OK;
    for (int i = 0; i < count; i++) {
        mpi_lane *l = m->owner[m->indices[i]];
        AM_TRY(check_received(m, l, &m->statuses[i],
                              rc == MPI_SUCCESS ? MPI_SUCCESS : m->statuses[i].MPI_ERROR));
        m->settled[(*num_settled)++] = l;
    }
    for (int i = 0; i < m->num_requests; i++) {
        if (m->requests[i] == MPI_REQUEST_NULL) continue;
        m->requests[kept] = m->requests[i];
        m->owner[kept++] = m->owner[i];
    }
    m->num_requests = kept;
done:
    return st;
}

static am_status release_held(mpi_comm *m, mpi_slot *s)
{
    am_status st = AM_OK;
    double now = am_now(), delay = delay_of(m, s);
    for (int i = 0; i < s->num_lanes && s->held_lanes > 0; i++) {
        mpi_lane *l = &s->lanes[i];
        if (l->state != LANE_HELD || now < l->started + delay) continue;
        s->held_lanes--;
        AM_TRY(l->receives ? end_message(m, s, l) : post_message(m, s, l));
    }
done:
    return st;
}

static void copy_own_piece(mpi_slot *s)
{
    size_t n = s->copy_left < COPY_BYTES ? s->copy_left : COPY_BYTES;
    memcpy(s->copy_to, s->copy_from, n);
    s->copy_to += n;
    s->copy_from += n;
    s->copy_left -= n;
}

/* Take finished slots out of the active list and tell those who wait. */
static bool retire(mpi_comm *m)
{
    int kept = 0, before = m->num_active;
    for (int i = 0; i < m->num_active; i++) {
        mpi_slot *s = &m->slots[m->active[i]];
        if (s->open_lanes || s->copy_left)
            m->active[kept++] = m->active[i];
        else
            atomic_store_explicit(&s->state, SLOT_DONE, memory_order_release);
    }
    m->num_active = kept;
    if (kept == before) return false;
    pthread_mutex_lock(&m->lock);
    pthread_cond_broadcast(&m->finished);
    pthread_mutex_unlock(&m->lock);
    return true;
}

am_status am_mpi_poll(mpi_comm *m, bool *moved)
{
    am_status st = AM_OK;
    int settled = 0;
    *moved = false;
    AM_TRY(collect(m, &settled, moved));
    double now = settled ? am_now() : 0;
    for (int i = 0; i < settled; i++) {
        mpi_lane *l = m->settled[i];
        mpi_slot *s = &m->slots[l->slot];
        if (l->receives && now < l->started + delay_of(m, s))
            hold(s, l);
        else
            AM_TRY(end_message(m, s, l));
    }
    for (int i = 0; i < m->num_active; i++) {
        mpi_slot *s = &m->slots[m->active[i]];
        if (s->held_lanes) AM_TRY(release_held(m, s));
        if (s->copy_left) {
            copy_own_piece(s);
            *moved = true;
        }
    }
    if (retire(m) || settled) *moved = true;
done:
    return st;
}
