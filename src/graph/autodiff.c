/* autodiff.c: reverse mode over the forward nodes.  Walks them backwards; each operator's vjp emits nodes
 * that read saved forward values and write gradients.  dx and dw are separate nodes (phases B and W). Several
 * uses of a value are added; several uses of a parameter add into one gradient value, which the first use
 * overwrites (on the first micro-batch of a step). */
#include "graph/autodiff.h"
#include "graph/pass.h"

#include <string.h>

struct am_autodiff {
    am_compile *c;
    am_graph *g;
    int *grad; /* by root value: its gradient, or -1 */
    size_t cap;
    bool *wants; /* by root value of the forward pass: something trainable lies upstream */
    int num_forward_values;
    uint64_t node_id; /* of the forward node at hand */
    uint64_t emitted; /* nodes emitted for it */
};

am_graph *am_ad_graph(am_autodiff *ad)
{
    return ad->g;
}

bool am_ad_splits(const am_autodiff *ad)
{
    return ad->c->o->split_w;
}

bool am_ad_wants(const am_autodiff *ad, int value)
{
    return value >= 0 && value < ad->num_forward_values && ad->wants[ad->g->values[value].root];
}

static am_status grad_slot(am_autodiff *ad, int value, int **slot)
{
    am_status st = AM_OK;
    size_t had = ad->cap, root = (size_t)ad->g->values[value].root;
    AM_TRY(am_grow(&ad->grad, &ad->cap, root + 1, sizeof *ad->grad));
    for (size_t i = had; i < ad->cap; i++) ad->grad[i] = -1;
    *slot = &ad->grad[root];
done:
    return st;
}

am_status am_ad_grad(am_autodiff *ad, int value, int *out)
{
    am_status st = AM_OK;
    int *slot = NULL;
    AM_TRY(grad_slot(ad, value, &slot));
    *out = *slot;
    if (*out < 0) goto done;
    am_value v = ad->g->values[value], d = ad->g->values[*out];
    if (v.rank != d.rank || memcmp(v.dim, d.dim, sizeof(am_dim) * (size_t)v.rank) != 0)
        AM_TRY(am_graph_reshape(ad->g, *out, v.rank, v.dim, out));
done:
    return st;
}

am_status am_ad_like(am_autodiff *ad, int like, int *out)
{
    char name[64];
    snprintf(name, sizeof name, "d_%.40s", ad->g->values[like].name);
    return am_graph_value_like(ad->g, name, like, ad->g->values[like].dtype, out);
}

am_status am_ad_emit(am_autodiff *ad, const char *op, const int *in, int num_in, const am_attrs *attrs,
                     am_acc acc, int *out, int num_out)
{
    am_status st = AM_OK;
    int outs[AM_MAX_OUT] = {-1, -1, -1, -1}, node = -1;
    for (int i = 0; i < num_out; i++) outs[i] = out[i];
    AM_TRY(am_graph_emit(ad->g, op, in, num_in, attrs, acc, outs, &node));
    for (int i = 0; i < num_out; i++) out[i] = outs[i];
    ad->g->nodes[node].id =
        ad->node_id ^ ((++ad->emitted) << 56); /* stable: from the forward node's, not from a counter */
done:
    return st;
}

bool am_ad_is_param(const am_autodiff *ad, int value)
{
    return value >= 0 && ad->g->values[value].param >= 0;
}

/* A gradient in another dtype than its value's is rounded to that. */
static am_status in_dtype_of(am_autodiff *ad, int value, int *grad)
{
    am_status st = AM_OK;
    int rounded;
    if (ad->g->values[*grad].dtype == ad->g->values[value].dtype) goto done;
    AM_TRY(am_graph_value_like(ad->g, ad->g->values[*grad].name, value, ad->g->values[value].dtype, &rounded));
    AM_TRY(am_ad_emit(ad, "cast", grad, 1, NULL, AM_ACC_NO, &rounded, 1));
    *grad = rounded;
done:
    return st;
}

am_status am_ad_contribute(am_autodiff *ad, int value, int grad)
{
    am_status st = AM_OK;
    int *slot = NULL, sum = -1;
    if (!am_ad_wants(ad, value)) goto done;
    if (am_ad_is_param(ad, value)) {
        am_attrs all = {.a_dims = ((int64_t)1 << ad->g->values[grad].rank) - 1};
        AM_TRY(am_ad_param_grad(ad, "sum_to", &grad, 1, &all, value, 0));
        goto done;
    }
    AM_TRY(in_dtype_of(ad, value, &grad));
    AM_TRY(grad_slot(ad, value, &slot));
    if (*slot < 0) {
        *slot = grad;
        goto done;
    }
    const am_value seen = ad->g->values[*slot], d = ad->g->values[grad];
    if (seen.rank != d.rank || seen.dim[seen.rank - 1].local != d.dim[d.rank - 1].local) { /* views of one value */
        AM_TRY(am_graph_reshape(ad->g, grad, seen.rank, seen.dim, &grad));
        AM_TRY(grad_slot(ad, value, &slot));
    }
    AM_TRY(am_ad_emit(ad, "add", (int[]){*slot, grad}, 2, NULL, AM_ACC_NO, &sum, 1));
    AM_TRY(grad_slot(ad, value, &slot));
    *slot = sum;
done:
    return st;
}

am_status am_ad_param_value(am_autodiff *ad, int param_value, int *out, am_acc *acc)
{
    am_status st = AM_OK;
    int p = ad->g->values[param_value].param;
    AM_ASSERT(p >= 0);
    *acc = AM_ACC_ALWAYS;
    if (ad->c->param_grad[p] < 0) {
        char name[64];
        snprintf(name, sizeof name, "grad %s", ad->g->params[p].name);
        AM_TRY(am_graph_value_like(ad->g, name, param_value, ad->g->precise, &ad->c->param_grad[p]));
        *acc = AM_ACC_UNLESS_FIRST;
    }
    *out = ad->c->param_grad[p];
done:
    return st;
}

am_status am_ad_param_grad(am_autodiff *ad, const char *op, const int *in, int num_in, const am_attrs *attrs,
                           int param_value, int which)
{
    am_status st = AM_OK;
    int out[AM_MAX_OUT] = {-1, -1, -1, -1};
    am_acc acc = AM_ACC_NO;
    if (!am_ad_is_param(ad, param_value)) { /* a weight that is computed: fp32(W), W·c */
        AM_TRY(am_graph_value_like(ad->g, "dw", param_value, ad->g->precise, &out[which]));
        AM_TRY(am_ad_emit(ad, op, in, num_in, attrs, AM_ACC_NO, out, which + 1));
        AM_TRY(am_ad_contribute(ad, param_value, out[which]));
        goto done;
    }
    AM_TRY(am_ad_param_value(ad, param_value, &out[which], &acc));
    ad->g->phase = AM_PHASE_W;
    st = am_ad_emit(ad, op, in, num_in, attrs, acc, out, which + 1);
    ad->g->phase = AM_PHASE_B;
done:
    return st;
}

void am_ad_mark_wanted(const am_graph *g, int num_nodes, bool *wanted)
{
    for (size_t p = 0; p < g->num_params; p++) wanted[g->param_value[p]] = g->params[p].trainable;
    for (int n = 0; n < num_nodes; n++) {
        const am_node *x = &g->nodes[n];
        bool any = false;
        for (int i = 0; i < x->num_in; i++) any = any || (x->in[i] >= 0 && wanted[g->values[x->in[i]].root]);
        for (int i = 0; any && x->def->vjp && i < x->num_out; i++)
            if (x->out[i] >= 0) wanted[g->values[x->out[i]].root] = true;
    }
}

/* Where the loss enters: d(loss)/d(log p) of every token, arriving at linear_ce's lse. */
static am_status seed(am_autodiff *ad)
{
    am_status st = AM_OK;
    am_graph *g = ad->g;
    int scalars, dlogp = -1, *slot = NULL, ce = -1;
    for (int n = 0; n < ad->c->forward_nodes; n++)
        if (strcmp(g->nodes[n].def->name, "linear_ce") == 0) ce = n;
    AM_ASSERT(ce >= 0);
    am_graph_at(g, g->nodes[ce].layer, 0, 0);
    AM_TRY(am_graph_scalars(g, &scalars));
    ad->node_id = g->nodes[ce].id;
    ad->emitted = 64;
    AM_TRY(am_ad_emit(ad, "loss_dlogp", (int[]){g->nodes[ce].in[2], scalars}, 2, NULL, AM_ACC_NO, &dlogp, 1));
    AM_TRY(grad_slot(ad, g->nodes[ce].out[0], &slot));
    *slot = dlogp;
done:
    return st;
}

am_status am_pass_autodiff(am_compile *c)
{
    am_status st = AM_OK;
    am_graph *g = c->g;
    am_autodiff ad = {.c = c, .g = g, .num_forward_values = (int)g->num_values};
    AM_TRY(am_calloc(g->num_values, sizeof *ad.wants, &ad.wants));
    am_ad_mark_wanted(g, c->forward_nodes, ad.wants);
    g->phase = AM_PHASE_B;
    AM_TRY(seed(&ad));
    for (int n = c->forward_nodes - 1; n >= 0; n--) {
        am_node node = g->nodes[n]; /* a copy: emitting moves the array */
        if (!node.def->vjp) continue;
        am_graph_at(g, node.layer, node.line, node.column);
        ad.node_id = node.id;
        ad.emitted = 0;
        AM_TRY(node.def->vjp(&ad, &node));
    }
done:
    am_free(&ad.wants);
    am_free(&ad.grad);
    return st;
}
