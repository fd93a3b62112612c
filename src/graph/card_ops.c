/* card_ops: the operators a card calls become nodes of the graph.
 * Each has a row in `builders`: operand checks in the card's words, attributes, am_graph_apply.  Words of the language that
 * have no operator row are refused by name; any other function name may be an operator registered in the graph. */
#include "graph/card_internal.h"
#include "graph/graph_internal.h"

#include <stddef.h>
#include <string.h>

typedef am_status (*builder)(card_elab *e, const card_ast *x, card_val *out);

/* ---- common pieces ---------------------------------------------------------------------------------------------------- */

am_status card_dims_text(const card_elab *e, int value, am_str *out)
{
    am_status       st = AM_OK;
    const am_value *v = am_graph_value_at(e->g, value);
    AM_TRY(am_str_printf(out, "["));
    for (int i = 0; i < v->rank; i++) {
        const am_dim *d = &v->dim[i];
        char          number[24];
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
    CARD_FAIL(pos, "this model needs `%s`, for which there is no operator: the model cannot be run", name);
done:
    return st;
}

/* Append the node; an error of the operator's own checks gets the card's position. */
static am_status emit(card_elab *e, card_pos pos, const char *op, const int *in, int num_in, const am_attrs *attrs, int *out)
{
    am_status st = AM_OK;
    int       outs[AM_MAX_OUT] = {-1, -1, -1, -1};
    if (!am_graph_find_op(e->g, op)) AM_TRY(card_refuse_op(pos, op));
    am_graph_at(e->g, e->layer, pos.line, pos.column);
    st = am_graph_apply(e->g, op, in, num_in, attrs, outs);
    if (st != AM_OK) AM_FAIL(st, "%s:%d:%d: %s", pos.file, pos.line, pos.column, am_error_message());
    *out = outs[0];
done:
    return st;
}

static am_status tensor_operand(card_elab *e, const card_ast *x, int i, int *out)
{
    am_status       st = AM_OK;
    const card_arg *a = card_positional(x, i);
    card_val        v;
    am_str          dims = {0};
    AM_TRY(card_eval(e, a->value, &v));
    if (v.kind == CARD_V_NONE) AM_TRY(card_fail_none(e, &v, a->pos, x->text));
    if (v.kind == CARD_V_TUPLE) AM_TRY(card_refuse_op(a->pos, "an operator on several values at once"));
    CARD_CHECK(v.kind == CARD_V_VALUE, a->pos, "operand %d of `%s` must be a tensor, not %s", i + 1, x->text, card_kind_text(v.kind));
    *out = (int)v.i;
    const am_value *t = am_graph_value_at(e->g, *out);
    AM_TRY(card_dims_text(e, *out, &dims));
    CARD_CHECK(am_dtype_is_float(t->dtype), a->pos, "operand %d of `%s` holds integers (%s), not features", i + 1, x->text, t->name);
    CARD_CHECK(t->rank >= 2 && t->dim[0].role == AM_ROLE_TOKENS, a->pos, "operand %d of `%s` must be [tokens, features …], not %s", i + 1,
               x->text, dims.s);
done:
    am_str_release(&dims);
    return st;
}

/* keyword option: none or absent gives `fallback` */
static am_status number_option(card_elab *e, const card_ast *x, const char *name, double fallback, double *out)
{
    am_status       st = AM_OK;
    const card_arg *a = card_keyword(x, name);
    const char     *what = NULL;
    card_val        v;
    *out = fallback;
    if (!a) goto done;
    AM_TRY(card_eval(e, a->value, &v));
    if (v.kind == CARD_V_NONE) goto done;
    AM_TRY(card_printf(&e->arena, &what, "`%s` of %s", name, x->text));
    AM_TRY(card_want_number(e, &v, a->pos, what, out));
done:
    return st;
}

static am_status truth_option(card_elab *e, const card_ast *x, const char *name, bool *out)
{
    am_status       st = AM_OK;
    const card_arg *a = card_keyword(x, name);
    card_val        v;
    *out = false;
    if (!a) goto done;
    AM_TRY(card_eval(e, a->value, &v));
    AM_TRY(card_truth(&v, a->pos, out));
done:
    return st;
}

/* Options that are known to the language and have no operator: allowed only while off. */
static am_status refuse_option(card_elab *e, const card_ast *x, const char *name)
{
    am_status       st = AM_OK;
    const card_arg *a = card_keyword(x, name);
    const char     *what = NULL;
    card_val        v;
    if (!a) goto done;
    AM_TRY(card_eval(e, a->value, &v));
    if (v.kind == CARD_V_NONE || (v.kind == CARD_V_BOOL && !v.i)) goto done;
    AM_TRY(card_printf(&e->arena, &what, "%s(…, %s = …)", x->text, name));
    AM_TRY(card_refuse_op(a->pos, what));
done:
    return st;
}

static am_status number_operand(card_elab *e, const card_ast *x, int i, const char *name, double *out)
{
    am_status   st = AM_OK;
    card_val    v;
    const char *what = NULL;
    AM_TRY(card_eval(e, card_positional(x, i)->value, &v));
    AM_TRY(card_printf(&e->arena, &what, "`%s` of %s", name, x->text));
    AM_TRY(card_want_number(e, &v, card_positional(x, i)->pos, what, out));
done:
    return st;
}

static am_status want_layout(card_elab *e, const card_ast *x, int i, const am_layout **out)
{
    am_status       st = AM_OK;
    const card_arg *a = card_positional(x, i);
    CARD_CHECK(a->layout, a->pos, "the tensor of `%s` needs its dimensions: %s(…, name : H d)", x->text, x->text);
    AM_TRY(card_layout_resolve(e, a->layout, out));
done:
    return st;
}

/* The dims a value gets from a layout of one part; several parts would be several values. */
static am_status single_part(const card_ast *x, card_pos pos, const am_layout *l, am_layout_part *p)
{
    am_status st = AM_OK;
    char      what[96];
    int       parts = am_layout_num_parts(l);
    snprintf(what, sizeof what, "splitting one tensor into the %d values of a sum layout (%s)", parts, x->text);
    if (parts != 1) AM_TRY(card_refuse_op(pos, what));
    AM_TRY(am_layout_part_at(l, 0, p));
    CARD_CHECK(p->num_dims < AM_MAX_RANK, pos, "%d dimensions beside the tokens; %d are the most", p->num_dims, AM_MAX_RANK - 1);
done:
    return st;
}

/* value seen with the dims [N, part] */
static am_status view_as(card_elab *e, int value, const am_layout_part *p, int *out)
{
    am_status       st = AM_OK;
    am_dim          dims[AM_MAX_RANK];
    const am_value *v = am_graph_value_at(e->g, value);
    bool            same = v->rank == p->num_dims + 1;
    dims[0] = v->dim[0];
    for (int i = 0; i < p->num_dims; i++) {
        dims[i + 1] = p->dim[i];
        same = same && v->dim[i + 1].global == p->dim[i].global && strcmp(v->dim[i + 1].name, p->dim[i].name) == 0;
    }
    *out = value;
    if (!same) AM_TRY(am_graph_reshape(e->g, value, p->num_dims + 1, dims, out));
done:
    return st;
}

/* ---- weights ------------------------------------------------------------------------------------------------------------- */

/* P.b, .b, W[E]: a name, rather than true, false or none */
static bool is_name(const card_elab *e, const card_ast *x)
{
    if (x->kind == CARD_A_INDEX || x->kind == CARD_A_TRANSPOSE) return is_name(e, x->kid[0]);
    if (x->kind != CARD_A_PATH) return false;
    const card_val *v = x->seg[0].text ? card_lookup(e->frame, x->seg[0].text) : NULL;
    return x->relative || (v && v->kind == CARD_V_NAME);
}

static am_status bias_name(card_elab *e, const card_ast *x, const card_name *w, const card_name **out, const char **suffix)
{
    am_status       st = AM_OK;
    const card_arg *a = card_keyword(x, "bias");
    const char     *full = NULL;
    card_val        v = card_bool(false);
    bool            on = false;
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
    am_status        st = AM_OK;
    int              in[3] = {-1, -1, -1}, y = -1;
    const card_name *w = NULL, *b = NULL;
    const char      *suffix = NULL;
    const am_layout *axes[2];
    am_layout_part   part;
    AM_TRY(card_check_args(x, 2, 2, options));
    AM_TRY(tensor_operand(e, x, 0, &in[0]));
    const card_arg *arg = card_positional(x, 1);
    AM_TRY(card_eval_name(e, arg->value, &w));
    AM_TRY(want_layout(e, x, 1, &axes[0]));
    AM_TRY(single_part(x, arg->pos, axes[0], &part));
    const am_value *v = am_graph_value_at(e->g, in[0]);
    AM_TRY(card_layout_of_dims(e, v->dim + 1, v->rank - 1, &axes[1]));
    AM_TRY(card_param(e, w, w->stacked ? "" : ".weight", arg->pos, 2, axes, &in[1]));
    AM_TRY(bias_name(e, x, w, &b, &suffix));
    if (b) AM_TRY(card_param(e, &(card_name){.text = b->text, .stacked = b->stacked}, suffix, arg->pos, 1, axes, &in[2]));
    AM_TRY(emit(e, x->pos, "linear", in, b ? 3 : 2, NULL, &y));
    AM_TRY(view_as(e, y, &part, &y));
    *out = card_value(y);
done:
    return st;
}

/* embed(ids, W : D) has V rows; embed(pos, W : D, n) has n */
static am_status build_embed(card_elab *e, const card_ast *x, card_val *out)
{
    static const char *const options[] = {NULL};
    am_status        st = AM_OK;
    int              in[2], y = -1;
    const card_name *w = NULL;
    const am_layout *axes[2];
    am_layout_part   part;
    am_dim           rows;
    card_val         v;
    AM_TRY(card_check_args(x, 2, 3, options));
    AM_TRY(card_eval(e, card_positional(x, 0)->value, &v));
    CARD_CHECK(v.kind == CARD_V_VALUE && am_graph_value_at(e->g, (int)v.i)->dtype == AM_I32, card_positional(x, 0)->pos,
               "embed looks up integers: ids or pos, not %s", v.kind == CARD_V_VALUE ? "features" : card_kind_text(v.kind));
    in[0] = (int)v.i;
    const card_arg *arg = card_positional(x, 1), *third = card_positional(x, 2);
    AM_TRY(card_eval_name(e, arg->value, &w));
    CARD_CHECK(!w->transpose, arg->pos, "a table of embeddings cannot be transposed");
    const card_def *d = card_find_def(e->card, "V");
    if (third) AM_TRY(card_eval(e, third->value, &v));
    else if (d) AM_TRY(card_eval_def(e, d, &v));
    else CARD_FAIL(x->pos, "embed needs the number of rows: a definition `vocab V = vocab_size`, or a third operand");
    AM_TRY(card_dim_of(e, &v, third && third->value->kind == CARD_A_PATH ? third->value->text : "rows", third ? third->pos : x->pos, &rows));
    AM_TRY(card_layout_of_dims(e, &rows, 1, &axes[0]));
    AM_TRY(want_layout(e, x, 1, &axes[1]));
    AM_TRY(single_part(x, arg->pos, axes[1], &part));
    AM_TRY(card_param(e, w, ".weight", arg->pos, 2, axes, &in[1]));
    AM_TRY(emit(e, x->pos, "embed", in, 2, NULL, &y));
    AM_TRY(view_as(e, y, &part, &y));
    *out = card_value(y);
done:
    return st;
}

/* param(W : H d): a tensor as an operand of its own */
static am_status build_param(card_elab *e, const card_ast *x, card_val *out)
{
    static const char *const options[] = {NULL};
    am_status        st = AM_OK;
    const card_name *w = NULL;
    const am_layout *axis = NULL;
    am_dim           one = am_dim_number(1);
    am_layout_part   part;
    int              y = -1;
    AM_TRY(card_check_args(x, 1, 1, options));
    const card_arg *arg = card_positional(x, 0);
    AM_TRY(card_eval_name(e, arg->value, &w));
    if (arg->layout) AM_TRY(card_layout_resolve(e, arg->layout, &axis));
    else AM_TRY(card_layout_of_dims(e, &one, 1, &axis));
    AM_TRY(single_part(x, arg->pos, axis, &part));
    AM_TRY(card_param(e, w, "", arg->pos, 1, &axis, &y));
    if (part.num_dims > 1) AM_TRY(am_graph_reshape(e->g, y, part.num_dims, part.dim, &y));
    *out = card_value(y);
done:
    return st;
}

/* ---- norms ------------------------------------------------------------------------------------------------------------------ */

/* x with its last `n` dims as one, cut where the outermost of them is. */
static am_status join_last(card_elab *e, int value, int n, int *out)
{
    am_status       st = AM_OK;
    const am_value *v = am_graph_value_at(e->g, value);
    int             rank = v->rank - n + 1;
    am_dim          dims[AM_MAX_RANK];
    am_str          name = {0};
    for (int i = 0; i < rank; i++) dims[i] = v->dim[i];
    for (int i = rank - 1; i < v->rank; i++) AM_TRY(am_str_printf(&name, "%s%s", i >= rank ? " " : "", v->dim[i].name));
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
    am_status       st = AM_OK;
    const card_arg *arg = card_positional(x, 1);
    am_value        v = *am_graph_value_at(e->g, value);
    am_str          dims = {0};
    am_layout_part  p;
    *n = 1;
    if (!arg->layout) {
        AM_TRY(card_layout_of_dims(e, &v.dim[v.rank - 1], 1, axis));
        goto done;
    }
    AM_TRY(card_layout_resolve(e, arg->layout, axis));
    AM_TRY(single_part(x, arg->pos, *axis, &p));
    AM_TRY(card_dims_text(e, value, &dims));
    bool fits = p.num_dims >= 1 && p.num_dims < v.rank;
    for (int i = 0; fits && i < p.num_dims; i++) fits = strcmp(p.dim[i].name, v.dim[v.rank - p.num_dims + i].name) == 0;
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
    am_status        st = AM_OK;
    am_attrs         attrs = {0};
    int              in[2] = {-1, -1}, y = -1, n = 1;
    const card_name *w = NULL;
    const am_layout *axis = NULL;
    bool             f32 = false;
    AM_TRY(card_check_args(x, 2, 3, options));
    bool weighted = card_num_positional(x) == 3;
    AM_TRY(tensor_operand(e, x, 0, &in[0]));
    AM_TRY(number_operand(e, x, weighted ? 2 : 1, "eps", &attrs.eps));
    AM_TRY(number_option(e, x, "plus", 0, &attrs.plus));
    AM_TRY(truth_option(e, x, "weight_f32", &f32));
    AM_TRY(refuse_option(e, x, "groups"));
    attrs.weight_f32 = f32 || attrs.plus != 0; /* (1 + w) is multiplied before rounding wherever it occurs */
    am_value whole = *am_graph_value_at(e->g, in[0]);
    if (weighted) {
        const card_arg *arg = card_positional(x, 1);
        AM_TRY(card_eval_name(e, arg->value, &w));
        AM_TRY(norm_layout(e, x, in[0], &axis, &n));
        AM_TRY(card_param(e, w, ".weight", arg->pos, 1, &axis, &in[1]));
    }
    if (n > 1) AM_TRY(join_last(e, in[0], n, &in[0]));
    AM_TRY(emit(e, x->pos, "rmsnorm", in, weighted ? 2 : 1, &attrs, &y));
    if (n > 1) AM_TRY(am_graph_reshape(e->g, y, whole.rank, whole.dim, &y));
    *out = card_value(y);
done:
    return st;
}

/* ---- positions and attention --------------------------------------------------------------------------------------------------- */

/* rope(x, R, pairs = …); R none: no positions */
static am_status build_rope(card_elab *e, const card_ast *x, card_val *out)
{
    static const char *const options[] = {"pairs", NULL};
    am_status st = AM_OK;
    am_attrs  attrs = {0};
    int       in[3], y = -1;
    card_val  table;
    bool      pairs = false;
    am_str    dims = {0};
    AM_TRY(card_check_args(x, 2, 2, options));
    AM_TRY(tensor_operand(e, x, 0, &in[0]));
    AM_TRY(card_eval(e, card_positional(x, 1)->value, &table));
    AM_TRY(truth_option(e, x, "pairs", &pairs));
    *out = card_value(in[0]);
    if (table.kind == CARD_V_NONE) goto done;
    CARD_CHECK(table.kind == CARD_V_ROPE, card_positional(x, 1)->pos, "operand 2 of `rope` must be a rope_table or none, not %s",
               card_kind_text(table.kind));
    const am_value *v = am_graph_value_at(e->g, in[0]);
    AM_TRY(card_dims_text(e, in[0], &dims));
    CARD_CHECK(v->rank == 3 && v->dim[2].global >= table.rope->dim, x->pos,
               "rope turns [tokens, heads, width] with a width of at least %" PRId64 ", not %s", table.rope->dim, dims.s);
    AM_TRY(card_rope_values(e, table.rope, x->pos));
    in[1] = table.rope->cos;
    in[2] = table.rope->sin;
    attrs.pairs = pairs;
    AM_TRY(emit(e, x->pos, "rope", in, 3, &attrs, &y));
    *out = card_value(y);
done:
    am_str_release(&dims);
    return st;
}

static am_status attention_shapes(card_elab *e, const card_ast *x, const int *in)
{
    am_status       st = AM_OK;
    am_str          text[3] = {{0}, {0}, {0}};
    const am_value *v[3];
    bool            fits = true;
    for (int i = 0; i < 3; i++) {
        v[i] = am_graph_value_at(e->g, in[i]);
        AM_TRY(card_dims_text(e, in[i], &text[i]));
        fits = fits && v[i]->rank == 3;
    }
    fits = fits && v[0]->dim[2].global == v[1]->dim[2].global && v[1]->dim[1].global == v[2]->dim[1].global;
    CARD_CHECK(fits, x->pos, "attention takes q [N, H, d], k [N, K, d] and v [N, K, dv], not %s, %s and %s", text[0].s, text[1].s, text[2].s);
    CARD_CHECK(v[0]->dim[1].global % v[1]->dim[1].global == 0, x->pos,
               "attention: %" PRId64 " query heads cannot be shared out among %" PRId64 " kv heads", v[0]->dim[1].global,
               v[1]->dim[1].global);
done:
    for (int i = 0; i < 3; i++) am_str_release(&text[i]);
    return st;
}

static am_status attention_window(card_elab *e, const card_ast *x, am_attrs *attrs)
{
    am_status       st = AM_OK;
    const card_arg *a = card_keyword(x, "window");
    card_val        v;
    if (!a) goto done;
    AM_TRY(card_eval(e, a->value, &v));
    if (v.kind != CARD_V_NONE) AM_TRY(card_want_int(e, &v, a->pos, "the window of attention", 1, &attrs->window));
done:
    return st;
}

static am_status build_attention(card_elab *e, const card_ast *x, card_val *out)
{
    static const char *const options[] = {"scale", "window", "softcap", "chunk", "sinks", "alibi", "alibi_scale", NULL};
    am_status st = AM_OK;
    am_attrs  attrs = {0};
    int       in[6], y = -1;
    AM_TRY(card_check_args(x, 3, 3, options));
    for (int i = 0; i < 3; i++) AM_TRY(tensor_operand(e, x, i, &in[i]));
    AM_TRY(attention_shapes(e, x, in));
    AM_TRY(refuse_option(e, x, "chunk"));
    AM_TRY(refuse_option(e, x, "sinks"));
    AM_TRY(refuse_option(e, x, "alibi"));
    AM_TRY(attention_window(e, x, &attrs));
    const am_value *q = am_graph_value_at(e->g, in[0]), *k = am_graph_value_at(e->g, in[1]);
    attrs.group = q->dim[1].global / k->dim[1].global;
    AM_TRY(number_option(e, x, "scale", 1 / __builtin_sqrt((double)q->dim[2].global), &attrs.scale));
    AM_TRY(number_option(e, x, "softcap", 0, &attrs.softcap));
    AM_TRY(am_graph_input(e->g, "index", &in[3]));
    in[4] = in[3];
    AM_TRY(am_graph_input(e->g, "doc_start", &in[5]));
    AM_TRY(emit(e, x->pos, "attention", in, 6, &attrs, &y));
    *out = card_value(y);
done:
    return st;
}

/* ---- elementwise -------------------------------------------------------------------------------------------------------------------- */

static const struct {
    const char *name;
    am_act      act;
} activations[] = {
#define X(name, e) {name, AM_ACT_##e},
    AM_ACT_LIST(X)
#undef X
    {"swish", AM_ACT_SILU}, {"gelu_new", AM_ACT_GELU_TANH}, {"gelu_pytorch_tanh", AM_ACT_GELU_TANH}, {"gelu_fast", AM_ACT_GELU_TANH},
    {"gelu_python", AM_ACT_GELU},
};
enum { NUM_ACTIVATIONS = sizeof activations / sizeof *activations };

static int find_activation(const char *name)
{
    for (int i = 0; i < NUM_ACTIVATIONS; i++)
        if (strcmp(activations[i].name, name) == 0) return i;
    return -1;
}

static am_status emit_act(card_elab *e, const card_ast *x, const char *name, card_pos pos, int operand, card_val *out)
{
    am_status st = AM_OK;
    am_attrs  attrs = {0};
    int       in = -1, y = -1, a = find_activation(name);
    char      what[80];
    snprintf(what, sizeof what, "the activation \"%s\"", name);
    if (a < 0) AM_TRY(card_refuse_op(pos, what));
    attrs.act = activations[a].act;
    AM_TRY(tensor_operand(e, x, operand, &in));
    AM_TRY(emit(e, x->pos, "act", &in, 1, &attrs, &y));
    *out = card_value(y);
done:
    return st;
}

/* act(name, x) */
static am_status build_act(card_elab *e, const card_ast *x, card_val *out)
{
    static const char *const options[] = {NULL};
    am_status st = AM_OK;
    card_val  name;
    AM_TRY(card_check_args(x, 2, 2, options));
    card_pos pos = card_positional(x, 0)->pos;
    AM_TRY(card_eval(e, card_positional(x, 0)->value, &name));
    if (name.kind == CARD_V_NONE) AM_TRY(card_fail_none(e, &name, pos, "the activation"));
    CARD_CHECK(name.kind == CARD_V_STR, pos, "operand 1 of `act` must be the activation's name, not %s", card_kind_text(name.kind));
    AM_TRY(emit_act(e, x, name.s, pos, 1, out));
done:
    return st;
}

/* silu(x), gelu(x), … */
static am_status build_activation(card_elab *e, const card_ast *x, card_val *out)
{
    static const char *const options[] = {NULL};
    am_status st = AM_OK;
    AM_TRY(card_check_args(x, 1, 1, options));
    AM_TRY(emit_act(e, x, x->text, x->pos, 0, out));
done:
    return st;
}

/* softcap(x, c) = c · tanh(x / c); c none: x */
static am_status build_softcap(card_elab *e, const card_ast *x, card_val *out)
{
    static const char *const options[] = {NULL};
    am_status st = AM_OK;
    am_attrs  attrs = {0};
    card_val  c;
    int       in = -1, y = -1;
    AM_TRY(card_check_args(x, 2, 2, options));
    AM_TRY(tensor_operand(e, x, 0, &in));
    AM_TRY(card_eval(e, card_positional(x, 1)->value, &c));
    *out = card_value(in);
    if (c.kind == CARD_V_NONE) goto done;
    AM_TRY(card_want_number(e, &c, card_positional(x, 1)->pos, "the cap of softcap", &attrs.softcap));
    CARD_CHECK(attrs.softcap > 0, card_positional(x, 1)->pos, "the cap of softcap must be above 0");
    AM_TRY(emit(e, x->pos, "softcap", &in, 1, &attrs, &y));
    *out = card_value(y);
done:
    return st;
}

/* view(x : A B): the same features under other names */
static am_status build_view(card_elab *e, const card_ast *x, card_val *out)
{
    static const char *const options[] = {NULL};
    am_status        st = AM_OK;
    const am_layout *l = NULL;
    am_layout_part   part;
    int              in = -1, y = -1;
    am_str           dims = {0};
    AM_TRY(card_check_args(x, 1, 1, options));
    AM_TRY(tensor_operand(e, x, 0, &in));
    AM_TRY(want_layout(e, x, 0, &l));
    AM_TRY(single_part(x, x->pos, l, &part));
    const am_value *v = am_graph_value_at(e->g, in);
    AM_TRY(card_dims_text(e, in, &dims));
    CARD_CHECK(am_value_elements(v) / v->dim[0].local == l->size, x->pos, "a view of %" PRId64 " features onto %s", l->size, dims.s);
    AM_TRY(view_as(e, in, &part, &y));
    *out = card_value(y);
done:
    am_str_release(&dims);
    return st;
}

am_status card_graph_scale(card_elab *e, card_pos pos, int value, double factor, int *out)
{
    am_status st = AM_OK;
    am_attrs  attrs = {.scale = factor};
    *out = value;
    CARD_CHECK(am_dtype_is_float(am_graph_value_at(e->g, value)->dtype), pos, "arithmetic on integers (%s) has no operator: embed them first",
               am_graph_value_at(e->g, value)->name);
    if (factor != 1) AM_TRY(emit(e, pos, "scale", &value, 1, &attrs, out));
done:
    return st;
}

/* ---- + − * of tensors ------------------------------------------------------------------------------------------------------------------ */

static bool has_dim(const am_value *v, const am_dim *d)
{
    for (int i = 0; i < v->rank; i++)
        if (strcmp(v->dim[i].name, d->name) == 0 && v->dim[i].global == d->global) return true;
    return false;
}

static bool contains_dims(const am_value *a, const am_value *b)
{
    for (int i = 0; i < b->rank; i++)
        if (!has_dim(a, &b->dim[i])) return false;
    return true;
}

/* Equal dims pass.  Where one's contain the other's, the smaller would be repeated: the language allows it, no operator
 * does it.  All else is an error of the card: [N, K, d] + [N, H, d] must not broadcast silently. */
static am_status check_pair(card_elab *e, const card_ast *x, card_op op, int a, int b)
{
    am_status       st = AM_OK;
    am_str          left = {0}, right = {0};
    const am_value *v = am_graph_value_at(e->g, a), *w = am_graph_value_at(e->g, b);
    bool            same = v->rank == w->rank;
    for (int i = 0; same && i < v->rank; i++)
        same = strcmp(v->dim[i].name, w->dim[i].name) == 0 && v->dim[i].global == w->dim[i].global;
    if (same) goto done;
    AM_TRY(card_dims_text(e, a, &left));
    AM_TRY(card_dims_text(e, b, &right));
    if (contains_dims(v, w) || contains_dims(w, v))
        CARD_FAIL(x->pos, "`%s` of %s and %s repeats one operand over dimensions of the other, for which there is no operator",
                  card_op_text(op), left.s, right.s);
    CARD_FAIL(x->pos, "`%s` of %s and %s: the dimensions of one must be among those of the other", card_op_text(op), left.s, right.s);
done:
    am_str_release(&left);
    am_str_release(&right);
    return st;
}

/* tensor ± 0 is the tensor; any other number has no operator */
static am_status add_scalar(card_elab *e, const card_ast *x, card_op op, const card_val *a, const card_val *b, card_val *out)
{
    am_status       st = AM_OK;
    const card_val *s = a->kind == CARD_V_VALUE ? b : a;
    double          r = 0;
    AM_TRY(card_want_number(e, s, x->pos, "what is added to a tensor", &r));
    if (r != 0 || (op == CARD_OP_SUB && s == a)) AM_TRY(card_refuse_op(x->pos, "adding a number to a tensor"));
    *out = s == a ? *b : *a;
done:
    return st;
}

am_status card_graph_binary(card_elab *e, const card_ast *x, card_op op, const card_val *a, const card_val *b, card_val *out)
{
    am_status st = AM_OK;
    char      what[64];
    int       in[2] = {(int)a->i, (int)b->i}, y = -1;
    snprintf(what, sizeof what, "`%s` between tensors", card_op_text(op));
    if (a->kind == CARD_V_TUPLE || b->kind == CARD_V_TUPLE) AM_TRY(card_refuse_op(x->pos, "arithmetic on several values at once"));
    if (op != CARD_OP_ADD && op != CARD_OP_SUB && op != CARD_OP_MUL) AM_TRY(card_refuse_op(x->pos, what));
    if (a->kind != CARD_V_VALUE || b->kind != CARD_V_VALUE) {
        AM_TRY(add_scalar(e, x, op, a, b, out));
        goto done;
    }
    AM_TRY(check_pair(e, x, op, in[0], in[1]));
    if (op == CARD_OP_SUB) AM_TRY(card_graph_scale(e, x->pos, in[1], -1, &in[1]));
    CARD_CHECK(am_dtype_is_float(am_graph_value_at(e->g, in[0])->dtype), x->pos, "arithmetic on integers has no operator: embed them first");
    AM_TRY(emit(e, x->pos, op == CARD_OP_MUL ? "mul" : "add", in, 2, NULL, &y));
    *out = card_value(y);
done:
    return st;
}

/* ---- registered operators ------------------------------------------------------------------------------------------------------------------ */

static am_status set_attr(card_elab *e, const card_ast *x, const card_arg *a, am_attrs *attrs)
{
    static const struct {
        const char *name;
        char        type;
        size_t      offset;
    } fields[] = {
#define X(t, name, doc) {#name, #t[0], offsetof(am_attrs, name)},
        AM_ATTR_LIST(X)
#undef X
    };
    am_status   st = AM_OK;
    const char *names[sizeof fields / sizeof *fields], *what = NULL;
    size_t      n = sizeof fields / sizeof *fields;
    card_val    v;
    AM_TRY(card_eval(e, a->value, &v));
    AM_TRY(card_printf(&e->arena, &what, "`%s` of %s", a->keyword, x->text));
    for (size_t i = 0; i < n; i++) {
        names[i] = fields[i].name;
        if (strcmp(fields[i].name, a->keyword) != 0) continue;
        if (v.kind == CARD_V_NONE) goto done;
        if (v.kind == CARD_V_BOOL) v = card_int(v.i);
        if (fields[i].type == 'f') AM_TRY(card_want_number(e, &v, a->pos, what, (double *)((char *)attrs + fields[i].offset)));
        else AM_TRY(card_want_int(e, &v, a->pos, what, INT64_MIN, (int64_t *)((char *)attrs + fields[i].offset)));
        goto done;
    }
    const char *near = am_did_you_mean(a->keyword, names, n);
    CARD_FAIL(a->pos, "operators have no attribute `%s`%s%s%s", a->keyword, near ? "; did you mean `" : "", near ? near : "", near ? "`?" : "");
done:
    return st;
}

static am_status build_registered(card_elab *e, const card_ast *x, card_val *out)
{
    am_status st = AM_OK;
    am_attrs  attrs = {0};
    int       in[AM_MAX_IN], n = 0, y = -1;
    card_val  v;
    CARD_CHECK(card_num_positional(x) <= AM_MAX_IN, x->pos, "an operator takes at most %d operands", AM_MAX_IN);
    for (int i = 0; i < x->num_args; i++) {
        const card_arg *a = &x->arg[i];
        CARD_CHECK(a->value && !a->layout, a->pos, "operators take tensors, and numbers by name: name = value");
        if (a->keyword) {
            AM_TRY(set_attr(e, x, a, &attrs));
            continue;
        }
        AM_TRY(card_eval(e, a->value, &v));
        CARD_CHECK(v.kind == CARD_V_VALUE || v.kind == CARD_V_NONE, a->pos, "operand %d of `%s` must be a tensor or none, not %s", n + 1,
                   x->text, card_kind_text(v.kind));
        in[n++] = v.kind == CARD_V_VALUE ? (int)v.i : -1;
    }
    AM_TRY(emit(e, x->pos, x->text, in, n, &attrs, &y));
    *out = card_value(y);
done:
    return st;
}

/* ---- the table ----------------------------------------------------------------------------------------------------------------------------------- */

static const struct {
    const char *name;
    builder     build; /* NULL: a word of the language without an operator */
} builders[] = {
    {"linear", build_linear},   {"embed", build_embed},     {"param", build_param},     {"rmsnorm", build_rmsnorm},
    {"rope", build_rope},       {"attention", build_attention}, {"act", build_act},     {"softcap", build_softcap},
    {"view", build_view},       {"silu", build_activation}, {"gelu", build_activation}, {"gelu_tanh", build_activation},
    {"relu", build_activation}, {"relu2", build_activation}, {"sigmoid", build_activation}, {"tanh", build_activation},
    {"rope_table", NULL},       {"layernorm", NULL},        {"softmax", NULL},          {"softplus", NULL},
    {"log1p", NULL},            {"clamp", NULL},            {"where", NULL},            {"cat", NULL},
    {"conv", NULL},             {"ssd", NULL},              {"gated_delta", NULL},      {"topk", NULL},
    {"top", NULL},              {"argtop", NULL},           {"topmask", NULL},          {"slopes", NULL},
    {"detach", NULL},           {"f32", NULL},              {"flatten", NULL},
};
enum { NUM_BUILDERS = sizeof builders / sizeof *builders };

static int find_builder(const char *name)
{
    for (int i = 0; i < NUM_BUILDERS; i++)
        if (strcmp(builders[i].name, name) == 0) return i;
    return -1;
}

bool card_is_operator(const char *name) { return find_builder(name) >= 0; }

/* Rows of the graph's table a card may call by name: registered ones, and built-in ones that have a gradient (the others
 * are inner ones of the passes). */
static bool is_registered(const card_elab *e, const char *name)
{
    const am_op_def *d = am_graph_find_op(e->g, name);
    return d && (d->vjp || d != am_op_find(name));
}

bool card_knows_function(const card_elab *e, const char *name)
{
    return card_is_operator(name) || card_is_scalar_function(name) || is_registered(e, name);
}

am_status card_suggest_function(const card_elab *e, const char *name, const char **out)
{
    static const char *const scalar[] = {"len", "min", "max", "sum", "sqrt", "log", "exp", "abs", "low", "floor", "ceil", "int", "roundup",
                                         "index", "last", "given"};
    const char *names[NUM_BUILDERS + 16 + 64];
    size_t      n = 0;
    for (int i = 0; i < NUM_BUILDERS; i++) names[n++] = builders[i].name;
    for (size_t i = 0; i < sizeof scalar / sizeof *scalar; i++) names[n++] = scalar[i];
    for (int i = 0; i < e->card->funcs.num && i < 64; i++) names[n++] = ((card_func *)e->card->funcs.at[i])->name;
    *out = am_did_you_mean(name, names, n);
    return AM_OK;
}

am_status card_graph_call(card_elab *e, const card_ast *x, card_val *out)
{
    am_status st = AM_OK;
    int       b = find_builder(x->text);
    if (is_registered(e, x->text) && (b < 0 || !builders[b].build)) AM_TRY(build_registered(e, x, out));
    else if (b >= 0 && builders[b].build) AM_TRY(builders[b].build(e, x, out));
    else AM_TRY(card_refuse_op(x->pos, x->text));
done:
    return st;
}
