/* Writing one safetensors file in bounded memory: declarations give the whole header, then data come in any
 * order. Each tensor keeps the sorted list of element ranges written so far; neighbours merge, so that a
 * tensor written front to back has one.  Nothing carries the final name before every byte is on disk. */
#include "hf_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { CHUNK_BYTES = 64 << 10 };

typedef struct range {
    int64_t begin, end; /* elements */
} range;

typedef struct declared {
    char *name;
    am_dtype dtype;
    int rank;
    int64_t shape[AM_HF_MAX_RANK];
    int64_t elements, bytes, offset; /* offset from the start of the file, known after begin */
    range *written;
    size_t num_written, cap_written;
} declared;

struct am_safetensors_writer {
    char *path, *temporary;
    int fd; /* -1 before begin and after close */
    bool made, closed;
    declared *tensors;
    size_t num_tensors, cap_tensors;
    char **metadata; /* key, value, key, value … */
    size_t num_metadata, cap_metadata;
    am_name_table *names;
    int64_t file_bytes;
};

am_status am_safetensors_writer_create(const char *path, am_safetensors_writer **out)
{
    am_status st = AM_OK;
    am_safetensors_writer *w = NULL;
    am_str temporary = {0};
    *out = NULL;
    AM_TRY(am_calloc(1, sizeof *w, &w));
    w->fd = -1;
    AM_TRY(am_strdup(path, &w->path));
    AM_TRY(am_str_printf(&temporary, "%s.tmp-%ld", path, (long)getpid()));
    w->temporary = temporary.s;
    temporary = (am_str){0};
    AM_TRY(am_name_table_create(&w->names));
    AM_TRY(am_safetensors_writer_metadata(w, "format", "pt"));
    *out = w;
    w = NULL;
done:
    am_str_release(&temporary);
    am_safetensors_writer_free(&w);
    return st;
}

static am_status check_text(const am_safetensors_writer *w, const char *what, const char *s)
{
    am_status st = AM_OK;
    AM_SAFETENSORS_CHECK(am_utf8_valid(s, strlen(s)) == strlen(s), HEADER_UTF8, "%s: %s '%s' is not UTF-8",
                         w->path, what, s);
done:
    return st;
}

static am_status check_not_begun(const am_safetensors_writer *w, const char *what)
{
    am_status st = AM_OK;
    if (w->made || w->closed)
        AM_SAFETENSORS_FAIL(WRITE_ORDER, AM_ERR_INTERNAL, "%s: %s after the header was written", w->path,
                            what);
done:
    return st;
}

am_status am_safetensors_writer_metadata(am_safetensors_writer *w, const char *key, const char *value)
{
    am_status st = AM_OK;
    char *k = NULL, *v = NULL;
    AM_TRY(check_not_begun(w, "metadata"));
    AM_TRY(check_text(w, "the metadata key", key));
    AM_TRY(check_text(w, "the metadata value", value));
    AM_TRY(am_strdup(value, &v));
    for (size_t i = 0; i < w->num_metadata; i += 2) {
        if (strcmp(w->metadata[i], key) != 0) continue;
        am_free(&w->metadata[i + 1]);
        w->metadata[i + 1] = v;
        return AM_OK;
    }
    AM_TRY(am_strdup(key, &k));
    AM_TRY(am_grow(&w->metadata, &w->cap_metadata, w->num_metadata + 2, sizeof *w->metadata));
    w->metadata[w->num_metadata++] = k;
    w->metadata[w->num_metadata++] = v;
    k = v = NULL;
done:
    am_free(&k);
    am_free(&v);
    return st;
}

am_status am_safetensors_writer_declare(am_safetensors_writer *w, const char *name, am_dtype dtype, int rank,
                                        const int64_t *shape, int64_t *index)
{
    am_status st = AM_OK;
    declared t = {.dtype = dtype, .rank = rank, .elements = 1};
    int64_t existing;
    AM_TRY(check_not_begun(w, "a tensor was declared"));
    AM_TRY(check_text(w, "the tensor name", name));
    AM_SAFETENSORS_CHECK(strcmp(name, "__metadata__") != 0, DUPLICATE, "%s: no tensor can be named '%s'",
                         w->path, name);
    AM_SAFETENSORS_CHECK(rank >= 0 && rank <= AM_HF_MAX_RANK, RANK,
                         "%s: tensor '%s' has %d dimensions, at most %d fit", w->path, name, rank,
                         AM_HF_MAX_RANK);
    for (int i = 0; i < rank; i++) {
        t.shape[i] = shape[i];
        AM_SAFETENSORS_CHECK(shape[i] >= 0 && am_mul_i64(t.elements, shape[i], &t.elements), OVERFLOW,
                             "%s: tensor '%s': its shape is negative or beyond 64-bit arithmetic", w->path,
                             name);
    }
    AM_SAFETENSORS_CHECK(am_mul_i64(t.elements, (int64_t)am_dtype_bytes(dtype), &t.bytes), OVERFLOW,
                         "%s: tensor '%s': its bytes are beyond 64-bit arithmetic", w->path, name);
    AM_TRY(am_strdup(name, &t.name));
    AM_TRY(am_grow(&w->tensors, &w->cap_tensors, w->num_tensors + 1, sizeof *w->tensors));
    AM_TRY(am_name_table_insert(w->names, t.name, (int64_t)w->num_tensors, &existing));
    AM_SAFETENSORS_CHECK(existing < 0, DUPLICATE, "%s: the tensor '%s' was declared twice", w->path, name);
    *index = (int64_t)w->num_tensors;
    w->tensors[w->num_tensors++] = t;
    t.name = NULL;
done:
    am_free(&t.name);
    return st;
}

/* ---- the header ---- */

/* As the Python library lays files out: falling dtype in the order of its own list, then by name. */
static int dtype_place(am_dtype t)
{
    static const am_dtype order[] = {AM_BOOL, AM_U8,  AM_I8,  AM_F8_E5M2, AM_F8_E4M3, AM_F8_E8M0,
                                     AM_I16,  AM_U16, AM_F16, AM_BF16,    AM_I32,     AM_U32,
                                     AM_F32,  AM_F64, AM_I64, AM_U64};
    for (int i = 0; i < (int)(sizeof order / sizeof order[0]); i++)
        if (order[i] == t) return i;
    return -1;
}

static int by_layout(const void *a, const void *b)
{
    const declared *x = *(const declared *const *)a, *y = *(const declared *const *)b;
    int dx = dtype_place(x->dtype), dy = dtype_place(y->dtype);
    return dx != dy ? dy - dx : strcmp(x->name, y->name);
}

static am_status append_json_string(am_str *b, const char *s)
{
    am_status st = AM_OK;
    AM_TRY(am_str_append(b, "\"", 1));
    for (; *s != '\0'; s++) {
        static const char plain[] = "\"\\\b\f\n\r\t", escaped[] = "\"\\bfnrt";
        const char *known = strchr(plain, *s);
        if (known != NULL)
            AM_TRY(am_str_printf(b, "\\%c", escaped[known - plain]));
        else if ((unsigned char)*s < 0x20)
            AM_TRY(am_str_printf(b, "\\u%04x", (unsigned)*s));
        else
            AM_TRY(am_str_append(b, s, 1));
    }
    AM_TRY(am_str_append(b, "\"", 1));
done:
    return st;
}

static am_status append_tensor(am_str *b, const declared *t, int64_t begin)
{
    am_status st = AM_OK;
    AM_TRY(append_json_string(b, t->name));
    AM_TRY(am_str_printf(b, ":{\"dtype\":\"%s\",\"shape\":[", am_dtype_name(t->dtype)));
    for (int i = 0; i < t->rank; i++) AM_TRY(am_str_printf(b, "%s%" PRId64, i > 0 ? "," : "", t->shape[i]));
    AM_TRY(am_str_printf(b, "],\"data_offsets\":[%" PRId64 ",%" PRId64 "]}", begin, begin + t->bytes));
done:
    return st;
}

/* Text of the header, padded; the tensors' offsets become absolute. */
static am_status make_header(am_safetensors_writer *w, declared **order, am_str *b)
{
    am_status st = AM_OK;
    int64_t end = 0;
    AM_TRY(am_str_printf(b, "{\"__metadata__\":{"));
    for (size_t i = 0; i < w->num_metadata; i += 2) {
        if (i > 0) AM_TRY(am_str_append(b, ",", 1));
        AM_TRY(append_json_string(b, w->metadata[i]));
        AM_TRY(am_str_append(b, ":", 1));
        AM_TRY(append_json_string(b, w->metadata[i + 1]));
    }
    AM_TRY(am_str_append(b, "}", 1));
    for (size_t i = 0; i < w->num_tensors; i++) {
        declared *t = order[i];
        AM_SAFETENSORS_CHECK(t->bytes <= INT64_MAX / 2 - end, OVERFLOW,
                             "%s: the file is beyond 64-bit arithmetic", w->path);
        AM_TRY(am_str_append(b, ",", 1));
        AM_TRY(append_tensor(b, t, end));
        t->offset = end;
        end += t->bytes;
    }
    AM_TRY(am_str_append(b, "}", 1));
    while (b->len % 8 != 0) AM_TRY(am_str_append(b, " ", 1));
    AM_SAFETENSORS_CHECK(b->len <= 100000000, HEADER_TOO_LARGE,
                         "%s: a header of %zu bytes; write fewer tensors a shard", w->path, b->len);
    for (size_t i = 0; i < w->num_tensors; i++) w->tensors[i].offset += 8 + (int64_t)b->len;
    w->file_bytes = 8 + (int64_t)b->len + end;
done:
    return st;
}

am_status am_safetensors_writer_begin(am_safetensors_writer *w)
{
    am_status st = AM_OK;
    declared **order = NULL;
    am_str header = {0};
    unsigned char first[8];
    AM_TRY(check_not_begun(w, "begin"));
    AM_TRY(am_calloc(w->num_tensors + 1, sizeof *order, &order));
    for (size_t i = 0; i < w->num_tensors; i++) order[i] = &w->tensors[i];
    qsort(order, w->num_tensors, sizeof *order, by_layout);
    AM_TRY(make_header(w, order, &header));
    for (int i = 0; i < 8; i++) first[i] = (unsigned char)((uint64_t)header.len >> (8 * i));
    w->fd = open(w->temporary, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0666);
    if (w->fd < 0) AM_SAFETENSORS_FAIL(IO, AM_ERR_IO, "cannot create %s: %s", w->temporary, strerror(errno));
    w->made = true;
    AM_TRY(am_pwrite_full(w->fd, first, sizeof first, 0, w->temporary));
    AM_TRY(am_pwrite_full(w->fd, header.s, header.len, 8, w->temporary));
done:
    am_free(&order);
    am_str_release(&header);
    return st;
}

/* ---- data ---- */

/* Add [begin, end) to what was written; overlap with it is an error. */
static am_status mark(const am_safetensors_writer *w, declared *t, int64_t begin, int64_t end)
{
    am_status st = AM_OK;
    size_t low = 0, high = t->num_written; /* low: the first range that ends after begin */
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (t->written[middle].end <= begin)
            low = middle + 1;
        else
            high = middle;
    }
    if (low < t->num_written && t->written[low].begin < end)
        AM_SAFETENSORS_FAIL(WRITE_TWICE, AM_ERR_INTERNAL,
                            "%s: tensor '%s': elements from %" PRId64 " to %" PRId64
                            " meet some already written",
                            w->path, t->name, begin, end);
    bool joins_left = low > 0 && t->written[low - 1].end == begin;
    bool joins_right = low < t->num_written && t->written[low].begin == end;
    if (joins_left && joins_right) {
        t->written[low - 1].end = t->written[low].end;
        memmove(t->written + low, t->written + low + 1, (--t->num_written - low) * sizeof *t->written);
    } else if (joins_left) {
        t->written[low - 1].end = end;
    } else if (joins_right) {
        t->written[low].begin = begin;
    } else {
        AM_TRY(am_grow(&t->written, &t->cap_written, t->num_written + 1, sizeof *t->written));
        memmove(t->written + low + 1, t->written + low, (t->num_written++ - low) * sizeof *t->written);
        t->written[low] = (range){begin, end};
    }
done:
    return st;
}

static am_status write_converted(am_safetensors_writer *w, const declared *t, int64_t offset, const char *src,
                                 int64_t n, am_dtype src_dtype)
{
    am_status st = AM_OK;
    _Alignas(16) char chunk[CHUNK_BYTES];
    int64_t src_size = (int64_t)am_dtype_bytes(src_dtype), dst_size = (int64_t)am_dtype_bytes(t->dtype);
    while (n > 0) {
        int64_t part = am_min_i64(n, CHUNK_BYTES / dst_size);
        AM_TRY(am_convert(src, src_dtype, chunk, t->dtype, part));
        AM_TRY(am_pwrite_full(w->fd, chunk, (size_t)(part * dst_size), offset, w->temporary));
        offset += part * dst_size;
        src += part * src_size;
        n -= part;
    }
done:
    return st;
}

am_status am_safetensors_writer_write(am_safetensors_writer *w, int64_t index, int64_t begin, const void *src,
                                      int64_t n, am_dtype src_dtype)
{
    am_status st = AM_OK;
    if (w->fd < 0)
        AM_SAFETENSORS_FAIL(WRITE_ORDER, AM_ERR_INTERNAL, "%s: data without a header before them", w->path);
    AM_ASSERT(index >= 0 && (size_t)index < w->num_tensors);
    declared *t = &w->tensors[index];
    AM_SAFETENSORS_CHECK(begin >= 0 && n >= 0 && begin <= t->elements && n <= t->elements - begin, SLICE,
                         "%s: tensor '%s': elements %" PRId64 " and %" PRId64
                         " more are outside of its %" PRId64,
                         w->path, t->name, begin, n, t->elements);
    AM_SAFETENSORS_CHECK(
        src_dtype == t->dtype || (am_dtype_is_float(src_dtype) && am_dtype_is_float(t->dtype)), CONVERT,
        "%s: tensor '%s' is %s and was given as %s; only floating dtypes are converted", w->path, t->name,
        am_dtype_name(t->dtype), am_dtype_name(src_dtype));
    if (n == 0) goto done;
    AM_TRY(mark(w, t, begin, begin + n));
    int64_t size = (int64_t)am_dtype_bytes(t->dtype), offset = t->offset + begin * size;
    if (src_dtype == t->dtype)
        AM_TRY(am_pwrite_full(w->fd, src, (size_t)(n * size), offset, w->temporary));
    else
        AM_TRY(write_converted(w, t, offset, src, n, src_dtype));
done:
    return st;
}

/* ---- the end ---- */

static am_status check_complete(const am_safetensors_writer *w)
{
    am_status st = AM_OK;
    for (size_t i = 0; i < w->num_tensors; i++) {
        const declared *t = &w->tensors[i];
        bool whole = t->num_written == 1 && t->written[0].begin == 0 && t->written[0].end == t->elements;
        if (whole || t->elements == 0) continue;
        int64_t gap = t->num_written == 0 || t->written[0].begin > 0 ? 0 : t->written[0].end;
        AM_SAFETENSORS_FAIL(WRITE_MISSING, AM_ERR_INTERNAL,
                            "%s: tensor '%s' of %" PRId64 " elements was not written whole: element %" PRId64
                            " is missing",
                            w->path, t->name, t->elements, gap);
    }
done:
    return st;
}

am_status am_hf_sync_dir_of(const char *path)
{
    am_status st = AM_OK;
    char *dir = NULL;
    const char *slash = strrchr(path, '/');
    int fd = -1;
    AM_TRY(slash == NULL ? am_strdup(".", &dir)
                         : am_strndup(path, slash == path ? 1 : (size_t)(slash - path), &dir));
    fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    AM_CHECK(fd >= 0, AM_ERR_IO, "cannot open the folder %s: %s", dir, strerror(errno));
    AM_CHECK(am_fsync(fd) == 0 || errno == EINVAL || errno == ENOTSUP, AM_ERR_IO,
             "cannot flush the folder %s: %s", dir, strerror(errno));
done:
    if (fd >= 0) close(fd);
    am_free(&dir);
    return st;
}

am_status am_safetensors_writer_close(am_safetensors_writer *w)
{
    am_status st = AM_OK;
    if (w->fd < 0) AM_SAFETENSORS_FAIL(WRITE_ORDER, AM_ERR_INTERNAL, "%s: close without begin", w->path);
    AM_TRY(check_complete(w));
    AM_CHECK(am_fsync(w->fd) == 0, AM_ERR_IO, "cannot flush %s: %s", w->temporary, strerror(errno));
    int failed = close(w->fd);
    w->fd = -1;
    w->closed = true;
    AM_CHECK(failed == 0, AM_ERR_IO, "cannot close %s: %s", w->temporary, strerror(errno));
    AM_CHECK(rename(w->temporary, w->path) == 0, AM_ERR_IO, "cannot rename %s to %s: %s", w->temporary,
             w->path, strerror(errno));
    w->made = false;
    AM_TRY(am_hf_sync_dir_of(w->path));
done:
    return st;
}

void am_safetensors_writer_free(am_safetensors_writer **writer)
{
    am_safetensors_writer *w = *writer;
    if (w == NULL) return;
    if (w->fd >= 0) close(w->fd);
    if (w->made) unlink(w->temporary);
    for (size_t i = 0; i < w->num_tensors; i++) {
        am_free(&w->tensors[i].name);
        am_free(&w->tensors[i].written);
    }
    for (size_t i = 0; i < w->num_metadata; i++) am_free(&w->metadata[i]);
    am_free(&w->tensors);
    am_free(&w->metadata);
    am_name_table_free(&w->names);
    am_free(&w->path);
    am_free(&w->temporary);
    am_free(writer);
}
