#!/usr/bin/env python3
"""What a rank takes, measured from outside, beside the plan in run.json.
    test_walls_memory.py AUTOMODEL
/proc/PID/status and smaps of every rank are read while it trains a model of 36 million parameters, whose plan is so
large that everything else becomes small beside it; a tiny model tells how large everything else is: libraries, MPI,
HDF5, the model's header, heap.
    peak <= plan + what the tiny model takes beyond its plan + GROWTH          and          peak >= 0.9 plan
GROWTH: a region of 2 MiB and more is rounded up to whole huge pages (five regions), MPI's lists, and the buffers
through which weights are read: none of them depends on the size of the model.  BASE bounds the tiny model's excess,
so that a leak there does not hide."""
import json
import os
import re
import struct
import subprocess
import sys
import time

import walls

MIB = 1 << 20
GROWTH, BASE = 16 * MIB, 64 * MIB
MID = {"D": 512, "heads": 8, "kv": 8, "F": 1536, "layers": 8, "vocab": 8192}
STEPS, TINY_STEPS = 2, 1000  # the tiny model must live long enough to be looked at


def ranks_of(marker):
    """Processes that run the program with this recipe."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as f:
                words = f.read().split(b"\0")
            if os.path.samefile(f"/proc/{pid}/exe", walls.PROGRAM) and marker.encode() in words:
                found.append(int(pid))
        except OSError:
            pass
    return found


def look(pid, seen):
    """Peak so far, and the sum over smaps: what is anonymous, what is of files."""
    try:
        with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as f:
            peak = re.search(r"^VmHWM:\s+(\d+) kB", f.read(), re.M)
        with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as f:
            text = f.read()
        rss, anonymous = (int(re.search(rf"^{k}:\s+(\d+) kB", text, re.M)[1]) for k in ("Rss", "Anonymous"))
    except (OSError, TypeError):
        return
    if peak:
        old = seen.get(pid, (0, 0, 0, 0))
        seen[pid] = (int(peak[1]) * 1024, max(old[1], rss * 1024), max(old[2], anonymous * 1024), old[3] + 1)


def watch(recipe, ranks, *options):
    """{pid: (VmHWM, largest Rss seen, largest anonymous seen, looks)} of a whole run."""
    log = recipe + ".log"
    with open(log, "w", encoding="utf-8") as f:
        command = walls.command(recipe, ranks, *options)
        p = subprocess.Popen(command, env=walls.environment(), stdout=f, stderr=f)
    seen, mine = {}, []
    while p.poll() is None:
        if len(mine) < ranks:
            mine = ranks_of(recipe)
        for pid in mine:
            look(pid, seen)
        time.sleep(0.03)
    with open(log, encoding="utf-8") as f:
        assert p.returncode == 0, f.read()
    assert len(seen) == ranks, f"{len(seen)} of {ranks} ranks were seen"
    return seen


def zero_model(out):
    """A model directory whose tensors are the holes of a sparse file: reading it costs no disk."""
    config = json.load(open(walls.make_config(out, **MID), encoding="utf-8"))
    D, F, V = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    shapes = {"model.embed_tokens.weight": (V, D), "model.norm.weight": (D,), "lm_head.weight": (V, D)}
    for i in range(config["num_hidden_layers"]):
        p = f"model.layers.{i}."
        shapes.update({p + "input_layernorm.weight": (D,), p + "post_attention_layernorm.weight": (D,)})
        shapes.update({f"{p}self_attn.{n}_proj.weight": (D, D) for n in "qkvo"})
        shapes.update({p + "mlp.gate_proj.weight": (F, D), p + "mlp.up_proj.weight": (F, D)})
        shapes[p + "mlp.down_proj.weight"] = (D, F)
    header, end = {}, 0
    for name, shape in shapes.items():
        size = 4 * shape[0] * (shape[1] if len(shape) == 2 else 1)
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(os.path.join(out, "model.safetensors"), "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text)
        f.truncate(8 + len(text) + end)
    return out


def measure(out, name, config, shards, ranks, *options, dtype="float32", steps=STEPS):
    """(plan, [excess of each rank])"""
    recipe, run = walls.write_recipe(out, name, config, shards, dtype, steps)
    seen = watch(recipe, ranks, "--run.threads=1", *options)
    plan = walls.plan(run)["bytes"]
    for pid, (peak, rss, anonymous, looks) in seen.items():
        assert looks >= 5, f"{name}: {pid} ended before it could be measured ({looks} looks)"
        print(f"{name}: {peak / MIB:.1f} MiB at most, plan {plan / MIB:.1f}, beyond it {(peak - plan) / MIB:.1f}; "
              f"largest sum of smaps {rss / MIB:.1f}, anonymous {anonymous / MIB:.1f}")
        assert rss <= peak + 2 * MIB, f"{name}: smaps and VmHWM of {pid} contradict each other"
    return plan, [peak - plan for peak, _, _, _ in seen.values()]


def main():
    out = walls.folder()
    shards, tiny = walls.make_shards(out), walls.make_config(out)
    base = {}
    for ranks in (1, 2):
        _, excess = measure(out, f"tiny-{ranks}", tiny, shards, ranks, steps=TINY_STEPS)
        base[ranks] = max(excess)
        assert base[ranks] <= BASE, f"{base[ranks] / MIB:.1f} MiB beside a tiny model's plan, {BASE / MIB} allowed"
    folder = os.path.join(out, "zero")
    os.mkdir(folder)
    config = os.path.join(zero_model(folder), "config.json")
    load = ["--model._target_=nemo_automodel.NeMoAutoModelForCausalLM.from_pretrained",
            f"--model.pretrained_model_name_or_path={folder}"]
    ddp = load + ["--distributed.strategy=ddp"]
    for name, ranks, dtype, options in (("fresh, alone", 1, "float32", []), ("loaded, FSDP", 2, "float32", load),
                                        ("loaded, DDP, bf16", 2, "bf16", ddp)):
        plan, excess = measure(out, name.replace(", ", "-"), config, shards, ranks, *options, dtype=dtype)
        assert plan > 5 * BASE, f"{name}: the plan of {plan} bytes is too small to say anything"
        for e in excess:
            allowed = base[ranks] + GROWTH
            assert e <= allowed, f"{name}: {e / MIB:.1f} MiB beyond the plan, {allowed / MIB:.1f} allowed"
            assert e >= -0.1 * plan, f"{name}: only {(plan + e) / plan:.0%} of the plan was ever in memory"


if __name__ == "__main__":
    sys.exit(main())
