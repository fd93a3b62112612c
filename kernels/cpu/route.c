/* route: the slots of all tokens sorted by expert.  A counting sort: stable, so that an expert's rows stand
 * in the order of the tokens. */
#include "kernels_cpu.h"

static am_status run_route(const am_kernel_call *c, am_dtype real)
{
    am_status st = AM_OK;
    am_cpu_dims d;
    AM_TRY(am_cpu_check(c, "route", "expert:i[S] > slot:i[S] place:i[S] offsets:i[P]", real, &d));
    const int32_t *expert = c->in[0].data;
    int32_t *slot = c->out[0].data, *place = c->out[1].data, *offsets = c->out[2].data;
    const int64_t slots = d.of['S'], experts = d.of['P'] - 1;
    AM_CHECK(slots <= INT32_MAX, AM_ERR_SHAPE, "kernel route: %lld slots", (long long)slots);
    for (int64_t e = 0; e <= experts; e++) offsets[e] = 0;
    for (int64_t i = 0; i < slots; i++)
        if (expert[i] >= 0 && expert[i] < experts) offsets[expert[i] + 1]++;
    for (int64_t e = 0; e < experts; e++) offsets[e + 1] += offsets[e];
    for (int64_t p = offsets[experts]; p < slots; p++) slot[p] = -1;
    for (int64_t i = 0; i < slots; i++) { /* offsets[e] runs to the end of e … */
        place[i] = expert[i] >= 0 && expert[i] < experts ? offsets[expert[i]]++ : -1;
        if (place[i] >= 0) slot[place[i]] = (int32_t)i;
    }
    for (int64_t e = experts; e > 0; e--) offsets[e] = offsets[e - 1]; /* … where e + 1 begins */
    offsets[0] = 0;
done:
    return st;
}

AM_CPU_ROW(route, run_route, NULL);
