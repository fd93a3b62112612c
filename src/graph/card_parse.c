/* card_parse: the items of one card file: header lines, config, def, model; blocks by indentation; layouts.
 * A block's lines share one indentation, deeper than the line that opens it; a body may also follow its `:`
 * on the line. */
#include "graph/card_internal.h"

#include <string.h>

static am_status parse_block(card_cursor *c, int outer, const char *what, card_list *body, bool config,
                             am_card *card);

static am_status end_of_line(card_cursor *c)
{
    am_status st = AM_OK;
    const card_token *t = card_peek(c, 0);
    if (t->kind == CARD_T_END) goto done;
    CARD_CHECK(t->kind == CARD_T_NEWLINE, t->pos, "`%s` is left over at the end of this statement",
               card_found(c));
    c->at++;
done:
    return st;
}

static am_status identifier(card_cursor *c, const char *what, const char **out)
{
    am_status st = AM_OK;
    const card_token *t = card_peek(c, 0);
    CARD_CHECK(t->kind == CARD_T_PATH && card_is_identifier(t->text), t->pos, "expected %s, found `%s`", what,
               card_found(c));
    CARD_CHECK(!card_reserved(t->text), t->pos, "`%s` is a word of the language and cannot name %s", t->text,
               what);
    *out = t->text;
    c->at++;
done:
    return st;
}

static am_status words(card_cursor *c, card_list *out, int least, int most)
{
    am_status st = AM_OK;
    card_pos pos = card_peek(c, 0)->pos;
    int num = 0;
    c->at++;
    for (; card_peek(c, 0)->kind == CARD_T_WORD; c->at++, num++) {
        card_word *w = NULL;
        AM_TRY(card_alloc(c->arena, sizeof *w, &w));
        w->pos = card_peek(c, 0)->pos;
        w->text = card_peek(c, 0)->text;
        AM_TRY(card_push(c->arena, out, w));
    }
    CARD_CHECK(num >= least, pos, "a name is missing after this word");
    CARD_CHECK(num <= most, pos, "one name only can follow this word");
    AM_TRY(end_of_line(c));
done:
    return st;
}

/* The source text from token `first` up to the last token read, with the comment that follows it on its line
 * if asked. */
static am_status text_of(card_cursor *c, int first, bool comment, const char **out)
{
    const card_source *s = c->src;
    int last = c->at - 1;
    while (last > first && (s->token[last].kind == CARD_T_NEWLINE || s->token[last].kind == CARD_T_END))
        last--;
    size_t begin = s->token[first].begin, end = s->token[last].end;
    while (comment && end < s->len && s->text[end] != '\n') end++;
    while (end > begin && strchr(" \t\r", s->text[end - 1])) end--;
    return card_strndup(c->arena, s->text + begin, end - begin, out);
}

/* ---- layouts ------------------------------------------------------------------------------------------ */

static am_status lay_node(card_cursor *c, am_layout_kind kind, card_pos pos, const card_list *parts,
                          card_lay **out)
{
    am_status st = AM_OK;
    AM_TRY(card_alloc(c->arena, sizeof **out, out));
    (*out)->kind = kind;
    (*out)->pos = pos;
    (*out)->num = parts ? parts->num : 0;
    (*out)->part = parts ? (card_lay **)parts->at : NULL;
done:
    return st;
}

static bool is_dim(const card_token *t)
{
    return t->kind == CARD_T_NUMBER || (t->kind == CARD_T_PATH && !card_reserved(t->text));
}

static am_status parse_dim(card_cursor *c, card_lay **out)
{
    am_status st = AM_OK;
    const card_token *t = card_peek(c, 0);
    CARD_CHECK(is_dim(t), t->pos, "expected a dimension, found `%s`", card_found(c));
    CARD_CHECK(t->kind == CARD_T_NUMBER || card_is_identifier(t->text), t->pos,
               "a dimension is a number or a plain name, not `%s`", t->text);
    AM_TRY(lay_node(c, AM_LAYOUT_DIM, t->pos, NULL, out));
    (*out)->text = t->text;
    if (t->kind == CARD_T_PATH)
        AM_TRY(card_parse_path(c, &(*out)->ref));
    else
        c->at++;
done:
    return st;
}

static am_status parse_product(card_cursor *c, card_lay **out);

/* [L] p: a part for each index of L, p + p + … */
static am_status parse_repeat(card_cursor *c, card_lay **out)
{
    am_status st = AM_OK;
    card_list parts = {0};
    card_lay *part = NULL;
    card_pos pos = card_peek(c, 0)->pos;
    c->at++;
    AM_TRY(parse_dim(c, &part));
    AM_TRY(card_push(c->arena, &parts, part));
    AM_TRY(card_need(c, "]", "in the layout"));
    AM_TRY(parse_product(c, &part));
    AM_TRY(card_push(c->arena, &parts, part));
    AM_TRY(lay_node(c, AM_LAYOUT_SUM, pos, &parts, out));
    (*out)->repeat = true;
done:
    return st;
}

static am_status parse_product(card_cursor *c, card_lay **out)
{
    am_status st = AM_OK;
    card_list parts = {0};
    card_pos pos = card_peek(c, 0)->pos;
    if (card_is(c, "[")) return parse_repeat(c, out);
    for (;;) {
        const card_token *t = card_peek(c, 0);
        card_lay *part = NULL;
        if (card_eat(c, "(")) {
            CARD_CHECK(++c->depth < CARD_MAX_DEPTH, t->pos, "nested too deeply");
            AM_TRY(card_parse_layout(c, &part));
            AM_TRY(card_need(c, ")", "in the layout"));
            c->depth--;
        } else if (is_dim(t)) {
            AM_TRY(parse_dim(c, &part));
        } else {
            break;
        }
        AM_TRY(card_push(c->arena, &parts, part));
    }
    CARD_CHECK(parts.num > 0, pos, "expected a dimension, found `%s`", card_found(c));
    if (parts.num == 1)
        *out = parts.at[0];
    else
        AM_TRY(lay_node(c, AM_LAYOUT_PRODUCT, pos, &parts, out));
done:
    return st;
}

am_status card_parse_layout(card_cursor *c, card_lay **out)
{
    am_status st = AM_OK;
    card_list parts = {0};
    card_pos pos = card_peek(c, 0)->pos;
    do {
        card_lay *part = NULL;
        AM_TRY(parse_product(c, &part));
        AM_TRY(card_push(c->arena, &parts, part));
    } while (card_eat(c, "+"));
    if (parts.num == 1)
        *out = parts.at[0];
    else
        AM_TRY(lay_node(c, AM_LAYOUT_SUM, pos, &parts, out));
done:
    return st;
}

/* ---- statements ------------------------------------------------------------------------------------------
 */

static am_status new_stmt(card_cursor *c, card_stmt_kind kind, card_stmt **out)
{
    am_status st = AM_OK;
    AM_TRY(card_alloc(c->arena, sizeof **out, out));
    (*out)->kind = kind;
    (*out)->pos = card_peek(c, 0)->pos;
done:
    return st;
}

static am_status parse_for(card_cursor *c, card_stmt **out)
{
    am_status st = AM_OK;
    int indent = card_peek(c, 0)->indent;
    card_stmt *s;
    AM_TRY(new_stmt(c, CARD_S_FOR, &s));
    c->at++;
    AM_TRY(card_alloc(c->arena, sizeof *s->name, &s->name));
    s->num_names = 1;
    AM_TRY(identifier(c, "a loop variable", &s->name[0]));
    AM_TRY(card_need(c, "<", "after the loop variable"));
    AM_TRY(card_parse_expr(c, &s->expr));
    if (card_eat(c, "at")) AM_TRY(card_parse_path(c, &s->at));
    AM_TRY(card_need(c, ":", "before the body of the loop"));
    AM_TRY(parse_block(c, indent, "this loop", &s->body, false, NULL));
    *out = s;
done:
    return st;
}

static am_status parse_assign(card_cursor *c, card_stmt **out)
{
    am_status st = AM_OK;
    card_list names = {0};
    card_stmt *s;
    AM_TRY(new_stmt(c, CARD_S_ASSIGN, &s));
    do {
        const char *name = NULL;
        AM_TRY(identifier(c, "a variable", &name));
        CARD_CHECK(!card_has_string(&names, name), s->pos, "`%s` is assigned twice in one statement", name);
        AM_TRY(card_push(c->arena, &names, (void *)name));
    } while (card_eat(c, ","));
    s->num_names = names.num;
    s->name = (const char **)names.at;
    AM_TRY(card_need(c, "=", "after the variable"));
    AM_TRY(card_parse_expr(c, &s->expr));
    AM_TRY(end_of_line(c));
    *out = s;
done:
    return st;
}

static am_status parse_stmt(card_cursor *c, card_list *body)
{
    am_status st = AM_OK;
    card_stmt *s = NULL;
    CARD_CHECK(++c->depth < 100, card_peek(c, 0)->pos, "nested too deeply");
    if (card_is(c, "for")) {
        AM_TRY(parse_for(c, &s));
    } else if (card_is(c, "return")) {
        AM_TRY(new_stmt(c, CARD_S_RETURN, &s));
        c->at++;
        AM_TRY(card_parse_expr(c, &s->expr));
        AM_TRY(end_of_line(c));
    } else {
        AM_TRY(parse_assign(c, &s));
    }
    AM_TRY(card_push(c->arena, body, s));
    c->depth--;
done:
    return st;
}

/* ---- config
 * ------------------------------------------------------------------------------------------------ */

static am_status find_role(const card_token *t, am_role *out)
{
    static const char *const names[] = {
#define X(e, name) name,
        AM_ROLE_LIST(X)
#undef X
    };
    am_status st = AM_OK;
    size_t n = sizeof names / sizeof *names;
    for (size_t i = AM_ROLE_HEADS; i < n; i++)
        if (strcmp(t->text, names[i]) == 0) {
            *out = (am_role)i;
            goto done;
        }
    const char *near = am_did_you_mean(t->text, names + AM_ROLE_HEADS, n - AM_ROLE_HEADS);
    CARD_FAIL(t->pos, "`%s` is not a role (heads, kv_heads, ffn, vocab, experts)%s%s%s", t->text,
              near ? "; did you mean `" : "", near ? near : "", near ? "`?" : "");
done:
    return st;
}

static am_status parse_def(card_cursor *c, am_card *card)
{
    am_status st = AM_OK;
    card_def *d = NULL;
    AM_TRY(card_alloc(c->arena, sizeof *d, &d));
    if (card_peek(c, 1)->kind == CARD_T_PATH) {
        AM_TRY(find_role(card_peek(c, 0), &d->role));
        c->at++;
    }
    int first = c->at;
    d->pos = card_peek(c, 0)->pos;
    AM_TRY(identifier(c, "a definition", &d->name));
    CARD_CHECK(strlen(d->name) < sizeof((am_dim *)0)->name, d->pos, "`%s` is longer than %zu letters",
               d->name, sizeof((am_dim *)0)->name - 1);
    const card_def *other = card_find_def(card, d->name);
    if (other) CARD_FAIL(d->pos, "`%s` is defined twice (first at line %d)", d->name, other->pos.line);
    AM_TRY(card_need(c, "=", "after the name of the definition"));
    AM_TRY(card_parse_expr(c, &d->expr));
    AM_TRY(end_of_line(c));
    AM_TRY(text_of(c, first, true, &d->text));
    AM_TRY(card_push(c->arena, &card->defs, d));
done:
    return st;
}

static am_status parse_config_line(card_cursor *c, am_card *card)
{
    am_status st = AM_OK;
    if (card_is(c, "ignore")) {
        AM_TRY(words(c, &card->ignore_keys, 1, INT32_MAX));
    } else if (card_is(c, "require")) {
        card_word *w = NULL;
        int first = ++c->at;
        AM_TRY(card_alloc(c->arena, sizeof *w, &w));
        w->pos = card_peek(c, 0)->pos;
        AM_TRY(card_parse_expr(c, &w->expr));
        AM_TRY(end_of_line(c));
        AM_TRY(text_of(c, first, false, &w->text));
        AM_TRY(card_push(c->arena, &card->require, w));
    } else {
        AM_TRY(parse_def(c, card));
    }
done:
    return st;
}

/* ---- blocks
 * -------------------------------------------------------------------------------------------------- */

static am_status parse_line(card_cursor *c, card_list *body, bool config, am_card *card)
{
    return config ? parse_config_line(c, card) : parse_stmt(c, body);
}

static am_status parse_block(card_cursor *c, int outer, const char *what, card_list *body, bool config,
                             am_card *card)
{
    am_status st = AM_OK;
    if (card_peek(c, 0)->kind != CARD_T_NEWLINE &&
        card_peek(c, 0)->kind != CARD_T_END) { /* on the same line */
        AM_TRY(parse_line(c, body, config, card));
        goto done;
    }
    if (card_peek(c, 0)->kind == CARD_T_NEWLINE) c->at++;
    int indent = card_peek(c, 0)->indent;
    CARD_CHECK(card_peek(c, 0)->kind != CARD_T_END && indent > outer, card_peek(c, 0)->pos,
               "%s has no body: its lines are indented deeper than its first line", what);
    while (card_peek(c, 0)->kind != CARD_T_END && card_peek(c, 0)->indent > outer) {
        const card_token *t = card_peek(c, 0);
        CARD_CHECK(t->indent == indent, t->pos, "this line is indented by %d, the others of its block by %d",
                   t->indent, indent);
        AM_TRY(parse_line(c, body, config, card));
    }
done:
    return st;
}

static am_status parse_params(card_cursor *c, card_func *f)
{
    am_status st = AM_OK;
    card_list names = {0}, marks = {0};
    AM_TRY(card_need(c, "(", "after the name of the function"));
    while (!card_is(c, ")")) {
        const char *name = NULL;
        card_pos pos = card_peek(c, 0)->pos;
        bool is_name = card_peek(c, 1)->kind == CARD_T_PATH && card_eat(c, "name");
        AM_TRY(identifier(c, "a parameter", &name));
        CARD_CHECK(!card_has_string(&names, name), pos, "the parameter `%s` stands twice", name);
        AM_TRY(card_push(c->arena, &names, (void *)name));
        AM_TRY(card_push(c->arena, &marks, is_name ? (void *)name : NULL));
        if (!card_eat(c, ",")) break;
    }
    AM_TRY(card_need(c, ")", "after the parameters"));
    f->num_params = names.num;
    f->param = (const char **)names.at;
    AM_TRY(card_alloc(c->arena, (size_t)names.num * sizeof *f->is_name, &f->is_name));
    for (int i = 0; i < names.num; i++) f->is_name[i] = marks.at[i] != NULL;
done:
    return st;
}

static am_status parse_func(card_cursor *c, am_card *card)
{
    am_status st = AM_OK;
    card_func *f = NULL;
    int first = c->at++;
    AM_TRY(card_alloc(c->arena, sizeof *f, &f));
    f->pos = card_peek(c, 0)->pos;
    AM_TRY(identifier(c, "a function", &f->name));
    const card_func *other = card_find_func(card, f->name);
    if (other) CARD_FAIL(f->pos, "`%s` is defined twice (first at line %d)", f->name, other->pos.line);
    AM_TRY(parse_params(c, f));
    AM_TRY(card_need(c, ":", "before the body of the function"));
    AM_TRY(parse_block(c, 0, "this function", &f->body, false, NULL));
    AM_TRY(text_of(c, first, true, &f->text));
    AM_TRY(card_push(c->arena, &card->funcs, f));
done:
    return st;
}

static am_status parse_model(card_cursor *c, am_card *card)
{
    am_status st = AM_OK;
    int first = c->at;
    CARD_CHECK(!card->has_model, card_peek(c, 0)->pos, "a second `model:`");
    card->has_model = true;
    card->model_pos = card_peek(c, 0)->pos;
    c->at++;
    AM_TRY(card_need(c, ":", "after `model`"));
    AM_TRY(parse_block(c, 0, "the model", &card->model, false, NULL));
    AM_TRY(text_of(c, first, true, &card->model_text));
done:
    return st;
}

static am_status parse_spelling(card_cursor *c, am_card *card)
{
    am_status st = AM_OK;
    card_pos pos = card_peek(c, 0)->pos;
    CARD_CHECK(card->spelling.num == 0, pos, "a second `spelling` line");
    for (c->at++; card_peek(c, 0)->kind == CARD_T_STRING; c->at++) {
        card_word *w = NULL;
        AM_TRY(card_alloc(c->arena, sizeof *w, &w));
        w->pos = card_peek(c, 0)->pos;
        w->text = card_peek(c, 0)->text;
        AM_TRY(card_push(c->arena, &card->spelling, w));
    }
    CARD_CHECK(card->spelling.num >= 2, pos,
               "`spelling` needs the prefix this card uses and at least one other: spelling \"a.\" \"\"");
    AM_TRY(end_of_line(c));
done:
    return st;
}

static am_status parse_item(card_cursor *c, am_card *card)
{
    am_status st = AM_OK;
    const card_token *t = card_peek(c, 0);
    CARD_CHECK(t->indent == 0, t->pos, "this line is indented but belongs to no block");
    if (card_is(c, "family"))
        AM_TRY(words(c, &card->families, 1, INT32_MAX));
    else if (card_is(c, "like"))
        AM_TRY(words(c, &card->like, 1, 1));
    else if (card_is(c, "use"))
        AM_TRY(words(c, &card->use, 1, INT32_MAX));
    else if (card_is(c, "ignore"))
        AM_TRY(words(c, &card->ignore_tensors, 1, INT32_MAX));
    else if (card_is(c, "spelling"))
        AM_TRY(parse_spelling(c, card));
    else if (card_is(c, "def"))
        AM_TRY(parse_func(c, card));
    else if (card_is(c, "model"))
        AM_TRY(parse_model(c, card));
    else if (card_eat(c, "config")) {
        AM_TRY(card_need(c, ":", "after `config`"));
        AM_TRY(parse_block(c, 0, "config", NULL, true, card));
    } else {
        CARD_FAIL(t->pos, "expected family, like, use, ignore, spelling, config, def or model, found `%s`",
                  card_found(c));
    }
done:
    return st;
}

am_status card_parse_source(card_source *src, am_card *card)
{
    am_status st = AM_OK;
    card_cursor c = {.arena = &card->arena, .src = src};
    while (card_peek(&c, 0)->kind != CARD_T_END) AM_TRY(parse_item(&c, card));
    CARD_CHECK(card->like.num <= 1, ((card_word *)card->like.at[1])->pos,
               "a second `like`: a card is like one other card");
done:
    return st;
}
