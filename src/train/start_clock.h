/* start_clock: what lies between the command and the end of its first step, as `automodel bench start` prints it.
 * The functions that do the work mark their ends; without a clock (NULL) a mark does nothing. */
#ifndef AM_START_CLOCK_H
#define AM_START_CLOCK_H

#include "train/process_memory.h"

enum { AM_START_MARKS = 24 };

typedef struct am_start_mark {
    const char       *what;    /* "weights": ended here */
    double            at;      /* seconds since the process was started */
    am_process_memory memory;  /* then */
} am_start_mark;

typedef struct am_start_clock {
    double        started; /* of the process, on the clock of am_now() */
    am_start_mark mark[AM_START_MARKS];
    int           num_marks;
} am_start_clock;

/** The first mark: what the loader and the runtime did before main. */
void am_start_clock_begin(am_start_clock *c);
/** What was done since the last mark; beyond AM_START_MARKS it is added to the last.  @param what  lives as long as the clock. */
void am_start_mark_end(am_start_clock *c, const char *what);
/** The mark called `what`, or NULL. */
const am_start_mark *am_start_find(const am_start_clock *c, const char *what);

/* What callers look for: the first step begins where the marks up to `ready` end. */
#define AM_START_READY "data started"
#define AM_START_STEP  "first step"

#endif
