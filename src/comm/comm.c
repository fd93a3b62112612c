/* The public face of comm: options, choice of the backend, checks of what is asked, and the control calls
 * that are made of others (barrier, max, sum are gathers, followed by arithmetic in rank order).  The work is
 * in comm_self.c and comm_mpi*.c, behind the vtable of comm_internal.h. */
#include <stdlib.h>
#include <string.h>

#include "comm/comm_internal.h"

/* ---- cutting and names ---------------------------------------------------------------------------- */

int64_t am_comm_num_messages(size_t bytes, size_t most)
{
    return (int64_t)(bytes / most + (bytes % most != 0));
}

size_t am_comm_message_length(size_t bytes, size_t offset, size_t most)
{
    size_t left = bytes - offset;
    return left < most ? left : most;
}

const char *am_comm_kind_name(am_comm_kind kind)
{
    return kind == AM_COMM_ALL_GATHER ? "all-gather" : "exchange";
}

am_status am_comm_group_name(uint32_t group, am_str *out)
{
    am_status st = AM_OK;
    if (group == AM_GROUP_WORLD) return am_str_printf(out, "world");
    bool first = true;
    for (int d = 0; d < AM_MESH_DIM_COUNT; d++) {
        if (!(group >> d & 1u)) continue;
        AM_TRY(am_str_printf(out, "%s%s", first ? "" : "+", am_mesh_dim_name((am_mesh_dim)d)));
        first = false;
    }
    if (first) AM_TRY(am_str_printf(out, "(empty)"));
done:
    return st;
}

/* ---- creation ------------------------------------------------------------------------------------- */

static const char *env(const char *name)
{
    const char *v = getenv(name);
    return v && *v ? v : NULL;
}

am_status am_comm_detect_launcher(bool *mpi)
{
    am_status st = AM_OK;
    int64_t tasks = 1;
    *mpi = env("OMPI_COMM_WORLD_SIZE") || env("PMIX_RANK");
    if (*mpi) return AM_OK;
    const char *step = env("SLURM_STEP_NUM_TASKS");
    if (step && am_parse_i64(step, &tasks))
        AM_CHECK(tasks <= 1, AM_ERR_ENVIRONMENT,
                 "srun started %s tasks but gave them no PMIx environment, so each would train alone; "
                 "start them with 'srun --mpi=pmix' (or mpirun)",
                 step);
done:
    return st;
}

static am_status resolve_options(const am_comm_options *given, am_comm_options *o)
{
    am_status st = AM_OK;
    const char *delay = env("AM_COMM_DELAY_MS");
    *o = given ? *given : (am_comm_options){0};
    if (o->max_requests == 0) o->max_requests = 64;
    if (o->timeout_seconds == 0) o->timeout_seconds = 600;
    if (o->poll_seconds == 0) o->poll_seconds = 50e-6;
    AM_CHECK(o->max_requests > 0 && o->max_requests <= 65536, AM_ERR_INTERNAL,
             "comm: max_requests is %d, allowed are 1 to 65536", o->max_requests);
    AM_CHECK(o->timeout_seconds > 0, AM_ERR_CONFIG, "the communication timeout is %g s; it must be above 0",
             o->timeout_seconds);
    AM_CHECK(o->poll_seconds > 0 && o->poll_seconds <= 1, AM_ERR_CONFIG,
             "the communication poll interval is %g s; allowed are values above 0 up to 1", o->poll_seconds);
    if (delay) {
        double ms;
        AM_CHECK(am_parse_f64(delay, &ms) && ms >= 0, AM_ERR_CONFIG,
                 "AM_COMM_DELAY_MS is '%s'; write a number of milliseconds, 0 or more", delay);
        o->delay_seconds = ms / 1000;
    }
    AM_CHECK(o->delay_seconds >= 0, AM_ERR_CONFIG, "the injected delay is %g s; it must not be negative",
             o->delay_seconds);
done:
    return st;
}

am_status am_comm_create(const char *name, const am_comm_options *options, am_comm **out)
{
    am_status st = AM_OK;
    am_comm_options resolved;
    bool mpi = false;
    *out = NULL;
    AM_TRY(resolve_options(options, &resolved));
    if (!name || !strcmp(name, "auto"))
        AM_TRY(am_comm_detect_launcher(&mpi));
    else if (!strcmp(name, "mpi"))
        mpi = true;
    else
        AM_CHECK(!strcmp(name, "self"), AM_ERR_CONFIG,
                 "communication backend '%s' is unknown; there are 'auto', 'self' and 'mpi'", name);
    AM_TRY(mpi ? am_comm_create_mpi(&resolved, out) : am_comm_create_self(&resolved, out));
    pthread_mutex_init(&(*out)->control_lock, NULL);
    /* ranks that cannot get this much memory end through the caller, who aborts: no collective was started */
    AM_TRY(am_calloc((size_t)(*out)->size, sizeof *(*out)->gathered, &(*out)->gathered));
done:
    return st;
}

am_status am_comm_free(am_comm **comm)
{
    am_status st = AM_OK;
    am_comm *c = comm ? *comm : NULL;
    if (!c) return AM_OK;
    AM_TRY(c->backend->free(c));
    pthread_mutex_destroy(&c->control_lock);
    am_free(&c->gathered);
    am_free(comm);
done:
    return st;
}

/* Every rank's mesh travels as well, so that ranks that resolved their recipe differently are told so here.
 */
am_status am_comm_set_mesh(am_comm *c, const am_mesh *mesh)
{
    am_status st = AM_OK;
    am_mesh *all = NULL;
    AM_CHECK(c->backend->idle(c), AM_ERR_INTERNAL,
             "comm: the mesh was changed while requests were in flight");
    AM_TRY(am_mesh_check(mesh, c->size));
    AM_TRY(am_calloc((size_t)c->size, sizeof *all, &all));
    AM_TRY(am_comm_allgather(c, mesh, sizeof *mesh, all));
    for (int r = 0; r < c->size; r++)
        AM_CHECK(!memcmp(&all[r], mesh, sizeof *mesh), AM_ERR_CONFIG,
                 "ranks %d and %d were given different meshes (tp %" PRId64 " and %" PRId64
                 ", dp_shard %" PRId64 " and %" PRId64 "); all ranks must run the same recipe",
                 c->rank, r, mesh->size[AM_MESH_TP], all[r].size[AM_MESH_TP], mesh->size[AM_MESH_DP_SHARD],
                 all[r].size[AM_MESH_DP_SHARD]);
    c->mesh = *mesh;
    c->has_mesh = true;
done:
    am_free(&all);
    return st;
}

int am_comm_rank(const am_comm *c)
{
    return c->rank;
}
int am_comm_size(const am_comm *c)
{
    return c->size;
}
int am_comm_local_rank(const am_comm *c)
{
    return c->local_rank;
}
int am_comm_local_size(const am_comm *c)
{
    return c->local_size;
}
const char *am_comm_backend(const am_comm *c)
{
    return c->backend->name;
}

/* ---- data plane ------------------------------------------------------------------------------------ */

static am_status check_request(const am_comm *c, const am_comm_request *r)
{
    am_status st = AM_OK;
    size_t total, members;
    const char *name = r->name ? r->name : "(no name)";
    AM_CHECK(c->has_mesh, AM_ERR_INTERNAL, "comm: '%s' was started before the mesh was set", name);
    AM_CHECK(r->kind == AM_COMM_ALL_GATHER || r->kind == AM_COMM_EXCHANGE, AM_ERR_INTERNAL,
             "comm: '%s' is of the unknown kind %d", name, (int)r->kind);
    AM_CHECK((r->group & ~AM_GROUP_WORLD) == 0, AM_ERR_INTERNAL,
             "comm: '%s' names the group 0x%x, which has unknown dimensions", name, r->group);
    AM_CHECK(r->slot >= 0 && r->slot < c->options.max_requests, AM_ERR_INTERNAL,
             "comm: '%s' asks for slot %d of %d", name, r->slot, c->options.max_requests);
    AM_CHECK(r->sequence >= 0, AM_ERR_INTERNAL, "comm: '%s' has the negative sequence number %" PRId64, name,
             r->sequence);
    members = (size_t)am_mesh_group_size(&c->mesh, r->group);
    AM_CHECK(am_mul_size(members, r->bytes, &total) && total <= PTRDIFF_MAX, AM_ERR_INTERNAL,
             "comm: '%s': %zu pieces of %zu bytes exceed the address space", name, members, r->bytes);
    AM_CHECK(r->bytes == 0 || (r->send && r->recv), AM_ERR_INTERNAL, "comm: '%s' has no buffer", name);
    uintptr_t s = (uintptr_t)r->send, d = (uintptr_t)r->recv;
    size_t me = (size_t)am_mesh_group_index(&c->mesh, r->group, c->rank);
    size_t sent = r->kind == AM_COMM_EXCHANGE ? total : r->bytes;
    bool in_place = r->kind == AM_COMM_ALL_GATHER && s == d + me * r->bytes;
    AM_CHECK(in_place || r->bytes == 0 || s + sent <= d || d + total <= s, AM_ERR_INTERNAL,
             "comm: the buffers of '%s' overlap", name);
done:
    return st;
}

am_status am_comm_start(am_comm *c, const am_comm_request *request)
{
    am_status st = AM_OK;
    AM_TRY(check_request(c, request));
    AM_TRY(c->backend->start(c, request));
done:
    return st;
}

bool am_comm_done(const am_comm *c, int slot)
{
    return slot >= 0 && slot < c->options.max_requests && c->backend->done(c, slot);
}

am_status am_comm_wait(am_comm *c, int slot)
{
    am_status st = AM_OK;
    AM_CHECK(slot >= 0 && slot < c->options.max_requests, AM_ERR_INTERNAL, "comm: wait for slot %d of %d",
             slot, c->options.max_requests);
    AM_TRY(c->backend->wait(c, slot));
done:
    return st;
}

am_comm_counters am_comm_count(const am_comm *c)
{
    return c->backend->count(c);
}
void am_comm_set_delay(am_comm *c, double seconds)
{
    c->backend->set_delay(c, seconds > 0 ? seconds : 0);
}

/* ---- control plane ---------------------------------------------------------------------------------- */

static am_status control(am_comm *c, am_comm_control op)
{
    pthread_mutex_lock(&c->control_lock);
    am_status st = c->backend->control(c, &op);
    pthread_mutex_unlock(&c->control_lock);
    return st;
}

am_status am_comm_barrier(am_comm *c)
{
    char mine = 0;
    pthread_mutex_lock(&c->control_lock);
    am_comm_control op = {AM_COMM_CONTROL_GATHER, "barrier", &mine, c->gathered, 1, 0};
    am_status st = c->backend->control(c, &op);
    pthread_mutex_unlock(&c->control_lock);
    return st;
}

am_status am_comm_bcast(am_comm *c, void *data, size_t bytes, int root)
{
    if (root < 0 || root >= c->size)
        return am_fail(AM_ERR_INTERNAL, "comm: broadcast from rank %d of %d", root, c->size);
    return control(c, (am_comm_control){AM_COMM_CONTROL_BCAST, "bcast", NULL, data, bytes, root});
}

am_status am_comm_allgather(am_comm *c, const void *send, size_t bytes, void *recv)
{
    return control(c, (am_comm_control){AM_COMM_CONTROL_GATHER, "allgather", send, recv, bytes, 0});
}

typedef bool (*combine)(int64_t a, int64_t b, int64_t *out);
static bool larger(int64_t a, int64_t b, int64_t *out)
{
    *out = am_max_i64(a, b);
    return true;
}

static am_status reduce(am_comm *c, const char *name, combine f, int64_t mine, int64_t *out)
{
    am_status st = AM_OK;
    pthread_mutex_lock(&c->control_lock);
    am_comm_control op = {AM_COMM_CONTROL_GATHER, name, &mine, c->gathered, sizeof mine, 0};
    AM_TRY(c->backend->control(c, &op));
    int64_t total = c->gathered[0];
    for (int r = 1; r < c->size; r++)
        AM_CHECK(f(total, c->gathered[r], &total), AM_ERR_INTERNAL,
                 "comm: the %s over %d ranks leaves the range of int64", name, c->size);
    *out = total;
done:
    pthread_mutex_unlock(&c->control_lock);
    return st;
}

am_status am_comm_max(am_comm *c, int64_t mine, int64_t *out)
{
    return reduce(c, "max", larger, mine, out);
}
am_status am_comm_sum(am_comm *c, int64_t mine, int64_t *out)
{
    return reduce(c, "sum", am_add_i64, mine, out);
}

static am_status check_peer(const am_comm *c, const char *what, int peer)
{
    if (peer < 0 || peer >= c->size || peer == c->rank)
        return am_fail(AM_ERR_INTERNAL, "comm: %s rank %d on rank %d of %d", what, peer, c->rank, c->size);
    return AM_OK;
}

am_status am_comm_send(am_comm *c, const void *data, size_t bytes, int to)
{
    am_status st = check_peer(c, "send to", to);
    return st ? st : control(c, (am_comm_control){AM_COMM_CONTROL_SEND, "send", data, NULL, bytes, to});
}

am_status am_comm_recv(am_comm *c, void *data, size_t bytes, int from)
{
    am_status st = check_peer(c, "receive from", from);
    return st ? st : control(c, (am_comm_control){AM_COMM_CONTROL_RECV, "recv", NULL, data, bytes, from});
}

void am_comm_abort(am_comm *c, int exit_code)
{
    if (c) c->backend->abort(c, exit_code);
    _Exit(exit_code);
}
