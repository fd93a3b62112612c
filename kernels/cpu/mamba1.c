/* mamba1: the selective scan of Mamba 1, forward and backward.  Every channel has states of its own with a
 * decay of its own, so there is no product of matrices: channels lie side by side in vectors and time runs.
 * h_t = exp(dt_t·A)·h_{t−1} + dt_t·x_t·B_t, y_t = Σ_S C_t·h_t + D·x_t, h = 0 before a document's first token.
 * Channels may stand in groups one after the other, each with a B and C of its own; no vector spans two groups.
 * The states at the beginning of every chunk of tokens are kept; backward makes those within it again. Bodies
 * in mamba1.inc. */
#include "simd.h"

#include <omp.h>

#define AM_MAMBA1_STRIPS                                                                                     \
    16 /* backward: a group's channels are cut into so many, whatever the threads, each with sums of its own */
#define AM_MAMBA1_LANES  64  /* strips are cut at multiples of this */
#define AM_MAMBA1_STATES 256 /* at most, of a channel */

/* Workspace of backward. */
typedef struct am_mamba1_ws {
    void *sums; /* [groups][strips]{dB [N][S], dC [N][S]} */
    char *scratch;
    size_t scratch_bytes;
} am_mamba1_ws;

/* strips of a group */
static int mamba1_strips(int64_t channels)
{
    return (int)am_max_i64(1, am_min_i64(AM_MAMBA1_STRIPS, am_ceil_div(channels, AM_MAMBA1_LANES)));
}

/* channels are those of a group; scratch of a strip: states and decays of a chunk for one vector of channels, dB and dC of a chunk by lane,
 * dh */
static size_t mamba1_carve(am_mamba1_ws *w, void *base, int64_t tokens, int64_t groups, int64_t channels,
                           int64_t s, int64_t chunk, size_t real)
{
    am_bump b = {base, 0};
    const int64_t strips = mamba1_strips(channels);
    w->sums = am_bump_take(&b, (size_t)(groups * strips * tokens * 2 * s) * real);
    const int64_t most = am_ceil_div(am_ceil_div(channels, AM_MAMBA1_LANES), strips) *
                         AM_MAMBA1_LANES; /* channels of a strip */
    w->scratch_bytes = (size_t)am_round_up((4 * chunk * 16 + most) * s * (int64_t)real, 128);
    w->scratch = am_bump_take(&b, w->scratch_bytes * (size_t)(groups * strips));
    return b.used;
}

#define AM_BODY "mamba1.inc"
#include "kernels_cpu_each.h"

AM_CPU_RANGES(mamba1);
AM_CPU_RANGES(mamba1_bwd);
AM_CPU_RANGES(mamba1_add);
AM_CPU_RANGES(mamba1_split);

static am_status check_states(const am_kernel_call *c, const char *op, const am_tensor *states,
                              const am_cpu_dims *n)
{
    am_status st = AM_OK;
    const int64_t groups = n->of['S'] > 0 ? n->of['B'] / n->of['S'] : 0;
    AM_CHECK(groups > 0 && n->of['B'] == groups * n->of['S'] && n->of['I'] % groups == 0, AM_ERR_SHAPE,
             "kernel %s: B and C of %" PRId64 " numbers are not those of groups of the %" PRId64
             " channels with %" PRId64 " states each",
             op, n->of['B'], n->of['I'], n->of['S']);
    const int64_t l = c->attrs->chunk, chunks = l > 0 ? am_ceil_div(n->of['N'], l) : 0;
    AM_CHECK(n->of['S'] <= AM_MAMBA1_STATES, AM_ERR_SHAPE,
             "kernel %s: %" PRId64 " states a channel, %d at most", op, n->of['S'], AM_MAMBA1_STATES);
    AM_CHECK(l > 0 && states->rank == 3 && states->dim[0] >= chunks && states->dim[1] == n->of['S'] &&
                 states->dim[2] == n->of['I'],
             AM_ERR_SHAPE,
             "kernel %s: with chunks of %" PRId64 " tokens, states must be [%" PRId64 " or more, %" PRId64
             ", %" PRId64 "]",
             op, l, chunks, n->of['S'], n->of['I']);
done:
    return st;
}

static am_status run_forward(const am_kernel_call *c, am_dtype real)
{
    am_status st = AM_OK;
    am_cpu_dims n;
    AM_TRY(am_cpu_check(
        c, "mamba1",
        "x:r[N,I] dt:p[N,I] A:p[I,S] B:r[N,B] C:r[N,B] D:p[I]? index:i[N] doc_start:i[N] state:w[S,I]? > "
        "y:r[N,I] states:w[.] state:w[S,I]?",
        real, &n));
    AM_TRY(check_states(c, "mamba1", &c->out[1], &n));
    am_cpu_for(c, n.of['I'], 16, 4 * n.of['N'] * n.of['S'], am_cpu_pick(mamba1_ranges, real));
done:
    return st;
}

static size_t backward_workspace(const am_kernel_call *c)
{
    am_mamba1_ws w;
    const int64_t s = c->in[3].dim[1], groups = c->in[4].dim[1] / s;
    return mamba1_carve(&w, NULL, c->in[1].dim[0], groups, c->in[1].dim[1] / groups, s, c->attrs->chunk,
                        am_dtype_bytes(am_cpu_wide(c->in[1].dtype)));
}

static am_status run_backward(const am_kernel_call *c, am_dtype real)
{
    am_status st = AM_OK;
    am_cpu_dims n;
    AM_TRY(am_cpu_check(c, "mamba1_bwd",
                        "dy:r[N,I] x:r[N,I] dt:p[N,I] A:p[I,S] B:r[N,B] C:r[N,B] D:p[I]? index:i[N] "
                        "doc_start:i[N] states:w[.] > "
                        "dx:r[N,I] ddt:p[N,I] dBC:w[N,T,B] dAD:w[U,I]",
                        real, &n));
    AM_TRY(check_states(c, "mamba1_bwd", &c->in[9], &n));
    AM_CHECK(n.of['T'] == 2 && n.of['U'] == n.of['S'] + 1, AM_ERR_SHAPE,
             "kernel mamba1_bwd: dBC must be [tokens, 2, groups * states] and dAD [states + 1, channels]");
    AM_CHECK(c->workspace_bytes >= backward_workspace(c), AM_ERR_INTERNAL,
             "kernel mamba1_bwd: workspace of %zu bytes, %zu needed", c->workspace_bytes,
             backward_workspace(c));
    const int64_t groups = n.of['B'] / n.of['S'];
    am_cpu_for2(c, groups * mamba1_strips(n.of['I'] / groups), 1, 4 * n.of['N'] * n.of['S'] * AM_MAMBA1_LANES,
                am_cpu_pick(mamba1_bwd_ranges, real), n.of['N'], 16, am_cpu_pick(mamba1_add_ranges, real));
done:
    return st;
}

static am_status run_split(const am_kernel_call *c, am_dtype real)
{
    am_status st = AM_OK;
    am_cpu_dims n;
    AM_TRY(am_cpu_check(c, "mamba1_split", "dBC:w[N,T,B] dAD:w[U,I] > dB:r[N,B] dC:r[N,B] dA:w[I,S] dD:w[I]",
                        real, &n));
    AM_CHECK(n.of['T'] == 2 && n.of['U'] == n.of['S'] + 1, AM_ERR_SHAPE,
             "kernel mamba1_split: dBC must be [tokens, 2, groups * states] and dAD [states + 1, channels]");
    am_cpu_for(c, n.of['N'], 16, 4 * n.of['B'] * (int64_t)am_dtype_bytes(real),
               am_cpu_pick(mamba1_split_ranges, real));
done:
    return st;
}

AM_CPU_ROW(mamba1, run_forward, NULL);
AM_CPU_ROW(mamba1_bwd, run_backward, backward_workspace);
AM_CPU_ROW(mamba1_split, run_split, NULL);
