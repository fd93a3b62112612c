#!/usr/bin/env python3
#SBATCH --job-name=start          # a batch job: it needs an allocation, in which srun and mpirun both start ranks
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --output=%x-%j.out
"""Time from the command to the end of the first step, srun beside mpirun, in alternating pairs on the same nodes.

    sbatch bench/start.py RECIPE [--pairs 7] [-- overrides of the recipe]        (tools/slurm_loopback.sh run … without a cluster)

Each run makes one step in a fresh run directory without checkpoints.  Prints every pair in seconds, then the medians and
`ratio start X` (srun over mpirun).  `automodel` is taken from PATH."""
import argparse, os, statistics, subprocess, sys, tempfile, time


def launcher(name, ranks):
    return ["srun", "--mpi=pmix", f"--ntasks={ranks}", "--wait=5"] if name == "srun" else ["mpirun", "-np", str(ranks), "--bind-to", "none"]


def seconds_to_first_step(o, name, folder):
    ranks = int(os.environ["SLURM_NTASKS"])
    with tempfile.TemporaryDirectory(dir=folder) as run_dir:
        command = [*launcher(name, ranks), "automodel", "train", o.recipe, f"--run.dir={run_dir}/run", "--step_scheduler.max_steps=1",
                   "--checkpoint.enabled=false", "--step_scheduler.val_every_steps=1000000", *o.overrides]
        begin, first = time.monotonic(), None
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for line in process.stdout:
            if first is None and line.startswith("step 1/"):
                first = time.monotonic() - begin
        if process.wait() != 0 or first is None:
            sys.exit(f"start.py: {' '.join(command)}: exit code {process.returncode}, no step")
        return first


def main():
    argv, overrides = (sys.argv[1:], []) if "--" not in sys.argv else (sys.argv[1:sys.argv.index("--")], sys.argv[sys.argv.index("--") + 1:])
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("recipe")
    p.add_argument("--pairs", type=int, default=7)
    o = p.parse_args(argv)
    o.overrides = overrides
    if "SLURM_NTASKS" not in os.environ:
        sys.exit("start.py: not in a Slurm job: sbatch bench/start.py RECIPE")
    pairs = []
    for i in range(o.pairs):
        pairs.append({name: seconds_to_first_step(o, name, os.getcwd()) for name in (("srun", "mpirun") if i % 2 == 0 else ("mpirun", "srun"))})
        print(f"pair {i + 1}: srun {pairs[-1]['srun']:.3f} s, mpirun {pairs[-1]['mpirun']:.3f} s", flush=True)
    ratios = [x["srun"] / x["mpirun"] for x in pairs]
    print(f"median: srun {statistics.median(x['srun'] for x in pairs):.3f} s, mpirun {statistics.median(x['mpirun'] for x in pairs):.3f} s; "
          f"ratios {min(ratios):.2f} to {max(ratios):.2f}")
    print(f"ratio start {statistics.median(ratios):.2f}")


main()
