#!/usr/bin/env python3
"""automodel verify over the golden models (made by transformers).

    test_verify_golden.py fp32    every model: float32 and float64, recomputed, on two instruction sets (the first of a family's
                                  kind on all), both spellings of config.json, compiled for 1 and 2 ranks, load → export
                                  bit for bit; the table, family by family, is printed
    test_verify_golden.py ranks   on two and four ranks: gathered gradients
    test_verify_golden.py bf16    within the derived tolerance; see bf16_verdict
    test_verify_golden.py faults  a reference that was changed a little must be refused: the comparison can fail
    test_verify_golden.py page    docs/families.md names exactly the models and cards there are
    test_verify_golden.py write   writes docs/families.md from a run of fp32

After the kind: names of models, else all.  Tolerances are verify's own (docs/verify.md): loss within 1e-6 and every gradient
within 1e-4 in float32; --threads 1, since the models are small."""
import concurrent.futures, glob, json, math, os, re, shutil, struct, subprocess, sys, tempfile

SOURCE = os.environ["AM_SOURCE_DIR"]
BUILD = os.environ["AM_BUILD_DIR"]
PROGRAM = os.environ.get("AM_PROGRAM", os.path.join(BUILD, "automodel"))
ROUNDTRIP = os.path.join(BUILD, "tests/verify/golden_roundtrip")
CARDS = os.path.join(SOURCE, "configs/models")
PAGE = os.path.join(SOURCE, "docs/families.md")
ENVIRONMENT = {**os.environ, "AM_CARDS": CARDS}
# run in every way there is; the others in the ways in which families differ
THOROUGH = {"llama", "llama_linear_bias", "llama_rope3_tied", "mistral", "qwen2", "qwen2_full", "qwen3", "qwen3_tied_bias"}
OPEN = "Models without a proof yet: "
FAILURES = []


def models():
    found = sorted(os.path.dirname(p) for p in glob.glob(os.path.join(SOURCE, "tests/golden/*/reference.safetensors")))
    names = sys.argv[2:]
    return [m for m in found if not names or os.path.basename(m) in names]


def config_of(model, file="config.json"):
    with open(os.path.join(model, file)) as f:
        return json.load(f)


def verify(model, *options, ranks=1, env=None, reference=None):
    reference = reference or os.path.join(model, "reference.safetensors")
    command = [PROGRAM, "verify", model, "--reference", reference, "--json", "--threads", "1", *options]
    if ranks > 1:
        command = ["mpirun", "--oversubscribe", "--allow-run-as-root", "-np", str(ranks), *command]
    done = subprocess.run(command, capture_output=True, text=True, env={**ENVIRONMENT, **(env or {})})
    try:
        return done.returncode, json.loads(done.stdout.strip().splitlines()[-1])
    except (IndexError, ValueError):
        sentence = " ".join(done.stderr.split())[:600]
        return done.returncode, {"ok": False, "loss_rel_err": math.nan, "logits_max_abs_err": math.nan, "gradients": 0,
                                 "worst_gradient": {"rel_err": math.nan, "tensor": sentence}}


def verdict(name, how, code, out):
    """The line of one run; a failure is noted."""
    good = code == 0 and out["ok"] and out["gradients"] > 1
    worst = out["worst_gradient"]
    why = f", missing {out['missing'][:3]}, extra {out['extra'][:3]}" if out.get("missing") or out.get("extra") else ""
    line = (f"{'ok  ' if good else 'FAIL'} {name:26s} {how}: loss {out['loss_rel_err']:.1e}, {out['gradients']} gradients, worst "
            f"{worst['rel_err']:.1e} {worst['tensor']}{why}")
    if not good:
        FAILURES.append(line)
    return line


def isas():
    flags = open("/proc/cpuinfo").read()
    return ["portable"] + [isa for isa, flag in (("avx2", " avx2"), ("avx512", " avx512bw"), ("avx512_bf16", " avx512_bf16")) if flag in flags]


def each(function):
    """function(model) → [lines] for every model, two at a time, printed in order."""
    found = models()
    assert found, "no golden models"
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        for lines in pool.map(function, found):
            print("\n".join(lines), flush=True)


# ---- float32 and float64 ------------------------------------------------------------------------------------------


def roundtrips(found):
    """name → what golden_roundtrip says."""
    done = subprocess.run([ROUNDTRIP, *found], capture_output=True, text=True, env=ENVIRONMENT)
    said = [json.loads(line) for line in done.stdout.splitlines()]
    if len(said) != len(found):
        FAILURES.append(f"golden_roundtrip ended after {len(said)} of {len(found)} models: {done.stderr[-300:]}")
    return {x["dir"]: x for x in said}


def other_spelling(model):
    """(file, a folder with that config.json beside the same weights) for config_hub.json or config_v5.json."""
    for file in ("config_hub.json", "config_v5.json"):
        if os.path.exists(os.path.join(model, file)):
            folder = tempfile.mkdtemp(prefix="am_spelling_")
            shutil.copy(os.path.join(model, file), os.path.join(folder, "config.json"))
            shutil.copy(os.path.join(model, "model.safetensors"), folder)
            return file, folder
    return None, None


def check_spelling(model, name, said, lines):
    file, folder = other_spelling(model)
    if not folder:
        return None
    code, out = verify(folder, reference=os.path.join(model, "reference.safetensors"))
    lines.append(verdict(name, file, code, out))
    other = roundtrips([folder]).get(folder, {})
    if other.get("hash") != said.get("hash"):
        FAILURES.append(f"FAIL {name} {file}: another program than config.json's {other.get('error', '')[:300]}")
        lines.append(FAILURES[-1])
    shutil.rmtree(folder)
    return out["ok"]


def packed(model):
    with open(os.path.join(model, "reference.safetensors"), "rb") as f:
        header = json.loads(f.read(struct.unpack("<Q", f.read(8))[0]))
        begin, end = header["document_ids"]["data_offsets"]
        f.seek(f.tell() + begin)
        return any(struct.unpack(f"<{(end - begin) // 8}q", f.read(end - begin)))


def fp32():
    found = models()
    said, rows = roundtrips(found), {}

    def look(model):
        name, lines = os.path.basename(model), []
        about = said.get(model, {})
        code, out = verify(model)
        lines.append(verdict(name, "float32", code, out))
        if code in (2, 3, 4):  # it cannot be read at all: once is enough
            rows[name] = None
            return lines
        code64, out64 = verify(model, "--dtype", "float64")
        lines.append(verdict(name, "float64", code64, out64))
        lines.append(verdict(name, "recomputed", *verify(model, "--recompute")))
        for isa in isas() if name in THOROUGH else ["portable"]:
            lines.append(verdict(name, isa, *verify(model, env={"AM_ISA": isa})))
        spelling = check_spelling(model, name, about, lines)
        if about.get("roundtrip") != "identical":
            FAILURES.append(f"FAIL {name} round trip: {about.get('error')}")
            lines.append(FAILURES[-1])
        rows[name] = {"type": config_of(model)["model_type"], "loss": out["loss_rel_err"], "logits": out["logits_max_abs_err"],
                      "worst": out["worst_gradient"], "worst64": out64["worst_gradient"]["rel_err"], "packed": packed(model),
                      "spelling": spelling, "export": about.get("roundtrip") == "identical",
                      "good": all(x.startswith("ok") for x in lines)}
        return lines

    each(look)
    return rows


# ---- the page -----------------------------------------------------------------------------------------------------


def census():
    """model_type → kind: the 124 text decoders, and the types that transformers 5.23 adds."""
    with open(os.path.join(SOURCE, "tests/verify/families.tsv")) as f:
        return dict(line.rstrip("\n").split("\t") for line in f.readlines()[1:])


def cards():
    """model_type → card that serves it."""
    found = {}
    for path in sorted(glob.glob(os.path.join(CARDS, "*.card"))):
        with open(path) as f:
            for line in f:
                if line.startswith("family "):
                    for family in line.split("#")[0].split()[1:]:
                        found[family] = os.path.basename(path)[:-5]
    return found


def types_of(model):
    return {config_of(model, os.path.basename(f))["model_type"] for f in glob.glob(os.path.join(model, "config*.json"))}


def page(rows):
    kinds, card = census(), cards()
    proved = {t for m in models() for t in types_of(m) if rows.get(os.path.basename(m)) and rows[os.path.basename(m)]["good"]}
    old = [t for t, kind in kinds.items() if not kind.startswith("new")]
    count = sum(t in proved for t in old)
    text = [f"# Families: {count} of {len(old)}", "",
            "Model types of text decoders in transformers that have a card, and a small random model that is compared with what",
            "transformers computes (`tests/golden`, made by `tools/make_tiny_models.py`): loss, every logit, the gradient of every tensor.",
            f"Of the {len(kinds) - len(old)} types that transformers 5.23 has beyond those, {len(proved & set(kinds) - set(old))} are served too.",
            "This page is written by `tests/verify/test_verify_golden.py write`.", "",
            "Errors are those of float32 beside float64: of the loss, relative; of the logits, the largest; of the gradients,",
            "‖g − g_ref‖ / ‖g_ref‖ of the worst tensor, which is named. f64: the worst gradient when both sides compute in float64.",
            "Packed: rows of several documents. Export: load → export gives every tensor bit for bit. Every model compiles for 1 and 2 ranks, and tensor-parallel for 2, 4 and 8 (tensor-parallel.md).", "",
            "| type | card | model | loss | logits | worst gradient | of | f64 | packed | export | spellings |",
            "|---|---|---|---|---|---|---|---|---|---|---|"]
    for name, r in sorted(rows.items(), key=lambda x: (x[1] or {"type": "~"})["type"] + " " + x[0]):
        if r and r["good"]:
            text.append(f"| {r['type']} | {card.get(r['type'], '')} | {name} | {r['loss']:.0e} | {r['logits']:.0e} | {r['worst']['rel_err']:.0e} "
                        f"| `{short(r['worst']['tensor'])}` | {r['worst64']:.0e} | {'yes' if r['packed'] else ''} | identical "
                        f"| {2 if r['spelling'] else 1} |")
    left = [t for t in old if t not in proved]
    if left:
        text += ["", "Types not served or not proved yet: " + ", ".join(left) + "."]
    open_ones = sorted(n for n, r in rows.items() if not r or not r["good"])
    if open_ones:
        text += ["", OPEN + ", ".join(open_ones) + "."]
    return "\n".join(text) + "\n"


def short(tensor):
    return re.sub(r"^(model|transformer|backbone)\.", "", tensor).removesuffix(".weight")


def check_page():
    """Every model and card is on the page and nothing else; the count agrees with the rows."""
    with open(PAGE) as f:
        text = f.read()
    rows = [[c.strip() for c in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| ") and " type " not in line]
    listed, there = {r[2] for r in rows}, {os.path.basename(m) for m in models()}
    unproved = {n for line in text.splitlines() if line.startswith(OPEN) for n in line[len(OPEN):-1].split(", ")}
    for name in sorted((listed | unproved) ^ there):
        FAILURES.append(f"docs/families.md and tests/golden differ about {name}: test_verify_golden.py write")
    card = cards()
    for r in rows:
        if card.get(r[0]) != r[1]:
            FAILURES.append(f"docs/families.md says that {r[0]} is served by the card {r[1]}, and it is {card.get(r[0])}")
    kinds = census()
    types = {t for m in models() if os.path.basename(m) in listed for t in types_of(m)}
    old = [t for t, kind in kinds.items() if not kind.startswith("new")]
    if f"# Families: {sum(t in types for t in old)} of {len(old)}\n" not in text:
        FAILURES.append("the count of docs/families.md is not that of its rows: test_verify_golden.py write")
    print(text.splitlines()[0])


# ---- ranks, bf16, faults ------------------------------------------------------------------------------------------


def on_ranks(model):
    name, lines = os.path.basename(model), []
    lines.append(verdict(name, "2 ranks", *verify(model, "--strategy", "fsdp2", ranks=2)))
    if name in THOROUGH:
        lines.append(verdict(name, "2 ranks, ddp", *verify(model, "--strategy", "ddp", ranks=2)))
        lines.append(verdict(name, "4 ranks, recomputed", *verify(model, "--recompute", ranks=4)))
        lines.append(verdict(name, "2 ranks, guarded", *verify(model, "--device", "guarded", ranks=2)))
    return lines


def metadata(model):
    with open(os.path.join(model, "reference.safetensors"), "rb") as f:
        return json.loads(f.read(struct.unpack("<Q", f.read(8))[0]))["__metadata__"]


def jumps(model):
    """Does the model select experts or keys, or clamp?  A rounded score may then select another, and the gradient jumps."""
    done = subprocess.run([PROGRAM, "inspect", model, "--card-text"], capture_output=True, text=True, env=ENVIRONMENT)
    return re.search(r"\b(topk|top|argtop|topmask|sparsemixer|clamp|index_keys)\(", done.stdout) is not None


def bf16_verdict(model, how, code, out):
    """The loss within verify's tolerance, always.  Gradients within it too, or within what the model makes of rounding: transformers'
    own float32 is off by e beside float64 (float32_error of the metadata), so bf16, with 2^16 times the rounding, by 2^16 e; four
    times that is let pass, since the worst tensor is often one of a few numbers (verify lets the worst be four typical ones too).  Where a rounded score can select another expert gradients are not held to anything."""
    own = json.loads(metadata(model).get("float32_error", "{}")).get("gradient", 0.0)
    ran = code in (0, 5) and out["gradients"] > 1 and not out["missing"] and not out["extra"]
    near = ran and out["loss_rel_err"] <= out["tolerances"]["loss_rel_err"]
    bound = max(4 * 2.0**16 * own, out["tolerances"]["gradient_rel_err"]) if ran else 0
    if near and math.isfinite(out["worst_gradient"]["rel_err"]) and (jumps(model) or out["worst_gradient"]["rel_err"] <= bound):
        code, out = 0, {**out, "ok": True}
    return verdict(os.path.basename(model), how, code, out)


def in_bf16(model):
    name, lines = os.path.basename(model), []
    if name in THOROUGH:
        for isa in isas():
            lines.append(verdict(name, f"bf16 {isa}", *verify(model, "--dtype", "bfloat16", env={"AM_ISA": isa})))
        lines.append(verdict(name, "bf16, 2 ranks", *verify(model, "--dtype", "bfloat16", ranks=2)))
        return lines
    for isa in ("portable", isas()[-1]):
        lines.append(bf16_verdict(model, f"bf16 {isa}", *verify(model, "--dtype", "bfloat16", env={"AM_ISA": isa})))
    return lines


def changed_reference(model, name, path, factor=1.0, element=None, delta=0.0):
    """A copy of the reference in which a tensor's values are multiplied, or one element is moved."""
    data = bytearray(open(os.path.join(model, "reference.safetensors"), "rb").read())
    header = struct.unpack("<Q", data[:8])[0]
    entry = json.loads(data[8:8 + header])[name]
    begin, end = (8 + header + x for x in entry["data_offsets"])
    values = [v * factor for v in struct.unpack(f"<{(end - begin) // 4}f", data[begin:end])]
    if element is not None:
        values[element] += delta * max(map(abs, values))
    data[begin:end] = struct.pack(f"<{len(values)}f", *values)
    open(path, "wb").write(data)


def faults():
    sampled = next(m for m in models() if b"gradient_strides" in open(os.path.join(m, "reference.safetensors"), "rb").read(100000))
    whole = os.path.join(SOURCE, "tests/golden/llama")
    up = "grad.model.layers.0.mlp.up_proj.weight"
    cases = [(whole, up, dict(factor=1.0003)), (whole, "loss", dict(factor=1.000003)), (whole, "logits", dict(factor=1.001)),
             (sampled, up, dict(factor=1.0003)), (sampled, up, dict(element=17, delta=0.003))]
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "reference.safetensors")
        for model, name, change in cases:
            changed_reference(model, name, path, **change)
            code, out = verify(model, reference=path)
            print(f"{'ok  ' if code == 5 and not out['ok'] else 'FAIL'} {os.path.basename(model)} {name} {change} is refused, exit code {code}")
            if code != 5 or out["ok"]:
                FAILURES.append(name)
        with open(os.path.join(sampled, "reference.safetensors"), "rb") as f:
            data = f.read()
        stride = re.search(rb'\\": (\d)[,}]', data).group(0)
        for was, becomes in ((stride, stride.replace(stride[4:5], b"1")), (b"gradient_strides", b"gradient_stridez")):
            assert was in data
            open(path, "wb").write(data.replace(was, becomes))
            code, out = verify(sampled, reference=path)
            if code != 3:
                FAILURES.append(f"{was} → {becomes} gives exit code {code}, not 3")
        with open(os.path.join(whole, "reference.safetensors"), "rb") as f:
            data = f.read()
        open(path, "wb").write(data.replace(up.encode(), up.replace("up", "xp").encode()))
        code, out = verify(whole, reference=path)
        if code != 5 or len(out["missing"]) != 1 or len(out["extra"]) != 1:
            FAILURES.append(f"a gradient under another name gives exit code {code}, missing {out['missing']}, extra {out['extra']}")
        code, out = verify(whole, reference=os.path.join(folder, "missing.safetensors"))
        if code != 3:
            FAILURES.append(f"a missing reference gives exit code {code}, not 3")


def main():
    kind = sys.argv[1]
    if kind == "fp32":
        fp32()
    elif kind == "write":
        with open(PAGE, "w") as f:
            f.write(page(fp32()))
    elif kind == "page":
        check_page()
    elif kind == "faults":
        faults()
    else:
        each(on_ranks if kind == "ranks" else in_bf16)
    if FAILURES:
        print("failed:", *FAILURES, sep="\n  ")
    sys.exit(1 if FAILURES else 0)


if __name__ == "__main__":
    main()
