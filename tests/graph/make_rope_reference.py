#!/usr/bin/env python3
"""Writes rope_reference.h: for configurations with every rope_type the inverse frequencies and the attention factor that
transformers' ROPE_INIT_FUNCTIONS give.  Run it with a Python that has transformers:  python make_rope_reference.py > rope_reference.h"""
import json

import torch
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

WIDTH, POSITIONS, LONG, SHORT = 16, 256, 96, 32  # of a head; max_position_embeddings; rows that are and are not beyond `original`
lists = dict(short_factor=[1.0, 1.1, 1.25, 1.5, 1.75, 2.0, 2.5, 3.0], long_factor=[1.0, 2.0, 3.0, 5.0, 8.0, 13.0, 21.0, 34.0])
llama3 = dict(factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=64)
yarn = dict(factor=4.0, original_max_position_embeddings=64)
cases = [
    ("linear", dict(factor=4.0), LONG), ("llama3", llama3, LONG), ("dynamic", dict(factor=4.0), LONG),
    ("yarn", yarn, LONG), ("yarn", dict(yarn, truncate=False), LONG), ("yarn", dict(yarn, beta_fast=16.0, beta_slow=2.0), LONG),
    ("yarn", dict(yarn, mscale=0.707, mscale_all_dim=1.0), LONG), ("yarn", dict(yarn, mscale=0.707), LONG),
    ("yarn", dict(yarn, attention_factor=1.25), LONG),
    ("longrope", dict(lists, factor=4.0, original_max_position_embeddings=64), LONG),
    ("longrope", dict(lists, factor=4.0, original_max_position_embeddings=64), SHORT),
    ("longrope", dict(lists, attention_factor=1.5, factor=4.0, original_max_position_embeddings=64), SHORT),
    ("longrope", dict(lists, original_max_position_embeddings=64), LONG),
]
print("/* rope_reference: written by make_rope_reference.py */")
rows = []
for i, (kind, keys, seq) in enumerate(cases):
    for old in (False, True):
        rope = dict(keys, rope_type=kind, rope_theta=10000.0)
        config = LlamaConfig(hidden_size=4 * WIDTH, num_attention_heads=4, head_dim=WIDTH, max_position_embeddings=POSITIONS,
                             rope_parameters=rope)
        inv, factor = ROPE_INIT_FUNCTIONS[kind](config, "cpu", seq_len=seq)
        text = dict(max_position_embeddings=POSITIONS, rope_theta=10000.0, rope_scaling=dict(keys, rope_type=kind)) if old else \
            dict(max_position_embeddings=POSITIONS, rope_parameters=rope)
        name = f"{kind}_{i}_{'old' if old else 'new'}"
        print(f"static const double {name}[] = {{" + ", ".join(repr(float(v)) for v in inv) + "};")
        rows.append(f'    {{"{name}", {json.dumps(json.dumps(text))}, {seq}, {float(factor)!r}, {len(inv)}, {name}}},')
print("static const struct {\n    const char *name, *config;\n    int64_t seq;\n    double factor;\n    int num;\n"
      "    const double *inv_freq;\n} rope_cases[] = {\n" + "\n".join(rows) + "\n};")
