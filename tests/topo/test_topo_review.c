/* Placements of all ranks side by side: each trouble is told once, with the option that helps, and nothing
 * else is told. */
#include "topo_test.h"

enum { MOST = 4096 };
static am_topo_record records[MOST];
static int count;
static char *found[AM_TOPO_FINDINGS];
static const am_topo_allocation slurm = {.slurm = true, .step = true}, mpirun = {.mpirun = true};

enum { CROWDED, CLASH, UNUSED };

/* A rank on node `node` with the cores [first, first + cores); loose for first < 0. */
static void rank_on(int node, int granted, int cpus_per_core, int first, int cores)
{
    am_topo_record *r = &records[count++];
    /* in an order other than that of the names */
    *r = (am_topo_record){.node_id = (uint64_t)(node + 1) * 0x9e3779b97f4a7c15u, .cores = cores,
                          .granted = granted, .cpus_per_core = cpus_per_core, .loose = first < 0};
    snprintf(r->node, sizeof r->node, "n%d", node);
    for (int c = first; first >= 0 && c < first + cores; c++)
        r->used.word[c * cpus_per_core / 64] |= (uint64_t)1 << c * cpus_per_core % 64;
}

static void start(void)
{
    count = 0;
    for (int k = 0; k < AM_TOPO_FINDINGS; k++) am_free(&found[k]);
}

static void review(const am_topo_allocation *a)
{
    for (int k = 0; k < AM_TOPO_FINDINGS; k++) am_free(&found[k]);
    OK(am_topo_review(records, count, a, found));
}

static void nothing_but(int kind)
{
    for (int k = 0; k < AM_TOPO_FINDINGS; k++)
        if (k != kind && found[k]) fail_msg("told: %s", found[k]);
    if (kind >= 0 && !found[kind]) fail_msg("nothing told");
}

static void says(int kind, const char *what)
{
    if (!found[kind] || !strstr(found[kind], what))
        fail_msg("\"%s\" not in: %s", what, found[kind] ? found[kind] : "nothing");
}

static void test_topo_review__clash(void **state)
{
    start();
    for (int r = 0; r < 2; r++) rank_on(1, 8, 1, 2 * r, 2);
    rank_on(1, 8, 1, 4, 2);
    rank_on(1, 8, 1, 5, 3);
    review(&slurm);
    nothing_but(CLASH);
    says(CLASH, "ranks 2 and 3 of node n1 run on the same core (that of hardware thread 5)");
    says(CLASH, "ask sbatch for --cpus-per-task=2");
    assert_null(strstr(found[CLASH], "more ranks"));
    assert_null(strstr(found[CLASH], "nodes"));
    review(&mpirun);
    says(CLASH, "mpirun --map-by slot:PE=2 --bind-to core");
    /* four ranks on one of 16 cores, with two hardware threads each: cores are left over, too */
    start();
    for (int r = 0; r < 4; r++) rank_on(1, 16, 2, 3, 1);
    review(&slurm);
    says(CLASH, "ranks 0 and 1 of node n1");
    says(CLASH, "hardware thread 6");
    says(CLASH, "and 2 more ranks");
    says(CLASH, "--cpus-per-task=8");
    says(UNUSED, "15 of node n1's 16 cores of this job are used by no rank (4 ranks there)");
    says(UNUSED, "--cpus-per-task=8");
    assert_null(found[CROWDED]);
}

static void test_topo_review__unused(void **state)
{
    start();
    for (int r = 0; r < 2; r++) rank_on(1, 16, 1, 4 * r, 4);
    review(&slurm);
    nothing_but(UNUSED);
    says(UNUSED, "8 of node n1's 16 cores of this job are used by no rank (2 ranks there)");
    says(UNUSED, "ask sbatch for --cpus-per-task=8");
    says(UNUSED, "SRUN_CPUS_PER_TASK=8");
    says(UNUSED, "or for --ntasks-per-node=4 --cpus-per-task=4");
    review(&mpirun);
    says(UNUSED, "8 of node n1's 16 cores are used by no rank");
    says(UNUSED, "mpirun --map-by slot:PE=8 --bind-to core");
    /* Slurm counts two CPUs a core */
    start();
    for (int r = 0; r < 2; r++) rank_on(1, 16, 2, 4 * r, 4);
    review(&slurm);
    says(UNUSED, "--cpus-per-task=16");
    says(UNUSED, "--ntasks-per-node=4 --cpus-per-task=8");
    /* three times five of sixteen: only another number of ranks helps */
    start();
    for (int r = 0; r < 3; r++) rank_on(1, 16, 1, 5 * r, 5);
    review(&slurm);
    says(UNUSED, "1 of node n1's 16 cores of this job is used by no rank");
    says(UNUSED, "ask sbatch for --ntasks-per-node=4 --cpus-per-task=4");
    review(&mpirun);
    says(UNUSED, "--map-by ppr:4:node:PE=4");
    /* 6, 5 and 4 of 15 plus one: a part for each of the same size */
    start();
    rank_on(1, 17, 1, 0, 6);
    rank_on(1, 17, 1, 6, 5);
    rank_on(1, 17, 1, 11, 4);
    review(&slurm);
    says(UNUSED, "ask sbatch for --cpus-per-task=5");
    /* not bound: counted */
    start();
    rank_on(1, 4, 1, -1, 2);
    rank_on(1, 4, 1, -1, 1);
    review(&slurm);
    nothing_but(UNUSED);
    says(UNUSED, "1 of node n1's 4 cores of this job");
}

static void test_topo_review__crowded(void **state)
{
    start();
    for (int r = 0; r < 4; r++) rank_on(1, 2, 1, r / 2, 1);
    review(&slurm);
    nothing_but(CROWDED);
    says(CROWDED, "the 4 ranks of node n1 share 2 cores of this job");
    says(CROWDED, "--ntasks-per-node=2");
    says(CROWDED, "--cpus-per-task=1, without --overcommit");
    review(&mpirun);
    says(CROWDED, "mpirun --map-by ppr:2:node");
    /* two tasks on the two hardware threads of a core */
    start();
    for (int r = 0; r < 2; r++) rank_on(1, 1, 2, 3, 1);
    review(&slurm);
    nothing_but(CROWDED);
    says(CROWDED, "share 1 core of");
    says(CROWDED, "--cpus-per-task=2,");
    start(); /* all on one of the two: still the one trouble */
    for (int r = 0; r < 3; r++) rank_on(1, 2, 1, 0, 1);
    review(&slurm);
    nothing_but(CROWDED);
    start();
    for (int r = 0; r < 2; r++) rank_on(1, 1, 1, -1, 1);
    review(&slurm);
    nothing_but(CROWDED);
}

/* 1000 nodes of four ranks, dealt out in turn */
static void test_topo_review__many_nodes(void **state)
{
    start();
    for (int r = 0; r < 4000; r++) rank_on(r % 1000, 8, 1, r / 1000 * 2, 2);
    review(&slurm);
    nothing_but(-1);
    static const int bad[] = {4, 70, 71, 300, 512, 999};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) records[3000 + bad[i]].used = records[bad[i]].used;
    review(&slurm);
    says(CLASH, "ranks 4 and 3004 of node n4 run on the same core (that of hardware thread 0), and 5 more");
    says(CLASH, "so it is on 6 nodes (n4, n70, n71, n300, …)");
    says(UNUSED, "2 of node n4's 8 cores");
    /* the same cores of two virtual nodes on one host, which bear one name */
    start();
    for (int r = 0; r < 4; r++) rank_on(r / 2, 8, 1, r % 2 * 4, 4);
    for (int r = 0; r < 4; r++) snprintf(records[r].node, sizeof records[r].node, "host");
    review(&slurm);
    nothing_but(-1);
}

/* what placement itself makes is in order, however many ranks; without a launcher nobody is told */
static void test_topo_review__no_false_alarm(void **state)
{
    const am_topo_allocation alone = {.node = "here"};
    am_topo *t = load_topo("HWLOC_SYNTHETIC", "pack:2 core:8 pu:2");
    for (int ranks = 1; ranks <= 16; ranks++) {
        start();
        for (int r = 0; r < ranks; r++) {
            am_topo_placement p;
            am_topo_allocation a = {.slurm = true, .step = true, .cpus_on_node = 32, .node = "n1"};
            am_topo_request q = {.local_rank = r, .local_size = ranks, .allocation = &a,
                                 .threads = ranks % 2, .spare_cores = ranks % 3};
            OK(am_topo_place(t, &q, &p));
            if (q.threads == 1 && p.cores > 1) assert_non_null(strstr(p.line, "as few threads as asked"));
            records[count++] = am_topo_record_of(&p, &a);
            am_topo_placement_release(&p);
        }
        assert_string_equal(records[0].node, "n1");
        review(&slurm);
        nothing_but(-1);
    }
    start();
    rank_on(1, 16, 1, 0, 3);
    review(&alone);
    nothing_but(-1);
    start();
    am_topo_free(&t);
}

static void test_topo_review__node_id(void **state)
{
    const am_topo_allocation n1 = {.slurm = true, .node = "n1"}, n2 = {.slurm = true, .node = "n2"},
                             host = {.node = "n1"};
    assert_true(am_topo_node_id(&n1) == am_topo_node_id(&n1));
    assert_true(am_topo_node_id(&n1) != am_topo_node_id(&n2));
    assert_true(am_topo_node_id(&host) == am_topo_node_id(&host));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_topo_review__clash),
        cmocka_unit_test(test_topo_review__unused),
        cmocka_unit_test(test_topo_review__crowded),
        cmocka_unit_test(test_topo_review__many_nodes),
        cmocka_unit_test(test_topo_review__no_false_alarm),
        cmocka_unit_test(test_topo_review__node_id),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
