/* Start, done and wait allocate nothing: malloc and its kin are replaced by counting ones in this program,
 * for all threads, and the address that called says whose it was.  Ours (this executable holds our code,
 * linked statically) must be none. Open MPI's own free lists grow when more messages than ever before arrive
 * unexpectedly; that is bounded and named. */
#include <dlfcn.h>
#include <errno.h>
#include <stdatomic.h>

#include "comm_test.h"

#define MPI_GROWTH 64 /* allocations of Open MPI's lists allowed in the 160 transfers that are watched */

void *__libc_malloc(size_t n);
void *__libc_calloc(size_t n, size_t m);
void *__libc_realloc(void *p, size_t n);
void *__libc_memalign(size_t a, size_t n);
static atomic_bool counting;
static atomic_int count;
static void *callers[4096];

static void note(void *caller)
{
    if (!atomic_load(&counting)) return;
    int i = atomic_fetch_add(&count, 1);
    if (i < 4096) callers[i] = caller;
}
#define NOINLINE __attribute__((noinline)) /* the return address must be that of the call */
#define NOTE() note(__builtin_return_address(0))
NOINLINE void *malloc(size_t n)
{
    NOTE();
    return __libc_malloc(n);
}
NOINLINE void *calloc(size_t n, size_t m)
{
    NOTE();
    return __libc_calloc(n, m);
}
NOINLINE void *realloc(void *p, size_t n)
{
    NOTE();
    return __libc_realloc(p, n);
}
NOINLINE void *aligned_alloc(size_t a, size_t n)
{
    NOTE();
    return __libc_memalign(a, n);
}
NOINLINE int posix_memalign(void **p, size_t a, size_t n)
{
    NOTE();
    *p = __libc_memalign(a, n);
    return *p ? 0 : ENOMEM;
}

/* how many of the noted calls came from the object that holds `inside` */
static int count_of(const void *inside)
{
    Dl_info mine, other;
    int n = 0;
    assert_true(dladdr(inside, &mine) != 0);
    for (int i = 0; i < atomic_load(&count) && i < 4096; i++) {
        bool known = dladdr(callers[i], &other) != 0;
        if (known && other.dli_fbase == mine.dli_fbase)
            n++;
        else
            print_message("allocation in %s (%s)\n", known ? other.dli_fname : "?",
                          known && other.dli_sname ? other.dli_sname : "?");
    }
    return n;
}

static void test_allocations__none_in_steady_state(void **state)
{
    am_comm *comm = NULL;
    am_comm_options o = {.max_requests = 8, .timeout_seconds = 60};
    assert_ok(am_comm_create("mpi", &o, &comm));
    int world = am_comm_size(comm);
    am_mesh m = {{1, 1, 1, world, 1, 1}};
    const size_t bytes = 300000;
    char *send = malloc(bytes * (size_t)world), *recv = malloc(bytes * (size_t)world * 8);
    memset(send, 1, bytes * (size_t)world);
    assert_ok(am_comm_set_mesh(comm, &m));
    int64_t seen = 0, total = 0;
    for (int round = 0; round < 40; round++) {
        if (round == 20) {
            assert_ok(am_comm_barrier(comm));
            atomic_store(&counting, true);
        }
        for (int i = 0; i < 8; i++) {
            am_comm_request r = {i % 2 ? AM_COMM_EXCHANGE : AM_COMM_ALL_GATHER,
                                 AM_GROUP_DP,
                                 round * 8 + i,
                                 "steady",
                                 send,
                                 recv + (size_t)i * bytes * (size_t)world,
                                 i < 4 ? bytes : 500,
                                 i};
            assert_ok(am_comm_start(comm, &r));
        }
        for (int i = 0; i < 8; i++) assert_ok(am_comm_wait(comm, i));
        assert_ok(am_comm_max(comm, round, &seen));
    }
    atomic_store(&counting, false);
    assert_int_equal(count_of((const void *)note), 0);
    assert_ok(am_comm_max(comm, atomic_load(&count), &total));
    assert_true(total <= MPI_GROWTH);
    atomic_store(&count, 0); /* the counter itself works, and knows this program */
    atomic_store(&counting, true);
    void *volatile probe = malloc(10);
    atomic_store(&counting, false);
    free(probe);
    assert_int_equal(count_of((const void *)note), 1);
    free(send);
    free(recv);
    assert_ok(am_comm_free(&comm));
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_allocations__none_in_steady_state)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
