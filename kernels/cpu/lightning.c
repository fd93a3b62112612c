/* lightning: linear attention with a fixed decay of each head (MiniMax), forward and backward: the chunked
 * recurrence of gated_delta.c with u = v. */
#include "gated_delta.h"

static const am_delta_ops lightning = {
    "lightning",
    "q:r[N,H,d] k:r[N,H,d] v:r[N,H,e] slopes:w[H] index:i[N] doc_start:i[N] state:w[H,d,e]? > "
    "o:r[N,H,e] saved:w[S,H,d,e]? state:w[H,d,e]?",
    "do:r[N,H,e] q:r[N,H,d] k:r[N,H,d] v:r[N,H,e] slopes:w[H] index:i[N] doc_start:i[N] saved:w[S,H,d,e] > "
    "dq:r[N,H,d] dk:r[N,H,d] dv:r[N,H,e]",
    false};

static am_status run_forward(const am_kernel_call *c, am_dtype real)
{
    return am_delta_run(c, &lightning, real, false);
}
static am_status run_backward(const am_kernel_call *c, am_dtype real)
{
    return am_delta_run(c, &lightning, real, true);
}
static size_t forward_workspace(const am_kernel_call *c)
{
    return am_delta_workspace(c, false, false);
}
static size_t backward_workspace(const am_kernel_call *c)
{
    return am_delta_workspace(c, false, true);
}

AM_CPU_ROW(lightning, run_forward, forward_workspace);
AM_CPU_ROW(lightning_bwd, run_backward, backward_workspace);
