/* tokenizer, roles of tokens: "eos_token" → "<|im_end|>", from tokenizer_config.json and special_tokens_map.json.  These can
 * be as long as a small vocabulary (every added token once more), so they are read as streams and only roles become trees. */
#include "hf/tokenizer_internal.h"

#include "hf/hf.h"

enum { MAX_CONFIG = 64 << 20 };

static bool names_role(const char *key)
{
    size_t n = strlen(key);
    return n >= 6 && strcmp(key + n - 6, "_token") == 0;
}

/* The first file that names a role counts. */
static am_status add_role(const char *key, json_t *value, json_t *roles)
{
    am_status st = AM_OK;
    const char *inner;
    json_t *v;
    if (json_is_object(value) && strcmp(key, "extra_special_tokens") == 0)
        json_object_foreach(value, inner, v) AM_TRY(add_role(inner, v, roles));
    if (!names_role(key) || json_object_get(roles, key) != NULL) return AM_OK;
    json_t *text = json_is_object(value) ? json_object_get(value, "content") : value;
    if (!json_is_string(text)) return AM_OK;
    AM_CHECK(json_object_set(roles, key, text) == 0, AM_ERR_MEMORY, "the host refused memory");
done:
    return st;
}

/* A member, behind its name. */
static am_status read_member(am_json_scan *j, const char *key, json_t *roles)
{
    am_status st = AM_OK;
    const char *text;
    size_t n;
    am_str name = {0};
    json_t *value = NULL;
    AM_TRY(am_json_scan_expect(j, ':'));
    AM_TRY(am_json_scan_skip(j, &text, &n));
    if (!names_role(key) && strcmp(key, "extra_special_tokens") != 0) return AM_OK;
    AM_TRY(am_str_printf(&name, "%s (%s)", j->path, key));
    AM_TRY(am_json_parse(text, n, name.s, &value));
    AM_TRY(add_role(key, value, roles));
done:
    json_decref(value);
    am_str_release(&name);
    return st;
}

static am_status read_members(am_json_scan *j, json_t *roles)
{
    am_status st = AM_OK;
    const char *s;
    char *key = NULL;
    size_t n;
    bool more = false;
    if (am_json_scan_peek(j) != '{') return am_json_scan_skip(j, NULL, NULL);
    AM_TRY(am_json_scan_expect(j, '{'));
    for (bool first = true;; first = false) {
        AM_TRY(am_json_scan_next(j, '}', first, &more));
        if (!more) break;
        AM_TRY(am_json_scan_string(j, &s, &n));
        am_free(&key);
        AM_TRY(am_strndup(s, n, &key));
        AM_TRY(read_member(j, key, roles));
    }
done:
    am_free(&key);
    return st;
}

static am_status read_roles(const char *path, json_t *roles)
{
    am_status st = AM_OK;
    char *text = NULL;
    size_t n = 0;
    am_json_scan j = {.path = path, .max_depth = AM_JSON_MAX_DEPTH};
    AM_TRY(am_tok_read_file(path, MAX_CONFIG, &text, &n, NULL));
    AM_TRY(am_json_scan_begin(&j, text, n));
    AM_TRY(read_members(&j, roles));
    AM_TRY(am_json_scan_finish(&j));
done:
    am_json_scan_release(&j);
    am_free(&text);
    return st;
}

am_status am_tok_load_roles(const char *dir, json_t **out)
{
    static const char *const files[] = {"tokenizer_config.json", "special_tokens_map.json"};
    am_status st = AM_OK;
    json_t *roles = json_object();
    char *path = NULL;
    AM_CHECK(roles != NULL, AM_ERR_MEMORY, "the host refused memory");
    for (int i = 0; i < 2; i++) {
        AM_TRY(am_path_join(dir, files[i], &path));
        if (am_path_exists(path)) AM_TRY(read_roles(path, roles));
        am_free(&path);
    }
    *out = roles;
    roles = NULL;
done:
    am_free(&path);
    json_decref(roles);
    return st;
}
