/* write.c: one rank's file.  Capture copies slots into the staging buffer and takes hashes; the writer is a
 * thread of its own, which calls no MPI; what it wrote is read back and compared with the hashes of the
 * capture before it counts as written. */
#include "ckpt/ckpt_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <signal.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

am_status am_ckpt_capture(am_ckpt *k)
{
    am_status st = AM_OK;
    char *to = k->staging;
    for (size_t i = 0; i < k->pieces.n; i++) {
        am_piece *x = &k->pieces.at[i];
        size_t bytes = (size_t)x->count * am_dtype_bytes(k->p->store.dtype);
        AM_TRY(am_exec_read_slot(k->e, x->unit, x->role, x->in_shard, x->count, to));
        x->hash = am_hash64(to, bytes, 0);
        to += bytes;
    }
done:
    return st;
}

/* One piece into the file: from staging, or from the slot in chunks (hashed on the way). */
static am_status write_piece(am_ckpt *k, am_safetensors_writer *w, am_piece *x, const char *staged)
{
    am_status st = AM_OK;
    am_hash64_state *h = NULL;
    am_dtype dtype = k->p->store.dtype;
    if (staged) {
        AM_TRY(am_safetensors_writer_write(w, x->tensor, 0, staged, x->count, dtype));
        goto done;
    }
    AM_TRY(am_hash64_create(&h));
    for (int64_t at = 0; at < x->count;) {
        int64_t n = am_min_i64(AM_CKPT_CHUNK, x->count - at);
        AM_TRY(am_exec_read_slot(k->e, x->unit, x->role, x->in_shard + at, n, k->chunk));
        am_hash64_update(h, k->chunk, (size_t)n * am_dtype_bytes(k->p->store.dtype));
        AM_TRY(am_safetensors_writer_write(w, x->tensor, at, k->chunk, n, dtype));
        at += n;
    }
    x->hash = am_hash64_digest(h);
done:
    am_hash64_free(&h);
    return st;
}

static const char *param_name(const am_ckpt *k, const am_piece *x)
{
    return am_graph_param_at(k->p->graph, x->param)->name;
}

static am_status declare(am_ckpt *k, am_safetensors_writer *w)
{
    am_status st = AM_OK;
    am_str name = {0};
    for (size_t i = 0; i < k->pieces.n; i++) {
        am_piece *x = &k->pieces.at[i];
        am_str_release(&name);
        AM_TRY(am_str_printf(&name, "%s/%s", am_ckpt_role_name[x->role], param_name(k, x)));
        AM_TRY(am_safetensors_writer_declare(w, name.s, k->p->store.dtype, 1, &x->count, &x->tensor));
    }
done:
    am_str_release(&name);
    return st;
}

void am_rank_file_name(const am_ckpt *k, int rank, char out[AM_CKPT_NAME_BYTES])
{
    if (k->again)
        snprintf(out, AM_CKPT_NAME_BYTES, "rank-%05d.%.8s.safetensors", rank, k->save_id);
    else
        snprintf(out, AM_CKPT_NAME_BYTES, "rank-%05d.safetensors", rank);
}

static void pause_for_tests(const am_ckpt *k)
{
    double whole = floor(k->o.test_write_delay);
    struct timespec t = {(time_t)whole, (long)(1e9 * (k->o.test_write_delay - whole))};
    while (k->o.test_write_delay > 0 && nanosleep(&t, &t) != 0 && errno == EINTR) continue;
}

/* What stands in the file must be what was captured. */
static am_status read_back(am_ckpt *k, const char *path)
{
    am_status st = AM_OK;
    am_safetensors *f = NULL;
    am_str name = {0};
    int fd = open(path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    AM_CHECK(fd >= 0, AM_ERR_IO, "cannot open %s to read it back: %s", path, strerror(errno));
    AM_TRY(am_rank_file_look(fd, path, &k->file));
    st = am_safetensors_open_fd(fd, path, &f);
    fd = -1;
    AM_TRY(st);
    for (size_t i = 0; i < k->pieces.n; i++) {
        const am_piece *x = &k->pieces.at[i];
        const am_safetensors_tensor *t = NULL;
        uint64_t hash = 0;
        am_str_release(&name);
        AM_TRY(am_str_printf(&name, "%s/%s", am_ckpt_role_name[x->role], param_name(k, x)));
        AM_TRY(am_safetensors_get(f, name.s, &t));
        AM_TRY(am_tensor_hash(f, t, k->chunk, &hash));
        AM_CHECK(hash == x->hash, AM_ERR_CHECKPOINT,
                 "%s: %s does not hold what was captured: memory or the file system corrupted it", path,
                 name.s);
    }
done:
    if (fd >= 0) close(fd);
    am_safetensors_free(&f);
    am_str_release(&name);
    return st;
}

static am_status write_file(am_ckpt *k)
{
    am_status st = AM_OK;
    char name[AM_CKPT_NAME_BYTES], *path = NULL;
    am_safetensors_writer *w = NULL;
    const char *staged = k->staging;
    am_rank_file_name(k, am_comm_rank(k->c), name);
    AM_TRY(am_step_make(k->step_dir));
    AM_TRY(am_path_join(k->step_dir, name, &path));
    AM_TRY(am_safetensors_writer_create(path, &w));
    AM_TRY(am_safetensors_writer_metadata(w, "save_id", k->save_id));
    AM_TRY(am_safetensors_writer_metadata(w, "file", name));
    AM_TRY(declare(k, w));
    AM_TRY(am_safetensors_writer_begin(w));
    pause_for_tests(k);
    for (size_t i = 0; i < k->pieces.n; i++) {
        AM_TRY(write_piece(k, w, &k->pieces.at[i], staged));
        if (staged) staged += (size_t)k->pieces.at[i].count * am_dtype_bytes(k->p->store.dtype);
    }
    k->made = true;
    AM_TRY(am_safetensors_writer_close(w));
    AM_TRY(read_back(k, path));
done:
    am_safetensors_writer_free(&w);
    am_free(&path);
    return st;
}

static void finish_writing(am_ckpt *k, am_status st, const char *message)
{
    pthread_mutex_lock(&k->lock);
    k->status = st;
    snprintf(k->message, sizeof k->message, "%s", st == AM_OK ? "" : message);
    k->written = true;
    pthread_cond_signal(&k->changed);
    pthread_mutex_unlock(&k->lock);
}

static void *writer_thread(void *arg)
{
    am_ckpt *k = arg;
    am_status st = write_file(k);
    finish_writing(k, st, am_error_message());
    return NULL;
}

/* Signals stay with the thread that trains. */
void am_ckpt_start_writer(am_ckpt *k)
{
    sigset_t all, old;
    k->written = k->made = false;
    k->busy = true;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    int failed = pthread_create(&k->thread, NULL, writer_thread, k);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    k->threaded = failed == 0;
    if (failed) finish_writing(k, AM_ERR_ENVIRONMENT, "the checkpoint thread cannot be started (ulimit -u)");
}

bool am_ckpt_wait_written(am_ckpt *k, double seconds)
{
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_nsec += (long)(seconds * 1e9);
    until.tv_sec += until.tv_nsec / 1000000000;
    until.tv_nsec %= 1000000000;
    pthread_mutex_lock(&k->lock);
    while (seconds > 0 && !k->written && pthread_cond_timedwait(&k->changed, &k->lock, &until) == 0) continue;
    bool written = k->written;
    pthread_mutex_unlock(&k->lock);
    return written;
}
