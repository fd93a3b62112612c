/* Model → slots of FSDP ranks → checkpoint → Hugging Face directory: without a step in between every
 * tensor is bit for bit the source's; with changed weights every element is the master weight rounded once.
 * Small models of tests/golden through their cards; a model made by hand for what those do not have:
 * transposed and stacked tensors, a head stored twice, buffers of other dtypes. */
#include "ckpt_test.h"

#include "graph/card.h"

#include <string.h>
#include <sys/stat.h>

static const char *source_dir(const char *name)
{
    const char *root = getenv("AM_SOURCE_DIR");
    return ct_path("%s/tests/golden/%s", root ? root : ".", name);
}

/* ---- a model bound to slots ----------------------------------------------------------------------- */

typedef struct bound {
    am_hf_model *hf;
    am_card *card;
    am_device *device;
    am_program *program;
    am_exec *exec;
    am_ckpt *ckpt;
    char *dir;
} bound;

static am_graph *graph_of_card(bound *b)
{
    const char *root = getenv("AM_SOURCE_DIR");
    am_graph *g = NULL;
    if (!b->card)
        PT_OK(am_card_find(ct_path("%s/configs/models", root ? root : "."), b->hf->model_type, &b->card));
    PT_OK(am_graph_create(1, 8, AM_F32, &g));
    PT_OK(am_card_elaborate(b->card, b->hf, NULL, g));
    return g;
}

static void bind(bound *b, am_graph *g)
{
    am_program_options o = am_program_defaults(AM_PROGRAM_TRAIN);
    am_ckpt_options c = {.dir = ct_dir(), .keep = 1};
    o.mesh.size[AM_MESH_DP_SHARD] = am_comm_size(ct_comm);
    o.rank = am_comm_rank(ct_comm);
    PT_OK(am_comm_set_mesh(ct_comm, &o.mesh));
    PT_OK(am_program_compile(&g, &o, &b->program));
    PT_OK(am_device_create("cpu", 1, &b->device));
    PT_OK(am_exec_create(b->device, ct_comm, &b->program, 1, NULL, &b->exec));
    PT_OK(am_ckpt_load_model(b->exec, b->program, b->hf));
    PT_OK(am_ckpt_create(&c, b->exec, b->program, ct_comm, &b->ckpt));
    b->dir = strdup(c.dir);
}

static void release(bound *b)
{
    am_ckpt_free(&b->ckpt);
    am_exec_free(&b->exec);
    am_program_free(&b->program);
    am_device_free(&b->device);
    am_card_free(&b->card);
    am_hf_model_free(&b->hf);
    free(b->dir);
}

static am_manifest *save(bound *b)
{
    am_ckpt_state s = ct_state(0);
    am_manifest *m = NULL;
    PT_OK(am_ckpt_save(b->ckpt, &s));
    assert_null(am_ckpt_failure(b->ckpt));
    PT_OK(am_ckpt_find_latest(b->dir, ct_comm, &m));
    assert_non_null(m);
    return m;
}

/* ---- comparing ------------------------------------------------------------------------------------ */

static char *tensor_bytes(const am_hf_model *m, const am_safetensors_tensor *t)
{
    char *data = malloc((size_t)t->bytes + 1);
    PT_OK(am_hf_model_read(m, t, 0, t->elements, data, t->dtype));
    return data;
}

static void same_tensors(const am_hf_model *a, const char *dir)
{
    am_hf_model *b = NULL;
    PT_OK(am_hf_model_open(dir, AM_HF_WEIGHTS_REQUIRED, &b));
    assert_int_equal(a->num_tensors, b->num_tensors);
    for (int64_t i = 0; i < a->num_tensors; i++) {
        const am_safetensors_tensor *x = a->tensors[i], *y = am_hf_model_find(b, x->name);
        assert_non_null(y);
        assert_int_equal(x->dtype, y->dtype);
        assert_int_equal(x->rank, y->rank);
        assert_memory_equal(x->shape, y->shape, (size_t)x->rank * sizeof *x->shape);
        char *p = tensor_bytes(a, x), *q = tensor_bytes(b, y);
        if (memcmp(p, q, (size_t)x->bytes) != 0) fail_msg("%s: %s differs from the source", dir, x->name);
        free(p);
        free(q);
    }
    am_hf_model_free(&b);
}

static void same_file(const char *a, const char *b)
{
    size_t n = 0, m = 0;
    char *x = ct_read(a, &n), *y = ct_read(b, &m);
    assert_int_equal(n, m);
    assert_memory_equal(x, y, n);
    free(x);
    free(y);
}

/* ---- golden models -------------------------------------------------------------------------------- */

static void round_trip(const char *name, int64_t max_shard, const char *extra_files)
{
    bound b = {0};
    am_export_options o = {.max_shard_bytes = max_shard};
    char *out = strdup(ct_path("%s/out", ct_dir()));
    PT_OK(am_hf_model_open(name, AM_HF_WEIGHTS_REQUIRED, &b.hf));
    bind(&b, graph_of_card(&b));
    am_manifest *m = save(&b);
    if (am_comm_rank(ct_comm) == 0) {
        am_graph *g = graph_of_card(&b);
        o.out_dir = out;
        PT_OK(am_ckpt_export(m, b.hf, g, &o));
        same_tensors(b.hf, out);
        same_file(ct_path("%s/config.json", name), ct_path("%s/config.json", out));
        assert_int_equal(ct_exists(ct_path("%s/model.safetensors.index.json", out)), max_shard > 0);
        for (const char *f = extra_files; f && *f; f += strlen(f) + 1)
            same_file(ct_path("%s/%s", name, f), ct_path("%s/%s", out, f));
        assert_int_equal(am_ckpt_export(m, b.hf, g, &o),
                         AM_ERR_USAGE); /* never over something that is there */
        ct_error_has(out, "already holds weights");
        am_graph_free(&g);
    }
    am_manifest_free(&m);
    release(&b);
    free(out);
}

static void test_export__golden_models_bit_for_bit(void **state)
{
    static const char *const models[] = {
        "llama", "llama_linear_bias", "llama_rope3_tied", "mistral", "qwen2", "qwen2_full",
        "qwen3", "qwen3_tied_bias"};
    for (size_t i = 0; i < sizeof models / sizeof models[0]; i++) {
        char *name = strdup(source_dir(models[i]));
        round_trip(name, i % 2 ? 20000 : 0, NULL);
        free(name);
    }
}

static void write_text(const char *path, const char *text)
{
    ct_write(path, text, strlen(text));
}

static void test_export__other_files_verbatim(void **state)
{
    static const char files[] =
        "generation_config.json\0tokenizer.json\0tokenizer_config.json\0chat_template.jinja\0LICENSE\0";
    char *dir = strdup(ct_path("%s/model", ct_dir()));
    if (am_comm_rank(ct_comm) == 0) {
        assert_int_equal(mkdir(dir, 0755), 0);
        ct_copy(ct_path("%s/config.json", source_dir("qwen2")), ct_path("%s/config.json", dir));
        ct_copy(ct_path("%s/model.safetensors", source_dir("qwen2")), ct_path("%s/model.safetensors", dir));
        for (const char *f = files; *f; f += strlen(f) + 1)
            write_text(ct_path("%s/%s", dir, f),
                       strstr(f, ".json") ? "{ \"a\" :\t1.50}\r\n" : "x\r\n\xc3\xa9");
    }
    PT_OK(am_comm_barrier(ct_comm));
    round_trip(dir, 0, files);
    free(dir);
}

/* ---- other dtypes --------------------------------------------------------------------------------- */

/* Round to nearest even by the bits of the value, written without the engine's own conversion. */
static uint16_t to_bf16(float x)
{
    uint32_t u, low;
    memcpy(&u, &x, sizeof u);
    low = u & 0xffffu;
    u >>= 16;
    if (low > 0x8000u || (low == 0x8000u && (u & 1u))) u++;
    return (uint16_t)u;
}

static uint16_t rounded(float x, am_dtype dtype)
{
    _Float16 h = (_Float16)x;
    uint16_t u;
    if (dtype == AM_BF16) return to_bf16(x);
    memcpy(&u, &h, sizeof u);
    return u;
}

static void check_rounded(const char *dir, const char *tensor, const float *want, int64_t n, am_dtype dtype)
{
    am_hf_model *m = NULL;
    PT_OK(am_hf_model_open(dir, AM_HF_WEIGHTS_REQUIRED, &m));
    const am_safetensors_tensor *t = am_hf_model_find(m, tensor);
    assert_non_null(t);
    assert_int_equal(t->dtype, dtype);
    assert_int_equal(t->elements, n);
    char *data = tensor_bytes(m, t);
    for (int64_t i = 0; i < n; i++) {
        uint16_t got;
        float f;
        if (dtype == AM_F32) {
            memcpy(&f, data + 4 * i, 4);
            assert_true(memcmp(&f, &want[i], 4) == 0);
            continue;
        }
        memcpy(&got, data + 2 * i, 2);
        if (got != rounded(want[i], dtype))
            fail_msg("%s[%d]: %.9g became %04x", tensor, (int)i, (double)want[i], got);
    }
    free(data);
    am_hf_model_free(&m);
}

static char *config_text(const char *dir, const char *key)
{
    json_t *c = NULL;
    PT_OK(am_json_load(ct_path("%s/config.json", dir), 0, &c));
    const json_t *v = am_json_at(c, key);
    char *s = strdup(json_is_string(v) ? json_string_value(v) : "");
    json_decref(c);
    return s;
}

/* The weights are arbitrary fp32 numbers when they are saved. */
static void test_export__rounds_once(void **state)
{
    static const am_dtype dtypes[] = {AM_BF16, AM_F16, AM_F32};
    static const char *const said[] = {"bfloat16", "float16", "float32"};
    bound b = {0};
    char *base = strdup(ct_dir());
    PT_OK(am_hf_model_open(source_dir("qwen3"), AM_HF_WEIGHTS_REQUIRED, &b.hf));
    bind(&b, graph_of_card(&b));
    pt_run view = {.program = {b.program}, .exec = b.exec, .comm = ct_comm, .num_programs = 1};
    ct_fill(&view, 3);
    am_manifest *m = save(&b);
    for (int i = 0; i < 3 && am_comm_rank(ct_comm) == 0; i++) {
        am_graph *g = graph_of_card(&b);
        char *out = strdup(ct_path("%s/%s", base, said[i]));
        am_export_options o = {.out_dir = out, .has_dtype = true, .dtype = dtypes[i]};
        PT_OK(am_ckpt_export(m, b.hf, g, &o));
        for (int p = 0; p < am_graph_num_params(g); p++) {
            const am_param *x = am_graph_param_at(g, p);
            float *want = malloc((size_t)am_param_elements(x) * sizeof *want);
            PT_OK(am_manifest_read(m, x->name, 0, 0, am_param_elements(x), want, AM_F32));
            check_rounded(out, x->name, want, am_param_elements(x), dtypes[i]);
            free(want);
        }
        char *dtype = config_text(out, json_object_get(b.hf->config, "dtype") ? "dtype" : "torch_dtype");
        assert_string_equal(dtype, said[i]);
        free(dtype);
        am_graph_free(&g);
        free(out);
    }
    am_manifest_free(&m);
    release(&b);
    free(base);
}

static void test_export__of_a_model_itself(void **state)
{
    bound b = {0};
    if (am_comm_rank(ct_comm) != 0) return;
    const char *base = ct_own_dir();
    char *same = strdup(ct_path("%s/same", base)), *half = strdup(ct_path("%s/half", base));
    PT_OK(am_hf_model_open(source_dir("llama"), AM_HF_WEIGHTS_REQUIRED, &b.hf)); /* fp32 */
    am_graph *g = graph_of_card(&b);
    PT_OK(am_ckpt_export(NULL, b.hf, g, &(am_export_options){.out_dir = same, .max_shard_bytes = 50000}));
    same_tensors(b.hf, same);
    PT_OK(am_ckpt_export(NULL, b.hf, g,
                         &(am_export_options){.out_dir = half, .has_dtype = true, .dtype = AM_BF16}));
    for (int64_t i = 0; i < b.hf->num_tensors; i++) {
        float *want = (float *)(void *)tensor_bytes(b.hf, b.hf->tensors[i]);
        check_rounded(half, b.hf->tensors[i]->name, want, b.hf->tensors[i]->elements, AM_BF16);
        free(want);
    }
    assert_int_equal(
        am_ckpt_export(
            NULL, b.hf, g,
            &(am_export_options){.out_dir = ct_path("%s/u8", base), .has_dtype = true, .dtype = AM_U8}),
        AM_ERR_USAGE);
    assert_false(ct_exists(ct_path("%s/u8", base)));
    am_graph_free(&g);
    am_card_free(&b.card);
    am_hf_model_free(&b.hf);
    free(same);
    free(half);
}

/* A corrupted checkpoint does not go out, and nothing that looks like a model is left. */
static void test_export__verifies_first(void **state)
{
    bound b = {0};
    PT_OK(am_hf_model_open(source_dir("mistral"), AM_HF_WEIGHTS_REQUIRED, &b.hf));
    bind(&b, graph_of_card(&b));
    am_manifest *m = save(&b);
    if (am_comm_rank(ct_comm) == 0) {
        char *out = strdup(ct_path("%s/out", b.dir)),
             *path =
                 strdup(ct_path("%s/step_00000000/rank-%05d.safetensors", b.dir, am_comm_size(ct_comm) - 1));
        size_t n = 0;
        char *data = ct_read(path, &n);
        am_graph *g = graph_of_card(&b);
        data[n - 5] ^= 8;
        ct_write(path, data, n);
        assert_int_equal(am_ckpt_export(m, b.hf, g, &(am_export_options){.out_dir = out}), AM_ERR_CHECKPOINT);
        ct_error_has(path, "is corrupted");
        assert_false(ct_exists(ct_path("%s/model.safetensors", out)));
        am_graph_free(&g);
        free(data);
        free(out);
        free(path);
    }
    PT_OK(am_comm_barrier(ct_comm));
    am_manifest_free(&m);
    release(&b);
}

/* ---- views ---------------------------------------------------------------------------------------- */

enum {
    V = 13,
    D = 6,
    ROWS = 5
}; /* the head: 3 tensors of [ROWS, D] stacked, behind a matrix stored as [in, out] */

static void write_tensor(am_safetensors_writer *w, int64_t index, int salt, int64_t n, am_dtype dtype)
{
    float *x = malloc((size_t)n * sizeof *x);
    for (int64_t i = 0; i < n; i++)
        x[i] = (float)((int)(am_random_u64(4, (uint64_t)salt, (uint64_t)i) % 4096) - 2048) / 64;
    PT_OK(am_safetensors_writer_write(w, index, 0, x, n, dtype));
    free(x);
}

static void write_hand_model(const char *dir)
{
    static const struct {
        const char *name;
        am_dtype dtype;
        int rank;
        int64_t shape[3];
        int salt;
    } t[] = {
        {"embed", AM_BF16, 2, {V, D}, 1},    {"again", AM_BF16, 2, {V, D}, 1},
        {"conv", AM_F16, 2, {D, 2 * D}, 2},  {"back", AM_F32, 2, {2 * D, D}, 3},
        {"head.0", AM_F32, 2, {ROWS, D}, 4}, {"head.1", AM_F32, 2, {ROWS, D}, 5},
        {"head.2", AM_F32, 2, {ROWS, D}, 6}, {"buffer", AM_F64, 3, {2, 1, 2}, 7},
        {"scalar", AM_F32, 0, {0}, 8},       {"empty", AM_BF16, 2, {0, 4}, 9},
    };
    enum { N = sizeof t / sizeof t[0] };
    am_safetensors_writer *w = NULL;
    int64_t index[N + 1], three = 3, mask = -5;
    assert_int_equal(mkdir(dir, 0755), 0);
    write_text(ct_path("%s/config.json", dir),
               "{\"model_type\": \"hand\", \"vision_config\": {\"torch_dtype\": \"float32\"}}\n");
    PT_OK(am_safetensors_writer_create(ct_path("%s/model.safetensors", dir), &w));
    for (int i = 0; i < N; i++)
        PT_OK(am_safetensors_writer_declare(w, t[i].name, t[i].dtype, t[i].rank, t[i].shape, &index[i]));
    PT_OK(am_safetensors_writer_declare(w, "counts", AM_I64, 1, &three, &index[N]));
    PT_OK(am_safetensors_writer_begin(w));
    for (int i = 0; i < N; i++) {
        int64_t n = 1;
        for (int d = 0; d < t[i].rank; d++) n *= t[i].shape[d];
        write_tensor(w, index[i], t[i].salt, n, AM_F32);
    }
    for (int i = 0; i < 3; i++) PT_OK(am_safetensors_writer_write(w, index[N], i, &mask, 1, AM_I64));
    PT_OK(am_safetensors_writer_close(w));
    am_safetensors_writer_free(&w);
}

static int hand_param(am_graph *g, const char *name, int64_t rows, int64_t cols, bool transpose, int stacked,
                      const char *copy)
{
    static const char *const head[] = {"head.0", "head.1", "head.2"};
    am_param p = {.rank = 2, .dim = {rows, cols}, .layer = 0};
    int index, value;
    PT_OK(am_graph_strdup(g, name, &p.name));
    p.disk = (am_disk_view){.num_tensors = stacked ? stacked : 1, .transpose = transpose, .copy = copy};
    PT_OK(am_graph_alloc(g, 3 * sizeof *p.disk.tensor, &p.disk.tensor));
    for (int i = 0; i < p.disk.num_tensors; i++) p.disk.tensor[i] = stacked ? head[i] : p.name;
    PT_OK(am_graph_param(g, &p, &index, &value));
    return value;
}

static am_graph *hand_graph(void)
{
    am_graph *g = NULL;
    int ids, x[AM_MAX_OUT];
    PT_OK(am_graph_create(1, 4, AM_F32, &g));
    am_graph_set_layers(g, 1);
    am_graph_at(g, 0, 1, 1);
    PT_OK(am_graph_input(g, "ids", &ids));
    PT_OK(am_graph_apply(g, "embed", (int[]){ids, hand_param(g, "embed", V, D, false, 0, "again")}, 2, NULL,
                         x));
    PT_OK(am_graph_apply(g, "linear", (int[]){x[0], hand_param(g, "conv", 2 * D, D, true, 0, NULL)}, 2, NULL,
                         x));
    PT_OK(am_graph_apply(g, "linear", (int[]){x[0], hand_param(g, "back", D, 2 * D, true, 0, NULL)}, 2, NULL,
                         x));
    PT_OK(am_graph_apply(g, "linear", (int[]){x[0], hand_param(g, "head.0", 3 * ROWS, D, false, 3, NULL)}, 2,
                         NULL, x));
    PT_OK(am_graph_set_logits(g, x[0]));
    return g;
}

/* What stands in the slots, element by element, from the meaning of the view. */
static void check_hand_slots(const am_manifest *m, const am_hf_model *hf)
{
    float conv[2 * D * D], got[2 * D * D], head[3 * ROWS * D], all[3 * ROWS * D];
    PT_OK(am_manifest_read((am_manifest *)(uintptr_t)m, "conv", 0, 0, 2 * D * D, got, AM_F32));
    PT_OK(am_hf_model_read(hf, am_hf_model_find(hf, "conv"), 0, 2 * D * D, conv, AM_F32));
    for (int o = 0; o < 2 * D; o++)
        for (int i = 0; i < D; i++) assert_true(got[o * D + i] == conv[i * 2 * D + o]);
    PT_OK(am_manifest_read((am_manifest *)(uintptr_t)m, "head.0", 0, 0, 3 * ROWS * D, all, AM_F32));
    for (int i = 0; i < 3; i++)
        PT_OK(am_hf_model_read(hf, am_hf_model_find(hf, ct_path("head.%d", i)), 0, ROWS * D,
                               head + i * ROWS * D, AM_F32));
    assert_memory_equal(all, head, sizeof head);
}

static void test_export__transposed_stacked_and_copied(void **state)
{
    bound b = {0};
    char *base = strdup(ct_dir()), *dir = strdup(ct_path("%s/model", base)),
         *out = strdup(ct_path("%s/out", base));
    char *changed = strdup(ct_path("%s/changed", base));
    if (am_comm_rank(ct_comm) == 0) write_hand_model(dir);
    PT_OK(am_comm_barrier(ct_comm));
    PT_OK(am_hf_model_open(dir, AM_HF_WEIGHTS_REQUIRED, &b.hf));
    bind(&b, hand_graph());
    am_manifest *m = save(&b), *later = NULL;
    pt_run view = {.program = {b.program}, .exec = b.exec, .comm = ct_comm, .num_programs = 1};
    if (am_comm_rank(ct_comm) == 0) {
        am_graph *g = hand_graph();
        check_hand_slots(m, b.hf);
        PT_OK(am_ckpt_export(m, b.hf, g, &(am_export_options){.out_dir = out}));
        same_tensors(b.hf, out);
        am_graph_free(&g);
    }
    am_manifest_free(&m);
    PT_OK(am_comm_barrier(ct_comm));
    ct_fill(&view, 6);
    later = save(&b);
    if (am_comm_rank(ct_comm) == 0) {
        am_graph *g = hand_graph();
        float embed[V * D];
        PT_OK(am_ckpt_export(later, b.hf, g,
                             &(am_export_options){.out_dir = changed, .has_dtype = true, .dtype = AM_BF16}));
        PT_OK(am_manifest_read(later, "embed", 0, 0, V * D, embed, AM_F32));
        check_rounded(changed, "embed", embed, V * D, AM_BF16);
        check_rounded(changed, "again", embed, V * D, AM_BF16); /* both hold what was trained */
        am_hf_model *x = NULL;
        int64_t counts[3];
        PT_OK(am_hf_model_open(changed, AM_HF_WEIGHTS_REQUIRED, &x));
        PT_OK(am_hf_model_read(x, am_hf_model_find(x, "counts"), 0, 3, counts, AM_I64)); /* integers stay */
        assert_true(counts[0] == -5 && counts[2] == -5);
        am_hf_model_free(&x);
        char *inner = config_text(changed, "vision_config.torch_dtype"),
             *outer = config_text(changed, "dtype");
        assert_string_equal(inner, "bfloat16");
        assert_string_equal(outer, "bfloat16");
        free(inner);
        free(outer);
        am_graph_free(&g);
    }
    am_manifest_free(&later);
    release(&b);
    free(base);
    free(dir);
    free(out);
    free(changed);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_export__golden_models_bit_for_bit),
        cmocka_unit_test(test_export__other_files_verbatim),
        cmocka_unit_test(test_export__rounds_once),
        cmocka_unit_test(test_export__of_a_model_itself),
        cmocka_unit_test(test_export__verifies_first),
        cmocka_unit_test(test_export__transposed_stacked_and_copied),
    };
    return ct_main("ckpt export", tests, sizeof tests / sizeof *tests);
}
