/* tokenizer, the BPE model as tables: token ↔ id, pairs ↔ merges.  Tables are open-addressing hashes over one
 * arena of bytes, built once and never changed.  In byte mode every token that is made of ByteLevel's
 * alphabet is entered a second time as the raw bytes it stands for, so that encoding works on the text's own
 * bytes. */
#include "hf/tokenizer_internal.h"

#include <string.h>

/* ---- ByteLevel's alphabet (Radford et al. 2019): printable Latin-1 stands for itself, the rest for U+0100 …
 * ---- */

static bool stands_for_itself(int b)
{
    return (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
}

int32_t am_tok_byte_to_char(unsigned char b)
{
    if (stands_for_itself(b)) return b;
    if (b <= 32) return 256 + b;
    if (b <= 160) return 256 + 33 + (b - 127);
    return 256 + 67; /* 173, the soft hyphen */
}

int am_tok_char_to_byte(int32_t cp)
{
    if (cp >= 0 && cp < 256) return stands_for_itself(cp) ? cp : -1;
    if (cp <= 256 + 32) return cp - 256;
    if (cp <= 256 + 66) return cp - 256 - 33 + 127;
    return cp == 256 + 67 ? 173 : -1;
}

/* ---- bytes → id ---- */

static am_status map_reserve(am_bytes_map *m, size_t n)
{
    am_status st = AM_OK;
    size_t slots = 16;
    while (slots < 2 * n) slots *= 2;
    AM_TRY(am_calloc(slots, sizeof *m->slot, &m->slot));
    AM_TRY(am_calloc(n + 1, sizeof *m->entry, &m->entry));
    m->mask = slots - 1;
    m->cap = n + 1;
done:
    return st;
}

static uint32_t map_find(const am_bytes_map *m, const char *arena, const char *s, size_t n)
{
    if (m->slot == NULL) return AM_NO_ID;
    for (size_t h = am_hash64(s, n, 0) & m->mask;; h = (h + 1) & m->mask) {
        if (m->slot[h] == 0) return AM_NO_ID;
        const struct am_bytes_entry *e = &m->entry[m->slot[h] - 1];
        if (e->len == n && memcmp(arena + e->off, s, n) == 0) return e->id;
    }
}

/* The key must already lie at arena + off.  A second entry of the same key is dropped. */
static am_status map_add(am_bytes_map *m, const char *arena, size_t off, size_t n, uint32_t id)
{
    am_status st = AM_OK;
    AM_ASSERT(m->n < m->cap);
    size_t h = am_hash64(arena + off, n, 0) & m->mask;
    for (; m->slot[h] != 0; h = (h + 1) & m->mask) {
        const struct am_bytes_entry *e = &m->entry[m->slot[h] - 1];
        if (e->len == n && memcmp(arena + e->off, arena + off, n) == 0) return AM_OK;
    }
    m->entry[m->n] = (struct am_bytes_entry){(uint32_t)off, (uint32_t)n, id};
    m->slot[h] = (uint32_t)++m->n;
done:
    return st;
}

uint32_t am_bpe_name_id(const am_bpe *b, const char *s, size_t n)
{
    return map_find(&b->names, b->arena, s, n);
}

uint32_t am_bpe_piece_id(const am_bpe *b, const char *s, size_t n)
{
    return map_find(b->byte_mode ? &b->pieces : &b->names, b->arena, s, n);
}

/* ---- loading ---- */

/* NUL behind each name: am_tokenizer_token hands them out as C strings. */
static am_status arena_put(am_bpe *b, const char *s, size_t n, size_t *off)
{
    am_status st = AM_OK;
    AM_CHECK(b->arena_len + n + 1 < UINT32_MAX, AM_ERR_MODEL, "a vocabulary of more than 4 GiB");
    AM_TRY(am_grow(&b->arena, &b->arena_cap, b->arena_len + n + 1, 1));
    *off = b->arena_len;
    memcpy(b->arena + b->arena_len, s, n);
    b->arena[b->arena_len + n] = '\0';
    b->arena_len += n + 1;
done:
    return st;
}

/* The raw bytes of a name made of the alphabet alone; false when it is not.  raw has room for n bytes. */
static bool to_raw_bytes(const char *name, size_t n, char *raw, size_t *len)
{
    *len = 0;
    for (size_t i = 0; i < n;) {
        int32_t cp;
        i += am_tok_utf8_get(name + i, &cp);
        int b = am_tok_char_to_byte(cp);
        if (b < 0) return false;
        raw[(*len)++] = (char)b;
    }
    return true;
}

static am_status load_vocab(json_t *vocab, const char *path, am_bpe *b)
{
    am_status st = AM_OK;
    am_str raw = {0};
    const char *key;
    json_t *value;
    AM_CHECK(json_is_object(vocab), AM_ERR_MODEL, "%s: model.vocab is not an object", path);
    AM_TRY(map_reserve(&b->names, json_object_size(vocab)));
    if (b->byte_mode) AM_TRY(map_reserve(&b->pieces, json_object_size(vocab)));
    json_object_foreach(vocab, key, value)
    {
        size_t n = strlen(key), off, raw_len;
        json_int_t id = json_is_integer(value) ? json_integer_value(value) : -1;
        AM_CHECK(id >= 0 && id < INT32_MAX, AM_ERR_MODEL,
                 "%s: model.vocab gives \"%s\" an id that is no number from 0 up", path, key);
        AM_TRY(arena_put(b, key, n, &off));
        AM_TRY(map_add(&b->names, b->arena, off, n, (uint32_t)id));
        if (!b->byte_mode) continue;
        AM_TRY(am_grow(&raw.s, &raw.cap, n + 1, 1));
        if (!to_raw_bytes(key, n, raw.s, &raw_len)) continue;
        AM_TRY(arena_put(b, raw.s, raw_len, &off));
        AM_TRY(map_add(&b->pieces, b->arena, off, raw_len, (uint32_t)id));
    }
done:
    am_str_release(&raw);
    return st;
}

/* The two halves of merges[i], in either spelling. */
static bool merge_halves(json_t *item, const char **a, size_t *na, const char **b, size_t *nb)
{
    if (json_is_string(item)) {
        const char *s = json_string_value(item), *space = strchr(s, ' ');
        if (space == NULL || strchr(space + 1, ' ') != NULL) return false;
        *a = s;
        *na = (size_t)(space - s);
        *b = space + 1;
        *nb = strlen(*b);
        return true;
    }
    json_t *x = json_array_get(item, 0), *y = json_array_get(item, 1);
    if (json_array_size(item) != 2 || !json_is_string(x) || !json_is_string(y)) return false;
    *a = json_string_value(x);
    *na = json_string_length(x);
    *b = json_string_value(y);
    *nb = json_string_length(y);
    return true;
}

/* A pair that occurs twice keeps the later rank, as in the library. */
static void pair_put(am_bpe *b, uint64_t key, uint64_t val)
{
    size_t h = am_hash64(&key, sizeof key, 0) & b->pair_mask;
    while (b->pair_key[h] != UINT64_MAX && b->pair_key[h] != key) h = (h + 1) & b->pair_mask;
    b->pair_key[h] = key;
    b->pair_val[h] = val;
}

static am_status load_merges(json_t *merges, const char *path, am_bpe *b)
{
    am_status st = AM_OK;
    am_str both = {0};
    size_t i, slots = 16, na, nb;
    json_t *item;
    const char *left, *right;
    AM_CHECK(json_is_array(merges), AM_ERR_MODEL, "%s: model.merges is not an array", path);
    AM_CHECK(json_array_size(merges) < INT32_MAX, AM_ERR_MODEL, "%s: too many merges", path);
    while (slots < 2 * json_array_size(merges)) slots *= 2;
    AM_TRY(am_calloc(slots, sizeof *b->pair_key, &b->pair_key));
    AM_TRY(am_calloc(slots, sizeof *b->pair_val, &b->pair_val));
    memset(b->pair_key, 0xff, slots * sizeof *b->pair_key);
    b->pair_mask = slots - 1;
    json_array_foreach(merges, i, item)
    {
        AM_CHECK(merge_halves(item, &left, &na, &right, &nb), AM_ERR_MODEL,
                 "%s: model.merges[%zu] is neither \"a b\" nor [\"a\", \"b\"]", path, i);
        both.len = 0;
        AM_TRY(am_str_append(&both, left, na));
        AM_TRY(am_str_append(&both, right, nb));
        uint32_t a = am_bpe_name_id(b, left, na), c = am_bpe_name_id(b, right, nb);
        uint32_t merged = am_bpe_name_id(b, both.s, both.len);
        AM_CHECK(a != AM_NO_ID && c != AM_NO_ID && merged != AM_NO_ID, AM_ERR_MODEL,
                 "%s: model.merges[%zu] (\"%.*s\" + \"%.*s\") names a token that model.vocab does not have",
                 path, i, (int)na, left, (int)nb, right);
        pair_put(b, (uint64_t)a << 32 | c, (uint64_t)i << 32 | merged);
    }
done:
    am_str_release(&both);
    return st;
}

static void load_single_bytes(am_bpe *b)
{
    for (int i = 0; i < 256; i++) {
        char c = (char)i, name[8];
        snprintf(name, sizeof name, "<0x%02X>", (unsigned)i);
        b->fallback_id[i] = am_bpe_name_id(b, name, 6);
        b->byte_id[i] = AM_NO_ID;
        if (b->byte_mode)
            b->byte_id[i] = map_find(&b->pieces, b->arena, &c, 1);
        else if (i > 0 && i < 0x80)
            b->byte_id[i] = am_bpe_name_id(b, &c, 1);
    }
}

static am_status load_flag(json_t *model, const char *key, const char *path, bool *out)
{
    am_status st = AM_OK;
    json_t *v = json_object_get(model, key);
    AM_CHECK(v == NULL || json_is_null(v) || json_is_boolean(v), AM_ERR_MODEL,
             "%s: model.%s is not true or false", path, key);
    *out = json_is_true(v);
done:
    return st;
}

static am_status refuse_text(json_t *model, const char *key, const char *path)
{
    am_status st = AM_OK;
    json_t *v = json_object_get(model, key);
    AM_CHECK(v == NULL || json_is_null(v) || (json_is_string(v) && json_string_length(v) == 0), AM_ERR_MODEL,
             "%s: BPE with a %s is not supported", path, key);
done:
    return st;
}

am_status am_bpe_load(json_t *model, bool byte_mode, const char *path, am_bpe *out)
{
    am_status st = AM_OK;
    json_t *unk = json_object_get(model, "unk_token"), *dropout = json_object_get(model, "dropout");
    *out = (am_bpe){.byte_mode = byte_mode};
    AM_TRY(refuse_text(model, "continuing_subword_prefix", path));
    AM_TRY(refuse_text(model, "end_of_word_suffix", path));
    AM_CHECK(dropout == NULL || json_is_null(dropout) || json_number_value(dropout) == 0, AM_ERR_MODEL,
             "%s: BPE dropout gives another result at every call; set model.dropout to null", path);
    AM_TRY(load_flag(model, "ignore_merges", path, &out->ignore_merges));
    AM_TRY(load_flag(model, "byte_fallback", path, &out->byte_fallback));
    AM_TRY(load_flag(model, "fuse_unk", path, &out->fuse_unk));
    AM_TRY(load_vocab(json_object_get(model, "vocab"), path, out));
    AM_TRY(load_merges(json_object_get(model, "merges"), path, out));
    load_single_bytes(out);
    if (json_is_string(unk)) {
        out->unk_id = am_bpe_name_id(out, json_string_value(unk), json_string_length(unk));
        out->has_unk = out->unk_id != AM_NO_ID;
        AM_CHECK(out->has_unk, AM_ERR_MODEL, "%s: model.unk_token \"%s\" is not in model.vocab", path,
                 json_string_value(unk));
    }
    for (int i = 0; i < 256 && byte_mode && out->byte_fallback; i++)
        AM_CHECK(out->byte_id[i] != AM_NO_ID, AM_ERR_MODEL,
                 "%s: byte_fallback under a ByteLevel pre_tokenizer whose vocabulary lacks byte %d is not "
                 "supported",
                 path, i);
done:
    return st;
}

void am_bpe_release(am_bpe *b)
{
    am_free(&b->arena);
    am_free(&b->names.slot);
    am_free(&b->names.entry);
    am_free(&b->pieces.slot);
    am_free(&b->pieces.entry);
    am_free(&b->pair_key);
    am_free(&b->pair_val);
}
