/* inspect: the parts of `automodel inspect`: each looks at one kind of thing and tells it as JSON; the text that people read is
 * printed from the same JSON, so the two never disagree. */
#ifndef AM_INSPECT_H
#define AM_INSPECT_H

#include "cli/cli_support.h"

#include <jansson.h>

/** {"model_type", "family", "card", "dir", "dtypes", "bytes", "files", "parameters", "trainable", "vocab_size", "layers", "kinds":
 *  [{"layers": "0-29", "count", "parameters", "attention": {"heads", "kv_heads", "width", "window"} | null, "tensors": […]}],
 *  "outside": [tensors], "tokenizer": {…} | null, "chat_template": {…} | null}; a tensor: {"name", "shape", "uses"}.
 *  @param frozen  names of parameters that are not trained. */
am_status am_inspect_model(const am_model *m, const char *const *frozen, size_t num_frozen, json_t **out) AM_WARN_UNUSED;
void      am_inspect_print_model(const json_t *model);

/** Is `spec` a token shard (NAME.h5) or a folder of them? */
bool am_inspect_is_shards(const char *spec);
/** {"shards": […], "sequences", "tokens", "supervised", "vocab_size", "tokenizer_sha256", "chat_template_sha256", "sources",
 *  "samples": [{"tokens", "supervised", "left_out", "parts": [{"supervised", "ids" | "text"}]}]}.
 *  @param tokenizer_dir  decodes the samples and must be the one they were made with; NULL: ids.  */
am_status am_inspect_shards(const char *spec, int64_t num_samples, const char *tokenizer_dir, json_t **out) AM_WARN_UNUSED;
/** @param colour  supervised text in colour; false: in [[ ]]. */
void      am_inspect_print_shards(const json_t *shards, bool colour);

#endif
