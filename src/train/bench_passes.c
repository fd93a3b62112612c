/* bench_passes.c: a process for every variant and round.  The child is a fork, made before this process has
 * threads, MPI or a device, so it begins as small as a program just started; its result comes back through a
 * pipe, and it leaves by main like every command. */
#include "train/bench.h"

#include "topo/topo.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

/* Options that choose between programs of the same result.  Their values are those of the recipe's tables. */
static const char *const passes[] = {"run.fuse", "distributed.recompute"};

typedef struct job {
    const char *path;
    const char *const *overrides;
    int num_overrides, steps;
} job;

/* ---- variants
 * ------------------------------------------------------------------------------------------------- */

static am_status add_variant(am_pass_bench *b, const char *key, const char *value, size_t length)
{
    am_status st = AM_OK;
    AM_ASSERT(b->num_variants < AM_BENCH_VARIANTS && length < sizeof b->variant->value);
    am_bench_variant *v = &b->variant[b->num_variants++];
    v->key = key;
    snprintf(v->value, sizeof v->value, "%.*s", (int)length, value);
done:
    return st;
}

static am_status list_variants(const job *j, am_pass_bench *b)
{
    am_status st = AM_OK;
    am_config *cfg = NULL;
    AM_TRY(am_config_load(j->path, j->num_overrides, j->overrides, &cfg));
    AM_TRY(add_variant(b, NULL, "", 0));
    for (size_t i = 0; i < sizeof passes / sizeof *passes; i++) {
        const char *all = am_config_choices(passes[i]);
        AM_ASSERT(all);
        const char *now = strcmp(all, "true|false") == 0 ? (am_config_bool(cfg, passes[i]) ? "true" : "false")
                                                         : am_config_string(cfg, passes[i]);
        for (size_t n; *all; all += n + (all[n] == '|')) {
            n = strcspn(all, "|");
            if (!now || strlen(now) != n || strncmp(now, all, n) != 0)
                AM_TRY(add_variant(b, passes[i], all, n));
        }
    }
done:
    am_config_free(&cfg);
    return st;
}

/* ---- a process
 * -------------------------------------------------------------------------------------------------- */

static am_status send_all(int fd, const void *data, size_t bytes)
{
    am_status st = AM_OK;
    const char *at = data;
    for (ssize_t n; bytes > 0; at += n, bytes -= (size_t)n) {
        n = write(fd, at, bytes);
        AM_CHECK(n > 0, AM_ERR_IO, "bench: the process that asked for this measurement is gone");
    }
done:
    return st;
}

static bool receive_all(int fd, void *data, size_t bytes)
{
    char *at = data;
    for (ssize_t n; bytes > 0; at += n, bytes -= (size_t)n)
        if ((n = read(fd, at, bytes)) <= 0) return false;
    return true;
}

/* Pointers to texts are the same in both processes: one is the other's fork. */
static am_status be_child(const job *j, const am_bench_variant *v, bool ceilings, int fd)
{
    am_status st = AM_OK;
    am_config *cfg = NULL;
    am_step_bench b = {0};
    am_str option = {0};
    const char **overrides = NULL;
    int n = j->num_overrides;
    AM_TRY(am_calloc((size_t)n + 1, sizeof *overrides, &overrides));
    if (n) memcpy(overrides, j->overrides, (size_t)n * sizeof *overrides);
    if (v->key) {
        AM_TRY(am_str_printf(&option, "--%s=%s", v->key, v->value));
        overrides[n++] = option.s;
    }
    AM_TRY(am_config_load(j->path, n, overrides, &cfg));
    AM_TRY(
        am_bench_step(cfg, &(am_bench_options){.steps = j->steps, .ceilings = ceilings, .quiet = true}, &b));
    AM_TRY(send_all(fd, &b, sizeof b));
    AM_TRY(send_all(fd, b.rows, (size_t)b.num_rows * sizeof *b.rows));
done:
    am_step_bench_release(&b);
    am_config_free(&cfg);
    am_str_release(&option);
    am_free(&overrides);
    close(fd);
    return st;
}

/* *out: released by the caller; rows NULL where the child said nothing. */
static am_status receive(int fd, am_step_bench *out)
{
    am_status st = AM_OK;
    am_profile_row *rows = NULL;
    bool whole = receive_all(fd, out, sizeof *out);
    out->rows = NULL;
    out->counts = NULL;
    if (!whole) goto done;
    AM_TRY(am_calloc((size_t)out->num_rows, sizeof *rows, &rows));
    if (!receive_all(fd, rows, (size_t)out->num_rows * sizeof *rows)) goto done;
    out->rows = rows;
    rows = NULL;
done:
    am_free(&rows);
    return st;
}

static am_status run_one(const job *j, am_pass_bench *b, am_bench_variant *v, int round)
{
    am_status st = AM_OK;
    am_step_bench told = {0};
    int fd[2] = {-1, -1}, status = 0;
    AM_CHECK(pipe(fd) == 0, AM_ERR_IO, "bench: the system gives no pipe");
    fflush(NULL);
    pid_t child = fork();
    AM_CHECK(child >= 0, AM_ERR_MEMORY, "bench: the system starts no further process");
    if (child == 0) {
        close(fd[0]);
        b->child = true;
        return be_child(j, v, !v->key && round == 0, fd[1]);
    }
    close(fd[1]);
    fd[1] = -1;
    AM_TRY(receive(fd[0], &told));
    while (waitpid(child, &status, 0) < 0) {
    }
    if (status != 0 || !told.rows)
        v->exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    v->seconds[round] = told.rows ? told.seconds : INFINITY;
    if (told.rows && told.ceilings.flops == 0) told.ceilings = b->variant[0].best.ceilings;
    if (told.rows && (!v->best.rows || told.seconds < v->best.seconds)) {
        am_step_bench_release(&v->best);
        v->best = told;
        told = (am_step_bench){0};
    }
done:
    for (int i = 0; i < 2; i++)
        if (fd[i] >= 0) close(fd[i]);
    am_step_bench_release(&told);
    return st;
}

/* A status that ends a command with this code. */
static am_status status_of(int exit_code)
{
    int st = AM_ERR_INTERNAL;
    while (st < AM_ERR_WATCHDOG && am_status_exit_code((am_status)st) != exit_code) st++;
    return am_status_exit_code((am_status)st) == exit_code ? (am_status)st : AM_ERR_INTERNAL;
}

am_status am_bench_passes(const char *path, int num_overrides, const char *const *overrides, int steps,
                          int rounds, am_pass_bench *out)
{
    am_status st = AM_OK;
    const job j = {.path = path, .overrides = overrides, .num_overrides = num_overrides, .steps = steps};
    am_topo_allocation a;
    memset(out, 0, sizeof *out);
    out->rounds = rounds;
    AM_TRY(am_topo_allocation_read(&a));
    AM_CHECK(!a.mpirun && !a.step, AM_ERR_USAGE,
             "--passes starts a process for each variant: run it without mpirun or srun");
    AM_TRY(list_variants(&j, out));
    for (int r = 0; r < rounds; r++)
        for (int i = 0; i < out->num_variants; i++) {
            am_bench_variant *v = &out->variant[r == 0 ? i : (i + r) % out->num_variants];
            if (v->exit_code == 0) st = run_one(&j, out, v, r);
            if (out->child) return st;
            AM_TRY(st);
            if (out->variant[0].exit_code != 0)
                AM_FAIL(status_of(out->variant[0].exit_code),
                        "the recipe's own step does not run (exit code %d): see above",
                        out->variant[0].exit_code);
        }
done:
    return st;
}

void am_pass_bench_release(am_pass_bench *b)
{
    for (int i = 0; i < b->num_variants; i++) am_step_bench_release(&b->variant[i].best);
}
