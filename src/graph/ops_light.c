/* ops_light: operators that touch memory once: LayerNorm, functions of one number and of two, selection by a condition,
 * softmax and the largest of a row, sums, casts, cat and split.  Operands of `pair` and `where` may lack dimensions of the
 * result, which are found by name; what flows back to them is summed over those (sum_to). */
#include "graph/ops_internal.h"

#include <string.h>

#define V AM_OP_IN

/* ---- dimensions by name ------------------------------------------------------------------------------- */

int am_op_dims_within(const am_value *whole, const am_value *part, int64_t *mask)
{
    *mask = 0;
    if (am_value_elements(part) == 1 && part->rank <= 1) return 1; /* one number for all */
    int found = 0;
    for (int first = whole->rank - part->rank; first >= 0 && found == 0; first--) { /* all together, the last ones first */
        bool fits = true;
        for (int i = 0; fits && i < part->rank; i++) fits = am_dim_same(&whole->dim[first + i], &part->dim[i]);
        if (!fits) continue;
        *mask = (((int64_t)1 << part->rank) - 1) << first;
        found = 1;
    }
    int k = 0;
    for (int i = 0; found == 0 && i < whole->rank && k < part->rank; i++) /* with others between */
        if (am_dim_same(&whole->dim[i], &part->dim[k])) {
            *mask |= (int64_t)1 << i;
            k++;
        }
    return found || k == part->rank;
}

static int64_t all_dims(const am_value *v)
{
    return ((int64_t)1 << v->rank) - 1;
}

/* The operand among `in` that has all dimensions of the others. */
static am_status find_whole(am_graph *g, const am_node *n, int num, int *whole)
{
    am_status st = AM_OK;
    int64_t mask;
    *whole = -1;
    for (int i = 0; i < num && *whole < 0; i++) {
        bool all = n->in[i] >= 0;
        for (int k = 0; all && k < num; k++) all = n->in[k] < 0 || am_op_dims_within(V(i), V(k), &mask);
        if (all) *whole = i;
    }
    AM_CHECK(*whole >= 0, AM_ERR_CARD, "%s: no operand has the dimensions of all of them", n->def->name);
    for (int i = 0; i < num; i++)
        AM_CHECK(n->in[i] < 0 || V(i)->dtype == V(*whole)->dtype, AM_ERR_CARD, "%s: %s is %s, %s is %s", n->def->name, V(i)->name,
                 am_dtype_name(V(i)->dtype), V(*whole)->name, am_dtype_name(V(*whole)->dtype));
done:
    return st;
}

/* ---- shapes ------------------------------------------------------------------------------------------- */

/* With dimensions by name where the masks are not given, as gradients do. */
static am_status infer_pair(am_graph *g, am_node *n)
{
    am_status st = AM_OK;
    int whole = 0;
    AM_TRY(am_op_want_inputs(n, 1, 2));
    if (n->out[0] >= 0) {
        n->num_out = 1;
        goto done;
    }
    AM_TRY(find_whole(g, n, n->num_in, &whole));
    am_value x = *V(whole);
    AM_TRY(am_op_set_out(g, n, 0, "pair", x.dtype, x.rank, x.dim));
    (void)am_op_dims_within(&x, V(0), &n->attrs.a_dims);
    if (n->num_in > 1) (void)am_op_dims_within(&x, V(1), &n->attrs.b_dims);
done:
    return st;
}

static am_status infer_where(am_graph *g, am_node *n)
{
    am_status st = AM_OK;
    int whole = 0;
    int64_t *masks[3] = {&n->attrs.c_dims, &n->attrs.a_dims, &n->attrs.b_dims};
    AM_TRY(am_op_want_inputs(n, 1, 3));
    if (n->out[0] >= 0) {
        n->num_out = 1;
        goto done;
    }
    AM_TRY(find_whole(g, n, n->num_in, &whole));
    am_value x = *V(whole);
    AM_TRY(am_op_set_out(g, n, 0, "where", x.dtype, x.rank, x.dim));
    for (int i = 0; i < n->num_in; i++)
        if (n->in[i] >= 0) (void)am_op_dims_within(&x, V(i), masks[i]);
done:
    return st;
}

/* the last dimension gone; of one dimension, one number is left */
static int without_last(const am_value *x, am_dim *dims)
{
    for (int i = 0; i + 1 < x->rank; i++) dims[i] = x->dim[i];
    if (x->rank > 1) return x->rank - 1;
    dims[0] = am_dim_number(1);
    return 1;
}

static am_status infer_over_last(am_graph *g, am_node *n)
{
    am_status st = AM_OK;
    am_dim dims[AM_MAX_RANK];
    AM_TRY(am_op_want_inputs(n, 1, 1));
    am_value x = *V(0);
    int rank = without_last(&x, dims);
    AM_TRY(am_op_set_out(g, n, 0, n->def->name, x.dtype, rank, dims));
    n->attrs.a_dims = all_dims(&x) >> 1; /* of the sum: all but the last */
done:
    return st;
}

static am_status infer_layernorm(am_graph *g, am_node *n)
{
    am_status st = AM_OK;
    AM_TRY(am_op_want_inputs(n, 1, 3));
    am_value x = *V(0);
    const int64_t want = x.dim[x.rank - 1].local * am_max_i64(n->attrs.groups, 1);
    for (int i = 1; i < n->num_in; i++)
        AM_CHECK(n->in[i] < 0 || am_value_elements(V(i)) == want, AM_ERR_SHAPE,
                 "layernorm: %s ends in %" PRId64 " features, %s has %" PRId64, x.name, want, V(i)->name, am_value_elements(V(i)));
    AM_TRY(am_op_set_out(g, n, 0, "norm", x.dtype, x.rank, x.dim));
    AM_TRY(am_op_set_out(g, n, 1, "mean", g->precise, x.rank - 1, x.dim));
    AM_TRY(am_op_set_out(g, n, 2, "rstd", g->precise, x.rank - 1, x.dim));
done:
    return st;
}

/* operands side by side in the last dimension; the one with the most rows gives the others */
static am_status infer_cat(am_graph *g, am_node *n)
{
    am_status st = AM_OK;
    am_dim dims[AM_MAX_RANK];
    int64_t width = 0;
    int most = 0;
    AM_TRY(am_op_want_inputs(n, 1, AM_MAX_OUT));
    for (int i = 0; i < n->num_in; i++) {
        const am_value *x = V(i);
        width += x->dim[x->rank - 1].local;
        if (am_value_elements(x) / x->dim[x->rank - 1].local > am_value_elements(V(most)) / V(most)->dim[V(most)->rank - 1].local)
            most = i;
    }
    am_value x = *V(most);
    for (int i = 0; i < n->num_in; i++) {
        const am_value *y = V(i);
        bool fits = y->rank == x.rank && y->dtype == x.dtype;
        for (int k = 0; fits && k + 1 < x.rank; k++)
            fits = y->dim[k].local == x.dim[k].local || (k == x.rank - 2 && k > 0 && y->dim[k].local == 1);
        AM_CHECK(fits, AM_ERR_SHAPE, "cat: %s and %s must have the same dimensions but for the last one, or one head for all",
                 x.name, y->name);
    }
    for (int i = 0; i + 1 < x.rank; i++) dims[i] = x.dim[i];
    dims[x.rank - 1] = am_dim_number(width);
    AM_TRY(am_op_set_out(g, n, 0, "cat", x.dtype, x.rank, dims));
done:
    return st;
}

/* ---- gradients ---------------------------------------------------------------------------------------- */

/* scale·Σ d·other over what `value`, which has the dimensions `mask` of d, lacks: its gradient. */
static am_status contribute_sum(am_autodiff *ad, int value, int64_t mask, int d, int other, int64_t other_mask, double scale)
{
    am_status st = AM_OK;
    am_graph *g = am_ad_graph(ad);
    am_attrs attrs = {.a_dims = mask, .b_dims = other_mask, .scale = scale};
    int in[2] = {d, other}, num = other >= 0 ? 2 : 1, sum = -1;
    if (!am_ad_wants(ad, value)) goto done;
    if (mask == all_dims(&g->values[d])) { /* nothing to sum */
        sum = d;
        am_attrs both = {.pair = AM_PAIR_MUL, .a_dims = mask, .b_dims = other_mask};
        if (other >= 0) {
            AM_TRY(am_ad_like(ad, d, &sum));
            AM_TRY(am_ad_emit(ad, other_mask == mask ? "mul" : "pair", in, 2, &both, AM_ACC_NO, &sum, 1));
        }
        if (scale != 1) {
            int scaled = -1;
            AM_TRY(am_ad_emit(ad, "scale", &sum, 1, &attrs, AM_ACC_NO, &scaled, 1));
            sum = scaled;
        }
        AM_TRY(am_ad_contribute(ad, value, sum));
    } else if (am_ad_is_param(ad, value)) {
        AM_TRY(am_ad_param_grad(ad, "sum_to", in, num, &attrs, value, 0));
    } else {
        AM_TRY(am_ad_like(ad, value, &sum));
        AM_TRY(am_ad_emit(ad, "sum_to", in, num, &attrs, AM_ACC_NO, &sum, 1));
        AM_TRY(am_ad_contribute(ad, value, sum));
    }
done:
    return st;
}

/* y = a / b:  t = dy / b, da = Σ t, db = −Σ t·y */
static am_status vjp_quotient(am_autodiff *ad, const am_node *n, int dy)
{
    am_status st = AM_OK;
    am_graph *g = am_ad_graph(ad);
    int t = -1;
    int64_t all = all_dims(&g->values[n->out[0]]);
    am_attrs attrs = {.pair = AM_PAIR_DIV, .a_dims = all, .b_dims = n->attrs.b_dims};
    AM_TRY(am_ad_like(ad, n->out[0], &t));
    AM_TRY(am_ad_emit(ad, "pair", (int[]){dy, n->in[1]}, 2, &attrs, AM_ACC_NO, &t, 1));
    AM_TRY(contribute_sum(ad, n->in[0], n->attrs.a_dims, t, -1, 0, 1));
    AM_TRY(contribute_sum(ad, n->in[1], n->attrs.b_dims, t, n->out[0], all, -1));
done:
    return st;
}

static am_status vjp_pair(am_autodiff *ad, const am_node *n)
{
    am_status st = AM_OK;
    int dy, b = n->num_in > 1 ? n->in[1] : -1;
    const am_attrs *t = &n->attrs;
    AM_TRY(am_ad_grad(ad, n->out[0], &dy));
    if (dy < 0) goto done;
    switch ((am_pair)t->pair) {
    case AM_PAIR_FIRST:
        AM_TRY(contribute_sum(ad, n->in[0], t->a_dims, dy, -1, 0, 1));
        break;
    case AM_PAIR_ADD:
    case AM_PAIR_SUB:
        AM_TRY(contribute_sum(ad, n->in[0], t->a_dims, dy, -1, 0, 1));
        AM_TRY(contribute_sum(ad, b, t->b_dims, dy, -1, 0, t->pair == AM_PAIR_SUB ? -1 : 1));
        break;
    case AM_PAIR_MUL:
        AM_TRY(contribute_sum(ad, n->in[0], t->a_dims, dy, b, t->b_dims, 1));
        AM_TRY(contribute_sum(ad, b, t->b_dims, dy, n->in[0], t->a_dims, 1));
        break;
    case AM_PAIR_DIV:
        AM_TRY(vjp_quotient(ad, n, dy));
        break;
    default: /* comparisons are steps */
        break;
    }
done:
    return st;
}

/* a gets dy where the condition holds, b where not; the condition is a step */
static am_status vjp_where(am_autodiff *ad, const am_node *n)
{
    am_status st = AM_OK;
    int dy;
    AM_TRY(am_ad_grad(ad, n->out[0], &dy));
    if (dy < 0) goto done;
    const int64_t all = all_dims(&am_ad_graph(ad)->values[n->out[0]]);
    for (int i = 1; i < n->num_in; i++) {
        int d = -1, in[3] = {n->in[0], i == 1 ? dy : -1, i == 2 ? dy : -1};
        am_attrs attrs = {.c_dims = n->attrs.c_dims, .a_dims = all, .b_dims = all};
        if (!am_ad_wants(ad, n->in[i])) continue;
        AM_TRY(am_ad_like(ad, n->out[0], &d));
        AM_TRY(am_ad_emit(ad, "where", in, 3, &attrs, AM_ACC_NO, &d, 1));
        AM_TRY(contribute_sum(ad, n->in[i], i == 1 ? n->attrs.a_dims : n->attrs.b_dims, d, -1, 0, 1));
    }
done:
    return st;
}

static am_status vjp_map(am_autodiff *ad, const am_node *n)
{
    am_status st = AM_OK;
    int dy, dx = -1;
    const am_map m = (am_map)n->attrs.map;
    AM_TRY(am_ad_grad(ad, n->out[0], &dy));
    if (dy < 0 || !am_ad_wants(ad, n->in[0]) || m == AM_MAP_FLOOR || m >= AM_MAP_LT) goto done; /* steps give nothing */
    if (m == AM_MAP_AFFINE && n->attrs.scale == 1)
        dx = dy;
    else if (m == AM_MAP_AFFINE)
        AM_TRY(am_ad_emit(ad, "scale", &dy, 1, &n->attrs, AM_ACC_NO, &dx, 1));
    else
        AM_TRY(am_ad_emit(ad, "map_bwd", (int[]){dy, n->in[0]}, 2, &n->attrs, AM_ACC_NO, &dx, 1));
    AM_TRY(am_ad_contribute(ad, n->in[0], dx));
done:
    return st;
}

static am_status vjp_xielu(am_autodiff *ad, const am_node *n)
{
    am_status st = AM_OK;
    int dy, dx = -1;
    AM_TRY(am_ad_grad(ad, n->out[0], &dy));
    if (dy < 0) goto done;
    int in[6] = {dy, n->in[0], n->in[1], n->in[2], n->in[3], n->in[4]};
    if (am_ad_wants(ad, n->in[0])) {
        AM_TRY(am_ad_like(ad, n->in[0], &dx));
        AM_TRY(am_ad_emit(ad, "xielu_bwd", in, 6, NULL, AM_ACC_NO, &dx, 1));
        AM_TRY(am_ad_contribute(ad, n->in[0], dx));
    }
    for (int i = 0; i < 2; i++) {
        am_attrs attrs = {.index = i};
        if (am_ad_wants(ad, n->in[1 + i])) AM_TRY(am_ad_param_grad(ad, "xielu_dalpha", in, 6, &attrs, n->in[1 + i], 0));
    }
done:
    return st;
}

static am_status vjp_softmax(am_autodiff *ad, const am_node *n)
{
    am_status st = AM_OK;
    int dy, dx = -1;
    AM_TRY(am_ad_grad(ad, n->out[0], &dy));
    if (dy < 0 || !am_ad_wants(ad, n->in[0])) goto done;
    AM_TRY(am_ad_emit(ad, "softmax_bwd", (int[]){dy, n->out[0]}, 2, NULL, AM_ACC_NO, &dx, 1));
    AM_TRY(am_ad_contribute(ad, n->in[0], dx));
done:
    return st;
}

static am_status vjp_max(am_autodiff *ad, const am_node *n)
{
    am_status st = AM_OK;
    int dy, dx = -1;
    AM_TRY(am_ad_grad(ad, n->out[0], &dy));
    if (dy < 0 || !am_ad_wants(ad, n->in[0])) goto done;
    AM_TRY(am_ad_like(ad, n->in[0], &dx));
    AM_TRY(am_ad_emit(ad, "max_bwd", (int[]){dy, n->in[0]}, 2, NULL, AM_ACC_NO, &dx, 1));
    AM_TRY(am_ad_contribute(ad, n->in[0], dx));
done:
    return st;
}

/* the sum's gradient, repeated over the last dimension */
static am_status vjp_sum(am_autodiff *ad, const am_node *n)
{
    am_status st = AM_OK;
    int dy, dx = -1;
    am_attrs attrs = {.pair = AM_PAIR_FIRST, .a_dims = n->attrs.a_dims};
    AM_TRY(am_ad_grad(ad, n->out[0], &dy));
    if (dy < 0 || !am_ad_wants(ad, n->in[0])) goto done;
    AM_TRY(am_ad_like(ad, n->in[0], &dx));
    AM_TRY(am_ad_emit(ad, "pair", &dy, 1, &attrs, AM_ACC_NO, &dx, 1));
    AM_TRY(am_ad_contribute(ad, n->in[0], dx));
done:
    return st;
}

static am_status vjp_layernorm(am_autodiff *ad, const am_node *n)
{
    am_status st = AM_OK;
    int dy, dx, w = n->num_in > 1 ? n->in[1] : -1, b = n->num_in > 2 ? n->in[2] : -1;
    AM_TRY(am_ad_grad(ad, n->out[0], &dy));
    if (dy < 0) goto done;
    if (am_ad_wants(ad, n->in[0])) {
        AM_TRY(am_ad_like(ad, n->in[0], &dx));
        AM_TRY(am_ad_emit(ad, "layernorm_dx", (int[]){dy, n->in[0], w, n->out[1], n->out[2]}, 5, &n->attrs, AM_ACC_NO, &dx, 1));
        AM_TRY(am_ad_contribute(ad, n->in[0], dx));
    }
    if (am_ad_wants(ad, w))
        AM_TRY(am_ad_param_grad(ad, "layernorm_dw", (int[]){dy, n->in[0], n->out[1], n->out[2]}, 4, &n->attrs, w, 0));
    if (am_ad_wants(ad, b))
        AM_TRY(am_ad_param_grad(ad, n->attrs.groups > 1 ? "bias_db" : "column_sums", (int[]){dy}, 1, NULL, b, 0));
done:
    return st;
}

/* the parts of the gradient that are wanted; cat and split are each other's */
static am_status vjp_cat(am_autodiff *ad, const am_node *n)
{
    am_status st = AM_OK;
    int dy, out[AM_MAX_OUT] = {-1, -1, -1, -1};
    AM_TRY(am_ad_grad(ad, n->out[0], &dy));
    if (dy < 0) goto done;
    for (int i = 0; i < n->num_in; i++) AM_TRY(am_ad_like(ad, n->in[i], &out[i]));
    AM_TRY(am_ad_emit(ad, "split_to", &dy, 1, NULL, AM_ACC_NO, out, n->num_in));
    for (int i = 0; i < n->num_in; i++) AM_TRY(am_ad_contribute(ad, n->in[i], out[i]));
done:
    return st;
}

static am_status vjp_split(am_autodiff *ad, const am_node *n)
{
    am_status st = AM_OK;
    int d[AM_MAX_OUT], dx = -1;
    bool any = false;
    for (int i = 0; i < n->num_out; i++) {
        AM_TRY(am_ad_grad(ad, n->out[i], &d[i]));
        any = any || d[i] >= 0;
    }
    if (!any || !am_ad_wants(ad, n->in[0])) goto done;
    for (int i = 0; i < n->num_out; i++) {
        if (d[i] >= 0) continue;
        AM_TRY(am_ad_like(ad, n->out[i], &d[i]));
        AM_TRY(am_ad_emit(ad, "fill", NULL, 0, NULL, AM_ACC_NO, &d[i], 1));
    }
    AM_TRY(am_ad_like(ad, n->in[0], &dx));
    AM_TRY(am_ad_emit(ad, "cat_to", d, n->num_out, NULL, AM_ACC_NO, &dx, 1));
    AM_TRY(am_ad_contribute(ad, n->in[0], dx));
done:
    return st;
}

/* ---- rows --------------------------------------------------------------------------------------------- */

#define AS   AM_VIEW_AS_IS
#define LAST AM_VIEW_LAST
#define FLAT AM_VIEW_FLAT

const am_op_def am_ops_light[] = {
    {"layernorm", "layernorm", {LAST, FLAT, FLAT}, {LAST, FLAT, FLAT}, infer_layernorm, vjp_layernorm, NULL, 0, {0}, AM_OP_ONE_PASS | AM_CUT_ROWS},
    {"layernorm_dx", "layernorm_dx", {LAST, LAST, FLAT, FLAT, FLAT}, {LAST}, am_op_infer_like, NULL, NULL, 0, {0}, AM_OP_ADDS},
    {"layernorm_dw", "layernorm_dw", {LAST, LAST, FLAT, FLAT}, {FLAT}, am_op_infer_given, NULL, NULL, 0, {0}, 0},
    {"column_sums", "bias_db", {LAST}, {FLAT}, am_op_infer_given, NULL, NULL, 0, {0}, 0},
    {"map", "map", {FLAT}, {FLAT}, am_op_infer_like, vjp_map, NULL, 0, {0}, AM_OP_ONE_PASS | AM_CUT_EACH},
    {"map_bwd", "map_bwd", {FLAT, FLAT}, {FLAT}, am_op_infer_like, NULL, NULL, 0, {0}, 0},
    {"pair", "pair", {FLAT, FLAT}, {AS}, infer_pair, vjp_pair, NULL, 0, {0}, AM_OP_ONE_PASS | AM_CUT_EACH},
    {"where", "where", {FLAT, FLAT, FLAT}, {AS}, infer_where, vjp_where, NULL, 0, {0}, AM_OP_ONE_PASS | AM_CUT_EACH},
    {"sum_to", "sum_to", {AS, FLAT}, {FLAT}, am_op_infer_given, NULL, NULL, 0, {0}, 0},
    {"sum", "sum_to", {AS}, {FLAT}, infer_over_last, vjp_sum, NULL, 0, {0}, AM_CUT_ROWS},
    {"xielu", "xielu", {FLAT, FLAT, FLAT, FLAT, FLAT}, {FLAT}, am_op_infer_like, vjp_xielu, NULL, 0, {0}, AM_OP_ONE_PASS | AM_CUT_EACH},
    {"xielu_bwd", "xielu_bwd", {FLAT, FLAT, FLAT, FLAT, FLAT, FLAT}, {FLAT}, am_op_infer_given, NULL, NULL, 0, {0}, 0},
    {"xielu_dalpha", "xielu_dalpha", {FLAT, FLAT, FLAT, FLAT, FLAT, FLAT}, {FLAT}, am_op_infer_given, NULL, NULL, 0, {0}, 0},
    {"softmax", "softmax", {LAST}, {LAST}, am_op_infer_like, vjp_softmax, NULL, 0, {0}, AM_CUT_ROWS},
    {"softmax_bwd", "softmax_bwd", {LAST, LAST}, {LAST}, am_op_infer_like, NULL, NULL, 0, {0}, 0},
    {"max", "row_max", {LAST}, {FLAT}, infer_over_last, vjp_max, NULL, 0, {0}, AM_CUT_ROWS},
    {"max_bwd", "row_max_bwd", {FLAT, LAST}, {LAST}, am_op_infer_given, NULL, NULL, 0, {0}, 0},
    {"cat", "cat", {LAST, LAST, LAST, LAST}, {LAST}, infer_cat, vjp_cat, NULL, 0, {0}, AM_OP_ONE_PASS | AM_CUT_ROWS},
    {"cat_to", "cat", {LAST, LAST, LAST, LAST}, {LAST}, am_op_infer_given, NULL, NULL, 0, {0}, 0},
    {"split", "split", {LAST}, {LAST, LAST, LAST, LAST}, am_op_infer_given, vjp_split, NULL, 0, {0}, AM_CUT_ROWS},
    {"split_to", "split", {LAST}, {LAST, LAST, LAST, LAST}, am_op_infer_given, NULL, NULL, 0, {0}, 0},
    {"detach", "cast", {FLAT}, {FLAT}, am_op_infer_like, NULL, NULL, 0, {0}, AM_OP_ONE_PASS | AM_CUT_EACH},
    {0},
};
