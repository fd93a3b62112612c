/* settings.c: recipe → am_settings.  Every refusal names the key and its place. */
#include "train/settings.h"

#include "train/prepared.h"

#include <dirent.h>
#include <glob.h>
#include <stdlib.h>
#include <string.h>

#define WHERE(path) am_config_where(cfg, path)

static am_status copy_list(const am_config *cfg, const char *path, const char ***out, int *count)
{
    am_status st = AM_OK;
    *count = (int)am_config_count(cfg, path);
    if (*count) AM_TRY(am_calloc((size_t)*count, sizeof **out, out));
    for (int i = 0; i < *count; i++) (*out)[i] = am_config_item(cfg, path, (size_t)i);
done:
    return st;
}

am_status am_settings_begin(const am_config *cfg, am_settings *s)
{
    am_status st = AM_OK;
    memset(s, 0, sizeof *s);
    s->cfg = cfg;
    const char *target = am_config_target(cfg, "model");
    s->from_config = target && strstr(target, "from_config");
    s->model_spec = am_config_string(cfg, "model.pretrained_model_name_or_path");
    if (!s->model_spec || s->from_config) s->model_spec = am_config_string(cfg, "model.config") ? am_config_string(cfg, "model.config") : s->model_spec;
    AM_CHECK(s->model_spec, AM_ERR_CONFIG, "%s: the recipe names no model: write model.pretrained_model_name_or_path: DIRECTORY (or model.config for a dry run)",
             WHERE("model.pretrained_model_name_or_path"));
    s->card = am_config_string(cfg, "model.card");
    AM_TRY(copy_list(cfg, "model.ignore_config_keys", &s->ignore, &s->num_ignore));
    AM_TRY(copy_list(cfg, "freeze_config.patterns", &s->freeze, &s->num_freeze));
    s->device = am_config_string(cfg, "run.device");
    s->threads = (int)am_config_int(cfg, "run.threads");
    s->huge_pages = am_config_string(cfg, "run.huge_pages");
    s->timeout_seconds = 60 * am_config_float(cfg, "dist_env.timeout_minutes");
    AM_TRY(am_strdup(am_run_dir_of(cfg), &s->run_dir));
done:
    return st;
}

void am_settings_release(am_settings *s)
{
    am_free(&s->ignore);
    am_free(&s->freeze);
    am_free(&s->run_dir);
    am_free(&s->ckpt_dir);
}

static am_status read_mesh(const am_config *cfg, int64_t ranks, am_settings *s)
{
    am_status st = AM_OK;
    static const struct { const char *path; am_mesh_dim dim; } later[] = {
        {"distributed.tp_size", AM_MESH_TP}, {"distributed.cp_size", AM_MESH_CP}, {"distributed.ep_size", AM_MESH_EP}, {"distributed.pp_size", AM_MESH_PP}};
    for (size_t i = 0; i < sizeof later / sizeof *later; i++) {
        AM_CHECK(am_config_int(cfg, later[i].path) == 1, AM_ERR_CONFIG, "%s: %s = %" PRId64 ": training offers data parallelism only in this version (ddp, fsdp2, HSDP); write 1",
                 WHERE(later[i].path), later[i].path, am_config_int(cfg, later[i].path));
        s->mesh.size[later[i].dim] = 1;
    }
    s->ranks = s->dp = ranks;
    int64_t given = am_config_int(cfg, "distributed.dp_size"), replicas = am_config_int(cfg, "distributed.dp_replicate_size");
    AM_CHECK(given == 0 || given == ranks, AM_ERR_CONFIG, "%s: distributed.dp_size = %" PRId64 ", and the job has %" PRId64 " ranks: start as many, or leave dp_size out",
             WHERE("distributed.dp_size"), given, ranks);
    bool ddp = strcmp(am_config_string(cfg, "distributed.strategy"), "ddp") == 0;
    AM_CHECK(ranks % replicas == 0, AM_ERR_CONFIG, "%s: dp_replicate_size = %" PRId64 " does not divide %" PRId64 " ranks", WHERE("distributed.dp_replicate_size"),
             replicas, ranks);
    s->mesh.size[AM_MESH_DP_REPLICATE] = ddp ? ranks : replicas;
    s->mesh.size[AM_MESH_DP_SHARD] = ddp ? 1 : ranks / replicas;
done:
    return st;
}

static am_status read_precision(const am_config *cfg, const am_model *model, am_settings *s)
{
    am_status st = AM_OK;
    am_dtype reduce = AM_F32;
    s->compute = model->hf->has_dtype ? model->hf->dtype : AM_F32;
    if (s->compute == AM_F16) s->compute = AM_BF16;
    am_dtype given;
    if (am_config_dtype(cfg, "model.torch_dtype", &given)) s->compute = given;
    if (am_config_dtype(cfg, "distributed.mp_policy.param_dtype", &given)) s->compute = given;
    (void)am_config_dtype(cfg, "distributed.mp_policy.reduce_dtype", &reduce);
    AM_CHECK(reduce == AM_F32, AM_ERR_CONFIG, "%s: gradients are reduced in float32 in this version", WHERE("distributed.mp_policy.reduce_dtype"));
    AM_CHECK(s->compute == AM_F32 || s->compute == AM_BF16, AM_ERR_CONFIG, "%s: compute in bf16 or float32, not %s", WHERE("model.torch_dtype"),
             am_dtype_name(s->compute));
done:
    return st;
}

static am_status read_batch(const am_config *cfg, const am_model *model, am_settings *s)
{
    am_status st = AM_OK;
    int64_t packed = am_config_int(cfg, "packed_sequence.packed_sequence_size"), longest = 0;
    s->global_rows = am_config_int(cfg, "step_scheduler.global_batch_size");
    s->local_rows = am_config_int(cfg, "step_scheduler.local_batch_size");
    int64_t together = s->local_rows * s->dp;
    AM_CHECK(s->global_rows % together == 0, AM_ERR_CONFIG,
             "%s: global_batch_size = %" PRId64 " is no multiple of local_batch_size × data-parallel ranks = %" PRId64 " × %" PRId64 "; write a multiple of %" PRId64,
             WHERE("step_scheduler.global_batch_size"), s->global_rows, s->local_rows, s->dp, together);
    s->micro_batches = s->global_rows / together;
    s->packed = packed > 0;
    s->seq_len = packed > 0 ? packed : am_config_int(cfg, "dataset.seq_length");
    AM_TRY(am_hf_config_i64(model->hf, "max_position_embeddings", 0, &longest));
    if (s->seq_len == 0) s->seq_len = longest;
    AM_CHECK(s->seq_len > 0, AM_ERR_CONFIG, "%s: write packed_sequence.packed_sequence_size or dataset.seq_length: the length of a row of tokens",
             WHERE("packed_sequence.packed_sequence_size"));
    if (longest > 0 && s->seq_len > longest)
        am_log(AM_LOG_WARN, "train", "rows of %" PRId64 " tokens are longer than the %" PRId64 " positions the model was made for", s->seq_len, longest);
    bool split = am_config_bool(cfg, "packed_sequence.split_across_pack"), drop = am_config_bool(cfg, "packed_sequence.drop_long_samples");
    const char *truncate = am_config_string(cfg, "dataset.truncation");
    s->long_samples = split ? AM_LONG_SPLIT : drop ? AM_LONG_DROP : truncate && strcmp(truncate, "true") == 0 ? AM_LONG_TRUNCATE : AM_LONG_REFUSE;
    s->limit_samples = am_config_int(cfg, "dataset.limit_dataset_samples");
    s->shuffle = am_config_bool(cfg, "dataloader.shuffle");
done:
    return st;
}

static void read_optimizer(const am_config *cfg, am_settings *s)
{
    s->adamw = am_adamw_default();
    s->adamw.lr = am_config_float(cfg, "optimizer.lr");
    if (am_config_count(cfg, "optimizer.betas") == 2) {
        s->adamw.beta1 = am_config_item_float(cfg, "optimizer.betas", 0);
        s->adamw.beta2 = am_config_item_float(cfg, "optimizer.betas", 1);
    }
    s->adamw.eps = am_config_float(cfg, "optimizer.eps");
    s->adamw.weight_decay = am_config_float(cfg, "optimizer.weight_decay");
    s->max_norm = am_config_section(cfg, "clip_grad_norm") ? am_config_float(cfg, "clip_grad_norm.max_norm") : 0;
}

static am_recompute recompute_named(const char *name)
{
    return strcmp(name, "full") == 0 ? AM_RECOMPUTE_FULL : strcmp(name, "selective") == 0 ? AM_RECOMPUTE_SELECTIVE : AM_RECOMPUTE_NONE;
}

static am_status read_run(const am_config *cfg, am_settings *s)
{
    am_status st = AM_OK;
    s->seed = (uint64_t)am_config_int(cfg, "rng.seed");
    s->num_epochs = am_config_int(cfg, "step_scheduler.num_epochs");
    s->max_steps = am_config_int(cfg, "step_scheduler.max_steps");
    s->val_every = am_config_int(cfg, "step_scheduler.val_every_steps");
    s->ckpt_every = am_config_int(cfg, "step_scheduler.ckpt_every_steps");
    s->ckpt_every_epoch = am_config_bool(cfg, "step_scheduler.save_checkpoint_every_epoch");
    s->ckpt_enabled = am_config_bool(cfg, "checkpoint.enabled");
    s->ckpt_async = am_config_bool(cfg, "checkpoint.is_async");
    s->ckpt_keep = (int)am_config_int(cfg, "checkpoint.max_recent_checkpoints");
    s->restore_from = am_config_string(cfg, "checkpoint.restore_from");
    const char *export = am_config_string(cfg, "checkpoint.save_consolidated");
    s->export_every = export && strcmp(export, "every") == 0;
    s->export_final = export && strcmp(export, "false") != 0;
    s->recompute = recompute_named(am_config_string(cfg, "distributed.recompute"));
    s->overlap = am_config_bool(cfg, "distributed.overlap");
    s->reshard = am_config_bool(cfg, "distributed.reshard_after_forward");
    s->defer_sync = am_config_bool(cfg, "distributed.defer_fsdp_grad_sync");
    s->fuse = am_config_bool(cfg, "run.fuse");
    const char *dir = am_config_string(cfg, "checkpoint.checkpoint_dir");
    if (dir) AM_TRY(am_strdup(dir, &s->ckpt_dir));
    else AM_TRY(am_path_join(s->run_dir, "checkpoints", &s->ckpt_dir));
done:
    return st;
}

am_status am_settings_read(const am_config *cfg, const am_model *model, int64_t ranks, am_settings *s)
{
    am_status st = AM_OK;
    AM_TRY(read_mesh(cfg, ranks, s));
    AM_TRY(read_precision(cfg, model, s));
    AM_TRY(read_batch(cfg, model, s));
    read_optimizer(cfg, s);
    AM_TRY(am_adamw_check(&s->adamw));
    AM_TRY(read_run(cfg, s));
done:
    return st;
}

am_status am_settings_schedule(const am_settings *s, int64_t total, am_lr_schedule *out)
{
    am_status st = AM_OK;
    const am_config *cfg = s->cfg;
    *out = am_lr_constant(s->adamw.lr);
    if (!am_config_section(cfg, "lr_scheduler")) goto done;
    *out = am_lr_default(s->adamw.lr, total);
    AM_CHECK(am_lr_style_parse(am_config_string(cfg, "lr_scheduler.lr_decay_style"), &out->style), AM_ERR_CONFIG, "%s: unknown lr_decay_style",
             WHERE("lr_scheduler.lr_decay_style"));
    if (am_config_has(cfg, "lr_scheduler.lr_warmup_steps")) out->warmup_steps = am_config_int(cfg, "lr_scheduler.lr_warmup_steps");
    if (am_config_has(cfg, "lr_scheduler.lr_decay_steps")) out->decay_steps = am_config_int(cfg, "lr_scheduler.lr_decay_steps");
    if (am_config_has(cfg, "lr_scheduler.init_lr")) out->init_lr = am_config_float(cfg, "lr_scheduler.init_lr");
    if (am_config_has(cfg, "lr_scheduler.min_lr")) out->min_lr = am_config_float(cfg, "lr_scheduler.min_lr");
    if (out->style == AM_LR_WSD) {
        out->wsd_decay_steps = am_config_has(cfg, "lr_scheduler.wsd_decay_steps") ? am_config_int(cfg, "lr_scheduler.wsd_decay_steps") : -1;
        const char *shape = am_config_string(cfg, "lr_scheduler.lr_wsd_decay_style");
        AM_CHECK(!shape || am_wsd_style_parse(shape, &out->wsd_style), AM_ERR_CONFIG, "%s: unknown lr_wsd_decay_style", WHERE("lr_scheduler.lr_wsd_decay_style"));
    }
    AM_TRY(am_lr_check(out));
done:
    return st;
}

/* Overrides by regular expression → one exact group a parameter. */
static am_status resolve_groups(const am_settings *s, const am_graph *cg, am_param_group **groups, int *count)
{
    am_status st = AM_OK;
    const am_config *cfg = s->cfg;
    am_graph *g = (am_graph *)(uintptr_t)cg;
    am_optim_override *overrides = NULL;
    am_optim_groups *all = NULL;
    size_t n = am_config_count(cfg, "optimizer.param_group_overrides");
    *groups = NULL;
    *count = 0;
    if (n == 0 || !groups) goto done;
    AM_TRY(am_calloc(n, sizeof *overrides, &overrides));
    for (size_t i = 0; i < n; i++) {
        char path[3][80];
        static const char *const field[] = {"pattern", "lr_mult", "wd_mult"};
        for (int k = 0; k < 3; k++) snprintf(path[k], sizeof path[k], "optimizer.param_group_overrides.%zu.%s", i, field[k]);
        overrides[i] = (am_optim_override){am_config_string(cfg, path[0]), am_config_float(cfg, path[1]), am_config_float(cfg, path[2])};
    }
    AM_TRY(am_optim_groups_create(&s->adamw, overrides, n, &all));
    AM_TRY(am_calloc((size_t)am_graph_num_params(g), sizeof **groups, groups));
    for (int p = 0; p < am_graph_num_params(g); p++) {
        am_optim_group found;
        AM_TRY(am_optim_groups_find(all, am_param_disk_name(am_graph_param_at(g, p)), &found));
        double wd = found.index ? overrides[found.index - 1].wd_mult : 1;
        (*groups)[(*count)++] = (am_param_group){am_graph_param_at(g, p)->name, found.lr_mult, wd};
    }
    for (size_t i = 1; i <= n; i++)
        if (am_optim_groups_matched(all, i) == 0) am_log(AM_LOG_WARN, "train", "optimizer.param_group_overrides: \"%s\" matches no parameter", overrides[i - 1].pattern);
done:
    am_optim_groups_free(&all);
    am_free(&overrides);
    return st;
}

am_status am_settings_program(const am_settings *s, am_program_kind kind, int64_t rank, int threads, const am_graph *g, am_program_options *o,
                              am_param_group **groups)
{
    am_status st = AM_OK;
    int count = 0;
    *o = am_program_defaults(kind);
    o->mesh = s->mesh;
    o->rank = rank;
    o->threads = threads;
    o->micro_batches = kind == AM_PROGRAM_TRAIN ? (int)s->micro_batches : 1;
    o->recompute = s->recompute;
    o->overlap = s->overlap;
    o->reshard = s->reshard;
    o->defer_sync = s->defer_sync;
    o->fuse = s->fuse;
    o->beta1 = s->adamw.beta1;
    o->beta2 = s->adamw.beta2;
    o->eps = s->adamw.eps;
    o->weight_decay = s->adamw.weight_decay;
    o->freeze = s->freeze;
    o->num_freeze = s->num_freeze;
    AM_TRY(resolve_groups(s, g, groups, &count));
    o->groups = *groups;
    o->num_groups = count;
done:
    return st;
}

/* Where the shards of a section lie: a folder, all of it, so that a missing one is noticed; or the files that a pattern names. */
typedef struct shard_paths { char *folder; glob_t named; } shard_paths;

static bool holds_shards(const char *folder)
{
    bool found = false;
    DIR *d = opendir(folder);
    for (struct dirent *e; d && !found && (e = readdir(d));) found = am_glob_match("*.h5", e->d_name);
    if (d) closedir(d);
    return found;
}

static am_status find_shards(const am_settings *s, const char *section, shard_paths *out)
{
    am_status st = AM_OK;
    const am_config *cfg = s->cfg;
    const char *target = am_config_target(cfg, section), *shape = "*.h5";
    char path[96];
    am_str all = {0};
    bool made, found;
    AM_CHECK(target, AM_ERR_CONFIG, "the recipe has no section %s with a _target_", section);
    made = strcmp(target, "ShardDataset") != 0;
    snprintf(path, sizeof path, "%s.pattern", section);
    if (!made) shape = am_config_string(cfg, path);
    snprintf(path, sizeof path, "%s.%s", section, made ? "path_or_dataset_id" : "data_dir");
    AM_TRY(made ? am_prepared_dir(cfg, section, &out->folder) : am_strdup(am_config_string(cfg, path), &out->folder));
    AM_TRY(am_str_printf(&all, "%s/%s", out->folder, shape));
    found = strcmp(shape, "*.h5") == 0 ? holds_shards(out->folder) : glob(all.s, 0, NULL, &out->named) == 0;
    AM_CHECK(found, AM_ERR_DATA, "%s: there are no token shards %s; make them first: automodel prepare CONFIG%s", WHERE(path), all.s,
             made ? "" : " (or --input FILE.jsonl --tokenizer MODEL -o DIR)");
done:
    am_str_release(&all);
    return st;
}

am_status am_settings_dataset(const am_settings *s, const char *section, bool training, const char *tokenizer_sha256, int64_t vocab_size, am_dataset **out)
{
    am_status st = AM_OK;
    shard_paths found = {0};
    int64_t epochs = !training ? 1 : s->num_epochs ? s->num_epochs : s->max_steps ? 0 : 1;
    AM_TRY(find_shards(s, section, &found));
    am_dataset_options o = {.paths = (const char *const *)&found.folder, .num_paths = 1, .row_len = s->seq_len, .packed = s->packed,
                            .shuffle = training && s->shuffle, .seed = s->seed, .long_samples = s->long_samples, .num_epochs = epochs,
                            .limit_sequences = training ? s->limit_samples : 0, .vocab_size = vocab_size, .tokenizer_sha256 = tokenizer_sha256};
    if (found.named.gl_pathc > 0) {
        o.paths = (const char *const *)found.named.gl_pathv;
        o.num_paths = (int)found.named.gl_pathc;
    }
    if (!training) {
        char path[96];
        snprintf(path, sizeof path, "%s.limit_dataset_samples", section);
        o.limit_sequences = am_config_int(s->cfg, path);
    }
    AM_TRY(am_dataset_open(&o, out));
done:
    globfree(&found.named);
    am_free(&found.folder);
    return st;
}
