/* load_model.c: Hugging Face tensors → master slots.  A parameter's elements are found in its tensors through
 * its disk view: plain, stacked (one tensor an expert), transposed.  Chunks bound the memory; each rank reads
 * its own slices only. */
#include "ckpt/ckpt_internal.h"

#include <string.h>

static am_status find_tensor(const am_hf_model *m, const am_param *p, int i,
                             const am_safetensors_tensor **out)
{
    am_status st = AM_OK;
    *out = am_hf_model_find(m, p->disk.tensor[i]);
    AM_CHECK(*out, AM_ERR_MODEL, "%s: the model has no tensor %s", m->dir, p->disk.tensor[i]);
    AM_CHECK((*out)->elements * p->disk.num_tensors == am_param_elements(p), AM_ERR_MODEL,
             "%s: tensor %s has %" PRId64 " elements, not %" PRId64, m->dir, p->disk.tensor[i],
             (*out)->elements, am_param_elements(p) / p->disk.num_tensors);
done:
    return st;
}

/* [out, in] of the graph from [in, out] on disk: row by row of the disk, the columns wanted. */
static am_status read_transposed(const am_hf_model *m, const am_safetensors_tensor *t, int64_t rows,
                                 int64_t cols, int64_t begin, int64_t count, char *dst, am_dtype dtype)
{
    am_status st = AM_OK;
    size_t size = am_dtype_bytes(dtype);
    int64_t first = begin / cols, last = (begin + count - 1) / cols;
    char *line = NULL;
    AM_TRY(am_calloc((size_t)(last - first + 1), size, &line));
    for (int64_t c = 0; c < cols; c++) {
        AM_TRY(am_hf_model_read(m, t, c * rows + first, last - first + 1, line, dtype));
        for (int64_t r = first; r <= last; r++) {
            int64_t at = r * cols + c - begin;
            if (at >= 0 && at < count)
                memcpy(dst + (size_t)at * size, line + (size_t)(r - first) * size, size);
        }
    }
done:
    am_free(&line);
    return st;
}

am_status am_disk_read(const am_hf_model *m, const am_param *p, int64_t begin, int64_t count, void *dst,
                       am_dtype dtype)
{
    am_status st = AM_OK;
    int64_t each = am_param_elements(p) / p->disk.num_tensors;
    char *to = dst;
    while (count > 0) {
        const am_safetensors_tensor *t = NULL;
        int64_t within = begin % each, n = am_min_i64(count, each - within);
        AM_TRY(find_tensor(m, p, (int)(begin / each), &t));
        if (p->disk.transpose) {
            AM_CHECK(p->rank >= 2, AM_ERR_MODEL, "%s: only matrices can be transposed", p->name);
            int64_t rows = p->dim[p->rank - 2], cols = p->dim[p->rank - 1];
            AM_CHECK(each == rows * cols, AM_ERR_MODEL, "%s: transposed tensors of rank %d are not offered",
                     p->name, p->rank);
            AM_TRY(read_transposed(m, t, rows, cols, within, n, to, dtype));
        } else {
            AM_TRY(am_hf_model_read(m, t, within, n, to, dtype));
        }
        to += (size_t)n * am_dtype_bytes(dtype);
        begin += n;
        count -= n;
    }
done:
    return st;
}

am_status am_ckpt_load_model(am_exec *e, const am_program *p, const am_hf_model *m)
{
    am_status st = AM_OK;
    am_pieces pieces = {0};
    void *buffer = NULL;
    AM_TRY(am_pieces_list(p, false, &pieces));
    AM_TRY(am_calloc(AM_CKPT_CHUNK, am_dtype_bytes(p->store.dtype), &buffer));
    for (size_t i = 0; i < pieces.n; i++) {
        const am_piece *x = &pieces.at[i];
        for (int64_t at = 0; x->role == 0 && at < x->count;) {
            int64_t n = am_min_i64(AM_CKPT_CHUNK, x->count - at);
            AM_TRY(am_disk_read(m, am_graph_param_at(p->graph, x->param), x->begin + at, n, buffer,
                                p->store.dtype));
            AM_TRY(am_exec_write_slot(e, x->unit, 0, x->in_shard + at, n, buffer));
            at += n;
        }
    }
done:
    am_free(&buffer);
    am_free(&pieces.at);
    return st;
}
