/* card_light: functions of features, selection by a condition, softmax and sums over the last dimension, cat and split, islands
 * of another precision.  Numbers may stand where a feature may; `pos` becomes a feature of the precise dtype. */
#include "graph/card_internal.h"
#include "graph/graph_internal.h"

#include <math.h>
#include <string.h>

/* ---- operands ------------------------------------------------------------------------------------------ */

am_status card_cast(card_elab *e, card_pos pos, int value, am_dtype dtype, int *out)
{
    am_status st = AM_OK;
    const am_value v = *am_graph_value_at(e->g, value);
    int outs[AM_MAX_OUT] = {-1, -1, -1, -1};
    *out = value;
    if (v.dtype == dtype) goto done;
    AM_TRY(am_graph_value(e->g, v.name, dtype, v.rank, v.dim, &outs[0]));
    am_graph_at(e->g, e->layer, pos.line, pos.column);
    AM_TRY(am_graph_emit(e->g, "cast", &value, 1, NULL, AM_ACC_NO, outs, NULL));
    *out = outs[0];
done:
    return st;
}

am_status card_as_features(card_elab *e, card_pos pos, int value, int *out)
{
    am_status st = AM_OK;
    const am_value *v = am_graph_value_at(e->g, value);
    *out = value;
    if (am_dtype_is_float(v->dtype)) goto done;
    CARD_CHECK(v->producer < 0 && strcmp(v->name, "pos") == 0, pos,
               "arithmetic on integers (%s) has no operator: embed them first", v->name);
    AM_TRY(card_cast(e, pos, value, e->g->precise, out));
done:
    return st;
}

am_status card_promote(card_elab *e, card_pos pos, int *in, int num)
{
    am_status st = AM_OK;
    am_dtype dtype = e->g->compute;
    for (int i = 0; i < num; i++)
        if (in[i] >= 0 && am_graph_value_at(e->g, in[i])->dtype == e->g->precise) dtype = e->g->precise;
    for (int i = 0; i < num; i++)
        if (in[i] >= 0) AM_TRY(card_cast(e, pos, in[i], dtype, &in[i]));
done:
    return st;
}

/* operand i as features of any dims */
am_status card_features_operand(card_elab *e, const card_ast *x, int i, int *out)
{
    am_status st = AM_OK;
    const card_arg *a = card_positional(x, i);
    card_val v;
    AM_TRY(card_eval(e, a->value, &v));
    if (v.kind == CARD_V_NONE) AM_TRY(card_fail_none(e, &v, a->pos, x->text));
    CARD_CHECK(v.kind == CARD_V_VALUE, a->pos, "operand %d of `%s` must be a tensor, not %s", i + 1, x->text,
               card_kind_text(v.kind));
    AM_TRY(card_as_features(e, a->pos, (int)v.i, out));
done:
    return st;
}

/* ---- functions of one number ------------------------------------------------------------------------------ */

static const struct {
    const char *name;
    am_map map;
} maps[] = {
#define X(name, e) {name, AM_MAP_##e},
    AM_MAP_LIST(X)
#undef X
};

am_status card_map(card_elab *e, card_pos pos, int value, const am_attrs *attrs, int *out)
{
    am_status st = AM_OK;
    AM_TRY(card_as_features(e, pos, value, &value));
    AM_TRY(card_emit(e, pos, "map", &value, 1, attrs, out));
done:
    return st;
}

static am_status map_by_name(card_elab *e, const card_ast *x, int value, card_val *out)
{
    am_status st = AM_OK;
    am_attrs attrs = {.map = -1};
    int y = -1;
    for (size_t i = 0; i < sizeof maps / sizeof *maps; i++)
        if (strcmp(maps[i].name, x->text) == 0) attrs.map = maps[i].map;
    AM_ASSERT(attrs.map >= 0);
    AM_TRY(card_map(e, x->pos, value, &attrs, &y));
    *out = card_value(y);
done:
    return st;
}

/* softplus(x), log1p(x), … */
static am_status build_map(card_elab *e, const card_ast *x, card_val *out)
{
    static const char *const options[] = {NULL};
    am_status st = AM_OK;
    int in = -1;
    AM_TRY(card_check_args(x, 1, 1, options));
    AM_TRY(card_features_operand(e, x, 0, &in));
    AM_TRY(map_by_name(e, x, in, out));
done:
    return st;
}

/* clamp(x, min = …, max = …); none, or not given: no bound */
static am_status build_clamp(card_elab *e, const card_ast *x, card_val *out)
{
    static const char *const options[] = {"min", "max", NULL};
    am_status st = AM_OK;
    am_attrs attrs = {.map = AM_MAP_CLAMP};
    int in = -1, y = -1;
    AM_TRY(card_check_args(x, 1, 1, options));
    AM_TRY(card_features_operand(e, x, 0, &in));
    AM_TRY(card_number_option(e, x, "min", -INFINITY, &attrs.low));
    AM_TRY(card_number_option(e, x, "max", INFINITY, &attrs.high));
    CARD_CHECK(attrs.low <= attrs.high, x->pos, "clamp: nothing lies between %.10g and %.10g", attrs.low, attrs.high);
    *out = card_value(in);
    if (isinf(attrs.low) && isinf(attrs.high)) goto done;
    AM_TRY(card_map(e, x->pos, in, &attrs, &y));
    *out = card_value(y);
done:
    return st;
}

/* ---- over the last dimension -------------------------------------------------------------------------------- */

static am_status over_last(card_elab *e, const card_ast *x, int value, card_val *out)
{
    am_status st = AM_OK;
    int y = -1;
    AM_TRY(card_emit(e, x->pos, x->text, &value, 1, NULL, &y));
    *out = card_value(y);
done:
    return st;
}

static am_status build_softmax(card_elab *e, const card_ast *x, card_val *out)
{
    static const char *const options[] = {NULL};
    am_status st = AM_OK;
    int in = -1;
    AM_TRY(card_check_args(x, 1, 1, options));
    AM_TRY(card_features_operand(e, x, 0, &in));
    AM_TRY(over_last(e, x, in, out));
done:
    return st;
}

/* ---- functions that numbers have too ------------------------------------------------------------------------ */

/* max(x, 3), min(x, 3) */
static am_status bound(card_elab *e, const card_ast *x, const card_val *a, const card_val *b, card_val *out)
{
    am_status st = AM_OK;
    am_attrs attrs = {.map = AM_MAP_CLAMP, .low = -INFINITY, .high = INFINITY};
    const card_val *v = a->kind == CARD_V_VALUE ? a : b, *c = v == a ? b : a;
    int y = -1;
    CARD_CHECK(c->kind != CARD_V_VALUE, x->pos, "`%s` of two tensors has no operator: where(a < b, b, a)", x->text);
    AM_TRY(card_want_number(e, c, x->pos, "the other operand", x->text[1] == 'a' ? &attrs.low : &attrs.high));
    AM_TRY(card_map(e, x->pos, (int)v->i, &attrs, &y));
    *out = card_value(y);
done:
    return st;
}

static am_status one_value(card_elab *e, const card_ast *x, const card_val *arg, int num, card_val *out)
{
    am_status st = AM_OK;
    int y = -1;
    if (num == 2 && (strcmp(x->text, "max") == 0 || strcmp(x->text, "min") == 0)) {
        AM_TRY(bound(e, x, &arg[0], &arg[1], out));
        goto done;
    }
    CARD_CHECK(num == 1, x->pos, "`%s` of a tensor takes one operand", x->text);
    if (strcmp(x->text, "low") == 0) {
        AM_TRY(card_cast(e, x->pos, (int)arg->i, e->g->compute, &y));
        *out = card_value(y);
    } else if (strcmp(x->text, "sum") == 0 || strcmp(x->text, "max") == 0) {
        AM_TRY(card_as_features(e, x->pos, (int)arg->i, &y));
        AM_TRY(over_last(e, x, y, out));
    } else {
        bool known = false;
        for (size_t i = 0; i < sizeof maps / sizeof *maps; i++) known = known || strcmp(maps[i].name, x->text) == 0;
        if (!known) AM_TRY(card_refuse_op(x->pos, x->text));
        AM_TRY(map_by_name(e, x, (int)arg->i, out));
    }
done:
    return st;
}

am_status card_value_function(card_elab *e, const card_ast *x, const card_val *arg, int num, card_val *out)
{
    am_status st = AM_OK;
    card_val *item = NULL;
    if (arg->kind != CARD_V_TUPLE) {
        AM_TRY(one_value(e, x, arg, num, out));
        goto done;
    }
    CARD_CHECK(num == 1, x->pos, "`%s` of several values and more", x->text);
    AM_TRY(card_alloc(&e->arena, (size_t)arg->num * sizeof *item, &item));
    for (int i = 0; i < arg->num; i++) {
        CARD_CHECK(arg->item[i].kind == CARD_V_VALUE, x->pos, "`%s` of several values needs tensors", x->text);
        AM_TRY(one_value(e, x, &arg->item[i], 1, &item[i]));
    }
    *out = (card_val){.kind = CARD_V_TUPLE, .num = arg->num, .item = item};
done:
    return st;
}

/* ---- where ---------------------------------------------------------------------------------------------------- */

/* A tensor goes to *value, a number to *number. */
static am_status choice(card_elab *e, const card_ast *x, int i, int *value, double *number)
{
    am_status st = AM_OK;
    const card_arg *a = card_positional(x, i);
    card_val v;
    *value = -1;
    AM_TRY(card_eval(e, a->value, &v));
    if (v.kind == CARD_V_VALUE)
        AM_TRY(card_as_features(e, a->pos, (int)v.i, value));
    else
        AM_TRY(card_want_number(e, &v, a->pos, "what `where` chooses", number));
done:
    return st;
}

/* where(c, a, b): a where c is not 0, else b */
static am_status build_where(card_elab *e, const card_ast *x, card_val *out)
{
    static const char *const options[] = {NULL};
    am_status st = AM_OK;
    am_attrs attrs = {0};
    int in[3] = {-1, -1, -1}, y = -1;
    AM_TRY(card_check_args(x, 3, 3, options));
    AM_TRY(card_features_operand(e, x, 0, &in[0]));
    AM_TRY(choice(e, x, 1, &in[1], &attrs.low));
    AM_TRY(choice(e, x, 2, &in[2], &attrs.high));
    if (in[1] >= 0 || in[2] >= 0) { /* the condition's dtype decides nothing */
        AM_TRY(card_promote(e, x->pos, in + 1, 2));
        const int chosen = in[1] >= 0 ? in[1] : in[2];
        AM_TRY(card_cast(e, x->pos, in[0], am_graph_value_at(e->g, chosen)->dtype, &in[0]));
    }
    AM_TRY(card_emit(e, x->pos, "where", in, 3, &attrs, &y));
    *out = card_value(y);
done:
    return st;
}

/* ---- cat and split --------------------------------------------------------------------------------------------- */

/* Beside [tokens, heads, features], [tokens, features] is one head. */
static am_status as_one_head(card_elab *e, int *in, int num)
{
    am_status st = AM_OK;
    bool heads = false;
    for (int i = 0; i < num; i++) heads = heads || am_graph_value_at(e->g, in[i])->rank == 3;
    for (int i = 0; heads && i < num; i++) {
        am_value v = *am_graph_value_at(e->g, in[i]);
        am_dim dims[3] = {v.dim[0], am_dim_number(1), v.dim[1]};
        if (v.rank == 2) AM_TRY(am_graph_reshape(e->g, in[i], 3, dims, &in[i]));
    }
done:
    return st;
}

am_status card_cat(card_elab *e, card_pos pos, const card_val *values, int *out)
{
    am_status st = AM_OK;
    int in[AM_MAX_OUT];
    CARD_CHECK(values->num >= 1 && values->num <= AM_MAX_OUT, pos, "1 to %d values are put side by side, not %d", AM_MAX_OUT,
               values->num);
    for (int i = 0; i < values->num; i++) {
        CARD_CHECK(values->item[i].kind == CARD_V_VALUE, pos, "only tensors are put side by side, not %s",
                   card_kind_text(values->item[i].kind));
        AM_TRY(card_as_features(e, pos, (int)values->item[i].i, &in[i]));
    }
    AM_TRY(card_promote(e, pos, in, values->num));
    AM_TRY(as_one_head(e, in, values->num));
    AM_TRY(card_emit(e, pos, "cat", in, values->num, NULL, out));
done:
    return st;
}

/* cat(a, b), cat((a, b)): in the last dimension; one head's features go to every head */
static am_status build_cat(card_elab *e, const card_ast *x, card_val *out)
{
    static const char *const options[] = {NULL};
    am_status st = AM_OK;
    card_val item[AM_MAX_OUT], v = {.kind = CARD_V_TUPLE, .num = card_num_positional(x), .item = item};
    int y = -1;
    AM_TRY(card_check_args(x, 1, AM_MAX_OUT, options));
    for (int i = 0; i < v.num; i++) AM_TRY(card_eval(e, card_positional(x, i)->value, &item[i]));
    if (v.num == 1 && item[0].kind == CARD_V_TUPLE) v = item[0];
    AM_TRY(card_cat(e, x->pos, &v, &y));
    *out = card_value(y);
done:
    return st;
}

/* part k of the layout as the last dimensions of x's rows */
static am_status part_value(card_elab *e, const card_ast *x, const am_value *v, const am_layout *l, int k, int *out)
{
    am_status st = AM_OK;
    am_layout_part p;
    am_dim dims[AM_MAX_RANK];
    AM_TRY(am_layout_part_at(l, k, &p));
    CARD_CHECK(v->rank - 1 + p.num_dims <= AM_MAX_RANK, x->pos, "part %d has %d dimensions, too many", k, p.num_dims);
    for (int i = 0; i + 1 < v->rank; i++) dims[i] = v->dim[i];
    am_dim last = am_dim_number(p.size);
    if (p.num_dims == 1) last = p.dim[0];
    dims[v->rank - 1] = last;
    AM_TRY(am_graph_value(e->g, "split", v->dtype, v->rank, dims, out));
done:
    return st;
}

/* split(x : A + B): the last dimension taken apart */
static am_status build_split(card_elab *e, const card_ast *x, card_val *out)
{
    static const char *const options[] = {NULL};
    am_status st = AM_OK;
    const am_layout *l = NULL;
    int in = -1, outs[AM_MAX_OUT] = {-1, -1, -1, -1};
    card_val *item = NULL;
    AM_TRY(card_check_args(x, 1, 1, options));
    AM_TRY(card_features_operand(e, x, 0, &in));
    AM_TRY(card_want_layout(e, x, 0, &l));
    const am_value v = *am_graph_value_at(e->g, in);
    const int num = am_layout_num_parts(l);
    CARD_CHECK(l->size == v.dim[v.rank - 1].global, x->pos, "split: the parts have %" PRId64 " features, %s has %" PRId64, l->size,
               v.name, v.dim[v.rank - 1].global);
    CARD_CHECK(num >= 1 && num <= AM_MAX_OUT, x->pos, "split: 1 to %d parts, not %d", AM_MAX_OUT, num);
    AM_TRY(card_alloc(&e->arena, (size_t)num * sizeof *item, &item));
    for (int k = 0; k < num; k++) AM_TRY(part_value(e, x, &v, l, k, &outs[k]));
    am_graph_at(e->g, e->layer, x->pos.line, x->pos.column);
    AM_TRY(am_graph_emit(e->g, "split", &in, 1, NULL, AM_ACC_NO, outs, NULL));
    for (int k = 0; k < num; k++) item[k] = card_value(outs[k]);
    *out = card_values(item, num);
done:
    return st;
}

/* flatten(x): [N, H, d] as [N, H d] */
static am_status build_flatten(card_elab *e, const card_ast *x, card_val *out)
{
    static const char *const options[] = {NULL};
    am_status st = AM_OK;
    int in = -1, y = -1;
    AM_TRY(card_check_args(x, 1, 1, options));
    AM_TRY(card_tensor_operand(e, x, 0, &in));
    const am_value *v = am_graph_value_at(e->g, in);
    am_dim dims[2] = {v->dim[0], am_dim_number(am_value_elements(v) / v->dim[0].local)};
    AM_TRY(am_graph_reshape(e->g, in, 2, dims, &y));
    *out = card_value(y);
done:
    return st;
}

/* ---- positions ------------------------------------------------------------------------------------------------------ */

/* sinusoid(pos : D, theta = 10000, offset = 0, span = D / 2): sines, then cosines, of (pos + offset)·theta^(−k / span), k < D / 2
 * (Vaswani et al. 2017; XGLM has span D / 2 − 1) */
static am_status build_sinusoid(card_elab *e, const card_ast *x, card_val *out)
{
    static const char *const options[] = {"theta", "offset", "span", NULL};
    am_status st = AM_OK;
    const am_layout *l = NULL;
    card_val v;
    double theta = 0, offset = 0, span = 0, *freq = NULL;
    int in[2], tables[AM_MAX_OUT], y = -1;
    AM_TRY(card_check_args(x, 1, 1, options));
    AM_TRY(card_eval(e, card_positional(x, 0)->value, &v));
    CARD_CHECK(v.kind == CARD_V_VALUE && !am_dtype_is_float(am_graph_value_at(e->g, (int)v.i)->dtype), x->pos,
               "sinusoid is made of positions: sinusoid(pos : D)");
    AM_TRY(card_want_layout(e, x, 0, &l));
    CARD_CHECK(l->size >= 2 && l->size % 2 == 0, x->pos, "sinusoid: %" PRId64 " features are no pairs", l->size);
    const int64_t num = l->size / 2;
    AM_TRY(card_number_option(e, x, "theta", 10000, &theta));
    AM_TRY(card_number_option(e, x, "offset", 0, &offset));
    AM_TRY(card_number_option(e, x, "span", (double)num, &span));
    AM_TRY(card_alloc(&e->arena, (size_t)num * sizeof *freq, &freq));
    for (int64_t k = 0; k < num; k++) freq[k] = exp(-log(theta) * (double)k / span);
    in[0] = (int)v.i;
    AM_TRY(am_graph_constant(e->g, "frequencies", freq, num, &in[1]));
    am_graph_at(e->g, e->layer, x->pos.line, x->pos.column);
    AM_TRY(am_graph_apply(e->g, "rope_angles", in, 2, &(am_attrs){.offset = (int64_t)offset}, tables));
    card_val parts[2] = {card_value(tables[1]), card_value(tables[0])};
    AM_TRY(card_cat(e, x->pos, &(card_val){.kind = CARD_V_TUPLE, .num = 2, .item = parts}, &y));
    am_dim dims[2] = {am_graph_value_at(e->g, y)->dim[0], am_dim_number(l->size)};
    if (l->kind == AM_LAYOUT_DIM) dims[1] = l->dim;
    AM_TRY(am_graph_reshape(e->g, y, 2, dims, &y));
    AM_TRY(card_cast(e, x->pos, y, e->g->compute, &y));
    *out = card_value(y);
done:
    return st;
}

/* ---- precision and gradient --------------------------------------------------------------------------------------- */

/* f32(x): the precise dtype; what is made of it stays so until low(x) */
static am_status build_f32(card_elab *e, const card_ast *x, card_val *out)
{
    static const char *const options[] = {NULL};
    am_status st = AM_OK;
    card_val v;
    int y = -1;
    AM_TRY(card_check_args(x, 1, 1, options));
    AM_TRY(card_eval(e, card_positional(x, 0)->value, &v));
    *out = v;
    if (card_is_number(&v)) goto done;
    AM_TRY(card_features_operand(e, x, 0, &y));
    AM_TRY(card_cast(e, x->pos, y, e->g->precise, &y));
    *out = card_value(y);
done:
    return st;
}

/* detach(x): x, through which no gradient flows */
static am_status build_detach(card_elab *e, const card_ast *x, card_val *out)
{
    static const char *const options[] = {NULL};
    am_status st = AM_OK;
    int in = -1, y = -1;
    AM_TRY(card_check_args(x, 1, 1, options));
    AM_TRY(card_features_operand(e, x, 0, &in));
    AM_TRY(card_emit(e, x->pos, "detach", &in, 1, NULL, &y));
    *out = card_value(y);
done:
    return st;
}

const card_builder card_light_builders[] = {
    {"log1p", build_map}, {"expm1", build_map},   {"rsqrt", build_map}, {"softplus", build_map}, {"square", build_map},
    {"clamp", build_clamp}, {"softmax", build_softmax}, {"where", build_where}, {"cat", build_cat},
    {"split", build_split}, {"flatten", build_flatten}, {"f32", build_f32}, {"detach", build_detach},   {"sinusoid", build_sinusoid},
    {NULL, NULL},
};
