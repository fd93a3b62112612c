/* config.json and generation_config.json: what every user of a model asks for (dtype, end-of-sequence ids,
 * model type), and getters with a dotted path.  The equations' own keys are read by the cards, not here. */
#include "hf_internal.h"

#include <string.h>

static const char *type_name(const json_t *v)
{
    switch (json_typeof(v)) {
    case JSON_OBJECT:
        return "a map";
    case JSON_ARRAY:
        return "a list";
    case JSON_STRING:
        return "a string";
    case JSON_INTEGER:
        return "an integer";
    case JSON_REAL:
        return "a real number";
    case JSON_TRUE:
        return "true";
    case JSON_FALSE:
        return "false";
    default:
        return "null";
    }
}

static am_status wrong_type(const char *file, const char *key, const json_t *v, const char *wanted)
{
    return am_fail(AM_ERR_MODEL, "%s: '%s' is %s where %s is needed", file, key, type_name(v), wanted);
}

static const json_t *given(const json_t *root, const char *path)
{
    const json_t *v = am_json_at(root, path), *text = json_object_get(root, "text_config");
    if (v == NULL && json_is_object(text)) v = am_json_at(text, path); /* of a text model among other parts */
    return json_is_null(v) ? NULL : v;
}

am_status am_hf_config_i64(const am_hf_model *m, const char *path, int64_t fallback, int64_t *out)
{
    const json_t *v = given(m->config, path);
    *out = fallback;
    if (v == NULL || am_json_integer(v, out)) return AM_OK;
    return wrong_type(m->config_path, path, v, "an integer");
}

am_status am_hf_config_f64(const am_hf_model *m, const char *path, double fallback, double *out)
{
    const json_t *v = given(m->config, path);
    *out = fallback;
    if (v == NULL || am_json_number(v, out)) return AM_OK;
    return wrong_type(m->config_path, path, v, "a number");
}

am_status am_hf_config_bool(const am_hf_model *m, const char *path, bool fallback, bool *out)
{
    const json_t *v = given(m->config, path);
    *out = v != NULL ? json_is_true(v) : fallback;
    if (v == NULL || json_is_boolean(v)) return AM_OK;
    return wrong_type(m->config_path, path, v, "true or false");
}

am_status am_hf_config_str(const am_hf_model *m, const char *path, const char *fallback, const char **out)
{
    const json_t *v = given(m->config, path);
    *out = v != NULL ? json_string_value(v) : fallback;
    if (v == NULL || json_is_string(v)) return AM_OK;
    return wrong_type(m->config_path, path, v, "a string");
}

static am_status read_dtype(am_hf_model *m)
{
    am_status st = AM_OK;
    const char *word;
    AM_TRY(am_hf_config_str(m, "dtype", NULL, &word));
    if (word == NULL) AM_TRY(am_hf_config_str(m, "torch_dtype", NULL, &word));
    if (word == NULL || strcmp(word, "auto") == 0) goto done;
    AM_CHECK(am_dtype_parse(word, &m->dtype), AM_ERR_MODEL, "%s: the dtype '%s' is not known", m->config_path,
             word);
    m->has_dtype = true;
done:
    return st;
}

/* eos_token_id: absent, null, one id, or a list of ids */
static am_status read_eos(am_hf_model *m, const char *file, const json_t *v)
{
    am_status st = AM_OK;
    size_t n = json_is_array(v) ? json_array_size(v) : v != NULL ? 1 : 0, capacity = 0;
    for (size_t i = 0; i < n; i++) {
        const json_t *id = json_is_array(v) ? json_array_get(v, i) : v;
        AM_TRY(am_grow(&m->eos_ids, &capacity, i + 1, sizeof *m->eos_ids));
        if (!am_json_integer(id, &m->eos_ids[i]) || m->eos_ids[i] < 0) {
            st = wrong_type(file, "eos_token_id", id, "a token id, or a list of them,");
            goto done;
        }
        m->num_eos = i + 1;
    }
done:
    return st;
}

am_status am_hf_config_digest(am_hf_model *m)
{
    am_status st = AM_OK;
    am_str file = {0};
    AM_CHECK(json_is_object(m->config), AM_ERR_MODEL, "%s: a map is needed at the top level", m->config_path);
    AM_CHECK(m->generation_config == NULL || json_is_object(m->generation_config), AM_ERR_MODEL,
             "%s/generation_config.json: a map is needed at the top level", m->dir);
    AM_TRY(am_hf_config_str(m, "model_type", "", &m->model_type));
    AM_TRY(read_dtype(m));
    m->has_auto_map = given(m->config, "auto_map") != NULL;
    const json_t *eos = given(m->generation_config, "eos_token_id");
    if (eos != NULL) {
        AM_TRY(am_str_printf(&file, "%s/generation_config.json", m->dir));
        AM_TRY(read_eos(m, file.s, eos));
    } else {
        AM_TRY(read_eos(m, m->config_path, given(m->config, "eos_token_id")));
    }
done:
    am_str_release(&file);
    return st;
}

bool am_hf_model_is_eos(const am_hf_model *m, int64_t id)
{
    for (size_t i = 0; i < m->num_eos; i++)
        if (m->eos_ids[i] == id) return true;
    return false;
}
