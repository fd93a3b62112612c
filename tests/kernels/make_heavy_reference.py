#!/usr/bin/env python3
"""Writes heavy_reference.h: attention and linear + cross-entropy as PyTorch computes them in float64.

Inputs are pattern(i, seed) = ((i·37 + seed·17) mod 201 − 100) / 128, exact in every dtype and repeated in the tests.
    python3 tests/kernels/make_heavy_reference.py > tests/kernels/heavy_reference.h
"""
import torch
import torch.nn.functional as F


def pattern(seed, *shape):
    n = torch.Size(shape).numel()
    i = torch.arange(n, dtype=torch.int64)
    return (((i * 37 + seed * 17) % 201 - 100).double() / 128).reshape(shape)


def emit(name, t):
    flat = [f"{v:.15g}" for v in t.detach().reshape(-1).tolist()]
    print(f"static const double {name}[{len(flat)}] = {{")
    for i in range(0, len(flat), 4):
        print("    " + ", ".join(flat[i:i + 4]) + ",")
    print("};")


def attention():
    n, heads, kv, d, dv, window = 7, 9, 3, 4, 3, 4
    doc_start = torch.tensor([0, 0, 0, 3, 3, 3, 3])
    q, k, v = (pattern(s, n, h, w).requires_grad_() for s, h, w in ((1, heads, d), (2, kv, d), (3, kv, dv)))
    i, j = torch.arange(n)[:, None], torch.arange(n)[None, :]
    mask = (j <= i) & (j >= doc_start[:, None]) & (j > i - window)
    o = F.scaled_dot_product_attention(q.transpose(0, 1), k.transpose(0, 1), v.transpose(0, 1), attn_mask=mask,
                                       scale=0.75, enable_gqa=True).transpose(0, 1)
    o.backward(pattern(4, n, heads, dv))
    scores = torch.einsum("ihd,jhd->ihj", q, k.repeat_interleave(heads // kv, 1)) * 0.75
    lse = scores.masked_fill(~mask[:, None, :], float("-inf")).logsumexp(-1)
    print(f"/* attention: {n} tokens, {heads} heads, {kv} kv heads, d {d}, dv {dv}, window {window}, scale 0.75,\n"
          f" * documents start at 0 and 3; do = pattern 4 */")
    for name, t in (("o", o), ("lse", lse), ("dq", q.grad), ("dk", k.grad), ("dv", v.grad)):
        emit("torch_att_" + name, t)


def cross_entropy():
    n, d, v = 5, 6, 11
    labels = torch.tensor([3, -100, 10, 0, 7])
    h, w, dlogp = pattern(5, n, d).requires_grad_(), pattern(6, v, d).requires_grad_(), pattern(7, n)
    logp = -F.cross_entropy(F.linear(h, w), labels, reduction="none")
    (logp * dlogp).sum().backward()
    print(f"/* linear_ce: {n} tokens, D {d}, V {v}, labels 3 -100 10 0 7, dlogp = pattern 7 */")
    emit("torch_ce_logp", logp)
    emit("torch_ce_dh", h.grad)
    emit("torch_ce_dw", w.grad)


print("/* Written by make_heavy_reference.py with PyTorch " + torch.__version__.split("+")[0] + ", float64. */")
attention()
cross_entropy()
