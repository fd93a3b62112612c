/* kernels: the operator table that every backend implements.  One operator a file, the same names in
 * kernels/cpu and kernels/cuda.  A kernel is a pure function of its operands: it allocates nothing, keeps
 * nothing, calls no communicator; scratch memory is handed to it (its size asked beforehand).
 *
 * Legend: N tokens (B·T flattened), D model width, I/O in and out features, H query heads, K key/value heads
 * (K divides H within the whole model), d head width, F feed-forward width, V vocabulary, P ranks of a group.
 * Tensors are dense, row major, last dimension fastest.  "real" = the compute dtype (f64, f32 or bf16).
 * bf16 kernels compute in fp32 and round once at the store, to nearest even. */
#ifndef AM_KERNELS_H
#define AM_KERNELS_H

#include "base/base.h"

#define AM_MAX_RANK 4
#define AM_MAX_IN 12
#define AM_MAX_OUT 4

typedef struct am_tensor {
    void    *data; /* NULL when only shapes are asked about (workspace query) */
    am_dtype dtype;
    int      rank;
    int64_t  dim[AM_MAX_RANK];
} am_tensor;

static inline int64_t am_tensor_elements(const am_tensor *t)
{
    int64_t n = 1;
    for (int i = 0; i < t->rank; i++) n *= t->dim[i];
    return n;
}

/* activations: X(name in the card, enumerator) */
#define AM_ACT_LIST(X) X("silu", SILU) X("gelu", GELU) X("gelu_tanh", GELU_TANH) X("relu", RELU) X("relu2", RELU2) \
                       X("sigmoid", SIGMOID) X("tanh", TANH)
typedef enum am_act {
#define X(name, e) AM_ACT_##e,
    AM_ACT_LIST(X)
#undef X
    AM_ACT_COUNT
} am_act;

/* Attributes of an operator.  One flat record with named fields, so that printing and hashing are one loop.
 * X(type, name, meaning); types: f = double, i = int64_t.  0 means "off" unless said otherwise. */
#define AM_ATTR_LIST(X)                                                                       \
    X(f, eps, "added to the mean square (norms) or to sqrt(v) (AdamW)")                       \
    X(f, plus, "added to a norm's weight (Gemma: 1)")                                         \
    X(f, scale, "attention: factor of q·k; scale: the factor")                                \
    X(f, softcap, "c·tanh(x/c) on scores or logits")                                          \
    X(f, rope_factor, "attention factor multiplied into cos and sin (0 means 1)")             \
    X(f, beta1, "AdamW") X(f, beta2, "AdamW")                                                 \
    X(f, weight_decay, "AdamW, already multiplied by the group's wd_mult")                    \
    X(f, lr_mult, "AdamW: the group's factor of the learning rate (1 normally)")              \
    X(i, window, "attention: keys further back than window-1 are not seen")                   \
    X(i, act, "am_act")                                                                       \
    X(i, pairs, "rope: 1 = interleaved pairs, 0 = halves")                                    \
    X(i, inverse, "rope: 1 = rotate backwards (its gradient)")                                \
    X(i, weight_f32, "norm: 1 = multiply by the weight in fp32 before rounding")              \
    X(i, chunk, "linear_ce: tokens whose logits are held at a time")                          \
    X(i, head_begin, "attention: global index of the first query head here")                  \
    X(i, kv_begin, "attention: global index of the first kv head here")                       \
    X(i, group, "attention: query heads per kv head in the whole model (kv = global head / group)") \
    X(i, offset, "first element of the range worked on") X(i, count, "elements of the range") \
    X(i, index, "small integer operand (scalar slot, part of a split, …)")
typedef double  am_attr_f;
typedef int64_t am_attr_i;
typedef struct am_attrs {
#define X(t, name, doc) am_attr_##t name;
    AM_ATTR_LIST(X)
#undef X
} am_attrs;

/* The `scalars` region: double[AM_SCALAR_COUNT] that the host writes between steps and kernels read and write,
 * so that no host decision stands inside a step.  X(enumerator, meaning) */
#define AM_SCALAR_LIST(X)                                                                     \
    X(LR, "learning rate of this step") X(STEP, "1-based step, for AdamW's bias correction")   \
    X(INV_N, "1 / global number of supervised tokens of the step")                            \
    X(MAX_NORM, "clip at this global gradient norm; 0 = never")                               \
    X(GRAD_NORM, "out: global gradient norm before clipping")                                 \
    X(CLIP, "out: factor applied to gradients") X(SKIP, "non-zero: the optimizer changes nothing") \
    X(LOSS_SUM, "out: sum of -log p over this rank's supervised tokens of the step")          \
    X(LOSS_COUNT, "out: number of those tokens") X(SEED, "seed of dropout-like operators")
typedef enum am_scalar {
#define X(e, doc) AM_SCALAR_##e,
    AM_SCALAR_LIST(X)
#undef X
    AM_SCALAR_COUNT
} am_scalar;

typedef struct am_kernel_call {
    const am_attrs *attrs;
    int             num_in, num_out;
    am_tensor       in[AM_MAX_IN], out[AM_MAX_OUT]; /* optional operands not given have rank 0, data NULL */
    bool            accumulate; /* add into the outputs marked (acc) below instead of overwriting them */
    void           *workspace;  /* 64-byte aligned, contents undefined */
    size_t          workspace_bytes;
    int             threads; /* >= 1; a kernel opens at most one parallel region of exactly this size */
    uint64_t        id;      /* of the operator, stable over layouts and recompute: a key of counter-based randomness */
} am_kernel_call;

typedef am_status (*am_kernel_fn)(const am_kernel_call *call);
typedef size_t (*am_workspace_fn)(const am_kernel_call *shapes); /* data pointers are NULL */

typedef struct am_kernel {
    const char     *name;
    am_kernel_fn    f64, f32, bf16; /* by compute dtype; NULL = not offered */
    am_workspace_fn workspace;      /* NULL = none needed; an upper bound for all compute dtypes */
} am_kernel;

/* The operators (real = compute dtype; f32/f64/i32 fixed; with compute f64, operands marked f32* are f64).
 *
 * The w of linear, linear_dx and linear_ce*, and the table of embed, may be f32* where real is bf16: they stand for their numbers
 * rounded to bf16 (nearest even), so that a master copy needs no bf16 twin.
 *
 * name          in → out
 * embed         ids i32[N], table[V,D] → y[N,D]
 * embed_dw      dy[N,D], ids i32[N] → dtable f32*[V,D] (acc; deterministic: tokens in order)
 * linear        x[N,I], w[O,I], bias[O]? → y[N,O]                     y = x·wᵀ + bias
 * linear_dx     dy[N,O], w[O,I] → dx[N,I] (acc)
 * linear_dw     dy[N,O], x[N,I] → dw f32*[O,I] (acc)
 * bias_db       dy[N,O] → db f32*[O] (acc)
 * rmsnorm       x[M,d], w[d]? → y[M,d], rstd f32*[M]                  y = round(x·rstd)·(w+plus); weight_f32: one rounding
 * rmsnorm_dx    dy[M,d], x[M,d], w[d]?, rstd[M] → dx[M,d] (acc)
 * rmsnorm_dw    dy[M,d], x[M,d], rstd[M] → dw f32*[d] (acc)
 * rope_angles   pos i32[N], inv_freq f32*[r] → cos f32*[N,r], sin f32*[N,r]   (angles in f32*; rope_factor multiplied)
 * rope          x[N,H,d], cos[N,r], sin[N,r] → y[N,H,d]               first 2r features turned, the others copied; y may be x
 * attention     q[Nq,H,d], k[Nk,K,d], v[Nk,K,dv], q_idx i32[Nq], k_idx i32[Nk], doc_start i32[Nq] → o[Nq,H,dv], lse f32*[Nq,H]
 *               query i sees key j iff max(doc_start[i], q_idx[i]-window+1) <= k_idx[j] <= q_idx[i]; nothing else decides.
 *               A query that sees no key gives o = 0, lse = -inf.  Never holds an Nq×Nk matrix.
 * attention_bwd do[Nq,H,dv], q, k, v, o, lse, q_idx, k_idx, doc_start → dq, dk, dv
 * act           x[M] → y ;  act_bwd  dy, x → dx ;  act_mul  g, u → act(g)·u ;  act_mul_bwd  dy, g, u → dg, du
 * add           a, b → y (y may be a) ;  mul  a, b → y ;  scale  x → scale·x
 * linear_ce     h[N,D], w[V,D], labels i32[N] → lse f32*[N], target f32*[N]   logits in fp32, `chunk` tokens at a time; label < 0: both 0
 * linear_ce_bwd h, w, labels, lse, dlogp f32*[N] → dh[N,D], dw f32*[V,D] (acc applies to dw only; either output may be absent)
 *               dlogits[t,v] = dlogp[t]·(1[v = label] − softmax(v)); log p = target − lse
 *               attrs offset, count: w holds entries [offset, offset+V) of a vocabulary of count (0: of offset+V); a label that
 *               is another rank's gives target 0 here.  Parts join: lse by log-sum-exp, target and dh by adding
 * linear_ce_grad h, w, labels, dlogp f32*[N] → lse f32*[N], target f32*[N], dh[N,D], dw f32*[V,D] (acc applies to dw only; either of dh and dw may be absent)
 *               both of the above for a dlogp known beforehand, with one product less; `chunk` rows of V logits are held; no softcap
 * loss_sum      lse, target, labels, scalars f64[] → scalars (LOSS_SUM += Σ(lse−target), LOSS_COUNT += supervised), in order of t
 * loss_dlogp    labels, scalars → dlogp f32*[N]                       −INV_N where supervised, else 0
 * cast          x (any float dtype) → y (any float dtype)
 * fill          → y                                                  zeros
 * rank_sum      parts f32*[P,n] → y f32*[n] (acc)                     ((p0+p1)+p2)+…, in rank order
 * sumsq         g f32*[n] → s f64[1] (acc)                            fixed blocks of 4096 elements summed in order, independent of threads
 * clip_coef     parts f64[P], scalars → scalars (GRAD_NORM, CLIP; SKIP = 1 and CLIP = 0 when the norm is not finite)
 * adamw         scalars, g f32*[n], master, m, v f32*[n] (in/out as in[2..4] and out[0..2]) → master, m, v    torch.optim.AdamW's update;
 *               range [offset, offset+count) of each
 * gather_rows   x[N,…], rows i32[R] → y[R,…] ;  scatter_rows  x[R,…], rows i32[R] → y[N,…] (only those rows written; row < 0: skipped)
 * softcap       x[M] → y ;  softcap_bwd dy, x → dx
 */

typedef enum am_isa { AM_ISA_PORTABLE, AM_ISA_AVX2, AM_ISA_AVX512, AM_ISA_AVX512_BF16, AM_ISA_COUNT } am_isa;

/** Best instruction set of this machine, lowered by AM_ISA=portable|avx2|avx512|avx512_bf16 in the environment. */
am_isa      am_kernels_cpu_isa(void);
const char *am_isa_name(am_isa isa);
/** The row named `name` of the CPU backend for this ISA, or NULL. */
const am_kernel *am_kernels_cpu_find(const char *name);
const am_kernel *am_kernels_cpu_table(int *count);

#endif
