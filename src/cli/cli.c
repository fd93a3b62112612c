/* cli.c: the table of subcommands, what is said without one, and the one door through which a failing rank
 * leaves. */
#include "cli/cli.h"

#include "comm/comm.h"
#include "train/engine.h"
#include "train/signals.h"

#include <string.h>
#include <time.h>

static const am_cli_entry entries[] = {
#define X(n) {#n, am_cmd_##n, &am_##n##_command},
    AM_CLI_COMMANDS(X)
#undef X
};
enum { NUM_ENTRIES = sizeof entries / sizeof *entries };

const am_cli_entry *am_cli_find(const char *name)
{
    for (int i = 0; i < NUM_ENTRIES; i++)
        if (strcmp(entries[i].name, name) == 0) return &entries[i];
    return NULL;
}

const am_cli_entry *am_cli_at(size_t i)
{
    return i < NUM_ENTRIES ? &entries[i] : NULL;
}

const char *const am_cli_exit_codes[AM_CLI_NUM_EXIT_CODES] = {
    "done",
    "internal",
    "usage or configuration",
    "model, data or checkpoint",
    "environment",
    "numerical",
    "interrupted with a committed checkpoint (requeue)",
    "watchdog"};

static const am_cli_option options[] = {
    {"version", 'V', AM_CLI_FLAG, NULL, NULL, "Print the version and leave."},
    {"man", 0, AM_CLI_STRING, NULL, "[COMMAND]", "Print a manual page as roff and leave."},
    {0},
};
const am_cli_command am_automodel_command = {
    "automodel", "COMMAND …", "fine-tuning of language models over MPI ranks", options, 0, -1, false};

static void list_commands(FILE *f)
{
    const am_cli_command *c = &am_automodel_command;
    am_cli_option o;
    fprintf(f, "automodel " AM_VERSION ": %s\n\nusage: automodel %s     (each with --help)\n\n", c->summary,
            c->usage);
    for (int i = 0; i < NUM_ENTRIES; i++)
        fprintf(f, "  %-10s %s\n", entries[i].name, entries[i].command->summary);
    fputc('\n', f);
    for (size_t i = 0; am_cli_help_row(c, i, &o); i++)
        fprintf(f, "  --%s%s%s: %s\n", o.name, o.value_name ? " " : "", o.value_name ? o.value_name : "",
                o.help);
    fputs("\nexit codes: ", f);
    for (int i = 0; i < AM_CLI_NUM_EXIT_CODES; i++)
        fprintf(f, "%s%d %s", i == 0 ? "" : i % 5 == 0 ? ",\n            " : ", ", i, am_cli_exit_codes[i]);
    fputc('\n', f);
}

static int no_such_command(const char *name)
{
    const char *names[NUM_ENTRIES];
    for (int i = 0; i < NUM_ENTRIES; i++) names[i] = entries[i].name;
    const char *near = am_did_you_mean(name, names, NUM_ENTRIES);
    fprintf(stderr, "automodel: there is no command \"%s\"%s%s%s; automodel --help lists them\n", name,
            near ? "; did you mean \"" : "", near ? near : "", near ? "\"?" : "");
    return am_status_exit_code(AM_ERR_USAGE);
}

static int print_man(const char *name)
{
    const am_cli_entry *entry = name ? am_cli_find(name) : NULL;
    if (name && !entry) return no_such_command(name);
    am_cli_print_man(entry, stdout);
    if (fflush(stdout) == 0 && !ferror(stdout)) return 0;
    fprintf(stderr, "automodel: the manual page cannot be written to standard output\n");
    return am_status_exit_code(AM_ERR_IO);
}

static bool is_one_of(const char *s, const char *a, const char *b, const char *c)
{
    return strcmp(s, a) == 0 || strcmp(s, b) == 0 || strcmp(s, c) == 0;
}

int am_cli_usage(int argc, char **argv)
{
    if (argc < 2) {
        list_commands(stderr);
        return am_status_exit_code(AM_ERR_USAGE);
    }
    if (strcmp(argv[1], "--man") == 0) return print_man(argc > 2 ? argv[2] : NULL);
    if (is_one_of(argv[1], "--version", "-V", "version")) {
        printf("automodel " AM_VERSION "\n");
        return 0;
    }
    if (is_one_of(argv[1], "--help", "-h", "help")) {
        list_commands(stdout);
        return 0;
    }
    return no_such_command(argv[1]);
}

/* One silent rank makes all others run into the deadline at about the same time.  One of them speaks: those that asked a rank and got no
 * answer go first, the others only know someone who waits himself; and who is being ended by the launcher keeps quiet. */
static bool speaks(const am_comm *comm, am_status st)
{
    if ((st != AM_ERR_WATCHDOG && st != AM_ERR_COMM) || am_comm_size(comm) == 1) return true;
    int64_t ms = 100 * am_min_i64(am_comm_rank(comm), 10) + (strstr(am_error_message(), "does not answer") ? 0 : 3500);
    struct timespec pause = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000};
    if (am_signals_pending()) return false;
    return nanosleep(&pause, NULL) == 0 && !am_signals_pending();
}

int am_cli_finish(am_status st)
{
    int code = am_status_exit_code(st);
    am_comm *comm = am_engine_current();
    if (st != AM_OK && st != AM_INTERRUPTED) {
        if (!comm || speaks(comm, st)) am_error_print(stderr, comm && am_comm_size(comm) > 1 ? am_comm_rank(comm) : -1);
        fflush(NULL);
        if (comm && am_comm_size(comm) > 1) am_comm_abort(comm, code); /* no rank waits for a dead one */
    }
    return code;
}
