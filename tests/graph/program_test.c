/* program_test.c: see program_test.h. */
#include "program_test.h"

#include "graph/card.h"
#include "graph/disk.h"
#include "graph/graph_internal.h"

#include <math.h>
#include <string.h>
#include <unistd.h>

pt_shape pt_default_shape(void)
{
    return (pt_shape){.rows = 2,
                      .seq = 12,
                      .D = 24,
                      .H = 9,
                      .K = 3,
                      .d = 8,
                      .F = 40,
                      .V = 61,
                      .layers = 3,
                      .tied = true,
                      .bias = true};
}

static int param(am_graph *g, const char *name, int layer, int rank, int64_t a, int64_t b,
                 const am_dim *split, int num_split)
{
    am_param p = {.rank = rank, .dim = {a, b}, .layer = layer};
    int index = -1, value = -1;
    PT_OK(am_graph_strdup(g, name, &p.name));
    if (num_split) {
        am_layout *l = NULL;
        PT_OK(am_graph_alloc(g, sizeof *l, &l));
        memset(l, 0, sizeof *l);
        l->kind = AM_LAYOUT_PRODUCT;
        l->num_parts = num_split;
        l->size = a;
        PT_OK(am_graph_alloc(g, sizeof *l->part * (size_t)num_split, &l->part));
        for (int i = 0; i < num_split; i++) {
            am_layout *part = NULL;
            PT_OK(am_graph_alloc(g, sizeof *part, &part));
            memset(part, 0, sizeof *part);
            part->kind = AM_LAYOUT_DIM;
            part->dim = split[i];
            part->size = split[i].local;
            l->part[i] = part;
        }
        p.layout[0] = l;
    }
    PT_OK(am_graph_param(g, &p, &index, &value));
    return value;
}

static int apply(am_graph *g, const char *op, int a, int b, int c, const am_attrs *attrs)
{
    int out[AM_MAX_OUT], in[3] = {a, b, c};
    PT_OK(am_graph_apply(g, op, in, c >= 0 ? 3 : b >= 0 ? 2 : 1, attrs, out));
    return out[0];
}

static int named(am_graph *g, const char *fmt, int layer, const char *what, int at, int rank, int64_t a,
                 int64_t b)
{
    char name[64];
    snprintf(name, sizeof name, fmt, layer, what);
    return param(g, name, at, rank, a, b, NULL, 0);
}

static int norm(am_graph *g, const pt_shape *s, int x, int layer, const char *what, int64_t n)
{
    am_attrs eps = {.eps = 1e-5};
    return apply(g, "rmsnorm", x, named(g, "layers.%d.%s.weight", layer, what, layer, 1, n, 0), -1, &eps);
}

static int heads(am_graph *g, const pt_shape *s, int x, int layer, const char *what, int64_t count,
                 am_role role)
{
    char name[64];
    am_dim split[2] = {am_dim_make("H", role, count), am_dim_make("d", AM_ROLE_NONE, s->d)};
    snprintf(name, sizeof name, "layers.%d.%s.weight", layer, what);
    int w = param(g, name, layer, 2, count * s->d, s->D, split, 2);
    int b = s->bias ? named(g, "layers.%d.%s.bias", layer, what, layer, 1, count * s->d, 0) : -1;
    return apply(g, "linear", x, w, b, NULL);
}

static int attention(am_graph *g, const pt_shape *s, int h, int layer, int cos, int sin)
{
    int index, doc, out[AM_MAX_OUT];
    am_attrs a = {.scale = 1 / sqrt((double)s->d),
                  .group = s->H / s->K,
                  .window = s->alternate && layer % 2 ? 4 : s->window},
             none = {0};
    PT_OK(am_graph_input(g, "index", &index));
    PT_OK(am_graph_input(g, "doc_start", &doc));
    int q = heads(g, s, h, layer, "q_proj", s->H, AM_ROLE_HEADS),
        k = heads(g, s, h, layer, "k_proj", s->K, AM_ROLE_KV_HEADS);
    int v = heads(g, s, h, layer, "v_proj", s->K, AM_ROLE_KV_HEADS);
    q = apply(g, "rope", q, cos, sin, &none);
    k = apply(g, "rope", k, cos, sin, &none);
    PT_OK(am_graph_apply(g, "attention", (int[]){q, k, v, index, index, doc}, 6, &a, out));
    return apply(g, "linear", out[0],
                 named(g, "layers.%d.%s.weight", layer, "o_proj", layer, 2, s->D, s->H * s->d), -1, NULL);
}

static int mlp(am_graph *g, const pt_shape *s, int h, int layer)
{
    int64_t F = s->alternate && layer % 2 ? s->F / 2 : s->F;
    am_attrs act = {.act = AM_ACT_SILU};
    int gate = apply(g, "linear", h, named(g, "layers.%d.%s.weight", layer, "gate_proj", layer, 2, F, s->D),
                     -1, NULL);
    int up =
        apply(g, "linear", h, named(g, "layers.%d.%s.weight", layer, "up_proj", layer, 2, F, s->D), -1, NULL);
    int y = apply(g, "mul", apply(g, "act", gate, -1, -1, &act), up, -1, NULL);
    return apply(g, "linear", y, named(g, "layers.%d.%s.weight", layer, "down_proj", layer, 2, s->D, F), -1,
                 NULL);
}

static int layer_output(am_graph *g, const pt_shape *s, int x, int i, int cos, int sin)
{
    int h = norm(g, s, x, i, "input_norm", s->D);
    int a = attention(g, s, h, i, cos, sin);
    if (s->sandwich) a = norm(g, s, a, i, "after_attention_norm", s->D);
    if (s->parallel)
        return apply(g, "add", apply(g, "add", x, a, -1, NULL), mlp(g, s, h, i), -1,
                     NULL); /* h is used four times */
    x = apply(g, "add", x, a, -1, NULL);
    int m = mlp(g, s, norm(g, s, x, i, "mlp_norm", s->D), i);
    if (s->sandwich) m = norm(g, s, m, i, "after_mlp_norm", s->D);
    return apply(g, "add", x, m, -1, NULL);
}

am_status pt_elaborate(const char *card, const char *config, int64_t rows, int64_t seq, am_dtype compute, am_graph **g)
{
    char dir[] = "/tmp/am_made_up_XXXXXX", path[64];
    am_hf_model *model = NULL;
    am_card *c = NULL;
    assert_non_null(mkdtemp(dir));
    snprintf(path, sizeof path, "%s/config.json", dir);
    PT_OK(am_file_write_atomic(path, config, strlen(config)));
    PT_OK(am_hf_model_open(path, AM_HF_WEIGHTS_NONE, &model));
    PT_OK(am_card_parse(card, "made_up.card", NULL, &c));
    PT_OK(am_graph_create(rows, seq, compute, g));
    am_status st = am_card_elaborate(c, model, NULL, *g);
    am_card_free(&c);
    am_hf_model_free(&model);
    unlink(path);
    rmdir(dir);
    return st;
}

am_graph *pt_graph(const pt_shape *s, am_dtype compute)
{
    am_graph *g = NULL;
    int ids, pos, table, out[AM_MAX_OUT];
    double inv[32];
    if (s->card) {
        PT_OK(pt_elaborate(s->card, s->config, s->rows, s->seq, compute, &g));
        return g;
    }
    PT_OK(am_graph_create(s->rows, s->seq, compute, &g));
    if (s->extra) PT_OK(am_graph_register_op(g, s->extra));
    am_graph_set_layers(g, s->layers);
    am_graph_at(g, -1, 1, 1);
    for (int64_t i = 0; i < s->d / 2; i++) inv[i] = pow(10000, -2.0 * (double)i / (double)s->d);
    PT_OK(am_graph_input(g, "ids", &ids));
    PT_OK(am_graph_input(g, "pos", &pos));
    PT_OK(am_graph_constant(g, "inv_freq", inv, s->d / 2, &table));
    int embed = param(g, "embed.weight", -1, 2, s->V, s->D, NULL, 0);
    int x = apply(g, "embed", ids, embed, -1, NULL);
    PT_OK(am_graph_apply(g, "rope_angles", (int[]){pos, table}, 2, NULL, out));
    int cos = out[0], sin = out[1];
    for (int i = 0; i < s->layers; i++) {
        am_graph_at(g, i, 2 + i, 1);
        x = layer_output(g, s, x, i, cos, sin);
        if (s->extra) x = apply(g, s->extra->name, x, -1, -1, NULL);
    }
    am_graph_at(g, s->layers, 90, 1);
    x = norm(g, s, x, s->layers, "final_norm", s->D);
    int head = s->tied ? embed : param(g, "head.weight", s->layers, 2, s->V, s->D, NULL, 0);
    PT_OK(am_graph_set_logits(g, apply(g, "linear", x, head, -1, NULL)));
    return g;
}

double pt_weight(const char *name, int64_t i)
{
    uint64_t stream = am_hash64(name, strlen(name), 1);
    double u = (double)(am_random_u64(1234, stream, (uint64_t)i) >> 11) * 0x1p-53 - 0.5;
    return strstr(name, "norm") ? 1 + 0.5 * u : 0.6 * u;
}

/* The weights of a parameter's elements here: of one that is cut, those of its tensor that it stands for. */
static void weights_of(const am_param *p, int64_t n, double *out)
{
    am_disk_map map = {0};
    if (p->cut_of) PT_OK(am_disk_map_open(p, &map));
    for (int64_t i = 0; i < n; i++) out[i] = pt_weight(p->name, p->cut_of ? am_disk_map_element(&map, i) : i);
    am_disk_map_close(&map);
}

void pt_write_weights(pt_run *r)
{
    const am_program *p = r->program[0];
    for (int u = 0; u < p->store.num_units; u++) {
        const am_unit *unit = &p->store.unit[u];
        double *data = calloc((size_t)unit->shard_elements, sizeof *data);
        for (int e = 0; e < unit->num_entries; e++) {
            const int64_t n = unit->entry[e].count;
            double *weights = calloc((size_t)n, sizeof *weights);
            weights_of(&p->graph->params[unit->entry[e].param], n, weights);
            for (int64_t i = 0; i < n; i++) {
                int64_t at = unit->entry[e].offset + i - unit->shard_begin;
                if (at >= 0 && at < unit->shard_elements) data[at] = weights[i];
            }
            free(weights);
        }
        void *raw = calloc((size_t)unit->shard_elements, 8);
        PT_OK(am_convert(data, AM_F64, raw, p->store.dtype, unit->shard_elements));
        PT_OK(am_exec_write_slot(r->exec, u, 0, 0, unit->shard_elements, raw));
        free(data);
        free(raw);
    }
}

void pt_create(pt_run *r, const pt_shape *s, am_dtype compute, const am_program_options *options, int num,
               const char *device, am_comm *comm, const am_exec_options *exec_options)
{
    memset(r, 0, sizeof *r);
    r->shape = *s;
    r->comm = comm;
    r->num_programs = num;
    PT_OK(am_comm_set_mesh(comm, &options[0].mesh));
    PT_OK(am_device_create(device, options[0].threads, &r->device));
    for (int i = 0; i < num; i++) {
        am_graph *g = pt_graph(s, compute);
        am_program_options o = options[i];
        o.rank = am_comm_rank(comm);
        PT_OK(am_program_compile(&g, &o, &r->program[i]));
        PT_OK(am_program_check(r->program[i]));
    }
    PT_OK(am_exec_create(r->device, comm, r->program, num, exec_options, &r->exec));
    r->global_rows_offset = s->rows * am_mesh_group_index(&options[0].mesh, AM_GROUP_DP, am_comm_rank(comm));
    r->rows_per_step = s->rows * am_mesh_group_size(&options[0].mesh, AM_GROUP_DP);
    pt_write_weights(r);
}

void pt_free(pt_run *r)
{
    am_exec_free(&r->exec);
    for (int i = 0; i < r->num_programs; i++) am_program_free(&r->program[i]);
    am_device_free(&r->device);
}

typedef struct feed_context {
    pt_run *r;
    int step;
} feed_context;

/* Row `row` of the global batch: tokens, two documents, some labels ignored. */
static void make_row(const pt_shape *s, int step, int64_t row, int32_t *ids, int32_t *labels, int32_t *pos,
                     int32_t *doc)
{
    int32_t cut = (int32_t)(3 + (row * 5 + step) % (s->seq - 4));
    for (int64_t t = 0; t < s->seq; t++) {
        uint64_t x = am_random_u64(99, (uint64_t)(step * 1000 + row), (uint64_t)t);
        ids[t] = (int32_t)(x % (uint64_t)s->V);
        labels[t] =
            x % 5 == 0 || t == s->seq - 1 || t == cut - 1 ? -100 : (int32_t)((x >> 8) % (uint64_t)s->V);
        doc[t] = t < cut ? 0 : cut;
        pos[t] = (int32_t)t - doc[t];
    }
}

static am_status feed(void *context, am_exec *e, int program, int micro, int frame, int64_t *tokens)
{
    feed_context *f = context;
    const pt_shape *s = &f->r->shape;
    am_status st = AM_OK;
    int32_t buffer[5][4096];
    for (int64_t b = 0; b < s->rows; b++) {
        int64_t at = b * s->seq, row = micro * f->r->rows_per_step + f->r->global_rows_offset + b;
        make_row(s, f->step, row, buffer[0] + at, buffer[1] + at, buffer[2] + at, buffer[3] + at);
        for (int64_t t = 0; t < s->seq; t++) {
            buffer[3][at + t] += (int32_t)at;
            buffer[4][at + t] = (int32_t)(at + t);
        }
    }
    int64_t n = s->rows * s->seq;
    *tokens = n;
    AM_TRY(am_exec_write_input(e, program, frame, "ids", buffer[0], n));
    AM_TRY(am_exec_write_input(e, program, frame, "labels", buffer[1], n));
    AM_TRY(am_exec_write_input(e, program, frame, "pos", buffer[2], n));
    AM_TRY(am_exec_write_input(e, program, frame, "doc_start", buffer[3], n));
    AM_TRY(am_exec_write_input(e, program, frame, "index", buffer[4], n));
done:
    return st;
}

/* Supervised targets of the global step. */
static int64_t step_targets(const pt_run *r, int step, int micro_batches)
{
    int32_t row[4][4096];
    int64_t n = 0;
    for (int64_t b = 0; b < r->rows_per_step * micro_batches; b++) {
        make_row(&r->shape, step, b, row[0], row[1], row[2], row[3]);
        for (int64_t t = 0; t < r->shape.seq; t++) n += row[1][t] >= 0;
    }
    return n;
}

double pt_step(pt_run *r, int program, int step, double lr, double max_norm)
{
    feed_context f = {.r = r, .step = step};
    double sum = 0, all[64], total = 0;
    int64_t n = step_targets(r, step, r->program[program]->options.micro_batches);
    PT_OK(am_exec_set_scalar(r->exec, AM_SCALAR_LR, lr));
    PT_OK(am_exec_set_scalar(r->exec, AM_SCALAR_STEP, step + 1));
    PT_OK(am_exec_set_scalar(r->exec, AM_SCALAR_INV_N, 1.0 / (double)n));
    PT_OK(am_exec_set_scalar(r->exec, AM_SCALAR_MAX_NORM, max_norm));
    PT_OK(am_exec_set_scalar(r->exec, AM_SCALAR_LOSS_SUM, 0));
    PT_OK(am_exec_set_scalar(r->exec, AM_SCALAR_LOSS_COUNT, 0));
    PT_OK(am_exec_run(r->exec, program, feed, &f));
    PT_OK(am_exec_get_scalar(r->exec, AM_SCALAR_LOSS_SUM, &sum));
    PT_OK(am_comm_allgather(r->comm, &sum, sizeof sum, all));
    for (int i = 0; i < am_comm_size(r->comm); i += (int)r->program[program]->options.mesh.size[AM_MESH_TP]) total += all[i];
    return total / (double)n;
}

/* All ranks' shards of a unit put together (dp_replicate copies are equal; dp_shard pieces in order). */
static double *gather_unit(pt_run *r, int program, int unit, int role, bool gradient)
{
    const am_program *p = r->program[program];
    const am_unit *u = &p->store.unit[unit];
    size_t size = am_dtype_bytes(p->store.dtype), shard = (size_t)u->shard_elements * size;
    char *mine = malloc(shard), *all = malloc(shard * (size_t)am_comm_size(r->comm)),
         *whole = malloc((size_t)u->elements * size);
    double *out = malloc((size_t)u->elements * sizeof *out);
    if (gradient)
        PT_OK(am_exec_read_gradient(r->exec, program, unit, 0, u->shard_elements, mine));
    else
        PT_OK(am_exec_read_slot(r->exec, unit, role, 0, u->shard_elements, mine));
    PT_OK(am_comm_allgather(r->comm, mine, shard, all));
    for (int rank = 0; rank < am_comm_size(r->comm); rank++) {
        int64_t index = am_mesh_group_index(&p->options.mesh, AM_GROUP_DP_SHARD, rank);
        memcpy(whole + (size_t)index * shard, all + (size_t)rank * shard, shard);
    }
    PT_OK(am_convert(whole, p->store.dtype, out, AM_F64, u->elements));
    free(mine);
    free(all);
    free(whole);
    return out;
}

static double *gather(pt_run *r, int program, int param, int role, bool gradient, int64_t *n)
{
    int unit;
    int64_t offset = 0;
    am_program_locate(r->program[program], param, &unit, &offset);
    double *all = gather_unit(r, program, unit, role, gradient);
    *n = am_param_elements(&r->program[program]->graph->params[param]);
    memmove(all, all + offset, (size_t)*n * sizeof *all);
    return all;
}

double *pt_gather_param(pt_run *r, int program, int param, int role, int64_t *n)
{
    return gather(r, program, param, role, false, n);
}
double *pt_gather_grad(pt_run *r, int program, int param, int64_t *n)
{
    return gather(r, program, param, 0, true, n);
}

static void nudge(pt_run *r, int param, int64_t i, double by)
{
    int unit;
    int64_t offset = 0;
    double w = 0;
    am_program_locate(r->program[0], param, &unit, &offset);
    PT_OK(am_exec_read_slot(r->exec, unit, 0, offset + i, 1, &w));
    w += by;
    PT_OK(am_exec_write_slot(r->exec, unit, 0, offset + i, 1, &w));
}

/* A step of 1e-5 leaves an error of about h²·f''' + eps/h ≈ 1e-10; losses are of order 1, gradients of order
 * 1e-3 … 1. */
void pt_check_gradients(const pt_shape *s, const am_program_options *verify, am_comm *comm, int samples)
{
    pt_run r;
    am_program_options o[2] = {*verify, am_program_defaults(AM_PROGRAM_EVAL)};
    o[1].micro_batches = verify->micro_batches;
    o[1].freeze = verify->freeze;
    o[1].num_freeze = verify->num_freeze;
    pt_create(&r, s, AM_F64, o, 2, "cpu", comm, NULL);
    pt_step(&r, 0, 0, 0, 0);
    for (int p = 0; p < am_graph_num_params(r.program[0]->graph); p++) {
        const am_param *param = am_graph_param_at(r.program[0]->graph, p);
        int64_t n;
        if (!param->trainable) continue;
        double *grad = pt_gather_grad(&r, 0, p, &n), h = 1e-5;
        for (int k = 0; k < samples; k++) {
            int64_t i = (int64_t)(am_random_u64(5, (uint64_t)p, (uint64_t)k) % (uint64_t)n);
            nudge(&r, p, i, h);
            double up = pt_step(&r, 1, 0, 0, 0);
            nudge(&r, p, i, -2 * h);
            double down = pt_step(&r, 1, 0, 0, 0);
            nudge(&r, p, i, h);
            double expected = (up - down) / (2 * h);
            if (fabs(grad[i] - expected) > 1e-8 + 1e-6 * fabs(expected))
                fail_msg("%s[%ld]: gradient %.12g, difference quotient %.12g", param->name, (long)i, grad[i],
                         expected);
        }
        free(grad);
    }
    pt_free(&r);
}
