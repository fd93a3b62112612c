/* card_elaborate: the model block of a card, run once for one config.json: statements bind values, loops over
 * layers unroll, and what the operators emit is the graph.  Order: keys of config.json, function names, ties,
 * requirements, the block itself, then the tensors nobody used. */
#include "graph/card_internal.h"

#include <string.h>

static am_status assign(card_elab *e, const card_stmt *s)
{
    am_status st = AM_OK;
    card_val v;
    AM_TRY(card_eval(e, s->expr, &v));
    if (s->num_names == 1) {
        AM_TRY(card_set(e->frame, s->name[0], &v));
        goto done;
    }
    CARD_CHECK(v.kind == CARD_V_TUPLE, s->pos, "%d names for one value (%s)", s->num_names,
               card_kind_text(v.kind));
    CARD_CHECK(v.num == s->num_names, s->pos, "%d names for %d values", s->num_names, v.num);
    for (int i = 0; i < v.num; i++) AM_TRY(card_set(e->frame, s->name[i], &v.item[i]));
done:
    return st;
}

/* The model block's variables as they stand at the end of a layer, for k@src. */
static am_status take_snapshot(card_elab *e)
{
    am_status st = AM_OK;
    card_frame *f;
    AM_TRY(am_grow(&e->snapshot, &e->cap_snapshots, e->num_snapshots + 1, sizeof *e->snapshot));
    f = &e->snapshot[e->num_snapshots];
    *f = (card_frame){0};
    AM_TRY(am_grow(&f->at, &f->cap, e->globals.num + 1, sizeof *f->at));
    memcpy(f->at, e->globals.at, e->globals.num * sizeof *f->at);
    f->num = e->globals.num;
    e->num_snapshots++;
done:
    return st;
}

/* One turn; a turn of the outermost loop with `at` is a layer. */
static am_status run_turn(card_elab *e, const card_stmt *s)
{
    am_status st = AM_OK;
    const card_name *n = NULL;
    const char *base = e->base;
    bool returned = false;
    if (s->at) {
        AM_TRY(card_eval_name(e, s->at, &n));
        CARD_CHECK(!n->stacked, s->at->pos, "the layers' prefix cannot have an axis over experts");
        e->base = n->text;
        if (e->at_depth++ == 0) e->layer = e->layers_done;
    }
    AM_TRY(card_run(e, &s->body, NULL, &returned));
    if (s->at && --e->at_depth == 0) {
        e->layers_done++;
        if (e->frame == &e->globals) AM_TRY(take_snapshot(e));
    }
done:
    e->base = base;
    return st;
}

static am_status run_for(card_elab *e, const card_stmt *s)
{
    am_status st = AM_OK;
    int64_t n = 0, epoch = e->epoch;
    card_loop l = {0};
    card_val v;
    AM_TRY(card_eval(e, s->expr, &v));
    AM_TRY(card_want_int(e, &v, s->expr->pos, "the number of turns of this loop", 0, &n));
    CARD_CHECK(n <= 10000, s->expr->pos, "%" PRId64 " turns of one loop", n);
    for (int64_t i = 0; i < n; i++) {
        card_bind_loop(e, &l, s->name[0], i);
        st = run_turn(e, s);
        card_unbind_loop(e, &l, epoch);
        AM_TRY(st);
    }
    if (s->at && e->at_depth == 0) e->layer = e->layers_done;
done:
    return st;
}

am_status card_run(card_elab *e, const card_list *body, card_val *result, bool *returned)
{
    am_status st = AM_OK;
    for (int i = 0; i < body->num; i++) {
        const card_stmt *s = body->at[i];
        switch (s->kind) {
        case CARD_S_ASSIGN:
            AM_TRY(assign(e, s));
            break;
        case CARD_S_FOR:
            AM_TRY(run_for(e, s));
            break;
        case CARD_S_RETURN:
            AM_TRY(card_eval(e, s->expr, result));
            *returned = true;
            goto done;
        }
    }
done:
    return st;
}

/* ---- requirements
 * ---------------------------------------------------------------------------------------------------- */

typedef struct quoted {
    card_elab *e;
    am_str text;
} quoted;

static am_status quote_key(void *self, const card_ast *x)
{
    am_status st = AM_OK;
    quoted *q = self;
    const card_val *v = x->kind == CARD_A_PATH && !x->relative && x->seg[0].text
                            ? card_map_get(&q->e->config, x->seg[0].text)
                            : NULL;
    if (!v) goto done;
    AM_TRY(am_str_printf(&q->text, "%s%s = ", q->text.len ? ", " : "; config.json has ", x->seg[0].text));
    AM_TRY(card_describe(v, &q->text));
done:
    return st;
}

static am_status check_requirements(card_elab *e)
{
    am_status st = AM_OK;
    quoted q = {.e = e};
    card_visitor v = {quote_key, &q};
    for (int i = 0; i < e->card->require.num; i++) {
        const card_word *w = e->card->require.at[i];
        card_val r;
        bool holds = false;
        AM_TRY(card_eval(e, w->expr, &r));
        AM_TRY(card_truth(&r, w->pos, &holds));
        if (holds) continue;
        AM_TRY(card_walk(w->expr, &v));
        CARD_FAIL(w->pos, "this card is for models with %s%s", w->text, q.text.s ? q.text.s : "");
    }
done:
    am_str_release(&q.text);
    return st;
}

/* ---- the whole
 * ----------------------------------------------------------------------------------------------------------
 */

static am_status set_logits(card_elab *e)
{
    am_status st = AM_OK;
    card_val *v = card_lookup(&e->globals, "logits");
    am_str dims = {0};
    CARD_CHECK(v && v->kind == CARD_V_VALUE, e->card->model_pos, "the model assigns no `logits`");
    AM_TRY(card_dims_text(e, (int)v->i, &dims));
    CARD_CHECK(am_graph_value_at(e->g, (int)v->i)->rank == 2, e->card->model_pos,
               "logits must be [tokens, vocabulary], not %s", dims.s);
    AM_TRY(am_graph_set_logits(e->g, (int)v->i));
    am_graph_set_layers(e->g, e->layers_done);
done:
    am_str_release(&dims);
    return st;
}

am_status card_elab_open(card_elab *e, am_card *c, const am_hf_model *model, const am_card_options *options,
                         am_graph *g)
{
    am_status st = AM_OK;
    *e = (card_elab){.card = c,
                     .g = g,
                     .model = model,
                     .options = options,
                     .epoch = 1,
                     .next_epoch = 1,
                     .layer = -1,
                     .spelling = -1};
    AM_TRY(card_open_config(e));
    AM_TRY(card_alloc(&e->arena, (size_t)c->defs.num * sizeof *e->state, &e->state));
    AM_TRY(card_open_tensors(e));
done:
    return st;
}

void card_elab_close(card_elab *e)
{
    am_free(&e->globals.at);
    for (size_t i = 0; i < e->num_snapshots; i++) am_free(&e->snapshot[i].at);
    am_free(&e->snapshot);
    card_arena_release(&e->arena);
}

static am_status elaborate(card_elab *e)
{
    am_status st = AM_OK;
    bool returned = false;
    AM_TRY(card_check_functions(e));
    AM_TRY(check_requirements(e));
    AM_TRY(card_check_keys(e));
    AM_TRY(card_find_aliases(e));
    e->frame = &e->globals;
    AM_TRY(card_run(e, &e->card->model, NULL, &returned));
    AM_TRY(set_logits(e));
    e->frame = NULL;
    AM_TRY(card_check_leftover(e));
    AM_TRY(card_check_views(e));
done:
    return st;
}

am_status am_card_elaborate(am_card *c, const am_hf_model *model, const am_card_options *options, am_graph *g)
{
    am_status st = AM_OK;
    card_elab e;
    AM_TRY(card_elab_open(&e, c, model, options, g));
    AM_TRY(elaborate(&e));
done:
    card_elab_close(&e);
    return st;
}
