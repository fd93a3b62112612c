/* card_util: the arena of the card front end (everything of a card or of one elaboration goes at once) and
 * its lists. */
#include "graph/card_internal.h"

#include <string.h>

enum { BLOCK_BYTES = 16 * 1024 };

struct card_block {
    struct card_block *next;
    size_t used, size;
    _Alignas(16) char bytes[];
};

am_status card_alloc(card_arena *a, size_t bytes, void *out_ptr)
{
    am_status st = AM_OK;
    size_t need = (bytes + 15u) & ~(size_t)15u;
    AM_CHECK(need >= bytes, AM_ERR_MEMORY, "%zu bytes are too many", bytes);
    if (!a->block || a->block->size - a->block->used < need) {
        size_t size = need > BLOCK_BYTES ? need : BLOCK_BYTES;
        struct card_block *b = NULL;
        AM_TRY(am_calloc(1, sizeof *b + size, &b));
        b->size = size;
        b->next = a->block;
        a->block = b;
    }
    *(void **)out_ptr = a->block->bytes + a->block->used;
    a->block->used += need;
done:
    return st;
}

void card_arena_release(card_arena *a)
{
    while (a->block) {
        struct card_block *b = a->block;
        a->block = b->next;
        am_free(&b);
    }
}

am_status card_strndup(card_arena *a, const char *s, size_t n, const char **out)
{
    am_status st = AM_OK;
    char *copy = NULL;
    AM_TRY(card_alloc(a, n + 1, &copy));
    memcpy(copy, s, n);
    *out = copy;
done:
    return st;
}

am_status card_printf(card_arena *a, const char **out, const char *fmt, ...)
{
    am_status st = AM_OK;
    char *text = NULL;
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    AM_ASSERT(n >= 0);
    AM_TRY(card_alloc(a, (size_t)n + 1, &text));
    va_start(ap, fmt);
    vsnprintf(text, (size_t)n + 1, fmt, ap);
    va_end(ap);
    *out = text;
done:
    return st;
}

am_status card_push(card_arena *a, card_list *l, void *item)
{
    am_status st = AM_OK;
    if (l->num == l->cap) { /* the old array stays in the arena: lists are short */
        int cap = l->cap ? 2 * l->cap : 4;
        void **at = NULL;
        AM_TRY(card_alloc(a, (size_t)cap * sizeof *at, &at));
        if (l->num) memcpy(at, l->at, (size_t)l->num * sizeof *at);
        l->at = at;
        l->cap = cap;
    }
    l->at[l->num++] = item;
done:
    return st;
}

bool card_has_string(const card_list *l, const char *s)
{
    for (int i = 0; i < l->num; i++)
        if (strcmp(l->at[i], s) == 0) return true;
    return false;
}
