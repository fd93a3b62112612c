/* Data sets: the packing table against small cases worked by hand, samples as a pure function of their index,
 * samples longer than a row, sets of shards that do not belong together. */
#include "data_test.h"

typedef struct row {
    int32_t ids[64], labels[64], positions[64], doc[64];
    int64_t targets;
} row;

static am_dataset *open_set(const char *path, int64_t row_len, bool packed, bool shuffle,
                            am_long_samples longs)
{
    am_dataset_options o = {.paths = &path,
                            .num_paths = 1,
                            .row_len = row_len,
                            .packed = packed,
                            .shuffle = shuffle,
                            .seed = 5,
                            .long_samples = longs};
    am_dataset *d = NULL;
    OK(am_dataset_open(&o, &d));
    return d;
}

static row sample(am_dataset *d, int64_t index)
{
    row r;
    memset(&r, 0x55, sizeof r);
    OK(am_data_sample(d, index, r.ids, r.labels, r.positions, r.doc, &r.targets));
    assert_int_equal(r.targets, am_data_sample_targets(d, index));
    return r;
}

/* Cells [at, at + n) hold tokens from..from+n−1 of sequence i, whose first `prompt` tokens are not
 * supervised; the last cell is labelled when `next`. */
static void expect_piece(const row *r, int64_t at_cell, int64_t i, int64_t from, int64_t n, int64_t prompt,
                         bool next)
{
    for (int64_t t = 0; t < n; t++) {
        int64_t token = 100 * (i + 1) + from + t;
        bool supervised = from + t + 1 >= prompt && (t + 1 < n || next);
        assert_int_equal(r->ids[at_cell + t], token);
        assert_int_equal(r->labels[at_cell + t], supervised ? token + 1 : -100);
        assert_int_equal(r->positions[at_cell + t], t);
        assert_int_equal(r->doc[at_cell + t], at_cell);
    }
}

static void expect_filler(const row *r, int64_t from, int64_t end)
{
    for (int64_t t = from; t < end; t++) {
        assert_int_equal(r->ids[t], 0);
        assert_int_equal(r->labels[t], -100);
        assert_int_equal(r->positions[t], 0);
        assert_int_equal(r->doc[t], t);
    }
}

static void test_dataset__packing_by_hand(void **state)
{
    /* T = 10: 4 and 5 fill row 0 to 9; 3 opens row 1; 6 joins it (9); 2 fits in neither */
    const test_seq a[] = {{4, 1}, {5, 2}, {3, 0}, {6, 6}, {2, 1}};
    write_shard(at("a.h5"), a, 5);
    am_dataset *d = open_set(at("a.h5"), 10, true, false, AM_LONG_REFUSE);
    const am_dataset_counts *c = am_dataset_get_counts(d);
    assert_int_equal(c->num_rows, 3);
    assert_int_equal(c->num_pieces, 5);
    assert_int_equal(c->cells_used, 20);
    assert_int_equal(c->targets, 3 + 3 + 2 + 0 + 1);
    row r = sample(d, 0);
    expect_piece(&r, 0, 0, 0, 4, 1, false);
    expect_piece(&r, 4, 1, 0, 5, 2, false);
    expect_filler(&r, 9, 10);
    assert_int_equal(r.targets, 6);
    r = sample(d, 1);
    expect_piece(&r, 0, 2, 0, 3, 0, false);
    expect_piece(&r, 3, 3, 0, 6, 6, false);
    assert_int_equal(r.targets, 2);
    r = sample(d, 2);
    expect_piece(&r, 0, 4, 0, 2, 1, false);
    expect_filler(&r, 2, 10);
    am_dataset_close(&d);

    /* first fit goes back to a row with room: 7 | 8, then 3 joins the first, 2 the second */
    const test_seq b[] = {{7, 1}, {8, 1}, {3, 1}, {2, 1}};
    write_shard(at("b.h5"), b, 4);
    d = open_set(at("b.h5"), 10, true, false, AM_LONG_REFUSE);
    assert_int_equal(am_dataset_get_counts(d)->num_rows, 2);
    r = sample(d, 0);
    expect_piece(&r, 0, 0, 0, 7, 1, false);
    expect_piece(&r, 7, 2, 0, 3, 1, false);
    r = sample(d, 1);
    expect_piece(&r, 0, 1, 0, 8, 1, false);
    expect_piece(&r, 8, 3, 0, 2, 1, false);
    am_dataset_close(&d);
}

/* At most 16 rows are open: the 17th closes the fullest one, here number 3, whose two free cells stay free.
 */
static void test_dataset__packing_closes_the_fullest_row(void **state)
{
    test_seq s[20];
    for (int i = 0; i < 17; i++) s[i] = (test_seq){i == 3 ? 8 : 7, 1};
    s[17] = (test_seq){2, 1}; /* the row of 8 (number 3) has closed; row 0 takes it */
    s[18] = (test_seq){3, 1}; /* row 1 */
    write_shard(at("c.h5"), s, 19);
    am_dataset *d = open_set(at("c.h5"), 10, true, false, AM_LONG_REFUSE);
    assert_int_equal(am_dataset_get_counts(d)->num_rows, 17);
    row r = sample(d, 0);
    expect_piece(&r, 7, 17, 0, 2, 1, false);
    r = sample(d, 1);
    expect_piece(&r, 7, 18, 0, 3, 1, false);
    r = sample(d, 3);
    expect_filler(&r, 8, 10);
    am_dataset_close(&d);
}

static void test_dataset__unpacked(void **state)
{
    const test_seq a[] = {{4, 1}, {10, 2}, {1, 0}};
    write_shard(at("u.h5"), a, 3);
    am_dataset *d = open_set(at("u.h5"), 10, false, false, AM_LONG_REFUSE);
    assert_int_equal(am_dataset_get_counts(d)->num_rows, 3);
    row r = sample(d, 1);
    expect_piece(&r, 0, 1, 0, 10, 2, false);
    r = sample(d, 2);
    expect_piece(&r, 0, 2, 0, 1, 0, false);
    expect_filler(&r, 1, 10);
    assert_int_equal(r.targets, 0);
    am_dataset_close(&d);
}

/* 150 sequences of 1–20 tokens in 3 shards of a folder; row_len 24. */
static void write_folder(const char *dir)
{
    OK(am_mkdirs(dir));
    for (int s = 0; s < 3; s++) {
        test_seq seqs[50];
        char path[600];
        for (int i = 0; i < 50; i++) seqs[i] = (test_seq){1 + (i * 7 + s) % 20, (i + s) % 5};
        snprintf(path, sizeof path, "%s/shard-%05d-of-00003.h5", dir, s);
        write_shard(path, seqs, 50);
    }
}

static void test_dataset__random_access_equals_sequential(void **state)
{
    write_folder(at("set"));
    for (int packed = 0; packed < 2; packed++) {
        am_dataset *d = open_set(at("set"), 24, packed, true, AM_LONG_REFUSE);
        int64_t rows = am_dataset_get_counts(d)->num_rows, n = 3 * rows, sum = 0;
        row *all = calloc((size_t)n, sizeof *all);
        for (int64_t i = 0; i < n; i++) all[i] = sample(d, i);
        am_dataset_close(&d);
        d = open_set(at("set"), 24, packed, true, AM_LONG_REFUSE);
        for (int64_t k = 0; k < 2 * n; k++) {
            int64_t i = (int64_t)(am_random_u64(3, 0, (uint64_t)k) % (uint64_t)n);
            row r = sample(d, i);
            assert_memory_equal(&r, &all[i], sizeof r);
        }
        for (int64_t i = 0; i < rows; i++) sum += all[i].targets;
        assert_int_equal(sum, am_dataset_get_counts(d)->targets);
        assert_int_equal(sum, am_dataset_get_counts(d)->num_supervised);
        assert_int_equal(am_data_step_targets(d, 0, rows), sum);
        assert_int_equal(am_data_step_targets(d, 1, rows),
                         sum); /* an epoch is all rows, whatever their order */
        free(all);
        am_dataset_close(&d);
    }
}

/* Every sequence once an epoch; the order changes with the epoch and the seed, and the source order comes
 * back without. */
static void test_dataset__epochs(void **state)
{
    write_folder(at("set2"));
    am_dataset *d = open_set(at("set2"), 24, false, true, AM_LONG_REFUSE);
    int64_t first[3][150];
    for (int64_t e = 0; e < 3; e++) {
        int count[150] = {0};
        for (int64_t i = 0; i < 150; i++) {
            row r = sample(d, e * 150 + i);
            int64_t which = r.ids[0] / 100 - 1; /* the same in each shard: three times each */
            assert_true(which >= 0 && which < 50);
            count[which]++;
            first[e][i] = which;
        }
        for (int i = 0; i < 50; i++) assert_int_equal(count[i], 3);
    }
    assert_memory_not_equal(first[0], first[1], sizeof first[0]);
    assert_memory_not_equal(first[1], first[2], sizeof first[0]);
    am_dataset_close(&d);
    d = open_set(at("set2"), 24, false, false, AM_LONG_REFUSE);
    for (int64_t i = 0; i < 300; i++) assert_int_equal(sample(d, i).ids[0] / 100 - 1, i % 50);
    am_dataset_close(&d);
}

static void test_dataset__end_of_the_last_epoch(void **state)
{
    const test_seq a[] = {{4, 1}, {5, 2}, {3, 0}};
    const char *path = at("e.h5");
    am_dataset_options o = {.paths = &path, .num_paths = 1, .row_len = 6, .num_epochs = 2, .shuffle = true};
    am_dataset *d = NULL;
    write_shard(path, a, 3);
    OK(am_dataset_open(&o, &d));
    int64_t N = am_dataset_get_counts(d)->targets;
    assert_int_equal(am_data_num_steps(d, 2, 4), 2); /* ceil(6 / 4) */
    assert_int_equal(am_data_step_targets(d, 0, 4) + am_data_step_targets(d, 1, 4), 2 * N);
    row r = sample(d, 6);
    expect_filler(&r, 0, 6);
    assert_int_equal(r.targets, 0);
    assert_int_equal(am_data_step_targets(d, 2, 4), 0);
    am_dataset_close(&d);
}

static void test_dataset__longer_than_a_row(void **state)
{
    /* token 7 of sequence 1 is its first supervised one */
    const test_seq a[] = {{3, 1}, {10, 7}, {9, 0}, {4, 1}};
    const char *path = at("l.h5");
    am_dataset_options o = {.paths = &path, .num_paths = 1, .row_len = 4};
    am_dataset *d = NULL;
    write_shard(path, a, 4);
    FAILS(am_dataset_open(&o, &d), AM_ERR_DATA, "l.h5", "sample 1 has 10 tokens", "a row 4",
          "drop_long_samples", "truncat");
    d = open_set(path, 4, false, false, AM_LONG_DROP);
    assert_int_equal(am_dataset_get_counts(d)->num_rows, 2);
    assert_int_equal(am_dataset_get_counts(d)->dropped, 2);
    am_dataset_close(&d);

    d = open_set(path, 4, false, false, AM_LONG_TRUNCATE);
    assert_int_equal(am_dataset_get_counts(d)->num_rows, 4);
    assert_int_equal(am_dataset_get_counts(d)->truncated, 2);
    row r = sample(d, 1);
    expect_piece(&r, 0, 1, 0, 4, 7, false);
    assert_int_equal(r.targets, 0);
    r = sample(d, 2);
    expect_piece(&r, 0, 2, 0, 4, 0, false);
    assert_int_equal(r.targets, 3);
    am_dataset_close(&d);

    /* 10 = 4 + 4 + 2, each cut labelled across: 3 of 3 targets kept; 9 = 4 + 4, its last token is only a
     * label: 8 of 8 */
    d = open_set(path, 4, false, false, AM_LONG_SPLIT);
    assert_int_equal(am_dataset_get_counts(d)->num_rows, 1 + 3 + 2 + 1);
    assert_int_equal(am_dataset_get_counts(d)->split, 2);
    assert_int_equal(am_dataset_get_counts(d)->targets, 2 + 3 + 8 + 3);
    assert_int_equal(am_dataset_get_counts(d)->num_supervised, 2 + 3 + 8 + 3);
    r = sample(d, 2);
    expect_piece(&r, 0, 1, 4, 4, 7, true);
    r = sample(d, 3);
    expect_piece(&r, 0, 1, 8, 2, 7, false);
    expect_filler(&r, 2, 4);
    r = sample(d, 5);
    expect_piece(&r, 0, 2, 4, 4, 0, true);
    am_dataset_close(&d);
}

static void test_dataset__hash_of_the_table(void **state)
{
    write_folder(at("set3"));
    const char *path = at("set3");
    am_dataset_options o = {
        .paths = &path, .num_paths = 1, .row_len = 24, .packed = true, .shuffle = true, .seed = 1};
    uint64_t hash[6];
    for (int i = 0; i < 6; i++) {
        am_dataset *d = NULL;
        o.seed = i == 2 ? 2 : 1;
        o.row_len = i == 3 ? 25 : 24;
        o.packed = i != 4;
        o.limit_sequences = i == 5 ? 149 : 0;
        OK(am_dataset_open(&o, &d));
        hash[i] = am_dataset_get_counts(d)->table_hash;
        if (i == 5) assert_int_equal(am_dataset_get_counts(d)->num_sequences, 149);
        am_dataset_close(&d);
    }
    assert_true(hash[0] == hash[1]);
    for (int i = 2; i < 6; i++) assert_true(hash[0] != hash[i]);
}

/* More shards than files are kept open. */
static void test_dataset__many_shards(void **state)
{
    OK(am_mkdirs(at("many")));
    for (int s = 0; s < 90; s++) {
        const test_seq one[] = {{3 + s % 5, 1}};
        char path[600];
        snprintf(path, sizeof path, "%s/part-%03d.h5", at("many"), s);
        write_shard(path, one, 1);
    }
    am_dataset *d = open_set(at("many"), 8, false, true, AM_LONG_REFUSE);
    assert_int_equal(am_dataset_get_counts(d)->num_shards, 90);
    for (int64_t i = 0; i < 270; i++) {
        row r = sample(d, i);
        int64_t n = 0;
        while (n < 8 && r.doc[n] == 0) n++;
        expect_piece(&r, 0, 0, 0, n, 1, false);
        assert_in_range(n, 3, 7);
    }
    am_dataset_close(&d);
}

static am_status try_open(const char *path, const char *path2, int64_t vocab, const char *tokenizer)
{
    const char *paths[] = {path, path2};
    am_dataset_options o = {.paths = paths,
                            .num_paths = path2 ? 2 : 1,
                            .row_len = 16,
                            .vocab_size = vocab,
                            .tokenizer_sha256 = tokenizer};
    am_dataset *d = NULL;
    am_status st = am_dataset_open(&o, &d);
    am_dataset_close(&d);
    return st;
}

static void test_dataset__refused(void **state)
{
    const test_seq a[] = {{4, 1}, {5, 2}}, silent[] = {{4, 4}, {5, 5}}, longs[] = {{40, 1}};
    am_shard_info info = {.vocab_size = 9};
    am_shard_writer *w = NULL;
    OK(am_mkdirs(at("dir")));
    FAILS(try_open(at("nowhere"), NULL, 0, NULL), AM_ERR_DATA, "nowhere");
    FAILS(try_open(at("dir"), NULL, 0, NULL), AM_ERR_DATA, "dir", "no token shards", "automodel prepare");
    write_shard(at("dir/shard-00000-of-00003.h5"), a, 2);
    write_shard(at("dir/shard-00002-of-00003.h5"), a, 2);
    FAILS(try_open(at("dir"), NULL, 0, NULL), AM_ERR_DATA, "shard-00001-of-00003.h5 is missing");
    write_shard(at("dir/shard-00001-of-00003.h5"), a, 2);
    OK(try_open(at("dir"), NULL, 0, NULL));
    unlink(at("dir/shard-00002-of-00003.h5"));
    FAILS(try_open(at("dir"), NULL, 0, NULL), AM_ERR_DATA, "2 shards of 3");
    write_shard(at("dir/shard-00000-of-00002.h5"), a, 2);
    FAILS(try_open(at("dir"), NULL, 0, NULL), AM_ERR_DATA, "two preparations");

    write_shard(at("x.h5"), a, 2);
    write_shard_named(at("y.h5"), a, 2, 1 << 20, "other", "p");
    FAILS(try_open(at("x.h5"), at("y.h5"), 0, NULL), AM_ERR_DATA, "y.h5", "another tokenizer", "x.h5");
    FAILS(try_open(at("x.h5"), NULL, 0, "abcdef"), AM_ERR_DATA, "x.h5", "another tokenizer", "abcdef");
    OK(try_open(at("x.h5"), NULL, 1 << 20, "t"));
    FAILS(try_open(at("x.h5"), NULL, 1000, NULL), AM_ERR_DATA, "x.h5", "vocabulary 1000");
    OK(am_mkdirs(at("mixed")));
    write_shard(at("mixed/a.h5"), a, 2);
    write_shard_named(at("mixed/b.h5"), a, 2, 1 << 20, "t", "q");
    FAILS(try_open(at("mixed"), NULL, 0, NULL), AM_ERR_DATA, "b.h5", "different preparations");

    write_shard(at("silent.h5"), silent, 2);
    FAILS(try_open(at("silent.h5"), NULL, 0, NULL), AM_ERR_DATA, "silent.h5",
          "none of the 9 tokens is supervised");
    OK(am_shard_writer_create(at("none.h5"), &info, 0, &w));
    OK(am_shard_writer_commit(w, NULL));
    am_shard_writer_free(&w);
    FAILS(try_open(at("none.h5"), NULL, 0, NULL), AM_ERR_DATA, "none.h5", "empty");
    write_shard(at("longs.h5"), longs, 1);
    const char *path = at("longs.h5");
    am_dataset_options o = {.paths = &path, .num_paths = 1, .row_len = 16, .long_samples = AM_LONG_DROP};
    am_dataset *d = NULL;
    FAILS(am_dataset_open(&o, &d), AM_ERR_DATA, "all 1 samples are longer");
    o.row_len = 0;
    FAILS(am_dataset_open(&o, &d), AM_ERR_CONFIG, "rows of 0 tokens");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_dataset__packing_by_hand),
        cmocka_unit_test(test_dataset__packing_closes_the_fullest_row),
        cmocka_unit_test(test_dataset__unpacked),
        cmocka_unit_test(test_dataset__random_access_equals_sequential),
        cmocka_unit_test(test_dataset__epochs),
        cmocka_unit_test(test_dataset__end_of_the_last_epoch),
        cmocka_unit_test(test_dataset__longer_than_a_row),
        cmocka_unit_test(test_dataset__hash_of_the_table),
        cmocka_unit_test(test_dataset__many_shards),
        cmocka_unit_test(test_dataset__refused),
    };
    return cmocka_run_group_tests(tests, make_scratch, remove_scratch);
}
