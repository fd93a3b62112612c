/* grouped_linear: y = x·wᵀ + b by expert, and its gradients.  Rows of x stand sorted by expert; offsets[e] …
 * offsets[e+1] are those of expert e.
 *
 * The columns of all experts' products are laid end to end, each weighted by the expert's rows, and cut into
 * as many equal pieces as there are threads: an expert with few rows keeps no thread waiting, one with many
 * is worked on by several.  A piece is a product of one thread (am_gemm_team with a team of one), whose
 * elements do not depend on where it was cut. */
#include "simd.h"

#include <omp.h>
#include <string.h>

#define COLUMNS    512 /* columns of a piece at a time: bounds the workspace of a thread */
#define PANEL_ROWS 24  /* to fetch and pack a column of a weight takes about as long as so many rows of its product */

typedef enum kind { FORWARD, DX, DW } kind;

typedef struct grouped {
    const am_kernel_call *call;
    kind kind; /* of product */
    am_dtype real;
    int64_t slots, experts, in, out;
    const int32_t *offsets;
} grouped;

/* ---- one expert's product ------------------------------------------------------------------------- */

static am_gemm_operand operand(const am_tensor *t, int64_t first, int64_t stride, bool k_contiguous)
{
    return (am_gemm_operand){.data = (const char *)t->data + (size_t)first * am_dtype_bytes(t->dtype),
                             .dtype = t->dtype,
                             .stride = stride,
                             .k_contiguous = k_contiguous};
}

static void *result(const am_tensor *t, int64_t first)
{
    return (char *)t->data + (size_t)first * am_dtype_bytes(t->dtype);
}

static am_gemm expert_product(const grouped *p, int64_t e)
{
    const am_kernel_call *c = p->call;
    int64_t first = p->offsets[e], rows = p->offsets[e + 1] - first, weight = e * p->out * p->in;
    am_gemm g = {.accumulate = c->accumulate, .c_dtype = c->out[0].dtype};
    if (p->kind == DW) {
        g.m = p->out, g.n = p->in, g.k = rows;
        g.a = operand(&c->in[0], first * p->out, p->out, false);
        g.b = operand(&c->in[1], first * p->in, p->in, false);
        g.c = result(&c->out[0], weight);
        g.ldc = p->in;
        return g;
    }
    bool forward = p->kind == FORWARD;
    g.m = rows, g.n = forward ? p->out : p->in, g.k = forward ? p->in : p->out;
    g.a = operand(&c->in[0], first * g.k, g.k, true);
    g.b = operand(&c->in[1], weight, p->in, forward);
    g.b.rounds = g.b.dtype != p->real;
    g.c = result(&c->out[0], first * g.n);
    g.ldc = g.n;
    if (forward && c->num_in > 3 && c->in[3].rank > 0) {
        g.bias = result(&c->in[3], e * p->out);
        g.bias_dtype = c->in[3].dtype;
    }
    return g;
}

/* columns [j0, j1) of the product */
static void run_columns(const am_gemm *g, int64_t j0, int64_t j1, void *workspace)
{
    for (int64_t j = j0; j < j1; j += COLUMNS) {
        am_gemm part = *g;
        part.n = am_min_i64(COLUMNS, j1 - j);
        part.b.data = (const char *)g->b.data +
                      (size_t)(j * (g->b.k_contiguous ? g->b.stride : 1)) * am_dtype_bytes(g->b.dtype);
        part.c = (char *)g->c + (size_t)j * am_dtype_bytes(g->c_dtype);
        if (g->bias) part.bias = (const char *)g->bias + (size_t)j * am_dtype_bytes(g->bias_dtype);
        am_gemm_team(&part, 0, 1, workspace);
    }
}

/* ---- the cut ----------------------------------------------------------------------------------------- */

/* what a column of expert e's product costs, in rows */
static int64_t column_cost(const grouped *p, int64_t e)
{
    int64_t rows = p->offsets[e + 1] - p->offsets[e];
    return rows > 0 || p->kind == DW ? rows + PANEL_ROWS : 0;
}

/* columns that are cut as one: whole panels where there are plenty */
static int64_t granule(const grouped *p, int64_t n, int threads)
{
    const am_simd *s = am_simd_get();
    return p->experts * n >= 16 * (int64_t)threads * s->nr ? s->nr : s->lanes;
}

/* first grain of an expert at or after `at` of the line; the expert's grains begin at `base` */
static int64_t grain_at(int64_t at, int64_t base, int64_t cost, int64_t grains)
{
    return at <= base ? 0 : am_min_i64(grains, am_ceil_div(at - base, cost));
}

static void clear_tail(const grouped *p, int tid, int threads)
{
    const am_tensor *y = &p->call->out[0];
    size_t row = (size_t)y->dim[1] * am_dtype_bytes(y->dtype);
    int64_t used = p->offsets[p->experts], begin, end;
    am_cpu_part(p->slots - used, 1, threads, tid, &begin, &end);
    if (begin < end) memset((char *)y->data + (size_t)(used + begin) * row, 0, (size_t)(end - begin) * row);
}

static void run_thread(const grouped *p, int tid, int threads, void *workspace)
{
    const int64_t n = p->kind == FORWARD ? p->out : p->in, wide = granule(p, n, threads),
                  grains = am_ceil_div(n, wide);
    int64_t total = 0, base = 0;
    for (int64_t e = 0; e < p->experts; e++) total += column_cost(p, e) * grains;
    const int64_t lo = total * tid / threads, hi = total * (tid + 1) / threads;
    for (int64_t e = 0; e < p->experts; e++) {
        int64_t cost = column_cost(p, e);
        if (cost == 0) continue;
        int64_t from = grain_at(lo, base, cost, grains), to = grain_at(hi, base, cost, grains);
        base += cost * grains;
        if (from >= to) continue;
        am_gemm g = expert_product(p, e);
        run_columns(&g, from * wide, am_min_i64(n, to * wide), workspace);
    }
    if (p->kind != DW && !p->call->accumulate) clear_tail(p, tid, threads);
}

static size_t thread_workspace(int64_t m, int64_t n, int64_t k)
{
    return am_gemm_workspace(m, am_min_i64(n, COLUMNS), k);
}

static am_status run_threads(const char *op, const grouped *p)
{
    am_status st = AM_OK;
    const am_kernel_call *c = p->call;
    int64_t n = p->kind == FORWARD ? p->out : p->in, m = p->kind == DW ? p->out : p->slots;
    size_t each = thread_workspace(m, n, p->kind == DW ? p->slots : p->kind == DX ? p->out : p->in);
    AM_CHECK(c->workspace_bytes >= each * (size_t)c->threads, AM_ERR_INTERNAL,
             "kernel %s: workspace of %zu bytes, needs %zu", op, c->workspace_bytes,
             each * (size_t)c->threads);
    if (c->threads == 1) { /* libgomp asks for memory for every region of one thread */
        run_thread(p, 0, 1, c->workspace);
        goto done;
    }
#pragma omp parallel num_threads(c->threads)
    run_thread(p, omp_get_thread_num(), omp_get_num_threads(),
               (char *)c->workspace + (size_t)omp_get_thread_num() * each);
done:
    return st;
}

/* ---- fp64: the reference, plain loops ------------------------------------------------------------------ */

static int64_t expert_of(const grouped *p, int64_t slot)
{
    int64_t e = 0;
    while (e < p->experts && slot >= p->offsets[e + 1]) e++;
    return e;
}

static void forward_f64(const grouped *p)
{
    const am_kernel_call *c = p->call;
    const double *x = c->in[0].data, *w = c->in[1].data, *bias = c->num_in > 3 ? c->in[3].data : NULL;
#pragma omp parallel for num_threads(c->threads) schedule(static)
    for (int64_t s = 0; s < p->slots; s++) {
        int64_t e = expert_of(p, s);
        for (int64_t o = 0; o < p->out; o++) {
            double sum = 0;
            for (int64_t i = 0; e < p->experts && i < p->in; i++)
                sum += x[s * p->in + i] * w[(e * p->out + o) * p->in + i];
            ((double *)c->out[0].data)[s * p->out + o] =
                sum + (bias && e < p->experts ? bias[e * p->out + o] : 0);
        }
    }
}

static void dx_f64(const grouped *p)
{
    const am_kernel_call *c = p->call;
    const double *dy = c->in[0].data, *w = c->in[1].data;
#pragma omp parallel for num_threads(c->threads) schedule(static)
    for (int64_t s = 0; s < p->slots; s++) {
        int64_t e = expert_of(p, s);
        for (int64_t i = 0; i < p->in; i++) {
            double sum = 0, *dx = (double *)c->out[0].data + s * p->in + i;
            for (int64_t o = 0; e < p->experts && o < p->out; o++)
                sum += dy[s * p->out + o] * w[(e * p->out + o) * p->in + i];
            *dx = c->accumulate ? *dx + sum : sum;
        }
    }
}

static void dw_f64(const grouped *p)
{
    const am_kernel_call *c = p->call;
    const double *dy = c->in[0].data, *x = c->in[1].data;
#pragma omp parallel for num_threads(c->threads) schedule(static)
    for (int64_t row = 0; row < p->experts * p->out; row++) {
        const int64_t e = row / p->out, o = row % p->out;
        for (int64_t i = 0; i < p->in; i++) {
            double sum = 0, *dw = (double *)c->out[0].data + row * p->in + i;
            for (int64_t s = p->offsets[e]; s < p->offsets[e + 1]; s++)
                sum += dy[s * p->out + o] * x[s * p->in + i];
            *dw = c->accumulate ? *dw + sum : sum;
        }
    }
}

/* ---- rows ------------------------------------------------------------------------------------------- */

static am_status check_offsets(const char *op, const int32_t *offsets, int64_t experts, int64_t slots)
{
    am_status st = AM_OK;
    bool rising = offsets[0] == 0 && offsets[experts] <= slots;
    for (int64_t e = 0; e < experts; e++) rising = rising && offsets[e] <= offsets[e + 1];
    AM_CHECK(rising, AM_ERR_INTERNAL,
             "kernel %s: the offsets of %lld experts do not rise from 0 to at most %lld", op,
             (long long)experts, (long long)slots);
done:
    return st;
}

static am_status run(const am_kernel_call *call, const char *op, const char *signature, kind which,
                     am_dtype real)
{
    static void (*const plain[])(const grouped *) = {forward_f64, dx_f64, dw_f64};
    am_status st = AM_OK;
    am_cpu_dims d;
    AM_TRY(am_cpu_check(call, op, signature, real, &d));
    AM_CHECK(d.of['P'] == d.of['E'] + 1, AM_ERR_SHAPE, "kernel %s: %lld offsets for %lld experts", op,
             (long long)d.of['P'], (long long)d.of['E']);
    grouped p = {.call = call,
                 .kind = which,
                 .real = real,
                 .slots = d.of['S'],
                 .experts = d.of['E'],
                 .in = d.of['I'],
                 .out = d.of['O'],
                 .offsets = call->in[2].data};
    AM_TRY(check_offsets(op, p.offsets, p.experts, p.slots));
    if (real == AM_F64)
        plain[which](&p);
    else
        AM_TRY(run_threads(op, &p));
done:
    return st;
}

static am_status run_forward(const am_kernel_call *c, am_dtype real)
{
    return run(c, "grouped_linear", "x:r[S,I] w:p[E,O,I] offsets:i[P] bias:r[E,O]? > y:r[S,O]", FORWARD,
               real);
}
static am_status run_dx(const am_kernel_call *c, am_dtype real)
{
    return run(c, "grouped_linear_dx", "dy:r[S,O] w:p[E,O,I] offsets:i[P] > dx:r[S,I] +", DX, real);
}
static am_status run_dw(const am_kernel_call *c, am_dtype real)
{
    return run(c, "grouped_linear_dw", "dy:r[S,O] x:r[S,I] offsets:i[P] > dw:w[E,O,I] +", DW, real);
}

static size_t forward_workspace(const am_kernel_call *c)
{
    return (size_t)c->threads * thread_workspace(c->in[0].dim[0], c->out[0].dim[1], c->in[0].dim[1]);
}
static size_t dw_workspace(const am_kernel_call *c)
{
    return (size_t)c->threads * thread_workspace(c->in[0].dim[1], c->in[1].dim[1], c->in[0].dim[0]);
}

AM_CPU_ROW(grouped_linear, run_forward, forward_workspace);
AM_CPU_ROW(grouped_linear_dx, run_dx, forward_workspace);
AM_CPU_ROW(grouped_linear_dw, run_dw, dw_workspace);
