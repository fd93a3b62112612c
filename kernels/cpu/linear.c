/* linear: y = x·wᵀ + b and its two gradients.  f64 is the reference, plain loops; f32 and bf16 describe the
 * product to am_gemm_team (simd.h), which packs both operands into the workspace.  bf16 operands are
 * multiplied as such where the machine can, else widened to fp32 on their way into the panels. */
#include "simd.h"

#include <omp.h>

typedef struct sizes {
    int64_t n, i, o;
} sizes;

static int64_t last_dim(const am_tensor *t) { return t->rank > 0 ? t->dim[t->rank - 1] : 1; }
static int64_t leading(const am_tensor *t)
{
    int64_t n = 1;
    for (int i = 0; i + 1 < t->rank; i++) n *= t->dim[i];
    return n;
}

static am_status run_team(const am_kernel_call *call, const char *op, const am_gemm *g)
{
    am_status st = AM_OK;
    size_t need = am_gemm_workspace(g->m, g->n, g->k);
    if (g->m == 0 || g->n == 0) goto done;
    AM_CHECK(call->workspace && call->workspace_bytes >= need, AM_ERR_INTERNAL,
             "kernel %s: workspace of %zu bytes, needs %zu", op, call->workspace_bytes, need);
    if (call->threads == 1) { /* libgomp asks for memory for every region of one thread */
        am_gemm_team(g, 0, 1, call->workspace);
        goto done;
    }
#pragma omp parallel num_threads(call->threads)
    am_gemm_team(g, omp_get_thread_num(), omp_get_num_threads(), call->workspace);
done:
    return st;
}

static am_gemm_operand rows_along_k(const am_tensor *t, int64_t k)
{
    return (am_gemm_operand){.data = t->data, .dtype = t->dtype, .stride = k, .k_contiguous = true};
}
static am_gemm_operand rows_across_k(const am_tensor *t, int64_t width)
{
    return (am_gemm_operand){.data = t->data, .dtype = t->dtype, .stride = width, .k_contiguous = false};
}

/* w of a bf16 product may stand in fp32: it is rounded while it is packed */
static am_gemm_operand rounded(am_gemm_operand w, am_dtype real)
{
    w.rounds = w.dtype != real;
    return w;
}

/* ---- y = x·wᵀ + bias ----------------------------------------------------------------------------- */

static void linear_f64(const am_kernel_call *call, const sizes *z)
{
    const double *x = call->in[0].data, *w = call->in[1].data,
                 *bias = call->num_in > 2 ? call->in[2].data : NULL;
    double *y = call->out[0].data;
#pragma omp parallel for num_threads(call->threads) schedule(static)
    for (int64_t at = 0; at < z->n * z->o; at++) {
        const double *row = x + at / z->o * z->i, *col = w + at % z->o * z->i;
        double sum = 0;
        for (int64_t i = 0; i < z->i; i++) sum += row[i] * col[i];
        y[at] = sum + (bias ? bias[at % z->o] : 0);
    }
}

static am_status run_linear(const am_kernel_call *call, am_dtype real)
{
    am_status st = AM_OK;
    am_cpu_dims d;
    AM_TRY(am_cpu_check(call, "linear", "x:r[N,I] w:p[O,I] bias:r[O]? > y:r[N,O]", real, &d));
    sizes z = {d.of['N'], d.of['I'], d.of['O']};
    if (real == AM_F64) {
        linear_f64(call, &z);
        goto done;
    }
    am_gemm g = {.m = z.n,
                 .n = z.o,
                 .k = z.i,
                 .a = rows_along_k(&call->in[0], z.i),
                 .b = rounded(rows_along_k(&call->in[1], z.i), real),
                 .c = call->out[0].data,
                 .c_dtype = real,
                 .ldc = z.o,
                 .bias_dtype = real,
                 .bias = call->num_in > 2 ? call->in[2].data : NULL};
    AM_TRY(run_team(call, "linear", &g));
done:
    return st;
}

static size_t linear_workspace(const am_kernel_call *c)
{
    return am_gemm_workspace(leading(&c->in[0]), leading(&c->in[1]), last_dim(&c->in[0]));
}

/* ---- dx = dy·w ----------------------------------------------------------------------------------- */

static void linear_dx_f64(const am_kernel_call *call, const sizes *z)
{
    const double *dy = call->in[0].data, *w = call->in[1].data;
    double *dx = call->out[0].data;
#pragma omp parallel for num_threads(call->threads) schedule(static)
    for (int64_t at = 0; at < z->n * z->i; at++) {
        double sum = 0;
        for (int64_t o = 0; o < z->o; o++) sum += dy[at / z->i * z->o + o] * w[o * z->i + at % z->i];
        dx[at] = call->accumulate ? dx[at] + sum : sum;
    }
}

static am_status run_linear_dx(const am_kernel_call *call, am_dtype real)
{
    am_status st = AM_OK;
    am_cpu_dims d;
    AM_TRY(am_cpu_check(call, "linear_dx", "dy:r[N,O] w:p[O,I] > dx:r[N,I] +", real, &d));
    sizes z = {d.of['N'], d.of['I'], d.of['O']};
    if (real == AM_F64) {
        linear_dx_f64(call, &z);
        goto done;
    }
    am_gemm g = {.m = z.n,
                 .n = z.i,
                 .k = z.o,
                 .a = rows_along_k(&call->in[0], z.o),
                 .b = rounded(rows_across_k(&call->in[1], z.i), real),
                 .c = call->out[0].data,
                 .c_dtype = real,
                 .ldc = z.i,
                 .accumulate = call->accumulate};
    AM_TRY(run_team(call, "linear_dx", &g));
done:
    return st;
}

static size_t linear_dx_workspace(const am_kernel_call *c)
{
    return am_gemm_workspace(leading(&c->in[0]), last_dim(&c->in[1]), last_dim(&c->in[0]));
}

/* ---- dw = dyᵀ·x ---------------------------------------------------------------------------------- */

static void linear_dw_f64(const am_kernel_call *call, const sizes *z)
{
    const double *dy = call->in[0].data, *x = call->in[1].data;
    double *dw = call->out[0].data;
#pragma omp parallel for num_threads(call->threads) schedule(static)
    for (int64_t at = 0; at < z->o * z->i; at++) {
        double sum = 0;
        for (int64_t n = 0; n < z->n; n++) sum += dy[n * z->o + at / z->i] * x[n * z->i + at % z->i];
        dw[at] = call->accumulate ? dw[at] + sum : sum;
    }
}

static am_status run_linear_dw(const am_kernel_call *call, am_dtype real)
{
    am_status st = AM_OK;
    am_cpu_dims d;
    AM_TRY(am_cpu_check(call, "linear_dw", "dy:r[N,O] x:r[N,I] > dw:w[O,I] +", real, &d));
    sizes z = {d.of['N'], d.of['I'], d.of['O']};
    if (real == AM_F64) {
        linear_dw_f64(call, &z);
        goto done;
    }
    am_gemm g = {.m = z.o,
                 .n = z.i,
                 .k = z.n,
                 .a = rows_across_k(&call->in[0], z.o),
                 .b = rows_across_k(&call->in[1], z.i),
                 .c = call->out[0].data,
                 .c_dtype = AM_F32,
                 .ldc = z.i,
                 .accumulate = call->accumulate};
    AM_TRY(run_team(call, "linear_dw", &g));
done:
    return st;
}

static size_t linear_dw_workspace(const am_kernel_call *c)
{
    return am_gemm_workspace(last_dim(&c->in[0]), last_dim(&c->in[1]), leading(&c->in[0]));
}

AM_CPU_ROW(linear, run_linear, linear_workspace);
AM_CPU_ROW(linear_dx, run_linear_dx, linear_dx_workspace);
AM_CPU_ROW(linear_dw, run_linear_dw, linear_dw_workspace);
