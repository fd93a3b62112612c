/* gated_delta and lightning against the recurrence they stand for, token by token in fp64, which knows
 * nothing of chunks; gradients against central differences of that recurrence. */
#include "heavy_test.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

typedef struct shape {
    int64_t n, K, H, d, e;
    int64_t docs[8]; /* first rows, ascending; the rest 0 */
    double beta;     /* 2: negative eigenvalues */
    bool delta;
} shape;

static const shape shapes[] = {
    {1, 1, 1, 4, 4, {0}, 1, true},          {64, 1, 2, 8, 8, {0}, 2, true},
    {65, 2, 2, 5, 7, {0, 64}, 1, true},     {131, 2, 6, 12, 9, {0, 1, 2, 63, 64, 66, 130}, 2, true},
    {640, 1, 2, 16, 20, {0, 513}, 1, true}, {1100, 1, 1, 8, 68, {0, 3}, 2, true},
    {200, 6, 12, 40, 48, {0, 64, 128, 192}, 1, true}, /* work enough for several threads */
    {1, 2, 2, 3, 3, {0}, 1, false},         {193, 3, 3, 9, 17, {0, 100, 128}, 1, false},
    {1030, 1, 1, 8, 8, {0}, 1, false},
};
enum { NUM_SHAPES = sizeof shapes / sizeof *shapes };

typedef struct data {
    shape s;
    double *in[5]; /* q k v g beta, or q k v slopes */
    int32_t *index, *doc;
    double *dout;
} data;

static data make(const shape *s, int64_t begin)
{
    data x = {.s = *s};
    const int64_t count[5] = {s->n * s->K * s->d, s->n * s->K * s->d, s->n * s->H * s->e,
                              s->delta ? s->n * s->H : s->H, s->n * s->H};
    for (int i = 0; i < 5; i++) {
        x.in[i] = ht_random(i + 1, count[i]);
        for (int64_t j = 0; i == 3 && j < count[i]; j++)
            x.in[i][j] = (s->delta ? -0.25 : 0.25) * fabs(x.in[i][j]);
        for (int64_t j = 0; i == 4 && j < count[i]; j++) x.in[i][j] = fabs(x.in[i][j]) * s->beta;
    }
    x.dout = ht_random(9, s->n * s->H * s->e);
    x.index = malloc((size_t)s->n * sizeof *x.index);
    x.doc = malloc((size_t)s->n * sizeof *x.doc);
    for (int64_t t = 0, at = 0; t < s->n; t++) {
        while (at < 7 && s->docs[at + 1] > 0 && s->docs[at + 1] <= t) at++;
        x.index[t] = (int32_t)(begin + t);
        x.doc[t] = (int32_t)(begin + s->docs[at]);
    }
    return x;
}

static void release(data *x)
{
    for (int i = 0; i < 5; i++) free(x->in[i]);
    free(x->dout);
    free(x->index);
    free(x->doc);
}

/* o of the recurrence; returns Σ o·dout */
static double recurrence(const data *x, double eps, double *o)
{
    const shape *s = &x->s;
    double *state = calloc((size_t)(s->d * s->e), sizeof *state), *k = malloc((size_t)s->d * 8),
           *q = malloc((size_t)s->d * 8), total = 0;
    for (int64_t h = 0; h < s->H; h++)
        for (int64_t t = 0; t < s->n; t++) {
            const int64_t key = h / (s->H / s->K), at = t * s->H + h;
            const double *v = x->in[2] + at * s->e;
            double kk = eps, qq = eps;
            for (int64_t i = 0; i < s->d; i++) {
                k[i] = x->in[1][(t * s->K + key) * s->d + i];
                q[i] = x->in[0][(t * s->K + key) * s->d + i];
                kk += k[i] * k[i];
                qq += q[i] * q[i];
            }
            for (int64_t i = 0; i < s->d; i++) {
                if (eps > 0) k[i] /= sqrt(kk);
                if (eps > 0) q[i] /= sqrt(qq);
                if (s->delta) q[i] /= sqrt((double)s->d);
            }
            const double decay = x->doc[t] == x->index[t] ? 0 : exp(s->delta ? x->in[3][at] : -x->in[3][h]);
            for (int64_t i = 0; i < s->d * s->e; i++)
                state[i] = x->doc[t] == x->index[t] ? 0 : state[i] * decay;
            for (int64_t j = 0; j < s->e; j++) {
                double read = 0, y = 0;
                for (int64_t i = 0; i < s->d; i++) read += state[i * s->e + j] * k[i];
                const double u = s->delta ? x->in[4][at] * (v[j] - read) : v[j];
                for (int64_t i = 0; i < s->d; i++) {
                    state[i * s->e + j] += k[i] * u;
                    y += state[i * s->e + j] * q[i];
                }
                if (o) o[at * s->e + j] = y;
                total += y * x->dout[at * s->e + j];
            }
        }
    free(state);
    free(k);
    free(q);
    return total;
}

static int64_t spans(const shape *s)
{
    return (s->n + 511) / 512;
}

static kt_case forward_case(const data *x, double eps)
{
    const shape *s = &x->s;
    kt_case c = {.op = s->delta ? "gated_delta" : "lightning",
                 .attrs = {.eps = eps},
                 .num_out = 2,
                 .in = {{x->in[0], 'r', 3, {s->n, s->K, s->d}},
                        {x->in[1], 'r', 3, {s->n, s->K, s->d}},
                        {x->in[2], 'r', 3, {s->n, s->H, s->e}}},
                 .out = {{NULL, 'r', 3, {s->n, s->H, s->e}}, {NULL, 'w', 4, {spans(s), s->H, s->d, s->e}}}};
    int i = 3;
    if (s->delta) {
        c.in[i++] = (kt_operand){x->in[3], 'w', 2, {s->n, s->H}};
        c.in[i++] = (kt_operand){x->in[4], 'r', 2, {s->n, s->H}};
    } else {
        c.in[i++] = (kt_operand){x->in[3], 'w', 1, {s->H}};
    }
    c.in[i++] = (kt_operand){x->index, 'i', 1, {s->n}};
    c.in[i++] = (kt_operand){x->doc, 'i', 1, {s->n}};
    c.num_in = i;
    return c;
}

static kt_case backward_case(const data *x, double eps, const double *saved)
{
    const shape *s = &x->s;
    kt_case f = forward_case(x, eps), c = f;
    c.op = s->delta ? "gated_delta_bwd" : "lightning_bwd";
    c.in[0] = (kt_operand){x->dout, 'r', 3, {s->n, s->H, s->e}};
    for (int i = 0; i < f.num_in; i++) c.in[i + 1] = f.in[i];
    c.in[f.num_in + 1] = f.out[1];
    c.in[f.num_in + 1].values = saved;
    c.num_in = f.num_in + 2;
    c.num_out = s->delta ? 4 : 3;
    for (int i = 0; i < 3; i++) c.out[i] = f.in[i];
    for (int i = 0; i < 3; i++) c.out[i].values = NULL;
    if (s->delta) c.out[3] = (kt_operand){NULL, 'w', 3, {2, s->n, s->H}};
    return c;
}

typedef struct check {
    const data *x;
    double eps;
    const double *want; /* o */
} check;

static const double tolerance[3] = {1e-12, 2e-5, 3e-2};

static void check_forward(void *context)
{
    const check *c = context;
    const kt_case k = forward_case(c->x, c->eps);
    for (int type = 0; type < 3; type++) {
        double *got = ht_run(&k, ht_reals[type], 1, false);
        ht_near(k.op, ht_reals[type], got, c->want, ht_elements(&k.out[0]), tolerance[type]);
        free(got);
    }
}

static void test_delta__forward(void **state)
{
    for (int i = 0; i < NUM_SHAPES; i++)
        for (int norm = 0; norm < 2; norm++) {
            data x = make(&shapes[i], 0);
            if (!norm && shapes[i].delta) /* without the norm the memory would not be stable: shorter keys */
                for (int64_t j = 0; j < x.s.n * x.s.K * x.s.d; j++) x.in[1][j] *= 0.25;
            check c = {&x, norm ? 1e-6 : 0, NULL};
            double *want = malloc((size_t)(x.s.n * x.s.H * x.s.e) * sizeof *want);
            recurrence(&x, c.eps, want);
            c.want = want;
            ht_each_isa(check_forward, &c);
            free(want);
            release(&x);
        }
}

/* the saved states of an fp64 forward run, and gradients of every dtype */
static double *gradients(const data *x, double eps, am_dtype real, int threads)
{
    kt_case f = forward_case(x, eps);
    double *out = ht_run(&f, real, threads, false), *saved = out + ht_elements(&f.out[0]);
    kt_case b = backward_case(x, eps, saved);
    double *got = ht_run(&b, real, threads, false);
    free(out);
    return got;
}

static void test_delta__gradients_by_differences(void **state)
{
    for (int i = 0; i < NUM_SHAPES; i++) {
        data x = make(&shapes[i], 0);
        const double eps = i % 2 || x.s.delta ? 1e-6 : 0, step = 1e-5;
        double *got = gradients(&x, eps, AM_F64, 2), *part = got; /* dq, dk, dv, dg, dbeta */
        kt_case f = forward_case(&x, eps);
        for (int operand = 0; operand < (x.s.delta ? 5 : 3); operand++) {
            int64_t n = ht_elements(&f.in[operand]), samples = x.s.n > 500 ? 24 : 60;
            for (int64_t j = 0; j < samples && j < n; j++) {
                int64_t at = n <= samples
                                 ? j
                                 : (int64_t)(am_random_u64(3, (uint64_t)operand, (uint64_t)j) % (uint64_t)n);
                double old = x.in[operand][at], up, down;
                x.in[operand][at] = old + step;
                up = recurrence(&x, eps, NULL);
                x.in[operand][at] = old - step;
                down = recurrence(&x, eps, NULL);
                x.in[operand][at] = old;
                const double want = (up - down) / (2 * step);
                if (fabs(part[at] - want) > 2e-7 * fmax(1, fabs(want)))
                    fail_msg("shape %d, gradient of operand %d at %lld: %.12g, by differences %.12g", i,
                             operand, (long long)at, part[at], want);
            }
            part += n;
        }
        free(got);
        release(&x);
    }
}

static void check_backward(void *context)
{
    const check *c = context;
    const kt_case b = backward_case(c->x, c->eps, NULL);
    static const double near[3] = {1e-11, 1e-4, 1e-1};
    for (int type = 0; type < 3; type++) {
        double *got = gradients(c->x, c->eps, ht_reals[type], 1);
        int64_t n = 0;
        for (int i = 0; i < b.num_out; i++) n += ht_elements(&b.out[i]);
        ht_near(b.op, ht_reals[type], got, c->want, n, near[type]);
        free(got);
    }
}

static void test_delta__gradients_of_every_type(void **state)
{
    for (int i = 0; i < NUM_SHAPES; i++) {
        data x = make(&shapes[i], 0);
        check c = {&x, x.s.delta ? 1e-6 : 0, NULL};
        double *want = gradients(&x, c.eps, AM_F64, 1);
        c.want = want;
        ht_each_isa(check_backward, &c);
        free(want);
        release(&x);
    }
}

static void test_delta__threads_change_no_bit(void **state)
{
    for (int i = 0; i < NUM_SHAPES; i++) {
        data x = make(&shapes[i], 0);
        kt_case f = forward_case(&x, 1e-6);
        ht_bitwise(&f);
        double *out = ht_run(&f, AM_F64, 1, false);
        kt_case b = backward_case(&x, 1e-6, out + ht_elements(&f.out[0]));
        ht_bitwise(&b);
        free(out);
        release(&x);
    }
}

/* Piece by piece through the state, as a text is generated, is the whole. */
static void test_delta__pieces_are_the_whole(void **state)
{
    static const int64_t cuts[] = {0, 1, 2, 64, 65, 70, 193};
    for (int delta = 0; delta < 2; delta++) {
        const shape s = {193, 2, delta ? 4 : 2, 9, 7, {0}, 2, delta};
        data x = make(&s, 0);
        const int64_t all = s.n * s.H * s.e, size = s.H * s.d * s.e;
        double *want = malloc((size_t)all * sizeof *want), *memory = calloc((size_t)size, sizeof *memory);
        recurrence(&x, delta ? 1e-6 : 0, want);
        for (size_t c = 0; c + 1 < sizeof cuts / sizeof *cuts; c++) {
            const int64_t at = cuts[c], n = cuts[c + 1] - at;
            data part = x;
            part.s.n = n;
            part.in[0] += at * s.K * s.d;
            part.in[1] += at * s.K * s.d;
            part.in[2] += at * s.H * s.e;
            if (delta) part.in[3] += at * s.H;
            part.in[4] += at * s.H;
            part.index += at;
            part.doc += at;
            kt_case k = forward_case(&part, delta ? 1e-6 : 0);
            k.in[k.num_in++] = (kt_operand){memory, 'w', 3, {s.H, s.d, s.e}};
            k.out[2] = k.in[k.num_in - 1];
            k.num_out = 3;
            double *got = ht_run(&k, AM_F64, 2, false);
            ht_near(k.op, AM_F64, got, want + at * s.H * s.e, n * s.H * s.e, 1e-12);
            memcpy(memory, got + n * s.H * s.e + size, (size_t)size * sizeof *memory);
            free(got);
        }
        free(want);
        free(memory);
        release(&x);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_delta__forward),
        cmocka_unit_test(test_delta__gradients_by_differences),
        cmocka_unit_test(test_delta__gradients_of_every_type),
        cmocka_unit_test(test_delta__threads_change_no_bit),
        cmocka_unit_test(test_delta__pieces_are_the_whole),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
