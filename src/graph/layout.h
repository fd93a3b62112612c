/* layout: looking into the layout trees of graph.h.  Juxtaposition nests, + concatenates, a sum may only stand rightmost in
 * a product; so every part of a layout is an affine map from its own dimensions to elements of the axis:
 *   element(i0, i1, …) = offset + Σ ik · stride[k]
 *   H d + d + d        three parts: [H, d] at 0, [d] at H·d, [d] at H·d + d
 *   K (G d + d + d)    three parts: [K, G, d], [K, d], [K, d], all with stride (G+2)·d along K
 * Loading a slice and exporting it read the same map in the two directions. */
#ifndef AM_LAYOUT_H
#define AM_LAYOUT_H

#include "graph/graph.h"

#define AM_LAYOUT_MAX_DIMS 8

typedef struct am_layout_part {
    int     num_dims;
    am_dim  dim[AM_LAYOUT_MAX_DIMS]; /* dimensions of size 1 written as the number 1 are left out */
    int64_t stride[AM_LAYOUT_MAX_DIMS];
    int64_t offset;
    int64_t size; /* elements of this part */
} am_layout_part;

int am_layout_num_parts(const am_layout *l);
/** Part `index` of am_layout_num_parts, from the left.
 *  @return AM_ERR_CARD when a part has more than AM_LAYOUT_MAX_DIMS dimensions or a sum stands left in a product. */
am_status am_layout_part_at(const am_layout *l, int index, am_layout_part *out) AM_WARN_UNUSED;
/** The dimension of the part that a cut along `role` cuts: its outermost one with that role; -1: the part is replicated. */
int am_layout_part_role(const am_layout_part *p, am_role role);
/** Can a cut along `role` cut this axis: at least one part has a dimension with the role, and every part that has one is
 *  cut into as many whole pieces.  Parts without it are replicated (one k and v for all query heads). */
bool am_layout_cut_by(const am_layout *l, am_role role);
/** Element of the axis that index[num_dims] of the part stands for. */
int64_t am_layout_element(const am_layout_part *p, const int64_t *index);
/** "H (d + d + d)". */
am_status am_layout_print(const am_layout *l, am_str *out) AM_WARN_UNUSED;

#endif
