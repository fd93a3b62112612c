/* model: a model directory (or a checkpoint's source) together with the card that describes it: from here graphs are made. */
#ifndef AM_MODEL_H
#define AM_MODEL_H

#include "graph/card.h"

typedef struct am_model {
    am_hf_model    *hf;
    am_card        *card;
    am_card_options options;
    struct { bool carried; } *said; /* sentences that are told once */
} am_model;

/** @param spec     as am_hf_model_open: directory, org/name in the local cache, or a config.json.
 *  @param card     family named by a card in configs/models, or path of a .card file; NULL: chosen by model_type, or by that of the text model it holds.
 *  @param ignore   config keys that may stay unread; must outlive the model. */
am_status am_model_open(const char *spec, am_hf_weights weights, const char *card, const char *const *ignore, int num_ignore,
                        am_model **out) AM_WARN_UNUSED;
void      am_model_free(am_model **m);
/** The forward graph for micro-batches of rows × seq_len tokens. */
am_status am_model_graph(const am_model *m, int64_t rows, int64_t seq_len, am_dtype compute, am_graph **out) AM_WARN_UNUSED;

#endif
