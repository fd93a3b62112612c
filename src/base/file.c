/* Files: whole reads, atomic writes, exact positional transfers, directories; and the monotonic clock. */
#include "base/base.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

/* one transfer stays below the kernel's limit of 2^31 - 4096 bytes a call */
enum { MAX_TRANSFER = 1 << 30 };

am_status am_file_read(const char *path, size_t max_bytes, char **out, size_t *len)
{
    am_status st = AM_OK;
    char *data = NULL;
    size_t used = 0, cap = 0;
    *out = NULL;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    AM_CHECK(fd >= 0, AM_ERR_IO, "cannot open %s: %s", path, strerror(errno));
    struct stat info;
    AM_CHECK(fstat(fd, &info) == 0, AM_ERR_IO, "cannot look at %s: %s", path, strerror(errno));
    AM_CHECK(!S_ISDIR(info.st_mode), AM_ERR_IO, "%s is a directory, a file was expected", path);
    AM_CHECK(info.st_size < 0 || (uint64_t)info.st_size <= max_bytes, AM_ERR_IO,
             "%s has %" PRId64 " bytes, more than the %zu allowed", path, (int64_t)info.st_size, max_bytes);
    AM_TRY(am_grow(&data, &cap, (size_t)info.st_size + 1, 1));
    for (;;) { /* pipes and /proc files tell no size: read until the end */
        AM_TRY(am_grow(&data, &cap, used + 2, 1));
        size_t room = cap - used - 1;
        ssize_t n = read(fd, data + used, room < MAX_TRANSFER ? room : MAX_TRANSFER);
        if (n < 0 && errno == EINTR) continue;
        AM_CHECK(n >= 0, AM_ERR_IO, "cannot read %s: %s", path, strerror(errno));
        if (n == 0) break;
        used += (size_t)n;
        AM_CHECK(used <= max_bytes, AM_ERR_IO, "%s has more than the %zu bytes allowed", path, max_bytes);
    }
    data[used] = '\0';
    if (len != NULL) *len = used;
    *out = data;
    data = NULL;
done:
    am_free(&data);
    if (fd >= 0) close(fd);
    return st;
}

static am_status write_full(int fd, const char *data, size_t len, const char *path)
{
    while (len > 0) {
        ssize_t n = write(fd, data, len < MAX_TRANSFER ? len : MAX_TRANSFER);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return am_fail(AM_ERR_IO, "cannot write %s: %s", path, strerror(errno));
        data += n;
        len -= (size_t)n;
    }
    return AM_OK;
}

/* The rename is durable only when the directory that holds the name is. */
static am_status sync_directory_of(const char *path)
{
    am_status st = AM_OK;
    char *dir = NULL;
    int fd = -1;
    const char *slash = strrchr(path, '/');
    if (slash == NULL)
        AM_TRY(am_strdup(".", &dir));
    else
        AM_TRY(am_strndup(path, slash == path ? 1 : (size_t)(slash - path), &dir));
    fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    AM_CHECK(fd >= 0, AM_ERR_IO, "cannot open the directory %s: %s", dir, strerror(errno));
    /* some network file systems refuse fsync of a directory: nothing more can be done there */
    AM_CHECK(am_fsync(fd) == 0 || errno == EINVAL || errno == ENOTSUP, AM_ERR_IO,
             "cannot flush the directory %s: %s", dir, strerror(errno));
done:
    if (fd >= 0) close(fd);
    am_free(&dir);
    return st;
}

am_status am_file_write_atomic(const char *path, const void *data, size_t len)
{
    am_status st = AM_OK;
    am_str temporary = {0};
    int fd = -1;
    bool made = false;
    AM_TRY(am_str_printf(&temporary, "%s.tmp-%ld", path, (long)getpid()));
    fd = open(temporary.s, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    AM_CHECK(fd >= 0, AM_ERR_IO, "cannot create %s: %s", temporary.s, strerror(errno));
    made = true;
    AM_TRY(write_full(fd, data, len, temporary.s));
    AM_CHECK(am_fsync(fd) == 0, AM_ERR_IO, "cannot flush %s: %s", temporary.s, strerror(errno));
    int closed = close(fd);
    fd = -1;
    AM_CHECK(closed == 0, AM_ERR_IO, "cannot close %s: %s", temporary.s, strerror(errno));
    AM_CHECK(rename(temporary.s, path) == 0, AM_ERR_IO, "cannot rename %s to %s: %s", temporary.s, path,
             strerror(errno));
    made = false;
    AM_TRY(sync_directory_of(path));
done:
    if (fd >= 0) close(fd);
    if (made) unlink(temporary.s);
    am_str_release(&temporary);
    return st;
}

am_status am_mkdirs(const char *path)
{
    am_status st = AM_OK;
    char *p = NULL;
    struct stat info;
    AM_CHECK(path[0] != '\0', AM_ERR_IO, "cannot make a directory with an empty name");
    AM_TRY(am_strdup(path, &p));
    for (char *c = p + 1;; c++) {
        if (*c != '/' && *c != '\0') continue;
        char kept = *c;
        *c = '\0';
        if (mkdir(p, 0777) != 0) { /* EEXIST, or EROFS and EACCES on a parent that is there already */
            int why = errno;
            AM_CHECK(stat(p, &info) == 0 && S_ISDIR(info.st_mode), AM_ERR_IO,
                     "cannot make the directory %s: %s", p, strerror(why));
        }
        *c = kept;
        if (kept == '\0') break;
    }
done:
    am_free(&p);
    return st;
}

am_status am_path_join(const char *dir, const char *name, char **out)
{
    am_status st = AM_OK;
    am_str s = {0};
    size_t n = strlen(dir);
    *out = NULL;
    if (name[0] == '/' || n == 0)
        AM_TRY(am_str_printf(&s, "%s", name));
    else
        AM_TRY(am_str_printf(&s, "%s%s%s", dir, dir[n - 1] == '/' ? "" : "/", name));
    *out = s.s;
    s = (am_str){0};
done:
    am_str_release(&s);
    return st;
}

bool am_path_exists(const char *path)
{
    struct stat info;
    return stat(path, &info) == 0;
}

am_status am_pread_full(int fd, void *buf, size_t n, int64_t offset, const char *path)
{
    char *p = buf;
    while (n > 0) {
        ssize_t got = pread(fd, p, n < MAX_TRANSFER ? n : MAX_TRANSFER, (off_t)offset);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0)
            return am_fail(AM_ERR_IO, "cannot read %s at byte %" PRId64 ": %s", path, offset,
                           strerror(errno));
        if (got == 0)
            return am_fail(AM_ERR_IO,
                           "%s is truncated: it ends at byte %" PRId64 ", %zu bytes more were expected", path,
                           offset, n);
        p += got;
        n -= (size_t)got;
        offset += got;
    }
    return AM_OK;
}

am_status am_pwrite_full(int fd, const void *buf, size_t n, int64_t offset, const char *path)
{
    const char *p = buf;
    while (n > 0) {
        ssize_t put = pwrite(fd, p, n < MAX_TRANSFER ? n : MAX_TRANSFER, (off_t)offset);
        if (put < 0 && errno == EINTR) continue;
        if (put < 0)
            return am_fail(AM_ERR_IO, "cannot write %s at byte %" PRId64 ": %s", path, offset,
                           strerror(errno));
        p += put;
        n -= (size_t)put;
        offset += put;
    }
    return AM_OK;
}

int am_fsync(int fd)
{
    int failed;
    do failed = fsync(fd);
    while (failed != 0 && errno == EINTR);
    return failed;
}

double am_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}
