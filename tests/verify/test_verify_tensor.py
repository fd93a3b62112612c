#!/usr/bin/env python3
"""Tensor parallelism over the golden models (made by transformers).

    test_verify_tensor.py ranks   loss, logits and every gradient with each model cut over two ranks; some of them over three and four,
                                  beside two data-parallel ranks, in bf16, recomputed
    test_verify_tensor.py page    each model compiled for 2, 4 and 8 ranks: docs/tensor-parallel.md tells what is cut, and why not
    test_verify_tensor.py write   writes that page

After the kind: names of models, else all.  Tolerances are verify's own (docs/verify.md)."""
import json, os, re, subprocess, sys
import test_verify_golden as golden

PAGE = os.path.join(golden.SOURCE, "docs/tensor-parallel.md")
SIZES = (2, 4, 8)
THOROUGH = golden.THOROUGH | {"gpt2", "gpt_oss", "deepseek_v3", "falcon_40b", "qwen3_moe", "gemma3_text", "bloom", "cohere"}


def on_ranks(model):
    name, lines = os.path.basename(model), []

    def run(how, ranks, *options):
        lines.append(golden.verdict(name, how, *golden.verify(model, *options, ranks=ranks)))

    run("tp 2", 2, "--tp-size", "2")
    if name in THOROUGH:
        run("tp 3", 3, "--tp-size", "3")
        run("tp 4", 4, "--tp-size", "4")
        run("tp 2, fsdp2 2", 4, "--tp-size", "2")
        run("tp 2, ddp 2, recomputed", 4, "--tp-size", "2", "--strategy", "ddp", "--recompute")
        run("tp 2, float64", 2, "--tp-size", "2", "--dtype", "float64")
        if name in golden.THOROUGH:
            run("tp 2, bf16", 2, "--tp-size", "2", "--dtype", "bfloat16")
    return lines


def compiled(model, size):
    """What `inspect --tp-size` tells; a failure is noted."""
    command = [golden.PROGRAM, "inspect", model, "--json", "--tp-size", str(size), "--seq-len", "32"]
    done = subprocess.run(command, capture_output=True, text=True, env=golden.ENVIRONMENT)
    if done.returncode != 0:
        golden.FAILURES.append(f"FAIL {os.path.basename(model)} for {size} ranks: {' '.join(done.stderr.split())[:300]}")
        return None
    return json.loads(done.stdout)["tensor_parallel"]


def share(o):
    return round(100 * sum(r["cut"] for r in o["ranks"]) / o["layers"])


def reasons(o):
    """Why what could be cut is whole, without the layers' numbers."""
    found = []
    for x in o["whole"]:
        why = re.sub(r"\s+", " ", re.sub(r"\.\d+\.", ".{i}.", re.sub(r" \(line \d+ of the card\)", "", x["why"] or "")))
        why = re.sub(r" of \d+ parts$| into \d+ parts$", "", why)
        if why and why not in found:
            found.append(why)
    return found


def row(model):
    told = [compiled(model, size) for size in SIZES]
    if not all(told):
        return []
    why = "; ".join(reasons(told[0])) or ("" if share(told[0]) else "no dimension with a role")
    return [f"| {os.path.basename(model)} | " + " | ".join(f"{share(o)} %" for o in told) + f" | {why} |"]


def page():
    text = ["# Tensor parallelism: what is cut", "",
            "`automodel inspect MODEL --tp-size N` compiles the training program for N tensor-parallel ranks and tells what each has; this page is",
            "that of the models of `tests/golden`, written by `tests/verify/test_verify_tensor.py write`. The pass is `src/graph/tensor.c`:",
            "the roles of a card's dimensions (heads, kv_heads, ffn) say what may be cut; a product that makes such a dimension begins a cut,",
            "one that contracts it ends it in a sum over the ranks. Where an operator between them needs its operand whole, the products that",
            "began that cut stay whole; the last column says which one, for two ranks. Embeddings and heads are whole.", "",
            "With `automodel verify --tp-size 2` on two ranks every model gives transformers' loss, logits and gradients within the",
            "tolerances of one rank (`test_verify_tensor.py ranks`). Training with `distributed.tp_size` above 1 is refused in this version:",
            "its checkpoints would be of parts, which resuming on another layout does not read yet.", "",
            "Percent: of the elements of the layers' parameters, those that every rank has its own part of. These models are small: with 4",
            "heads, 8 ranks cannot cut attention.", "",
            "| model | 2 ranks | 4 | 8 | whole for two ranks, because |", "|---|---|---|---|---|"]
    return text


def each_row():
    import concurrent.futures
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        return [line for lines in pool.map(row, golden.models()) for line in lines]


def check_page():
    with open(PAGE) as f:
        known = f.read().splitlines()
    rows = each_row()
    for line in rows:
        if line not in known:
            golden.FAILURES.append(f"docs/tensor-parallel.md lacks or differs from: {line} (test_verify_tensor.py write)")
    if len(sys.argv) <= 2 and known != page() + rows:
        golden.FAILURES.append("docs/tensor-parallel.md is not what test_verify_tensor.py writes")
    print(f"{len(rows)} models compiled for {SIZES} ranks")


def main():
    kind = sys.argv[1]
    if kind == "ranks":
        golden.each(on_ranks)
    elif kind == "page":
        check_page()
    elif kind == "write":
        text = "\n".join(page() + each_row()) + "\n"
        with open(PAGE, "w") as f:
            f.write(text)
    else:
        sys.exit(__doc__)
    for line in golden.FAILURES:
        print(line, file=sys.stderr)
    sys.exit(1 if golden.FAILURES else 0)


if __name__ == "__main__":
    main()
