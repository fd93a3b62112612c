/* inspect_block.c: a layer as it will run: the operators of its forward pass, a line each, with the names of config-sized
 * dimensions, and the parameters by their names within the layer. */
#include "cli/inspect.h"

#include <string.h>

/* "model.layers.3.mlp.up_proj.weight" → "mlp.up_proj.weight": what follows the layer's own number. */
const char *am_inspect_name_within(const am_param *p)
{
    char number[24];
    snprintf(number, sizeof number, ".%d.", p->layer);
    const char *at = p->layer >= 0 ? strstr(p->name, number) : NULL;
    return at ? at + strlen(number) : p->name;
}

/* A view is called what its root is: the same memory. */
static am_status operand(am_graph *g, const int *number, int value, int layer, am_str *out)
{
    am_status st = AM_OK;
    const am_value *v = value < 0 ? NULL : am_graph_value_at(g, value);
    if (!v)
        AM_TRY(am_str_printf(out, "–"));
    else if (v->param >= 0)
        AM_TRY(am_str_printf(out, "%s", am_inspect_name_within(am_graph_param_at(g, v->param))));
    else if (number[v->root] > 0)
        AM_TRY(am_str_printf(out, "%%%d", number[v->root]));
    else if (v->producer >= 0 && am_graph_node_at(g, v->producer)->layer < layer && layer > 0)
        AM_TRY(am_str_printf(out, "%s of layer %d", v->name, am_graph_node_at(g, v->producer)->layer));
    else
        AM_TRY(am_str_printf(out, "%s", v->name));
done:
    return st;
}

static am_status shape(const am_value *v, am_str *out)
{
    am_status st = AM_OK;
    AM_TRY(am_str_printf(out, "["));
    for (int i = 0; i < v->rank; i++) {
        char size[24];
        snprintf(size, sizeof size, "%" PRId64, v->dim[i].global);
        bool bare = strcmp(size, v->dim[i].name) == 0;
        if (v->dim[i].role == AM_ROLE_TOKENS)
            AM_TRY(am_str_printf(out, "%sN", i ? ", " : ""));
        else
            AM_TRY(am_str_printf(out, "%s%s%s%s", i ? ", " : "", bare ? "" : v->dim[i].name, bare ? "" : "=", size));
    }
    AM_TRY(am_str_printf(out, "]"));
done:
    return st;
}

static am_status attributes(const am_node *n, am_str *out)
{
    am_status st = AM_OK;
    static const am_attrs zero;
    static const char *const acts[] = {
#define X(name, e) name,
        AM_ACT_LIST(X)
#undef X
    };
    if (strcmp(n->def->name, "act") == 0) {
        AM_TRY(am_str_printf(out, ", %s", n->attrs.act >= 0 && n->attrs.act < AM_ACT_COUNT ? acts[n->attrs.act] : "?"));
        goto done;
    }
#define X(t, name, doc) \
    if (n->attrs.name != zero.name) AM_TRY(am_str_printf(out, ", " #name " %.6g", (double)n->attrs.name));
    AM_ATTR_LIST(X)
#undef X
done:
    return st;
}

static am_status line_of(am_graph *g, const int *number, const am_node *n, am_str *out)
{
    am_status st = AM_OK;
    const am_value *y = am_graph_value_at(g, n->out[0]);
    AM_TRY(am_str_printf(out, "%%%d ", number[y->root]));
    AM_TRY(shape(y, out));
    AM_TRY(am_str_printf(out, " = %s(", n->def->name));
    for (int i = 0; i < n->num_in; i++) {
        if (i) AM_TRY(am_str_printf(out, ", "));
        AM_TRY(operand(g, number, n->in[i], n->layer, out));
    }
    AM_TRY(attributes(n, out));
    AM_TRY(am_str_printf(out, ")"));
done:
    return st;
}

am_status am_inspect_block(am_graph *g, int layer, json_t *lines)
{
    am_status st = AM_OK;
    int *number = NULL, next = 0;
    am_str text = {0};
    AM_TRY(am_calloc((size_t)am_graph_num_values(g) + 1, sizeof *number, &number));
    for (int i = 0; i < am_graph_num_nodes(g); i++) {
        const am_node *n = am_graph_node_at(g, i);
        if (n->layer != layer || n->num_out == 0) continue;
        for (int k = 0; k < n->num_out; k++)
            if (n->out[k] >= 0) number[am_graph_value_at(g, n->out[k])->root] = ++next;
        am_str_release(&text);
        AM_TRY(line_of(g, number, n, &text));
        json_array_append_new(lines, json_string(text.s));
    }
done:
    am_str_release(&text);
    am_free(&number);
    return st;
}
