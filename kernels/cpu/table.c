/* table: the rows of the CPU backend, in the order of AM_CPU_KERNEL_LIST, and finding one by name.
 * The rows stand in the operators' files; C cannot copy them into one array at compile time: the first caller
 * does. */
#include "kernels_cpu.h"

#include <pthread.h>
#include <string.h>

enum {
#define X(op) ROW_##op,
    AM_CPU_KERNEL_LIST(X)
#undef X
        ROW_COUNT
};

static am_kernel rows[ROW_COUNT]; /* constant once filled */
static pthread_once_t rows_once = PTHREAD_ONCE_INIT;

static void fill_rows(void)
{
#define X(op) rows[ROW_##op] = am_kernel_##op;
    AM_CPU_KERNEL_LIST(X)
#undef X
}

const am_kernel *am_kernels_cpu_table(int *count)
{
    pthread_once(&rows_once, fill_rows);
    if (count) *count = ROW_COUNT;
    return rows;
}

const am_kernel *am_kernels_cpu_find(const char *name)
{
    int count;
    const am_kernel *table = am_kernels_cpu_table(&count);
    for (int i = 0; i < count; i++)
        if (strcmp(table[i].name, name) == 0) return &table[i];
    return NULL;
}
