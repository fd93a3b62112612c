/* Definitions over config.json: values per layer, arithmetic, the sentences where a value does not suit, and
 * rope tables against transformers 5.23 (inv_freq of LlamaRotaryEmbedding, printed as doubles). */
#include "card_test.h"

#include "graph/card_internal.h"

#include <math.h>
#include <string.h>

/* Evaluate definition `name` of a card with these config lines, with `i` bound to `layer` (layer < 0:
 * unbound). */
static am_status eval(const char *lines, const char *config, const char *name, int layer, am_dtype compute,
                      card_val *out, am_str *shown)
{
    am_status st = AM_OK;
    am_card *card = NULL;
    am_hf_model *model = fake_model(config, NULL, 0);
    am_graph *g = new_graph(compute);
    card_elab e = {0};
    card_loop l;
    am_str text = {0};
    AM_TRY(am_str_printf(&text, "family t\nconfig:\n%s\nmodel:\n  logits = ids\n", lines));
    AM_TRY(am_card_parse(text.s, "t.card", NULL, &card));
    AM_TRY(card_elab_open(&e, card, model, NULL, g));
    if (layer >= 0) card_bind_loop(&e, &l, "i", layer);
    AM_TRY(card_eval_def(&e, card_find_def(card, name), out));
    if (shown) AM_TRY(card_describe(out, shown));
done:
    card_elab_close(&e);
    am_str_release(&text);
    am_graph_free(&g);
    fake_free(&model);
    am_card_free(&card);
    return st;
}

static const char *const config_json =
    "{\"hidden_size\": 576, \"num_attention_heads\": 9, \"n_inner\": null, \"flag\": true, \"types\": "
    "[\"a\", \"b\", \"a\", \"b\"],"
    "\"heads\": [8, 4, 2, 1], \"map\": {\"x\": {\"y\": 3}, \"7\": \"seven\"}, \"pattern\": \"M*-M\", "
    "\"real\": 8.0, \"third\": 0.1,"
    "\"inf\": {\"__float__\": \"Infinity\"}, \"afn\": \"silu\", \"empty\": []}";

static void test_config__values(void **state)
{
    static const struct {
        const char *expr;
        int layer;
        const char *want;
    } cases[] = {
        {"hidden_size / num_attention_heads", -1, "64"},
        {"hidden_size // 10 + 7 % 4 - 2 ** 5", -1, "28"},
        {"-7 // 2", -1, "-4"},
        {"(0 - 7) % 3", -1, "2"},
        {"n_inner | 4 * hidden_size", -1, "2304"},
        {"absent | n_inner | 5", -1, "5"},
        {"1 if flag and not absent else 2", -1, "1"},
        {"1 if absent", -1, "none"},
        {"types[i] == \"b\"", 1, "true"},
        {"heads[i]", 2, "2"},
        {"map.x.y + map.x.z | 1", -1, NULL},
        {"map.x.y", -1, "3"},
        {"map.x.z | 9", -1, "9"},
        {"map[7]", -1, "\"seven\""},
        {"{\"M\": 1, \"*\": 2}[pattern[i]]", 1, "2"},
        {"{\"M\": 1}[\"q\"] | 4", -1, "4"},
        {"[j * 2 for j < len(pattern)]", -1, "[0, 2, 4, 6]"},
        {"[j for j < 4 if types[j] == \"b\"]", -1, "[1, 3]"},
        {"[\"f\" if (i + 1) % 2 == 0 else \"s\" for i < 3]", 2, "[\"s\", \"f\", \"s\"]"},
        {"i in [1, 3]", 3, "true"},
        {"not \"x\" in map", -1, "false"},
        {"last(types, \"a\", 2)", -1, "0"},
        {"index(types, \"b\")", -1, "1"},
        {"min(3, 2.5) + max(1, 2)", -1, "4.5"},
        {"sum(heads)", -1, "15"},
        {"roundup(1000, 256)", -1, "1024"},
        {"int(7 / 2) + floor(0.5) + ceil(2.1)", -1, "6"},
        {"sqrt(16) + log(exp(1)) + abs(-2)", -1, "7"},
        {"given(n_inner)", -1, "true"},
        {"given(nothing) or given(map.x.q)", -1, "false"},
        {"afn == \"silu\" and afn != \"gelu\"", -1, "true"},
        {"absent == none and n_inner == none", -1, "true"},
        {"flag != false", -1, "true"},
        {"1 == 1.0", -1, "true"},
        {"empty | 3", -1, "[]"},
        {"1 if empty else 2", -1, "2"},
        {"inf > 1e300", -1, "true"},
        {"2 ** -1", -1, "0.5"},
        {"heads == [8, 4, 2, 1]", -1, "true"},
    };
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
        char line[256];
        card_val v;
        am_str text = {0};
        snprintf(line, sizeof line, "  it = %s", cases[k].expr);
        am_status st = eval(line, config_json, "it", cases[k].layer, AM_F32, &v, &text);
        if (!cases[k].want) {
            expect_error(st, AM_ERR_CARD, "`map.x.z` is null or has no such part");
        } else {
            expect_ok(st);
            if (strcmp(text.s, cases[k].want) != 0)
                fail_msg("%s gave %s, not %s", cases[k].expr, text.s, cases[k].want);
        }
        am_str_release(&text);
    }
}

static void test_config__a_definition_at_another_layer(void **state)
{
    card_val v;
    expect_ok(eval("  n = heads[i] * 10\n  it = n[3] + n[0] + n", config_json, "it", 1, AM_F32, &v, NULL));
    assert_int_equal(v.i, 10 + 80 + 40);
}

/* low(x) rounds to the compute type: sqrt(576) is exact, sqrt(640) = 25.298… is 25.25 in bf16. */
static void test_config__low(void **state)
{
    card_val v;
    expect_ok(eval("  it = low(sqrt(640))", "{}", "it", -1, AM_BF16, &v, NULL));
    assert_true(v.r == 25.25);
    expect_ok(eval("  it = low(sqrt(640))", "{}", "it", -1, AM_F64, &v, NULL));
    assert_true(v.r == sqrt(640.0));
}

static void test_config__refusals(void **state)
{
    static const char *const cases[][2] = {
        {"  it = hidden_sise / 2", "t.card:3:8: `hidden_sise` is neither in fake/config.json nor defined in "
                                   "this card, and the left side of "
                                   "`/` needs a value; did you mean `hidden_size`?"},
        {"  it = n_inner * 2", "t.card:3:16: the left side of `*` needs a value, but `n_inner` is null"},
        {"  it = 2 * afn", "t.card:3:10: the right side of `*` must be a number, not a string"},
        {"  it = flag + 1", "t.card:3:13: the left side of `+` must be a number, not true or false"},
        {"  it = 3 / 0", "t.card:3:10: division by zero"},
        {"  it = 9223372036854775807 + 1", "t.card:3:28: `+` leaves 64 bits"},
        {"  it = 10 ** 40", "t.card:3:11: `**` leaves 64 bits"},
        {"  it = heads[9]", "t.card:3:14: index 9 of a list of 4"},
        {"  it = heads[0 - 1]", "t.card:3:16: the index must be at least 0, not -1"},
        {"  it = hidden_size[0]", "t.card:3:8: an integer cannot be indexed"},
        {"  it = afn.x", "t.card:3:8: `afn` is a string and has no part `x`"},
        {"  it = 1 in 2", "t.card:3:10: `in` looks into a list or a map, not into an integer"},
        {"  it = sqrt(0 - 1)", "t.card:3:8: sqrt of -1"},
        {"  it = len(3)", "t.card:3:8: len of an integer"},
        {"  it = last(types, \"q\", 4)", "t.card:3:8: last: \"q\" is not in the list"},
        {"  it = min()", "t.card:3:8: `min` takes 1 to 16 operands, not 0"},
        {"  it = len(types, 1)", "t.card:3:8: `len` takes 1 operand, not 2"},
        {"  it = given(3)", "t.card:3:14: given asks for a key"},
        {"  it = roundup(hidden_size / 7, 2)",
         "t.card:3:28: this division gives 82.28571429, but roundup's number must be whole"},
        {"  it = linear(types, afn : 3)",
         "t.card:3:8: `linear` works on tensors and cannot be used in a definition"},
        {"  it = .attn", "t.card:3:8: `.attn`: a leading dot"},
        {"  it = heads^T", "t.card:3:8: ^T belongs to the tensor name"},
        {"  it = [1 for j < 2000000]", "t.card:3:19: a list of 2000000 elements"},
        {"  a = heads[i]\n  it = a + 1", "t.card:3:13: `i` is neither in fake/config.json"},
    };
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
        card_val v;
        expect_error(eval(cases[k][0], config_json, "it", -1, AM_F32, &v, NULL), AM_ERR_CARD, cases[k][1]);
    }
}

/* ---- rope
 * -----------------------------------------------------------------------------------------------------------------
 */

static void expect_scaled(const char *lines, const char *config, const char *name, int n, const double *want,
                          double factor)
{
    am_card *card = NULL;
    am_hf_model *model = fake_model(config, NULL, 0);
    am_graph *g = new_graph(AM_F32);
    card_elab e;
    card_val v;
    am_str text = {0};
    expect_ok(am_str_printf(&text, "family t\nconfig:\n%s\nmodel:\n  logits = ids\n", lines));
    expect_ok(am_card_parse(text.s, "t.card", NULL, &card));
    expect_ok(card_elab_open(&e, card, model, NULL, g));
    expect_ok(card_eval_def(&e, card_find_def(card, name), &v));
    assert_int_equal(v.kind, CARD_V_ROPE);
    assert_int_equal(v.rope->num, n);
    for (int k = 0; k < n;
         k++) /* at most one unit in the last place of fp32: torch's vectorised pow may differ by that */
        if (fabs(v.rope->inv_freq[k] - want[k]) > 1.2e-7 * want[k])
            fail_msg("inv_freq[%d] = %.17g, transformers has %.17g", k, v.rope->inv_freq[k], want[k]);
    if (fabs(v.rope->factor - factor) > 1e-12)
        fail_msg("cos and sin are multiplied by %.17g, in transformers by %.17g", v.rope->factor, factor);
    card_elab_close(&e);
    am_str_release(&text);
    am_graph_free(&g);
    fake_free(&model);
    am_card_free(&card);
}

static void expect_table(const char *lines, const char *config, const char *name, int n, const double *want)
{
    expect_scaled(lines, config, name, n, want, 1);
}

static const double theta_1e4[] = {1.0,
                                   0.3162277638912201,
                                   0.10000000149011612,
                                   0.03162277862429619,
                                   0.009999999776482582,
                                   0.003162277862429619,
                                   0.0010000000474974513,
                                   0.0003162277862429619};
static const double theta_1e5[] = {1.0,
                                   0.23713736236095428,
                                   0.05623412877321243,
                                   0.01333521492779255,
                                   0.003162277862429619,
                                   0.0007498941849917173,
                                   0.00017782794020604342,
                                   4.216965317027643e-05};
static const double linear_3[] = {0.3333333432674408,    0.10540925711393356,  0.03333333507180214,
                                  0.010540925897657871,  0.003333333181217313, 0.0010540926596149802,
                                  0.0003333333588670939, 0.0001054092645063065};
static const double llama3_8[] = {1.0,
                                  0.663601279258728,
                                  0.44036662578582764,
                                  0.2922278344631195,
                                  0.193922758102417,
                                  0.12868738174438477,
                                  0.08539710193872452,
                                  0.05666961893439293,
                                  0.03760603070259094,
                                  0.02495540864765644,
                                  0.016560440883040428,
                                  0.010989529080688953,
                                  0.00729266507551074,
                                  0.00483942124992609,
                                  0.0032114461064338684,
                                  0.0013718936825171113,
                                  0.0005248460220173001,
                                  0.0001785077911335975,
                                  7.784655463183299e-05,
                                  5.165906986803748e-05,
                                  3.428102354519069e-05,
                                  2.2748929040972143e-05,
                                  1.5096217794052791e-05,
                                  1.0017868589784484e-05,
                                  6.647869668086059e-06,
                                  4.411534519022098e-06,
                                  2.927499735960737e-06,
                                  1.9426925064180978e-06,
                                  1.289173155782919e-06,
                                  8.554969213037111e-07,
                                  5.677088097399974e-07,
                                  3.76732259610435e-07};

static void test_rope__tables_of_transformers(void **state)
{
    const char *plain = "  R = rope_table(16, theta = 10000)";
    expect_table(plain, "{}", "R", 8, theta_1e4);
    expect_table(plain, "{\"rope_theta\": 100000, \"rope_scaling\": null}", "R", 8, theta_1e5);
    expect_table(plain, "{\"rope_parameters\": {\"rope_theta\": 1e5, \"rope_type\": \"default\"}}", "R", 8,
                 theta_1e5);
    expect_table(plain,
                 "{\"rope_theta\": 10000.0, \"rope_scaling\": {\"type\": \"linear\", \"factor\": 3.0}}", "R",
                 8, linear_3);
    expect_table(plain,
                 "{\"rope_parameters\": {\"rope_theta\": 1e4, \"rope_type\": \"linear\", \"factor\": 3}}",
                 "R", 8, linear_3);
    const char *wide = "  R = rope_table(64, theta = 10000)";
    expect_table(wide,
                 "{\"rope_theta\": 500000.0, \"max_position_embeddings\": 131072, \"rope_scaling\": "
                 "{\"factor\": 8.0, \"low_freq_factor\": "
                 "1.0, \"high_freq_factor\": 4.0, \"original_max_position_embeddings\": 8192, \"rope_type\": "
                 "\"llama3\"}}",
                 "R", 32, llama3_8);
    expect_table(wide,
                 "{\"rope_parameters\": {\"rope_theta\": 500000.0, \"factor\": 8.0, \"low_freq_factor\": "
                 "1.0, \"high_freq_factor\": 4.0, "
                 "\"original_max_position_embeddings\": 9, \"rope_type\": \"llama3\"}, "
                 "\"original_max_position_embeddings\": 8192}",
                 "R", 32, llama3_8); /* the key at the top wins */
}

/* transformers 5.23's ROPE_INIT_FUNCTIONS for a head of 16; inv_freq and the factor of cos and sin. */
static void test_rope__stretched_tables_of_transformers(void **state)
{
    const char *plain = "  R = rope_table(16, theta = 10000)";
    static const double yarn[] = {1.0,           0.237170815,    0.049999997,    0.00790569466,
                                  0.00249999994, 0.000790569466, 0.000250000012, 7.90569466e-05};
    static const double yarn_own[] = {1.0,            0.147514939,    0.00944145862,  0.00166690187,
                                      0.000395284733, 9.37367731e-05, 2.22284925e-05, 5.27120665e-06};
    static const double brief[] = {1.0,           0.287479758,   0.0833333358,   0.0243252143,
                                   0.00714285718, 0.00210818532, 0.000624999986, 0.000186016332};
    static const double lengthy[] = {0.5,           0.126491114,    0.0333333351,   0.00903507881,
                                     0.00249999994, 0.000702728401, 0.000199999995, 5.74959558e-05};
    static const double part[] = {0.5, 0.0889139697, 0, 0, 0, 0, 0, 0};
    expect_scaled(plain,
                  "{\"rope_scaling\": {\"type\": \"yarn\", \"factor\": 4, \"original_max_position_embeddings\": 64}}",
                  "R", 8, yarn, 1.138629436111989);
    expect_scaled(plain,
                  "{\"rope_parameters\": {\"rope_type\": \"yarn\", \"rope_theta\": 1e5, \"factor\": 8.0, \"beta_fast\": 8.0, "
                  "\"original_max_position_embeddings\": 64, \"beta_slow\": 0.5, \"mscale\": 1.0, \"mscale_all_dim\": 0.5, "
                  "\"truncate\": false}}",
                  "R", 8, yarn_own, 1.094179988101349);
    expect_table(plain, "{\"max_position_embeddings\": 128, \"rope_scaling\": {\"type\": \"dynamic\", \"factor\": 4.0}}",
                 "R", 8, theta_1e4);
    const char *lists = "\"short_factor\": [1, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7], "
                        "\"long_factor\": [2, 2.5, 3, 3.5, 4, 4.5, 5, 5.5]";
    static const struct {
        const char *type;
        int original; /* the graph's rows are longer than 4 and shorter than 32 */
        const double *want;
        double factor;
    } longrope[] = {{"longrope", 32, brief, 1.1832159566199232}, {"su", 4, lengthy, 1.8708286933869707}};
    for (size_t i = 0; i < 2; i++) {
        am_str config = {0};
        expect_ok(am_str_printf(&config,
                                "{\"max_position_embeddings\": 128, \"original_max_position_embeddings\": %d, "
                                "\"rope_scaling\": {\"type\": \"%s\", %s}}",
                                longrope[i].original, longrope[i].type, lists));
        expect_scaled(plain, config.s, "R", 8, longrope[i].want, longrope[i].factor);
        am_str_release(&config);
    }
    expect_table(plain,
                 "{\"rope_parameters\": {\"rope_type\": \"proportional\", \"rope_theta\": 1e6, "
                 "\"partial_rotary_factor\": 0.25, \"factor\": 2.0}}",
                 "R", 8, part);
}

static void test_rope__partial_kinds_and_base(void **state)
{
    const char *half = "  R = rope_table(32, partial = 0.5)";
    expect_table(half, "{}", "R", 8, theta_1e4);
    expect_table("  R = rope_table(64)", "{\"partial_rotary_factor\": 0.25}", "R", 8, theta_1e4);
    const char *kinds = "  R = rope_table(16, kind = \"b\", theta = 7)";
    expect_table(kinds,
                 "{\"rope_parameters\": {\"a\": {\"rope_theta\": 5}, \"b\": {\"rope_theta\": 1e5, "
                 "\"rope_type\": \"default\"}}}",
                 "R", 8, theta_1e5);
    expect_table(kinds, "{\"rope_theta\": 1e5}", "R", 8, theta_1e5);
    const char *base = "  R = rope_table(16, theta = 7, base = 10000)";
    expect_table(base, "{\"rope_theta\": 5, \"rope_scaling\": {\"type\": \"linear\", \"factor\": 3.0}}", "R",
                 8, theta_1e4);
}

static void test_rope__refusals(void **state)
{
    static const char *const cases[][2] = {
        {"{\"rope_scaling\": {\"rope_type\": \"ntk\", \"factor\": 4}}",
         "t.card:3:7: rope_scaling.rope_type = \"ntk\" of fake/config.json: rope tables are made for "
         "default, linear, dynamic, llama3, yarn, longrope and proportional"},
        {"{\"rope_scaling\": {\"rope_type\": \"yarn\", \"factor\": 4}}",
         "rope_scaling.rope_type = \"yarn\" needs rope_scaling.original_max_position_embeddings"},
        {"{\"max_position_embeddings\": 4, \"rope_scaling\": {\"type\": \"dynamic\", \"factor\": 4}}",
         "rope_scaling.type = \"dynamic\": beyond max_position_embeddings = 4 every length of text has frequencies"},
        {"{\"max_position_embeddings\": 4, \"rope_parameters\": {\"rope_type\": \"longrope\", \"long_factor\": [1, 2]}}",
         "rope_parameters.long_factor of fake/config.json must be a list of 8 numbers, one for each pair"},
        {"{\"rope_scaling\": {\"type\": \"linear\"}}",
         "rope_scaling.type = \"linear\" needs the number rope_scaling.factor"},
        {"{\"rope_scaling\": {\"type\": \"linear\", \"factor\": 0}}",
         "rope_scaling.factor of fake/config.json must be above 0"},
        {"{\"rope_scaling\": {\"type\": \"linear\", \"factor\": 2, \"mscale\": 1}}",
         "the key rope_scaling.mscale of fake/config.json is read by nothing for rope type \"linear\""},
        {"{\"rope_scaling\": \"linear\"}",
         "`rope_scaling` of fake/config.json must be a map or null, not a string"},
        {"{\"rope_parameters\": {\"full\": {\"rope_theta\": 5}}}",
         "holds a map for each kind of layer (`full`, …), but this card gives no kind"},
        {"{\"partial_rotary_factor\": 0.2}",
         "rope turns pairs: 3 of 16 features (partial_rotary_factor 0.2)"},
        {"{\"rope_theta\": \"x\"}", "rope_theta of fake/config.json must be a number, not a string"},
        {"{\"rope_theta\": -1}", "rope's theta must be above 0"},
        {"{\"rope_scaling\": {\"rope_type\": \"llama3\", \"factor\": 2, \"low_freq_factor\": 1, "
         "\"high_freq_factor\": 4}}",
         "needs rope_scaling.original_max_position_embeddings"},
    };
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
        card_val v;
        expect_error(eval("  R = rope_table(16)", cases[k][0], "R", -1, AM_F32, &v, NULL), AM_ERR_CARD,
                     cases[k][1]);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_config__values),
        cmocka_unit_test(test_config__a_definition_at_another_layer),
        cmocka_unit_test(test_config__low),
        cmocka_unit_test(test_config__refusals),
        cmocka_unit_test(test_rope__tables_of_transformers),
        cmocka_unit_test(test_rope__stretched_tables_of_transformers),
        cmocka_unit_test(test_rope__partial_kinds_and_base),
        cmocka_unit_test(test_rope__refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
