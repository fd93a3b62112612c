/* tokenizer, "model" of a tokenizer.json: read as a stream into the tables.  Keys may come in any order; what a merge means
 * depends on the vocabulary and on the prefix of continued words, so merges that come before these are read afterwards. */
#include "hf/tokenizer_internal.h"

typedef struct model_keys {
    am_tokenizer *t;
    am_json_scan *j;
    char   type[24];
    bool   vocab, list, merges, read; /* seen; vocab is a list (Unigram); merges have been read */
    am_json_scan merges_at;
    size_t merges_prefix; /* length of the prefix when they were read */
    char  *unk_token;
    int64_t unk_id, max_chars;
    double dropout, alpha;
    size_t dropout_at;
} model_keys;

/* ---- vocab ---- */

/* The digits of an id, where that is all there is to it; −1: anything else. */
static int64_t plain_id(am_json_scan *j)
{
    const char *p = j->p;
    int64_t id = 0;
    if (am_json_scan_peek(j) < '0' || *j->p > '9') return -1;
    for (p = j->p; *p >= '0' && *p <= '9' && p < j->p + 10; p++) id = id * 10 + (*p - '0');
    if (id >= INT32_MAX || (*p != ',' && *p != '}' && *p != '\n' && *p != '\r' && *p != ' ')) return -1;
    j->p = p;
    return id;
}

static am_status read_id(am_json_scan *j, const char *name, size_t n, int64_t *id)
{
    am_status st = AM_OK;
    *id = plain_id(j);
    if (*id < 0 && (am_json_scan_integer(j, id) != AM_OK || *id < 0 || *id >= INT32_MAX))
        AM_FAIL(AM_ERR_MODEL, "%s: model.vocab gives \"%.*s\" an id that is no number from 0 up", j->path, (int)n, name);
done:
    return st;
}

static am_status read_names(model_keys *k)
{
    am_status st = AM_OK;
    am_json_scan *j = k->j;
    const char *name;
    size_t n;
    int64_t id;
    bool more = false;
    AM_TRY(am_json_scan_expect(j, '{'));
    for (bool first = true;; first = false) {
        if (first || !am_json_scan_takes(j, ',')) AM_TRY(am_json_scan_next(j, '}', first, &more));
        if (!more) break;
        if (!am_json_scan_simple(j, &name, &n)) AM_TRY(am_json_scan_string(j, &name, &n));
        if (!am_json_scan_takes(j, ':')) AM_TRY(am_json_scan_expect(j, ':'));
        AM_TRY(read_id(j, name, n, &id));
        AM_TRY(am_bpe_append_token(&k->t->bpe, name, n, (uint32_t)id));
    }
done:
    return st;
}

/* [["token", score], …]: the id is the place. */
static am_status read_scored(model_keys *k)
{
    am_status st = AM_OK;
    am_json_scan *j = k->j;
    am_unigram *u = &k->t->unigram;
    const char *name;
    size_t n;
    bool more = false;
    AM_TRY(am_json_scan_expect(j, '['));
    for (bool first = true;; first = false) {
        AM_TRY(am_json_scan_next(j, ']', first, &more));
        if (!more) break;
        AM_TRY(am_json_scan_expect(j, '['));
        AM_TRY(am_json_scan_string(j, &name, &n));
        AM_TRY(am_bpe_append_token(&k->t->bpe, name, n, (uint32_t)u->num_scores));
        AM_TRY(am_json_scan_expect(j, ','));
        AM_TRY(am_grow(&u->score, &u->score_cap, u->num_scores + 1, sizeof *u->score));
        AM_TRY(am_json_scan_number(j, &u->score[u->num_scores++]));
        AM_TRY(am_json_scan_expect(j, ']'));
    }
done:
    return st;
}

/* ---- merges ---- */

typedef struct merge_text {
    const char *a, *b;
    size_t na, nb;
    bool good, kept; /* well formed; both halves lie in the file */
} merge_text;

static void cut_at_space(const char *s, size_t n, merge_text *m)
{
    const char *end = s + n, *space = am_scan_space(s, end);
    m->good = space != NULL && am_scan_space(space + 1, end) == NULL;
    m->a = s;
    m->b = space == NULL ? end : space + 1;
    m->na = space == NULL ? n : (size_t)(space - s);
    m->nb = (size_t)(end - m->b);
}

static am_status read_half(am_json_scan *j, const char **s, size_t *n, merge_text *m)
{
    m->kept = m->kept && am_json_scan_simple(j, s, n);
    return m->kept ? AM_OK : am_json_scan_string(j, s, n);
}

/* The halves of one merge, in either spelling. */
static am_status read_merge(am_json_scan *j, merge_text *m)
{
    am_status st = AM_OK;
    const char *s;
    size_t n;
    m->good = false;
    m->kept = true;
    if (am_json_scan_takes(j, '[')) {
        if (am_json_scan_peek(j) != '"') return AM_OK;
        AM_TRY(read_half(j, &m->a, &m->na, m));
        if (!am_json_scan_takes(j, ',') || am_json_scan_peek(j) != '"') return AM_OK;
        AM_TRY(read_half(j, &m->b, &m->nb, m));
        m->good = am_json_scan_takes(j, ']');
        return AM_OK;
    }
    if (am_json_scan_peek(j) != '"') return AM_OK;
    AM_TRY(read_half(j, &s, &n, m));
    cut_at_space(s, n, m);
done:
    return st;
}

/* Strings from here to the end of the file: one a merge, or two where merges are pairs. */
static size_t merges_at_most(const am_json_scan *j)
{
    size_t quotes = 0;
    for (const char *c = j->p, *stop; c < j->end; c = stop) {
        unsigned char n = 0; /* narrow, so that 16 bytes are counted at a time */
        for (stop = j->end - c < 240 ? j->end : c + 240; c < stop; c++) n = (unsigned char)(n + (*c == '"'));
        quotes += n;
    }
    return quotes / (*am_scan_blanks(j->p + 1) == '[' ? 4 : 2);
}

static am_status add_merge(model_keys *k, am_merge_batch *m, const merge_text *text)
{
    am_status st = AM_OK;
    am_bpe *b = &k->t->bpe;
    if (!text->kept) AM_TRY(am_bpe_batch_flush(b, m, k->j->path));
    AM_TRY(am_bpe_batch_add(b, m, text->a, text->na, text->b, text->nb, k->j->path));
    if (!text->kept) AM_TRY(am_bpe_batch_flush(b, m, k->j->path));
done:
    return st;
}

static am_status read_merges(model_keys *k)
{
    am_status st = AM_OK;
    am_json_scan *j = k->j;
    am_merge_batch *m = NULL;
    merge_text text = {.a = "", .b = ""};
    size_t count = 0;
    bool more = false;
    if (am_json_scan_peek(j) != '[') return am_fail(AM_ERR_MODEL, "%s: model.merges is not an array", j->path);
    AM_TRY(am_calloc(1, sizeof *m, &m));
    AM_TRY(am_bpe_pairs_reserve(&k->t->bpe, merges_at_most(j)));
    AM_TRY(am_json_scan_expect(j, '['));
    for (bool first = true;; first = false, count++) {
        if (first || !am_json_scan_takes(j, ',')) AM_TRY(am_json_scan_next(j, ']', first, &more));
        if (!more) break;
        AM_TRY(read_merge(j, &text));
        AM_CHECK(text.good, AM_ERR_MODEL, "%s: model.merges[%zu] is neither \"a b\" nor [\"a\", \"b\"]", j->path, count);
        AM_TRY(add_merge(k, m, &text));
    }
    AM_TRY(am_bpe_batch_flush(&k->t->bpe, m, j->path));
    k->read = true;
    k->merges_prefix = k->t->bpe.prefix_len;
done:
    if (m != NULL) am_str_release(&m->joined);
    am_free(&m);
    return st;
}

/* Merges that were not read when they came, or read without the prefix that came later. */
static am_status read_merges_late(model_keys *k)
{
    am_status st = AM_OK;
    am_json_scan here = *k->j;
    if (!k->merges || (k->read && k->merges_prefix == k->t->bpe.prefix_len)) return AM_OK;
    am_free(&k->t->bpe.pair);
    k->t->bpe.num_pairs = k->t->bpe.pair_mask = 0;
    k->j->p = k->merges_at.p;
    AM_TRY(read_merges(k));
    k->j->p = here.p;
done:
    return st;
}

/* ---- the other keys ---- */

static am_status read_flag(model_keys *k, const char *key, bool *out)
{
    am_status st = AM_OK;
    const char *v;
    size_t n;
    AM_TRY(am_json_scan_skip(k->j, &v, &n));
    bool yes = n == 4 && memcmp(v, "true", 4) == 0, no = (n == 5 && memcmp(v, "false", 5) == 0) || (n == 4 && memcmp(v, "null", 4) == 0);
    AM_CHECK(yes || no, AM_ERR_MODEL, "%s: model.%s is not true or false", k->j->path, key);
    *out = yes;
done:
    return st;
}

/* A string; null and "" give NULL. */
static am_status read_text(model_keys *k, const char *key, char **out, size_t *len)
{
    am_status st = AM_OK;
    const char *v;
    size_t n;
    am_free(out);
    if (len != NULL) *len = 0;
    if (am_json_scan_peek(k->j) == 'n') return am_json_scan_skip(k->j, NULL, NULL);
    AM_CHECK(am_json_scan_peek(k->j) == '"', AM_ERR_MODEL, "%s: model.%s is not a string", k->j->path, key);
    AM_TRY(am_json_scan_string(k->j, &v, &n));
    if (n == 0) return AM_OK;
    AM_TRY(am_strndup(v, n, out));
    if (len != NULL) *len = strlen(*out);
done:
    return st;
}

static am_status read_number(model_keys *k, double *out)
{
    if (am_json_scan_peek(k->j) == 'n') return am_json_scan_skip(k->j, NULL, NULL);
    return am_json_scan_number(k->j, out);
}

static am_status read_vocab(model_keys *k)
{
    am_status st = AM_OK;
    char c = am_json_scan_peek(k->j);
    AM_CHECK(!k->vocab, AM_ERR_MODEL, "%s: model.vocab stands twice", k->j->path);
    AM_CHECK(c == '{' || c == '[', AM_ERR_MODEL, "%s: model.vocab is neither an object nor an array", k->j->path);
    k->list = c == '[';
    k->vocab = true;
    AM_TRY(k->list ? read_scored(k) : read_names(k));
    AM_TRY(am_bpe_index_tokens(&k->t->bpe));
done:
    return st;
}

static am_status read_key(model_keys *k, const char *key)
{
    am_status st = AM_OK;
    am_bpe *b = &k->t->bpe;
    double number = -1;
    char *text = NULL;
    if (strcmp(key, "vocab") == 0) return read_vocab(k);
    if (strcmp(key, "ignore_merges") == 0) return read_flag(k, key, &b->ignore_merges);
    if (strcmp(key, "byte_fallback") == 0) return read_flag(k, key, &b->byte_fallback);
    if (strcmp(key, "fuse_unk") == 0) return read_flag(k, key, &b->fuse_unk);
    if (strcmp(key, "unk_token") == 0) return read_text(k, key, &k->unk_token, NULL);
    if (strcmp(key, "continuing_subword_prefix") == 0) return read_text(k, key, &b->prefix, &b->prefix_len);
    if (strcmp(key, "end_of_word_suffix") == 0) return read_text(k, key, &b->suffix, &b->suffix_len);
    if (strcmp(key, "dropout") == 0) return read_number(k, &k->dropout);
    if (strcmp(key, "alpha") == 0) return read_number(k, &k->alpha);
    if (strcmp(key, "merges") == 0) {
        k->merges = true;
        am_json_scan_peek(k->j);
        k->merges_at.p = k->j->p;
        return k->vocab ? read_merges(k) : am_json_scan_skip(k->j, NULL, NULL);
    }
    if (strcmp(key, "unk_id") == 0 || strcmp(key, "max_input_chars_per_word") == 0) {
        AM_TRY(read_number(k, &number));
        *(key[0] == 'u' ? &k->unk_id : &k->max_chars) = (int64_t)number;
    } else if (strcmp(key, "type") == 0) {
        AM_TRY(read_text(k, key, &text, NULL));
        snprintf(k->type, sizeof k->type, "%s", text == NULL ? "" : text);
    } else {
        AM_TRY(am_json_scan_skip(k->j, NULL, NULL));
    }
done:
    am_free(&text);
    return st;
}

/* ---- what the keys amount to ---- */

static am_status find_unk(model_keys *k, const char *def)
{
    am_status st = AM_OK;
    am_bpe *b = &k->t->bpe;
    const char *unk = k->unk_token != NULL ? k->unk_token : def;
    b->has_unk = false;
    if (unk == NULL) return AM_OK;
    b->unk_id = am_bpe_name_id(b, unk, strlen(unk));
    b->has_unk = b->unk_id != AM_NO_ID;
    AM_CHECK(b->has_unk, AM_ERR_MODEL, "%s: model.unk_token \"%s\" is not in model.vocab", k->j->path, unk);
done:
    return st;
}

static am_status finish_bpe(model_keys *k)
{
    am_status st = AM_OK;
    am_bpe *b = &k->t->bpe;
    AM_CHECK(k->merges, AM_ERR_MODEL, "%s: model.merges is not an array", k->j->path);
    AM_CHECK(!k->list, AM_ERR_MODEL, "%s: model.vocab is not an object", k->j->path);
    AM_CHECK(k->dropout <= 0, AM_ERR_MODEL, "%s: BPE dropout gives another result at every call; set model.dropout to null",
             k->j->path);
    AM_TRY(read_merges_late(k));
    AM_TRY(find_unk(k, NULL));
    if (b->prefix != NULL || b->suffix != NULL || b->ignore_merges) am_bpe_mark_all(b);
done:
    return st;
}

static am_status finish_unigram(model_keys *k)
{
    am_status st = AM_OK;
    am_bpe *b = &k->t->bpe;
    AM_CHECK(k->list, AM_ERR_MODEL, "%s: model.vocab of a Unigram is not an array of [token, score]", k->j->path);
    AM_CHECK(k->alpha <= 0, AM_ERR_MODEL, "%s: Unigram sampling (alpha) gives another result at every call; set model.alpha to null",
             k->j->path);
    AM_CHECK(k->unk_id < (int64_t)k->t->unigram.num_scores, AM_ERR_MODEL, "%s: model.unk_id %" PRId64 " lies beyond the vocabulary",
             k->j->path, k->unk_id);
    b->has_unk = k->unk_id >= 0;
    b->unk_id = b->has_unk ? (uint32_t)k->unk_id : AM_NO_ID;
    k->t->model = AM_MODEL_UNIGRAM;
    AM_TRY(am_unigram_build(&k->t->unigram, b));
done:
    return st;
}

static am_status finish_words(model_keys *k, bool pieces)
{
    am_status st = AM_OK;
    am_wordpiece *w = &k->t->wordpiece;
    AM_CHECK(!k->list, AM_ERR_MODEL, "%s: model.vocab is not an object", k->j->path);
    k->t->model = pieces ? AM_MODEL_WORDPIECE : AM_MODEL_WORDLEVEL;
    AM_TRY(find_unk(k, pieces ? "[UNK]" : "<unk>"));
    w->max_chars = k->max_chars >= 0 ? (size_t)k->max_chars : 100;
    w->prefix = k->t->bpe.prefix;
    w->prefix_len = k->t->bpe.prefix_len;
    k->t->bpe.prefix = NULL;
    k->t->bpe.prefix_len = 0;
done:
    return st;
}

static am_status finish(model_keys *k)
{
    am_status st = AM_OK;
    const char *type = k->type;
    AM_CHECK(k->vocab, AM_ERR_MODEL, "%s: model without \"vocab\"", k->j->path);
    if (type[0] == '\0') /* older files */
        type = k->merges ? "BPE" : k->list ? "Unigram" : k->t->bpe.prefix != NULL ? "WordPiece" : "WordLevel";
    k->t->model = AM_MODEL_BPE;
    if (strcmp(type, "BPE") == 0)
        AM_TRY(finish_bpe(k));
    else if (strcmp(type, "Unigram") == 0)
        AM_TRY(finish_unigram(k));
    else if (strcmp(type, "WordPiece") == 0 || strcmp(type, "WordLevel") == 0)
        AM_TRY(finish_words(k, strcmp(type, "WordPiece") == 0));
    else
        AM_FAIL(AM_ERR_MODEL, "%s: the model type \"%s\" is not supported (supported: BPE, Unigram, WordPiece, WordLevel)",
                k->j->path, type);
done:
    return st;
}

am_status am_tok_load_model(am_tokenizer *t, am_json_scan *j)
{
    am_status st = AM_OK;
    model_keys k = {.t = t, .j = j, .unk_id = -1, .max_chars = -1};
    const char *key;
    char name[40];
    size_t n;
    bool more = false;
    AM_CHECK(am_json_scan_peek(j) == '{', AM_ERR_MODEL, "%s: \"model\" is not an object", j->path);
    AM_TRY(am_json_scan_expect(j, '{'));
    for (bool first = true;; first = false) {
        AM_TRY(am_json_scan_next(j, '}', first, &more));
        if (!more) break;
        AM_TRY(am_json_scan_string(j, &key, &n));
        snprintf(name, sizeof name, "%.*s", (int)n, key);
        AM_TRY(am_json_scan_expect(j, ':'));
        AM_TRY(read_key(&k, name));
    }
    AM_TRY(finish(&k));
done:
    am_free(&k.unk_token);
    return st;
}
