/* Shared by the tests of src/data: a scratch folder, small files, shards with known tokens, checks on sentences. */
#ifndef AM_DATA_TEST_H
#define AM_DATA_TEST_H

#include "data/data.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define OK(call)                                                                                                      \
    do {                                                                                                              \
        am_status st_ = (call);                                                                                       \
        if (st_ != AM_OK) fail_msg("%s: %s: %s", #call, am_status_name(st_), am_error_message());                     \
    } while (0)
/* the call fails with this status and its sentence holds all of the words */
#define FAILS(call, status, ...)                                                                                      \
    do {                                                                                                              \
        am_status st_ = (call);                                                                                       \
        assert_string_equal(am_status_name(st_), am_status_name(status));                                             \
        const char *words_[] = {__VA_ARGS__};                                                                         \
        for (size_t w_ = 0; w_ < sizeof words_ / sizeof *words_; w_++)                                                \
            if (!strstr(am_error_message(), words_[w_]))                                                              \
                fail_msg("\"%s\" is not in: %s", words_[w_], am_error_message());                                     \
    } while (0)

static char scratch_dir[256];

static inline int make_scratch(void **state)
{
    const char *base = getenv("TMPDIR");
    snprintf(scratch_dir, sizeof scratch_dir, "%s/am_data_XXXXXX", base && strlen(base) < 200 ? base : "/tmp");
    return mkdtemp(scratch_dir) ? 0 : -1;
}

static inline int remove_scratch(void **state)
{
    char command[300];
    snprintf(command, sizeof command, "rm -rf '%s'", scratch_dir);
    return system(command);
}

/* DIR/name, in one of a few static buffers */
static inline const char *at(const char *name)
{
    static char paths[8][512];
    static int next;
    char *p = paths[next++ % 8];
    snprintf(p, sizeof paths[0], "%s/%s", scratch_dir, name);
    return p;
}

static inline void write_file(const char *path, const void *data, size_t n)
{
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(data, 1, n, f), n);
    assert_int_equal(fclose(f), 0);
}

/* Sequence i of a test shard: token t is 100·(i+1) + t, the first `prompt` tokens are not supervised. */
typedef struct test_seq { int64_t length, prompt; } test_seq;

static inline void write_shard_named(const char *path, const test_seq *seqs, int64_t n, int64_t vocab, const char *tokenizer,
                                     const char *preparation)
{
    am_shard_info info = {.vocab_size = vocab};
    am_shard_writer *w = NULL;
    snprintf(info.tokenizer_sha256, sizeof info.tokenizer_sha256, "%s", tokenizer);
    snprintf(info.preparation, sizeof info.preparation, "%s", preparation);
    OK(am_shard_writer_create(path, &info, 0, &w));
    for (int64_t i = 0; i < n; i++) {
        uint32_t *tokens = calloc((size_t)seqs[i].length, sizeof *tokens);
        uint8_t *mask = calloc((size_t)seqs[i].length, 1);
        for (int64_t t = 0; t < seqs[i].length; t++) {
            tokens[t] = (uint32_t)(100 * (i + 1) + t) % (uint32_t)vocab;
            mask[t] = t >= seqs[i].prompt;
        }
        OK(am_shard_writer_add(w, tokens, mask, seqs[i].length));
        free(tokens);
        free(mask);
    }
    OK(am_shard_writer_commit(w, NULL));
    am_shard_writer_free(&w);
}

static inline void write_shard(const char *path, const test_seq *seqs, int64_t n)
{
    write_shard_named(path, seqs, n, 1 << 20, "t", "p");
}

static inline int64_t file_size(const char *path)
{
    FILE *f = fopen(path, "rb");
    assert_non_null(f);
    fseek(f, 0, SEEK_END);
    int64_t n = ftell(f);
    fclose(f);
    return n;
}

#endif
