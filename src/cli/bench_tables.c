/* bench_tables.c: the plan beside the process, the passes beside the recipe, the parts of a start. */
#include "cli/bench_print.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static double mib(int64_t bytes)
{
    return (double)bytes / 0x1p20;
}

/* ---- memory
 * ------------------------------------------------------------------------------------------------------ */

static void print_marks(const am_start_clock *c)
{
    printf("%-28s %9s %9s %9s %9s %9s %9s\n", "after", "ms", "at ms", "anon", "file", "shared", "peak MiB");
    for (int i = 0; i < c->num_marks; i++) {
        const am_start_mark *m = &c->mark[i];
        printf("%-28s %9.1f %9.1f %9.1f %9.1f %9.1f %9.1f\n", m->what,
               1e3 * (m->at - (i ? c->mark[i - 1].at : 0)), 1e3 * m->at, mib(m->memory.anon),
               mib(m->memory.file), mib(m->memory.shmem), mib(m->memory.peak));
    }
}

void am_bench_print_memory(const am_step_bench *b)
{
    const am_memory_report *r = &b->memory;
    int64_t sum = r->resident;
    printf("\n%-34s %10s %10s\n", "MiB", "plan", "resident");
    for (int i = 0; i < r->num_parts; i++)
        if (r->part[i].plan > 0)
            printf("%-34s %10.1f %10.1f\n", r->part[i].name, mib(r->part[i].plan), mib(r->part[i].resident));
    printf("%-34s %10.1f %10.1f\n", "the plan", mib(r->plan), mib(r->resident));
    for (int k = 0; k < AM_MAPPING_COUNT; k++) {
        if (r->besides[k] > 0)
            printf("%-34s %10s %10.1f\n", am_mapping_name((am_mapping_kind)k), "", mib(r->besides[k]));
        sum += r->besides[k];
    }
    printf("%-34s %10s %10.1f   (the kernel's own count: %.1f)\n", "the process now", "", mib(sum),
           mib(r->process.now));
    printf("%-34s %10s %10.1f\n", "gone again since its peak", "", mib(am_max_i64(r->process.peak - sum, 0)));
    printf("%-34s %10s %10.1f   (VmHWM; %.1f more than the plan)\n", "its peak", "", mib(r->process.peak),
           mib(r->process.peak - r->plan));
    printf("not in these figures: page tables %.1f, hugetlb pages %.1f\n\n", mib(r->process.page_tables),
           mib(r->process.huge));
    print_marks(&b->clock);
}

/* ---- start
 * ----------------------------------------------------------------------------------------------------- */

void am_bench_print_start(const am_start_clock *c)
{
    const am_start_mark *ready = am_start_find(c, AM_START_READY), *step = am_start_find(c, AM_START_STEP);
    if (ready && step)
        printf("start: %.3f s from the start of the process to the first step, %.3f s to its end\n",
               ready->at, step->at);
    print_marks(c);
}

/* ---- passes
 * ------------------------------------------------------------------------------------------------------ */

const am_profile_row *am_bench_same_row(const am_step_bench *b, const am_profile_row *r)
{
    for (int i = 0; i < b->num_rows; i++)
        if (b->rows[i].phase == r->phase && strcmp(b->rows[i].op, r->op) == 0) return &b->rows[i];
    return NULL;
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

am_bench_ratio am_bench_against_recipe(const am_pass_bench *b, int variant)
{
    double r[AM_BENCH_ROUNDS] = {0};
    int n = b->rounds;
    for (int i = 0; i < n; i++) r[i] = b->variant[variant].seconds[i] / b->variant[0].seconds[i];
    qsort(r, (size_t)n, sizeof *r, ascending);
    return (am_bench_ratio){
        .median = 0.5 * (r[(n - 1) / 2] + r[n / 2]), .smallest = r[0], .largest = r[n - 1]};
}

static double median_step(const am_pass_bench *b, const am_bench_variant *v)
{
    double s[AM_BENCH_ROUNDS] = {0};
    memcpy(s, v->seconds, (size_t)b->rounds * sizeof *s);
    qsort(s, (size_t)b->rounds, sizeof *s, ascending);
    return 0.5 * (s[(b->rounds - 1) / 2] + s[b->rounds / 2]);
}

static const char *variant_name(const am_bench_variant *v, char out[96])
{
    snprintf(out, 96, "%s%s%s", v->key ? v->key : "the recipe", v->key ? "=" : "", v->value);
    return out;
}

static void print_variant(const am_pass_bench *b, int i)
{
    const am_bench_variant *v = &b->variant[i], *recipe = &b->variant[0];
    char name[96];
    printf("%-34s", variant_name(v, name));
    if (v->exit_code != 0) {
        printf("  does not run: exit code %d, see above\n", v->exit_code);
        return;
    }
    am_bench_ratio r = am_bench_against_recipe(b, i);
    printf(" %9.1f   %5.3f (%5.3f to %5.3f) %9.1f %9.1f %+9.1f\n", 1e3 * median_step(b, v), r.median,
           r.smallest, r.largest, mib(v->best.plan_bytes), 1024 * v->best.peak_gib,
           1024 * (v->best.peak_gib - recipe->best.peak_gib));
}

typedef struct difference {
    const char *op;
    am_phase phase;
    double recipe, here;
} difference;

static int by_difference(const void *a, const void *b)
{
    const difference *x = a, *y = b;
    double dx = fabs(x->here - x->recipe), dy = fabs(y->here - y->recipe);
    return (dx < dy) - (dx > dy);
}

/* The union of both profiles' rows, and what lies outside of operators. */
static am_status list_differences(const am_step_bench *recipe, const am_step_bench *here, difference **out,
                                  int *count)
{
    am_status st = AM_OK;
    difference *d = NULL;
    int n = 0;
    AM_TRY(am_calloc((size_t)(recipe->num_rows + here->num_rows + 1), sizeof *d, &d));
    for (int i = 0; i < recipe->num_rows; i++) {
        const am_profile_row *r = &recipe->rows[i], *same = am_bench_same_row(here, r);
        d[n++] = (difference){
            .op = r->op, .phase = r->phase, .recipe = r->seconds, .here = same ? same->seconds : 0};
    }
    for (int i = 0; i < here->num_rows; i++)
        if (!am_bench_same_row(recipe, &here->rows[i]))
            d[n++] = (difference){
                .op = here->rows[i].op, .phase = here->rows[i].phase, .here = here->rows[i].seconds};
    qsort(d, (size_t)n, sizeof *d, by_difference);
    *out = d;
    *count = n;
done:
    return st;
}

/* Rows that differ by 0.5 % of the step or more; the others in one line, so that the lines sum to the steps.
 */
static am_status print_differences(const am_pass_bench *b, const am_bench_variant *v)
{
    am_status st = AM_OK;
    const am_step_bench *recipe = &b->variant[0].best;
    difference *d = NULL;
    char name[96];
    int n = 0;
    AM_TRY(list_differences(recipe, &v->best, &d, &n));
    double rest = recipe->between, rest_here = v->best.between, all = recipe->between,
           all_here = v->best.between;
    for (int i = 0; i < n; i++) {
        all += d[i].recipe;
        all_here += d[i].here;
    }
    printf("\n%-34s %9s %9s %9s   (ms of the fastest step)\n", variant_name(v, name), "recipe", "here",
           "difference");
    for (int i = 0; i < n; i++) {
        if (fabs(d[i].here - d[i].recipe) >= 0.005 * all) {
            printf("  %-20s %-11s %9.2f %9.2f %+9.2f\n", d[i].op, am_bench_phase(d[i].phase),
                   1e3 * d[i].recipe, 1e3 * d[i].here, 1e3 * (d[i].here - d[i].recipe));
        } else {
            rest += d[i].recipe;
            rest_here += d[i].here;
        }
    }
    printf("  %-20s %-11s %9.2f %9.2f %+9.2f\n", "others", "", 1e3 * rest, 1e3 * rest_here,
           1e3 * (rest_here - rest));
    printf("  %-20s %-11s %9.2f %9.2f %+9.2f\n", "all", "", 1e3 * all, 1e3 * all_here,
           1e3 * (all_here - all));
done:
    am_free(&d);
    return st;
}

am_status am_bench_print_passes(const am_pass_bench *b, bool profile)
{
    am_status st = AM_OK;
    char name[96];
    printf("%-34s %9s   %-24s %9s %9s %9s\n", "", "step ms", "beside the recipe", "plan MiB", "peak MiB",
           "peak +/-");
    for (int i = 0; i < b->num_variants; i++) print_variant(b, i);
    printf("(medians of %d rounds of %d steps, each in a fresh process)\n", b->rounds,
           b->variant[0].best.steps);
    for (int i = 1; i < b->num_variants; i++)
        if (b->variant[i].exit_code == 0) AM_TRY(print_differences(b, &b->variant[i]));
    for (int i = 0; profile && i < b->num_variants; i++) {
        if (b->variant[i].exit_code != 0) continue;
        printf("\n%s\n", variant_name(&b->variant[i], name));
        am_bench_print_step(&b->variant[i].best);
        am_bench_print_profile(&b->variant[i].best);
    }
done:
    return st;
}
