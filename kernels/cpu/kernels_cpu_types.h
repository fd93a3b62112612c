/* kernels_cpu_types: compiles AM_BODY for f64, f32 and bf16 under the instruction set AM_CPU_ISA.  A body sees:
 *   elem            stored type of `real` operands        real   type of arithmetic and of f32* operands
 *   FN(op)          op_<type>_<isa>                       ROUND(x) x rounded to the stored type, as a real
 *   LOAD(p, i), STORE(p, i, x)   element i of an elem array
 *   EXP, TANH, ERF, SQRT         of reals (float: kernels_cpu_math.h, vectorisable; double: the C library) */
#define elem double
#define real double
#define FN(op) AM_CPU_CAT3(op, f64, AM_CPU_ISA)
#define LOAD(p, i) ((p)[i])
#define STORE(p, i, x) ((p)[i] = (x))
#define ROUND(x) (x)
#define EXP exp
#define TANH tanh
#define ERF erf
#define SQRT sqrt
#define AM_CPU_TYPE_F64 1
#include AM_BODY
#undef AM_CPU_TYPE_F64
#undef elem
#undef real
#undef FN
#undef EXP
#undef TANH
#undef ERF
#undef SQRT

#define elem float
#define real float
#define EXP am_cpu_expf
#define TANH am_cpu_tanhf
#define ERF am_cpu_erff
#define SQRT sqrtf
#define FN(op) AM_CPU_CAT3(op, f32, AM_CPU_ISA)
#include AM_BODY
#undef elem
#undef FN
#undef LOAD
#undef STORE
#undef ROUND

#define elem uint16_t
#define FN(op) AM_CPU_CAT3(op, bf16, AM_CPU_ISA)
#define LOAD(p, i) am_cpu_load_bf16((p) + (i))
#define STORE(p, i, x) ((p)[i] = am_cpu_to_bf16(x))
#define ROUND(x) am_cpu_round_bf16(x)
#include AM_BODY
#undef elem
#undef real
#undef FN
#undef LOAD
#undef STORE
#undef ROUND
#undef EXP
#undef TANH
#undef ERF
#undef SQRT
