/* bench_experts.c: products by expert beside one product of the same FLOPs: what sorting rows by expert costs
 * the kernels. The slots are shared out unevenly, as a router does it: half of the experts get three quarters
 * of them. */
#include "train/bench.h"


#define TRY_SECONDS 0.5

typedef struct shape {
    int64_t tokens, slots, experts, in, out; /* slots of a token */
} shape;

/* few wide experts; many narrow ones; many, with few rows each */
static const shape shapes[] = {{2048, 2, 8, 1024, 2048}, {2048, 8, 64, 1024, 512}, {512, 8, 128, 1024, 384}};
enum { NUM_SHAPES = sizeof shapes / sizeof *shapes };

static const char *const grouped[] = {"grouped_linear", "grouped_linear_dx", "grouped_linear_dw"};
static const char *const dense[] = {"linear", "linear_dx", "linear_dw"};

typedef struct buffers {
    void *data[4]; /* x, w, dy, result */
    int32_t *offsets;
} buffers;

static am_status make_buffers(const shape *s, am_dtype t, buffers *b)
{
    am_status st = AM_OK;
    const int64_t rows = s->tokens * s->slots,
                  sizes[] = {rows * s->in, s->experts * s->out * s->in, rows * s->out};
    int64_t most = 0;
    for (int i = 0; i < 3; i++) {
        AM_TRY(am_calloc((size_t)sizes[i], am_dtype_bytes(t), &b->data[i]));
        for (int64_t k = 0; k < sizes[i]; k++) {
            float x = (float)((double)am_random_u64(1, (uint64_t)i, (uint64_t)k) / 0x1p64 - 0.5);
            if (t == AM_BF16)
                ((uint16_t *)b->data[i])[k] = am_f32_to_bf16(x);
            else
                ((float *)b->data[i])[k] = x;
        }
        most = am_max_i64(most, sizes[i]);
    }
    AM_TRY(am_calloc((size_t)most, sizeof(float), &b->data[3]));
    AM_TRY(am_calloc((size_t)s->experts + 1, sizeof *b->offsets, &b->offsets));
    for (int64_t e = 0; e < s->experts; e++) {
        int64_t begin =
            rows * (e % 2 ? 3 + 4 * (e / 2) : 4 * (e / 2)) / (2 * s->experts); /* 3, 1, 3, 1, … parts */
        b->offsets[e] = (int32_t)begin;
    }
    b->offsets[s->experts] = (int32_t)rows;
done:
    return st;
}

static void free_buffers(buffers *b)
{
    for (int i = 0; i < 4; i++) am_free(&b->data[i]);
    am_free(&b->offsets);
}

/* kind: y, dx, dw; experts 0: one product of all rows */
static am_kernel_call make_call(const shape *s, const buffers *b, am_dtype t, int kind, bool by_expert)
{
    const int64_t rows = s->tokens * s->slots;
    const am_tensor x = {b->data[0], t, 2, {rows, s->in}}, dy = {b->data[2], t, 2, {rows, s->out}};
    am_tensor w = {b->data[1], t, 2, {s->out, s->in}}, dw = {b->data[3], AM_F32, 2, {s->out, s->in}};
    if (by_expert) {
        w = (am_tensor){b->data[1], t, 3, {s->experts, s->out, s->in}};
        dw = (am_tensor){b->data[3], AM_F32, 3, {s->experts, s->out, s->in}};
    }
    am_kernel_call c = {.num_in = by_expert ? 3 : 2, .num_out = 1};
    c.in[0] = kind == 0 ? x : dy;
    c.in[1] = kind == 2 ? x : w;
    if (by_expert) c.in[2] = (am_tensor){b->offsets, AM_I32, 1, {s->experts + 1}};
    c.out[0] = dw;
    if (kind < 2) c.out[0] = (am_tensor){b->data[3], t, 2, {rows, kind == 0 ? s->out : s->in}};
    return c;
}

static am_status measure(const am_device *d, const char *op, am_kernel_call *call, am_dtype t, double flops,
                         double *best)
{
    am_status st = AM_OK;
    void *workspace = NULL;
    const am_kernel *k = am_device_kernel(d, op);
    static const am_attrs none;
    AM_ASSERT(k);
    call->attrs = &none;
    call->threads = am_device_threads(d);
    call->workspace_bytes = k->workspace ? k->workspace(call) : 0;
    AM_TRY(am_calloc(call->workspace_bytes + 64, 1, &workspace));
    call->workspace = (char *)workspace + (-(uintptr_t)workspace & 63);
    *best = 0;
    for (double end = am_now() + TRY_SECONDS, begin; (begin = am_now()) < end;) {
        AM_TRY((t == AM_BF16 ? k->bf16 : k->f32)(call));
        double rate = flops / (am_now() - begin);
        if (rate > *best) *best = rate;
    }
done:
    am_free(&workspace);
    return st;
}

am_status am_bench_experts(const am_device *d, am_dtype compute, am_expert_rate *rows, int *num)
{
    am_status st = AM_OK;
    buffers b = {0};
    *num = 0;
    for (int i = 0; i < NUM_SHAPES; i++) {
        const shape *s = &shapes[i];
        const double flops = 2.0 * (double)(s->tokens * s->slots) * (double)s->in * (double)s->out;
        AM_TRY(make_buffers(s, compute, &b));
        for (int kind = 0; kind < 3; kind++) {
            am_expert_rate *r = &rows[(*num)++];
            *r = (am_expert_rate){.op = grouped[kind],
                                  .tokens = s->tokens,
                                  .slots = s->slots,
                                  .experts = s->experts,
                                  .in = s->in,
                                  .out = s->out};
            am_kernel_call by_expert = make_call(s, &b, compute, kind, true),
                           at_once = make_call(s, &b, compute, kind, false);
            AM_TRY(measure(d, grouped[kind], &by_expert, compute, flops, &r->grouped));
            AM_TRY(measure(d, dense[kind], &at_once, compute, flops, &r->dense));
        }
        free_buffers(&b);
    }
done:
    free_buffers(&b);
    return st;
}

void am_bench_print_experts(const am_expert_rate *rows, int num, am_dtype compute, int threads)
{
    printf("products by expert, %s, %d threads\n", am_dtype_name(compute), threads);
    printf("%-18s %7s %6s %8s %6s %6s %10s %10s %6s\n", "operator", "tokens", "slots", "experts", "in", "out",
           "GFLOP/s", "at once", "of it");
    for (int i = 0; i < num; i++) {
        const am_expert_rate *r = &rows[i];
        printf("%-18s %7" PRId64 " %6" PRId64 " %8" PRId64 " %6" PRId64 " %6" PRId64
               " %10.1f %10.1f %5.0f%%\n",
               r->op, r->tokens, r->slots, r->experts, r->in, r->out, r->grouped / 1e9, r->dense / 1e9,
               100 * r->grouped / r->dense);
    }
}

void am_bench_json_experts(const am_expert_rate *rows, int num)
{
    printf("[");
    for (int i = 0; i < num; i++) {
        const am_expert_rate *r = &rows[i];
        printf("%s{\"operator\": \"%s\", \"tokens\": %" PRId64 ", \"slots\": %" PRId64
               ", \"experts\": %" PRId64 ", \"in\": %" PRId64 ", \"out\": %" PRId64
               ", \"flops_per_second\": %.6g, \"at_once\": %.6g}",
               i ? ", " : "", r->op, r->tokens, r->slots, r->experts, r->in, r->out, r->grouped, r->dense);
    }
    printf("]\n");
}
