/* dry_run.c: what a job will take, told by the compiler that the job will use, without MPI, weights or data. */
#include "train/train_internal.h"

#include <string.h>

static am_status print_rank(const am_settings *s, am_program *const *programs, int n, int64_t rank, FILE *f)
{
    am_status st = AM_OK;
    am_str text = {0};
    AM_TRY(am_program_summary(programs[0], &text));
    fprintf(f, "rank %" PRId64 " of %" PRId64 "\n%s", rank, s->ranks, text.s);
    fprintf(f, "programs together %" PRId64 " bytes (%.2f GB); checkpoint of all ranks %.2f GB\n\n", am_engine_plan_bytes(programs, n),
            (double)am_engine_plan_bytes(programs, n) * 1e-9, (double)am_ckpt_total_bytes(programs[0]) * 1e-9);
done:
    am_str_release(&text);
    return st;
}

static json_t *rank_json(am_program *const *programs, int n, int64_t rank)
{
    json_t *regions = json_object();
    char hash[20];
    snprintf(hash, sizeof hash, "%016" PRIx64, programs[0]->hash);
    for (int k = 0; k < AM_REGION_COUNT; k++)
        json_object_set_new(regions, am_region_name((am_region_id)k),
                            json_integer((json_int_t)(programs[0]->region_bytes[k] * (k == AM_REGION_FRAME ? programs[0]->num_frames : 1))));
    return json_pack("{s:I, s:o, s:I, s:I, s:I, s:I, s:s}", "rank", (json_int_t)rank, "regions", regions, "bytes", (json_int_t)am_engine_plan_bytes(programs, n),
                     "flops_per_step", (json_int_t)programs[0]->flops, "messages_per_step", (json_int_t)programs[0]->messages, "bytes_sent_per_step",
                     (json_int_t)programs[0]->message_bytes, "hash", hash);
}

static am_status one_rank(const am_settings *s, const am_model *m, int64_t rank, const am_dry_run *o, bool validates, int threads, json_t *out)
{
    am_status st = AM_OK;
    am_program *programs[2];
    int n = 0;
    am_str text = {0};
    AM_TRY(am_train_compile(s, m, rank, threads, validates, programs, &n));
    if (o->json) json_array_append_new(out, rank_json(programs, n, rank));
    else if (o->rank >= 0) {
        AM_TRY(am_program_print(programs[0], &text));
        fputs(text.s, stdout);
    } else AM_TRY(print_rank(s, programs, n, rank, stdout));
done:
    for (int i = 0; i < n; i++) am_program_free(&programs[i]);
    am_str_release(&text);
    return st;
}

static am_status threads_of(const am_settings *s, const am_dry_run *o, int *threads)
{
    am_status st = AM_OK;
    am_topo *topo = NULL;
    *threads = o->threads ? o->threads : s->threads;
    if (*threads == 0) {
        AM_TRY(am_topo_create(&topo));
        *threads = am_topo_cores(topo);
    }
done:
    am_topo_free(&topo);
    return st;
}

am_status am_train_dry_run(const am_config *cfg, const am_dry_run *o)
{
    am_status st = AM_OK;
    am_settings s = {0};
    am_model *m = NULL;
    json_t *list = json_array();
    int threads = 1;
    AM_TRY(am_settings_begin(cfg, &s));
    AM_TRY(am_model_open(s.model_spec, AM_HF_WEIGHTS_OPTIONAL, s.card, s.ignore, s.num_ignore, &m));
    AM_TRY(am_settings_read(cfg, m, o->ranks ? o->ranks : 1, &s));
    AM_TRY(threads_of(&s, o, &threads));
    bool validates = am_config_section_at(cfg, "validation_dataset*", 0) != NULL;
    AM_CHECK(o->rank < s.ranks, AM_ERR_USAGE, "--rank %" PRId64 ": the job has %" PRId64 " ranks", o->rank, s.ranks);
    if (!o->json && o->rank < 0)
        printf("%s, card %s: %" PRId64 " ranks, %" PRId64 " rows of %" PRId64 " tokens a step, %" PRId64 " micro-batches of %" PRId64 ", compute %s, %d threads a rank\n\n",
               s.model_spec, am_card_path(m->card), s.ranks, s.global_rows, s.seq_len, s.micro_batches, s.local_rows, am_dtype_name(s.compute), threads);
    AM_TRY(one_rank(&s, m, o->rank >= 0 ? o->rank : 0, o, validates, threads, list));
    if (o->rank < 0 && s.ranks > 1) AM_TRY(one_rank(&s, m, s.ranks - 1, o, validates, threads, list));
    if (o->json) {
        json_dumpf(list, stdout, JSON_INDENT(2));
        printf("\n");
    }
done:
    json_decref(list);
    am_model_free(&m);
    am_settings_release(&s);
    return st;
}
