/* Damage to a checkpoint, seen by whoever reads it: one bit anywhere, files truncated, extended, swapped,
 * removed, replaced, of another save; manifests torn, changed, forged.  All of it is refused with the file's
 * name (and the tensor's, where a tensor was hit), and a start falls back to the checkpoint before.  Two
 * ranks write the files, rank 0 damages them. */
#include "ckpt_test.h"

#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { FLIPS = 10000, FORGED = 4000 };

static const char *dir, *step1, *step2, *rank_file[2], *manifest; /* of step 2 */
static bool ours;                                                 /* rank 0 */

static int setup(void **state)
{
    pt_run r;
    pt_shape s = pt_default_shape();
    s.rows = 1;
    s.layers = 1;
    s.D = 7;
    s.F = 11;
    s.V = 17;
    s.H = 2;
    s.K = 1;
    s.d = 4;
    dir = ct_dir();
    ct_run(&r, &s, 2, 1, "*norm*", ct_comm);
    am_ckpt *k = ct_ckpt(&r, dir, 0, false);
    ct_save(&r, k, 1);
    ct_save(&r, k, 2);
    am_ckpt_free(&k);
    k = ct_ckpt(&r, ct_path("%s/other", dir), 0, false); /* the same step and contents, another save */
    ct_save(&r, k, 2);
    am_ckpt_free(&k);
    pt_free(&r);
    PT_OK(am_step_dir(dir, 1, (char **)&step1));
    PT_OK(am_step_dir(dir, 2, (char **)&step2));
    for (int i = 0; i < 2; i++) rank_file[i] = strdup(ct_path("%s/rank-%05d.safetensors", step2, i));
    manifest = strdup(ct_path("%s/manifest.json", step2));
    ours = am_comm_rank(ct_comm) == 0;
    return 0;
}

static am_status verify(const char *step_dir)
{
    am_manifest *m = NULL;
    am_status st = am_manifest_open(step_dir, &m);
    if (st == AM_OK) st = am_manifest_verify(m, 0, 1);
    am_manifest_free(&m);
    return st;
}

static void refused(const char *a, const char *b)
{
    assert_int_equal(verify(step2), AM_ERR_CHECKPOINT);
    ct_error_has(a, b);
}

static void flip(const char *path, size_t at, int bit)
{
    unsigned char c;
    int fd = open(path, O_RDWR);
    assert_true(fd >= 0 && pread(fd, &c, 1, (off_t)at) == 1);
    c ^= (unsigned char)(1 << bit);
    assert_int_equal(pwrite(fd, &c, 1, (off_t)at), 1);
    close(fd);
}

/* Runs the damage with the file put back afterwards. */
static void with_restored(const char *path, void (*damage)(const char *path))
{
    char *copy = strdup(ct_path("%s/kept", dir));
    ct_copy(path, copy);
    damage(path);
    assert_int_equal(ct_latest(dir, NULL, ct_alone), 1);
    ct_remove(path);
    assert_int_equal(rename(copy, path), 0);
    free(copy);
    assert_int_equal(verify(step2), AM_OK);
}

/* ---- bits ----------------------------------------------------------------------------------------- */

/* Name of the tensor whose data hold byte `at`; NULL: the header. */
static const char *tensor_at(const am_safetensors *f, size_t at)
{
    for (int64_t i = 0; i < am_safetensors_count(f); i++) {
        const am_safetensors_tensor *t = am_safetensors_at(f, i);
        if ((int64_t)at >= t->offset && (int64_t)at < t->offset + t->bytes) return t->name;
    }
    return NULL;
}

static void test_corrupt__one_bit_anywhere_in_the_files(void **state)
{
    int in_header = 0, in_data = 0;
    am_safetensors *f[2] = {0};
    struct stat info[2];
    if (!ours) return;
    for (int i = 0; i < 2; i++) {
        char *copy = strdup(ct_path("%s/pristine%d", dir, i));
        ct_copy(rank_file[i], copy);
        PT_OK(am_safetensors_open(copy, &f[i]));
        assert_int_equal(stat(copy, &info[i]), 0);
        free(copy);
    }
    for (int i = 0; i < FLIPS; i++) {
        int w = i % 2, bit = (int)(am_random_u64(5, 1, (uint64_t)i) % 8);
        size_t at = (size_t)(am_random_u64(5, 0, (uint64_t)i) % (uint64_t)info[w].st_size);
        const char *tensor = tensor_at(f[w], at);
        flip(rank_file[w], at, bit);
        if (verify(step2) != AM_ERR_CHECKPOINT)
            fail_msg("%s: bit %d of byte %zu was not seen", rank_file[w], bit, at);
        ct_error_has(rank_file[w], tensor ? tensor : "");
        tensor ? in_data++ : in_header++;
        if (i % 400 == 0) assert_int_equal(ct_latest(dir, NULL, ct_alone), 1);
        flip(rank_file[w], at, bit);
    }
    assert_true(in_header > 100 && in_data > 100);
    assert_int_equal(verify(step2), AM_OK);
    for (int i = 0; i < 2; i++) am_safetensors_free(&f[i]);
}

static void test_corrupt__every_byte_of_the_manifest(void **state)
{
    struct stat info;
    if (!ours) return;
    assert_int_equal(stat(manifest, &info), 0);
    for (size_t at = 0; at < (size_t)info.st_size; at++) {
        int bit = (int)(am_random_u64(6, 0, at) % 8);
        flip(manifest, at, bit);
        refused(manifest, "");
        if (at % 1000 == 0) assert_int_equal(ct_latest(dir, NULL, ct_alone), 1);
        flip(manifest, at, bit);
    }
    assert_int_equal(ct_latest(dir, NULL, ct_alone), 2);
}

/* ---- files ---------------------------------------------------------------------------------------- */

static void cut(const char *path, off_t n)
{
    assert_int_equal(truncate(path, n), 0);
    refused(path, "");
}

static void truncated(const char *path)
{
    struct stat info;
    assert_int_equal(stat(path, &info), 0);
    for (int i = 1; i < 8; i++) cut(path, info.st_size * (8 - i) / 8);
    cut(path, 8);
    cut(path, 7);
    cut(path, 0);
}

static void extended(const char *path)
{
    struct stat info;
    assert_int_equal(stat(path, &info), 0);
    cut(path, info.st_size + 1); /* a zero byte more */
    cut(path, info.st_size + 4096);
}

static void removed(const char *path)
{
    assert_int_equal(unlink(path), 0);
    if (path == manifest)
        refused(step2, "no manifest.json");
    else
        refused(path, "No such file");
}

static void other_kinds(const char *path)
{
    char *copy = strdup(ct_path("%s/kept", dir));
    assert_int_equal(unlink(path), 0);
    assert_int_equal(symlink(copy, path), 0); /* the very bytes, through a link */
    refused(path, "symbolic link");
    assert_int_equal(unlink(path), 0);
    assert_int_equal(mkfifo(path, 0600), 0);
    refused(path, "not a regular file");
    assert_int_equal(unlink(path), 0);
    assert_int_equal(mkdir(path, 0700), 0);
    refused(path, "not a regular file");
    free(copy);
}

static void of_another_save(const char *path)
{
    const char *base = strrchr(path, '/') + 1;
    ct_copy(ct_path("%s/other/step_00000002/%s", dir, base), path);
    refused(rank_file[0] == path || rank_file[1] == path ? path : rank_file[0], "another save");
}

static void of_another_step(const char *path)
{
    ct_copy(ct_path("%s/%s", step1, strrchr(path, '/') + 1), path);
    refused(path, "another save");
}

static void test_corrupt__files(void **state)
{
    if (!ours) return;
    for (int i = 0; i < 2; i++) {
        with_restored(rank_file[i], truncated);
        with_restored(rank_file[i], extended);
        with_restored(rank_file[i], removed);
        with_restored(rank_file[i], other_kinds);
        with_restored(rank_file[i], of_another_save);
        with_restored(rank_file[i], of_another_step);
    }
    with_restored(manifest, truncated);
    with_restored(manifest, extended);
    with_restored(manifest, removed);
    with_restored(manifest, other_kinds);
    with_restored(manifest, of_another_save);
}

static void test_corrupt__swapped(void **state)
{
    if (!ours) return;
    char *kept = strdup(ct_path("%s/kept", dir));
    for (int i = 0; i < 2; i++) { /* and back */
        assert_int_equal(rename(rank_file[0], kept), 0);
        assert_int_equal(rename(rank_file[1], rank_file[0]), 0);
        assert_int_equal(rename(kept, rank_file[1]), 0);
        if (i == 1) break;
        refused("rank-0000", "swapped");
        assert_int_equal(ct_latest(dir, NULL, ct_alone), 1);
    }
    assert_int_equal(ct_latest(dir, NULL, ct_alone), 2);
    free(kept);
}

/* ---- directories ---------------------------------------------------------------------------------- */

static void test_corrupt__torn_directories_are_passed_over(void **state)
{
    if (!ours) return;
    const char *d = ct_own_dir();
    assert_int_equal(ct_latest(ct_path("%s/missing", d), NULL, ct_alone), -1);
    assert_int_equal(ct_latest(d, NULL, ct_alone), -1);
    ct_copy_dir(step1, ct_path("%s/step_00000001", d));
    ct_remove(ct_path("%s/step_00000001/manifest.json", d));
    assert_int_equal(ct_latest(d, NULL, ct_alone), -1); /* the first save was torn: there never was one */
    ct_copy_dir(step1, ct_path("%s/step_00000001_copy", d)); /* the user's, not ours */
    assert_int_equal(ct_latest(d, NULL, ct_alone), -1);
    assert_int_equal(symlink(step2, ct_path("%s/step_00000007", d)),
                     0); /* a link is no checkpoint of this run */
    assert_int_equal(ct_latest(d, NULL, ct_alone), -1);
    ct_copy_dir(step2, ct_path("%s/step_00000002", d));
    assert_int_equal(ct_latest(d, NULL, ct_alone), 2);
    flip(ct_path("%s/step_00000002/manifest.json", d), 100, 0);
    assert_int_equal(ct_latest(d, NULL, ct_alone), -2);
    ct_error_has(d, "none is valid");
    ct_write(ct_path("%s/file", d), "", 0);
    assert_int_equal(ct_latest(ct_path("%s/file", d), NULL, ct_alone),
                     -2); /* unreadable is not the same as empty */
}

static void test_corrupt__a_directory_that_everybody_writes_to(void **state)
{
    if (!ours) return;
    assert_int_equal(chmod(step2, 0777), 0);
    refused(step2, "everybody");
    assert_int_equal(chmod(step2, 0755), 0);
    assert_int_equal(chmod(dir, 0777), 0);
    refused(step2, "everybody");
    assert_int_equal(chmod(dir, 01777), 0); /* as /tmp: the owner of an entry alone can replace it */
    assert_int_equal(verify(step2), AM_OK);
    assert_int_equal(chmod(dir, 0755), 0);
}

/* ---- forged manifests: their hash is right -------------------------------------------------------- */

static void write_manifest(const char *path, const char *body, size_t n)
{
    am_str s = {0};
    PT_OK(am_str_printf(&s, "{\"xxh3\":\"%016" PRIx64 "\",\"body\":", am_hash64(body, n, 0)));
    PT_OK(am_str_append(&s, body, n));
    PT_OK(am_str_append(&s, "}\n", 2));
    ct_write(path, s.s, s.len);
    am_str_release(&s);
}

static void forge(const char *body, const char *from, const char *to, const char *says)
{
    am_str s = {0};
    const char *at = strstr(body, from);
    if (!at) fail_msg("the manifest does not hold %s", from);
    PT_OK(am_str_append(&s, body, (size_t)(at - body)));
    PT_OK(am_str_printf(&s, "%s%s", to, at + strlen(from)));
    write_manifest(manifest, s.s, s.len);
    am_str_release(&s);
    refused("step_00000002", says);
}

static char *body_of(const char *path, size_t *n)
{
    char *text = ct_read(path, n), *body = strdup(strstr(text, "\"body\":") + 7);
    free(text);
    *n = strlen(body) - 2;
    body[*n] = '\0';
    return body;
}

static void test_corrupt__forged_manifests(void **state)
{
    size_t n = 0;
    if (!ours) return;
    char *body = body_of(manifest, &n);
    forge(body, "\"name\":\"rank-00001", "\"name\":\"../rank-00001", "leads out");
    forge(body, "\"name\":\"rank-00001", "\"name\":\"sub/rank-00001", "leads out");
    forge(body, "\"name\":\"rank-00001", "\"name\":\"absent", "cannot open");
    forge(body, "\"format\":1", "\"format\":2", "format 2");
    forge(body, "\"dtype\":\"F32\"", "\"dtype\":\"U8\"", "dtype");
    forge(body, "\"step\":2", "\"step\":-2", "'step'");
    forge(body, "\"step\":2", "\"step\":\"2\"", "'step'");
    forge(body, "\"recipe\"", "\"recipes\"", "'recipe'");
    forge(body, "\"trainable\":true", "\"trainable\":1", "'trainable'");
    forge(body, "\"shape\":[17,7]", "\"shape\":[17,8]", "leave out or repeat");
    forge(body, "\"shape\":[17,7]", "\"shape\":[4611686018427387904,7]", "no shape");
    forge(body, "\"shape\":[17,7]", "\"shape\":[0,7]", "no shape");
    forge(body, "\"master\":[[0,0,", "\"master\":[[7,0,", "malformed");
    forge(body, "\"master\":[[0,0,", "\"master\":[[-1,0,", "malformed");
    forge(body, "\"master\":[[0,0,", "\"master\":[[4294967296,0,", "malformed");
    forge(body, "\"master\":[[0,0,", "\"master\":[[0,9223372036854775807,", "malformed");
    forge(body, "\"master\":[[0,0,119", "\"master\":[[0,0,9223372036854775807", "malformed");
    forge(body, "\"master\":[[0,0,119", "\"master\":[[0,0,118", "leave out or repeat");
    forge(body, "\"master\":[[0,0,119", "\"master\":[[0,0,118,\"0000000000000000\"],[0,117,2",
          "leave out or repeat");
    forge(body, "\"family\"", "\"family\":\"x\",\"family\"", "duplicate");
    write_manifest(manifest, body, n);
    assert_int_equal(verify(step2), AM_OK);
    free(body);
}

/* Random damage under a right hash: an error or the same contents, never a crash. */
static void test_corrupt__fuzzed_manifests(void **state)
{
    size_t n = 0;
    int accepted = 0;
    if (!ours) return;
    char *body = body_of(manifest, &n), *copy = malloc(n);
    for (int i = 0; i < FORGED; i++) {
        memcpy(copy, body, n);
        for (int j = 0; j <= i % 3; j++) {
            uint64_t x = am_random_u64(8, (uint64_t)j, (uint64_t)i);
            static const char likely[] = "0123456789-[]{},:\"e";
            copy[x % n] = x >> 63 ? (char)(x >> 40) : likely[(x >> 40) % (sizeof likely - 1)];
        }
        write_manifest(manifest, copy, n);
        accepted += verify(step2) == AM_OK; /* a digit of the recipe, the step … */
    }
    assert_true(accepted < FORGED / 5);
    write_manifest(manifest, body, n);
    assert_int_equal(verify(step2), AM_OK);
    free(copy);
    free(body);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_corrupt__one_bit_anywhere_in_the_files, setup),
        cmocka_unit_test(test_corrupt__every_byte_of_the_manifest),
        cmocka_unit_test(test_corrupt__files),
        cmocka_unit_test(test_corrupt__swapped),
        cmocka_unit_test(test_corrupt__torn_directories_are_passed_over),
        cmocka_unit_test(test_corrupt__a_directory_that_everybody_writes_to),
        cmocka_unit_test(test_corrupt__forged_manifests),
        cmocka_unit_test(test_corrupt__fuzzed_manifests),
    };
    return ct_main("ckpt corrupt", tests, sizeof tests / sizeof *tests);
}
