/* card_rope: rope_table(d, theta = …, kind = …, type = …, base = …, partial = …).
 * One reader for all cards and both spellings of config.json: rope_theta with rope_scaling, or
 * rope_parameters (perhaps one map per kind of layer, chosen by `kind`).  Keywords are the family's defaults;
 * config.json wins.  `base` is a theta of its own without scaling (Gemma 3's local layers). Frequencies are
 * formed in fp32, step by step as transformers forms them: at position 8192 a frequency that differs in its
 * last bit turns by half a milliradian. */
#include "graph/card_rope.h"

#include <math.h>
#include <string.h>

/* ---- reading
 * -------------------------------------------------------------------------------------------------------- */

static am_status keyword(rope_reader *r, const char *name, card_val *out)
{
    const card_arg *a = card_keyword(r->call, name);
    *out = card_none(NULL);
    return a ? card_eval(r->e, a->value, out) : AM_OK;
}

/* The entries of both maps, rope_parameters winning. */
static am_status merge(rope_reader *r, const card_val *old, const card_val *new)
{
    am_status st = AM_OK;
    card_val *item = NULL;
    int n = (old ? old->num : 0) + (new ? new->num : 0);
    r->map = (card_val){.kind = CARD_V_MAP};
    AM_TRY(card_alloc(&r->e->arena, (size_t)n * sizeof *item, &item));
    AM_TRY(card_alloc(&r->e->arena, (size_t)n * sizeof *r->map.key, &r->map.key));
    for (int i = 0; new &&i < new->num; i++) {
        r->map.key[r->map.num] = new->key[i];
        item[r->map.num++] = new->item[i];
    }
    for (int i = 0; old && i < old->num; i++) {
        if (new &&card_map_get(new, old->key[i])) continue;
        r->map.key[r->map.num] = old->key[i];
        item[r->map.num++] = old->item[i];
    }
    r->map.item = item;
done:
    return st;
}

static am_status map_key(rope_reader *r, const char *key, const card_val **out)
{
    am_status st = AM_OK;
    const card_val *v = card_map_get(&r->e->config, key);
    CARD_CHECK(!v || v->kind == CARD_V_NONE || v->kind == CARD_V_MAP, r->pos,
               "`%s` of %s must be a map or null, not %s", key, r->e->model->config_path,
               card_kind_text(v->kind));
    *out = v && v->kind == CARD_V_MAP ? v : NULL;
done:
    return st;
}

static am_status choose_kind(rope_reader *r)
{
    am_status st = AM_OK;
    card_val kind;
    const char *first = NULL;
    const card_val *part = NULL;
    for (int i = 0; i < r->map.num && !first; i++)
        if (r->map.item[i].kind == CARD_V_MAP) first = r->map.key[i];
    AM_TRY(keyword(r, "kind", &kind));
    CARD_CHECK(kind.kind == CARD_V_NONE || kind.kind == CARD_V_STR, r->pos, "kind must be a string, not %s",
               card_kind_text(kind.kind));
    if (!first) goto done;
    CARD_CHECK(kind.kind == CARD_V_STR, r->pos,
               "%s of %s holds a map for each kind of layer (`%s`, …), but this card gives no kind", r->name,
               r->e->model->config_path, first);
    part = card_map_get(&r->map, kind.s);
    CARD_CHECK(part && part->kind == CARD_V_MAP, r->pos, "%s of %s has no entry `%s`", r->name,
               r->e->model->config_path, kind.s);
    AM_TRY(card_printf(&r->e->arena, &r->name, "%s.%s", r->name, kind.s));
    AM_TRY(merge(r, NULL, part));
done:
    return st;
}

/* map's key, config.json's key of the same name, the card's keyword, `fallback` */
static am_status number_of(rope_reader *r, const char *key, const char *word, double fallback, double *out)
{
    am_status st = AM_OK;
    const card_val *v = card_map_get(&r->map, key), *top = card_map_get(&r->e->config, key);
    const char *what = NULL;
    card_val k;
    if (!v || v->kind == CARD_V_NONE) v = top;
    if (!v || v->kind == CARD_V_NONE) {
        AM_TRY(keyword(r, word, &k));
        v = &k;
    }
    *out = fallback;
    if (v->kind == CARD_V_NONE) goto done;
    AM_TRY(card_printf(&r->e->arena, &what, "%s of %s", key, r->e->model->config_path));
    AM_TRY(card_want_number(r->e, v, r->pos, what, out));
done:
    return st;
}

static am_status read_type(rope_reader *r)
{
    am_status st = AM_OK;
    card_val k;
    const card_val *v = card_map_get(&r->map, "rope_type");
    r->type_key = "rope_type";
    if (!v || v->kind == CARD_V_NONE) {
        const card_val *old = card_map_get(&r->map, "type");
        if (old && old->kind != CARD_V_NONE) {
            v = old;
            r->type_key = "type";
        }
    }
    if (!v || v->kind == CARD_V_NONE) {
        AM_TRY(keyword(r, "type", &k));
        v = &k;
    }
    CARD_CHECK(v->kind == CARD_V_NONE || v->kind == CARD_V_STR, r->pos,
               "%s.%s of %s must be a string, not %s", r->name, r->type_key, r->e->model->config_path,
               card_kind_text(v->kind));
    r->type = v->kind == CARD_V_STR ? v->s : "default";
done:
    return st;
}

static am_status read_config(rope_reader *r)
{
    am_status st = AM_OK;
    const card_val *old = NULL, *new = NULL;
    card_val base, width;
    AM_TRY(card_eval(r->e, card_positional(r->call, 0)->value, &width));
    AM_TRY(card_want_int(r->e, &width, r->pos, "the width of rope_table", 1, &r->width));
    AM_TRY(map_key(r, "rope_scaling", &old));
    AM_TRY(map_key(r, "rope_parameters", &new));
    r->name = new ? "rope_parameters" : "rope_scaling";
    AM_TRY(merge(r, old, new));
    AM_TRY(keyword(r, "base", &base));
    if (base.kind != CARD_V_NONE) { /* unscaled, with a theta of its own */
        AM_TRY(merge(r, NULL, NULL));
        AM_TRY(card_want_number(r->e, &base, r->pos, "base", &r->theta));
        r->type = "default";
        AM_TRY(number_of(r, "partial_rotary_factor", "partial", 1, &r->partial));
        goto done;
    }
    AM_TRY(choose_kind(r));
    AM_TRY(read_type(r));
    AM_TRY(number_of(r, "rope_theta", "theta", 10000, &r->theta));
    AM_TRY(number_of(r, "partial_rotary_factor", "partial", 1, &r->partial));
done:
    return st;
}

/* ---- tables
 * -----------------------------------------------------------------------------------------------------------
 */

static am_status build(rope_reader *r, const rope_type *type, card_rope *t)
{
    am_status st = AM_OK;
    t->dim = type->whole_width ? r->width : (int64_t)((double)r->width * r->partial);
    CARD_CHECK(t->dim >= 2 && t->dim % 2 == 0 && t->dim <= r->width, r->pos,
               "rope turns pairs: %" PRId64 " of %" PRId64
               " features (partial_rotary_factor %.10g) is not an even number of them",
               t->dim, r->width, r->partial);
    CARD_CHECK(r->theta > 0, r->pos, "rope's theta must be above 0, not %.10g", r->theta);
    t->num = t->dim / 2;
    t->factor = 1;
    t->cos = t->sin = -1;
    AM_TRY(card_alloc(&r->e->arena, (size_t)t->num * sizeof *t->inv_freq, &t->inv_freq));
    for (int64_t k = 0; k < t->num; k++) {
        float exponent = (float)(2 * k) / (float)t->dim;
        t->inv_freq[k] = (double)(1.0f / (float)pow(r->theta, (double)exponent));
    }
    if (type->scale) AM_TRY(type->scale(r, t));
done:
    return st;
}

/* The type is one there is a table for, and every key of the map is one it reads. */
static am_status check_map(rope_reader *r, const rope_type **type)
{
    static const char *const always[] = {"rope_type", "type", "rope_theta", "partial_rotary_factor", NULL};
    am_status st = AM_OK;
    const char *full = NULL;
    *type = card_rope_type(r->type);
    CARD_CHECK(*type, r->pos,
               "%s.%s = \"%s\" of %s: rope tables are made for default, linear, dynamic, llama3, yarn, longrope and "
               "proportional; this scaling is not offered",
               r->name, r->type_key, r->type, r->e->model->config_path);
    for (int i = 0; i < r->map.num; i++) {
        bool known = r->map.item[i].kind == CARD_V_NONE;
        for (int k = 0; always[k]; k++) known = known || strcmp(always[k], r->map.key[i]) == 0;
        for (int k = 0; (*type)->keys[k]; k++) known = known || strcmp((*type)->keys[k], r->map.key[i]) == 0;
        AM_TRY(card_printf(&r->e->arena, &full, "%s.%s", r->name, r->map.key[i]));
        CARD_CHECK(
            known || card_option_ignores(r->e, full), r->pos,
            "the key %s of %s is read by nothing for rope type \"%s\"; if it changes no number, let it pass: "
            "model.ignore_config_keys: [%s]",
            full, r->e->model->config_path, r->type, full);
    }
done:
    return st;
}

am_status card_rope_table(card_elab *e, const card_ast *call, card_val *out)
{
    static const char *const words[] = {"theta", "kind", "type", "base", "partial", NULL};
    am_status st = AM_OK;
    rope_reader r = {.e = e, .pos = call->pos, .call = call};
    card_rope *t = NULL;
    AM_TRY(card_check_args(call, 1, 1, words));
    AM_TRY(read_config(&r));
    const rope_type *type = NULL;
    AM_TRY(check_map(&r, &type));
    AM_TRY(card_alloc(&e->arena, sizeof *t, &t));
    AM_TRY(build(&r, type, t));
    card_rope *same = NULL; /* equal tables are one */
    for (int i = 0; i < e->ropes.num && !same; i++) {
        card_rope *old = e->ropes.at[i];
        if (old->dim == t->dim && old->factor == t->factor &&
            memcmp(old->inv_freq, t->inv_freq, (size_t)t->num * sizeof *t->inv_freq) == 0)
            same = old;
    }
    if (!same) AM_TRY(card_push(&e->arena, &e->ropes, t));
    *out = (card_val){.kind = CARD_V_ROPE, .rope = same ? same : t};
done:
    return st;
}

/* cos and sin of a table: one node, made where the table is first used, belonging to no layer. */
am_status card_rope_values(card_elab *e, card_rope *r, card_pos pos)
{
    am_status st = AM_OK;
    am_attrs attrs = {.rope_factor = r->factor};
    int in[2], out[AM_MAX_OUT];
    if (r->cos >= 0) goto done;
    AM_TRY(am_graph_input(e->g, "pos", &in[0]));
    AM_TRY(am_graph_constant(e->g, "inv_freq", r->inv_freq, r->num, &in[1]));
    am_graph_at(e->g, -1, pos.line, pos.column);
    AM_TRY(am_graph_apply(e->g, "rope_angles", in, 2, &attrs, out));
    r->cos = out[0];
    r->sin = out[1];
done:
    return st;
}
