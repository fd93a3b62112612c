/* bench.c: am_bench_step is a run without data, checkpoints and run directory; am_bench_ceilings measures with the very
 * kernel that the step uses, on a shape that suits it. */
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

#define TRY_SECONDS 1.0

/* ---- ceilings -------------------------------------------------------------------------------------------- */

enum { M = 2048, K = 1024, N = 4096 };

static void fill(void *data, am_dtype t, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        float x = (float)((double)am_random_u64(1, 0, (uint64_t)i) / 0x1p64 - 0.5);
        if (t == AM_BF16) ((uint16_t *)data)[i] = am_f32_to_bf16(x);
        else ((float *)data)[i] = x;
    }
}

static am_status product(const am_device *d, am_dtype t, double *best)
{
    am_status st = AM_OK;
    static const int64_t rows[3] = {M, N, M}, columns[3] = {K, K, N};
    void *data[3] = {0}, *workspace = NULL;
    const am_kernel *k = am_device_kernel(d, "linear");
    AM_ASSERT(k);
    am_attrs attrs;
    memset(&attrs, 0, sizeof attrs);
    am_kernel_call call = {.attrs = &attrs, .num_in = 2, .num_out = 1, .threads = am_device_threads(d)};
    for (int i = 0; i < 3; i++) {
        am_tensor *x = i < 2 ? &call.in[i] : &call.out[0];
        AM_TRY(am_calloc((size_t)(rows[i] * columns[i]), am_dtype_bytes(t), &data[i]));
        *x = (am_tensor){.data = data[i], .dtype = t, .rank = 2, .dim = {rows[i], columns[i]}};
        fill(data[i], t, rows[i] * columns[i]);
    }
    call.workspace_bytes = k->workspace ? k->workspace(&call) : 0;
    AM_TRY(am_calloc(call.workspace_bytes + 64, 1, &workspace));
    call.workspace = (char *)workspace + (-(uintptr_t)workspace & 63);
    *best = 0;
    for (double end = am_now() + TRY_SECONDS, begin; (begin = am_now()) < end;) {
        AM_TRY((t == AM_BF16 ? k->bf16 : k->f32)(&call));
        double rate = 2.0 * M * K * N / (am_now() - begin);
        if (rate > *best) *best = rate;
    }
done:
    for (int i = 0; i < 3; i++) am_free(&data[i]);
    am_free(&workspace);
    return st;
}

static am_status stream(int threads, double *best)
{
    am_status st = AM_OK;
    enum { ELEMENTS = 1 << 24 };
    float *x = NULL;
    AM_TRY(am_calloc((size_t)3 * ELEMENTS, sizeof *x, &x));
    *best = 0;
    for (double end = am_now() + TRY_SECONDS, begin; (begin = am_now()) < end;) {
#pragma omp parallel for num_threads(threads) schedule(static)
        for (int64_t i = 0; i < ELEMENTS; i++) x[i] = x[ELEMENTS + i] + x[2 * (int64_t)ELEMENTS + i];
        double rate = 3.0 * ELEMENTS * sizeof *x / (am_now() - begin);
        if (rate > *best) *best = rate;
    }
done:
    am_free(&x);
    return st;
}

am_status am_bench_ceilings(const am_device *d, am_dtype compute, am_ceilings *out)
{
    am_status st = AM_OK;
    AM_TRY(product(d, compute, &out->flops));
    AM_TRY(stream(am_device_threads(d), &out->bytes));
done:
    return st;
}

/* ---- a step ---------------------------------------------------------------------------------------------- */

typedef struct bench {
    am_settings s;
    am_engine  *engine;
    am_model   *model;
    am_program *program[2];
    int         num_programs;
    am_exec    *exec;
    int32_t    *ids, *labels, *pos, *doc, *scratch; /* of a micro-batch */
} bench;

static am_status prepare(bench *b, const am_config *cfg)
{
    am_status st = AM_OK;
    AM_TRY(am_model_open(b->s.model_spec, b->s.from_config ? AM_HF_WEIGHTS_NONE : AM_HF_WEIGHTS_REQUIRED, b->s.card, b->s.ignore,
                         b->s.num_ignore, &b->model));
    AM_TRY(am_settings_read(cfg, b->model, b->engine->size, &b->s));
    AM_TRY(am_train_compile(&b->s, b->model, b->engine->rank, b->engine->threads, false, b->program, &b->num_programs));
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
    for (size_t i = 0; i < sizeof array / sizeof *array; i++) AM_TRY(am_calloc((size_t)n, sizeof(int32_t), array[i]));
    AM_TRY(am_calloc((size_t)(3 * n), sizeof(int32_t), &b->scratch));
    for (int64_t i = 0; i < n; i++) {
        b->ids[i] = (int32_t)(am_random_u64(b->s.seed, (uint64_t)b->engine->rank, (uint64_t)i) % (uint64_t)vocab);
        b->pos[i] = (int32_t)(i % b->s.seq_len);
        b->labels[i] = -100;
        if (b->pos[i] > 0) b->labels[i - 1] = b->ids[i];
    }
done:
    return st;
}

static am_status start(bench *b, const am_config *cfg)
{
    am_status st = AM_OK;
    am_status begun = am_settings_begin(cfg, &b->s);
    if (begun != AM_OK) return am_engine_refuse(begun);
    am_engine_options eo = {.device = b->s.device, .threads = b->s.threads, .timeout_seconds = b->s.timeout_seconds};
    AM_TRY(am_engine_open(&eo, &b->engine));
    AM_TRY(am_engine_together(b->engine, prepare(b, cfg)));
    AM_TRY(am_comm_set_mesh(b->engine->comm, &b->s.mesh));
    AM_TRY(am_engine_agree(b->engine, b->program, b->num_programs));
    AM_TRY(am_engine_together(b->engine, am_engine_fits(b->engine, b->program, b->num_programs, 0)));
    AM_TRY(am_exec_create(b->engine->device, b->engine->comm, b->program, b->num_programs, NULL, &b->exec));
    AM_TRY(b->s.from_config ? am_init_weights(b->exec, b->program[0], b->s.seed, 0.02)
                            : am_ckpt_load_model(b->exec, b->program[0], b->model->hf));
    AM_TRY(make_tokens(b));
done:
    return st;
}

static am_status feed(void *context, am_exec *x, int program, int micro, int frame, int64_t *tokens)
{
    const bench *b = context;
    *tokens = b->s.local_rows * b->s.seq_len;
    int64_t first = (micro * b->engine->size + b->engine->rank) * *tokens;
    return am_feed_rows(x, program, frame, b->s.local_rows, b->s.seq_len, b->ids, b->labels, b->pos, b->doc, first, b->scratch);
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
static am_status measure(bench *b, int steps, am_step_bench *out)
{
    am_status st = AM_OK;
    double ignored, best = INFINITY, *seconds = NULL;
    AM_TRY(am_calloc((size_t)steps, sizeof *seconds, &seconds));
    AM_TRY(one_step(b, 0, &ignored));
    for (int i = 0; i < steps; i++) {
        am_exec_profile_reset(b->exec);
        AM_TRY(one_step(b, 1 + i, &seconds[i]));
        if (seconds[i] >= best) continue;
        best = seconds[i];
        am_free(&out->rows);
        AM_TRY(am_exec_profile(b->exec, 0, &out->rows, &out->num_rows));
        out->waits = am_exec_time(b->exec).wait;
    }
    out->between = best;
    for (int i = 0; i < out->num_rows; i++) out->between -= out->rows[i].seconds;
    qsort(seconds, (size_t)steps, sizeof *seconds, ascending);
    out->steps = steps;
    out->seconds = 0.5 * (seconds[(steps - 1) / 2] + seconds[steps / 2]);
done:
    am_free(&seconds);
    return st;
}

am_status am_bench_step(const am_config *cfg, int steps, am_step_bench *out)
{
    am_status st = AM_OK;
    bench b = {0};
    memset(out, 0, sizeof *out);
    AM_TRY(start(&b, cfg));
    AM_TRY(measure(&b, steps, out));
    AM_TRY(am_bench_ceilings(b.engine->device, b.s.compute, &out->ceilings));
    out->tokens = b.s.local_rows * b.s.seq_len * b.s.micro_batches;
    out->threads = b.engine->threads;
    out->ranks = b.engine->size;
    out->rank = b.engine->rank;
    out->compute = b.s.compute;
    out->flops = b.program[0]->flops;
    out->plan_bytes = am_engine_plan_bytes(b.program, b.num_programs);
    out->peak_gib = am_metrics_peak_gib();
done:
    if (st != AM_OK && am_engine_current() && am_comm_size(am_engine_current()) > 1) return st; /* as in am_train */
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
}
