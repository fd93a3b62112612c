#!/usr/bin/env python3
"""What the documents name exists: files, test cases, subcommands and their options, keys of a recipe.   test_docs.py [--self-test]

Reads README.md, INSTALL, CONTRIBUTING.md and docs/*.md of $AM_SOURCE_DIR.  With $AM_BUILD_DIR/automodel built, docs/options.md is
compared with what `automodel train --reference` prints.  --self-test plants a wrong name of every kind and sees it found.
"""
import glob
import os
import re
import subprocess
import sys

ROOT = os.environ.get("AM_SOURCE_DIR", ".")
FOLDERS = ("src/", "tests/", "tools/", "docs/", "configs/", "kernels/", "slurm/", "modulefiles/", "bench/", ".ci/")


def read(path):
    with open(os.path.join(ROOT, path), encoding="utf-8") as f:
        return f.read()


def documents():
    names = ["README.md", "INSTALL", "CONTRIBUTING.md"] + sorted(glob.glob("docs/*.md", root_dir=ROOT))
    return {name: read(name) for name in names if os.path.exists(os.path.join(ROOT, name))}


def commands():
    """{subcommand: names of its options}, from src/cli."""
    out = {}
    for name in re.search(r"#define AM_CLI_COMMANDS\(X\)(.*)", read("src/cli/cli.h")).group(1).replace("X(", " ").replace(")", " ").split():
        path = f"src/cli/cmd_{name}.c"
        text = read(path) if os.path.exists(os.path.join(ROOT, path)) else ""
        out[name] = set(re.findall(r'^\s*\{"([a-z][a-z-]*)", ', text, re.M)) | {"help"}
    return out


def recipe_words():
    """every string in the tables of options: a superset of the keys"""
    return set(re.findall(r'"([A-Za-z_0-9]+)"', "".join(read(p) for p in glob.glob("src/config/*.c", root_dir=ROOT))))


def sections():
    return set(re.findall(r'\.name = "([a-z_]+)', read("src/config/sections.c")))


def paths_named(text):
    for m in re.finditer(r"(?<![\w/.$-])((?:%s)[\w./*-]*[\w*])(?:: (\w+))?" % "|".join(map(re.escape, FOLDERS)), text):
        yield m.start(), m.group(1), m.group(2)
    for m in re.finditer(r"\]\(([\w./-]+)\)", text):
        yield m.start(), m.group(1), None


def check_paths(name, text):
    for at, path, case in paths_named(text):
        path = re.sub(r"\b[A-Z]{2,}\b", "*", path) if not glob.glob(path, root_dir=ROOT) else path  # NAME.card: any
        found = glob.glob(path, root_dir=ROOT) or glob.glob(os.path.join(os.path.dirname(name), path), root_dir=ROOT)
        if not found:
            yield at, f"{path} does not exist"
        elif case and re.search(r"\.(c|py|sh)$", path) and not re.search(rf"\b{case}\b", read(path)):
            yield at, f"{path} has no {case}"


def code_in(text):
    """(position, text) of inline code and of lines of code blocks (indented by four)"""
    for m in re.finditer(r"`([^`\n]+)`|^    (.+)$", text, re.M):
        yield m.start(), m.group(1) or m.group(2)


def check_commands(text, known):
    for at, code in code_in(text):
        for m in re.finditer(r"(?:^|[\s/\"])automodel\"? ([a-z]+)\b([^#|;]*)", code):
            if m.group(1) not in known:
                yield at, f"there is no command {m.group(1)}"
                continue
            for option in re.findall(r"(?<!\S)\[?--([a-z][\w.-]*)", m.group(2)):
                if "." not in option and option not in known[m.group(1)]:
                    yield at, f"automodel {m.group(1)} has no option --{option}"


def check_keys(text, words, known_sections):
    for m in re.finditer(r"`([a-z_]+)\.([a-z_]+)(?::[^`]*)?`", text):
        if m.group(1) in known_sections and m.group(2) not in words:
            yield m.start(), f"a recipe has no {m.group(1)}.{m.group(2)}"


def check_options_page():
    program = os.path.join(os.environ.get("AM_BUILD_DIR", ""), "automodel")
    page = os.path.join(ROOT, "docs/options.md")
    if os.access(program, os.X_OK) and os.path.exists(page):
        printed = subprocess.run([program, "train", "--reference"], stdout=subprocess.PIPE, check=True).stdout.decode()
        if printed != read("docs/options.md"):
            yield "docs/options.md:1: is not what `automodel train --reference` prints; write it again"


def findings(docs):
    known, words, known_sections = commands(), recipe_words(), sections()
    for name, text in docs.items():
        found = [*check_paths(name, text), *check_commands(text, known)]
        if name != "docs/options.md":
            found += check_keys(text, words, known_sections)
        for at, sentence in found:
            yield f"{name}:{text.count(chr(10), 0, at) + 1}: {sentence}"


def self_test():
    wrong = {"see src/nowhere.c": "does not exist", "[a](missing.md)": "does not exist",
             "`tests/mesh/test_mesh_arithmetic.c: no_such_case`": "has no no_such_case", "run `automodel trian x`": "no command trian",
             "    automodel train x.yaml --no-such": "no option --no-such", "`checkpoint.no_such_key`": "no checkpoint.no_such_key"}
    bad = 0
    for text, expected in wrong.items():
        seen = list(findings({"README.md": "fine: src/base/base.h, `automodel train x --dry-run`, `checkpoint.is_async`\n" + text + "\n"}))
        if len(seen) != 1 or expected not in seen[0]:
            print(f"test_docs: self-test: {text!r}: expected {expected!r}, got {seen}")
            bad = 1
    print(f"test_docs: self-test: {len(wrong)} planted")
    return bad


def main():
    if sys.argv[1:] == ["--self-test"]:
        return self_test()
    found = [*findings(documents()), *check_options_page()]
    for line in found:
        print(line)
    print(f"test_docs: {len(found)} findings in {len(documents())} documents")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
