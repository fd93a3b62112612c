/* card_params: the parameters that tensors of the checkpoint are read as.  Mostly one for one; a fused tensor is several
 * parameters, one for each part of the sum in its layout; experts are one parameter of several tensors, or of one with
 * an axis more. */
#include "graph/card_internal.h"

#include <stdlib.h>
#include <string.h>

/* ---- shapes on disk
 * ------------------------------------------------------------------------------------------------- */

static am_status shape_text(int rank, const am_layout *const *axes, bool names, am_str *out)
{
    am_status st = AM_OK;
    AM_TRY(am_str_printf(out, "["));
    for (int i = 0; i < rank; i++) {
        if (i) AM_TRY(am_str_printf(out, ", "));
        if (names)
            AM_TRY(am_layout_print(axes[i], out));
        else
            AM_TRY(am_str_printf(out, "%" PRId64, axes[i]->size));
    }
    AM_TRY(am_str_printf(out, "]"));
done:
    return st;
}

static am_status nearest_tensor(card_elab *e, const char *name, const char **out)
{
    am_status st = AM_OK;
    card_list names = {0};
    for (size_t i = 0; i < e->num_tensors; i++)
        if (!e->tensor[i].used_by) AM_TRY(card_push(&e->arena, &names, (void *)e->tensor[i].t->name));
    *out = am_did_you_mean(name, (const char *const *)names.at, (size_t)names.num);
done:
    return st;
}

static bool same_shape(const am_safetensors_tensor *t, int rank, const am_layout *const *axes)
{
    int k = 0;
    for (int i = 0; i < t->rank; i++) {
        if (t->shape[i] == 1) continue;
        while (k < rank && axes[k]->size == 1) k++;
        if (k == rank || axes[k++]->size != t->shape[i]) return false;
    }
    while (k < rank && axes[k]->size == 1) k++;
    return k == rank;
}

/* One axis of several dimensions may be as many axes on disk: the elements stand in the same order.  So may equal parts, by a
 * first axis that counts them. */
static bool spread_shape(const am_safetensors_tensor *t, const am_layout *axis)
{
    am_layout_part p;
    const int parts = am_layout_num_parts(axis), first = parts > 1;
    if (first && (t->rank < 1 || t->shape[0] != parts)) return false;
    for (int k = 0; k < parts; k++) {
        if (am_layout_part_at(axis, k, &p) != AM_OK || p.num_dims != t->rank - first) return false;
        for (int i = 0; i < p.num_dims; i++)
            if (p.dim[i].global != t->shape[i + first]) return false;
    }
    return true;
}

/* Experts one below the other in one matrix: [E·R, C] for [E, R, C], the elements in the same order. */
static bool stacked_shape(const am_safetensors_tensor *t, int rank, const am_layout *const *axes)
{
    return rank == 3 && t->rank == 2 && t->shape[0] == axes[0]->size * axes[1]->size && t->shape[1] == axes[2]->size;
}

am_status card_check_on_disk(card_elab *e, const char *name, card_pos pos, int rank, const am_layout *const *axes)
{
    am_status st = AM_OK;
    card_tensor *t = card_find_tensor(e, name);
    am_str want = {0}, file = {0};
    if (!e->num_tensors) goto done;
    AM_TRY(shape_text(rank, axes, false, &want));
    AM_TRY(am_str_printf(&want, " = "));
    AM_TRY(shape_text(rank, axes, true, &want));
    if (!t) {
        const char *near = NULL;
        AM_TRY(nearest_tensor(e, name, &near));
        CARD_FAIL(pos, "the model in %s has no tensor `%s` (expected shape %s)%s%s%s: does this card fit the model?",
                  e->model->dir ? e->model->dir : "?", name, want.s, near ? "; nearest: `" : "", near ? near : "",
                  near ? "`" : "");
    }
    for (int i = 0; i < t->t->rank; i++)
        AM_TRY(am_str_printf(&file, "%s%" PRId64, i ? ", " : "", t->t->shape[i]));
    CARD_CHECK(same_shape(t->t, rank, axes) || (rank == 1 && spread_shape(t->t, axes[0])) || stacked_shape(t->t, rank, axes), pos,
               "tensor `%s` in %s has the shape [%s], the card says %s", name, card_file_of(e, t->t), file.s ? file.s : "", want.s);
    if (!t->used_by) AM_TRY(card_printf(&e->arena, &t->used_by, "%s:%d:%d", pos.file, pos.line, pos.column));
done:
    am_str_release(&want);
    am_str_release(&file);
    return st;
}

/* ---- one parameter
 * -------------------------------------------------------------------------------------------------- */

/* What card_weights was asked for: a tensor, or one a index of n->axis, and the axes each has. */
typedef struct wanted {
    card_elab *e;
    const card_name *n;
    card_pos pos;
    int rank, split;             /* as the caller counts them */
    const am_layout *axes[AM_MAX_RANK]; /* of the parameter: a leading axis over experts included */
    int lead;                    /* 1 where there is one */
    int num_tensors;
    const char **tensor, *copy;
    bool transpose;
} wanted;

/* "a.{E}.w" with the axis' name replaced by `i`, as the file spells it. */
static am_status tensor_name(wanted *w, const char *full, int64_t i, const char **out)
{
    am_status st = AM_OK;
    card_elab *e = w->e;
    const char *open = w->n->many ? strchr(full, '{') : NULL, *close = open ? strchr(open, '}') : NULL;
    if (close) AM_TRY(card_printf(&e->arena, &full, "%.*s%" PRId64 "%s", (int)(open - full), full, i, close + 1));
    AM_TRY(card_disk_name(e, full, w->pos, out));
done:
    return st;
}

static am_status name_tensors(wanted *w, const char *suffix)
{
    am_status st = AM_OK;
    card_elab *e = w->e;
    const char *full = NULL, *name = NULL;
    CARD_CHECK(w->n->text[0], w->pos, "the name of this tensor is empty");
    AM_TRY(card_printf(&e->arena, &full, "%s%s", w->n->text, suffix));
    w->num_tensors = w->n->many ? (int)w->n->axis.global : 1;
    AM_TRY(am_graph_alloc(e->g, (size_t)w->num_tensors * sizeof *w->tensor, &w->tensor));
    for (int i = 0; i < w->num_tensors; i++) {
        AM_TRY(tensor_name(w, full, i, &name));
        if (!w->n->many) card_follow_alias(e, &name, &w->copy);
        AM_TRY(am_graph_strdup(e->g, name, &w->tensor[i]));
    }
    if (w->copy) AM_TRY(am_graph_strdup(e->g, w->copy, &w->copy));
done:
    return st;
}

/* The axes of each tensor on disk: without the axis over names, with the last two swapped under ^T. */
static am_status check_tensors(wanted *w)
{
    am_status st = AM_OK;
    card_elab *e = w->e;
    const am_layout *axes[AM_MAX_RANK], *last;
    am_layout cut;
    int from = w->n->many ? w->lead : 0, rank = w->rank + w->lead - from;
    for (int i = 0; i < rank; i++) axes[i] = w->axes[from + i];
    if (w->n->many && !w->lead) { /* over heads: the outermost dimension of the first axis */
        CARD_CHECK(axes[0]->size % w->n->axis.global == 0, w->pos,
                   "an axis of %" PRId64 " elements cannot be put together from %" PRId64 " tensors", axes[0]->size,
                   w->n->axis.global);
        cut = (am_layout){.kind = AM_LAYOUT_DIM, .dim = am_dim_number(axes[0]->size / w->n->axis.global)};
        cut.size = cut.dim.global;
        axes[0] = &cut;
    }
    if (w->transpose) {
        last = axes[rank - 1];
        axes[rank - 1] = axes[rank - 2];
        axes[rank - 2] = last;
    }
    for (int i = 0; i < w->num_tensors; i++) AM_TRY(card_check_on_disk(e, w->tensor[i], w->pos, rank, axes));
    if (w->copy) AM_TRY(card_check_on_disk(e, w->copy, w->pos, rank, axes));
done:
    return st;
}

static bool same_view(const am_disk_view *a, const am_disk_view *b)
{
    am_layout_part p, q;
    if (a->transpose != b->transpose || !a->whole != !b->whole || a->num_tensors != b->num_tensors) return false;
    if (!a->whole) return true;
    if (am_layout_part_at(a->whole, a->part, &p) != AM_OK || am_layout_part_at(b->whole, b->part, &q) != AM_OK) return false;
    bool same = a->axis == b->axis && a->whole->size == b->whole->size && p.offset == q.offset && p.num_dims == q.num_dims;
    for (int i = 0; same && i < p.num_dims; i++)
        same = p.stride[i] == q.stride[i] && p.dim[i].global == q.dim[i].global;
    return same;
}

static am_status make_part(wanted *w, int part, int parts, card_part *out)
{
    am_status st = AM_OK;
    card_elab *e = w->e;
    am_param p = {.rank = w->rank + w->lead, .layer = e->layer, .trainable = true, .name = w->tensor[0]};
    const char *name = NULL;
    int param = -1, split = w->split + w->lead;
    AM_TRY(am_layout_part_at(w->axes[split], part, &out->dims));
    CARD_CHECK(out->dims.num_dims < AM_MAX_RANK, w->pos, "%d dimensions beside the tokens; %d are the most",
               out->dims.num_dims, AM_MAX_RANK - 1);
    for (int i = 0; i < p.rank; i++) p.layout[i] = w->axes[i];
    p.disk = (am_disk_view){.num_tensors = w->num_tensors, .tensor = w->tensor, .transpose = w->transpose, .copy = w->copy};
    if (parts > 1) {
        p.disk.whole = w->axes[split];
        p.disk.axis = split;
        p.disk.part = part;
        am_dim one = am_dim_number(1);
        AM_TRY(card_layout_of_dims(e, out->dims.num_dims ? out->dims.dim : &one, out->dims.num_dims ? out->dims.num_dims : 1,
                                   &p.layout[split]));
        AM_TRY(card_printf(&e->arena, &name, "%s#%d", p.name, part));
        AM_TRY(am_graph_strdup(e->g, name, &p.name));
    }
    for (int i = 0; i < p.rank; i++) p.dim[i] = p.layout[i]->size;
    st = am_graph_param(e->g, &p, &param, &out->value);
    if (st != AM_OK) CARD_FAIL(w->pos, "%s", am_error_message());
    CARD_CHECK(same_view(&am_graph_param_at(e->g, param)->disk, &p.disk), w->pos,
               "`%s` is used once with this layout and once with another, or once as it is stored and once transposed (^T)",
               am_param_disk_name(&p));
done:
    return st;
}

am_status card_weights(card_elab *e, const card_name *n, const char *suffix, card_pos pos, int rank,
                       const am_layout *const *axes, int split, const card_part **parts, int *num)
{
    am_status st = AM_OK;
    wanted w = {.e = e, .n = n, .pos = pos, .rank = rank, .split = split, .transpose = n->transpose && rank > 1};
    card_part *made = NULL;
    w.lead = n->stacked && (n->axis.role == AM_ROLE_EXPERTS || !n->many);
    CARD_CHECK(rank + w.lead <= AM_MAX_RANK, pos, "a tensor of %d dimensions; %d are the most", rank + w.lead, AM_MAX_RANK);
    if (w.lead) AM_TRY(card_layout_of_dims(e, &n->axis, 1, &w.axes[0]));
    for (int i = 0; i < rank; i++) w.axes[w.lead + i] = axes[i];
    *num = am_layout_num_parts(axes[split]);
    CARD_CHECK(!n->many || w.lead || *num == 1, pos, "a tensor that is split cannot be put together from several as well");
    AM_TRY(name_tensors(&w, suffix));
    AM_TRY(check_tensors(&w));
    AM_TRY(card_alloc(&e->arena, (size_t)*num * sizeof *made, &made));
    for (int k = 0; k < *num; k++) AM_TRY(make_part(&w, k, *num, &made[k]));
    *parts = made;
done:
    return st;
}

am_status card_param(card_elab *e, const card_name *n, const char *suffix, card_pos pos, int rank,
                     const am_layout *const *axes, int *value)
{
    am_status st = AM_OK;
    const card_part *parts = NULL;
    int num = 0;
    for (int i = 0; i < rank; i++)
        CARD_CHECK(am_layout_num_parts(axes[i]) == 1, pos, "this tensor is one value and cannot be split into %d",
                   am_layout_num_parts(axes[i]));
    AM_TRY(card_weights(e, n, suffix, pos, rank, axes, 0, &parts, &num));
    *value = parts[0].value;
done:
    return st;
}

am_status card_layout_of_values(card_elab *e, const card_val *values, int num, const am_layout **out)
{
    am_status st = AM_OK;
    am_layout *sum = NULL;
    const am_layout **part = NULL;
    AM_TRY(am_graph_alloc(e->g, sizeof *sum, &sum));
    AM_TRY(am_graph_alloc(e->g, (size_t)num * sizeof *part, &part));
    *sum = (am_layout){.kind = AM_LAYOUT_SUM, .num_parts = num, .part = part};
    for (int i = 0; i < num; i++) {
        AM_ASSERT(values[i].kind == CARD_V_VALUE);
        am_value v = *am_graph_value_at(e->g, (int)values[i].i);
        AM_TRY(card_layout_of_dims(e, v.dim + 1, v.rank - 1, &part[i]));
        sum->size += part[i]->size;
    }
    *out = num == 1 ? part[0] : sum;
done:
    return st;
}

/* ---- the whole
 * ------------------------------------------------------------------------------------------------------- */

/* A parameter in a tensor: how much of it. */
typedef struct view_use {
    const char *tensor;
    const am_param *param;
    int64_t elements, whole; /* of the tensor */
} view_use;

static int by_tensor(const void *a, const void *b)
{
    return strcmp(((const view_use *)a)->tensor, ((const view_use *)b)->tensor);
}

am_status card_check_views(card_elab *e)
{
    am_status st = AM_OK;
    view_use *use = NULL;
    size_t n = 0, cap = 0;
    for (int i = 0; i < am_graph_num_params(e->g); i++) {
        const am_param *p = am_graph_param_at(e->g, i);
        int64_t each = am_param_elements(p) / p->disk.num_tensors, whole = each;
        if (p->disk.whole) whole = each / p->dim[p->disk.axis] * p->disk.whole->size;
        AM_TRY(am_grow(&use, &cap, n + (size_t)p->disk.num_tensors, sizeof *use));
        for (int k = 0; k < p->disk.num_tensors; k++) use[n++] = (view_use){p->disk.tensor[k], p, each, whole};
    }
    if (n) qsort(use, n, sizeof *use, by_tensor);
    for (size_t i = 0, next; i < n; i = next) {
        int64_t sum = 0;
        for (next = i; next < n && by_tensor(&use[i], &use[next]) == 0; next++) sum += use[next].elements;
        AM_CHECK(sum == use[i].whole, AM_ERR_CARD,
                 "%s: the tensor `%s` of %" PRId64 " elements is used in two ways: %s and others take %" PRId64 " of it",
                 e->card->path, use[i].tensor, use[i].whole, use[i].param->name, sum);
    }
done:
    am_free(&use);
    return st;
}
