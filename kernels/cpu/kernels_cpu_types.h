/* kernels_cpu_types: compiles AM_BODY for f64, f32 and bf16 under the instruction set AM_CPU_ISA (f32 and bf16 alone where
 * AM_CPU_BF16 says that f64 has nothing to gain).  A body sees:
 *   elem            stored type of `real` operands        real   type of arithmetic and of f32* operands
 *   FN(op)          op_<type>_<isa>                       VN(name)  a helper of one instruction set (kernels_cpu_vec.h)
 *   LOAD(p, i), STORE(p, i, x)   element i of an elem array    ROUND(x)  x rounded to the stored type    SQRT(x)
 * and, for loops written in vectors instead of left to the compiler,
 *   vec, LANES      a vector of reals and its width (f64: one double); operators work lane by lane
 *   AM_LANES(statement)          the statement for all of [begin, end): elements i to i+n, n <= LANES
 *   VLOAD(p, i, n), VSTORE(p, i, v, n)   n elements of an elem array;   WLOAD, WSTORE  of an array of reals
 *   SPLAT(x), VROUND(v)          x in every lane; v rounded to the stored type
 *   LESS(a, b, x, y)             a < b ? x : y
 *   QUOTIENT(x, d, i)            x / d where i = 1/d is known (bf16: x·i, whose second rounding the store hides)
 *   VEXP, VTANH, VERF, VLOG, VLOG1P, VEXPM1, VFLOOR, VSQRT, VABS   (f64: the C library) */
#define AM_LANES(...)                                                                                    \
    do {                                                                                                 \
        int64_t i = begin;                                                                               \
        for (; i + LANES <= end; i += LANES) {                                                           \
            enum { n = LANES };                                                                          \
            __VA_ARGS__;                                                                                 \
        }                                                                                                \
        if (i < end) {                                                                                   \
            const int64_t n = end - i;                                                                   \
            __VA_ARGS__;                                                                                 \
        }                                                                                                \
    } while (0)

#ifndef AM_CPU_BF16
#define elem double
#define real double
#define vec double
#define LANES 1
#define FN(op) AM_CPU_CAT3(op, f64, AM_CPU_ISA)
#define LOAD(p, i) ((p)[i])
#define STORE(p, i, x) ((p)[i] = (x))
#define VLOAD(p, i, n) ((void)(n), (p)[i])
#define VSTORE(p, i, v, n) ((void)(n), (p)[i] = (v))
#define WLOAD VLOAD
#define WSTORE VSTORE
#define SPLAT(x) (x)
#define ROUND(x) (x)
#define VROUND(v) (v)
#define LESS(a, b, x, y) ((a) < (b) ? (x) : (y))
#define QUOTIENT(x, d, i) ((x) / (d))
#define VEXP exp
#define VTANH tanh
#define VERF erf
#define VLOG log
#define VLOG1P log1p
#define VEXPM1 expm1
#define VFLOOR floor
#define VSQRT sqrt
#define VABS fabs
#define SQRT sqrt
#define AM_CPU_TYPE_F64 1
#include AM_BODY
#undef AM_CPU_TYPE_F64
#undef elem
#undef real
#undef vec
#undef LANES
#undef FN
#undef LOAD
#undef STORE
#undef VLOAD
#undef VSTORE
#undef WLOAD
#undef WSTORE
#undef SPLAT
#undef ROUND
#undef VROUND
#undef LESS
#undef QUOTIENT
#undef VEXP
#undef VTANH
#undef VERF
#undef VLOG
#undef VLOG1P
#undef VEXPM1
#undef VFLOOR
#undef VSQRT
#undef VABS
#undef SQRT
#endif

#define real float
#define vec VN(vf)
#define LANES AM_CPU_W
#define WLOAD(p, i, n) VN(load_f32)((p) + (i), n)
#define WSTORE(p, i, v, n) VN(store_f32)((p) + (i), v, n)
#define SPLAT VN(splat)
#define LESS VN(less)
#define VEXP VN(exp)
#define VTANH VN(tanh)
#define VERF VN(erf)
#define VLOG VN(log)
#define VLOG1P VN(log1p)
#define VEXPM1 VN(expm1)
#define VFLOOR VN(floor)
#define VSQRT VN(sqrt)
#define VABS VN(abs)
#define SQRT sqrtf

#define elem float
#define FN(op) AM_CPU_CAT3(op, f32, AM_CPU_ISA)
#define LOAD(p, i) ((p)[i])
#define STORE(p, i, x) ((p)[i] = (x))
#define VLOAD WLOAD
#define VSTORE WSTORE
#define ROUND(x) (x)
#define VROUND(v) (v)
#define QUOTIENT(x, d, i) ((x) / (d))
#include AM_BODY
#undef QUOTIENT
#undef elem
#undef FN
#undef LOAD
#undef STORE
#undef VLOAD
#undef VSTORE
#undef ROUND
#undef VROUND

#define elem uint16_t
#define FN(op) AM_CPU_CAT3(op, bf16, AM_CPU_ISA)
#define LOAD(p, i) am_cpu_load_bf16((p) + (i))
#define STORE(p, i, x) ((p)[i] = am_cpu_to_bf16(x))
#define VLOAD(p, i, n) VN(load_bf16)((p) + (i), n)
#define VSTORE(p, i, v, n) VN(store_bf16)((p) + (i), v, n)
#define ROUND(x) am_cpu_round_bf16(x)
#define VROUND VN(round_bf16)
#define QUOTIENT(x, d, i) ((x) * (i))
#include AM_BODY
#undef QUOTIENT
#undef elem
#undef FN
#undef LOAD
#undef STORE
#undef VLOAD
#undef VSTORE
#undef ROUND
#undef VROUND

#undef real
#undef vec
#undef LANES
#undef WLOAD
#undef WSTORE
#undef SPLAT
#undef LESS
#undef VEXP
#undef VTANH
#undef VERF
#undef VLOG
#undef VLOG1P
#undef VEXPM1
#undef VFLOOR
#undef VSQRT
#undef VABS
#undef SQRT
#undef AM_LANES
