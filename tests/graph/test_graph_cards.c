/* Made-up cards, which no family has: the text alone, no line of src, gives programs whose gradients agree
 * with central differences in fp64.  Wirings: parallel residual with a value used four times, sandwich norms,
 * two kinds of layers that take turns (a window and another feed-forward), scaled residuals; tensors read in parts. */
#include "program_test.h"

#include "graph/card.h"

#include <string.h>
#include <unistd.h>

static am_comm *comm;
static const char config_json[] =
    "{\"model_type\": \"made_up\", \"hidden_size\": 24, \"num_hidden_layers\": 4, \"num_attention_heads\": "
    "9, \"num_key_value_heads\": 3,"
    " \"head_dim\": 8, \"intermediate_size\": 40, \"vocab_size\": 61, \"tie_word_embeddings\": true}";

#define CONFIG_BLOCK                                                                                         \
    "family made_up\n"                                                                                       \
    "config:\n"                                                                                              \
    "  L = num_hidden_layers\n"                                                                              \
    "  D = hidden_size\n"                                                                                    \
    "  heads H = num_attention_heads\n"                                                                      \
    "  kv_heads K = num_key_value_heads\n"                                                                   \
    "  d = head_dim\n"                                                                                       \
    "  ffn F = intermediate_size\n"                                                                          \
    "  vocab V = vocab_size\n"                                                                               \
    "  W = 4 if i % 2 == 1\n"                                                                                \
    "  M = F / 2 if i % 2 == 1 else F\n"                                                                     \
    "  R = rope_table(d, theta = 10000)\n"
#define DEFINITIONS                                                                                          \
    "def norm(x, name P): return rmsnorm(x, P, 1e-5)\n"                                                      \
    "def mlp(h, name P):\n"                                                                                  \
    "  return linear(act(\"gelu_tanh\", linear(h, P.gate : M)) * linear(h, P.up : M), P.down : D)\n"         \
    "def attn(h, name P):\n"                                                                                 \
    "  q = linear(h, P.q : H d, bias = true)\n"                                                              \
    "  k = linear(h, P.k : K d)\n"                                                                           \
    "  v = linear(h, P.v : K d)\n"                                                                           \
    "  return linear(attention(rope(q, R), rope(k, R), v, window = W), P.o : D)\n"

static const char parallel_card[] =
    CONFIG_BLOCK "model:\n"
                 "  x = embed(ids, model.embed_tokens : D)\n"
                 "  for i < L at model.layers.{i}:\n"
                 "    h = norm(x, .norm)\n"
                 "    x = x + attn(h, .attn) + mlp(h, .mlp)\n"
                 "  logits = linear(norm(x, model.norm), lm_head | model.embed_tokens : V)\n" DEFINITIONS;

static const char sandwich_card[] =
    CONFIG_BLOCK "model:\n"
                 "  x = embed(ids, model.embed_tokens : D) * 1.5\n"
                 "  for i < L at model.layers.{i}:\n"
                 "    x = x + norm(attn(norm(x, .n1), .attn), .n2) * 0.7\n"
                 "    x = x + norm(mlp(norm(x, .n3), .mlp), .n4)\n"
                 "  logits = linear(norm(x, model.norm), lm_head | model.embed_tokens : V)\n" DEFINITIONS;

/* Parts of fused tensors in every kind of layout, with biases; operators over several values; a table of a part for each
 * layer; blocks that are used in several turns of loops without tensors of their own; values of another layer. */
static const char parts_card[] =
    CONFIG_BLOCK "  G = H / K\n"
                 "  p = 3\n"
                 "model:\n"
                 "  x = embed(ids, model.embed_tokens : D)\n"
                 "  y = (embed(ids, model.tables : [L] p) + linear(x, model.project : [L] p) * 2) * 0.5\n"
                 "  for i < L at model.layers.{i}:\n"
                 "    q, k0, v = linear(norm(x, .norm), .qkv : K (G d + d + d), bias = true)\n"
                 "    k = k@0 if i == 2 else rope(k0, R)\n"
                 "    a = attention(rope(view(q : H d), R), k, v, window = W)\n"
                 "    g, u = halves(x, .up) if i == 1 else linear(x, .up^T : M (1 + 1), bias = true)\n"
                 "    h = linear(silu(g) * u, .down^T : D) + linear(y[i], .table : D)\n"
                 "    x = x + (linear(a, .o : D) + h)\n"
                 "  for c < 2:\n"
                 "    for l < 2:\n"
                 "      x = stack(x, model.inner)\n"
                 "  logits = linear(norm(x, model.norm), lm_head | model.embed_tokens : V, bias = true)\n"
                 "def norm(x, name P): return rmsnorm(x, P, 1e-5)\n"
                 "def halves(x, name P): return linear(x, P : M + M)\n"
                 "def stack(x, name P):\n"
                 "  for i < 2 at P.{i}:\n"
                 "    a, b, c = norm(linear(norm(x, .norm), .w : H d + H d + H d), .n)\n"
                 "    a, b = (a, -b) - (b * 0.5, c)\n"
                 "    x = x + linear(a * b, .o : D)\n"
                 "  return x\n";

static void check(const char *card, am_recompute recompute)
{
    pt_shape s = pt_default_shape();
    am_program_options o = am_program_defaults(AM_PROGRAM_VERIFY);
    am_graph *g = NULL;
    s.card = card;
    s.config = config_json;
    o.recompute = recompute;
    g = pt_graph(&s, AM_F64);
    assert_true(am_graph_num_params(g) >= 2 + 4 * 9);
    am_graph_free(&g);
    pt_check_gradients(&s, &o, comm, 2);
}

static void test_cards__parallel_residual(void **state)
{
    check(parallel_card, AM_RECOMPUTE_NONE);
    check(parallel_card, AM_RECOMPUTE_FULL);
    check(parallel_card, AM_RECOMPUTE_SELECTIVE);
}

static void test_cards__sandwich_norms(void **state)
{
    check(sandwich_card, false);
    check(sandwich_card, true);
}

static void test_cards__parts_of_fused_tensors(void **state)
{
    check(parts_card, AM_RECOMPUTE_NONE);
    check(parts_card, AM_RECOMPUTE_FULL);
    check(parts_card, AM_RECOMPUTE_SELECTIVE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cards__parallel_residual),
        cmocka_unit_test(test_cards__sandwich_norms),
        cmocka_unit_test(test_cards__parts_of_fused_tensors),
    };
    am_comm_options options = {.max_requests = 512};
    if (am_comm_create("self", &options, &comm) != AM_OK) return 1;
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    if (am_comm_free(&comm) != AM_OK) return 1;
    return failed;
}
