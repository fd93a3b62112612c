/* hf/chat: a model's chat template: messages → text, messages → ids with the loss mask.
 *
 * Templates are Jinja programs; they are rendered by the real, sandboxed Jinja2 of python3-jinja2 in a helper process
 * that am_chat_open starts (posix_spawn of /usr/bin/python3, or of $AM_PYTHON) and talks to over a socket in JSON lines.
 * Start it BEFORE MPI_Init: a process that MPI and its network drivers know should not start children.  Nothing of this
 * is used at training time.  Nothing is collective.
 *
 * Which template: chat_template.jinja (the "default") and additional_chat_templates/NAME.jinja; without any of those
 * `chat_template` of tokenizer_config.json (a string, or a list of {name, template}); else chat_template.json.  With
 * several, "tool_use" is taken when tools are given, otherwise "default".
 *
 * Loss mask: where the template has {% generation %} blocks they decide.  Otherwise assistant message i is supervised on
 * what render(messages[:i+1]) has beyond render(messages[:i], add_generation_prompt=true), provided that the latter is a
 * prefix of the former and the former of the whole render; a turn for which this does not hold (its template rewrites
 * earlier turns) is not supervised and is counted.  A token counts when its start lies in the span.  Templates emit
 * their own special tokens: none is added. */
#ifndef AM_HF_CHAT_H
#define AM_HF_CHAT_H

#include "hf/tokenizer.h"

#include <jansson.h>

typedef struct am_chat am_chat;

typedef struct am_chat_options {
    const char *template_path; /* a file that replaces the model's template(s); NULL: the model's */
    const char *template_name; /* of several templates, always this one; NULL: "tool_use" / "default" as above */
    const char *python;        /* NULL: $AM_PYTHON, else /usr/bin/python3 */
    double      timeout_s;     /* for one conversation; 0: 60 */
} am_chat_options;

/** Find the template, start the helper, compile.
 *  @param tokenizer for am_chat_encode; must outlive the chat; NULL when only am_chat_render is wanted.
 *  @param options   NULL: all defaults.
 *  @return AM_ERR_MODEL: no template, or one that Jinja refuses (with its line); AM_ERR_ENVIRONMENT: no Python, or no
 *          python3-jinja2 (with the package to install). */
am_status am_chat_open(const char *model_dir, const am_tokenizer *tokenizer, const am_chat_options *options,
                       am_chat **out) AM_WARN_UNUSED;
/** Ends the helper (and waits for it). */
void am_chat_free(am_chat **c);
/** Whether DIR has a chat template at all: starts nothing. */
bool am_chat_exists(const char *model_dir);
/** SHA-256 of the template; of several: of all of them with their names. */
const char *am_chat_sha256(const am_chat *c);

/** @param messages array of objects, at least one;  tools: array or NULL (JSON null counts as NULL).
 *  @param out text is appended.
 *  @return AM_ERR_DATA: the template refuses these messages, in its own words; AM_ERR_ENVIRONMENT: the helper died or did
 *          not answer in time (then every later call fails the same way).  May be called by several threads: they queue. */
am_status am_chat_render(am_chat *c, const json_t *messages, const json_t *tools, bool add_generation_prompt,
                         am_str *out) AM_WARN_UNUSED;

typedef enum am_chat_mode {
    AM_CHAT_WHOLE,   /* one sample: the whole conversation */
    AM_CHAT_PER_TURN /* one sample an assistant turn: render(messages[:i+1]), only turn i supervised: what inference sees */
} am_chat_mode;

typedef struct am_chat_sample {
    am_str      text; /* as rendered */
    am_encoding tokens;
    uint8_t    *loss_mask; /* [tokens.n] 0 or 1; owned */
    size_t      mask_cap;
    size_t      num_supervised; /* ones in loss_mask */
} am_chat_sample;

typedef struct am_chat_samples {
    am_chat_sample *items;
    size_t          n, cap; /* items beyond n keep their memory for the next call */
    size_t num_assistant;        /* assistant messages of the conversation */
    size_t num_unsupervised;     /* of these: no token of theirs is supervised (the prefix does not hold, or no block) */
    size_t num_special_in_text;  /* strings in the messages and tools that spell a special token */
} am_chat_samples;
void am_chat_samples_release(am_chat_samples *s);

/** Render, encode and mask one conversation; replaces what *out holds.
 *  AM_CHAT_WHOLE gives one sample, AM_CHAT_PER_TURN as many as there are turns that can be supervised (maybe none). */
am_status am_chat_encode(am_chat *c, am_tok_scratch *scratch, const json_t *messages, const json_t *tools,
                         am_chat_mode mode, am_chat_samples *out) AM_WARN_UNUSED;

#endif
