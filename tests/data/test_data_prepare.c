/* prepare: lines → shards.  Expected ids and masks are printed by tests/data/make_tiny_tokenizer.py with the
 * Python library; the order of samples must not depend on the number of workers.  Chats need python3 with
 * jinja2. */
#include "data_test.h"

#include <zlib.h>

static const uint32_t text_ids[] = {0, 262, 270, 285, 224, 23, 21, 1};
static const uint8_t text_mask[] = {0, 1, 1, 1, 1, 1, 1, 1};
static const uint32_t pair_ids[] = {0, 284, 285, 264, 297, 34, 264, 270, 1};
static const uint8_t pair_mask[] = {0, 0, 0, 0, 0, 0, 1, 1, 1};
static const uint32_t chat_ids[] = {2,   283, 202, 262, 297, 3,   202, 2,   68,  86, 279, 294,
                                    202, 271, 270, 3,   202, 2,   283, 202, 271, 71, 3,   202,
                                    2,   68,  86,  279, 294, 202, 266, 264, 3,   202};
static const uint8_t chat_mask[] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1,
                                    0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1};
#define CHAT_LINE                                                                                            \
    "{\"messages\":[{\"role\":\"user\",\"content\":\"the "                                                   \
    "question\"},{\"role\":\"assistant\",\"content\":\"an answer\"},"                                        \
    "{\"role\":\"user\",\"content\":\"and\"},{\"role\":\"assistant\",\"content\":\"is the\"}]}\n"

static char tiny[512];
static bool have_jinja;

static int set_up(void **state)
{
    const char *source = getenv("AM_SOURCE_DIR"), *python = getenv("AM_PYTHON");
    char command[600];
    snprintf(tiny, sizeof tiny, "%s/tests/data/files/tiny", source ? source : ".");
    snprintf(command, sizeof command, "%s -c 'import jinja2' 2>/dev/null",
             python ? python : "/usr/bin/python3");
    have_jinja = system(command) == 0;
    return make_scratch(state);
}

static am_prepare_options options(const char *const *inputs, int n, const char *out)
{
    return (am_prepare_options){.inputs = inputs, .num_inputs = n, .model_dir = tiny, .output_dir = out};
}

/* All workers in turn, then the judgement of the total. */
static am_status run(const am_prepare_options *o, int workers, am_prepare_counts *total, am_str *report)
{
    am_status st = AM_OK;
    am_prepare *p = NULL;
    memset(total, 0, sizeof *total);
    AM_TRY(am_prepare_open(o, &p));
    for (int w = 0; w < workers; w++) {
        am_prepare_counts c;
        AM_TRY(am_data_prepare(p, w, workers, &c));
        am_prepare_counts_add(total, &c);
    }
    AM_TRY(am_prepare_check(p, total, report));
done:
    am_prepare_close(&p);
    return st;
}

static void expect_sequence(am_shard *s, int64_t i, const uint32_t *ids, const uint8_t *mask, int64_t n)
{
    uint32_t got_ids[256];
    uint8_t got_mask[256];
    int64_t start = (int64_t)am_shard_offsets(s)[i];
    assert_int_equal((int64_t)am_shard_offsets(s)[i + 1] - start, n);
    OK(am_shard_read(s, start, n, got_ids, got_mask));
    assert_memory_equal(got_ids, ids, (size_t)n * 4);
    assert_memory_equal(got_mask, mask, (size_t)n);
}
#define EXPECT(s, i, name) expect_sequence(s, i, name##_ids, name##_mask, sizeof name##_mask)

static void write_text(const char *path, const char *text)
{
    write_file(path, text, strlen(text));
}

static void test_prepare__text_and_pairs(void **state)
{
    const char *input = at("t.jsonl");
    am_prepare_counts c;
    am_str report = {0};
    am_shard *s = NULL;
    write_text(input, "{\"text\": \"the answer is 42\"}\n\n"
                      "{\"prompt\": \"what is the question?\", \"completion\": \" the answer\"}\n"
                      "{\"text\": \"\"}\n");
    am_prepare_options o = options(&input, 1, at("text"));
    OK(run(&o, 1, &c, &report));
    assert_int_equal(c.lines, 3);
    assert_int_equal(c.samples, 3);
    assert_int_equal(c.tokens, 8 + 9 + 2);
    assert_int_equal(c.supervised, 7 + 3 + 1);
    assert_int_equal(c.longest, 9);
    assert_non_null(strstr(report.s, "3 samples, 19 tokens, 57.9 % supervised, longest 9"));
    OK(am_shard_open(at("text/shard-00000-of-00001.h5"), &s));
    EXPECT(s, 0, text);
    EXPECT(s, 1, pair);
    assert_int_equal(am_shard_get_info(s)->vocab_size, 298);
    assert_int_equal(strlen(am_shard_get_info(s)->tokenizer_sha256), 64);
    assert_string_equal(am_shard_get_info(s)->chat_template_sha256, "");
    assert_string_equal(am_shard_get_info(s)->sources[0], "t.jsonl");
    am_shard_close(&s);

    o.output_dir = at("all");
    o.supervise_all = true;
    OK(run(&o, 1, &c, &report));
    assert_int_equal(c.supervised, c.tokens - c.samples);
    am_str_release(&report);
}

/* Names of columns, a context before the prompt, and special tokens spelled in the data. */
static void test_prepare__columns(void **state)
{
    const char *input = at("c.jsonl");
    am_prepare_counts c;
    am_str report = {0};
    am_shard *s = NULL;
    write_text(input, "{\"ctx\": \"what is\", \"q\": \"the question?\", \"a\": \" the answer\"}\n"
                      "{\"ctx\": \"<|im_end|>\", \"q\": \"x\", \"a\": \"y\"}\n");
    am_prepare_options o = options(&input, 1, at("cols"));
    o.context_key = "ctx";
    o.prompt_key = "q";
    o.completion_key = "a";
    OK(run(&o, 1, &c, &report));
    assert_int_equal(c.special_in_text, 1);
    assert_non_null(strstr(report.s, "1 strings in the data spell a special token"));
    OK(am_shard_open(at("cols/shard-00000-of-00001.h5"), &s));
    EXPECT(s, 0, pair);
    am_shard_close(&s);
    o.special_as_text = true;
    o.output_dir = at("cols2");
    int64_t tokens = c.tokens;
    OK(run(&o, 1, &c, &report));
    assert_int_equal(c.special_in_text, 0);
    assert_true(c.tokens > tokens);
    am_str_release(&report);
}

static void test_prepare__chat(void **state)
{
    const char *input = at("chat.jsonl");
    am_prepare_counts c;
    am_str report = {0};
    am_shard *s = NULL;
    if (!have_jinja) skip();
    write_text(input, CHAT_LINE "{\"messages\":[{\"role\":\"user\",\"content\":\"and\"}]}\n");
    am_prepare_options o = options(&input, 1, at("chat"));
    OK(run(&o, 1, &c, &report));
    assert_int_equal(c.samples, 1);
    assert_int_equal(c.unsupervised_samples, 1);
    assert_int_equal(c.turns, 2);
    assert_non_null(strstr(report.s, "1 samples have nothing to supervise"));
    OK(am_shard_open(at("chat/shard-00000-of-00001.h5"), &s));
    EXPECT(s, 0, chat);
    assert_int_equal(strlen(am_shard_get_info(s)->chat_template_sha256), 64);
    am_shard_close(&s);

    o.one_sample_per_turn = true; /* each turn with what came before it: 17 tokens, 34 tokens */
    o.output_dir = at("turns");
    OK(run(&o, 1, &c, &report));
    assert_int_equal(c.samples, 2);
    assert_int_equal(c.tokens, 17 + 34);
    assert_int_equal(c.supervised, 4 + 4);

    write_text(input, "{\"prompt\": \"the question\", \"completion\": \"an answer\"}\n");
    o.one_sample_per_turn = false;
    o.columns_as_chat = true;
    o.output_dir = at("columns");
    OK(run(&o, 1, &c, &report));
    OK(am_shard_open(at("columns/shard-00000-of-00001.h5"), &s));
    expect_sequence(s, 0, chat_ids, chat_mask, 17);
    am_shard_close(&s);
    am_str_release(&report);
}

/* Tokens of a folder of shards in name order, hashed with the lengths. */
static uint64_t hash_folder(const char *dir, int workers, int64_t *sequences)
{
    uint64_t h = 0;
    *sequences = 0;
    for (int w = 0; w < workers; w++) {
        char path[1024];
        am_shard *s = NULL;
        snprintf(path, sizeof path, "%s/shard-%05d-of-%05d.h5", dir, w, workers);
        OK(am_shard_open(path, &s));
        for (int64_t i = 0; i < am_shard_get_info(s)->num_sequences; i++) {
            uint32_t ids[256];
            uint8_t mask[256];
            int64_t start = (int64_t)am_shard_offsets(s)[i], n = (int64_t)am_shard_offsets(s)[i + 1] - start;
            OK(am_shard_read(s, start, n, ids, mask));
            h = am_hash64(ids, (size_t)n * 4, h);
            h = am_hash64(mask, (size_t)n, h);
        }
        *sequences += am_shard_get_info(s)->num_sequences;
        am_shard_close(&s);
    }
    return h;
}

static void test_prepare__workers_keep_the_order(void **state)
{
    char paths[3][512];
    const char *inputs[3] = {paths[0], paths[1], paths[2]};
    uint64_t first = 0;
    snprintf(paths[0], sizeof paths[0], "%s", at("w0.jsonl"));
    snprintf(paths[1], sizeof paths[1], "%s", at("w1.jsonl.gz"));
    snprintf(paths[2], sizeof paths[2], "%s", at("w2.jsonl"));
    FILE *f[2] = {fopen(paths[0], "w"), fopen(paths[2], "w")};
    gzFile z = gzopen(paths[1], "wb");
    for (int i = 0; i < 60; i++) {
        fprintf(f[0], "{\"text\": \"the answer is %d\"}\n%s", i * i, i % 7 ? "" : "\n");
        gzprintf(z, "{\"prompt\": \"%d?\", \"completion\": \"the question %d\"}\n", i, i + 1000);
        fprintf(f[1], "{\"text\": \"%0*d\"}\n", 1 + i, i);
    }
    gzclose(z);
    fclose(f[0]);
    fclose(f[1]);
    const int workers[] = {1, 2, 3, 4, 7, 50};
    for (size_t k = 0; k < sizeof workers / sizeof *workers; k++) {
        char out[600];
        am_prepare_counts c;
        am_str report = {0};
        int64_t sequences;
        snprintf(out, sizeof out, "%s/w-%d", scratch_dir, workers[k]);
        am_prepare_options o = options(inputs, 3, out);
        OK(run(&o, workers[k], &c, &report));
        uint64_t h = hash_folder(out, workers[k], &sequences);
        assert_int_equal(sequences, 180);
        assert_int_equal(c.samples, 180);
        if (k == 0) first = h;
        assert_true(h == first);
        am_str_release(&report);
    }
}

static am_status prepare_text(const char *text, const am_prepare_options *base)
{
    static int number;
    char out[600];
    const char *input = at("bad.jsonl");
    am_prepare_options o = base ? *base : (am_prepare_options){0};
    am_prepare_counts c;
    am_str report = {0};
    snprintf(out, sizeof out, "%s/bad-%d", scratch_dir, number++);
    o.inputs = &input;
    o.num_inputs = 1;
    if (!o.model_dir) o.model_dir = tiny;
    o.output_dir = out;
    write_text(input, text);
    am_status st = run(&o, 2, &c, &report);
    am_str_release(&report);
    return st;
}

static void test_prepare__refused_lines(void **state)
{
    const am_prepare_options short_ones = {.max_length = 5};
    FAILS(prepare_text("", NULL), AM_ERR_DATA, "bad.jsonl", "empty");
    FAILS(prepare_text("\n \n", NULL), AM_ERR_DATA, "bad.jsonl", "empty");
    FAILS(prepare_text("{\"text\": \"a\"}\n\n{\"text\": }\n", NULL), AM_ERR_DATA, "bad.jsonl:3", "column",
          "not JSON");
    FAILS(prepare_text("[1]\n", NULL), AM_ERR_DATA, "bad.jsonl:1", "JSON object");
    FAILS(prepare_text("{\"text\": 1}\n", NULL), AM_ERR_DATA, "bad.jsonl:1", "\"text\" is not a string");
    FAILS(prepare_text("{\"text\": \"a\", \"text\": \"b\"}\n", NULL), AM_ERR_DATA, "bad.jsonl:1",
          "duplicate");
    FAILS(prepare_text("{\"text\": \"\xff\"}\n", NULL), AM_ERR_DATA, "bad.jsonl:1", "byte 0xff");
    FAILS(prepare_text("{\"prompt\": \"a\"}\n", NULL), AM_ERR_DATA, "bad.jsonl:1",
          "\"completion\" is missing");
    FAILS(prepare_text("{\"txt\": \"a\"}\n", NULL), AM_ERR_DATA, "bad.jsonl:1", "neither \"messages\"",
          "\"text\"");
    FAILS(prepare_text("{\"text\": \"a\"}\n{\"text\": \"the answer is 42\"}\n", &short_ones), AM_ERR_DATA,
          "bad.jsonl:2", "8 tokens", "limit of 5");
    FAILS(prepare_text("{\"text\": \"a\"}\n" CHAT_LINE, NULL), AM_ERR_DATA, "bad.jsonl:2",
          "does not start with one");
}

static void test_prepare__refused_chats(void **state)
{
    const am_prepare_options as_text = {.special_as_text = true};
    if (!have_jinja) skip();
    FAILS(prepare_text("{\"messages\": []}\n", NULL), AM_ERR_DATA, "bad.jsonl:1", "not a list of turns");
    FAILS(prepare_text("{\"messages\": {}}\n", NULL), AM_ERR_DATA, "bad.jsonl:1", "not a list of turns");
    FAILS(prepare_text(CHAT_LINE "{\"messages\": [{\"role\": \"user\"}]}\n", NULL), AM_ERR_DATA,
          "bad.jsonl:2");
    FAILS(prepare_text("{\"messages\":[{\"role\":\"user\",\"content\":\"and\"}]}\n", NULL), AM_ERR_DATA,
          "bad.jsonl", "none of the tokens", "0 %", "assistant turns");
    FAILS(prepare_text("{\"messages\":[{\"role\":\"user\",\"content\":\"<|im_end|>\"},"
                       "{\"role\":\"assistant\",\"content\":\"a\"}]}\n",
                       &as_text),
          AM_ERR_DATA, "bad.jsonl:1", "special token");
}

/* A {% generation %} block that ends before the end of the turn. */
static void test_prepare__end_of_turn_must_be_supervised(void **state)
{
    static const char *const blocks[] = {"'<|im_end|>'",
                                         "''"}; /* what stands inside the block beside the content */
    if (!have_jinja) skip();
    for (int i = 0; i < 2; i++) {
        char config[1024], command[2048], dir[400];
        snprintf(dir, sizeof dir, "%s/gen-%d", scratch_dir, i);
        snprintf(command, sizeof command, "mkdir '%s' && cp '%s/tokenizer.json' '%s'", dir, tiny, dir);
        assert_int_equal(system(command), 0);
        snprintf(config, sizeof config,
                 "{\"eos_token\": \"</s>\", \"chat_template\": \"{%% for m in messages %%}{{'<|im_start|>' + "
                 "m['role'] + ':'}}"
                 "{%% if m['role'] == 'assistant' %%}{%% generation %%}{{ m['content'] + %s }}{%% "
                 "endgeneration %%}"
                 "{%% else %%}{{ m['content'] + '<|im_end|>' }}{%% endif %%}%s{%% endfor %%}\"}",
                 blocks[i], i == 0 ? "" : "{{ '<|im_end|>' if m['role'] == 'assistant' else '' }}");
        write_text(at("c"), config);
        snprintf(command, sizeof command, "mv '%s/c' '%s/tokenizer_config.json'", scratch_dir, dir);
        assert_int_equal(system(command), 0);
        const am_prepare_options o = {.model_dir = dir};
        if (i == 0)
            OK(prepare_text(CHAT_LINE, &o));
        else
            FAILS(prepare_text(CHAT_LINE, &o), AM_ERR_DATA, "bad.jsonl:1", "<|im_end|>",
                  "would not learn to stop");
    }
}

static void test_prepare__refused_places(void **state)
{
    const char *input = at("one.jsonl"), *missing = at("missing.jsonl");
    am_prepare_counts c;
    am_str report = {0};
    write_text(input, "{\"text\": \"a\"}\n{\"text\": \"b\"}\n");
    am_prepare_options o = options(&missing, 1, at("places"));
    FAILS(run(&o, 1, &c, &report), AM_ERR_DATA, "missing.jsonl");
    o.inputs = &input;
    OK(run(&o, 2, &c, &report));
    OK(run(&o, 2, &c, &report)); /* again over its own: allowed */
    FAILS(run(&o, 1, &c, &report), AM_ERR_DATA, "-of-00002.h5 of another preparation");
    o.num_inputs = 0;
    FAILS(run(&o, 1, &c, &report), AM_ERR_USAGE, "no input files");
    o.num_inputs = 1;
    o.deflate = 10;
    o.output_dir = at("places2");
    FAILS(run(&o, 1, &c, &report), AM_ERR_CONFIG, "deflate level 10");
    o.deflate = 0;
    o.model_dir = at("no-model");
    assert_int_not_equal(run(&o, 1, &c, &report), AM_OK);
    assert_non_null(strstr(am_error_message(), "no-model"));
    am_str_release(&report);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_prepare__text_and_pairs),
        cmocka_unit_test(test_prepare__columns),
        cmocka_unit_test(test_prepare__chat),
        cmocka_unit_test(test_prepare__workers_keep_the_order),
        cmocka_unit_test(test_prepare__refused_lines),
        cmocka_unit_test(test_prepare__refused_chats),
        cmocka_unit_test(test_prepare__end_of_turn_must_be_supervised),
        cmocka_unit_test(test_prepare__refused_places),
    };
    return cmocka_run_group_tests(tests, set_up, remove_scratch);
}
