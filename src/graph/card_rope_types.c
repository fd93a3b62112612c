/* card_rope_types: the tables of frequencies, a row for each rope_type: linear (Chen et al. 2023), dynamic NTK (emozilla
 * 2023), YaRN (Peng et al. 2023), LongRoPE (Ding et al. 2024), Llama 3.1's, and Gemma 4's proportional.
 * Arithmetic as transformers has it: exponents, frequencies and ramps in fp32, what is formed of the keys alone in double. */
#include "graph/card_rope.h"
#include "graph/graph_internal.h"

#include <math.h>
#include <string.h>

/* ---- keys ----------------------------------------------------------------------------------------------- */

static const card_val *given(const rope_reader *r, const char *key)
{
    const card_val *v = card_map_get(&r->map, key);
    return v && v->kind != CARD_V_NONE ? v : NULL;
}

static am_status number(rope_reader *r, const char *key, double fallback, double *out)
{
    am_status st = AM_OK;
    const card_val *v = given(r, key);
    *out = fallback;
    if (!v) goto done;
    CARD_CHECK(card_is_number(v), r->pos, "%s.%s of %s must be a number, not %s", r->name, key,
               r->e->model->config_path, card_kind_text(v->kind));
    *out = card_number(v);
done:
    return st;
}

static am_status required(rope_reader *r, const char *key, double *out)
{
    am_status st = AM_OK;
    const card_val *v = given(r, key);
    CARD_CHECK(v && card_is_number(v), r->pos, "%s.%s = \"%s\" needs the number %s.%s in %s", r->name,
               r->type_key, r->type, r->name, key, r->e->model->config_path);
    *out = card_number(v);
    CARD_CHECK(*out > 0, r->pos, "%s.%s of %s must be above 0", r->name, key, r->e->model->config_path);
done:
    return st;
}

/* Of config.json itself. */
static am_status top_number(rope_reader *r, const char *key, double *out)
{
    const card_val *v = card_map_get(&r->e->config, key);
    *out = v && card_is_number(v) ? card_number(v) : 0;
    return AM_OK;
}

/* A top-level key wins; max_position_embeddings stands in where nothing says more. */
static am_status original_positions(rope_reader *r, double *out)
{
    am_status st = AM_OK;
    AM_TRY(top_number(r, "original_max_position_embeddings", out));
    if (*out <= 0) AM_TRY(number(r, "original_max_position_embeddings", 0, out));
    if (*out <= 0) AM_TRY(top_number(r, "max_position_embeddings", out));
    CARD_CHECK(*out > 0, r->pos, "%s.%s = \"%s\" needs %s.original_max_position_embeddings in %s", r->name,
               r->type_key, r->type, r->name, r->e->model->config_path);
done:
    return st;
}

/* factor, or else how often the original length fits into the present one. */
static am_status factor_or_ratio(rope_reader *r, double original, double *out)
{
    am_status st = AM_OK;
    double positions = 0;
    if (given(r, "factor")) return required(r, "factor", out);
    AM_TRY(top_number(r, "max_position_embeddings", &positions));
    CARD_CHECK(positions > 0, r->pos, "%s.%s = \"%s\" needs %s.factor or max_position_embeddings in %s", r->name,
               r->type_key, r->type, r->name, r->e->model->config_path);
    *out = positions / original;
done:
    return st;
}

/* ---- tables --------------------------------------------------------------------------------------------- */

static am_status scale_linear(rope_reader *r, card_rope *t)
{
    am_status st = AM_OK;
    double factor = 0;
    AM_TRY(required(r, "factor", &factor));
    for (int64_t k = 0; k < t->num; k++) t->inv_freq[k] = (double)((float)t->inv_freq[k] / (float)factor);
done:
    return st;
}

static am_status scale_llama3(rope_reader *r, card_rope *t)
{
    am_status st = AM_OK;
    double factor = 0, low = 0, high = 0, original = 0;
    AM_TRY(required(r, "factor", &factor));
    AM_TRY(required(r, "low_freq_factor", &low));
    AM_TRY(required(r, "high_freq_factor", &high));
    AM_TRY(original_positions(r, &original));
    CARD_CHECK(high > low, r->pos, "%s.high_freq_factor of %s must be above low_freq_factor", r->name,
               r->e->model->config_path);
    for (int64_t k = 0; k < t->num; k++) {
        float inv = (float)t->inv_freq[k], length = (float)(2 * M_PI) / inv;
        float smooth = ((float)original / length - (float)low) / (float)(high - low);
        if ((double)length > original / low)
            t->inv_freq[k] = (double)(inv / (float)factor);
        else if (!((double)length < original / high))
            t->inv_freq[k] = (double)((1 - smooth) * inv / (float)factor + smooth * inv);
    }
done:
    return st;
}

/* theta^(2k/dim) */
static float power(double theta, int64_t k, int64_t dim)
{
    return (float)pow(theta, (double)((float)(2 * k) / (float)dim));
}

/* The frequencies follow the length of a text, beyond the model's: up to there they are the plain ones. */
static am_status scale_dynamic(rope_reader *r, card_rope *t)
{
    am_status st = AM_OK;
    double factor = 0, positions = 0, length = (double)r->e->g->seq_len;
    AM_TRY(required(r, "factor", &factor));
    AM_TRY(top_number(r, "max_position_embeddings", &positions));
    CARD_CHECK(positions <= 0 || length <= positions, r->pos,
               "%s.%s = \"dynamic\": beyond max_position_embeddings = %.0f every length of text has frequencies of its own, "
               "and rows of %.0f tokens are asked for: take shorter rows, or yarn",
               r->name, r->type_key, positions, length);
    (void)t;
done:
    return st;
}

static double yarn_scale(double factor, double m) { return factor <= 1 ? 1 : 0.1 * m * log(factor) + 1; }

static am_status yarn_attention(rope_reader *r, double factor, double *out)
{
    am_status st = AM_OK;
    double m = 0, all = 0;
    AM_TRY(number(r, "mscale", 0, &m));
    AM_TRY(number(r, "mscale_all_dim", 0, &all));
    double own = m != 0 && all != 0 ? yarn_scale(factor, m) / yarn_scale(factor, all) : yarn_scale(factor, 1);
    AM_TRY(number(r, "attention_factor", own, out));
done:
    return st;
}

/* The pair that turns `rotations` times over the original length. */
static double yarn_pair(const rope_reader *r, const card_rope *t, double rotations, double original)
{
    return (double)t->dim * log(original / (rotations * 2 * M_PI)) / (2 * log(r->theta));
}

/* Fast pairs stay, slow ones are stretched, a ramp between. */
static am_status scale_yarn(rope_reader *r, card_rope *t)
{
    am_status st = AM_OK;
    double factor = 0, original = 0, fast = 0, slow = 0;
    const card_val *cut = given(r, "truncate");
    bool truncate = !cut || cut->kind != CARD_V_BOOL || cut->i;
    AM_TRY(original_positions(r, &original));
    AM_TRY(factor_or_ratio(r, original, &factor));
    AM_TRY(number(r, "beta_fast", 32, &fast));
    AM_TRY(number(r, "beta_slow", 1, &slow));
    AM_TRY(yarn_attention(r, factor, &t->factor));
    CARD_CHECK(fast > 0 && slow > 0 && r->theta != 1, r->pos, "%s: beta_fast and beta_slow of %s must be above 0",
               r->name, r->e->model->config_path);
    double low = yarn_pair(r, t, fast, original), high = yarn_pair(r, t, slow, original);
    low = fmax(truncate ? floor(low) : low, 0);
    high = fmin(truncate ? ceil(high) : high, (double)(t->dim - 1));
    if (low == high) high += 0.001;
    for (int64_t k = 0; k < t->num; k++) {
        float ramp = fminf(fmaxf(((float)k - (float)low) / (float)(high - low), 0), 1), keep = 1 - ramp;
        float turn = power(r->theta, k, t->dim);
        t->inv_freq[k] = (double)(1 / ((float)factor * turn) * (1 - keep) + 1 / turn * keep);
    }
done:
    return st;
}

/* A factor of its own for each pair: one list up to the original length, another beyond it. */
static am_status scale_longrope(rope_reader *r, card_rope *t)
{
    am_status st = AM_OK;
    double original = 0, factor = 0;
    AM_TRY(original_positions(r, &original));
    AM_TRY(factor_or_ratio(r, original, &factor));
    AM_TRY(number(r, "attention_factor", factor <= 1 ? 1 : sqrt(1 + log(factor) / log(original)), &t->factor));
    const char *key = (double)r->e->g->seq_len > original ? "long_factor" : "short_factor";
    const card_val *list = given(r, key);
    CARD_CHECK(list && list->kind == CARD_V_LIST && list->num == t->num, r->pos,
               "%s.%s of %s must be a list of %" PRId64 " numbers, one for each pair", r->name, key,
               r->e->model->config_path, t->num);
    for (int64_t k = 0; k < t->num; k++) {
        CARD_CHECK(card_is_number(&list->item[k]), r->pos, "%s.%s of %s holds something that is no number", r->name,
                   key, r->e->model->config_path);
        t->inv_freq[k] = (double)(1 / ((float)card_number(&list->item[k]) * power(r->theta, k, t->dim)));
    }
done:
    return st;
}

/* Exponents over the whole width; only the first part of the pairs turns. */
static am_status scale_proportional(rope_reader *r, card_rope *t)
{
    am_status st = AM_OK;
    double factor = 0;
    int64_t turned = (int64_t)(r->partial * (double)r->width) / 2;
    AM_TRY(number(r, "factor", 1, &factor));
    for (int64_t k = 0; k < t->num; k++)
        t->inv_freq[k] = k < turned ? (double)(1 / power(r->theta, k, t->dim) / (float)factor) : 0;
done:
    return st;
}

#define YARN_KEYS                                                                                                  \
    "factor", "attention_factor", "mscale", "mscale_all_dim", "beta_fast", "beta_slow", "truncate",                \
        "original_max_position_embeddings", "max_position_embeddings", "llama_4_scaling_beta" /* cards read this */
#define LONG_KEYS                                                                                         \
    "factor", "attention_factor", "short_factor", "long_factor", "original_max_position_embeddings",      \
        "short_mscale", "long_mscale" /* cards read these */

static const rope_type types[] = {
    {"default", {"mrope_section", "mrope_interleaved"}, NULL, false}, /* of text alone all sections are equal */
    {"mrope", {"mrope_section", "mrope_interleaved"}, NULL, false},
    {"linear", {"factor"}, scale_linear, false},
    {"dynamic", {"factor", "original_max_position_embeddings"}, scale_dynamic, false},
    {"llama3",
     {"factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"},
     scale_llama3,
     false},
    {"yarn", {YARN_KEYS}, scale_yarn, false},
    {"longrope", {LONG_KEYS}, scale_longrope, false},
    {"su", {LONG_KEYS}, scale_longrope, false}, /* longrope's first name */
    {"proportional", {"factor"}, scale_proportional, true},
};

const rope_type *card_rope_type(const char *name)
{
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++)
        if (strcmp(types[i].name, name) == 0) return &types[i];
    return NULL;
}
