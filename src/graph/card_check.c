/* card_check: what can be judged of a flattened card without a config.json: names that hide others,
 * definitions that go in a circle, functions without a result.  Also the walk over expressions that card_keys
 * uses. */
#include "graph/card_internal.h"

#include <string.h>

/* ---- walking --------------------------------------------------------------------------------------------
 */

static am_status walk_layout(const card_lay *l, const card_visitor *v)
{
    am_status st = AM_OK;
    if (!l) goto done;
    AM_TRY(card_walk(l->ref, v));
    for (int i = 0; i < l->num; i++) AM_TRY(walk_layout(l->part[i], v));
done:
    return st;
}

am_status card_walk(const card_ast *x, const card_visitor *v)
{
    am_status st = AM_OK;
    if (!x) goto done;
    AM_TRY(v->expr(v->self, x));
    for (int i = 0; i < x->num; i++) AM_TRY(card_walk(x->kid[i], v));
    for (int i = 0; i < x->num_segs; i++) AM_TRY(card_walk(x->seg[i].expr, v));
    for (int i = 0; i < x->num_args; i++) {
        AM_TRY(card_walk(x->arg[i].value, v));
        AM_TRY(walk_layout(x->arg[i].layout, v));
    }
done:
    return st;
}

am_status card_walk_body(const card_list *body, const card_visitor *v)
{
    am_status st = AM_OK;
    for (int i = 0; i < body->num; i++) {
        const card_stmt *s = body->at[i];
        AM_TRY(card_walk(s->expr, v));
        AM_TRY(card_walk(s->at, v));
        AM_TRY(card_walk_body(&s->body, v));
    }
done:
    return st;
}

/* ---- statements -------------------------------------------------------------------------------------------
 */

static am_status check_fresh(const am_card *c, const char *name, card_pos pos)
{
    am_status st = AM_OK;
    const card_def *d = card_find_def(c, name);
    if (d)
        CARD_FAIL(pos, "`%s` would hide the definition of that name (%s:%d): choose another name", name,
                  d->pos.file, d->pos.line);
    CARD_CHECK(strcmp(name, "ids") != 0 && strcmp(name, "pos") != 0, pos,
               "`%s` is an input of the model: choose another name", name);
done:
    return st;
}

static am_status check_body(const am_card *c, const card_list *body, bool in_function)
{
    am_status st = AM_OK;
    for (int i = 0; i < body->num; i++) {
        const card_stmt *s = body->at[i];
        for (int k = 0; k < s->num_names; k++) AM_TRY(check_fresh(c, s->name[k], s->pos));
        CARD_CHECK(s->kind != CARD_S_RETURN || in_function, s->pos, "`return` outside of a function");
        CARD_CHECK(s->kind != CARD_S_RETURN || i + 1 == body->num, s->pos, "nothing can follow a `return`");
        AM_TRY(check_body(c, &s->body, false));
    }
done:
    return st;
}

static am_status check_func(const am_card *c, const card_func *f)
{
    am_status st = AM_OK;
    CARD_CHECK(!card_is_operator(f->name) && !card_is_scalar_function(f->name), f->pos,
               "`%s` is a function of the language: choose another name", f->name);
    const card_def *d = card_find_def(c, f->name);
    if (d)
        CARD_FAIL(f->pos, "`%s` is a definition already (%s:%d): choose another name", f->name, d->pos.file,
                  d->pos.line);
    const card_stmt *last = f->body.at[f->body.num - 1];
    CARD_CHECK(last->kind == CARD_S_RETURN, last->pos, "the function `%s` does not end in a `return`",
               f->name);
    AM_TRY(check_body(c, &f->body, true));
done:
    return st;
}

/* ---- cycles
 * -------------------------------------------------------------------------------------------------- */

typedef struct cycle_search {
    const am_card *card;
    char *mark; /* by definition: 0 new, 1 on the way, 2 done */
    const card_def *way[64];
    int depth;
} cycle_search;

static am_status visit_def(cycle_search *s, const card_def *d, card_pos pos);

static am_status visit_expr(void *self, const card_ast *x)
{
    am_status st = AM_OK;
    cycle_search *s = self;
    if (x->kind == CARD_A_COMPREHENSION) AM_TRY(check_fresh(s->card, x->text, x->pos));
    if (x->kind != CARD_A_PATH || x->relative || !x->seg[0].text) goto done;
    const card_def *d = card_find_def(s->card, x->seg[0].text);
    if (d) AM_TRY(visit_def(s, d, x->pos));
done:
    return st;
}

static am_status fail_cycle(cycle_search *s, const card_def *d, card_pos pos)
{
    am_status st = AM_OK;
    am_str way = {0};
    int first = 0;
    while (s->way[first] != d) first++;
    for (int i = first; i < s->depth; i++) AM_TRY(am_str_printf(&way, "%s → ", s->way[i]->name));
    if (first == s->depth - 1)
        CARD_FAIL(pos,
                  "the definition `%s` reads itself: if the key of config.json is meant, give the definition "
                  "another name",
                  d->name);
    CARD_FAIL(pos, "definitions in a circle: %s%s", way.s, d->name);
done:
    am_str_release(&way);
    return st;
}

static am_status visit_def(cycle_search *s, const card_def *d, card_pos pos)
{
    am_status st = AM_OK;
    if (s->mark[d->index] == 2) goto done;
    if (s->mark[d->index] == 1) AM_TRY(fail_cycle(s, d, pos));
    CARD_CHECK(s->depth < 64, d->pos, "more than 64 definitions that use one another");
    s->mark[d->index] = 1;
    s->way[s->depth++] = d;
    card_visitor v = {visit_expr, s};
    AM_TRY(card_walk(d->expr, &v));
    s->depth--;
    s->mark[d->index] = 2;
done:
    return st;
}

am_status card_check(const am_card *c)
{
    am_status st = AM_OK;
    cycle_search s = {.card = c};
    AM_TRY(am_calloc((size_t)c->defs.num + 1, 1, &s.mark));
    for (int i = 0; i < c->defs.num; i++)
        AM_TRY(visit_def(&s, c->defs.at[i], ((card_def *)c->defs.at[i])->pos));
    for (int i = 0; i < c->funcs.num; i++) AM_TRY(check_func(c, c->funcs.at[i]));
    AM_TRY(check_body(c, &c->model, false));
done:
    am_free(&s.mark);
    return st;
}
