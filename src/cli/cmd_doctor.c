/* automodel doctor: what this machine offers, what is missing, which package brings it.  Each check adds one
 * line; a line that is missing something makes the command end with code 4. */
#include "cli/cli.h"

#include "cli/cli_support.h"
#include "kernels.h"
#include "topo/topo.h"

#include <errno.h>
#include <hdf5.h>
#include <jansson.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/statvfs.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

static const am_cli_option options[] = {
    {"json", 0, AM_CLI_FLAG, NULL, NULL, "Print the checks as JSON."},
    {0},
};
const am_cli_command am_doctor_command = {"automodel doctor",
                                          "[--json]",
                                          "Says what this machine offers, what is missing and which Debian "
                                          "package brings it; exit 0, or 4 when something is missing.",
                                          options,
                                          0,
                                          0,
                                          false};

typedef struct am_doctor {
    json_t *checks; /* [{"name", "ok", "found", "remedy"?, "note"?}] */
    int missing;
} am_doctor;

/* remedy NULL: all is well, else what to do. */
static am_status add(am_doctor *d, const char *name, const char *found, const char *remedy)
{
    am_status st = AM_OK;
    json_t *o = json_pack("{s:s, s:b, s:s}", "name", name, "ok", remedy == NULL, "found", found);
    AM_CHECK(o && (!remedy || json_object_set_new(o, "remedy", json_string(remedy)) == 0) &&
                 json_array_append_new(d->checks, o) == 0,
             AM_ERR_MEMORY, "no memory for the report");
    d->missing += remedy != NULL;
done:
    return st;
}

/* Nothing is missing, but a person should know. */
static am_status note(am_doctor *d, const char *name, const char *text)
{
    am_status st = AM_OK;
    AM_TRY(add(d, name, text, NULL));
    json_object_set_new(json_array_get(d->checks, json_array_size(d->checks) - 1), "note", json_true());
done:
    return st;
}

static am_status check_cores(am_doctor *d)
{
    am_status st = AM_OK;
    am_topo *t = NULL;
    am_topo_placement p = {0};
    am_topo_request r = {.local_size = 1};
    char text[512];
    AM_TRY(am_topo_create(&t));
    AM_TRY(am_topo_place(t, &r, &p));
    snprintf(text, sizeof text, "%d cores in %d NUMA node%s; one rank: %s", am_topo_cores(t),
             am_topo_numa_nodes(t), am_topo_numa_nodes(t) == 1 ? "" : "s", p.line);
    AM_TRY(add(d, "cores", text, NULL));
    snprintf(text, sizeof text, "%s kernels%s", am_isa_name(am_kernels_cpu_isa()),
             getenv("AM_ISA") ? " (AM_ISA is set)" : "");
    AM_TRY(add(d, "instructions", text, NULL));
done:
    am_topo_placement_release(&p);
    am_topo_free(&t);
    return st;
}

static am_status check_memory(am_doctor *d)
{
    am_status st = AM_OK;
    am_topo_memory m;
    char text[512], total[32], available[32], limit[32];
    AM_TRY(am_topo_memory_limit(&m));
    snprintf(text, sizeof text, "%s, %s of it available", am_cli_bytes(m.total_bytes, total),
             am_cli_bytes(m.available_bytes, available));
    AM_TRY(add(d, "memory", text, NULL));
    if (m.limit_bytes >= 0)
        snprintf(text, sizeof text, "%s by %s", am_cli_bytes(m.limit_bytes, limit), m.limited_by);
    else
        snprintf(text, sizeof text, "none");
    AM_TRY(add(d, "memory limit", text, NULL));
done:
    return st;
}

static am_status first_line(const char *path, char *out, size_t size)
{
    am_status st = AM_OK;
    char *text = NULL;
    size_t n = 0;
    AM_TRY(am_file_read(path, 1 << 16, &text, &n));
    snprintf(out, size, "%.*s", (int)strcspn(text, "\n"), text);
done:
    am_free(&text);
    return st;
}

static am_status check_huge_pages(am_doctor *d)
{
    am_status st = AM_OK;
    char mode[128];
    if (first_line("/sys/kernel/mm/transparent_hugepage/enabled", mode, sizeof mode) != AM_OK) {
        am_error_clear();
        AM_TRY(note(d, "huge pages",
                    "the kernel does not tell (large buffers use small pages: slower, nothing else)"));
        goto done;
    }
    bool never = strstr(mode, "[never]") != NULL;
    char text[256];
    snprintf(
        text, sizeof text, "transparent: %s%s", mode,
        never ? " (slower; an administrator can write madvise to /sys/kernel/mm/transparent_hugepage/enabled)"
              : "");
    AM_TRY(never ? note(d, "huge pages", text) : add(d, "huge pages", text, NULL));
done:
    return st;
}

/* The first `name` in $PATH that can be run, or "". */
static void find_program(const char *name, char *out, size_t size)
{
    const char *path = getenv("PATH");
    out[0] = '\0';
    while (path && *path) {
        size_t n = strcspn(path, ":");
        snprintf(out, size, "%.*s/%s", (int)n, path, name);
        if (n > 0 && access(out, X_OK) == 0) return;
        out[0] = '\0';
        path += n + (path[n] == ':');
    }
}

static am_status check_launcher(am_doctor *d)
{
    am_status st = AM_OK;
    char mpirun[512], srun[512], text[1100], shm[32];
    struct statvfs fs;
    find_program("mpirun", mpirun, sizeof mpirun);
    find_program("srun", srun, sizeof srun);
    bool any = mpirun[0] || srun[0];
    snprintf(text, sizeof text, "%s%s%s", mpirun, mpirun[0] && srun[0] ? " and " : "",
             any ? srun : "neither mpirun nor srun in PATH");
    AM_TRY(add(d, "MPI launcher", text,
               any ? NULL
                   : "apt-get install openmpi-bin (or load the cluster's MPI module); without it only one "
                     "rank runs"));
    if (statvfs("/dev/shm", &fs) == 0) {
        snprintf(text, sizeof text, "%s free in /dev/shm",
                 am_cli_bytes((int64_t)fs.f_bavail * (int64_t)fs.f_frsize, shm));
        AM_TRY(add(d, "shared memory", text, NULL)); /* what ranks of one node talk through */
    }
done:
    return st;
}

/* Runs `python -c code` without a shell and takes the first line of what it prints.  *rc: its exit code, −1:
 * not started. */
static am_status ask_python(const char *python, const char *code, char *out, size_t size, int *rc)
{
    am_status st = AM_OK;
    int fd[2] = {-1, -1}, wait_status = 0;
    pid_t pid = 0;
    posix_spawn_file_actions_t actions;
    char *const argv[] = {(char *)(uintptr_t)python, "-I", "-c", (char *)(uintptr_t)code, NULL};
    *rc = -1;
    out[0] = '\0';
    AM_CHECK(pipe(fd) == 0, AM_ERR_ENVIRONMENT, "no pipe: %s", strerror(errno));
    AM_CHECK(posix_spawn_file_actions_init(&actions) == 0, AM_ERR_MEMORY, "no memory to start %s", python);
    posix_spawn_file_actions_adddup2(&actions, fd[1], 1);
    posix_spawn_file_actions_addopen(&actions, 2, "/dev/null", 1 /* O_WRONLY */, 0);
    posix_spawn_file_actions_addclose(&actions, fd[0]);
    int failed = posix_spawnp(&pid, python, &actions, NULL, argv, environ);
    posix_spawn_file_actions_destroy(&actions);
    close(fd[1]);
    fd[1] = -1;
    if (failed) goto done;
    ssize_t n = read(fd[0], out, size - 1);
    out[n > 0 ? n : 0] = '\0';
    out[strcspn(out, "\n")] = '\0';
    while (waitpid(pid, &wait_status, 0) < 0 && errno == EINTR) continue;
    *rc = WIFEXITED(wait_status) ? WEXITSTATUS(wait_status) : 1;
done:
    if (fd[0] >= 0) close(fd[0]);
    if (fd[1] >= 0) close(fd[1]);
    return st;
}

static am_status check_jinja(am_doctor *d)
{
    am_status st = AM_OK;
    const char *python = getenv("AM_PYTHON");
    char version[128], text[512];
    int rc;
    if (!python || !*python) python = "/usr/bin/python3";
    AM_TRY(ask_python(python, "import jinja2; print(jinja2.__version__)", version, sizeof version, &rc));
    if (rc == 0)
        snprintf(text, sizeof text, "jinja2 %s of %s", version, python);
    else
        snprintf(text, sizeof text, rc < 0 ? "%s cannot be started" : "%s has no jinja2", python);
    AM_TRY(add(d, "chat templates", text,
               rc == 0 ? NULL
                       : "apt-get install python3-jinja2, or name a Python that has it with AM_PYTHON; "
                         "prepare, tokenize and generate --chat need it, training does not"));
done:
    return st;
}

static am_status check_hdf5(am_doctor *d)
{
    am_status st = AM_OK;
    unsigned major = 0, minor = 0, release = 0;
    char text[128];
    AM_CHECK(H5get_libversion(&major, &minor, &release) >= 0, AM_ERR_ENVIRONMENT,
             "the HDF5 library does not start");
    bool deflate = H5Zfilter_avail(H5Z_FILTER_DEFLATE) > 0,
         fletcher = H5Zfilter_avail(H5Z_FILTER_FLETCHER32) > 0;
    snprintf(text, sizeof text, "%u.%u.%u, checksums %s, deflate %s", major, minor, release,
             fletcher ? "yes" : "no", deflate ? "yes" : "no");
    AM_TRY(add(d, "HDF5", text,
               fletcher && deflate ? NULL : "token shards need both filters: apt-get install libhdf5-103-1"));
done:
    return st;
}

static am_status check_cards(am_doctor *d)
{
    am_status st = AM_OK;
    am_card *c = NULL;
    am_status found = am_card_find(NULL, "", &c); /* no such family: the sentence lists those there are */
    char text[1024];
    snprintf(text, sizeof text, "%s", found == AM_OK ? "" : am_error_message());
    const char *list = strstr(text, "there are cards for ");
    bool some = list && strcmp(list, "there are cards for nothing") != 0;
    am_error_clear();
    AM_TRY(add(d, "model cards", some ? list + strlen("there are cards for ") : text,
               some ? NULL : "install automodel with its configs/, or name the folder with AM_CARDS"));
done:
    am_card_free(&c);
    return st;
}

static am_status check_limits(am_doctor *d)
{
    am_status st = AM_OK;
    struct rlimit files;
    char text[64];
    AM_CHECK(getrlimit(RLIMIT_NOFILE, &files) == 0, AM_ERR_ENVIRONMENT, "getrlimit: %s", strerror(errno));
    snprintf(text, sizeof text, "%" PRIu64, (uint64_t)files.rlim_cur);
    AM_TRY(add(d, "open files", text,
               files.rlim_cur >= 512 ? NULL : "ulimit -n 4096: a large model has hundreds of files"));
    if (geteuid() == 0 && !(getenv("OMPI_ALLOW_RUN_AS_ROOT") && getenv("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM")))
        AM_TRY(note(d, "root",
                    "mpirun refuses to run as root unless OMPI_ALLOW_RUN_AS_ROOT=1 and "
                    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 are set"));
done:
    return st;
}

static void print(const am_doctor *d)
{
    size_t i;
    json_t *c;
    json_array_foreach(d->checks, i, c)
    {
        const char *remedy = json_string_value(json_object_get(c, "remedy"));
        printf("%-8s %-15s %s\n",
               remedy                       ? "MISSING"
               : json_object_get(c, "note") ? "note"
                                            : "ok",
               json_string_value(json_object_get(c, "name")), json_string_value(json_object_get(c, "found")));
        if (remedy) printf("%-24s %s\n", "", remedy);
    }
}

am_status am_cmd_doctor(int argc, char **argv)
{
    static am_status (*const checks[])(am_doctor *) = {check_cores,    check_memory, check_huge_pages,
                                                       check_launcher, check_jinja,  check_hdf5,
                                                       check_cards,    check_limits};
    am_status st = AM_OK;
    am_cli *cli = NULL;
    am_doctor d = {.checks = json_array()};
    AM_TRY(am_cli_parse(&am_doctor_command, argc, (const char *const *)argv, &cli));
    if (am_cli_help_wanted(cli)) {
        am_cli_print_help(&am_doctor_command, stdout);
        goto done;
    }
    for (size_t i = 0; i < sizeof checks / sizeof *checks; i++) AM_TRY(checks[i](&d));
    if (am_cli_flag(cli, "json")) {
        json_t *o = json_pack("{s:b, s:O}", "ok", d.missing == 0, "checks", d.checks);
        json_dumpf(o, stdout, JSON_INDENT(2));
        printf("\n");
        json_decref(o);
    } else {
        print(&d);
    }
    fflush(stdout);
    AM_CHECK(d.missing == 0, AM_ERR_ENVIRONMENT,
             "%d of %zu things are missing on this machine: see the remedies above", d.missing,
             json_array_size(d.checks));
done:
    json_decref(d.checks);
    if (cli) am_cli_free(&cli);
    return st;
}
