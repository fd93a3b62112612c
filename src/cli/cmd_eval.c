/* automodel eval: loss and perplexity of a model or checkpoint over token shards, on any number of ranks. */
#include "cli/cli.h"
#include "cli/cli_support.h"

#include "train/evaluate.h"
#include "train/settings.h"

#include <jansson.h>
#include <math.h>

static const am_cli_option options[] = {
    {"model", 'm', AM_CLI_STRING, NULL, "DIR",
     "Model directory, checkpoint or run; with CONFIG: instead of the recipe's model."},
    {"data", 'd', AM_CLI_STRINGS, NULL, "PATH",
     "Token shards or their folders; with CONFIG: instead of its validation sets."},
    {"seq-len", 0, AM_CLI_INT, NULL, "T", "Tokens of a row; none: the recipe's, else 1024."},
    {"rows", 0, AM_CLI_INT, "1", "N", "Rows a rank takes at a time."},
    {"dtype", 0, AM_CLI_STRING, NULL, "DTYPE", "float32 or bfloat16; none: as config.json says."},
    {"strategy", 0, AM_CLI_STRING, "fsdp2", "NAME", "fsdp2 or ddp, over the ranks."},
    {"device", 0, AM_CLI_STRING, "cpu", "NAME", "cpu or guarded."},
    {"threads", 0, AM_CLI_INT, NULL, "N", "Threads a rank; none: its cores."},
    {"card", 0, AM_CLI_STRING, NULL, "NAME", "Model card; none: chosen by model_type."},
    {"json", 0, AM_CLI_FLAG, NULL, NULL, "Print one JSON line a data set."},
    {0},
};
const am_cli_command am_eval_command = {
    "automodel eval",
    "CONFIG | --model DIR --data PATH",
    "Loss and perplexity per supervised token over a data set; exit 0 when done.",
    options,
    0,
    1,
    true};

enum { MAX_SETS = 8 };

typedef struct am_eval {
    am_cli *cli;
    am_config *cfg;
    am_settings s;
    am_engine *engine;
    am_cli_source source;
    am_program *program;
    am_exec *exec;
    am_evaluator *evaluator;
    am_dataset *data[MAX_SETS];
    const char *name[MAX_SETS];
    int num_sets;
    int64_t seq_len, rows;
} am_eval;

static am_status open_model(am_eval *v)
{
    am_status st = AM_OK;
    const char *spec = am_cli_given(v->cli, "model") ? am_cli_string(v->cli, "model") : v->s.model_spec;
    am_cli_source_options o = {.weights = AM_HF_WEIGHTS_REQUIRED,
                               .card =
                                   am_cli_given(v->cli, "card") ? am_cli_string(v->cli, "card") : v->s.card};
    AM_CHECK(spec, AM_ERR_USAGE, "eval needs a recipe, or --model and --data");
    AM_TRY(am_cli_source_open(spec, &o, &v->source));
    if (v->cfg) AM_TRY(am_settings_read(v->cfg, v->source.model, v->engine->size, &v->s));
    v->rows = am_cli_int(v->cli, "rows");
    v->seq_len = am_cli_given(v->cli, "seq-len") ? am_cli_int(v->cli, "seq-len")
                 : v->cfg                        ? v->s.seq_len
                                                 : 1024;
    AM_CHECK(v->rows > 0 && v->seq_len > 1, AM_ERR_USAGE,
             "--rows must be at least 1 and --seq-len at least 2");
done:
    return st;
}

/* --data: all of it, packed, nothing shuffled; a longer sample is cut into pieces that lose no target. */
static am_status open_given_data(am_eval *v)
{
    am_status st = AM_OK;
    char *tokenizer = NULL, sha[65] = "";
    const char **paths = NULL;
    size_t n = am_cli_count(v->cli, "data");
    AM_TRY(am_calloc(n, sizeof *paths, &paths));
    for (size_t i = 0; i < n; i++) paths[i] = am_cli_item(v->cli, "data", i);
    AM_TRY(am_path_join(v->source.model->hf->dir, "tokenizer.json", &tokenizer));
    if (am_path_exists(tokenizer)) AM_TRY(am_sha256_file_hex(tokenizer, sha));
    am_dataset_options o = {.paths = paths,
                            .num_paths = (int)n,
                            .row_len = v->seq_len,
                            .packed = true,
                            .long_samples = AM_LONG_SPLIT,
                            .num_epochs = 1,
                            .tokenizer_sha256 = sha[0] ? sha : NULL};
    AM_TRY(am_dataset_open(&o, &v->data[0]));
    v->name[0] = paths[0];
    v->num_sets = 1;
done:
    am_free(&paths);
    am_free(&tokenizer);
    return st;
}

static am_status open_data(am_eval *v)
{
    am_status st = AM_OK;
    if (am_cli_count(v->cli, "data")) {
        AM_TRY(open_given_data(v));
        goto done;
    }
    AM_CHECK(v->cfg, AM_ERR_USAGE, "eval needs --data PATH: token shards made by automodel prepare");
    v->s.seq_len = v->seq_len;
    for (; v->num_sets < MAX_SETS; v->num_sets++) {
        v->name[v->num_sets] = am_config_section_at(v->cfg, "validation_dataset*", (size_t)v->num_sets);
        if (!v->name[v->num_sets]) break;
        AM_TRY(am_settings_dataset(&v->s, v->name[v->num_sets], false, NULL, 0, &v->data[v->num_sets]));
    }
    AM_CHECK(v->num_sets > 0, AM_ERR_CONFIG,
             "%s has no section validation_dataset: write one, or give --data", am_cli_positional(v->cli, 0));
done:
    return st;
}

static am_status compile(am_eval *v)
{
    am_status st = AM_OK;
    static const char *const everything[] = {"*"}; /* nothing is trained: masters alone stand in the store */
    am_graph *g = NULL;
    am_dtype compute;
    am_program_options o = am_program_defaults(AM_PROGRAM_EVAL);
    AM_TRY(am_cli_compute_dtype(am_cli_string(v->cli, "dtype"), v->source.model->hf, &compute));
    if (v->cfg && !am_cli_given(v->cli, "dtype")) compute = v->s.compute;
    o.mesh = am_engine_mesh(v->engine, am_cli_string(v->cli, "strategy")[0] != 'd', 1);
    o.rank = v->engine->rank;
    o.threads = v->engine->threads;
    o.freeze = everything;
    o.num_freeze = 1;
    AM_TRY(am_comm_set_mesh(v->engine->comm, &o.mesh));
    AM_TRY(am_model_graph(v->source.model, v->rows, v->seq_len, compute, &g));
    AM_TRY(am_program_compile(&g, &o, &v->program));
    AM_TRY(am_engine_agree(v->engine, &v->program, 1));
    AM_TRY(am_engine_fits(v->engine, &v->program, 1, 0));
    AM_TRY(am_exec_create(v->engine->device, v->engine->comm, &v->program, 1, NULL, &v->exec));
    AM_TRY(am_cli_source_load(&v->source, v->exec, v->program));
    AM_TRY(am_evaluator_create(v->rows, v->seq_len, &v->evaluator));
done:
    am_graph_free(&g);
    return st;
}

static void report(const am_eval *v, const char *name, const am_evaluation *r)
{
    if (v->engine->rank != 0) return;
    if (am_cli_flag(v->cli, "json")) {
        json_t *o =
            json_pack("{s:s, s:f, s:f, s:I, s:I}", "name", name, "loss", r->loss, "perplexity", exp(r->loss),
                      "num_label_tokens", (json_int_t)r->targets, "rows", (json_int_t)r->rows);
        json_dumpf(o, stdout, JSON_REAL_PRECISION(12));
        printf("\n");
        json_decref(o);
    } else {
        printf("%s: loss %.4f, perplexity %.2f over %" PRId64 " supervised tokens in %" PRId64 " rows\n",
               name, r->loss, exp(r->loss), r->targets, r->rows);
    }
    fflush(stdout);
}

static am_status run(am_eval *v)
{
    am_status st = AM_OK;
    int n = 0;
    const char *const *overrides = am_cli_overrides(v->cli, &n);
    if (am_cli_num_positionals(v->cli)) {
        AM_TRY(am_config_load(am_cli_positional(v->cli, 0), n, overrides, &v->cfg));
        AM_TRY(am_settings_begin(v->cfg, &v->s));
    }
    am_engine_options eo = {.device = am_cli_string(v->cli, "device"),
                            .threads = (int)am_cli_int(v->cli, "threads"),
                            .quiet = true};
    AM_TRY(am_engine_open(&eo, &v->engine));
    AM_TRY(am_engine_together(v->engine, open_model(v)));
    AM_TRY(am_engine_together(v->engine, open_data(v)));
    AM_TRY(compile(v));
    for (int i = 0; i < v->num_sets; i++) {
        am_evaluation r;
        AM_TRY(am_evaluate(v->evaluator, v->engine, v->exec, 0, v->data[i], NULL, &r));
        report(v, v->name[i], &r);
    }
done:
    return st;
}

am_status am_cmd_eval(int argc, char **argv)
{
    am_status st = AM_OK;
    am_eval v = {0};
    AM_TRY(am_cli_parse(&am_eval_command, argc, (const char *const *)argv, &v.cli));
    if (am_cli_help_wanted(v.cli))
        am_cli_print_help(&am_eval_command, stdout);
    else
        AM_TRY(run(&v));
done:
    am_evaluator_free(&v.evaluator);
    am_exec_free(&v.exec);
    am_program_free(&v.program);
    for (int i = 0; i < MAX_SETS; i++) am_dataset_close(&v.data[i]);
    am_cli_source_release(&v.source);
    am_settings_release(&v.s);
    am_config_free(&v.cfg);
    if (st == AM_OK) st = am_engine_close(&v.engine);
    am_cli_free(&v.cli);
    return st;
}
