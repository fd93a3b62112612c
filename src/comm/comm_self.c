/* Backend self: one rank, no MPI (MPI_Init is never called).  A transfer is the copy of my own piece, made in
 * start. */
#include <stdlib.h>
#include <string.h>

#include "comm/comm_internal.h"

typedef struct self_comm {
    am_comm base;
    int64_t operations;
} self_comm;

static am_status self_free(am_comm *c)
{
    return AM_OK;
}

static am_status self_start(am_comm *c, const am_comm_request *r)
{
    if (r->bytes && r->send != r->recv) memcpy(r->recv, r->send, r->bytes);
    ((self_comm *)c)->operations++;
    return AM_OK;
}

static bool self_done(const am_comm *c, int slot)
{
    return true;
}
static am_status self_wait(am_comm *c, int slot)
{
    return AM_OK;
}
static bool self_idle(const am_comm *c)
{
    return true;
}
static void self_set_delay(am_comm *c, double seconds) {} /* there is no message to delay */

static am_status self_control(am_comm *c, const am_comm_control *op)
{
    if (op->kind == AM_COMM_CONTROL_GATHER && op->bytes && op->send != op->recv)
        memcpy(op->recv, op->send, op->bytes);
    return AM_OK;
}

static am_comm_counters self_count(const am_comm *c)
{
    return (am_comm_counters){.operations = ((const self_comm *)c)->operations};
}

static void self_abort(am_comm *c, int exit_code)
{
    _Exit(exit_code);
}

static const am_comm_vtable self_backend = {
    .name = "self",
    .free = self_free,
    .start = self_start,
    .done = self_done,
    .wait = self_wait,
    .control = self_control,
    .count = self_count,
    .idle = self_idle,
    .set_delay = self_set_delay,
    .abort = self_abort,
};

am_status am_comm_create_self(const am_comm_options *options, am_comm **out)
{
    am_status st = AM_OK;
    self_comm *s = NULL;
    AM_TRY(am_calloc(1, sizeof *s, &s));
    s->base.backend = &self_backend;
    s->base.options = *options;
    s->base.size = s->base.local_size = 1;
    *out = &s->base;
done:
    return st;
}
