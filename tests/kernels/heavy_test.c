/* heavy_test: see heavy_test.h. */
#include "heavy_test.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

double *ht_pattern(int seed, int64_t n)
{
    double *v = malloc((size_t)(n ? n : 1) * sizeof *v);
    assert_non_null(v);
    for (int64_t i = 0; i < n; i++) v[i] = (double)((i * 37 + seed * 17) % 201 - 100) / 128;
    return v;
}

double *ht_random(int seed, int64_t n)
{
    double *v = malloc((size_t)(n ? n : 1) * sizeof *v);
    assert_non_null(v);
    for (int64_t i = 0; i < n; i++) {
        uint64_t r = am_random_u64(11, (uint64_t)seed, (uint64_t)i);
        double size = (double)(128 + r % 128) / 256 / (double)(1 << (r >> 8) % 8);
        v[i] = r >> 63 ? -size : size;
    }
    return v;
}

int64_t ht_elements(const kt_operand *o)
{
    int64_t n = 1;
    for (int i = 0; i < o->rank; i++) n *= o->dim[i];
    return n;
}

double *ht_run(const kt_case *k, am_dtype real, int threads, bool accumulate)
{
    char *bytes = NULL;
    size_t size = 0;
    if (kt_call(k, real, threads, accumulate, &bytes, &size) != AM_OK)
        fail_msg("%s: %s", k->op, am_error_message());
    int64_t total = 0, at = 0;
    for (int o = 0; o < k->num_out; o++) total += k->out[o].rank ? ht_elements(&k->out[o]) : 0;
    double *out = malloc((size_t)(total ? total : 1) * sizeof *out);
    assert_non_null(out);
    const char *p = bytes;
    for (int o = 0; o < k->num_out; o++) {
        am_dtype t = k->out[o].type == 'r' ? real : real == AM_F64 ? AM_F64 : AM_F32;
        int64_t n = k->out[o].rank ? ht_elements(&k->out[o]) : 0;
        size_t part = (size_t)n * am_dtype_bytes(t);
        void *aligned = malloc(part + 1);
        assert_non_null(aligned);
        memcpy(aligned, p, part);
        assert_int_equal(am_convert(aligned, t, out + at, AM_F64, n), AM_OK);
        free(aligned);
        p += part;
        at += n;
    }
    free(bytes);
    return out;
}

void ht_near(const char *what, am_dtype real, const double *got, const double *want, int64_t n,
             double tolerance)
{
    for (int64_t i = 0; i < n; i++) {
        if (got[i] == want[i]) continue; /* infinities */
        if (!(fabs(got[i] - want[i]) <= tolerance * fmax(1.0, fabs(want[i]))))
            fail_msg("%s %s isa %s: element %lld is %.9g, expected %.9g", what, am_dtype_name(real),
                     am_isa_name(am_kernels_cpu_isa()), (long long)i, got[i], want[i]);
    }
}

void ht_each_isa(void (*fn)(void *context), void *context)
{
    unsetenv("AM_ISA");
    am_isa best = am_kernels_cpu_isa();
    for (am_isa isa = AM_ISA_PORTABLE; isa <= best; isa++) {
        setenv("AM_ISA", am_isa_name(isa), 1);
        fn(context);
    }
    unsetenv("AM_ISA");
}

static void bitwise_here(void *context)
{
    static const int threads[] = {1, 2, 3, 2};
    const kt_case *k = context;
    for (int type = 0; type < 3; type++) {
        char *first = NULL, *got;
        size_t bytes;
        for (size_t i = 0; i < sizeof threads / sizeof *threads; i++) {
            if (kt_call(k, ht_reals[type], threads[i], k->accumulates, &got, &bytes) != AM_OK)
                fail_msg("%s: %s", k->op, am_error_message());
            if (first && memcmp(first, got, bytes))
                fail_msg("%s %s isa %s: %d threads give other bits than 1", k->op,
                         am_dtype_name(ht_reals[type]), am_isa_name(am_kernels_cpu_isa()), threads[i]);
            if (first)
                free(got);
            else
                first = got;
        }
        free(first);
    }
}

void ht_bitwise(const kt_case *k) { ht_each_isa(bitwise_here, (void *)(uintptr_t)k); }
