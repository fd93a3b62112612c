/* evaluate.c: see evaluate.h.  Every rank runs the same number of micro-batches (gathers are collective); rows beyond the data are empty. */
#include "train/evaluate.h"

#include <string.h>

struct am_evaluator { int64_t rows, seq_len; int32_t *buffer[6]; /* ids, labels, pos, doc, scratch */ };

am_status am_evaluator_create(int64_t rows, int64_t seq_len, am_evaluator **out)
{
    am_status st = AM_OK;
    am_evaluator *v = NULL;
    AM_TRY(am_calloc(1, sizeof *v, &v));
    v->rows = rows;
    v->seq_len = seq_len;
    for (int i = 0; i < 5; i++) AM_TRY(am_calloc((size_t)(rows * seq_len) * (i == 4 ? 3 : 1), sizeof(int32_t), &v->buffer[i]));
    *out = v;
    v = NULL;
done:
    am_evaluator_free(&v);
    return st;
}

void am_evaluator_free(am_evaluator **v)
{
    if (!v || !*v) return;
    for (int i = 0; i < 6; i++) am_free(&(*v)->buffer[i]);
    am_free(v);
}

am_status am_feed_rows(am_exec *x, int program, int frame, int64_t rows, int64_t seq_len, const int32_t *ids, const int32_t *labels, const int32_t *pos,
                       const int32_t *doc_start, int64_t first_token, int32_t *scratch)
{
    am_status st = AM_OK;
    int64_t n = rows * seq_len;
    int32_t *doc = scratch, *index = scratch + n, *token = scratch + 2 * n;
    for (int64_t i = 0; i < n; i++) {
        doc[i] = doc_start[i] + (int32_t)(i / seq_len * seq_len);
        index[i] = (int32_t)i;
        token[i] = (int32_t)(first_token + i);
    }
    AM_TRY(am_exec_write_input(x, program, frame, "token", token, n));
    AM_TRY(am_exec_write_input(x, program, frame, "ids", ids, n));
    AM_TRY(am_exec_write_input(x, program, frame, "labels", labels, n));
    AM_TRY(am_exec_write_input(x, program, frame, "pos", pos, n));
    AM_TRY(am_exec_write_input(x, program, frame, "doc_start", doc, n));
    AM_TRY(am_exec_write_input(x, program, frame, "index", index, n));
done:
    return st;
}

typedef struct am_eval_feed { am_evaluator *v; am_dataset *data; int64_t first, num_rows; } am_eval_feed;

static void empty_row(am_evaluator *v, int64_t at)
{
    for (int64_t t = 0; t < v->seq_len; t++) {
        v->buffer[0][at + t] = 0;
        v->buffer[1][at + t] = AM_DATA_IGNORE;
        v->buffer[2][at + t] = 0;
        v->buffer[3][at + t] = (int32_t)t;
    }
}

static am_status feed(void *context, am_exec *x, int program, int micro, int frame, int64_t *tokens)
{
    am_status st = AM_OK;
    am_eval_feed *f = context;
    am_evaluator *v = f->v;
    (void)micro;
    for (int64_t r = 0; r < v->rows; r++) {
        int64_t at = r * v->seq_len;
        if (f->first + r < f->num_rows)
            AM_TRY(am_data_sample(f->data, f->first + r, v->buffer[0] + at, v->buffer[1] + at, v->buffer[2] + at, v->buffer[3] + at, NULL));
        else empty_row(v, at);
    }
    *tokens = v->rows * v->seq_len;
    AM_TRY(am_feed_rows(x, program, frame, v->rows, v->seq_len, v->buffer[0], v->buffer[1], v->buffer[2], v->buffer[3], f->first * v->seq_len, v->buffer[4]));
done:
    return st;
}

am_status am_evaluate(am_evaluator *v, const am_engine *e, am_exec *x, int program, am_dataset *data, int (*pending)(void),
                      am_evaluation *out)
{
    am_status st = AM_OK;
    int64_t rows = am_dataset_get_counts(data)->num_rows, together = v->rows * e->size;
    double mine[2] = {0, 0}, *all = NULL;
    *out = (am_evaluation){.rows = rows};
    AM_TRY(am_calloc((size_t)e->size, sizeof mine, &all));
    AM_TRY(am_exec_set_scalar(x, AM_SCALAR_LOSS_SUM, 0));
    AM_TRY(am_exec_set_scalar(x, AM_SCALAR_LOSS_COUNT, 0));
    for (int64_t first = 0; first < rows; first += together) {
        am_eval_feed f = {.v = v, .data = data, .first = first + e->rank * v->rows, .num_rows = rows};
        AM_TRY(am_exec_run(x, program, feed, &f));
        if (pending) AM_TRY(am_comm_max(e->comm, pending(), &out->signal));
        if (out->signal) goto done;
    }
    AM_TRY(am_exec_get_scalar(x, AM_SCALAR_LOSS_SUM, &mine[0]));
    AM_TRY(am_exec_get_scalar(x, AM_SCALAR_LOSS_COUNT, &mine[1]));
    AM_TRY(am_comm_allgather(e->comm, mine, sizeof mine, all));
    for (int r = 0; r < e->size; r++) {
        out->loss += all[2 * r];
        out->targets += (int64_t)all[2 * r + 1];
    }
    AM_CHECK(out->targets > 0, AM_ERR_DATA, "the evaluation data supervise no token");
    out->loss /= (double)out->targets;
done:
    am_free(&all);
    return st;
}
