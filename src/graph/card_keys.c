/* card_keys: every key of config.json is named by a part of the card that the model can reach (in any branch,
 * taken or not), ignored by the card, ignored by the user, or harmless.  Judged before anything is built.
 * Definitions that nothing reaches any more (a card that is `like` another and replaced their users) name no
 * key. */
#include "graph/card_internal.h"

#include <string.h>

/* Keys that change no number of a forward or backward pass.  Those marked must also be 0, false or null:
 * automodel trains without dropout and noise, and says so rather than leaving it out. */
static const struct {
    const char *key;
    bool must_be_zero;
} harmless[] = {
    {"architectures", false},
    {"model_type", false},
    {"auto_map", false},
    {"_name_or_path", false},
    {"_attn_implementation", false},
    {"_attn_implementation_autoset", false},
    {"attn_implementation", false},
    {"transformers_version", false},
    {"transformers.js_config", false},
    {"torch_dtype", false},
    {"dtype", false},
    {"quantization_config", false}, /* src/hf/packed.c reads it, and refuses what cannot be read */
    {"use_cache", false},
    {"initializer_range", false},
    {"max_position_embeddings", false},
    {"tie_word_embeddings", false},
    {"bos_token_id", false},
    {"eos_token_id", false},
    {"pad_token_id", false},
    {"unk_token_id", false},
    {"sep_token_id", false},
    {"cls_token_id", false},
    {"decoder_start_token_id", false},
    {"vocab_size", false},
    {"task_specific_params", false},
    {"output_attentions", false},
    {"output_hidden_states", false},
    {"output_router_logits", false},
    {"router_aux_loss_coef", false},
    {"return_dict", false},
    {"use_return_dict", false},
    {"torchscript", false},
    {"id2label", false},
    {"label2id", false},
    {"is_decoder", false},
    {"is_encoder_decoder", false},
    {"problem_type", false},
    {"finetuning_task", false},
    {"license", false},
    {"tokenizer_class", false},
    {"prefix", false},
    {"chunk_size_feed_forward", false},
    {"pruned_heads", false},
    {"unsloth_fixed", false},
    {"unsloth_version", false},
    {"gradient_checkpointing", false},
    {"attention_dropout", true},
    {"hidden_dropout", true},
    {"residual_dropout", true},
    {"embedding_dropout", true},
    {"attn_pdrop", true},
    {"embd_pdrop", true},
    {"resid_pdrop", true},
    {"attn_dropout", true},
    {"resid_dropout", true},
    {"embd_dropout", true},
    {"embed_dropout", true},
    {"dropout", true},
    {"activation_dropout", true},
    {"hidden_dropout_prob", true},
    {"attention_probs_dropout_prob", true},
    {"layerdrop", true},
    {"router_jitter_noise", true},
};

static const char *const rope_keys[] = {"rope_theta", "rope_scaling", "rope_parameters",
                                        "partial_rotary_factor", "original_max_position_embeddings"};

typedef struct reach {
    card_elab *e;
    card_list named; /* keys */
    card_list seen;  /* definitions and functions */
} reach;

static bool seen_before(const reach *r, const void *item)
{
    for (int i = 0; i < r->seen.num; i++)
        if (r->seen.at[i] == item) return true;
    return false;
}

static am_status name_key(reach *r, const char *key)
{
    return card_has_string(&r->named, key) ? AM_OK : card_push(&r->e->arena, &r->named, (void *)key);
}

static am_status reach_name(reach *r, const char *name, const card_visitor *v)
{
    am_status st = AM_OK;
    const card_def *d = card_find_def(r->e->card, name);
    if (!d) {
        AM_TRY(name_key(r, name));
    } else if (!seen_before(r, d)) {
        AM_TRY(card_push(&r->e->arena, &r->seen, (void *)d));
        AM_TRY(card_walk(d->expr, v));
    }
done:
    return st;
}

static am_status reach_call(reach *r, const card_ast *x, const card_visitor *v)
{
    am_status st = AM_OK;
    const card_func *f = card_find_func(r->e->card, x->text);
    if (f && !seen_before(r, f)) {
        AM_TRY(card_push(&r->e->arena, &r->seen, (void *)f));
        AM_TRY(card_walk_body(&f->body, v));
    }
    for (size_t i = 0; strcmp(x->text, "rope_table") == 0 && i < sizeof rope_keys / sizeof *rope_keys; i++)
        AM_TRY(name_key(r, rope_keys[i]));
    if (strcmp(x->text, "embed") == 0) AM_TRY(reach_name(r, "V", v));
done:
    return st;
}

static am_status reach_expr(void *self, const card_ast *x)
{
    am_status st = AM_OK;
    reach *r = self;
    card_visitor v = {reach_expr, r};
    if (x->kind == CARD_A_PATH && !x->relative && x->seg[0].text) AM_TRY(reach_name(r, x->seg[0].text, &v));
    if (x->kind == CARD_A_CALL) AM_TRY(reach_call(r, x, &v));
done:
    return st;
}

static am_status reach_all(reach *r)
{
    am_status st = AM_OK;
    const am_card *c = r->e->card;
    card_visitor v = {reach_expr, r};
    AM_TRY(card_walk_body(&c->model, &v));
    for (int i = 0; i < c->require.num; i++) AM_TRY(card_walk(((card_word *)c->require.at[i])->expr, &v));
done:
    return st;
}

/* ---- judging
 * -----------------------------------------------------------------------------------------------------------
 */

bool card_option_ignores(const card_elab *e, const char *key)
{
    for (int i = 0; e->options && i < e->options->num_ignore; i++)
        if (am_glob_match(e->options->ignore_config_keys[i], key)) return true;
    return false;
}

static bool card_ignores(const card_elab *e, const char *key)
{
    for (int i = 0; i < e->card->ignore_keys.num; i++)
        if (am_glob_match(((card_word *)e->card->ignore_keys.at[i])->text, key)) return true;
    return false;
}

static bool is_zero(const card_val *v)
{
    return v->kind == CARD_V_NONE || (v->kind == CARD_V_BOOL && !v->i) ||
           (card_is_number(v) && card_number(v) == 0);
}

/* 0: unknown, 1: harmless, -1: would be harmless at 0 */
static int judge_harmless(const char *key, const card_val *v)
{
    for (size_t i = 0; i < sizeof harmless / sizeof *harmless; i++)
        if (strcmp(harmless[i].key, key) == 0) return harmless[i].must_be_zero && !is_zero(v) ? -1 : 1;
    return 0;
}

static am_status refuse_noise(const card_elab *e, const char *key, const card_val *v)
{
    am_status st = AM_OK;
    am_str value = {0};
    AM_TRY(card_describe(v, &value));
    AM_FAIL(AM_ERR_CARD,
            "%s: %s = %s, but automodel trains without dropout and noise; to train without it all "
            "the same, say so: "
            "model.ignore_config_keys: [%s]",
            e->model->config_path, key, value.s, key);
done:
    am_str_release(&value);
    return st;
}

/* The keys that nothing reads: with their values, and by name. */
static am_status list_unread(card_elab *e, const reach *r, const char *separator, am_str *list, am_str *names, int *count)
{
    am_status st = AM_OK;
    for (int i = 0; i < e->config.num; i++) {
        const char *key = e->config.key[i];
        const card_val *v = &e->config.item[i];
        if (card_has_string(&r->named, key) || card_ignores(e, key) || card_option_ignores(e, key)) continue;
        int verdict = judge_harmless(key, v);
        if (verdict < 0 && !(e->options && e->options->no_noise)) AM_TRY(refuse_noise(e, key, v));
        if (verdict != 0) continue;
        AM_TRY(am_str_printf(list, "%s%s = ", *count ? separator : "", key));
        AM_TRY(card_describe(v, list));
        AM_TRY(am_str_printf(names, "%s%s", *count ? ", " : "", key));
        (*count)++;
    }
done:
    return st;
}

am_status card_check_keys(card_elab *e)
{
    am_status st = AM_OK;
    reach r = {.e = e};
    am_str list = {0}, names = {0}, *wanted = e->options ? e->options->unread : NULL;
    int unread = 0;
    AM_TRY(reach_all(&r));
    AM_TRY(list_unread(e, &r, wanted ? "\n" : ", ", wanted ? wanted : &list, &names, &unread));
    AM_CHECK(
        unread == 0 || wanted, AM_ERR_CARD,
        "%s: %s read by nothing in %s: %s. Another card may fit; what changes no number can pass by name: "
        "model.ignore_config_keys: [%s]",
        e->model->config_path, unread == 1 ? "this key is" : "these keys are", e->card->path, list.s,
        names.s);
done:
    am_str_release(&list);
    am_str_release(&names);
    return st;
}

/* ---- function names
 * ---------------------------------------------------------------------------------------------------------
 */

static am_status check_call(void *self, const card_ast *x)
{
    am_status st = AM_OK;
    card_elab *e = self;
    const char *near = NULL;
    if (x->kind != CARD_A_CALL || card_find_func(e->card, x->text) || card_knows_function(e, x->text))
        goto done;
    AM_TRY(card_suggest_function(e, x->text, &near));
    CARD_FAIL(x->pos, "there is no function `%s`, neither in this card nor in the language%s%s%s", x->text,
              near ? "; did you mean `" : "", near ? near : "", near ? "`?" : "");
done:
    return st;
}

am_status card_check_functions(card_elab *e)
{
    am_status st = AM_OK;
    const am_card *c = e->card;
    card_visitor v = {check_call, e};
    for (int i = 0; i < c->defs.num; i++) AM_TRY(card_walk(((card_def *)c->defs.at[i])->expr, &v));
    for (int i = 0; i < c->funcs.num; i++) AM_TRY(card_walk_body(&((card_func *)c->funcs.at[i])->body, &v));
    for (int i = 0; i < c->require.num; i++) AM_TRY(card_walk(((card_word *)c->require.at[i])->expr, &v));
    AM_TRY(card_walk_body(&c->model, &v));
done:
    return st;
}
