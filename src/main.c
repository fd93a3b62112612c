/* automodel: finds the subcommand, runs it, reports its status.  Only here does the process end. */
#include "cli/cli.h"

#include <string.h>

int main(int argc, char **argv)
{
    const am_cli_entry *entry = argc > 1 ? am_cli_find(argv[1]) : NULL;
    if (!entry) return am_cli_usage(argc, argv);
    am_status st = entry->run(argc - 2, argv + 2);
    return am_cli_finish(st);
}
