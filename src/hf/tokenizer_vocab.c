/* tokenizer, the vocabulary and the merges as tables: token ↔ id, pairs ↔ merges.  Tables are open-addressing hashes over
 * one arena of bytes, built once and never changed.  Opening a vocabulary of 200,000 entries is a matter of cache misses:
 * lookups for merges are made in batches, whose slots are fetched ahead. */
#include "hf/tokenizer_internal.h"

#include <string.h>

/* ---- ByteLevel's alphabet (Radford et al. 2019): printable Latin-1 stands for itself, the rest for U+0100 … ---- */

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

static am_status map_rehash(am_bytes_map *m, size_t slots)
{
    am_status st = AM_OK;
    am_map_slot *old = m->slot;
    size_t old_n = m->slot == NULL ? 0 : m->mask + 1;
    m->slot = NULL;
    AM_TRY(am_calloc(slots, sizeof *m->slot, &m->slot));
    am_tok_touch(m->slot, slots * sizeof *m->slot);
    m->mask = slots - 1;
    for (size_t i = 0; i < old_n; i++) {
        if (old[i].entry == 0) continue;
        size_t h = old[i].hash & m->mask;
        while (m->slot[h].entry != 0) h = (h + 1) & m->mask;
        m->slot[h] = old[i];
    }
done:
    am_free(&old);
    return st;
}

static am_status map_reserve(am_bytes_map *m, size_t n)
{
    am_status st = AM_OK;
    size_t slots = 64;
    AM_CHECK(n < INT32_MAX, AM_ERR_MODEL, "a vocabulary of %zu tokens", n);
    while (slots < 2 * n) slots *= 2;
    if (m->slot == NULL || slots > m->mask + 1) AM_TRY(map_rehash(m, slots));
    AM_TRY(am_grow(&m->entry, &m->cap, n, sizeof *m->entry));
done:
    return st;
}

static uint32_t map_find_hashed(const am_bytes_map *m, const char *arena, const char *s, size_t n, uint32_t hash)
{
    if (m->slot == NULL) return AM_NO_ID;
    for (size_t h = hash & m->mask;; h = (h + 1) & m->mask) {
        if (m->slot[h].entry == 0) return AM_NO_ID;
        if (m->slot[h].hash != hash) continue;
        const struct am_bytes_entry *e = &m->entry[m->slot[h].entry - 1];
        if (e->len == n && memcmp(arena + e->off, s, n) == 0) return e->id;
    }
}

static uint32_t map_find(const am_bytes_map *m, const char *arena, const char *s, size_t n)
{
    return map_find_hashed(m, arena, s, n, am_tok_hash(s, n));
}

/* The key must already lie at arena + off.  A key that occurs twice keeps the later id, as in the library. */
static am_status map_add_hashed(am_bytes_map *m, const char *arena, size_t off, size_t n, uint32_t id, uint32_t hash)
{
    am_status st = AM_OK;
    if (2 * (m->n + 1) > m->mask + 1 || m->n == m->cap) AM_TRY(map_reserve(m, m->n < 256 ? 4 * m->n + 64 : m->n < 65536 ? 131072 : 3 * m->n));
    size_t h = hash & m->mask;
    for (; m->slot[h].entry != 0; h = (h + 1) & m->mask) {
        struct am_bytes_entry *e = &m->entry[m->slot[h].entry - 1];
        if (m->slot[h].hash != hash || e->len != n || memcmp(arena + e->off, arena + off, n) != 0) continue;
        e->id = id;
        return AM_OK;
    }
    m->entry[m->n] = (struct am_bytes_entry){(uint32_t)off, (uint32_t)n, id};
    m->slot[h] = (am_map_slot){hash, (uint32_t)++m->n};
done:
    return st;
}

static am_status map_add(am_bytes_map *m, const char *arena, size_t off, size_t n, uint32_t id)
{
    return map_add_hashed(m, arena, off, n, id, am_tok_hash(arena + off, n));
}

static void map_release(am_bytes_map *m)
{
    am_free(&m->slot);
    am_free(&m->entry);
    *m = (am_bytes_map){0};
}

uint32_t am_bpe_name_id(const am_bpe *b, const char *s, size_t n)
{
    return map_find(&b->names, b->arena, s, n);
}

uint32_t am_bpe_piece_id(const am_bpe *b, const char *s, size_t n)
{
    return map_find(b->byte_mode ? &b->pieces : &b->names, b->arena, s, n);
}

/* ---- tokens ---- */

/* NUL behind each name: am_tokenizer_token hands them out as C strings. */
static am_status arena_put(am_bpe *b, const char *s, size_t n, size_t *off)
{
    am_status st = AM_OK;
    AM_CHECK(b->arena_len + n + 1 < UINT32_MAX, AM_ERR_MODEL, "a vocabulary of more than 4 GiB");
    AM_TRY(am_grow(&b->arena, &b->arena_cap, b->arena_len + n + 16, 1)); /* 16: readable by words */
    *off = b->arena_len;
    memcpy(b->arena + b->arena_len, s, n);
    b->arena[b->arena_len + n] = '\0';
    b->arena_len += n + 1;
done:
    return st;
}

am_status am_bpe_append_token(am_bpe *b, const char *name, size_t n, uint32_t id)
{
    am_status st = AM_OK;
    am_bytes_map *m = &b->names;
    size_t off = 0;
    AM_TRY(arena_put(b, name, n, &off));
    if (m->n == m->cap) AM_TRY(am_grow(&m->entry, &m->cap, m->n < 65536 ? 131072 : 2 * m->n, sizeof *m->entry));
    m->entry[m->n++] = (struct am_bytes_entry){(uint32_t)off, (uint32_t)n, id};
done:
    return st;
}

/* Slots are fetched some entries ahead of their use. */
am_status am_bpe_index_tokens(am_bpe *b)
{
    enum { AHEAD = 16 };
    am_status st = AM_OK;
    am_bytes_map *m = &b->names;
    size_t n = m->n, slots = 64;
    uint32_t hash[AHEAD];
    AM_CHECK(n < INT32_MAX, AM_ERR_MODEL, "a vocabulary of %zu tokens", n);
    while (slots < 2 * n) slots *= 2;
    AM_TRY(map_rehash(m, slots));
    m->n = 0;
    for (size_t i = 0; i < n + AHEAD; i++) {
        if (i >= AHEAD) {
            struct am_bytes_entry e = m->entry[i - AHEAD];
            AM_TRY(map_add_hashed(m, b->arena, e.off, e.len, e.id, hash[i % AHEAD]));
        }
        if (i >= n) continue;
        hash[i % AHEAD] = am_tok_hash(b->arena + m->entry[i].off, m->entry[i].len);
        __builtin_prefetch(&m->slot[hash[i % AHEAD] & m->mask], 1);
    }
done:
    return st;
}

am_status am_bpe_put_token(am_bpe *b, const char *name, size_t n, uint32_t id)
{
    am_status st = AM_OK;
    size_t off = 0;
    AM_TRY(arena_put(b, name, n, &off));
    AM_TRY(map_add(&b->names, b->arena, off, n, id));
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

/* Whole pieces are looked up as raw bytes: every token made of the alphabet is entered a second time. */
static am_status build_pieces(am_bpe *b)
{
    am_status st = AM_OK;
    am_str raw = {0};
    AM_TRY(map_reserve(&b->pieces, b->names.n));
    for (size_t i = 0; i < b->names.n; i++) {
        struct am_bytes_entry e = b->names.entry[i];
        size_t off = 0, len = 0;
        AM_TRY(am_grow(&raw.s, &raw.cap, e.len + 1, 1));
        if (!to_raw_bytes(b->arena + e.off, e.len, raw.s, &len)) continue;
        AM_TRY(arena_put(b, raw.s, len, &off));
        AM_TRY(map_add(&b->pieces, b->arena, off, len, e.id));
    }
done:
    am_str_release(&raw);
    return st;
}

/* ---- merges ---- */

/* A pair that occurs twice keeps the later rank, as in the library. */
static void pair_put(am_bpe *b, uint64_t key, uint64_t val)
{
    size_t h = am_pair_home(b, key);
    while (b->pair[h].key != 0 && b->pair[h].key != key) h = (h + 1) & b->pair_mask;
    b->num_pairs += b->pair[h].key == 0;
    b->pair[h] = (am_pair){key, val};
}

static am_status pairs_reserve(am_bpe *b, size_t n)
{
    am_status st = AM_OK;
    am_pair *old = b->pair;
    size_t slots = 64, old_n = old == NULL ? 0 : b->pair_mask + 1;
    int bits = 6;
    while (3 * slots < 4 * n) slots *= 2, bits++;
    if (slots <= old_n) return AM_OK;
    b->pair = NULL;
    AM_TRY(am_calloc(slots, sizeof *b->pair, &b->pair));
    am_tok_touch(b->pair, slots * sizeof *b->pair);
    b->pair_mask = slots - 1;
    b->pair_shift = 64 - bits;
    b->num_pairs = 0;
    for (size_t i = 0; i < old_n; i++) {
        if (old[i].key != 0) pair_put(b, old[i].key, old[i].val);
    }
done:
    am_free(&old);
    return st;
}

/* Which characters a merge may join: bits of a hash of (last character of the left, first of the right).  A text may be
 * cut where the bit is not set: no merge ever crosses that place. */
void am_bpe_mark_crossing(am_bpe *b, const char *left, size_t na, const char *right)
{
    int32_t last, first;
    size_t k = na - 1;
    while (k > 0 && ((unsigned char)left[k] & 0xc0) == 0x80) k--;
    am_tok_utf8_get(left + k, &last);
    am_tok_utf8_get(right, &first);
    uint32_t bit = am_crossing_bit(last, first);
    b->crossing[bit >> 6] |= UINT64_C(1) << (bit & 63);
}

am_status am_bpe_put_merge(am_bpe *b, uint32_t left, uint32_t right, uint32_t rank, uint32_t merged)
{
    am_status st = AM_OK;
    if (4 * (b->num_pairs + 1) > 3 * (b->pair_mask + 1) || b->pair == NULL) AM_TRY(pairs_reserve(b, 2 * b->num_pairs + 64));
    pair_put(b, am_pair_key(left, right), (uint64_t)rank << 32 | merged);
done:
    return st;
}

am_status am_bpe_expect_merges(am_bpe *b, size_t n) { return pairs_reserve(b, n); }

am_status am_bpe_batch_add(am_bpe *b, am_merge_batch *m, const char *left, size_t na, const char *right, size_t nb,
                           const char *path)
{
    am_status st = AM_OK;
    struct am_merge_text *t = &m->at[m->n];
    AM_CHECK(na > 0 && nb > 0, AM_ERR_MODEL, "%s: model.merges[%zu] has an empty half", path, m->first + m->n);
    AM_TRY(am_grow(&m->text, &m->cap, m->len + na + nb + 16, 1)); /* "leftright", its three strings in one */
    memcpy(m->text + m->len, left, na);
    memcpy(m->text + m->len + na, right, nb);
    *t = (struct am_merge_text){(uint32_t)m->len, (uint32_t)na, (uint32_t)nb, {0}};
    m->len += na + nb;
    m->n++;
    if (m->n == AM_MERGE_BATCH) AM_TRY(am_bpe_batch_flush(b, m, path));
done:
    return st;
}

static const am_map_slot *slot_of(const am_bpe *b, uint32_t hash)
{
    return &b->names.slot[hash & b->names.mask];
}

/* Hashes first, then what the first slots point to: by the time a string is compared, its memory is near. */
static void fetch_ahead(const am_bpe *b, am_merge_batch *m)
{
    for (size_t i = 0; i < m->n; i++) {
        struct am_merge_text *t = &m->at[i];
        const char *s = m->text + t->off;
        t->hash[0] = am_tok_hash(s, t->na);
        t->hash[1] = am_tok_hash(s + t->na, t->nb);
        t->hash[2] = am_tok_hash(s, t->na + t->nb);
        for (int k = 0; k < 3; k++) __builtin_prefetch(slot_of(b, t->hash[k]));
    }
    for (size_t i = 0; i < m->n; i++)
        for (int k = 0; k < 3; k++) {
            const am_map_slot *s = slot_of(b, m->at[i].hash[k]);
            if (s->entry != 0) __builtin_prefetch(&b->names.entry[s->entry - 1]);
        }
    for (size_t i = 0; i < m->n; i++)
        for (int k = 0; k < 3; k++) {
            const am_map_slot *s = slot_of(b, m->at[i].hash[k]);
            if (s->entry != 0) __builtin_prefetch(b->arena + b->names.entry[s->entry - 1].off);
        }
}

am_status am_bpe_batch_flush(am_bpe *b, am_merge_batch *m, const char *path)
{
    am_status st = AM_OK;
    uint64_t key[AM_MERGE_BATCH];
    uint32_t merged[AM_MERGE_BATCH];
    if (m->n == 0) return AM_OK;
    AM_CHECK(m->first + m->n < INT32_MAX, AM_ERR_MODEL, "%s: too many merges", path);
    if (b->names.slot != NULL) fetch_ahead(b, m);
    AM_TRY(pairs_reserve(b, b->num_pairs + m->n <= 3 * (b->pair_mask + 1) / 4 ? 0 : 2 * (b->num_pairs + m->n)));
    for (size_t i = 0; i < m->n; i++) {
        const struct am_merge_text *t = &m->at[i];
        const char *s = m->text + t->off;
        uint32_t left = map_find_hashed(&b->names, b->arena, s, t->na, t->hash[0]);
        uint32_t right = map_find_hashed(&b->names, b->arena, s + t->na, t->nb, t->hash[1]);
        size_t skip = t->nb > b->prefix_len ? b->prefix_len : 0; /* the library cuts it off unseen */
        if (skip == 0) {
            merged[i] = map_find_hashed(&b->names, b->arena, s, t->na + t->nb, t->hash[2]);
        } else { /* "a" + "##b" make "ab" */
            char joined[512];
            AM_CHECK(t->na + t->nb < sizeof joined, AM_ERR_MODEL, "%s: model.merges[%zu] is too long", path, m->first + i);
            memcpy(joined, s, t->na);
            memcpy(joined + t->na, s + t->na + skip, t->nb - skip);
            merged[i] = am_bpe_name_id(b, joined, t->na + t->nb - skip);
        }
        AM_CHECK(left != AM_NO_ID && right != AM_NO_ID && merged[i] != AM_NO_ID, AM_ERR_MODEL,
                 "%s: model.merges[%zu] (\"%.*s\" + \"%.*s\") names a token that model.vocab does not have", path,
                 m->first + i, (int)t->na, s, (int)t->nb, s + t->na);
        key[i] = am_pair_key(left, right);
        __builtin_prefetch(&b->pair[am_pair_home(b, key[i])], 1);
        if (!b->byte_mode) am_bpe_mark_crossing(b, s, t->na, s + t->na + skip);
    }
    for (size_t i = 0; i < m->n; i++) pair_put(b, key[i], (uint64_t)(m->first + i) << 32 | merged[i]);
    m->first += m->n;
    m->n = m->len = 0;
done:
    return st;
}

void am_bpe_mark_all(am_bpe *b)
{
    memset(b->crossing, 0xff, sizeof b->crossing);
}

/* ---- begin, finish ---- */

static void load_single_bytes(am_bpe *b)
{
    for (int i = 0; i < 256; i++) {
        char c = (char)i, name[8], spelled[4];
        snprintf(name, sizeof name, "<0x%02X>", (unsigned)i);
        b->fallback_id[i] = am_bpe_name_id(b, name, 6);
        b->byte_id[i] = AM_NO_ID;
        if (b->byte_mode)
            b->byte_id[i] = am_bpe_name_id(b, spelled, am_tok_utf8_put(am_tok_byte_to_char((unsigned char)i), spelled));
        else if (i < 0x80)
            b->byte_id[i] = am_bpe_name_id(b, &c, 1);
    }
}

static am_status load_characters(am_bpe *b)
{
    am_status st = AM_OK;
    AM_TRY(am_calloc(65536, sizeof *b->bmp_id, &b->bmp_id));
    memset(b->bmp_id, 0xff, 65536 * sizeof *b->bmp_id);
    for (size_t i = 0; i < b->names.n; i++) {
        const struct am_bytes_entry *e = &b->names.entry[i];
        int32_t cp;
        if (e->len == 0 || e->len > 3 || am_tok_utf8_len((unsigned char)b->arena[e->off]) != e->len) continue;
        am_tok_utf8_get(b->arena + e->off, &cp);
        b->bmp_id[cp] = e->id;
    }
done:
    return st;
}

am_status am_bpe_finish(am_bpe *b, const char *path)
{
    am_status st = AM_OK;
    load_single_bytes(b);
    if (!b->byte_mode) AM_TRY(load_characters(b));
    if (b->byte_mode && b->ignore_merges) AM_TRY(build_pieces(b));
    if (b->pair == NULL) AM_TRY(pairs_reserve(b, 1));
    for (int i = 0; i < 256 && b->byte_mode && b->byte_fallback; i++)
        AM_CHECK(b->byte_id[i] != AM_NO_ID, AM_ERR_MODEL,
                 "%s: byte_fallback under a ByteLevel pre_tokenizer whose vocabulary lacks byte %d is not supported", path, i);
done:
    return st;
}

void am_bpe_release(am_bpe *b)
{
    am_free(&b->arena);
    map_release(&b->names);
    map_release(&b->pieces);
    am_free(&b->pair);
    am_free(&b->bmp_id);
    am_free(&b->prefix);
    am_free(&b->suffix);
}
