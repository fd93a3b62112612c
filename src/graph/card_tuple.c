/* card_tuple: several values as one operand: silu((a, b)) is (silu(a), silu(b)), (a, b) * 2 + (c, d) works value by value.
 * An operator is built once for each value, with its operand given instead of evaluated. */
#include "graph/card_internal.h"

#include <string.h>

/* Operators that work on each of several values by itself, and which operand that is. */
static const struct {
    const char *name;
    int operand;
} mapped[] = {
    {"act", 1},     {"silu", 0},     {"gelu", 0},  {"gelu_tanh", 0}, {"relu", 0},      {"relu2", 0},   {"sigmoid", 0},
    {"tanh", 0},    {"softcap", 0},  {"rope", 0}, {"rmsnorm", 0}, {"layernorm", 0},  {"softmax", 0}, {"softplus", 0},
    {"clamp", 0},   {"exp", 0},      {"log1p", 0}, {"floor", 0},     {"f32", 0},       {"low", 0},     {"detach", 0},
};

static const card_ast *mapped_operand(const card_ast *call)
{
    for (size_t i = 0; i < sizeof mapped / sizeof *mapped; i++) {
        const card_arg *a = strcmp(mapped[i].name, call->text) == 0 ? card_positional(call, mapped[i].operand) : NULL;
        if (a) return a->value;
    }
    return NULL;
}

static am_status build_given(card_elab *e, const card_ast *call, card_build_fn build, const card_ast *operand,
                             const card_val *v, card_val *out)
{
    card_given given = {operand, v, e->given};
    e->given = &given;
    am_status st = build(e, call, out);
    e->given = given.outer;
    return st;
}

am_status card_build(card_elab *e, const card_ast *call, card_build_fn build, card_val *out)
{
    am_status st = AM_OK;
    const card_ast *operand = mapped_operand(call);
    card_val v, *item = NULL;
    if (!operand) {
        AM_TRY(build(e, call, out));
        goto done;
    }
    AM_TRY(card_eval(e, operand, &v));
    if (v.kind != CARD_V_TUPLE) {
        AM_TRY(build_given(e, call, build, operand, &v, out));
        goto done;
    }
    AM_TRY(card_alloc(&e->arena, (size_t)v.num * sizeof *item, &item));
    for (int i = 0; i < v.num; i++) AM_TRY(build_given(e, call, build, operand, &v.item[i], &item[i]));
    *out = (card_val){.kind = CARD_V_TUPLE, .num = v.num, .item = item};
done:
    return st;
}

am_status card_map_binary(card_elab *e, const card_ast *x, card_op op, const card_val *a, const card_val *b, card_val *out)
{
    am_status st = AM_OK;
    card_val *item = NULL;
    int n = a->kind == CARD_V_TUPLE ? a->num : b->num;
    CARD_CHECK(a->kind != CARD_V_TUPLE || b->kind != CARD_V_TUPLE || a->num == b->num, x->pos,
               "`%s` of %d and of %d values", card_op_text(op), a->num, b->num);
    AM_TRY(card_alloc(&e->arena, (size_t)n * sizeof *item, &item));
    for (int i = 0; i < n; i++) {
        const card_val *l = a->kind == CARD_V_TUPLE ? &a->item[i] : a, *r = b->kind == CARD_V_TUPLE ? &b->item[i] : b;
        if (l->kind == CARD_V_VALUE || r->kind == CARD_V_VALUE || l->kind == CARD_V_TUPLE || r->kind == CARD_V_TUPLE)
            AM_TRY(card_graph_binary(e, x, op, l, r, &item[i]));
        else
            AM_TRY(card_scalar_op(e, x, l, r, &item[i]));
    }
    *out = (card_val){.kind = CARD_V_TUPLE, .num = n, .item = item};
done:
    return st;
}

am_status card_map_scale(card_elab *e, card_pos pos, const card_val *v, double factor, card_val *out)
{
    am_status st = AM_OK;
    card_val *item = NULL;
    if (v->kind == CARD_V_VALUE) {
        int y = -1;
        AM_TRY(card_graph_scale(e, pos, (int)v->i, factor, &y));
        *out = card_value(y);
        goto done;
    }
    CARD_CHECK(v->kind == CARD_V_TUPLE, pos, "a factor of %s", card_kind_text(v->kind));
    AM_TRY(card_alloc(&e->arena, (size_t)v->num * sizeof *item, &item));
    for (int i = 0; i < v->num; i++) AM_TRY(card_map_scale(e, pos, &v->item[i], factor, &item[i]));
    *out = (card_val){.kind = CARD_V_TUPLE, .num = v->num, .item = item};
done:
    return st;
}

am_status card_tuple_item(card_elab *e, const card_ast *x, const card_val *tuple, const card_val *index, card_val *out)
{
    am_status st = AM_OK;
    int64_t i = 0;
    AM_TRY(card_want_int(e, index, x->kid[1]->pos, "the index", 0, &i));
    CARD_CHECK(i < tuple->num, x->kid[1]->pos, "index %" PRId64 " of %d values", i, tuple->num);
    *out = tuple->item[i];
done:
    return st;
}
