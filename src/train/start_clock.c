/* start_clock.c: a list of moments. */
#include "train/start_clock.h"

#include <string.h>

void am_start_clock_begin(am_start_clock *c)
{
    *c = (am_start_clock){.started = am_process_started()};
    am_start_mark_end(c, "before main");
}

void am_start_mark_end(am_start_clock *c, const char *what)
{
    if (!c) return;
    int i = c->num_marks < AM_START_MARKS ? c->num_marks++ : AM_START_MARKS - 1;
    c->mark[i] =
        (am_start_mark){.what = what, .at = am_now() - c->started, .memory = am_process_memory_now()};
}

const am_start_mark *am_start_find(const am_start_clock *c, const char *what)
{
    for (int i = 0; i < c->num_marks; i++)
        if (strcmp(c->mark[i].what, what) == 0) return &c->mark[i];
    return NULL;
}
