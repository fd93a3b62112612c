/* comm: moving bytes between ranks.  Backends self and mpi behind one vtable (nccl later).  Arithmetic on what
 * arrives is not done here: reductions are an exchange followed by the kernel rank_sum, so sums are formed in rank order.
 *
 * Data plane: am_comm_start posts a transfer described by fixed addresses, am_comm_done/am_comm_wait ask for its end.
 * With mpi, ONE service thread per process calls MPI (init to finalize) and polls; the executor only reads flags.
 * After am_comm_create nothing here allocates during start/wait.
 * Control plane: small collective calls, blocking, made between steps from one host thread (they run on the same service
 * thread, in program order with respect to other control calls of this rank). */
#ifndef AM_COMM_H
#define AM_COMM_H

#include "base/base.h"
#include "mesh/mesh.h"

typedef struct am_comm am_comm;

typedef enum am_comm_kind {
    AM_COMM_ALL_GATHER, /* my piece (send, `bytes`) arrives as recv[i·bytes] at every member, mine included; send may equal recv + me·bytes */
    AM_COMM_EXCHANGE,   /* send holds P pieces of `bytes`: piece i goes to member i; recv[i·bytes] comes from member i (mine copied) */
} am_comm_kind;

/* What comm has counted: payload sent to other ranks. */
typedef struct am_comm_counters { int64_t operations, messages, bytes; } am_comm_counters;

typedef struct am_comm_request {
    am_comm_kind kind;
    uint32_t     group;    /* bit set of mesh dimensions */
    int64_t      sequence; /* number of this collective within its group, same on all members; part of the tag and of every report */
    const char  *name;     /* what it is, for reports ("reduce layer 3"); outlives the request */
    const void  *send;
    void        *recv;
    size_t       bytes; /* of one piece; any size_t (cut into messages of at most 1 GiB) */
    int          slot;  /* 0 <= slot < max_requests: where its state lives; free again after it is done */
} am_comm_request;

typedef struct am_comm_options {
    int         max_requests;    /* data-plane requests in flight */
    double      timeout_seconds; /* a wait longer than this is AM_ERR_WATCHDOG naming group, members, sequence, name, and who is missing; 0 = 600 */
    double      delay_seconds;   /* tests: each data-plane message completes at least this much after its start (AM_COMM_DELAY_MS) */
    double      poll_seconds;    /* pause of the service thread between polls with work in flight; default 50e-6 */
} am_comm_options;

/** Start the backend: mpi when the process was started by an MPI launcher (or name == "mpi"), else self.
 *  name: NULL/"auto", "self", "mpi".  Ranks and size come from the launcher. */
am_status am_comm_create(const char *name, const am_comm_options *options, am_comm **out) AM_WARN_UNUSED;
/** Collective.  Finalizes MPI. */
am_status am_comm_free(am_comm **comm);
/** Once the mesh is known: makes the groups used by requests.  Collective; may be called again with another mesh. */
am_status am_comm_set_mesh(am_comm *comm, const am_mesh *mesh) AM_WARN_UNUSED;

int  am_comm_rank(const am_comm *comm);
int  am_comm_size(const am_comm *comm);
int  am_comm_local_rank(const am_comm *comm); /* among the ranks of this node */
int  am_comm_local_size(const am_comm *comm);
const char *am_comm_backend(const am_comm *comm);

am_status am_comm_start(am_comm *comm, const am_comm_request *request) AM_WARN_UNUSED;
bool      am_comm_done(const am_comm *comm, int slot);
am_status am_comm_wait(am_comm *comm, int slot) AM_WARN_UNUSED; /* also returns when the abort flag is set by another rank's failure */
am_comm_counters am_comm_count(const am_comm *comm);            /* data plane only */
void      am_comm_set_delay(am_comm *comm, double seconds);

/* control plane, world group */
am_status am_comm_barrier(am_comm *comm) AM_WARN_UNUSED;
am_status am_comm_bcast(am_comm *comm, void *data, size_t bytes, int root) AM_WARN_UNUSED;
/** recv holds size × bytes, in rank order, at every rank. */
am_status am_comm_allgather(am_comm *comm, const void *send, size_t bytes, void *recv) AM_WARN_UNUSED;
/** Largest value over the ranks, at every rank (statuses, control words). */
am_status am_comm_max(am_comm *comm, int64_t mine, int64_t *out) AM_WARN_UNUSED;
/** Exact: summed in int64. */
am_status am_comm_sum(am_comm *comm, int64_t mine, int64_t *out) AM_WARN_UNUSED;
/** Point to point, blocking, for gathering shards to one rank. */
am_status am_comm_send(am_comm *comm, const void *data, size_t bytes, int to) AM_WARN_UNUSED;
am_status am_comm_recv(am_comm *comm, void *data, size_t bytes, int from) AM_WARN_UNUSED;
/** Ends all ranks with this exit code (MPI_Abort, or exit for self); prints nothing itself; safe from any thread. */
_Noreturn void am_comm_abort(am_comm *comm, int exit_code);

#endif
