/* model.c: opening a model with its card. */
#include "graph/model.h"

#include <string.h>

static am_status open_card(const am_hf_model *hf, const char *card, am_card **out)
{
    if (!card) return am_card_find(NULL, hf->model_type, out);
    size_t n = strlen(card);
    if (n > 5 && strcmp(card + n - 5, ".card") == 0) return am_card_open(card, out);
    return am_card_find(NULL, card, out);
}

am_status am_model_open(const char *spec, am_hf_weights weights, const char *card, const char *const *ignore,
                        int num_ignore, am_model **out)
{
    am_status st = AM_OK;
    am_model *m = NULL;
    AM_TRY(am_calloc(1, sizeof *m, &m));
    AM_TRY(am_hf_model_open(spec, weights, &m->hf));
    AM_TRY(open_card(m->hf, card, &m->card));
    m->options = (am_card_options){.ignore_config_keys = ignore, .num_ignore = num_ignore};
    *out = m;
    m = NULL;
done:
    am_model_free(&m);
    return st;
}

void am_model_free(am_model **m)
{
    if (!m || !*m) return;
    am_card_free(&(*m)->card);
    am_hf_model_free(&(*m)->hf);
    am_free(m);
}

am_status am_model_graph(const am_model *m, int64_t rows, int64_t seq_len, am_dtype compute, am_graph **out)
{
    am_status st = AM_OK;
    am_graph *g = NULL;
    AM_TRY(am_graph_create(rows, seq_len, compute, &g));
    AM_TRY(am_card_elaborate(m->card, m->hf, &m->options, g));
    *out = g;
    g = NULL;
done:
    am_graph_free(&g);
    return st;
}
