/* export.c: a checkpoint, or a model as it is, → a Hugging Face directory.  Tensors go out under their own names, in the form of the
 * source file; memory is one chunk (one tensor where the disk has it transposed). */
#include "ckpt/ckpt_internal.h"

#include <string.h>

typedef struct am_exporter {
    am_manifest             *manifest; /* NULL: from the source itself */
    const am_hf_model       *source;
    am_graph                *g;
    const am_export_options *o;
    am_hf_writer            *w;
    int64_t                 *index; /* by source tensor */
    void                    *chunk;
} am_exporter;

static am_dtype out_dtype(const am_exporter *x, const am_safetensors_tensor *t)
{
    return x->o->has_dtype && am_dtype_is_float(t->dtype) ? x->o->dtype : t->dtype;
}

/* The parameter that covers a tensor of the source, and its place among the parameter's tensors. */
static const am_param *owner(const am_exporter *x, const char *tensor, int *place)
{
    for (int p = 0; p < am_graph_num_params(x->g); p++) {
        const am_param *param = am_graph_param_at(x->g, p);
        for (int i = 0; i < param->disk.num_tensors; i++)
            if (strcmp(param->disk.tensor[i], tensor) == 0) {
                *place = i;
                return param;
            }
    }
    return NULL;
}

static am_status copy_plain(am_exporter *x, const am_safetensors_tensor *t, int64_t index, const am_param *p, int place)
{
    am_status st = AM_OK;
    for (int64_t at = 0; at < t->elements;) {
        int64_t n = am_min_i64(AM_CKPT_CHUNK, t->elements - at);
        am_dtype from = t->dtype;
        if (x->manifest && p) {
            from = x->manifest->dtype;
            AM_TRY(am_manifest_read(x->manifest, p->name, 0, place * t->elements + at, n, x->chunk, from));
        } else {
            AM_TRY(am_hf_model_read(x->source, t, at, n, x->chunk, from));
        }
        AM_TRY(am_hf_writer_write(x->w, index, at, x->chunk, n, from));
        at += n;
    }
done:
    return st;
}

/* [out, in] of the checkpoint → [in, out] on disk. */
static am_status copy_transposed(am_exporter *x, const am_safetensors_tensor *t, int64_t index, const am_param *p, int place)
{
    am_status st = AM_OK;
    size_t size = am_dtype_bytes(x->manifest->dtype);
    int64_t rows = p->dim[p->rank - 2], cols = p->dim[p->rank - 1];
    char *all = NULL, *line = NULL;
    AM_TRY(am_calloc((size_t)t->elements, size, &all));
    AM_TRY(am_calloc((size_t)rows, size, &line));
    AM_TRY(am_manifest_read(x->manifest, p->name, 0, place * t->elements, t->elements, all, x->manifest->dtype));
    for (int64_t c = 0; c < cols; c++) {
        for (int64_t r = 0; r < rows; r++) memcpy(line + (size_t)r * size, all + (size_t)(r * cols + c) * size, size);
        AM_TRY(am_hf_writer_write(x->w, index, c * rows, line, rows, x->manifest->dtype));
    }
done:
    am_free(&all);
    am_free(&line);
    return st;
}

static am_status copy_tensors(am_exporter *x)
{
    am_status st = AM_OK;
    for (int64_t i = 0; i < x->source->num_tensors; i++) {
        const am_safetensors_tensor *t = x->source->tensors[i];
        int place = 0;
        const am_param *p = owner(x, t->name, &place);
        if (x->manifest && p && p->disk.transpose) AM_TRY(copy_transposed(x, t, x->index[i], p, place));
        else AM_TRY(copy_plain(x, t, x->index[i], p, place));
    }
done:
    return st;
}

static am_status declare(am_exporter *x)
{
    am_status st = AM_OK;
    AM_TRY(am_calloc((size_t)x->source->num_tensors + 1, sizeof *x->index, &x->index));
    for (int64_t i = 0; i < x->source->num_tensors; i++) {
        const am_safetensors_tensor *t = x->source->tensors[i];
        AM_TRY(am_hf_writer_declare(x->w, t->name, out_dtype(x, t), t->rank, t->shape, &x->index[i]));
    }
done:
    return st;
}

/* config.json goes verbatim, unless the dtype it names has changed. */
static am_status copy_config(const am_exporter *x)
{
    am_status st = AM_OK;
    char *to = NULL, *text = NULL;
    size_t len = 0;
    json_t *config = NULL;
    static const char *const names[] = {[AM_F32] = "float32", [AM_BF16] = "bfloat16", [AM_F16] = "float16", [AM_F64] = "float64"};
    AM_TRY(am_path_join(x->o->out_dir, "config.json", &to));
    if (!x->o->has_dtype) {
        AM_TRY(am_file_read(x->source->config_path, 1u << 26, &text, &len));
        AM_TRY(am_file_write_atomic(to, text, len));
        goto done;
    }
    config = json_deep_copy(x->source->config);
    AM_CHECK(config && x->o->dtype <= AM_F16, AM_ERR_USAGE, "export to dtype %s is not offered: use float32, bfloat16 or float16", am_dtype_name(x->o->dtype));
    json_object_set_new(config, json_object_get(config, "dtype") ? "dtype" : "torch_dtype", json_string(names[x->o->dtype]));
    AM_TRY(am_json_save(to, config));
done:
    json_decref(config);
    am_free(&to);
    am_free(&text);
    return st;
}

am_status am_ckpt_export(const am_manifest *manifest, const am_hf_model *source, am_graph *g, const am_export_options *o)
{
    am_status st = AM_OK;
    am_exporter x = {.manifest = (am_manifest *)(uintptr_t)manifest, .source = source, .g = g, .o = o};
    AM_CHECK(source->num_tensors > 0, AM_ERR_MODEL, "%s has no weights: export takes names, shapes and dtypes of tensors from the source model", source->dir);
    AM_TRY(am_calloc(AM_CKPT_CHUNK, sizeof(double), &x.chunk));
    AM_TRY(am_hf_writer_create(o->out_dir, o->max_shard_bytes, &x.w));
    AM_TRY(declare(&x));
    AM_TRY(am_hf_writer_begin(x.w));
    AM_TRY(copy_tensors(&x));
    AM_TRY(copy_config(&x));
    AM_TRY(am_hf_model_copy_aux(source, o->out_dir));
    AM_TRY(am_hf_writer_close(x.w));
done:
    am_hf_writer_free(&x.w);
    am_free(&x.index);
    am_free(&x.chunk);
    return st;
}
