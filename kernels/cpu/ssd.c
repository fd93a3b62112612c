/* ssd: the state-space recurrence of Mamba 2, forward and backward, in chunks of tokens (formulas in ssd.h,
 * bodies in ssd.inc).  Read: call → am_ssd; workspace; the phases of a chunk.  What a unit computes depends
 * on its number alone and sums over units are formed in their order, so that the number of threads changes no
 * bit. */
#include "ssd.h"

#include <omp.h>

#define AM_BODY "ssd.inc"
#include "kernels_cpu_each.h"

#define UNITS(op)                                                                                            \
    static const am_ssd_unit_fn op##_units[3][AM_ISA_COUNT] = {                                              \
        {op##_f64_portable, op##_f64_avx2, op##_f64_avx512, op##_f64_avx512},                                \
        {op##_f32_portable, op##_f32_avx2, op##_f32_avx512, op##_f32_avx512_bf16},                           \
        {op##_bf16_portable, op##_bf16_avx2, op##_bf16_avx512, op##_bf16_avx512_bf16}}
UNITS(ssd_first);
UNITS(ssd_shared);
UNITS(ssd_head);
UNITS(ssd_strip);
UNITS(ssd_shared_bwd);
AM_CPU_RANGES(ssd_sums);

/* ---- call → am_ssd ---- */

static am_status check_sizes(const am_kernel_call *c, const char *op, const am_tensor *states, am_ssd *t)
{
    am_status st = AM_OK;
    const int64_t *d = states->dim;
    AM_CHECK(t->l >= 1, AM_ERR_SHAPE, "kernel %s: chunk is %" PRId64 ", must be at least 1", op, t->l);
    AM_CHECK(t->groups > 0 && t->heads % t->groups == 0, AM_ERR_SHAPE,
             "kernel %s: %" PRId64 " heads cannot be shared out among %" PRId64 " groups", op, t->heads,
             t->groups);
    AM_CHECK(states->rank == 4 && d[0] >= t->chunks && d[1] == t->heads && d[2] == t->s && d[3] == t->p,
             AM_ERR_SHAPE,
             "kernel %s: states must be [%" PRId64 " or more, %" PRId64 ", %" PRId64 ", %" PRId64 "]", op,
             t->chunks, t->heads, t->s, t->p);
    t->per_group = t->heads / t->groups;
    t->strips = am_min_i64(t->per_group, AM_SSD_STRIPS);
    t->row_blocks = am_ceil_div(t->l, AM_SSD_ROWS);
    t->call = c;
done:
    return st;
}

static void fill_inputs(const am_kernel_call *c, int first, const am_cpu_dims *n, am_ssd *t)
{
    const am_tensor *in = c->in + first;
    *t = (am_ssd){.n = n->of['N'],
                  .heads = n->of['H'],
                  .p = n->of['p'],
                  .groups = n->of['G'],
                  .s = n->of['S'],
                  .l = c->attrs->chunk,
                  .x = &in[0],
                  .dt = &in[1],
                  .a = &in[2],
                  .b = &in[3],
                  .c = &in[4],
                  .d = &in[5],
                  .index = in[6].data,
                  .doc_start = in[7].data,
                  .backward = first > 0};
    t->chunks = t->l > 0 ? am_ceil_div(t->n, t->l) : 0;
    for (int i = 0; i < c->num_out; i++) t->out[i] = c->out[i].data;
}

static am_status fill_forward(const am_kernel_call *c, am_dtype real, am_ssd *t)
{
    am_status st = AM_OK;
    am_cpu_dims n;
    AM_TRY(am_cpu_check(c, "ssd",
                        "x:r[N,H,p] dt:p[N,H] A:p[H] B:r[N,G,S] C:r[N,G,S] D:p[H]? index:i[N] doc_start:i[N] "
                        "state:w[H,S,p]? > "
                        "y:r[N,H,p] states:w[.] state:w[H,S,p]?",
                        real, &n));
    fill_inputs(c, 0, &n, t);
    AM_TRY(check_sizes(c, "ssd", &c->out[1], t));
    t->states = c->out[1].data;
    t->state_in = c->num_in > 8 ? c->in[8].data : NULL;
    t->has_state = t->state_in != NULL;
    t->state_out = c->num_out > 2 ? c->out[2].data : NULL;
done:
    return st;
}

static am_status fill_backward(const am_kernel_call *c, am_dtype real, am_ssd *t)
{
    am_status st = AM_OK;
    am_cpu_dims n;
    AM_TRY(am_cpu_check(
        c, "ssd_bwd",
        "dy:r[N,H,p] x:r[N,H,p] dt:p[N,H] A:p[H] B:r[N,G,S] C:r[N,G,S] D:p[H]? index:i[N] doc_start:i[N] "
        "states:w[.] > dx:r[N,H,p] dB:r[N,G,S] dC:r[N,G,S] dd:w[N,3,H]",
        real, &n));
    fill_inputs(c, 1, &n, t);
    AM_TRY(check_sizes(c, "ssd_bwd", &c->in[9], t));
    t->dy = &c->in[0];
    t->states = c->in[9].data;
done:
    return st;
}

/* ---- workspace ---- */

/* What a thread needs for one head or one block of shared rows. */
static size_t scratch_bytes(const am_ssd *t, size_t real)
{
    const int64_t l = t->l, s = t->s, p = t->p;
    am_bump b = {0};
    for (int i = 0; i < 3; i++) (void)am_bump_take(&b, (size_t)l * real);
    for (int i = 0; i < 3; i++) (void)am_bump_take(&b, (size_t)(l * p) * real);
    for (int i = 0; i < (t->backward ? 3 : 1); i++) (void)am_bump_take(&b, (size_t)(l * l) * real);
    (void)am_bump_take(&b, (size_t)((l + AM_SSD_ROWS) * s + AM_SSD_ROWS * l + am_round_up(l, 32)) * real);
    (void)am_bump_take(&b, (size_t)am_ssd_panels(l, s, p) * real);
    return b.used;
}

static size_t carve(am_ssd *t, am_dtype dtype, void *base, int threads)
{
    const size_t real = am_dtype_bytes(am_cpu_wide(dtype));
    const int64_t l = t->l, s = t->s;
    am_bump b = {base, 0};
    t->g = am_bump_take(&b, (size_t)(t->groups * l * l) * real);
    void **rows[] = {&t->bf, &t->cf, &t->turned};
    for (int i = 0; i < 3; i++) *rows[i] = am_bump_take(&b, (size_t)(t->groups * l * s) * real);
    if (t->backward) {
        t->dh = am_bump_take(&b, (size_t)(t->heads * s * t->p) * real);
        t->sums = am_bump_take(&b, (size_t)(t->groups * t->strips * l * (l + 2 * s)) * real);
    }
    t->scratch_bytes = scratch_bytes(t, real);
    t->scratch = am_bump_take(&b, t->scratch_bytes * (size_t)threads);
    return b.used;
}

static size_t query(const am_kernel_call *c, int first)
{
    const am_tensor *x = &c->in[first], *b = &c->in[first + 3];
    am_ssd t = {.backward = first > 0,
                .heads = x->dim[1],
                .p = x->dim[2],
                .groups = am_max_i64(b->dim[1], 1),
                .s = b->dim[2],
                .l = c->attrs->chunk};
    t.strips = am_min_i64(am_max_i64(t.heads / t.groups, 1), AM_SSD_STRIPS);
    return carve(&t, x->dtype, NULL, c->threads);
}
static size_t forward_workspace(const am_kernel_call *c)
{
    return query(c, 0);
}
static size_t backward_workspace(const am_kernel_call *c)
{
    return query(c, 1);
}

/* ---- the phases of a chunk ---- */

typedef struct ssd_team {
    const am_ssd *t;
    am_ssd_unit_fn first, shared, heads, last;
} ssd_team;

static void phase(const ssd_team *m, am_ssd_unit_fn fn, int64_t chunk, int64_t units, int tid, int threads)
{
    char *scratch = m->t->scratch + (size_t)tid * m->t->scratch_bytes;
    for (int64_t unit = tid; unit < units; unit += threads) fn(m->t, chunk, unit, scratch);
#pragma omp barrier
}

static void team(const ssd_team *m, int tid, int threads)
{
    const am_ssd *t = m->t;
    if (!t->backward) phase(m, m->first, 0, t->heads, tid, threads);
    for (int64_t k = 0; k < t->chunks; k++) {
        const int64_t chunk = t->backward ? t->chunks - 1 - k : k;
        phase(m, m->shared, chunk, t->groups * t->row_blocks, tid, threads);
        phase(m, m->heads, chunk, t->backward ? t->groups * t->strips : t->heads, tid, threads);
        if (t->backward) phase(m, m->last, chunk, t->groups * t->row_blocks, tid, threads);
    }
}

static void run_team(const ssd_team *m, int threads)
{
    if (threads == 1) { /* libgomp asks for memory for every region of one thread */
        team(m, 0, 1);
        return;
    }
#pragma omp parallel num_threads(threads)
    team(m, omp_get_thread_num(), omp_get_num_threads());
}

static am_status run(const am_kernel_call *c, am_dtype real, bool backward)
{
    am_status st = AM_OK;
    am_ssd t;
    const int type = real == AM_F64 ? 0 : real == AM_F32 ? 1 : 2, isa = am_kernels_cpu_isa();
    AM_TRY(backward ? fill_backward(c, real, &t) : fill_forward(c, real, &t));
    const size_t need = carve(&t, real, c->workspace, c->threads);
    AM_CHECK(c->workspace_bytes >= need, AM_ERR_INTERNAL, "kernel ssd%s: workspace of %zu bytes, %zu needed",
             backward ? "_bwd" : "", c->workspace_bytes, need);
    t.simd = am_simd_get();
    ssd_team m = {&t, ssd_first_units[type][isa], ssd_shared_units[type][isa],
                  backward ? ssd_strip_units[type][isa] : ssd_head_units[type][isa],
                  ssd_shared_bwd_units[type][isa]};
    if (t.n > 0 && t.heads > 0) run_team(&m, c->threads);
done:
    return st;
}
static am_status run_forward(const am_kernel_call *c, am_dtype real)
{
    return run(c, real, false);
}
static am_status run_backward(const am_kernel_call *c, am_dtype real)
{
    return run(c, real, true);
}

static am_status run_sums(const am_kernel_call *c, am_dtype real)
{
    am_status st = AM_OK;
    am_cpu_dims n;
    AM_TRY(
        am_cpu_check(c, "ssd_sums", "dd:w[N,T,H] dt:p[N,H] A:p[H] > ddt:p[N,H] dA:w[H] dD:w[H]", real, &n));
    AM_CHECK(n.of['T'] == 3, AM_ERR_SHAPE, "kernel ssd_sums: dd must be [tokens, 3, heads]");
    am_cpu_for(c, n.of['H'], 16, 4 * n.of['N'] * (int64_t)am_dtype_bytes(am_cpu_wide(real)),
               am_cpu_pick(ssd_sums_ranges, real));
done:
    return st;
}

AM_CPU_ROW(ssd, run_forward, forward_workspace);
AM_CPU_ROW(ssd_bwd, run_backward, backward_workspace);
AM_CPU_ROW(ssd_sums, run_sums, NULL);
