/* transform.c: the small passes: freeze, fuse, head, cache over the forward graph; fuse_loss after autodiff. */
#include "graph/pass.h"

#include <stdlib.h>
#include <string.h>

am_status am_pass_freeze(am_compile *c)
{
    am_status st = AM_OK;
    for (int i = 0; i < c->o->num_freeze; i++) {
        bool any = false;
        for (size_t p = 0; p < c->g->num_params; p++) {
            am_param *x = &c->g->params[p];
            int matched = am_param_matches(x, c->o->freeze[i]);
            if (matched == 0) continue;
            AM_CHECK(matched >= x->disk.num_tensors, AM_ERR_CONFIG,
                     "freeze_config.patterns: \"%s\" matches %d of the %d tensors from %s on, which are one parameter: all or "
                     "none of them can be frozen",
                     c->o->freeze[i], matched, x->disk.num_tensors, am_param_disk_name(x));
            x->trainable = false;
            any = true;
        }
        AM_CHECK(any, AM_ERR_CONFIG,
                 "freeze_config.patterns: \"%s\" matches no parameter; names look like %s", c->o->freeze[i],
                 c->g->num_params ? am_param_disk_name(&c->g->params[0]) : "(none)");
    }
done:
    return st;
}

static int uses_of(const am_graph *g, int value)
{
    int uses = 0;
    for (size_t n = 0; n < g->num_nodes; n++)
        for (int i = 0; i < g->nodes[n].num_in; i++)
            if (g->nodes[n].in[i] >= 0 && g->values[g->nodes[n].in[i]].root == g->values[value].root) uses++;
    return uses;
}

static am_status drop_nodes(am_graph *g, const bool *dead)
{
    am_status st = AM_OK;
    int *order = NULL;
    size_t n = 0;
    AM_TRY(am_calloc(g->num_nodes + 1, sizeof *order, &order));
    for (size_t i = 0; i < g->num_nodes; i++)
        if (!dead[i]) order[n++] = (int)i;
    AM_TRY(am_graph_reorder(g, order, n));
done:
    am_free(&order);
    return st;
}

/* Factors of slots: into combine where they are the last thing before it, into dispatch where they are the first after it. */
static void fuse_factors(am_graph *g, bool *dead)
{
    for (int n = 0; n < (int)g->num_nodes; n++) {
        am_node *x = &g->nodes[n];
        int producer = g->values[x->in[0] < 0 ? 0 : x->in[0]].producer;
        am_node *before = x->in[0] >= 0 && producer >= 0 && !dead[producer] ? &g->nodes[producer] : NULL;
        bool combines = strcmp(x->def->name, "combine") == 0, scales = strcmp(x->def->name, "slot_scale") == 0;
        if (!before || (!combines && !scales) || uses_of(g, x->in[0]) != 1) continue;
        if (strcmp(before->def->name, combines ? "slot_scale" : "dispatch") != 0) continue;
        if (before->in[1] != x->in[1] || (combines ? x->num_in : before->num_in) > 3) continue;
        if (combines) x->in[3] = before->in[3];
        x->in[0] = before->in[0];
        x->num_in = 4;
        if (scales) x->def = am_op_find("dispatch");
        dead[producer] = true;
    }
}

/* act followed by a product with something else, its only use: one operator. */
am_status am_pass_fuse(am_graph *g)
{
    am_status st = AM_OK;
    bool *dead = NULL;
    AM_TRY(am_calloc(g->num_nodes + 1, sizeof *dead, &dead));
    for (size_t n = 0; n < g->num_nodes; n++) {
        am_node *mul = &g->nodes[n];
        if (strcmp(mul->def->name, "mul") != 0) continue;
        for (int side = 0; side < 2; side++) {
            int producer = g->values[mul->in[side]].producer;
            am_node *act = producer >= 0 ? &g->nodes[producer] : NULL;
            if (!act || strcmp(act->def->name, "act") != 0 || uses_of(g, mul->in[side]) != 1) continue;
            dead[producer] = true;
            int in[2] = {act->in[0], mul->in[1 - side]};
            mul->def = am_op_find("act_mul");
            mul->attrs = act->attrs;
            mul->in[0] = in[0];
            mul->in[1] = in[1];
            break;
        }
    }
    fuse_factors(g, dead);
    AM_TRY(drop_nodes(g, dead));
done:
    am_free(&dead);
    return st;
}

/* Find the nodes that make the logits: linear, perhaps followed by softcap. */
static am_status find_head(am_graph *g, int *linear, int *softcap)
{
    am_status st = AM_OK;
    AM_CHECK(g->logits >= 0, AM_ERR_CARD, "the card's model does not set logits");
    int n = g->values[g->logits].producer;
    *softcap = -1;
    if (n >= 0 && strcmp(g->nodes[n].def->name, "softcap") == 0) {
        *softcap = n;
        n = g->values[g->nodes[n].in[0]].producer;
    }
    AM_CHECK(n >= 0 && strcmp(g->nodes[n].def->name, "linear") == 0, AM_ERR_CARD,
             "logits must be a linear of the last hidden state, perhaps with a softcap behind it");
    *linear = n;
done:
    return st;
}

/* The loss: linear and cross-entropy in one operator that never holds a T×V matrix, then the sums. */
static am_status add_loss(am_graph *g, const am_node *head, double softcap, int64_t chunk)
{
    am_status st = AM_OK;
    int labels, scalars, ce[2], sums[AM_MAX_OUT] = {-1, -1, -1, -1};
    am_attrs attrs = {.chunk = chunk, .softcap = softcap};
    AM_TRY(am_graph_input(g, "labels", &labels));
    AM_TRY(am_graph_scalars(g, &scalars));
    am_graph_at(g, head->layer, 0, 0);
    bool biased = head->num_in > 2 && head->in[2] >= 0;
    int in[4] = {head->in[0], head->in[1], labels, head->in[2]};
    AM_TRY(am_graph_apply(g, "linear_ce", in, biased ? 4 : 3, &attrs, ce));
    sums[0] = scalars;
    AM_TRY(
        am_graph_emit(g, "loss_sum", (int[]){ce[0], ce[1], labels, scalars}, 4, NULL, AM_ACC_NO, sums, NULL));
done:
    return st;
}

/* GENERATE: logits of the chosen rows only. */
static am_status choose_rows(am_compile *c, int linear, double softcap)
{
    am_status st = AM_OK;
    am_graph *g = c->g;
    int rows, picked, out[AM_MAX_OUT] = {-1, -1, -1, -1};
    am_node head = g->nodes[linear];
    am_value h = g->values[head.in[0]];
    am_dim dims[2] = {am_dim_make("rows", AM_ROLE_NONE, c->o->logit_rows), h.dim[1]};
    AM_TRY(am_graph_input(g, "rows", &rows));
    g->values[rows].dim[0] = dims[0];
    AM_TRY(am_graph_value(g, "last_hidden", h.dtype, 2, dims, &picked));
    out[0] = picked;
    am_graph_at(g, head.layer, head.line, head.column);
    AM_TRY(am_graph_emit(g, "gather_rows", (int[]){head.in[0], rows}, 2, NULL, AM_ACC_NO, out, NULL));
    int in[3] = {picked, head.in[1], head.in[2]};
    AM_TRY(am_graph_apply(g, "linear", in, head.num_in, &head.attrs, out));
    if (softcap != 0) AM_TRY(am_graph_apply(g, "softcap", (int[]){out[0]}, 1, &(am_attrs){.softcap = softcap}, out));
    g->logits = out[0];
done:
    return st;
}

am_status am_pass_head(am_compile *c)
{
    am_status st = AM_OK;
    am_graph *g = c->g;
    int linear = -1, softcap = -1;
    bool *dead = NULL;
    AM_TRY(find_head(g, &linear, &softcap));
    am_node head = g->nodes[linear];
    double cap = softcap >= 0 ? g->nodes[softcap].attrs.softcap : 0;
    g->phase = AM_PHASE_F;
    AM_TRY(am_calloc(g->num_nodes + 8, sizeof *dead, &dead));
    if (c->o->kind == AM_PROGRAM_GENERATE) {
        dead[linear] = true;
        if (softcap >= 0) dead[softcap] = true;
        AM_TRY(choose_rows(c, linear, cap));
        AM_TRY(drop_nodes(g, dead));
        goto done;
    }
    if (c->o->kind != AM_PROGRAM_VERIFY) {
        dead[linear] = true;
        if (softcap >= 0) dead[softcap] = true;
        for (int i = 1; i < head.num_in; i++)
            if (head.in[i] >= 0 && g->values[head.in[i]].param >= 0) g->params[g->values[head.in[i]].param].uses--;
        g->logits = -1;
    }
    AM_TRY(add_loss(g, &head, cap, c->o->ce_chunk));
    AM_TRY(drop_nodes(g, dead));
done:
    am_free(&dead);
    return st;
}

/* Nodes of this operator that read the value; the first two of them in at[]. */
static int find_readers(const am_graph *g, const char *op, int value, int at[2])
{
    int found = 0;
    for (size_t n = 0; n < g->num_nodes; n++) {
        if (strcmp(g->nodes[n].def->name, op) != 0) continue;
        for (int i = 0; i < g->nodes[n].num_in; i++)
            if (g->nodes[n].in[i] == value) {
                if (found < 2) at[found] = (int)n;
                found++;
            }
    }
    return found;
}

/* linear_ce and its loss_sum, and the linear_ce_bwd nodes: one, or where W runs apart one for dh and one for dw. */
typedef struct am_head {
    int ce, sum, bwd, dw_apart; /* nodes; dw_apart -1: bwd gives both */
} am_head;

static bool find_loss(const am_graph *g, am_head *h)
{
    int sum[2], bwd[2];
    *h = (am_head){.ce = -1, .dw_apart = -1};
    for (size_t i = 0; i < g->num_nodes; i++)
        if (strcmp(g->nodes[i].def->name, "linear_ce") == 0) h->ce = (int)i;
    if (h->ce < 0 || g->nodes[h->ce].attrs.softcap != 0 || g->nodes[h->ce].num_in > 3) return false;
    int lse = g->nodes[h->ce].out[0], backwards = find_readers(g, "linear_ce_bwd", lse, bwd);
    if (find_readers(g, "loss_sum", lse, sum) != 1 || backwards < 1 || backwards > 2 || uses_of(g, lse) != 1 + backwards) return false;
    h->sum = sum[0];
    h->bwd = bwd[0];
    if (backwards == 2) h->dw_apart = bwd[1];
    return g->nodes[h->bwd].out[0] >= 0 && (backwards == 1 || g->nodes[bwd[1]].out[0] < 0);
}

/* linear_ce_bwd becomes linear_ce_grad, which gives lse and target as well. */
static void grad_instead(am_graph *g, int node, int lse, int target)
{
    am_node *x = &g->nodes[node];
    const int out[4] = {lse, target, x->out[0], x->num_out > 1 ? x->out[1] : -1};
    x->def = am_op_find("linear_ce_grad");
    x->in[3] = x->in[4]; /* dlogp */
    x->num_in = x->num_out = 4;
    memcpy(x->out, out, sizeof out);
    for (int i = 0; i < 4; i++)
        if (out[i] >= 0) g->values[out[i]].producer = node;
}

/* dlogp is known before the logits are (it is 1/N of the step), so that loss and gradients can be made of the same ones:
 * linear_ce and linear_ce_bwd become linear_ce_grad, where linear_ce_bwd stood; the loss is summed after it.  Where W runs apart
 * dh and dw come from a linear_ce_grad each, so that their bits are the same.  Not with a softcap or a bias. */
am_status am_pass_fuse_loss(am_compile *c)
{
    am_status st = AM_OK;
    am_graph *g = c->g;
    am_head h;
    int *order = NULL, again[2];
    size_t n = 0;
    if (!find_loss(g, &h)) goto done;
    const am_node head = g->nodes[h.ce];
    grad_instead(g, h.bwd, head.out[0], head.out[1]);
    for (int i = 0; h.dw_apart >= 0 && i < 2; i++)
        AM_TRY(am_graph_value_like(g, "again", head.out[i], g->values[head.out[i]].dtype, &again[i]));
    if (h.dw_apart >= 0) grad_instead(g, h.dw_apart, again[0], again[1]);
    g->nodes[h.sum].phase = g->nodes[h.bwd].phase;
    AM_TRY(am_calloc(g->num_nodes + 1, sizeof *order, &order));
    for (int i = 0; i < (int)g->num_nodes; i++) {
        if (i != h.ce && i != h.sum) order[n++] = i;
        if (i == h.bwd) order[n++] = h.sum;
    }
    AM_TRY(am_graph_reorder(g, order, n));
done:
    am_free(&order);
    return st;
}

/* How many operands of a node, from 1 on, are keys or values: those of index_keys are keys alone. */
static int cached_operands(const am_node *x)
{
    return strcmp(x->def->name, "attention") == 0 ? 2 : strcmp(x->def->name, "index_keys") == 0 ? 1 : 0;
}

/* Keys and values go to rows of a cache and are read from there: prefill and decode are one program with a
 * bounded N. */
static am_status cache_one(am_compile *c, int node, int k_index, int slots)
{
    am_status st = AM_OK;
    am_graph *g = c->g;
    const int cached = cached_operands(&g->nodes[node]);
    for (int i = 1; i <= cached; i++) {
        int v = g->nodes[node].in[i], out[AM_MAX_OUT] = {-1, -1, -1, -1};
        am_value x = g->values[v];
        am_dim dims[3] = {am_dim_make("cache", AM_ROLE_NONE, c->o->cache_tokens), x.dim[1], x.dim[2]};
        AM_TRY(am_graph_value(g, i == 1 ? "k_cache" : "v_cache", x.dtype, x.rank, dims, &out[0]));
        int cache = out[0];
        g->values[cache].life = AM_LIFE_STATE;
        am_graph_at(g, g->nodes[node].layer, 0, 0);
        AM_TRY(am_graph_emit(g, "scatter_rows", (int[]){v, slots}, 2, NULL, AM_ACC_NO, out, NULL));
        g->values[cache].producer = -1;
        g->nodes[node].in[i] = cache;
    }
    g->nodes[node].in[cached + 2] = k_index;
done:
    return st;
}

/* A recurrence goes on where the run before has left it: input and output are one value that outlives the run. */
static am_status keep_state(am_graph *g, int node)
{
    am_status st = AM_OK;
    am_node x = g->nodes[node];
    const int in = AM_OP_STATE_IN(x.def->traits), out = AM_OP_STATE_OUT(x.def->traits);
    if (in < 0) goto done;
    AM_ASSERT(x.num_in == in && x.out[out] < 0);
    x.num_in = in + 1;
    x.in[in] = -1;
    AM_TRY(x.def->infer(g, &x));
    AM_ASSERT(x.out[out] >= 0);
    g->values[x.out[out]].life = AM_LIFE_STATE;
    g->values[x.out[out]].producer = -1;
    x.in[in] = x.out[out];
    g->nodes[node] = x;
done:
    return st;
}

am_status am_pass_cache(am_compile *c)
{
    am_status st = AM_OK;
    am_graph *g = c->g;
    size_t forward = g->num_nodes, n = 0;
    int k_index, slots, *order = NULL;
    AM_TRY(am_graph_input(g, "k_index", &k_index));
    g->values[k_index].dim[0] = am_dim_make("cache", AM_ROLE_NONE, c->o->cache_tokens);
    AM_TRY(am_graph_input(g, "slots", &slots));
    for (size_t i = 0; i < forward; i++) AM_TRY(keep_state(g, (int)i));
    for (size_t i = 0; i < forward; i++)
        if (cached_operands(&g->nodes[i])) AM_TRY(cache_one(c, (int)i, k_index, slots));
    AM_TRY(am_calloc(g->num_nodes + 1, sizeof *order, &order));
    size_t extra = forward;
    for (size_t i = 0; i < forward; i++) {
        for (int k = 0; k < cached_operands(&g->nodes[i]); k++) order[n++] = (int)extra++;
        order[n++] = (int)i;
    }
    AM_TRY(am_graph_reorder(g, order, n));
done:
    am_free(&order);
    return st;
}
