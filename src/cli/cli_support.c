/* cli_support.c: what several commands share; am_cli_source_open is where MODEL|CHECKPOINT becomes weights
 * and a card. */
#include "cli/cli_support.h"

#include <dirent.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* ---- files
 * ------------------------------------------------------------------------------------------------------- */

bool am_cli_is_dir(const char *path)
{
    struct stat info;
    return stat(path, &info) == 0 && S_ISDIR(info.st_mode);
}

static int by_name(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

am_status am_cli_list(const char *dir, const char *pattern, char ***names, size_t *count)
{
    am_status st = AM_OK;
    size_t cap = 0;
    DIR *d = opendir(dir);
    *names = NULL;
    *count = 0;
    for (struct dirent *x; d && (x = readdir(d));) {
        if (!am_glob_match(pattern, x->d_name)) continue;
        AM_TRY(am_grow(names, &cap, *count + 1, sizeof **names));
        AM_TRY(am_strdup(x->d_name, &(*names)[*count]));
        ++*count;
    }
    if (*count) qsort(*names, *count, sizeof **names, by_name);
done:
    if (d) closedir(d);
    return st;
}

void am_cli_free_names(char ***names, size_t count)
{
    for (size_t i = 0; *names && i < count; i++) am_free(&(*names)[i]);
    am_free(names);
}

const char *am_cli_bytes(int64_t bytes, char out[32])
{
    static const char *const unit[] = {"bytes", "kB", "MB", "GB", "TB"};
    double x = (double)bytes;
    size_t u = 0;
    while (x >= 999.5 && u + 1 < sizeof unit / sizeof *unit) {
        x /= 1000;
        u++;
    }
    snprintf(out, 32, "%.*f %s", u == 0 || x >= 100 ? 0 : x >= 10 ? 1 : 2, x, unit[u]);
    return out;
}

const char *am_cli_thousands(int64_t n, char out[32])
{
    char digits[24];
    int len = snprintf(digits, sizeof digits, "%" PRId64, n), o = 0;
    for (int i = 0; i < len; i++) {
        if (i > 0 && (len - i) % 3 == 0 && digits[i - 1] != '-') out[o++] = ',';
        out[o++] = digits[i];
    }
    out[o] = '\0';
    return out;
}

/* ---- ranks
 * ------------------------------------------------------------------------------------------------------- */

am_status am_cli_one_rank(am_engine *e, const char *command)
{
    am_status mine = AM_OK;
    if (e->size > 1 && e->rank == 0)
        mine = am_fail(AM_ERR_USAGE,
                       "%s runs on one rank and was started on %d: start it without mpirun, or with -np 1",
                       command, e->size);
    return am_engine_together(e, mine);
}

/* ---- MODEL|CHECKPOINT
 * ---------------------------------------------------------------------------------------------- */

static am_status has_file(const char *dir, const char *name, bool *out)
{
    am_status st = AM_OK;
    char *path = NULL;
    AM_TRY(am_path_join(dir, name, &path));
    *out = am_path_exists(path);
done:
    am_free(&path);
    return st;
}

/* The step_N of `dir` with the largest N and a manifest. */
static am_status newest_step(const char *dir, char **out)
{
    am_status st = AM_OK;
    char **names = NULL, *path = NULL;
    size_t n = 0;
    int64_t best = -1, step;
    bool complete = false;
    AM_TRY(am_cli_list(dir, "step_*", &names, &n));
    for (size_t i = 0; i < n; i++) {
        if (!am_parse_i64(names[i] + 5, &step) || step <= best) continue;
        am_free(&path);
        AM_TRY(am_path_join(dir, names[i], &path));
        AM_TRY(has_file(path, "manifest.json", &complete));
        if (!complete) continue;
        best = step;
        am_free(out);
        AM_TRY(am_strdup(path, out));
    }
    AM_CHECK(n == 0 || *out, AM_ERR_CHECKPOINT,
             "%s holds %zu step directories and none has a manifest.json: no save was completed", dir, n);
done:
    am_free(&path);
    am_cli_free_names(&names, n);
    return st;
}

am_status am_cli_find_step(const char *spec, char **out)
{
    am_status st = AM_OK;
    char *inner = NULL;
    bool manifest = false, config = false;
    const char *slash = strrchr(spec, '/'), *base = slash ? slash + 1 : spec;
    *out = NULL;
    if (!am_cli_is_dir(spec)) goto done;
    AM_TRY(has_file(spec, "manifest.json", &manifest));
    AM_TRY(has_file(spec, "config.json", &config));
    if (manifest || (!config && strncmp(base, "step_", 5) == 0)) {
        AM_TRY(am_strdup(spec, out));
        goto done;
    }
    if (config) goto done;
    AM_TRY(newest_step(spec, out));
    if (*out) goto done;
    AM_TRY(am_path_join(spec, "checkpoints", &inner));
    AM_TRY(newest_step(inner, out));
done:
    am_free(&inner);
    return st;
}

/* The recipe only adds what the user let pass by name; one that this version does not read is no reason to
 * refuse weights. */
static am_status read_recipe(am_cli_source *s)
{
    am_status st = AM_OK;
    const char *text = s->state.recipe;
    if (!text || !*text) goto done;
    if (am_config_parse(text, strlen(text), "the checkpoint's recipe", 0, NULL, &s->recipe) != AM_OK) {
        am_log(AM_LOG_WARN, "cli", "%s; going on without the recipe", am_error_message());
        am_error_clear();
        s->recipe = NULL;
        goto done;
    }
    size_t n = am_config_count(s->recipe, "model.ignore_config_keys");
    AM_TRY(am_calloc(n + 1, sizeof *s->ignore, &s->ignore));
    for (size_t i = 0; i < n; i++) s->ignore[i] = am_config_item(s->recipe, "model.ignore_config_keys", i);
done:
    return st;
}

static am_status open_checkpoint(am_cli_source *s, const am_cli_source_options *o)
{
    am_status st = AM_OK;
    const char *dir = o->model_dir, *card = o->card;
    int n = 0;
    AM_TRY(am_manifest_open(s->step_dir, &s->manifest));
    s->state = am_manifest_state(s->manifest);
    AM_TRY(read_recipe(s));
    if (!dir) dir = s->state.model_dir;
    if (!card && s->recipe) card = am_config_string(s->recipe, "model.card");
    if (!card && s->state.family && *s->state.family) card = s->state.family;
    AM_CHECK(dir && *dir && am_path_exists(dir), AM_ERR_CHECKPOINT,
             "%s was trained from the model in %s, which is not there: name its directory with --model",
             s->step_dir, dir && *dir ? dir : "(nothing)");
    while (s->ignore && s->ignore[n]) n++;
    AM_TRY(am_model_open(dir, o->weights == AM_HF_WEIGHTS_REQUIRED ? AM_HF_WEIGHTS_OPTIONAL : o->weights,
                         card, s->ignore, n, &s->model));
    s->model->options.no_noise = true;
done:
    return st;
}

am_status am_cli_source_open(const char *spec, const am_cli_source_options *o, am_cli_source *out)
{
    am_status st = AM_OK;
    memset(out, 0, sizeof *out);
    AM_TRY(am_cli_find_step(spec, &out->step_dir));
    if (out->step_dir) {
        AM_TRY(open_checkpoint(out, o));
        goto done;
    }
    AM_CHECK(!o->model_dir, AM_ERR_USAGE, "--model goes with a checkpoint, and %s is none", spec);
    AM_TRY(am_model_open(spec, o->weights, o->card, NULL, 0, &out->model));
    out->model->options.no_noise = true; /* evaluation, generation, a look: dropout is off there */
done:
    return st;
}

void am_cli_source_release(am_cli_source *s)
{
    am_model_free(&s->model);
    am_free(&s->ignore);
    am_config_free(&s->recipe);
    am_manifest_free(&s->manifest);
    am_free(&s->step_dir);
}

am_status am_cli_source_load(const am_cli_source *s, am_exec *e, const am_program *p)
{
    am_status st = AM_OK;
    if (!s->manifest) return am_ckpt_load_model(e, p, s->model->hf);
    AM_TRY(am_manifest_verify(s->manifest, 0, 1));
    AM_TRY(am_ckpt_load(e, p, s->manifest));
done:
    return st;
}

am_status am_cli_compute_dtype(const char *text, const am_hf_model *m, am_dtype *out)
{
    am_status st = AM_OK;
    *out = m->has_dtype && m->dtype == AM_BF16 ? AM_BF16 : AM_F32;
    if (!text) goto done;
    AM_CHECK(am_dtype_parse(text, out) && (*out == AM_F32 || *out == AM_BF16), AM_ERR_USAGE,
             "--dtype is float32 or bfloat16, not %s", text);
done:
    return st;
}

am_status am_cli_check_tokenizer(const am_tokenizer *t, const am_hf_model *m)
{
    am_status st = AM_OK;
    int64_t vocab = 0, ids = am_tokenizer_vocab_size(t);
    AM_TRY(am_hf_config_i64(m, "vocab_size", 0, &vocab));
    bool added = vocab > 0 && ids > vocab && am_tokenizer_added_from(t, vocab) == ids - vocab;
    if (added)
        am_log(AM_LOG_INFO, "cli",
               "%s has %" PRId64 " added tokens beyond the %" PRId64 " of the model (vocab_size): text that spells one is refused",
               am_tokenizer_path(t), ids - vocab, vocab);
    AM_CHECK(vocab <= 0 || ids <= vocab || added, AM_ERR_MODEL,
             "%s has token ids up to %" PRId64 ", the model of %s only %" PRId64
             " (vocab_size): this is not the model's tokenizer",
             am_tokenizer_path(t), ids - 1, m->config_path, vocab);
done:
    return st;
}
