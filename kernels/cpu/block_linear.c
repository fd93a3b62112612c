/* block_linear: a block-diagonal product, each head's features by a matrix of the head's own, and its two
 * gradients: one product of linear.c's kind a head, on rows that stand apart.  f64: plain loops. */
#include "simd.h"

#include <omp.h>

typedef struct sizes {
    int64_t n, heads, i, o;
} sizes;

typedef enum product { FORWARD, DX, DW } product;

static size_t bytes_of(const am_tensor *t)
{
    return am_dtype_bytes(t->dtype);
}
static const void *element(const am_tensor *t, int64_t at)
{
    return (const char *)t->data + (size_t)at * bytes_of(t);
}

/* rows of a head in x or dy, [N, heads, width]; along: k runs over the width, else over N */
static am_gemm_operand head_rows(const am_tensor *t, const sizes *z, int64_t width, int64_t head, bool along)
{
    return (am_gemm_operand){.data = element(t, head * width),
                             .dtype = t->dtype,
                             .stride = z->heads * width,
                             .k_contiguous = along};
}

static am_gemm product_of(const am_kernel_call *c, const sizes *z, product kind, int64_t h, am_dtype real)
{
    const am_tensor *w = &c->in[1], *y = &c->out[0];
    am_gemm g = {.accumulate = c->accumulate, .c_dtype = y->dtype};
    am_gemm_operand weight = {.data = element(w, h * z->o * z->i),
                              .dtype = w->dtype,
                              .rounds = w->dtype != real,
                              .stride = z->i,
                              .k_contiguous = kind == FORWARD};
    if (kind == DW) {
        g = (am_gemm){.m = z->o,
                      .n = z->i,
                      .k = z->n,
                      .a = head_rows(&c->in[0], z, z->o, h, false),
                      .b = head_rows(&c->in[1], z, z->i, h, false),
                      .c = (char *)y->data + (size_t)(h * z->o * z->i) * bytes_of(y),
                      .c_dtype = y->dtype,
                      .ldc = z->i,
                      .accumulate = c->accumulate};
        return g;
    }
    const int64_t from = kind == FORWARD ? z->i : z->o, to = kind == FORWARD ? z->o : z->i;
    g.m = z->n;
    g.n = to;
    g.k = from;
    g.a = head_rows(&c->in[0], z, from, h, true);
    g.b = weight;
    g.c = (char *)y->data + (size_t)(h * to) * bytes_of(y);
    g.ldc = z->heads * to;
    g.bias_dtype = real;
    if (kind == FORWARD && c->num_in > 2 && c->in[2].data) g.bias = element(&c->in[2], h * to);
    return g;
}

/* Σ over k of a·b for element (row, column) of head h, whatever the product is */
static double sum_f64(const am_kernel_call *c, const sizes *z, product kind, int64_t h, int64_t row,
                      int64_t column)
{
    const double *a = c->in[0].data, *b = c->in[1].data;
    const int64_t O = z->heads * z->o, I = z->heads * z->i;
    double sum = 0;
    for (int64_t k = 0; kind == FORWARD && k < z->i; k++)
        sum += a[row * I + h * z->i + k] * b[(h * z->o + column) * z->i + k];
    for (int64_t k = 0; kind == DX && k < z->o; k++)
        sum += a[row * O + h * z->o + k] * b[(h * z->o + k) * z->i + column];
    for (int64_t k = 0; kind == DW && k < z->n; k++)
        sum += a[k * O + h * z->o + row] * b[k * I + h * z->i + column];
    return sum;
}

static void run_f64(const am_kernel_call *c, const sizes *z, product kind)
{
    const int64_t rows = kind == DW ? z->o : z->n, columns = kind == FORWARD ? z->o : z->i;
    const double *bias = kind == FORWARD && c->num_in > 2 ? c->in[2].data : NULL;
    double *y = c->out[0].data;
#pragma omp parallel for num_threads(c->threads) schedule(static)
    for (int64_t at = 0; at < z->heads * rows * columns; at++) {
        const int64_t h = at / (rows * columns), row = at / columns % rows, column = at % columns;
        double *to = kind == DW ? y + at : y + (row * z->heads + h) * columns + column;
        double sum = sum_f64(c, z, kind, h, row, column) + (bias ? bias[h * columns + column] : 0);
        *to = c->accumulate ? *to + sum : sum;
    }
}

static size_t workspace_of(const sizes *z, product kind)
{
    return kind == DW ? am_gemm_workspace(z->o, z->i, z->n)
                      : am_gemm_workspace(z->n, kind == FORWARD ? z->o : z->i, kind == FORWARD ? z->i : z->o);
}

static void team(const am_kernel_call *c, const sizes *z, product kind, am_dtype real, int tid, int threads)
{
    for (int64_t h = 0; h < z->heads; h++) {
        const am_gemm g = product_of(c, z, kind, h, real);
        am_gemm_team(&g, tid, threads, c->workspace);
    }
}

static am_status run(const am_kernel_call *c, const char *op, const char *signature, product kind,
                     am_dtype real)
{
    am_status st = AM_OK;
    am_cpu_dims d;
    AM_TRY(am_cpu_check(c, op, signature, real, &d));
    const sizes z = {d.of['N'], d.of['H'], d.of['I'], d.of['O']};
    if (real == AM_F64) {
        run_f64(c, &z, kind);
        goto done;
    }
    if (z.heads == 0 || z.i == 0 || z.o == 0 || (z.n == 0 && kind != DW)) goto done;
    AM_CHECK(c->workspace && c->workspace_bytes >= workspace_of(&z, kind), AM_ERR_INTERNAL,
             "kernel %s: workspace of %zu bytes, needs %zu", op, c->workspace_bytes, workspace_of(&z, kind));
    if (c->threads == 1) {
        team(c, &z, kind, real, 0, 1);
        goto done;
    }
#pragma omp parallel num_threads(c->threads)
    team(c, &z, kind, real, omp_get_thread_num(), omp_get_num_threads());
done:
    return st;
}

static am_status run_forward(const am_kernel_call *c, am_dtype real)
{
    return run(c, "block_linear", "x:r[N,H,I] w:p[H,O,I] bias:r[H,O]? > y:r[N,H,O]", FORWARD, real);
}
static am_status run_dx(const am_kernel_call *c, am_dtype real)
{
    return run(c, "block_linear_dx", "dy:r[N,H,O] w:p[H,O,I] > dx:r[N,H,I] +", DX, real);
}
static am_status run_dw(const am_kernel_call *c, am_dtype real)
{
    return run(c, "block_linear_dw", "dy:r[N,H,O] x:r[N,H,I] > dw:w[H,O,I] +", DW, real);
}

static size_t forward_workspace(const am_kernel_call *c)
{
    return workspace_of(&(sizes){c->in[0].dim[0], c->in[1].dim[0], c->in[1].dim[2], c->in[1].dim[1]},
                        FORWARD);
}
static size_t dx_workspace(const am_kernel_call *c)
{
    return workspace_of(&(sizes){c->in[0].dim[0], c->in[1].dim[0], c->in[1].dim[2], c->in[1].dim[1]}, DX);
}
static size_t dw_workspace(const am_kernel_call *c)
{
    return workspace_of(&(sizes){c->in[0].dim[0], c->in[0].dim[1], c->in[1].dim[2], c->in[0].dim[2]}, DW);
}

AM_CPU_ROW(block_linear, run_forward, forward_workspace);
AM_CPU_ROW(block_linear_dx, run_dx, dx_workspace);
AM_CPU_ROW(block_linear_dw, run_dw, dw_workspace);
