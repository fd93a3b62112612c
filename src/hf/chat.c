/* chat: opening a model's template, rendering.  chat_template finds it, chat_helper runs chat_script in
 * another process, chat_mask turns renders into tokens with a loss mask. */
#include "hf/chat_internal.h"
#include "hf/tokenizer_internal.h"

#include <stdlib.h>
#include <string.h>

static const double default_timeout_s = 60;

/* SHA-256 of the one template, or of "name NUL text NUL" of all of them in the order of their names. */
static am_status hash_templates(am_chat *c)
{
    am_status st = AM_OK;
    am_str all = {0};
    const char *key;
    json_t *v, *only = json_object_get(c->templates, "default");
    if (json_object_size(c->templates) == 1 && only != NULL)
        return am_sha256_hex(json_string_value(only), json_string_length(only), c->sha256);
    char *sorted = json_dumps(c->templates, JSON_SORT_KEYS | JSON_COMPACT);
    json_t *again = sorted == NULL ? NULL : json_loads(sorted, JSON_ALLOW_NUL, NULL);
    free(sorted);
    AM_CHECK(again != NULL, AM_ERR_MEMORY, "the host refused memory");
    json_object_foreach(again, key, v)
    {
        AM_TRY(am_str_append(&all, key, strlen(key) + 1));
        AM_TRY(am_str_append(&all, json_string_value(v), json_string_length(v) + 1));
    }
    AM_TRY(am_sha256_hex(all.s, all.len, c->sha256));
done:
    json_decref(again);
    am_str_release(&all);
    return st;
}

/* The helper's first answer: what it lacks, what Jinja refuses, or that it is ready. */
static am_status handshake(am_chat *c)
{
    am_status st = AM_OK;
    json_t *roles = NULL, *hello = NULL, *answer = NULL;
    AM_TRY(am_tok_load_roles(c->model_dir, &roles));
    hello = json_pack("{s:O, s:O}", "templates", c->templates, "variables", roles);
    AM_CHECK(hello != NULL, AM_ERR_MEMORY, "the host refused memory");
    AM_TRY(am_chat_helper_ask(&c->helper, hello, c->timeout_s, &answer));
    const char *missing = json_string_value(json_object_get(answer, "missing"));
    const char *error = json_string_value(json_object_get(answer, "error"));
    const char *name = json_string_value(json_object_get(answer, "template"));
    AM_CHECK(missing == NULL, AM_ERR_ENVIRONMENT,
             "chat templates need the Python package Jinja2, which %s does not have (%s): apt-get install "
             "python3-jinja2, or "
             "name another Python with AM_PYTHON",
             c->helper.python, missing);
    AM_CHECK(error == NULL, AM_ERR_MODEL, "%s: the chat template \"%s\" is not valid: %s", c->model_dir,
             name == NULL ? "?" : name, error);
    c->generation = json_incref(json_object_get(answer, "generation"));
    AM_CHECK(json_is_object(c->generation), AM_ERR_INTERNAL,
             "the chat template helper did not say that it is ready");
done:
    json_decref(roles);
    json_decref(hello);
    json_decref(answer);
    return st;
}

am_status am_chat_open(const char *model_dir, const am_tokenizer *tokenizer, const am_chat_options *options,
                       am_chat **out)
{
    static const am_chat_options defaults = {0};
    am_status st = AM_OK;
    am_chat *c = NULL;
    const am_chat_options *o = options != NULL ? options : &defaults;
    *out = NULL;
    AM_TRY(am_calloc(1, sizeof *c, &c));
    c->helper.fd = -1;
    pthread_mutex_init(&c->lock, NULL);
    c->tokenizer = tokenizer;
    c->timeout_s = o->timeout_s > 0 ? o->timeout_s : default_timeout_s;
    AM_TRY(am_strdup(model_dir, &c->model_dir));
    if (o->template_name != NULL) AM_TRY(am_strdup(o->template_name, &c->template_name));
    AM_TRY(am_chat_find_templates(model_dir, o->template_path, &c->templates));
    AM_CHECK(c->templates != NULL, AM_ERR_MODEL,
             "%s has no chat template (chat_template.jinja, or the key chat_template of "
             "tokenizer_config.json); a base "
             "model has none: give one, or train on text",
             model_dir);
    AM_CHECK(o->template_name == NULL || json_object_get(c->templates, o->template_name) != NULL,
             AM_ERR_CONFIG, "%s has no chat template of the name \"%s\"", model_dir, o->template_name);
    AM_TRY(hash_templates(c));
    AM_TRY(am_chat_helper_start(&c->helper, o->python));
    AM_TRY(handshake(c));
    *out = c;
    c = NULL;
done:
    am_chat_free(&c);
    return st;
}

void am_chat_free(am_chat **p)
{
    am_chat *c = *p;
    if (c == NULL) return;
    am_chat_helper_stop(&c->helper);
    pthread_mutex_destroy(&c->lock);
    json_decref(c->templates);
    json_decref(c->generation);
    am_free(&c->model_dir);
    am_free(&c->template_name);
    am_free(p);
}

const char *am_chat_sha256(const am_chat *c)
{
    return c->sha256;
}

/* ---- rendering ---- */

/* NULL when there are several and none is the default. */
static const char *choose_template(const am_chat *c, const json_t *tools)
{
    if (c->template_name != NULL) return c->template_name;
    bool has_tools = tools != NULL && !json_is_null(tools);
    if (has_tools && json_object_get(c->templates, "tool_use") != NULL) return "tool_use";
    return json_object_get(c->templates, "default") != NULL ? "default" : NULL;
}

bool am_chat_has_blocks(const am_chat *c, const json_t *tools)
{
    const char *name = choose_template(c, tools);
    return name != NULL && json_is_true(json_object_get(c->generation, name));
}

static am_status check_chat(const json_t *messages, const json_t *tools)
{
    am_status st = AM_OK;
    size_t i;
    json_t *m;
    AM_CHECK(json_is_array(messages) && json_array_size(messages) > 0, AM_ERR_DATA,
             "\"messages\" is not a list of at least one message");
    json_array_foreach((json_t *)messages, i, m)
    {
        AM_CHECK(json_is_object(m), AM_ERR_DATA, "messages[%zu] is not an object", i);
        AM_CHECK(json_is_string(json_object_get(m, "role")), AM_ERR_DATA, "messages[%zu] has no \"role\"", i);
    }
    AM_CHECK(tools == NULL || json_is_null(tools) || json_is_array(tools), AM_ERR_DATA,
             "\"tools\" is not a list");
done:
    return st;
}

static am_status make_request(const am_chat *c, const json_t *messages, const json_t *tools,
                              const am_chat_cut *cuts, size_t num_cuts, json_t **out)
{
    am_status st = AM_OK;
    json_t *list = json_array();
    const char *name = choose_template(c, tools);
    AM_CHECK(name != NULL, AM_ERR_MODEL,
             "%s has several chat templates and none is called \"default\": name one", c->model_dir);
    for (size_t i = 0; i < num_cuts; i++) {
        json_t *cut = json_pack("[I, b]", (json_int_t)cuts[i].n, (int)cuts[i].generation_prompt);
        AM_CHECK(json_array_append_new(list, cut) == 0, AM_ERR_MEMORY, "the host refused memory");
    }
    *out = json_pack("{s:s, s:O, s:O*, s:O}", "template", name, "messages", messages, "tools", tools, "cuts",
                     list);
    AM_CHECK(*out != NULL, AM_ERR_MEMORY, "the host refused memory");
done:
    json_decref(list);
    return st;
}

am_status am_chat_render_cuts(am_chat *c, const json_t *messages, const json_t *tools,
                              const am_chat_cut *cuts, size_t num_cuts, json_t **renders)
{
    am_status st = AM_OK;
    json_t *request = NULL, *answer = NULL;
    *renders = NULL;
    AM_TRY(check_chat(messages, tools));
    AM_TRY(make_request(c, messages, tools, cuts, num_cuts, &request));
    pthread_mutex_lock(&c->lock);
    st = am_chat_helper_ask(&c->helper, request, c->timeout_s, &answer);
    pthread_mutex_unlock(&c->lock);
    AM_TRY(st);
    const char *error = json_string_value(json_object_get(answer, "error"));
    AM_CHECK(error == NULL, AM_ERR_DATA, "the chat template refuses these messages: %s", error);
    *renders = json_incref(json_object_get(answer, "renders"));
    AM_CHECK(json_array_size(*renders) == num_cuts, AM_ERR_INTERNAL,
             "the chat template helper left out a render");
done:
    json_decref(request);
    json_decref(answer);
    return st;
}

am_status am_chat_render(am_chat *c, const json_t *messages, const json_t *tools, bool add_generation_prompt,
                         am_str *out)
{
    am_status st = AM_OK;
    json_t *renders = NULL;
    am_chat_cut cut = {json_array_size(messages), add_generation_prompt};
    AM_TRY(am_chat_render_cuts(c, messages, tools, &cut, 1, &renders));
    json_t *r = json_array_get(renders, 0), *text = json_object_get(r, "text");
    const char *error = json_string_value(json_object_get(r, "error"));
    AM_CHECK(error == NULL, AM_ERR_DATA, "the chat template refuses these messages: %s", error);
    AM_TRY(am_str_append(out, json_string_value(text), json_string_length(text)));
done:
    json_decref(renders);
    return st;
}
