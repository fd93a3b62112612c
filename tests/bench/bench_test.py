"""What the scripts of this folder share: the modules of bench/, a small GPT-2, a run of bench/run.sh."""
import json
import os
import subprocess
import sys

ROOT = os.environ.get("AM_SOURCE_DIR", os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
BENCH = os.path.join(ROOT, "bench")
sys.dont_write_bytecode = True
sys.path.insert(0, BENCH)
import shapes  # noqa: E402

SKIPPED = 77


def tiny_gpt2(folder):
    """A model directory of 3 layers with random weights; the vocabulary has room for the bench's tokenizer."""
    os.makedirs(folder)
    config = dict(shapes.GPT2, n_embd=64, n_head=4, n_layer=3, n_positions=64, vocab_size=500, bos_token_id=1, eos_token_id=2)
    with open(os.path.join(folder, "config.json"), "w", encoding="utf-8") as f:
        json.dump(config, f)
    shapes.write_random_weights(folder, config)
    return folder


def bench(*arguments, code=0, says=(), program="/bin/true", env=None):
    """bench/run.sh; exit code and each text of `says` as expected.  Returns stdout."""
    env = {**os.environ, "AUTOMODEL": program, "AM_CARDS": os.path.join(ROOT, "configs", "models"), **(env or {})}
    done = subprocess.run([os.path.join(BENCH, "run.sh"), *map(str, arguments)], env=env, text=True, capture_output=True,
                          check=False)
    assert done.returncode == code, (arguments, done.returncode, done.stdout[-2000:], done.stderr[-2000:])
    for text in [says] if isinstance(says, str) else says:
        assert text in done.stdout + done.stderr, (arguments, text, done.stdout[-2000:], done.stderr[-2000:])
    return done.stdout
