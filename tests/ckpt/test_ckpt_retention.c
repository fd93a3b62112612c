/* Which checkpoints go and which stay: never the last that is whole, never what is not ours, nothing behind a
 * link.  A step saved again.  Free space.  The limit on open files. */
#include "ckpt_test.h"

#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

static pt_run r;

static int setup(void **state)
{
    pt_shape s = pt_default_shape();
    s.rows = 1;
    s.layers = 1;
    ct_run(&r, &s, 1, 1, NULL, ct_comm);
    return 0;
}

static int teardown(void **state)
{
    pt_free(&r);
    return 0;
}

static const char *step_dir(const char *dir, int step)
{
    return ct_path("%s/step_%08d", dir, step);
}

static bool has(const char *dir, int step)
{
    return ct_exists(step_dir(dir, step));
}

static bool whole(const char *dir, int step)
{
    am_manifest *m = NULL;
    am_status st = am_manifest_open(step_dir(dir, step), &m);
    if (st == AM_OK) st = am_manifest_verify(m, 0, 1);
    am_manifest_free(&m);
    return st == AM_OK;
}

static void tear(const char *dir, int step)
{
    ct_remove(ct_path("%s/manifest.json", step_dir(dir, step)));
}

static void damage(const char *dir, int step)
{
    size_t n = 0;
    const char *path = ct_path("%s/rank-00000.safetensors", step_dir(dir, step));
    char *data = ct_read(path, &n);
    data[n - 1] ^= 1;
    ct_write(path, data, n);
    free(data);
}

static void save_all(const char *dir, int keep, const int *steps, int n)
{
    am_ckpt *k = ct_ckpt(&r, dir, keep, false);
    for (int i = 0; i < n; i++) ct_save(&r, k, steps[i]);
    am_ckpt_free(&k);
}

static void test_retention__keeps_the_newest(void **state)
{
    for (int keep = 0; keep <= 3; keep++) {
        const char *dir = ct_own_dir();
        save_all(dir, keep, (int[]){5, 9, 10, 99999999, 100000000}, 5);
        assert_int_equal(ct_count(dir), keep ? keep : 5);
        assert_true(whole(dir, 100000000));
        assert_int_equal(has(dir, 99999999), keep != 1);
        assert_int_equal(has(dir, 10), keep == 0 || keep == 3);
        assert_int_equal(ct_latest(dir, &r, ct_comm), 100000000);
    }
}

static void test_retention__torn_directories(void **state)
{
    const char *dir = ct_own_dir();
    save_all(dir, 0, (int[]){1, 2, 3, 4, 6}, 5);
    tear(dir, 1);
    tear(dir, 3);
    tear(dir, 4); /* the newest below 5 are torn, 2 is the last whole one */
    tear(dir, 6); /* in flight, beyond */
    assert_int_equal(ct_latest(dir, &r, ct_comm), 2);
    save_all(dir, 2, (int[]){5}, 1);
    assert_true(whole(dir, 5) && whole(dir, 2));
    assert_false(has(dir, 1) || has(dir, 3) || has(dir, 4));
    assert_true(has(dir, 6)); /* may be another's work at this moment; overtaken, it goes */
    save_all(dir, 1, (int[]){7}, 1);
    assert_int_equal(ct_count(dir), 1);
    assert_int_equal(ct_latest(dir, &r, ct_comm), 7);
}

/* The run fell back from a damaged step 9 to 4 and saves at 6: nothing beyond may push 6 out. */
static void test_retention__after_falling_back(void **state)
{
    const char *dir = ct_own_dir();
    save_all(dir, 0, (int[]){4, 9}, 2);
    damage(dir, 9);
    assert_int_equal(ct_latest(dir, &r, ct_comm), 4);
    save_all(dir, 1, (int[]){6}, 1);
    assert_true(whole(dir, 6));
    assert_false(has(dir, 4));
    assert_int_equal(ct_latest(dir, &r, ct_comm), 6);
    save_all(dir, 1, (int[]){9}, 1); /* arrived again: the damaged one is replaced */
    assert_true(whole(dir, 9));
    assert_int_equal(ct_count(dir), 1);
    assert_int_equal(ct_count(step_dir(dir, 9)), 2);
}

static void test_retention__what_is_not_ours(void **state)
{
    static const char *const names[] = {"step_00000001_backup", "step_1", "step_000000002", "step_+0000001",
                                        "step_00000001.old",    "step_",  "best",           "step_-0000001"};
    const char *dir = ct_own_dir();
    save_all(dir, 0, (int[]){1}, 1);
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        ct_copy_dir(step_dir(dir, 1), ct_path("%s/%s", dir, names[i]));
    ct_write(ct_path("%s/step_00000000", dir), "a file", 6);
    save_all(dir, 1, (int[]){3}, 1);
    assert_true(whole(dir, 3));
    assert_false(has(dir, 1));
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        assert_int_equal(ct_count(ct_path("%s/%s", dir, names[i])), 2);
    assert_true(ct_exists(ct_path("%s/step_00000000", dir)));
    assert_int_equal(ct_latest(dir, &r, ct_comm), 3);
}

/* A copy or a link counts for nothing: it pushes no checkpoint out. */
static void test_retention__copies_do_not_count(void **state)
{
    const char *dir = ct_own_dir(), *elsewhere = ct_own_dir();
    save_all(dir, 0, (int[]){1, 4}, 2);
    ct_copy_dir(step_dir(dir, 4), ct_path("%s/step_4", dir));
    ct_copy_dir(step_dir(dir, 4), ct_path("%s/step_0000000004", dir));
    ct_copy_dir(step_dir(dir, 4), ct_path("%s/copy", elsewhere));
    assert_int_equal(symlink(ct_path("%s/copy", elsewhere), step_dir(dir, 5)), 0);
    save_all(dir, 2, (int[]){6}, 1);
    assert_true(whole(dir, 4) && whole(dir, 6));
    assert_false(has(dir, 1));
    assert_int_equal(ct_count(ct_path("%s/copy", elsewhere)), 2);
    assert_int_equal(ct_count(ct_path("%s/step_4", dir)), 2);
}

/* Folders within a step directory go with it; links in it go, what they point to stays. */
static void test_retention__folders_and_links_inside(void **state)
{
    const char *dir = ct_own_dir();
    char *outside = strdup(ct_path("%s", ct_own_dir()));
    save_all(dir, 0, (int[]){1, 2}, 2);
    ct_write(ct_path("%s/precious", outside), "x", 1);
    assert_int_equal(mkdir(ct_path("%s/hf", step_dir(dir, 1)), 0755), 0);
    assert_int_equal(mkdir(ct_path("%s/hf/deeper", step_dir(dir, 1)), 0755), 0);
    ct_write(ct_path("%s/hf/deeper/.hidden", step_dir(dir, 1)), "y", 1);
    assert_int_equal(symlink(outside, ct_path("%s/hf/folder", step_dir(dir, 1))), 0);
    assert_int_equal(symlink(ct_path("%s/precious", outside), ct_path("%s/file", step_dir(dir, 1))), 0);
    assert_int_equal(symlink(step_dir(dir, 2), ct_path("%s/step_00000000", dir)), 0); /* itself a link */
    save_all(dir, 2, (int[]){3}, 1);
    assert_false(has(dir, 1));
    assert_true(whole(dir, 2) && whole(dir, 3));
    assert_true(ct_exists(ct_path("%s/precious", outside)));
    assert_true(ct_exists(ct_path("%s/step_00000000", dir)));
    free(outside);
}

static void test_retention__a_link_in_the_way(void **state)
{
    const char *dir = ct_own_dir(), *elsewhere = ct_own_dir();
    bool failed = false;
    am_ckpt_state s = ct_state(2);
    am_ckpt *k = ct_ckpt(&r, dir, 1, false);
    ct_save(&r, k, 1);
    assert_int_equal(symlink(elsewhere, step_dir(dir, 2)), 0);
    PT_OK(am_ckpt_save(k, &s));
    PT_OK(am_ckpt_poll(k, true, &failed));
    assert_true(failed);
    assert_non_null(strstr(am_ckpt_failure(k), "is in the way"));
    assert_int_equal(ct_count(elsewhere), 0);
    assert_true(whole(dir, 1));
    am_ckpt_free(&k);
}

/* More step directories than any fixed table: the newest whole one stays. */
static void test_retention__many(void **state)
{
    const char *dir = ct_own_dir();
    enum { MANY = 3000 };
    save_all(dir, 0, (int[]){MANY}, 1);
    for (int i = 0; i < MANY; i++) assert_int_equal(mkdir(step_dir(dir, i), 0755), 0);
    save_all(dir, 2, (int[]){MANY + 1}, 1);
    assert_int_equal(ct_count(dir), 2);
    assert_true(whole(dir, MANY) && whole(dir, MANY + 1));
}

static void test_retention__the_same_step_again(void **state)
{
    const char *dir = ct_own_dir();
    am_ckpt *k = ct_ckpt(&r, dir, 1, false);
    bool failed = true;
    am_ckpt_state s = ct_state(4);
    ct_save(&r, k, 4);
    ct_write(ct_path("%s/notes.txt", step_dir(dir, 4)), "mine", 4);
    ct_write(ct_path("%s/rank-00007.safetensors", step_dir(dir, 4)), "left over", 9);
    ct_write(ct_path("%s/rank-00000.safetensors.tmp-1", step_dir(dir, 4)), "left over", 9);
    ct_fill(&r, 40);
    PT_OK(am_ckpt_save(k, &s));
    PT_OK(am_ckpt_poll(k, true, &failed));
    assert_false(failed);
    am_manifest *m = NULL;
    PT_OK(am_ckpt_find_latest(dir, ct_comm, &m));
    ct_fill(&r, 1);
    PT_OK(am_ckpt_load(r.exec, r.program[0], m));
    assert_int_equal(ct_different(&r, 40), 0);
    am_manifest_free(&m);
    assert_int_equal(ct_count(step_dir(dir, 4)), 3); /* manifest, one file, the user's notes */
    ct_save(&r, k, 4);
    assert_int_equal(ct_latest(dir, &r, ct_comm), 4);
    assert_int_equal(ct_count(step_dir(dir, 4)), 3);
    am_ckpt_free(&k);
}

/* A careless umask does not make checkpoints that the next start would refuse; a careless directory is
 * refused at the start. */
static void test_retention__write_permission_for_everybody(void **state)
{
    const char *dir = ct_own_dir(), *open_to_all = ct_own_dir();
    am_ckpt *k = NULL;
    am_ckpt_options o = {.dir = open_to_all};
    mode_t before = umask(0);
    save_all(ct_path("%s/checkpoints", dir), 1, (int[]){1}, 1);
    umask(before);
    assert_int_equal(ct_latest(ct_path("%s/checkpoints", dir), &r, ct_comm), 1);
    assert_int_equal(chmod(open_to_all, 0777), 0);
    assert_int_equal(am_ckpt_create(&o, r.exec, r.program[0], ct_comm, &k), AM_ERR_CHECKPOINT);
    ct_error_has(open_to_all, "chmod o-w");
    assert_null(k);
}

static void test_retention__space(void **state)
{
    const char *dir = ct_own_dir();
    am_ckpt *k = ct_ckpt(&r, dir, 1, false);
    assert_true(am_ckpt_total_bytes(r.program[0]) > 0);
    PT_OK(am_ckpt_check_space(k, 2, 1000));
    assert_int_equal(am_ckpt_check_space(k, 1, (int64_t)1 << 60), AM_ERR_ENVIRONMENT);
    ct_error_has(dir, "1152921504.61 GB besides");
    assert_int_equal(am_ckpt_check_space(k, 1, INT64_MAX),
                     AM_ERR_ENVIRONMENT); /* the sum is beyond 64 bits */
    ct_remove(dir);
    assert_int_equal(am_ckpt_check_space(k, 1, 0), AM_ERR_ENVIRONMENT);
    ct_error_has(dir, "No such file");
    am_ckpt_free(&k);
}

/* A checkpoint of 300 ranks, read with fewer descriptors than files: forged from files of one rank, each with
 * a part of the first parameter. */
static void test_retention__more_files_than_descriptors(void **state)
{
    enum { FILES = 300 };
    const char *dir = ct_own_dir();
    struct rlimit before, few;
    am_str body = {0}, pieces = {0}, text = {0};
    am_manifest *m = NULL;
    float got[FILES];
    for (int i = 0; i < FILES; i++) {
        am_safetensors_writer *w = NULL;
        float x = (float)i;
        int64_t one = 1, index;
        const char *name = ct_path("rank-%05d.safetensors", i), *path = ct_path("%s/%s", dir, name);
        am_rank_file file;
        PT_OK(am_safetensors_writer_create(path, &w));
        PT_OK(am_safetensors_writer_metadata(w, "save_id", "one"));
        PT_OK(am_safetensors_writer_metadata(w, "file", name));
        PT_OK(am_safetensors_writer_declare(w, "master/a", AM_F32, 1, &one, &index));
        PT_OK(am_safetensors_writer_begin(w));
        PT_OK(am_safetensors_writer_write(w, index, 0, &x, 1, AM_F32));
        PT_OK(am_safetensors_writer_close(w));
        am_safetensors_writer_free(&w);
        FILE *f = fopen(path, "rb");
        PT_OK(am_rank_file_look(fileno(f), path, &file));
        fclose(f);
        PT_OK(am_str_printf(&body, "%s{\"name\":\"%s\",\"bytes\":%" PRId64 ",\"header\":\"%016" PRIx64 "\"}",
                            i ? "," : "", name, file.bytes, file.header));
        PT_OK(am_str_printf(&pieces, "%s[%d,%d,1,\"%016" PRIx64 "\"]", i ? "," : "", i, i,
                            am_hash64(&x, sizeof x, 0)));
    }
    char *files = body.s;
    body = (am_str){0};
    PT_OK(am_str_printf(
        &body,
        "{\"format\":1,\"dtype\":\"F32\",\"save_id\":\"one\",\"recipe\":\"\",\"model_dir\":\"\",\"family\":"
        "\"\","
        "\"state\":{\"step\":1,\"samples\":1,\"tokens\":1,\"seed\":\"0000000000000000\",\"data_hash\":"
        "\"0000000000000000\"},\"files\":[%s],\"tensors\":{\"a\":{\"shape\":[%d],\"trainable\":false,"
        "\"master\":[%s]}}}",
        files, FILES, pieces.s));
    PT_OK(am_str_printf(&text, "{\"xxh3\":\"%016" PRIx64 "\",\"body\":%s}\n", am_hash64(body.s, body.len, 0),
                        body.s));
    ct_write(ct_path("%s/manifest.json", dir), text.s, text.len);
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &before), 0);
    few = before;
    few.rlim_cur = 200;
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &few), 0);
    PT_OK(am_manifest_open(dir, &m));
    PT_OK(am_manifest_verify(m, 0, 1));
    PT_OK(am_manifest_read(m, "a", 0, 0, FILES, got, AM_F32));
    for (int i = 0; i < FILES; i++) assert_true(got[i] == (float)i);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &before), 0);
    am_manifest_free(&m);
    free(files);
    am_str_release(&body);
    am_str_release(&pieces);
    am_str_release(&text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_retention__keeps_the_newest, setup),
        cmocka_unit_test(test_retention__torn_directories),
        cmocka_unit_test(test_retention__after_falling_back),
        cmocka_unit_test(test_retention__what_is_not_ours),
        cmocka_unit_test(test_retention__copies_do_not_count),
        cmocka_unit_test(test_retention__folders_and_links_inside),
        cmocka_unit_test(test_retention__a_link_in_the_way),
        cmocka_unit_test(test_retention__many),
        cmocka_unit_test(test_retention__the_same_step_again),
        cmocka_unit_test(test_retention__write_permission_for_everybody),
        cmocka_unit_test(test_retention__space),
        cmocka_unit_test_teardown(test_retention__more_files_than_descriptors, teardown),
    };
    return ct_main("ckpt retention", tests, sizeof tests / sizeof *tests);
}
