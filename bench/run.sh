#!/bin/bash
# One training step of ours beside PyTorch + transformers: tokens/s, peak memory (and what of it is above the
# states that both must hold), time from the command to the first step's begin and to its end.
#
#     bench/run.sh --model DIR --peer torch [--dtype bf16|fp32] [--seq T] [--quick] [--json]    (--help: more)
#
# AUTOMODEL        our program; none: build/release/automodel
# AM_TORCH_PYTHON  the Python that has torch and transformers; none: python3.  Only --peer torch needs it.
# The work is in bench/pairs.py (the pairs, what is printed), bench/ours.py, bench/peer_torch.py (the
# sides), bench/fits.py (memory).
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
export AUTOMODEL=${AUTOMODEL:-$here/../build/release/automodel}
exec python3 "$here/pairs.py" "$@"
