/* WALLS 5: compiling is pure and cheap.  Ranks 0 and 511 of a 70B model on 512 ranks, from its config.json
 * alone: less than 2 s of processor time and 200 MB together, without MPI: no function of it is called, not
 * even one that asks whether it runs. */
#include "graph/model.h"
#include "graph/program.h"

#include <mpi.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <cmocka.h>

#define OK(call)                                                                                             \
    do {                                                                                                     \
        if ((call) != AM_OK) fail_msg("%s: %s", #call, am_error_message());                                  \
    } while (0)

enum { RANKS = 512 };
enum { MAX_SECONDS = 2, MAX_MB = 200 };

/* The linker takes these before MPI's: whoever calls MPI here is counted. */
static int mpi_calls;
int MPI_Init(int *argc, char ***argv)
{
    return mpi_calls++;
}
int MPI_Init_thread(int *argc, char ***argv, int required, int *provided)
{
    return mpi_calls++;
}
int MPI_Initialized(int *flag)
{
    return *flag = 0, mpi_calls++;
}
int MPI_Comm_rank(MPI_Comm comm, int *rank)
{
    return mpi_calls++;
}
int MPI_Comm_size(MPI_Comm comm, int *size)
{
    return mpi_calls++;
}

static double processor_seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static am_program *compile(const am_model *m, int64_t rank)
{
    am_graph *g = NULL;
    am_program *p = NULL;
    am_program_options o = am_program_defaults(AM_PROGRAM_TRAIN);
    o.mesh.size[AM_MESH_DP_SHARD] = RANKS;
    o.rank = rank;
    o.threads = 8;
    o.recompute = AM_RECOMPUTE_FULL;
    OK(am_model_graph(m, 1, 4096, AM_BF16, &g));
    OK(am_program_compile(&g, &o, &p));
    return p;
}

static void test_compile__70b_on_512_ranks(void **state)
{
    char path[512];
    const char *source = getenv("AM_SOURCE_DIR");
    am_model *m = NULL;
    struct rusage use;
    double start = processor_seconds();
    snprintf(path, sizeof path, "%s/configs/llama3_70b/config.json", source ? source : ".");
    OK(am_model_open(path, AM_HF_WEIGHTS_NONE, NULL, NULL, 0, &m));
    am_program *first = compile(m, 0), *last = compile(m, RANKS - 1);
    double seconds = processor_seconds() - start;
    getrusage(RUSAGE_SELF, &use);
    double mb = (double)use.ru_maxrss * 1024e-6;
    print_message("two ranks compiled in %.2f s, %.0f MB\n", seconds, mb);
    assert_true(first->hash == last->hash && first->signature == last->signature);
    int64_t store = first->region_bytes[AM_REGION_STORE], parameters = 0;
    for (int p = 0; p < am_graph_num_params(first->graph); p++)
        parameters += am_param_elements(am_graph_param_at(first->graph, p));
    assert_true(parameters > 70e9 && parameters < 71e9);
    assert_true(store >= parameters / RANKS * 12 && (double)store < 1.001 * 12 * (double)parameters / RANKS);
    assert_int_equal(store, last->region_bytes[AM_REGION_STORE]);
    am_program_free(&first);
    am_program_free(&last);
    am_model_free(&m);
    assert_int_equal(mpi_calls, 0);
#ifndef __SANITIZE_ADDRESS__
    assert_true(seconds < MAX_SECONDS);
    assert_true(mb < MAX_MB);
#endif
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_compile__70b_on_512_ranks)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
