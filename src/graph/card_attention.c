/* card_attention: attention(q, k, v, option = …): operands and options in the card's words → one node; and the
 * slopes of ALiBi. */
#include "graph/card_internal.h"
#include "graph/graph_internal.h"

#include <math.h>
#include <string.h>

enum { SINKS = 6, SLOPES, BIAS, BUCKETS, KEYS, NUM_OPERANDS };

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

/* window = 4096, chunk = 8192: positions, at least 1 */
static am_status extent_option(card_elab *e, const card_ast *x, const char *name, int64_t *out)
{
    am_status st = AM_OK;
    const card_arg *a = card_keyword(x, name);
    const char *what = NULL;
    card_val v;
    if (!a) goto done;
    AM_TRY(card_eval(e, a->value, &v));
    if (v.kind == CARD_V_NONE) goto done;
    AM_TRY(card_printf(&e->arena, &what, "the %s of %s", name, x->text));
    AM_TRY(card_want_int(e, &v, a->pos, what, 1, out));
done:
    return st;
}

/* A constant of these numbers; the same numbers of another layer are the same constant. */
static am_status constant_of(card_elab *e, const char *name, const double *numbers, int64_t n, int *out)
{
    for (size_t i = 0; i < e->g->num_constants; i++) {
        const am_constant *c = &e->g->constants[i];
        if (c->n == n && strcmp(e->g->values[c->value].name, name) == 0 &&
            memcmp(c->data, numbers, (size_t)n * sizeof *numbers) == 0) {
            *out = c->value;
            return AM_OK;
        }
    }
    return am_graph_constant(e->g, name, numbers, n, out);
}

/* alibi = slopes(H), buckets = [0, 1, 2, 2, …]: numbers known at compile time */
static am_status numbers_option(card_elab *e, const card_ast *x, const char *option, int64_t want, int *out)
{
    am_status st = AM_OK;
    const card_arg *a = card_keyword(x, option);
    const char *what = NULL;
    double *numbers = NULL;
    card_val v;
    if (!a) goto done;
    AM_TRY(card_eval(e, a->value, &v));
    if (v.kind == CARD_V_NONE) goto done;
    CARD_CHECK(v.kind == CARD_V_LIST && v.num > 0, a->pos, "`%s` of attention must be a list of numbers, not %s", option,
               card_kind_text(v.kind));
    CARD_CHECK(want == 0 || v.num == want, a->pos, "`%s` of attention holds %d numbers for %" PRId64 " query heads",
               option, v.num, want);
    AM_TRY(card_alloc(&e->arena, (size_t)v.num * sizeof *numbers, &numbers));
    AM_TRY(card_printf(&e->arena, &what, "a number of `%s`", option));
    for (int i = 0; i < v.num; i++) AM_TRY(card_want_number(e, &v.item[i], a->pos, what, &numbers[i]));
    AM_TRY(constant_of(e, option, numbers, v.num, out));
done:
    return st;
}

/* sinks = param(P.sinks : H), bias = …: a tensor */
static am_status value_option(card_elab *e, const card_ast *x, const char *option, int *out)
{
    am_status st = AM_OK;
    const card_arg *a = card_keyword(x, option);
    card_val v;
    if (!a) goto done;
    AM_TRY(card_eval(e, a->value, &v));
    if (v.kind == CARD_V_NONE) goto done;
    CARD_CHECK(v.kind == CARD_V_VALUE, a->pos, "`%s` of %s must be a tensor, not %s", option, x->text,
               card_kind_text(v.kind));
    *out = (int)v.i;
done:
    return st;
}

static am_status attention_options(card_elab *e, const card_ast *x, am_attrs *attrs, int *in)
{
    am_status st = AM_OK;
    const am_value *q = am_graph_value_at(e->g, in[0]), *k = am_graph_value_at(e->g, in[1]);
    int64_t heads = q->dim[1].global;
    bool rounded = false;
    attrs->group = heads / k->dim[1].global;
    AM_TRY(card_number_option(e, x, "scale", 1 / sqrt((double)q->dim[2].global), &attrs->scale));
    AM_TRY(card_number_option(e, x, "softcap", 0, &attrs->softcap));
    AM_TRY(card_number_option(e, x, "alibi_scale", 0, &attrs->alibi_scale));
    AM_TRY(card_truth_option(e, x, "alibi_rounded", &rounded));
    attrs->alibi_rounded = rounded;
    AM_TRY(extent_option(e, x, "window", &attrs->window));
    AM_TRY(extent_option(e, x, "chunk", &attrs->chunk));
    AM_TRY(value_option(e, x, "sinks", &in[SINKS]));
    AM_TRY(numbers_option(e, x, "alibi", heads, &in[SLOPES]));
    AM_TRY(value_option(e, x, "bias", &in[BIAS]));
    AM_TRY(numbers_option(e, x, "buckets", 0, &in[BUCKETS]));
    AM_TRY(value_option(e, x, "keys", &in[KEYS]));
    AM_TRY(extent_option(e, x, "block", &attrs->key_block));
    CARD_CHECK(in[KEYS] < 0 || am_graph_value_at(e->g, in[KEYS])->dtype == AM_I32, x->pos,
               "attention: `keys` must be what index_keys gives");
    CARD_CHECK(in[BIAS] >= 0 || in[BUCKETS] < 0, x->pos, "attention: `buckets` say which number of a `bias` is meant");
done:
    return st;
}

static am_status build_attention(card_elab *e, const card_ast *x, card_val *out)
{
    static const char *const options[] = {"scale",         "window", "softcap", "chunk", "sinks", "alibi", "alibi_scale",
                                          "alibi_rounded", "bias",   "buckets", "keys",  "block", NULL};
    am_status st = AM_OK;
    am_attrs attrs = {0};
    int in[NUM_OPERANDS], n = NUM_OPERANDS, y = -1;
    AM_TRY(card_check_args(x, 3, 3, options));
    for (int i = 3; i < NUM_OPERANDS; i++) in[i] = -1;
    for (int i = 0; i < 3; i++) AM_TRY(card_tensor_operand(e, x, i, &in[i]));
    AM_TRY(attention_shapes(e, x, in));
    AM_TRY(attention_options(e, x, &attrs, in));
    AM_TRY(am_graph_input(e->g, "index", &in[3]));
    in[4] = in[3];
    AM_TRY(am_graph_input(e->g, "doc_start", &in[5]));
    while (in[n - 1] < 0) n--;
    AM_TRY(card_emit(e, x->pos, "attention", in, n, &attrs, &y));
    *out = card_value(y);
done:
    return st;
}

/* index_keys(q, k, n, weights = w, scale = …, block = …, local = …): lists of the n best keys, for attention */
static am_status build_index_keys(card_elab *e, const card_ast *x, card_val *out)
{
    static const char *const options[] = {"weights", "scale", "block", "local", NULL};
    am_status st = AM_OK;
    am_attrs attrs = {0};
    int in[6] = {-1, -1, -1, -1, -1, -1}, y = -1;
    card_val n;
    AM_TRY(card_check_args(x, 3, 3, options));
    for (int i = 0; i < 2; i++) AM_TRY(card_tensor_operand(e, x, i, &in[i]));
    AM_TRY(card_eval(e, card_positional(x, 2)->value, &n));
    AM_TRY(card_want_int(e, &n, card_positional(x, 2)->pos, "the number of keys of index_keys", 1, &attrs.count));
    AM_TRY(card_number_option(e, x, "scale", 1, &attrs.scale));
    AM_TRY(extent_option(e, x, "block", &attrs.key_block));
    AM_TRY(extent_option(e, x, "local", &attrs.local));
    AM_TRY(value_option(e, x, "weights", &in[5]));
    AM_TRY(am_graph_input(e->g, "index", &in[2]));
    in[3] = in[2];
    AM_TRY(am_graph_input(e->g, "doc_start", &in[4]));
    AM_TRY(card_emit(e, x->pos, "index_keys", in, in[5] >= 0 ? 6 : 5, &attrs, &y));
    *out = card_value(y);
done:
    return st;
}

/* ALiBi's slopes (Press et al. 2022): with m the largest power of two in H, 2^(−8i/m) for i = 1 … m, and for the other
 * heads the odd ones among 2^(−8i/2m). */
am_status card_slopes(card_elab *e, const card_ast *x, const card_val *a, card_val *out)
{
    am_status st = AM_OK;
    card_val *item = NULL;
    int64_t heads = 0, m = 1;
    AM_TRY(card_want_int(e, a, x->pos, "the number of heads of slopes", 1, &heads));
    CARD_CHECK(heads <= 1 << 16, x->pos, "slopes of %" PRId64 " heads", heads);
    while (2 * m <= heads) m *= 2;
    AM_TRY(card_alloc(&e->arena, (size_t)heads * sizeof *item, &item));
    for (int64_t i = 0; i < heads; i++)
        item[i] = card_real(i < m ? exp2(-8.0 * (double)(i + 1) / (double)m)
                                  : exp2(-4.0 * (double)(2 * (i - m) + 1) / (double)m));
    *out = (card_val){.kind = CARD_V_LIST, .num = (int)heads, .item = item};
done:
    return st;
}

const card_builder card_attention_builders[] = {
    {"attention", build_attention},
    {"index_keys", build_index_keys},
    {NULL, NULL},
};
