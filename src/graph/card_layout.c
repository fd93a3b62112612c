/* card_layout: a layout as written becomes a tree with sizes and roles.  A dimension that is a definition
 * keeps that definition's name and role wherever it travels (swiglu(h, P, F) inside of which it is called M
 * is cut as F is). */
#include "graph/card_internal.h"

#include <string.h>

am_status card_dim_of(card_elab *e, const card_val *v, const char *name, card_pos pos, am_dim *out)
{
    am_status st = AM_OK;
    const char *what = NULL;
    int64_t size = 0;
    AM_TRY(card_printf(&e->arena, &what, "the dimension `%s`", name));
    AM_TRY(card_want_int(e, v, pos, what, 1, &size));
    if (v->kind == CARD_V_INT && v->dim)
        *out = am_dim_make(v->dim->name, v->dim->role, size);
    else
        *out = am_dim_make(name, AM_ROLE_NONE, size);
done:
    return st;
}

static am_status resolve_dim(card_elab *e, const card_lay *l, am_dim *out)
{
    am_status st = AM_OK;
    int64_t n = 0;
    card_val v;
    if (!l->ref) {
        CARD_CHECK(am_parse_i64(l->text, &n) && n > 0, l->pos,
                   "a dimension must be a whole number of at least 1, not %s", l->text);
        *out = am_dim_number(n);
        goto done;
    }
    AM_TRY(card_eval_path(e, l->ref, &v));
    AM_TRY(card_dim_of(e, &v, l->text, l->pos, out));
done:
    return st;
}

/* [L] p: the same tree L times */
static am_status resolve_repeat(card_elab *e, const card_lay *l, am_layout *out)
{
    am_status st = AM_OK;
    am_dim count;
    const am_layout **part = NULL, *each = NULL;
    AM_TRY(resolve_dim(e, l->part[0], &count));
    CARD_CHECK(count.global <= 10000, l->pos, "%" PRId64 " parts of one tensor", count.global);
    AM_TRY(card_layout_resolve(e, l->part[1], &each));
    AM_TRY(am_graph_alloc(e->g, (size_t)count.global * sizeof *part, &part));
    for (int64_t i = 0; i < count.global; i++) part[i] = each;
    out->num_parts = (int)count.global;
    out->part = part;
    CARD_CHECK(am_mul_i64(each->size, count.global, &out->size), l->pos,
               "this layout has more elements than 64 bits can count");
done:
    return st;
}

static am_status resolve_parts(card_elab *e, const card_lay *l, am_layout *out)
{
    am_status st = AM_OK;
    const am_layout **part = NULL;
    bool fits = true;
    AM_TRY(am_graph_alloc(e->g, (size_t)l->num * sizeof *part, &part));
    out->num_parts = l->num;
    out->part = part;
    out->size = l->kind == AM_LAYOUT_SUM ? 0 : 1;
    for (int i = 0; i < l->num; i++) {
        AM_TRY(card_layout_resolve(e, l->part[i], &part[i]));
        CARD_CHECK(l->kind == AM_LAYOUT_SUM || i + 1 == l->num || am_layout_num_parts(part[i]) == 1,
                   l->part[i]->pos,
                   "a sum can only stand rightmost in a product: write a (b + c), not (b + c) a");
        fits = fits && (l->kind == AM_LAYOUT_SUM ? am_add_i64(out->size, part[i]->size, &out->size)
                                                 : am_mul_i64(out->size, part[i]->size, &out->size));
    }
    CARD_CHECK(fits, l->pos, "this layout has more elements than 64 bits can count");
done:
    return st;
}

am_status card_layout_resolve(card_elab *e, const card_lay *l, const am_layout **out)
{
    am_status st = AM_OK;
    am_layout *r = NULL;
    AM_TRY(am_graph_alloc(e->g, sizeof *r, &r));
    r->kind = l->kind;
    if (l->kind == AM_LAYOUT_DIM) {
        AM_TRY(resolve_dim(e, l, &r->dim));
        r->size = r->dim.global;
    } else if (l->repeat) {
        AM_TRY(resolve_repeat(e, l, r));
    } else {
        AM_TRY(resolve_parts(e, l, r));
    }
    *out = r;
done:
    return st;
}

/* The features of a value as a layout: one dimension, or the product of several. */
am_status card_layout_of_dims(card_elab *e, const am_dim *dims, int n, const am_layout **out)
{
    am_status st = AM_OK;
    am_layout *r = NULL, *leaf = NULL;
    const am_layout **part = NULL;
    AM_TRY(am_graph_alloc(e->g, (size_t)n * sizeof *leaf, &leaf));
    for (int i = 0; i < n; i++)
        leaf[i] = (am_layout){.kind = AM_LAYOUT_DIM, .dim = dims[i], .size = dims[i].global};
    *out = leaf;
    if (n == 1) goto done;
    AM_TRY(am_graph_alloc(e->g, sizeof *r, &r));
    AM_TRY(am_graph_alloc(e->g, (size_t)n * sizeof *part, &part));
    *r = (am_layout){.kind = AM_LAYOUT_PRODUCT, .num_parts = n, .part = part, .size = 1};
    for (int i = 0; i < n; i++) {
        part[i] = &leaf[i];
        r->size *= dims[i].global;
    }
    *out = r;
done:
    return st;
}
