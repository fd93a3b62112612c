/* device_cpu: host memory; host and device addresses are the same. */
#include "device_internal.h"

#include <errno.h>
#include <sys/mman.h>

static int map_cpu(size_t mapped, am_region *out)
{
    out->device = out->host = am_device_map_aligned(mapped, PROT_READ | PROT_WRITE, -1);
    return out->device ? 0 : errno;
}

static void unmap_cpu(size_t mapped, am_region *r)
{
    munmap(r->device, mapped);
}

const am_device_backend am_device_cpu = {"cpu", map_cpu, unmap_cpu};
