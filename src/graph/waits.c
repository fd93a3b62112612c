/* waits.c: order as data.  Derives, from reads and writes, which operator of another queue must be complete
 * before an operator starts.  The compute queue runs in order; a communication is complete only for who
 * waited for it, and a wait on the k-th operator of a communication queue covers all before it in that queue.
 */
#include "graph/pass.h"

#include <string.h>

typedef struct am_touch {
    int writer;
    int *reader;
    size_t num_readers, cap;
} am_touch; /* of one root value */

static int root_of(const am_program *p, const am_prog_tensor *t)
{
    return t->value < 0 ? -1 : p->graph->values[t->value].root;
}

/* clock row of op i before its waits: what its own queue guarantees. */
static void start_clock(const am_segment *s, am_order *o, int i, int last_compute)
{
    int *row = &o->clock[i * AM_QUEUE_COUNT];
    if (s->op[i].queue == AM_QUEUE_COMPUTE && last_compute >= 0) {
        memcpy(row, &o->clock[last_compute * AM_QUEUE_COUNT], AM_QUEUE_COUNT * sizeof *row);
        row[AM_QUEUE_COMPUTE] = o->number[last_compute];
    }
}

static void join(const am_segment *s, am_order *o, int i, int wait)
{
    int *row = &o->clock[i * AM_QUEUE_COUNT], *other = &o->clock[wait * AM_QUEUE_COUNT],
        q = s->op[wait].queue;
    for (int k = 0; k < AM_QUEUE_COUNT; k++)
        if (other[k] > row[k]) row[k] = other[k];
    if (o->number[wait] > row[q]) row[q] = o->number[wait];
}

am_status am_order_make(const am_segment *s, am_order *o)
{
    am_status st = AM_OK;
    int count[AM_QUEUE_COUNT] = {0}, last_compute = -1;
    *o = (am_order){.num_ops = s->num_ops};
    AM_TRY(am_calloc((size_t)s->num_ops + 1, AM_QUEUE_COUNT * sizeof *o->clock, &o->clock));
    AM_TRY(am_calloc((size_t)s->num_ops + 1, sizeof *o->number, &o->number));
    for (int i = 0; i < s->num_ops; i++) {
        o->number[i] = ++count[s->op[i].queue];
        start_clock(s, o, i, last_compute);
        for (int w = 0; w < s->op[i].num_waits; w++) join(s, o, i, s->op[i].wait[w]);
        if (s->op[i].queue == AM_QUEUE_COMPUTE) last_compute = i;
    }
done:
    if (st != AM_OK) am_order_release(o);
    return st;
}

void am_order_release(am_order *o)
{
    am_free(&o->clock);
    am_free(&o->number);
}

/* op i must come after `other`: remember the latest such operator of each queue that is not ordered yet. */
static void need(const am_segment *s, const am_order *o, int i, int other, int latest[AM_QUEUE_COUNT])
{
    if (other < 0 || other == i || am_order_before(o, s, other, i)) return;
    int q = s->op[other].queue;
    if (latest[q] < other) latest[q] = other;
}

static void conflicts(const am_program *p, const am_segment *s, const am_order *o, const am_touch *touch,
                      int i, int latest[AM_QUEUE_COUNT])
{
    const am_prog_op *op = &s->op[i];
    for (int k = 0; k < op->num_in; k++) {
        int r = root_of(p, &op->in[k]);
        if (r >= 0) need(s, o, i, touch[r].writer, latest);
    }
    for (int k = 0; k < op->num_out; k++) {
        int r = root_of(p, &op->out[k]);
        if (r < 0) continue;
        need(s, o, i, touch[r].writer, latest);
        for (size_t n = 0; n < touch[r].num_readers; n++) need(s, o, i, touch[r].reader[n], latest);
    }
}

static am_status remember(const am_program *p, const am_segment *s, am_touch *touch, int i)
{
    am_status st = AM_OK;
    const am_prog_op *op = &s->op[i];
    for (int k = 0; k < op->num_in; k++) {
        int r = root_of(p, &op->in[k]);
        if (r < 0) continue;
        AM_TRY(am_grow(&touch[r].reader, &touch[r].cap, touch[r].num_readers + 1, sizeof *touch[r].reader));
        touch[r].reader[touch[r].num_readers++] = i;
    }
    for (int k = 0; k < op->num_out; k++) {
        int r = root_of(p, &op->out[k]);
        if (r < 0) continue;
        touch[r].writer = i;
        touch[r].num_readers = 0;
    }
done:
    return st;
}

static am_status segment_waits(const am_program *p, am_segment *s, am_touch *touch)
{
    am_status st = AM_OK;
    am_order o = {.num_ops = s->num_ops};
    int count[AM_QUEUE_COUNT] = {0}, last_compute = -1;
    AM_TRY(am_calloc((size_t)s->num_ops + 1, AM_QUEUE_COUNT * sizeof *o.clock, &o.clock));
    AM_TRY(am_calloc((size_t)s->num_ops + 1, sizeof *o.number, &o.number));
    for (int i = 0; i < s->num_ops; i++) {
        int latest[AM_QUEUE_COUNT] = {-1, -1, -1, -1};
        o.number[i] = ++count[s->op[i].queue];
        start_clock(s, &o, i, last_compute);
        conflicts(p, s, &o, touch, i, latest);
        AM_TRY(am_calloc(AM_QUEUE_COUNT, sizeof *s->op[i].wait, &s->op[i].wait));
        for (int q = 0; q < AM_QUEUE_COUNT; q++) {
            if (latest[q] < 0 || am_order_before(&o, s, latest[q], i)) continue;
            s->op[i].wait[s->op[i].num_waits++] = latest[q];
            join(s, &o, i, latest[q]);
        }
        AM_TRY(remember(p, s, touch, i));
        if (s->op[i].queue == AM_QUEUE_COMPUTE) last_compute = i;
    }
done:
    am_order_release(&o);
    return st;
}

am_status am_pass_waits(am_program *p)
{
    am_status st = AM_OK;
    am_touch *touch = NULL;
    size_t n = p->graph->num_values;
    AM_TRY(am_calloc(n + 1, sizeof *touch, &touch));
    for (int k = 0; k < p->num_segments; k++) {
        for (size_t v = 0; v < n; v++) {
            touch[v].writer = -1; /* a segment ends when all its operators are complete */
            touch[v].num_readers = 0;
        }
        AM_TRY(segment_waits(p, &p->segment[k], touch));
    }
done:
    for (size_t v = 0; touch && v < n; v++) am_free(&touch[v].reader);
    am_free(&touch);
    return st;
}
