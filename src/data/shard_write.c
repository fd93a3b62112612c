/* Token shards, written: four chunked datasets that grow, each behind a buffer of a few chunks; Fletcher32 on
 * all of them, the newest file layout so that metadata carry checksums too.  The file has a temporary name
 * until commit: a name that ends in .h5 is a whole shard. */
#include "data/data_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#define CHUNK ((int64_t)16384) /* elements: 64 KiB of tokens */

/* One growing dataset and the elements not yet written. */
typedef struct column {
    const char *name;
    hid_t disk_type, memory_type, dataset;
    size_t element;
    int64_t written, buffered;
    char *buffer; /* [CHUNK] elements */
} column;

enum { TOKENS, MASK, OFFSETS, TARGETS, NUM_COLUMNS };

struct am_shard_writer {
    char *path, *temporary;
    hid_t file;
    column columns[NUM_COLUMNS];
    int64_t vocab_size, num_sequences, num_tokens, num_supervised;
    bool committed;
};

static am_status column_create(am_shard_writer *w, column *c, const char *name, hid_t disk, hid_t memory,
                               int deflate)
{
    am_status st = AM_OK;
    hid_t space = 0, list = 0;
    hsize_t zero = 0, unlimited = H5S_UNLIMITED, chunk = (hsize_t)CHUNK;
    c->name = name;
    c->disk_type = disk;
    c->memory_type = memory;
    c->element = H5Tget_size(memory);
    AM_TRY(am_calloc((size_t)CHUNK, c->element, &c->buffer));
    AM_TRY_H5(space = H5Screate_simple(1, &zero, &unlimited), AM_ERR_IO, w->temporary, name);
    AM_TRY_H5(list = H5Pcreate(H5P_DATASET_CREATE), AM_ERR_IO, w->temporary, name);
    AM_TRY_H5(H5Pset_chunk(list, 1, &chunk), AM_ERR_IO, w->temporary, name);
    AM_TRY_H5(H5Pset_obj_track_times(list, false), AM_ERR_IO, w->temporary,
              name); /* the same data, the same bytes */
    if (deflate > 0) AM_TRY_H5(H5Pset_shuffle(list), AM_ERR_IO, w->temporary, name);
    if (deflate > 0) AM_TRY_H5(H5Pset_deflate(list, (unsigned)deflate), AM_ERR_IO, w->temporary, name);
    AM_TRY_H5(H5Pset_fletcher32(list), AM_ERR_IO, w->temporary,
              name); /* last: over the bytes as they are stored */
    AM_TRY_H5(c->dataset = H5Dcreate2(w->file, name, disk, space, H5P_DEFAULT, list, H5P_DEFAULT), AM_ERR_IO,
              w->temporary, name);
done:
    am_h5_close(&list);
    am_h5_close(&space);
    return st;
}

static am_status column_flush(am_shard_writer *w, column *c)
{
    am_status st = AM_OK;
    hid_t file_space = 0, memory_space = 0;
    hsize_t start = (hsize_t)c->written, count = (hsize_t)c->buffered, size = start + count;
    if (c->buffered == 0) goto done;
    AM_TRY_H5(H5Dset_extent(c->dataset, &size), AM_ERR_IO, w->temporary, c->name);
    AM_TRY_H5(file_space = H5Dget_space(c->dataset), AM_ERR_IO, w->temporary, c->name);
    AM_TRY_H5(H5Sselect_hyperslab(file_space, H5S_SELECT_SET, &start, NULL, &count, NULL), AM_ERR_IO,
              w->temporary, c->name);
    AM_TRY_H5(memory_space = H5Screate_simple(1, &count, NULL), AM_ERR_IO, w->temporary, c->name);
    AM_TRY_H5(H5Dwrite(c->dataset, c->memory_type, memory_space, file_space, H5P_DEFAULT, c->buffer),
              AM_ERR_IO, w->temporary, "cannot write (is the disk full?)");
    c->written += c->buffered;
    c->buffered = 0;
done:
    am_h5_close(&memory_space);
    am_h5_close(&file_space);
    return st;
}

static am_status column_add(am_shard_writer *w, column *c, const void *data, int64_t n)
{
    am_status st = AM_OK;
    const char *from = data;
    while (n > 0) {
        int64_t take = am_min_i64(n, CHUNK - c->buffered);
        memcpy(c->buffer + (size_t)c->buffered * c->element, from, (size_t)take * c->element);
        c->buffered += take;
        from += (size_t)take * c->element;
        n -= take;
        if (c->buffered == CHUNK) AM_TRY(column_flush(w, c));
    }
done:
    return st;
}

static am_status write_description(am_shard_writer *w, const am_shard_info *info)
{
    am_status st = AM_OK;
    const char *tokenizer = info->tokenizer_sha256, *template = info->chat_template_sha256,
               *prep = info->preparation;
    const char *creator = "automodel " AM_VERSION;
    AM_TRY(am_h5_write_attr_i64(w->file, w->temporary, "format_version", AM_SHARD_FORMAT_VERSION));
    AM_TRY(am_h5_write_attr_i64(w->file, w->temporary, "vocab_size", info->vocab_size));
    AM_TRY(am_h5_write_attr_str(w->file, w->temporary, "tokenizer_sha256", &tokenizer, 1, true));
    AM_TRY(am_h5_write_attr_str(w->file, w->temporary, "chat_template_sha256", &template, 1, true));
    AM_TRY(am_h5_write_attr_str(w->file, w->temporary, "preparation", &prep, 1, true));
    AM_TRY(am_h5_write_attr_str(w->file, w->temporary, "creator", &creator, 1, true));
    AM_TRY(am_h5_write_attr_str(w->file, w->temporary, "source_files", (const char *const *)info->sources,
                                info->num_sources, false));
done:
    return st;
}

static am_status create_file(am_shard_writer *w)
{
    am_status st = AM_OK;
    hid_t access = 0, creation = 0;
    AM_TRY_H5(access = H5Pcreate(H5P_FILE_ACCESS), AM_ERR_IO, w->temporary, "cannot be created");
    AM_TRY_H5(H5Pset_libver_bounds(access, H5F_LIBVER_V110, H5F_LIBVER_V110), AM_ERR_IO, w->temporary,
              "cannot be created");
    AM_TRY_H5(creation = H5Pcreate(H5P_FILE_CREATE), AM_ERR_IO, w->temporary, "cannot be created");
    AM_TRY_H5(H5Pset_obj_track_times(creation, false), AM_ERR_IO, w->temporary, "cannot be created");
    AM_TRY_H5(w->file = H5Fcreate(w->temporary, H5F_ACC_TRUNC, creation, access), AM_ERR_IO, w->temporary,
              "cannot be created");
done:
    am_h5_close(&creation);
    am_h5_close(&access);
    return st;
}

am_status am_shard_writer_create(const char *path, const am_shard_info *info, int deflate,
                                 am_shard_writer **out)
{
    am_status st = AM_OK;
    am_shard_writer *w = NULL;
    am_str name = {0};
    uint64_t zero = 0;
    am_h5_lock();
    AM_CHECK(info->vocab_size > 0 && info->vocab_size <= INT32_MAX, AM_ERR_DATA,
             "%s: a vocabulary of %" PRId64 " tokens", path, info->vocab_size);
    AM_CHECK(deflate >= 0 && deflate <= 9, AM_ERR_CONFIG, "deflate level %d: 0 (none) to 9 are possible",
             deflate);
    AM_TRY(am_calloc(1, sizeof *w, &w));
    w->vocab_size = info->vocab_size;
    AM_TRY(am_strdup(path, &w->path));
    AM_TRY(am_str_printf(&name, "%s.tmp-%ld", path, (long)getpid()));
    w->temporary = name.s;
    name = (am_str){0};
    AM_TRY(create_file(w));
    AM_TRY(write_description(w, info));
    AM_TRY(column_create(w, &w->columns[TOKENS], "tokens", H5T_STD_U32LE, H5T_NATIVE_UINT32, deflate));
    AM_TRY(column_create(w, &w->columns[MASK], "loss_mask", H5T_STD_U8LE, H5T_NATIVE_UINT8, deflate));
    AM_TRY(column_create(w, &w->columns[OFFSETS], "sequence_offsets", H5T_STD_U64LE, H5T_NATIVE_UINT64,
                         deflate));
    AM_TRY(column_create(w, &w->columns[TARGETS], "sequence_targets", H5T_STD_U32LE, H5T_NATIVE_UINT32,
                         deflate));
    AM_TRY(column_add(w, &w->columns[OFFSETS], &zero, 1));
    *out = w;
    w = NULL;
done:
    am_h5_unlock();
    am_str_release(&name);
    am_shard_writer_free(&w);
    return st;
}

am_status am_shard_writer_add(am_shard_writer *w, const uint32_t *tokens, const uint8_t *mask, int64_t n)
{
    am_status st = AM_OK;
    am_h5_lock();
    AM_CHECK(n > 0 && n <= INT32_MAX, AM_ERR_DATA, "%s: sequence %" PRId64 " has %" PRId64 " tokens", w->path,
             w->num_sequences, n);
    uint32_t targets = 0;
    for (int64_t t = 0; t < n; t++) {
        AM_CHECK(tokens[t] < (uint64_t)w->vocab_size && mask[t] <= 1, AM_ERR_DATA,
                 "%s: sequence %" PRId64 ", token %" PRId64 ": id %" PRIu32 " (vocabulary %" PRId64
                 "), mask %d",
                 w->path, w->num_sequences, t, tokens[t], w->vocab_size, mask[t]);
        targets += t > 0 && mask[t];
    }
    uint64_t end = (uint64_t)(w->num_tokens + n);
    AM_TRY(column_add(w, &w->columns[TOKENS], tokens, n));
    AM_TRY(column_add(w, &w->columns[MASK], mask, n));
    AM_TRY(column_add(w, &w->columns[OFFSETS], &end, 1));
    AM_TRY(column_add(w, &w->columns[TARGETS], &targets, 1));
    w->num_sequences++;
    w->num_tokens += n;
    w->num_supervised += targets;
done:
    am_h5_unlock();
    return st;
}

static am_status sync_path(const char *path, int flags)
{
    am_status st = AM_OK;
    int fd = open(path, flags | O_CLOEXEC);
    AM_CHECK(fd >= 0 && fsync(fd) == 0, AM_ERR_IO, "%s: cannot be flushed to disk: %s", path,
             strerror(errno));
done:
    if (fd >= 0) close(fd);
    return st;
}

static am_status sync_and_rename(am_shard_writer *w)
{
    am_status st = AM_OK;
    char *folder = NULL;
    const char *slash = strrchr(w->path, '/');
    AM_TRY(slash ? am_strndup(w->path, slash == w->path ? 1 : (size_t)(slash - w->path), &folder)
                 : am_strdup(".", &folder));
    AM_TRY(sync_path(w->temporary, O_RDONLY));
    AM_CHECK(rename(w->temporary, w->path) == 0, AM_ERR_IO, "%s: cannot be renamed to %s: %s", w->temporary,
             w->path, strerror(errno));
    w->committed = true;
    AM_TRY(sync_path(folder, O_RDONLY | O_DIRECTORY));
done:
    am_free(&folder);
    return st;
}

am_status am_shard_writer_commit(am_shard_writer *w, am_shard_info *counts)
{
    am_status st = AM_OK;
    am_h5_lock();
    for (int i = 0; i < NUM_COLUMNS; i++) AM_TRY(column_flush(w, &w->columns[i]));
    AM_TRY(am_h5_write_attr_i64(w->file, w->temporary, "num_sequences", w->num_sequences));
    AM_TRY(am_h5_write_attr_i64(w->file, w->temporary, "num_tokens", w->num_tokens));
    AM_TRY(am_h5_write_attr_i64(w->file, w->temporary, "num_supervised", w->num_supervised));
    for (int i = 0; i < NUM_COLUMNS; i++) {
        hid_t dataset = w->columns[i].dataset;
        w->columns[i].dataset = 0;
        AM_TRY_H5(H5Dclose(dataset), AM_ERR_IO, w->temporary, "cannot be closed (is the disk full?)");
    }
    AM_TRY_H5(H5Fflush(w->file, H5F_SCOPE_GLOBAL), AM_ERR_IO, w->temporary,
              "cannot be flushed (is the disk full?)");
    hid_t file = w->file;
    w->file = 0;
    AM_TRY_H5(H5Fclose(file), AM_ERR_IO, w->temporary, "cannot be closed (is the disk full?)");
    AM_TRY(sync_and_rename(w));
    if (counts) {
        counts->num_sequences = w->num_sequences;
        counts->num_tokens = w->num_tokens;
        counts->num_supervised = w->num_supervised;
    }
done:
    am_h5_unlock();
    return st;
}

void am_shard_writer_free(am_shard_writer **w)
{
    if (!*w) return;
    am_h5_lock();
    for (int i = 0; i < NUM_COLUMNS; i++) {
        am_h5_close(&(*w)->columns[i].dataset);
        am_free(&(*w)->columns[i].buffer);
    }
    am_h5_close(&(*w)->file);
    am_h5_unlock();
    if ((*w)->temporary && !(*w)->committed) unlink((*w)->temporary);
    am_free(&(*w)->temporary);
    am_free(&(*w)->path);
    am_free(w);
}
