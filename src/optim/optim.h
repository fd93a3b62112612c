/* optim: what the optimizer operators are told: the learning rate as a pure function of the step, and AdamW's
 * hyper-parameters for every parameter.  The update itself is the kernel `adamw`; nothing here holds state, so a resumed
 * run needs only its step number. */
#ifndef AM_OPTIM_H
#define AM_OPTIM_H

#include "base/base.h"

/* ---- learning rate ------------------------------------------------------------------------------------ */

/* X(enumerator, the word in a recipe's lr_scheduler.lr_decay_style) */
#define AM_LR_STYLES(X)                                                                       \
    X(CONSTANT, "constant") X(LINEAR, "linear") X(COSINE, "cosine")                           \
    X(INVERSE_SQUARE_ROOT, "inverse-square-root") X(WSD, "WSD")
typedef enum am_lr_style {
#define X(e, name) AM_LR_##e,
    AM_LR_STYLES(X)
#undef X
    AM_LR_STYLE_COUNT
} am_lr_style;

/* X(enumerator, the word in lr_wsd_decay_style) */
#define AM_WSD_STYLES(X)                                                                      \
    X(LINEAR, "linear") X(COSINE, "cosine") X(EXPONENTIAL, "exponential") X(MINUS_SQRT, "minus_sqrt")
typedef enum am_wsd_style {
    AM_WSD_NONE, /* not given */
#define X(e, name) AM_WSD_##e,
    AM_WSD_STYLES(X)
#undef X
    AM_WSD_STYLE_COUNT
} am_wsd_style;

/* The keys of lr_scheduler, with the meaning they have in Automodel (its OptimizerParamScheduler, which is Megatron's). */
typedef struct am_lr_schedule {
    double       init_lr, max_lr, min_lr; /* before the warm-up; after it; at the end.  0 <= min <= max, init <= max */
    int64_t      warmup_steps;            /* linear from init_lr to max_lr; 0 <= warmup_steps < decay_steps */
    int64_t      decay_steps;             /* counted from step 0, warm-up included; from then on min_lr */
    am_lr_style  style;
    int64_t      wsd_decay_steps; /* WSD: the last so many of decay_steps are the decay; negative: not given */
    am_wsd_style wsd_style;       /* WSD: its shape */
} am_lr_schedule;

/** The word of a recipe as an enumerator; false when it is none. */
bool am_lr_style_parse(const char *word, am_lr_style *out);
bool am_wsd_style_parse(const char *word, am_wsd_style *out);
const char *am_lr_style_name(am_lr_style s);

/** A recipe without a section lr_scheduler: always lr. */
am_lr_schedule am_lr_constant(double lr);
/** What Automodel fills in for keys the section lr_scheduler leaves out: cosine over total_steps from lr to lr/100, warm-up
 *  from lr/10 over min(1000, total_steps/10) steps. */
am_lr_schedule am_lr_default(double lr, int64_t total_steps);
/** @return AM_ERR_CONFIG naming key and value that do not fit together. */
am_status am_lr_check(const am_lr_schedule *s) AM_WARN_UNUSED;

/** Learning rate of the update that follows `step` updates: the first update of a run uses step 0, so init_lr when there
 *  is a warm-up.  With w = warmup_steps, n = decay_steps, r = (step - w)/(n - w):
 *    step <= w, w > 0       init + (max - init)·step/w
 *    constant               max
 *    step > n               min
 *    linear, cosine         min + (max - min)·(1 - r),  min + (max - min)·(1 + cos πr)/2
 *    inverse-square-root    max(min, max·√max(w, 1)/√step)
 *    WSD                    max until n - wsd_decay_steps; then min + (max - min)·f(u), u the fraction of the decay done:
 *                           linear 1 - u, cosine (1 + cos πu)/2, exponential 2·0.5^u - 1, minus_sqrt 1 - √u
 *  Precondition: am_lr_check(s) is AM_OK and step >= 0. */
double am_lr_at(const am_lr_schedule *s, int64_t step);

/* ---- AdamW per parameter -------------------------------------------------------------------------------- */

/* torch.optim.AdamW's arguments; am_adamw_default() gives torch's defaults. */
typedef struct am_adamw {
    double lr, beta1, beta2, eps, weight_decay;
} am_adamw;
am_adamw am_adamw_default(void);
/** @return AM_ERR_CONFIG naming the value out of range. */
am_status am_adamw_check(const am_adamw *a) AM_WARN_UNUSED;

/* One entry of optimizer.param_group_overrides. */
typedef struct am_optim_override {
    const char *pattern; /* regular expression, searched anywhere in the parameter's name, as Automodel does ("router") */
    double      lr_mult, wd_mult;
} am_optim_override;

/* The hyper-parameters of one parameter. */
typedef struct am_optim_group {
    int    index;        /* 0: no pattern matched; i: the i-th override, counted from 1 */
    double lr_mult;      /* factor of am_lr_at */
    double weight_decay; /* wd_mult is in it already */
} am_optim_group;

typedef struct am_optim_groups am_optim_groups;

/** Compile the overrides; copies what it keeps.
 *  @return AM_ERR_CONFIG with the pattern and the place in it where it is wrong, or a factor that is negative or no number. */
am_status am_optim_groups_create(const am_adamw *base, const am_optim_override *overrides, size_t n,
                                 am_optim_groups **out) AM_WARN_UNUSED;
void      am_optim_groups_free(am_optim_groups **g);
/** The first override whose pattern is found in `name` decides; none: factors 1. */
am_status am_optim_groups_find(am_optim_groups *g, const char *name, am_optim_group *out) AM_WARN_UNUSED;
/** Override i (from 1) was found in how many names so far: 0 after all parameters were asked for deserves a warning. */
int64_t am_optim_groups_matched(const am_optim_groups *g, size_t i);

#endif
