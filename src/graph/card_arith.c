/* card_arith: elementwise operators and views: activations, softcap, + − * of tensors, numbers as factors. */
#include "graph/card_internal.h"

#include <string.h>

/* ---- elementwise
 * --------------------------------------------------------------------------------------------------------------------
 */

static const struct {
    const char *name;
    am_act act;
} activations[] = {
#define X(name, e) {name, AM_ACT_##e},
    AM_ACT_LIST(X)
#undef X
        {"swish", AM_ACT_SILU},
    {"gelu_new", AM_ACT_GELU_TANH},
    {"gelu_pytorch_tanh", AM_ACT_GELU_TANH},
    {"gelu_fast", AM_ACT_GELU_TANH},
    {"gelu_python", AM_ACT_GELU},
};
enum { NUM_ACTIVATIONS = sizeof activations / sizeof *activations };

static int find_activation(const char *name)
{
    for (int i = 0; i < NUM_ACTIVATIONS; i++)
        if (strcmp(activations[i].name, name) == 0) return i;
    return -1;
}

static am_status emit_act(card_elab *e, const card_ast *x, const char *name, card_pos pos, int operand,
                          card_val *out)
{
    am_status st = AM_OK;
    am_attrs attrs = {0};
    int in = -1, y = -1, a = find_activation(name);
    char what[80];
    snprintf(what, sizeof what, "the activation \"%s\"", name);
    if (a < 0) AM_TRY(card_refuse_op(pos, what));
    attrs.act = activations[a].act;
    AM_TRY(card_tensor_operand(e, x, operand, &in));
    AM_TRY(card_emit(e, x->pos, "act", &in, 1, &attrs, &y));
    *out = card_value(y);
done:
    return st;
}

/* act(name, x) */
static am_status build_act(card_elab *e, const card_ast *x, card_val *out)
{
    static const char *const options[] = {NULL};
    am_status st = AM_OK;
    card_val name;
    AM_TRY(card_check_args(x, 2, 2, options));
    card_pos pos = card_positional(x, 0)->pos;
    AM_TRY(card_eval(e, card_positional(x, 0)->value, &name));
    if (name.kind == CARD_V_NONE) AM_TRY(card_fail_none(e, &name, pos, "the activation"));
    CARD_CHECK(name.kind == CARD_V_STR, pos, "operand 1 of `act` must be the activation's name, not %s",
               card_kind_text(name.kind));
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
    am_attrs attrs = {0};
    card_val c;
    int in = -1, y = -1;
    AM_TRY(card_check_args(x, 2, 2, options));
    AM_TRY(card_tensor_operand(e, x, 0, &in));
    AM_TRY(card_eval(e, card_positional(x, 1)->value, &c));
    *out = card_value(in);
    if (c.kind == CARD_V_NONE) goto done;
    AM_TRY(card_want_number(e, &c, card_positional(x, 1)->pos, "the cap of softcap", &attrs.softcap));
    CARD_CHECK(attrs.softcap > 0, card_positional(x, 1)->pos, "the cap of softcap must be above 0");
    AM_TRY(card_emit(e, x->pos, "softcap", &in, 1, &attrs, &y));
    *out = card_value(y);
done:
    return st;
}

/* view(x : A B): the same features under other names */
static am_status build_view(card_elab *e, const card_ast *x, card_val *out)
{
    static const char *const options[] = {NULL};
    am_status st = AM_OK;
    const am_layout *l = NULL;
    am_layout_part part;
    int in = -1, y = -1;
    am_str dims = {0};
    AM_TRY(card_check_args(x, 1, 1, options));
    AM_TRY(card_tensor_operand(e, x, 0, &in));
    AM_TRY(card_want_layout(e, x, 0, &l));
    AM_TRY(card_single_part(x, x->pos, l, &part));
    const am_value *v = am_graph_value_at(e->g, in);
    AM_TRY(card_dims_text(e, in, &dims));
    CARD_CHECK(am_value_elements(v) / v->dim[0].local == l->size, x->pos,
               "a view of %" PRId64 " features onto %s", l->size, dims.s);
    AM_TRY(card_view_as(e, in, &part, &y));
    *out = card_value(y);
done:
    am_str_release(&dims);
    return st;
}

am_status card_graph_scale(card_elab *e, card_pos pos, int value, double factor, int *out)
{
    am_status st = AM_OK;
    am_attrs attrs = {.scale = factor};
    *out = value;
    CARD_CHECK(am_dtype_is_float(am_graph_value_at(e->g, value)->dtype), pos,
               "arithmetic on integers (%s) has no operator: embed them first",
               am_graph_value_at(e->g, value)->name);
    if (factor != 1) AM_TRY(card_emit(e, pos, "scale", &value, 1, &attrs, out));
done:
    return st;
}

/* ---- + − * of tensors
 * ------------------------------------------------------------------------------------------------------------------
 */

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

/* Equal dims pass.  Where one's contain the other's, the smaller would be repeated: the language allows it,
 * no operator does it.  All else is an error of the card: [N, K, d] + [N, H, d] must not broadcast silently.
 */
static am_status check_pair(card_elab *e, const card_ast *x, card_op op, int a, int b)
{
    am_status st = AM_OK;
    am_str left = {0}, right = {0};
    const am_value *v = am_graph_value_at(e->g, a), *w = am_graph_value_at(e->g, b);
    bool same = v->rank == w->rank;
    for (int i = 0; same && i < v->rank; i++)
        same = strcmp(v->dim[i].name, w->dim[i].name) == 0 && v->dim[i].global == w->dim[i].global;
    if (same) goto done;
    AM_TRY(card_dims_text(e, a, &left));
    AM_TRY(card_dims_text(e, b, &right));
    if (contains_dims(v, w) || contains_dims(w, v))
        CARD_FAIL(x->pos,
                  "`%s` of %s and %s repeats one operand over dimensions of the other, for which there is no "
                  "operator",
                  card_op_text(op), left.s, right.s);
    CARD_FAIL(x->pos, "`%s` of %s and %s: the dimensions of one must be among those of the other",
              card_op_text(op), left.s, right.s);
done:
    am_str_release(&left);
    am_str_release(&right);
    return st;
}

/* tensor ± 0 is the tensor; any other number has no operator */
static am_status add_scalar(card_elab *e, const card_ast *x, card_op op, const card_val *a, const card_val *b,
                            card_val *out)
{
    am_status st = AM_OK;
    const card_val *s = a->kind == CARD_V_VALUE ? b : a;
    double r = 0;
    AM_TRY(card_want_number(e, s, x->pos, "what is added to a tensor", &r));
    if (r != 0 || (op == CARD_OP_SUB && s == a))
        AM_TRY(card_refuse_op(x->pos, "adding a number to a tensor"));
    *out = s == a ? *b : *a;
done:
    return st;
}

am_status card_graph_binary(card_elab *e, const card_ast *x, card_op op, const card_val *a, const card_val *b,
                            card_val *out)
{
    am_status st = AM_OK;
    char what[64];
    int in[2] = {(int)a->i, (int)b->i}, y = -1;
    snprintf(what, sizeof what, "`%s` of tensors", card_op_text(op));
    if (a->kind == CARD_V_TUPLE || b->kind == CARD_V_TUPLE)
        AM_TRY(card_refuse_op(x->pos, "arithmetic on several values at once"));
    if (op != CARD_OP_ADD && op != CARD_OP_SUB && op != CARD_OP_MUL) AM_TRY(card_refuse_op(x->pos, what));
    if (a->kind != CARD_V_VALUE || b->kind != CARD_V_VALUE) {
        AM_TRY(add_scalar(e, x, op, a, b, out));
        goto done;
    }
    AM_TRY(check_pair(e, x, op, in[0], in[1]));
    if (op == CARD_OP_SUB) AM_TRY(card_graph_scale(e, x->pos, in[1], -1, &in[1]));
    CARD_CHECK(am_dtype_is_float(am_graph_value_at(e->g, in[0])->dtype), x->pos,
               "arithmetic on integers has no operator: embed them first");
    AM_TRY(card_emit(e, x->pos, op == CARD_OP_MUL ? "mul" : "add", in, 2, NULL, &y));
    *out = card_value(y);
done:
    return st;
}

const card_builder card_arith_builders[] = {
    {"act", build_act},
    {"softcap", build_softcap},
    {"view", build_view},
    {"silu", build_activation},
    {"gelu", build_activation},
    {"gelu_tanh", build_activation},
    {"relu", build_activation},
    {"relu2", build_activation},
    {"sigmoid", build_activation},
    {"tanh", build_activation},
    {NULL, NULL},
};
