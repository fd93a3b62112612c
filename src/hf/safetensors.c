/* Reading safetensors files: open and check (the header by safetensors_header.c), look tensors up, read
 * slices. A handle holds the descriptor and the header's text, which the names point into. */
#include "hf_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "safetensors is little-endian and is read in place: big-endian machines are not supported"
#endif

enum { MAX_HEADER_BYTES = 100000000, CHUNK_BYTES = 64 << 10 };

struct am_safetensors {
    int fd;
    char *path;
    char *text; /* the header, rewritten by the parser */
    am_safetensors_header header;
};

bool am_hf_is_pickle_name(const char *name)
{
    static const char *const endings[] = {".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt"};
    size_t n = strlen(name);
    for (size_t i = 0; i < sizeof endings / sizeof endings[0]; i++) {
        size_t m = strlen(endings[i]);
        if (n > m && strcmp(name + n - m, endings[i]) == 0) return true;
    }
    return false;
}

/* What stands where the length of the header should: a hint for the two files met most often instead. */
static const char *look_alike(const unsigned char *first8)
{
    if (memcmp(first8, "PK\3\4", 4) == 0 || (first8[0] == 0x80 && first8[1] <= 5))
        return "; it begins like a PyTorch pickle, which is never parsed: convert it to safetensors";
    if (memcmp(first8, "GGUF", 4) == 0) return "; it begins like a GGUF file: convert it to safetensors";
    return "";
}

static am_status read_header(am_safetensors *f, int64_t file_bytes)
{
    am_status st = AM_OK;
    unsigned char first[8];
    uint64_t n = 0;
    AM_SAFETENSORS_CHECK(file_bytes >= 8, HEADER_TOO_SMALL,
                         "%s has %" PRId64
                         " bytes; a safetensors file begins with the 8 bytes of its header's length",
                         f->path, file_bytes);
    AM_TRY(am_pread_full(f->fd, first, sizeof first, 0, f->path));
    AM_SAFETENSORS_CHECK(memcmp(first, "version ", 8) != 0, LFS_POINTER,
                         "%s is a Git LFS pointer, not the weights; run `git lfs pull` in its folder",
                         f->path);
    for (int i = 7; i >= 0; i--) n = n << 8 | first[i];
    AM_SAFETENSORS_CHECK(n <= MAX_HEADER_BYTES, HEADER_TOO_LARGE,
                         "%s: a header of %" PRIu64
                         " bytes, more than the 100,000,000 that the format allows%s",
                         f->path, n, look_alike(first));
    AM_SAFETENSORS_CHECK((int64_t)n <= file_bytes - 8, HEADER_LENGTH,
                         "%s: a header of %" PRIu64 " bytes is announced, %" PRId64
                         " follow: the file is truncated or no safetensors file",
                         f->path, n, file_bytes - 8);
    AM_TRY(am_calloc((size_t)n + 1, 1, &f->text));
    AM_TRY(am_pread_full(f->fd, f->text, (size_t)n, 8, f->path));
    AM_TRY(am_safetensors_header_parse(f->text, (size_t)n, file_bytes, f->path, &f->header));
done:
    return st;
}

am_status am_safetensors_open_fd(int fd, const char *path, am_safetensors **out)
{
    am_status st = AM_OK;
    am_safetensors *f = NULL;
    struct stat info;
    *out = NULL;
    AM_TRY(am_calloc(1, sizeof *f, &f));
    f->fd = fd;
    fd = -1;
    AM_TRY(am_strdup(path, &f->path));
    if (fstat(f->fd, &info) != 0)
        AM_SAFETENSORS_FAIL(IO, AM_ERR_IO, "cannot look at %s: %s", path, strerror(errno));
    AM_SAFETENSORS_CHECK(S_ISREG(info.st_mode), NOT_REGULAR,
                         "%s is not a regular file but a folder, FIFO or device", path);
    AM_TRY(read_header(f, (int64_t)info.st_size));
    *out = f;
    f = NULL;
done:
    if (fd >= 0) close(fd);
    am_safetensors_free(&f);
    return st;
}

am_status am_safetensors_open(const char *path, am_safetensors **out)
{
    am_status st = AM_OK;
    *out = NULL;
    AM_SAFETENSORS_CHECK(
        !am_hf_is_pickle_name(path), PICKLE,
        "%s: pickle files can run code and are never parsed; convert it: python -c \"import torch, "
        "safetensors.torch as s; s.save_file(torch.load('FILE', weights_only=True), 'model.safetensors')\"",
        path);
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY); /* a FIFO must not make us wait */
    if (fd < 0) AM_SAFETENSORS_FAIL(IO, AM_ERR_IO, "cannot open %s: %s", path, strerror(errno));
    AM_TRY(am_safetensors_open_fd(fd, path, out));
done:
    return st;
}

void am_safetensors_free(am_safetensors **f)
{
    if (*f == NULL) return;
    if ((*f)->fd >= 0) close((*f)->fd);
    am_safetensors_header_release(&(*f)->header);
    am_free(&(*f)->text);
    am_free(&(*f)->path);
    am_free(f);
}

/* ---- look-up ---- */

const char *am_safetensors_path(const am_safetensors *f)
{
    return f->path;
}
int64_t am_safetensors_count(const am_safetensors *f)
{
    return f->header.num_tensors;
}
int64_t am_safetensors_metadata_count(const am_safetensors *f)
{
    return f->header.num_metadata;
}

const am_safetensors_tensor *am_safetensors_at(const am_safetensors *f, int64_t i)
{
    return &f->header.tensors[i];
}

void am_safetensors_set_file(am_safetensors *f, int index)
{
    for (int64_t i = 0; i < f->header.num_tensors; i++) f->header.tensors[i].file = index;
}

const am_safetensors_tensor *am_safetensors_find(const am_safetensors *f, const char *name)
{
    int64_t i = am_name_table_find(f->header.names, name);
    return i >= 0 ? &f->header.tensors[i] : NULL;
}

static const char *nearest_name(const am_safetensors *f, const char *name)
{
    const char *best = NULL;
    for (int64_t i = 0; i < f->header.num_tensors; i++) { /* each against the best so far */
        const char *pair[2] = {best, f->header.tensors[i].name};
        best = am_did_you_mean(name, best != NULL ? pair : pair + 1, best != NULL ? 2 : 1);
    }
    return best;
}

am_status am_safetensors_get(const am_safetensors *f, const char *name, const am_safetensors_tensor **out)
{
    am_status st = AM_OK;
    *out = am_safetensors_find(f, name);
    if (*out == NULL) {
        const char *near = nearest_name(f, name);
        AM_SAFETENSORS_FAIL(TENSOR_NOT_FOUND, AM_ERR_MODEL, "%s has no tensor '%s'%s%s%s", f->path, name,
                            near != NULL ? "; did you mean '" : "", near != NULL ? near : "",
                            near != NULL ? "'?" : "");
    }
done:
    return st;
}

const char *am_safetensors_metadata(const am_safetensors *f, const char *key)
{
    for (int64_t i = 0; i < f->header.num_metadata; i++)
        if (strcmp(f->header.metadata[i].key, key) == 0) return f->header.metadata[i].value;
    return NULL;
}

void am_safetensors_metadata_at(const am_safetensors *f, int64_t i, const char **key, const char **value)
{
    *key = f->header.metadata[i].key;
    *value = f->header.metadata[i].value;
}

/* ---- slices ---- */

static am_status read_converted(const am_safetensors *f, const am_safetensors_tensor *t, int64_t offset,
                                int64_t count, char *dst, am_dtype dst_dtype)
{
    am_status st = AM_OK;
    _Alignas(16) char chunk[CHUNK_BYTES];
    int64_t src_size = (int64_t)am_dtype_bytes(t->dtype), dst_size = (int64_t)am_dtype_bytes(dst_dtype);
    while (count > 0) {
        int64_t n = am_min_i64(count, CHUNK_BYTES / src_size);
        AM_TRY(am_pread_full(f->fd, chunk, (size_t)(n * src_size), offset, f->path));
        AM_TRY(am_convert(chunk, t->dtype, dst, dst_dtype, n));
        offset += n * src_size;
        dst += n * dst_size;
        count -= n;
    }
done:
    return st;
}

am_status am_safetensors_read(const am_safetensors *f, const am_safetensors_tensor *t, int64_t begin,
                              int64_t count, void *dst, am_dtype dst_dtype)
{
    am_status st = AM_OK;
    AM_SAFETENSORS_CHECK(
        begin >= 0 && count >= 0 && begin <= t->elements && count <= t->elements - begin, SLICE,
        "%s: tensor '%s': elements %" PRId64 " and %" PRId64 " more are outside of its %" PRId64, f->path,
        t->name, begin, count, t->elements);
    int64_t size = (int64_t)am_dtype_bytes(t->dtype), offset = t->offset + begin * size;
    if (dst_dtype == t->dtype) {
        AM_TRY(am_pread_full(f->fd, dst, (size_t)(count * size), offset, f->path));
        goto done;
    }
    AM_SAFETENSORS_CHECK(am_dtype_is_float(t->dtype) && am_dtype_is_float(dst_dtype), CONVERT,
                         "%s: tensor '%s' is %s and was asked for as %s; only floating dtypes are converted",
                         f->path, t->name, am_dtype_name(t->dtype), am_dtype_name(dst_dtype));
    AM_TRY(read_converted(f, t, offset, count, dst, dst_dtype));
done:
    return st;
}
