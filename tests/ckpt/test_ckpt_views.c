/* Reading through disk views: parts of fused tensors, stacked, transposed, of sizes at which spans and chunks matter.
 * The file holds the index of every element; what a parameter must hold follows from the meaning of its layout, written
 * out here as loops (an independent reading of docs/cards.md), at random ranges. */
#include "ckpt_test.h"

#include <stdlib.h>

enum { RANGES = 60 };

typedef struct view_case {
    const char *what;
    int rank;
    int64_t dim[3];   /* of the parameter */
    bool transpose;
    int axis, part;   /* axis < 0: not split */
    int layout;       /* 1: thirds (A | B | B); 2: per group (G·d | d | d); 3: interleaved pairs; 4: L times */
    int64_t a, b, n;  /* sizes the layout is made of */
} view_case;

static const view_case cases[] = {
    {"plain", 2, {300, 700, 0}, false, -1, 0, 0, 0, 0, 0},
    {"transposed", 2, {1100, 300, 0}, true, -1, 0, 0, 0, 0, 0},
    {"first of three", 2, {600, 640, 0}, false, 0, 0, 1, 600, 90, 0},
    {"last of three", 2, {90, 640, 0}, false, 0, 2, 1, 600, 90, 0},
    {"second of three, transposed", 2, {90, 640, 0}, true, 0, 1, 1, 600, 90, 0},
    {"queries of groups", 2, {8 * 4 * 16, 96, 0}, false, 0, 0, 2, 4, 16, 8},
    {"values of groups, transposed", 2, {8 * 16, 96, 0}, true, 0, 2, 2, 4, 16, 8},
    {"odd rows, wide: far apart", 2, {40, 5000, 0}, false, 0, 1, 3, 40, 0, 0},
    {"odd rows, narrow: close together", 2, {9000, 3, 0}, false, 0, 1, 3, 9000, 0, 0},
    {"even columns of a bias", 1, {50000, 0, 0}, false, 0, 0, 3, 50000, 0, 0},
    {"experts, odd rows, transposed", 3, {5, 60, 70}, true, 1, 1, 3, 60, 0, 0},
    {"experts, odd rows", 3, {5, 60, 70}, false, 1, 1, 3, 60, 0, 0},
    {"biases of experts", 2, {7, 30, 0}, false, 1, 0, 3, 30, 0, 0},
    {"one table of many", 2, {500, 64, 0}, false, 1, 5, 4, 64, 0, 9},
    {"channels of a convolution", 3, {90, 1, 4}, false, 0, 1, 1, 600, 90, 0},
};

/* Index on disk of index i of the split axis; *whole: its size there. */
static int64_t along(const view_case *c, int64_t i, int64_t *whole)
{
    switch (c->layout) {
    case 1:
        *whole = c->a + 2 * c->b;
        return c->part == 0 ? i : c->a + (c->part - 1) * c->b + i;
    case 2: {
        int64_t width = c->part == 0 ? c->a * c->b : c->b, before = c->part == 0 ? 0 : (c->a + c->part - 1) * c->b;
        *whole = c->n * (c->a + 2) * c->b;
        return i / width * (c->a + 2) * c->b + before + i % width;
    }
    case 3:
        *whole = 2 * c->a;
        return 2 * i + c->part;
    case 4:
        *whole = c->n * c->a;
        return c->part * c->a + i;
    default:
        *whole = -1;
        return i;
    }
}

/* Index in the file of an element of the parameter: its own coordinates, one of them moved, two of them swapped. */
static int64_t expected(const view_case *c, int64_t element, int64_t *total)
{
    int64_t at[3], size[3], whole = -1, index = 0;
    for (int d = c->rank - 1; d >= 0; d--) {
        at[d] = element % c->dim[d];
        element /= c->dim[d];
        size[d] = c->dim[d];
    }
    if (c->axis >= 0) {
        at[c->axis] = along(c, at[c->axis], &whole);
        size[c->axis] = whole;
    }
    if (c->transpose) {
        int64_t t = at[c->rank - 1], s = size[c->rank - 1];
        at[c->rank - 1] = at[c->rank - 2];
        size[c->rank - 1] = size[c->rank - 2];
        at[c->rank - 2] = t;
        size[c->rank - 2] = s;
    }
    *total = 1;
    for (int d = 0; d < c->rank; d++) {
        index = index * size[d] + at[d];
        *total *= size[d];
    }
    return index;
}

/* ---- the same layout as a tree ------------------------------------------------------------------------- */

static am_layout *leaf(am_graph *g, int64_t size)
{
    am_layout *l = NULL;
    PT_OK(am_graph_alloc(g, sizeof *l, &l));
    *l = (am_layout){.kind = AM_LAYOUT_DIM, .dim = am_dim_number(size), .size = size};
    return l;
}

static am_layout *join(am_graph *g, am_layout_kind kind, am_layout *const *part, int n)
{
    am_layout *l = NULL;
    PT_OK(am_graph_alloc(g, sizeof *l, &l));
    *l = (am_layout){.kind = kind, .num_parts = n, .size = kind == AM_LAYOUT_SUM ? 0 : 1};
    PT_OK(am_graph_alloc(g, (size_t)n * sizeof *l->part, &l->part));
    for (int i = 0; i < n; i++) {
        l->part[i] = part[i];
        l->size = kind == AM_LAYOUT_SUM ? l->size + part[i]->size : l->size * part[i]->size;
    }
    return l;
}

static am_layout *tree(am_graph *g, const view_case *c)
{
    am_layout *part[16];
    switch (c->layout) {
    case 1:
        return join(g, AM_LAYOUT_SUM, (am_layout *[]){leaf(g, c->a), leaf(g, c->b), leaf(g, c->b)}, 3);
    case 2:
        part[0] = join(g, AM_LAYOUT_PRODUCT, (am_layout *[]){leaf(g, c->a), leaf(g, c->b)}, 2);
        part[0] = join(g, AM_LAYOUT_SUM, (am_layout *[]){part[0], leaf(g, c->b), leaf(g, c->b)}, 3);
        return join(g, AM_LAYOUT_PRODUCT, (am_layout *[]){leaf(g, c->n), part[0]}, 2);
    case 3:
        part[0] = join(g, AM_LAYOUT_SUM, (am_layout *[]){leaf(g, 1), leaf(g, 1)}, 2);
        return join(g, AM_LAYOUT_PRODUCT, (am_layout *[]){leaf(g, c->a), part[0]}, 2);
    default:
        for (int i = 0; i < c->n; i++) part[i] = leaf(g, c->a);
        return join(g, AM_LAYOUT_SUM, part, (int)c->n);
    }
}

/* ---- the test ------------------------------------------------------------------------------------------- */

static am_hf_model *model_of(const char *dir, int64_t elements, int tensors)
{
    static const char config_text[] = "{\"model_type\": \"views\"}";
    am_safetensors_writer *w = NULL;
    am_hf_model *m = NULL;
    float *x = malloc((size_t)elements * sizeof *x);
    int64_t index[4];
    char name[2] = "a";
    PT_OK(am_mkdirs(dir));
    PT_OK(am_file_write_atomic(ct_path("%s/config.json", dir), config_text, sizeof config_text - 1));
    PT_OK(am_safetensors_writer_create(ct_path("%s/model.safetensors", dir), &w));
    for (int t = 0; t < tensors; t++, name[0]++)
        PT_OK(am_safetensors_writer_declare(w, name, AM_F32, 1, &elements, &index[t]));
    PT_OK(am_safetensors_writer_begin(w));
    for (int t = 0; t < tensors; t++) {
        for (int64_t i = 0; i < elements; i++) x[i] = (float)(i + t * elements);
        PT_OK(am_safetensors_writer_write(w, index[t], 0, x, elements, AM_F32));
    }
    PT_OK(am_safetensors_writer_close(w));
    am_safetensors_writer_free(&w);
    PT_OK(am_hf_model_open(dir, AM_HF_WEIGHTS_REQUIRED, &m));
    free(x);
    return m;
}

static void check_range(const view_case *c, const am_hf_model *m, const am_param *p, int64_t begin, int64_t count)
{
    float *got = malloc((size_t)count * sizeof *got);
    int64_t total;
    PT_OK(am_disk_read(m, p, begin, count, got, AM_F32));
    for (int64_t i = 0; i < count; i++)
        if ((int64_t)got[i] != expected(c, begin + i, &total))
            fail_msg("%s: element %" PRId64 " is %.0f of the file, not %" PRId64, c->what, begin + i, (double)got[i],
                     expected(c, begin + i, &total));
    free(got);
}

static void check_case(const view_case *c, uint64_t number)
{
    am_graph *g = NULL;
    static const char *names[] = {"a"};
    am_param p = {.name = "a", .rank = c->rank, .disk = {.num_tensors = 1, .tensor = names, .transpose = c->transpose}};
    int64_t total, n = 1;
    PT_OK(am_graph_create(1, 4, AM_F32, &g));
    for (int d = 0; d < c->rank; d++) n *= p.dim[d] = c->dim[d];
    if (c->axis >= 0) {
        p.disk.whole = tree(g, c);
        p.disk.axis = c->axis;
        p.disk.part = c->part;
    }
    (void)expected(c, 0, &total);
    assert_true(total < 1 << 24); /* indices are exact in float32 */
    am_hf_model *m = model_of(ct_own_dir(), total, 1);
    check_range(c, m, &p, 0, n);
    for (int i = 0; i < RANGES; i++) {
        int64_t begin = (int64_t)(am_random_u64(3, number, (uint64_t)i) % (uint64_t)n);
        int64_t most = am_random_u64(4, number, (uint64_t)i) % 2 ? n : 300;
        check_range(c, m, &p, begin, am_min_i64(n - begin, 1 + (int64_t)(am_random_u64(5, 1, (uint64_t)i) % (uint64_t)most)));
    }
    am_hf_model_free(&m);
    am_graph_free(&g);
}

static void test_views__every_range_of_every_view(void **state)
{
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) check_case(&cases[i], i);
}

/* Three tensors [2·20, 30], interleaved rows, one an expert: the parameter [3, 20, 30] of the odd ones. */
static void test_views__a_part_of_several_tensors(void **state)
{
    am_graph *g = NULL;
    static const char *names[] = {"a", "b", "c"};
    view_case c = {"", 2, {20, 30, 0}, false, 0, 1, 3, 20, 0, 0};
    am_param p = {.name = "a", .rank = 3, .dim = {3, 20, 30}, .disk = {.num_tensors = 3, .tensor = names, .axis = 1, .part = 1}};
    float got[3 * 20 * 30];
    int64_t total;
    PT_OK(am_graph_create(1, 4, AM_F32, &g));
    p.disk.whole = tree(g, &c);
    am_hf_model *m = model_of(ct_own_dir(), 40 * 30, 3);
    PT_OK(am_disk_read(m, &p, 0, 1800, got, AM_F32));
    for (int64_t i = 0; i < 1800; i++)
        assert_int_equal((int64_t)got[i], i / 600 * 1200 + expected(&c, i % 600, &total));
    am_hf_model_free(&m);
    am_graph_free(&g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_views__every_range_of_every_view),
        cmocka_unit_test(test_views__a_part_of_several_tensors),
    };
    return ct_main("ckpt views", tests, sizeof tests / sizeof *tests);
}
