/* Private to chat: the helper process, the templates found, and what the mask is made from. */
#ifndef AM_HF_CHAT_INTERNAL_H
#define AM_HF_CHAT_INTERNAL_H

#include "hf/chat.h"

#include <pthread.h>
#include <sys/types.h>

extern const char am_chat_script[]; /* Python */

/* ---- the helper process ---- */

typedef struct am_chat_helper {
    pid_t  pid; /* 0: not running */
    int    fd;  /* our end of the socket; −1 */
    char  *python;
    char  *why; /* why it is no longer running; NULL while it is */
    am_str in;  /* bytes received beyond the last line */
} am_chat_helper;

/** Start `python -I -c script`.  @return AM_ERR_ENVIRONMENT. */
am_status am_chat_helper_start(am_chat_helper *h, const char *python) AM_WARN_UNUSED;
/** Send one value as a line, receive one.  Ends the helper when it does not answer within timeout_s.
 *  @return AM_ERR_ENVIRONMENT: dead, hung, or speaking nonsense (and from then on always). */
am_status am_chat_helper_ask(am_chat_helper *h, const json_t *question, double timeout_s, json_t **answer) AM_WARN_UNUSED;
void      am_chat_helper_stop(am_chat_helper *h);

/* ---- templates ---- */

/** name → text of all templates of a model; `template_path` replaces them.  *out NULL: there is none. */
am_status am_chat_find_templates(const char *model_dir, const char *template_path, json_t **out) AM_WARN_UNUSED;

/* ---- renders ---- */

struct am_chat {
    am_chat_helper      helper;
    pthread_mutex_t     lock;
    const am_tokenizer *tokenizer;
    json_t             *templates;  /* name → text */
    json_t             *generation; /* name → whether it has generation blocks */
    char               *model_dir, *template_name;
    char                sha256[65];
    double              timeout_s;
};

/** Render the first cuts[i].n messages for each i.  @param[out] renders array of {"text", "spans"?} or {"error"}. */
typedef struct am_chat_cut {
    size_t n;
    bool   generation_prompt;
} am_chat_cut;
am_status am_chat_render_cuts(am_chat *c, const json_t *messages, const json_t *tools, const am_chat_cut *cuts,
                              size_t num_cuts, json_t **renders) AM_WARN_UNUSED;
/** Whether the template that am_chat_render_cuts takes for these tools has generation blocks. */
bool am_chat_has_blocks(const am_chat *c, const json_t *tools);

#endif
