/* run_dir: the directories a run writes into, made, locked against other runs, and seen to be the same on all
 * nodes. */
#ifndef AM_RUN_DIR_H
#define AM_RUN_DIR_H

#include "train/engine.h"
#include "train/settings.h"

typedef struct am_run_dir am_run_dir;

/** Before anything is written or read there.  Makes run.dir and (with checkpoint.enabled)
 *  checkpoint.checkpoint_dir; rank 0 locks both (dir_lock.h); every rank must find rank 0's lock file where
 *  it looks itself; one rank of every other node writes a file that rank 0 must find.  A lock that is not seen
 *  from another node is a warning.  [collective]
 *  @return AM_ERR_ENVIRONMENT when another run is there, or a rank sees another directory or cannot write:
 *          one rank has the sentence, as am_engine_together gives it; AM_ERR_IO when rank 0 cannot write. */
am_status am_run_dir_enter(const am_settings *s, const am_engine *e, am_run_dir **out) AM_WARN_UNUSED;
/** The last thing of a run that ends in order, when no rank writes any more.  One that fails leaves this to
 * the kernel. */
void am_run_dir_leave(am_run_dir **d);

#endif
