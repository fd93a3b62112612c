/* run_dir.c: one run a directory, and one directory for all ranks.  Read am_run_dir_enter at the bottom, then
 * enter.
 *
 * What it costs.  One process: the lock.  One node: a broadcast, and a small file that every rank opens and
 * reads; every rank, because each resolves the path for itself (its working directory, its container), and
 * because each opens far more than that when it reads model, data and checkpoint.  Several nodes: besides,
 * one empty file for each node, made and removed by the node itself, and a look-up of each by rank 0 (2,000
 * nodes at 0.2 ms: 0.4 s).  A sample would be cheaper, but a node left out is the one that fails at the first
 * checkpoint; and every checkpoint makes a file for each RANK. */
#include "train/run_dir.h"

#include "train/dir_lock.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

struct am_run_dir {
    am_dir_lock *lock[2]; /* run.dir and checkpoint.checkpoint_dir; rank 0 */
};

/* Attributes that a network file system has cached are seconds old; nothing is cached between ranks of one
 * node. */
static const double FIRST_LOOK = 2, SECOND_LOOK = 8, PAUSE = 0.1;
#define MARK ".seen-"

/* A directory that is being entered, as this rank sees it. */
typedef struct visit {
    const am_engine *e;
    const char *option, *dir;
    char *file; /* dir/lock */
    char *mark; /* dir/.seen-NONCE-RANK */
    double longest;
    am_lock_holder me; /* of this process; rank 0's is the one in the file */
} visit;

/* What rank 0 tells the others. */
typedef struct am_hello {
    bool held, look;
    char nonce[33], node[64], path[1024];
} am_hello;

static bool several_nodes(const am_engine *e)
{
    return am_comm_local_size(e->comm) < e->size;
}

static void wait_a_little(void)
{
    struct timespec pause = {.tv_nsec = (long)(PAUSE * 1e9)};
    (void)nanosleep(&pause, NULL);
}

/* The path as one would have to write it elsewhere. */
static void absolute(const char *path, char *out, size_t size)
{
    char *real = realpath(path, NULL), *here = real ? NULL : getcwd(NULL, 0);
    if (real)
        snprintf(out, size, "%s", real);
    else
        snprintf(out, size, "%s%s%s", path[0] == '/' || !here ? "" : here, path[0] == '/' || !here ? "" : "/",
                 path);
    free(real);
    free(here);
}

/* Ask the file server about every directory above and of `path`: what a cache has kept as missing is looked
 * up anew. */
static void refresh(const char *path)
{
    char part[PATH_MAX];
    struct statx info;
    size_t n = strlen(path);
    if (n >= sizeof part) return;
    for (size_t i = 1; i <= n; i++) {
        if (path[i] != '/' && path[i] != '\0') continue;
        memcpy(part, path, i);
        part[i] = '\0';
        (void)statx(AT_FDCWD, part, AT_STATX_FORCE_SYNC, STATX_CTIME, &info);
    }
}

/* ---- rank 0 -------------------------------------------------------------------------------------------- */

/* Of starts that were killed.  Under the lock, so nobody else's are removed. */
static void sweep(const char *dir)
{
    DIR *d = opendir(dir);
    for (struct dirent *entry; d && (entry = readdir(d));)
        if (strncmp(entry->d_name, MARK, sizeof MARK - 1) == 0) (void)unlinkat(dirfd(d), entry->d_name, 0);
    if (d) closedir(d);
}

/* Two names may be one directory; and what lies in a directory that all see, on its file system, is seen by
 * all. */
static void compare(const char *dir, const char *within, bool *same, bool *inside)
{
    struct stat a, b;
    char *inner = realpath(dir, NULL), *outer = realpath(within, NULL);
    size_t n = outer ? strlen(outer) : 0;
    bool known = inner && outer && stat(inner, &a) == 0 && stat(outer, &b) == 0 && a.st_dev == b.st_dev;
    *same = known && a.st_ino == b.st_ino;
    *inside = known && strncmp(inner, outer, n) == 0 && inner[n] == '/';
    free(inner);
    free(outer);
}

/* `within`: a directory whose lock is `ours` already. */
static am_status take(const visit *v, const char *within, const am_dir_lock *ours, am_dir_lock **lock,
                      am_hello *hello)
{
    am_status st = AM_OK;
    bool same = false, inside = false, there = am_path_exists(v->dir);
    struct stat info;
    am_dir_lock_request q = {
        .option = v->option, .dir = v->dir, .flush = several_nodes(v->e), .longest = v->longest};
    AM_TRY(am_mkdirs(v->dir));
    /* never for everybody, even with umask 0: checkpoints in such a directory are not trusted */
    if (!there && stat(v->dir, &info) == 0) (void)chmod(v->dir, info.st_mode & 07777 & ~(mode_t)S_IWOTH);
    if (within) compare(v->dir, within, &same, &inside);
    if (same) goto done;
    q.warned = inside && !ours->held;
    AM_TRY(am_dir_lock_take(&q, &v->me, lock));
    hello->held = (*lock)->held;
    hello->look = !inside;
    snprintf(hello->nonce, sizeof hello->nonce, "%s", v->me.nonce);
    snprintf(hello->node, sizeof hello->node, "%.63s", v->me.node);
    absolute(v->dir, hello->path, sizeof hello->path);
    if (several_nodes(v->e)) sweep(v->dir);
done:
    return st;
}

/* ---- what rank 0 wrote, everybody reads ------------------------------------------------------------------
 */

enum { OTHER_CONTENTS = -1 };

/* 0, an errno, or OTHER_CONTENTS */
static int read_nonce(const visit *v, const am_hello *hello, bool *locked)
{
    am_lock_holder found;
    int why = am_dir_lock_look(v->file, &found, locked);
    return why ? why : strcmp(found.nonce, hello->nonce) == 0 ? 0 : OTHER_CONTENTS;
}

static int look_for(const visit *v, const am_hello *hello, double seconds, bool *locked)
{
    double begin = am_now();
    int why;
    while ((why = read_nonce(v, hello, locked)) != 0 && am_now() - begin < seconds) {
        wait_a_little();
        refresh(v->dir);
    }
    return why;
}

static am_status not_seen(const visit *v, const am_hello *hello, int why)
{
    char here[sizeof hello->path], text[128] = "it has other contents";
    absolute(v->dir, here, sizeof here);
    bool elsewhere = strcmp(here, hello->path) != 0;
    if (why != OTHER_CONTENTS) snprintf(text, sizeof text, "%.100s", strerror(why));
    return am_fail(
        AM_ERR_ENVIRONMENT,
        "rank %d on node %s does not see %s %s as rank 0 on node %s does%s%s (file lock there: %s); %s must "
        "lie "
        "on a file system that all nodes share%s",
        v->e->rank, v->me.node, v->option, here, hello->node, elsewhere ? ", for which it is " : "",
        elsewhere ? hello->path : "", text, v->option,
        v->dir[0] == '/'
            ? ""
            : "; this one is a relative path: start all ranks in one working directory, or write a "
              "path that begins with /");
}

static am_status see(const visit *v, const am_hello *hello, bool *locked)
{
    am_status st = AM_OK;
    const am_engine *e = v->e;
    int64_t blind = 0;
    double longest = several_nodes(e) ? v->longest : 0;
    int why = look_for(v, hello, longest < FIRST_LOOK ? longest : FIRST_LOOK, locked);
    AM_TRY(am_comm_max(e->comm, why ? e->size - e->rank : 0, &blind));
    if (blind && several_nodes(e)) {
        if (e->rank == 0)
            am_log(AM_LOG_INFO, "train", "rank %d does not see %s %s yet; looking for up to %.0f s more",
                   e->size - (int)blind, v->option, hello->path,
                   longest < SECOND_LOOK ? longest : SECOND_LOOK);
        why = look_for(v, hello, longest < SECOND_LOOK ? longest : SECOND_LOOK, locked);
    }
    AM_TRY(am_engine_together(e, why ? not_seen(v, hello, why) : AM_OK));
done:
    return st;
}

/* ---- what the other nodes write, rank 0 looks for ---------------------------------------------------------
 */

typedef struct am_mark {
    int32_t leader, error, blind; /* leader: speaks for a node that is not rank 0's */
    char node[64];
} am_mark;

static am_status mark_path(const visit *v, const am_hello *hello, int rank, char **out)
{
    am_status st = AM_OK;
    char name[64];
    snprintf(name, sizeof name, MARK "%s-%d", hello->nonce, rank);
    AM_TRY(am_path_join(v->dir, name, out));
done:
    return st;
}

static int make(const char *path)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    return fd < 0 || close(fd) != 0 ? errno : 0;
}

/* The first leader whose file does not show up here; -1: none.  A name with a new nonce was never looked up
 * before, so no cache knows it to be missing. */
static am_status find_marks(const visit *v, const am_hello *hello, const am_mark *marks, int64_t *missing)
{
    am_status st = AM_OK;
    char *path = NULL;
    double begin = am_now(),
           longest = v->longest < FIRST_LOOK + SECOND_LOOK ? v->longest : FIRST_LOOK + SECOND_LOOK;
    bool announced = false;
    *missing = -1;
    for (int k = 0; k < v->e->size && *missing < 0; k++) {
        if (!marks[k].leader) continue;
        am_free(&path);
        AM_TRY(mark_path(v, hello, k, &path));
        while (!am_path_exists(path) && am_now() - begin < longest) {
            if (!announced && am_now() - begin > FIRST_LOOK)
                am_log(AM_LOG_INFO, "train",
                       "what rank %d on node %s wrote into %s %s is not seen yet; looking on", k,
                       marks[k].node, v->option, hello->path);
            announced = announced || am_now() - begin > FIRST_LOOK;
            wait_a_little();
            refresh(v->dir);
        }
        if (!am_path_exists(path)) *missing = k;
    }
done:
    am_free(&path);
    return st;
}

/* After all marks were made and looked for: what this rank has to say. */
static am_status judge(const visit *v, const am_hello *hello, const am_mark *marks, int64_t missing)
{
    am_status st = AM_OK;
    const am_mark *mine = &marks[v->e->rank], *other = missing >= 0 ? &marks[missing] : NULL;
    AM_CHECK(!mine->error, AM_ERR_ENVIRONMENT,
             "rank %d on node %s cannot write into %s %s: %s; all nodes write there", v->e->rank, mine->node,
             v->option, hello->path, strerror(mine->error));
    AM_CHECK(v->e->rank != 0 || !other, AM_ERR_ENVIRONMENT,
             "rank 0 on node %s does not see in %s %s what rank %" PRId64
             " on node %s wrote there; it must lie on a file "
             "system that all nodes share, not on a copy of one",
             hello->node, v->option, hello->path, missing, other->node);
    for (int k = 0; v->e->rank == 0 && k < v->e->size; k++) {
        if (!marks[k].blind) continue;
        am_log(AM_LOG_WARN, "train",
               "%s %s: the lock that rank 0 holds there is not seen on node %s; this file system keeps locks "
               "within a node "
               "(Lustre: mount it with flock; NFS: without nolock and local_lock), so that two jobs on "
               "different nodes in "
               "one directory would not be noticed, and would spoil each other's files",
               v->option, hello->path, marks[k].node);
        break;
    }
done:
    return st;
}

static am_status show(visit *v, const am_hello *hello, bool locked)
{
    am_status st = AM_OK;
    const am_engine *e = v->e;
    am_mark mine = {0}, *marks = NULL;
    int64_t missing = -1;
    snprintf(mine.node, sizeof mine.node, "%.63s", v->me.node);
    mine.leader = e->rank != 0 && am_comm_local_rank(e->comm) == 0;
    mine.blind = mine.leader && hello->held && !locked;
    AM_TRY(mark_path(v, hello, e->rank, &v->mark));
    AM_TRY(am_calloc((size_t)e->size, sizeof *marks, &marks));
    if (mine.leader) mine.error = make(v->mark);
    AM_TRY(am_comm_allgather(e->comm, &mine, sizeof mine, marks));
    bool all = true;
    for (int k = 0; k < e->size; k++) all = all && !marks[k].error;
    if (all && e->rank == 0) st = find_marks(v, hello, marks, &missing);
    AM_TRY(am_engine_together(e, st));
    AM_TRY(am_comm_bcast(e->comm, &missing, sizeof missing, 0));
    if (mine.leader && !mine.error) (void)unlink(v->mark);
    AM_TRY(am_engine_together(e, judge(v, hello, marks, missing)));
done:
    am_free(&marks);
    return st;
}

/* ---- both ---------------------------------------------------------------------------------------------- */

static am_status enter(visit *v, const char *within, const am_dir_lock *ours, am_dir_lock **lock)
{
    am_status st = AM_OK;
    am_hello hello;
    bool locked = true, leads = v->e->rank != 0 && am_comm_local_rank(v->e->comm) == 0;
    memset(&hello, 0, sizeof hello);
    AM_TRY(am_engine_together(v->e, am_path_join(v->dir, "lock", &v->file)));
    AM_TRY(am_engine_together(v->e, v->e->rank == 0 ? take(v, within, ours, lock, &hello) : AM_OK));
    if (v->e->size == 1) goto done;
    AM_TRY(am_comm_bcast(v->e->comm, &hello, sizeof hello, 0));
    if (!hello.look) goto done;
    AM_TRY(see(v, &hello, leads ? &locked : NULL));
    if (several_nodes(v->e)) AM_TRY(show(v, &hello, locked));
done:
    am_free(&v->file);
    am_free(&v->mark);
    return st;
}

am_status am_run_dir_enter(const am_settings *s, const am_engine *e, am_run_dir **out)
{
    am_status st = AM_OK;
    am_run_dir *d = NULL;
    double begin = am_now();
    /* the ranks that wait for rank 0 must not take it for dead */
    visit v = {.e = e,
               .option = "run.dir",
               .dir = s->run_dir,
               .longest = s->timeout_seconds > 0 ? s->timeout_seconds / 2 : 300};
    AM_TRY(am_calloc(1, sizeof *d, &d));
    AM_TRY(am_engine_together(e, am_lock_holder_me(e->size, &v.me)));
    AM_TRY(enter(&v, NULL, NULL, &d->lock[0]));
    if (s->ckpt_enabled) {
        /* also where it lies in run.dir: another recipe may name it as its own */
        v.option = "checkpoint.checkpoint_dir";
        v.dir = s->ckpt_dir;
        AM_TRY(enter(&v, s->run_dir, d->lock[0], &d->lock[1]));
    }
    am_log(AM_LOG_DEBUG, "train", "the run directory was entered in %.3f ms", 1e3 * (am_now() - begin));
    *out = d;
    d = NULL;
done:
    am_run_dir_leave(&d);
    return st;
}

void am_run_dir_leave(am_run_dir **d)
{
    if (!d || !*d) return;
    for (int i = 1; i >= 0; i--) am_dir_lock_release(&(*d)->lock[i]);
    am_free(d);
}
