/* The layout algebra: which elements of an axis each part stands for, against index arrays made with numpy
 * reshapes, the roles that can cut it, and what is refused. */
#include "card_test.h"

#include "graph/card_internal.h"

#include <string.h>

static const char *const card_text = "family t\n"
                                     "config:\n"
                                     "  heads H = 3\n"
                                     "  heads N = 4\n"
                                     "  kv_heads K = 2\n"
                                     "  kv_heads A = 2\n"
                                     "  kv_heads Nk = 2\n"
                                     "  ffn F = 4\n"
                                     "  d = 2\n"
                                     "  p = 2\n"
                                     "  S = 3\n"
                                     "  G = 2\n"
                                     "  dk = 3\n"
                                     "  dv = 2\n"
                                     "  M = F\n"
                                     "  z = 0\n"
                                     "  w = 7 / 2\n"
                                     "  huge = 4000000000000000000\n"
                                     "model:\n"
                                     "  logits = ids\n";

static am_status layout_of(card_elab *e, const char *text, const am_layout **out)
{
    am_status st = AM_OK;
    card_source src;
    card_lay *l = NULL;
    AM_TRY(card_lex(&e->arena, "l", text, strlen(text), &src));
    card_cursor c = {.arena = &e->arena, .src = &src};
    AM_TRY(card_parse_layout(&c, &l));
    AM_TRY(card_layout_resolve(e, l, out));
done:
    return st;
}

typedef struct rig {
    am_card *card;
    am_hf_model *model;
    am_graph *g;
    card_elab e;
} rig;

static void rig_open(rig *r)
{
    r->card = NULL;
    expect_ok(am_card_parse(card_text, "t.card", NULL, &r->card));
    r->model = fake_model("{}", NULL, 0);
    r->g = new_graph(AM_F32);
    expect_ok(card_elab_open(&r->e, r->card, r->model, NULL, r->g));
}

static void rig_close(rig *r)
{
    card_elab_close(&r->e);
    am_graph_free(&r->g);
    fake_free(&r->model);
    am_card_free(&r->card);
}

typedef struct part_case {
    const char *layout;
    int parts, part;
    const char *dims; /* names joined by blanks */
    int n;
    int element[24]; /* in row-major order of the part's dims */
} part_case;

/* numpy: a = arange(size).reshape(…), a[…] flattened, e.g. per group q: arange(16).reshape(2, 4, 2)[:, :2] */
static const part_case cases[] = {
    {"H d + H d + H d", 3, 1, "H d", 6, {6, 7, 8, 9, 10, 11}},
    {"H (d + d + d)", 3, 2, "H d", 6, {4, 5, 10, 11, 16, 17}},
    {"K (G d + d + d)", 3, 0, "K G d", 8, {0, 1, 2, 3, 8, 9, 10, 11}},
    {"K (G d + d + d)", 3, 1, "K d", 4, {4, 5, 12, 13}},
    {"K (G d + d + d)", 3, 2, "K d", 4, {6, 7, 14, 15}},
    {"H d + d + d", 3, 2, "d", 2, {8, 9}},
    {"F (1 + 1)", 2, 0, "F", 4, {0, 2, 4, 6}},
    {"F (1 + 1)", 2, 1, "F", 4, {1, 3, 5, 7}},
    {"N p + N p + A S + A S + N", 5, 2, "A S", 6, {16, 17, 18, 19, 20, 21}},
    {"N p + N p + A S + A S + N", 5, 3, "A S", 6, {22, 23, 24, 25, 26, 27}},
    {"N p + N p + A S + A S + N", 5, 4, "N", 4, {28, 29, 30, 31}},
    {"Nk (dk + dk + G dv + G dv)", 4, 1, "Nk dk", 6, {3, 4, 5, 17, 18, 19}},
    {"Nk (dk + dk + G dv + G dv)", 4, 2, "Nk G dv", 8, {6, 7, 8, 9, 20, 21, 22, 23}},
    {"Nk (dk + dk + G dv + G dv)", 4, 3, "Nk G dv", 8, {10, 11, 12, 13, 24, 25, 26, 27}},
    {"H (d)", 1, 0, "H d", 6, {0, 1, 2, 3, 4, 5}},
    {"(H d) G", 1, 0, "H d G", 12, {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11}},
    {"K (1 + H (d + 1))", 3, 1, "K H d", 12, {1, 2, 4, 5, 7, 8, 11, 12, 14, 15, 17, 18}},
};

static void check_part(const part_case *c, const am_layout *l)
{
    am_layout_part p;
    int64_t index[AM_LAYOUT_MAX_DIMS] = {0};
    am_str dims = {0};
    assert_int_equal(am_layout_num_parts(l), c->parts);
    expect_ok(am_layout_part_at(l, c->part, &p));
    for (int i = 0; i < p.num_dims; i++) expect_ok(am_str_printf(&dims, "%s%s", i ? " " : "", p.dim[i].name));
    assert_string_equal(dims.s, c->dims);
    assert_int_equal(p.size, c->n);
    for (int n = 0; n < c->n; n++) {
        assert_int_equal(am_layout_element(&p, index), c->element[n]);
        for (int k = p.num_dims - 1; k >= 0 && ++index[k] == p.dim[k].global; k--) index[k] = 0;
    }
    am_str_release(&dims);
}

static void test_layout__parts_are_the_elements_numpy_gives(void **state)
{
    rig r;
    rig_open(&r);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const am_layout *l = NULL;
        expect_ok(layout_of(&r.e, cases[i].layout, &l));
        check_part(&cases[i], l);
    }
    rig_close(&r);
}

/* Every element of the axis belongs to exactly one part. */
static void test_layout__parts_cover_the_axis_once(void **state)
{
    rig r;
    rig_open(&r);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const am_layout *l = NULL;
        char seen[64] = {0};
        expect_ok(layout_of(&r.e, cases[i].layout, &l));
        for (int k = 0; k < am_layout_num_parts(l); k++) {
            am_layout_part p;
            int64_t index[AM_LAYOUT_MAX_DIMS] = {0};
            expect_ok(am_layout_part_at(l, k, &p));
            for (int64_t n = 0; n < p.size; n++) {
                seen[am_layout_element(&p, index)]++;
                for (int j = p.num_dims - 1; j >= 0 && ++index[j] == p.dim[j].global; j--) index[j] = 0;
            }
        }
        for (int64_t n = 0; n < l->size; n++) assert_int_equal(seen[n], 1);
    }
    rig_close(&r);
}

static void test_layout__roles_that_cut(void **state)
{
    static const struct {
        const char *layout;
        am_role role;
        bool cut;
    } want[] = {
        {"H d + H d + H d", AM_ROLE_HEADS, true},
        {"H d + d + d", AM_ROLE_HEADS, true}, /* k and v replicated */
        {"K (G d + d + d)", AM_ROLE_KV_HEADS, true},
        {"K (G d + d + d)", AM_ROLE_HEADS, false},
        {"F (1 + 1)", AM_ROLE_FFN, true},
        {"d + d", AM_ROLE_HEADS, false},
        {"H d + N p", AM_ROLE_HEADS, false}, /* 3 and 4 pieces */
        {"F + F", AM_ROLE_FFN, true},
    };
    rig r;
    rig_open(&r);
    for (size_t i = 0; i < sizeof want / sizeof *want; i++) {
        const am_layout *l = NULL;
        expect_ok(layout_of(&r.e, want[i].layout, &l));
        assert_int_equal(am_layout_cut_by(l, want[i].role), want[i].cut);
    }
    rig_close(&r);
}

static void test_layout__print_and_names(void **state)
{
    rig r;
    const am_layout *l = NULL;
    am_str text = {0};
    rig_open(&r);
    expect_ok(layout_of(&r.e, "Nk (dk + 2 + G (dv + 1)) + M", &l));
    expect_ok(am_layout_print(l, &text));
    assert_string_equal(text.s, "Nk (dk + 2 + G (dv + 1)) + M");
    assert_int_equal(l->size, 2 * (3 + 2 + 2 * 3) + 4);
    am_str_release(&text);
    rig_close(&r);
}

static void test_layout__refusals(void **state)
{
    static const char *const bad[][2] = {
        {"(H + N) d", "l:1:2: a sum can only stand rightmost in a product"},
        {"H z", "l:1:3: the dimension `z` must be at least 1, not 0"},
        {"H w", "t.card:17:9: this division gives 3.5, but the dimension `w` must be whole"},
        {"H q", "l:1:3: `q` is neither in fake/config.json nor defined in this card, and the dimension `q` "
                "needs a value"},
        {"H 1.5", "l:1:3: a dimension must be a whole number of at least 1, not 1.5"},
        {"huge huge", "l:1:1: this layout has more elements than 64 bits can count"},
        {"H (d", "l:1:3: this ( is never closed"},
    };
    rig r;
    rig_open(&r);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        const am_layout *l = NULL;
        expect_error(layout_of(&r.e, bad[i][0], &l), AM_ERR_CARD, bad[i][1]);
    }
    rig_close(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_layout__parts_are_the_elements_numpy_gives),
        cmocka_unit_test(test_layout__parts_cover_the_axis_once),
        cmocka_unit_test(test_layout__roles_that_cut),
        cmocka_unit_test(test_layout__print_and_names),
        cmocka_unit_test(test_layout__refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
