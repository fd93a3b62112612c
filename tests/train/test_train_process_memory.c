/* What the process says of itself: resident bytes against pages touched one by one, mappings against the
 * kernel's own sum, the clock of its start, and counters against faults that were made on purpose. */
#include "train/counters.h"
#include "train/process_memory.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { PAGES = 5000, THREADS = 2 }; /* more pages than one call of mincore is asked about */

static char *map_pages(size_t page)
{
    char *at = mmap(NULL, PAGES * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_ptr_not_equal(at, MAP_FAILED);
    assert_int_equal(madvise(at, PAGES * page, MADV_NOHUGEPAGE), 0);
    return at;
}

static void test_train_process_memory__resident_bytes_are_those_touched(void **state)
{
    (void)state;
    const int64_t page = sysconf(_SC_PAGESIZE);
    char *at = map_pages((size_t)page);
    int64_t touched = 0;
    assert_int_equal(am_resident_bytes(at, (size_t)(PAGES * page)), 0);
    for (int64_t i = 1; i < PAGES; i += 3, touched++) at[i * page + 7] = 1; /* page 4096 is among them */
    assert_int_equal(am_resident_bytes(at, (size_t)(PAGES * page)), touched * page);
    /* parts of pages: 100 bytes of page 1, which is there; pages 2 and 3 are not; 50 bytes of page 4 */
    assert_int_equal(am_resident_bytes(at + 2 * page - 100, (size_t)(100 + 2 * page + 50)), 150);
    assert_int_equal(am_resident_bytes(at + page + 5, 10), 10);
    assert_int_equal(am_resident_bytes(at + 5, 10), 0);
    /* two halves are the whole */
    int64_t cut = 1234567;
    assert_int_equal(am_resident_bytes(at, (size_t)cut) +
                         am_resident_bytes(at + cut, (size_t)(PAGES * page - cut)),
                     touched * page);
    munmap(at, (size_t)(PAGES * page));
    assert_int_equal(am_resident_bytes(at, (size_t)(PAGES * page)), -1);
}

static void test_train_process_memory__mappings_sum_to_what_is_resident(void **state)
{
    (void)state;
    const int64_t page = sysconf(_SC_PAGESIZE), slack = 1 << 20;
    int64_t before[AM_MAPPING_COUNT], after[AM_MAPPING_COUNT], sum = 0;
    assert_int_equal(am_process_mappings(before), AM_OK);
    char *at = map_pages((size_t)page);
    memset(at, 1, (size_t)(PAGES * page));
    assert_int_equal(am_process_mappings(after), AM_OK);
    am_process_memory m = am_process_memory_now();
    for (int k = 0; k < AM_MAPPING_COUNT; k++) sum += after[k];
    assert_true(llabs(sum - m.now) <= slack);
    assert_int_equal(m.now, m.anon + m.file + m.shmem);
    assert_true(m.peak >= m.now && m.page_tables > 0);
    assert_true(llabs(after[AM_MAPPING_ANON] - before[AM_MAPPING_ANON] - PAGES * page) <= slack);
    assert_true(after[AM_MAPPING_CODE] > slack / 2 && after[AM_MAPPING_HEAP] > 0 &&
                after[AM_MAPPING_STACK] > 0);
    munmap(at, (size_t)(PAGES * page));
    assert_true(am_process_memory_now().peak >= m.now - slack); /* what was held at most is not forgotten */
}

static void test_train_process_memory__start_of_the_process(void **state)
{
    (void)state;
    double first = am_process_started(), now = am_now();
    assert_true(first < now + 0.02 && first > now - 120);
    while (am_now() < now + 0.1) {
    }
    double again = am_process_started();
    assert_true(again > first - 0.001 && again < first + 0.001); /* the same moment, however late one asks */
}

static void test_train_process_memory__counters_see_the_team(void **state)
{
    (void)state;
    const int64_t page = sysconf(_SC_PAGESIZE);
    am_counters *c = NULL;
    omp_set_dynamic(0);
    assert_int_equal(am_counters_open(THREADS, &c), AM_OK);
    for (int k = 0; k < AM_COUNTER_COUNT; k++)
        assert_true(am_counters_have(c, (am_counter)k) ==
                    !strstr(am_counters_missing(c), am_counter_name((am_counter)k)));
    char *at = map_pages((size_t)page);
    am_counts before = am_counters_read(c);
#pragma omp parallel for num_threads(THREADS) schedule(static)
    for (int i = 0; i < PAGES; i++) at[i * page] = 1;
    am_counts after = am_counters_read(c);
    double faults = after.of[AM_COUNTER_FAULTS] - before.of[AM_COUNTER_FAULTS];
    if (am_counters_have(c, AM_COUNTER_FAULTS))
        assert_true(faults >= PAGES && faults <= PAGES + 200);
    else
        print_message("page faults: %s\n", am_counters_missing(c));
    for (int k = 0; k < AM_COUNTER_COUNT; k++)
        if (am_counters_have(c, (am_counter)k))
            assert_true(after.of[k] >= before.of[k]);
        else
            assert_true(after.of[k] <= 0);
    munmap(at, (size_t)(PAGES * page));
    am_counters_close(&c);
    assert_null(c);
}

int main(void)
{
#ifdef __SANITIZE_ADDRESS__ /* its allocator and its shadow are mappings and page faults of their own */
    printf("skipped: not with the address sanitizer\n");
    return 77;
#endif
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_train_process_memory__resident_bytes_are_those_touched),
        cmocka_unit_test(test_train_process_memory__mappings_sum_to_what_is_resident),
        cmocka_unit_test(test_train_process_memory__start_of_the_process),
        cmocka_unit_test(test_train_process_memory__counters_see_the_team),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
