/* program_test.h: a small decoder built by hand through am_graph_apply (no card), an executor over it, and helpers, shared by the
 * tests of the passes.  Weights and tokens are a function of their global index, so that every layout sees the same model. */
#ifndef AM_PROGRAM_TEST_H
#define AM_PROGRAM_TEST_H

#include "graph/program.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <cmocka.h>

typedef struct pt_shape {
    int64_t rows, seq, D, H, K, d, F, V;
    int     layers;
    bool    tied, bias, sandwich, parallel, alternate; /* alternate: odd layers have a window and another feed-forward */
    int64_t window;
    const am_op_def *extra; /* a registered operator applied to every layer's output */
    const char *card, *config; /* another model than the one built by hand: the texts of a card and of its config.json */
} pt_shape;

pt_shape  pt_default_shape(void);
am_graph *pt_graph(const pt_shape *s, am_dtype compute);
/* The graph of a card over a config.json without weights, both given as text; *g is made in any case. */
am_status pt_elaborate(const char *card, const char *config, int64_t rows, int64_t seq, am_dtype compute, am_graph **g);

typedef struct pt_run {
    am_comm    *comm;
    am_device  *device;
    am_program *program[4];
    int         num_programs;
    am_exec    *exec;
    pt_shape    shape;
    int64_t     global_rows_offset; /* first row of this rank in the global batch */
    int64_t     rows_per_step;      /* global rows of one micro-batch (all ranks) */
} pt_run;

/* Compile the programs (options[i] for a graph of the same shape), bind, write the weights. */
void   pt_create(pt_run *r, const pt_shape *s, am_dtype compute, const am_program_options *options, int num, const char *device,
                 am_comm *comm, const am_exec_options *exec_options);
void   pt_free(pt_run *r);
void   pt_write_weights(pt_run *r);
/* Weight of parameter `name` at element i of the whole: uniform in [-0.5, 0.5)·scale, norms around 1. */
double pt_weight(const char *name, int64_t i);
/* One step; tokens depend on the global row and step.  Returns the loss: global sum / global count. */
double pt_step(pt_run *r, int program, int step, double lr, double max_norm);
/* The master weights (role 0) or moments of a parameter, gathered from all ranks into a new array of doubles. */
double *pt_gather_param(pt_run *r, int program, int param, int role, int64_t *n);
/* The reduced gradient of a parameter after a VERIFY run, gathered. */
double *pt_gather_grad(pt_run *r, int program, int param, int64_t *n);
/* Gradients of a VERIFY program in fp64 against central differences of an EVAL program, which knows nothing of autodiff: `samples`
 * elements of every trained parameter. */
void    pt_check_gradients(const pt_shape *s, const am_program_options *verify, am_comm *comm, int samples);

#define PT_OK(call)                                                                           \
    do {                                                                                      \
        am_status pt_st = (call);                                                             \
        if (pt_st != AM_OK) {                                                                 \
            am_error_print(stderr, -1);                                                       \
            fail_msg("%s: %s", #call, am_error_message());                                    \
        }                                                                                     \
    } while (0)

#endif
