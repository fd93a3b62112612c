/* Command-line overrides: `--a.b.c value`, `--a.b.c=value`, `--flag`.  They edit the document before it is
 * bound, so that a wrong override meets the same checks and sentences as a wrong line of the recipe.  A value
 * is a scalar as it stands; only one that begins with `[` or `{` is read as YAML. */
#include "config/config_internal.h"

#include <string.h>

static am_status keep_argument(am_document *doc, const char *path, size_t len, am_mark *mark)
{
    am_status st = AM_OK;
    am_str s = {0};
    AM_TRY(am_grow(&doc->arguments, &doc->cap_arguments, doc->num_arguments + 1, sizeof(char *)));
    AM_TRY(am_str_printf(&s, "--%.*s", (int)len, path));
    doc->arguments[doc->num_arguments++] = s.s;
    *mark = (am_mark){0, 0, s.s};
    s = (am_str){0};
done:
    am_str_release(&s);
    return st;
}

/* Nodes of another document, moved into `doc` and marked as coming from the command line. */
static void adopt_nodes(am_document *doc, am_document *from, am_mark mark)
{
    while (from->all != NULL) {
        am_node *n = from->all;
        from->all = n->next;
        n->mark = mark;
        n->next = doc->all;
        doc->all = n;
        doc->num_nodes++;
    }
    from->root = NULL;
}

static am_status value_node(am_document *doc, const char *text, am_mark mark, am_node **out)
{
    am_status st = AM_OK;
    am_document part = {0};
    am_str wrapped = {0};
    if (text[0] != '[' && text[0] != '{') return am_document_scalar(doc, text, true, mark, out);
    AM_TRY(am_str_printf(&wrapped, "v: %s", text));
    if (am_document_parse(wrapped.s, wrapped.len, mark.argument, &part) != AM_OK || part.root->count != 1)
        AM_FAIL(AM_ERR_CONFIG, "%s: the value %s is not a valid YAML list or mapping",
                am_mark_text(doc, mark), text);
    *out = part.root->pairs[0].value;
    adopt_nodes(doc, &part, mark);
done:
    am_document_release(&part);
    am_str_release(&wrapped);
    return st;
}

/* The child `name` of `parent`, made as an empty mapping when it is missing or null. */
static am_status descend(am_document *doc, am_node *parent, const char *name, am_mark mark, am_node **out)
{
    am_status st = AM_OK;
    am_node *key = NULL, *child = NULL;
    int64_t index;
    if (parent->kind == AM_NODE_SEQUENCE) {
        AM_CHECK(am_parse_i64(name, &index) && index >= 0 && (size_t)index < parent->count, AM_ERR_CONFIG,
                 "%s: \"%s\" is no entry of this list, which has %zu (0 is the first)",
                 am_mark_text(doc, mark), name, parent->count);
        *out = parent->items[index];
        return AM_OK;
    }
    am_pair *p = am_node_find(parent, name);
    if (p != NULL && !am_node_is_null(p->value)) {
        AM_CHECK(p->value->kind != AM_NODE_SCALAR, AM_ERR_CONFIG,
                 "%s: \"%s\" is the value \"%s\" in the recipe, not a mapping that could hold further keys",
                 am_mark_text(doc, mark), name, p->value->text);
        *out = p->value;
        return AM_OK;
    }
    AM_TRY(am_document_scalar(doc, name, true, mark, &key));
    AM_TRY(am_document_node(doc, AM_NODE_MAPPING, mark, &child));
    AM_TRY(am_node_set(parent, key, child));
    *out = child;
done:
    return st;
}

static am_status set_at(am_document *doc, am_node *parent, const char *name, am_node *value, am_mark mark)
{
    am_status st = AM_OK;
    am_node *key = NULL;
    int64_t index;
    if (parent->kind == AM_NODE_SEQUENCE) {
        AM_CHECK(am_parse_i64(name, &index) && index >= 0 && (size_t)index < parent->count, AM_ERR_CONFIG,
                 "%s: \"%s\" is no entry of this list, which has %zu (0 is the first)",
                 am_mark_text(doc, mark), name, parent->count);
        parent->items[index] = value;
        return AM_OK;
    }
    AM_TRY(am_document_scalar(doc, name, true, mark, &key));
    AM_TRY(am_node_set(parent, key, value));
done:
    return st;
}

static am_status apply_one(am_document *doc, const char *path, size_t len, const char *value)
{
    am_status st = AM_OK;
    am_mark mark = {0};
    am_node *node = doc->root, *v = NULL;
    char *words = NULL;
    AM_TRY(keep_argument(doc, path, len, &mark));
    AM_TRY(am_strndup(path, len, &words));
    AM_TRY(value_node(doc, value, mark, &v));
    int depth = 1;
    char *word = words;
    for (char *dot; (dot = strchr(word, '.')) != NULL; word = dot + 1) {
        *dot = '\0';
        AM_CHECK(*word != '\0', AM_ERR_CONFIG, "%s: a name is missing between two dots",
                 am_mark_text(doc, mark));
        AM_CHECK(++depth <= AM_DOC_MAX_DEPTH, AM_ERR_CONFIG, "%s: nested deeper than %d levels",
                 am_mark_text(doc, mark), AM_DOC_MAX_DEPTH);
        AM_TRY(descend(doc, node, word, mark, &node));
    }
    AM_CHECK(*word != '\0', AM_ERR_CONFIG, "%s: the name of an option is missing", am_mark_text(doc, mark));
    AM_CHECK(node->kind != AM_NODE_SCALAR, AM_ERR_CONFIG, "%s: the entry above it is a value, not a mapping",
             am_mark_text(doc, mark));
    AM_TRY(set_at(doc, node, word, v, mark));
done:
    am_free(&words);
    return st;
}

am_status am_override_apply(am_document *doc, int num_args, const char *const *args)
{
    am_status st = AM_OK;
    for (int i = 0; i < num_args; i++) {
        const char *a = args[i];
        AM_CHECK(strncmp(a, "--", 2) == 0 && a[2] != '\0', AM_ERR_USAGE,
                 "\"%s\" is no override: write --section.key value, or --section.key=value", a);
        const char *path = a + 2, *equals = strchr(path, '=');
        if (equals != NULL) {
            AM_TRY(apply_one(doc, path, (size_t)(equals - path), equals + 1));
        } else if (i + 1 < num_args && strncmp(args[i + 1], "--", 2) != 0) {
            AM_TRY(apply_one(doc, path, strlen(path), args[++i]));
        } else {
            AM_TRY(apply_one(doc, path, strlen(path), "true"));
        }
    }
done:
    return st;
}
