#!/usr/bin/env python3
"""bench/run.sh on a small GPT-2: ours alone, and beside a stand-in for llm.c that is written here.   AUTOMODEL

The stand-in has train_gpt2.c's names and computes nothing: every label's loss is 3.  So the pairs, what is printed and
the comparison of losses are run through without llm.c, and the comparison must fail."""
import json
import os
import shutil
import sys
import tempfile

from bench_test import SKIPPED, bench, tiny_gpt2

STAND_IN = r"""
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#ifndef TESTING
#error "its main is not left out"
#endif
#define mallocCheck malloc
#define fopenCheck fopen
#define freadCheck(p, size, n, f) do { if (fread(p, size, n, f) != (n)) exit(9); } while (0)
#define fcloseCheck fclose
typedef struct { int max_seq_len, padded_vocab_size; } GPT2Config;
typedef struct { float *losses, *probs; } ActivationTensors;
typedef struct { GPT2Config config; ActivationTensors acts; int *targets; } GPT2;
static int last_step;
static void gpt2_build_from_checkpoint(GPT2 *m, const char *path)
{
    int header[256];
    FILE *f = fopenCheck(path, "rb");
    freadCheck(header, 4, 256, f);
    fclose(f);
    if (header[0] != 20240326 || header[1] != 3) exit(8);
    m->config.max_seq_len = header[2];
    m->config.padded_vocab_size = header[7];
    m->acts.losses = calloc((size_t)header[2], sizeof(float));
    m->acts.probs = calloc((size_t)header[2] * (size_t)header[7], sizeof(float));
    m->targets = calloc((size_t)header[2], sizeof(int));
}
static void gpt2_forward(GPT2 *m, int *inputs, int *targets, size_t B, size_t T)
{
    for (size_t t = 0; t + 1 < T; t++)
        if (targets[t] != inputs[t + 1]) exit(7);
    for (size_t t = 0; t < T; t++) m->acts.losses[t] = t + 1 < T ? 3.0f : 1000.0f;
    for (size_t i = 0; i < T * (size_t)m->config.padded_vocab_size; i++) m->acts.probs[i] = 1.0f;
    memcpy(m->targets, targets, T * sizeof *targets);
    last_step = (int)T - 1;
}
static void gpt2_zero_grad(GPT2 *m) {}
static void gpt2_backward(GPT2 *m)
{
    size_t padded = (size_t)m->config.padded_vocab_size, at = (size_t)last_step * padded;
    if (m->targets[last_step] != -1 || m->acts.probs[at] != 0 || m->acts.probs[at + padded - 1] != 0 || m->acts.probs[at - 1] != 1)
        exit(6); /* the last cell has no label and no gradient, the one before has */
}
static void gpt2_update(GPT2 *m, float lr, float beta1, float beta2, float eps, float decay, int t)
{
    if (lr != 1e-5f || beta1 != 0.9f || beta2 != 0.999f || eps != 1e-8f || decay != 0.01f || t < 1) exit(5);
}
static void gpt2_free(GPT2 *m) { free(m->acts.losses), free(m->acts.probs), free(m->targets); }
"""
SHORT = ["--seq", "48", "--pairs", "2", "--steps", "3", "--patience", "0", "--json"]


def check_side(told, side, steps):
    assert [len(p[side]["loss"]) for p in told["pairs"]] == [steps] * 2
    for p in told["pairs"]:
        x = p[side]
        assert 0 < x["begin_s"] < x["start_s"] and x["tokens_per_s"] > 0 and x["memory_gib"] > 0, x
        assert abs(x["memory_gib"] - x["above_states_gib"] - 16 * told["parameters"] / 2**30) < 1e-9


def check_alone(program, model):
    told = json.loads(bench("--model", model, "--dtype", "fp32", *SHORT, program=program))
    check_side(told, "ours", 3)
    assert "peer" not in told and told["conditions"]["dtype"] == "fp32"


def check_beside(program, model, sources):
    out = bench("--model", model, "--peer", "llmc", "--llmc", sources, *SHORT, program=program, code=1,
                says=["the sides do not compute the same: more than 1e-05 apart", "ratio tokens/s ", "ratio start "])
    told = json.loads(out)
    for side in ("ours", "peer"):
        check_side(told, side, 3)
    assert told["peer_way"] == "fp32" and told["conditions"]["dtype"] == "fp32"
    assert "train_gpt2.c" in told["conditions"]["peer"] and "-Ofast -fopenmp -march=native" in told["conditions"]["peer"]
    assert all(p["peer"]["loss"] == [3.0] * 3 for p in told["pairs"])
    ratios = [p["ours"]["tokens_per_s"] / p["peer"]["tokens_per_s"] for p in told["pairs"]]
    assert told["ratio tokens/s"]["smallest"] == min(ratios) and told["ratio tokens/s"]["largest"] == max(ratios)


def main():
    program, cc = sys.argv[1], os.environ.get("CC") or "cc"
    with tempfile.TemporaryDirectory() as folder:
        model = tiny_gpt2(os.path.join(folder, "model"))
        check_alone(program, model)
        if not shutil.which(cc):
            print(f"test_bench_pairs: skipped beside a peer: there is no compiler {cc}")
            return SKIPPED
        with open(os.path.join(folder, "train_gpt2.c"), "w", encoding="utf-8") as f:
            f.write(STAND_IN)
        check_beside(program, model, folder)
    print("test_bench_pairs: alone, beside a stand-in")
    return 0


sys.exit(main())
