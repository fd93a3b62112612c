/* automodel bench: what this machine can do, and what a recipe's step makes of it. */
#include "cli/cli.h"

#include "kernels.h"
#include "topo/topo.h"
#include "train/bench.h"
#include "train/engine.h"

#include <jansson.h>
#include <string.h>

static const am_cli_option options[] = {
    {"steps", 0, AM_CLI_INT, "5", "N", "step: measure N steps, after one that is not counted."},
    {"profile", 0, AM_CLI_FLAG, NULL, NULL, "step: a line for each kind of operator in the fastest step: its time, the floor that this machine's ceilings set it, their ratio."},
    {"dtype", 0, AM_CLI_STRING, "float32", "T", "gemm: float32 or bfloat16 (a step takes the recipe's)."},
    {"json", 0, AM_CLI_FLAG, NULL, NULL, "Print JSON."},
    {0},
};
const am_cli_command am_bench_command = {"automodel bench", "step CONFIG [--section.key=value …] [--profile] | gemm [--dtype T]",
                                         "Measures a training step of a recipe on random tokens, or the ceilings of this machine; under mpirun or srun on "
                                         "all ranks.", options, 1, 2, true};

static const char *phase_name(am_phase p)
{
    static const char *const names[] = {[AM_PHASE_F] = "forward", [AM_PHASE_B] = "backward", [AM_PHASE_W] = "weights",
                                        [AM_PHASE_PRE] = "before", [AM_PHASE_POST] = "after"};
    return names[p];
}

/* No faster than its FLOPs at the product ceiling, nor than its bytes at that of memory. */
static double floor_of(const am_profile_row *r, const am_ceilings *c)
{
    double flops = r->flops / c->flops, bytes = r->bytes / c->bytes;
    return flops > bytes ? flops : bytes;
}

static void print_profile(const am_step_bench *b)
{
    double total = b->between, least = 0;
    for (int i = 0; i < b->num_rows; i++) total += b->rows[i].seconds;
    printf("\n%-16s %-8s %7s %9s %6s %9s %9s %9s %6s\n", "operator", "phase", "calls", "ms", "share", "GFLOP/s", "GB/s", "floor ms", "of it");
    for (int i = 0; i < b->num_rows; i++) {
        const am_profile_row *r = &b->rows[i];
        double floor = floor_of(r, &b->ceilings);
        least += floor;
        if (r->calls == 0) continue;
        printf("%-16s %-8s %7" PRId64 " %9.2f %5.1f%% %9.1f %9.2f %9.2f %5.0f%%\n", r->op, phase_name(r->phase), r->calls, 1e3 * r->seconds,
               100 * r->seconds / total, r->flops * 1e-9 / r->seconds, r->bytes * 1e-9 / r->seconds, 1e3 * floor, 100 * floor / r->seconds);
    }
    printf("%-16s %-8s %7s %9.2f %5.1f%%      (%.2f of it waiting for messages)\n", "outside of them", "", "", 1e3 * b->between,
           100 * b->between / total, 1e3 * b->waits);
    printf("%-16s %-8s %7s %9.2f %5.1f%% %9s %9s %9.2f %5.0f%%\n", "all", "", "", 1e3 * total, 100.0, "", "", 1e3 * least,
           100 * least / total);
}

static void print_ceilings(const am_ceilings *c, am_dtype t, int threads)
{
    printf("ceilings: %.1f GFLOP/s in %s products, %.2f GB/s of memory (%d thread%s, %s kernels)\n", c->flops * 1e-9, am_dtype_name(t), c->bytes * 1e-9,
           threads, threads == 1 ? "" : "s", am_isa_name(am_kernels_cpu_isa()));
}

static void print_step(const am_step_bench *b, bool profile)
{
    double step = b->seconds;
    printf("step: %.1f ms, %.1f tokens/s a rank (%" PRId64 " tokens, %d rank%s of %d thread%s, median of %d)\n", 1e3 * step, (double)b->tokens / step,
           b->tokens, b->ranks, b->ranks == 1 ? "" : "s", b->threads, b->threads == 1 ? "" : "s", b->steps);
    printf("memory: plan %.2f GiB, peak of the process %.2f GiB\n", (double)b->plan_bytes / 0x1p30, b->peak_gib);
    print_ceilings(&b->ceilings, b->compute, b->threads);
    printf("products: %.1f GFLOP a step, %.1f GFLOP/s, %.0f %% of the ceiling\n", (double)b->flops * 1e-9, (double)b->flops * 1e-9 / step,
           100 * (double)b->flops / step / b->ceilings.flops);
    if (profile) print_profile(b);
}

static json_t *ceilings_json(const am_ceilings *c)
{
    return json_pack("{s:f, s:f}", "flops_per_second", c->flops, "bytes_per_second", c->bytes);
}

static void print_step_json(const am_step_bench *b)
{
    json_t *rows = json_array();
    for (int i = 0; i < b->num_rows; i++) {
        const am_profile_row *r = &b->rows[i];
        json_array_append_new(rows, json_pack("{s:s, s:s, s:f, s:f, s:f, s:f, s:f}", "operator", r->op, "phase", phase_name(r->phase), "calls",
                                              (double)r->calls, "seconds", r->seconds, "flops", r->flops, "bytes", r->bytes,
                                              "floor_seconds", floor_of(r, &b->ceilings)));
    }
    json_t *o = json_pack("{s:f, s:I, s:i, s:i, s:s, s:I, s:I, s:f, s:o, s:f, s:f, s:o}", "step_seconds", b->seconds, "tokens", (json_int_t)b->tokens, "ranks",
                          b->ranks, "threads", b->threads, "compute", am_dtype_name(b->compute), "flops", (json_int_t)b->flops, "plan_bytes",
                          (json_int_t)b->plan_bytes, "peak_gib", b->peak_gib, "ceilings", ceilings_json(&b->ceilings), "outside_seconds",
                          b->between, "wait_seconds", b->waits, "operators", rows);
    json_dumpf(o, stdout, JSON_INDENT(2));
    printf("\n");
    json_decref(o);
}

static am_status run_step(const am_cli *cli)
{
    am_status st = AM_OK;
    am_config *cfg = NULL;
    am_step_bench b = {0};
    int n = 0;
    int64_t steps = am_cli_int(cli, "steps");
    const char *const *overrides = am_cli_overrides(cli, &n);
    AM_CHECK(am_cli_num_positionals(cli) == 2, AM_ERR_USAGE, "bench step needs a recipe: automodel bench step CONFIG.yaml");
    AM_CHECK(steps >= 1 && steps <= 10000, AM_ERR_USAGE, "--steps is 1 to 10000, not %" PRId64, steps);
    AM_CHECK(!am_cli_given(cli, "dtype"), AM_ERR_USAGE, "--dtype goes with gemm; a step computes as the recipe says: --model.torch_dtype=bf16");
    AM_TRY(am_config_load(am_cli_positional(cli, 1), n, overrides, &cfg));
    AM_TRY(am_bench_step(cfg, (int)steps, &b));
    if (b.rank > 0) goto done; /* rank 0 tells what it saw; the others were there for the messages */
    if (am_cli_flag(cli, "json")) print_step_json(&b);
    else print_step(&b, am_cli_flag(cli, "profile"));
done:
    am_step_bench_release(&b);
    am_config_free(&cfg);
    return st;
}

static am_status run_gemm(const am_cli *cli)
{
    am_status st = AM_OK;
    am_engine *e = NULL;
    am_ceilings c;
    am_dtype t = AM_F32;
    AM_CHECK(am_cli_num_positionals(cli) == 1, AM_ERR_USAGE, "bench gemm takes no recipe");
    AM_CHECK(am_dtype_parse(am_cli_string(cli, "dtype"), &t) && (t == AM_F32 || t == AM_BF16), AM_ERR_USAGE,
             "--dtype is float32 or bfloat16, not %s", am_cli_string(cli, "dtype"));
    AM_TRY(am_engine_open(&(am_engine_options){.quiet = true}, &e));
    AM_TRY(am_bench_ceilings(e->device, t, &c));
    if (am_cli_flag(cli, "json")) {
        json_t *o = ceilings_json(&c);
        json_dumpf(o, stdout, JSON_INDENT(2));
        printf("\n");
        json_decref(o);
    } else {
        print_ceilings(&c, t, e->threads);
    }
    AM_TRY(am_engine_close(&e));
done:
    return st;
}

am_status am_cmd_bench(int argc, char **argv)
{
    am_status st = AM_OK;
    am_cli *cli = NULL;
    AM_TRY(am_cli_parse(&am_bench_command, argc, (const char *const *)argv, &cli));
    if (am_cli_help_wanted(cli)) {
        am_cli_print_help(&am_bench_command, stdout);
        goto done;
    }
    const char *what = am_cli_positional(cli, 0);
    if (strcmp(what, "step") == 0) AM_TRY(run_step(cli));
    else if (strcmp(what, "gemm") == 0) AM_TRY(run_gemm(cli));
    else AM_FAIL(AM_ERR_USAGE, "bench measures \"step\" or \"gemm\", not \"%s\"", what);
done:
    am_cli_free(&cli);
    return st;
}
