/* Cards that read one tensor as several parameters and several tensors as one: names, shapes, disk views, how patterns of a
 * recipe see them; text models inside of others. */
#include "card_test.h"

#include "graph/card_internal.h"
#include "graph/disk.h"
#include "graph/program.h"

#include <string.h>

static const char *const head = "family t\n"
                                "ignore model.unused.{L..4}.*\n"
                                "config:\n"
                                "  L = 2\n"
                                "  D = 6\n"
                                "  heads H = 4\n"
                                "  kv_heads K = 2\n"
                                "  G = 2\n"
                                "  d = 2\n"
                                "  ffn F = 5\n"
                                "  vocab V = 9\n"
                                "  experts E = 3\n"
                                "model:\n"
                                "  x = embed(ids, model.embed : D)\n";

typedef struct built {
    am_card *card;
    am_hf_model *model;
    am_graph *g;
} built;

static am_status build(built *b, const char *config, const char *body, const fake_tensor *t, size_t n,
                       const am_card_options *o)
{
    am_status st = AM_OK;
    char text[4096];
    snprintf(text, sizeof text, "%s%s", head, body);
    *b = (built){.model = fake_model(config, t, n), .g = new_graph(AM_F32)};
    AM_TRY(am_card_parse(text, "t.card", NULL, &b->card));
    AM_TRY(am_card_elaborate(b->card, b->model, o, b->g));
done:
    return st;
}

static void release(built *b)
{
    am_card_free(&b->card);
    fake_free(&b->model);
    am_graph_free(&b->g);
}

static const am_param *param(const built *b, const char *name)
{
    int i = find_param(b->g, name);
    if (i < 0) fail_msg("there is no parameter %s", name);
    return am_graph_param_at(b->g, i);
}

/* Element i of the parameter is element want[i] of tensor i / each. */
static void check_map(const am_param *p, const int *want, int n)
{
    am_disk_map m;
    expect_ok(am_disk_map_open(p, &m));
    assert_int_equal(am_param_elements(p), n);
    for (int i = 0; i < n; i++) assert_int_equal(am_disk_map_element(&m, i), want[i]);
    am_disk_map_close(&m);
}

/* numpy: arange(48).reshape(16, 3)… of a matrix [K (G d + d + d), D] with D = 1, and biases alike */
static void test_parts__names_shapes_and_views(void **state)
{
    built b;
    static const fake_tensor t[] = {
        {"model.embed.weight", 2, {9, 6, 0}}, {"qkv.weight", 2, {16, 6, 0}}, {"qkv.bias", 1, {16, 0, 0}},
        {"up.weight", 2, {6, 10, 0}},         {"head.weight", 2, {9, 5, 0}},
    };
    expect_ok(build(&b, "{}",
                    "  q, k, v = linear(x, qkv : K (G d + d + d), bias = true)\n"
                    "  g, u = linear(x, up^T : F (1 + 1))\n"
                    "  logits = linear(g * u, head : V)\n",
                    t, 5, NULL));
    const am_param *q = param(&b, "qkv.weight#0"), *k = param(&b, "qkv.weight#1"), *u = param(&b, "up.weight#1");
    assert_true(q->rank == 2 && q->dim[0] == 8 && q->dim[1] == 6 && k->dim[0] == 4);
    assert_string_equal(am_param_disk_name(q), "qkv.weight");
    assert_true(q->disk.part == 0 && k->disk.part == 1 && u->disk.transpose && u->disk.whole->size == 10);
    check_map(param(&b, "qkv.bias#0"), (int[]){0, 1, 2, 3, 8, 9, 10, 11}, 8);
    check_map(param(&b, "qkv.bias#1"), (int[]){4, 5, 12, 13}, 4);
    check_map(param(&b, "qkv.bias#2"), (int[]){6, 7, 14, 15}, 4);
    /* arange(60).reshape(6, 10).T[1::2].flatten() */
    int want[30];
    for (int i = 0; i < 30; i++) want[i] = i % 6 * 10 + 2 * (i / 6) + 1;
    check_map(u, want, 30);
    int node = nth_node(b.g, "linear", 0);
    assert_int_equal(am_graph_node_at(b.g, node)->num_in, 3);
    assert_int_equal(count_nodes(b.g, "linear"), 6);
    assert_int_equal(am_param_matches(q, "qkv.*"), 1);
    assert_int_equal(am_param_matches(q, "*#0"), 0);
    release(&b);
}

static void test_parts__a_value_for_each_layer(void **state)
{
    built b;
    static const fake_tensor t[] = {{"model.embed.weight", 2, {9, 6, 0}}, {"tables.weight", 2, {9, 10, 0}},
                                    {"head.weight", 2, {9, 5, 0}}};
    expect_ok(build(&b, "{}",
                    "  y = embed(ids, tables : [L] F)\n"
                    "  logits = linear(y[0] + y[1] * 2, head : V) + linear(x, model.embed : V) * 0\n",
                    t, 3, NULL));
    const am_param *second = param(&b, "tables.weight#1");
    int want[45];
    for (int i = 0; i < 45; i++) want[i] = i / 5 * 10 + 5 + i % 5; /* arange(90).reshape(9, 10)[:, 5:] */
    check_map(second, want, 45);
    release(&b);
}

static const fake_tensor experts[] = {
    {"model.embed.weight", 2, {9, 6, 0}},  {"e.0.up.weight", 2, {10, 6, 0}}, {"e.1.up.weight", 2, {10, 6, 0}},
    {"e.2.up.weight", 2, {10, 6, 0}},      {"all", 3, {3, 6, 10}},           {"all_bias", 2, {3, 10, 0}},
    {"norms.0.weight", 1, {2, 0, 0}},      {"norms.1.weight", 1, {2, 0, 0}}, {"norms.2.weight", 1, {2, 0, 0}},
    {"norms.3.weight", 1, {2, 0, 0}},      {"q.weight", 2, {8, 6, 0}},       {"head.weight", 2, {9, 8, 0}},
};

/* The parameters alone: what card_weights gives to the builder of a linear layer of experts. */
static void test_parts__stacked_over_experts(void **state)
{
    built b = {0};
    card_elab e;
    const card_part *part = NULL;
    const am_layout *axes[2];
    int num = 0;
    char text[2048];
    snprintf(text, sizeof text, "%s  logits = x\n", head);
    expect_ok(am_card_parse(text, "t.card", NULL, &b.card));
    b.model = fake_model("{}", experts, sizeof experts / sizeof *experts);
    b.g = new_graph(AM_F32);
    expect_ok(card_elab_open(&e, b.card, b.model, NULL, b.g));
    am_dim D = am_dim_number(6), F = am_dim_number(5);
    const am_layout *pair[2], *f = NULL, *d = NULL;
    am_layout sum = {.kind = AM_LAYOUT_SUM, .num_parts = 2, .part = pair, .size = 10}, product = {.kind = AM_LAYOUT_PRODUCT};
    expect_ok(card_layout_of_dims(&e, &F, 1, &f));
    expect_ok(card_layout_of_dims(&e, &D, 1, &d));
    pair[0] = pair[1] = f;
    axes[0] = &sum;
    axes[1] = d;
    card_name many = {.text = "e.{E}.up", .stacked = "E", .many = true, .axis = am_dim_make("E", AM_ROLE_EXPERTS, 3)};
    expect_ok(card_weights(&e, &many, ".weight", (card_pos){"t", 1, 1}, 2, axes, 0, &part, &num));
    assert_int_equal(num, 2);
    const am_param *p = param(&b, "e.0.up.weight#1");
    assert_true(p->rank == 3 && p->dim[0] == 3 && p->dim[1] == 5 && p->dim[2] == 6 && p->disk.num_tensors == 3);
    assert_string_equal(p->disk.tensor[2], "e.2.up.weight");
    int want[90];
    for (int i = 0; i < 90; i++) want[i] = i % 30 + 30; /* rows 5 to 9 of each */
    check_map(p, want, 90);
    assert_int_equal(am_param_matches(p, "e.1.*"), 1);
    assert_int_equal(am_param_matches(p, "e.*"), 3);
    /* interleaved, transposed, in one tensor: arange(180).reshape(3, 6, 10)[:, :, 1::2].transpose(0, 2, 1) */
    am_dim one = am_dim_number(1);
    const am_layout *ones[2], *leaf = NULL, *outer[2];
    expect_ok(card_layout_of_dims(&e, &one, 1, &leaf));
    ones[0] = ones[1] = leaf;
    am_layout inner = {.kind = AM_LAYOUT_SUM, .num_parts = 2, .part = ones, .size = 2};
    outer[0] = f;
    outer[1] = &inner;
    product = (am_layout){.kind = AM_LAYOUT_PRODUCT, .num_parts = 2, .part = outer, .size = 10};
    axes[0] = &product;
    card_name stacked = {.text = "all", .stacked = "E", .transpose = true, .axis = many.axis};
    expect_ok(card_weights(&e, &stacked, "", (card_pos){"t", 1, 1}, 2, axes, 0, &part, &num));
    for (int i = 0; i < 90; i++) want[i] = i / 30 * 60 + i % 6 * 10 + 2 * (i / 6 % 5) + 1;
    check_map(param(&b, "all#1"), want, 90);
    stacked = (card_name){.text = "all_bias", .stacked = "E", .axis = many.axis};
    expect_ok(card_weights(&e, &stacked, "", (card_pos){"t", 1, 1}, 1, axes, 0, &part, &num));
    p = param(&b, "all_bias#0");
    assert_true(p->rank == 2 && p->dim[0] == 3 && p->dim[1] == 5);
    check_map(p, (int[]){0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28}, 15);
    card_elab_close(&e);
    release(&b);
}

/* The norm's weight [H d] from a tensor [d] for every head. */
static void test_parts__a_tensor_for_each_head(void **state)
{
    built b;
    static const fake_tensor t[] = {
        {"model.embed.weight", 2, {9, 6, 0}}, {"norms.0.weight", 1, {2, 0, 0}}, {"norms.1.weight", 1, {2, 0, 0}},
        {"norms.2.weight", 1, {2, 0, 0}},     {"norms.3.weight", 1, {2, 0, 0}}, {"q.weight", 2, {8, 6, 0}},
        {"head.weight", 2, {9, 8, 0}},
    };
    expect_ok(build(&b, "{}", "  logits = linear(rmsnorm(linear(x, q : H d), norms.{H} : H d, 1e-5), head : V)\n", t, 7, NULL));
    const am_param *p = param(&b, "norms.0.weight");
    assert_true(p->rank == 1 && p->dim[0] == 8 && p->disk.num_tensors == 4);
    check_map(p, (int[]){0, 1, 0, 1, 0, 1, 0, 1}, 8);
    release(&b);
}

static void test_parts__shapes_on_disk_are_checked(void **state)
{
    built b;
    fake_tensor t[] = {{"model.embed.weight", 2, {9, 6, 0}}, {"up.weight", 2, {10, 6, 0}}, {"head.weight", 2, {9, 5, 0}}};
    const char *body = "  g, u = linear(x, up^T : F + F)\n  logits = linear(g * u, head : V)\n";
    expect_error(build(&b, "{}", body, t, 3, NULL), AM_ERR_CARD,
                 "t.card:15:20: tensor `up.weight` in fake has the shape [10, 6], the card says [6, 10] = [D, F + F]");
    release(&b);
}

/* A pattern that would freeze some experts of one parameter is refused; one that names a fused tensor freezes its parts. */
static void test_parts__frozen_by_the_name_on_disk(void **state)
{
    built b;
    const char *const fused[] = {"qkv.*"}, *const some[] = {"norms.2.*"};
    am_program_options o = am_program_defaults(AM_PROGRAM_TRAIN);
    am_program *p = NULL;
    o.freeze = fused;
    o.num_freeze = 1;
    expect_ok(build(&b, "{}", "  q, k = linear(x, qkv : F + F)\n  logits = linear(q + k, head : V)\n", NULL, 0, NULL));
    expect_ok(am_program_compile(&b.g, &o, &p));
    int frozen = 0;
    for (int i = 0; i < am_graph_num_params(p->graph); i++) frozen += !am_graph_param_at(p->graph, i)->trainable;
    assert_int_equal(frozen, 2);
    am_program_free(&p);
    release(&b);
    o.freeze = some;
    expect_ok(build(&b, "{}", "  logits = linear(rmsnorm(linear(x, q : H d), norms.{H} : H d, 1e-5), head : V)\n", NULL, 0, NULL));
    expect_error(am_program_compile(&b.g, &o, &p), AM_ERR_CONFIG,
                 "\"norms.2.*\" matches 1 of the 4 tensors from norms.0.weight on, which are one parameter");
    am_program_free(&p);
    release(&b);
}

/* The same card for a model that stands alone and inside of others. */
static void test_parts__text_models_inside_of_others(void **state)
{
    static const char *const prefix[][2] = {{"model.", ""}, {"model.language_model.", ""}, {"language_model.model.", "language_model."},
                                            {"model.text_model.", ""}, {"language_model.", ""}};
    for (size_t i = 0; i < sizeof prefix / sizeof *prefix; i++) {
        built b;
        char embed[64], other[64] = "vision.patch.weight", top[64], unused[64];
        am_str carried = {0};
        am_card_options o = {.carried = &carried};
        snprintf(embed, sizeof embed, "%sembed.weight", prefix[i][0]);
        snprintf(top, sizeof top, "%shead.weight", prefix[i][1]);
        snprintf(unused, sizeof unused, "%sunused.3.weight", prefix[i][0]);
        fake_tensor t[] = {{embed, 2, {9, 6, 0}}, {top, 2, {9, 6, 0}}, {other, 1, {3, 0, 0}}, {unused, 1, {2, 0, 0}}};
        am_status st = build(&b, "{\"text_config\": {\"model_type\": \"t\"}, \"vision_config\": {\"x\": 1}}",
                             "  logits = linear(x, head : V)\n", t, 4, &o);
        if (i == 0) { /* saved alone: then every tensor must be known */
            expect_error(st, AM_ERR_CARD, "vision.patch.weight");
        } else {
            expect_ok(st);
            assert_string_equal(am_graph_param_at(b.g, 0)->name, embed);
            assert_non_null(strstr(carried.s, "1 tensor of its other parts (vision) is not trained"));
        }
        am_str_release(&carried);
        release(&b);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_parts__names_shapes_and_views),
        cmocka_unit_test(test_parts__a_value_for_each_layer),
        cmocka_unit_test(test_parts__stacked_over_experts),
        cmocka_unit_test(test_parts__a_tensor_for_each_head),
        cmocka_unit_test(test_parts__shapes_on_disk_are_checked),
        cmocka_unit_test(test_parts__frozen_by_the_name_on_disk),
        cmocka_unit_test(test_parts__text_models_inside_of_others),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
