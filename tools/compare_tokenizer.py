#!/usr/bin/env python3
"""Tokenise a JSONL file of {"text": ...} lines with `automodel tokenize` and with the Python library `tokenizers`, and
report where they differ: ids, and the text that the ids decode to.

    compare_tokenizer.py MODEL_DIR FILE.jsonl [--automodel PATH] [--show N]

Exit code 0 when every line is equal.  Needs: pip install tokenizers."""
import argparse
import json
import os
import subprocess
import sys
import tempfile
import time

from tokenizers import Tokenizer


def run(command):
    start = time.monotonic()
    done = subprocess.run(command, stdout=subprocess.PIPE, check=False)
    lines = done.stdout.decode("utf-8").split("\n")[:-1]
    return [json.loads(line) for line in lines], time.monotonic() - start


def names(tokenizer, ids, at):
    return [tokenizer.id_to_token(i) for i in ids[max(0, at - 3):at + 8]]


def show(tokenizer, text, theirs, ours):
    at = next((k for k, (a, b) in enumerate(zip(theirs, ours)) if a != b), min(len(theirs), len(ours)))
    print("line %r\n  from token %d  library %s\n  %s automodel %s" % (
        text[:200], at, names(tokenizer, theirs, at), " " * (13 + len(str(at))), names(tokenizer, ours, at)))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("file")
    parser.add_argument("--automodel", default="automodel")
    parser.add_argument("--show", type=int, default=5, help="differences to print")
    a = parser.parse_args()
    tokenizer = Tokenizer.from_file(os.path.join(a.model, "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    texts = [json.loads(line)["text"] for line in open(a.file, encoding="utf-8", newline="\n")]  # "\n" alone ends a line
    start = time.monotonic()
    expected = [tokenizer.encode(text).ids for text in texts]
    library_s = time.monotonic() - start
    ours, ours_s = run([a.automodel, "tokenize", a.model, "--input", a.file])
    if len(ours) != len(texts):
        sys.exit("automodel wrote %d lines for %d" % (len(ours), len(texts)))
    with tempfile.NamedTemporaryFile("w", suffix=".jsonl", encoding="utf-8") as f:
        f.writelines(json.dumps({"ids": ids}) + "\n" for ids in expected)
        f.flush()
        decoded, _ = run([a.automodel, "tokenize", a.model, "--input", f.name, "--decode"])
    wrong_ids = wrong_text = 0
    for text, ids, got, back in zip(texts, expected, ours, decoded):
        if got.get("ids") != ids:
            wrong_ids += 1
            if wrong_ids <= a.show:
                show(tokenizer, text, ids, got.get("ids", []))
        want = tokenizer.decode(ids)
        if back.get("text") != want:
            wrong_text += 1
            if wrong_text <= a.show:
                print("decoded %r\n  library says %r" % (back, want))
    size = sum(len(text.encode()) for text in texts) / 1e6
    print("%s: %d lines, %.2f MB: ids equal in %d, decoded text equal in %d; library %.1f s, automodel %.1f s (with start)"
          % (a.model, len(texts), size, len(texts) - wrong_ids, len(texts) - wrong_text, library_s, ours_s))
    sys.exit(1 if wrong_ids or wrong_text else 0)


main()
