/* From pieces to rows.  Pieces are taken in the order of a permutation that does not depend on the epoch, so
 * rows are the same in every epoch and only their order changes; the table is a pure function of lengths, T
 * and seed. */
#include "data/data_internal.h"

#include <string.h>

typedef struct open_row {
    int64_t row, free_cells;
} open_row;

am_status am_table_add(am_table *t, const am_piece *piece)
{
    am_status st = AM_OK;
    AM_TRY(am_grow(&t->pieces, &t->cap_pieces, t->num_pieces + 1, sizeof *t->pieces));
    t->pieces[t->num_pieces++] = *piece;
done:
    return st;
}

/* Greedy: the oldest of at most AM_OPEN_ROWS open rows that has room, else a new row; when there is no place
 * for another open row the fullest (of equal ones the oldest) is closed. */
static int64_t choose_row(open_row *open, int *num_open, int64_t row_len, int64_t length, int64_t *num_rows)
{
    int slot = -1, fullest = 0;
    for (int i = 0; i < *num_open && slot < 0; i++) {
        if (open[i].free_cells >= length) slot = i;
        if (open[i].free_cells < open[fullest].free_cells) fullest = i;
    }
    if (slot < 0) {
        if (*num_open == AM_OPEN_ROWS) {
            memmove(open + fullest, open + fullest + 1, (size_t)(*num_open - fullest - 1) * sizeof *open);
            (*num_open)--;
        }
        slot = (*num_open)++;
        open[slot] = (open_row){(*num_rows)++, row_len};
    }
    open[slot].free_cells -= length;
    return open[slot].row;
}

am_status am_table_pack(am_table *t, int64_t row_len, bool packed, bool shuffle, uint64_t seed)
{
    am_status st = AM_OK;
    int64_t n = (int64_t)t->num_pieces, *row_of = NULL, *fill = NULL;
    uint64_t *order = NULL;
    open_row open[AM_OPEN_ROWS];
    int num_open = 0;
    AM_TRY(am_calloc((size_t)n + 1, sizeof *row_of, &row_of));
    AM_TRY(am_calloc((size_t)n + 1, sizeof *order, &order));
    t->num_rows = 0;
    for (int64_t k = 0; k < n; k++) {
        order[k] = (uint64_t)(shuffle ? am_permute(seed, AM_STREAM_PACK, n, k) : k);
        int64_t length = t->pieces[order[k]].length;
        row_of[k] = packed ? choose_row(open, &num_open, row_len, length, &t->num_rows) : t->num_rows++;
    }
    AM_TRY(am_calloc((size_t)t->num_rows + 1, sizeof *t->row_first, &t->row_first));
    AM_TRY(am_calloc((size_t)t->num_rows + 1, sizeof *t->row_targets, &t->row_targets));
    AM_TRY(am_calloc((size_t)n + 1, sizeof *t->row_pieces, &t->row_pieces));
    AM_TRY(am_calloc((size_t)t->num_rows + 1, sizeof *fill, &fill));
    for (int64_t k = 0; k < n; k++) t->row_first[row_of[k] + 1]++;
    for (int64_t r = 0; r < t->num_rows; r++) t->row_first[r + 1] += t->row_first[r];
    for (int64_t k = 0; k < n; k++) {
        int64_t r = row_of[k];
        t->row_pieces[t->row_first[r] + fill[r]++] = order[k];
        t->row_targets[r] += t->pieces[order[k]].targets;
    }
done:
    am_free(&row_of);
    am_free(&order);
    am_free(&fill);
    return st;
}

uint64_t am_table_hash(const am_table *t)
{
    uint64_t h = am_hash64(&t->num_rows, sizeof t->num_rows, AM_SHARD_FORMAT_VERSION);
    h = am_hash64(t->pieces, t->num_pieces * sizeof *t->pieces, h);
    h = am_hash64(t->row_first, ((size_t)t->num_rows + 1) * sizeof *t->row_first, h);
    return am_hash64(t->row_pieces, t->num_pieces * sizeof *t->row_pieces, h);
}

void am_table_release(am_table *t)
{
    am_free(&t->pieces);
    am_free(&t->row_first);
    am_free(&t->row_pieces);
    am_free(&t->row_targets);
    memset(t, 0, sizeof *t);
}
