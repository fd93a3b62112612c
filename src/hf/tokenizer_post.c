/* tokenizer, the post-processor: which tokens stand before and after every text, and whether offsets are
 * trimmed. TemplateProcessing, BERT's and RoBERTa's are the same thing here: a list of ids in front and one
 * behind. */
#include "hf/tokenizer_internal.h"

#include <string.h>

/* A later processor of a Sequence wraps what the earlier ones made. */
static am_status put_outside(uint32_t **list, size_t *n, size_t *cap, const uint32_t *ids, size_t num,
                             bool in_front)
{
    am_status st = AM_OK;
    if (num == 0) return AM_OK;
    AM_TRY(am_grow(list, cap, *n + num, sizeof **list));
    if (in_front) memmove(*list + num, *list, *n * sizeof **list);
    memcpy(in_front ? *list : *list + *n, ids, num * sizeof *ids);
    *n += num;
done:
    return st;
}

typedef struct id_list {
    uint32_t *at;
    size_t n, cap;
} id_list;

static am_status push_id(id_list *l, uint32_t id)
{
    am_status st = AM_OK;
    AM_TRY(am_grow(&l->at, &l->cap, l->n + 1, sizeof *l->at));
    l->at[l->n++] = id;
done:
    return st;
}

/* One {"SpecialToken": {"id": name}} of the template: its ids stand in special_tokens[name].ids. */
static am_status push_special(const am_tokenizer *t, json_t *processor, json_t *item, id_list *out)
{
    am_status st = AM_OK;
    const char *name = json_string_value(json_object_get(item, "id"));
    json_t *entry = name == NULL ? NULL : json_object_get(json_object_get(processor, "special_tokens"), name);
    json_t *ids = json_object_get(entry, "ids"), *id;
    size_t i;
    AM_CHECK(json_is_array(ids), AM_ERR_MODEL, "%s: post_processor: the template's token \"%s\" has no ids",
             t->path, name == NULL ? "?" : name);
    json_array_foreach(ids, i, id)
    {
        json_int_t v = json_is_integer(id) ? json_integer_value(id) : -1;
        AM_CHECK(v >= 0 && v < INT32_MAX, AM_ERR_MODEL, "%s: post_processor: an id of \"%s\" is not a number",
                 t->path, name);
        AM_TRY(push_id(out, (uint32_t)v));
    }
done:
    return st;
}

static am_status load_template(am_tokenizer *t, json_t *j)
{
    am_status st = AM_OK;
    id_list before = {0}, behind = {0};
    json_t *single = json_object_get(j, "single"), *item;
    size_t i;
    int sequences = 0;
    AM_CHECK(json_is_array(single), AM_ERR_MODEL, "%s: post_processor: TemplateProcessing without \"single\"",
             t->path);
    json_array_foreach(single, i, item)
    {
        json_t *special = json_object_get(item, "SpecialToken");
        if (special != NULL)
            AM_TRY(push_special(t, j, special, sequences == 0 ? &before : &behind));
        else
            sequences++;
    }
    AM_CHECK(sequences == 1, AM_ERR_MODEL,
             "%s: post_processor: a template that holds the text %d times is not supported", t->path,
             sequences);
    AM_TRY(put_outside(&t->prefix, &t->num_prefix, &t->prefix_cap, before.at, before.n, true));
    AM_TRY(put_outside(&t->suffix, &t->num_suffix, &t->suffix_cap, behind.at, behind.n, false));
done:
    am_free(&before.at);
    am_free(&behind.at);
    return st;
}

/* BertProcessing, RobertaProcessing: "cls" and "sep" are [token, id]. */
static am_status load_cls_sep(am_tokenizer *t, json_t *j)
{
    am_status st = AM_OK;
    json_t *cls = json_array_get(json_object_get(j, "cls"), 1),
           *sep = json_array_get(json_object_get(j, "sep"), 1);
    AM_CHECK(json_is_integer(cls) && json_is_integer(sep), AM_ERR_MODEL,
             "%s: post_processor: cls or sep without an id", t->path);
    uint32_t first = (uint32_t)json_integer_value(cls), last = (uint32_t)json_integer_value(sep);
    AM_TRY(put_outside(&t->prefix, &t->num_prefix, &t->prefix_cap, &first, 1, true));
    AM_TRY(put_outside(&t->suffix, &t->num_suffix, &t->suffix_cap, &last, 1, false));
done:
    return st;
}

static am_status load_trim(am_tokenizer *t, json_t *j)
{
    am_status st = AM_OK;
    bool trim = true;
    AM_TRY(am_tok_get_bool(t, j, "trim_offsets", true, &trim));
    if (!trim) return AM_OK;
    t->trim_offsets = true;
    AM_TRY(am_tok_get_bool(t, j, "add_prefix_space", true, &t->trim_prefix_space));
done:
    return st;
}

am_status am_tok_load_post(am_tokenizer *t, json_t *j)
{
    am_status st = AM_OK;
    size_t i;
    json_t *item;
    const char *type = am_tok_type(j);
    if (j == NULL || json_is_null(j)) return AM_OK;
    if (strcmp(type, "Sequence") == 0) {
        json_t *list = json_object_get(j, "processors");
        AM_CHECK(json_is_array(list), AM_ERR_MODEL, "%s: a Sequence post_processor without \"processors\"",
                 t->path);
        json_array_foreach(list, i, item) AM_TRY(am_tok_load_post(t, item));
    } else if (strcmp(type, "ByteLevel") == 0) {
        AM_TRY(load_trim(t, j));
    } else if (strcmp(type, "TemplateProcessing") == 0) {
        AM_TRY(load_template(t, j));
    } else if (strcmp(type, "BertProcessing") == 0) {
        AM_TRY(load_cls_sep(t, j));
    } else if (strcmp(type, "RobertaProcessing") == 0) {
        AM_TRY(load_trim(t, j));
        AM_TRY(load_cls_sep(t, j));
    } else {
        AM_FAIL(AM_ERR_MODEL,
                "%s: the post_processor \"%s\" is not supported (supported: ByteLevel, TemplateProcessing, "
                "BertProcessing, RobertaProcessing, Sequence)",
                t->path, type);
    }
done:
    return st;
}
