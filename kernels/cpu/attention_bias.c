/* attention_bias: operands of attention that are added to scores or stand beside them: how they are checked, what
 * is made of them before the tiles (numbers of a head as f32, a table by distance), the sum of a table's gradient,
 * and the gradient of sinks. */
#include "attention.h"

#include <math.h>

const am_tensor *am_attention_operand(const am_kernel_call *c, int i)
{
    return i < c->num_in && c->in[i].rank > 0 ? &c->in[i] : NULL;
}

void am_attention_bias_operands(const am_kernel_call *c, int first, am_att *t)
{
    t->slopes = am_attention_operand(c, first);
    t->bias = am_attention_operand(c, first + 1);
    t->buckets = am_attention_operand(c, first + 2);
    t->keys = am_attention_operand(c, first + 3);
    t->biased = t->slopes || t->bias || t->keys;
    if (!t->bias) return;
    t->num_buckets = t->bias->dim[t->bias->rank - 1];
    t->reach = t->buckets ? t->buckets->dim[0] : t->num_buckets;
}

static bool is_table(const am_att *t)
{
    return t->bias && t->bias->rank == 2;
}

am_status am_attention_take_bias(const am_kernel_call *c, int first, const char *op, am_att *t)
{
    am_status st = AM_OK;
    am_attention_bias_operands(c, first, t);
    const am_tensor *b = t->bias, *k = t->keys;
    AM_CHECK(!k || (k->dtype == AM_I32 && k->rank == 3 && k->dim[0] == t->nq &&
                    (k->dim[1] == 1 || k->dim[1] == t->kv_heads)),
             AM_ERR_SHAPE, "kernel %s: keys must be integers [%" PRId64 ", 1 or %" PRId64 ", any number]", op, t->nq,
             t->kv_heads);
    AM_CHECK(b || !t->buckets, AM_ERR_SHAPE, "kernel %s: buckets without a table of biases", op);
    if (!b) goto done;
    bool own = b->rank == 3 && b->dim[0] == t->nq && b->dim[1] == t->heads && b->dtype == t->real;
    AM_CHECK((is_table(t) && b->dim[0] == t->heads) || (own && !t->buckets), AM_ERR_SHAPE,
             "kernel %s: bias must be a table [%" PRId64 ", distances or buckets] or numbers of the queries [%" PRId64
             ", %" PRId64 ", distances] of the compute dtype without buckets; it is %s of rank %d",
             op, t->heads, t->nq, t->heads, am_dtype_name(b->dtype), b->rank);
    AM_CHECK(t->reach > 0 && t->num_buckets > 0, AM_ERR_SHAPE, "kernel %s: bias of no distance", op);
    for (int64_t i = 0; t->buckets && i < t->reach; i++)
        AM_CHECK(am_att_number(t->buckets, i) >= 0 && am_att_number(t->buckets, i) < (float)t->num_buckets,
                 AM_ERR_SHAPE, "kernel %s: distance %" PRId64 " is of bucket %g, the table has %" PRId64, op, i,
                 (double)am_att_number(t->buckets, i), t->num_buckets);
done:
    return st;
}

am_status am_attention_take_dbias(const am_kernel_call *c, am_att *t)
{
    am_status st = AM_OK;
    if (c->num_out < 4 || c->out[3].rank == 0) goto done;
    AM_CHECK(t->bias && am_tensor_elements(&c->out[3]) == am_tensor_elements(t->bias) &&
                 c->out[3].dtype == (is_table(t) ? am_cpu_wide(t->real) : t->real),
             AM_ERR_SHAPE, "kernel attention_bwd: dbias has not the shape and type of bias' gradient");
    t->dbias = c->out[3].data;
    t->add_dbias = c->accumulate;
done:
    return st;
}

void am_attention_carve_bias(am_bump *b, am_att *t, int64_t query_tiles, bool backward)
{
    if (t->sinks) t->sink = am_bump_take(b, (size_t)t->heads * 4);
    if (t->slopes) t->slope = am_bump_take(b, (size_t)t->heads * 4);
    if (!is_table(t)) return;
    t->profile = am_bump_take(b, (size_t)(t->heads * t->reach) * 4);
    if (t->buckets) t->bucket = am_bump_take(b, (size_t)t->reach * 4);
    if (backward) t->dtable = am_bump_take(b, (size_t)(query_tiles * t->heads * t->num_buckets) * 8);
}

void am_attention_read_bias(const am_att *t)
{
    for (int64_t h = 0; t->sink && h < t->heads; h++) t->sink[h] = am_att_number(t->sinks, h);
    for (int64_t h = 0; t->slope && h < t->heads; h++) {
        float slope = am_att_number(t->slopes, h);
        t->slope[h] = t->alibi_rounded ? am_bf16_to_f32(am_f32_to_bf16(slope)) : slope;
    }
    for (int64_t i = 0; t->bucket && i < t->reach; i++) t->bucket[i] = (int32_t)am_att_number(t->buckets, i);
    for (int64_t at = 0; t->profile && at < t->heads * t->reach; at++)
        t->profile[at] =
            am_att_number(t->bias, at / t->reach * t->num_buckets + am_att_bucket(t, at % t->reach));
}

void am_attention_sum_table(const am_att *t, int64_t query_tiles, int64_t head)
{
    for (int64_t i = 0; i < t->num_buckets; i++) {
        float *out = (float *)t->dbias + head * t->num_buckets + i;
        double sum = 0;
        for (int64_t tile = 0; tile < query_tiles; tile++)
            sum += t->dtable[(tile * t->heads + head) * t->num_buckets + i];
        *out = (t->add_dbias ? *out : 0.0f) + (float)sum;
    }
}

/* ---- sinks ------------------------------------------------------------------------------------- */

static double number(const am_tensor *x, int64_t i)
{
    return x->dtype == AM_F64 ? ((const double *)x->data)[i] : (double)am_att_number(x, i);
}

/* A sink is a key without value: of what arrives at a probability, −Σ do·o is its share.  Tokens in order. */
static void sinks_of(const am_kernel_call *c, int64_t begin, int64_t end)
{
    const am_tensor *g = &c->in[0], *o = &c->in[1], *lse = &c->in[2];
    int64_t n = g->dim[0], heads = g->dim[1], dv = g->dim[2];
    for (int64_t h = begin; h < end; h++) {
        double sink = number(&c->in[3], h), sum = 0;
        for (int64_t i = 0; i < n; i++) {
            int64_t at = i * heads + h;
            double dot = 0;
            for (int64_t e = at * dv; e < (at + 1) * dv; e++) dot += number(g, e) * number(o, e);
            sum -= dot * exp(sink - number(lse, at));
        }
        if (c->out[0].dtype == AM_F64)
            ((double *)c->out[0].data)[h] = sum + (c->accumulate ? ((double *)c->out[0].data)[h] : 0);
        else
            ((float *)c->out[0].data)[h] = (float)sum + (c->accumulate ? ((float *)c->out[0].data)[h] : 0);
    }
}

static am_status run_sinks(const am_kernel_call *c, am_dtype real)
{
    am_status st = AM_OK;
    am_cpu_dims n;
    AM_TRY(am_cpu_check(c, "attention_dsinks", "do:r[N,H,e] o:r[N,H,e] lse:w[N,H] sinks:p[H] + > dsinks:w[H]", real,
                        &n));
    am_cpu_for(c, n.of['H'], 1, n.of['N'] * n.of['e'] * 8, sinks_of);
done:
    return st;
}

AM_CPU_ROW(attention_dsinks, run_sinks, NULL);
