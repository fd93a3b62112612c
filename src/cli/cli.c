/* cli.c: the table of subcommands, and the one door through which a failing rank leaves. */
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

static void list_commands(FILE *f)
{
    fprintf(f, "automodel " AM_VERSION ": fine-tuning of language models over MPI ranks\n\nusage: automodel "
                                       "COMMAND …     (each with --help)\n\n");
    for (int i = 0; i < NUM_ENTRIES; i++)
        fprintf(f, "  %-10s %s\n", entries[i].name, entries[i].command->summary);
    fprintf(f, "\nexit codes: 0 done, 1 internal, 2 usage or configuration, 3 model, data or checkpoint, 4 "
               "environment, 5 numerical,\n"
               "            6 interrupted with a committed checkpoint (requeue), 7 watchdog\n");
}

int am_cli_usage(int argc, char **argv)
{
    const char *names[NUM_ENTRIES];
    for (int i = 0; i < NUM_ENTRIES; i++) names[i] = entries[i].name;
    if (argc > 1 && (strcmp(argv[1], "--version") == 0 || strcmp(argv[1], "version") == 0)) {
        printf("automodel " AM_VERSION "\n");
        return 0;
    }
    if (argc > 1 &&
        (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0 || strcmp(argv[1], "help") == 0)) {
        list_commands(stdout);
        return 0;
    }
    if (argc > 1) {
        const char *near = am_did_you_mean(argv[1], names, NUM_ENTRIES);
        fprintf(stderr, "automodel: there is no command \"%s\"%s%s%s; automodel --help lists them\n", argv[1],
                near ? "; did you mean \"" : "", near ? near : "", near ? "\"?" : "");
    } else {
        list_commands(stderr);
    }
    return am_status_exit_code(AM_ERR_USAGE);
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
