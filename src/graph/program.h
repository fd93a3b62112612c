/* program: what a graph is compiled into, and how it is run.
 *
 *   am_program_compile (pure: no communicator, no weights, no device)  ─►  am_program
 *       segments  PRE  F  B  [W]  POST: lists of operators with queue, waits, reads and writes as {region, offset}
 *       schedule  table of (segment, micro-batch, frame): the step
 *       map       bytes of every region
 *   am_exec_create binds programs that share one parameter store to a device and a communicator; am_exec_run runs one.
 *
 * Regions: STORE (slots of parameters, shared by all programs), SCALARS, CONST, STATE (outlives a run: KV cache), STEP (crosses
 * micro-batches), FRAME (one per micro-batch in flight: inputs and saved activations), ARENA (within a segment; memory is reused
 * by happens-before).  SCALARS, STEP, FRAME and ARENA are shared by programs never alive together: each is as large as the largest. */
#ifndef AM_PROGRAM_H
#define AM_PROGRAM_H

#include "comm/comm.h"
#include "device/device.h"
#include "graph/graph.h"

#define AM_REGION_LIST(X) X(STORE, "store") X(SCALARS, "scalars") X(CONST, "const") X(STATE, "state") X(STEP, "step") \
                          X(FRAME, "frame") X(ARENA, "arena")
typedef enum am_region_id {
#define X(e, name) AM_REGION_##e,
    AM_REGION_LIST(X)
#undef X
    AM_REGION_COUNT
} am_region_id;
const char *am_region_name(am_region_id r);

/* ---- the parameter store: units and slots --------------------------------------------------------------------- */

/* An entry of a unit: parameter `param` at elements [offset, offset + count) of the unit; offset is a multiple of 256. */
typedef struct am_unit_entry { int param; int64_t offset, count; } am_unit_entry;

/* Parameters of one key (layer, trainable, stacked over experts or not, cut over tp or not) in one flat buffer: the unit of sharding, gathering
 * and reduction. */
typedef struct am_unit {
    int            layer;
    bool           trainable, experts, cut; /* cut: every rank of tp has parts of its own */
    am_unit_entry *entry;
    int            num_entries;
    int64_t        elements;       /* padded to 256 × number of data-parallel ranks; padding is zero and never saved */
    int64_t        shard_begin;    /* this rank's elements of the unit: [shard_begin, shard_begin + shard_elements) */
    int64_t        shard_elements;
    int64_t        store_master, store_m, store_v; /* byte offsets in STORE of the shard's slots (f32; f64 when computing in f64); -1: none */
} am_unit;

typedef struct am_store_layout {
    am_unit *unit;
    int      num_units;
    am_dtype dtype; /* of every slot */
    int64_t  bytes; /* of STORE on this rank */
    int64_t  moments; /* byte offset of the first slot of AdamW's m and v: all stand behind all masters */
} am_store_layout;

/* ---- compiling -------------------------------------------------------------------------------------------------- */

typedef enum am_program_kind {
    AM_PROGRAM_TRAIN,    /* forward, backward, reduce, clip, AdamW */
    AM_PROGRAM_EVAL,     /* forward and loss sums */
    AM_PROGRAM_VERIFY,   /* forward with logits, backward, reduced gradients left in STEP; no update */
    AM_PROGRAM_GENERATE, /* forward with a KV cache, logits of chosen rows (prefill and decode: N is bounded, the count actual) */
} am_program_kind;

/* What the backward pass computes again instead of keeping it, bit for bit; see recompute.c. */
typedef enum am_recompute {
    AM_RECOMPUTE_NONE,
    AM_RECOMPUTE_FULL,      /* a layer keeps its input only */
    AM_RECOMPUTE_SELECTIVE, /* what one pass over memory makes of kept values: norms, gated activations */
} am_recompute;

/* Weight decay and learning rate of parameters whose name matches; the first match counts. */
typedef struct am_param_group { const char *pattern; double lr_mult, wd_mult; } am_param_group;

typedef struct am_program_options {
    am_program_kind kind;
    am_mesh         mesh;
    int64_t         rank;            /* coordinates for which to compile */
    int             threads;         /* sizes workspaces */
    int             micro_batches;   /* accumulation: micro-batches a step; >= 1 */
    bool            gpipe;           /* F0 F1 … B0 B1 … with a frame each, instead of F0 B0 F1 B1 … with one */
    bool            split_w;         /* weight gradients in a segment W of their own */
    am_recompute    recompute;
    bool            overlap;         /* communication is placed ahead of its use; off: started where it is needed */
    bool            reshard;         /* weights gathered again for the backward pass; off: kept for the step */
    bool            defer_sync;      /* gradients are reduced once, at the last micro-batch */
    bool            fuse;            /* act·mul in one operator */
    int64_t         ce_chunk;        /* tokens whose logits are held at a time; 0 = chosen */
    double          beta1, beta2, eps, weight_decay;
    const am_param_group *groups;
    int             num_groups;
    const char *const *freeze;       /* parameters whose name matches are not trained */
    int             num_freeze;
    int64_t         cache_tokens;    /* GENERATE: capacity of the KV cache */
    int64_t         logit_rows;      /* GENERATE: rows of logits wanted at most */
} am_program_options;
/** Everything off or 1, threads 1, AdamW's usual numbers, fuse and overlap and reshard on. */
am_program_options am_program_defaults(am_program_kind kind);

typedef struct am_prog_tensor {
    am_tensor    shape;    /* data NULL; dims as the kernel sees them */
    am_region_id region;
    int64_t      offset;   /* bytes; within a frame for FRAME */
    bool         bounded;  /* dim[0] is proportional to the tokens of the micro-batch: scaled to the actual count at run time */
    int          value;    /* index of the graph's value, for printing */
} am_prog_tensor;

typedef struct am_prog_op {
    const am_op_def *def;
    am_attrs         attrs;
    int              num_in, num_out;
    am_prog_tensor   in[AM_MAX_IN], out[AM_MAX_OUT]; /* rank 0 and region COUNT: operand absent */
    int64_t          workspace_offset; /* in ARENA */
    size_t           workspace_bytes;
    am_queue         queue;
    am_acc           acc;
    am_when          when;
    am_phase         phase;
    int              layer;
    uint64_t         id;
    uint32_t         group;    /* communication */
    int64_t          piece_bytes; /* communication: bytes of one piece */
    int              slot;     /* communication: number within its segment */
    int             *wait;     /* indices of operators of this segment that must be complete */
    int              num_waits;
    int64_t          flops, bytes; /* bytes: of operands read and written, each once */
    char             label[56];
} am_prog_op;

typedef struct am_segment { am_phase phase; am_prog_op *op; int num_ops, num_comm; int64_t arena_bytes; } am_segment;

typedef struct am_schedule_entry {
    int  segment, micro_batch, frame;
    bool feed;        /* the frame's inputs are filled before it */
    bool first, last; /* of the step's micro-batches, for this segment */
    bool once;        /* makes weights only (EVAL, GENERATE): left out while the store is the same and STEP still holds them */
} am_schedule_entry;

/** Does an operator run in this entry of the schedule?  What the plan counts and what the executor runs is the same. */
static inline bool am_op_runs(const am_prog_op *op, const am_schedule_entry *e)
{
    return op->when == AM_WHEN_ALWAYS || (op->when == AM_WHEN_FIRST && e->first) || (op->when == AM_WHEN_LAST && e->last);
}

/* A graph input by name. */
typedef struct am_binding { const char *name; am_prog_tensor tensor; } am_binding;

typedef struct am_program {
    am_program_options options;
    am_graph          *graph; /* owned: names, dims, parameters */
    am_store_layout    store;
    am_segment        *segment;
    int                num_segments;
    am_schedule_entry *schedule;
    int                num_entries, num_frames;
    int64_t            region_bytes[AM_REGION_COUNT]; /* FRAME: of one frame */
    int64_t            arena_sum; /* what ARENA would take without reuse, for the report */
    am_binding        *input;
    int                num_inputs;
    am_prog_tensor    *unit_grad; /* by unit: this rank's shard of the reduced gradient; region COUNT when frozen or not computed */
    am_prog_tensor     logits;  /* rank 0 when the program has none */
    int64_t            tokens;  /* planned maximum N */
    int64_t            flops, messages, message_bytes; /* of one step on this rank: sums over the schedule */
    uint64_t           hash;    /* of operators, shapes, attributes, order, waits: no addresses, no coordinates */
    uint64_t           signature; /* of the ordered collectives: equal on all members of a group … */
    uint64_t           tensor_signature; /* … and of those over tp, whose members may hold parts of unequal size otherwise */
} am_program;

/** Compile.  `g` holds the elaborated forward model and is taken over (also on failure).
 *  @return AM_ERR_CONFIG for a combination that is not offered, naming it. */
am_status am_program_compile(am_graph **g, const am_program_options *options, am_program **out) AM_WARN_UNUSED;
void      am_program_free(am_program **p);
/** A line an operator, a table of regions, the schedule. */
am_status am_program_print(const am_program *p, am_str *out) AM_WARN_UNUSED;
/** A short summary: bytes by region, FLOPs, messages. */
am_status am_program_summary(const am_program *p, am_str *out) AM_WARN_UNUSED;
/** Checks by brute force that every two operators that touch the same bytes, one of them writing, are ordered by queue and
 *  waits, and that no value is overwritten before its last reader.  @return AM_ERR_INTERNAL naming the pair. */
am_status am_program_check(const am_program *p) AM_WARN_UNUSED;
/** Where parameter `param` lies: its unit and first element within the unit. */
void am_program_locate(const am_program *p, int param, int *unit, int64_t *offset);
const am_binding *am_program_input(const am_program *p, const char *name);

/* ---- running ------------------------------------------------------------------------------------------------------ */

typedef struct am_exec am_exec;

typedef struct am_exec_options {
    uint64_t shuffle_seed; /* tests: 0 = list order; else a random order that respects queues and waits */
    bool     poison;       /* tests: ARENA and FRAME are filled with NaN before each segment that starts their life */
} am_exec_options;

/** Bind programs that share one store layout.  Allocates every region; nothing is allocated afterwards.  Of STORE the weights are
 * touched here; m and v, which the first forward and backward pass have no use for, before the first update or when a
 * checkpoint's are written. */
am_status am_exec_create(am_device *d, am_comm *c, am_program *const *programs, int num_programs, const am_exec_options *options,
                         am_exec **out) AM_WARN_UNUSED;
void      am_exec_free(am_exec **e);
am_region am_exec_region(const am_exec *e, int program, am_region_id region);
am_device *am_exec_device(const am_exec *e);
/** Called on the issuing thread just before and just after each kernel, outside of the time that is counted for it: for one who reads
 *  counters of the machine around operators.  NULL: nobody, at the cost of a comparison. */
typedef void (*am_exec_probe_fn)(void *context, const am_prog_op *op, bool after);
void am_exec_set_probe(am_exec *e, am_exec_probe_fn probe, void *context);

/** Called when a frame's inputs must be filled: use am_exec_write_input.  *tokens: actual N of this micro-batch. */
typedef am_status (*am_feed_fn)(void *context, am_exec *e, int program, int micro_batch, int frame, int64_t *tokens);
am_status am_exec_write_input(am_exec *e, int program, int frame, const char *name, const void *data, int64_t elements) AM_WARN_UNUSED;
/** One run of the schedule. */
am_status am_exec_run(am_exec *e, int program, am_feed_fn feed, void *context) AM_WARN_UNUSED;
am_status am_exec_set_scalar(am_exec *e, am_scalar s, double value) AM_WARN_UNUSED;
am_status am_exec_get_scalar(am_exec *e, am_scalar s, double *value) AM_WARN_UNUSED;
/** Copy the logits (first `elements`) as f32. */
am_status am_exec_read_logits(am_exec *e, int program, int frame, float *out, int64_t elements) AM_WARN_UNUSED;
/** Elements [begin, begin + count) of this rank's shard of a unit's reduced gradient (VERIFY), as the store's dtype. */
am_status am_exec_read_gradient(am_exec *e, int program, int unit, int64_t begin, int64_t count, void *out) AM_WARN_UNUSED;
/** Read or write elements [begin, begin + count) of this rank's shard of a unit's slot: role 0 master, 1 m, 2 v.
 *  Several threads may write ranges that do not overlap. */
am_status am_exec_read_slot(am_exec *e, int unit, int role, int64_t begin, int64_t count, void *out) AM_WARN_UNUSED;
am_status am_exec_write_slot(am_exec *e, int unit, int role, int64_t begin, int64_t count, const void *data) AM_WARN_UNUSED;
/** Seconds spent per segment and phase since creation, waiting for communication included, for the profile. */
typedef struct am_exec_times { double compute, wait; int64_t operators; } am_exec_times;
am_exec_times am_exec_time(const am_exec *e);
/* What one kind of operator has cost in one phase. */
typedef struct am_profile_row {
    const char *op;
    am_phase    phase;
    int64_t     calls;
    double      seconds, flops, bytes; /* bytes: of operands, each read or written once */
} am_profile_row;
/** Kinds of operators by phase since creation or the last reset, the costliest first; communication is not among them.
 *  @param[out] rows  caller frees. */
am_status am_exec_profile(const am_exec *e, int program, am_profile_row **rows, int *count) AM_WARN_UNUSED;
void      am_exec_profile_reset(am_exec *e);

#endif
