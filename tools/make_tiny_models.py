#!/usr/bin/env python3
"""Make the small random models of tests/golden and their reference files with transformers.

    tools/make_tiny_models.py [-o tests/golden] [NAME …]

Each folder gets config.json, model.safetensors (bf16 unless said otherwise) and reference.safetensors (float32, by
tools/make_reference.py, 2 rows of 48 tokens).  What the models are chosen to exercise stands beside each.  "hub" ones
have config.json in the spelling of hub files (rope_theta, rope_scaling, torch_dtype, defaults left out), the others in
that of transformers 5 (rope_parameters, dtype).
"""
import argparse
import json
import os
import sys

import torch
import transformers

import make_reference

COMMON = dict(vocab_size=128, hidden_size=48, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
              num_key_value_heads=2, max_position_embeddings=256, tie_word_embeddings=False,
              bos_token_id=1, eos_token_id=2, pad_token_id=None)
LLAMA3 = dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
              original_max_position_embeddings=32, rope_theta=10000.0)

# name: (config class, keys that differ, hub spelling, packed, dtype on disk)
MODELS = {
    # the plain case, in fp32, documents packed
    "llama": ("LlamaConfig", dict(), False, True, "float32"),
    # frequencies scaled, original length (32) below the sequence; uneven heads; head_dim of its own; tied
    "llama_rope3_tied": ("LlamaConfig", dict(rope_parameters=LLAMA3, num_attention_heads=9, num_key_value_heads=3,
                                             hidden_size=72, head_dim=8, tie_word_embeddings=True), True, False, "bfloat16"),
    # linear scaling; biases everywhere
    "llama_linear_bias": ("LlamaConfig", dict(rope_parameters=dict(rope_type="linear", factor=4.0, rope_theta=500.0),
                                              attention_bias=True, mlp_bias=True), False, False, "bfloat16"),
    # a window shorter than the sequence on every layer; head_dim above hidden/heads
    "mistral": ("MistralConfig", dict(sliding_window=8, head_dim=16, rms_norm_eps=1e-5), False, True, "bfloat16"),
    # window on layers from max_window_layers; q, k, v biases; tied; uneven heads
    "qwen2": ("Qwen2Config", dict(use_sliding_window=True, sliding_window=8, max_window_layers=1, num_hidden_layers=3,
                                  num_attention_heads=3, num_key_value_heads=1, tie_word_embeddings=True),
              True, True, "bfloat16"),
    # no window although a number is given; a theta of its own
    "qwen2_full": ("Qwen2Config", dict(use_sliding_window=False, sliding_window=8,
                                       rope_parameters=dict(rope_type="default", rope_theta=1000000.0)),
                   False, False, "bfloat16"),
    # norms of q and k; window from layer 1; head_dim above hidden/heads
    "qwen3": ("Qwen3Config", dict(use_sliding_window=True, sliding_window=8, max_window_layers=1, head_dim=16),
              False, True, "bfloat16"),
    # uneven heads, tied, biases, no window
    "qwen3_tied_bias": ("Qwen3Config", dict(num_attention_heads=9, num_key_value_heads=3, head_dim=8,
                                            attention_bias=True, tie_word_embeddings=True), True, False, "bfloat16"),
}


@torch.no_grad()
def randomise(model, seed):
    """Every tensor matters: norm weights around 1 but not 1, biases not 0, products of order 1."""
    g = torch.Generator().manual_seed(seed)
    for name, p in sorted(model.named_parameters()):
        noise = torch.randn(p.shape, generator=g)
        if p.dim() == 1:
            p.copy_(0.3 * noise + (0.0 if name.endswith("bias") else 1.0))
        elif "embed_tokens" in name:
            p.copy_(noise * (p.shape[1] ** -0.5 if model.config.tie_word_embeddings else 0.7))
        else:
            p.copy_(noise * p.shape[1] ** -0.5)


def hub_spelling(config):
    """transformers 5's keys as files of the hub have them."""
    rope = config.pop("rope_parameters")
    config["rope_theta"] = rope.pop("rope_theta")
    if rope.get("rope_type", "default") != "default":
        config["rope_scaling"] = rope
    config["torch_dtype"] = config.pop("dtype")
    config.pop("layer_types", None)
    for key in ("pad_token_id", "pretraining_tp"):
        if key in config and config[key] in (None, 1):
            config.pop(key)
    return config


def make(name, folder, seed):
    config_class, keys, hub, packed, dtype = MODELS[name]
    config = getattr(transformers, config_class)(**{**COMMON, **keys})
    model = transformers.AutoModelForCausalLM.from_config(config)
    randomise(model, seed)
    model.to(getattr(torch, dtype)).save_pretrained(folder)
    path = os.path.join(folder, "config.json")
    with open(path) as f:
        written = json.load(f)
    if hub:
        written = hub_spelling(written)
    with open(path, "w") as f:
        json.dump(written, f, indent=2, sort_keys=True)
        f.write("\n")
    if os.path.exists(os.path.join(folder, "generation_config.json")):
        os.remove(os.path.join(folder, "generation_config.json"))
    os.chmod(os.path.join(folder, "model.safetensors"), 0o644)
    options = ["-o", os.path.join(folder, "reference.safetensors"), "--seed", str(seed), "--batch", "2", "--seq", "48"]
    make_reference.main([folder, "--dtype", "float32", *options] + (["--packed"] if packed else []))


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("-o", "--output", default=os.path.join(os.path.dirname(os.path.abspath(__file__)), "../tests/golden"))
    p.add_argument("names", nargs="*", default=None, help="of: " + ", ".join(MODELS))
    args = p.parse_args()
    transformers.utils.logging.disable_progress_bar()
    for name in args.names or MODELS:
        if name not in MODELS:
            sys.exit(f"no tiny model is called {name}; there are {', '.join(MODELS)}")
        folder = os.path.join(args.output, name)
        os.makedirs(folder, exist_ok=True)
        make(name, folder, seed=100 + list(MODELS).index(name))


if __name__ == "__main__":
    main()
