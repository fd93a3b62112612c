/* card_scan: the recurrences' words: conv, ssd, mamba1. */
#include "graph/card_internal.h"

#include <string.h>

static am_status places(card_elab *e, int *index, int *doc_start)
{
    am_status st = AM_OK;
    AM_TRY(am_graph_input(e->g, "index", index));
    AM_TRY(am_graph_input(e->g, "doc_start", doc_start));
done:
    return st;
}

/* The operand of conv: one value or several, as a list of values. */
static am_status conv_operands(card_elab *e, const card_ast *x, const card_val **values, int *num)
{
    am_status st = AM_OK;
    const card_arg *a = card_positional(x, 0);
    card_val v, *one = NULL;
    int value;
    AM_TRY(card_eval(e, a->value, &v));
    *num = v.kind == CARD_V_TUPLE ? v.num : 1;
    *values = v.item;
    if (v.kind != CARD_V_TUPLE) {
        AM_TRY(card_tensor_operand(e, x, 0, &value));
        AM_TRY(card_alloc(&e->arena, sizeof *one, &one));
        *one = card_value(value);
        *values = one;
    }
    for (int i = 0; i < *num; i++) {
        const am_value *t =
            (*values)[i].kind == CARD_V_VALUE ? am_graph_value_at(e->g, (int)(*values)[i].i) : NULL;
        CARD_CHECK(t && am_dtype_is_float(t->dtype) && t->rank >= 2 && t->dim[0].role == AM_ROLE_TOKENS,
                   a->pos, "operand 1 of `conv` must be [tokens, features …] or several such, (u, B, C)");
    }
done:
    return st;
}

/* conv(x, W, k = 4, bias = …), conv((u, B, C), W, k = 4): one filter of k taps a channel; the weight is
 * [channels, 1, k] on disk, the channels of several values stand one after the other in it */
static am_status build_conv(card_elab *e, const card_ast *x, card_val *out)
{
    static const char *const options[] = {"k", "bias", NULL};
    am_status st = AM_OK;
    const card_val *values = NULL;
    card_val k, *item = NULL;
    const card_name *w = NULL;
    const am_layout *axes[2];
    const card_part *weight = NULL, *bias = NULL;
    int num = 0, parts = 0, index, doc_start;
    int64_t count;
    bool biased = false;
    AM_TRY(card_check_args(x, 2, 2, options));
    CARD_CHECK(card_keyword(x, "k"), x->pos, "conv needs the number of its taps: conv(x, W, k = 4)");
    AM_TRY(conv_operands(e, x, &values, &num));
    AM_TRY(card_eval_name(e, card_positional(x, 1)->value, &w));
    const card_arg *arg = card_keyword(x, "k");
    AM_TRY(card_eval(e, arg->value, &k));
    AM_TRY(card_want_int(e, &k, arg->pos, "`k` of conv", 1, &count));
    AM_TRY(card_truth_option(e, x, "bias", &biased));
    const am_dim dim = am_dim_number(count);
    AM_TRY(card_layout_of_values(e, values, num, &axes[0]));
    AM_TRY(card_layout_of_dims(e, &dim, 1, &axes[1]));
    AM_TRY(card_weights(e, w, ".weight", card_positional(x, 1)->pos, 2, axes, 0, &weight, &parts));
    if (biased) AM_TRY(card_weights(e, w, ".bias", card_positional(x, 1)->pos, 1, axes, 0, &bias, &parts));
    AM_ASSERT(parts == num);
    AM_TRY(places(e, &index, &doc_start));
    AM_TRY(card_alloc(&e->arena, (size_t)num * sizeof *item, &item));
    for (int i = 0; i < num; i++) {
        int y = -1;
        const int in[5] = {(int)values[i].i, weight[i].value, biased ? bias[i].value : -1, index, doc_start};
        AM_TRY(card_emit(e, x->pos, "conv", in, 5, NULL, &y));
        item[i] = card_value(y);
    }
    *out = card_values(item, num);
done:
    return st;
}

/* A [H, p, S] of mamba1 as [H p, S] */
static am_status fold_channels(card_elab *e, int *value)
{
    am_status st = AM_OK;
    const am_value a = *am_graph_value_at(e->g, *value);
    int64_t n = 1;
    if (a.rank < 3) goto done;
    for (int i = 0; i < a.rank - 1; i++) n *= a.dim[i].global;
    const am_dim dims[2] = {am_dim_make("channels", AM_ROLE_NONE, n), a.dim[a.rank - 1]};
    AM_TRY(am_graph_reshape(e->g, *value, 2, dims, value));
done:
    return st;
}

/* word(x, dt, A, B, C, D): D may be none */
static am_status build_scan(card_elab *e, const card_ast *x, card_val *out)
{
    static const char *const options[] = {"chunk", NULL};
    static const char *const names[] = {"x", "dt", "A", "B", "C", "D"};
    am_status st = AM_OK;
    am_attrs attrs = {0};
    int in[8], y = -1;
    double chunk;
    AM_TRY(card_check_args(x, 6, 6, options));
    for (int i = 0; i < 6; i++) {
        const card_arg *a = card_positional(x, i);
        card_val v;
        AM_TRY(card_eval(e, a->value, &v));
        const bool off = i == 5 && v.kind == CARD_V_NONE;
        CARD_CHECK(
            off || (v.kind == CARD_V_VALUE && am_dtype_is_float(am_graph_value_at(e->g, (int)v.i)->dtype)),
            a->pos, "`%s` of `%s` must be a tensor, not %s", names[i], x->text, card_kind_text(v.kind));
        in[i] = off ? -1 : (int)v.i;
    }
    if (strcmp(x->text, "mamba1") == 0) AM_TRY(fold_channels(e, &in[2]));
    AM_TRY(card_number_option(e, x, "chunk", 0, &chunk));
    attrs.chunk = (int64_t)chunk;
    AM_TRY(places(e, &in[6], &in[7]));
    AM_TRY(card_emit(e, x->pos, x->text, in, 8, &attrs, &y));
    *out = card_value(y);
done:
    return st;
}

const card_builder card_scan_builders[] = {
    {"conv", build_conv},
    {"ssd", build_scan},
    {"mamba1", build_scan},
    {NULL, NULL},
};
