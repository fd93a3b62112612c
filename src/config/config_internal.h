/* Private to config: the document tree, the rows of the option tables, the resolved tree.
 * Read in this order: document.c (YAML → nodes), override.c, environment.c, sections.c and table_*.c (the tables),
 * target.c (`_target_`), value.c, bind.c (nodes + tables → values; unknown.c), relations.c (checks across options),
 * config.c (getters), print.c (dump, help, reference). */
#ifndef AM_CONFIG_INTERNAL_H
#define AM_CONFIG_INTERNAL_H

#include "config/config.h"

#include <stdatomic.h>

/* ---- document ---- */

enum { AM_DOC_MAX_DEPTH = 32, AM_DOC_MAX_NODES = 100000, AM_DOC_MAX_BYTES = 1 << 20 };

typedef enum am_node_kind { AM_NODE_SCALAR, AM_NODE_SEQUENCE, AM_NODE_MAPPING } am_node_kind;

/* 1-based line and column in the file; `argument` instead for what came from the command line ("--a.b"). */
typedef struct am_mark {
    int         line, column;
    const char *argument;
} am_mark;

typedef struct am_node am_node;
typedef struct am_pair {
    am_node *key; /* always a scalar */
    am_node *value;
} am_pair;

struct am_node {
    am_node_kind kind;
    am_mark      mark;
    bool         plain; /* scalar without quotes: may mean null, true, a number */
    char        *text;
    am_node    **items; /* sequence */
    am_pair     *pairs; /* mapping, in the order of the file */
    size_t       count, cap;
    am_node     *next; /* all nodes of the document, for freeing */
};

typedef struct am_document {
    char    *name; /* of the file, for positions */
    am_node *root; /* a mapping */
    am_node *all;
    size_t   num_nodes;
    char   **arguments; /* owned texts of marks */
    size_t   num_arguments, cap_arguments;
} am_document;

am_status am_document_parse(const char *text, size_t len, const char *name, am_document *out) AM_WARN_UNUSED;
void      am_document_release(am_document *doc);
am_status am_document_node(am_document *doc, am_node_kind kind, am_mark mark, am_node **out) AM_WARN_UNUSED;
am_status am_document_scalar(am_document *doc, const char *text, bool plain, am_mark mark, am_node **out) AM_WARN_UNUSED;
am_status am_node_add_item(am_node *seq, am_node *item) AM_WARN_UNUSED;
am_status am_node_set(am_node *map, am_node *key, am_node *value) AM_WARN_UNUSED; /* add or replace */
am_pair  *am_node_find(const am_node *map, const char *key);
bool      am_node_is_null(const am_node *n); /* plain null, Null, ~, none, None or nothing */
/** "file:line:column" or "command line, --a.b.c", in one of four rotating buffers of this thread. */
const char *am_mark_text(const am_document *doc, am_mark mark);

/** Apply `--a.b.c value` arguments to the document. */
am_status am_override_apply(am_document *doc, int num_args, const char *const *args) AM_WARN_UNUSED;
/** Replace ${…} in `text`; the result belongs to the caller. */
am_status am_environment_expand(const am_document *doc, am_mark mark, const char *text, char **out) AM_WARN_UNUSED;

/* ---- tables ---- */

/* X(enumerator, what a person reads) */
#define AM_OPTION_TYPES(X)                                                                                     \
    X(BOOL, "true or false") X(INT, "whole number") X(FLOAT, "number") X(STRING, "text") X(ENUM, "one of")       \
    X(DTYPE, "dtype") X(STRINGS, "list of texts") X(FLOATS, "list of numbers") X(TARGET, "_target_")            \
    X(RECORDS, "list of maps")
typedef enum am_option_type {
#define X(e, text) AM_OPTION_##e,
    AM_OPTION_TYPES(X)
#undef X
} am_option_type;

typedef enum am_effect {
    AM_EFFECT_USED,    /* its values in `off` are refused with `remedy` */
    AM_EFFECT_NONE,    /* accepted, listed, not looked at */
    AM_EFFECT_REFUSED, /* an error with `remedy`, except for null and the values in `off` */
} am_effect;

typedef struct am_target am_target;
typedef struct am_option am_option;

/* One row.  `key` may hold dots (maps in the recipe) and, for rows that are not used, the wildcards of am_glob_match.
 * Rows are written through the macros below. */
struct am_option {
    const char      *key;
    am_option_type   type;
    const char      *default_text; /* as written in YAML; NULL: null */
    const char      *units;
    const char      *range;  /* numbers and each item of FLOATS: "[0, 1)", "(0, inf)" */
    const char      *values; /* ENUM: "a|b|c" */
    const char      *help;
    am_effect        effect;
    const char      *remedy; /* NONE: why; REFUSED: what to write instead */
    const char      *off;    /* REFUSED: values that ask for nothing, "false|0"; each may be a glob */
    const char      *alias;  /* only another spelling of this path: "rng.seed", or ".key" of the same section */
    const char      *map;    /* words that mean another one: "true=full|false=none" */
    const char      *null_text; /* what a written null means, when not the default */
    const am_target *targets; /* TARGET: the names taken */
    const am_option *fields;  /* RECORDS: the rows of one map */
    size_t           count;   /* FLOATS: required number of items, 0 = any */
    bool             required; /* when the section is there */
    bool             conditional; /* read by the program only in some layouts: not reported by am_config_unread */
};

/* rows */
#define AM_OPT(k, t, d, h, ...) {.key = k, .type = AM_OPTION_##t, .default_text = d, .help = h, ##__VA_ARGS__}
#define AM_OPT_NO_EFFECT(k, why) {.key = k, .effect = AM_EFFECT_NONE, .remedy = why}
#define AM_OPT_REFUSED(k, offs, what) {.key = k, .effect = AM_EFFECT_REFUSED, .off = offs, .remedy = what}
#define AM_OPT_ALIAS(k, path, ...) {.key = k, .alias = path, ##__VA_ARGS__}

/* A name that `_target_` may have.  `name` is compared with the last components of what the recipe says, `roots` with the
 * first one ("nemo_automodel|torch"); the bare name is taken too. */
struct am_target {
    const char      *name;
    const char      *roots;
    const char      *example; /* how recipes spell it */
    const char      *remedy;  /* refused: what to write instead */
    const char      *help;
    const am_option *options; /* ends with a row without key; NULL: the section's own */
};

typedef struct am_section {
    const char      *name; /* "optimizer"; "" the scalars at top level; may be a glob: "validation_dataset*" */
    const char      *help;
    const am_option *options;        /* of every target */
    const am_target *targets;        /* ends with a row without name; NULL: the section has no `_target_` */
    const char      *default_target; /* NULL: `_target_` must be written */
    am_effect        effect;
    const char      *remedy;
    const char      *enabled_key; /* REFUSED: only when this key is true */
} am_section;

extern const am_section am_sections[]; /* ends with a row without name */
/* tables by group (table_*.c) */
extern const am_option am_options_top[], am_options_step_scheduler[], am_options_dist_env[], am_options_rng[],
    am_options_run[], am_options_clip_grad_norm[], am_options_checkpoint[], am_options_model[],
    am_options_freeze_config[], am_options_distributed[], am_options_optimizer[], am_options_lr_scheduler[],
    am_options_loss_fn[], am_options_dataset[], am_options_packed_sequence[], am_options_dataloader[],
    am_options_validation_dataloader[];
extern const am_target am_targets_rng[], am_targets_model[], am_targets_distributed[], am_targets_optimizer[],
    am_targets_lr_scheduler[], am_targets_loss_fn[], am_targets_dataset[], am_targets_dataloader[],
    am_targets_recipe[], am_targets_tokenizer[], am_targets_auto_config[];

const am_section *am_section_find(const char *name); /* globs are matched; NULL when unknown */
/** The row for `key`: exact, else the first glob that matches; in the target's table, then in the section's. */
const am_option  *am_option_find(const am_section *s, const am_target *t, const char *key);
bool              am_option_is_prefix(const am_section *s, const am_target *t, const char *key); /* some row is "key.…" */
/** Compare `path` with the names in `targets`.  NULL when none fits. */
const am_target  *am_target_match(const am_target *targets, const char *path);
/** The sentence about a `_target_` that is unknown or refused. */
am_status am_target_refuse(const am_document *doc, am_mark mark, const char *where, const am_target *targets,
                           const char *path) AM_WARN_UNUSED;
/** Is `word` one of "a|b|c"?  With `glob`, entries may hold wildcards. */
bool am_in_list(const char *list, const char *word, bool glob);
/** Is x inside "[a, b)"? */
bool        am_in_range(const char *range, double x);
const char *am_option_type_name(am_option_type t);

/* ---- resolved tree ---- */

typedef struct am_value {
    char            *path;
    const am_option *option;
    bool             given, is_null;
    am_mark          mark;
    char            *where;
    bool             b;
    int64_t          i;
    double           f;
    am_dtype         dtype;
    char            *s;
    char           **items;
    double          *numbers; /* of FLOATS, as many as items */
    size_t           count, cap_items, cap_numbers;
    bool             is_field; /* of a map in a list */
    atomic_bool      read;
} am_value;

typedef struct am_bound_section {
    char             *name;
    const am_section *section;
    const am_target  *target;
    bool              given;
} am_bound_section;

struct am_config {
    am_document       doc;
    am_value        **values;
    size_t            num_values, cap_values;
    am_bound_section *sections;
    size_t            num_sections, cap_sections;
    char            **ignored;
    size_t            num_ignored, cap_ignored;
    atomic_int        defects;
};

am_status am_config_bind(am_config *cfg) AM_WARN_UNUSED;
/** `name` is the section as the recipe spells it, `key` what follows it; always AM_ERR_CONFIG or AM_ERR_MEMORY. */
am_status am_config_unknown_key(const am_document *doc, const am_section *section, const am_target *target,
                                const char *name, const char *key, am_mark mark) AM_WARN_UNUSED;
am_status am_config_unknown_section(const am_document *doc, const char *name, am_mark mark) AM_WARN_UNUSED;
am_status am_config_check_relations(am_config *cfg) AM_WARN_UNUSED;
am_value *am_config_find(const am_config *cfg, const char *path);
/** Give `v` the value of a scalar's text: type and range are checked.  `v->path` and `v->mark` name it in errors. */
am_status am_value_set_scalar(const am_document *doc, am_value *v, const char *text, bool plain) AM_WARN_UNUSED;
am_status am_value_add_item(const am_document *doc, am_value *v, const char *text, am_mark mark) AM_WARN_UNUSED;
void      am_value_clear(am_value *v); /* back to null */
void      am_value_free(am_value **v);
bool      am_text_is_null(const char *text, bool plain);
bool      am_text_parse_bool(const char *text, bool *out);

#endif
