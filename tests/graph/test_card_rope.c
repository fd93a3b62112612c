/* rope_table for every rope_type, in both spellings of config.json, against the frequencies and attention factors of transformers
 * (rope_reference.h).  The table is read where the program has it: the constant of the graph, the attribute of rope_angles. */
#include "graph/card.h"
#include "graph/graph_internal.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "rope_reference.h"

static const char card_text[] = "family made_up\n"
                                "config:\n"
                                "  D = 64\n"
                                "  vocab V = 32\n"
                                "  R = rope_table(16, theta = 10000)\n"
                                "  ignore max_position_embeddings\n"
                                "model:\n"
                                "  x = embed(ids, table : D)\n"
                                "  q = rope(linear(x, turned : 4 16), R)\n"
                                "  logits = linear(flatten(q), head : V)\n";

static am_graph *elaborate(const char *config, int64_t seq)
{
    char dir[] = "/tmp/am_rope_XXXXXX", path[64], text[2048];
    am_hf_model *model = NULL;
    am_card *card = NULL;
    am_graph *g = NULL;
    assert_non_null(mkdtemp(dir));
    snprintf(path, sizeof path, "%s/config.json", dir);
    snprintf(text, sizeof text, "{\"model_type\": \"made_up\", %s", config + 1);
    assert_int_equal(am_file_write_atomic(path, text, strlen(text)), AM_OK);
    assert_int_equal(am_hf_model_open(path, AM_HF_WEIGHTS_NONE, &model), AM_OK);
    assert_int_equal(am_card_parse(card_text, "made_up.card", NULL, &card), AM_OK);
    assert_int_equal(am_graph_create(1, seq, AM_F32, &g), AM_OK);
    if (am_card_elaborate(card, model, NULL, g) != AM_OK) fail_msg("%s", am_error_message());
    am_card_free(&card);
    am_hf_model_free(&model);
    unlink(path);
    rmdir(dir);
    return g;
}

static double factor_of(const am_graph *g)
{
    double factor = 0;
    for (size_t n = 0; n < g->num_nodes; n++)
        if (strcmp(g->nodes[n].def->name, "rope_angles") == 0) factor = g->nodes[n].attrs.rope_factor;
    return factor == 0 ? 1 : factor;
}

/* frequencies are formed in fp32 on both sides: the same to a unit or two of the last place */
static void test_rope__types(void **state)
{
    for (size_t i = 0; i < sizeof rope_cases / sizeof *rope_cases; i++) {
        am_graph *g = elaborate(rope_cases[i].config, rope_cases[i].seq);
        assert_int_equal(g->num_constants, 1);
        assert_int_equal(g->constants[0].n, rope_cases[i].num);
        for (int k = 0; k < rope_cases[i].num; k++) {
            double got = g->constants[0].data[k], want = rope_cases[i].inv_freq[k];
            if (fabs(got - want) > 2.5e-7 * want)
                fail_msg("%s: frequency %d is %.9g, not %.9g", rope_cases[i].name, k, got, want);
        }
        if (fabs(factor_of(g) - rope_cases[i].factor) > 1e-7)
            fail_msg("%s: attention factor %.9g, not %.9g", rope_cases[i].name, factor_of(g), rope_cases[i].factor);
        am_graph_free(&g);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_rope__types)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
