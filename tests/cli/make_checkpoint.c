/* make_checkpoint MODEL DIR STEP FACTOR: a checkpoint of MODEL in DIR/step_…, its weights multiplied by
 * FACTOR, so that a reader that took them from the model instead of the checkpoint is found out.  Runs on any
 * number of ranks (fsdp). */
#include "ckpt/ckpt.h"
#include "cli/cli.h"
#include "train/engine.h"

#include <string.h>

static const char recipe[] =
    "model:\n  pretrained_model_name_or_path: .\n"; /* parses; says nothing of its own */

static am_status scale_masters(am_exec *e, const am_program *p, double factor)
{
    am_status st = AM_OK;
    float *x = NULL;
    for (int u = 0; u < p->store.num_units; u++) {
        int64_t n = p->store.unit[u].shard_elements;
        AM_TRY(am_calloc((size_t)n, sizeof *x, &x));
        AM_TRY(am_exec_read_slot(e, u, 0, 0, n, x));
        for (int64_t i = 0; i < n; i++) x[i] *= (float)factor;
        AM_TRY(am_exec_write_slot(e, u, 0, 0, n, x));
        am_free(&x);
    }
done:
    am_free(&x);
    return st;
}

static am_status save(am_engine *engine, char **argv)
{
    am_status st = AM_OK;
    am_model *model = NULL;
    am_graph *g = NULL;
    am_program *p = NULL;
    am_exec *e = NULL;
    am_ckpt *k = NULL;
    int64_t step = 0;
    double factor = 0;
    bool failed = false;
    am_program_options o = am_program_defaults(AM_PROGRAM_TRAIN);
    o.mesh = am_engine_mesh(engine, true, 1);
    o.rank = engine->rank;
    AM_CHECK(am_parse_i64(argv[3], &step) && am_parse_f64(argv[4], &factor), AM_ERR_USAGE,
             "make_checkpoint MODEL DIR STEP FACTOR");
    AM_TRY(am_comm_set_mesh(engine->comm, &o.mesh));
    AM_TRY(am_model_open(argv[1], AM_HF_WEIGHTS_REQUIRED, NULL, NULL, 0, &model));
    AM_TRY(am_model_graph(model, 1, 8, AM_F32, &g));
    AM_TRY(am_program_compile(&g, &o, &p));
    AM_TRY(am_exec_create(engine->device, engine->comm, &p, 1, NULL, &e));
    AM_TRY(am_ckpt_load_model(e, p, model->hf));
    AM_TRY(scale_masters(e, p, factor));
    am_ckpt_options options = {.dir = argv[2]};
    AM_TRY(am_ckpt_create(&options, e, p, engine->comm, &k));
    am_ckpt_state state = {.step = step,
                           .samples = 12,
                           .tokens = 3456,
                           .seed = 77,
                           .recipe = recipe,
                           .model_dir = model->hf->dir,
                           .family = am_card_family(model->card, 0)};
    AM_TRY(am_ckpt_save(k, &state));
    AM_TRY(am_ckpt_poll(k, true, &failed));
    AM_CHECK(!failed, AM_ERR_CHECKPOINT, "the save failed");
done:
    am_ckpt_free(&k);
    am_exec_free(&e);
    am_program_free(&p);
    am_graph_free(&g);
    am_model_free(&model);
    return st;
}

int main(int argc, char **argv)
{
    am_status st = argc == 5 ? AM_OK : am_fail(AM_ERR_USAGE, "make_checkpoint MODEL DIR STEP FACTOR");
    am_engine *engine = NULL;
    am_engine_options o = {.threads = 1, .quiet = true};
    if (st == AM_OK) st = am_engine_open(&o, &engine);
    if (st == AM_OK) st = save(engine, argv);
    if (st == AM_OK) st = am_engine_close(&engine);
    return am_cli_finish(st);
}
