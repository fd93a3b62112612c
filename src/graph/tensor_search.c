/* tensor_search.c: where a cut over tensor-parallel ranks begins, what carries it on, and where it ends.  The walk goes once through
 * the nodes; where one of them cannot carry a cut, the products that began it are kept whole and the walk starts again.  How to read:
 * am_tensor_search at the end; above it how a dimension is cut → families → operators → the search. */
#include "graph/autodiff.h"
#include "graph/tensor.h"

#include <string.h>

static int find_dim(const am_dim *dims, int n, const am_dim *d)
{
    for (int i = 0; i < n; i++)
        if (am_dim_same(&dims[i], d)) return i;
    return -1;
}

static bool same_span(const am_dim *a, const am_dim *b)
{
    return am_dim_same(a, b) && a->start == b->start && a->local == b->local;
}

static int64_t product(const am_dim *dims, int n)
{
    int64_t size = 1;
    for (int i = 0; i < n; i++) size *= dims[i].global;
    return size;
}

/* ---- how a dimension is cut ------------------------------------------------------------------------------ */

/* Query heads go with their kv head, where those are enough for the ranks. */
static int64_t heads_granule(const am_cutter *k, const am_dim *d)
{
    int64_t granule = 1;
    for (size_t n = 0; n < k->g->num_nodes; n++) {
        const am_node *x = &k->g->nodes[n];
        if (AM_OP_CUT(x->def->traits) != AM_CUT_ATTENTION) continue;
        const am_dim *q = &k->g->values[x->in[0]].dim[1], *kv = &k->g->values[x->in[1]].dim[1];
        if (am_dim_same(q, d) && kv->global >= k->parts && q->global % kv->global == 0)
            granule = am_max_i64(granule, q->global / kv->global);
    }
    return granule;
}

/* Of dimension d the elements that this rank has; false: some rank would have none. */
static bool take_range(const am_cutter *k, am_dim *d)
{
    enum { LINES = 64 }; /* elements: parts of a feed-forward layer begin where vectors do */
    int64_t end, granule = d->role == AM_ROLE_HEADS ? heads_granule(k, d) : 1;
    if (d->role == AM_ROLE_FFN && d->global / LINES >= k->parts) granule = LINES;
    am_shard_range(d->global, granule, k->parts, k->index, &d->start, &end);
    d->local = end - d->start;
    return am_ceil_div(d->global, granule) >= k->parts;
}

static bool may_be_cut(am_role r)
{
    return r == AM_ROLE_HEADS || r == AM_ROLE_KV_HEADS || r == AM_ROLE_FFN;
}

/* ---- families: what began the cut of a value --------------------------------------------------------------- */

static int leader_of(am_cutter *k, int p)
{
    while (k->leader[p] != p) p = k->leader[p] = k->leader[k->leader[p]];
    return p;
}

static void unite(am_cutter *k, int a, int b)
{
    k->leader[leader_of(k, a)] = leader_of(k, b);
}

/* The products that began this family's cut stay whole from now on. */
static am_status keep_whole(am_cutter *k, int family)
{
    am_status st = AM_OK;
    const char *why = NULL;
    bool any = false;
    AM_TRY(am_graph_strdup(k->g, k->reason, &why));
    for (int p = 0; p < (int)k->g->num_params; p++)
        if (k->begins[p] && leader_of(k, p) == leader_of(k, family)) {
            any = any || !k->g->params[p].why_whole;
            k->g->params[p].why_whole = why;
        }
    AM_CHECK(any, AM_ERR_INTERNAL, "tensor parallelism: nothing can be kept whole although %s", why);
done:
    return st;
}

/* ---- values and parameters ---------------------------------------------------------------------------------- */

/* The dimension of value v that is cut, and which part of it is here.  A view of a value that is cut may have other dims: the same one
 * under another name, or one into which it is merged with what follows it. */
int am_tensor_cut(const am_cutter *k, int v, am_dim *d)
{
    const am_value *x = &k->g->values[v], *r = &k->g->values[x->root];
    const int at = k->cut[x->root];
    int i = 0;
    if (at < 0) return at;
    *d = k->span[x->root];
    if (x->root == v) return at;
    while (i < x->rank && product(x->dim, i) < product(r->dim, at)) i++;
    if (i == x->rank || product(x->dim, i) != product(r->dim, at) || x->dim[i].global % d->global != 0 ||
        am_value_elements(x) != am_value_elements(r))
        return UNFIT;
    const int64_t merged = x->dim[i].global / d->global, start = d->start * merged, local = d->local * merged;
    *d = x->dim[i];
    d->start = start;
    d->local = local;
    return i;
}

static int place_of(const am_cutter *k, int v)
{
    am_dim d;
    return am_tensor_cut(k, v, &d);
}

/* The axis of p that has dimension d; -1: none, or one that cannot be cut there. */
static int axis_of(const am_param *p, const am_dim *d)
{
    am_layout_part part;
    for (int a = 0; a < p->rank; a++) {
        const am_layout *l = p->layout[a];
        if (!l || am_layout_num_parts(l) != 1 || am_layout_part_at(l, 0, &part) != AM_OK) continue;
        if (find_dim(part.dim, part.num_dims, d) >= 0) return a;
    }
    return -1;
}

/* Cut parameter p along axis a, of dimension d. */
static bool cut_param(am_cutter *k, int p, int a, const am_dim *d)
{
    const am_param *x = &k->g->params[p];
    if (k->axis[p] >= 0 && (k->axis[p] != a || !same_span(&k->dim[p], d))) {
        snprintf(k->reason, sizeof k->reason, "%.80s is cut in two ways", x->name);
        return false;
    }
    if ((x->disk.whole && x->disk.axis != a) || (a == 0 && x->disk.num_tensors > 1)) {
        snprintf(k->reason, sizeof k->reason, "%.80s cannot be cut along %s: it is a part of a tensor that is split along another axis",
                 x->name, d->name);
        return false;
    }
    k->axis[p] = a;
    k->dim[p] = *d;
    k->use[p] |= USED_CUT;
    return true;
}

static bool refuse(am_cutter *k, const am_node *x, const am_dim *d)
{
    snprintf(k->reason, sizeof k->reason, "%s (line %d of the card) needs all of %s", x->def->name, x->line, d->name);
    return false;
}

/* Operand i of an operator whose result is cut along d: cut there as well, a parameter to be cut, or one that enters whole. */
static bool follow(am_cutter *k, int node, int i, const am_dim *d, int family)
{
    const am_node *x = &k->g->nodes[node];
    const int v = x->in[i];
    if (v < 0) return true;
    const am_value *y = &k->g->values[v];
    if (y->param >= 0) {
        am_layout_part part;
        const am_param *p = &k->g->params[y->param];
        if (x->attrs.groups > 1) { /* rows of the weight, under their own name */
            if (p->rank != 1 || am_layout_part_at(p->layout[0], 0, &part) != AM_OK || part.dim[0].global != d->global) return refuse(k, x, d);
            part.dim[0].start = d->start;
            part.dim[0].local = d->local;
            return cut_param(k, y->param, 0, &part.dim[0]);
        }
        int a = axis_of(p, d);
        if (a >= 0 && y->rank == p->rank) return cut_param(k, y->param, a, d);
        k->use[y->param] |= USED_BY_CUT;
        return a < 0 || refuse(k, x, d);
    }
    am_dim own;
    int at = am_tensor_cut(k, v, &own);
    if (at >= 0 && same_span(&own, d)) {
        unite(k, k->family[y->root], family);
        return true;
    }
    if (at != WHOLE || find_dim(y->dim, y->rank, d) >= 0) {
        snprintf(k->reason, sizeof k->reason, "%s (line %d of the card) has %s beside an operand of %s cut into %" PRId64 " parts",
                 x->def->name, x->line, y->name, d->name, k->parts);
        return false;
    }
    if (am_dtype_is_float(y->dtype) && k->wanted[y->root]) k->branch[node] |= 1u << i;
    return true;
}

/* The outputs are cut along d. */
static bool cut_outputs(am_cutter *k, const am_node *x, const am_dim *d, int family)
{
    for (int i = 0; i < x->num_out; i++) {
        if (x->out[i] < 0) continue;
        const am_value *y = &k->g->values[x->out[i]];
        k->cut[x->out[i]] = find_dim(y->dim, y->rank, d);
        k->family[x->out[i]] = family;
        if (k->cut[x->out[i]] >= 0) {
            k->span[x->out[i]] = y->dim[k->cut[x->out[i]]];
            k->span[x->out[i]].start = d->start;
            k->span[x->out[i]].local = d->local;
        }
        if (k->cut[x->out[i]] < 0) return false;
    }
    return true;
}

/* ---- operators ------------------------------------------------------------------------------------------------- */

/* A product of whole features whose output may be cut; false: it cannot. */
static bool begin_cut(am_cutter *k, int node)
{
    const am_node *x = &k->g->nodes[node];
    const am_value *w = &k->g->values[x->in[1]], *y = &k->g->values[x->out[0]];
    const int p = w->param, bias = x->num_in > w->rank ? x->in[w->rank] : -1; /* linear x, w, bias; grouped x, w, offsets, bias */
    int at = 0;
    for (int i = 1; i < y->rank && !at; i++)
        if (may_be_cut(y->dim[i].role)) at = i;
    if (p < 0 || !at || k->g->params[p].why_whole) return true;
    am_dim d = y->dim[at];
    const am_param *bp = bias >= 0 && k->g->values[bias].param >= 0 ? &k->g->params[k->g->values[bias].param] : NULL;
    bool fits = take_range(k, &d);
    if (!fits) snprintf(k->reason, sizeof k->reason, "%s = %" PRId64 " is too few for %" PRId64 " ranks", d.name, d.global, k->parts);
    k->begins[p] = true;
    fits = fits && cut_param(k, p, w->rank - 2, &d);
    if (fits && bias >= 0) fits = bp && cut_param(k, k->g->values[bias].param, bp->rank - 1, &d);
    if (!fits) return false;
    if (k->wanted[k->g->values[x->in[0]].root]) k->branch[node] |= 1;
    return cut_outputs(k, x, &d, p);
}

static bool carry_product(am_cutter *k, int node, const am_dim *d)
{
    const am_node *x = &k->g->nodes[node];
    const am_value *w = &k->g->values[x->in[1]];
    const int bias = x->num_in > w->rank ? x->in[w->rank] : -1;
    if (place_of(k, x->in[0]) < 0 || w->param < 0 || axis_of(&k->g->params[w->param], d) != w->rank - 1) return refuse(k, x, d);
    if (!cut_param(k, w->param, w->rank - 1, d)) return false;
    if (bias >= 0 && k->g->values[bias].param < 0) return refuse(k, x, d);
    if (bias >= 0) k->use[k->g->values[bias].param] |= USED_BY_CUT;
    k->sum[node] = true;
    return true;
}

static bool carry_attention(am_cutter *k, int node, int family)
{
    enum { SINKS = 6, SLOPES, BIAS, BUCKETS, KEYS };
    const am_node *x = &k->g->nodes[node];
    am_dim q = k->g->values[x->in[0]].dim[1], kd = k->g->values[x->in[1]].dim[1], vd;
    const int kv = am_tensor_cut(k, x->in[1], &kd);
    bool fits = am_tensor_cut(k, x->in[0], &q) == 1 && (kv == 1 || kv == WHOLE) && am_tensor_cut(k, x->in[2], &vd) == kv && q.global % kd.global == 0;
    if (fits && kv == 1) /* the heads here read the kv heads here */
        fits = q.start * kd.global == kd.start * q.global && q.local * kd.global == kd.local * q.global && vd.start == kd.start && vd.local == kd.local;
    if (fits && x->num_in > KEYS && x->in[KEYS] >= 0) fits = k->g->values[x->in[KEYS]].dim[1].global == 1;
    if (fits && x->num_in > BIAS && x->in[BIAS] >= 0) fits = k->g->values[x->in[BIAS]].param >= 0 || place_of(k, x->in[BIAS]) == 1;
    if (!fits) return refuse(k, x, &q);
    for (int i = 1; i <= 2; i++) {
        const int root = k->g->values[x->in[i]].root;
        if (kv == 1)
            unite(k, k->family[root], family);
        else if (k->wanted[root])
            k->branch[node] |= 1u << i;
    }
    for (int i = SINKS; i < x->num_in; i++)
        if (i != SLOPES && i != KEYS && i != BUCKETS && !follow(k, node, i, &q, family)) return false;
    return cut_outputs(k, x, &q, family) || refuse(k, x, &q);
}

/* Element-wise operators and those that work on rows. */
static bool carry_along(am_cutter *k, int node, int i, const am_dim *d, int family)
{
    const am_node *x = &k->g->nodes[node];
    const am_value *v = &k->g->values[x->in[i]], *y = &k->g->values[x->out[0]];
    if (AM_OP_CUT(x->def->traits) == AM_CUT_ROWS && place_of(k, x->in[i]) == v->rank - 1) return refuse(k, x, d);
    for (int o = 0; o < x->num_in; o++) {
        if (!follow(k, node, o, d, family)) return false;
        const am_value *z = x->in[o] >= 0 ? &k->g->values[x->in[o]] : NULL;
        bool same_size = z && z->param < 0 && am_value_elements(z) == am_value_elements(y);
        if (same_size && place_of(k, x->in[o]) == WHOLE) return refuse(k, x, d); /* the same elements under other names */
    }
    if (x->attrs.groups > 1 && (v->rank < 2 || !am_dim_same(&v->dim[v->rank - 2], d) || x->attrs.groups % d->global != 0)) return refuse(k, x, d);
    return cut_outputs(k, x, d, family) || refuse(k, x, d);
}

/* One node; false: it cannot carry the cut of *family on. */
static bool walk_node(am_cutter *k, int node, int *family)
{
    const am_node *x = &k->g->nodes[node];
    int first = -1;
    for (int i = 0; i < x->num_in && first < 0; i++)
        if (x->in[i] >= 0 && k->g->values[x->in[i]].param < 0 && place_of(k, x->in[i]) != WHOLE) first = i;
    if (first < 0) {
        *family = x->num_in > 1 && x->in[1] >= 0 ? k->g->values[x->in[1]].param : -1;
        if (AM_OP_CUT(x->def->traits) == AM_CUT_PRODUCT && !begin_cut(k, node)) return false;
        for (int i = 0; i < x->num_in; i++) {
            int p = x->in[i] >= 0 ? k->g->values[x->in[i]].param : -1;
            bool begun = k->cut[k->g->values[x->out[0]].root] >= 0;
            if (p >= 0 && !begun) k->use[p] |= USED_WHOLE;
        }
        return true;
    }
    am_dim d;
    const int at = am_tensor_cut(k, x->in[first], &d);
    *family = k->family[k->g->values[x->in[first]].root];
    if (at == UNFIT) return refuse(k, x, &d);
    switch (AM_OP_CUT(x->def->traits)) {
    case AM_CUT_EACH:
    case AM_CUT_ROWS: return carry_along(k, node, first, &d, *family);
    case AM_CUT_PRODUCT: return carry_product(k, node, &d);
    case AM_CUT_ATTENTION: return carry_attention(k, node, *family);
    default: return refuse(k, x, &d);
    }
}

/* ---- the search ------------------------------------------------------------------------------------------------- */

static void start_again(am_cutter *k)
{
    const size_t np = k->g->num_params;
    for (size_t v = 0; v < k->g->num_values; v++) k->cut[v] = WHOLE;
    for (size_t p = 0; p < np; p++) {
        k->leader[p] = (int)p;
        k->axis[p] = WHOLE;
        k->begins[p] = false;
        k->use[p] = 0;
    }
    for (size_t n = 0; n < k->g->num_nodes; n++) {
        k->branch[n] = 0;
        k->sum[n] = false;
    }
}

/* A parameter that is read whole in one place and cut, or by what is cut, in another: nothing may be cut on its account. */
static bool find_conflict(am_cutter *k, int *family)
{
    for (size_t n = 0; n < k->g->num_nodes; n++) {
        const am_node *x = &k->g->nodes[n];
        for (int i = 0; i < x->num_in; i++) {
            int p = x->in[i] >= 0 ? k->g->values[x->in[i]].param : -1, f = -1;
            if (p < 0 || !(k->use[p] & (USED_CUT | USED_BY_CUT)) || (k->use[p] & (k->use[p] - 1)) == 0) continue;
            for (int o = 0; o < x->num_in + x->num_out; o++) {
                int v = o < x->num_in ? x->in[o] : x->out[o - x->num_in];
                if (v >= 0 && k->cut[k->g->values[v].root] >= 0) f = k->family[k->g->values[v].root];
            }
            if (f < 0) continue;
            snprintf(k->reason, sizeof k->reason, "%.80s is read whole as well", k->g->params[p].name);
            *family = f;
            return true;
        }
    }
    return false;
}

static am_status search(am_cutter *k)
{
    am_status st = AM_OK;
    for (bool again = true; again;) {
        int family = -1;
        again = false;
        start_again(k);
        for (int n = 0; n < (int)k->g->num_nodes && !again; n++) again = !walk_node(k, n, &family);
        again = again || find_conflict(k, &family);
        if (again) AM_TRY(keep_whole(k, family));
    }
done:
    return st;
}

static am_status open_cutter(am_cutter *k)
{
    am_status st = AM_OK;
    const size_t nv = k->g->num_values + 1, nn = k->g->num_nodes + 1, np = k->g->num_params + 1;
    AM_TRY(am_calloc(nv, sizeof *k->wanted, &k->wanted));
    AM_TRY(am_calloc(nv, sizeof *k->cut, &k->cut));
    AM_TRY(am_calloc(nv, sizeof *k->family, &k->family));
    AM_TRY(am_calloc(nv, sizeof *k->span, &k->span));
    AM_TRY(am_calloc(np, sizeof *k->leader, &k->leader));
    AM_TRY(am_calloc(np, sizeof *k->begins, &k->begins));
    AM_TRY(am_calloc(np, sizeof *k->axis, &k->axis));
    AM_TRY(am_calloc(np, sizeof *k->dim, &k->dim));
    AM_TRY(am_calloc(np, sizeof *k->use, &k->use));
    AM_TRY(am_calloc(nn, sizeof *k->branch, &k->branch));
    AM_TRY(am_calloc(nn, sizeof *k->sum, &k->sum));
done:
    return st;
}

void am_tensor_release(am_cutter *k)
{
    am_free(&k->wanted);
    am_free(&k->cut);
    am_free(&k->family);
    am_free(&k->span);
    am_free(&k->leader);
    am_free(&k->begins);
    am_free(&k->axis);
    am_free(&k->dim);
    am_free(&k->use);
    am_free(&k->branch);
    am_free(&k->sum);
}

am_status am_tensor_search(am_cutter *k)
{
    am_status st = AM_OK;
    AM_TRY(open_cutter(k));
    am_ad_mark_wanted(k->g, (int)k->g->num_nodes, k->wanted);
    AM_TRY(search(k));
done:
    return st;
}
