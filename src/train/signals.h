/* signals: SIGTERM, SIGINT, SIGUSR1, SIGUSR2 ask for a checkpoint and the end of the run.  The handler only sets a flag; the loop
 * reads it into the step's control word, on which all ranks act together. */
#ifndef AM_SIGNALS_H
#define AM_SIGNALS_H

#include "base/base.h"

am_status am_signals_install(void) AM_WARN_UNUSED;
/** The first signal that arrived, 0 when none did. */
int am_signals_pending(void);
const char *am_signals_name(int signal);

#endif
