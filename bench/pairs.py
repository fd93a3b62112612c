#!/usr/bin/env python3
"""One training step of ours beside a peer's, in alternating pairs of fresh processes on the same cores.

    bench/run.sh --model DIR --peer torch          SmolLM2-135M's directory, say; bf16, 512 tokens, five pairs
    bench/run.sh --shape llama1b --peer torch --seq 2048 --recompute --quick
    bench/run.sh --shape gpt2 --peer llmc --llmc DIR      llm.c's CPU program on GPT-2 124M, fp32
    bench/run.sh --model DIR                       ours alone

Full fine-tuning with AdamW, fp32 master weights, the gradient's norm clipped at 1 (beside llm.c, which does
not clip, neither side does), one row of T tokens a step, the same rows for both.  A run's speed is T over the
median seconds of its steps but the first; its memory is the process's largest resident set (wait4); its start
is the time from the command to the end of its first step, its begin the time to the beginning of that step.
Of the memory the states that both must hold are told apart: weights, gradients and AdamW's states in fp32, 16
bytes a parameter.  A ratio is the median of the pairs' ratios, ours over the peer's; `others` is the share of
the cores that other processes and the host took during a run.  For our bf16 PyTorch takes the fastest of bf16
autocast, bf16 weights with an fp32 master copy, and fp32, found in a first round; a way that this machine has
no memory for is left out.  The losses of the first step must agree: to 1e-5 in fp32, to 1e-2 in bf16.
Exit codes: 0 done, 1 a run failed or the losses differ, 2 usage, 4 something missing on this machine."""
import argparse, json, os, shutil, signal, statistics, subprocess, sys, tempfile, threading, time

import fits, ours, peers, shapes

HERE = os.path.dirname(os.path.abspath(__file__))
FIRST_ROUND_STEPS = 3  # of each way that the peer has
TINY = os.path.join(HERE, "..", "tests", "data", "files", "tiny")
RATIOS = {"tokens/s": "tokens_per_s", "memory": "memory_gib", "memory above the states": "above_states_gib",
          "begin": "begin_s", "start": "start_s"}
DISTURBED = 0.1  # of the cores, taken by others during a run
SAME = {True: 1e-5, False: 1e-2}  # how far the first step's losses may lie apart: both sides in fp32, or not


def busy(cores):
    """(seconds these cores were busy, seconds the host took from them) since boot"""
    work = stolen = 0
    with open("/proc/stat", encoding="utf-8") as f:
        for line in f:
            x = line.split()
            if x[0].startswith("cpu") and x[0][3:].isdigit() and int(x[0][3:]) in cores:
                work += sum(map(int, x[1:4] + x[6:8]))
                stolen += int(x[8])
    tick = os.sysconf("SC_CLK_TCK")
    return work / tick, stolen / tick


class Bench:
    def __init__(self, o, folder):
        self.o, self.folder, self.runs = o, folder, 0
        self.bind = ["taskset", "-c", o.cores]
        self.env = {**os.environ, "OMP_NUM_THREADS": str(o.threads), "HF_HUB_OFFLINE": "1"}
        if o.isa:
            self.env["AM_ISA"] = o.isa
        self.peer, self.patience, self.repeated = None, o.patience, 0
        self.config, self.parameters, self.has_weights = {}, 0, not o.shape
        self.same = True  # the losses of the sides

    def path(self, name):
        return os.path.join(self.folder, name)

    def say(self, text):
        print(text, file=sys.stderr if self.o.json else sys.stdout, flush=True)

    def wait_for_quiet(self):
        """until others take less than a tenth of the cores, while patience lasts; alike for both sides"""
        while self.patience > 0:
            begin, before = time.monotonic(), sum(busy(self.o.core_set))
            time.sleep(1)
            wall = time.monotonic() - begin
            if (sum(busy(self.o.core_set)) - before) / (wall * self.o.threads) < DISTURBED:
                return
            self.patience -= wall

    def timed(self, command, first_stream, prepare=lambda: None):
        """once(); again where others disturbed it and patience lasts; prepare() makes the start fresh"""
        while True:
            self.wait_for_quiet()
            begin = time.monotonic()
            prepare()
            run = self.once(command, first_stream)
            if run["others"] < DISTURBED or self.patience <= 0:
                return run
            self.patience -= time.monotonic() - begin
            self.repeated += 1

    def once(self, command, first_stream):
        """@return {start, peak GiB, out: its standard output}; the first step's end is a line `step 1/…`"""
        streams = {name: subprocess.PIPE for name in ("stdout", "stderr")}
        kept, marks = {"stdout": [], "stderr": []}, []
        begin, before = time.monotonic(), busy(self.o.core_set)
        process = subprocess.Popen(self.bind + command, text=True, env=self.env, **streams)

        def follow(name):
            for line in getattr(process, name):
                if name == first_stream and line.startswith("step "):
                    marks.append(time.monotonic() - begin)
                kept[name].append(line)
        threads = [threading.Thread(target=follow, args=(name,)) for name in streams]
        for t in threads:
            t.start()
        try:
            _, status, usage = os.wait4(process.pid, 0)
        except BaseException:  # a signal: the run ends with us
            process.kill()
            raise
        wall, after = time.monotonic() - begin, busy(self.o.core_set)
        own = usage.ru_utime + usage.ru_stime
        others = max(0.0, after[0] - before[0] - own + after[1] - before[1]) / (wall * self.o.threads)
        process.returncode = os.waitstatus_to_exitcode(status)
        for t in threads:
            t.join()
        if process.returncode != 0 or not marks:
            sys.exit(f"bench: {' '.join(command)}: exit code {process.returncode}\n"
                     + "".join(kept["stderr"][-20:]))
        between = [b - a for a, b in zip(marks, marks[1:])]
        return dict(start=marks[0], memory=usage.ru_maxrss / 2**20, between=between, others=others,
                    out="".join(kept["stdout"]))

    def figures(self, run, seconds, loss):
        """Speed by the side's own clock; a clock that leaves out a part of the step is found by ours."""
        own, seen = statistics.median(seconds[1:]), statistics.median(run["between"])
        if seen > 1.1 * own + 0.02:
            self.say(f"  note: steps of {own:.2f} s by its clock are {seen:.2f} s apart: the longer counts")
            own = seen
        return dict(tokens_per_s=self.o.seq / own, memory_gib=run["memory"], start_s=run["start"],
                    begin_s=run["start"] - seconds[0],
                    above_states_gib=run["memory"] - fits.states_bytes(self.parameters) / fits.GIB,
                    others=run["others"], first_step_s=seconds[0], seconds=seconds, loss=loss)

    def ours(self):
        self.runs += 1
        run_dir = self.path(f"run{self.runs}")
        command = ours.command(self.folder, self.o.program, run_dir, self.o, self.has_weights,
                               self.peer.MAX_NORM if self.peer else 1.0)
        run = self.timed(command, "stderr", lambda: shutil.rmtree(run_dir, ignore_errors=True))
        result = self.figures(run, *ours.figures(run_dir, self.o.seq))
        shutil.rmtree(run_dir)
        return result

    def theirs(self, way, steps=None):
        run = self.timed(self.peer.command(way, steps or self.o.steps), "stdout")
        told = json.loads(run["out"].splitlines()[-1])
        return {**self.figures(run, told.pop("seconds"), told.pop("loss")), **told}

    def ask(self, *command):
        """standard output of a short command on the cores of the runs"""
        done = subprocess.run([*self.bind, *command], text=True, capture_output=True, env=self.env)
        if done.returncode != 0:
            sys.exit(f"bench: {' '.join(command)}: {done.stderr[-2000:]}")
        return done.stdout.strip()

    def has_room(self, name, need, free):
        if need > free:
            self.say(f"peer, {name}: not run: it needs {need / fits.GIB:.1f} GiB at least, and "
                     f"{free / fits.GIB:.1f} GiB are free")
        return need <= free

    def calibrate(self):
        """The fastest way of the peer by its fastest step, which a neighbour disturbs least; two rounds of
        three steps, as a neighbour may stay for a whole run.  None where no way fits."""
        ways, tried = self.peer.ways(), {}
        if not ways or not self.peer.FIRST_ROUND:
            return ways[0] if ways else None, {}
        for way in ways + ways * (len(ways) > 1):
            name = f"peer, {self.peer.describe(way)}"
            try:
                speed = self.o.seq / min(self.theirs(way, FIRST_ROUND_STEPS)["seconds"][1:])
            except SystemExit as failed:
                if not self.peer.may_fail(way) or not isinstance(failed.code, str):
                    raise
                self.say(f"{name}: does not run here: {failed.code.splitlines()[-1]}")
                continue
            tried[way] = max(speed, tried.get(way, 0))
            self.say(f"{name}: {speed:.1f} tokens/s (fastest step)")
        return max(tried, key=tried.get), {self.peer.key(way): speed for way, speed in tried.items()}


def arguments():
    p = argparse.ArgumentParser(prog="bench/run.sh", description=__doc__,
                                formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--peer", choices=sorted(peers.PEERS), help="measure beside it; none: ours alone")
    p.add_argument("--llmc", metavar="DIR", help="of --peer llmc: the folder of llm.c's sources, built with "
                   "CC (none: cc) and the flags of its Makefile")
    what = p.add_mutually_exclusive_group(required=True)
    what.add_argument("--model", metavar="DIR", help="a Hugging Face directory: config.json, *.safetensors")
    what.add_argument("--shape", choices=sorted(shapes.SHAPES), help="that model with random weights")
    p.add_argument("--dtype", choices=["bf16", "fp32"], help="default bf16, beside llm.c fp32")
    p.add_argument("--seq", type=int, default=512, metavar="T")
    p.add_argument("--pairs", type=int, help="default 5, with --quick 3")
    p.add_argument("--steps", type=int, help="of a run; default 6, from 2048 tokens 4, from 8192 tokens 3")
    p.add_argument("--recompute", action="store_true", help="both sides compute layers again in backward")
    p.add_argument("--compile", action="store_true", help="let PyTorch try torch.compile too")
    p.add_argument("--way", choices=sorted(peers.Torch.WAYS), help="of PyTorch; none: the fastest")
    p.add_argument("--cores", help="as taskset -c takes them; default: all this process may use")
    p.add_argument("--patience", type=float, default=120, metavar="S",
                   help="seconds in all for waiting until the machine is quiet and for repeating, on either "
                   "side, runs in which others took a tenth of the cores; default 120")
    p.add_argument("--isa", choices=sorted(peers.Torch.ISAS), help="hold both sides to this instruction set")
    p.add_argument("--quick", action="store_true", help="three pairs")
    p.add_argument("--json", action="store_true", help="one JSON object; the prose goes to standard error")
    p.add_argument("--scratch", help="where the work folder lies (gigabytes); default: $TMPDIR or /tmp")
    o = p.parse_args()
    o.dtype = o.dtype or ("fp32" if o.peer == "llmc" else "bf16")
    o.pairs = o.pairs or (3 if o.quick else 5)
    o.steps = o.steps or (6 if o.seq < 2048 else 4 if o.seq < 8192 else 3)
    if o.steps < 2 or o.pairs < 1 or o.seq < 2:
        p.error("at least 2 steps, 1 pair and 2 tokens")
    if o.model and not os.path.isfile(os.path.join(o.model, "config.json")):
        p.error(f"--model {o.model}: no config.json in it")
    if o.llmc and o.peer != "llmc":
        p.error("--llmc goes with --peer llmc")
    if o.peer and (why := peers.PEERS[o.peer].refusal(o)):
        p.error(why)
    o.program = os.environ.get("AUTOMODEL") or os.path.join(HERE, "..", "build", "release", "automodel")
    if not os.access(o.program, os.X_OK):
        print(f"bench: {o.program} is no program: build it (cmake --preset release) or name one in AUTOMODEL",
              file=sys.stderr)
        sys.exit(4)
    o.program = os.path.abspath(o.program)
    o.cores = o.cores or ",".join(str(c) for c in sorted(os.sched_getaffinity(0)))
    told = subprocess.run(["taskset", "-c", o.cores, sys.executable, "-c",
                           "import os; print(*os.sched_getaffinity(0))"], capture_output=True, text=True)
    if told.returncode != 0:
        p.error(f"--cores {o.cores}: {told.stderr.strip()}")
    o.core_set = {int(c) for c in told.stdout.split()}
    o.threads = len(o.core_set)
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
           "model": o.model and os.path.basename(os.path.abspath(o.model)) or o.shape,
           "dtype": o.dtype, "seq": o.seq, "recompute": o.recompute, "steps": o.steps, "pairs": o.pairs}
    if b.peer:
        out["peer"] = b.peer.version()
    if os.environ.get("AM_ISA"):
        out["AM_ISA"] = os.environ["AM_ISA"]
    b.say(f"{out['model']}, {o.dtype}, 1 row of {o.seq} tokens, {o.steps} steps a run, recompute "
          f"{'on' if o.recompute else 'off'}; {cpu} ({' '.join(isa)}), cores {o.cores}\n{version}"
          + (f"; {out['peer']}" if b.peer else ""))
    return out


def line_of(name, x):
    return (f"{name} {x['tokens_per_s']:.1f} tokens/s, {x['memory_gib']:.2f} GiB, "
            f"begin {x['begin_s']:.2f} s, start {x['start_s']:.2f} s (others {100 * x['others']:.0f} %)")


def spread(pairs, side, key):
    values = [p[side][key] for p in pairs]
    return dict(median=statistics.median(values), smallest=min(values), largest=max(values))


def measure(b, result):
    o, pairs, way = b.o, [], None
    if b.peer:
        way, result["calibration"] = b.calibrate()
        if way is None:
            b.say("no way of the peer fits into this machine's memory: ours alone")
            b.peer = None
    if b.peer:
        result["peer_way"], result["fp32"] = b.peer.key(way), b.peer.fp32(way) and o.dtype == "fp32"
        ceilings = [b.peer.ceiling()]
    else:
        b.ours()  # the first run reads the weights from disk
    for i in range(o.pairs):
        sides = (["ours", "peer"] if i % 2 == 0 else ["peer", "ours"]) if b.peer else ["ours"]
        pairs.append({s: b.ours() if s == "ours" else b.theirs(way) for s in sides})
        b.say(f"pair {i + 1}: " + "; ".join(line_of(s, pairs[-1][s]) for s in sorted(sides)))
    if b.peer:
        result["ceiling_gflops"] = [*ceilings, b.peer.ceiling()]
    result["pairs"], result["repeated"] = pairs, b.repeated
    b.say(f"{b.repeated} runs were repeated because others took a tenth of the cores or more")
    for side in pairs[0]:
        result[side] = {key: spread(pairs, side, key) for key in RATIOS.values()}


def compare_losses(b, result):
    """b.same: whether the sides' first step has the same loss"""
    lists = {side: result["pairs"][0][side]["loss"] for side in ("ours", "peer")}
    apart = [abs(x - y) / abs(y) for x, y in zip(lists["ours"], lists["peer"])]
    result["losses_apart"], b.same = apart, apart[0] <= SAME[result["fp32"]]
    b.say("loss of the first step: " + ", ".join(f"{side} {x[0]:.6f}" for side, x in lists.items())
          + f" (relative difference {apart[0]:.1e}; largest of {len(apart)} steps {max(apart):.1e})")
    if not b.same:
        b.say(f"the sides do not compute the same: more than {SAME[result['fp32']]:.0e} apart")


def summary(b, result):
    say, pairs, flops = b.say, result["pairs"], result["flops_per_token"]
    for side in pairs[0]:
        t, m, a, g, s = (result[side][key] for key in RATIOS.values())
        say(f"median {side}: {t['median']:.1f} tokens/s ({t['smallest']:.1f} to {t['largest']:.1f}), "
            f"{m['median']:.2f} GiB ({m['smallest']:.2f} to {m['largest']:.2f}), "
            f"of it {a['median']:.2f} above the states, "
            f"begin {g['median']:.2f} s ({g['smallest']:.2f} to {g['largest']:.2f}), "
            f"start {s['median']:.2f} s ({s['smallest']:.2f} to {s['largest']:.2f})")
    say(f"states that both must hold (16 bytes of each of {b.parameters} parameters): "
        f"{fits.states_bytes(b.parameters) / fits.GIB:.2f} GiB")
    say(f"FLOPs a token (6·N_active + causal attention): {flops / 1e6:.0f} M")
    if not b.peer:
        return
    compare_losses(b, result)
    top, name = max(result["ceiling_gflops"]), b.peer.CEILING % b.peer.ceiling_dtype
    say("%s: %.0f GFLOP/s (before and after the pairs: %s)"
        % (name, top, ", ".join(f"{c:.0f}" for c in result["ceiling_gflops"])))
    for side in ("ours", "peer"):
        rate = result[side]["tokens_per_s"]["median"] * flops / 1e9
        result[f"gflops_{side}"], result[f"share_of_ceiling_{side}"] = rate, rate / top
        say(f"share of {name.split(' (')[0]}, {side}: {100 * rate / top:.0f} % ({rate:.0f} GFLOP/s)")
    for name, key in RATIOS.items():
        r = [p["ours"][key] / p["peer"][key] for p in pairs]
        result[f"ratio {name}"] = dict(median=statistics.median(r), smallest=min(r), largest=max(r))
        say(f"pairs' ratios, {name}: {min(r):.3f} to {max(r):.3f}")
    for name in RATIOS:
        say(f"ratio {name} {result['ratio ' + name]['median']:.3f}")


def main():
    o = arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the work folder is removed
    with tempfile.TemporaryDirectory(dir=o.scratch) as folder:
        b = Bench(o, folder)
        if o.peer:
            b.peer = peers.PEERS[o.peer](b)
        rows = max(o.steps, FIRST_ROUND_STEPS)
        b.config = ours.work_folder(folder, o.program, o.model, o.shape, o.seq, rows, TINY)
        if b.peer:
            if o.shape:
                shapes.write_random_weights(b.path("model"), b.config)
                b.has_weights = True
            b.peer.prepare()
        b.parameters = shapes.parameters(b.path("model"), b.config)
        result = {"conditions": conditions(b), "parameters": b.parameters,
                  "flops_per_token": shapes.flops_per_token(b.path("model"), b.config, o.seq)}
        measure(b, result)
        summary(b, result)
        if o.json:
            print(json.dumps(result, indent=1))
        if not b.same:
            sys.exit(1)


main()
