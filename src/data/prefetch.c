/* A thread that reads batches ahead into a ring made once.  The ring has `depth` batches: one may be with the
 * caller, one with the thread, the rest wait.  Slot of batch k = k mod depth; `filled` and `taken` only grow.
 */
#include "data/data_internal.h"

#include <pthread.h>
#include <string.h>

struct am_prefetch {
    am_dataset *dataset;
    am_prefetch_options o;
    int64_t num_batches; /* < 0: without end */
    am_batch *ring;
    int32_t *memory; /* of all batches */
    pthread_t thread;
    bool started;
    pthread_mutex_t mutex; /* over what follows */
    pthread_cond_t changed;
    int64_t filled; /* batches made */
    int64_t taken;  /* batches given out; the last of them is still with the caller */
    bool stop;
    am_status status; /* why the thread ended early */
    char message[1024];
};

static am_status fill_batch(am_prefetch *p, int64_t k)
{
    am_status st = AM_OK;
    am_batch *b = &p->ring[k % p->o.depth];
    int64_t rows_per_step = p->o.rows * p->o.accumulation * p->o.dp_size;
    b->step = p->o.first_step + k / p->o.accumulation;
    b->micro = k % p->o.accumulation;
    b->targets = 0;
    b->step_targets = am_data_step_targets(p->dataset, b->step, rows_per_step);
    for (int64_t j = 0; j < b->rows; j++) {
        int64_t index = b->step * rows_per_step + (b->micro * p->o.dp_size + p->o.dp_rank) * b->rows + j;
        int64_t at = j * b->row_len, targets = 0;
        AM_TRY(am_data_sample(p->dataset, index, b->input_ids + at, b->labels + at, b->position_ids + at,
                              b->doc_start + at, &targets));
        b->targets += targets;
    }
done:
    return st;
}

/* Wait for room; false when there is nothing left to do. */
static bool wait_for_room(am_prefetch *p)
{
    pthread_mutex_lock(&p->mutex);
    /* the batch given out last (taken − 1) still occupies its slot */
    while (!p->stop && p->filled - am_max_i64(p->taken - 1, 0) >= p->o.depth)
        pthread_cond_wait(&p->changed, &p->mutex);
    bool go = !p->stop && (p->num_batches < 0 || p->filled < p->num_batches);
    pthread_mutex_unlock(&p->mutex);
    return go;
}

static void *run(void *user)
{
    am_prefetch *p = user;
    am_status st = AM_OK;
    while (st == AM_OK && wait_for_room(p)) {
        st = fill_batch(p, p->filled); /* only this thread writes `filled` */
        pthread_mutex_lock(&p->mutex);
        if (st == AM_OK) {
            p->filled++;
        } else {
            p->status = st;
            snprintf(p->message, sizeof p->message, "%s", am_error_message());
        }
        pthread_cond_broadcast(&p->changed);
        pthread_mutex_unlock(&p->mutex);
    }
    return NULL;
}

static am_status check_options(am_prefetch_options *o)
{
    am_status st = AM_OK;
    if (o->depth == 0) o->depth = 4;
    AM_CHECK(o->rows > 0 && o->accumulation > 0 && o->dp_size > 0 && o->dp_rank >= 0 &&
                 o->dp_rank < o->dp_size && o->first_step >= 0 && o->depth >= 2 && o->depth <= 1024,
             AM_ERR_INTERNAL,
             "prefetch of %" PRId64 " rows × %" PRId64 " micro-batches, rank %" PRId64 " of %" PRId64
             ", from step %" PRId64 ", ring of %d",
             o->rows, o->accumulation, o->dp_rank, o->dp_size, o->first_step, o->depth);
done:
    return st;
}

int64_t am_prefetch_bytes(const am_prefetch_options *o, int64_t row_len)
{
    return (o->depth ? o->depth : 4) * 4 * o->rows * row_len * (int64_t)sizeof(int32_t);
}

static am_status make_ring(am_prefetch *p)
{
    am_status st = AM_OK;
    int64_t row_len = am_dataset_row_len(p->dataset), cells;
    AM_CHECK(am_mul_i64(p->o.rows, row_len, &cells) && cells <= INT32_MAX, AM_ERR_CONFIG,
             "a micro-batch of %" PRId64 " rows of %" PRId64 " tokens is too large", p->o.rows, row_len);
    AM_TRY(am_calloc((size_t)p->o.depth * 4, (size_t)cells * sizeof *p->memory, &p->memory));
    AM_TRY(am_calloc((size_t)p->o.depth, sizeof *p->ring, &p->ring));
    for (int i = 0; i < p->o.depth; i++) {
        int32_t *m = p->memory + (size_t)i * 4 * (size_t)cells;
        p->ring[i] = (am_batch){.rows = p->o.rows,
                                .row_len = row_len,
                                .input_ids = m,
                                .labels = m + cells,
                                .position_ids = m + 2 * cells,
                                .doc_start = m + 3 * cells};
    }
done:
    return st;
}

am_status am_prefetch_start(am_dataset *d, const am_prefetch_options *options, am_prefetch **out)
{
    am_status st = AM_OK;
    am_prefetch *p = NULL;
    AM_TRY(am_calloc(1, sizeof *p, &p));
    pthread_mutex_init(&p->mutex, NULL);
    pthread_cond_init(&p->changed, NULL);
    p->dataset = d;
    p->o = *options;
    AM_TRY(check_options(&p->o));
    p->num_batches = -1;
    if (p->o.end_step >= 0)
        p->num_batches = am_max_i64(p->o.end_step - p->o.first_step, 0) * p->o.accumulation;
    AM_TRY(make_ring(p));
    AM_CHECK(pthread_create(&p->thread, NULL, run, p) == 0, AM_ERR_ENVIRONMENT,
             "no thread for reading data ahead");
    p->started = true;
    *out = p;
    p = NULL;
done:
    am_prefetch_stop(&p);
    return st;
}

am_status am_prefetch_next(am_prefetch *p, const am_batch **out)
{
    am_status st = AM_OK;
    bool ready;
    *out = NULL;
    pthread_mutex_lock(&p->mutex);
    if (p->num_batches >= 0 && p->taken >= p->num_batches) {
        pthread_mutex_unlock(&p->mutex);
        goto done;
    }
    while (p->filled <= p->taken && p->status == AM_OK) pthread_cond_wait(&p->changed, &p->mutex);
    ready = p->filled > p->taken;
    if (ready) {
        *out = &p->ring[p->taken % p->o.depth];
        p->taken++;
        pthread_cond_broadcast(&p->changed);
    }
    pthread_mutex_unlock(&p->mutex);
    if (!ready) AM_FAIL(p->status, "%s", p->message);
done:
    return st;
}

void am_prefetch_stop(am_prefetch **p)
{
    if (!*p) return;
    if ((*p)->started) {
        pthread_mutex_lock(&(*p)->mutex);
        (*p)->stop = true;
        pthread_cond_broadcast(&(*p)->changed);
        pthread_mutex_unlock(&(*p)->mutex);
        pthread_join((*p)->thread, NULL);
    }
    pthread_mutex_destroy(&(*p)->mutex);
    pthread_cond_destroy(&(*p)->changed);
    am_free(&(*p)->ring);
    am_free(&(*p)->memory);
    am_free(p);
}
