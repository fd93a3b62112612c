/* prepare: lines dealt to workers by byte ranges, tokenised, written as one shard a worker.
 * A worker's share is a range of the inputs laid end to end; plain files are cut anywhere (a line belongs to
 * the range that holds its first byte), a gzip file belongs whole to the worker whose range holds its first
 * byte. */
#include "data/data_internal.h"

#include <dirent.h>
#include <errno.h>
#include <string.h>
#include <sys/stat.h>

typedef struct input_file {
    const char *path;
    int64_t base, bytes; /* place in the inputs laid end to end */
    bool whole;          /* gzip: cannot be cut */
} input_file;

struct am_prepare {
    am_prepare_options o;
    am_encoder *encoder;
    input_file *files;
    int64_t total_bytes;
};

typedef struct sink {
    am_shard_writer *writer;
    am_prepare_counts *counts;
} sink;

/* ---- opening ---------------------------------------------------------------------------------------- */

/* Size, kind and first line of an input; *chat is set when that line is a chat. */
static am_status look_at_input(am_prepare *p, int i, bool *chat)
{
    am_status st = AM_OK;
    am_jsonl *reader = NULL;
    input_file *f = &p->files[i];
    const char *line;
    size_t len;
    struct stat info;
    unsigned char magic[2] = {0};
    FILE *raw = NULL;
    f->path = p->o.inputs[i];
    AM_TRY(am_jsonl_open(f->path, 0, -1, &reader)); /* refuses what is not a regular file */
    AM_CHECK(stat(f->path, &info) == 0, AM_ERR_DATA, "%s: %s", f->path, strerror(errno));
    raw = fopen(f->path, "rb");
    f->whole = raw && fread(magic, 1, 2, raw) == 2 && magic[0] == 0x1f && magic[1] == 0x8b;
    f->base = p->total_bytes;
    f->bytes = info.st_size;
    p->total_bytes += f->bytes;
    AM_TRY(am_jsonl_next(reader, &line, &len));
    if (!line) goto done;
    bool this_one = false;
    st = am_line_is_chat(&p->o, line, len, &this_one);
    if (st != AM_OK) {
        char text[512];
        snprintf(text, sizeof text, "%s", am_error_message());
        AM_FAIL(st, "%s:%" PRId64 ": %s", f->path, am_jsonl_line_number(reader), text);
    }
    *chat = *chat || this_one;
done:
    if (raw) fclose(raw);
    am_jsonl_close(&reader);
    return st;
}

am_status am_prepare_open(const am_prepare_options *options, am_prepare **out)
{
    am_status st = AM_OK;
    am_prepare *p = NULL;
    bool chat = false;
    AM_CHECK(options->num_inputs > 0, AM_ERR_USAGE, "no input files were given");
    AM_TRY(am_calloc(1, sizeof *p, &p));
    p->o = *options;
    AM_TRY(am_calloc((size_t)options->num_inputs, sizeof *p->files, &p->files));
    for (int i = 0; i < options->num_inputs; i++) AM_TRY(look_at_input(p, i, &chat));
    AM_TRY(am_encoder_create(options, chat, &p->encoder));
    *out = p;
    p = NULL;
done:
    am_prepare_close(&p);
    return st;
}

void am_prepare_close(am_prepare **p)
{
    if (!*p) return;
    am_encoder_free(&(*p)->encoder);
    am_free(&(*p)->files);
    am_free(p);
}

/* ---- one worker --------------------------------------------------------------------------------------- */

/* A shard that another preparation left in the folder would be trained on as well. */
static am_status check_output_dir(const char *dir, int num_workers)
{
    am_status st = AM_OK;
    char suffix[32];
    struct dirent *entry;
    DIR *d = opendir(dir);
    AM_CHECK(d, AM_ERR_IO, "%s: cannot be listed: %s", dir, strerror(errno));
    snprintf(suffix, sizeof suffix, "-of-%05d.h5", num_workers);
    while ((entry = readdir(d)) != NULL) {
        size_t n = strlen(entry->d_name), m = strlen(suffix);
        if (n < 3 || strcmp(entry->d_name + n - 3, ".h5") != 0) continue;
        AM_CHECK(n > m && strcmp(entry->d_name + n - m, suffix) == 0, AM_ERR_DATA,
                 "%s: holds %s of another preparation; remove it or write to another folder", dir,
                 entry->d_name);
    }
done:
    if (d) closedir(d);
    return st;
}

static const char *base_name(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

/* One value for all shards of one preparation: what went in, and how. */
static void fingerprint(const am_prepare *p, int num_workers, char *out, size_t size)
{
    const am_prepare_options *o = &p->o;
    const char *texts[] = {am_encoder_tokenizer_sha256(p->encoder),
                           am_encoder_template_sha256(p->encoder),
                           o->prompt_key,
                           o->completion_key,
                           o->text_key,
                           o->context_key,
                           o->system_prompt};
    const int64_t numbers[] = {num_workers,        o->max_length,
                               o->columns_as_chat, o->one_sample_per_turn,
                               o->supervise_all,   o->special_as_text};
    uint64_t h = am_hash64(numbers, sizeof numbers, AM_SHARD_FORMAT_VERSION);
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        h = am_hash64(texts[i] ? texts[i] : "", texts[i] ? strlen(texts[i]) + 1 : 0, h);
    for (int i = 0; i < o->num_inputs; i++) {
        h = am_hash64(base_name(p->files[i].path), strlen(base_name(p->files[i].path)) + 1, h);
        h = am_hash64(&p->files[i].bytes, sizeof p->files[i].bytes, h);
    }
    snprintf(out, size, "%016" PRIx64, h);
}

static am_status create_writer(const am_prepare *p, int worker, int num_workers, am_shard_writer **out)
{
    am_status st = AM_OK;
    int64_t ids = am_encoder_vocab_size(p->encoder);
    am_shard_info info = {.vocab_size = p->o.vocab_size > 0 ? am_min_i64(ids, p->o.vocab_size) : ids};
    char name[64];
    char *path = NULL;
    const char **sources = NULL;
    AM_TRY(am_calloc((size_t)p->o.num_inputs, sizeof *sources, &sources));
    for (int i = 0; i < p->o.num_inputs; i++) sources[i] = base_name(p->files[i].path);
    info.sources = (char **)sources;
    info.num_sources = p->o.num_inputs;
    snprintf(info.tokenizer_sha256, sizeof info.tokenizer_sha256, "%s",
             am_encoder_tokenizer_sha256(p->encoder));
    snprintf(info.chat_template_sha256, sizeof info.chat_template_sha256, "%s",
             am_encoder_template_sha256(p->encoder));
    fingerprint(p, num_workers, info.preparation, sizeof info.preparation);
    snprintf(name, sizeof name, "shard-%05d-of-%05d.h5", worker, num_workers);
    AM_TRY(am_path_join(p->o.output_dir, name, &path));
    AM_TRY(am_shard_writer_create(path, &info, p->o.deflate, out));
done:
    am_free(&path);
    am_free(&sources);
    return st;
}

static am_status add_sample(void *user, const uint32_t *tokens, const uint8_t *mask, int64_t n)
{
    am_status st = AM_OK;
    sink *s = user;
    AM_TRY(am_shard_writer_add(s->writer, tokens, mask, n));
    s->counts->samples++;
    s->counts->tokens += n;
    s->counts->longest = am_max_i64(s->counts->longest, n);
    for (int64_t t = 1; t < n; t++) s->counts->supervised += mask[t];
done:
    return st;
}

static am_status prepare_range(am_prepare *p, const input_file *f, int64_t first, int64_t end, sink *s)
{
    am_status st = AM_OK;
    am_jsonl *reader = NULL;
    const char *line;
    size_t len;
    AM_TRY(am_jsonl_open(f->path, first, end, &reader));
    for (;;) {
        AM_TRY(am_jsonl_next(reader, &line, &len));
        if (!line) break;
        st = am_encoder_line(p->encoder, line, len, s->counts, add_sample, s);
        if (st != AM_OK) {
            char text[1024];
            snprintf(text, sizeof text, "%s", am_error_message());
            AM_FAIL(st, "%s:%" PRId64 ": %s", f->path, am_jsonl_line_number(reader), text);
        }
    }
done:
    am_jsonl_close(&reader);
    return st;
}

am_status am_data_prepare(am_prepare *p, int worker, int num_workers, am_prepare_counts *counts)
{
    am_status st = AM_OK;
    sink s = {NULL, counts};
    int64_t a, b;
    memset(counts, 0, sizeof *counts);
    AM_CHECK(num_workers > 0 && num_workers <= 99999 && worker >= 0 && worker < num_workers, AM_ERR_USAGE,
             "worker %d of %d", worker, num_workers);
    AM_TRY(am_mkdirs(p->o.output_dir));
    AM_TRY(check_output_dir(p->o.output_dir, num_workers));
    AM_TRY(create_writer(p, worker, num_workers, &s.writer));
    a = (int64_t)((__int128)p->total_bytes * worker / num_workers);
    b = (int64_t)((__int128)p->total_bytes * (worker + 1) / num_workers);
    for (int i = 0; i < p->o.num_inputs; i++) {
        const input_file *f = &p->files[i];
        if (f->whole) {
            if (f->base >= a && f->base < b) AM_TRY(prepare_range(p, f, 0, -1, &s));
            continue;
        }
        int64_t first = am_max_i64(a - f->base, 0), end = am_min_i64(b - f->base, f->bytes);
        if (first < end) AM_TRY(prepare_range(p, f, first, end, &s));
    }
    AM_TRY(am_shard_writer_commit(s.writer, NULL));
done:
    am_shard_writer_free(&s.writer);
    return st;
}

/* ---- the total ------------------------------------------------------------------------------------------
 */

void am_prepare_counts_add(am_prepare_counts *t, const am_prepare_counts *c)
{
    t->lines += c->lines;
    t->samples += c->samples;
    t->tokens += c->tokens;
    t->supervised += c->supervised;
    t->unsupervised_samples += c->unsupervised_samples;
    t->turns += c->turns;
    t->unsupervised_turns += c->unsupervised_turns;
    t->special_in_text += c->special_in_text;
    t->longest = am_max_i64(t->longest, c->longest);
}

am_status am_prepare_check(const am_prepare *p, const am_prepare_counts *t, am_str *report)
{
    am_status st = AM_OK;
    const char *first = p->files[0].path, *more = p->o.num_inputs > 1 ? ", …" : "";
    AM_CHECK(t->lines > 0, AM_ERR_DATA, "%s%s: the data are empty: no line holds a sample", first, more);
    AM_CHECK(t->supervised > 0, AM_ERR_DATA,
             "%s%s: none of the tokens of %" PRId64
             " lines is supervised (0 %%): nothing would be learnt; %s",
             first, more, t->lines,
             t->turns > 0
                 ? "the chat template rewrites earlier turns, try one sample a turn (--one-sample-per-turn)"
                 : "are there assistant turns in the data?");
    AM_TRY(am_str_printf(
        report, "%" PRId64 " samples, %" PRId64 " tokens, %.1f %% supervised, longest %" PRId64 " tokens\n",
        t->samples, t->tokens, 100.0 * (double)t->supervised / (double)t->tokens, t->longest));
    if (t->unsupervised_samples > 0)
        AM_TRY(am_str_printf(report, "%" PRId64 " samples have nothing to supervise and were left out\n",
                             t->unsupervised_samples));
    if (t->unsupervised_turns > 0)
        AM_TRY(am_str_printf(report,
                             "%" PRId64 " of %" PRId64
                             " assistant turns are not supervised: the chat template rewrites "
                             "earlier turns; --one-sample-per-turn would supervise them\n",
                             t->unsupervised_turns, t->turns));
    if (t->special_in_text > 0)
        AM_TRY(am_str_printf(report, "%" PRId64 " strings in the data spell a special token and became one\n",
                             t->special_in_text));
done:
    return st;
}
