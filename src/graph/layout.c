/* layout: parts of a layout tree and their affine maps (layout.h).
 * A product's factors left of the last one are plain dimensions (or products of them); the last may be a sum.
 * So walking from the root to one part collects (dimension, stride) pairs, where the stride of a factor is
 * the product of the sizes to its right, and the offset adds the sizes of the summands left of the way. */
#include "graph/layout.h"

int am_layout_num_parts(const am_layout *l)
{
    int n = 0;
    if (l->kind == AM_LAYOUT_DIM) return 1;
    if (l->kind == AM_LAYOUT_PRODUCT) return am_layout_num_parts(l->part[l->num_parts - 1]);
    for (int i = 0; i < l->num_parts; i++) n += am_layout_num_parts(l->part[i]);
    return n;
}

static am_status add_dim(const am_dim *d, int64_t stride, am_layout_part *p)
{
    am_status st = AM_OK;
    p->size *= d->global;
    if (d->global == 1 && d->name[0] == '1') goto done;
    AM_CHECK(p->num_dims < AM_LAYOUT_MAX_DIMS, AM_ERR_CARD, "a layout nests more than %d dimensions",
             AM_LAYOUT_MAX_DIMS);
    p->dim[p->num_dims] = *d;
    p->stride[p->num_dims++] = stride;
done:
    return st;
}

/* `stride`: elements between neighbours of the innermost dimension of l, seen from the axis. */
static am_status collect(const am_layout *l, int index, int64_t stride, am_layout_part *p)
{
    am_status st = AM_OK;
    if (l->kind == AM_LAYOUT_DIM) {
        AM_TRY(add_dim(&l->dim, stride, p));
        goto done;
    }
    if (l->kind == AM_LAYOUT_SUM) {
        for (int i = 0; i < l->num_parts; i++) {
            int n = am_layout_num_parts(l->part[i]);
            if (index < n) {
                AM_TRY(collect(l->part[i], index, stride, p));
                goto done;
            }
            index -= n;
            p->offset += l->part[i]->size * stride;
        }
        AM_FAIL(AM_ERR_INTERNAL, "a layout has no part %d", index);
    }
    int64_t inner = l->size * stride;
    for (int i = 0; i < l->num_parts; i++) {
        AM_CHECK(i + 1 == l->num_parts || am_layout_num_parts(l->part[i]) == 1, AM_ERR_CARD,
                 "a sum can only stand rightmost in a product of dimensions");
        inner /= l->part[i]->size;
        AM_TRY(collect(l->part[i], i + 1 == l->num_parts ? index : 0, inner, p));
    }
done:
    return st;
}

am_status am_layout_part_at(const am_layout *l, int index, am_layout_part *out)
{
    *out = (am_layout_part){.size = 1};
    return collect(l, index, 1, out);
}

int am_layout_part_role(const am_layout_part *p, am_role role)
{
    for (int i = 0; i < p->num_dims; i++)
        if (p->dim[i].role == role) return i;
    return -1;
}

bool am_layout_cut_by(const am_layout *l, am_role role)
{
    int64_t pieces = 0;
    for (int i = 0; i < am_layout_num_parts(l); i++) {
        am_layout_part p;
        if (am_layout_part_at(l, i, &p) != AM_OK) return false;
        int d = am_layout_part_role(&p, role);
        if (d < 0) continue;
        if (pieces && pieces != p.dim[d].global) return false;
        pieces = p.dim[d].global;
    }
    return pieces > 0;
}

int64_t am_layout_element(const am_layout_part *p, const int64_t *index)
{
    int64_t at = p->offset;
    for (int i = 0; i < p->num_dims; i++) at += index[i] * p->stride[i];
    return at;
}

am_status am_layout_print(const am_layout *l, am_str *out)
{
    am_status st = AM_OK;
    if (l->kind == AM_LAYOUT_DIM) {
        AM_TRY(am_str_printf(out, "%s", l->dim.name));
        goto done;
    }
    for (int i = 0; i < l->num_parts; i++) {
        bool nested = l->part[i]->kind != AM_LAYOUT_DIM && l->kind == AM_LAYOUT_PRODUCT;
        if (i) AM_TRY(am_str_printf(out, l->kind == AM_LAYOUT_SUM ? " + " : " "));
        if (nested) AM_TRY(am_str_printf(out, "("));
        AM_TRY(am_layout_print(l->part[i], out));
        if (nested) AM_TRY(am_str_printf(out, ")"));
    }
done:
    return st;
}
