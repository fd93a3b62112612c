/* ops_moe: selection and experts.  Integers (which experts, where their rows stand) have no gradient; what is
 * sorted by expert comes back through the same table.  A token's k slots are [N, slots] before they are
 * sorted and rows [S] after, S = N·k: the planned number; how many of them are an expert's is data (offsets).
 */
#include "graph/ops_internal.h"

#include <string.h>

#define V AM_OP_IN

/* ---- shapes ------------------------------------------------------------------------------------------- */

/* x's dims with the last one `width` wide */
static void last_dim(const am_value *x, am_dim last, am_dim *dims)
{
    for (int i = 0; i < x->rank; i++) dims[i] = x->dim[i];
    dims[x->rank - 1] = last;
}

static am_dim slots_dim(int64_t k)
{
    return am_dim_make("slots", AM_ROLE_NONE, k);
}

/* rows sorted by expert: `rows` of them, in proportion to the tokens */
static am_dim sorted_dim(int64_t rows)
{
    return am_dim_make("sorted", AM_ROLE_TOKENS, rows);
}

static am_status want_count(const am_node *n, const am_value *x)
{
    am_status st = AM_OK;
    int64_t all = x->dim[x->rank - 1].local;
    AM_CHECK(x->rank >= 2, AM_ERR_SHAPE, "%s: %s must be [tokens, values]", n->def->name, x->name);
    AM_CHECK(n->attrs.count >= 1 && n->attrs.count <= all, AM_ERR_CARD,
             "%s: the %" PRId64 " largest of %" PRId64, n->def->name, n->attrs.count, all);
done:
    return st;
}

static am_status infer_topk(am_graph *g, am_node *n)
{
    am_status st = AM_OK;
    am_dim dims[AM_MAX_RANK];
    AM_TRY(am_op_want_inputs(n, 1, 1));
    am_value x = *V(0);
    AM_TRY(want_count(n, &x));
    last_dim(&x, slots_dim(n->attrs.count), dims);
    AM_TRY(am_op_set_out(g, n, 0, "top", x.dtype, x.rank, dims));
    AM_TRY(am_op_set_out(g, n, 1, "experts", AM_I32, x.rank, dims));
done:
    return st;
}

static am_status infer_topmask(am_graph *g, am_node *n)
{
    am_status st = AM_OK;
    AM_TRY(am_op_want_inputs(n, 1, 1));
    am_value x = *V(0);
    AM_TRY(want_count(n, &x));
    AM_TRY(am_op_set_out(g, n, 0, "topmask", x.dtype, x.rank, x.dim));
done:
    return st;
}

static am_status infer_sparsemixer(am_graph *g, am_node *n)
{
    am_status st = AM_OK;
    AM_TRY(am_op_want_inputs(n, 1, 1));
    am_value x = *V(0);
    AM_CHECK(x.rank == 2 && x.dim[1].local >= 2, AM_ERR_CARD,
             "sparsemixer: %s must be [tokens, two experts or more]", x.name);
    am_dim dims[2] = {x.dim[0], slots_dim(2)};
    AM_TRY(am_op_set_out(g, n, 0, "share", x.dtype, 2, dims));
    AM_TRY(am_op_set_out(g, n, 1, "experts", AM_I32, 2, dims));
done:
    return st;
}

static am_status infer_swap(am_graph *g, am_node *n)
{
    am_status st = AM_OK;
    AM_TRY(am_op_want_inputs(n, 1, 1));
    am_value x = *V(0);
    AM_CHECK(x.rank == 4, AM_ERR_CARD, "swap: %s must be [tokens, a, b, d]", x.name);
    am_dim dims[4] = {x.dim[0], x.dim[2], x.dim[1], x.dim[3]};
    AM_TRY(am_op_set_out(g, n, 0, "swap", x.dtype, 4, dims));
done:
    return st;
}

static am_status infer_pick(am_graph *g, am_node *n)
{
    am_status st = AM_OK;
    am_dim dims[AM_MAX_RANK];
    AM_TRY(am_op_want_inputs(n, 2, 2));
    am_value x = *V(0), e = *V(1);
    bool fits = e.dtype == AM_I32 && x.rank == e.rank && x.rank >= 2;
    for (int i = 0; fits && i + 1 < x.rank; i++) fits = x.dim[i].local == e.dim[i].local;
    AM_CHECK(fits, AM_ERR_CARD, "%s is not indexed by %s: both must have the same dimensions but the last",
             x.name, e.name);
    last_dim(&x, e.dim[e.rank - 1], dims);
    AM_TRY(am_op_set_out(g, n, 0, "pick", x.dtype, x.rank, dims));
done:
    return st;
}

static am_status infer_route(am_graph *g, am_node *n)
{
    am_status st = AM_OK;
    AM_TRY(am_op_want_inputs(n, 1, 1));
    am_value e = *V(0);
    AM_CHECK(e.dtype == AM_I32 && e.rank == 2 && e.dim[0].role == AM_ROLE_TOKENS, AM_ERR_CARD,
             "route: %s must be the chosen experts of each token, [tokens, slots]", e.name);
    am_dim rows = sorted_dim(am_value_elements(&e)), offsets = am_dim_number(n->attrs.count + 1);
    AM_TRY(am_op_set_out(g, n, 0, "slot", AM_I32, 1, &rows));
    AM_TRY(am_op_set_out(g, n, 1, "place", AM_I32, 2, e.dim));
    AM_TRY(am_op_set_out(g, n, 2, "offsets", AM_I32, 1, &offsets));
done:
    return st;
}

/* x [N, features …] or [N, slots, features …] → [sorted, features …] */
static am_status infer_dispatch(am_graph *g, am_node *n)
{
    am_status st = AM_OK;
    AM_TRY(am_op_want_inputs(n, 3, 4));
    am_value x = *V(0), place = *V(2);
    am_dim dims[AM_MAX_RANK] = {V(1)->dim[0]};
    int first = x.rank > 1 && strcmp(x.dim[1].name, place.dim[1].name) == 0 ? 2 : 1, rank = 1;
    AM_CHECK(x.dim[0].local == place.dim[0].local && (first == 1 || x.dim[1].local == place.dim[1].local),
             AM_ERR_SHAPE, "dispatch: %s is not a value of the tokens or of their slots", x.name);
    for (int i = first; i < x.rank; i++) dims[rank++] = x.dim[i];
    AM_TRY(am_op_set_out(g, n, 0, "sorted", x.dtype, rank, dims));
done:
    return st;
}

/* h [sorted, features …] → [N, features …], or with index 1 → [N, slots, features …] */
static am_status infer_combine(am_graph *g, am_node *n)
{
    am_status st = AM_OK;
    AM_TRY(am_op_want_inputs(n, 3, 4));
    am_value h = *V(0), place = *V(2);
    am_dim dims[AM_MAX_RANK] = {place.dim[0], place.dim[1]};
    int rank = n->attrs.index ? 2 : 1;
    AM_CHECK(h.rank - 1 + rank <= AM_MAX_RANK && h.dim[0].local == am_value_elements(&place), AM_ERR_SHAPE,
             "combine: %s is not sorted by expert", h.name);
    for (int i = 1; i < h.rank; i++) dims[rank++] = h.dim[i];
    AM_TRY(am_op_set_out(g, n, 0, "combine", h.dtype, rank, dims));
done:
    return st;
}

static am_status infer_slot_scale(am_graph *g, am_node *n)
{
    am_status st = AM_OK;
    AM_TRY(am_op_want_inputs(n, 4, 4));
    am_value h = *V(0);
    AM_CHECK(am_value_elements(V(3)) == h.dim[0].local, AM_ERR_SHAPE,
             "slot_scale: %s is not one factor for each slot", V(3)->name);
    AM_TRY(am_op_set_out(g, n, 0, "scaled", h.dtype, h.rank, h.dim));
done:
    return st;
}

static am_status infer_grouped_linear(am_graph *g, am_node *n)
{
    am_status st = AM_OK;
    AM_TRY(am_op_want_inputs(n, 3, 4));
    am_value x = *V(0), w = *V(1);
    AM_CHECK(w.rank == 3 && am_op_features(&x) == w.dim[2].local, AM_ERR_SHAPE,
             "grouped_linear: %s has %" PRId64 " features, the weights %s take %" PRId64, x.name,
             am_op_features(&x), w.name, w.dim[w.rank - 1].local);
    AM_CHECK(V(2)->dim[0].local == w.dim[0].local + 1, AM_ERR_SHAPE,
             "grouped_linear: the slots are those of %" PRId64 " experts, %s holds %" PRId64,
             V(2)->dim[0].local - 1, w.name, w.dim[0].local);
    am_dim dims[AM_MAX_RANK] = {x.dim[0]};
    int rank = 1 + am_op_output_dims(g, &w, 1, dims + 1);
    AM_TRY(am_op_set_out(g, n, 0, "grouped", x.dtype, rank, dims));
done:
    return st;
}

/* ---- gradients ------------------------------------------------------------------------------------------
 */

static am_status pick_back(am_autodiff *ad, int y, int index, int x)
{
    am_status st = AM_OK;
    int dy, dx = -1;
    AM_TRY(am_ad_grad(ad, y, &dy));
    if (dy < 0 || !am_ad_wants(ad, x)) goto done;
    AM_TRY(am_ad_like(ad, x, &dx));
    AM_TRY(am_ad_emit(ad, "pick_bwd", (int[]){dy, index}, 2, NULL, AM_ACC_NO, &dx, 1));
    AM_TRY(am_ad_contribute(ad, x, dx));
done:
    return st;
}
static am_status vjp_topk(am_autodiff *ad, const am_node *n)
{
    return pick_back(ad, n->out[0], n->out[1], n->in[0]);
}
static am_status vjp_pick(am_autodiff *ad, const am_node *n)
{
    return pick_back(ad, n->out[0], n->in[1], n->in[0]);
}

static am_status vjp_sparsemixer(am_autodiff *ad, const am_node *n)
{
    am_status st = AM_OK;
    int dy, dx = -1;
    AM_TRY(am_ad_grad(ad, n->out[0], &dy));
    if (dy < 0 || !am_ad_wants(ad, n->in[0])) goto done;
    AM_TRY(am_ad_like(ad, n->in[0], &dx));
    AM_TRY(
        am_ad_emit(ad, "sparsemixer_bwd", (int[]){dy, n->in[0], n->out[1]}, 3, &n->attrs, AM_ACC_NO, &dx, 1));
    AM_TRY(am_ad_contribute(ad, n->in[0], dx));
done:
    return st;
}

static am_status vjp_swap(am_autodiff *ad, const am_node *n)
{
    am_status st = AM_OK;
    int dy, dx = -1;
    AM_TRY(am_ad_grad(ad, n->out[0], &dy));
    if (dy < 0 || !am_ad_wants(ad, n->in[0])) goto done;
    AM_TRY(am_ad_emit(ad, "swap", &dy, 1, NULL, AM_ACC_NO, &dx, 1));
    AM_TRY(am_ad_contribute(ad, n->in[0], dx));
done:
    return st;
}

/* gradient of the factors: rows of a (of the token, or `sorted`) times rows of h */
static am_status factors_back(am_autodiff *ad, const am_node *n, int a, int h, bool sorted)
{
    am_status st = AM_OK;
    am_attrs attrs = {.index = sorted};
    int dw = -1, w = n->num_in > 3 ? n->in[3] : -1;
    if (!am_ad_wants(ad, w)) goto done;
    AM_TRY(am_ad_like(ad, w, &dw));
    AM_TRY(am_ad_emit(ad, "slot_dot", (int[]){a, h, n->in[2]}, 3, &attrs, AM_ACC_NO, &dw, 1));
    AM_TRY(am_ad_contribute(ad, w, dw));
done:
    return st;
}

/* dispatch and combine are each other's gradient */
static am_status vjp_by_slot(am_autodiff *ad, const am_node *n)
{
    am_status st = AM_OK;
    int dy, dx = -1;
    bool dispatch = strcmp(n->def->name, "dispatch") == 0;
    AM_TRY(am_ad_grad(ad, n->out[0], &dy));
    if (dy < 0) goto done;
    if (am_ad_wants(ad, n->in[0])) {
        int in[4] = {dy, n->in[1], n->in[2], n->num_in > 3 ? n->in[3] : -1};
        AM_TRY(am_ad_like(ad, n->in[0], &dx));
        AM_TRY(
            am_ad_emit(ad, dispatch ? "combine_to" : "dispatch_to", in, n->num_in, NULL, AM_ACC_NO, &dx, 1));
        AM_TRY(am_ad_contribute(ad, n->in[0], dx));
    }
    AM_TRY(factors_back(ad, n, dispatch ? n->in[0] : dy, dispatch ? dy : n->in[0], false));
done:
    return st;
}

static am_status vjp_slot_scale(am_autodiff *ad, const am_node *n)
{
    am_status st = AM_OK;
    int dy, dh = -1;
    AM_TRY(am_ad_grad(ad, n->out[0], &dy));
    if (dy < 0) goto done;
    if (am_ad_wants(ad, n->in[0])) {
        AM_TRY(am_ad_emit(ad, "slot_scale", (int[]){dy, n->in[1], n->in[2], n->in[3]}, 4, NULL, AM_ACC_NO,
                          &dh, 1));
        AM_TRY(am_ad_contribute(ad, n->in[0], dh));
    }
    AM_TRY(factors_back(ad, n, dy, n->in[0], true));
done:
    return st;
}

static am_status vjp_grouped_linear(am_autodiff *ad, const am_node *n)
{
    am_status st = AM_OK;
    int dy, dx = -1, bias = n->num_in > 3 ? n->in[3] : -1;
    AM_TRY(am_ad_grad(ad, n->out[0], &dy));
    if (dy < 0) goto done;
    if (am_ad_wants(ad, n->in[0])) {
        AM_TRY(am_ad_like(ad, n->in[0], &dx));
        AM_TRY(
            am_ad_emit(ad, "grouped_linear_dx", (int[]){dy, n->in[1], n->in[2]}, 3, NULL, AM_ACC_NO, &dx, 1));
        AM_TRY(am_ad_contribute(ad, n->in[0], dx));
    }
    if (am_ad_wants(ad, n->in[1]))
        AM_TRY(
            am_ad_param_grad(ad, "grouped_linear_dw", (int[]){dy, n->in[0], n->in[2]}, 3, NULL, n->in[1], 0));
    if (am_ad_wants(ad, bias))
        AM_TRY(am_ad_param_grad(ad, "grouped_bias_db", (int[]){dy, n->in[2]}, 2, NULL, bias, 0));
done:
    return st;
}

/* ---- FLOPs: every slot is somebody's row
 * ------------------------------------------------------------------- */

static int64_t flops_grouped(const am_graph *g, const am_node *n) /* x or dy, w */
{
    return 2 * V(0)->dim[0].local * V(1)->dim[1].local * V(1)->dim[2].local;
}
static int64_t flops_grouped_dw(const am_graph *g, const am_node *n) /* dy, x */
{
    return 2 * V(0)->dim[0].local * am_op_features(V(0)) * am_op_features(V(1));
}

/* ---- rows
 * -------------------------------------------------------------------------------------------------- */

#define AS   AM_VIEW_AS_IS
#define ROWS AM_VIEW_ROWS
#define LAST AM_VIEW_LAST
#define FLAT AM_VIEW_FLAT

const am_op_def am_ops_moe[] = {
    {"topk", "topk", {LAST}, {LAST, LAST}, infer_topk, vjp_topk, NULL, 0, {0}, 0},
    {"topmask", "topmask", {LAST}, {LAST}, infer_topmask, NULL, NULL, 0, {0}, 0},
    {"pick", "pick", {LAST, LAST}, {LAST}, infer_pick, vjp_pick, NULL, 0, {0}, AM_OP_ONE_PASS},
    {"pick_bwd", "pick_bwd", {LAST, LAST}, {LAST}, am_op_infer_given, NULL, NULL, 0, {0}, 0},
    {"sparsemixer", "sparsemixer", {AS}, {AS, AS}, infer_sparsemixer, vjp_sparsemixer, NULL, 0, {0}, 0},
    {"sparsemixer_bwd", "sparsemixer_bwd", {AS, AS, AS}, {AS}, am_op_infer_given, NULL, NULL, 0, {0}, 0},
    {"swap", "swap", {AS}, {AS}, infer_swap, vjp_swap, NULL, 0, {0}, AM_OP_ONE_PASS},
    {"route", "route", {FLAT}, {FLAT, FLAT, AS}, infer_route, NULL, NULL, 0, {0}, 0},
    {"dispatch",
     "dispatch",
     {FLAT, AS, FLAT, FLAT},
     {ROWS},
     infer_dispatch,
     vjp_by_slot,
     NULL,
     0,
     {0},
     AM_OP_ONE_PASS},
    {"combine", "combine", {ROWS, AS, FLAT, FLAT}, {FLAT}, infer_combine, vjp_by_slot, NULL, 0, {0}, 0},
    {"dispatch_to", "dispatch", {FLAT, AS, FLAT, FLAT}, {ROWS}, am_op_infer_given, NULL, NULL, 0, {0}, 0},
    {"combine_to", "combine", {ROWS, AS, FLAT, FLAT}, {FLAT}, am_op_infer_given, NULL, NULL, 0, {0}, 0},
    {"slot_scale",
     "slot_scale",
     {ROWS, AS, FLAT, FLAT},
     {ROWS},
     infer_slot_scale,
     vjp_slot_scale,
     NULL,
     0,
     {0},
     AM_OP_ONE_PASS},
    {"slot_dot", "slot_dot", {FLAT, ROWS, FLAT}, {FLAT}, am_op_infer_given, NULL, NULL, 0, {0}, 0},
    {"grouped_linear",
     "grouped_linear",
     {ROWS, AS, AS, AS},
     {ROWS},
     infer_grouped_linear,
     vjp_grouped_linear,
     flops_grouped,
     0,
     {0},
     AM_OP_ROUNDS_WEIGHT | AM_CUT_PRODUCT},
    {"grouped_linear_dx",
     "grouped_linear_dx",
     {ROWS, AS, AS},
     {ROWS},
     am_op_infer_given,
     NULL,
     flops_grouped,
     0,
     {0},
     AM_OP_ROUNDS_WEIGHT | AM_OP_ADDS},
    {"grouped_linear_dw",
     "grouped_linear_dw",
     {ROWS, ROWS, AS},
     {AS},
     am_op_infer_given,
     NULL,
     flops_grouped_dw,
     0,
     {0},
     0},
    {"grouped_bias_db", "grouped_bias_db", {ROWS, AS}, {AS}, am_op_infer_given, NULL, NULL, 0, {0}, 0},
    {0},
};
