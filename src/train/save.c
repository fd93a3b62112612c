/* save.c: what a run leaves on disk: config.yaml, run.json, program.txt, checkpoints, and a Hugging Face directory at its end. */
#include "train/init_weights.h"
#include "train/train_internal.h"

#include <errno.h>
#include <ftw.h>
#include <stdlib.h>
#include <string.h>

static am_status write_text(const am_run *r, const char *name, const am_str *text)
{
    am_status st = AM_OK;
    char *path = NULL;
    AM_TRY(am_path_join(r->s.run_dir, name, &path));
    AM_TRY(am_file_write_atomic(path, text->s ? text->s : "", text->len));
done:
    am_free(&path);
    return st;
}

static json_t *describe_regions(const am_run *r)
{
    json_t *o = json_object();
    for (int k = 0; k < AM_REGION_COUNT; k++)
        json_object_set_new(o, am_region_name((am_region_id)k), json_integer((json_int_t)r->program[AM_TRAIN]->region_bytes[k]));
    return o;
}

/* A line for each rank: node, cores, threads, and why. */
static json_t *list_placements(const char *lines)
{
    json_t *list = json_array();
    for (size_t n; lines && *lines; lines += n + (lines[n] == '\n')) {
        n = strcspn(lines, "\n");
        json_array_append_new(list, json_stringn(lines, n));
    }
    return list;
}

static json_t *describe_plan(const am_run *r)
{
    const am_program *p = r->program[AM_TRAIN];
    char hash[20];
    snprintf(hash, sizeof hash, "%016" PRIx64, p->hash);
    return json_pack("{s:I, s:o, s:I, s:I, s:I, s:s}", "bytes", (json_int_t)am_engine_plan_bytes(r->program, r->num_programs), "regions",
                     describe_regions(r), "flops_per_step", (json_int_t)p->flops, "messages_per_step", (json_int_t)p->messages,
                     "bytes_sent_per_step", (json_int_t)p->message_bytes, "hash", hash);
}

static am_status write_run_json(const am_run *r)
{
    am_status st = AM_OK;
    char *path = NULL;
    const am_engine *e = r->engine;
    json_t *o = json_pack("{s:s, s:s, s:s, s:s, s:i, s:i, s:s, s:s, s:o, s:o}", "version", AM_VERSION, "model", r->model->hf->dir, "card",
                          am_card_path(r->model->card), "device", am_device_name(e->device), "ranks", e->size, "threads", e->threads, "isa",
                          am_isa_name(am_kernels_cpu_isa()), "comm", am_comm_backend(e->comm), "placements", list_placements(e->placements),
                          "plan", describe_plan(r));
    AM_CHECK(o, AM_ERR_INTERNAL, "run.json cannot be made");
    if (e->allocation.slurm)
        json_object_set_new(o, "slurm", json_pack("{s:s, s:I, s:I}", "job", e->allocation.job, "nodes", (json_int_t)e->allocation.nodes,
                                                  "restarts", (json_int_t)e->allocation.restarts));
    AM_TRY(am_path_join(r->s.run_dir, "run.json", &path));
    AM_TRY(am_json_save(path, o));
done:
    json_decref(o);
    am_free(&path);
    return st;
}

am_status am_run_write_files(am_run *r)
{
    am_status st = AM_OK;
    am_str text = {0};
    AM_TRY(write_text(r, "config.yaml", &r->recipe));
    AM_TRY(write_run_json(r));
    AM_TRY(am_program_print(r->program[AM_TRAIN], &text));
    AM_TRY(write_text(r, "program.txt", &text));
    for (size_t i = 0; am_config_ignored(r->cfg, i); i++) am_log(AM_LOG_INFO, "config", "accepted, no effect: %s", am_config_ignored(r->cfg, i));
done:
    am_str_release(&text);
    return st;
}

/* ---- checkpoints ------------------------------------------------------------------------------------------------ */

static am_status open_ckpt(am_run *r)
{
    am_status st = AM_OK;
    am_ckpt_options o = {.dir = r->s.ckpt_dir, .keep = r->s.ckpt_keep, .async = r->s.ckpt_async};
    int64_t export_bytes = r->s.export_final ? r->model->hf->total_bytes : 0;
    if (!r->s.ckpt_enabled) goto done;
    AM_TRY(am_engine_together(r->engine, am_ckpt_create(&o, r->exec, r->program[AM_TRAIN], r->engine->comm, &r->ckpt)));
    AM_TRY(am_engine_together(r->engine, am_ckpt_check_space(r->ckpt, r->s.ckpt_keep ? r->s.ckpt_keep + 1 : 2, export_bytes)));
done:
    return st;
}

static am_ckpt_state state_of(const am_run *r)
{
    return (am_ckpt_state){.step = r->step, .samples = r->step * r->s.global_rows, .tokens = r->tokens, .seed = r->s.seed,
                           .data_hash = am_dataset_get_counts(r->data)->table_hash, .recipe = r->recipe.s, .model_dir = r->model->hf->dir,
                           .family = am_card_family(r->model->card, 0)};
}

am_status am_run_save(am_run *r)
{
    am_status st = AM_OK;
    am_ckpt_state state = state_of(r);
    if (!r->ckpt || r->saved_at == r->step) goto done;
    AM_TRY(am_ckpt_save(r->ckpt, &state));
    r->saved_at = r->step;
    if (r->s.export_every) AM_TRY(am_run_export(r));
done:
    return st;
}

/* A checkpoint of other data or another batch size cannot be gone on from bit by bit: say so instead. */
static am_status check_state(const am_run *r, const am_ckpt_state *s, const char *where)
{
    am_status st = AM_OK;
    const am_dataset_counts *c = am_dataset_get_counts(r->data);
    AM_CHECK(s->seed == r->s.seed, AM_ERR_CHECKPOINT, "%s used rng.seed %" PRIu64 ", not %" PRIu64 ": the order of the data would change; write the old seed", where,
             s->seed, r->s.seed);
    AM_CHECK(s->data_hash == c->table_hash, AM_ERR_CHECKPOINT, "%s was trained on other data, another packing or another row length (table %016" PRIx64 ", not %016" PRIx64
             "); restore the data, or start in a new run.dir", where, s->data_hash, c->table_hash);
    AM_CHECK(s->samples == s->step * r->s.global_rows, AM_ERR_CHECKPOINT,
             "%s stands at sample %" PRId64 " after %" PRId64 " steps, which is not %" PRId64 " rows a step; write the old global_batch_size", where, s->samples, s->step,
             r->s.global_rows);
done:
    return st;
}

static am_status load_weights(am_run *r)
{
    am_status st = AM_OK;
    double std = 0.02;
    if (!r->s.from_config) AM_TRY(am_ckpt_load_model(r->exec, r->program[AM_TRAIN], r->model->hf));
    else {
        AM_TRY(am_hf_config_f64(r->model->hf, "initializer_range", 0.02, &std));
        AM_TRY(am_init_weights(r->exec, r->program[AM_TRAIN], r->s.seed, std));
    }
done:
    return st;
}

/* A checkpoint that the recipe names: each rank verifies its share. */
static am_status open_named(const am_run *r, const char *dir, am_manifest **m)
{
    am_status st = AM_OK;
    AM_TRY(am_manifest_open(dir, m));
    AM_TRY(am_manifest_verify(*m, r->engine->rank, r->engine->size));
done:
    return st == AM_OK ? st : am_fail(st, "checkpoint.restore_from: %s", am_error_message());
}

static am_status load_checkpoint(am_run *r, const am_manifest *m, const char *where)
{
    am_status st = AM_OK;
    am_ckpt_state s = am_manifest_state(m);
    AM_TRY(check_state(r, &s, where));
    AM_TRY(am_ckpt_load(r->exec, r->program[AM_TRAIN], m));
    r->step = r->saved_at = s.step;
    r->tokens = s.tokens;
    if (r->step == r->total_steps) r->evaluated_at = r->step; /* a run that is complete: only its export may be missing */
    if (r->engine->rank == 0) am_log(AM_LOG_INFO, "train", "resuming after step %" PRId64 " of %" PRId64, r->step, r->total_steps);
done:
    return st;
}

am_status am_run_restore(am_run *r)
{
    am_status st = AM_OK;
    am_manifest *m = NULL;
    const char *from = r->s.restore_from;
    bool named = from && strcmp(from, "LATEST") != 0;
    AM_TRY(open_ckpt(r));
    if (named) AM_TRY(am_engine_together(r->engine, open_named(r, from, &m)));
    else if (r->s.ckpt_enabled) AM_TRY(am_engine_together(r->engine, am_ckpt_find_latest(r->s.ckpt_dir, r->engine->comm, &m)));
    if (from && !m)
        st = am_fail(AM_ERR_CHECKPOINT, "%s: checkpoint.restore_from is LATEST, and %s", am_config_where(r->cfg, "checkpoint.restore_from"),
                     r->s.ckpt_enabled ? "there is no checkpoint yet" : "checkpoint.enabled is false");
    AM_TRY(am_engine_together(r->engine, st));
    AM_TRY(am_engine_together(r->engine, m ? load_checkpoint(r, m, named ? from : r->s.ckpt_dir) : load_weights(r)));
done:
    am_manifest_free(&m);
    return st;
}

static int remove_one(const char *path, const struct stat *info, int type, struct FTW *at)
{
    (void)info;
    (void)type;
    (void)at;
    return remove(path);
}

/* Rank 0.  Under a name of its own until it is whole: a directory hf/step_X is never half an export. */
static am_status export_to(am_run *r, const char *dir)
{
    am_status st = AM_OK;
    am_manifest *m = NULL;
    am_str partial = {0};
    char *step_dir = NULL, step[32];
    if (am_path_exists(dir)) goto done;
    snprintf(step, sizeof step, "step_%08" PRId64, r->step);
    AM_TRY(am_path_join(r->s.ckpt_dir, step, &step_dir));
    AM_TRY(am_manifest_open(step_dir, &m));
    AM_TRY(am_str_printf(&partial, "%s.partial", dir));
    (void)nftw(partial.s, remove_one, 16, FTW_DEPTH | FTW_PHYS);
    am_export_options o = {.out_dir = partial.s};
    AM_TRY(am_ckpt_export(m, r->model->hf, r->program[AM_TRAIN]->graph, &o));
    AM_CHECK(rename(partial.s, dir) == 0, AM_ERR_IO, "cannot rename %s to %s: %s", partial.s, dir, strerror(errno));
    am_log(AM_LOG_INFO, "train", "Hugging Face directory: %s", dir);
done:
    am_manifest_free(&m);
    am_str_release(&partial);
    am_free(&step_dir);
    return st == AM_OK ? st : am_fail(st, "the export to %s failed: %s", dir, am_error_message());
}

am_status am_run_export(am_run *r)
{
    am_status st = AM_OK;
    char *dir = NULL, name[48];
    bool failed;
    snprintf(name, sizeof name, "hf/step_%08" PRId64, r->step);
    AM_TRY(am_path_join(r->s.run_dir, name, &dir));
    if (r->s.from_config && r->model->hf->num_tensors == 0) {
        if (r->engine->rank == 0) am_log(AM_LOG_WARN, "train", "no Hugging Face directory is written: a model from a config alone has no source files to take the form from");
        goto done;
    }
    if (!r->ckpt) {
        if (r->engine->rank == 0) am_log(AM_LOG_WARN, "train", "no Hugging Face directory is written: checkpoint.enabled is false");
        goto done;
    }
    AM_TRY(am_ckpt_poll(r->ckpt, true, &failed));
    AM_TRY(am_engine_together(r->engine, r->engine->rank == 0 ? export_to(r, dir) : AM_OK));
done:
    am_free(&dir);
    return st;
}
