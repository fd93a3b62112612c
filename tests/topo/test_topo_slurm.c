/* Who gets which cores in a Slurm job, on synthetic machines, with bindings as srun and mpirun give them. */
#include "topo_test.h"

/* 2 packages × 8 cores × 2 hardware threads: core c has threads 2c and 2c+1; and 2 × 4 cores with one each */
static const char smt[] = "pack:2 [numa] core:8 pu:2", eight[] = "pack:2 [numa] core:4 pu:1";

enum { MOST = 8 };
static am_topo_placement placed[MOST];

static void release_all(void)
{
    for (int r = 0; r < MOST; r++) am_topo_placement_release(&placed[r]);
}

/* Places n local ranks; bound[r] NULL = not bound. */
static void place_all(const am_topo *t, const am_topo_allocation *a, int n, const char *const *bound)
{
    am_topo_set sets[MOST];
    release_all();
    for (int r = 0; r < n; r++) OK(am_topo_bound(t, bound ? bound[r] : NULL, &sets[r]));
    for (int r = 0; r < n; r++) {
        am_topo_request q = {.local_rank = r, .local_size = n, .allocation = a, .bound = sets,
                             .assume_bound = bound ? bound[r] : NULL};
        OK(am_topo_place(t, &q, &placed[r]));
    }
}

static void expect(int rank, const char *share, int threads, const char *why)
{
    const am_topo_placement *p = &placed[rank];
    if (strcmp(p->share, share) || p->threads != threads || !strstr(p->line, why))
        fail_msg("rank %d: %s; expected share %s, %d threads, \"%s\"", rank, p->line, share, threads, why);
    assert_true(p->loose || p->shared || p->pu);
    for (int i = 0; p->pu && i < p->threads; i++) {
        hwloc_bitmap_t in = hwloc_bitmap_alloc();
        hwloc_bitmap_list_sscanf(in, share);
        assert_true(hwloc_bitmap_isset(in, (unsigned)p->pu[i]));
        hwloc_bitmap_free(in);
    }
}

static am_topo_allocation task(int64_t cpus_on_node, int64_t cpus_per_rank)
{
    return (am_topo_allocation){.slurm = true, .step = true, .job = "1", .node = "n1",
                                .cpus_on_node = cpus_on_node, .cpus_per_rank = cpus_per_rank};
}

static am_topo_allocation mpirun(int64_t cpus_on_node)
{
    return (am_topo_allocation){.slurm = true, .mpirun = true, .job = "1", .node = "n1",
                                .cpus_on_node = cpus_on_node};
}

static void test_topo_slurm__binding_is_kept(void **state)
{
    am_topo *t = load_topo("HWLOC_SYNTHETIC", eight);
    /* srun -n2 -c4 --cpu-bind=cores */
    am_topo_allocation a = task(8, 4);
    place_all(t, &a, 2, (const char *[]){"0-3", "4-7"});
    expect(0, "0-3", 4, "Slurm's binding");
    expect(1, "4-7", 4, "NUMA 1)");
    assert_false(placed[1].corrected);
    /* one core each: never widened, not on a node of its own and not beside other jobs */
    for (int cpus = 2; cpus <= 8; cpus += 6) {
        a = task(cpus, 0);
        place_all(t, &a, 2, (const char *[]){"2", "5"});
        expect(0, "2", 1, "Slurm's binding");
        expect(1, "5", 1, "Slurm's binding");
        assert_int_equal(placed[0].granted, cpus);
    }
    /* the batch script itself, bound by task/affinity to the job's cores */
    a = task(1, 0);
    a.step = false;
    place_all(t, &a, 1, (const char *[]){"3"});
    expect(0, "3", 1, "Slurm's binding");
    release_all();
    am_topo_free(&t);
}

static void test_topo_slurm__sockets(void **state)
{
    am_topo *t = load_topo("HWLOC_SYNTHETIC", eight);
    am_topo_allocation a = task(8, 0);
    place_all(t, &a, 2, (const char *[]){"0-3", "4-7"});
    expect(1, "4-7", 4, "Slurm's binding");
    /* two tasks on each socket, dealt out in turn: each socket's divide it */
    place_all(t, &a, 4, (const char *[]){"0-3", "4-7", "0-3", "4-7"});
    static const char *const share[] = {"0-1", "4-5", "2-3", "6-7"};
    for (int r = 0; r < 4; r++) {
        expect(r, share[r], 2, "the same for 2 local ranks");
        assert_true(placed[r].corrected);
    }
    place_all(t, &a, 3, (const char *[]){"0-3", "0-3", "0-3"});
    expect(0, "0-1", 2, "3 local ranks");
    expect(1, "2", 1, "3 local ranks");
    expect(2, "3", 1, "3 local ranks");
    /* more tasks than cores in one binding, as with --overcommit */
    place_all(t, &a, 4, (const char *[]){"6-7", "6-7", "6-7", "6-7"});
    expect(0, "6", 1, "which are more and share cores");
    expect(3, "7", 1, "which are more and share cores");
    assert_true(placed[0].shared);
    /* bindings that overlap in part are left alone, and reviewed */
    place_all(t, &a, 2, (const char *[]){"0-3", "2-5"});
    expect(0, "0-3", 4, "Slurm's binding");
    expect(1, "2-5", 4, "Slurm's binding");
    release_all();
    am_topo_free(&t);
}

static void test_topo_slurm__no_binding(void **state)
{
    am_topo *t = load_topo("HWLOC_SYNTHETIC", eight);
    am_topo_allocation a = task(8, 2); /* the node is the job's */
    place_all(t, &a, 4, NULL);
    expect(3, "6-7", 2, "no binding by Slurm, the job's cores cut evenly");
    assert_false(placed[3].loose);
    place_all(t, &a, 1, NULL);
    expect(0, "0-7", 8, "all cores of the job on this node");
    a = task(0, 0); /* not told */
    place_all(t, &a, 2, NULL);
    expect(1, "4-7", 4, "cut evenly");
    /* a shared node where nothing confines the job */
    a = task(4, 2);
    place_all(t, &a, 2, NULL);
    for (int r = 0; r < 2; r++) {
        expect(r, "0-7", 2, "--exclusive");
        assert_non_null(strstr(placed[r].line, "granted the job 4 CPUs"));
        assert_non_null(strstr(placed[r].line, "TaskPlugin=task/affinity,task/cgroup"));
        assert_true(placed[r].loose && !placed[r].bind && !placed[r].pu);
        assert_int_equal(placed[r].granted, 4);
    }
    a = task(5, 0);
    place_all(t, &a, 2, NULL);
    expect(1, "0-7", 2, "--exclusive");
    a = task(1, 0);
    place_all(t, &a, 4, NULL);
    expect(3, "0-7", 1, "--exclusive");
    /* what was asked for stays */
    am_topo_placement p;
    OK(am_topo_place(t, &(am_topo_request){.local_size = 1, .allocation = &a, .threads = 6}, &p));
    assert_int_equal(p.threads, 6);
    assert_int_equal(p.cores, 1);
    am_topo_placement_release(&p);
    release_all();
    am_topo_free(&t);
}

/* 16 cores, 32 hardware threads */
static void test_topo_slurm__hardware_threads(void **state)
{
    am_topo *t = load_topo("HWLOC_SYNTHETIC", smt);
    am_topo_allocation a = task(32, 0);
    place_all(t, &a, 2, NULL);
    expect(1, "16-31", 8, "cut evenly");
    assert_int_equal(placed[0].cpus_per_core, 2);
    a = task(16, 0); /* a cluster that counts cores */
    place_all(t, &a, 2, NULL);
    expect(1, "16-31", 8, "cut evenly");
    assert_int_equal(placed[0].cpus_per_core, 1);
    a = task(24, 12); /* can only be hardware threads: 12 cores, nobody says which */
    place_all(t, &a, 2, NULL);
    expect(0, "0-31", 6, "--exclusive");
    assert_int_equal(placed[0].granted, 12);
    a = task(8, 4);
    place_all(t, &a, 2, NULL);
    expect(0, "0-31", 2, "--exclusive");
    /* -n2 -c4 bound: two cores with both threads; with --hint=nomultithread: four with one */
    place_all(t, &a, 2, (const char *[]){"0-3", "4-7"});
    expect(1, "4-7", 2, "2 of 16 cores");
    a.threads_per_core = 1;
    place_all(t, &a, 2, (const char *[]){"0,2,4,6", "8,10,12,14"});
    expect(1, "8,10,12,14", 4, "Slurm's binding");
    assert_int_equal(placed[1].pu[3], 14);
    assert_int_equal(placed[1].cpus_per_core, 1);
    /* the first threads of all cores: not the second ones as well */
    a = task(32, 0);
    place_all(t, &a, 1, (const char *[]){"0,2,4,6,8,10,12,14,16,18,20,22,24,26,28,30"});
    expect(0, "0,2,4,6,8,10,12,14,16,18,20,22,24,26,28,30", 16, "all cores of the job");
    /* --exclusive, 32 CPUs, and a step of one task with the two of one core: the review asks what the others are for */
    a = task(2, 2);
    a.job_cpus_on_node = 32;
    place_all(t, &a, 1, (const char *[]){"6-7"});
    expect(0, "6-7", 1, "Slurm's binding");
    assert_int_equal(placed[0].granted, 16);
    /* two tasks on the two threads of one core: the same core in the eyes of the review */
    a = task(2, 1);
    place_all(t, &a, 2, (const char *[]){"6", "7"});
    assert_memory_equal(&placed[0].used, &placed[1].used, sizeof placed[0].used);
    assert_true(placed[0].used.word[0] == 1u << 6);
    assert_int_equal(placed[0].granted, 1);
    release_all();
    am_topo_free(&t);
}

static void test_topo_slurm__mpirun(void **state)
{
    am_topo *t = load_topo("HWLOC_SYNTHETIC", smt);
    am_topo_allocation a = mpirun(32);
    place_all(t, &a, 2, (const char *[]){"0-1", "2-3"});
    expect(1, "16-31", 8, "bound this rank to 1 core");
    assert_true(placed[1].corrected);
    /* 8 of 32 CPUs: the cores beside mpirun's one may be another job's */
    a = mpirun(8);
    place_all(t, &a, 2, (const char *[]){"0-1", "2-3"});
    expect(1, "2-3", 1, "which further cores are the job's is unknown");
    place_all(t, &a, 2, (const char *[]){"0-3", "4-7"});
    expect(1, "4-7", 2, "the launcher's binding");
    place_all(t, &a, 2, (const char *[]){"0-15", "16-31"});
    expect(1, "16-31", 2, "--exclusive");
    assert_true(placed[1].loose);
    place_all(t, &a, 2, NULL);
    expect(1, "0-31", 2, "--exclusive");
    release_all();
    am_topo_free(&t);
}

/* outside of Slurm, the others' bindings known */
static void test_topo_slurm__mpirun_alone(void **state)
{
    am_topo *t = load_topo("HWLOC_SYNTHETIC", smt);
    am_topo_allocation a = {.mpirun = true, .node = "here"};
    /* a NUMA node for each of four ranks on two: each divides its own */
    place_all(t, &a, 4, (const char *[]){"0-15", "16-31", "0-15", "16-31"});
    static const char *const share[] = {"0-7", "16-23", "8-15", "24-31"};
    for (int r = 0; r < 4; r++) expect(r, share[r], 4, "the same for 2 local ranks");
    place_all(t, &a, 2, (const char *[]){"0-15", "8-23"});
    expect(0, "0-15", 8, "overlap, cores cut evenly");
    expect(1, "16-31", 8, "overlap, cores cut evenly");
    /* one rank on one core beside another's eight: meant, or widening it would run into the other */
    place_all(t, &a, 2, (const char *[]){"16-17", "18-31"});
    expect(0, "16-17", 1, "the launcher's binding");
    expect(1, "18-31", 7, "the launcher's binding");
    place_all(t, &a, 2, (const char *[]){"0-1", "0-1"});
    expect(1, "16-31", 8, "bound this rank to 1 core");
    release_all();
    am_topo_free(&t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_topo_slurm__binding_is_kept),
        cmocka_unit_test(test_topo_slurm__sockets),
        cmocka_unit_test(test_topo_slurm__no_binding),
        cmocka_unit_test(test_topo_slurm__hardware_threads),
        cmocka_unit_test(test_topo_slurm__mpirun),
        cmocka_unit_test(test_topo_slurm__mpirun_alone),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
