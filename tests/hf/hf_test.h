/* Helpers of the tests of model directories: temporary folders, files made of bytes, and errors that must be told. */
#ifndef AM_HF_TEST_H
#define AM_HF_TEST_H

#include "hf/hf.h"

#include <setjmp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

/* the call succeeds; else its sentence is printed */
#define assert_ok(call)                                                                        \
    do {                                                                                       \
        am_status assert_ok_st_ = (call);                                                      \
        if (assert_ok_st_ != AM_OK) fail_msg("%s: %s", #call, am_error_message());             \
    } while (0)

/* the call fails with this status, and its sentence has this text in it */
#define assert_fails(call, status_, text_)                                                     \
    do {                                                                                       \
        am_status assert_fails_st_ = (call);                                                   \
        if (assert_fails_st_ == AM_OK) fail_msg("%s succeeded", #call);                        \
        if (assert_fails_st_ != (status_) || strstr(am_error_message(), (text_)) == NULL)      \
            fail_msg("%s: %s: '%s' has no '%s'", #call, am_status_name(assert_fails_st_),      \
                     am_error_message(), (text_));                                             \
    } while (0)

/* A fresh folder below TMPDIR; valid until the next call. */
static inline const char *temporary_folder(void)
{
    static char path[256];
    const char *base = getenv("TMPDIR");
    snprintf(path, sizeof path, "%s/am_hf_XXXXXX", base != NULL ? base : "/tmp");
    assert_non_null(mkdtemp(path));
    return path;
}

static inline void remove_folder(const char *path)
{
    char command[600];
    snprintf(command, sizeof command, "rm -rf '%s'", path);
    assert_int_equal(system(command), 0);
}

static inline void write_file(const char *dir, const char *name, const void *data, size_t n)
{
    char path[600];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(data, 1, n, f), n);
    assert_int_equal(fclose(f), 0);
}

static inline void write_text(const char *dir, const char *name, const char *text)
{
    write_file(dir, name, text, strlen(text));
}

/* A safetensors file: header text as it is (`announced` bytes are claimed, its length when < 0), then n zero bytes. */
static inline void write_safetensors(const char *dir, const char *name, const char *header, int64_t announced, size_t n)
{
    size_t   len = strlen(header);
    uint64_t claim = announced < 0 ? len : (uint64_t)announced;
    char    *bytes = calloc(8 + len + n + 1, 1);
    assert_non_null(bytes);
    for (int i = 0; i < 8; i++) bytes[i] = (char)(claim >> (8 * i));
    memcpy(bytes + 8, header, len);
    write_file(dir, name, bytes, 8 + len + n);
    free(bytes);
}

/* The path of a file of the source tree (tests run there, or are told by AM_SOURCE_DIR); valid until the next call. */
static inline const char *source_path(const char *rel)
{
    static char path[600];
    const char *root = getenv("AM_SOURCE_DIR");
    snprintf(path, sizeof path, "%s/%s", root != NULL ? root : ".", rel);
    return path;
}

#endif
