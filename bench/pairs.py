#!/usr/bin/env python3
"""One training step of ours beside a peer's, in alternating pairs of fresh processes on the same cores.

    bench/run.sh --model DIR --peer torch          SmolLM2-135M's directory, say; bf16, 512 tokens, five pairs
    bench/run.sh --shape llama1b --peer torch --seq 2048 --recompute --quick
    bench/run.sh --model DIR                       ours alone

Full fine-tuning with AdamW, fp32 master weights, the gradient's norm clipped at 1, one row of T tokens a step, the same
rows for both.  A run's speed is T over the median seconds of its steps but the first; its memory is the process's
largest resident set (wait4); its start is the time from the command to the end of its first step.  A ratio is the
median of the pairs' ratios, ours over the peer's.  For our bf16 the peer takes the fastest of bf16 autocast, bf16
weights with an fp32 master copy, and fp32, found in a first round.
Exit codes: 0 done, 1 a run failed, 2 usage, 4 something missing on this machine."""
import argparse, json, os, shutil, statistics, subprocess, sys, tempfile, threading, time

import ours

HERE = os.path.dirname(os.path.abspath(__file__))
PEER = os.path.join(HERE, "peer_torch.py")
TINY = os.path.join(HERE, "..", "tests", "data", "files", "tiny")
WAYS = {"fp32": "fp32", "autocast": "bf16 autocast over fp32 weights", "master": "bf16 weights, fp32 master copy"}


class Bench:
    def __init__(self, o, folder):
        self.o, self.folder, self.runs = o, folder, 0
        self.bind = ["taskset", "-c", o.cores]
        self.env = {**os.environ, "OMP_NUM_THREADS": str(o.threads), "HF_HUB_OFFLINE": "1"}
        self.torch = None

    def say(self, text):
        print(text, file=sys.stderr if self.o.json else sys.stdout, flush=True)

    def timed(self, command, first_stream):
        """@return {start, peak GiB, out: its standard output}; the first step's end is a line `step 1/…`"""
        streams = {name: subprocess.PIPE for name in ("stdout", "stderr")}
        kept, marks = {"stdout": [], "stderr": []}, []
        begin = time.monotonic()
        process = subprocess.Popen(self.bind + command, text=True, env=self.env, **streams)

        def follow(name):
            for line in getattr(process, name):
                if name == first_stream and line.startswith("step "):
                    marks.append(time.monotonic() - begin)
                kept[name].append(line)
        threads = [threading.Thread(target=follow, args=(name,)) for name in streams]
        for t in threads:
            t.start()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        for t in threads:
            t.join()
        if process.returncode != 0 or not marks:
            sys.exit(f"bench: {' '.join(command)}: exit code {process.returncode}\n{''.join(kept['stderr'][-20:])}")
        between = [b - a for a, b in zip(marks, marks[1:])]
        return dict(start=marks[0], memory=usage.ru_maxrss / 2**20, out="".join(kept["stdout"]), between=between)

    def figures(self, run, seconds, loss):
        """Speed by the side's own clock; a clock that leaves out a part of the step is found by ours."""
        own, seen = statistics.median(seconds[1:]), statistics.median(run["between"])
        if seen > 1.1 * own + 0.02:
            self.say(f"  note: steps are {own:.2f} s by the side's clock but {seen:.2f} s apart; the longer is taken")
            own = seen
        return dict(tokens_per_s=self.o.seq / own, memory_gib=run["memory"], start_s=run["start"],
                    first_step_s=seconds[0], loss=loss)

    def ours(self):
        self.runs += 1
        run_dir = os.path.join(self.folder, f"run{self.runs}")
        run = self.timed(ours.command(self.folder, self.o.program, run_dir, self.o, self.has_weights), "stderr")
        result = self.figures(run, *ours.figures(run_dir, self.o.seq))
        shutil.rmtree(run_dir)
        return result

    def peer(self, way, compiled, steps=None):
        command = [self.torch, PEER, "train", "--model", os.path.join(self.folder, "model"),
                   "--rows", os.path.join(self.folder, "rows.json"), "--way", way, "--steps", str(steps or self.o.steps),
                   "--threads", str(self.o.threads)]
        command += ["--recompute"] * self.o.recompute + ["--compile"] * compiled
        run = self.timed(command, "stdout")
        told = json.loads(run["out"].splitlines()[-1])
        return {**self.figures(run, told["seconds"], told["loss"]), "adamw": told["adamw"]}

    def ask(self, *arguments):
        done = subprocess.run(self.bind + [self.torch, PEER, *arguments, "--threads", str(self.o.threads)], text=True,
                              capture_output=True, env=self.env)
        if done.returncode != 0:
            sys.exit(f"bench: {PEER} {' '.join(arguments)}: {done.stderr[-2000:]}")
        return done.stdout.strip()

    def calibrate(self):
        """(way, compiled) of the fastest, with three steps each"""
        ways = [self.o.way] if self.o.way else ["autocast", "master", "fp32"] if self.o.dtype == "bf16" else ["fp32"]
        tried = {}
        for compiled in (False, True) if self.o.compile else (False,):
            for way in ways:
                try:
                    tried[way, compiled] = self.peer(way, compiled, 3)["tokens_per_s"]
                except SystemExit as failed:
                    if not compiled:
                        raise
                    self.say(f"peer, torch.compile, {WAYS[way]}: does not run here: {str(failed).splitlines()[-1]}")
                    continue
                self.say(f"peer, {'torch.compile, ' if compiled else ''}{WAYS[way]}: {tried[way, compiled]:.1f} tokens/s")
        best = max(tried, key=tried.get)
        return best, {("compiled " if c else "") + w: speed for (w, c), speed in tried.items()}


def find_torch():
    python = os.environ.get("AM_TORCH_PYTHON") or "python3"
    done = subprocess.run([python, "-c", "import torch, transformers"], capture_output=True, text=True) \
        if shutil.which(python) else None
    if done is None or done.returncode != 0:
        print(f"bench: {python} has no torch and transformers, which --peer torch measures beside: set AM_TORCH_PYTHON "
              "to a Python that has both, or leave --peer out", file=sys.stderr)
        sys.exit(4)
    return python


def arguments():
    p = argparse.ArgumentParser(prog="bench/run.sh", description=__doc__,
                                formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--peer", choices=["torch"], help="measure beside it; none: ours alone")
    what = p.add_mutually_exclusive_group(required=True)
    what.add_argument("--model", metavar="DIR", help="a Hugging Face directory with config.json and *.safetensors")
    what.add_argument("--shape", choices=sorted(ours.SHAPES), help="that model with random weights")
    p.add_argument("--dtype", choices=["bf16", "fp32"], default="bf16")
    p.add_argument("--seq", type=int, default=512, metavar="T")
    p.add_argument("--pairs", type=int, help="default 5, with --quick 3")
    p.add_argument("--steps", type=int, help="of a run; default 6, from 2048 tokens 4, from 8192 tokens 3")
    p.add_argument("--recompute", action="store_true", help="both sides compute layers again in backward")
    p.add_argument("--compile", action="store_true", help="let the peer try torch.compile too")
    p.add_argument("--way", choices=sorted(WAYS), help="of the peer; none: the fastest")
    p.add_argument("--cores", help="as taskset -c takes them; default: all this process may use")
    p.add_argument("--quick", action="store_true", help="three pairs")
    p.add_argument("--json", action="store_true", help="one JSON object on standard output; prose on standard error")
    p.add_argument("--scratch", help="folder for the work folder (gigabytes for --shape); default: $TMPDIR or /tmp")
    o = p.parse_args()
    o.pairs = o.pairs or (3 if o.quick else 5)
    o.steps = o.steps or (6 if o.seq < 2048 else 4 if o.seq < 8192 else 3)
    if o.steps < 2 or o.pairs < 1 or o.seq < 2:
        p.error("at least 2 steps, 1 pair and 2 tokens")
    o.program = os.environ.get("AUTOMODEL") or os.path.join(HERE, "..", "build", "release", "automodel")
    if not os.access(o.program, os.X_OK):
        print(f"bench: {o.program} is no program: build it (cmake --preset release) or name one in AUTOMODEL",
              file=sys.stderr)
        sys.exit(4)
    o.program = os.path.abspath(o.program)
    o.cores = o.cores or ",".join(str(c) for c in sorted(os.sched_getaffinity(0)))
    told = subprocess.run(["taskset", "-c", o.cores, sys.executable, "-c", "import os; print(len(os.sched_getaffinity(0)))"],
                          capture_output=True, text=True)
    if told.returncode != 0:
        p.error(f"--cores {o.cores}: {told.stderr.strip()}")
    o.threads = int(told.stdout)
    return o


def conditions(b):
    o, cpu, flags = b.o, "?", ""
    with open("/proc/cpuinfo", encoding="utf-8") as f:
        for line in f:
            if line.startswith("model name"):
                cpu = line.split(":")[1].strip()
            if line.startswith("flags"):
                flags = line.split(":")[1].split()
    isa = [x for x in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if x in flags]
    version = subprocess.run([o.program, "--version"], capture_output=True, text=True).stdout.strip()
    out = {"cpu": cpu, "flags": isa, "cores": o.cores, "threads": o.threads, "ours": version,
           "model": o.model and os.path.basename(os.path.abspath(o.model)) or o.shape, "dtype": o.dtype, "seq": o.seq,
           "recompute": o.recompute, "steps": o.steps, "pairs": o.pairs}
    if b.torch:
        out["peer"] = b.ask("version")
    if os.environ.get("AM_ISA"):
        out["AM_ISA"] = os.environ["AM_ISA"]
    b.say(f"{out['model']}, {o.dtype}, 1 row of {o.seq} tokens, {o.steps} steps a run, recompute "
          f"{'on' if o.recompute else 'off'}; {cpu} ({' '.join(isa)}), cores {o.cores}\n{version}"
          + (f"; {out['peer']}" if b.torch else ""))
    return out


def line_of(name, x):
    return f"{name} {x['tokens_per_s']:.1f} tokens/s, {x['memory_gib']:.2f} GiB, start {x['start_s']:.2f} s"


def spread(pairs, side, key):
    values = [p[side][key] for p in pairs]
    return dict(median=statistics.median(values), smallest=min(values), largest=max(values))


def measure(b, result):
    o, pairs = b.o, []
    way = None
    if b.torch:
        (way, compiled), result["calibration"] = b.calibrate()
        result["peer_way"] = ("compiled " if compiled else "") + way
        ceilings = [json.loads(b.ask("ceiling", "--dtype", o.dtype))["gflops"]]
    else:
        b.ours()  # the first run reads the weights from disk
    for i in range(o.pairs):
        sides = (["ours", "peer"] if i % 2 == 0 else ["peer", "ours"]) if b.torch else ["ours"]
        pairs.append({s: b.ours() if s == "ours" else b.peer(way, compiled) for s in sides})
        b.say(f"pair {i + 1}: " + "; ".join(line_of(s, pairs[-1][s]) for s in ("ours", "peer") if s in pairs[-1]))
    if b.torch:
        ceilings.append(json.loads(b.ask("ceiling", "--dtype", o.dtype))["gflops"])
        result["ceiling_gflops"] = ceilings
    result["pairs"] = pairs
    for side in pairs[0]:
        result[side] = {key: spread(pairs, side, key) for key in ("tokens_per_s", "memory_gib", "start_s")}


def summary(b, result):
    say, pairs, flops = b.say, result["pairs"], result["flops_per_token"]
    for side in pairs[0]:
        t, m, s = (result[side][k] for k in ("tokens_per_s", "memory_gib", "start_s"))
        say(f"median {side}: {t['median']:.1f} tokens/s ({t['smallest']:.1f} to {t['largest']:.1f}), {m['median']:.2f} GiB "
            f"({m['smallest']:.2f} to {m['largest']:.2f}), start {s['median']:.2f} s ({s['smallest']:.2f} to {s['largest']:.2f})")
    say(f"FLOPs a token (6·N_active + causal attention): {flops / 1e6:.0f} M")
    if not b.torch:
        return
    say(f"loss of the first step: ours {pairs[0]['ours']['loss'][0]:.4f}, peer {pairs[0]['peer']['loss'][0]:.4f}")
    top = max(result["ceiling_gflops"])
    say("torch's product ceiling (2048×1024×4096, %s, best): %.0f GFLOP/s (before and after the pairs: %s)"
        % (b.o.dtype, top, ", ".join(f"{c:.0f}" for c in result["ceiling_gflops"])))
    for side in ("ours", "peer"):
        share = result[side]["tokens_per_s"]["median"] * flops / (top * 1e9)
        result[f"share_of_ceiling_{side}"] = share
        say(f"share of torch's product ceiling, {side}: {100 * share:.0f} %")
    for name, key in (("tokens/s", "tokens_per_s"), ("memory", "memory_gib"), ("start", "start_s")):
        ratios = [p["ours"][key] / p["peer"][key] for p in pairs]
        result[f"ratio {name}"] = dict(median=statistics.median(ratios), smallest=min(ratios), largest=max(ratios))
    say("pairs' ratios: " + "; ".join(f"{n} {result['ratio ' + n]['smallest']:.3f} to {result['ratio ' + n]['largest']:.3f}"
                                      for n in ("tokens/s", "memory", "start")))
    for name in ("tokens/s", "memory", "start"):
        say(f"ratio {name} {result['ratio ' + name]['median']:.3f}")


def main():
    o = arguments()
    with tempfile.TemporaryDirectory(dir=o.scratch) as folder:
        b = Bench(o, folder)
        b.torch = find_torch() if o.peer else None
        config = ours.work_folder(folder, o.program, o.model, o.shape, o.seq, o.steps, TINY)
        if o.shape and b.torch:
            b.ask("weights", "--model", os.path.join(folder, "model"))
        b.has_weights = not o.shape or bool(b.torch)
        result = {"conditions": conditions(b), "flops_per_token": ours.flops_per_token(folder, config, o.seq)}
        measure(b, result)
        summary(b, result)
        if o.json:
            print(json.dumps(result, indent=1))


main()
