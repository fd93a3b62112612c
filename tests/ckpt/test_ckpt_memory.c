/* Exporting a model of 300 MB takes one chunk of it at a time, measured from outside: the peak of resident
 * memory (VmHWM) moves by less than a few chunks and a constant.  The checkpoint is made by a child process,
 * so that its memory is not counted. */
#include "ckpt_test.h"

#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

enum { LAYERS = 12, SIDE = 2500 }; /* 12 matrices of 25 MB */

static char *model_dir, *ckpt_dir, *base;

static am_graph *graph(void)
{
    am_graph *g = NULL;
    int ids, x[AM_MAX_OUT];
    char names[LAYERS + 1][24];
    PT_OK(am_graph_create(1, 1, AM_F32, &g));
    am_graph_set_layers(g, 1);
    am_graph_at(g, 0, 1, 1);
    PT_OK(am_graph_input(g, "ids", &ids));
    for (int i = 0; i <= LAYERS; i++) {
        am_param p = {.rank = 2, .dim = {i ? SIDE : 4, SIDE}, .disk = {.num_tensors = 1}};
        int index, value;
        snprintf(names[i], sizeof names[i], i ? "w%02d" : "embed", i);
        PT_OK(am_graph_strdup(g, names[i], &p.name));
        PT_OK(am_graph_alloc(g, sizeof *p.disk.tensor, &p.disk.tensor));
        p.disk.tensor[0] = p.name;
        PT_OK(am_graph_param(g, &p, &index, &value));
        PT_OK(am_graph_apply(g, i ? "linear" : "embed", (int[]){i ? x[0] : ids, value}, 2, NULL, x));
    }
    PT_OK(am_graph_set_logits(g, x[0]));
    return g;
}

static void write_model(void)
{
    am_graph *g = graph();
    am_safetensors_writer *w = NULL;
    int64_t index[LAYERS + 1];
    enum { CHUNK = 1 << 16 };
    float *chunk = malloc(CHUNK * sizeof *chunk);
    assert_int_equal(mkdir(model_dir, 0755), 0);
    ct_write(ct_path("%s/config.json", model_dir), "{\"dtype\": \"float32\"}\n", 21);
    PT_OK(am_safetensors_writer_create(ct_path("%s/model.safetensors", model_dir), &w));
    for (int i = 0; i <= LAYERS; i++) {
        const am_param *p = am_graph_param_at(g, i);
        PT_OK(am_safetensors_writer_declare(w, p->name, AM_F32, 2, p->dim, &index[i]));
    }
    PT_OK(am_safetensors_writer_begin(w));
    for (int i = 0; i <= LAYERS; i++) {
        int64_t n = am_param_elements(am_graph_param_at(g, i));
        for (int64_t at = 0; at < n; at += CHUNK) {
            for (int64_t j = 0; j < CHUNK; j++) chunk[j] = (float)((i * 31 + (at + j)) % 1021) - 500;
            PT_OK(am_safetensors_writer_write(w, index[i], at, chunk, am_min_i64(CHUNK, n - at), AM_F32));
        }
    }
    PT_OK(am_safetensors_writer_close(w));
    am_safetensors_writer_free(&w);
    am_graph_free(&g);
    free(chunk);
}

static void save_checkpoint(void)
{
    static const char *const all[] = {"*"};
    am_program_options o = am_program_defaults(AM_PROGRAM_EVAL);
    am_ckpt_options c = {.dir = ckpt_dir};
    am_graph *g = graph();
    am_program *p = NULL;
    am_device *d = NULL;
    am_exec *e = NULL;
    am_ckpt *k = NULL;
    am_hf_model *hf = NULL;
    am_ckpt_state s = ct_state(1);
    o.freeze = all;
    o.num_freeze = 1;
    PT_OK(am_program_compile(&g, &o, &p));
    PT_OK(am_device_create("cpu", 1, &d));
    PT_OK(am_comm_set_mesh(ct_comm, &o.mesh));
    PT_OK(am_exec_create(d, ct_comm, &p, 1, NULL, &e));
    PT_OK(am_hf_model_open(model_dir, AM_HF_WEIGHTS_REQUIRED, &hf));
    PT_OK(am_ckpt_load_model(e, p, hf));
    PT_OK(am_ckpt_create(&c, e, p, ct_comm, &k));
    PT_OK(am_ckpt_save(k, &s));
    assert_null(am_ckpt_failure(k));
}

static long peak_kb(void)
{
    FILE *f = fopen("/proc/self/status", "r");
    char line[256];
    long kb = -1;
    assert_non_null(f);
    while (fgets(line, sizeof line, f)) (void)sscanf(line, "VmHWM: %ld", &kb);
    fclose(f);
    assert_true(kb > 0);
    return kb;
}

static void reset_peak(void)
{
    FILE *f = fopen("/proc/self/clear_refs", "w");
    assert_non_null(f);
    fputs("5", f);
    assert_int_equal(fclose(f), 0);
}

static void measured_export(const am_manifest *m, bool half)
{
    am_hf_model *hf = NULL, *again = NULL;
    am_graph *g = graph();
    char *out = strdup(ct_path("%s/out", base));
    am_export_options o = {.out_dir = out, .has_dtype = half, .dtype = AM_BF16, .max_shard_bytes = 60000000};
    PT_OK(am_hf_model_open(model_dir, AM_HF_WEIGHTS_REQUIRED, &hf));
    reset_peak();
    long before = peak_kb();
    PT_OK(am_ckpt_export(m, hf, g, &o));
    long grown = peak_kb() - before;
    printf("    export %s%s: peak memory + %ld kB\n", m ? "of a checkpoint" : "of a model",
           half ? " to bf16" : "", grown);
    assert_true(grown <= 4 * (AM_CKPT_CHUNK * 8 / 1024) + 4096);
    PT_OK(am_hf_model_open(out, AM_HF_WEIGHTS_REQUIRED, &again));
    assert_int_equal(again->total_bytes, half ? hf->total_bytes / 2 : hf->total_bytes);
    assert_true(again->num_files >= 3);
    am_hf_model_free(&hf);
    am_hf_model_free(&again);
    am_graph_free(&g);
    ct_remove(out);
    free(out);
}

static void test_memory__export_of_300_megabytes(void **state)
{
    am_manifest *m = NULL;
    int how = 0;
    base = strdup(ct_own_dir());
    model_dir = strdup(ct_path("%s/model", base));
    ckpt_dir = strdup(ct_path("%s/checkpoints", base));
    write_model();
    pid_t child = fork();
    if (child == 0) {
        save_checkpoint();
        _exit(0);
    }
    assert_int_equal(waitpid(child, &how, 0), child);
    assert_int_equal(how, 0);
    measured_export(NULL, false);
    PT_OK(am_ckpt_find_latest(ckpt_dir, ct_comm, &m));
    assert_non_null(m);
    measured_export(m, false);
    measured_export(m, true);
    am_manifest_free(&m);
    free(base);
    free(model_dir);
    free(ckpt_dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_memory__export_of_300_megabytes)};
    return ct_main("ckpt memory", tests, 1);
}
