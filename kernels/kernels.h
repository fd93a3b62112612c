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
#define AM_MAX_IN 14
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
                       X("sigmoid", SIGMOID) X("tanh", TANH) X("quick_gelu", QUICK_GELU) X("relu6", RELU6) \
                       X("leaky_relu", LEAKY_RELU) X("mish", MISH) X("laplace", LAPLACE)
typedef enum am_act {
#define X(name, e) AM_ACT_##e,
    AM_ACT_LIST(X)
#undef X
    AM_ACT_COUNT
} am_act;

/* functions of one number: X(name in the card or "", enumerator).  affine: scale·x + shift; reciprocal: scale / x; clamp: within
 * [low, high]; comparisons with shift give 1 or 0 */
#define AM_MAP_LIST(X) X("exp", EXP) X("log", LOG) X("log1p", LOG1P) X("expm1", EXPM1) X("sqrt", ROOT) X("rsqrt", RSQRT) \
                       X("abs", ABS) X("floor", FLOOR) X("softplus", SOFTPLUS) X("square", SQUARE) X("clamp", CLAMP) \
                       X("", AFFINE) X("", RECIPROCAL) X("", LT) X("", LE) X("", GT) X("", GE) X("", EQ) X("", NE)
typedef enum am_map {
#define X(name, e) AM_MAP_##e,
    AM_MAP_LIST(X)
#undef X
    AM_MAP_COUNT
} am_map;

/* functions of two: comparisons give 1 or 0; FIRST is the first one, repeated */
#define AM_PAIR_LIST(X) X(ADD) X(SUB) X(MUL) X(DIV) X(LT) X(LE) X(EQ) X(FIRST)
typedef enum am_pair {
#define X(e) AM_PAIR_##e,
    AM_PAIR_LIST(X)
#undef X
    AM_PAIR_COUNT
} am_pair;

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
    X(f, alibi_scale, "attention: factor of the slopes' biases (0 means 1)")                  \
    X(i, alibi_rounded, "attention: 1 = slope, position and product are rounded to bf16")     \
    X(i, key_block, "attention, index_keys: keys that are listed together (0 means 1)")       \
    X(i, local, "index_keys: blocks up to the query's own that are always listed")            \
    X(i, act, "am_act")                                                                       \
    X(i, pairs, "rope: 1 = interleaved pairs, 0 = halves")                                    \
    X(i, inverse, "rope: 1 = rotate backwards (its gradient)")                                \
    X(i, weight_f32, "norm: 1 = multiply by the weight in fp32 before rounding")              \
    X(i, chunk, "linear_ce: tokens whose logits are held at a time; scans: tokens between saved states; attention: positions that see each other") \
    X(i, head_begin, "attention: global index of the first query head here")                  \
    X(i, kv_begin, "attention: global index of the first kv head here")                       \
    X(i, group, "attention: query heads per kv head in the whole model (kv = global head / group)") \
    X(i, offset, "first element of the range worked on; embed, rope_angles: added to the ids, the positions") X(i, count, "elements of the range") \
    X(i, map, "am_map") X(i, pair, "am_pair")                                                 \
    X(f, low, "clamp: least; where: the value where c is not 0, for no operand") X(f, high, "clamp: most; where: … where c is 0") \
    X(f, shift, "map: what is added to, or compared with")                                    \
    X(i, a_dims, "bit k: the first operand has dimension k of the whole") X(i, b_dims, "… the second") X(i, c_dims, "… where's c") \
    X(i, groups, "norms: rows that make a row of the weight (0 means 1)")                     \
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
 * The w of linear, linear_dx, grouped_linear, grouped_linear_dx and linear_ce*, and the table of embed, may be f32* where real is bf16: they stand for their numbers
 * rounded to bf16 (nearest even), so that a master copy needs no bf16 twin.
 *
 * name          in → out
 * embed         ids i32[N], table[V,D] → y[N,D]                     row ids + attrs offset
 * embed_dw      dy[N,D], ids i32[N] → dtable f32*[V,D] (acc; deterministic: tokens in order)
 * linear        x[N,I], w[O,I], bias[O]? → y[N,O]                     y = x·wᵀ + bias
 * linear_dx     dy[N,O], w[O,I] → dx[N,I] (acc)
 * linear_dw     dy[N,O], x[N,I] → dw f32*[O,I] (acc)
 * bias_db       dy[N,O] → db f32*[O] (acc)
 * rmsnorm       x[M,d], w[d]? → y[M,d], rstd f32*[M]                  y = round(x·rstd)·(w+plus); weight_f32: one rounding
 * rmsnorm_dx    dy[M,d], x[M,d], w[d]?, rstd[M] → dx[M,d] (acc)
 * rmsnorm_dw    dy[M,d], x[M,d], rstd[M] → dw f32*[d] (acc)
 * rope_angles   pos i32[N], inv_freq f32*[r] → cos f32*[N,r], sin f32*[N,r]   (angles in f32*, of pos + offset; rope_factor multiplied)
 * rope          x[N,H,d], cos[N,r], sin[N,r] → y[N,H,d]               first 2r features turned, the others copied; y may be x
 * attention     q[Nq,H,d], k[Nk,K,d], v[Nk,K,dv], q_idx i32[Nq], k_idx i32[Nk], doc_start i32[Nq], sinks[H]?, slopes[H]?, bias?,
 *               buckets[R]?, keys i32[Nq,L,n]? → o[Nq,H,dv], lse f32*[Nq,H]
 *               query i sees key j iff max(doc_start[i], q_idx[i]-window+1, first of its chunk) <= k_idx[j] <= q_idx[i]; nothing
 *               else decides.  Chunks are [doc_start + n·chunk, doc_start + (n+1)·chunk).  Never holds an Nq×Nk matrix.
 *               score = softcap(scale·q·k) + alibi + bias.  A query that sees no key gives o = 0, lse = -inf (the sink).
 *               sinks: logits of a key that has no value; lse counts it.
 *               slopes: alibi = alibi_scale·slope[h]·(k_idx-q_idx); alibi_rounded: of positions within the document, rounded to
 *               bf16 as are the slope and their product.
 *               bias: a table [H,R], whose number min(q_idx-k_idx, R-1) holds, or with buckets [H,B]: number buckets[min(…)]; or
 *               numbers of a query [Nq,H,R] by q_idx-k_idx, 0 beyond R.  (sinks, slopes, bias, buckets: real or f32*.)
 *               keys: of those, only keys whose block (k_idx-doc_start[i])/key_block is listed; ascending, -1 behind the last; a list for
 *               all heads (L = 1) or for the heads of each kv head (L = K).
 * attention_bwd do[Nq,H,dv], q, k, v, o, lse, q_idx, k_idx, doc_start, slopes?, bias?, buckets?, keys? → dq, dk, dv, dbias?
 *               dbias: a table's is f32*[H,…] (acc); numbers of a query: real[Nq,H,R], where no two keys may have one index.
 *               dq, dk, dv absent: the table's gradient alone (they are absent together)
 * attention_dsinks  do[Nq,H,dv], o, lse f32*[Nq,H], sinks[H] → dsinks f32*[H] (acc)
 * index_keys    q[Nq,A,d], k[Nk,d], q_idx, k_idx, doc_start, w[Nq,A]? → keys i32[Nq,L,count]
 *               the `count` blocks of key_block keys of largest score among those that the query sees (causally, within its document),
 *               ascending, -1 behind the last.  With w one list (L = 1): score = Σ_a w·max(0, scale·q_a·k); without, one for each a
 *               (L = A): scale·q_a·k.  A block's score is its largest; of equal ones the first.  The last `local` blocks come first.
 * act           x[M] → y ;  act_bwd  dy, x → dx ;  act_mul  g, u → act(g)·u ;  act_mul_bwd  dy, g, u → dg, du
 * add           a, b → y (y may be a) ;  mul  a, b → y ;  scale  x → scale·x
 * linear_ce     h[N,D], w[V,D], labels i32[N], bias[V]? → lse f32*[N], target f32*[N]   logits in fp32, `chunk` tokens at a time; label < 0: both 0
 * linear_ce_bwd h, w, labels, lse, dlogp f32*[N], bias? → dh[N,D], dw f32*[V,D], db f32*[V] (acc applies to dw and db; each may be absent)
 *               dlogits[t,v] = dlogp[t]·(1[v = label] − softmax(v)); log p = target − lse
 *               attrs offset, count: w holds entries [offset, offset+V) of a vocabulary of count (0: of offset+V); a label that
 *               is another rank's gives target 0 here.  Parts join: lse by log-sum-exp, target and dh by adding
 * linear_ce_grad h, w, labels, dlogp f32*[N] → lse f32*[N], target f32*[N], dh[N,D], dw f32*[V,D] (acc applies to dw only; either of dh and dw may be absent)
 *               both of the above for a dlogp known beforehand, with one product less; `chunk` rows of V logits are held; no softcap
 * loss_sum      lse, target, labels, scalars f64[] → scalars (LOSS_SUM += Σ(lse−target), LOSS_COUNT += supervised), in order of t
 * loss_dlogp    labels, scalars → dlogp f32*[N]                       −INV_N where supervised, else 0
 * cast          x (any float dtype, or i32) → y (any float dtype; from i32: f64, f32, bf16)
 * fill          → y                                                  zeros
 * rank_sum      parts[P,n] → y[n] (acc)                               ((p0+p1)+p2)+…, in rank order; both f32* or both real, then rounded once
 * sumsq         g f32*[n] → s f64[1] (acc)                            fixed blocks of 4096 elements summed in order, independent of threads
 * clip_coef     parts f64[P], scalars → scalars (GRAD_NORM, CLIP; SKIP = 1 and CLIP = 0 when the norm is not finite)
 * adamw         scalars, g f32*[n], master, m, v f32*[n] (in/out as in[2..4] and out[0..2]) → master, m, v    torch.optim.AdamW's update;
 *               range [offset, offset+count) of each
 * gather_rows   x[N,…], rows i32[R] → y[R,…] ;  scatter_rows  x[R,…], rows i32[R] → y[N,…] (only those rows written; row < 0: skipped)
 * softcap       x[M] → y ;  softcap_bwd dy, x → dx
 * layernorm     x[M,d], w[G·d]?, b[G·d]? → y[M,d], mean f32*[M], rstd f32*[M]   y = (x − mean)·rstd·(w+plus) + b; attrs groups = G
 * layernorm_dx  dy[M,d], x[M,d], w?, mean[M], rstd[M] → dx[M,d] (acc)
 * layernorm_dw  dy[M,d], x[M,d], mean[M], rstd[M] → dw f32*[G·d] (acc)       db is bias_db
 * map           x[M] → y ;  map_bwd  dy, x → dx                       attrs map, and its numbers
 * pair          a, b? → y                                             attrs pair, a_dims, b_dims: a and b lack dimensions of y
 * where         c, a?, b? → y                                         c ≠ 0 ? a : b; attrs low and high stand for operands not given
 * sum_to        dy, b? → da (real or f32*; f32*: acc)                 scale·Σ dy·b over the dimensions that are not in a_dims
 * xielu         x[M], p[1], n[1], beta[1], eps[1] → y                x > 0: a·x² + beta·x, a = softplus(p); else
 *               b·(expm1(min(x, eps)) − x) + beta·x, b = beta + softplus(n)
 * xielu_bwd     dy, x, p, n, beta, eps → dx ;  xielu_dalpha  dy, x, p, n, beta, eps → d f32*[1] (acc): of p, with index 1 of n
 * softmax       x[M,d] → y ;  softmax_bwd  dy, y → dx
 * row_max       x[M,d] → y[M] ;  row_max_bwd  dy[M], x → dx           to the first of the largest
 * cat           a[M,p], b[M/r,q], … → y[M,p+q+…] ;  split  x → parts  up to 4; fewer rows: repeated by cat, summed by split
 * block_linear  x[N,H,I], w[H,O,I], bias[H,O]? → y[N,H,O]             each head's features by a matrix of its own
 * block_linear_dx  dy[N,H,O], w → dx (acc) ;  block_linear_dw  dy, x → dw f32*[H,O,I] (acc)
 *
 * Recurrences over tokens.  Row t is the first of its document where doc_start[t] >= index[t]; then nothing of earlier rows is seen.
 * state: what earlier calls left of the same document, read by a first row that goes on, and written after the last row; in and out
 * may be one.
 * gated_delta   q[N,K,d], k[N,K,d], v[N,H,e], g[N,H], beta[N,H], index i32[N], doc_start i32[N], state f32*[H,d,e]?
 *               → o[N,H,e], saved f32*[⌈N/512⌉,H,d,e]?, state?         g, beta: real or f32*; K divides H
 *               with q and k divided by √(Σ² + eps) (eps 0: as they are) and q times scale (0: 1/√d):
 *               S ← e^g·S;  u = beta·(v − Sᵀk);  S ← S + k·uᵀ;  o = Sᵀq.  saved: S every 512 rows, for backward
 * gated_delta_bwd  do, q, k, v, g, beta, index, doc_start, saved → dq, dk, dv, dgb f32*[2,M,H] (M >= N): gradients of g, then of beta
 * lightning     q[N,H,d], k[N,H,d], v[N,H,e], slopes f32*[H], index, doc_start, state? → o, saved?, state?
 *               the same with g = −slope of the head and u = v; scale 0: 1
 * lightning_bwd do, q, k, v, slopes, index, doc_start, saved → dq, dk, dv
 * rg_lru        x[N,C], l[N,C], index, doc_start, state f32*[C]? → y[N,C], state?      l <= 0: real or f32*
 *               y_t = e^l·y_{t−1} + √(1 − e^{2l})·x_t, in f32*; the first row of a document: x
 * rg_lru_bwd    dy, x, l, y, index, doc_start → dx, dl                 √'s slope is at most 1000
 * wkv           k[N,C], v[N,C], w f32*[C], u f32*[C], index, doc_start, state f32*[3,C]? → y[N,C], state?
 *               y_t = (Σ_{j<t} e^{w·(t−1−j)+k_j}·v_j + e^{u+k_t}·v_t) / (the same without v);  w <= 0
 * wkv_bwd       dy, k, v, w, u, index, doc_start → dk, dv, dw f32*[C], du f32*[C]
 * shift         x[N,C], index, doc_start, state real[C]? → y[N,C], state?   the row before; inverse: the row behind (its gradient)
 *
 * Selection and experts.  k slots a token, S = N·k in all, slot n·k + j the j-th of token n.  Sorted by expert they are rows; `slot`
 * tells the slot of a row (-1: none), `place` the row of a slot (-1: its expert has none), offsets[e] … offsets[e+1] the rows of
 * expert e.  Rows from offsets[E] on belong to nobody: they are written as zero.
 * topk          x[M,E] → y[M,k], index i32[M,k]                       the k largest, falling; of equal ones the lowest index first
 * topmask       x[M,E] → y[M,E]                                       1 for the `count` largest, else 0
 * pick          x[M,E], index i32[M,k] → y[M,k] ;  pick_bwd  dy, index → dx[M,E]
 * route         expert i32[S] → slot i32[S], place i32[S], offsets i32[E+1]   stable; experts outside of [0, E) have no row
 * dispatch      x[R·W], slot, place, w[S] (real or f32*)? → y[S,W]    y[row] = w·x[slot / (S / R)]: R = N repeats a token's row, R = S sorts
 * combine       h[S,W], slot, place, w? → y[R·W]                      y[r] = Σ w·h[place] over its S / R slots, in order
 * slot_scale    h[S,W], slot, place, w → y[S,W]                       y[row] = w[slot]·h[row]
 * slot_dot      a[R·W], h[S,W], place → dw[S] (real or f32*)          a of the slot's token (index 1: of its row) · h[place]
 * grouped_linear x[S,I], w[E,O,I], offsets, bias[E,O]? → y[S,O] ;  grouped_linear_dx  dy, w, offsets → dx (acc)
 * sparsemixer   x[N,E] → y[N,2], index i32[N,2] ;  sparsemixer_bwd  dy, x, index → dx
 *               the largest, then the largest of the rest; y: its share of exp over those j with (largest − xj)/max(|xj|, largest) <= 2·eps
 * swap          x[N,A,B,D] → y[N,B,A,D]
 * grouped_linear_dw dy[S,O], x[S,I], offsets → dw f32*[E,O,I] (acc) ;  grouped_bias_db  dy, offsets → db f32*[E,O] (acc)
 *
 * Recurrences over the N tokens in their order.  A token with index = doc_start is the first of its document: nothing before it counts.
 * state is what goes on from one call to the next, in and out (they may be one); absent: 0, and not kept.
 * conv          x[N,C], w[C,k], bias[C]?, index i32[N], doc_start i32[N], state[k-1,C]? → y[N,C], state?
 *               y[t,c] = bias[c] + Σ_j w[c,j]·x[t-(k-1)+j,c];  the state is the last k-1 inputs
 * conv_dx       dy, w, index, doc_start → dx ;  conv_dw  dy, x, index, doc_start → dw f32*[C,k] (acc)
 * ssd           x[N,H,p], dt[N,H], A[H], B[N,G,S], C[N,G,S], D[H]?, index, doc_start, state f32*[H,S,p]? → y[N,H,p], states f32*[≥N/chunk,H,S,p], state?
 *               h_t = exp(dt_t·A)·h_{t-1} + dt_t·B_t⊗x_t, y_t = C_t·h_t + D·x_t; H/G heads share B and C (dt, A, D: real or f32*)
 *               states: h before the first token of every `chunk` tokens.  Sums in fp32
 * ssd_bwd       dy, x, dt, A, B, C, D?, index, doc_start, states → dx, dB, dC, dd f32*[N,3,H]
 *               dd: gradient of dt but for the decays; of dt·A; dy·x
 * ssd_sums      dd, dt, A → ddt[N,H], dA f32*[H], dD f32*[H]
 * mamba1        x[N,I], dt[N,I], A[I,S], B[N,G·S], C[N,G·S], D[I]?, index, doc_start, state f32*[S,I]? → y[N,I], states f32*[≥N/chunk,S,I], state?
 *               h_t[i,s] = exp(dt_t[i]·A[i,s])·h_{t-1}[i,s] + dt_t[i]·B_t[s]·x_t[i], y_t[i] = Σ_s C_t[s]·h_t[i,s] + D[i]·x_t[i]
 *               B_t and C_t of channel i are those of its group, the i·G/I-th
 * mamba1_bwd    dy, x, dt, A, B, C, D?, index, doc_start, states → dx, ddt, dBC f32*[N,2,G·S], dAD f32*[S+1,I]
 * mamba1_split  dBC, dAD → dB[N,G·S], dC[N,G·S], dA f32*[I,S], dD f32*[I]
 */

typedef enum am_isa { AM_ISA_PORTABLE, AM_ISA_AVX2, AM_ISA_AVX512, AM_ISA_AVX512_BF16, AM_ISA_COUNT } am_isa;

/** Best instruction set of this machine, lowered by AM_ISA=portable|avx2|avx512|avx512_bf16 in the environment. */
am_isa      am_kernels_cpu_isa(void);
const char *am_isa_name(am_isa isa);
/** The row named `name` of the CPU backend for this ISA, or NULL. */
const am_kernel *am_kernels_cpu_find(const char *name);
const am_kernel *am_kernels_cpu_table(int *count);

#endif
