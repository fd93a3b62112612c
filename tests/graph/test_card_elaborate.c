/* Elaboration of made-up cards: every refusal with its place, ties, spellings, folding of scalars, views,
 * registered operators, values of other layers. */
#include "card_test.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* One layer-less model around an expression; sizes by config. */
#define CONFIG                                                                                               \
    "config:\n  D = hidden\n  heads H = 3\n  kv_heads K = 3\n  d = 2\n  ffn F = 8\n  vocab V = 5\n  eps = "  \
    "1e-6\n"
#define HIDDEN "{\"hidden\": 6}"

static am_status elaborate(const char *text, const char *config, const fake_tensor *t, size_t n,
                           const am_card_options *o, am_graph **g)
{
    am_status st = AM_OK;
    am_card *c = NULL;
    am_hf_model *m = fake_model(config, t, n);
    *g = new_graph(AM_F32);
    AM_TRY(am_card_parse(text, "t.card", NULL, &c));
    AM_TRY(am_card_elaborate(c, m, o, *g));
done:
    fake_free(&m);
    am_card_free(&c);
    return st;
}

/* "family t", CONFIG (lines 2-9), model (line 10), x = embed (line 11), `line` is line 12 */
static am_status one_line(const char *line, am_graph **g)
{
    am_str text = {0};
    am_status st;
    expect_ok(am_str_printf(&text, "family t\n" CONFIG "model:\n  x = embed(ids, emb : D)\n%s\n", line));
    st = elaborate(text.s, HIDDEN, NULL, 0, NULL, g);
    am_str_release(&text);
    return st;
}

static void test_elaborate__refusals_have_a_place(void **state)
{
    static const char *const cases[][2] = {
        {"  y = linear(x, q : H d)\n  z = linear(x, k : K d)\n  logits = y + z",
         "t.card:14:14: `+` of [N, H=3, d=2] and [N, K=3, d=2]: the dimensions of one must be among those of "
         "the other"},
        {"  logits = x ** 3", "t.card:12:14: a tensor to the power of 3 has no operator"},
        {"  logits = x != x", "t.card:12:14: `!=` of tensors has no operator"},
        {"  logits = act(\"geglu\", x)", "there is no activation \"geglu\"; there are linear, silu, gelu"},
        {"  logits = ids + 1", "arithmetic on integers (ids) has no operator"},
        {"  logits = x * \"a\"", "t.card:12:14: the right side of `*` must be a number, not a string"},
        {"  logits = x if x else x", "t.card:12:17: a tensor cannot be a condition"},
        {"  logits = atention(x, x, x)", "t.card:12:12: there is no function `atention`, neither in this "
                                         "card nor in the language; did you mean "
                                         "`attention`?"},
        {"  logits = topk(x)", "t.card:12:12: `topk` takes 2 operands, not 1"},
        {"  logits = sum[x](x)", "t.card:12:16: in the brackets of sum[…] stand the selected experts of each token"},
        {"  logits = ssd(x)", "t.card:12:12: `ssd` takes 6 operands, not 1"},
        {"  logits = mamba1(x, x, none, x, x, none)", "t.card:12:25: `A` of `mamba1` must be a tensor, not none"},
        {"  logits = ssd(x, x, x, x, x, none)", "t.card:12:12: ssd: x [N,H,p], dt [N,H], B and C [N,G,S] do not fit together"},
        {"  logits = conv(x, w)", "t.card:12:12: conv needs the number of its taps: conv(x, W, k = 4)"},
        {"  logits = conv((x, 2), w, k = 4)", "t.card:12:17: operand 1 of `conv` must be [tokens, features …] or several such"},
        {"  logits = split(x : H + D)", "t.card:12:12: split: the parts have"},
        {"  logits = clamp(x, min = 2, max = 1)", "clamp: nothing lies between 2 and 1"},
        {"  logits = rmsnorm(x, w, eps, groups = 4)", "rmsnorm: 6 features are not 4 equal groups"},
        {"  logits = view(x : H + H)", "t.card:12:12: `view` gives one value; this layout has 2 parts"},
        {"  a, b = linear(x, w : F + F)\n  c = linear(x, w : F F)\n  logits = a", "is used in two ways"},
        {"  a, b = linear(x, w : F + F)\n  c = linear(x, w : 16)\n  logits = a",
         "t.card: the tensor `w.weight` of 96 elements is used in two ways: w.weight"},
        {"  a, b = linear(x, w : F + F)\n  c, e = linear(x, w : F (1 + 1))\n  logits = a",
         "t.card:13:20: `w.weight` is used once with this layout and once with another"},
        {"  y = (x, x)\n  logits = linear(y, w : V)", "t.card:13:19: operand 1 of `linear` is 2 values; it takes one"},
        {"  y = (x, x) + (x, x, x)\n  logits = x", "t.card:12:14: `+` of 2 and of 3 values"},
        {"  y = (x, x)\n  logits = y[2]", "t.card:13:14: index 2 of 2 values"},
        {"  logits = act(\"xielu\", x)", "t.card:12:16: there is no activation \"xielu\"; there are linear, silu"},
        {"  logits = act(3, x)",
         "t.card:12:16: operand 1 of `act` must be the activation's name, not an integer"},
        {"  logits = linear(x, w)", "t.card:12:22: the tensor of `linear` needs its dimensions"},
        {"  logits = linear(x)", "t.card:12:12: `linear` takes 2 operands, not 1"},
        {"  logits = linear(x, w : V, bais = true)",
         "t.card:12:29: `linear` has no option `bais`; did you mean `bias`?"},
        {"  logits = linear(x, w : V, bias = true, bias = true)",
         "t.card:12:42: the option `bias` is given twice"},
        {"  logits = linear(ids, w : V)",
         "t.card:12:19: operand 1 of `linear` holds integers (ids), not features"},
        {"  logits = linear(param(s : D), w : V)",
         "t.card:12:19: operand 1 of `linear` must be [tokens, features …], not [D=6]"},
        {"  logits = linear(3, w : V)",
         "t.card:12:19: operand 1 of `linear` must be a tensor, not an integer"},
        {"  logits = linear(y, w : V)", "t.card:12:19: `y` is neither in fake/config.json nor defined in "
                                        "this card, and linear needs a value"},
        {"  logits = linear(x, x : V)", "t.card:12:22: `x` is a tensor; the name of a tensor belongs here"},
        {"  logits = linear(x, 3 : V)", "t.card:12:22: the name of a tensor belongs here"},
        {"  logits = linear(x, .w : V)",
         "t.card:12:22: `.w`: a leading dot means \"of this layer\", but this is outside of the layers"},
        {"  logits = linear(x, w : H d F)", "logits must be [tokens, vocabulary], not [N, H=3, d=2, F=8]"},
        {"  logits = linear(x, w : H d F 2)", "t.card:12:22: 4 dimensions beside the tokens; 3 are the most"},
        {"  y = x", "t.card:10:1: the model assigns no `logits`"},
        {"  logits = embed(x, w : D)", "t.card:12:18: embed looks up integers: ids or pos, not features"},
        {"  logits = embed(ids, w^T : D)", "t.card:12:23: a table of embeddings cannot be transposed"},
        {"  logits = rmsnorm(x, eps, w)", "t.card:12:28: `w` is neither in fake/config.json"},
        {"  logits = rmsnorm(x, w : F, eps)",
         "t.card:12:23: rmsnorm: the weight's dimensions are not the last ones of [N, D=6]"},
        {"  logits = rope(x, 3)",
         "t.card:12:20: operand 2 of `rope` must be a rope_table or none, not an integer"},
        {"  logits = rope(x, rope_table(8))", "with a width of at least 8, not [N, D=6]"},
        {"  logits = attention(x, x, x)",
         "t.card:12:12: attention takes q [N, H, d], k [N, K, d] and v [N, K, dv], not [N, D=6]"},
        {"  q = linear(x, q : H d)\n  k = linear(x, k : 2 d)\n  logits = attention(q, k, k)",
         "t.card:14:12: attention: 3 query heads cannot be shared out among 2 kv heads"},
        {"  q = linear(x, q : H d)\n  logits = attention(q, q, q, window = 0)",
         "t.card:13:31: the window of attention must be at least 1, not 0"},
        {"  logits = view(x : H F)", "t.card:12:12: a view of 24 features onto [N, D=6]"},
        {"  logits = softcap(x, 0)", "t.card:12:23: the cap of softcap must be above 0"},
        {"  a, b = x\n  logits = a", "t.card:12:3: 2 names for one value (a tensor)"},
        {"  a, b = (x, x, x)\n  logits = a", "t.card:12:3: 2 names for 3 values"},
        {"  logits = x[0]", "t.card:12:14: a tensor is indexed by selected experts"},
        {"  logits = x@3", "t.card:12:12: `x@3`: only earlier layers can be asked"},
        {"  for j < 3 / 2:\n    y = x\n  logits = x",
         "t.card:12:13: this division gives 1.5, but the number of turns of this loop must be whole"},
        {"  logits = f(x)\ndef f(a): return f(a)", "`f` calls itself without end"},
        {"  logits = f(x, x)\ndef f(a): return a", "t.card:12:12: `f` takes 1 operand, not 2"},
        {"  logits = f(a = x)\ndef f(a): return a", "t.card:12:14: functions of a card take plain operands"},
        {"  logits = f(x)\ndef f(name P): return linear(x, P : V)",
         "t.card:12:14: `x` is a tensor; the name of a tensor belongs here"},
        {"  logits = linear(x, w : V)\n  y = linear(x, w : F)",
         "t.card:13:17: w.weight is used with two different shapes"},
        {"  y = linear(x, w : D)\n  logits = linear(x, w^T : D)",
         "or once as it is stored and once transposed (^T)"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        am_graph *g = NULL;
        expect_error(one_line(cases[i][0], &g), AM_ERR_CARD, cases[i][1]);
        am_graph_free(&g);
    }
}

/* ---- keys, requirements
 * ----------------------------------------------------------------------------------------------------- */

#define TINY                                                                                                 \
    "family t\nconfig:\n  D = hidden\n  vocab V = 5\n  require not (strange | false) and mode != \"odd\"\n " \
    " ignore skip_*\n"                                                                                       \
    "model:\n  logits = linear(embed(ids, emb : D), act_of | head : V) if absent_key else "                  \
    "linear(embed(ids, emb : D), head : V)\n"

static void test_elaborate__keys(void **state)
{
    static const char *const cases[][2] = {
        {"{\"hidden\": 6, \"odd_key\": 3, \"other\": [1, 2, 3, 4, 5, 6]}",
         "fake/config.json: these keys are read by nothing in t.card: odd_key = 3, other = [1, 2, 3, 4, …]."},
        {"{\"hidden\": 6, \"odd_key\": null}", "model.ignore_config_keys: [odd_key]"},
        {"{\"hidden\": 6, \"attention_dropout\": 0.1}",
         "fake/config.json: attention_dropout = 0.1, but automodel trains without dropout and noise; to "
         "train without it all the same, say so: "
         "model.ignore_config_keys: [attention_dropout]"},
        {"{\"hidden\": 6, \"strange\": true}", "t.card:5:11: this card is for models with not (strange | "
                                               "false) and mode != \"odd\"; config.json has "
                                               "strange = true"},
        {"{\"hidden\": 6, \"mode\": \"odd\"}", "config.json has mode = \"odd\""},
        {"{\"hidden\": 6, \"rope_theta\": 1e4}",
         "this key is read by nothing in t.card: rope_theta = 10000."},
    };
    am_graph *g = NULL;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        expect_error(elaborate(TINY, cases[i][0], NULL, 0, NULL, &g), AM_ERR_CARD, cases[i][1]);
        am_graph_free(&g);
    }
    /* named in an untaken branch, ignored by the card, harmless, dropout of 0 */
    expect_ok(elaborate(TINY,
                        "{\"hidden\": 6, \"absent_key\": 0, \"skip_this\": 1, \"use_cache\": true, "
                        "\"attention_dropout\": 0.0}",
                        NULL, 0, NULL, &g));
    am_graph_free(&g);
    const char *let[] = {"odd_*", "attention_dropout"};
    am_card_options o = {.ignore_config_keys = let, .num_ignore = 2};
    expect_ok(
        elaborate(TINY, "{\"hidden\": 6, \"odd_key\": 3, \"attention_dropout\": 0.1}", NULL, 0, &o, &g));
    am_graph_free(&g);
}

/* ---- tensors
 * --------------------------------------------------------------------------------------------------------------------
 */

#define TWO                                                                                                  \
    "family t\nignore *.extra.{n}.*  *.e.{n..m}\nconfig:\n  D = 6\n  n = 2\n  m = 4\n  vocab V = "           \
    "5\nmodel:\n"                                                                                            \
    "  x = embed(ids, emb : D)\n  logits = linear(linear(x, up^T : 7), head : V)\n"

static void test_elaborate__tensors(void **state)
{
    const fake_tensor all[] = {{"emb.weight", 2, {5, 6}},  {"up.weight", 2, {6, 7}},
                               {"head.weight", 2, {5, 7}}, {"a.extra.2.b", 1, {3}},
                               {"a.e.2", 1, {3}},          {"a.e.3", 1, {3}},
                               {"a.e.4", 1, {3}},          {"stray", 2, {1, 2}}};
    am_graph *g = NULL;
    expect_ok(elaborate(TWO, "{}", all, 6, NULL, &g));
    const am_param *p = am_graph_param_at(g, find_param(g, "up.weight"));
    assert_true(p->disk.transpose);
    assert_int_equal(p->dim[0], 7); /* [out, in] in the graph */
    assert_int_equal(p->dim[1], 6);
    am_graph_free(&g);
    expect_error(elaborate(TWO, "{}", all, 8, NULL, &g), AM_ERR_CARD,
                 "t.card: 2 tensors of the model are named by nothing in this card: `a.e.4` [3] in fake, "
                 "`stray` [1, 2] in fake.");
    am_graph_free(&g);
    expect_error(
        elaborate(TWO, "{}", all, 2, NULL, &g), AM_ERR_CARD,
        "t.card:10:40: the model in fake has no tensor `head.weight` (expected shape [5, 7] = [V, 7])");
    am_graph_free(&g);
    fake_tensor wrong[3];
    memcpy(wrong, all, sizeof wrong);
    wrong[1].shape[0] = 7, wrong[1].shape[1] = 6;
    expect_error(
        elaborate(TWO, "{}", wrong, 3, NULL, &g), AM_ERR_CARD,
        "t.card:10:29: tensor `up.weight` in fake has the shape [7, 6], the card says [6, 7] = [D, 7]");
    am_graph_free(&g);
    const char *used = "family t\nignore h*\nconfig:\n  vocab V = 5\nmodel: logits = linear(embed(ids, emb : "
                       "7), head : V)\n";
    const fake_tensor few[] = {{"emb.weight", 2, {5, 7}}, {"head.weight", 2, {5, 7}}};
    expect_error(
        elaborate(used, "{}", few, 2, NULL, &g), AM_ERR_CARD,
        "t.card:2:8: `ignore h*` matches the tensor `head.weight`, which the card uses (t.card:5:45)");
    am_graph_free(&g);
}

#define PREFIXED                                                                                             \
    "family t\nspelling \"model.\" \"\" \"m.\"\nconfig:\n  vocab V = 5\nmodel:\n  x = embed(ids, model.emb " \
    ": 6)\n"                                                                                                 \
    "  logits = linear(linear(x, model.up : 6), head : V, bias?)\n"

static void test_elaborate__spelling_and_optional_bias(void **state)
{
    const fake_tensor bare[] = {{"emb.weight", 2, {5, 6}},
                                {"up.weight", 2, {6, 6}},
                                {"head.weight", 2, {5, 6}},
                                {"head.bias", 1, {5}}};
    const fake_tensor own[] = {
        {"model.emb.weight", 2, {5, 6}}, {"model.up.weight", 2, {6, 6}}, {"head.weight", 2, {5, 6}}};
    const fake_tensor two[] = {
        {"model.emb.weight", 2, {5, 6}}, {"m.emb.weight", 2, {5, 6}}, {"head.weight", 2, {5, 6}}};
    const fake_tensor mixed[] = {
        {"emb.weight", 2, {5, 6}}, {"model.up.weight", 2, {6, 6}}, {"head.weight", 2, {5, 6}}};
    am_graph *g = NULL;
    expect_ok(elaborate(PREFIXED, "{}", bare, 4, NULL, &g));
    assert_true(find_param(g, "up.weight") >= 0 && find_param(g, "head.bias") >= 0);
    am_graph_free(&g);
    expect_ok(elaborate(PREFIXED, "{}", own, 3, NULL, &g));
    assert_true(find_param(g, "model.up.weight") >= 0 && find_param(g, "head.bias") < 0);
    am_graph_free(&g);
    expect_error(elaborate(PREFIXED, "{}", two, 3, NULL, &g), AM_ERR_CARD,
                 "t.card:6:18: the model has tensors in two spellings: \"model.…\" and \"m.…\"");
    am_graph_free(&g);
    expect_error(elaborate(PREFIXED, "{}", mixed, 3, NULL, &g), AM_ERR_CARD,
                 "the model in fake has no tensor `up.weight`");
    am_graph_free(&g);
}

/* ---- ties
 * ------------------------------------------------------------------------------------------------------------------------
 */

#define TIED "family t\nconfig:\n  vocab V = 5\nmodel: logits = linear(embed(ids, emb : 6), head | emb : V)\n"

static void test_elaborate__ties_without_contents(void **state)
{
    const fake_tensor both[] = {{"emb.weight", 2, {5, 6}}, {"head.weight", 2, {5, 6}}};
    am_graph *g = NULL;
    expect_ok(elaborate(TIED, "{\"tie_word_embeddings\": true}", both, 1, NULL, &g)); /* no head: tied */
    assert_int_equal(am_graph_num_params(g), 1);
    assert_int_equal(am_graph_param_at(g, 0)->uses, 2);
    am_graph_free(&g);
    expect_ok(elaborate(TIED, "{}", both + 1, 1, NULL, &g)); /* no embedding: the head is both */
    assert_string_equal(am_graph_param_at(g, 0)->name, "head.weight");
    assert_int_equal(am_graph_param_at(g, 0)->uses, 2);
    am_graph_free(&g);
    expect_ok(elaborate(TIED, "{\"tie_word_embeddings\": false}", both, 2, NULL, &g));
    assert_int_equal(am_graph_num_params(g), 2);
    am_graph_free(&g);
    expect_error(elaborate(TIED, "{\"tie_word_embeddings\": false}", both, 1, NULL, &g), AM_ERR_CARD,
                 "t.card:4:50: the model has no tensor `head.weight`, though tie_word_embeddings is false in "
                 "fake/config.json");
    am_graph_free(&g);
    expect_ok(elaborate(TIED, "{\"tie_word_embeddings\": true}", NULL, 0, NULL,
                        &g)); /* no files: the key decides */
    assert_int_equal(am_graph_num_params(g), 1);
    am_graph_free(&g);
    expect_ok(elaborate(TIED, "{\"tie_word_embeddings\": false}", NULL, 0, NULL, &g));
    assert_int_equal(am_graph_num_params(g), 2);
    am_graph_free(&g);
}

/* Both tensors there and the key true: the contents decide. */
static void tie_by_contents(float last, int params, bool copy)
{
    char dir[] = "/tmp/am-card-XXXXXX", path[64];
    float data[60];
    char header[512] = "";
    size_t n;
    assert_non_null(mkdtemp(dir));
    for (int i = 0; i < 60; i++) data[i] = (float)(i % 30);
    data[59] = last;
    snprintf(header + 8, sizeof header - 8,
             "{\"emb.weight\":{\"dtype\":\"F32\",\"shape\":[5,6],\"data_offsets\":[0,120]},"
             "\"head.weight\":{\"dtype\":\"F32\",\"shape\":[5,6],\"data_offsets\":[120,240]}}");
    n = strlen(header + 8);
    memcpy(header, &n, 8);
    am_str file = {0};
    expect_ok(am_str_append(&file, header, n + 8));
    expect_ok(am_str_append(&file, (char *)data, sizeof data));
    snprintf(path, sizeof path, "%s/model.safetensors", dir);
    expect_ok(am_file_write_atomic(path, file.s, file.len));
    snprintf(path, sizeof path, "%s/config.json", dir);
    expect_ok(am_file_write_atomic(path, "{\"tie_word_embeddings\": true}", 29));
    am_hf_model *m = NULL;
    am_card *c = NULL;
    am_graph *g = new_graph(AM_F32);
    expect_ok(am_hf_model_open(dir, AM_HF_WEIGHTS_REQUIRED, &m));
    expect_ok(am_card_parse(TIED, "t.card", NULL, &c));
    expect_ok(am_card_elaborate(c, m, NULL, g));
    assert_int_equal(am_graph_num_params(g), params);
    const am_param *p = am_graph_param_at(g, find_param(g, "emb.weight"));
    if (copy)
        assert_string_equal(p->disk.copy, "head.weight");
    else
        assert_null(p->disk.copy);
    am_graph_free(&g);
    am_card_free(&c);
    am_hf_model_free(&m);
    am_str_release(&file);
    unlink(path);
    snprintf(path, sizeof path, "%s/model.safetensors", dir);
    unlink(path);
    rmdir(dir);
}

static void test_elaborate__ties_by_contents(void **state)
{
    tie_by_contents(29, 1, true);     /* equal: one parameter, stored twice */
    tie_by_contents(29.5f, 2, false); /* one element differs: not tied */
}

/* ---- what comes out
 * ------------------------------------------------------------------------------------------------------------------
 */

static void test_elaborate__scalars_fold(void **state)
{
    am_graph *g = NULL;
    expect_ok(
        one_line("  logits = 2 * x * (D / 3) / 8 * sqrt(4) * 1", &g)); /* 2·2/8·2 = 1: nothing is left */
    assert_int_equal(count_nodes(g, "scale"), 0);
    am_graph_free(&g);
    expect_ok(one_line("  logits = x * D ** -0.5 * x * 4 - x", &g));
    assert_int_equal(count_nodes(g, "scale"), 1); /* one factor */
    assert_int_equal(count_nodes(g, "mul"), 1);
    assert_int_equal(count_nodes(g, "pair"), 1); /* the difference */
    const am_node *n = am_graph_node_at(g, nth_node(g, "scale", 0));
    assert_true(n->attrs.scale > 1.6329 && n->attrs.scale < 1.6330); /* 4 / √6 */
    assert_true(am_graph_node_at(g, nth_node(g, "pair", 0))->attrs.pair == AM_PAIR_SUB);
    am_graph_free(&g);
    expect_ok(one_line("  logits = x + (0 if D > 3 else 1) + 0 * 3", &g));
    assert_int_equal(am_graph_num_nodes(g), 1);
    am_graph_free(&g);
}

static void test_elaborate__norms_views_caps(void **state)
{
    am_graph *g = NULL;
    expect_ok(one_line("  y = rmsnorm(view(x : H d), w : H d, eps, plus = 1)\n  z = rmsnorm(y, 1e-5)\n  "
                       "logits = softcap(linear(z, h : V), 30)",
                       &g));
    const am_node *n = am_graph_node_at(g, nth_node(g, "rmsnorm", 0));
    assert_true(n->attrs.plus == 1 && n->attrs.weight_f32 == 1 && n->attrs.eps == 1e-6);
    const am_value *v = am_graph_value_at(g, n->in[0]); /* over both dims at once, cut at whole heads */
    assert_int_equal(v->rank, 2);
    assert_int_equal(v->dim[1].global, 6);
    assert_int_equal(v->dim[1].granule, 2);
    assert_int_equal(v->dim[1].role, AM_ROLE_HEADS);
    n = am_graph_node_at(g, nth_node(g, "rmsnorm", 1));
    assert_int_equal(n->num_in, 1);
    assert_int_equal(am_graph_value_at(g, n->in[0])->rank, 3);
    assert_true(am_graph_node_at(g, nth_node(g, "softcap", 0))->attrs.softcap == 30);
    am_graph_free(&g);
    expect_ok(one_line("  logits = softcap(rope(x, none), absent)", &g)); /* options that are off */
    assert_int_equal(am_graph_num_nodes(g), 1);
    am_graph_free(&g);
}

static void test_elaborate__tables_and_positions(void **state)
{
    am_graph *g = NULL;
    expect_ok(
        one_line("  q = linear(x, q : H d)\n  a = rope(q, rope_table(2), pairs = true)\n  b = rope(a, "
                 "rope_table(2, theta = 1e4))\n"
                 "  c = rope(b, rope_table(2, theta = 1e4)) \n  e = rope(linear(x, e : K D), rope_table(6))\n"
                 "  logits = view(c : D) + embed(pos, p : D, 7 * 3)",
                 &g));
    assert_int_equal(count_nodes(g, "rope_angles"), 2); /* equal tables are one */
    assert_int_equal(am_graph_node_at(g, nth_node(g, "rope", 0))->attrs.pairs, 1);
    assert_int_equal(am_graph_node_at(g, nth_node(g, "rope", 1))->attrs.pairs, 0);
    const am_param *p = am_graph_param_at(g, find_param(g, "p.weight"));
    assert_int_equal(p->dim[0], 21);
    am_graph_free(&g);
}

static void test_elaborate__values_of_other_layers(void **state)
{
    const char *text =
        "family t\nconfig:\n  D = 6\n  vocab V = 5\n  src = 0\n  shared = i >= 2\nmodel:\n  x = embed(ids, "
        "emb : D)\n"
        "  for i < 3 at layers.{i}:\n    k = k@src if shared else linear(x, .k : D)\n    x = x + k\n"
        "  logits = linear(x, head : V)\n";
    am_graph *g = NULL;
    expect_ok(elaborate(text, "{}", NULL, 0, NULL, &g));
    assert_int_equal(count_nodes(g, "linear"), 3);
    const am_node *first = am_graph_node_at(g, nth_node(g, "linear", 0)),
                  *last = am_graph_node_at(g, nth_node(g, "add", 2));
    assert_int_equal(last->in[1], first->out[0]);
    assert_int_equal(last->layer, 2);
    am_graph_free(&g);
}

static void test_elaborate__shared_weights_and_loops(void **state)
{
    const char *text = "family t\nconfig:\n  vocab V = 5\nmodel:\n  x = embed(ids, emb : 6)\n  for c < 2:\n  "
                       "  for l < 3 at s.{l}:\n"
                       "      x = x + linear(x, .w : 6) if l > 0 else x\n  logits = linear(x, head : V)\n";
    am_graph *g = NULL;
    expect_ok(elaborate(text, "{}", NULL, 0, NULL, &g));
    assert_int_equal(am_graph_num_params(g), 4);
    assert_int_equal(am_graph_param_at(g, find_param(g, "s.2.w.weight"))->uses, 2);
    assert_int_equal(am_graph_num_layers(g), 6); /* every turn of a loop over names is a layer */
    am_graph_free(&g);
}

/* ---- registered operators
 * ----------------------------------------------------------------------------------------------------------------
 */

static am_status infer_twice(am_graph *g, am_node *n)
{
    am_value x = *am_graph_value_at(g, n->in[0]);
    n->num_out = 1;
    return am_graph_value(g, "twice", x.dtype, x.rank, x.dim, &n->out[0]);
}

static void test_elaborate__registered_operator(void **state)
{
    static const am_op_def op = {.name = "twice", .infer = infer_twice};
    const char *text = "family t\nconfig:\n  vocab V = 5\nmodel: logits = twice(embed(ids, emb : 5), none, "
                       "param(g : 5), scale = 1.5, window = 3, pairs = true)\n";
    am_graph *g = new_graph(AM_F32);
    am_card *c = NULL;
    am_hf_model *m = fake_model("{}", NULL, 0);
    expect_ok(am_graph_register_op(g, &op));
    expect_ok(am_card_parse(text, "t.card", NULL, &c));
    expect_ok(am_card_elaborate(c, m, NULL, g));
    const am_node *n = am_graph_node_at(g, nth_node(g, "twice", 0));
    assert_int_equal(n->num_in, 3);
    assert_int_equal(n->in[1], -1);
    assert_true(n->attrs.scale == 1.5 && n->attrs.window == 3 && n->attrs.pairs == 1);
    assert_int_equal(n->column, 17);
    am_card_free(&c);
    am_graph_free(&g);
    g = new_graph(AM_F32); /* not registered in this graph */
    expect_ok(am_card_parse(text, "t.card", NULL, &c));
    expect_error(am_card_elaborate(c, m, NULL, g), AM_ERR_CARD, "t.card:4:17: there is no function `twice`");
    am_card_free(&c);
    fake_free(&m);
    am_graph_free(&g);
    expect_error(one_line("  logits = embed_dw(x, ids)", &g), AM_ERR_CARD,
                 "there is no function `embed_dw`"); /* inner to the passes */
    am_graph_free(&g);
    expect_error(one_line("  logits = act_mul(x, x, fact = 1)", &g), AM_ERR_CARD,
                 "t.card:12:26: operators have no attribute `fact`; did you mean `act`?");
    am_graph_free(&g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_elaborate__refusals_have_a_place),
        cmocka_unit_test(test_elaborate__keys),
        cmocka_unit_test(test_elaborate__tensors),
        cmocka_unit_test(test_elaborate__spelling_and_optional_bias),
        cmocka_unit_test(test_elaborate__ties_without_contents),
        cmocka_unit_test(test_elaborate__ties_by_contents),
        cmocka_unit_test(test_elaborate__scalars_fold),
        cmocka_unit_test(test_elaborate__norms_views_caps),
        cmocka_unit_test(test_elaborate__tables_and_positions),
        cmocka_unit_test(test_elaborate__values_of_other_layers),
        cmocka_unit_test(test_elaborate__shared_weights_and_loops),
        cmocka_unit_test(test_elaborate__registered_operator),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
