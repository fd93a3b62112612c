/* ops_attention: attention and its gradients.  Operands behind the six that it always has are optional: sinks,
 * slopes, bias, buckets and keys (kernels.h).  index_keys makes the last of these; nothing flows back through it. */
#include "graph/ops_internal.h"

#define V AM_OP_IN

enum { SINKS = 6, SLOPES, BIAS, BUCKETS, KEYS, NUM_OPERANDS };

static int operand(const am_node *n, int i)
{
    return i < n->num_in ? n->in[i] : -1;
}

/* ---- shapes -------------------------------------------------------------------------------------------- */

static am_status one_a_head(const am_graph *g, const am_node *n, int i, const char *what)
{
    am_status st = AM_OK;
    const am_value *q = V(0);
    if (operand(n, i) < 0) goto done;
    AM_CHECK(am_value_elements(V(i)) == q->dim[1].local, AM_ERR_SHAPE,
             "attention: %" PRId64 " %s for %" PRId64 " query heads", am_value_elements(V(i)), what, q->dim[1].local);
done:
    return st;
}

static am_status check_bias(const am_graph *g, const am_node *n)
{
    am_status st = AM_OK;
    const am_value *q = V(0), *b = operand(n, BIAS) >= 0 ? V(BIAS) : NULL;
    if (!b) goto done;
    bool table = b->rank == 2 && b->dim[0].local == q->dim[1].local;
    bool own = b->rank == 3 && b->dim[0].local == q->dim[0].local && b->dim[1].local == q->dim[1].local;
    AM_CHECK(table || (own && operand(n, BUCKETS) < 0), AM_ERR_SHAPE,
             "attention: the bias %s must be a table [H, distances or buckets] or numbers of the queries "
             "[N, H, distances]",
             b->name);
done:
    return st;
}

static am_status infer_attention(am_graph *g, am_node *n)
{
    am_status st = AM_OK;
    AM_TRY(am_op_want_inputs(n, 6, NUM_OPERANDS));
    am_value q = *V(0), k = *V(1), v = *V(2);
    AM_CHECK(q.rank == 3 && k.rank == 3 && v.rank == 3 && q.dim[2].local == k.dim[2].local &&
                 k.dim[1].local == v.dim[1].local,
             AM_ERR_SHAPE, "attention: q [N,H,d], k [N,K,d], v [N,K,dv] do not fit together");
    AM_CHECK(q.dim[1].local % k.dim[1].local == 0 || n->attrs.group > 0, AM_ERR_SHAPE,
             "attention: %" PRId64 " query heads cannot be divided among %" PRId64 " kv heads",
             q.dim[1].local, k.dim[1].local);
    AM_TRY(one_a_head(g, n, SINKS, "sinks"));
    AM_TRY(one_a_head(g, n, SLOPES, "slopes"));
    AM_TRY(check_bias(g, n));
    am_dim dims[3] = {q.dim[0], q.dim[1], v.dim[2]};
    AM_TRY(am_op_set_out(g, n, 0, "attention", q.dtype, 3, dims));
    AM_TRY(am_op_set_out(g, n, 1, "lse", g->precise, 2, dims));
done:
    return st;
}

static am_status infer_index_keys(am_graph *g, am_node *n)
{
    am_status st = AM_OK;
    AM_TRY(am_op_want_inputs(n, 5, 6));
    am_value q = *V(0), k = *V(1);
    AM_CHECK(q.rank == 3 && k.rank == 2 && q.dim[2].local == k.dim[1].local, AM_ERR_SHAPE,
             "index_keys: q [N,A,d] and k [N,d] do not fit together");
    AM_CHECK(operand(n, 5) < 0 || am_value_elements(V(5)) == q.dim[0].local * q.dim[1].local, AM_ERR_SHAPE,
             "index_keys: weights must be [N,A]");
    AM_CHECK(n->attrs.count > 0, AM_ERR_CARD, "index_keys: the number of keys must be at least 1");
    am_dim dims[3] = {q.dim[0], operand(n, 5) >= 0 ? am_dim_number(1) : q.dim[1], am_dim_number(n->attrs.count)};
    AM_TRY(am_op_set_out(g, n, 0, "keys", AM_I32, 3, dims));
done:
    return st;
}

/* ---- gradients ----------------------------------------------------------------------------------------- */

/* What no gradient of a parameter arrives at through other nodes must be a parameter itself. */
static am_status want_param(const am_autodiff *ad, const am_node *n, int i, const char *what, bool *wanted)
{
    am_status st = AM_OK;
    int v = operand(n, i);
    *wanted = v >= 0 && am_ad_wants(ad, v);
    AM_CHECK(!*wanted || am_graph_value_at(am_ad_graph((am_autodiff *)(uintptr_t)ad), v)->param >= 0, AM_ERR_CARD,
             "attention: trained %s must be a parameter as it stands: param(W : …)", what);
done:
    return st;
}

static am_status vjp_attention(am_autodiff *ad, const am_node *n)
{
    am_status st = AM_OK;
    int d, out[4] = {-1, -1, -1, -1}, bias = operand(n, BIAS);
    bool sinks = false, table = false;
    am_acc acc = AM_ACC_NO;
    AM_TRY(am_ad_grad(ad, n->out[0], &d));
    if (d < 0) goto done;
    AM_TRY(want_param(ad, n, SINKS, "sinks", &sinks));
    bool numbers = bias >= 0 && am_graph_value_at(am_ad_graph(ad), bias)->rank == 3;
    if (!numbers) AM_TRY(want_param(ad, n, BIAS, "tables of biases", &table));
    for (int i = 0; i < 3; i++) AM_TRY(am_ad_like(ad, n->in[i], &out[i]));
    if (numbers && am_ad_wants(ad, bias)) AM_TRY(am_ad_like(ad, bias, &out[3]));
    if (table && !am_ad_splits(ad)) AM_TRY(am_ad_param_value(ad, bias, &out[3], &acc));
    int in[13] = {d, n->in[0], n->in[1], n->in[2], n->out[0], n->out[1], n->in[3], n->in[4], n->in[5],
                  operand(n, SLOPES), bias, operand(n, BUCKETS), operand(n, KEYS)};
    int num_in = 13;
    while (in[num_in - 1] < 0) num_in--;
    AM_TRY(am_ad_emit(ad, "attention_bwd", in, num_in, &n->attrs, acc, out, 4));
    for (int i = 0; i < 3; i++) AM_TRY(am_ad_contribute(ad, n->in[i], out[i]));
    if (numbers && out[3] >= 0) AM_TRY(am_ad_contribute(ad, bias, out[3]));
    if (table && am_ad_splits(ad)) AM_TRY(am_ad_param_grad(ad, "attention_bwd", in, num_in, &n->attrs, bias, 3));
    if (sinks)
        AM_TRY(am_ad_param_grad(ad, "attention_dsinks", (int[]){d, n->out[0], n->out[1], n->in[SINKS]}, 4, NULL,
                                n->in[SINKS], 0));
done:
    return st;
}

/* ---- FLOPs --------------------------------------------------------------------------------------------- */

/* counted causally over one row of the micro-batch, or within windows or chunks */
static int64_t attention_pairs(const am_graph *g, const am_node *n, const am_value *q)
{
    int64_t t = g->seq_len, w = n->attrs.window, c = n->attrs.chunk;
    int64_t per_row = w > 0 && w < t ? w * (w + 1) / 2 + (t - w) * w : t * (t + 1) / 2;
    if (c > 0 && c < t) per_row = am_min_i64(per_row, t / c * (c * (c + 1) / 2) + t % c * (t % c + 1) / 2);
    return q->dim[0].local / t * per_row * q->dim[1].local;
}
static int64_t flops_attention(const am_graph *g, const am_node *n)
{
    return 2 * attention_pairs(g, n, V(0)) * (V(0)->dim[2].local + V(2)->dim[2].local);
}
static int64_t flops_attention_bwd(const am_graph *g, const am_node *n) /* scores again, dv, dp, dq, dk */
{
    return 2 * attention_pairs(g, n, V(1)) * (3 * V(1)->dim[2].local + 2 * V(3)->dim[2].local);
}

static int64_t flops_index_keys(const am_graph *g, const am_node *n)
{
    am_node plain = {0};
    return 2 * attention_pairs(g, &plain, V(0)) * V(0)->dim[2].local;
}

/* ---- rows ---------------------------------------------------------------------------------------------- */

#define AS AM_VIEW_AS_IS

const am_op_def am_ops_attention[] = {
    {"attention",
     "attention",
     {AS, AS, AS, AS, AS, AS, AS, AS, AS, AS, AS},
     {AS, AS},
     infer_attention,
     vjp_attention,
     flops_attention,
     0,
     {0}, AM_CUT_ATTENTION},
    {"attention_bwd",
     "attention_bwd",
     {AS, AS, AS, AS, AS, AS, AS, AS, AS, AS, AS, AS, AS},
     {AS, AS, AS, AS},
     am_op_infer_given,
     NULL,
     flops_attention_bwd,
     0,
     {0}, 0},
    {"index_keys", "index_keys", {AS, AS, AS, AS, AS, AS}, {AS}, infer_index_keys, NULL, flops_index_keys, 0, {0}, 0},
    {"attention_dsinks", "attention_dsinks", {AS, AS, AS, AS}, {AS}, am_op_infer_given, NULL, NULL, 0, {0}, 0},
    {0},
};
