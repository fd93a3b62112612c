#!/usr/bin/env python3
"""How the cost of a step grows: one variable at a time around a small model, exponents beside the expected ones.

    bench/growth.py [PROGRAM] [--vary seq rows layers vocab] [--dtype bf16|fp32] [--steps 3] [--out FILE.md]

Runs `automodel bench step --json --memory` on a model of random weights for each value, and prints for each variable a table of
figures (tokens/s, time of a step by groups of operators, memory of the plan and of the process) and a table of exponents: the slope
log(y₂/y₁) / log(x₂/x₁) between neighbours, and in brackets what the algorithm asks for: products and the head grow as the tokens do,
attention as their square, states as the parameters.  What is affine (states in layers, say) gets the exponent of its own formula.
Figures below one part in 200 of their step, and parts under a MiB, are not fitted: a clock's and an allocator's grain would be."""
import argparse, json, math, os, subprocess, sys, tempfile

BASE = dict(seq=1024, rows=1, layers=2, vocab=8192)
VALUES = dict(seq=[512, 1024, 2048, 4096, 8192, 16384, 32768], rows=[1, 2, 4, 8, 16], layers=[1, 2, 4, 8, 16],
              vocab=[4096, 8192, 16384, 32768, 65536])
WORDS = dict(seq="sequence", rows="rows of a batch", layers="layers", vocab="vocabulary")
SHAPE = dict(model_type="llama", architectures=["LlamaForCausalLM"], hidden_size=256, intermediate_size=768, num_attention_heads=4,
             num_key_value_heads=2, head_dim=64, hidden_act="silu", rms_norm_eps=1e-5, rope_theta=10000.0,
             max_position_embeddings=32768, attention_bias=False, mlp_bias=False, tie_word_embeddings=True, torch_dtype="float32",
             initializer_range=0.02, bos_token_id=1, eos_token_id=2)
RECIPE = """run: {{dir: "{folder}/run", threads: {threads}}}
step_scheduler: {{global_batch_size: {rows}, local_batch_size: {rows}, max_steps: 2}}
model: {{_target_: nemo_automodel.NeMoAutoModelForCausalLM.from_config, config: "{folder}/config.json", torch_dtype: {dtype}}}
distributed: {{recompute: none}}
dataset: {{_target_: automodel.ShardDataset, data_dir: "{folder}/none", seq_length: {seq}, truncation: true}}
optimizer: {{_target_: torch.optim.AdamW, lr: 1.0e-5}}
clip_grad_norm: {{max_norm: 1.0}}
checkpoint: {{enabled: false}}
"""
GROUPS = {"products": ("linear", "linear_dx", "linear_dw"), "head and loss": ("linear_ce",), "attention": ("attention",),
          "states": ("adamw", "sumsq", "cast", "fill")}
# exponents by variable; None: as the parameters grow
EXPECTED = {
    "products": dict(seq=1, rows=1, layers=1, vocab=0), "head and loss": dict(seq=1, rows=1, layers=0, vocab=1),
    "attention": dict(seq=2, rows=1, layers=1, vocab=0), "other operators": dict(seq=1, rows=1, layers=1, vocab=0),
    "states": dict(seq=0, rows=0, layers=None, vocab=None),
    "memory: states": dict(seq=0, rows=0, layers=None, vocab=None),
    "memory: activations": dict(seq=1, rows=1, layers=1, vocab=0),
}


def group_of(row):
    for group, names in GROUPS.items():
        if row["operator"] in names or (group in ("attention", "head and loss") and row["operator"].startswith(names)):
            return group
    return "other operators"


def parameters(x):
    h, d = SHAPE["hidden_size"], SHAPE["head_dim"]
    layer = 2 * h * d * (SHAPE["num_attention_heads"] + SHAPE["num_key_value_heads"]) + 3 * h * SHAPE["intermediate_size"] + 2 * h
    return x["layers"] * layer + h + x["vocab"] * h


def measure(o, x):
    """{figure: value} of one step with these values"""
    with tempfile.TemporaryDirectory() as folder:
        with open(os.path.join(folder, "config.json"), "w", encoding="utf-8") as f:
            json.dump({**SHAPE, "num_hidden_layers": x["layers"], "vocab_size": x["vocab"]}, f)
        recipe = os.path.join(folder, "recipe.yaml")
        with open(recipe, "w", encoding="utf-8") as f:
            f.write(RECIPE.format(folder=folder, threads=o.threads, rows=x["rows"], seq=x["seq"],
                                  dtype={"bf16": "bf16", "fp32": "float32"}[o.dtype]))
        steps = o.steps if x["seq"] < 16384 else 1
        done = subprocess.run([o.program, "bench", "step", recipe, "--json", "--memory", "--steps", str(steps)], capture_output=True,
                              text=True)
        if done.returncode != 0:
            sys.exit(f"growth: {x}: {done.stderr}")
    told = json.loads(done.stdout)
    seconds = dict.fromkeys(["products", "head and loss", "attention", "other operators", "states"], 0.0)
    for row in told["operators"]:
        seconds[group_of(row)] += row["seconds"]
    parts = {p["part"]: p["plan"] for p in told["memory"]["parts"]}
    states = sum(v for k, v in parts.items() if k.startswith(("store", "step")))
    step = sum(seconds.values()) + told["outside_seconds"]  # the fastest, whose operators these are
    return dict(x, parameters=parameters(x), step=step, rate=told["tokens"] / step, flops=told["flops"],
                plan=told["plan_bytes"], peak=told["peak_gib"] * 2**30, seconds=seconds, ceiling=told["ceilings"]["flops_per_second"],
                **{"memory: states": states, "memory: activations": parts.get("frame: saved activations", 0)})


def slope(x1, x2, y1, y2):
    return math.log(y2 / y1) / math.log(x2 / x1)


def exponent(o, a, b, variable, figure):
    """"1.02 (1)", or "" where a value is too small to be fitted"""
    if figure.startswith("memory"):
        y1, y2, least1, least2 = a[figure], b[figure], 2**20, 2**20
    elif figure == "step":
        y1, y2, least1, least2 = a["step"], b["step"], 0, 0
    else:
        y1, y2, least1, least2 = a["seconds"][figure], b["seconds"][figure], a["step"] / 200, b["step"] / 200
    if y1 <= least1 or y2 <= least2:
        return ""
    if figure == "step":
        expected = slope(a[variable], b[variable], a["flops"], b["flops"])
    else:
        expected = EXPECTED[figure][variable]
    if expected is None:
        expected = slope(a[variable], b[variable], a["parameters"], b["parameters"])
    return f"{slope(a[variable], b[variable], y1, y2):.2f} ({expected:.3g})"


def table(head, rows):
    return ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)] + ["| " + " | ".join(row) + " |" for row in rows]


def report(o, variable, runs):
    others = ", ".join(f"{WORDS[k]} {v}" for k, v in BASE.items() if k != variable)
    lines, ceiling = ["", f"## {WORDS[variable]} ({others})", ""], max(r["ceiling"] for r in runs)
    groups = list(runs[0]["seconds"])
    lines += table([WORDS[variable], "tokens/s", "step, ms", *(f"{g}, ms" for g in groups), "of the ceiling", "plan, MiB", "activations, MiB",
                    "peak, MiB"],
                   [[str(r[variable]), f"{r['rate']:.0f}", f"{1e3 * r['step']:.1f}", *(f"{1e3 * r['seconds'][g]:.2f}" for g in groups),
                     f"{100 * r['flops'] / r['step'] / ceiling:.0f} %", f"{r['plan'] / 2**20:.1f}",
                     f"{r['memory: activations'] / 2**20:.1f}", f"{r['peak'] / 2**20:.1f}"] for r in runs])
    figures = ["step", *EXPECTED]
    lines += ["", "Exponents between neighbours, in brackets the expected one (of the step: that of its FLOPs):", ""]
    lines += table([f"{WORDS[variable]} to", *figures],
                   [[str(b[variable]), *(exponent(o, a, b, variable, f) for f in figures)] for a, b in zip(runs, runs[1:])])
    return lines


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    here = os.path.dirname(os.path.abspath(__file__))
    p.add_argument("program", nargs="?", default=os.environ.get("AUTOMODEL") or os.path.join(here, "..", "build", "release", "automodel"))
    p.add_argument("--vary", nargs="+", choices=list(VALUES), default=list(VALUES))
    p.add_argument("--most", type=int, help="leave larger values out")
    p.add_argument("--dtype", choices=["bf16", "fp32"], default="bf16")
    p.add_argument("--steps", type=int, default=3, help="measured for each value (from 16384 tokens: one)")
    p.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    p.add_argument("--out", help="write the tables to this file too")
    o = p.parse_args()
    told = subprocess.run([o.program, "--version"], capture_output=True, text=True, check=True).stdout.strip()
    lines = ["# How the cost of a step grows", "",
             f"{told}, {o.dtype}, {o.threads} threads; a llama of {SHAPE['hidden_size']} features, {SHAPE['num_attention_heads']} heads of "
             f"{SHAPE['head_dim']} ({SHAPE['num_key_value_heads']} for keys), {SHAPE['intermediate_size']} between gate and down, tied head, random "
             f"weights; no recompute; the fastest of {o.steps} steps (from 16384 tokens on, of one). The ceiling is that of products "
             "of 2048×1024×4096, the best of a table's runs."]
    print("\n".join(lines), flush=True)
    for variable in o.vary:
        runs = [measure(o, {**BASE, variable: v}) for v in VALUES[variable] if not o.most or v <= o.most]
        part = report(o, variable, runs)
        print("\n".join(part), flush=True)
        lines += part
    if o.out:
        with open(o.out, "w", encoding="utf-8") as f:
            f.write("\n".join(lines) + "\n")


main()
