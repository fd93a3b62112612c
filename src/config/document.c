/* YAML to a tree of nodes that know where they stand, from libyaml's events.
 * Only what a recipe needs is taken: one document, no tags, unique keys; depth, size and the number of nodes
 * after aliases are bounded, so that a hostile file costs nothing.  An alias becomes a copy of its anchor's
 * node: overrides of one place must not change another. */
#include "config/config_internal.h"

#include <string.h>
#include <yaml.h>

typedef struct anchor {
    char *name;
    am_node *node; /* NULL while the anchored collection is still open */
} anchor;

typedef struct loader {
    yaml_parser_t parser;
    am_document *doc;
    const char *text;
    anchor *anchors;
    size_t num_anchors, cap_anchors;
    am_node *open[AM_DOC_MAX_DEPTH];
    am_node *keys[AM_DOC_MAX_DEPTH]; /* key waiting for its value */
    size_t anchor_of[AM_DOC_MAX_DEPTH];
    int depth;
} loader;

enum {
    NO_ANCHOR = 0,   /* anchors are counted from 1 in anchor_of */
    MAX_KEYS = 4096, /* of one mapping: keys are searched one by one */
};

const char *am_mark_text(const am_document *doc, am_mark mark)
{
    static _Thread_local char text[4][512];
    static _Thread_local int turn;
    char *t = text[turn = (turn + 1) % 4];
    if (mark.argument != NULL)
        snprintf(t, sizeof text[0], "command line, %s", mark.argument);
    else
        snprintf(t, sizeof text[0], "%s:%d:%d", doc->name, mark.line, mark.column);
    return t;
}

am_status am_document_node(am_document *doc, am_node_kind kind, am_mark mark, am_node **out)
{
    am_status st = AM_OK;
    am_node *n = NULL;
    AM_CHECK(doc->num_nodes < AM_DOC_MAX_NODES, AM_ERR_CONFIG,
             "%s: the recipe has more than %d nodes once its aliases are expanded", am_mark_text(doc, mark),
             AM_DOC_MAX_NODES);
    AM_TRY(am_calloc(1, sizeof *n, &n));
    n->kind = kind;
    n->mark = mark;
    n->next = doc->all;
    doc->all = n;
    doc->num_nodes++;
    *out = n;
done:
    return st;
}

am_status am_document_scalar(am_document *doc, const char *text, bool plain, am_mark mark, am_node **out)
{
    am_status st = AM_OK;
    AM_TRY(am_document_node(doc, AM_NODE_SCALAR, mark, out));
    (*out)->plain = plain;
    AM_TRY(am_strdup(text, &(*out)->text));
done:
    return st;
}

void am_document_release(am_document *doc)
{
    while (doc->all != NULL) {
        am_node *n = doc->all;
        doc->all = n->next;
        am_free(&n->text);
        am_free(&n->items);
        am_free(&n->pairs);
        am_free(&n);
    }
    for (size_t i = 0; i < doc->num_arguments; i++) am_free(&doc->arguments[i]);
    am_free(&doc->arguments);
    am_free(&doc->name);
    *doc = (am_document){0};
}

am_status am_node_add_item(am_node *seq, am_node *item)
{
    am_status st = AM_OK;
    AM_TRY(am_grow(&seq->items, &seq->cap, seq->count + 1, sizeof(am_node *)));
    seq->items[seq->count++] = item;
done:
    return st;
}

am_pair *am_node_find(const am_node *map, const char *key)
{
    for (size_t i = 0; i < map->count; i++)
        if (strcmp(map->pairs[i].key->text, key) == 0) return &map->pairs[i];
    return NULL;
}

am_status am_node_set(am_node *map, am_node *key, am_node *value)
{
    am_status st = AM_OK;
    am_pair *old = am_node_find(map, key->text);
    if (old != NULL) {
        *old = (am_pair){key, value};
        return AM_OK;
    }
    AM_CHECK(map->count < MAX_KEYS, AM_ERR_CONFIG, "line %d: a mapping of more than %d keys is no recipe",
             key->mark.line, MAX_KEYS);
    AM_TRY(am_grow(&map->pairs, &map->cap, map->count + 1, sizeof(am_pair)));
    map->pairs[map->count++] = (am_pair){key, value};
done:
    return st;
}

bool am_text_is_null(const char *text, bool plain)
{
    return plain && am_in_list("null|Null|NULL|none|None|~|", text, false);
}

bool am_node_is_null(const am_node *n)
{
    return n->kind == AM_NODE_SCALAR && am_text_is_null(n->text, n->plain);
}

static am_mark mark_of(yaml_mark_t m)
{
    return (am_mark){(int)m.line + 1, (int)m.column + 1, NULL};
}

/* A deep copy; the copies keep the position of the anchor's text, which is what an error must show. */
static am_status copy_node(loader *l, const am_node *from, int depth, am_node **out)
{
    am_status st = AM_OK;
    am_node *n = NULL, *a = NULL, *b = NULL;
    if (from->kind == AM_NODE_SCALAR)
        return am_document_scalar(l->doc, from->text, from->plain, from->mark, out);
    AM_CHECK(depth < AM_DOC_MAX_DEPTH, AM_ERR_CONFIG, "%s: nested deeper than %d levels",
             am_mark_text(l->doc, from->mark), AM_DOC_MAX_DEPTH);
    AM_TRY(am_document_node(l->doc, from->kind, from->mark, &n));
    for (size_t i = 0; i < from->count; i++) {
        if (from->kind == AM_NODE_SEQUENCE) {
            AM_TRY(copy_node(l, from->items[i], depth + 1, &a));
            AM_TRY(am_node_add_item(n, a));
        } else {
            AM_TRY(copy_node(l, from->pairs[i].key, depth + 1, &a));
            AM_TRY(copy_node(l, from->pairs[i].value, depth + 1, &b));
            AM_TRY(am_node_set(n, a, b));
        }
    }
    *out = n;
done:
    return st;
}

/* `<<: *base` and `<<: [*a, *b]`: what the mapping does not have itself comes from there. */
static am_status merge_into(loader *l, am_node *map, const am_node *from)
{
    am_status st = AM_OK;
    if (from->kind == AM_NODE_SEQUENCE) {
        for (size_t i = 0; i < from->count; i++) AM_TRY(merge_into(l, map, from->items[i]));
        return AM_OK;
    }
    AM_CHECK(from->kind == AM_NODE_MAPPING, AM_ERR_CONFIG,
             "%s: `<<` takes an alias of a mapping, or a list of them", am_mark_text(l->doc, from->mark));
    for (size_t i = 0; i < from->count; i++)
        if (am_node_find(map, from->pairs[i].key->text) == NULL)
            AM_TRY(am_node_set(map, from->pairs[i].key, from->pairs[i].value));
done:
    return st;
}

static am_status close_mapping(loader *l, am_node *map)
{
    am_pair *merge = am_node_find(map, "<<");
    if (merge == NULL || !merge->key->plain) return AM_OK;
    am_node *from = merge->value;
    size_t at = (size_t)(merge - map->pairs);
    memmove(merge, merge + 1, (map->count - at - 1) * sizeof *merge);
    map->count--;
    return merge_into(l, map, from);
}

/* Put a finished or just opened node where the enclosing collection wants it. */
static am_status place(loader *l, am_node *n)
{
    am_status st = AM_OK;
    if (l->depth == 0) {
        l->doc->root = n;
        return AM_OK;
    }
    am_node *parent = l->open[l->depth - 1], **key = &l->keys[l->depth - 1];
    if (parent->kind == AM_NODE_SEQUENCE) return am_node_add_item(parent, n);
    if (*key == NULL) {
        AM_CHECK(n->kind == AM_NODE_SCALAR, AM_ERR_CONFIG,
                 "%s: a key must be a plain word, not a list or mapping", am_mark_text(l->doc, n->mark));
        const am_pair *old = am_node_find(parent, n->text);
        AM_CHECK(old == NULL, AM_ERR_CONFIG,
                 "%s: the key \"%s\" stands twice; the first is at line %d: remove one",
                 am_mark_text(l->doc, n->mark), n->text, old->key->mark.line);
        *key = n;
        return AM_OK;
    }
    AM_TRY(am_node_set(parent, *key, n));
    *key = NULL;
done:
    return st;
}

static am_status add_anchor(loader *l, const yaml_char_t *name, am_node *node, size_t *index)
{
    am_status st = AM_OK;
    *index = NO_ANCHOR;
    if (name == NULL) return AM_OK;
    AM_TRY(am_grow(&l->anchors, &l->cap_anchors, l->num_anchors + 1, sizeof(anchor)));
    AM_TRY(am_strdup((const char *)name, &l->anchors[l->num_anchors].name));
    l->anchors[l->num_anchors].node = node;
    *index = ++l->num_anchors;
done:
    return st;
}

static am_status refuse_tag(loader *l, const yaml_char_t *tag, am_mark mark)
{
    if (tag == NULL) return AM_OK;
    return am_fail(AM_ERR_CONFIG,
                   "%s: the tag %s is refused: a recipe holds values, never types or code; remove it",
                   am_mark_text(l->doc, mark), (const char *)tag);
}

static am_status on_scalar(loader *l, const yaml_event_t *e)
{
    am_status st = AM_OK;
    am_node *n = NULL;
    size_t index;
    am_mark mark = mark_of(e->start_mark);
    const char *text = (const char *)e->data.scalar.value;
    AM_TRY(refuse_tag(l, e->data.scalar.tag, mark));
    AM_CHECK(strlen(text) == e->data.scalar.length, AM_ERR_CONFIG, "%s: a NUL character stands in this text",
             am_mark_text(l->doc, mark));
    AM_TRY(am_document_scalar(l->doc, text, e->data.scalar.style == YAML_PLAIN_SCALAR_STYLE, mark, &n));
    AM_TRY(add_anchor(l, e->data.scalar.anchor, n, &index));
    AM_TRY(place(l, n));
done:
    return st;
}

static am_status on_open(loader *l, am_node_kind kind, const yaml_char_t *tag, const yaml_char_t *name,
                         am_mark mark)
{
    am_status st = AM_OK;
    am_node *n = NULL;
    AM_TRY(refuse_tag(l, tag, mark));
    AM_CHECK(l->depth < AM_DOC_MAX_DEPTH, AM_ERR_CONFIG, "%s: nested deeper than %d levels",
             am_mark_text(l->doc, mark), AM_DOC_MAX_DEPTH);
    AM_TRY(am_document_node(l->doc, kind, mark, &n));
    AM_TRY(place(l, n));
    AM_TRY(add_anchor(l, name, NULL, &l->anchor_of[l->depth]));
    l->open[l->depth] = n;
    l->keys[l->depth++] = NULL;
done:
    return st;
}

static am_status on_close(loader *l)
{
    am_status st = AM_OK;
    am_node *n = l->open[--l->depth];
    if (n->kind == AM_NODE_MAPPING) AM_TRY(close_mapping(l, n));
    if (l->anchor_of[l->depth] != NO_ANCHOR) l->anchors[l->anchor_of[l->depth] - 1].node = n;
done:
    return st;
}

static am_status on_alias(loader *l, const yaml_event_t *e)
{
    am_status st = AM_OK;
    am_node *copy = NULL;
    const anchor *found = NULL;
    am_mark mark = mark_of(e->start_mark);
    const char *name = (const char *)e->data.alias.anchor;
    for (size_t i = 0; i < l->num_anchors; i++) /* the last one of that name counts */
        if (strcmp(l->anchors[i].name, name) == 0) found = &l->anchors[i];
    AM_CHECK(found != NULL, AM_ERR_CONFIG,
             "%s: the alias *%s has no anchor &%s before it (a text that begins with * is written in quotes)",
             am_mark_text(l->doc, mark), name, name);
    AM_CHECK(found->node != NULL, AM_ERR_CONFIG, "%s: the alias *%s stands inside its own anchor",
             am_mark_text(l->doc, mark), name);
    AM_TRY(copy_node(l, found->node, l->depth, &copy));
    AM_TRY(place(l, copy));
done:
    return st;
}

static am_status on_event(loader *l, const yaml_event_t *e, int *documents)
{
    am_mark mark = mark_of(e->start_mark);
    switch (e->type) {
    case YAML_DOCUMENT_START_EVENT:
        if (++*documents == 1) return AM_OK;
        return am_fail(AM_ERR_CONFIG, "%s: a second document begins here; a recipe is one document",
                       am_mark_text(l->doc, mark));
    case YAML_SCALAR_EVENT:
        return on_scalar(l, e);
    case YAML_ALIAS_EVENT:
        return on_alias(l, e);
    case YAML_SEQUENCE_START_EVENT:
        return on_open(l, AM_NODE_SEQUENCE, e->data.sequence_start.tag, e->data.sequence_start.anchor, mark);
    case YAML_MAPPING_START_EVENT:
        return on_open(l, AM_NODE_MAPPING, e->data.mapping_start.tag, e->data.mapping_start.anchor, mark);
    case YAML_SEQUENCE_END_EVENT:
    case YAML_MAPPING_END_EVENT:
        return on_close(l);
    default:
        return AM_OK;
    }
}

/* The reader (wrong encoding, control characters) knows a byte, not a line. */
static am_status syntax_error(const loader *l)
{
    const yaml_parser_t *p = &l->parser;
    am_mark mark = mark_of(p->problem_mark);
    if (p->error == YAML_MEMORY_ERROR)
        return am_fail(AM_ERR_MEMORY, "the host refused memory for the YAML parser");
    if (p->error == YAML_READER_ERROR) {
        mark = (am_mark){1, 1, NULL};
        for (size_t i = 0; i < p->problem_offset; i++) {
            mark.line += l->text[i] == '\n';
            mark.column = l->text[i] == '\n' ? 1 : mark.column + 1;
        }
    }
    return am_fail(AM_ERR_CONFIG, "%s: not valid YAML: %s%s%s", am_mark_text(l->doc, mark),
                   p->problem != NULL ? p->problem : "unknown problem", p->context != NULL ? ", " : "",
                   p->context != NULL ? p->context : "");
}

static am_status run_events(loader *l)
{
    am_status st = AM_OK;
    yaml_event_t e;
    int documents = 0;
    bool more = true;
    while (more) {
        if (!yaml_parser_parse(&l->parser, &e)) return syntax_error(l);
        more = e.type != YAML_STREAM_END_EVENT;
        st = on_event(l, &e, &documents);
        yaml_event_delete(&e);
        if (st != AM_OK) return st;
    }
    return AM_OK;
}

am_status am_document_parse(const char *text, size_t len, const char *name, am_document *out)
{
    am_status st = AM_OK;
    loader l = {.doc = out, .text = text};
    bool started = false;
    *out = (am_document){0};
    AM_TRY(am_strdup(name, &out->name));
    AM_CHECK(len <= AM_DOC_MAX_BYTES, AM_ERR_CONFIG, "%s has %zu bytes; a recipe has at most %d", name, len,
             AM_DOC_MAX_BYTES);
    started = yaml_parser_initialize(&l.parser) == 1;
    AM_CHECK(started, AM_ERR_MEMORY, "the host refused memory for the YAML parser");
    yaml_parser_set_encoding(&l.parser, YAML_UTF8_ENCODING);
    yaml_parser_set_input_string(&l.parser, (const unsigned char *)text, len);
    AM_TRY(run_events(&l));
    AM_CHECK(out->root != NULL && !am_node_is_null(out->root), AM_ERR_CONFIG,
             "%s is empty: a recipe names at least a model, a dataset and an optimizer", name);
    AM_CHECK(out->root->kind == AM_NODE_MAPPING, AM_ERR_CONFIG,
             "%s: a recipe is a mapping of sections (`model:`, `dataset:` …)",
             am_mark_text(out, out->root->mark));
done:
    for (size_t i = 0; i < l.num_anchors; i++) am_free(&l.anchors[i].name);
    am_free(&l.anchors);
    if (started) yaml_parser_delete(&l.parser);
    return st;
}
