/* directory.c: step directories.  A name counts only when it is exactly the one that am_step_dir makes: a
 * copy called step_00000100_backup is the user's and is neither read nor removed.  Nothing here follows a
 * symbolic link beneath the checkpoint directory. */
#include "ckpt/ckpt_internal.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { STEP_NAME_BYTES = 40, REMOVE_DEPTH = 16 };

static const char manifest_name[] = "manifest.json";

static void step_name(int64_t step, char out[STEP_NAME_BYTES])
{
    snprintf(out, STEP_NAME_BYTES, "step_%08" PRId64, step);
}

am_status am_step_dir(const char *dir, int64_t step, char **out)
{
    char name[STEP_NAME_BYTES];
    step_name(step, name);
    return am_path_join(dir, name, out);
}

static bool parse_step(const char *name, int64_t *step)
{
    char again[STEP_NAME_BYTES];
    if (strncmp(name, "step_", 5) != 0 || !am_parse_i64(name + 5, step) || *step < 0) return false;
    step_name(*step, again);
    return strcmp(again, name) == 0;
}

/* ---- listing -------------------------------------------------------------------------------------- */

static bool is_kind(int dir_fd, const char *name, mode_t kind)
{
    struct stat info;
    return fstatat(dir_fd, name, &info, AT_SYMLINK_NOFOLLOW) == 0 && (info.st_mode & S_IFMT) == kind;
}

static am_status add_step(int dir_fd, const char *name, am_step_entry **out, size_t *n, size_t *cap)
{
    am_status st = AM_OK;
    char *manifest = NULL;
    int64_t step;
    if (!parse_step(name, &step) || !is_kind(dir_fd, name, S_IFDIR)) goto done;
    AM_TRY(am_path_join(name, manifest_name, &manifest));
    AM_TRY(am_grow(out, cap, *n + 1, sizeof **out));
    (*out)[(*n)++] = (am_step_entry){step, is_kind(dir_fd, manifest, S_IFREG)};
done:
    am_free(&manifest);
    return st;
}

static int newest_first(const void *a, const void *b)
{
    const am_step_entry *x = a, *y = b;
    return (x->step < y->step) - (x->step > y->step);
}

am_status am_steps_list(const char *dir, am_step_entry **out, size_t *n)
{
    am_status st = AM_OK;
    size_t cap = 0;
    *out = NULL;
    *n = 0;
    DIR *d = opendir(dir);
    if (!d && errno == ENOENT) goto done;
    AM_CHECK(d, AM_ERR_IO, "cannot look for checkpoints in %s: %s", dir, strerror(errno));
    for (;;) {
        errno = 0;
        struct dirent *x = readdir(d);
        AM_CHECK(x || errno == 0, AM_ERR_IO, "cannot look for checkpoints in %s: %s", dir, strerror(errno));
        if (!x) break;
        AM_TRY(add_step(dirfd(d), x->d_name, out, n, &cap));
    }
    if (*n) qsort(*out, *n, sizeof **out, newest_first);
done:
    if (d) closedir(d);
    return st;
}

/* ---- making and removing -------------------------------------------------------------------------- */

am_status am_step_make(const char *step_dir)
{
    am_status st = AM_OK;
    struct stat info;
    if (mkdir(step_dir, 0775) == 0) goto done; /* never for everybody, even with umask 0: see check_owner */
    int why = errno;
    AM_CHECK(why == EEXIST, AM_ERR_IO, "cannot make the directory %s: %s", step_dir, strerror(why));
    AM_CHECK(lstat(step_dir, &info) == 0 && S_ISDIR(info.st_mode), AM_ERR_IO,
             "%s is in the way: it is not a directory (links are not followed); move it away", step_dir);
done:
    return st;
}

/* Everything in the folder, which is closed; false when something stays. */
static bool remove_inside(int fd, int depth)
{
    DIR *d = fdopendir(fd);
    bool empty = d != NULL;
    if (!d) close(fd);
    for (struct dirent *x; d && (x = readdir(d));) {
        if (strcmp(x->d_name, ".") == 0 || strcmp(x->d_name, "..") == 0) continue;
        if (!is_kind(dirfd(d), x->d_name, S_IFDIR)) {
            empty = unlinkat(dirfd(d), x->d_name, 0) == 0 && empty;
            continue;
        }
        int flags = O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC;
        int sub = depth > 0 ? openat(dirfd(d), x->d_name, flags) : -1;
        empty = sub >= 0 && remove_inside(sub, depth - 1) && empty;
        empty = unlinkat(dirfd(d), x->d_name, AT_REMOVEDIR) == 0 && empty;
    }
    if (d) closedir(d);
    return empty;
}

am_status am_step_remove(const char *dir, int64_t step)
{
    am_status st = AM_OK;
    char name[STEP_NAME_BYTES];
    int parent = -1, fd = -1;
    step_name(step, name);
    parent = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    AM_CHECK(parent >= 0, AM_ERR_IO, "cannot open %s: %s", dir, strerror(errno));
    fd = openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    AM_CHECK(fd >= 0, AM_ERR_IO, "cannot open %s/%s: %s", dir, name, strerror(errno));
    /* from here on it is no checkpoint, whatever happens to the rest */
    bool gone = unlinkat(fd, manifest_name, 0) == 0 || errno == ENOENT;
    AM_CHECK(gone, AM_ERR_IO, "cannot remove %s/%s/%s: %s", dir, name, manifest_name, strerror(errno));
    (void)am_fsync(fd);
    bool empty = remove_inside(fd, REMOVE_DEPTH);
    fd = -1;
    AM_CHECK(empty && unlinkat(parent, name, AT_REMOVEDIR) == 0, AM_ERR_IO, "cannot remove all of %s/%s: %s",
             dir, name, strerror(errno));
done:
    if (fd >= 0) close(fd);
    if (parent >= 0) close(parent);
    return st;
}

static bool listed(const json_t *keep, const char *name)
{
    size_t i;
    const json_t *x;
    json_array_foreach(keep, i, x)
    {
        const char *file = json_string_value(json_object_get(x, "name"));
        if (file && strcmp(file, name) == 0) return true;
    }
    return false;
}

void am_step_sweep(const char *step_dir, const json_t *keep)
{
    DIR *d = opendir(step_dir);
    for (struct dirent *x; d && (x = readdir(d));) {
        bool ours = am_glob_match("rank-*.safetensors*", x->d_name) ||
                    am_glob_match("manifest.json.tmp-*", x->d_name);
        if (ours && !listed(keep, x->d_name) && is_kind(dirfd(d), x->d_name, S_IFREG))
            (void)unlinkat(dirfd(d), x->d_name, 0);
    }
    if (d) closedir(d);
}

/* ---- opening and flushing ------------------------------------------------------------------------- */

static am_status sync_one(const char *dir, bool must_open)
{
    am_status st = AM_OK;
    int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0 && !must_open) goto done;
    AM_CHECK(fd >= 0, AM_ERR_IO, "cannot open the directory %s: %s", dir, strerror(errno));
    /* some network file systems refuse fsync of a directory: nothing more can be done there */
    AM_CHECK(am_fsync(fd) == 0 || errno == EINVAL || errno == ENOTSUP || !must_open, AM_ERR_IO,
             "cannot flush the directory %s: %s", dir, strerror(errno));
done:
    if (fd >= 0) close(fd);
    return st;
}

am_status am_dir_sync(const char *dir, bool ancestors)
{
    am_status st = AM_OK;
    char *path = NULL;
    AM_TRY(sync_one(dir, true));
    if (!ancestors) goto done;
    path = realpath(dir, NULL);
    AM_CHECK(path, AM_ERR_IO, "cannot resolve %s: %s", dir, strerror(errno));
    for (char *slash; (slash = strrchr(path, '/')) && slash != path;) {
        *slash = '\0';
        AM_TRY(sync_one(path, false));
    }
done:
    free(path);
    return st;
}

static am_status check_owner(int fd, const char *at, const char *dir, const char *what)
{
    am_status st = AM_OK;
    struct stat info;
    AM_CHECK(fstatat(fd, at, &info, 0) == 0, AM_ERR_IO, "cannot look at %s: %s", dir, strerror(errno));
    AM_CHECK(!(info.st_mode & S_IWOTH) || (info.st_mode & S_ISVTX), AM_ERR_CHECKPOINT,
             "%s: %s can be written by everybody, so its contents cannot be trusted; chmod o-w it", dir,
             what);
done:
    return st;
}

am_status am_dir_prepare(const char *dir)
{
    am_status st = AM_OK;
    struct stat info;
    int fd = -1;
    bool there = stat(dir, &info) == 0;
    AM_TRY(am_mkdirs(dir));
    fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    AM_CHECK(fd >= 0, AM_ERR_IO, "cannot open the directory %s: %s", dir, strerror(errno));
    if (!there && fstat(fd, &info) == 0) (void)fchmod(fd, info.st_mode & 07777 & ~(mode_t)S_IWOTH);
    AM_TRY(check_owner(fd, ".", dir, "the directory"));
    AM_TRY(am_dir_sync(dir, true));
done:
    if (fd >= 0) close(fd);
    return st;
}

am_status am_dir_open(const char *dir, int *out)
{
    am_status st = AM_OK;
    int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    *out = -1;
    AM_CHECK(fd >= 0, AM_ERR_CHECKPOINT, "cannot open %s: %s", dir, strerror(errno));
    AM_TRY(check_owner(fd, ".", dir, "the directory"));
    AM_TRY(check_owner(fd, "..", dir, "the directory above it"));
    *out = fd;
    fd = -1;
done:
    if (fd >= 0) close(fd);
    return st;
}

am_status am_file_open_beneath(int dir_fd, const char *name, const char *path, int *out)
{
    am_status st = AM_OK;
    struct stat info;
    int fd = openat(dir_fd, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
    AM_CHECK(fd >= 0, AM_ERR_CHECKPOINT, "cannot open %s: %s", path,
             errno == ELOOP ? "it is a symbolic link, and those are not followed in a checkpoint"
                            : strerror(errno));
    AM_CHECK(fstat(fd, &info) == 0 && S_ISREG(info.st_mode), AM_ERR_CHECKPOINT, "%s is not a regular file",
             path);
    *out = fd;
    fd = -1;
done:
    if (fd >= 0) close(fd);
    return st;
}
