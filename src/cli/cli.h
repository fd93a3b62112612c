/* cli: the subcommands, one file each.  main.c finds the entry, runs it and lets am_cli_finish end the process. */
#ifndef AM_CLI_H
#define AM_CLI_H

#include "base/base.h"
#include "config/config.h"

/* A subcommand: arguments are what stands after its name. */
typedef struct am_cli_entry {
    const char *name;
    am_status (*run)(int argc, char **argv);
    const am_cli_command *command;
} am_cli_entry;

/* automodel itself: what it is, and the options that stand in a subcommand's place. */
extern const am_cli_command am_automodel_command;
/* What each exit code means, from 0. */
enum { AM_CLI_NUM_EXIT_CODES = 8 };
extern const char *const am_cli_exit_codes[AM_CLI_NUM_EXIT_CODES];

/** NULL when there is no such subcommand. */
const am_cli_entry *am_cli_find(const char *name);
/** The i-th subcommand, in the order of --help; NULL beyond the last. */
const am_cli_entry *am_cli_at(size_t i);
/** The manual page of a subcommand as roff; NULL: of automodel itself. */
void am_cli_print_man(const am_cli_entry *entry, FILE *f);
/** Without a subcommand: prints --help, --version, --man, or what is wrong; returns the exit code. */
int am_cli_usage(int argc, char **argv);
/** Ends a command: on success 0; else one message, and all ranks end with the documented code. */
int am_cli_finish(am_status st);

/* Rows of the table in cli.c: am_cmd_<name> and am_<name>_command. */
#define AM_CLI_COMMANDS(X) X(prepare) X(train) X(eval) X(export) X(generate) X(inspect) X(verify) X(tokenize) X(bench) X(doctor)
#define X(n)                                                                                  \
    am_status             am_cmd_##n(int argc, char **argv);                                  \
    extern const am_cli_command am_##n##_command;
AM_CLI_COMMANDS(X)
#undef X

#endif
