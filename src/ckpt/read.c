/* read.c: the files of a checkpoint: opened beneath its directory, verified against the manifest, read in
 * pieces of any layout, and loaded into the slots of this one. */
#include "ckpt/ckpt_internal.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { OPEN_FILES = 128, HEADER_MAX_BYTES = 100000000 };

/* ---- one file ------------------------------------------------------------------------------------- */

am_status am_rank_file_look(int fd, const char *path, am_rank_file *out)
{
    am_status st = AM_OK;
    am_hash64_state *h = NULL;
    unsigned char buffer[1 << 14];
    uint64_t n = 0;
    struct stat info;
    AM_CHECK(fstat(fd, &info) == 0, AM_ERR_IO, "cannot look at %s: %s", path, strerror(errno));
    out->bytes = (int64_t)info.st_size;
    AM_CHECK(info.st_size >= 8, AM_ERR_CHECKPOINT, "%s is truncated: it has %" PRId64 " bytes", path,
             out->bytes);
    AM_TRY(am_pread_full(fd, buffer, 8, 0, path));
    for (int i = 7; i >= 0; i--) n = n << 8 | buffer[i];
    AM_CHECK(n <= HEADER_MAX_BYTES && (int64_t)n <= out->bytes - 8, AM_ERR_CHECKPOINT,
             "%s is truncated or no rank file", path);
    AM_TRY(am_hash64_create(&h));
    for (int64_t at = 0, end = 8 + (int64_t)n; at < end;) {
        int64_t part = am_min_i64((int64_t)sizeof buffer, end - at);
        AM_TRY(am_pread_full(fd, buffer, (size_t)part, at, path));
        am_hash64_update(h, buffer, (size_t)part);
        at += part;
    }
    out->header = am_hash64_digest(h);
done:
    am_hash64_free(&h);
    return st;
}

am_status am_tensor_hash(const am_safetensors *f, const am_safetensors_tensor *t, void *chunk, uint64_t *hash)
{
    am_status st = AM_OK;
    am_hash64_state *h = NULL;
    AM_TRY(am_hash64_create(&h));
    for (int64_t at = 0; at < t->elements;) {
        int64_t n = am_min_i64(AM_CKPT_CHUNK, t->elements - at);
        AM_TRY(am_safetensors_read(f, t, at, n, chunk, t->dtype));
        am_hash64_update(h, chunk, (size_t)n * am_dtype_bytes(t->dtype));
        at += n;
    }
    *hash = am_hash64_digest(h);
done:
    am_hash64_free(&h);
    return st;
}

/* The most telling sentence first: another save's file, another rank's file, anything else. */
static am_status check_file(const am_manifest *m, const am_stored_file *x, const am_safetensors *f,
                            const am_rank_file *found)
{
    am_status st = AM_OK;
    const char *id = am_safetensors_metadata(f, "save_id"), *name = am_safetensors_metadata(f, "file");
    AM_CHECK(id && strcmp(id, m->save_id) == 0, AM_ERR_CHECKPOINT,
             "%s belongs to another save than its manifest (%s, not %s)", x->path, id ? id : "none",
             m->save_id);
    AM_CHECK(name && strcmp(name, x->name) == 0, AM_ERR_CHECKPOINT,
             "%s was written as %s: files have been swapped", x->path, name ? name : "another file");
    AM_CHECK(found->bytes == x->expected.bytes, AM_ERR_CHECKPOINT,
             "%s has %" PRId64 " bytes, the manifest says %" PRId64, x->path, found->bytes,
             x->expected.bytes);
    AM_CHECK(found->header == x->expected.header, AM_ERR_CHECKPOINT,
             "%s is corrupted: its header is not the one that was written", x->path);
done:
    return st;
}

static void close_one(am_manifest *m)
{
    while (!m->file[m->evict].open) m->evict = (m->evict + 1) % m->num_files;
    am_safetensors_free(&m->file[m->evict].open);
    m->num_open--;
    m->evict = (m->evict + 1) % m->num_files;
}

am_status am_manifest_file(am_manifest *m, int file, am_safetensors **out)
{
    am_status st = AM_OK;
    am_stored_file *x = &m->file[file];
    am_rank_file found;
    am_safetensors *f = NULL;
    int fd = -1, taken;
    if (x->open) {
        *out = x->open;
        goto done;
    }
    if (m->num_open >= OPEN_FILES) close_one(m);
    AM_TRY(am_file_open_beneath(m->dir_fd, x->name, x->path, &fd));
    AM_TRY(am_rank_file_look(fd, x->path, &found));
    taken = fd;
    fd = -1;
    st = am_safetensors_open_fd(taken, x->path, &f);
    AM_CHECK(st == AM_OK, AM_ERR_CHECKPOINT, "%s", am_error_message());
    AM_TRY(check_file(m, x, f, &found));
    *out = x->open = f;
    f = NULL;
    m->num_open++;
done:
    if (fd >= 0) close(fd);
    am_safetensors_free(&f);
    return st;
}

static am_status piece_tensor(am_manifest *m, const am_stored_tensor *t, int role, const am_stored_piece *x,
                              am_safetensors **f, const am_safetensors_tensor **out)
{
    am_status st = AM_OK;
    am_str name = {0};
    AM_TRY(am_manifest_file(m, x->file, f));
    AM_TRY(am_str_printf(&name, "%s/%s", am_ckpt_role_name[role], t->name));
    *out = am_safetensors_find(*f, name.s);
    AM_CHECK(*out && (*out)->elements == x->count && (*out)->dtype == m->dtype, AM_ERR_CHECKPOINT,
             "%s: tensor %s is missing or not what the manifest says", m->file[x->file].path, name.s);
done:
    am_str_release(&name);
    return st;
}

/* ---- verifying ------------------------------------------------------------------------------------ */

static am_status verify_piece(am_manifest *m, const am_stored_tensor *t, int role, const am_stored_piece *x,
                              void *chunk)
{
    am_status st = AM_OK;
    am_safetensors *f = NULL;
    const am_safetensors_tensor *at = NULL;
    uint64_t hash = 0;
    AM_TRY(piece_tensor(m, t, role, x, &f, &at));
    AM_TRY(am_tensor_hash(f, at, chunk, &hash));
    AM_CHECK(hash == x->hash, AM_ERR_CHECKPOINT,
             "%s: %s/%s is corrupted: its bytes are not those that were saved", m->file[x->file].path,
             am_ckpt_role_name[role], t->name);
done:
    return st;
}

static am_status verify_tensor(am_manifest *m, const am_stored_tensor *t, int part, int parts, void *chunk)
{
    am_status st = AM_OK;
    for (int role = 0; role < AM_CKPT_ROLES; role++)
        for (size_t i = 0; i < t->num_pieces[role]; i++)
            if (t->piece[role][i].file % parts == part)
                AM_TRY(verify_piece(m, t, role, &t->piece[role][i], chunk));
done:
    return st;
}

am_status am_manifest_verify(const am_manifest *cm, int part, int parts)
{
    am_status st = AM_OK;
    am_manifest *m = (am_manifest *)(uintptr_t)cm; /* opens files on first use */
    am_safetensors *f = NULL;
    void *chunk = NULL;
    AM_TRY(am_calloc(AM_CKPT_CHUNK, am_dtype_bytes(m->dtype), &chunk));
    for (int i = part; i < m->num_files; i += parts) AM_TRY(am_manifest_file(m, i, &f));
    for (size_t i = 0; i < m->num_tensors; i++) AM_TRY(verify_tensor(m, &m->tensor[i], part, parts, chunk));
done:
    am_free(&chunk);
    return st;
}

/* ---- reading -------------------------------------------------------------------------------------- */

/* The piece that holds element `at`; the manifest's check has seen to it that there is one. */
static size_t piece_of(const am_stored_piece *piece, size_t n, int64_t at)
{
    size_t lo = 0, hi = n;
    while (hi - lo > 1) {
        size_t mid = lo + (hi - lo) / 2;
        if (piece[mid].begin <= at)
            lo = mid;
        else
            hi = mid;
    }
    return lo;
}

am_status am_manifest_read(am_manifest *m, const char *param, int role, int64_t begin, int64_t count,
                           void *dst, am_dtype dtype)
{
    am_status st = AM_OK;
    const am_stored_tensor *t = am_manifest_find(m, param);
    char *to = dst;
    AM_CHECK(t && t->num_pieces[role], AM_ERR_CHECKPOINT, "%s holds no %s/%s%s", m->dir,
             am_ckpt_role_name[role], param, t ? ": this parameter was frozen when it was saved" : "");
    AM_CHECK(begin >= 0 && count >= 0 && begin <= t->elements && count <= t->elements - begin,
             AM_ERR_CHECKPOINT,
             "%s: %s/%s has %" PRId64 " elements; %" PRId64 " from element %" PRId64 " were asked for",
             m->dir, am_ckpt_role_name[role], param, t->elements, count, begin);
    for (size_t i = piece_of(t->piece[role], t->num_pieces[role], begin); count > 0; i++) {
        const am_stored_piece *x = &t->piece[role][i];
        am_safetensors *f = NULL;
        const am_safetensors_tensor *at = NULL;
        int64_t n = am_min_i64(count, x->begin + x->count - begin);
        AM_TRY(piece_tensor(m, t, role, x, &f, &at));
        AM_TRY(am_safetensors_read(f, at, begin - x->begin, n, to, dtype));
        to += (size_t)n * am_dtype_bytes(dtype);
        begin += n;
        count -= n;
    }
done:
    return st;
}

/* ---- loading -------------------------------------------------------------------------------------- */

static am_status check_parameter(const am_manifest *m, const am_param *p, int *forgotten)
{
    am_status st = AM_OK;
    const am_stored_tensor *t = am_manifest_find(m, p->name);
    bool same = t && t->rank == p->rank;
    AM_CHECK(t, AM_ERR_CHECKPOINT, "%s does not hold the parameter %s: it is of another model", m->dir,
             p->name);
    for (int d = 0; same && d < t->rank; d++) same = t->dim[d] == p->dim[d];
    AM_CHECK(same, AM_ERR_CHECKPOINT,
             "%s: parameter %s has another shape than in this model: it is of another model", m->dir,
             p->name);
    AM_CHECK(
        t->trainable || !p->trainable, AM_ERR_CHECKPOINT,
        "%s: parameter %s was frozen when it was saved and is to be trained now: there are no moments to "
        "continue with; export the checkpoint and start a new run from the export",
        m->dir, p->name);
    *forgotten += t->trainable && !p->trainable;
done:
    return st;
}

/* The same model: every parameter is there and no further one. */
static am_status check_model(const am_program *p, const am_manifest *m)
{
    am_status st = AM_OK;
    int forgotten = 0, n = am_graph_num_params(p->graph);
    AM_CHECK(am_dtype_bytes(m->dtype) <= am_dtype_bytes(p->store.dtype), AM_ERR_CHECKPOINT,
             "%s holds %s, this run keeps %s: loading would round; train in the checkpoint's dtype", m->dir,
             am_dtype_name(m->dtype), am_dtype_name(p->store.dtype));
    for (int i = 0; i < n; i++) AM_TRY(check_parameter(m, am_graph_param_at(p->graph, i), &forgotten));
    for (size_t i = 0; (size_t)n < m->num_tensors && i < m->num_tensors; i++) {
        bool known = false;
        for (int j = 0; j < n && !known; j++)
            known = strcmp(am_graph_param_at(p->graph, j)->name, m->tensor[i].name) == 0;
        AM_CHECK(known, AM_ERR_CHECKPOINT,
                 "%s holds %s, which this model does not have: it is of another model", m->dir,
                 m->tensor[i].name);
    }
    if (forgotten && p->options.rank == 0)
        am_log(AM_LOG_WARN, "ckpt",
               "%s: the optimizer moments of %d parameters are not used: these are frozen now", m->dir,
               forgotten);
done:
    return st;
}

am_status am_ckpt_load(am_exec *e, const am_program *p, const am_manifest *cm)
{
    am_status st = AM_OK;
    am_manifest *m = (am_manifest *)(uintptr_t)cm;
    am_pieces pieces = {0};
    void *chunk = NULL;
    AM_TRY(check_model(p, m));
    AM_TRY(am_pieces_list(p, false, &pieces));
    AM_TRY(am_calloc(AM_CKPT_CHUNK, am_dtype_bytes(p->store.dtype), &chunk));
    for (size_t i = 0; i < pieces.n; i++) {
        const am_piece *x = &pieces.at[i];
        const char *name = am_graph_param_at(p->graph, x->param)->name;
        for (int64_t at = 0; at < x->count;) {
            int64_t n = am_min_i64(AM_CKPT_CHUNK, x->count - at);
            AM_TRY(am_manifest_read(m, name, x->role, x->begin + at, n, chunk, p->store.dtype));
            AM_TRY(am_exec_write_slot(e, x->unit, x->role, x->in_shard + at, n, chunk));
            at += n;
        }
    }
done:
    am_free(&chunk);
    am_free(&pieces.at);
    return st;
}
