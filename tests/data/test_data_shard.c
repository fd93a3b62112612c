/* Token shards: what is written is read, by us and (by hand, with h5py) by others; what is damaged is refused
 * by name. */
#include "data_test.h"

#include <hdf5.h>
#include <unistd.h>

static void fill(uint32_t *tokens, uint8_t *mask, int64_t n, uint64_t seed)
{
    for (int64_t t = 0; t < n; t++) {
        tokens[t] = (uint32_t)(am_random_u64(seed, 0, (uint64_t)t) % 50000);
        mask[t] = am_random_u64(seed, 1, (uint64_t)t) % 2;
    }
}

/* 70 sequences over several chunks of 16384 tokens, one of them longer than a chunk */
static int64_t length_of(int64_t i)
{
    return i == 13 ? 40000 : 1 + 37 * i;
}

static void write_random(const char *path, int deflate)
{
    static uint32_t tokens[40000];
    static uint8_t mask[40000];
    char *sources[] = {(char *)"a.jsonl", (char *)"ü b.jsonl.gz"};
    am_shard_info info = {.vocab_size = 50000,
                          .tokenizer_sha256 = "0123abcd",
                          .chat_template_sha256 = "ff",
                          .preparation = "p1",
                          .sources = sources,
                          .num_sources = 2},
                  counts = {0};
    am_shard_writer *w = NULL;
    int64_t tokens_in = 0, supervised = 0;
    OK(am_shard_writer_create(path, &info, deflate, &w));
    assert_false(am_path_exists(path));
    for (int64_t i = 0; i < 70; i++) {
        int64_t n = length_of(i);
        fill(tokens, mask, n, (uint64_t)i);
        for (int64_t t = 1; t < n; t++) supervised += mask[t];
        tokens_in += n;
        OK(am_shard_writer_add(w, tokens, mask, n));
    }
    assert_false(am_path_exists(path));
    OK(am_shard_writer_commit(w, &counts));
    assert_true(am_path_exists(path));
    assert_int_equal(counts.num_sequences, 70);
    assert_int_equal(counts.num_tokens, tokens_in);
    assert_int_equal(counts.num_supervised, supervised);
    am_shard_writer_free(&w);
}

static void check_random(const char *path)
{
    static uint32_t tokens[40000], want_tokens[40000];
    static uint8_t mask[40000], want_mask[40000];
    am_shard *s = NULL;
    OK(am_shard_open(path, &s));
    const am_shard_info *info = am_shard_get_info(s);
    assert_int_equal(info->vocab_size, 50000);
    assert_string_equal(info->tokenizer_sha256, "0123abcd");
    assert_string_equal(info->chat_template_sha256, "ff");
    assert_string_equal(info->preparation, "p1");
    assert_int_equal(info->num_sources, 2);
    assert_string_equal(info->sources[1], "ü b.jsonl.gz");
    assert_int_equal(info->num_sequences, 70);
    for (int64_t k = 0; k < 70; k++) {
        int64_t i = (k * 29) % 70, n = length_of(i), start = (int64_t)am_shard_offsets(s)[i];
        uint32_t targets = 0;
        assert_int_equal(am_shard_offsets(s)[i + 1], start + n);
        fill(want_tokens, want_mask, n, (uint64_t)i);
        OK(am_shard_read(s, start, n, tokens, mask));
        assert_memory_equal(tokens, want_tokens, (size_t)n * 4);
        assert_memory_equal(mask, want_mask, (size_t)n);
        for (int64_t t = 1; t < n; t++) targets += mask[t];
        assert_int_equal(am_shard_targets(s)[i], targets);
    }
    FAILS(am_shard_read(s, info->num_tokens - 1, 2, tokens, NULL), AM_ERR_INTERNAL, "were asked for");
    am_shard_close(&s);
    assert_null(s);
}

static void test_shard__round_trip(void **state)
{
    write_random(at("plain.h5"), 0);
    check_random(at("plain.h5"));
    write_random(at("deflated.h5"), 6);
    check_random(at("deflated.h5"));
    write_random(at("again.h5"), 0); /* the same data, the same bytes */
    char *a = NULL, *b = NULL;
    size_t n, m;
    OK(am_file_read(at("plain.h5"), 1 << 24, &a, &n));
    OK(am_file_read(at("again.h5"), 1 << 24, &b, &m));
    assert_int_equal(n, m);
    assert_memory_equal(a, b, n);
    am_free(&a);
    am_free(&b);
}

/* Written by h5py, tests/data/make_h5py_shard.py; the values below stand in that script. */
static void test_shard__of_h5py(void **state)
{
    const uint32_t want[15] = {0, 3, 6, 9, 12, 10, 20, 23, 26, 29, 32, 35, 38, 41, 44};
    const uint8_t want_mask[15] = {0, 0, 1, 1, 1, 1, 0, 0, 0, 0, 1, 0, 1, 1, 0};
    char path[512];
    uint32_t tokens[15];
    uint8_t mask[15];
    am_shard *s = NULL;
    snprintf(path, sizeof path, "%s/tests/data/files/h5py_small.hdf5",
             getenv("AM_SOURCE_DIR") ? getenv("AM_SOURCE_DIR") : ".");
    OK(am_shard_open(path, &s));
    assert_int_equal(am_shard_get_info(s)->num_sequences, 3);
    assert_int_equal(am_shard_get_info(s)->vocab_size, 64);
    assert_int_equal(am_shard_get_info(s)->num_supervised, 6);
    assert_int_equal(strlen(am_shard_get_info(s)->tokenizer_sha256), 64);
    assert_int_equal(am_shard_get_info(s)->num_sources, 2);
    assert_string_equal(am_shard_get_info(s)->sources[1], "zwei-ü.jsonl");
    OK(am_shard_read(s, 0, 15, tokens, mask));
    assert_memory_equal(tokens, want, sizeof want);
    assert_memory_equal(mask, want_mask, sizeof want_mask);
    assert_int_equal(am_shard_targets(s)[0], 3);
    assert_int_equal(am_shard_targets(s)[1], 0);
    assert_int_equal(am_shard_targets(s)[2], 3);
    am_shard_close(&s);
}

static void test_shard__empty_and_abandoned(void **state)
{
    am_shard_info info = {.vocab_size = 10};
    am_shard_writer *w = NULL;
    am_shard *s = NULL;
    OK(am_shard_writer_create(at("empty.h5"), &info, 0, &w));
    OK(am_shard_writer_commit(w, NULL));
    am_shard_writer_free(&w);
    OK(am_shard_open(at("empty.h5"), &s));
    assert_int_equal(am_shard_get_info(s)->num_sequences, 0);
    am_shard_close(&s);
    OK(am_shard_writer_create(at("abandoned.h5"), &info, 0, &w));
    am_shard_writer_free(&w);
    char command[400];
    snprintf(command, sizeof command, "test -z \"$(ls '%s' | grep abandoned)\"", scratch_dir);
    assert_int_equal(system(command), 0);
    FAILS(am_shard_writer_create(at("no/such/dir.h5"), &info, 0, &w), AM_ERR_IO, "dir.h5",
          "cannot be created");
}

static void test_shard__writer_refuses(void **state)
{
    am_shard_info info = {.vocab_size = 10};
    am_shard_writer *w = NULL;
    uint32_t tokens[2] = {1, 10};
    uint8_t mask[2] = {0, 1};
    OK(am_shard_writer_create(at("bad.h5"), &info, 0, &w));
    FAILS(am_shard_writer_add(w, tokens, mask, 2), AM_ERR_DATA, "id 10", "vocabulary 10");
    tokens[1] = 9;
    mask[0] = 2;
    FAILS(am_shard_writer_add(w, tokens, mask, 2), AM_ERR_DATA, "mask 2");
    FAILS(am_shard_writer_add(w, tokens, mask, 0), AM_ERR_DATA, "0 tokens");
    am_shard_writer_free(&w);
}

/* ---- damage ----------------------------------------------------------------------------------------- */

static am_status open_and_read_all(const char *path)
{
    static uint32_t tokens[200000];
    static uint8_t mask[200000];
    am_shard *s = NULL;
    am_status st = am_shard_open(path, &s);
    if (st == AM_OK) st = am_shard_read(s, 0, am_shard_get_info(s)->num_tokens, tokens, mask);
    am_shard_close(&s);
    return st;
}

static void test_shard__cut_off(void **state)
{
    write_random(at("whole.h5"), 0);
    char *bytes = NULL;
    size_t n;
    OK(am_file_read(at("whole.h5"), 1 << 24, &bytes, &n));
    const size_t keep[] = {0, 4, 100, 5000, n / 2, n - 1000, n - 1};
    for (size_t i = 0; i < sizeof keep / sizeof *keep; i++) {
        write_file(at("cut.h5"), bytes, keep[i]);
        FAILS(open_and_read_all(at("cut.h5")), AM_ERR_DATA, "cut.h5");
    }
    am_free(&bytes);
}

/* A flipped bit is refused, or it lay where nothing is stored: then every value read is the true one. */
static void test_shard__flipped_bits(void **state)
{
    const test_seq seqs[] = {{700, 100}, {20000, 5000}, {300, 20}};
    write_shard(at("good.h5"), seqs, 3);
    char *bytes = NULL;
    size_t n;
    int refused = 0, trials = 400;
    OK(am_file_read(at("good.h5"), 1 << 24, &bytes, &n));
    for (int i = 0; i < trials; i++) {
        size_t where = am_random_u64(11, 0, (uint64_t)i) % n;
        char bit = (char)(1 << (i % 8));
        bytes[where] ^= bit;
        write_file(at("flip.h5"), bytes, n);
        bytes[where] ^= bit;
        am_status st = open_and_read_all(at("flip.h5"));
        if (st == AM_OK) {
            static uint32_t tokens[30000];
            static uint8_t mask[30000];
            am_shard *s = NULL;
            OK(am_shard_open(at("flip.h5"), &s));
            assert_int_equal(am_shard_get_info(s)->num_tokens, 21000);
            assert_string_equal(am_shard_get_info(s)->tokenizer_sha256, "t");
            OK(am_shard_read(s, 0, 21000, tokens, mask));
            int64_t base = 0;
            for (int64_t k = 0; k < 3; base += seqs[k++].length)
                for (int64_t t = 0; t < seqs[k].length; t++) {
                    assert_int_equal(tokens[base + t], 100 * (k + 1) + t);
                    assert_int_equal(mask[base + t], t >= seqs[k].prompt);
                }
            am_shard_close(&s);
            continue;
        }
        refused++;
        assert_string_equal(am_status_name(st), "ERR_DATA");
        assert_non_null(strstr(am_error_message(), "flip.h5"));
    }
    assert_true(refused > trials / 2); /* the file is mostly data */
    am_free(&bytes);
}

static void test_shard__flipped_token_names_the_place(void **state)
{
    const test_seq seqs[] = {{20000, 0}};
    uint32_t needle[4] = {100 + 18000, 100 + 18001, 100 + 18002, 100 + 18003};
    char *bytes = NULL;
    size_t n;
    write_shard(at("f.h5"), seqs, 1);
    OK(am_file_read(at("f.h5"), 1 << 24, &bytes, &n));
    char *found = memmem(bytes, n, needle, sizeof needle);
    assert_non_null(found);
    *found ^= 1;
    write_file(at("f.h5"), bytes, n);
    FAILS(open_and_read_all(at("f.h5")), AM_ERR_DATA, "f.h5", "/tokens", "cannot be read", "checksum");
    am_free(&bytes);
}

/* ---- structure: shards made with the HDF5 library, each wrong in one way --------------------------------
 */

typedef struct wrong {
    const char *name; /* of the case, and what the sentence says about it */
    const char *word;
    int missing;               /* dataset left out: 1 + index */
    int contiguous, unchecked; /* 1 + index of the dataset stored so */
    int wide;                  /* 1 + index of the dataset with another type */
    uint64_t offsets[3];
    uint32_t targets[2];
    int64_t version, vocab, sequences, tokens, supervised;
    uint8_t mask1;
    int no_attribute;
} wrong;

static void put(hid_t f, const char *name, hid_t type, hid_t memory, const void *data, hsize_t n,
                bool chunked, bool checked)
{
    hsize_t chunk = 2, max = H5S_UNLIMITED;
    hid_t space = H5Screate_simple(1, &n, chunked ? &max : NULL), list = H5Pcreate(H5P_DATASET_CREATE);
    if (chunked) H5Pset_chunk(list, 1, &chunk);
    if (chunked && checked) H5Pset_fletcher32(list);
    hid_t d = H5Dcreate2(f, name, type, space, H5P_DEFAULT, list, H5P_DEFAULT);
    assert_true(d > 0);
    H5Dwrite(d, memory, H5S_ALL, H5S_ALL, H5P_DEFAULT, data);
    H5Dclose(d);
    H5Pclose(list);
    H5Sclose(space);
}

static void put_number(hid_t f, const char *name, int64_t value)
{
    hid_t space = H5Screate(H5S_SCALAR),
          a = H5Acreate2(f, name, H5T_STD_I64LE, space, H5P_DEFAULT, H5P_DEFAULT);
    H5Awrite(a, H5T_NATIVE_INT64, &value);
    H5Aclose(a);
    H5Sclose(space);
}

static void make_wrong(const char *path, const wrong *w)
{
    const uint32_t tokens[5] = {1, 2, 3, 4, 5};
    const uint8_t mask[5] = {0, w->mask1, 1, 0, 1};
    const char *names[] = {"tokens", "loss_mask", "sequence_offsets", "sequence_targets"};
    const hid_t disk[] = {H5T_STD_U32LE, H5T_STD_U8LE, H5T_STD_U64LE, H5T_STD_U32LE};
    const hid_t memory[] = {H5T_NATIVE_UINT32, H5T_NATIVE_UINT8, H5T_NATIVE_UINT64, H5T_NATIVE_UINT32};
    const void *data[] = {tokens, mask, w->offsets, w->targets};
    const hsize_t sizes[] = {5, 5, 3, 2};
    hid_t f = H5Fcreate(path, H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT);
    for (int i = 0; i < 4; i++)
        if (w->missing != i + 1)
            put(f, names[i], w->wide == i + 1 ? H5T_STD_I64LE : disk[i], memory[i], data[i], sizes[i],
                w->contiguous != i + 1, w->unchecked != i + 1);
    if (!w->no_attribute) put_number(f, "format_version", w->version);
    put_number(f, "vocab_size", w->vocab);
    put_number(f, "num_sequences", w->sequences);
    put_number(f, "num_tokens", w->tokens);
    put_number(f, "num_supervised", w->supervised);
    H5Fclose(f);
}

#define RIGHT                                                                                                \
    .offsets = {0, 3, 5}, .targets = {2, 1}, .version = 1, .vocab = 6, .sequences = 2, .tokens = 5,          \
    .supervised = 3, .mask1 = 1

static void test_shard__structure(void **state)
{
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Woverride-init"
    const wrong cases[] = {
        {RIGHT, .name = "no tokens", .word = "/tokens is missing", .missing = 1},
        {RIGHT, .name = "no targets", .word = "/sequence_targets is missing", .missing = 4},
        {RIGHT, .name = "contiguous", .word = "/loss_mask is not stored in chunks", .contiguous = 2},
        {RIGHT, .name = "unchecked", .word = "/tokens has no Fletcher32", .unchecked = 1},
        {RIGHT, .name = "unchecked offsets", .word = "/sequence_offsets has no Fletcher32", .unchecked = 3},
        {RIGHT, .name = "type", .word = "/tokens is not of type uint32", .wide = 1},
        {RIGHT, .name = "first offset", .word = "goes from 1 to 5", .offsets = {1, 3, 5}},
        {RIGHT, .name = "last offset", .word = "goes from 0 to 4", .offsets = {0, 3, 4}},
        {RIGHT, .name = "falling", .word = "sequence 1 goes from token 5 to 5", .offsets = {0, 5, 5}},
        {RIGHT, .name = "targets too many", .word = "sequence 0 of 3 tokens claims 3", .targets = {3, 0}},
        {RIGHT, .name = "targets sum", .word = "sum to 2", .targets = {1, 1}},
        {RIGHT, .name = "count of sequences", .word = "3 sequences", .sequences = 3},
        {RIGHT, .name = "count of tokens", .word = "6 tokens", .tokens = 6},
        {RIGHT, .name = "version", .word = "shard format 2", .version = 2},
        {RIGHT, .name = "vocabulary", .word = "id 5", .vocab = 5},
        {RIGHT, .name = "mask", .word = "/loss_mask is 2 at token 1", .mask1 = 2},
        {RIGHT, .name = "no attribute", .word = "format_version is missing", .no_attribute = 1},
    };
    const wrong right = {RIGHT, .name = "right"};
#pragma GCC diagnostic pop
    make_wrong(at("s.h5"), &right);
    OK(open_and_read_all(at("s.h5")));
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        make_wrong(at("s.h5"), &cases[i]);
        FAILS(open_and_read_all(at("s.h5")), AM_ERR_DATA, "s.h5", cases[i].word);
    }
    FAILS(open_and_read_all(at("absent.h5")), AM_ERR_DATA, "absent.h5", "no such file");
    write_file(at("text.h5"), "hello, this is not HDF5", 23);
    FAILS(open_and_read_all(at("text.h5")), AM_ERR_DATA, "text.h5", "cannot be opened as HDF5");
}

/* After all the refusals above, nothing of a shard is still open. */
static void test_shard__every_handle_is_closed(void **state)
{
    assert_int_equal(H5Fget_obj_count(H5F_OBJ_ALL, H5F_OBJ_ALL), 0);
    hsize_t spaces = 0;
    H5Inmembers(H5I_DATASPACE, &spaces);
    assert_int_equal(spaces, 0);
}

/* HDF5 1.10.8 itself loses 424 bytes when it meets some damaged metadata. */
const char *__lsan_default_suppressions(void);
const char *__lsan_default_suppressions(void)
{
    return "leak:libhdf5";
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_shard__round_trip),
        cmocka_unit_test(test_shard__of_h5py),
        cmocka_unit_test(test_shard__empty_and_abandoned),
        cmocka_unit_test(test_shard__writer_refuses),
        cmocka_unit_test(test_shard__cut_off),
        cmocka_unit_test(test_shard__flipped_bits),
        cmocka_unit_test(test_shard__flipped_token_names_the_place),
        cmocka_unit_test(test_shard__structure),
        cmocka_unit_test(test_shard__every_handle_is_closed),
    };
    return cmocka_run_group_tests(tests, make_scratch, remove_scratch);
}
