/* engine.c: starting and ending a command that runs programs. */
#include "train/engine.h"

#include <omp.h>
#include <stdlib.h>
#include <string.h>

static am_comm *current; /* for the one door of errors: main must be able to end all ranks */

am_comm *am_engine_current(void) { return current; }

/* Every thread of the compute team onto its core, in the one parallel region that makes the team. */
static am_status bind_team(am_engine *e)
{
    am_status worst = AM_OK;
    if (!e->placement.bind) return AM_OK;
#pragma omp parallel num_threads(e->threads)
    {
        am_status st = am_topo_bind_thread(e->topo, &e->placement, omp_get_thread_num());
        if (st != AM_OK) {
#pragma omp critical
            worst = st;
        }
    }
    return worst;
}

static am_status place(am_engine *e, const am_engine_options *o)
{
    am_status st = AM_OK;
    am_topo_request request = {.local_rank = am_comm_local_rank(e->comm), .local_size = am_comm_local_size(e->comm), .threads = o->threads};
    AM_TRY(am_topo_create(&e->topo));
    AM_TRY(am_topo_place(e->topo, &request, &e->placement));
    e->threads = e->placement.threads;
    if (!o->quiet) am_topo_print(&e->placement, e->rank, stderr);
    AM_TRY(am_topo_bind_process(e->topo, &e->placement));
    omp_set_dynamic(0);
    omp_set_num_threads(e->threads);
    AM_TRY(bind_team(e));
done:
    return st;
}

am_status am_engine_open(const am_engine_options *o, am_engine **out)
{
    am_status st = AM_OK;
    am_engine *e = NULL;
    am_comm_options c = {.max_requests = 4096, .timeout_seconds = o->timeout_seconds};
    const char *delay = getenv("AM_COMM_DELAY_MS");
    double ms = 0;
    if (delay && am_parse_f64(delay, &ms)) c.delay_seconds = ms * 1e-3;
    AM_TRY(am_calloc(1, sizeof *e, &e));
    AM_TRY(am_comm_create(NULL, &c, &e->comm));
    current = e->comm;
    e->rank = am_comm_rank(e->comm);
    e->size = am_comm_size(e->comm);
    if (e->size > 1) am_log_set_rank(e->rank);
    AM_TRY(place(e, o));
    AM_TRY(am_device_create(o->device ? o->device : "cpu", e->threads, &e->device));
    *out = e;
    e = NULL;
done:
    return st; /* on failure the communicator stays open for am_cli_finish to end the other ranks */
}

am_status am_engine_close(am_engine **pe)
{
    am_status st = AM_OK;
    if (!pe || !*pe) return AM_OK;
    am_engine *e = *pe;
    am_device_free(&e->device);
    am_topo_placement_release(&e->placement);
    am_topo_free(&e->topo);
    st = am_comm_free(&e->comm);
    if (st == AM_OK) current = NULL;
    am_free(pe);
    return st;
}

am_mesh am_engine_mesh(const am_engine *e, bool fsdp)
{
    am_mesh m;
    for (int d = 0; d < AM_MESH_DIM_COUNT; d++) m.size[d] = 1;
    m.size[fsdp ? AM_MESH_DP_SHARD : AM_MESH_DP_REPLICATE] = e->size;
    return m;
}

/* The first collective that two programs do not share. */
static void name_difference(const am_program *p, am_str *out)
{
    am_status st = AM_OK;
    for (int k = 0; k < p->num_segments; k++)
        for (int i = 0; i < p->segment[k].num_ops; i++) {
            const am_prog_op *op = &p->segment[k].op[i];
            if (!op->group) continue;
            AM_TRY(am_str_printf(out, "%s of %" PRId64 " bytes", op->label, op->piece_bytes));
            goto done;
        }
done:
    (void)st;
}

am_status am_engine_agree(const am_engine *e, am_program *const *programs, int n)
{
    am_status st = AM_OK;
    uint64_t mine[3] = {0, 0, 0}, *all = NULL;
    am_str what = {0};
    for (int i = 0; i < n; i++) {
        mine[0] = am_hash64(&programs[i]->hash, sizeof programs[i]->hash, mine[0]);
        mine[1] = am_hash64(&programs[i]->signature, sizeof programs[i]->signature, mine[1]);
        mine[2] = (uint64_t)programs[i]->options.micro_batches;
    }
    AM_TRY(am_calloc((size_t)e->size, sizeof mine, &all));
    AM_TRY(am_comm_allgather(e->comm, mine, sizeof mine, all));
    for (int r = 0; r < e->size; r++) {
        if (memcmp(&all[3 * r], all, sizeof mine) == 0) continue;
        name_difference(programs[0], &what);
        AM_FAIL(AM_ERR_CONFIG, "rank %d compiled another program than rank 0 (hash %016" PRIx64 ", not %016" PRIx64 "; %" PRIu64 " micro-batches a step, not %" PRIu64
                "; the first collective here is %s): all ranks need the same recipe, options and binary",
                r, all[3 * r], all[0], all[3 * r + 2], all[2], what.s ? what.s : "none");
    }
done:
    am_str_release(&what);
    am_free(&all);
    return st;
}

int64_t am_engine_plan_bytes(am_program *const *programs, int n)
{
    int64_t total = 0;
    for (int r = 0; r < AM_REGION_COUNT; r++) {
        int64_t most = 0, sum = 0;
        for (int i = 0; i < n; i++) {
            int64_t bytes = programs[i]->region_bytes[r] * (r == AM_REGION_FRAME ? programs[i]->num_frames : 1);
            most = am_max_i64(most, bytes);
            sum += bytes;
        }
        total += r == AM_REGION_CONST || r == AM_REGION_STATE ? sum : most;
    }
    return total;
}

am_status am_engine_fits(const am_engine *e, am_program *const *programs, int n, int64_t extra_bytes)
{
    am_status st = AM_OK;
    am_topo_memory memory;
    int64_t mine = am_engine_plan_bytes(programs, n) + extra_bytes, ranks = am_comm_local_size(e->comm);
    AM_TRY(am_topo_memory_limit(&memory));
    AM_CHECK(mine * ranks <= memory.available_bytes, AM_ERR_PLAN,
             "the plan needs %.2f GB on each of %" PRId64 " ranks of this node (store %.2f, saved activations %.2f, arena %.2f), and %.2f GB are available%s%s; "
             "use more ranks with distributed.strategy: fsdp2, distributed.recompute: full, a smaller local_batch_size or a shorter sequence",
             (double)mine * 1e-9, ranks, (double)programs[0]->region_bytes[AM_REGION_STORE] * 1e-9,
             (double)programs[0]->region_bytes[AM_REGION_FRAME] * (double)programs[0]->num_frames * 1e-9,
             (double)programs[0]->region_bytes[AM_REGION_ARENA] * 1e-9, (double)memory.available_bytes * 1e-9, memory.limited_by[0] ? ", limited by " : "",
             memory.limited_by);
done:
    return st;
}
