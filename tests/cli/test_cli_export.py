#!/usr/bin/env python3
"""`automodel export`: a model, or a checkpoint of it, comes out bit-identical; other dtypes and shard sizes; what is refused."""
import json
import os
import struct

from cli_test import (GOLDEN, copy_model, main, make_checkpoint, ranks, refused, run, tensors_of, tiny_model)

NAMES = sorted(n for n in os.listdir(GOLDEN) if os.path.exists(os.path.join(GOLDEN, n, "model.safetensors")))


def same_files(a, b, names):
    for name in names:
        with open(os.path.join(a, name), "rb") as x, open(os.path.join(b, name), "rb") as y:
            assert x.read() == y.read(), name


def check_model_is_identical(folder):
    for name in NAMES:
        model, out = os.path.join(GOLDEN, name), os.path.join(folder, name)
        run("export", model, "-o", out)
        assert tensors_of(out) == tensors_of(model), name
        same_files(model, out, ["config.json"])


def check_checkpoint_is_identical(folder):
    """bf16 → fp32 masters → pieces of two ranks → bf16."""
    for name in ("llama", "qwen2", "qwen3_tied_bias"):
        model, out = os.path.join(GOLDEN, name), os.path.join(folder, name + ".out")
        step = make_checkpoint(model, os.path.join(folder, name), 5, 1, np=2)
        text = run("export", step, "-o", out)
        assert tensors_of(out) == tensors_of(model), name
        assert f"{len(tensors_of(model))} tensors" in text


def double(data):
    """bf16 times two: one more in the exponent, zeros stay."""
    values = struct.unpack(f"<{len(data) // 2}H", data)
    return struct.pack(f"<{len(values)}H", *[v + 0x80 if v & 0x7f80 else v for v in values])


def check_weights_are_the_checkpoints(folder):
    model, out = os.path.join(GOLDEN, "qwen3"), os.path.join(folder, "out")
    make_checkpoint(model, os.path.join(folder, "run", "checkpoints"), 5, 1)
    make_checkpoint(model, os.path.join(folder, "run", "checkpoints"), 10, 2)
    run("export", os.path.join(folder, "run"), "-o", out)  # the newest step
    got = tensors_of(out)
    assert all(t[0] == "BF16" for t in got.values())
    assert got == {k: (d, s, double(b)) for k, (d, s, b) in tensors_of(model).items()}
    moved = copy_model("qwen3", os.path.join(folder, "moved"))
    run("export", os.path.join(folder, "run"), "-o", os.path.join(folder, "again"), "--model", moved)
    assert tensors_of(os.path.join(folder, "again")) == got


def check_dtype_and_shards(folder):
    model = os.path.join(GOLDEN, "qwen2")  # bf16, torch_dtype
    wide, back = os.path.join(folder, "wide"), os.path.join(folder, "back")
    run("export", model, "-o", wide, "--dtype", "float32", "--max-shard-size", "50KB")
    got = tensors_of(wide)
    assert got == {k: ("F32", s, b"".join(b"\0\0" + b[i:i + 2] for i in range(0, len(b), 2))) for k, (_, s, b) in tensors_of(model).items()}
    with open(os.path.join(wide, "config.json"), encoding="utf-8") as f:
        assert json.load(f)["torch_dtype"] == "float32"
    with open(os.path.join(wide, "model.safetensors.index.json"), encoding="utf-8") as f:
        index = json.load(f)
    assert set(index["weight_map"]) == set(got) and len(set(index["weight_map"].values())) > 2
    assert all(os.path.getsize(os.path.join(wide, n)) < 60000 for n in index["weight_map"].values())
    run("export", wide, "-o", back, "--dtype", "bfloat16")
    assert tensors_of(back) == tensors_of(model)


def check_what_goes_along(folder):
    model, out = tiny_model(os.path.join(folder, "m")), os.path.join(folder, "out")
    run("export", model, "-o", out)
    same_files(model, out, ["tokenizer.json", "tokenizer_config.json", "config.json"])


def check_refusals(folder):
    model, out = os.path.join(GOLDEN, "llama"), os.path.join(folder, "out")
    refused(2, "export needs -o DIR", "export", model)
    refused(2, "leave the option out", "export", model, "-o", out, "--merge-lora")
    refused(2, "float32, bfloat16 or float16, not int8", "export", model, "-o", out, "--dtype", "int8")
    refused(2, "a size like 5GB", "export", model, "-o", out, "--max-shard-size", "much")
    refused(2, "did you mean --max-shard-size?", "export", model, "-o", out, "--max-shard-sze", "1GB")
    refused(3, "does not exist", "export", os.path.join(folder, "nothing"), "-o", out)
    refused(2, "already holds weights", "export", model, "-o", copy_model("llama", os.path.join(folder, "taken")))
    ranks(2, "export", model, "-o", out, code=2, says="export runs on one rank and was started on 2")
    step = make_checkpoint(copy_model("llama", os.path.join(folder, "source")), os.path.join(folder, "c"), 1, 1)
    os.rename(os.path.join(folder, "source"), os.path.join(folder, "elsewhere"))
    refused(3, "name its directory with --model", "export", step, "-o", out)
    refused(3, "--model", "export", step, "-o", out, "--model", os.path.join(folder, "nowhere"))
    other = os.path.join(GOLDEN, "qwen3")
    refused(3, "", "export", step, "-o", out, "--model", other)
    assert not os.path.exists(os.path.join(out, "model.safetensors"))
    file = os.path.join(step, "rank-00000.safetensors")
    os.chmod(file, 0o644)
    with open(file, "r+b") as f:
        f.truncate(os.path.getsize(file) - 100)
    refused(3, "rank-00000.safetensors", "export", step, "-o", out, "--model", os.path.join(folder, "elsewhere"))
    unfinished = os.path.join(folder, "c", "step_00000009")
    os.makedirs(unfinished)
    refused(3, "manifest.json", "export", unfinished, "-o", out)


if __name__ == "__main__":
    main([check_model_is_identical, check_checkpoint_is_identical, check_weights_are_the_checkpoints, check_dtype_and_shards,
          check_what_goes_along, check_refusals])
