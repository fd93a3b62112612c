/* WALLS 1: a parameter is not its memory.  On golden models through their cards:
 *   - freezing *mlp* takes away exactly the slots and operators of those parameters: moments (STORE), gradients
 *     (STEP), what only their gradients read (FRAME), linear_dw and their share of adamw; everybody else's
 *     gradient and update keep their bits;
 *   - a tied head is one parameter with two uses: one entry of the store. */
#include "../graph/program_test.h"

#include "ckpt/ckpt.h"
#include "graph/model.h"

#include <string.h>

enum { ROWS = 2, LENGTH = 24, N = ROWS * LENGTH };
static am_comm *comm;

static const char *const MLP[] = {"*mlp*"};

static am_model *open_model(const char *name)
{
    char path[512];
    am_model *m = NULL;
    const char *source = getenv("AM_SOURCE_DIR");
    snprintf(path, sizeof path, "%s/tests/golden/%s", source ? source : ".", name);
    PT_OK(am_model_open(path, AM_HF_WEIGHTS_REQUIRED, NULL, NULL, 0, &m));
    return m;
}

static am_program_options options(am_program_kind kind, const char *const *freeze, int num_freeze)
{
    am_program_options o = am_program_defaults(kind);
    o.freeze = freeze;
    o.num_freeze = num_freeze;
    return o;
}

/* TRAIN and VERIFY over one store, weights loaded. */
static void create(pt_run *r, const am_model *m, const char *const *freeze, int num_freeze)
{
    static const am_program_kind kinds[] = {AM_PROGRAM_TRAIN, AM_PROGRAM_VERIFY};
    memset(r, 0, sizeof *r);
    r->comm = comm;
    r->num_programs = 2;
    for (int i = 0; i < 2; i++) {
        am_graph *g = NULL;
        am_program_options o = options(kinds[i], freeze, num_freeze);
        PT_OK(am_comm_set_mesh(comm, &o.mesh));
        PT_OK(am_model_graph(m, ROWS, LENGTH, AM_F32, &g));
        PT_OK(am_program_compile(&g, &o, &r->program[i]));
        PT_OK(am_program_check(r->program[i]));
    }
    PT_OK(am_device_create("cpu", 1, &r->device));
    PT_OK(am_exec_create(r->device, comm, r->program, 2, NULL, &r->exec));
    PT_OK(am_ckpt_load_model(r->exec, r->program[0], m->hf));
}

static am_status feed(void *context, am_exec *e, int program, int micro, int frame, int64_t *tokens)
{
    am_status st = AM_OK;
    static const char *const names[] = {"ids", "labels", "pos", "doc_start", "index"};
    int32_t in[5][N];
    for (int i = 0; i < N; i++) {
        in[0][i] = (int32_t)(am_random_u64(5, 0, (uint64_t)i) % 128);
        in[1][i] = (int32_t)(am_random_u64(5, 1, (uint64_t)i) % 128);
        in[2][i] = i % LENGTH;
        in[3][i] = i / LENGTH * LENGTH;
        in[4][i] = i;
    }
    *tokens = N;
    for (int i = 0; i < 5; i++) AM_TRY(am_exec_write_input(e, program, frame, names[i], in[i], N));
done:
    return st;
}

static void run(pt_run *r, int program)
{
    PT_OK(am_exec_set_scalar(r->exec, AM_SCALAR_LR, 1e-2));
    PT_OK(am_exec_set_scalar(r->exec, AM_SCALAR_STEP, 1));
    PT_OK(am_exec_set_scalar(r->exec, AM_SCALAR_INV_N, 1.0 / N));
    PT_OK(am_exec_set_scalar(r->exec, AM_SCALAR_MAX_NORM,
                             0)); /* the norm is of fewer gradients, and clipping would carry that to all */
    PT_OK(am_exec_run(r->exec, program, feed, NULL));
}

static int count_ops(const am_program *p, const char *name)
{
    int n = 0;
    for (int k = 0; k < p->num_segments; k++)
        for (int i = 0; i < p->segment[k].num_ops; i++) n += strcmp(p->segment[k].op[i].def->name, name) == 0;
    return n;
}

/* Elements that AdamW works on. */
static int64_t updated(const am_program *p)
{
    int64_t n = 0;
    for (int k = 0; k < p->num_segments; k++)
        for (int i = 0; i < p->segment[k].num_ops; i++)
            if (strcmp(p->segment[k].op[i].def->name, "adamw") == 0) n += p->segment[k].op[i].attrs.count;
    return n;
}

static const am_unit *unit_of(const am_program *p, int param)
{
    int unit = -1;
    int64_t offset = 0;
    am_program_locate(p, param, &unit, &offset);
    return &p->store.unit[unit];
}

static bool is_mlp(const am_param *p)
{
    return strstr(p->name, ".mlp.") != NULL;
}

static void test_parameters__freezing_takes_away_exactly(void **state)
{
    am_model *m = open_model("llama");
    pt_run plain, frozen;
    create(&plain, m, NULL, 0);
    create(&frozen, m, MLP, 1);
    int64_t mlp = 0, elements = 0, D = 48, F = 64, layers = 2;
    int count = 0;
    for (int p = 0; p < am_graph_num_params(frozen.program[0]->graph); p++) {
        const am_param *x = am_graph_param_at(frozen.program[0]->graph, p);
        const am_unit *u = unit_of(frozen.program[0], p);
        assert_int_equal(x->trainable, !is_mlp(x));
        assert_int_equal(u->trainable, x->trainable);
        assert_int_equal(u->store_m >= 0, x->trainable);
        assert_int_equal(u->store_v >= 0, x->trainable);
        elements += am_param_elements(x);
        if (!is_mlp(x)) continue;
        mlp += am_param_elements(x);
        count++;
    }
    assert_int_equal(count, 3 * layers);
    assert_int_equal(mlp, 3 * layers * D * F); /* multiples of 256 each: no padding in between */
    for (int i = 0; i < 2; i++) {
        const am_program *a = plain.program[i], *b = frozen.program[i];
        assert_int_equal(a->region_bytes[AM_REGION_STORE] - b->region_bytes[AM_REGION_STORE], 2 * 4 * mlp);
        assert_int_equal(a->region_bytes[AM_REGION_STEP] - b->region_bytes[AM_REGION_STEP], 4 * mlp);
        /* the feed-forward's input and what enters down_proj were kept for gradients of weights alone */
        assert_int_equal(a->region_bytes[AM_REGION_FRAME] - b->region_bytes[AM_REGION_FRAME],
                         layers * N * (D + F) * 4);
        assert_true(b->region_bytes[AM_REGION_ARENA] <= a->region_bytes[AM_REGION_ARENA]);
        assert_int_equal(count_ops(a, "linear_dw"), 7 * layers);
        assert_int_equal(count_ops(b, "linear_dw"), 4 * layers);
        assert_int_equal(count_ops(a, "linear_dx"), count_ops(b, "linear_dx"));
    }
    assert_int_equal(updated(plain.program[0]) - updated(frozen.program[0]), mlp);
    assert_true(updated(plain.program[0]) >= elements);
    pt_free(&plain);
    pt_free(&frozen);
    am_model_free(&m);
}

static void compare(double *a, double *b, int64_t n, bool equal, const char *name, const char *what)
{
    bool same = memcmp(a, b, (size_t)n * sizeof *a) == 0;
    if (same != equal) fail_msg("%s of %s %s", what, name, equal ? "differs" : "did not change");
    free(a);
    free(b);
}

static void test_parameters__others_keep_their_bits(void **state)
{
    am_model *m = open_model("llama");
    pt_run plain, frozen;
    create(&plain, m, NULL, 0);
    create(&frozen, m, MLP, 1);
    run(&plain, 1);
    run(&frozen, 1);
    int params = am_graph_num_params(plain.program[0]->graph);
    int64_t n = 0;
    for (int p = 0; p < params; p++) {
        const am_param *x = am_graph_param_at(plain.program[0]->graph, p);
        if (is_mlp(x)) continue;
        double *a = pt_gather_grad(&plain, 1, p, &n), *b = pt_gather_grad(&frozen, 1, p, &n);
        compare(a, b, n, true, x->name, "the gradient");
    }
    double *before[64];
    assert_in_range(params, 1, 64);
    for (int p = 0; p < params; p++) before[p] = pt_gather_param(&frozen, 0, p, 0, &n);
    run(&plain, 0);
    run(&frozen, 0);
    for (int p = 0; p < params; p++) {
        const am_param *x = am_graph_param_at(plain.program[0]->graph, p);
        double *a = pt_gather_param(&plain, 0, p, 0, &n), *b = pt_gather_param(&frozen, 0, p, 0, &n),
               *copy = malloc((size_t)n * sizeof *b);
        memcpy(copy, b, (size_t)n * sizeof *b);
        compare(a, copy, n, !is_mlp(x), x->name, "the update");
        compare(before[p], b, n, is_mlp(x), x->name, "the weight");
    }
    pt_free(&plain);
    pt_free(&frozen);
    am_model_free(&m);
}

static void test_parameters__tied_head_is_one(void **state)
{
    static const char *const embedding[] = {"*embed_tokens*"};
    am_model *m = open_model("llama_rope3_tied");
    pt_run plain, frozen;
    create(&plain, m, NULL, 0);
    create(&frozen, m, embedding, 1);
    const am_program *p = plain.program[0];
    int tables = 0, entries = 0;
    for (int i = 0; i < am_graph_num_params(p->graph); i++) {
        const am_param *x = am_graph_param_at(p->graph, i);
        if (!strstr(x->name, "embed_tokens") && !strstr(x->name, "lm_head")) {
            assert_int_equal(x->uses, 1);
            continue;
        }
        tables++;
        assert_string_equal(x->name, "model.embed_tokens.weight");
        assert_int_equal(x->uses, 2);
        for (int u = 0; u < p->store.num_units; u++)
            for (int e = 0; e < p->store.unit[u].num_entries; e++)
                entries += p->store.unit[u].entry[e].param == i;
    }
    assert_int_equal(tables, 1);
    assert_int_equal(entries, 1);
    assert_int_equal(count_ops(p, "embed_dw"), 1);
    assert_int_equal(count_ops(frozen.program[0], "embed_dw"), 0);
    int64_t table = 128 * 72;
    assert_int_equal(p->region_bytes[AM_REGION_STORE] - frozen.program[0]->region_bytes[AM_REGION_STORE],
                     2 * 4 * table);
    assert_int_equal(p->region_bytes[AM_REGION_STEP] - frozen.program[0]->region_bytes[AM_REGION_STEP],
                     4 * table);
    pt_free(&plain);
    pt_free(&frozen);
    am_model_free(&m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_parameters__freezing_takes_away_exactly),
        cmocka_unit_test(test_parameters__others_keep_their_bits),
        cmocka_unit_test(test_parameters__tied_head_is_one),
    };
    am_comm_options o = {.max_requests = 64};
    if (am_comm_create("self", &o, &comm) != AM_OK) return 1;
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    return am_comm_free(&comm) == AM_OK ? failed : 1;
}
