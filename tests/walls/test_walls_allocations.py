#!/usr/bin/env python3
"""Steps 3 to 10 of `automodel train` ask for no memory, libraries included, and start no thread.
    test_walls_allocations.py AUTOMODEL COUNTER.so
Counted by malloc_counter.c, preloaded: malloc and its kin and mmap, by thread (main and team compute, comm calls
MPI) and by caller.  What may ask for memory stands in EXCEPTIONS, with how much a step; anything else is a failure
that shows who called."""
import glob
import os
import subprocess
import sys

import walls

COUNTER = os.environ.get("AM_MALLOC_COUNTER") or (sys.argv[2] if len(sys.argv) > 2 else "")
FIRST, LAST, STEPS = 3, 10, 20  # batches are read up to 4 ahead: the reading thread lives on beyond step 10

# (thread, library): bytes a step.
# The reading thread is neither computing nor communicating: H5Dread describes every selection anew.
EXCEPTIONS = {("data", "libhdf5"): 16384}

# ranks, threads a rank, dtype, AM_ISA ("": the machine's best)
RUNS = [(1, 2, "float32", ""), (1, 1, "bf16", ""), (1, 2, "bf16", "avx2"), (1, 1, "float32", "avx2"),
        (2, 1, "float32", ""), (2, 1, "bf16", ""), (2, 1, "float32", "avx2"), (2, 1, "bf16", "avx2")]


def read_report(path):
    """Threads after each step; rows (thread, count, bytes, callers)."""
    threads, rows, complete = {}, [], False
    with open(path, encoding="utf-8") as f:
        for line in f:
            word = line.split()
            if word[0] == "threads":
                threads[int(word[1])] = int(word[2])
            elif word[0] == "alloc":
                rows.append((word[1], int(word[2]), int(word[3]), word[4:]))
            elif word[0] == "lost":
                assert word[1] == "0", f"{path}: the counter's table was too small"
            complete = word[0] == "end"
    assert complete, f"{path} is not complete"
    return threads, rows


def describe(callers):
    """module+offset, with function and line where addr2line knows them."""
    out = []
    for caller in callers:
        module, offset = caller.rsplit("+", 1)
        if module == os.path.basename(walls.PROGRAM):
            done = subprocess.run(["addr2line", "-f", "-s", "-e", walls.PROGRAM, offset], stdout=subprocess.PIPE,
                                  stderr=subprocess.DEVNULL, text=True, check=False)
            caller += " (" + " ".join(done.stdout.split()) + ")"
        out.append(caller)
    return "\n      ".join(out)


def judge(rows):
    """Complaints about what is not excepted, or more than excepted."""
    taken, bad, steps = {}, [], LAST - FIRST + 1
    for thread, count, size, callers in rows:
        key = next((k for k in EXCEPTIONS if k[0] == thread and callers[0].startswith(k[1])), None)
        if key is None:
            bad.append(f"{thread} asked {count} times, {size} bytes:\n      {describe(callers)}")
        else:
            taken[key] = taken.get(key, 0) + size
    bad += [f"{k}: {v} bytes in {steps} steps" for k, v in taken.items() if v > EXCEPTIONS[k] * steps]
    return bad, taken


def check(out, config, shards, ranks, threads, dtype, isa):
    name = f"{ranks}x{threads}-{dtype}-{isa or 'best'}"
    recipe, _ = walls.write_recipe(out, name, config, shards, dtype, STEPS)
    file = os.path.join(out, "count-" + name)
    env = {"LD_PRELOAD": COUNTER, "AM_COUNT_FILE": file, "AM_COUNT_FROM": FIRST, "AM_COUNT_TO": LAST}
    if isa:
        env["AM_ISA"] = isa
    said = walls.train(recipe, ranks, [f"--run.threads={threads}"], **env)
    reports = glob.glob(file + ".*")
    assert len(reports) == ranks, f"{name}: {len(reports)} ranks reported:\n{said}"
    for path in reports:
        after, rows = read_report(path)
        bad, taken = judge(rows)
        assert not bad, f"{name}: steps {FIRST} to {LAST} ask for memory:\n  " + "\n  ".join(bad)
        assert taken, f"{name}: nothing was counted, not even the reading thread: the counter does not work"
        counts = [after[s] for s in range(1, LAST + 1)]
        assert len(set(counts)) == 1, f"{name}: threads after each step: {counts}"
        alone = threads + 1  # one reads data
        assert ranks > 1 or counts[0] == alone, f"{name}: {counts[0]} threads, {alone} have something to do"
    print(f"{name}: nothing but {taken}; {counts[0]} threads")


def main():
    if not COUNTER:
        walls.skip("no malloc counter was given")
    out = walls.folder()
    shards, config = walls.make_shards(out), walls.make_config(out)
    with open("/proc/cpuinfo", encoding="utf-8") as f:
        flags = f.read().split()
    for run in RUNS:
        if run[3] in flags or not run[3]:
            check(out, config, shards, *run)
        else:
            print(f"left out: {run}, this machine has no {run[3]}")


if __name__ == "__main__":
    main()
