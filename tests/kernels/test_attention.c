/* test_attention: forward and backward against PyTorch (heavy_reference.h) and against a naive definition
 * with the whole score matrix; gradients by finite differences in f64; the properties that context
 * parallelism, tensor parallelism and packing rest on (keys in parts, heads in parts, shuffled tokens);
 * threads; closed forms; workspace; refusals.
 *
 * Tolerances, all values being at most 1: f64 1e-10 (1e-12 for PyTorch's short rows); f32 2e-5: about 20
 * roundings of 2^-24 on scores up to 100, as relative errors of probabilities; bf16: probabilities and score
 * gradients enter products as bf16 (2^-9 each) and results are rounded to bf16 (2^-9): 1e-2 forward;
 * gradients are sums of up to n such terms with cancellation, measured against their size: 4e-2. */
#include "heavy_reference.h"
#include "attention_test.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static void test_attention__matches_definition(void **state)
{
    compare(make(130, 130, 2, 1, 64, 64, 0, 0)); /* several tiles both ways */
    compare(make(100, 200, 3, 3, 7, 5, 0, 0));   /* odd widths, more keys than queries */
    compare(make(1, 150, 4, 2, 16, 16, 0, 0));   /* one query, as in generation */
    compare(make(65, 65, 1, 1, 80, 24, 0, 0));
    compare(make(49, 70, 2, 1, 256, 130, 0, 0));
    compare(make(5, 3, 2, 2, 1, 1, 0, 0)); /* queries before the first key see nothing */
    compare(make(330, 330, 6, 2, 64, 64, 0, 0)); /* complete tiles one after the other, heads together */
    compare(make(330, 330, 3, 1, 40, 24, 150, 0));
}

static void test_attention__window_and_documents(void **state)
{
    compare(make(150, 150, 2, 1, 16, 16, 20, 0));
    compare(make(150, 150, 2, 1, 16, 16, 1, 0)); /* itself alone */
    compare(make(150, 150, 2, 1, 16, 16, 0, 37));
    compare(make(200, 200, 2, 1, 16, 16, 70, 101));
}

/* the only visible key is the last or the first of its tile of 64 */
static void test_attention__keys_at_the_edges_of_tiles(void **state)
{
    compare(make(1, 101, 1, 1, 8, 8, 38, 0));
    compare(make(1, 128, 1, 1, 8, 8, 65, 0));
    compare(make(1, 65, 1, 1, 8, 8, 1, 0));
    compare(make(60, 65, 1, 1, 8, 8, 0, 64));
}

static void test_attention__softcap_and_scale(void **state)
{
    problem p = make(70, 70, 2, 1, 32, 32, 0, 0);
    p.attrs.softcap = 1.5;
    p.attrs.scale = 0.5;
    compare(p);
}

/* Scores of several hundred, which only their running maximum keeps from overflowing.  Tolerances: forward's are made
 * for scores up to 100; a score's rounding, relative to it, is a relative error of its probability. */
static void large_scores_here(void *context)
{
    problem p = make(330, 330, 1, 1, 64, 64, 0, 0);
    static const double tol[3] = {1e-9, 2e-4, 2e-2};
    p.attrs.scale = 60;
    solve(&p);
    kt_case f = forward_case(&p);
    for (int type = 0; type < 3; type++) {
        double *got = ht_run(&f, ht_reals[type], 1, false);
        ht_near("o of large scores", ht_reals[type], got, p.o, 330 * 64, tol[type]);
        free(got);
    }
    release(&p);
}
static void test_attention__large_scores(void **state) { ht_each_isa(large_scores_here, NULL); }

/* a query whose document starts behind it sees no key: o = 0, lse = -inf, no gradient */
static void test_attention__rows_that_see_nothing(void **state)
{
    problem p = make(60, 60, 2, 1, 16, 16, 0, 0);
    for (int i = 10; i < 55; i++) p.doc[i] = 1000;
    compare(p);
    p = make(60, 70, 2, 1, 16, 16, 0, 0);
    for (int j = 0; j < 70; j++) p.k_idx[j] += 10000; /* all keys ahead */
    compare(p);
}

/* ---- against PyTorch
 * ----------------------------------------------------------------------------------------------- */

static void torch_here(void *context)
{
    problem p = make(7, 7, 9, 3, 4, 3, 4, 3);
    p.doc[6] = 3; /* documents start at 0 and 3 */
    double **arrays[] = {&p.q, &p.k, &p.v, &p.g};
    const int64_t sizes[] = {7 * 36, 7 * 12, 7 * 9, 7 * 27};
    for (int i = 0; i < 4; i++) {
        free(*arrays[i]);
        *arrays[i] = ht_pattern(i + 1, sizes[i]);
    }
    p.attrs.scale = 0.75;
    p.o = room(189, 8);
    p.lse = room(63, 8);
    memcpy(p.o, torch_att_o, sizeof torch_att_o);
    memcpy(p.lse, torch_att_lse, sizeof torch_att_lse);
    kt_case f = forward_case(&p), b = backward_case(&p);
    static const double tol[3] = {1e-12, 2e-6, 1e-2};
    for (int type = 0; type < 3; type++) {
        double *got = ht_run(&f, ht_reals[type], 2, false);
        ht_near("o", ht_reals[type], got, torch_att_o, 189, tol[type]);
        ht_near("lse", ht_reals[type], got + 189, torch_att_lse, 63, tol[type ? 1 : 0]);
        free(got);
        got = ht_run(&b, ht_reals[type], 2, false);
        ht_near("dq", ht_reals[type], got, torch_att_dq, 252, tol[type]);
        ht_near("dk", ht_reals[type], got + 252, torch_att_dk, 84, tol[type]);
        ht_near("dv", ht_reals[type], got + 336, torch_att_dv, 63, tol[type]);
        free(got);
    }
    release(&p);
}
static void test_attention__matches_torch(void **state) { ht_each_isa(torch_here, NULL); }

/* ---- properties
 * ------------------------------------------------------------------------------------------------------ */

/* columns [begin, begin+n) of heads of a [rows][heads][d] array */
static double *head_slice(const double *x, int64_t rows, int64_t heads, int64_t d, int64_t begin, int64_t n)
{
    double *out = room(rows * n * d, 8);
    for (int64_t r = 0; r < rows; r++)
        memcpy(out + r * n * d, x + (r * heads + begin) * d, (size_t)(n * d) * 8);
    return out;
}

/* 9 heads over 3 kv heads, cut as 0–3 and 4–8: kv head 1 is needed by both; its gradients add up */
static void heads_here(void *context)
{
    problem p = make(70, 70, 9, 3, 16, 16, 0, 25);
    solve(&p);
    double *dk = room(70 * 3 * 16, 8), *dv = room(70 * 3 * 16, 8);
    static const int64_t begin[] = {0, 4}, count[] = {4, 5}, kv[] = {0, 1};
    for (int part = 0; part < 2; part++) {
        problem c = p;
        int64_t h0 = begin[part], n = count[part];
        c.heads = n;
        c.kv = 2;
        c.attrs.head_begin = h0;
        c.attrs.kv_begin = kv[part];
        c.q = head_slice(p.q, 70, 9, 16, h0, n);
        c.g = head_slice(p.g, 70, 9, 16, h0, n);
        c.o = head_slice(p.o, 70, 9, 16, h0, n);
        c.dq = head_slice(p.dq, 70, 9, 16, h0, n);
        c.lse = head_slice(p.lse, 70, 9, 1, h0, n);
        c.k = head_slice(p.k, 70, 3, 16, kv[part], 2);
        c.v = head_slice(p.v, 70, 3, 16, kv[part], 2);
        kt_case f = forward_case(&c), b = backward_case(&c);
        double *got = ht_run(&f, AM_F32, 2, false);
        ht_near("o of some heads", AM_F32, got, c.o, 70 * n * 16, forward_tol[1]);
        free(got);
        got = ht_run(&b, AM_F32, 2, false);
        ht_near("dq of some heads", AM_F32, got, c.dq, 70 * n * 16, backward_tol[1]);
        for (int64_t at = 0; at < 70 * 2 * 16; at++) {
            int64_t whole = at / 32 * 48 + kv[part] * 16 + at % 32;
            dk[whole] += got[70 * n * 16 + at];
            dv[whole] += got[70 * n * 16 + 70 * 32 + at];
        }
        free(got);
        double *own[] = {c.q, c.g, c.o, c.dq, c.lse, c.k, c.v};
        for (int i = 0; i < 7; i++) free(own[i]);
    }
    ht_near("dk of both parts", AM_F32, dk, p.dk, 70 * 48, 2 * backward_tol[1]);
    ht_near("dv of both parts", AM_F32, dv, p.dvv, 70 * 48, 2 * backward_tol[1]);
    free(dk);
    free(dv);
    release(&p);
}
static void test_attention__heads_in_two_parts_are_the_whole(void **state) { ht_each_isa(heads_here, NULL); }

/* two calls over halves of the keys, joined by lse, are one call; backward over halves with the joined o and
 * lse adds up */
static void parts_here(void *context)
{
    problem p = make(90, 120, 2, 1, 16, 8, 0, 40);
    solve(&p);
    int64_t no = 90 * 2 * 8, nl = 180, ndq = 90 * 2 * 16;
    double *o = room(no, 8), *lse = room(nl, 8), *dq = room(ndq, 8), *parts[2];
    for (int part = 0; part < 2; part++) {
        problem c = p;
        int64_t first = part ? 50 : 0;
        c.nk = part ? 70 : 50;
        c.k = p.k + first * 16;
        c.v = p.v + first * 8;
        c.k_idx = p.k_idx + first;
        kt_case f = forward_case(&c), b = backward_case(&c);
        parts[part] = ht_run(&f, AM_F32, 2, false);
        double *got = ht_run(&b, AM_F32, 2, false);
        for (int64_t i = 0; i < ndq; i++) dq[i] += got[i];
        ht_near("dk of a part", AM_F32, got + ndq, p.dk + first * 16, c.nk * 16, backward_tol[1]);
        ht_near("dv of a part", AM_F32, got + ndq + c.nk * 16, p.dvv + first * 8, c.nk * 8, backward_tol[1]);
        free(got);
    }
    for (int64_t i = 0; i < nl; i++) {
        double a = parts[0][no + i], b = parts[1][no + i], top = fmax(a, b);
        lse[i] = top + log(exp(a - top) + exp(b - top));
        for (int e = 0; e < 8; e++)
            o[i * 8 + e] = exp(a - lse[i]) * parts[0][i * 8 + e] + exp(b - lse[i]) * parts[1][i * 8 + e];
    }
    ht_near("o joined", AM_F32, o, p.o, no, forward_tol[1]);
    ht_near("lse joined", AM_F32, lse, p.lse, nl, forward_tol[1]);
    ht_near("dq joined", AM_F32, dq, p.dq, ndq, 2 * backward_tol[1]);
    void *own[] = {o, lse, dq, parts[0], parts[1]};
    for (int i = 0; i < 5; i++) free(own[i]);
    release(&p);
}
static void test_attention__keys_in_two_parts_join_by_lse(void **state) { ht_each_isa(parts_here, NULL); }

/* tokens in any order, with their indices: the same results in that order */
static void test_attention__shuffled_tokens_with_their_indices(void **state)
{
    problem p = make(130, 130, 2, 1, 16, 16, 45, 60);
    for (int64_t i = 0; i < 130; i++) {
        p.q_idx[i] = (int32_t)(i * 77 % 130);
        p.doc[i] = p.q_idx[i] / 60 * 60;
        p.k_idx[i] = (int32_t)(i * 57 % 130);
    }
    compare(p);
}

/* indices as a context-parallel rank has them: of 4 equal pieces of the tokens, the first and the last are
 * its queries, and the keys came from other ranks in another order */
static problem make_pieces(int64_t n, int64_t window, int64_t doc)
{
    problem p = make(2 * n, 4 * n, 4, 2, 16, 16, window, doc);
    static const int order[] = {2, 0, 3, 1};
    for (int64_t i = 0; i < 2 * n; i++) {
        p.q_idx[i] = (int32_t)(i < n ? i : i + 2 * n);
        p.doc[i] = doc ? (int32_t)(p.q_idx[i] / doc * doc) : 0;
    }
    for (int64_t j = 0; j < 4 * n; j++) p.k_idx[j] = (int32_t)(order[j / n] * n + j % n);
    return p;
}

/* two rows of tokens that both need the keys at the front, and between them one that does not */
static problem make_gap(void)
{
    problem p = make(192, 400, 1, 1, 64, 64, 40, 0);
    for (int i = 0; i < 192; i++) p.q_idx[i] = i % 64 + (i / 64 == 1 ? 300 : 64);
    return p;
}

static void test_attention__threads_change_no_bit(void **state)
{
    problem p = make(150, 170, 6, 2, 24, 16, 60, 70);
    solve(&p);
    kt_case f = forward_case(&p), b = backward_case(&p);
    ht_bitwise(&f);
    ht_bitwise(&b);
    release(&p);
    same_bits(make(330, 330, 6, 2, 16, 16, 0, 0)); /* six tiles both ways, the last one uneven */
    same_bits(make(330, 330, 3, 3, 8, 8, 100, 130));
    same_bits(make_pieces(70, 0, 0));
    same_bits(make_pieces(70, 80, 65));
    same_bits(make_gap());
    p = make(200, 260, 4, 1, 16, 16, 0, 90);
    p.attrs.softcap = 2.0;
    same_bits(p);
    p = make(190, 190, 5, 2, 16, 16, 0, 0); /* heads 4–8 of 9: kv head 1 has two of its three */
    p.attrs.group = 3;
    p.attrs.head_begin = 4;
    p.attrs.kv_begin = 1;
    same_bits(p);
}

/* pieces in another order, stretches of tiles with some in between that nobody sees, keys that nobody sees */
static void test_attention__pieces_in_another_order(void **state)
{
    compare(make_pieces(70, 0, 0));
    compare(make_pieces(70, 60, 0));
    compare(make_pieces(33, 0, 50));
    compare(make_gap());
    problem p = make(130, 400, 2, 1, 8, 8, 0, 0);
    for (int i = 0; i < 130; i++) p.q_idx[i] = i + 100; /* keys from 230 on are ahead of every query */
    compare(p);
    p = make(500, 500, 2, 1, 8, 8, 40, 90);
    for (int j = 0; j < 500; j++) p.k_idx[j] = 499 - j;
    compare(p);
}

/* ---- closed forms
 * ------------------------------------------------------------------------------------------------------ */

/* Keys 0 and 1, values 0 and 1, query x: o = 1/(1 + e^-x), lse = log(1 + e^x), over the whole range of the
 * exponential.  fp32, o: exp, sum, division 2^-23 each relative, and x·2^-24 on the way into the exponential
 * where that is small: 1e-6.  lse: exp and log 2^-23 each, the sum of both 2^-24 of it: 3e-7.  bf16: o 2^-8
 * for P and 2^-8 for o; lse is fp32. */
static void two_keys_here(void *context)
{
    problem p = make(257, 2, 1, 1, 1, 1, 0, 0);
    for (int i = 0; i < 257; i++) {
        p.q_idx[i] = 1;
        p.q[i] = (i - 128) / 2.0;
    }
    p.attrs.scale = 1;
    for (int j = 0; j < 2; j++) p.k[j] = p.v[j] = j;
    kt_case f = forward_case(&p);
    for (int type = 1; type < 3; type++) {
        double *got = ht_run(&f, ht_reals[type], 1, false), tol = type == 1 ? 1e-6 : 8e-3;
        for (int i = 0; i < 257; i++) {
            double x = p.q[i], o = 1 / (1 + exp(-x)), lse = fmax(x, 0) + log1p(exp(-fabs(x)));
            if (fabs(got[i] / o - 1) > tol) fail_msg("o at %g: %.9g, expected %.9g", x, got[i], o);
            if (fabs(got[257 + i] - lse) > 3e-7 * fmax(lse, 1))
                fail_msg("lse at %g: %.9g, expected %.9g", x, got[257 + i], lse);
        }
        free(got);
    }
    release(&p);
}
static void test_attention__closed_form_of_two_keys(void **state) { ht_each_isa(two_keys_here, NULL); }

static size_t workspace_of(const char *op, int64_t n, int threads)
{
    problem p = {.nq = n, .nk = n, .heads = 9, .kv = 3, .d = 64, .dv = 64};
    kt_case k = op[9] ? backward_case(&p) : forward_case(&p);
    am_kernel_call c = {.attrs = &k.attrs, .num_in = k.num_in, .num_out = k.num_out, .threads = threads};
    for (int i = 0; i < k.num_in; i++) {
        c.in[i].rank = k.in[i].rank;
        memcpy(c.in[i].dim, k.in[i].dim, sizeof c.in[i].dim);
    }
    return am_kernels_cpu_find(op)->workspace(&c);
}

/* 4 bytes a key and kv head for each of d (forward), of 3·d (backward), a tenth more for what is kept of
 * tiles; 1 MiB a thread */
static void test_attention__workspace_grows_with_the_keys_alone(void **state)
{
    for (int64_t n = 1024; n <= 32768; n *= 2) {
        size_t keys = (size_t)n * 3 * 64 * 4;
        assert_true(workspace_of("attention", n, 2) <= keys * 11 / 10 + (2u << 20));
        assert_true(workspace_of("attention_bwd", n, 2) <= keys * 33 / 10 + (2u << 20));
        assert_true(workspace_of("attention_bwd", n, 64) <= keys * 33 / 10 + (64u << 20));
    }
}

/* ---- finite differences in f64
 * -------------------------------------------------------------------------------------- */

static void test_attention_bwd__finite_differences(void **state)
{
    problem p = make(9, 11, 4, 2, 5, 3, 6, 4);
    p.attrs.softcap = 2.0;
    solve(&p);
    kt_case b = backward_case(&p);
    double *got = ht_run(&b, AM_F64, 2, false);
    check_gradient(&p, "dq", p.q, got, 9 * 4 * 5);
    check_gradient(&p, "dk", p.k, got + 180, 11 * 2 * 5);
    check_gradient(&p, "dv", p.v, got + 180 + 110, 11 * 2 * 3);
    free(got);
    release(&p);
}

/* one query that is not a number: its row says so in every key tile, the other rows do not notice */
static void nan_here(void *context)
{
    for (int row = 3; row < 100; row += 90) {
        problem p = make(100, 100, 2, 1, 16, 16, 0, 0);
        for (int e = 0; e < 16; e++) p.q[(row * 2 + 1) * 16 + e] = NAN;
        kt_case f = forward_case(&p);
        for (int type = 0; type < 3; type++) {
            double *got = ht_run(&f, ht_reals[type], 2, false), *lse = got + 100 * 2 * 16;
            for (int at = 0; at < 200; at++) {
                assert_int_equal(isnan(got[at * 16]), at == row * 2 + 1);
                assert_int_equal(isnan(lse[at]), at == row * 2 + 1);
            }
            free(got);
        }
        release(&p);
    }
}
static void test_attention__nan_is_not_hidden(void **state) { ht_each_isa(nan_here, NULL); }

static void test_attention__refuses_heads_without_their_kv_head(void **state)
{
    problem p = make(4, 4, 4, 2, 4, 4, 0, 0);
    p.attrs.head_begin = 4; /* needs kv heads 2 and 3 */
    kt_case f = forward_case(&p);
    assert_int_equal(kt_call(&f, AM_F32, 1, false, NULL, NULL), AM_ERR_SHAPE);
    assert_non_null(strstr(am_error_message(), "kv heads 2-3"));
    release(&p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_attention__matches_torch),
        cmocka_unit_test(test_attention__matches_definition),
        cmocka_unit_test(test_attention__window_and_documents),
        cmocka_unit_test(test_attention__keys_at_the_edges_of_tiles),
        cmocka_unit_test(test_attention__softcap_and_scale),
        cmocka_unit_test(test_attention__large_scores),
        cmocka_unit_test(test_attention__rows_that_see_nothing),
        cmocka_unit_test(test_attention__heads_in_two_parts_are_the_whole),
        cmocka_unit_test(test_attention__keys_in_two_parts_join_by_lse),
        cmocka_unit_test(test_attention__shuffled_tokens_with_their_indices),
        cmocka_unit_test(test_attention__threads_change_no_bit),
        cmocka_unit_test(test_attention__pieces_in_another_order),
        cmocka_unit_test(test_attention__closed_form_of_two_keys),
        cmocka_unit_test(test_attention__workspace_grows_with_the_keys_alone),
        cmocka_unit_test(test_attention_bwd__finite_differences),
        cmocka_unit_test(test_attention__nan_is_not_hidden),
        cmocka_unit_test(test_attention__refuses_heads_without_their_kv_head),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
