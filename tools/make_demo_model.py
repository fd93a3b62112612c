#!/usr/bin/env python3
"""Write a tiny Llama with random weights, for a demonstration without a network:   make_demo_model.py DIR

The tokenizer is the 298-token one of the tests; the weights follow from a fixed seed.  Standard library only.
"""
import json
import os
import random
import shutil
import struct
import sys

D, HEADS, KV_HEADS, HEAD, FFN, LAYERS, VOCAB = 64, 4, 2, 16, 128, 2, 298


def tensors():
    yield "model.embed_tokens.weight", (VOCAB, D)
    for i in range(LAYERS):
        p = f"model.layers.{i}."
        yield p + "input_layernorm.weight", (D,)
        yield p + "post_attention_layernorm.weight", (D,)
        for name, shape in (("self_attn.q_proj", (HEADS * HEAD, D)), ("self_attn.k_proj", (KV_HEADS * HEAD, D)),
                            ("self_attn.v_proj", (KV_HEADS * HEAD, D)), ("self_attn.o_proj", (D, HEADS * HEAD)),
                            ("mlp.gate_proj", (FFN, D)), ("mlp.up_proj", (FFN, D)), ("mlp.down_proj", (D, FFN))):
            yield p + name + ".weight", shape
    yield "model.norm.weight", (D,)


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    out = sys.argv[1]
    tiny = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "tests", "data", "files", "tiny")
    os.makedirs(out, exist_ok=True)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(os.path.join(tiny, name), out)
    rng, header, data = random.Random(0), {"__metadata__": {"format": "pt"}}, bytearray()
    for name, shape in tensors():
        count = shape[0] * (shape[1] if len(shape) == 2 else 1)
        values = [1.0] * count if len(shape) == 1 else [rng.gauss(0, 0.05) for _ in range(count)]
        start = len(data)
        data += struct.pack(f"<{count}f", *values)
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [start, len(data)]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(os.path.join(out, "model.safetensors"), "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text + data)
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": D, "intermediate_size": FFN,
              "num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS,
              "head_dim": HEAD, "vocab_size": VOCAB, "max_position_embeddings": 8192, "rms_norm_eps": 1e-5,
              "rope_theta": 10000.0, "hidden_act": "silu", "attention_bias": False, "mlp_bias": False,
              "tie_word_embeddings": True, "bos_token_id": 0, "eos_token_id": 3, "torch_dtype": "float32"}
    with open(os.path.join(out, "config.json"), "w", encoding="utf-8") as f:
        json.dump(config, f, indent=2)
        f.write("\n")


if __name__ == "__main__":
    main()
