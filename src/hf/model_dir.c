/* A model directory: config.json, the weights in one file or in shards with an index, and the files that
 * travel along. Read am_hf_model_open last; what it calls stands above it in the order of the call. */
#include "hf_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MAX_CONFIG_BYTES = 8 << 20, MAX_INDEX_BYTES = 128 << 20, MAX_AUX_BYTES = 256 << 20 };

static const char index_name[] = "model.safetensors.index.json";

/* ---- the weights ---- */

static am_status no_weights(const am_hf_dir *d)
{
    am_status st = AM_OK;
    char **names = NULL;
    size_t n = 0;
    const char *pickle = NULL, *adapter = NULL, *shard = NULL;
    AM_TRY(am_hf_dir_list(d, NULL, &names, &n));
    for (size_t i = 0; i < n; i++) {
        if (am_hf_is_pickle_name(names[i]) && strcmp(names[i], "training_args.bin") != 0) pickle = names[i];
        if (strcmp(names[i], "adapter_config.json") == 0) adapter = names[i];
        if (am_glob_match("*.safetensors", names[i])) shard = names[i];
    }
    if (adapter != NULL)
        AM_FAIL(AM_ERR_MODEL,
                "%s holds a PEFT adapter and no weights of its own; give the folder of its base model",
                d->path);
    if (shard != NULL)
        AM_FAIL(AM_ERR_MODEL, "%s holds %s but neither model.safetensors nor %s; fetch the missing file",
                d->path, shard, index_name);
    if (pickle != NULL)
        AM_SAFETENSORS_FAIL(
            PICKLE, AM_ERR_MODEL,
            "%s has its weights as a pickle (%s), which can run code and is never parsed; convert it with "
            "transformers: from_pretrained(DIR).save_pretrained(NEW_DIR) writes safetensors",
            d->path, pickle);
    AM_FAIL(AM_ERR_MODEL, "%s has no weights: neither model.safetensors nor %s is there", d->path,
            index_name);
done:
    am_hf_names_free(&names, n);
    return st;
}

static am_status open_file(am_hf_model *m, const am_hf_dir *d, const char *name)
{
    am_status st = AM_OK;
    am_safetensors *f = NULL;
    char *path = NULL;
    size_t capacity = m->num_files; /* exact growth: files are few */
    int fd;
    AM_TRY(am_path_join(d->path, name, &path));
    AM_TRY(am_hf_dir_open_file(d, name, &fd));
    AM_TRY(am_safetensors_open_fd(fd, path, &f));
    AM_TRY(am_grow(&m->files, &capacity, m->num_files + 1, sizeof(am_safetensors *)));
    am_safetensors_set_file(f, (int)m->num_files);
    m->files[m->num_files++] = f;
    f = NULL;
done:
    am_safetensors_free(&f);
    am_free(&path);
    return st;
}

static const char *base_of(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash != NULL ? slash + 1 : path;
}

/* All tensors of all files into one list and one name table; a name in two files is an error. */
static am_status collect_tensors(am_hf_model *m)
{
    am_status st = AM_OK;
    int64_t total = 0, existing;
    for (size_t i = 0; i < m->num_files; i++) total += am_safetensors_count(m->files[i]);
    AM_TRY(am_calloc((size_t)total + 1, sizeof *m->tensors, &m->tensors));
    AM_TRY(am_name_table_create(&m->names));
    for (size_t i = 0; i < m->num_files; i++) {
        for (int64_t k = 0; k < am_safetensors_count(m->files[i]); k++) {
            const am_safetensors_tensor *t = am_safetensors_at(m->files[i], k);
            AM_TRY(am_name_table_insert(m->names, t->name, m->num_tensors, &existing));
            AM_SAFETENSORS_CHECK(
                existing < 0, DUPLICATE, "%s: the tensor '%s' stands in %s and in %s", m->dir, t->name,
                base_of(am_safetensors_path(m->files[m->tensors[existing < 0 ? 0 : existing]->file])),
                base_of(am_safetensors_path(m->files[i])));
            m->tensors[m->num_tensors++] = t;
            m->total_bytes += t->bytes;
        }
    }
done:
    return st;
}

/* ---- the index ---- */

static int by_string(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* The file names of a weight_map, sorted, each once and each checked. */
static am_status index_files(const char *path, const json_t *map, const char ***out, size_t *count)
{
    am_status st = AM_OK;
    const char **files = NULL, *tensor;
    size_t n = 0;
    json_t *value;
    AM_TRY(am_calloc(json_object_size(map) + 1, sizeof *files, &files));
    json_object_foreach((json_t *)map, tensor, value)
    {
        const char *file = json_string_value(value);
        AM_CHECK(file != NULL && strlen(file) == json_string_length(value), AM_ERR_MODEL,
                 "%s: the file of tensor '%s' must be a string", path, tensor);
        AM_CHECK(
            am_hf_is_basename(file), AM_ERR_MODEL,
            "%s: tensor '%s' is said to be in '%s'; only the name of a file in the same folder is accepted",
            path, tensor, file);
        AM_SAFETENSORS_CHECK(
            !am_hf_is_pickle_name(file), PICKLE,
            "%s: tensor '%s' is said to be in '%s', a pickle, which is never parsed; convert the model to "
            "safetensors",
            path, tensor, file);
        files[n++] = file;
    }
    if (n > 0) qsort(files, n, sizeof *files, by_string);
    size_t unique = 0;
    for (size_t i = 0; i < n; i++)
        if (unique == 0 || strcmp(files[unique - 1], files[i]) != 0) files[unique++] = files[i];
    *out = files;
    *count = unique;
    files = NULL;
done:
    am_free(&files);
    return st;
}

/* Index and files must name the same tensors. */
static am_status check_index(const am_hf_model *m, const char *path, const json_t *map)
{
    am_status st = AM_OK;
    const char *tensor;
    json_t *value;
    json_object_foreach((json_t *)map, tensor, value)
    {
        const am_safetensors_tensor *t = am_hf_model_find(m, tensor);
        const char *file = json_string_value(value);
        bool there = t != NULL && strcmp(base_of(am_safetensors_path(m->files[t->file])), file) == 0;
        AM_CHECK(there, AM_ERR_MODEL,
                 "%s: tensor '%s' is said to be in %s, which does not hold it; the files are of different "
                 "downloads: fetch "
                 "the folder again",
                 path, tensor, file);
    }
    for (int64_t i = 0; i < m->num_tensors; i++) {
        const am_safetensors_tensor *t = m->tensors[i];
        AM_CHECK(json_object_get(map, t->name) != NULL, AM_ERR_MODEL,
                 "%s holds the tensor '%s', which %s does not know; the files are of different downloads: "
                 "fetch the folder "
                 "again",
                 am_safetensors_path(m->files[t->file]), t->name, index_name);
    }
done:
    return st;
}

static am_status open_sharded(am_hf_model *m, const am_hf_dir *d)
{
    am_status st = AM_OK;
    char *text = NULL, *path = NULL;
    size_t len, count = 0;
    json_t *index = NULL;
    const char **files = NULL;
    AM_TRY(am_path_join(d->path, index_name, &path));
    AM_TRY(am_hf_dir_read(d, index_name, MAX_INDEX_BYTES, &text, &len));
    AM_TRY(am_json_parse(text, len, path, &index));
    const json_t *map = json_object_get(index, "weight_map");
    AM_CHECK(json_is_object(map) && json_object_size(map) > 0, AM_ERR_MODEL,
             "%s: it must have a 'weight_map' from tensor names to files", path);
    AM_TRY(index_files(path, map, &files, &count));
    for (size_t i = 0; i < count; i++) {
        AM_CHECK(
            am_hf_dir_has(d, files[i]), AM_ERR_MODEL,
            "%s names the shard %s, which is not in the folder; the download is incomplete: fetch %s as well",
            path, files[i], files[i]);
        AM_TRY(open_file(m, d, files[i]));
    }
    AM_TRY(collect_tensors(m));
    AM_TRY(check_index(m, path, map));
done:
    am_free(&files);
    json_decref(index);
    am_free(&text);
    am_free(&path);
    return st;
}

static am_status open_weights(am_hf_model *m, const am_hf_dir *d, am_hf_weights weights)
{
    am_status st = AM_OK;
    if (am_hf_dir_has(d, "model.safetensors")) {
        AM_TRY(open_file(m, d, "model.safetensors"));
        AM_TRY(collect_tensors(m));
    } else if (am_hf_dir_has(d, index_name)) {
        AM_TRY(open_sharded(m, d));
    } else if (weights == AM_HF_WEIGHTS_REQUIRED) {
        AM_TRY(no_weights(d));
    }
done:
    return st;
}

/* ---- the other files ---- */

static bool travels_along(const char *name)
{
    static const char *const patterns[] = {"tokenizer.json",
                                           "tokenizer_config.json",
                                           "special_tokens_map.json",
                                           "added_tokens.json",
                                           "chat_template.jinja",
                                           "chat_template.json",
                                           "generation_config.json",
                                           "vocab.json",
                                           "vocab.txt",
                                           "merges.txt",
                                           "tokenizer.model*",
                                           "spiece.model",
                                           "sentencepiece.bpe.model",
                                           "*.tiktoken",
                                           "tekken.json",
                                           "LICENSE*",
                                           "LICENCE*",
                                           "NOTICE*",
                                           "USE_POLICY*"};
    for (size_t i = 0; i < sizeof patterns / sizeof patterns[0]; i++)
        if (am_glob_match(patterns[i], name)) return true;
    return false;
}

static am_status add_aux(am_hf_model *m, size_t *capacity, const char *folder, const char *name)
{
    am_status st = AM_OK;
    am_str rel = {0};
    AM_TRY(am_str_printf(&rel, "%s%s%s", folder != NULL ? folder : "", folder != NULL ? "/" : "", name));
    AM_TRY(am_grow(&m->aux, capacity, m->num_aux + 1, sizeof(char *)));
    m->aux[m->num_aux++] = rel.s;
    rel = (am_str){0};
done:
    am_str_release(&rel);
    return st;
}

static am_status collect_aux(am_hf_model *m, const am_hf_dir *d)
{
    static const char templates[] = "additional_chat_templates";
    am_status st = AM_OK;
    char **names = NULL;
    size_t n = 0, capacity = 0;
    AM_TRY(am_hf_dir_list(d, NULL, &names, &n));
    for (size_t i = 0; i < n; i++)
        if (travels_along(names[i])) AM_TRY(add_aux(m, &capacity, NULL, names[i]));
    am_hf_names_free(&names, n);
    AM_TRY(am_hf_dir_list(d, templates, &names, &n));
    for (size_t i = 0; i < n; i++)
        if (am_glob_match("*.jinja", names[i])) AM_TRY(add_aux(m, &capacity, templates, names[i]));
done:
    am_hf_names_free(&names, n);
    return st;
}

am_status am_hf_model_copy_aux(const am_hf_model *m, const char *dst_dir)
{
    am_status st = AM_OK;
    am_hf_dir d = {.fd = -1};
    char *text = NULL, *path = NULL;
    size_t len;
    AM_TRY(am_hf_dir_open(m->dir, &d));
    AM_TRY(am_mkdirs(dst_dir));
    for (size_t i = 0; i < m->num_aux; i++) {
        AM_TRY(am_hf_dir_read(&d, m->aux[i], MAX_AUX_BYTES, &text, &len));
        AM_TRY(am_path_join(dst_dir, m->aux[i], &path));
        char *slash = strrchr(path, '/');
        *slash = '\0';
        AM_TRY(am_mkdirs(path));
        *slash = '/';
        AM_TRY(am_file_write_atomic(path, text, len));
        am_free(&text);
        am_free(&path);
    }
done:
    am_free(&text);
    am_free(&path);
    am_hf_dir_release(&d);
    return st;
}

/* ---- the model ---- */

static am_status read_json(const am_hf_dir *d, const char *name, json_t **out)
{
    am_status st = AM_OK;
    char *text = NULL, *path = NULL;
    size_t len;
    AM_TRY(am_path_join(d->path, name, &path));
    AM_TRY(am_hf_dir_read(d, name, MAX_CONFIG_BYTES, &text, &len));
    AM_TRY(am_json_parse(text, len, path, out));
done:
    am_free(&text);
    am_free(&path);
    return st;
}

static am_status read_configs(am_hf_model *m, const am_hf_dir *d, const char *config_name)
{
    am_status st = AM_OK;
    AM_TRY(am_path_join(d->path, config_name, &m->config_path));
    if (!am_hf_dir_has(d, config_name)) {
        bool adapter = am_hf_dir_has(d, "adapter_config.json");
        AM_FAIL(AM_ERR_MODEL, "%s has no config.json%s", d->path,
                adapter ? "; it holds a PEFT adapter: give the folder of its base model"
                        : ": this is no Hugging Face model directory");
    }
    AM_TRY(read_json(d, config_name, &m->config));
    if (am_hf_dir_has(d, "generation_config.json"))
        AM_TRY(read_json(d, "generation_config.json", &m->generation_config));
    AM_TRY(am_hf_config_digest(m));
done:
    return st;
}

/* The folder and the config's name in it, from a path that may name either. */
static am_status split_path(const char *path, char **dir, char **config_name, bool *is_file)
{
    am_status st = AM_OK;
    struct stat info;
    AM_CHECK(stat(path, &info) == 0, AM_ERR_IO, "cannot look at %s: %s", path, strerror(errno));
    *is_file = !S_ISDIR(info.st_mode);
    if (!*is_file) {
        AM_TRY(am_strdup(path, dir));
        AM_TRY(am_strdup("config.json", config_name));
        goto done;
    }
    AM_CHECK(am_glob_match("*.json", path), AM_ERR_MODEL,
             "%s is a file; give the model's folder, or its config.json alone for a dry run", path);
    const char *base = base_of(path);
    AM_TRY(base == path ? am_strdup(".", dir) : am_strndup(path, (size_t)(base - path), dir));
    AM_TRY(am_strdup(base, config_name));
done:
    return st;
}

am_status am_hf_model_open(const char *spec, am_hf_weights weights, am_hf_model **out)
{
    am_status st = AM_OK;
    am_hf_model *m = NULL;
    am_hf_dir d = {.fd = -1};
    char *path = NULL, *dir = NULL, *config_name = NULL;
    bool is_file = false;
    *out = NULL;
    AM_TRY(am_hf_resolve(spec, &path));
    AM_TRY(split_path(path, &dir, &config_name, &is_file));
    AM_CHECK(!is_file || weights != AM_HF_WEIGHTS_REQUIRED, AM_ERR_MODEL,
             "%s is a config alone and weights are needed here; give the model's folder", spec);
    AM_TRY(am_hf_dir_open(dir, &d));
    AM_TRY(am_calloc(1, sizeof *m, &m));
    AM_TRY(am_strdup(d.path, &m->dir));
    AM_TRY(read_configs(m, &d, config_name));
    if (!is_file && weights != AM_HF_WEIGHTS_NONE) AM_TRY(open_weights(m, &d, weights));
    if (m->names == NULL) AM_TRY(collect_tensors(m)); /* of no file: look-ups find nothing */
    AM_TRY(am_hf_packed_collect(m));
    if (!is_file) AM_TRY(collect_aux(m, &d));
    *out = m;
    m = NULL;
done:
    am_hf_model_free(&m);
    am_hf_dir_release(&d);
    am_free(&path);
    am_free(&dir);
    am_free(&config_name);
    return st;
}

void am_hf_model_free(am_hf_model **model)
{
    am_hf_model *m = *model;
    if (m == NULL) return;
    am_hf_packed_free(m);
    for (size_t i = 0; i < m->num_files; i++) am_safetensors_free(&m->files[i]);
    am_hf_names_free(&m->aux, m->num_aux);
    am_name_table_free(&m->names);
    am_free(&m->files);
    am_free(&m->tensors);
    json_decref(m->config);
    json_decref(m->generation_config);
    am_free(&m->eos_ids);
    am_free(&m->config_path);
    am_free(&m->dir);
    am_free(model);
}

const am_safetensors_tensor *am_hf_model_find(const am_hf_model *m, const char *name)
{
    int64_t i = am_name_table_find(m->names, name);
    return i >= 0 ? m->tensors[i] : NULL;
}

am_status am_hf_model_read(const am_hf_model *m, const am_safetensors_tensor *t, int64_t begin, int64_t count,
                           void *dst, am_dtype dst_dtype)
{
    am_status st = AM_OK;
    const am_hf_packed *packed = am_hf_packed_of(m, t);
    if (packed != NULL)
        AM_TRY(am_hf_packed_read(m, packed, begin, count, dst, dst_dtype));
    else
        AM_TRY(am_safetensors_read(m->files[t->file], t, begin, count, dst, dst_dtype));
done:
    return st;
}
