/* ops_delta: recurrences over tokens that hold a memory of key-value pairs or of channels: gated_delta,
 * lightning, rg_lru, wkv, shift; and block_linear.  Each recurrence sees index and doc_start behind its own
 * operands, and in GENERATE a state behind those. */
#include "graph/ops_internal.h"

#define V AM_OP_IN

enum { SPAN = 512 /* tokens from one saved memory to the next, as the kernels have it */, CHUNK = 64 };

/* ---- shapes -----------------------------------------------------------------------------------------------
 */

/* o, the saved memories, and with a place for the state that one; `states` is the operand's index */
static am_status memory_outputs(am_graph *g, am_node *n, int state)
{
    am_status st = AM_OK;
    const am_value q = *V(0), v = *V(2);
    am_dim dims[4] = {am_dim_number(am_ceil_div(q.dim[0].local, SPAN)), v.dim[1], q.dim[2], v.dim[2]};
    AM_TRY(am_op_set_out(g, n, 0, n->def->name, v.dtype, 3, v.dim));
    AM_TRY(am_op_set_out(g, n, 1, "saved", g->precise, 4, dims));
    if (n->num_in > state) AM_TRY(am_op_set_out(g, n, 2, "state", g->precise, 3, dims + 1));
done:
    return st;
}

static am_status infer_gated_delta(am_graph *g, am_node *n)
{
    am_status st = AM_OK;
    AM_TRY(am_op_want_inputs(n, 7, 8));
    const am_value *q = V(0), *k = V(1), *v = V(2);
    bool fits = q->rank == 3 && k->rank == 3 && v->rank == 3 && q->dim[1].local == k->dim[1].local &&
                q->dim[2].local == k->dim[2].local;
    AM_CHECK(fits && v->dim[1].local % q->dim[1].local == 0, AM_ERR_SHAPE,
             "gated_delta: q [N,K,d], k [N,K,d] and v [N,H,e] do not fit together (K divides H)");
    for (int i = 3; i < 5; i++)
        AM_CHECK(am_op_features(V(i)) == v->dim[1].local, AM_ERR_SHAPE,
                 "gated_delta: %s has %" PRId64 " numbers a token for %" PRId64 " value heads", V(i)->name,
                 am_op_features(V(i)), v->dim[1].local);
    AM_TRY(memory_outputs(g, n, 7));
done:
    return st;
}

static am_status infer_lightning(am_graph *g, am_node *n)
{
    am_status st = AM_OK;
    AM_TRY(am_op_want_inputs(n, 6, 7));
    const am_value *q = V(0), *k = V(1), *v = V(2);
    bool fits = q->rank == 3 && k->rank == 3 && v->rank == 3 && q->dim[2].local == k->dim[2].local;
    AM_CHECK(fits && q->dim[1].local == v->dim[1].local && k->dim[1].local == v->dim[1].local &&
                 am_value_elements(V(3)) == v->dim[1].local,
             AM_ERR_SHAPE,
             "lightning: q [N,H,d], k [N,H,d], v [N,H,e] and %" PRId64 " slopes do not fit together",
             am_value_elements(V(3)));
    AM_TRY(memory_outputs(g, n, 6));
done:
    return st;
}

static am_status infer_rg_lru(am_graph *g, am_node *n)
{
    am_status st = AM_OK;
    AM_TRY(am_op_want_inputs(n, 4, 5));
    const am_value x = *V(0);
    const am_dim width = am_dim_number(am_op_features(&x));
    AM_CHECK(am_op_features(V(1)) == width.local, AM_ERR_SHAPE,
             "rg_lru: %s and its gate %s differ in features", x.name, V(1)->name);
    AM_TRY(am_op_set_out(g, n, 0, "rg_lru", x.dtype, x.rank, x.dim));
    if (n->num_in > 4) AM_TRY(am_op_set_out(g, n, 1, "state", g->precise, 1, &width));
done:
    return st;
}

static am_status infer_wkv(am_graph *g, am_node *n)
{
    am_status st = AM_OK;
    AM_TRY(am_op_want_inputs(n, 6, 7));
    const am_value k = *V(0);
    const am_dim state[2] = {am_dim_number(3), am_dim_number(am_op_features(&k))};
    for (int i = 2; i < 4; i++)
        AM_CHECK(V(i)->dtype == g->precise, AM_ERR_CARD, "wkv: decay and bonus are f32 values: f32(%s)",
                 V(i)->name);
    AM_CHECK(am_op_features(V(1)) == state[1].local && am_value_elements(V(2)) == state[1].local &&
                 am_value_elements(V(3)) == state[1].local,
             AM_ERR_SHAPE, "wkv: k [N,C], v [N,C], decay [C] and bonus [C] do not fit together");
    AM_TRY(am_op_set_out(g, n, 0, "wkv", k.dtype, k.rank, k.dim));
    if (n->num_in > 6) AM_TRY(am_op_set_out(g, n, 1, "state", g->precise, 2, state));
done:
    return st;
}

static am_status infer_shift(am_graph *g, am_node *n)
{
    am_status st = AM_OK;
    AM_TRY(am_op_want_inputs(n, 3, 4));
    const am_value x = *V(0);
    const am_dim width = am_dim_number(am_op_features(&x));
    AM_TRY(am_op_set_out(g, n, 0, "shift", x.dtype, x.rank, x.dim));
    if (n->num_in > 3) AM_TRY(am_op_set_out(g, n, 1, "state", x.dtype, 1, &width));
done:
    return st;
}

static am_status infer_block_linear(am_graph *g, am_node *n)
{
    am_status st = AM_OK;
    AM_TRY(am_op_want_inputs(n, 2, 3));
    const am_value *x = V(0), *w = V(1);
    AM_CHECK(
        x->rank == 3 && w->rank == 3 && x->dim[1].local == w->dim[0].local &&
            x->dim[2].local == w->dim[2].local,
        AM_ERR_SHAPE,
        "block_linear: %s must be [tokens, blocks, features] as the weight %s [blocks, out, features] has it",
        x->name, w->name);
    const am_dim dims[3] = {x->dim[0], x->dim[1], w->dim[1]};
    AM_TRY(am_op_set_out(g, n, 0, "block_linear", g->compute, 3, dims));
done:
    return st;
}

/* ---- gradients --------------------------------------------------------------------------------------------
 */

static am_status vjp_block_linear(am_autodiff *ad, const am_node *n)
{
    return am_op_vjp_product(ad, n, "block_linear_dx", "block_linear_dw");
}

/* Backward takes the gradient, all operands of the node, and `more` (-1: nothing); the first `num` of its
 * num_out outputs are gradients of the first operands. */
static am_status backward(am_autodiff *ad, const am_node *n, const char *op, int more, int num, int *out,
                          int num_out)
{
    am_status st = AM_OK;
    int dy, in[AM_MAX_IN], num_in = 0;
    AM_TRY(am_ad_grad(ad, n->out[0], &dy));
    if (dy < 0) goto done;
    in[num_in++] = dy;
    for (int i = 0; i < n->num_in; i++) in[num_in++] = n->in[i];
    if (more >= 0) in[num_in++] = more;
    for (int i = 0; i < num; i++) AM_TRY(am_ad_like(ad, n->in[i], &out[i]));
    AM_TRY(am_ad_emit(ad, op, in, num_in, &n->attrs, AM_ACC_NO, out, num_out));
    for (int i = 0; i < num; i++) AM_TRY(am_ad_contribute(ad, n->in[i], out[i]));
done:
    return st;
}

static am_status vjp_gated_delta(am_autodiff *ad, const am_node *n)
{
    am_status st = AM_OK;
    am_graph *g = am_ad_graph(ad);
    const am_value decay = g->values[n->in[3]]; /* a copy: new values move the array */
    const am_dim tokens = decay.dim[0], heads = am_dim_number(am_op_features(&decay));
    const am_dim both[3] = {am_dim_number(2), am_dim_number(tokens.local), heads}, one[2] = {tokens, heads};
    int out[AM_MAX_OUT] = {-1, -1, -1, -1}, dy;
    AM_TRY(am_ad_grad(ad, n->out[0], &dy));
    if (dy < 0) goto done;
    AM_TRY(am_graph_value(g, "d_decay_beta", g->precise, 3, both, &out[3]));
    AM_TRY(backward(ad, n, "gated_delta_bwd", n->out[1], 3, out, 4));
    for (int i = 0; i < 2;
         i++) { /* copied, in the dtype of g and of beta: neither is a part of the other's memory */
        int part = -1, d = -1;
        if (!am_ad_wants(ad, n->in[3 + i])) continue;
        AM_TRY(am_graph_subvalue(g, i ? "d_beta" : "d_decay", out[3], i * tokens.local * heads.local, 2, one,
                                 &part));
        AM_TRY(am_ad_like(ad, n->in[3 + i], &d));
        AM_TRY(am_ad_emit(ad, "cast", &part, 1, NULL, AM_ACC_NO, &d, 1));
        AM_TRY(am_ad_contribute(ad, n->in[3 + i], d));
    }
done:
    return st;
}
static am_status vjp_lightning(am_autodiff *ad, const am_node *n)
{
    int out[AM_MAX_OUT] = {-1, -1, -1, -1};
    return backward(ad, n, "lightning_bwd", n->out[1], 3, out, 3);
}

static am_status vjp_rg_lru(am_autodiff *ad, const am_node *n) /* y stands between the operands and index */
{
    am_status st = AM_OK;
    int dy, out[2] = {-1, -1};
    AM_TRY(am_ad_grad(ad, n->out[0], &dy));
    if (dy < 0) goto done;
    for (int i = 0; i < 2; i++) AM_TRY(am_ad_like(ad, n->in[i], &out[i]));
    AM_TRY(am_ad_emit(ad, "rg_lru_bwd", (int[]){dy, n->in[0], n->in[1], n->out[0], n->in[2], n->in[3]}, 6,
                      &n->attrs, AM_ACC_NO, out, 2));
    for (int i = 0; i < 2; i++) AM_TRY(am_ad_contribute(ad, n->in[i], out[i]));
done:
    return st;
}

static am_status vjp_wkv(am_autodiff *ad, const am_node *n)
{
    int out[AM_MAX_OUT] = {-1, -1, -1, -1};
    return backward(ad, n, "wkv_bwd", -1, 4, out, 4);
}

static am_status vjp_shift(am_autodiff *ad, const am_node *n)
{
    am_status st = AM_OK;
    am_attrs attrs = n->attrs;
    int dy, dx = -1;
    attrs.inverse = !attrs.inverse;
    AM_TRY(am_ad_grad(ad, n->out[0], &dy));
    if (dy < 0 || !am_ad_wants(ad, n->in[0])) goto done;
    AM_TRY(am_ad_emit(ad, "shift", (int[]){dy, n->in[1], n->in[2]}, 3, &attrs, AM_ACC_NO, &dx, 1));
    AM_TRY(am_ad_contribute(ad, n->in[0], dx));
done:
    return st;
}

/* ---- FLOPs ------------------------------------------------------------------------------------------------
 */

/* Products with the memory, [d, e] for each token and value head, and with rows of the chunk, half of them
 * seen. */
static int64_t memory_flops(const am_value *q, const am_value *v, int64_t memory, int64_t rows_e,
                            int64_t rows_d)
{
    const int64_t d = q->dim[2].local, e = v->dim[2].local;
    return q->dim[0].local *
           (v->dim[1].local * (memory * d * e + rows_e * CHUNK * e) + q->dim[1].local * rows_d * CHUNK * d);
}
static int64_t flops_gated_delta(const am_graph *g, const am_node *n)
{
    return memory_flops(V(0), V(2), 6, 2, 2);
}
static int64_t flops_gated_delta_bwd(const am_graph *g, const am_node *n)
{
    return memory_flops(V(1), V(3), 16, 5, 6);
}
static int64_t flops_lightning(const am_graph *g, const am_node *n)
{
    return memory_flops(V(0), V(2), 4, 1, 1);
}
static int64_t flops_lightning_bwd(const am_graph *g, const am_node *n)
{
    return memory_flops(V(1), V(3), 10, 2, 3);
}

static int64_t flops_block_linear(const am_graph *g, const am_node *n)
{
    return 2 * V(0)->dim[0].local * am_value_elements(V(1));
}
static int64_t flops_block_linear_dw(const am_graph *g, const am_node *n)
{
    return 2 * V(0)->dim[0].local * V(0)->dim[1].local * V(0)->dim[2].local * V(1)->dim[2].local;
}

/* ---- rows -------------------------------------------------------------------------------------------------
 */

#define AS   AM_VIEW_AS_IS
#define ROWS AM_VIEW_ROWS
#define FLAT AM_VIEW_FLAT

const am_op_def am_ops_delta[] = {
    {"gated_delta",
     "gated_delta",
     {AS, AS, AS, ROWS, ROWS, AS, AS, AS},
     {AS, AS, AS},
     infer_gated_delta,
     vjp_gated_delta,
     flops_gated_delta,
     0,
     {0},
     AM_OP_STATE(7, 2)},
    {"gated_delta_bwd",
     "gated_delta_bwd",
     {AS, AS, AS, AS, ROWS, ROWS, AS, AS, AS},
     {AS, AS, AS, AS},
     am_op_infer_given,
     NULL,
     flops_gated_delta_bwd,
     0,
     {0},
     0},
    {"lightning",
     "lightning",
     {AS, AS, AS, FLAT, AS, AS, AS},
     {AS, AS, AS},
     infer_lightning,
     vjp_lightning,
     flops_lightning,
     0,
     {0},
     AM_OP_STATE(6, 2)},
    {"lightning_bwd",
     "lightning_bwd",
     {AS, AS, AS, AS, FLAT, AS, AS, AS},
     {AS, AS, AS},
     am_op_infer_given,
     NULL,
     flops_lightning_bwd,
     0,
     {0},
     0},
    {"rg_lru",
     "rg_lru",
     {ROWS, ROWS, AS, AS, AS},
     {ROWS, AS},
     infer_rg_lru,
     vjp_rg_lru,
     NULL,
     0,
     {0},
     AM_OP_STATE(4, 1)},
    {"rg_lru_bwd",
     "rg_lru_bwd",
     {ROWS, ROWS, ROWS, ROWS, AS, AS},
     {ROWS, ROWS},
     am_op_infer_given,
     NULL,
     NULL,
     0,
     {0},
     0},
    {"wkv",
     "wkv",
     {ROWS, ROWS, FLAT, FLAT, AS, AS, AS},
     {ROWS, AS},
     infer_wkv,
     vjp_wkv,
     NULL,
     0,
     {0},
     AM_OP_STATE(6, 1)},
    {"wkv_bwd",
     "wkv_bwd",
     {ROWS, ROWS, ROWS, FLAT, FLAT, AS, AS},
     {ROWS, ROWS, FLAT, FLAT},
     am_op_infer_given,
     NULL,
     NULL,
     0,
     {0},
     0},
    {"shift",
     "shift",
     {ROWS, AS, AS, AS},
     {ROWS, AS},
     infer_shift,
     vjp_shift,
     NULL,
     0,
     {0},
     AM_OP_STATE(3, 1)},
    {"block_linear",
     "block_linear",
     {AS, AS, AS},
     {AS},
     infer_block_linear,
     vjp_block_linear,
     flops_block_linear,
     0,
     {0},
     AM_OP_ROUNDS_WEIGHT},
    {"block_linear_dx",
     "block_linear_dx",
     {AS, AS},
     {AS},
     am_op_infer_given,
     NULL,
     flops_block_linear,
     0,
     {0},
     AM_OP_ROUNDS_WEIGHT | AM_OP_ADDS},
    {"block_linear_dw",
     "block_linear_dw",
     {AS, AS},
     {AS},
     am_op_infer_given,
     NULL,
     flops_block_linear_dw,
     0,
     {0},
     0},
    {0},
};
