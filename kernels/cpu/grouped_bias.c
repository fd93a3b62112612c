/* grouped_bias: the gradient of an expert's bias, the sum of its rows in their order. */
#include "kernels_cpu.h"

#define AM_BODY "grouped_bias.inc"
#include "kernels_cpu_each.h"

AM_CPU_RANGES(grouped_bias_db);

static am_status run_grouped_bias_db(const am_kernel_call *c, am_dtype real)
{
    am_status st = AM_OK;
    am_cpu_dims d;
    AM_TRY(am_cpu_check(c, "grouped_bias_db", "dy:r[S,O] offsets:i[P] > db:w[E,O] +", real, &d));
    AM_CHECK(d.of['P'] == d.of['E'] + 1, AM_ERR_SHAPE,
             "kernel grouped_bias_db: %lld offsets for %lld experts", (long long)d.of['P'],
             (long long)d.of['E']);
    am_cpu_for(c, d.of['E'] * d.of['O'], 16,
               (d.of['S'] / am_max_i64(d.of['E'], 1) + 1) * (int64_t)am_dtype_bytes(real),
               am_cpu_pick(grouped_bias_db_ranges, real));
done:
    return st;
}

AM_CPU_ROW(grouped_bias_db, run_grouped_bias_db, NULL);
