/* AdamW, clipping and ten whole steps beside PyTorch, on the golden model `llama`; the expected values were
 * written by tools/make_optimizer_golden.py (torch.optim.AdamW, transformers' model, fp32).
 *
 * updates: the kernel on the reference's own gradients.  An update is some ten fp32 roundings of numbers of
 * order 1: 1e-6.
 *
 * ten steps: ‖Δθ − Δθ_ref‖ / ‖Δθ_ref‖ of every tensor, Δθ = how far it went.  Our gradient differs from torch's
 * by rounding, ε ≤ 1e-6 of a typical element.  AdamW divides an element by its own size, so an element g gets a
 * relative error ε/|g|; among n elements spread like a normal distribution the smallest is about 1/n, and
 * √(Σ (ε/g)² / n) ≈ ε √n = 8e-5 for the largest tensor (n = 6144).  Twice that for a tensor that is not typical:
 * 2e-4.  Losses and gradient norms: 1e-5, ten times the rounding of a mean over 150 tokens. */
#include "ckpt/ckpt.h"
#include "graph/model.h"
#include "graph/program.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#define OK(call)                                                                                             \
    do {                                                                                                     \
        if ((call) != AM_OK) fail_msg("%s: %s", #call, am_error_message());                                  \
    } while (0)

enum { MICRO = 2 }; /* micro-batches a step: accumulation as well */

static const double BOUND_UPDATE = 1e-6, BOUND_DELTA = 2e-4, BOUND_LOSS = 1e-5;

static const char *golden(const char *rest, char out[512])
{
    const char *source = getenv("AM_SOURCE_DIR");
    snprintf(out, 512, "%s/tests/golden/%s", source ? source : ".", rest);
    return out;
}

static am_safetensors *open_golden(const char *rest)
{
    char path[512];
    am_safetensors *f = NULL;
    OK(am_safetensors_open(golden(rest, path), &f));
    return f;
}

/* Tensor `prefix` `name` as `dtype`; *n elements. */
static void *read_tensor(const am_safetensors *f, const char *prefix, const char *name, am_dtype dtype,
                         int64_t *n)
{
    char full[512];
    const am_safetensors_tensor *t = NULL;
    snprintf(full, sizeof full, "%s%s", prefix, name);
    OK(am_safetensors_get(f, full, &t));
    void *out = calloc((size_t)t->elements, am_dtype_bytes(dtype));
    OK(am_safetensors_read(f, t, 0, t->elements, out, dtype));
    if (n) *n = t->elements;
    return out;
}

static double number(const am_safetensors *f, const char *key)
{
    double x = 0;
    const char *text = am_safetensors_metadata(f, key);
    assert_non_null(text);
    assert_true(am_parse_f64(text, &x));
    return x;
}

/* Numbers separated by blanks. */
static double number_at(const am_safetensors *f, const char *key, int i)
{
    const char *text = am_safetensors_metadata(f, key);
    char *end = NULL;
    double x = 0;
    assert_non_null(text);
    for (int k = 0; k <= i; k++, text = end) x = strtod(text, &end);
    return x;
}

/* ---- updates ---------------------------------------------------------------------------------------- */

static void compare_parameter(const am_safetensors *f, const char *prefix, const char *name, const float *w,
                              int64_t n)
{
    int64_t expected_n = 0;
    float *expected = read_tensor(f, prefix, name, AM_F32, &expected_n);
    assert_int_equal(expected_n, n);
    for (int64_t i = 0; i < n; i++)
        if (!(fabs((double)w[i] - expected[i]) <= BOUND_UPDATE))
            fail_msg("%s%s[%ld] is %.9g, not %.9g", prefix, name, (long)i, w[i], expected[i]);
    free(expected);
}

static void update_tensor(const am_safetensors *f, const am_safetensors *model,
                          const am_safetensors *reference, const char *name)
{
    int64_t n = 0;
    float *w = read_tensor(model, "", name, AM_F32, &n),
          *g = read_tensor(reference, "grad.", name, AM_F32, NULL);
    float *m = calloc((size_t)n, 4), *v = calloc((size_t)n, 4), *scaled = calloc((size_t)n, 4);
    double scalars[AM_SCALAR_COUNT] = {[AM_SCALAR_CLIP] = 1};
    am_attrs attrs = {.beta1 = number(f, "beta1"),
                      .beta2 = number(f, "beta2"),
                      .eps = number(f, "eps"),
                      .weight_decay = number(f, "weight_decay"),
                      .lr_mult = 1,
                      .count = n};
    am_tensor s = {scalars, AM_F64, 1, {AM_SCALAR_COUNT}}, tg = {scaled, AM_F32, 1, {n}},
              tw = {w, AM_F32, 1, {n}}, tm = {m, AM_F32, 1, {n}}, tv = {v, AM_F32, 1, {n}};
    am_kernel_call call = {.attrs = &attrs,
                           .num_in = 5,
                           .num_out = 3,
                           .in = {s, tg, tw, tm, tv},
                           .out = {tw, tm, tv},
                           .threads = 1};
    for (int k = 0; k < 3; k++) {
        for (int64_t i = 0; i < n; i++) scaled[i] = g[i] * (float)number_at(f, "gradient_factors", k);
        scalars[AM_SCALAR_LR] = number_at(f, "lrs", k);
        scalars[AM_SCALAR_STEP] = k + 1;
        OK(am_kernels_cpu_find("adamw")->f32(&call));
        if (k == 0) compare_parameter(f, "after1.", name, w, n);
    }
    compare_parameter(f, "after3.", name, w, n);
    float *all[] = {w, g, m, v, scaled};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) free(all[i]);
}

static void test_optimizer__updates_are_torchs(void **state)
{
    am_safetensors *f = open_golden("optimizer/updates.safetensors"),
                   *model = open_golden("llama/model.safetensors"),
                   *reference = open_golden("llama/reference.safetensors");
    int64_t count = am_safetensors_count(model);
    assert_int_equal(2 * count, am_safetensors_count(f));
    for (int64_t i = 0; i < count; i++) update_tensor(f, model, reference, am_safetensors_at(model, i)->name);
    am_safetensors *all[] = {f, model, reference};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) am_safetensors_free(&all[i]);
}

/* ---- ten steps -------------------------------------------------------------------------------------- */

typedef struct training {
    am_safetensors *f;
    int64_t rows, length, num_steps; /* rows: of a step */
    int64_t *ids, *labels;
    double *lr;
    float *loss, *norm;
    am_comm *comm;
    am_device *device;
    am_model *model;
    am_program *program;
    am_exec *exec;
    int64_t step;
} training;

static am_status feed(void *context, am_exec *e, int program, int micro, int frame, int64_t *tokens)
{
    am_status st = AM_OK;
    const training *t = context;
    int64_t rows = t->rows / MICRO, n = rows * t->length,
            first = (t->step * t->rows + micro * rows) * t->length;
    int32_t buffer[5][4096];
    for (int64_t i = 0; i < n; i++) {
        int64_t at = i % t->length;
        buffer[0][i] = (int32_t)t->ids[first + i];
        buffer[1][i] = at + 1 < t->length ? (int32_t)t->labels[first + i + 1] : -100;
        buffer[2][i] = (int32_t)at;
        buffer[3][i] = (int32_t)(i - at);
        buffer[4][i] = (int32_t)i;
    }
    *tokens = n;
    static const char *const names[] = {"ids", "labels", "pos", "doc_start", "index"};
    for (int i = 0; i < 5; i++) AM_TRY(am_exec_write_input(e, program, frame, names[i], buffer[i], n));
done:
    return st;
}

static void start(training *t)
{
    char path[512];
    am_graph *g = NULL;
    const am_safetensors_tensor *shape = NULL;
    am_comm_options co = {.max_requests = 64};
    *t = (training){.f = open_golden("optimizer/ten_steps.safetensors")};
    OK(am_safetensors_get(t->f, "input_ids", &shape));
    t->num_steps = shape->shape[0];
    t->rows = shape->shape[1];
    t->length = shape->shape[2];
    t->ids = read_tensor(t->f, "", "input_ids", AM_I64, NULL);
    t->labels = read_tensor(t->f, "", "labels", AM_I64, NULL);
    t->lr = read_tensor(t->f, "", "lr", AM_F64, NULL);
    t->loss = read_tensor(t->f, "", "loss", AM_F32, NULL);
    t->norm = read_tensor(t->f, "", "grad_norm", AM_F32, NULL);
    am_program_options o = am_program_defaults(AM_PROGRAM_TRAIN);
    o.micro_batches = MICRO;
    o.beta1 = number(t->f, "beta1");
    o.beta2 = number(t->f, "beta2");
    o.eps = number(t->f, "eps");
    o.weight_decay = number(t->f, "weight_decay");
    OK(am_comm_create("self", &co, &t->comm));
    OK(am_comm_set_mesh(t->comm, &o.mesh));
    OK(am_device_create("cpu", 1, &t->device));
    OK(am_model_open(golden("llama", path), AM_HF_WEIGHTS_REQUIRED, NULL, NULL, 0, &t->model));
    OK(am_model_graph(t->model, t->rows / MICRO, t->length, AM_F32, &g));
    OK(am_program_compile(&g, &o, &t->program));
    OK(am_exec_create(t->device, t->comm, &t->program, 1, NULL, &t->exec));
    OK(am_ckpt_load_model(t->exec, t->program, t->model->hf));
}

static void stop(training *t)
{
    am_exec_free(&t->exec);
    am_program_free(&t->program);
    am_model_free(&t->model);
    am_device_free(&t->device);
    OK(am_comm_free(&t->comm));
    am_safetensors_free(&t->f);
    void *all[] = {t->ids, t->labels, t->lr, t->loss, t->norm};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) free(all[i]);
}

static float *read_master(const training *t, int param)
{
    int unit = -1;
    int64_t offset = 0, n = am_param_elements(am_graph_param_at(t->program->graph, param));
    float *w = calloc((size_t)n, sizeof *w);
    am_program_locate(t->program, param, &unit, &offset);
    OK(am_exec_read_slot(t->exec, unit, 0, offset, n, w));
    return w;
}

static void one_step(training *t, int64_t step)
{
    int64_t n = 0, cells = t->rows * t->length;
    double sum = 0, norm = 0;
    for (int64_t i = 0; i < cells; i++) n += i % t->length != 0 && t->labels[step * cells + i] >= 0;
    t->step = step;
    OK(am_exec_set_scalar(t->exec, AM_SCALAR_LR, t->lr[step]));
    OK(am_exec_set_scalar(t->exec, AM_SCALAR_STEP, (double)(step + 1)));
    OK(am_exec_set_scalar(t->exec, AM_SCALAR_INV_N, 1.0 / (double)n));
    OK(am_exec_set_scalar(t->exec, AM_SCALAR_MAX_NORM, number(t->f, "max_norm")));
    OK(am_exec_set_scalar(t->exec, AM_SCALAR_SKIP, 0));
    OK(am_exec_set_scalar(t->exec, AM_SCALAR_LOSS_SUM, 0));
    OK(am_exec_set_scalar(t->exec, AM_SCALAR_LOSS_COUNT, 0));
    OK(am_exec_run(t->exec, 0, feed, t));
    OK(am_exec_get_scalar(t->exec, AM_SCALAR_LOSS_SUM, &sum));
    OK(am_exec_get_scalar(t->exec, AM_SCALAR_GRAD_NORM, &norm));
    double loss = sum / (double)n, wanted = t->loss[step], wanted_norm = t->norm[step];
    if (!(fabs(loss - wanted) <= BOUND_LOSS * wanted))
        fail_msg("step %ld: loss %.9g, not %.9g", (long)step, loss, wanted);
    if (!(fabs(norm - wanted_norm) <= BOUND_LOSS * wanted_norm))
        fail_msg("step %ld: norm %.9g, not %.9g", (long)step, norm, wanted_norm);
}

/* ‖(after − before) − delta‖ / ‖delta‖ */
static double deviation(const training *t, const char *name, const float *before, const float *after)
{
    int64_t n = 0;
    float *delta = read_tensor(t->f, "delta.", name, AM_F32, &n);
    double diff = 0, norm = 0;
    for (int64_t i = 0; i < n; i++) {
        double d = (double)after[i] - before[i] - delta[i];
        diff += d * d;
        norm += (double)delta[i] * delta[i];
    }
    free(delta);
    return sqrt(diff / norm);
}

static void test_optimizer__ten_steps_are_torchs(void **state)
{
    training t;
    start(&t);
    int params = am_graph_num_params(t.program->graph);
    float **before = calloc((size_t)params, sizeof *before);
    double worst = 0;
    assert_int_equal(am_safetensors_count(t.f), params + 5);
    for (int p = 0; p < params; p++) before[p] = read_master(&t, p);
    for (int64_t step = 0; step < t.num_steps; step++) one_step(&t, step);
    for (int p = 0; p < params; p++) {
        const char *name = am_graph_param_at(t.program->graph, p)->name;
        float *after = read_master(&t, p);
        double d = deviation(&t, name, before[p], after);
        if (!(d <= BOUND_DELTA))
            fail_msg("%s went elsewhere: relative deviation %.3g after %ld steps", name, d,
                     (long)t.num_steps);
        worst = d > worst ? d : worst;
        free(after);
        free(before[p]);
    }
    print_message("largest deviation of a tensor's way: %.2g\n", worst);
    free(before);
    stop(&t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_optimizer__updates_are_torchs),
        cmocka_unit_test(test_optimizer__ten_steps_are_torchs),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
