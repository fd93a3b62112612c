/* fit.c: am_fit_check is the entry.  A plan that does not fit is compiled again with one setting changed after the
 * other, as a person would; what is offered has been counted by the same compiler that counts the run. */
#include "train/fit.h"

#include "ckpt/ckpt.h"
#include "train/engine.h"
#include "train/train.h"

#include <string.h>

/* Code, libraries, MPI's buffers and HDF5's caches of a rank: 26 to 35 MiB were seen (tests/walls), rounded up. */
#define PROCESS_BYTES ((int64_t)64 << 20)
#define GB            1e-9

int64_t am_fit_rank_bytes(const am_settings *s, am_program *const *programs, int n)
{
    am_prefetch_options po = {.rows = s->local_rows, .accumulation = s->micro_batches, .depth = AM_PREFETCH_DEPTH};
    int64_t staging = s->ckpt_enabled && s->ckpt_async ? am_ckpt_staging_bytes(programs[0]) : 0;
    return am_engine_plan_bytes(programs, n) + staging + am_prefetch_bytes(&po, s->seq_len) + PROCESS_BYTES;
}

am_status am_fit_room_here(const am_topo_allocation *a, int64_t ranks_per_node, am_fit_room *out)
{
    am_status st = AM_OK;
    am_topo_memory memory;
    AM_TRY(am_topo_memory_limit(&memory));
    am_topo_memory_allow(&memory, a);
    *out = (am_fit_room){.ranks_per_node = ranks_per_node, .bytes = am_max_i64(memory.available_bytes, 1)};
    snprintf(out->source, sizeof out->source, "%s", memory.limited_by[0] ? memory.limited_by : "what is free here");
done:
    return st;
}

/* ---- what would fit ------------------------------------------------------------------------------------------ */

typedef struct search {
    const am_model *model;
    int  threads;
    bool validates;
} search;

static bool fits(const am_fit_room *room, int64_t ranks_per_node, int64_t bytes)
{
    return bytes <= room->bytes / ranks_per_node;
}

/* Bytes of a rank under other settings; 0 where they do not compile. */
static int64_t price(const search *q, const am_settings *s)
{
    am_program *programs[2];
    int n = 0;
    int64_t bytes = 0;
    if (am_train_compile(s, q->model, 0, q->threads, q->validates, programs, &n) == AM_OK)
        bytes = am_fit_rank_bytes(s, programs, n);
    else
        am_error_clear();
    for (int i = 0; i < n; i++) am_program_free(&programs[i]);
    return bytes;
}

/* Each changes one setting where it is not so already; all leave the numbers of a step as they are. */
static bool shard_all(am_settings *s)
{
    bool change = s->mesh.size[AM_MESH_DP_REPLICATE] > 1;
    s->mesh.size[AM_MESH_DP_REPLICATE] = 1;
    s->mesh.size[AM_MESH_DP_SHARD] = s->ranks;
    return change;
}

static bool set_flag(bool *flag, bool value)
{
    bool change = *flag != value;
    *flag = value;
    return change;
}

static bool reduce_often(am_settings *s) { return set_flag(&s->defer_sync, false); }
static bool reshard(am_settings *s) { return set_flag(&s->reshard, true); }
static bool recompute(am_settings *s)
{
    bool change = s->recompute != AM_RECOMPUTE_FULL;
    s->recompute = AM_RECOMPUTE_FULL;
    return change;
}
static bool write_at_once(am_settings *s) { return s->ckpt_enabled && set_flag(&s->ckpt_async, false); }

static bool one_row(am_settings *s)
{
    bool change = s->local_rows > 1;
    s->micro_batches *= s->local_rows;
    s->local_rows = 1;
    return change;
}

static const struct { bool (*change)(am_settings *s); const char *words; } remedies[] = {
    {reduce_often, "--distributed.defer_fsdp_grad_sync=false"},
    {reshard, "--distributed.reshard_after_forward=true"},
    {shard_all, "--distributed.strategy=fsdp2 --distributed.dp_replicate_size=1"},
    {recompute, "--distributed.recompute=full"},
    {one_row, "--step_scheduler.local_batch_size=1"},
    {write_at_once, "--checkpoint.is_async=false"},
};
enum { NUM_REMEDIES = sizeof remedies / sizeof *remedies };

/* The first setting that is enough alone; else as many as it takes, in their order.  Appends to `out`; whether it fits. */
static am_status try_settings(const search *q, const am_settings *s, const am_fit_room *room, am_str *out, bool *found)
{
    am_status st = AM_OK;
    am_settings all = *s;
    am_str words = {0};
    int64_t bytes = 0;
    *found = false;
    for (int i = 0; i < NUM_REMEDIES && !*found; i++) {
        am_settings one = *s;
        if (!remedies[i].change(&one) || (bytes = price(q, &one)) == 0) continue;
        *found = fits(room, room->ranks_per_node, bytes);
        if (*found) AM_TRY(am_str_printf(&words, "%s", remedies[i].words));
    }
    for (int i = 0; i < NUM_REMEDIES && !*found; i++) {
        if (!remedies[i].change(&all)) continue;
        AM_TRY(am_str_printf(&words, "%s%s", words.len ? " " : "", remedies[i].words));
        *found = (bytes = price(q, &all)) > 0 && fits(room, room->ranks_per_node, bytes);
    }
    if (*found) AM_TRY(am_str_printf(out, "%s (%.2f GB a rank)", words.s, (double)bytes * GB));
done:
    am_str_release(&words);
    return st;
}

/* The same recipe on another number of ranks; false where the batch or the replicas do not divide. */
static bool with_ranks(const am_settings *s, int64_t ranks, am_settings *out)
{
    *out = *s;
    int64_t replicas = s->mesh.size[AM_MESH_DP_SHARD] == 1 ? ranks : s->mesh.size[AM_MESH_DP_REPLICATE];
    if (ranks % replicas || s->global_rows % (s->local_rows * ranks)) return false;
    out->ranks = out->dp = ranks;
    out->mesh.size[AM_MESH_DP_REPLICATE] = replicas;
    out->mesh.size[AM_MESH_DP_SHARD] = ranks / replicas;
    out->micro_batches = s->global_rows / (s->local_rows * ranks);
    return true;
}

/* As many nodes or more, as many ranks on each or fewer: the fewest nodes that hold it, and on these the most ranks. */
static am_status try_allocations(const search *q, const am_settings *s, const am_fit_room *room, am_str *out, bool *found)
{
    am_status st = AM_OK;
    am_settings other;
    int64_t nodes = am_ceil_div(s->ranks, room->ranks_per_node), best = 0, best_each = 0, best_bytes = 0;
    for (int64_t ranks = nodes; ranks <= s->global_rows / s->local_rows; ranks++) {
        int64_t bytes = with_ranks(s, ranks, &other) ? price(q, &other) : 0;
        for (int64_t each = room->ranks_per_node; bytes && each >= 1; each--) {
            int64_t n = ranks / each;
            bool better = best == 0 || n < best || (n == best && each > best_each);
            if (ranks % each || n < nodes || !better || !fits(room, each, bytes)) continue;
            best = n;
            best_each = each;
            best_bytes = bytes;
        }
    }
    *found = best > 0;
    if (*found)
        AM_TRY(am_str_printf(out, "sbatch --nodes=%" PRId64 " --ntasks-per-node=%" PRId64 " (%.2f GB a rank)", best, best_each,
                             (double)best_bytes * GB));
done:
    return st;
}

/* Settings, or another allocation; where neither is enough, both. */
static am_status find_remedy(const search *q, const am_settings *s, const am_fit_room *room, am_str *out)
{
    am_status st = AM_OK;
    bool by_settings, by_allocation;
    am_str allocation = {0};
    am_settings all = *s;
    AM_TRY(try_settings(q, s, room, out, &by_settings));
    AM_TRY(try_allocations(q, s, room, &allocation, &by_allocation));
    if (by_allocation) AM_TRY(am_str_printf(out, "%s%s", by_settings ? ", or with " : "", allocation.s));
    if (by_settings || by_allocation) goto done;
    for (int i = 0; i < NUM_REMEDIES; i++)
        if (remedies[i].change(&all)) AM_TRY(am_str_printf(out, "%s ", remedies[i].words));
    AM_TRY(try_allocations(q, &all, room, &allocation, &by_allocation));
    if (by_allocation) AM_TRY(am_str_printf(out, "and %s", allocation.s));
    else am_str_release(out);
done:
    am_str_release(&allocation);
    return st;
}

/* ---- the check ----------------------------------------------------------------------------------------------- */

static double region(am_program *const *programs, am_region_id r)
{
    return (double)(programs[0]->region_bytes[r] * (r == AM_REGION_FRAME ? programs[0]->num_frames : 1)) * GB;
}

am_status am_fit_check(const am_settings *s, const am_model *m, int threads, bool validates, const am_fit_room *room,
                       am_program *const *programs, int n)
{
    am_status st = AM_OK;
    int64_t bytes = am_fit_rank_bytes(s, programs, n), each = room->ranks_per_node;
    search q = {m, threads, validates};
    am_str remedy = {0};
    if (room->bytes == 0 || fits(room, each, bytes)) return AM_OK;
    AM_TRY(find_remedy(&q, s, room, &remedy));
    AM_FAIL(AM_ERR_PLAN,
            "a rank needs %.2f GB (weights and optimizer %.2f, gradients %.2f, saved activations %.2f, work space %.2f, the rest "
            "beside the plan), %" PRId64 " rank%s of a node %.2f GB, and %.2f GB are there (%s); %s%s", (double)bytes * GB,
            region(programs, AM_REGION_STORE), region(programs, AM_REGION_STEP), region(programs, AM_REGION_FRAME),
            region(programs, AM_REGION_ARENA), each, each == 1 ? "" : "s", (double)(bytes * each) * GB, (double)room->bytes * GB,
            room->source, remedy.len ? "it fits with " : "", remedy.len ? remedy.s : "no setting or number of nodes makes it fit: it "
            "takes nodes with more memory, a shorter packed_sequence.packed_sequence_size, or fewer trained parameters (freeze_config)");
done:
    am_str_release(&remedy);
    return st;
}
