/* card_ops: operators with weights, norms and positions: operand checks in the card's words,
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
    CARD_CHECK(v.kind != CARD_V_TUPLE, a->pos, "operand %d of `%s` is %d values; it takes one", i + 1, x->text, v.num);
    CARD_CHECK(v.kind == CARD_V_VALUE, a->pos, "operand %d of `%s` must be a tensor, not %s", i + 1, x->text,
               card_kind_text(v.kind));
    *out = (int)v.i;
    const am_value *t = am_graph_value_at(e->g, *out);
    AM_TRY(card_dims_text(e, *out, &dims));
    CARD_CHECK(am_dtype_is_float(t->dtype), a->pos, "operand %d of `%s` holds integers (%s), not features",
               i + 1, x->text, t->name);
    CARD_CHECK(t->rank >= 1 && t->dim[0].role == AM_ROLE_TOKENS, a->pos,
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
    int parts = am_layout_num_parts(l);
    CARD_CHECK(parts == 1, pos, "`%s` gives one value; this layout has %d parts (linear, embed and param give several)",
               x->text, parts);
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

/* The suffix of a weight: a stacked tensor is given by its full name. */
static const char *weight_suffix(const card_name *n)
{
    return n->stacked && !n->many ? "" : ".weight";
}

/* linear(x, W : H d, bias = …); linear(x, W : H d + K d + K d) gives three values */
static am_status build_linear(card_elab *e, const card_ast *x, card_val *out)
{
    static const char *const options[] = {"bias", NULL};
    am_status st = AM_OK;
    int in[3] = {-1, -1, -1}, y = -1, num = 0, same = 0;
    const card_name *w = NULL, *b = NULL, *own = NULL;
    const char *suffix = NULL;
    const am_layout *axes[2];
    const card_part *weight = NULL, *bias = NULL;
    card_val *item = NULL;
    AM_TRY(card_check_args(x, 2, 2, options));
    AM_TRY(card_tensor_operand(e, x, 0, &in[0]));
    const card_arg *arg = card_positional(x, 1);
    AM_TRY(card_eval_name(e, arg->value, &w));
    AM_TRY(card_want_layout(e, x, 1, &axes[0]));
    bool experts = w->stacked && w->axis.role == AM_ROLE_EXPERTS;
    if (experts) AM_TRY(card_sorted_operand(e, arg->pos, &in[0]));
    const am_value *v = am_graph_value_at(e->g, in[0]);
    const bool blocks = w->stacked && !experts; /* W[H] of a value [N, H, …]: a matrix for each */
    if (blocks) AM_TRY(card_want_blocks(e, x, w, v));
    AM_TRY(card_layout_of_dims(e, v->dim + 1 + blocks, v->rank - 1 - blocks, &axes[1]));
    AM_TRY(card_weights(e, w, weight_suffix(w), arg->pos, 2, axes, 0, &weight, &num));
    own = w; /* of a tied head the bias keeps the head's name */
    if (arg->value->kind == CARD_A_ALT) AM_TRY(card_eval_name(e, arg->value->kid[0], &own));
    AM_TRY(bias_name(e, x, own, &b, &suffix));
    card_name plain = b ? *b : (card_name){0};
    plain.transpose = false;
    if (b) AM_TRY(card_weights(e, &plain, suffix, arg->pos, 1, axes, 0, &bias, &same));
    AM_TRY(card_alloc(&e->arena, (size_t)num * sizeof *item, &item));
    for (int k = 0; k < num; k++) {
        in[1] = weight[k].value;
        if (b) in[2] = bias[k].value;
        for (int i = 1; i < 2 + (b != NULL) && !experts; i++) /* it computes in its input's type */
            AM_TRY(card_cast(e, arg->pos, in[i], am_graph_value_at(e->g, in[0])->dtype, &in[i]));
        AM_TRY(experts ? card_emit_grouped(e, x->pos, in, &y)
                       : card_emit(e, x->pos, blocks ? "block_linear" : "linear", in, b ? 3 : 2, NULL, &y));
        if (!blocks) AM_TRY(card_view_as(e, y, &weight[k].dims, &y));
        item[k] = card_value(y);
    }
    *out = card_part_values(arg->layout, item, num);
done:
    return st;
}

static am_status embed_rows(card_elab *e, const card_ast *x, const am_layout **axis)
{
    am_status st = AM_OK;
    const card_arg *third = card_positional(x, 2);
    const card_def *d = card_find_def(e->card, "V");
    card_val v;
    am_dim rows;
    CARD_CHECK(third || d, x->pos,
               "embed needs the number of rows: a definition `vocab V = vocab_size`, or a third operand");
    if (third)
        AM_TRY(card_eval(e, third->value, &v));
    else
        AM_TRY(card_eval_def(e, d, &v));
    AM_TRY(card_dim_of(e, &v, third && third->value->kind == CARD_A_PATH ? third->value->text : "rows",
                       third ? third->pos : x->pos, &rows));
    AM_TRY(card_layout_of_dims(e, &rows, 1, axis));
done:
    return st;
}

/* embed(ids, W : D) has V rows; embed(pos, W : D, n) has n; embed(ids, W : [L] p) gives L values; offset: row ids + offset */
static am_status build_embed(card_elab *e, const card_ast *x, card_val *out)
{
    static const char *const options[] = {"offset", NULL};
    am_status st = AM_OK;
    int in[2], y = -1, num = 0;
    am_attrs attrs = {0};
    double offset = 0;
    const card_name *w = NULL;
    const am_layout *axes[2];
    const card_part *table = NULL;
    card_val v, *item = NULL;
    AM_TRY(card_check_args(x, 2, 3, options));
    AM_TRY(card_eval(e, card_positional(x, 0)->value, &v));
    CARD_CHECK(v.kind == CARD_V_VALUE && am_graph_value_at(e->g, (int)v.i)->dtype == AM_I32,
               card_positional(x, 0)->pos, "embed looks up integers: ids or pos, not %s",
               v.kind == CARD_V_VALUE ? "features" : card_kind_text(v.kind));
    in[0] = (int)v.i;
    const card_arg *arg = card_positional(x, 1);
    AM_TRY(card_eval_name(e, arg->value, &w));
    CARD_CHECK(!w->transpose && !w->stacked, arg->pos, "a table of embeddings cannot be transposed or of experts");
    AM_TRY(embed_rows(e, x, &axes[0]));
    AM_TRY(card_number_option(e, x, "offset", 0, &offset));
    attrs.offset = (int64_t)offset;
    AM_TRY(card_want_layout(e, x, 1, &axes[1]));
    AM_TRY(card_weights(e, w, ".weight", arg->pos, 2, axes, 1, &table, &num));
    AM_TRY(card_alloc(&e->arena, (size_t)num * sizeof *item, &item));
    for (int k = 0; k < num; k++) {
        in[1] = table[k].value;
        AM_TRY(card_emit(e, x->pos, "embed", in, 2, &attrs, &y));
        AM_TRY(card_view_as(e, y, &table[k].dims, &y));
        item[k] = card_value(y);
    }
    *out = card_part_values(arg->layout, item, num);
done:
    return st;
}

/* param(W : H d): a tensor as an operand of its own; with a sum, several.  W[E] and P.{E}.w: [E, H d]. */
static am_status build_param(card_elab *e, const card_ast *x, card_val *out)
{
    static const char *const options[] = {"buffer", NULL};
    am_status st = AM_OK;
    const card_name *w = NULL;
    const am_layout *axis = NULL;
    const card_part *part = NULL;
    am_dim one = am_dim_number(1);
    int num = 0;
    bool buffer = false;
    card_val *item = NULL;
    AM_TRY(card_check_args(x, 1, 1, options));
    const card_arg *arg = card_positional(x, 0);
    AM_TRY(card_eval_name(e, arg->value, &w));
    if (arg->layout)
        AM_TRY(card_layout_resolve(e, arg->layout, &axis));
    else
        AM_TRY(card_layout_of_dims(e, &one, 1, &axis));
    AM_TRY(card_weights(e, w, "", arg->pos, 1, &axis, 0, &part, &num));
    AM_TRY(card_alloc(&e->arena, (size_t)num * sizeof *item, &item));
    AM_TRY(card_truth_option(e, x, "buffer", &buffer)); /* loaded and written again, never trained */
    for (int k = 0; k < num; k++) {
        int y = part[k].value;
        if (buffer) am_graph_param_at(e->g, am_graph_value_at(e->g, y)->param)->trainable = false;
        bool plain = !w->stacked || w->axis.role != AM_ROLE_EXPERTS;
        if (part[k].dims.num_dims > 1 && plain) AM_TRY(am_graph_reshape(e->g, y, part[k].dims.num_dims, part[k].dims.dim, &y));
        item[k] = card_value(y);
    }
    *out = card_part_values(arg->layout, item, num);
done:
    return st;
}

/* ---- positions
 * --------------------------------------------------------------------------------------------------- */

/* rope(x, R, pairs = …); R none: no positions */
static am_status build_rope(card_elab *e, const card_ast *x, card_val *out)
{
    static const char *const options[] = {"pairs", "negated", NULL};
    am_status st = AM_OK;
    am_attrs attrs = {0};
    int in[3], y = -1;
    card_val table;
    bool pairs = false, negated = false;
    am_str dims = {0};
    AM_TRY(card_check_args(x, 2, 2, options));
    AM_TRY(card_tensor_operand(e, x, 0, &in[0]));
    AM_TRY(card_eval(e, card_positional(x, 1)->value, &table));
    AM_TRY(card_truth_option(e, x, "pairs", &pairs));
    AM_TRY(card_truth_option(e, x, "negated", &negated));
    *out = card_value(in[0]);
    if (table.kind == CARD_V_NONE) goto done;
    CARD_CHECK(table.kind == CARD_V_ROPE, card_positional(x, 1)->pos,
               "operand 2 of `rope` must be a rope_table or none, not %s", card_kind_text(table.kind));
    const am_value *v = am_graph_value_at(e->g, in[0]);
    AM_TRY(card_dims_text(e, in[0], &dims));
    am_value plain = *v; /* [tokens, width] is turned as one head */
    am_dim one_head[3] = {v->dim[0], am_dim_number(1), v->dim[v->rank - 1]};
    CARD_CHECK((v->rank == 3 || v->rank == 2) && one_head[2].global >= table.rope->dim, x->pos,
               "rope turns [tokens, heads, width] or [tokens, width] with a width of at least %" PRId64 ", not %s",
               table.rope->dim, dims.s);
    if (plain.rank == 2) AM_TRY(am_graph_reshape(e->g, in[0], 3, one_head, &in[0]));
    AM_TRY(card_rope_values(e, table.rope, x->pos));
    in[1] = table.rope->cos;
    in[2] = table.rope->sin;
    attrs.pairs = pairs;
    attrs.inverse = negated; /* by the angles the other way round */
    AM_TRY(card_emit(e, x->pos, "rope", in, 3, &attrs, &y));
    if (plain.rank == 2) AM_TRY(am_graph_reshape(e->g, y, 2, plain.dim, &y));
    *out = card_value(y);
done:
    am_str_release(&dims);
    return st;
}

const card_builder card_tensor_builders[] = {
    {"linear", build_linear},
    {"embed", build_embed},
    {"param", build_param},
    {"rope", build_rope},
    {NULL, NULL},
};
