/* simd: the machine-dependent half of the heavy kernels (linear, attention, linear_ce), one table of
 * functions per instruction set, and the two things the operators' files build from them: a product run by a
 * thread team, and a bump allocator over the workspace.  Bodies: simd_vec.inc (vectors), simd_gemm.inc
 * (panels and micro-kernel), simd_attention.inc, simd_ce.inc; each simd_<isa>.c compiles all four under its
 * instruction set.
 *
 * Panels.  A product reads both operands from panels: `mr` rows of a, or `nr` columns of b, stored as
 * [k][width] in 32-bit units.  A unit is one fp32 number (bf16 operands are widened while being packed), or,
 * where the machine multiplies bf16, a pair (k, k+1) of bf16 numbers.  Rows and columns beyond the operand
 * and an odd k are zero. */
#ifndef AM_CPU_SIMD_H
#define AM_CPU_SIMD_H

#include "kernels_cpu.h"

#define AM_SIMD_MR     6  /* rows of a micro-tile, every instruction set */
#define AM_SIMD_NR_MAX 64 /* columns of the widest micro-tile */

/* ---- packing and micro-kernel -------------------------------------------------------------------- */

typedef struct am_pack {
    uint32_t *dst;
    const void *src;
    am_dtype dtype;    /* of src: F32 or BF16 */
    bool pairs;        /* units are bf16 pairs */
    bool wide;         /* panels of nr (b); else of mr (a) */
    bool k_contiguous; /* src is [width][k], neighbours along k adjacent; else [k][width] */
    int64_t stride;    /* elements between the rows of src */
    int64_t valid, k;  /* width that exists (any number: successive panels), and k */
    bool rounds;       /* F32 numbers are rounded to bf16, also where a unit is one fp32 number; b only */
} am_pack;

/* Where a micro-kernel finds the units of its rows of a: row i, unit u at p + i·row + u·unit (bytes).  Packed
 * panels are {panel, 4, 4·mr, 4·units}; rows whose units lie ready in memory (k contiguous, right type, k
 * even for pairs) are read in place.  step: bytes from one row to the next beyond a micro-tile, i.e. tiles
 * start at p + i·step, i a multiple of mr. */
typedef struct am_rows_a {
    const char *p;
    int64_t row, unit, step;
} am_rows_a;
static inline am_rows_a am_packed_a(const uint32_t *panels, int64_t units)
{
    return (am_rows_a){(const char *)panels, 4, 4 * AM_SIMD_MR, 4 * units};
}
static inline am_rows_a am_direct_a(const void *rows, int64_t row_bytes)
{
    return (am_rows_a){rows, row_bytes, 4, row_bytes};
}

/* Destination of a block of micro-tiles. out = tile (+ partial) (+ bias) (+ old out). */
typedef struct am_block {
    int64_t m, n, units; /* rows and columns that exist in this block, k in units */
    am_rows_a a;
    const uint32_t *b; /* first panel */
    float *partial;    /* fp32 sums of earlier k-blocks, same indexing as out; NULL = none */
    int64_t ld_partial;
    bool add_partial;   /* partial holds something */
    void *out;          /* NULL: the sums stay in partial */
    am_dtype out_dtype; /* F32 or BF16 */
    int64_t ld_out;
    bool add_out;
    const void *bias; /* n elements or NULL */
    am_dtype bias_dtype;
    bool pairs;
} am_block;

/* ---- attention ----------------------------------------------------------------------------------- */

#define AM_ATT_BQ 64 /* queries of a tile: its columns; a multiple of every nr */
#define AM_ATT_BK 64 /* keys of a tile: its rows; even */

typedef struct am_att {
    int64_t nq, nk, heads, kv_heads, d, dv;
    int64_t head_begin, kv_begin, group;
    int64_t window, chunk; /* 0 = none */
    double scale, softcap, alibi_scale;
    bool alibi_rounded, biased; /* biased: something is added to scores */
    am_dtype real;
    const void *q, *k, *v, *o, *dout;
    const int32_t *q_idx, *k_idx, *doc_start;
    const am_tensor *sinks, *slopes, *bias, *buckets, *keys; /* operands; NULL = not given */
    int64_t key_block;
    int64_t reach, num_buckets; /* of bias: distances that differ; numbers a head (as many without buckets) */
    void *out_o, *dq, *dk, *dv_out;
    void *dbias; /* like bias, of f32* where that is a table; NULL: not asked for */
    bool add_dbias;
    void *lse; /* [nq, heads] f32*; out in forward, in in backward */
    bool pairs;
    /* made before the first phase */
    float *sink, *slope; /* [heads], of sinks and slopes (rounded); NULL without */
    float *profile;      /* [heads][reach]: the table by distance; NULL where bias is no table */
    int32_t *bucket;     /* [reach]: which number of the table; NULL without buckets */
    double *dtable;      /* backward of a table: [query tiles][heads][num_buckets], sums of one unit of work */
    int32_t *key_range;   /* per key tile: min, max of k_idx */
    int32_t *query_range; /* per query tile: min and max of the first index seen, min and max of the last */
    int32_t *keys_seen;   /* per query tile: first and last key tile that it sees anything of; first > last: none */
    int32_t *seen_by;     /* per key tile: first and last query tile that sees anything of it */
    /* made by the first phase, per (kv head, key tile) */
    uint32_t *turned; /* V (forward) or K (backward) as [dv or d][keys], operand a */
    size_t turned_units;
    /* backward: fp32 sums of dk [keys][ld_dk] and dv [keys][ld_dv], per (kv head, key tile) */
    float *sums;
    int64_t ld_dk, ld_dv;
    int64_t together; /* query heads of a unit of work in backward */
} am_att;

static inline float *am_att_sums(const am_att *t, int64_t kv, int64_t key_tile)
{
    int64_t at = kv * am_ceil_div(t->nk, AM_ATT_BK) + key_tile;
    return t->sums + (size_t)at * (size_t)(AM_ATT_BK * (t->ld_dk + t->ld_dv));
}

/* element i of an operand of any float dtype, as f32 arithmetic sees it */
static inline float am_att_number(const am_tensor *x, int64_t i)
{
    if (x->dtype == AM_F64) return (float)((const double *)x->data)[i];
    if (x->dtype == AM_F32) return ((const float *)x->data)[i];
    return am_bf16_to_f32(((const uint16_t *)x->data)[i]);
}

/* Which number of a head's table holds for a distance. */
static inline int64_t am_att_bucket(const am_att *t, int64_t distance)
{
    int64_t at = am_min_i64(distance, t->reach - 1);
    return t->bucket ? t->bucket[at] : at;
}

/* What is listed for a query and a head: ascending, as unsigned numbers also the −1 behind them. */
static inline const uint32_t *am_att_list(const am_att *t, int64_t i, int64_t head)
{
    int64_t lists = t->keys->dim[1], l = lists == 1 ? 0 : (t->head_begin + head) / t->group - t->kv_begin;
    return (const uint32_t *)t->keys->data + (i * lists + l) * t->keys->dim[2];
}
/* first of the n entries that is at least x */
static inline int64_t am_att_find(const uint32_t *list, int64_t n, uint32_t x)
{
    int64_t begin = 0;
    while (begin < n) {
        int64_t middle = (begin + n) / 2;
        if (list[middle] >= x)
            n = middle;
        else
            begin = middle + 1;
    }
    return begin;
}

/* first and last index that query i sees; an empty interval when the document starts behind the query */
static inline void am_att_bounds(const am_att *t, int64_t i, int32_t *lo, int32_t *hi)
{
    int64_t first = t->doc_start[i], q = t->q_idx[i];
    if (t->chunk > 0 && q > first) first = q - (q - first) % t->chunk;
    if (t->window > 0) first = am_max_i64(first, q - t->window + 1);
    *lo = (int32_t)am_min_i64(first, INT32_MAX);
    *hi = t->q_idx[i];
}

typedef enum am_att_view { AM_ATT_NONE, AM_ATT_SOME, AM_ATT_ALL } am_att_view;
/** Whether the queries of a tile see none, some or all of the keys of a tile; with a bias "all" is not told apart, since a
 *  key's index is asked for anyway. */
static inline am_att_view am_att_tile_view(const am_att *t, int64_t query_tile, int64_t key_tile)
{
    const int32_t *q = t->query_range + 4 * query_tile, *k = t->key_range + 2 * key_tile;
    if (k[1] < q[0] || k[0] > q[3]) return AM_ATT_NONE;
    return k[0] >= q[1] && k[1] <= q[2] && !t->biased ? AM_ATT_ALL : AM_ATT_SOME;
}

/* ---- one table per instruction set --------------------------------------------------------------- */

typedef struct am_simd {
    int nr, lanes;                  /* columns of a micro-tile, of a vector */
    bool pairs;                     /* multiplies bf16 pairs */
    void (*pack)(const am_pack *p); /* ceil(valid / width) successive panels */
    void (*block)(const am_block *b);

    size_t (*att_scratch)(const am_att *t, bool backward); /* bytes per thread; reads d, dv and biased */
    void (*att_pack)(const am_att *t, int64_t kv, int64_t tile, bool backward);
    void (*att_forward)(const am_att *t, int64_t tile, int64_t head, void *scratch);
    /* q·k of a tile of keys (head 0 of them) and a tile of queries, into to[keys][AM_ATT_BQ] of f32: factor·q·k, or with
     * w [nq][heads] f32, to += w·max(0, factor·q·k).  Reads q, k, nq, nk, heads, d. */
    void (*att_index)(const am_att *t, int64_t tile, int64_t key_tile, int64_t head, const float *w, void *scratch, float *to);
    /* One unit of backward, a tile of queries of one head: begin, then for key tiles in any order att_bwd_tile
     * (adds to dq) followed by att_bwd_add (adds to the sums of dk and dv, or begins them), then end. */
    void (*att_bwd_begin)(const am_att *t, int64_t tile, int64_t head, void *scratch);
    void (*att_bwd_tile)(const am_att *t, int64_t tile, int64_t key_tile, int64_t head, void *scratch);
    void (*att_bwd_add)(const am_att *t, int64_t tile, int64_t key_tile, int64_t head, bool first, void *scratch);
    void (*att_bwd_end)(const am_att *t, int64_t tile, int64_t head, void *scratch);
    /* dk and dv of a key tile from its sums; zero without any */
    void (*att_bwd_keys)(const am_att *t, int64_t key_tile, int64_t kv, bool any);

    /* One row of logits: raise *max and rescale *sum so that lse = max + log(sum) over everything seen so
     * far. softcap != 0 replaces the row by c·tanh(x/c) first. */
    void (*ce_row)(float *logits, int64_t n, float softcap, float *max, float *sum);
    /* dlogits of one row: scale·(1[i = label] − exp(x − lse)), label < 0: none here.  out: F32 or BF16. */
    void (*ce_grad_row)(const float *logits, int64_t n, float softcap, float lse, float scale, int64_t label,
                        void *out, am_dtype out_dtype);
    /* Both for a row that is complete, without softcap and with its label: returns lse and leaves dlogits where
     * the logits lay (BF16: in the first half of the row).  One exp an element. */
    float (*ce_both_row)(float *logits, int64_t n, float scale, int64_t label, am_dtype out_dtype);
} am_simd;

extern const am_simd am_simd_portable, am_simd_avx2, am_simd_avx512, am_simd_avx512_bf16;
/** The table for am_kernels_cpu_isa(). */
const am_simd *am_simd_get(void);

/* ---- products by a team -------------------------------------------------------------------------- */

typedef struct am_gemm_operand {
    const void *data;
    am_dtype dtype; /* F32 or BF16 */
    bool rounds;    /* b in F32: stands for its numbers rounded to bf16, which is done on the way into the panels */
    int64_t stride;
    bool k_contiguous; /* a: [m][k], b: [n][k] with rows `stride` apart; else a: [k][m], b: [k][n] */
} am_gemm_operand;

typedef struct am_gemm {
    int64_t m, n, k;
    am_gemm_operand a, b;
    void *c; /* [m][n], rows ldc apart */
    am_dtype c_dtype;
    int64_t ldc;
    const void *bias; /* n elements of bias_dtype, or NULL */
    am_dtype bias_dtype;
    bool accumulate;
} am_gemm;

/** Bytes of shared workspace for a product of at most these sizes, any dtypes, any instruction set. */
size_t am_gemm_workspace(int64_t m, int64_t n, int64_t k);
/** c = a·b (+ bias) (+ c).  Called by every thread of a team of `threads` inside one parallel region (tid =
 * 0…threads−1) with equal arguments; returns with c complete (ends with a barrier).  Every element is one sum
 * over k in a fixed order, blocked by k alone: results do not depend on threads, m or n, bit for bit.  Where a
 * is read in place and c has columns enough, threads meet at the end only; otherwise twice a block.  A team of one meets nobody:
 * each thread of a larger team may run a product of its own (tid 0, threads 1, a workspace of its own). */
void am_gemm_team(const am_gemm *g, int tid, int threads, void *workspace);

/* ---- workspace ----------------------------------------------------------------------------------- */

/* Bump allocation; with base NULL it only counts, so that one function serves the query and the call. */
typedef struct am_bump {
    char *base;
    size_t used;
} am_bump;
static inline void *am_bump_take(am_bump *b, size_t bytes)
{
    void *p = b->base ? b->base + b->used : NULL;
    b->used += (bytes + 127) / 128 * 128; /* 128: no two pieces share a pair of cache lines */
    return p;
}

#endif
