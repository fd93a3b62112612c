/* Gradients of whole programs against central differences in fp64: the expected value comes from running the
 * forward program at two neighbouring weights, which knows nothing of autodiff.  Made-up wirings stand for
 * families nobody has seen. */
#include "program_test.h"

#include "graph/autodiff.h"
#include "graph/graph_internal.h"

#include <math.h>
#include <string.h>

static am_comm *comm;

static void check_gradients(const pt_shape *s, const am_program_options *verify)
{
    pt_check_gradients(s, verify, comm, 3);
}

static void test_gradients__llama(void **state)
{
    pt_shape s = pt_default_shape();
    am_program_options o = am_program_defaults(AM_PROGRAM_VERIFY);
    check_gradients(&s, &o);
    s.tied = s.bias = false;
    s.window = 5;
    check_gradients(&s, &o);
}

static void test_gradients__made_up_wirings(void **state)
{
    pt_shape s = pt_default_shape();
    am_program_options o = am_program_defaults(AM_PROGRAM_VERIFY);
    s.sandwich = true;
    check_gradients(&s, &o);
    s.sandwich = false;
    s.parallel = true; /* a value used four times */
    check_gradients(&s, &o);
    s.parallel = false;
    s.alternate = true; /* two kinds of layers */
    check_gradients(&s, &o);
}

static void test_gradients__passes(void **state)
{
    pt_shape s = pt_default_shape();
    am_program_options o = am_program_defaults(AM_PROGRAM_VERIFY);
    o.recompute = AM_RECOMPUTE_FULL;
    check_gradients(&s, &o);
    o.micro_batches = 3;
    check_gradients(&s, &o);
    o.recompute = AM_RECOMPUTE_SELECTIVE;
    check_gradients(&s, &o);
    o.gpipe = o.split_w = true;
    o.fuse = false;
    check_gradients(&s, &o);
    o.recompute = AM_RECOMPUTE_FULL;
    check_gradients(&s, &o);
}

/* An operator that src knows nothing of: y = x³ (elementwise), with its own kernels and gradient. */
static am_status cube_infer(am_graph *g, am_node *n)
{
    am_value x = g->values[n->in[0]];
    n->num_out = 1;
    return n->out[0] >= 0 ? AM_OK : am_graph_value(g, "cube", x.dtype, x.rank, x.dim, &n->out[0]);
}
static am_status cube_kernel(const am_kernel_call *c)
{
    const double *x = c->in[0].data;
    double *y = c->out[0].data;
    for (int64_t i = 0; i < am_tensor_elements(&c->in[0]); i++) y[i] = x[i] * x[i] * x[i];
    return AM_OK;
}
static am_status cube_bwd_kernel(const am_kernel_call *c)
{
    const double *dy = c->in[0].data, *x = c->in[1].data;
    double *dx = c->out[0].data;
    for (int64_t i = 0; i < am_tensor_elements(&c->in[0]); i++) dx[i] = 3 * x[i] * x[i] * dy[i];
    return AM_OK;
}
static const am_op_def cube_bwd = {.name = "test_cube_bwd",
                                   .view_in = {AM_VIEW_FLAT, AM_VIEW_FLAT},
                                   .view_out = {AM_VIEW_FLAT},
                                   .infer = cube_infer,
                                   .own_kernel = {.name = "test_cube_bwd", .f64 = cube_bwd_kernel}};
static am_status cube_vjp(am_autodiff *ad, const am_node *n)
{
    am_status st = AM_OK;
    int dy = -1, dx = -1;
    AM_TRY(am_graph_register_op(am_ad_graph(ad), &cube_bwd));
    AM_TRY(am_ad_grad(ad, n->out[0], &dy));
    AM_TRY(am_ad_emit(ad, "test_cube_bwd", (int[]){dy, n->in[0]}, 2, NULL, AM_ACC_NO, &dx, 1));
    AM_TRY(am_ad_contribute(ad, n->in[0], dx));
done:
    return st;
}
static const am_op_def cube = {.name = "test_cube",
                               .view_in = {AM_VIEW_FLAT},
                               .view_out = {AM_VIEW_FLAT},
                               .infer = cube_infer,
                               .vjp = cube_vjp,
                               .own_kernel = {.name = "test_cube", .f64 = cube_kernel}};

static void test_gradients__registered_operator(void **state)
{
    pt_shape s = pt_default_shape();
    am_program_options o = am_program_defaults(AM_PROGRAM_VERIFY);
    s.extra = &cube;
    check_gradients(&s, &o);
    o.recompute = AM_RECOMPUTE_FULL;
    check_gradients(&s, &o);
}

static void test_gradients__frozen(void **state)
{
    static const char *const freeze[] = {"*gate_proj*", "embed*", "layers.1.*"};
    pt_shape s = pt_default_shape();
    am_program_options o = am_program_defaults(AM_PROGRAM_VERIFY);
    s.tied = false;
    o.freeze = freeze;
    o.num_freeze = 3;
    check_gradients(&s, &o);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_gradients__llama),  cmocka_unit_test(test_gradients__made_up_wirings),
        cmocka_unit_test(test_gradients__passes), cmocka_unit_test(test_gradients__registered_operator),
        cmocka_unit_test(test_gradients__frozen),
    };
    am_comm_options options = {.max_requests = 512};
    if (am_comm_create("self", &options, &comm) != AM_OK) return 1;
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    if (am_comm_free(&comm) != AM_OK) return 1;
    return failed;
}
