/* Lexer and parser of model cards: positions of tokens, what parses, and every sentence of refusal with its
 * place. */
#include "card_test.h"

#include "graph/card_internal.h"

#include <string.h>

static void test_card__tokens_know_their_place(void **state)
{
    static const struct {
        const char *text;
        card_token_kind kind;
        int line, column;
    } want[] = {
        {"family", CARD_T_PATH, 1, 1}, {"a-b", CARD_T_WORD, 1, 8},      {"c", CARD_T_WORD, 1, 13},
        {"", CARD_T_NEWLINE, 1, 22},   {"x", CARD_T_PATH, 3, 3},        {"=", CARD_T_OP, 3, 5},
        {"f", CARD_T_PATH, 3, 7},      {"(", CARD_T_OP, 3, 8},          {".m.{i}.0.w", CARD_T_PATH, 3, 9},
        {"^T", CARD_T_OP, 3, 19},      {":", CARD_T_OP, 3, 22},         {"H", CARD_T_PATH, 3, 24},
        {"+", CARD_T_OP, 3, 26},       {"2", CARD_T_NUMBER, 4, 4},      {",", CARD_T_OP, 4, 5},
        {"1e-6", CARD_T_NUMBER, 4, 7}, {"**", CARD_T_OP, 4, 12},        {"0.5", CARD_T_NUMBER, 4, 15},
        {",", CARD_T_OP, 4, 18},       {"a # b", CARD_T_STRING, 4, 20}, {")", CARD_T_OP, 4, 27},
        {"", CARD_T_NEWLINE, 4, 28},   {"", CARD_T_END, 5, 1},
    };
    const char *text = "family a-b, c  # note\n"
                       "# a line of its own\n"
                       "  x = f(.m.{i}.0.w^T : H +   # continues\n"
                       "   2, 1e-6 ** 0.5, \"a # b\")\n";
    card_arena arena = {0};
    card_source src;
    expect_ok(card_lex(&arena, "t.card", text, strlen(text), &src));
    assert_int_equal(src.num_tokens, (int)(sizeof want / sizeof *want));
    for (int i = 0; i < src.num_tokens; i++) {
        assert_string_equal(src.token[i].text, want[i].text);
        assert_int_equal(src.token[i].kind, want[i].kind);
        assert_int_equal(src.token[i].pos.line, want[i].line);
        assert_int_equal(src.token[i].pos.column, want[i].column);
    }
    assert_int_equal(src.token[4].indent, 2);
    card_arena_release(&arena);
}

/* An expression as text with every operation in parentheses: what binds what. */
static void show(const card_ast *x, am_str *out)
{
    static const char *const kinds[] = {[CARD_A_IF] = "if",
                                        [CARD_A_OR] = "or",
                                        [CARD_A_AND] = "and",
                                        [CARD_A_NOT] = "not",
                                        [CARD_A_NEGATE] = "neg",
                                        [CARD_A_ALT] = "|",
                                        [CARD_A_INDEX] = "index",
                                        [CARD_A_AT] = "@",
                                        [CARD_A_TRANSPOSE] = "T",
                                        [CARD_A_SLOTS] = "slots",
                                        [CARD_A_TUPLE] = "tuple",
                                        [CARD_A_LIST] = "list",
                                        [CARD_A_COMPREHENSION] = "each",
                                        [CARD_A_MAP] = "map"};
    switch (x->kind) {
    case CARD_A_NONE:
        expect_ok(am_str_printf(out, "none"));
        return;
    case CARD_A_BOOL:
        expect_ok(am_str_printf(out, x->i ? "true" : "false"));
        return;
    case CARD_A_STRING:
        expect_ok(am_str_printf(out, "'%s'", x->text));
        return;
    case CARD_A_NUMBER:
    case CARD_A_PATH:
        expect_ok(am_str_printf(out, "%s", x->text));
        return;
    case CARD_A_CALL:
        expect_ok(am_str_printf(out, "%s(", x->text));
        break;
    case CARD_A_BINARY:
        expect_ok(am_str_printf(out, "(%s", card_op_text(x->op)));
        break;
    default:
        expect_ok(am_str_printf(out, "(%s", kinds[x->kind]));
    }
    for (int i = 0; i < x->num; i++) {
        expect_ok(am_str_printf(out, " "));
        show(x->kid[i], out);
    }
    for (int i = 0; i < x->num_args; i++) {
        expect_ok(am_str_printf(out, "%s%s%s%s", i ? ", " : "", x->arg[i].keyword ? x->arg[i].keyword : "",
                                x->arg[i].optional ? "?" : "",
                                x->arg[i].keyword && x->arg[i].value ? "=" : ""));
        if (x->arg[i].value) show(x->arg[i].value, out);
        if (x->arg[i].layout) expect_ok(am_str_printf(out, ":%d", x->arg[i].layout->num));
    }
    expect_ok(am_str_printf(out, ")"));
}

static void test_card__precedence(void **state)
{
    static const char *const cases[][2] = {
        {"a | b if c", "(if c (| a b))"},
        {"a if b else c if d else e", "(if b a (if d c e))"},
        {"a or b and not c == d | 1", "(or a (and b (not (== c (| d 1)))))"},
        {"a - b - c * d % e", "(- (- a b) (% (* c d) e))"},
        {"-a ** -b", "(neg (** a (neg b)))"},
        {"2 ** 3 ** 2", "(** 2 (** 3 2))"},
        {"n | 4 * D", "(| n (* 4 D))"},
        {"not i in (m | [])", "(not (in i (| m (list))))"},
        {"x[i][j].y", NULL},
        {"{\"a\": 1, \"b\": x}[s[i]]", "(index (map 'a' 1 'b' x) (index s i))"},
        {"[j for j < L if t[j] == \"h\"]", "(each j L (== (index t j) 'h'))"},
        {"[a if b else c for i < n]", "(each (if b a c) n)"},
        {"sum[e < E](w * f(h))", "(slots e (* w f(h)) E)"},
        {"each[e](h)", "(slots e h)"},
        {"sum(x)", "sum(x)"},
        {"k@src if s else (a, b)", "(if s (@ k src) (tuple a b))"},
        {"f(x, P.w[E]^T : F (1 + 1), bias?, k = 2, c? = true)",
         "f(x, (T (index P.w E)):2, bias?, k=2, c?=true)"},
        {"none | true", "(| none true)"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        card_arena arena = {0};
        card_ast *x = NULL;
        am_str text = {0};
        card_pos pos = {"t.card", 1, 1};
        am_status st = card_parse_text(&arena, cases[i][0], strlen(cases[i][0]), pos, &x);
        if (!cases[i][1]) {
            expect_error(st, AM_ERR_CARD, "left over");
        } else {
            expect_ok(st);
            show(x, &text);
            assert_string_equal(text.s, cases[i][1]);
        }
        am_str_release(&text);
        card_arena_release(&arena);
    }
}

#define HEAD "family t\nmodel:\n  logits = ids\n"

static void test_card__refusals_have_a_place(void **state)
{
    static const char *const cases[][2] = {
        {"family t\nconfig:\n\tL = 1\n", "t.card:3:1: a tab"},
        {"config:\n  s = \"abc\n", "t.card:2:7: this string has no closing"},
        {"config:\n  s = 4x\n", "t.card:2:7: `4x` is neither a number nor a name"},
        {"config:\n  s = a $ b\n", "t.card:2:9: `$` means nothing"},
        {"config:\n  s = f(a\n\n", "t.card:2:8: this ( is never closed"},
        {"config:\n  s = [a)\n", "t.card:2:9: this ) meets the [ opened at 2:7"},
        {"config:\n  s = a)\n", "t.card:2:8: this ) closes nothing"},
        {"config:\n  s = m.{i\n", "t.card:2:9: this { is never closed"},
        {"config:\n  s = m.{i}x\n", "t.card:2:10: a dot must follow the }"},
        {"config:\n  s = m.{i +}\n", "t.card:2:13: expected a value, found `end of line`"},
        {"config:\n  s = a b\n", "t.card:2:9: `b` is left over"},
        {"config:\n  s = + b\n", "t.card:2:7: expected a value, found `+`"},
        {"config:\n  s =\n", "t.card:2:6: expected a value, found `end of line`"},
        {"config:\n  s = ()\n", "t.card:2:7: an empty parenthesis"},
        {"config:\n  s = 99999999999999999999\n", "t.card:2:7: 99999999999999999999 does not fit"},
        {"config:\n  s = {a: 1}\n", "t.card:2:8: expected a string as key"},
        {"config:\n  s = [j for 3 < L]\n", "t.card:2:14: expected a variable after `for`"},
        {"config:\n  s = a.b(1)\n", "t.card:2:7: only a function's plain name can be called"},
        {"config:\n  s = (a + b)@c\n", "t.card:2:14: only a variable can stand left of @"},
        {"config:\n  s = f(x : )\n", "t.card:2:13: expected a dimension"},
        {"config:\n  s = f(x : H a.b)\n", "t.card:2:15: a dimension is a number or a plain name"},
        {"config:\n  head H = 1\n",
         "t.card:2:3: `head` is not a role (heads, kv_heads, ffn, vocab, experts); did you mean `heads`?"},
        {"config:\n  if = 1\n", "t.card:2:3: `if` is a word of the language"},
        {"config:\n  a.b = 1\n", "t.card:2:3: expected a definition, found `a.b`"},
        {"config:\n  abcdefghijklmnop = 1\n", "t.card:2:3: `abcdefghijklmnop` is longer than 15 letters"},
        {"config:\n  a = 1\n  b = 2\n  a = 3\n", "t.card:4:3: `a` is defined twice (first at line 2)"},
        {"config:\n  a = 1\n   b = 2\n",
         "t.card:3:4: this line is indented by 3, the others of its block by 2"},
        {"config:\nmodel:\n  a = 1\n", "t.card:2:1: config has no body"},
        {"  config:\n", "t.card:1:3: this line is indented but belongs to no block"},
        {"x = 1\n", "t.card:1:1: expected family, like, use"},
        {"family\n", "t.card:1:1: a name is missing"},
        {"like a b\n", "t.card:1:1: one name only"},
        {"like a\nlike b\n", "t.card:2:6: a second `like`"},
        {"spelling \"a.\"\n", "t.card:1:1: `spelling` needs the prefix"},
        {"model: x = 1\nmodel: y = 2\n", "t.card:2:1: a second `model:`"},
        {"def f(x, x): return x\n", "t.card:1:10: the parameter `x` stands twice"},
        {"def f(x): return x\ndef f(y): return y\n", "t.card:2:5: `f` is defined twice"},
        {"model:\n  a, a = f(x)\n", "t.card:2:3: `a` is assigned twice"},
        {"model:\n  for i in L:\n    x = 1\n",
         "t.card:2:9: expected `<` after the loop variable, found `in`"},
        {"config:\n  a = 1\n", "t.card:1:1: no `family` line"},
        {"family t\nconfig:\n  a = 1\n", "t.card:1:1: neither this card"},
        {"family t\nlike other\n", "t.card:2:6: `other` cannot be looked up"},
        {HEAD "config:\n  a = b\n  b = c + 1\n  c = 2 * a\n",
         "t.card:7:11: definitions in a circle: a → b → c → a"},
        {HEAD "config:\n  eps = eps | 1\n", "t.card:5:9: the definition `eps` reads itself"},
        {HEAD "config:\n  h = 1\ndef f(x):\n  h = x\n  return h\n",
         "t.card:7:3: `h` would hide the definition of that name (t.card:5)"},
        {HEAD "config:\n  h = [h for h < 2]\n", "t.card:5:7: `h` would hide the definition"},
        {HEAD "def f(x):\n  pos = x\n  return pos\n", "t.card:5:3: `pos` is an input of the model"},
        {HEAD "def rope(x): return x\n", "t.card:4:5: `rope` is a function of the language"},
        {HEAD "def len(x): return x\n", "t.card:4:5: `len` is a function of the language"},
        {HEAD "config:\n  f = 1\ndef f(x): return x\n", "t.card:6:5: `f` is a definition already (t.card:5)"},
        {HEAD "def f(x): y = x\n", "t.card:4:11: the function `f` does not end in a `return`"},
        {HEAD "def f(x):\n  return x\n  y = x\n", "does not end in a `return`"},
        {HEAD "def f(x):\n  return x\n  return x\n", "t.card:5:3: nothing can follow a `return`"},
        {"family t\nmodel:\n  return ids\n", "t.card:3:3: `return` outside of a function"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        am_card *c = NULL;
        expect_error(am_card_parse(cases[i][0], "t.card", NULL, &c), AM_ERR_CARD, cases[i][1]);
        assert_null(c);
    }
}

static void test_card__deep_nesting_is_refused(void **state)
{
    char text[4096] = "family t\nconfig:\n  a = ";
    for (int i = 0; i < 1000; i++) strncat(text, "(", 2);
    am_card *c = NULL;
    for (int i = 0; i < 1000; i++) strncat(text, ")", 2);
    expect_error(am_card_parse(text, "t.card", NULL, &c), AM_ERR_CARD, "nested too deeply");
}

/* Print of the flattened card, parsed again, prints the same. */
static void test_card__printed_card_is_a_card(void **state)
{
    static const char *const files[] = {"llama.card", "mistral.card", "qwen2.card", "qwen3.card"};
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        am_card *c = open_family(files[i]), *again = NULL;
        am_str a = {0}, b = {0};
        expect_ok(am_card_print(c, &a));
        expect_ok(am_card_parse(a.s, "printed.card", NULL, &again));
        expect_ok(am_card_print(again, &b));
        assert_string_equal(a.s, b.s);
        assert_null(strstr(a.s, "like"));
        assert_non_null(strstr(a.s, "ignore *.rotary_emb.inv_freq"));
        assert_non_null(strstr(a.s, "\n  kv_heads K = ")); /* a role stays with its name */
        assert_non_null(strstr(a.s, "def swiglu(h, name P, M):"));
        if (i == 1) assert_null(strstr(a.s, "bm = mlp_bias"));
        am_str_release(&a);
        am_str_release(&b);
        am_card_free(&c);
        am_card_free(&again);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_card__tokens_know_their_place),
        cmocka_unit_test(test_card__precedence),
        cmocka_unit_test(test_card__refusals_have_a_place),
        cmocka_unit_test(test_card__deep_nesting_is_refused),
        cmocka_unit_test(test_card__printed_card_is_a_card),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
