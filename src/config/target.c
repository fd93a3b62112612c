/* `_target_`: a closed table of names, compared with the last components of the path a recipe writes
 * (nemo_automodel.components.datasets.llm.chat_dataset.ChatDataset → ChatDataset).  It chooses a table of
 * options; it never names code to run.  Also the small list and range notations of the tables. */
#include "config/config_internal.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

bool am_in_list(const char *list, const char *word, bool glob)
{
    char entry[160];
    size_t n = strlen(word);
    while (list != NULL) {
        size_t len = strcspn(list, "|");
        if (!glob && len == n && strncmp(list, word, n) == 0) return true;
        if (glob && len < sizeof entry) {
            memcpy(entry, list, len);
            entry[len] = '\0';
            if (am_glob_match(entry, word)) return true;
        }
        list = list[len] == '|' ? list + len + 1 : NULL;
    }
    return false;
}

bool am_in_range(const char *range, double x)
{
    char *end;
    double low = strtod(range + 1, &end);
    double high = strtod(end + 1, &end);
    return (range[0] == '[' ? x >= low : x > low) && (*end == ']' ? x <= high : x < high);
}

static bool target_fits(const am_target *t, const char *path)
{
    size_t n = strlen(path), m = strlen(t->name);
    if (n == m) return strcmp(path, t->name) == 0;
    if (n < m + 2 || path[n - m - 1] != '.' || strcmp(path + n - m, t->name) != 0) return false;
    char root[64];
    size_t len = strcspn(path, ".");
    if (len >= sizeof root) return false;
    memcpy(root, path, len);
    root[len] = '\0';
    return am_in_list(t->roots, root, false);
}

const am_target *am_target_match(const am_target *targets, const char *path)
{
    for (const am_target *t = targets; t->name != NULL; t++)
        if (target_fits(t, path)) return t;
    return NULL;
}

/* What a person should have written: the known name most like the last components of `path`. */
static const char *nearest_target(const am_target *targets, const char *path)
{
    const char *best = NULL;
    for (const am_target *t = targets; best == NULL && t->name != NULL; t++) {
        if (t->remedy != NULL) continue;
        const char *tail = path + strlen(path);
        int parts = 1;
        for (const char *c = t->name; *c != '\0'; c++) parts += *c == '.';
        while (tail > path && !(tail[-1] == '.' && --parts == 0)) tail--;
        if (am_did_you_mean(tail, &t->name, 1) != NULL) best = t->example;
    }
    return best;
}

am_status am_target_refuse(const am_document *doc, am_mark mark, const char *where, const am_target *targets,
                           const char *path)
{
    am_status st = AM_OK;
    am_str known = {0};
    const am_target *t = am_target_match(targets, path);
    if (t != NULL)
        AM_FAIL(AM_ERR_CONFIG, "%s: %s: %s is not offered: %s", am_mark_text(doc, mark), where, path,
                t->remedy);
    const char *nearest = nearest_target(targets, path);
    if (nearest != NULL)
        AM_FAIL(AM_ERR_CONFIG, "%s: %s: unknown _target_ \"%s\"; did you mean %s?", am_mark_text(doc, mark),
                where, path, nearest);
    for (t = targets; t->name != NULL; t++)
        if (t->remedy == NULL) AM_TRY(am_str_printf(&known, "%s%s", known.len > 0 ? ", " : "", t->example));
    AM_FAIL(AM_ERR_CONFIG,
            "%s: %s: unknown _target_ \"%s\" (a closed table of names, never code); write one of %s",
            am_mark_text(doc, mark), where, path, known.s != NULL ? known.s : "none");
done:
    am_str_release(&known);
    return st;
}

const char *am_option_type_name(am_option_type t)
{
    static const char *const names[] = {
#define X(e, text) text,
        AM_OPTION_TYPES(X)
#undef X
    };
    return names[t];
}
