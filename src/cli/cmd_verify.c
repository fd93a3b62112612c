/* automodel verify: our loss, logits and every gradient beside a reference file's.  Rows of the batch are
 * dealt to the ranks; the gradients that are compared are the reduced ones, put together from all ranks'
 * shards. How to read: am_cmd_verify at the end; above it reference → inputs → run → compare (gradients: verify_gradients.c) → report. */
#include "cli/verify.h"

#include <math.h>
#include <string.h>

static const am_cli_option options[] = {
    {"reference", 'r', AM_CLI_STRING, NULL, "FILE",
     "Reference written by tools/make_reference.py (safetensors): inputs, loss, logits, gradients."},
    {"dtype", 0, AM_CLI_STRING, "float32", "DTYPE", "Compute in float32, bfloat16 or float64."},
    {"strategy", 0, AM_CLI_STRING, "fsdp2", "NAME", "fsdp2 or ddp, over the ranks."},
    {"tp-size", 0, AM_CLI_INT, "1", "N", "Tensor-parallel ranks: neighbours among the ranks compute parts of each layer."},
    {"recompute", 0, AM_CLI_FLAG, NULL, NULL, "Run each layer's forward again before its backward."},
    {"device", 0, AM_CLI_STRING, "cpu", "NAME", "cpu or guarded."},
    {"threads", 0, AM_CLI_INT, NULL, "N", "Threads a rank; none: its cores."},
    {"card", 0, AM_CLI_STRING, NULL, "NAME", "Model card; none: chosen by model_type."},
    {"dump", 0, AM_CLI_STRING, NULL, "FILE", "Write what was computed under the reference's names."},
    {"json", 0, AM_CLI_FLAG, NULL, NULL, "Print the result as JSON."},
    {0},
};
const am_cli_command am_verify_command = {"automodel verify",
                                          "MODEL --reference FILE [--json] [--dump FILE]",
                                          "Compares loss, logits and every gradient with a reference file; "
                                          "exit 0 only when all are within tolerance.",
                                          options,
                                          1,
                                          1,
                                          false};

/* ---- reference → inputs
 * --------------------------------------------------------------------------------------- */

static am_status read_i64(am_verify *v, const char *name, bool required, int64_t **out)
{
    am_status st = AM_OK;
    const am_safetensors_tensor *t = am_safetensors_find(v->ref, name);
    *out = NULL;
    AM_CHECK(t || !required, AM_ERR_DATA, "%s has no tensor %s: write it with tools/make_reference.py",
             am_safetensors_path(v->ref), name);
    if (!t) goto done;
    AM_CHECK(t->dtype == AM_I64 && t->rank == 2, AM_ERR_DATA, "%s: %s must be I64 [B, T]",
             am_safetensors_path(v->ref), name);
    if (v->B == 0) {
        v->B = t->shape[0];
        v->T = t->shape[1];
    }
    AM_CHECK(t->shape[0] == v->B && t->shape[1] == v->T, AM_ERR_DATA,
             "%s: %s is not [%" PRId64 ", %" PRId64 "]", am_safetensors_path(v->ref), name, v->B, v->T);
    AM_TRY(am_calloc((size_t)t->elements, sizeof **out, out));
    AM_TRY(am_safetensors_read(v->ref, t, 0, t->elements, *out, AM_I64));
done:
    return st;
}

static void fill_row(am_verify *v, int64_t r, const int64_t *ids, const int64_t *labels, const int64_t *pos,
                     const int64_t *doc)
{
    int64_t b = v->first_row + r, start = 0;
    for (int64_t t = 0; t < v->T; t++) {
        int64_t at = r * v->T + t, src = b * v->T + t;
        bool real = b < v->B;
        if (real && doc && t > 0 && doc[src] != doc[src - 1]) start = t;
        v->ids[at] = real ? (int32_t)ids[src] : 0;
        v->labels[at] =
            real && t + 1 < v->T ? (int32_t)labels[src + 1] : -100; /* shifted as transformers does */
        v->pos[at] = (int32_t)(real && pos ? pos[src] : t - start);
        v->doc[at] = (int32_t)(r * v->T + start);
        v->index[at] = (int32_t)at;
    }
}

static am_status read_inputs(am_verify *v)
{
    am_status st = AM_OK;
    int64_t *ids = NULL, *labels = NULL, *pos = NULL, *doc = NULL;
    AM_TRY(read_i64(v, "input_ids", true, &ids));
    AM_TRY(read_i64(v, "labels", true, &labels));
    AM_TRY(read_i64(v, "position_ids", false, &pos));
    AM_TRY(read_i64(v, "document_ids", false, &doc));
    v->rows = am_ceil_div(v->B, v->engine->size / v->tp);
    v->first_row = v->rows * (v->engine->rank / v->tp);
    int32_t **arrays[] = {&v->ids, &v->labels, &v->pos, &v->doc, &v->index};
    for (size_t i = 0; i < sizeof arrays / sizeof *arrays; i++)
        AM_TRY(am_calloc((size_t)(v->rows * v->T), sizeof(int32_t), arrays[i]));
    for (int64_t r = 0; r < v->rows; r++) fill_row(v, r, ids, labels, pos, doc);
    for (int64_t b = 0; b < v->B; b++)
        for (int64_t t = 1; t < v->T; t++) v->targets += labels[b * v->T + t] >= 0;
    AM_CHECK(v->targets > 0, AM_ERR_DATA, "%s supervises no token: every label is -100",
             am_safetensors_path(v->ref));
done:
    am_free(&ids);
    am_free(&labels);
    am_free(&pos);
    am_free(&doc);
    return st;
}

/* ---- run
 * ----------------------------------------------------------------------------------------------------------
 */

static am_status feed(void *context, am_exec *e, int program, int micro, int frame, int64_t *tokens)
{
    const am_verify *v = context;
    am_status st = AM_OK;
    *tokens = v->rows * v->T;
    AM_TRY(am_exec_write_input(e, program, frame, "ids", v->ids, *tokens));
    AM_TRY(am_exec_write_input(e, program, frame, "labels", v->labels, *tokens));
    AM_TRY(am_exec_write_input(e, program, frame, "pos", v->pos, *tokens));
    AM_TRY(am_exec_write_input(e, program, frame, "doc_start", v->doc, *tokens));
    AM_TRY(am_exec_write_input(e, program, frame, "index", v->index, *tokens));
done:
    return st;
}

/* What a run of the reference wholly in float32 was off by (float32_error of the metadata); 0 where it was not made. */
static double reference_error(const am_verify *v, const char *what)
{
    const char *text = am_safetensors_metadata(v->ref, "float32_error");
    json_t *o = text ? json_loads(text, 0, NULL) : NULL;
    double error = json_number_value(json_object_get(o, what));
    json_decref(o);
    return error;
}

/* bf16: on its way through a layer the residual meets about 8 rounded activations and 9 rounded parameters,
 * forward and again backward; each rounding is an independent relative error of u/√3 (u = 2^-8), and k = 34
 * (layers + 1) of them add up to u/√3·√k.  That is what a typical tensor may show (the median is held to it);
 * the worst of some hundreds is held to four times it.
 * float32: sums in another order than the reference's.  float64 beside a float64 reference: a tenth of that, since
 * transformers keeps norms, rotations and softmax in float32 even there, and the file holds float32; in a model that
 * rounding moves further, what a run wholly in float32 was off by, of which those are a part. */
static void set_tolerances(am_verify *v, int layers)
{
    double u = 0x1p-8 / sqrt(3), typical = u * sqrt(34.0 * (layers + 1));
    const char *reference = am_safetensors_metadata(v->ref, "dtype");
    double share = v->dtype == AM_F64 && reference && strcmp(reference, "float64") == 0 ? 0.1 : 1;
    bool low = v->dtype == AM_BF16;
    v->tol_loss = low ? 3 * u : share * 1e-6;
    v->tol_median = low ? typical : share * 1e-4;
    v->tol_grad = low ? 4 * typical : share * 1e-4;
    v->tol_logits = low ? 4 * typical : share * 1e-4; /* of the largest logit */
    if (share == 1) return;
    v->tol_loss = fmax(v->tol_loss, reference_error(v, "loss"));
    v->tol_grad = fmax(v->tol_grad, reference_error(v, "gradient"));
    v->tol_logits = fmax(v->tol_logits, reference_error(v, "logits"));
}

static am_status compile(am_verify *v)
{
    am_status st = AM_OK;
    am_graph *g = NULL;
    am_program_options o = am_program_defaults(AM_PROGRAM_VERIFY);
    const char *strategy = am_cli_string(v->cli, "strategy");
    AM_CHECK(strcmp(strategy, "fsdp2") == 0 || strcmp(strategy, "ddp") == 0, AM_ERR_USAGE,
             "--strategy is fsdp2 or ddp, not %s", strategy);
    o.mesh = am_engine_mesh(v->engine, strcmp(strategy, "fsdp2") == 0, v->tp);
    o.rank = v->engine->rank;
    o.threads = v->engine->threads;
    o.recompute = am_cli_flag(v->cli, "recompute") ? AM_RECOMPUTE_FULL : AM_RECOMPUTE_SELECTIVE; /* as in a recipe */
    AM_TRY(am_comm_set_mesh(v->engine->comm, &o.mesh));
    AM_TRY(am_model_graph(v->model, v->rows, v->T, v->dtype, &g));
    set_tolerances(v, am_graph_num_layers(g));
    AM_TRY(am_program_compile(&g, &o, &v->program));
    AM_TRY(am_engine_agree(v->engine, &v->program, 1));
    AM_TRY(am_engine_fits(v->engine, &v->program, 1, 0));
    AM_TRY(am_exec_create(v->engine->device, v->engine->comm, &v->program, 1, NULL, &v->exec));
    AM_TRY(am_ckpt_load_model(v->exec, v->program, v->model->hf));
done:
    am_graph_free(&g);
    return st;
}

static am_status run(am_verify *v)
{
    am_status st = AM_OK;
    double sum = 0, *all = NULL, total = 0;
    AM_TRY(am_calloc((size_t)v->engine->size, sizeof *all, &all));
    AM_TRY(am_exec_set_scalar(v->exec, AM_SCALAR_INV_N, 1.0 / (double)v->targets));
    AM_TRY(am_exec_set_scalar(v->exec, AM_SCALAR_LOSS_SUM, 0));
    AM_TRY(am_exec_set_scalar(v->exec, AM_SCALAR_LOSS_COUNT, 0));
    AM_TRY(am_exec_run(v->exec, 0, feed, v));
    AM_TRY(am_exec_get_scalar(v->exec, AM_SCALAR_LOSS_SUM, &sum));
    AM_TRY(am_comm_allgather(v->engine->comm, &sum, sizeof sum, all));
    for (int r = 0; r < v->engine->size; r += v->tp) total += all[r];
    v->loss = total / (double)v->targets;
done:
    am_free(&all);
    return st;
}

/* ---- compare
 * ---------------------------------------------------------------------------------------------------------
 */

static am_status compare_loss(am_verify *v)
{
    am_status st = AM_OK;
    float ref = 0;
    const am_safetensors_tensor *t = NULL;
    AM_TRY(am_safetensors_get(v->ref, "loss", &t));
    AM_TRY(am_safetensors_read(v->ref, t, 0, 1, &ref, AM_F32));
    v->loss_rel = fabs(v->loss - (double)ref) / fabs((double)ref);
done:
    return st;
}

static am_status max_over_ranks(am_verify *v, double *x)
{
    am_status st = AM_OK;
    double *all = NULL;
    AM_TRY(am_calloc((size_t)v->engine->size, sizeof *all, &all));
    AM_TRY(am_comm_allgather(v->engine->comm, x, sizeof *x, all));
    for (int r = 0; r < v->engine->size; r++)
        if (!(all[r] <= *x)) *x = all[r]; /* NaN wins */
done:
    am_free(&all);
    return st;
}

/* Row by row: a row of logits is T·V floats. */
static am_status compare_logits(am_verify *v)
{
    am_status st = AM_OK;
    const am_safetensors_tensor *t = am_safetensors_find(v->ref, "logits");
    int64_t V = v->program->logits.shape.dim[1], n = v->T * V;
    float *ours = NULL, *ref = NULL;
    AM_CHECK(t && t->elements == v->B * n, AM_ERR_DATA,
             "%s: logits [%" PRId64 ", %" PRId64 ", %" PRId64 "] are missing", am_safetensors_path(v->ref),
             v->B, v->T, V);
    AM_TRY(am_calloc((size_t)(v->rows * n), sizeof *ours, &ours));
    AM_TRY(am_calloc((size_t)n, sizeof *ref, &ref));
    AM_TRY(am_exec_read_logits(v->exec, 0, 0, ours, v->rows * n));
    for (int64_t r = 0; r < v->rows && v->first_row + r < v->B; r++) {
        AM_TRY(am_safetensors_read(v->ref, t, (v->first_row + r) * n, n, ref, AM_F32));
        for (int64_t i = 0; i < n; i++) {
            double d = fabs((double)ours[r * n + i] - (double)ref[i]);
            if (!(d <= v->logits_err)) v->logits_err = d;
            if (fabs((double)ref[i]) > v->logits_scale) v->logits_scale = fabs((double)ref[i]);
        }
    }
    AM_TRY(max_over_ranks(v, &v->logits_err));
    AM_TRY(max_over_ranks(v, &v->logits_scale));
    if (!am_cli_given(v->cli, "dump")) goto done;
    for (int rank = 0; rank < v->engine->size; rank += v->tp) { /* to rank 0, in order */
        int64_t first = rank / v->tp * v->rows, count = am_min_i64(v->rows, v->B - first);
        if (count <= 0) continue;
        if (v->engine->rank == rank && rank != 0)
            AM_TRY(am_comm_send(v->engine->comm, ours, (size_t)(count * n) * sizeof *ours, 0));
        if (v->engine->rank != 0) continue;
        if (rank != 0) AM_TRY(am_comm_recv(v->engine->comm, ours, (size_t)(count * n) * sizeof *ours, rank));
        AM_TRY(am_safetensors_writer_write(v->dump, v->dump_logits, first * n, ours, count * n, AM_F32));
    }
done:
    am_free(&ours);
    am_free(&ref);
    return st;
}

/* ---- dump and report
 * ------------------------------------------------------------------------------------------------- */

static am_status open_dump(am_verify *v)
{
    am_status st = AM_OK;
    int64_t shape[3] = {v->B, v->T, v->program->logits.shape.dim[1]};
    am_str name = {0};
    if (!am_cli_given(v->cli, "dump") || v->engine->rank != 0) goto done;
    AM_TRY(am_safetensors_writer_create(am_cli_string(v->cli, "dump"), &v->dump));
    AM_TRY(am_safetensors_writer_declare(v->dump, "loss", AM_F32, 0, NULL, &v->dump_loss));
    AM_TRY(am_safetensors_writer_declare(v->dump, "logits", AM_F32, 3, shape, &v->dump_logits));
    for (size_t i = 0; i < v->num_tensors; i++) {
        am_verify_tensor *t = &v->tensor[i];
        am_str_release(&name);
        AM_TRY(am_str_printf(&name, "grad.%s", t->name));
        AM_TRY(am_safetensors_writer_declare(v->dump, name.s, AM_F32, t->disk->rank, t->disk->shape, &t->dump));
    }
    AM_TRY(am_safetensors_writer_begin(v->dump));
    float loss = (float)v->loss;
    AM_TRY(am_safetensors_writer_write(v->dump, v->dump_loss, 0, &loss, 1, AM_F32));
done:
    am_str_release(&name);
    return st;
}

static bool within(const am_verify *v)
{
    return v->loss_rel <= v->tol_loss && v->worst >= 0 && v->worst <= v->tol_grad &&
           v->median <= v->tol_median && v->logits_err <= v->tol_logits * v->logits_scale &&
           json_array_size(v->missing) == 0 && json_array_size(v->extra) == 0;
}

static void report(const am_verify *v, bool ok)
{
    if (am_cli_flag(v->cli, "json")) {
        json_t *o = json_pack(
            "{s:b, s:f, s:f, s:f, s:{s:s, s:f}, s:f, s:i, s:O, s:O, s:{s:f, s:f, s:f, s:f}}", "ok", ok,
            "loss", v->loss, "loss_rel_err", v->loss_rel, "logits_max_abs_err", v->logits_err,
            "worst_gradient", "tensor", v->worst_name, "rel_err", v->worst, "median_gradient_rel_err",
            v->median, "gradients", v->gradients, "missing", v->missing, "extra", v->extra, "tolerances",
            "loss_rel_err", v->tol_loss, "gradient_rel_err", v->tol_grad, "median_gradient_rel_err",
            v->tol_median, "logits_max_abs_err", v->tol_logits * v->logits_scale);
        json_dumpf(o, stdout, JSON_REAL_PRECISION(9));
        printf("\n");
        json_decref(o);
        return;
    }
    printf("%s on %d rank(s), %s\n", ok ? "ok" : "DIFFERENT", v->engine->size, am_dtype_name(v->dtype));
    printf("  loss            %.9g, relative error %.3g (tolerance %.3g)\n", v->loss, v->loss_rel,
           v->tol_loss);
    printf("  logits          largest error %.3g (tolerance %.3g)\n", v->logits_err,
           v->tol_logits * v->logits_scale);
    printf("  gradients       %d tensors, worst relative error %.3g at %s (tolerance %.3g), median %.3g "
           "(tolerance %.3g)\n",
           v->gradients, v->worst, v->worst_name, v->tol_grad, v->median, v->tol_median);
    for (size_t i = 0; i < json_array_size(v->missing); i++)
        printf("  missing here    %s\n", json_string_value(json_array_get(v->missing, i)));
    for (size_t i = 0; i < json_array_size(v->extra); i++)
        printf("  not in the file %s\n", json_string_value(json_array_get(v->extra, i)));
}

static am_status verify(am_verify *v)
{
    am_status st = AM_OK;
    int64_t bad = 0;
    AM_TRY(am_safetensors_open(am_cli_string(v->cli, "reference"), &v->ref));
    AM_TRY(am_model_open(am_cli_positional(v->cli, 0), AM_HF_WEIGHTS_REQUIRED, am_cli_string(v->cli, "card"),
                         NULL, 0, &v->model));
    v->model->options.no_noise = true; /* a reference is made in evaluation mode */
    AM_TRY(read_inputs(v));
    AM_TRY(compile(v));
    AM_TRY(run(v));
    AM_TRY(am_verify_list_tensors(v));
    AM_TRY(open_dump(v));
    AM_TRY(compare_loss(v));
    AM_TRY(compare_logits(v));
    AM_TRY(am_verify_gradients(v));
    if (v->dump) AM_TRY(am_safetensors_writer_close(v->dump));
    if (v->engine->rank == 0) {
        bad = !within(v);
        report(v, !bad);
        fflush(stdout);
    }
    AM_TRY(am_comm_max(v->engine->comm, bad, &bad));
    AM_CHECK(!bad, AM_ERR_NUMERIC, "%s differs from the reference %s", am_cli_positional(v->cli, 0),
             am_cli_string(v->cli, "reference"));
done:
    return st;
}

am_status am_cmd_verify(int argc, char **argv)
{
    am_status st = AM_OK;
    am_verify v = {.missing = json_array(), .extra = json_array()};
    am_engine_options o = {.quiet = true};
    AM_TRY(am_cli_parse(&am_verify_command, argc, (const char *const *)argv, &v.cli));
    if (am_cli_help_wanted(v.cli)) {
        am_cli_print_help(&am_verify_command, stdout);
        goto done;
    }
    AM_CHECK(am_cli_given(v.cli, "reference"), AM_ERR_USAGE,
             "verify needs --reference FILE; tools/make_reference.py writes one");
    AM_CHECK(am_dtype_parse(am_cli_string(v.cli, "dtype"), &v.dtype) &&
                 (v.dtype == AM_F32 || v.dtype == AM_BF16 || v.dtype == AM_F64),
             AM_ERR_USAGE, "--dtype is float32, bfloat16 or float64, not %s", am_cli_string(v.cli, "dtype"));
    o.device = am_cli_string(v.cli, "device");
    o.threads = (int)am_cli_int(v.cli, "threads");
    AM_TRY(am_engine_open(&o, &v.engine));
    v.tp = (int)am_cli_int(v.cli, "tp-size");
    AM_CHECK(v.tp >= 1 && v.engine->size % v.tp == 0, AM_ERR_USAGE, "--tp-size %d does not divide the %d ranks", v.tp, v.engine->size);
    AM_TRY(verify(&v));
done:
    am_exec_free(&v.exec);
    am_verify_release_tensors(&v);
    am_program_free(&v.program);
    am_model_free(&v.model);
    am_safetensors_free(&v.ref);
    am_safetensors_writer_free(&v.dump);
    int32_t *arrays[] = {v.ids, v.labels, v.pos, v.doc, v.index};
    for (size_t i = 0; i < sizeof arrays / sizeof *arrays; i++) am_free(&arrays[i]);
    json_decref(v.missing);
    json_decref(v.extra);
    if (st == AM_OK) st = am_engine_close(&v.engine);
    am_cli_free(&v.cli);
    return st;
}
