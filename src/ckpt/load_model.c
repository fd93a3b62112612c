/* load_model.c: Hugging Face tensors → master slots.  A parameter's elements are found in its tensors through
 * its disk view (disk.h): plain, stacked (one tensor an expert), transposed, a part of a fused one.  Chunks bound the
 * memory; each rank reads its own slices only. */
#include "ckpt/ckpt_internal.h"

#include "graph/disk.h"

#include <string.h>

enum {
    SPAN = 1 << 16, /* elements of a tensor read at once to pick from */
    TRANSPOSED_CHUNK = 1 << 21, /* elements of a parameter read at a time where the disk has it transposed */
    GAP = 2048      /* so few between two stretches are read along: cheaper than another system call */
};

/* What one call of am_disk_read holds: nothing is shared, so that several threads may read one model. */
typedef struct am_reader {
    const am_hf_model *model;
    const am_param *param;
    am_disk_map map;
    const am_safetensors_tensor *tensor;
    am_dtype dtype;
    size_t size; /* bytes of an element of dtype */
    char *span;
    int64_t cap; /* elements of span */
} am_reader;

static am_status find_tensor(am_reader *r, int i)
{
    am_status st = AM_OK;
    const char *name = r->param->disk.tensor[i];
    r->tensor = am_hf_model_find(r->model, name);
    AM_CHECK(r->tensor, AM_ERR_MODEL, "%s: the model has no tensor %s", r->model->dir, name);
    AM_CHECK(r->tensor->elements == r->map.disk_each, AM_ERR_MODEL,
             "%s: tensor %s has %" PRId64 " elements, not %" PRId64, r->model->dir, name, r->tensor->elements,
             r->map.disk_each);
done:
    return st;
}

static am_status read_span(am_reader *r, int64_t begin, int64_t count)
{
    am_status st = AM_OK;
    if (count > r->cap) {
        am_free(&r->span);
        r->cap = am_max_i64(count, SPAN);
        AM_TRY(am_calloc((size_t)r->cap, r->size, &r->span));
    }
    AM_TRY(am_hf_model_read(r->model, r->tensor, begin, count, r->span, r->dtype));
done:
    return st;
}

/* Stretches that lie close together on disk are read with what stands between them. */
static am_status read_plain(am_reader *r, int64_t begin, int64_t count, char *dst)
{
    am_status st = AM_OK;
    int64_t end = begin + count;
    for (int64_t i = begin, next; i < end; i = next) {
        int64_t run = am_disk_map_run(&r->map, i, end - i), first = am_disk_map_element(&r->map, i), last = first + run;
        next = i + run;
        while (run < GAP && next < end) {
            int64_t at = am_disk_map_element(&r->map, next), more = am_disk_map_run(&r->map, next, end - next);
            if (at - last > GAP || at + more - first > SPAN) break;
            last = at + more;
            next += more;
        }
        if (next == i + run) {
            AM_TRY(am_hf_model_read(r->model, r->tensor, first, run, dst + (size_t)(i - begin) * r->size, r->dtype));
            continue;
        }
        AM_TRY(read_span(r, first, last - first));
        for (int64_t k = i; k < next; k += run) {
            run = am_disk_map_run(&r->map, k, next - k);
            memcpy(dst + (size_t)(k - begin) * r->size,
                   r->span + (size_t)(am_disk_map_element(&r->map, k) - first) * r->size, (size_t)run * r->size);
        }
    }
done:
    return st;
}

/* Rows first to last of matrix b of the graph, which are columns on disk: block by block of the disk's rows. */
static am_status read_matrix(am_reader *r, int64_t b, int64_t begin, int64_t count, char *dst)
{
    am_status st = AM_OK;
    const am_disk_map *m = &r->map;
    int64_t origin = b * m->rows * m->cols, first = (begin - origin) / m->cols, last = (begin + count - 1 - origin) / m->cols;
    int64_t low = am_disk_map_element(m, origin + first * m->cols), width;
    low %= m->disk_rows;
    width = am_disk_map_element(m, origin + last * m->cols) % m->disk_rows + 1 - low;
    int64_t block = width * 4 >= m->disk_rows && m->split != 2 ? am_max_i64(1, SPAN / m->disk_rows) : 1;
    for (int64_t c = 0; c < m->cols; c += block) {
        int64_t n = am_min_i64(block, m->cols - c), start = am_disk_map_element(m, origin + first * m->cols + c);
        AM_TRY(read_span(r, start, (n - 1) * m->disk_rows + width));
        for (int64_t row = first; row <= last; row++) {
            int64_t at = origin + row * m->cols + c - begin;
            int64_t from = am_disk_map_element(m, origin + row * m->cols + c) - start;
            for (int64_t k = 0; k < n; k++)
                if (at + k >= 0 && at + k < count)
                    memcpy(dst + (size_t)(at + k) * r->size, r->span + (size_t)(from + k * m->disk_rows) * r->size, r->size);
        }
    }
done:
    return st;
}

static am_status read_transposed(am_reader *r, int64_t begin, int64_t count, char *dst)
{
    am_status st = AM_OK;
    int64_t matrix = r->map.rows * r->map.cols;
    while (count > 0) {
        int64_t n = am_min_i64(count, matrix - begin % matrix);
        AM_TRY(read_matrix(r, begin / matrix, begin, n, dst));
        dst += (size_t)n * r->size;
        begin += n;
        count -= n;
    }
done:
    return st;
}

am_status am_disk_read(const am_hf_model *m, const am_param *p, int64_t begin, int64_t count, void *dst,
                       am_dtype dtype)
{
    am_status st = AM_OK;
    am_reader r = {.model = m, .param = p, .dtype = dtype, .size = am_dtype_bytes(dtype)};
    char *to = dst;
    AM_TRY(am_disk_map_open(p, &r.map));
    while (count > 0) {
        int64_t n = am_min_i64(count, r.map.each - begin % r.map.each);
        AM_TRY(find_tensor(&r, (int)(begin / r.map.each)));
        AM_TRY(p->disk.transpose ? read_transposed(&r, begin, n, to) : read_plain(&r, begin, n, to));
        to += (size_t)n * r.size;
        begin += n;
        count -= n;
    }
done:
    am_disk_map_close(&r.map);
    am_free(&r.span);
    return st;
}

/* ---- into the store ---- */

typedef struct am_load_chunk {
    const am_piece *piece;
    int64_t at, n; /* elements of the piece */
} am_load_chunk;

typedef struct am_load {
    am_exec *exec;
    const am_program *program;
    const am_hf_model *model;
    am_load_chunk *chunk;
    size_t num_chunks, cap_chunks;
    int64_t chunk_elements;
    am_status status;    /* of the first chunk that failed, … */
    char sentence[2048]; /* … and what it said: an error belongs to its thread */
} am_load;

static am_status list_chunks(am_load *l, const am_pieces *pieces)
{
    am_status st = AM_OK;
    l->chunk_elements = AM_CKPT_CHUNK;
    for (size_t i = 0; i < pieces->n; i++) /* the more rows at a time, the longer the stretches of a transposed tensor */
        if (am_graph_param_at(l->program->graph, pieces->at[i].param)->disk.transpose) l->chunk_elements = TRANSPOSED_CHUNK;
    for (size_t i = 0; i < pieces->n; i++) {
        const am_piece *x = &pieces->at[i];
        for (int64_t at = 0; x->role == 0 && at < x->count; at += l->chunk_elements) {
            AM_TRY(am_grow(&l->chunk, &l->cap_chunks, l->num_chunks + 1, sizeof *l->chunk));
            l->chunk[l->num_chunks++] = (am_load_chunk){x, at, am_min_i64(l->chunk_elements, x->count - at)};
        }
    }
done:
    return st;
}

static am_status load_chunk(const am_load *l, const am_load_chunk *c, void *buffer)
{
    am_status st = AM_OK;
    am_dtype dtype = l->program->store.dtype;
    const am_piece *x = c->piece;
    AM_TRY(am_disk_read(l->model, am_graph_param_at(l->program->graph, x->param), x->begin + c->at, c->n, buffer, dtype));
    AM_TRY(am_exec_write_slot(l->exec, x->unit, 0, x->in_shard + c->at, c->n, buffer));
done:
    return st;
}

/* One thread's share: chunks as they come.  They do not overlap, so their order does not matter. */
static void load_share(am_load *l)
{
    void *buffer = NULL;
    am_status st = am_calloc((size_t)l->chunk_elements, am_dtype_bytes(l->program->store.dtype), &buffer);
#pragma omp for schedule(dynamic)
    for (size_t i = 0; i < l->num_chunks; i++) {
        am_status before;
#pragma omp atomic read
        before = l->status;
        if (st == AM_OK && before == AM_OK) st = load_chunk(l, &l->chunk[i], buffer);
    }
    if (st != AM_OK) {
#pragma omp critical(am_load_failure)
        if (l->status == AM_OK) {
            snprintf(l->sentence, sizeof l->sentence, "%s", am_error_message());
#pragma omp atomic write
            l->status = st;
        }
    }
    am_free(&buffer);
}

am_status am_ckpt_load_model(am_exec *e, const am_program *p, const am_hf_model *m)
{
    am_status st = AM_OK;
    am_pieces pieces = {0};
    am_load l = {.exec = e, .program = p, .model = m};
    AM_TRY(am_pieces_list(p, false, &pieces));
    AM_TRY(list_chunks(&l, &pieces));
#pragma omp parallel num_threads(p->options.threads) if (p->options.threads > 1)
    load_share(&l);
    if (l.status != AM_OK) AM_FAIL(l.status, "%s", l.sentence);
done:
    am_free(&l.chunk);
    am_free(&pieces.at);
    return st;
}
