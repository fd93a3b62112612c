/* A data set: shards in name order, their sequences cut into pieces, pieces packed into rows, rows drawn by
 * index. Read: am_dataset_open, then am_data_sample. */
#include "data/data_internal.h"

#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define MAX_AWAKE 64 /* shards whose files are open at a time */

struct am_dataset {
    int64_t row_len, num_epochs;
    bool shuffle;
    uint64_t seed;
    am_shard **shards;
    size_t num_shards, cap_shards;
    uint64_t *last_use; /* [num_shards] */
    uint64_t clock;
    size_t num_awake;
    am_table table;
    am_dataset_counts counts;
    uint32_t *tokens; /* [row_len + 1] of the piece being read */
    uint8_t *mask;
};

/* ---- the shards ------------------------------------------------------------------------------------ */

static am_status add_shard(am_dataset *d, const char *path)
{
    am_status st = AM_OK;
    am_shard *shard = NULL;
    AM_TRY(am_shard_open(path, &shard));
    am_shard_sleep(shard);
    AM_TRY(am_grow(&d->shards, &d->cap_shards, d->num_shards + 1, sizeof *d->shards));
    d->shards[d->num_shards++] = shard;
    shard = NULL;
done:
    am_shard_close(&shard);
    return st;
}

static int is_shard_name(const struct dirent *e)
{
    size_t n = strlen(e->d_name);
    return n > 3 && strcmp(e->d_name + n - 3, ".h5") == 0;
}

static int by_bytes(const struct dirent **a, const struct dirent **b) /* not by locale, as alphasort would */
{
    return strcmp((*a)->d_name, (*b)->d_name);
}

/* prepare names its shards shard-WWWWW-of-PPPPP.h5: of each such set all P must be there, and only one set.
 */
static am_status check_set(const char *dir, struct dirent **names, int n)
{
    am_status st = AM_OK;
    int of_first = 0, found = 0;
    for (int i = 0; i < n; i++) {
        int worker = 0, of = 0, end = 0;
        if (sscanf(names[i]->d_name, "shard-%5d-of-%5d.h5%n", &worker, &of, &end) != 2 ||
            names[i]->d_name[end])
            continue;
        if (of_first == 0) of_first = of;
        AM_CHECK(of == of_first, AM_ERR_DATA,
                 "%s: holds shards of two preparations: %s is of %d, another one of %d; "
                 "remove the older ones",
                 dir, names[i]->d_name, of, of_first);
        AM_CHECK(worker == found, AM_ERR_DATA, "%s: shard-%05d-of-%05d.h5 is missing; prepare the data again",
                 dir, found, of);
        found++;
    }
    AM_CHECK(found == of_first, AM_ERR_DATA, "%s: holds %d shards of %d; prepare the data again", dir, found,
             of_first);
done:
    return st;
}

static am_status add_folder(am_dataset *d, const char *dir)
{
    am_status st = AM_OK;
    struct dirent **names = NULL;
    char *path = NULL;
    int n = scandir(dir, &names, is_shard_name, by_bytes);
    AM_CHECK(n >= 0, AM_ERR_DATA, "%s: cannot be listed: %s", dir, strerror(errno));
    AM_CHECK(n > 0, AM_ERR_DATA, "%s: holds no token shards (*.h5); write them with `automodel prepare`",
             dir);
    AM_TRY(check_set(dir, names, n));
    for (int i = 0; i < n; i++) {
        AM_TRY(am_path_join(dir, names[i]->d_name, &path));
        AM_TRY(add_shard(d, path));
        am_free(&path);
    }
done:
    am_free(&path);
    for (int i = 0; i < n; i++) free(names[i]);
    free(names);
    return st;
}

/* Shards that are read together were made alike, and for this model. */
static am_status check_info(const am_dataset *d, const am_dataset_options *o, const am_shard *shard)
{
    am_status st = AM_OK;
    const am_shard_info *a = am_shard_get_info(d->shards[0]), *b = am_shard_get_info(shard);
    const char *path = am_shard_path(shard), *first = am_shard_path(d->shards[0]);
    AM_CHECK(strcmp(a->tokenizer_sha256, b->tokenizer_sha256) == 0 && a->vocab_size == b->vocab_size,
             AM_ERR_DATA, "%s was made with another tokenizer than %s; prepare them alike", path, first);
    AM_CHECK(o->vocab_size == 0 || b->vocab_size <= o->vocab_size, AM_ERR_DATA,
             "%s: its tokenizer has %" PRId64 " tokens, the model's vocabulary %" PRId64
             "; prepare the data with the model's tokenizer",
             path, b->vocab_size, o->vocab_size);
    AM_CHECK(!o->tokenizer_sha256 || strcmp(o->tokenizer_sha256, b->tokenizer_sha256) == 0, AM_ERR_DATA,
             "%s: was made with another tokenizer (SHA-256 %.12s…) than the model's (%.12s…); prepare the "
             "data with the model's tokenizer",
             path, b->tokenizer_sha256[0] ? b->tokenizer_sha256 : "unknown", o->tokenizer_sha256);
done:
    return st;
}

static am_status open_shards(am_dataset *d, const am_dataset_options *o)
{
    am_status st = AM_OK;
    AM_CHECK(o->num_paths > 0, AM_ERR_DATA, "no token shards were given");
    for (int i = 0; i < o->num_paths; i++) {
        struct stat info;
        size_t before = d->num_shards;
        AM_CHECK(stat(o->paths[i], &info) == 0, AM_ERR_DATA, "%s: %s", o->paths[i], strerror(errno));
        AM_TRY(S_ISDIR(info.st_mode) ? add_folder(d, o->paths[i]) : add_shard(d, o->paths[i]));
        for (size_t s = before; s < d->num_shards; s++) {
            const char *prep = am_shard_get_info(d->shards[before])->preparation;
            const char *mine = am_shard_get_info(d->shards[s])->preparation;
            AM_TRY(check_info(d, o, d->shards[s]));
            AM_CHECK(strcmp(prep, mine) == 0, AM_ERR_DATA,
                     "%s and %s are of different preparations: one is left over; prepare again",
                     am_shard_path(d->shards[before]), am_shard_path(d->shards[s]));
        }
    }
    AM_TRY(am_calloc(d->num_shards, sizeof *d->last_use, &d->last_use));
done:
    return st;
}

/* Before reading shard `s`: of more than MAX_AWAKE open ones the longest unused is closed. */
static void use_shard(am_dataset *d, size_t s)
{
    d->last_use[s] = ++d->clock;
    if (am_shard_is_awake(d->shards[s])) return;
    if (++d->num_awake <= MAX_AWAKE) return;
    size_t oldest = s;
    for (size_t i = 0; i < d->num_shards; i++)
        if (am_shard_is_awake(d->shards[i]) && d->last_use[i] < d->last_use[oldest]) oldest = i;
    am_shard_sleep(d->shards[oldest]);
    d->num_awake--;
}

/* ---- pieces ------------------------------------------------------------------------------------------ */

/* Supervised tokens among [start, start + n) of a shard: only asked for sequences that are cut. */
static am_status count_supervised(am_dataset *d, size_t shard, int64_t start, int64_t n, uint32_t *out)
{
    am_status st = AM_OK;
    *out = 0;
    if (n > 0) use_shard(d, shard);
    while (n > 0) {
        int64_t take = am_min_i64(n, d->row_len + 1);
        AM_TRY(am_shard_read(d->shards[shard], start, take, NULL, d->mask));
        for (int64_t t = 0; t < take; t++) *out += d->mask[t];
        start += take;
        n -= take;
    }
done:
    return st;
}

/* The piece at `from` in a sequence of `total` tokens that starts at `base`.
 * all: every token of the sequence is supervised, so none of the mask need be read. */
static am_status add_cut(am_dataset *d, size_t shard, int64_t base, int64_t total, int64_t from,
                         bool keep_next, bool all)
{
    am_status st = AM_OK;
    am_piece p = {.start = base + from, .shard = (uint32_t)shard};
    p.length = (int32_t)am_min_i64(d->row_len, total - from);
    p.next = keep_next && from + p.length < total;
    p.targets = (uint32_t)p.length - 1 + p.next;
    if (!all) AM_TRY(count_supervised(d, shard, p.start + 1, p.targets, &p.targets));
    AM_TRY(am_table_add(&d->table, &p));
done:
    return st;
}

static am_status add_long(am_dataset *d, const am_dataset_options *o, size_t shard, int64_t index,
                          int64_t base, int64_t total)
{
    am_status st = AM_OK;
    bool all = (int64_t)am_shard_targets(d->shards[shard])[index] == total - 1;
    switch (o->long_samples) {
    case AM_LONG_DROP:
        d->counts.dropped++;
        break;
    case AM_LONG_TRUNCATE:
        d->counts.truncated++;
        AM_TRY(add_cut(d, shard, base, total, 0, false, all));
        break;
    case AM_LONG_SPLIT:
        d->counts.split++;
        /* the last token alone would be a piece that predicts nothing */
        for (int64_t from = 0; from < total - (from > 0); from += d->row_len)
            AM_TRY(add_cut(d, shard, base, total, from, true, all));
        break;
    default:
        AM_FAIL(AM_ERR_DATA,
                "%s: sample %" PRId64 " has %" PRId64 " tokens, a row %" PRId64 "; leave such samples out "
                "(drop_long_samples: true), cut them (truncation: true), or make rows longer",
                am_shard_path(d->shards[shard]), index, total, d->row_len);
    }
done:
    return st;
}

static am_status make_pieces(am_dataset *d, const am_dataset_options *o)
{
    am_status st = AM_OK;
    int64_t index = 0;
    for (size_t s = 0; s < d->num_shards; s++) {
        const am_shard_info *info = am_shard_get_info(d->shards[s]);
        const uint64_t *offsets = am_shard_offsets(d->shards[s]);
        const uint32_t *targets = am_shard_targets(d->shards[s]);
        for (int64_t i = 0; i < info->num_sequences; i++, index++) {
            int64_t base = (int64_t)offsets[i], total = (int64_t)(offsets[i + 1] - offsets[i]);
            if (o->limit_sequences > 0 && index >= o->limit_sequences) goto done;
            d->counts.num_sequences++;
            d->counts.num_tokens += total;
            d->counts.num_supervised += targets[i];
            if (total > d->row_len) {
                AM_TRY(add_long(d, o, s, i, base, total));
                continue;
            }
            am_piece p = {base, (uint32_t)s, (int32_t)total, targets[i], 0};
            AM_TRY(am_table_add(&d->table, &p));
        }
    }
done:
    return st;
}

static am_status count_pieces(am_dataset *d)
{
    am_status st = AM_OK;
    am_dataset_counts *c = &d->counts;
    c->num_shards = (int64_t)d->num_shards;
    c->num_pieces = (int64_t)d->table.num_pieces;
    c->num_rows = d->table.num_rows;
    for (size_t i = 0; i < d->table.num_pieces; i++) {
        c->cells_used += d->table.pieces[i].length;
        c->targets += d->table.pieces[i].targets;
    }
    uint64_t h = am_table_hash(&d->table);
    c->table_hash = am_hash64(&d->row_len, sizeof d->row_len, h);
    const char *first = am_shard_path(d->shards[0]);
    AM_CHECK(c->num_sequences > 0, AM_ERR_DATA, "%s%s: the data are empty", first,
             d->num_shards > 1 ? ", …" : "");
    AM_CHECK(c->num_pieces > 0, AM_ERR_DATA,
             "%s%s: all %" PRId64 " samples are longer than a row of %" PRId64 " tokens and left out", first,
             d->num_shards > 1 ? ", …" : "", c->num_sequences, d->row_len);
    AM_CHECK(c->targets > 0, AM_ERR_DATA,
             "%s%s: none of the %" PRId64
             " tokens is supervised: nothing would be learnt; look at the samples with "
             "`automodel inspect`",
             first, d->num_shards > 1 ? ", …" : "", c->num_tokens);
done:
    return st;
}

am_status am_dataset_open(const am_dataset_options *o, am_dataset **out)
{
    am_status st = AM_OK;
    am_dataset *d = NULL;
    AM_CHECK(o->row_len > 0 && o->row_len <= (int64_t)1 << 30, AM_ERR_CONFIG, "rows of %" PRId64 " tokens",
             o->row_len);
    AM_CHECK(o->num_epochs >= 0 && o->limit_sequences >= 0, AM_ERR_CONFIG,
             "%" PRId64 " epochs, limit %" PRId64, o->num_epochs, o->limit_sequences);
    AM_TRY(am_calloc(1, sizeof *d, &d));
    d->row_len = o->row_len;
    d->num_epochs = o->num_epochs;
    d->shuffle = o->shuffle;
    d->seed = o->seed;
    AM_TRY(am_calloc((size_t)o->row_len + 1, sizeof *d->tokens, &d->tokens));
    AM_TRY(am_calloc((size_t)o->row_len + 1, sizeof *d->mask, &d->mask));
    AM_TRY(open_shards(d, o));
    AM_TRY(make_pieces(d, o));
    AM_TRY(am_table_pack(&d->table, d->row_len, o->packed, o->shuffle, o->seed));
    AM_TRY(count_pieces(d));
    *out = d;
    d = NULL;
done:
    am_dataset_close(&d);
    return st;
}

void am_dataset_close(am_dataset **d)
{
    if (!*d) return;
    for (size_t i = 0; i < (*d)->num_shards; i++) am_shard_close(&(*d)->shards[i]);
    am_free(&(*d)->shards);
    am_free(&(*d)->last_use);
    am_table_release(&(*d)->table);
    am_free(&(*d)->tokens);
    am_free(&(*d)->mask);
    am_free(d);
}

const am_dataset_counts *am_dataset_get_counts(const am_dataset *d)
{
    return &d->counts;
}
const am_shard_info *am_dataset_get_info(const am_dataset *d)
{
    return am_shard_get_info(d->shards[0]);
}
int64_t am_dataset_row_len(const am_dataset *d)
{
    return d->row_len;
}

/* ---- samples ------------------------------------------------------------------------------------------ */

/* Row of sample `index`; −1 beyond the last epoch. */
static int64_t row_at(const am_dataset *d, int64_t index)
{
    int64_t rows = d->table.num_rows, epoch = index / rows, i = index % rows;
    if (d->num_epochs > 0 && epoch >= d->num_epochs) return -1;
    return d->shuffle ? am_permute(d->seed, AM_STREAM_EPOCH(epoch), rows, i) : i;
}

int64_t am_data_sample_targets(const am_dataset *d, int64_t index)
{
    int64_t row = row_at(d, index);
    return row < 0 ? 0 : (int64_t)d->table.row_targets[row];
}

int64_t am_data_step_targets(const am_dataset *d, int64_t step, int64_t rows_per_step)
{
    int64_t sum = 0;
    for (int64_t i = 0; i < rows_per_step; i++) sum += am_data_sample_targets(d, step * rows_per_step + i);
    return sum;
}

int64_t am_data_num_steps(const am_dataset *d, int64_t epochs, int64_t rows_per_step)
{
    return am_ceil_div(epochs * d->table.num_rows, rows_per_step);
}

typedef struct row_out {
    int32_t *ids, *labels, *positions, *doc_start;
} row_out;

static am_status read_piece(am_dataset *d, const am_piece *p, int64_t at, const row_out *out,
                            int64_t *targets)
{
    am_status st = AM_OK;
    int64_t n = p->length, known = n + p->next;
    use_shard(d, p->shard);
    AM_TRY(am_shard_read(d->shards[p->shard], p->start, known, d->tokens, d->mask));
    for (int64_t t = 0; t < n; t++) {
        bool supervised = t + 1 < known && d->mask[t + 1];
        out->ids[at + t] = (int32_t)d->tokens[t];
        out->labels[at + t] = supervised ? (int32_t)d->tokens[t + 1] : AM_DATA_IGNORE;
        out->positions[at + t] = (int32_t)t;
        out->doc_start[at + t] = (int32_t)at;
        *targets += supervised;
    }
done:
    return st;
}

am_status am_data_sample(am_dataset *d, int64_t index, int32_t *input_ids, int32_t *labels,
                         int32_t *position_ids, int32_t *doc_start, int64_t *targets)
{
    am_status st = AM_OK;
    const row_out out = {input_ids, labels, position_ids, doc_start};
    int64_t at = 0, found = 0, row;
    AM_CHECK(index >= 0, AM_ERR_INTERNAL, "sample %" PRId64 " was asked for", index);
    row = row_at(d, index);
    for (int64_t k = row < 0 ? 0 : d->table.row_first[row]; row >= 0 && k < d->table.row_first[row + 1];
         k++) {
        const am_piece *p = &d->table.pieces[d->table.row_pieces[k]];
        AM_TRY(read_piece(d, p, at, &out, &found));
        at += p->length;
    }
    for (; at < d->row_len; at++) {
        input_ids[at] = 0;
        labels[at] = AM_DATA_IGNORE;
        position_ids[at] = 0;
        doc_start[at] = (int32_t)at;
    }
    AM_CHECK(row < 0 || found == (int64_t)d->table.row_targets[row], AM_ERR_DATA,
             "sample %" PRId64 ": its tokens have %" PRId64
             " supervised targets, its shards' tables say %" PRIu64
             ": the shards are inconsistent; prepare the data again (first shard: %s)",
             index, found, d->table.row_targets[row < 0 ? 0 : row], am_shard_path(d->shards[0]));
    if (targets) *targets = found;
done:
    return st;
}
