/* The sentences about keys and sections that no table knows: what the person may have meant, or where it
 * belongs. */
#include "config/config_internal.h"

#include <string.h>

static am_status collect_keys(const am_option *rows, const char ***names, size_t *n, size_t *cap)
{
    am_status st = AM_OK;
    for (const am_option *o = rows; o != NULL && o->key != NULL; o++) {
        if (strchr(o->key, '*') != NULL) continue;
        AM_TRY(am_grow(names, cap, *n + 1, sizeof(char *)));
        (*names)[(*n)++] = o->key;
    }
done:
    return st;
}

/* Where else a key of that name stands: in another section, or with another `_target_` of this one. */
static am_status elsewhere(const am_section *section, const am_target *target, const char *key, am_str *out)
{
    am_status st = AM_OK;
    for (const am_target *t = section->targets; t != NULL && t->name != NULL; t++) {
        if (t->remedy != NULL || t == target || am_option_find(&(am_section){0}, t, key) == NULL) continue;
        AM_TRY(am_str_printf(out, "; it belongs to _target_ %s", t->example));
        return AM_OK;
    }
    for (const am_section *s = am_sections; s->name != NULL; s++) {
        if (s == section || s->name[0] == '\0' || strchr(s->name, '*') != NULL) continue;
        const am_option *o = am_option_find(s, NULL, key);
        if (o == NULL || o->effect == AM_EFFECT_NONE || strcmp(o->key, key) != 0) continue;
        AM_TRY(am_str_printf(out, "; it belongs to the section `%s`", s->name));
        return AM_OK;
    }
done:
    return st;
}

am_status am_config_unknown_key(const am_document *doc, const am_section *section, const am_target *target,
                                const char *name, const char *key, am_mark mark)
{
    am_status st = AM_OK;
    const char **names = NULL;
    size_t n = 0, cap = 0;
    am_str hint = {0};
    AM_TRY(am_str_append(&hint, "", 0));
    AM_TRY(collect_keys(target != NULL ? target->options : NULL, &names, &n, &cap));
    AM_TRY(collect_keys(section->options, &names, &n, &cap));
    const char *nearest = n > 0 ? am_did_you_mean(key, names, n) : NULL;
    if (nearest != NULL)
        AM_TRY(am_str_printf(&hint, "; did you mean \"%s\"?", nearest));
    else
        AM_TRY(elsewhere(section, target, key, &hint));
    if (hint.len == 0 && name[0] != '\0')
        AM_TRY(am_str_printf(&hint, "; `automodel train --options %s` lists its keys", name));
    AM_FAIL(AM_ERR_CONFIG, "%s: unknown key \"%s\" in %s%s%s%s", am_mark_text(doc, mark), key, name,
            target != NULL ? " with _target_ " : "", target != NULL ? target->name : "", hint.s);
done:
    am_free(&names);
    am_str_release(&hint);
    return st;
}

am_status am_config_unknown_section(const am_document *doc, const char *name, am_mark mark)
{
    am_status st = AM_OK;
    const char **names = NULL;
    size_t n = 0, cap = 0;
    AM_TRY(collect_keys(am_options_top, &names, &n, &cap));
    for (const am_section *s = am_sections; s->name != NULL; s++) {
        if (s->name[0] == '\0' || strchr(s->name, '*') != NULL) continue;
        AM_TRY(am_grow(&names, &cap, n + 1, sizeof(char *)));
        names[n++] = s->name;
    }
    const char *nearest = am_did_you_mean(name, names, n);
    AM_FAIL(AM_ERR_CONFIG, "%s: unknown section \"%s\"%s%s%s", am_mark_text(doc, mark), name,
            nearest != NULL ? "; did you mean \"" : "; `automodel train --options all` lists the sections",
            nearest != NULL ? nearest : "", nearest != NULL ? "\"?" : "");
done:
    am_free(&names);
    return st;
}
