/* counters.c: one group of events a thread, so that a read is one system call a thread and its figures belong
 * together. The leader is whichever event of the list is offered first; an event that does not open on every
 * thread is left out. */
#include "train/counters.h"

#include <errno.h>
#include <linux/perf_event.h>
#include <omp.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define CACHE_MISS(cache) ((cache) | PERF_COUNT_HW_CACHE_OP_READ << 8 | PERF_COUNT_HW_CACHE_RESULT_MISS << 16)

static const struct {
    uint32_t type;
    uint64_t config;
} events[AM_COUNTER_COUNT] = {
    [AM_COUNTER_CYCLES] = {PERF_TYPE_HARDWARE, PERF_COUNT_HW_CPU_CYCLES},
    [AM_COUNTER_INSTRUCTIONS] = {PERF_TYPE_HARDWARE, PERF_COUNT_HW_INSTRUCTIONS},
    [AM_COUNTER_LLC] = {PERF_TYPE_HARDWARE, PERF_COUNT_HW_CACHE_MISSES},
    [AM_COUNTER_L1D] = {PERF_TYPE_HW_CACHE, CACHE_MISS(PERF_COUNT_HW_CACHE_L1D)},
    [AM_COUNTER_DTLB] = {PERF_TYPE_HW_CACHE, CACHE_MISS(PERF_COUNT_HW_CACHE_DTLB)},
    [AM_COUNTER_FAULTS] = {PERF_TYPE_SOFTWARE, PERF_COUNT_SW_PAGE_FAULTS},
};

typedef struct thread_group {
    int fd[AM_COUNTER_COUNT];    /* -1: not open; the first that is open leads */
    int error[AM_COUNTER_COUNT]; /* errno */
} thread_group;

struct am_counters {
    thread_group *group; /* by thread */
    int threads;
    bool have[AM_COUNTER_COUNT];
    char missing[512];
};

const char *am_counter_name(am_counter c)
{
    static const char *const names[] = {
#define X(e, name, title) name,
        AM_COUNTER_LIST(X)
#undef X
    };
    return names[c];
}

const char *am_counter_title(am_counter c)
{
    static const char *const titles[] = {
#define X(e, name, title) title,
        AM_COUNTER_LIST(X)
#undef X
    };
    return titles[c];
}

/* `wanted` NULL: every event.  All of the calling thread. */
static void open_group(thread_group *g, const bool *wanted)
{
    int leader = -1;
    for (int i = 0; i < AM_COUNTER_COUNT; i++) {
        g->fd[i] = -1;
        if (wanted && !wanted[i]) continue;
        struct perf_event_attr a;
        memset(&a, 0, sizeof a);
        a.size = sizeof a;
        a.type = events[i].type;
        a.config = events[i].config;
        a.exclude_kernel = a.exclude_hv = 1;
        a.read_format = PERF_FORMAT_GROUP | PERF_FORMAT_TOTAL_TIME_ENABLED | PERF_FORMAT_TOTAL_TIME_RUNNING;
        g->fd[i] = (int)syscall(SYS_perf_event_open, &a, 0, -1, leader, PERF_FLAG_FD_CLOEXEC);
        g->error[i] = g->fd[i] < 0 ? errno : 0;
        if (leader < 0) leader = g->fd[i];
    }
}

static void close_group(thread_group *g)
{
    for (int i = 0; i < AM_COUNTER_COUNT; i++) {
        if (g->fd[i] >= 0) close(g->fd[i]);
        g->fd[i] = -1;
    }
}

/* "cycles, LLC miss: not offered here (perf_event_open: …)": one sentence, with the first error. */
static am_status tell_missing(am_counters *c)
{
    am_status st = AM_OK;
    am_str s = {0};
    int error = 0;
    for (int i = 0; i < AM_COUNTER_COUNT; i++) {
        if (c->have[i]) continue;
        AM_TRY(am_str_printf(&s, "%s%s", s.len ? ", " : "", am_counter_name((am_counter)i)));
        for (int t = 0; t < c->threads && !error; t++) error = c->group[t].error[i];
    }
    if (!s.len) goto done;
    AM_TRY(am_str_printf(&s, ": not counted: perf_event_open: %s%s", strerror(error),
                         error == EACCES || error == EPERM
                             ? "; kernel.perf_event_paranoid of 2 or less would allow it"
                         : error == ENOENT || error == EOPNOTSUPP
                             ? "; the processor, or the virtual machine it is, offers none"
                             : ""));
    snprintf(c->missing, sizeof c->missing, "%s", s.s);
done:
    am_str_release(&s);
    return st;
}

am_status am_counters_open(int threads, am_counters **out)
{
    am_status st = AM_OK;
    am_counters *c = NULL;
    AM_TRY(am_calloc(1, sizeof *c, &c));
    AM_TRY(am_calloc((size_t)threads, sizeof *c->group, &c->group));
    c->threads = threads;
    for (int i = 0; i < AM_COUNTER_COUNT; i++) {
        c->have[i] = true;
        for (int t = 0; t < threads; t++) c->group[t].fd[i] = -1;
    }
#pragma omp parallel num_threads(threads)
    open_group(&c->group[omp_get_thread_num()], NULL);
    for (int t = 0; t < threads; t++)
        for (int i = 0; i < AM_COUNTER_COUNT; i++) c->have[i] = c->have[i] && c->group[t].fd[i] >= 0;
    AM_TRY(tell_missing(c));
    for (int t = 0; t < threads && c->missing[0]; t++) close_group(&c->group[t]);
    if (c->missing[0]) {
#pragma omp parallel num_threads(threads)
        open_group(&c->group[omp_get_thread_num()], c->have);
    }
    *out = c;
    c = NULL;
done:
    am_counters_close(&c);
    return st;
}

void am_counters_close(am_counters **pc)
{
    if (!pc || !*pc) return;
    for (int t = 0; (*pc)->group && t < (*pc)->threads; t++) close_group(&(*pc)->group[t]);
    am_free(&(*pc)->group);
    am_free(pc);
}

bool am_counters_have(const am_counters *c, am_counter which)
{
    return c->have[which];
}

const char *am_counters_missing(const am_counters *c)
{
    return c->missing;
}

static void add_group(const am_counters *c, const thread_group *g, am_counts *sum)
{
    struct {
        uint64_t events, enabled, running, value[AM_COUNTER_COUNT];
    } told;
    int leader = 0, next = 0;
    while (leader < AM_COUNTER_COUNT && !c->have[leader]) leader++;
    if (leader == AM_COUNTER_COUNT || g->fd[leader] < 0) return;
    if (read(g->fd[leader], &told, sizeof told) <= 0 || told.running == 0) return;
    double scale = (double)told.enabled / (double)told.running;
    for (int i = leader; i < AM_COUNTER_COUNT && (uint64_t)next < told.events; i++)
        if (c->have[i]) sum->of[i] += scale * (double)told.value[next++];
}

am_counts am_counters_read(const am_counters *c)
{
    am_counts sum = {{0}};
    for (int t = 0; t < c->threads; t++) add_group(c, &c->group[t], &sum);
    return sum;
}
