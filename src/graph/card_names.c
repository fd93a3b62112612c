/* card_names: tensor names, and the checkpoint's side of parameters.
 * A name is a prefix as the card writes it; the operator adds ".weight" or ".bias".  `spelling` exchanges the
 * card's prefix for the file's; a tie lets one tensor stand for two names.  Every tensor of the model is used
 * exactly (card_params), or ignored. */
#include "graph/card_internal.h"

#include <stdlib.h>
#include <string.h>

enum { COMPARE_BYTES = 1 << 20, SHOWN = 5 };

/* ---- names
 * ------------------------------------------------------------------------------------------------------ */

/* The definition becomes an axis of the parameter: over names, or the first one of a tensor. */
static am_status set_axis(card_elab *e, const card_def *d, card_pos pos, card_name *n)
{
    am_status st = AM_OK;
    card_val v;
    CARD_CHECK(!n->stacked, pos, "this name has two axes over names: `%s` and `%s`", n->stacked, d->name);
    AM_TRY(card_eval_def(e, d, &v));
    AM_TRY(card_dim_of(e, &v, d->name, pos, &n->axis));
    n->stacked = d->name;
done:
    return st;
}

static bool is_axis(const card_def *d)
{
    return d && (d->role == AM_ROLE_EXPERTS || d->role == AM_ROLE_HEADS || d->role == AM_ROLE_KV_HEADS);
}

static am_status append_brace(card_elab *e, const card_ast *x, am_str *text, card_name *name)
{
    am_status st = AM_OK;
    card_val v;
    const card_def *d = x->kind == CARD_A_PATH && !x->relative ? card_find_def(e->card, x->text) : NULL;
    if (is_axis(d)) { /* an axis over names */
        AM_TRY(set_axis(e, d, x->pos, name));
        name->many = true;
        AM_TRY(am_str_printf(text, "{%s}", d->name));
        goto done;
    }
    AM_TRY(card_eval(e, x, &v));
    if (v.kind == CARD_V_STR) {
        AM_TRY(am_str_printf(text, "%s", v.s));
    } else {
        int64_t i = 0;
        AM_TRY(card_want_int(e, &v, x->pos, "what stands in the braces of a name", 0, &i));
        AM_TRY(am_str_printf(text, "%" PRId64, i));
    }
done:
    return st;
}

static am_status path_name(card_elab *e, const card_ast *x, card_name *out)
{
    am_status st = AM_OK;
    am_str text = {0};
    int first = 0;
    if (x->relative) {
        CARD_CHECK(e->base, x->pos,
                   "`%s`: a leading dot means \"of this layer\", but this is outside of the layers", x->text);
        AM_TRY(am_str_printf(&text, "%s", e->base));
    } else if (x->seg[0].text) {
        card_val *v = card_lookup(e->frame, x->seg[0].text);
        if (!v && x->num_segs == 1) v = card_lookup(&e->globals, x->seg[0].text);
        if (v) {
            CARD_CHECK(v->kind == CARD_V_NAME, x->pos, "`%s` is %s; the name of a tensor belongs here",
                       x->seg[0].text, card_kind_text(v->kind));
            *out = *v->name;
            AM_TRY(am_str_printf(&text, "%s", v->name->text));
            first = 1;
        }
    }
    for (int i = first; i < x->num_segs; i++) {
        if (text.len) AM_TRY(am_str_printf(&text, "."));
        if (x->seg[i].text)
            AM_TRY(am_str_printf(&text, "%s", x->seg[i].text));
        else
            AM_TRY(append_brace(e, x->seg[i].expr, &text, out));
    }
    AM_TRY(card_strndup(&e->arena, text.s ? text.s : "", text.len, &out->text));
done:
    am_str_release(&text);
    return st;
}

/* W[E], W[H]: the first axis of one tensor is the experts, or the blocks of a block-diagonal product */
static am_status index_name(card_elab *e, const card_ast *x, card_name *n)
{
    am_status st = AM_OK;
    const card_ast *ix = x->kid[1];
    const card_def *d = ix->kind == CARD_A_PATH && !ix->relative ? card_find_def(e->card, ix->text) : NULL;
    CARD_CHECK(is_axis(d), ix->pos,
               "in brackets after a tensor's name stands a definition with the role experts, heads or kv_heads");
    AM_TRY(set_axis(e, d, ix->pos, n));
done:
    return st;
}

am_status card_eval_name(card_elab *e, const card_ast *x, const card_name **out)
{
    am_status st = AM_OK;
    card_name *n = NULL;
    card_val v;
    bool truth = false;
    if (x->kind == CARD_A_ALT) {
        AM_TRY(card_resolve_tie(e, x, out));
        goto done;
    }
    if (x->kind == CARD_A_IF) {
        AM_TRY(card_eval(e, x->kid[0], &v));
        AM_TRY(card_truth(&v, x->kid[0]->pos, &truth));
        CARD_CHECK(truth || x->num > 2, x->pos, "there is no tensor name here without an `else`");
        AM_TRY(card_eval_name(e, x->kid[truth ? 1 : 2], out));
        goto done;
    }
    AM_TRY(card_alloc(&e->arena, sizeof *n, &n));
    if (x->kind == CARD_A_PATH) {
        AM_TRY(path_name(e, x, n));
    } else if (x->kind == CARD_A_TRANSPOSE || x->kind == CARD_A_INDEX) {
        const card_name *inner = NULL;
        AM_TRY(card_eval_name(e, x->kid[0], &inner));
        *n = *inner;
        if (x->kind == CARD_A_TRANSPOSE)
            n->transpose = true;
        else
            AM_TRY(index_name(e, x, n));
    } else {
        CARD_FAIL(x->pos, "the name of a tensor belongs here");
    }
    *out = n;
done:
    return st;
}

/* ---- the checkpoint's tensors
 * --------------------------------------------------------------------------------------- */

static int by_name(const void *a, const void *b)
{
    return strcmp(((const card_tensor *)a)->t->name, ((const card_tensor *)b)->t->name);
}

am_status card_open_tensors(card_elab *e)
{
    am_status st = AM_OK;
    e->num_tensors = (size_t)e->model->num_tensors;
    AM_TRY(card_alloc(&e->arena, e->num_tensors * sizeof *e->tensor, &e->tensor));
    for (size_t i = 0; i < e->num_tensors; i++) e->tensor[i].t = e->model->tensors[i];
    if (e->num_tensors) qsort(e->tensor, e->num_tensors, sizeof *e->tensor, by_name);
done:
    return st;
}

card_tensor *card_find_tensor(const card_elab *e, const char *name)
{
    size_t low = 0, high = e->num_tensors;
    while (low < high) {
        size_t mid = low + (high - low) / 2;
        int c = strcmp(name, e->tensor[mid].t->name);
        if (c == 0) return &e->tensor[mid];
        if (c < 0)
            high = mid;
        else
            low = mid + 1;
    }
    return NULL;
}

const char *card_file_of(const card_elab *e, const am_safetensors_tensor *t)
{
    if (e->model->files && (size_t)t->file < e->model->num_files)
        return am_safetensors_path(e->model->files[t->file]);
    return e->model->dir ? e->model->dir : "the model";
}

static const char *spelling_text(const card_elab *e, int i)
{
    return ((card_word *)e->card->spelling.at[i])->text;
}

/* `name` with the card's prefix exchanged for spelling `i`. */
static am_status spell(card_elab *e, const char *name, int i, const char **out)
{
    size_t n = e->card->spelling.num ? strlen(spelling_text(e, 0)) : 0;
    *out = name;
    if (e->card->spelling.num == 0 || i <= 0 || strncmp(name, spelling_text(e, 0), n) != 0) return AM_OK;
    return card_printf(&e->arena, out, "%s%s", spelling_text(e, i), name + n);
}

/* The file's spelling of a name.  The first tensor that has the prefix decides for all. */
am_status card_disk_name(card_elab *e, const char *name, card_pos pos, const char **out)
{
    am_status st = AM_OK;
    int fits = -1;
    bool prefixed =
        e->card->spelling.num && strncmp(name, spelling_text(e, 0), strlen(spelling_text(e, 0))) == 0;
    for (int i = 0; e->spelling < 0 && prefixed && e->num_tensors && i < e->card->spelling.num; i++) {
        const char *s = NULL;
        AM_TRY(spell(e, name, i, &s));
        AM_TRY(card_wrapped_name(e, s, pos, &s));
        if (!card_find_tensor(e, s)) continue;
        CARD_CHECK(fits < 0, pos, "the model has tensors in two spellings: \"%s…\" and \"%s…\"",
                   spelling_text(e, fits < 0 ? 0 : fits), spelling_text(e, i));
        fits = i;
    }
    if (fits >= 0) e->spelling = fits;
    AM_TRY(spell(e, name, e->spelling, out));
    AM_TRY(card_wrapped_name(e, *out, pos, out));
done:
    return st;
}

bool card_tensor_exists(card_elab *e, const char *name, card_pos pos)
{
    const char *disk = NULL;
    if (card_disk_name(e, name, pos, &disk) != AM_OK) return false;
    return card_find_tensor(e, disk) != NULL;
}

/* ---- ties
 * -------------------------------------------------------------------------------------------------------------
 */

static bool tie_flag(const card_elab *e)
{
    const card_val *v = card_map_get(&e->config, "tie_word_embeddings");
    if (e->tied) return e->tied > 0;
    /* transformers leaves the key out where it has the common default, true */
    return !v || v->kind == CARD_V_NONE || (v->kind == CARD_V_BOOL && v->i);
}

static am_status same_contents(card_elab *e, const am_safetensors_tensor *a, const am_safetensors_tensor *b,
                               bool *same)
{
    am_status st = AM_OK;
    char *p = NULL, *q = NULL;
    int64_t step = COMPARE_BYTES / (int64_t)am_dtype_bytes(a->dtype);
    *same = a->dtype == b->dtype && a->rank == b->rank && a->elements == b->elements &&
            memcmp(a->shape, b->shape, (size_t)a->rank * sizeof *a->shape) == 0;
    if (!*same) goto done;
    AM_TRY(am_calloc(2, COMPARE_BYTES, &p));
    q = p + COMPARE_BYTES;
    for (int64_t at = 0; at < a->elements && *same; at += step) {
        int64_t n = am_min_i64(step, a->elements - at);
        AM_TRY(am_hf_model_read(e->model, a, at, n, p, a->dtype));
        AM_TRY(am_hf_model_read(e->model, b, at, n, q, b->dtype));
        *same = memcmp(p, q, (size_t)n * am_dtype_bytes(a->dtype)) == 0;
    }
done:
    am_free(&p);
    return st;
}

static am_status add_alias(card_elab *e, const char *alias, const char *name, bool copy)
{
    am_status st = AM_OK;
    card_alias *a = NULL;
    AM_TRY(card_alloc(&e->arena, sizeof *a, &a));
    *a = (card_alias){alias, name, copy};
    AM_TRY(card_push(&e->arena, &e->aliases, a));
done:
    return st;
}

/* linear(x, A | B : …), both names absolute: which tensors are there, and are two of them one? */
static am_status find_alias(void *self, const card_ast *x)
{
    am_status st = AM_OK;
    card_elab *e = self;
    const card_arg *arg =
        x->kind == CARD_A_CALL && strcmp(x->text, "linear") == 0 ? card_positional(x, 1) : NULL;
    const card_ast *alt = arg && arg->value && arg->value->kind == CARD_A_ALT ? arg->value : NULL;
    const char *name[2] = {NULL, NULL}, *full;
    const card_tensor *t[2] = {NULL, NULL};
    bool same = false;
    if (!alt || !e->num_tensors) goto done;
    for (int i = 1; i >= 0; i--) { /* the table first: it is there, and shows how names are spelled */
        const card_ast *k = alt->kid[i];
        if (k->kind != CARD_A_PATH || k->relative || strchr(k->text, '{')) goto done;
        AM_TRY(card_printf(&e->arena, &full, "%s.weight", k->text));
        AM_TRY(card_disk_name(e, full, k->pos, &name[i]));
        t[i] = card_find_tensor(e, name[i]);
    }
    if (!tie_flag(e) || (!t[0] && !t[1])) goto done;
    if (!t[0])
        AM_TRY(add_alias(e, name[0], name[1], false));
    else if (!t[1])
        AM_TRY(add_alias(e, name[1], name[0], false));
    else {
        AM_TRY(same_contents(e, t[0]->t, t[1]->t, &same)); /* both there and different: not tied */
        if (same) AM_TRY(add_alias(e, name[0], name[1], true));
    }
done:
    return st;
}

am_status card_find_aliases(card_elab *e)
{
    am_status st = AM_OK;
    card_visitor v = {find_alias, e};
    AM_TRY(card_walk_body(&e->card->model, &v));
    for (int i = 0; i < e->card->funcs.num; i++)
        AM_TRY(card_walk_body(&((card_func *)e->card->funcs.at[i])->body, &v));
done:
    return st;
}

void card_follow_alias(const card_elab *e, const char **name, const char **copy)
{
    *copy = NULL;
    for (int i = 0; i < e->aliases.num; i++) {
        const card_alias *a = e->aliases.at[i];
        if (strcmp(a->alias, *name) == 0) *name = a->name;
        if (a->copy && strcmp(a->name, *name) == 0) *copy = a->alias;
    }
}

/* a | b where a name is wanted: a, or b where it is tied to or the only one there. */
am_status card_resolve_tie(card_elab *e, const card_ast *alt, const card_name **out)
{
    am_status st = AM_OK;
    const card_name *n[2] = {NULL, NULL};
    const char *full;
    for (int i = 0; i < 2; i++) AM_TRY(card_eval_name(e, alt->kid[i], &n[i]));
    *out = n[0];
    if (!e->num_tensors) {
        *out = n[tie_flag(e) ? 1 : 0];
        goto done;
    }
    AM_TRY(card_printf(&e->arena, &full, "%s.weight", n[0]->text));
    AM_TRY(card_disk_name(e, full, alt->pos, &full));
    for (int i = 0; i < e->aliases.num; i++)
        if (strcmp(((card_alias *)e->aliases.at[i])->alias, full) == 0) *out = n[1];
    CARD_CHECK(*out == n[1] || card_find_tensor(e, full), alt->pos,
               "the model has no tensor `%s`, though tie_word_embeddings is false in %s: the file is "
               "incomplete, or the key should be true",
               full, e->model->config_path);
done:
    return st;
}

/* ---- leftovers
 * -------------------------------------------------------------------------------------------------------------
 */

/* Patterns with their braces filled in: {L} becomes its value, {E..X} every number from E up to X - 1. */
static am_status brace_value(card_elab *e, const char *s, size_t n, card_pos pos, int64_t *out)
{
    am_status st = AM_OK;
    card_ast *x = NULL;
    card_val v;
    AM_TRY(card_parse_text(&e->arena, s, n, pos, &x));
    AM_TRY(card_eval(e, x, &v));
    AM_TRY(card_want_int(e, &v, pos, "what stands in the braces of a pattern", 0, out));
done:
    return st;
}

static am_status expand(card_elab *e, const char *pattern, card_pos pos, card_list *out)
{
    am_status st = AM_OK;
    const char *open = strchr(pattern, '{'), *close = open ? strchr(open, '}') : NULL, *next;
    int64_t from = 0, to = 0;
    if (!open) {
        AM_TRY(card_push(&e->arena, out, (void *)pattern));
        goto done;
    }
    CARD_CHECK(close, pos, "the { of `%s` is never closed", pattern);
    const char *dots = strstr(open, "..");
    bool range = dots && dots < close;
    AM_TRY(brace_value(e, open + 1, (size_t)((range ? dots : close) - open - 1), pos, &from));
    to = from + 1;
    if (range) AM_TRY(brace_value(e, dots + 2, (size_t)(close - dots - 2), pos, &to));
    CARD_CHECK(to - from < 100000, pos, "`%s` names %" PRId64 " tensors", pattern, to - from);
    for (int64_t i = from; i < to; i++) {
        AM_TRY(
            card_printf(&e->arena, &next, "%.*s%" PRId64 "%s", (int)(open - pattern), pattern, i, close + 1));
        AM_TRY(expand(e, next, pos, out));
    }
done:
    return st;
}

static am_status ignore_pattern(card_elab *e, const card_word *w, bool *ignored)
{
    am_status st = AM_OK;
    card_list patterns = {0};
    AM_TRY(expand(e, w->text, w->pos, &patterns));
    for (int k = 0; k < patterns.num; k++) {
        const char *pattern = NULL;
        AM_TRY(card_wrapped_pattern(e, patterns.at[k], &pattern));
        for (size_t i = 0; i < e->num_tensors; i++) {
            if (!am_glob_match(pattern, e->tensor[i].t->name)) continue;
            CARD_CHECK(!e->tensor[i].used_by, w->pos,
                       "`ignore %s` matches the tensor `%s`, which the card uses (%s)", w->text,
                       e->tensor[i].t->name, e->tensor[i].used_by);
            ignored[i] = true;
        }
    }
done:
    return st;
}

am_status card_check_leftover(card_elab *e)
{
    am_status st = AM_OK;
    bool *ignored = NULL, *carried = NULL;
    am_str list = {0};
    int left = 0;
    AM_TRY(card_alloc(&e->arena, e->num_tensors + 1, &ignored));
    AM_TRY(card_alloc(&e->arena, e->num_tensors + 1, &carried));
    for (int i = 0; i < e->card->ignore_tensors.num; i++)
        AM_TRY(ignore_pattern(e, e->card->ignore_tensors.at[i], ignored));
    for (size_t i = 0; i < e->num_tensors; i++) {
        const am_safetensors_tensor *t = e->tensor[i].t;
        if (ignored[i] || e->tensor[i].used_by) continue;
        carried[i] = card_is_other_part(e, t->name);
        if (carried[i] || left++ >= SHOWN) continue;
        AM_TRY(am_str_printf(&list, "%s`%s` [", list.len ? ", " : "", t->name));
        for (int k = 0; k < t->rank; k++)
            AM_TRY(am_str_printf(&list, "%s%" PRId64, k ? ", " : "", t->shape[k]));
        AM_TRY(am_str_printf(&list, "] in %s", card_file_of(e, t)));
    }
    AM_CHECK(left == 0, AM_ERR_CARD,
             "%s: %d tensor%s of the model %s named by nothing in this card: %s%s. Another card may fit; a "
             "tensor that the model does not "
             "need can be named in a line `ignore PATTERN` of the card",
             e->card->path, left, left == 1 ? "" : "s", left == 1 ? "is" : "are", list.s,
             left > SHOWN ? ", …" : "");
    if (e->options && e->options->carried) AM_TRY(card_describe_carried(e, carried, e->options->carried));
done:
    am_str_release(&list);
    return st;
}
