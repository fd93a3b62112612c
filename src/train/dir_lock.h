/* dir_lock: one run at a time in a directory.  DIR/lock is locked while the run lives and says who it is.
 *
 * The lock is one of the open file description (fcntl F_OFD_SETLK): the kernel gives it up when the process
 * ends, however it ends; a file server does when a node's lease runs out.  So what a dead run has left in the
 * file hinders nobody: the lock counts, the text is for people.  The file is emptied, not removed, at the
 * end: whoever opened it before it was removed would lock a file that no longer has a name, beside one who
 * locks a new one. */
#ifndef AM_DIR_LOCK_H
#define AM_DIR_LOCK_H

#include "base/base.h"

/* Who holds a lock, as the file says.  Empty and 0 where it does not. */
typedef struct am_lock_holder {
    char job[64]; /* of Slurm; "" = none */
    char node[256];
    char since[32]; /* "2026-01-31 08:15:00 UTC" */
    char nonce[33]; /* of this lock; no two runs have the same */
    int64_t process, ranks;
    int64_t restarts; /* how often Slurm had requeued the job */
} am_lock_holder;

/** This process, now, with a new nonce.  @return AM_ERR_ENVIRONMENT when Slurm's variables cannot be read. */
am_status am_lock_holder_me(int64_t ranks, am_lock_holder *out) AM_WARN_UNUSED;

typedef struct am_dir_lock {
    int fd;
    bool held; /* false: the file system has no locks (a warning said so); the file is there and names us all
                  the same */
    char *path;
    am_lock_holder me;
} am_dir_lock;

typedef struct am_dir_lock_request {
    const char *option; /* the recipe's name of the directory, for sentences: "run.dir" */
    const char *dir;    /* exists */
    bool flush;         /* other nodes will read the file at once */
    bool warned;        /* that this file system has no locks was said already */
    double longest;     /* never wait longer than this many seconds */
} am_dir_lock_request;

/** Locks dir/lock and writes `me` into it.  A holder that is just ending is waited for: 5 s, and 2 minutes
 *  where it is an earlier start of this very Slurm job, which was requeued because it ended (its node's lease
 *  may have to run out).
 *  @return AM_ERR_ENVIRONMENT when another run holds it: its job, node and start, and what to do; AM_ERR_IO
 *          when the file cannot be written.  Where the file system knows no locks: a warning, and AM_OK. */
am_status am_dir_lock_take(const am_dir_lock_request *q, const am_lock_holder *me,
                           am_dir_lock **out) AM_WARN_UNUSED;
/** Empties the file and gives the lock up. */
void am_dir_lock_release(am_dir_lock **lock);

/** What another process sees: 0 and the holder, or the errno of opening and reading.
 *  @param[out] locked  NULL: not asked.  Whether the lock is seen from here; true also where asking fails. */
int am_dir_lock_look(const char *path, am_lock_holder *out, bool *locked);

#endif
