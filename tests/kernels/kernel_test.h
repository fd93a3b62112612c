/* kernel_test: running one kernel in a test: operands from arrays of doubles, every compute dtype, every instruction set
 * of this machine, any number of threads.  A failed expectation ends the cmocka case with the operator's name. */
#ifndef AM_KERNEL_TEST_H
#define AM_KERNEL_TEST_H

#include "kernels.h"

/* type: r compute dtype, w f32* (f64 with f64), i i32, d f64.  An operand with rank 0 is absent. */
typedef struct kt_operand {
    const void *values; /* double[], or int32_t[] for type i; NULL = pseudo-random numbers in [-1, 1) */
    char        type;
    int         rank;
    int64_t     dim[AM_MAX_RANK];
} kt_operand;

typedef struct kt_case {
    const char *op;
    am_attrs    attrs;
    int         num_in, num_out;
    kt_operand  in[AM_MAX_IN], out[AM_MAX_OUT]; /* out: expected values (kt_compare) or shapes alone */
    bool        accumulates; /* also run with accumulate into outputs that hold 1 */
    bool        in_place;    /* outputs are the last num_out inputs */
    double      tolerance[3]; /* f64, f32, bf16: |got − want| <= tolerance·max(1, |want|) */
} kt_case;

/** Outputs against expected values: all dtypes, all instruction sets (bitwise equal among them), with accumulate if so said. */
void kt_compare(const kt_case *k);
/** Outputs bitwise equal for 1, 2 and 3 threads, and again, and on all instruction sets; values may be NULL. */
void kt_bitwise(const kt_case *k);
/** One f64 call on given buffers, 1 thread: in[i] and out[i] of the case's shapes.  Asserts success. */
void kt_call_f64(const kt_case *k, void *const *in, void *const *out);
/** One call; returns its status and leaves outputs (freed by the next call) in *outputs when not NULL. */
am_status kt_call(const kt_case *k, am_dtype real, int threads, bool accumulate, char **outputs, size_t *bytes);

#endif
