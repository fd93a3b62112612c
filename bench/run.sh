#!/bin/bash
# One training step of ours beside PyTorch + transformers or llm.c: tokens/s, peak memory (and what of it is
# above the states that both must hold), time from the command to the first step's begin and to its end.
#
#     bench/run.sh --model DIR --peer torch [--dtype bf16|fp32] [--seq T] [--quick] [--json]    (--help: more)
#     bench/run.sh --shape gpt2 --peer llmc --llmc DIR [--seq T] [--quick] [--json]     DIR: llm.c's sources
#
# AUTOMODEL        our program; none: build/release/automodel
# AM_TORCH_PYTHON  the Python that has torch and transformers; none: python3.  Only --peer torch needs it.
# CC               the compiler of --peer llmc; none: cc
# The work is in bench/pairs.py (the pairs, what is printed), bench/ours.py, bench/peers.py with
# bench/peer_torch.py and bench/peer_llmc.c (the sides), bench/shapes.py (models), bench/llmc_files.py (what
# llm.c reads), bench/fits.py (memory).
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
export AUTOMODEL=${AUTOMODEL:-$here/../build/release/automodel}
exec python3 "$here/pairs.py" "$@"
