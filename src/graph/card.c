/* card: opening, flattening (`like`, `use`), finding and printing cards.
 * Flattening: `like NAME` takes every item of NAME.card that this card does not give itself, whole
 * definitions only and one level only; ignore and require lines add up.  `use NAME` takes functions only. */
#include "graph/card_internal.h"

#include <dirent.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MAX_CARD_BYTES = 1 << 20 };

const card_def *card_find_def(const am_card *c, const char *name)
{
    for (int i = 0; i < c->defs.num; i++)
        if (strcmp(((card_def *)c->defs.at[i])->name, name) == 0) return c->defs.at[i];
    return NULL;
}

const card_func *card_find_func(const am_card *c, const char *name)
{
    for (int i = 0; i < c->funcs.num; i++)
        if (strcmp(((card_func *)c->funcs.at[i])->name, name) == 0) return c->funcs.at[i];
    return NULL;
}

const char *am_card_path(const am_card *c)
{
    return c->path;
}
const char *am_card_base(const am_card *c)
{
    return c->like.num ? ((const card_word *)c->like.at[0])->text : NULL;
}

const char *am_card_family(const am_card *c, int index)
{
    return index >= 0 && index < c->families.num ? ((card_word *)c->families.at[index])->text : NULL;
}

void am_card_free(am_card **pc)
{
    if (!pc || !*pc) return;
    card_arena_release(&(*pc)->arena);
    am_free(pc);
}

/* ---- flattening ---------------------------------------------------------------------------------------- */

static am_status append_all(am_card *c, card_list *to, const card_list *from)
{
    am_status st = AM_OK;
    for (int i = 0; i < from->num; i++) AM_TRY(card_push(&c->arena, to, from->at[i]));
done:
    return st;
}

/* Base's definitions in their order, each replaced where `own` gives one of that name, then own new ones. */
static am_status merge_defs(am_card *c, const card_list *base)
{
    am_status st = AM_OK;
    card_list out = {0};
    for (int i = 0; i < base->num; i++) {
        card_def *b = base->at[i], *own = (card_def *)card_find_def(c, b->name);
        if (own && own->role == AM_ROLE_NONE) own->role = b->role; /* the role belongs to the name */
        AM_TRY(card_push(&c->arena, &out, own ? own : b));
    }
    for (int i = 0; i < c->defs.num; i++) {
        bool taken = false;
        for (int k = 0; k < base->num; k++) taken = taken || out.at[k] == c->defs.at[i];
        if (!taken) AM_TRY(card_push(&c->arena, &out, c->defs.at[i]));
    }
    c->defs = out;
done:
    return st;
}

static am_status merge_funcs(am_card *c, const card_list *base)
{
    am_status st = AM_OK;
    card_list out = {0};
    for (int i = 0; i < base->num; i++) {
        card_func *b = base->at[i];
        const card_func *own = card_find_func(c, b->name);
        AM_TRY(card_push(&c->arena, &out, own ? (void *)own : (void *)b));
    }
    for (int i = 0; i < c->funcs.num; i++) {
        bool taken = false;
        for (int k = 0; k < base->num; k++) taken = taken || out.at[k] == c->funcs.at[i];
        if (!taken) AM_TRY(card_push(&c->arena, &out, c->funcs.at[i]));
    }
    c->funcs = out;
done:
    return st;
}

/* The first of $AM_CARDS, share/automodel beside the program's bin, the configured data folder, and a source
 * tree's own. */
static am_status default_dir(char *out, size_t size)
{
    am_status st = AM_OK;
    char exe[4096] = "";
    const char *env = getenv("AM_CARDS");
    ssize_t n = readlink("/proc/self/exe", exe, sizeof exe - 1);
    for (int up = 0; n > 0 && up < 2; up++) {
        char *slash = strrchr(exe, '/');
        if (slash) *slash = '\0';
    }
    if (env && *env) {
        snprintf(out, size, "%s", env);
        goto done;
    }
    snprintf(out, size, "%.*s/share/automodel/configs/models", 3900, exe);
    if (!am_path_exists(out)) snprintf(out, size, "%s", AM_DATA_DIR "/configs/models");
    if (!am_path_exists(out)) snprintf(out, size, "configs/models");
    AM_CHECK(am_path_exists(out), AM_ERR_CARD,
             "no folder of model cards: neither %.*s/share/automodel/configs/models nor %s/configs/models "
             "exists; AM_CARDS can name one",
             3900, exe, AM_DATA_DIR);
done:
    return st;
}

/* Parse another card of the folder into c's arena. */
static am_status read_base(am_card *c, const char *dir, const card_word *w, am_card *base)
{
    am_status st = AM_OK;
    char *path = NULL, *text = NULL;
    size_t len = 0;
    const char *file, *copy;
    card_source src;
    CARD_CHECK(dir, w->pos, "`%s` cannot be looked up: this card has no folder", w->text);
    AM_TRY(card_printf(&c->arena, &file, "%s.card", w->text));
    AM_TRY(am_path_join(dir, file, &path));
    if (!am_path_exists(path)) { /* a card of one's own may build on the installed ones */
        char place[4096], *installed = NULL;
        AM_TRY(default_dir(place, sizeof place));
        AM_TRY(am_path_join(place, file, &installed));
        bool there = am_path_exists(installed);
        if (!there) am_free(&installed);
        CARD_CHECK(there, w->pos, "there is no card %s, nor one of this name in %s", path, place);
        am_free(&path);
        path = installed;
    }
    AM_TRY(am_file_read(path, MAX_CARD_BYTES, &text, &len));
    AM_TRY(card_strndup(&c->arena, text, len, &copy));
    AM_TRY(card_lex(&c->arena, file, copy, len, &src));
    base->arena = c->arena; /* lent: one arena for both */
    st = card_parse_source(&src, base);
    c->arena = base->arena;
    AM_TRY(st);
done:
    am_free(&path);
    am_free(&text);
    return st;
}

static am_status flatten_like(am_card *c, const char *dir)
{
    am_status st = AM_OK;
    am_card base = {0};
    card_list list = {0};
    if (c->like.num == 0) goto done;
    const card_word *w = c->like.at[0];
    AM_TRY(read_base(c, dir, w, &base));
    if (base.like.num > 0)
        CARD_FAIL(w->pos, "%s is itself like %s: `like` goes one level only, name that card here", w->text,
                  ((card_word *)base.like.at[0])->text);
    AM_TRY(merge_defs(c, &base.defs));
    AM_TRY(merge_funcs(c, &base.funcs));
    if (!c->has_model) {
        c->has_model = base.has_model;
        c->model = base.model;
        c->model_pos = base.model_pos;
        c->model_text = base.model_text;
    }
    if (c->spelling.num == 0) c->spelling = base.spelling;
    AM_TRY(append_all(c, &list, &base.ignore_tensors));
    AM_TRY(append_all(c, &list, &c->ignore_tensors));
    c->ignore_tensors = list;
    AM_TRY(append_all(c, &c->ignore_keys, &base.ignore_keys));
    AM_TRY(append_all(c, &c->require, &base.require));
    AM_TRY(append_all(c, &c->use, &base.use));
done:
    return st;
}

static am_status flatten_use(am_card *c, const char *dir)
{
    am_status st = AM_OK;
    for (int i = 0; i < c->use.num; i++) {
        am_card parts = {0};
        const card_word *w = c->use.at[i];
        AM_TRY(read_base(c, dir, w, &parts));
        CARD_CHECK(parts.defs.num == 0 && !parts.has_model && parts.like.num == 0, w->pos,
                   "`use` takes functions only, but %s.card holds more than `def`", w->text);
        AM_TRY(merge_funcs(c, &parts.funcs));
    }
done:
    return st;
}

/* ---- opening --------------------------------------------------------------------------------------------
 */

static am_status finish(am_card *c, const char *dir)
{
    am_status st = AM_OK;
    AM_TRY(flatten_like(c, dir));
    AM_TRY(flatten_use(c, dir));
    for (int i = 0; i < c->defs.num; i++) ((card_def *)c->defs.at[i])->index = i;
    AM_CHECK(c->families.num > 0, AM_ERR_CARD,
             "%s:1:1: no `family` line says which model types this card describes", c->name);
    AM_CHECK(c->has_model, AM_ERR_CARD, "%s:1:1: neither this card nor the one it is like has a `model:`",
             c->name);
    AM_TRY(card_check(c));
done:
    return st;
}

static am_status open_text(const char *text, size_t len, const char *name, const char *path, const char *dir,
                           am_card **out)
{
    am_status st = AM_OK;
    am_card *c = NULL;
    const char *copy;
    card_source src;
    AM_TRY(am_calloc(1, sizeof *c, &c));
    AM_TRY(card_strndup(&c->arena, name, strlen(name), &c->name));
    AM_TRY(card_strndup(&c->arena, path, strlen(path), &c->path));
    AM_TRY(card_strndup(&c->arena, text, len, &copy));
    AM_TRY(card_lex(&c->arena, c->name, copy, len, &src));
    AM_TRY(card_parse_source(&src, c));
    AM_TRY(finish(c, dir));
    *out = c;
    c = NULL;
done:
    am_card_free(&c);
    return st;
}

am_status am_card_parse(const char *text, const char *name, const char *dir, am_card **out)
{
    return open_text(text, strlen(text), name, name, dir, out);
}

am_status am_card_open(const char *path, am_card **out)
{
    am_status st = AM_OK;
    char *text = NULL, *dir = NULL;
    size_t len = 0;
    const char *slash = strrchr(path, '/');
    AM_TRY(am_file_read(path, MAX_CARD_BYTES, &text, &len));
    AM_TRY(am_strndup(slash ? path : ".", slash && slash > path ? (size_t)(slash - path) : 1, &dir));
    AM_TRY(open_text(text, len, slash ? slash + 1 : path, path, dir, out));
done:
    am_free(&text);
    am_free(&dir);
    return st;
}

/* ---- finding ---------------------------------------------------------------------------------------------
 */

#ifndef AM_DATA_DIR
#define AM_DATA_DIR "/usr/local/share/automodel"
#endif

static int by_name(const struct dirent **a, const struct dirent **b)
{
    return strcmp((*a)->d_name, (*b)->d_name);
}
static int is_card(const struct dirent *d)
{
    size_t n = strlen(d->d_name);
    return n > 5 && strcmp(d->d_name + n - 5, ".card") == 0;
}

am_status am_card_paths(const char *dir, char ***out, size_t *count)
{
    am_status st = AM_OK;
    struct dirent **entry = NULL;
    char place[4096], **paths = NULL;
    int n = 0;
    *out = NULL;
    *count = 0;
    if (!dir) {
        AM_TRY(default_dir(place, sizeof place));
        dir = place;
    }
    n = scandir(dir, &entry, is_card, by_name);
    AM_CHECK(n >= 0, AM_ERR_CARD, "the folder of model cards, %s, cannot be read (AM_CARDS can name another)",
             dir);
    AM_TRY(am_calloc((size_t)n + 1, sizeof *paths, &paths));
    for (int i = 0; i < n; i++) AM_TRY(am_path_join(dir, entry[i]->d_name, &paths[i]));
    *out = paths;
    *count = (size_t)n;
    paths = NULL;
done:
    am_card_paths_free(&paths, (size_t)(n > 0 ? n : 0));
    for (int i = 0; i < n; i++) free(entry[i]);
    free(entry);
    return st;
}

void am_card_paths_free(char ***paths, size_t count)
{
    for (size_t i = 0; *paths && i < count; i++) am_free(&(*paths)[i]);
    am_free(paths);
}

/* The families of a card without judging the rest of it, appended to *list (strings of their own). */
static am_status families_of(const char *path, char ***list, size_t *n, size_t *cap)
{
    am_status st = AM_OK;
    card_arena arena = {0};
    char *text = NULL;
    size_t len = 0;
    card_source src;
    AM_TRY(am_file_read(path, MAX_CARD_BYTES, &text, &len));
    AM_TRY(card_lex(&arena, path, text, len, &src));
    for (int i = 0; i + 1 < src.num_tokens; i++) {
        if (src.token[i].indent != 0 || strcmp(src.token[i].text, "family") != 0) continue;
        for (int k = i + 1; src.token[k].kind == CARD_T_WORD; k++) {
            AM_TRY(am_grow(list, cap, *n + 1, sizeof **list));
            AM_TRY(am_strdup(src.token[k].text, &(*list)[*n]));
            (*n)++;
        }
    }
done:
    am_free(&text);
    card_arena_release(&arena);
    return st;
}

am_status am_card_families(const char *dir, char ***out, size_t *count)
{
    am_status st = AM_OK;
    char **path = NULL, **list = NULL;
    size_t num_paths = 0, n = 0, cap = 0;
    AM_TRY(am_card_paths(dir, &path, &num_paths));
    for (size_t i = 0; i < num_paths; i++) AM_TRY(families_of(path[i], &list, &n, &cap));
    *out = list;
    *count = n;
    list = NULL;
done:
    am_card_paths_free(&list, n);
    am_card_paths_free(&path, num_paths);
    return st;
}

am_status am_card_find(const char *dir, const char *model_type, am_card **out)
{
    am_status st = AM_OK;
    char **path = NULL, **families = NULL;
    size_t num_paths = 0, n = 0, cap = 0, found = SIZE_MAX;
    AM_TRY(am_card_paths(dir, &path, &num_paths));
    for (size_t i = 0; i < num_paths && found == SIZE_MAX; i++) {
        size_t first = n;
        AM_TRY(families_of(path[i], &families, &n, &cap));
        for (size_t k = first; k < n; k++)
            if (strcmp(families[k], model_type) == 0) found = i;
    }
    const char *near = found == SIZE_MAX ? am_did_you_mean(model_type, (const char *const *)families, n) : NULL;
    AM_CHECK(found != SIZE_MAX, AM_ERR_CARD,
             "no card describes model type \"%s\"%s%s%s (%zu families have one). `automodel inspect MODEL --match` tries every card "
             "on this model",
             model_type, near ? "; did you mean \"" : "", near ? near : "", near ? "\"?" : "", n);
    AM_TRY(am_card_open(path[found], out));
done:
    am_card_paths_free(&families, n);
    am_card_paths_free(&path, num_paths);
    return st;
}

/* ---- printing --------------------------------------------------------------------------------------------
 */

static am_status print_words(const char *head, const card_list *l, const char *quote, am_str *out)
{
    am_status st = AM_OK;
    if (l->num == 0) goto done;
    AM_TRY(am_str_printf(out, "%s", head));
    for (int i = 0; i < l->num; i++)
        AM_TRY(am_str_printf(out, " %s%s%s", quote, ((card_word *)l->at[i])->text, quote));
    AM_TRY(am_str_printf(out, "\n"));
done:
    return st;
}

am_status am_card_print(const am_card *c, am_str *out)
{
    static const char *const roles[] = {
#define X(e, name) name,
        AM_ROLE_LIST(X)
#undef X
    };
    am_status st = AM_OK;
    AM_TRY(print_words("family", &c->families, "", out));
    AM_TRY(print_words("spelling", &c->spelling, "\"", out));
    AM_TRY(print_words("ignore", &c->ignore_tensors, "", out));
    if (c->defs.num + c->require.num + c->ignore_keys.num > 0) AM_TRY(am_str_printf(out, "config:\n"));
    for (int i = 0; i < c->defs.num; i++) {
        const card_def *d = c->defs.at[i];
        AM_TRY(am_str_printf(out, "  %s%s%s\n", roles[d->role], d->role ? " " : "", d->text));
    }
    for (int i = 0; i < c->require.num; i++)
        AM_TRY(am_str_printf(out, "  require %s\n", ((card_word *)c->require.at[i])->text));
    AM_TRY(print_words("  ignore", &c->ignore_keys, "", out));
    AM_TRY(am_str_printf(out, "%s\n", c->model_text));
    for (int i = 0; i < c->funcs.num; i++)
        AM_TRY(am_str_printf(out, "%s\n", ((card_func *)c->funcs.at[i])->text));
done:
    return st;
}
