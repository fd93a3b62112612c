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

/** NULL when there is no such subcommand. */
const am_cli_entry *am_cli_find(const char *name);
/** Prints the list of subcommands (--help, --version) or what is wrong; returns the exit code. */
int am_cli_usage(int argc, char **argv);
/** Ends a command: on success 0; else one message, and all ranks end with the documented code. */
int am_cli_finish(am_status st);

/* Rows of the table in cli.c: am_cmd_<name> and am_<name>_command. */
#define AM_CLI_COMMANDS(X) X(prepare) X(train) X(eval) X(export) X(generate) X(inspect) X(verify) X(tokenize) X(doctor)
#define X(n)                                                                                  \
    am_status             am_cmd_##n(int argc, char **argv);                                  \
    extern const am_cli_command am_##n##_command;
AM_CLI_COMMANDS(X)
#undef X

#endif
