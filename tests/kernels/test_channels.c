/* rg_lru, wkv and shift against their definitions in fp64: sums over all earlier tokens of the document,
 * without a recurrence where that can be; gradients against central differences of these. */
#include "heavy_test.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { N = 75, C = 131, OPERANDS = 4 };
static const int64_t docs[] = {0, 1, 2, 40, 74, N};

typedef struct data {
    double *in[OPERANDS], *dout;
    int32_t index[N], doc[N];
} data;

typedef double (*definition)(const data *x, double *y); /* y[N,C]; returns Σ y·dout */

static void make(data *x, bool gates)
{
    for (int i = 0; i < OPERANDS; i++) x->in[i] = ht_random(i + 1, i < 2 ? N * C : C);
    for (int i = 0; gates && i < N * C; i++)
        x->in[1][i] = -0.00390625 - fabs(x->in[1][i]) * (i % 7 == 0 ? 0 : 3);
    for (int i = 0; !gates && i < N * C; i++)
        x->in[0][i] *= 4; /* keys far apart: the largest exponent matters */
    for (int i = 0; i < C; i++) x->in[2][i] = -fabs(x->in[2][i]) * (i % 5 == 0 ? 20 : 1);
    x->dout = ht_random(7, N * C);
    for (int t = 0, at = 0; t < N; t++) {
        at += docs[at + 1] <= t;
        x->index[t] = 1000 + t;
        x->doc[t] = (int32_t)(1000 + docs[at]);
    }
}

static void release(data *x)
{
    for (int i = 0; i < OPERANDS; i++) free(x->in[i]);
    free(x->dout);
}

static double finish(const data *x, double *y, const double *made)
{
    double sum = 0;
    for (int i = 0; i < N * C; i++) sum += made[i] * x->dout[i];
    if (y) memcpy(y, made, sizeof(double) * N * C);
    return sum;
}

static double define_rg_lru(const data *x, double *y)
{
    static double made[N * C];
    for (int c = 0; c < C; c++)
        for (int t = 0; t < N; t++) {
            double factor = 1, sum = 0;
            for (int j = t; j >= x->doc[t] - 1000; j--) {
                const double l = x->in[1][j * C + c], in = x->in[0][j * C + c];
                const bool first = j == x->doc[t] - 1000;
                sum += factor * (first ? in : sqrt(1 - exp(2 * l)) * in);
                factor *= exp(l);
            }
            made[t * C + c] = sum;
        }
    return finish(x, y, made);
}

static double define_wkv(const data *x, double *y)
{
    static double made[N * C];
    for (int c = 0; c < C; c++)
        for (int t = 0; t < N; t++) {
            double top = 0, below = 0;
            for (int j = x->doc[t] - 1000; j <= t; j++) {
                double e = exp(x->in[0][j * C + c] + (j == t ? x->in[3][c] : x->in[2][c] * (t - 1 - j)));
                top += e * x->in[1][j * C + c];
                below += e;
            }
            made[t * C + c] = top / below;
        }
    return finish(x, y, made);
}

static double define_shift(const data *x, double *y)
{
    static double made[N * C];
    for (int i = 0; i < N * C; i++) made[i] = x->doc[i / C] == x->index[i / C] ? 0 : x->in[0][i - C];
    return finish(x, y, made);
}

typedef struct op {
    const char *name, *backward;
    definition define;
    int rows, all; /* operands of [N,C], operands */
    double tolerance[3], gradient[3];
} op;

static const op ops[] = {
    {"rg_lru", "rg_lru_bwd", define_rg_lru, 2, 2, {1e-12, 1e-5, 2e-2}, {1e-11, 2e-4, 2e-1}},
    {"wkv", "wkv_bwd", define_wkv, 2, 4, {1e-12, 1e-5, 4e-2}, {1e-11, 1e-4, 2e-1}},
    {"shift", "shift", define_shift, 1, 1, {0, 0, 0}, {0, 0, 0}},
};
enum { NUM_OPS = sizeof ops / sizeof *ops };

static kt_operand operand(const op *o, const data *x, int i)
{
    return i < o->rows ? (kt_operand){x->in[i], 'r', 2, {N, C}} : (kt_operand){x->in[i], 'w', 1, {C}};
}

static kt_case forward_case(const op *o, const data *x)
{
    kt_case k = {.op = o->name, .num_out = 1, .out = {{NULL, 'r', 2, {N, C}}}};
    for (int i = 0; i < o->all; i++) k.in[i] = operand(o, x, i);
    k.in[o->all] = (kt_operand){x->index, 'i', 1, {N}};
    k.in[o->all + 1] = (kt_operand){x->doc, 'i', 1, {N}};
    k.num_in = o->all + 2;
    return k;
}

static kt_case backward_case(const op *o, const data *x, const double *y)
{
    const kt_case f = forward_case(o, x);
    kt_case k = {.op = o->backward, .in = {{x->dout, 'r', 2, {N, C}}}};
    const bool shift = o->all == 1, lru = o->define == define_rg_lru;
    int n = 1;
    k.attrs.inverse = shift;
    for (int i = 0; i < f.num_in; i++) {
        if (shift && i == 0) continue;
        if (lru && i == o->all) k.in[n++] = (kt_operand){y, 'r', 2, {N, C}};
        k.in[n++] = f.in[i];
    }
    k.num_in = n;
    k.num_out = o->all;
    for (int i = 0; i < o->all; i++) {
        k.out[i] = f.in[i];
        k.out[i].values = NULL;
    }
    return k;
}

typedef struct check {
    const op *o;
    const data *x;
    const double *y, *gradients;
} check;

static void check_here(void *context)
{
    const check *c = context;
    kt_case f = forward_case(c->o, c->x), b = backward_case(c->o, c->x, c->y);
    for (int type = 0; type < 3; type++) {
        double *got = ht_run(&f, ht_reals[type], 1, false);
        ht_near(f.op, ht_reals[type], got, c->y, N * C, c->o->tolerance[type]);
        free(got);
        got = ht_run(&b, ht_reals[type], 1, false);
        for (int i = 0, at = 0; i < c->o->all; at += i < c->o->rows ? N * C : C, i++)
            ht_near(b.op, ht_reals[type], got + at, c->gradients + at, i < c->o->rows ? N * C : C,
                    c->o->gradient[type]);
        free(got);
    }
}

static void test_channels__every_type_and_instruction_set(void **state)
{
    for (int i = 0; i < NUM_OPS; i++) {
        data x;
        make(&x, i == 0);
        double *y = malloc(sizeof(double) * N * C);
        ops[i].define(&x, y);
        kt_case b = backward_case(&ops[i], &x, y);
        double *gradients = ht_run(&b, AM_F64, 1, false);
        check c = {&ops[i], &x, y, gradients};
        ht_each_isa(check_here, &c);
        kt_case f = forward_case(&ops[i], &x);
        ht_bitwise(&f);
        ht_bitwise(&b);
        free(y);
        free(gradients);
        release(&x);
    }
}

static void test_channels__gradients_by_differences(void **state)
{
    const double step = 1e-6;
    for (int i = 0; i < NUM_OPS; i++) {
        data x;
        make(&x, i == 0);
        double *y = malloc(sizeof(double) * N * C);
        ops[i].define(&x, y);
        kt_case b = backward_case(&ops[i], &x, y);
        double *got = ht_run(&b, AM_F64, 2, false), *part = got;
        for (int k = 0; k < ops[i].all; k++) {
            const int n = k < ops[i].rows ? N * C : C;
            for (int j = 0; j < 40; j++) {
                const int at = (int)(am_random_u64(5, (uint64_t)k, (uint64_t)j) % (uint64_t)n);
                const double old = x.in[k][at];
                x.in[k][at] = old + step;
                double up = ops[i].define(&x, NULL);
                x.in[k][at] = old - step;
                double want = (up - ops[i].define(&x, NULL)) / (2 * step);
                x.in[k][at] = old;
                if (fabs(part[at] - want) > 2e-7 * fmax(1, fabs(want)))
                    fail_msg("%s: gradient of operand %d at %d: %.12g, by differences %.12g", ops[i].name, k,
                             at, part[at], want);
            }
            part += n;
        }
        free(got);
        free(y);
        release(&x);
    }
}

/* A gate that is nearly closed: √(1 − e^{2l}) is differentiated with a slope of at most 1000, where the true
 * one grows without end. */
static void test_channels__rg_lru_bounds_the_slope(void **state)
{
    const double x[2] = {1, 1}, l[2] = {-1, -1e-12}, y[2] = {1, 1}, dy[2] = {0, 1};
    const int32_t index[2] = {0, 1}, doc[2] = {0, 0};
    kt_case k = {.op = "rg_lru_bwd",
                 .num_in = 6,
                 .num_out = 2,
                 .in = {{dy, 'r', 2, {2, 1}},
                        {x, 'r', 2, {2, 1}},
                        {l, 'r', 2, {2, 1}},
                        {y, 'r', 2, {2, 1}},
                        {index, 'i', 1, {2}},
                        {doc, 'i', 1, {2}}},
                 .out = {{NULL, 'r', 2, {2, 1}}, {NULL, 'r', 2, {2, 1}}}};
    double *got = ht_run(&k, AM_F64, 1, false);
    assert_true(fabs(got[3] - (1 - 2 * 1000)) < 1e-3); /* dl of row 1: y_0 − 2·slope·x, slope 1000 */
    free(got);
}

/* Piece by piece through the state is the whole. */
static void test_channels__pieces_are_the_whole(void **state)
{
    static const int cuts[] = {0, 1, 2, 3, 30, N};
    for (int i = 0; i < NUM_OPS; i++) {
        data x;
        make(&x, i == 0);
        for (int t = 0; t < N; t++) x.doc[t] = 1000;
        double *y = malloc(sizeof(double) * N * C), *memory = calloc(3 * C, sizeof *memory);
        ops[i].define(&x, y);
        const kt_operand kept = {memory, i == 2 ? 'r' : 'w', i == 1 ? 2 : 1, {i == 1 ? 3 : C, C}};
        for (size_t c = 0; c + 1 < sizeof cuts / sizeof *cuts; c++) {
            const int n = cuts[c + 1] - cuts[c];
            kt_case k = forward_case(&ops[i], &x);
            for (int j = 0; j < k.num_in; j++) {
                if (k.in[j].dim[0] != N) continue;
                k.in[j].dim[0] = n;
                k.in[j].values = k.in[j].type == 'i'
                                     ? (const void *)((const int32_t *)k.in[j].values + cuts[c])
                                     : (const void *)((const double *)k.in[j].values + cuts[c] * C);
            }
            k.in[k.num_in++] = kept;
            k.out[0].dim[0] = n;
            k.out[k.num_out++] = kept;
            double *got = ht_run(&k, AM_F64, 2, false);
            ht_near(k.op, AM_F64, got, y + cuts[c] * C, n * C, 1e-12);
            memcpy(memory, got + n * C, sizeof(double) * (size_t)(i == 1 ? 3 * C : C));
            free(got);
        }
        free(y);
        free(memory);
        release(&x);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_channels__every_type_and_instruction_set),
        cmocka_unit_test(test_channels__gradients_by_differences),
        cmocka_unit_test(test_channels__rg_lru_bounds_the_slope),
        cmocka_unit_test(test_channels__pieces_are_the_whole),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
