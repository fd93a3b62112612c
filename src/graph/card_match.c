/* card_match: a model whose type no card names, beside every card there is.
 * A card is tried twice: on the model as it is, which tells whether every tensor is named with its shape; and, where it is not, on
 * config.json alone, which gives the tensors that the card expects, to be held against those that are there. */
#include "graph/card.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_PATTERNS = 400 };

/* ---- names ---- */

/* "model.layers.12.mlp.weight" → "model.layers.{i}.mlp.weight"; further numbers become {…} alike. */
static am_status pattern_of(const char *name, am_str *out)
{
    am_status st = AM_OK;
    for (const char *at = name; *at;) {
        size_t n = strcspn(at, "."), digits = strspn(at, "0123456789");
        AM_TRY(digits == n && n > 0 ? am_str_printf(out, "{i}") : am_str_printf(out, "%.*s", (int)n, at));
        at += n;
        if (*at) AM_TRY(am_str_printf(out, "%c", *at++));
    }
done:
    return st;
}

static bool has_line(const am_str *list, const char *line)
{
    size_t n = strlen(line);
    for (const char *at = list->s; at; at = strchr(at, '\n')) {
        at += *at == '\n';
        if (strncmp(at, line, n) == 0 && (at[n] == '\n' || at[n] == '\0')) return true;
    }
    return false;
}

static am_status add_pattern(am_str *list, const char *name)
{
    am_status st = AM_OK;
    am_str p = {0};
    AM_TRY(pattern_of(name, &p));
    if (p.s && !has_line(list, p.s)) AM_TRY(am_str_printf(list, "%s%s", list->len ? "\n" : "", p.s));
done:
    am_str_release(&p);
    return st;
}

/* ---- expected tensors beside those that are there ---- */

typedef struct expected {
    const char *name;
    int64_t elements;
} expected;

static int by_name(const void *a, const void *b)
{
    return strcmp(((const expected *)a)->name, ((const expected *)b)->name);
}

/* One entry a tensor; parts of one tensor add their elements up. */
static am_status list_expected(am_graph *g, expected **out, size_t *count)
{
    am_status st = AM_OK;
    expected *e = NULL;
    size_t n = 0, cap = 0, kept = 0;
    for (int i = 0; i < am_graph_num_params(g); i++) {
        const am_param *p = am_graph_param_at(g, i);
        for (int k = 0; k < p->disk.num_tensors; k++) {
            AM_TRY(am_grow(&e, &cap, n + 1, sizeof *e));
            e[n++] = (expected){p->disk.tensor[k], am_param_elements(p) / p->disk.num_tensors};
        }
    }
    if (n) qsort(e, n, sizeof *e, by_name);
    for (size_t i = 0; i < n; i++) {
        if (kept && strcmp(e[kept - 1].name, e[i].name) == 0)
            e[kept - 1].elements += e[i].elements;
        else
            e[kept++] = e[i];
    }
    *out = e;
    *count = kept;
    e = NULL;
done:
    am_free(&e);
    return st;
}

static am_status compare_tensors(am_graph *g, const am_hf_model *model, am_card_match *m)
{
    am_status st = AM_OK;
    expected *e = NULL;
    size_t n = 0;
    AM_TRY(list_expected(g, &e, &n));
    for (size_t i = 0; i < n; i++) {
        const am_safetensors_tensor *t = am_hf_model_find(model, e[i].name);
        bool same = t && t->elements == e[i].elements;
        m->named += same;
        m->missing += !same;
        if (!same) AM_TRY(add_pattern(&m->missing_names, e[i].name));
    }
    for (int64_t i = 0; i < model->num_tensors; i++) {
        expected key = {.name = model->tensors[i]->name};
        const expected *found = n ? bsearch(&key, e, n, sizeof *e, by_name) : NULL;
        if (found && found->elements == model->tensors[i]->elements) continue;
        m->extra++;
        AM_TRY(add_pattern(&m->extra_names, model->tensors[i]->name));
    }
done:
    am_free(&e);
    return st;
}

/* ---- one card ---- */

static am_status elaborate(am_card *c, const am_hf_model *model, am_str *unread, am_graph **g)
{
    am_status st = AM_OK;
    am_card_options o = {.no_noise = true, .unread = unread};
    am_str_release(unread);
    AM_TRY(am_graph_create(1, 1, AM_F32, g));
    AM_TRY(am_card_elaborate(c, model, &o, *g));
done:
    return st;
}

static am_status try_card(const char *path, const am_hf_model *model, am_card_match *m)
{
    am_status st = AM_OK;
    am_card *c = NULL;
    am_graph *g = NULL;
    am_hf_model bare = *model; /* the same model, config.json alone */
    bare.num_tensors = 0;
    bare.num_files = 0;
    AM_TRY(am_strdup(path, &m->path));
    AM_TRY(am_card_open(path, &c));
    AM_TRY(am_strdup(am_card_family(c, 0) ? am_card_family(c, 0) : path, &m->name));
    m->derived = am_card_base(c) != NULL;
    m->tensors = model->num_tensors > 0 && elaborate(c, model, &m->unread, &g) == AM_OK;
    if (m->tensors) {
        m->named = model->num_tensors;
        goto done;
    }
    if (model->num_tensors > 0) AM_TRY(am_strdup(am_error_message(), &m->reason));
    am_error_clear();
    am_graph_free(&g);
    if (elaborate(c, &bare, &m->unread, &g) == AM_OK) {
        AM_TRY(compare_tensors(g, model, m));
    } else {
        am_free(&m->reason);
        AM_TRY(am_strdup(am_error_message(), &m->reason));
        am_error_clear();
    }
done:
    am_graph_free(&g);
    am_card_free(&c);
    return st;
}

static int lines_of(const am_str *s)
{
    int n = s->len > 0;
    for (size_t i = 0; i < s->len; i++) n += s->s[i] == '\n';
    return n;
}

/* what is unexplained; a card that cannot be used at all comes last */
static int64_t distance(const am_card_match *m)
{
    if (m->tensors) return lines_of(&m->unread);
    if (m->named + m->missing == 0) return INT64_MAX;
    return ((int64_t)1 << 32) + ((m->missing + m->extra) << 8) + lines_of(&m->unread);
}

static int by_distance(const void *a, const void *b)
{
    const am_card_match *x = a, *y = b;
    int64_t p = distance(x), q = distance(y);
    if (p != q) return p < q ? -1 : 1;
    return x->derived != y->derived ? x->derived - y->derived : strcmp(x->path, y->path);
}

am_status am_card_match_all(const char *dir, const am_hf_model *model, am_card_match **out, size_t *count)
{
    am_status st = AM_OK;
    char **path = NULL;
    size_t n = 0;
    am_card_match *list = NULL;
    AM_TRY(am_card_paths(dir, &path, &n));
    AM_TRY(am_calloc(n + 1, sizeof *list, &list));
    for (size_t i = 0; i < n; i++) {
        am_status tried = try_card(path[i], model, &list[i]);
        if (tried == AM_OK) continue;
        am_free(&list[i].reason);
        AM_TRY(am_strdup(am_error_message(), &list[i].reason));
        if (!list[i].name) AM_TRY(am_strdup(path[i], &list[i].name));
        am_error_clear();
    }
    if (n) qsort(list, n, sizeof *list, by_distance);
    *out = list;
    *count = n;
    list = NULL;
done:
    am_card_match_free(&list, n);
    am_card_paths_free(&path, n);
    return st;
}

void am_card_match_free(am_card_match **list, size_t count)
{
    for (size_t i = 0; *list && i < count; i++) {
        am_card_match *m = &(*list)[i];
        am_free(&m->path);
        am_free(&m->name);
        am_free(&m->reason);
        am_str_release(&m->missing_names);
        am_str_release(&m->extra_names);
        am_str_release(&m->unread);
    }
    am_free(list);
}

/* ---- a draft ---- */

static am_status write_lines(const am_str *list, const char *prefix, am_str *out)
{
    am_status st = AM_OK;
    int shown = 0;
    for (const char *at = list->s; at && *at && shown < MAX_PATTERNS; shown++) {
        size_t n = strcspn(at, "\n");
        AM_TRY(am_str_printf(out, "%s%.*s\n", prefix, (int)n, at));
        at += n + (at[n] == '\n');
    }
done:
    return st;
}

/* `like NAME`, or the whole text of a card that nothing can be `like`. */
static am_status write_base(const am_card_match *m, am_str *out)
{
    am_status st = AM_OK;
    am_card *c = NULL;
    am_str text = {0};
    if (!m->derived) {
        AM_TRY(am_str_printf(out, "like %s\n", m->name));
        goto done;
    }
    AM_TRY(am_card_open(m->path, &c));
    AM_TRY(am_card_print(c, &text));
    const char *rest = strncmp(text.s, "family", 6) == 0 ? strchr(text.s, '\n') : NULL;
    AM_TRY(am_str_printf(out, "%s", rest ? rest + 1 : text.s));
done:
    am_card_free(&c);
    am_str_release(&text);
    return st;
}

am_status am_card_draft(const am_card_match *m, const am_hf_model *model, am_str *out)
{
    am_status st = AM_OK;
    AM_TRY(am_str_printf(out,
                         "# Draft for model type %s, made of the card %s, which comes nearest.  Decide every line with ???,\n"
                         "# then compare with a reference: automodel verify MODEL --card THIS.card --reference FILE.\n"
                         "family %s\n",
                         model->model_type, m->name, model->model_type[0] ? model->model_type : "???"));
    AM_TRY(write_base(m, out));
    if (m->extra_names.len) {
        AM_TRY(am_str_printf(out, "# tensors of the model that %s does not name (or has with another shape):\n", m->name));
        AM_TRY(write_lines(&m->extra_names, "??? tensor ", out));
    }
    if (m->missing_names.len) {
        AM_TRY(am_str_printf(out, "# tensors that %s names and the model has not (or has with another shape):\n", m->name));
        AM_TRY(write_lines(&m->missing_names, "??? no tensor ", out));
    }
    if (m->unread.len) {
        AM_TRY(am_str_printf(out, "config:\n  # keys that %s does not read: what do they change?  `ignore KEY` where nothing\n", m->name));
        AM_TRY(write_lines(&m->unread, "  ??? ", out));
    }
    if (!m->extra_names.len && !m->missing_names.len && !m->unread.len)
        AM_TRY(am_str_printf(out,
                             "# Names, shapes and keys are those of %s.  That proves little: scales, activations and layouts leave\n"
                             "# no trace there.\n??? are the numbers those of %s?\n",
                             m->name, m->name));
done:
    return st;
}
