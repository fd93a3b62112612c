#!/usr/bin/env python3
"""bench/run.sh --peer llmc on a small GPT-2: our losses are llm.c's, in the first step and after updates.   AUTOMODEL

AM_LLMC is the folder of llm.c's sources; without it the test is skipped."""
import json
import os
import sys
import tempfile

from bench_test import SKIPPED, bench, tiny_gpt2

STEPS = 6


def main():
    sources = os.environ.get("AM_LLMC")
    if not sources:
        print("test_bench_llmc: skipped: AM_LLMC names no folder of llm.c's sources")
        return SKIPPED
    with tempfile.TemporaryDirectory() as folder:
        model = tiny_gpt2(os.path.join(folder, "model"))
        for seq in (64, 33):  # llm.c's product has a second path where T is no multiple of 8
            told = json.loads(bench("--model", model, "--peer", "llmc", "--llmc", sources, "--seq", seq, "--pairs", 1,
                                    "--steps", STEPS, "--patience", 0, "--json", program=sys.argv[1]))
            apart = told["losses_apart"]
            print(f"test_bench_llmc: T {seq}: relative difference of the losses {', '.join(f'{x:.1e}' for x in apart)}")
            assert len(apart) == STEPS and max(apart) < 1e-6, apart
    return 0


sys.exit(main())
