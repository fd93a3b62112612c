/* Log lines to stderr and the AM_DEBUG=subsystem,… switch ("all" means every subsystem).
 * Rank and node are process-wide because the prefix of a line must not depend on which thread writes it. */
#include "base/base.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

static atomic_int log_rank = -1;
static char node_names[2][64]; /* the one that is shown, and the one that may be written */
static _Atomic(const char *) log_node;

void am_log_set_rank(int rank, const char *node)
{
    char *name = atomic_load(&log_node) == node_names[0] ? node_names[1] : node_names[0];
    if (node != NULL) snprintf(name, sizeof node_names[0], "%s", node);
    atomic_store(&log_node, node != NULL ? name : NULL);
    atomic_store(&log_rank, rank);
}

const char *am_log_label(int rank, char *out, size_t size)
{
    const char *node = atomic_load(&log_node);
    out[0] = '\0';
    if (rank >= 0)
        snprintf(out, size, "[rank %d%s%s] ", rank, node != NULL ? " " : "", node != NULL ? node : "");
    return out;
}

bool am_debug_enabled(const char *subsystem)
{
    const char *list = getenv("AM_DEBUG");
    size_t n = strlen(subsystem);
    while (list != NULL && *list != '\0') {
        size_t len = strcspn(list, ",");
        if (len == n && strncmp(list, subsystem, n) == 0) return true;
        if (len == 3 && strncmp(list, "all", 3) == 0) return true;
        list += len;
        if (*list == ',') list++;
    }
    return false;
}

void am_log(am_log_level level, const char *subsystem, const char *fmt, ...)
{
    static const char *const words[] = {"error: ", "warning: ", "", ""};
    int rank = atomic_load(&log_rank);
    if (level == AM_LOG_INFO && rank > 0) return;
    if (level == AM_LOG_DEBUG && !am_debug_enabled(subsystem)) return;

    char text[4096], prefix[AM_LOG_LABEL], tag[64] = "";
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    if (level == AM_LOG_DEBUG) snprintf(tag, sizeof tag, "%s: ", subsystem);
    /* one call a line, so that lines of several threads do not mix */
    fprintf(stderr, "automodel: %s%s%s%s\n", am_log_label(rank, prefix, sizeof prefix), words[level], tag,
            text);
}
