/* ssd_product: small products within a thread, for ssd.c: the panels and micro-kernels of simd.h, and plain
 * loops in f64. */
#include "ssd.h"

/* k that matters for rows [i, i + m) and the first column that is wanted of them */
static void bounds(const am_ssd_product *p, int64_t i, int64_t m, int64_t *k0, int64_t *k1, int64_t *j0)
{
    *k0 = p->shape == AM_SSD_UPPER ? i : 0;
    *k1 = p->shape == AM_SSD_LOWER ? am_min_i64(p->k, i + m) : p->k;
    *j0 = p->shape == AM_SSD_UPPER_OUT ? i : 0;
}

void am_ssd_product_f32(const am_simd *simd, const am_ssd_product *p)
{
    const int64_t nr = simd->nr, rows = p->shape == AM_SSD_FULL ? p->m : 5 * AM_SIMD_MR;
    const am_pack pack = {.dst = p->panels,
                          .src = p->b,
                          .dtype = p->b_dtype,
                          .wide = true,
                          .k_contiguous = p->turned,
                          .stride = p->ldb,
                          .valid = p->n,
                          .k = p->k};
    simd->pack(&pack);
    for (int64_t i = 0; i < p->m; i += rows) {
        const int64_t m = am_min_i64(rows, p->m - i);
        int64_t k0, k1, j0;
        bounds(p, i, m, &k0, &k1, &j0);
        for (int64_t j = j0 / nr * nr; j < p->n; j += nr) {
            const am_block b = {.m = m,
                                .n = am_min_i64(nr, p->n - j),
                                .units = k1 - k0,
                                .a = am_direct_a((const float *)p->a + i * p->lda + k0, p->lda * 4),
                                .b = (const uint32_t *)p->panels + j * p->k + k0 * nr,
                                .out = (float *)p->c + i * p->ldc + j,
                                .out_dtype = AM_F32,
                                .ld_out = p->ldc,
                                .add_out = p->add};
            simd->block(&b);
        }
    }
}

void am_ssd_product_f64(const am_simd *none, const am_ssd_product *p)
{
    (void)none;
    for (int64_t i = 0; i < p->m; i++) {
        const double *a = (const double *)p->a + i * p->lda, *b = p->b;
        double *c = (double *)p->c + i * p->ldc;
        int64_t k0, k1, j0;
        bounds(p, i, 1, &k0, &k1, &j0);
        for (int64_t j = j0; j < p->n; j++) {
            double sum = p->add ? c[j] : 0;
            for (int64_t k = k0; k < k1; k++) sum += a[k] * b[p->turned ? j * p->ldb + k : k * p->ldb + j];
            c[j] = sum;
        }
    }
}
