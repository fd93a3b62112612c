/* card_delta: words of the recurrences with a memory: gated_delta, lightning, rg_lru, wkv, shift. */
#include "graph/card_internal.h"

#include <string.h>

static am_status places(card_elab *e, int *in)
{
    am_status st = AM_OK;
    AM_TRY(am_graph_input(e->g, "index", &in[0]));
    AM_TRY(am_graph_input(e->g, "doc_start", &in[1]));
done:
    return st;
}

am_status card_want_blocks(card_elab *e, const card_ast *x, const card_name *w, const am_value *v)
{
    am_status st = AM_OK;
    CARD_CHECK(v->rank == 3 && strcmp(v->dim[1].name, w->axis.name) == 0 &&
                   v->dim[1].global == w->axis.global,
               card_positional(x, 1)->pos,
               "`%s` has a matrix for each of %s = %" PRId64
               ", so its operand must be [tokens, %s, features]: view(x : %s …)",
               w->text, w->axis.name, w->axis.global, w->axis.name, w->axis.name);
done:
    return st;
}

/* Features [heads …, d] seen as [heads, d], and with last false [heads …] as [heads]. */
static am_status fold_heads(card_elab *e, bool last, int *value)
{
    am_status st = AM_OK;
    am_value v = *am_graph_value_at(e->g, *value);
    const int heads = v.rank - 1 - last;
    int64_t n = 1;
    if (heads <= 1) goto done;
    for (int i = 1; i <= heads; i++) n *= v.dim[i].global;
    am_dim dims[3] = {v.dim[0], am_dim_make("heads", AM_ROLE_NONE, n), v.dim[v.rank - 1]};
    AM_TRY(am_graph_reshape(e->g, *value, 2 + last, dims, value));
done:
    return st;
}

static am_status want_heads(card_elab *e, const card_ast *x, int i, int value)
{
    am_status st = AM_OK;
    am_str dims = {0};
    AM_TRY(card_dims_text(e, value, &dims));
    CARD_CHECK(am_graph_value_at(e->g, value)->rank >= 3, card_positional(x, i)->pos,
               "operand %d of `%s` must be [tokens, heads, width], not %s", i + 1, x->text, dims.s);
done:
    am_str_release(&dims);
    return st;
}

/* q, k and v as [N, heads, width]; dims: those v has in the card, and the result gets again */
static am_status read_heads(card_elab *e, const card_ast *x, int *in, am_value *dims)
{
    am_status st = AM_OK;
    for (int i = 0; i < 3; i++) {
        AM_TRY(card_tensor_operand(e, x, i, &in[i]));
        AM_TRY(want_heads(e, x, i, in[i]));
        if (i == 2) *dims = *am_graph_value_at(e->g, in[2]);
        AM_TRY(fold_heads(e, true, &in[i]));
    }
done:
    return st;
}

static am_status give(card_elab *e, int y, const am_value *like, card_val *out)
{
    am_status st = AM_OK;
    if (am_graph_value_at(e->g, y)->rank != like->rank)
        AM_TRY(am_graph_reshape(e->g, y, like->rank, like->dim, &y));
    *out = card_value(y);
done:
    return st;
}

/* gated_delta(q, k, v, g, beta): q, k [N, K, d], v [N, H …, e], g and beta [N, H …]; eps: of the norm of q
 * and k, 0: none */
static am_status build_gated_delta(card_elab *e, const card_ast *x, card_val *out)
{
    static const char *const options[] = {"eps", "scale", NULL};
    am_status st = AM_OK;
    am_attrs attrs = {0};
    am_value dims;
    int in[7], y = -1;
    AM_TRY(card_check_args(x, 5, 5, options));
    AM_TRY(read_heads(e, x, in, &dims));
    for (int i = 3; i < 5; i++) {
        AM_TRY(card_tensor_operand(e, x, i, &in[i]));
        const am_value *v = am_graph_value_at(e->g, in[i]);
        bool fits = v->rank == dims.rank - 1;
        for (int k = 1; fits && k < v->rank; k++) fits = v->dim[k].global == dims.dim[k].global;
        CARD_CHECK(fits, card_positional(x, i)->pos,
                   "operand %d of gated_delta holds a number for each value head: v's dims without the last",
                   i + 1);
        AM_TRY(fold_heads(e, false, &in[i]));
    }
    AM_TRY(card_number_option(e, x, "eps", 1e-6, &attrs.eps));
    AM_TRY(card_number_option(e, x, "scale", 0, &attrs.scale));
    AM_TRY(places(e, in + 5));
    AM_TRY(card_emit(e, x->pos, "gated_delta", in, 7, &attrs, &y));
    AM_TRY(give(e, y, &dims, out));
done:
    return st;
}

static am_status read_slopes(card_elab *e, const card_ast *x, int64_t heads, int *out)
{
    am_status st = AM_OK;
    const card_arg *a = card_keyword(x, "slopes");
    double *numbers = NULL;
    card_val v;
    CARD_CHECK(a, x->pos,
               "lightning needs the decay of every head: lightning(q, k, v, slopes = [… for h < H])");
    AM_TRY(card_eval(e, a->value, &v));
    CARD_CHECK(v.kind == CARD_V_LIST && v.num == heads, a->pos,
               "`slopes` must be a list of %" PRId64 " numbers, one a head", heads);
    AM_TRY(card_alloc(&e->arena, (size_t)v.num * sizeof *numbers, &numbers));
    for (int i = 0; i < v.num; i++) {
        AM_TRY(card_want_number(e, &v.item[i], a->pos, "a number of `slopes`", &numbers[i]));
        CARD_CHECK(numbers[i] >= 0, a->pos, "a slope is not negative: decay is exp(-slope)");
    }
    AM_TRY(am_graph_constant(e->g, "slopes", numbers, v.num, out));
done:
    return st;
}

/* lightning(q, k, v, slopes = […]): [N, H, d] each; the memory of a head decays by exp(-slope) a token */
static am_status build_lightning(card_elab *e, const card_ast *x, card_val *out)
{
    static const char *const options[] = {"slopes", "scale", NULL};
    am_status st = AM_OK;
    am_attrs attrs = {0};
    am_value dims;
    int in[6], y = -1;
    AM_TRY(card_check_args(x, 3, 3, options));
    AM_TRY(read_heads(e, x, in, &dims));
    AM_TRY(read_slopes(e, x, am_graph_value_at(e->g, in[2])->dim[1].global, &in[3]));
    AM_TRY(card_number_option(e, x, "scale", 0, &attrs.scale));
    AM_TRY(places(e, in + 4));
    AM_TRY(card_emit(e, x->pos, "lightning", in, 6, &attrs, &y));
    AM_TRY(give(e, y, &dims, out));
done:
    return st;
}

/* rg_lru(x, l), wkv(k, v, w, u), shift(x): operands, then the places; the first `tokens` have a row a token
 */
static am_status build_rows(card_elab *e, const card_ast *x, int num, int tokens, card_val *out)
{
    static const char *const options[] = {NULL};
    am_status st = AM_OK;
    int in[8], y = -1;
    AM_TRY(card_check_args(x, num, num, options));
    for (int i = 0; i < num; i++) {
        const card_arg *a = card_positional(x, i);
        card_val v;
        if (i < tokens) {
            AM_TRY(card_tensor_operand(e, x, i, &in[i]));
            continue;
        }
        AM_TRY(card_eval(e, a->value, &v));
        CARD_CHECK(v.kind == CARD_V_VALUE, a->pos, "operand %d of `%s` must be a tensor, not %s", i + 1,
                   x->text, card_kind_text(v.kind));
        in[i] = (int)v.i;
    }
    AM_TRY(places(e, in + num));
    AM_TRY(card_emit(e, x->pos, x->text, in, num + 2, NULL, &y));
    *out = card_value(y);
done:
    return st;
}
static am_status build_rg_lru(card_elab *e, const card_ast *x, card_val *out)
{
    return build_rows(e, x, 2, 2, out);
}
static am_status build_wkv(card_elab *e, const card_ast *x, card_val *out)
{
    return build_rows(e, x, 4, 2, out);
}
static am_status build_shift(card_elab *e, const card_ast *x, card_val *out)
{
    return build_rows(e, x, 1, 1, out);
}

const card_builder card_delta_builders[] = {
    {"gated_delta", build_gated_delta},
    {"lightning", build_lightning},
    {"rg_lru", build_rg_lru},
    {"wkv", build_wkv},
    {"shift", build_shift},
    {NULL, NULL},
};
