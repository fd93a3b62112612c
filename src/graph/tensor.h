/* tensor: what tensor parallelism has found out about a graph: tensor_search.c finds it, tensor.c carries it out. */
#ifndef AM_TENSOR_H
#define AM_TENSOR_H

#include "graph/layout.h"
#include "graph/pass.h"

enum { USED_WHOLE = 1, USED_CUT = 2, USED_BY_CUT = 4 }; /* how a parameter is read; the last: whole, by what is cut */
enum { WHOLE = -1, UNFIT = -2 };                        /* instead of a dimension */

typedef struct am_cutter {
    am_compile *c;
    am_graph   *g;
    int64_t     parts, index;
    bool       *wanted;               /* by value: a trained parameter lies upstream */
    int        *cut, *family;         /* by value: the dimension that is cut; the parameter whose product began it */
    am_dim     *span;                 /* by value: that dimension, with start and local */
    int        *leader;               /* by parameter: families that met (union-find) */
    bool       *begins;               /* by parameter */
    int        *axis;                 /* by parameter: the axis that is cut, or WHOLE */
    am_dim     *dim;                  /* … along this dimension of it, with start and local */
    unsigned   *use;
    uint32_t   *branch;               /* by node: operands that enter the cut whole */
    bool       *sum;                  /* by node: its output is summands */
    char        reason[192];          /* of the walk's failure */
} am_cutter;

/** Which values and parameters are cut, what enters a cut whole and what leaves it as summands; nothing of the graph changes but
 *  am_param.why_whole.  The arrays are allocated here. */
am_status am_tensor_search(am_cutter *k) AM_WARN_UNUSED;
void      am_tensor_release(am_cutter *k);
/** The dimension of value v that is cut and, in *d, that dimension with what of it is here; WHOLE; UNFIT: a view that cannot be cut. */
int       am_tensor_cut(const am_cutter *k, int v, am_dim *d);

#endif
