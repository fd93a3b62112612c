/* card_test: what the card tests share: models made of a JSON text and a list of tensor shapes, without files; errors. */
#ifndef CARD_TEST_H
#define CARD_TEST_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "graph/card.h"

typedef struct fake_tensor {
    const char *name;
    int         rank;
    int64_t     shape[3];
} fake_tensor;

/** A model whose config.json is `config` and whose checkpoint holds `n` tensors; freed by fake_free. */
am_hf_model *fake_model(const char *config, const fake_tensor *tensors, size_t n);
/** Tensors of a Llama-shaped model: L layers, D, q rows, kv rows, F, V, head_dim of q/k norms (0: none), biases. */
typedef struct fake_llama {
    int     layers;
    int64_t D, Q, K, F, V, head_norm;
    bool    qkv_bias, head;
} fake_llama;
am_hf_model *fake_llama_model(const char *config, const fake_llama *shape);
void         fake_free(am_hf_model **m);
void         fake_remove(am_hf_model *m, const char *name);
void         fake_reshape(am_hf_model *m, const char *name, int64_t a, int64_t b);

am_card *open_family(const char *file); /* configs/models/FILE of the source tree */
/** st must be `want` and the error's sentence contain `text`. */
void expect_error(am_status st, am_status want, const char *text);
void expect_ok(am_status st);
int  count_nodes(am_graph *g, const char *op);
int  find_param(am_graph *g, const char *name);       /* -1: none */
int  nth_node(am_graph *g, const char *op, int n);    /* index of the n-th node of this operator, -1 */
am_graph *new_graph(am_dtype compute);                /* 2 rows of 16 tokens */

#endif
