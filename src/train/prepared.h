/* prepared: where `prepare CONFIG` puts the token shards of a data set section and `train` finds them: run.data_dir/SECTION,
 * by default RUN_DIR/data/SECTION. */
#ifndef AM_PREPARED_H
#define AM_PREPARED_H

#include "config/config.h"

static inline const char *am_run_dir_of(const am_config *cfg)
{
    const char *dir = am_config_string(cfg, "run.dir");
    return dir ? dir : "runs/run";
}

static inline am_status am_prepared_dir(const am_config *cfg, const char *section, char **out)
{
    am_status st = AM_OK;
    const char *data = am_config_string(cfg, "run.data_dir");
    am_str path = {0};
    AM_TRY(am_str_printf(&path, "%s%s/%s", data ? data : am_run_dir_of(cfg), data ? "" : "/data", section));
    AM_TRY(am_strdup(path.s, out));
done:
    am_str_release(&path);
    return st;
}

#endif
