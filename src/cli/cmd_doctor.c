/* automodel doctor: what this machine offers, what is missing, which package brings it.  Each check adds one
 * line; a line that is missing something makes the command end with code 4. */
#include "cli/cli.h"

#include "cli/cli_support.h"
#include "device/device.h"
#include "kernels.h"
#include "topo/topo.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <hdf5.h>
#include <jansson.h>
#include <poll.h>
#include <signal.h>
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
    if (!never && !am_device_huge_pages_pay())
        snprintf(text, sizeof text, "transparent: %s, but this is a virtual machine: not asked for unless run.huge_pages is true", mode);
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

enum { NOT_STARTED = -1, TOO_SLOW = -2 };

/* Reads from fd until its end, at most limit_s seconds.  @return false: the time is over. */
static bool read_all(int fd, int limit_s, char *out, size_t size)
{
    size_t n = 0;
    ssize_t got = 1;
    double end = am_now() + limit_s;
    while (got > 0 || (got < 0 && errno == EINTR)) {
        struct pollfd p = {.fd = fd, .events = POLLIN};
        char rest[256]; /* what does not fit is read all the same, so that nobody waits for a full pipe */
        int left_ms = (int)((end - am_now()) * 1000);
        if (left_ms <= 0) return false;
        if (poll(&p, 1, left_ms) <= 0) continue;
        got = n + 1 < size ? read(fd, out + n, size - 1 - n) : read(fd, rest, sizeof rest);
        if (got > 0 && n + 1 < size) n += (size_t)got;
        out[n] = '\0';
    }
    return true;
}

/* Runs a program without a shell and takes what it prints (with_errors: on stderr too).  *rc: its exit code,
 * NOT_STARTED, or TOO_SLOW: it was ended after limit_s seconds. */
static am_status ask(const char *const argv[], int limit_s, bool with_errors, char *out, size_t size, int *rc)
{
    am_status st = AM_OK;
    int fd[2] = {-1, -1}, wait_status = 0;
    pid_t pid = 0;
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t own_group; /* so that it can be ended with all it started */
    *rc = NOT_STARTED;
    out[0] = '\0';
    AM_CHECK(pipe2(fd, O_CLOEXEC) == 0, AM_ERR_ENVIRONMENT, "no pipe: %s", strerror(errno));
    AM_CHECK(posix_spawn_file_actions_init(&actions) == 0 && posix_spawnattr_init(&own_group) == 0,
             AM_ERR_MEMORY, "no memory to start %s", argv[0]);
    posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
    posix_spawn_file_actions_adddup2(&actions, fd[1], 1);
    if (with_errors)
        posix_spawn_file_actions_adddup2(&actions, fd[1], 2);
    else
        posix_spawn_file_actions_addopen(&actions, 2, "/dev/null", O_WRONLY, 0);
    posix_spawnattr_setflags(&own_group, POSIX_SPAWN_SETPGROUP);
    int failed = posix_spawnp(&pid, argv[0], &actions, &own_group, (char *const *)(uintptr_t)argv, environ);
    posix_spawn_file_actions_destroy(&actions);
    posix_spawnattr_destroy(&own_group);
    close(fd[1]);
    fd[1] = -1;
    if (failed) goto done;
    bool in_time = read_all(fd[0], limit_s, out, size);
    if (!in_time) kill(-pid, SIGKILL);
    while (waitpid(pid, &wait_status, 0) < 0 && errno == EINTR) continue;
    *rc = !in_time ? TOO_SLOW : WIFEXITED(wait_status) ? WEXITSTATUS(wait_status) : 1;
done:
    if (fd[0] >= 0) close(fd[0]);
    if (fd[1] >= 0) close(fd[1]);
    return st;
}

/* "word", not as a part of another one: "pmix" and "pmix_v4" have it, "nopmix" has not. */
static bool has_word(const char *text, const char *word)
{
    size_t n = strlen(word);
    for (const char *p = strstr(text, word); p; p = strstr(p + 1, word)) {
        bool begins = p == text || !isalnum((unsigned char)p[-1]), ends = !isalnum((unsigned char)p[n]);
        if (begins && ends) return true;
    }
    return false;
}

/* Every run of white space becomes one blank; none at the end. */
static void squeeze(char *text)
{
    char *to = text;
    for (const char *c = text; *c; c++)
        if (!isspace((unsigned char)*c))
            *to++ = *c;
        else if (to > text && to[-1] != ' ')
            *to++ = ' ';
    if (to > text && to[-1] == ' ') to--;
    *to = '\0';
}

/* The last line that says something: what a program gives up with. */
static const char *last_line(char *text)
{
    for (size_t n = strlen(text); n > 0 && isspace((unsigned char)text[n - 1]); n--) text[n - 1] = '\0';
    char *end = strrchr(text, '\n');
    return end ? end + 1 : text;
}

/* Ranks start with srun only where Slurm has the plugin of the MPI library's PMI. */
static am_status check_slurm(am_doctor *d)
{
    am_status st = AM_OK;
    enum { LIMIT_S = 5 };
    static const char *const argv[] = {"srun", "--mpi=list", NULL};
    static const char with_mpirun[] =
        "start ranks with mpirun inside the allocation; slurm/sft.sh does so by itself";
    char srun[512], said[1024], text[2048];
    int rc;
    find_program("srun", srun, sizeof srun);
    if (!srun[0]) goto done; /* no Slurm here; `MPI launcher` tells */
    AM_TRY(ask(argv, LIMIT_S, true, said, sizeof said, &rc));
    if (rc == 0 && has_word(said, "pmix")) {
        AM_TRY(add(d, "Slurm", "srun --mpi=pmix starts ranks", NULL));
        goto done;
    }
    if (rc == 0) {
        squeeze(said);
        snprintf(text, sizeof text, "no pmix plugin (srun --mpi=list: %s): %s", said, with_mpirun);
    } else if (rc == TOO_SLOW) {
        snprintf(text, sizeof text, "srun --mpi=list gave no answer in %d s: %s", LIMIT_S, with_mpirun);
    } else {
        snprintf(text, sizeof text, "%s is there, but no Slurm answers it (%s)", srun, last_line(said));
    }
    AM_TRY(note(d, "Slurm", text));
done:
    return st;
}

/* In a job: what Slurm granted, as topo reads it; numbers that Slurm does not tell are left out. */
static am_status check_allocation(am_doctor *d)
{
    am_status st = AM_OK;
    am_topo_allocation a;
    am_str text = {0};
    char bytes[32];
    if (am_topo_allocation_read(&a) != AM_OK) {
        AM_TRY(am_str_printf(&text, "%s", am_error_message()));
        am_error_clear();
        AM_TRY(add(d, "allocation", text.s, "leave Slurm's variables as sbatch, salloc and srun set them"));
        goto done;
    }
    if (!a.slurm) goto done;
    AM_TRY(am_str_printf(&text, "job %s, node %s", a.job, a.node));
    if (a.nodes > 0) AM_TRY(am_str_printf(&text, " of %" PRId64, a.nodes));
    if (a.ranks > 0) AM_TRY(am_str_printf(&text, ", %" PRId64 " rank%s", a.ranks, a.ranks == 1 ? "" : "s"));
    if (a.ranks_per_node > 0) AM_TRY(am_str_printf(&text, " (at most %" PRId64 " a node)", a.ranks_per_node));
    if (a.cpus_per_rank > 0) AM_TRY(am_str_printf(&text, ", --cpus-per-task=%" PRId64, a.cpus_per_rank));
    if (a.cpus_on_node > 0) AM_TRY(am_str_printf(&text, ", %" PRId64 " CPUs of this node", a.cpus_on_node));
    if (a.memory_per_node > 0)
        AM_TRY(am_str_printf(&text, ", %s of its memory (%s)", am_cli_bytes(a.memory_per_node, bytes),
                             a.memory_from));
    if (a.restarts > 0)
        AM_TRY(am_str_printf(&text, ", requeued %" PRId64 " time%s", a.restarts, a.restarts == 1 ? "" : "s"));
    AM_TRY(add(d, "allocation", text.s, NULL));
done:
    am_str_release(&text);
    return st;
}

static am_status check_jinja(am_doctor *d)
{
    am_status st = AM_OK;
    const char *python = getenv("AM_PYTHON");
    enum { LIMIT_S = 30 }; /* a Python on a network file system takes its time */
    char version[128], text[512];
    int rc;
    if (!python || !*python) python = "/usr/bin/python3";
    const char *const argv[] = {python, "-I", "-c", "import jinja2; print(jinja2.__version__)", NULL};
    AM_TRY(ask(argv, LIMIT_S, false, version, sizeof version, &rc));
    version[strcspn(version, "\n")] = '\0';
    if (rc == 0)
        snprintf(text, sizeof text, "jinja2 %s of %s", version, python);
    else
        snprintf(text, sizeof text, "%s %s", python,
                 rc == NOT_STARTED ? "cannot be started"
                 : rc == TOO_SLOW  ? "does not import jinja2 within 30 s"
                                   : "has no jinja2");
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
    char **families = NULL, **path = NULL, text[1024];
    size_t n = 0, num_cards = 0;
    am_status read = am_card_families(NULL, &families, &n);
    if (read == AM_OK) read = am_card_paths(NULL, &path, &num_cards);
    const char *slash = read == AM_OK && num_cards > 0 ? strrchr(path[0], '/') : NULL;
    if (slash)
        snprintf(text, sizeof text, "%zu families in %zu cards of %.*s", n, num_cards, (int)(slash - path[0]), path[0]);
    else
        snprintf(text, sizeof text, "%s", read == AM_OK ? "none" : am_error_message());
    am_error_clear();
    AM_TRY(add(d, "model cards", text, slash ? NULL : "install automodel with its configs/, or name the folder with AM_CARDS"));
done:
    am_card_paths_free(&families, n);
    am_card_paths_free(&path, num_cards);
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
    static am_status (*const checks[])(am_doctor *) = {
        check_cores,      check_memory, check_huge_pages, check_launcher, check_slurm,
        check_allocation, check_jinja,  check_hdf5,       check_cards,    check_limits};
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
