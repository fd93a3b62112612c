/* prepared: where `prepare CONFIG` puts the token shards of a data set section and `train` finds them: RUN_DIR/data/SECTION. */
#ifndef AM_PREPARED_H
#define AM_PREPARED_H

#include "base/base.h"

#define AM_RUN_DIR_DEFAULT "runs/run" /* where run.dir is not given */

static inline am_status am_prepared_dir(const char *run_dir, const char *section, char **out)
{
    am_status st = AM_OK;
    am_str path = {0};
    AM_TRY(am_str_printf(&path, "%s/data/%s", run_dir, section));
    AM_TRY(am_strdup(path.s, out));
done:
    am_str_release(&path);
    return st;
}

#endif
