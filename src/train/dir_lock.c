/* dir_lock.c: see dir_lock.h.  Read am_dir_lock_take at the bottom, then obtain. */
#include "train/dir_lock.h"

#include "topo/topo.h"
#include "train/signals.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { MAX_TEXT = 1024 };
static const double PATIENCE = 5, PATIENCE_OWN_JOB = 120, PAUSE = 0.05;

/* ---- who ----------------------------------------------------------------------------------------------- */

am_status am_lock_holder_me(int64_t ranks, am_lock_holder *out)
{
    am_status st = AM_OK;
    am_topo_allocation a;
    uint8_t noise[(sizeof out->nonce - 1) / 2];
    time_t now = time(NULL);
    struct tm t;
    *out = (am_lock_holder){.process = getpid(), .ranks = ranks};
    AM_TRY(am_topo_allocation_read(&a));
    snprintf(out->job, sizeof out->job, "%s", a.slurm ? a.job : "");
    snprintf(out->node, sizeof out->node, "%s", a.node);
    out->restarts = a.restarts;
    if (gmtime_r(&now, &t)) strftime(out->since, sizeof out->since, "%Y-%m-%d %H:%M:%S UTC", &t);
    AM_CHECK(getrandom(noise, sizeof noise, 0) == (ssize_t)sizeof noise, AM_ERR_ENVIRONMENT,
             "the kernel gives no random numbers: %s", strerror(errno));
    for (size_t i = 0; i < sizeof noise; i++) snprintf(out->nonce + 2 * i, 3, "%02x", noise[i]);
done:
    return st;
}

static am_status compose(const am_lock_holder *h, am_str *out)
{
    return am_str_printf(
        out,
        "locked while a run uses this directory, emptied when it is done\nnonce: %s\njob: %s\n"
        "restarts: %" PRId64 "\nnode: %s\nprocess: %" PRId64 "\nranks: %" PRId64 "\nsince: %s\n",
        h->nonce, h->job, h->restarts, h->node, h->process, h->ranks, h->since);
}

/* What stands behind "key: " at the beginning of a line; whatever it is, it is printable afterwards. */
static void field(const char *text, const char *key, char *out, size_t size)
{
    size_t n = strlen(key);
    out[0] = '\0';
    for (const char *s = text; s; s = strchr(s, '\n')) {
        if (*s == '\n') s++;
        if (strncmp(s, key, n) != 0 || s[n] != ':' || s[n + 1] != ' ') continue;
        snprintf(out, size, "%.*s", (int)strcspn(s + n + 2, "\n"), s + n + 2);
        break;
    }
    for (; *out; out++)
        if (*out < ' ' || *out > '~') *out = '?';
}

static int64_t number(const char *text, const char *key)
{
    char digits[24];
    int64_t value = 0;
    field(text, key, digits, sizeof digits);
    return am_parse_i64(digits, &value) && value > 0 ? value : 0;
}

/* 0, or errno */
static int read_holder(int fd, am_lock_holder *h)
{
    char text[MAX_TEXT + 1];
    ssize_t n;
    do n = pread(fd, text, MAX_TEXT, 0);
    while (n < 0 && errno == EINTR);
    *h = (am_lock_holder){0};
    if (n < 0) return errno;
    text[n] = '\0';
    field(text, "nonce", h->nonce, sizeof h->nonce);
    field(text, "job", h->job, sizeof h->job);
    field(text, "node", h->node, sizeof h->node);
    field(text, "since", h->since, sizeof h->since);
    h->process = number(text, "process");
    h->ranks = number(text, "ranks");
    h->restarts = number(text, "restarts");
    return 0;
}

static am_status describe(const am_lock_holder *h, am_str *out)
{
    am_status st = AM_OK;
    if (h->job[0])
        AM_TRY(am_str_printf(out, "Slurm job %s", h->job));
    else if (h->process)
        AM_TRY(am_str_printf(out, "process %" PRId64, h->process));
    else
        AM_TRY(am_str_printf(out, "a run that did not write its name"));
    if (h->node[0]) AM_TRY(am_str_printf(out, " on node %s", h->node));
    if (h->ranks) AM_TRY(am_str_printf(out, ", %" PRId64 " rank%s", h->ranks, h->ranks == 1 ? "" : "s"));
    if (h->since[0]) AM_TRY(am_str_printf(out, ", since %s", h->since));
done:
    return st;
}

/* ---- the lock ------------------------------------------------------------------------------------------ */

/* 0, or errno */
static int set_lock(int fd, short type)
{
    struct flock l = {.l_type = type, .l_whence = SEEK_SET};
    int failed;
    do failed = fcntl(fd, F_OFD_SETLK, &l);
    while (failed != 0 && errno == EINTR);
    return failed != 0 ? errno : 0;
}

/* ENOSYS: Lustre without flock.  ENOLCK: NFS without a lock manager.  EINVAL: a file system of its own kind.
 */
static bool has_no_locks(int why)
{
    return why == ENOLCK || why == EOPNOTSUPP || why == ENOSYS || why == EINVAL;
}

/* Somebody may have removed the file, or the directory, between our opening and our locking. */
static bool still_named(const am_dir_lock *l)
{
    struct stat mine, named;
    return fstat(l->fd, &mine) == 0 && stat(l->path, &named) == 0 && mine.st_dev == named.st_dev &&
           mine.st_ino == named.st_ino;
}

static bool is_earlier_start(const am_lock_holder *h, const am_lock_holder *me)
{
    return h->job[0] && strcmp(h->job, me->job) == 0 && h->restarts < me->restarts;
}

static am_status refuse(const am_dir_lock_request *q, const am_lock_holder *h)
{
    am_status st = AM_OK;
    am_str who = {0}, end = {0};
    AM_TRY(describe(h, &who));
    if (h->job[0])
        AM_TRY(am_str_printf(&end, ", end it (scancel %s)", h->job));
    else if (h->process)
        AM_TRY(am_str_printf(&end, ", end it (kill %" PRId64 " there)", h->process));
    AM_FAIL(AM_ERR_ENVIRONMENT,
            "%s %s is in use by %s: two runs in one directory would spoil each other's files; wait for it%s, "
            "or give this run "
            "a directory of its own (--%s=DIR)",
            q->option, q->dir, who.s, end.s ? end.s : "", q->option);
done:
    am_str_release(&who);
    am_str_release(&end);
    return st;
}

static am_status warn_no_locks(const am_dir_lock *l, const am_dir_lock_request *q, int why)
{
    am_status st = AM_OK;
    am_lock_holder before;
    am_str who = {0};
    if (read_holder(l->fd, &before) == 0 && before.nonce[0]) AM_TRY(describe(&before, &who));
    am_log(AM_LOG_WARN, "train",
           "%s %s lies on a file system without file locks (%s): a second run in it would not be noticed, "
           "and both would "
           "spoil each other's files; start none%s%s%s",
           q->option, q->dir, strerror(why), who.s ? ". Its file lock still names " : "", who.s ? who.s : "",
           who.s ? ": that run was killed, or it is running now" : "");
done:
    am_str_release(&who);
    return st;
}

static am_status announce(const am_dir_lock_request *q, const am_lock_holder *h, double limit)
{
    am_status st = AM_OK;
    am_str who = {0};
    AM_TRY(describe(h, &who));
    am_log(AM_LOG_INFO, "train", "%s %s is in use by %s: waiting up to %.0f s for its end", q->option, q->dir,
           who.s, limit);
done:
    am_str_release(&who);
    return st;
}

static am_status open_file(am_dir_lock *l)
{
    am_status st = AM_OK;
    if (l->fd >= 0) close(l->fd);
    l->fd = open(l->path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0664);
    AM_CHECK(l->fd >= 0, AM_ERR_IO, "cannot open %s for writing: %s", l->path, strerror(errno));
done:
    return st;
}

/* The file is opened anew for each attempt: a network file system shows the present contents to who opens it
 * now. */
static am_status obtain(am_dir_lock *l, const am_dir_lock_request *q)
{
    am_status st = AM_OK;
    double begin = am_now();
    struct timespec pause = {.tv_nsec = (long)(PAUSE * 1e9)};
    for (bool announced = false;; (void)nanosleep(&pause, NULL)) {
        am_lock_holder other;
        AM_TRY(open_file(l));
        int why = set_lock(l->fd, F_WRLCK);
        if (why == 0 && still_named(l)) break;
        if (has_no_locks(why)) {
            if (!q->warned) AM_TRY(warn_no_locks(l, q, why));
            return AM_OK;
        }
        AM_CHECK(why == 0 || why == EAGAIN || why == EACCES, AM_ERR_IO, "cannot lock %s: %s", l->path,
                 strerror(why));
        AM_CHECK(read_holder(l->fd, &other) == 0, AM_ERR_IO, "cannot read %s: %s", l->path, strerror(errno));
        double limit = is_earlier_start(&other, &l->me) ? PATIENCE_OWN_JOB : PATIENCE;
        if (limit > q->longest) limit = q->longest;
        if (am_now() - begin >= limit || am_signals_pending()) return refuse(q, &other);
        if (!announced) AM_TRY(announce(q, &other, limit));
        announced = true;
    }
    l->held = true;
done:
    return st;
}

/* Through a second descriptor: network file systems send what was written when a file is closed, and the one
 * that holds the lock stays open.  A disk is not waited for unless other nodes are (after a power loss nobody
 * needs the text). */
static am_status write_holder(const am_dir_lock *l, bool flush)
{
    am_status st = AM_OK;
    am_str text = {0};
    int fd = open(l->path, O_WRONLY | O_CLOEXEC | O_NOFOLLOW);
    AM_CHECK(fd >= 0, AM_ERR_IO, "cannot open %s for writing: %s", l->path, strerror(errno));
    AM_TRY(compose(&l->me, &text));
    AM_TRY(am_pwrite_full(fd, text.s, text.len, 0, l->path));
    AM_CHECK(ftruncate(fd, (off_t)text.len) == 0, AM_ERR_IO, "cannot write %s: %s", l->path, strerror(errno));
    AM_CHECK(!flush || am_fsync(fd) == 0, AM_ERR_IO, "cannot flush %s: %s", l->path, strerror(errno));
    int closed = close(fd);
    fd = -1;
    AM_CHECK(closed == 0, AM_ERR_IO, "cannot close %s: %s", l->path, strerror(errno));
done:
    if (fd >= 0) close(fd);
    am_str_release(&text);
    return st;
}

am_status am_dir_lock_take(const am_dir_lock_request *q, const am_lock_holder *me, am_dir_lock **out)
{
    am_status st = AM_OK;
    am_dir_lock *l = NULL;
    AM_TRY(am_calloc(1, sizeof *l, &l));
    l->fd = -1;
    l->me = *me;
    AM_TRY(am_path_join(q->dir, "lock", &l->path));
    AM_TRY(obtain(l, q));
    AM_TRY(write_holder(l, q->flush));
    *out = l;
    l = NULL;
done:
    am_dir_lock_release(&l);
    return st;
}

void am_dir_lock_release(am_dir_lock **lock)
{
    am_lock_holder now;
    am_dir_lock *l = lock ? *lock : NULL;
    if (!l) return;
    /* without locks, or when we were refused, the text may be another run's */
    if (l->fd >= 0 && read_holder(l->fd, &now) == 0 && strcmp(now.nonce, l->me.nonce) == 0 &&
        ftruncate(l->fd, 0) != 0)
        am_log(AM_LOG_WARN, "train", "cannot empty %s: %s; it hinders nobody", l->path, strerror(errno));
    if (l->fd >= 0) close(l->fd);
    am_free(&l->path);
    am_free(lock);
}

int am_dir_lock_look(const char *path, am_lock_holder *out, bool *locked)
{
    struct flock l = {.l_type = F_RDLCK, .l_whence = SEEK_SET};
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0) return errno;
    int why = read_holder(fd, out);
    if (locked) *locked = fcntl(fd, F_OFD_GETLK, &l) != 0 || l.l_type != F_UNLCK;
    close(fd);
    return why;
}
