/* Names → numbers: open addressing with linear probing, keys borrowed, at most half full. */
#include "hf_internal.h"

#include <string.h>

typedef struct slot {
    const char *key; /* NULL: free */
    int64_t value;
} slot;

struct am_name_table {
    slot *slots;
    size_t capacity, used; /* capacity is a power of two */
};

am_status am_name_table_create(am_name_table **out)
{
    am_status st = AM_OK;
    am_name_table *t = NULL;
    AM_TRY(am_calloc(1, sizeof *t, &t));
    t->capacity = 16;
    AM_TRY(am_calloc(t->capacity, sizeof *t->slots, &t->slots));
    *out = t;
    t = NULL;
done:
    am_name_table_free(&t);
    return st;
}

static slot *probe(const am_name_table *t, const char *key)
{
    size_t i = (size_t)am_hash64(key, strlen(key), 0) & (t->capacity - 1);
    while (t->slots[i].key != NULL && strcmp(t->slots[i].key, key) != 0) i = (i + 1) & (t->capacity - 1);
    return &t->slots[i];
}

static am_status grow(am_name_table *t)
{
    am_status st = AM_OK;
    am_name_table bigger = {.capacity = t->capacity * 2, .used = t->used};
    AM_TRY(am_calloc(bigger.capacity, sizeof *bigger.slots, &bigger.slots));
    for (size_t i = 0; i < t->capacity; i++)
        if (t->slots[i].key != NULL) *probe(&bigger, t->slots[i].key) = t->slots[i];
    am_free(&t->slots);
    *t = bigger;
done:
    return st;
}

am_status am_name_table_insert(am_name_table *t, const char *key, int64_t value, int64_t *existing)
{
    am_status st = AM_OK;
    *existing = -1;
    if (2 * (t->used + 1) > t->capacity) AM_TRY(grow(t));
    slot *s = probe(t, key);
    if (s->key != NULL) {
        *existing = s->value;
        goto done;
    }
    *s = (slot){key, value};
    t->used++;
done:
    return st;
}

int64_t am_name_table_find(const am_name_table *t, const char *key)
{
    const slot *s = probe(t, key);
    return s->key != NULL ? s->value : -1;
}

void am_name_table_free(am_name_table **t)
{
    if (*t != NULL) am_free(&(*t)->slots);
    am_free(t);
}
