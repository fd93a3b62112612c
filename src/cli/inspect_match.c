/* inspect_match.c: which card fits a model whose type no card names?  Names, shapes and keys prove little, so where the
 * model has weights and a tokenizer each card that fits is run on a text: the right one has the lowest loss.
 * How to read: am_inspect_match at the end; above it the text's tokens, a card's loss, the tables. */
#include "cli/inspect.h"

#include <math.h>
#include <string.h>

enum { MAX_TOKENS = 1024, MAX_TEXT = 1 << 16, MAX_SHOWN = 12 };

static const char own_text[] =
    "The library closes at six on weekdays, and a little earlier on Saturdays. When the bell rings, people gather "
    "their papers, return the books they will not borrow, and leave by the door that opens onto the square. In "
    "winter the lamps are already lit by then. A woman who sells roasted chestnuts stands at the corner; she knows "
    "most of the students by name, and asks them what they have read today. Some of them stay for a while and "
    "answer, because it is warm near the stove. Others hurry to catch the tram, which crosses the river every ten "
    "minutes and takes them home before dinner. The next morning they come back, find their places, and go on from "
    "the page on which they had stopped.";

/* ---- the text ---- */

typedef struct sample {
    int32_t ids[MAX_TOKENS], labels[MAX_TOKENS], pos[MAX_TOKENS], doc[MAX_TOKENS];
    int64_t n;
} sample;

static am_status read_text(const char *file, char **text, size_t *n)
{
    am_status st = AM_OK;
    if (file) {
        AM_TRY(am_file_read(file, (size_t)1 << 30, text, n));
        if (*n > MAX_TEXT) *n = MAX_TEXT;
        while (*n > 0 && *n < strlen(*text) && ((*text)[*n] & 0xc0) == 0x80) (*n)--; /* a whole character */
    } else {
        *n = sizeof own_text - 1;
        AM_TRY(am_strdup(own_text, text));
    }
done:
    return st;
}

static am_status tokenize(const am_hf_model *m, const char *file, sample *s)
{
    am_status st = AM_OK;
    am_tokenizer *t = NULL;
    am_tok_scratch *scratch = NULL;
    am_encoding e = {0};
    char *text = NULL;
    size_t n = 0;
    AM_TRY(read_text(file, &text, &n));
    AM_TRY(am_tokenizer_open(m->dir, &t));
    AM_TRY(am_cli_check_tokenizer(t, m));
    AM_TRY(am_tok_scratch_create(t, &scratch));
    AM_TRY(am_tokenizer_encode(t, scratch, text, n, AM_ENCODE_ADD_SPECIAL, &e));
    s->n = am_min_i64(MAX_TOKENS, (int64_t)e.n);
    AM_CHECK(s->n >= 2, AM_ERR_DATA, "%s gives %" PRId64 " tokens: a loss needs two", file ? file : "the text", s->n);
    for (int64_t i = 0; i < s->n; i++) {
        s->ids[i] = (int32_t)e.ids[i];
        s->labels[i] = i + 1 < s->n ? (int32_t)e.ids[i + 1] : -100;
        s->pos[i] = (int32_t)i;
    }
done:
    am_encoding_release(&e);
    am_tok_scratch_free(&scratch);
    am_tokenizer_free(&t);
    am_free(&text);
    return st;
}

/* ---- a card's loss ---- */

static am_status feed(void *context, am_exec *e, int program, int micro, int frame, int64_t *tokens)
{
    am_status st = AM_OK;
    const sample *s = context;
    *tokens = s->n;
    AM_TRY(am_exec_write_input(e, program, frame, "ids", s->ids, s->n));
    AM_TRY(am_exec_write_input(e, program, frame, "labels", s->labels, s->n));
    AM_TRY(am_exec_write_input(e, program, frame, "pos", s->pos, s->n));
    AM_TRY(am_exec_write_input(e, program, frame, "index", s->pos, s->n));
    AM_TRY(am_exec_write_input(e, program, frame, "doc_start", s->doc, s->n));
done:
    return st;
}

static am_status loss_under(am_engine *engine, const char *spec, const char *card, sample *s, double *loss)
{
    am_status st = AM_OK;
    static const char *const everything[] = {"*"};
    am_model *m = NULL;
    am_graph *g = NULL;
    am_program *p = NULL;
    am_exec *x = NULL;
    am_str unread = {0};
    am_program_options o = am_program_defaults(AM_PROGRAM_EVAL);
    o.mesh = am_engine_mesh(engine, true, 1);
    o.threads = engine->threads;
    o.freeze = everything;
    o.num_freeze = 1;
    AM_TRY(am_model_open(spec, AM_HF_WEIGHTS_REQUIRED, card, NULL, 0, &m));
    m->options.no_noise = true;
    m->options.unread = &unread; /* told in the table */
    AM_TRY(am_comm_set_mesh(engine->comm, &o.mesh));
    AM_TRY(am_model_graph(m, 1, s->n, AM_F32, &g));
    AM_TRY(am_program_compile(&g, &o, &p));
    AM_TRY(am_engine_fits(engine, &p, 1, 0));
    AM_TRY(am_exec_create(engine->device, engine->comm, &p, 1, NULL, &x));
    AM_TRY(am_ckpt_load_model(x, p, m->hf));
    AM_TRY(am_exec_set_scalar(x, AM_SCALAR_LOSS_SUM, 0));
    AM_TRY(am_exec_set_scalar(x, AM_SCALAR_LOSS_COUNT, 0));
    AM_TRY(am_exec_run(x, 0, feed, s));
    AM_TRY(am_exec_get_scalar(x, AM_SCALAR_LOSS_SUM, loss));
    *loss /= (double)(s->n - 1);
done:
    am_exec_free(&x);
    am_program_free(&p);
    am_graph_free(&g);
    am_model_free(&m);
    am_str_release(&unread);
    return st;
}

/* ---- as JSON, and for people ---- */

static json_t *lines_json(const am_str *s)
{
    json_t *list = json_array();
    for (const char *at = s->s; at && *at;) {
        size_t n = strcspn(at, "\n");
        json_array_append_new(list, json_stringn(at, n));
        at += n + (at[n] == '\n');
    }
    return list;
}

static json_t *match_json(const am_card_match *m)
{
    return json_pack("{s:s, s:s, s:b, s:I, s:I, s:I, s:o, s:o, s:o, s:s?}", "card", m->name, "path", m->path, "tensors_fit",
                     m->tensors, "named", (json_int_t)m->named, "missing", (json_int_t)m->missing, "extra",
                     (json_int_t)m->extra, "missing_names", lines_json(&m->missing_names), "extra_names",
                     lines_json(&m->extra_names), "unread", lines_json(&m->unread), "reason", m->reason);
}

static void print_list(const json_t *list, const char *what)
{
    size_t n = json_array_size(list);
    for (size_t i = 0; i < n && i < MAX_SHOWN; i++)
        printf("      %s %s\n", what, json_string_value(json_array_get(list, i)));
    if (n > MAX_SHOWN) printf("      … and %zu more\n", n - MAX_SHOWN);
}

void am_inspect_print_match(const json_t *o)
{
    size_t i;
    json_t *m;
    printf("model_type \"%s\": %s\n", json_string_value(json_object_get(o, "model_type")),
           json_string_value(json_object_get(o, "verdict")));
    json_array_foreach(json_object_get(o, "cards"), i, m)
    {
        const json_t *loss = json_object_get(m, "loss");
        bool fits = json_is_true(json_object_get(m, "tensors_fit"));
        if (!fits && i >= MAX_SHOWN) continue;
        printf("  %-20s ", json_string_value(json_object_get(m, "card")));
        if (fits)
            printf("every tensor, names and shapes");
        else if (json_integer_value(json_object_get(m, "named")) + json_integer_value(json_object_get(m, "missing")) == 0)
            printf("cannot be used: %s", json_string_value(json_object_get(m, "reason")));
        else
            printf("%" JSON_INTEGER_FORMAT " tensors fit, %" JSON_INTEGER_FORMAT " are not there, %" JSON_INTEGER_FORMAT
                   " are not named",
                   json_integer_value(json_object_get(m, "named")), json_integer_value(json_object_get(m, "missing")),
                   json_integer_value(json_object_get(m, "extra")));
        size_t unread = json_array_size(json_object_get(m, "unread"));
        if (unread) printf("; %zu key%s unread", unread, unread == 1 ? "" : "s");
        if (json_is_number(loss)) printf("; loss %.4f", json_number_value(loss));
        printf("\n");
        if (i > 0 && !fits) continue;
        print_list(json_object_get(m, "unread"), "unread key");
        print_list(json_object_get(m, "missing_names"), "not there:");
        print_list(json_object_get(m, "extra_names"), "not named:");
    }
}

/* Those with a loss come first, the lowest first; the others keep their order. */
static json_t *sort_by_loss(const json_t *cards)
{
    json_t *sorted = json_array();
    size_t i, k;
    json_t *m;
    json_array_foreach(cards, i, m)
    {
        const json_t *loss = json_object_get(m, "loss");
        for (k = 0; k < json_array_size(sorted); k++) {
            const json_t *other = json_object_get(json_array_get(sorted, k), "loss");
            if (json_is_number(loss) && (!json_is_number(other) || json_number_value(loss) < json_number_value(other))) break;
        }
        json_array_insert(sorted, k, m);
    }
    return sorted;
}

static am_status add_losses(const char *spec, const am_hf_model *hf, const char *file, const am_card_match *list, size_t n,
                            json_t *cards)
{
    am_status st = AM_OK;
    sample *s = NULL;
    am_engine *engine = NULL;
    am_engine_options o = {.quiet = true, .timeout_seconds = 60};
    AM_TRY(am_calloc(1, sizeof *s, &s));
    AM_TRY(tokenize(hf, file, s));
    AM_TRY(am_engine_open(&o, &engine));
    AM_TRY(am_cli_one_rank(engine, "inspect --match"));
    for (size_t i = 0; i < n; i++) {
        double loss = NAN;
        if (!list[i].tensors) continue;
        AM_TRY(loss_under(engine, spec, list[i].path, s, &loss));
        json_object_set_new(json_array_get(cards, i), "loss", isfinite(loss) ? json_real(loss) : json_string("not finite"));
    }
done:
    if (engine) {
        am_status closed = am_engine_close(&engine);
        if (st == AM_OK) st = closed;
    }
    am_free(&s);
    return st;
}

am_status am_inspect_match(const char *spec, const char *file, json_t **out)
{
    am_status st = AM_OK;
    am_hf_model *hf = NULL;
    am_card_match *list = NULL;
    size_t n = 0, fits = 0;
    char *tokenizer = NULL;
    am_str verdict = {0};
    json_t *o = NULL, *cards = json_array(), *sorted = NULL;
    AM_TRY(am_hf_model_open(spec, AM_HF_WEIGHTS_OPTIONAL, &hf));
    AM_TRY(am_card_match_all(NULL, hf, &list, &n));
    for (size_t i = 0; i < n; i++) fits += list[i].tensors;
    for (size_t i = 0; i < n; i++) json_array_append_new(cards, match_json(&list[i]));
    AM_TRY(am_path_join(hf->dir, "tokenizer.json", &tokenizer));
    bool run = fits > 0 && am_path_exists(tokenizer);
    AM_CHECK(run || !file, AM_ERR_MODEL, "%s: a loss needs weights, a tokenizer and a card that names every tensor", spec);
    if (run) AM_TRY(add_losses(spec, hf, file, list, n, cards));
    AM_TRY(am_str_printf(&verdict,
                         fits == 0 ? "no card names every tensor"
                         : run     ? "%zu of %zu cards name every tensor; the lowest loss tells which of them is right, if one is: "
                                     "--card NAME chooses it"
                                   : "%zu of %zu cards name every tensor, which proves little; compare with a reference (automodel "
                                     "verify) before --card NAME",
                         fits, n));
    o = json_pack("{s:s, s:s, s:s, s:O}", "kind", "match", "model_type", hf->model_type, "verdict", verdict.s, "cards",
                  sorted = sort_by_loss(cards));
    AM_CHECK(o, AM_ERR_MODEL, "%s: a path or name is not UTF-8", hf->config_path);
    *out = o;
done:
    json_decref(cards);
    json_decref(sorted);
    am_str_release(&verdict);
    am_free(&tokenizer);
    am_card_match_free(&list, n);
    am_hf_model_free(&hf);
    return st;
}

am_status am_inspect_new_card(const char *spec, am_str *out)
{
    am_status st = AM_OK;
    am_hf_model *hf = NULL;
    am_card_match *list = NULL;
    size_t n = 0;
    AM_TRY(am_hf_model_open(spec, AM_HF_WEIGHTS_OPTIONAL, &hf));
    AM_TRY(am_card_match_all(NULL, hf, &list, &n));
    AM_CHECK(n > 0, AM_ERR_CARD, "there are no model cards to begin with (AM_CARDS can name their folder)");
    AM_TRY(am_card_draft(&list[0], hf, out));
done:
    am_card_match_free(&list, n);
    am_hf_model_free(&hf);
    return st;
}
