/* Hashes and random numbers against published or independently computed values. */
#include "base/base.h"

#include <setjmp.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

/* Known-answer vectors of philox4x32_10 as published with Random123 (kat_vectors). */
static void test_base_hash__philox_known_answers(void **state)
{
    static const struct {
        uint32_t counter[4], key[2], expected[4];
    } kat[] = {
        {{0, 0, 0, 0}, {0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
        {{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff},
         {0xffffffff, 0xffffffff},
         {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
        {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
         {0xa4093822, 0x299f31d0},
         {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
    };
    for (size_t i = 0; i < sizeof kat / sizeof kat[0]; i++) {
        uint32_t out[4];
        am_philox4x32(kat[i].counter, kat[i].key, out);
        assert_memory_equal(out, kat[i].expected, sizeof out);
    }
    assert_true(am_random_u64(0, 0, 0) == 0xe169c58d6627e8d5u);
    assert_true(am_random_u64(UINT64_MAX, UINT64_MAX, UINT64_MAX) == 0x41c83b0e408f276du);
    assert_true(am_random_u64(1, 2, 3) != am_random_u64(1, 3, 2));
}

static void fill(unsigned char *data, size_t n)
{
    for (size_t i = 0; i < n; i++) data[i] = (unsigned char)(i % 251);
}

/* xxhash.xxh3_64_intdigest(bytes(i % 251 for i in range(n)), seed) of the Python package */
static void test_base_hash__xxh3(void **state)
{
    static const size_t sizes[] = {0, 3, 16, 200, 5000};
    static const uint64_t plain[] = {0x2d06800538d394c2, 0x5f4299fc161c9cbb, 0x8355e3a6f61770db,
                                     0xf42a8864feaf0703, 0xb418500fc42320ee};
    static const uint64_t seeded[] = {0x52a27a0f5c9c134f, 0xd96772b509c72bde, 0x35010d589e80777c,
                                      0x27aa7e4551ba2991, 0x94d4e642f9f33fbc};
    unsigned char data[5000];
    fill(data, sizeof data);
    for (int i = 0; i < 5; i++) {
        assert_true(am_hash64(data, sizes[i], 0) == plain[i]);
        assert_true(am_hash64(data, sizes[i], 1234567890123) == seeded[i]);
        am_hash64_state *s = NULL;
        assert_int_equal(am_hash64_create(&s), AM_OK);
        size_t half = sizes[i] / 3;
        am_hash64_update(s, data, half);
        am_hash64_update(s, data + half, sizes[i] - half);
        assert_true(am_hash64_digest(s) == plain[i]);
        am_hash64_free(&s);
        assert_null(s);
    }
}

/* FIPS 180 examples and hashlib.sha256 */
static void test_base_hash__sha256(void **state)
{
    char hex[65];
    assert_int_equal(am_sha256_hex("", 0, hex), AM_OK);
    assert_string_equal(hex, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    assert_int_equal(am_sha256_hex("abc", 3, hex), AM_OK);
    assert_string_equal(hex, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");

    enum { N = 3000000 }; /* more than one chunk of the file reader */
    unsigned char *data = NULL;
    char path[64];
    snprintf(path, sizeof path, "/tmp/am_test_sha256_%ld", (long)getpid());
    assert_int_equal(am_calloc(N, 1, &data), AM_OK);
    fill(data, N);
    assert_int_equal(am_file_write_atomic(path, data, N), AM_OK);
    assert_int_equal(am_sha256_file_hex(path, hex), AM_OK);
    assert_string_equal(hex, "4d3870d4655ed773027a713ea136507d22e076248e0e9cc920a996039653b76f");
    unlink(path);
    assert_int_equal(am_sha256_file_hex(path, hex), AM_ERR_IO);
    assert_non_null(strstr(am_error_message(), path));
    am_free(&data);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_base_hash__philox_known_answers),
        cmocka_unit_test(test_base_hash__xxh3),
        cmocka_unit_test(test_base_hash__sha256),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
