/* bench_memory.c: goes through the regions of an executor, asks the kernel which of their pages are resident,
 * and subtracts them from what smaps tells of the process. */
#include "train/bench_memory.h"

#include "train/engine.h"

#include <stdlib.h>
#include <string.h>

static am_memory_part *add_part(am_memory_report *r, const char *name)
{
    r->part[r->num_parts] = (am_memory_part){.name = name};
    return &r->part[r->num_parts++];
}

static void add_range(am_memory_part *p, am_region region, int64_t offset, int64_t bytes)
{
    int64_t resident = am_resident_bytes(region.device + offset, (size_t)bytes);
    p->plan += bytes;
    p->resident += resident > 0 ? resident : 0;
}

/* What `of` its region no part has yet. */
static void add_rest(am_memory_report *r, const char *name, am_region region, int64_t bytes,
                     const am_memory_part *first)
{
    int64_t plan = bytes, resident = am_resident_bytes(region.device, (size_t)bytes);
    for (const am_memory_part *p = first; p < r->part + r->num_parts; p++) {
        plan -= p->plan;
        resident -= p->resident;
    }
    if (plan > 0)
        *add_part(r, name) =
            (am_memory_part){.name = name, .plan = plan, .resident = resident > 0 ? resident : 0};
}

static void add_store(am_memory_report *r, const am_program *p, am_region region)
{
    static const char *const names[3] = {"store: master weights", "store: AdamW's m", "store: AdamW's v"};
    int first = r->num_parts;
    for (int slot = 0; slot < 3; slot++) {
        am_memory_part *part = add_part(r, names[slot]);
        for (int u = 0; u < p->store.num_units; u++) {
            const am_unit *unit = &p->store.unit[u];
            int64_t at = slot == 0 ? unit->store_master : slot == 1 ? unit->store_m : unit->store_v;
            if (at >= 0)
                add_range(part, region, at, unit->shard_elements * (int64_t)am_dtype_bytes(p->store.dtype));
        }
    }
    add_rest(r, "store: alignment", region, p->store.bytes, &r->part[first]);
}

typedef struct span {
    int64_t begin, end;
} span;

static int by_begin(const void *a, const void *b)
{
    const span *x = a, *y = b;
    return (x->begin > y->begin) - (x->begin < y->begin);
}

/* Every byte once: operators write views that may overlap. */
static void add_spans(am_memory_report *r, const char *name, am_region region, span *spans, int n)
{
    am_memory_part *part = add_part(r, name);
    int64_t done = 0;
    if (n) qsort(spans, (size_t)n, sizeof *spans, by_begin);
    for (int i = 0; i < n; i++) {
        int64_t begin = am_max_i64(spans[i].begin, done);
        if (spans[i].end > begin) add_range(part, region, begin, spans[i].end - begin);
        done = am_max_i64(done, spans[i].end);
    }
}

static bool in_step(const am_prog_tensor *t, span *out)
{
    int64_t bytes = t->region == AM_REGION_STEP
                        ? am_tensor_elements(&t->shape) * (int64_t)am_dtype_bytes(t->shape.dtype)
                        : 0;
    *out = (span){t->offset, t->offset + bytes};
    return bytes > 0;
}

/* In STEP lie gradients: what backward writes and what the optimizer reads. `all`: also what is made before,
 * weights of the step. */
static int collect_spans(const am_program *p, bool all, span *out)
{
    int n = 0;
    span s;
    for (int k = 0; k < p->num_segments; k++)
        for (int i = 0; i < p->segment[k].num_ops; i++) {
            const am_prog_op *op = &p->segment[k].op[i];
            bool backward = op->phase == AM_PHASE_B || op->phase == AM_PHASE_W,
                 after = op->phase == AM_PHASE_POST;
            const am_prog_tensor *t = after ? op->in : op->out;
            if (!all && !backward && !after) continue;
            for (int o = 0; o < (after ? op->num_in : op->num_out); o++) {
                if (!in_step(&t[o], &s)) continue;
                if (out) out[n] = s;
                n++;
            }
        }
    return n;
}

static am_status add_step(am_memory_report *r, const am_program *p, am_region region, int64_t bytes)
{
    am_status st = AM_OK;
    static const char *const names[2] = {"step: gradients", "step: weights for the products"};
    span *spans = NULL;
    am_memory_part *first = &r->part[r->num_parts];
    for (int all = 0; all < 2; all++) {
        AM_TRY(am_calloc((size_t)collect_spans(p, all, NULL) + 1, sizeof *spans, &spans));
        add_spans(r, names[all], region, spans, collect_spans(p, all, spans));
        am_free(&spans);
    }
    first[1].plan -= first[0].plan; /* all without gradients */
    first[1].resident -= first[0].resident;
    add_rest(r, "step: sums, alignment", region, bytes, first);
done:
    am_free(&spans);
    return st;
}

static void add_plain(am_memory_report *r, const char *name, am_region region, int64_t bytes)
{
    if (bytes > 0) add_range(add_part(r, name), region, 0, bytes);
}

static int64_t most(am_program *const *programs, int n, am_region_id id)
{
    int64_t bytes = 0;
    for (int i = 0; i < n; i++)
        bytes = am_max_i64(bytes, programs[i]->region_bytes[id] *
                                      (id == AM_REGION_FRAME ? programs[i]->num_frames : 1));
    return bytes;
}

static am_status add_regions(const am_exec *e, am_program *const *programs, int n, am_memory_report *r)
{
    am_status st = AM_OK;
    am_memory_part *own;
    add_store(r, programs[0], am_exec_region(e, 0, AM_REGION_STORE));
    AM_TRY(add_step(r, programs[0], am_exec_region(e, 0, AM_REGION_STEP), most(programs, n, AM_REGION_STEP)));
    add_plain(r, "frame: saved activations", am_exec_region(e, 0, AM_REGION_FRAME),
              most(programs, n, AM_REGION_FRAME));
    add_plain(r, "arena: within a segment", am_exec_region(e, 0, AM_REGION_ARENA),
              most(programs, n, AM_REGION_ARENA));
    own = add_part(r, "tables and scalars");
    add_range(own, am_exec_region(e, 0, AM_REGION_SCALARS), 0, most(programs, n, AM_REGION_SCALARS));
    for (int i = 0; i < n; i++) {
        add_range(own, am_exec_region(e, i, AM_REGION_CONST), 0, programs[i]->region_bytes[AM_REGION_CONST]);
        add_range(own, am_exec_region(e, i, AM_REGION_STATE), 0, programs[i]->region_bytes[AM_REGION_STATE]);
    }
done:
    return st;
}

am_status am_memory_report_make(const am_exec *e, am_program *const *programs, int n, am_memory_report *out)
{
    am_status st = AM_OK;
    memset(out, 0, sizeof *out);
    out->process = am_process_memory_now();
    AM_TRY(am_process_mappings(out->besides));
    AM_TRY(add_regions(e, programs, n, out));
    for (int i = 0; i < out->num_parts; i++) {
        out->plan += out->part[i].plan;
        out->resident += out->part[i].resident;
    }
    /* the guarded device's regions are a file in memory that is mapped twice */
    bool guarded = strcmp(am_device_name(am_exec_device(e)), "guarded") == 0;
    am_mapping_kind kind = guarded ? AM_MAPPING_SHARED : AM_MAPPING_ANON;
    out->besides[kind] = am_max_i64(out->besides[kind] - out->resident, 0);
done:
    return st;
}
