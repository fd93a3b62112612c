/* check.c: proves a program's order and memory by brute force, knowing nothing of how waits.c and memory.c
 * decided.
 *   1. Two operators of a segment that touch common bytes, one of them writing, are connected by queue order
 * and waits.
 *   2. Between the first and the last operator that touch a value in ARENA, nobody writes its bytes for
 * another value. Quadratic: for tests and AM_DEBUG=program, not for 512 ranks. */
#include "graph/pass.h"

#include <string.h>

typedef struct am_access {
    int op, root;
    bool write;
    am_region_id region;
    int64_t begin, end;
} am_access;

typedef struct am_accesses {
    am_access *at;
    size_t n, cap;
} am_accesses;

static am_status add_access(am_accesses *a, am_access x)
{
    am_status st = am_grow(&a->at, &a->cap, a->n + 1, sizeof *a->at);
    if (st == AM_OK) a->at[a->n++] = x;
    return st;
}

static am_status list_accesses(const am_program *p, const am_segment *s, am_accesses *out)
{
    am_status st = AM_OK;
    for (int i = 0; i < s->num_ops; i++) {
        const am_prog_op *op = &s->op[i];
        for (int k = 0; k < op->num_in + op->num_out; k++) {
            const am_prog_tensor *t = k < op->num_in ? &op->in[k] : &op->out[k - op->num_in];
            if (t->value < 0) continue;
            int64_t bytes = am_tensor_elements(&t->shape) * (int64_t)am_dtype_bytes(t->shape.dtype);
            AM_TRY(add_access(out, (am_access){i, p->graph->values[t->value].root, k >= op->num_in, t->region,
                                               t->offset, t->offset + bytes}));
        }
        if (op->workspace_bytes)
            AM_TRY(add_access(out, (am_access){i, -1 - i, true, AM_REGION_ARENA, op->workspace_offset,
                                               op->workspace_offset + (int64_t)op->workspace_bytes}));
    }
done:
    return st;
}

/* reach[a·n + b]: b starts only when a is complete. */
static void edges(const am_segment *s, char *reach)
{
    int n = s->num_ops, last_compute = -1;
    for (int b = 0; b < n; b++) {
        if (s->op[b].queue == AM_QUEUE_COMPUTE && last_compute >= 0) reach[last_compute * n + b] = 1;
        for (int w = 0; w < s->op[b].num_waits; w++) {
            int target = s->op[b].wait[w];
            for (int a = 0; a <= target; a++)
                if (a == target || (s->op[a].queue == s->op[target].queue)) reach[a * n + b] = 1;
        }
        if (s->op[b].queue == AM_QUEUE_COMPUTE) last_compute = b;
        for (int a = 0; a < b; a++) /* through every predecessor m of b */
            for (int m = a + 1; m < b && !reach[a * n + b]; m++)
                reach[a * n + b] = reach[a * n + m] && reach[m * n + b];
    }
}

static bool overlap(const am_access *a, const am_access *b)
{
    return a->region == b->region && a->begin < b->end && b->begin < a->end;
}

static am_status check_order(const am_segment *s, const am_accesses *all, const char *reach)
{
    am_status st = AM_OK;
    for (size_t i = 0; i < all->n; i++)
        for (size_t j = i + 1; j < all->n; j++) {
            const am_access *a = &all->at[i], *b = &all->at[j];
            if (a->op == b->op || !(a->write || b->write) || !overlap(a, b)) continue;
            AM_CHECK(reach[a->op * s->num_ops + b->op], AM_ERR_INTERNAL,
                     "%s (operator %d) and %s (operator %d) touch the same bytes of %s in no order",
                     s->op[a->op].label, a->op, s->op[b->op].label, b->op, am_region_name(a->region));
        }
done:
    return st;
}

static am_status check_memory(const am_segment *s, const am_accesses *all)
{
    am_status st = AM_OK;
    for (size_t i = 0; i < all->n; i++) {
        const am_access *v = &all->at[i];
        if (v->region != AM_REGION_ARENA) continue;
        int first = v->op, last = v->op;
        for (size_t j = 0; j < all->n; j++)
            if (all->at[j].root == v->root && all->at[j].region == AM_REGION_ARENA) {
                if (all->at[j].op < first) first = all->at[j].op;
                if (all->at[j].op > last) last = all->at[j].op;
            }
        for (size_t j = 0; j < all->n; j++) {
            const am_access *w = &all->at[j];
            if (!w->write || w->root == v->root || w->op < first || w->op > last || !overlap(v, w)) continue;
            AM_FAIL(AM_ERR_INTERNAL, "%s (operator %d) overwrites a value that %s (operator %d) still needs",
                    s->op[w->op].label, w->op, s->op[last].label, last);
        }
    }
done:
    return st;
}

am_status am_program_check(const am_program *p)
{
    am_status st = AM_OK;
    char *reach = NULL;
    am_accesses all = {0};
    for (int k = 0; k < p->num_segments; k++) {
        const am_segment *s = &p->segment[k];
        all.n = 0;
        AM_TRY(am_calloc((size_t)s->num_ops * (size_t)s->num_ops + 1, 1, &reach));
        edges(s, reach);
        AM_TRY(list_accesses(p, s, &all));
        AM_TRY(check_order(s, &all, reach));
        AM_TRY(check_memory(s, &all));
        am_free(&reach);
    }
done:
    am_free(&reach);
    am_free(&all.at);
    return st;
}
