/* print.c: a program as text, for people (inspect, --dry-run) and for comparing two of them. */
#include "graph/pass.h"

#include <string.h>

static const char *const queue_name[] = {"compute", "gather", "reduce", "copy"};
static const char *const phase_name[] = {"F", "B", "W", "PRE", "POST"};

static am_status print_tensor(const am_program *p, const am_prog_tensor *t, am_str *out)
{
    am_status st = AM_OK;
    if (t->value < 0) {
        AM_TRY(am_str_printf(out, "-"));
        goto done;
    }
    AM_TRY(am_str_printf(out, "%s{%s+%" PRId64 " %s", p->graph->values[t->value].name,
                         am_region_name(t->region), t->offset, am_dtype_name(t->shape.dtype)));
    for (int i = 0; i < t->shape.rank; i++)
        AM_TRY(am_str_printf(out, "%c%" PRId64, i ? 'x' : ' ', t->shape.dim[i]));
    AM_TRY(am_str_printf(out, "}"));
done:
    return st;
}

static am_status print_op(const am_program *p, const am_prog_op *op, int index, am_str *out)
{
    static const char *const acc[] = {"", " +=", " += unless first"}, *const when[] = {"", " first", " last"};
    am_status st = AM_OK;
    AM_TRY(am_str_printf(out, "  %4d %-7s %s layer %d%s%s:", index, queue_name[op->queue], op->def->name,
                         op->layer, acc[op->acc], when[op->when]));
    for (int i = 0; i < op->num_in; i++) {
        AM_TRY(am_str_printf(out, " "));
        AM_TRY(print_tensor(p, &op->in[i], out));
    }
    AM_TRY(am_str_printf(out, " ->"));
    for (int i = 0; i < op->num_out; i++) {
        AM_TRY(am_str_printf(out, " "));
        AM_TRY(print_tensor(p, &op->out[i], out));
    }
    for (int w = 0; w < op->num_waits; w++)
        AM_TRY(am_str_printf(out, "%s%d", w ? "," : "  waits ", op->wait[w]));
    if (op->workspace_bytes)
        AM_TRY(am_str_printf(out, "  workspace %zu at %" PRId64, op->workspace_bytes, op->workspace_offset));
    AM_TRY(am_str_printf(out, "\n"));
done:
    return st;
}

am_status am_program_print(const am_program *p, am_str *out)
{
    am_status st = AM_OK;
    for (int k = 0; k < p->num_segments; k++) {
        const am_segment *s = &p->segment[k];
        AM_TRY(am_str_printf(out, "segment %s: %d operators, arena %" PRId64 " bytes\n", phase_name[s->phase],
                             s->num_ops, s->arena_bytes));
        for (int i = 0; i < s->num_ops; i++) AM_TRY(print_op(p, &s->op[i], i, out));
    }
    AM_TRY(am_str_printf(out, "schedule:"));
    for (int k = 0; k < p->num_entries; k++)
        AM_TRY(am_str_printf(out, " %s%d@%d", phase_name[p->segment[p->schedule[k].segment].phase],
                             p->schedule[k].micro_batch, p->schedule[k].frame));
    AM_TRY(am_str_printf(out, "\n"));
    AM_TRY(am_program_summary(p, out));
done:
    return st;
}

am_status am_program_summary(const am_program *p, am_str *out)
{
    am_status st = AM_OK;
    int64_t total = 0, operators = 0;
    for (int r = 0; r < AM_REGION_COUNT; r++) {
        int64_t bytes = p->region_bytes[r] * (r == AM_REGION_FRAME ? p->num_frames : 1);
        AM_TRY(am_str_printf(out, "%-8s %15" PRId64 " bytes\n", am_region_name(r), bytes));
        total += bytes;
    }
    for (int k = 0; k < p->num_segments; k++) operators += p->segment[k].num_ops;
    AM_TRY(am_str_printf(out, "%-8s %15" PRId64 " bytes (arena without reuse would take %" PRId64 ")\n",
                         "total", total, p->arena_sum));
    AM_TRY(am_str_printf(out,
                         "step     %15" PRId64 " FLOPs, %" PRId64 " messages, %" PRId64
                         " bytes sent, %" PRId64 " operators in %d segments\n",
                         p->flops, p->messages, p->message_bytes, operators, p->num_segments));
    AM_TRY(am_str_printf(out, "hash %016" PRIx64 " signature %016" PRIx64 "\n", p->hash, p->signature));
done:
    return st;
}
