/* graph.c: building and looking at the middle representation.  Values and nodes are rows of two growing
 * arrays; strings and layouts live in an arena that goes with the graph.  Order of nodes is the order of
 * emission; passes that reorder call am_graph_reorder. */
#include "graph/graph_internal.h"

#include <stdlib.h>
#include <string.h>

enum { ARENA_BLOCK = 64 * 1024 };

am_status am_graph_create(int64_t rows, int64_t seq_len, am_dtype compute, am_graph **out)
{
    am_status st = AM_OK;
    am_graph *g = NULL;
    AM_CHECK(rows > 0 && seq_len > 0, AM_ERR_CONFIG, "a micro-batch needs at least one row and one token");
    AM_CHECK(compute == AM_F32 || compute == AM_BF16 || compute == AM_F64, AM_ERR_CONFIG,
             "compute dtype %s is not offered: use float32 or bfloat16", am_dtype_name(compute));
    AM_TRY(am_calloc(1, sizeof *g, &g));
    g->rows = rows;
    g->seq_len = seq_len;
    g->compute = compute;
    g->precise = compute == AM_F64 ? AM_F64 : AM_F32;
    g->logits = g->scalars = -1;
    g->layer = -1;
    g->next_id = 1;
    *out = g;
    g = NULL;
done:
    am_graph_free(&g);
    return st;
}

void am_graph_free(am_graph **pg)
{
    if (!pg || !*pg) return;
    am_graph *g = *pg;
    for (am_arena_block *b = g->arena; b;) {
        am_arena_block *next = b->next;
        am_free(&b);
        b = next;
    }
    am_free(&g->values);
    am_free(&g->nodes);
    am_free(&g->params);
    am_free(&g->param_value);
    am_free(&g->constants);
    am_free(&g->own_ops);
    am_free(pg);
}

am_status am_graph_alloc(am_graph *g, size_t bytes, void *out_ptr)
{
    am_status st = AM_OK;
    bytes = (bytes + 15u) & ~(size_t)15u;
    if (!g->arena || g->arena->size - g->arena->used < bytes) {
        size_t size = bytes > ARENA_BLOCK ? bytes : ARENA_BLOCK;
        am_arena_block *b = NULL;
        AM_TRY(am_calloc(1, sizeof *b + size + 16, &b));
        b->size = size;
        b->next = g->arena;
        g->arena = b;
    }
    *(void **)out_ptr = g->arena->bytes + g->arena->used;
    g->arena->used += bytes;
done:
    return st;
}

am_status am_graph_strdup(am_graph *g, const char *s, const char **out)
{
    size_t n = strlen(s) + 1;
    char *copy = NULL;
    am_status st = am_graph_alloc(g, n, &copy);
    if (st == AM_OK) {
        memcpy(copy, s, n);
        *out = copy;
    }
    return st;
}

am_dim am_dim_make(const char *name, am_role role, int64_t size)
{
    am_dim d = {.role = role, .global = size, .granule = 1, .start = 0, .local = size};
    snprintf(d.name, sizeof d.name, "%s", name);
    return d;
}

am_dim am_dim_number(int64_t size)
{
    char name[16];
    snprintf(name, sizeof name, "%" PRId64, size);
    return am_dim_make(name, AM_ROLE_NONE, size);
}

am_dim am_dim_tokens(const am_graph *g)
{
    return am_dim_make("N", AM_ROLE_TOKENS, g->rows * g->seq_len);
}

am_status am_graph_value(am_graph *g, const char *name, am_dtype dtype, int rank, const am_dim *dims,
                         int *out)
{
    am_status st = AM_OK;
    AM_ASSERT(rank >= 0 && rank <= AM_MAX_RANK);
    am_dim copy[AM_MAX_RANK]; /* dims and name may point into the array that grows */
    char label[sizeof g->values->name];
    for (int i = 0; i < rank; i++) copy[i] = dims[i];
    snprintf(label, sizeof label, "%s", name);
    AM_TRY(am_grow(&g->values, &g->cap_values, g->num_values + 1, sizeof *g->values));
    am_value *v = &g->values[g->num_values];
    memset(v, 0, sizeof *v);
    memcpy(v->name, label, sizeof label);
    v->dtype = dtype;
    v->rank = rank;
    for (int i = 0; i < rank; i++) v->dim[i] = copy[i];
    v->param = v->producer = v->region = -1;
    v->root = (int)g->num_values;
    *out = (int)g->num_values++;
done:
    return st;
}

am_status am_graph_value_like(am_graph *g, const char *name, int like, am_dtype dtype, int *out)
{
    am_value v = g->values[like];
    return am_graph_value(g, name, dtype, v.rank, v.dim, out);
}

am_status am_graph_subvalue(am_graph *g, const char *name, int root, int64_t offset, int rank,
                            const am_dim *dims, int *out)
{
    am_status st = AM_OK;
    AM_TRY(am_graph_value(g, name, g->values[root].dtype, rank, dims, out));
    am_value *v = &g->values[*out], *r = &g->values[root];
    v->root = r->root;
    v->root_offset = r->root_offset + offset;
    v->producer = r->producer;
    v->param = r->param;
    v->life = r->life;
done:
    return st;
}

am_status am_graph_reshape(am_graph *g, int value, int rank, const am_dim *dims, int *out)
{
    am_status st = AM_OK;
    int64_t n = 1;
    for (int i = 0; i < rank; i++) n *= dims[i].local;
    AM_CHECK(n == am_value_elements(&g->values[value]), AM_ERR_SHAPE,
             "a view of %" PRId64 " elements onto %s", n, g->values[value].name);
    char name[48];
    snprintf(name, sizeof name, "%s", g->values[value].name);
    AM_TRY(am_graph_subvalue(g, name, value, 0, rank, dims, out));
done:
    return st;
}

am_status am_graph_input(am_graph *g, const char *name, int *out)
{
    static const char *const known[] = {"ids",     "pos",   "index", "doc_start", "labels",
                                        "k_index", "slots", "rows",  "token"};
    am_status st = AM_OK;
    bool ok = false;
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) ok = ok || strcmp(known[i], name) == 0;
    AM_ASSERT(ok);
    for (size_t i = 0; i < g->num_values; i++)
        if (g->values[i].life == AM_LIFE_FRAME && g->values[i].producer < 0 &&
            strcmp(g->values[i].name, name) == 0) {
            *out = (int)i;
            goto done;
        }
    am_dim n = am_dim_tokens(g);
    AM_TRY(am_graph_value(g, name, AM_I32, 1, &n, out));
    g->values[*out].life = AM_LIFE_FRAME;
done:
    return st;
}

am_status am_graph_scalars(am_graph *g, int *out)
{
    am_status st = AM_OK;
    if (g->scalars < 0) {
        am_dim n = am_dim_number(AM_SCALAR_COUNT);
        AM_TRY(am_graph_value(g, "scalars", AM_F64, 1, &n, &g->scalars));
        g->values[g->scalars].life = AM_LIFE_SCALARS;
    }
    *out = g->scalars;
done:
    return st;
}

am_status am_graph_constant(am_graph *g, const char *name, const double *data, int64_t n, int *out)
{
    am_status st = AM_OK;
    double *copy = NULL;
    am_dim d = am_dim_number(n);
    AM_TRY(am_graph_alloc(g, (size_t)n * sizeof *data, &copy));
    memcpy(copy, data, (size_t)n * sizeof *data);
    AM_TRY(am_graph_value(g, name, g->precise, 1, &d, out));
    g->values[*out].life = AM_LIFE_CONST;
    AM_TRY(am_grow(&g->constants, &g->cap_constants, g->num_constants + 1, sizeof *g->constants));
    g->constants[g->num_constants++] = (am_constant){.value = *out, .data = copy, .n = n};
done:
    return st;
}

static am_status same_param(const am_param *a, const am_param *b)
{
    am_status st = AM_OK;
    bool same = a->rank == b->rank;
    for (int i = 0; same && i < a->rank; i++) same = a->dim[i] == b->dim[i];
    AM_CHECK(same, AM_ERR_CARD, "%s is used with two different shapes", a->name);
done:
    return st;
}

am_status am_graph_param(am_graph *g, const am_param *p, int *param, int *value)
{
    am_status st = AM_OK;
    for (size_t i = 0; i < g->num_params; i++)
        if (strcmp(g->params[i].name, p->name) == 0) {
            AM_TRY(same_param(&g->params[i], p));
            *param = (int)i;
            *value = g->param_value[i];
            goto done;
        }
    AM_TRY(am_grow(&g->params, &g->cap_params, g->num_params + 1, sizeof *g->params));
    AM_TRY(am_grow(&g->param_value, &g->cap_param_value, g->num_params + 1, sizeof *g->param_value));
    am_dim dims[AM_MAX_RANK];
    for (int i = 0; i < p->rank; i++) {
        dims[i] = am_dim_number(p->dim[i]);
        if (p->layout[i] && p->layout[i]->kind == AM_LAYOUT_DIM) dims[i] = p->layout[i]->dim;
    }
    AM_TRY(am_graph_value(g, p->name, g->compute, p->rank, dims, value));
    *param = (int)g->num_params;
    g->values[*value].param = *param;
    g->param_value[*param] = *value;
    g->params[g->num_params] = *p;
    g->params[g->num_params].trainable = true;
    g->params[g->num_params++].uses = 0;
done:
    return st;
}

void am_graph_at(am_graph *g, int layer, int line, int column)
{
    g->layer = layer;
    g->line = line;
    g->column = column;
}

am_status am_graph_register_op(am_graph *g, const am_op_def *def)
{
    am_status st = AM_OK;
    AM_TRY(am_grow(&g->own_ops, &g->cap_own_ops, g->num_own_ops + 1, sizeof *g->own_ops));
    g->own_ops[g->num_own_ops++] = def;
done:
    return st;
}

const am_op_def *am_graph_find_op(const am_graph *g, const char *name)
{
    for (size_t i = 0; i < g->num_own_ops; i++)
        if (strcmp(g->own_ops[i]->name, name) == 0) return g->own_ops[i];
    return am_op_find(name);
}

am_status am_graph_emit(am_graph *g, const char *op, const int *in, int num_in, const am_attrs *attrs,
                        am_acc acc, int *out, int *node)
{
    static const am_attrs none = {0};
    am_status st = AM_OK;
    am_node n = {.def = am_graph_find_op(g, op),
                 .attrs = attrs ? *attrs : none,
                 .num_in = num_in,
                 .layer = g->layer,
                 .phase = g->phase,
                 .acc = acc,
                 .line = g->line,
                 .column = g->column};
    AM_CHECK(n.def, AM_ERR_CARD, "there is no operator named %s", op);
    AM_ASSERT(num_in <= AM_MAX_IN);
    for (int i = 0; i < AM_MAX_IN; i++) n.in[i] = i < num_in ? in[i] : -1;
    for (int i = 0; i < AM_MAX_OUT; i++) n.out[i] = out ? out[i] : -1;
    AM_TRY(n.def->infer(g, &n));
    n.id = g->next_id++;
    AM_TRY(am_grow(&g->nodes, &g->cap_nodes, g->num_nodes + 1, sizeof *g->nodes));
    for (int i = 0; i < n.num_out; i++)
        if (n.out[i] >= 0 && g->values[n.out[i]].producer < 0)
            g->values[n.out[i]].producer = (int)g->num_nodes;
    for (int i = 0; i < num_in; i++)
        if (in[i] >= 0 && g->values[in[i]].param >= 0 && g->phase == AM_PHASE_F)
            g->params[g->values[in[i]].param].uses++;
    for (int i = 0; out && i < n.num_out; i++) out[i] = n.out[i];
    if (node) *node = (int)g->num_nodes;
    g->nodes[g->num_nodes++] = n;
done:
    return st;
}

am_status am_graph_apply(am_graph *g, const char *op, const int *in, int num_in, const am_attrs *attrs,
                         int *out)
{
    int outs[AM_MAX_OUT] = {-1, -1, -1, -1};
    am_status st = am_graph_emit(g, op, in, num_in, attrs, AM_ACC_NO, outs, NULL);
    const am_node *n = st == AM_OK ? &g->nodes[g->num_nodes - 1] : NULL;
    for (int i = 0; n && out && i < n->num_out; i++) out[i] = n->out[i];
    return st;
}

am_status am_graph_reorder(am_graph *g, const int *order, size_t n)
{
    am_status st = AM_OK;
    am_node *nodes = NULL;
    int *where = NULL;
    AM_TRY(am_calloc(n + 1, sizeof *nodes, &nodes));
    AM_TRY(am_calloc(g->num_nodes + 1, sizeof *where, &where));
    for (size_t i = 0; i < g->num_nodes; i++) where[i] = -1;
    for (size_t i = 0; i < n; i++) {
        nodes[i] = g->nodes[order[i]];
        where[order[i]] = (int)i;
    }
    for (size_t v = 0; v < g->num_values; v++)
        if (g->values[v].producer >= 0) g->values[v].producer = where[g->values[v].producer];
    am_free(&g->nodes);
    g->nodes = nodes;
    g->num_nodes = n;
    g->cap_nodes = n + 1;
    nodes = NULL;
done:
    am_free(&nodes);
    am_free(&where);
    return st;
}

am_status am_graph_set_logits(am_graph *g, int value)
{
    am_status st = AM_OK;
    AM_CHECK(g->values[value].rank == 2, AM_ERR_CARD, "logits must be [tokens, vocabulary]");
    g->logits = value;
done:
    return st;
}

void am_graph_set_layers(am_graph *g, int num_layers)
{
    g->num_layers = num_layers;
}
int am_graph_num_values(const am_graph *g)
{
    return (int)g->num_values;
}
int am_graph_num_nodes(const am_graph *g)
{
    return (int)g->num_nodes;
}
int am_graph_num_params(const am_graph *g)
{
    return (int)g->num_params;
}
int am_graph_num_layers(const am_graph *g)
{
    return g->num_layers;
}
am_value *am_graph_value_at(am_graph *g, int value)
{
    return &g->values[value];
}
am_node *am_graph_node_at(am_graph *g, int node)
{
    return &g->nodes[node];
}
am_param *am_graph_param_at(am_graph *g, int param)
{
    return &g->params[param];
}

int64_t am_value_elements(const am_value *v)
{
    int64_t n = 1;
    for (int i = 0; i < v->rank; i++) n *= v->dim[i].local;
    return n;
}

int64_t am_param_elements(const am_param *p)
{
    int64_t n = 1;
    for (int i = 0; i < p->rank; i++) n *= p->dim[i];
    return n;
}

const char *am_param_disk_name(const am_param *p)
{
    return p->disk.num_tensors > 0 ? p->disk.tensor[0] : p->name;
}

int am_param_matches(const am_param *p, const char *glob)
{
    int n = 0;
    for (int i = 0; i < p->disk.num_tensors; i++) n += am_glob_match(glob, p->disk.tensor[i]);
    return p->disk.num_tensors > 0 ? n : am_glob_match(glob, p->name);
}

static am_status print_value(const am_graph *g, int v, am_str *out)
{
    am_status st = AM_OK;
    if (v < 0) {
        AM_TRY(am_str_printf(out, "-"));
        goto done;
    }
    const am_value *x = &g->values[v];
    if (x->param >= 0)
        AM_TRY(am_str_printf(out, "%s", x->name));
    else
        AM_TRY(am_str_printf(out, "%s.%d", x->name, v));
    AM_TRY(am_str_printf(out, "["));
    for (int i = 0; i < x->rank; i++)
        AM_TRY(am_str_printf(out, "%s%s%s%" PRId64, i ? " " : "", x->dim[i].role ? x->dim[i].name : "",
                             x->dim[i].role ? "=" : "", x->dim[i].local));
    AM_TRY(am_str_printf(out, "]"));
done:
    return st;
}

am_status am_graph_print(const am_graph *g, am_str *out)
{
    am_status st = AM_OK;
    for (size_t n = 0; n < g->num_nodes; n++) {
        const am_node *x = &g->nodes[n];
        AM_TRY(am_str_printf(out, "%4zu layer %d  ", n, x->layer));
        for (int i = 0; i < x->num_out; i++) {
            if (i) AM_TRY(am_str_printf(out, ", "));
            AM_TRY(print_value(g, x->out[i], out));
        }
        AM_TRY(am_str_printf(out, " = %s(", x->def->name));
        for (int i = 0; i < x->num_in; i++) {
            if (i) AM_TRY(am_str_printf(out, ", "));
            AM_TRY(print_value(g, x->in[i], out));
        }
        AM_TRY(am_str_printf(out, ")\n"));
    }
done:
    return st;
}
