/* ops_scan.c: rows of the recurrences over time with decays of their own: causal convolution, Mamba 2's
 * state-space duality (ssd), Mamba 1's selective scan.  All read index and doc_start, so that nothing passes
 * from one document to the next, and keep a state between runs where a program asks for it (AM_OP_STATE). */
#include "graph/ops_internal.h"

#define V AM_OP_IN
enum { SSD_CHUNK = 128, MAMBA1_CHUNK = 64 }; /* tokens between saved states, unless the card says otherwise */

/* ---- shapes ---- */

static int64_t taps(const am_graph *g, const am_node *n)
{
    return am_value_elements(V(1)) / am_max_i64(V(1)->dim[0].local, 1);
}

static am_status infer_conv(am_graph *g, am_node *n)
{
    am_status st = AM_OK;
    AM_TRY(am_op_want_inputs(n, 5, 6));
    const am_value x = *V(0);
    const int64_t features = am_op_features(&x);
    AM_CHECK(V(1)->dim[0].local == features && (n->in[2] < 0 || am_value_elements(V(2)) == features),
             AM_ERR_CARD, "conv: %s has %" PRId64 " features, the weight %s has %" PRId64, x.name, features,
             V(1)->name, V(1)->dim[0].local);
    AM_TRY(am_op_set_out(g, n, 0, "conv", x.dtype, x.rank, x.dim));
    if (n->num_in < 6) goto done;
    const am_dim state[2] = {am_dim_number(taps(g, n) - 1), am_dim_number(features)};
    AM_TRY(am_op_set_out(g, n, 1, "conv_state", x.dtype, 2, state));
done:
    return st;
}

/* chunks of a micro-batch */
static am_dim chunks_of(const am_value *x, int64_t chunk)
{
    return am_dim_number(am_ceil_div(x->dim[0].local, chunk));
}

static am_status infer_ssd(am_graph *g, am_node *n)
{
    am_status st = AM_OK;
    AM_TRY(am_op_want_inputs(n, 8, 9));
    const am_value x = *V(0), b = *V(3);
    AM_CHECK(x.rank == 3 && V(1)->rank == 2 && b.rank == 3 && V(4)->rank == 3 &&
                 V(1)->dim[1].local == x.dim[1].local && b.dim[1].local == V(4)->dim[1].local &&
                 b.dim[2].local == V(4)->dim[2].local,
             AM_ERR_CARD, "ssd: x [N,H,p], dt [N,H], B and C [N,G,S] do not fit together");
    AM_CHECK(b.dim[1].local > 0 && x.dim[1].local % b.dim[1].local == 0, AM_ERR_CARD,
             "ssd: %" PRId64 " heads cannot be shared out among %" PRId64 " groups", x.dim[1].local,
             b.dim[1].local);
    AM_CHECK(am_value_elements(V(2)) == x.dim[1].local &&
                 (n->in[5] < 0 || am_value_elements(V(5)) == x.dim[1].local),
             AM_ERR_CARD, "ssd: A and D have one number for each of %" PRId64 " heads", x.dim[1].local);
    if (n->attrs.chunk == 0) n->attrs.chunk = SSD_CHUNK;
    const am_dim states[4] = {chunks_of(&x, n->attrs.chunk), x.dim[1], b.dim[2], x.dim[2]};
    AM_TRY(am_op_set_out(g, n, 0, "ssd", x.dtype, 3, x.dim));
    AM_TRY(am_op_set_out(g, n, 1, "ssd_states", g->precise, 4, states));
    if (n->num_in > 8) AM_TRY(am_op_set_out(g, n, 2, "ssd_state", g->precise, 3, states + 1));
done:
    return st;
}

static am_status infer_mamba1(am_graph *g, am_node *n)
{
    am_status st = AM_OK;
    AM_TRY(am_op_want_inputs(n, 8, 9));
    const am_value x = *V(0), a = *V(2);
    const int64_t channels = am_op_features(&x), s = a.dim[a.rank - 1].local, row = am_op_features(V(3));
    AM_CHECK(am_op_features(V(1)) == channels && am_op_features(V(4)) == row && a.rank == 2 &&
                 am_value_elements(&a) == channels * s && row % s == 0 && channels % (row / s) == 0 &&
                 (n->in[5] < 0 || am_value_elements(V(5)) == channels),
             AM_ERR_CARD,
             "mamba1: x and dt [N,I], A [I,S], B and C [N,S] or [N,G,S], D [I] do not fit together");
    if (n->attrs.chunk == 0) n->attrs.chunk = MAMBA1_CHUNK;
    const am_dim states[3] = {chunks_of(&x, n->attrs.chunk), am_dim_number(s), am_dim_number(channels)};
    AM_TRY(am_op_set_out(g, n, 0, "mamba1", x.dtype, x.rank, x.dim));
    AM_TRY(am_op_set_out(g, n, 1, "mamba1_states", g->precise, 3, states));
    if (n->num_in > 8) AM_TRY(am_op_set_out(g, n, 2, "mamba1_state", g->precise, 2, states + 1));
done:
    return st;
}

/* ---- gradients ---- */

/* A gradient in the precise dtype reaches a value of the same elements: the gradient of a parameter is added
 * to, that of a value in another dtype is rounded. */
static am_status give(am_autodiff *ad, int value, int grad)
{
    am_status st = AM_OK;
    am_graph *g = am_ad_graph(ad);
    if (value < 0 || !am_ad_wants(ad, value)) goto done;
    const am_value v = g->values[value];
    if (v.param >= 0) {
        const am_dim row[2] = {am_dim_number(1), am_dim_number(am_value_elements(&v))};
        AM_TRY(am_graph_reshape(g, grad, 2, row, &grad));
        AM_TRY(am_ad_param_grad(ad, "rank_sum", (int[]){grad}, 1, NULL, value, 0));
        goto done;
    }
    if (v.dtype == g->precise) {
        AM_TRY(am_graph_reshape(g, grad, v.rank, v.dim, &grad));
    } else {
        int rounded;
        AM_TRY(am_ad_like(ad, value, &rounded));
        AM_TRY(am_ad_emit(ad, "cast", (int[]){grad}, 1, NULL, AM_ACC_NO, &rounded, 1));
        grad = rounded;
    }
    AM_TRY(am_ad_contribute(ad, value, grad));
done:
    return st;
}

static am_status vjp_conv(am_autodiff *ad, const am_node *n)
{
    am_status st = AM_OK;
    int dy, dx = -1;
    AM_TRY(am_ad_grad(ad, n->out[0], &dy));
    if (dy < 0) goto done;
    if (am_ad_wants(ad, n->in[0])) {
        AM_TRY(am_ad_like(ad, n->in[0], &dx));
        AM_TRY(
            am_ad_emit(ad, "conv_dx", (int[]){dy, n->in[1], n->in[3], n->in[4]}, 4, NULL, AM_ACC_NO, &dx, 1));
        AM_TRY(am_ad_contribute(ad, n->in[0], dx));
    }
    if (am_ad_wants(ad, n->in[1]))
        AM_TRY(
            am_ad_param_grad(ad, "conv_dw", (int[]){dy, n->in[0], n->in[3], n->in[4]}, 4, NULL, n->in[1], 0));
    if (n->in[2] >= 0 && am_ad_wants(ad, n->in[2]))
        AM_TRY(am_ad_param_grad(ad, "bias_db", (int[]){dy}, 1, NULL, n->in[2], 0));
done:
    return st;
}

/* One node gives dx, dB, dC and what is said of every token's dt, decay and D; another sums that up. */
static am_status vjp_ssd(am_autodiff *ad, const am_node *n)
{
    am_status st = AM_OK;
    am_graph *g = am_ad_graph(ad);
    int dy, out[4] = {-1, -1, -1, -1}, sums[3] = {-1, -1, -1};
    AM_TRY(am_ad_grad(ad, n->out[0], &dy));
    if (dy < 0) goto done;
    const am_value x = *V(0);
    const am_dim dd[3] = {x.dim[0], am_dim_number(3), x.dim[1]};
    const int from[3] = {n->in[0], n->in[3], n->in[4]};
    for (int i = 0; i < 3; i++) AM_TRY(am_ad_like(ad, from[i], &out[i]));
    AM_TRY(am_graph_value(g, "d_ssd", g->precise, 3, dd, &out[3]));
    int in[10] = {dy};
    for (int i = 0; i < 8; i++) in[1 + i] = n->in[i];
    in[9] = n->out[1];
    AM_TRY(am_ad_emit(ad, "ssd_bwd", in, 10, &n->attrs, AM_ACC_NO, out, 4));
    AM_TRY(am_ad_like(ad, n->in[1], &sums[0]));
    for (int i = 1; i < 3; i++)
        AM_TRY(am_graph_value(g, i == 1 ? "d_A" : "d_D", g->precise, 1, &x.dim[1], &sums[i]));
    AM_TRY(am_ad_emit(ad, "ssd_sums", (int[]){out[3], n->in[1], n->in[2]}, 3, NULL, AM_ACC_NO, sums, 3));
    for (int i = 0; i < 3; i++) AM_TRY(am_ad_contribute(ad, from[i], out[i]));
    AM_TRY(am_ad_contribute(ad, n->in[1], sums[0]));
    AM_TRY(give(ad, n->in[2], sums[1]));
    AM_TRY(give(ad, n->in[5], sums[2]));
done:
    return st;
}

/* One node gives dx, ddt and sums in the precise dtype; another makes dB, dC, dA and dD of those. */
static am_status vjp_mamba1(am_autodiff *ad, const am_node *n)
{
    am_status st = AM_OK;
    am_graph *g = am_ad_graph(ad);
    int dy, out[4] = {-1, -1, -1, -1}, split[4] = {-1, -1, -1, -1};
    AM_TRY(am_ad_grad(ad, n->out[0], &dy));
    if (dy < 0) goto done;
    const am_value x = *V(0);
    const am_dim channels = am_dim_number(am_op_features(&x)), s = am_dim_number(V(2)->dim[1].local);
    const am_dim dbc[3] = {x.dim[0], am_dim_number(2), am_dim_number(am_op_features(V(3)))}, dad[2] = {am_dim_number(s.local + 1), channels},
                 da[2] = {channels, s};
    for (int i = 0; i < 2; i++) AM_TRY(am_ad_like(ad, n->in[i], &out[i]));
    AM_TRY(am_graph_value(g, "d_BC", g->precise, 3, dbc, &out[2]));
    AM_TRY(am_graph_value(g, "d_AD", g->precise, 2, dad, &out[3]));
    int in[10] = {dy};
    for (int i = 0; i < 8; i++) in[1 + i] = n->in[i];
    in[9] = n->out[1];
    AM_TRY(am_ad_emit(ad, "mamba1_bwd", in, 10, &n->attrs, AM_ACC_NO, out, 4));
    for (int i = 0; i < 2; i++) AM_TRY(am_ad_like(ad, n->in[3 + i], &split[i]));
    AM_TRY(am_graph_value(g, "d_A", g->precise, 2, da, &split[2]));
    AM_TRY(am_graph_value(g, "d_D", g->precise, 1, &channels, &split[3]));
    AM_TRY(am_ad_emit(ad, "mamba1_split", (int[]){out[2], out[3]}, 2, NULL, AM_ACC_NO, split, 4));
    for (int i = 0; i < 2; i++) AM_TRY(am_ad_contribute(ad, n->in[i], out[i]));
    for (int i = 0; i < 2; i++) AM_TRY(am_ad_contribute(ad, n->in[3 + i], split[i]));
    AM_TRY(give(ad, n->in[2], split[2]));
    AM_TRY(give(ad, n->in[5], split[3]));
done:
    return st;
}

/* ---- FLOPs ---- */

/* of the products in chunks: through the state twice, within the chunk causally */
static int64_t ssd_products(const am_value *x, const am_value *b, int64_t chunk)
{
    const int64_t s = b->dim[2].local, l = am_min_i64(chunk, x->dim[0].local);
    return x->dim[0].local * (x->dim[1].local * x->dim[2].local * (4 * s + l) + b->dim[1].local * s * l);
}
static int64_t flops_ssd(const am_graph *g, const am_node *n)
{
    return ssd_products(V(0), V(3), n->attrs.chunk);
}
static int64_t flops_ssd_bwd(const am_graph *g, const am_node *n)
{
    return 2 * ssd_products(V(1), V(4), n->attrs.chunk);
}
static int64_t flops_conv(const am_graph *g, const am_node *n)
{
    return 2 * am_value_elements(V(0)) * taps(g, n);
}
static int64_t flops_conv_dw(const am_graph *g, const am_node *n)
{
    return 2 * V(0)->dim[0].local * am_value_elements(&g->values[n->out[0]]);
}
/* decay, its exponent, state, output; the exponential counted as one */
static int64_t flops_mamba1(const am_graph *g, const am_node *n)
{
    return 7 * V(0)->dim[0].local * am_value_elements(V(2));
}
static int64_t flops_mamba1_bwd(const am_graph *g, const am_node *n)
{
    return 19 * V(1)->dim[0].local * am_value_elements(V(3));
}

/* ---- rows ---- */

#define AS   AM_VIEW_AS_IS
#define ROWS AM_VIEW_ROWS
#define FLAT AM_VIEW_FLAT

const am_op_def am_ops_scan[] = {
    {"conv",
     "conv",
     {ROWS, ROWS, FLAT, AS, AS, AS},
     {ROWS, AS},
     infer_conv,
     vjp_conv,
     flops_conv,
     0,
     {0},
     AM_OP_STATE(5, 1)},
    {"conv_dx", "conv_dx", {ROWS, ROWS, AS, AS}, {ROWS}, am_op_infer_given, NULL, flops_conv, 0, {0}, 0},
    {"conv_dw", "conv_dw", {ROWS, ROWS, AS, AS}, {ROWS}, am_op_infer_given, NULL, flops_conv_dw, 0, {0}, 0},
    {"ssd",
     "ssd",
     {AS, AS, FLAT, AS, AS, FLAT, AS, AS, AS},
     {AS, AS, AS},
     infer_ssd,
     vjp_ssd,
     flops_ssd,
     0,
     {0},
     AM_OP_STATE(8, 2)},
    {"ssd_bwd",
     "ssd_bwd",
     {AS, AS, AS, FLAT, AS, AS, FLAT, AS, AS, AS},
     {AS, AS, AS, AS},
     am_op_infer_given,
     NULL,
     flops_ssd_bwd,
     0,
     {0},
     0},
    {"ssd_sums", "ssd_sums", {AS, AS, FLAT}, {AS, FLAT, FLAT}, am_op_infer_given, NULL, NULL, 0, {0}, 0},
    {"mamba1",
     "mamba1",
     {ROWS, ROWS, AS, ROWS, ROWS, FLAT, AS, AS, AS},
     {ROWS, AS, AS},
     infer_mamba1,
     vjp_mamba1,
     flops_mamba1,
     0,
     {0},
     AM_OP_STATE(8, 2)},
    {"mamba1_bwd",
     "mamba1_bwd",
     {ROWS, ROWS, ROWS, AS, ROWS, ROWS, FLAT, AS, AS, AS},
     {ROWS, ROWS, AS, AS},
     am_op_infer_given,
     NULL,
     flops_mamba1_bwd,
     0,
     {0},
     0},
    {"mamba1_split", "mamba1_split", {AS, AS}, {ROWS, ROWS, AS, FLAT}, am_op_infer_given, NULL, NULL, 0, {0}, 0},
    {0},
};
