/* ssd: what ssd.c, ssd.inc and the two products share.
 *
 * The recurrence of a head, S states by p features, decay a_t = exp(dt_t·A):
 *     h_t = a_t·h_{t−1} + dt_t·B_t ⊗ x_t        y_t = C_t·h_t + D·x_t        (h = 0 before a document's first
 * token) In a chunk of L tokens, with Λ[t][s] = a_{s+1}·…·a_t where s <= t are of one document, else 0; e_t =
 * decay from the chunk's beginning to t where t's document began earlier, else 0; w_s = decay from s to the
 * chunk's end: G = C·Bᵀ (of a group)     Y = (G∘Λ)·diag(dt)·X + diag(e)·C·h_in      h_out = e_L·h_in +
 * Bᵀ·diag(w·dt)·X which are products of matrices; the states at the beginning of every chunk are what
 * backward is given. Chunks follow one another; within one, heads are independent.  (Dao and Gu 2024,
 * "Transformers are SSMs", section 6.) */
#ifndef AM_CPU_SSD_H
#define AM_CPU_SSD_H

#include "simd.h"

#define AM_SSD_ROWS 32 /* of a unit of work on the matrices that heads of a group share */
#define AM_SSD_STRIPS                                                                                        \
    16 /* backward: heads of a group are cut into so many at most, each with sums of its own */

typedef struct am_ssd {
    const am_kernel_call *call;
    const am_simd *simd; /* NULL: f64, plain loops */
    bool backward, has_state;
    int64_t l; /* tokens of a chunk */
    int64_t n, heads, p, groups, s, per_group, chunks, strips, row_blocks;
    const am_tensor *x, *dt, *a, *b, *c, *d, *dy;
    const int32_t *index, *doc_start;
    void *states;               /* [chunks, H, S, p] */
    void *state_in, *state_out; /* [H, S, p] */
    void *out[AM_MAX_OUT];
    /* workspace, elements of `real` */
    void *g;                /* [G][L][L]: C·Bᵀ, backward: its transpose */
    void *bf, *cf, *turned; /* [G][L][S] twice; [G][S][L]: Bᵀ, backward Cᵀ */
    void *dh;               /* backward: [H][S][p], gradient of the state at the end of the chunk at hand */
    void *sums;             /* backward: [G][strips]{dGᵀ [L][L], dC [L][S], dB [L][S]} */
    char *scratch;
    size_t scratch_bytes; /* of a thread */
} am_ssd;

typedef void (*am_ssd_unit_fn)(const am_ssd *t, int64_t chunk, int64_t unit, void *scratch);

/* Which parts of a product are known to be 0 or not wanted. */
typedef enum am_ssd_shape {
    AM_SSD_FULL,
    AM_SSD_LOWER,     /* a[i][k] = 0 for k > i */
    AM_SSD_UPPER,     /* a[i][k] = 0 for k < i */
    AM_SSD_UPPER_OUT, /* c[i][j] is wanted for j >= i only */
} am_ssd_shape;

/* c[m][n] = a[m][k]·b (+ c).  a: rows lda apart.  b: [k][n] with rows ldb apart, turned: [n][k]. */
typedef struct am_ssd_product {
    int64_t m, n, k;
    const void *a;
    int64_t lda;
    const void *b;
    am_dtype b_dtype; /* F32, BF16; F64 for the plain one */
    int64_t ldb;
    bool turned;
    void *c;
    int64_t ldc;
    bool add;
    am_ssd_shape shape;
    void *panels; /* am_ssd_panels elements */
} am_ssd_product;

void am_ssd_product_f32(const am_simd *simd, const am_ssd_product *p);
void am_ssd_product_f64(const am_simd *none, const am_ssd_product *p);

static inline int64_t am_ssd_chunk(const am_ssd *t, int64_t chunk)
{
    return am_min_i64(t->l, t->n - chunk * t->l);
}
static inline int64_t am_ssd_panels(int64_t l, int64_t s, int64_t p)
{
    int64_t most = am_max_i64(l, am_max_i64(s, p));
    return am_round_up(most, AM_SIMD_NR_MAX) * most;
}

#endif
