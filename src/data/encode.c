/* One JSON line → token samples: the line's form decides between the template, prompt + completion and plain
 * text. Read am_encoder_line first. */
#include "data/data_internal.h"
#include "hf/chat.h"

#include <jansson.h>
#include <string.h>

struct am_encoder {
    am_prepare_options o;
    am_tokenizer *tokenizer;
    am_tok_scratch *scratch;
    am_chat *chat; /* NULL: not started */
    int64_t eos;   /* -1: the tokenizer names none */
    char tokenizer_sha256[65];
    am_encoding encoding;
    am_chat_samples chats;
    am_str text;
    uint8_t *mask;
    size_t mask_cap;
};

static const char *key_or(const char *key, const char *fallback)
{
    return key ? key : fallback;
}

am_status am_encoder_create(const am_prepare_options *options, bool chat, am_encoder **out)
{
    am_status st = AM_OK;
    am_encoder *e = NULL;
    AM_TRY(am_calloc(1, sizeof *e, &e));
    e->o = *options;
    AM_TRY(am_tokenizer_open(options->model_dir, &e->tokenizer));
    AM_TRY(am_tokenizer_sha256(e->tokenizer, e->tokenizer_sha256));
    AM_TRY(am_tok_scratch_create(e->tokenizer, &e->scratch));
    if (!am_tokenizer_role_id(e->tokenizer, "eos_token", &e->eos)) e->eos = -1;
    if (chat) AM_TRY(am_chat_open(options->model_dir, e->tokenizer, NULL, &e->chat));
    *out = e;
    e = NULL;
done:
    am_encoder_free(&e);
    return st;
}

void am_encoder_free(am_encoder **e)
{
    if (!*e) return;
    am_chat_free(&(*e)->chat);
    am_tok_scratch_free(&(*e)->scratch);
    am_tokenizer_free(&(*e)->tokenizer);
    am_encoding_release(&(*e)->encoding);
    am_chat_samples_release(&(*e)->chats);
    am_str_release(&(*e)->text);
    am_free(&(*e)->mask);
    am_free(e);
}

const char *am_encoder_tokenizer_sha256(const am_encoder *e)
{
    return e->tokenizer_sha256;
}
const char *am_encoder_template_sha256(const am_encoder *e)
{
    return e->chat ? am_chat_sha256(e->chat) : "";
}
int64_t am_encoder_vocab_size(const am_encoder *e)
{
    return am_tokenizer_vocab_size(e->tokenizer);
}

static am_status parse_line(const char *line, size_t len, json_t **out)
{
    am_status st = AM_OK;
    json_error_t error;
    json_t *root = json_loadb(line, len, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &error);
    AM_CHECK(root, AM_ERR_DATA, "column %d: not JSON: %s", error.column, error.text);
    AM_CHECK(json_is_object(root), AM_ERR_DATA, "a JSON object was expected, {\"messages\": …} or the like");
    *out = root;
    root = NULL;
done:
    json_decref(root);
    return st;
}

am_status am_line_is_chat(const am_prepare_options *o, const char *line, size_t len, bool *chat)
{
    am_status st = AM_OK;
    json_t *root = NULL;
    AM_TRY(parse_line(line, len, &root));
    *chat = json_object_get(root, "messages") ||
            (o->columns_as_chat && json_object_get(root, key_or(o->prompt_key, "prompt")));
done:
    json_decref(root);
    return st;
}

/* ---- giving a sample ------------------------------------------------------------------------------- */

static am_status give(am_encoder *e, const uint32_t *ids, uint8_t *mask, size_t n, am_prepare_counts *counts,
                      am_sample_fn add, void *user)
{
    am_status st = AM_OK;
    bool any = false;
    AM_CHECK(n <= INT32_MAX, AM_ERR_DATA, "a sample of %zu tokens", n);
    AM_CHECK(e->o.max_length == 0 || (int64_t)n <= e->o.max_length, AM_ERR_DATA,
             "the sample has %zu tokens, more than the limit of %" PRId64 "; shorten it or raise the limit",
             n, e->o.max_length);
    if (e->o.supervise_all) memset(mask, 1, n);
    for (size_t t = 1; t < n && !any; t++) any = mask[t];
    if (any)
        AM_TRY(add(user, ids, mask, (int64_t)n));
    else
        counts->unsupervised_samples++;
done:
    return st;
}

/* ---- plain text ------------------------------------------------------------------------------------- */

static am_status append_string(am_str *text, const json_t *root, const char *key)
{
    am_status st = AM_OK;
    const json_t *v = json_object_get(root, key);
    AM_CHECK(json_is_string(v), AM_ERR_DATA, "\"%s\" is %s", key, v ? "not a string" : "missing");
    AM_TRY(am_str_append(text, json_string_value(v), json_string_length(v)));
done:
    return st;
}

/* e->text from byte `answer` on is supervised; EOS ends the sample. */
static am_status encode_text(am_encoder *e, size_t answer, am_prepare_counts *counts, am_sample_fn add,
                             void *user)
{
    am_status st = AM_OK;
    am_encoding *enc = &e->encoding;
    int flags = AM_ENCODE_ADD_SPECIAL | (e->o.special_as_text ? AM_ENCODE_SPECIAL_AS_TEXT : 0);
    AM_CHECK(e->eos >= 0, AM_ERR_MODEL,
             "%s: its tokenizer_config.json names no eos_token, which ends a sample",
             am_tokenizer_path(e->tokenizer));
    AM_TRY(
        am_tokenizer_encode(e->tokenizer, e->scratch, e->text.s ? e->text.s : "", e->text.len, flags, enc));
    counts->special_in_text += (int64_t)enc->num_special;
    AM_TRY(am_grow(&e->mask, &e->mask_cap, enc->n + 1, 1));
    bool inside = false; /* added tokens have the place [0, 0): those after the answer began belong to it */
    for (size_t t = 0; t < enc->n; t++) {
        bool added = enc->end[t] == 0;
        if (!added) inside = enc->start[t] >= answer;
        e->mask[t] = inside;
    }
    if (enc->n == 0 || enc->ids[enc->n - 1] != (uint32_t)e->eos) {
        AM_TRY(am_grow(&enc->ids, &enc->id_cap, enc->n + 1, sizeof *enc->ids));
        e->mask[enc->n] = 1;
        enc->ids[enc->n++] = (uint32_t)e->eos;
    }
    AM_TRY(give(e, enc->ids, e->mask, enc->n, counts, add, user));
done:
    return st;
}

static am_status make_prompt(am_encoder *e, const json_t *root)
{
    am_status st = AM_OK;
    e->text.len = 0;
    if (e->o.context_key) {
        AM_TRY(append_string(&e->text, root, e->o.context_key));
        AM_TRY(am_str_append(&e->text, " ", 1));
    }
    AM_TRY(append_string(&e->text, root, key_or(e->o.prompt_key, "prompt")));
done:
    return st;
}

/* ---- chats -------------------------------------------------------------------------------------------- */

/* The model must learn to stop: the special token right after the last supervised one is the end of a turn
 * that the template's blocks leave out. */
static am_status check_end_of_turn(const am_encoder *e, const am_chat_sample *s)
{
    am_status st = AM_OK;
    const uint32_t *ids = s->tokens.ids;
    size_t last = s->tokens.n;
    for (size_t t = 0; t < s->tokens.n; t++)
        if (s->loss_mask[t]) last = t;
    if (last + 1 >= s->tokens.n || am_tokenizer_is_special(e->tokenizer, ids[last])) goto done;
    AM_CHECK(!am_tokenizer_is_special(e->tokenizer, ids[last + 1]), AM_ERR_DATA,
             "the template leaves the end of the assistant's turn (%s) unsupervised: the model would not "
             "learn to stop; put it inside the {%% generation %%} block of the chat template",
             am_tokenizer_token(e->tokenizer, ids[last + 1]));
done:
    return st;
}

static am_status encode_chat(am_encoder *e, json_t *messages, const json_t *tools, am_prepare_counts *counts,
                             am_sample_fn add, void *user)
{
    am_status st = AM_OK;
    am_chat_mode mode = e->o.one_sample_per_turn ? AM_CHAT_PER_TURN : AM_CHAT_WHOLE;
    AM_CHECK(e->chat, AM_ERR_DATA,
             "a chat in a file that does not start with one; keep chats in files of their own");
    AM_CHECK(json_is_array(messages) && json_array_size(messages) > 0, AM_ERR_DATA,
             "\"messages\" is not a list of turns");
    AM_CHECK(!tools || json_is_array(tools) || json_is_null(tools), AM_ERR_DATA, "\"tools\" is not a list");
    const json_t *role = json_object_get(json_array_get(messages, 0), "role");
    if (e->o.system_prompt && (!json_is_string(role) || strcmp(json_string_value(role), "system") != 0)) {
        json_t *turn = json_pack("{s:s, s:s}", "role", "system", "content", e->o.system_prompt);
        AM_CHECK(turn && json_array_insert_new(messages, 0, turn) == 0, AM_ERR_DATA,
                 "the system prompt is not UTF-8");
    }
    AM_TRY(am_chat_encode(e->chat, e->scratch, messages, tools, mode, &e->chats));
    counts->turns += (int64_t)e->chats.num_assistant;
    counts->unsupervised_turns += (int64_t)e->chats.num_unsupervised;
    counts->special_in_text += (int64_t)e->chats.num_special_in_text;
    AM_CHECK(!e->o.special_as_text || e->chats.num_special_in_text == 0, AM_ERR_DATA,
             "a message spells a special token; a template cannot say that it is meant as text: take it out");
    if (e->chats.n == 0) counts->unsupervised_samples++;
    for (size_t i = 0; i < e->chats.n; i++) {
        am_chat_sample *s = &e->chats.items[i];
        if (s->num_supervised > 0) AM_TRY(check_end_of_turn(e, s));
        AM_TRY(give(e, s->tokens.ids, s->loss_mask, s->tokens.n, counts, add, user));
    }
done:
    return st;
}

/* prompt and completion as a user's and an assistant's turn */
static am_status encode_columns_as_chat(am_encoder *e, const json_t *root, am_prepare_counts *counts,
                                        am_sample_fn add, void *user)
{
    am_status st = AM_OK;
    am_str answer = {0};
    json_t *messages = NULL;
    AM_TRY(make_prompt(e, root));
    AM_TRY(append_string(&answer, root, key_or(e->o.completion_key, "completion")));
    messages = json_pack("[{s:s, s:s%}, {s:s, s:s%}]", "role", "user", "content", e->text.s ? e->text.s : "",
                         e->text.len, "role", "assistant", "content", answer.s ? answer.s : "", answer.len);
    AM_CHECK(messages, AM_ERR_MEMORY, "no memory for a chat");
    AM_TRY(encode_chat(e, messages, NULL, counts, add, user));
done:
    json_decref(messages);
    am_str_release(&answer);
    return st;
}

am_status am_encoder_line(am_encoder *e, const char *line, size_t len, am_prepare_counts *counts,
                          am_sample_fn add, void *user)
{
    am_status st = AM_OK;
    json_t *root = NULL;
    const char *prompt = key_or(e->o.prompt_key, "prompt"),
               *completion = key_or(e->o.completion_key, "completion");
    const char *text = key_or(e->o.text_key, "text");
    AM_TRY(parse_line(line, len, &root));
    counts->lines++;
    json_t *messages = json_object_get(root, "messages");
    if (messages) {
        AM_TRY(encode_chat(e, messages, json_object_get(root, "tools"), counts, add, user));
    } else if (json_object_get(root, prompt) || json_object_get(root, completion)) {
        if (e->o.columns_as_chat) {
            AM_TRY(encode_columns_as_chat(e, root, counts, add, user));
            goto done;
        }
        AM_TRY(make_prompt(e, root));
        size_t answer = e->text.len;
        AM_TRY(append_string(&e->text, root, completion));
        AM_TRY(encode_text(e, answer, counts, add, user));
    } else {
        AM_CHECK(json_object_get(root, text), AM_ERR_DATA,
                 "has neither \"messages\", nor \"%s\" and \"%s\", nor \"%s\"", prompt, completion, text);
        e->text.len = 0;
        AM_TRY(append_string(&e->text, root, text));
        AM_TRY(encode_text(e, 0, counts, add, user));
    }
done:
    json_decref(root);
    return st;
}
