/* ${VAR}, ${VAR,default}, ${oc.env:VAR}, ${oc.env:VAR,default} in a value; $${ is a literal ${. */
#include "config/config_internal.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

static size_t name_length(const char *s)
{
    size_t n = 0;
    if (isdigit((unsigned char)s[0])) return 0;
    while (isalnum((unsigned char)s[n]) || s[n] == '_') n++;
    return n;
}

/* `inside` is what stands between ${ and }. */
static am_status expand_one(const am_document *doc, am_mark mark, const char *inside, size_t len, am_str *out)
{
    am_status st = AM_OK;
    char *name = NULL;
    const char *s = inside, *end = inside + len;
    if (len > 7 && strncmp(s, "oc.env:", 7) == 0) s += 7;
    size_t n = name_length(s);
    AM_CHECK(
        n > 0 && (s + n == end || s[n] == ','), AM_ERR_CONFIG,
        "%s: ${%.*s} is no environment variable: write ${NAME} or ${NAME,default} ($${ for a literal ${)",
        am_mark_text(doc, mark), (int)len, inside);
    AM_TRY(am_strndup(s, n, &name));
    const char *value = getenv(name);
    if (value != NULL) {
        AM_TRY(am_str_append(out, value, strlen(value)));
    } else {
        AM_CHECK(s + n < end, AM_ERR_CONFIG,
                 "%s: the environment variable %s is not set: export it, or write ${%s,default}",
                 am_mark_text(doc, mark), name, name);
        s += n + 1;
        while (s < end && *s == ' ') s++;
        AM_TRY(am_str_append(out, s, (size_t)(end - s)));
    }
done:
    am_free(&name);
    return st;
}

am_status am_environment_expand(const am_document *doc, am_mark mark, const char *text, char **out)
{
    am_status st = AM_OK;
    am_str b = {0};
    *out = NULL;
    AM_TRY(am_str_append(&b, "", 0));
    while (*text != '\0') {
        const char *dollar = strstr(text, "${");
        size_t n = dollar == NULL ? strlen(text) : (size_t)(dollar - text);
        AM_TRY(am_str_append(&b, text, n));
        if (dollar == NULL) break;
        if (n > 0 && dollar[-1] == '$') { /* the first $ of $${ is already in the result */
            AM_TRY(am_str_append(&b, "{", 1));
            text = dollar + 2;
            continue;
        }
        const char *close = strchr(dollar, '}');
        AM_CHECK(close != NULL, AM_ERR_CONFIG, "%s: ${ without its } ($${ for a literal ${)",
                 am_mark_text(doc, mark));
        AM_TRY(expand_one(doc, mark, dollar + 2, (size_t)(close - dollar - 2), &b));
        text = close + 1;
    }
    *out = b.s;
    b = (am_str){0};
done:
    am_str_release(&b);
    return st;
}
