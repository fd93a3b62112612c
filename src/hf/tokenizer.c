/* tokenizer: opening a tokenizer.json and asking about it.  The other files, in the order of a text's way:
 * tokenizer_added (added tokens), _normalize, _split (pre-tokenizers; _regex and _onig below it), _vocab, _merges and
 * _bpe (the model), _post (what is added around), _encode (all of it together), _decode.  _text and _utf8 hold what
 * they share, _scan and _json read the file, _roles its neighbours. */
#include "hf/tokenizer_internal.h"

#include "hf/hf.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { MAX_FILE = 1 << 30 };

/* ---- the file ---- */

static struct am_file_state state_of(const struct stat *info)
{
    return (struct am_file_state){(uint64_t)info->st_dev, (uint64_t)info->st_ino, (uint64_t)info->st_size, (int64_t)info->st_mtim.tv_sec,
                                  (int64_t)info->st_mtim.tv_nsec};
}

/* A regular file at once into memory of its size; what grows meanwhile is cut off there. */
static am_status read_regular(FILE *f, const struct stat *info, const char *path, char **out, size_t *n)
{
    am_status st = AM_OK;
    setvbuf(f, NULL, _IONBF, 0);
    AM_TRY(am_tok_table_alloc((size_t)info->st_size + AM_SCAN_SLACK, false, out));
    *n = fread(*out, 1, (size_t)info->st_size, f);
    AM_CHECK(ferror(f) == 0, AM_ERR_IO, "cannot read %s", path);
done:
    return st;
}

am_status am_tok_read_file(const char *path, size_t max_bytes, char **out, size_t *n, struct am_file_state *state)
{
    am_status st = AM_OK;
    struct stat info;
    char *data = NULL;
    FILE *f = NULL;
    bool regular = stat(path, &info) == 0 && S_ISREG(info.st_mode) && (uint64_t)info.st_size <= max_bytes;
    if (regular) {
        f = fopen(path, "rbe");
        AM_CHECK(f != NULL && fstat(fileno(f), &info) == 0, AM_ERR_IO, "cannot open %s: %s", path, strerror(errno));
        AM_TRY(read_regular(f, &info, path, &data, n));
    } else {
        AM_TRY(am_file_read(path, max_bytes, &data, n));
        size_t cap = *n;
        AM_TRY(am_grow(&data, &cap, *n + AM_SCAN_SLACK, 1));
    }
    memset(data + *n, 0, AM_SCAN_SLACK);
    if (state != NULL) *state = regular ? state_of(&info) : (struct am_file_state){0};
    *out = data;
    data = NULL;
done:
    if (f != NULL) (void)fclose(f);
    am_free(&data);
    return st;
}

/* ---- reading keys ---- */

const char *am_tok_type(json_t *j)
{
    const char *s = json_string_value(json_object_get(j, "type"));
    return s == NULL ? "" : s;
}

am_status am_tok_get_bool(const am_tokenizer *t, json_t *j, const char *key, bool def, bool *out)
{
    am_status st = AM_OK;
    json_t *v = json_object_get(j, key);
    *out = def;
    if (v == NULL || json_is_null(v)) return AM_OK;
    AM_CHECK(json_is_boolean(v), AM_ERR_MODEL, "%s: %s.%s is not true or false", t->path, am_tok_type(j),
             key);
    *out = json_is_true(v);
done:
    return st;
}

am_status am_tok_get_string(const am_tokenizer *t, json_t *j, const char *key, const char **out, size_t *n)
{
    am_status st = AM_OK;
    json_t *v = json_object_get(j, key);
    AM_CHECK(json_is_string(v), AM_ERR_MODEL, "%s: %s.%s is missing or no string", t->path, am_tok_type(j),
             key);
    *out = json_string_value(v);
    if (n != NULL) *n = json_string_length(v);
done:
    return st;
}

am_status am_tok_get_pattern(const am_tokenizer *t, json_t *j, const char *key, am_tok_regex *out)
{
    am_status st = AM_OK;
    am_str where = {0};
    json_t *v = json_object_get(j, key), *text = json_object_get(v, "String"),
           *regex = json_object_get(v, "Regex");
    if (json_is_string(v)) text = v; /* older files */
    bool literal = json_is_string(text);
    if (!literal) text = regex;
    AM_CHECK(json_is_string(text) && json_string_length(text) > 0, AM_ERR_MODEL,
             "%s: %s.%s is neither {\"String\": …} nor {\"Regex\": …}", t->path, am_tok_type(j), key);
    AM_TRY(am_str_printf(&where, "%s: %s.%s", t->path, am_tok_type(j), key));
    AM_TRY(am_tok_regex_compile(json_string_value(text), json_string_length(text), literal, where.s, out));
done:
    am_str_release(&where);
    return st;
}

/* ---- added tokens ---- */

/* The id as the library gives it: that of the vocabulary or of an equal token before; else the next free one.
 * What the file says is only compared: a difference means that whoever wrote the file saw another vocabulary. */
static am_status give_id(am_tokenizer *t, am_added *out, int64_t stated)
{
    am_status st = AM_OK;
    if (t->next_id < t->bpe.names.n) t->next_id = t->bpe.names.n;
    out->id = am_bpe_name_id(&t->bpe, out->content, out->len);
    if (out->id == AM_NO_ID) out->id = am_bpe_name_id(&t->added_names, out->content, out->len);
    AM_CHECK(t->next_id < INT32_MAX, AM_ERR_MODEL, "%s: added_tokens: an id beyond 2^31", t->path);
    if (out->id == AM_NO_ID) out->id = (uint32_t)t->next_id;
    if (out->id >= t->next_id) t->next_id = (size_t)out->id + 1;
    AM_TRY(am_bpe_put_token(&t->added_names, out->content, out->len, out->id));
    if (stated != out->id)
        am_log(AM_LOG_WARN, "hf",
               "%s: the added token \"%s\" has another id in the file than the %" PRIu32
               " that the tokenizers library gives it, which is used",
               t->path, out->content, out->id);
done:
    return st;
}

/* Members of one added token; what is absent or null takes its default, other members are not looked at. */
static am_status read_added_member(am_json_scan *j, am_added *out, int64_t *stated, int *normalized)
{
    const char *key;
    size_t n;
    am_status st = AM_OK;
    char name[16];
    AM_TRY(am_json_scan_string(j, &key, &n));
    snprintf(name, sizeof name, "%.*s", (int)(n < sizeof name ? n : 0), key);
    AM_TRY(am_json_scan_expect(j, ':'));
    bool flag = *normalized > 0;
    if (strcmp(name, "content") == 0 && am_json_scan_peek(j) == '"') {
        AM_TRY(am_json_scan_string(j, &key, &n));
        am_free(&out->content);
        AM_TRY(am_strndup(key, n, &out->content));
        out->len = n;
        return AM_OK;
    }
    if (strcmp(name, "special") == 0) return am_json_scan_flag(j, &out->special);
    if (strcmp(name, "single_word") == 0) return am_json_scan_flag(j, &out->single_word);
    if (strcmp(name, "lstrip") == 0) return am_json_scan_flag(j, &out->lstrip);
    if (strcmp(name, "rstrip") == 0) return am_json_scan_flag(j, &out->rstrip);
    if (strcmp(name, "normalized") == 0 && am_json_scan_peek(j) != 'n') {
        AM_TRY(am_json_scan_flag(j, &flag));
        *normalized = flag;
        return AM_OK;
    }
    if (strcmp(name, "id") == 0 && am_json_scan_peek(j) >= '0' && *j->p <= '9') return am_json_scan_integer(j, stated);
    AM_TRY(am_json_scan_skip(j, NULL, NULL));
done:
    return st;
}

static am_status load_added_one(am_tokenizer *t, am_json_scan *j, am_added *out)
{
    am_status st = AM_OK;
    int64_t stated = -1;
    int normalized = -1; /* not said */
    bool more = false;
    AM_TRY(am_json_scan_expect(j, '{'));
    for (bool first = true;; first = false) {
        AM_TRY(am_json_scan_next(j, '}', first, &more));
        if (!more) break;
        AM_TRY(read_added_member(j, out, &stated, &normalized));
    }
    AM_CHECK(out->content != NULL, AM_ERR_MODEL, "%s: added_tokens[%zu].content is missing or no string", t->path, t->num_added - 1);
    AM_CHECK(strlen(out->content) == out->len, AM_ERR_MODEL, "%s: an added token holds a NUL byte", t->path);
    AM_TRY(give_id(t, out, stated));
    out->normalized = normalized < 0 ? !out->special : normalized > 0;
done:
    return st;
}

/* Tokens with `normalized` are looked for in normalised text, and are normalised for that themselves. */
static am_status build_tries(am_tokenizer *t)
{
    am_status st = AM_OK;
    am_tok_scratch *s = NULL;
    AM_TRY(am_tok_scratch_create(t, &s));
    for (size_t i = 0; i < t->num_added; i++) {
        am_added *a = &t->added[i];
        am_view v = {.s = a->content, .n = a->len};
        if (a->normalized) AM_TRY(am_tok_normalize(t, s, &v));
        AM_TRY(am_strndup(v.s, v.n, &a->decoded));
        AM_TRY(am_tok_trie_add(a->normalized ? &t->normalized : &t->raw, v.s, v.n, (int32_t)i));
    }
done:
    am_tok_scratch_free(&s);
    return st;
}

am_status am_tok_add_added(am_tokenizer *t, const char *content, size_t n, uint32_t id, bool special, bool normalized)
{
    am_status st = AM_OK;
    AM_TRY(am_grow(&t->added, &t->added_cap, t->num_added + 1, sizeof *t->added));
    am_added *a = &t->added[t->num_added++];
    AM_TRY(am_strndup(content, n, &a->content));
    AM_TRY(am_strndup(content, n, &a->decoded));
    a->len = n;
    a->id = id;
    a->special = special;
    a->normalized = normalized;
    AM_TRY(am_bpe_put_token(&t->added_names, content, n, id));
    AM_TRY(am_tok_trie_add(normalized ? &t->normalized : &t->raw, content, n, (int32_t)t->num_added - 1));
done:
    return st;
}

/* @param whole  the file; the list begins at `at`, NULL: there is none */
static am_status load_added(am_tokenizer *t, const am_json_scan *whole, const char *at)
{
    am_status st = AM_OK;
    am_json_scan j = {.s = whole->s, .p = at, .end = whole->end, .path = t->path};
    bool more = false;
    if (at == NULL || *at == 'n') return AM_OK;
    AM_CHECK(*at == '[', AM_ERR_MODEL, "%s: added_tokens is not an array", t->path);
    AM_TRY(am_json_scan_expect(&j, '['));
    for (bool first = true;; first = false) {
        AM_TRY(am_json_scan_next(&j, ']', first, &more));
        if (!more) break;
        AM_TRY(am_grow(&t->added, &t->added_cap, t->num_added + 1, sizeof *t->added));
        AM_TRY(load_added_one(t, &j, &t->added[t->num_added++]));
    }
    AM_TRY(build_tries(t));
done:
    am_json_scan_release(&j);
    return st;
}

/* ---- id → spelling ---- */

static am_status check_ids(const am_tokenizer *t)
{
    am_status st = AM_OK;
    for (size_t i = 0; i < t->num_prefix + t->num_suffix; i++) {
        uint32_t id = i < t->num_prefix ? t->prefix[i] : t->suffix[i - t->num_prefix];
        AM_CHECK(id < t->vocab_size, AM_ERR_MODEL, "%s: post_processor: the id %" PRIu32 " is no token",
                 t->path, id);
    }
done:
    return st;
}

static am_status index_ids(am_tokenizer *t)
{
    am_status st = AM_OK;
    const am_bytes_map *names = &t->bpe.names;
    for (size_t i = 0; i < names->n; i++)
        if (names->entry[i].id >= t->vocab_size) t->vocab_size = (size_t)names->entry[i].id + 1;
    for (size_t i = 0; i < t->num_added; i++)
        if (t->added[i].id >= t->vocab_size) t->vocab_size = (size_t)t->added[i].id + 1;
    AM_CHECK(t->vocab_size <= 64 * (names->n + t->num_added) + 65536, AM_ERR_MODEL,
             "%s: an id of %zu in a vocabulary of %zu tokens", t->path, t->vocab_size - 1,
             names->n + t->num_added);
    AM_TRY(am_calloc(t->vocab_size, sizeof *t->token, &t->token));
    am_tok_touch(t->token, t->vocab_size * sizeof *t->token);
    for (size_t i = 0; i < names->n; i++) {
        const char *name = t->bpe.arena + names->entry[i].off;
        t->token[names->entry[i].id] = (struct am_token_text){name, name, names->entry[i].len, false};
    }
    for (size_t i = 0; i < t->num_added; i++) {
        const am_added *a = &t->added[i];
        bool special = a->special || t->token[a->id].special;
        t->token[a->id] = (struct am_token_text){a->content, a->decoded, (uint32_t)strlen(a->decoded), special};
    }
    AM_TRY(check_ids(t));
done:
    return st;
}

const char *am_tokenizer_path(const am_tokenizer *t)
{
    return t->path;
}

am_status am_tokenizer_sha256(const am_tokenizer *t, char out[65])
{
    am_status st = AM_OK;
    struct am_file_state now;
    struct stat info;
    if (t->sha256[0] != '\0') {
        memcpy(out, t->sha256, 65);
        return AM_OK;
    }
    AM_TRY(am_sha256_file_hex(t->path, out));
    AM_CHECK(stat(t->path, &info) == 0, AM_ERR_IO, "%s: %s", t->path, strerror(errno));
    now = state_of(&info);
    AM_CHECK(memcmp(&now, &t->state, sizeof now) == 0, AM_ERR_IO,
             "%s has been written since it was opened; start again", t->path);
done:
    return st;
}

int64_t am_tokenizer_vocab_size(const am_tokenizer *t)
{
    return (int64_t)t->vocab_size;
}

int64_t am_tokenizer_added_from(const am_tokenizer *t, int64_t id)
{
    int64_t n = 0;
    for (size_t i = 0; i < t->num_added; i++) n += (int64_t)t->added[i].id >= id;
    return n;
}

const char *am_tokenizer_token(const am_tokenizer *t, int64_t id)
{
    return id >= 0 && (uint64_t)id < t->vocab_size ? t->token[id].spelled : NULL;
}

bool am_tokenizer_is_special(const am_tokenizer *t, int64_t id)
{
    return id >= 0 && (uint64_t)id < t->vocab_size && t->token[id].special;
}

bool am_tokenizer_id(const am_tokenizer *t, const char *token, int64_t *id)
{
    uint32_t found = am_bpe_name_id(&t->added_names, token, strlen(token));
    if (found == AM_NO_ID) found = am_bpe_name_id(&t->bpe, token, strlen(token));
    if (found != AM_NO_ID) *id = found;
    return found != AM_NO_ID;
}

bool am_tokenizer_role_id(const am_tokenizer *t, const char *role, int64_t *id)
{
    const char *token = json_string_value(json_object_get(t->roles, role));
    return token != NULL && am_tokenizer_id(t, token, id);
}

/* ---- open ---- */

static bool exists_in(const char *dir, const char *name)
{
    char *path = NULL;
    bool found = am_path_join(dir, name, &path) == AM_OK && am_path_exists(path);
    am_free(&path);
    return found;
}

/* Where a directory has several, the first of these counts. */
static const char *const file_names[] = {"tokenizer.json", "tekken.json", "tokenizer.model", "tiktoken.model", "qwen.tiktoken",
                                         "spiece.model", "sentencepiece.bpe.model"};

/* The file meant by `path`, and its folder. */
static am_status locate(const char *path, char **file, char **dir)
{
    am_status st = AM_OK;
    struct stat info;
    AM_CHECK(stat(path, &info) == 0, AM_ERR_MODEL, "%s: no such file or folder", path);
    if (!S_ISDIR(info.st_mode)) {
        const char *slash = strrchr(path, '/');
        AM_TRY(am_strdup(path, file));
        AM_TRY(am_strndup(slash == NULL ? "." : path,
                          slash == NULL || slash == path ? 1 : (size_t)(slash - path), dir));
        return AM_OK;
    }
    AM_TRY(am_strdup(path, dir));
    for (size_t i = 0; i < sizeof file_names / sizeof *file_names; i++) {
        if (!exists_in(path, file_names[i])) continue;
        return am_path_join(path, file_names[i], file);
    }
    AM_CHECK(!exists_in(path, "merges.txt"), AM_ERR_MODEL,
             "%s has merges.txt but no tokenizer.json; transformers writes it: "
             "AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR)", path);
    AM_FAIL(AM_ERR_MODEL, "%s has no tokenizer.json (nor tekken.json, tokenizer.model, tiktoken.model, qwen.tiktoken, spiece.model)",
            path);
done:
    return st;
}

enum { PART_NORM, PART_PRE, PART_POST, PART_DECODER, PART_ADDED, PARTS };

static const char *const part_names[PARTS] = {"normalizer", "pre_tokenizer", "post_processor", "decoder", "added_tokens"};

static am_status load_part(am_tokenizer *t, int part, json_t *j)
{
    switch (part) {
    case PART_NORM:
        return am_tok_load_normalizer(t, j);
    case PART_PRE:
        return am_tok_load_pre(t, j);
    case PART_POST:
        return am_tok_load_post(t, j);
    default:
        return am_tok_load_decoder(t, j);
    }
}

/* Small parts become a tree: text is the value alone, so it is wrapped to be a document. */
static am_status parse_part(am_tokenizer *t, int part, const char *text, size_t n)
{
    am_status st = AM_OK;
    am_str name = {0}, whole = {0};
    json_t *j = NULL;
    if (text == NULL) return AM_OK;
    AM_TRY(am_str_printf(&name, "%s (%s)", t->path, part_names[part]));
    AM_TRY(am_str_append(&whole, "[", 1));
    AM_TRY(am_str_append(&whole, text, n));
    AM_TRY(am_str_append(&whole, "]", 1));
    AM_TRY(am_json_parse(whole.s, whole.len, name.s, &j));
    AM_TRY(load_part(t, part, json_array_get(j, 0)));
done:
    json_decref(j);
    am_str_release(&name);
    am_str_release(&whole);
    return st;
}

typedef struct file_parts {
    const char *at[PARTS];
    size_t n[PARTS];
    bool model, pre;
} file_parts;

static am_status load_member(am_tokenizer *t, am_json_scan *j, const char *key, size_t n, file_parts *f)
{
    am_status st = AM_OK;
    if (n == 5 && memcmp(key, "model", 5) == 0) {
        AM_CHECK(!f->model, AM_ERR_MODEL, "%s: \"model\" stands twice", t->path);
        f->model = true;
        t->bpe.byte_mode = t->byte_level;
        return am_tok_load_model(t, j);
    }
    for (int i = 0; i < PARTS; i++) {
        if (n != strlen(part_names[i]) || memcmp(key, part_names[i], n) != 0) continue;
        AM_TRY(am_json_scan_skip(j, &f->at[i], &f->n[i]));
        if (i != PART_PRE) return AM_OK;
        AM_CHECK(!f->pre, AM_ERR_MODEL, "%s: \"pre_tokenizer\" stands twice", t->path);
        f->pre = true;
        return parse_part(t, PART_PRE, f->at[i], f->n[i]); /* at once: the model wants to know whether it works on bytes */
    }
    AM_TRY(am_json_scan_skip(j, NULL, NULL));
done:
    return st;
}

/* The rest, once all that the file says is known. */
static am_status finish_load(am_tokenizer *t, const am_json_scan *j, const file_parts *f)
{
    am_status st = AM_OK;
    AM_TRY(parse_part(t, PART_NORM, f->at[PART_NORM], f->n[PART_NORM]));
    t->bpe.byte_mode = t->byte_level;
    AM_TRY(am_bpe_finish(&t->bpe, t->path));
    AM_TRY(parse_part(t, PART_POST, f->at[PART_POST], f->n[PART_POST]));
    AM_TRY(parse_part(t, PART_DECODER, f->at[PART_DECODER], f->n[PART_DECODER]));
    AM_TRY(load_added(t, j, f->at[PART_ADDED]));
    AM_TRY(index_ids(t));
done:
    return st;
}

static am_status load_all(am_tokenizer *t, const char *text, size_t n)
{
    am_status st = AM_OK;
    am_json_scan j = {.path = t->path};
    file_parts f = {0};
    const char *key;
    size_t len;
    bool more = false;
    AM_TRY(am_json_scan_begin(&j, text, n));
    AM_CHECK(am_json_scan_peek(&j) == '{', AM_ERR_MODEL, "%s: not a JSON object", t->path);
    AM_TRY(am_json_scan_expect(&j, '{'));
    for (bool first = true;; first = false) {
        AM_TRY(am_json_scan_next(&j, '}', first, &more));
        if (!more) break;
        AM_TRY(am_json_scan_string(&j, &key, &len));
        AM_TRY(am_json_scan_expect(&j, ':'));
        AM_TRY(load_member(t, &j, key, len, &f));
    }
    AM_TRY(am_json_scan_finish(&j));
    AM_CHECK(f.model, AM_ERR_MODEL, "%s: no \"model\"", t->path);
    AM_TRY(finish_load(t, &j, &f));
done:
    am_json_scan_release(&j);
    return st;
}

/* ---- files other than tokenizer.json ---- */

/* tokenizer_config.json: added_tokens_decoder {"128000": {"content": …, "special": …}}; Kimi's files name their tokens there. */
static am_status add_configured(am_tokenizer *t, json_t *config)
{
    am_status st = AM_OK;
    const char *key;
    json_t *v;
    json_object_foreach(json_object_get(config, "added_tokens_decoder"), key, v)
    {
        const char *content = json_string_value(json_object_get(v, "content"));
        int64_t id = -1;
        AM_CHECK(am_parse_i64(key, &id) && id >= 0 && id < INT32_MAX && content != NULL && content[0] != '\0', AM_ERR_MODEL,
                 "%s: added_tokens_decoder of tokenizer_config.json: \"%s\" is no id with a content", t->path, key);
        if (am_bpe_name_id(&t->added_names, content, strlen(content)) != AM_NO_ID) continue;
        AM_TRY(am_tok_add_added(t, content, strlen(content), (uint32_t)id, json_is_true(json_object_get(v, "special")), false));
    }
done:
    return st;
}

/* The token of a role: as configured, else as these files name it. */
static am_status edge_token(am_tokenizer *t, json_t *roles, const char *role, const char *const *names, uint32_t *id)
{
    am_status st = AM_OK;
    const char *name = json_string_value(json_object_get(roles, role));
    int64_t found = -1;
    *id = AM_NO_ID;
    for (; name == NULL && *names != NULL; names++)
        if (am_tokenizer_id(t, *names, &found)) name = *names;
    if (name == NULL || !am_tokenizer_id(t, name, &found)) return AM_OK;
    *id = (uint32_t)found;
    AM_CHECK(json_object_set_new(roles, role, json_string(name)) == 0, AM_ERR_MEMORY, "the host refused memory");
done:
    return st;
}

/* add_bos_token and add_eos_token of tokenizer_config.json; BPE files have a BOS where nothing is said. */
static am_status add_edges(am_tokenizer *t, json_t *config)
{
    static const char *const bos_names[] = {"<s>", "<bos>", "<|begin_of_text|>", NULL};
    static const char *const eos_names[] = {"</s>", "<eos>", "<|end_of_text|>", "<|endoftext|>", NULL};
    am_status st = AM_OK;
    uint32_t bos, eos;
    json_t *b = json_object_get(config, "add_bos_token"), *e = json_object_get(config, "add_eos_token");
    AM_TRY(edge_token(t, t->roles, "bos_token", bos_names, &bos));
    AM_TRY(edge_token(t, t->roles, "eos_token", eos_names, &eos));
    if (bos != AM_NO_ID && (json_is_boolean(b) ? json_is_true(b) : t->adds_bos)) {
        AM_TRY(am_grow(&t->prefix, &t->prefix_cap, 1, sizeof *t->prefix));
        t->prefix[t->num_prefix++] = bos;
    }
    if (eos != AM_NO_ID && json_is_true(e)) {
        AM_TRY(am_grow(&t->suffix, &t->suffix_cap, 1, sizeof *t->suffix));
        t->suffix[t->num_suffix++] = eos;
    }
done:
    return st;
}

static am_status load_other(am_tokenizer *t, const char *dir, const char *text, size_t n)
{
    am_status st = AM_OK;
    char *path = NULL;
    json_t *config = NULL;
    size_t len = strlen(t->path);
    if (len > 5 && strcmp(t->path + len - 5, ".json") == 0) AM_TRY(am_tok_load_tekken(t, text, n));
    else if (am_tok_looks_like_tiktoken(text, n)) AM_TRY(am_tok_load_tiktoken(t, text, n));
    else AM_TRY(am_tok_load_spm(t, text, n));
    AM_TRY(am_path_join(dir, "tokenizer_config.json", &path));
    if (am_path_exists(path)) AM_TRY(am_json_load(path, 0, &config));
    AM_TRY(add_configured(t, config));
    AM_TRY(am_tok_tiktoken_reserve(t));
    AM_TRY(index_ids(t));
    AM_TRY(add_edges(t, config));
done:
    json_decref(config);
    am_free(&path);
    return st;
}

/* tekken.json by name, tokenizer.json by any other that ends in .json; the rest is told apart by its bytes. */
static bool is_tokenizer_json(const char *path, const char *text, size_t n)
{
    const char *slash = strrchr(path, '/'), *name = slash == NULL ? path : slash + 1;
    size_t len = strlen(name), i = 0;
    if (strncmp(name, "tekken", 6) == 0) return false;
    while (i < n && (text[i] == ' ' || text[i] == '\n' || text[i] == '\r' || text[i] == '\t')) i++;
    return (len > 5 && strcmp(name + len - 5, ".json") == 0) || (i < n && text[i] == '{');
}

am_status am_tokenizer_open(const char *path, am_tokenizer **out)
{
    am_status st = AM_OK;
    am_tokenizer *t = NULL;
    char *dir = NULL, *text = NULL;
    size_t n = 0;
    *out = NULL;
    AM_TRY(am_calloc(1, sizeof *t, &t));
    AM_TRY(locate(path, &t->path, &dir));
    AM_TRY(am_tok_read_file(t->path, MAX_FILE, &text, &n, &t->state));
    if (t->state.inode == 0) AM_TRY(am_sha256_hex(text, n, t->sha256));
    AM_TRY(am_tok_load_roles(dir, &t->roles));
    AM_TRY(is_tokenizer_json(t->path, text, n) ? load_all(t, text, n) : load_other(t, dir, text, n));
    AM_TRY(am_bpe_index_bytes(&t->bpe));
    *out = t;
    t = NULL;
done:
    am_free(&text);
    am_free(&dir);
    am_tokenizer_free(&t);
    return st;
}

void am_tokenizer_free(am_tokenizer **p)
{
    am_tokenizer *t = *p;
    if (t == NULL) return;
    for (size_t i = 0; i < t->num_norm; i++) am_tok_norm_release(&t->norm[i]);
    for (size_t i = 0; i < t->pre_cap; i++) am_tok_pre_release(&t->pre[i]);
    for (size_t i = 0; i < t->num_dec; i++) am_tok_dec_release(&t->dec[i]);
    for (size_t i = 0; i < t->num_added; i++) {
        am_free(&t->added[i].content);
        am_free(&t->added[i].decoded);
    }
    am_free(&t->norm);
    am_free(&t->pre);
    am_free(&t->dec);
    am_free(&t->added);
    am_tok_trie_release(&t->raw);
    am_tok_trie_release(&t->normalized);
    am_bpe_release(&t->bpe);
    am_bpe_release(&t->added_names);
    am_unigram_release(&t->unigram);
    am_free(&t->wordpiece.prefix);
    am_free(&t->prefix);
    am_free(&t->suffix);
    am_free(&t->token);
    am_free(&t->path);
    json_decref(t->roles);
    am_free(p);
}
