#!/usr/bin/env python3
"""`automodel bench`: FLOPs against closed forms, the parts of a step against the whole, the plan against the dry run, the
clock of a start against this script's, and what is refused.  No speed is asserted: a test that can fail on a busy machine
is none."""
import json
import os
import re
import time

from cli_test import GOLDEN, main, ranks, refused, run, tiny_model

TOKENS, D, HEADS, KV, HEAD, FFN, LAYERS, VOCAB = 2 * 48, 48, 4, 2, 12, 64, 2, 128  # tests/golden/llama, 2 rows of 48


def recipe(folder, **more):
    path = os.path.join(folder, "bench.yaml")
    steps = {"global_batch_size": 4, "local_batch_size": 2, **more}
    with open(path, "w", encoding="utf-8") as f:
        f.write(f"""run: {{dir: {folder}/never, threads: 1}}
step_scheduler: {json.dumps(steps)}
model:
  _target_: nemo_automodel.NeMoAutoModelForCausalLM.from_pretrained
  pretrained_model_name_or_path: {os.path.join(GOLDEN, "llama")}
  torch_dtype: float32
dataset: {{_target_: automodel.ShardDataset, data_dir: {folder}/no_such_data}}
packed_sequence: {{packed_sequence_size: 48}}
""")
    return path


def by_name(o):
    return {(r["operator"], r["phase"]): r for r in o["operators"]}


def check_step(folder):
    """Two micro-batches on one rank; it needs no data and leaves nothing."""
    o = json.loads(run("bench", "step", recipe(folder), "--steps", "3", "--json"))
    rows = by_name(o)
    weights = LAYERS * (2 * D * HEADS * HEAD + 2 * D * KV * HEAD + 3 * D * FFN)
    assert o["tokens"] == 2 * TOKENS and o["ranks"] == o["threads"] == 1 and o["compute"] == "F32"
    for name, phase in (("linear", "forward"), ("linear_dx", "backward"), ("linear_dw", "weights")):
        assert rows[name, phase]["flops"] == 2 * 2 * TOKENS * weights, (name, rows[name, phase])
        assert rows[name, phase]["calls"] == 2 * LAYERS * 7
    logits = 2 * 2 * TOKENS * D * VOCAB
    assert rows["linear_ce_grad", "backward"]["flops"] == 3 * logits
    unfused = json.loads(run("bench", "step", recipe(folder), "--steps", "1", "--json", "--run.fuse=false"))
    twins = by_name(unfused)
    assert twins["linear_ce", "forward"]["flops"] == logits and twins["linear_ce_bwd", "backward"]["flops"] == 3 * logits
    assert unfused["flops"] - o["flops"] == logits
    assert sum(r["flops"] for r in o["operators"]) == o["flops"]
    # the parts are not more than the step, and the floors follow from the ceilings
    inside = sum(r["seconds"] for r in o["operators"])
    assert o["outside_seconds"] >= 0 and inside > 0
    c = o["ceilings"]
    for r in o["operators"]:
        least = max(r["flops"] / c["flops_per_second"], r["bytes"] / c["bytes_per_second"])
        assert abs(r["floor_seconds"] - least) <= 1e-9 * least + 1e-15, r
    assert not os.path.exists(os.path.join(folder, "never"))


def check_ranks(folder):
    """Under two ranks a rank has half of the tokens, and sums to make; rank 0 prints."""
    o = json.loads(ranks(2, "bench", "step", recipe(folder), "--steps", "1", "--json"))
    assert o["ranks"] == 2 and o["tokens"] == TOKENS
    assert any(name == "rank_sum" for name, _ in by_name(o))


COUNTERS = {"cycles", "instructions", "llc_misses", "l1d_misses", "dtlb_misses", "page_faults"}


def check_profile(folder):
    """Totals are the sums of the rows; a counter is in every row, or in the one line that says why it is in none."""
    o = json.loads(run("bench", "step", recipe(folder), "--steps", "1", "--profile", "--json"))
    missing = {c for c in COUNTERS if c in o["not_counted"]}
    assert not missing or "perf_event_open: " in o["not_counted"], o["not_counted"]
    for row in o["operators"]:
        assert {c for c in COUNTERS if c in row} == COUNTERS - missing, row
        assert all(row[c] >= 0 for c in COUNTERS - missing), row
    text = run("bench", "step", recipe(folder, global_batch_size=1024), "--steps", "1", "--profile")  # enough to show in three digits
    table = text[text.index("operator "):].split("\n")
    columns = re.split(r" {2,}| (?=phase)", table[0].strip())
    assert columns[4:8] == ["share", "GFLOP", "GB", "GFLOP/s"], columns
    cells = [line.split() for line in table[1:] if "%" in line and not line.startswith("outside")]
    rows, total = cells[:-1], cells[-1]
    assert total[0] == "all" and len(rows) == len([r for r in o["operators"] if r["calls"]])
    assert abs(sum(float(c[5]) for c in rows) - float(total[3])) <= 0.005 * (len(rows) + 1)  # two digits are printed
    assert abs(sum(float(c[6]) for c in rows) - float(total[4])) <= 0.0005 * (len(rows) + 1) < 0.1 * float(total[4])
    assert len([line for line in text.split("\n") if "perf_event_open" in line]) == (1 if missing else 0)


def dry_run(folder, *more):
    return json.loads(run("train", recipe(folder), "--dry-run", "--json", *more))[0]


def check_memory(folder):
    """The parts are the plan of the dry run; what is resident of them and besides is what the kernel counts."""
    plan = dry_run(folder, "--run.threads=1")
    m = json.loads(run("bench", "step", recipe(folder), "--steps", "1", "--memory", "--json"))["memory"]
    parts = {p["part"]: p for p in m["parts"]}
    assert m["plan"] == sum(p["plan"] for p in parts.values()) == plan["bytes"]
    assert sum(p["plan"] for n, p in parts.items() if n.startswith("store")) == plan["regions"]["store"]
    assert sum(p["plan"] for n, p in parts.items() if n.startswith("step")) == plan["regions"]["step"]
    master = parts["store: master weights"]["plan"]
    assert master == parts["store: AdamW's m"]["plan"] == parts["store: AdamW's v"]["plan"]
    assert parts["step: gradients"]["plan"] == master  # one rank, fp32: a gradient for each weight
    assert parts["step: weights for the products"]["plan"] == 0
    bf16 = json.loads(run("bench", "step", recipe(folder), "--steps", "1", "--memory", "--json", "--model.torch_dtype=bf16"))["memory"]
    assert {p["part"]: p["plan"] for p in bf16["parts"]}["step: gradients"] == master  # they are fp32 there too
    assert m["resident"] == sum(p["resident"] for p in parts.values()) == m["plan"]  # every page is touched
    process = m["process"]
    assert process["now"] == process["anonymous"] + process["file"] + process["shared"] <= process["peak"]
    assert abs(m["resident"] + sum(m["besides"].values()) - process["now"]) <= 1 << 20, m
    after = m["after"]
    assert [a["at"] for a in after] == sorted(a["at"] for a in after)
    assert [a["memory"]["peak"] for a in after] == sorted(a["memory"]["peak"] for a in after)
    taken = {a["part"]: a["memory"]["anonymous"] for a in after}
    # m and v, of master's size each, are touched by the first update, but for the pages that they share with their neighbours;
    # lower bounds alone, since a sanitizer's shadow is taken beside them
    assert taken["memory taken"] - taken["compiled"] >= m["plan"] - 2 * master
    assert taken["first step"] - taken["memory taken"] >= 2 * master - 2 * os.sysconf("SC_PAGE_SIZE")
    assert taken["first step"] - taken["compiled"] >= m["plan"]
    text = run("bench", "step", recipe(folder), "--steps", "1", "--memory")
    for word in ("store: master weights", "the plan ", "program and libraries", "VmHWM", "page tables"):
        assert word in text, text


def check_passes(folder):
    """A process for each value of each pass, and its plan and FLOPs are those of the dry run with that value."""
    o = json.loads(run("bench", "step", recipe(folder), "--passes", "--steps", "1", "--rounds", "2", "--json"))
    first, others = o["variants"][0], o["variants"][1:]
    values = re.search(r"--distributed\.recompute +<(.*?)>", run("train", "--options", "distributed")).group(1).split("|")
    wanted = {("run.fuse", "false")} | {("distributed.recompute", v) for v in values}
    seen = {(v["option"], v["value"]) for v in others}
    assert first["option"] is None and len(seen) == len(others) == len(wanted) - 1 and seen < wanted, (seen, wanted)
    for v in o["variants"]:
        change = [f"--{v['option']}={v['value']}"] if v["option"] else []
        plan = dry_run(folder, *change)
        assert v["exit_code"] == 0 and len(v["round_seconds"]) == o["rounds"] == 2
        assert v["fastest"]["plan_bytes"] == plan["bytes"] and v["fastest"]["flops"] == plan["flops_per_step"], (v, plan)
        assert v["fastest"]["ceilings"] == first["fastest"]["ceilings"]
        ratios = sorted(a / b for a, b in zip(v["round_seconds"], first["round_seconds"]))
        told = v["beside_recipe"]
        assert abs(told["smallest"] - ratios[0]) < 1e-9 and abs(told["largest"] - ratios[1]) < 1e-9
        assert abs(told["median"] - sum(ratios) / 2) < 1e-9
    text = run("bench", "step", recipe(folder), "--passes", "--steps", "1", "--rounds", "1")
    for block in text.split("\n\n")[1:]:
        rows = [[float(x) for x in line.split()[-3:]] for line in block.strip().split("\n")[1:]]
        for column in range(3):
            assert abs(sum(r[column] for r in rows[:-1]) - rows[-1][column]) <= 0.005 * len(rows), block
    assert text.count("(ms of the fastest step)") == len(others)
    # what the child has said is said once, and its exit code is the command's
    refused(2, "no multiple of", "bench", "step", recipe(folder, global_batch_size=3), "--passes")
    none = f"--model.pretrained_model_name_or_path={folder}/none"
    refused(3, ["the recipe's own step does not run (exit code 3)", "/none"], "bench", "step", recipe(folder), "--passes", none)


def check_start(folder):
    """The same functions as train's: its messages, its refusals; the clock begins with the process; nothing is left behind."""
    model, tokens = tiny_model(os.path.join(folder, "model")), os.path.join(folder, "tokens")
    with open(os.path.join(folder, "text.jsonl"), "w", encoding="utf-8") as f:
        f.writelines(json.dumps({"text": f"line {i} of a text that is long enough"}) + "\n" for i in range(40))
    run("prepare", "--input", os.path.join(folder, "text.jsonl"), "--tokenizer", model, "--output", tokens)
    given = [recipe(folder), f"--model.pretrained_model_name_or_path={model}", f"--dataset.data_dir={tokens}",
             "--step_scheduler.max_steps=3", "--step_scheduler.global_batch_size=2"]
    begin = time.monotonic()
    o = json.loads(run("bench", "start", *given, "--json", once="step 1/3"))
    wall = time.monotonic() - begin
    parts = o["parts"]
    assert [p["part"] for p in parts] == ["before main", "recipe read", "ranks joined", "cores taken", "model opened", "data opened",
                                          "compiled", "agreed", "memory taken", "weights loaded", "data started", "first step"]
    assert all(p["seconds"] >= 0 for p in parts) and abs(sum(p["seconds"] for p in parts) - o["to_its_end_seconds"]) < 1e-9
    assert 0 < o["to_first_step_seconds"] == parts[-2]["at"] < o["to_its_end_seconds"] <= wall + 0.02  # a tick or two
    assert not os.path.exists(os.path.join(folder, "never"))
    # a run directory with a run in it is not touched, and its checkpoint not loaded
    mine = os.path.join(folder, "mine")
    run("train", *given, f"--run.dir={mine}", "--step_scheduler.max_steps=1", "--checkpoint.save_consolidated=false")
    before = sorted(os.listdir(mine))
    text = ranks(2, "bench", "start", *given, f"--run.dir={mine}", "--step_scheduler.local_batch_size=1", once="step 1/3")
    assert text.count("to its end") == 1 and sorted(os.listdir(mine)) == before
    refused(3, "there are no token shards", "bench", "start", recipe(folder))


def check_text(folder):
    text = run("bench", "step", recipe(folder), "--steps", "1", "--profile")
    for word in ("tokens/s a rank", "of the ceiling", "linear_dw", "outside of them"):
        assert word in text, text
    assert "GFLOP/s in BF16 products" in run("bench", "gemm", "--dtype", "bfloat16")


def check_tokenizer(folder):
    model = tiny_model(os.path.join(folder, "m"))
    text = os.path.join(folder, "text.jsonl")
    with open(text, "w", encoding="utf-8") as f:
        f.write('{"text": "one two three four"}\n' * 50)
    o = json.loads(run("bench", "tokenizer", model, text, "--rounds", "1", "--json"))
    assert o["texts"] == 50 and o["bytes"] == 50 * len("one two three four") and o["ids"] >= 50, o
    assert o["open_seconds"] > 0 and o["encode_seconds"] > 0
    refused(2, "bench tokenizer", "bench", "tokenizer")


def check_refusals(folder):
    refused(2, "bench step needs a recipe", "bench", "step")
    refused(2, 'bench measures "step", "start", "gemm", "experts" or "tokenizer", not "stop"', "bench", "stop")
    refused(2, "bench start needs a recipe", "bench", "start")
    refused(2, "--steps does not go with bench start", "bench", "start", recipe(folder), "--steps", "3")
    refused(2, "--profile does not go with bench gemm", "bench", "gemm", "--profile")
    refused(2, "--rounds goes with --passes", "bench", "step", recipe(folder), "--rounds", "2")
    refused(2, "--rounds is 1 to 32, not 33", "bench", "step", recipe(folder), "--passes", "--rounds", "33")
    refused(2, "--passes starts many", "bench", "step", recipe(folder), "--passes", "--memory")
    ranks(1, "bench", "step", recipe(folder), "--passes", code=2, says="run it without mpirun or srun")
    refused(2, "--steps is 1 to 10000, not 0", "bench", "step", recipe(folder), "--steps", "0")
    refused(2, "--dtype is float32 or bfloat16, not float16", "bench", "gemm", "--dtype", "float16")
    refused(2, "a step computes as the recipe says", "bench", "step", recipe(folder), "--dtype", "bf16")
    refused(2, "no multiple of", "bench", "step", recipe(folder, global_batch_size=3))


main([check_step, check_ranks, check_profile, check_memory, check_passes, check_start, check_text, check_tokenizer, check_refusals])
