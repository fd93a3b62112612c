/* verify: what `automodel verify` holds while it compares, and the part that compares gradients tensor by tensor of the
 * checkpoint. */
#ifndef AM_VERIFY_H
#define AM_VERIFY_H

#include "cli/cli.h"

#include "ckpt/ckpt.h"
#include "train/engine.h"

#include <jansson.h>

/** A tensor of the checkpoint, whose gradient is put together from the parameters that have a part in it. */
typedef struct am_verify_tensor {
    const char                  *name;
    const am_safetensors_tensor *disk;   /* of the model: its shape */
    int64_t                      filled; /* elements that came in; all of them: compared, and `ours` freed */
    float                       *ours;   /* [disk->elements], as on disk */
    bool                         compared;
    double                       difference, norm; /* ‖ours − reference‖, ‖reference‖ over the elements the file has */
    int64_t                      dump;             /* index in the dump */
} am_verify_tensor;

typedef struct am_verify {
    am_cli         *cli;
    am_engine      *engine;
    am_model       *model;
    am_safetensors *ref;
    json_t         *strides; /* of the reference's sampled gradients: {tensor: stride}; NULL: all are whole */
    am_program     *program;
    am_exec        *exec;
    am_dtype        dtype;
    int             tp;              /* ranks that have parts of the same layers */
    int64_t         B, T, rows, first_row; /* rows of this rank: [first_row, first_row + rows) of B, padded with empty ones */
    int64_t         targets;
    int32_t        *ids, *labels, *pos, *doc, *index; /* [rows·T] */
    double          loss, loss_rel, logits_err, logits_scale, worst;
    const char     *worst_name;
    int             gradients; /* compared */
    double          median;    /* of their relative errors */
    json_t         *missing, *extra;
    double          tol_loss, tol_grad, tol_median, tol_logits;

    am_verify_tensor *tensor; /* with trainable elements, by name */
    size_t            num_tensors;

    am_safetensors_writer *dump;
    int64_t                dump_loss, dump_logits;
} am_verify;

/** Lists the checkpoint's tensors that have a gradient (v->tensor) and reads which gradients of the reference are samples.
 *  @return AM_ERR_MODEL: a parameter's tensor is not in the model; AM_ERR_DATA: gradient_strides is not a map of integers. */
am_status am_verify_list_tensors(am_verify *v) AM_WARN_UNUSED;

/** Every gradient beside the reference's: fills worst, median, missing, extra.          [collective on all ranks]
 *  The relative error of a tensor is ‖g − g_ref‖ / ‖g_ref‖, over the elements the reference has.  One whose reference is
 *  zero in theory (below 2^-23 of the largest tensor's, where float32 rounding is all there is; a bias of keys, say,
 *  which softmax does not see) has no ratio: its error is taken relative to a hundredth of the largest tensor's gradient.
 *  Memory on rank 0: the gradient of a unit and where its elements lie, and of the tensors of which a part is outstanding. */
am_status am_verify_gradients(am_verify *v) AM_WARN_UNUSED;

void am_verify_release_tensors(am_verify *v);

#endif
