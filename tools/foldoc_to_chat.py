#!/usr/bin/env python3
"""Write chats about computing terms from Debian's package dict-foldoc (the Free On-line Dictionary of Computing).

    foldoc_to_chat.py -o DIR [--dict /usr/share/dictd/foldoc] [--heldout-percent 5] [--limit N]

DIR/train.jsonl and DIR/heldout.jsonl get one line an entry:
    {"messages": [{"role": "user", "content": "What is X?"}, {"role": "assistant", "content": ENTRY}]}
in the order of the dictionary.  An entry is held out by the SHA-256 of its term, so the split is the same on
every machine and does not move when entries come or go.  Only the standard library is used: a .dict.dz file
is a gzip file with an extra index.  The dictionary is under the GNU Free Documentation Licence.
"""
import argparse
import gzip
import hashlib
import json
import os
import sys

DIGITS = {c: i for i, c in enumerate("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/")}


def number(text):
    """dictd's base 64: most significant digit first, no padding."""
    value = 0
    for c in text:
        value = value * 64 + DIGITS[c]
    return value


def read_places(path):
    """Distinct (offset, length) of all entries in file order; several terms may share one."""
    places = set()
    with open(path, encoding="utf-8") as f:
        for n, line in enumerate(f, 1):
            fields = line.rstrip("\n").split("\t")
            if len(fields) < 3:
                sys.exit(f"{path}:{n}: not 'term TAB offset TAB length'")
            if not fields[0].startswith(("00-database", "00database")):
                places.add((number(fields[1]), number(fields[2])))
    return sorted(places)


def split_entry(text):
    """(term, definition): the lines before the first blank one are the term and its synonyms, flush left;
    the definition is indented by three spaces, which are taken away."""
    head, _, body = text.partition("\n\n")
    lines = [line[3:] if line.startswith("   ") else line for line in body.rstrip().split("\n")]
    return head.strip().split("\n")[0].strip(), "\n".join(lines).strip()


def is_heldout(term, percent):
    return int.from_bytes(hashlib.sha256(term.encode()).digest()[:8], "big") % 10000 < percent * 100


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("-o", "--output", required=True, help="directory to write")
    p.add_argument("--dict", default="/usr/share/dictd/foldoc", help="path without .index and .dict.dz")
    p.add_argument("--heldout-percent", type=float, default=5.0)
    p.add_argument("--limit", type=int, default=0, help="stop after this many entries (0: all)")
    a = p.parse_args()
    for end in (".index", ".dict.dz"):
        if not os.path.exists(a.dict + end):
            sys.exit(f"foldoc_to_chat.py: {a.dict + end} is missing: install Debian's package dict-foldoc")
    with gzip.open(a.dict + ".dict.dz") as f:
        data = f.read()
    os.makedirs(a.output, exist_ok=True)
    counts, seen = {"train": 0, "heldout": 0}, set()
    files = {k: open(os.path.join(a.output, k + ".jsonl.tmp"), "w", encoding="utf-8") for k in counts}
    for offset, length in read_places(a.dict + ".index"):
        term, entry = split_entry(data[offset:offset + length].decode("utf-8"))
        if not term or not entry or term in seen:
            continue
        if a.limit and len(seen) == a.limit:
            break
        seen.add(term)
        part = "heldout" if is_heldout(term, a.heldout_percent) else "train"
        chat = {"messages": [{"role": "user", "content": f"What is {term}?"}, {"role": "assistant", "content": entry}]}
        files[part].write(json.dumps(chat, ensure_ascii=False) + "\n")
        counts[part] += 1
    for part, f in files.items():
        f.close()
        os.replace(f.name, os.path.join(a.output, part + ".jsonl"))
    print(f"{a.output}: {counts['train']} chats in train.jsonl, {counts['heldout']} in heldout.jsonl")


if __name__ == "__main__":
    main()
