/* card_eval: expressions, and what a name means where.
 * A name is looked up as: variable of the running function, loop variable, variable of the model block, the
 * inputs ids and pos, definition, key of config.json.  Inside of a definition only loop variables,
 * definitions and keys are seen; it is evaluated when asked for, once per setting of the loop variables, and
 * only the taken branch of a condition. */
#include "graph/card_internal.h"

#include <string.h>

/* ---- environments
 * -------------------------------------------------------------------------------------------- */

card_val *card_lookup(const card_frame *f, const char *name)
{
    for (size_t i = 0; f && i < f->num; i++)
        if (strcmp(f->at[i].name, name) == 0) return &f->at[i].val;
    return NULL;
}

am_status card_set(card_frame *f, const char *name, const card_val *v)
{
    am_status st = AM_OK;
    card_val *old = card_lookup(f, name);
    if (old) {
        *old = *v;
        goto done;
    }
    AM_TRY(am_grow(&f->at, &f->cap, f->num + 1, sizeof *f->at));
    f->at[f->num++] = (card_binding){name, *v};
done:
    return st;
}

void card_bind_loop(card_elab *e, card_loop *l, const char *name, int64_t i)
{
    *l = (card_loop){name, i, e->loop};
    e->loop = l;
    e->epoch = ++e->next_epoch;
}

void card_unbind_loop(card_elab *e, const card_loop *l, int64_t epoch)
{
    e->loop = l->outer;
    e->epoch = epoch;
}

/* ---- names
 * ------------------------------------------------------------------------------------------------------ */

static am_status lookup_head(card_elab *e, const card_ast *x, card_val *out)
{
    am_status st = AM_OK;
    const char *name = x->seg[0].text;
    card_val *v = card_lookup(e->frame, name);
    *out = card_none(x);
    if (v) {
        *out = *v;
        goto done;
    }
    for (card_loop *l = e->loop; l; l = l->outer)
        if (strcmp(l->name, name) == 0) {
            *out = card_int(l->i);
            goto done;
        }
    if (e->frame && (v = card_lookup(&e->globals, name))) {
        *out = *v;
        goto done;
    }
    if (e->frame && (strcmp(name, "ids") == 0 || strcmp(name, "pos") == 0)) {
        int input = -1;
        AM_TRY(am_graph_input(e->g, name, &input));
        *out = card_value(input);
        goto done;
    }
    const card_def *d = card_find_def(e->card, name);
    const card_val *key = card_map_get(&e->config, name);
    if (d)
        AM_TRY(card_eval_def(e, d, out));
    else if (key)
        *out = *key;
    if (out->kind == CARD_V_NONE && !out->origin) out->origin = x;
done:
    return st;
}

static bool is_tensor_path(const card_ast *x)
{
    bool braces = false;
    for (int i = 0; i < x->num_segs; i++) braces = braces || x->seg[i].expr;
    return x->relative || braces;
}

am_status card_name_value(card_elab *e, const card_ast *x, card_val *out)
{
    *out = (card_val){.kind = CARD_V_NAME};
    return card_eval_name(e, x, &out->name);
}

am_status card_eval_path(card_elab *e, const card_ast *x, card_val *out)
{
    am_status st = AM_OK;
    if (is_tensor_path(x)) {
        AM_TRY(card_name_value(e, x, out));
        goto done;
    }
    AM_TRY(lookup_head(e, x, out));
    if (out->kind == CARD_V_NAME && x->num_segs > 1) {
        AM_TRY(card_name_value(e, x, out));
        goto done;
    }
    for (int i = 1; i < x->num_segs && out->kind != CARD_V_NONE; i++) {
        CARD_CHECK(out->kind == CARD_V_MAP, x->pos, "`%s` is %s and has no part `%s`", x->seg[i - 1].text,
                   card_kind_text(out->kind), x->seg[i].text);
        const card_val *part = card_map_get(out, x->seg[i].text);
        *out = part ? *part : card_none(x);
        if (out->kind == CARD_V_NONE) out->origin = x;
    }
done:
    return st;
}

am_status card_eval_def(card_elab *e, const card_def *d, card_val *out)
{
    am_status st = AM_OK;
    card_def_state *s = &e->state[d->index];
    card_frame *frame = e->frame;
    if (s->epoch == e->epoch) {
        *out = s->val;
        goto done;
    }
    CARD_CHECK(!s->busy, d->pos, "the definition `%s` needs itself", d->name);
    s->busy = true;
    e->frame = NULL;
    AM_TRY(card_eval(e, d->expr, out));
    CARD_CHECK(out->kind != CARD_V_NAME && out->kind != CARD_V_TUPLE, d->pos,
               "the definition `%s` is %s: only values of config.json can be", d->name,
               card_kind_text(out->kind));
    if (out->kind == CARD_V_INT) out->dim = d;
    s->epoch = e->epoch;
    s->val = *out;
done:
    s->busy = false;
    e->frame = frame;
    return st;
}

/* ---- pieces of expressions
 * ---------------------------------------------------------------------------------------- */

static am_status eval_index(card_elab *e, const card_ast *x, card_val *out)
{
    am_status st = AM_OK;
    card_val v, ix;
    const card_ast *a = x->kid[0];
    AM_TRY(card_eval(e, x->kid[1], &ix));
    bool is_def = a->kind == CARD_A_PATH && !a->relative && a->num_segs == 1 && a->seg[0].text &&
                  !card_lookup(e->frame, a->text) && card_find_def(e->card, a->text);
    if (is_def &&
        ix.kind == CARD_V_INT) { /* a definition at another layer, or an element of the list it is */
        card_loop l;
        int64_t epoch = e->epoch;
        card_bind_loop(e, &l, "i", ix.i);
        st = card_eval(e, a, &v);
        card_unbind_loop(e, &l, epoch);
        AM_TRY(st);
        if (v.kind == CARD_V_INT || v.kind == CARD_V_BOOL || v.kind == CARD_V_REAL || v.kind == CARD_V_ROPE) {
            *out = v;
            goto done;
        }
    } else {
        AM_TRY(card_eval(e, a, &v));
    }
    if (v.kind == CARD_V_NONE) {
        *out = v;
        goto done;
    }
    if (v.kind == CARD_V_VALUE) {
        AM_TRY(card_pick(e, x, (int)v.i, &ix, out));
        goto done;
    }
    if (v.kind == CARD_V_TUPLE) {
        AM_TRY(card_tuple_item(e, x, &v, &ix, out));
        goto done;
    }
    if (v.kind == CARD_V_MAP) {
        const char *key = ix.s;
        if (ix.kind == CARD_V_INT) AM_TRY(card_printf(&e->arena, &key, "%" PRId64, ix.i));
        CARD_CHECK(ix.kind == CARD_V_INT || ix.kind == CARD_V_STR, x->pos,
                   "a map is indexed by a string or an integer, not by %s", card_kind_text(ix.kind));
        const card_val *item = card_map_get(&v, key);
        *out = item ? *item : card_none(x);
        goto done;
    }
    CARD_CHECK(v.kind == CARD_V_LIST || v.kind == CARD_V_STR, x->pos, "%s cannot be indexed",
               card_kind_text(v.kind));
    int64_t i = 0, n = v.kind == CARD_V_STR ? (int64_t)strlen(v.s) : v.num;
    AM_TRY(card_want_int(e, &ix, x->kid[1]->pos, "the index", 0, &i));
    CARD_CHECK(i < n, x->kid[1]->pos, "index %" PRId64 " of a list of %" PRId64, i, n);
    if (v.kind == CARD_V_LIST) {
        *out = v.item[i];
    } else {
        *out = card_str(NULL);
        AM_TRY(card_strndup(&e->arena, v.s + i, 1, &out->s));
    }
done:
    return st;
}

static am_status eval_items(card_elab *e, const card_ast *x, card_kind kind, card_val *out)
{
    am_status st = AM_OK;
    card_val *item = NULL;
    AM_TRY(card_alloc(&e->arena, (size_t)x->num * sizeof *item, &item));
    for (int i = 0; i < x->num; i++) AM_TRY(card_eval(e, x->kid[i], &item[i]));
    *out = (card_val){.kind = kind, .num = x->num, .item = item};
done:
    return st;
}

static am_status eval_map(card_elab *e, const card_ast *x, card_val *out)
{
    am_status st = AM_OK;
    card_val *item = NULL;
    *out = (card_val){.kind = CARD_V_MAP, .num = x->num / 2};
    AM_TRY(card_alloc(&e->arena, (size_t)out->num * sizeof *item, &item));
    AM_TRY(card_alloc(&e->arena, (size_t)out->num * sizeof *out->key, &out->key));
    for (int i = 0; i < out->num; i++) {
        card_val key;
        AM_TRY(card_eval(e, x->kid[2 * i], &key));
        CARD_CHECK(key.kind == CARD_V_STR, x->kid[2 * i]->pos, "a key must be a string, not %s",
                   card_kind_text(key.kind));
        out->key[i] = key.s;
        AM_TRY(card_eval(e, x->kid[2 * i + 1], &item[i]));
    }
    out->item = item;
done:
    return st;
}

static am_status eval_comprehension(card_elab *e, const card_ast *x, card_val *out)
{
    am_status st = AM_OK;
    card_val *item = NULL, v;
    int64_t n = 0, epoch = e->epoch;
    card_loop l = {0};
    AM_TRY(card_eval(e, x->kid[1], &v));
    AM_TRY(card_want_int(e, &v, x->kid[1]->pos, "the length of this list", 0, &n));
    CARD_CHECK(n <= 1000000, x->kid[1]->pos, "a list of %" PRId64 " elements", n);
    AM_TRY(card_alloc(&e->arena, (size_t)n * sizeof *item, &item));
    *out = (card_val){.kind = CARD_V_LIST};
    for (int64_t i = 0; i < n; i++) {
        bool take = true;
        card_bind_loop(e, &l, x->text, i);
        if (x->num > 2) {
            st = card_eval(e, x->kid[2], &v);
            if (st == AM_OK) st = card_truth(&v, x->kid[2]->pos, &take);
        }
        if (st == AM_OK && take) st = card_eval(e, x->kid[0], &item[out->num++]);
        card_unbind_loop(e, &l, epoch);
        AM_TRY(st);
    }
    out->item = item;
done:
    return st;
}

static am_status eval_at(card_elab *e, const card_ast *x, card_val *out)
{
    am_status st = AM_OK;
    card_val v;
    int64_t layer = 0;
    AM_TRY(card_eval(e, x->kid[1], &v));
    AM_TRY(card_want_int(e, &v, x->kid[1]->pos, "the layer after @", 0, &layer));
    CARD_CHECK((size_t)layer < e->num_snapshots, x->pos,
               "`%s@%" PRId64 "`: only earlier layers can be asked (this is layer %d)", x->kid[0]->text,
               layer, e->layer);
    card_val *old = card_lookup(&e->snapshot[layer], x->kid[0]->text);
    CARD_CHECK(old, x->pos, "layer %" PRId64 " gives no `%s`", layer, x->kid[0]->text);
    *out = *old;
done:
    return st;
}

/* ---- products: scalars are gathered into one factor
 * ------------------------------------------------------------------ */

typedef struct product {
    card_val value; /* a value or several; NONE: none yet */
    bool has_scalar;
    card_val scalar;
} product;

static bool is_graph(const card_val *v)
{
    return v->kind == CARD_V_VALUE || v->kind == CARD_V_TUPLE;
}

static am_status product_apply(card_elab *e, const card_ast *x, const card_val *b, product *p)
{
    am_status st = AM_OK;
    if (is_graph(b)) {
        card_val a = p->value, r = *b;
        if (is_graph(&a) || x->op == CARD_OP_DIV) {
            if (!is_graph(&a)) {
                a = p->scalar;
                p->has_scalar = false;
            }
            AM_TRY(card_graph_binary(e, x, x->op, &a, b, &r));
        }
        p->value = r;
        goto done;
    }
    card_val one = card_int(1), left = p->has_scalar ? p->scalar : one;
    AM_TRY(card_scalar_op(e, x, &left, b, &p->scalar));
    p->has_scalar = true;
done:
    return st;
}

static am_status product_collect(card_elab *e, const card_ast *x, product *p)
{
    am_status st = AM_OK;
    card_val b;
    if (x->kind == CARD_A_BINARY && (x->op == CARD_OP_MUL || x->op == CARD_OP_DIV)) {
        AM_TRY(product_collect(e, x->kid[0], p));
        AM_TRY(card_eval(e, x->kid[1], &b));
        AM_TRY(product_apply(e, x, &b, p));
        goto done;
    }
    AM_TRY(card_eval(e, x, &b));
    if (is_graph(&b)) {
        p->value = b;
    } else {
        p->scalar = b;
        p->has_scalar = true;
    }
done:
    return st;
}

static am_status eval_product(card_elab *e, const card_ast *x, card_val *out)
{
    am_status st = AM_OK;
    product p = {.value = card_none(NULL)};
    double factor = 1;
    AM_TRY(product_collect(e, x, &p));
    if (!is_graph(&p.value)) {
        *out = p.scalar;
        goto done;
    }
    *out = p.value;
    if (!p.has_scalar) goto done;
    AM_TRY(card_want_number(e, &p.scalar, x->pos, "the factor of a tensor", &factor));
    AM_TRY(card_map_scale(e, x->pos, &p.value, factor, out));
done:
    return st;
}

static am_status eval_binary(card_elab *e, const card_ast *x, card_val *out)
{
    am_status st = AM_OK;
    card_val a, b;
    if (x->op == CARD_OP_MUL || x->op == CARD_OP_DIV) {
        AM_TRY(eval_product(e, x, out));
        goto done;
    }
    AM_TRY(card_eval(e, x->kid[0], &a));
    AM_TRY(card_eval(e, x->kid[1], &b));
    if (is_graph(&a) || is_graph(&b))
        AM_TRY(card_graph_binary(e, x, x->op, &a, &b, out));
    else
        AM_TRY(card_scalar_op(e, x, &a, &b, out));
done:
    return st;
}

static am_status eval_negate(card_elab *e, const card_ast *x, card_val *out)
{
    am_status st = AM_OK;
    card_val v;
    double r = 0;
    AM_TRY(card_eval(e, x->kid[0], &v));
    if (is_graph(&v)) {
        AM_TRY(card_map_scale(e, x->pos, &v, -1, out));
        goto done;
    }
    AM_TRY(card_want_number(e, &v, x->pos, "what follows `-`", &r));
    *out = v.kind == CARD_V_INT ? card_int(-v.i) : card_real(-r);
done:
    return st;
}

static am_status eval_logic(card_elab *e, const card_ast *x, card_val *out)
{
    am_status st = AM_OK;
    card_val v;
    bool t = false;
    AM_TRY(card_eval(e, x->kid[0], &v));
    AM_TRY(card_truth(&v, x->kid[0]->pos, &t));
    if (x->kind == CARD_A_NOT)
        t = !t;
    else if (t == (x->kind == CARD_A_AND)) { /* the second decides */
        AM_TRY(card_eval(e, x->kid[1], &v));
        AM_TRY(card_truth(&v, x->kid[1]->pos, &t));
    }
    *out = card_bool(t);
done:
    return st;
}

static am_status eval_if(card_elab *e, const card_ast *x, card_val *out)
{
    am_status st = AM_OK;
    card_val v;
    bool t = false;
    AM_TRY(card_eval(e, x->kid[0], &v));
    AM_TRY(card_truth(&v, x->kid[0]->pos, &t));
    if (t)
        AM_TRY(card_eval(e, x->kid[1], out));
    else if (x->num > 2)
        AM_TRY(card_eval(e, x->kid[2], out));
    else
        *out = card_none(x);
done:
    return st;
}

static am_status eval_alt(card_elab *e, const card_ast *x, card_val *out)
{
    am_status st = AM_OK;
    AM_TRY(card_eval(e, x->kid[0], out));
    if (out->kind == CARD_V_NONE) AM_TRY(card_eval(e, x->kid[1], out));
done:
    return st;
}

am_status card_eval(card_elab *e, const card_ast *x, card_val *out)
{
    am_status st = AM_OK;
    for (const card_given *g = e->given; g; g = g->outer)
        if (g->operand == x) {
            *out = *g->val;
            return AM_OK;
        }
    switch (x->kind) {
    case CARD_A_NUMBER:
        *out = x->integer ? card_int(x->i) : card_real(x->r);
        break;
    case CARD_A_STRING:
        *out = card_str(x->text);
        break;
    case CARD_A_BOOL:
        *out = card_bool(x->i != 0);
        break;
    case CARD_A_NONE:
        *out = card_none(x);
        break;
    case CARD_A_PATH:
        AM_TRY(card_eval_path(e, x, out));
        break;
    case CARD_A_IF:
        AM_TRY(eval_if(e, x, out));
        break;
    case CARD_A_OR:
    case CARD_A_AND:
    case CARD_A_NOT:
        AM_TRY(eval_logic(e, x, out));
        break;
    case CARD_A_NEGATE:
        AM_TRY(eval_negate(e, x, out));
        break;
    case CARD_A_BINARY:
        AM_TRY(eval_binary(e, x, out));
        break;
    case CARD_A_ALT:
        AM_TRY(eval_alt(e, x, out));
        break;
    case CARD_A_INDEX:
        AM_TRY(eval_index(e, x, out));
        break;
    case CARD_A_AT:
        AM_TRY(eval_at(e, x, out));
        break;
    case CARD_A_TRANSPOSE:
        CARD_FAIL(x->pos, "^T belongs to the tensor name of an operator");
        break;
    case CARD_A_CALL:
        AM_TRY(card_eval_call(e, x, out));
        break;
    case CARD_A_SLOTS:
        AM_TRY(card_eval_slots(e, x, out));
        break;
    case CARD_A_TUPLE:
        AM_TRY(eval_items(e, x, CARD_V_TUPLE, out));
        break;
    case CARD_A_LIST:
        AM_TRY(eval_items(e, x, CARD_V_LIST, out));
        break;
    case CARD_A_COMPREHENSION:
        AM_TRY(eval_comprehension(e, x, out));
        break;
    case CARD_A_MAP:
        AM_TRY(eval_map(e, x, out));
        break;
    }
done:
    return st;
}
