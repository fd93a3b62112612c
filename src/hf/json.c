/* Strict JSON over jansson, and readers of numbers.
 * prepare() walks the text once before jansson sees it: it bounds the depth and rewrites what Python writes
 * beyond JSON (NaN, Infinity, integers over 64 bits).  Rewriting is rare, so positions in errors are mapped
 * back through a short list of edits. */
#include "hf_internal.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { DEFAULT_MAX_BYTES = 64 << 20 };

typedef struct edit {
    size_t at;    /* first byte of the rewritten text behind the edit */
    size_t grown; /* rewritten position minus original position from there on */
} edit;

typedef struct scan {
    const char *text, *name;
    size_t len;
    am_str out;    /* rewritten text; empty as long as nothing had to change */
    size_t copied; /* bytes of text that are in `out` */
    edit *edits;
    size_t num_edits, cap_edits;
} scan;

void am_text_position(const char *text, size_t at, int64_t *line, int64_t *column)
{
    *line = *column = 1;
    for (size_t i = 0; i < at; i++) {
        if (text[i] == '\n') {
            ++*line;
            *column = 1;
        } else if (((unsigned char)text[i] & 0xc0) != 0x80) {
            ++*column;
        }
    }
}

/* Replace text[begin, end) by `with`. */
static am_status rewrite(scan *s, size_t begin, size_t end, const char *with)
{
    am_status st = AM_OK;
    AM_TRY(am_str_append(&s->out, s->text + s->copied, begin - s->copied));
    AM_TRY(am_str_append(&s->out, with, strlen(with)));
    s->copied = end;
    AM_TRY(am_grow(&s->edits, &s->cap_edits, s->num_edits + 1, sizeof *s->edits));
    s->edits[s->num_edits++] = (edit){.at = s->out.len, .grown = s->out.len - end};
done:
    return st;
}

static am_status rewrite_number(scan *s, size_t begin, size_t end)
{
    am_status st = AM_OK;
    am_str digits = {0};
    AM_TRY(am_str_append(&digits, s->text + begin, end - begin));
    errno = 0;
    (void)strtoll(digits.s, NULL, 10);
    if (errno == ERANGE) {
        AM_TRY(am_str_append(&digits, ".0", 2));
        AM_TRY(rewrite(s, begin, end, digits.s));
    }
done:
    am_str_release(&digits);
    return st;
}

static const struct {
    const char *literal, *spelled;
} specials[] = {
    {"NaN", "{\"__float__\": \"NaN\"}"},
    {"Infinity", "{\"__float__\": \"Infinity\"}"},
    {"-Infinity", "{\"__float__\": \"-Infinity\"}"},
};

/* A token outside of strings that is not punctuation: [begin, end). */
static am_status prepare_word(scan *s, size_t begin, size_t end)
{
    size_t n = end - begin;
    for (size_t i = 0; i < sizeof specials / sizeof specials[0]; i++)
        if (n == strlen(specials[i].literal) && memcmp(s->text + begin, specials[i].literal, n) == 0)
            return rewrite(s, begin, end, specials[i].spelled);
    size_t digits = begin + (s->text[begin] == '-');
    if (end - digits < 19 || (end - digits > 1 && s->text[digits] == '0')) return AM_OK;
    for (size_t i = digits; i < end; i++)
        if (s->text[i] < '0' || s->text[i] > '9') return AM_OK;
    return rewrite_number(s, begin, end);
}

static size_t skip_string(const scan *s, size_t i)
{
    for (i++; i < s->len && s->text[i] != '"'; i++)
        if (s->text[i] == '\\') i++;
    return i < s->len ? i + 1 : s->len;
}

static bool ends_word(char c)
{
    return strchr("\"[]{}:, \t\r\n", c) != NULL;
} /* NUL as well */

static am_status prepare(scan *s)
{
    am_status st = AM_OK;
    int depth = 0;
    for (size_t i = 0; i < s->len;) {
        char c = s->text[i];
        if (c == '"') {
            i = skip_string(s, i);
        } else if (c == '[' || c == '{') {
            if (++depth > AM_JSON_MAX_DEPTH) {
                int64_t line, column;
                am_text_position(s->text, i, &line, &column);
                AM_FAIL(AM_ERR_MODEL,
                        "%s:%" PRId64 ":%" PRId64 ": more than %d nested levels of JSON are refused", s->name,
                        line, column, AM_JSON_MAX_DEPTH);
            }
            i++;
        } else if (ends_word(c)) {
            depth -= c == ']' || c == '}';
            i++;
        } else {
            size_t begin = i;
            while (i < s->len && !ends_word(s->text[i])) i++;
            AM_TRY(prepare_word(s, begin, i));
        }
    }
    if (s->num_edits > 0) AM_TRY(am_str_append(&s->out, s->text + s->copied, s->len - s->copied));
done:
    return st;
}

static size_t original_position(const scan *s, size_t at)
{
    for (size_t i = s->num_edits; i-- > 0;)
        if (at >= s->edits[i].at) return at - s->edits[i].grown;
    return at;
}

static am_status parse_failed(const scan *s, const json_error_t *e)
{
    int64_t line, column;
    size_t at = original_position(s, e->position > 0 ? (size_t)e->position : 0);
    am_text_position(s->text, at < s->len ? at : s->len, &line, &column);
    return am_fail(AM_ERR_MODEL, "%s:%" PRId64 ":%" PRId64 ": not valid JSON: %s", s->name, line, column,
                   e->text);
}

am_status am_json_parse(const char *text, size_t len, const char *name, json_t **out)
{
    am_status st = AM_OK;
    scan s = {.text = text, .len = len, .name = name};
    json_error_t error;
    *out = NULL;
    AM_TRY(prepare(&s));
    const char *body = s.num_edits > 0 ? s.out.s : text;
    size_t n = s.num_edits > 0 ? s.out.len : len;
    *out = json_loadb(body, n, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL | JSON_DECODE_ANY, &error);
    if (*out == NULL) st = parse_failed(&s, &error);
done:
    am_str_release(&s.out);
    am_free(&s.edits);
    return st;
}

am_status am_json_load(const char *path, size_t max_bytes, json_t **out)
{
    am_status st = AM_OK;
    char *text = NULL;
    size_t len = 0;
    *out = NULL;
    AM_TRY(am_file_read(path, max_bytes != 0 ? max_bytes : DEFAULT_MAX_BYTES, &text, &len));
    AM_TRY(am_json_parse(text, len, path, out));
done:
    am_free(&text);
    return st;
}

am_status am_json_save(const char *path, const json_t *value)
{
    am_status st = AM_OK;
    am_str file = {0};
    char *text = json_dumps(value, JSON_INDENT(2) | JSON_ENCODE_ANY);
    AM_CHECK(text != NULL, AM_ERR_INTERNAL, "%s: the value cannot be written as JSON", path);
    AM_TRY(am_str_printf(&file, "%s\n", text));
    AM_TRY(am_file_write_atomic(path, file.s, file.len));
done:
    free(text);
    am_str_release(&file);
    return st;
}

const json_t *am_json_at(const json_t *root, const char *path)
{
    const json_t *v = root;
    while (v != NULL && *path != '\0') {
        size_t n = strcspn(path, ".");
        v = json_object_getn(v, path, n);
        path += n;
        if (*path == '.') path++;
    }
    return v;
}

bool am_json_number(const json_t *v, double *out)
{
    if (json_is_number(v)) {
        *out = json_number_value(v);
        return true;
    }
    if (json_object_size(v) != 1) return false;
    const char *word = json_string_value(json_object_get(v, "__float__"));
    if (word == NULL) return false;
    if (strcmp(word, "NaN") == 0)
        *out = (double)NAN;
    else if (strcmp(word, "Infinity") == 0)
        *out = (double)INFINITY;
    else if (strcmp(word, "-Infinity") == 0)
        *out = -(double)INFINITY;
    else
        return false;
    return true;
}

bool am_json_integer(const json_t *v, int64_t *out)
{
    if (json_is_integer(v)) {
        *out = (int64_t)json_integer_value(v);
        return true;
    }
    if (!json_is_real(v)) return false;
    double x = json_real_value(v);
    if (x != floor(x) || fabs(x) >= 9007199254740992.0) return false;
    *out = (int64_t)x;
    return true;
}
