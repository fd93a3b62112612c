/* inspect_data.c: token shards: what they say about themselves, and their first samples with the supervised
 * text marked. */
#include "cli/inspect.h"

#include "data/data.h"

#include <string.h>

enum { SHOWN = 2048 }; /* tokens of a sample that are printed; the rest is counted */

bool am_inspect_is_shards(const char *spec)
{
    char **names = NULL;
    size_t n = strlen(spec), count = 0;
    if (!am_cli_is_dir(spec)) return n > 3 && strcmp(spec + n - 3, ".h5") == 0;
    if (am_cli_list(spec, "*.h5", &names, &count) != AM_OK) am_error_clear();
    am_cli_free_names(&names, count);
    return count > 0;
}

/* ---- samples
 * ------------------------------------------------------------------------------------------------------------
 */

/* Text of tokens [begin, end) as they stand in the whole: what decoding up to `end` has beyond decoding up to
 * `begin`. */
static am_status part_text(const am_tokenizer *t, const uint32_t *ids, size_t begin, size_t end, json_t **out)
{
    am_status st = AM_OK;
    am_str before = {0}, all = {0};
    AM_TRY(am_tokenizer_decode(t, ids, begin, false, &before));
    AM_TRY(am_tokenizer_decode(t, ids, end, false, &all));
    size_t from = before.len <= all.len ? before.len : all.len;
    *out = json_stringn(all.s ? all.s + from : "", all.len - from);
    AM_CHECK(*out, AM_ERR_DATA, "tokens %zu to %zu do not decode to UTF-8", begin,
             end); /* a cut within a character */
done:
    am_str_release(&before);
    am_str_release(&all);
    return st;
}

static am_status part_json(const am_tokenizer *t, const uint32_t *ids, size_t begin, size_t end,
                           bool supervised, json_t *parts)
{
    am_status st = AM_OK;
    json_t *o = json_pack("{s:b}", "supervised", supervised), *v = NULL;
    if (t) {
        AM_TRY(part_text(t, ids, begin, end, &v));
        json_object_set_new(o, "text", v);
    } else {
        json_object_set_new(o, "ids", v = json_array());
        for (size_t i = begin; i < end; i++) json_array_append_new(v, json_integer(ids[i]));
    }
    json_array_append(parts, o);
done:
    json_decref(o);
    return st;
}

am_status am_inspect_parts(const am_tokenizer *t, const uint32_t *ids, const uint8_t *mask, int64_t n, json_t *parts)
{
    am_status st = AM_OK;
    for (int64_t i = 0, k; i < n; i = k) {
        for (k = i + 1; k < n && mask[k] == mask[i]; k++) continue;
        AM_TRY(part_json(t, ids, (size_t)i, (size_t)k, mask[i] != 0, parts));
    }
done:
    return st;
}

static am_status sample_json(am_shard *s, int64_t sequence, const am_tokenizer *t, json_t *samples)
{
    am_status st = AM_OK;
    const uint64_t *offset = am_shard_offsets(s);
    int64_t all = (int64_t)(offset[sequence + 1] - offset[sequence]), n = am_min_i64(all, SHOWN);
    uint32_t *ids = NULL;
    uint8_t *mask = NULL;
    json_t *parts = json_array();
    AM_TRY(am_calloc((size_t)n, sizeof *ids, &ids));
    AM_TRY(am_calloc((size_t)n, sizeof *mask, &mask));
    AM_TRY(am_shard_read(s, (int64_t)offset[sequence], n, ids, mask));
    AM_TRY(am_inspect_parts(t, ids, mask, n, parts));
    json_array_append_new(samples, json_pack("{s:I, s:I, s:I, s:O}", "tokens", (json_int_t)all, "supervised",
                                             (json_int_t)am_shard_targets(s)[sequence], "left_out",
                                             (json_int_t)(all - n), "parts", parts));
done:
    json_decref(parts);
    am_free(&ids);
    am_free(&mask);
    return st;
}

/* ---- shards
 * ---------------------------------------------------------------------------------------------------------------
 */

typedef struct am_shard_look {
    json_t *out, *shards, *samples;
    am_tokenizer *tokenizer;
    int64_t wanted, sequences, tokens, supervised;
} am_shard_look;

static am_status check_decoder(const am_shard_look *l, const am_shard *s)
{
    am_status st = AM_OK;
    const char *made_with = am_shard_get_info(s)->tokenizer_sha256;
    char sha256[65];
    if (!l->tokenizer) return AM_OK;
    AM_TRY(am_tokenizer_sha256(l->tokenizer, sha256));
    AM_CHECK(strcmp(sha256, made_with) == 0, AM_ERR_DATA,
             "%s was made with another tokenizer (sha256 %.16s…) than %s (%.16s…)", am_shard_path(s),
             made_with[0] ? made_with : "unknown", am_tokenizer_path(l->tokenizer), sha256);
done:
    return st;
}

static am_status look_at(am_shard_look *l, const char *path)
{
    am_status st = AM_OK;
    am_shard *s = NULL;
    AM_TRY(am_shard_open(path, &s));
    AM_TRY(check_decoder(l, s));
    const am_shard_info *i = am_shard_get_info(s);
    if (json_array_size(l->shards) == 0) {
        json_t *sources = json_array();
        for (int64_t k = 0; k < i->num_sources; k++)
            json_array_append_new(sources, json_string(i->sources[k]));
        json_object_set_new(l->out, "vocab_size", json_integer(i->vocab_size));
        json_object_set_new(l->out, "tokenizer_sha256", json_string(i->tokenizer_sha256));
        json_object_set_new(l->out, "chat_template_sha256", json_string(i->chat_template_sha256));
        json_object_set_new(l->out, "sources", sources);
    }
    json_array_append_new(l->shards, json_pack("{s:s, s:I, s:I, s:I, s:s}", "path", path, "sequences",
                                               (json_int_t)i->num_sequences, "tokens",
                                               (json_int_t)i->num_tokens, "supervised",
                                               (json_int_t)i->num_supervised, "preparation", i->preparation));
    l->sequences += i->num_sequences;
    l->tokens += i->num_tokens;
    l->supervised += i->num_supervised;
    for (int64_t k = 0; k < i->num_sequences && (int64_t)json_array_size(l->samples) < l->wanted; k++)
        AM_TRY(sample_json(s, k, l->tokenizer, l->samples));
done:
    am_shard_close(&s);
    return st;
}

am_status am_inspect_shards(const char *spec, int64_t num_samples, const char *tokenizer_dir, json_t **out)
{
    am_status st = AM_OK;
    am_shard_look l = {
        .out = json_object(), .shards = json_array(), .samples = json_array(), .wanted = num_samples};
    char **names = NULL, *path = NULL;
    size_t n = 0;
    if (tokenizer_dir) {
        AM_TRY(am_hf_resolve(tokenizer_dir, &path));
        AM_TRY(am_tokenizer_open(path, &l.tokenizer));
    }
    if (!am_cli_is_dir(spec))
        AM_TRY(look_at(&l, spec));
    else
        AM_TRY(am_cli_list(spec, "*.h5", &names, &n));
    for (size_t i = 0; i < n; i++) {
        am_free(&path);
        AM_TRY(am_path_join(spec, names[i], &path));
        AM_TRY(look_at(&l, path));
    }
    json_object_set_new(l.out, "sequences", json_integer(l.sequences));
    json_object_set_new(l.out, "tokens", json_integer(l.tokens));
    json_object_set_new(l.out, "supervised", json_integer(l.supervised));
    json_object_set(l.out, "shards", l.shards);
    json_object_set(l.out, "samples", l.samples);
    *out = l.out;
    l.out = NULL;
done:
    json_decref(l.out);
    json_decref(l.shards);
    json_decref(l.samples);
    am_tokenizer_free(&l.tokenizer);
    am_cli_free_names(&names, n);
    am_free(&path);
    return st;
}

/* ---- for people
 * --------------------------------------------------------------------------------------------------------------
 */

static int64_t number(const json_t *o, const char *key)
{
    return json_integer_value(json_object_get(o, key));
}

/* Text of strangers on a terminal: control characters are spelled out. */
static void print_text(const char *s)
{
    for (; *s; s++) {
        unsigned char c = (unsigned char)*s;
        if ((c < 32 && c != '\n' && c != '\t') || c == 127)
            printf("\\x%02x", c);
        else
            putchar(c);
    }
}

static void print_part(const json_t *p, bool colour)
{
    bool on = json_is_true(json_object_get(p, "supervised"));
    const char *text = json_string_value(json_object_get(p, "text"));
    size_t i;
    json_t *id;
    if (on) fputs(colour ? "\033[32m" : "[[", stdout);
    if (text) print_text(text);
    json_array_foreach(json_object_get(p, "ids"), i, id)
        printf("%s%" JSON_INTEGER_FORMAT, i ? " " : "", json_integer_value(id));
    if (on) fputs(colour ? "\033[0m" : "]]", stdout);
    if (!text) putchar(' ');
}

void am_inspect_print_parts(const json_t *parts, bool colour)
{
    size_t i;
    json_t *p;
    json_array_foreach(parts, i, p) print_part(p, colour);
}

void am_inspect_print_shards(const json_t *o, bool colour)
{
    char a[32], b[32], c[32];
    const char *chat = json_string_value(json_object_get(o, "chat_template_sha256"));
    size_t i;
    json_t *s;
    printf("shards         %zu, %s sequences, %s tokens, %s supervised (%.1f %%)\n",
           json_array_size(json_object_get(o, "shards")), am_cli_thousands(number(o, "sequences"), a),
           am_cli_thousands(number(o, "tokens"), b), am_cli_thousands(number(o, "supervised"), c),
           number(o, "tokens") ? 100.0 * (double)number(o, "supervised") / (double)number(o, "tokens") : 0.0);
    printf("made from     ");
    json_array_foreach(json_object_get(o, "sources"), i, s) printf(" %s", json_string_value(s));
    printf("\ntokenizer      %" PRId64 " ids, sha256 %s\n", number(o, "vocab_size"),
           json_string_value(json_object_get(o, "tokenizer_sha256")));
    printf("chat template  %s%s\n", chat && *chat ? "sha256 " : "none used", chat ? chat : "");
    json_array_foreach(json_object_get(o, "samples"), i, s)
    {
        printf("\n--- sample %zu: %" PRId64 " tokens, %" PRId64 " supervised%s\n", i, number(s, "tokens"),
               number(s, "supervised"), colour ? " (in colour)" : " (in [[ ]])");
        am_inspect_print_parts(json_object_get(s, "parts"), colour);
        if (number(s, "left_out") > 0) printf(" … and %" PRId64 " tokens more", number(s, "left_out"));
        printf("\n");
    }
}
