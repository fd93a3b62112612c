/* chunk_mm: see chunk_mm.h. */
#include "chunk_mm.h"

static size_t room_a(int64_t most)
{
    return (size_t)am_round_up((most + AM_SIMD_MR) * most * 4, 128);
}

size_t am_chunk_mm_room(int64_t most)
{
    return room_a(most) + (size_t)((most + AM_SIMD_NR_MAX) * most) * 4;
}

void am_chunk_mm_f32(const am_simd *s, const am_mm *p, void *room)
{
    if (p->m == 0 || p->n == 0) return;
    const int64_t most = am_max_i64(p->m, am_max_i64(p->n, p->k));
    uint32_t *turned = room, *panels = (uint32_t *)((char *)room + room_a(most));
    am_pack b = {.dst = panels,
                 .src = p->b,
                 .dtype = AM_F32,
                 .wide = true,
                 .k_contiguous = p->b_turned,
                 .stride = p->ldb,
                 .valid = p->n,
                 .k = p->k};
    am_pack a = {.dst = turned, .src = p->a, .dtype = AM_F32, .stride = p->lda, .valid = p->m, .k = p->k};
    s->pack(&b);
    if (p->a_turned) s->pack(&a);
    am_block block = {.m = p->m,
                      .n = p->n,
                      .units = p->k,
                      .b = panels,
                      .out = p->c,
                      .out_dtype = AM_F32,
                      .ld_out = p->ldc,
                      .add_out = p->add};
    block.a = p->a_turned ? am_packed_a(turned, p->k) : am_direct_a(p->a, p->lda * 4);
    s->block(&block);
}

void am_chunk_mm_f64(const am_mm *p)
{
    const double *a = p->a, *b = p->b;
    for (int64_t i = 0; i < p->m; i++)
        for (int64_t j = 0; j < p->n; j++) {
            double *c = (double *)p->c + i * p->ldc + j, sum = 0;
            for (int64_t k = 0; k < p->k; k++)
                sum += (p->a_turned ? a[k * p->lda + i] : a[i * p->lda + k]) *
                       (p->b_turned ? b[j * p->ldb + k] : b[k * p->ldb + j]);
            *c = p->add ? *c + sum : sum;
        }
}
