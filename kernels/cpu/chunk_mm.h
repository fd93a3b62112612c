/* chunk_mm: small products within one thread, for operators that work on a chunk of tokens of one head at a
 * time.  fp32 goes through the panels and micro-kernels of simd.h, fp64 (the reference) through plain loops.
 * Bits depend on the operands alone. */
#ifndef AM_CPU_CHUNK_MM_H
#define AM_CPU_CHUNK_MM_H

#include "simd.h"

/* c[m][n] = a·b, or += with add.  a is [m][k], with a_turned [k][m]; b is [k][n], with b_turned [n][k]; ld:
 * from row to row. */
typedef struct am_mm {
    int64_t m, n, k;
    const void *a, *b;
    void *c;
    int64_t lda, ldb, ldc;
    bool a_turned, b_turned, add;
} am_mm;

/** Bytes of room for products whose m, n and k are at most `most`, any instruction set. */
size_t am_chunk_mm_room(int64_t most);
/** s: of am_simd_get(), asked for once; room: am_chunk_mm_room bytes that no other thread uses. */
void am_chunk_mm_f32(const am_simd *s, const am_mm *p, void *room);
void am_chunk_mm_f64(const am_mm *p);

#endif
