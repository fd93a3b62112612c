#!/usr/bin/env python3
"""Write tests/golden/packed: small random models as FP8 in blocks (DeepSeek V3) and MXFP4 (GPT-OSS), and what transformers makes of them.

    tools/make_packed_models.py [-o tests/golden/packed]

Each folder gets config.json with a quantization_config, model.safetensors with packed tensors and their scales, expected.json
(of every tensor that transformers dequantises or takes over: dtype, shape, SHA-256 of its bytes) and reference.safetensors of the
dequantised model (tools/make_reference.py).  Needs torch, transformers and accelerate; the tests do not.
"""
import argparse
import hashlib
import json
import os
import sys
import tempfile

import torch
import transformers
from safetensors.torch import load_file, save_file

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
import make_reference  # noqa: E402
import make_tiny_models  # noqa: E402
from tiny.family import YARN, Family, llama_like  # noqa: E402

BLOCK = (8, 4)  # of FP8: every matrix is whole blocks, since transformers asks for that
FP4 = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6])
PACKED = [
    (Family("deepseek_v3_fp8", "deepseek_v3", "FP8 in blocks; experts a tensor each",
            llama_like(vocab_size=48, hidden_size=24, intermediate_size=24, moe_intermediate_size=8, n_routed_experts=6, n_shared_experts=1,
                       num_experts_per_tok=3, n_group=3, topk_group=2, norm_topk_prob=True, routed_scaling_factor=1.7, first_k_dense_replace=1,
                       num_key_value_heads=4, q_lora_rank=16, kv_lora_rank=12, qk_nope_head_dim=6, qk_rope_head_dim=4, v_head_dim=10, head_dim=4,
                       rope_parameters=dict(YARN, mscale=1.0, mscale_all_dim=0.8)), seed=11),
     {"activation_scheme": "dynamic", "fmt": "e4m3", "quant_method": "fp8", "weight_block_size": list(BLOCK)}),
    (Family("gpt_oss_mxfp4", "gpt_oss", "MXFP4 experts in stacked tensors, of one and of two groups a row",
            llama_like(vocab_size=48, hidden_size=32, intermediate_size=64, num_local_experts=3, num_experts_per_tok=2, head_dim=8,
                       sliding_window=8, swiglu_limit=1.2, attention_bias=True, rope_parameters=dict(YARN, truncate=False)), seed=12),
     {"modules_to_not_convert": ["model.layers.*.self_attn", "model.layers.*.mlp.router", "model.embed_tokens", "lm_head"], "quant_method": "mxfp4"}),
]


def to_fp8(name, w):
    """The tensor in E4M3 and a scale a block: the largest of a block becomes 448."""
    rows, cols = w.shape
    blocks = w.float().reshape(rows // BLOCK[0], BLOCK[0], cols // BLOCK[1], BLOCK[1])
    scale = blocks.abs().amax((1, 3)) / 448
    q = (blocks / scale[:, None, :, None]).reshape(rows, cols).to(torch.float8_e4m3fn)
    return {name: q, name + "_scale_inv": scale.contiguous()}


def to_mxfp4(name, w):
    """[experts, in, out] as rows of groups of 32 inputs: two numbers a byte, and a power of two a group."""
    w = w.float().transpose(1, 2).contiguous()
    groups = w.reshape(*w.shape[:2], -1, 32)
    power = torch.floor(torch.log2(groups.abs().amax(-1))) - 2
    scaled = groups / torch.exp2(power)[..., None]
    nearest = (scaled.abs()[..., None] - FP4).abs().argmin(-1) + 8 * (scaled < 0)
    blocks = (nearest[..., 0::2] + 16 * nearest[..., 1::2]).to(torch.uint8)
    return {name + "_blocks": blocks, name + "_scales": (power + 127).to(torch.uint8)}


def packed(tensors, method):
    out = {}
    for name, w in tensors.items():
        if method == "fp8" and name.endswith(("_proj.weight", "_proj_with_mqa.weight")):
            out.update(to_fp8(name, w))
        elif method == "mxfp4" and name.endswith(("gate_up_proj", "down_proj")):
            out.update(to_mxfp4(name, w))
        else:
            out[name] = w
    return out


def tiny(family, folder):
    """A random model of the family, saved as make_tiny_models does."""
    config = transformers.AutoConfig.for_model(family.model_type, **family.config)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager", dtype=torch.float32)
    make_tiny_models.randomise(model, family, family.seed)
    model.to(torch.bfloat16).save_pretrained(folder)
    make_tiny_models.write_configs(folder, family)
    with open(os.path.join(folder, "config.json"), encoding="utf-8") as f:
        return json.load(f)


def dequantised(folder, plain_config, out):
    """What transformers reads from the packed folder, saved as a plain model."""
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    plain = transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.for_model(**plain_config), dtype=torch.bfloat16)
    plain.load_state_dict(model.state_dict())
    plain.save_pretrained(out)
    return load_file(os.path.join(out, "model.safetensors"))


def make(family, quantization, folder):
    os.makedirs(folder, exist_ok=True)
    with tempfile.TemporaryDirectory() as first, tempfile.TemporaryDirectory() as second:
        config = tiny(family, first)
        save_file(packed(load_file(os.path.join(first, "model.safetensors")), quantization["quant_method"]),
                  os.path.join(folder, "model.safetensors"), metadata={"format": "pt"})
        make_tiny_models.write_config(os.path.join(folder, "config.json"), {**config, "quantization_config": quantization})
        expected = dequantised(folder, config, second)
        make_reference.main([second, "-o", os.path.join(folder, "reference.safetensors"), "--seed", str(family.seed), "--packed", "--compact",
                             "--compare", "float32"])
    listed = {n: [str(t.dtype).removeprefix("torch."), list(t.shape), hashlib.sha256(t.contiguous().view(torch.uint8).numpy().tobytes()).hexdigest()]
              for n, t in sorted(expected.items())}
    with open(os.path.join(folder, "expected.json"), "w", encoding="utf-8") as f:
        f.write("{\n" + ",\n".join(f"{json.dumps(n)}: {json.dumps(v)}" for n, v in listed.items()) + "\n}\n")
    for file in os.listdir(folder):
        os.chmod(os.path.join(folder, file), 0o644)
    print(family.name, sum(os.path.getsize(os.path.join(folder, f)) for f in os.listdir(folder)) // 1000, "kB")


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("-o", "--output", default=os.path.join(HERE, "../tests/golden/packed"))
    args = p.parse_args()
    for family, quantization in PACKED:
        make(family, quantization, os.path.join(args.output, family.name))


if __name__ == "__main__":
    main()
