/* What the tests of comm share: cmocka's includes and a pattern of bytes in closed form. */
#ifndef AM_COMM_TEST_H
#define AM_COMM_TEST_H

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "comm/comm_internal.h"

#define TO_ALL 97 /* receiver in the pattern of a piece that goes to everybody */

/* byte j of what rank s sends to rank d in transfer q */
static inline unsigned char pattern(int64_t s, int64_t d, int64_t q, size_t j)
{
    return (unsigned char)(s * 31 + d * 17 + q * 7 + (int64_t)(j % 251) * 13 + (int64_t)(j / 4093));
}

static inline void fill(unsigned char *p, size_t n, int64_t s, int64_t d, int64_t q)
{
    for (size_t j = 0; j < n; j++) p[j] = pattern(s, d, q, j);
}

static inline bool matches(const unsigned char *p, size_t n, int64_t s, int64_t d, int64_t q)
{
    for (size_t j = 0; j < n; j++)
        if (p[j] != pattern(s, d, q, j)) return false;
    return true;
}

/* Members of the group of `rank` by the definition in mesh.h: those that differ only in `dims`; returns how many. */
static inline int members_of(const am_mesh *m, uint32_t dims, int rank, int *out)
{
    int n = 0;
    am_coords mine = am_mesh_coords(m, rank);
    for (int r = 0; r < am_mesh_ranks(m); r++) {
        am_coords c = am_mesh_coords(m, r);
        bool same = true;
        for (int d = 0; d < AM_MESH_DIM_COUNT; d++) same = same && ((dims >> d & 1u) || c.at[d] == mine.at[d]);
        if (same) out[n++] = r;
    }
    return n;
}

#define assert_ok(call)                                                                       \
    do {                                                                                      \
        if ((call) != AM_OK) {                                                                \
            am_error_print(stderr, -1);                                                       \
            fail_msg("%s", #call);                                                            \
        }                                                                                     \
    } while (0)

#endif
