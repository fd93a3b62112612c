/* One suite for every device of device.h, run on cpu and on guarded; then what only guarded promises: host
 * code that follows region.host dies. */
#include "device/device.h"

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#define OK(call)                                                                                             \
    do {                                                                                                     \
        if ((call) != AM_OK) fail_msg("%s: %s", #call, am_error_message());                                  \
    } while (0)

static am_device *create(void **state, int threads)
{
    am_device *d = NULL;
    OK(am_device_create(*state, threads, &d));
    assert_string_equal(am_device_name(d), (const char *)*state);
    assert_int_equal(am_device_threads(d), threads);
    return d;
}

static void test_device_conformance__memory(void **state)
{
    static const size_t sizes[] = {
        0, 1, 4095, 4096, 100001, ((size_t)4 << 20) - 1, (size_t)4 << 20, ((size_t)9 << 20) + 77};
    enum { COUNT = sizeof sizes / sizeof *sizes };
    am_device *d = create(state, 2);
    am_region r[COUNT] = {{0}};
    size_t total = 0;
    for (int i = 0; i < COUNT; i++) {
        OK(am_device_alloc(d, sizes[i], "a test", &r[i]));
        total += sizes[i];
        assert_int_equal(r[i].bytes, sizes[i]);
        assert_non_null(r[i].device);
        assert_non_null(r[i].host);
        assert_int_equal((uintptr_t)r[i].device % (sizes[i] >= (size_t)4 << 20 ? (size_t)2 << 20 : 4096), 0);
        assert_int_equal(am_device_bytes_allocated(d), total);
        char *bytes = malloc(sizes[i] + 1);
        OK(am_device_read(d, &r[i], 0, bytes, sizes[i]));
        for (size_t k = 0; k < sizes[i]; k++) assert_int_equal(bytes[k], 0);
        free(bytes);
    }
    for (int i = COUNT; i-- > 0;) am_device_release(d, &r[i]);
    am_device_release(d, &r[0]); /* a second time: nothing */
    assert_null(r[3].device);
    assert_int_equal(am_device_bytes_allocated(d), 0);
    am_device_free(&d);
    assert_null(d);
}

static void test_device_conformance__copies(void **state)
{
    am_device *d = create(state, 1);
    am_region r;
    OK(am_device_alloc(d, 1000, "a test", &r));
    char text[] = "seventeen letters", back[sizeof text] = "";
    OK(am_device_write(d, &r, 983, text, 17));
    OK(am_device_read(d, &r, 983, back, 17));
    assert_memory_equal(text, back, 17);
    OK(am_device_write(d, &r, 1000, text, 0));
    assert_int_equal(am_device_write(d, &r, 984, text, 17), AM_ERR_INTERNAL);
    assert_non_null(
        strstr(am_error_message(), "write of 17 bytes at offset 984 leaves a region of 1000 bytes"));
    assert_int_equal(am_device_read(d, &r, SIZE_MAX - 3, back, 17), AM_ERR_INTERNAL);
    OK(am_device_read(d, &r, 983, back, 17));
    assert_memory_equal(text, back, 17);
    am_device_release(d, &r);
    am_device_free(&d);
}

/* operands are {region, offset}; a kernel gets region.device */
static void test_device_conformance__kernel(void **state)
{
    enum { N = 50000 };
    am_device *d = create(state, 2);
    am_region r;
    float *a = malloc(N * sizeof *a), *y = malloc(N * sizeof *y);
    for (int i = 0; i < N; i++) a[i] = (float)i;
    OK(am_device_alloc(d, 3 * N * sizeof(float), "operands", &r));
    OK(am_device_write(d, &r, 0, a, N * sizeof *a));
    OK(am_device_write(d, &r, N * sizeof *a, a, N * sizeof *a));
    const am_kernel *add = am_device_kernel(d, "add");
    assert_non_null(add);
    assert_null(am_device_kernel(d, "subtract"));
    am_attrs attrs = {0};
    am_kernel_call c = {.attrs = &attrs, .num_in = 2, .num_out = 1, .threads = am_device_threads(d)};
    for (int i = 0; i < 3; i++) {
        am_tensor t = {r.device + (size_t)i * N * sizeof(float), AM_F32, 1, {N}};
        if (i < 2)
            c.in[i] = t;
        else
            c.out[0] = t;
    }
    OK(add->f32(&c));
    OK(am_device_read(d, &r, 2 * N * sizeof *a, y, N * sizeof *y));
    for (int i = 0; i < N; i++) assert_true(y[i] == 2 * a[i]);
    am_device_release(d, &r);
    am_device_free(&d);
    free(a);
    free(y);
}

static void test_device_conformance__refusals(void **state)
{
    am_device *d = create(state, 1);
    am_region r = {0};
    assert_int_equal(am_device_alloc(d, (size_t)1 << 60, "optimizer state", &r), AM_ERR_MEMORY);
    assert_non_null(strstr(am_error_message(), "no memory for optimizer state: 1152921504606846976 bytes"));
    assert_int_equal(am_device_alloc(d, SIZE_MAX, "everything", &r), AM_ERR_MEMORY);
    assert_int_equal(am_device_bytes_allocated(d), 0);
    am_device_free(&d);
    assert_int_equal(am_device_create(*state, 0, &d), AM_ERR_CONFIG);
    setenv("AM_ISA", "sse9", 1);
    assert_int_equal(am_device_create(*state, 1, &d), AM_ERR_ENVIRONMENT);
    unsetenv("AM_ISA");
    assert_null(d);
}

static void test_device_conformance__unknown(void **state)
{
    am_device *d = NULL;
    assert_int_equal(am_device_create("gpu", 1, &d), AM_ERR_ENVIRONMENT);
    assert_non_null(strstr(am_error_message(), "there is no device \"gpu\""));
}

/* the signal that ends a child which reads or writes one byte of the region's host address; 0 = none */
static int signal_of_touch(const am_region *r, size_t offset, bool write)
{
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        struct rlimit none = {0, 0};
        setrlimit(RLIMIT_CORE, &none);
        signal(SIGSEGV, SIG_DFL);
        volatile char *p = r->host + offset;
        if (write)
            *p = 1;
        else
            (void)*p;
        _exit(0);
    }
    int status = 0;
    assert_int_equal(waitpid(child, &status, 0), child);
    return WIFSIGNALED(status) ? WTERMSIG(status) : 0;
}

static void test_device_guarded__host_code_dies(void **state)
{
    static const size_t sizes[] = {5000, (size_t)5 << 20};
    for (int i = 0; i < 2; i++) {
        am_device *d = create(state, 1);
        am_region r;
        OK(am_device_alloc(d, sizes[i], "a test", &r));
        assert_ptr_not_equal(r.host, r.device);
        assert_int_equal(signal_of_touch(&r, 0, false), SIGSEGV);
        assert_int_equal(signal_of_touch(&r, sizes[i] - 1, true), SIGSEGV);
        am_device_release(d, &r);
        am_device_free(&d);
    }
    am_device *cpu = NULL;
    am_region plain;
    OK(am_device_create("cpu", 1, &cpu)); /* the probe itself: on cpu it lives */
    OK(am_device_alloc(cpu, 5000, "a test", &plain));
    assert_int_equal(signal_of_touch(&plain, 0, true), 0);
    am_device_release(cpu, &plain);
    am_device_free(&cpu);
}

int main(void)
{
    static char cpu[] = "cpu", guarded[] = "guarded";
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_prestate(test_device_conformance__memory, cpu),
        cmocka_unit_test_prestate(test_device_conformance__copies, cpu),
        cmocka_unit_test_prestate(test_device_conformance__kernel, cpu),
        cmocka_unit_test_prestate(test_device_conformance__refusals, cpu),
        cmocka_unit_test_prestate(test_device_conformance__memory, guarded),
        cmocka_unit_test_prestate(test_device_conformance__copies, guarded),
        cmocka_unit_test_prestate(test_device_conformance__kernel, guarded),
        cmocka_unit_test_prestate(test_device_conformance__refusals, guarded),
        cmocka_unit_test(test_device_conformance__unknown),
        cmocka_unit_test_prestate(test_device_guarded__host_code_dies, guarded),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
