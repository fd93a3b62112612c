/* base: what every other module stands on: status and error trace, log, checked arithmetic, memory,
 * strings, dtypes, hashes, counter-based random numbers, files.  Depends on nothing of automodel.
 *
 * Error convention: a fallible function returns am_status.  The text of an error is kept in a
 * thread-local trace (the one mutable thing outside a context: like errno it belongs to the thread):
 * the first am_fail() writes the sentence a user reads, each AM_TRY on the way up adds one frame. */
#ifndef AM_BASE_H
#define AM_BASE_H

#include <inttypes.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

/* ---- status ------------------------------------------------------------------------------------ */

/* X(name, exit code of the process, what it means) */
#define AM_STATUS_LIST(X)                                                                     \
    X(OK, 0, "done")                                                                          \
    X(ERR_INTERNAL, 1, "a defect of automodel; please report it")                             \
    X(ERR_MEMORY, 1, "the host refused to give memory")                                       \
    X(ERR_SHAPE, 1, "shapes do not fit together")                                             \
    X(ERR_USAGE, 2, "wrong use of the command line")                                          \
    X(ERR_CONFIG, 2, "wrong or contradictory configuration")                                  \
    X(ERR_MODEL, 3, "the model directory is missing something or invalid")                    \
    X(ERR_CARD, 3, "the model card has an error or does not fit the model")                   \
    X(ERR_DATA, 3, "the data are missing or invalid")                                         \
    X(ERR_CHECKPOINT, 3, "the checkpoint is missing, incomplete or corrupted")                \
    X(ERR_IO, 3, "a file could not be read or written")                                       \
    X(ERR_ENVIRONMENT, 4, "this machine or allocation cannot run it")                         \
    X(ERR_COMM, 4, "communication between ranks failed")                                      \
    X(ERR_PLAN, 4, "the memory plan does not fit")                                            \
    X(ERR_NUMERIC, 5, "numerical failure")                                                    \
    X(INTERRUPTED, 6, "interrupted; checkpoint committed, requeue to continue")               \
    X(ERR_WATCHDOG, 7, "a rank made no progress within the deadline")

typedef enum am_status {
#define X(name, code, text) AM_##name,
    AM_STATUS_LIST(X)
#undef X
} am_status;

#define AM_WARN_UNUSED __attribute__((warn_unused_result))
#define AM_PRINTF(a, b) __attribute__((format(printf, a, b)))

const char *am_status_name(am_status st);      /* "ERR_CONFIG" */
const char *am_status_text(am_status st);      /* the meaning in the list above */
int         am_status_exit_code(am_status st); /* DESIGN.md §4 */

/** Record the sentence of a new error (replaces an older trace of this thread) and return `st`. */
am_status am_fail_at(am_status st, const char *file, int line, const char *fmt, ...) AM_PRINTF(4, 5);
/** Add a frame "while doing `what`" to the trace; returns `st`. */
am_status   am_trace_at(am_status st, const char *file, int line, const char *what);
const char *am_error_message(void); /* the sentence alone; "" when no error was recorded */
/** The sentence, behind am_log_label(rank); then the frames when AM_DEBUG has "trace". */
void        am_error_print(FILE *f, int rank);
void        am_error_clear(void);

/* In a function with `am_status st = AM_OK;` and a label `done:`. */
#define am_fail(st_, ...) am_fail_at((st_), __FILE__, __LINE__, __VA_ARGS__)
#define AM_FAIL(st_, ...)                                                                     \
    do {                                                                                      \
        st = am_fail_at((st_), __FILE__, __LINE__, __VA_ARGS__);                              \
        goto done;                                                                            \
    } while (0)
#define AM_TRY(call)                                                                          \
    do {                                                                                      \
        st = (call);                                                                          \
        if (st != AM_OK) {                                                                    \
            am_trace_at(st, __FILE__, __LINE__, #call);                                       \
            goto done;                                                                        \
        }                                                                                     \
    } while (0)
/* the user's or the environment's fault, checked in every build */
#define AM_CHECK(cond, st_, ...)                                                              \
    do {                                                                                      \
        if (!(cond)) AM_FAIL((st_), __VA_ARGS__);                                             \
    } while (0)
/* our own defect, checked in every build */
#define AM_ASSERT(cond)                                                                       \
    do {                                                                                      \
        if (!(cond)) AM_FAIL(AM_ERR_INTERNAL, "%s:%d: broken invariant: %s", __FILE__, __LINE__, #cond); \
    } while (0)

/* ---- log --------------------------------------------------------------------------------------- */

typedef enum am_log_level { AM_LOG_ERROR, AM_LOG_WARN, AM_LOG_INFO, AM_LOG_DEBUG } am_log_level;
/** Lines to stderr, "automodel: …", prefixed by "[rank R] " or "[rank R NODE] " after `am_log_set_rank(R >= 0, node)`.
 *  INFO is printed by rank 0 (or no rank) only; DEBUG only for subsystems in AM_DEBUG=comm,ckpt,… */
void am_log(am_log_level level, const char *subsystem, const char *fmt, ...) AM_PRINTF(3, 4);
/** @param node  this node's name in a job on several nodes (copied; at most 63 bytes are shown); NULL: lines name the rank alone. */
void am_log_set_rank(int rank, const char *node);
enum { AM_LOG_LABEL = 96 }; /* bytes that hold any label */
/** "[rank R NODE] ", "[rank R] ", or "" for a rank below 0, with the node of am_log_set_rank.  @return out */
const char *am_log_label(int rank, char *out, size_t size);
bool am_debug_enabled(const char *subsystem);

/* ---- checked arithmetic ------------------------------------------------------------------------ */

static inline bool am_mul_size(size_t a, size_t b, size_t *out) { return !__builtin_mul_overflow(a, b, out); }
static inline bool am_add_size(size_t a, size_t b, size_t *out) { return !__builtin_add_overflow(a, b, out); }
static inline bool am_mul_i64(int64_t a, int64_t b, int64_t *out) { return !__builtin_mul_overflow(a, b, out); }
static inline bool am_add_i64(int64_t a, int64_t b, int64_t *out) { return !__builtin_add_overflow(a, b, out); }
static inline int64_t am_min_i64(int64_t a, int64_t b) { return a < b ? a : b; }
static inline int64_t am_max_i64(int64_t a, int64_t b) { return a > b ? a : b; }
static inline int64_t am_ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
static inline int64_t am_round_up(int64_t a, int64_t b) { return am_ceil_div(a, b) * b; }

/* ---- memory ------------------------------------------------------------------------------------ */

/** Zeroed memory of count × size bytes.  @return AM_ERR_MEMORY on overflow or refusal. */
am_status am_calloc(size_t count, size_t size, void *out_ptr) AM_WARN_UNUSED;
/** Grow *ptr (array of `size`-byte elements) so that at least `need` fit; capacity doubles. */
am_status am_grow(void *ptr_ptr, size_t *capacity, size_t need, size_t size) AM_WARN_UNUSED;
am_status am_strdup(const char *s, char **out) AM_WARN_UNUSED;
am_status am_strndup(const char *s, size_t n, char **out) AM_WARN_UNUSED;
void      am_free(void *ptr_ptr); /* free(*p); *p = NULL; accepts a pointer to NULL */

/* ---- growing strings ---------------------------------------------------------------------------- */

typedef struct am_str {
    char  *s; /* NUL-terminated once anything was appended; NULL when empty */
    size_t len, cap;
} am_str;
am_status am_str_append(am_str *b, const char *s, size_t n) AM_WARN_UNUSED;
am_status am_str_printf(am_str *b, const char *fmt, ...) AM_PRINTF(2, 3) AM_WARN_UNUSED;
void      am_str_release(am_str *b);

/** The name in `names[n]` nearest to `word` (edit distance <= 1/3 of its length + 1), or NULL. */
const char *am_did_you_mean(const char *word, const char *const *names, size_t n);
/** Shell-like match of `*` and `?` over the whole of `name` (a `*` also matches dots and slashes). */
bool am_glob_match(const char *pattern, const char *name);
/** strtoll/strtod over the whole string; false when anything is left over or out of range. */
bool am_parse_i64(const char *s, int64_t *out);
bool am_parse_f64(const char *s, double *out);

/* ---- dtypes ------------------------------------------------------------------------------------ */

/* X(enumerator, safetensors name, bits, is floating point) */
#define AM_DTYPE_LIST(X)                                                                      \
    X(F64, "F64", 64, 1) X(F32, "F32", 32, 1) X(BF16, "BF16", 16, 1) X(F16, "F16", 16, 1)      \
    X(F8_E4M3, "F8_E4M3", 8, 1) X(F8_E5M2, "F8_E5M2", 8, 1) X(F8_E8M0, "F8_E8M0", 8, 1)        \
    X(I64, "I64", 64, 0) X(U64, "U64", 64, 0) X(I32, "I32", 32, 0) X(U32, "U32", 32, 0)        \
    X(I16, "I16", 16, 0) X(U16, "U16", 16, 0) X(I8, "I8", 8, 0) X(U8, "U8", 8, 0)              \
    X(BOOL, "BOOL", 8, 0)
typedef enum am_dtype {
#define X(e, name, bits, fp) AM_##e,
    AM_DTYPE_LIST(X)
#undef X
    AM_DTYPE_COUNT
} am_dtype;
const char *am_dtype_name(am_dtype t);
size_t      am_dtype_bytes(am_dtype t);
bool        am_dtype_is_float(am_dtype t);
bool        am_dtype_parse(const char *name, am_dtype *out); /* "BF16", "bfloat16", "bf16", "float32", … */
/** Convert n elements between floating dtypes (round to nearest even; NaN stays NaN). */
am_status am_convert(const void *src, am_dtype from, void *dst, am_dtype to, int64_t n) AM_WARN_UNUSED;

static inline float am_bf16_to_f32(uint16_t h)
{
    union { uint32_t u; float f; } v = {.u = (uint32_t)h << 16};
    return v.f;
}
static inline uint16_t am_f32_to_bf16(float f) /* round to nearest even */
{
    union { float f; uint32_t u; } v = {.f = f};
    if ((v.u & 0x7fffffffu) > 0x7f800000u) return (uint16_t)((v.u >> 16) | 0x40u);
    return (uint16_t)((v.u + 0x7fffu + ((v.u >> 16) & 1u)) >> 16);
}

/* ---- hashes and random numbers ------------------------------------------------------------------ */

uint64_t am_hash64(const void *data, size_t n, uint64_t seed); /* XXH3 */
typedef struct am_hash64_state am_hash64_state;
am_status am_hash64_create(am_hash64_state **out) AM_WARN_UNUSED;
void      am_hash64_update(am_hash64_state *s, const void *data, size_t n);
uint64_t  am_hash64_digest(const am_hash64_state *s);
void      am_hash64_free(am_hash64_state **s);
/** Lower-case hex SHA-256 of `data`. */
am_status am_sha256_hex(const void *data, size_t n, char out[65]) AM_WARN_UNUSED;
am_status am_sha256_file_hex(const char *path, char out[65]) AM_WARN_UNUSED;

/** Philox4x32-10 (Salmon et al. 2011): four 32-bit numbers from a 128-bit counter and a 64-bit key. */
void am_philox4x32(const uint32_t counter[4], const uint32_t key[2], uint32_t out[4]);
/** Uniform 64-bit number, a pure function of (seed, stream, index). */
uint64_t am_random_u64(uint64_t seed, uint64_t stream, uint64_t index);

/* ---- files and time ------------------------------------------------------------------------------ */

/** Whole file into memory, NUL-terminated beyond *len.  Refuses files larger than max_bytes. */
am_status am_file_read(const char *path, size_t max_bytes, char **out, size_t *len) AM_WARN_UNUSED;
/** write temporary, flush, fsync, rename over path, fsync directory: the file is old or new, never torn. */
am_status am_file_write_atomic(const char *path, const void *data, size_t len) AM_WARN_UNUSED;
am_status am_mkdirs(const char *path) AM_WARN_UNUSED;
am_status am_path_join(const char *dir, const char *name, char **out) AM_WARN_UNUSED;
bool      am_path_exists(const char *path);
/** pread/pwrite of exactly n bytes: loops over short transfers and EINTR.  `path` names the file in errors. */
am_status am_pread_full(int fd, void *buf, size_t n, int64_t offset, const char *path) AM_WARN_UNUSED;
am_status am_pwrite_full(int fd, const void *buf, size_t n, int64_t offset, const char *path) AM_WARN_UNUSED;
int       am_fsync(int fd); /* fsync, again after EINTR; 0, or -1 with errno */
double    am_now(void); /* monotonic seconds */

#endif
