/* tokenizer, merges as a table: (left id, right id) → rank and merged id, open addressing.  A file spells merges out; their
 * halves are looked up in batches, whose slots are fetched ahead, and what they make is nearly always the token of the merge
 * before or the one behind it in the vocabulary, which one comparison tells. */
#include "hf/tokenizer_internal.h"

/* ---- pairs ---- */

/* A pair that occurs twice keeps the later rank, as in the library. */
void am_bpe_pair_put(am_bpe *b, uint64_t key, uint64_t val)
{
    size_t h = am_pair_home(b, key);
    while (b->pair[h].key != 0 && b->pair[h].key != key) h = (h + 1) & b->pair_mask;
    b->num_pairs += b->pair[h].key == 0;
    size_t bit = am_pair_seen_bit(key);
    b->pair_seen[bit >> 6] |= UINT64_C(1) << (bit & 63);
    if (val >> 32 > b->max_rank) b->max_rank = (uint32_t)(val >> 32);
    b->pair[h] = (am_pair){key, val};
}

am_status am_bpe_pairs_reserve(am_bpe *b, size_t n)
{
    am_status st = AM_OK;
    am_pair *old = b->pair;
    size_t slots = 64, old_n = old == NULL ? 0 : b->pair_mask + 1;
    int bits = 6;
    while (3 * slots < 4 * n) slots *= 2, bits++;
    if (slots <= old_n) return AM_OK;
    b->pair = NULL;
    AM_TRY(am_tok_table_alloc(slots * sizeof *b->pair, true, &b->pair));
    b->pair_mask = slots - 1;
    b->pair_shift = 64 - bits;
    b->num_pairs = 0;
    for (size_t i = 0; i < old_n; i++) {
        if (old[i].key != 0) am_bpe_pair_put(b, old[i].key, old[i].val);
    }
done:
    am_free(&old);
    return st;
}

am_status am_bpe_put_merge(am_bpe *b, uint32_t left, uint32_t right, uint32_t rank, uint32_t merged)
{
    am_status st = AM_OK;
    if (4 * (b->num_pairs + 1) > 3 * (b->pair_mask + 1) || b->pair == NULL) AM_TRY(am_bpe_pairs_reserve(b, 2 * b->num_pairs + 64));
    am_bpe_pair_put(b, am_pair_key(left, right), (uint64_t)rank << 32 | merged);
done:
    return st;
}

/* ---- where texts may be cut ---- */

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

void am_bpe_mark_all(am_bpe *b)
{
    memset(b->crossing, 0xff, sizeof b->crossing);
}

/* ---- batches ---- */

am_status am_bpe_batch_add(am_bpe *b, am_merge_batch *m, const char *left, size_t na, const char *right, size_t nb,
                           const char *path)
{
    am_status st = AM_OK;
    AM_CHECK(na > 0 && nb > 0, AM_ERR_MODEL, "%s: model.merges[%zu] has an empty half", path, m->first + m->n);
    struct am_merge_text *t = &m->at[m->n++];
    *t = (struct am_merge_text){left, right, (uint32_t)na, (uint32_t)nb, {am_name_tag_padded(left, na), am_name_tag_padded(right, nb)}};
    if (b->names.slot != NULL)
        for (int k = 0; k < 2; k++) __builtin_prefetch(&b->names.slot[am_map_home(&b->names, t->tag[k])]);
    if (m->n == AM_MERGE_BATCH) AM_TRY(am_bpe_batch_flush(b, m, path));
done:
    return st;
}

/* What longer names point to: entries first, then their bytes. */
static void fetch_ahead(const am_bpe *b, const am_merge_batch *m)
{
    const am_map_slot *found[2 * AM_MERGE_BATCH];
    size_t n = 0;
    for (size_t i = 0; i < 2 * m->n; i++) {
        uint64_t tag = m->at[i / 2].tag[i % 2];
        if (tag >> 63 == 0) continue;
        found[n] = &b->names.slot[am_map_home(&b->names, tag)];
        if (found[n]->tag == tag) __builtin_prefetch(&b->names.entry[found[n++]->entry - 1]);
    }
    for (size_t i = 0; i < n; i++) __builtin_prefetch(b->arena + b->names.entry[found[i]->entry - 1].off);
}

static inline bool makes(const am_bpe *b, size_t entry, const struct am_merge_text *t, size_t skip)
{
    if (entry >= b->names.n) return false;
    const struct am_bytes_entry *e = &b->names.entry[entry];
    const char *name = b->arena + e->off;
    return e->len == t->na + t->nb - skip && am_same_padded(name, t->left, t->na) && am_same_padded(name + t->na, t->right + skip, t->nb - skip);
}

/* The token that a merge makes. */
static am_status find_merged(const am_bpe *b, am_merge_batch *m, const struct am_merge_text *t, uint32_t *id)
{
    am_status st = AM_OK;
    size_t skip = t->nb > b->prefix_len ? b->prefix_len : 0; /* "a" + "##b" make "ab": the library cuts it off unseen */
    *id = AM_NO_ID;
    for (size_t k = 0; k < 2; k++) {
        if (!makes(b, m->guess + k, t, skip)) continue;
        m->guess += k;
        *id = b->names.entry[m->guess].id;
        return AM_OK;
    }
    m->joined.len = 0;
    AM_TRY(am_str_append(&m->joined, t->left, t->na));
    AM_TRY(am_str_append(&m->joined, t->right + skip, t->nb - skip));
    const char *s = m->joined.s;
    size_t n = m->joined.len;
    const am_map_slot *slot = b->names.slot == NULL ? NULL : am_map_slot_of(&b->names, b->arena, s, n, am_name_tag(s, n), false);
    if (slot == NULL) return AM_OK;
    m->guess = slot->entry - 1;
    *id = slot->id;
done:
    return st;
}

static am_status resolve(am_bpe *b, am_merge_batch *m, const struct am_merge_text *t, uint64_t *key, uint32_t *merged, const char *path)
{
    am_status st = AM_OK;
    const am_map_slot *left = NULL, *right = NULL;
    if (b->names.slot != NULL) {
        left = am_map_slot_of(&b->names, b->arena, t->left, t->na, t->tag[0], true);
        right = am_map_slot_of(&b->names, b->arena, t->right, t->nb, t->tag[1], true);
    }
    AM_TRY(find_merged(b, m, t, merged));
    AM_CHECK(left != NULL && right != NULL && *merged != AM_NO_ID, AM_ERR_MODEL,
             "%s: model.merges[%zu] (\"%.*s\" + \"%.*s\") names a token that model.vocab does not have", path,
             m->first + (size_t)(t - m->at), (int)t->na, t->left, (int)t->nb, t->right);
    *key = am_pair_key(left->id, right->id);
    __builtin_prefetch(&b->pair[am_pair_home(b, *key)], 1);
    if (!b->byte_mode) am_bpe_mark_crossing(b, t->left, t->na, t->right + (t->nb > b->prefix_len ? b->prefix_len : 0));
done:
    return st;
}

am_status am_bpe_batch_flush(am_bpe *b, am_merge_batch *m, const char *path)
{
    am_status st = AM_OK;
    uint64_t key[AM_MERGE_BATCH];
    uint32_t merged[AM_MERGE_BATCH];
    if (m->n == 0) return AM_OK;
    AM_CHECK(m->first + m->n < INT32_MAX, AM_ERR_MODEL, "%s: too many merges", path);
    if (b->pair == NULL || 4 * (b->num_pairs + m->n) > 3 * (b->pair_mask + 1)) AM_TRY(am_bpe_pairs_reserve(b, 2 * (b->num_pairs + m->n)));
    if (b->names.slot != NULL) fetch_ahead(b, m);
    for (size_t i = 0; i < m->n; i++) AM_TRY(resolve(b, m, &m->at[i], &key[i], &merged[i], path));
    for (size_t i = 0; i < m->n; i++) am_bpe_pair_put(b, key[i], (uint64_t)(m->first + i) << 32 | merged[i]);
    m->first += m->n;
    m->n = 0;
done:
    return st;
}
