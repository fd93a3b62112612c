/* config: the recipe (YAML + environment + command line) checked against tables of options and resolved into a flat tree
 * of typed values; and the one parser of every subcommand's own options.
 *
 * Life of a value:  recipe.yaml ─ events ─► document (line:column of every node) ─ overrides ─► bind to the tables
 * (sections.c, table_*.c: one row an option: key, type, default, units, range, help) ─► am_config: "section.key" → value.
 * Nothing in a recipe is ignored in silence.  A key is either an option, or listed in a table as having no effect here
 * (am_config_ignored tells which were met), or refused by name with what to write instead, or an error with a did-you-mean.
 *
 * Paths are "section.key" ("step_scheduler.global_batch_size"), deeper where the recipe is ("distributed.mp_policy.param_dtype"),
 * "section.key.INDEX.field" in a list of maps ("optimizer.param_group_overrides.0.lr_mult"), and a bare name for the scalars
 * at top level ("seed").  docs/options.md, printed by am_config_print_reference, lists all of them. */
#ifndef AM_CONFIG_H
#define AM_CONFIG_H

#include "base/base.h"

typedef struct am_config am_config;

/* ---- reading a recipe ----------------------------------------------------------------------------- */

/** Read, override, check, resolve.
 *  @param path  YAML file of at most 1 MiB: one document, no tags, no duplicate keys, depth <= 32, <= 100,000 nodes after
 *               aliases are expanded; anchors, aliases and `<<` merges work.
 *  @param args  the rest of the command line: `--a.b.c value`, `--a.b.c=value`, `--flag` (true); a later one wins.  Lists are
 *               written `[a, b]`, entries of a list of maps `--a.b.0.c value`.
 *  In every value `${VAR}`, `${VAR,default}`, `${oc.env:VAR}`, `${oc.env:VAR,default}` are replaced from the environment
 *  (`$${` gives a literal `${`).  Values of keys without effect are not looked at.
 *  @return AM_ERR_CONFIG with "file:line:column: …" (or "--a.b.c: …") and what to write instead; AM_ERR_IO; AM_ERR_MEMORY. */
am_status am_config_load(const char *path, int num_args, const char *const *args, am_config **out) AM_WARN_UNUSED;
/** The same from memory; `name` stands for the file in positions. */
am_status am_config_parse(const char *text, size_t len, const char *name, int num_args, const char *const *args,
                          am_config **out) AM_WARN_UNUSED;
void      am_config_free(am_config **cfg);

/* ---- values ---------------------------------------------------------------------------------------- */
/* A path that the `_target_` in force does not have, and a null value, read as false, 0, NULL, 0 items.  A path that no table
 * knows, or one of another type, is our own defect: it is logged as an error and counted (am_config_defects). */

bool        am_config_section(const am_config *cfg, const char *section); /* the recipe has this section (not null) */
/** i-th section of the recipe whose name matches `pattern` ("validation_dataset*"), in the recipe's order; NULL at the end. */
const char *am_config_section_at(const am_config *cfg, const char *pattern, size_t i);
/** The name in the table that the section's `_target_` (given or default) chose: "AdamW", "ChatDataset",
 *  "NeMoAutoModelForCausalLM.from_pretrained"; NULL when the section is absent and has no default. */
const char *am_config_target(const am_config *cfg, const char *section);

bool        am_config_given(const am_config *cfg, const char *path); /* written in the recipe or on the command line, not null */
bool        am_config_has(const am_config *cfg, const char *path);   /* given, or its default is not null */
/** "recipe.yaml:12:7", "command line, --optimizer.lr", or "default".  Lives as long as cfg. */
const char *am_config_where(const am_config *cfg, const char *path);

bool        am_config_bool(const am_config *cfg, const char *path);
int64_t     am_config_int(const am_config *cfg, const char *path);
double      am_config_float(const am_config *cfg, const char *path);
const char *am_config_string(const am_config *cfg, const char *path); /* strings, enums, nested `_target_`s; NULL when null */
/** @return false when null ("auto" included): keep what the model says. */
bool        am_config_dtype(const am_config *cfg, const char *path, am_dtype *out);
size_t      am_config_count(const am_config *cfg, const char *path); /* items of a list of strings, floats or maps */
const char *am_config_item(const am_config *cfg, const char *path, size_t i);
double      am_config_item_float(const am_config *cfg, const char *path, size_t i);

/* ---- what happened to the recipe ---------------------------------------------------------------------- */

/** i-th key that was accepted and has no effect here, "recipe.yaml:9:3: dist_env.backend: why"; NULL at the end. */
const char *am_config_ignored(const am_config *cfg, size_t i);
/** i-th given option that no getter has asked for yet; NULL at the end.  Before the first step there must be none: an option
 *  that the program accepts and does not use is a defect. */
const char *am_config_unread(const am_config *cfg, size_t i);
int         am_config_defects(const am_config *cfg);

/** Append a recipe in YAML with every option in effect, those not given marked "# default".  It loads to the same values. */
am_status am_config_dump(const am_config *cfg, am_str *out) AM_WARN_UNUSED;

/** Options of one section (also "section.Target"), or of all when NULL, for `--help`.  @return AM_ERR_USAGE for an unknown
 *  section, with a did-you-mean. */
am_status am_config_print_help(FILE *f, const char *section) AM_WARN_UNUSED;
/** The values of an option that takes one of a few, "none|full"; "true|false" of one that is true or false; NULL of any other path. */
const char *am_config_choices(const char *path);
/** The reference page in Markdown. */
void      am_config_print_reference(FILE *f);

/* ---- options of subcommands ----------------------------------------------------------------------------- */

typedef enum am_cli_type { AM_CLI_FLAG, AM_CLI_INT, AM_CLI_FLOAT, AM_CLI_STRING, AM_CLI_STRINGS } am_cli_type;

/* One row of a subcommand's table; a table ends with {0}.
 *  name          without dashes ("max-shard-size"); `short_name` one letter or 0
 *  default_text  what is in force when it is not given; NULL: nothing (INT, FLOAT read 0)
 *  value_name    printed in --help ("DIR", "N"); NULL: from the type
 *  STRINGS takes one or more values (`--input a b`) and may be repeated. */
typedef struct am_cli_option {
    const char *name;
    char        short_name;
    am_cli_type type;
    const char *default_text;
    const char *value_name;
    const char *help;
} am_cli_option;

/* A subcommand as its --help shows it. */
typedef struct am_cli_command {
    const char          *name;            /* "automodel tokenize" */
    const char          *usage;           /* "MODEL --input FILE [--decode]" */
    const char          *summary;         /* one or two sentences */
    const am_cli_option *options;
    int                  min_positionals;
    int                  max_positionals; /* −1: any number */
    bool                 takes_overrides; /* unknown `--a.b…` (with a dot, or `--seed`) are kept for am_config_load */
} am_cli_command;

typedef struct am_cli am_cli;

/** Parse what stands after the subcommand's name.  `--name value`, `--name=value`, `-n value`, flags, positionals; `--` ends
 *  the options.  `--help`/`-h` sets am_cli_help_wanted and skips every other check.
 *  @return AM_ERR_USAGE with a sentence and a did-you-mean. */
am_status   am_cli_parse(const am_cli_command *command, int num_args, const char *const *args, am_cli **out) AM_WARN_UNUSED;
void        am_cli_free(am_cli **cli);
bool        am_cli_help_wanted(const am_cli *cli);
void        am_cli_print_help(const am_cli_command *command, FILE *f);
/** i-th option as --help and the manual page show it: those of the table, then --help, then the overrides, if it takes them.
 *  value_name is filled in (NULL: takes no value).  @return false beyond the last. */
bool        am_cli_help_row(const am_cli_command *command, size_t i, am_cli_option *out);
bool        am_cli_given(const am_cli *cli, const char *name);
bool        am_cli_flag(const am_cli *cli, const char *name);
int64_t     am_cli_int(const am_cli *cli, const char *name);
double      am_cli_float(const am_cli *cli, const char *name);
const char *am_cli_string(const am_cli *cli, const char *name); /* NULL when neither given nor defaulted */
size_t      am_cli_count(const am_cli *cli, const char *name);  /* values of a STRINGS option */
const char *am_cli_item(const am_cli *cli, const char *name, size_t i);
size_t      am_cli_num_positionals(const am_cli *cli);
const char *am_cli_positional(const am_cli *cli, size_t i); /* NULL beyond the last */
/** The overrides, in the form that am_config_load takes. */
const char *const *am_cli_overrides(const am_cli *cli, int *num);

#endif
