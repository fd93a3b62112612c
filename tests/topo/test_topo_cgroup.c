/* Memory and CPU limits from made-up /proc and /sys/fs/cgroup trees, and the real ones. */
#include "topo/topo_internal.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define OK(call)                                                                                             \
    do {                                                                                                     \
        if ((call) != AM_OK) fail_msg("%s: %s", #call, am_error_message());                                  \
    } while (0)

static char base[] = "/tmp/am_topo_cgroup_XXXXXX";

static int make_base(void **state)
{
    return mkdtemp(base) ? 0 : -1;
}

static int remove_base(void **state)
{
    char command[128];
    snprintf(command, sizeof command, "rm -r '%s'", base);
    return system(command);
}

static const char *in_base(const char *name)
{
    static char path[4][256];
    static int next;
    char *p = path[next++ % 4];
    snprintf(p, 256, "%s/%s", base, name);
    return p;
}

static void put(const char *name, const char *text)
{
    char dir[256];
    snprintf(dir, sizeof dir, "%s", in_base(name));
    *strrchr(dir, '/') = '\0';
    OK(am_mkdirs(dir));
    OK(am_file_write_atomic(in_base(name), text, strlen(text)));
}

static const char meminfo[] = "MemTotal:       1000000 kB\nMemFree:  5 kB\nMemAvailable:    800000 kB\n";

static void test_topo_cgroup__v2(void **state)
{
    put("v2/proc/meminfo", meminfo);
    put("v2/proc/self/cgroup", "0::/slurm/job_7/step_0\n");
    put("v2/cg/slurm/job_7/memory.max", "300000000\n");
    put("v2/cg/slurm/job_7/memory.current", "120000000\n");
    put("v2/cg/slurm/job_7/memory.stat", "anon 1\ninactive_file 20000000\nactive_file 9\n");
    put("v2/cg/slurm/job_7/step_0/memory.max", "max\n");
    put("v2/cg/slurm/memory.max", "900000000\n");
    put("v2/cg/slurm/job_7/cpu.max", "350000 100000\n");
    put("v2/cg/slurm/job_7/step_0/cpu.max", "max 100000\n");
    am_topo_memory m;
    OK(am_topo_memory_read(in_base("v2/proc"), in_base("v2/cg"), &m));
    assert_int_equal(m.total_bytes, 1024000000);
    assert_int_equal(m.limit_bytes, 300000000);
    assert_int_equal(m.available_bytes, 200000000); /* 300 − (120 − 20) */
    assert_non_null(strstr(m.limited_by, "job_7/memory.max"));
    assert_true(am_topo_cpu_quota(in_base("v2/proc"), in_base("v2/cg")) == 3.5);
}

static void test_topo_cgroup__v1(void **state)
{
    put("v1/proc/meminfo", meminfo);
    put("v1/proc/self/cgroup", "5:cpuacct,cpu:/a\n4:memory:/a/b\n1:name=systemd:/\n");
    put("v1/cg/memory/a/b/memory.limit_in_bytes", "9223372036854771712\n");
    put("v1/cg/memory/a/memory.limit_in_bytes", "500000000\n");
    put("v1/cg/memory/a/memory.usage_in_bytes", "100000000\n");
    put("v1/cg/memory/a/memory.stat", "cache 3\ntotal_inactive_file 50000000\n");
    put("v1/cg/cpu/a/cpu.cfs_quota_us", "-1\n");
    put("v1/cg/cpu/a/cpu.cfs_period_us", "100000\n");
    am_topo_memory m;
    OK(am_topo_memory_read(in_base("v1/proc"), in_base("v1/cg"), &m));
    assert_int_equal(m.limit_bytes, 500000000);
    assert_int_equal(m.available_bytes, 450000000);
    assert_true(am_topo_cpu_quota(in_base("v1/proc"), in_base("v1/cg")) == 0);
    put("v1/cg/cpu/a/cpu.cfs_quota_us", "150000\n");
    assert_true(am_topo_cpu_quota(in_base("v1/proc"), in_base("v1/cg")) == 1.5);
}

/* a container that sees its own group as the root; then a machine without limits, and one without /proc */
static void test_topo_cgroup__root_and_none(void **state)
{
    put("c/proc/meminfo", meminfo);
    put("c/proc/self/cgroup", "0::/docker/77\n");
    put("c/cg/memory.max", "64000000\n");
    am_topo_memory m;
    OK(am_topo_memory_read(in_base("c/proc"), in_base("c/cg"), &m));
    assert_int_equal(m.limit_bytes, 64000000);
    OK(am_topo_memory_read(in_base("c/proc"), in_base("c/nowhere"), &m));
    assert_int_equal(m.limit_bytes, -1);
    assert_int_equal(m.available_bytes, 819200000);
    assert_string_equal(m.limited_by, "");
    assert_int_equal(am_topo_memory_read(in_base("c/nowhere"), in_base("c/cg"), &m), AM_ERR_ENVIRONMENT);
}

static void test_topo_cgroup__this_machine(void **state)
{
    am_topo_memory m;
    OK(am_topo_memory_limit(&m));
    assert_int_equal(m.total_bytes / 4096, sysconf(_SC_PHYS_PAGES) * (sysconf(_SC_PAGESIZE) / 4096));
    assert_true(m.available_bytes > 0 && m.available_bytes <= m.total_bytes);
    assert_true(m.limit_bytes == -1 || m.available_bytes <= m.limit_bytes);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_topo_cgroup__v2),
        cmocka_unit_test(test_topo_cgroup__v1),
        cmocka_unit_test(test_topo_cgroup__root_and_none),
        cmocka_unit_test(test_topo_cgroup__this_machine),
    };
    return cmocka_run_group_tests(tests, make_base, remove_base);
}
