/* cgroup: how much memory and CPU time the control groups above this process leave it, for cgroup 2 (one
 * tree, "0::/path" in /proc/self/cgroup) and cgroup 1 (a tree per controller).  A limit anywhere between the
 * group and the root counts. In a container the path may not be visible below /sys/fs/cgroup: what is not
 * there is skipped, the root is always read. */
#include "topo_internal.h"

#include <stdlib.h>
#include <string.h>

#define UNLIMITED ((int64_t)1 << 60) /* cgroup 1 writes "no limit" as a number near 2^63 */
#define MAX_FILE  ((size_t)1 << 20)

/* A small file into a string; NULL when it cannot be read. */
static char *slurp(const char *path)
{
    char *text = NULL;
    size_t len;
    if (!am_path_exists(path)) return NULL;
    if (am_file_read(path, MAX_FILE, &text, &len) != AM_OK) am_error_clear();
    return text;
}

static char *slurp_in(const char *dir, const char *name)
{
    char path[1200];
    int n = snprintf(path, sizeof path, "%s/%s", dir, name);
    return n > 0 && (size_t)n < sizeof path ? slurp(path) : NULL;
}

/* The number behind `key` at the start of a line of `text` ("" = the text itself); -1 when missing or not a
 * number ("max"). */
static int64_t number_after(const char *text, const char *key)
{
    size_t n = strlen(key);
    for (const char *line = text; line; line = strchr(line, '\n') ? strchr(line, '\n') + 1 : NULL) {
        if (strncmp(line, key, n)) continue;
        char *end;
        long long v = strtoll(line + n, &end, 10);
        return end == line + n ? -1 : (int64_t)v;
    }
    return -1;
}

static int64_t number_in(const char *dir, const char *file, const char *key)
{
    char *text = slurp_in(dir, file);
    int64_t v = text ? number_after(text, key) : -1;
    am_free(&text);
    return v;
}

/* This process's path in the tree of `controller` ("" = cgroup 2) from the lines "id:controllers:path". */
static bool own_path(const char *table, const char *controller, char *out, size_t size)
{
    for (const char *line = table; line && *line; line = strchr(line, '\n') ? strchr(line, '\n') + 1 : NULL) {
        const char *names = strchr(line, ':'), *path = names ? strchr(names + 1, ':') : NULL;
        if (!path) continue;
        size_t len = (size_t)(path - names - 1), want = strlen(controller), end = strcspn(path + 1, "\n");
        bool match = len == want && strncmp(names + 1, controller, want) == 0;
        for (const char *p = names + 1; want && !match && p < path; p += strcspn(p, ",:") + 1)
            match = strcspn(p, ",:") == want && strncmp(p, controller, want) == 0;
        if (!match || end >= size) continue;
        memcpy(out, path + 1, end);
        out[end] = '\0';
        return true;
    }
    return false;
}

/* Calls visit for the group's directory and each one above it up to the root of its tree. */
typedef void (*visit_fn)(const char *dir, bool v2, void *context);
static void walk(const char *proc, const char *root, const char *controller, visit_fn visit, void *context)
{
    char path[512], dir[1100];
    char *table = slurp_in(proc, "self/cgroup");
    for (int v2 = 0; table && v2 < 2; v2++) {
        if (!own_path(table, v2 ? "" : controller, path, sizeof path)) continue;
        for (;;) {
            int n = snprintf(dir, sizeof dir, "%s%s%s%s", root, v2 ? "" : "/", v2 ? "" : controller, path);
            if (n > 0 && (size_t)n < sizeof dir) visit(dir, v2, context);
            char *slash = strrchr(path, '/');
            if (!slash || !path[0]) break;
            *slash = '\0';
        }
    }
    am_free(&table);
}

static void visit_memory(const char *dir, bool v2, void *context)
{
    am_topo_memory *m = context;
    const char *file = v2 ? "memory.max" : "memory.limit_in_bytes";
    int64_t limit = number_in(dir, file, "");
    if (limit < 0 || limit >= UNLIMITED) return;
    int64_t used = number_in(dir, v2 ? "memory.current" : "memory.usage_in_bytes", "");
    int64_t cache = number_in(dir, "memory.stat", v2 ? "inactive_file " : "total_inactive_file ");
    int64_t left = am_max_i64(0, limit - am_max_i64(0, used - am_max_i64(0, cache)));
    m->available_bytes = am_min_i64(m->available_bytes, left);
    if (m->limit_bytes >= 0 && m->limit_bytes <= limit) return;
    m->limit_bytes = limit;
    snprintf(m->limited_by, sizeof m->limited_by, "%.200s/%s", dir, file);
}

am_status am_topo_memory_read(const char *proc, const char *cgroup_root, am_topo_memory *out)
{
    am_status st = AM_OK;
    am_topo_memory m = {.limit_bytes = -1};
    char *text = slurp_in(proc, "meminfo");
    AM_CHECK(text, AM_ERR_ENVIRONMENT, "%s/meminfo cannot be read: the memory of this machine is unknown",
             proc);
    int64_t total = number_after(text, "MemTotal:"), available = number_after(text, "MemAvailable:");
    AM_CHECK(total > 0 && available >= 0, AM_ERR_ENVIRONMENT, "%s/meminfo lacks MemTotal or MemAvailable",
             proc);
    m.total_bytes = total * 1024;
    m.available_bytes = available * 1024;
    walk(proc, cgroup_root, "memory", visit_memory, &m);
    *out = m;
done:
    am_free(&text);
    return st;
}

am_status am_topo_memory_limit(am_topo_memory *out)
{
    return am_topo_memory_read("/proc", "/sys/fs/cgroup", out);
}

void am_topo_memory_allow(am_topo_memory *m, const am_topo_allocation *a)
{
    if (a->memory_per_node <= 0) return;
    m->available_bytes = am_min_i64(m->available_bytes, a->memory_per_node);
    if (m->limit_bytes >= 0 && m->limit_bytes <= a->memory_per_node) return;
    m->limit_bytes = a->memory_per_node;
    snprintf(m->limited_by, sizeof m->limited_by, "%s of Slurm job %s", a->memory_from, a->job);
}

static void visit_cpu(const char *dir, bool v2, void *context)
{
    double *quota = context;
    int64_t limit, period;
    if (v2) {
        char *text = slurp_in(dir, "cpu.max"); /* "200000 100000" or "max 100000" */
        limit = text ? number_after(text, "") : -1;
        period = limit > 0 && strchr(text, ' ') ? number_after(strchr(text, ' ') + 1, "") : -1;
        am_free(&text);
    } else {
        limit = number_in(dir, "cpu.cfs_quota_us", "");
        period = number_in(dir, "cpu.cfs_period_us", "");
    }
    if (limit <= 0 || period <= 0) return;
    double cpus = (double)limit / (double)period;
    if (*quota == 0 || cpus < *quota) *quota = cpus;
}

double am_topo_cpu_quota(const char *proc, const char *cgroup_root)
{
    double quota = 0;
    walk(proc, cgroup_root, "cpu", visit_cpu, &quota);
    return quota;
}
