/* card_arith: elementwise operators and views: activations, softcap, + − * of tensors, numbers as factors. */
#include "graph/card_internal.h"
#include "graph/ops_internal.h"

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
    {"gelu_python_tanh", AM_ACT_GELU_TANH},
    {"gelu_accurate", AM_ACT_GELU_TANH},
    {"relu_squared", AM_ACT_RELU2},
};
enum { NUM_ACTIVATIONS = sizeof activations / sizeof *activations };

static int find_activation(const char *name)
{
    for (int i = 0; i < NUM_ACTIVATIONS; i++)
        if (strcmp(activations[i].name, name) == 0) return i;
    return -1;
}

static am_status unknown_activation(const char *name, card_pos pos)
{
    am_status st = AM_OK;
    am_str known = {0};
    for (int i = 0; i < NUM_ACTIVATIONS; i++)
        AM_TRY(am_str_printf(&known, "%s%s", i ? ", " : "", activations[i].name));
    CARD_FAIL(pos, "there is no activation \"%s\"; there are linear, %s", name, known.s);
done:
    am_str_release(&known);
    return st;
}

static am_status emit_act(card_elab *e, const card_ast *x, const char *name, card_pos pos, int operand,
                          card_val *out)
{
    am_status st = AM_OK;
    am_attrs attrs = {0};
    int in = -1, y = -1, a = find_activation(name);
    if (strcmp(name, "linear") == 0) { /* the name of no activation */
        AM_TRY(card_features_operand(e, x, operand, &in));
        *out = card_value(in);
        goto done;
    }
    if (a < 0) AM_TRY(unknown_activation(name, pos));
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

/* xielu(x, P): the tensors P.alpha_p and P.alpha_n are trained, P.beta and P.eps are not */
static am_status build_xielu(card_elab *e, const card_ast *x, card_val *out)
{
    static const char *const options[] = {NULL}, *const parts[] = {".alpha_p", ".alpha_n", ".beta", ".eps"};
    am_status st = AM_OK;
    am_dim one = am_dim_number(1);
    const am_layout *axis = NULL;
    const card_name *w = NULL;
    int in[5], y = -1;
    AM_TRY(card_check_args(x, 2, 2, options));
    AM_TRY(card_tensor_operand(e, x, 0, &in[0]));
    AM_TRY(card_eval_name(e, card_positional(x, 1)->value, &w));
    AM_TRY(card_layout_of_dims(e, &one, 1, &axis));
    for (int i = 0; i < 4; i++) {
        AM_TRY(card_param(e, w, parts[i], x->pos, 1, &axis, &in[1 + i]));
        if (i >= 2) am_graph_param_at(e->g, am_graph_value_at(e->g, in[1 + i])->param)->trainable = false;
    }
    AM_TRY(card_emit(e, x->pos, "xielu", in, 5, NULL, &y));
    *out = card_value(y);
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
    AM_TRY(card_as_features(e, pos, value, &value));
    *out = value;
    if (factor != 1) AM_TRY(card_emit(e, pos, "scale", &value, 1, &attrs, out));
done:
    return st;
}

/* ---- tensors and numbers -------------------------------------------------------------------------------- */

/* Equal dims pass; so do dims that are among the other's, whose operand is repeated.  All else is an error of the card:
 * [N, K, d] + [N, H, d] must not broadcast silently. */
static am_status check_pair(card_elab *e, const card_ast *x, card_op op, int a, int b, bool *same)
{
    am_status st = AM_OK;
    am_str left = {0}, right = {0};
    const am_value *v = am_graph_value_at(e->g, a), *w = am_graph_value_at(e->g, b);
    int64_t mask = 0, all = ((int64_t)1 << v->rank) - 1;
    const bool within = am_op_dims_within(v, w, &mask);
    *same = within && mask == all;
    if (within || am_op_dims_within(w, v, &mask)) goto done;
    AM_TRY(card_dims_text(e, a, &left));
    AM_TRY(card_dims_text(e, b, &right));
    CARD_FAIL(x->pos, "`%s` of %s and %s: the dimensions of one must be among those of the other",
              card_op_text(op), left.s, right.s);
done:
    am_str_release(&left);
    am_str_release(&right);
    return st;
}

/* tensor ** number */
static am_status power(card_elab *e, const card_ast *x, double r, am_attrs *attrs)
{
    am_status st = AM_OK;
    attrs->scale = 1;
    attrs->map = r == 2 ? AM_MAP_SQUARE : r == 0.5 ? AM_MAP_ROOT : r == -0.5 ? AM_MAP_RSQRT : AM_MAP_RECIPROCAL;
    CARD_CHECK(r == 2 || r == 0.5 || r == -0.5 || r == -1, x->pos, "a tensor to the power of %.10g has no operator: 2, 0.5, -0.5, -1",
               r);
    (void)e;
done:
    return st;
}

/* What tensor op number is, as a function of one number; left: the number stands on the left. */
static am_status scalar_map(card_elab *e, const card_ast *x, card_op op, double r, bool left, am_attrs *attrs)
{
    am_status st = AM_OK;
    static const am_map straight[] = {[CARD_OP_EQ] = AM_MAP_EQ, [CARD_OP_NE] = AM_MAP_NE, [CARD_OP_LE] = AM_MAP_LE,
                                      [CARD_OP_GE] = AM_MAP_GE, [CARD_OP_LT] = AM_MAP_LT, [CARD_OP_GT] = AM_MAP_GT};
    static const am_map turned[] = {[CARD_OP_EQ] = AM_MAP_EQ, [CARD_OP_NE] = AM_MAP_NE, [CARD_OP_LE] = AM_MAP_GE,
                                    [CARD_OP_GE] = AM_MAP_LE, [CARD_OP_LT] = AM_MAP_GT, [CARD_OP_GT] = AM_MAP_LT};
    *attrs = (am_attrs){.map = AM_MAP_AFFINE, .scale = 1, .shift = r};
    if (op == CARD_OP_SUB && left)
        attrs->scale = -1;
    else if (op == CARD_OP_SUB)
        attrs->shift = -r;
    else if (op == CARD_OP_MUL || (op == CARD_OP_DIV && !left))
        *attrs = (am_attrs){.map = AM_MAP_AFFINE, .scale = op == CARD_OP_MUL ? r : 1 / r};
    else if (op == CARD_OP_DIV)
        *attrs = (am_attrs){.map = AM_MAP_RECIPROCAL, .scale = r};
    else if (op == CARD_OP_POW && !left)
        AM_TRY(power(e, x, r, attrs));
    else if (op >= CARD_OP_EQ && op <= CARD_OP_GT)
        *attrs = (am_attrs){.map = left ? turned[op] : straight[op], .shift = r};
    else if (op != CARD_OP_ADD)
        CARD_FAIL(x->pos, "`%s` of a tensor and a number has no operator", card_op_text(op));
done:
    return st;
}

static am_status with_number(card_elab *e, const card_ast *x, card_op op, const card_val *a, const card_val *b, card_val *out)
{
    am_status st = AM_OK;
    const bool left = a->kind != CARD_V_VALUE;
    const card_val *s = left ? a : b, *t = left ? b : a;
    am_attrs attrs;
    double r = 0;
    int value = (int)t->i, y = -1;
    AM_TRY(card_want_number(e, s, x->pos, "the other side of a tensor", &r));
    *out = *t;
    if (r == 0 && (op == CARD_OP_ADD || (op == CARD_OP_SUB && !left))) goto done;
    AM_TRY(scalar_map(e, x, op, r, left, &attrs));
    const am_value *v = am_graph_value_at(e->g, value);
    if (op >= CARD_OP_EQ && !am_dtype_is_float(v->dtype)) /* integers can be compared */
        AM_TRY(card_cast(e, x->pos, value, e->g->precise, &value));
    if (attrs.map == AM_MAP_AFFINE && attrs.shift == 0) {
        AM_TRY(card_as_features(e, x->pos, value, &value));
        AM_TRY(card_graph_scale(e, x->pos, value, attrs.scale, &y));
    } else {
        AM_TRY(card_map(e, x->pos, value, &attrs, &y));
    }
    *out = card_value(y);
done:
    return st;
}

static am_status pair_of(card_elab *e, const card_ast *x, card_op op, int *in, am_pair *p)
{
    am_status st = AM_OK;
    const bool turn = op == CARD_OP_GT || op == CARD_OP_GE;
    const int first = in[0];
    switch (op) {
    case CARD_OP_ADD: *p = AM_PAIR_ADD; break;
    case CARD_OP_SUB: *p = AM_PAIR_SUB; break;
    case CARD_OP_MUL: *p = AM_PAIR_MUL; break;
    case CARD_OP_DIV: *p = AM_PAIR_DIV; break;
    case CARD_OP_LT: case CARD_OP_GT: *p = AM_PAIR_LT; break;
    case CARD_OP_LE: case CARD_OP_GE: *p = AM_PAIR_LE; break;
    case CARD_OP_EQ: *p = AM_PAIR_EQ; break;
    default: CARD_FAIL(x->pos, "`%s` of tensors has no operator", card_op_text(op));
    }
    if (turn) {
        in[0] = in[1];
        in[1] = first;
    }
done:
    return st;
}

am_status card_graph_binary(card_elab *e, const card_ast *x, card_op op, const card_val *a, const card_val *b,
                            card_val *out)
{
    am_status st = AM_OK;
    int in[2] = {(int)a->i, (int)b->i}, y = -1;
    bool sorted = false, same = false;
    am_pair pair = AM_PAIR_ADD;
    if (a->kind == CARD_V_TUPLE || b->kind == CARD_V_TUPLE) return card_map_binary(e, x, op, a, b, out);
    if (a->kind != CARD_V_VALUE || b->kind != CARD_V_VALUE) {
        AM_TRY(with_number(e, x, op, a, b, out));
        goto done;
    }
    AM_TRY(card_sorted_pair(e, x->pos, op, in, &sorted, &y));
    *out = card_value(y);
    if (sorted) goto done;
    for (int i = 0; i < 2; i++) AM_TRY(card_as_features(e, x->pos, in[i], &in[i]));
    AM_TRY(check_pair(e, x, op, in[0], in[1], &same));
    AM_TRY(card_promote(e, x->pos, in, 2));
    AM_TRY(pair_of(e, x, op, in, &pair));
    const char *row = !same ? "pair" : pair == AM_PAIR_ADD ? "add" : pair == AM_PAIR_MUL ? "mul" : "pair";
    am_attrs attrs = {.pair = pair};
    AM_TRY(card_emit(e, x->pos, row, in, 2, strcmp(row, "pair") == 0 ? &attrs : NULL, &y));
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
    {"quick_gelu", build_activation},
    {"relu6", build_activation},
    {"mish", build_activation},
    {"xielu", build_xielu},
    {NULL, NULL},
};
