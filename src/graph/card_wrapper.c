/* card_wrapper: models that hold a text model among other parts (pictures, sound): config.json nests the text model's
 * configuration, its tensors bear a further prefix.  A card describes the text model alone; every other tensor is carried
 * unchanged. */
#include "graph/card_internal.h"

#include <string.h>

/* Where the text model's configuration is nested. */
static const char *const nested[] = {"text_config", "llm_config", "language_config"};

/* How a wrapper renames the text model's tensors: `strip` at the front of a name becomes `prefix`. */
static const struct {
    const char *strip, *prefix;
} wrappers[] = {
    {"", ""},                            /* not at all: the text model was saved alone */
    {"model.", "model.language_model."}, /* model.language_model.layers.0.…, lm_head */
    {"", "language_model."},             /* language_model.model.layers.0.…, language_model.lm_head */
    {"model.", "model.text_model."},     /* model.text_model.layers.0.…, lm_head */
    {"model.", "language_model."},       /* language_model.layers.0.…, lm_head */
};
enum { NUM_WRAPPERS = sizeof wrappers / sizeof *wrappers };

const json_t *am_card_text_config(const json_t *config)
{
    for (size_t i = 0; i < sizeof nested / sizeof *nested; i++) {
        const json_t *inner = json_object_get(config, nested[i]);
        if (json_is_object(inner) && json_is_string(json_object_get(inner, "model_type"))) return inner;
    }
    return NULL;
}

static bool serves(const am_card *c, const char *model_type)
{
    for (int i = 0; am_card_family(c, i); i++)
        if (strcmp(am_card_family(c, i), model_type) == 0) return true;
    return false;
}

am_status card_open_config(card_elab *e)
{
    am_status st = AM_OK;
    const am_hf_model *m = e->model;
    const json_t *text = serves(e->card, m->model_type) ? NULL : am_card_text_config(m->config);
    const json_t *tied = json_object_get(m->config, "tie_word_embeddings");
    e->wrapper = text ? -1 : CARD_NO_WRAPPER;
    AM_TRY(card_from_json(&e->arena, text ? text : m->config, &e->config));
    AM_CHECK(e->config.kind == CARD_V_MAP, AM_ERR_MODEL, "%s is not a JSON object", m->config_path);
    if (text && json_is_boolean(tied)) e->tied = json_is_true(tied) ? 1 : -1; /* the whole model's word counts */
done:
    return st;
}

static am_status wrapped(card_elab *e, int i, const char *name, const char **out)
{
    size_t n = strlen(wrappers[i].strip);
    *out = name;
    if (strncmp(name, wrappers[i].strip, n) != 0) return AM_OK;
    return card_printf(&e->arena, out, "%s%s", wrappers[i].prefix, name + n);
}

am_status card_wrapped_name(card_elab *e, const char *name, card_pos pos, const char **out)
{
    am_status st = AM_OK;
    int fits = -1;
    *out = name;
    if (e->wrapper == CARD_NO_WRAPPER || e->num_tensors == 0) goto done;
    for (int i = 0; e->wrapper < 0 && i < NUM_WRAPPERS; i++) {
        const char *s = NULL;
        if (strncmp(name, wrappers[i].strip, strlen(wrappers[i].strip)) != 0) continue; /* says nothing of this one */
        AM_TRY(wrapped(e, i, name, &s));
        if (!card_find_tensor(e, s)) continue;
        CARD_CHECK(fits < 0, pos, "the model holds `%s` in two places: under \"%s\" and under \"%s\"", name,
                   wrappers[fits < 0 ? 0 : fits].prefix, wrappers[i].prefix);
        fits = i;
    }
    if (fits > 0 || (fits == 0 && strncmp(name, "model.", 6) == 0)) e->wrapper = fits; /* a head may stand outside */
    if (e->wrapper >= 0 || fits >= 0) AM_TRY(wrapped(e, e->wrapper >= 0 ? e->wrapper : fits, name, out));
done:
    return st;
}

am_status card_wrapped_pattern(card_elab *e, const char *pattern, const char **out)
{
    *out = pattern;
    return e->wrapper >= 0 ? wrapped(e, e->wrapper, pattern, out) : AM_OK;
}

bool card_is_other_part(const card_elab *e, const char *tensor)
{
    const char *prefix = e->wrapper >= 0 ? wrappers[e->wrapper].prefix : "";
    return *prefix && strncmp(tensor, prefix, strlen(prefix)) != 0;
}

/* "vision_tower.…": the first two words of a name that begins with "model.", else the first. */
static size_t part_length(const char *name)
{
    size_t n = strcspn(name, ".");
    return strncmp(name, "model.", 6) == 0 ? 6 + strcspn(name + 6, ".") : n;
}

am_status card_describe_carried(const card_elab *e, const bool *carried, am_str *out)
{
    am_status st = AM_OK;
    int64_t n = 0;
    size_t last = 0;
    am_str parts = {0};
    for (size_t i = 0; i < e->num_tensors; i++) {
        const char *name = e->tensor[i].t->name;
        if (!carried[i]) continue;
        if (n++ == 0 || part_length(name) != part_length(e->tensor[last].t->name) ||
            strncmp(name, e->tensor[last].t->name, part_length(name)) != 0)
            AM_TRY(am_str_printf(&parts, "%s%.*s", parts.len ? ", " : "", (int)part_length(name), name));
        last = i;
    }
    if (n > 0)
        AM_TRY(am_str_printf(out,
                             "this is the text part of a %s: %" PRId64
                             " %s of its other parts (%s) %s not trained and %s unchanged into an export",
                             e->model->model_type, n, n == 1 ? "tensor" : "tensors", parts.s, n == 1 ? "is" : "are",
                             n == 1 ? "goes" : "go"));
done:
    am_str_release(&parts);
    return st;
}
