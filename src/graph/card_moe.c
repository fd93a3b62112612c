/* card_moe: selection (topk, top, argtop, topmask, s[e]) and what stands behind sum[e] and each[e].
 *
 * Inside of sum[e](…) and each[e](…) a value of the tokens that meets a tensor stacked over experts, or a
 * value that is sorted already, is sorted by expert, once; what is made of sorted values is sorted.  A factor
 * for each slot ([N, slots]) multiplies the rows of its slots.  sum[e] adds up a token's slots; each[e] keeps
 * them apart.  */
#include "graph/card_internal.h"

#include <string.h>

/* Slots of one selection sorted by expert: made at the first need, shared by all sum[e] of the same e. */
struct card_route {
    int experts; /* i32 [N, slots] */
    int64_t num; /* experts that have tensors */
    int slot, place, offsets;
    card_list sorted; /* of card_sorted */
};

typedef struct card_sorted {
    int value, rows; /* of the tokens, and sorted */
} card_sorted;

/* ---- what a value is ----------------------------------------------------------------------------------- */

static const am_value *value_of(const card_elab *e, int v)
{
    return am_graph_value_at(e->g, v);
}

/* rows sorted by expert, by the name the graph gives them */
static bool is_sorted(const card_elab *e, int v)
{
    const am_value *x = value_of(e, v);
    return x->rank > 0 && x->dim[0].role == AM_ROLE_TOKENS && strcmp(x->dim[0].name, "sorted") == 0;
}

static bool of_tokens(const card_elab *e, int v)
{
    const am_value *x = value_of(e, v);
    return x->rank > 0 && x->dim[0].role == AM_ROLE_TOKENS && !is_sorted(e, v);
}

/* [N, slots, …] of the selection at hand */
static bool of_slots(const card_elab *e, int v)
{
    const am_value *x = value_of(e, v), *k = value_of(e, e->route->experts);
    return of_tokens(e, v) && x->rank >= 2 && strcmp(x->dim[1].name, k->dim[1].name) == 0 &&
           x->dim[1].global == k->dim[1].global;
}

static bool is_factor(const card_elab *e, int v)
{
    return of_slots(e, v) && value_of(e, v)->rank == 2;
}

/* ---- sorting ---------------------------------------------------------------------------------------------
 */

static am_status make_route(card_elab *e, card_pos pos)
{
    am_status st = AM_OK;
    card_route *r = e->route;
    am_attrs attrs = {.count = r->num};
    if (r->slot >= 0) goto done;
    AM_TRY(card_emit(e, pos, "route", &r->experts, 1, &attrs, &r->slot));
    const am_node *n = am_graph_node_at(e->g, am_graph_num_nodes(e->g) - 1);
    r->place = n->out[1];
    r->offsets = n->out[2];
done:
    return st;
}

am_status card_sorted_operand(card_elab *e, card_pos pos, int *value)
{
    am_status st = AM_OK;
    card_sorted *s = NULL;
    am_str dims = {0};
    CARD_CHECK(e->route, pos, "a tensor stacked over experts is used outside of sum[e](…) and each[e](…)");
    if (is_sorted(e, *value)) goto done;
    AM_TRY(card_dims_text(e, *value, &dims));
    CARD_CHECK(of_tokens(e, *value), pos, "%s is not a value of the tokens: experts work on those", dims.s);
    AM_TRY(make_route(e, pos));
    for (int i = 0; i < e->route->sorted.num; i++) {
        s = e->route->sorted.at[i];
        if (s->value == *value) goto found;
    }
    AM_TRY(card_alloc(&e->arena, sizeof *s, &s));
    s->value = *value;
    AM_TRY(
        card_emit(e, pos, "dispatch", (int[]){*value, e->route->slot, e->route->place}, 3, NULL, &s->rows));
    AM_TRY(card_push(&e->arena, &e->route->sorted, s));
found:
    *value = s->rows;
done:
    am_str_release(&dims);
    return st;
}

am_status card_emit_grouped(card_elab *e, card_pos pos, const int *in, int *out)
{
    return card_emit(e, pos, "grouped_linear", (int[]){in[0], in[1], e->route->offsets, in[2]},
                     in[2] >= 0 ? 4 : 3, NULL, out);
}

static bool contains(const am_value *a, const am_value *b)
{
    for (int i = 0; i < b->rank; i++) {
        bool has = false;
        for (int k = 0; k < a->rank; k++)
            has =
                has || (strcmp(a->dim[k].name, b->dim[i].name) == 0 && a->dim[k].global == b->dim[i].global);
        if (!has) return false;
    }
    return true;
}

static am_status scale_rows(card_elab *e, card_pos pos, int rows, int factor, int *out)
{
    am_status st = AM_OK;
    AM_TRY(card_sorted_operand(e, pos, &rows));
    AM_TRY(card_emit(e, pos, "slot_scale", (int[]){rows, e->route->slot, e->route->place, factor}, 4, NULL,
                     out));
done:
    return st;
}

am_status card_sorted_pair(card_elab *e, card_pos pos, card_op op, int *in, bool *made, int *out)
{
    am_status st = AM_OK;
    *made = false;
    if (!e->route) goto done;
    bool sorted[2] = {is_sorted(e, in[0]), is_sorted(e, in[1])},
         tokens[2] = {of_tokens(e, in[0]), of_tokens(e, in[1])};
    if (sorted[0] && sorted[1]) goto done;
    bool mixed = (sorted[0] && tokens[1]) || (tokens[0] && sorted[1]);
    /* h · w before the experts: neither fits into the other */
    bool apart = tokens[0] && tokens[1] && of_slots(e, in[0]) != of_slots(e, in[1]) &&
                 !contains(value_of(e, in[0]), value_of(e, in[1])) &&
                 !contains(value_of(e, in[1]), value_of(e, in[0]));
    if (!mixed && !apart) goto done;
    for (int i = 0; i < 2 && op == CARD_OP_MUL; i++) {
        if (!tokens[i] || !is_factor(e, in[i])) continue;
        AM_TRY(scale_rows(e, pos, in[1 - i], in[i], out));
        *made = true;
        goto done;
    }
    for (int i = 0; i < 2; i++) AM_TRY(card_sorted_operand(e, pos, &in[i]));
done:
    return st;
}

/* ---- sum[e](…), each[e](…)
 * ---------------------------------------------------------------------------------- */

static am_status selection(card_elab *e, const card_ast *x, int *out)
{
    am_status st = AM_OK;
    card_val v;
    AM_TRY(card_eval(e, x->kid[0], &v));
    if (v.kind == CARD_V_NONE) AM_TRY(card_fail_none(e, &v, x->kid[0]->pos, "the selected experts"));
    const am_value *t = v.kind == CARD_V_VALUE ? value_of(e, (int)v.i) : NULL;
    CARD_CHECK(
        t && t->dtype == AM_I32 && t->rank == 2 && t->dim[0].role == AM_ROLE_TOKENS, x->kid[0]->pos,
        "in the brackets of %s[…] stand the selected experts of each token, as topk and argtop give them",
        x->text);
    *out = (int)v.i;
done:
    return st;
}

/* how many experts have tensors: the bound, or as many as were chosen among */
static am_status num_experts(card_elab *e, const card_ast *x, int experts, int64_t *out)
{
    am_status st = AM_OK;
    card_val v;
    if (x->num > 2) {
        AM_TRY(card_eval(e, x->kid[2], &v));
        AM_TRY(card_want_int(e, &v, x->kid[2]->pos, "the bound of the experts", 1, out));
        goto done;
    }
    int n = value_of(e, experts)->producer;
    CARD_CHECK(n >= 0, x->pos, "%s[…] needs a bound: %s[e < E]", x->text, x->text);
    const am_value *scores = value_of(e, am_graph_node_at(e->g, n)->in[0]);
    *out = scores->dim[scores->rank - 1].global;
done:
    return st;
}

static am_status find_route(card_elab *e, int experts, int64_t num, card_route **out)
{
    am_status st = AM_OK;
    for (int i = 0; i < e->routes.num; i++) {
        *out = e->routes.at[i];
        if ((*out)->experts == experts && (*out)->num == num) goto done;
    }
    AM_TRY(card_alloc(&e->arena, sizeof **out, out));
    **out = (card_route){.experts = experts, .num = num, .slot = -1, .place = -1, .offsets = -1};
    AM_TRY(card_push(&e->arena, &e->routes, *out));
done:
    return st;
}

am_status card_eval_slots(card_elab *e, const card_ast *x, card_val *out)
{
    am_status st = AM_OK;
    card_route *route = NULL;
    am_attrs attrs = {.index = strcmp(x->text, "each") == 0};
    int experts = -1, y = -1;
    int64_t num = 0;
    bool entered = false;
    card_val v;
    CARD_CHECK(e->frame, x->pos, "`%s[…]` works on tensors and cannot be used in a definition", x->text);
    CARD_CHECK(!e->route, x->pos, "%s[…] stands inside of another one", x->text);
    AM_TRY(selection(e, x, &experts));
    AM_TRY(num_experts(e, x, experts, &num));
    AM_TRY(find_route(e, experts, num, &route));
    e->route = route;
    entered = true;
    AM_TRY(card_eval(e, x->kid[1], &v));
    CARD_CHECK(v.kind == CARD_V_VALUE && is_sorted(e, (int)v.i), x->kid[1]->pos,
               "what stands in %s[…](…) must come from tensors that are stacked over the experts", x->text);
    AM_TRY(card_emit(e, x->pos, "combine", (int[]){(int)v.i, route->slot, route->place}, 3, &attrs, &y));
    *out = card_value(y);
done:
    if (entered) e->route = NULL;
    return st;
}

/* ---- topk(x, k), top(x, k), argtop(x, k), topmask(x, k), s[e]
 * ------------------------------------------------- */

/* also the dimension they are: a definition keeps its name */
static am_status count_operand(card_elab *e, const card_ast *x, int64_t *out, am_dim *dim)
{
    am_status st = AM_OK;
    const card_arg *a = card_positional(x, 1);
    const char *what = NULL;
    card_val v;
    AM_TRY(card_eval(e, a->value, &v));
    AM_TRY(card_printf(&e->arena, &what, "the number of values of %s", x->text));
    if (v.kind == CARD_V_NONE) AM_TRY(card_fail_none(e, &v, a->pos, what));
    AM_TRY(card_want_int(e, &v, a->pos, what, 1, out));
    AM_TRY(card_dim_of(e, &v, "slots", a->pos, dim));
done:
    return st;
}

static void name_slots(card_elab *e, const am_dim *dim)
{
    const am_node *n = am_graph_node_at(e->g, am_graph_num_nodes(e->g) - 1);
    for (int i = 0; i < n->num_out; i++) {
        am_value *v = am_graph_value_at(e->g, n->out[i]);
        snprintf(v->dim[v->rank - 1].name, sizeof v->dim->name, "%s", dim->name);
    }
}

/* the values of the node just made, and its integers */
static am_status both_outputs(card_elab *e, int values, card_val *out)
{
    am_status st = AM_OK;
    card_val *both = NULL;
    AM_TRY(card_alloc(&e->arena, 2 * sizeof *both, &both));
    both[0] = card_value(values);
    both[1] = card_value(am_graph_node_at(e->g, am_graph_num_nodes(e->g) - 1)->out[1]);
    *out = (card_val){.kind = CARD_V_TUPLE, .num = 2, .item = both};
done:
    return st;
}

static am_status build_topk(card_elab *e, const card_ast *x, card_val *out)
{
    static const char *const options[] = {NULL};
    am_status st = AM_OK;
    am_attrs attrs = {0};
    am_dim dim;
    int in = -1, y = -1;
    AM_TRY(card_check_args(x, 2, 2, options));
    AM_TRY(card_tensor_operand(e, x, 0, &in));
    AM_TRY(count_operand(e, x, &attrs.count, &dim));
    bool mask = strcmp(x->text, "topmask") == 0;
    AM_TRY(card_emit(e, x->pos, mask ? "topmask" : "topk", &in, 1, &attrs, &y));
    if (!mask) name_slots(e, &dim);
    *out = card_value(y);
    if (strcmp(x->text, "topk") == 0) AM_TRY(both_outputs(e, y, out));
    if (strcmp(x->text, "argtop") == 0)
        *out = card_value(am_graph_node_at(e->g, am_graph_num_nodes(e->g) - 1)->out[1]);
done:
    return st;
}

/* values by the integers that argtop and topk gave */
am_status card_pick(card_elab *e, const card_ast *x, int value, const card_val *index, card_val *out)
{
    am_status st = AM_OK;
    int y = -1;
    const am_value *e_value = index->kind == CARD_V_VALUE ? value_of(e, (int)index->i) : NULL;
    CARD_CHECK(e_value && e_value->dtype == AM_I32 && e_value->rank >= 2, x->kid[1]->pos,
               "a tensor is indexed by selected experts, as argtop and topk give them, not by %s",
               e_value ? "this tensor" : card_kind_text(index->kind));
    AM_TRY(card_emit(e, x->pos, "pick", (int[]){value, (int)index->i}, 2, NULL, &y));
    *out = card_value(y);
done:
    return st;
}

/* sparsemixer(s, noise): shares and experts */
static am_status build_sparsemixer(card_elab *e, const card_ast *x, card_val *out)
{
    static const char *const options[] = {NULL};
    am_status st = AM_OK;
    am_attrs attrs = {0};
    int in = -1, y = -1;
    AM_TRY(card_check_args(x, 2, 2, options));
    AM_TRY(card_tensor_operand(e, x, 0, &in));
    AM_TRY(card_number_operand(e, x, 1, "noise", &attrs.eps));
    AM_TRY(card_emit(e, x->pos, "sparsemixer", &in, 1, &attrs, &y));
    AM_TRY(both_outputs(e, y, out));
done:
    return st;
}

const card_builder card_moe_builders[] = {
    {"sparsemixer", build_sparsemixer},
    {"topk", build_topk},
    {"top", build_topk},
    {"argtop", build_topk},
    {"topmask", build_topk},
    {NULL, NULL},
};
