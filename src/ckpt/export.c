/* export.c: a checkpoint, or a model as it is, → a Hugging Face directory.  Tensors go out under their own
 * names, in the order and form of the source's files; floating ones are rounded once, from the master
 * weights.  A tensor that several parameters have a part in is put together from them.  Memory is two chunks (a matrix
 * more where the disk has it transposed).  The weights get their names last. */
#include "ckpt/ckpt_internal.h"

#include "graph/disk.h"

#include <stdlib.h>
#include <string.h>

/* A parameter that has a part in a tensor of the source (mostly all of it), and the tensor's place among the
 * parameter's. */
typedef struct am_owner {
    const char *tensor;
    const am_param *param;
    int place;
} am_owner;

typedef struct am_owners {
    const am_owner *at;
    size_t n;
} am_owners;

typedef struct am_exporter {
    am_manifest *manifest; /* NULL: from the source itself */
    const am_hf_model *source;
    am_graph *g;
    const am_export_options *o;
    am_hf_writer *w;
    am_owner *owner; /* by name of the tensor */
    size_t num_owners;
    int64_t *index; /* in the writer, by source tensor */
    char *chunk, *part; /* AM_CKPT_CHUNK elements: of a tensor, and of one of its owners */
} am_exporter;

/* ---- which tensor is whose ------------------------------------------------------------------------ */

static int by_tensor(const void *a, const void *b)
{
    return strcmp(((const am_owner *)a)->tensor, ((const am_owner *)b)->tensor);
}

static am_status list_owners(am_exporter *x)
{
    am_status st = AM_OK;
    size_t cap = 0;
    for (int p = 0; p < am_graph_num_params(x->g); p++) {
        const am_param *param = am_graph_param_at(x->g, p);
        int n = param->disk.num_tensors;
        AM_TRY(am_grow(&x->owner, &cap, x->num_owners + (size_t)n + 1, sizeof *x->owner));
        for (int i = 0; i < n; i++) x->owner[x->num_owners++] = (am_owner){param->disk.tensor[i], param, i};
        if (param->disk.copy) x->owner[x->num_owners++] = (am_owner){param->disk.copy, param, 0};
    }
    if (x->num_owners) qsort(x->owner, x->num_owners, sizeof *x->owner, by_tensor);
done:
    return st;
}

static am_owners find_owners(const am_exporter *x, const char *tensor)
{
    am_owner key = {.tensor = tensor};
    const am_owner *found = x->num_owners ? bsearch(&key, x->owner, x->num_owners, sizeof *x->owner, by_tensor) : NULL;
    am_owners o = {found, found != NULL};
    while (o.n && o.at > x->owner && by_tensor(o.at - 1, &key) == 0) o.at--, o.n++;
    while (o.n && o.at + o.n < x->owner + x->num_owners && by_tensor(o.at + o.n, &key) == 0) o.n++;
    return o;
}

/* Every parameter has its tensors in the source and, whole and of this shape, its elements in the checkpoint.
 */
static am_status check_parameter(const am_exporter *x, const am_param *p)
{
    am_status st = AM_OK;
    const am_stored_tensor *t = x->manifest ? am_manifest_find(x->manifest, p->name) : NULL;
    bool same = t && t->rank == p->rank;
    am_disk_map map = {0};
    AM_TRY(am_disk_map_open(p, &map));
    for (int i = 0; i < p->disk.num_tensors; i++) {
        const am_safetensors_tensor *s = am_hf_model_find(x->source, p->disk.tensor[i]);
        AM_CHECK(s, AM_ERR_MODEL, "%s: the source model has no tensor %s", x->source->dir, p->disk.tensor[i]);
        AM_CHECK(s->elements == map.disk_each, AM_ERR_MODEL,
                 "%s: tensor %s is of another shape than in the model that was trained", x->source->dir,
                 s->name);
    }
    if (!x->manifest) goto done;
    for (int d = 0; same && d < p->rank; d++) same = t->dim[d] == p->dim[d];
    AM_CHECK(t, AM_ERR_CHECKPOINT, "%s does not hold the parameter %s of %s", x->manifest->dir, p->name,
             x->source->dir);
    AM_CHECK(same, AM_ERR_CHECKPOINT, "%s: %s has another shape than in %s", x->manifest->dir, p->name,
             x->source->dir);
done:
    am_disk_map_close(&map);
    return st;
}

static am_status check_source(const am_exporter *x)
{
    am_status st = AM_OK;
    int n = am_graph_num_params(x->g);
    AM_CHECK(x->source->num_tensors > 0, AM_ERR_MODEL,
             "%s has no weights: export takes names, shapes and dtypes of tensors from the source model",
             x->source->dir);
    AM_CHECK(!x->o->has_dtype || (am_dtype_is_float(x->o->dtype) && am_dtype_bytes(x->o->dtype) > 1),
             AM_ERR_USAGE, "export to dtype %s is not offered: use float32, bfloat16 or float16",
             am_dtype_name(x->o->dtype));
    for (int i = 0; i < n; i++) AM_TRY(check_parameter(x, am_graph_param_at(x->g, i)));
    AM_CHECK(!x->manifest || x->manifest->num_tensors == (size_t)n, AM_ERR_CHECKPOINT,
             "%s holds %zu parameters, the model in %s has %d", x->manifest->dir, x->manifest->num_tensors,
             x->source->dir, n);
done:
    return st;
}

/* ---- tensors -------------------------------------------------------------------------------------- */

static am_dtype out_dtype(const am_exporter *x, const am_safetensors_tensor *t)
{
    return x->o->has_dtype && am_dtype_is_float(t->dtype) ? x->o->dtype : t->dtype;
}

/* Elements [at, at + n) of a tensor that belong to this owner, from the checkpoint into x->chunk.  *filled grows by
 * their number. */
static am_status gather_plain(am_exporter *x, const am_owner *w, const am_disk_map *m, int64_t at, int64_t n,
                              int64_t *filled)
{
    am_status st = AM_OK;
    size_t size = am_dtype_bytes(x->manifest->dtype);
    int64_t i = am_disk_map_from(m, w->place, at), end = am_disk_map_from(m, w->place, at + n);
    *filled += end - i;
    for (int64_t part; i < end; i += part) {
        part = am_min_i64(AM_CKPT_CHUNK, end - i);
        AM_TRY(am_manifest_read(x->manifest, w->param->name, 0, i, part, x->part, x->manifest->dtype));
        for (int64_t k = 0, run; k < part; k += run) {
            run = am_disk_map_run(m, i + k, part - k);
            memcpy(x->chunk + (size_t)(am_disk_map_element(m, i + k) - at) * size, x->part + (size_t)k * size,
                   (size_t)run * size);
        }
    }
done:
    return st;
}

/* Matrix b of an owner, [rows, cols] in the checkpoint, into the columns it has on disk. */
static am_status gather_transposed(am_exporter *x, const am_owner *w, const am_disk_map *m, int64_t b, char *matrix,
                                   int64_t *filled)
{
    am_status st = AM_OK;
    size_t size = am_dtype_bytes(x->manifest->dtype);
    int64_t all = m->rows * m->cols, begin = w->place * m->each + b * all, origin = b * m->disk_rows * m->disk_cols;
    *filled += all;
    for (int64_t i = 0, part; i < all; i += part) {
        part = am_min_i64(AM_CKPT_CHUNK, all - i);
        AM_TRY(am_manifest_read(x->manifest, w->param->name, 0, begin + i, part, x->part, x->manifest->dtype));
        for (int64_t k = 0; k < part; k++)
            memcpy(matrix + (size_t)(am_disk_map_element(m, begin + i + k) - origin) * size, x->part + (size_t)k * size,
                   size);
    }
done:
    return st;
}

static am_status write_plain(am_exporter *x, const am_safetensors_tensor *t, int64_t index, am_owners w,
                             const am_disk_map *map)
{
    am_status st = AM_OK;
    for (int64_t at = 0, n; at < t->elements; at += n) {
        int64_t filled = 0;
        n = am_min_i64(AM_CKPT_CHUNK, t->elements - at);
        for (size_t i = 0; i < w.n; i++) AM_TRY(gather_plain(x, &w.at[i], &map[i], at, n, &filled));
        AM_CHECK(filled == n, AM_ERR_INTERNAL, "%s: its parts have %" PRId64 " of %" PRId64 " elements", t->name, filled,
                 n);
        AM_TRY(am_hf_writer_write(x->w, index, at, x->chunk, n, x->manifest->dtype));
    }
done:
    return st;
}

static am_status write_transposed(am_exporter *x, const am_safetensors_tensor *t, int64_t index, am_owners w,
                                  const am_disk_map *map)
{
    am_status st = AM_OK;
    int64_t n = map[0].disk_rows * map[0].disk_cols;
    char *matrix = NULL;
    AM_TRY(am_calloc((size_t)n, am_dtype_bytes(x->manifest->dtype), &matrix));
    for (int64_t b = 0; b < t->elements / n; b++) {
        int64_t filled = 0;
        for (size_t i = 0; i < w.n; i++) AM_TRY(gather_transposed(x, &w.at[i], &map[i], b, matrix, &filled));
        AM_CHECK(filled == n, AM_ERR_INTERNAL, "%s: its parts have %" PRId64 " of %" PRId64 " elements", t->name, filled,
                 n);
        AM_TRY(am_hf_writer_write(x->w, index, b * n, matrix, n, x->manifest->dtype));
    }
done:
    am_free(&matrix);
    return st;
}

/* A tensor that was trained, from its owners' parts in the checkpoint. */
static am_status write_trained(am_exporter *x, const am_safetensors_tensor *t, int64_t index, am_owners w)
{
    am_status st = AM_OK;
    am_disk_map *map = NULL;
    AM_TRY(am_calloc(w.n, sizeof *map, &map));
    for (size_t i = 0; i < w.n; i++) {
        AM_TRY(am_disk_map_open(w.at[i].param, &map[i]));
        AM_CHECK(map[i].transpose == map[0].transpose, AM_ERR_MODEL, "%s: one part of it is transposed, another is not",
                 t->name);
    }
    AM_TRY(map[0].transpose ? write_transposed(x, t, index, w, map) : write_plain(x, t, index, w, map));
done:
    for (size_t i = 0; map && i < w.n; i++) am_disk_map_close(&map[i]);
    am_free(&map);
    return st;
}

static am_status copy_source(am_exporter *x, const am_safetensors_tensor *t, int64_t index)
{
    am_status st = AM_OK;
    for (int64_t at = 0; at < t->elements;) {
        int64_t n = am_min_i64(AM_CKPT_CHUNK, t->elements - at);
        AM_TRY(am_hf_model_read(x->source, t, at, n, x->chunk, t->dtype));
        AM_TRY(am_hf_writer_write(x->w, index, at, x->chunk, n, t->dtype));
        at += n;
    }
done:
    return st;
}

static am_status copy_tensors(am_exporter *x)
{
    am_status st = AM_OK;
    for (int64_t i = 0; i < x->source->num_tensors; i++) {
        const am_safetensors_tensor *t = x->source->tensors[i];
        am_owners w = find_owners(x, t->name);
        AM_TRY(x->manifest && w.n ? write_trained(x, t, x->index[i], w) : copy_source(x, t, x->index[i]));
    }
done:
    return st;
}

static am_status declare(am_exporter *x)
{
    am_status st = AM_OK;
    AM_TRY(am_calloc((size_t)x->source->num_tensors, sizeof *x->index, &x->index));
    for (int64_t i = 0; i < x->source->num_tensors; i++) {
        const am_safetensors_tensor *t = x->source->tensors[i];
        AM_TRY(am_hf_writer_declare(x->w, t->name, out_dtype(x, t), t->rank, t->shape, &x->index[i]));
    }
done:
    return st;
}

/* ---- config.json ---------------------------------------------------------------------------------- */

/* The dtype where this object names one already. */
static am_status rename_dtype(json_t *config, const char *name)
{
    am_status st = AM_OK;
    static const char *const keys[] = {"dtype", "torch_dtype"};
    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++) {
        if (!json_is_string(json_object_get(config, keys[i]))) continue;
        AM_CHECK(json_object_set_new(config, keys[i], json_string(name)) == 0, AM_ERR_MEMORY,
                 "no memory for config.json");
    }
done:
    return st;
}

/* It goes verbatim, unless the dtype it names has changed: there, and in the configs within it.  What was packed is
 * written plain: then the key that tells of the packing is left out. */
static am_status copy_config(const am_exporter *x)
{
    am_status st = AM_OK;
    char *to = NULL, *text = NULL;
    size_t len = 0;
    json_t *config = NULL, *inner;
    const char *key, *name = x->o->dtype == AM_F64    ? "float64"
                             : x->o->dtype == AM_F32  ? "float32"
                             : x->o->dtype == AM_BF16 ? "bfloat16"
                                                      : "float16";
    AM_TRY(am_path_join(x->o->out_dir, "config.json", &to));
    bool same = !x->o->has_dtype || (x->source->has_dtype && x->source->dtype == x->o->dtype);
    if (same && x->source->num_packed == 0) {
        AM_TRY(am_file_read(x->source->config_path, 1u << 26, &text, &len));
        AM_TRY(am_file_write_atomic(to, text, len));
        goto done;
    }
    config = json_deep_copy(x->source->config);
    AM_CHECK(config, AM_ERR_MEMORY, "no memory for config.json");
    (void)json_object_del(config, "quantization_config"); /* absent is as good */
    if (!same) AM_TRY(rename_dtype(config, name));
    if (!same) json_object_foreach(config, key, inner) AM_TRY(rename_dtype(inner, name));
    if (!same && !json_object_get(config, "dtype") && !json_object_get(config, "torch_dtype"))
        AM_CHECK(json_object_set_new(config, "dtype", json_string(name)) == 0, AM_ERR_MEMORY,
                 "no memory for config.json");
    AM_TRY(am_json_save(to, config));
done:
    json_decref(config);
    am_free(&to);
    am_free(&text);
    return st;
}

am_status am_ckpt_export(const am_manifest *manifest, const am_hf_model *source, am_graph *g,
                         const am_export_options *o)
{
    am_status st = AM_OK;
    am_exporter x = {.manifest = (am_manifest *)(uintptr_t)manifest, .source = source, .g = g, .o = o};
    AM_TRY(list_owners(&x));
    AM_TRY(check_source(&x));
    if (manifest) AM_TRY(am_manifest_verify(manifest, 0, 1));
    AM_TRY(am_calloc(AM_CKPT_CHUNK, sizeof(double), &x.chunk));
    AM_TRY(am_calloc(AM_CKPT_CHUNK, sizeof(double), &x.part));
    AM_TRY(am_hf_writer_create(o->out_dir, o->max_shard_bytes, &x.w));
    AM_TRY(declare(&x));
    AM_TRY(am_hf_writer_begin(x.w));
    AM_TRY(copy_tensors(&x));
    AM_TRY(copy_config(&x));
    AM_TRY(am_hf_model_copy_aux(source, o->out_dir));
    AM_TRY(am_hf_writer_close(x.w));
done:
    am_hf_writer_free(&x.w);
    am_free(&x.owner);
    am_free(&x.index);
    am_free(&x.chunk);
    am_free(&x.part);
    return st;
}
