/* Token shards, read: everything that can be checked without the tokens is checked at open; tokens are
 * checked as they are read (Fletcher32 of their chunk, range, mask).  "HDF5 opens it" says nothing: a file
 * cut off, or with a bit flipped, may open. */
#include "data/data_internal.h"

#include <string.h>

#define MAX_DEFLATE_RATIO 1100 /* of zlib; a larger claim is a lie about the size */

struct am_shard {
    char *path;
    am_shard_info info;
    uint64_t *offsets;
    uint32_t *targets;
    hid_t file, tokens, mask; /* 0 while asleep */
};

void am_shard_info_release(am_shard_info *info)
{
    am_strings_free(&info->sources, info->num_sources);
    memset(info, 0, sizeof *info);
}

/* A 1-D unsigned dataset of `element` bytes, chunked and with Fletcher32; its length. */
static am_status check_layout(hid_t dataset, const char *path, const char *name, size_t element,
                              int64_t *length)
{
    am_status st = AM_OK;
    hid_t type = 0, space = 0, list = 0;
    unsigned flags, config;
    size_t values = 0;
    hsize_t dims[H5S_MAX_RANK];
    AM_TRY_H5(type = H5Dget_type(dataset), AM_ERR_DATA, path, name);
    AM_TRY_H5(space = H5Dget_space(dataset), AM_ERR_DATA, path, name);
    AM_TRY_H5(list = H5Dget_create_plist(dataset), AM_ERR_DATA, path, name);
    AM_CHECK(H5Tget_class(type) == H5T_INTEGER && H5Tget_sign(type) == H5T_SGN_NONE &&
                 H5Tget_size(type) == element,
             AM_ERR_DATA, "%s: /%s is not of type uint%zu", path, name, 8 * element);
    AM_CHECK(H5Sget_simple_extent_ndims(space) == 1, AM_ERR_DATA, "%s: /%s is not one-dimensional", path,
             name);
    AM_TRY_H5(H5Sget_simple_extent_dims(space, dims, NULL), AM_ERR_DATA, path, name);
    AM_CHECK(H5Pget_layout(list) == H5D_CHUNKED, AM_ERR_DATA, "%s: /%s is not stored in chunks", path, name);
    herr_t has = H5Pget_filter_by_id2(list, H5Z_FILTER_FLETCHER32, &flags, &values, NULL, 0, NULL, &config);
    H5Eclear2(H5E_DEFAULT);
    AM_CHECK(has >= 0, AM_ERR_DATA, "%s: /%s has no Fletcher32 checksums; write it with them", path, name);
    hsize_t stored = H5Dget_storage_size(dataset);
    AM_CHECK(dims[0] <= (stored + 1) * MAX_DEFLATE_RATIO / element, AM_ERR_DATA,
             "%s: /%s claims %llu values but %llu bytes are stored: the file is incomplete", path, name,
             (unsigned long long)dims[0], (unsigned long long)stored);
    *length = (int64_t)dims[0];
done:
    am_h5_close(&list);
    am_h5_close(&space);
    am_h5_close(&type);
    return st;
}

static am_status open_dataset(hid_t file, const char *path, const char *name, size_t element, hid_t *out,
                              int64_t *length)
{
    am_status st = AM_OK;
    hid_t access = 0, dataset = 0;
    AM_CHECK(H5Lexists(file, name, H5P_DEFAULT) > 0, AM_ERR_DATA,
             "%s: /%s is missing: not a token shard of automodel", path, name);
    AM_TRY_H5(access = H5Pcreate(H5P_DATASET_ACCESS), AM_ERR_DATA, path, name);
    AM_TRY_H5(H5Pset_chunk_cache(access, 7, (size_t)1 << 18, 1.0), AM_ERR_DATA, path, name);
    AM_TRY_H5(dataset = H5Dopen2(file, name, access), AM_ERR_DATA, path, name);
    AM_TRY(check_layout(dataset, path, name, element, length));
    *out = dataset;
    dataset = 0;
done:
    am_h5_close(&dataset);
    am_h5_close(&access);
    return st;
}

static am_status read_whole(hid_t file, const char *path, const char *name, size_t element, hid_t type,
                            void *out_ptr, int64_t *length)
{
    am_status st = AM_OK;
    hid_t dataset = 0;
    void *data = NULL;
    AM_TRY(open_dataset(file, path, name, element, &dataset, length));
    AM_TRY(am_calloc((size_t)*length + 1, element, &data));
    AM_TRY_H5(H5Dread(dataset, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, data), AM_ERR_DATA, path, name);
    memcpy(out_ptr, &data, sizeof data);
    data = NULL;
done:
    am_free(&data);
    am_h5_close(&dataset);
    return st;
}

static am_status read_text(am_shard *s, const char *name, char *out, size_t size)
{
    am_status st = AM_OK;
    char **values = NULL;
    int64_t n = 0;
    AM_TRY(am_h5_read_attr_str(s->file, s->path, name, &values, &n));
    AM_CHECK(n <= 1 && (n == 0 || strlen(values[0]) < size), AM_ERR_DATA,
             "%s: the attribute %s is not one text of at most %zu characters", s->path, name, size - 1);
    if (n == 1) memcpy(out, values[0], strlen(values[0]) + 1);
done:
    am_strings_free(&values, n);
    return st;
}

static am_status read_description(am_shard *s)
{
    am_status st = AM_OK;
    am_shard_info *info = &s->info;
    int64_t version;
    AM_TRY(am_h5_read_attr_i64(s->file, s->path, "format_version", &version));
    AM_CHECK(version == AM_SHARD_FORMAT_VERSION, AM_ERR_DATA,
             "%s: shard format %" PRId64 "; this automodel reads %d: prepare the data again", s->path,
             version, AM_SHARD_FORMAT_VERSION);
    AM_TRY(am_h5_read_attr_i64(s->file, s->path, "vocab_size", &info->vocab_size));
    AM_TRY(am_h5_read_attr_i64(s->file, s->path, "num_sequences", &info->num_sequences));
    AM_TRY(am_h5_read_attr_i64(s->file, s->path, "num_tokens", &info->num_tokens));
    AM_TRY(am_h5_read_attr_i64(s->file, s->path, "num_supervised", &info->num_supervised));
    AM_TRY(read_text(s, "tokenizer_sha256", info->tokenizer_sha256, sizeof info->tokenizer_sha256));
    AM_TRY(
        read_text(s, "chat_template_sha256", info->chat_template_sha256, sizeof info->chat_template_sha256));
    AM_TRY(read_text(s, "preparation", info->preparation, sizeof info->preparation));
    AM_TRY(am_h5_read_attr_str(s->file, s->path, "source_files", &info->sources, &info->num_sources));
    AM_CHECK(info->vocab_size > 0 && info->vocab_size <= INT32_MAX, AM_ERR_DATA,
             "%s: a vocabulary of %" PRId64 " tokens", s->path, info->vocab_size);
done:
    return st;
}

static am_status check_sequences(const am_shard *s, int64_t num_tokens)
{
    am_status st = AM_OK;
    int64_t n = s->info.num_sequences, supervised = 0;
    AM_CHECK(s->offsets[0] == 0 && s->offsets[n] == (uint64_t)num_tokens, AM_ERR_DATA,
             "%s: /sequence_offsets goes from %" PRIu64 " to %" PRIu64 ", /tokens from 0 to %" PRId64,
             s->path, s->offsets[0], s->offsets[n], num_tokens);
    for (int64_t i = 0; i < n; i++) {
        uint64_t a = s->offsets[i], b = s->offsets[i + 1];
        AM_CHECK(a < b && b - a <= INT32_MAX, AM_ERR_DATA,
                 "%s: sequence %" PRId64 " goes from token %" PRIu64 " to %" PRIu64, s->path, i, a, b);
        AM_CHECK(s->targets[i] < b - a, AM_ERR_DATA,
                 "%s: sequence %" PRId64 " of %" PRIu64 " tokens claims %" PRIu32 " supervised targets",
                 s->path, i, b - a, s->targets[i]);
        supervised += s->targets[i];
    }
    AM_CHECK(supervised == s->info.num_supervised, AM_ERR_DATA,
             "%s: /sequence_targets sum to %" PRId64 ", the attribute num_supervised is %" PRId64, s->path,
             supervised, s->info.num_supervised);
done:
    return st;
}

/* Open the file and /tokens, /loss_mask; their common length. */
static am_status wake(am_shard *s, int64_t *num_tokens)
{
    am_status st = AM_OK;
    int64_t num_mask;
    if (s->file > 0) goto done;
    AM_TRY_H5(s->file = H5Fopen(s->path, H5F_ACC_RDONLY, H5P_DEFAULT), AM_ERR_DATA, s->path,
              "cannot be opened as HDF5");
    AM_TRY(open_dataset(s->file, s->path, "tokens", 4, &s->tokens, num_tokens));
    AM_TRY(open_dataset(s->file, s->path, "loss_mask", 1, &s->mask, &num_mask));
    AM_CHECK(*num_tokens == num_mask, AM_ERR_DATA, "%s: /tokens has %" PRId64 " values, /loss_mask %" PRId64,
             s->path, *num_tokens, num_mask);
done:
    if (st != AM_OK) am_shard_sleep(s);
    return st;
}

am_status am_shard_open(const char *path, am_shard **out)
{
    am_status st = AM_OK;
    am_shard *s = NULL;
    int64_t num_tokens = 0, num_offsets, num_targets;
    am_h5_lock();
    AM_TRY(am_calloc(1, sizeof *s, &s));
    AM_TRY(am_strdup(path, &s->path));
    AM_CHECK(am_path_exists(path), AM_ERR_DATA, "%s: there is no such file", path);
    AM_TRY(wake(s, &num_tokens));
    AM_TRY(read_description(s));
    AM_TRY(read_whole(s->file, path, "sequence_offsets", 8, H5T_NATIVE_UINT64, &s->offsets, &num_offsets));
    AM_TRY(read_whole(s->file, path, "sequence_targets", 4, H5T_NATIVE_UINT32, &s->targets, &num_targets));
    AM_CHECK(num_tokens == s->info.num_tokens && num_targets == s->info.num_sequences &&
                 num_offsets == num_targets + 1,
             AM_ERR_DATA,
             "%s: the attributes say %" PRId64 " tokens in %" PRId64 " sequences; /tokens has %" PRId64
             ", /sequence_targets %" PRId64 ", /sequence_offsets %" PRId64,
             path, s->info.num_tokens, s->info.num_sequences, num_tokens, num_targets, num_offsets);
    AM_TRY(check_sequences(s, num_tokens));
    *out = s;
    s = NULL;
done:
    am_h5_unlock();
    am_shard_close(&s);
    return st;
}

const am_shard_info *am_shard_get_info(const am_shard *s)
{
    return &s->info;
}
const char *am_shard_path(const am_shard *s)
{
    return s->path;
}
const uint64_t *am_shard_offsets(const am_shard *s)
{
    return s->offsets;
}
const uint32_t *am_shard_targets(const am_shard *s)
{
    return s->targets;
}
bool am_shard_is_awake(const am_shard *s)
{
    return s->file > 0;
}

void am_shard_sleep(am_shard *s)
{
    am_h5_lock();
    am_h5_close(&s->tokens);
    am_h5_close(&s->mask);
    am_h5_close(&s->file);
    am_h5_unlock();
}

static am_status read_range(am_shard *s, hid_t dataset, const char *name, hid_t type, int64_t start,
                            int64_t n, void *out)
{
    am_status st = AM_OK;
    hid_t file_space = 0, memory_space = 0;
    hsize_t from = (hsize_t)start, count = (hsize_t)n;
    char what[96];
    snprintf(what, sizeof what, "/%s, values %" PRId64 " to %" PRId64 " cannot be read", name, start,
             start + n);
    AM_TRY_H5(file_space = H5Dget_space(dataset), AM_ERR_DATA, s->path, what);
    AM_TRY_H5(H5Sselect_hyperslab(file_space, H5S_SELECT_SET, &from, NULL, &count, NULL), AM_ERR_DATA,
              s->path, what);
    AM_TRY_H5(memory_space = H5Screate_simple(1, &count, NULL), AM_ERR_DATA, s->path, what);
    AM_TRY_H5(H5Dread(dataset, type, memory_space, file_space, H5P_DEFAULT, out), AM_ERR_DATA, s->path, what);
done:
    am_h5_close(&memory_space);
    am_h5_close(&file_space);
    return st;
}

am_status am_shard_read(am_shard *s, int64_t start, int64_t n, uint32_t *tokens, uint8_t *mask)
{
    am_status st = AM_OK;
    int64_t num_tokens = s->info.num_tokens;
    am_h5_lock();
    AM_CHECK(start >= 0 && n >= 0 && start <= s->info.num_tokens - n, AM_ERR_INTERNAL,
             "%s: tokens %" PRId64 " to %" PRId64 " of %" PRId64 " were asked for", s->path, start, start + n,
             num_tokens);
    if (n == 0) goto done;
    AM_TRY(wake(s, &num_tokens));
    AM_CHECK(num_tokens == s->info.num_tokens, AM_ERR_DATA, "%s: changed while in use", s->path);
    if (tokens) {
        AM_TRY(read_range(s, s->tokens, "tokens", H5T_NATIVE_UINT32, start, n, tokens));
        for (int64_t t = 0; t < n; t++)
            AM_CHECK(tokens[t] < (uint64_t)s->info.vocab_size, AM_ERR_DATA,
                     "%s: token %" PRId64 " has id %" PRIu32 ", the vocabulary %" PRId64, s->path, start + t,
                     tokens[t], s->info.vocab_size);
    }
    if (mask) {
        AM_TRY(read_range(s, s->mask, "loss_mask", H5T_NATIVE_UINT8, start, n, mask));
        for (int64_t t = 0; t < n; t++)
            AM_CHECK(mask[t] <= 1, AM_ERR_DATA, "%s: /loss_mask is %d at token %" PRId64, s->path, mask[t],
                     start + t);
    }
done:
    am_h5_unlock();
    return st;
}

void am_shard_close(am_shard **s)
{
    if (!*s) return;
    am_shard_sleep(*s);
    am_shard_info_release(&(*s)->info);
    am_free(&(*s)->offsets);
    am_free(&(*s)->targets);
    am_free(&(*s)->path);
    am_free(s);
}
