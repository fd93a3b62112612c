/* automodel bench: what this machine can do, and what a recipe's step makes of it. */
#include "cli/cli.h"

#include "cli/bench_print.h"
#include "kernels.h"
#include "train/engine.h"

#include <string.h>

static const am_cli_option options[] = {
    {"steps", 0, AM_CLI_INT, "5", "N", "step: measure N steps, after one that is not counted."},
    {"profile", 0, AM_CLI_FLAG, NULL, NULL,
     "step: a line for each kind of operator in the fastest step: calls, time, FLOPs, bytes, the floor that "
     "this machine's ceilings set it, their ratio; and the processor's counters where the kernel lets them be "
     "read."},
    {"memory", 0, AM_CLI_FLAG, NULL, NULL,
     "step: the parts of the plan beside what the process holds of them, and what it holds besides."},
    {"passes", 0, AM_CLI_FLAG, NULL, NULL,
     "step: the recipe beside the same with each optional pass set to each of its other values: step, "
     "memory, operators; every one in fresh processes, in turn."},
    {"rounds", 0, AM_CLI_INT, "3", "N", "step --passes: N rounds over all of them; tokenizer: the best of N."},
    {"dtype", 0, AM_CLI_STRING, "float32", "T", "gemm, experts: float32 or bfloat16 (a step takes the recipe's)."},
    {"json", 0, AM_CLI_FLAG, NULL, NULL, "Print JSON."},
    {0},
};
const am_cli_command am_bench_command = {
    "automodel bench",
    "step CONFIG [--section.key=value …] [--profile] [--memory] [--passes] | start CONFIG "
    "[--section.key=value …] | gemm [--dtype T] | experts [--dtype T] | tokenizer MODEL [FILE.jsonl]",
    "Measures a training step of a recipe on random tokens, the start of a run from the command to its first "
    "step (with the recipe's data), the ceilings of this machine, products by expert beside them, or a model's tokenizer; under mpirun or srun on all ranks.",
    options, 1, 3, true};

static am_status run_one_step(const am_cli *cli, int steps)
{
    am_status st = AM_OK;
    am_config *cfg = NULL;
    am_step_bench b = {0};
    int n = 0;
    bool profile = am_cli_flag(cli, "profile"), memory = am_cli_flag(cli, "memory");
    const am_bench_options o = {.steps = steps, .counters = profile, .memory = memory, .ceilings = true};
    const char *const *overrides = am_cli_overrides(cli, &n);
    AM_TRY(am_config_load(am_cli_positional(cli, 1), n, overrides, &cfg));
    AM_TRY(am_bench_step(cfg, &o, &b));
    if (b.rank > 0) goto done; /* rank 0 tells what it saw; the others were there for the messages */
    if (am_cli_flag(cli, "json")) {
        am_bench_json_step(&b, memory);
        goto done;
    }
    am_bench_print_step(&b);
    if (profile) am_bench_print_profile(&b);
    if (memory) am_bench_print_memory(&b);
done:
    am_step_bench_release(&b);
    am_config_free(&cfg);
    return st;
}

static am_status run_passes(const am_cli *cli, int steps)
{
    am_status st = AM_OK;
    am_pass_bench *b = NULL;
    int n = 0;
    int64_t rounds = am_cli_int(cli, "rounds");
    const char *const *overrides = am_cli_overrides(cli, &n);
    AM_CHECK(rounds >= 1 && rounds <= AM_BENCH_ROUNDS, AM_ERR_USAGE, "--rounds is 1 to %d, not %" PRId64,
             AM_BENCH_ROUNDS, rounds);
    AM_CHECK(!am_cli_flag(cli, "memory"), AM_ERR_USAGE,
             "--memory looks into one process, and --passes starts many: ask for one of them");
    AM_TRY(am_calloc(1, sizeof *b, &b));
    AM_TRY(am_bench_passes(am_cli_positional(cli, 1), n, overrides, steps, (int)rounds, b));
    if (b->child) goto done;
    if (am_cli_flag(cli, "json"))
        am_bench_json_passes(b);
    else
        AM_TRY(am_bench_print_passes(b, am_cli_flag(cli, "profile")));
done:
    if (b) am_pass_bench_release(b);
    am_free(&b);
    return st;
}

static am_status run_step(const am_cli *cli)
{
    am_status st = AM_OK;
    int64_t steps = am_cli_int(cli, "steps");
    AM_CHECK(am_cli_num_positionals(cli) == 2, AM_ERR_USAGE,
             "bench step needs a recipe: automodel bench step CONFIG.yaml");
    AM_CHECK(steps >= 1 && steps <= 10000, AM_ERR_USAGE, "--steps is 1 to 10000, not %" PRId64, steps);
    AM_CHECK(!am_cli_given(cli, "dtype"), AM_ERR_USAGE,
             "--dtype goes with gemm; a step computes as the recipe says: --model.torch_dtype=bf16");
    AM_CHECK(!am_cli_given(cli, "rounds") || am_cli_flag(cli, "passes"), AM_ERR_USAGE,
             "--rounds goes with --passes");
    AM_TRY(am_cli_flag(cli, "passes") ? run_passes(cli, (int)steps) : run_one_step(cli, (int)steps));
done:
    return st;
}

/* What belongs to another thing that bench measures would be ignored. */
static am_status refuse_others(const am_cli *cli, const char *what, const char *allowed)
{
    am_status st = AM_OK;
    for (const am_cli_option *o = options; o->name; o++)
        AM_CHECK(!am_cli_given(cli, o->name) || strcmp(o->name, "json") == 0 || strcmp(o->name, allowed) == 0,
                 AM_ERR_USAGE, "--%s does not go with bench %s", o->name, what);
done:
    return st;
}

static am_status run_start(const am_cli *cli)
{
    am_status st = AM_OK;
    am_start_clock c;
    int n = 0, rank = 0;
    const char *const *overrides = am_cli_overrides(cli, &n);
    AM_CHECK(am_cli_num_positionals(cli) == 2, AM_ERR_USAGE,
             "bench start needs a recipe: automodel bench start CONFIG.yaml");
    AM_TRY(refuse_others(cli, "start", ""));
    AM_TRY(am_bench_start(am_cli_positional(cli, 1), n, overrides, &c, &rank));
    if (rank > 0) goto done;
    if (am_cli_flag(cli, "json"))
        am_bench_json_start(&c);
    else
        am_bench_print_start(&c);
done:
    return st;
}

static am_status run_gemm(const am_cli *cli)
{
    am_status st = AM_OK;
    am_engine *e = NULL;
    am_ceilings c;
    am_dtype t = AM_F32;
    AM_CHECK(am_cli_num_positionals(cli) == 1, AM_ERR_USAGE, "bench gemm takes no recipe");
    AM_TRY(refuse_others(cli, "gemm", "dtype"));
    AM_CHECK(am_dtype_parse(am_cli_string(cli, "dtype"), &t) && (t == AM_F32 || t == AM_BF16), AM_ERR_USAGE,
             "--dtype is float32 or bfloat16, not %s", am_cli_string(cli, "dtype"));
    AM_TRY(am_engine_open(&(am_engine_options){.quiet = true}, &e));
    AM_TRY(am_bench_ceilings(e->device, t, &c));
    if (am_cli_flag(cli, "json"))
        am_bench_json_ceilings(&c);
    else
        am_bench_print_ceilings(&c, t, e->threads);
    AM_TRY(am_engine_close(&e));
done:
    return st;
}

static am_status run_experts(const am_cli *cli)
{
    am_status st = AM_OK;
    am_engine *e = NULL;
    am_expert_rate rows[AM_EXPERT_RATES];
    am_dtype t = AM_F32;
    int num = 0;
    AM_CHECK(am_cli_num_positionals(cli) == 1, AM_ERR_USAGE, "bench experts takes no recipe");
    AM_TRY(refuse_others(cli, "experts", "dtype"));
    AM_CHECK(am_dtype_parse(am_cli_string(cli, "dtype"), &t) && (t == AM_F32 || t == AM_BF16), AM_ERR_USAGE,
             "--dtype is float32 or bfloat16, not %s", am_cli_string(cli, "dtype"));
    AM_TRY(am_engine_open(&(am_engine_options){.quiet = true}, &e));
    AM_TRY(am_bench_experts(e->device, t, rows, &num));
    if (am_cli_flag(cli, "json"))
        am_bench_json_experts(rows, num);
    else
        am_bench_print_experts(rows, num, t, e->threads);
    AM_TRY(am_engine_close(&e));
done:
    return st;
}

static am_status run_tokenizer(const am_cli *cli)
{
    am_status st = AM_OK;
    int64_t rounds = am_cli_int(cli, "rounds");
    AM_CHECK(am_cli_num_positionals(cli) >= 2, AM_ERR_USAGE,
             "bench tokenizer needs a model: automodel bench tokenizer MODEL [FILE.jsonl]");
    AM_CHECK(rounds >= 1 && rounds <= 1000, AM_ERR_USAGE, "--rounds is 1 to 1000, not %" PRId64, rounds);
    AM_TRY(refuse_others(cli, "tokenizer", "rounds"));
    AM_TRY(am_bench_tokenizer(am_cli_positional(cli, 1), am_cli_num_positionals(cli) > 2 ? am_cli_positional(cli, 2) : NULL,
                              (int)rounds, am_cli_flag(cli, "json")));
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
    if (strcmp(what, "step") == 0)
        AM_TRY(run_step(cli));
    else if (strcmp(what, "start") == 0)
        AM_TRY(run_start(cli));
    else if (strcmp(what, "gemm") == 0)
        AM_TRY(run_gemm(cli));
    else if (strcmp(what, "experts") == 0)
        AM_TRY(run_experts(cli));
    else if (strcmp(what, "tokenizer") == 0)
        AM_TRY(run_tokenizer(cli));
    else
        AM_FAIL(AM_ERR_USAGE, "bench measures \"step\", \"start\", \"gemm\", \"experts\" or \"tokenizer\", not \"%s\"", what);
done:
    am_cli_free(&cli);
    return st;
}
