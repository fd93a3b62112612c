/* test_linear: linear, linear_dx and linear_dw against straight triple loops in double, on every instruction
 * set and dtype; independence of threads and of the number of tokens, bit for bit; refusals.
 *
 * Tolerances: f64 1e-12.  f32: inputs are at most 1 in size, so a sum of k products in any order is off by at
 * most k·2^-24·k/2 in theory and about sqrt(k)·2^-24·sqrt(k) seen: 1e-5 for k <= 2500.  bf16: the products of
 * bf16 numbers are exact in fp32, so the same plus half a unit in the last place of the store, 2^-9. */
#include "heavy_test.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { LINEAR, DX, DW };
static const char *const ops[] = {"linear", "linear_dx", "linear_dw"};
static const double tolerance[3] = {1e-12, 1e-5, 0x1p-8};

typedef struct sizes {
    int64_t n, i, o;
} sizes;

typedef struct product {
    kt_case k;
    double *a, *b, *bias, *want;
} product;

/* the definition, in double; accumulate adds 1 (kernel_test fills the output with 1) */
static double element(int op, const sizes *z, const product *p, int64_t r, int64_t c)
{
    double sum = 0;
    if (op == LINEAR)
        for (int64_t i = 0; i < z->i; i++) sum += p->a[r * z->i + i] * p->b[c * z->i + i];
    else if (op == DX)
        for (int64_t o = 0; o < z->o; o++) sum += p->a[r * z->o + o] * p->b[o * z->i + c];
    else
        for (int64_t n = 0; n < z->n; n++) sum += p->a[n * z->o + r] * p->b[n * z->i + c];
    return sum + (p->bias ? p->bias[c] : 0);
}

static product make(int op, const sizes *z, bool bias)
{
    int64_t rows = op == DW ? z->o : z->n, cols = op == LINEAR ? z->o : z->i;
    int64_t a0 = z->n, a1 = op == LINEAR ? z->i : z->o, b0 = op == DW ? z->n : z->o, b1 = z->i;
    product p = {.a = ht_random(1, a0 * a1), .b = ht_random(2, b0 * b1)};
    if (bias) p.bias = ht_random(3, z->o);
    p.k = (kt_case){.op = ops[op],
                    .num_in = bias ? 3 : 2,
                    .num_out = 1,
                    .accumulates = op != LINEAR,
                    .in = {{p.a, 'r', 2, {a0, a1}}, {p.b, 'r', 2, {b0, b1}}, {p.bias, 'r', bias, {z->o}}},
                    .out = {{NULL, op == DW ? 'w' : 'r', 2, {rows, cols}}}};
    p.want = malloc((size_t)(rows * cols + 1) * sizeof *p.want);
    assert_non_null(p.want);
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < cols; c++) p.want[r * cols + c] = element(op, z, &p, r, c);
    return p;
}

static void release(product *p)
{
    free(p->a);
    free(p->b);
    free(p->bias);
    free(p->want);
}

static void compare_here(void *context)
{
    product *p = context;
    int64_t n = ht_elements(&p->k.out[0]);
    for (int type = 0; type < 3; type++)
        for (int acc = 0; acc <= (int)p->k.accumulates; acc++) {
            double *got = ht_run(&p->k, ht_reals[type], 2, acc);
            double *want = malloc((size_t)(n + 1) * sizeof *want);
            assert_non_null(want);
            for (int64_t i = 0; i < n; i++) want[i] = p->want[i] + acc;
            double allowed = p->k.out[0].type == 'w' && type == 2 ? tolerance[1] : tolerance[type];
            ht_near(p->k.op, ht_reals[type], got, want, n,
                    allowed * (type == 1 || p->k.out[0].type == 'w' ? 3 : 1));
            free(want);
            free(got);
        }
}

static void compare_all(int op)
{
    /* one token; odd everything; several blocks of rows (> 768, > 2304), columns (> 1024) and k (> 384, > 768
     * and more), of columns and k at once; model shapes */
    static const sizes shapes[] = {{1, 1, 1},     {1, 64, 48},    {7, 33, 65},  {300, 31, 17}, {13, 1601, 70},
                                   {5, 70, 1601}, {801, 19, 23},  {6, 8, 1100}, {1601, 9, 14}, {10, 1100, 8},
                                   {9, 14, 801},  {48, 576, 192}, {2, 3, 0},    {0, 3, 2},
                                   {9, 900, 1300}, {2310, 770, 5}};
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++)
        for (int bias = 0; bias <= (op == LINEAR); bias++) {
            product p = make(op, &shapes[s], bias);
            ht_each_isa(compare_here, &p);
            release(&p);
        }
}

static void test_linear__matches_triple_loop(void **state) { compare_all(LINEAR); }
static void test_linear_dx__matches_triple_loop(void **state) { compare_all(DX); }
static void test_linear_dw__matches_triple_loop(void **state) { compare_all(DW); }

static void test_linear__threads_change_no_bit(void **state)
{
    static const sizes shapes[] = {{37, 801, 70}, {130, 90, 1100}, {3, 1601, 33}, {7, 900, 1300}};
    for (int op = 0; op < 3; op++)
        for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++) {
            product p = make(op, &shapes[s], false);
            ht_bitwise(&p.k);
            release(&p);
        }
}

/* a token's result does not depend on how many others are in the call: one block of rows or several, one
 * vector of columns or several blocks */
static void tokens_here(void *context)
{
    static const sizes calls[] = {{300, 801, 65}, {2310, 770, 5}, {50, 900, 700}};
    for (int i = 0; i < 6; i++) {
        int op = i % 2 ? DX : LINEAR;
        sizes all = calls[i / 2];
        if (op == DX) all = (sizes){all.n, all.o, all.i};
        product p = make(op, &all, false);
        for (int type = 1; type < 3; type++) {
            static const int64_t counts[] = {1, 7, 50};
            double *whole = ht_run(&p.k, ht_reals[type], 2, false);
            for (int c = 0; c < 3; c++) {
                kt_case few = p.k;
                few.in[0].dim[0] = few.out[0].dim[0] = counts[c];
                double *part = ht_run(&few, ht_reals[type], 2, false);
                assert_memory_equal(part, whole, (size_t)ht_elements(&few.out[0]) * sizeof *part);
                free(part);
            }
            free(whole);
        }
        release(&p);
    }
}
static void test_linear__number_of_tokens_changes_no_bit(void **state) { ht_each_isa(tokens_here, NULL); }

static void test_linear__refuses_shapes_that_do_not_fit(void **state)
{
    sizes z = {4, 5, 6};
    product p = make(LINEAR, &z, false);
    p.k.in[1].dim[1] = 4;
    assert_int_equal(kt_call(&p.k, AM_F32, 1, false, NULL, NULL), AM_ERR_SHAPE);
    assert_non_null(strstr(am_error_message(), "linear"));
    p.k.in[1].dim[1] = 5;
    assert_int_equal(kt_call(&p.k, AM_F32, 1, true, NULL, NULL), AM_ERR_INTERNAL); /* cannot accumulate */
    release(&p);
}

static void test_linear__refuses_a_small_workspace(void **state)
{
    float x[4] = {0}, w[4] = {0}, y[4];
    am_attrs none = {0};
    am_kernel_call c = {.attrs = &none,
                        .num_in = 2,
                        .num_out = 1,
                        .threads = 1,
                        .workspace = x,
                        .workspace_bytes = 16,
                        .in = {{x, AM_F32, 2, {2, 2}}, {w, AM_F32, 2, {2, 2}}},
                        .out = {{y, AM_F32, 2, {2, 2}}}};
    assert_int_equal(am_kernels_cpu_find("linear")->f32(&c), AM_ERR_INTERNAL);
    assert_non_null(strstr(am_error_message(), "workspace"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_linear__matches_triple_loop),
        cmocka_unit_test(test_linear_dx__matches_triple_loop),
        cmocka_unit_test(test_linear_dw__matches_triple_loop),
        cmocka_unit_test(test_linear__threads_change_no_bit),
        cmocka_unit_test(test_linear__number_of_tokens_changes_no_bit),
        cmocka_unit_test(test_linear__refuses_shapes_that_do_not_fit),
        cmocka_unit_test(test_linear__refuses_a_small_workspace),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
