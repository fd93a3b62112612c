/* nest: the loops of operators whose operands have some of the dimensions of one of them (attributes a_dims, b_dims, c_dims:
 * bit k set where the operand has dimension k).  Neighbouring dimensions that every operand has, or lacks, are one loop. */
#ifndef AM_NEST_H
#define AM_NEST_H

#include "kernels_cpu.h"

enum { AM_NEST_OPERANDS = 3 };
typedef struct am_nest {
    int     loops; /* >= 1, outermost first */
    int64_t size[AM_MAX_RANK];
    int64_t stride[AM_NEST_OPERANDS][AM_MAX_RANK]; /* 0: the operand is repeated */
    int64_t elements[AM_NEST_OPERANDS];
} am_nest;

/** The loops over `whole` with operands that have the dimensions `mask`; keep_first: dimension 0 is a loop of its own. */
static inline am_nest am_nest_make(const am_tensor *whole, const int64_t mask[AM_NEST_OPERANDS], bool keep_first)
{
    am_nest t = {.loops = 0};
    for (int k = 0; k < whole->rank; k++) {
        bool same = t.loops > 0 && !(keep_first && k == 1);
        for (int o = 0; same && o < AM_NEST_OPERANDS; o++) same = (mask[o] >> k & 1) == (mask[o] >> (k - 1) & 1);
        if (same) {
            t.size[t.loops - 1] *= whole->dim[k];
            continue;
        }
        t.size[t.loops] = whole->dim[k];
        for (int o = 0; o < AM_NEST_OPERANDS; o++) t.stride[o][t.loops] = mask[o] >> k & 1; /* 1: has it, for now */
        t.loops++;
    }
    if (t.loops == 0) t = (am_nest){.loops = 1, .size = {1}};
    for (int o = 0; o < AM_NEST_OPERANDS; o++) {
        int64_t step = 1;
        for (int k = t.loops - 1; k >= 0; k--) {
            const bool has = t.stride[o][k] != 0;
            t.stride[o][k] = has ? step : 0;
            if (has) step *= t.size[k];
        }
        t.elements[o] = step;
    }
    return t;
}

/** Offset of operand o in row `row` of the loops [first, last). */
static inline int64_t am_nest_offset(const am_nest *t, int o, int first, int last, int64_t row)
{
    int64_t at = 0;
    for (int k = last - 1; k >= first; k--) {
        at += row % t->size[k] * t->stride[o][k];
        row /= t->size[k];
    }
    return at;
}

#endif
