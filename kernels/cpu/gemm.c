/* gemm: a product run by a thread team, in one of two ways (see am_gemm_team).  Alone: where a is read in
 * place and columns of c can be cut evenly, every thread packs the panels of b it needs itself and waits for
 * nobody. Shared: blocks of a and b are packed by all threads, then every thread computes its rectangle of the
 * block of c.  Loops of both: columns of c, rows of c, k. */
#include "simd.h"

/* Largest block; units along k (fp32 numbers or bf16 pairs). */
#define MAX_M     768
#define MAX_N     1024
#define MAX_UNITS 384
/* Alone: rows of a block, and what a thread packs of b at a time: it stays in a second-level cache of 1 MB. */
#define ALONE_M     (3 * MAX_M)
#define ALONE_UNITS (128 * 1024)

const am_simd *am_simd_get(void)
{
    switch (am_kernels_cpu_isa()) {
#ifdef __x86_64__
    case AM_ISA_AVX2: return &am_simd_avx2;
    case AM_ISA_AVX512: return &am_simd_avx512;
    case AM_ISA_AVX512_BF16: return &am_simd_avx512_bf16;
#endif
    default: return &am_simd_portable;
    }
}

/* n cut into equal blocks of at most `max`, each a multiple of granule */
static int64_t even_block(int64_t n, int64_t max, int64_t granule)
{
    int64_t blocks = am_max_i64(am_ceil_div(n, max), 1);
    return am_max_i64(am_round_up(am_ceil_div(n, blocks), granule), granule);
}

typedef struct team_plan {
    int64_t m, n, k;           /* block sizes; k in elements */
    bool pairs, direct, alone; /* kind of unit; a is read in place; see above */
    uint32_t *a, *b;           /* packed blocks */
    float *partial;            /* [m][n] sums between k-blocks when c is bf16 */
} team_plan;

/* sizes of the workspace: rows and columns of a block, of the widest panels of all instruction sets */
static int64_t room_m(int64_t m) { return am_round_up(am_min_i64(m, MAX_M), AM_SIMD_MR) + AM_SIMD_MR; }
static int64_t room_n(int64_t n)
{
    return am_round_up(am_min_i64(n, MAX_N), AM_SIMD_NR_MAX) + AM_SIMD_NR_MAX;
}

/* fp32 units bound both kinds */
size_t am_gemm_workspace(int64_t m, int64_t n, int64_t k)
{
    am_bump ws = {0};
    int64_t units = am_min_i64(k, MAX_UNITS) + 2;
    am_bump_take(&ws, (size_t)(room_m(m) * units) * 4);
    am_bump_take(&ws, (size_t)(room_n(n) * units) * 4);
    if (k > MAX_UNITS) am_bump_take(&ws, (size_t)(room_m(m) * room_n(n)) * 4);
    return ws.used;
}

/* rows × columns of threads: the cut whose largest rectangle, in panels, is smallest */
static int thread_rows(int64_t panels_m, int64_t panels_n, int threads, int64_t *least)
{
    int best = 1;
    *least = INT64_MAX;
    for (int rows = 1; rows <= threads; rows++) {
        if (threads % rows) continue;
        int64_t load = am_ceil_div(panels_m, rows) * am_ceil_div(panels_n, threads / rows);
        if (load <= *least) { /* of equals the one with most rows */
            *least = load;
            best = rows;
        }
    }
    return best;
}

/* Block sizes for threads that work alone, unless a shared block would be cut more evenly or the panels of so
 * many threads need more workspace than there is. */
static void plan_alone(const am_gemm *g, const am_simd *s, int threads, team_plan *p)
{
    int64_t units = p->pairs ? p->k / 2 : p->k, panels_m = am_ceil_div(g->m, AM_SIMD_MR), least;
    thread_rows(panels_m, am_ceil_div(g->n, s->nr), threads, &least);
    int64_t columns = am_round_up(am_ceil_div(g->n, threads), s->lanes);
    if (panels_m * (columns / s->lanes) > least * (s->nr / s->lanes)) return;
    int64_t m = even_block(g->m, ALONE_M, AM_SIMD_MR), n = ALONE_UNITS / am_max_i64(units, 1);
    n = am_min_i64(n, room_n(g->n) / threads);
    if (p->k < g->k && g->c_dtype != AM_F32) n = am_min_i64(n, room_m(g->m) * room_n(g->n) / (m * threads));
    n = n / s->nr * s->nr;
    if (n == 0) return;
    p->alone = true;
    p->m = m;
    p->n = even_block(columns, n, s->nr);
}

static team_plan plan_team(const am_gemm *g, const am_simd *s, int threads, void *workspace)
{
    bool pairs = s->pairs && g->a.dtype == AM_BF16 && (g->b.dtype == AM_BF16 || g->b.rounds);
    team_plan p = {.pairs = pairs,
                   .direct = g->a.k_contiguous && (pairs ? g->k % 2 == 0 : g->a.dtype == AM_F32),
                   .m = even_block(g->m, MAX_M, AM_SIMD_MR),
                   .n = even_block(g->n, MAX_N, s->nr)};
    p.k = even_block(g->k, pairs ? 2 * MAX_UNITS : MAX_UNITS, 2);
    if (p.direct) plan_alone(g, s, threads, &p);
    am_bump ws = {workspace, 0};
    int64_t units = pairs ? p.k / 2 : p.k, copies = p.alone ? threads : 1;
    if (!p.direct) p.a = am_bump_take(&ws, (size_t)(p.m * units) * 4);
    p.b = am_bump_take(&ws, (size_t)(copies * p.n * units) * 4);
    if (p.k < g->k && g->c_dtype != AM_F32) p.partial = am_bump_take(&ws, (size_t)(copies * p.m * p.n) * 4);
    return p;
}

static const void *element(const am_gemm_operand *o, int64_t row, int64_t k)
{
    int64_t at = o->k_contiguous ? row * o->stride + k : k * o->stride + row;
    return (const char *)o->data + (size_t)at * (o->dtype == AM_F32 ? 4 : 2);
}

static void pack_panels(const am_simd *s, const am_gemm_operand *o, bool wide, bool pairs, uint32_t *dst,
                        int64_t row, int64_t rows, int64_t k0, int64_t k)
{
    am_pack p = {.dst = dst,
                 .src = element(o, row, k0),
                 .dtype = o->dtype,
                 .rounds = o->rounds,
                 .pairs = pairs,
                 .wide = wide,
                 .k_contiguous = o->k_contiguous,
                 .stride = o->stride,
                 .valid = rows,
                 .k = k};
    s->pack(&p);
}

/* this thread's share of the panels of one operand */
static void pack_share(const am_simd *s, const am_gemm_operand *o, bool wide, bool pairs, uint32_t *dst,
                       int64_t row, int64_t rows, int64_t k0, int64_t k, int tid, int threads)
{
    int64_t begin, end, units = pairs ? (k + 1) / 2 : k;
    am_cpu_part(rows, wide ? s->nr : AM_SIMD_MR, threads, tid, &begin, &end);
    if (begin < end)
        pack_panels(s, o, wide, pairs, dst + begin * units, row + begin, end - begin, k0, k);
}

typedef struct block_at {
    int64_t i, j, k0, m, n, k;
} block_at;

/* rows [i0, i1) and columns [j0, j1) of the block of c at `at` */
static void compute(const am_simd *s, const am_gemm *g, const team_plan *p, const block_at *at, int64_t i0,
                    int64_t i1, int64_t j0, int64_t j1)
{
    int64_t units = p->pairs ? (at->k + 1) / 2 : at->k;
    if (i0 >= i1 || j0 >= j1) return;
    bool first = at->k0 == 0, last = at->k0 + at->k == g->k, direct = g->c_dtype == AM_F32;
    am_block b = {.m = i1 - i0, .n = j1 - j0, .units = units, .b = p->b + j0 * units, .pairs = p->pairs};
    b.a = p->direct ? am_direct_a(element(&g->a, at->i + i0, at->k0), g->a.stride * (p->pairs ? 2 : 4))
                    : am_packed_a(p->a + i0 * units, units);
    size_t item = direct ? 4 : 2;
    void *c = (char *)g->c + (size_t)((at->i + i0) * g->ldc + at->j + j0) * item;
    if (!direct && p->partial) {
        b.partial = p->partial + i0 * p->n + j0;
        b.ld_partial = p->n;
        b.add_partial = !first;
    }
    if (direct || last) {
        b.out = c;
        b.out_dtype = g->c_dtype;
        b.ld_out = g->ldc;
        b.add_out = direct ? (g->accumulate || !first) : g->accumulate;
        if (g->bias && last)
            b.bias = (const char *)g->bias + (size_t)(at->j + j0) * (g->bias_dtype == AM_F32 ? 4 : 2);
        b.bias_dtype = g->bias_dtype;
    }
    s->block(&b);
}

/* p: the plan with b and partial moved to this thread's part */
static void work_alone(const am_simd *s, const am_gemm *g, team_plan p, int tid, int threads)
{
    int64_t begin, end, units = p.pairs ? p.k / 2 : p.k;
    am_cpu_part(g->n, s->lanes, threads, tid, &begin, &end);
    p.b += tid * p.n * units;
    if (p.partial) p.partial += tid * p.m * p.n;
    for (int64_t j = begin; j < end; j += p.n)
        for (int64_t i = 0; i < g->m; i += p.m)
            for (int64_t k = 0; k == 0 || k < g->k; k += p.k) { /* k = 0 as well: an empty sum is stored */
                block_at at = {
                    i, j, k, am_min_i64(p.m, g->m - i), am_min_i64(p.n, end - j), am_min_i64(p.k, g->k - k)};
                if (i == 0 || p.k < g->k) pack_panels(s, &g->b, true, p.pairs, p.b, j, at.n, k, at.k);
                compute(s, g, &p, &at, 0, at.m, 0, at.n);
            }
}

/* a team of one may be a thread of a larger one, at work on a product of its own */
static void meet(int threads)
{
    if (threads == 1) return;
#pragma omp barrier
}

static void work_shared(const am_simd *s, const am_gemm *g, const team_plan *p, int tid, int threads)
{
    int64_t packed_i = -1, packed_k = -1, least, i0, i1, j0, j1;
    for (int64_t j = 0; j < g->n; j += p->n)
        for (int64_t i = 0; i < g->m; i += p->m)
            for (int64_t k = 0; k == 0 || k < g->k; k += p->k) {
                block_at at = {.i = i, .j = j, .k0 = k, .m = am_min_i64(p->m, g->m - i)};
                at.n = am_min_i64(p->n, g->n - j);
                at.k = am_min_i64(p->k, g->k - k);
                if (!p->direct && (packed_i != i || packed_k != k))
                    pack_share(s, &g->a, false, p->pairs, p->a, i, at.m, k, at.k, tid, threads);
                packed_i = i;
                packed_k = k;
                if (i == 0 || p->k < g->k)
                    pack_share(s, &g->b, true, p->pairs, p->b, j, at.n, k, at.k, tid, threads);
                int64_t panels_m = am_ceil_div(at.m, AM_SIMD_MR), panels_n = am_ceil_div(at.n, s->nr);
                int rows = thread_rows(panels_m, panels_n, threads, &least), cols = threads / rows;
                am_cpu_part(at.m, AM_SIMD_MR, rows, tid / cols, &i0, &i1);
                am_cpu_part(at.n, s->nr, cols, tid % cols, &j0, &j1);
                meet(threads);
                compute(s, g, p, &at, i0, i1, j0, j1);
                meet(threads);
            }
}

void am_gemm_team(const am_gemm *g, int tid, int threads, void *workspace)
{
    const am_simd *s = am_simd_get();
    team_plan p = plan_team(g, s, threads, workspace);
    if (!p.alone) {
        work_shared(s, g, &p, tid, threads);
        return;
    }
    work_alone(s, g, p, tid, threads);
    meet(threads);
}
