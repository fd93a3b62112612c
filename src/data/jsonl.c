/* JSON lines: a buffered reader over zlib, which reads plain files as they are.
 * A line is what lies between two "\n"; nothing else splits (Python's splitlines() would also cut at U+2028,
 * U+0085 …). Byte ranges serve prepare's workers: a line belongs to the range that holds its first byte. */
#include "data/data.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

#define BUFFER_BYTES   ((size_t)1 << 18)
#define MAX_LINE_BYTES ((size_t)1 << 28)

struct am_jsonl {
    char *path;
    gzFile gz;
    char *buffer;
    size_t have, used;  /* bytes in the buffer, and of those consumed */
    int64_t consumed;   /* offset in the (uncompressed) file of the next byte */
    int64_t first, end; /* as opened */
    int64_t lines;      /* lines consumed since `first` */
    char *line;         /* the current line */
    size_t line_len, line_cap;
    bool eof;
};

static am_status fill(am_jsonl *r)
{
    am_status st = AM_OK;
    int got = gzread(r->gz, r->buffer, (unsigned)BUFFER_BYTES);
    int code = Z_OK;
    const char *text = gzerror(r->gz, &code);
    r->have = got > 0 ? (size_t)got : 0;
    r->used = 0;
    if (code == Z_BUF_ERROR)
        AM_FAIL(AM_ERR_DATA, "%s: the gzip stream ends before its end: the file is cut off; copy it again",
                r->path);
    if (got < 0 || (code != Z_OK && code != Z_STREAM_END)) {
        if (code == Z_ERRNO) AM_FAIL(AM_ERR_IO, "%s: cannot be read: %s", r->path, strerror(errno));
        AM_FAIL(AM_ERR_DATA, "%s: the gzip stream is corrupt after line %" PRId64 ": %s", r->path, r->lines,
                text);
    }
    r->eof = got == 0;
done:
    return st;
}

/* Append bytes up to and including the next "\n", which is not stored; *ended: there was nothing left at all.
 */
static am_status read_raw_line(am_jsonl *r, bool *ended)
{
    am_status st = AM_OK;
    bool any = false;
    r->line_len = 0;
    *ended = false;
    for (;;) {
        if (r->used == r->have) {
            AM_TRY(fill(r));
            if (r->eof) break;
        }
        const char *from = r->buffer + r->used;
        size_t left = r->have - r->used;
        const char *nl = memchr(from, '\n', left);
        size_t n = nl ? (size_t)(nl - from) : left;
        AM_CHECK(r->line_len + n <= MAX_LINE_BYTES, AM_ERR_DATA,
                 "%s:%" PRId64 ": a line of more than %zu MiB: is this a JSONL file (one sample a line)?",
                 r->path, am_jsonl_line_number(r) + 1, MAX_LINE_BYTES >> 20);
        AM_TRY(am_grow(&r->line, &r->line_cap, r->line_len + n + 1, 1));
        memcpy(r->line + r->line_len, from, n);
        r->line_len += n;
        r->used += n + (nl != NULL);
        r->consumed += (int64_t)n + (nl != NULL);
        any = true;
        if (nl) break;
    }
    *ended = !any;
    if (any) {
        r->line[r->line_len] = '\0';
        r->lines++;
    }
done:
    return st;
}

static bool is_blank(const char *s, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (s[i] != ' ' && s[i] != '\t' && s[i] != '\r') return false;
    return true;
}

/* Go to `first`; if that is inside a line, to the start of the next one. */
static am_status seek_first(am_jsonl *r)
{
    am_status st = AM_OK;
    bool ended;
    if (r->first == 0) goto done;
    AM_CHECK(gzdirect(r->gz), AM_ERR_INTERNAL, "%s: a byte range of a gzip file was asked for", r->path);
    AM_CHECK(gzseek(r->gz, (z_off_t)(r->first - 1), SEEK_SET) >= 0, AM_ERR_IO,
             "%s: cannot seek to byte %" PRId64, r->path, r->first - 1);
    r->consumed = r->first - 1;
    AM_TRY(read_raw_line(r, &ended));
    r->lines = 0;
done:
    return st;
}

am_status am_jsonl_open(const char *path, int64_t first, int64_t end, am_jsonl **out)
{
    am_status st = AM_OK;
    am_jsonl *r = NULL;
    int fd = -1;
    struct stat info;
    size_t len = strlen(path);
    AM_TRY(am_calloc(1, sizeof *r, &r));
    AM_TRY(am_strdup(path, &r->path));
    AM_TRY(am_calloc(BUFFER_BYTES, 1, &r->buffer));
    r->first = first;
    r->end = end;
    fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* not to hang on a FIFO */
    AM_CHECK(fd >= 0, AM_ERR_DATA, "%s: cannot be opened: %s", path, strerror(errno));
    AM_CHECK(fstat(fd, &info) == 0 && S_ISREG(info.st_mode), AM_ERR_DATA, "%s: not a regular file", path);
    AM_CHECK(len < 4 || strcmp(path + len - 4, ".zst") != 0, AM_ERR_DATA,
             "%s: zstd is not read; unpack it (zstd -d) or use gzip", path);
    r->gz = gzdopen(fd, "rb");
    AM_CHECK(r->gz, AM_ERR_MEMORY, "%s: zlib could not open it", path);
    fd = -1; /* owned by zlib now */
    AM_CHECK(gzbuffer(r->gz, (unsigned)BUFFER_BYTES) == 0, AM_ERR_MEMORY, "%s: zlib refused a buffer", path);
    AM_CHECK(len < 3 || strcmp(path + len - 3, ".gz") != 0 || info.st_size == 0 || !gzdirect(r->gz),
             AM_ERR_DATA, "%s: named .gz but not a gzip file", path);
    AM_TRY(seek_first(r));
    *out = r;
    r = NULL;
done:
    if (fd >= 0) close(fd);
    am_jsonl_close(&r);
    return st;
}

am_status am_jsonl_next(am_jsonl *r, const char **line, size_t *len)
{
    am_status st = AM_OK;
    bool ended = false;
    *line = NULL;
    *len = 0;
    for (;;) {
        if (r->end >= 0 && r->consumed >= r->end) goto done;
        bool at_start = r->consumed == 0;
        AM_TRY(read_raw_line(r, &ended));
        if (ended) goto done;
        AM_CHECK(!at_start || r->line_len < 3 || memcmp(r->line, "\xef\xbb\xbf", 3) != 0, AM_ERR_DATA,
                 "%s:1: starts with a byte order mark; save it as UTF-8 without one", r->path);
        if (!is_blank(r->line, r->line_len)) break;
    }
    *line = r->line;
    *len = r->line_len;
done:
    return st;
}

/* Lines that start before `first`, by reading the file once more. */
static int64_t count_lines_before(const am_jsonl *r)
{
    char chunk[1 << 14];
    int64_t lines = 0, left = r->first;
    FILE *f = fopen(r->path, "rb");
    if (!f) return -1;
    bool at_start = true;
    while (left > 0) {
        size_t n = fread(chunk, 1, (size_t)am_min_i64(left, (int64_t)sizeof chunk), f);
        if (n == 0) break;
        for (size_t i = 0; i < n; i++) {
            lines += at_start;
            at_start = chunk[i] == '\n';
        }
        left -= (int64_t)n;
    }
    fclose(f);
    return lines;
}

int64_t am_jsonl_line_number(const am_jsonl *r)
{
    int64_t before = r->first > 0 ? count_lines_before(r) : 0;
    return before < 0 ? 0 : before + r->lines;
}

void am_jsonl_close(am_jsonl **r)
{
    if (!*r) return;
    if ((*r)->gz) gzclose((*r)->gz);
    am_free(&(*r)->path);
    am_free(&(*r)->buffer);
    am_free(&(*r)->line);
    am_free(r);
}
