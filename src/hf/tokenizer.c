/* tokenizer: opening a tokenizer.json and asking about it.  The other files, in the order of a text's way:
 * tokenizer_added (added tokens), _normalize, _split (pre-tokenizers; _regex and _onig below it), _vocab and
 * _bpe (the model), _post (what is added around), _encode (all of it together), _decode.  _text holds what
 * they share. */
#include "hf/tokenizer_internal.h"

#include "hf/hf.h"

#include <string.h>
#include <sys/stat.h>

enum { MAX_FILE = 1 << 30 };

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
 * What the file says is only compared: a difference means that whoever wrote the file saw another vocabulary.
 */
static am_status give_id(const am_tokenizer *t, am_added *out, json_t *stated)
{
    am_status st = AM_OK;
    size_t next = t->bpe.names.n;
    out->id = am_bpe_name_id(&t->bpe, out->content, out->len);
    for (const am_added *a = t->added; a < out; a++) {
        if (a->len == out->len && memcmp(a->content, out->content, a->len) == 0) out->id = a->id;
        if (a->id >= next) next = (size_t)a->id + 1;
    }
    AM_CHECK(next < INT32_MAX, AM_ERR_MODEL, "%s: added_tokens: an id beyond 2^31", t->path);
    if (out->id == AM_NO_ID) out->id = (uint32_t)next;
    if (!json_is_integer(stated) || json_integer_value(stated) != out->id)
        am_log(AM_LOG_WARN, "hf",
               "%s: the added token \"%s\" has another id in the file than the %" PRIu32
               " that the tokenizers library gives it, which is used",
               t->path, out->content, out->id);
done:
    return st;
}

static am_status load_added_one(am_tokenizer *t, json_t *j, am_added *out)
{
    am_status st = AM_OK;
    const char *content = NULL;
    AM_TRY(am_tok_get_string(t, j, "content", &content, &out->len));
    AM_CHECK(strlen(content) == out->len, AM_ERR_MODEL, "%s: an added token holds a NUL byte", t->path);
    AM_TRY(am_strdup(content, &out->content));
    AM_TRY(give_id(t, out, json_object_get(j, "id")));
    AM_TRY(am_tok_get_bool(t, j, "special", false, &out->special));
    AM_TRY(am_tok_get_bool(t, j, "normalized", !out->special, &out->normalized));
    AM_TRY(am_tok_get_bool(t, j, "single_word", false, &out->single_word));
    AM_TRY(am_tok_get_bool(t, j, "lstrip", false, &out->lstrip));
    AM_TRY(am_tok_get_bool(t, j, "rstrip", false, &out->rstrip));
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

static am_status load_added(am_tokenizer *t, json_t *list)
{
    am_status st = AM_OK;
    size_t i;
    json_t *item;
    if (list == NULL || json_is_null(list)) return AM_OK;
    AM_CHECK(json_is_array(list), AM_ERR_MODEL, "%s: added_tokens is not an array", t->path);
    json_array_foreach(list, i, item)
    {
        AM_TRY(am_grow(&t->added, &t->added_cap, t->num_added + 1, sizeof *t->added));
        AM_TRY(load_added_one(t, item, &t->added[t->num_added++]));
    }
    AM_TRY(build_tries(t));
done:
    return st;
}

/* ---- id → spelling ---- */

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
    AM_TRY(am_calloc(t->vocab_size, sizeof *t->decoded, &t->decoded));
    AM_TRY(am_calloc(t->vocab_size, 1, &t->special));
    for (size_t i = 0; i < names->n; i++) {
        t->token[names->entry[i].id] = t->bpe.arena + names->entry[i].off;
        t->decoded[names->entry[i].id] = t->token[names->entry[i].id];
    }
    for (size_t i = 0; i < t->num_added; i++) {
        t->token[t->added[i].id] = t->added[i].content;
        t->decoded[t->added[i].id] = t->added[i].decoded;
        t->special[t->added[i].id] |= t->added[i].special;
    }
    for (size_t i = 0; i < t->num_prefix + t->num_suffix; i++) {
        uint32_t id = i < t->num_prefix ? t->prefix[i] : t->suffix[i - t->num_prefix];
        AM_CHECK(id < t->vocab_size, AM_ERR_MODEL, "%s: post_processor: the id %" PRIu32 " is no token",
                 t->path, id);
    }
done:
    return st;
}

const char *am_tokenizer_path(const am_tokenizer *t)
{
    return t->path;
}
const char *am_tokenizer_sha256(const am_tokenizer *t)
{
    return t->sha256;
}
int64_t am_tokenizer_vocab_size(const am_tokenizer *t)
{
    return (int64_t)t->vocab_size;
}

const char *am_tokenizer_token(const am_tokenizer *t, int64_t id)
{
    return id >= 0 && (uint64_t)id < t->vocab_size ? t->token[id] : NULL;
}

bool am_tokenizer_is_special(const am_tokenizer *t, int64_t id)
{
    return id >= 0 && (uint64_t)id < t->vocab_size && t->special[id] != 0;
}

bool am_tokenizer_id(const am_tokenizer *t, const char *token, int64_t *id)
{
    for (size_t i = 0; i < t->num_added; i++) {
        if (strcmp(t->added[i].content, token) != 0) continue;
        *id = t->added[i].id;
        return true;
    }
    uint32_t found = am_bpe_name_id(&t->bpe, token, strlen(token));
    if (found != AM_NO_ID) *id = found;
    return found != AM_NO_ID;
}

bool am_tokenizer_role_id(const am_tokenizer *t, const char *role, int64_t *id)
{
    const char *token = json_string_value(json_object_get(t->roles, role));
    return token != NULL && am_tokenizer_id(t, token, id);
}

/* ---- roles of tokens: "eos_token" → "<|im_end|>" ---- */

static am_status add_roles(json_t *from, json_t *roles)
{
    am_status st = AM_OK;
    const char *key;
    json_t *v;
    json_object_foreach(from, key, v)
    {
        size_t n = strlen(key);
        if (json_is_object(v) && strcmp(key, "extra_special_tokens") == 0) AM_TRY(add_roles(v, roles));
        if (n < 6 || strcmp(key + n - 6, "_token") != 0 || json_object_get(roles, key) != NULL) continue;
        json_t *text = json_is_object(v) ? json_object_get(v, "content") : v;
        if (!json_is_string(text)) continue;
        AM_CHECK(json_object_set(roles, key, text) == 0, AM_ERR_MEMORY, "the host refused memory");
    }
done:
    return st;
}

am_status am_tok_load_roles(const char *dir, json_t **out)
{
    static const char *const files[] = {"tokenizer_config.json", "special_tokens_map.json"};
    am_status st = AM_OK;
    json_t *roles = json_object(), *j = NULL;
    char *path = NULL;
    AM_CHECK(roles != NULL, AM_ERR_MEMORY, "the host refused memory");
    for (int i = 0; i < 2; i++) {
        AM_TRY(am_path_join(dir, files[i], &path));
        if (am_path_exists(path)) {
            AM_TRY(am_json_load(path, 0, &j));
            AM_TRY(add_roles(j, roles));
            json_decref(j);
            j = NULL;
        }
        am_free(&path);
    }
    *out = roles;
    roles = NULL;
done:
    am_free(&path);
    json_decref(j);
    json_decref(roles);
    return st;
}

/* ---- open ---- */

static bool exists_in(const char *dir, const char *name)
{
    char *path = NULL;
    bool found = am_path_join(dir, name, &path) == AM_OK && am_path_exists(path);
    am_free(&path);
    return found;
}

/* The tokenizer.json meant by `path`, and its folder. */
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
    AM_TRY(am_path_join(path, "tokenizer.json", file));
    if (am_path_exists(*file)) return AM_OK;
    const char *other = exists_in(path, "tokenizer.model") ? "tokenizer.model"
                        : exists_in(path, "merges.txt")    ? "merges.txt"
                        : exists_in(path, "spiece.model")  ? "spiece.model"
                                                           : NULL;
    AM_CHECK(other == NULL, AM_ERR_MODEL,
             "%s has %s but no tokenizer.json; transformers writes it: "
             "AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR)",
             path, other);
    AM_FAIL(AM_ERR_MODEL, "%s has no tokenizer.json", path);
done:
    return st;
}

static am_status check_model(const am_tokenizer *t, json_t *model)
{
    am_status st = AM_OK;
    const char *type = am_tok_type(model);
    AM_CHECK(json_is_object(model), AM_ERR_MODEL, "%s: no \"model\"", t->path);
    bool bpe =
        strcmp(type, "BPE") == 0 || (type[0] == '\0' && json_is_array(json_object_get(model, "merges")));
    AM_CHECK(bpe, AM_ERR_MODEL, "%s: the model type \"%s\" is not supported (supported: BPE)", t->path, type);
done:
    return st;
}

static am_status load_all(am_tokenizer *t, json_t *j)
{
    am_status st = AM_OK;
    json_t *model = json_object_get(j, "model");
    AM_CHECK(json_is_object(j), AM_ERR_MODEL, "%s: not a JSON object", t->path);
    AM_TRY(check_model(t, model));
    AM_TRY(am_tok_load_normalizer(t, json_object_get(j, "normalizer")));
    AM_TRY(am_tok_load_pre(t, json_object_get(j, "pre_tokenizer")));
    AM_TRY(am_bpe_load(model, t->byte_level, t->path, &t->bpe));
    AM_TRY(am_tok_load_post(t, json_object_get(j, "post_processor")));
    AM_TRY(am_tok_load_decoder(t, json_object_get(j, "decoder")));
    AM_TRY(load_added(t, json_object_get(j, "added_tokens")));
    AM_TRY(index_ids(t));
done:
    return st;
}

am_status am_tokenizer_open(const char *path, am_tokenizer **out)
{
    am_status st = AM_OK;
    am_tokenizer *t = NULL;
    char *dir = NULL, *text = NULL;
    size_t n = 0;
    json_t *j = NULL;
    *out = NULL;
    AM_TRY(am_calloc(1, sizeof *t, &t));
    AM_TRY(locate(path, &t->path, &dir));
    AM_TRY(am_file_read(t->path, MAX_FILE, &text, &n));
    AM_TRY(am_sha256_hex(text, n, t->sha256));
    AM_TRY(am_json_parse(text, n, t->path, &j));
    AM_TRY(load_all(t, j));
    AM_TRY(am_tok_load_roles(dir, &t->roles));
    *out = t;
    t = NULL;
done:
    json_decref(j);
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
    am_free(&t->prefix);
    am_free(&t->suffix);
    am_free(&t->token);
    am_free(&t->decoded);
    am_free(&t->special);
    am_free(&t->path);
    json_decref(t->roles);
    am_free(p);
}
