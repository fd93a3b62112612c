#!/usr/bin/env python3
"""bf16 beside fp32: the same training steps in alternating pairs, so that a machine whose speed drifts still compares.

    bench/dtypes.py PROGRAM RECIPE [--pairs 5] [--steps 4] [--ranks 1] [--isa avx2] [-- further overrides of the recipe]

Each run trains `steps` steps from the recipe's model in a fresh run directory without checkpoints; its figure is the median tokens/s of all
steps but the first.  Prints every pair, then the median of each and `ratio tokens/s X` (bf16 over fp32), and the peak memory of both."""
import argparse, json, os, statistics, subprocess, sys, tempfile


def one_run(o, dtype, data_dir):
    with tempfile.TemporaryDirectory() as folder:
        run_dir = os.path.join(folder, "run")
        os.makedirs(run_dir)
        os.symlink(os.path.abspath(data_dir), os.path.join(run_dir, "data"))
        command = [o.program, "train", o.recipe, f"--run.dir={run_dir}", f"--model.torch_dtype={dtype}", f"--step_scheduler.max_steps={o.steps}",
                   "--checkpoint.enabled=false", "--step_scheduler.val_every_steps=1000000", *o.overrides]
        if o.ranks > 1:
            command = ["mpirun", "--oversubscribe", "-np", str(o.ranks), *command]
        done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **({"AM_ISA": o.isa} if o.isa else {})})
        if done.returncode != 0:
            sys.exit(f"{' '.join(command)}\n{done.stderr}")
        lines = [json.loads(line) for line in open(os.path.join(run_dir, "training.jsonl"))]
    return statistics.median(x["tps"] for x in lines[1:]), max(x["mem"] for x in lines)


def main():
    argv, overrides = (sys.argv[1:], []) if "--" not in sys.argv else (sys.argv[1:sys.argv.index("--")], sys.argv[sys.argv.index("--") + 1:])
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("program")
    p.add_argument("recipe")
    p.add_argument("--data", required=True, help="the folder data/ of a run directory in which `automodel prepare RECIPE` has written")
    p.add_argument("--pairs", type=int, default=5)
    p.add_argument("--steps", type=int, default=4)
    p.add_argument("--ranks", type=int, default=1)
    p.add_argument("--isa")
    o = p.parse_args(argv)
    o.overrides = overrides
    pairs, memory = [], {}
    for i in range(o.pairs):
        speed = {}
        for dtype in ("bf16", "float32"):
            speed[dtype], memory[dtype] = one_run(o, dtype, o.data)
        pairs.append(speed)
        print(f"pair {i + 1}: bf16 {speed['bf16']:.1f} tokens/s, fp32 {speed['float32']:.1f}, ratio {speed['bf16'] / speed['float32']:.3f}", flush=True)
    ratios = [x["bf16"] / x["float32"] for x in pairs]
    print(f"median: bf16 {statistics.median(x['bf16'] for x in pairs):.1f}, fp32 {statistics.median(x['float32'] for x in pairs):.1f} tokens/s; "
          f"ratios {min(ratios):.3f} to {max(ratios):.3f}")
    print(f"ratio tokens/s {statistics.median(ratios):.3f}")
    print(f"ratio memory {memory['bf16'] / memory['float32']:.3f}   (peak of rank 0: bf16 {memory['bf16']:.2f} GiB, fp32 {memory['float32']:.2f} GiB)")


main()
