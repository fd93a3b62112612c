/* place: which cores a rank gets.
 *
 * Slurm's binding of a task is kept as it is.  mpirun's is kept when it can be meant: it leaves this rank
 * more than one core (or there is only one for each) and overlaps no other rank's.  Ranks that were given
 * one and the same set divide it.  Else the allowed cores are divided among the local ranks: mpirun's
 * default (a core a rank up to two ranks) and an absent binding both end there.  Where Slurm granted fewer
 * CPUs than the kernel allows, which ones are the job's is unknown: nothing is widened then, and a rank
 * without a binding only counts its threads. */
#include "topo_internal.h"

#include <string.h>

/* The question, with what Slurm says of this node. */
typedef struct view {
    const am_topo *t;
    const am_topo_request *q;
    bool by_slurm;            /* the binding is Slurm's, not mpirun's */
    bool ours;                /* all allowed cores are the job's */
    int  granted, of_job;     /* how many of them are; and those of the job, of which this step may have less */
    int  cpus_per_core;       /* in --cpus-per-task */
    int  limit;               /* cores that a rank which is not bound may count as its own */
    int  peers, index;        /* local ranks with this rank's binding, and its place among them */
    bool overlap, single;     /* another binding has some of this one's; all local bindings are of one core */
} view;

/* The answer. */
typedef struct choice {
    int *list;     /* [n] indices into core_sets */
    int  n, cores; /* cores < n only where loose */
    bool widened;  /* beyond the launcher's binding */
    bool divided, loose;
    bool crowded;  /* more ranks than cores: this one's is another's as well */
    char why[400];
} choice;

/* indices into core_sets of the cores that `set` touches; returns their number */
static int cores_in(const am_topo *t, hwloc_const_bitmap_t set, int *out)
{
    int n = 0;
    for (int i = 0; i < t->cores; i++)
        if (hwloc_bitmap_intersects(t->core_sets[i], set)) out[n++] = i;
    return n;
}

/* One with threads beyond the set is not known: taken to be like this rank's. */
static bool one_core(const am_topo *t, const am_topo_set *set)
{
    int n = 0;
    for (int i = 0; i < t->cores && n < 2; i++) {
        am_topo_set core = am_topo_set_of(t->core_sets[i]);
        bool in = false;
        for (size_t w = 0; w < AM_TOPO_SET_BITS / 64; w++) in |= (core.word[w] & set->word[w]) != 0;
        n += in;
    }
    return n == 1 || set->beyond != 0;
}

/* Slurm's CPUs are hardware threads or whole cores, as the cluster's administrator counts them: as many
 * CPUs as there are cores are taken for all of them, since a node of which exactly half is granted without
 * confinement is rarer. */
static void look_at_grant(view *v)
{
    const am_topo_allocation *a = v->q->allocation;
    int64_t cpus = a && a->slurm ? a->cpus_on_node : 0;
    int threads = 0, per_core, cores = v->t->cores;
    for (int i = 0; i < cores; i++) threads += hwloc_bitmap_weight(v->t->core_sets[i]);
    per_core = (threads + cores - 1) / cores;
    v->by_slurm = a && a->slurm && !a->mpirun;
    v->ours = cpus == 0 || cpus >= threads || cpus == cores;
    v->granted = v->ours ? cores : (int)am_min_i64(cores, am_ceil_div(cpus, per_core));
    v->cpus_per_core = cpus == cores || (a && a->threads_per_core == 1) ? 1 : per_core;
    /* a step may have less than its job; where it is confined to that, hwloc shows no more */
    v->of_job = v->granted;
    if (v->by_slurm && cpus > 0 && a->job_cpus_on_node > cpus)
        v->of_job = (int)(v->granted * a->job_cpus_on_node / cpus);
    v->limit = (int)am_max_i64(1, v->granted / v->q->local_size);
    if (v->by_slurm && a->cpus_per_rank > 0)
        v->limit = (int)am_min_i64(v->limit, am_ceil_div(a->cpus_per_rank, v->cpus_per_core));
}

/* Where the others' bindings are not known: n cores for each that do not fit side by side overlap. */
static void look_at_others(view *v, hwloc_const_bitmap_t bound, int n)
{
    const am_topo_set mine = am_topo_set_of(bound), *all = v->q->bound;
    v->peers = 1;
    v->single = n == 1;
    v->overlap = !all && (int64_t)n * v->q->local_size > v->t->cores;
    if (!all) return;
    v->peers = 0;
    for (int r = 0; r < v->q->local_size; r++) {
        v->single = v->single && one_core(v->t, &all[r]);
        if (memcmp(&all[r], &mine, sizeof mine) == 0) {
            v->index += r < v->q->local_rank;
            v->peers++;
            continue;
        }
        for (size_t w = 0; w < AM_TOPO_SET_BITS / 64; w++) v->overlap |= (all[r].word[w] & mine.word[w]) != 0;
    }
    if (v->peers == 0) v->peers = 1; /* assume_bound, say */
}

/* Part number `part` of the list; with more parts than cores, one core that others have as well. */
static void divide(choice *c, int part, int parts)
{
    int each = c->n / parts, extra = c->n % parts, n = each + (part < extra);
    int first = part * each + (int)am_min_i64(part, extra);
    if (parts > c->n) {
        first = (int)((int64_t)part * c->n / parts);
        n = 1;
        c->crowded = true;
    }
    memmove(c->list, c->list + first, (size_t)n * sizeof *c->list);
    c->n = c->cores = n;
}

static void divide_all(const view *v, choice *c, bool widen)
{
    c->widened = widen;
    for (int i = 0; i < v->t->cores; i++) c->list[i] = i;
    c->n = v->t->cores;
    divide(c, v->q->local_rank, v->q->local_size);
}

static void divide_own(const view *v, choice *c, const char *whose)
{
    snprintf(c->why, sizeof c->why, "%s of %d core%s, the same for %d local ranks, %s", whose, c->n,
             c->n == 1 ? "" : "s", v->peers,
             v->peers > c->n ? "which are more and share cores" : "divided among them");
    c->divided = true;
    divide(c, v->index, v->peers);
}

static void loosen(const view *v, choice *c)
{
    c->loose = true;
    c->cores = (int)am_min_i64(v->limit, c->n);
    snprintf(c->why, sizeof c->why,
             "Slurm granted the job %" PRId64 " CPU%s here but confines it to none, so which cores are its "
             "own is unknown (sbatch --exclusive gives whole nodes; an administrator's "
             "TaskPlugin=task/affinity,task/cgroup confines jobs)",
             v->q->allocation->cpus_on_node, v->q->allocation->cpus_on_node == 1 ? "" : "s");
}

static void choose_by_slurm(const view *v, choice *c)
{
    if (c->n < v->t->cores && v->peers > 1) divide_own(v, c, "Slurm's binding");
    else if (c->n < v->t->cores) snprintf(c->why, sizeof c->why, "Slurm's binding");
    else if (!v->ours) loosen(v, c);
    else {
        snprintf(c->why, sizeof c->why, "%s",
                 v->q->local_size == 1
                     ? "all cores of the job on this node"
                     : "no binding by Slurm, the job's cores cut evenly among the local ranks");
        divide_all(v, c, false);
    }
}

static void choose_by_mpirun(const view *v, choice *c)
{
    const int fair = (int)am_max_i64(1, v->t->cores / v->q->local_size);
    if (!v->ours && c->n > v->limit) loosen(v, c);
    else if (c->n == v->t->cores) {
        snprintf(c->why, sizeof c->why, "%s",
                 v->q->local_size == 1
                     ? "all cores this process may use"
                     : "no binding by the launcher, cores cut evenly among the local ranks");
        divide_all(v, c, false);
    } else if (v->ours && v->single && fair > 1) {
        snprintf(c->why, sizeof c->why,
                 "the launcher had bound this rank to 1 core (mpirun's default), widened to its even part");
        divide_all(v, c, true);
    } else if (v->peers > 1 && !v->overlap && (c->n >= v->peers || !v->ours))
        divide_own(v, c, "the launcher's binding");
    else if (v->ours && (v->overlap || v->peers > 1)) {
        snprintf(c->why, sizeof c->why,
                 "the launcher's bindings of the local ranks overlap, cores cut evenly instead");
        divide_all(v, c, true);
    } else
        snprintf(c->why, sizeof c->why, "the launcher's binding%s",
                 !v->ours && c->n < v->limit ? ", kept: which further cores are the job's is unknown" : "");
}

static void choose(const view *v, choice *c)
{
    c->cores = c->n;
    if (v->q->policy == AM_TOPO_AUTO) {
        if (v->by_slurm) choose_by_slurm(v, c);
        else choose_by_mpirun(v, c);
        return;
    }
    c->loose = v->q->policy == AM_TOPO_NONE;
    snprintf(c->why, sizeof c->why, "%s",
             c->loose ? "not bound, as asked" : "the launcher's binding, kept as asked");
    c->crowded = v->q->local_size > v->t->cores;
}

static int choose_threads(const am_topo *t, const am_topo_request *q, int cores, bool *by_quota)
{
    *by_quota = false;
    if (q->threads > 0) return q->threads;
    int threads = (int)am_max_i64(1, cores - q->spare_cores);
    if (t->quota > 0 && t->quota / q->local_size < threads) {
        threads = (int)am_max_i64(1, (int64_t)(t->quota / q->local_size));
        *by_quota = true;
    }
    return threads;
}

/* The hardware thread number `level` of a core among those of the share; -1 when it has fewer. */
static int core_pu(hwloc_const_bitmap_t core, hwloc_const_bitmap_t share, int level)
{
    for (int pu = hwloc_bitmap_first(core); pu >= 0; pu = hwloc_bitmap_next(core, pu))
        if (hwloc_bitmap_isset(share, (unsigned)pu) && level-- == 0) return pu;
    return -1;
}

/* One hardware thread per core first; further threads take the cores' second ones. */
static am_status assign_threads(const am_topo *t, const int *list, int cores, hwloc_const_bitmap_t share,
                                int threads, am_topo_placement *out)
{
    am_status st = AM_OK;
    int placed = 0;
    AM_TRY(am_calloc((size_t)threads, sizeof *out->pu, &out->pu));
    for (int level = 0, found = 1; placed < threads && found; level++) {
        found = 0;
        for (int i = 0; i < cores && placed < threads; i++) {
            int pu = core_pu(t->core_sets[list[i]], share, level);
            if (pu < 0) continue;
            out->pu[placed++] = pu;
            found = 1;
        }
    }
    if (placed < threads) am_free(&out->pu); /* more threads than hardware has: the kernel distributes them */
    out->shared |= threads > cores;
done:
    return st;
}

/* "1,2" of the NUMA nodes that hold the share */
static am_status numa_list(const am_topo *t, hwloc_const_bitmap_t share, am_str *out)
{
    am_status st = AM_OK;
    hwloc_obj_t node = NULL;
    while ((node = hwloc_get_next_obj_by_type(t->hwloc, HWLOC_OBJ_NUMANODE, node)))
        if (hwloc_bitmap_intersects(node->cpuset, share))
            AM_TRY(am_str_printf(out, "%s%u", out->len ? "," : "", node->os_index));
done:
    return st;
}

static am_status write_line(const view *v, const choice *c, bool by_quota, hwloc_const_bitmap_t share,
                            am_topo_placement *p)
{
    am_status st = AM_OK;
    am_str line = {0}, nodes = {0};
    const am_topo *t = v->t;
    const am_topo_request *q = v->q;
    AM_TRY(numa_list(t, share, &nodes));
    AM_TRY(am_str_printf(&line, "%d of %d cores (%shardware threads %s, NUMA %s), %d compute thread%s: %s",
                         p->cores, t->cores, c->loose ? "not bound, any of " : "", p->share,
                         nodes.s ? nodes.s : "none", p->threads, p->threads == 1 ? "" : "s", c->why));
    if (by_quota)
        AM_TRY(am_str_printf(&line, "; the cgroup's quota of %.1f CPUs limits the threads", t->quota));
    if (q->spare_cores > 0 && q->threads == 0)
        AM_TRY(am_str_printf(&line, "; %d left to service threads", q->spare_cores));
    if (q->local_size > t->cores)
        AM_TRY(am_str_printf(&line, "; %d local ranks on %d cores share them: start fewer ranks",
                             q->local_size, t->cores));
    else if (p->threads > p->cores)
        AM_TRY(am_str_printf(&line, "; more threads than cores: they share them"));
    else if (q->threads > 0 && p->threads < p->cores)
        AM_TRY(am_str_printf(&line, "; as few threads as asked, the other cores idle"));
    if (!t->this_machine) AM_TRY(am_str_printf(&line, "; computed for a described machine, not bound"));
    p->line = line.s;
    line = (am_str){0};
done:
    am_str_release(&line);
    am_str_release(&nodes);
    return st;
}

static am_status check_request(const am_topo_request *q)
{
    am_status st = AM_OK;
    AM_CHECK(q->local_size >= 1 && q->local_rank >= 0 && q->local_rank < q->local_size, AM_ERR_CONFIG,
             "local rank %d of %d", q->local_rank, q->local_size);
    AM_CHECK(q->threads >= 0 && q->spare_cores >= 0, AM_ERR_CONFIG,
             "%d compute threads, %d spare cores: neither may be negative", q->threads, q->spare_cores);
done:
    return st;
}

/* The share as hardware threads: of a core only those that were bound, unless the binding was left. */
static void take(const view *v, const choice *c, hwloc_const_bitmap_t bound, hwloc_bitmap_t share,
                 am_topo_placement *p)
{
    for (int i = 0; i < c->n; i++) {
        hwloc_bitmap_or(share, share, v->t->core_sets[c->list[i]]);
        if (!c->loose) am_topo_set_add(&p->used, (unsigned)v->t->core_first[c->list[i]]);
    }
    if (!c->widened) hwloc_bitmap_and(share, share, bound);
    p->cores = c->cores;
    p->granted = v->of_job;
    p->cpus_per_core = v->cpus_per_core;
    p->corrected = (c->widened || c->divided) && p->launcher_cores < v->t->cores;
    p->shared = c->crowded;
    p->loose = c->loose;
    p->bind = v->t->this_machine && !c->loose;
}

am_status am_topo_place(const am_topo *topo, const am_topo_request *request, am_topo_placement *out)
{
    am_status st = AM_OK;
    am_topo_placement p = {0};
    hwloc_bitmap_t bound = hwloc_bitmap_alloc(), share = hwloc_bitmap_alloc();
    view v = {.t = topo, .q = request};
    choice c = {0};
    char *text = NULL;
    bool by_quota;
    AM_CHECK(bound && share, AM_ERR_MEMORY, "no memory for a set of hardware threads");
    AM_TRY(check_request(request));
    AM_TRY(am_topo_read_bound(topo, request->assume_bound, bound));
    AM_TRY(am_calloc((size_t)topo->cores, sizeof *c.list, &c.list));
    p.launcher_cores = c.n = cores_in(topo, bound, c.list);
    look_at_grant(&v);
    look_at_others(&v, bound, c.n);
    choose(&v, &c);
    take(&v, &c, bound, share, &p);
    p.threads = choose_threads(topo, request, p.cores, &by_quota);
    if (!p.loose && !p.shared) AM_TRY(assign_threads(topo, c.list, p.cores, share, p.threads, &p));
    AM_CHECK(hwloc_bitmap_list_asprintf(&text, share) >= 0, AM_ERR_MEMORY,
             "no memory for a list of hardware threads");
    AM_TRY(am_strdup(text, &p.share));
    AM_TRY(write_line(&v, &c, by_quota, share, &p));
    *out = p;
    p = (am_topo_placement){0};
done:
    am_topo_placement_release(&p);
    am_free(&c.list);
    am_free(&text);
    hwloc_bitmap_free(bound);
    hwloc_bitmap_free(share);
    return st;
}

void am_topo_placement_release(am_topo_placement *p)
{
    am_free(&p->pu);
    am_free(&p->share);
    am_free(&p->line);
    memset(p, 0, sizeof *p);
}
