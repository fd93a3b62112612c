#!/usr/bin/env python3
"""Tensors that are not parameters one for one: fused ones come back from a checkpoint bit for bit, older spellings of their
names, text models that stand inside of others."""
import json
import os
import random
import struct

from cli_test import GOLDEN, main, make_checkpoint, read_safetensors, refused, run, tensors_of, write_safetensors

FUSED = ["phi3", "codegen", "gpt_neox", "gpt2", "gpt_bigcode", "nemotron_nas"]


def renamed(name, folder, rename, config=lambda c: c, more=None):
    """A golden model with other names of tensors (in its reference too), another config.json and further tensors."""
    source = os.path.join(GOLDEN, name)
    os.makedirs(folder, exist_ok=True)
    tensors = {rename(k): v for k, v in tensors_of(source).items()}
    write_safetensors(os.path.join(folder, "model.safetensors"), {**tensors, **(more or {})})
    with open(os.path.join(source, "reference.safetensors"), "rb") as f:
        n = int.from_bytes(f.read(8), "little")
        metadata = json.loads(f.read(n))["__metadata__"]
    reference = {("grad." + rename(k[5:]) if k.startswith("grad.") else k): v
                 for k, v in read_safetensors(os.path.join(source, "reference.safetensors")).items()}
    strides = {rename(k): v for k, v in json.loads(metadata.get("gradient_strides", "{}")).items()}
    write_safetensors(os.path.join(folder, "reference.safetensors"), reference)
    set_metadata(os.path.join(folder, "reference.safetensors"), {**metadata, "gradient_strides": json.dumps(strides)})
    with open(os.path.join(source, "config.json")) as f:
        c = config(json.load(f))
    with open(os.path.join(folder, "config.json"), "w") as f:
        json.dump(c, f)
    return folder


def set_metadata(path, metadata):
    with open(path, "rb") as f:
        data = f.read()
    n = int.from_bytes(data[:8], "little")
    header = {**json.loads(data[8:8 + n]), "__metadata__": metadata}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as f:
        f.write(len(text).to_bytes(8, "little") + text + data[8 + n:])


def verify(folder, **more):
    return json.loads(run("verify", folder, "--reference", os.path.join(folder, "reference.safetensors"), "--json",
                          "--threads", "1", **more))


def check_fused_tensors_come_back(folder):
    """bf16 → fp32 masters of the parts → pieces of two ranks → bf16, for every kind of layout."""
    for name in FUSED:
        model, out = os.path.join(GOLDEN, name), os.path.join(folder, name + ".out")
        step = make_checkpoint(model, os.path.join(folder, name), 5, 1, np=2)
        run("export", step, "-o", out)
        assert tensors_of(out) == tensors_of(model), name


def random_model(folder, config, shapes):
    """bf16 numbers between 0.5 and 2 of either sign."""
    r, tensors = random.Random(7), {}
    for name, shape in shapes.items():
        n = 1
        for s in shape:
            n *= s
        values = [(v & 0x80ff) | 0x3f00 for v in struct.unpack(f"<{n}H", r.randbytes(2 * n))]
        tensors[name] = ("BF16", list(shape), struct.pack(f"<{n}H", *values))
    os.makedirs(folder)
    write_safetensors(os.path.join(folder, "model.safetensors"), tensors)
    with open(os.path.join(folder, "config.json"), "w") as f:
        json.dump({**config, "vocab_size": 16, "tie_word_embeddings": True, "torch_dtype": "bfloat16"}, f)
    return folder


def check_tensors_larger_than_a_chunk(folder):
    """The export puts 2^18 elements together at a time, and whole matrices where they are transposed."""
    phi = random_model(
        os.path.join(folder, "phi"),
        {"model_type": "phi3", "hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 1, "num_attention_heads": 4,
         "num_key_value_heads": 2},
        {"model.embed_tokens.weight": (16, 256), "model.norm.weight": (256,),
         "model.layers.0.input_layernorm.weight": (256,), "model.layers.0.post_attention_layernorm.weight": (256,),
         "model.layers.0.self_attn.qkv_proj.weight": (512, 256), "model.layers.0.self_attn.o_proj.weight": (256, 256),
         "model.layers.0.mlp.gate_up_proj.weight": (2048, 256), "model.layers.0.mlp.down_proj.weight": (256, 1024)})
    at, sizes = "transformer.h.0.", {"attn.c_attn": (320, 960), "attn.c_proj": (320, 320), "mlp.c_fc": (320, 1280),
                                     "mlp.c_proj": (1280, 320)}
    gpt = random_model(
        os.path.join(folder, "gpt"), {"model_type": "gpt2", "n_embd": 320, "n_layer": 1, "n_head": 5, "n_positions": 8},
        {"transformer.wte.weight": (16, 320), "transformer.wpe.weight": (8, 320),
         **{f"{at}{n}.weight": s for n, s in sizes.items()}, **{f"{at}{n}.bias": (s[1],) for n, s in sizes.items()},
         **{f"{n}.{part}": (320,) for n in (at + "ln_1", at + "ln_2", "transformer.ln_f") for part in ("weight", "bias")}})
    for model in (phi, gpt):
        step = make_checkpoint(model, model + ".run", 5, 1, np=2)
        run("export", step, "-o", model + ".out")
        assert tensors_of(model + ".out") == tensors_of(model), model


def check_older_spelling(folder):
    """GPT-2's first files have no "transformer." in front; what is exported has none either."""
    old = renamed("gpt2", os.path.join(folder, "old"), lambda n: n.removeprefix("transformer."))
    assert verify(old)["ok"]
    step = make_checkpoint(old, os.path.join(folder, "run"), 5, 1)
    run("export", step, "-o", os.path.join(folder, "out"))
    assert tensors_of(os.path.join(folder, "out")) == tensors_of(old)
    both = renamed("gpt2", os.path.join(folder, "both"), lambda n: n.replace("transformer.wte", "wte"),
                   more={"transformer.wte.weight": tensors_of(os.path.join(GOLDEN, "gpt2"))["transformer.wte.weight"]})
    refused(3, "two spellings", "inspect", both)


WRAPPERS = {
    "new": lambda n: n.replace("model.", "model.language_model.", 1) if n.startswith("model.") else n,
    "old": lambda n: "language_model." + n,
    "idefics": lambda n: n.replace("model.", "model.text_model.", 1) if n.startswith("model.") else n,
}
OTHER = {"model.vision_tower.patch.weight": ("F32", [2, 2], bytes(range(16))),
         "model.vision_tower.patch.bias": ("F32", [2], bytes(8)),
         "multi_modal_projector.linear_1.weight": ("BF16", [4], bytes(range(8)))}


def wrap(config):
    return {"model_type": "something_with_pictures", "architectures": ["SomethingForConditionalGeneration"],
            "image_token_index": 7, "vision_config": {"hidden_size": 3}, "text_config": config,
            "tie_word_embeddings": config["tie_word_embeddings"]}


def check_text_inside_of_other_models(folder):
    for kind, rename in WRAPPERS.items():
        for name in ("llama", "phi3_tied"):
            where = renamed(name, os.path.join(folder, kind + name), rename, wrap, OTHER)
            assert verify(where, says="3 tensors of its other parts (model.vision_tower, multi_modal_projector)")["ok"]
            step = make_checkpoint(where, os.path.join(folder, kind + name + ".run"), 5, 1)
            run("export", step, "-o", os.path.join(folder, kind + name + ".out"))
            assert tensors_of(os.path.join(folder, kind + name + ".out")) == tensors_of(where), (kind, name)


def check_text_model_is_still_checked(folder):
    """What lies beside is carried; what lies among the text model's tensors must be known."""
    where = renamed("llama", os.path.join(folder, "m"), WRAPPERS["new"], wrap,
                    {"model.language_model.layers.0.self_attn.q_norm.weight": ("F32", [2], bytes(8))})
    refused(3, "q_norm.weight", "inspect", where)


if __name__ == "__main__":
    main([check_fused_tensors_come_back, check_tensors_larger_than_a_chunk, check_older_spelling,
          check_text_inside_of_other_models, check_text_model_is_still_checked])
