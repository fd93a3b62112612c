/* Files: whole reads, atomic writes, exact transfers, directories. */
#include "base/base.h"

#include <dirent.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

static char folder[64];

static char *in_folder(const char *name)
{
    char *path = NULL;
    assert_int_equal(am_path_join(folder, name, &path), AM_OK);
    return path;
}

static int count_entries(void)
{
    int n = 0;
    DIR *d = opendir(folder);
    assert_non_null(d);
    while (readdir(d) != NULL) n++;
    closedir(d);
    return n - 2;
}

static void test_base_file__write_then_read(void **state)
{
    char *path = in_folder("a.txt"), *back = NULL;
    size_t len = 0;
    assert_int_equal(am_file_write_atomic(path, "one\0two", 7), AM_OK);
    assert_int_equal(am_file_read(path, 100, &back, &len), AM_OK);
    assert_int_equal(len, 7);
    assert_memory_equal(back, "one\0two\0", 8); /* and the terminator beyond len */
    am_free(&back);
    assert_int_equal(am_file_write_atomic(path, "", 0), AM_OK);
    assert_int_equal(am_file_read(path, 100, &back, &len), AM_OK);
    assert_int_equal(len, 0);
    am_free(&back);
    assert_int_equal(count_entries(), 1); /* no temporary left */
    unlink(path);
    am_free(&path);
}

/* The old content must survive a write that fails; here the target is a directory, so the rename fails. */
static void test_base_file__failed_write_leaves_nothing(void **state)
{
    char *path = in_folder("d"), *inner = in_folder("d/x");
    assert_int_equal(am_mkdirs(inner), AM_OK);
    assert_int_equal(am_file_write_atomic(path, "x", 1), AM_ERR_IO);
    assert_non_null(strstr(am_error_message(), path));
    assert_int_equal(count_entries(), 1);
    rmdir(inner);
    rmdir(path);
    assert_int_equal(am_file_write_atomic("/nonexistent-folder/x", "x", 1), AM_ERR_IO);
    am_free(&path);
    am_free(&inner);
}

static void test_base_file__replaces_without_writing_in_place(void **state)
{
    char *path = in_folder("r"), old[4] = "";
    assert_int_equal(am_file_write_atomic(path, "old", 3), AM_OK);
    int fd = open(path, O_RDONLY);
    assert_true(fd >= 0);
    assert_int_equal(am_file_write_atomic(path, "new", 3), AM_OK);
    assert_int_equal(am_pread_full(fd, old, 3, 0, path), AM_OK);
    assert_string_equal(old, "old"); /* a reader of the old file is undisturbed */
    close(fd);
    unlink(path);
    am_free(&path);
}

static void test_base_file__refusals(void **state)
{
    char *path = in_folder("b"), *back = NULL;
    size_t len;
    assert_int_equal(am_file_read(path, 10, &back, &len), AM_ERR_IO);
    assert_non_null(strstr(am_error_message(), "No such file"));
    assert_int_equal(am_file_read(folder, 10, &back, &len), AM_ERR_IO);
    assert_non_null(strstr(am_error_message(), "is a directory"));
    assert_int_equal(am_file_write_atomic(path, "12345678901", 11), AM_OK);
    assert_int_equal(am_file_read(path, 10, &back, &len), AM_ERR_IO);
    assert_non_null(strstr(am_error_message(), "11 bytes, more than the 10 allowed"));
    assert_int_equal(am_file_read("/dev/zero", 1000, &back, &len), AM_ERR_IO);
    assert_non_null(strstr(am_error_message(), "more than the 1000 bytes allowed"));
    assert_null(back);
    unlink(path);
    am_free(&path);
}

static void test_base_file__positional(void **state)
{
    char *path = in_folder("p"), buf[8] = "";
    int fd = open(path, O_RDWR | O_CREAT, 0600);
    assert_true(fd >= 0);
    assert_int_equal(am_pwrite_full(fd, "abcd", 4, 4, path), AM_OK);
    assert_int_equal(am_pread_full(fd, buf, 4, 4, path), AM_OK);
    assert_string_equal(buf, "abcd");
    assert_int_equal(am_pread_full(fd, buf, 5, 4, path), AM_ERR_IO);
    assert_non_null(strstr(am_error_message(), "truncated: it ends at byte 8, 1 bytes more"));
    close(fd);
    assert_int_equal(am_pwrite_full(fd, "x", 1, 0, path), AM_ERR_IO);
    unlink(path);
    am_free(&path);
}

static void test_base_file__mkdirs_and_join(void **state)
{
    char *path = in_folder("x/y//z/"), *joined = NULL;
    assert_int_equal(am_mkdirs(path), AM_OK);
    assert_int_equal(am_mkdirs(path), AM_OK);
    assert_true(am_path_exists(path));
    assert_int_equal(am_mkdirs("/dev/null/x"), AM_ERR_IO);
    assert_int_equal(am_mkdirs(""), AM_ERR_IO);
    am_free(&path);
    assert_int_equal(am_path_join("a/", "b", &joined), AM_OK);
    assert_string_equal(joined, "a/b");
    am_free(&joined);
    assert_int_equal(am_path_join("a", "/b", &joined), AM_OK);
    assert_string_equal(joined, "/b");
    am_free(&joined);
    double t = am_now();
    assert_true(am_now() >= t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_base_file__write_then_read),
        cmocka_unit_test(test_base_file__failed_write_leaves_nothing),
        cmocka_unit_test(test_base_file__replaces_without_writing_in_place),
        cmocka_unit_test(test_base_file__refusals),
        cmocka_unit_test(test_base_file__positional),
        cmocka_unit_test(test_base_file__mkdirs_and_join),
    };
    snprintf(folder, sizeof folder, "/tmp/am_test_file_XXXXXX");
    if (mkdtemp(folder) == NULL) return 1;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
