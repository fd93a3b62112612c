/* Recurrences with a memory in whole programs: made-up cards with gated_delta, lightning, rg_lru over a
 * block-diagonal gate, wkv and shift.  Gradients against central differences in fp64, with recompute,
 * accumulation, W apart. */
#include "program_test.h"

#include "graph/card.h"

#include <string.h>
#include <unistd.h>

static am_comm *comm;
static const char config_json[] = "{\"model_type\": \"made_up\", \"hidden_size\": 16, \"num_hidden_layers\": "
                                  "2, \"vocab_size\": 61, \"heads\": 4, "
                                  "\"groups\": 2, \"head_dim\": 3, \"tie_word_embeddings\": false}";

#define CARD(body)                                                                                           \
    "family made_up\n"                                                                                       \
    "config:\n"                                                                                              \
    "  L = num_hidden_layers\n"                                                                              \
    "  D = hidden_size\n"                                                                                    \
    "  vocab V = vocab_size\n"                                                                               \
    "  heads H = heads\n"                                                                                    \
    "  kv_heads K = groups\n"                                                                                \
    "  G = H / K\n"                                                                                          \
    "  d = head_dim\n"                                                                                       \
    "  e = 5\n"                                                                                              \
    "  ignore heads groups head_dim\n"                                                                       \
    "model:\n"                                                                                               \
    "  x = embed(ids, model.embed : D)\n"                                                                    \
    "  for i < L at model.layers.{i}:\n"                                                                     \
    "    x = x + mix(rmsnorm(x, .norm, 1e-5), .mix)\n"                                                       \
    "  logits = linear(rmsnorm(x, model.norm, 1e-5), head : V)\n" body

/* value heads in groups, as v's dims or as one; without the norm; eigenvalues below 0 */
static const char delta_card[] = CARD(
    "def mix(h, name P):\n"
    "  q, k, v = linear(h, P.in : K (d + d + G e))\n"
    "  s, a = linear(h, P.ba : K (G + G))\n"
    "  g = -exp(param(P.A : K G)) * softplus(a + param(P.dt : K G))\n"
    "  o = gated_delta(q, k, v, g, sigmoid(s) * 2)\n"
    "  k2 = linear(h, P.k2 : H d) * 0.3\n"
    "  b = sigmoid(linear(h, P.b2 : H))\n"
    "  p = gated_delta(linear(h, P.q2 : H d), k2, linear(h, P.v2 : H e), b * -0.2, b, eps = 0, scale = 0.7)\n"
    "  return linear(o, P.out : D) + linear(p, P.out2 : D)\n");
static const char lightning_card[] =
    CARD("def mix(h, name P):\n"
         "  q, k, v = silu(linear(h, P.in : H (e + e + e)))\n"
         "  return linear(lightning(q, k, v, slopes = [0.1 * (j + 1) for j < H]), P.out : D)\n");
static const char lru_card[] =
    CARD("def mix(h, name P):\n"
         "  x = linear(h, P.in : H d)\n"
         "  r = sigmoid(linear(x, P.gate[H]^T : d, bias = P.gate_bias[H]))\n"
         "  l = r * softplus(param(P.decay : H d)) * -1\n"
         "  return linear(rg_lru(x * sigmoid(linear(x, P.input[H] : d)), l), P.out : D)\n");
static const char wkv_card[] =
    CARD("def mix(h, name P):\n"
         "  s = shift(h)\n"
         "  k = linear(h * param(P.mix : D) + s * (1 - param(P.mix : D)), P.k : H d)\n"
         "  y = wkv(k, linear(s, P.v : H d), -exp(f32(param(P.decay : H d))), f32(param(P.first : H d)))\n"
         "  return linear(y, P.out : D)\n");

static void check_variants(const char *card)
{
    pt_shape s = pt_default_shape();
    am_program_options o = am_program_defaults(AM_PROGRAM_VERIFY);
    s.card = card;
    s.config = config_json;
    pt_check_gradients(&s, &o, comm, 3);
    o.recompute = AM_RECOMPUTE_FULL;
    pt_check_gradients(&s, &o, comm, 3);
    o.recompute = AM_RECOMPUTE_SELECTIVE;
    o.micro_batches = 2;
    o.gpipe = o.split_w = true;
    pt_check_gradients(&s, &o, comm, 3);
}

static void test_delta__gated_delta(void **state)
{
    check_variants(delta_card);
}
static void test_delta__lightning(void **state)
{
    check_variants(lightning_card);
}
static void test_delta__rg_lru(void **state)
{
    check_variants(lru_card);
}
static void test_delta__wkv(void **state)
{
    check_variants(wkv_card);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_delta__gated_delta),
        cmocka_unit_test(test_delta__lightning),
        cmocka_unit_test(test_delta__rg_lru),
        cmocka_unit_test(test_delta__wkv),
    };
    am_comm_options options = {.max_requests = 512};
    if (am_comm_create("self", &options, &comm) != AM_OK) return 1;
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    if (am_comm_free(&comm) != AM_OK) return 1;
    return failed;
}
