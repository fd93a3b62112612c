/* The manual pages, automodel(1) and one a subcommand, made from the tables that print --help: `automodel
 * --man [COMMAND]`.  The build writes them into files, the installation puts them under share/man/man1.
 *
 * roff in one paragraph: a line that begins with a dot or an apostrophe is a request, a backslash begins an
 * escape, a plain "-" is a hyphen that may become a typographic one, and characters beyond ASCII are named by
 * their code point. put() takes care of these; .TP starts an entry "head, indented text". */
#include "cli/cli.h"

#include <ctype.h>
#include <string.h>

/* What INSTALL lists under "Variables of the environment", in its words. */
static const struct {
    const char *name, *text;
} variables[] = {
    {"AM_CARDS", "folder of model cards, instead of share/automodel/configs/models beside the program"},
    {"AM_PYTHON", "Python with jinja2 that renders chat templates"},
    {"AM_ISA", "portable, avx2, avx512 or avx512_bf16: at most these instructions"},
    {"AM_DEBUG", "log subsystems, comma-separated: comm, ckpt, train, trace (where an error came through) …"},
    {"OMPI_ALLOW_RUN_AS_ROOT=1 and OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1",
     "what Open MPI wants in a container where you are root"},
};

/* The code point at *s (valid UTF-8: all texts are ours), *s moved behind it. */
static unsigned next_code_point(const char **s)
{
    const unsigned char *p = (const unsigned char *)*s;
    int more = p[0] >= 0xf0 ? 3 : p[0] >= 0xe0 ? 2 : p[0] >= 0xc0 ? 1 : 0;
    unsigned c = more == 0 ? p[0] : p[0] & (0x3fu >> more);
    (*s)++;
    for (; more > 0 && **s != '\0'; more--, (*s)++) c = c << 6 | ((unsigned char)**s & 0x3fu);
    return c;
}

/* The first n bytes of a text, escaped.  \& keeps what follows from being a request. */
static void put_n(FILE *f, const char *s, size_t n)
{
    const char *end = s + n;
    if (s < end && (*s == '.' || *s == '\'')) fputs("\\&", f);
    while (s < end) {
        unsigned c = next_code_point(&s);
        if (c == '\\')
            fputs("\\e", f);
        else if (c == '-')
            fputs("\\-", f);
        else if (c == '\n')
            fputc(' ', f);
        else if (c < 0x80)
            fputc((int)c, f);
        else
            fprintf(f, "\\[u%04X]", c);
    }
}

static void put(FILE *f, const char *s)
{
    put_n(f, s, strlen(s));
}

static void section(FILE *f, const char *name)
{
    fprintf(f, ".SH %s\n", name);
}

static void paragraph(FILE *f, const char *text)
{
    put(f, text);
    fputc('\n', f);
}

/* An entry: bold head, text. */
static void entry_of(FILE *f, const char *head, const char *text)
{
    fputs(".TP\n\\fB", f);
    put(f, head);
    fputs("\\fR\n", f);
    paragraph(f, text);
}

/* "automodel-train" of "automodel train". */
static void put_page_name(FILE *f, const char *command, bool capitals)
{
    char name[64];
    snprintf(name, sizeof name, "%s", command);
    for (char *c = name; *c; c++) *c = (char)(*c == ' ' ? '-' : capitals ? toupper((unsigned char)*c) : *c);
    put(f, name);
}

/* The head of a page.  What follows the dash in NAME is what `whatis` prints: one sentence. */
static void head(FILE *f, const am_cli_command *c)
{
    const char *stop = strstr(c->summary, ". ");
    size_t n = stop ? (size_t)(stop - c->summary) : strlen(c->summary);
    if (n > 0 && c->summary[n - 1] == '.') n--;
    fputs(".TH ", f);
    put_page_name(f, c->name, true);
    fputs(" 1 \"\" \"automodel " AM_VERSION "\" \"automodel\"\n.nh\n.ad l\n", f);
    section(f, "NAME");
    put_page_name(f, c->name, false);
    fputs(" \\- ", f);
    put_n(f, c->summary, n);
    fputc('\n', f);
}

static void options(FILE *f, const am_cli_command *command)
{
    am_cli_option o;
    section(f, "OPTIONS");
    for (size_t i = 0; am_cli_help_row(command, i, &o); i++) {
        fputs(".TP\n", f);
        if (o.short_name) fprintf(f, "\\fB\\-%c\\fR, ", o.short_name);
        fputs("\\fB\\-\\-", f);
        put(f, o.name);
        fputs("\\fR", f);
        if (o.value_name) {
            fputs(" \\fI", f);
            put(f, o.value_name);
            fputs("\\fR", f);
        }
        fputc('\n', f);
        put(f, o.help);
        if (o.default_text) {
            fputs(" (default: ", f);
            put(f, o.default_text);
            fputc(')', f);
        }
        fputc('\n', f);
    }
}

static void commands(FILE *f)
{
    const am_cli_entry *e;
    section(f, "COMMANDS");
    for (size_t i = 0; (e = am_cli_at(i)) != NULL; i++) entry_of(f, e->command->name, e->command->summary);
}

static void exit_status(FILE *f)
{
    char code[16];
    section(f, "EXIT STATUS");
    for (int i = 0; i < AM_CLI_NUM_EXIT_CODES; i++) {
        snprintf(code, sizeof code, "%d", i);
        entry_of(f, code, am_cli_exit_codes[i]);
    }
}

static void environment(FILE *f)
{
    section(f, "ENVIRONMENT");
    for (size_t i = 0; i < sizeof variables / sizeof *variables; i++)
        entry_of(f, variables[i].name, variables[i].text);
}

static void page_reference(FILE *f, const char *command)
{
    fputs("\\fB", f);
    put_page_name(f, command, false);
    fputs("\\fR(1), ", f);
}

static void see_also(FILE *f, const am_cli_entry *self)
{
    const am_cli_entry *e;
    section(f, "SEE ALSO");
    if (self) page_reference(f, "automodel");
    for (size_t i = 0; (e = am_cli_at(i)) != NULL; i++)
        if (e != self) page_reference(f, e->command->name);
    fputs("\\fBmpirun\\fR(1), \\fBsrun\\fR(1), \\fBsbatch\\fR(1)\n.PP\n", f);
    paragraph(f,
              "The options of recipes: automodel train --options all.  README.md, INSTALL and docs/ lie in "
              "share/doc/automodel, example recipes in share/automodel/configs, batch scripts in "
              "share/automodel/slurm beside the program's bin.");
}

void am_cli_print_man(const am_cli_entry *entry, FILE *f)
{
    const am_cli_command *c = entry ? entry->command : &am_automodel_command;
    head(f, c);
    section(f, "SYNOPSIS");
    fputs(".PP\n\\fB", f);
    put(f, c->name);
    fputs("\\fR ", f);
    paragraph(f, c->usage);
    section(f, "DESCRIPTION");
    if (entry) {
        paragraph(f, c->summary);
    } else {
        paragraph(
            f,
            "A Hugging Face directory and a recipe go in; a Hugging Face directory comes out.  Ranks are "
            "started by mpirun or srun; one rank needs neither.  Every command has --help and a page of its "
            "own.");
        commands(f);
    }
    options(f, c);
    exit_status(f);
    environment(f);
    see_also(f, entry);
}
