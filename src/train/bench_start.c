/* bench_start.c: the start of a run, measured where it happens.  Nothing of a start is done here:
 * am_train_first_step walks train's own functions and marks the ends of its parts. */
#include "train/bench.h"

#include "train/prepared.h"
#include "train/train.h"

#include <errno.h>
#include <ftw.h>
#include <string.h>
#include <unistd.h>

enum { EXTRA = 3 };

static int remove_one(const char *path, const struct stat *info, int type, struct FTW *at)
{
    (void)info;
    (void)type;
    (void)at;
    return remove(path);
}

static bool prepared(const am_config *cfg, const char *section)
{
    const char *target = am_config_target(cfg, section);
    return target && strcmp(target, "ShardDataset") != 0;
}

/* Does a section of data stand where `prepare CONFIG` puts it?  Else run.data_dir would be an option that
 * nobody reads. */
static bool any_prepared(const am_config *cfg)
{
    bool any = prepared(cfg, "dataset");
    for (size_t i = 0; am_config_section_at(cfg, "validation_dataset*", i); i++)
        any = any || prepared(cfg, am_config_section_at(cfg, "validation_dataset*", i));
    return any;
}

/* A directory of its own, in which no checkpoint stands, with the recipe's prepared data. */
static am_status redirect(const am_config *cfg, const char *run_dir, am_str extra[EXTRA], int *count)
{
    am_status st = AM_OK;
    const char *data = am_config_string(cfg, "run.data_dir");
    AM_TRY(am_str_printf(&extra[0], "--run.dir=%s/bench-start", run_dir));
    AM_TRY(am_str_printf(&extra[1], "--checkpoint.checkpoint_dir=%s/bench-start/checkpoints", run_dir));
    *count = 2;
    if (!any_prepared(cfg)) goto done;
    AM_TRY(am_str_printf(&extra[2], "--run.data_dir=%s%s", data ? data : run_dir, data ? "" : "/data"));
    *count = 3;
done:
    return st;
}

static am_status load(const char *path, int n, const char *const *overrides, am_str *run_dir, am_config **out)
{
    am_status st = AM_OK;
    am_config *cfg = NULL;
    am_str extra[EXTRA] = {{0}};
    const char **all = NULL;
    int count = 0;
    AM_TRY(am_calloc((size_t)n + EXTRA, sizeof *all, &all));
    if (n) memcpy(all, overrides, (size_t)n * sizeof *all);
    AM_TRY(am_config_load(path, n, overrides, &cfg));
    AM_TRY(am_str_printf(run_dir, "%s", am_run_dir_of(cfg)));
    AM_TRY(redirect(cfg, run_dir->s, extra, &count));
    for (int i = 0; i < count; i++) all[n + i] = extra[i].s;
    AM_TRY(am_config_load(path, n + count, all, out));
done:
    for (int i = 0; i < EXTRA; i++) am_str_release(&extra[i]);
    am_config_free(&cfg);
    am_free(&all);
    return st;
}

am_status am_bench_start(const char *path, int num_overrides, const char *const *overrides,
                         am_start_clock *out, int *rank)
{
    am_status st = AM_OK;
    am_config *cfg = NULL;
    am_str run_dir = {0}, own = {0};
    *rank = -1;
    am_start_clock_begin(out);
    AM_TRY(am_train_refused(load(path, num_overrides, overrides, &run_dir, &cfg)));
    AM_TRY(am_str_printf(&own, "%s/bench-start", run_dir.s));
    bool existed = am_path_exists(run_dir.s);
    am_start_mark_end(out, "recipe read");
    st = am_train_first_step(cfg, out, rank);
    if (*rank == 0) {
        (void)nftw(own.s, remove_one, 16, FTW_DEPTH | FTW_PHYS);
        if (!existed) (void)rmdir(run_dir.s); /* unless somebody has put something there meanwhile */
    }
    AM_TRY(st);
done:
    am_str_release(&run_dir);
    am_str_release(&own);
    am_config_free(&cfg);
    return st;
}
