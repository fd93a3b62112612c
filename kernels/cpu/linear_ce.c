/* linear_ce: the output head and its cross-entropy without an N×V matrix.  Only supervised rows (label >= 0)
 * are worked on: they are gathered once.  The logits of all of them exist for a block of vocabulary entries
 * at a time, so that w is read once and dw written once; a block holds as many numbers as `chunk` tokens have
 * logits, at most 4 MB of fp32. Forward keeps a running maximum and sum a row; backward recomputes the logits
 * of a block, turns them into dlogits in the compute dtype, and adds the block's part to dh in fp32.
 *
 * linear_ce_grad is both at once, for a training step that knows dlogp beforehand: a chunk of rows has all its logits,
 * which give lse and target, become dlogits where they lie, and go into dh and dw: a quarter of the FLOPs of the two
 * operators is saved, for a chunk's logits of memory (256 rows: 50 MB with 49,152 entries).
 *
 * A rank that holds rows [offset, offset + V) of a vocabulary of `count` entries (attrs; 0 = all of it here)
 * gives its own lse and a target of 0 where the label is elsewhere; ranks join lse by log-sum-exp and add the
 * targets. */
#include "simd.h"

#include <math.h>
#include <omp.h>
#include <string.h>

#define BLOCK_NUMBERS (1 << 20)
#define BLOCK_COLUMNS 64 /* a block has a multiple of this */
#define DEFAULT_CHUNK 64
#define GRAD_CHUNK 256 /* rows of linear_ce_grad */

typedef enum direction { FORWARD, BACKWARD, BOTH } direction;

typedef struct ce {
    int64_t n, d, v, offset;
    double softcap;
    am_dtype real, w_dtype;
    const void *h, *w, *bias; /* bias: [V] real or NULL */
    const int32_t *labels;
    void *lse, *target; /* forward: out; backward: lse is in */
    const void *dlogp;
    void *dh, *dw, *db; /* NULL = not wanted */
    bool accumulate;
    /* workspace */
    int32_t *rows;             /* the supervised ones */
    int64_t num_rows, columns; /* columns of a block */
    int64_t chunk;             /* rows of linear_ce_grad at a time */
    int64_t stride;            /* of dlogits, elements */
    void *hs;                  /* [num_rows][d] real */
    float *logits, *max, *sum, *dhs;
    void *dlogits; /* logits itself when real is f32 */
    void *gemm;
} ce;

/* ---- workspace ----------------------------------------------------------------------------------- */

/* numbers in a block of logits */
static int64_t block_numbers(const ce *c, int64_t chunk)
{
    int64_t budget;
    if (!am_mul_i64(chunk > 0 ? chunk : DEFAULT_CHUNK, c->v, &budget)) budget = BLOCK_NUMBERS;
    budget = am_min_i64(am_min_i64(budget, BLOCK_NUMBERS), c->n * am_round_up(c->v, BLOCK_COLUMNS));
    return am_max_i64(budget, c->n * BLOCK_COLUMNS);
}

static void carve_gemm(am_bump *b, ce *c, int64_t rows, bool gradients)
{
    size_t most = am_gemm_workspace(rows, c->v, c->d);
    size_t other = gradients ? am_gemm_workspace(c->v, c->d, rows) : 0;
    if (other > most) most = other;
    other = gradients ? am_gemm_workspace(rows, c->d, c->v) : 0;
    if (other > most) most = other;
    c->gemm = am_bump_take(b, most);
}

static void carve(am_bump *b, ce *c, int64_t chunk, direction to)
{
    int64_t numbers = block_numbers(c, chunk);
    if (to == BOTH) {
        c->chunk = am_max_i64(1, am_min_i64(chunk > 0 ? chunk : GRAD_CHUNK, c->n));
        numbers = c->chunk * am_round_up(c->v, BLOCK_COLUMNS);
    }
    c->rows = am_bump_take(b, (size_t)c->n * 4);
    c->hs = am_bump_take(b, (size_t)(c->n * c->d) * 4);
    c->logits = am_bump_take(b, (size_t)numbers * 4);
    if (to == FORWARD) {
        c->max = am_bump_take(b, (size_t)c->n * 4);
        c->sum = am_bump_take(b, (size_t)c->n * 4);
    } else {
        c->dlogits = to == BOTH ? c->logits : am_bump_take(b, (size_t)numbers * 2);
        c->dhs = am_bump_take(b, (size_t)(c->n * c->d) * 4);
        if (c->real == AM_F32) c->dlogits = c->logits;
    }
    carve_gemm(b, c, to == BOTH ? c->chunk : c->n, to != FORWARD);
}

static size_t query(const am_kernel_call *call, direction to)
{
    const am_tensor *h = &call->in[0], *w = &call->in[1];
    ce c = {.d = w->dim[w->rank - 1], .v = w->dim[0], .real = AM_BF16};
    c.n = c.d > 0 ? am_tensor_elements(h) / c.d : 0;
    am_bump b = {0};
    carve(&b, &c, call->attrs ? call->attrs->chunk : 0, to);
    return b.used;
}
static size_t forward_workspace(const am_kernel_call *call) { return query(call, FORWARD); }
static size_t backward_workspace(const am_kernel_call *call) { return query(call, BACKWARD); }
static size_t both_workspace(const am_kernel_call *call) { return query(call, BOTH); }

/* ---- call → ce ----------------------------------------------------------------------------------- */

static am_status check_labels(const char *op, const ce *c, const am_attrs *a)
{
    am_status st = AM_OK;
    int64_t all = a->count ? a->count : a->offset + c->v;
    AM_CHECK(a->offset >= 0 && a->offset + c->v <= all, AM_ERR_SHAPE,
             "kernel %s: rows %" PRId64 "-%" PRId64 " of the vocabulary are outside its %" PRId64 " entries",
             op, a->offset, a->offset + c->v - 1, all);
    for (int64_t t = 0; t < c->n; t++)
        AM_CHECK(c->labels[t] < all, AM_ERR_DATA,
                 "kernel %s: label %d of token %" PRId64 " is outside the vocabulary of %" PRId64, op,
                 c->labels[t], t, all);
done:
    return st;
}

static const char *const signature[] = {
    [FORWARD] = "h:r[N,D] w:p[V,D] labels:i[N] bias:r[V]? > lse:w[N] target:w[N]",
    [BACKWARD] = "h:r[N,D] w:p[V,D] labels:i[N] lse:w[N] dlogp:w[N] bias:r[V]? > dh:r[N,D]? dw:w[V,D]? db:w[V]? +",
    [BOTH] = "h:r[N,D] w:p[V,D] labels:i[N] dlogp:w[N] > lse:w[N] target:w[N] dh:r[N,D]? dw:w[V,D]? +",
};

static am_status fill(const am_kernel_call *call, const char *op, am_dtype real, direction to, ce *c)
{
    am_status st = AM_OK;
    am_cpu_dims d;
    AM_TRY(am_cpu_check(call, op, signature[to], real, &d));
    *c = (ce){.n = d.of['N'],
              .d = d.of['D'],
              .v = d.of['V'],
              .offset = call->attrs->offset,
              .softcap = call->attrs->softcap,
              .real = real,
              .w_dtype = call->in[1].dtype,
              .h = call->in[0].data,
              .w = call->in[1].data,
              .labels = call->in[2].data,
              .accumulate = call->accumulate};
    if (to == FORWARD) c->bias = call->num_in > 3 ? call->in[3].data : NULL;
    if (to == BACKWARD) {
        c->bias = call->num_in > 5 ? call->in[5].data : NULL;
        c->db = call->num_out > 2 ? call->out[2].data : NULL;
        c->lse = call->in[3].data;
        c->dlogp = call->in[4].data;
        c->dh = call->num_out > 0 ? call->out[0].data : NULL;
        c->dw = call->num_out > 1 ? call->out[1].data : NULL;
    } else {
        c->lse = call->out[0].data;
        c->target = call->out[1].data;
    }
    if (to == BOTH) {
        c->dlogp = call->in[3].data;
        c->dh = call->out[2].data;
        c->dw = call->num_out > 3 ? call->out[3].data : NULL;
        AM_CHECK(c->softcap == 0 && (call->attrs->count == 0 || call->attrs->count == c->v), AM_ERR_SHAPE,
                 "kernel %s: a softcap, or a part of the vocabulary, takes linear_ce and linear_ce_bwd", op);
    }
    AM_TRY(check_labels(op, c, call->attrs));
done:
    return st;
}

/* ---- f64: the reference, one logit at a time, no workspace --------------------------------------- */

static double logit_f64(const ce *c, int64_t t, int64_t v, double *slope)
{
    const double *h = (const double *)c->h + t * c->d, *w = (const double *)c->w + v * c->d;
    double x = c->bias ? ((const double *)c->bias)[v] : 0;
    for (int64_t i = 0; i < c->d; i++) x += h[i] * w[i];
    double y = c->softcap != 0 ? tanh(x / c->softcap) : 0;
    *slope = 1 - y * y;
    return c->softcap != 0 ? c->softcap * y : x;
}

static void forward_f64(const ce *c, int threads)
{
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t t = 0; t < c->n; t++) {
        double top = -INFINITY, sum = 0, target = 0, slope;
        for (int64_t v = 0; v < c->v && c->labels[t] >= 0; v++) {
            double x = logit_f64(c, t, v, &slope);
            sum = x > top ? sum * exp(top - x) + 1 : sum + exp(x - top);
            top = x > top ? x : top;
            if (v + c->offset == c->labels[t]) target = x;
        }
        ((double *)c->lse)[t] = c->labels[t] >= 0 ? top + log(sum) : 0;
        ((double *)c->target)[t] = target;
    }
}

static double dlogit_f64(const ce *c, int64_t t, int64_t v)
{
    if (c->labels[t] < 0) return 0;
    double slope, x = logit_f64(c, t, v, &slope), hit = v + c->offset == c->labels[t] ? 1 : 0;
    return ((const double *)c->dlogp)[t] * (hit - exp(x - ((const double *)c->lse)[t])) * slope;
}

static void backward_f64(const ce *c, int threads)
{
    const double *h = c->h, *w = c->w;
    double *dh = c->dh, *dw = c->dw, *db = c->db;
#pragma omp parallel num_threads(threads)
    {
#pragma omp for schedule(static) nowait
        for (int64_t t = 0; t < (dh ? c->n : 0); t++) {
            memset(dh + t * c->d, 0, (size_t)c->d * 8);
            for (int64_t v = 0; v < c->v; v++) {
                double g = dlogit_f64(c, t, v);
                for (int64_t i = 0; i < c->d; i++) dh[t * c->d + i] += g * w[v * c->d + i];
            }
        }
#pragma omp for schedule(static)
        for (int64_t v = 0; v < (dw ? c->v : 0); v++) {
            if (!c->accumulate) memset(dw + v * c->d, 0, (size_t)c->d * 8);
            for (int64_t t = 0; t < c->n; t++) {
                double g = dlogit_f64(c, t, v);
                for (int64_t i = 0; i < c->d; i++) dw[v * c->d + i] += g * h[t * c->d + i];
            }
        }
#pragma omp for schedule(static)
        for (int64_t v = 0; v < (db ? c->v : 0); v++) {
            if (!c->accumulate) db[v] = 0;
            for (int64_t t = 0; t < c->n; t++) db[v] += dlogit_f64(c, t, v);
        }
    }
}

/* ---- f32 and bf16: what both directions share; run by every thread of the team
 * ------------------------------ */

static size_t item_bytes(const ce *c) { return c->real == AM_F32 ? 4 : 2; }

static void list_rows(ce *c)
{
    for (int64_t t = 0; t < c->n; t++)
        if (c->labels[t] >= 0) c->rows[c->num_rows++] = (int32_t)t;
    int64_t room = c->num_rows ? c->num_rows : 1;
    c->columns = am_max_i64(c->columns / room / BLOCK_COLUMNS * BLOCK_COLUMNS, BLOCK_COLUMNS);
    c->columns = am_min_i64(c->columns, am_round_up(c->v, BLOCK_COLUMNS));
}

static void gather(const ce *c, int64_t begin, int64_t end)
{
    size_t row = (size_t)c->d * item_bytes(c);
    for (int64_t i = begin; i < end; i++)
        memcpy((char *)c->hs + (size_t)i * row, (const char *)c->h + (size_t)c->rows[i] * row, row);
}

static am_gemm_operand operand(const ce *c, const void *data, int64_t stride, bool k_contiguous)
{
    return (am_gemm_operand){.data = data, .dtype = c->real, .stride = stride, .k_contiguous = k_contiguous};
}

/* rows of w from entry v on; fp32 is rounded to the compute dtype while it is packed */
static am_gemm_operand weights(const ce *c, int64_t v, bool k_contiguous)
{
    am_gemm_operand w = operand(c, (const char *)c->w + (size_t)(v * c->d) * am_dtype_bytes(c->w_dtype), c->d, k_contiguous);
    w.dtype = c->w_dtype;
    w.rounds = c->w_dtype != c->real;
    return w;
}

/* logits[rows][columns] of gathered rows [row, row + rows) and entries [v, v + n) */
static void logits_of(const ce *c, int64_t row, int64_t rows, int64_t v, int64_t n, int tid, int threads)
{
    const char *h = (const char *)c->hs + (size_t)(row * c->d) * item_bytes(c);
    am_gemm g = {.m = rows,
                 .n = n,
                 .k = c->d,
                 .a = operand(c, h, c->d, true),
                 .b = weights(c, v, true),
                 .bias = c->bias ? (const char *)c->bias + (size_t)v * item_bytes(c) : NULL,
                 .bias_dtype = c->real,
                 .c = c->logits,
                 .c_dtype = AM_F32,
                 .ldc = c->columns};
    am_gemm_team(&g, tid, threads, c->gemm);
}

/* ---- forward
 * -------------------------------------------------------------------------------------------------- */

static void forward_rows(const ce *c, const am_simd *s, int64_t v, int64_t n, int64_t begin, int64_t end)
{
    for (int64_t i = begin; i < end; i++) {
        float *x = c->logits + i * c->columns;
        int64_t at = c->labels[c->rows[i]] - c->offset - v;
        s->ce_row(x, n, (float)c->softcap, &c->max[i], &c->sum[i]);
        if (at >= 0 && at < n) ((float *)c->target)[c->rows[i]] = x[at];
    }
}

static void forward_team(const ce *c, const am_simd *s, int tid, int threads)
{
    int64_t begin, end;
    am_cpu_part(c->num_rows, 1, threads, tid, &begin, &end);
    gather(c, begin, end);
    for (int64_t i = begin; i < end; i++) {
        c->max[i] = -INFINITY;
        c->sum[i] = 0;
    }
#pragma omp barrier
    for (int64_t v = 0; v < c->v; v += c->columns) {
        int64_t n = am_min_i64(c->columns, c->v - v);
        logits_of(c, 0, c->num_rows, v, n, tid, threads);
        forward_rows(c, s, v, n, begin, end);
#pragma omp barrier
    }
    for (int64_t i = begin; i < end; i++) ((float *)c->lse)[c->rows[i]] = c->max[i] + logf(c->sum[i]);
}

/* ---- backward
 * --------------------------------------------------------------------------------------------------- */

static void backward_rows(const ce *c, const am_simd *s, int64_t v, int64_t n, int64_t begin, int64_t end)
{
    for (int64_t i = begin; i < end; i++) {
        int64_t t = c->rows[i], label = c->labels[t] - c->offset - v;
        void *out = (char *)c->dlogits + (size_t)(i * c->stride) * item_bytes(c);
        s->ce_grad_row(c->logits + i * c->columns, n, (float)c->softcap, ((const float *)c->lse)[t],
                       ((const float *)c->dlogp)[t], label, out, c->real);
    }
}

/* What dlogits of these rows and entries give dw and dh; dw goes on where earlier rows have been, dh where earlier entries have. */
static void gradients_of(const ce *c, int64_t row, int64_t rows, int64_t v, int64_t n, int tid, int threads)
{
    const char *h = (const char *)c->hs + (size_t)(row * c->d) * item_bytes(c);
    if (c->dw) {
        am_gemm g = {.m = n,
                     .n = c->d,
                     .k = rows,
                     .a = operand(c, c->dlogits, c->stride, false),
                     .b = operand(c, h, c->d, false),
                     .c = (float *)c->dw + v * c->d,
                     .c_dtype = AM_F32,
                     .ldc = c->d,
                     .accumulate = c->accumulate || row > 0};
        am_gemm_team(&g, tid, threads, c->gemm);
    }
    if (c->dh) {
        am_gemm g = {.m = rows,
                     .n = c->d,
                     .k = n,
                     .a = operand(c, c->dlogits, c->stride, true),
                     .b = weights(c, v, false),
                     .c = c->dhs + row * c->d,
                     .c_dtype = AM_F32,
                     .ldc = c->d,
                     .accumulate = v > 0};
        am_gemm_team(&g, tid, threads, c->gemm);
    }
}

/* The bias' gradient for entries [v, v + n): each thread adds up columns of its own, row by row. */
static void bias_gradient(const ce *c, int64_t v, int64_t n, int tid, int threads)
{
    float *db = (float *)c->db + v;
    int64_t from, to;
    am_cpu_part(n, 16, threads, tid, &from, &to);
    if (!c->accumulate && from < to) memset(db + from, 0, (size_t)(to - from) * 4);
    for (int64_t i = 0; i < c->num_rows; i++) {
        const void *row = (const char *)c->dlogits + (size_t)(i * c->stride) * item_bytes(c);
        for (int64_t j = from; j < to; j++)
            db[j] += c->real == AM_F32 ? ((const float *)row)[j] : am_bf16_to_f32(((const uint16_t *)row)[j]);
    }
}

static am_status scatter(const ce *c, int64_t begin, int64_t end)
{
    am_status st = AM_OK;
    size_t row = (size_t)c->d * item_bytes(c);
    for (int64_t i = begin; c->dh && i < end; i++)
        AM_TRY(
            am_convert(c->dhs + i * c->d, AM_F32, (char *)c->dh + (size_t)c->rows[i] * row, c->real, c->d));
done:
    return st;
}

/* This thread's supervised rows are gathered; zeros stand where no row reaches a gradient. */
static void begin_gradients(const ce *c, int tid, int threads, int64_t *begin, int64_t *end)
{
    int64_t from, to;
    am_cpu_part(c->num_rows, 1, threads, tid, begin, end);
    gather(c, *begin, *end);
    am_cpu_part(c->n, 1, threads, tid, &from, &to);
    if (c->dh)
        memset((char *)c->dh + (size_t)(from * c->d) * item_bytes(c), 0,
               (size_t)((to - from) * c->d) * item_bytes(c));
    am_cpu_part(c->v, 1, threads, tid, &from, &to);
    if (c->dw && !c->accumulate && c->num_rows == 0)
        memset((float *)c->dw + from * c->d, 0, (size_t)((to - from) * c->d) * 4);
    if (c->db && !c->accumulate && c->num_rows == 0) memset((float *)c->db + from, 0, (size_t)(to - from) * 4);
#pragma omp barrier
}

static am_status backward_team(const ce *c, const am_simd *s, int tid, int threads)
{
    int64_t begin, end;
    begin_gradients(c, tid, threads, &begin, &end);
    for (int64_t v = 0; v < c->v && c->num_rows; v += c->columns) {
        int64_t n = am_min_i64(c->columns, c->v - v);
        logits_of(c, 0, c->num_rows, v, n, tid, threads);
        backward_rows(c, s, v, n, begin, end);
#pragma omp barrier
        gradients_of(c, 0, c->num_rows, v, n, tid, threads);
        if (!c->db) continue;
        bias_gradient(c, v, n, tid, threads);
#pragma omp barrier
    }
    return scatter(c, begin, end);
}

/* ---- both ---------------------------------------------------------------------------------------- */

/* Row i of the chunk at `row`: logits → lse, target, and dlogits in their place. */
static void both_row(const ce *c, const am_simd *s, int64_t row, int64_t i)
{
    float *x = c->logits + i * c->columns;
    int64_t t = c->rows[row + i], label = c->labels[t] - c->offset;
    ((float *)c->target)[t] = x[label];
    ((float *)c->lse)[t] = s->ce_both_row(x, c->v, ((const float *)c->dlogp)[t], label, c->real);
}

static am_status both_team(const ce *c, const am_simd *s, int tid, int threads)
{
    int64_t begin, end;
    begin_gradients(c, tid, threads, &begin, &end);
    for (int64_t row = 0; row < c->num_rows; row += c->chunk) {
        int64_t rows = am_min_i64(c->chunk, c->num_rows - row), from, to;
        logits_of(c, row, rows, 0, c->v, tid, threads);
        am_cpu_part(rows, 1, threads, tid, &from, &to);
        for (int64_t i = from; i < to; i++) both_row(c, s, row, i);
#pragma omp barrier
        gradients_of(c, row, rows, 0, c->v, tid, threads);
    }
    return scatter(c, begin, end);
}

/* ---- rows ---------------------------------------------------------------------------------------- */

static am_status one_of_team(const ce *c, const am_simd *s, direction to, int tid, int threads)
{
    if (to == BACKWARD) return backward_team(c, s, tid, threads);
    if (to == BOTH) return both_team(c, s, tid, threads);
    forward_team(c, s, tid, threads);
    return AM_OK;
}

static am_status run(const am_kernel_call *call, am_dtype real, direction to)
{
    static const char *const names[] = {"linear_ce", "linear_ce_bwd", "linear_ce_grad"};
    am_status st = AM_OK;
    const char *op = names[to];
    ce c;
    AM_TRY(fill(call, op, real, to, &c));
    if (real == AM_F64) {
        if (to != BACKWARD) forward_f64(&c, call->threads);
        if (to != FORWARD) backward_f64(&c, call->threads);
        goto done;
    }
    size_t need = query(call, to);
    AM_CHECK(call->workspace && call->workspace_bytes >= need, AM_ERR_INTERNAL,
             "kernel %s: workspace of %zu bytes, needs %zu", op, call->workspace_bytes, need);
    am_bump b = {call->workspace, 0};
    carve(&b, &c, call->attrs->chunk, to);
    c.columns = block_numbers(&c, call->attrs->chunk);
    list_rows(&c);
    if (to == BOTH) c.columns = am_round_up(c.v, BLOCK_COLUMNS);
    c.stride = c.columns * (to == BOTH && real == AM_BF16 ? 2 : 1);
    if (to != BACKWARD) {
        memset(c.lse, 0, (size_t)c.n * 4);
        memset(c.target, 0, (size_t)c.n * 4);
        if (c.num_rows == 0 && to == FORWARD) goto done;
    }
    const am_simd *s = am_simd_get();
    am_status worst = AM_OK;
    if (call->threads == 1) { /* libgomp asks for memory for every region of one thread */
        worst = one_of_team(&c, s, to, 0, 1);
    } else {
#pragma omp parallel num_threads(call->threads)
        {
            am_status mine = one_of_team(&c, s, to, omp_get_thread_num(), omp_get_num_threads());
            if (mine != AM_OK) {
#pragma omp critical
                worst = mine;
            }
        }
    }
    AM_CHECK(worst == AM_OK, worst, "kernel %s: the gradient could not be converted to %s", op,
             am_dtype_name(real));
done:
    return st;
}

static am_status run_forward(const am_kernel_call *call, am_dtype real) { return run(call, real, FORWARD); }
static am_status run_backward(const am_kernel_call *call, am_dtype real) { return run(call, real, BACKWARD); }
static am_status run_both(const am_kernel_call *call, am_dtype real) { return run(call, real, BOTH); }

AM_CPU_ROW(linear_ce, run_forward, forward_workspace);
AM_CPU_ROW(linear_ce_bwd, run_backward, backward_workspace);
AM_CPU_ROW(linear_ce_grad, run_both, both_workspace);
