/* inspect_model.c: a model as its card sees it: parameters, layers grouped into kinds, what lies on disk.
 * Two layers are of one kind when their operators, attributes, operand shapes and parameter names are the
 * same. */
#include "cli/inspect.h"

#include "graph/layout.h"
#include "hf/chat.h"

#include <string.h>

/* ---- layers and kinds
 * ------------------------------------------------------------------------------------------------- */

static uint64_t hash_value(am_graph *g, const am_node *n, int value, uint64_t h)
{
    if (value < 0) return am_hash64("none", 4, h);
    am_value *v = am_graph_value_at(g, value);
    for (int d = 0; d < v->rank; d++) h = am_hash64(&v->dim[d].global, sizeof v->dim[d].global, h);
    h = am_hash64(&v->dtype, sizeof v->dtype, h);
    if (v->param >= 0) {
        const char *name = am_inspect_name_within(am_graph_param_at(g, v->param));
        return am_hash64(name, strlen(name), h);
    }
    am_node *producer = v->producer >= 0 ? am_graph_node_at(g, v->producer) : NULL;
    bool table = v->life == AM_LIFE_CONST ||
                 (producer && producer->layer != n->layer && strcmp(producer->def->name, "rope_angles") == 0);
    return table ? am_hash64(&value, sizeof value, h) : h; /* another table of angles is another kind */
}

static uint64_t layer_hash(am_graph *g, int layer)
{
    uint64_t h = 0;
    for (int i = 0; i < am_graph_num_nodes(g); i++) {
        const am_node *n = am_graph_node_at(g, i);
        if (n->layer != layer) continue;
        h = am_hash64(n->def->name, strlen(n->def->name), h);
        h = am_hash64(&n->attrs, sizeof n->attrs, h);
        for (int k = 0; k < n->num_in; k++) h = hash_value(g, n, n->in[k], h);
    }
    return h;
}

/* "experts.0.w" of 64 tensors → "experts.{0..63}.w": where the first two names differ stands the axis. */
static am_status stacked_name(const am_param *p, const char *name, am_str *out)
{
    const char *a = p->disk.tensor[0], *b = p->disk.tensor[1];
    size_t skip = (size_t)(strlen(p->name) - strlen(name)), same = 0;
    while (a[same] && a[same] == b[same]) same++;
    if (same < skip || a[same] != '0') return am_str_printf(out, "%s", name);
    return am_str_printf(out, "%.*s{0..%d}%s", (int)(same - skip), name, p->disk.num_tensors - 1, name + same - skip + 1);
}

/* "part 2 of H d + K d + K d" of a fused tensor; its layout alone says little where it has many parts. */
static am_status part_text(const am_param *p, am_str *out)
{
    am_status st = AM_OK;
    int parts = p->disk.whole ? am_layout_num_parts(p->disk.whole) : 0;
    if (parts == 0) goto done;
    AM_TRY(am_str_printf(out, "part %d of ", p->disk.part + 1));
    if (parts > 8)
        AM_TRY(am_str_printf(out, "%d", parts));
    else
        AM_TRY(am_layout_print(p->disk.whole, out));
done:
    return st;
}

static json_t *tensor_json(const am_param *p, const char *name)
{
    json_t *shape = json_array(), *o;
    am_str label = {0}, part = {0};
    for (int d = 0; d < p->rank; d++) json_array_append_new(shape, json_integer(p->dim[d]));
    bool named = p->disk.num_tensors > 1 && stacked_name(p, name, &label) == AM_OK;
    o = json_pack("{s:s, s:o, s:i}", "name", named ? label.s : name, "shape", shape, "uses", p->uses);
    if (part_text(p, &part) == AM_OK && part.len) json_object_set_new(o, "part", json_string(part.s));
    am_str_release(&label);
    am_str_release(&part);
    return o;
}

static json_t *attention_json(am_graph *g, int layer)
{
    for (int i = 0; i < am_graph_num_nodes(g); i++) {
        const am_node *n = am_graph_node_at(g, i);
        if (n->layer != layer || strcmp(n->def->name, "attention") != 0) continue;
        const am_value *q = am_graph_value_at(g, n->in[0]), *k = am_graph_value_at(g, n->in[1]);
        return json_pack("{s:I, s:I, s:I, s:I}", "heads", (json_int_t)q->dim[1].global, "kv_heads",
                         (json_int_t)k->dim[1].global, "width", (json_int_t)q->dim[2].global, "window",
                         (json_int_t)n->attrs.window);
    }
    return json_null();
}

/* Of an expert-stacked parameter a token uses as many experts as it has slots; of the others all.  g holds one token. */
static int64_t active_elements(am_graph *g, int param)
{
    const am_param *p = am_graph_param_at(g, param);
    const am_layout *axis = p->rank > 1 ? p->layout[0] : NULL;
    if (!axis || axis->kind != AM_LAYOUT_DIM || axis->dim.role != AM_ROLE_EXPERTS) return am_param_elements(p);
    for (int i = 0; i < am_graph_num_nodes(g); i++) {
        const am_node *n = am_graph_node_at(g, i);
        bool grouped = strncmp(n->def->name, "grouped_", 8) == 0; /* a router's product reads all its rows */
        for (int k = 1; grouped && k < n->num_in; k++) {
            if (n->in[k] < 0 || am_graph_value_at(g, n->in[k])->param != param) continue;
            int64_t slots = am_graph_value_at(g, n->in[0])->dim[0].local;
            return am_param_elements(p) / axis->size * am_min_i64(slots, axis->size);
        }
    }
    return am_param_elements(p);
}

static am_status kind_json(am_graph *g, int layer, json_t **out)
{
    am_status st = AM_OK;
    json_t *tensors = json_array(), *block = json_array();
    int64_t parameters = 0;
    AM_TRY(am_inspect_block(g, layer, block));
    for (int i = 0; i < am_graph_num_params(g); i++) {
        const am_param *p = am_graph_param_at(g, i);
        if (p->layer != layer) continue;
        parameters += am_param_elements(p);
        json_array_append_new(tensors, tensor_json(p, am_inspect_name_within(p)));
    }
    *out = json_pack("{s:i, s:I, s:o, s:O, s:O}", "count", 0, "parameters", (json_int_t)parameters, "attention",
                     attention_json(g, layer), "tensors", tensors, "block", block);
done:
    json_decref(tensors);
    json_decref(block);
    return st;
}

/* "0-2,5" with one more layer. */
static am_status extend_ranges(json_t *kind, int layer, int *last)
{
    am_status st = AM_OK;
    am_str s = {0};
    const char *old = json_string_value(json_object_get(kind, "layers"));
    if (!old)
        AM_TRY(am_str_printf(&s, "%d", layer));
    else if (*last == layer - 1) {
        const char *comma = strrchr(old, ','), *part = comma ? comma + 1 : old;
        AM_TRY(
            am_str_printf(&s, "%.*s%.*s-%d", (int)(part - old), old, (int)strcspn(part, "-"), part, layer));
    } else
        AM_TRY(am_str_printf(&s, "%s,%d", old, layer));
    json_object_set_new(kind, "layers", json_string(s.s));
    json_object_set_new(kind, "count", json_integer(json_integer_value(json_object_get(kind, "count")) + 1));
    *last = layer;
done:
    am_str_release(&s);
    return st;
}

static am_status kinds_json(am_graph *g, json_t *out)
{
    am_status st = AM_OK;
    int layers = am_graph_num_layers(g), *last = NULL;
    size_t num = 0;
    uint64_t *hash = NULL;
    json_t *kinds = json_array();
    AM_TRY(am_calloc((size_t)layers + 1, sizeof *hash, &hash));
    AM_TRY(am_calloc((size_t)layers + 1, sizeof *last, &last));
    for (int i = 0; i < layers; i++) {
        uint64_t h = layer_hash(g, i);
        size_t k = 0;
        while (k < num && hash[k] != h) k++;
        if (k == num) {
            hash[num++] = h;
            json_t *kind = NULL;
            AM_TRY(kind_json(g, i, &kind));
            json_array_append_new(kinds, kind);
        }
        AM_TRY(extend_ranges(json_array_get(kinds, k), i, &last[k]));
    }
    json_object_set(out, "kinds", kinds);
done:
    json_decref(kinds);
    am_free(&hash);
    am_free(&last);
    return st;
}

static void count_parameters(am_graph *g, const char *const *frozen, size_t num_frozen, json_t *out)
{
    int64_t total = 0, trainable = 0, active = 0;
    json_t *outside = json_array();
    for (int i = 0; i < am_graph_num_params(g); i++) {
        const am_param *p = am_graph_param_at(g, i);
        bool free = p->trainable;
        for (size_t k = 0; k < num_frozen; k++) free = free && strcmp(frozen[k], p->name) != 0;
        total += am_param_elements(p);
        trainable += free ? am_param_elements(p) : 0;
        active += active_elements(g, i);
        if (p->layer < 0 || p->layer >= am_graph_num_layers(g))
            json_array_append_new(outside, tensor_json(p, p->name));
    }
    json_object_set_new(out, "parameters", json_integer(total));
    json_object_set_new(out, "trainable", json_integer(trainable));
    json_object_set_new(out, "active", json_integer(active));
    json_object_set_new(out, "layers", json_integer(am_graph_num_layers(g)));
    json_object_set_new(out, "outside", outside);
}

/* ---- on disk
 * ----------------------------------------------------------------------------------------------------------------
 */

static void disk_json(const am_hf_model *m, json_t *out)
{
    json_t *dtypes = json_object();
    for (int64_t i = 0; i < m->num_tensors; i++) {
        const char *name = am_dtype_name(m->tensors[i]->dtype);
        json_object_set_new(dtypes, name,
                            json_integer(json_integer_value(json_object_get(dtypes, name)) + 1));
    }
    json_object_set_new(out, "dtype", m->has_dtype ? json_string(am_dtype_name(m->dtype)) : json_null());
    json_object_set_new(out, "dtypes", dtypes);
    json_object_set_new(out, "tensors", json_integer(m->num_tensors));
    json_object_set_new(out, "files", json_integer((json_int_t)m->num_files));
    json_object_set_new(out, "bytes", json_integer(m->total_bytes));
}

static am_status tokenizer_json(const am_hf_model *m, json_t *out)
{
    am_status st = AM_OK;
    char *path = NULL;
    am_tokenizer *t = NULL;
    json_t *o = json_null();
    char sha256[65];
    AM_TRY(am_path_join(m->dir, "tokenizer.json", &path));
    if (!am_path_exists(path)) goto done;
    if (am_tokenizer_open(m->dir, &t) == AM_OK && am_tokenizer_sha256(t, sha256) == AM_OK) {
        am_status fits = am_cli_check_tokenizer(t, m);
        o = json_pack("{s:s, s:I, s:b}", "sha256", sha256, "vocab_size",
                      (json_int_t)am_tokenizer_vocab_size(t), "fits", fits == AM_OK);
        if (fits != AM_OK) json_object_set_new(o, "error", json_string(am_error_message()));
    } else {
        o = json_pack("{s:s}", "error", am_error_message());
    }
    am_error_clear();
done:
    json_object_set_new(out, "tokenizer", o);
    am_tokenizer_free(&t);
    am_free(&path);
    return st;
}

/* A conversation of ours through the model's template: what is trained on is marked. */
static am_status sample_json(am_chat *c, const am_tokenizer *t, json_t **out)
{
    am_status st = AM_OK;
    am_tok_scratch *scratch = NULL;
    am_chat_samples samples = {0};
    json_t *parts = json_array();
    json_t *talk = json_pack("[{s:s, s:s}, {s:s, s:s}, {s:s, s:s}, {s:s, s:s}]", "role", "user", "content",
                             "How many legs has a spider?", "role", "assistant", "content", "Eight.", "role", "user",
                             "content", "And an ant?", "role", "assistant", "content", "Six.");
    AM_TRY(am_tok_scratch_create(t, &scratch));
    AM_TRY(am_chat_encode(c, scratch, talk, NULL, AM_CHAT_WHOLE, &samples));
    AM_CHECK(samples.n == 1, AM_ERR_DATA, "the chat template makes nothing of a conversation");
    const am_chat_sample *s = &samples.items[0];
    AM_TRY(am_inspect_parts(t, s->tokens.ids, s->loss_mask, (int64_t)s->tokens.n, parts));
    *out = json_pack("{s:I, s:I, s:O}", "tokens", (json_int_t)s->tokens.n, "supervised", (json_int_t)s->num_supervised,
                     "parts", parts);
done:
    json_decref(parts);
    json_decref(talk);
    am_chat_samples_release(&samples);
    am_tok_scratch_free(&scratch);
    return st;
}

/* Compiled as well, so that a template that Jinja refuses is told here. */
static void template_json(const am_hf_model *m, json_t *out)
{
    am_chat *c = NULL;
    am_tokenizer *t = NULL;
    json_t *o = json_null(), *sample = NULL;
    if (am_chat_exists(m->dir)) {
        if (am_tokenizer_open(m->dir, &t) != AM_OK) am_error_clear(); /* told where the tokenizer is */
        if (am_chat_open(m->dir, t, NULL, &c) == AM_OK)
            o = json_pack("{s:s}", "sha256", am_chat_sha256(c));
        else
            o = json_pack("{s:s}", "error", am_error_message());
        if (c && t && sample_json(c, t, &sample) == AM_OK)
            json_object_set_new(o, "sample", sample);
        else if (c && t)
            json_object_set_new(o, "sample_error", json_string(am_error_message()));
        am_error_clear();
    }
    json_object_set_new(out, "chat_template", o);
    am_chat_free(&c);
    am_tokenizer_free(&t);
}

am_status am_inspect_model(const am_model *m, const char *const *frozen, size_t num_frozen, json_t **out)
{
    am_status st = AM_OK;
    am_graph *g = NULL;
    json_t *o = json_pack("{s:s, s:s, s:s, s:s}", "model_type", m->hf->model_type, "family",
                          am_card_family(m->card, 0), "card", am_card_path(m->card), "dir", m->hf->dir);
    AM_CHECK(o, AM_ERR_MODEL, "%s: a path or name is not UTF-8", m->hf->config_path);
    AM_TRY(am_model_graph(m, 1, 1, AM_F32, &g));
    disk_json(m->hf, o);
    count_parameters(g, frozen, num_frozen, o);
    AM_TRY(kinds_json(g, o));
    AM_TRY(tokenizer_json(m->hf, o));
    template_json(m->hf, o);
    *out = o;
    o = NULL;
done:
    json_decref(o);
    am_graph_free(&g);
    return st;
}

/* ---- for people
 * ----------------------------------------------------------------------------------------------------------------
 */

static const char *text(const json_t *o, const char *key)
{
    return json_string_value(json_object_get(o, key));
}
static int64_t number(const json_t *o, const char *key)
{
    return json_integer_value(json_object_get(o, key));
}

static void print_tensors(const json_t *tensors)
{
    size_t i, d;
    json_t *t, *n;
    json_array_foreach(tensors, i, t)
    {
        printf("    %-44s [", text(t, "name"));
        json_array_foreach(json_object_get(t, "shape"), d, n)
            printf("%s%" JSON_INTEGER_FORMAT, d ? ", " : "", json_integer_value(n));
        printf("]");
        if (text(t, "part")) printf("  %s", text(t, "part"));
        if (number(t, "uses") > 1) printf("  used %" PRId64 " times", number(t, "uses"));
        printf("\n");
    }
}

static void print_kind(const json_t *k)
{
    char n[32];
    const json_t *a = json_object_get(k, "attention");
    printf("  layer%s %s (%" PRId64 "), %s parameters each", number(k, "count") > 1 ? "s" : "",
           text(k, "layers"), number(k, "count"), am_cli_thousands(number(k, "parameters"), n));
    if (json_is_object(a)) {
        printf("; attention of %" PRId64 " heads over %" PRId64 ", %" PRId64 " wide", number(a, "heads"),
               number(a, "kv_heads"), number(a, "width"));
        if (number(a, "window") > 0) printf(", window of %" PRId64 " tokens", number(a, "window"));
    }
    printf("\n");
    print_tensors(json_object_get(k, "tensors"));
    printf("    as it runs (N tokens)\n");
    size_t i;
    json_t *line;
    json_array_foreach(json_object_get(k, "block"), i, line) printf("      %s\n", json_string_value(line));
}

static void print_identity(const json_t *m)
{
    const json_t *t = json_object_get(m, "tokenizer"), *c = json_object_get(m, "chat_template");
    printf("tokenizer      ");
    if (!json_is_object(t))
        printf("none\n");
    else if (text(t, "error"))
        printf("%s\n", text(t, "error"));
    else
        printf("%" PRId64 " ids, sha256 %s\n", number(t, "vocab_size"), text(t, "sha256"));
    printf("chat template  %s%s\n",
           !json_is_object(c) ? "none"
           : text(c, "error") ? text(c, "error")
                              : "sha256 ",
           json_is_object(c) && text(c, "sha256") ? text(c, "sha256") : "");
}

static void print_sample(const json_t *template, bool colour)
{
    const json_t *s = json_object_get(template, "sample");
    if (text(template, "sample_error")) printf("               it refuses a conversation: %s\n", text(template, "sample_error"));
    if (!json_is_object(s)) return;
    printf("  a conversation through it: %" PRId64 " tokens, %" PRId64 " supervised%s\n", number(s, "tokens"),
           number(s, "supervised"), colour ? " (in colour)" : " (in [[ ]])");
    am_inspect_print_parts(json_object_get(s, "parts"), colour);
    printf("\n");
}

void am_inspect_print_model(const json_t *m, bool colour)
{
    char a[32], b[32], c[32];
    const char *name;
    json_t *v, *kind;
    size_t i;
    printf("model          %s\n", text(m, "dir"));
    printf("family         %s (model_type %s), card %s\n", text(m, "family"), text(m, "model_type"),
           text(m, "card"));
    printf("parameters     %s, %s of them trainable", am_cli_thousands(number(m, "parameters"), a),
           am_cli_thousands(number(m, "trainable"), b));
    if (number(m, "active") < number(m, "parameters"))
        printf(", %s active for a token", am_cli_thousands(number(m, "active"), c));
    printf("\n");
    if (number(m, "files") == 0) {
        printf("on disk        config.json only, no weights\n");
    } else {
        printf("on disk        %s in %" PRId64 " file%s:", am_cli_bytes(number(m, "bytes"), a),
               number(m, "files"), number(m, "files") == 1 ? "" : "s");
        json_object_foreach(json_object_get(m, "dtypes"), name, v)
            printf(" %" JSON_INTEGER_FORMAT " tensors %s", json_integer_value(v), name);
        printf("\n");
    }
    print_identity(m);
    print_sample(json_object_get(m, "chat_template"), colour);
    printf("%" PRId64 " layers\n", number(m, "layers"));
    json_array_foreach(json_object_get(m, "kinds"), i, kind) print_kind(kind);
    printf("  outside of layers\n");
    print_tensors(json_object_get(m, "outside"));
}
