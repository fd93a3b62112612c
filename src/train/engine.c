/* engine.c: starting and ending a command that runs programs. */
#include "train/engine.h"

#include <omp.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

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
    AM_TRY(am_engine_place(e, o->threads, o->quiet));
    AM_TRY(am_topo_bind_process(e->topo, &e->placement));
    omp_set_dynamic(0);
    omp_set_num_threads(e->threads);
    AM_TRY(bind_team(e));
done:
    return st;
}

/* Messages name the rank where there are several, and its node where there are several of those.  topo knows the node
 * too, but it may fail, and the sentence of an earlier failure may already stand in the trace. */
static void label_lines(const am_comm *c)
{
    char host[256] = "";
    const char *slurm = getenv("SLURMD_NODENAME");
    if (am_comm_size(c) == 1) return;
    if (slurm == NULL && gethostname(host, sizeof host - 1) != 0) host[0] = '\0';
    const char *node = slurm ? slurm : host;
    am_log_set_rank(am_comm_rank(c), am_comm_local_size(c) < am_comm_size(c) && *node ? node : NULL);
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
    label_lines(e->comm);
    am_start_mark_end(o->clock, "ranks joined");
    AM_TRY(place(e, o));
    AM_TRY(am_device_create(o->device ? o->device : "cpu", e->threads, &e->device));
    if (o->huge_pages && strcmp(o->huge_pages, "auto") != 0)
        am_device_set_huge_pages(e->device, strcmp(o->huge_pages, "true") == 0);
    am_start_mark_end(o->clock, "cores taken");
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
    am_free(&e->placements);
    am_topo_free(&e->topo);
    st = am_comm_free(&e->comm);
    if (st == AM_OK) current = NULL;
    am_free(pe);
    return st;
}

am_mesh am_engine_mesh(const am_engine *e, bool fsdp, int tp)
{
    am_mesh m;
    for (int d = 0; d < AM_MESH_DIM_COUNT; d++) m.size[d] = 1;
    m.size[AM_MESH_TP] = tp;
    m.size[fsdp ? AM_MESH_DP_SHARD : AM_MESH_DP_REPLICATE] = e->size / tp;
    return m;
}

/* ---- agreeing ---------------------------------------------------------------------------------------------------- */

static am_status together(am_comm *comm, am_status mine)
{
    am_status st = AM_OK;
    int64_t size = am_comm_size(comm), me = size - am_comm_rank(comm), first = 0;
    if (size == 1 || mine == AM_ERR_COMM || mine == AM_ERR_WATCHDOG) return mine;
    AM_TRY(am_comm_max(comm, mine == AM_OK ? 0 : me, &first));
    if (first == 0 || first == me) return mine; /* a failure's sentence stands in this thread's trace */
    AM_TRY(am_comm_barrier(comm));              /* until that rank ends us */
    st = mine;
done:
    return st;
}

am_status am_engine_together(const am_engine *e, am_status mine) { return together(e->comm, mine); }

am_status am_engine_refuse(am_status why)
{
    am_comm_options c = {.max_requests = 1};
    if (why == AM_OK || current || am_comm_create(NULL, &c, &current) != AM_OK) return why;
    label_lines(current);
    return together(current, why);
}

/* Around position `at` of a text: the end of the line before it and what follows, on one line. */
static am_status excerpt(const char *text, size_t len, size_t at, am_str *out)
{
    am_status st = AM_OK;
    size_t begin = at, end = at;
    while (begin > 0 && text[begin - 1] != '\n' && at - begin < 100) begin--;
    while (end < len && text[end] != '\n' && end - at < 60) end++;
    while (begin < end && text[begin] == ' ') begin++;
    AM_TRY(am_str_append(out, "`", 1));
    AM_TRY(begin == end ? am_str_printf(out, "(nothing)") : am_str_append(out, text + begin, end - begin));
    AM_TRY(am_str_append(out, "`", 1));
done:
    return st;
}

am_status am_engine_first_difference(const am_engine *e, const am_str *text, am_str *out)
{
    am_status st = AM_OK;
    char *theirs = NULL;
    size_t at = 0;
    int64_t len = (int64_t)text->len;
    AM_TRY(am_comm_bcast(e->comm, &len, sizeof len, 0));
    AM_TRY(am_calloc((size_t)len + 1, 1, &theirs));
    if (e->rank == 0 && len) memcpy(theirs, text->s, (size_t)len);
    if (len) AM_TRY(am_comm_bcast(e->comm, theirs, (size_t)len, 0));
    while (at < text->len && at < (size_t)len && text->s[at] == theirs[at]) at++;
    if (at == text->len && at == (size_t)len) goto done;
    AM_TRY(am_str_printf(out, "rank 0 has "));
    AM_TRY(excerpt(theirs, (size_t)len, at, out));
    AM_TRY(am_str_printf(out, " where rank %d has ", e->rank));
    AM_TRY(excerpt(text->s, text->len, at, out));
done:
    am_free(&theirs);
    return st;
}

/* The collectives of a step in their order, then the program itself. */
static am_status describe(const am_program *p, am_str *out)
{
    am_status st = AM_OK;
    AM_TRY(am_str_printf(out, "%d micro-batches of %" PRId64 " tokens\n", p->options.micro_batches, p->tokens));
    for (int k = 0; k < p->num_entries; k++) {
        const am_schedule_entry *s = &p->schedule[k];
        for (int i = 0; i < p->segment[s->segment].num_ops; i++) {
            const am_prog_op *op = &p->segment[s->segment].op[i];
            if (!op->group || (op->when == AM_WHEN_FIRST && !s->first) || (op->when == AM_WHEN_LAST && !s->last)) continue;
            AM_TRY(am_str_printf(out, "%s of %" PRId64 " bytes in micro-batch %d\n", op->label, op->piece_bytes, s->micro_batch));
        }
    }
    size_t begin = out->len, to = begin;
    AM_TRY(am_program_print(p, out));
    for (size_t i = begin; i < out->len;) { /* without addresses, which differ between ranks */
        size_t digits = out->s[i] == '+' ? strspn(out->s + i + 1, "0123456789") : 0;
        if (digits) i += 1 + digits;
        else out->s[to++] = out->s[i++];
    }
    out->len = to;
    out->s[to] = '\0';
done:
    return st;
}

/* All ranks come here once one differs; the first that does speaks. */
static am_status name_difference(const am_engine *e, am_program *const *programs, int n)
{
    am_status st = AM_OK;
    am_str text = {0}, where = {0};
    for (int i = 0; i < n; i++) AM_TRY(describe(programs[i], &text));
    char *collectives = text.s ? strchr(text.s, '\n') : NULL;
    AM_ASSERT(collectives);
    am_str rest = {.s = collectives + 1, .len = text.len - (size_t)(collectives + 1 - text.s)};
    AM_TRY(am_engine_first_difference(e, &rest, &where));
    if (where.len)
        st = am_fail(AM_ERR_CONFIG, "rank %d compiled another program than rank 0 (its step has %.*s): %s; all ranks need the same recipe, options and binary", e->rank,
                     (int)(collectives - text.s), text.s, where.s);
    AM_TRY(am_engine_together(e, st));
done:
    am_str_release(&text);
    am_str_release(&where);
    return st;
}

am_status am_engine_agree(const am_engine *e, am_program *const *programs, int n)
{
    am_status st = AM_OK;
    enum { HASH, SIGNATURE, STEPS, TENSOR, NUM };
    uint64_t mine[NUM] = {0}, *all = NULL;
    const int tp = n ? (int)programs[0]->options.mesh.size[AM_MESH_TP] : 1; /* whose members may hold parts of unequal size */
    bool same = true;
    for (int i = 0; i < n; i++) {
        mine[HASH] = am_hash64(&programs[i]->hash, sizeof programs[i]->hash, mine[HASH]);
        mine[SIGNATURE] = am_hash64(&programs[i]->signature, sizeof programs[i]->signature, mine[SIGNATURE]);
        mine[TENSOR] = am_hash64(&programs[i]->tensor_signature, sizeof programs[i]->tensor_signature, mine[TENSOR]);
        mine[STEPS] = mine[STEPS] << 32 | (uint64_t)programs[i]->options.micro_batches;
    }
    AM_TRY(am_calloc((size_t)e->size, sizeof mine, &all));
    AM_TRY(am_comm_allgather(e->comm, mine, sizeof mine, all));
    for (int r = 0; r < e->size; r++) {
        const uint64_t *x = &all[NUM * r], *mate = &all[NUM * (r % tp)];
        same = same && memcmp(x, mate, STEPS * sizeof *x) == 0 && memcmp(x + STEPS, all + STEPS, (NUM - STEPS) * sizeof *x) == 0;
    }
    if (!same) {
        AM_TRY(name_difference(e, programs, n));
        st = memcmp(mine, all, sizeof mine) == 0 ? AM_OK : am_fail(AM_ERR_CONFIG, "rank %d compiled another program than rank 0 (hash %016" PRIx64 ", not %016" PRIx64
                 "): all ranks need the same recipe, options and binary", e->rank, mine[HASH], all[HASH]);
        AM_TRY(am_engine_together(e, st));
    }
done:
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
    am_topo_memory_allow(&memory, &e->allocation);
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
