/* manifest.c: a manifest read and checked.  Its hash covers every byte of the body and is compared before the
 * body is parsed; the parse believes nothing all the same: every piece must name a file, lie within its
 * tensor, and the pieces of a tensor in a role must be every element once.  So what is open is whole, as far
 * as names go; bytes are for read.c. */
#include "ckpt/ckpt_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define MANIFEST_MAX_BYTES ((int64_t)1 << 30)

/* ---- the file ------------------------------------------------------------------------------------- */

static am_status read_text(const am_manifest *m, char **text, size_t *len)
{
    am_status st = AM_OK;
    int fd = -1;
    struct stat info;
    bool there = fstatat(m->dir_fd, "manifest.json", &info, AT_SYMLINK_NOFOLLOW) == 0;
    AM_CHECK(there, AM_ERR_CHECKPOINT,
             "%s is not a checkpoint: it has no manifest.json (its save was not completed, or it is another "
             "directory)",
             m->dir);
    AM_TRY(am_file_open_beneath(m->dir_fd, "manifest.json", m->path, &fd));
    AM_CHECK(fstat(fd, &info) == 0, AM_ERR_IO, "cannot look at %s: %s", m->path, strerror(errno));
    AM_CHECK(info.st_size <= MANIFEST_MAX_BYTES, AM_ERR_CHECKPOINT,
             "%s has %" PRId64 " bytes: too many for a manifest", m->path, (int64_t)info.st_size);
    *len = (size_t)info.st_size;
    AM_TRY(am_calloc(*len + 1, 1, text));
    AM_TRY(am_pread_full(fd, *text, *len, 0, m->path));
done:
    if (fd >= 0) close(fd);
    return st;
}

/* {"xxh3":"0123456789abcdef","body":BODY}\n with the hash of the bytes of BODY. */
static am_status check_own_hash(const am_manifest *m, const char *text, size_t len, const char **body,
                                size_t *n)
{
    am_status st = AM_OK;
    char head[48];
    static const char shape[] = "{\"xxh3\":\"0123456789abcdef\",\"body\":";
    size_t before = sizeof shape - 1, after = 2;
    AM_CHECK(len > before + after, AM_ERR_CHECKPOINT, "%s is truncated", m->path);
    *body = text + before;
    *n = len - before - after;
    snprintf(head, sizeof head, "{\"xxh3\":\"%016" PRIx64 "\",\"body\":", am_hash64(*body, *n, 0));
    AM_CHECK(memcmp(text, head, before) == 0 && memcmp(text + len - after, "}\n", after) == 0,
             AM_ERR_CHECKPOINT,
             "%s is corrupted or was changed after it was written: it does not match its hash", m->path);
done:
    return st;
}

/* ---- fields --------------------------------------------------------------------------------------- */

static am_status get_int(const am_manifest *m, const json_t *object, const char *key, int64_t *out)
{
    am_status st = AM_OK;
    const json_t *v = json_object_get(object, key);
    AM_CHECK(json_is_integer(v) && json_integer_value(v) >= 0, AM_ERR_CHECKPOINT,
             "%s: '%s' must be an integer that is not negative", m->path, key);
    *out = json_integer_value(v);
done:
    return st;
}

static am_status get_string(const am_manifest *m, const json_t *object, const char *key, const char **out)
{
    am_status st = AM_OK;
    *out = json_string_value(json_object_get(object, key));
    AM_CHECK(*out, AM_ERR_CHECKPOINT, "%s: '%s' must be a string", m->path, key);
done:
    return st;
}

static bool parse_hex(const json_t *v, uint64_t *out)
{
    const char *s = json_string_value(v);
    if (!s || strlen(s) != 16 || strspn(s, "0123456789abcdef") != 16) return false;
    *out = strtoull(s, NULL, 16);
    return true;
}

static am_status get_hex(const am_manifest *m, const json_t *object, const char *key, uint64_t *out)
{
    am_status st = AM_OK;
    AM_CHECK(parse_hex(json_object_get(object, key), out), AM_ERR_CHECKPOINT,
             "%s: '%s' must be 16 hexadecimal digits", m->path, key);
done:
    return st;
}

static am_status read_state(am_manifest *m)
{
    am_status st = AM_OK;
    const json_t *state = json_object_get(m->body, "state");
    AM_TRY(get_int(m, state, "step", &m->state.step));
    AM_TRY(get_int(m, state, "samples", &m->state.samples));
    AM_TRY(get_int(m, state, "tokens", &m->state.tokens));
    AM_TRY(get_hex(m, state, "seed", &m->state.seed));
    AM_TRY(get_hex(m, state, "data_hash", &m->state.data_hash));
    AM_TRY(get_string(m, m->body, "recipe", &m->state.recipe));
    AM_TRY(get_string(m, m->body, "model_dir", &m->state.model_dir));
    AM_TRY(get_string(m, m->body, "family", &m->state.family));
done:
    return st;
}

static am_status read_files(am_manifest *m)
{
    am_status st = AM_OK;
    const json_t *files = json_object_get(m->body, "files"), *x;
    size_t i, n = json_array_size(files);
    AM_CHECK(n > 0 && n <= INT32_MAX, AM_ERR_CHECKPOINT, "%s names no files", m->path);
    AM_TRY(am_calloc(n, sizeof *m->file, &m->file));
    json_array_foreach(files, i, x)
    {
        am_stored_file *f = &m->file[m->num_files++];
        const char *name;
        AM_TRY(get_string(m, x, "name", &name));
        AM_CHECK(name[0] && name[0] != '.' && !strchr(name, '/'), AM_ERR_CHECKPOINT,
                 "%s: the file name '%s' leads out of the directory", m->path, name);
        AM_TRY(am_strdup(name, &f->name));
        AM_TRY(am_path_join(m->dir, name, &f->path));
        AM_TRY(get_int(m, x, "bytes", &f->expected.bytes));
        AM_TRY(get_hex(m, x, "header", &f->expected.header));
    }
done:
    return st;
}

/* ---- tensors and pieces --------------------------------------------------------------------------- */

static int by_begin(const void *a, const void *b)
{
    const am_stored_piece *x = a, *y = b;
    return (x->begin > y->begin) - (x->begin < y->begin);
}

static bool parse_piece(const am_manifest *m, const json_t *x, int64_t elements, am_stored_piece *p)
{
    const json_t *file = json_array_get(x, 0), *begin = json_array_get(x, 1), *count = json_array_get(x, 2);
    if (json_array_size(x) != 4 || !json_is_integer(file) || !json_is_integer(begin) ||
        !json_is_integer(count))
        return false;
    json_int_t f = json_integer_value(file);
    p->file = (int)f;
    p->begin = json_integer_value(begin);
    p->count = json_integer_value(count);
    return f >= 0 && f < m->num_files && p->begin >= 0 && p->begin < elements && p->count > 0 &&
           p->count <= elements - p->begin && parse_hex(json_array_get(x, 3), &p->hash);
}

static am_status read_pieces(am_manifest *m, json_t *tensor, am_stored_tensor *t, int role)
{
    am_status st = AM_OK;
    const char *name = am_ckpt_role_name[role];
    const json_t *list = json_object_get(tensor, name), *x;
    size_t i, n = json_array_size(list);
    int64_t at = 0;
    AM_CHECK(json_is_array(list), AM_ERR_CHECKPOINT, "%s: tensor %s has no '%s'", m->path, t->name, name);
    AM_TRY(am_calloc(n, sizeof(am_stored_piece), &t->piece[role]));
    t->num_pieces[role] = n;
    json_array_foreach(list, i, x)
        AM_CHECK(parse_piece(m, x, t->elements, &t->piece[role][i]), AM_ERR_CHECKPOINT,
                 "%s: piece %zu of %s/%s is malformed", m->path, i, name, t->name);
    qsort(t->piece[role], n, sizeof(am_stored_piece), by_begin);
    for (i = 0; i < n && t->piece[role][i].begin == at; i++) at += t->piece[role][i].count;
    AM_CHECK(at == t->elements && i == n, AM_ERR_CHECKPOINT,
             "%s: the pieces of %s/%s leave out or repeat element %" PRId64, m->path, name, t->name, at);
    json_object_del(tensor, name); /* by far the largest part of the document */
done:
    return st;
}

static am_status read_tensor(am_manifest *m, const char *name, json_t *x, am_stored_tensor *t)
{
    am_status st = AM_OK;
    const json_t *shape = json_object_get(x, "shape"), *trainable = json_object_get(x, "trainable");
    t->name = name;
    t->rank = (int)json_array_size(shape);
    t->elements = 1;
    AM_CHECK(json_is_array(shape) && json_array_size(shape) <= AM_HF_MAX_RANK && json_is_boolean(trainable),
             AM_ERR_CHECKPOINT, "%s: tensor %s needs 'shape' and 'trainable'", m->path, name);
    t->trainable = json_is_true(trainable);
    for (int d = 0; d < t->rank; d++) {
        const json_t *n = json_array_get(shape, (size_t)d);
        t->dim[d] = json_integer_value(n);
        AM_CHECK(json_is_integer(n) && t->dim[d] > 0 && am_mul_i64(t->elements, t->dim[d], &t->elements),
                 AM_ERR_CHECKPOINT, "%s: the shape of tensor %s is no shape", m->path, name);
    }
    for (int role = 0; role < (t->trainable ? AM_CKPT_ROLES : 1); role++) AM_TRY(read_pieces(m, x, t, role));
done:
    return st;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const am_stored_tensor *)a)->name, ((const am_stored_tensor *)b)->name);
}

static am_status read_tensors(am_manifest *m)
{
    am_status st = AM_OK;
    json_t *tensors = json_object_get(m->body, "tensors"), *x;
    const char *name;
    AM_CHECK(json_object_size(tensors) > 0, AM_ERR_CHECKPOINT, "%s holds no tensors", m->path);
    AM_TRY(am_calloc(json_object_size(tensors), sizeof *m->tensor, &m->tensor));
    json_object_foreach(tensors, name, x) AM_TRY(read_tensor(m, name, x, &m->tensor[m->num_tensors++]));
    qsort(m->tensor, m->num_tensors, sizeof *m->tensor, by_name);
done:
    return st;
}

const am_stored_tensor *am_manifest_find(const am_manifest *m, const char *param)
{
    am_stored_tensor key = {.name = param};
    return bsearch(&key, m->tensor, m->num_tensors, sizeof *m->tensor, by_name);
}

/* ---- the whole ------------------------------------------------------------------------------------ */

static am_status read_body(am_manifest *m)
{
    am_status st = AM_OK;
    const char *dtype;
    int64_t format = 0;
    AM_TRY(get_int(m, m->body, "format", &format));
    AM_CHECK(format == 1, AM_ERR_CHECKPOINT, "%s has format %" PRId64 "; this version reads format 1",
             m->path, format);
    AM_TRY(get_string(m, m->body, "dtype", &dtype));
    AM_CHECK(am_dtype_parse(dtype, &m->dtype) && (m->dtype == AM_F32 || m->dtype == AM_F64),
             AM_ERR_CHECKPOINT, "%s: the dtype %s is none of a parameter store", m->path, dtype);
    AM_TRY(get_string(m, m->body, "save_id", &m->save_id));
    AM_TRY(read_state(m));
    AM_TRY(read_files(m));
    AM_TRY(read_tensors(m));
done:
    return st;
}

am_status am_manifest_open(const char *step_dir, am_manifest **out)
{
    am_status st = AM_OK;
    am_manifest *m = NULL;
    char *text = NULL;
    const char *body = NULL;
    size_t len = 0, n = 0;
    *out = NULL;
    AM_TRY(am_calloc(1, sizeof *m, &m));
    m->dir_fd = -1;
    AM_TRY(am_strdup(step_dir, &m->dir));
    AM_TRY(am_path_join(step_dir, "manifest.json", &m->path));
    AM_TRY(am_dir_open(step_dir, &m->dir_fd));
    AM_TRY(read_text(m, &text, &len));
    AM_TRY(check_own_hash(m, text, len, &body, &n));
    st = am_json_parse(body, n, m->path, &m->body);
    AM_CHECK(st == AM_OK, AM_ERR_CHECKPOINT, "%s", am_error_message());
    AM_TRY(read_body(m));
    *out = m;
    m = NULL;
done:
    am_manifest_free(&m);
    am_free(&text);
    return st;
}

void am_manifest_free(am_manifest **pm)
{
    if (!pm || !*pm) return;
    am_manifest *m = *pm;
    for (int i = 0; i < m->num_files; i++) {
        am_safetensors_free(&m->file[i].open);
        am_free(&m->file[i].name);
        am_free(&m->file[i].path);
    }
    for (size_t i = 0; i < m->num_tensors; i++)
        for (int role = 0; role < AM_CKPT_ROLES; role++) am_free(&m->tensor[i].piece[role]);
    if (m->dir_fd >= 0) close(m->dir_fd);
    am_free(&m->file);
    am_free(&m->tensor);
    am_free(&m->path);
    am_free(&m->dir);
    json_decref(m->body);
    am_free(pm);
}

am_ckpt_state am_manifest_state(const am_manifest *m)
{
    return m->state;
}
