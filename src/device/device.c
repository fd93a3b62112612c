/* device: the functions of device.h that do not depend on the backend: choice, regions, first touch, checked
 * copies. Backends: device_cpu.c, device_guarded.c. */
#include "device_internal.h"

#include "cpu/kernels_cpu.h"

#ifdef __x86_64__
#include <cpuid.h>
#define HYPERVISOR_BIT (1u << 31) /* leaf 1, ecx: set by every hypervisor, never by a processor */
#endif
#include <errno.h>
#include <omp.h>
#include <string.h>
#include <sys/mman.h>

static const am_device_backend *const backends[] = {&am_device_cpu, &am_device_guarded};
#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23 /* linux/mman.h; glibc names it from 2.35 on */
#endif
#define BACKENDS (sizeof backends / sizeof *backends)
enum { SMALL_PAGE = 4096 };

bool am_device_huge_pages_pay(void)
{
#ifdef __x86_64__
    unsigned a, b, c, d;
    return !(__get_cpuid(1, &a, &b, &c, &d) && (c & HYPERVISOR_BIT));
#else
    return true;
#endif
}

void am_device_set_huge_pages(am_device *d, bool on)
{
    d->huge_pages = on;
}

am_status am_device_create(const char *name, int threads, am_device **out)
{
    am_status st = AM_OK;
    am_device *d = NULL;
    const am_device_backend *backend = NULL;
    for (size_t i = 0; i < BACKENDS; i++)
        if (strcmp(name, backends[i]->name) == 0) backend = backends[i];
    AM_CHECK(backend, AM_ERR_ENVIRONMENT,
             "there is no device \"%s\" in this program; it has cpu (and guarded, for tests)", name);
    AM_CHECK(threads >= 1, AM_ERR_CONFIG, "device %s: %d threads asked for, at least 1 is needed", name,
             threads);
    AM_TRY(am_kernels_cpu_isa_check());
    AM_TRY(am_calloc(1, sizeof *d, &d));
    d->backend = backend;
    d->threads = threads;
    d->huge_pages = am_device_huge_pages_pay();
    *out = d;
    d = NULL;
done:
    am_free(&d);
    return st;
}

void am_device_free(am_device **d)
{
    am_free(d);
}

const char *am_device_name(const am_device *d)
{
    return d->backend->name;
}
int am_device_threads(const am_device *d)
{
    return d->threads;
}
size_t am_device_bytes_allocated(const am_device *d)
{
    return d->bytes;
}
const am_kernel *am_device_kernel(const am_device *d, const char *name)
{
    return am_kernels_cpu_find(name);
}

void *am_device_map_aligned(size_t mapped, int protection, int fd)
{
    const int flags = fd < 0 ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED;
    if (mapped < AM_DEVICE_LARGE) {
        void *p = mmap(NULL, mapped, protection, flags, fd, 0);
        return p == MAP_FAILED ? NULL : p;
    }
    /* reserve a huge page more than needed, map over its aligned part, give the ends back */
    size_t reserved;
    if (!am_add_size(mapped, AM_DEVICE_HUGE_PAGE, &reserved)) {
        errno = ENOMEM;
        return NULL;
    }
    char *base = mmap(NULL, reserved, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (base == MAP_FAILED) return NULL;
    size_t before = (AM_DEVICE_HUGE_PAGE - (uintptr_t)base % AM_DEVICE_HUGE_PAGE) % AM_DEVICE_HUGE_PAGE;
    char *p = mmap(base + before, mapped, protection, flags | MAP_FIXED, fd, 0);
    if (p == MAP_FAILED) {
        int keep = errno;
        munmap(base, reserved);
        errno = keep;
        return NULL;
    }
    if (before) munmap(base, before);
    if (AM_DEVICE_HUGE_PAGE - before) munmap(p + mapped, AM_DEVICE_HUGE_PAGE - before);
    return p;
}

/* Size of the mapping behind a region; false when it does not fit a size_t. */
static bool mapped_size(size_t bytes, size_t *out)
{
    size_t page = bytes >= AM_DEVICE_LARGE ? AM_DEVICE_HUGE_PAGE : SMALL_PAGE;
    if (!am_add_size(bytes ? bytes : 1, page - 1, out)) return false;
    *out -= *out % page;
    return true;
}

am_status am_device_reserve(am_device *d, size_t bytes, const char *what, am_region *out)
{
    am_status st = AM_OK;
    size_t mapped;
    am_region r = {.bytes = bytes};
    int error = mapped_size(bytes, &mapped) ? d->backend->map(mapped, &r) : ENOMEM;
    /* advice only: a kernel without transparent huge pages refuses it and gives small ones */
    if (!error && d->huge_pages && bytes >= AM_DEVICE_LARGE) (void)madvise(r.device, mapped, MADV_HUGEPAGE);
    AM_CHECK(!error, AM_ERR_MEMORY, "device %s: no memory for %s: %zu bytes (%.2f GiB): %s", d->backend->name,
             what, bytes, (double)bytes / (1 << 30), strerror(error));
    d->bytes += bytes;
    *out = r;
done:
    return st;
}

void am_device_release(am_device *d, am_region *r)
{
    size_t mapped;
    if (!r->device || !mapped_size(r->bytes, &mapped)) return;
    d->backend->unmap(mapped, r);
    d->bytes -= r->bytes;
    *r = (am_region){0};
}

static am_status check_range(const am_device *d, const am_region *r, size_t offset, size_t bytes,
                             const char *verb)
{
    am_status st = AM_OK;
    size_t end;
    AM_CHECK(am_add_size(offset, bytes, &end) && end <= r->bytes, AM_ERR_INTERNAL,
             "device %s: %s of %zu bytes at offset %zu leaves a region of %zu bytes", d->backend->name, verb,
             bytes, offset, r->bytes);
done:
    return st;
}

/* Every compute thread touches its part first, so that its pages lie on its NUMA node; the kernel zeroes
 * them.  One call for all pages of a part where the kernel offers that (Linux 5.14), else one fault a page. */
am_status am_device_touch(const am_device *d, const am_region *r, size_t offset, size_t bytes)
{
    am_status st = AM_OK;
    AM_TRY(check_range(d, r, offset, bytes, "touch"));
    size_t first = offset - offset % SMALL_PAGE;
#pragma omp parallel num_threads(d->threads)
    {
        int64_t begin, end;
        am_cpu_part((int64_t)(offset + bytes - first), SMALL_PAGE, omp_get_num_threads(), omp_get_thread_num(),
                    &begin, &end);
        char *from = r->device + first + begin;
        if (begin < end && madvise(from, (size_t)(end - begin), MADV_POPULATE_WRITE) != 0)
            for (int64_t at = 0; at < end - begin; at += SMALL_PAGE) *(volatile char *)(from + at) += 0;
    }
done:
    return st;
}

am_status am_device_alloc(am_device *d, size_t bytes, const char *what, am_region *out)
{
    am_status st = AM_OK;
    AM_TRY(am_device_reserve(d, bytes, what, out));
    AM_TRY(am_device_touch(d, out, 0, bytes));
done:
    return st;
}

am_status am_device_write(am_device *d, const am_region *r, size_t offset, const void *src, size_t bytes)
{
    am_status st = AM_OK;
    AM_TRY(check_range(d, r, offset, bytes, "write"));
    if (bytes) memcpy(r->device + offset, src, bytes);
done:
    return st;
}

am_status am_device_read(am_device *d, const am_region *r, size_t offset, void *dst, size_t bytes)
{
    am_status st = AM_OK;
    AM_TRY(check_range(d, r, offset, bytes, "read"));
    if (bytes) memcpy(dst, r->device + offset, bytes);
done:
    return st;
}
