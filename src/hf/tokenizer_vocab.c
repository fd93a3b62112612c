/* tokenizer, the vocabulary and the merges as tables: token ↔ id, pairs ↔ merges.  Tables are open-addressing hashes over
 * one arena of bytes, built once and never changed.  Names of up to 7 bytes lie in the table itself; merges are in
 * tokenizer_merges. */
#include "hf/tokenizer_internal.h"

#include <string.h>

enum { MAX_SPELLED = 1024 };

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
    AM_TRY(am_tok_table_alloc(slots * sizeof *m->slot, true, &m->slot));
    m->mask = slots - 1;
    m->shift = 64 - __builtin_ctzll(slots);
    for (size_t i = 0; i < old_n; i++) {
        if (old[i].entry == 0) continue;
        size_t h = am_map_home(m, old[i].tag);
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

static uint32_t map_find(const am_bytes_map *m, const char *arena, const char *s, size_t n)
{
    const am_map_slot *slot = m->slot == NULL ? NULL : am_map_slot_of(m, arena, s, n, am_name_tag(s, n), false);
    return slot == NULL ? AM_NO_ID : slot->id;
}

/* The key must already lie at arena + off.  A key that occurs twice keeps the later id, as in the library. */
static am_status map_add_tagged(am_bytes_map *m, const char *arena, size_t off, size_t n, uint32_t id, uint64_t tag)
{
    am_status st = AM_OK;
    if (2 * (m->n + 1) > m->mask + 1 || m->n == m->cap) AM_TRY(map_reserve(m, m->n < 256 ? 4 * m->n + 64 : m->n < 65536 ? 131072 : 3 * m->n));
    size_t h = am_map_home(m, tag);
    for (; m->slot[h].entry != 0; h = (h + 1) & m->mask) {
        if (m->slot[h].tag != tag) continue;
        struct am_bytes_entry *e = &m->entry[m->slot[h].entry - 1];
        if (n > AM_TAG_BYTES && (e->len != n || !am_same_padded(arena + e->off, arena + off, n))) continue;
        e->id = m->slot[h].id = id;
        return AM_OK;
    }
    m->entry[m->n] = (struct am_bytes_entry){(uint32_t)off, (uint32_t)n, id};
    m->slot[h] = (am_map_slot){tag, (uint32_t)++m->n, id};
done:
    return st;
}

static am_status map_add(am_bytes_map *m, const char *arena, size_t off, size_t n, uint32_t id)
{
    return map_add_tagged(m, arena, off, n, id, am_name_tag(arena + off, n));
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

/* Without a table of pieces the bytes are spelled in the alphabet; then no name is longer than MAX_SPELLED. */
uint32_t am_bpe_piece_id(const am_bpe *b, const char *s, size_t n)
{
    char spelled[MAX_SPELLED];
    size_t len = 0;
    if (!b->byte_mode) return map_find(&b->names, b->arena, s, n);
    if (b->pieces.slot != NULL) return map_find(&b->pieces, b->arena, s, n);
    if (n > b->longest_name) return AM_NO_ID;
    for (size_t i = 0; i < n && len + 2 < sizeof spelled; i++) {
        const struct am_byte_name *c = &b->byte_name[(unsigned char)s[i]];
        memcpy(spelled + len, c->s, 2);
        len += c->n;
    }
    return len <= b->longest_name ? map_find(&b->names, b->arena, spelled, len) : AM_NO_ID;
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
    uint64_t tag[AHEAD];
    AM_CHECK(n < INT32_MAX, AM_ERR_MODEL, "a vocabulary of %zu tokens", n);
    while (slots < 2 * n) slots *= 2;
    AM_TRY(map_rehash(m, slots));
    m->n = 0;
    for (size_t i = 0; i < n + AHEAD; i++) {
        if (i >= AHEAD) {
            struct am_bytes_entry e = m->entry[i - AHEAD];
            AM_TRY(map_add_tagged(m, b->arena, e.off, e.len, e.id, tag[i % AHEAD]));
        }
        if (i >= n) continue;
        tag[i % AHEAD] = am_name_tag_padded(b->arena + m->entry[i].off, m->entry[i].len);
        __builtin_prefetch(&m->slot[am_map_home(m, tag[i % AHEAD])], 1);
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

am_status am_bpe_index_pieces(am_bpe *b)
{
    am_status st = AM_OK;
    am_str raw = {0};
    if (b->pieces.slot != NULL) return AM_OK;
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

/* Whole pieces are looked up by their spelling, unless names are so long that it would not fit. */
static am_status prepare_pieces(am_bpe *b)
{
    for (int i = 0; i < 256; i++)
        b->byte_name[i].n = (uint8_t)am_tok_utf8_put(am_tok_byte_to_char((unsigned char)i), b->byte_name[i].s);
    for (size_t i = 0; i < b->names.n; i++)
        if (b->names.entry[i].len > b->longest_name) b->longest_name = b->names.entry[i].len;
    return b->longest_name + 4 > MAX_SPELLED ? am_bpe_index_pieces(b) : AM_OK;
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
    if (b->byte_mode && b->ignore_merges) AM_TRY(prepare_pieces(b));
    if (b->pair == NULL) AM_TRY(am_bpe_pairs_reserve(b, 1));
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
    am_free(&b->byte_pair);
    am_free(&b->prefix);
    am_free(&b->suffix);
}
