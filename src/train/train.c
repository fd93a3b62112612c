/* train.c: start, loop, end.  Read am_train at the bottom, then the loop.
 * Between steps the host writes a handful of scalars and reads a handful; inside a step it decides nothing.  After each step all ranks
 * exchange one control word (loss sums and requests to stop), and act on it together. */
#include "train/train_internal.h"

#include "train/fit.h"
#include "train/signals.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* What every rank tells the others after a step. */
typedef struct am_control { double loss_sum, loss_count, grad_norm; int64_t signal; } am_control;

/* ---- start -------------------------------------------------------------------------------------------------- */

am_status am_train_compile(const am_settings *s, const am_model *m, int64_t rank, int threads, bool validates, am_program *out[2], int *count)
{
    am_status st = AM_OK;
    static const am_program_kind kinds[2] = {AM_PROGRAM_TRAIN, AM_PROGRAM_EVAL};
    am_graph *g = NULL;
    am_param_group *groups = NULL;
    out[0] = out[1] = NULL;
    for (*count = 0; *count < 1 + validates; ++*count) {
        am_program_options o;
        AM_TRY(am_model_graph(m, s->local_rows, s->seq_len, s->compute, &g));
        AM_TRY(am_settings_program(s, kinds[*count], rank, threads, g, &o, &groups));
        AM_TRY(am_program_compile(&g, &o, &out[*count]));
        out[*count]->options.groups = NULL; /* resolved; the strings belong to the graph */
        out[*count]->options.num_groups = 0;
        am_free(&groups);
    }
    int trained = 0;
    for (int u = 0; u < out[0]->store.num_units; u++) trained += out[0]->store.unit[u].trainable;
    AM_CHECK(trained > 0, AM_ERR_CONFIG, "%s: freeze_config.patterns freezes every parameter: there is nothing to train",
             am_config_where(s->cfg, "freeze_config.patterns"));
done:
    am_free(&groups);
    am_graph_free(&g);
    return st;
}

static am_status open_data(am_run *r)
{
    am_status st = AM_OK;
    char *path = NULL;
    int64_t vocab = 0;
    AM_TRY(am_hf_config_i64(r->model->hf, "vocab_size", 0, &vocab));
    AM_TRY(am_path_join(r->model->hf->dir, "tokenizer.json", &path));
    char sha[65] = "";
    if (am_path_exists(path)) AM_TRY(am_sha256_file_hex(path, sha));
    else if (r->engine->rank == 0)
        am_log(AM_LOG_WARN, "train", "%s has no tokenizer.json: whether the data were made with its tokenizer cannot be checked", r->model->hf->dir);
    AM_TRY(am_settings_dataset(&r->s, "dataset", true, sha[0] ? sha : NULL, vocab, &r->data));
    for (r->num_validations = 0; r->num_validations < AM_MAX_VALIDATIONS; r->num_validations++) {
        const char *section = am_config_section_at(r->cfg, "validation_dataset*", (size_t)r->num_validations);
        if (!section) break;
        r->validation_name[r->num_validations] = section;
        AM_TRY(am_settings_dataset(&r->s, section, false, sha[0] ? sha : NULL, vocab, &r->validation[r->num_validations]));
    }
done:
    am_free(&path);
    return st;
}

static am_status count_steps(am_run *r)
{
    am_status st = AM_OK;
    const am_dataset_counts *c = am_dataset_get_counts(r->data);
    r->steps_per_epoch = am_ceil_div(c->num_rows, r->s.global_rows);
    int64_t by_epochs = r->s.num_epochs ? am_data_num_steps(r->data, r->s.num_epochs, r->s.global_rows) : 0;
    r->total_steps = r->s.max_steps;
    if (r->total_steps == 0 || (by_epochs > 0 && by_epochs < r->total_steps)) r->total_steps = by_epochs ? by_epochs : am_data_num_steps(r->data, 1, r->s.global_rows);
    AM_TRY(am_settings_schedule(&r->s, r->total_steps, &r->schedule));
    if (r->engine->rank == 0)
        am_log(AM_LOG_INFO, "train", "%" PRId64 " sequences, %" PRId64 " tokens (%" PRId64 " supervised) in %" PRId64 " rows of %" PRId64 ", %.1f %% filled; %" PRId64
               " steps of %" PRId64 " rows, %" PRId64 " micro-batches each%s", c->num_sequences, c->num_tokens, c->num_supervised, c->num_rows, r->s.seq_len,
               100.0 * (double)c->cells_used / ((double)c->num_rows * (double)r->s.seq_len), r->total_steps, r->s.global_rows, r->s.micro_batches,
               c->dropped ? "; samples longer than a row were dropped" : "");
done:
    return st;
}

/* The recipe must be used up: an option that was accepted and read by nobody would be a silent lie. */
static am_status check_unread(const am_run *r)
{
    am_status st = AM_OK;
    static const char *const conditional[] = {"recipe", "distributed.pipeline", "distributed.sequence_parallel", "lr_scheduler.wsd", "lr_scheduler.lr_wsd",
                                              "checkpoint.best_metric_key", "checkpoint.model_save_format", "model.config",
                                              "dataset.", "validation_dataset"};
    for (size_t i = 0; am_config_unread(r->cfg, i); i++) {
        const char *path = am_config_unread(r->cfg, i);
        bool known = strstr(path, "_target_") != NULL;
        for (size_t k = 0; k < sizeof conditional / sizeof *conditional; k++) known = known || strncmp(path, conditional[k], strlen(conditional[k])) == 0;
        AM_CHECK(known, AM_ERR_INTERNAL, "the option %s (%s) was accepted and is not used; please report it", path, am_config_where(r->cfg, path));
    }
done:
    return st;
}

/* The next four: what a rank does alone.  What goes wrong there mostly goes wrong on all ranks, and one of them reports it. */
static am_status open_model(am_run *r)
{
    am_status st = AM_OK;
    AM_TRY(am_model_open(r->s.model_spec, r->s.from_config ? AM_HF_WEIGHTS_NONE : AM_HF_WEIGHTS_REQUIRED, r->s.card, r->s.ignore, r->s.num_ignore, &r->model));
    AM_TRY(am_settings_read(r->cfg, r->model, r->engine->size, &r->s));
    AM_TRY(am_config_dump(r->cfg, &r->recipe));
done:
    return st;
}

static am_status compile(am_run *r)
{
    am_status st = AM_OK;
    AM_TRY(open_data(r));
    AM_TRY(count_steps(r));
    am_start_mark_end(r->clock, "data opened");
    AM_TRY(check_unread(r));
    AM_TRY(am_train_compile(&r->s, r->model, r->engine->rank, r->engine->threads, r->num_validations > 0, r->program, &r->num_programs));
done:
    return st;
}

static am_status fits(const am_run *r)
{
    am_status st = AM_OK;
    am_fit_room room;
    AM_TRY(am_fit_room_here(&r->engine->allocation, am_comm_local_size(r->engine->comm), &room));
    AM_TRY(am_fit_check(&r->s, r->model, r->engine->threads, r->num_validations > 0, &room, r->program, r->num_programs));
done:
    return st;
}

static am_status allocate(am_run *r)
{
    am_status st = AM_OK;
    if (r->engine->rank == 0) AM_TRY(am_run_write_files(r));
    AM_TRY(am_exec_create(r->engine->device, r->engine->comm, r->program, r->num_programs, NULL, &r->exec));
    AM_TRY(am_evaluator_create(r->s.local_rows, r->s.seq_len, &r->evaluator));
    AM_TRY(am_calloc((size_t)(3 * r->s.local_rows * r->s.seq_len), sizeof *r->scratch, &r->scratch));
    AM_TRY(am_calloc((size_t)r->engine->size, sizeof *r->control, &r->control));
done:
    return st;
}

static am_status start_data(am_run *r)
{
    am_status st = AM_OK;
    am_prefetch_options o = {.rows = r->s.local_rows, .accumulation = r->s.micro_batches, .dp_rank = r->engine->rank, .dp_size = r->engine->size,
                             .first_step = r->step, .end_step = r->total_steps, .depth = AM_PREFETCH_DEPTH};
    AM_TRY(am_prefetch_start(r->data, &o, &r->prefetch));
    if (r->engine->rank == 0) AM_TRY(am_metrics_open(r->s.run_dir, r->step, &r->metrics));
done:
    return st;
}

static am_status start(am_run *r)
{
    am_status st = AM_OK, begun = am_settings_begin(r->cfg, &r->s);
    am_engine_options eo = {.device = r->s.device, .threads = r->s.threads, .huge_pages = r->s.huge_pages, .timeout_seconds = r->s.timeout_seconds,
                            .clock = r->clock};
    if (begun != AM_OK) return am_engine_refuse(begun);
    AM_TRY(am_engine_open(&eo, &r->engine));
    AM_TRY(am_engine_together(r->engine, open_model(r)));
    am_start_mark_end(r->clock, "model opened");
    AM_TRY(am_engine_together(r->engine, am_comm_set_mesh(r->engine->comm, &r->s.mesh)));
    AM_TRY(am_engine_together(r->engine, compile(r)));
    am_start_mark_end(r->clock, "compiled");
    AM_TRY(am_engine_agree(r->engine, r->program, r->num_programs));
    AM_TRY(am_run_identify(r));
    AM_TRY(am_engine_together(r->engine, fits(r)));
    AM_TRY(am_run_dir_enter(&r->s, r->engine, &r->dir));
    am_start_mark_end(r->clock, "agreed");
    AM_TRY(am_engine_together(r->engine, allocate(r)));
    am_start_mark_end(r->clock, "memory taken");
    AM_TRY(am_run_restore(r));
    am_start_mark_end(r->clock, "weights loaded");
    AM_TRY(am_engine_together(r->engine, start_data(r)));
    am_start_mark_end(r->clock, AM_START_READY);
done:
    return st;
}

/* ---- a step ----------------------------------------------------------------------------------------------------- */

static am_status feed(void *context, am_exec *x, int program, int micro, int frame, int64_t *tokens)
{
    am_status st = AM_OK;
    am_run *r = context;
    const am_batch *b = NULL;
    AM_TRY(am_prefetch_next(r->prefetch, &b));
    AM_ASSERT(b && b->micro == micro && b->step == r->step);
    *tokens = b->rows * b->row_len;
    int64_t first_row = (micro * r->engine->size + r->engine->rank) * b->rows;
    AM_TRY(am_feed_rows(x, program, frame, b->rows, b->row_len, b->input_ids, b->labels, b->position_ids, b->doc_start, first_row * b->row_len, r->scratch));
done:
    return st;
}

static am_status run_step(am_run *r, am_step_metrics *m, int *signal)
{
    am_status st = AM_OK;
    am_control mine = {0}, *all = r->control;
    int64_t n = am_data_step_targets(r->data, r->step, r->s.global_rows);
    double started = am_now();
    m->lr = am_lr_at(&r->schedule, r->step);
    AM_TRY(am_exec_set_scalar(r->exec, AM_SCALAR_LR, m->lr));
    AM_TRY(am_exec_set_scalar(r->exec, AM_SCALAR_STEP, (double)(r->step + 1)));
    AM_TRY(am_exec_set_scalar(r->exec, AM_SCALAR_INV_N, n > 0 ? 1.0 / (double)n : 0));
    AM_TRY(am_exec_set_scalar(r->exec, AM_SCALAR_MAX_NORM, r->s.max_norm));
    AM_TRY(am_exec_set_scalar(r->exec, AM_SCALAR_SEED, (double)r->s.seed));
    AM_TRY(am_exec_set_scalar(r->exec, AM_SCALAR_SKIP, n > 0 ? 0 : 1));
    AM_TRY(am_exec_set_scalar(r->exec, AM_SCALAR_LOSS_SUM, 0));
    AM_TRY(am_exec_set_scalar(r->exec, AM_SCALAR_LOSS_COUNT, 0));
    AM_TRY(am_exec_run(r->exec, AM_TRAIN, feed, r));
    AM_TRY(am_exec_get_scalar(r->exec, AM_SCALAR_LOSS_SUM, &mine.loss_sum));
    AM_TRY(am_exec_get_scalar(r->exec, AM_SCALAR_LOSS_COUNT, &mine.loss_count));
    AM_TRY(am_exec_get_scalar(r->exec, AM_SCALAR_GRAD_NORM, &mine.grad_norm));
    mine.signal = am_signals_pending();
    AM_TRY(am_comm_allgather(r->engine->comm, &mine, sizeof mine, all));
    double sum = 0, count = 0;
    for (int k = 0; k < r->engine->size; k++) {
        sum += all[k].loss_sum;
        count += all[k].loss_count;
        if (all[k].signal) *signal = (int)all[k].signal;
    }
    AM_CHECK((int64_t)count == n, AM_ERR_INTERNAL, "step %" PRId64 " supervised %.0f tokens, and the data promised %" PRId64, r->step + 1, count, n);
    m->loss = n > 0 ? sum / (double)n : 0;
    m->grad_norm = all[0].grad_norm;
    m->skipped = !isfinite(m->grad_norm) || !isfinite(m->loss);
    m->label_tokens = n;
    m->seconds = am_now() - started;
done:
    return st;
}

/* The step that was just completed; all ranks judge the same numbers. */
static am_status judge_numbers(am_run *r, bool skipped)
{
    am_status st = AM_OK;
    r->skipped_in_a_row = skipped ? r->skipped_in_a_row + 1 : 0;
    if (r->skipped_in_a_row < 3) goto done;
    st = am_fail(AM_ERR_NUMERIC, "loss or gradient were not finite in steps %" PRId64 " to %" PRId64 " (samples %" PRId64 " to %" PRId64
                 "); nothing was updated in them; lower optimizer.lr, or look at those samples and at the weights", r->step - 2, r->step,
                 (r->step - 3) * r->s.global_rows, r->step * r->s.global_rows - 1);
    AM_TRY(am_engine_together(r->engine, st));
done:
    return st;
}

static am_status train_step(am_run *r, int *signal)
{
    am_status st = AM_OK;
    am_step_metrics m = {.step = r->step + 1, .epoch = r->step / r->steps_per_epoch, .total_steps = r->total_steps, .ranks = r->engine->size,
                         .tokens = r->s.global_rows * r->s.seq_len};
    AM_TRY(run_step(r, &m, signal));
    r->step++;
    r->tokens += m.tokens;
    m.mem_gib = am_metrics_peak_gib();
    if (r->metrics) AM_TRY(am_metrics_step(r->metrics, &m));
    AM_TRY(judge_numbers(r, m.skipped));
done:
    return st;
}

static am_status validate(am_run *r, int *signal)
{
    am_status st = AM_OK;
    if (r->evaluated_at == r->step) goto done;
    for (int i = 0; i < r->num_validations; i++) {
        am_evaluation v;
        AM_TRY(am_evaluate(r->evaluator, r->engine, r->exec, AM_EVAL, r->validation[i], am_signals_pending, &v));
        *signal = (int)v.signal;
        if (v.signal) goto done; /* a checkpoint matters more */
        if (r->metrics)
            AM_TRY(am_metrics_validation(r->metrics, r->validation_name[i], r->step, r->step / r->steps_per_epoch, v.loss, am_lr_at(&r->schedule, r->step),
                                         v.targets, am_metrics_peak_gib()));
    }
    r->evaluated_at = r->step;
done:
    return st;
}

/* Wait for the save in progress.  At the end of a run a save that failed is no warning any more: the work since the one before is lost,
 * and neither exit code 0 nor 6 would be true. */
static am_status committed(am_run *r)
{
    am_status st = AM_OK, mine = AM_OK;
    bool failed = false;
    if (r->ckpt) AM_TRY(am_ckpt_poll(r->ckpt, true, &failed));
    else mine = am_fail(AM_ERR_CHECKPOINT, "step %" PRId64 " is lost: checkpoint.enabled is false", r->step);
    if (failed || (r->ckpt && am_ckpt_failure(r->ckpt)))
        mine = am_fail(AM_ERR_CHECKPOINT, "step %" PRId64 " is lost: its checkpoint was not committed, for the reason above; make room and start again to go on "
                       "from the one before", r->step);
    AM_TRY(am_engine_together(r->engine, mine));
done:
    return st;
}

static bool due(int64_t every, int64_t step) { return every > 0 && step % every == 0; }

static am_status loop(am_run *r)
{
    am_status st = AM_OK;
    int signal = 0;
    bool failed;
    while (r->step < r->total_steps && !signal) {
        AM_TRY(train_step(r, &signal));
        if (r->ckpt) AM_TRY(am_ckpt_poll(r->ckpt, false, &failed));
        if (signal) break;
        if (due(r->s.val_every, r->step)) AM_TRY(validate(r, &signal));
        if (due(r->s.ckpt_every, r->step) || (r->s.ckpt_every_epoch && due(r->steps_per_epoch, r->step))) AM_TRY(am_run_save(r));
    }
    if (signal && r->step < r->total_steps) {
        if (r->engine->rank == 0) am_log(AM_LOG_WARN, "train", "%s: saving a checkpoint after step %" PRId64 " and leaving", am_signals_name(signal), r->step);
        AM_TRY(am_run_save(r));
        AM_TRY(committed(r));
        st = am_fail(AM_INTERRUPTED, "interrupted by %s after step %" PRId64 "; start again to go on", am_signals_name(signal), r->step);
    }
done:
    return st;
}

/* ---- end ------------------------------------------------------------------------------------------------------------ */

static am_status finish(am_run *r)
{
    am_status st = AM_OK;
    int signal = 0; /* the run is done: it ends as it would */
    if (r->num_validations) AM_TRY(validate(r, &signal));
    AM_TRY(am_run_save(r));
    if (r->ckpt) AM_TRY(committed(r));
    if (r->s.export_final) AM_TRY(am_run_export(r));
done:
    return st;
}

static void release(am_run *r)
{
    am_prefetch_stop(&r->prefetch);
    am_ckpt_free(&r->ckpt);
    am_metrics_close(&r->metrics);
    am_evaluator_free(&r->evaluator);
    am_exec_free(&r->exec);
    for (int i = 0; i < 2; i++) am_program_free(&r->program[i]);
    for (int i = 0; i < AM_MAX_VALIDATIONS; i++) am_dataset_close(&r->validation[i]);
    am_dataset_close(&r->data);
    am_model_free(&r->model);
    am_settings_release(&r->s);
    am_str_release(&r->recipe);
    am_free(&r->scratch);
    am_free(&r->control);
}

am_status am_train_refused(am_status why) { return why == AM_OK ? why : am_engine_refuse(why); }

/* `clock` given: one step, and nothing is saved of it. */
static am_status train(const am_config *cfg, am_start_clock *clock, int *rank)
{
    am_status st = AM_OK, end;
    am_run r = {.cfg = cfg, .saved_at = -1, .evaluated_at = -1, .clock = clock};
    int signal = 0;
    AM_TRY(am_signals_install()); /* one that comes while the ranks are still finding each other is acted upon after the first step */
    AM_TRY(start(&r));
    if (rank) *rank = r.engine->rank;
    if (clock && r.step < r.total_steps) AM_TRY(train_step(&r, &signal));
    am_start_mark_end(clock, AM_START_STEP);
    if (clock) goto done;
    AM_TRY(loop(&r));
    AM_TRY(finish(&r));
done:
    /* A failure leaves by the door (am_cli_finish), which ends all ranks; other ranks' messages may still arrive in our regions. */
    if (st != AM_OK && st != AM_INTERRUPTED && am_engine_current() && am_comm_size(am_engine_current()) > 1) return st;
    release(&r);
    end = am_engine_close(&r.engine);
    am_run_dir_leave(&r.dir); /* no rank writes any more */
    return st == AM_OK ? end : st;
}

am_status am_train(const am_config *cfg) { return train(cfg, NULL, NULL); }

am_status am_train_first_step(const am_config *cfg, am_start_clock *clock, int *rank) { return train(cfg, clock, rank); }
