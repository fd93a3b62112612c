/* card_value: what expressions evaluate to: config.json as such values, equality, and how a sentence shows
 * one. */
#include "graph/card_internal.h"

#include <math.h>
#include <string.h>

const char *card_kind_text(card_kind k)
{
    static const char *const texts[] = {
#define X(e, s) s,
        CARD_KIND_LIST(X)
#undef X
    };
    return texts[k];
}

static am_status from_object(card_arena *a, const json_t *j, card_val *out)
{
    am_status st = AM_OK;
    card_val *item = NULL;
    const char *key;
    json_t *value;
    size_t n = json_object_size(j);
    AM_TRY(card_alloc(a, n * sizeof *item, &item));
    AM_TRY(card_alloc(a, n * sizeof *out->key, &out->key));
    out->kind = CARD_V_MAP;
    json_object_foreach((json_t *)j, key, value)
    {
        AM_TRY(card_strndup(a, key, strlen(key), &out->key[out->num]));
        AM_TRY(card_from_json(a, value, &item[out->num++]));
    }
    out->item = item;
done:
    return st;
}

static am_status from_array(card_arena *a, const json_t *j, card_val *out)
{
    am_status st = AM_OK;
    card_val *item = NULL;
    size_t n = json_array_size(j);
    AM_TRY(card_alloc(a, n * sizeof *item, &item));
    for (size_t i = 0; i < n; i++) AM_TRY(card_from_json(a, json_array_get(j, i), &item[i]));
    *out = (card_val){.kind = CARD_V_LIST, .num = (int)n, .item = item};
done:
    return st;
}

am_status card_from_json(card_arena *a, const json_t *j, card_val *out)
{
    am_status st = AM_OK;
    double r;
    *out = (card_val){0};
    if (json_is_integer(j))
        *out = card_int(json_integer_value(j));
    else if (am_json_number(j, &r))
        *out = card_real(r); /* {"__float__": "Infinity"} too */
    else if (json_is_boolean(j))
        *out = card_bool(json_is_true(j));
    else if (json_is_array(j))
        AM_TRY(from_array(a, j, out));
    else if (json_is_object(j))
        AM_TRY(from_object(a, j, out));
    else if (json_is_string(j)) {
        out->kind = CARD_V_STR;
        AM_TRY(card_strndup(a, json_string_value(j), json_string_length(j), &out->s));
    }
done:
    return st;
}

const card_val *card_map_get(const card_val *map, const char *key)
{
    for (int i = 0; map->kind == CARD_V_MAP && i < map->num; i++)
        if (strcmp(map->key[i], key) == 0) return &map->item[i];
    return NULL;
}

bool card_equal(const card_val *a, const card_val *b)
{
    if (card_is_number(a) && card_is_number(b))
        return a->kind == CARD_V_INT && b->kind == CARD_V_INT ? a->i == b->i
                                                              : card_number(a) == card_number(b);
    if (a->kind != b->kind) return false;
    switch (a->kind) {
    case CARD_V_NONE:
        return true;
    case CARD_V_BOOL:
        return a->i == b->i;
    case CARD_V_STR:
        return strcmp(a->s, b->s) == 0;
    case CARD_V_LIST:
        if (a->num != b->num) return false;
        for (int i = 0; i < a->num; i++)
            if (!card_equal(&a->item[i], &b->item[i])) return false;
        return true;
    default:
        return false;
    }
}

am_status card_describe(const card_val *v, am_str *out)
{
    am_status st = AM_OK;
    switch (v->kind) {
    case CARD_V_NONE:
        AM_TRY(am_str_printf(out, "none"));
        break;
    case CARD_V_BOOL:
        AM_TRY(am_str_printf(out, v->i ? "true" : "false"));
        break;
    case CARD_V_INT:
        AM_TRY(am_str_printf(out, "%" PRId64, v->i));
        break;
    case CARD_V_REAL:
        AM_TRY(am_str_printf(out, "%.15g", v->r));
        break;
    case CARD_V_STR:
        AM_TRY(am_str_printf(out, "\"%s\"", v->s));
        break;
    case CARD_V_LIST:
        AM_TRY(am_str_printf(out, "["));
        for (int i = 0; i < v->num && i < 4; i++) {
            if (i) AM_TRY(am_str_printf(out, ", "));
            AM_TRY(card_describe(&v->item[i], out));
        }
        AM_TRY(am_str_printf(out, v->num > 4 ? ", …]" : "]"));
        break;
    case CARD_V_MAP:
        AM_TRY(am_str_printf(out, "{"));
        for (int i = 0; i < v->num && i < 4; i++) {
            AM_TRY(am_str_printf(out, "%s\"%s\": ", i ? ", " : "", v->key[i]));
            AM_TRY(card_describe(&v->item[i], out));
        }
        AM_TRY(am_str_printf(out, v->num > 4 ? ", …}" : "}"));
        break;
    default:
        AM_TRY(am_str_printf(out, "%s", card_kind_text(v->kind)));
    }
done:
    return st;
}
