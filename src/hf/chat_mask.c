/* chat, the loss mask: which stretches of a rendered conversation are the assistant's (bytes of UTF-8; a
 * prefix of valid UTF-8 ends at a character), then which tokens start in them.  The rule stands in hf/chat.h.
 */
#include "hf/chat_internal.h"
#include "hf/tokenizer_internal.h"

#include <string.h>

typedef struct stretch {
    size_t start, end;
} stretch;

typedef struct stretches {
    stretch *at;
    size_t n, cap;
} stretches;

static am_status push_stretch(stretches *v, size_t start, size_t end)
{
    am_status st = AM_OK;
    AM_TRY(am_grow(&v->at, &v->cap, v->n + 1, sizeof *v->at));
    v->at[v->n++] = (stretch){start, end};
done:
    return st;
}

static bool is_assistant(const json_t *message)
{
    const char *role = json_string_value(json_object_get(message, "role"));
    return role != NULL && strcmp(role, "assistant") == 0;
}

/* ---- renders ---- */

typedef struct text {
    const char *s;
    size_t n;
} text;

/* The text of a render; false when the template refused that cut. */
static bool get_text(const json_t *renders, size_t i, text *out)
{
    json_t *v = json_object_get(json_array_get(renders, i), "text");
    if (!json_is_string(v)) return false;
    *out = (text){json_string_value(v), json_string_length(v)};
    return true;
}

static bool is_prefix(const text *a, const text *b)
{
    return a->n <= b->n && memcmp(a->s, b->s, a->n) == 0;
}

static am_status get_spans(const json_t *renders, size_t i, size_t skip, stretches *out)
{
    am_status st = AM_OK;
    json_t *spans = json_object_get(json_array_get(renders, i), "spans"), *v;
    size_t k;
    json_array_foreach(spans, k, v)
    {
        json_int_t start = json_integer_value(json_array_get(v, 0)),
                   end = json_integer_value(json_array_get(v, 1));
        if (k >= skip) AM_TRY(push_stretch(out, (size_t)start, (size_t)end));
    }
done:
    return st;
}

static size_t count_spans(const json_t *renders, size_t i)
{
    return json_array_size(json_object_get(json_array_get(renders, i), "spans"));
}

/* ---- samples ---- */

static void mark(am_chat_sample *s, const stretches *spans)
{
    size_t k = 0;
    s->num_supervised = 0;
    memset(s->loss_mask, 0, s->tokens.n);
    for (size_t i = 0; i < s->tokens.n && spans->n > 0; i++) {
        size_t at = s->tokens.start[i];
        while (k + 1 < spans->n && at >= spans->at[k].end) k++;
        s->loss_mask[i] = at >= spans->at[k].start && at < spans->at[k].end;
        s->num_supervised += s->loss_mask[i];
    }
}

/* The spans must be in order and apart, which they are as they come. */
static am_status add_sample(am_chat *c, am_tok_scratch *scratch, const text *t, const stretches *spans,
                            am_chat_samples *out)
{
    am_status st = AM_OK;
    AM_TRY(am_grow(&out->items, &out->cap, out->n + 1, sizeof *out->items));
    am_chat_sample *s = &out->items[out->n];
    s->text.len = 0;
    AM_TRY(am_str_append(&s->text, t->s, t->n));
    AM_TRY(am_tokenizer_encode(c->tokenizer, scratch, t->s, t->n, AM_ENCODE_PLAIN, &s->tokens));
    AM_TRY(am_grow(&s->loss_mask, &s->mask_cap, s->tokens.n + 1, 1));
    mark(s, spans);
    out->n++;
done:
    return st;
}

/* cuts[0]: everything; then, unless generation blocks decide about the whole, for assistant message k (in
 * order) 1 + 2k: before it, with the generation prompt; 2 + 2k: up to and with it.  With blocks 1 + 2k is
 * without the prompt: the blocks before the message are counted there. */
static am_status render_all(am_chat *c, const json_t *messages, const json_t *tools, bool blocks,
                            am_chat_mode mode, size_t *num_assistant, json_t **renders)
{
    am_status st = AM_OK;
    am_chat_cut *cuts = NULL;
    size_t n = json_array_size(messages), m = 1;
    AM_TRY(am_calloc(2 * n + 1, sizeof *cuts, &cuts));
    cuts[0].n = n;
    for (size_t i = 0; i < n; i++) {
        if (!is_assistant(json_array_get(messages, i))) continue;
        cuts[m++] = (am_chat_cut){i, !blocks};
        cuts[m++] = (am_chat_cut){i + 1, false};
    }
    *num_assistant = (m - 1) / 2;
    AM_TRY(am_chat_render_cuts(c, messages, tools, cuts, blocks && mode == AM_CHAT_WHOLE ? 1 : m, renders));
done:
    am_free(&cuts);
    return st;
}

static am_status encode_whole(am_chat *c, am_tok_scratch *scratch, const json_t *renders, bool blocks,
                              am_chat_samples *out)
{
    am_status st = AM_OK;
    stretches spans = {0};
    text all = {0}, before = {0}, with = {0};
    AM_CHECK(get_text(renders, 0, &all), AM_ERR_DATA, "the chat template refuses these messages: %s",
             json_string_value(json_object_get(json_array_get(renders, 0), "error")));
    if (blocks) AM_TRY(get_spans(renders, 0, 0, &spans));
    for (size_t k = 0; k < out->num_assistant && !blocks; k++) {
        bool holds = get_text(renders, 1 + 2 * k, &before) && get_text(renders, 2 + 2 * k, &with) &&
                     is_prefix(&before, &with) && is_prefix(&with, &all);
        if (holds) AM_TRY(push_stretch(&spans, before.n, with.n));
    }
    out->num_unsupervised =
        out->num_assistant - (spans.n < out->num_assistant ? spans.n : out->num_assistant);
    AM_TRY(add_sample(c, scratch, &all, &spans, out));
done:
    am_free(&spans.at);
    return st;
}

static am_status encode_turns(am_chat *c, am_tok_scratch *scratch, const json_t *renders, bool blocks,
                              am_chat_samples *out)
{
    am_status st = AM_OK;
    stretches spans = {0};
    text all = {0}, before = {0}, with = {0};
    AM_CHECK(get_text(renders, 0, &all), AM_ERR_DATA, "the chat template refuses these messages: %s",
             json_string_value(json_object_get(json_array_get(renders, 0), "error")));
    for (size_t k = 0; k < out->num_assistant; k++) {
        bool has_before = get_text(renders, 1 + 2 * k, &before),
             has_with = get_text(renders, 2 + 2 * k, &with);
        spans.n = 0;
        if (blocks && has_with)
            AM_TRY(get_spans(renders, 2 + 2 * k, count_spans(renders, 1 + 2 * k), &spans));
        else if (has_before && has_with && is_prefix(&before, &with))
            AM_TRY(push_stretch(&spans, before.n, with.n));
        if (spans.n == 0)
            out->num_unsupervised++;
        else
            AM_TRY(add_sample(c, scratch, &with, &spans, out));
    }
done:
    am_free(&spans.at);
    return st;
}

/* ---- special tokens spelled out in the data ---- */

static am_status count_special(am_chat *c, am_tok_scratch *scratch, json_t *v, am_encoding *e, size_t *count)
{
    am_status st = AM_OK;
    size_t i;
    const char *key;
    json_t *item;
    if (json_is_string(v)) {
        AM_TRY(am_tokenizer_encode(c->tokenizer, scratch, json_string_value(v), json_string_length(v),
                                   AM_ENCODE_COUNT_ONLY, e));
        *count += e->num_special > 0;
    }
    json_array_foreach(v, i, item) AM_TRY(count_special(c, scratch, item, e, count));
    if (json_is_object(v))
        json_object_foreach(v, key, item) AM_TRY(count_special(c, scratch, item, e, count));
done:
    return st;
}

am_status am_chat_encode(am_chat *c, am_tok_scratch *scratch, const json_t *messages, const json_t *tools,
                         am_chat_mode mode, am_chat_samples *out)
{
    am_status st = AM_OK;
    json_t *renders = NULL;
    am_encoding e = {0};
    out->n = out->num_assistant = out->num_unsupervised = out->num_special_in_text = 0;
    AM_CHECK(c->tokenizer != NULL, AM_ERR_INTERNAL, "am_chat_encode on a chat opened without a tokenizer");
    bool blocks = am_chat_has_blocks(c, tools);
    AM_TRY(render_all(c, messages, tools, blocks, mode, &out->num_assistant, &renders));
    if (mode == AM_CHAT_WHOLE)
        AM_TRY(encode_whole(c, scratch, renders, blocks, out));
    else
        AM_TRY(encode_turns(c, scratch, renders, blocks, out));
    AM_TRY(count_special(c, scratch, (json_t *)messages, &e, &out->num_special_in_text));
    AM_TRY(count_special(c, scratch, (json_t *)tools, &e, &out->num_special_in_text));
done:
    am_encoding_release(&e);
    json_decref(renders);
    return st;
}

void am_chat_samples_release(am_chat_samples *s)
{
    for (size_t i = 0; i < s->cap; i++) {
        am_str_release(&s->items[i].text);
        am_encoding_release(&s->items[i].tokens);
        am_free(&s->items[i].loss_mask);
    }
    am_free(&s->items);
    *s = (am_chat_samples){0};
}
