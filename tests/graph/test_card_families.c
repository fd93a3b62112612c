/* The cards of configs/models over small models of their families: the graph that comes out, node by node and
 * parameter by parameter, and what each family does differently.  Expected values are the families' papers
 * and transformers' classes. */
#include "card_test.h"

#include <stdlib.h>
#include <string.h>

/* keys of SmolLM2's config.json, sizes shrunk */
#define LLAMA_KEYS                                                                                           \
    "\"architectures\": [\"LlamaForCausalLM\"], \"attention_bias\": false, \"attention_dropout\": 0.0, "     \
    "\"bos_token_id\": 0,"                                                                                   \
    "\"eos_token_id\": 0, \"hidden_act\": \"silu\", \"hidden_size\": 12, \"initializer_range\": 0.04, "      \
    "\"intermediate_size\": 8,"                                                                              \
    "\"is_llama_config\": true, \"max_position_embeddings\": 8192, \"model_type\": \"llama\", "              \
    "\"num_attention_heads\": 3,"                                                                            \
    "\"num_hidden_layers\": 2, \"num_key_value_heads\": 1, \"pretraining_tp\": 1, \"rms_norm_eps\": 1e-05,"  \
    "\"rope_interleaved\": false, \"rope_scaling\": null, \"rope_theta\": 100000, \"torch_dtype\": "         \
    "\"bfloat16\","                                                                                          \
    "\"transformers.js_config\": {\"dtype\": \"q4\"}, \"transformers_version\": \"4.40.1\", \"use_cache\": " \
    "true, \"vocab_size\": 10"

static const fake_llama small = {.layers = 2, .D = 12, .Q = 12, .K = 4, .F = 8, .V = 10};

typedef struct built {
    am_card *card;
    am_hf_model *model;
    am_graph *g;
} built;

static built build(const char *card, const char *config, const fake_llama *shape)
{
    built b = {open_family(card), shape ? fake_llama_model(config, shape) : fake_model(config, NULL, 0),
               new_graph(AM_BF16)};
    expect_ok(am_card_elaborate(b.card, b.model, NULL, b.g));
    return b;
}

static void release(built *b)
{
    am_graph_free(&b->g);
    fake_free(&b->model);
    am_card_free(&b->card);
}

static const am_value *output(built *b, int node)
{
    return am_graph_value_at(b->g, am_graph_node_at(b->g, node)->out[0]);
}

static void expect_dims(const am_value *v, int rank, const char *const *names, const int64_t *sizes,
                        const am_role *roles)
{
    assert_int_equal(v->rank, rank);
    for (int i = 0; i < rank; i++) {
        assert_string_equal(v->dim[i].name, names[i]);
        assert_int_equal(v->dim[i].global, sizes[i]);
        assert_int_equal(v->dim[i].role, roles[i]);
    }
}

static void test_llama__nodes_in_order(void **state)
{
    static const char *const layer[] = {"rmsnorm",   "linear", "linear", "linear",  "rope",   "rope",
                                        "attention", "linear", "add",    "rmsnorm", "linear", "act",
                                        "linear",    "mul",    "linear", "add"};
    built b = build("llama.card", "{" LLAMA_KEYS ", \"tie_word_embeddings\": true}", &small);
    int at = 0;
    assert_string_equal(am_graph_node_at(b.g, at)->def->name, "embed");
    assert_int_equal(am_graph_node_at(b.g, at++)->layer, -1);
    for (int i = 0; i < 2; i++)
        for (size_t k = 0; k < sizeof layer / sizeof *layer; k++) {
            if (strcmp(am_graph_node_at(b.g, at)->def->name, "rope_angles") == 0) {
                assert_int_equal(i, 0); /* one table, made at its first use, of no layer */
                assert_int_equal(am_graph_node_at(b.g, at++)->layer, -1);
            }
            assert_string_equal(am_graph_node_at(b.g, at)->def->name, layer[k]);
            assert_int_equal(am_graph_node_at(b.g, at++)->layer, i);
        }
    assert_string_equal(am_graph_node_at(b.g, at)->def->name, "rmsnorm");
    assert_int_equal(am_graph_node_at(b.g, at++)->layer, 2);
    assert_string_equal(am_graph_node_at(b.g, at)->def->name, "linear");
    assert_int_equal(am_graph_node_at(b.g, at++)->layer, 2);
    assert_int_equal(am_graph_num_nodes(b.g), at);
    assert_int_equal(am_graph_num_layers(b.g), 2);
    assert_int_equal(count_nodes(b.g, "rope_angles"), 1);
    release(&b);
}

static void test_llama__dims_and_attributes(void **state)
{
    built b = build("llama.card", "{" LLAMA_KEYS ", \"tie_word_embeddings\": true}", &small);
    const am_node *n = am_graph_node_at(b.g, nth_node(b.g, "attention", 0));
    const am_value *v;
    assert_true(n->attrs.scale == 0.5); /* d = 4 */
    assert_int_equal(n->attrs.group, 3);
    assert_int_equal(n->attrs.window, 0);
    assert_int_equal(n->num_in, 6);
    assert_string_equal(am_graph_value_at(b.g, n->in[3])->name, "index");
    assert_string_equal(am_graph_value_at(b.g, n->in[4])->name, "index");
    assert_string_equal(am_graph_value_at(b.g, n->in[5])->name, "doc_start");
    expect_dims(am_graph_value_at(b.g, n->in[0]), 3, (const char *[]){"N", "H", "d"}, (int64_t[]){32, 3, 4},
                (am_role[]){AM_ROLE_TOKENS, AM_ROLE_HEADS, AM_ROLE_NONE});
    expect_dims(am_graph_value_at(b.g, n->in[2]), 3, (const char *[]){"N", "K", "d"}, (int64_t[]){32, 1, 4},
                (am_role[]){AM_ROLE_TOKENS, AM_ROLE_KV_HEADS, AM_ROLE_NONE});
    n = am_graph_node_at(b.g, nth_node(b.g, "rmsnorm", 0));
    assert_true(n->attrs.eps == 1e-5 && n->attrs.plus == 0 && n->attrs.weight_f32 == 0);
    n = am_graph_node_at(b.g, nth_node(b.g, "act", 1));
    assert_int_equal(n->attrs.act, AM_ACT_SILU);
    v = am_graph_value_at(
        b.g, n->out[0]); /* called M inside of swiglu, F outside: the definition's name and role count */
    expect_dims(v, 2, (const char *[]){"N", "F"}, (int64_t[]){32, 8},
                (am_role[]){AM_ROLE_TOKENS, AM_ROLE_FFN});
    v = output(&b, am_graph_num_nodes(b.g) - 1);
    expect_dims(v, 2, (const char *[]){"N", "V"}, (int64_t[]){32, 10},
                (am_role[]){AM_ROLE_TOKENS, AM_ROLE_VOCAB});
    n = am_graph_node_at(b.g, nth_node(b.g, "rope_angles", 0));
    assert_true(n->attrs.rope_factor == 1);
    assert_int_equal(am_graph_value_at(b.g, n->in[1])->dim[0].global, 2);
    release(&b);
}

static void test_llama__parameters(void **state)
{
    built b = build("llama.card", "{" LLAMA_KEYS ", \"tie_word_embeddings\": true}", &small);
    const am_param *p = am_graph_param_at(b.g, find_param(b.g, "model.layers.1.self_attn.o_proj.weight"));
    am_str text = {0};
    assert_int_equal(am_graph_num_params(b.g), 2 + 2 * 9);
    assert_int_equal(p->rank, 2);
    assert_int_equal(p->dim[0], 12);
    assert_int_equal(p->dim[1], 12);
    expect_ok(am_str_printf(&text, "%d ", p->layer));
    assert_int_equal(p->layout[1]->kind, AM_LAYOUT_PRODUCT);
    assert_int_equal(p->layout[1]->part[0]->dim.role, AM_ROLE_HEADS);
    assert_string_equal(p->layout[1]->part[0]->dim.name, "H");
    assert_string_equal(p->layout[0]->dim.name, "D");
    assert_int_equal(p->layer, 1);
    assert_int_equal(p->disk.num_tensors, 1);
    assert_string_equal(p->disk.tensor[0], p->name);
    assert_false(p->disk.transpose);
    assert_null(p->disk.copy);
    p = am_graph_param_at(b.g, find_param(b.g, "model.embed_tokens.weight"));
    assert_int_equal(p->uses, 2); /* the tied head */
    assert_int_equal(p->layer, -1);
    assert_int_equal(p->layout[0]->dim.role, AM_ROLE_VOCAB);
    assert_int_equal(am_graph_param_at(b.g, find_param(b.g, "model.norm.weight"))->layer, 2);
    am_str_release(&text);
    release(&b);
}

/* the place of `what` in the card's file */
static void place(const char *file, const char *what, int *line, int *column)
{
    char path[1024];
    const char *root = getenv("AM_SOURCE_DIR");
    char *text = NULL;
    size_t len = 0;
    snprintf(path, sizeof path, "%s/configs/models/%s", root ? root : ".", file);
    expect_ok(am_file_read(path, 1 << 20, &text, &len));
    const char *at = strstr(text, what), *start = text;
    assert_non_null(at);
    *line = 1;
    for (const char *c = text; c < at; c++)
        if (*c == '\n') {
            (*line)++;
            start = c + 1;
        }
    *column = (int)(at - start) + 1;
    am_free(&text);
}

static void test_llama__nodes_keep_their_place(void **state)
{
    built b = build("llama.card", "{" LLAMA_KEYS "}", NULL);
    int line, column;
    place("llama.card", "linear(h, P.q_proj", &line, &column);
    const am_node *n = am_graph_node_at(b.g, nth_node(b.g, "linear", 0));
    assert_int_equal(n->line, line);
    assert_int_equal(n->column, column);
    place("llama.card", "attention(rope(q", &line, &column);
    n = am_graph_node_at(b.g, nth_node(b.g, "attention", 1));
    assert_int_equal(n->line, line);
    assert_int_equal(n->column, column);
    release(&b);
}

/* Llama 3.2's scaling, an own head_dim, biases, an untied head, no files at all. */
static void test_llama__without_files(void **state)
{
    built b = build(
        "llama.card",
        "{\"hidden_size\": 12, \"num_attention_heads\": 4, \"head_dim\": 8, \"num_key_value_heads\": 2, "
        "\"num_hidden_layers\": 3,"
        "\"intermediate_size\": 8, \"vocab_size\": 10, \"tie_word_embeddings\": false, \"attention_bias\": "
        "true, \"mlp_bias\": true,"
        "\"rope_scaling\": {\"factor\": 32.0, \"high_freq_factor\": 4.0, \"low_freq_factor\": 1.0,"
        "\"original_max_position_embeddings\": 8192, \"rope_type\": \"llama3\"}, \"rope_theta\": 500000.0}",
        NULL);
    assert_int_equal(am_graph_num_params(b.g), 3 + 3 * 16);
    assert_true(find_param(b.g, "lm_head.weight") >= 0);
    assert_true(find_param(b.g, "model.layers.2.self_attn.o_proj.bias") >= 0);
    assert_true(find_param(b.g, "model.layers.0.mlp.down_proj.bias") >= 0);
    const am_param *p = am_graph_param_at(b.g, find_param(b.g, "model.layers.0.self_attn.q_proj.weight"));
    assert_int_equal(p->dim[0], 32);
    assert_int_equal(p->dim[1], 12);
    assert_int_equal(am_graph_param_at(b.g, find_param(b.g, "model.layers.0.self_attn.k_proj.bias"))->dim[0],
                     16);
    release(&b);
}

static int64_t window(am_graph *g, int layer)
{
    return am_graph_node_at(g, nth_node(g, "attention", layer))->attrs.window;
}

#define PLAIN                                                                                                \
    "\"hidden_size\": 12, \"num_attention_heads\": 3, \"num_key_value_heads\": 1, \"num_hidden_layers\": 2," \
    "\"intermediate_size\": 8, \"vocab_size\": 10, \"tie_word_embeddings\": true"

static void test_mistral__window(void **state)
{
    static const struct {
        const char *config;
        int64_t window;
    } cases[] = {
        {"{" PLAIN "}", 4096}, /* the class's default */
        {"{" PLAIN ", \"sliding_window\": null}", 0},
        {"{" PLAIN ", \"sliding_window\": 17, \"rope_theta\": 1e6, \"head_dim\": null}", 17},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        built b = build("mistral.card", cases[i].config, &small);
        assert_int_equal(window(b.g, 0), cases[i].window);
        assert_int_equal(window(b.g, 1), cases[i].window);
        release(&b);
    }
}

/* attention_bias of an inherited definition that no function of Mistral's reads is an unread key */
static void test_mistral__dead_definitions_read_nothing(void **state)
{
    am_card *c = open_family("mistral.card");
    am_hf_model *m = fake_llama_model("{" PLAIN ", \"attention_bias\": true}", &small);
    am_graph *g = new_graph(AM_F32);
    expect_error(am_card_elaborate(c, m, NULL, g), AM_ERR_CARD,
                 "fake/config.json: this key is read by nothing in ");
    assert_non_null(strstr(am_error_message(), "attention_bias = true"));
    assert_non_null(strstr(am_error_message(), "model.ignore_config_keys: [attention_bias]"));
    am_graph_free(&g);
    fake_free(&m);
    am_card_free(&c);
}

static void test_qwen2__biases_and_windows(void **state)
{
    fake_llama shape = small;
    shape.qkv_bias = true;
    built b = build("qwen2.card",
                    "{" PLAIN
                    ", \"use_sliding_window\": false, \"sliding_window\": 32768, \"max_window_layers\": 1}",
                    &shape);
    assert_int_equal(am_graph_num_params(b.g), 2 + 2 * 12);
    const am_node *n = am_graph_node_at(b.g, nth_node(b.g, "linear", 1));
    assert_int_equal(n->num_in, 3);
    assert_string_equal(am_graph_value_at(b.g, n->in[2])->name, "model.layers.0.self_attn.k_proj.bias");
    assert_int_equal(am_graph_node_at(b.g, nth_node(b.g, "linear", 3))->num_in, 2); /* o */
    assert_int_equal(window(b.g, 0), 0);
    assert_int_equal(window(b.g, 1), 0);
    release(&b);
    b = build("qwen2.card",
              "{" PLAIN ", \"use_sliding_window\": true, \"sliding_window\": 9, \"max_window_layers\": 1}",
              &shape);
    assert_int_equal(window(b.g, 0), 0);
    assert_int_equal(window(b.g, 1), 9);
    release(&b);
    b = build("qwen2.card",
              "{" PLAIN ", \"use_sliding_window\": true, \"sliding_window\": 9, \"max_window_layers\": 0,"
              "\"layer_types\": [\"sliding_attention\", \"full_attention\"]}",
              &shape);
    assert_int_equal(window(b.g, 0), 9);
    assert_int_equal(window(b.g, 1), 0);
    release(&b);
}

static void test_qwen3__head_norms(void **state)
{
    fake_llama shape = small;
    shape.head_norm = 128;
    shape.Q = 3 * 128;
    shape.K = 128;
    built b =
        build("qwen3.card",
              "{" PLAIN ", \"max_window_layers\": 2, \"use_sliding_window\": false, \"sliding_window\": null,"
              "\"attention_bias\": false}",
              &shape); /* head_dim absent: 128 */
    assert_int_equal(count_nodes(b.g, "rmsnorm"), 2 * 4 + 1);
    const am_node *n =
        am_graph_node_at(b.g, nth_node(b.g, "rmsnorm", 1)); /* q_norm: after q_proj, before rope */
    assert_string_equal(am_graph_value_at(b.g, n->in[1])->name, "model.layers.0.self_attn.q_norm.weight");
    expect_dims(am_graph_value_at(b.g, n->out[0]), 3, (const char *[]){"N", "H", "d"},
                (int64_t[]){32, 3, 128}, (am_role[]){AM_ROLE_TOKENS, AM_ROLE_HEADS, AM_ROLE_NONE});
    const am_node *r = am_graph_node_at(b.g, nth_node(b.g, "rope", 0));
    assert_int_equal(r->in[0], n->out[0]);
    assert_int_equal(am_graph_num_params(b.g), 2 + 2 * 11);
    release(&b);
}

static void test_card__found_by_model_type(void **state)
{
    char dir[1024];
    const char *root = getenv("AM_SOURCE_DIR");
    am_card *c = NULL;
    snprintf(dir, sizeof dir, "%s/configs/models", root ? root : ".");
    expect_ok(am_card_find(dir, "qwen3", &c));
    assert_string_equal(am_card_family(c, 0), "qwen3");
    assert_null(am_card_family(c, 1));
    assert_non_null(strstr(am_card_path(c), "qwen3.card"));
    am_card_free(&c);
    expect_error(am_card_find(dir, "mystery", &c), AM_ERR_CARD,
                 "no card describes model type \"mystery\" (");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_llama__nodes_in_order),
        cmocka_unit_test(test_llama__dims_and_attributes),
        cmocka_unit_test(test_llama__parameters),
        cmocka_unit_test(test_llama__nodes_keep_their_place),
        cmocka_unit_test(test_llama__without_files),
        cmocka_unit_test(test_mistral__window),
        cmocka_unit_test(test_mistral__dead_definitions_read_nothing),
        cmocka_unit_test(test_qwen2__biases_and_windows),
        cmocka_unit_test(test_qwen3__head_norms),
        cmocka_unit_test(test_card__found_by_model_type),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
