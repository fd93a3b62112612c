/* automodel train: a recipe, trained; or with --dry-run, checked and priced. */
#include "cli/cli.h"

#include "hf/hf.h"
#include "train/train.h"

static const am_cli_option options[] = {
    {"dry-run", 0, AM_CLI_FLAG, NULL, NULL, "Resolve, check and compile; print bytes, FLOPs and messages of the first and the last rank; no step."},
    {"ranks", 0, AM_CLI_INT, "0", "N", "With --dry-run: ranks of the job; 0: those of the Slurm job this runs in, else 1."},
    {"ranks-per-node", 0, AM_CLI_INT, "0", "N", "With --dry-run: ranks on a node; 0: as in the Slurm job, else all on one."},
    {"memory-per-node", 0, AM_CLI_STRING, NULL, "SIZE", "With --dry-run: refuse (exit 4) what a node of SIZE (512GB, 480GiB) does not hold; none: as in the Slurm job."},
    {"rank", 0, AM_CLI_INT, "-1", "R", "With --dry-run: print the whole program of this rank."},
    {"threads", 0, AM_CLI_INT, NULL, "N", "With --dry-run: threads a rank; none: run.threads, else the CPUs a rank has in the Slurm job, else this machine's cores."},
    {"json", 0, AM_CLI_FLAG, NULL, NULL, "With --dry-run: as JSON."},
    {"options", 0, AM_CLI_STRING, NULL, "SECTION", "List the recipe's options of a section (\"all\": of all) and leave."},
    {"reference", 0, AM_CLI_FLAG, NULL, NULL, "Print the reference page of all options (Markdown) and leave."},
    {0},
};
const am_cli_command am_train_command = {"automodel train", "CONFIG [--section.key=value …] [--dry-run]",
                                         "Fine-tunes or pretrains as the recipe says; resumes by itself; under mpirun or srun on all ranks.", options, 0, 1, true};

static am_status run(const am_cli *cli)
{
    am_status st = AM_OK;
    am_config *cfg = NULL;
    int n = 0;
    const char *const *overrides = am_cli_overrides(cli, &n);
    AM_CHECK(am_cli_num_positionals(cli) == 1, AM_ERR_USAGE, "train needs a recipe: automodel train CONFIG.yaml; configs/ has examples");
    am_status loaded = am_config_load(am_cli_positional(cli, 0), n, overrides, &cfg);
    AM_TRY(am_cli_flag(cli, "dry-run") ? loaded : am_train_refused(loaded));
    am_dry_run o = {.ranks = am_cli_int(cli, "ranks"), .ranks_per_node = am_cli_int(cli, "ranks-per-node"), .rank = am_cli_int(cli, "rank"),
                    .threads = (int)am_cli_int(cli, "threads"), .json = am_cli_flag(cli, "json")};
    const char *memory = am_cli_string(cli, "memory-per-node");
    AM_CHECK(!memory || (am_hf_parse_bytes(memory, &o.node_bytes) && o.node_bytes > 0), AM_ERR_USAGE,
             "--memory-per-node is a size like 512GB or 480GiB, not %s", memory);
    AM_CHECK(o.ranks >= 0 && o.ranks_per_node >= 0, AM_ERR_USAGE, "--ranks and --ranks-per-node are not negative");
    if (am_cli_flag(cli, "dry-run")) AM_TRY(am_train_dry_run(cfg, &o));
    else AM_TRY(am_train(cfg));
done:
    am_config_free(&cfg);
    return st;
}

am_status am_cmd_train(int argc, char **argv)
{
    am_status st = AM_OK;
    am_cli *cli = NULL;
    AM_TRY(am_cli_parse(&am_train_command, argc, (const char *const *)argv, &cli));
    const char *section = am_cli_string(cli, "options");
    if (am_cli_help_wanted(cli)) am_cli_print_help(&am_train_command, stdout);
    else if (am_cli_flag(cli, "reference")) am_config_print_reference(stdout);
    else if (section) AM_TRY(am_config_print_help(stdout, section[0] == 'a' && section[1] == 'l' ? NULL : section));
    else AM_TRY(run(cli));
done:
    am_cli_free(&cli);
    return st;
}
