/* inspect_tensor.c: what tensor parallelism makes of a model: which share of it every rank has to itself, what is added up over the
 * ranks, and what stays whole, and why.  The training program is compiled for each of the ranks; nothing runs. */
#include "cli/inspect.h"

#include <string.h>

/* Parameters that stay whole for one reason, in the order in which reasons are met. */
static json_t *find_reason(json_t *whole, const char *why)
{
    size_t i;
    json_t *o;
    json_array_foreach(whole, i, o)
    {
        const char *known = json_string_value(json_object_get(o, "why"));
        if (why ? known && strcmp(known, why) == 0 : !known) return o;
    }
    o = json_pack("{s:o, s:I, s:I, s:[]}", "why", why ? json_string(why) : json_null(), "parameters", (json_int_t)0, "elements",
                  (json_int_t)0, "first");
    json_array_append_new(whole, o);
    return o;
}

static void add_to(json_t *o, const char *key, int64_t n)
{
    json_object_set_new(o, key, json_integer(json_integer_value(json_object_get(o, key)) + n));
}

static void list_whole(am_graph *g, json_t *whole)
{
    for (int i = 0; i < am_graph_num_params(g); i++) {
        const am_param *p = am_graph_param_at(g, i);
        if (p->cut_of) continue;
        json_t *o = find_reason(whole, p->why_whole), *first = json_object_get(o, "first");
        add_to(o, "parameters", 1);
        add_to(o, "elements", am_param_elements(p));
        if (json_array_size(first) < 3) json_array_append_new(first, json_string(p->name));
    }
}

/* Elements of the parameters on this rank: all, those that are cut, those of layers. */
static void count_rank(am_graph *g, int64_t *all, int64_t *cut, int64_t *layers)
{
    *all = *cut = *layers = 0;
    for (int i = 0; i < am_graph_num_params(g); i++) {
        const am_param *p = am_graph_param_at(g, i);
        *all += am_param_elements(p);
        if (p->cut_of) *cut += am_param_elements(p);
        if (p->layer >= 0 && p->layer < am_graph_num_layers(g)) *layers += am_param_elements(p);
    }
}

static void count_sums(const am_program *p, int64_t *sums, int64_t *bytes)
{
    *sums = *bytes = 0;
    for (int k = 0; k < p->num_entries; k++) {
        const am_segment *s = &p->segment[p->schedule[k].segment];
        for (int i = 0; i < s->num_ops; i++)
            if (s->op[i].group == 1u << AM_MESH_TP && am_op_runs(&s->op[i], &p->schedule[k])) {
                *sums += 1;
                *bytes += s->op[i].piece_bytes;
            }
    }
}

static am_status compile_rank(const am_model *m, int64_t parts, int64_t rank, int64_t seq_len, am_program **out)
{
    am_status st = AM_OK;
    am_graph *g = NULL;
    am_program_options o = am_program_defaults(AM_PROGRAM_TRAIN);
    o.recompute = AM_RECOMPUTE_SELECTIVE;
    o.mesh.size[AM_MESH_TP] = parts;
    o.rank = rank;
    AM_TRY(am_model_graph(m, 1, seq_len, AM_BF16, &g));
    AM_TRY(am_program_compile(&g, &o, out));
done:
    am_graph_free(&g);
    return st;
}

am_status am_inspect_tensor(const am_model *m, int64_t parts, int64_t seq_len, json_t **out)
{
    am_status st = AM_OK;
    am_program *p = NULL;
    json_t *ranks = json_array(), *whole = json_array();
    int64_t total = 0, layers = 0, sums = 0, bytes = 0, all, cut, in_layers;
    AM_CHECK(parts >= 1 && parts <= 1024, AM_ERR_USAGE, "--tp-size is 1 to 1024");
    for (int64_t r = 0; r < parts; r++) {
        AM_TRY(compile_rank(m, parts, r, seq_len, &p));
        count_rank(p->graph, &all, &cut, &in_layers);
        total += r == 0 ? all : cut;
        layers += r == 0 ? in_layers : cut;
        json_array_append_new(ranks, json_pack("{s:I, s:I, s:I}", "parameters", (json_int_t)all, "cut", (json_int_t)cut, "bytes",
                                               (json_int_t)p->store.bytes));
        if (r == 0) {
            list_whole(p->graph, whole);
            count_sums(p, &sums, &bytes);
        }
        am_program_free(&p);
    }
    *out = json_pack("{s:I, s:I, s:I, s:O, s:O, s:I, s:I, s:I}", "tp_size", (json_int_t)parts, "parameters", (json_int_t)total, "layers", (json_int_t)layers, "ranks", ranks,
                     "whole", whole, "sums", (json_int_t)sums, "sum_bytes", (json_int_t)bytes, "seq_len", (json_int_t)seq_len);
done:
    am_program_free(&p);
    json_decref(ranks);
    json_decref(whole);
    return st;
}

static int64_t number(const json_t *o, const char *key)
{
    return json_integer_value(json_object_get(o, key));
}

void am_inspect_print_tensor(const json_t *o)
{
    char a[32], b[32];
    size_t i, k;
    json_t *x, *name;
    const json_t *ranks = json_object_get(o, "ranks");
    const double total = (double)number(o, "parameters");
    int64_t cut = 0, least = INT64_MAX, most = 0;
    json_array_foreach(ranks, i, x)
    {
        cut += number(x, "cut");
        least = am_min_i64(least, number(x, "parameters"));
        most = am_max_i64(most, number(x, "parameters"));
    }
    printf("tensor         %" PRId64 " ranks: %.1f %% of the parameters are cut; a rank has %s to %s of %s\n", number(o, "tp_size"),
           100 * (double)cut / total, am_cli_thousands(least, a), am_cli_thousands(most, b), "them");
    printf("               a step of %" PRId64 " tokens adds up %" PRId64 " values over them, %s a rank\n", number(o, "seq_len"),
           number(o, "sums"), am_cli_bytes(number(o, "sum_bytes"), a));
    json_array_foreach(json_object_get(o, "whole"), i, x)
    {
        const char *why = json_string_value(json_object_get(x, "why"));
        printf("  whole        %" PRId64 " parameters, %s elements: %s\n              ", number(x, "parameters"),
               am_cli_thousands(number(x, "elements"), a), why ? why : "no dimension that may be cut");
        json_array_foreach(json_object_get(x, "first"), k, name) printf(" %s", json_string_value(name));
        printf("%s\n", number(x, "parameters") > (int64_t)json_array_size(json_object_get(x, "first")) ? " …" : "");
    }
}
