/* ops_base: the operators every decoder has, and the engine's own.  Rows at the end; above them infer functions,
 * vjp functions, FLOP counts, by family. */
#include "graph/ops_internal.h"

#include <string.h>

#define V AM_OP_IN

/* ---- shapes ------------------------------------------------------------------------------------------- */

/* y like inputs 0 and 1, which must have equal dims */
static am_status infer_pair(am_graph *g, am_node *n)
{
    am_status st = AM_OK;
    AM_TRY(am_op_want_inputs(n, 2, 2));
    AM_CHECK(am_value_elements(V(0)) == am_value_elements(V(1)) &&
                 V(0)->dim[V(0)->rank - 1].local == V(1)->dim[V(1)->rank - 1].local,
             AM_ERR_CARD, "%s of %s and %s: their dimensions differ", n->def->name, V(0)->name, V(1)->name);
    AM_TRY(am_op_infer_like(g, n));
done:
    return st;
}

static am_status infer_embed(am_graph *g, am_node *n)
{
    am_dim dims[2] = {V(0)->dim[0], V(1)->dim[1]};
    return am_op_set_out(g, n, 0, "embed", g->compute, 2, dims);
}

static am_status infer_linear(am_graph *g, am_node *n)
{
    am_status st = AM_OK;
    AM_TRY(am_op_want_inputs(n, 2, 3));
    const am_value *x = V(0), *w = V(1);
    AM_CHECK(w->rank == 2 && am_op_features(x) == w->dim[1].local, AM_ERR_SHAPE,
             "linear: %s has %" PRId64 " features, the weight %s takes %" PRId64, x->name, am_op_features(x),
             w->name, w->dim[1].local);
    am_dim dims[AM_MAX_RANK] = {x->dim[0]};
    int rank = 1 + am_op_output_dims(g, w, 0, dims + 1);
    AM_TRY(am_op_set_out(g, n, 0, "linear", x->dtype, rank, dims));
done:
    return st;
}

static am_status infer_linear_dx(am_graph *g, am_node *n) /* out is given: it has x's dims */
{
    am_dim dims[2] = {V(0)->dim[0], V(1)->dim[1]};
    return am_op_set_out(g, n, 0, "dx", g->compute, 2, dims);
}

static am_status infer_linear_dw(am_graph *g, am_node *n)
{
    am_dim dims[2] = {am_dim_number(am_op_features(V(0))), am_dim_number(am_op_features(V(1)))};
    return am_op_set_out(g, n, 0, "dw", g->precise, 2, dims);
}

static am_status infer_bias_db(am_graph *g, am_node *n)
{
    am_dim dim = am_dim_number(am_op_features(V(0)));
    return am_op_set_out(g, n, 0, "db", g->precise, 1, &dim);
}

static am_status infer_rmsnorm(am_graph *g, am_node *n)
{
    am_status st = AM_OK;
    AM_TRY(am_op_want_inputs(n, 1, 2));
    am_value x = *V(0);
    AM_CHECK(n->num_in < 2 || n->in[1] < 0 ||
                 am_value_elements(V(1)) == x.dim[x.rank - 1].local * am_max_i64(n->attrs.groups, 1),
             AM_ERR_SHAPE, "rmsnorm: %s ends in %" PRId64 " features, its weight has %" PRId64, x.name,
             x.dim[x.rank - 1].local, am_value_elements(V(1)));
    AM_TRY(am_op_set_out(g, n, 0, "norm", x.dtype, x.rank, x.dim));
    AM_TRY(am_op_set_out(g, n, 1, "rstd", g->precise, x.rank - 1, x.dim));
done:
    return st;
}

static am_status infer_rope_angles(am_graph *g, am_node *n)
{
    am_status st = AM_OK;
    am_dim dims[2] = {V(0)->dim[0], V(1)->dim[0]};
    AM_TRY(am_op_want_inputs(n, 2, 2));
    AM_TRY(am_op_set_out(g, n, 0, "cos", g->precise, 2, dims));
    AM_TRY(am_op_set_out(g, n, 1, "sin", g->precise, 2, dims));
done:
    return st;
}

static am_status infer_rope(am_graph *g, am_node *n)
{
    am_status st = AM_OK;
    AM_TRY(am_op_want_inputs(n, 3, 3));
    AM_CHECK(V(0)->rank == 3 && 2 * V(1)->dim[1].local <= V(0)->dim[2].local, AM_ERR_SHAPE,
             "rope: %s must be [tokens, heads, width] with a width of at least %" PRId64, V(0)->name,
             2 * V(1)->dim[1].local);
    AM_TRY(am_op_infer_like(g, n));
done:
    return st;
}

static am_status infer_linear_ce(am_graph *g, am_node *n)
{
    am_status st = AM_OK;
    AM_TRY(am_op_set_out(g, n, 0, "lse", g->precise, 1, V(0)->dim));
    AM_TRY(am_op_set_out(g, n, 1, "target", g->precise, 1, V(0)->dim));
done:
    return st;
}

static am_status infer_loss_dlogp(am_graph *g, am_node *n)
{
    return am_op_set_out(g, n, 0, "dlogp", g->precise, 1, V(0)->dim);
}

/* ---- gradients ------------------------------------------------------------------------------------------
 */

static am_status vjp_embed(am_autodiff *ad, const am_node *n)
{
    am_status st = AM_OK;
    int dy;
    AM_TRY(am_ad_grad(ad, n->out[0], &dy));
    if (dy >= 0 && am_ad_wants(ad, n->in[1]))
        AM_TRY(am_ad_param_grad(ad, "embed_dw", (int[]){dy, n->in[0]}, 2, &n->attrs, n->in[1], 0));
done:
    return st;
}

static am_status vjp_linear(am_autodiff *ad, const am_node *n)
{
    return am_op_vjp_product(ad, n, "linear_dx", "linear_dw");
}

static am_status vjp_rmsnorm(am_autodiff *ad, const am_node *n)
{
    am_status st = AM_OK;
    int dy, dx, w = n->num_in > 1 ? n->in[1] : -1;
    AM_TRY(am_ad_grad(ad, n->out[0], &dy));
    if (dy < 0) goto done;
    if (am_ad_wants(ad, n->in[0])) {
        AM_TRY(am_ad_like(ad, n->in[0], &dx));
        AM_TRY(am_ad_emit(ad, "rmsnorm_dx", (int[]){dy, n->in[0], w, n->out[1]}, 4, &n->attrs, AM_ACC_NO, &dx,
                          1));
        AM_TRY(am_ad_contribute(ad, n->in[0], dx));
    }
    if (w >= 0 && am_ad_wants(ad, w))
        AM_TRY(am_ad_param_grad(ad, "rmsnorm_dw", (int[]){dy, n->in[0], n->out[1]}, 3, &n->attrs, w, 0));
done:
    return st;
}

static am_status vjp_rope(am_autodiff *ad, const am_node *n)
{
    am_status st = AM_OK;
    am_attrs attrs = n->attrs;
    int dy, dx = -1;
    attrs.inverse = !attrs.inverse;
    AM_TRY(am_ad_grad(ad, n->out[0], &dy));
    if (dy < 0 || !am_ad_wants(ad, n->in[0])) goto done;
    AM_TRY(am_ad_emit(ad, "rope", (int[]){dy, n->in[1], n->in[2]}, 3, &attrs, AM_ACC_NO, &dx, 1));
    AM_TRY(am_ad_contribute(ad, n->in[0], dx));
done:
    return st;
}

/* y = f(x): one node named <op>_bwd(dy, x) */
static am_status vjp_unary(am_autodiff *ad, const am_node *n, const char *op)
{
    am_status st = AM_OK;
    int dy, dx = -1;
    AM_TRY(am_ad_grad(ad, n->out[0], &dy));
    if (dy < 0 || !am_ad_wants(ad, n->in[0])) goto done;
    AM_TRY(am_ad_emit(ad, op, (int[]){dy, n->in[0]}, 2, &n->attrs, AM_ACC_NO, &dx, 1));
    AM_TRY(am_ad_contribute(ad, n->in[0], dx));
done:
    return st;
}
static am_status vjp_act(am_autodiff *ad, const am_node *n)
{
    return vjp_unary(ad, n, "act_bwd");
}
static am_status vjp_softcap(am_autodiff *ad, const am_node *n)
{
    return vjp_unary(ad, n, "softcap_bwd");
}

static am_status vjp_act_mul(am_autodiff *ad, const am_node *n)
{
    am_status st = AM_OK;
    int dy, out[2] = {-1, -1};
    AM_TRY(am_ad_grad(ad, n->out[0], &dy));
    if (dy < 0) goto done;
    for (int i = 0; i < 2; i++) AM_TRY(am_ad_like(ad, n->in[i], &out[i]));
    AM_TRY(am_ad_emit(ad, "act_mul_bwd", (int[]){dy, n->in[0], n->in[1]}, 3, &n->attrs, AM_ACC_NO, out, 2));
    for (int i = 0; i < 2; i++) AM_TRY(am_ad_contribute(ad, n->in[i], out[i]));
done:
    return st;
}

static am_status vjp_add(am_autodiff *ad, const am_node *n)
{
    am_status st = AM_OK;
    int dy;
    AM_TRY(am_ad_grad(ad, n->out[0], &dy));
    for (int i = 0; dy >= 0 && i < 2; i++) AM_TRY(am_ad_contribute(ad, n->in[i], dy));
done:
    return st;
}

static am_status vjp_cast(am_autodiff *ad, const am_node *n)
{
    am_status st = AM_OK;
    int dy;
    AM_TRY(am_ad_grad(ad, n->out[0], &dy));
    if (dy >= 0) AM_TRY(am_ad_contribute(ad, n->in[0], dy)); /* rounded to the operand's dtype there */
done:
    return st;
}

static am_status vjp_mul(am_autodiff *ad, const am_node *n)
{
    am_status st = AM_OK;
    int dy;
    AM_TRY(am_ad_grad(ad, n->out[0], &dy));
    for (int i = 0; dy >= 0 && i < 2; i++) {
        int d = -1;
        if (!am_ad_wants(ad, n->in[i])) continue;
        AM_TRY(am_ad_emit(ad, "mul", (int[]){dy, n->in[1 - i]}, 2, NULL, AM_ACC_NO, &d, 1));
        AM_TRY(am_ad_contribute(ad, n->in[i], d));
    }
done:
    return st;
}

static am_status vjp_scale(am_autodiff *ad, const am_node *n)
{
    am_status st = AM_OK;
    int dy, dx = -1;
    AM_TRY(am_ad_grad(ad, n->out[0], &dy));
    if (dy < 0 || !am_ad_wants(ad, n->in[0])) goto done;
    AM_TRY(am_ad_emit(ad, "scale", &dy, 1, &n->attrs, AM_ACC_NO, &dx, 1));
    AM_TRY(am_ad_contribute(ad, n->in[0], dx));
done:
    return st;
}

/* A sum over ranks: what every rank added gets the sum's gradient; and what every rank read gets the sum of theirs. */
static am_status vjp_tp_sum(am_autodiff *ad, const am_node *n)
{
    am_status st = AM_OK;
    int dy;
    AM_TRY(am_ad_grad(ad, n->out[0], &dy));
    if (dy >= 0) AM_TRY(am_ad_contribute(ad, n->in[0], dy));
done:
    return st;
}

static am_status vjp_tp_branch(am_autodiff *ad, const am_node *n)
{
    am_status st = AM_OK;
    int dy, dx = -1;
    AM_TRY(am_ad_grad(ad, n->out[0], &dy));
    if (dy < 0 || !am_ad_wants(ad, n->in[0])) goto done;
    AM_TRY(am_ad_emit(ad, "tp_sum", &dy, 1, NULL, AM_ACC_NO, &dx, 1));
    AM_TRY(am_ad_contribute(ad, n->in[0], dx));
done:
    return st;
}

/* The gradient that arrives at lse is dlogp: log p = target - lse.  One node gives dh and dw, since both need
 * the logits again; where W runs apart there are two. */
static am_status vjp_linear_ce(am_autodiff *ad, const am_node *n)
{
    am_status st = AM_OK;
    int dlogp, out[2] = {-1, -1}, num = n->num_in > 3 && n->in[3] >= 0 ? 6 : 5;
    am_acc acc = AM_ACC_NO;
    bool dw = am_ad_wants(ad, n->in[1]);
    AM_TRY(am_ad_grad(ad, n->out[0], &dlogp));
    if (dlogp < 0) goto done;
    int in[6] = {n->in[0], n->in[1], n->in[2], n->out[0], dlogp, n->in[3]};
    if (am_ad_wants(ad, n->in[0])) AM_TRY(am_ad_like(ad, n->in[0], &out[0]));
    if (dw && !am_ad_splits(ad)) AM_TRY(am_ad_param_value(ad, n->in[1], &out[1], &acc));
    if (out[0] >= 0 || out[1] >= 0) AM_TRY(am_ad_emit(ad, "linear_ce_bwd", in, num, &n->attrs, acc, out, 2));
    if (dw && am_ad_splits(ad)) AM_TRY(am_ad_param_grad(ad, "linear_ce_bwd", in, num, &n->attrs, n->in[1], 1));
    if (num == 6 && am_ad_wants(ad, n->in[3])) AM_TRY(am_ad_param_grad(ad, "linear_ce_bwd", in, 6, &n->attrs, n->in[3], 2));
    if (out[0] >= 0) AM_TRY(am_ad_contribute(ad, n->in[0], out[0]));
done:
    return st;
}

/* ---- FLOPs ------------------------------------------------------------------------------------------------
 */

static int64_t flops_linear(const am_graph *g, const am_node *n) /* x, w */
{
    return 2 * V(0)->dim[0].local * am_value_elements(V(1));
}
static int64_t flops_linear_dw(const am_graph *g, const am_node *n)
{
    return 2 * V(0)->dim[0].local * am_op_features(V(0)) * am_op_features(V(1));
}
static int64_t flops_linear_ce_bwd(const am_graph *g, const am_node *n) /* logits again, then dh and dw */
{
    return flops_linear(g, n) * (1 + (n->out[0] >= 0) + (n->num_out > 1 && n->out[1] >= 0));
}
static int64_t flops_linear_ce_grad(const am_graph *g, const am_node *n) /* logits, dh and dw */
{
    return flops_linear(g, n) * (1 + (n->out[2] >= 0) + (n->out[3] >= 0));
}
/* ---- rows
 * --------------------------------------------------------------------------------------------------- */

#define AS   AM_VIEW_AS_IS
#define ROWS AM_VIEW_ROWS
#define LAST AM_VIEW_LAST
#define FLAT AM_VIEW_FLAT

const am_op_def am_ops_base[] = {
    {"embed", "embed", {AS, AS}, {AS}, infer_embed, vjp_embed, NULL, 0, {0}, AM_OP_ROUNDS_WEIGHT | AM_OP_ROWS_BY_ID},
    {"embed_dw", "embed_dw", {ROWS, AS}, {AS}, am_op_infer_given, NULL, NULL, 0, {0}, AM_OP_ROWS_BY_ID},
    {"linear", "linear", {ROWS, AS, FLAT}, {ROWS}, infer_linear, vjp_linear, flops_linear, 0, {0}, AM_OP_ROUNDS_WEIGHT | AM_CUT_PRODUCT},
    {"linear_dx", "linear_dx", {ROWS, AS}, {ROWS}, infer_linear_dx, NULL, flops_linear, 0, {0}, AM_OP_ROUNDS_WEIGHT | AM_OP_ADDS},
    {"linear_dw", "linear_dw", {ROWS, ROWS}, {AS}, infer_linear_dw, NULL, flops_linear_dw, 0, {0}, 0},
    {"bias_db", "bias_db", {ROWS}, {FLAT}, infer_bias_db, NULL, NULL, 0, {0}, 0},
    {"rmsnorm", "rmsnorm", {LAST, FLAT}, {LAST, FLAT}, infer_rmsnorm, vjp_rmsnorm, NULL, 0, {0}, AM_OP_ONE_PASS | AM_CUT_ROWS},
    {"rmsnorm_dx", "rmsnorm_dx", {LAST, LAST, FLAT, FLAT}, {LAST}, am_op_infer_like, NULL, NULL, 0, {0}, AM_OP_ADDS},
    {"rmsnorm_dw", "rmsnorm_dw", {LAST, LAST, FLAT}, {FLAT}, am_op_infer_given, NULL, NULL, 0, {0}, 0},
    {"rope_angles", "rope_angles", {AS, AS}, {AS, AS}, infer_rope_angles, NULL, NULL, 0, {0}, 0},
    {"rope", "rope", {AS, AS, AS}, {AS}, infer_rope, vjp_rope, NULL, 1, {0}, AM_CUT_ROWS},
    {"act", "act", {FLAT}, {FLAT}, am_op_infer_like, vjp_act, NULL, 0, {0}, AM_OP_ONE_PASS | AM_CUT_EACH},
    {"act_bwd", "act_bwd", {FLAT, FLAT}, {FLAT}, am_op_infer_like, NULL, NULL, 0, {0}, 0},
    {"act_mul", "act_mul", {FLAT, FLAT}, {FLAT}, infer_pair, vjp_act_mul, NULL, 0, {0}, AM_OP_ONE_PASS | AM_CUT_EACH},
    {"act_mul_bwd", "act_mul_bwd", {FLAT, FLAT, FLAT}, {FLAT, FLAT}, am_op_infer_given, NULL, NULL, 0, {0}, 0},
    {"add", "add", {FLAT, FLAT}, {FLAT}, infer_pair, vjp_add, NULL, 1, {0}, AM_OP_ONE_PASS | AM_CUT_EACH},
    {"mul", "mul", {FLAT, FLAT}, {FLAT}, infer_pair, vjp_mul, NULL, 0, {0}, AM_OP_ONE_PASS | AM_CUT_EACH},
    {"scale", "scale", {FLAT}, {FLAT}, am_op_infer_like, vjp_scale, NULL, 0, {0}, AM_OP_ONE_PASS | AM_CUT_EACH},
    {"softcap", "softcap", {FLAT}, {FLAT}, am_op_infer_like, vjp_softcap, NULL, 0, {0}, AM_OP_ONE_PASS | AM_CUT_EACH},
    {"softcap_bwd", "softcap_bwd", {FLAT, FLAT}, {FLAT}, am_op_infer_like, NULL, NULL, 0, {0}, 0},
    {"linear_ce",
     "linear_ce",
     {ROWS, AS, AS, FLAT},
     {AS, AS},
     infer_linear_ce,
     vjp_linear_ce,
     flops_linear,
     0,
     {0}, AM_OP_ROUNDS_WEIGHT},
    {"linear_ce_bwd",
     "linear_ce_bwd",
     {ROWS, AS, AS, AS, AS, FLAT},
     {ROWS, AS, FLAT},
     am_op_infer_given,
     NULL,
     flops_linear_ce_bwd,
     0,
     {0}, AM_OP_ROUNDS_WEIGHT},
    {"linear_ce_grad",
     "linear_ce_grad",
     {ROWS, AS, AS, AS},
     {AS, AS, ROWS, AS},
     am_op_infer_given,
     NULL,
     flops_linear_ce_grad,
     0,
     {0}, AM_OP_ROUNDS_WEIGHT},
    {"loss_sum", "loss_sum", {AS, AS, AS, AS}, {AS}, am_op_infer_given, NULL, NULL, 0, {0}, 0},
    {"loss_dlogp", "loss_dlogp", {AS, AS}, {AS}, infer_loss_dlogp, NULL, NULL, 0, {0}, 0},
    {"cast", "cast", {FLAT}, {FLAT}, am_op_infer_given, vjp_cast, NULL, 0, {0}, AM_CUT_EACH},
    {"fill", "fill", {0}, {FLAT}, am_op_infer_given, NULL, NULL, 0, {0}, 0},
    {"rank_sum", "rank_sum", {AS}, {FLAT}, am_op_infer_given, NULL, NULL, 0, {0}, 0},
    {"sumsq", "sumsq", {FLAT}, {FLAT}, am_op_infer_given, NULL, NULL, 0, {0}, 0},
    {"clip_coef", "clip_coef", {FLAT, AS}, {AS}, am_op_infer_given, NULL, NULL, 0, {0}, 0},
    {"adamw", "adamw", {AS, FLAT, FLAT, FLAT, FLAT}, {FLAT, FLAT, FLAT}, am_op_infer_given, NULL, NULL, 0, {0}, 0},
    {"gather_rows", "gather_rows", {AS, AS}, {AS}, am_op_infer_given, NULL, NULL, 0, {0}, 0},
    {"scatter_rows", "scatter_rows", {AS, AS}, {AS}, am_op_infer_given, NULL, NULL, 0, {0}, 0},
    {"tp_sum", NULL, {FLAT}, {FLAT}, am_op_infer_like, vjp_tp_sum, NULL, 0, {0}, AM_CUT_SUM},
    {"tp_branch", NULL, {FLAT}, {FLAT}, am_op_infer_like, vjp_tp_branch, NULL, 0, {0}, AM_CUT_BRANCH},
    {"all_gather", NULL, {FLAT}, {FLAT}, am_op_infer_given, NULL, NULL, 0, {0}, 0},
    {"exchange", NULL, {FLAT}, {FLAT}, am_op_infer_given, NULL, NULL, 0, {0}, 0},
    {0},
};
