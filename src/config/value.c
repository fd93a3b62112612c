/* One value: from the text of a scalar to what the row's type asks for, with its range checked. */
#include "config/config_internal.h"

#include <math.h>
#include <string.h>

bool am_text_parse_bool(const char *text, bool *out)
{
    if (am_in_list("true|True|TRUE|yes|Yes|YES|on|On|ON", text, false))
        *out = true;
    else if (am_in_list("false|False|FALSE|no|No|NO|off|Off|OFF", text, false))
        *out = false;
    else
        return false;
    return true;
}

void am_value_clear(am_value *v)
{
    am_free(&v->s);
    for (size_t i = 0; i < v->count; i++)
        if (v->items != NULL) am_free(&v->items[i]);
    am_free(&v->items);
    am_free(&v->numbers);
    v->count = v->cap_items = v->cap_numbers = 0;
    v->is_null = true;
}

void am_value_free(am_value **v)
{
    if (*v == NULL) return;
    am_value_clear(*v);
    am_free(&(*v)->path);
    am_free(&(*v)->where);
    am_free(v);
}

static am_status wrong_type(const am_document *doc, const am_value *v, am_mark mark, const char *text)
{
    const am_option *o = v->option;
    return am_fail(AM_ERR_CONFIG, "%s: %s: \"%s\" is not a %s%s%s", am_mark_text(doc, mark), v->path, text,
                   o->type == AM_OPTION_FLOATS ? "number" : am_option_type_name(o->type),
                   o->units != NULL ? ", in " : "", o->units != NULL ? o->units : "");
}

static am_status check_range(const am_document *doc, const am_value *v, am_mark mark, const char *text,
                             double x)
{
    const am_option *o = v->option;
    if (isfinite(x) && (o->range == NULL || am_in_range(o->range, x))) return AM_OK;
    return am_fail(AM_ERR_CONFIG, "%s: %s: %s is outside of %s%s%s", am_mark_text(doc, mark), v->path, text,
                   o->range != NULL ? o->range : "the finite numbers", o->units != NULL ? " " : "",
                   o->units != NULL ? o->units : "");
}

/* "true=full|false=none": what `text` stands for; NULL when the map does not have it. */
static const char *map_word(const char *map, const char *text, size_t *len)
{
    size_t n = strlen(text);
    while (map != NULL) {
        const char *equals = strchr(map, '='), *end = strchr(map, '|');
        if ((size_t)(equals - map) == n && strncmp(map, text, n) == 0) {
            *len = end != NULL ? (size_t)(end - equals - 1) : strlen(equals + 1);
            return equals + 1;
        }
        map = end != NULL ? end + 1 : NULL;
    }
    return NULL;
}

/* Which of "a|b|c" the person may have meant, as `; did you mean "b"?` or nothing. */
static am_status add_suggestion(am_str *s, const char *list, const char *word)
{
    am_status st = AM_OK;
    char entry[160];
    const char *name = entry;
    for (const char *e = list; e != NULL; e = strchr(e, '|') != NULL ? strchr(e, '|') + 1 : NULL) {
        snprintf(entry, sizeof entry, "%.*s", (int)strcspn(e, "|"), e);
        if (am_did_you_mean(word, &name, 1) == NULL) continue;
        AM_TRY(am_str_printf(s, "; did you mean \"%s\"?", entry));
        return AM_OK;
    }
done:
    return st;
}

static am_status set_enum(const am_document *doc, am_value *v, const char *text)
{
    am_status st = AM_OK;
    am_str hint = {0};
    const am_option *o = v->option;
    size_t len;
    bool b;
    /* True, yes and on are the `true` of YAML */
    if (!am_in_list(o->values, text, false) && am_text_parse_bool(text, &b)) text = b ? "true" : "false";
    const char *mapped = map_word(o->map, text, &len);
    if (mapped != NULL) return am_strndup(mapped, len, &v->s);
    AM_CHECK(!am_in_list(o->off, text, false), AM_ERR_CONFIG, "%s: %s: %s is refused: %s",
             am_mark_text(doc, v->mark), v->path, text, o->remedy);
    if (!am_in_list(o->values, text, false)) {
        AM_TRY(am_str_append(&hint, "", 0));
        AM_TRY(add_suggestion(&hint, o->values, text));
        AM_FAIL(AM_ERR_CONFIG, "%s: %s: \"%s\" is not one of %s%s", am_mark_text(doc, v->mark), v->path, text,
                o->values, hint.s);
    }
    AM_TRY(am_strdup(text, &v->s));
done:
    am_str_release(&hint);
    return st;
}

static am_status set_dtype(const am_document *doc, am_value *v, const char *text, bool plain)
{
    am_status st = AM_OK;
    v->is_null = plain && strcmp(text, "auto") == 0;
    if (v->is_null) return AM_OK;
    AM_CHECK(am_dtype_parse(text, &v->dtype) && am_in_list(v->option->values, am_dtype_name(v->dtype), false),
             AM_ERR_CONFIG, "%s: %s: \"%s\" is not one of %s (bfloat16 and float32 are other spellings)",
             am_mark_text(doc, v->mark), v->path, text, v->option->values);
done:
    return st;
}

am_status am_value_set_scalar(const am_document *doc, am_value *v, const char *text, bool plain)
{
    am_status st = AM_OK;
    const am_option *o = v->option;
    am_value_clear(v);
    v->is_null = false;
    switch (o->type) {
    case AM_OPTION_BOOL:
        if (!am_text_parse_bool(text, &v->b)) return wrong_type(doc, v, v->mark, text);
        break;
    case AM_OPTION_INT:
        if (!am_parse_i64(text, &v->i)) return wrong_type(doc, v, v->mark, text);
        AM_TRY(check_range(doc, v, v->mark, text, (double)v->i));
        break;
    case AM_OPTION_FLOAT:
        if (!am_parse_f64(text, &v->f)) return wrong_type(doc, v, v->mark, text);
        AM_TRY(check_range(doc, v, v->mark, text, v->f));
        break;
    case AM_OPTION_ENUM:
        AM_TRY(set_enum(doc, v, text));
        break;
    case AM_OPTION_DTYPE:
        AM_TRY(set_dtype(doc, v, text, plain));
        break;
    case AM_OPTION_TARGET: {
        const am_target *t = am_target_match(o->targets, text);
        if (t == NULL || t->remedy != NULL) return am_target_refuse(doc, v->mark, v->path, o->targets, text);
        AM_TRY(am_strdup(t->example, &v->s));
        break;
    }
    case AM_OPTION_STRINGS:
    case AM_OPTION_FLOATS:
        AM_TRY(am_value_add_item(doc, v, text, v->mark));
        break;
    default:
        AM_TRY(am_strdup(text, &v->s));
        break;
    }
done:
    return st;
}

am_status am_value_add_item(const am_document *doc, am_value *v, const char *text, am_mark mark)
{
    am_status st = AM_OK;
    double x = 0;
    v->is_null = false;
    if (v->option->type == AM_OPTION_FLOATS) {
        if (!am_parse_f64(text, &x)) return wrong_type(doc, v, mark, text);
        AM_TRY(check_range(doc, v, mark, text, x));
    }
    AM_TRY(am_grow(&v->items, &v->cap_items, v->count + 1, sizeof(char *)));
    AM_TRY(am_grow(&v->numbers, &v->cap_numbers, v->count + 1, sizeof(double)));
    AM_TRY(am_strdup(text, &v->items[v->count]));
    v->numbers[v->count++] = x;
done:
    return st;
}
