/* card_ops: operators with weights, norms, positions and attention: operand checks in the card's words,
 * attributes, am_graph_apply.  Above them what all builders share. */
#include "graph/card_internal.h"

#include <string.h>

/* ---- common pieces
 * ---------------------------------------------------------------------------------------------------- */

am_status card_dims_text(const card_elab *e, int value, am_str *out)
{
    am_status st = AM_OK;
    const am_value *v = am_graph_value_at(e->g, value);
    AM_TRY(am_str_printf(out, "["));
    for (int i = 0; i < v->rank; i++) {
        const am_dim *d = &v->dim[i];
        char number[24];
        snprintf(number, sizeof number, "%" PRId64, d->global);
        bool bare = d->role == AM_ROLE_TOKENS || strcmp(number, d->name) == 0;
        AM_TRY(am_str_printf(out, bare ? "%s%s" : "%s%s=%" PRId64, i ? ", " : "", d->name, d->global));
    }
    AM_TRY(am_str_printf(out, "]"));
done:
    return st;
}

am_status card_refuse_op(card_pos pos, const char *name)
{
    am_status st = AM_OK;
    const char *quote = strchr(name, ' ') ? "" : "`";
    CARD_FAIL(pos, "this model needs %s%s%s, for which there is no operator: it cannot be run", quote, name,
              quote);
done:
    return st;
}

/* Append the node; an error of the operator's own checks gets the card's position. */
am_status card_emit(card_elab *e, card_pos pos, const char *op, const int *in, int num_in,
                    const am_attrs *attrs, int *out)
{
    am_status st = AM_OK;
    int outs[AM_MAX_OUT] = {-1, -1, -1, -1};
    if (!am_graph_find_op(e->g, op)) AM_TRY(card_refuse_op(pos, op));
    am_graph_at(e->g, e->layer, pos.line, pos.column);
    st = am_graph_apply(e->g, op, in, num_in, attrs, outs);
    if (st != AM_OK) AM_FAIL(st, "%s:%d:%d: %s", pos.file, pos.line, pos.column, am_error_message());
    *out = outs[0];
done:
    return st;
}

am_status card_tensor_operand(card_elab *e, const card_ast *x, int i, int *out)
{
    am_status st = AM_OK;
    const card_arg *a = card_positional(x, i);
    card_val v;
    am_str dims = {0};
    AM_TRY(card_eval(e, a->value, &v));
    if (v.kind == CARD_V_NONE) AM_TRY(card_fail_none(e, &v, a->pos, x->text));
    if (v.kind == CARD_V_TUPLE) AM_TRY(card_refuse_op(a->pos, "an operator on several values at once"));
    CARD_CHECK(v.kind == CARD_V_VALUE, a->pos, "operand %d of `%s` must be a tensor, not %s", i + 1, x->text,
               card_kind_text(v.kind));
    *out = (int)v.i;
    const am_value *t = am_graph_value_at(e->g, *out);
    AM_TRY(card_dims_text(e, *out, &dims));
    CARD_CHECK(am_dtype_is_float(t->dtype), a->pos, "operand %d of `%s` holds integers (%s), not features",
               i + 1, x->text, t->name);
    CARD_CHECK(t->rank >= 2 && t->dim[0].role == AM_ROLE_TOKENS, a->pos,
               "operand %d of `%s` must be [tokens, features …], not %s", i + 1, x->text, dims.s);
done:
    am_str_release(&dims);
    return st;
}

/* keyword option: none or absent gives `fallback` */
am_status card_number_option(card_elab *e, const card_ast *x, const char *name, double fallback, double *out)
{
    am_status st = AM_OK;
    const card_arg *a = card_keyword(x, name);
    const char *what = NULL;
    card_val v;
    *out = fallback;
    if (!a) goto done;
    AM_TRY(card_eval(e, a->value, &v));
    if (v.kind == CARD_V_NONE) goto done;
    AM_TRY(card_printf(&e->arena, &what, "`%s` of %s", name, x->text));
    AM_TRY(card_want_number(e, &v, a->pos, what, out));
done:
    return st;
}

am_status card_truth_option(card_elab *e, const card_ast *x, const char *name, bool *out)
{
    am_status st = AM_OK;
    const card_arg *a = card_keyword(x, name);
    card_val v;
    *out = false;
    if (!a) goto done;
    AM_TRY(card_eval(e, a->value, &v));
    AM_TRY(card_truth(&v, a->pos, out));
done:
    return st;
}

/* Options that are known to the language and have no operator: allowed only while off. */
am_status card_refuse_option(card_elab *e, const card_ast *x, const char *name)
{
    am_status st = AM_OK;
    const card_arg *a = card_keyword(x, name);
    const char *what = NULL;
    card_val v;
    if (!a) goto done;
    AM_TRY(card_eval(e, a->value, &v));
    if (v.kind == CARD_V_NONE || (v.kind == CARD_V_BOOL && !v.i)) goto done;
    AM_TRY(card_printf(&e->arena, &what, "%s(…, %s = …)", x->text, name));
    AM_TRY(card_refuse_op(a->pos, what));
done:
    return st;
}

am_status card_number_operand(card_elab *e, const card_ast *x, int i, const char *name, double *out)
{
    am_status st = AM_OK;
    card_val v;
    const char *what = NULL;
    AM_TRY(card_eval(e, card_positional(x, i)->value, &v));
    AM_TRY(card_printf(&e->arena, &what, "`%s` of %s", name, x->text));
    AM_TRY(card_want_number(e, &v, card_positional(x, i)->pos, what, out));
done:
    return st;
}

am_status card_want_layout(card_elab *e, const card_ast *x, int i, const am_layout **out)
{
    am_status st = AM_OK;
    const card_arg *a = card_positional(x, i);
    CARD_CHECK(a->layout, a->pos, "the tensor of `%s` needs its dimensions: %s(…, name : H d)", x->text,
               x->text);
    AM_TRY(card_layout_resolve(e, a->layout, out));
done:
    return st;
}

/* The dims a value gets from a layout of one part; several parts would be several values. */
am_status card_single_part(const card_ast *x, card_pos pos, const am_layout *l, am_layout_part *p)
{
    am_status st = AM_OK;
    char what[96];
    int parts = am_layout_num_parts(l);
    snprintf(what, sizeof what, "splitting one tensor into the %d values of a sum layout (%s)", parts,
             x->text);
    if (parts != 1) AM_TRY(card_refuse_op(pos, what));
    AM_TRY(am_layout_part_at(l, 0, p));
    CARD_CHECK(p->num_dims < AM_MAX_RANK, pos, "%d dimensions beside the tokens; %d are the most",
               p->num_dims, AM_MAX_RANK - 1);
done:
    return st;
}

/* value seen with the dims [N, part] */
am_status card_view_as(card_elab *e, int value, const am_layout_part *p, int *out)
{
    am_status st = AM_OK;
    am_dim dims[AM_MAX_RANK];
    const am_value *v = am_graph_value_at(e->g, value);
    bool same = v->rank == p->num_dims + 1;
    dims[0] = v->dim[0];
    for (int i = 0; i < p->num_dims; i++) {
        dims[i + 1] = p->dim[i];
        same = same && v->dim[i + 1].global == p->dim[i].global &&
               strcmp(v->dim[i + 1].name, p->dim[i].name) == 0;
    }
    *out = value;
    if (!same) AM_TRY(am_graph_reshape(e->g, value, p->num_dims + 1, dims, out));
done:
    return st;
}

/* ---- weights
 * -------------------------------------------------------------------------------------------------------------
 */

/* P.b, .b, W[E]: a name, rather than true, false or none */
static bool is_name(const card_elab *e, const card_ast *x)
{
    if (x->kind == CARD_A_INDEX || x->kind == CARD_A_TRANSPOSE) return is_name(e, x->kid[0]);
    if (x->kind != CARD_A_PATH) return false;
    const card_val *v = x->seg[0].text ? card_lookup(e->frame, x->seg[0].text) : NULL;
    return x->relative || (v && v->kind == CARD_V_NAME);
}

static am_status bias_name(card_elab *e, const card_ast *x, const card_name *w, const card_name **out,
                           const char **suffix)
{
    am_status st = AM_OK;
    const card_arg *a = card_keyword(x, "bias");
    const char *full = NULL;
    card_val v = card_bool(false);
    bool on = false;
    *out = NULL;
    *suffix = ".bias";
    if (!a) goto done;
    if (a->value && !is_name(e, a->value)) {
        AM_TRY(card_eval(e, a->value, &v));
    } else if (a->value) {
        AM_TRY(card_eval_name(e, a->value, out));
        *suffix = "";
        goto done;
    }
    AM_TRY(card_truth(&v, a->pos, &on));
    if (a->optional && e->num_tensors) { /* the file decides */
        AM_TRY(card_printf(&e->arena, &full, "%s.bias", w->text));
        on = card_tensor_exists(e, full, a->pos);
    }
    if (on) *out = w;
done:
    return st;
}

/* linear(x, W : H d, bias = …) */
static am_status build_linear(card_elab *e, const card_ast *x, card_val *out)
{
    static const char *const options[] = {"bias", NULL};
    am_status st = AM_OK;
    int in[3] = {-1, -1, -1}, y = -1;
    const card_name *w = NULL, *b = NULL;
    const char *suffix = NULL;
    const am_layout *axes[2];
    am_layout_part part;
    AM_TRY(card_check_args(x, 2, 2, options));
    AM_TRY(card_tensor_operand(e, x, 0, &in[0]));
    const card_arg *arg = card_positional(x, 1);
    AM_TRY(card_eval_name(e, arg->value, &w));
    AM_TRY(card_want_layout(e, x, 1, &axes[0]));
    AM_TRY(card_single_part(x, arg->pos, axes[0], &part));
    const am_value *v = am_graph_value_at(e->g, in[0]);
    AM_TRY(card_layout_of_dims(e, v->dim + 1, v->rank - 1, &axes[1]));
    AM_TRY(card_param(e, w, w->stacked ? "" : ".weight", arg->pos, 2, axes, &in[1]));
    AM_TRY(bias_name(e, x, w, &b, &suffix));
    if (b)
        AM_TRY(card_param(e, &(card_name){.text = b->text, .stacked = b->stacked}, suffix, arg->pos, 1, axes,
                          &in[2]));
    AM_TRY(card_emit(e, x->pos, "linear", in, b ? 3 : 2, NULL, &y));
    AM_TRY(card_view_as(e, y, &part, &y));
    *out = card_value(y);
done:
    return st;
}

/* embed(ids, W : D) has V rows; embed(pos, W : D, n) has n */
static am_status build_embed(card_elab *e, const card_ast *x, card_val *out)
{
    static const char *const options[] = {NULL};
    am_status st = AM_OK;
    int in[2], y = -1;
    const card_name *w = NULL;
    const am_layout *axes[2];
    am_layout_part part;
    am_dim rows;
    card_val v;
    AM_TRY(card_check_args(x, 2, 3, options));
    AM_TRY(card_eval(e, card_positional(x, 0)->value, &v));
    CARD_CHECK(v.kind == CARD_V_VALUE && am_graph_value_at(e->g, (int)v.i)->dtype == AM_I32,
               card_positional(x, 0)->pos, "embed looks up integers: ids or pos, not %s",
               v.kind == CARD_V_VALUE ? "features" : card_kind_text(v.kind));
    in[0] = (int)v.i;
    const card_arg *arg = card_positional(x, 1), *third = card_positional(x, 2);
    AM_TRY(card_eval_name(e, arg->value, &w));
    CARD_CHECK(!w->transpose, arg->pos, "a table of embeddings cannot be transposed");
    const card_def *d = card_find_def(e->card, "V");
    if (third)
        AM_TRY(card_eval(e, third->value, &v));
    else if (d)
        AM_TRY(card_eval_def(e, d, &v));
    else
        CARD_FAIL(x->pos,
                  "embed needs the number of rows: a definition `vocab V = vocab_size`, or a third operand");
    AM_TRY(card_dim_of(e, &v, third && third->value->kind == CARD_A_PATH ? third->value->text : "rows",
                       third ? third->pos : x->pos, &rows));
    AM_TRY(card_layout_of_dims(e, &rows, 1, &axes[0]));
    AM_TRY(card_want_layout(e, x, 1, &axes[1]));
    AM_TRY(card_single_part(x, arg->pos, axes[1], &part));
    AM_TRY(card_param(e, w, ".weight", arg->pos, 2, axes, &in[1]));
    AM_TRY(card_emit(e, x->pos, "embed", in, 2, NULL, &y));
    AM_TRY(card_view_as(e, y, &part, &y));
    *out = card_value(y);
done:
    return st;
}

/* param(W : H d): a tensor as an operand of its own */
static am_status build_param(card_elab *e, const card_ast *x, card_val *out)
{
    static const char *const options[] = {NULL};
    am_status st = AM_OK;
    const card_name *w = NULL;
    const am_layout *axis = NULL;
    am_dim one = am_dim_number(1);
    am_layout_part part;
    int y = -1;
    AM_TRY(card_check_args(x, 1, 1, options));
    const card_arg *arg = card_positional(x, 0);
    AM_TRY(card_eval_name(e, arg->value, &w));
    if (arg->layout)
        AM_TRY(card_layout_resolve(e, arg->layout, &axis));
    else
        AM_TRY(card_layout_of_dims(e, &one, 1, &axis));
    AM_TRY(card_single_part(x, arg->pos, axis, &part));
    AM_TRY(card_param(e, w, "", arg->pos, 1, &axis, &y));
    if (part.num_dims > 1) AM_TRY(am_graph_reshape(e->g, y, part.num_dims, part.dim, &y));
    *out = card_value(y);
done:
    return st;
}

/* ---- norms
 * ------------------------------------------------------------------------------------------------------------------
 */

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

/* rmsnorm(x, eps), rmsnorm(x, W, eps), rmsnorm(x, W : N p, eps, plus = 1) */
static am_status build_rmsnorm(card_elab *e, const card_ast *x, card_val *out)
{
    static const char *const options[] = {"plus", "weight_f32", "groups", NULL};
    am_status st = AM_OK;
    am_attrs attrs = {0};
    int in[2] = {-1, -1}, y = -1, n = 1;
    const card_name *w = NULL;
    const am_layout *axis = NULL;
    bool f32 = false;
    AM_TRY(card_check_args(x, 2, 3, options));
    bool weighted = card_num_positional(x) == 3;
    AM_TRY(card_tensor_operand(e, x, 0, &in[0]));
    AM_TRY(card_number_operand(e, x, weighted ? 2 : 1, "eps", &attrs.eps));
    AM_TRY(card_number_option(e, x, "plus", 0, &attrs.plus));
    AM_TRY(card_truth_option(e, x, "weight_f32", &f32));
    AM_TRY(card_refuse_option(e, x, "groups"));
    attrs.weight_f32 = f32 || attrs.plus != 0; /* (1 + w) is multiplied before rounding wherever it occurs */
    am_value whole = *am_graph_value_at(e->g, in[0]);
    if (weighted) {
        const card_arg *arg = card_positional(x, 1);
        AM_TRY(card_eval_name(e, arg->value, &w));
        AM_TRY(norm_layout(e, x, in[0], &axis, &n));
        AM_TRY(card_param(e, w, ".weight", arg->pos, 1, &axis, &in[1]));
    }
    if (n > 1) AM_TRY(join_last(e, in[0], n, &in[0]));
    AM_TRY(card_emit(e, x->pos, "rmsnorm", in, weighted ? 2 : 1, &attrs, &y));
    if (n > 1) AM_TRY(am_graph_reshape(e->g, y, whole.rank, whole.dim, &y));
    *out = card_value(y);
done:
    return st;
}

/* ---- positions and attention
 * --------------------------------------------------------------------------------------------------- */

/* rope(x, R, pairs = …); R none: no positions */
static am_status build_rope(card_elab *e, const card_ast *x, card_val *out)
{
    static const char *const options[] = {"pairs", NULL};
    am_status st = AM_OK;
    am_attrs attrs = {0};
    int in[3], y = -1;
    card_val table;
    bool pairs = false;
    am_str dims = {0};
    AM_TRY(card_check_args(x, 2, 2, options));
    AM_TRY(card_tensor_operand(e, x, 0, &in[0]));
    AM_TRY(card_eval(e, card_positional(x, 1)->value, &table));
    AM_TRY(card_truth_option(e, x, "pairs", &pairs));
    *out = card_value(in[0]);
    if (table.kind == CARD_V_NONE) goto done;
    CARD_CHECK(table.kind == CARD_V_ROPE, card_positional(x, 1)->pos,
               "operand 2 of `rope` must be a rope_table or none, not %s", card_kind_text(table.kind));
    const am_value *v = am_graph_value_at(e->g, in[0]);
    AM_TRY(card_dims_text(e, in[0], &dims));
    CARD_CHECK(v->rank == 3 && v->dim[2].global >= table.rope->dim, x->pos,
               "rope turns [tokens, heads, width] with a width of at least %" PRId64 ", not %s",
               table.rope->dim, dims.s);
    AM_TRY(card_rope_values(e, table.rope, x->pos));
    in[1] = table.rope->cos;
    in[2] = table.rope->sin;
    attrs.pairs = pairs;
    AM_TRY(card_emit(e, x->pos, "rope", in, 3, &attrs, &y));
    *out = card_value(y);
done:
    am_str_release(&dims);
    return st;
}

static am_status attention_shapes(card_elab *e, const card_ast *x, const int *in)
{
    am_status st = AM_OK;
    am_str text[3] = {{0}, {0}, {0}};
    const am_value *v[3];
    bool fits = true;
    for (int i = 0; i < 3; i++) {
        v[i] = am_graph_value_at(e->g, in[i]);
        AM_TRY(card_dims_text(e, in[i], &text[i]));
        fits = fits && v[i]->rank == 3;
    }
    fits = fits && v[0]->dim[2].global == v[1]->dim[2].global && v[1]->dim[1].global == v[2]->dim[1].global;
    CARD_CHECK(fits, x->pos, "attention takes q [N, H, d], k [N, K, d] and v [N, K, dv], not %s, %s and %s",
               text[0].s, text[1].s, text[2].s);
    CARD_CHECK(v[0]->dim[1].global % v[1]->dim[1].global == 0, x->pos,
               "attention: %" PRId64 " query heads cannot be shared out among %" PRId64 " kv heads",
               v[0]->dim[1].global, v[1]->dim[1].global);
done:
    for (int i = 0; i < 3; i++) am_str_release(&text[i]);
    return st;
}

static am_status attention_window(card_elab *e, const card_ast *x, am_attrs *attrs)
{
    am_status st = AM_OK;
    const card_arg *a = card_keyword(x, "window");
    card_val v;
    if (!a) goto done;
    AM_TRY(card_eval(e, a->value, &v));
    if (v.kind != CARD_V_NONE)
        AM_TRY(card_want_int(e, &v, a->pos, "the window of attention", 1, &attrs->window));
done:
    return st;
}

static am_status build_attention(card_elab *e, const card_ast *x, card_val *out)
{
    static const char *const options[] = {"scale", "window", "softcap",     "chunk",
                                          "sinks", "alibi",  "alibi_scale", NULL};
    am_status st = AM_OK;
    am_attrs attrs = {0};
    int in[6], y = -1;
    AM_TRY(card_check_args(x, 3, 3, options));
    for (int i = 0; i < 3; i++) AM_TRY(card_tensor_operand(e, x, i, &in[i]));
    AM_TRY(attention_shapes(e, x, in));
    AM_TRY(card_refuse_option(e, x, "chunk"));
    AM_TRY(card_refuse_option(e, x, "sinks"));
    AM_TRY(card_refuse_option(e, x, "alibi"));
    AM_TRY(attention_window(e, x, &attrs));
    const am_value *q = am_graph_value_at(e->g, in[0]), *k = am_graph_value_at(e->g, in[1]);
    attrs.group = q->dim[1].global / k->dim[1].global;
    AM_TRY(card_number_option(e, x, "scale", 1 / __builtin_sqrt((double)q->dim[2].global), &attrs.scale));
    AM_TRY(card_number_option(e, x, "softcap", 0, &attrs.softcap));
    AM_TRY(am_graph_input(e->g, "index", &in[3]));
    in[4] = in[3];
    AM_TRY(am_graph_input(e->g, "doc_start", &in[5]));
    AM_TRY(card_emit(e, x->pos, "attention", in, 6, &attrs, &y));
    *out = card_value(y);
done:
    return st;
}

const card_builder card_tensor_builders[] = {
    {"linear", build_linear},
    {"embed", build_embed},
    {"param", build_param},
    {"rmsnorm", build_rmsnorm},
    {"rope", build_rope},
    {"attention", build_attention},
    {NULL, NULL},
};
