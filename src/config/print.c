/* What the tables say, as --help and as the reference page; and the resolved recipe as YAML. */
#include "config/config_internal.h"

#include <ctype.h>
#include <string.h>

/* ---- dump ---- */

/* May the text stand without quotes and still be read as this very text? */
static bool plain_is_safe(const char *s)
{
    double x;
    bool b;
    if (!isalpha((unsigned char)s[0]) && s[0] != '/' && s[0] != '_' && s[0] != '.') return false;
    for (const char *c = s; *c != '\0'; c++)
        if (!isalnum((unsigned char)*c) && strchr("_-./", *c) == NULL) return false;
    return !am_text_is_null(s, true) && !am_text_parse_bool(s, &b) && !am_parse_f64(s, &x);
}

static am_status put_text(am_str *out, const char *s)
{
    am_status st = AM_OK;
    if (plain_is_safe(s)) return am_str_printf(out, "%s", s);
    AM_TRY(am_str_append(out, "\"", 1));
    for (const char *c = s; *c != '\0'; c++) {
        if (*c == '$' && c[1] == '{')
            AM_TRY(am_str_append(out, "$$", 2)); /* it was expanded once already */
        else if (*c == '"' || *c == '\\')
            AM_TRY(am_str_printf(out, "\\%c", *c));
        else if (*c == '\n')
            AM_TRY(am_str_append(out, "\\n", 2));
        else if ((unsigned char)*c < 0x20 || *c == 0x7f)
            AM_TRY(am_str_printf(out, "\\x%02x", *c));
        else
            AM_TRY(am_str_append(out, c, 1));
    }
    AM_TRY(am_str_append(out, "\"", 1));
done:
    return st;
}

/* The shortest decimal that reads back as x. */
static am_status put_number(am_str *out, double x)
{
    char text[40];
    double back;
    for (int digits = 6; digits <= 17; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, x);
        if (am_parse_f64(text, &back) && back == x) break;
    }
    return am_str_printf(out, "%s", text);
}

static am_status put_value(am_str *out, const am_value *v)
{
    am_status st = AM_OK;
    bool numbers = v->option->type == AM_OPTION_FLOATS;
    switch (v->option->type) {
    case AM_OPTION_BOOL:
        return am_str_printf(out, "%s", v->b ? "true" : "false");
    case AM_OPTION_INT:
        return am_str_printf(out, "%" PRId64, v->i);
    case AM_OPTION_FLOAT:
        return put_number(out, v->f);
    case AM_OPTION_DTYPE:
        return am_str_printf(out, "%s", am_dtype_name(v->dtype));
    case AM_OPTION_ENUM:
        return am_str_printf(out, "%s", v->s);
    case AM_OPTION_STRINGS:
    case AM_OPTION_FLOATS:
        for (size_t i = 0; i < v->count; i++) {
            AM_TRY(am_str_append(out, i == 0 ? "[" : ", ", i == 0 ? 1 : 2));
            AM_TRY(numbers ? put_number(out, v->numbers[i]) : put_text(out, v->items[i]));
        }
        return am_str_append(out, v->count == 0 ? "[]" : "]", v->count == 0 ? 2 : 1);
    default:
        return put_text(out, v->s);
    }
done:
    return st;
}

/* Values below `prefix` ("optimizer", "distributed.mp_policy"): what follows it and a dot. */
static const char *below(const am_value *v, const char *prefix)
{
    size_t n = strlen(prefix);
    if (n == 0) return v->path;
    return strncmp(v->path, prefix, n) == 0 && v->path[n] == '.' ? v->path + n + 1 : NULL;
}

static am_status put_map(const am_config *cfg, am_str *out, const char *prefix, int indent, bool fields,
                         bool item);

static am_status put_records(const am_config *cfg, am_str *out, const am_value *v, int indent)
{
    am_status st = AM_OK;
    am_str prefix = {0};
    AM_TRY(am_str_append(out, "\n", 1));
    for (size_t i = 0; i < v->count; i++) {
        prefix.len = 0;
        AM_TRY(am_str_printf(&prefix, "%s.%zu", v->path, i));
        AM_TRY(put_map(cfg, out, prefix.s, indent, true, true));
    }
done:
    am_str_release(&prefix);
    return st;
}

/* The first value whose path begins with `prefix`.`head`.: there the nested map is written, once. */
static bool first_of_group(const am_config *cfg, size_t index, const char *prefix, size_t head)
{
    const char *mine = below(cfg->values[index], prefix);
    for (size_t i = 0; i < index; i++) {
        const char *other = below(cfg->values[i], prefix);
        if (other != NULL && !cfg->values[i]->is_null && strncmp(other, mine, head + 1) == 0) return false;
    }
    return true;
}

/* `fields`: values of a map in a list (they are skipped otherwise); `item`: its first line gets the dash. */
static am_status put_map(const am_config *cfg, am_str *out, const char *prefix, int indent, bool fields,
                         bool item)
{
    am_status st = AM_OK;
    am_str inner = {0};
    for (size_t i = 0; i < cfg->num_values; i++) {
        const am_value *v = cfg->values[i];
        const char *key = below(v, prefix);
        if (key == NULL || v->is_null || v->is_field != fields) continue;
        const char *dot = strchr(key, '.');
        if (prefix[0] == '\0' && dot != NULL) continue; /* belongs to a section */
        if (dot != NULL && !first_of_group(cfg, i, prefix, (size_t)(dot - key))) continue;
        if (item)
            AM_TRY(am_str_printf(out, "%*s- ", indent, ""));
        else
            AM_TRY(am_str_printf(out, "%*s", fields ? indent + 2 : indent, ""));
        item = false;
        if (dot != NULL) {
            inner.len = 0;
            AM_TRY(am_str_printf(&inner, "%s.%.*s", prefix, (int)(dot - key), key));
            AM_TRY(am_str_printf(out, "%.*s:\n", (int)(dot - key), key));
            AM_TRY(put_map(cfg, out, inner.s, indent + 2, false, false));
            continue;
        }
        AM_TRY(am_str_printf(out, "%s: ", key));
        if (v->option->type == AM_OPTION_RECORDS) {
            AM_TRY(put_records(cfg, out, v, indent + 2));
            continue;
        }
        AM_TRY(put_value(out, v));
        AM_TRY(am_str_printf(out, "%s\n", v->given ? "" : "  # default"));
    }
done:
    am_str_release(&inner);
    return st;
}

static bool anything_below(const am_config *cfg, const char *prefix)
{
    for (size_t i = 0; i < cfg->num_values; i++)
        if (below(cfg->values[i], prefix) != NULL && !cfg->values[i]->is_null) return true;
    return false;
}

am_status am_config_dump(const am_config *cfg, am_str *out)
{
    am_status st = AM_OK;
    AM_TRY(put_map(cfg, out, "", 0, false, false));
    for (const am_section *s = am_sections; s->name != NULL; s++) {
        for (size_t i = 0; i < cfg->num_sections; i++) {
            const am_bound_section *b = &cfg->sections[i];
            if (b->section != s || b->name[0] == '\0') continue;
            /* an absent lr_scheduler is not one with defaults */
            if (!b->given && (strcmp(b->name, "lr_scheduler") == 0 || !anything_below(cfg, b->name)))
                continue;
            if (b->target == NULL && !anything_below(cfg, b->name)) continue;
            AM_TRY(am_str_printf(out, "%s:\n", b->name));
            /* `strategy` says what the name of `distributed` does */
            if (b->target != NULL && strcmp(b->name, "distributed") != 0)
                AM_TRY(am_str_printf(out, "  _target_: %s\n", b->target->example));
            AM_TRY(put_map(cfg, out, b->name, 2, false, false));
        }
    }
done:
    return st;
}

/* ---- help and reference ---- */

static void describe_type(const am_option *o, char *out, size_t size)
{
    if (o->type == AM_OPTION_ENUM || o->type == AM_OPTION_DTYPE)
        snprintf(out, size, "%s", o->values);
    else
        snprintf(out, size, "%s%s%s%s%s", am_option_type_name(o->type), o->units != NULL ? ", " : "",
                 o->units != NULL ? o->units : "", o->range != NULL ? " in " : "",
                 o->range != NULL ? o->range : "");
}

static void help_row(FILE *f, const char *section, const char *prefix, const am_option *o)
{
    char type[256];
    if (o->effect != AM_EFFECT_USED || o->key[0] == '_' || strstr(o->key, "_target_") != NULL) return;
    fprintf(f, "  --%s%s%s%s", section, section[0] != '\0' ? "." : "", prefix, o->key);
    if (o->alias != NULL) {
        fprintf(f, "\n      Another spelling of %s%s.\n", o->alias[0] == '.' ? section : "", o->alias);
        return;
    }
    describe_type(o, type, sizeof type);
    fprintf(f, "  <%s>  default: %s\n      %s\n", type, o->default_text != NULL ? o->default_text : "none",
            o->help);
    for (const am_option *field = o->fields; field != NULL && field->key != NULL; field++) {
        char inner[96];
        snprintf(inner, sizeof inner, "%s.N.", o->key);
        help_row(f, section, inner, field);
    }
}

static void help_section(FILE *f, const am_section *s, const am_target *only)
{
    fprintf(f, "\n%s%s%s\n", s->name[0] != '\0' ? s->name : "", s->name[0] != '\0' ? ": " : "", s->help);
    for (const am_target *t = s->targets; t != NULL && t->name != NULL; t++) {
        if (t->remedy != NULL || (only != NULL && t != only)) continue;
        bool is_default = s->default_target != NULL && strcmp(t->name, s->default_target) == 0;
        fprintf(f, " _target_: %s%s%s%s\n", t->example, t->help != NULL ? "  " : "",
                t->help != NULL ? t->help : "", is_default ? " (default)" : "");
        for (const am_option *o = t->options; o != NULL && o->key != NULL; o++) help_row(f, s->name, "", o);
    }
    if (s->targets != NULL && s->options[0].key != NULL) fprintf(f, " with every _target_:\n");
    for (const am_option *o = s->options; o->key != NULL; o++) help_row(f, s->name, "", o);
}

am_status am_config_print_help(FILE *f, const char *section)
{
    am_status st = AM_OK;
    char name[128];
    const am_section *s = NULL;
    const am_target *t = NULL;
    if (section == NULL) {
        for (s = am_sections; s->name != NULL; s++)
            if (s->effect == AM_EFFECT_USED) help_section(f, s, NULL);
        return AM_OK;
    }
    snprintf(name, sizeof name, "%.*s", (int)strcspn(section, "."), section);
    s = am_section_find(name);
    if (s == NULL) {
        const char *names[64];
        size_t n = 0;
        for (s = am_sections; s->name != NULL && n < 64; s++)
            if (s->effect == AM_EFFECT_USED && s->name[0] != '\0' && strchr(s->name, '*') == NULL)
                names[n++] = s->name;
        const char *nearest = am_did_you_mean(name, names, n);
        AM_FAIL(AM_ERR_USAGE, "a recipe has no section \"%s\"%s%s%s", name,
                nearest != NULL ? "; did you mean \"" : "", nearest != NULL ? nearest : "",
                nearest != NULL ? "\"?" : "");
    }
    if (s->effect != AM_EFFECT_USED) {
        fprintf(f, "%s: %s: %s\n", name, s->effect == AM_EFFECT_NONE ? "accepted, no effect" : "not offered",
                s->remedy);
        return AM_OK;
    }
    if (section[strlen(name)] == '.' && s->targets != NULL) {
        t = am_target_match(s->targets, section + strlen(name) + 1);
        AM_CHECK(t != NULL && t->remedy == NULL, AM_ERR_USAGE, "the section \"%s\" has no _target_ \"%s\"",
                 name, section + strlen(name) + 1);
    }
    help_section(f, s, t);
done:
    return st;
}

/* Bars would end a cell of a Markdown table. */
static void put_cell(FILE *f, const char *s)
{
    for (; s != NULL && *s != '\0'; s++) {
        if (*s == '|')
            fputs("\\|", f);
        else
            fputc(*s, f);
    }
}

static void reference_row(FILE *f, const char *prefix, const am_option *o)
{
    char type[256];
    if (o->effect != AM_EFFECT_USED || strstr(o->key, "_target_") != NULL) return;
    fprintf(f, "| `%s%s` | ", prefix, o->key);
    if (o->alias != NULL) {
        fprintf(f, "| | Another spelling of `%s`. |\n", o->alias[0] == '.' ? o->alias + 1 : o->alias);
        return;
    }
    describe_type(o, type, sizeof type);
    put_cell(f, type);
    fprintf(f, " | %s%s%s | ", o->default_text != NULL ? "`" : "",
            o->default_text != NULL ? o->default_text : "none", o->default_text != NULL ? "`" : "");
    put_cell(f, o->help);
    fputs(" |\n", f);
    for (const am_option *field = o->fields; field != NULL && field->key != NULL; field++) {
        char inner[96];
        snprintf(inner, sizeof inner, "%s.N.", o->key);
        reference_row(f, inner, field);
    }
}

static void reference_rows(FILE *f, const am_option *rows)
{
    bool any = false;
    for (const am_option *o = rows; o != NULL && o->key != NULL; o++) any |= o->effect == AM_EFFECT_USED;
    if (!any) return;
    fputs("| key | value | default | |\n|---|---|---|---|\n", f);
    for (const am_option *o = rows; o->key != NULL; o++) reference_row(f, "", o);
    fputs("\n", f);
}

static void reference_others(FILE *f, const am_option *rows, am_effect effect, const char *title)
{
    bool any = false;
    for (const am_option *o = rows; o != NULL && o->key != NULL; o++) {
        if (o->effect != effect) continue;
        fprintf(f, "%s`%s` (", any ? "; " : title, o->key);
        put_cell(f, o->remedy);
        fputs(")", f);
        any = true;
    }
    if (any) fputs(".\n\n", f);
}

static void reference_section(FILE *f, const am_section *s)
{
    fprintf(f, "## %s%s%s\n\n%s.\n\n", s->name[0] != '\0' ? "`" : "",
            s->name[0] != '\0' ? s->name : "Top level", s->name[0] != '\0' ? "`" : "", s->help);
    reference_rows(f, s->options);
    reference_others(f, s->options, AM_EFFECT_NONE, "Accepted, no effect: ");
    reference_others(f, s->options, AM_EFFECT_REFUSED, "Not offered: ");
    for (const am_target *t = s->targets; t != NULL && t->name != NULL; t++) {
        bool is_default = s->default_target != NULL && strcmp(t->name, s->default_target) == 0;
        if (t->remedy != NULL) {
            fprintf(f, "`_target_` ending in `%s` is not offered: %s.\n\n", t->name, t->remedy);
            continue;
        }
        fprintf(f, "`_target_: %s`%s%s%s\n\n", t->example, is_default ? " (default)" : "",
                t->help != NULL ? ": " : "", t->help != NULL ? t->help : "");
        reference_rows(f, t->options);
        reference_others(f, t->options, AM_EFFECT_NONE, "Accepted, no effect: ");
        reference_others(f, t->options, AM_EFFECT_REFUSED, "Not offered: ");
    }
}

void am_config_print_reference(FILE *f)
{
    fputs("# Options of a recipe\n\n"
          "Made from the option tables in `src/config`. Every option can be given in the recipe as "
          "`section:` / `key:` "
          "or on the command line as `--section.key value`; `${VAR}` and `${VAR,default}` are replaced from "
          "the "
          "environment. A null (`none`, `null`, `~`) leaves the default in force.\n\n",
          f);
    for (const am_section *s = am_sections; s->name != NULL; s++)
        if (s->effect == AM_EFFECT_USED) reference_section(f, s);
    fputs("## Other sections\n\n| section | |\n|---|---|\n", f);
    for (const am_section *s = am_sections; s->name != NULL; s++) {
        if (s->effect == AM_EFFECT_USED) continue;
        fprintf(f, "| `%s` | %s", s->name,
                s->effect == AM_EFFECT_NONE ? "accepted, no effect: " : "not offered");
        if (s->enabled_key != NULL) {
            fputs(" when `", f);
            put_cell(f, s->enabled_key);
            fputs("` is true", f);
        }
        if (s->effect == AM_EFFECT_REFUSED) fputs(": ", f);
        put_cell(f, s->remedy);
        fputs(" |\n", f);
    }
}
