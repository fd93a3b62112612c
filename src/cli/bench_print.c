/* bench_print.c: the step and its profile as tables. */
#include "cli/bench_print.h"

#include "kernels.h"

#include <string.h>

const char *am_bench_phase(am_phase p)
{
    static const char *const names[] = {[AM_PHASE_F] = "forward",
                                        [AM_PHASE_B] = "backward",
                                        [AM_PHASE_W] = "weights",
                                        [AM_PHASE_PRE] = "before",
                                        [AM_PHASE_POST] = "after"};
    return names[p];
}

double am_bench_floor(const am_profile_row *r, const am_ceilings *c)
{
    double flops = r->flops / c->flops, bytes = r->bytes / c->bytes;
    return flops > bytes ? flops : bytes;
}

void am_bench_print_ceilings(const am_ceilings *c, am_dtype t, int threads)
{
    printf("ceilings: %.1f GFLOP/s in %s products, %.2f GB/s of memory (%d thread%s, %s kernels)\n",
           c->flops * 1e-9, am_dtype_name(t), c->bytes * 1e-9, threads, threads == 1 ? "" : "s",
           am_isa_name(am_kernels_cpu_isa()));
}

void am_bench_print_step(const am_step_bench *b)
{
    double step = b->seconds;
    printf("step: %.1f ms, %.1f tokens/s a rank (%" PRId64
           " tokens, %d rank%s of %d thread%s, median of %d)\n",
           1e3 * step, (double)b->tokens / step, b->tokens, b->ranks, b->ranks == 1 ? "" : "s", b->threads,
           b->threads == 1 ? "" : "s", b->steps);
    printf("memory: plan %.2f GiB, peak of the process %.2f GiB\n", (double)b->plan_bytes / 0x1p30,
           b->peak_gib);
    am_bench_print_ceilings(&b->ceilings, b->compute, b->threads);
    printf("products: %.1f GFLOP a step, %.1f GFLOP/s, %.0f %% of the ceiling\n", (double)b->flops * 1e-9,
           (double)b->flops * 1e-9 / step, 100 * (double)b->flops / step / b->ceilings.flops);
}

/* ---- operators
 * ------------------------------------------------------------------------------------------------- */

static void print_row(const am_profile_row *r, double total, const am_ceilings *c)
{
    double floor = am_bench_floor(r, c);
    printf("%-16s %-8s %6" PRId64 " %9.2f %5.1f%% %9.2f %8.3f %8.1f %7.2f %9.2f %5.0f%%\n", r->op,
           am_bench_phase(r->phase), r->calls, 1e3 * r->seconds, 100 * r->seconds / total, r->flops * 1e-9,
           r->bytes * 1e-9, r->flops * 1e-9 / r->seconds, r->bytes * 1e-9 / r->seconds, 1e3 * floor,
           100 * floor / r->seconds);
}

static void print_operators(const am_step_bench *b)
{
    double total = b->between, least = 0, flops = 0, bytes = 0;
    for (int i = 0; i < b->num_rows; i++) {
        total += b->rows[i].seconds;
        least += am_bench_floor(&b->rows[i], &b->ceilings);
        flops += b->rows[i].flops;
        bytes += b->rows[i].bytes;
    }
    printf("\n%-16s %-8s %6s %9s %6s %9s %8s %8s %7s %9s %6s\n", "operator", "phase", "calls", "ms", "share",
           "GFLOP", "GB", "GFLOP/s", "GB/s", "floor ms", "of it");
    for (int i = 0; i < b->num_rows; i++)
        if (b->rows[i].calls > 0) print_row(&b->rows[i], total, &b->ceilings);
    printf("%-16s %-8s %6s %9.2f %5.1f%%      (%.2f of it waiting for messages)\n", "outside of them", "", "",
           1e3 * b->between, 100 * b->between / total, 1e3 * b->waits);
    printf("%-16s %-8s %6s %9.2f %5.1f%% %9.2f %8.3f %8.1f %7.2f %9.2f %5.0f%%\n", "all", "", "", 1e3 * total,
           100.0, flops * 1e-9, bytes * 1e-9, flops * 1e-9 / total, bytes * 1e-9 / total, 1e3 * least,
           100 * least / total);
}

/* ---- counters
 * --------------------------------------------------------------------------------------------------- */

static double unit_of(am_counter c)
{
    return c == AM_COUNTER_CYCLES || c == AM_COUNTER_INSTRUCTIONS ? 1e6 : c == AM_COUNTER_FAULTS ? 1 : 1e3;
}

static void print_counts(const am_step_bench *b, const char *op, const char *phase, const am_counts *x)
{
    printf("%-16s %-8s", op, phase);
    for (int k = 0; k < AM_COUNTER_COUNT; k++)
        if (b->counted[k]) printf(" %13.1f", x->of[k] / unit_of((am_counter)k));
    if (b->counted[AM_COUNTER_CYCLES] && b->counted[AM_COUNTER_INSTRUCTIONS])
        printf(" %11.2f",
               x->of[AM_COUNTER_CYCLES] > 0 ? x->of[AM_COUNTER_INSTRUCTIONS] / x->of[AM_COUNTER_CYCLES] : 0);
    printf("\n");
}

static void print_counters(const am_step_bench *b)
{
    am_counts all = {{0}};
    int columns = 0;
    for (int k = 0; k < AM_COUNTER_COUNT; k++) columns += b->counted[k];
    printf("\n");
    if (b->not_counted[0]) printf("%s\n", b->not_counted);
    if (columns == 0) return;
    printf("%-16s %-8s", "operator", "phase");
    for (int k = 0; k < AM_COUNTER_COUNT; k++) {
        char title[32];
        double unit = unit_of((am_counter)k);
        snprintf(title, sizeof title, "%s%s",
                 unit > 1e3 ? "M "
                 : unit > 1 ? "k "
                            : "",
                 am_counter_title((am_counter)k));
        if (b->counted[k]) printf(" %13s", title);
    }
    printf(b->counted[AM_COUNTER_CYCLES] && b->counted[AM_COUNTER_INSTRUCTIONS] ? " %11s\n" : "\n",
           "instr/cycle");
    for (int i = 0; i < b->num_rows; i++) {
        bool any = false;
        for (int k = 0; k < AM_COUNTER_COUNT; k++) {
            any = any || b->counts[i].of[k] > 0;
            all.of[k] += b->counts[i].of[k];
        }
        if (any) print_counts(b, b->rows[i].op, am_bench_phase(b->rows[i].phase), &b->counts[i]);
    }
    print_counts(b, "all", "", &all);
}

void am_bench_print_profile(const am_step_bench *b)
{
    print_operators(b);
    if (b->counts) print_counters(b);
}
