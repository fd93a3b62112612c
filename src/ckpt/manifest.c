/* manifest.c: reading checkpoints: the manifest, its pieces, the search for the latest valid one, and loading into any layout. */
#include "ckpt/ckpt_internal.h"

#include <dirent.h>
#include <stdlib.h>
#include <string.h>

enum { MANIFEST_MAX_BYTES = 1 << 30 };

static am_status check_own_hash(const json_t *root, const char *path, json_t **body)
{
    am_status st = AM_OK;
    char hash[20], *text = NULL;
    const char *stored = json_string_value(json_object_get(root, "xxh3"));
    *body = json_object_get(root, "body");
    AM_CHECK(stored && json_is_object(*body), AM_ERR_CHECKPOINT, "%s is not a manifest", path);
    text = json_dumps(*body, JSON_COMPACT | JSON_SORT_KEYS);
    AM_CHECK(text, AM_ERR_MEMORY, "no memory for the manifest");
    snprintf(hash, sizeof hash, "%016" PRIx64, am_hash64(text, strlen(text), 0));
    AM_CHECK(strcmp(hash, stored) == 0, AM_ERR_CHECKPOINT, "%s was changed after it was written: its hash is %s, not %s", path, hash, stored);
done:
    free(text);
    return st;
}

static int by_place(const void *a, const void *b)
{
    const am_stored_piece *x = a, *y = b;
    int c = strcmp(x->param, y->param);
    if (c) return c;
    if (x->role != y->role) return x->role - y->role;
    return (x->begin > y->begin) - (x->begin < y->begin);
}

static am_status read_pieces(am_manifest *m, const json_t *body, const char *path)
{
    am_status st = AM_OK;
    const json_t *list = json_object_get(body, "pieces"), *x;
    size_t i;
    AM_TRY(am_calloc(json_array_size(list), sizeof *m->piece, &m->piece));
    json_array_foreach(list, i, x) {
        am_stored_piece *p = &m->piece[m->num_pieces++];
        const char *hash = json_string_value(json_object_get(x, "xxh3"));
        p->param = json_string_value(json_object_get(x, "tensor"));
        p->role = (int)json_integer_value(json_object_get(x, "role"));
        p->file = (int)json_integer_value(json_object_get(x, "file"));
        p->begin = json_integer_value(json_object_get(x, "begin"));
        p->count = json_integer_value(json_object_get(x, "count"));
        AM_CHECK(p->param && hash && sscanf(hash, "%" SCNx64, &p->hash) == 1 && p->role >= 0 && p->role < AM_CKPT_ROLES && p->file >= 0 &&
                     p->file < m->num_files && p->begin >= 0 && p->count > 0,
                 AM_ERR_CHECKPOINT, "%s: piece %zu is malformed", path, i);
    }
    qsort(m->piece, m->num_pieces, sizeof *m->piece, by_place);
done:
    return st;
}

static uint64_t hex(const json_t *v)
{
    uint64_t x = 0;
    const char *s = json_string_value(v);
    return s && sscanf(s, "%" SCNx64, &x) == 1 ? x : 0;
}

static am_status read_body(am_manifest *m, const json_t *body, const char *path)
{
    am_status st = AM_OK;
    const json_t *state = json_object_get(body, "state"), *files = json_object_get(body, "files");
    const char *dtype = json_string_value(json_object_get(body, "dtype"));
    AM_CHECK(json_integer_value(json_object_get(body, "format")) == 1, AM_ERR_CHECKPOINT, "%s: format %d is not known to this version", path,
             (int)json_integer_value(json_object_get(body, "format")));
    AM_CHECK(dtype && am_dtype_parse(dtype, &m->dtype), AM_ERR_CHECKPOINT, "%s: no dtype", path);
    m->save_id = json_string_value(json_object_get(body, "save_id"));
    m->num_files = (int)json_array_size(files);
    AM_CHECK(m->save_id && m->num_files > 0, AM_ERR_CHECKPOINT, "%s: no files", path);
    AM_TRY(am_calloc((size_t)m->num_files, sizeof *m->file, &m->file));
    AM_TRY(am_calloc((size_t)m->num_files, sizeof *m->file_name, &m->file_name));
    for (int i = 0; i < m->num_files; i++) {
        const char *name = json_string_value(json_array_get(files, (size_t)i));
        AM_CHECK(name && !strchr(name, '/') && name[0] != '.', AM_ERR_CHECKPOINT, "%s: file name %s leads out of the directory", path, name ? name : "(none)");
        AM_TRY(am_path_join(m->dir, name, &m->file_name[i]));
    }
    m->state.step = json_integer_value(json_object_get(state, "step"));
    m->state.samples = json_integer_value(json_object_get(state, "samples"));
    m->state.tokens = json_integer_value(json_object_get(state, "tokens"));
    m->state.seed = hex(json_object_get(state, "seed"));
    m->state.data_hash = hex(json_object_get(state, "data_hash"));
    m->state.recipe = json_string_value(json_object_get(body, "recipe"));
    m->state.model_dir = json_string_value(json_object_get(body, "model_dir"));
    m->state.family = json_string_value(json_object_get(body, "family"));
    AM_TRY(read_pieces(m, body, path));
done:
    return st;
}

am_status am_manifest_open(const char *step_dir, am_manifest **out)
{
    am_status st = AM_OK;
    am_manifest *m = NULL;
    char *path = NULL;
    json_t *body = NULL;
    AM_TRY(am_calloc(1, sizeof *m, &m));
    AM_TRY(am_strdup(step_dir, &m->dir));
    AM_TRY(am_path_join(step_dir, "manifest.json", &path));
    AM_CHECK(am_path_exists(path), AM_ERR_CHECKPOINT, "%s is not a checkpoint: it has no manifest.json (its save was not completed, or it is another directory)", step_dir);
    st = am_json_load(path, MANIFEST_MAX_BYTES, &m->json);
    AM_CHECK(st == AM_OK, AM_ERR_CHECKPOINT, "%s: %s", path, am_error_message());
    AM_TRY(check_own_hash(m->json, path, &body));
    AM_TRY(read_body(m, body, path));
    *out = m;
    m = NULL;
done:
    am_manifest_free(&m);
    am_free(&path);
    return st;
}

void am_manifest_free(am_manifest **pm)
{
    if (!pm || !*pm) return;
    am_manifest *m = *pm;
    for (int i = 0; m->file && i < m->num_files; i++) am_safetensors_free(&m->file[i]);
    for (int i = 0; m->file_name && i < m->num_files; i++) am_free(&m->file_name[i]);
    am_free(&m->file);
    am_free(&m->file_name);
    am_free(&m->piece);
    am_free(&m->dir);
    json_decref(m->json);
    am_free(pm);
}

am_ckpt_state am_manifest_state(const am_manifest *m) { return m->state; }

am_status am_manifest_file(am_manifest *m, int file, am_safetensors **out)
{
    am_status st = AM_OK;
    if (!m->file[file]) {
        const char *id;
        AM_TRY(am_safetensors_open(m->file_name[file], &m->file[file]));
        id = am_safetensors_metadata(m->file[file], "save_id");
        AM_CHECK(id && strcmp(id, m->save_id) == 0, AM_ERR_CHECKPOINT, "%s belongs to another save than its manifest (%s, not %s)", m->file_name[file],
                 id ? id : "none", m->save_id);
    }
    *out = m->file[file];
done:
    return st;
}

static am_status piece_tensor(am_manifest *m, const am_stored_piece *x, am_safetensors **f, const am_safetensors_tensor **t)
{
    am_status st = AM_OK;
    am_str name = {0};
    AM_TRY(am_manifest_file(m, x->file, f));
    AM_TRY(am_str_printf(&name, "%s/%s", am_ckpt_role_name[x->role], x->param));
    AM_TRY(am_safetensors_get(*f, name.s, t));
    AM_CHECK((*t)->elements == x->count && (*t)->dtype == m->dtype, AM_ERR_CHECKPOINT, "%s: tensor %s is not what the manifest says", m->file_name[x->file], name.s);
done:
    am_str_release(&name);
    return st;
}

static am_status verify_piece(am_manifest *m, const am_stored_piece *x, void *chunk)
{
    am_status st = AM_OK;
    am_safetensors *f = NULL;
    const am_safetensors_tensor *t = NULL;
    am_hash64_state *h = NULL;
    AM_TRY(piece_tensor(m, x, &f, &t));
    AM_TRY(am_hash64_create(&h));
    for (int64_t at = 0; at < x->count;) {
        int64_t n = am_min_i64(AM_CKPT_CHUNK, x->count - at);
        AM_TRY(am_safetensors_read(f, t, at, n, chunk, m->dtype));
        am_hash64_update(h, chunk, (size_t)n * am_dtype_bytes(m->dtype));
        at += n;
    }
    AM_CHECK(am_hash64_digest(h) == x->hash, AM_ERR_CHECKPOINT, "%s: %s/%s is corrupted: its bytes are not those that were saved", m->file_name[x->file],
             am_ckpt_role_name[x->role], x->param);
done:
    am_hash64_free(&h);
    return st;
}

am_status am_manifest_verify(const am_manifest *cm, int part, int parts)
{
    am_status st = AM_OK;
    am_manifest *m = (am_manifest *)(uintptr_t)cm; /* opens files on first use */
    void *chunk = NULL;
    AM_TRY(am_calloc(AM_CKPT_CHUNK, am_dtype_bytes(m->dtype), &chunk));
    for (size_t i = 0; i < m->num_pieces; i++)
        if (m->piece[i].file % parts == part) AM_TRY(verify_piece(m, &m->piece[i], chunk));
done:
    am_free(&chunk);
    return st;
}

am_status am_manifest_read(am_manifest *m, const char *param, int role, int64_t begin, int64_t count, void *dst, am_dtype dtype)
{
    am_status st = AM_OK;
    am_stored_piece key = {.param = param, .role = role, .begin = begin};
    size_t lo = 0, hi = m->num_pieces;
    while (lo < hi) { /* first piece at or after the key */
        size_t mid = (lo + hi) / 2;
        if (by_place(&m->piece[mid], &key) < 0) lo = mid + 1;
        else hi = mid;
    }
    if (lo > 0 && (lo == m->num_pieces || m->piece[lo].begin != begin || strcmp(m->piece[lo].param, param) != 0 || m->piece[lo].role != role)) lo--;
    for (; count > 0; lo++) {
        const am_stored_piece *x = lo < m->num_pieces ? &m->piece[lo] : NULL;
        am_safetensors *f = NULL;
        const am_safetensors_tensor *t = NULL;
        AM_CHECK(x && strcmp(x->param, param) == 0 && x->role == role && x->begin <= begin && begin < x->begin + x->count, AM_ERR_CHECKPOINT,
                 "%s: no piece of %s/%s holds element %" PRId64 "%s", m->dir, am_ckpt_role_name[role], param, begin,
                 role ? "; was this parameter frozen when it was saved?" : "");
        int64_t n = am_min_i64(count, x->begin + x->count - begin);
        AM_TRY(piece_tensor(m, x, &f, &t));
        AM_TRY(am_safetensors_read(f, t, begin - x->begin, n, dst, dtype));
        dst = (char *)dst + (size_t)n * am_dtype_bytes(dtype);
        begin += n;
        count -= n;
    }
done:
    return st;
}

am_status am_ckpt_load(am_exec *e, const am_program *p, const am_manifest *cm)
{
    am_status st = AM_OK;
    am_manifest *m = (am_manifest *)(uintptr_t)cm;
    am_pieces pieces = {0};
    void *chunk = NULL;
    AM_TRY(am_pieces_list(p, false, &pieces));
    AM_TRY(am_calloc(AM_CKPT_CHUNK, am_dtype_bytes(p->store.dtype), &chunk));
    for (size_t i = 0; i < pieces.n; i++) {
        const am_piece *x = &pieces.at[i];
        for (int64_t at = 0; at < x->count;) {
            int64_t n = am_min_i64(AM_CKPT_CHUNK, x->count - at);
            AM_TRY(am_manifest_read(m, am_graph_param_at(p->graph, x->param)->name, x->role, x->begin + at, n, chunk, p->store.dtype));
            AM_TRY(am_exec_write_slot(e, x->unit, x->role, x->in_shard + at, n, chunk));
            at += n;
        }
    }
done:
    am_free(&chunk);
    am_free(&pieces.at);
    return st;
}

/* ---- the latest ----------------------------------------------------------------------------------------------- */

static int newest_first(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x < y) - (x > y);
}

/* Step numbers of directories with a manifest, newest first. */
static am_status scan(const char *dir, int64_t **steps, int64_t *count)
{
    am_status st = AM_OK;
    size_t cap = 0, n = 0;
    DIR *d = opendir(dir);
    if (!d) goto done;
    for (struct dirent *x; (x = readdir(d));) {
        int64_t step;
        char *path = NULL, *manifest = NULL;
        if (sscanf(x->d_name, "step_%" SCNd64, &step) != 1) continue;
        AM_TRY(am_path_join(dir, x->d_name, &path));
        AM_TRY(am_path_join(path, "manifest.json", &manifest));
        if (am_path_exists(manifest)) {
            AM_TRY(am_grow(steps, &cap, n + 1, sizeof **steps));
            (*steps)[n++] = step;
        } else {
            am_log(AM_LOG_WARN, "ckpt", "%s has no manifest: its save was not completed; passed over", path);
        }
        am_free(&path);
        am_free(&manifest);
    }
    if (n) qsort(*steps, n, sizeof **steps, newest_first);
    *count = (int64_t)n;
done:
    if (d) closedir(d);
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
    if (mine == AM_OK) mine = am_manifest_verify(m, am_comm_rank(c), am_comm_size(c));
    if (mine != AM_OK) am_log(AM_LOG_ERROR, "ckpt", "%s", am_error_message());
    AM_TRY(am_comm_max(c, mine, &worst));
    if (worst == AM_OK) {
        *out = m;
        m = NULL;
    } else {
        am_log(AM_LOG_WARN, "ckpt", "checkpoint %s is refused; trying the one before it", path);
    }
done:
    am_manifest_free(&m);
    am_free(&path);
    return st;
}

am_status am_ckpt_find_latest(const char *dir, am_comm *c, am_manifest **out)
{
    am_status st = AM_OK, mine = AM_OK;
    int64_t *steps = NULL, count = 0, worst = 0;
    *out = NULL;
    if (am_comm_rank(c) == 0) mine = scan(dir, &steps, &count);
    AM_TRY(am_comm_max(c, mine, &worst));
    AM_CHECK(worst == AM_OK, AM_ERR_CHECKPOINT, "%s cannot be searched for checkpoints", dir);
    AM_TRY(am_comm_bcast(c, &count, sizeof count, 0));
    for (int64_t i = 0; i < count && !*out; i++) {
        int64_t step = steps ? steps[i] : 0;
        AM_TRY(am_comm_bcast(c, &step, sizeof step, 0));
        AM_TRY(try_step(dir, step, c, out));
    }
    AM_CHECK(*out || count == 0, AM_ERR_CHECKPOINT, "%s holds %" PRId64 " checkpoints and none is valid; move the directory away to start anew", dir, count);
done:
    am_free(&steps);
    return st;
}
