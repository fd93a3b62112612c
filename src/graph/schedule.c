/* schedule.c: the step as a table of (segment, micro-batch, frame), and what one step costs: sums over the
 * schedule, hashes. */
#include "graph/pass.h"

#include <string.h>

enum { AM_MESSAGE_BYTES = 1 << 30 }; /* a transfer is cut into messages of at most this, see comm.h */

static int segment_of(const am_program *p, am_phase phase)
{
    for (int k = 0; k < p->num_segments; k++)
        if (p->segment[k].phase == phase) return k;
    return -1;
}

static void add_entry(am_program *p, am_phase phase, int micro, bool feed)
{
    int n = p->options.micro_batches, segment = segment_of(p, phase);
    if (segment < 0) return;
    p->schedule[p->num_entries++] = (am_schedule_entry){.segment = segment,
                                                        .micro_batch = micro,
                                                        .frame = p->options.gpipe ? micro : 0,
                                                        .feed = feed,
                                                        .first = micro == 0,
                                                        .last = micro == n - 1};
}

static am_status make_table(am_program *p)
{
    am_status st = AM_OK;
    int n = p->options.micro_batches;
    AM_TRY(am_calloc((size_t)n * 3 + 2, sizeof *p->schedule, &p->schedule));
    p->num_frames = p->options.gpipe ? n : 1;
    add_entry(p, AM_PHASE_PRE, 0, false);
    if (p->num_entries && (p->options.kind == AM_PROGRAM_EVAL || p->options.kind == AM_PROGRAM_GENERATE))
        p->schedule[0].once = true;
    if (p->options.gpipe) {
        for (int m = 0; m < n; m++) add_entry(p, AM_PHASE_F, m, true);
        for (int m = 0; m < n; m++) add_entry(p, AM_PHASE_B, m, false);
        for (int m = 0; m < n; m++) add_entry(p, AM_PHASE_W, m, false);
    } else {
        for (int m = 0; m < n; m++) {
            add_entry(p, AM_PHASE_F, m, true);
            add_entry(p, AM_PHASE_B, m, false);
            add_entry(p, AM_PHASE_W, m, false);
        }
    }
    add_entry(p, AM_PHASE_POST, n - 1, false);
done:
    return st;
}

static void count_costs(am_program *p)
{
    for (int k = 0; k < p->num_entries; k++) {
        const am_segment *s = &p->segment[p->schedule[k].segment];
        for (int i = 0; i < s->num_ops; i++) {
            const am_prog_op *op = &s->op[i];
            if (!am_op_runs(op, &p->schedule[k])) continue;
            p->flops += op->flops;
            if (!op->group) continue;
            int64_t others = am_mesh_group_size(&p->options.mesh, op->group) - 1;
            p->messages += others * am_ceil_div(op->piece_bytes, AM_MESSAGE_BYTES);
            p->message_bytes += others * op->piece_bytes;
        }
    }
}

static void hash_tensor(am_hash64_state *h, const am_prog_tensor *t)
{
    am_hash64_update(h, &t->region, sizeof t->region);
    if (t->region == AM_REGION_COUNT) return;
    am_hash64_update(h, &t->shape.dtype, sizeof t->shape.dtype);
    am_hash64_update(h, t->shape.dim, sizeof *t->shape.dim * (size_t)t->shape.rank);
}

/* Attributes without coordinates: where a rank's part begins is not part of what the program is. */
static am_attrs without_coordinates(am_attrs a)
{
    a.offset = a.count = a.head_begin = a.kv_begin = 0;
    return a;
}

static void hash_op(am_hash64_state *h, const am_prog_op *op)
{
    am_attrs attrs = without_coordinates(op->attrs);
    am_hash64_update(h, op->def->name, strlen(op->def->name) + 1);
    am_hash64_update(h, &attrs, sizeof attrs);
    am_hash64_update(h, &op->queue, sizeof op->queue);
    am_hash64_update(h, &op->acc, sizeof op->acc);
    am_hash64_update(h, &op->when, sizeof op->when);
    am_hash64_update(h, &op->id, sizeof op->id);
    am_hash64_update(h, &op->group, sizeof op->group);
    for (int i = 0; i < op->num_in; i++) hash_tensor(h, &op->in[i]);
    for (int i = 0; i < op->num_out; i++) hash_tensor(h, &op->out[i]);
}

static am_status make_hashes(am_program *p)
{
    am_status st = AM_OK;
    am_hash64_state *all = NULL, *sig = NULL, *tensor = NULL;
    AM_TRY(am_hash64_create(&all));
    AM_TRY(am_hash64_create(&sig));
    AM_TRY(am_hash64_create(&tensor));
    for (int k = 0; k < p->num_segments; k++)
        for (int i = 0; i < p->segment[k].num_ops; i++) {
            const am_prog_op *op = &p->segment[k].op[i];
            if (strcmp(op->def->name, "adamw") != 0)
                hash_op(all, op); /* how a rank cuts it depends on its coordinates */
            if (!op->group) continue;
            am_hash64_state *s = op->group >> AM_MESH_TP & 1 ? tensor : sig;
            am_hash64_update(s, op->def->name, strlen(op->def->name) + 1);
            am_hash64_update(s, &op->group, sizeof op->group);
            am_hash64_update(s, &op->piece_bytes, sizeof op->piece_bytes);
            am_hash64_update(s, &op->when, sizeof op->when);
        }
    am_hash64_update(all, &p->options.micro_batches, sizeof p->options.micro_batches);
    am_hash64_update(sig, &p->options.micro_batches, sizeof p->options.micro_batches);
    am_hash64_update(tensor, &p->options.micro_batches, sizeof p->options.micro_batches);
    am_hash64_update(all, &p->options.gpipe, sizeof p->options.gpipe);
    p->hash = am_hash64_digest(all);
    p->signature = am_hash64_digest(sig);
    p->tensor_signature = am_hash64_digest(tensor);
done:
    am_hash64_free(&all);
    am_hash64_free(&sig);
    am_hash64_free(&tensor);
    return st;
}

am_status am_pass_schedule(am_program *p)
{
    am_status st = AM_OK;
    AM_TRY(make_table(p));
    count_costs(p);
    AM_TRY(make_hashes(p));
done:
    return st;
}
