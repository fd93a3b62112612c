/* Document + tables → resolved values.
 * bind_root walks the sections of the recipe, bind_key finds the row of each key and does what its effect
 * says; then sections the recipe leaves out get their defaults, and aliases (`seed` for `rng.seed`) are
 * settled last, when their targets exist. */
#include "config/config_internal.h"

#include <string.h>

/* An alias met on the way. */
typedef struct pending {
    const am_option *option;
    char *from, *to;
    const am_node *node;
} pending;

typedef struct binder {
    am_config *cfg;
    pending *aliases;
    size_t num_aliases, cap_aliases;
} binder;

typedef struct place {
    const am_section *section;
    const am_target *target;
    const char *name; /* of the section; "" at top level */
} place;

am_value *am_config_find(const am_config *cfg, const char *path)
{
    for (size_t i = 0; i < cfg->num_values; i++)
        if (strcmp(cfg->values[i]->path, path) == 0) return cfg->values[i];
    return NULL;
}

static am_status join(const char *section, const char *key, char **out)
{
    am_status st = AM_OK;
    am_str s = {0};
    AM_TRY(am_str_printf(&s, "%s%s%s", section, section[0] != '\0' ? "." : "", key));
    *out = s.s;
done:
    return st;
}

static am_status add_value(am_config *cfg, const char *path, const am_option *o, am_value **out)
{
    am_status st = AM_OK;
    am_value *v = NULL;
    AM_TRY(am_grow(&cfg->values, &cfg->cap_values, cfg->num_values + 1, sizeof(am_value *)));
    AM_TRY(am_calloc(1, sizeof *v, &v));
    v->option = o;
    v->is_null = true;
    AM_TRY(am_strdup(path, &v->path));
    AM_TRY(am_strdup("default", &v->where));
    cfg->values[cfg->num_values++] = v;
    *out = v;
    v = NULL;
done:
    am_value_free(&v);
    return st;
}

static am_status set_default(am_config *cfg, am_value *v)
{
    am_status st = AM_OK;
    const char *text = v->option->default_text;
    am_value_clear(v);
    if (text == NULL) return AM_OK;
    if (v->option->type != AM_OPTION_FLOATS) return am_value_set_scalar(&cfg->doc, v, text, true);
    char item[64]; /* "[0.9, 0.999]" */
    for (const char *c = text; *c != '\0' && c[1] != '\0'; c += strcspn(c + 1, ",") + 1) {
        snprintf(item, sizeof item, "%.*s", (int)strcspn(c + 1 + (c[1] == ' '), ",]"), c + 1 + (c[1] == ' '));
        if (item[0] != '\0') AM_TRY(am_value_add_item(&cfg->doc, v, item, v->mark));
    }
done:
    return st;
}

static am_status add_defaults(am_config *cfg, const am_option *rows, const char *prefix)
{
    am_status st = AM_OK;
    char *path = NULL;
    am_value *v = NULL;
    for (const am_option *o = rows; o != NULL && o->key != NULL; o++) {
        if (o->effect != AM_EFFECT_USED || o->alias != NULL) continue;
        AM_TRY(join(prefix, o->key, &path));
        AM_TRY(add_value(cfg, path, o, &v));
        AM_TRY(set_default(cfg, v));
        am_free(&path);
    }
done:
    am_free(&path);
    return st;
}

static am_status add_ignored(am_config *cfg, am_mark mark, const char *path, const char *why)
{
    am_status st = AM_OK;
    am_str s = {0};
    AM_TRY(am_grow(&cfg->ignored, &cfg->cap_ignored, cfg->num_ignored + 1, sizeof(char *)));
    AM_TRY(am_str_printf(&s, "%s: %s: %s", am_mark_text(&cfg->doc, mark), path, why));
    cfg->ignored[cfg->num_ignored++] = s.s;
    s = (am_str){0};
done:
    am_str_release(&s);
    return st;
}

static am_status mark_given(am_config *cfg, am_value *v, am_mark mark)
{
    v->given = true;
    v->mark = mark;
    am_free(&v->where);
    return am_strdup(am_mark_text(&cfg->doc, mark), &v->where);
}

static am_status set_from_scalar(binder *b, am_value *v, const am_node *n)
{
    am_status st = AM_OK;
    char *text = NULL;
    AM_TRY(am_environment_expand(&b->cfg->doc, n->mark, n->text, &text));
    bool is_null = am_text_is_null(text, n->plain) && !am_in_list(v->option->values, text, false);
    if (is_null && v->option->null_text == NULL) { /* a written null leaves the default in force */
        v->given = false;
        AM_TRY(set_default(b->cfg, v));
    } else {
        AM_TRY(mark_given(b->cfg, v, n->mark));
        AM_TRY(am_value_set_scalar(&b->cfg->doc, v, is_null ? v->option->null_text : text, n->plain));
    }
done:
    am_free(&text);
    return st;
}

static am_status set_from_list(binder *b, am_value *v, const am_node *n)
{
    am_status st = AM_OK;
    char *text = NULL;
    am_document *doc = &b->cfg->doc;
    AM_TRY(mark_given(b->cfg, v, n->mark));
    am_value_clear(v);
    v->is_null = false;
    for (size_t i = 0; i < n->count; i++) {
        const am_node *item = n->items[i];
        AM_CHECK(item->kind == AM_NODE_SCALAR, AM_ERR_CONFIG, "%s: %s: an entry must be a single value",
                 am_mark_text(doc, item->mark), v->path);
        AM_TRY(am_environment_expand(doc, item->mark, item->text, &text));
        AM_TRY(am_value_add_item(doc, v, text, item->mark));
        am_free(&text);
    }
done:
    am_free(&text);
    return st;
}

static am_status bind_key(binder *b, const place *at, const char *prefix, const char *key, am_mark mark,
                          const am_node *n);

static am_status set_from_records(binder *b, am_value *v, const am_node *n)
{
    am_status st = AM_OK;
    am_document *doc = &b->cfg->doc;
    const am_section rows = {.name = "", .options = v->option->fields};
    am_str prefix = {0};
    char *path = NULL;
    AM_TRY(mark_given(b->cfg, v, n->mark));
    v->is_null = n->count == 0;
    v->count = n->count;
    for (size_t i = 0; i < n->count; i++) {
        const am_node *item = n->items[i];
        AM_CHECK(item->kind == AM_NODE_MAPPING, AM_ERR_CONFIG,
                 "%s: %s: each entry is a mapping `{pattern: …}`", am_mark_text(doc, item->mark), v->path);
        prefix.len = 0;
        AM_TRY(am_str_printf(&prefix, "%s.%zu", v->path, i));
        size_t first = b->cfg->num_values;
        AM_TRY(add_defaults(b->cfg, rows.options, prefix.s));
        for (size_t j = first; j < b->cfg->num_values; j++) b->cfg->values[j]->is_field = true;
        const place at = {&rows, NULL, prefix.s};
        for (size_t j = 0; j < item->count; j++)
            AM_TRY(bind_key(b, &at, prefix.s, item->pairs[j].key->text, item->pairs[j].key->mark,
                            item->pairs[j].value));
        for (const am_option *o = rows.options; o->key != NULL; o++) {
            AM_TRY(join(prefix.s, o->key, &path));
            AM_CHECK(!o->required || am_config_find(b->cfg, path)->given, AM_ERR_CONFIG, "%s: %s is missing",
                     am_mark_text(doc, item->mark), path);
            am_free(&path);
        }
    }
done:
    am_free(&path);
    am_str_release(&prefix);
    return st;
}

static am_status set_value(binder *b, am_value *v, const am_node *n)
{
    am_status st = AM_OK;
    am_document *doc = &b->cfg->doc;
    const am_option *o = v->option;
    bool list = o->type == AM_OPTION_STRINGS || o->type == AM_OPTION_FLOATS;
    if (am_node_is_null(n) && o->type == AM_OPTION_RECORDS) return AM_OK;
    if (o->type == AM_OPTION_RECORDS) {
        AM_CHECK(n->kind == AM_NODE_SEQUENCE, AM_ERR_CONFIG, "%s: %s: a list of mappings is expected",
                 am_mark_text(doc, n->mark), v->path);
        return set_from_records(b, v, n);
    }
    AM_CHECK(n->kind == AM_NODE_SCALAR || (list && n->kind == AM_NODE_SEQUENCE), AM_ERR_CONFIG,
             "%s: %s: a %s is expected, not a %s", am_mark_text(doc, n->mark), v->path,
             o->type == AM_OPTION_ENUM ? o->values : am_option_type_name(o->type),
             n->kind == AM_NODE_SEQUENCE ? "list" : "mapping");
    AM_TRY(n->kind == AM_NODE_SCALAR ? set_from_scalar(b, v, n) : set_from_list(b, v, n));
    AM_CHECK(o->count == 0 || v->count == o->count, AM_ERR_CONFIG,
             "%s: %s: %zu entries are expected, not %zu", am_mark_text(doc, n->mark), v->path, o->count,
             v->count);
done:
    return st;
}

static am_status refuse_key(binder *b, const char *path, const am_option *o, am_mark mark, const am_node *n)
{
    am_status st = AM_OK;
    char *text = NULL;
    bool asks = true, truth;
    if (n->kind == AM_NODE_SCALAR) {
        AM_TRY(am_environment_expand(&b->cfg->doc, n->mark, n->text, &text));
        asks = !am_text_is_null(text, n->plain) && !am_in_list(o->off, text, true) &&
               !(am_text_parse_bool(text, &truth) && !truth && am_in_list(o->off, "false", false));
    } else if (n->count == 0) {
        asks = false;
    }
    if (!asks) goto done;
    if (n->kind == AM_NODE_SCALAR)
        AM_FAIL(AM_ERR_CONFIG, "%s: %s: %s is not offered: %s", am_mark_text(&b->cfg->doc, mark), path, text,
                o->remedy);
    AM_FAIL(AM_ERR_CONFIG, "%s: %s is not offered: %s", am_mark_text(&b->cfg->doc, mark), path, o->remedy);
done:
    am_free(&text);
    return st;
}

static am_status defer_alias(binder *b, const place *at, const char *path, const am_option *o,
                             const am_node *n)
{
    am_status st = AM_OK;
    AM_TRY(am_grow(&b->aliases, &b->cap_aliases, b->num_aliases + 1, sizeof(pending)));
    pending *p = &b->aliases[b->num_aliases++];
    *p = (pending){.option = o, .node = n};
    AM_TRY(am_strdup(path, &p->from));
    AM_TRY(o->alias[0] == '.' ? join(at->name, o->alias + 1, &p->to) : am_strdup(o->alias, &p->to));
done:
    return st;
}

/* ---- keys and sections ---- */

/* `prefix` is the path of the mapping that holds `key`; rows are looked up by what follows the section's
 * name. */
static am_status bind_key(binder *b, const place *at, const char *prefix, const char *key, am_mark mark,
                          const am_node *n)
{
    am_status st = AM_OK;
    char *path = NULL;
    AM_TRY(join(prefix, key, &path));
    const char *row = at->name[0] != '\0' ? path + strlen(at->name) + 1 : path;
    const am_option *o = am_option_find(at->section, at->target, row);
    bool inner = am_option_is_prefix(at->section, at->target, row);
    if (n->kind == AM_NODE_MAPPING && inner) {
        for (size_t i = 0; i < n->count; i++)
            AM_TRY(bind_key(b, at, path, n->pairs[i].key->text, n->pairs[i].key->mark, n->pairs[i].value));
    } else if (o == NULL) {
        if (inner && am_node_is_null(n)) goto done;
        AM_CHECK(!inner, AM_ERR_CONFIG, "%s: %s: a mapping is expected", am_mark_text(&b->cfg->doc, n->mark),
                 path);
        AM_TRY(am_config_unknown_key(&b->cfg->doc, at->section, at->target, at->name, row, mark));
    } else if (o->effect == AM_EFFECT_NONE) {
        AM_TRY(add_ignored(b->cfg, mark, path, o->remedy));
    } else if (o->effect == AM_EFFECT_REFUSED) {
        AM_TRY(refuse_key(b, path, o, mark, n));
    } else if (o->alias != NULL) {
        if (!am_node_is_null(n)) AM_TRY(defer_alias(b, at, path, o, n));
    } else {
        AM_TRY(set_value(b, am_config_find(b->cfg, path), n));
    }
done:
    am_free(&path);
    return st;
}

static am_status choose_target(binder *b, const am_section *s, const char *name, const am_node *n,
                               am_mark mark, const am_target **out)
{
    am_status st = AM_OK;
    char *text = NULL;
    am_document *doc = &b->cfg->doc;
    am_pair *p = n != NULL ? am_node_find(n, "_target_") : NULL;
    *out = NULL;
    if (p != NULL && !am_node_is_null(p->value)) {
        AM_CHECK(p->value->kind == AM_NODE_SCALAR, AM_ERR_CONFIG, "%s: %s._target_ must be a name",
                 am_mark_text(doc, p->value->mark), name);
        AM_TRY(am_environment_expand(doc, p->value->mark, p->value->text, &text));
        *out = am_target_match(s->targets, text);
        if (*out == NULL || (*out)->remedy != NULL)
            AM_TRY(am_target_refuse(doc, p->value->mark, name, s->targets, text));
    } else {
        AM_CHECK(s->default_target != NULL, AM_ERR_CONFIG, "%s: %s needs a _target_, for example %s",
                 am_mark_text(doc, mark), name, s->targets[1].example);
        *out = am_target_match(s->targets, s->default_target);
    }
done:
    am_free(&text);
    return st;
}

static am_status add_section(binder *b, const am_section *s, const char *name, const am_node *n, am_mark mark,
                             place *out)
{
    am_status st = AM_OK;
    am_config *cfg = b->cfg;
    AM_TRY(am_grow(&cfg->sections, &cfg->cap_sections, cfg->num_sections + 1, sizeof(am_bound_section)));
    am_bound_section *bound = &cfg->sections[cfg->num_sections];
    *bound = (am_bound_section){.section = s, .given = n != NULL};
    AM_TRY(am_strdup(name, &bound->name));
    cfg->num_sections++;
    if (s->targets != NULL) AM_TRY(choose_target(b, s, name, n, mark, &bound->target));
    AM_TRY(add_defaults(cfg, bound->target != NULL ? bound->target->options : NULL, name));
    AM_TRY(add_defaults(cfg, s->options, name));
    *out = (place){s, bound->target, bound->name};
done:
    return st;
}

/* A section that is refused as a whole, or only when one of its keys switches it on. */
static am_status refuse_section(binder *b, const am_section *s, am_mark mark, const am_node *n)
{
    am_document *doc = &b->cfg->doc;
    bool truth;
    if (s->enabled_key == NULL)
        return am_fail(AM_ERR_CONFIG, "%s: %s is not offered: %s", am_mark_text(doc, mark), s->name,
                       s->remedy);
    for (size_t i = 0; n->kind == AM_NODE_MAPPING && i < n->count; i++) {
        const am_node *v = n->pairs[i].value;
        if (!am_in_list(s->enabled_key, n->pairs[i].key->text, false) || v->kind != AM_NODE_SCALAR) continue;
        if (am_node_is_null(v) || (am_text_parse_bool(v->text, &truth) && !truth)) continue;
        return am_fail(AM_ERR_CONFIG, "%s: %s.%s: %s is not offered: %s", am_mark_text(doc, v->mark), s->name,
                       n->pairs[i].key->text, v->text, s->remedy);
    }
    return add_ignored(b->cfg, mark, s->name, "not enabled");
}

static am_status bind_section(binder *b, const am_pair *p)
{
    am_status st = AM_OK;
    place at;
    const char *name = p->key->text;
    const am_section *s = am_section_find(name);
    am_document *doc = &b->cfg->doc;
    if (s == NULL) return am_config_unknown_section(&b->cfg->doc, name, p->key->mark);
    if (am_node_is_null(p->value)) return AM_OK;
    if (s->effect == AM_EFFECT_NONE) return add_ignored(b->cfg, p->key->mark, name, s->remedy);
    if (s->effect == AM_EFFECT_REFUSED) return refuse_section(b, s, p->key->mark, p->value);
    AM_CHECK(p->value->kind == AM_NODE_MAPPING, AM_ERR_CONFIG, "%s: %s must be a mapping of its keys",
             am_mark_text(doc, p->value->mark), name);
    AM_TRY(add_section(b, s, name, p->value, p->key->mark, &at));
    for (size_t i = 0; i < p->value->count; i++) {
        const am_pair *q = &p->value->pairs[i];
        if (s->targets != NULL && strcmp(q->key->text, "_target_") == 0) continue;
        AM_TRY(bind_key(b, &at, name, q->key->text, q->key->mark, q->value));
    }
done:
    return st;
}

static bool bound(const am_config *cfg, const am_section *s)
{
    for (size_t i = 0; i < cfg->num_sections; i++)
        if (cfg->sections[i].section == s) return true;
    return false;
}

static am_status bind_root(binder *b)
{
    am_status st = AM_OK;
    place top, ignored;
    const am_node *root = b->cfg->doc.root;
    AM_TRY(add_section(b, &am_sections[0], "", NULL, (am_mark){0}, &top));
    for (size_t i = 0; i < root->count; i++) {
        const am_pair *p = &root->pairs[i];
        const char *key = p->key->text;
        if (am_option_find(top.section, NULL, key) != NULL || am_option_is_prefix(top.section, NULL, key))
            AM_TRY(bind_key(b, &top, "", key, p->key->mark, p->value));
        else
            AM_TRY(bind_section(b, p));
    }
    for (const am_section *s = am_sections; s->name != NULL; s++) {
        bool has_defaults = s->targets == NULL || s->default_target != NULL;
        if (s->effect != AM_EFFECT_USED || strchr(s->name, '*') != NULL || !has_defaults || bound(b->cfg, s))
            continue;
        AM_TRY(add_section(b, s, s->name, NULL, (am_mark){0}, &ignored));
    }
done:
    return st;
}

static bool same_value(const am_value *a, const am_value *b)
{
    if (a->is_null != b->is_null || a->count != b->count) return false;
    for (size_t i = 0; i < a->count; i++)
        if (strcmp(a->items[i], b->items[i]) != 0) return false;
    bool same_text = (a->s == NULL) == (b->s == NULL) && (a->s == NULL || strcmp(a->s, b->s) == 0);
    return same_text && a->b == b->b && a->i == b->i && a->f == b->f && a->dtype == b->dtype;
}

static am_status settle_alias(binder *b, const pending *p)
{
    am_status st = AM_OK;
    am_config *cfg = b->cfg;
    am_value *to = am_config_find(cfg, p->to), *v = NULL;
    AM_ASSERT(to != NULL);
    if (!to->given) return set_value(b, to, p->node);
    /* Both spellings are there.  As anywhere, the command line wins over the recipe; within one of them they must agree. */
    bool override = p->node->mark.argument != NULL, overridden = strncmp(to->where, "command line", 12) == 0;
    AM_TRY(add_value(cfg, p->from, to->option, &v));
    cfg->num_values--; /* only compared, not kept */
    AM_TRY(set_value(b, v, p->node));
    if (override && !overridden) AM_TRY(set_value(b, to, p->node));
    AM_CHECK(override != overridden || same_value(to, v), AM_ERR_CONFIG,
             "%s: %s is another spelling of %s, which has another value (%s): keep one of the two",
             am_mark_text(&cfg->doc, p->node->mark), p->from, p->to, to->where);
done:
    am_value_free(&v);
    return st;
}

static am_status check_required(am_config *cfg)
{
    for (size_t i = 0; i < cfg->num_values; i++) {
        const am_value *v = cfg->values[i];
        if (!v->option->required || !v->is_null) continue;
        size_t len = strcspn(v->path, ".");
        const am_node *root = cfg->doc.root;
        for (size_t j = 0; j < root->count; j++) {
            const am_node *key = root->pairs[j].key;
            if (strlen(key->text) != len || strncmp(key->text, v->path, len) != 0) continue;
            return am_fail(AM_ERR_CONFIG, "%s: %s is missing: %s", am_mark_text(&cfg->doc, key->mark),
                           v->path, v->option->help);
        }
    }
    return AM_OK;
}

am_status am_config_bind(am_config *cfg)
{
    am_status st = AM_OK;
    binder b = {.cfg = cfg};
    AM_TRY(bind_root(&b));
    for (size_t i = 0; i < b.num_aliases; i++) AM_TRY(settle_alias(&b, &b.aliases[i]));
    AM_TRY(check_required(cfg));
    AM_TRY(am_config_check_relations(cfg));
done:
    for (size_t i = 0; i < b.num_aliases; i++) {
        am_free(&b.aliases[i].from);
        am_free(&b.aliases[i].to);
    }
    am_free(&b.aliases);
    return st;
}
