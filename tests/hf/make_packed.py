#!/usr/bin/env python3
"""Write tests/hf/data/packed_{fp8,mxfp4}: small directories of packed tensors, and beside them what torch and transformers
(5.23) make of them (expected.safetensors, bf16).  Needs torch and transformers; the tests do not.

    tests/hf/make_packed.py
"""
import json
import os

import torch
from safetensors.torch import save_file
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

HERE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "data")
BLOCK = (16, 8)


def blocks_of(n, size):
    return (n + size - 1) // size


def fp8(shape, scale_dtype, generator):
    """a random tensor and its scales a block"""
    w = (torch.randn(shape, generator=generator) * 100).to(torch.float8_e4m3fn)
    scale = torch.rand(*shape[:-2], blocks_of(shape[-2], BLOCK[0]), blocks_of(shape[-1], BLOCK[1]), generator=generator) * 0.01 + 1e-3
    return w, scale.to(scale_dtype)


def plain(w, scale):
    wide = scale.float().repeat_interleave(BLOCK[0], -2)[..., : w.shape[-2], :].repeat_interleave(BLOCK[1], -1)[..., : w.shape[-1]]
    return (w.float() * wide).bfloat16()


def write(name, quantization, tensors, expected):
    folder = os.path.join(HERE, name)
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, "config.json"), "w", encoding="utf-8") as f:
        json.dump({"model_type": "none", "dtype": "bfloat16", "quantization_config": quantization}, f, indent=1)
    save_file(tensors, os.path.join(folder, "model.safetensors"))
    save_file(expected, os.path.join(folder, "expected.safetensors"))
    for file in os.listdir(folder):
        os.chmod(os.path.join(folder, file), 0o644)


def main():
    g = torch.Generator().manual_seed(1)
    tensors, expected = {}, {}
    for name, shape, dtype in (("a.weight", (20, 36), torch.float32), ("b.weight", (3, 17, 24), torch.float32),
                               ("c.weight", (16, 8), torch.float8_e8m0fnu), ("d.weight", (33, 9), torch.bfloat16)):
        tensors[name], tensors[name + "_scale_inv"] = fp8(shape, dtype, g)
        expected[name] = plain(tensors[name], tensors[name + "_scale_inv"])
    tensors["whole.weight"] = (torch.randn(5, 7, generator=g) * 50).to(torch.float8_e4m3fn)
    tensors["whole.weight_scale_inv"] = torch.tensor(0.037)
    expected["whole.weight"] = (tensors["whole.weight"].float() * 0.037).bfloat16()
    tensors["norm.weight"] = expected["norm.weight"] = torch.randn(11, generator=g).bfloat16()
    write("packed_fp8", {"quant_method": "fp8", "weight_block_size": BLOCK}, tensors, expected)

    blocks = torch.randint(0, 256, (3, 10, 2, 16), dtype=torch.uint8, generator=g)
    scales = torch.randint(110, 140, (3, 10, 2), dtype=torch.uint8, generator=g)
    bias = torch.randn(3, 10, generator=g).bfloat16()
    write("packed_mxfp4", {"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head"]},
          {"e.gate_up_proj_blocks": blocks, "e.gate_up_proj_scales": scales, "e.gate_up_proj_bias": bias},
          {"e.gate_up_proj": convert_moe_packed_tensors(blocks, scales).contiguous(), "e.gate_up_proj_bias": bias})


main()
