/* signals.c: one flag a process; a signal handler has nowhere else to write. */
#include "train/signals.h"

#include <errno.h>
#include <signal.h>
#include <string.h>

static volatile sig_atomic_t pending;

static void note(int signal)
{
    if (!pending) pending = signal;
}

am_status am_signals_install(void)
{
    am_status st = AM_OK;
    static const int signals[] = {SIGTERM, SIGINT, SIGUSR1, SIGUSR2};
    struct sigaction action = {.sa_handler = note, .sa_flags = SA_RESTART};
    sigemptyset(&action.sa_mask);
    for (size_t i = 0; i < sizeof signals / sizeof *signals; i++)
        AM_CHECK(sigaction(signals[i], &action, NULL) == 0, AM_ERR_ENVIRONMENT, "signal %d cannot be handled: %s", signals[i], strerror(errno));
    signal(SIGXFSZ, SIG_IGN); /* a file beyond `ulimit -f` is an error of that write, not a death without a sentence */
done:
    return st;
}

int am_signals_pending(void) { return pending; }

const char *am_signals_name(int signal)
{
    return signal == SIGTERM ? "SIGTERM" : signal == SIGINT ? "SIGINT" : signal == SIGUSR1 ? "SIGUSR1" : signal == SIGUSR2 ? "SIGUSR2" : "a signal";
}
