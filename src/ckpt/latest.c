/* latest.c: the newest step directory that is a valid checkpoint: manifest and every byte of every file, the
 * work shared by the ranks.  There is no pointer file that could be empty or stale: the directories are the
 * truth. */
#include "ckpt/ckpt_internal.h"

#include <string.h>

/* Collective.  Did all ranks open the same save?  (A network file system may show ranks different files.) */
static am_status same_save(am_comm *c, const am_manifest *m, am_status *mine)
{
    am_status st = AM_OK;
    char id[64] = "";
    if (m) snprintf(id, sizeof id, "%s", m->save_id);
    AM_TRY(am_comm_bcast(c, id, sizeof id, 0));
    if (m && *mine == AM_OK && id[0] && strcmp(id, m->save_id) != 0)
        *mine = am_fail(AM_ERR_CHECKPOINT, "%s is the manifest of save %s here and of save %s at rank 0",
                        m->path, m->save_id, id);
done:
    return st;
}

static am_status try_step(const char *dir, int64_t step, am_comm *c, am_manifest **out)
{
    am_status st = AM_OK, mine;
    am_manifest *m = NULL;
    char *path = NULL;
    int64_t worst = 0;
    AM_TRY(am_step_dir(dir, step, &path));
    mine = am_manifest_open(path, &m);
    bool ours =
        mine == AM_OK || am_comm_rank(c) == 0; /* all ranks see the same manifest: one says what is wrong */
    if (mine == AM_OK) mine = am_manifest_verify(m, am_comm_rank(c), am_comm_size(c));
    AM_TRY(same_save(c, m, &mine));
    if (mine != AM_OK && ours) am_log(AM_LOG_ERROR, "ckpt", "%s", am_error_message());
    AM_TRY(am_comm_max(c, mine, &worst));
    if (worst == AM_OK) {
        *out = m;
        m = NULL;
    } else if (am_comm_rank(c) == 0) {
        am_log(AM_LOG_WARN, "ckpt", "checkpoint %s is refused; the one before it is tried", path);
    }
done:
    am_manifest_free(&m);
    am_free(&path);
    return st;
}

/* Collective.  The committed steps, newest first, as rank 0 sees them. */
static am_status agree_on_steps(const char *dir, am_comm *c, int64_t **out, int64_t *count)
{
    am_status st = AM_OK, mine = AM_OK;
    am_step_entry *entry = NULL;
    struct {
        int64_t n;
        char text[512];
    } found = {0};
    size_t n = 0;
    if (am_comm_rank(c) == 0 && (mine = am_steps_list(dir, &entry, &n)) != AM_OK)
        snprintf(found.text, sizeof found.text, "%s", am_error_message());
    for (size_t i = 0; i < n; i++) {
        found.n += entry[i].committed;
        if (!entry[i].committed)
            am_log(AM_LOG_WARN, "ckpt",
                   "%s: step %" PRId64 " has no manifest: its save was not completed; passed over", dir,
                   entry[i].step);
    }
    AM_TRY(am_comm_bcast(c, &found, sizeof found, 0));
    AM_CHECK(!found.text[0], AM_ERR_CHECKPOINT, "%s", found.text);
    AM_TRY(am_calloc((size_t)found.n, sizeof **out, out));
    for (size_t i = 0, at = 0; i < n; i++)
        if (entry[i].committed) (*out)[at++] = entry[i].step;
    if (found.n) AM_TRY(am_comm_bcast(c, *out, (size_t)found.n * sizeof **out, 0));
    *count = found.n;
done:
    am_free(&entry);
    return st;
}

am_status am_ckpt_find_latest(const char *dir, am_comm *c, am_manifest **out)
{
    am_status st = AM_OK;
    int64_t *step = NULL, count = 0;
    *out = NULL;
    AM_TRY(agree_on_steps(dir, c, &step, &count));
    for (int64_t i = 0; i < count && !*out; i++) AM_TRY(try_step(dir, step[i], c, out));
    AM_CHECK(*out || count == 0, AM_ERR_CHECKPOINT,
             "%s holds %" PRId64 " checkpoints and none is valid; move the directory away to start anew", dir,
             count);
done:
    am_free(&step);
    return st;
}
