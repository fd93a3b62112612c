/* The parser of the subcommands' own options. */
#include "test_config_support.h"

#define COUNT(a) ((int)(sizeof(a) / sizeof(a)[0]))

static const am_cli_option options[] = {
    {"output", 'o', AM_CLI_STRING, NULL, "DIR", "Where to write."},
    {"max-shard-size", 0, AM_CLI_INT, "5", "GB", "Size of a file."},
    {"temperature", 0, AM_CLI_FLOAT, "1.0", NULL, "0: greedy."},
    {"json", 0, AM_CLI_FLAG, NULL, NULL, "For machines."},
    {"input", 'i', AM_CLI_STRINGS, NULL, "FILE…", "JSON lines."},
    {0},
};
static const am_cli_command command = {
    "automodel export", "CHECKPOINT -o DIR", "Write a Hugging Face directory.", options, 1, 1, false};
static const am_cli_command train = {
    "automodel train", "CONFIG [--section.key value …]", "Train.", options, 1, 1, true};

static void test_config_cli__values(void **state)
{
    static const char *const args[] = {"--json",  "ckpt", "-o", "out",     "--temperature=0.5",
                                       "--input", "a",    "b",  "--input", "c"};
    am_cli *cli = NULL;
    assert_int_equal(am_cli_parse(&command, COUNT(args), args, &cli), AM_OK);
    assert_true(am_cli_flag(cli, "json"));
    assert_string_equal(am_cli_string(cli, "output"), "out");
    assert_int_equal(am_cli_int(cli, "max-shard-size"), 5);
    assert_false(am_cli_given(cli, "max-shard-size"));
    assert_true(am_cli_float(cli, "temperature") == 0.5);
    assert_int_equal(am_cli_count(cli, "input"), 3);
    assert_string_equal(am_cli_item(cli, "input", 2), "c");
    assert_null(am_cli_item(cli, "input", 3));
    assert_int_equal(am_cli_num_positionals(cli), 1);
    assert_string_equal(am_cli_positional(cli, 0), "ckpt");
    assert_null(am_cli_positional(cli, 1));
    am_cli_free(&cli);
    assert_null(cli);
}

static void test_config_cli__double_dash_and_negative_numbers(void **state)
{
    static const char *const args[] = {"--max-shard-size", "-3", "--", "--json"};
    am_cli *cli = NULL;
    assert_int_equal(am_cli_parse(&command, COUNT(args), args, &cli), AM_OK);
    assert_int_equal(am_cli_int(cli, "max-shard-size"), -3);
    assert_false(am_cli_flag(cli, "json"));
    assert_string_equal(am_cli_positional(cli, 0), "--json");
    am_cli_free(&cli);
}

static void test_config_cli__overrides(void **state)
{
    static const char *const args[] = {"r.yaml", "--optimizer.lr", "1e-4",     "--a.flag",
                                       "--json", "--seed=3",       "--b.c=--x"};
    static const char *const expected[] = {"--optimizer.lr", "1e-4", "--a.flag", "--seed=3", "--b.c=--x"};
    am_cli *cli = NULL;
    int n = 0;
    assert_int_equal(am_cli_parse(&train, COUNT(args), args, &cli), AM_OK);
    const char *const *overrides = am_cli_overrides(cli, &n);
    assert_int_equal(n, COUNT(expected));
    for (int i = 0; i < n; i++) assert_string_equal(overrides[i], expected[i]);
    assert_true(am_cli_flag(cli, "json"));
    am_cli_free(&cli);
}

static void fails(const am_cli_command *c, int n, const char *const *args, const char *sentence)
{
    am_cli *cli = NULL;
    assert_int_equal(am_cli_parse(c, n, args, &cli), AM_ERR_USAGE);
    assert_null(cli);
    assert_string_equal(am_error_message(), sentence);
}

static void test_config_cli__refusals(void **state)
{
    fails(&command, 2, (const char *const[]){"x", "--jsn"},
          "automodel export has no option --jsn; did you mean --json?");
    fails(&command, 2, (const char *const[]){"x", "--rhubarb"},
          "automodel export has no option --rhubarb; `automodel export --help` lists them");
    fails(&command, 2, (const char *const[]){"x", "-z"},
          "automodel export has no option -z; `automodel export --help` lists them");
    fails(&command, 2, (const char *const[]){"x", "--output"}, "--output needs a value");
    fails(&command, 3, (const char *const[]){"x", "-o", "--json"}, "-o needs a value");
    fails(&command, 2, (const char *const[]){"x", "--json=1"}, "--json takes no value");
    fails(&command, 3, (const char *const[]){"x", "--max-shard-size", "5GB"},
          "--max-shard-size takes a whole number, not \"5GB\"");
    fails(&command, 3, (const char *const[]){"x", "--temperature", "hot"},
          "--temperature takes a number, not \"hot\"");
    fails(&command, 3, (const char *const[]){"x", "--output=a", "--output=b"},
          "--output is given twice: keep one");
    fails(&command, 0, NULL, "usage: automodel export CHECKPOINT -o DIR");
    fails(&command, 2, (const char *const[]){"x", "y"},
          "\"y\" is one argument too many; usage: automodel export CHECKPOINT -o DIR");
    fails(&command, 2, (const char *const[]){"x", "--a.b=1"},
          "automodel export has no option --a.b; `automodel export --help` lists them");
}

static void test_config_cli__help(void **state)
{
    static const char *const args[] = {"--rhubarb", "--help"};
    am_cli *cli = NULL;
    char text[2048];
    assert_int_equal(am_cli_parse(&command, 2, args, &cli), AM_OK);
    assert_true(am_cli_help_wanted(cli));
    am_cli_free(&cli);
    FILE *f = tmpfile();
    assert_non_null(f);
    am_cli_print_help(&command, f);
    rewind(f);
    text[fread(text, 1, sizeof text - 1, f)] = '\0';
    fclose(f);
    assert_string_equal(text, "usage: automodel export CHECKPOINT -o DIR\n\n"
                              "Write a Hugging Face directory.\n\n"
                              "options:\n"
                              "  -o, --output DIR\n      Where to write.\n"
                              "  --max-shard-size GB\n      Size of a file. (default: 5)\n"
                              "  --temperature X\n      0: greedy. (default: 1.0)\n"
                              "  --json\n      For machines.\n"
                              "  -i, --input FILE…\n      JSON lines.\n"
                              "  -h, --help\n      This text.\n");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_config_cli__values),
        cmocka_unit_test(test_config_cli__double_dash_and_negative_numbers),
        cmocka_unit_test(test_config_cli__overrides),
        cmocka_unit_test(test_config_cli__refusals),
        cmocka_unit_test(test_config_cli__help),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
