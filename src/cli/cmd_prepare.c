/* automodel prepare: JSON lines become token shards, every rank doing its share of the lines.  A JOB is one
 * set of inputs and one output folder: one from the command line, or one for each data set section of a
 * recipe that names JSON lines. How to read: am_cmd_prepare at the end; above it options → jobs → run.  Chat
 * templates are rendered by a helper process, which am_prepare_open starts; that has to happen before MPI is,
 * so all jobs are opened first; a rank that fails there tells it once MPI is up. */
#include "cli/cli.h"

#include "cli/cli_support.h"
#include "data/data.h"
#include "train/prepared.h"

#include <glob.h>
#include <stdlib.h>
#include <string.h>

static const am_cli_option options[] = {
    {"input", 'i', AM_CLI_STRINGS, NULL, "FILE…", "JSON lines, plain or gzip, in this order."},
    {"tokenizer", 't', AM_CLI_STRING, NULL, "DIR",
     "Model directory (or org/name in the local cache): tokenizer.json and the chat template."},
    {"output", 'o', AM_CLI_STRING, NULL, "DIR", "Folder for the token shards; made when missing."},
    {"max-length", 0, AM_CLI_INT, "0", "N", "A sample of more tokens is refused; 0: any length."},
    {"deflate", 0, AM_CLI_INT, "0", "LEVEL", "Compress the shards, 1 to 9; 0: not."},
    {"system-prompt", 0, AM_CLI_STRING, NULL, "TEXT", "A first turn for chats that have no system turn."},
    {"one-sample-per-turn", 0, AM_CLI_FLAG, NULL, NULL,
     "A chat becomes one sample an assistant turn, as inference sees it."},
    {"supervise-all", 0, AM_CLI_FLAG, NULL, NULL, "Every token is supervised, not the answers alone."},
    {"special-as-text", 0, AM_CLI_FLAG, NULL, NULL,
     "A special token that is spelled in a prompt or text is ordinary text; in a chat it is refused."},
    {"as-chat", 0, AM_CLI_FLAG, NULL, NULL, "Prompt and completion become a user's and an assistant's turn."},
    {"prompt-key", 0, AM_CLI_STRING, "prompt", "KEY", "Column of the prompt."},
    {"completion-key", 0, AM_CLI_STRING, "completion", "KEY", "Column of the completion."},
    {"text-key", 0, AM_CLI_STRING, "text", "KEY", "Column of a whole text, for lines without a prompt."},
    {"context-key", 0, AM_CLI_STRING, NULL, "KEY", "Column of a text that is put before the prompt."},
    {0},
};
const am_cli_command am_prepare_command = {
    "automodel prepare",
    "CONFIG [--dataset.key=value …] | --input FILE… --tokenizer DIR -o DIR",
    "Tokenises JSON lines ({\"messages\"}, {\"prompt\", \"completion\"} or {\"text\"}) into HDF5 shards, in "
    "parallel over the ranks of mpirun.  With a recipe: "
    "dataset and validation_dataset, into RUN_DIR/data/SECTION, where train looks for them.",
    options,
    0,
    1,
    true};

typedef struct am_job {
    const char *section; /* of the recipe; NULL: from the command line */
    am_prepare_options o;
    const char **inputs;
    glob_t files; /* what the recipe's globs matched */
    char *tokenizer, *output;
    am_prepare *prepare;
} am_job;

typedef struct am_prepare_run {
    am_cli *cli;
    am_config *cfg;
    am_engine *engine;
    am_job *job;
    size_t num_jobs, cap_jobs;
} am_prepare_run;

/* ---- what both forms have
 * -------------------------------------------------------------------------------------------- */

static am_status add_job(am_prepare_run *r, am_job **out)
{
    am_status st = AM_OK;
    AM_TRY(am_grow(&r->job, &r->cap_jobs, r->num_jobs + 1, sizeof *r->job));
    *out = &r->job[r->num_jobs++];
    memset(*out, 0, sizeof **out);
done:
    return st;
}

/* Ids beyond the model's vocabulary would only be found when training starts.  *vocab: the model's; 0: not said. */
static am_status check_vocabulary(const char *tokenizer_dir, const char *model_spec, int64_t *vocab)
{
    am_status st = AM_OK;
    am_tokenizer *t = NULL;
    am_hf_model *m = NULL;
    AM_TRY(am_hf_model_open(model_spec, AM_HF_WEIGHTS_NONE, &m));
    AM_TRY(am_tokenizer_open(tokenizer_dir, &t));
    AM_TRY(am_cli_check_tokenizer(t, m));
    AM_TRY(am_hf_config_i64(m, "vocab_size", 0, vocab));
done:
    am_tokenizer_free(&t);
    am_hf_model_free(&m);
    return st;
}

/* ---- from the command line
 * --------------------------------------------------------------------------------------------- */

static am_status job_of_options(am_prepare_run *r)
{
    am_status st = AM_OK;
    const am_cli *c = r->cli;
    size_t n = am_cli_count(c, "input");
    am_job *j = NULL;
    char *config = NULL;
    AM_CHECK(n > 0, AM_ERR_USAGE, "prepare needs a recipe, or --input FILE --tokenizer DIR -o DIR");
    AM_CHECK(am_cli_given(c, "tokenizer"), AM_ERR_USAGE,
             "prepare needs --tokenizer DIR: the directory of the model that is to be trained");
    AM_CHECK(am_cli_given(c, "output"), AM_ERR_USAGE, "prepare needs -o DIR, the folder for the shards");
    AM_CHECK(am_cli_int(c, "deflate") >= 0 && am_cli_int(c, "deflate") <= 9, AM_ERR_USAGE,
             "--deflate is 0 to 9");
    AM_CHECK(am_cli_int(c, "max-length") >= 0, AM_ERR_USAGE, "--max-length is a number of tokens, or 0");
    AM_TRY(add_job(r, &j));
    AM_TRY(am_calloc(n, sizeof *j->inputs, &j->inputs));
    for (size_t i = 0; i < n; i++) j->inputs[i] = am_cli_item(c, "input", i);
    AM_TRY(am_hf_resolve(am_cli_string(c, "tokenizer"), &j->tokenizer));
    AM_TRY(am_strdup(am_cli_string(c, "output"), &j->output));
    j->o = (am_prepare_options){.inputs = j->inputs,
                                .num_inputs = (int)n,
                                .model_dir = j->tokenizer,
                                .output_dir = j->output,
                                .deflate = (int)am_cli_int(c, "deflate"),
                                .max_length = am_cli_int(c, "max-length"),
                                .prompt_key = am_cli_string(c, "prompt-key"),
                                .completion_key = am_cli_string(c, "completion-key"),
                                .text_key = am_cli_string(c, "text-key"),
                                .context_key = am_cli_string(c, "context-key"),
                                .system_prompt = am_cli_string(c, "system-prompt"),
                                .columns_as_chat = am_cli_flag(c, "as-chat"),
                                .one_sample_per_turn = am_cli_flag(c, "one-sample-per-turn"),
                                .supervise_all = am_cli_flag(c, "supervise-all"),
                                .special_as_text = am_cli_flag(c, "special-as-text")};
    AM_TRY(am_path_join(j->tokenizer, "config.json", &config));
    if (am_path_exists(config)) AM_TRY(check_vocabulary(j->tokenizer, j->tokenizer, &j->o.vocab_size));
done:
    am_free(&config);
    return st;
}

/* ---- from a recipe
 * ------------------------------------------------------------------------------------------------------- */

static const char *path_of(const am_job *j, const char *key, char out[160])
{
    snprintf(out, 160, "%s.%s", j->section, key);
    return out;
}
static const char *text_of(const am_prepare_run *r, const am_job *j, const char *key)
{
    char path[160];
    return am_config_string(r->cfg, path_of(j, key, path));
}
static bool truth_of(const am_prepare_run *r, const am_job *j, const char *key)
{
    char path[160];
    return am_config_bool(r->cfg, path_of(j, key, path));
}

static am_status find_inputs(am_prepare_run *r, am_job *j)
{
    am_status st = AM_OK;
    char path[160];
    size_t n = am_config_count(r->cfg, path_of(j, "path_or_dataset_id", path));
    for (size_t i = 0; i < n; i++) {
        const char *pattern = am_config_item(r->cfg, path, i);
        int rc = glob(pattern, i > 0 ? GLOB_APPEND : 0, NULL, &j->files);
        AM_CHECK(rc == 0, AM_ERR_DATA,
                 "%s: there is no file %s (files of JSON lines are named here; nothing is downloaded)",
                 am_config_where(r->cfg, path), pattern);
    }
    for (size_t i = 0; i < j->files.gl_pathc; i++)
        AM_CHECK(!am_cli_is_dir(j->files.gl_pathv[i]), AM_ERR_DATA,
                 "%s: %s is a folder: name the files in it (FOLDER/*.jsonl), or write _target_: "
                 "automodel.ShardDataset with data_dir if it holds token shards",
                 am_config_where(r->cfg, path), j->files.gl_pathv[i]);
    AM_CHECK(j->files.gl_pathc > 0, AM_ERR_CONFIG, "%s: %s names no file", am_config_where(r->cfg, path),
             path);
    j->o.inputs = (const char *const *)j->files.gl_pathv;
    j->o.num_inputs = (int)j->files.gl_pathc;
done:
    return st;
}

static const char *model_of(const am_config *cfg)
{
    const char *target = am_config_target(cfg, "model"),
               *dir = am_config_string(cfg, "model.pretrained_model_name_or_path");
    const char *config = am_config_string(cfg, "model.config");
    return (!dir || (target && strstr(target, "from_config"))) && config ? config : dir;
}

/* The section's own tokenizer must be the model's: train refuses shards of another. */
static am_status find_tokenizer(am_prepare_run *r, am_job *j)
{
    am_status st = AM_OK;
    const char *own = text_of(r, j, "tokenizer.pretrained_model_name_or_path"), *spec = model_of(r->cfg);
    char *theirs = NULL, *ours = NULL, path[160], mine[65], model[65];
    am_hf_model *m = NULL;
    AM_CHECK(spec, AM_ERR_CONFIG, "the recipe names no model: write model.pretrained_model_name_or_path");
    AM_TRY(am_hf_model_open(spec, AM_HF_WEIGHTS_NONE, &m));
    if (own)
        AM_TRY(am_hf_resolve(own, &j->tokenizer));
    else
        AM_TRY(am_strdup(m->dir, &j->tokenizer));
    AM_TRY(check_vocabulary(j->tokenizer, spec, &j->o.vocab_size));
    AM_TRY(am_path_join(m->dir, "tokenizer.json", &theirs));
    AM_TRY(am_path_join(j->tokenizer, "tokenizer.json", &ours));
    if (!own || !am_path_exists(theirs) || !am_path_exists(ours)) goto done;
    AM_TRY(am_sha256_file_hex(ours, mine));
    AM_TRY(am_sha256_file_hex(theirs, model));
    AM_CHECK(strcmp(mine, model) == 0, AM_ERR_CONFIG,
             "%s: %s is another tokenizer than the model's, %s: remove the key, or train that model",
             am_config_where(r->cfg, path_of(j, "tokenizer.pretrained_model_name_or_path", path)), ours,
             theirs);
done:
    am_hf_model_free(&m);
    am_free(&theirs);
    am_free(&ours);
    return st;
}

static am_status job_of_section(am_prepare_run *r, const char *section)
{
    am_status st = AM_OK;
    const char *target = am_config_target(r->cfg, section);
    am_job *j = NULL;
    AM_CHECK(target, AM_ERR_CONFIG, "%s: %s has no _target_", am_config_where(r->cfg, section), section);
    if (strcmp(target, "ShardDataset") == 0) {
        am_log(AM_LOG_INFO, "cli", "%s: names token shards already; nothing to prepare", section);
        goto done;
    }
    AM_TRY(add_job(r, &j));
    j->section = section;
    AM_TRY(find_inputs(r, j));
    AM_TRY(find_tokenizer(r, j));
    AM_TRY(am_prepared_dir(r->cfg, section, &j->output));
    j->o.model_dir = j->tokenizer;
    j->o.output_dir = j->output;
    j->o.system_prompt = text_of(r, j, "system_prompt");
    j->o.special_as_text = truth_of(r, j, "special_as_text");
    if (strcmp(target, "ChatDataset") == 0) {
        j->o.one_sample_per_turn = truth_of(r, j, "one_sample_per_turn");
        goto done;
    }
    j->o.context_key = text_of(r, j, "column_mapping.context");
    j->o.prompt_key = text_of(r, j, "column_mapping.question");
    j->o.completion_key = text_of(r, j, "column_mapping.answer");
    j->o.text_key = text_of(r, j, "column_mapping.text");
    j->o.supervise_all = !truth_of(r, j, "answer_only_loss_mask");
    j->o.columns_as_chat = truth_of(r, j, "use_hf_chat_template");
done:
    return st;
}

static am_status jobs_of_recipe(am_prepare_run *r)
{
    static const char *const decided[] = {
        "input",         "tokenizer",           "output",        "max-length",      "deflate",
        "system-prompt", "one-sample-per-turn", "supervise-all", "special-as-text", "as-chat",
        "prompt-key",    "completion-key",      "text-key",      "context-key"};
    am_status st = AM_OK;
    int n = 0;
    const char *const *overrides = am_cli_overrides(r->cli, &n), *section;
    for (size_t i = 0; i < sizeof decided / sizeof *decided; i++)
        AM_CHECK(!am_cli_given(r->cli, decided[i]), AM_ERR_USAGE,
                 "--%s goes with --input; with a recipe its sections decide: write --dataset.KEY=VALUE",
                 decided[i]);
    AM_TRY(am_config_load(am_cli_positional(r->cli, 0), n, overrides, &r->cfg));
    AM_CHECK(am_config_section(r->cfg, "dataset"), AM_ERR_CONFIG, "%s has no section `dataset`",
             am_cli_positional(r->cli, 0));
    AM_TRY(job_of_section(r, "dataset"));
    for (size_t i = 0; (section = am_config_section_at(r->cfg, "validation_dataset*", i)); i++)
        AM_TRY(job_of_section(r, section));
done:
    return st;
}

/* ---- run
 * ------------------------------------------------------------------------------------------------------------------
 */

static am_status open_jobs(am_prepare_run *r)
{
    am_status st = AM_OK;
    if (am_cli_num_positionals(r->cli) > 0)
        AM_TRY(jobs_of_recipe(r));
    else
        AM_TRY(job_of_options(r));
    for (size_t i = 0; i < r->num_jobs; i++) AM_TRY(am_prepare_open(&r->job[i].o, &r->job[i].prepare));
done:
    return st;
}

static am_status run_job(am_prepare_run *r, am_job *j)
{
    am_status st = AM_OK;
    am_prepare_counts mine = {0}, total = {0}, *all = NULL;
    am_str report = {0};
    double start = am_now();
    AM_TRY(
        am_engine_together(r->engine, am_data_prepare(j->prepare, r->engine->rank, r->engine->size, &mine)));
    AM_TRY(am_calloc((size_t)r->engine->size, sizeof *all, &all));
    AM_TRY(am_comm_allgather(r->engine->comm, &mine, sizeof mine, all));
    for (int i = 0; i < r->engine->size; i++) am_prepare_counts_add(&total, &all[i]);
    AM_TRY(am_engine_together(r->engine, am_prepare_check(j->prepare, &total, &report)));
    if (r->engine->rank == 0) {
        printf("%s%s%s: %s", j->section ? j->section : "", j->section ? " → " : "", j->output, report.s);
        am_log(AM_LOG_INFO, "cli", "%" PRId64 " lines in %.1f s on %d rank%s", total.lines, am_now() - start,
               r->engine->size, r->engine->size == 1 ? "" : "s");
    }
done:
    am_str_release(&report);
    am_free(&all);
    return st;
}

static am_status prepare(am_prepare_run *r)
{
    am_status st = AM_OK, opened = open_jobs(r);
    am_engine_options o = {.quiet = true};
    if (opened != AM_OK) return am_engine_refuse(opened);
    AM_TRY(am_engine_open(&o, &r->engine));
    AM_TRY(am_engine_together(r->engine, AM_OK)); /* did every rank come this far? */
    for (size_t i = 0; i < r->num_jobs; i++) AM_TRY(run_job(r, &r->job[i]));
    AM_CHECK(fflush(stdout) == 0, AM_ERR_IO, "the output cannot be written");
done:
    return st;
}

static void release(am_prepare_run *r)
{
    for (size_t i = 0; i < r->num_jobs; i++) {
        am_prepare_close(&r->job[i].prepare);
        globfree(&r->job[i].files);
        am_free(&r->job[i].inputs);
        am_free(&r->job[i].tokenizer);
        am_free(&r->job[i].output);
    }
    am_free(&r->job);
    am_config_free(&r->cfg);
}

am_status am_cmd_prepare(int argc, char **argv)
{
    am_status st = AM_OK;
    am_prepare_run r = {0};
    st = am_cli_parse(&am_prepare_command, argc, (const char *const *)argv, &r.cli);
    if (st != AM_OK)
        st = am_engine_refuse(st);
    else if (am_cli_help_wanted(r.cli))
        am_cli_print_help(&am_prepare_command, stdout);
    else
        AM_TRY(prepare(&r));
done:
    release(&r);
    if (st == AM_OK) st = am_engine_close(&r.engine);
    if (r.cli) am_cli_free(&r.cli);
    return st;
}
