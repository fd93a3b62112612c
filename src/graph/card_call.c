/* card_call: calls: the card's own functions, rope_table, functions over configuration values, operators, and
 * operators that were registered in the graph.  Words of the language that have no operator row are refused
 * by name. */
#include "graph/card_internal.h"

#include <stddef.h>
#include <string.h>

enum { MAX_CALLS = 64 };

/* ---- calls
 * ----------------------------------------------------------------------------------------------------------
 */

am_status card_call_func(card_elab *e, const card_func *f, const card_ast *x, card_val *out)
{
    am_status st = AM_OK;
    card_frame frame = {0}, *outer = e->frame;
    bool returned = false;
    CARD_CHECK(x->num_args == f->num_params, x->pos, "`%s` takes %d operand%s, not %d", f->name,
               f->num_params, f->num_params == 1 ? "" : "s", x->num_args);
    CARD_CHECK(e->call_depth < MAX_CALLS, x->pos, "`%s` calls itself without end", f->name);
    for (int i = 0; i < f->num_params; i++) {
        const card_arg *a = &x->arg[i];
        card_val v = {0};
        CARD_CHECK(!a->keyword && !a->layout, a->pos,
                   "functions of a card take plain operands: no `=`, no layout");
        if (f->is_name[i])
            AM_TRY(card_name_value(e, a->value, &v));
        else
            AM_TRY(card_eval(e, a->value, &v));
        AM_TRY(card_set(&frame, f->param[i], &v));
    }
    e->frame = &frame;
    e->call_depth++;
    AM_TRY(card_run(e, &f->body, out, &returned));
    AM_ASSERT(returned);
done:
    e->call_depth -= e->frame == &frame;
    e->frame = outer;
    am_free(&frame.at);
    return st;
}

am_status card_eval_call(card_elab *e, const card_ast *x, card_val *out)
{
    am_status st = AM_OK;
    bool known = false;
    const card_func *f = card_find_func(e->card, x->text);
    if (f) {
        CARD_CHECK(e->frame, x->pos, "`%s` works on tensors and cannot be used in a definition", x->text);
        AM_TRY(card_call_func(e, f, x, out));
        goto done;
    }
    if (strcmp(x->text, "rope_table") == 0) {
        AM_TRY(card_rope_table(e, x, out));
        goto done;
    }
    AM_TRY(card_scalar_call(e, x, &known, out));
    if (known) goto done;
    CARD_CHECK(e->frame || !card_is_operator(x->text), x->pos,
               "`%s` works on tensors and cannot be used in a definition", x->text);
    AM_TRY(card_graph_call(e, x, out));
done:
    return st;
}

const card_arg *card_keyword(const card_ast *call, const char *name)
{
    for (int i = 0; i < call->num_args; i++)
        if (call->arg[i].keyword && strcmp(call->arg[i].keyword, name) == 0) return &call->arg[i];
    return NULL;
}

const card_arg *card_positional(const card_ast *call, int i)
{
    for (int k = 0; k < call->num_args; k++)
        if (!call->arg[k].keyword && i-- == 0) return &call->arg[k];
    return NULL;
}

int card_num_positional(const card_ast *call)
{
    int n = 0;
    for (int k = 0; k < call->num_args; k++) n += !call->arg[k].keyword;
    return n;
}

am_status card_check_args(const card_ast *call, int least, int most, const char *const *names)
{
    am_status st = AM_OK;
    int n = card_num_positional(call);
    size_t num_names = 0;
    while (names[num_names]) num_names++;
    if (least == most)
        CARD_CHECK(n == least, call->pos, "`%s` takes %d operand%s, not %d", call->text, least,
                   least == 1 ? "" : "s", n);
    CARD_CHECK(n >= least && n <= most, call->pos, "`%s` takes %d to %d operands, not %d", call->text, least,
               most, n);
    for (int k = 0; k < call->num_args; k++) {
        const card_arg *a = &call->arg[k];
        bool known = !a->keyword;
        for (size_t i = 0; i < num_names; i++) known = known || strcmp(a->keyword, names[i]) == 0;
        const char *near = known ? NULL : am_did_you_mean(a->keyword, names, num_names);
        CARD_CHECK(known, a->pos, "`%s` has no option `%s`%s%s%s", call->text, a->keyword,
                   near ? "; did you mean `" : "", near ? near : "", near ? "`?" : "");
        CARD_CHECK(!a->keyword || card_keyword(call, a->keyword) == a, a->pos,
                   "the option `%s` is given twice", a->keyword);
    }
done:
    return st;
}

/* ---- registered operators
 * ------------------------------------------------------------------------------------------------------------------
 */

static am_status set_attr(card_elab *e, const card_ast *x, const card_arg *a, am_attrs *attrs)
{
    static const struct {
        const char *name;
        char type;
        size_t offset;
    } fields[] = {
#define X(t, name, doc) {#name, #t[0], offsetof(am_attrs, name)},
        AM_ATTR_LIST(X)
#undef X
    };
    am_status st = AM_OK;
    const char *names[sizeof fields / sizeof *fields], *what = NULL;
    size_t n = sizeof fields / sizeof *fields;
    card_val v;
    AM_TRY(card_eval(e, a->value, &v));
    AM_TRY(card_printf(&e->arena, &what, "`%s` of %s", a->keyword, x->text));
    for (size_t i = 0; i < n; i++) {
        names[i] = fields[i].name;
        if (strcmp(fields[i].name, a->keyword) != 0) continue;
        if (v.kind == CARD_V_NONE) goto done;
        if (v.kind == CARD_V_BOOL) v = card_int(v.i);
        if (fields[i].type == 'f')
            AM_TRY(card_want_number(e, &v, a->pos, what, (double *)((char *)attrs + fields[i].offset)));
        else
            AM_TRY(
                card_want_int(e, &v, a->pos, what, INT64_MIN, (int64_t *)((char *)attrs + fields[i].offset)));
        goto done;
    }
    const char *near = am_did_you_mean(a->keyword, names, n);
    CARD_FAIL(a->pos, "operators have no attribute `%s`%s%s%s", a->keyword, near ? "; did you mean `" : "",
              near ? near : "", near ? "`?" : "");
done:
    return st;
}

static am_status build_registered(card_elab *e, const card_ast *x, card_val *out)
{
    am_status st = AM_OK;
    am_attrs attrs = {0};
    int in[AM_MAX_IN], n = 0, y = -1;
    card_val v;
    CARD_CHECK(card_num_positional(x) <= AM_MAX_IN, x->pos, "an operator takes at most %d operands",
               AM_MAX_IN);
    for (int i = 0; i < x->num_args; i++) {
        const card_arg *a = &x->arg[i];
        CARD_CHECK(a->value && !a->layout, a->pos,
                   "operators take tensors, and numbers by name: name = value");
        if (a->keyword) {
            AM_TRY(set_attr(e, x, a, &attrs));
            continue;
        }
        AM_TRY(card_eval(e, a->value, &v));
        CARD_CHECK(v.kind == CARD_V_VALUE || v.kind == CARD_V_NONE, a->pos,
                   "operand %d of `%s` must be a tensor or none, not %s", n + 1, x->text,
                   card_kind_text(v.kind));
        in[n++] = v.kind == CARD_V_VALUE ? (int)v.i : -1;
    }
    AM_TRY(card_emit(e, x->pos, x->text, in, n, &attrs, &y));
    *out = card_value(y);
done:
    return st;
}

/* ---- which function is meant
 * ------------------------------------------------------------------------------------------ */

/* Words of the language for which there is no operator row. */
static const char *const without_row[] = {"rope_table"};
enum { NUM_WITHOUT_ROW = sizeof without_row / sizeof *without_row };

static const card_builder *const builder_lists[] = {card_light_builders, card_norm_builders, card_attention_builders, card_tensor_builders, card_arith_builders, card_moe_builders, card_scan_builders, card_delta_builders};

static card_build_fn find_builder(const char *name)
{
    for (size_t l = 0; l < sizeof builder_lists / sizeof *builder_lists; l++)
        for (const card_builder *b = builder_lists[l]; b->name; b++)
            if (strcmp(b->name, name) == 0) return b->build;
    return NULL;
}

bool card_is_operator(const char *name)
{
    for (int i = 0; i < NUM_WITHOUT_ROW; i++)
        if (strcmp(without_row[i], name) == 0) return true;
    return find_builder(name) != NULL;
}

/* Rows of the graph's table a card may call by name: registered ones, and built-in ones that have a gradient
 * (the others are inner ones of the passes). */
static bool is_registered(const card_elab *e, const char *name)
{
    const am_op_def *d = am_graph_find_op(e->g, name);
    return d && (d->vjp || d != am_op_find(name));
}

bool card_knows_function(const card_elab *e, const char *name)
{
    return card_is_operator(name) || card_is_scalar_function(name) || is_registered(e, name);
}

am_status card_suggest_function(const card_elab *e, const char *name, const char **out)
{
    am_status st = AM_OK;
    card_list names = {0};
    card_arena arena = {0};
    *out = NULL;
    for (size_t l = 0; l < sizeof builder_lists / sizeof *builder_lists; l++)
        for (const card_builder *b = builder_lists[l]; b->name; b++)
            AM_TRY(card_push(&arena, &names, (void *)b->name));
    for (int i = 0; i < NUM_WITHOUT_ROW; i++) AM_TRY(card_push(&arena, &names, (void *)without_row[i]));
    for (int i = 0; card_scalar_function(i); i++)
        AM_TRY(card_push(&arena, &names, (void *)card_scalar_function(i)));
    for (int i = 0; i < e->card->funcs.num; i++)
        AM_TRY(card_push(&arena, &names, (void *)((card_func *)e->card->funcs.at[i])->name));
    *out = am_did_you_mean(name, (const char *const *)names.at, (size_t)names.num);
done:
    card_arena_release(&arena);
    return st;
}

am_status card_graph_call(card_elab *e, const card_ast *x, card_val *out)
{
    am_status st = AM_OK;
    card_build_fn build = find_builder(x->text);
    if (build)
        AM_TRY(card_build(e, x, build, out));
    else if (is_registered(e, x->text))
        AM_TRY(build_registered(e, x, out));
    else
        AM_TRY(card_refuse_op(x->pos, x->text));
done:
    return st;
}
