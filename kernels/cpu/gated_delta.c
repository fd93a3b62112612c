/* gated_delta: the gated delta rule over chunks of tokens, forward and backward, and what it shares with
 * lightning: operands, chains, workspace.  Body in gated_delta.inc, compiled here for both. */
#include "gated_delta.h"

#include <omp.h>

#define AM_BODY "gated_delta.inc"
#include "kernels_cpu_each.h"

AM_CPU_RANGES(delta);

/* ---- operands ---------------------------------------------------------------------------------------------
 */

/* gated_delta: q k v g beta index doc_start state? > o saved? state?;  with do in front, saved > dq dk dv dgb
 * lightning:   q k v slopes index doc_start state? > o saved? state?;  with do in front, saved > dq dk dv */
static void bind(const am_kernel_call *c, bool corrects, bool backward, am_delta *t)
{
    const am_tensor *in = c->in + backward, *rest = in + (corrects ? 5 : 4);
    *t = (am_delta){.n = in[0].dim[0],
                    .key_heads = in[0].dim[1],
                    .heads = in[2].dim[1],
                    .dk = in[0].dim[2],
                    .dv = in[2].dim[2],
                    .corrects = corrects,
                    .backward = backward,
                    .eps = c->attrs->eps,
                    .scale = c->attrs->scale,
                    .q = &in[0],
                    .k = &in[1],
                    .v = &in[2],
                    .g = &in[3],
                    .index = rest[0].data,
                    .doc = rest[1].data};
    if (corrects) t->beta = &in[4];
    t->group = t->key_heads ? t->heads / t->key_heads : 0;
    t->chunks = am_ceil_div(t->n, AM_DELTA_CHUNK);
    const int given = (int)(rest - c->in) + 2;
    if (backward) {
        t->dout = &c->in[0];
        t->saved = rest[2].data;
        t->dq = &c->out[0];
        t->dk_out = &c->out[1];
        t->dv_out = &c->out[2];
        if (corrects) t->dgb = &c->out[3];
        return;
    }
    t->o = &c->out[0];
    if (c->num_in > given) t->state = rest[2].data;
    if (c->num_out > 1) t->new_saved = c->out[1].data;
    if (c->num_out > 2) t->new_state = c->out[2].data;
}

static am_status check(const am_delta *t, const am_kernel_call *c, const char *op)
{
    am_status st = AM_OK;
    AM_CHECK(t->key_heads > 0 && t->heads % t->key_heads == 0, AM_ERR_SHAPE,
             "kernel %s: %" PRId64 " value heads cannot be divided among %" PRId64 " key heads", op, t->heads,
             t->key_heads);
    const am_tensor *saved = t->backward ? &c->in[c->num_in - 1] : c->num_out > 1 ? &c->out[1] : NULL;
    int64_t spans = am_ceil_div(t->chunks, AM_DELTA_SPAN);
    AM_CHECK(!t->dgb || (t->dgb->dim[0] == 2 && t->dgb->dim[1] >= t->n), AM_ERR_SHAPE,
             "kernel %s: dgb holds [%" PRId64 ", %" PRId64 ", …] numbers, needs 2 for each of %" PRId64
             " tokens",
             op, t->dgb->dim[0], t->dgb->dim[1], t->n);
    AM_CHECK(!saved || !saved->data || saved->dim[0] >= spans, AM_ERR_SHAPE,
             "kernel %s: room for the states of %" PRId64 " spans of %d tokens, there are %" PRId64, op,
             saved->dim[0], AM_DELTA_CHUNK * AM_DELTA_SPAN, spans);
done:
    return st;
}

/* ---- workspace --------------------------------------------------------------------------------------------
 */

static size_t scratch_of(const am_delta *t, am_dtype real)
{
    am_bump b = {0};
    if (real == AM_F64)
        carve_f64_portable(&b, t, &(work_f64_portable){0});
    else
        carve_f32_portable(&b, t, &(work_f32_portable){0});
    return b.used;
}

/* the record itself, the chains, a scratch for each thread */
static size_t layout(am_delta *t, am_dtype real, int threads, char *base)
{
    am_bump b = {.base = base};
    (void)am_bump_take(&b, sizeof *t);
    t->chain = am_bump_take(&b, (size_t)(t->chunks + 1) * sizeof *t->chain);
    t->scratch_bytes = scratch_of(t, real);
    t->scratch = am_bump_take(&b, t->scratch_bytes * (size_t)threads);
    return b.used;
}

size_t am_delta_workspace(const am_kernel_call *c, bool corrects, bool backward)
{
    am_delta t;
    bind(c, corrects, backward, &t);
    return layout(&t, t.q->dtype, c->threads, NULL);
}

/* A chain begins with the first chunk and with each whose first row begins a document; one only where a state
 * goes through. */
static void find_chains(am_delta *t)
{
    for (int64_t c = 0; c < t->chunks; c++) {
        const int64_t row = c * AM_DELTA_CHUNK;
        if (c == 0 || (!t->new_state && t->doc[row] >= t->index[row])) t->chain[t->chains++] = (int32_t)c;
    }
    t->chain[t->chains] = (int32_t)t->chunks;
}

/* ---- rows -------------------------------------------------------------------------------------------------
 */

am_status am_delta_run(const am_kernel_call *c, const am_delta_ops *op, am_dtype real, bool backward)
{
    am_status st = AM_OK;
    am_cpu_dims dims;
    am_delta t;
    AM_TRY(am_cpu_check(c, op->name, backward ? op->backward : op->forward, real, &dims));
    bind(c, op->corrects, backward, &t);
    AM_TRY(check(&t, c, op->name));
    size_t need = layout(&t, real, c->threads, c->workspace);
    AM_CHECK(c->workspace && c->workspace_bytes >= need, AM_ERR_INTERNAL,
             "kernel %s: workspace of %zu bytes, needs %zu", op->name, c->workspace_bytes, need);
    if (t.scale == 0) t.scale = op->corrects ? 1 / sqrt((double)t.dk) : 1;
    find_chains(&t);
    memcpy(c->workspace, &t, sizeof t);
    if (t.n > 0)
        am_cpu_for(c, t.key_heads * t.chains, 1,
                   t.group * t.dk * t.dv * am_ceil_div(t.chunks, t.chains) *
                       (int64_t)am_dtype_bytes(am_cpu_wide(real)),
                   am_cpu_pick(delta_ranges, real));
done:
    return st;
}

static const am_delta_ops gated_delta = {
    "gated_delta",
    "q:r[N,K,d] k:r[N,K,d] v:r[N,H,e] g:p[N,H] beta:p[N,H] index:i[N] doc_start:i[N] state:w[H,d,e]? > "
    "o:r[N,H,e] saved:w[S,H,d,e]? state:w[H,d,e]?",
    "do:r[N,H,e] q:r[N,K,d] k:r[N,K,d] v:r[N,H,e] g:p[N,H] beta:p[N,H] index:i[N] doc_start:i[N] "
    "saved:w[S,H,d,e] > "
    "dq:r[N,K,d] dk:r[N,K,d] dv:r[N,H,e] dgb:w[t,M,H]",
    true};

static am_status run_forward(const am_kernel_call *c, am_dtype real)
{
    return am_delta_run(c, &gated_delta, real, false);
}
static am_status run_backward(const am_kernel_call *c, am_dtype real)
{
    return am_delta_run(c, &gated_delta, real, true);
}
static size_t forward_workspace(const am_kernel_call *c)
{
    return am_delta_workspace(c, true, false);
}
static size_t backward_workspace(const am_kernel_call *c)
{
    return am_delta_workspace(c, true, true);
}

AM_CPU_ROW(gated_delta, run_forward, forward_workspace);
AM_CPU_ROW(gated_delta_bwd, run_backward, backward_workspace);
