/* JSON lines: where lines end, gzip, byte ranges that deal lines out once, and what is refused. */
#include "data_test.h"

#include <sys/stat.h>
#include <zlib.h>

static void expect_lines(am_jsonl *r, const char *const *lines, const int64_t *numbers, int n)
{
    const char *line;
    size_t len;
    for (int i = 0; i < n; i++) {
        OK(am_jsonl_next(r, &line, &len));
        assert_non_null(line);
        assert_int_equal(len, strlen(lines[i]));
        assert_string_equal(line, lines[i]);
        if (numbers) assert_int_equal(am_jsonl_line_number(r), numbers[i]);
    }
    OK(am_jsonl_next(r, &line, &len));
    assert_null(line);
    OK(am_jsonl_next(r, &line, &len));
    assert_null(line);
}

static void test_jsonl__splits_at_newline_only(void **state)
{
    /* U+2028, U+0085, \r, \v, \f: Python's splitlines() would cut at each */
    const char text[] = "{\"a\":\"x\xe2\x80\xa8y\"}\n\n  \t\n{\"b\":\"\xc2\x85\r\v\f\"}\nlast";
    const char *lines[] = {"{\"a\":\"x\xe2\x80\xa8y\"}", "{\"b\":\"\xc2\x85\r\v\f\"}", "last"};
    const int64_t numbers[] = {1, 4, 5};
    am_jsonl *r = NULL;
    write_file(at("a.jsonl"), text, sizeof text - 1);
    OK(am_jsonl_open(at("a.jsonl"), 0, -1, &r));
    expect_lines(r, lines, numbers, 3);
    am_jsonl_close(&r);
    assert_null(r);
}

static void test_jsonl__line_longer_than_the_buffer(void **state)
{
    size_t n = 1000003;
    char *text = malloc(n + 3);
    const char *line;
    size_t len;
    am_jsonl *r = NULL;
    memset(text, 'x', n);
    memcpy(text + n, "\ny\n", 3);
    write_file(at("long.jsonl"), text, n + 3);
    OK(am_jsonl_open(at("long.jsonl"), 0, -1, &r));
    OK(am_jsonl_next(r, &line, &len));
    assert_int_equal(len, n);
    assert_memory_equal(line, text, n);
    OK(am_jsonl_next(r, &line, &len));
    assert_string_equal(line, "y");
    am_jsonl_close(&r);
    free(text);
}

static void test_jsonl__gzip(void **state)
{
    const char *lines[] = {"one", "two", "three"};
    const char *names[] = {"z.jsonl.gz", "z.jsonl"}; /* told by its bytes, not its name */
    for (int i = 0; i < 2; i++) {
        gzFile z = gzopen(at(names[i]), "wb");
        gzputs(z, "one\ntwo\n");
        gzclose(z);
        z = gzopen(at(names[i]), "ab"); /* two members, as `cat a.gz b.gz` makes them */
        gzputs(z, "three\n");
        gzclose(z);
        am_jsonl *r = NULL;
        OK(am_jsonl_open(at(names[i]), 0, -1, &r));
        expect_lines(r, lines, NULL, 3);
        am_jsonl_close(&r);
    }
}

/* All lines of a file that cannot be read to its end: the status of the reader that meets the fault. */
static am_status drain(const char *path)
{
    am_jsonl *r = NULL;
    const char *line = "";
    size_t len;
    am_status st = am_jsonl_open(path, 0, -1, &r);
    while (st == AM_OK && line) st = am_jsonl_next(r, &line, &len);
    am_jsonl_close(&r);
    return st;
}

static void test_jsonl__damaged_gzip(void **state)
{
    gzFile z = gzopen(at("d.gz"), "wb");
    for (int i = 0; i < 20000; i++) gzprintf(z, "{\"line\": %d}\n", i * 7919);
    gzclose(z);
    char *bytes = NULL;
    size_t n;
    OK(am_file_read(at("d.gz"), 1 << 24, &bytes, &n));
    OK(drain(at("d.gz")));
    write_file(at("cut.gz"), bytes, n - 5);
    FAILS(drain(at("cut.gz")), AM_ERR_DATA, "cut.gz", "cut off");
    write_file(at("half.gz"), bytes, n / 2);
    FAILS(drain(at("half.gz")), AM_ERR_DATA, "half.gz", "cut off");
    bytes[n / 2] ^= 0x10;
    write_file(at("flip.gz"), bytes, n);
    FAILS(drain(at("flip.gz")), AM_ERR_DATA, "flip.gz", "corrupt");
    am_free(&bytes);
}

static void test_jsonl__refused(void **state)
{
    FAILS(drain(at("none.jsonl")), AM_ERR_DATA, "none.jsonl", "cannot be opened");
    FAILS(drain(scratch_dir), AM_ERR_DATA, "not a regular file");
    write_file(at("plain.gz"), "abc\n", 4);
    FAILS(drain(at("plain.gz")), AM_ERR_DATA, "plain.gz", "not a gzip file");
    write_file(at("x.zst"), "abc\n", 4);
    FAILS(drain(at("x.zst")), AM_ERR_DATA, "zstd");
    write_file(at("bom.jsonl"), "\xef\xbb\xbf{}\n", 6);
    FAILS(drain(at("bom.jsonl")), AM_ERR_DATA, "bom.jsonl:1", "byte order mark");
    assert_int_equal(mkfifo(at("fifo"), 0600), 0);
    FAILS(drain(at("fifo")), AM_ERR_DATA, "not a regular file");
    write_file(at("empty.jsonl"), "", 0);
    OK(drain(at("empty.jsonl")));
}

/* For every way to cut the file in two, each line is given once, in order, with its number. */
static void test_jsonl__ranges_deal_every_line_once(void **state)
{
    const char text[] = "a\nbb\n\nccc\n\n\ndddd\ne";
    const char *lines[] = {"a", "bb", "ccc", "dddd", "e"};
    const int64_t numbers[] = {1, 2, 4, 7, 8};
    int64_t size = (int64_t)sizeof text - 1;
    write_file(at("r.jsonl"), text, sizeof text - 1);
    for (int64_t cut = 0; cut <= size; cut++) {
        int seen = 0;
        for (int part = 0; part < 2; part++) {
            am_jsonl *r = NULL;
            const char *line;
            size_t len;
            OK(am_jsonl_open(at("r.jsonl"), part ? cut : 0, part ? size : cut, &r));
            for (;;) {
                OK(am_jsonl_next(r, &line, &len));
                if (!line) break;
                assert_true(seen < 5);
                assert_string_equal(line, lines[seen]);
                assert_int_equal(am_jsonl_line_number(r), numbers[seen]);
                seen++;
            }
            am_jsonl_close(&r);
        }
        assert_int_equal(seen, 5);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_jsonl__splits_at_newline_only),
        cmocka_unit_test(test_jsonl__line_longer_than_the_buffer),
        cmocka_unit_test(test_jsonl__gzip),
        cmocka_unit_test(test_jsonl__damaged_gzip),
        cmocka_unit_test(test_jsonl__refused),
        cmocka_unit_test(test_jsonl__ranges_deal_every_line_once),
    };
    return cmocka_run_group_tests(tests, make_scratch, remove_scratch);
}
