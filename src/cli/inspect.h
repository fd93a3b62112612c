/* inspect: the parts of `automodel inspect`: each looks at one kind of thing and tells it as JSON; the text that people read is
 * printed from the same JSON, so the two never disagree. */
#ifndef AM_INSPECT_H
#define AM_INSPECT_H

#include "cli/cli_support.h"

#include <jansson.h>

/** {"model_type", "family", "card", "dir", "dtypes", "bytes", "files", "parameters", "trainable", "active", "vocab_size", "layers", "kinds":
 *  [{"layers": "0-29", "count", "parameters", "attention": {"heads", "kv_heads", "width", "window"} | null, "tensors": […], "block":
 *  [lines]}], "outside": [tensors], "tokenizer": {…} | null, "chat_template": {…, "sample": {"tokens", "supervised", "parts"}} | null}; a
 *  tensor: {"name", "shape", "uses"}.
 *  @param frozen  names of parameters that are not trained. */
am_status am_inspect_model(const am_model *m, const char *const *frozen, size_t num_frozen, json_t **out) AM_WARN_UNUSED;
/** @param colour  supervised text in colour; false: in [[ ]]. */
void      am_inspect_print_model(const json_t *model, bool colour);
/** The operators of a layer's forward pass as lines of text, appended to `lines`. */
am_status am_inspect_block(am_graph *g, int layer, json_t *lines) AM_WARN_UNUSED;
/** A parameter's name without its layer's prefix; borrowed. */
const char *am_inspect_name_within(const am_param *p);
/** Runs of supervised and other tokens: {"supervised", "text" | "ids"} each, appended to `parts`.  @param t  NULL: ids. */
am_status am_inspect_parts(const am_tokenizer *t, const uint32_t *ids, const uint8_t *mask, int64_t n, json_t *parts) AM_WARN_UNUSED;
void      am_inspect_print_parts(const json_t *parts, bool colour);

/** {"tp_size", "parameters", "layers", "ranks": [{"parameters", "cut", "bytes"}], "whole": [{"why" | null, "parameters", "elements", "first":
 *  [names]}], "sums", "sum_bytes", "seq_len"}: the training program of a row of seq_len tokens in bf16, compiled for each of `parts`
 *  tensor-parallel ranks; parameters, layers: elements of the whole model and of its layers; bytes: of the parameter store; sums: values added up over the ranks in a step, sum_bytes: of one rank's
 *  summands. */
am_status am_inspect_tensor(const am_model *m, int64_t parts, int64_t seq_len, json_t **out) AM_WARN_UNUSED;
void      am_inspect_print_tensor(const json_t *tensor);

/** Every card beside this model: {"kind": "match", "model_type", "verdict", "cards": [{"card", "path", "tensors_fit", "named", "missing",
 *  "extra", "missing_names", "extra_names", "unread", "reason", "loss"?}]}, the best first.  Where the model has weights and a tokenizer,
 *  cards that name every tensor are run on a text (fp32, one rank).
 *  @param file  the text (its first 1024 tokens); NULL: a paragraph of English of our own.  */
am_status am_inspect_match(const char *spec, const char *file, json_t **out) AM_WARN_UNUSED;
void      am_inspect_print_match(const json_t *match);
/** A draft card for the model's type, on top of the card that comes nearest, unknowns marked ???. */
am_status am_inspect_new_card(const char *spec, am_str *out) AM_WARN_UNUSED;

/** Is `spec` a token shard (NAME.h5) or a folder of them? */
bool am_inspect_is_shards(const char *spec);
/** {"shards": […], "sequences", "tokens", "supervised", "vocab_size", "tokenizer_sha256", "chat_template_sha256", "sources",
 *  "samples": [{"tokens", "supervised", "left_out", "parts": [{"supervised", "ids" | "text"}]}]}.
 *  @param tokenizer_dir  decodes the samples and must be the one they were made with; NULL: ids.  */
am_status am_inspect_shards(const char *spec, int64_t num_samples, const char *tokenizer_dir, json_t **out) AM_WARN_UNUSED;
/** @param colour  supervised text in colour; false: in [[ ]]. */
void      am_inspect_print_shards(const json_t *shards, bool colour);

#endif
