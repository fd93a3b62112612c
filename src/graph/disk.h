/* disk: which element of which tensor of the checkpoint an element of a parameter is: the arithmetic of am_disk_view.
 *
 *   parameter [.., R, C], row major, n tensors stacked along axis 0: elements [i·each, (i+1)·each) lie in tensor i
 *   within a tensor: the split axis goes through the affine map of its part (layout.h), then the last two axes change
 *   places where the disk has them transposed
 *
 * Without a transpose the map is increasing: a range of a tensor holds a range of the parameter.  Pure; used by loading,
 * exporting and comparing. */
#ifndef AM_DISK_H
#define AM_DISK_H

#include "graph/layout.h"

/* A parameter's tensors seen as [batch, rows, cols]; sizes in the parameter and, larger where that axis is split, on disk. */
typedef struct am_disk_map {
    int      num_tensors;
    bool     transpose;
    int64_t  each, disk_each;          /* elements that a tensor has of this parameter, and in all */
    int64_t  rows, cols, disk_rows, disk_cols;
    int      split;                    /* 0 batch, 1 rows, 2 cols: which one goes through `at`; -1: none */
    int64_t  num_at, *at;              /* [num_at]: index on disk of an index of the split axis, increasing */
} am_disk_map;

/** @return AM_ERR_CARD when view and shape do not fit, AM_ERR_MEMORY.  Memory: 8 bytes an index of the split axis. */
am_status am_disk_map_open(const am_param *p, am_disk_map *out) AM_WARN_UNUSED;
void      am_disk_map_close(am_disk_map *m);
/** Element of tensor i / each that element i of the parameter is. */
int64_t   am_disk_map_element(const am_disk_map *m, int64_t i);
/** Not transposed: how many elements from i on, at most `most`, lie next to each other in one tensor. */
int64_t   am_disk_map_run(const am_disk_map *m, int64_t i, int64_t most);
/** Not transposed: the first element of the parameter, of those in tensor `tensor`, that lies at element `at` of it or behind;
 *  (tensor + 1)·each when there is none. */
int64_t   am_disk_map_from(const am_disk_map *m, int tensor, int64_t at);

#endif
