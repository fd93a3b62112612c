/* Learning rates: see the table at am_lr_at in optim.h. */
#include <math.h>
#include <string.h>

#include "optim/optim.h"

static const char *const lr_names[] = {
#define X(e, name) name,
    AM_LR_STYLES(X)
#undef X
};

bool am_lr_style_parse(const char *word, am_lr_style *out)
{
    for (int i = 0; i < AM_LR_STYLE_COUNT; i++)
        if (!strcmp(word, lr_names[i])) {
            *out = (am_lr_style)i;
            return true;
        }
    return false;
}

bool am_wsd_style_parse(const char *word, am_wsd_style *out)
{
#define X(e, name)                                                                                           \
    if (!strcmp(word, name)) {                                                                               \
        *out = AM_WSD_##e;                                                                                   \
        return true;                                                                                         \
    }
    AM_WSD_STYLES(X)
#undef X
    return false;
}

const char *am_lr_style_name(am_lr_style s)
{
    return (unsigned)s < AM_LR_STYLE_COUNT ? lr_names[s] : "?";
}

am_lr_schedule am_lr_constant(double lr)
{
    return (am_lr_schedule){
        .init_lr = lr, .max_lr = lr, .min_lr = 0, .decay_steps = 1, .wsd_decay_steps = -1};
}

am_lr_schedule am_lr_default(double lr, int64_t total_steps)
{
    return (am_lr_schedule){.init_lr = lr * 0.1,
                            .max_lr = lr,
                            .min_lr = lr * 0.01,
                            .style = AM_LR_COSINE,
                            .warmup_steps = am_min_i64(1000, total_steps / 10),
                            .decay_steps = total_steps,
                            .wsd_decay_steps = -1};
}

am_status am_lr_check(const am_lr_schedule *s)
{
    am_status st = AM_OK;
    AM_CHECK(s->min_lr >= 0 && isfinite(s->max_lr), AM_ERR_CONFIG,
             "lr_scheduler: min_lr is %g and the learning rate %g; both must be numbers, min_lr at least 0",
             s->min_lr, s->max_lr);
    AM_CHECK(s->min_lr <= s->max_lr, AM_ERR_CONFIG,
             "lr_scheduler: min_lr %g is above the learning rate %g; lower min_lr", s->min_lr, s->max_lr);
    AM_CHECK(s->init_lr <= s->max_lr && isfinite(s->init_lr), AM_ERR_CONFIG,
             "lr_scheduler: init_lr %g is above the learning rate %g; a warm-up only rises", s->init_lr,
             s->max_lr);
    AM_CHECK(s->decay_steps > 0, AM_ERR_CONFIG,
             "lr_scheduler: lr_decay_steps is %" PRId64 "; it must be at least 1", s->decay_steps);
    AM_CHECK(s->warmup_steps >= 0 && s->warmup_steps < s->decay_steps, AM_ERR_CONFIG,
             "lr_scheduler: lr_warmup_steps %" PRId64 " must be at least 0 and below lr_decay_steps %" PRId64
             " (which counts the warm-up)",
             s->warmup_steps, s->decay_steps);
    AM_CHECK((unsigned)s->style < AM_LR_STYLE_COUNT, AM_ERR_INTERNAL, "lr_scheduler: style %d is unknown",
             (int)s->style);
    if (s->style != AM_LR_WSD) return AM_OK;
    AM_CHECK(s->wsd_decay_steps >= 0 && s->wsd_decay_steps <= s->decay_steps, AM_ERR_CONFIG,
             "lr_scheduler: lr_decay_style WSD needs wsd_decay_steps between 0 and lr_decay_steps %" PRId64
             ", it is %" PRId64,
             s->decay_steps, s->wsd_decay_steps);
    AM_CHECK(s->wsd_style > AM_WSD_NONE && s->wsd_style < AM_WSD_STYLE_COUNT, AM_ERR_CONFIG,
             "lr_scheduler: lr_decay_style WSD needs lr_wsd_decay_style: linear, cosine, exponential or "
             "minus_sqrt");
done:
    return st;
}

static double cosine(double r)
{
    return 0.5 * (1.0 + cos(3.14159265358979323846 * r));
}

static double wsd_factor(const am_lr_schedule *s, int64_t step)
{
    int64_t start = s->decay_steps - s->wsd_decay_steps;
    if (step <= start) return 1.0;
    double u = (double)(step - start) / (double)s->wsd_decay_steps;
    switch (s->wsd_style) {
    case AM_WSD_COSINE:
        return cosine(u);
    case AM_WSD_EXPONENTIAL:
        return 2.0 * pow(0.5, u) - 1.0;
    case AM_WSD_MINUS_SQRT:
        return 1.0 - sqrt(u);
    default:
        return 1.0 - u;
    }
}

double am_lr_at(const am_lr_schedule *s, int64_t step)
{
    double w = (double)s->warmup_steps, factor;
    if (s->warmup_steps > 0 && step <= s->warmup_steps)
        return s->init_lr + (s->max_lr - s->init_lr) * (double)step / w;
    if (s->style == AM_LR_CONSTANT) return s->max_lr;
    if (step > s->decay_steps) return s->min_lr;
    if (s->style == AM_LR_INVERSE_SQUARE_ROOT)
        return fmax(s->min_lr, s->max_lr * sqrt(fmax(w, 1)) / sqrt(fmax((double)step, 1)));
    double r = (double)(step - s->warmup_steps) / (double)(s->decay_steps - s->warmup_steps);
    if (s->style == AM_LR_LINEAR)
        factor = 1.0 - r;
    else
        factor = s->style == AM_LR_COSINE ? cosine(r) : wsd_factor(s, step);
    return s->min_lr + factor * (s->max_lr - s->min_lr);
}
