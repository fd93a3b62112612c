/* automodel tokenize: a JSON line in, a JSON line out.  {"text"} → {"ids"}, {"messages"} → {"ids",
 * "loss_mask"}; with
 * --decode {"ids"} → {"text"}.  A line that cannot be done gives {"error"} in its place, and AM_ERR_DATA at
 * the end; only what would spoil every line (no such model, no Python for its chat template) ends the run at
 * once. */
#include "cli/cli.h"
#include "config/config.h"
#include "hf/chat.h"
#include "hf/hf.h"
#include "hf/tokenizer.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static const am_cli_option options[] = {
    {"input", 'i', AM_CLI_STRING, NULL, "FILE", "JSON lines to read; standard input when not given or \"-\""},
    {"output", 'o', AM_CLI_STRING, NULL, "FILE", "where to write; standard output when not given"},
    {"decode", 0, AM_CLI_FLAG, NULL, NULL, "ids to text"},
    {"keep-special", 0, AM_CLI_FLAG, NULL, NULL,
     "with --decode: write special tokens too, which are left out by default"},
    {"no-special", 0, AM_CLI_FLAG, NULL, NULL, "text: do not add what the tokenizer adds around it (BOS …)"},
    {"special-as-text", 0, AM_CLI_FLAG, NULL, NULL,
     "text: \"<|im_end|>\" in it is ordinary text, not the control token"},
    {0},
};

const am_cli_command am_tokenize_command = {
    .name = "automodel tokenize",
    .usage = "MODEL [--input FILE.jsonl] [--decode]",
    .summary = "A JSON line in, a JSON line out: {\"text\"} gives {\"ids\"}, {\"messages\", \"tools\"?} "
               "gives {\"ids\", "
               "\"loss_mask\"}; with --decode {\"ids\"} gives {\"text\"}.",
    .options = options,
    .min_positionals = 1,
    .max_positionals = 1,
};

typedef struct job {
    const char *model, *name; /* name: of the input, for errors */
    FILE *in, *out;
    bool decode, keep_special;
    int flags;
    am_tokenizer *tokenizer;
    am_tok_scratch *scratch;
    am_chat *chat; /* started by the first line with messages */
    char *no_chat; /* why that failed */
    am_encoding tokens;
    am_chat_samples chats;
    am_str text;
    int64_t lines, failed, turns, unsupervised;
} job;

static void print_ids(FILE *f, const uint32_t *ids, size_t n)
{
    fputs("{\"ids\":[", f);
    for (size_t i = 0; i < n; i++) fprintf(f, i > 0 ? ",%" PRIu32 : "%" PRIu32, ids[i]);
    fputc(']', f);
}

/* {"key": text}; the text is UTF-8. */
static am_status print_string(FILE *f, const char *key, const char *s, size_t n)
{
    am_status st = AM_OK;
    json_t *o = json_object(), *v = json_stringn(n > 0 ? s : "", n);
    AM_CHECK(o != NULL && v != NULL && json_object_set(o, key, v) == 0, AM_ERR_MEMORY,
             "the host refused memory");
    AM_CHECK(json_dumpf(o, f, 0) == 0, AM_ERR_IO, "the output cannot be written");
    fputc('\n', f);
done:
    json_decref(v);
    json_decref(o);
    return st;
}

static am_status do_text(job *j, const json_t *text)
{
    am_status st = AM_OK;
    AM_TRY(am_tokenizer_encode(j->tokenizer, j->scratch, json_string_value(text), json_string_length(text),
                               j->flags, &j->tokens));
    print_ids(j->out, j->tokens.ids, j->tokens.n);
    fputs("}\n", j->out);
done:
    return st;
}

/* A template that is missing or invalid stays so: the sentence is kept for the lines to come. */
static am_status open_chat(job *j)
{
    am_status st = AM_OK;
    if (j->chat != NULL) return AM_OK;
    AM_CHECK(j->no_chat == NULL, AM_ERR_MODEL, "%s", j->no_chat);
    st = am_chat_open(j->model, j->tokenizer, NULL, &j->chat);
    if (st == AM_ERR_MODEL) AM_TRY(am_strdup(am_error_message(), &j->no_chat));
    if (st == AM_OK && j->no_chat != NULL) AM_FAIL(AM_ERR_MODEL, "%s", j->no_chat);
done:
    return st;
}

static am_status do_messages(job *j, const json_t *line, const json_t *messages)
{
    am_status st = AM_OK;
    AM_TRY(open_chat(j));
    AM_TRY(am_chat_encode(j->chat, j->scratch, messages, json_object_get(line, "tools"), AM_CHAT_WHOLE,
                          &j->chats));
    const am_chat_sample *s = &j->chats.items[0];
    print_ids(j->out, s->tokens.ids, s->tokens.n);
    fputs(",\"loss_mask\":[", j->out);
    for (size_t i = 0; i < s->tokens.n; i++)
        fputs(i > 0 ? s->loss_mask[i] ? ",1" : ",0" : s->loss_mask[i] ? "1" : "0", j->out);
    fputs("]}\n", j->out);
    j->turns += (int64_t)j->chats.num_assistant;
    j->unsupervised += (int64_t)j->chats.num_unsupervised;
done:
    return st;
}

static am_status do_decode(job *j, const json_t *list)
{
    am_status st = AM_OK;
    uint32_t *ids = NULL;
    size_t n = json_array_size(list), i;
    json_t *v;
    AM_CHECK(json_is_array(list), AM_ERR_DATA, "with --decode a line is {\"ids\": [numbers]}");
    AM_TRY(am_calloc(n, sizeof *ids, &ids));
    json_array_foreach((json_t *)list, i, v)
    {
        json_int_t id = json_is_integer(v) ? json_integer_value(v) : -1;
        AM_CHECK(id >= 0 && id < UINT32_MAX, AM_ERR_DATA, "ids[%zu] is not a token id", i);
        ids[i] = (uint32_t)id;
    }
    j->text.len = 0;
    AM_TRY(am_tokenizer_decode(j->tokenizer, ids, n, !j->keep_special, &j->text));
    AM_TRY(print_string(j->out, "text", j->text.s, j->text.len));
done:
    am_free(&ids);
    return st;
}

static am_status do_line(job *j, const char *s, size_t n)
{
    am_status st = AM_OK;
    json_t *line = NULL;
    char where[4096];
    snprintf(where, sizeof where, "%s:%" PRId64, j->name, j->lines);
    AM_CHECK(memchr(s, '{', n) != NULL, AM_ERR_DATA, "%s: the line holds no JSON object", where);
    AM_TRY(am_json_parse(s, n, where, &line));
    json_t *text = json_object_get(line, "text"), *messages = json_object_get(line, "messages");
    if (j->decode) {
        AM_TRY(do_decode(j, json_object_get(line, "ids")));
    } else {
        AM_CHECK((text == NULL) != (messages == NULL), AM_ERR_DATA,
                 "a line has either \"text\" or \"messages\", this one has %s",
                 text != NULL ? "both" : "neither");
        AM_CHECK(text == NULL || json_is_string(text), AM_ERR_DATA, "\"text\" is not a string");
        if (text != NULL)
            AM_TRY(do_text(j, text));
        else
            AM_TRY(do_messages(j, line, messages));
    }
done:
    json_decref(line);
    return st;
}

/* JSON, template and data; what is left (no Python, no memory, no disk) would spoil every line. */
static bool is_the_lines_fault(am_status st)
{
    return st == AM_ERR_DATA || st == AM_ERR_MODEL;
}

static am_status do_all(job *j)
{
    am_status st = AM_OK;
    char *line = NULL;
    size_t cap = 0;
    ssize_t n;
    errno = 0;
    while ((n = getline(&line, &cap, j->in)) >= 0) { /* "\n" alone ends a line */
        if (n > 0 && line[n - 1] == '\n') n--;
        j->lines++;
        st = do_line(j, line, (size_t)n);
        if (st == AM_OK) continue;
        if (!is_the_lines_fault(st)) goto done;
        j->failed++;
        AM_TRY(print_string(j->out, "error", am_error_message(), strlen(am_error_message())));
        am_error_clear();
        errno = 0;
    }
    AM_CHECK(feof(j->in), AM_ERR_IO, "cannot read %s: %s", j->name, strerror(errno));
    AM_CHECK(fflush(j->out) == 0 && !ferror(j->out), AM_ERR_IO, "the output cannot be written: %s",
             strerror(errno));
done:
    free(line);
    return st;
}

static am_status open_files(job *j, const am_cli *cli)
{
    am_status st = AM_OK;
    const char *input = am_cli_string(cli, "input"), *output = am_cli_string(cli, "output");
    bool from_file = input != NULL && strcmp(input, "-") != 0;
    j->name = from_file ? input : "standard input";
    j->in = from_file ? fopen(input, "r") : stdin;
    AM_CHECK(j->in != NULL, AM_ERR_IO, "cannot open %s: %s", input, strerror(errno));
    j->out = output != NULL ? fopen(output, "w") : stdout;
    AM_CHECK(j->out != NULL, AM_ERR_IO, "cannot create %s: %s", output, strerror(errno));
done:
    return st;
}

static void release(job *j)
{
    if (j->in != NULL && j->in != stdin) fclose(j->in);
    if (j->out != NULL && j->out != stdout) fclose(j->out);
    am_chat_free(&j->chat);
    am_free(&j->no_chat);
    am_chat_samples_release(&j->chats);
    am_encoding_release(&j->tokens);
    am_str_release(&j->text);
    am_tok_scratch_free(&j->scratch);
    am_tokenizer_free(&j->tokenizer);
}

am_status am_cmd_tokenize(int argc, char **argv)
{
    am_status st = AM_OK;
    am_cli *cli = NULL;
    job j = {0};
    AM_TRY(am_cli_parse(&am_tokenize_command, argc, (const char *const *)argv, &cli));
    if (am_cli_help_wanted(cli)) {
        am_cli_print_help(&am_tokenize_command, stdout);
        goto done;
    }
    j.model = am_cli_positional(cli, 0);
    j.decode = am_cli_flag(cli, "decode");
    j.keep_special = am_cli_flag(cli, "keep-special");
    if (!am_cli_flag(cli, "no-special")) j.flags |= AM_ENCODE_ADD_SPECIAL;
    if (am_cli_flag(cli, "special-as-text")) j.flags |= AM_ENCODE_SPECIAL_AS_TEXT;
    AM_TRY(am_tokenizer_open(j.model, &j.tokenizer));
    AM_TRY(am_tok_scratch_create(j.tokenizer, &j.scratch));
    AM_TRY(open_files(&j, cli));
    AM_TRY(do_all(&j));
    if (j.unsupervised > 0)
        am_log(AM_LOG_WARN, "hf",
               "%" PRId64 " of %" PRId64 " assistant turns are not supervised: the chat template rewrites "
               "them in what follows",
               j.unsupervised, j.turns);
    AM_CHECK(j.failed == 0, AM_ERR_DATA, "%" PRId64 " of %" PRId64 " lines could not be done", j.failed,
             j.lines);
done:
    release(&j);
    am_cli_free(&cli);
    return st;
}
