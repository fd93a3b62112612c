/* model.c: opening a model with its card. */
#include "graph/model.h"

#include <string.h>

/* The card of the model's own type, or else that of the text model it holds. */
static am_status find_card(const am_hf_model *hf, am_card **out)
{
    const json_t *text = am_card_text_config(hf->config);
    am_status st = am_card_find(NULL, hf->model_type, out);
    if (st != AM_ERR_CARD || !text) return st;
    am_error_clear();
    return am_card_find(NULL, json_string_value(json_object_get(text, "model_type")), out);
}

static am_status open_card(const am_hf_model *hf, const char *card, am_card **out)
{
    if (!card) return find_card(hf, out);
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
    AM_TRY(am_calloc(1, sizeof *m->said, &m->said));
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
    am_free(&(*m)->said);
    am_free(m);
}

am_status am_model_graph(const am_model *m, int64_t rows, int64_t seq_len, am_dtype compute, am_graph **out)
{
    am_status st = AM_OK;
    am_graph *g = NULL;
    am_str carried = {0};
    am_card_options options = m->options;
    options.carried = &carried;
    AM_TRY(am_graph_create(rows, seq_len, compute, &g));
    AM_TRY(am_card_elaborate(m->card, m->hf, &options, g));
    if (carried.len && !m->said->carried) am_log(AM_LOG_INFO, "model", "%s", carried.s);
    m->said->carried = m->said->carried || carried.len > 0;
    *out = g;
    g = NULL;
done:
    am_graph_free(&g);
    am_str_release(&carried);
    return st;
}
