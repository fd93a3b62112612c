/* automodel generate: a prompt goes in, text comes out as it is made.  One program with a key/value cache
 * does both: the prompt in chunks (prefill), then one token at a time (decode). How to read: am_cmd_generate
 * at the end; above it options → prompt → program → the loop → the text. */
#include "cli/cli.h"

#include "cli/cli_support.h"
#include "cli/sampling.h"
#include "hf/chat.h"

#include <jansson.h>
#include <string.h>

static const am_cli_option options[] = {
    {"prompt", 'p', AM_CLI_STRING, NULL, "TEXT", "What to continue, or with --chat what the user says."},
    {"chat", 0, AM_CLI_FLAG, NULL, NULL,
     "Put the prompt through the model's chat template (needs python3-jinja2)."},
    {"system", 0, AM_CLI_STRING, NULL, "TEXT", "With --chat: a system turn before the user's."},
    {"prompt-ids", 0, AM_CLI_STRING, NULL, "1,2,3",
     "Token ids instead of --prompt; then the model needs no tokenizer."},
    {"max-tokens", 'n', AM_CLI_INT, "256", "N", "Stop after so many new tokens."},
    {"temperature", 't', AM_CLI_FLOAT, NULL, "X",
     "Sample from softmax(logits / X); 0: always the most likely token, which is also what happens "
     "when no option of sampling is given."},
    {"top-k", 'k', AM_CLI_INT, NULL, "K", "Sample from the K most likely tokens."},
    {"top-p", 0, AM_CLI_FLOAT, NULL, "P", "Sample from the fewest tokens whose probabilities add up to P."},
    {"seed", 0, AM_CLI_INT, "0", "N", "Of the sampling: the same seed gives the same text."},
    {"dtype", 0, AM_CLI_STRING, NULL, "DTYPE",
     "Compute in float32 or bfloat16; none: bfloat16 where config.json says so, else float32."},
    {"threads", 0, AM_CLI_INT, NULL, "N", "Threads; none: the cores this process may use."},
    {"device", 0, AM_CLI_STRING, "cpu", "NAME", "cpu or guarded."},
    {"chunk", 0, AM_CLI_INT, "512", "N", "Tokens of the prompt computed at a time."},
    {"card", 0, AM_CLI_STRING, NULL, "NAME", "Model card; none: chosen by model_type."},
    {"model", 0, AM_CLI_STRING, NULL, "DIR", "Where a checkpoint's source model stands, when it was moved."},
    {"json", 0, AM_CLI_FLAG, NULL, NULL,
     "Print ids, text, log probabilities and the reason for stopping as JSON, at the end."},
    {0},
};
const am_cli_command am_generate_command = {
    "automodel generate",
    "MODEL|CHECKPOINT --prompt TEXT [--chat] [--max-tokens N]",
    "Continues a text, or with --chat answers it.  The most likely token is taken unless --temperature, "
    "--top-k or --top-p is given.  Stops at the "
    "model's end-of-sequence tokens (generation_config.json).",
    options,
    1,
    1,
    false};

typedef struct am_generate {
    am_cli *cli;
    am_cli_source source;
    am_engine *engine;
    am_tokenizer *tokenizer; /* NULL: ids in, ids out */
    am_program *program;
    am_exec *exec;
    am_sampling sampling;
    am_encoding encoding;
    int64_t V, chunk, cache, prompt_n, max_new, n; /* n: tokens in ids, prompt included */
    uint32_t *ids, *spelled;                       /* [prompt_n + max_new]; spelled: those that have a text */
    double *logprob;                               /* [max_new] */
    int32_t *in_ids, *pos, *doc, *k_index, *order; /* [chunk] ×3, [cache], [V] */
    float *logits;                                 /* [V] */
    int64_t begin, count;              /* what the feed hands over: tokens [begin, begin + count) */
    int64_t chat_end;                  /* the tokenizer's eos_token with --chat; -1: none */
    size_t window, shown, num_spelled; /* text: spelled[window..shown) are printed */
    am_str text;                       /* printed so far */
    double prefill_s, decode_s;
} am_generate;

/* ---- options and prompt
 * ------------------------------------------------------------------------------------------------ */

static am_status read_sampling(am_generate *g)
{
    am_status st = AM_OK;
    am_sampling *s = &g->sampling;
    bool any = am_cli_given(g->cli, "top-k") || am_cli_given(g->cli, "top-p"),
         t = am_cli_given(g->cli, "temperature");
    s->temperature = t ? am_cli_float(g->cli, "temperature") : any ? 1 : 0;
    s->top_k = am_cli_int(g->cli, "top-k");
    s->top_p = am_cli_given(g->cli, "top-p") ? am_cli_float(g->cli, "top-p") : 1;
    s->seed = (uint64_t)am_cli_int(g->cli, "seed");
    AM_CHECK(s->temperature >= 0 && s->temperature <= 1e3, AM_ERR_USAGE,
             "--temperature is between 0 and 1000");
    AM_CHECK(s->temperature > 0 || !any, AM_ERR_USAGE,
             "--top-k and --top-p choose among sampled tokens, and --temperature 0 samples none: leave one "
             "of them out");
    AM_CHECK(s->temperature > 0 || !am_cli_given(g->cli, "seed"), AM_ERR_USAGE,
             "--seed has no effect without --temperature, --top-k or --top-p");
    AM_CHECK(!am_cli_given(g->cli, "top-k") || s->top_k >= 1, AM_ERR_USAGE, "--top-k is at least 1");
    AM_CHECK(s->top_p > 0 && s->top_p <= 1, AM_ERR_USAGE, "--top-p is above 0 and at most 1");
done:
    return st;
}

static am_status check_options(am_generate *g)
{
    am_status st = AM_OK;
    bool text = am_cli_given(g->cli, "prompt"), ids = am_cli_given(g->cli, "prompt-ids"),
         chat = am_cli_flag(g->cli, "chat");
    AM_CHECK(text != ids, AM_ERR_USAGE, "generate needs --prompt TEXT%s",
             text ? " or --prompt-ids, not both" : " (or --prompt-ids 1,2,3)");
    AM_CHECK(!ids || !chat, AM_ERR_USAGE, "--chat goes with --prompt: ids are taken as they are");
    AM_CHECK(chat || !am_cli_given(g->cli, "system"), AM_ERR_USAGE, "--system goes with --chat");
    AM_CHECK(am_cli_int(g->cli, "max-tokens") >= 1 && am_cli_int(g->cli, "max-tokens") <= 1 << 24,
             AM_ERR_USAGE, "--max-tokens is at least 1");
    AM_CHECK(am_cli_int(g->cli, "chunk") >= 1 && am_cli_int(g->cli, "chunk") <= 1 << 20, AM_ERR_USAGE,
             "--chunk is at least 1");
    AM_TRY(read_sampling(g));
done:
    return st;
}

static am_status parse_ids(am_generate *g)
{
    am_status st = AM_OK;
    const char *s = am_cli_string(g->cli, "prompt-ids");
    while (*s) {
        char number[24];
        size_t n = strcspn(s, ",");
        int64_t id = -1;
        snprintf(number, sizeof number, "%.*s", (int)n, s);
        AM_CHECK(n < sizeof number && am_parse_i64(number, &id) && id >= 0 && id < INT32_MAX, AM_ERR_USAGE,
                 "--prompt-ids: \"%s\" is no token id", number);
        AM_TRY(am_grow(&g->encoding.ids, &g->encoding.id_cap, g->encoding.n + 1, sizeof *g->encoding.ids));
        g->encoding.ids[g->encoding.n++] = (uint32_t)id;
        s += n + (s[n] == ',');
    }
done:
    return st;
}

static am_status encode_text(am_generate *g, const char *text, size_t n, int flags)
{
    am_status st = AM_OK;
    am_tok_scratch *scratch = NULL;
    AM_TRY(am_tok_scratch_create(g->tokenizer, &scratch));
    AM_TRY(am_tokenizer_encode(g->tokenizer, scratch, text, n, flags, &g->encoding));
done:
    am_tok_scratch_free(&scratch);
    return st;
}

/* The template's helper process lives only here, before any MPI. */
static am_status encode_chat(am_generate *g)
{
    am_status st = AM_OK;
    am_chat *chat = NULL;
    am_str text = {0};
    const char *system = am_cli_string(g->cli, "system");
    json_t *messages = json_array();
    AM_TRY(am_chat_open(g->source.model->hf->dir, NULL, NULL, &chat));
    if (system) json_array_append_new(messages, json_pack("{s:s, s:s}", "role", "system", "content", system));
    json_array_append_new(
        messages, json_pack("{s:s, s:s}", "role", "user", "content", am_cli_string(g->cli, "prompt")));
    AM_CHECK(json_array_size(messages) == (system ? 2u : 1u), AM_ERR_USAGE, "the prompt is not UTF-8");
    AM_TRY(am_chat_render(chat, messages, NULL, true, &text));
    AM_TRY(encode_text(g, text.s ? text.s : "", text.len, AM_ENCODE_PLAIN));
    if (!am_tokenizer_role_id(g->tokenizer, "eos_token", &g->chat_end)) g->chat_end = -1;
done:
    am_chat_free(&chat);
    am_str_release(&text);
    json_decref(messages);
    return st;
}

static am_status read_prompt(am_generate *g)
{
    am_status st = AM_OK;
    const am_hf_model *m = g->source.model->hf;
    const char *prompt = am_cli_string(g->cli, "prompt");
    char *path = NULL;
    AM_TRY(am_path_join(m->dir, "tokenizer.json", &path));
    if (prompt || am_path_exists(path)) {
        AM_TRY(am_tokenizer_open(m->dir, &g->tokenizer));
        AM_TRY(am_cli_check_tokenizer(g->tokenizer, m));
    }
    if (!prompt)
        AM_TRY(parse_ids(g));
    else if (am_cli_flag(g->cli, "chat"))
        AM_TRY(encode_chat(g));
    else
        AM_TRY(encode_text(g, prompt, strlen(prompt), AM_ENCODE_ADD_SPECIAL));
    AM_CHECK(g->encoding.n > 0, AM_ERR_USAGE, "the prompt has no tokens: there is nothing to continue");
done:
    am_free(&path);
    return st;
}

/* How many tokens: the prompt, what may follow, and the positions that the model has. */
static am_status set_lengths(am_generate *g)
{
    am_status st = AM_OK;
    int64_t positions = 0, room;
    g->prompt_n = (int64_t)g->encoding.n;
    g->max_new = am_cli_int(g->cli, "max-tokens");
    AM_TRY(am_hf_config_i64(g->source.model->hf, "max_position_embeddings", 0, &positions));
    room = positions > 0 ? positions - g->prompt_n : INT32_MAX - g->prompt_n;
    AM_CHECK(room > 0, AM_ERR_USAGE,
             "the prompt has %" PRId64 " tokens and the model %" PRId64
             " positions (max_position_embeddings): shorten it",
             g->prompt_n, positions);
    AM_CHECK(!am_cli_given(g->cli, "max-tokens") || g->max_new <= room, AM_ERR_USAGE,
             "%" PRId64 " tokens of prompt and --max-tokens %" PRId64 " are more than the model's %" PRId64
             " positions (max_position_embeddings): --max-tokens can be %" PRId64,
             g->prompt_n, g->max_new, positions, room);
    g->max_new = am_min_i64(g->max_new, room);
    g->chunk = am_min_i64(am_cli_int(g->cli, "chunk"), g->prompt_n);
    g->cache = g->prompt_n + g->max_new;
done:
    return st;
}

/* ---- program
 * ------------------------------------------------------------------------------------------------------------
 */

static am_status allocate(am_generate *g)
{
    am_status st = AM_OK;
    int32_t **chunked[] = {&g->in_ids, &g->pos, &g->doc};
    for (size_t i = 0; i < sizeof chunked / sizeof *chunked; i++)
        AM_TRY(am_calloc((size_t)g->chunk, sizeof(int32_t), chunked[i]));
    AM_TRY(am_calloc((size_t)g->cache, sizeof *g->k_index, &g->k_index));
    AM_TRY(am_calloc((size_t)g->cache, sizeof *g->ids, &g->ids));
    AM_TRY(am_calloc((size_t)g->cache, sizeof *g->spelled, &g->spelled));
    AM_TRY(am_calloc((size_t)g->max_new, sizeof *g->logprob, &g->logprob));
    AM_TRY(am_calloc((size_t)g->V, sizeof *g->order, &g->order));
    AM_TRY(am_calloc((size_t)g->V, sizeof *g->logits, &g->logits));
    for (int64_t i = 0; i < g->prompt_n; i++) {
        AM_CHECK(g->encoding.ids[i] < (uint64_t)g->V, AM_ERR_USAGE,
                 "token id %" PRIu32 " of the prompt is beyond the model's vocabulary of %" PRId64,
                 g->encoding.ids[i], g->V);
        g->ids[i] = g->encoding.ids[i];
    }
    g->n = g->prompt_n;
done:
    return st;
}

static am_status compile(am_generate *g)
{
    am_status st = AM_OK;
    am_graph *graph = NULL;
    am_dtype dtype;
    am_program_options o = am_program_defaults(AM_PROGRAM_GENERATE);
    o.mesh = am_engine_mesh(g->engine, false, 1);
    o.threads = g->engine->threads;
    o.cache_tokens = g->cache;
    o.logit_rows = 1;
    AM_TRY(am_cli_compute_dtype(am_cli_string(g->cli, "dtype"), g->source.model->hf, &dtype));
    AM_TRY(am_comm_set_mesh(g->engine->comm, &o.mesh));
    AM_TRY(am_model_graph(g->source.model, 1, g->chunk, dtype, &graph));
    AM_TRY(am_program_compile(&graph, &o, &g->program));
    g->V = g->program->logits.shape.dim[1];
    AM_TRY(allocate(g));
    AM_TRY(am_engine_fits(g->engine, &g->program, 1, 0));
    AM_TRY(am_exec_create(g->engine->device, g->engine->comm, &g->program, 1, NULL, &g->exec));
    AM_TRY(am_cli_source_load(&g->source, g->exec, g->program));
done:
    am_graph_free(&graph);
    return st;
}

/* ---- the loop
 * -------------------------------------------------------------------------------------------------------------
 */

/* Token i has position, cache row and index i; rows of the cache that are not written yet have an index that
 * no query sees. */
static am_status feed(void *context, am_exec *e, int program, int micro, int frame, int64_t *tokens)
{
    am_generate *g = context;
    am_status st = AM_OK;
    int32_t last = (int32_t)g->count - 1;
    for (int64_t i = 0; i < g->count; i++) {
        g->in_ids[i] = (int32_t)g->ids[g->begin + i];
        g->pos[i] = (int32_t)(g->begin + i);
    }
    for (int64_t i = 0; i < g->cache; i++) g->k_index[i] = i < g->begin + g->count ? (int32_t)i : INT32_MAX;
    *tokens = g->count;
    AM_TRY(am_exec_write_input(e, program, frame, "ids", g->in_ids, g->count));
    AM_TRY(am_exec_write_input(e, program, frame, "pos", g->pos, g->count));
    AM_TRY(am_exec_write_input(e, program, frame, "index", g->pos, g->count));
    AM_TRY(am_exec_write_input(e, program, frame, "slots", g->pos, g->count));
    AM_TRY(am_exec_write_input(e, program, frame, "doc_start", g->doc, g->count));
    AM_TRY(am_exec_write_input(e, program, frame, "k_index", g->k_index, g->cache));
    AM_TRY(am_exec_write_input(e, program, frame, "rows", &last, 1));
done:
    return st;
}

/* Everything up to token n that is not in the cache yet. */
static am_status advance(am_generate *g)
{
    am_status st = AM_OK;
    for (g->begin += g->count; g->begin < g->n; g->begin += g->count) {
        g->count = am_min_i64(g->chunk, g->n - g->begin);
        AM_TRY(am_exec_run(g->exec, 0, feed, g));
        if (g->begin + g->count == g->n) break;
    }
    AM_TRY(am_exec_read_logits(g->exec, 0, 0, g->logits, g->V));
done:
    return st;
}

/* The text of the new tokens as far as it is settled: bytes of a character that is not complete decode to
 * U+FFFD and wait. A decoder may treat the first token in its own way, so each piece is what a window has
 * beyond its known beginning. */
static am_status show(am_generate *g, bool all)
{
    am_status st = AM_OK;
    am_str known = {0}, now = {0};
    size_t n = g->num_spelled;
    if (!g->tokenizer) goto done;
    AM_TRY(am_tokenizer_decode(g->tokenizer, g->spelled + g->window, g->shown - g->window, true, &known));
    AM_TRY(am_tokenizer_decode(g->tokenizer, g->spelled + g->window, n - g->window, true, &now));
    bool open = now.len >= 3 && memcmp(now.s + now.len - 3, "\xef\xbf\xbd", 3) == 0;
    if (now.len <= known.len || (open && !all)) goto done;
    AM_TRY(am_str_append(&g->text, now.s + known.len, now.len - known.len));
    if (!am_cli_flag(g->cli, "json")) {
        fwrite(now.s + known.len, 1, now.len - known.len, stdout);
        AM_CHECK(fflush(stdout) == 0, AM_ERR_IO, "the output cannot be written");
    }
    g->window = g->shown;
    g->shown = n;
done:
    am_str_release(&known);
    am_str_release(&now);
    return st;
}

/* A vocabulary that was padded has ids without a token: they are reported and have no text. */
static void spell(am_generate *g, uint32_t id)
{
    if (!g->tokenizer) return;
    if (am_tokenizer_token(g->tokenizer, id))
        g->spelled[g->num_spelled++] = id;
    else
        am_log(AM_LOG_WARN, "cli", "token id %" PRIu32 " is not in the tokenizer: it has no text", id);
}

static am_status loop(am_generate *g, bool *ended)
{
    am_status st = AM_OK;
    *ended = false;
    for (int64_t i = 0; i < g->prompt_n; i++) spell(g, g->ids[i]);
    g->shown = g->num_spelled;
    g->window = g->shown > 6 ? g->shown - 6 : 0;
    while (g->n < g->cache && !*ended) {
        int32_t token = 0;
        double start = am_now();
        bool first = g->n == g->prompt_n;
        AM_TRY(advance(g));
        AM_TRY(am_sample_token(&g->sampling, g->logits, g->V, g->order, g->n - g->prompt_n, &token,
                               &g->logprob[g->n - g->prompt_n]));
        *(first ? &g->prefill_s : &g->decode_s) += am_now() - start;
        g->ids[g->n++] = (uint32_t)token;
        *ended = am_hf_model_is_eos(g->source.model->hf, token) || token == g->chat_end;
        if (*ended) break; /* the end is not part of the text */
        spell(g, (uint32_t)token);
        AM_TRY(show(g, false));
    }
    AM_TRY(show(g, true));
done:
    return st;
}

/* ---- result
 * ------------------------------------------------------------------------------------------------------------------
 */

static am_status print_json(const am_generate *g, bool ended)
{
    am_status st = AM_OK;
    json_t *ids = json_array(), *logprobs = json_array(), *o = NULL;
    for (int64_t i = g->prompt_n; i < g->n; i++) {
        json_array_append_new(ids, json_integer(g->ids[i]));
        json_array_append_new(logprobs, json_real(g->logprob[i - g->prompt_n]));
    }
    o = json_pack("{s:I, s:O, s:O, s:o, s:s, s:f, s:f}", "prompt_tokens", (json_int_t)g->prompt_n, "ids", ids,
                  "logprobs", logprobs, "text",
                  g->tokenizer ? json_stringn(g->text.s ? g->text.s : "", g->text.len) : json_null(),
                  "finish", ended ? "eos" : "length", "prefill_seconds", g->prefill_s, "decode_seconds",
                  g->decode_s);
    AM_CHECK(o && json_dumpf(o, stdout, JSON_REAL_PRECISION(9)) == 0, AM_ERR_IO,
             "the output cannot be written");
    printf("\n");
done:
    json_decref(o);
    json_decref(ids);
    json_decref(logprobs);
    return st;
}

static am_status report(const am_generate *g, bool ended)
{
    am_status st = AM_OK;
    int64_t made = g->n - g->prompt_n;
    if (am_cli_flag(g->cli, "json")) return print_json(g, ended);
    if (!g->tokenizer)
        for (int64_t i = g->prompt_n; i < g->n; i++)
            printf("%s%" PRIu32, i > g->prompt_n ? "," : "", g->ids[i]);
    printf("\n");
    AM_CHECK(fflush(stdout) == 0, AM_ERR_IO, "the output cannot be written");
    am_log(AM_LOG_INFO, "cli",
           "%" PRId64 " tokens of prompt in %.2f s, %" PRId64
           " new in %.2f s (%.1f tokens/s after the first); %s",
           g->prompt_n, g->prefill_s, made, g->decode_s,
           g->decode_s > 0 ? (double)(made - 1) / g->decode_s : 0.0,
           ended ? "the model ended it" : "stopped at --max-tokens or the model's last position");
done:
    return st;
}

static am_status generate(am_generate *g)
{
    am_status st = AM_OK;
    bool ended = false;
    am_engine_options o = {.device = am_cli_string(g->cli, "device"),
                           .threads = (int)am_cli_int(g->cli, "threads"),
                           .quiet = true};
    AM_TRY(check_options(g));
    am_cli_source_options from = {.weights = AM_HF_WEIGHTS_REQUIRED,
                                  .card = am_cli_string(g->cli, "card"),
                                  .model_dir = am_cli_string(g->cli, "model")};
    AM_TRY(am_cli_source_open(am_cli_positional(g->cli, 0), &from, &g->source));
    AM_TRY(read_prompt(g));
    AM_TRY(set_lengths(g));
    AM_TRY(am_engine_open(&o, &g->engine));
    AM_TRY(am_cli_one_rank(g->engine, "generate"));
    AM_TRY(compile(g));
    AM_TRY(loop(g, &ended));
    AM_TRY(report(g, ended));
done:
    return st;
}

am_status am_cmd_generate(int argc, char **argv)
{
    am_status st = AM_OK;
    am_generate g = {.chat_end = -1};
    AM_TRY(am_cli_parse(&am_generate_command, argc, (const char *const *)argv, &g.cli));
    if (am_cli_help_wanted(g.cli))
        am_cli_print_help(&am_generate_command, stdout);
    else
        AM_TRY(generate(&g));
done:
    am_exec_free(&g.exec);
    am_program_free(&g.program);
    am_tokenizer_free(&g.tokenizer);
    am_cli_source_release(&g.source);
    am_encoding_release(&g.encoding);
    am_str_release(&g.text);
    void *arrays[] = {&g.ids, &g.spelled, &g.logprob, &g.in_ids, &g.pos,
                      &g.doc, &g.k_index, &g.order,   &g.logits};
    for (size_t i = 0; i < sizeof arrays / sizeof *arrays; i++) am_free(arrays[i]);
    if (st == AM_OK) st = am_engine_close(&g.engine);
    if (g.cli) am_cli_free(&g.cli);
    return st;
}
