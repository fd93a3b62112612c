/* bench tokenizer: opening a model's tokenizer, and encoding the texts of a JSONL file with it, on one thread.  Texts are in
 * memory before the clock starts; ids and offsets are made for every text, nothing is written. */
#include "cli/bench_print.h"

#include "hf/hf.h"
#include "hf/tokenizer.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_FILE = 1 << 30 };

typedef struct texts {
    char  **at;
    size_t *n, num, at_cap, n_cap, bytes;
} texts;

static am_status read_line(texts *t, const char *line, size_t n, const char *where)
{
    am_status st = AM_OK;
    json_t *j = NULL;
    AM_TRY(am_json_parse(line, n, where, &j));
    json_t *text = json_object_get(j, "text");
    AM_CHECK(json_is_string(text), AM_ERR_DATA, "%s: no string \"text\"", where);
    AM_TRY(am_grow(&t->at, &t->at_cap, t->num + 1, sizeof *t->at));
    AM_TRY(am_grow(&t->n, &t->n_cap, t->num + 1, sizeof *t->n));
    size_t len = json_string_length(text);
    AM_TRY(am_calloc(len + 1, 1, &t->at[t->num]));
    memcpy(t->at[t->num], json_string_value(text), len);
    t->n[t->num++] = len;
    t->bytes += len;
done:
    json_decref(j);
    return st;
}

static am_status read_texts(const char *path, texts *t)
{
    am_status st = AM_OK;
    char *data = NULL, where[4096];
    size_t n = 0, line = 1;
    AM_TRY(am_file_read(path, MAX_FILE, &data, &n));
    for (size_t i = 0; i < n; line++) {
        const char *end = memchr(data + i, '\n', n - i);
        size_t len = end == NULL ? n - i : (size_t)(end - data) - i;
        snprintf(where, sizeof where, "%s, line %zu", path, line);
        if (len > 0) AM_TRY(read_line(t, data + i, len, where));
        i += len + 1;
    }
    AM_CHECK(t->bytes > 0, AM_ERR_DATA, "%s holds no text", path);
done:
    am_free(&data);
    return st;
}

static void texts_release(texts *t)
{
    for (size_t i = 0; i < t->num; i++) am_free(&t->at[i]);
    am_free(&t->at);
    am_free(&t->n);
}

/* A fresh scratch, so that a round starts with an empty cache of pieces. */
static am_status encode_all(const am_tokenizer *t, const texts *in, double *seconds, size_t *ids)
{
    am_status st = AM_OK;
    am_tok_scratch *s = NULL;
    am_encoding e = {0};
    double begin = am_now();
    *ids = 0;
    AM_TRY(am_tok_scratch_create(t, &s));
    for (size_t i = 0; i < in->num; i++) {
        AM_TRY(am_tokenizer_encode(t, s, in->at[i], in->n[i], AM_ENCODE_PLAIN, &e));
        *ids += e.n;
    }
    *seconds = am_now() - begin;
done:
    am_encoding_release(&e);
    am_tok_scratch_free(&s);
    return st;
}

static void print(bool json, const texts *in, size_t ids, double open, double encode)
{
    if (json)
        printf("{\"open_seconds\": %.6f, \"encode_seconds\": %.6f, \"bytes\": %zu, \"texts\": %zu, \"ids\": %zu}\n", open, encode,
               in->bytes, in->num, ids);
    else if (in->num == 0)
        printf("opened in %.1f ms\n", 1e3 * open);
    else
        printf("opened in %.1f ms; %.2f MB in %zu texts, %zu ids: %.2f MB/s on one thread\n", 1e3 * open, 1e-6 * (double)in->bytes,
               in->num, ids, 1e-6 * (double)in->bytes / encode);
}

am_status am_bench_tokenizer(const char *model, const char *file, int rounds, bool json)
{
    am_status st = AM_OK;
    am_tokenizer *t = NULL;
    texts in = {0};
    double open = INFINITY, encode = INFINITY, seconds;
    size_t ids = 0;
    if (file != NULL) AM_TRY(read_texts(file, &in));
    for (int i = 0; i < rounds; i++) {
        am_tokenizer_free(&t);
        double begin = am_now();
        AM_TRY(am_tokenizer_open(model, &t));
        open = fmin(open, am_now() - begin);
    }
    for (int i = 0; i < rounds && file != NULL; i++) {
        AM_TRY(encode_all(t, &in, &seconds, &ids));
        encode = fmin(encode, seconds);
    }
    print(json, &in, ids, open, file != NULL ? encode : 0);
done:
    texts_release(&in);
    am_tokenizer_free(&t);
    return st;
}
