/* kernels_cpu_vec: vectors of floats for the bodies of the light kernels: loads and stores of f32 and bf16, rounding to
 * bf16, exp, tanh and erf.  Included by kernels_cpu_each.h once per instruction set (no include guard), which defines
 * AM_CPU_ISA and AM_CPU_W, the floats of a vector: 16, 8 or 4.  Names end in the instruction set: VN(exp) = exp_avx2.
 *
 * A lane's result depends on that lane alone and no operation is fused, so every instruction set gives the same bits.
 * Largest errors over all floats, found by tests/kernels/test_cpu_math.c on every instruction set:
 *   exp 1 ulp (denormal results 1 ulp of theirs; 0 below -104, inf above 88.73; NaN stays NaN)
 *   tanh and erf 1.5 ulp (±1 far out, NaN stays NaN, the sign of zero kept)
 *   log and log1p 1.5 ulp, expm1 2 ulp (log 0 = −inf, log of less NaN, expm1 below −17 −1; inf and NaN stay); floor and sqrt exact
 *   to bf16: nearest even, the bits of am_cpu_to_bf16 for every float. */
#define VN(name) AM_CPU_CAT2(name, AM_CPU_ISA)
#define vf       VN(vf)
#define vi       VN(vi)
#define vu       VN(vu)
#define vh       VN(vh)

typedef float vf __attribute__((vector_size(4 * AM_CPU_W)));
typedef int32_t vi __attribute__((vector_size(4 * AM_CPU_W)));
typedef uint32_t vu __attribute__((vector_size(4 * AM_CPU_W)));
typedef uint16_t vh __attribute__((vector_size(2 * AM_CPU_W)));
typedef float VN(vf_mem) __attribute__((vector_size(4 * AM_CPU_W), aligned(4), may_alias));
typedef uint16_t VN(vh_mem) __attribute__((vector_size(2 * AM_CPU_W), aligned(2), may_alias));

/* ---- memory: n <= W elements exist, the others read as zero and are not written --------------------- */

AM_INLINE vf VN(splat)(float x) { return x - (vf){0}; }
AM_INLINE vf VN(widen)(vh h) /* gcc 12 makes several instructions of __builtin_convertvector */
{
#if AM_CPU_W == 16
    return (vf)_mm512_slli_epi32(_mm512_cvtepu16_epi32((__m256i)h), 16);
#elif AM_CPU_W == 8
    return (vf)_mm256_slli_epi32(_mm256_cvtepu16_epi32((__m128i)h), 16);
#else
    return (vf)_mm_unpacklo_epi16(_mm_setzero_si128(), _mm_loadl_epi64((const __m128i *)&h));
#endif
}
/* the high halves */
AM_INLINE vh VN(narrow)(vu u)
{
#if AM_CPU_W == 16
    return (vh)_mm512_cvtepi32_epi16(_mm512_srli_epi32((__m512i)u, 16));
#elif AM_CPU_W == 8
    const __m256i low = _mm256_srli_epi32((__m256i)u, 16);
    return (vh)_mm_packus_epi32(_mm256_castsi256_si128(low), _mm256_extracti128_si256(low, 1));
#else
    const __m128i low = _mm_srai_epi32((__m128i)u, 16); /* signed: the saturation changes nothing */
    vh h;
    _mm_storel_epi64((__m128i *)&h, _mm_packs_epi32(low, low));
    return h;
#endif
}

AM_INLINE vf VN(load_f32)(const float *p, int64_t n)
{
    if (n == AM_CPU_W) return *(const VN(vf_mem) *)p;
    vf v = {0};
    memcpy(&v, p, (size_t)n * sizeof *p);
    return v;
}
AM_INLINE void VN(store_f32)(float *p, vf v, int64_t n)
{
    if (n == AM_CPU_W)
        *(VN(vf_mem) *)p = v;
    else
        memcpy(p, &v, (size_t)n * sizeof *p);
}
AM_INLINE vf VN(load_bf16)(const uint16_t *p, int64_t n)
{
    if (n == AM_CPU_W) return VN(widen)(*(const VN(vh_mem) *)p);
    vh h = {0};
    memcpy(&h, p, (size_t)n * sizeof *p);
    return VN(widen)(h);
}

/* ---- selection ---------------------------------------------------------------------------------------- */

/* per lane a < b ? x : y */
AM_INLINE vf VN(less)(vf a, vf b, vf x, vf y)
{
#if AM_CPU_W == 16
    return (vf)_mm512_mask_blend_ps(_mm512_cmp_ps_mask((__m512)a, (__m512)b, _CMP_LT_OQ), (__m512)y, (__m512)x);
#else
    vi mask = a < b;
    return (vf)((mask & (vi)x) | (~mask & (vi)y));
#endif
}
/* x held within [low, high]; NaN stays NaN */
AM_INLINE vf VN(clamp)(vf x, float low, float high)
{
#if AM_CPU_W == 16
    x = (vf)_mm512_min_ps((__m512)VN(splat)(high), (__m512)x);
    return (vf)_mm512_max_ps((__m512)VN(splat)(low), (__m512)x);
#elif AM_CPU_W == 8
    x = (vf)_mm256_min_ps((__m256)VN(splat)(high), (__m256)x);
    return (vf)_mm256_max_ps((__m256)VN(splat)(low), (__m256)x);
#else
    x = VN(less)(VN(splat)(high), x, VN(splat)(high), x);
    return VN(less)(x, VN(splat)(low), VN(splat)(low), x);
#endif
}

/* ---- rounding to bf16 ------------------------------------------------------------------------------------ */

/* high halves: v rounded to nearest even, NaN made quiet; low halves: anything */
AM_INLINE vu VN(round_high)(vf v)
{
    const vu u = (vu)v;
#if AM_CPU_W == 16
    __m512i up = _mm512_add_epi32((__m512i)u, _mm512_set1_epi32(0x7fff));
    up = _mm512_mask_add_epi32(up, _mm512_test_epi32_mask((__m512i)u, _mm512_set1_epi32(0x10000)), up,
                               _mm512_set1_epi32(1));
    return (vu)_mm512_mask_or_epi32(up, _mm512_cmp_ps_mask((__m512)v, (__m512)v, _CMP_UNORD_Q), (__m512i)u,
                                    _mm512_set1_epi32(0x400000));
#else
    const vu up = u + 0x7fff + ((u >> 16) & 1), nan = (vu)(v != v);
    return (up & ~nan) | ((u | 0x400000) & nan);
#endif
}
AM_INLINE vf VN(round_bf16)(vf v) { return (vf)(VN(round_high)(v) & 0xffff0000u); }

AM_INLINE vh VN(to_bf16)(vf v)
{
#ifdef AM_CPU_BF16 /* the instruction flushes denormals, which are to keep their bits */
    if (__builtin_expect(_mm512_fpclass_ps_mask((__m512)v, 0x20) == 0, 1)) return (vh)_mm512_cvtneps_pbh((__m512)v);
#endif
    return VN(narrow)(VN(round_high)(v));
}
AM_INLINE void VN(store_bf16)(uint16_t *p, vf v, int64_t n)
{
    vh h = VN(to_bf16)(v);
    if (n == AM_CPU_W)
        *(VN(vh_mem) *)p = h;
    else
        memcpy(p, &h, (size_t)n * sizeof *p);
}

/* 2·W numbers past the caches; p aligned to them.  Whoever used it ends with _mm_sfence */
AM_INLINE void VN(stream_bf16)(uint16_t *p, vf low, vf high)
{
    vh a = VN(to_bf16)(low), b = VN(to_bf16)(high);
#if AM_CPU_W == 16
    _mm512_stream_si512((__m512i *)p, _mm512_inserti64x4(_mm512_castsi256_si512((__m256i)a), (__m256i)b, 1));
#elif AM_CPU_W == 8
    _mm256_stream_si256((__m256i *)p, _mm256_set_m128i((__m128i)b, (__m128i)a));
#else
    uint16_t both[2 * AM_CPU_W];
    memcpy(both, &a, sizeof a);
    memcpy(both + AM_CPU_W, &b, sizeof b);
    _mm_stream_si128((__m128i *)p, _mm_loadu_si128((const __m128i *)both));
#endif
}

/* ---- functions ------------------------------------------------------------------------------------------- */

/* p·2^n for integers -160 < n < 130, rounded once: 2^n in two factors, whose first product is exact */
AM_INLINE vf VN(scale2)(vf p, vf n)
{
#if AM_CPU_W == 16
    return (vf)_mm512_scalef_ps((__m512)p, (__m512)n);
#else
    vi k = __builtin_convertvector(n, vi), half = k >> 1;
    return p * (vf)((half + 127) << 23) * (vf)((k - half + 127) << 23);
#endif
}

/* e^x = 2^n e^r, |r| <= ln2/2.  e^r = 1 + r + r²·p(r), p interpolated where the error of r²·p is smallest (4e-9) */
AM_INLINE vf VN(exp)(vf x)
{
    const vf magic = VN(splat)(12582912.0f); /* 1.5·2^23: adding it rounds to an integer */
    x = VN(clamp)(x, -105.0f, 89.0f);
    vf n = (x * 1.44269504088896341f + magic) - magic;
    vf r = (x - n * 0.693359375f) + n * 2.12194440054690583e-4f; /* ln2 = 0.693359375 − 2.1219e-4 */
    vf r2 = r * r; /* two chains: half the latency of one */
    vf even = (r2 * 1.3933357093e-03f + 4.1666481456e-02f) * r2;
    vf odd = (r2 * 8.3689214787e-03f + 1.6666518424e-01f) * r;
    return VN(scale2)((r + r2 * ((even + odd) + 0.5f)) + 1.0f, n);
}

AM_INLINE vf VN(abs)(vf x) { return (vf)((vu)x & 0x7fffffffu); }
AM_INLINE vf VN(with_sign)(vf x, vf sign) { return (vf)((vu)x | ((vu)sign & 0x80000000u)); }

AM_INLINE vf VN(tanh)(vf x)
{
    vf a = VN(abs)(x), u = x * x;
    vf p = u * -8.621347266e-04f + 3.306158933e-03f;
    p = p * u - 8.790968884e-03f;
    p = p * u + 2.185988923e-02f;
    p = p * u - 5.396763909e-02f;
    p = p * u + 1.333333184e-01f;
    p = p * u - 3.333333333e-01f;
    vf small = x + x * (u * p);
    vf large = 1.0f - 2.0f / (VN(exp)(a + a) + 1.0f);
    return VN(with_sign)(VN(less)(a, VN(splat)(0.625f), small, large), x);
}

AM_INLINE vf VN(erf)(vf x)
{
    vf a = VN(abs)(x), u = x * x;
    vf p = u * -1.026474606e-05f + 1.144678863e-04f;
    p = p * u - 8.505492809e-04f;
    p = p * u + 5.222283182e-03f;
    p = p * u - 2.686580392e-02f;
    p = p * u + 1.128378776e-01f;
    p = p * u - 3.761263874e-01f;
    vf small = x * 1.0f + x * (p * u + 1.283791671e-01f); /* 2/sqrt(pi) = 1 + 0.12837… */
    vf c = VN(clamp)(a, 0.0f, 4.0f);                       /* log(erfc) as a polynomial; erf(4) rounds to 1 */
    vf q = c * 1.643063656e-06f - 4.616385863e-05f;
    q = q * c + 5.975857702e-04f;
    q = q * c - 4.762625833e-03f;
    q = q * c + 2.642763715e-02f;
    q = q * c - 1.100871665e-01f;
    q = q * c - 6.318239181e-01f;
    q = q * c - 1.130231055e+00f;
    q = q * c + 3.185396624e-04f;
    vf large = VN(with_sign)(1.0f - VN(exp)(q), x);
    return VN(less)(a, VN(splat)(0.92f), small, large);
}

/* log x = e·log 2 + log m, sqrt(½) <= m < sqrt(2), t = m − 1: log m = t − t²/2 + t³·p(t), p interpolated for the smallest error */
AM_INLINE vf VN(log)(vf x)
{
    const vf least = VN(splat)(1.17549435e-38f), zero = {0};
    const vf scaled = x * VN(less)(x, least, VN(splat)(8388608.0f), VN(splat)(1.0f));
    const vu u = (vu)scaled;
    const vi e = (vi)(u - 0x3f3504f3u) >> 23;
    const vf t = (vf)(u - ((vu)e << 23)) - 1.0f, t2 = t * t;
    const vf k = __builtin_convertvector(e, vf) + VN(less)(x, least, VN(splat)(-23.0f), zero);
    vf p = t * 6.917710049e-02f - 1.177966093e-01f;
    p = p * t + 1.186616201e-01f;
    p = p * t - 1.238580725e-01f;
    p = p * t + 1.421990087e-01f;
    p = p * t - 1.666919637e-01f;
    p = p * t + 2.000215237e-01f;
    p = p * t - 2.499998691e-01f;
    p = p * t + 3.333331182e-01f;
    vf y = (t2 * t) * p - k * 2.12194440054690583e-4f; /* log 2 = 0.693359375 − 2.1219e-4 */
    y = (t + (y - t2 * 0.5f)) + k * 0.693359375f;
    y = VN(less)(zero, x, y, VN(less)(x, zero, VN(splat)(__builtin_nanf("")), VN(splat)(-__builtin_inff())));
    return VN(less)(VN(splat)(3.40282347e+38f), x, x, y + (x - x)); /* NaN stays NaN */
}

/* log(1 + x) with what 1 + x lost given back */
AM_INLINE vf VN(log1p)(vf x)
{
    const vf u = x + 1.0f, lost = x - (u - 1.0f);
    const vf back = VN(less)(VN(splat)(0.0f), u, VN(less)(u, VN(splat)(1e20f), lost / u, VN(splat)(0.0f)), VN(splat)(0.0f));
    return VN(less)(VN(abs)(x), VN(splat)(1e-8f), x, VN(log)(u) + back);
}

/* e^x − 1: x + x²·p(x) near 0 */
AM_INLINE vf VN(expm1)(vf x)
{
    vf p = x * 1.999173320e-04f + 1.399743970e-03f;
    p = p * x + 8.333077420e-03f;
    p = p * x + 4.166531599e-02f;
    p = p * x + 1.666666797e-01f;
    p = p * x + 5.000000417e-01f;
    return VN(less)(VN(abs)(x), VN(splat)(0.5f), x + x * x * p, VN(exp)(x) - 1.0f);
}

AM_INLINE vf VN(floor)(vf x)
{
    const vf whole = __builtin_convertvector(__builtin_convertvector(x, vi), vf);
    return VN(less)(VN(abs)(x), VN(splat)(8388608.0f), whole - VN(less)(x, whole, VN(splat)(1.0f), VN(splat)(0.0f)), x);
}

AM_INLINE vf VN(sqrt)(vf x)
{
#if AM_CPU_W == 16
    return (vf)_mm512_sqrt_ps((__m512)x);
#elif AM_CPU_W == 8
    return (vf)_mm256_sqrt_ps((__m256)x);
#else
    return (vf)_mm_sqrt_ps((__m128)x);
#endif
}
#undef vf
#undef vi
#undef vu
#undef vh
