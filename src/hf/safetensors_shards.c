/* Writing the weights of a model directory: declarations are dealt to shards, each a safetensors file of its
 * own; the index is written when all of them stand under their names. */
#include "hf_internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define DEFAULT_SHARD_BYTES INT64_C(5000000000)

typedef struct piece {
    char *name;
    am_dtype dtype;
    int rank;
    int64_t shape[AM_HF_MAX_RANK];
    int64_t bytes;
    int shard;
    int64_t index; /* in the shard's writer */
} piece;

struct am_hf_writer {
    char *dir;
    int64_t max_shard_bytes, total_bytes;
    piece *pieces;
    size_t num_pieces, cap_pieces;
    char **metadata; /* key, value … */
    size_t num_metadata, cap_metadata;
    am_safetensors_writer **shards;
    int num_shards;
    bool begun;
};

am_status am_hf_writer_create(const char *dir, int64_t max_shard_bytes, am_hf_writer **out)
{
    am_status st = AM_OK;
    am_hf_writer *w = NULL;
    *out = NULL;
    AM_CHECK(max_shard_bytes >= 0, AM_ERR_USAGE, "a shard size of %" PRId64 " bytes; give a positive one",
             max_shard_bytes);
    AM_TRY(am_calloc(1, sizeof *w, &w));
    w->max_shard_bytes = max_shard_bytes > 0 ? max_shard_bytes : DEFAULT_SHARD_BYTES;
    AM_TRY(am_strdup(dir, &w->dir));
    *out = w;
    w = NULL;
done:
    am_hf_writer_free(&w);
    return st;
}

am_status am_hf_writer_metadata(am_hf_writer *w, const char *key, const char *value)
{
    am_status st = AM_OK;
    AM_CHECK(!w->begun, AM_ERR_INTERNAL, "%s: metadata after begin", w->dir);
    AM_TRY(am_grow(&w->metadata, &w->cap_metadata, w->num_metadata + 2, sizeof *w->metadata));
    AM_TRY(am_strdup(key, &w->metadata[w->num_metadata]));
    w->num_metadata++;
    w->metadata[w->num_metadata] = NULL;
    AM_TRY(am_strdup(value, &w->metadata[w->num_metadata]));
    w->num_metadata++;
done:
    return st;
}

am_status am_hf_writer_declare(am_hf_writer *w, const char *name, am_dtype dtype, int rank,
                               const int64_t *shape, int64_t *index)
{
    am_status st = AM_OK;
    piece p = {.dtype = dtype, .rank = rank};
    int64_t elements = 1;
    AM_CHECK(!w->begun, AM_ERR_INTERNAL, "%s: tensor '%s' declared after begin", w->dir, name);
    AM_SAFETENSORS_CHECK(rank >= 0 && rank <= AM_HF_MAX_RANK, RANK,
                         "%s: tensor '%s' has %d dimensions, at most %d fit", w->dir, name, rank,
                         AM_HF_MAX_RANK);
    for (int i = 0; i < rank; i++) {
        p.shape[i] = shape[i];
        AM_SAFETENSORS_CHECK(shape[i] >= 0 && am_mul_i64(elements, shape[i], &elements), OVERFLOW,
                             "%s: tensor '%s': its shape is negative or beyond 64-bit arithmetic", w->dir,
                             name);
    }
    bool fits = am_mul_i64(elements, (int64_t)am_dtype_bytes(dtype), &p.bytes) &&
                am_add_i64(w->total_bytes, p.bytes, &w->total_bytes);
    AM_SAFETENSORS_CHECK(fits, OVERFLOW, "%s: tensor '%s': its bytes are beyond 64-bit arithmetic", w->dir,
                         name);
    AM_TRY(am_strdup(name, &p.name));
    AM_TRY(am_grow(&w->pieces, &w->cap_pieces, w->num_pieces + 1, sizeof *w->pieces));
    *index = (int64_t)w->num_pieces;
    w->pieces[w->num_pieces++] = p;
    p.name = NULL;
done:
    am_free(&p.name);
    return st;
}

/* Shard numbers as huggingface_hub deals them: a tensor above the limit gets the next number at once, while
 * the shard being filled gets its own when it is closed. */
static void deal(am_hf_writer *w)
{
    int64_t filled = 0;
    size_t first = 0; /* of the pieces that may belong to the shard being filled: those with shard -1 */
    bool filling = false;
    for (size_t i = 0; i < w->num_pieces; i++) w->pieces[i].shard = -1;
    for (size_t i = 0; i <= w->num_pieces; i++) {
        bool last = i == w->num_pieces;
        if (!last && w->pieces[i].bytes > w->max_shard_bytes) {
            w->pieces[i].shard = w->num_shards++;
            continue;
        }
        if (filling && (last || filled + w->pieces[i].bytes > w->max_shard_bytes)) {
            for (size_t k = first; k < i; k++)
                if (w->pieces[k].shard < 0) w->pieces[k].shard = w->num_shards;
            w->num_shards++;
            filled = 0;
            first = i;
        }
        if (last) break;
        filling = true;
        filled += w->pieces[i].bytes;
    }
    if (w->num_shards == 0) w->num_shards = 1; /* no tensor at all: one file without any */
}

static am_status shard_name(const am_hf_writer *w, int shard, am_str *out)
{
    if (w->num_shards == 1) return am_str_printf(out, "model.safetensors");
    return am_str_printf(out, "model-%05d-of-%05d.safetensors", shard + 1, w->num_shards);
}

static am_status refuse_old_weights(const am_hf_writer *w)
{
    am_status st = AM_OK;
    am_hf_dir dir = {.fd = -1};
    char **names = NULL;
    size_t n = 0;
    AM_TRY(am_hf_dir_open(w->dir, &dir));
    AM_TRY(am_hf_dir_list(&dir, NULL, &names, &n));
    for (size_t i = 0; i < n; i++) {
        bool weights = am_glob_match("model*.safetensors", names[i]) ||
                       am_glob_match("*.safetensors.index.json", names[i]);
        AM_CHECK(!weights, AM_ERR_USAGE, "%s already holds weights (%s); give an empty folder or remove them",
                 w->dir, names[i]);
    }
done:
    am_hf_names_free(&names, n);
    am_hf_dir_release(&dir);
    return st;
}

static am_status open_shard(am_hf_writer *w, int shard)
{
    am_status st = AM_OK;
    am_str name = {0};
    char *path = NULL;
    AM_TRY(shard_name(w, shard, &name));
    AM_TRY(am_path_join(w->dir, name.s, &path));
    AM_TRY(am_safetensors_writer_create(path, &w->shards[shard]));
    for (size_t i = 0; i < w->num_metadata; i += 2)
        AM_TRY(am_safetensors_writer_metadata(w->shards[shard], w->metadata[i], w->metadata[i + 1]));
done:
    am_str_release(&name);
    am_free(&path);
    return st;
}

static am_status refuse_twins(const am_hf_writer *w)
{
    am_status st = AM_OK;
    am_name_table *names = NULL;
    int64_t existing;
    AM_TRY(am_name_table_create(&names));
    for (size_t i = 0; i < w->num_pieces; i++) {
        AM_TRY(am_name_table_insert(names, w->pieces[i].name, 0, &existing));
        AM_SAFETENSORS_CHECK(existing < 0, DUPLICATE, "%s: the tensor '%s' was declared twice", w->dir,
                             w->pieces[i].name);
    }
done:
    am_name_table_free(&names);
    return st;
}

am_status am_hf_writer_begin(am_hf_writer *w)
{
    am_status st = AM_OK;
    AM_CHECK(!w->begun, AM_ERR_INTERNAL, "%s: begin was called twice", w->dir);
    AM_TRY(am_mkdirs(w->dir));
    AM_TRY(refuse_old_weights(w));
    AM_TRY(refuse_twins(w));
    w->begun = true;
    deal(w);
    AM_TRY(am_calloc((size_t)w->num_shards, sizeof(am_safetensors_writer *), &w->shards));
    for (int s = 0; s < w->num_shards; s++) AM_TRY(open_shard(w, s));
    for (size_t i = 0; i < w->num_pieces; i++) {
        piece *p = &w->pieces[i];
        AM_TRY(am_safetensors_writer_declare(w->shards[p->shard], p->name, p->dtype, p->rank, p->shape,
                                             &p->index));
    }
    for (int s = 0; s < w->num_shards; s++) AM_TRY(am_safetensors_writer_begin(w->shards[s]));
done:
    return st;
}

am_status am_hf_writer_write(am_hf_writer *w, int64_t index, int64_t begin, const void *src, int64_t n,
                             am_dtype src_dtype)
{
    am_status st = AM_OK;
    AM_ASSERT(w->begun && w->shards != NULL && index >= 0 && (size_t)index < w->num_pieces);
    const piece *p = &w->pieces[index];
    AM_TRY(am_safetensors_writer_write(w->shards[p->shard], p->index, begin, src, n, src_dtype));
done:
    return st;
}

static am_status write_index(const am_hf_writer *w)
{
    am_status st = AM_OK;
    am_str name = {0};
    char *path = NULL, *text = NULL;
    json_t *map = json_object(), *index = NULL;
    AM_CHECK(map != NULL, AM_ERR_MEMORY, "%s: no memory for the index", w->dir);
    for (size_t i = 0; i < w->num_pieces; i++) {
        name.len = 0;
        AM_TRY(shard_name(w, w->pieces[i].shard, &name));
        AM_CHECK(json_object_set_new(map, w->pieces[i].name, json_string(name.s)) == 0, AM_ERR_MEMORY,
                 "%s: no memory for the index", w->dir);
    }
    index =
        json_pack("{s:{s:I}, s:O}", "metadata", "total_size", (json_int_t)w->total_bytes, "weight_map", map);
    AM_CHECK(index != NULL, AM_ERR_MEMORY, "%s: no memory for the index", w->dir);
    AM_TRY(am_path_join(w->dir, "model.safetensors.index.json", &path));
    text = json_dumps(index, JSON_INDENT(2) | JSON_SORT_KEYS);
    AM_CHECK(text != NULL, AM_ERR_MEMORY, "%s: no memory for the index", w->dir);
    name.len = 0;
    AM_TRY(am_str_printf(&name, "%s\n", text));
    AM_TRY(am_file_write_atomic(path, name.s, name.len));
done:
    free(text);
    json_decref(map);
    json_decref(index);
    am_str_release(&name);
    am_free(&path);
    return st;
}

am_status am_hf_writer_close(am_hf_writer *w)
{
    am_status st = AM_OK;
    AM_CHECK(w->begun && w->shards != NULL, AM_ERR_INTERNAL, "%s: close without begin", w->dir);
    for (int s = 0; s < w->num_shards; s++) AM_TRY(am_safetensors_writer_close(w->shards[s]));
    if (w->num_shards > 1) AM_TRY(write_index(w));
done:
    return st;
}

void am_hf_writer_free(am_hf_writer **writer)
{
    am_hf_writer *w = *writer;
    if (w == NULL) return;
    for (int s = 0; s < w->num_shards && w->shards != NULL; s++) am_safetensors_writer_free(&w->shards[s]);
    for (size_t i = 0; i < w->num_pieces; i++) am_free(&w->pieces[i].name);
    for (size_t i = 0; i < w->num_metadata; i++) am_free(&w->metadata[i]);
    am_free(&w->shards);
    am_free(&w->pieces);
    am_free(&w->metadata);
    am_free(&w->dir);
    am_free(writer);
}

int am_hf_writer_num_shards(const am_hf_writer *w)
{
    return w->begun ? w->num_shards : 0;
}
int64_t am_hf_writer_total_bytes(const am_hf_writer *w)
{
    return w->total_bytes;
}

bool am_hf_parse_bytes(const char *s, int64_t *out)
{
    static const struct {
        const char *unit;
        int64_t bytes;
    } units[] = {{"", 1},
                 {"B", 1},
                 {"KB", 1000},
                 {"MB", 1000000},
                 {"GB", 1000000000},
                 {"TB", 1000000000000},
                 {"KiB", 1 << 10},
                 {"MiB", 1 << 20},
                 {"GiB", 1 << 30},
                 {"TiB", INT64_C(1) << 40}};
    size_t n = strspn(s, "0123456789");
    int64_t v = 0;
    if (n == 0) return false;
    for (size_t i = 0; i < n; i++)
        if (!am_mul_i64(v, 10, &v) || !am_add_i64(v, s[i] - '0', &v)) return false;
    for (size_t i = 0; i < sizeof units / sizeof units[0]; i++)
        if (strcmp(s + n, units[i].unit) == 0) return am_mul_i64(v, units[i].bytes, out);
    return false;
}
