/* gated_delta: what the files of the chunked linear recurrences share: gated_delta (an error-correcting
 * memory with decay) and lightning (the same without correction and with a fixed decay).
 *
 * The recurrence of one value head, a row at a time, with state S [dk, dv] (row t is the first of a document:
 * S starts at 0): S ← exp(g_t)·S;  u_t = β_t·(v_t − Sᵀ k_t);  S ← S + k_t·u_tᵀ;  o_t = Sᵀ q_t (lightning: u_t
 * = v_t) A chunk of C rows is computed at once.  With c the running sum of g within the document, P_ij =
 * exp(c_i − c_j) for j <= i of one document (else 0), e_i = exp(c_i) where the document began before the
 * chunk (else 0), f_j = P_last,j: U solves (I + β∘strict(K Kᵀ∘P))·U = β∘(V − e∘(K S));   O = e∘(Q S) + (Q
 * Kᵀ∘P)·U;   S ← e_last·S + (f∘K)ᵀ·U Every exponent is a sum of g over tokens of one document, and g <= 0, so
 * nothing overflows.  Source: Yang et al. 2024 (Gated Delta Networks), section 3.3, with the triangular
 * system solved instead of inverted.
 *
 * Chunks whose first row begins a document begin a chain: chains know nothing of each other.  A unit of work
 * is a chain of one key head with the value heads it serves; backward walks its chunks from last to first, a
 * span at a time, from the states that forward saved at the beginning of every span: what lies between is
 * computed again in the workspace. */
#ifndef AM_CPU_GATED_DELTA_H
#define AM_CPU_GATED_DELTA_H

#include "chunk_mm.h"

enum { AM_DELTA_CHUNK = 64, AM_DELTA_SPAN = 8 /* chunks */ };

typedef struct am_delta {
    int64_t n, key_heads, heads, group, dk, dv, chunks, chains;
    bool corrects; /* gated_delta; else lightning */
    bool backward;
    double scale, eps;
    const am_tensor *q, *k, *v, *g, *beta, *dout;
    const int32_t *index, *doc;
    const void *state;           /* what earlier calls left, or NULL */
    const void *saved;           /* backward: states at the beginning of spans, [spans, heads, dk, dv] */
    void *new_state, *new_saved; /* or NULL */
    const am_tensor *o, *dq, *dk_out, *dv_out, *dgb; /* dgb: gradients of g, then of beta */
    int32_t *chain;                                  /* [chains + 1]: first chunk */
    char *scratch;                                   /* of thread 0 */
    size_t scratch_bytes;
} am_delta;

typedef struct am_delta_ops {              /* what differs between the two operators */
    const char *name, *forward, *backward; /* signatures */
    bool corrects;
} am_delta_ops;

am_status am_delta_run(const am_kernel_call *call, const am_delta_ops *op, am_dtype real,
                       bool backward) AM_WARN_UNUSED;
size_t am_delta_workspace(const am_kernel_call *call, bool corrects, bool backward);

#endif
