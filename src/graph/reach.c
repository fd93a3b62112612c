/* reach.c: which parameters a gradient can reach at all.  What only selects (the score biases of a router), or lies behind
 * detach, is loaded and kept as it is: no gradient, no reduction, and no decay of weights. */
#include "graph/pass.h"

static void reach(const am_graph *g, int value, bool *reached)
{
    reached[value] = true;
    reached[g->values[value].root] = true; /* a view: what it looks into */
}

/* From the logits upwards, through operators that have a gradient; integers (chosen experts, positions) carry none. */
static void reach_from_logits(const am_graph *g, bool *reached)
{
    reach(g, g->logits, reached);
    for (int n = (int)g->num_nodes - 1; n >= 0; n--) {
        const am_node *x = &g->nodes[n];
        bool any = false;
        for (int i = 0; i < x->num_out && !any; i++)
            any = x->out[i] >= 0 && reached[x->out[i]] && am_dtype_is_float(g->values[x->out[i]].dtype);
        if (!any || !x->def->vjp) continue;
        for (int i = 0; i < x->num_in; i++)
            if (x->in[i] >= 0 && am_dtype_is_float(g->values[x->in[i]].dtype)) reach(g, x->in[i], reached);
    }
}

am_status am_pass_reach(am_compile *c)
{
    am_status st = AM_OK;
    am_graph *g = c->g;
    bool *reached = NULL;
    if (g->logits < 0) goto done;
    AM_TRY(am_calloc(g->num_values, sizeof *reached, &reached));
    reach_from_logits(g, reached);
    for (size_t p = 0; p < g->num_params; p++)
        if (!reached[g->param_value[p]]) g->params[p].trainable = false;
done:
    am_free(&reached);
    return st;
}
