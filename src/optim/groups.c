/* AdamW's hyper-parameters per parameter: the overrides of a recipe, as compiled patterns in their order. */
#define PCRE2_CODE_UNIT_WIDTH 8
#include <math.h>
#include <pcre2.h>
#include <string.h>

#include "optim/optim.h"

typedef struct compiled {
    pcre2_code *code;
    char *pattern;
    double lr_mult, wd_mult;
    int64_t matched;
} compiled;

struct am_optim_groups {
    am_adamw base;
    size_t n;
    compiled *list;
    pcre2_match_data *match;
};

am_adamw am_adamw_default(void)
{
    return (am_adamw){.lr = 1e-3, .beta1 = 0.9, .beta2 = 0.999, .eps = 1e-8, .weight_decay = 0.01};
}

am_status am_adamw_check(const am_adamw *a)
{
    am_status st = AM_OK;
    AM_CHECK(a->lr >= 0 && isfinite(a->lr), AM_ERR_CONFIG,
             "optimizer: lr is %g; it must be a number, at least 0", a->lr);
    AM_CHECK(a->beta1 >= 0 && a->beta1 < 1 && a->beta2 >= 0 && a->beta2 < 1, AM_ERR_CONFIG,
             "optimizer: betas are [%g, %g]; both must be at least 0 and below 1", a->beta1, a->beta2);
    AM_CHECK(a->eps >= 0 && isfinite(a->eps), AM_ERR_CONFIG,
             "optimizer: eps is %g; it must be a number, at least 0", a->eps);
    AM_CHECK(a->weight_decay >= 0 && isfinite(a->weight_decay), AM_ERR_CONFIG,
             "optimizer: weight_decay is %g; it must be a number, at least 0", a->weight_decay);
done:
    return st;
}

static am_status compile(const am_optim_override *o, compiled *out)
{
    am_status st = AM_OK;
    int code;
    PCRE2_SIZE at;
    unsigned char text[128];
    AM_CHECK(o->lr_mult >= 0 && isfinite(o->lr_mult) && o->wd_mult >= 0 && isfinite(o->wd_mult),
             AM_ERR_CONFIG,
             "optimizer.param_group_overrides: pattern '%s' has lr_mult %g and wd_mult %g; both must be "
             "numbers, at least 0",
             o->pattern, o->lr_mult, o->wd_mult);
    out->lr_mult = o->lr_mult;
    out->wd_mult = o->wd_mult;
    AM_TRY(am_strdup(o->pattern, &out->pattern));
    out->code = pcre2_compile((PCRE2_SPTR)o->pattern, PCRE2_ZERO_TERMINATED, PCRE2_UTF, &code, &at, NULL);
    if (out->code) return AM_OK;
    pcre2_get_error_message(code, text, sizeof text);
    AM_FAIL(AM_ERR_CONFIG,
            "optimizer.param_group_overrides: pattern '%s' is wrong at character %zu: %s; it is a regular "
            "expression that is "
            "searched anywhere in a parameter's name: write 'router', not '*router*'",
            o->pattern, (size_t)at + 1, (const char *)text);
done:
    return st;
}

am_status am_optim_groups_create(const am_adamw *base, const am_optim_override *overrides, size_t n,
                                 am_optim_groups **out)
{
    am_status st = AM_OK;
    am_optim_groups *g = NULL;
    AM_TRY(am_adamw_check(base));
    AM_TRY(am_calloc(1, sizeof *g, &g));
    g->base = *base;
    AM_TRY(am_calloc(n ? n : 1, sizeof *g->list, &g->list));
    g->match = pcre2_match_data_create(1, NULL);
    AM_CHECK(g->match, AM_ERR_MEMORY, "no memory for %zu patterns", n);
    for (g->n = 0; g->n < n;) {
        g->n++;
        AM_TRY(compile(&overrides[g->n - 1], &g->list[g->n - 1]));
    }
    *out = g;
    g = NULL;
done:
    am_optim_groups_free(&g);
    return st;
}

void am_optim_groups_free(am_optim_groups **gp)
{
    am_optim_groups *g = gp ? *gp : NULL;
    if (!g) return;
    for (size_t i = 0; i < g->n; i++) {
        pcre2_code_free(g->list[i].code);
        am_free(&g->list[i].pattern);
    }
    pcre2_match_data_free(g->match);
    am_free(&g->list);
    am_free(gp);
}

am_status am_optim_groups_find(am_optim_groups *g, const char *name, am_optim_group *out)
{
    am_status st = AM_OK;
    *out = (am_optim_group){0, 1.0, g->base.weight_decay};
    for (size_t i = 0; i < g->n; i++) {
        compiled *c = &g->list[i];
        int rc = pcre2_match(c->code, (PCRE2_SPTR)name, PCRE2_ZERO_TERMINATED, 0, 0, g->match, NULL);
        if (rc == PCRE2_ERROR_NOMATCH) continue;
        AM_CHECK(rc >= 0, AM_ERR_CONFIG,
                 "optimizer.param_group_overrides: pattern '%s' cannot be searched in '%s' (PCRE2 error %d); "
                 "simplify it",
                 c->pattern, name, rc);
        c->matched++;
        *out = (am_optim_group){(int)i + 1, c->lr_mult, g->base.weight_decay * c->wd_mult};
        break;
    }
done:
    return st;
}

int64_t am_optim_groups_matched(const am_optim_groups *g, size_t i)
{
    return i >= 1 && i <= g->n ? g->list[i - 1].matched : 0;
}
