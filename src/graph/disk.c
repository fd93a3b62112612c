/* disk.c: the map of disk.h.  The affine map of the split axis is laid out as a table once, so that an element costs a few
 * divisions and a look-up whatever the layout nests. */
#include "graph/disk.h"

#include <string.h>

/* Elements of the axis that the part's indices stand for, in the order of the part, of each dimension those that are here. */
static void fill_table(const am_layout_part *p, int64_t n, int64_t *at)
{
    int64_t index[AM_LAYOUT_MAX_DIMS] = {0};
    for (int k = 0; k < p->num_dims; k++) index[k] = p->dim[k].start;
    for (int64_t i = 0; i < n; i++) {
        at[i] = am_layout_element(p, index);
        for (int k = p->num_dims - 1; k >= 0 && ++index[k] == p->dim[k].start + p->dim[k].local; k--) index[k] = p->dim[k].start;
    }
}

/* The dimensions of the parameter's axis, which may be cut, in those of its part of the whole.  @return the elements here */
static am_status take_ranges(const am_param *p, am_layout_part *part, int64_t *here)
{
    am_status st = AM_OK;
    am_layout_part own;
    *here = part->size;
    if (!p->cut_of) goto done;
    AM_TRY(am_layout_part_at(p->layout[p->disk.axis], 0, &own));
    AM_ASSERT(own.num_dims == part->num_dims);
    *here = 1;
    for (int k = 0; k < part->num_dims; k++) {
        part->dim[k].start = own.dim[k].start;
        part->dim[k].local = own.dim[k].local;
        *here *= own.dim[k].local;
    }
done:
    return st;
}

static am_status open_split(const am_param *p, am_disk_map *m)
{
    am_status st = AM_OK;
    const am_layout *whole = p->disk.whole;
    am_layout_part part;
    int axis = p->disk.axis, from_last = p->rank - 1 - axis;
    AM_TRY(am_layout_part_at(whole, p->disk.part, &part));
    int64_t here;
    AM_TRY(take_ranges(p, &part, &here));
    AM_CHECK(axis >= 0 && axis < p->rank && here == p->dim[axis] && (axis > 0 || m->num_tensors == 1), AM_ERR_CARD,
             "%s: its axis %d of %" PRId64 " is not the part %d of %" PRId64 " elements", p->name, axis, p->dim[axis],
             p->disk.part, here);
    m->split = from_last == 0 && p->rank > 1 ? 2 : from_last <= 1 ? 1 : 0;
    AM_CHECK(m->split > 0 || axis == 0, AM_ERR_CARD, "%s: axis %d of %d cannot be split", p->name, axis, p->rank);
    m->num_at = here;
    AM_TRY(am_calloc((size_t)here + 1, sizeof *m->at, &m->at));
    fill_table(&part, here, m->at);
    if (m->split == 1) m->disk_rows = whole->size;
    if (m->split == 2) m->disk_cols = whole->size;
    m->disk_each = m->each / here * whole->size;
done:
    return st;
}

am_status am_disk_map_open(const am_param *p, am_disk_map *m)
{
    am_status st = AM_OK;
    *m = (am_disk_map){.num_tensors = p->disk.num_tensors, .transpose = p->disk.transpose, .split = -1};
    int64_t n = am_param_elements(p);
    AM_CHECK(m->num_tensors > 0 && n % m->num_tensors == 0, AM_ERR_CARD,
             "%s: %" PRId64 " elements in %d tensors", p->name, n, m->num_tensors);
    AM_CHECK(!m->transpose || p->rank >= 2, AM_ERR_MODEL, "%s: only matrices can be transposed", p->name);
    m->each = m->disk_each = n / m->num_tensors;
    m->cols = m->disk_cols = p->rank > 1 ? p->dim[p->rank - 1] : 1;
    m->rows = p->rank > 1 ? p->dim[p->rank - 2] : p->dim[0];
    if (p->rank < 3) m->rows /= m->num_tensors; /* stacked along the rows themselves */
    m->disk_rows = m->rows;
    AM_CHECK(m->each % (m->rows * m->cols > 0 ? m->rows * m->cols : 1) == 0, AM_ERR_CARD,
             "%s: its tensors are no whole matrices", p->name);
    if (p->disk.whole) AM_TRY(open_split(p, m));
done:
    return st;
}

void am_disk_map_close(am_disk_map *m)
{
    am_free(&m->at);
}

int64_t am_disk_map_element(const am_disk_map *m, int64_t i)
{
    int64_t within = i % m->each, c = within % m->cols, r = within / m->cols, b = 0;
    if (m->split < 0 && !m->transpose) return within;
    b = r / m->rows;
    r %= m->rows;
    if (m->split == 0) b = m->at[b];
    if (m->split == 1) r = m->at[r];
    if (m->split == 2) c = m->at[c];
    return m->transpose ? (b * m->disk_cols + c) * m->disk_rows + r : (b * m->disk_rows + r) * m->disk_cols + c;
}

int64_t am_disk_map_run(const am_disk_map *m, int64_t i, int64_t most)
{
    int64_t within = i % m->each, left = am_min_i64(most, m->each - within), size, a, k;
    if (m->split < 0) return left;
    size = m->split == 2 ? 1 : m->split == 1 ? m->cols : m->rows * m->cols; /* elements an index of the axis stands for */
    a = within / size % m->num_at;
    for (k = a + 1; k < m->num_at && (k - a) * size < left + size && m->at[k] == m->at[k - 1] + 1;) k++;
    return am_min_i64(left, (k - a) * size - within % size);
}

int64_t am_disk_map_from(const am_disk_map *m, int tensor, int64_t at)
{
    int64_t low = tensor * m->each, high = low + m->each;
    while (low < high) {
        int64_t mid = low + (high - low) / 2;
        if (am_disk_map_element(m, mid) < at)
            low = mid + 1;
        else
            high = mid;
    }
    return low;
}
