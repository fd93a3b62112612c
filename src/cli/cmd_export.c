/* automodel export: a checkpoint (or a model) becomes a Hugging Face directory with the source model's tensor
 * names, shapes and dtypes, its config, tokenizer and chat template.  One process, bounded memory. */
#include "cli/cli.h"

#include "cli/cli_support.h"

#include <stdlib.h>
#include <string.h>

static const am_cli_option options[] = {
    {"output", 'o', AM_CLI_STRING, NULL, "DIR",
     "Directory to write; made when missing; one that holds weights already is refused."},
    {"dtype", 0, AM_CLI_STRING, NULL, "DTYPE",
     "Of floating-point tensors: float32, bfloat16 or float16; none: as in the source model."},
    {"max-shard-size", 0, AM_CLI_STRING, "5GB", "SIZE", "Files are cut at this size (5GB, 500MB, 2GiB)."},
    {"merge-lora", 0, AM_CLI_FLAG, NULL, NULL,
     "Refused: this version trains no adapters, so there is nothing to merge."},
    {"card", 0, AM_CLI_STRING, NULL, "NAME", "Model card; none: the checkpoint's, or chosen by model_type."},
    {"model", 0, AM_CLI_STRING, NULL, "DIR", "Where a checkpoint's source model stands, when it was moved."},
    {0},
};
const am_cli_command am_export_command = {
    "automodel export",
    "CHECKPOINT|MODEL -o DIR [--dtype T] [--max-shard-size S]",
    "Writes a Hugging Face directory.  CHECKPOINT is a step directory, a checkpoint directory or a run "
    "directory (its newest step); every piece is "
    "compared with its hash first.",
    options,
    1,
    1,
    false};

static am_status read_options(const am_cli *cli, am_export_options *o)
{
    am_status st = AM_OK;
    const char *dtype = am_cli_string(cli, "dtype"), *size = am_cli_string(cli, "max-shard-size");
    AM_CHECK(!am_cli_flag(cli, "merge-lora"), AM_ERR_USAGE,
             "--merge-lora: this version trains no adapters (LoRA, DoRA), so a checkpoint has none to merge: "
             "leave the option out");
    AM_CHECK(am_cli_given(cli, "output"), AM_ERR_USAGE, "export needs -o DIR, the directory to write");
    o->out_dir = am_cli_string(cli, "output");
    o->has_dtype = dtype != NULL;
    AM_CHECK(!dtype || (am_dtype_parse(dtype, &o->dtype) &&
                        (o->dtype == AM_F32 || o->dtype == AM_BF16 || o->dtype == AM_F16)),
             AM_ERR_USAGE, "--dtype is float32, bfloat16 or float16, not %s", dtype);
    AM_CHECK(am_hf_parse_bytes(size, &o->max_shard_bytes) && o->max_shard_bytes > 0, AM_ERR_USAGE,
             "--max-shard-size is a size like 5GB, 500MB or 2GiB, not %s", size);
done:
    return st;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* "BF16 and F32": the dtypes of a model's tensors, by name. */
static am_status dtypes_of(const am_hf_model *m, am_str *out)
{
    am_status st = AM_OK;
    bool has[AM_DTYPE_COUNT] = {false};
    const char *names[AM_DTYPE_COUNT] = {NULL};
    size_t n = 0;
    for (int64_t i = 0; i < m->num_tensors; i++) has[m->tensors[i]->dtype] = true;
    for (int d = 0; d < AM_DTYPE_COUNT; d++)
        if (has[d]) names[n++] = am_dtype_name((am_dtype)d);
    qsort(names, n, sizeof *names, by_name);
    for (size_t i = 0; i < n; i++) AM_TRY(am_str_printf(out, "%s%s", i == 0 ? "" : i + 1 < n ? ", " : " and ", names[i]));
done:
    return st;
}

static am_status report(const am_hf_model *source, const am_export_options *o)
{
    am_status st = AM_OK;
    am_hf_model *m = NULL;
    am_str dtypes = {0};
    char bytes[32];
    AM_TRY(am_hf_model_open(o->out_dir, AM_HF_WEIGHTS_REQUIRED,
                            &m)); /* what stands there now is a model again */
    AM_TRY(dtypes_of(m, &dtypes));
    printf("%s: %" PRId64 " tensors in %s, %s in %zu file%s, and %zu files of the source model\n", o->out_dir,
           m->num_tensors, dtypes.s == NULL ? "no dtype" : dtypes.s, am_cli_bytes(m->total_bytes, bytes), m->num_files,
           m->num_files == 1 ? "" : "s", m->num_aux);
    if (source->num_packed > 0)
        printf("%zu of them are %s in the source and are written as the %s numbers that they stand for; config.json has no "
               "quantization_config\n",
               source->num_packed, json_string_value(am_json_at(source->config, "quantization_config.quant_method")),
               am_dtype_name(o->has_dtype ? o->dtype : AM_BF16));
done:
    am_str_release(&dtypes);
    am_hf_model_free(&m);
    return st;
}

static am_status export(const am_cli *cli, am_engine **engine)
{
    am_status st = AM_OK;
    am_cli_source source = {0};
    am_cli_source_options from = {.weights = AM_HF_WEIGHTS_REQUIRED,
                                  .card = am_cli_string(cli, "card"),
                                  .model_dir = am_cli_string(cli, "model")};
    am_engine_options e = {.quiet = true};
    am_export_options o = {0};
    am_graph *g = NULL;
    AM_TRY(read_options(cli, &o));
    AM_TRY(am_engine_open(&e, engine));
    AM_TRY(am_cli_one_rank(*engine, "export"));
    AM_TRY(am_cli_source_open(am_cli_positional(cli, 0), &from, &source));
    AM_TRY(am_model_graph(source.model, 1, 1, AM_F32, &g));
    if (source.manifest) AM_TRY(am_manifest_verify(source.manifest, 0, 1));
    AM_TRY(am_ckpt_export(source.manifest, source.model->hf, g, &o));
    AM_TRY(report(source.model->hf, &o));
done:
    am_graph_free(&g);
    am_cli_source_release(&source);
    return st;
}

am_status am_cmd_export(int argc, char **argv)
{
    am_status st = AM_OK;
    am_cli *cli = NULL;
    am_engine *engine = NULL;
    AM_TRY(am_cli_parse(&am_export_command, argc, (const char *const *)argv, &cli));
    if (am_cli_help_wanted(cli))
        am_cli_print_help(&am_export_command, stdout);
    else
        AM_TRY(export(cli, &engine));
done:
    if (st == AM_OK) st = am_engine_close(&engine);
    if (cli) am_cli_free(&cli);
    return st;
}
