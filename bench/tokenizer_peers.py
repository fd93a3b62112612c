#!/usr/bin/env python3
"""Tokenizers side by side on one core: automodel, Hugging Face tokenizers (encode and encode_batch_fast) and tiktoken with the
same ranks and pattern where a tokenizer is of that kind.  Alternating: every round runs all of them on the same text; best of
the rounds.  Start it pinned: taskset -c 0 python3 bench/tokenizer_peers.py --automodel build/automodel --text FILE.jsonl … DIR …
Needs: pip install tokenizers tiktoken.  A line of Markdown a tokenizer and text; --ids also compares the ids of every text."""
import argparse
import json
import os
import subprocess
import sys
import tempfile
import time

os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["RAYON_NUM_THREADS"] = "1"

import tiktoken  # noqa: E402
from tokenizers import Tokenizer  # noqa: E402


def byte_of_char():
    kept = [b for b in range(256) if 33 <= b <= 126 or 161 <= b <= 172 or b >= 174]
    table = {chr(b): b for b in kept}
    table.update({chr(256 + i): b for i, b in enumerate(b for b in range(256) if b not in kept)})
    return table


def as_tiktoken(j):
    """tiktoken's Encoding of a byte-level BPE whose pre-tokenizer is one Split; None for others."""
    steps = (j["pre_tokenizer"] or {}).get("pretokenizers", [])
    if j["model"].get("type") != "BPE" or len(steps) != 2 or "Regex" not in steps[0].get("pattern", {}):
        return None
    table = byte_of_char()
    ranks = {bytes(table[c] for c in k): v for k, v in j["model"]["vocab"].items() if all(c in table for c in k)}
    return tiktoken.Encoding("t", pat_str=steps[0]["pattern"]["Regex"], mergeable_ranks=ranks, special_tokens={})


def timed(f):
    start = time.perf_counter()
    f()
    return time.perf_counter() - start


def ours(a, model, path):
    command = [a.automodel, "bench", "tokenizer", model, path, "--rounds", "1", "--json"]
    return json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)


def compare_ids(a, model, tokenizer, texts, path):
    done = subprocess.run([a.automodel, "tokenize", model, "--input", path], stdout=subprocess.PIPE, check=True)
    got = [json.loads(line)["ids"] for line in done.stdout.decode().split("\n")[:-1]]
    return sum(tokenizer.encode(t).ids == g for t, g in zip(texts, got))


def measure(a, model, path, texts):
    file = os.path.join(model, "tokenizer.json")
    size = sum(len(t.encode()) for t in texts) / 1e6
    best = {}

    def keep(name, seconds):
        best[name] = min(best.get(name, 1e9), seconds)
    tokenizer, third = Tokenizer.from_file(file), as_tiktoken(json.load(open(file, encoding="utf-8")))
    for _ in range(a.rounds):
        keep("hf open", timed(lambda: Tokenizer.from_file(file)))
        r = ours(a, model, path)
        keep("open", r["open_seconds"])
        keep("encode", r["encode_seconds"])
        keep("hf", timed(lambda: tokenizer.encode_batch_fast(texts)))
        r = ours(a, model, path)
        keep("open", r["open_seconds"])
        keep("encode", r["encode_seconds"])
        keep("hf", timed(lambda: [tokenizer.encode(t) for t in texts]))
        if third is not None:
            keep("tiktoken", timed(lambda: [third.encode_ordinary(t) for t in texts]))
    equal = "%d of %d" % (compare_ids(a, model, tokenizer, texts, path), len(texts)) if a.ids else "–"
    rate, hf = size / best["encode"], size / best["hf"]
    third_text = "%.2f | %.1f" % (size / best["tiktoken"], rate * best["tiktoken"] / size) if third else "– | –"
    print("| %s | %s | %.2f | %s | %.2f | %.2f | %.1f | %s | %.0f | %.0f | %.1f |" % (
        os.path.basename(model.rstrip("/")), os.path.basename(path), size, equal, rate, hf, rate / hf, third_text, 1e3 * best["open"],
        1e3 * best["hf open"], best["hf open"] / best["open"]), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", help="folders with a tokenizer.json")
    parser.add_argument("--automodel", default="automodel")
    parser.add_argument("--text", action="append", required=True, help="JSONL of {\"text\": …}")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--limit", type=float, default=1e9, help="MB of each text: every k-th line, so that it fits")
    parser.add_argument("--ids", action="store_true")
    a = parser.parse_args()
    print("| tokenizer | text | MB | lines with equal ids | automodel MB/s | Hugging Face MB/s (best mode) | ratio | tiktoken MB/s | "
          "ratio | open ms | Hugging Face ms | ratio |")
    print("|---|---|---|---|---|---|---|---|---|---|---|---|")
    for path in a.text:
        lines = open(path, encoding="utf-8", newline="\n").read().split("\n")[:-1]
        step = max(1, int(sum(map(len, lines)) / 1e6 / a.limit + 0.999))
        with tempfile.TemporaryDirectory() as folder:
            part = os.path.join(folder, os.path.basename(path))
            with open(part, "w", encoding="utf-8", newline="\n") as f:
                f.writelines(line + "\n" for line in lines[::step])
            texts = [json.loads(line)["text"] for line in lines[::step]]
            for model in a.models:
                measure(a, model, part, texts)
    sys.exit(0)


main()
