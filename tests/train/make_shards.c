/* make_shards: token shards for the tests of whole runs.  The golden models have 128 tokens and no tokenizer,
 * so the texts are made up here: every sequence repeats one of a few short patterns, with some noise, which a
 * tiny model learns within a dozen steps.  The same arguments give the same bytes.
 *
 *     make_shards DIR [KEY=NUMBER …] [sha=HEX]
 *         shards=4 sequences=16 (of a shard) min=12 max=40 (tokens of a sequence) vocab=128 seed=1
 *         supervised=1 (0: no token is)  prompt=3 (sequence i: its first i mod 4 · prompt tokens are not
 * supervised) */
#include "data/data.h"

#include <string.h>

enum { SHARDS, SEQUENCES, MIN, MAX, VOCAB, SEED, SUPERVISED, PROMPT, NUM_KEYS };
static const char *const keys[NUM_KEYS] = {"shards", "sequences", "min",        "max",
                                           "vocab",  "seed",      "supervised", "prompt"};

typedef struct wanted {
    const char *dir, *sha;
    int64_t n[NUM_KEYS];
} wanted;

static am_status read_arguments(int argc, char **argv, wanted *w)
{
    am_status st = AM_OK;
    *w = (wanted){.dir = argv[1], .sha = "", .n = {4, 16, 12, 40, 128, 1, 1, 3}};
    AM_CHECK(argc > 1, AM_ERR_USAGE, "make_shards DIR [KEY=NUMBER …] [sha=HEX]");
    for (int i = 2; i < argc; i++) {
        const char *value = strchr(argv[i], '=');
        int k = 0;
        AM_CHECK(value, AM_ERR_USAGE, "%s is not KEY=VALUE", argv[i]);
        size_t len = (size_t)(value - argv[i]);
        while (k < NUM_KEYS && (strncmp(keys[k], argv[i], len) != 0 || keys[k][len])) k++;
        if (k == NUM_KEYS && len == 3 && strncmp(argv[i], "sha", 3) == 0)
            w->sha = value + 1;
        else
            AM_CHECK(k < NUM_KEYS && am_parse_i64(value + 1, &w->n[k]), AM_ERR_USAGE, "%s is not known",
                     argv[i]);
    }
    AM_CHECK(w->n[SHARDS] > 0 && w->n[MIN] > 0 && w->n[MAX] >= w->n[MIN] && w->n[MAX] <= 4096 &&
                 w->n[VOCAB] >= 40,
             AM_ERR_USAGE, "numbers out of range");
done:
    return st;
}

/* Sequence `index` of the whole set.  @return its length. */
static int64_t make_sequence(const wanted *w, int64_t index, uint32_t *tokens, uint8_t *mask)
{
    uint64_t seed = (uint64_t)w->n[SEED], stream = (uint64_t)index + 1;
    int64_t n = w->n[MIN] + (int64_t)(am_random_u64(seed, stream, 0) % (uint64_t)(w->n[MAX] - w->n[MIN] + 1));
    uint64_t pattern = am_random_u64(seed, stream, 1) % 8, period = 2 + pattern % 4;
    for (int64_t t = 0; t < n; t++) {
        uint64_t noise = am_random_u64(seed, stream, 2 + (uint64_t)t);
        tokens[t] = noise % 16 == 0 ? 3 + (uint32_t)(noise >> 8) % 32
                                    : 3 + (uint32_t)((pattern * 5 + (uint64_t)t % period * 7) % 32);
        mask[t] = w->n[SUPERVISED] && t >= index % 4 * w->n[PROMPT];
    }
    tokens[0] = 1;
    return n;
}

static am_status write_shard(const wanted *w, int64_t shard)
{
    am_status st = AM_OK;
    static uint32_t tokens[4096];
    static uint8_t mask[4096];
    char path[4096];
    am_shard_info info = {.vocab_size = w->n[VOCAB]};
    am_shard_writer *writer = NULL;
    snprintf(info.tokenizer_sha256, sizeof info.tokenizer_sha256, "%s", w->sha);
    snprintf(info.preparation, sizeof info.preparation, "made up");
    snprintf(path, sizeof path, "%s/shard-%05d-of-%05d.h5", w->dir, (int)shard, (int)w->n[SHARDS]);
    AM_TRY(am_shard_writer_create(path, &info, 0, &writer));
    for (int64_t i = 0; i < w->n[SEQUENCES]; i++) {
        int64_t n = make_sequence(w, shard * w->n[SEQUENCES] + i, tokens, mask);
        AM_TRY(am_shard_writer_add(writer, tokens, mask, n));
    }
    AM_TRY(am_shard_writer_commit(writer, NULL));
done:
    am_shard_writer_free(&writer);
    return st;
}

int main(int argc, char **argv)
{
    am_status st = AM_OK;
    wanted w;
    AM_TRY(read_arguments(argc, argv, &w));
    AM_TRY(am_mkdirs(w.dir));
    for (int64_t i = 0; i < w.n[SHARDS]; i++) AM_TRY(write_shard(&w, i));
done:
    if (st != AM_OK) am_error_print(stderr, -1);
    return am_status_exit_code(st);
}
