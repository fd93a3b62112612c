/* Backend mpi, shared between its four files:
 *   comm_mpi.c          what host threads run: create, start, wait, control calls, abort
 *   comm_mpi_service.c  the service thread: the only one that calls MPI, from init to finalize
 *   comm_mpi_engine.c   a transfer as lanes of messages, and the poll that moves them
 *   comm_mpi_report.c   the sentence of a wait that took too long, and the questions ranks ask each other for it
 *
 * All data-plane transfers travel on ONE duplicated communicator.  Their tag holds the group's bit set, the kind and the
 * sequence number; two groups of the same bit set never share a pair of ranks, so (source, tag) says which transfer a
 * message belongs to, every bit set is a usable group, and no communicator has to be split.  Messages of one transfer
 * between two ranks are posted in order, one at a time, and MPI keeps that order.
 *
 * Who may touch what: fields under "lock" only while holding it; a slot belongs to the host until it is posted and from
 * then on to the service thread, until its state is SLOT_DONE; everything under "service" is the service thread's. */
#ifndef AM_COMM_MPI_INTERNAL_H
#define AM_COMM_MPI_INTERNAL_H

#include <mpi.h>
#include <stdatomic.h>

#include "comm/comm_internal.h"

enum { SLOT_FREE, SLOT_BUSY, SLOT_DONE };
enum { LANE_ACTIVE, LANE_HELD, LANE_FINISHED };
enum { TAG_QUESTION = 1, TAG_ANSWER = 2, TAG_POINT_TO_POINT = 0 };
#define REPORT_BYTES 4096
#define ANSWER_BYTES 512
#define NUM_GROUPS (AM_GROUP_WORLD + 1u)

/* One direction of a transfer with one peer: a piece, cut into messages that follow each other. */
typedef struct mpi_lane {
    char  *base;
    size_t bytes, offset, length; /* of the piece; confirmed; of the message under way */
    double started;               /* when the message under way was started */
    int    peer, slot;
    bool   receives;
    char   state;
} mpi_lane;

typedef struct mpi_slot {
    atomic_int      state;
    bool            is_control;
    am_comm_request request; /* of a control call: name, bytes, sequence */
    am_comm_control control;
    MPI_Comm        comm;
    int             tag;
    /* service */
    mpi_lane   *lanes; /* [2·(size-1)] */
    int         num_lanes, open_lanes, held_lanes;
    const char *copy_from; /* my own piece */
    char       *copy_to;
    size_t      copy_left;
} mpi_slot;

/* What was last started in a group, for answers to a rank that waits for us. */
typedef struct mpi_last {
    bool         any;
    am_comm_kind kind;
    int64_t      sequence;
    char         name[64]; /* a copy: the request's own may be gone when we are asked */
    size_t       bytes;
} mpi_last;

typedef struct mpi_question {
    int64_t  sequence;
    uint32_t group;
    uint32_t control; /* 1: about control call number `sequence` */
} mpi_question;

typedef struct mpi_comm {
    am_comm   base;
    pthread_t thread;

    pthread_mutex_t lock;
    pthread_cond_t  wake;     /* to the service thread */
    pthread_cond_t  finished; /* to host threads */
    /* lock */
    int      *posted, num_posted; /* slots not yet seen by the service thread */
    bool      ready, gone, stop, aborting, report_ready; /* ready: after init; gone: after finalize */
    int       abort_code, report_slot; /* -1: none wanted */
    double    report_waited;
    am_status failed; /* first failure of the service thread, with its sentence */
    char      failure[REPORT_BYTES], report[REPORT_BYTES];
    mpi_last  last[NUM_GROUPS];
    int64_t   control_sequence; /* collective control calls so far (control_lock) */

    _Atomic int64_t operations, messages, bytes;
    _Atomic double  delay;
    atomic_bool     has_failed;

    /* constant after init */
    size_t    message_bytes; /* longest message */
    int64_t   tag_window;    /* sequence numbers a tag can tell apart; a power of two */
    mpi_slot *slots;         /* [max_requests + 1], the last one for control calls */

    /* service */
    MPI_Comm     data, ctl, ask;
    int         *taken, *active, num_active;
    MPI_Request *requests; /* dense, [0, num_requests) under way; owner[i] is the lane of requests[i] */
    mpi_lane   **owner, **settled;
    MPI_Status  *statuses;
    int         *indices, num_requests;
    double       quiet_test; /* seconds an MPI_Testsome takes that finds nothing */
    mpi_question question;
    MPI_Request  question_request, answer_request;
    char         answer[ANSWER_BYTES];
} mpi_comm;

static inline int am_mpi_control_slot(const mpi_comm *m) { return m->base.options.max_requests; }
static inline const char *am_mpi_request_name(const am_comm_request *r) { return r->name ? r->name : "(no name)"; }

/* in a function with st and done: */
#define AM_TRY_MPI(call)                                                                      \
    do {                                                                                      \
        int rc_ = (call);                                                                     \
        if (rc_ != MPI_SUCCESS) {                                                             \
            char text_[MPI_MAX_ERROR_STRING] = "";                                            \
            int  len_ = 0;                                                                    \
            MPI_Error_string(rc_, text_, &len_);                                              \
            AM_FAIL(AM_ERR_COMM, "MPI reports '%s' in %s", text_, #call);                     \
        }                                                                                     \
    } while (0)

/* engine; called by the service thread only */
/** Turn a posted slot into lanes and start their first messages. */
am_status am_mpi_activate(mpi_comm *m, int slot) AM_WARN_UNUSED;
/** One round: copies, tests, follow-up messages.  *moved: something was, so that more may follow at once. */
am_status am_mpi_poll(mpi_comm *m, bool *moved) AM_WARN_UNUSED;

/* report */
/** Receive the questions of other ranks; @{ called by the service thread only. */
am_status am_mpi_listen(mpi_comm *m) AM_WARN_UNUSED;
am_status am_mpi_answer(mpi_comm *m) AM_WARN_UNUSED;
am_status am_mpi_stop_listening(mpi_comm *m) AM_WARN_UNUSED;
/** The sentence of a slot that is late; asks the ranks that are missing what they do.  Takes up to two seconds. */
am_status am_mpi_write_report(mpi_comm *m, int slot, double waited, am_str *out) AM_WARN_UNUSED; /** @} */
/** "'reduce layer 3' (exchange, sequence 7 of group dp_shard = ranks 0 1 2 3, 1024 bytes a piece)"; any thread. */
am_status am_mpi_describe(const mpi_comm *m, int slot, am_str *out) AM_WARN_UNUSED;

/** Body of the service thread; `arg` is the mpi_comm. */
void *am_mpi_service(void *arg);

#endif
