/* kernel_test: see kernel_test.h. */
#include "kernel_test.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static const am_dtype reals[3] = {AM_F64, AM_F32, AM_BF16};

static am_dtype dtype_of(const kt_operand *o, am_dtype real)
{
    switch (o->type) {
    case 'r':
        return real;
    case 'w':
        return real == AM_F64 ? AM_F64 : AM_F32;
    case 'i':
        return AM_I32;
    default:
        return AM_F64;
    }
}

static void set_element(void *data, am_dtype t, int64_t i, double v)
{
    switch (t) {
    case AM_F64:
        ((double *)data)[i] = v;
        break;
    case AM_F32:
        ((float *)data)[i] = (float)v;
        break;
    case AM_BF16:
        ((uint16_t *)data)[i] = am_f32_to_bf16((float)v);
        break;
    default:
        ((int32_t *)data)[i] = (int32_t)v;
        break;
    }
}

/* outputs stand packed one after the other: not aligned */
static double get_element(const char *data, am_dtype t, int64_t i)
{
    union {
        double f64;
        float f32;
        uint16_t bf16;
        int32_t i32;
    } v;
    memcpy(&v, data + (size_t)i * am_dtype_bytes(t), am_dtype_bytes(t));
    switch (t) {
    case AM_F64:
        return v.f64;
    case AM_F32:
        return (double)v.f32;
    case AM_BF16:
        return (double)am_bf16_to_f32(v.bf16);
    default:
        return v.i32;
    }
}

/* A tensor of exactly the bytes needed, at an odd multiple of 64 bytes, so that sanitizers see overruns. */
static am_tensor make_tensor(const kt_operand *o, am_dtype real, uint64_t seed, bool fill)
{
    am_tensor t = {.dtype = dtype_of(o, real), .rank = o->rank};
    if (o->rank == 0) return t;
    memcpy(t.dim, o->dim, sizeof t.dim);
    int64_t n = am_tensor_elements(&t);
    size_t bytes = (size_t)n * am_dtype_bytes(t.dtype);
    t.data = malloc(bytes ? bytes : 1);
    assert_non_null(t.data);
    memset(t.data, 0xcd, bytes ? bytes : 1);
    for (int64_t i = 0; fill && i < n; i++) {
        double v = (double)(am_random_u64(7, seed, (uint64_t)i) >> 11) * 0x1p-52 - 1.0;
        if (o->values) v = o->type == 'i' ? ((const int32_t *)o->values)[i] : ((const double *)o->values)[i];
        set_element(t.data, t.dtype, i, v);
    }
    return t;
}

static am_status call_row(const am_kernel *row, am_kernel_call *c, am_dtype real)
{
    am_kernel_fn fn = real == AM_F64 ? row->f64 : real == AM_F32 ? row->f32 : row->bf16;
    assert_non_null(fn);
    c->workspace_bytes = row->workspace ? row->workspace(c) : 0;
    c->workspace = aligned_alloc(64, (c->workspace_bytes + 64) / 64 * 64);
    assert_non_null(c->workspace);
    memset(c->workspace, 0xff, c->workspace_bytes);
    am_status st = fn(c);
    free(c->workspace);
    return st;
}

static int64_t given_elements(const am_tensor *t) { return t->rank ? am_tensor_elements(t) : 0; }

/* Runs the case; the outputs' bytes one after the other in *outputs (malloc). */
am_status kt_call(const kt_case *k, am_dtype real, int threads, bool accumulate, char **outputs,
                  size_t *bytes)
{
    const am_kernel *row = am_kernels_cpu_find(k->op);
    assert_non_null(row);
    am_kernel_call c = {.attrs = &k->attrs,
                        .num_in = k->num_in,
                        .num_out = k->num_out,
                        .accumulate = accumulate,
                        .threads = threads};
    size_t total = 0, at = 0;
    for (int i = 0; i < k->num_in; i++) c.in[i] = make_tensor(&k->in[i], real, (uint64_t)i, true);
    for (int i = 0; i < k->num_out; i++) {
        c.out[i] = k->in_place ? c.in[k->num_in - k->num_out + i] : make_tensor(&k->out[i], real, 0, false);
        total += (size_t)given_elements(&c.out[i]) * am_dtype_bytes(c.out[i].dtype);
        for (int64_t e = 0; accumulate && e < given_elements(&c.out[i]); e++)
            set_element(c.out[i].data, c.out[i].dtype, e, 1.0);
    }
    am_status st = call_row(row, &c, real);
    if (outputs) {
        *bytes = total;
        *outputs = malloc(total ? total : 1);
        assert_non_null(*outputs);
        for (int i = 0; i < k->num_out; i++) {
            size_t n = (size_t)given_elements(&c.out[i]) * am_dtype_bytes(c.out[i].dtype);
            if (n) memcpy(*outputs + at, c.out[i].data, n);
            at += n;
        }
    }
    for (int i = 0; i < k->num_out && !k->in_place; i++) free(c.out[i].data);
    for (int i = 0; i < k->num_in; i++) free(c.in[i].data);
    return st;
}

static void expect_ok(const kt_case *k, am_status st)
{
    if (st != AM_OK) fail_msg("%s: %s", k->op, am_error_message());
}

static void compare_values(const kt_case *k, int type, bool accumulate, const char *got)
{
    for (int o = 0; o < k->num_out; o++) {
        am_dtype t = dtype_of(&k->out[o], reals[type]);
        int64_t n = 1;
        for (int i = 0; i < k->out[o].rank; i++) n *= k->out[o].dim[i];
        for (int64_t i = 0; i < n && k->out[o].values; i++) {
            double want = ((const double *)k->out[o].values)[i] + accumulate, have = get_element(got, t, i);
            if (!(fabs(have - want) <= k->tolerance[type] * fmax(1.0, fabs(want))))
                fail_msg("%s %s isa %s accumulate %d: output %d element %lld is %.17g, expected %.17g", k->op,
                         am_dtype_name(reals[type]), am_isa_name(am_kernels_cpu_isa()), accumulate, o,
                         (long long)i, have, want);
        }
        got += (size_t)n * am_dtype_bytes(t);
    }
}

static am_isa machine_isa(void)
{
    unsetenv("AM_ISA");
    return am_kernels_cpu_isa();
}

void kt_compare(const kt_case *k)
{
    const am_isa best = machine_isa();
    for (int type = 0; type < 3; type++)
        for (int accumulate = 0; accumulate <= (int)k->accumulates; accumulate++) {
            char *first = NULL, *got;
            size_t bytes;
            for (am_isa isa = AM_ISA_PORTABLE; isa <= best; isa++) {
                setenv("AM_ISA", am_isa_name(isa), 1);
                expect_ok(k, kt_call(k, reals[type], 1, accumulate, &got, &bytes));
                compare_values(k, type, accumulate, got);
                if (first && memcmp(first, got, bytes))
                    fail_msg("%s: %s differs in bits from portable", k->op, am_isa_name(isa));
                if (first)
                    free(got);
                else
                    first = got;
            }
            free(first);
            unsetenv("AM_ISA");
        }
}

void kt_bitwise(const kt_case *k)
{
    static const int threads[] = {1, 2, 3, 1, 2};
    const am_isa best = machine_isa();
    for (int type = 0; type < 3; type++) {
        char *first = NULL, *got;
        size_t bytes;
        for (am_isa isa = AM_ISA_PORTABLE; isa <= best; isa++)
            for (size_t i = 0; i < sizeof threads / sizeof *threads; i++) {
                setenv("AM_ISA", am_isa_name(isa), 1);
                expect_ok(k, kt_call(k, reals[type], threads[i], k->accumulates, &got, &bytes));
                if (first && memcmp(first, got, bytes))
                    fail_msg("%s %s: %d threads on %s differ in bits", k->op, am_dtype_name(reals[type]),
                             threads[i], am_isa_name(isa));
                if (first)
                    free(got);
                else
                    first = got;
            }
        free(first);
        unsetenv("AM_ISA");
    }
}

void kt_call_f64(const kt_case *k, void *const *in, void *const *out)
{
    const am_kernel *row = am_kernels_cpu_find(k->op);
    assert_non_null(row);
    am_kernel_call c = {.attrs = &k->attrs, .num_in = k->num_in, .num_out = k->num_out, .threads = 1};
    for (int i = 0; i < k->num_in; i++) {
        c.in[i] = (am_tensor){.data = k->in[i].rank ? in[i] : NULL,
                              .dtype = dtype_of(&k->in[i], AM_F64),
                              .rank = k->in[i].rank};
        memcpy(c.in[i].dim, k->in[i].dim, sizeof c.in[i].dim);
    }
    for (int i = 0; i < k->num_out; i++) {
        c.out[i] = (am_tensor){.data = out[i], .dtype = AM_F64, .rank = k->out[i].rank};
        memcpy(c.out[i].dim, k->out[i].dim, sizeof c.out[i].dim);
    }
    expect_ok(k, call_row(row, &c, AM_F64));
}
