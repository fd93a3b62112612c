/* topo_test: placing all local ranks of a described machine, and what must hold for any of them. */
#ifndef AM_TOPO_TEST_H
#define AM_TOPO_TEST_H

#include "topo/topo.h"

#include <hwloc.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define OK(call)                                                                                          \
    do {                                                                                                  \
        if ((call) != AM_OK) fail_msg("%s: %s", #call, am_error_message());                               \
    } while (0)

static inline am_topo *load_topo(const char *variable, const char *value)
{
    am_topo *t = NULL;
    unsetenv("HWLOC_SYNTHETIC");
    unsetenv("HWLOC_XMLFILE");
    setenv(variable, value, 1);
    OK(am_topo_create(&t));
    unsetenv(variable);
    assert_false(am_topo_is_this_machine(t));
    return t;
}

/* Places ranks 0..ranks-1 without a binding by the launcher: disjoint shares, sizes differing by one at most, together all
 * cores, a thread per core, each on a hardware thread of its share. */
static inline void check_even(const am_topo *t, int ranks)
{
    hwloc_bitmap_t all = hwloc_bitmap_alloc(), share = hwloc_bitmap_alloc();
    int cores = 0, least = 1 << 30, most = 0;
    for (int r = 0; r < ranks; r++) {
        am_topo_placement p;
        OK(am_topo_place(t, &(am_topo_request){.local_rank = r, .local_size = ranks}, &p));
        assert_int_equal(hwloc_bitmap_list_sscanf(share, p.share), 0);
        assert_false(hwloc_bitmap_intersects(all, share));
        hwloc_bitmap_or(all, all, share);
        assert_false(p.shared || p.bind || p.corrected);
        assert_int_equal(p.threads, p.cores);
        for (int i = 0; i < p.threads; i++) assert_true(hwloc_bitmap_isset(share, (unsigned)p.pu[i]));
        cores += p.cores;
        least = p.cores < least ? p.cores : least;
        most = p.cores > most ? p.cores : most;
        am_topo_placement_release(&p);
    }
    assert_int_equal(cores, am_topo_cores(t));
    assert_true(most - least <= 1);
    hwloc_bitmap_free(all);
    hwloc_bitmap_free(share);
}

#endif
