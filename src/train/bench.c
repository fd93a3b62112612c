/* bench.c: am_bench_step is a run without data, checkpoints and run directory. */
#include "train/bench.h"

#include "ckpt/ckpt.h"
#include "hf/hf.h"
#include "train/engine.h"
#include "train/evaluate.h"
#include "train/init_weights.h"
#include "train/metrics.h"
#include "train/settings.h"
#include "train/train.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- a step ----------------------------------------------------------------------------------------------
 */

typedef struct bench {
    am_settings s;
    am_engine *engine;
    am_model *model;
    am_program *program[2];
    int num_programs;
    am_exec *exec;
    int32_t *ids, *labels, *pos, *doc, *scratch; /* of a micro-batch */
    am_step_bench *out;
    am_counters *counters;
    am_counts before; /* the operator at hand */
} bench;

static am_status prepare(bench *b, const am_config *cfg)
{
    am_status st = AM_OK;
    AM_TRY(am_model_open(b->s.model_spec, b->s.from_config ? AM_HF_WEIGHTS_NONE : AM_HF_WEIGHTS_REQUIRED,
                         b->s.card, b->s.ignore, b->s.num_ignore, &b->model));
    am_start_mark_end(&b->out->clock, "model opened");
    AM_TRY(am_settings_read(cfg, b->model, b->engine->size, &b->s));
    AM_TRY(am_train_compile(&b->s, b->model, b->engine->rank, b->engine->threads, false, b->program,
                            &b->num_programs));
    AM_TRY(am_engine_fits(b->engine, b->program, b->num_programs, 0));
done:
    return st;
}

/* One document a row; every token but a row's last is supervised. */
static am_status make_tokens(bench *b)
{
    am_status st = AM_OK;
    int64_t n = b->s.local_rows * b->s.seq_len, vocab = 0;
    int32_t **array[] = {&b->ids, &b->labels, &b->pos, &b->doc};
    AM_TRY(am_hf_config_i64(b->model->hf, "vocab_size", 0, &vocab));
    for (size_t i = 0; i < sizeof array / sizeof *array; i++)
        AM_TRY(am_calloc((size_t)n, sizeof(int32_t), array[i]));
    AM_TRY(am_calloc((size_t)(3 * n), sizeof(int32_t), &b->scratch));
    for (int64_t i = 0; i < n; i++) {
        b->ids[i] =
            (int32_t)(am_random_u64(b->s.seed, (uint64_t)b->engine->rank, (uint64_t)i) % (uint64_t)vocab);
        b->pos[i] = (int32_t)(i % b->s.seq_len);
        b->labels[i] = -100;
        if (b->pos[i] > 0) b->labels[i - 1] = b->ids[i];
    }
done:
    return st;
}

static am_status start(bench *b, const am_config *cfg, const am_bench_options *o)
{
    am_status st = AM_OK;
    am_status begun = am_settings_begin(cfg, &b->s);
    if (begun != AM_OK) return am_engine_refuse(begun);
    am_engine_options eo = {.device = b->s.device,
                            .threads = b->s.threads,
                            .huge_pages = b->s.huge_pages,
                            .timeout_seconds = b->s.timeout_seconds,
                            .clock = &b->out->clock,
                            .quiet = o->quiet};
    AM_TRY(am_engine_open(&eo, &b->engine));
    AM_TRY(am_engine_together(b->engine, prepare(b, cfg)));
    AM_TRY(am_comm_set_mesh(b->engine->comm, &b->s.mesh));
    AM_TRY(am_engine_agree(b->engine, b->program, b->num_programs));
    AM_TRY(am_engine_together(b->engine, am_engine_fits(b->engine, b->program, b->num_programs, 0)));
    am_start_mark_end(&b->out->clock, "compiled");
    AM_TRY(am_exec_create(b->engine->device, b->engine->comm, b->program, b->num_programs, NULL, &b->exec));
    am_start_mark_end(&b->out->clock, "memory taken");
    AM_TRY(b->s.from_config ? am_init_weights(b->exec, b->program[0], b->s.seed, 0.02)
                            : am_ckpt_load_model(b->exec, b->program[0], b->model->hf));
    am_start_mark_end(&b->out->clock, "weights loaded");
    AM_TRY(make_tokens(b));
done:
    return st;
}

static am_status feed(void *context, am_exec *x, int program, int micro, int frame, int64_t *tokens)
{
    const bench *b = context;
    *tokens = b->s.local_rows * b->s.seq_len;
    int64_t first = (micro * b->engine->size + b->engine->rank) * *tokens;
    return am_feed_rows(x, program, frame, b->s.local_rows, b->s.seq_len, b->ids, b->labels, b->pos, b->doc,
                        first, b->scratch);
}

static am_status one_step(bench *b, int step, double *seconds)
{
    am_status st = AM_OK;
    int64_t targets = b->s.global_rows * (b->s.seq_len - 1);
    AM_TRY(am_comm_barrier(b->engine->comm));
    double begin = am_now();
    AM_TRY(am_exec_set_scalar(b->exec, AM_SCALAR_LR, b->s.adamw.lr));
    AM_TRY(am_exec_set_scalar(b->exec, AM_SCALAR_STEP, step + 1));
    AM_TRY(am_exec_set_scalar(b->exec, AM_SCALAR_INV_N, 1.0 / (double)targets));
    AM_TRY(am_exec_set_scalar(b->exec, AM_SCALAR_MAX_NORM, b->s.max_norm));
    AM_TRY(am_exec_set_scalar(b->exec, AM_SCALAR_SKIP, 0));
    AM_TRY(am_exec_run(b->exec, 0, feed, b));
    *seconds = am_now() - begin;
done:
    return st;
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* The profile is that of the fastest step: on a shared machine a mean tells of the neighbours. */
static am_status measure(bench *b, int steps)
{
    am_status st = AM_OK;
    am_step_bench *out = b->out;
    double ignored, best = INFINITY, *seconds = NULL;
    AM_TRY(am_calloc((size_t)steps, sizeof *seconds, &seconds));
    AM_TRY(one_step(b, 0, &ignored));
    am_start_mark_end(&out->clock, AM_START_STEP);
    for (int i = 0; i < steps; i++) {
        am_exec_profile_reset(b->exec);
        AM_TRY(one_step(b, 1 + i, &seconds[i]));
        if (seconds[i] >= best) continue;
        best = seconds[i];
        am_free(&out->rows);
        AM_TRY(am_exec_profile(b->exec, 0, &out->rows, &out->num_rows));
        out->waits = am_exec_time(b->exec).wait;
    }
    am_start_mark_end(&out->clock, "further steps");
    out->between = best;
    for (int i = 0; i < out->num_rows; i++) out->between -= out->rows[i].seconds;
    qsort(seconds, (size_t)steps, sizeof *seconds, ascending);
    out->steps = steps;
    out->seconds = 0.5 * (seconds[(steps - 1) / 2] + seconds[steps / 2]);
done:
    am_free(&seconds);
    return st;
}

static void around(void *context, const am_prog_op *op, bool after)
{
    bench *b = context;
    am_counts now = am_counters_read(b->counters);
    for (int i = 0; after && i < b->out->num_rows; i++) {
        if (b->out->rows[i].phase != op->phase || strcmp(b->out->rows[i].op, op->def->name) != 0) continue;
        for (int k = 0; k < AM_COUNTER_COUNT; k++) b->out->counts[i].of[k] += now.of[k] - b->before.of[k];
        break;
    }
    if (!after) b->before = now;
}

/* In a step of its own, so that the times are those of an undisturbed one. */
static am_status count(bench *b)
{
    am_status st = AM_OK;
    double ignored;
    am_step_bench *out = b->out;
    AM_TRY(am_calloc((size_t)out->num_rows, sizeof *out->counts, &out->counts));
    AM_TRY(am_counters_open(b->engine->threads, &b->counters));
    for (int k = 0; k < AM_COUNTER_COUNT; k++) out->counted[k] = am_counters_have(b->counters, (am_counter)k);
    snprintf(out->not_counted, sizeof out->not_counted, "%s", am_counters_missing(b->counters));
    am_exec_set_probe(b->exec, around, b);
    AM_TRY(one_step(b, 1 + out->steps, &ignored));
    am_exec_set_probe(b->exec, NULL, NULL);
done:
    am_counters_close(&b->counters);
    return st;
}

static void describe(const bench *b)
{
    am_step_bench *out = b->out;
    out->tokens = b->s.local_rows * b->s.seq_len * b->s.micro_batches;
    out->threads = b->engine->threads;
    out->ranks = b->engine->size;
    out->rank = b->engine->rank;
    out->compute = b->s.compute;
    out->flops = b->program[0]->flops;
    out->plan_bytes = am_engine_plan_bytes(b->program, b->num_programs);
    out->peak_gib = am_metrics_peak_gib();
}

am_status am_bench_step(const am_config *cfg, const am_bench_options *o, am_step_bench *out)
{
    am_status st = AM_OK;
    bench b = {.out = out};
    memset(out, 0, sizeof *out);
    am_start_clock_begin(&out->clock);
    AM_TRY(start(&b, cfg, o));
    AM_TRY(measure(&b, o->steps));
    describe(&b);
    if (o->memory) AM_TRY(am_memory_report_make(b.exec, b.program, b.num_programs, &out->memory));
    if (o->counters) AM_TRY(count(&b));
    if (o->ceilings) AM_TRY(am_bench_ceilings(b.engine->device, b.s.compute, &out->ceilings));
done:
    if (st != AM_OK && am_engine_current() && am_comm_size(am_engine_current()) > 1)
        return st; /* as in am_train */
    am_exec_free(&b.exec);
    for (int i = 0; i < b.num_programs; i++) am_program_free(&b.program[i]);
    int32_t **array[] = {&b.ids, &b.labels, &b.pos, &b.doc, &b.scratch};
    for (size_t i = 0; i < sizeof array / sizeof *array; i++) am_free(array[i]);
    am_model_free(&b.model);
    am_settings_release(&b.s);
    if (st == AM_OK) st = am_engine_close(&b.engine);
    return st;
}

void am_step_bench_release(am_step_bench *b)
{
    am_free(&b->rows);
    am_free(&b->counts);
}
