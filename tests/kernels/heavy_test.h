/* heavy_test: what the tests of linear, attention and linear_ce share, on top of kernel_test.h: exact inputs,
 * results as doubles, loops over instruction sets. */
#ifndef AM_HEAVY_TEST_H
#define AM_HEAVY_TEST_H

#include "kernel_test.h"

static const am_dtype ht_reals[3] = {AM_F64, AM_F32, AM_BF16};

/** n numbers ((i·37 + seed·17) mod 201 − 100)/128: exact in every dtype; make_heavy_reference.py has the
 * same. malloc. */
double *ht_pattern(int seed, int64_t n);
/** n pseudo-random bf16 numbers in (-1, 1) over eight binades: exact in every dtype, but not so their sums.
 * malloc. */
double *ht_random(int seed, int64_t n);
/** Runs the case and returns all outputs, one after the other, as doubles (malloc); fails the test on an
 * error. */
double *ht_run(const kt_case *k, am_dtype real, int threads, bool accumulate);
int64_t ht_elements(const kt_operand *o);
/** |got − want| <= tolerance·max(1, |want|) for each of n. */
void ht_near(const char *what, am_dtype real, const double *got, const double *want, int64_t n,
             double tolerance);
/** fn for every instruction set of this machine, AM_ISA set to it. */
void ht_each_isa(void (*fn)(void *context), void *context);
/** Outputs bitwise equal for 1, 2 and 3 threads, and again with 2, for every dtype and instruction set. */
void ht_bitwise(const kt_case *k);

#endif
