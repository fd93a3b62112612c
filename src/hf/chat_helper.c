/* chat, the helper process: started without a shell, spoken to over a socket pair (writing to a dead one
 * gives an error, not SIGPIPE), watched by a clock.  Once it is gone it stays gone, and every later question
 * is answered with why. */
#include "hf/chat_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

enum { MAX_ANSWER = 1 << 30 };

static am_status spawn_on(am_chat_helper *h, int fd)
{
    am_status st = AM_OK;
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attr;
    sigset_t none;
    char *const argv[] = {h->python, "-I", "-X", "utf8", "-c", (char *)am_chat_script, NULL};
    AM_CHECK(posix_spawn_file_actions_init(&actions) == 0, AM_ERR_MEMORY, "the host refused memory");
    posix_spawnattr_init(&attr);
    sigemptyset(&none);
    posix_spawnattr_setsigmask(&attr, &none); /* the caller's blocked signals are not the helper's */
    posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSIGMASK);
    posix_spawn_file_actions_adddup2(&actions, fd, 0);
    posix_spawn_file_actions_adddup2(&actions, fd, 1);
    int rc = posix_spawnp(&h->pid, h->python, &actions, &attr, argv, environ);
    posix_spawn_file_actions_destroy(&actions);
    posix_spawnattr_destroy(&attr);
    if (rc != 0) h->pid = 0;
    AM_CHECK(rc == 0, AM_ERR_ENVIRONMENT,
             "chat templates need Python: %s cannot be started (%s); apt-get install python3-jinja2, or name "
             "another "
             "Python with AM_PYTHON",
             h->python, strerror(rc));
done:
    return st;
}

am_status am_chat_helper_start(am_chat_helper *h, const char *python)
{
    am_status st = AM_OK;
    int pair[2] = {-1, -1};
    const char *chosen = python != NULL ? python : getenv("AM_PYTHON");
    h->fd = -1;
    AM_TRY(am_strdup(chosen != NULL && chosen[0] != '\0' ? chosen : "/usr/bin/python3", &h->python));
    AM_CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) == 0, AM_ERR_ENVIRONMENT,
             "no socket for the chat template helper: %s", strerror(errno));
    AM_TRY(spawn_on(h, pair[1]));
    h->fd = pair[0];
    pair[0] = -1;
    AM_CHECK(fcntl(h->fd, F_SETFL, O_NONBLOCK) == 0, AM_ERR_ENVIRONMENT,
             "no socket for the chat template helper: %s", strerror(errno));
done:
    if (pair[0] >= 0) close(pair[0]);
    if (pair[1] >= 0) close(pair[1]);
    return st;
}

static void end_process(am_chat_helper *h, bool kill_it)
{
    if (h->fd >= 0) close(h->fd); /* end of input: the helper leaves by itself */
    h->fd = -1;
    if (h->pid <= 0) return;
    if (kill_it) kill(h->pid, SIGKILL);
    while (waitpid(h->pid, NULL, 0) < 0 && errno == EINTR) continue;
    h->pid = 0;
}

void am_chat_helper_stop(am_chat_helper *h)
{
    end_process(h, false);
    am_free(&h->python);
    am_free(&h->why);
    am_str_release(&h->in);
}

/* The helper is of no use any more: remember the sentence. */
static am_status give_up(am_chat_helper *h, const char *what)
{
    am_status st = AM_OK;
    am_str why = {0};
    int status = 0;
    if (h->pid > 0 && waitpid(h->pid, &status, WNOHANG) == h->pid) {
        h->pid = 0;
        AM_TRY(am_str_printf(
            &why,
            "the chat template helper (%s) ended by itself, %s %d; its own message stands above, "
            "if it had one",
            h->python, WIFSIGNALED(status) ? "signal" : "exit code",
            WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status)));
    } else {
        AM_TRY(am_str_printf(&why, "the chat template helper (%s) %s", h->python, what));
    }
    h->why = why.s;
    why.s = NULL;
    end_process(h, true);
    AM_FAIL(AM_ERR_ENVIRONMENT, "%s", h->why);
done:
    am_str_release(&why);
    return st;
}

/* Wait until the socket is ready; false when the deadline has passed. */
static bool wait_for(const am_chat_helper *h, short events, double deadline)
{
    for (;;) {
        double left = deadline - am_now();
        if (left <= 0) return false;
        struct pollfd p = {.fd = h->fd, .events = events};
        int rc = poll(&p, 1, left > 3600 ? 3600 * 1000 : (int)(left * 1000) + 1);
        if (rc > 0) return true;
        if (rc < 0 && errno != EINTR) return true; /* the next send or recv says what it is */
    }
}

static am_status send_all(am_chat_helper *h, const char *s, size_t n, double deadline)
{
    while (n > 0) {
        ssize_t done = send(h->fd, s, n, MSG_NOSIGNAL);
        if (done < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
            if (!wait_for(h, POLLOUT, deadline)) return give_up(h, "did not take its input in time");
            continue;
        }
        if (done < 0 && errno == EINTR) continue;
        if (done < 0) {
            (void)wait_for(h, POLLIN, am_now() + 0.2); /* let it finish dying, for the sentence */
            return give_up(h, "is gone");
        }
        s += done;
        n -= (size_t)done;
    }
    return AM_OK;
}

static am_status receive_line(am_chat_helper *h, double deadline)
{
    am_status st = AM_OK;
    char block[65536];
    h->in.len = 0;
    for (;;) {
        ssize_t n = recv(h->fd, block, sizeof block, 0);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
            if (!wait_for(h, POLLIN, deadline))
                return give_up(h, "did not answer in time and was ended: a template that never finishes?");
            continue;
        }
        if (n <= 0) {
            double until = am_now() + 1; /* the end of the socket may be seen before that of the process */
            while (am_now() < until &&
                   waitid(P_PID, (id_t)h->pid, &(siginfo_t){0}, WEXITED | WNOWAIT | WNOHANG) == 0)
                if (usleep(10000) != 0 || kill(h->pid, 0) != 0) break;
            return give_up(h, "closed its end");
        }
        AM_TRY(am_str_append(&h->in, block, (size_t)n));
        if (block[n - 1] == '\n') return AM_OK; /* one question, one line: nothing comes behind it */
        if (h->in.len > MAX_ANSWER) return give_up(h, "answers with more than 1 GiB");
    }
done:
    return st;
}

am_status am_chat_helper_ask(am_chat_helper *h, const json_t *question, double timeout_s, json_t **answer)
{
    am_status st = AM_OK;
    double deadline = am_now() + timeout_s;
    json_error_t error;
    char *line = NULL;
    *answer = NULL;
    AM_CHECK(h->why == NULL, AM_ERR_ENVIRONMENT, "%s", h->why);
    line = json_dumps(question, JSON_COMPACT);
    AM_CHECK(line != NULL, AM_ERR_MEMORY, "the host refused memory for a chat");
    AM_TRY(send_all(h, line, strlen(line), deadline));
    AM_TRY(send_all(h, "\n", 1, deadline));
    AM_TRY(receive_line(h, deadline));
    *answer = json_loadb(h->in.s, h->in.len, JSON_ALLOW_NUL, &error);
    if (*answer == NULL) st = give_up(h, "answered with something that is not JSON");
done:
    free(line);
    return st;
}
