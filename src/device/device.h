/* device: where values live and kernels run.  A small vtable: cpu (host memory, the kernels of kernels/cpu), and the test
 * device guarded (same kernels, but its memory is unreadable for host code: a memfd mapped twice, PROT_NONE for the host
 * address, readable and writable at the address that only kernels and comm see).  cuda comes later behind the same table. */
#ifndef AM_DEVICE_H
#define AM_DEVICE_H

#include "base/base.h"
#include "kernels.h"

typedef struct am_device am_device;

/* A region: one allocation made before the first step.  `host` is what host code may keep and print but, on guarded and
 * cuda, never touch; kernels and comm get `device`. */
typedef struct am_region {
    char  *device; /* base address for kernels and comm, 4096-byte aligned (2 MiB when large) */
    char  *host;   /* base address as seen by host code; equals device on cpu */
    size_t bytes;
} am_region;

/** name: "cpu" or "guarded".  threads: size of every parallel region, >= 1. */
am_status   am_device_create(const char *name, int threads, am_device **out) AM_WARN_UNUSED;
void        am_device_free(am_device **d);
const char *am_device_name(const am_device *d);
int         am_device_threads(const am_device *d);
/** Ask for transparent huge pages for large regions allocated from here on?  A device begins with am_device_huge_pages_pay(): not in
 * a virtual machine (x86-64 tells), where a huge page that the host has to find first costs many times the small pages that the
 * guest has at hand (bench/results: 3.6 to 5.6 s for 2.5 GB instead of 1.0 s, and no faster step). */
void am_device_set_huge_pages(am_device *d, bool on);
bool am_device_huge_pages_pay(void);
/** Zeroes.  Their pages are taken by am_device_touch or by the first access. @return AM_ERR_MEMORY naming `what` and the bytes. */
am_status am_device_reserve(am_device *d, size_t bytes, const char *what, am_region *out) AM_WARN_UNUSED;
/** The compute threads take the pages of a part of a region (first touch); what stands there stays. */
am_status am_device_touch(const am_device *d, const am_region *r, size_t offset, size_t bytes) AM_WARN_UNUSED;
/** Both, for the whole region. */
am_status am_device_alloc(am_device *d, size_t bytes, const char *what, am_region *out) AM_WARN_UNUSED;
void      am_device_release(am_device *d, am_region *r);
/* The only two ways for host code to reach device memory; `offset` within the region, checked. */
am_status am_device_write(am_device *d, const am_region *r, size_t offset, const void *src, size_t bytes) AM_WARN_UNUSED;
am_status am_device_read(am_device *d, const am_region *r, size_t offset, void *dst, size_t bytes) AM_WARN_UNUSED;
/** The kernel row named `name`, or NULL. */
const am_kernel *am_device_kernel(const am_device *d, const char *name);
size_t am_device_bytes_allocated(const am_device *d);

#endif
