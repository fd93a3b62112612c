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
/** The card whose `family` line names this model_type, searched in `dir` (NULL: the installed configs/models).
 *  @return AM_ERR_CARD naming the model type and the families there are. */
am_status   am_card_find(const char *dir, const char *model_type, am_card **out) AM_WARN_UNUSED;

typedef struct am_card_options {
    const char *const *ignore_config_keys; /* model.ignore_config_keys */
    int                num_ignore;
} am_card_options;

/** Elaborate the card for this model into `g`: nodes, parameters, the logits value.
 *  Every tensor of the model must be named by the card and every key of config.json read, ignored or harmless; a tensor left
 *  over, missing or of the wrong shape (when the model has files) and an unread key are errors that name it and its remedy.
 *  Without files (config.json alone) shapes come from the card. */
am_status am_card_elaborate(am_card *c, const am_hf_model *model, const am_card_options *options, am_graph *g) AM_WARN_UNUSED;
/** The flattened card (`like` resolved) as text. */
am_status am_card_print(const am_card *c, am_str *out) AM_WARN_UNUSED;

#endif
