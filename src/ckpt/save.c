/* save.c: capture, write, commit.  Capture copies slots and takes hashes; the writer (this thread, or one of its own when async) calls no
 * MPI; commit follows agreement of all ranks and ends with the manifest.  Until then the previous checkpoint is the latest. */
#include "ckpt/ckpt_internal.h"

#include <dirent.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <time.h>
#include <unistd.h>

struct am_ckpt {
    char             *dir, *step_dir, *last;
    am_ckpt_options   o;
    am_exec          *e;
    const am_program *p;
    am_comm          *c;
    am_pieces         pieces;
    char             *staging; /* async: all pieces one after the other */
    char             *chunk;   /* otherwise */
    am_ckpt_state     state;
    char             *recipe, *model_dir, *family;
    char              save_id[33];
    pthread_t         thread;
    bool              busy, threaded;
    atomic_bool       written;
    am_status         status;
    char              message[512]; /* of the writer, whose error trace belongs to its thread */
};

static size_t slot_size(const am_program *p) { return am_dtype_bytes(p->store.dtype); }

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
    for (int u = 0; u < p->store.num_units; u++)
        for (int e = 0; e < p->store.unit[u].num_entries; e++)
            n += p->store.unit[u].entry[e].count * (p->store.unit[u].trainable ? AM_CKPT_ROLES : 1);
    return n * (int64_t)slot_size(p);
}

am_status am_step_dir(const char *dir, int64_t step, char **out)
{
    char name[40];
    snprintf(name, sizeof name, "step_%08" PRId64, step);
    return am_path_join(dir, name, out);
}

am_status am_ckpt_create(const am_ckpt_options *o, am_exec *e, const am_program *p, am_comm *c, am_ckpt **out)
{
    am_status st = AM_OK;
    am_ckpt *k = NULL;
    AM_TRY(am_calloc(1, sizeof *k, &k));
    k->o = *o;
    k->e = e;
    k->p = p;
    k->c = c;
    AM_TRY(am_strdup(o->dir, &k->dir));
    AM_TRY(am_mkdirs(o->dir));
    AM_TRY(am_pieces_list(p, true, &k->pieces));
    if (o->async) AM_TRY(am_calloc((size_t)pieces_bytes(&k->pieces, p), 1, &k->staging));
    else AM_TRY(am_calloc(AM_CKPT_CHUNK, slot_size(p), &k->chunk));
    *out = k;
    k = NULL;
done:
    am_ckpt_free(&k);
    return st;
}

void am_ckpt_free(am_ckpt **pk)
{
    if (!pk || !*pk) return;
    am_ckpt *k = *pk;
    if (k->threaded) pthread_join(k->thread, NULL);
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

bool am_ckpt_busy(const am_ckpt *k) { return k->busy; }
const char *am_ckpt_last(const am_ckpt *k) { return k->last; }

am_status am_ckpt_check_space(am_ckpt *k, int count, int64_t extra_bytes)
{
    am_status st = AM_OK;
    struct statvfs f;
    int64_t need = am_ckpt_total_bytes(k->p) * count + extra_bytes, free_bytes = 0;
    if (am_comm_rank(k->c) == 0 && statvfs(k->dir, &f) == 0) free_bytes = (int64_t)f.f_bavail * (int64_t)f.f_frsize;
    AM_TRY(am_comm_bcast(k->c, &free_bytes, sizeof free_bytes, 0));
    AM_CHECK(free_bytes >= need, AM_ERR_ENVIRONMENT, "%s has %.2f GB free, and this run writes %d checkpoints and an export: %.2f GB; free space, choose "
             "another checkpoint.checkpoint_dir, or lower checkpoint.max_recent_checkpoints", k->dir, (double)free_bytes * 1e-9, count, (double)need * 1e-9);
done:
    return st;
}

/* ---- capture and write -------------------------------------------------------------------------------------- */

static am_status hash_bytes(const void *data, size_t n, uint64_t *hash)
{
    *hash = am_hash64(data, n, 0);
    return AM_OK;
}

static am_status capture(am_ckpt *k)
{
    am_status st = AM_OK;
    char *to = k->staging;
    for (size_t i = 0; i < k->pieces.n; i++) {
        am_piece *x = &k->pieces.at[i];
        size_t bytes = (size_t)x->count * slot_size(k->p);
        AM_TRY(am_exec_read_slot(k->e, x->unit, x->role, x->in_shard, x->count, to));
        AM_TRY(hash_bytes(to, bytes, &x->hash));
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
    if (staged) {
        AM_TRY(am_safetensors_writer_write(w, x->tensor, 0, staged, x->count, k->p->store.dtype));
        goto done;
    }
    AM_TRY(am_hash64_create(&h));
    for (int64_t at = 0; at < x->count;) {
        int64_t n = am_min_i64(AM_CKPT_CHUNK, x->count - at);
        AM_TRY(am_exec_read_slot(k->e, x->unit, x->role, x->in_shard + at, n, k->chunk));
        am_hash64_update(h, k->chunk, (size_t)n * slot_size(k->p));
        AM_TRY(am_safetensors_writer_write(w, x->tensor, at, k->chunk, n, k->p->store.dtype));
        at += n;
    }
    x->hash = am_hash64_digest(h);
done:
    am_hash64_free(&h);
    return st;
}

static am_status declare(am_ckpt *k, am_safetensors_writer *w)
{
    am_status st = AM_OK;
    am_str name = {0};
    for (size_t i = 0; i < k->pieces.n; i++) {
        am_piece *x = &k->pieces.at[i];
        am_str_release(&name);
        AM_TRY(am_str_printf(&name, "%s/%s", am_ckpt_role_name[x->role], am_graph_param_at(k->p->graph, x->param)->name));
        AM_TRY(am_safetensors_writer_declare(w, name.s, k->p->store.dtype, 1, &x->count, &x->tensor));
    }
done:
    am_str_release(&name);
    return st;
}

static am_status write_file(am_ckpt *k)
{
    am_status st = AM_OK;
    char name[40], *path = NULL;
    am_safetensors_writer *w = NULL;
    const char *staged = k->staging;
    snprintf(name, sizeof name, "rank-%05d.safetensors", am_comm_rank(k->c));
    AM_TRY(am_mkdirs(k->step_dir));
    AM_TRY(am_path_join(k->step_dir, name, &path));
    AM_TRY(am_safetensors_writer_create(path, &w));
    AM_TRY(am_safetensors_writer_metadata(w, "save_id", k->save_id));
    AM_TRY(declare(k, w));
    AM_TRY(am_safetensors_writer_begin(w));
    for (size_t i = 0; i < k->pieces.n; i++) {
        AM_TRY(write_piece(k, w, &k->pieces.at[i], staged));
        if (staged) staged += (size_t)k->pieces.at[i].count * slot_size(k->p);
    }
    if (k->o.test_write_delay > 0) {
        struct timespec t = {.tv_sec = (time_t)k->o.test_write_delay, .tv_nsec = (long)(1e9 * (k->o.test_write_delay - (double)(time_t)k->o.test_write_delay))};
        nanosleep(&t, NULL);
    }
    AM_TRY(am_safetensors_writer_close(w));
done:
    am_safetensors_writer_free(&w);
    am_free(&path);
    return st;
}

static void *writer_thread(void *arg)
{
    am_ckpt *k = arg;
    k->status = write_file(k);
    if (k->status != AM_OK) snprintf(k->message, sizeof k->message, "%s", am_error_message());
    atomic_store(&k->written, true);
    return NULL;
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
    if (am_comm_rank(k->c) == 0) { /* binds the files of one save: never the same twice */
        struct timespec t;
        clock_gettime(CLOCK_REALTIME, &t);
        uint64_t a = am_random_u64((uint64_t)t.tv_sec, (uint64_t)t.tv_nsec, (uint64_t)getpid()), b = am_random_u64(a, (uint64_t)s->step, s->data_hash);
        snprintf(k->save_id, sizeof k->save_id, "%016" PRIx64 "%016" PRIx64, a, b);
    }
    AM_TRY(am_comm_bcast(k->c, k->save_id, sizeof k->save_id, 0));
done:
    return st;
}

am_status am_ckpt_save(am_ckpt *k, const am_ckpt_state *state)
{
    am_status st = AM_OK;
    bool failed;
    AM_TRY(am_ckpt_poll(k, true, &failed));
    AM_TRY(remember_state(k, state));
    if (k->o.async) AM_TRY(capture(k));
    atomic_store(&k->written, false);
    k->busy = true;
    if (k->o.async) {
        AM_CHECK(pthread_create(&k->thread, NULL, writer_thread, k) == 0, AM_ERR_ENVIRONMENT, "the checkpoint thread cannot be started");
        k->threaded = true;
    } else {
        writer_thread(k);
        AM_TRY(am_ckpt_poll(k, true, &failed));
    }
done:
    return st;
}

/* ---- commit ----------------------------------------------------------------------------------------------------- */

static json_t *my_pieces(const am_ckpt *k)
{
    json_t *list = json_array();
    for (size_t i = 0; i < k->pieces.n; i++) {
        const am_piece *x = &k->pieces.at[i];
        char hash[20];
        snprintf(hash, sizeof hash, "%016" PRIx64, x->hash);
        json_array_append_new(list, json_pack("{s:s, s:i, s:I, s:I, s:i, s:s}", "tensor", am_graph_param_at(k->p->graph, x->param)->name, "role",
                                              x->role, "begin", (json_int_t)x->begin, "count", (json_int_t)x->count, "file",
                                              am_comm_rank(k->c), "xxh3", hash));
    }
    return list;
}

/* The pieces of all ranks at rank 0. */
static am_status gather_pieces(am_ckpt *k, json_t *all)
{
    am_status st = AM_OK;
    json_t *mine = my_pieces(k), *other = NULL;
    char *text = json_dumps(mine, JSON_COMPACT), *incoming = NULL;
    int64_t length = text ? (int64_t)strlen(text) : 0, *lengths = NULL;
    AM_CHECK(text, AM_ERR_MEMORY, "no memory for the manifest");
    AM_TRY(am_calloc((size_t)am_comm_size(k->c), sizeof *lengths, &lengths));
    AM_TRY(am_comm_allgather(k->c, &length, sizeof length, lengths));
    if (am_comm_rank(k->c) != 0) {
        AM_TRY(am_comm_send(k->c, text, (size_t)length, 0));
        goto done;
    }
    json_array_extend(all, mine);
    for (int r = 1; r < am_comm_size(k->c); r++) {
        AM_TRY(am_calloc((size_t)lengths[r] + 1, 1, &incoming));
        AM_TRY(am_comm_recv(k->c, incoming, (size_t)lengths[r], r));
        AM_TRY(am_json_parse(incoming, (size_t)lengths[r], "pieces", &other));
        json_array_extend(all, other);
        json_decref(other);
        other = NULL;
        am_free(&incoming);
    }
done:
    json_decref(mine);
    json_decref(other);
    free(text);
    am_free(&incoming);
    am_free(&lengths);
    return st;
}

static json_t *describe_params(const am_program *p)
{
    json_t *params = json_object();
    for (int i = 0; i < am_graph_num_params(p->graph); i++) {
        const am_param *x = am_graph_param_at(p->graph, i);
        json_t *shape = json_array();
        for (int d = 0; d < x->rank; d++) json_array_append_new(shape, json_integer(x->dim[d]));
        json_object_set_new(params, x->name, json_pack("{s:o, s:b}", "shape", shape, "trainable", x->trainable));
    }
    return params;
}

static am_status write_manifest(am_ckpt *k, json_t *pieces)
{
    am_status st = AM_OK;
    char *path = NULL, *text = NULL, hash[20], seed[20], data_hash[20];
    const am_ckpt_state *s = &k->state;
    json_t *files = json_array(), *body = NULL, *root = NULL;
    for (int r = 0; r < am_comm_size(k->c); r++) {
        char name[40];
        snprintf(name, sizeof name, "rank-%05d.safetensors", r);
        json_array_append_new(files, json_string(name));
    }
    snprintf(seed, sizeof seed, "%016" PRIx64, s->seed);
    snprintf(data_hash, sizeof data_hash, "%016" PRIx64, s->data_hash);
    body = json_pack("{s:i, s:s, s:s, s:{s:I, s:I, s:I, s:s, s:s}, s:s, s:s, s:s, s:{s:i, s:I, s:I}, s:o, s:o, s:O}", "format", 1, "save_id", k->save_id,
                     "dtype", am_dtype_name(k->p->store.dtype), "state", "step", (json_int_t)s->step, "samples", (json_int_t)s->samples, "tokens",
                     (json_int_t)s->tokens, "seed", seed, "data_hash", data_hash, "recipe", s->recipe, "model_dir", s->model_dir, "family", s->family,
                     "layout", "ranks", am_comm_size(k->c), "dp_shard", (json_int_t)k->p->options.mesh.size[AM_MESH_DP_SHARD], "dp_replicate",
                     (json_int_t)k->p->options.mesh.size[AM_MESH_DP_REPLICATE], "files", files, "tensors", describe_params(k->p), "pieces", pieces);
    AM_CHECK(body, AM_ERR_CHECKPOINT, "the manifest cannot be made: a path or name is not UTF-8");
    text = json_dumps(body, JSON_COMPACT | JSON_SORT_KEYS);
    AM_CHECK(text, AM_ERR_MEMORY, "no memory for the manifest");
    snprintf(hash, sizeof hash, "%016" PRIx64, am_hash64(text, strlen(text), 0));
    root = json_pack("{s:s, s:O}", "xxh3", hash, "body", body);
    AM_TRY(am_path_join(k->step_dir, "manifest.json", &path));
    AM_TRY(am_json_save(path, root));
done:
    json_decref(body);
    json_decref(root);
    free(text);
    am_free(&path);
    return st;
}

static void remove_dir(const char *dir)
{
    DIR *d = opendir(dir);
    char *manifest = NULL;
    if (!d) return;
    if (am_path_join(dir, "manifest.json", &manifest) == AM_OK) unlink(manifest); /* first: from here on it is no checkpoint */
    am_free(&manifest);
    for (struct dirent *x; (x = readdir(d));) {
        char *path = NULL;
        if (x->d_name[0] != '.' && am_path_join(dir, x->d_name, &path) == AM_OK) unlink(path);
        am_free(&path);
    }
    closedir(d);
    rmdir(dir);
}

static int descending(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x < y) - (x > y);
}

/* Keep the newest `keep` committed checkpoints; what is older than the one just committed and was never committed goes too. */
static void retain(const am_ckpt *k)
{
    int64_t steps[1024];
    size_t n = 0, committed = 0;
    DIR *d = opendir(k->dir);
    if (!d) return;
    for (struct dirent *x; (x = readdir(d)) && n < 1024;)
        if (sscanf(x->d_name, "step_%" SCNd64, &steps[n]) == 1) n++;
    closedir(d);
    qsort(steps, n, sizeof *steps, descending);
    for (size_t i = 0; i < n; i++) {
        char *dir = NULL, *manifest = NULL;
        if (am_step_dir(k->dir, steps[i], &dir) == AM_OK && am_path_join(dir, "manifest.json", &manifest) == AM_OK) {
            bool valid = am_path_exists(manifest);
            bool surplus = valid ? k->o.keep > 0 && ++committed > (size_t)k->o.keep : steps[i] < k->state.step;
            if (surplus) remove_dir(dir);
        }
        am_free(&dir);
        am_free(&manifest);
    }
}

static am_status commit(am_ckpt *k)
{
    am_status st = AM_OK;
    json_t *pieces = json_array();
    int64_t worst = 0;
    am_status mine = AM_OK;
    AM_TRY(gather_pieces(k, pieces));
    if (am_comm_rank(k->c) == 0) mine = write_manifest(k, pieces);
    AM_TRY(am_comm_max(k->c, mine, &worst));
    AM_CHECK(worst == AM_OK, mine != AM_OK ? mine : AM_ERR_CHECKPOINT, "%s: %s", k->step_dir, mine != AM_OK ? am_error_message() : "rank 0 could not write the manifest");
    if (am_comm_rank(k->c) == 0) retain(k);
    am_free(&k->last);
    AM_TRY(am_strdup(k->step_dir, &k->last));
    am_log(AM_LOG_INFO, "ckpt", "checkpoint %s committed", k->step_dir);
done:
    json_decref(pieces);
    return st;
}

am_status am_ckpt_poll(am_ckpt *k, bool wait, bool *failed)
{
    am_status st = AM_OK;
    int64_t pending = 0, worst = 0;
    *failed = false;
    if (!k->busy) goto done;
    if (wait && k->threaded) {
        pthread_join(k->thread, NULL);
        k->threaded = false;
    }
    AM_TRY(am_comm_max(k->c, atomic_load(&k->written) ? 0 : 1, &pending));
    if (pending) goto done;
    if (k->threaded) pthread_join(k->thread, NULL);
    k->threaded = false;
    k->busy = false;
    if (k->status != AM_OK) am_log(AM_LOG_ERROR, "ckpt", "checkpoint %s failed: %s", k->step_dir, k->message);
    AM_TRY(am_comm_max(k->c, k->status, &worst));
    if (worst == AM_OK && commit(k) == AM_OK) goto done;
    *failed = true;
    am_log(AM_LOG_WARN, "ckpt", "checkpoint %s is not committed; the previous one stays the latest", k->step_dir);
done:
    return st;
}
