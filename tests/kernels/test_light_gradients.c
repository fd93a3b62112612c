/* Backward kernels against central differences of the forward kernels, in f64: for random dy, the derivative
 * of Σ dy·f(x) by each input element.  Step 1e-5: truncation about 1e-10, cancellation about 1e-11; tolerance
 * 1e-8. */
#include "kernel_test.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

enum { MAX = 512 };

typedef struct vec {
    double v[MAX];
} vec;

static vec random_vec(uint64_t stream)
{
    vec r;
    for (int i = 0; i < MAX; i++)
        r.v[i] = (double)(am_random_u64(3, stream, (uint64_t)i) >> 11) * 0x1p-51 - 2.0;
    return r;
}

static int64_t elements(const kt_operand *o)
{
    int64_t n = o->rank ? 1 : 0;
    for (int i = 0; i < o->rank; i++) n *= o->dim[i];
    return n;
}

/* Σ dy·(first output of the forward case) */
static double objective(const kt_case *forward, void *const *in, const vec *dy)
{
    vec y, second;
    kt_call_f64(forward, in, (void *[]){y.v, second.v});
    double sum = 0;
    for (int64_t i = 0; i < elements(&forward->out[0]); i++) sum += dy->v[i] * y.v[i];
    return sum;
}

/* `gradient` belongs to input `which` of `forward` */
static void check_gradient(const kt_case *forward, void *const *in, int which, const vec *dy,
                           const double *gradient)
{
    const double step = 1e-5;
    double *x = in[which];
    for (int64_t i = 0; i < elements(&forward->in[which]); i++) {
        double keep = x[i];
        x[i] = keep + step;
        double up = objective(forward, in, dy);
        x[i] = keep - step;
        double down = objective(forward, in, dy);
        x[i] = keep;
        double want = (up - down) / (2 * step);
        if (fabs(want - gradient[i]) > 1e-8 * fmax(1, fabs(want)))
            fail_msg("gradient of %s by input %d, element %lld: %.12g, differences give %.12g", forward->op,
                     which, (long long)i, gradient[i], want);
    }
}

static void test_light_gradients__act(void **state)
{
    vec dy = random_vec(0), x = random_vec(1), u = random_vec(2), dx, du;
    kt_operand o = {NULL, 'r', 1, {61}};
    for (int act = 0; act < AM_ACT_COUNT; act++) {
        am_attrs a = {.act = act};
        kt_call_f64(
            &(kt_case){.op = "act_bwd", .attrs = a, .num_in = 2, .num_out = 1, .in = {o, o}, .out = {o}},
            (void *[]){dy.v, x.v}, (void *[]){dx.v});
        kt_case forward = {.op = "act", .attrs = a, .num_in = 1, .num_out = 1, .in = {o}, .out = {o}};
        check_gradient(&forward, (void *[]){x.v}, 0, &dy, dx.v);
        kt_call_f64(
            &(kt_case){
                .op = "act_mul_bwd", .attrs = a, .num_in = 3, .num_out = 2, .in = {o, o, o}, .out = {o, o}},
            (void *[]){dy.v, x.v, u.v}, (void *[]){dx.v, du.v});
        forward = (kt_case){.op = "act_mul", .attrs = a, .num_in = 2, .num_out = 1, .in = {o, o}, .out = {o}};
        check_gradient(&forward, (void *[]){x.v, u.v}, 0, &dy, dx.v);
        check_gradient(&forward, (void *[]){x.v, u.v}, 1, &dy, du.v);
    }
}

static void test_light_gradients__softcap(void **state)
{
    vec dy = random_vec(0), x = random_vec(1), dx;
    kt_operand o = {NULL, 'r', 1, {61}};
    am_attrs a = {.softcap = 0.8};
    kt_call_f64(
        &(kt_case){.op = "softcap_bwd", .attrs = a, .num_in = 2, .num_out = 1, .in = {o, o}, .out = {o}},
        (void *[]){dy.v, x.v}, (void *[]){dx.v});
    kt_case forward = {.op = "softcap", .attrs = a, .num_in = 1, .num_out = 1, .in = {o}, .out = {o}};
    check_gradient(&forward, (void *[]){x.v}, 0, &dy, dx.v);
}

static void test_light_gradients__rmsnorm(void **state)
{
    enum { ROWS = 7, D = 45 };
    vec dy = random_vec(0), x = random_vec(1), w = random_vec(2), y, rstd, dx, dw;
    kt_operand ox = {NULL, 'r', 2, {ROWS, D}}, orstd = {NULL, 'w', 1, {ROWS}};
    for (int i = 0; i < 3; i++) { /* plain weight, weight + 1, no weight */
        am_attrs a = {.eps = 1e-3, .plus = i == 1, .weight_f32 = i == 1};
        kt_operand ow = {NULL, 'r', i == 2 ? 0 : 1, {D}};
        kt_case forward = {
            .op = "rmsnorm", .attrs = a, .num_in = 2, .num_out = 2, .in = {ox, ow}, .out = {ox, orstd}};
        kt_call_f64(&forward, (void *[]){x.v, w.v}, (void *[]){y.v, rstd.v});
        kt_call_f64(&(kt_case){.op = "rmsnorm_dx",
                               .attrs = a,
                               .num_in = 4,
                               .num_out = 1,
                               .in = {ox, ox, ow, orstd},
                               .out = {ox}},
                    (void *[]){dy.v, x.v, w.v, rstd.v}, (void *[]){dx.v});
        check_gradient(&forward, (void *[]){x.v, w.v}, 0, &dy, dx.v);
        if (i == 2) continue;
        kt_call_f64(&(kt_case){.op = "rmsnorm_dw",
                               .attrs = a,
                               .num_in = 3,
                               .num_out = 1,
                               .in = {ox, ox, orstd},
                               .out = {{NULL, 'w', 1, {D}}}},
                    (void *[]){dy.v, x.v, rstd.v}, (void *[]){dw.v});
        check_gradient(&forward, (void *[]){x.v, w.v}, 1, &dy, dw.v);
    }
}

static void test_light_gradients__rope(void **state)
{
    enum { N = 3, H = 2, D = 10, R = 4 };
    vec dy = random_vec(0), x = random_vec(1), angle = random_vec(2), co, si, dx;
    for (int i = 0; i < N * R; i++) {
        co.v[i] = cos(angle.v[i]);
        si.v[i] = sin(angle.v[i]);
    }
    kt_operand ox = {NULL, 'r', 3, {N, H, D}}, oa = {NULL, 'w', 2, {N, R}};
    for (int pairs = 0; pairs < 2; pairs++) {
        kt_case k = {.op = "rope",
                     .attrs = {.pairs = pairs, .inverse = 1},
                     .num_in = 3,
                     .num_out = 1,
                     .in = {ox, oa, oa},
                     .out = {ox}};
        kt_call_f64(&k, (void *[]){dy.v, co.v, si.v}, (void *[]){dx.v});
        k.attrs.inverse = 0;
        check_gradient(&k, (void *[]){x.v, co.v, si.v}, 0, &dy, dx.v);
    }
}

static void test_light_gradients__embed(void **state)
{
    enum { N = 9, V = 6, D = 5 };
    int32_t ids[N] = {5, 0, 5, 2, 2, 1, 5, 0, 3};
    vec dy = random_vec(0), table = random_vec(1), dtable;
    kt_operand oid = {NULL, 'i', 1, {N}}, ot = {NULL, 'r', 2, {V, D}}, oy = {NULL, 'r', 2, {N, D}};
    kt_call_f64(
        &(kt_case){
            .op = "embed_dw", .num_in = 2, .num_out = 1, .in = {oy, oid}, .out = {{NULL, 'w', 2, {V, D}}}},
        (void *[]){dy.v, ids}, (void *[]){dtable.v});
    kt_case forward = {.op = "embed", .num_in = 2, .num_out = 1, .in = {oid, ot}, .out = {oy}};
    check_gradient(&forward, (void *[]){ids, table.v}, 1, &dy, dtable.v);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_light_gradients__act),     cmocka_unit_test(test_light_gradients__softcap),
        cmocka_unit_test(test_light_gradients__rmsnorm), cmocka_unit_test(test_light_gradients__rope),
        cmocka_unit_test(test_light_gradients__embed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
