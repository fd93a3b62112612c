#!/usr/bin/env python3
"""FP8 (blocks of scales) and MXFP4 models through the commands: verified as they are; exported, themselves and a checkpoint of them, as the
bf16 tensors that transformers makes of them (tests/golden/packed, by tools/make_packed_models.py); the dtype is said; what comes out is
verified, too, and opens without a quantization_config."""
import hashlib
import json
import os
import struct

from cli_test import GOLDEN, main, make_checkpoint, read_safetensors, run, tensors_of

FOLDER = os.path.join(GOLDEN, "packed")
NAMES = sorted(os.listdir(FOLDER))
DTYPES = {"BF16": "bfloat16", "F32": "float32"}


def load(*path):
    with open(os.path.join(*path), encoding="utf-8") as f:
        return json.load(f)


def check_tensors(folder, model):
    """Names, dtypes, shapes and bits are those that transformers has."""
    expected, got = load(model, "expected.json"), tensors_of(folder)
    assert set(got) == set(expected), set(got) ^ set(expected)
    for name, (dtype, shape, data) in got.items():
        assert [DTYPES[dtype], shape] == expected[name][:2], (name, dtype, shape, expected[name])
        assert hashlib.sha256(data).hexdigest() == expected[name][2], f"{name} is not what transformers makes of it"
    return got


def check_config(folder, model, **changed):
    """As the source's, without the key that tells of the packing."""
    expected = {**load(model, "config.json"), **changed}
    del expected["quantization_config"]
    assert load(folder, "config.json") == expected


def verified(folder, model):
    return json.loads(run("verify", folder, "--reference", os.path.join(model, "reference.safetensors"), "--json", "--threads", "1").splitlines()[-1])


def check_exported_and_verified(folder):
    assert len(NAMES) == 2, NAMES
    for name in NAMES:
        model, out = os.path.join(FOLDER, name), os.path.join(folder, name)
        method = load(model, "config.json")["quantization_config"]["quant_method"]
        num = sum(t[0] == "F8_E4M3" or n.endswith("_blocks") for n, t in read_safetensors(os.path.join(model, "model.safetensors")).items())
        assert num >= 4
        text = run("export", model, "-o", out)
        tensors = check_tensors(out, model)
        assert f"{len(tensors)} tensors in {' and '.join(sorted({t[0] for t in tensors.values()}))}," in text, text
        assert f"{num} of them are {method} in the source and are written as the BF16 numbers that they stand for" in text, text
        check_config(out, model)
        before, after = verified(model, model), verified(out, model)
        assert before["ok"] and after["ok"] and before["gradients"] == after["gradients"] > 30
        for key in ("loss", "loss_rel_err", "logits_max_abs_err", "worst_gradient"):
            assert before[key] == after[key], (name, key, before[key], after[key])
        print(f"{name}: {num} {method} tensors; loss {after['loss']}, off by {after['loss_rel_err']:.0e}; worst gradient "
              f"{after['worst_gradient']['rel_err']:.0e} {after['worst_gradient']['tensor']}")


def check_exported_wide(folder):
    for name in NAMES:
        model, out = os.path.join(FOLDER, name), os.path.join(folder, name)
        run("export", model, "-o", os.path.join(folder, name + ".bf16"))
        text = run("export", model, "-o", out, "--dtype", "float32")
        narrow = check_tensors(os.path.join(folder, name + ".bf16"), model)
        wide = {n: ("F32", s, b if d == "F32" else b"".join(b"\0\0" + b[i:i + 2] for i in range(0, len(b), 2))) for n, (d, s, b) in narrow.items()}
        assert tensors_of(out) == wide
        assert f"{len(wide)} tensors in F32," in text and "written as the F32 numbers that they stand for" in text, text
        check_config(out, model, dtype="float32")


def check_checkpoint_exported(folder):
    """Packed → fp32 masters → pieces of two ranks → bf16; the source stays packed."""
    for name in NAMES:
        model, out = os.path.join(FOLDER, name), os.path.join(folder, name + ".out")
        step = make_checkpoint(model, os.path.join(folder, name), 5, 1, np=2)
        run("export", step, "-o", out)
        check_tensors(out, model)
        check_config(out, model)
        again = os.path.join(folder, name + ".again")
        text = run("export", out, "-o", again)
        assert tensors_of(again) == tensors_of(out) and "stand for" not in text


def check_a_changed_scale_is_another_model(folder):
    """The comparisons can fail: one scale twice as large."""
    for name in NAMES:
        model, other = os.path.join(FOLDER, name), os.path.join(folder, name)
        os.makedirs(other)
        with open(os.path.join(model, "model.safetensors"), "rb") as f:
            data = bytearray(f.read())
        begin = 8 + struct.unpack("<Q", data[:8])[0]
        header = json.loads(data[8:begin])
        scale = next(n for n in sorted(header) if n.endswith(("_scale_inv", "_scales")))
        at = begin + header[scale]["data_offsets"][0]
        data[at:at + 4] = struct.pack("<f", 2 * struct.unpack("<f", data[at:at + 4])[0]) if scale.endswith("inv") else bytes([data[at] + 1]) + data[at + 1:at + 4]
        with open(os.path.join(other, "model.safetensors"), "wb") as f:
            f.write(data)
        with open(os.path.join(other, "config.json"), "w", encoding="utf-8") as f:
            json.dump(load(model, "config.json"), f)
        out = os.path.join(folder, name + ".out")
        run("export", other, "-o", out)
        expected = load(model, "expected.json")
        wrong = [n for n, t in tensors_of(out).items() if hashlib.sha256(t[2]).hexdigest() != expected[n][2]]
        assert wrong == [scale.removesuffix("_scale_inv").removesuffix("_scales")], wrong
        run("verify", out, "--reference", os.path.join(model, "reference.safetensors"), "--threads", "1", code=5)


if __name__ == "__main__":
    main([check_exported_and_verified, check_exported_wide, check_checkpoint_exported, check_a_changed_scale_is_another_model])
