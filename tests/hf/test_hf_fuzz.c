/* Deterministic mutations of valid files: each is read or refused with a sentence, never anything else.  What
 * the parsers accept is then read whole.  Build with -DAM_SANITIZE=address,undefined to see more than
 * crashes. */
#include "hf_test.h"

#include <sys/mman.h>

enum { TRIALS = 20000, MAX_BYTES = 4096 };

typedef struct bytes {
    char data[2 * MAX_BYTES];
    size_t n;
} bytes;

static uint64_t draw(uint64_t trial, uint64_t *index, uint64_t below)
{
    return below > 0 ? am_random_u64(2026, trial, (*index)++) % below : 0;
}

static void remove_range(bytes *b, size_t at, size_t n)
{
    memmove(b->data + at, b->data + at + n, b->n - at - n);
    b->n -= n;
}

static void insert_range(bytes *b, size_t at, const char *what, size_t n)
{
    if (b->n + n > sizeof b->data) return;
    memmove(b->data + at + n, b->data + at, b->n - at);
    memcpy(b->data + at, what, n);
    b->n += n;
}

/* One change, mostly in the first `hot` bytes (header or text). */
static void mutate(bytes *b, size_t hot, uint64_t trial, uint64_t *k)
{
    static const char *const words[] = {"\"",
                                        "\\",
                                        "{",
                                        "}",
                                        "[",
                                        "]",
                                        ",",
                                        ":",
                                        "0",
                                        "9",
                                        "-",
                                        "null",
                                        "1e9",
                                        "\\u",
                                        "\\ud8",
                                        "true",
                                        "NaN",
                                        "Infinity",
                                        "[[[",
                                        "{\"a\":",
                                        "F4",
                                        "18446744073709551615",
                                        "9223372036854775808",
                                        "\xff"};
    if (b->n == 0) return;
    size_t limit = draw(trial, k, 8) > 0 && hot < b->n ? hot : b->n;
    size_t at = draw(trial, k, limit);
    size_t n = 1 + draw(trial, k, 16);
    if (n > b->n - at) n = b->n - at;
    char copy[16];
    memcpy(copy, b->data + at, n);
    const char *word = words[draw(trial, k, sizeof words / sizeof words[0])];
    switch (draw(trial, k, 7)) {
    case 0:
        b->data[at] ^= (char)(1 << draw(trial, k, 8));
        break;
    case 1:
        b->data[at] = (char)draw(trial, k, 256);
        break;
    case 2:
        remove_range(b, at, n);
        break;
    case 3:
        insert_range(b, draw(trial, k, b->n), copy, n);
        break;
    case 4:
        insert_range(b, at, word, strlen(word));
        break;
    case 5:
        b->n = at;
        break;
    default: /* a digit changed keeps the text well formed and the numbers wrong */
        while (at < b->n && (b->data[at] < '0' || b->data[at] > '9')) at++;
        if (at < b->n) b->data[at] = (char)('0' + draw(trial, k, 10));
    }
}

static void load(const char *path, bytes *b)
{
    char *data = NULL;
    assert_ok(am_file_read(path, MAX_BYTES, &data, &b->n));
    memcpy(b->data, data, b->n);
    free(data);
}

static bool try_safetensors(const bytes *b)
{
    am_safetensors *f = NULL;
    char out[2 * MAX_BYTES];
    int fd = memfd_create("fuzz", MFD_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, b->data, b->n), b->n);
    am_error_clear();
    am_status st = am_safetensors_open_fd(fd, "fuzz.safetensors", &f);
    if (st != AM_OK) {
        assert_null(f);
        assert_int_equal(st, AM_ERR_MODEL);
        assert_non_null(strstr(am_error_message(), "[safetensors/"));
        return false;
    }
    int64_t end = 0;
    for (int64_t i = 0; i < am_safetensors_count(f); i++) {
        const am_safetensors_tensor *t = am_safetensors_at(f, i);
        assert_true(t->bytes <= (int64_t)b->n && t->offset + t->bytes <= (int64_t)b->n && t->offset >= end);
        assert_ok(am_safetensors_read(f, t, 0, t->elements, out, t->dtype));
        assert_ptr_equal(am_safetensors_find(f, t->name), t);
        end = t->offset + t->bytes;
    }
    am_safetensors_free(&f);
    return true;
}

static void test_hf_fuzz__safetensors(void **state)
{
    (void)state;
    bytes original, b;
    int accepted = 0;
    load(source_path("tests/hf/data/python_written.safetensors"), &original);
    for (uint64_t trial = 0; trial < TRIALS; trial++) {
        uint64_t k = 0, changes = 1 + draw(trial, &k, 3);
        b = original;
        for (uint64_t c = 0; c < changes; c++) mutate(&b, 1000, trial, &k);
        /* half of the time the announced length follows the text, so that the parser is reached */
        if (draw(trial, &k, 2) == 0 && b.n > 8 + 377) {
            uint64_t n = b.n - 8 - 377;
            memcpy(b.data, &n, 8);
        }
        accepted += try_safetensors(&b);
    }
    print_message("%d of %d mutated files were valid\n", accepted, TRIALS);
    assert_true(accepted > 0 && accepted < TRIALS);
}

static void test_hf_fuzz__json(void **state)
{
    (void)state;
    static const char text[] =
        "{\"architectures\": [\"LlamaForCausalLM\"], \"eos_token_id\": [1, 2], \"rms_norm_eps\": 1e-06,\n"
        " \"limits\": [0.0, Infinity], \"n\": NaN, \"big\": 1000000000000000019884624838656, \"x\": "
        "-Infinity,\n"
        " \"rope_scaling\": {\"factor\": 8.0, \"rope_type\": \"llama3\"}, \"s\": \"\\u00e9\\n\\\"\", \"t\": "
        "null}";
    int accepted = 0;
    for (uint64_t trial = 0; trial < TRIALS; trial++) {
        uint64_t k = 0, changes = 1 + draw(trial, &k, 3);
        bytes b = {.n = sizeof text - 1};
        json_t *v = NULL;
        memcpy(b.data, text, b.n);
        for (uint64_t c = 0; c < changes; c++) mutate(&b, b.n, trial + TRIALS, &k);
        char *exact =
            malloc(b.n > 0 ? b.n : 1); /* of exact size, so that a sanitizer sees a read beyond it */
        assert_non_null(exact);
        memcpy(exact, b.data, b.n);
        am_status st = am_json_parse(exact, b.n, "fuzz.json", &v);
        assert_true((st == AM_OK) == (v != NULL));
        assert_true(st == AM_OK ||
                    (st == AM_ERR_MODEL && strncmp(am_error_message(), "fuzz.json:", 10) == 0));
        accepted += st == AM_OK;
        json_decref(v);
        free(exact);
    }
    print_message("%d of %d mutated texts were valid\n", accepted, TRIALS);
    assert_true(accepted > 0 && accepted < TRIALS);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_hf_fuzz__safetensors),
        cmocka_unit_test(test_hf_fuzz__json),
    };
    return cmocka_run_group_tests_name("hf_fuzz", tests, NULL, NULL);
}
