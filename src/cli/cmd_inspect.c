/* automodel inspect: what a model, a checkpoint or token shards hold, without running anything; --program
 * shows the operators of a training step.  How to read: am_cmd_inspect at the end; the looking is done in
 * inspect_model.c and inspect_data.c. */
#include "cli/cli.h"

#include "cli/inspect.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const am_cli_option options[] = {
    {"json", 0, AM_CLI_FLAG, NULL, NULL, "As JSON."},
    {"card", 0, AM_CLI_STRING, NULL, "NAME", "Model card, by name or file; none: chosen by model_type."},
    {"card-text", 0, AM_CLI_FLAG, NULL, NULL,
     "Print the card with what it takes over from others, and nothing else."},
    {"match", 0, AM_CLI_FLAG, NULL, NULL,
     "Try every card on this model: which name its tensors and read its keys, and the loss of a text under each of them."},
    {"text", 0, AM_CLI_STRING, NULL, "FILE", "With --match: the text (its first 1024 tokens); none: a paragraph of English."},
    {"new-card", 0, AM_CLI_FLAG, NULL, NULL,
     "Print a draft card for a model type without one, what is not known marked ???, and nothing else."},
    {"program", 0, AM_CLI_FLAG, NULL, NULL,
     "Print the program of a training step (operators, waits, memory), and nothing else."},
    {"rows", 0, AM_CLI_INT, "1", "N", "With --program: sequences of a micro-batch."},
    {"seq-len", 0, AM_CLI_INT, "1024", "N", "With --program or --tp-size: tokens of a sequence."},
    {"tp-size", 0, AM_CLI_INT, "1", "N", "What N tensor-parallel ranks have of the model, and what stays whole, and why; with --program, their program."},
    {"ranks", 0, AM_CLI_INT, "1", "N", "With --program: ranks, those of --tp-size included; over the others fsdp2 cuts the parameters."},
    {"rank", 0, AM_CLI_INT, "0", "R", "With --program: whose program."},
    {"dtype", 0, AM_CLI_STRING, NULL, "DTYPE",
     "With --program: compute in float32 or bfloat16; none: as config.json says."},
    {"verify", 0, AM_CLI_FLAG, NULL, NULL, "Checkpoint: read every piece and compare its hash."},
    {"model", 0, AM_CLI_STRING, NULL, "DIR", "Checkpoint: where its source model stands, when it was moved."},
    {"samples", 0, AM_CLI_INT, "2", "N", "Shards: print the first N samples."},
    {"tokenizer", 0, AM_CLI_STRING, NULL, "DIR",
     "Shards: the tokenizer they were made with, to print text instead of ids."},
    {0},
};
const am_cli_command am_inspect_command = {
    "automodel inspect",
    "MODEL|CHECKPOINT|SHARDS [--json] [--program] [--verify] [--samples N]",
    "Tells what a model directory, a checkpoint or token shards hold: family, parameters, kinds of layers, "
    "tokenizer; step, layout, pieces; samples with their "
    "loss mask.",
    options,
    1,
    1,
    false};

/* ---- checkpoint
 * ------------------------------------------------------------------------------------------------------- */

static int64_t bytes_of_files(const char *dir, const json_t *files)
{
    int64_t total = 0;
    size_t i;
    json_t *f;
    json_array_foreach(files, i, f)
    {
        struct stat info;
        const json_t *named = json_is_object(f) ? json_object_get(f, "name") : f;
        char *path = NULL;
        if (json_is_string(named) && am_path_join(dir, json_string_value(named), &path) == AM_OK &&
            stat(path, &info) == 0)
            total += info.st_size;
        am_free(&path);
    }
    return total;
}

/* A tensor of the manifest: {"shape", "trainable", "master": [[file, …] …], "m": …, "v": …}. */
static int count_pieces(const json_t *tensors)
{
    static const char *const roles[] = {"master", "m", "v"};
    int n = 0;
    const char *name;
    json_t *t;
    json_object_foreach((json_t *)(uintptr_t)tensors, name,
                        t) for (size_t r = 0; r < sizeof roles / sizeof *roles; r++) n +=
        (int)json_array_size(json_object_get(t, roles[r]));
    return n;
}

static am_status frozen_names(const json_t *tensors, const char ***out, size_t *count)
{
    am_status st = AM_OK;
    const char *name;
    json_t *t;
    AM_TRY(am_calloc(json_object_size(tensors) + 1, sizeof **out, out));
    json_object_foreach((json_t *)(uintptr_t)tensors, name,
                        t) if (json_is_false(json_object_get(t, "trainable")))(*out)[(*count)++] = name;
done:
    return st;
}

/* Layout and pieces as the manifest file tells them; am_manifest_open has checked it.  *manifest: its JSON, a
 * new reference. */
static am_status checkpoint_json(const am_cli_source *s, bool verify, json_t **manifest, json_t **out)
{
    am_status st = AM_OK;
    char *path = NULL, seed[24];
    json_t *o = NULL;
    if (verify) AM_TRY(am_manifest_verify(s->manifest, 0, 1));
    AM_TRY(am_path_join(s->step_dir, "manifest.json", &path));
    AM_TRY(am_json_load(path, (size_t)1 << 30, manifest));
    const json_t *body = json_object_get(*manifest, "body"), *files = json_object_get(body, "files"),
                 *dtype = json_object_get(body, "dtype");
    const json_t *layout = json_object_get(body, "layout");
    snprintf(seed, sizeof seed, "%" PRIu64, s->state.seed);
    o = json_pack("{s:s, s:I, s:I, s:I, s:s, s:s, s:i, s:i, s:I, s:b, s:b}", "dir", s->step_dir, "step",
                  (json_int_t)s->state.step, "samples", (json_int_t)s->state.samples, "tokens",
                  (json_int_t)s->state.tokens, "seed", seed, "family", s->state.family ? s->state.family : "",
                  "pieces", count_pieces(json_object_get(body, "tensors")), "files",
                  (int)json_array_size(files), "bytes", (json_int_t)bytes_of_files(s->step_dir, files),
                  "verified", verify, "recipe", s->recipe != NULL);
    AM_CHECK(o, AM_ERR_CHECKPOINT, "%s: a path is not UTF-8", path);
    if (layout) json_object_set_new(o, "layout", json_deep_copy(layout));
    if (dtype) json_object_set_new(o, "dtype", json_deep_copy(dtype));
    *out = o;
    o = NULL;
done:
    json_decref(o);
    am_free(&path);
    return st;
}

static void print_checkpoint(const json_t *o)
{
    char a[32];
    const json_t *layout = json_object_get(o, "layout");
#define NUMBER(key) json_integer_value(json_object_get(o, key))
    printf("checkpoint     %s\n", json_string_value(json_object_get(o, "dir")));
    printf("step           %" JSON_INTEGER_FORMAT ", %s tokens trained on, next sample %" JSON_INTEGER_FORMAT
           ", seed %s\n",
           NUMBER("step"), am_cli_thousands(NUMBER("tokens"), a), NUMBER("samples"),
           json_string_value(json_object_get(o, "seed")));
    printf("layout         %" JSON_INTEGER_FORMAT " ranks: %" JSON_INTEGER_FORMAT
           " shards × %" JSON_INTEGER_FORMAT " replicas (any other can load it)\n",
           json_integer_value(json_object_get(layout, "ranks")),
           json_integer_value(json_object_get(layout, "dp_shard")),
           json_integer_value(json_object_get(layout, "dp_replicate")));
    printf("pieces         %" JSON_INTEGER_FORMAT " in %" JSON_INTEGER_FORMAT " files, %s; %s\n",
           NUMBER("pieces"), NUMBER("files"), am_cli_bytes(NUMBER("bytes"), a),
           json_is_true(json_object_get(o, "verified")) ? "every hash compared: intact"
                                                        : "hashes not compared (--verify does)");
#undef NUMBER
}

/* ---- program
 * ----------------------------------------------------------------------------------------------------------
 */

static am_status print_program(const am_cli *cli, const am_model *m)
{
    am_status st = AM_OK;
    am_graph *g = NULL;
    am_program *p = NULL;
    am_str text = {0};
    am_dtype dtype;
    am_program_options o = am_program_defaults(AM_PROGRAM_TRAIN);
    o.recompute = AM_RECOMPUTE_SELECTIVE; /* as in a recipe */
    int64_t rows = am_cli_int(cli, "rows"), seq = am_cli_int(cli, "seq-len"),
            ranks = am_cli_int(cli, "ranks"), tp = am_cli_int(cli, "tp-size");
    AM_CHECK(tp >= 1 && ranks % tp == 0, AM_ERR_USAGE, "--ranks %" PRId64 " is no multiple of --tp-size %" PRId64, ranks, tp);
    AM_CHECK(rows >= 1 && seq >= 1 && rows <= INT32_MAX / seq && ranks >= 1 && ranks <= 1 << 20, AM_ERR_USAGE,
             "--rows, --seq-len and --ranks are at least 1");
    o.rank = am_cli_int(cli, "rank");
    AM_CHECK(o.rank >= 0 && o.rank < ranks, AM_ERR_USAGE, "--rank is 0 to %" PRId64 " with --ranks %" PRId64,
             ranks - 1, ranks);
    o.mesh.size[AM_MESH_TP] = tp;
    o.mesh.size[AM_MESH_DP_SHARD] = ranks / tp;
    AM_TRY(am_cli_compute_dtype(am_cli_string(cli, "dtype"), m->hf, &dtype));
    AM_TRY(am_model_graph(m, rows, seq, dtype, &g));
    AM_TRY(am_program_compile(&g, &o, &p));
    AM_TRY(am_program_print(p, &text));
    fputs(text.s, stdout);
done:
    am_graph_free(&g);
    am_program_free(&p);
    am_str_release(&text);
    return st;
}

/* ---- the command
 * ------------------------------------------------------------------------------------------------------ */

static am_status print_json(const json_t *o)
{
    am_status st = AM_OK;
    AM_CHECK(json_dumpf(o, stdout, JSON_INDENT(2)) == 0, AM_ERR_IO, "the output cannot be written");
    putchar('\n');
done:
    return st;
}

/* Options that the thing at hand has no use for would be ignored in silence. */
static am_status refuse(const am_cli *cli, const char *const *names, const char *why)
{
    am_status st = AM_OK;
    for (; *names; names++)
        AM_CHECK(!am_cli_given(cli, *names), AM_ERR_USAGE, "--%s %s; %s is something else", *names, why,
                 am_cli_positional(cli, 0));
done:
    return st;
}

static am_status inspect_shards(const am_cli *cli)
{
    static const char *const others[] = {"card", "card-text", "program", "rows",  "seq-len", "ranks",
                                         "rank", "dtype",     "verify",  "model", "tp-size", NULL};
    am_status st = AM_OK;
    json_t *o = NULL;
    AM_TRY(refuse(cli, others, "is for models and checkpoints"));
    AM_CHECK(am_cli_int(cli, "samples") >= 0, AM_ERR_USAGE, "--samples is a number of samples");
    AM_TRY(am_inspect_shards(am_cli_positional(cli, 0), am_cli_int(cli, "samples"),
                             am_cli_string(cli, "tokenizer"), &o));
    json_object_set_new(o, "kind", json_string("shards"));
    if (am_cli_flag(cli, "json"))
        AM_TRY(print_json(o));
    else
        am_inspect_print_shards(o, isatty(1));
done:
    json_decref(o);
    return st;
}

static am_status tell(const am_cli *cli, const am_cli_source *s)
{
    am_status st = AM_OK;
    json_t *model = NULL, *checkpoint = NULL, *manifest = NULL, *tensor = NULL;
    const char **frozen = NULL;
    size_t num_frozen = 0;
    if (s->manifest) AM_TRY(checkpoint_json(s, am_cli_flag(cli, "verify"), &manifest, &checkpoint));
    AM_TRY(frozen_names(json_object_get(json_object_get(manifest, "body"), "tensors"), &frozen, &num_frozen));
    AM_TRY(am_inspect_model(s->model, frozen, num_frozen, &model));
    json_object_set_new(model, "kind", json_string(checkpoint ? "checkpoint" : "model"));
    if (checkpoint) json_object_set(model, "checkpoint", checkpoint);
    if (am_cli_given(cli, "tp-size")) {
        AM_TRY(am_inspect_tensor(s->model, am_cli_int(cli, "tp-size"), am_cli_int(cli, "seq-len"), &tensor));
        json_object_set(model, "tensor_parallel", tensor);
    }
    if (am_cli_flag(cli, "json")) {
        AM_TRY(print_json(model));
        goto done;
    }
    if (checkpoint) print_checkpoint(checkpoint);
    am_inspect_print_model(model, isatty(1));
    if (tensor) am_inspect_print_tensor(tensor);
done:
    json_decref(tensor);
    json_decref(model);
    json_decref(checkpoint);
    am_free(&frozen);
    json_decref(manifest);
    return st;
}

static am_status inspect_source(const am_cli *cli)
{
    static const char *const for_shards[] = {"samples", "tokenizer", NULL}, *const for_steps[] = {"verify",
                                                                                                  NULL};
    static const char *const for_program[] = {"rows", "ranks", "rank", "dtype"};
    am_status st = AM_OK;
    am_cli_source s = {0};
    am_str text = {0};
    am_cli_source_options o = {.weights = AM_HF_WEIGHTS_OPTIONAL,
                               .card = am_cli_string(cli, "card"),
                               .model_dir = am_cli_string(cli, "model")};
    bool program = am_cli_flag(cli, "program"), card = am_cli_flag(cli, "card-text");
    AM_TRY(refuse(cli, for_shards, "is for token shards"));
    for (size_t i = 0; i < sizeof for_program / sizeof *for_program; i++)
        AM_CHECK(program || !am_cli_given(cli, for_program[i]), AM_ERR_USAGE, "--%s goes with --program",
                 for_program[i]);
    AM_CHECK(program || !am_cli_given(cli, "seq-len") || am_cli_given(cli, "tp-size"), AM_ERR_USAGE,
             "--seq-len goes with --program or --tp-size");
    AM_CHECK(!am_cli_given(cli, "text"), AM_ERR_USAGE, "--text goes with --match");
    AM_CHECK(program + card + am_cli_flag(cli, "json") <= 1, AM_ERR_USAGE,
             "--json, --program and --card-text each print something of their own: give one of them");
    AM_TRY(am_cli_source_open(am_cli_positional(cli, 0), &o, &s));
    if (!s.manifest) AM_TRY(refuse(cli, for_steps, "is for checkpoints"));
    if (program) {
        AM_TRY(print_program(cli, s.model));
    } else if (card) {
        AM_TRY(am_card_print(s.model->card, &text));
        fputs(text.s, stdout);
    } else {
        AM_TRY(tell(cli, &s));
    }
done:
    am_str_release(&text);
    am_cli_source_release(&s);
    return st;
}

static am_status inspect_match(const am_cli *cli)
{
    static const char *const others[] = {"card", "card-text", "program", "rows", "seq-len", "ranks", "rank", "dtype", "verify",
                                         "model", "samples", "tokenizer", "tp-size"};
    am_status st = AM_OK;
    json_t *o = NULL;
    am_str draft = {0};
    bool new_card = am_cli_flag(cli, "new-card");
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        AM_CHECK(!am_cli_given(cli, others[i]), AM_ERR_USAGE, "--%s does not go with --match and --new-card", others[i]);
    AM_CHECK(!new_card || !(am_cli_flag(cli, "match") || am_cli_flag(cli, "json") || am_cli_given(cli, "text")), AM_ERR_USAGE,
             "--new-card prints a card and goes with no other option");
    if (new_card) {
        AM_TRY(am_inspect_new_card(am_cli_positional(cli, 0), &draft));
        fputs(draft.s, stdout);
        goto done;
    }
    AM_TRY(am_inspect_match(am_cli_positional(cli, 0), am_cli_string(cli, "text"), &o));
    if (am_cli_flag(cli, "json"))
        AM_TRY(print_json(o));
    else
        am_inspect_print_match(o);
done:
    json_decref(o);
    am_str_release(&draft);
    return st;
}

am_status am_cmd_inspect(int argc, char **argv)
{
    am_status st = AM_OK;
    am_cli *cli = NULL;
    AM_TRY(am_cli_parse(&am_inspect_command, argc, (const char *const *)argv, &cli));
    if (am_cli_help_wanted(cli))
        am_cli_print_help(&am_inspect_command, stdout);
    else if (am_cli_flag(cli, "match") || am_cli_flag(cli, "new-card"))
        AM_TRY(inspect_match(cli));
    else if (am_inspect_is_shards(am_cli_positional(cli, 0)))
        AM_TRY(inspect_shards(cli));
    else
        AM_TRY(inspect_source(cli));
    AM_CHECK(fflush(stdout) == 0, AM_ERR_IO, "the output cannot be written");
done:
    if (cli) am_cli_free(&cli);
    return st;
}
