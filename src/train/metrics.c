/* metrics.c: one JSON line a step, flushed; a progress line that rewrites itself on a terminal, plain lines in a log. */
#include "train/metrics.h"

#include <fcntl.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

struct am_metrics {
    FILE   *training, *validation;
    bool    terminal;
    double  seconds_per_step; /* running mean */
    double  last_print;
};

/* Keep the lines up to a step. */
static am_status drop_after(const char *path, int64_t step)
{
    am_status st = AM_OK;
    char *text = NULL;
    size_t len = 0;
    am_str kept = {0};
    if (!am_path_exists(path)) goto done;
    AM_TRY(am_file_read(path, (size_t)1 << 30, &text, &len));
    for (char *line = text; *line;) {
        char *end = strchr(line, '\n');
        size_t n = end ? (size_t)(end - line) + 1 : strlen(line);
        json_t *o = json_loadb(line, n, 0, NULL);
        if (o && end && json_integer_value(json_object_get(o, "step")) <= step) AM_TRY(am_str_append(&kept, line, n));
        json_decref(o);
        line += n;
    }
    AM_TRY(am_file_write_atomic(path, kept.s ? kept.s : "", kept.len));
done:
    am_free(&text);
    am_str_release(&kept);
    return st;
}

static am_status open_log(const char *dir, const char *name, int64_t resumed_at, FILE **out)
{
    am_status st = AM_OK;
    char *path = NULL;
    AM_TRY(am_path_join(dir, name, &path));
    AM_TRY(drop_after(path, resumed_at));
    *out = fopen(path, "a");
    AM_CHECK(*out, AM_ERR_IO, "%s cannot be written", path);
done:
    am_free(&path);
    return st;
}

am_status am_metrics_open(const char *run_dir, int64_t resumed_at, am_metrics **out)
{
    am_status st = AM_OK;
    am_metrics *m = NULL;
    AM_TRY(am_calloc(1, sizeof *m, &m));
    AM_TRY(open_log(run_dir, "training.jsonl", resumed_at, &m->training));
    AM_TRY(open_log(run_dir, "validation.jsonl", resumed_at, &m->validation));
    m->terminal = isatty(fileno(stderr));
    *out = m;
    m = NULL;
done:
    am_metrics_close(&m);
    return st;
}

void am_metrics_close(am_metrics **m)
{
    if (!m || !*m) return;
    if ((*m)->training) fclose((*m)->training);
    if ((*m)->validation) fclose((*m)->validation);
    if ((*m)->terminal) fprintf(stderr, "\n");
    am_free(m);
}

double am_metrics_peak_gib(void)
{
    char text[4096];
    const char *at = NULL;
    int fd = open("/proc/self/status", O_RDONLY | O_CLOEXEC); /* not a FILE: that would ask for memory in every step */
    ssize_t n = fd >= 0 ? read(fd, text, sizeof text - 1) : 0;
    if (fd >= 0) close(fd);
    text[n > 0 ? n : 0] = '\0';
    at = strstr(text, "VmHWM:");
    return at ? strtod(at + 6, NULL) / (1024 * 1024) : 0;
}

static void print_line(am_metrics *m, const am_step_metrics *s)
{
    double left = m->seconds_per_step * (double)(s->total_steps - s->step);
    char text[256];
    snprintf(text, sizeof text, "step %" PRId64 "/%" PRId64 "  loss %.4f  grad norm %.3f  lr %.2e  %.0f tokens/s  %.2f GiB  %dm%02ds left%s", s->step, s->total_steps,
             s->loss, s->grad_norm, s->lr, (double)s->tokens / s->seconds, s->mem_gib, (int)(left / 60), (int)left % 60, s->skipped ? "  SKIPPED: gradient not finite" : "");
    if (m->terminal) fprintf(stderr, "\r\033[K%s", text);
    else fprintf(stderr, "%s\n", text);
    fflush(stderr);
}

static am_status write_line(FILE *f, json_t *o)
{
    am_status st = AM_OK;
    AM_CHECK(o && json_dumpf(o, f, JSON_REAL_PRECISION(17)) == 0 && fputc('\n', f) != EOF && fflush(f) == 0, AM_ERR_IO, "the log of the run cannot be written");
done:
    json_decref(o);
    return st;
}

/* JSON has no NaN. */
static const char *number(double x, char out[32])
{
    if (isfinite(x)) snprintf(out, 32, "%.17g", x);
    else snprintf(out, 32, "null");
    return out;
}

/* The line of a step is put together on the stack: between steps nothing asks for memory. */
am_status am_metrics_step(am_metrics *m, const am_step_metrics *s)
{
    am_status st = AM_OK;
    char line[1024], x[6][32];
    double tps = (double)s->tokens / s->seconds;
    m->seconds_per_step = m->seconds_per_step > 0 ? 0.9 * m->seconds_per_step + 0.1 * s->seconds : s->seconds;
    print_line(m, s);
    int n = snprintf(line, sizeof line, "{\"step\": %" PRId64 ", \"epoch\": %" PRId64 ", \"timestamp\": %" PRId64 ".0, \"loss\": %s, \"grad_norm\": %s, "
                     "\"lr\": %s, \"mem\": %s, \"tps\": %s, \"tps_per_gpu\": %s, \"num_tokens_per_step\": %" PRId64 ", \"num_label_tokens\": %" PRId64
                     ", \"skipped\": %s}\n", s->step, s->epoch, (int64_t)time(NULL), number(s->loss, x[0]), number(s->grad_norm, x[1]), number(s->lr, x[2]),
                     number(s->mem_gib, x[3]), number(tps, x[4]), number(tps / s->ranks, x[5]), s->tokens, s->label_tokens, s->skipped ? "true" : "false");
    AM_CHECK(n > 0 && (size_t)n < sizeof line && fputs(line, m->training) != EOF && fflush(m->training) == 0, AM_ERR_IO, "training.jsonl cannot be written");
done:
    return st;
}

am_status am_metrics_validation(am_metrics *m, const char *name, int64_t step, int64_t epoch, double loss, double lr, int64_t label_tokens, double mem_gib)
{
    if (m->terminal) fprintf(stderr, "\r\033[K");
    fprintf(stderr, "%s loss %.4f after step %" PRId64 " (%" PRId64 " supervised tokens)\n", name, loss, step, label_tokens);
    return write_line(m->validation, json_pack("{s:I, s:I, s:f, s:s, s:f, s:f, s:I, s:f}", "step", (json_int_t)step, "epoch", (json_int_t)epoch, "timestamp",
                                               (double)time(NULL), "name", name, "val_loss", loss, "lr", lr, "num_label_tokens", (json_int_t)label_tokens, "mem", mem_gib));
}
