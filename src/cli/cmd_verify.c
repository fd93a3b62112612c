/* automodel verify: our loss, logits and every gradient beside a reference file's.  Rows of the batch are
 * dealt to the ranks; the gradients that are compared are the reduced ones, put together from all ranks'
 * shards. How to read: am_cmd_verify at the end; above it reference → inputs → run → compare → report. */
#include "cli/cli.h"

#include "ckpt/ckpt.h"
#include "train/engine.h"

#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static const am_cli_option options[] = {
    {"reference", 'r', AM_CLI_STRING, NULL, "FILE",
     "Reference written by tools/make_reference.py (safetensors): inputs, loss, logits, gradients."},
    {"dtype", 0, AM_CLI_STRING, "float32", "DTYPE", "Compute in float32 or bfloat16."},
    {"strategy", 0, AM_CLI_STRING, "fsdp2", "NAME", "fsdp2 or ddp, over the ranks."},
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

typedef struct am_verify {
    am_cli *cli;
    am_engine *engine;
    am_model *model;
    am_safetensors *ref;
    am_program *program;
    am_exec *exec;
    am_dtype dtype;
    int64_t B, T, rows, first_row,
        targets; /* rows of this rank: [first_row, first_row + rows) of B, padded with empty ones */
    int32_t *ids, *labels, *pos, *doc, *index; /* [rows·T] */
    double loss, loss_rel, logits_err, logits_scale, worst;
    char worst_name[256];
    int gradients;
    json_t *missing, *extra;
    double *errors, median; /* of every gradient */
    double tol_loss, tol_grad, tol_median, tol_logits;
    am_safetensors_writer *dump;
    int64_t dump_loss, dump_logits, *dump_grad;
} am_verify;

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
    v->rows = am_ceil_div(v->B, v->engine->size);
    v->first_row = v->rows * v->engine->rank;
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

/* bf16: on its way through a layer the residual meets about 8 rounded activations and 9 rounded parameters,
 * forward and again backward; each rounding is an independent relative error of u/√3 (u = 2^-8), and k = 34
 * (layers + 1) of them add up to u/√3·√k.  That is what a typical tensor may show (the median is held to it);
 * the worst of some hundreds is held to four times it. */
static void set_tolerances(am_verify *v, int layers)
{
    double typical = 0x1p-8 / sqrt(3) * sqrt(34.0 * (layers + 1));
    v->tol_loss = v->dtype == AM_F32 ? 1e-6 : 3 * 0x1p-8 / sqrt(3);
    v->tol_median = v->dtype == AM_F32 ? 1e-4 : typical;
    v->tol_grad = v->dtype == AM_F32 ? 1e-4 : 4 * typical;
    v->tol_logits = v->dtype == AM_F32 ? 1e-4 : 4 * typical; /* of the largest logit */
}

static am_status compile(am_verify *v)
{
    am_status st = AM_OK;
    am_graph *g = NULL;
    am_program_options o = am_program_defaults(AM_PROGRAM_VERIFY);
    const char *strategy = am_cli_string(v->cli, "strategy");
    AM_CHECK(strcmp(strategy, "fsdp2") == 0 || strcmp(strategy, "ddp") == 0, AM_ERR_USAGE,
             "--strategy is fsdp2 or ddp, not %s", strategy);
    o.mesh = am_engine_mesh(v->engine, strcmp(strategy, "fsdp2") == 0);
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
    for (int r = 0; r < v->engine->size; r++) total += all[r];
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
    for (int rank = 0; rank < v->engine->size; rank++) { /* to rank 0, in order */
        int64_t first = rank * v->rows, count = am_min_i64(v->rows, v->B - first);
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

/* A unit's whole gradient at every rank, as f32. */
static am_status gather_unit(am_verify *v, int unit, float **out)
{
    am_status st = AM_OK;
    const am_unit *u = &v->program->store.unit[unit];
    size_t bytes = (size_t)u->shard_elements * sizeof(float);
    float *mine = NULL, *all = NULL;
    *out = NULL;
    AM_TRY(am_calloc((size_t)u->shard_elements, sizeof *mine, &mine));
    AM_TRY(am_calloc((size_t)u->shard_elements * (size_t)v->engine->size, sizeof *all, &all));
    AM_TRY(am_exec_read_gradient(v->exec, 0, unit, 0, u->shard_elements, mine));
    AM_TRY(am_comm_allgather(v->engine->comm, mine, bytes, all));
    *out =
        all; /* fsdp2: shards in rank order are the unit; ddp: every rank has the whole, the first is taken */
    all = NULL;
done:
    am_free(&mine);
    am_free(&all);
    return st;
}

/* Element i of a tensor on disk, from the parameter as the graph holds it. */
static int64_t graph_index(const am_param *p, int place, int64_t each, int64_t i)
{
    if (!p->disk.transpose) return place * each + i;
    int64_t rows = p->dim[p->rank - 2], cols = p->dim[p->rank - 1];
    return place * each + i % rows * cols + i / rows;
}

static am_status compare_tensor(am_verify *v, const am_param *p, int place, const float *grad,
                                int64_t dump_index)
{
    am_status st = AM_OK;
    int64_t each = am_param_elements(p) / p->disk.num_tensors;
    am_str name = {0};
    float *ref = NULL, *ours = NULL;
    double diff = 0, norm = 0;
    AM_TRY(am_str_printf(&name, "grad.%s", p->disk.tensor[place]));
    const am_safetensors_tensor *t = am_safetensors_find(v->ref, name.s);
    AM_TRY(am_calloc((size_t)each, sizeof *ours, &ours));
    for (int64_t i = 0; i < each; i++) ours[i] = grad[graph_index(p, place, each, i)];
    if (v->dump) AM_TRY(am_safetensors_writer_write(v->dump, dump_index, 0, ours, each, AM_F32));
    if (!t || t->elements != each) {
        json_array_append_new(v->extra, json_string(p->disk.tensor[place]));
        goto done;
    }
    AM_TRY(am_calloc((size_t)each, sizeof *ref, &ref));
    AM_TRY(am_safetensors_read(v->ref, t, 0, each, ref, AM_F32));
    for (int64_t i = 0; i < each; i++) {
        diff += ((double)ours[i] - (double)ref[i]) * ((double)ours[i] - (double)ref[i]);
        norm += (double)ref[i] * (double)ref[i];
    }
    double rel = norm > 0 ? sqrt(diff / norm) : sqrt(diff);
    v->errors[v->gradients++] = rel;
    if (!(rel <= v->worst)) {
        v->worst = rel;
        snprintf(v->worst_name, sizeof v->worst_name, "%s", p->disk.tensor[place]);
    }
done:
    am_str_release(&name);
    am_free(&ref);
    am_free(&ours);
    return st;
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static am_status compare_gradients(am_verify *v)
{
    am_status st = AM_OK;
    float *unit_grad = NULL;
    int64_t written = 0;
    v->worst = -1;
    AM_TRY(am_calloc((size_t)v->model->hf->num_tensors + 1, sizeof *v->errors, &v->errors));
    for (int u = 0; u < v->program->store.num_units; u++) {
        const am_unit *unit = &v->program->store.unit[u];
        if (!unit->trainable) continue;
        AM_TRY(gather_unit(v, u, &unit_grad));
        for (int e = 0; e < unit->num_entries && v->engine->rank == 0; e++) {
            const am_param *p = am_graph_param_at(v->program->graph, unit->entry[e].param);
            for (int i = 0; i < p->disk.num_tensors; i++, written++)
                AM_TRY(compare_tensor(v, p, i, unit_grad + unit->entry[e].offset,
                                      v->dump ? v->dump_grad[written] : 0));
        }
        am_free(&unit_grad);
    }
    for (int64_t i = 0; v->engine->rank == 0 && i < am_safetensors_count(v->ref); i++) {
        const char *name = am_safetensors_at(v->ref, i)->name;
        bool known = strncmp(name, "grad.", 5) != 0;
        for (int p = 0; p < am_graph_num_params(v->program->graph) && !known; p++) {
            const am_param *x = am_graph_param_at(v->program->graph, p);
            for (int k = 0; k < x->disk.num_tensors; k++)
                known = known || strcmp(x->disk.tensor[k], name + 5) == 0;
        }
        if (!known) json_array_append_new(v->missing, json_string(name + 5));
    }
    qsort(v->errors, (size_t)v->gradients, sizeof *v->errors, ascending);
    if (v->gradients) v->median = v->errors[v->gradients / 2];
done:
    am_free(&unit_grad);
    return st;
}

/* ---- dump and report
 * ------------------------------------------------------------------------------------------------- */

static am_status open_dump(am_verify *v)
{
    am_status st = AM_OK;
    int64_t shape[3] = {v->B, v->T, v->program->logits.shape.dim[1]}, n = 0;
    am_str name = {0};
    if (!am_cli_given(v->cli, "dump") || v->engine->rank != 0) goto done;
    AM_TRY(am_safetensors_writer_create(am_cli_string(v->cli, "dump"), &v->dump));
    AM_TRY(am_safetensors_writer_declare(v->dump, "loss", AM_F32, 0, NULL, &v->dump_loss));
    AM_TRY(am_safetensors_writer_declare(v->dump, "logits", AM_F32, 3, shape, &v->dump_logits));
    AM_TRY(am_calloc((size_t)am_safetensors_count(v->ref) + (size_t)v->model->hf->num_tensors,
                     sizeof *v->dump_grad, &v->dump_grad));
    for (int u = 0; u < v->program->store.num_units; u++)
        for (int e = 0; e < v->program->store.unit[u].num_entries && v->program->store.unit[u].trainable;
             e++) {
            const am_param *p =
                am_graph_param_at(v->program->graph, v->program->store.unit[u].entry[e].param);
            for (int i = 0; i < p->disk.num_tensors; i++) {
                const am_safetensors_tensor *t = am_hf_model_find(v->model->hf, p->disk.tensor[i]);
                am_str_release(&name);
                AM_TRY(am_str_printf(&name, "grad.%s", p->disk.tensor[i]));
                AM_TRY(am_safetensors_writer_declare(v->dump, name.s, AM_F32, t->rank, t->shape,
                                                     &v->dump_grad[n++]));
            }
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
    AM_TRY(read_inputs(v));
    AM_TRY(compile(v));
    AM_TRY(run(v));
    AM_TRY(open_dump(v));
    AM_TRY(compare_loss(v));
    AM_TRY(compare_logits(v));
    AM_TRY(compare_gradients(v));
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
                 (v.dtype == AM_F32 || v.dtype == AM_BF16),
             AM_ERR_USAGE, "--dtype is float32 or bfloat16, not %s", am_cli_string(v.cli, "dtype"));
    o.device = am_cli_string(v.cli, "device");
    o.threads = (int)am_cli_int(v.cli, "threads");
    AM_TRY(am_engine_open(&o, &v.engine));
    AM_TRY(verify(&v));
done:
    am_exec_free(&v.exec);
    am_program_free(&v.program);
    am_model_free(&v.model);
    am_safetensors_free(&v.ref);
    am_safetensors_writer_free(&v.dump);
    int32_t *arrays[] = {v.ids, v.labels, v.pos, v.doc, v.index};
    for (size_t i = 0; i < sizeof arrays / sizeof *arrays; i++) am_free(&arrays[i]);
    am_free(&v.dump_grad);
    am_free(&v.errors);
    json_decref(v.missing);
    json_decref(v.extra);
    if (st == AM_OK) st = am_engine_close(&v.engine);
    am_cli_free(&v.cli);
    return st;
}
