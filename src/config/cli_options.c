/* The one parser of the subcommands' own options, driven by a table (am_cli_option) that also prints --help.
 */
#include "config/config.h"

#include <string.h>

enum { MAX_OPTIONS = 64 };

typedef struct cli_value {
    bool given;
    const char *text; /* last one given; points into the arguments, which outlive the parse */
    const char **items;
    size_t count, cap;
    int64_t i;
    double f;
} cli_value;

struct am_cli {
    const am_cli_command *command;
    cli_value values[MAX_OPTIONS];
    const char **positionals;
    size_t num_positionals, cap_positionals;
    const char **overrides;
    size_t num_overrides, cap_overrides;
    bool help;
};

static size_t count_options(const am_cli_command *c)
{
    size_t n = 0;
    while (n < MAX_OPTIONS && c->options != NULL && c->options[n].name != NULL) n++;
    return n;
}

static am_status push(const char ***list, size_t *n, size_t *cap, const char *s)
{
    am_status st = AM_OK;
    AM_TRY(am_grow(list, cap, *n + 1, sizeof(char *)));
    (*list)[(*n)++] = s;
done:
    return st;
}

static const am_cli_option *find_long(const am_cli_command *c, const char *name, size_t len)
{
    for (size_t i = 0; i < count_options(c); i++)
        if (strlen(c->options[i].name) == len && strncmp(c->options[i].name, name, len) == 0)
            return &c->options[i];
    return NULL;
}

static const am_cli_option *find_short(const am_cli_command *c, char letter)
{
    for (size_t i = 0; i < count_options(c); i++)
        if (c->options[i].short_name != 0 && c->options[i].short_name == letter) return &c->options[i];
    return NULL;
}

static am_status take(am_cli *cli, const am_cli_option *o, const char *text)
{
    am_status st = AM_OK;
    cli_value *v = &cli->values[o - cli->command->options];
    AM_CHECK(!v->given || o->type == AM_CLI_STRINGS || o->type == AM_CLI_FLAG, AM_ERR_USAGE,
             "--%s is given twice: keep one", o->name);
    v->given = true;
    v->text = text;
    if (o->type == AM_CLI_INT)
        AM_CHECK(am_parse_i64(text, &v->i), AM_ERR_USAGE, "--%s takes a whole number, not \"%s\"", o->name,
                 text);
    if (o->type == AM_CLI_FLOAT)
        AM_CHECK(am_parse_f64(text, &v->f), AM_ERR_USAGE, "--%s takes a number, not \"%s\"", o->name, text);
    if (o->type == AM_CLI_STRINGS) AM_TRY(push(&v->items, &v->count, &v->cap, text));
done:
    return st;
}

/* A negative number is a value, not an option. */
static bool looks_like_option(const char *a)
{
    double x;
    return a[0] == '-' && a[1] != '\0' && !am_parse_f64(a, &x);
}

static am_status unknown_option(const am_cli_command *c, const char *argument, size_t len)
{
    const char *names[MAX_OPTIONS + 1], *nearest = NULL;
    char word[128];
    size_t n = count_options(c);
    snprintf(word, sizeof word, "%.*s", (int)len, argument + 2);
    for (size_t i = 0; i < n; i++) names[i] = c->options[i].name;
    names[n] = "help";
    nearest = am_did_you_mean(word, names, n + 1);
    if (nearest != NULL)
        return am_fail(AM_ERR_USAGE, "%s has no option --%s; did you mean --%s?", c->name, word, nearest);
    return am_fail(AM_ERR_USAGE, "%s has no option --%s; `%s --help` lists them", c->name, word, c->name);
}

/* `--section.key value` and `--seed value` go to the recipe. */
static bool is_override(const am_cli_command *c, const char *argument, size_t len)
{
    return c->takes_overrides &&
           (memchr(argument + 2, '.', len) != NULL || (len == 4 && strncmp(argument + 2, "seed", 4) == 0));
}

static am_status long_option(am_cli *cli, int num_args, const char *const *args, int *i)
{
    am_status st = AM_OK;
    const char *a = args[*i], *equals = strchr(a, '=');
    size_t len = equals != NULL ? (size_t)(equals - a - 2) : strlen(a) - 2;
    const am_cli_option *o = find_long(cli->command, a + 2, len);
    bool next = *i + 1 < num_args && !looks_like_option(args[*i + 1]);
    if (o == NULL && is_override(cli->command, a, len)) {
        AM_TRY(push(&cli->overrides, &cli->num_overrides, &cli->cap_overrides, a));
        if (equals == NULL && next)
            AM_TRY(push(&cli->overrides, &cli->num_overrides, &cli->cap_overrides, args[++*i]));
        return AM_OK;
    }
    if (o == NULL) return unknown_option(cli->command, a, len);
    if (o->type == AM_CLI_FLAG) {
        AM_CHECK(equals == NULL, AM_ERR_USAGE, "--%s takes no value", o->name);
        return take(cli, o, "");
    }
    if (equals != NULL) return take(cli, o, equals + 1);
    AM_CHECK(next, AM_ERR_USAGE, "--%s needs a value", o->name);
    AM_TRY(take(cli, o, args[++*i]));
    while (o->type == AM_CLI_STRINGS && *i + 1 < num_args && !looks_like_option(args[*i + 1]))
        AM_TRY(take(cli, o, args[++*i]));
done:
    return st;
}

static am_status short_option(am_cli *cli, int num_args, const char *const *args, int *i)
{
    am_status st = AM_OK;
    const char *a = args[*i];
    const am_cli_option *o = find_short(cli->command, a[1]);
    AM_CHECK(o != NULL && a[2] == '\0', AM_ERR_USAGE, "%s has no option %s; `%s --help` lists them",
             cli->command->name, a, cli->command->name);
    if (o->type == AM_CLI_FLAG) return take(cli, o, "");
    AM_CHECK(*i + 1 < num_args && !looks_like_option(args[*i + 1]), AM_ERR_USAGE, "-%c needs a value",
             o->short_name);
    AM_TRY(take(cli, o, args[++*i]));
done:
    return st;
}

static bool wants_help(int num_args, const char *const *args)
{
    for (int i = 0; i < num_args && strcmp(args[i], "--") != 0; i++)
        if (strcmp(args[i], "--help") == 0 || strcmp(args[i], "-h") == 0) return true;
    return false;
}

static am_status parse_all(am_cli *cli, int num_args, const char *const *args)
{
    am_status st = AM_OK;
    const am_cli_command *c = cli->command;
    bool options = true;
    for (int i = 0; i < num_args; i++) {
        const char *a = args[i];
        if (options && strcmp(a, "--") == 0)
            options = false;
        else if (options && strncmp(a, "--", 2) == 0)
            AM_TRY(long_option(cli, num_args, args, &i));
        else if (options && looks_like_option(a))
            AM_TRY(short_option(cli, num_args, args, &i));
        else
            AM_TRY(push(&cli->positionals, &cli->num_positionals, &cli->cap_positionals, a));
    }
    AM_CHECK((int)cli->num_positionals >= c->min_positionals, AM_ERR_USAGE, "usage: %s %s", c->name,
             c->usage);
    AM_CHECK(c->max_positionals < 0 || (int)cli->num_positionals <= c->max_positionals, AM_ERR_USAGE,
             "\"%s\" is one argument too many; usage: %s %s", cli->positionals[c->max_positionals], c->name,
             c->usage);
done:
    return st;
}

static am_status set_defaults(am_cli *cli)
{
    am_status st = AM_OK;
    for (size_t i = 0; i < count_options(cli->command); i++) {
        const am_cli_option *o = &cli->command->options[i];
        cli_value *v = &cli->values[i];
        if (v->given || o->default_text == NULL) continue;
        AM_TRY(take(cli, o, o->default_text));
        v->given = false;
    }
done:
    return st;
}

am_status am_cli_parse(const am_cli_command *command, int num_args, const char *const *args, am_cli **out)
{
    am_status st = AM_OK;
    am_cli *cli = NULL;
    *out = NULL;
    AM_TRY(am_calloc(1, sizeof *cli, &cli));
    cli->command = command;
    cli->help = wants_help(num_args, args);
    if (!cli->help) {
        AM_TRY(parse_all(cli, num_args, args));
        AM_TRY(set_defaults(cli));
    }
    *out = cli;
    cli = NULL;
done:
    am_cli_free(&cli);
    return st;
}

void am_cli_free(am_cli **cli)
{
    if (*cli == NULL) return;
    for (int i = 0; i < MAX_OPTIONS; i++) am_free(&(*cli)->values[i].items);
    am_free(&(*cli)->positionals);
    am_free(&(*cli)->overrides);
    am_free(cli);
}

bool am_cli_help_wanted(const am_cli *cli)
{
    return cli->help;
}

bool am_cli_help_row(const am_cli_command *command, size_t i, am_cli_option *out)
{
    static const char *const values[] = {NULL, "N", "X", "TEXT", "TEXT…"};
    static const am_cli_option help = {"help", 'h', AM_CLI_FLAG, NULL, NULL, "This text."};
    static const am_cli_option overrides = {
        "section.key", 0, AM_CLI_STRING, NULL, "value, --section.key=value", "Any option of the recipe."};
    size_t n = count_options(command);
    if (i > n + (command->takes_overrides ? 1 : 0)) return false;
    *out = i < n ? command->options[i] : i == n ? help : overrides;
    if (out->type == AM_CLI_FLAG) out->default_text = NULL;
    if (out->type == AM_CLI_FLAG || out->value_name == NULL) out->value_name = values[out->type];
    return true;
}

void am_cli_print_help(const am_cli_command *command, FILE *f)
{
    am_cli_option o;
    fprintf(f, "usage: %s %s\n\n%s\n\noptions:\n", command->name, command->usage, command->summary);
    for (size_t i = 0; am_cli_help_row(command, i, &o); i++) {
        char letter[8] = "";
        if (o.short_name != 0) snprintf(letter, sizeof letter, "-%c, ", o.short_name);
        fprintf(f, "  %s--%s%s%s\n      %s", letter, o.name, o.value_name ? " " : "",
                o.value_name ? o.value_name : "", o.help);
        if (o.default_text != NULL) fprintf(f, " (default: %s)", o.default_text);
        fputc('\n', f);
    }
}

static const cli_value *value_of(const am_cli *cli, const char *name)
{
    const am_cli_option *o = find_long(cli->command, name, strlen(name));
    if (o == NULL)
        am_log(AM_LOG_ERROR, "config", "defect: %s has no option \"%s\"", cli->command->name, name);
    return o != NULL ? &cli->values[o - cli->command->options] : &cli->values[MAX_OPTIONS - 1];
}

bool am_cli_given(const am_cli *cli, const char *name)
{
    return value_of(cli, name)->given;
}
bool am_cli_flag(const am_cli *cli, const char *name)
{
    return value_of(cli, name)->given;
}
int64_t am_cli_int(const am_cli *cli, const char *name)
{
    return value_of(cli, name)->i;
}
double am_cli_float(const am_cli *cli, const char *name)
{
    return value_of(cli, name)->f;
}
const char *am_cli_string(const am_cli *cli, const char *name)
{
    return value_of(cli, name)->text;
}
size_t am_cli_count(const am_cli *cli, const char *name)
{
    return value_of(cli, name)->count;
}

const char *am_cli_item(const am_cli *cli, const char *name, size_t i)
{
    const cli_value *v = value_of(cli, name);
    return i < v->count ? v->items[i] : NULL;
}

size_t am_cli_num_positionals(const am_cli *cli)
{
    return cli->num_positionals;
}
const char *am_cli_positional(const am_cli *cli, size_t i)
{
    return i < cli->num_positionals ? cli->positionals[i] : NULL;
}

const char *const *am_cli_overrides(const am_cli *cli, int *num)
{
    *num = (int)cli->num_overrides;
    return cli->overrides;
}
