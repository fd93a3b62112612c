/* A folder that opens only what lies beneath it, and the Hugging Face cache.
 * Files are opened by openat() without following symbolic links, so that neither an index nor a link swapped
 * in between can lead outside.  One kind of link is normal: a cache snapshot
 * (models--ORG--NAME/snapshots/REV) holds links to
 * ../../blobs/HASH.  There, and only there, a link of exactly this form is followed, and what it names must
 * again be a regular file and no link. */
#include "hf_internal.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MAX_LINK = 512, MAX_NAMES = 100000 };

bool am_hf_is_basename(const char *name)
{
    return name[0] != '\0' && strchr(name, '/') == NULL && strcmp(name, ".") != 0 && strcmp(name, "..") != 0;
}

/* Does the real path end in /models--X/snapshots/REV? */
static bool is_snapshot(const char *path)
{
    const char *revision = strrchr(path, '/');
    static const char parent[] = "/snapshots";
    size_t n = revision != NULL ? (size_t)(revision - path) : 0, m = sizeof parent - 1;
    if (n <= m || memcmp(revision - m, parent, m) != 0) return false;
    const char *end = revision - m, *repo = end;
    while (repo > path && repo[-1] != '/') repo--;
    return strncmp(repo, "models--", 8) == 0 && end - repo > 8;
}

am_status am_hf_dir_open(const char *path, am_hf_dir *out)
{
    am_status st = AM_OK;
    *out = (am_hf_dir){.fd = -1};
    char *real = realpath(path, NULL);
    AM_CHECK(real != NULL, AM_ERR_IO, "cannot open the folder %s: %s", path, strerror(errno));
    int fd = open(real, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
    AM_CHECK(fd >= 0, AM_ERR_IO, "cannot open the folder %s: %s", path, strerror(errno));
    *out = (am_hf_dir){.fd = fd, .path = real, .snapshot = is_snapshot(real)};
    real = NULL;
done:
    free(real);
    return st;
}

void am_hf_dir_release(am_hf_dir *d)
{
    if (d->fd >= 0) close(d->fd);
    free(d->path);
    *d = (am_hf_dir){.fd = -1};
}

/* Split NAME or FOLDER/NAME; *parent is d->fd or the folder's own descriptor, which the caller closes. */
static am_status open_parent(const am_hf_dir *d, const char *rel, int *parent, const char **base)
{
    am_status st = AM_OK;
    char *folder = NULL;
    const char *slash = strchr(rel, '/');
    *parent = d->fd;
    *base = slash != NULL ? slash + 1 : rel;
    if (slash != NULL) AM_TRY(am_strndup(rel, (size_t)(slash - rel), &folder));
    bool plain = am_hf_is_basename(*base) && (folder == NULL || am_hf_is_basename(folder));
    AM_CHECK(plain, AM_ERR_MODEL, "%s: '%s' is not the name of one file in this folder; it is refused",
             d->path, rel);
    if (folder == NULL) goto done;
    *parent = openat(d->fd, folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
    AM_CHECK(*parent >= 0, AM_ERR_IO, "cannot open the folder %s/%s: %s", d->path, folder, strerror(errno));
done:
    am_free(&folder);
    return st;
}

bool am_hf_dir_has(const am_hf_dir *d, const char *rel)
{
    struct stat info;
    return fstatat(d->fd, rel, &info, AT_SYMLINK_NOFOLLOW) == 0;
}

/* `base` in `parent` is a symbolic link: follow it into the blobs of the cache, or say why not. */
static am_status open_blob(const am_hf_dir *d, const char *rel, int parent, const char *base, int *fd)
{
    am_status st = AM_OK;
    char link[MAX_LINK];
    const char *up = parent == d->fd ? "../../blobs" : "../../../blobs";
    int blobs = -1;
    ssize_t n = readlinkat(parent, base, link, sizeof link - 1);
    AM_CHECK(n >= 0, AM_ERR_IO, "cannot read the link %s/%s: %s", d->path, rel, strerror(errno));
    link[n] = '\0';
    size_t m = strlen(up);
    bool into_blobs =
        d->snapshot && strncmp(link, up, m) == 0 && link[m] == '/' && am_hf_is_basename(link + m + 1);
    AM_CHECK(into_blobs, AM_ERR_MODEL,
             "%s/%s is a symbolic link to %s; in a model folder only links of a Hugging Face cache snapshot "
             "(models--*/snapshots/*) into its own blobs are followed; put the file itself there",
             d->path, rel, link);
    blobs = openat(d->fd, "../../blobs", O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
    AM_CHECK(blobs >= 0, AM_ERR_IO, "%s: cannot open ../../blobs of this cache snapshot: %s", d->path,
             strerror(errno));
    *fd = openat(blobs, link + m + 1, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY);
    AM_CHECK(*fd >= 0, AM_ERR_IO,
             "cannot open %s/%s, a link to %s: %s; the download is incomplete, repeat it", d->path, rel, link,
             strerror(errno));
done:
    if (blobs >= 0) close(blobs);
    return st;
}

am_status am_hf_dir_open_file(const am_hf_dir *d, const char *rel, int *out)
{
    am_status st = AM_OK;
    int parent = d->fd, fd = -1;
    const char *base;
    struct stat info;
    AM_TRY(open_parent(d, rel, &parent, &base));
    fd = openat(parent, base, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY);
    if (fd < 0 && errno == ELOOP) AM_TRY(open_blob(d, rel, parent, base, &fd));
    AM_CHECK(fd >= 0, AM_ERR_IO, "cannot open %s/%s: %s", d->path, rel, strerror(errno));
    AM_CHECK(fstat(fd, &info) == 0, AM_ERR_IO, "cannot look at %s/%s: %s", d->path, rel, strerror(errno));
    AM_CHECK(S_ISREG(info.st_mode), AM_ERR_MODEL, "%s/%s is not a regular file but a folder, FIFO or device",
             d->path, rel);
    *out = fd;
    fd = -1;
done:
    if (fd >= 0) close(fd);
    if (parent >= 0 && parent != d->fd) close(parent);
    return st;
}

am_status am_hf_dir_read(const am_hf_dir *d, const char *rel, size_t max_bytes, char **text, size_t *len)
{
    am_status st = AM_OK;
    int fd = -1;
    struct stat info;
    char *data = NULL, *path = NULL;
    *text = NULL;
    AM_TRY(am_path_join(d->path, rel, &path));
    AM_TRY(am_hf_dir_open_file(d, rel, &fd));
    AM_CHECK(fstat(fd, &info) == 0, AM_ERR_IO, "cannot look at %s: %s", path, strerror(errno));
    AM_CHECK((uint64_t)info.st_size <= max_bytes, AM_ERR_MODEL,
             "%s has %" PRId64 " bytes, more than the %zu allowed", path, (int64_t)info.st_size, max_bytes);
    AM_TRY(am_calloc((size_t)info.st_size + 1, 1, &data));
    AM_TRY(am_pread_full(fd, data, (size_t)info.st_size, 0, path));
    *len = (size_t)info.st_size;
    *text = data;
    data = NULL;
done:
    if (fd >= 0) close(fd);
    am_free(&data);
    am_free(&path);
    return st;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

am_status am_hf_dir_list(const am_hf_dir *d, const char *sub, char ***names, size_t *count)
{
    am_status st = AM_OK;
    char **list = NULL;
    size_t n = 0, capacity = 0;
    DIR *stream = NULL;
    *names = NULL;
    *count = 0;
    int fd = openat(d->fd, sub != NULL ? sub : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0 && sub != NULL) return AM_OK;
    AM_CHECK(fd >= 0 && (stream = fdopendir(fd)) != NULL, AM_ERR_IO, "cannot list %s: %s", d->path,
             strerror(errno));
    fd = -1;
    for (struct dirent *e; (e = readdir(stream)) != NULL;) {
        if (!am_hf_is_basename(e->d_name)) continue;
        AM_CHECK(n < MAX_NAMES, AM_ERR_MODEL, "%s holds more than %d files: this is no model folder", d->path,
                 MAX_NAMES);
        AM_TRY(am_grow(&list, &capacity, n + 1, sizeof *list));
        AM_TRY(am_strdup(e->d_name, &list[n]));
        n++;
    }
    if (n > 0) qsort(list, n, sizeof *list, by_name);
    *names = list;
    *count = n;
    list = NULL;
    n = 0;
done:
    if (fd >= 0) close(fd);
    if (stream != NULL) closedir(stream);
    am_hf_names_free(&list, n);
    return st;
}

void am_hf_names_free(char ***names, size_t count)
{
    for (size_t i = 0; i < count && *names != NULL; i++) am_free(&(*names)[i]);
    am_free(names);
}

/* ---- the Hugging Face cache ---- */

/* org/name, each of letters, digits, '-', '_' and '.', and not beginning with '.' */
static bool is_repo_id(const char *spec)
{
    const char *slash = strchr(spec, '/');
    if (slash == NULL || slash == spec || slash[1] == '\0' || spec[0] == '.' || slash[1] == '.') return false;
    for (const char *p = spec; *p != '\0'; p++)
        if (p != slash && !isalnum((unsigned char)*p) && strchr("-_.", *p) == NULL) return false;
    return true;
}

/* The first environment variable that is set, with its suffix. */
static am_status hub_folder(am_str *out)
{
    static const struct {
        const char *variable, *suffix;
    } places[] = {{"HF_HUB_CACHE", ""},
                  {"HF_HOME", "/hub"},
                  {"XDG_CACHE_HOME", "/huggingface/hub"},
                  {"HOME", "/.cache/huggingface/hub"}};
    for (size_t i = 0; i < sizeof places / sizeof places[0]; i++) {
        const char *value = getenv(places[i].variable);
        if (value != NULL && value[0] != '\0') return am_str_printf(out, "%s%s", value, places[i].suffix);
    }
    return am_fail(AM_ERR_ENVIRONMENT,
                   "neither HF_HOME nor HOME is set: the Hugging Face cache cannot be found");
}

static am_status missing_repo(const char *spec, const char *hub, const char *why)
{
    return am_fail(AM_ERR_MODEL,
                   "the model %s is neither a folder here nor in the Hugging Face cache %s (%s); fetch it on "
                   "a machine with "
                   "network and the same HF_HOME: hf download %s",
                   spec, hub, why, spec);
}

static am_status resolve_cached(const char *spec, char **out)
{
    am_status st = AM_OK;
    am_str hub = {0}, repo = {0}, path = {0};
    char *revision = NULL;
    size_t n = 0;
    const char *slash = strchr(spec, '/');
    AM_TRY(hub_folder(&hub));
    AM_TRY(am_str_printf(&repo, "%s/models--%.*s--%s", hub.s, (int)(slash - spec), spec, slash + 1));
    if (!am_path_exists(repo.s)) {
        st = missing_repo(spec, hub.s, "it was never downloaded");
        goto done;
    }
    AM_TRY(am_str_printf(&path, "%s/refs/main", repo.s));
    if (!am_path_exists(path.s)) {
        st = missing_repo(spec, hub.s, "its refs/main is missing");
        goto done;
    }
    AM_TRY(am_file_read(path.s, 256, &revision, &n));
    while (n > 0 && isspace((unsigned char)revision[n - 1])) revision[--n] = '\0';
    AM_CHECK(am_hf_is_basename(revision), AM_ERR_MODEL, "%s does not hold a revision; repeat: hf download %s",
             path.s, spec);
    path.len = 0;
    AM_TRY(am_str_printf(&path, "%s/snapshots/%s", repo.s, revision));
    if (!am_path_exists(path.s)) {
        st = missing_repo(spec, hub.s, "the snapshot of its refs/main is missing");
        goto done;
    }
    *out = path.s;
    path = (am_str){0};
done:
    am_str_release(&hub);
    am_str_release(&repo);
    am_str_release(&path);
    am_free(&revision);
    return st;
}

am_status am_hf_resolve(const char *spec, char **out)
{
    *out = NULL;
    if (am_path_exists(spec)) return am_strdup(spec, out);
    if (is_repo_id(spec)) return resolve_cached(spec, out);
    return am_fail(AM_ERR_MODEL,
                   "the model %s does not exist; give a folder, a config.json, or org/name of the cache",
                   spec);
}
