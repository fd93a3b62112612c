/* golden_roundtrip DIR…: what can be said of a model directory without a reference: a line of JSON each.
 * {"dir", "hash": of the training program for one rank, "hash_2": for two
 * (FSDP), "roundtrip": "identical"} — or "error" with the sentence.  The round trip goes through the parameters: tensors →
 * slots of the training program → checkpoint → Hugging Face directory, and every tensor must come out bit for bit. */
#include "comm/comm.h"

#include "ckpt/ckpt.h"
#include "graph/model.h"

#include <ftw.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

typedef struct case_ {
    am_model *model;
    am_device *device;
    am_program *program;
    am_exec *exec;
    am_ckpt *ckpt;
    am_manifest *manifest;
    am_graph *g;
    char *out;
} case_;

static int remove_entry(const char *path, const struct stat *info, int type, struct FTW *at)
{
    return remove(path);
}

static am_status compile(const am_model *m, int ranks, am_program **out)
{
    am_status st = AM_OK;
    am_graph *g = NULL;
    am_program_options o = am_program_defaults(AM_PROGRAM_TRAIN);
    o.mesh.size[AM_MESH_DP_SHARD] = ranks;
    AM_TRY(am_model_graph(m, 1, 32, AM_F32, &g));
    AM_TRY(am_program_compile(&g, &o, out));
done:
    am_graph_free(&g);
    return st;
}

static am_status hash_of(const am_model *m, int ranks, json_t *line, const char *key)
{
    am_status st = AM_OK;
    am_program *p = NULL;
    char hex[20];
    AM_TRY(compile(m, ranks, &p));
    snprintf(hex, sizeof hex, "%016" PRIx64, p->hash);
    json_object_set_new(line, key, json_string(hex));
done:
    am_program_free(&p);
    return st;
}

static am_status same_tensors(const am_hf_model *a, const char *dir)
{
    am_status st = AM_OK;
    am_hf_model *b = NULL;
    char *p = NULL, *q = NULL;
    AM_TRY(am_hf_model_open(dir, AM_HF_WEIGHTS_REQUIRED, &b));
    AM_CHECK(a->num_tensors == b->num_tensors, AM_ERR_DATA, "%" PRId64 " tensors became %" PRId64,
             a->num_tensors, b->num_tensors);
    for (int64_t i = 0; i < a->num_tensors; i++) {
        const am_safetensors_tensor *x = a->tensors[i], *y = am_hf_model_find(b, x->name);
        AM_CHECK(y && y->dtype == x->dtype && y->rank == x->rank &&
                     memcmp(x->shape, y->shape, (size_t)x->rank * sizeof *x->shape) == 0,
                 AM_ERR_DATA, "%s has another dtype or shape after the round trip", x->name);
        AM_TRY(am_calloc((size_t)x->bytes + 1, 1, &p));
        AM_TRY(am_calloc((size_t)x->bytes + 1, 1, &q));
        AM_TRY(am_hf_model_read(a, x, 0, x->elements, p, x->dtype));
        AM_TRY(am_hf_model_read(b, y, 0, y->elements, q, y->dtype));
        AM_CHECK(memcmp(p, q, (size_t)x->bytes) == 0, AM_ERR_DATA, "%s differs after the round trip", x->name);
        am_free(&p);
        am_free(&q);
    }
done:
    am_free(&p);
    am_free(&q);
    am_hf_model_free(&b);
    return st;
}

static am_status round_trip(case_ *c, am_comm *comm, const char *folder)
{
    am_status st = AM_OK;
    am_ckpt_options o = {.dir = folder, .keep = 1};
    am_ckpt_state state = {.recipe = "", .model_dir = c->model->hf->dir, .family = "golden"};
    am_mesh mesh = am_program_defaults(AM_PROGRAM_TRAIN).mesh;
    AM_TRY(am_comm_set_mesh(comm, &mesh));
    AM_TRY(compile(c->model, 1, &c->program));
    AM_TRY(am_device_create("cpu", 1, &c->device));
    AM_TRY(am_exec_create(c->device, comm, &c->program, 1, NULL, &c->exec));
    AM_TRY(am_ckpt_load_model(c->exec, c->program, c->model->hf));
    AM_TRY(am_ckpt_create(&o, c->exec, c->program, comm, &c->ckpt));
    AM_TRY(am_ckpt_save(c->ckpt, &state));
    AM_CHECK(!am_ckpt_failure(c->ckpt), AM_ERR_DATA, "%s", am_ckpt_failure(c->ckpt));
    AM_TRY(am_ckpt_find_latest(folder, comm, &c->manifest));
    AM_CHECK(c->manifest, AM_ERR_DATA, "no checkpoint in %s", folder);
    AM_TRY(am_model_graph(c->model, 1, 32, AM_F32, &c->g));
    AM_TRY(am_path_join(folder, "out", &c->out));
    AM_TRY(am_ckpt_export(c->manifest, c->model->hf, c->g, &(am_export_options){.out_dir = c->out}));
    AM_TRY(same_tensors(c->model->hf, c->out));
done:
    return st;
}

static am_status look_at(const char *dir, am_comm *comm, json_t *line)
{
    am_status st = AM_OK;
    case_ c = {0};
    char folder[256];
    const char *base = getenv("TMPDIR");
    snprintf(folder, sizeof folder, "%s/am_golden_XXXXXX", base ? base : "/tmp");
    AM_CHECK(mkdtemp(folder), AM_ERR_IO, "no folder %s", folder);
    json_object_set_new(line, "dir", json_string(dir));
    AM_TRY(am_model_open(dir, AM_HF_WEIGHTS_REQUIRED, NULL, NULL, 0, &c.model));
    AM_TRY(hash_of(c.model, 1, line, "hash"));
    AM_TRY(hash_of(c.model, 2, line, "hash_2"));
    AM_TRY(round_trip(&c, comm, folder));
    json_object_set_new(line, "roundtrip", json_string("identical"));
done:
    am_graph_free(&c.g);
    am_manifest_free(&c.manifest);
    am_ckpt_free(&c.ckpt);
    am_exec_free(&c.exec);
    am_program_free(&c.program);
    am_device_free(&c.device);
    am_model_free(&c.model);
    am_free(&c.out);
    (void)nftw(folder, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
    return st;
}

int main(int argc, char **argv)
{
    am_comm *comm = NULL;
    int bad = 0;
    if (am_comm_create("self", NULL, &comm) != AM_OK) return 1;
    for (int i = 1; i < argc; i++) {
        json_t *line = json_object();
        am_error_clear();
        if (look_at(argv[i], comm, line) != AM_OK) {
            json_object_set_new(line, "error", json_string(am_error_message()));
            bad = 1;
        }
        json_dumpf(line, stdout, JSON_COMPACT);
        printf("\n");
        fflush(stdout);
        json_decref(line);
    }
    return am_comm_free(&comm) != AM_OK || bad;
}
