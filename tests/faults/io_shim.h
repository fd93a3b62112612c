/* io_shim.h: a library for LD_PRELOAD that stands before the calls of libc which change files, and makes them fail, stop the
 * process, transfer less, or be recorded.  It acts on paths beneath one prefix only, and only after io_shim_set: what a test
 * program does elsewhere is left alone.  A test finds the functions with dlsym(RTLD_DEFAULT, name): NULL when not preloaded. */
#ifndef AM_TEST_IO_SHIM_H
#define AM_TEST_IO_SHIM_H

#include <stddef.h>

/* The calls, as bits of a mask.  OPEN counts only when it creates; WRITE is write and pwrite. */
enum {
    IO_SHIM_OPEN = 1, IO_SHIM_MKDIR = 2, IO_SHIM_WRITE = 4, IO_SHIM_FSYNC = 8, IO_SHIM_CLOSE = 16, IO_SHIM_RENAME = 32,
    IO_SHIM_UNLINK = 64, /* unlink, unlinkat, rmdir */
    IO_SHIM_ALL = 127,
};

typedef enum io_shim_mode {
    IO_SHIM_OFF,
    IO_SHIM_COUNT,     /* count only */
    IO_SHIM_FAIL,      /* call number `at` of the mask fails with `error` */
    IO_SHIM_FAIL_FROM, /* it and every later one */
    IO_SHIM_KILL,      /* SIGKILL before call number `at` */
    IO_SHIM_RAGGED,    /* writes transfer fewer bytes than asked for; every third write or fsync is interrupted (EINTR) first */
    IO_SHIM_RECORD,    /* what was done, for a replay */
} io_shim_mode;

typedef struct io_shim_record {
    int    op;      /* one bit of the mask */
    char  *path, *to; /* absolute; `to` of a rename */
    char  *data;    /* of a write: bytes [offset, offset + size) */
    size_t size;
    long long offset;
    int    is_dir, truncate;
} io_shim_record;

/* at counts from 1. */
typedef void (*io_shim_set_fn)(const char *prefix, io_shim_mode mode, unsigned mask, int error, long at);
typedef long (*io_shim_count_fn)(void); /* calls of the mask since io_shim_set */
typedef const io_shim_record *(*io_shim_log_fn)(long *n);

#endif
