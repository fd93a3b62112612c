/* chat, finding the template: the separate files of today first, then the keys of older
 * tokenizer_config.json. */
#include "hf/chat_internal.h"
#include "hf/hf.h"

#include <dirent.h>
#include <string.h>

enum { MAX_TEMPLATE = 16 << 20 };

static am_status put_text(json_t *templates, const char *name, const char *text, size_t n, const char *path)
{
    am_status st = AM_OK;
    json_t *v = json_stringn(text, n); /* refuses what is not UTF-8 */
    AM_CHECK(v != NULL, AM_ERR_MODEL, "%s: the chat template is not UTF-8", path);
    AM_CHECK(json_object_set(templates, name, v) == 0, AM_ERR_MODEL,
             "%s: the name of a chat template is not UTF-8", path);
done:
    json_decref(v);
    return st;
}

static am_status put_file(json_t *templates, const char *name, const char *path)
{
    am_status st = AM_OK;
    char *text = NULL;
    size_t n = 0;
    AM_TRY(am_file_read(path, MAX_TEMPLATE, &text, &n));
    AM_TRY(put_text(templates, name, text, n, path));
done:
    am_free(&text);
    return st;
}

/* additional_chat_templates/NAME.jinja */
static am_status put_folder(json_t *templates, const char *model_dir)
{
    am_status st = AM_OK;
    char *folder = NULL, *path = NULL, *name = NULL;
    struct dirent *e;
    DIR *d = NULL;
    AM_TRY(am_path_join(model_dir, "additional_chat_templates", &folder));
    d = opendir(folder);
    while (d != NULL && (e = readdir(d)) != NULL) {
        size_t n = strlen(e->d_name);
        if (n <= 6 || strcmp(e->d_name + n - 6, ".jinja") != 0) continue;
        AM_TRY(am_path_join(folder, e->d_name, &path));
        AM_TRY(am_strndup(e->d_name, n - 6, &name));
        AM_TRY(put_file(templates, name, path));
        am_free(&path);
        am_free(&name);
    }
done:
    if (d != NULL) closedir(d);
    am_free(&folder);
    am_free(&path);
    am_free(&name);
    return st;
}

/* The key `chat_template` of a JSON file: a string, or a list of {name, template}. */
static am_status put_key(json_t *templates, const char *model_dir, const char *file)
{
    am_status st = AM_OK;
    char *path = NULL;
    json_t *j = NULL, *item;
    size_t i;
    AM_TRY(am_path_join(model_dir, file, &path));
    if (!am_path_exists(path)) goto done;
    AM_TRY(am_json_load(path, 0, &j));
    json_t *v = json_object_get(j, "chat_template");
    if (json_is_string(v))
        AM_TRY(put_text(templates, "default", json_string_value(v), json_string_length(v), path));
    json_array_foreach(v, i, item)
    {
        const char *name = json_string_value(json_object_get(item, "name"));
        json_t *text = json_object_get(item, "template");
        AM_CHECK(name != NULL && json_is_string(text), AM_ERR_MODEL,
                 "%s: chat_template[%zu] is not {\"name\": …, \"template\": …}", path, i);
        AM_TRY(put_text(templates, name, json_string_value(text), json_string_length(text), path));
    }
done:
    am_free(&path);
    json_decref(j);
    return st;
}

am_status am_chat_find_templates(const char *model_dir, const char *template_path, json_t **out)
{
    am_status st = AM_OK;
    char *path = NULL;
    json_t *found = json_object();
    *out = NULL;
    AM_CHECK(found != NULL, AM_ERR_MEMORY, "the host refused memory");
    if (template_path != NULL) {
        AM_TRY(put_file(found, "default", template_path));
    } else {
        AM_TRY(am_path_join(model_dir, "chat_template.jinja", &path));
        if (am_path_exists(path)) AM_TRY(put_file(found, "default", path));
        AM_TRY(put_folder(found, model_dir));
        if (json_object_size(found) == 0) AM_TRY(put_key(found, model_dir, "tokenizer_config.json"));
        if (json_object_size(found) == 0) AM_TRY(put_key(found, model_dir, "chat_template.json"));
    }
    if (json_object_size(found) > 0) {
        *out = found;
        found = NULL;
    }
done:
    am_free(&path);
    json_decref(found);
    return st;
}

bool am_chat_exists(const char *model_dir)
{
    json_t *templates = NULL;
    bool found = am_chat_find_templates(model_dir, NULL, &templates) == AM_OK && templates != NULL;
    json_decref(templates);
    return found;
}
