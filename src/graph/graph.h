/* graph: a model as data, and the passes that turn it into a program.
 *
 *   card + config.json ─► am_graph (forward nodes of one model)            card.h
 *   am_graph ─► passes: freeze, fuse, head, autodiff, recompute, shard, optimizer, waits, memory plan
 *            ─► am_program: segments of operators + schedule + memory map  program.h
 *
 * This header is the middle representation: parameters, values, nodes.  Everything lives in one am_graph and is named by
 * index (int).  A graph holds no pointer to weights, communicator or device: building it is pure.
 *
 * Legend: N tokens of a micro-batch (rows × sequence length, flattened; a bounded dimension: planned maximum, actual count
 * at run time), H query heads, K kv heads, d head width, D model width, F feed-forward width, V vocabulary. */
#ifndef AM_GRAPH_H
#define AM_GRAPH_H

#include "base/base.h"
#include "kernels.h"
#include "mesh/mesh.h"

typedef struct am_graph am_graph;

/* ---- dimensions ------------------------------------------------------------------------------------ */

/* What a card says about parallelism, and all it says.  TOKENS is given by the engine. */
#define AM_ROLE_LIST(X) X(NONE, "") X(TOKENS, "tokens") X(HEADS, "heads") X(KV_HEADS, "kv_heads") X(FFN, "ffn") \
                        X(VOCAB, "vocab") X(EXPERTS, "experts")
typedef enum am_role {
#define X(e, name) AM_ROLE_##e,
    AM_ROLE_LIST(X)
#undef X
} am_role;

typedef struct am_dim {
    char    name[16]; /* as in the card: "H", "d", "F"; "N" for tokens; a number for an anonymous dimension */
    am_role role;
    int64_t global;  /* size in the whole model */
    int64_t granule; /* cut only at multiples of this */
    int64_t start;   /* global index of the first element here */
    int64_t local;   /* size here; equals global until a pass cuts it */
} am_dim;

/* A tree of the layout algebra (CARDS.md): a dimension, a product (juxtaposition) or a sum (concatenation).
 * One axis of a parameter, or the features of a value.  Owned by the graph's arena. */
typedef enum am_layout_kind { AM_LAYOUT_DIM, AM_LAYOUT_PRODUCT, AM_LAYOUT_SUM } am_layout_kind;
typedef struct am_layout {
    am_layout_kind           kind;
    am_dim                   dim;       /* DIM */
    int                      num_parts; /* PRODUCT, SUM */
    const struct am_layout **part;
    int64_t                  size; /* elements */
} am_layout;

/* ---- parameters ------------------------------------------------------------------------------------ */

/* How a parameter lies in the checkpoint: tensors[0..n) stacked along axis 0 (n > 1: one tensor an expert, …), each
 * transposed on disk or not, and each perhaps shared with other parameters: then the axis `axis` of the tensor has the layout
 * `whole` and this parameter is its part `part`, contiguous in the graph wherever it lies on disk.
 * Invertible on slices (disk.h); loading and exporting read it in the two directions. */
typedef struct am_disk_view {
    int              num_tensors;
    const char     **tensor;    /* names in the checkpoint */
    bool             transpose; /* the last two axes are swapped on disk: [in, out], [E, in, out] */
    const char      *copy;      /* a further tensor of the same contents (a tied head that is stored twice), written again by an
                                 * export; NULL: none */
    const am_layout *whole;     /* of the axis that is split, with all its parts; NULL: the parameter is all of its tensors */
    int              axis, part; /* axis of the parameter, as in the graph; index among the parts of `whole`, from the left */
} am_disk_view;

typedef struct am_param {
    const char      *name; /* unique: the (first) tensor's name on disk, and "#k" behind it where k is a part of one that is split */
    int              rank; /* 1 or 2 (3 with stacked experts) */
    int64_t          dim[AM_MAX_RANK];      /* shape in the graph: linear [out, in], embed [V, D], norm [d] */
    const am_layout *layout[AM_MAX_RANK];   /* the named structure of each axis */
    am_disk_view     disk;
    int              layer;     /* layer it belongs to, -1 before the first layer (embedding), num_layers after the last */
    bool             trainable; /* set by the freeze pass */
    int              uses;      /* number of nodes that read it: a tied head makes it 2 */
    int64_t          cut_of;    /* ranks that hold a part of it each, cut where dims of a layout have local < global; 0: whole */
    bool             summed;    /* whole, but read by what is cut: its gradient is a sum over those ranks */
    const char      *why_whole; /* why it was not cut although a role says that it may be; NULL: none does, or it is cut */
} am_param;

/* ---- values and nodes --------------------------------------------------------------------------------- */

#define AM_MAX_MESH AM_MESH_DIM_COUNT
/* Where a value's elements are with respect to one mesh dimension. */
typedef enum am_place { AM_PLACE_REPLICATED, AM_PLACE_SHARDED, AM_PLACE_PARTIAL } am_place;

typedef enum am_life {
    AM_LIFE_TRANSIENT, /* within one segment: arena */
    AM_LIFE_FRAME,     /* crosses segments of one micro-batch: frame of that micro-batch (graph inputs are of this kind) */
    AM_LIFE_STEP,      /* crosses micro-batches of a step: accumulated gradients, kept weights */
    AM_LIFE_STORE,     /* a slot of the parameter store: outlives programs, shared by all of them */
    AM_LIFE_STATE,     /* outlives a run of its program: KV cache */
    AM_LIFE_SCALARS,   /* the scalars of kernels.h */
    AM_LIFE_CONST,     /* a table known at compile time, written once when the program is bound */
} am_life;

typedef struct am_value {
    char     name[48];
    am_dtype dtype;
    int      rank;
    am_dim   dim[AM_MAX_RANK];
    int      param;    /* >= 0: the compute value of this parameter; -1 otherwise */
    int      producer; /* node that first writes it; -1 for inputs, parameters and store values */
    am_place place[AM_MAX_MESH];
    /* filled by passes */
    am_life  life;
    int      root;        /* value whose memory this one is a part of (itself when it owns memory) */
    int64_t  root_offset; /* elements of dtype from the root's start */
    int      region;      /* memory plan, roots only */
    int64_t  offset;      /* bytes within the region (frame values: within a frame) */
} am_value;

typedef enum am_phase { AM_PHASE_F, AM_PHASE_B, AM_PHASE_W, AM_PHASE_PRE, AM_PHASE_POST } am_phase;
typedef enum am_queue { AM_QUEUE_COMPUTE, AM_QUEUE_GATHER, AM_QUEUE_REDUCE, AM_QUEUE_COPY, AM_QUEUE_COUNT } am_queue;
/* Does a node add into its first (acc) output? */
typedef enum am_acc { AM_ACC_NO, AM_ACC_ALWAYS, AM_ACC_UNLESS_FIRST /* micro-batch of the step */ } am_acc;
typedef enum am_when { AM_WHEN_ALWAYS, AM_WHEN_FIRST, AM_WHEN_LAST } am_when; /* of the step's micro-batches */

typedef struct am_op_def am_op_def;

typedef struct am_node {
    const am_op_def *def;
    am_attrs         attrs;
    int              num_in, num_out;
    int              in[AM_MAX_IN], out[AM_MAX_OUT]; /* value indices; -1 = optional operand not given */
    int              layer;
    am_phase         phase;
    am_queue         queue;
    am_acc           acc;
    am_when          when;
    uint64_t         id;           /* stable: from the card's position and layer, kept by recompute clones */
    uint32_t         group;        /* communication: bit set of mesh dimensions */
    int              line, column; /* in the card; 0 when made by a pass */
} am_node;

/* ---- the operator table -------------------------------------------------------------------------------- */

typedef struct am_autodiff am_autodiff; /* what a vjp talks to, see am_ad_* */

/* In which shape a kernel sees an operand: as it is; [dim0, rest]; [all but last, last]; [everything]. */
typedef enum am_view { AM_VIEW_AS_IS, AM_VIEW_ROWS, AM_VIEW_LAST, AM_VIEW_FLAT } am_view;

enum {
    AM_OP_ONE_PASS = 1, /* reads and writes memory once and does little else: selective recomputation may run it again */
    AM_OP_ROUNDS_WEIGHT = 2, /* input 1, a parameter, may stand in the precise dtype: it is rounded to the compute dtype as it is read */
    AM_OP_ADDS = 4, /* the kernel can add to its output 0 in the compute dtype */
    AM_OP_ROWS_BY_ID = 8, /* of its table, input 1 or else output 0, it touches a row for each token */
};

/* A recurrence over tokens keeps something of those it has seen.  In training nothing: a document is whole.  In GENERATE its row says
 * with AM_OP_STATE(in, out), or'ed into traits, where that goes: input `in`, optional and the last, and output `out` are then one value
 * of life STATE that the kernel reads first and writes last (a token whose index is its doc_start reads nothing of it).  Its dtype and
 * dims come from the row's infer: with num_in == in + 1 and in[in] = -1 it makes output `out`, with fewer operands it makes none. */
#define AM_OP_STATE(in, out) ((unsigned)((in) + 1) << 8 | (unsigned)((out) + 1) << 12)
#define AM_OP_STATE_IN(traits)  ((int)((traits) >> 8 & 15u) - 1) /* -1: the operator keeps nothing */
#define AM_OP_STATE_OUT(traits) ((int)((traits) >> 12 & 15u) - 1)

/* Or'ed into traits: what an operator does when an operand is cut over the ranks of a group (tensor.c): which dimensions may be cut so
 * that every rank works on its own part, and whether what it gives is then a part or a summand.  None: it needs its operands whole. */
enum {
    AM_CUT_EACH = 1 << 16,      /* element by element: any dimension */
    AM_CUT_ROWS = 2 << 16,      /* a row of the last dimension at a time: any other */
    AM_CUT_PRODUCT = 3 << 16,   /* x [.., in], w [.., out, in], bias?: out, or in, which leaves summands */
    AM_CUT_ATTENTION = 4 << 16, /* heads of q; those of k and v with them, or not at all */
    AM_CUT_SUM = 5 << 16, AM_CUT_BRANCH = 6 << 16, /* of the pass itself */
};
#define AM_OP_CUT(traits) ((traits) & 15u << 16)

struct am_op_def {
    const char *name;
    const char *kernel; /* row of kernels.h; NULL: not a kernel (communication) */
    am_view     view_in[AM_MAX_IN], view_out[AM_MAX_OUT];
    /* Check the operands, create the outputs with am_graph_value. */
    am_status (*infer)(am_graph *g, am_node *node);
    /* Emit the nodes that give the gradients of node's inputs; NULL: no gradient flows through it. */
    am_status (*vjp)(am_autodiff *ad, const am_node *node);
    int64_t (*flops)(const am_graph *g, const am_node *node); /* NULL: counted as bytes only */
    int  inplace_in; /* 1 + input whose memory output 0 may take over when it dies here; 0 = none */
    /* the output's features are these: for the placement pass, an input dimension that is absent from an output has been
     * contracted; nothing else needs to be said by an operator */
    am_kernel own_kernel; /* an operator that brings its kernels (tests register such rows); name NULL: look `kernel` up */
    unsigned traits;      /* AM_OP_…, AM_CUT_…, or'ed */
};

/** The built-in rows; `name` NULL-terminated search. */
const am_op_def *am_op_find(const char *name);
/** Make a further operator known to this graph (a card can then call it as op_name(x, …)). */
am_status am_graph_register_op(am_graph *g, const am_op_def *def) AM_WARN_UNUSED;
const am_op_def *am_graph_find_op(const am_graph *g, const char *name);

/* ---- building ----------------------------------------------------------------------------------------- */

/** An empty graph.  rows × seq_len is the planned maximum of N. */
am_status am_graph_create(int64_t rows, int64_t seq_len, am_dtype compute, am_graph **out) AM_WARN_UNUSED;
void      am_graph_free(am_graph **g);
/** A string or bytes that live as long as the graph. */
am_status am_graph_strdup(am_graph *g, const char *s, const char **out) AM_WARN_UNUSED;
am_status am_graph_alloc(am_graph *g, size_t bytes, void *out_ptr) AM_WARN_UNUSED;

am_dim am_dim_tokens(const am_graph *g);
am_dim am_dim_make(const char *name, am_role role, int64_t size);
am_dim am_dim_number(int64_t size); /* anonymous, no role: its name is the number */

/** New value; dims are copied.  *out is its index. */
am_status am_graph_value(am_graph *g, const char *name, am_dtype dtype, int rank, const am_dim *dims, int *out) AM_WARN_UNUSED;
/** Graph inputs, made on first request: "ids", "pos", "index" (position of a token in the flattened micro-batch),
 *  "doc_start" (index of the first token of its document), "labels" (-1 or less = not supervised; already shifted), "token" (index of
 *  a token in the global batch of the step: what randomness is keyed by, with seed, step and operator), all i32[N]. */
am_status am_graph_input(am_graph *g, const char *name, int *out) AM_WARN_UNUSED;
/** A constant table known at compile time (rope's inverse frequencies, ALiBi slopes): f32[n], copied. */
am_status am_graph_constant(am_graph *g, const char *name, const double *data, int64_t n, int *out) AM_WARN_UNUSED;
/** Register parameter `p` (fields copied; strings and layouts must live in the graph) or find the one of that name with the
 *  same shape; *value is the value that nodes read, and its uses are counted by am_graph_apply. */
am_status am_graph_param(am_graph *g, const am_param *p, int *param, int *value) AM_WARN_UNUSED;
/** Append a node: operands → outputs by the operator's infer.  out[] receives the output values.
 *  Tags come from am_graph_at. */
am_status am_graph_apply(am_graph *g, const char *op, const int *in, int num_in, const am_attrs *attrs, int *out) AM_WARN_UNUSED;
/** Where we are in the card: layer (-1 before the loop over layers, number of layers after it), line, column. */
void      am_graph_at(am_graph *g, int layer, int line, int column);
am_status am_graph_set_logits(am_graph *g, int value) AM_WARN_UNUSED; /* f: [N, V] */
void      am_graph_set_layers(am_graph *g, int num_layers);
/** View of the same memory with other dims of the same element count (free; gradients pass through). */
am_status am_graph_reshape(am_graph *g, int value, int rank, const am_dim *dims, int *out) AM_WARN_UNUSED;

/* ---- looking ----------------------------------------------------------------------------------------- */

int              am_graph_num_values(const am_graph *g);
int              am_graph_num_nodes(const am_graph *g);
int              am_graph_num_params(const am_graph *g);
int              am_graph_num_layers(const am_graph *g);
am_value        *am_graph_value_at(am_graph *g, int value);
am_node         *am_graph_node_at(am_graph *g, int node);
am_param        *am_graph_param_at(am_graph *g, int param);
int64_t          am_value_elements(const am_value *v); /* local */
int64_t          am_param_elements(const am_param *p);
/** The name of its (first) tensor on disk: what patterns of recipes are held against, and what people know it by. */
const char      *am_param_disk_name(const am_param *p);
/** Which of its tensors a glob of a recipe matches: 0 to p->disk.num_tensors (1 where a parameter made by hand names none). */
int              am_param_matches(const am_param *p, const char *glob);
/** The graph as text, a line a node: the forward model after elaboration. */
am_status am_graph_print(const am_graph *g, am_str *out) AM_WARN_UNUSED;

#endif
