/* process_memory.c: readers of /proc/self and mincore. */
#include "train/process_memory.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

/* Not a FILE: that would ask for memory. */
static bool read_text(const char *path, char *text, size_t size)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd >= 0 ? read(fd, text, size - 1) : -1;
    if (fd >= 0) close(fd);
    text[n > 0 ? n : 0] = '\0';
    return n > 0;
}

static int64_t kilobytes(const char *text, const char *key)
{
    const char *at = strstr(text, key);
    return at ? strtoll(at + strlen(key), NULL, 10) * 1024 : 0;
}

am_process_memory am_process_memory_now(void)
{
    char text[4096];
    if (!read_text("/proc/self/status", text, sizeof text)) return (am_process_memory){0};
    return (am_process_memory){.peak = kilobytes(text, "VmHWM:"),
                               .now = kilobytes(text, "VmRSS:"),
                               .anon = kilobytes(text, "RssAnon:"),
                               .file = kilobytes(text, "RssFile:"),
                               .shmem = kilobytes(text, "RssShmem:"),
                               .page_tables = kilobytes(text, "VmPTE:"),
                               .huge = kilobytes(text, "HugetlbPages:")};
}

double am_process_started(void)
{
    char text[1024];
    struct timespec t;
    double now = am_now(), age = 0;
    if (!read_text("/proc/self/stat", text, sizeof text) || clock_gettime(CLOCK_BOOTTIME, &t) != 0)
        return now;
    const char *at = strrchr(text, ')'); /* the name before it may hold anything */
    for (int field = 2; at && field < 22; field++) at = strchr(at + 1, ' ');
    if (at)
        age = (double)t.tv_sec + 1e-9 * (double)t.tv_nsec -
              (double)strtoull(at, NULL, 10) / (double)sysconf(_SC_CLK_TCK);
    return now - (age > 0 ? age : 0);
}

/* ---- mappings
 * ------------------------------------------------------------------------------------------------ */

const char *am_mapping_name(am_mapping_kind k)
{
    static const char *const names[] = {
#define X(e, text) text,
        AM_MAPPING_KINDS(X)
#undef X
    };
    return names[k];
}

static bool ends_with(const char *s, const char *end)
{
    size_t n = strlen(s), m = strlen(end);
    return n >= m && strcmp(s + n - m, end) == 0;
}

/* Of a header line of smaps, "7f00-7f01 r-xp 00000000 08:01 1234  /usr/lib/libc.so.6". */
static am_mapping_kind kind_of(const char *line)
{
    const char *path = strpbrk(line, "/[");
    if (!path) return AM_MAPPING_ANON;
    if (strncmp(path, "[heap", 5) == 0) return AM_MAPPING_HEAP;
    if (strncmp(path, "[stack", 6) == 0) return AM_MAPPING_STACK;
    if (strncmp(path, "[anon", 5) == 0) return AM_MAPPING_ANON;
    if (strncmp(path, "/dev/shm/", 9) == 0 || strncmp(path, "/memfd:", 7) == 0 ||
        strncmp(path, "/SYSV", 5) == 0 || strncmp(path, "/dev/zero", 9) == 0)
        return AM_MAPPING_SHARED;
    if (ends_with(path, ".safetensors")) return AM_MAPPING_WEIGHTS;
    if (ends_with(path, ".h5") || ends_with(path, ".hdf5")) return AM_MAPPING_DATA;
    if (path[0] == '[' || strstr(path, ".so") || ends_with(path, "/automodel")) return AM_MAPPING_CODE;
    return AM_MAPPING_OTHER;
}

am_status am_process_mappings(int64_t bytes[AM_MAPPING_COUNT])
{
    am_status st = AM_OK;
    char line[4096];
    am_mapping_kind kind = AM_MAPPING_OTHER;
    FILE *f = fopen("/proc/self/smaps", "re");
    memset(bytes, 0, AM_MAPPING_COUNT * sizeof *bytes);
    AM_CHECK(f, AM_ERR_IO, "/proc/self/smaps cannot be read: is /proc mounted?");
    while (fgets(line, sizeof line, f)) {
        line[strcspn(line, "\n")] = '\0';
        if (strncmp(line, "Rss:", 4) == 0)
            bytes[kind] += strtoll(line + 4, NULL, 10) * 1024;
        else if (line[0] < 'A' || line[0] > 'Z')
            kind = kind_of(line); /* an address: lower case */
    }
done:
    if (f) fclose(f);
    return st;
}

int64_t am_resident_bytes(const void *begin, size_t bytes)
{
    enum { PAGES = 4096 };
    unsigned char in[PAGES];
    const uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), first = (uintptr_t)begin, end = first + bytes;
    int64_t total = 0;
    for (uintptr_t at = first & ~(page - 1); at < end; at += PAGES * page) {
        uintptr_t pages = (end - at + page - 1) / page;
        if (pages > PAGES) pages = PAGES;
        if (mincore((void *)at, pages * page, in) != 0) return -1;
        for (uintptr_t i = 0; i < pages; i++) {
            uintptr_t from = at + i * page, to = from + page;
            if (in[i] & 1) total += (int64_t)((to < end ? to : end) - (from > first ? from : first));
        }
    }
    return total;
}
