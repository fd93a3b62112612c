/* save.c: the object, and the collective side of a save.  A rank's file is written by a thread of its own
 * (write.c); when async the training thread goes on, otherwise it waits here in short turns, so that no rank
 * stands in a collective for as long as the slowest disk takes.  The commit (commit.c) follows the agreement
 * of all ranks; until then the previous checkpoint is the latest. */
#include "ckpt/ckpt_internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <time.h>
#include <unistd.h>

#define WAIT_SECONDS 0.5 /* between two agreements while ranks are still writing */

static size_t slot_size(const am_program *p)
{
    return am_dtype_bytes(p->store.dtype);
}

static int64_t pieces_bytes(const am_pieces *x, const am_program *p)
{
    int64_t n = 0;
    for (size_t i = 0; i < x->n; i++) n += x->at[i].count;
    return n * (int64_t)slot_size(p);
}

int64_t am_ckpt_staging_bytes(const am_program *p)
{
    am_pieces x = {0};
    int64_t bytes = am_pieces_list(p, true, &x) == AM_OK ? pieces_bytes(&x, p) : 0;
    am_free(&x.at);
    return bytes;
}

int64_t am_ckpt_total_bytes(const am_program *p)
{
    int64_t n = 0;
    for (int u = 0; u < p->store.num_units; u++) {
        const am_unit *unit = &p->store.unit[u];
        for (int e = 0; e < unit->num_entries; e++)
            n += unit->entry[e].count * (unit->trainable ? AM_CKPT_ROLES : 1);
    }
    return n * (int64_t)slot_size(p);
}

/* ---- the object ----------------------------------------------------------------------------------- */

static am_status init_lock(am_ckpt *k)
{
    am_status st = AM_OK;
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    bool ok = pthread_mutex_init(&k->lock, NULL) == 0;
    if (ok && pthread_cond_init(&k->changed, &attr) != 0) {
        pthread_mutex_destroy(&k->lock);
        ok = false;
    }
    pthread_condattr_destroy(&attr);
    k->has_lock = ok;
    AM_CHECK(ok, AM_ERR_MEMORY, "no memory for the lock of the checkpoint writer");
done:
    return st;
}

/* AM_CKPT_DELAY_S=SECONDS or SECONDS@RANK. */
static am_status delay_of_environment(am_ckpt *k)
{
    am_status st = AM_OK;
    const char *text = getenv("AM_CKPT_DELAY_S");
    char *seconds = NULL;
    int64_t rank = am_comm_rank(k->c);
    double delay = 0;
    if (!text || !*text) goto done;
    AM_TRY(am_strndup(text, strcspn(text, "@"), &seconds));
    const char *at = strchr(text, '@');
    AM_CHECK(am_parse_f64(seconds, &delay) && delay >= 0 && delay < 1e6 &&
                 (!at || am_parse_i64(at + 1, &rank)),
             AM_ERR_CONFIG, "AM_CKPT_DELAY_S=%s: expected SECONDS or SECONDS@RANK", text);
    if (rank == am_comm_rank(k->c)) k->o.test_write_delay = delay;
done:
    am_free(&seconds);
    return st;
}

/* Collective: rank 0 makes the directory, and all go on or none. */
static am_status prepare(am_ckpt *k)
{
    am_status st = AM_OK;
    char text[512] = "";
    if (am_comm_rank(k->c) == 0 && am_dir_prepare(k->dir) != AM_OK)
        snprintf(text, sizeof text, "%s", am_error_message());
    AM_TRY(am_comm_bcast(k->c, text, sizeof text, 0));
    AM_CHECK(!text[0], AM_ERR_CHECKPOINT, "%s", text);
done:
    return st;
}

am_status am_ckpt_create(const am_ckpt_options *o, am_exec *e, const am_program *p, am_comm *c, am_ckpt **out)
{
    am_status st = AM_OK;
    am_ckpt *k = NULL;
    AM_CHECK(o->keep >= 0, AM_ERR_CONFIG, "%d checkpoints to keep: give a positive number, or 0 for all",
             o->keep);
    AM_TRY(am_calloc(1, sizeof *k, &k));
    k->o = *o;
    k->e = e;
    k->p = p;
    k->c = c;
    AM_TRY(init_lock(k));
    AM_TRY(delay_of_environment(k));
    AM_TRY(am_strdup(o->dir, &k->dir));
    AM_TRY(prepare(k));
    AM_TRY(am_pieces_list(p, true, &k->pieces));
    if (o->async) AM_TRY(am_calloc((size_t)pieces_bytes(&k->pieces, p), 1, &k->staging));
    AM_TRY(am_calloc(AM_CKPT_CHUNK, slot_size(p), &k->chunk));
    *out = k;
    k = NULL;
done:
    am_ckpt_free(&k);
    return st;
}

static void join(am_ckpt *k)
{
    if (k->threaded) pthread_join(k->thread, NULL);
    k->threaded = false;
}

void am_ckpt_free(am_ckpt **pk)
{
    if (!pk || !*pk) return;
    am_ckpt *k = *pk;
    join(k);
    if (k->has_lock) {
        pthread_cond_destroy(&k->changed);
        pthread_mutex_destroy(&k->lock);
    }
    am_free(&k->dir);
    am_free(&k->step_dir);
    am_free(&k->last);
    am_free(&k->recipe);
    am_free(&k->model_dir);
    am_free(&k->family);
    am_free(&k->staging);
    am_free(&k->chunk);
    am_free(&k->pieces.at);
    am_free(pk);
}

bool am_ckpt_busy(const am_ckpt *k)
{
    return k->busy;
}
const char *am_ckpt_last(const am_ckpt *k)
{
    return k->last;
}
const char *am_ckpt_failure(const am_ckpt *k)
{
    return k->failure[0] ? k->failure : NULL;
}

am_status am_ckpt_check_space(am_ckpt *k, int count, int64_t extra_bytes)
{
    am_status st = AM_OK;
    struct statvfs f;
    struct {
        int64_t bytes, error;
    } room = {0, 0};
    int64_t need;
    if (am_comm_rank(k->c) == 0) {
        if (statvfs(k->dir, &f) != 0)
            room.error = errno;
        else if (!am_mul_i64((int64_t)f.f_bavail, (int64_t)f.f_frsize, &room.bytes))
            room.bytes = INT64_MAX;
    }
    AM_TRY(am_comm_bcast(k->c, &room, sizeof room, 0));
    AM_CHECK(room.error == 0, AM_ERR_ENVIRONMENT, "cannot ask %s for its free space: %s", k->dir,
             strerror((int)room.error));
    bool fits = am_mul_i64(am_ckpt_total_bytes(k->p), count, &need) && am_add_i64(need, extra_bytes, &need);
    if (!fits) need = INT64_MAX;
    AM_CHECK(
        room.bytes >= need, AM_ERR_ENVIRONMENT,
        "%s has %.2f GB free; this run writes %d checkpoints of %.2f GB and %.2f GB besides; free space, "
        "choose another checkpoint.checkpoint_dir, or lower checkpoint.max_recent_checkpoints",
        k->dir, (double)room.bytes * 1e-9, count, (double)am_ckpt_total_bytes(k->p) * 1e-9,
        (double)extra_bytes * 1e-9);
done:
    return st;
}

/* ---- one save ------------------------------------------------------------------------------------- */

/* Known to rank 0, told to all: the id that binds the files of one save (never the same twice), and whether
 * the step directory holds a manifest already. */
static am_status agree_on_names(am_ckpt *k)
{
    am_status st = AM_OK;
    struct {
        char id[sizeof k->save_id];
        bool again;
    } names = {0};
    char *manifest = NULL;
    struct stat info;
    struct timespec t;
    if (am_comm_rank(k->c) == 0) {
        clock_gettime(CLOCK_REALTIME, &t);
        uint64_t a = am_random_u64((uint64_t)t.tv_sec, (uint64_t)t.tv_nsec, (uint64_t)getpid());
        uint64_t b = am_random_u64(a, (uint64_t)k->state.step, k->state.data_hash);
        snprintf(names.id, sizeof names.id, "%016" PRIx64 "%016" PRIx64, a, b);
        AM_TRY(am_path_join(k->step_dir, "manifest.json", &manifest));
        names.again = lstat(manifest, &info) == 0;
    }
    AM_TRY(am_comm_bcast(k->c, &names, sizeof names, 0));
    memcpy(k->save_id, names.id, sizeof names.id);
    k->again = names.again;
done:
    am_free(&manifest);
    return st;
}

static am_status remember_state(am_ckpt *k, const am_ckpt_state *s)
{
    am_status st = AM_OK;
    am_free(&k->recipe);
    am_free(&k->model_dir);
    am_free(&k->family);
    am_free(&k->step_dir);
    k->state = *s;
    AM_TRY(am_strdup(s->recipe ? s->recipe : "", &k->recipe));
    AM_TRY(am_strdup(s->model_dir ? s->model_dir : "", &k->model_dir));
    AM_TRY(am_strdup(s->family ? s->family : "", &k->family));
    k->state.recipe = k->recipe;
    k->state.model_dir = k->model_dir;
    k->state.family = k->family;
    AM_TRY(am_step_dir(k->dir, s->step, &k->step_dir));
    AM_TRY(agree_on_names(k));
done:
    return st;
}

/* Collective.  Which rank failed, and why: the first one's sentence, at every rank. */
static am_status collect_reason(am_ckpt *k, char *reason, size_t size)
{
    am_status st = AM_OK;
    char *all = NULL;
    snprintf(reason, size, "a rank failed and left no message");
    AM_TRY(am_calloc((size_t)am_comm_size(k->c), sizeof k->message, &all));
    AM_TRY(am_comm_allgather(k->c, k->message, sizeof k->message, all));
    for (int r = 0; r < am_comm_size(k->c); r++) {
        const char *text = all + (size_t)r * sizeof k->message;
        if (!text[0]) continue;
        snprintf(reason, size, "rank %d: %s", r, text);
        break;
    }
done:
    am_free(&all);
    return st;
}

/* Collective.  A save that failed gives its space back; an older save of the same step keeps its files. */
static am_status discard(am_ckpt *k)
{
    am_status st = AM_OK;
    char name[AM_CKPT_NAME_BYTES], *path = NULL;
    am_rank_file_name(k, am_comm_rank(k->c), name);
    AM_TRY(am_path_join(k->step_dir, name, &path));
    if (k->made) (void)unlink(path);
    AM_TRY(am_comm_barrier(k->c));
    if (am_comm_rank(k->c) == 0) (void)rmdir(k->step_dir); /* if nothing else is in it */
done:
    am_free(&path);
    return st;
}

static am_status settle(am_ckpt *k)
{
    am_status st = AM_OK;
    char reason[sizeof k->failure] = "";
    int64_t worst = 0;
    AM_TRY(am_comm_max(k->c, k->status, &worst));
    if (worst == AM_OK)
        AM_TRY(am_ckpt_commit(k, reason, sizeof reason));
    else
        AM_TRY(collect_reason(k, reason, sizeof reason));
    memcpy(k->failure, reason, sizeof reason);
    if (!reason[0]) goto done;
    k->unreported = true;
    AM_TRY(discard(k));
    if (am_comm_rank(k->c) == 0)
        am_log(AM_LOG_ERROR, "ckpt", "checkpoint %s is not committed; the one before stays the latest: %s",
               k->step_dir, reason);
done:
    return st;
}

static am_status finish(am_ckpt *k, bool wait)
{
    am_status st = AM_OK;
    int64_t pending = 1;
    if (!k->busy) goto done;
    while (pending) {
        bool written = am_ckpt_wait_written(k, wait ? WAIT_SECONDS : 0);
        AM_TRY(am_comm_max(k->c, written ? 0 : 1, &pending));
        if (pending && !wait) goto done;
    }
    join(k);
    k->busy = false;
    AM_TRY(settle(k));
done:
    return st;
}

am_status am_ckpt_save(am_ckpt *k, const am_ckpt_state *state)
{
    am_status st = AM_OK;
    AM_ASSERT(state->step >= 0);
    AM_TRY(finish(k, true));
    AM_TRY(remember_state(k, state));
    if (k->o.async) AM_TRY(am_ckpt_capture(k));
    am_ckpt_start_writer(k);
    if (!k->o.async) AM_TRY(finish(k, true));
done:
    return st;
}

am_status am_ckpt_poll(am_ckpt *k, bool wait, bool *failed)
{
    am_status st = AM_OK;
    AM_TRY(finish(k, wait));
    *failed = k->unreported;
    k->unreported = false;
done:
    return st;
}
