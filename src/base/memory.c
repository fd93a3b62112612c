/* Host memory with checked sizes.  `out_ptr` and `ptr_ptr` are the address of any object pointer, passed as
 * void * as C has no generic pointer-to-pointer; memcpy moves the pointer's bytes without breaking the
 * aliasing rules. */
#include "base/base.h"

#include <stdlib.h>
#include <string.h>

static void *pointer_get(const void *ptr_ptr)
{
    void *p;
    memcpy(&p, ptr_ptr, sizeof p);
    return p;
}

static void pointer_set(void *ptr_ptr, void *p)
{
    memcpy(ptr_ptr, &p, sizeof p);
}

am_status am_calloc(size_t count, size_t size, void *out_ptr)
{
    size_t bytes;
    pointer_set(out_ptr, NULL);
    if (!am_mul_size(count, size, &bytes))
        return am_fail(AM_ERR_MEMORY, "%zu elements of %zu bytes are more than memory can hold", count, size);
    void *p = calloc(1, bytes > 0 ? bytes : 1);
    if (p == NULL) return am_fail(AM_ERR_MEMORY, "the host refused %zu bytes of memory", bytes);
    pointer_set(out_ptr, p);
    return AM_OK;
}

am_status am_grow(void *ptr_ptr, size_t *capacity, size_t need, size_t size)
{
    if (need <= *capacity) return AM_OK;
    size_t cap = *capacity < 8 ? 8 : *capacity, bytes;
    while (cap < need) {
        if (!am_mul_size(cap, 2, &cap)) cap = need;
    }
    if (!am_mul_size(cap, size, &bytes))
        return am_fail(AM_ERR_MEMORY, "%zu elements of %zu bytes are more than memory can hold", need, size);
    void *p = realloc(pointer_get(ptr_ptr), bytes);
    if (p == NULL) return am_fail(AM_ERR_MEMORY, "the host refused %zu bytes of memory", bytes);
    memset((char *)p + *capacity * size, 0, bytes - *capacity * size);
    pointer_set(ptr_ptr, p);
    *capacity = cap;
    return AM_OK;
}

am_status am_strndup(const char *s, size_t n, char **out)
{
    *out = NULL;
    size_t len = strnlen(s, n), bytes;
    if (!am_add_size(len, 1, &bytes)) return am_fail(AM_ERR_MEMORY, "a string of %zu bytes is too long", len);
    char *p = NULL;
    if (am_calloc(bytes, 1, &p) != AM_OK) return AM_ERR_MEMORY;
    memcpy(p, s, len);
    *out = p;
    return AM_OK;
}

am_status am_strdup(const char *s, char **out)
{
    return am_strndup(s, strlen(s), out);
}

void am_free(void *ptr_ptr)
{
    free(pointer_get(ptr_ptr));
    pointer_set(ptr_ptr, NULL);
}
