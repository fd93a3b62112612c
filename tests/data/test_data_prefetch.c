/* The prefetch thread: the same global batches for 1, 2, 3, 4 ranks and every split of a step; starts
 * anywhere; ends; hands errors over at the batch that failed. */
#include "data_test.h"

enum { T = 24, G = 12 };

static void write_set(const char *path)
{
    test_seq seqs[97];
    for (int i = 0; i < 97; i++) seqs[i] = (test_seq){1 + (i * 7) % 20, i % 5};
    write_shard(path, seqs, 97);
}

static am_dataset *open_set(const char *path, int64_t epochs)
{
    am_dataset_options o = {.paths = &path,
                            .num_paths = 1,
                            .row_len = T,
                            .packed = true,
                            .shuffle = true,
                            .seed = 9,
                            .num_epochs = epochs};
    am_dataset *d = NULL;
    OK(am_dataset_open(&o, &d));
    return d;
}

static int64_t count_labels(const int32_t *labels, int64_t n)
{
    int64_t sum = 0;
    for (int64_t i = 0; i < n; i++) sum += labels[i] != -100;
    return sum;
}

/* One rank's run over steps [first, end): rows are checked against am_data_sample of a data set opened apart.
 */
static void run_rank(const char *path, am_dataset *reference, am_prefetch_options o, int64_t *step_targets)
{
    am_dataset *d = open_set(path, 2);
    am_prefetch *p = NULL;
    const am_batch *b;
    int64_t batches = 0;
    OK(am_prefetch_start(d, &o, &p));
    for (;;) {
        OK(am_prefetch_next(p, &b));
        if (!b) break;
        assert_int_equal(b->step, o.first_step + batches / o.accumulation);
        assert_int_equal(b->micro, batches % o.accumulation);
        assert_int_equal(b->step_targets, am_data_step_targets(reference, b->step, G));
        int64_t labels = count_labels(b->labels, b->rows * T);
        assert_int_equal(labels, b->targets);
        step_targets[b->step] += labels;
        for (int64_t j = 0; j < b->rows; j++) {
            int32_t ids[T], want_labels[T], positions[T], doc[T];
            int64_t index = b->step * G + (b->micro * o.dp_size + o.dp_rank) * o.rows + j;
            OK(am_data_sample(reference, index, ids, want_labels, positions, doc, NULL));
            assert_memory_equal(ids, b->input_ids + j * T, sizeof ids);
            assert_memory_equal(want_labels, b->labels + j * T, sizeof ids);
            assert_memory_equal(positions, b->position_ids + j * T, sizeof ids);
            assert_memory_equal(doc, b->doc_start + j * T, sizeof ids);
        }
        batches++;
    }
    assert_int_equal(batches, (o.end_step - o.first_step) * o.accumulation);
    OK(am_prefetch_next(p, &b));
    assert_null(b);
    am_prefetch_stop(&p);
    am_dataset_close(&d);
}

static void test_prefetch__same_steps_on_1_2_3_4_ranks(void **state)
{
    const char *path = at("a.h5");
    write_set(path);
    am_dataset *reference = open_set(path, 2);
    int64_t steps = am_data_num_steps(reference, 2, G), total = 0;
    assert_true(steps > 3 &&
                (2 * am_dataset_get_counts(reference)->num_rows) % G != 0); /* the last one is ragged */
    for (int64_t ranks = 1; ranks <= 4; ranks++)
        for (int64_t rows = 1; rows * ranks <= G; rows++) {
            if (G % (rows * ranks) != 0) continue;
            int64_t targets[64] = {0};
            for (int64_t rank = 0; rank < ranks; rank++) {
                am_prefetch_options o = {.rows = rows,
                                         .accumulation = G / (rows * ranks),
                                         .dp_rank = rank,
                                         .dp_size = ranks,
                                         .end_step = steps,
                                         .depth = 2 + (int)rank};
                run_rank(path, reference, o, targets);
            }
            total = 0;
            for (int64_t s = 0; s < steps; s++) {
                assert_int_equal(targets[s], am_data_step_targets(reference, s, G));
                total += targets[s];
            }
            assert_int_equal(total, 2 * am_dataset_get_counts(reference)->targets);
        }
    am_dataset_close(&reference);
}

static void test_prefetch__starts_in_the_middle(void **state)
{
    const char *path = at("m.h5");
    int64_t targets[64] = {0};
    write_set(path);
    am_dataset *reference = open_set(path, 2);
    am_prefetch_options o = {
        .rows = 2, .accumulation = 3, .dp_rank = 1, .dp_size = 2, .first_step = 2, .end_step = 5};
    run_rank(path, reference, o, targets);
    o.end_step = o.first_step; /* nothing to do */
    run_rank(path, reference, o, targets);
    am_dataset_close(&reference);
}

/* A batch keeps its contents until the next call, however far the thread reads ahead. */
static void test_prefetch__batch_stays_while_held(void **state)
{
    const char *path = at("h.h5");
    write_set(path);
    am_dataset *d = open_set(path, 0);
    am_prefetch_options o = {.rows = G, .accumulation = 1, .dp_size = 1, .end_step = -1, .depth = 2};
    am_prefetch *p = NULL;
    const am_batch *b;
    int32_t copy[G * T];
    assert_int_equal(am_prefetch_bytes(&o, T), 2 * 4 * G * T * 4);
    OK(am_prefetch_start(d, &o, &p));
    for (int64_t step = 0; step < 40; step++) {
        OK(am_prefetch_next(p, &b));
        assert_int_equal(b->step, step);
        memcpy(copy, b->input_ids, sizeof copy);
        if (step % 8 == 0) usleep(3000);
        assert_memory_equal(copy, b->input_ids, sizeof copy);
    }
    am_prefetch_stop(&p);
    am_prefetch_stop(&p);
    am_dataset_close(&d);
}

static void test_prefetch__error_of_the_thread(void **state)
{
    const test_seq seqs[] = {{20, 1}, {20, 1}, {20, 1}, {20, 1}};
    uint32_t needle[4] = {300, 301, 302, 303}; /* sequence 2: the third row */
    const char *path = at("bad.h5");
    char *bytes = NULL;
    size_t n;
    write_shard(path, seqs, 4);
    OK(am_file_read(path, 1 << 24, &bytes, &n));
    char *found = memmem(bytes, n, needle, sizeof needle);
    assert_non_null(found);
    *found ^= 4;
    write_file(path, bytes, n);
    am_free(&bytes);
    am_dataset_options o = {.paths = &path, .num_paths = 1, .row_len = 20};
    am_dataset *d = NULL;
    OK(am_dataset_open(&o, &d)); /* tokens are checked when they are read */
    am_prefetch_options po = {.rows = 1, .accumulation = 1, .dp_size = 1, .end_step = -1};
    am_prefetch *p = NULL;
    const am_batch *b;
    OK(am_prefetch_start(d, &po, &p));
    FAILS(am_prefetch_next(p, &b), AM_ERR_DATA, "bad.h5", "checksum"); /* one chunk holds all four */
    assert_null(b);
    FAILS(am_prefetch_next(p, &b), AM_ERR_DATA, "bad.h5", "checksum");
    am_prefetch_stop(&p);
    po.dp_rank = 1;
    FAILS(am_prefetch_start(d, &po, &p), AM_ERR_INTERNAL, "rank 1 of 1");
    am_dataset_close(&d);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_prefetch__same_steps_on_1_2_3_4_ranks),
        cmocka_unit_test(test_prefetch__starts_in_the_middle),
        cmocka_unit_test(test_prefetch__batch_stays_while_held),
        cmocka_unit_test(test_prefetch__error_of_the_thread),
    };
    return cmocka_run_group_tests(tests, make_scratch, remove_scratch);
}
