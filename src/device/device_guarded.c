/* device_guarded: the test device.  A region is a memory file mapped twice: readable and writable at
 * `device`, without any access at `host`.  Host code that follows a pointer it was given dies at the spot, as
 * it would with a GPU's memory. */
#include "device_internal.h"

#include <errno.h>
#include <sys/mman.h>
#include <unistd.h>

static int map_guarded(size_t mapped, am_region *out)
{
    int error = 0, fd = memfd_create("automodel-guarded", MFD_CLOEXEC);
    if (fd < 0) return errno;
    if (mapped > (size_t)INT64_MAX)
        error = EFBIG;
    else if (ftruncate(fd, (off_t)mapped))
        error = errno;
    if (!error && !(out->device = am_device_map_aligned(mapped, PROT_READ | PROT_WRITE, fd))) error = errno;
    if (!error && !(out->host = am_device_map_aligned(mapped, PROT_NONE, fd))) {
        error = errno;
        munmap(out->device, mapped);
        out->device = NULL;
    }
    close(fd); /* the mappings keep the memory */
    return error;
}

static void unmap_guarded(size_t mapped, am_region *r)
{
    munmap(r->device, mapped);
    munmap(r->host, mapped);
}

const am_device_backend am_device_guarded = {"guarded", map_guarded, unmap_guarded};
