/* card_scalar: arithmetic, comparisons and functions over configuration values, and the sentences for values
 * that do not suit.  Integers stay integers: `/` gives one where it comes out whole and a real number that
 * remembers its division where it does not, so that a dimension can say which division was meant to. */
#include "graph/card_internal.h"
#include "graph/graph_internal.h"

#include <math.h>
#include <string.h>

/* ---- sentences --------------------------------------------------------------------------------------------
 */

static am_status near_name(card_elab *e, const char *word, const char **out)
{
    am_status st = AM_OK;
    card_list names = {0};
    for (int i = 0; i < e->config.num; i++) AM_TRY(card_push(&e->arena, &names, (void *)e->config.key[i]));
    for (int i = 0; i < e->card->defs.num; i++)
        AM_TRY(card_push(&e->arena, &names, (void *)((card_def *)e->card->defs.at[i])->name));
    if (e->frame)
        for (size_t i = 0; i < e->frame->num; i++)
            AM_TRY(card_push(&e->arena, &names, (void *)e->frame->at[i].name));
    *out = am_did_you_mean(word, (const char *const *)names.at, (size_t)names.num);
done:
    return st;
}

am_status card_fail_none(card_elab *e, const card_val *v, card_pos pos, const char *what)
{
    am_status st = AM_OK;
    const card_ast *o = v->origin;
    const char *near = NULL;
    if (!o || o->kind != CARD_A_PATH) CARD_FAIL(pos, "%s is none here", what);
    if (card_map_get(&e->config, o->seg[0].text))
        CARD_FAIL(pos, "%s needs a value, but `%s` is null or has no such part in %s", what, o->text,
                  e->model->config_path);
    AM_TRY(near_name(e, o->seg[0].text, &near));
    CARD_FAIL(o->pos, "`%s` is neither in %s nor defined in this card, and %s needs a value%s%s%s", o->text,
              e->model->config_path, what, near ? "; did you mean `" : "", near ? near : "",
              near ? "`?" : "");
done:
    return st;
}

am_status card_want_number(card_elab *e, const card_val *v, card_pos pos, const char *what, double *out)
{
    am_status st = AM_OK;
    if (v->kind == CARD_V_NONE) AM_TRY(card_fail_none(e, v, pos, what));
    CARD_CHECK(card_is_number(v), pos, "%s must be a number, not %s", what, card_kind_text(v->kind));
    *out = card_number(v);
done:
    return st;
}

am_status card_want_int(card_elab *e, const card_val *v, card_pos pos, const char *what, int64_t least,
                        int64_t *out)
{
    am_status st = AM_OK;
    double r = 0;
    AM_TRY(card_want_number(e, v, pos, what, &r));
    if (v->kind == CARD_V_REAL && v->origin)
        CARD_FAIL(v->origin->pos, "this division gives %.10g, but %s must be whole", r, what);
    CARD_CHECK(v->kind == CARD_V_INT || (r == floor(r) && fabs(r) < 9e15), pos, "%s must be whole, not %.10g",
               what, r);
    *out = v->kind == CARD_V_INT ? v->i : (int64_t)r;
    CARD_CHECK(*out >= least, pos, "%s must be at least %" PRId64 ", not %" PRId64, what, least, *out);
done:
    return st;
}

am_status card_truth(const card_val *v, card_pos pos, bool *out)
{
    am_status st = AM_OK;
    switch (v->kind) {
    case CARD_V_NONE:
        *out = false;
        break;
    case CARD_V_BOOL:
    case CARD_V_INT:
        *out = v->i != 0;
        break;
    case CARD_V_REAL:
        *out = v->r != 0;
        break;
    case CARD_V_STR:
        *out = v->s[0] != '\0';
        break;
    case CARD_V_LIST:
    case CARD_V_MAP:
        *out = v->num != 0;
        break;
    case CARD_V_ROPE:
        *out = true;
        break;
    default:
        CARD_FAIL(pos, "%s cannot be a condition: a card chooses by config.json only",
                  card_kind_text(v->kind));
    }
done:
    return st;
}

/* ---- operators --------------------------------------------------------------------------------------------
 */

static am_status compare(const card_ast *x, double a, double b, card_val *out)
{
    switch (x->op) {
    case CARD_OP_LT:
        *out = card_bool(a < b);
        break;
    case CARD_OP_LE:
        *out = card_bool(a <= b);
        break;
    case CARD_OP_GT:
        *out = card_bool(a > b);
        break;
    default:
        *out = card_bool(a >= b);
    }
    return AM_OK;
}

static am_status contains(card_elab *e, const card_ast *x, const card_val *a, const card_val *list,
                          card_val *out)
{
    am_status st = AM_OK;
    bool found = false;
    if (list->kind == CARD_V_NONE) AM_TRY(card_fail_none(e, list, x->pos, "the list right of `in`"));
    CARD_CHECK(list->kind == CARD_V_LIST || list->kind == CARD_V_MAP, x->pos,
               "`in` looks into a list or a map, not into %s", card_kind_text(list->kind));
    for (int i = 0; i < list->num; i++)
        found =
            found || (list->kind == CARD_V_LIST ? card_equal(a, &list->item[i])
                                                : a->kind == CARD_V_STR && strcmp(a->s, list->key[i]) == 0);
    *out = card_bool(found);
done:
    return st;
}

static bool int_power(int64_t base, int64_t n, int64_t *out)
{
    *out = 1;
    for (; n > 0; n--)
        if (!am_mul_i64(*out, base, out)) return false;
    return true;
}

static am_status int_op(const card_ast *x, int64_t a, int64_t b, card_val *out)
{
    am_status st = AM_OK;
    int64_t r = 0;
    bool fits = true;
    CARD_CHECK(b != 0 || (x->op != CARD_OP_DIV && x->op != CARD_OP_FLOORDIV && x->op != CARD_OP_MOD), x->pos,
               "division by zero");
    CARD_CHECK(!(a == INT64_MIN && b == -1), x->pos, "`%s` leaves 64 bits", card_op_text(x->op));
    if (x->op == CARD_OP_POW && (b < 0 || b > 62)) {
        *out = card_real(pow((double)a, (double)b));
        goto done;
    }
    if (x->op == CARD_OP_DIV && a % b != 0) {
        *out = card_real((double)a / (double)b);
        out->origin = x;
        goto done;
    }
    switch (x->op) {
    case CARD_OP_ADD:
        fits = am_add_i64(a, b, &r);
        break;
    case CARD_OP_SUB:
        fits = !__builtin_sub_overflow(a, b, &r);
        break;
    case CARD_OP_MUL:
        fits = am_mul_i64(a, b, &r);
        break;
    case CARD_OP_DIV:
        r = a / b;
        break;
    case CARD_OP_FLOORDIV:
        r = a / b - (a % b != 0 && (a < 0) != (b < 0));
        break;
    case CARD_OP_MOD:
        r = a % b + (a % b != 0 && (a < 0) != (b < 0) ? b : 0);
        break;
    default:
        fits = int_power(a, b, &r);
    }
    CARD_CHECK(fits, x->pos, "`%s` leaves 64 bits", card_op_text(x->op));
    *out = card_int(r);
done:
    return st;
}

static am_status real_op(const card_ast *x, double a, double b, card_val *out)
{
    am_status st = AM_OK;
    double r = 0;
    CARD_CHECK(b != 0 || (x->op != CARD_OP_DIV && x->op != CARD_OP_FLOORDIV && x->op != CARD_OP_MOD), x->pos,
               "division by zero");
    switch (x->op) {
    case CARD_OP_ADD:
        r = a + b;
        break;
    case CARD_OP_SUB:
        r = a - b;
        break;
    case CARD_OP_MUL:
        r = a * b;
        break;
    case CARD_OP_DIV:
        r = a / b;
        break;
    case CARD_OP_FLOORDIV:
        r = floor(a / b);
        break;
    case CARD_OP_MOD:
        r = a - b * floor(a / b);
        break;
    default:
        r = pow(a, b);
    }
    CARD_CHECK(!isnan(r), x->pos, "`%s` of %.10g and %.10g is no number", card_op_text(x->op), a, b);
    *out = card_real(r);
done:
    return st;
}

am_status card_scalar_op(card_elab *e, const card_ast *x, const card_val *a, const card_val *b, card_val *out)
{
    am_status st = AM_OK;
    double p = 0, q = 0;
    const char *what = NULL;
    if (x->op == CARD_OP_EQ || x->op == CARD_OP_NE) {
        *out = card_bool(card_equal(a, b) == (x->op == CARD_OP_EQ));
        goto done;
    }
    if (x->op == CARD_OP_IN) {
        AM_TRY(contains(e, x, a, b, out));
        goto done;
    }
    AM_TRY(card_printf(&e->arena, &what, "the left side of `%s`", card_op_text(x->op)));
    AM_TRY(card_want_number(e, a, x->pos, what, &p));
    AM_TRY(card_printf(&e->arena, &what, "the right side of `%s`", card_op_text(x->op)));
    AM_TRY(card_want_number(e, b, x->pos, what, &q));
    if (x->op >= CARD_OP_LE && x->op <= CARD_OP_GT)
        AM_TRY(compare(x, p, q, out));
    else if (a->kind == CARD_V_INT && b->kind == CARD_V_INT)
        AM_TRY(int_op(x, a->i, b->i, out));
    else
        AM_TRY(real_op(x, p, q, out));
done:
    return st;
}

/* ---- functions
 * -------------------------------------------------------------------------------------------------- */

typedef am_status (*scalar_fn)(card_elab *e, const card_ast *call, const card_val *arg, card_val *out);

static am_status fn_len(card_elab *e, const card_ast *x, const card_val *a, card_val *out)
{
    am_status st = AM_OK;
    if (a->kind == CARD_V_NONE) AM_TRY(card_fail_none(e, a, x->pos, "len"));
    CARD_CHECK(a->kind == CARD_V_LIST || a->kind == CARD_V_MAP || a->kind == CARD_V_STR, x->pos, "len of %s",
               card_kind_text(a->kind));
    *out = card_int(a->kind == CARD_V_STR ? (int64_t)strlen(a->s) : a->num);
done:
    return st;
}

static am_status fn_extreme(card_elab *e, const card_ast *x, const card_val *a, card_val *out)
{
    am_status st = AM_OK;
    bool least = x->text[1] == 'i';
    double best = 0, r = 0;
    for (int i = 0; i < card_num_positional(x); i++) {
        AM_TRY(card_want_number(e, &a[i], card_positional(x, i)->pos, "an operand of min or max", &r));
        if (i == 0 || (least ? r < best : r > best)) {
            best = r;
            *out = a[i];
        }
    }
    out->dim = NULL;
done:
    return st;
}

static am_status fn_sum(card_elab *e, const card_ast *x, const card_val *a, card_val *out)
{
    am_status st = AM_OK;
    card_ast plus = {.kind = CARD_A_BINARY, .pos = x->pos, .op = CARD_OP_ADD};
    if (a->kind == CARD_V_NONE) AM_TRY(card_fail_none(e, a, x->pos, "sum"));
    CARD_CHECK(a->kind == CARD_V_LIST, x->pos, "sum of %s", card_kind_text(a->kind));
    *out = card_int(0);
    for (int i = 0; i < a->num; i++) {
        card_val so_far = *out;
        AM_TRY(card_scalar_op(e, &plus, &so_far, &a->item[i], out));
    }
done:
    return st;
}

static am_status fn_real(card_elab *e, const card_ast *x, const card_val *a, card_val *out)
{
    am_status st = AM_OK;
    double r = 0;
    AM_TRY(card_want_number(e, a, x->pos, x->text, &r));
    CARD_CHECK(!(r < 0 && strcmp(x->text, "sqrt") == 0) && !(r <= 0 && strcmp(x->text, "log") == 0), x->pos,
               "%s of %.10g", x->text, r);
    if (strcmp(x->text, "sqrt") == 0)
        *out = card_real(sqrt(r));
    else if (strcmp(x->text, "log") == 0)
        *out = card_real(log(r));
    else if (strcmp(x->text, "exp") == 0)
        *out = card_real(exp(r));
    else if (strcmp(x->text, "abs") == 0)
        *out = a->kind == CARD_V_INT ? card_int(a->i < 0 ? -a->i : a->i) : card_real(fabs(r));
    else if (e->g->compute == AM_BF16)
        *out = card_real((double)am_bf16_to_f32(am_f32_to_bf16((float)r))); /* low */
    else
        *out = card_real(e->g->compute == AM_F32 ? (double)(float)r : r);
done:
    return st;
}

static am_status fn_whole(card_elab *e, const card_ast *x, const card_val *a, card_val *out)
{
    am_status st = AM_OK;
    double r = 0;
    AM_TRY(card_want_number(e, a, x->pos, x->text, &r));
    r = x->text[0] == 'f' ? floor(r) : x->text[0] == 'c' ? ceil(r) : trunc(r);
    CARD_CHECK(fabs(r) < 9e15, x->pos, "%s of %.10g leaves 64 bits", x->text, r);
    *out = a->kind == CARD_V_INT ? card_int(a->i) : card_int((int64_t)r);
done:
    return st;
}

static am_status fn_roundup(card_elab *e, const card_ast *x, const card_val *a, card_val *out)
{
    am_status st = AM_OK;
    int64_t n = 0, m = 0;
    AM_TRY(card_want_int(e, &a[0], x->pos, "roundup's number", 0, &n));
    AM_TRY(card_want_int(e, &a[1], x->pos, "roundup's multiple", 1, &m));
    *out = card_int((n + m - 1) / m * m);
done:
    return st;
}

/* index(list, x): first place of x; last(list, x, n): last place of x before n */
static am_status fn_place(card_elab *e, const card_ast *x, const card_val *a, card_val *out)
{
    am_status st = AM_OK;
    bool last = x->text[0] == 'l';
    int64_t end = a->num, at = -1;
    am_str text = {0};
    if (a->kind == CARD_V_NONE) AM_TRY(card_fail_none(e, a, x->pos, x->text));
    CARD_CHECK(a->kind == CARD_V_LIST, x->pos, "%s looks into a list, not into %s", x->text,
               card_kind_text(a->kind));
    if (last) AM_TRY(card_want_int(e, &a[2], x->pos, "last's bound", 0, &end));
    for (int64_t i = 0; i < am_min_i64(end, a->num) && (last || at < 0); i++)
        if (card_equal(&a->item[i], &a[1])) at = i;
    AM_TRY(card_describe(&a[1], &text));
    CARD_CHECK(at >= 0, x->pos, "%s: %s is not in the list", x->text, text.s);
    *out = card_int(at);
done:
    am_str_release(&text);
    return st;
}

/* Tokens of a row, which no text within it exceeds. */
static am_status fn_row_tokens(card_elab *e, const card_ast *x, const card_val *a, card_val *out)
{
    *out = card_int(e->g->seq_len);
    return AM_OK;
}

static const struct {
    const char *name;
    int least, most;
    scalar_fn fn;
} functions[] = {
    {"len", 1, 1, fn_len},         {"min", 1, 16, fn_extreme}, {"max", 1, 16, fn_extreme},
    {"sum", 1, 1, fn_sum},         {"sqrt", 1, 1, fn_real},    {"log", 1, 1, fn_real},
    {"exp", 1, 1, fn_real},        {"abs", 1, 1, fn_real},     {"low", 1, 1, fn_real},
    {"floor", 1, 1, fn_whole},     {"ceil", 1, 1, fn_whole},   {"int", 1, 1, fn_whole},
    {"roundup", 2, 2, fn_roundup}, {"index", 2, 2, fn_place},  {"last", 3, 3, fn_place},
    {"row_tokens", 0, 0, fn_row_tokens},
    {"given", 1, 1, NULL},         {"slopes", 1, 1, card_slopes},
};

static int find_function(const char *name)
{
    for (size_t i = 0; i < sizeof functions / sizeof *functions; i++)
        if (strcmp(functions[i].name, name) == 0) return (int)i;
    return -1;
}

bool card_is_scalar_function(const char *name)
{
    return find_function(name) >= 0;
}
const char *card_scalar_function(int i)
{
    return (size_t)i < sizeof functions / sizeof *functions ? functions[i].name : NULL;
}

/* given(key): is it in config.json at all, even as null? */
static am_status call_given(card_elab *e, const card_ast *x, card_val *out)
{
    am_status st = AM_OK;
    const card_ast *key = x->arg[0].value;
    const card_val *v = &e->config;
    CARD_CHECK(key->kind == CARD_A_PATH && !key->relative, key->pos, "given asks for a key of config.json");
    for (int i = 0; v && i < key->num_segs; i++)
        v = key->seg[i].text ? card_map_get(v, key->seg[i].text) : NULL;
    *out = card_bool(v != NULL);
done:
    return st;
}

am_status card_scalar_call(card_elab *e, const card_ast *x, bool *known, card_val *out)
{
    static const char *const no_keywords[] = {NULL};
    am_status st = AM_OK;
    card_val arg[16] = {0};
    bool tensors = false;
    int f = find_function(x->text);
    *known = f >= 0;
    if (f < 0) goto done;
    AM_TRY(card_check_args(x, functions[f].least, functions[f].most, no_keywords));
    if (!functions[f].fn) {
        AM_TRY(call_given(e, x, out));
        goto done;
    }
    for (int i = 0; i < x->num_args; i++) {
        AM_TRY(card_eval(e, x->arg[i].value, &arg[i]));
        tensors = tensors || arg[i].kind == CARD_V_VALUE || arg[i].kind == CARD_V_TUPLE;
    }
    if (tensors) {
        AM_TRY(card_value_function(e, x, arg, x->num_args, out));
        goto done;
    }
    AM_TRY(functions[f].fn(e, x, arg, out));
done:
    return st;
}
