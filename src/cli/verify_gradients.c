/* verify_gradients.c: gradients of parameters → gradients of the checkpoint's tensors → their distance from the
 * reference's.  A tensor may be put together from several parameters and a parameter lie in several tensors; a
 * tensor is compared when its last element has come in.  How to read: am_verify_gradients at the end. */
#include "cli/verify.h"

#include "graph/disk.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- the tensors ---------------------------------------------------------------------------------------- */

static int by_name(const void *a, const void *b)
{
    return strcmp(((const am_verify_tensor *)a)->name, ((const am_verify_tensor *)b)->name);
}

static am_verify_tensor *find_tensor(const am_verify *v, const char *name)
{
    am_verify_tensor key = {.name = name};
    return v->num_tensors ? bsearch(&key, v->tensor, v->num_tensors, sizeof *v->tensor, by_name) : NULL;
}

static am_status add_tensors(am_verify *v, const am_param *p, size_t *cap)
{
    am_status st = AM_OK;
    size_t n = (size_t)p->disk.num_tensors;
    AM_TRY(am_grow(&v->tensor, cap, v->num_tensors + n, sizeof *v->tensor));
    for (size_t i = 0; i < n; i++) {
        const char *name = p->disk.tensor[i];
        const am_safetensors_tensor *t = am_hf_model_find(v->model->hf, name);
        AM_CHECK(t, AM_ERR_MODEL, "%s has no tensor %s", v->model->hf->dir, name);
        v->tensor[v->num_tensors++] = (am_verify_tensor){.name = name, .disk = t};
    }
done:
    return st;
}

static am_status read_strides(am_verify *v)
{
    am_status st = AM_OK;
    const char *text = am_safetensors_metadata(v->ref, "gradient_strides"), *name = NULL;
    json_t *stride = NULL;
    if (!text) goto done;
    v->strides = json_loads(text, 0, NULL);
    AM_CHECK(json_is_object(v->strides), AM_ERR_DATA,
             "%s: gradient_strides of the metadata is not a JSON map", am_safetensors_path(v->ref));
    json_object_foreach(v->strides, name, stride)
        AM_CHECK(json_is_integer(stride) && json_integer_value(stride) >= 1, AM_ERR_DATA,
                 "%s: the gradient stride of %s is not a positive integer", am_safetensors_path(v->ref), name);
done:
    return st;
}

am_status am_verify_list_tensors(am_verify *v)
{
    am_status st = AM_OK;
    size_t cap = 0, kept = 0;
    AM_TRY(read_strides(v));
    for (int u = 0; u < v->program->store.num_units; u++) {
        const am_unit *unit = &v->program->store.unit[u];
        for (int e = 0; e < unit->num_entries && unit->trainable; e++)
            AM_TRY(add_tensors(v, am_graph_param_at(v->program->graph, unit->entry[e].param), &cap));
    }
    if (v->num_tensors) qsort(v->tensor, v->num_tensors, sizeof *v->tensor, by_name);
    for (size_t i = 0; i < v->num_tensors; i++) /* several parameters may lie in one tensor */
        if (kept == 0 || strcmp(v->tensor[kept - 1].name, v->tensor[i].name) != 0)
            v->tensor[kept++] = v->tensor[i];
    v->num_tensors = kept;
done:
    return st;
}

void am_verify_release_tensors(am_verify *v)
{
    for (size_t i = 0; i < v->num_tensors; i++) am_free(&v->tensor[i].ours);
    am_free(&v->tensor);
    v->num_tensors = 0;
    json_decref(v->strides);
    v->strides = NULL;
}

/* ---- comparing ------------------------------------------------------------------------------------------ */

static am_status compare_tensor(am_verify *v, am_verify_tensor *t)
{
    am_status st = AM_OK;
    json_t *given = json_object_get(v->strides, t->name);
    int64_t stride = given ? json_integer_value(given) : 1, n = am_ceil_div(t->disk->elements, stride);
    am_str name = {0};
    float *ref = NULL;
    if (v->dump) AM_TRY(am_safetensors_writer_write(v->dump, t->dump, 0, t->ours, t->disk->elements, AM_F32));
    AM_TRY(am_str_printf(&name, "grad.%s", t->name));
    const am_safetensors_tensor *r = am_safetensors_find(v->ref, name.s);
    if (!r) {
        json_array_append_new(v->extra, json_string(t->name));
        goto done;
    }
    AM_CHECK(r->elements == n, AM_ERR_DATA,
             "%s: %s has %" PRId64 " elements; the model's tensor of %" PRId64 ", every %" PRId64
             "th of them, gives %" PRId64 ": write the reference again",
             am_safetensors_path(v->ref), name.s, r->elements, t->disk->elements, stride, n);
    AM_TRY(am_calloc((size_t)n, sizeof *ref, &ref));
    AM_TRY(am_safetensors_read(v->ref, r, 0, n, ref, AM_F32));
    for (int64_t i = 0; i < n; i++) {
        double d = (double)t->ours[i * stride] - (double)ref[i];
        t->difference += d * d;
        t->norm += (double)ref[i] * (double)ref[i];
    }
    t->difference = sqrt(t->difference);
    t->norm = sqrt(t->norm);
    t->compared = true;
done:
    am_str_release(&name);
    am_free(&ref);
    return st;
}

/* A parameter's gradient into the tensors it lies in, element i of it into element at[i]; those that are full are compared. */
static am_status take_parameter(am_verify *v, const am_param *p, const float *grad, const int64_t *at, int64_t count)
{
    am_status st = AM_OK;
    const int64_t each = count / p->disk.num_tensors;
    for (int place = 0; place < p->disk.num_tensors; place++) {
        am_verify_tensor *t = find_tensor(v, p->disk.tensor[place]);
        if (!t->ours) AM_TRY(am_calloc((size_t)t->disk->elements, sizeof *t->ours, &t->ours));
        for (int64_t i = place * each; i < (place + 1) * each; i++) {
            AM_CHECK(at[i] >= 0 && at[i] < t->disk->elements, AM_ERR_MODEL, "%s has %" PRId64 " elements, the card asks for element %" PRId64,
                     t->name, t->disk->elements, at[i]);
            t->ours[at[i]] = grad[i];
        }
        t->filled += each;
        if (t->filled < t->disk->elements) continue;
        AM_TRY(compare_tensor(v, t));
        am_free(&t->ours);
    }
done:
    return st;
}

/* Element of its tensor that each element of the unit is; nothing for padding. */
static am_status list_places(const am_verify *v, const am_unit *u, int64_t *at)
{
    am_status st = AM_OK;
    am_disk_map map = {0};
    for (int e = 0; e < u->num_entries; e++) {
        AM_TRY(am_disk_map_open(am_graph_param_at(v->program->graph, u->entry[e].param), &map));
        for (int64_t i = 0; i < u->entry[e].count; i++) at[u->entry[e].offset + i] = am_disk_map_element(&map, i);
        am_disk_map_close(&map);
    }
done:
    am_disk_map_close(&map);
    return st;
}

/* What a rank of tp has of a unit; on rank 0 that of each of them in turn. */
typedef struct am_unit_part {
    int64_t *entry;     /* [num_entries]: offset, count */
    int64_t  elements, shard;
    float   *grad;      /* [elements] */
    int64_t *at;        /* [elements] */
} am_unit_part;

static void release_part(am_unit_part *x)
{
    am_free(&x->entry);
    am_free(&x->grad);
    am_free(&x->at);
}

static am_status my_part(am_verify *v, int unit, am_unit_part *x)
{
    am_status st = AM_OK;
    const am_unit *u = &v->program->store.unit[unit];
    am_dtype store = v->program->store.dtype;
    void *raw = NULL;
    x->elements = u->elements;
    x->shard = u->shard_elements;
    AM_TRY(am_calloc((size_t)u->num_entries * 2, sizeof *x->entry, &x->entry));
    AM_TRY(am_calloc((size_t)x->elements, sizeof *x->grad, &x->grad));
    AM_TRY(am_calloc((size_t)x->elements, sizeof *x->at, &x->at));
    for (int e = 0; e < u->num_entries; e++) {
        x->entry[2 * e] = u->entry[e].offset;
        x->entry[2 * e + 1] = u->entry[e].count;
    }
    AM_TRY(list_places(v, u, x->at));
    AM_TRY(am_calloc((size_t)x->shard, am_dtype_bytes(store), &raw));
    AM_TRY(am_exec_read_gradient(v->exec, 0, unit, 0, x->shard, raw));
    AM_TRY(am_convert(raw, store, x->grad + u->shard_begin, AM_F32, x->shard));
done:
    am_free(&raw);
    return st;
}

/* Rank 0 receives what `from` has: sizes and places where it is the first of its rank of tp, then its shard. */
static am_status pass_part(am_verify *v, int unit, int from, am_unit_part *mine, am_unit_part *x)
{
    am_status st = AM_OK;
    am_comm *c = v->engine->comm;
    const am_unit *u = &v->program->store.unit[unit];
    int64_t head[3] = {mine->elements, mine->shard, u->shard_begin};
    const size_t entries = (size_t)u->num_entries * 2;
    if (v->engine->rank == from) {
        AM_TRY(am_comm_send(c, head, sizeof head, 0));
        if (from < v->tp) AM_TRY(am_comm_send(c, mine->entry, entries * sizeof *mine->entry, 0));
        if (from < v->tp) AM_TRY(am_comm_send(c, mine->at, (size_t)mine->elements * sizeof *mine->at, 0));
        AM_TRY(am_comm_send(c, mine->grad + u->shard_begin, (size_t)mine->shard * sizeof *mine->grad, 0));
    }
    if (v->engine->rank != 0) goto done;
    AM_TRY(am_comm_recv(c, head, sizeof head, from));
    if (from < v->tp) {
        x->elements = head[0];
        AM_TRY(am_calloc(entries, sizeof *x->entry, &x->entry));
        AM_TRY(am_calloc((size_t)x->elements, sizeof *x->grad, &x->grad));
        AM_TRY(am_calloc((size_t)x->elements, sizeof *x->at, &x->at));
        AM_TRY(am_comm_recv(c, x->entry, entries * sizeof *x->entry, from));
        AM_TRY(am_comm_recv(c, x->at, (size_t)x->elements * sizeof *x->at, from));
    }
    AM_TRY(am_comm_recv(c, x->grad + head[2], (size_t)head[1] * sizeof *x->grad, from));
done:
    return st;
}

/* A unit's gradient from all ranks to rank 0, and there into its tensors.  ddp: every rank has the whole. */
static am_status take_unit(am_verify *v, int unit)
{
    am_status st = AM_OK;
    const am_unit *u = &v->program->store.unit[unit];
    const bool sharded = u->shard_elements < u->elements;
    am_unit_part mine = {0}, other = {0}, *x;
    AM_TRY(my_part(v, unit, &mine));
    for (int t = 0; t < (u->cut ? v->tp : 1); t++) {
        x = t == 0 ? &mine : &other;
        for (int from = t; from < (sharded ? v->engine->size : v->tp); from += v->tp)
            if (from) AM_TRY(pass_part(v, unit, from, &mine, x));
        for (int e = 0; e < u->num_entries && v->engine->rank == 0; e++)
            AM_TRY(take_parameter(v, am_graph_param_at(v->program->graph, u->entry[e].param), x->grad + x->entry[2 * e],
                                  x->at + x->entry[2 * e], x->entry[2 * e + 1]));
        release_part(&other);
    }
done:
    release_part(&mine);
    release_part(&other);
    return st;
}

/* ---- what it comes to ----------------------------------------------------------------------------------- */

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static am_status judge(am_verify *v)
{
    am_status st = AM_OK;
    double largest = 0, *errors = NULL;
    AM_TRY(am_calloc(v->num_tensors + 1, sizeof *errors, &errors));
    for (size_t i = 0; i < v->num_tensors; i++) largest = fmax(largest, v->tensor[i].norm);
    for (size_t i = 0; i < v->num_tensors; i++) {
        const am_verify_tensor *t = &v->tensor[i];
        if (!t->compared) continue;
        double scale = t->norm > 0x1p-23 * largest ? t->norm : 1e-2 * largest;
        double error = scale > 0 ? t->difference / scale : t->difference;
        errors[v->gradients++] = error;
        if (!(error <= v->worst)) { /* NaN wins */
            v->worst = error;
            v->worst_name = t->name;
        }
    }
    qsort(errors, (size_t)v->gradients, sizeof *errors, ascending);
    if (v->gradients) v->median = errors[v->gradients / 2];
done:
    am_free(&errors);
    return st;
}

/* Gradients of the file that we do not have, or not whole. */
static bool known(const am_verify *v, const char *name)
{
    const am_verify_tensor *t = find_tensor(v, name);
    if (t) return t->filled == t->disk->elements;
    for (int i = 0; i < am_graph_num_params(v->program->graph); i++) { /* a tied head stored twice, what is not trained */
        const am_param *p = am_graph_param_at(v->program->graph, i);
        for (int k = 0; k < p->disk.num_tensors; k++)
            if (strcmp(p->disk.tensor[k], name) == 0) return true;
    }
    return false;
}

/* Is the gradient of this tensor, which the card leaves alone, 0 in the reference? */
static am_status is_zero(const am_verify *v, const am_safetensors_tensor *t, bool *zero)
{
    am_status st = AM_OK;
    float part[1024];
    *zero = true;
    for (int64_t at = 0; at < t->elements && *zero; at += 1024) {
        int64_t n = am_min_i64(1024, t->elements - at);
        AM_TRY(am_safetensors_read(v->ref, t, at, n, part, AM_F32));
        for (int64_t i = 0; i < n; i++) *zero = *zero && part[i] == 0;
    }
done:
    return st;
}

static am_status list_missing(am_verify *v)
{
    am_status st = AM_OK;
    for (int64_t i = 0; i < am_safetensors_count(v->ref); i++) {
        const am_safetensors_tensor *t = am_safetensors_at(v->ref, i);
        bool zero = false;
        if (strncmp(t->name, "grad.", 5) != 0 || known(v, t->name + 5)) continue;
        AM_TRY(is_zero(v, t, &zero));
        if (!zero) json_array_append_new(v->missing, json_string(t->name + 5));
    }
done:
    return st;
}

am_status am_verify_gradients(am_verify *v)
{
    am_status st = AM_OK;
    v->worst = -1;
    v->worst_name = "";
    for (int u = 0; u < v->program->store.num_units; u++)
        if (v->program->store.unit[u].trainable) AM_TRY(take_unit(v, u));
    if (v->engine->rank != 0) goto done;
    AM_TRY(judge(v));
    AM_TRY(list_missing(v));
done:
    return st;
}
