/* Log lines to stderr and the AM_DEBUG=subsystem,… switch ("all" means every subsystem).
 * The rank is process-wide because the prefix of a line must not depend on which thread writes it. */
#include "base/base.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

static atomic_int log_rank = -1;

void am_log_set_rank(int rank)
{
    atomic_store(&log_rank, rank);
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

    char text[4096], prefix[32] = "", tag[64] = "";
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    if (rank >= 0) snprintf(prefix, sizeof prefix, "[rank %d] ", rank);
    if (level == AM_LOG_DEBUG) snprintf(tag, sizeof tag, "%s: ", subsystem);
    /* one call a line, so that lines of several threads do not mix */
    fprintf(stderr, "automodel: %s%s%s%s\n", prefix, words[level], tag, text);
}
