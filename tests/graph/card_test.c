/* card_test: see card_test.h. */
#include "card_test.h"

#include <stdlib.h>
#include <string.h>

void expect_error(am_status st, am_status want, const char *text)
{
    if (st != want || !strstr(am_error_message(), text))
        fail_msg("expected %s with \"%s\",\n    got %s: %s", am_status_name(want), text, am_status_name(st),
                 am_error_message());
}

void expect_ok(am_status st)
{
    if (st != AM_OK) fail_msg("%s: %s", am_status_name(st), am_error_message());
}

am_hf_model *fake_model(const char *config, const fake_tensor *tensors, size_t n)
{
    am_hf_model *m = calloc(1, sizeof *m);
    am_safetensors_tensor *t = calloc(n + 1, sizeof *t);
    m->dir = strdup("fake");
    m->config_path = strdup("fake/config.json");
    m->tensors = calloc(n + 1, sizeof *m->tensors);
    m->num_tensors = (int64_t)n;
    m->model_type = "";
    expect_ok(am_json_parse(config, strlen(config), "fake/config.json", &m->config));
    for (size_t i = 0; i < n; i++) {
        t[i].name = strdup(tensors[i].name);
        t[i].dtype = AM_F32;
        t[i].rank = tensors[i].rank;
        t[i].elements = 1;
        for (int k = 0; k < t[i].rank; k++) t[i].elements *= t[i].shape[k] = tensors[i].shape[k];
        m->tensors[i] = &t[i];
    }
    m->tensors[n] = t; /* so that fake_free finds the block */
    m->total_bytes = (int64_t)n;
    return m;
}

void fake_free(am_hf_model **pm)
{
    am_hf_model *m = *pm;
    if (!m) return;
    am_safetensors_tensor *t = (am_safetensors_tensor *)m->tensors[m->total_bytes];
    for (int64_t i = 0; i < m->total_bytes; i++) free((char *)t[i].name);
    free(t);
    free(m->tensors);
    free(m->dir);
    free(m->config_path);
    json_decref(m->config);
    free(m);
    *pm = NULL;
}

static am_safetensors_tensor *tensor_of(am_hf_model *m, const char *name, int64_t *at)
{
    for (*at = 0; *at < m->num_tensors; (*at)++)
        if (strcmp(m->tensors[*at]->name, name) == 0) return (am_safetensors_tensor *)m->tensors[*at];
    fail_msg("the fake model has no %s", name);
    return NULL;
}

void fake_remove(am_hf_model *m, const char *name)
{
    int64_t at;
    tensor_of(m, name, &at);
    m->num_tensors--;
    for (int64_t i = at; i < m->num_tensors; i++) m->tensors[i] = m->tensors[i + 1];
}

void fake_reshape(am_hf_model *m, const char *name, int64_t a, int64_t b)
{
    int64_t at;
    am_safetensors_tensor *t = tensor_of(m, name, &at);
    t->shape[0] = a;
    t->shape[1] = b;
}

static void add(fake_tensor *t, size_t *n, char (*names)[96], int rank, int64_t a, int64_t b, const char *fmt,
                int layer)
{
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
    snprintf(names[*n], sizeof *names, fmt, layer);
#pragma GCC diagnostic pop
    t[*n] = (fake_tensor){names[*n], rank, {a, b, 0}};
    (*n)++;
}

am_hf_model *fake_llama_model(const char *config, const fake_llama *s)
{
    enum { MOST = 512 };
    fake_tensor *t = calloc(MOST, sizeof *t);
    char(*names)[96] = calloc(MOST, sizeof *names);
    size_t n = 0;
    add(t, &n, names, 2, s->V, s->D, "model.embed_tokens.weight", 0);
    for (int i = 0; i < s->layers; i++) {
        add(t, &n, names, 1, s->D, 0, "model.layers.%d.input_layernorm.weight", i);
        add(t, &n, names, 1, s->D, 0, "model.layers.%d.post_attention_layernorm.weight", i);
        add(t, &n, names, 2, s->Q, s->D, "model.layers.%d.self_attn.q_proj.weight", i);
        add(t, &n, names, 2, s->K, s->D, "model.layers.%d.self_attn.k_proj.weight", i);
        add(t, &n, names, 2, s->K, s->D, "model.layers.%d.self_attn.v_proj.weight", i);
        add(t, &n, names, 2, s->D, s->Q, "model.layers.%d.self_attn.o_proj.weight", i);
        add(t, &n, names, 2, s->F, s->D, "model.layers.%d.mlp.gate_proj.weight", i);
        add(t, &n, names, 2, s->F, s->D, "model.layers.%d.mlp.up_proj.weight", i);
        add(t, &n, names, 2, s->D, s->F, "model.layers.%d.mlp.down_proj.weight", i);
        if (s->qkv_bias) {
            add(t, &n, names, 1, s->Q, 0, "model.layers.%d.self_attn.q_proj.bias", i);
            add(t, &n, names, 1, s->K, 0, "model.layers.%d.self_attn.k_proj.bias", i);
            add(t, &n, names, 1, s->K, 0, "model.layers.%d.self_attn.v_proj.bias", i);
        }
        if (s->head_norm) {
            add(t, &n, names, 1, s->head_norm, 0, "model.layers.%d.self_attn.q_norm.weight", i);
            add(t, &n, names, 1, s->head_norm, 0, "model.layers.%d.self_attn.k_norm.weight", i);
        }
    }
    add(t, &n, names, 1, s->D, 0, "model.norm.weight", 0);
    if (s->head) add(t, &n, names, 2, s->V, s->D, "lm_head.weight", 0);
    am_hf_model *m = fake_model(config, t, n);
    free(t);
    free(names);
    return m;
}

am_card *open_family(const char *file)
{
    const char *root = getenv("AM_SOURCE_DIR");
    char path[1024];
    am_card *c = NULL;
    snprintf(path, sizeof path, "%s/configs/models/%s", root ? root : ".", file);
    expect_ok(am_card_open(path, &c));
    return c;
}

am_graph *new_graph(am_dtype compute)
{
    am_graph *g = NULL;
    expect_ok(am_graph_create(2, 16, compute, &g));
    return g;
}

int nth_node(am_graph *g, const char *op, int n)
{
    for (int i = 0; i < am_graph_num_nodes(g); i++)
        if (strcmp(am_graph_node_at(g, i)->def->name, op) == 0 && n-- == 0) return i;
    return -1;
}

int count_nodes(am_graph *g, const char *op)
{
    int n = 0;
    while (nth_node(g, op, n) >= 0) n++;
    return n;
}

int find_param(am_graph *g, const char *name)
{
    for (int i = 0; i < am_graph_num_params(g); i++)
        if (strcmp(am_graph_param_at(g, i)->name, name) == 0) return i;
    return -1;
}
