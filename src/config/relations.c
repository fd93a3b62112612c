/* Checks and defaults that need more than one option.  What needs the number of ranks, the model or the data
 * is checked where those are known. */
#include "config/config_internal.h"

#include <string.h>

static am_status fail_at(const am_value *v, const char *what) AM_WARN_UNUSED;
static am_status fail_at(const am_value *v, const char *what)
{
    return am_fail(AM_ERR_CONFIG, "%s: %s: %s", v->where, v->path, what);
}

static am_value *get(const am_config *cfg, const char *path)
{
    return am_config_find(cfg, path);
}

static am_status check_batch(am_config *cfg)
{
    am_status st = AM_OK;
    am_value *global = get(cfg, "step_scheduler.global_batch_size"),
             *local = get(cfg, "step_scheduler.local_batch_size");
    am_value *epochs = get(cfg, "step_scheduler.num_epochs");
    AM_CHECK(global->i % local->i == 0, AM_ERR_CONFIG,
             "%s: %s: %" PRId64 " is no multiple of local_batch_size %" PRId64 " (%s)", global->where,
             global->path, global->i, local->i, local->where);
    if (epochs->is_null && get(cfg, "step_scheduler.max_steps")->is_null)
        AM_TRY(am_value_set_scalar(&cfg->doc, epochs, "1", true));
done:
    return st;
}

static am_status check_optimizer(am_config *cfg)
{
    am_value *decay = get(cfg, "optimizer.weight_decay");
    const char *target = am_config_target(cfg, "optimizer");
    if (strcmp(target, "Adam") == 0 && decay->f != 0)
        return fail_at(decay, "Adam with weight decay adds it to the gradient, which is not offered: write "
                              "torch.optim.AdamW, or weight_decay: 0");
    return AM_OK;
}

static am_status check_schedule(am_config *cfg)
{
    am_status st = AM_OK;
    am_value *style = get(cfg, "lr_scheduler.lr_decay_style"),
             *warmup = get(cfg, "lr_scheduler.lr_warmup_steps");
    am_value *decay = get(cfg, "lr_scheduler.lr_decay_steps"), *min_lr = get(cfg, "lr_scheduler.min_lr");
    am_value *lr = get(cfg, "optimizer.lr");
    if (!am_config_section(cfg, "lr_scheduler")) {
        AM_TRY(am_value_set_scalar(&cfg->doc, style, "constant", true));
        AM_TRY(am_value_set_scalar(&cfg->doc, warmup, "0", true));
        return AM_OK;
    }
    AM_CHECK(min_lr->is_null || min_lr->f <= lr->f, AM_ERR_CONFIG,
             "%s: lr_scheduler.min_lr: %g is larger than optimizer.lr %g (%s)", min_lr->where, min_lr->f,
             lr->f, lr->where);
    AM_CHECK(warmup->is_null || decay->is_null || warmup->i < decay->i, AM_ERR_CONFIG,
             "%s: lr_scheduler.lr_warmup_steps: %" PRId64 " leaves nothing of the %" PRId64
             " lr_decay_steps (%s)",
             warmup->where, warmup->i, decay->i, decay->where);
    if (strcmp(style->s, "WSD") == 0 && get(cfg, "lr_scheduler.wsd_decay_steps")->is_null)
        AM_TRY(fail_at(style, "WSD needs lr_scheduler.wsd_decay_steps, the length of its final decay"));
done:
    return st;
}

/* DDPConfig and its kin say the strategy by their name. */
static am_status check_distributed(am_config *cfg)
{
    am_status st = AM_OK;
    const char *target = am_config_target(cfg, "distributed");
    am_value *strategy = get(cfg, "distributed.strategy"), *dp = get(cfg, "distributed.dp_size");
    am_value *replicate = get(cfg, "distributed.dp_replicate_size");
    bool ddp = strncmp(target, "DDP", 3) == 0, named = false;
    for (size_t i = 0; i < cfg->doc.root->count; i++) {
        const am_pair *p = &cfg->doc.root->pairs[i];
        if (strcmp(p->key->text, "distributed") == 0 && p->value->kind == AM_NODE_MAPPING)
            named = am_node_find(p->value, "_target_") != NULL;
    }
    if (named && !strategy->given)
        AM_TRY(am_value_set_scalar(&cfg->doc, strategy, ddp ? "ddp" : "fsdp2", true));
    AM_CHECK(!named || ddp == (strcmp(strategy->s, "ddp") == 0), AM_ERR_CONFIG,
             "%s: distributed.strategy: %s does not go with _target_ %s: keep one of the two",
             strategy->where, strategy->s, target);
    AM_CHECK(dp->is_null || dp->i % replicate->i == 0, AM_ERR_CONFIG,
             "%s: distributed.dp_replicate_size: %" PRId64 " does not divide dp_size %" PRId64 " (%s)",
             replicate->where, replicate->i, dp->i, dp->where);
done:
    return st;
}

static am_status check_checkpoint(am_config *cfg)
{
    am_value *format = get(cfg, "checkpoint.model_save_format");
    if (get(cfg, "checkpoint.enabled")->b && strcmp(format->s, "safetensors") != 0)
        return fail_at(format, "torch_save is not offered (pickles can run code): write safetensors");
    return AM_OK;
}

/* One rule for samples that are too long; `{context, answer}` alone means that the context is the question.
 */
static am_status check_data(am_config *cfg)
{
    am_status st = AM_OK;
    char path[256];
    am_value *drop = get(cfg, "packed_sequence.drop_long_samples"),
             *split = get(cfg, "packed_sequence.split_across_pack");
    AM_CHECK(!drop->b || !split->b, AM_ERR_CONFIG,
             "%s: packed_sequence.drop_long_samples: with split_across_pack (%s) "
             "no sample is too long: keep one of the two",
             drop->where, split->where);
    for (size_t i = 0; i < cfg->num_sections; i++) {
        const char *name = cfg->sections[i].name;
        snprintf(path, sizeof path, "%s.truncation", name);
        am_value *truncation = get(cfg, path);
        if (truncation != NULL && strcmp(truncation->s, "true") == 0)
            AM_CHECK(!drop->b && !split->b, AM_ERR_CONFIG,
                     "%s: %s: with packed_sequence.%s (%s) no sample is truncated: "
                     "keep one of the two",
                     truncation->where, path, drop->b ? "drop_long_samples" : "split_across_pack",
                     drop->b ? drop->where : split->where);
        snprintf(path, sizeof path, "%s.column_mapping.context", name);
        am_value *context = get(cfg, path);
        snprintf(path, sizeof path, "%s.column_mapping.question", name);
        am_value *question = get(cfg, path);
        if (context == NULL || !context->given || question->given) continue;
        AM_TRY(am_value_set_scalar(&cfg->doc, question, context->s, false));
        question->given = true;
        am_value_clear(context);
        context->given = false;
    }
done:
    return st;
}

am_status am_config_check_relations(am_config *cfg)
{
    am_status st = AM_OK;
    AM_TRY(check_batch(cfg));
    AM_TRY(check_optimizer(cfg));
    AM_TRY(check_schedule(cfg));
    AM_TRY(check_distributed(cfg));
    AM_TRY(check_checkpoint(cfg));
    AM_TRY(check_data(cfg));
done:
    return st;
}
