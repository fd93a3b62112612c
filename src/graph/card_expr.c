/* card_expr: expressions from tokens, by recursive descent.  From loose to tight:
 *   a if c else b · or · and · not · == != < > <= >= in · | · + - · * / // % · unary - · ** · a[b] f(x) a^T
 * a@b */
#include "graph/card_internal.h"

#include <string.h>

static const char *const reserved[] = {
    "if",     "else", "and",    "or",    "not",    "in",   "for", "at",     "true",    "false",    "none",
    "return", "def",  "config", "model", "family", "like", "use", "ignore", "require", "spelling", "name"};

bool card_reserved(const char *word)
{
    for (size_t i = 0; i < sizeof reserved / sizeof *reserved; i++)
        if (strcmp(reserved[i], word) == 0) return true;
    return false;
}

bool card_is_identifier(const char *word)
{
    return strpbrk(word, ".{") == NULL;
}

const char *card_op_text(card_op op)
{
    static const char *const texts[] = {
#define X(e, s) s,
        CARD_OP_LIST(X)
#undef X
    };
    return texts[op];
}

const card_token *card_peek(const card_cursor *c, int ahead)
{
    int last = c->src->num_tokens - 1;
    return &c->src->token[c->at + ahead < last ? c->at + ahead : last];
}

bool card_is(const card_cursor *c, const char *text)
{
    const card_token *t = card_peek(c, 0);
    return (t->kind == CARD_T_OP || (t->kind == CARD_T_PATH && card_reserved(t->text))) &&
           strcmp(t->text, text) == 0;
}

bool card_eat(card_cursor *c, const char *text)
{
    if (!card_is(c, text)) return false;
    c->at++;
    return true;
}

const char *card_found(const card_cursor *c)
{
    const card_token *t = card_peek(c, 0);
    if (t->kind == CARD_T_NEWLINE) return "end of line";
    return t->kind == CARD_T_END ? "end of the card" : t->text;
}

am_status card_need(card_cursor *c, const char *text, const char *where)
{
    am_status st = AM_OK;
    CARD_CHECK(card_eat(c, text), card_peek(c, 0)->pos, "expected `%s` %s, found `%s`", text, where,
               card_found(c));
done:
    return st;
}

static am_status node(card_cursor *c, card_ast_kind kind, card_pos pos, int num, card_ast *const *kids,
                      card_ast **out)
{
    am_status st = AM_OK;
    card_ast *x = NULL;
    AM_TRY(card_alloc(c->arena, sizeof *x, &x));
    x->kind = kind;
    x->pos = pos;
    x->num = num;
    if (num) {
        AM_TRY(card_alloc(c->arena, (size_t)num * sizeof *x->kid, &x->kid));
        memcpy(x->kid, kids, (size_t)num * sizeof *x->kid);
    }
    *out = x;
done:
    return st;
}

am_status card_parse_text(card_arena *a, const char *text, size_t len, card_pos pos, card_ast **out)
{
    am_status st = AM_OK;
    card_source src;
    AM_TRY(card_lex(a, pos.file, text, len, &src));
    for (int i = 0; i < src.num_tokens; i++) { /* one line: only the column moves */
        src.token[i].pos.line = pos.line;
        src.token[i].pos.column += pos.column - 1;
    }
    card_cursor c = {.arena = a, .src = &src};
    AM_TRY(card_parse_expr(&c, out));
    card_token_kind k = card_peek(&c, 0)->kind;
    CARD_CHECK(k == CARD_T_NEWLINE || k == CARD_T_END, card_peek(&c, 0)->pos, "`%s` is left over",
               card_found(&c));
done:
    return st;
}

/* The pieces of a path token. */
static am_status split_path(card_cursor *c, const card_token *t, card_ast *x)
{
    am_status st = AM_OK;
    const char *s = t->text;
    int dots = 0;
    for (const char *p = s; *p; p++) dots += *p == '.';
    AM_TRY(card_alloc(c->arena, (size_t)(dots + 1) * sizeof *x->seg, &x->seg));
    x->relative = *s == '.';
    if (x->relative) s++;
    while (*s) {
        card_seg *seg = &x->seg[x->num_segs++];
        if (*s == '{') {
            const char *end = strchr(s, '}');
            card_pos pos = {t->pos.file, t->pos.line, t->pos.column + (int)(s + 1 - t->text)};
            AM_TRY(card_parse_text(c->arena, s + 1, (size_t)(end - s - 1), pos, &seg->expr));
            s = end + 1;
            CARD_CHECK(*s == '.' || *s == '\0', pos, "a dot must follow the } in `%s`", t->text);
        } else {
            size_t n = strcspn(s, ".");
            AM_TRY(card_strndup(c->arena, s, n, &seg->text));
            s += n;
        }
        if (*s == '.') s++;
    }
done:
    return st;
}

am_status card_parse_path(card_cursor *c, card_ast **out)
{
    am_status st = AM_OK;
    const card_token *t = card_peek(c, 0);
    CARD_CHECK(t->kind == CARD_T_PATH && !card_reserved(t->text), t->pos, "expected a name, found `%s`",
               card_found(c));
    AM_TRY(node(c, CARD_A_PATH, t->pos, 0, NULL, out));
    (*out)->text = t->text;
    AM_TRY(split_path(c, t, *out));
    c->at++;
done:
    return st;
}

static am_status parse_number(card_cursor *c, card_ast **out)
{
    am_status st = AM_OK;
    const card_token *t = card_peek(c, 0);
    AM_TRY(node(c, CARD_A_NUMBER, t->pos, 0, NULL, out));
    (*out)->text = t->text;
    (*out)->integer = strpbrk(t->text, ".e") == NULL;
    CARD_CHECK(!(*out)->integer || am_parse_i64(t->text, &(*out)->i), t->pos, "%s does not fit into 64 bits",
               t->text);
    CARD_CHECK(am_parse_f64(t->text, &(*out)->r), t->pos, "%s is too large a number", t->text);
    c->at++;
done:
    return st;
}

/* sum[e](x), each[e < E](x) */
static am_status parse_slots(card_cursor *c, card_ast **out)
{
    am_status st = AM_OK;
    card_ast *kid[3] = {NULL, NULL, NULL};
    card_pos pos = card_peek(c, 0)->pos;
    const char *text = card_peek(c, 0)->text;
    c->at += 2;
    AM_TRY(card_parse_path(c, &kid[0]));
    if (card_eat(c, "<")) AM_TRY(card_parse_expr(c, &kid[2]));
    AM_TRY(card_need(c, "]", "after the selected experts"));
    AM_TRY(card_need(c, "(", "before what is summed over the selected experts"));
    AM_TRY(card_parse_expr(c, &kid[1]));
    AM_TRY(card_need(c, ")", "after what is summed"));
    AM_TRY(node(c, CARD_A_SLOTS, pos, kid[2] ? 3 : 2, kid, out));
    (*out)->text = text;
done:
    return st;
}

/* expressions up to the closing bracket, into kids; *comma: at least one comma was seen */
static am_status parse_items(card_cursor *c, const char *close, card_list *items, bool *comma)
{
    am_status st = AM_OK;
    while (!card_is(c, close)) {
        card_ast *x = NULL;
        AM_TRY(card_parse_expr(c, &x));
        AM_TRY(card_push(c->arena, items, x));
        if (!card_eat(c, ",")) break;
        *comma = true;
    }
done:
    return st;
}

static am_status parse_parenthesis(card_cursor *c, card_ast **out)
{
    am_status st = AM_OK;
    card_list items = {0};
    bool tuple = false;
    card_pos pos = card_peek(c, 0)->pos;
    c->at++;
    AM_TRY(parse_items(c, ")", &items, &tuple));
    AM_TRY(card_need(c, ")", "after the parenthesis"));
    CARD_CHECK(items.num > 0, pos, "an empty parenthesis");
    if (!tuple)
        *out = items.at[0];
    else
        AM_TRY(node(c, CARD_A_TUPLE, pos, items.num, (card_ast *const *)items.at, out));
done:
    return st;
}

static am_status parse_list(card_cursor *c, card_ast **out)
{
    am_status st = AM_OK;
    card_list items = {0};
    bool comma = false;
    card_pos pos = card_peek(c, 0)->pos;
    c->at++;
    AM_TRY(parse_items(c, "]", &items, &comma));
    if (!(items.num == 1 && !comma && card_eat(c, "for"))) {
        AM_TRY(card_need(c, "]", "after the list"));
        AM_TRY(node(c, CARD_A_LIST, pos, items.num, (card_ast *const *)items.at, out));
        goto done;
    }
    const card_token *var = card_peek(c, 0);
    card_ast *kid[3] = {items.at[0], NULL, NULL};
    CARD_CHECK(var->kind == CARD_T_PATH && !card_reserved(var->text) && card_is_identifier(var->text),
               var->pos, "expected a variable after `for`, found `%s`", card_found(c));
    c->at++;
    AM_TRY(card_need(c, "<", "after the variable: [x for i < n]"));
    AM_TRY(card_parse_expr(c, &kid[1]));
    if (kid[1]->kind == CARD_A_IF && kid[1]->num == 2) { /* [x for i < n if c]: the condition selects */
        kid[2] = kid[1]->kid[0];
        kid[1] = kid[1]->kid[1];
    }
    AM_TRY(card_need(c, "]", "after the list"));
    AM_TRY(node(c, CARD_A_COMPREHENSION, pos, kid[2] ? 3 : 2, kid, out));
    (*out)->text = var->text;
done:
    return st;
}

static am_status parse_map(card_cursor *c, card_ast **out)
{
    am_status st = AM_OK;
    card_list items = {0};
    card_pos pos = card_peek(c, 0)->pos;
    c->at++;
    while (!card_is(c, "}")) {
        card_ast *key = NULL, *value = NULL;
        CARD_CHECK(card_peek(c, 0)->kind == CARD_T_STRING, card_peek(c, 0)->pos,
                   "expected a string as key, found `%s`", card_found(c));
        AM_TRY(card_parse_expr(c, &key));
        AM_TRY(card_need(c, ":", "after the key"));
        AM_TRY(card_parse_expr(c, &value));
        AM_TRY(card_push(c->arena, &items, key));
        AM_TRY(card_push(c->arena, &items, value));
        if (!card_eat(c, ",")) break;
    }
    AM_TRY(card_need(c, "}", "after the map"));
    AM_TRY(node(c, CARD_A_MAP, pos, items.num, (card_ast *const *)items.at, out));
done:
    return st;
}

static am_status parse_primary(card_cursor *c, card_ast **out)
{
    am_status st = AM_OK;
    const card_token *t = card_peek(c, 0);
    if (t->kind == CARD_T_NUMBER) {
        AM_TRY(parse_number(c, out));
    } else if (t->kind == CARD_T_STRING) {
        AM_TRY(node(c, CARD_A_STRING, t->pos, 0, NULL, out));
        (*out)->text = t->text;
        c->at++;
    } else if (card_is(c, "true") || card_is(c, "false") || card_is(c, "none")) {
        AM_TRY(node(c, t->text[0] == 'n' ? CARD_A_NONE : CARD_A_BOOL, t->pos, 0, NULL, out));
        (*out)->i = t->text[0] == 't';
        c->at++;
    } else if (t->kind == CARD_T_PATH && (strcmp(t->text, "sum") == 0 || strcmp(t->text, "each") == 0) &&
               card_peek(c, 1)->kind == CARD_T_OP && strcmp(card_peek(c, 1)->text, "[") == 0) {
        AM_TRY(parse_slots(c, out));
    } else if (t->kind == CARD_T_PATH && !card_reserved(t->text)) {
        AM_TRY(card_parse_path(c, out));
    } else if (card_is(c, "(")) {
        AM_TRY(parse_parenthesis(c, out));
    } else if (card_is(c, "[")) {
        AM_TRY(parse_list(c, out));
    } else if (card_is(c, "{")) {
        AM_TRY(parse_map(c, out));
    } else {
        CARD_FAIL(t->pos, "expected a value, found `%s`", card_found(c));
    }
done:
    return st;
}

/* keyword = value, bias?, bias? = default, value : layout */
static am_status parse_argument(card_cursor *c, card_arg *arg)
{
    am_status st = AM_OK;
    const card_token *t = card_peek(c, 0), *next = card_peek(c, 1);
    arg->pos = t->pos;
    if (t->kind == CARD_T_PATH && !card_reserved(t->text) && next->kind == CARD_T_OP &&
        (strcmp(next->text, "=") == 0 || strcmp(next->text, "?") == 0)) {
        CARD_CHECK(card_is_identifier(t->text), t->pos, "`%s` cannot be the name of an option", t->text);
        arg->keyword = t->text;
        c->at++;
        arg->optional = card_eat(c, "?");
        if (arg->optional && !card_is(c, "=")) goto done;
        AM_TRY(card_need(c, "=", "after the name of the option"));
    }
    AM_TRY(card_parse_expr(c, &arg->value));
    if (card_eat(c, ":")) AM_TRY(card_parse_layout(c, &arg->layout));
done:
    return st;
}

static am_status parse_call(card_cursor *c, card_ast *callee, card_ast **out)
{
    am_status st = AM_OK;
    card_list args = {0};
    CARD_CHECK(callee->kind == CARD_A_PATH && !callee->relative && card_is_identifier(callee->text),
               callee->pos, "only a function's plain name can be called");
    c->at++;
    while (!card_is(c, ")")) {
        card_arg *arg = NULL;
        AM_TRY(card_alloc(c->arena, sizeof *arg, &arg));
        AM_TRY(parse_argument(c, arg));
        AM_TRY(card_push(c->arena, &args, arg));
        if (!card_eat(c, ",")) break;
    }
    AM_TRY(card_need(c, ")", "after the operands"));
    AM_TRY(node(c, CARD_A_CALL, callee->pos, 0, NULL, out));
    (*out)->text = callee->text;
    (*out)->num_args = args.num;
    AM_TRY(card_alloc(c->arena, (size_t)args.num * sizeof(card_arg), &(*out)->arg));
    for (int i = 0; i < args.num; i++) (*out)->arg[i] = *(card_arg *)args.at[i];
done:
    return st;
}

static am_status parse_postfix(card_cursor *c, card_ast **out)
{
    am_status st = AM_OK;
    card_ast *kid[2] = {NULL, NULL};
    AM_TRY(parse_primary(c, &kid[0]));
    for (;;) {
        const card_token *t = card_peek(c, 0);
        if (card_is(c, "[")) {
            c->at++;
            AM_TRY(card_parse_expr(c, &kid[1]));
            AM_TRY(card_need(c, "]", "after the index"));
            AM_TRY(node(c, CARD_A_INDEX, kid[0]->pos, 2, kid, &kid[0]));
        } else if (card_is(c, "(")) {
            AM_TRY(parse_call(c, kid[0], &kid[0]));
        } else if (card_eat(c, "^T")) {
            AM_TRY(node(c, CARD_A_TRANSPOSE, kid[0]->pos, 1, kid, &kid[0]));
        } else if (card_eat(c, "@")) {
            AM_TRY(parse_primary(c, &kid[1]));
            CARD_CHECK(kid[0]->kind == CARD_A_PATH && card_is_identifier(kid[0]->text), t->pos,
                       "only a variable can stand left of @");
            AM_TRY(node(c, CARD_A_AT, kid[0]->pos, 2, kid, &kid[0]));
        } else {
            break;
        }
    }
    *out = kid[0];
done:
    return st;
}

static am_status parse_unary(card_cursor *c, card_ast **out)
{
    am_status st = AM_OK;
    const card_token *t = card_peek(c, 0);
    card_ast *kid[2] = {NULL, NULL};
    CARD_CHECK(++c->depth < CARD_MAX_DEPTH, t->pos, "nested too deeply");
    if (card_eat(c, "-")) {
        AM_TRY(parse_unary(c, &kid[0]));
        AM_TRY(node(c, CARD_A_NEGATE, t->pos, 1, kid, out));
    } else {
        AM_TRY(parse_postfix(c, &kid[0]));
        *out = kid[0];
        t = card_peek(c, 0);
        if (card_eat(c, "**")) {
            AM_TRY(parse_unary(c, &kid[1]));
            AM_TRY(node(c, CARD_A_BINARY, t->pos, 2, kid, out));
            (*out)->op = CARD_OP_POW;
        }
    }
    c->depth--;
done:
    return st;
}

static const struct {
    const card_op *ops;
    int num;
    bool repeat; /* a - b - c; comparisons do not chain */
} levels[] = {
    {(const card_op[]){CARD_OP_EQ, CARD_OP_NE, CARD_OP_LE, CARD_OP_GE, CARD_OP_LT, CARD_OP_GT, CARD_OP_IN}, 7,
     false},
    {NULL, 0, true}, /* | */
    {(const card_op[]){CARD_OP_ADD, CARD_OP_SUB}, 2, true},
    {(const card_op[]){CARD_OP_MUL, CARD_OP_DIV, CARD_OP_FLOORDIV, CARD_OP_MOD}, 4, true},
};
enum { NUM_LEVELS = sizeof levels / sizeof *levels, LEVEL_ALT = 1 };

static bool eat_level(card_cursor *c, int level, card_op *op)
{
    if (level == LEVEL_ALT) return card_eat(c, "|");
    for (int i = 0; i < levels[level].num; i++)
        if (card_eat(c, card_op_text(levels[level].ops[i]))) {
            *op = levels[level].ops[i];
            return true;
        }
    return false;
}

static am_status parse_level(card_cursor *c, int level, card_ast **out)
{
    am_status st = AM_OK;
    card_ast *kid[2] = {NULL, NULL};
    if (level == NUM_LEVELS) return parse_unary(c, out);
    AM_TRY(parse_level(c, level + 1, &kid[0]));
    for (;;) {
        card_op op = CARD_OP_ADD;
        card_pos pos = card_peek(c, 0)->pos;
        if (!eat_level(c, level, &op)) break;
        AM_TRY(parse_level(c, level + 1, &kid[1]));
        AM_TRY(node(c, level == LEVEL_ALT ? CARD_A_ALT : CARD_A_BINARY, pos, 2, kid, &kid[0]));
        kid[0]->op = op;
        if (!levels[level].repeat) break;
    }
    *out = kid[0];
done:
    return st;
}

static am_status parse_not(card_cursor *c, card_ast **out)
{
    am_status st = AM_OK;
    card_pos pos = card_peek(c, 0)->pos;
    card_ast *kid = NULL;
    if (!card_eat(c, "not")) return parse_level(c, 0, out);
    CARD_CHECK(++c->depth < CARD_MAX_DEPTH, pos, "nested too deeply");
    AM_TRY(parse_not(c, &kid));
    AM_TRY(node(c, CARD_A_NOT, pos, 1, &kid, out));
    c->depth--;
done:
    return st;
}

static am_status parse_logic(card_cursor *c, bool is_or, card_ast **out)
{
    am_status st = AM_OK;
    card_ast *kid[2] = {NULL, NULL};
    AM_TRY(is_or ? parse_logic(c, false, &kid[0]) : parse_not(c, &kid[0]));
    for (;;) {
        card_pos pos = card_peek(c, 0)->pos;
        if (!card_eat(c, is_or ? "or" : "and")) break;
        AM_TRY(is_or ? parse_logic(c, false, &kid[1]) : parse_not(c, &kid[1]));
        AM_TRY(node(c, is_or ? CARD_A_OR : CARD_A_AND, pos, 2, kid, &kid[0]));
    }
    *out = kid[0];
done:
    return st;
}

am_status card_parse_expr(card_cursor *c, card_ast **out)
{
    am_status st = AM_OK;
    card_ast *kid[3] = {NULL, NULL, NULL};
    card_pos pos = card_peek(c, 0)->pos;
    CARD_CHECK(++c->depth < CARD_MAX_DEPTH, pos, "nested too deeply");
    AM_TRY(parse_logic(c, true, &kid[1]));
    pos = card_peek(c, 0)->pos;
    if (card_eat(c, "if")) {
        AM_TRY(parse_logic(c, true, &kid[0]));
        if (card_eat(c, "else")) AM_TRY(card_parse_expr(c, &kid[2]));
        AM_TRY(node(c, CARD_A_IF, pos, kid[2] ? 3 : 2, kid, out));
    } else {
        *out = kid[1];
    }
    c->depth--;
done:
    return st;
}
