/* card: the language that describes a model family (configs/models/NAME.card, docs/cards.md) and its elaboration into a graph.
 * Errors carry file:line:column of the card. */
#ifndef AM_CARD_H
#define AM_CARD_H

#include "graph/graph.h"
#include "hf/hf.h"

typedef struct am_card am_card;

/** Parse a card; `like NAME` is read from the same folder. */
am_status   am_card_open(const char *path, am_card **out) AM_WARN_UNUSED;
/** The same from text (tests; `dir` is where `like` looks, may be NULL when there is none). */
am_status   am_card_parse(const char *text, const char *name, const char *dir, am_card **out) AM_WARN_UNUSED;
void        am_card_free(am_card **c);
const char *am_card_family(const am_card *c, int index); /* NULL after the last: one card may serve several model types */
const char *am_card_path(const am_card *c);
const char *am_card_base(const am_card *c); /* the card it is `like`; NULL: none */
/** The card whose `family` line names this model_type, searched in `dir` (NULL: the installed configs/models).
 *  @return AM_ERR_CARD naming the model type and the families there are. */
am_status   am_card_find(const char *dir, const char *model_type, am_card **out) AM_WARN_UNUSED;

typedef struct am_card_options {
    const char *const *ignore_config_keys; /* model.ignore_config_keys */
    int                num_ignore;
    am_str            *carried; /* not NULL: a sentence about tensors of other parts than text, which stay as they are */
    bool               no_noise; /* nothing is trained: a dropout that is not 0 changes nothing and is no error */
    am_str            *unread; /* not NULL: keys that nothing reads are listed here, "key = value" a line, and are no error */
} am_card_options;

/** The configuration of the text model that a wrapper's config.json holds (text_config, …); NULL: there is none. */
const json_t *am_card_text_config(const json_t *config);
/** Elaborate the card for this model into `g`: nodes, parameters, the logits value.
 *  Every tensor of the model must be named by the card and every key of config.json read, ignored or harmless; a tensor left
 *  over, missing or of the wrong shape (when the model has files) and an unread key are errors that name it and its remedy.
 *  Without files (config.json alone) shapes come from the card. */
am_status am_card_elaborate(am_card *c, const am_hf_model *model, const am_card_options *options, am_graph *g) AM_WARN_UNUSED;
/** Paths of the cards in `dir` (NULL: the installed configs/models), by name; freed by am_card_paths_free. */
am_status am_card_paths(const char *dir, char ***out, size_t *count) AM_WARN_UNUSED;
void      am_card_paths_free(char ***paths, size_t count);
/** The model types that the cards of `dir` name, card by card; freed by am_card_paths_free. */
am_status am_card_families(const char *dir, char ***out, size_t *count) AM_WARN_UNUSED;

/* How one card and one model go together (card_match.c). */
typedef struct am_card_match {
    char   *path, *name;   /* of the card; its first family */
    bool    derived;       /* it is `like` another, and so none can be `like` it */
    bool    tensors;       /* every tensor is named, with its shape: what follows of tensors is 0 */
    int64_t named, missing, extra; /* tensors of the model the card names with their shape; that the card has more; that it does not name */
    am_str  missing_names, extra_names; /* patterns with {i} for layers, a line each */
    am_str  unread;        /* "key = value" a line: keys of config.json that the card does not read */
    char   *reason;        /* the card cannot be used at all, or why `tensors` is false; NULL where it is true */
} am_card_match;

/** Try every card of `dir` on a model, the best first: those that name every tensor, those with fewest tensors unexplained, those that
 *  cannot be used.  A full match proves little (docs/cards.md): the caller shows evidence and leaves the choice to a person. */
am_status am_card_match_all(const char *dir, const am_hf_model *model, am_card_match **out, size_t *count) AM_WARN_UNUSED;
void      am_card_match_free(am_card_match **list, size_t count);
/** A draft for the model's type on top of the card of `m`, with what is not known marked ???. */
am_status am_card_draft(const am_card_match *m, const am_hf_model *model, am_str *out) AM_WARN_UNUSED;

/** The flattened card (`like` resolved) as text. */
am_status am_card_print(const am_card *c, am_str *out) AM_WARN_UNUSED;

#endif
