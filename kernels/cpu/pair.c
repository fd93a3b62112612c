/* pair: operators of two or three operands that may lack dimensions of their result: y = a ∘ b, y = c ? a : b; and sum_to, the
 * sum over the dimensions an operand lacks, which is what their gradients come to.  Bodies in pair.inc. */
#include "columns.h"
#include "nest.h"

#define AM_BODY "pair.inc"
#include "kernels_cpu_each.h"

AM_CPU_RANGES(pair);
AM_CPU_RANGES(where);
AM_CPU_RANGES(sum_to);
AM_CPU_RANGES(sum_to_finish);
AM_CPU_RANGES(sum_none);

static bool present(const am_tensor *t)
{
    return t->rank > 0;
}

static am_status check_elements(const am_kernel_call *c, const char *op, const am_nest *t, const am_tensor *const *x, int num)
{
    am_status st = AM_OK;
    (void)c;
    for (int o = 0; o < num; o++)
        AM_CHECK(!x[o] || !present(x[o]) || am_tensor_elements(x[o]) == t->elements[o], AM_ERR_SHAPE,
                 "kernel %s: an operand has %lld elements where its dimensions make %lld", op,
                 (long long)am_tensor_elements(x[o]), (long long)t->elements[o]);
done:
    return st;
}

static am_status run_pair(const am_kernel_call *c, am_dtype real)
{
    am_status st = AM_OK;
    am_cpu_dims dims;
    AM_TRY(am_cpu_check(c, "pair", "a:r[A] b:r[B]? > y:r[M]", real, &dims));
    const am_nest t = pair_nest(c);
    AM_TRY(check_elements(c, "pair", &t, (const am_tensor *[]){&c->in[0], c->num_in > 1 ? &c->in[1] : NULL}, 2));
    AM_CHECK(c->attrs->pair >= 0 && c->attrs->pair < AM_PAIR_COUNT && (c->num_in > 1 || c->attrs->pair == AM_PAIR_FIRST),
             AM_ERR_INTERNAL, "kernel pair: no function %lld of these operands", (long long)c->attrs->pair);
    am_cpu_for(c, dims.of['M'], 64, 3 * (int64_t)am_dtype_bytes(real), am_cpu_pick(pair_ranges, real));
done:
    return st;
}

static am_status run_where(const am_kernel_call *c, am_dtype real)
{
    am_status st = AM_OK;
    am_cpu_dims dims;
    AM_TRY(am_cpu_check(c, "where", "c:r[C] a:r[A]? b:r[B]? > y:r[M]", real, &dims));
    const am_nest t = where_nest(c);
    AM_TRY(check_elements(c, "where", &t,
                          (const am_tensor *[]){&c->in[0], c->num_in > 1 ? &c->in[1] : NULL, c->num_in > 2 ? &c->in[2] : NULL}, 3));
    am_cpu_for(c, dims.of['M'], 64, 4 * (int64_t)am_dtype_bytes(real), am_cpu_pick(where_ranges, real));
done:
    return st;
}

/* items of the first loop: of a kept one by itself, of one summed over in blocks */
static int64_t sum_rows(const am_nest *t)
{
    return t->stride[0][0] ? 1 : am_cpu_blocks(t->size[0]);
}

static size_t sum_to_workspace(const am_kernel_call *c)
{
    const am_nest t = sum_nest(c);
    return (size_t)(sum_rows(&t) * t.elements[0]) * (c->in[0].dtype == AM_F64 ? 8 : 4);
}

static am_status run_sum_to(const am_kernel_call *c, am_dtype real)
{
    am_status st = AM_OK;
    am_cpu_dims dims;
    AM_TRY(am_cpu_check(c, "sum_to", "dy:r[M] b:r[B]? > da:p[A] +", real, &dims));
    const am_nest t = sum_nest(c);
    AM_TRY(check_elements(c, "sum_to", &t, (const am_tensor *[]){&c->out[0], c->num_in > 1 ? &c->in[1] : NULL}, 2));
    AM_CHECK(!c->accumulate || c->out[0].dtype == am_cpu_wide(real), AM_ERR_INTERNAL, "kernel sum_to adds to f32 alone");
    AM_CHECK(c->workspace_bytes >= sum_to_workspace(c), AM_ERR_INTERNAL, "kernel sum_to: workspace of %zu bytes, %zu needed",
             c->workspace_bytes, sum_to_workspace(c));
    const int64_t all = am_tensor_elements(&c->in[0]), bytes = (int64_t)am_dtype_bytes(real);
    if (t.loops == 1 && t.stride[0][0] && c->num_in < 2)
        am_cpu_for(c, all, 64, 2 * bytes, am_cpu_pick(sum_none_ranges, real));
    else if (t.stride[0][0])
        am_cpu_for(c, t.size[0], 1, all / am_max_i64(t.size[0], 1) * bytes, am_cpu_pick(sum_to_ranges, real));
    else
        am_cpu_for2(c, sum_rows(&t), 1, all / sum_rows(&t) * bytes, am_cpu_pick(sum_to_ranges, real), t.elements[0], 64,
                    am_cpu_pick(sum_to_finish_ranges, real));
done:
    return st;
}

AM_CPU_ROW(pair, run_pair, NULL);
AM_CPU_ROW(where, run_where, NULL);
AM_CPU_ROW(sum_to, run_sum_to, sum_to_workspace);
