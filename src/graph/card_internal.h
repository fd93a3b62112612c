/* card_internal: the card front end's own types, for src/graph/card*.c only.
 * Order of the stages, one file each:
 *   card_lex    text → tokens with line:column            card_parse, card_expr   tokens → items, statements, expressions
 *   card        files, `like`, `use`, printing            card_check              what can be judged without a config.json
 *   card_value, card_scalar, card_eval  expressions       card_rope               rotary frequency tables
 *   card_layout the algebra of shapes and views           card_names              names, checkpoint tensors
 *   card_params parameters, parts of fused tensors        card_tuple              operators over several values
 *   card_call   calls, registered operators               card_ops, card_arith, card_attention  operators → graph nodes
 *   card_keys   which keys of config.json were named      card_elaborate          the model block, layer by layer
 *   card_moe    selection, sum[e], each[e]
 *   card_norm   rmsnorm, layernorm                        card_light  functions of features, softmax, where, cat, f32 */
#ifndef AM_CARD_INTERNAL_H
#define AM_CARD_INTERNAL_H

#include "graph/card.h"
#include "graph/layout.h"

/* ---- memory and errors --------------------------------------------------------------------------- */

typedef struct card_arena { struct card_block *block; } card_arena;
/** Zeroed bytes that live as long as the arena. */
am_status card_alloc(card_arena *a, size_t bytes, void *out_ptr) AM_WARN_UNUSED;
am_status card_strndup(card_arena *a, const char *s, size_t n, const char **out) AM_WARN_UNUSED;
am_status card_printf(card_arena *a, const char **out, const char *fmt, ...) AM_PRINTF(3, 4) AM_WARN_UNUSED;
void      card_arena_release(card_arena *a);

/* A list of pointers in an arena. */
typedef struct card_list {
    void **at;
    int    num, cap;
} card_list;
am_status card_push(card_arena *a, card_list *l, void *item) AM_WARN_UNUSED;
bool      card_has_string(const card_list *l, const char *s);

typedef struct card_pos {
    const char *file;
    int         line, column; /* from 1 */
} card_pos;

#define CARD_FAIL(pos_, fmt_, ...)                                                                                  \
    AM_FAIL(AM_ERR_CARD, "%s:%d:%d: " fmt_, (pos_).file, (pos_).line, (pos_).column, ##__VA_ARGS__)
#define CARD_CHECK(cond_, pos_, ...)                                                                                \
    do {                                                                                                            \
        if (!(cond_)) CARD_FAIL(pos_, __VA_ARGS__);                                                                 \
    } while (0)

/* ---- tokens --------------------------------------------------------------------------------------- */

typedef enum card_token_kind {
    CARD_T_NUMBER, CARD_T_STRING, CARD_T_PATH, CARD_T_OP, CARD_T_WORD, CARD_T_NEWLINE, CARD_T_END
} card_token_kind;

typedef struct card_token {
    card_token_kind kind;
    const char     *text; /* PATH "model.layers.{i}.mlp", ".mlp", "D"; STRING without quotes; WORD of family, like, use, ignore */
    card_pos        pos;
    int             indent;     /* of the logical line it stands in */
    size_t          begin, end; /* bytes in the source */
} card_token;

typedef struct card_source {
    const char *file, *text;
    size_t      len;
    card_token *token;
    int         num_tokens;
} card_source;

/** Cut the text into tokens: blanks and comments vanish, a logical line ends in NEWLINE, an open bracket continues it. */
am_status card_lex(card_arena *a, const char *file, const char *text, size_t len, card_source *out) AM_WARN_UNUSED;

/* ---- syntax ---------------------------------------------------------------------------------------- */

/* X(enumerator, spelling) */
#define CARD_OP_LIST(X)                                                                                             \
    X(ADD, "+") X(SUB, "-") X(MUL, "*") X(DIV, "/") X(FLOORDIV, "//") X(MOD, "%") X(POW, "**") X(EQ, "==")          \
    X(NE, "!=") X(LE, "<=") X(GE, ">=") X(LT, "<") X(GT, ">") X(IN, "in")
typedef enum card_op {
#define X(e, s) CARD_OP_##e,
    CARD_OP_LIST(X)
#undef X
    CARD_OP_COUNT
} card_op;
const char *card_op_text(card_op op);

typedef enum card_ast_kind {
    CARD_A_NUMBER, CARD_A_STRING, CARD_A_BOOL, CARD_A_NONE,
    CARD_A_PATH,      /* seg[] */
    CARD_A_IF,        /* kid: condition, then, else (absent: none) */
    CARD_A_OR, CARD_A_AND, CARD_A_NOT, CARD_A_NEGATE,
    CARD_A_BINARY,    /* op */
    CARD_A_ALT,       /* a | b: b where a is none */
    CARD_A_INDEX,     /* a[b] */
    CARD_A_AT,        /* a@b: a as it was at the end of layer b */
    CARD_A_TRANSPOSE, /* a^T: a tensor stored [in, out] */
    CARD_A_CALL,      /* text(arg…) */
    CARD_A_SLOTS,     /* sum[e](x), each[e < E](x): text, kid: slots, body, bound (may be NULL) */
    CARD_A_TUPLE, CARD_A_LIST,
    CARD_A_COMPREHENSION, /* [kid0 for text < kid1 if kid2] */
    CARD_A_MAP            /* kid: key, value, key, value, … */
} card_ast_kind;

typedef struct card_ast card_ast;
typedef struct card_lay card_lay;

/* One piece of a dotted path: a word, or an expression in braces. */
typedef struct card_seg {
    const char *text;
    card_ast   *expr;
} card_seg;

typedef struct card_arg {
    card_pos    pos;
    const char *keyword;  /* NULL: by position */
    bool        optional; /* bias?: where the file has it */
    card_ast   *value;    /* NULL after `bias?` alone */
    card_lay   *layout;   /* after `:`; NULL */
} card_arg;

struct card_ast {
    card_ast_kind kind;
    card_pos      pos;
    card_op       op;
    const char   *text;    /* STRING, CALL, SLOTS, COMPREHENSION; PATH: as written */
    bool          integer; /* NUMBER: i holds it */
    int64_t       i;       /* BOOL too */
    double        r;
    int           num;
    card_ast    **kid;
    int           num_segs;
    card_seg     *seg;
    bool          relative; /* PATH with a leading dot: of this layer */
    int           num_args;
    card_arg     *arg;
};

/* A layout as written; sizes come with the config. */
struct card_lay {
    am_layout_kind kind;
    card_pos       pos;
    const char    *text; /* DIM: a name or a number */
    card_ast      *ref;  /* DIM: the name as a path; NULL for a number */
    bool           repeat; /* SUM: part[1] as many times as part[0] says */
    int            num;
    card_lay     **part;
};

typedef enum card_stmt_kind { CARD_S_ASSIGN, CARD_S_RETURN, CARD_S_FOR } card_stmt_kind;
typedef struct card_stmt card_stmt;
struct card_stmt {
    card_stmt_kind kind;
    card_pos       pos;
    int            num_names; /* ASSIGN: targets; FOR: the variable */
    const char   **name;
    card_ast      *expr; /* ASSIGN, RETURN: the value; FOR: the count */
    card_ast      *at;   /* FOR … at PREFIX; NULL */
    card_list      body; /* of card_stmt */
};

typedef struct card_def { /* config: [role] NAME = expression */
    const char *name;
    am_role     role;
    card_pos    pos;
    card_ast   *expr;
    const char *text;  /* as in the file, without the role; for printing */
    int         index; /* among the card's definitions */
} card_def;

typedef struct card_func { /* def NAME(x, name P): */
    const char  *name;
    card_pos     pos;
    int          num_params;
    const char **param;
    bool        *is_name;
    card_list    body;
    const char  *text;
} card_func;

typedef struct card_word { /* a pattern of an ignore line, a required expression, a spelling */
    card_pos    pos;
    const char *text;
    card_ast   *expr; /* require */
} card_word;

struct am_card {
    card_arena  arena;
    const char *path, *name;
    card_list   families;                          /* of card_word, as are the next ones */
    card_list   like, use;
    card_list   ignore_tensors, ignore_keys, spelling, require;
    card_list   defs;                              /* of card_def */
    card_list   funcs;                             /* of card_func */
    card_list   model;                             /* of card_stmt */
    bool        has_model;
    card_pos    model_pos;
    const char *model_text;
};

/** Items of one file, without what `like` and `use` bring. */
am_status card_parse_source(card_source *src, am_card *card) AM_WARN_UNUSED;
/* a cursor over tokens, shared by card_parse and card_expr */
#define CARD_MAX_DEPTH 200 /* of nested brackets, operators and blocks */
typedef struct card_cursor {
    card_arena  *arena;
    card_source *src;
    int          at, depth;
} card_cursor;
const card_token *card_peek(const card_cursor *c, int ahead);
bool      card_is(const card_cursor *c, const char *text); /* an operator or a word that is reserved */
bool      card_eat(card_cursor *c, const char *text);
am_status card_need(card_cursor *c, const char *text, const char *where) AM_WARN_UNUSED;
/** What stands here, for "found …": never NULL. */
const char *card_found(const card_cursor *c);
bool        card_reserved(const char *word);
bool        card_is_identifier(const char *word);
am_status   card_parse_expr(card_cursor *c, card_ast **out) AM_WARN_UNUSED;
am_status   card_parse_path(card_cursor *c, card_ast **out) AM_WARN_UNUSED;
am_status   card_parse_layout(card_cursor *c, card_lay **out) AM_WARN_UNUSED;
/** A name inside of a longer text ("{E..X}" in ignore lines): an expression parsed from `text`. */
am_status card_parse_text(card_arena *a, const char *text, size_t len, card_pos pos, card_ast **out) AM_WARN_UNUSED;

const card_def  *card_find_def(const am_card *c, const char *name);
const card_func *card_find_func(const am_card *c, const char *name);
/** Shadowing, cycles, misplaced statements: everything that needs no config.json. */
am_status card_check(const am_card *c) AM_WARN_UNUSED;
/** Call expr for every expression within `x`, dimensions of layouts and braces of names included. */
typedef struct card_visitor {
    am_status (*expr)(void *self, const card_ast *x);
    void *self;
} card_visitor;
am_status card_walk(const card_ast *x, const card_visitor *v) AM_WARN_UNUSED;
am_status card_walk_body(const card_list *body, const card_visitor *v) AM_WARN_UNUSED;

/* ---- values ---------------------------------------------------------------------------------------- */

/* X(enumerator, how a sentence calls it) */
#define CARD_KIND_LIST(X)                                                                                           \
    X(NONE, "none") X(BOOL, "true or false") X(INT, "an integer") X(REAL, "a number") X(STR, "a string")             \
    X(LIST, "a list") X(MAP, "a map") X(VALUE, "a tensor") X(TUPLE, "several values") X(NAME, "a tensor name")       \
    X(ROPE, "a rope table")
typedef enum card_kind {
#define X(e, s) CARD_V_##e,
    CARD_KIND_LIST(X)
#undef X
} card_kind;

typedef struct card_name {
    const char *text; /* without ".weight"; an axis over names stands in it as "{E}" */
    bool        transpose;
    const char *stacked; /* the definition that is an axis over names, P.{E}.w, or the first axis of one tensor, W[E]; NULL */
    bool        many;    /* … over names */
    am_dim      axis;    /* … with its size and role */
} card_name;

typedef struct card_rope {
    int64_t dim; /* features turned: 2 × num */
    int64_t num;
    double *inv_freq;
    double  factor; /* multiplies cos and sin */
    int     cos, sin; /* graph values once made; -1 */
} card_rope;

typedef struct card_val card_val;
struct card_val {
    card_kind        kind;
    int64_t          i; /* INT, BOOL; VALUE: index in the graph */
    double           r;
    const char      *s;
    int              num; /* LIST, TUPLE, MAP */
    const card_val  *item;
    const char     **key;
    const card_name *name;
    card_rope       *rope;
    const card_def  *dim;    /* INT that is the definition itself: dimensions keep its name and role */
    const card_ast  *origin; /* NONE: the path that gave nothing; REAL: the division that did not come out */
};
const char *card_kind_text(card_kind k);
am_status   card_from_json(card_arena *a, const json_t *j, card_val *out) AM_WARN_UNUSED;
const card_val *card_map_get(const card_val *map, const char *key); /* NULL when absent */
bool        card_equal(const card_val *a, const card_val *b);
am_status   card_describe(const card_val *v, am_str *out) AM_WARN_UNUSED; /* as one would write it: 3, "yarn", [1, 2] */
static inline card_val card_none(const card_ast *origin) { return (card_val){.kind = CARD_V_NONE, .origin = origin}; }
static inline card_val card_bool(bool b) { return (card_val){.kind = CARD_V_BOOL, .i = b}; }
static inline card_val card_int(int64_t i) { return (card_val){.kind = CARD_V_INT, .i = i}; }
static inline card_val card_real(double r) { return (card_val){.kind = CARD_V_REAL, .r = r}; }
static inline card_val card_str(const char *s) { return (card_val){.kind = CARD_V_STR, .s = s}; }
static inline card_val card_value(int v) { return (card_val){.kind = CARD_V_VALUE, .i = v}; }
/* what an operator gives that has one output or several: `item` lives as long as the elaboration */
static inline card_val card_values(const card_val *item, int num)
{
    return num == 1 ? item[0] : (card_val){.kind = CARD_V_TUPLE, .num = num, .item = item};
}
/* … or one for each part of a layout: [1] p is several values too */
static inline card_val card_part_values(const card_lay *l, const card_val *item, int num)
{
    return l && l->repeat ? (card_val){.kind = CARD_V_TUPLE, .num = num, .item = item} : card_values(item, num);
}
static inline bool card_is_number(const card_val *v) { return v->kind == CARD_V_INT || v->kind == CARD_V_REAL; }
static inline double card_number(const card_val *v) { return v->kind == CARD_V_INT ? (double)v->i : v->r; }

/* ---- elaboration ------------------------------------------------------------------------------------- */

typedef struct card_loop { /* a bound loop or comprehension variable */
    const char       *name;
    int64_t           i;
    struct card_loop *outer;
} card_loop;

typedef struct card_binding {
    const char *name;
    card_val    val;
} card_binding;
typedef struct card_frame {
    card_binding *at;
    size_t        num, cap;
} card_frame;

typedef struct card_tensor { /* of the checkpoint */
    const am_safetensors_tensor *t;
    const char *used_by; /* "file:line:column"; NULL: not yet used */
} card_tensor;

typedef struct card_def_state {
    int64_t  epoch; /* of the cached value; 0: none */
    bool     busy;
    card_val val;
} card_def_state;

typedef struct card_route card_route; /* card_moe.c */

/* The value of an operand while its operator is built: it is not evaluated again (card_tuple). */
typedef struct card_given {
    const card_ast    *operand;
    const card_val    *val;
    struct card_given *outer;
} card_given;

typedef struct card_elab {
    am_card                *card;
    am_graph               *g;
    const am_hf_model      *model;
    const am_card_options  *options;
    card_arena              arena;
    card_val                config;
    card_def_state         *state; /* by definition */
    card_loop              *loop;
    int64_t                 epoch, next_epoch; /* changes with every loop variable: key of cached definitions */
    card_frame             *frame;   /* of the running function; NULL inside of a config definition */
    card_frame              globals; /* of the model block */
    card_frame             *snapshot; /* globals at the end of every layer, for k@src */
    size_t                  num_snapshots, cap_snapshots;
    const char             *base;    /* what a leading dot stands for; NULL outside of the layers */
    int                     layer;   /* tag of nodes */
    int                     layers_done, at_depth, call_depth;
    card_tensor            *tensor; /* by name */
    size_t                  num_tensors;
    int                     spelling; /* chosen; -1 before */
    int                     wrapper;  /* of a model with other parts, how names are changed: chosen; -1 before; CARD_NO_WRAPPER */
    int                     tied;     /* a wrapper's tie_word_embeddings: 1, -1; 0: it says nothing */
    card_route             *route;  /* of the sum[e] or each[e] around the expression at hand; NULL outside */
    card_list               routes; /* of card_route */
    card_list               ropes;
    card_list               aliases; /* of card_alias */
    card_given             *given;   /* operands whose value is known */
} card_elab;

/* `alias` is not in the checkpoint and stands for `name`, or both are there and equal (copy). */
typedef struct card_alias {
    const char *alias, *name;
    bool        copy;
} card_alias;

/** Ready to evaluate: config.json read, tensors sorted.  close releases what open and the rest took. */
am_status card_elab_open(card_elab *e, am_card *c, const am_hf_model *model, const am_card_options *options, am_graph *g)
    AM_WARN_UNUSED;
void      card_elab_close(card_elab *e);

/* expressions */
am_status card_eval(card_elab *e, const card_ast *x, card_val *out) AM_WARN_UNUSED;
am_status card_eval_def(card_elab *e, const card_def *d, card_val *out) AM_WARN_UNUSED;
am_status card_eval_name(card_elab *e, const card_ast *x, const card_name **out) AM_WARN_UNUSED;
am_status card_eval_path(card_elab *e, const card_ast *x, card_val *out) AM_WARN_UNUSED;
am_status card_eval_call(card_elab *e, const card_ast *x, card_val *out) AM_WARN_UNUSED;
am_status card_name_value(card_elab *e, const card_ast *x, card_val *out) AM_WARN_UNUSED; /* eval_name as a value */
am_status card_call_func(card_elab *e, const card_func *f, const card_ast *call, card_val *out) AM_WARN_UNUSED;
am_status card_truth(const card_val *v, card_pos pos, bool *out) AM_WARN_UNUSED;
am_status card_scalar_op(card_elab *e, const card_ast *x, const card_val *a, const card_val *b, card_val *out) AM_WARN_UNUSED;
/** len, min, sqrt, given, … over configuration values.  *known = false: not such a function. */
am_status card_scalar_call(card_elab *e, const card_ast *call, bool *known, card_val *out) AM_WARN_UNUSED;
bool      card_is_scalar_function(const char *name);
const char *card_scalar_function(int i); /* NULL after the last */
am_status card_want_int(card_elab *e, const card_val *v, card_pos pos, const char *what, int64_t least, int64_t *out)
    AM_WARN_UNUSED;
am_status card_want_number(card_elab *e, const card_val *v, card_pos pos, const char *what, double *out) AM_WARN_UNUSED;
/** "`x` is not in config.json …, did you mean …": the sentence for a none where a value is needed. */
am_status card_fail_none(card_elab *e, const card_val *v, card_pos pos, const char *what) AM_WARN_UNUSED;
void      card_bind_loop(card_elab *e, card_loop *l, const char *name, int64_t i);
void      card_unbind_loop(card_elab *e, const card_loop *l, int64_t epoch);
card_val *card_lookup(const card_frame *f, const char *name);
am_status card_set(card_frame *f, const char *name, const card_val *v) AM_WARN_UNUSED;
am_status card_run(card_elab *e, const card_list *body, card_val *result, bool *returned) AM_WARN_UNUSED;

/* call arguments */
const card_arg *card_keyword(const card_ast *call, const char *name);
const card_arg *card_positional(const card_ast *call, int i); /* NULL beyond the last */
int             card_num_positional(const card_ast *call);
/** Positional count within [least, most], keywords among `names` (NULL-terminated). */
am_status card_check_args(const card_ast *call, int least, int most, const char *const *names) AM_WARN_UNUSED;

/* operators: builders and what they share (card_ops) */
typedef am_status (*card_build_fn)(card_elab *e, const card_ast *x, card_val *out);

/* several values as one operand (card_tuple) */
/** Build a call; where its operand is several values and the operator works on each by itself, once for each. */
am_status card_build(card_elab *e, const card_ast *call, card_build_fn build, card_val *out) AM_WARN_UNUSED;
/** a op b where at least one is several values: value by value; the other may be one value or a number. */
am_status card_map_binary(card_elab *e, const card_ast *x, card_op op, const card_val *a, const card_val *b, card_val *out)
    AM_WARN_UNUSED;
/** A value or several times a number. */
am_status card_map_scale(card_elab *e, card_pos pos, const card_val *v, double factor, card_val *out) AM_WARN_UNUSED;
/** y[i] of several values; x is the indexing expression. */
am_status card_tuple_item(card_elab *e, const card_ast *x, const card_val *tuple, const card_val *index, card_val *out)
    AM_WARN_UNUSED;
typedef struct card_builder {
    const char   *name;
    card_build_fn build;
} card_builder;
extern const card_builder card_light_builders[], card_norm_builders[];
extern const card_builder card_delta_builders[];
extern const card_builder card_attention_builders[], card_tensor_builders[], card_arith_builders[], card_scan_builders[], card_moe_builders[]; /* end with name NULL */
/** Append a node; an error of the operator's own checks gets the card's position.  *out: its first output. */
am_status card_emit(card_elab *e, card_pos pos, const char *op, const int *in, int num_in, const am_attrs *attrs, int *out)
    AM_WARN_UNUSED;
/** Operand i as a floating tensor of any dims: of the tokens or not. */
am_status card_features_operand(card_elab *e, const card_ast *x, int i, int *out) AM_WARN_UNUSED;
/** Operand i as a floating tensor [tokens, features …]. */
am_status card_tensor_operand(card_elab *e, const card_ast *x, int i, int *out) AM_WARN_UNUSED;
am_status card_number_operand(card_elab *e, const card_ast *x, int i, const char *name, double *out) AM_WARN_UNUSED;
/** Options by name: absent or none gives `fallback` (false). */
am_status card_number_option(card_elab *e, const card_ast *x, const char *name, double fallback, double *out) AM_WARN_UNUSED;
am_status card_truth_option(card_elab *e, const card_ast *x, const char *name, bool *out) AM_WARN_UNUSED;
/** An option of the language that no operator has: allowed only while it is off. */
am_status card_refuse_option(card_elab *e, const card_ast *x, const char *name) AM_WARN_UNUSED;
/** The layout after operand i's `:`, its one part, and a value seen with the dims [N, part]. */
am_status card_want_layout(card_elab *e, const card_ast *x, int i, const am_layout **out) AM_WARN_UNUSED;
am_status card_single_part(const card_ast *x, card_pos pos, const am_layout *l, am_layout_part *p) AM_WARN_UNUSED;
am_status card_view_as(card_elab *e, int value, const am_layout_part *p, int *out) AM_WARN_UNUSED;
am_status card_graph_call(card_elab *e, const card_ast *call, card_val *out) AM_WARN_UNUSED;
am_status card_graph_binary(card_elab *e, const card_ast *x, card_op op, const card_val *a, const card_val *b, card_val *out)
    AM_WARN_UNUSED;
/** value in another dtype, itself where it has it. */
am_status card_cast(card_elab *e, card_pos pos, int value, am_dtype dtype, int *out) AM_WARN_UNUSED;
/** Features as they are; `pos` as features of the precise dtype; other integers are refused. */
am_status card_as_features(card_elab *e, card_pos pos, int value, int *out) AM_WARN_UNUSED;
/** Operands (-1: none) in one dtype: the precise one where one of them has that. */
am_status card_promote(card_elab *e, card_pos pos, int *in, int num) AM_WARN_UNUSED;
/** The row `map` with these attributes, of features. */
am_status card_map(card_elab *e, card_pos pos, int value, const am_attrs *attrs, int *out) AM_WARN_UNUSED;
/** Several values side by side in the last dimension. */
am_status card_cat(card_elab *e, card_pos pos, const card_val *values, int *out) AM_WARN_UNUSED;
/** A function of numbers (sqrt, sum, low, …) called with tensors. */
am_status card_value_function(card_elab *e, const card_ast *x, const card_val *arg, int num, card_val *out) AM_WARN_UNUSED;
am_status card_graph_scale(card_elab *e, card_pos pos, int value, double factor, int *out) AM_WARN_UNUSED;
am_status card_dims_text(const card_elab *e, int value, am_str *out) AM_WARN_UNUSED; /* "[N, H=9, d=64]" */
/** Is there such a function: scalar, operator, word of the language without operator, row of the graph's table? */
bool card_knows_function(const card_elab *e, const char *name);
am_status card_suggest_function(const card_elab *e, const char *name, const char **out) AM_WARN_UNUSED;
/** A word of the language that makes graph nodes, with an operator row or without. */
bool card_is_operator(const char *name);
/** "the language has `topk` but …" */
am_status card_refuse_op(card_pos pos, const char *name) AM_WARN_UNUSED;

/** A linear layer by W[H] needs a value whose dims begin with H (card_delta). */
am_status card_want_blocks(card_elab *e, const card_ast *x, const card_name *w, const am_value *v) AM_WARN_UNUSED;

/** slopes(H): ALiBi's, a list of numbers (card_attention). */
am_status card_slopes(card_elab *e, const card_ast *call, const card_val *arg, card_val *out) AM_WARN_UNUSED;

/* selection and experts (card_moe) */
am_status card_eval_slots(card_elab *e, const card_ast *x, card_val *out) AM_WARN_UNUSED; /* sum[e](…), each[e](…) */
/** value[index]: by integers that a selection gave. */
am_status card_pick(card_elab *e, const card_ast *x, int value, const card_val *index, card_val *out) AM_WARN_UNUSED;
/** The operand of a product with a tensor stacked over experts, [N, …]: sorted by expert, once; *value becomes [sorted, …]. */
am_status card_sorted_operand(card_elab *e, card_pos pos, int *value) AM_WARN_UNUSED;
/** The product of sorted rows in[0] with weights in[1] [E, out, in] and biases in[2] [E, out] (-1: none). */
am_status card_emit_grouped(card_elab *e, card_pos pos, const int *in, int *out) AM_WARN_UNUSED;
/** Inside of sum[e](…) and each[e](…): operands of which one is sorted and the other is not.  Sorts the other into in[], or gives
 *  the product with a factor for each slot, which is then *out (*made). */
am_status card_sorted_pair(card_elab *e, card_pos pos, card_op op, int *in, bool *made, int *out) AM_WARN_UNUSED;

/* layouts */
am_status card_layout_resolve(card_elab *e, const card_lay *l, const am_layout **out) AM_WARN_UNUSED;
am_status card_dim_of(card_elab *e, const card_val *v, const char *name, card_pos pos, am_dim *out) AM_WARN_UNUSED;
am_status card_layout_of_dims(card_elab *e, const am_dim *dims, int n, const am_layout **out) AM_WARN_UNUSED;

/* tensors */
am_status card_open_tensors(card_elab *e) AM_WARN_UNUSED;
am_status card_check_leftover(card_elab *e) AM_WARN_UNUSED;
/** Find ties (`a | b` as a name) that the files decide. */
am_status card_resolve_tie(card_elab *e, const card_ast *alt, const card_name **out) AM_WARN_UNUSED;
am_status card_find_aliases(card_elab *e) AM_WARN_UNUSED;
bool      card_tensor_exists(card_elab *e, const char *name, card_pos pos);

/* One of the parameters that a tensor of the checkpoint is read as. */
typedef struct card_part {
    int            value; /* its compute value: [.., size, ..] in the graph, contiguous */
    am_layout_part dims;  /* of the split axis: its size, and the dimensions of the features that are made of it */
} card_part;

/** The parameters of tensor NAME+suffix, whose `rank` axes have these layouts (in the graph's order: [out, in]; a ^T of the
 *  name swaps the last two on disk), checked against the checkpoint: one for every part of axes[split], from the left; one in
 *  all where that has no sum.  Each is a parameter of its own, contiguous, whose am_disk_view knows its part (`W#0`, `W#1` …).
 *  A name with experts, P.experts.{E}.w (the suffix is added) or W[E] (the full name: no suffix is added), gives every parameter a
 *  further first axis: [E, out, in], and [E, out] for a bias; rank, axes and split count without it.  An axis over heads,
 *  P.norms.{H}, adds none: it is the first dimension of axes[0].
 *  @param[out] parts  *num of them, alive as long as the elaboration */
am_status card_weights(card_elab *e, const card_name *n, const char *suffix, card_pos pos, int rank, const am_layout *const *axes,
                       int split, const card_part **parts, int *num) AM_WARN_UNUSED;
/** The same for a tensor that is one parameter: no sum in any axis. */
am_status card_param(card_elab *e, const card_name *n, const char *suffix, card_pos pos, int rank, const am_layout *const *axes,
                     int *value) AM_WARN_UNUSED;
/** The features of several values one after the other, as the layout of one axis: (v, B, C) of conv((v, B, C), W). */
am_status card_layout_of_values(card_elab *e, const card_val *values, int num, const am_layout **out) AM_WARN_UNUSED;
/** Every tensor of the checkpoint is read in one way, and where it is split by all its parts. */
am_status card_check_views(card_elab *e) AM_WARN_UNUSED;
/* models with other parts than text (card_wrapper) */
#define CARD_NO_WRAPPER (-2)
/** e->config: of config.json, or of the text model that is nested in it where the card is for that one. */
am_status card_open_config(card_elab *e) AM_WARN_UNUSED;
/** A text model's tensor as the whole model names it.  The first that is found decides. */
am_status card_wrapped_name(card_elab *e, const char *name, card_pos pos, const char **out) AM_WARN_UNUSED;
/** The same for a pattern, once that is decided. */
am_status card_wrapped_pattern(card_elab *e, const char *pattern, const char **out) AM_WARN_UNUSED;
/** A tensor that belongs to no text model: carried unchanged. */
bool      card_is_other_part(const card_elab *e, const char *tensor);
/** The sentence about them; carried: by tensor. */
am_status card_describe_carried(const card_elab *e, const bool *carried, am_str *out) AM_WARN_UNUSED;

/* … and what card_names lends card_params */
am_status card_disk_name(card_elab *e, const char *name, card_pos pos, const char **out) AM_WARN_UNUSED;
card_tensor *card_find_tensor(const card_elab *e, const char *name);
const char *card_file_of(const card_elab *e, const am_safetensors_tensor *t);
/** The name a tied tensor is read under, and the one that is written along with it (NULL: none). */
void      card_follow_alias(const card_elab *e, const char **name, const char **copy);
/** Shape of a tensor [axes] against the file's; marks it as used.  Axes of size 1 count for nothing. */
am_status card_check_on_disk(card_elab *e, const char *name, card_pos pos, int rank, const am_layout *const *axes) AM_WARN_UNUSED;

/* rope, keys */
am_status card_rope_table(card_elab *e, const card_ast *call, card_val *out) AM_WARN_UNUSED;
am_status card_rope_values(card_elab *e, card_rope *r, card_pos pos) AM_WARN_UNUSED;
bool      card_option_ignores(const card_elab *e, const char *key);
am_status card_check_keys(card_elab *e) AM_WARN_UNUSED;
am_status card_check_functions(card_elab *e) AM_WARN_UNUSED;

#endif
