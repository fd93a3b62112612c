/* Loading, freeing and the getters. */
#include "config/config_internal.h"

#include <string.h>

am_status am_config_parse(const char *text, size_t len, const char *name, int num_args,
                          const char *const *args, am_config **out)
{
    am_status st = AM_OK;
    am_config *cfg = NULL;
    *out = NULL;
    AM_TRY(am_calloc(1, sizeof *cfg, &cfg));
    AM_TRY(am_document_parse(text, len, name, &cfg->doc));
    AM_TRY(am_override_apply(&cfg->doc, num_args, args));
    AM_TRY(am_config_bind(cfg));
    *out = cfg;
    cfg = NULL;
done:
    am_config_free(&cfg);
    return st;
}

am_status am_config_load(const char *path, int num_args, const char *const *args, am_config **out)
{
    am_status st = AM_OK;
    char *text = NULL;
    size_t len = 0;
    *out = NULL;
    st = am_file_read(path, AM_DOC_MAX_BYTES, &text, &len);
    if (st == AM_ERR_IO)
        AM_FAIL(AM_ERR_CONFIG, "the recipe cannot be read: %s (in a job of several nodes it lies where all of them see it)",
                am_error_message());
    AM_TRY(st);
    AM_TRY(am_config_parse(text, len, path, num_args, args, out));
done:
    am_free(&text);
    return st;
}

void am_config_free(am_config **cfg_ptr)
{
    am_config *cfg = *cfg_ptr;
    if (cfg == NULL) return;
    for (size_t i = 0; i < cfg->num_values; i++) am_value_free(&cfg->values[i]);
    for (size_t i = 0; i < cfg->num_sections; i++) am_free(&cfg->sections[i].name);
    for (size_t i = 0; i < cfg->num_ignored; i++) am_free(&cfg->ignored[i]);
    am_free(&cfg->values);
    am_free(&cfg->sections);
    am_free(&cfg->ignored);
    am_document_release(&cfg->doc);
    am_free(cfg_ptr);
}

static const am_bound_section *find_section(const am_config *cfg, const char *name)
{
    for (size_t i = 0; i < cfg->num_sections; i++)
        if (strcmp(cfg->sections[i].name, name) == 0) return &cfg->sections[i];
    return NULL;
}

bool am_config_section(const am_config *cfg, const char *section)
{
    const am_bound_section *s = find_section(cfg, section);
    return s != NULL && s->given;
}

const char *am_config_section_at(const am_config *cfg, const char *pattern, size_t i)
{
    for (size_t j = 0; j < cfg->num_sections; j++)
        if (cfg->sections[j].given && am_glob_match(pattern, cfg->sections[j].name) && i-- == 0)
            return cfg->sections[j].name;
    return NULL;
}

const char *am_config_target(const am_config *cfg, const char *section)
{
    const am_bound_section *s = find_section(cfg, section);
    return s != NULL && s->target != NULL ? s->target->name : NULL;
}

static void defect(const am_config *cfg, const char *path, const char *what)
{
    /* the counter is the one thing a getter changes; cfg was made by am_config_parse and is never really
     * const */
    atomic_fetch_add(&((am_config *)(uintptr_t)cfg)->defects, 1);
    am_log(AM_LOG_ERROR, "config", "defect: the program asked for the option \"%s\", %s", path, what);
}

/* Does any table know "section.key", whatever `_target_` is in force? */
static bool known_anywhere(const char *path)
{
    char name[128];
    size_t len = strcspn(path, ".");
    if (len >= sizeof name) return false;
    memcpy(name, path, len);
    name[len] = '\0';
    const am_section *s = path[len] == '.' ? am_section_find(name) : &am_sections[0];
    const char *key = path[len] == '.' ? path + len + 1 : path;
    if (s == NULL) return false;
    if (am_option_find(s, NULL, key) != NULL) return true;
    for (const am_target *t = s->targets; t != NULL && t->name != NULL; t++)
        if (am_option_find(s, t, key) != NULL) return true;
    return false;
}

/* `types` is a set of 1 << type.  NULL when there is nothing to read. */
static am_value *lookup(const am_config *cfg, const char *path, unsigned types)
{
    am_value *v = am_config_find(cfg, path);
    if (v == NULL) {
        if (!known_anywhere(path)) defect(cfg, path, "which is in no table");
        return NULL;
    }
    if ((types >> v->option->type & 1) == 0) {
        defect(cfg, path, "as another type than its table says");
        return NULL;
    }
    atomic_store_explicit(&v->read, true, memory_order_relaxed);
    return v->is_null ? NULL : v;
}

#define TYPE(t)  (1u << AM_OPTION_##t)
#define ANY_TYPE (~0u)

bool am_config_given(const am_config *cfg, const char *path)
{
    const am_value *v = lookup(cfg, path, ANY_TYPE);
    return v != NULL && v->given;
}

bool am_config_has(const am_config *cfg, const char *path)
{
    return lookup(cfg, path, ANY_TYPE) != NULL;
}

const char *am_config_where(const am_config *cfg, const char *path)
{
    const am_value *v = am_config_find(cfg, path);
    if (v == NULL && !known_anywhere(path)) defect(cfg, path, "which is in no table");
    return v != NULL ? v->where : "default";
}

bool am_config_bool(const am_config *cfg, const char *path)
{
    const am_value *v = lookup(cfg, path, TYPE(BOOL));
    return v != NULL && v->b;
}

int64_t am_config_int(const am_config *cfg, const char *path)
{
    const am_value *v = lookup(cfg, path, TYPE(INT));
    return v != NULL ? v->i : 0;
}

double am_config_float(const am_config *cfg, const char *path)
{
    const am_value *v = lookup(cfg, path, TYPE(FLOAT));
    return v != NULL ? v->f : 0;
}

const char *am_config_string(const am_config *cfg, const char *path)
{
    const am_value *v = lookup(cfg, path, TYPE(STRING) | TYPE(ENUM) | TYPE(TARGET));
    return v != NULL ? v->s : NULL;
}

bool am_config_dtype(const am_config *cfg, const char *path, am_dtype *out)
{
    const am_value *v = lookup(cfg, path, TYPE(DTYPE));
    if (v != NULL) *out = v->dtype;
    return v != NULL;
}

size_t am_config_count(const am_config *cfg, const char *path)
{
    const am_value *v = lookup(cfg, path, TYPE(STRINGS) | TYPE(FLOATS) | TYPE(RECORDS));
    return v != NULL ? v->count : 0;
}

const char *am_config_item(const am_config *cfg, const char *path, size_t i)
{
    const am_value *v = lookup(cfg, path, TYPE(STRINGS) | TYPE(FLOATS));
    return v != NULL && i < v->count ? v->items[i] : NULL;
}

double am_config_item_float(const am_config *cfg, const char *path, size_t i)
{
    const am_value *v = lookup(cfg, path, TYPE(FLOATS));
    return v != NULL && i < v->count ? v->numbers[i] : 0;
}

const char *am_config_ignored(const am_config *cfg, size_t i)
{
    return i < cfg->num_ignored ? cfg->ignored[i] : NULL;
}

const char *am_config_unread(const am_config *cfg, size_t i)
{
    for (size_t j = 0; j < cfg->num_values; j++) {
        const am_value *v = cfg->values[j];
        bool read = atomic_load_explicit(&v->read, memory_order_relaxed);
        if (v->given && !v->option->conditional && !read && i-- == 0) return v->path;
    }
    return NULL;
}

int am_config_defects(const am_config *cfg)
{
    return atomic_load(&((am_config *)(uintptr_t)cfg)->defects);
}
