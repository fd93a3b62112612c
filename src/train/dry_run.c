/* dry_run.c: what a job will take, told by the compiler that the job will use, without MPI, weights or data. */
#include "train/fit.h"
#include "train/train_internal.h"

#include <string.h>

/* The job, once what was not stated has been looked up. */
typedef struct job {
    am_settings s;
    am_model   *model;
    am_fit_room room;
    int         threads;
    bool        validates;
} job;

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

static json_t *rank_json(const am_settings *s, am_program *const *programs, int n, int64_t rank)
{
    json_t *regions = json_object();
    char hash[20];
    snprintf(hash, sizeof hash, "%016" PRIx64, programs[0]->hash);
    for (int k = 0; k < AM_REGION_COUNT; k++)
        json_object_set_new(regions, am_region_name((am_region_id)k),
                            json_integer((json_int_t)(programs[0]->region_bytes[k] * (k == AM_REGION_FRAME ? programs[0]->num_frames : 1))));
    return json_pack("{s:I, s:o, s:I, s:I, s:I, s:I, s:I, s:s}", "rank", (json_int_t)rank, "regions", regions, "bytes",
                     (json_int_t)am_engine_plan_bytes(programs, n), "host_bytes", (json_int_t)am_fit_rank_bytes(s, programs, n),
                     "flops_per_step", (json_int_t)programs[0]->flops, "messages_per_step", (json_int_t)programs[0]->messages,
                     "bytes_sent_per_step", (json_int_t)programs[0]->message_bytes, "hash", hash);
}

/* A rank's memory beside that of its node. */
static void print_room(const job *j, int64_t bytes)
{
    int64_t each = j->room.ranks_per_node;
    printf("memory: %.2f GB a rank (with staging, prefetch and the process itself)", (double)bytes * 1e-9);
    if (j->room.bytes)
        printf(", %.2f GB for the %" PRId64 " of a node, of %.2f GB (%s)", (double)(bytes * each) * 1e-9, each,
               (double)j->room.bytes * 1e-9, j->room.source);
    printf("\n");
}

static am_status one_rank(const job *j, int64_t rank, const am_dry_run *o, json_t *out)
{
    am_status st = AM_OK;
    am_program *programs[2];
    int n = 0;
    am_str text = {0};
    AM_TRY(am_train_compile(&j->s, j->model, rank, j->threads, j->validates, programs, &n));
    if (o->json) json_array_append_new(out, rank_json(&j->s, programs, n, rank));
    else if (o->rank >= 0) {
        AM_TRY(am_program_print(programs[0], &text));
        fputs(text.s, stdout);
    } else {
        AM_TRY(print_rank(&j->s, programs, n, rank, stdout));
        if (rank == j->s.ranks - 1) print_room(j, am_fit_rank_bytes(&j->s, programs, n));
    }
    fflush(stdout);
    if (rank == j->s.ranks - 1) AM_TRY(am_fit_check(&j->s, j->model, j->threads, j->validates, &j->room, programs, n));
done:
    for (int i = 0; i < n; i++) am_program_free(&programs[i]);
    am_str_release(&text);
    return st;
}

static am_status count_threads(job *j, const am_dry_run *o, const am_topo_allocation *a)
{
    am_status st = AM_OK;
    am_topo *topo = NULL;
    j->threads = o->threads ? o->threads : j->s.threads;
    if (j->threads == 0 && a->slurm)
        j->threads = (int)(a->cpus_per_rank ? a->cpus_per_rank : a->cpus_on_node / am_max_i64(1, a->ranks_per_node));
    if (j->threads <= 0) {
        AM_TRY(am_topo_create(&topo));
        j->threads = am_topo_cores(topo);
    }
done:
    am_topo_free(&topo);
    return st;
}

/* What the command line states, else the Slurm job; else one rank on a node of unknown size. */
static am_status look_up(const am_config *cfg, const am_dry_run *o, job *j)
{
    am_status st = AM_OK;
    am_topo_allocation a;
    AM_TRY(am_topo_allocation_read(&a));
    int64_t ranks = o->ranks ? o->ranks : am_max_i64(a.ranks, 1);
    int64_t each = o->ranks_per_node ? o->ranks_per_node : a.slurm && !o->ranks ? a.ranks_per_node : ranks;
    AM_TRY(am_settings_begin(cfg, &j->s));
    AM_TRY(am_model_open(j->s.model_spec, AM_HF_WEIGHTS_OPTIONAL, j->s.card, j->s.ignore, j->s.num_ignore, &j->model));
    AM_TRY(am_settings_read(cfg, j->model, ranks, &j->s));
    AM_TRY(count_threads(j, o, &a));
    j->validates = am_config_section_at(cfg, "validation_dataset*", 0) != NULL;
    j->room = (am_fit_room){.ranks_per_node = am_min_i64(each, ranks), .bytes = o->node_bytes, .source = "--memory-per-node"};
    if (!o->node_bytes && a.slurm && !o->ranks) AM_TRY(am_fit_room_here(&a, j->room.ranks_per_node, &j->room));
done:
    return st;
}

am_status am_train_dry_run(const am_config *cfg, const am_dry_run *o)
{
    am_status st = AM_OK;
    job j = {0};
    json_t *list = json_array();
    AM_TRY(look_up(cfg, o, &j));
    const am_settings *s = &j.s;
    AM_CHECK(o->rank < s->ranks, AM_ERR_USAGE, "--rank %" PRId64 ": the job has %" PRId64 " ranks", o->rank, s->ranks);
    if (!o->json && o->rank < 0)
        printf("%s, card %s: %" PRId64 " ranks, %" PRId64 " rows of %" PRId64 " tokens a step, %" PRId64 " micro-batches of %" PRId64
               ", compute %s, %d threads a rank\n\n", s->model_spec, am_card_path(j.model->card), s->ranks, s->global_rows, s->seq_len,
               s->micro_batches, s->local_rows, am_dtype_name(s->compute), j.threads);
    if (o->rank >= 0) AM_TRY(one_rank(&j, o->rank, o, list));
    for (int64_t r = 0; o->rank < 0 && r < s->ranks; r = r < s->ranks - 1 ? s->ranks - 1 : s->ranks)
        if (st == AM_OK) st = one_rank(&j, r, o, list);
    if (o->json) {
        json_dumpf(list, stdout, JSON_INDENT(2));
        printf("\n");
    }
    AM_TRY(st);
done:
    json_decref(list);
    am_model_free(&j.model);
    am_settings_release(&j.s);
    return st;
}
