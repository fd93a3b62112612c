/* ckpt_test.h: what the tests of ckpt share: runs of the small decoder of tests/graph in any layout, slots filled with values that
 * are a function of (parameter, role, element), temporary directories, files looked at and damaged. */
#ifndef AM_CKPT_TEST_H
#define AM_CKPT_TEST_H

#include "program_test.h"

#include "ckpt/ckpt_internal.h"

#include <limits.h>

extern am_comm *ct_comm, *ct_alone; /* made by ct_main: all ranks; this rank alone */

/* Start communication, run the tests, print failures. */
int ct_main(const char *name, const struct CMUnitTest *tests, size_t n);
/* A new directory beneath $TMPDIR (or /dev/shm, /tmp), the same on all ranks, removed at the end of ct_main.  [collective] */
const char *ct_dir(void);
/* The same for this rank alone. */
const char *ct_own_dir(void);

/* A training program in the layout shards × replicas on `comm`; `frozen`: pattern of parameters that are not trained, or NULL. */
void ct_run(pt_run *r, const pt_shape *s, int64_t shards, int64_t replicas, const char *frozen, am_comm *comm);
/* Every element of every slot is a function of (parameter, role, element, salt): write it; count elements that differ (padding
 * must be 0). */
void    ct_fill(const pt_run *r, uint64_t salt);
int64_t ct_different(const pt_run *r, uint64_t salt);
/* All slots of this rank in one array. */
char *ct_slots(const pt_run *r, size_t *bytes);

am_ckpt      *ct_ckpt(const pt_run *r, const char *dir, int keep, bool async);
am_ckpt_state ct_state(int64_t step);
/* Fill with salt = step, save, and require the commit.  [collective] */
void ct_save(const pt_run *r, am_ckpt *k, int64_t step);
/* The step that a start in `dir` finds; -1 none, -2 an error.  With a run, its slots must then be those of ct_save.  [collective] */
int64_t ct_latest(const char *dir, const pt_run *r, am_comm *comm);

/* Paths: printf into one of a few static buffers. */
const char *ct_path(const char *fmt, ...) AM_PRINTF(1, 2);
char       *ct_read(const char *path, size_t *n);
void        ct_write(const char *path, const void *data, size_t n);
void        ct_copy(const char *from, const char *to);      /* file */
void        ct_copy_dir(const char *from, const char *to);  /* one level of files */
void        ct_remove(const char *path);                    /* file or tree */
bool        ct_exists(const char *path);
int         ct_count(const char *dir);                      /* entries */
/* The last error's sentence holds all of these. */
void ct_error_has(const char *a, const char *b);

#endif
