/* block_linear and its gradients against sums in fp64, one head and one number at a time. */
#include "heavy_test.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

typedef struct shape {
    int64_t n, heads, in, out;
} shape;
static const shape shapes[] = {{1, 1, 1, 1}, {7, 3, 10, 10}, {65, 4, 17, 33}, {130, 2, 64, 48}};

typedef struct data {
    shape s;
    double *x, *w, *bias, *dy;
    double *y, *dx, *dw;
} data;

static data make(const shape *s)
{
    data d = {.s = *s,
              .x = ht_random(1, s->n * s->heads * s->in),
              .w = ht_random(2, s->heads * s->out * s->in),
              .bias = ht_random(3, s->heads * s->out),
              .dy = ht_random(4, s->n * s->heads * s->out)};
    d.y = calloc((size_t)(s->n * s->heads * s->out), sizeof *d.y);
    d.dx = calloc((size_t)(s->n * s->heads * s->in), sizeof *d.dx);
    d.dw = calloc((size_t)(s->heads * s->out * s->in), sizeof *d.dw);
    for (int64_t t = 0; t < s->n; t++)
        for (int64_t h = 0; h < s->heads; h++)
            for (int64_t o = 0; o < s->out; o++) {
                const int64_t row = t * s->heads + h, at = row * s->out + o;
                d.y[at] = d.bias[h * s->out + o];
                for (int64_t i = 0; i < s->in; i++) {
                    const int64_t weight = (h * s->out + o) * s->in + i;
                    d.y[at] += d.x[row * s->in + i] * d.w[weight];
                    d.dx[row * s->in + i] += d.dy[at] * d.w[weight];
                    d.dw[weight] += d.dy[at] * d.x[row * s->in + i];
                }
            }
    return d;
}

static void release(data *d)
{
    double *all[] = {d->x, d->w, d->bias, d->dy, d->y, d->dx, d->dw};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) free(all[i]);
}

static void cases_of(const data *d, kt_case k[3], const double *want[3])
{
    const shape *s = &d->s;
    const kt_operand x = {d->x, 'r', 3, {s->n, s->heads, s->in}},
                     dy = {d->dy, 'r', 3, {s->n, s->heads, s->out}};
    const kt_operand w = {d->w, 'r', 3, {s->heads, s->out, s->in}},
                     bias = {d->bias, 'r', 2, {s->heads, s->out}};
    k[0] = (kt_case){.op = "block_linear", .num_in = 3, .num_out = 1, .in = {x, w, bias}, .out = {dy}};
    k[1] = (kt_case){
        .op = "block_linear_dx", .num_in = 2, .num_out = 1, .in = {dy, w}, .out = {x}, .accumulates = true};
    k[2] = (kt_case){
        .op = "block_linear_dw", .num_in = 2, .num_out = 1, .in = {dy, x}, .out = {w}, .accumulates = true};
    k[2].out[0].type = 'w';
    for (int i = 0; i < 3; i++) k[i].out[0].values = NULL;
    want[0] = d->y;
    want[1] = d->dx;
    want[2] = d->dw;
}

static void compare_here(void *context)
{
    static const double tolerance[3] = {1e-13, 1e-5, 3e-2};
    const data *d = context;
    kt_case k[3];
    const double *want[3];
    cases_of(d, k, want);
    for (int i = 0; i < 3; i++)
        for (int type = 0; type < 3; type++)
            for (int add = 0; add <= (int)k[i].accumulates; add++) {
                double *got = ht_run(&k[i], ht_reals[type], 2, add);
                for (int64_t j = 0; add && j < ht_elements(&k[i].out[0]); j++)
                    got[j] -= 1; /* kt_call fills with 1 */
                ht_near(k[i].op, ht_reals[type], got, want[i], ht_elements(&k[i].out[0]), tolerance[type]);
                free(got);
            }
}

static void test_block_linear__sums(void **state)
{
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        data d = make(&shapes[i]);
        ht_each_isa(compare_here, &d);
        release(&d);
    }
}

static void test_block_linear__threads_change_no_bit(void **state)
{
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        data d = make(&shapes[i]);
        kt_case k[3];
        const double *want[3];
        cases_of(&d, k, want);
        for (int c = 0; c < 3; c++) ht_bitwise(&k[c]);
        release(&d);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_block_linear__sums),
        cmocka_unit_test(test_block_linear__threads_change_no_bit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
