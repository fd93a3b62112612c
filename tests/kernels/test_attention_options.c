/* test_attention_options: chunks, sinks, ALiBi, biases and lists of keys against the naive definition; gradients of sinks and
 * biases by finite differences in f64 as well; threads; refusals. */
#include "attention_test.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* ---- options
 * ------------------------------------------------------------------------------------------------------ */

static void scaled(double *x, int64_t n, double by)
{
    for (int64_t i = 0; i < n; i++) x[i] *= by;
}

/* chunks count from a document's start, and cut windows */
static void test_attention__chunks(void **state)
{
    static const int64_t chunks[] = {1, 7, 64, 65, 1000};
    for (int i = 0; i < 5; i++) {
        problem p = make(150, 150, 2, 1, 16, 16, 0, 0);
        p.attrs.chunk = chunks[i];
        compare(p);
        p = make(200, 210, 2, 1, 8, 8, i % 2 ? 30 : 0, 83);
        p.attrs.chunk = chunks[i];
        compare(p);
    }
}

static void give_sinks(problem *p) { p->sinks = ht_random(5, p->heads); }

/* also where a query sees nothing: its lse is the sink, its output 0 */
static void test_attention__sinks(void **state)
{
    problem p = make(130, 130, 6, 2, 16, 16, 20, 37);
    give_sinks(&p);
    compare(p);
    p = make(70, 70, 3, 3, 7, 5, 0, 0);
    give_sinks(&p);
    p.attrs.softcap = 2;
    for (int i = 10; i < 25; i++) p.doc[i] = 1000;
    compare(p);
}

static void test_attention__alibi(void **state)
{
    for (int form = 0; form < 3; form++) {
        problem p = make(150, 170, 4, 2, 16, 16, form == 1 ? 40 : 0, form == 2 ? 0 : 61);
        p.slopes = ht_random(6, 4);
        scaled(p.slopes, 4, form == 2 ? 0.3 : 0.02); /* far above a rounding; the naive softmax has no maximum taken off */
        p.attrs.alibi_rounded = form == 2;
        if (form) p.attrs.alibi_scale = 0.3;
        compare(p);
    }
}

/* tables shorter and longer than what is seen, by distance and by bucket; numbers of a query */
static void test_attention__bias(void **state)
{
    for (int form = 0; form < 4; form++) {
        problem p = make(100, 130, 4, 2, 16, 8, form == 1 ? 50 : 0, form == 3 ? 0 : 61);
        p.reach = form == 0 ? 20 : 200;
        p.numbers = form == 2 ? 9 : p.reach;
        p.by_query = form == 3;
        p.bias = ht_random(7, p.by_query ? 100 * 4 * p.reach : 4 * p.numbers);
        if (form == 2) {
            p.buckets = room(p.reach, 8);
            for (int i = 0; i < p.reach; i++) p.buckets[i] = i < 4 ? i : fmin(8, 4 + floor(log2(i / 4.0) * 1.5));
        }
        compare(p);
    }
}

/* about a third of the blocks that a query may see, another third for each list */
static void give_lists(problem *p, int64_t lists, int64_t listed, int64_t block)
{
    p->lists = lists;
    p->listed = listed;
    p->attrs.key_block = block;
    p->keys = room(p->nq * lists * listed, 4);
    for (int64_t i = 0; i < p->nq; i++)
        for (int64_t l = 0; l < lists; l++) {
            int32_t *out = p->keys + (i * lists + l) * listed;
            int64_t n = 0;
            for (int64_t b = 0; b <= (p->q_idx[i] - p->doc[i]) / block && n < listed; b++)
                if (am_random_u64(3, (uint64_t)(i * lists + l), (uint64_t)b) % 3 == 0) out[n++] = (int32_t)b;
            while (n < listed) out[n++] = -1;
        }
}

static problem make_listed(void)
{
    problem p = make(150, 170, 4, 2, 16, 16, 0, 61);
    give_lists(&p, 2, 5, 8);
    return p;
}

static void test_attention__listed_keys(void **state)
{
    problem p = make(150, 150, 4, 2, 16, 16, 0, 0);
    give_lists(&p, 1, 20, 1); /* tiles of which nothing is listed */
    compare(p);
    compare(make_listed());
    p = make(130, 130, 2, 1, 16, 16, 45, 60);
    for (int64_t i = 0; i < 130; i++) {
        p.q_idx[i] = (int32_t)(i * 77 % 130);
        p.doc[i] = p.q_idx[i] / 60 * 60;
        p.k_idx[i] = (int32_t)(i * 57 % 130);
    }
    give_sinks(&p);
    give_lists(&p, 1, 12, 3);
    compare(p);
}

/* everything at once, with heads and widths that fill no vector, and tokens in another order */
static problem make_all(void)
{
    problem p = make(97, 97, 6, 3, 19, 13, 61, 43);
    for (int64_t i = 0; i < 97; i++) {
        p.q_idx[i] = (int32_t)(i * 77 % 97);
        p.doc[i] = p.q_idx[i] / 43 * 43;
        p.k_idx[i] = (int32_t)(i * 57 % 97);
    }
    p.attrs.chunk = 30;
    p.attrs.softcap = 1.5;
    p.attrs.scale = 0.5;
    give_sinks(&p);
    p.slopes = ht_random(6, 6);
    scaled(p.slopes, 6, 0.02);
    p.reach = p.numbers = 20;
    p.bias = ht_random(7, 6 * 20);
    return p;
}

static void test_attention__all_options_together(void **state)
{
    compare(make_all());
    problem p = make_all();
    p.numbers = 0;
    p.by_query = true;
    free(p.bias);
    p.bias = ht_random(7, 97 * 6 * p.reach);
    compare(p);
}

/* the table's gradient alone, and added to what is there */
static void table_alone_here(void *context)
{
    problem *p = context;
    kt_case b = backward_case(p);
    for (int i = 0; i < 3; i++) b.out[i] = (kt_operand){0};
    for (int type = 0; type < 3; type++)
        for (int add = 0; add < 2; add++) {
            double *got = ht_run(&b, ht_reals[type], 2, add);
            for (int64_t i = 0; i < 120; i++) got[i] -= add; /* outputs hold 1 */
            ht_near("dbias alone", ht_reals[type], got, p->dbias, 120, backward_tol[type]);
            free(got);
        }
}

static void test_attention_bwd__table_alone(void **state)
{
    problem p = make_all();
    solve(&p);
    ht_each_isa(table_alone_here, &p);
    release(&p);
}

static void test_attention__refuses_options_that_do_not_fit(void **state)
{
    problem p = make_all();
    kt_case f = forward_case(&p);
    f.in[8] = (kt_operand){p.bias, 'r', 2, {5, 20}};
    assert_int_equal(kt_call(&f, AM_F32, 1, false, NULL, NULL), AM_ERR_SHAPE);
    assert_non_null(strstr(am_error_message(), "bias must be a table [6, distances or buckets]"));
    f = forward_case(&p);
    double far[3] = {0, 1, 20};
    f.in[9] = (kt_operand){far, 'w', 1, {3}};
    assert_int_equal(kt_call(&f, AM_F32, 1, false, NULL, NULL), AM_ERR_SHAPE);
    assert_non_null(strstr(am_error_message(), "distance 2 is of bucket 20, the table has 20"));
    release(&p);
}

static void test_attention__threads_change_no_bit_of_options(void **state)
{
    same_bits(make_all());
    same_bits(make_listed());
    problem p = make_all();
    solve(&p);
    kt_case s = sinks_case(&p);
    ht_bitwise(&s);
    release(&p);
}

static void test_attention_bwd__finite_differences_of_options(void **state)
{
    problem p = make_all();
    solve(&p);
    kt_case b = backward_case(&p), s = sinks_case(&p);
    double *got = ht_run(&b, AM_F64, 2, false), *sinks = ht_run(&s, AM_F64, 2, false);
    check_gradient(&p, "dbias", p.bias, got + 97 * 6 * 19 + 97 * 3 * (19 + 13), 120);
    check_gradient(&p, "dsinks", p.sinks, sinks, 6);
    free(got);
    free(sinks);
    release(&p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_attention__chunks),
        cmocka_unit_test(test_attention__sinks),
        cmocka_unit_test(test_attention__alibi),
        cmocka_unit_test(test_attention__bias),
        cmocka_unit_test(test_attention__listed_keys),
        cmocka_unit_test(test_attention__all_options_together),
        cmocka_unit_test(test_attention__refuses_options_that_do_not_fit),
        cmocka_unit_test(test_attention__threads_change_no_bit_of_options),
        cmocka_unit_test(test_attention_bwd__table_alone),
        cmocka_unit_test(test_attention_bwd__finite_differences_of_options),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
