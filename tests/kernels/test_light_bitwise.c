/* Light kernels give the same bits for 1, 2 and 3 threads, on a second call, and on every instruction set.
 * Sizes are odd and large enough for a parallel region. */
#include "kernel_test.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

enum { M = 12011, BIG = 40009, ROWS = 531, D = 197, V = 700 };

static void test_light_bitwise__elementwise(void **state)
{
    for (int act = 0; act < AM_ACT_COUNT; act++) {
        am_attrs a = {.act = act};
        kt_bitwise(&(kt_case){.op = "act",
                              .attrs = a,
                              .num_in = 1,
                              .num_out = 1,
                              .in = {{NULL, 'r', 1, {M}}},
                              .out = {{NULL, 'r', 1, {M}}}});
        kt_bitwise(&(kt_case){.op = "act_bwd",
                              .attrs = a,
                              .num_in = 2,
                              .num_out = 1,
                              .in = {{NULL, 'r', 1, {M}}, {NULL, 'r', 1, {M}}},
                              .out = {{NULL, 'r', 1, {M}}}});
        kt_bitwise(&(kt_case){.op = "act_mul",
                              .attrs = a,
                              .num_in = 2,
                              .num_out = 1,
                              .in = {{NULL, 'r', 1, {M}}, {NULL, 'r', 1, {M}}},
                              .out = {{NULL, 'r', 1, {M}}}});
        kt_bitwise(&(kt_case){.op = "act_mul_bwd",
                              .attrs = a,
                              .num_in = 3,
                              .num_out = 2,
                              .in = {{NULL, 'r', 1, {M}}, {NULL, 'r', 1, {M}}, {NULL, 'r', 1, {M}}},
                              .out = {{NULL, 'r', 1, {M}}, {NULL, 'r', 1, {M}}}});
    }
    static const char *const two[] = {"add", "mul", "softcap_bwd"}, *const one[] = {"scale", "softcap"};
    am_attrs a = {.softcap = 0.7, .scale = 1.1};
    for (int i = 0; i < 3; i++)
        kt_bitwise(&(kt_case){.op = two[i],
                              .attrs = a,
                              .num_in = 2,
                              .num_out = 1,
                              .in = {{NULL, 'r', 1, {M}}, {NULL, 'r', 1, {M}}},
                              .out = {{NULL, 'r', 1, {M}}}});
    for (int i = 0; i < 2; i++)
        kt_bitwise(&(kt_case){.op = one[i],
                              .attrs = a,
                              .num_in = 1,
                              .num_out = 1,
                              .in = {{NULL, 'r', 1, {M}}},
                              .out = {{NULL, 'r', 1, {M}}}});
    kt_bitwise(&(kt_case){
        .op = "cast", .num_in = 1, .num_out = 1, .in = {{NULL, 'r', 1, {M}}}, .out = {{NULL, 'w', 1, {M}}}});
    kt_bitwise(&(kt_case){
        .op = "cast", .num_in = 1, .num_out = 1, .in = {{NULL, 'w', 1, {M}}}, .out = {{NULL, 'r', 1, {M}}}});
    kt_bitwise(&(kt_case){.op = "fill", .num_out = 1, .out = {{NULL, 'r', 1, {BIG}}}});
}

static void test_light_bitwise__rmsnorm(void **state)
{
    for (int f = 0; f < 2; f++) {
        am_attrs a = {.eps = 1e-6, .plus = f, .weight_f32 = f};
        kt_operand x = {NULL, 'r', 2, {ROWS, D}}, w = {NULL, 'r', 1, {D}}, r = {NULL, 'w', 1, {ROWS}},
                   none = {.rank = 0};
        kt_bitwise(
            &(kt_case){.op = "rmsnorm", .attrs = a, .num_in = 2, .num_out = 2, .in = {x, w}, .out = {x, r}});
        kt_bitwise(&(kt_case){
            .op = "rmsnorm_dx", .attrs = a, .num_in = 4, .num_out = 1, .in = {x, x, w, r}, .out = {x}});
        kt_bitwise(&(kt_case){.op = "rmsnorm_dx",
                              .attrs = a,
                              .num_in = 4,
                              .num_out = 1,
                              .in = {x, x, none, r},
                              .out = {x},
                              .accumulates = true});
        kt_bitwise(&(kt_case){.op = "rmsnorm_dw",
                              .attrs = a,
                              .num_in = 3,
                              .num_out = 1,
                              .in = {x, x, r},
                              .out = {{NULL, 'w', 1, {D}}},
                              .accumulates = f});
        kt_bitwise(&(kt_case){.op = "bias_db",
                              .num_in = 1,
                              .num_out = 1,
                              .in = {x},
                              .out = {{NULL, 'w', 1, {D}}},
                              .accumulates = f});
    }
}

static void test_light_bitwise__rope(void **state)
{
    enum { HEADS = 3, WIDTH = 70, R = 33 };
    int32_t pos[ROWS];
    for (int i = 0; i < ROWS; i++) pos[i] = i * 977;
    kt_operand angles = {NULL, 'w', 2, {ROWS, R}}, x = {NULL, 'r', 3, {ROWS, HEADS, WIDTH}};
    kt_bitwise(&(kt_case){.op = "rope_angles",
                          .num_in = 2,
                          .num_out = 2,
                          .in = {{pos, 'i', 1, {ROWS}}, {NULL, 'w', 1, {R}}},
                          .out = {angles, angles}});
    for (int i = 0; i < 4; i++)
        kt_bitwise(&(kt_case){.op = "rope",
                              .attrs = {.pairs = i & 1, .inverse = i >> 1},
                              .num_in = 3,
                              .num_out = 1,
                              .in = {x, angles, angles},
                              .out = {x}});
}

static void test_light_bitwise__rows(void **state)
{
    int32_t ids[ROWS], some[ROWS];
    for (int i = 0; i < ROWS; i++) {
        ids[i] = (int32_t)(am_random_u64(5, 1, (uint64_t)i) %
                           (V / 20)); /* many repeats: order of addition matters */
        some[i] = i % 5 ? ids[i] : -1;
    }
    kt_operand id = {ids, 'i', 1, {ROWS}}, rows = {NULL, 'r', 2, {ROWS, D}}, table = {NULL, 'r', 2, {V, D}};
    kt_bitwise(&(kt_case){.op = "embed", .num_in = 2, .num_out = 1, .in = {id, table}, .out = {rows}});
    for (int acc = 0; acc < 2; acc++)
        kt_bitwise(&(kt_case){.op = "embed_dw",
                              .num_in = 2,
                              .num_out = 1,
                              .in = {rows, id},
                              .out = {{NULL, 'w', 2, {V, D}}},
                              .accumulates = acc});
    kt_bitwise(&(kt_case){.op = "gather_rows", .num_in = 2, .num_out = 1, .in = {table, id}, .out = {rows}});
    kt_bitwise(&(kt_case){.op = "scatter_rows",
                          .num_in = 2,
                          .num_out = 1,
                          .in = {rows, {some, 'i', 1, {ROWS}}},
                          .out = {table}});
}

static void test_light_bitwise__reductions(void **state)
{
    for (int acc = 0; acc < 2; acc++) {
        kt_bitwise(&(kt_case){.op = "rank_sum",
                              .num_in = 1,
                              .num_out = 1,
                              .in = {{NULL, 'w', 2, {5, BIG}}},
                              .out = {{NULL, 'w', 1, {BIG}}},
                              .accumulates = acc});
        kt_bitwise(&(kt_case){.op = "sumsq",
                              .num_in = 1,
                              .num_out = 1,
                              .in = {{NULL, 'w', 1, {BIG}}},
                              .out = {{NULL, 'd', 1, {1}}},
                              .accumulates = acc});
    }
}

static void test_light_bitwise__adamw(void **state)
{
    double s[AM_SCALAR_COUNT] = {[AM_SCALAR_LR] = 0.01, [AM_SCALAR_STEP] = 3, [AM_SCALAR_CLIP] = 0.9};
    double *v = calloc(M, sizeof *v);
    for (int i = 0; i < M; i++) v[i] = (double)(i % 1000) * 1e-3;
    kt_operand n = {NULL, 'w', 1, {M}};
    kt_bitwise(&(kt_case){
        .op = "adamw",
        .num_in = 5,
        .num_out = 3,
        .in_place = true,
        .attrs = {.beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8, .weight_decay = 0.1, .lr_mult = 1, .count = M},
        .in = {{s, 'd', 1, {AM_SCALAR_COUNT}}, n, n, n, {v, 'w', 1, {M}}},
        .out = {n, n, n}});
    free(v);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_light_bitwise__elementwise), cmocka_unit_test(test_light_bitwise__rmsnorm),
        cmocka_unit_test(test_light_bitwise__rope),        cmocka_unit_test(test_light_bitwise__rows),
        cmocka_unit_test(test_light_bitwise__reductions),  cmocka_unit_test(test_light_bitwise__adamw),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
