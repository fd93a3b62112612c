/* Status codes and the error trace.
 * The trace is the one thread-local of automodel (see base.h): a sentence, then up to AM_TRACE_FRAMES
 * frames, in fixed buffers so that running out of memory can itself be reported. */
#include "base/base.h"

#include <stdlib.h>
#include <string.h>

enum { AM_TRACE_SENTENCE = 4096, AM_TRACE_FRAMES = 32, AM_TRACE_WHAT = 160 };

typedef struct trace_frame {
    const char *file;
    int line;
    char what[AM_TRACE_WHAT];
} trace_frame;

typedef struct error_trace {
    am_status status;
    const char *file;
    int line;
    int num_frames;
    char sentence[AM_TRACE_SENTENCE];
    trace_frame frames[AM_TRACE_FRAMES];
} error_trace;

static _Thread_local error_trace trace;

static const struct {
    const char *name, *text;
    int exit_code;
} statuses[] = {
#define X(name, code, text) {#name, text, code},
    AM_STATUS_LIST(X)
#undef X
};

static bool known(am_status st)
{
    return (size_t)st < sizeof statuses / sizeof statuses[0];
}

const char *am_status_name(am_status st)
{
    return known(st) ? statuses[st].name : "unknown status";
}
const char *am_status_text(am_status st)
{
    return known(st) ? statuses[st].text : "unknown status";
}
int am_status_exit_code(am_status st)
{
    return known(st) ? statuses[st].exit_code : 1;
}

am_status am_fail_at(am_status st, const char *file, int line, const char *fmt, ...)
{
    /* The arguments may point into the sentence being replaced: format beside it first. */
    char sentence[AM_TRACE_SENTENCE];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(sentence, sizeof sentence, fmt, ap);
    va_end(ap);
    memcpy(trace.sentence, sentence, sizeof sentence);
    trace.status = st;
    trace.file = file;
    trace.line = line;
    trace.num_frames = 0;
    return st;
}

am_status am_trace_at(am_status st, const char *file, int line, const char *what)
{
    if (st == AM_OK || trace.num_frames == AM_TRACE_FRAMES) return st;
    trace_frame *f = &trace.frames[trace.num_frames++];
    f->file = file;
    f->line = line;
    snprintf(f->what, sizeof f->what, "%s", what);
    return st;
}

const char *am_error_message(void)
{
    return trace.sentence;
}

void am_error_clear(void)
{
    trace.status = AM_OK;
    trace.sentence[0] = '\0';
    trace.num_frames = 0;
}

void am_error_print(FILE *f, int rank)
{
    char prefix[AM_LOG_LABEL];
    am_log_label(rank, prefix, sizeof prefix);
    if (trace.sentence[0] == '\0') {
        fprintf(f, "automodel: %serror without a sentence\n", prefix);
        return;
    }
    fprintf(f, "automodel: %serror: %s\n", prefix, trace.sentence);
    if (!am_debug_enabled("trace")) return;
    fprintf(f, "automodel: %s  %s at %s:%d\n", prefix, am_status_name(trace.status), trace.file, trace.line);
    for (int i = 0; i < trace.num_frames; i++)
        fprintf(f, "automodel: %s  while doing %s at %s:%d\n", prefix, trace.frames[i].what,
                trace.frames[i].file, trace.frames[i].line);
}
