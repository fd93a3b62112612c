/* tokenizer, files of ranked byte strings: tiktoken ("base64 rank" a line; Llama 3's own tokenizer.model, qwen.tiktoken,
 * Kimi's tiktoken.model, OpenAI's *.tiktoken) and Mistral's tekken.json.  Both are byte-level BPE whose merges are implied:
 * whatever two neighbours make a token, the lowest rank first; a piece that is a token as a whole is that token.
 * A tiktoken file does not say its split pattern: that goes by the file's name. */
#include "hf/tokenizer_internal.h"

#include "hf/hf.h"

#include <stdlib.h>

#define CONTRACTIONS "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
#define ENDING "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
#define CL100K CONTRACTIONS "|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}" ENDING
#define QWEN CONTRACTIONS "|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}" ENDING
#define UPPER "\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}"
#define LOWER "\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}"
#define O200K                                                                                                                     \
    "[^\\r\\n\\p{L}\\p{N}]?[" UPPER "]*[" LOWER "]+" CONTRACTIONS "?|[^\\r\\n\\p{L}\\p{N}]?[" UPPER "]+[" LOWER "]*" CONTRACTIONS \
    "?|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
#define KIMI                                                                                                                    \
    "[\\p{Han}]+|[^\\r\\n\\p{L}\\p{N}]?[" UPPER "&&[^\\p{Han}]]*[" LOWER "&&[^\\p{Han}]]+" CONTRACTIONS                         \
    "?|[^\\r\\n\\p{L}\\p{N}]?[" UPPER "&&[^\\p{Han}]]+[" LOWER "&&[^\\p{Han}]]*" CONTRACTIONS "?|\\p{N}{1,3}" ENDING
#define GPT2 "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"

static const struct {
    const char *name, *pattern, *family;
} known[] = {
    {"tokenizer.model", CL100K, "llama3"},     {"qwen.tiktoken", QWEN, "qwen"},       {"tiktoken.model", KIMI, ""},
    {"cl100k_base.tiktoken", CL100K, "openai"}, {"o200k_base.tiktoken", O200K, "openai"}, {"r50k_base.tiktoken", GPT2, "openai"},
    {"p50k_base.tiktoken", GPT2, "openai"},
};

/* ---- one token, all merges ---- */

static am_status put_bytes(am_bpe *b, const char *raw, size_t n, uint32_t id)
{
    am_status st = AM_OK;
    char spelled[2048];
    size_t len = 0;
    AM_CHECK(n > 0 && n < sizeof spelled / 2, AM_ERR_MODEL, "a token of %zu bytes", n);
    for (size_t i = 0; i < n; i++) len += am_tok_utf8_put(am_tok_byte_to_char((unsigned char)raw[i]), spelled + len);
    AM_TRY(am_bpe_put_token(b, spelled, len, id));
done:
    return st;
}

/* Ids grow with ranks, so the id serves as rank. */
static am_status add_merges(am_bpe *b)
{
    am_status st = AM_OK;
    for (size_t i = 0; i < b->pieces.n; i++) {
        struct am_bytes_entry e = b->pieces.entry[i];
        for (uint32_t k = 1; k < e.len; k++) {
            uint32_t left = am_bpe_piece_id(b, b->arena + e.off, k);
            if (left == AM_NO_ID) continue;
            uint32_t right = am_bpe_piece_id(b, b->arena + e.off + k, e.len - k);
            if (right != AM_NO_ID) AM_TRY(am_bpe_put_merge(b, left, right, e.id, e.id));
        }
    }
done:
    return st;
}

static am_status begin(am_tokenizer *t)
{
    t->model = AM_MODEL_BPE;
    t->byte_level = t->bpe.byte_mode = t->bpe.ignore_merges = true;
    return AM_OK;
}

static am_status finish(am_tokenizer *t, const char *pattern)
{
    am_status st = AM_OK;
    json_t *decoder = json_pack("{s:s}", "type", "ByteLevel");
    AM_CHECK(decoder != NULL, AM_ERR_MEMORY, "the host refused memory");
    AM_TRY(am_bpe_finish(&t->bpe, t->path));
    AM_TRY(am_bpe_index_pieces(&t->bpe));
    for (int i = 0; i < 256; i++)
        AM_CHECK(t->bpe.byte_id[i] != AM_NO_ID, AM_ERR_MODEL, "%s: the vocabulary lacks byte %d", t->path, i);
    AM_TRY(add_merges(&t->bpe));
    AM_TRY(am_tok_add_split(t, pattern));
    AM_TRY(am_tok_load_decoder(t, decoder));
done:
    json_decref(decoder);
    return st;
}

/* ---- tiktoken ---- */

bool am_tok_looks_like_tiktoken(const char *data, size_t n)
{
    const char *line = memchr(data, '\n', n < 400 ? n : 400), *blank = line == NULL ? NULL : memchr(data, ' ', (size_t)(line - data));
    if (blank == NULL) return false;
    for (const char *p = data; p < blank; p++)
        if (strchr("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/=", *p) == NULL || *p == '\0') return false;
    for (const char *p = blank + 1; p < line; p++)
        if (*p != '\r' && (*p < '0' || *p > '9')) return false;
    return true;
}

static am_status read_lines(am_tokenizer *t, const char *data, size_t n, uint32_t *next)
{
    am_status st = AM_OK;
    am_str raw = {0};
    size_t line = 1;
    for (size_t i = 0; i < n; line++) {
        const char *end = memchr(data + i, '\n', n - i);
        size_t stop = end == NULL ? n : (size_t)(end - data), len = stop - i;
        const char *blank = memchr(data + i, ' ', len);
        if (len == 0 && stop + 1 >= n) break;
        AM_CHECK(blank != NULL, AM_ERR_MODEL, "%s:%zu: not \"base64 rank\"", t->path, line);
        long rank = strtol(blank + 1, NULL, 10);
        AM_CHECK(rank >= 0 && rank < INT32_MAX, AM_ERR_MODEL, "%s:%zu: the rank %ld", t->path, line, rank);
        raw.len = 0;
        am_status bad = am_tok_base64(data + i, (size_t)(blank - data) - i, &raw);
        AM_CHECK(bad == AM_OK && raw.len > 0, AM_ERR_MODEL, "%s:%zu: the token is no base64, or empty", t->path, line);
        AM_TRY(put_bytes(&t->bpe, raw.s, raw.len, (uint32_t)rank));
        if ((uint32_t)rank >= *next) *next = (uint32_t)rank + 1;
        i = stop + 1;
    }
done:
    am_str_release(&raw);
    return st;
}

static am_status add_special(am_tokenizer *t, uint32_t id, const char *name)
{
    return am_tok_add_added(t, name, strlen(name), id, true, false);
}

static am_status add_numbered(am_tokenizer *t, uint32_t id, const char *format, int number)
{
    char name[64];
    snprintf(name, sizeof name, format, number);
    return add_special(t, id, name);
}

static am_status llama3_specials(am_tokenizer *t, uint32_t id)
{
    static const char *const names[] = {"<|begin_of_text|>", "<|end_of_text|>", "<|reserved_special_token_0|>",
                                        "<|reserved_special_token_1|>", "<|finetune_right_pad_id|>", "<|step_id|>",
                                        "<|start_header_id|>", "<|end_header_id|>", "<|eom_id|>", "<|eot_id|>", "<|python_tag|>"};
    am_status st = AM_OK;
    int n = sizeof names / sizeof *names;
    for (int i = 0; i < n; i++) AM_TRY(add_special(t, id + (uint32_t)i, names[i]));
    for (int i = n; i < 256; i++) AM_TRY(add_numbered(t, id + (uint32_t)i, "<|reserved_special_token_%d|>", i - n + 2));
    t->adds_bos = true;
done:
    return st;
}

static am_status qwen_specials(am_tokenizer *t, uint32_t id)
{
    static const char *const names[] = {"<|endoftext|>", "<|im_start|>", "<|im_end|>"};
    am_status st = AM_OK;
    for (uint32_t i = 0; i < 3; i++) AM_TRY(add_special(t, id + i, names[i]));
    for (int i = 0; i < 205; i++) AM_TRY(add_numbered(t, id + 3 + (uint32_t)i, "<|extra_%d|>", i));
done:
    return st;
}

static am_status openai_specials(am_tokenizer *t, const char *file)
{
    static const struct {
        const char *file, *name;
        uint32_t id;
    } tokens[] = {{"r50k", "<|endoftext|>", 50256},     {"p50k", "<|endoftext|>", 50256},    {"cl100k", "<|endoftext|>", 100257},
                  {"cl100k", "<|fim_prefix|>", 100258}, {"cl100k", "<|fim_middle|>", 100259}, {"cl100k", "<|fim_suffix|>", 100260},
                  {"cl100k", "<|endofprompt|>", 100276}, {"o200k", "<|endoftext|>", 199999},  {"o200k", "<|endofprompt|>", 200018}};
    am_status st = AM_OK;
    for (size_t i = 0; i < sizeof tokens / sizeof *tokens; i++)
        if (strncmp(file, tokens[i].file, strlen(tokens[i].file)) == 0) AM_TRY(add_special(t, tokens[i].id, tokens[i].name));
done:
    return st;
}

/* Qwen's own tokenizer brings text into NFC first. */
static am_status add_nfc(am_tokenizer *t)
{
    am_status st = AM_OK;
    json_t *form = json_pack("{s:s}", "type", "NFC");
    AM_CHECK(form != NULL, AM_ERR_MEMORY, "the host refused memory");
    AM_TRY(am_tok_load_normalizer(t, form));
done:
    json_decref(form);
    return st;
}

static const char *file_name(const am_tokenizer *t)
{
    const char *slash = strrchr(t->path, '/');
    return slash == NULL ? t->path : slash + 1;
}

am_status am_tok_tiktoken_reserve(am_tokenizer *t)
{
    am_status st = AM_OK;
    enum { RESERVED = 256 };
    bool named[RESERVED] = {false};
    uint32_t first = (uint32_t)t->bpe.names.n;
    if (!t->byte_level || strcmp(file_name(t), "tiktoken.model") != 0) return AM_OK;
    for (size_t i = 0; i < t->num_added; i++)
        if (t->added[i].id >= first && t->added[i].id < first + RESERVED) named[t->added[i].id - first] = true;
    for (uint32_t i = 0; i < RESERVED; i++)
        if (!named[i]) AM_TRY(add_numbered(t, first + i, "<|reserved_token_%d|>", (int)(first + i)));
done:
    return st;
}

am_status am_tok_load_tiktoken(am_tokenizer *t, const char *data, size_t n)
{
    am_status st = AM_OK;
    const char *name = file_name(t);
    size_t k = 0, num = sizeof known / sizeof *known;
    uint32_t next = 0;
    while (k < num && strcmp(known[k].name, name) != 0) k++;
    AM_CHECK(k < num, AM_ERR_MODEL,
             "%s: a tiktoken file does not say how text is split before BPE, and this name is not known (known: tokenizer.model "
             "of Llama 3, qwen.tiktoken, tiktoken.model of Kimi, cl100k_base, o200k_base, r50k_base, p50k_base .tiktoken); "
             "convert it to a tokenizer.json", t->path);
    AM_TRY(begin(t));
    AM_TRY(read_lines(t, data, n, &next));
    AM_TRY(finish(t, known[k].pattern));
    if (strcmp(known[k].family, "llama3") == 0) AM_TRY(llama3_specials(t, next));
    if (strcmp(known[k].family, "qwen") == 0) AM_TRY(qwen_specials(t, next));
    if (strcmp(known[k].family, "qwen") == 0) AM_TRY(add_nfc(t));
    if (strcmp(known[k].family, "openai") == 0) AM_TRY(openai_specials(t, name));
done:
    return st;
}

/* ---- tekken ---- */

static const char *const tekken_specials[] = {
    "<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]", "[/TOOL_RESULTS]",
    "[TOOL_CALLS]", "[IMG]", "<pad>", "[IMG_BREAK]", "[IMG_END]", "[PREFIX]", "[MIDDLE]", "[SUFFIX]", "[SYSTEM_PROMPT]",
    "[/SYSTEM_PROMPT]", "[TOOL_CONTENT]"};

/* Members of one vocab entry: only the bytes and the rank matter. */
static am_status read_tekken_token(am_tokenizer *t, am_json_scan *j, int64_t limit, uint32_t first_id, am_str *raw)
{
    am_status st = AM_OK;
    const char *key, *v;
    size_t n, len;
    int64_t rank = -1;
    bool more = false;
    raw->len = 0;
    AM_TRY(am_json_scan_expect(j, '{'));
    for (bool first = true;; first = false) {
        AM_TRY(am_json_scan_next(j, '}', first, &more));
        if (!more) break;
        AM_TRY(am_json_scan_string(j, &key, &n));
        bool is_rank = n == 4 && memcmp(key, "rank", 4) == 0, is_bytes = n == 11 && memcmp(key, "token_bytes", 11) == 0;
        AM_TRY(am_json_scan_expect(j, ':'));
        if (is_rank) {
            AM_TRY(am_json_scan_integer(j, &rank));
        } else if (is_bytes) {
            AM_TRY(am_json_scan_string(j, &v, &len));
            AM_TRY(am_tok_base64(v, len, raw));
        } else {
            AM_TRY(am_json_scan_skip(j, NULL, NULL));
        }
    }
    if (rank < 0 || rank >= INT32_MAX || raw->len == 0) return am_json_scan_fail(j, "a vocab entry without rank or token_bytes");
    if (rank < limit) AM_TRY(put_bytes(&t->bpe, raw->s, raw->len, first_id + (uint32_t)rank));
done:
    return st;
}

static am_status read_tekken_vocab(am_tokenizer *t, am_json_scan *j, int64_t limit, uint32_t first_id)
{
    am_status st = AM_OK;
    am_str raw = {0};
    bool more = false;
    AM_TRY(am_json_scan_expect(j, '['));
    for (bool first = true;; first = false) {
        AM_TRY(am_json_scan_next(j, ']', first, &more));
        if (!more) break;
        AM_TRY(read_tekken_token(t, j, limit, first_id, &raw));
    }
done:
    am_str_release(&raw);
    return st;
}

static am_status add_tekken_specials(am_tokenizer *t, json_t *list, int64_t num)
{
    am_status st = AM_OK;
    for (int64_t i = 0; i < num; i++) {
        const char *name = i < (int64_t)(sizeof tekken_specials / sizeof *tekken_specials) ? tekken_specials[i] : NULL;
        size_t k;
        json_t *item;
        if (json_is_array(list)) name = NULL;
        json_array_foreach(list, k, item)
            if (json_integer_value(json_object_get(item, "rank")) == i) name = json_string_value(json_object_get(item, "token_str"));
        if (name != NULL) AM_TRY(add_special(t, (uint32_t)i, name));
        else AM_TRY(add_numbered(t, (uint32_t)i, "<SPECIAL_%d>", (int)i));
    }
    t->adds_bos = true;
done:
    return st;
}

am_status am_tok_load_tekken(am_tokenizer *t, const char *data, size_t n)
{
    am_status st = AM_OK;
    am_json_scan j = {.s = data, .p = data, .end = data + n, .path = t->path}, vocab = {0};
    const char *key, *at[2] = {NULL, NULL};
    size_t len, size[2] = {0, 0};
    json_t *config = NULL, *specials = NULL;
    bool more = false;
    AM_CHECK(am_tok_utf8_valid_prefix(data, n) == n, AM_ERR_MODEL, "%s: the file is not UTF-8", t->path);
    AM_TRY(am_json_scan_expect(&j, '{'));
    for (bool first = true;; first = false) {
        AM_TRY(am_json_scan_next(&j, '}', first, &more));
        if (!more) break;
        AM_TRY(am_json_scan_string(&j, &key, &len));
        int part = len == 6 && memcmp(key, "config", 6) == 0 ? 0 : len == 14 && memcmp(key, "special_tokens", 14) == 0 ? 1 : -1;
        bool is_vocab = len == 5 && memcmp(key, "vocab", 5) == 0;
        AM_TRY(am_json_scan_expect(&j, ':'));
        if (is_vocab) {
            am_json_scan_peek(&j);
            vocab = (am_json_scan){.s = data, .p = j.p, .end = data + n, .path = t->path};
        }
        AM_TRY(am_json_scan_skip(&j, part >= 0 ? &at[part] : NULL, part >= 0 ? &size[part] : NULL));
    }
    AM_CHECK(at[0] != NULL && vocab.p != NULL, AM_ERR_MODEL, "%s: tekken without \"config\" or \"vocab\"", t->path);
    AM_TRY(am_json_parse(at[0], size[0], t->path, &config));
    if (at[1] != NULL && *at[1] == '[') AM_TRY(am_json_parse(at[1], size[1], t->path, &specials));
    const char *pattern = json_string_value(json_object_get(config, "pattern"));
    int64_t total = json_integer_value(json_object_get(config, "default_vocab_size"));
    int64_t num = json_integer_value(json_object_get(config, "default_num_special_tokens"));
    AM_CHECK(pattern != NULL && num >= 0 && num <= 65536 && total > num && total < INT32_MAX, AM_ERR_MODEL,
             "%s: config.pattern, default_vocab_size or default_num_special_tokens is missing or out of range", t->path);
    AM_TRY(begin(t));
    AM_TRY(read_tekken_vocab(t, &vocab, total - num, (uint32_t)num));
    AM_TRY(finish(t, pattern));
    AM_TRY(add_tekken_specials(t, specials, num));
done:
    json_decref(config);
    json_decref(specials);
    am_json_scan_release(&j);
    am_json_scan_release(&vocab);
    return st;
}
