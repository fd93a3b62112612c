/* device_internal: the vtable behind device.h.  A backend says only how memory is mapped; copying and kernels are the same
 * for cpu and guarded, because both run kernels/cpu at the address `device`. */
#ifndef AM_DEVICE_INTERNAL_H
#define AM_DEVICE_INTERNAL_H

#include "device/device.h"

#define AM_DEVICE_HUGE_PAGE ((size_t)2 << 20)
#define AM_DEVICE_LARGE ((size_t)4 << 20) /* from here on: aligned to huge pages, and made of them where wanted */

typedef struct am_device_backend {
    const char *name;
    /** Map `mapped` bytes (a multiple of the page) and set device and host of *out.  0, or an errno. */
    int (*map)(size_t mapped, am_region *out);
    void (*unmap)(size_t mapped, am_region *r);
} am_device_backend;

extern const am_device_backend am_device_cpu, am_device_guarded;

struct am_device {
    const am_device_backend *backend;
    int    threads;
    bool   huge_pages;
    size_t bytes; /* sum of the regions' bytes */
};

/** Base address of `mapped` bytes aligned to a huge page, or NULL with errno: fd < 0 anonymous memory, else a shared view. */
void *am_device_map_aligned(size_t mapped, int protection, int fd);

#endif
