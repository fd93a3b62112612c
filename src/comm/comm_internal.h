/* What comm.c and the backends share: the vtable, the common head of every am_comm, and the cutting of a piece into
 * messages.  Included by the files of src/comm and its tests alone. */
#ifndef AM_COMM_INTERNAL_H
#define AM_COMM_INTERNAL_H

#include <pthread.h>

#include "comm/comm.h"

/* An MPI count is an int, so nothing longer than this travels as one message. */
#define AM_COMM_MESSAGE_BYTES ((size_t)1 << 30)

/* A blocking call between steps.  BARRIER is a gather of one byte. */
typedef enum am_comm_control_kind {
    AM_COMM_CONTROL_GATHER, /* send: bytes; recv: size × bytes */
    AM_COMM_CONTROL_BCAST,  /* recv: bytes, in and out; peer: root */
    AM_COMM_CONTROL_SEND,   /* send: bytes; peer: destination */
    AM_COMM_CONTROL_RECV,   /* recv: bytes; peer: source */
} am_comm_control_kind;

typedef struct am_comm_control {
    am_comm_control_kind kind;
    const char          *name; /* for reports: "barrier", "bcast", … */
    const void          *send;
    void                *recv;
    size_t               bytes;
    int                  peer;
} am_comm_control;

typedef struct am_comm_vtable {
    const char *name;
    am_status (*free)(am_comm *c); /* releases the backend's part; the common part is released by comm.c */
    am_status (*start)(am_comm *c, const am_comm_request *r);
    bool (*done)(const am_comm *c, int slot);
    am_status (*wait)(am_comm *c, int slot);
    am_status (*control)(am_comm *c, const am_comm_control *op);
    am_comm_counters (*count)(const am_comm *c);
    bool (*idle)(const am_comm *c); /* no data-plane request is in flight */
    void (*set_delay)(am_comm *c, double seconds);
    void (*abort)(am_comm *c, int exit_code); /* does not return */
} am_comm_vtable;

/* Head of every backend's own structure (first member there). */
struct am_comm {
    const am_comm_vtable *backend;
    am_comm_options        options; /* resolved: no zeros left that mean a default */
    int                    rank, size, local_rank, local_size;
    am_mesh                mesh; /* valid once has_mesh */
    bool                   has_mesh;
    pthread_mutex_t        control_lock; /* one control call at a time; guards `gathered` */
    int64_t               *gathered;     /* [size], for max and sum */
};

/** The backend structures, zeroed common part with rank, size and vtable filled in. */
am_status am_comm_create_self(const am_comm_options *options, am_comm **out) AM_WARN_UNUSED;
am_status am_comm_create_mpi(const am_comm_options *options, am_comm **out) AM_WARN_UNUSED;

/** Messages of at most `most` bytes needed for a piece; 0 for an empty one. */
int64_t am_comm_num_messages(size_t bytes, size_t most);
/** Length of the message that begins at `offset` of a piece. */
size_t am_comm_message_length(size_t bytes, size_t offset, size_t most);
/** Tests: cut at another length than AM_COMM_MESSAGE_BYTES; no effect on self.  Same value on all ranks, nothing in flight. */
void am_comm_set_message_bytes(am_comm *c, size_t most);

/** Which backend the environment asks for: true when an MPI launcher started this process.
 *  @return AM_ERR_ENVIRONMENT when a launcher started several tasks without a way for them to find each other. */
am_status am_comm_detect_launcher(bool *mpi) AM_WARN_UNUSED;
/** "dp_shard+dp_replicate" of a bit set, "world" when all dimensions are in it. */
am_status am_comm_group_name(uint32_t group, am_str *out) AM_WARN_UNUSED;
const char *am_comm_kind_name(am_comm_kind kind);

#endif
