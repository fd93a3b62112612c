/* exec.c: runs programs.  Everything is bound before the first step: regions allocated, kernels looked up,
 * operands resolved to addresses.  The executor knows queues, waits and frames; it knows no layer, no weights
 * and no parallelism. Communication is started where its operator stands and waited for where another
 * operator says so, or at the segment's end. */
#include "graph/pass.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { AM_GROUPS = 1 << AM_MESH_DIM_COUNT };

typedef struct am_bound_op {
    am_kernel_fn fn;
    am_kernel_call *call; /* by frame */
    int in_group;         /* communication: number within its group in this segment */
    double seconds;
    int64_t runs;
} am_bound_op;

typedef struct am_bound_segment {
    am_bound_op *op;
    int per_group[AM_GROUPS]; /* collectives of each group */
} am_bound_segment;

typedef struct am_bound {
    const am_program *p;
    am_bound_segment *segment;
    am_region constant, state;
    int64_t *frame_tokens;  /* actual N of each frame */
    uint64_t weights_of;    /* version of the store that its weights in STEP were made of */
} am_bound;

struct am_exec {
    am_device *d;
    am_comm *c;
    am_exec_options options;
    am_bound *bound;
    int num_programs;
    am_region shared[AM_REGION_COUNT]; /* STORE, SCALARS, STEP, FRAME, ARENA */
    int64_t sequence[AM_GROUPS];
    int *issued; /* shuffling: operators already issued in the segment at hand */
    int max_ops;
    uint64_t shuffles;
    uint64_t store_version; /* counts changes of the store */
    int step_owner;         /* program that wrote STEP last */
    bool moments_touched;
    am_exec_times times;
    am_exec_probe_fn probe;
    void *probe_context;
};

am_device *am_exec_device(const am_exec *e)
{
    return e->d;
}
am_exec_times am_exec_time(const am_exec *e)
{
    return e->times;
}
void am_exec_set_probe(am_exec *e, am_exec_probe_fn probe, void *context)
{
    e->probe = probe;
    e->probe_context = context;
}

am_region am_exec_region(const am_exec *e, int program, am_region_id region)
{
    if (region == AM_REGION_CONST) return e->bound[program].constant;
    if (region == AM_REGION_STATE) return e->bound[program].state;
    return e->shared[region];
}

/* ---- binding ----------------------------------------------------------------------------------------------
 */

static am_tensor bind_tensor(const am_exec *e, int program, const am_prog_tensor *t, int frame)
{
    am_tensor x = {0};
    if (t->region == AM_REGION_COUNT) return x;
    x = t->shape;
    am_region r = am_exec_region(e, program, t->region);
    int64_t frame_offset =
        t->region == AM_REGION_FRAME ? frame * e->bound[program].p->region_bytes[AM_REGION_FRAME] : 0;
    x.data = r.device + t->offset + frame_offset;
    return x;
}

/* The compute dtype of one operator: in a bf16 program fp32 where none of its operands is bf16 (islands, gradients of weights). */
static am_dtype real_of(const am_program *p, const am_prog_op *op)
{
    if (p->graph->compute != AM_BF16) return p->graph->compute;
    for (int i = 0; i < op->num_in; i++)
        if (op->in[i].region != AM_REGION_COUNT && op->in[i].shape.dtype == AM_BF16) return AM_BF16;
    for (int i = 0; i < op->num_out; i++)
        if (op->out[i].region != AM_REGION_COUNT && op->out[i].shape.dtype == AM_BF16) return AM_BF16;
    return AM_F32;
}

static am_status find_kernel(const am_exec *e, const am_program *p, const am_prog_op *op, am_kernel_fn *out)
{
    am_status st = AM_OK;
    const am_kernel *k =
        op->def->own_kernel.name ? &op->def->own_kernel : am_device_kernel(e->d, op->def->kernel);
    AM_CHECK(k, AM_ERR_INTERNAL, "device %s has no kernel %s", am_device_name(e->d), op->def->kernel);
    const am_dtype real = real_of(p, op);
    *out = real == AM_F64 ? k->f64 : real == AM_BF16 && k->bf16 ? k->bf16 : k->f32;
    AM_CHECK(*out, AM_ERR_INTERNAL, "kernel %s is not offered in %s", k->name, am_dtype_name(real));
done:
    return st;
}

static am_status bind_op(am_exec *e, int program, const am_prog_op *op, am_bound_op *b)
{
    am_status st = AM_OK;
    const am_program *p = e->bound[program].p;
    AM_TRY(am_calloc((size_t)p->num_frames, sizeof *b->call, &b->call));
    if (!op->group) AM_TRY(find_kernel(e, p, op, &b->fn));
    for (int f = 0; f < p->num_frames; f++) {
        am_kernel_call *call = &b->call[f];
        *call = (am_kernel_call){.attrs = &op->attrs,
                                 .num_in = op->num_in,
                                 .num_out = op->num_out,
                                 .threads = am_device_threads(e->d),
                                 .workspace = e->shared[AM_REGION_ARENA].device + op->workspace_offset,
                                 .workspace_bytes = op->workspace_bytes,
                                 .id = op->id};
        for (int i = 0; i < op->num_in; i++) call->in[i] = bind_tensor(e, program, &op->in[i], f);
        for (int i = 0; i < op->num_out; i++) call->out[i] = bind_tensor(e, program, &op->out[i], f);
    }
done:
    return st;
}

static am_status write_constants(am_exec *e, int program)
{
    am_status st = AM_OK;
    const am_graph *g = e->bound[program].p->graph;
    void *buffer = NULL;
    for (size_t i = 0; i < g->num_constants; i++) {
        const am_constant *c = &g->constants[i];
        const am_value *v = &g->values[c->value];
        size_t bytes = (size_t)c->n * am_dtype_bytes(v->dtype);
        AM_TRY(am_calloc(bytes, 1, &buffer));
        AM_TRY(am_convert(c->data, AM_F64, buffer, v->dtype, c->n));
        AM_TRY(am_device_write(e->d, &e->bound[program].constant, (size_t)v->offset, buffer, bytes));
        am_free(&buffer);
    }
done:
    am_free(&buffer);
    return st;
}

static am_status bind_program(am_exec *e, int program)
{
    am_status st = AM_OK;
    am_bound *b = &e->bound[program];
    const am_program *p = b->p;
    AM_TRY(am_calloc((size_t)p->num_segments, sizeof *b->segment, &b->segment));
    AM_TRY(am_calloc((size_t)p->num_frames, sizeof *b->frame_tokens, &b->frame_tokens));
    AM_TRY(write_constants(e, program));
    for (int k = 0; k < p->num_segments; k++) {
        const am_segment *s = &p->segment[k];
        AM_TRY(am_calloc((size_t)s->num_ops, sizeof *b->segment[k].op, &b->segment[k].op));
        if (s->num_ops > e->max_ops) e->max_ops = s->num_ops;
        for (int i = 0; i < s->num_ops; i++) {
            AM_TRY(bind_op(e, program, &s->op[i], &b->segment[k].op[i]));
            if (s->op[i].group) b->segment[k].op[i].in_group = b->segment[k].per_group[s->op[i].group]++;
        }
    }
done:
    return st;
}

/* Pages of m and v, where they are needed first. */
static am_status touch_moments(am_exec *e)
{
    am_status st = AM_OK;
    const am_store_layout *s = &e->bound[0].p->store;
    if (e->moments_touched) goto done;
    AM_TRY(am_device_touch(e->d, &e->shared[AM_REGION_STORE], (size_t)s->moments,
                           (size_t)(s->bytes - s->moments)));
    e->moments_touched = true;
done:
    return st;
}

static am_status alloc_regions(am_exec *e)
{
    static const am_region_id shared[] = {AM_REGION_STORE, AM_REGION_SCALARS, AM_REGION_STEP, AM_REGION_FRAME,
                                          AM_REGION_ARENA};
    am_status st = AM_OK;
    for (size_t i = 0; i < sizeof shared / sizeof *shared; i++) {
        int64_t most = 64;
        for (int k = 0; k < e->num_programs; k++) {
            const am_program *p = e->bound[k].p;
            most = am_max_i64(most, p->region_bytes[shared[i]] *
                                        (shared[i] == AM_REGION_FRAME ? p->num_frames : 1));
        }
        AM_TRY(am_device_reserve(e->d, (size_t)most, am_region_name(shared[i]), &e->shared[shared[i]]));
        if (shared[i] == AM_REGION_STORE) most = e->bound[0].p->store.moments;
        AM_TRY(am_device_touch(e->d, &e->shared[shared[i]], 0, (size_t)most));
    }
    for (int k = 0; k < e->num_programs; k++) {
        const int64_t *bytes = e->bound[k].p->region_bytes;
        AM_TRY(am_device_alloc(e->d, (size_t)am_max_i64(bytes[AM_REGION_CONST], 64), "const",
                               &e->bound[k].constant));
        AM_TRY(am_device_alloc(e->d, (size_t)am_max_i64(bytes[AM_REGION_STATE], 64), "state",
                               &e->bound[k].state));
    }
done:
    return st;
}

am_status am_exec_create(am_device *d, am_comm *c, am_program *const *programs, int num_programs,
                         const am_exec_options *options, am_exec **out)
{
    am_status st = AM_OK;
    am_exec *e = NULL;
    AM_TRY(am_calloc(1, sizeof *e, &e));
    e->d = d;
    e->c = c;
    if (options) e->options = *options;
    e->num_programs = num_programs;
    e->store_version = 1;
    e->step_owner = -1;
    AM_TRY(am_calloc((size_t)num_programs, sizeof *e->bound, &e->bound));
    for (int k = 0; k < num_programs; k++) {
        e->bound[k].p = programs[k];
        AM_ASSERT(programs[k]->store.bytes == programs[0]->store.bytes);
    }
    AM_TRY(alloc_regions(e));
    for (int k = 0; k < num_programs; k++) AM_TRY(bind_program(e, k));
    AM_TRY(am_calloc((size_t)e->max_ops + 1, sizeof *e->issued, &e->issued));
    *out = e;
    e = NULL;
done:
    am_exec_free(&e);
    return st;
}

void am_exec_free(am_exec **pe)
{
    if (!pe || !*pe) return;
    am_exec *e = *pe;
    for (int k = 0; e->bound && k < e->num_programs; k++) {
        am_bound *b = &e->bound[k];
        for (int s = 0; b->segment && s < b->p->num_segments; s++) {
            for (int i = 0; b->segment[s].op && i < b->p->segment[s].num_ops; i++)
                am_free(&b->segment[s].op[i].call);
            am_free(&b->segment[s].op);
        }
        am_free(&b->segment);
        am_free(&b->frame_tokens);
        am_device_release(e->d, &b->constant);
        am_device_release(e->d, &b->state);
    }
    for (int r = 0; r < AM_REGION_COUNT; r++) am_device_release(e->d, &e->shared[r]);
    am_free(&e->bound);
    am_free(&e->issued);
    am_free(pe);
}

/* ---- reading and writing
 * ------------------------------------------------------------------------------------- */

am_status am_exec_write_input(am_exec *e, int program, int frame, const char *name, const void *data,
                              int64_t elements)
{
    am_status st = AM_OK;
    const am_program *p = e->bound[program].p;
    const am_binding *b = am_program_input(p, name);
    if (!b) goto done; /* this program has no use for it */
    AM_ASSERT(elements <= am_tensor_elements(&b->tensor.shape));
    size_t offset = (size_t)(b->tensor.offset + frame * p->region_bytes[AM_REGION_FRAME]);
    AM_TRY(
        am_device_write(e->d, &e->shared[AM_REGION_FRAME], offset, data, (size_t)elements * sizeof(int32_t)));
done:
    return st;
}

am_status am_exec_set_scalar(am_exec *e, am_scalar s, double value)
{
    return am_device_write(e->d, &e->shared[AM_REGION_SCALARS], (size_t)s * sizeof value, &value,
                           sizeof value);
}

am_status am_exec_get_scalar(am_exec *e, am_scalar s, double *value)
{
    return am_device_read(e->d, &e->shared[AM_REGION_SCALARS], (size_t)s * sizeof *value, value,
                          sizeof *value);
}

am_status am_exec_read_logits(am_exec *e, int program, int frame, float *out, int64_t elements)
{
    am_status st = AM_OK;
    const am_program *p = e->bound[program].p;
    const am_prog_tensor *t = &p->logits;
    void *raw = NULL;
    AM_ASSERT(t->region == AM_REGION_FRAME || t->region == AM_REGION_STEP);
    size_t bytes = (size_t)elements * am_dtype_bytes(t->shape.dtype);
    size_t offset =
        (size_t)(t->offset + (t->region == AM_REGION_FRAME ? frame * p->region_bytes[AM_REGION_FRAME] : 0));
    AM_TRY(am_calloc(bytes, 1, &raw));
    AM_TRY(am_device_read(e->d, &e->shared[t->region], offset, raw, bytes));
    AM_TRY(am_convert(raw, t->shape.dtype, out, AM_F32, elements));
done:
    am_free(&raw);
    return st;
}

static am_status slot_offset(const am_exec *e, int unit, int role, int64_t begin, int64_t count,
                             size_t *offset, size_t *bytes)
{
    am_status st = AM_OK;
    const am_store_layout *s = &e->bound[0].p->store;
    const am_unit *u = &s->unit[unit];
    int64_t base = role == 0 ? u->store_master : role == 1 ? u->store_m : u->store_v;
    AM_ASSERT(unit >= 0 && unit < s->num_units && base >= 0 && begin >= 0 &&
              begin + count <= u->shard_elements);
    *offset = (size_t)base + (size_t)begin * am_dtype_bytes(s->dtype);
    *bytes = (size_t)count * am_dtype_bytes(s->dtype);
done:
    return st;
}

am_status am_exec_read_slot(am_exec *e, int unit, int role, int64_t begin, int64_t count, void *out)
{
    am_status st = AM_OK;
    size_t offset = 0, bytes = 0;
    AM_TRY(slot_offset(e, unit, role, begin, count, &offset, &bytes));
    AM_TRY(am_device_read(e->d, &e->shared[AM_REGION_STORE], offset, out, bytes));
done:
    return st;
}

am_status am_exec_write_slot(am_exec *e, int unit, int role, int64_t begin, int64_t count, const void *data)
{
    am_status st = AM_OK;
    size_t offset = 0, bytes = 0;
    AM_TRY(slot_offset(e, unit, role, begin, count, &offset, &bytes));
    if (role > 0) AM_TRY(touch_moments(e));
    (void)__atomic_fetch_add(&e->store_version, 1, __ATOMIC_RELAXED);
    AM_TRY(am_device_write(e->d, &e->shared[AM_REGION_STORE], offset, data, bytes));
done:
    return st;
}

am_status am_exec_read_gradient(am_exec *e, int program, int unit, int64_t begin, int64_t count, void *out)
{
    am_status st = AM_OK;
    const am_program *p = e->bound[program].p;
    const am_prog_tensor *t = &p->unit_grad[unit];
    size_t size = am_dtype_bytes(p->store.dtype);
    AM_ASSERT(t->region == AM_REGION_STEP && begin + count <= p->store.unit[unit].shard_elements);
    AM_TRY(am_device_read(e->d, &e->shared[AM_REGION_STEP], (size_t)t->offset + (size_t)begin * size, out,
                          (size_t)count * size));
done:
    return st;
}

/* ---- running
 * -------------------------------------------------------------------------------------------------- */

typedef struct am_running {
    am_exec *e;
    const am_bound *b;
    const am_segment *s;
    am_bound_segment *bs;
    const am_schedule_entry *entry;
    int waited[AM_QUEUE_COUNT]; /* operators of each communication queue up to here are complete */
} am_running;

/* Complete every communication of target's queue up to and including it. */
static am_status wait_for(am_running *r, int target)
{
    am_status st = AM_OK;
    am_queue q = r->s->op[target].queue;
    if (q == AM_QUEUE_COMPUTE || target <= r->waited[q])
        goto done; /* compute is complete when the next operator is issued */
    double start = am_now();
    for (int i = r->waited[q] + 1; i <= target; i++)
        if (r->s->op[i].queue == q && r->s->op[i].group && am_op_runs(&r->s->op[i], r->entry))
            AM_TRY(am_comm_wait(r->e->c, r->s->op[i].slot));
    r->waited[q] = target;
    r->e->times.wait += am_now() - start;
done:
    return st;
}

static am_status start_comm(am_running *r, int i)
{
    const am_prog_op *op = &r->s->op[i];
    const am_kernel_call *call = &r->bs->op[i].call[r->entry->frame];
    am_comm_request q = {.kind =
                             strcmp(op->def->name, "all_gather") == 0 ? AM_COMM_ALL_GATHER : AM_COMM_EXCHANGE,
                         .group = op->group,
                         .sequence = r->e->sequence[op->group] + r->bs->op[i].in_group,
                         .name = op->label,
                         .send = call->in[0].data,
                         .recv = call->out[0].data,
                         .bytes = (size_t)op->piece_bytes,
                         .slot = op->slot};
    return am_comm_start(r->e->c, &q);
}

/* Operands whose first dimension counts tokens are cut to the actual number. */
static void bound_dims(const am_prog_op *op, am_kernel_call *call, int64_t tokens, int64_t planned)
{
    for (int i = 0; i < op->num_in; i++)
        if (op->in[i].bounded) call->in[i].dim[0] = op->in[i].shape.dim[0] / planned * tokens;
    for (int i = 0; i < op->num_out; i++)
        if (op->out[i].bounded) call->out[i].dim[0] = op->out[i].shape.dim[0] / planned * tokens;
}

static am_status run_kernel(am_running *r, int i)
{
    am_status st = AM_OK;
    const am_prog_op *op = &r->s->op[i];
    am_bound_op *b = &r->bs->op[i];
    am_kernel_call call = b->call[r->entry->frame];
    int64_t tokens = r->b->frame_tokens[r->entry->frame];
    call.accumulate = op->acc == AM_ACC_ALWAYS || (op->acc == AM_ACC_UNLESS_FIRST && !r->entry->first);
    if (tokens != r->b->p->tokens) bound_dims(op, &call, tokens, r->b->p->tokens);
    if (r->e->probe) r->e->probe(r->e->probe_context, op, false);
    double start = am_now();
    AM_TRY(b->fn(&call));
    double seconds = am_now() - start;
    if (r->e->probe) r->e->probe(r->e->probe_context, op, true);
    b->seconds += seconds;
    r->e->times.compute += seconds;
done:
    return st;
}

static am_status issue(am_running *r, int i)
{
    am_status st = AM_OK;
    const am_prog_op *op = &r->s->op[i];
    if (!am_op_runs(op, r->entry)) goto done;
    for (int w = 0; w < op->num_waits; w++) AM_TRY(wait_for(r, op->wait[w]));
    if (op->group)
        AM_TRY(start_comm(r, i));
    else
        AM_TRY(run_kernel(r, i));
    r->bs->op[i].runs++;
    r->e->times.operators++;
done:
    return st;
}

/* Tests: any queue's next operator may go first when those it waits for were issued. */
static am_status issue_shuffled(am_running *r)
{
    am_status st = AM_OK;
    int n = r->s->num_ops, left = n;
    int *issued = r->e->issued;
    memset(issued, 0, (size_t)n * sizeof *issued);
    while (left > 0) {
        int heads[AM_QUEUE_COUNT], count = 0;
        for (int q = 0; q < AM_QUEUE_COUNT; q++) {
            int i = 0;
            while (i < n && (issued[i] || (int)r->s->op[i].queue != q)) i++;
            bool ready = i < n;
            for (int w = 0; ready && w < r->s->op[i].num_waits; w++) ready = issued[r->s->op[i].wait[w]];
            if (ready) heads[count++] = i;
        }
        AM_ASSERT(count > 0);
        int pick = heads[am_random_u64(r->e->options.shuffle_seed, 7, r->e->shuffles++) % (uint64_t)count];
        AM_TRY(issue(r, pick));
        issued[pick] = 1;
        left--;
    }
done:
    return st;
}

static void poison(am_running *r)
{
    am_region arena = r->e->shared[AM_REGION_ARENA], frame = r->e->shared[AM_REGION_FRAME];
    size_t bytes = (size_t)r->b->p->region_bytes[AM_REGION_FRAME];
    memset(arena.device, 0xff, arena.bytes);
    if (r->entry->feed) memset(frame.device + (size_t)r->entry->frame * bytes, 0xff, bytes);
}

static am_status run_entry(am_exec *e, int program, const am_schedule_entry *entry, am_feed_fn feed,
                           void *context)
{
    am_status st = AM_OK;
    am_bound *b = &e->bound[program];
    am_running r = {.e = e,
                    .b = b,
                    .s = &b->p->segment[entry->segment],
                    .bs = &b->segment[entry->segment],
                    .entry = entry};
    for (int q = 0; q < AM_QUEUE_COUNT; q++) r.waited[q] = -1;
    if (r.s->phase == AM_PHASE_POST) AM_TRY(touch_moments(e));
    if (e->options.poison) poison(&r);
    if (entry->feed) {
        b->frame_tokens[entry->frame] = b->p->tokens;
        AM_TRY(feed(context, e, program, entry->micro_batch, entry->frame, &b->frame_tokens[entry->frame]));
        AM_ASSERT(b->frame_tokens[entry->frame] > 0 && b->frame_tokens[entry->frame] <= b->p->tokens);
    }
    if (b->frame_tokens[entry->frame] == 0)
        b->frame_tokens[entry->frame] = b->p->tokens; /* PRE of the first step */
    if (e->options.shuffle_seed) AM_TRY(issue_shuffled(&r));
    for (int i = 0; !e->options.shuffle_seed && i < r.s->num_ops; i++) AM_TRY(issue(&r, i));
    for (int i = r.s->num_ops - 1; i >= 0; i--)
        if (r.s->op[i].group) AM_TRY(wait_for(&r, i));
    for (int k = 0; k < AM_GROUPS; k++) e->sequence[k] += r.bs->per_group[k];
done:
    return st;
}

/* Weights that an earlier run of this program made in STEP still stand there. */
static bool weights_stand(const am_exec *e, int program)
{
    return e->step_owner == program && e->bound[program].weights_of == e->store_version;
}

am_status am_exec_run(am_exec *e, int program, am_feed_fn feed, void *context)
{
    am_status st = AM_OK;
    const am_program *p = e->bound[program].p;
    for (int k = 0; k < p->num_entries; k++) {
        const am_schedule_entry *entry = &p->schedule[k];
        if (entry->once && weights_stand(e, program)) continue;
        AM_TRY(run_entry(e, program, entry, feed, context));
        if (entry->once) e->bound[program].weights_of = e->store_version;
        if (p->region_bytes[AM_REGION_STEP]) e->step_owner = program;
    }
    if (p->options.kind == AM_PROGRAM_TRAIN) e->store_version++;
done:
    return st;
}

/* ---- profile
 * ----------------------------------------------------------------------------------------------------- */

static int by_seconds(const void *a, const void *b)
{
    double x = ((const am_profile_row *)a)->seconds, y = ((const am_profile_row *)b)->seconds;
    return x < y ? 1 : x > y ? -1 : 0;
}

am_status am_exec_profile(const am_exec *e, int program, am_profile_row **rows, int *count)
{
    am_status st = AM_OK;
    const am_bound *b = &e->bound[program];
    size_t cap = 0;
    *rows = NULL;
    *count = 0;
    for (int k = 0; k < b->p->num_segments; k++)
        for (int i = 0; i < b->p->segment[k].num_ops; i++) {
            const am_prog_op *op = &b->p->segment[k].op[i];
            const am_bound_op *x = &b->segment[k].op[i];
            int r = 0;
            if (op->group) continue;
            while (r < *count && (strcmp((*rows)[r].op, op->def->name) || (*rows)[r].phase != op->phase)) r++;
            if (r == *count) {
                AM_TRY(am_grow(rows, &cap, (size_t)r + 1, sizeof **rows));
                (*rows)[(*count)++] = (am_profile_row){.op = op->def->name, .phase = op->phase};
            }
            (*rows)[r].calls += x->runs;
            (*rows)[r].seconds += x->seconds;
            (*rows)[r].flops += (double)x->runs * (double)op->flops;
            (*rows)[r].bytes += (double)x->runs * (double)op->bytes;
        }
    if (*count) qsort(*rows, (size_t)*count, sizeof **rows, by_seconds);
done:
    return st;
}

void am_exec_profile_reset(am_exec *e)
{
    for (int p = 0; p < e->num_programs; p++)
        for (int k = 0; k < e->bound[p].p->num_segments; k++)
            for (int i = 0; i < e->bound[p].p->segment[k].num_ops; i++) {
                e->bound[p].segment[k].op[i].seconds = 0;
                e->bound[p].segment[k].op[i].runs = 0;
            }
    e->times = (am_exec_times){0};
}
