/* One start of a run whose rank may die in its save, for test_ckpt_kill.sh:
 *     ckpt_kill DIR STEP RANK MASK AT
 * Finds the latest checkpoint in DIR and compares it with what that step's save held, prints "found N", saves
 * STEP; rank RANK (-1: none) is killed before its call AT of the kinds MASK (io_shim.h).  Prints "committed"
 * when the save is. */
#include "ckpt_test.h"

#include "io_shim.h"

#include <dlfcn.h>
#include <string.h>

static const char *dir;
static int64_t step, victim, mask, at;

static void test_kill__start_and_save(void **state)
{
    pt_run r;
    pt_shape s = pt_default_shape();
    io_shim_set_fn set;
    void *p = dlsym(RTLD_DEFAULT, "io_shim_set");
    memcpy(&set, &p, sizeof set);
    assert_non_null(p);
    s.rows = 1;
    s.layers = 1;
    ct_run(&r, &s, am_comm_size(ct_comm), 1, NULL, ct_comm);
    int64_t found = ct_latest(dir, &r, ct_comm);
    if (am_comm_rank(ct_comm) == 0) printf("found %d\n", (int)found);
    fflush(stdout);
    am_ckpt *k = ct_ckpt(&r, dir, 1, step % 2);
    if (victim == am_comm_rank(ct_comm)) set(dir, IO_SHIM_KILL, (unsigned)mask, 0, at);
    ct_save(&r, k, step);
    if (am_comm_rank(ct_comm) == 0) printf("committed\n");
    am_ckpt_free(&k);
    pt_free(&r);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_kill__start_and_save)};
    if (argc != 6 || !am_parse_i64(argv[2], &step) || !am_parse_i64(argv[3], &victim) ||
        !am_parse_i64(argv[4], &mask) || !am_parse_i64(argv[5], &at)) {
        fprintf(stderr, "usage: %s DIR STEP RANK MASK AT\n", argv[0]);
        return 2;
    }
    dir = argv[1];
    return ct_main("ckpt kill", tests, 1);
}
