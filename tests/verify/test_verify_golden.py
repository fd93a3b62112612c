#!/usr/bin/env python3
"""automodel verify over the golden models (made by transformers): loss within 1e-6, every gradient within 1e-4 in fp32; on one rank
and on two (gathered gradients), with recompute, on every instruction set, and in bf16 within the derived tolerance.  A reference that
was changed a little must be refused: the comparison can fail.   usage: test_verify_golden.py fp32|ranks|bf16|faults"""
import glob, json, os, struct, subprocess, sys, tempfile

SOURCE = os.environ["AM_SOURCE_DIR"]
PROGRAM = os.environ.get("AM_PROGRAM", os.path.join(os.environ["AM_BUILD_DIR"], "automodel"))
MODELS = sorted(os.path.dirname(p) for p in glob.glob(os.path.join(SOURCE, "tests/golden/*/reference.safetensors")))
FAILURES = []


def verify(model, *options, ranks=1, env=None, reference=None):
    command = [PROGRAM, "verify", model, "--reference", reference or os.path.join(model, "reference.safetensors"), "--json", *options]
    if ranks > 1:
        command = ["mpirun", "--oversubscribe", "--allow-run-as-root", "-np", str(ranks), *command]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "AM_CARDS": os.path.join(SOURCE, "configs/models"), **(env or {})})
    try:
        return done.returncode, json.loads(done.stdout.strip().splitlines()[-1])
    except (IndexError, ValueError):
        return done.returncode, {"ok": False, "loss_rel_err": float("nan"), "worst_gradient": {"rel_err": float("nan"), "tensor": done.stderr[-400:]}, "gradients": 0}


def expect_ok(model, *options, ranks=1, env=None, loss=1e-6, gradient=1e-4):
    code, out = verify(model, *options, ranks=ranks, env=env)
    worst = out["worst_gradient"]
    good = code == 0 and out["ok"] and out["gradients"] > 10 and out["loss_rel_err"] <= loss and worst["rel_err"] <= gradient
    what = f"{os.path.basename(model):18s} {ranks} rank(s) {' '.join(options)} {env or ''}"
    print(f"{'ok  ' if good else 'FAIL'} {what}: loss {out['loss_rel_err']:.1e}, {out['gradients']} gradients, worst {worst['rel_err']:.1e} {worst['tensor']}")
    if not good:
        FAILURES.append(what)


def isas():
    flags = open("/proc/cpuinfo").read()
    return ["portable"] + (["avx2"] if " avx2" in flags else []) + (["avx512"] if " avx512bw" in flags else []) + (["avx512_bf16"] if " avx512_bf16" in flags else [])


def changed_reference(model, name, factor, path):
    """A copy of the reference in which one tensor's values are multiplied."""
    data = bytearray(open(os.path.join(model, "reference.safetensors"), "rb").read())
    header = struct.unpack("<Q", data[:8])[0]
    entry = json.loads(data[8:8 + header])[name]
    begin, end = (8 + header + x for x in entry["data_offsets"])
    values = struct.unpack(f"<{(end - begin) // 4}f", data[begin:end])
    data[begin:end] = struct.pack(f"<{len(values)}f", *(v * factor for v in values))
    open(path, "wb").write(data)


def faults():
    model = MODELS[0]
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "reference.safetensors")
        for name, factor in (("grad.model.layers.0.mlp.up_proj.weight", 1.0003), ("loss", 1.000003), ("logits", 1.001)):
            changed_reference(model, name, factor, path)
            code, out = verify(model, reference=path)
            print(f"{'ok  ' if code == 5 and not out['ok'] else 'FAIL'} {name} × {factor} is refused, exit code {code}")
            if code != 5 or out["ok"]:
                FAILURES.append(name)
        code, out = verify(model, reference=os.path.join(folder, "missing.safetensors"))
        if code != 3:
            FAILURES.append(f"a missing reference gives exit code {code}, not 3")


def main():
    assert MODELS, "no golden models"
    kind = sys.argv[1]
    for model in MODELS if kind != "faults" else []:
        if kind == "fp32":
            expect_ok(model)
            expect_ok(model, "--recompute")
            for isa in isas():
                expect_ok(model, env={"AM_ISA": isa})
        elif kind == "ranks":
            for strategy in ("fsdp2", "ddp"):
                expect_ok(model, "--strategy", strategy, ranks=2)
            expect_ok(model, "--recompute", ranks=4)
            expect_ok(model, "--device", "guarded", ranks=2)
        elif kind == "bf16":
            for isa in isas():  # tolerances as derived in cmd_verify.c, a typical tensor's for the worst here
                expect_ok(model, "--dtype", "bfloat16", env={"AM_ISA": isa}, loss=7e-3, gradient=0.06)
            expect_ok(model, "--dtype", "bfloat16", ranks=2, loss=7e-3, gradient=0.06)
    if kind == "faults":
        faults()
    if FAILURES:
        print("failed:", *FAILURES, sep="\n  ")
    sys.exit(1 if FAILURES else 0)


main()
