/* bench_print: what automodel bench has measured, for a person (bench_print.c, bench_tables.c) and for a machine
 * (bench_json.c). */
#ifndef AM_BENCH_PRINT_H
#define AM_BENCH_PRINT_H

#include "train/bench.h"

#include <jansson.h>

/* ---- figures that follow from what was measured ---- */

/** No faster than its FLOPs at the product ceiling, nor than its bytes at that of memory; seconds. */
double am_bench_floor(const am_profile_row *r, const am_ceilings *c);
const char *am_bench_phase(am_phase p);
/** Of a variant that ran in every round: the median, the smallest and the largest of the rounds' ratios to the recipe. */
typedef struct am_bench_ratio { double median, smallest, largest; } am_bench_ratio;
am_bench_ratio am_bench_against_recipe(const am_pass_bench *b, int variant);
/** The row of `b` for the same operator and phase, or NULL. */
const am_profile_row *am_bench_same_row(const am_step_bench *b, const am_profile_row *r);

/* ---- for a person ---- */

void am_bench_print_ceilings(const am_ceilings *c, am_dtype t, int threads);
void am_bench_print_step(const am_step_bench *b);
void am_bench_print_profile(const am_step_bench *b);
void am_bench_print_memory(const am_step_bench *b);
am_status am_bench_print_passes(const am_pass_bench *b, bool profile) AM_WARN_UNUSED;
void am_bench_print_start(const am_start_clock *c);

/* ---- for a machine: one object on standard output ---- */

void am_bench_json_ceilings(const am_ceilings *c);
void am_bench_json_step(const am_step_bench *b, bool memory);
void am_bench_json_passes(const am_pass_bench *b);
void am_bench_json_start(const am_start_clock *c);

/** Open the tokenizer of `model` and encode the texts of a JSONL file ({"text": …}; NULL: open alone), the best of `rounds`,
 *  and print what that took. */
am_status am_bench_tokenizer(const char *model, const char *file, int rounds, bool json) AM_WARN_UNUSED;

#endif
