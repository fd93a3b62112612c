/* The words of card_light, card_norm and card_arith in made-up cards: gradients of whole programs in fp64 against central
 * differences, which know nothing of their rows; islands of fp32 in a bf16 program; what is refused. */
#include "program_test.h"

#include "graph/card.h"

#include <math.h>
#include <string.h>
#include <unistd.h>

static am_comm *comm;
static const char config_json[] =
    "{\"model_type\": \"made_up\", \"hidden_size\": 24, \"num_hidden_layers\": 2, \"num_attention_heads\": 4,"
    " \"head_dim\": 8, \"intermediate_size\": 16, \"vocab_size\": 61, \"tie_word_embeddings\": true}";

#define CARD(body)                                                                                           \
    "family made_up\n"                                                                                       \
    "config:\n"                                                                                              \
    "  L = num_hidden_layers\n"                                                                              \
    "  D = hidden_size\n"                                                                                    \
    "  heads H = num_attention_heads\n"                                                                      \
    "  d = head_dim\n"                                                                                       \
    "  ffn F = intermediate_size\n"                                                                          \
    "  vocab V = vocab_size\n"                                                                               \
    "  ignore num_attention_heads head_dim intermediate_size\n"                                              \
    "model:\n"                                                                                               \
    "  x = embed(ids, model.embed_tokens : D)\n"                                                             \
    "  for i < L at model.layers.{i}:\n" body "  logits = linear(x, lm_head | model.embed_tokens : V)\n"

/* LayerNorm in all its forms; groups; RMS norms in groups */
static const char norms_card[] = CARD("    h = linear(layernorm(x, .n1, 1e-5), .a : H d)\n"
                                      "    h = layernorm(h, .n2 : H d, 1e-3, bias = false, groups = H) * 0.5\n"
                                      "    h = layernorm(h, .n3, 1e-3, plus = 1) + layernorm(h, 1e-3)\n"
                                      "    h = layernorm(h, .n4 : H d, 1e-3, groups = 2)\n"
                                      "    h = rmsnorm(h, .n5 : H d, 1e-3, groups = 2) + rmsnorm(h, .n6 : H d, 1e-3, groups = H)\n"
                                      "    x = x + linear(h, .o : D)\n");

/* operands that lack dimensions, trained and computed; numbers on either side; quotients */
static const char arith_card[] =
    CARD("    h = linear(x, .a : H d)\n"
         "    g = linear(x, .g : H)\n"
         "    s = param(.s : H)\n"
         "    h = h * s * param(.m : H d) + h * g - param(.b : d)\n"
         "    h = h / (g * g + 2) + (1 - h) * 0.3 - 1 / (h * h + 1.5) + g\n"
         "    h = param(.one) * h + (s * param(.t : H) + 2) ** 2 * h\n"
         "    p = log1p(floor((pos + 1) / 3)) * 0.1 + 1\n"
         "    h = h * p / (param(.q : H d) ** 2 + 1) + param(.z : H d) / (h * h + 1)\n"
         "    x = x + linear(h, .o : D) * param(.scale : D)\n");

/* functions of one number, and what is chosen by a comparison */
static const char maps_card[] =
    CARD("    h = linear(x, .a : F)\n"
         "    g = linear(x, .b : F)\n"
         "    a = exp(-abs(h)) + log(h * h + 1) + sqrt(g * g + 0.5) + rsqrt(h ** 2 + 1)\n"
         "    a = a + softplus(h * 4) + square(g) + clamp(h, min = -0.3, max = 0.2) + max(g, 0.1) + min(h, 0.3)\n"
         "    a = a + expm1(h * 0.3) + (h ** 2 + 1) ** 0.5 + (g ** 2 + 1) ** -1 + log1p(square(h))\n"
         "    c = where(h > g, h, g * 2) + where(h < 0.1, 0.5, h) + where(g >= 0, g, -1) * (h <= g)\n"
         "    c = c + where(g > 0, linear(x, .c : F), param(.d : F))\n"
         "    c = c + xielu(h * 2, .act) + quick_gelu(h) + act(\"mish\", g) + act(\"laplace\", h) + relu6(g * 9 + 0.1)\n"
         "    x = x + linear(a * c * 0.1, .o : D) + act(\"leaky_relu\", linear(x, .e : D))\n");

/* learned and sinusoidal positions */
static const char positions_card[] = CARD("    x = x + embed(pos, .p : D, 64, offset = 3) + sinusoid(pos : D, offset = 2, span = D / 2 - 1)\n"
                                          "    x = x + linear(x * sinusoid(pos : D), .o : D)\n");

/* softmax, sums and the largest over the last dimension; cat with one head for all; split */
static const char rows_card[] =
    CARD("    w = softmax(linear(x, .a : H d) * 3)\n"
         "    w = w / (sum(w * w) + 0.1) + max(w) + w * softmax(sum(w * w))\n"
         "    k = cat(w, linear(x, .k : 1 3), linear(x, .l : H 2))\n"
         "    a, b, c = split(k : d + 2 + 3)\n"
         "    h = flatten(cat(c, a)) * 0.5\n"
         "    h = h + flatten(cat(split(k : 3 + 10)[0], a))\n"
         "    x = x + linear(h, .o : D) + linear(cat(x, x * 2), .p : D)\n");

/* what lies behind detach alone is not trained, nor is a buffer */
static const char detach_card[] = CARD("    x = x + linear(x, .a : D) + detach(linear(x, .b : D)) * param(.s : D, buffer = true)\n");

/* fp32 inside of bf16: values of either meet, a product and a norm of fp32 values, weights that are widened */
static const char islands_card[] = CARD("    h = linear(layernorm(x, .n, 1e-5), .a : H d)\n"
                                        "    w = softmax(linear(f32(h), .g : F)) * f32(param(.s : F))\n"
                                        "    p = log1p(floor((pos + 1) / 3)) * 0.1 + 1\n"
                                        "    h = low(h * p + layernorm(f32(h), .m, 1e-3))\n"
                                        "    x = x + linear(h, .o : D) + linear(low(w / sum(w)), .p : D)\n");

static void check(const char *card)
{
    pt_shape s = pt_default_shape();
    am_program_options o = am_program_defaults(AM_PROGRAM_VERIFY);
    s.card = card;
    s.config = config_json;
    pt_check_gradients(&s, &o, comm, 4);
    o.recompute = AM_RECOMPUTE_SELECTIVE;
    pt_check_gradients(&s, &o, comm, 2);
    o.recompute = AM_RECOMPUTE_FULL;
    o.split_w = o.gpipe = true;
    o.micro_batches = 2;
    pt_check_gradients(&s, &o, comm, 2);
}

static void test_light__norms(void **state)
{
    check(norms_card);
}
static void test_light__arithmetic(void **state)
{
    check(arith_card);
}
static void test_light__functions(void **state)
{
    check(maps_card);
}
static void test_light__rows(void **state)
{
    check(rows_card);
}

static void test_light__positions(void **state)
{
    check(positions_card);
}

static void test_light__detach(void **state)
{
    pt_shape s = pt_default_shape();
    am_program_options o = am_program_defaults(AM_PROGRAM_VERIFY);
    pt_run r;
    s.card = detach_card;
    s.config = config_json;
    pt_create(&r, &s, AM_F64, &o, 1, "cpu", comm, NULL);
    pt_step(&r, 0, 0, 0, 0);
    int before = 0;
    for (int p = 0; p < am_graph_num_params(r.program[0]->graph); p++) {
        const am_param *param = am_graph_param_at(r.program[0]->graph, p);
        const bool reached = !strstr(param->name, ".s") && !strstr(param->name, ".b.weight");
        int64_t n;
        if (reached != param->trainable) fail_msg("%s: trained %d", param->name, param->trainable);
        if (!reached) continue;
        double *grad = pt_gather_grad(&r, 0, p, &n), sum = 0;
        for (int64_t i = 0; i < n; i++) sum += fabs(grad[i]);
        before += strstr(param->name, ".a.weight") && sum > 0;
        free(grad);
    }
    assert_int_equal(before, 2);
    pt_free(&r);
}

/* one step in bf16 and in fp64: the losses agree to bf16's rounding, the gradients in their direction */
static void test_light__islands(void **state)
{
    pt_shape s = pt_default_shape();
    am_program_options o = am_program_defaults(AM_PROGRAM_VERIFY);
    const am_dtype dtype[2] = {AM_F64, AM_BF16};
    double loss[2], *grad[2][64];
    int64_t n[64];
    int params = 0;
    s.card = islands_card;
    s.config = config_json;
    for (int k = 0; k < 2; k++) {
        pt_run r;
        pt_create(&r, &s, dtype[k], &o, 1, "cpu", comm, NULL);
        loss[k] = pt_step(&r, 0, 0, 0, 0);
        params = am_graph_num_params(r.program[0]->graph);
        for (int p = 0; p < params; p++) grad[k][p] = pt_gather_grad(&r, 0, p, &n[p]);
        pt_free(&r);
    }
    assert_true(fabs(loss[1] - loss[0]) < 0.01 * loss[0]);
    for (int p = 0; p < params; p++) {
        double ab = 0, aa = 0, bb = 0;
        for (int64_t i = 0; i < n[p]; i++) {
            ab += grad[0][p][i] * grad[1][p][i];
            aa += grad[0][p][i] * grad[0][p][i];
            bb += grad[1][p][i] * grad[1][p][i];
        }
        if (!(ab > 0.995 * sqrt(aa * bb))) fail_msg("parameter %d: the gradients' cosine is %.4f", p, ab / sqrt(aa * bb));
        free(grad[0][p]);
        free(grad[1][p]);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_light__norms),
        cmocka_unit_test(test_light__arithmetic),
        cmocka_unit_test(test_light__functions),
        cmocka_unit_test(test_light__rows),
        cmocka_unit_test(test_light__positions),
        cmocka_unit_test(test_light__detach),
        cmocka_unit_test(test_light__islands),
    };
    am_comm_options options = {.max_requests = 512};
    if (am_comm_create("self", &options, &comm) != AM_OK) return 1;
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    if (am_comm_free(&comm) != AM_OK) return 1;
    return failed;
}
