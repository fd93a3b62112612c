/* dispatch: rows between the order of the tokens and the order of the experts (route.c), both ways, with a
 * factor for each slot or without, and the gradient of those factors. */
#include "kernels_cpu.h"

#define AM_BODY "dispatch.inc"
#include "kernels_cpu_each.h"

AM_CPU_RANGES(dispatch);
AM_CPU_RANGES(slot_scale);
AM_CPU_RANGES(combine);
AM_CPU_RANGES(slot_dot);

/* S slots belong to the rows of a tensor of `elements` elements, `width` a row: a row may have several */
static am_status check_rows(const char *op, int64_t elements, int64_t width, int64_t slots)
{
    am_status st = AM_OK;
    int64_t rows = width > 0 ? elements / width : 0;
    AM_CHECK(rows > 0 && rows * width == elements && slots % rows == 0, AM_ERR_SHAPE,
             "kernel %s: %lld slots of %lld features cannot belong to a tensor of %lld elements", op,
             (long long)slots, (long long)width, (long long)elements);
done:
    return st;
}

static int64_t row_bytes(const am_cpu_dims *d, am_dtype real)
{
    return 2 * d->of['W'] * (int64_t)am_dtype_bytes(real);
}

static am_status run_dispatch(const am_kernel_call *c, am_dtype real)
{
    am_status st = AM_OK;
    am_cpu_dims d;
    AM_TRY(am_cpu_check(c, "dispatch", "x:r[X] slot:i[S] place:i[S] w:p[S]? > y:r[S,W]", real, &d));
    if (d.of['S'] == 0) goto done;
    AM_TRY(check_rows("dispatch", d.of['X'], d.of['W'], d.of['S']));
    am_cpu_for(c, d.of['S'], 1, row_bytes(&d, real), am_cpu_pick(dispatch_ranges, real));
done:
    return st;
}

static am_status run_combine(const am_kernel_call *c, am_dtype real)
{
    am_status st = AM_OK;
    am_cpu_dims d;
    AM_TRY(am_cpu_check(c, "combine", "h:r[S,W] slot:i[S] place:i[S] w:p[S]? > y:r[Y]", real, &d));
    if (d.of['S'] == 0) goto done;
    AM_TRY(check_rows("combine", d.of['Y'], d.of['W'], d.of['S']));
    int64_t rows = d.of['Y'] / d.of['W'];
    am_cpu_for(c, rows, 1, row_bytes(&d, real) * (d.of['S'] / rows), am_cpu_pick(combine_ranges, real));
done:
    return st;
}

static am_status run_slot_scale(const am_kernel_call *c, am_dtype real)
{
    am_status st = AM_OK;
    am_cpu_dims d;
    AM_TRY(am_cpu_check(c, "slot_scale", "h:r[S,W] slot:i[S] place:i[S] w:p[S] > y:r[S,W]", real, &d));
    am_cpu_for(c, d.of['S'], 1, row_bytes(&d, real), am_cpu_pick(slot_scale_ranges, real));
done:
    return st;
}

static am_status run_slot_dot(const am_kernel_call *c, am_dtype real)
{
    am_status st = AM_OK;
    am_cpu_dims d;
    AM_TRY(am_cpu_check(c, "slot_dot", "a:r[X] h:r[S,W] place:i[S] > dw:p[S]", real, &d));
    if (d.of['S'] == 0) goto done;
    AM_TRY(check_rows("slot_dot", d.of['X'], d.of['W'], d.of['S']));
    am_cpu_for(c, d.of['S'], 1, row_bytes(&d, real), am_cpu_pick(slot_dot_ranges, real));
done:
    return st;
}

AM_CPU_ROW(dispatch, run_dispatch, NULL);
AM_CPU_ROW(combine, run_combine, NULL);
AM_CPU_ROW(slot_scale, run_slot_scale, NULL);
AM_CPU_ROW(slot_dot, run_slot_dot, NULL);
