/* card_norm: rmsnorm and layernorm: over the last dimension, over the last few (`W : N p`), in groups. */
#include "graph/graph_internal.h"
#include "graph/card_internal.h"

#include <string.h>

/* x with its last `n` dims as one, cut where the outermost of them is. */
static am_status join_last(card_elab *e, int value, int n, int *out)
{
    am_status st = AM_OK;
    const am_value *v = am_graph_value_at(e->g, value);
    int rank = v->rank - n + 1;
    am_dim dims[AM_MAX_RANK];
    am_str name = {0};
    for (int i = 0; i < rank; i++) dims[i] = v->dim[i];
    for (int i = rank - 1; i < v->rank; i++)
        AM_TRY(am_str_printf(&name, "%s%s", i >= rank ? " " : "", v->dim[i].name));
    for (int i = rank; i < v->rank; i++) {
        dims[rank - 1].global *= v->dim[i].global;
        dims[rank - 1].local *= v->dim[i].local;
        dims[rank - 1].granule *= v->dim[i].global;
    }
    snprintf(dims[rank - 1].name, sizeof dims->name, "%s", name.s);
    AM_TRY(am_graph_reshape(e->g, value, rank, dims, out));
done:
    am_str_release(&name);
    return st;
}

/* The weight's layout: as given after `:`, else the last dim of x.  *n: how many dims of x it spans. */
static am_status norm_layout(card_elab *e, const card_ast *x, int value, const am_layout **axis, int *n)
{
    am_status st = AM_OK;
    const card_arg *arg = card_positional(x, 1);
    am_value v = *am_graph_value_at(e->g, value);
    am_str dims = {0};
    am_layout_part p;
    *n = 1;
    if (!arg->layout) {
        AM_TRY(card_layout_of_dims(e, &v.dim[v.rank - 1], 1, axis));
        goto done;
    }
    AM_TRY(card_layout_resolve(e, arg->layout, axis));
    AM_TRY(card_single_part(x, arg->pos, *axis, &p));
    AM_TRY(card_dims_text(e, value, &dims));
    bool fits = p.num_dims >= 1 && p.num_dims < v.rank;
    for (int i = 0; fits && i < p.num_dims; i++)
        fits = strcmp(p.dim[i].name, v.dim[v.rank - p.num_dims + i].name) == 0;
    CARD_CHECK(fits, arg->pos, "%s: the weight's dimensions are not the last ones of %s", x->text, dims.s);
    *n = p.num_dims;
done:
    am_str_release(&dims);
    return st;
}

static am_status check_groups(card_elab *e, const card_ast *x, int64_t width, int64_t *groups)
{
    am_status st = AM_OK;
    const card_arg *a = card_keyword(x, "groups");
    card_val v;
    *groups = 1;
    if (!a) goto done;
    AM_TRY(card_eval(e, a->value, &v));
    if (v.kind == CARD_V_NONE) goto done;
    AM_TRY(card_want_int(e, &v, a->pos, "the groups of a norm", 1, groups));
    CARD_CHECK(width % *groups == 0, a->pos, "%s: %" PRId64 " features are not %" PRId64 " equal groups", x->text, width, *groups);
done:
    return st;
}

/* [N, …, width] → [N, …, groups, width / groups]; of three dimensions before, the leading ones are one */
static am_status split_groups(card_elab *e, int value, int64_t groups, int *out)
{
    const am_value v = *am_graph_value_at(e->g, value);
    const am_dim last = v.dim[v.rank - 1];
    am_dim dims[3] = {v.dim[0], am_dim_make("groups", last.role, groups), am_dim_number(last.global / groups)};
    for (int i = 1; i + 1 < v.rank; i++) {
        dims[0].global *= v.dim[i].global;
        dims[0].local *= v.dim[i].local;
    }
    return am_graph_reshape(e->g, value, 3, dims, out);
}

/* the weight, and behind it the bias, in the dtype of x */
static am_status norm_weights(card_elab *e, const card_ast *x, const am_layout *axis, bool bias, int *in, int *num)
{
    am_status st = AM_OK;
    const card_arg *arg = card_positional(x, 1);
    const card_name *w = NULL;
    const am_dtype dtype = am_graph_value_at(e->g, in[0])->dtype;
    AM_TRY(card_eval_name(e, arg->value, &w));
    AM_TRY(card_param(e, w, ".weight", arg->pos, 1, &axis, &in[1]));
    AM_TRY(card_cast(e, arg->pos, in[1], dtype, &in[1]));
    *num = 2;
    if (!bias) goto done;
    AM_TRY(card_param(e, w, ".bias", arg->pos, 1, &axis, &in[2]));
    AM_TRY(card_cast(e, arg->pos, in[2], dtype, &in[2]));
    *num = 3;
done:
    return st;
}

/* bias = …: where nothing is said there is one; `bias?`: where the file has it */
static am_status norm_bias(card_elab *e, const card_ast *x, bool *on)
{
    am_status st = AM_OK;
    const card_arg *a = card_keyword(x, "bias");
    const card_name *w = NULL;
    const char *full = NULL;
    card_val v = card_bool(false);
    *on = true;
    if (!a) goto done;
    if (a->value) AM_TRY(card_eval(e, a->value, &v));
    AM_TRY(card_truth(&v, a->pos, on));
    if (a->optional && e->num_tensors) {
        AM_TRY(card_eval_name(e, card_positional(x, 1)->value, &w));
        AM_TRY(card_printf(&e->arena, &full, "%s.bias", w->text));
        *on = card_tensor_exists(e, full, a->pos);
    }
done:
    return st;
}

static am_status build_norm(card_elab *e, const card_ast *x, const char *op, am_attrs attrs, bool bias, card_val *out)
{
    am_status st = AM_OK;
    int in[3] = {-1, -1, -1}, y = -1, n = 1, num = 1;
    const am_layout *axis = NULL;
    const bool weighted = card_num_positional(x) == 3;
    AM_TRY(card_tensor_operand(e, x, 0, &in[0]));
    AM_TRY(card_number_operand(e, x, weighted ? 2 : 1, "eps", &attrs.eps));
    AM_TRY(card_number_option(e, x, "plus", 0, &attrs.plus));
    const am_value whole = *am_graph_value_at(e->g, in[0]);
    if (weighted) {
        AM_TRY(norm_layout(e, x, in[0], &axis, &n));
        AM_TRY(norm_weights(e, x, axis, bias, in, &num));
    }
    if (n > 1) AM_TRY(join_last(e, in[0], n, &in[0]));
    const am_value *v = am_graph_value_at(e->g, in[0]);
    AM_TRY(check_groups(e, x, v->dim[v->rank - 1].global, &attrs.groups));
    if (attrs.groups > 1) AM_TRY(split_groups(e, in[0], attrs.groups, &in[0]));
    AM_TRY(card_emit(e, x->pos, op, in, num, &attrs, &y));
    if (n > 1 || attrs.groups > 1) AM_TRY(am_graph_reshape(e->g, y, whole.rank, whole.dim, &y));
    *out = card_value(y);
done:
    return st;
}

/* rmsnorm(x, eps), rmsnorm(x, W, eps), rmsnorm(x, W : N p, eps, plus = 1, groups = A) */
static am_status build_rmsnorm(card_elab *e, const card_ast *x, card_val *out)
{
    static const char *const options[] = {"plus", "weight_f32", "groups", NULL};
    am_status st = AM_OK;
    bool f32 = false;
    AM_TRY(card_check_args(x, 2, 3, options));
    AM_TRY(card_truth_option(e, x, "weight_f32", &f32));
    /* (1 + w) is multiplied before rounding wherever it occurs */
    AM_TRY(build_norm(e, x, "rmsnorm", (am_attrs){.weight_f32 = f32 || card_keyword(x, "plus")}, false, out));
done:
    return st;
}

/* layernorm(x, eps), layernorm(x, W, eps), layernorm(x, W : H d, eps, bias = false, plus = 1, groups = H) */
static am_status build_layernorm(card_elab *e, const card_ast *x, card_val *out)
{
    static const char *const options[] = {"plus", "bias", "groups", NULL};
    am_status st = AM_OK;
    bool bias = true;
    AM_TRY(card_check_args(x, 2, 3, options));
    if (card_num_positional(x) == 3) AM_TRY(norm_bias(e, x, &bias));
    AM_TRY(build_norm(e, x, "layernorm", (am_attrs){0}, bias, out));
done:
    return st;
}

const card_builder card_norm_builders[] = {
    {"rmsnorm", build_rmsnorm},
    {"layernorm", build_layernorm},
    {NULL, NULL},
};
