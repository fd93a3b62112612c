/* bench_json.c: the same figures as objects; seconds, bytes, FLOPs. */
#include "cli/bench_print.h"

#include <string.h>

static void dump(json_t *o)
{
    json_dumpf(o, stdout, JSON_INDENT(2));
    printf("\n");
    json_decref(o);
}

static json_t *ceilings_object(const am_ceilings *c)
{
    return json_pack("{s:f, s:f}", "flops_per_second", c->flops, "bytes_per_second", c->bytes);
}

void am_bench_json_ceilings(const am_ceilings *c)
{
    dump(ceilings_object(c));
}

static json_t *row_object(const am_step_bench *b, int i)
{
    const am_profile_row *r = &b->rows[i];
    json_t *o =
        json_pack("{s:s, s:s, s:f, s:f, s:f, s:f}", "operator", r->op, "phase", am_bench_phase(r->phase),
                  "calls", (double)r->calls, "seconds", r->seconds, "flops", r->flops, "bytes", r->bytes);
    if (b->ceilings.flops > 0)
        json_object_set_new(o, "floor_seconds", json_real(am_bench_floor(r, &b->ceilings)));
    for (int k = 0; b->counts && k < AM_COUNTER_COUNT; k++)
        if (b->counted[k])
            json_object_set_new(o, am_counter_name((am_counter)k), json_real(b->counts[i].of[k]));
    return o;
}

static json_t *process_object(const am_process_memory *p)
{
    return json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "peak", (json_int_t)p->peak, "now",
                     (json_int_t)p->now, "anonymous", (json_int_t)p->anon, "file", (json_int_t)p->file,
                     "shared", (json_int_t)p->shmem, "page_tables", (json_int_t)p->page_tables, "hugetlb",
                     (json_int_t)p->huge);
}

static json_t *clock_array(const am_start_clock *c)
{
    json_t *list = json_array();
    for (int i = 0; i < c->num_marks; i++)
        json_array_append_new(list, json_pack("{s:s, s:f, s:f, s:o}", "part", c->mark[i].what, "seconds",
                                              c->mark[i].at - (i ? c->mark[i - 1].at : 0), "at",
                                              c->mark[i].at, "memory", process_object(&c->mark[i].memory)));
    return list;
}

static json_t *memory_object(const am_step_bench *b)
{
    const am_memory_report *r = &b->memory;
    json_t *parts = json_array(), *besides = json_object();
    for (int i = 0; i < r->num_parts; i++)
        json_array_append_new(parts, json_pack("{s:s, s:I, s:I}", "part", r->part[i].name, "plan",
                                               (json_int_t)r->part[i].plan, "resident",
                                               (json_int_t)r->part[i].resident));
    for (int k = 0; k < AM_MAPPING_COUNT; k++)
        json_object_set_new(besides, am_mapping_name((am_mapping_kind)k),
                            json_integer((json_int_t)r->besides[k]));
    return json_pack("{s:o, s:I, s:I, s:o, s:o, s:o}", "parts", parts, "plan", (json_int_t)r->plan,
                     "resident", (json_int_t)r->resident, "besides", besides, "process",
                     process_object(&r->process), "after", clock_array(&b->clock));
}

static json_t *step_object(const am_step_bench *b)
{
    json_t *rows = json_array();
    for (int i = 0; i < b->num_rows; i++) json_array_append_new(rows, row_object(b, i));
    return json_pack("{s:f, s:I, s:i, s:i, s:s, s:I, s:I, s:f, s:o, s:f, s:f, s:o}", "step_seconds",
                     b->seconds, "tokens", (json_int_t)b->tokens, "ranks", b->ranks, "threads", b->threads,
                     "compute", am_dtype_name(b->compute), "flops", (json_int_t)b->flops, "plan_bytes",
                     (json_int_t)b->plan_bytes, "peak_gib", b->peak_gib, "ceilings",
                     ceilings_object(&b->ceilings), "outside_seconds", b->between, "wait_seconds", b->waits,
                     "operators", rows);
}

void am_bench_json_step(const am_step_bench *b, bool memory)
{
    json_t *o = step_object(b);
    if (b->counts) json_object_set_new(o, "not_counted", json_string(b->not_counted));
    if (memory) json_object_set_new(o, "memory", memory_object(b));
    dump(o);
}

static json_t *variant_object(const am_pass_bench *b, int i)
{
    const am_bench_variant *v = &b->variant[i];
    json_t *o = json_pack("{s:s?, s:s, s:i}", "option", v->key, "value", v->value, "exit_code", v->exit_code),
           *seconds = json_array();
    if (v->exit_code == 0) {
        am_bench_ratio r = am_bench_against_recipe(b, i);
        for (int k = 0; k < b->rounds; k++) json_array_append_new(seconds, json_real(v->seconds[k]));
        json_object_set_new(
            o, "beside_recipe",
            json_pack("{s:f, s:f, s:f}", "median", r.median, "smallest", r.smallest, "largest", r.largest));
        json_object_set_new(o, "fastest", step_object(&v->best));
    }
    json_object_set_new(o, "round_seconds", seconds);
    return o;
}

void am_bench_json_passes(const am_pass_bench *b)
{
    json_t *list = json_array();
    for (int i = 0; i < b->num_variants; i++) json_array_append_new(list, variant_object(b, i));
    dump(json_pack("{s:i, s:o}", "rounds", b->rounds, "variants", list));
}

void am_bench_json_start(const am_start_clock *c)
{
    const am_start_mark *ready = am_start_find(c, AM_START_READY), *step = am_start_find(c, AM_START_STEP);
    json_t *o = json_pack("{s:o}", "parts", clock_array(c));
    if (ready) json_object_set_new(o, "to_first_step_seconds", json_real(ready->at));
    if (step) json_object_set_new(o, "to_its_end_seconds", json_real(step->at));
    dump(o);
}
