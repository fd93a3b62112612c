#!/usr/bin/env python3
"""`automodel bench`: FLOPs against closed forms, the parts of a step against the whole, and what is refused.  No speed is
asserted: a test that can fail on a busy machine is none."""
import json
import os

from cli_test import GOLDEN, main, ranks, refused, run

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


def check_text(folder):
    text = run("bench", "step", recipe(folder), "--steps", "1", "--profile")
    for word in ("tokens/s a rank", "of the ceiling", "linear_dw", "outside of them"):
        assert word in text, text
    assert "GFLOP/s in BF16 products" in run("bench", "gemm", "--dtype", "bfloat16")


def check_refusals(folder):
    refused(2, "bench step needs a recipe", "bench", "step")
    refused(2, 'bench measures "step" or "gemm", not "stop"', "bench", "stop")
    refused(2, "--steps is 1 to 10000, not 0", "bench", "step", recipe(folder), "--steps", "0")
    refused(2, "--dtype is float32 or bfloat16, not float16", "bench", "gemm", "--dtype", "float16")
    refused(2, "a step computes as the recipe says", "bench", "step", recipe(folder), "--dtype", "bf16")
    refused(2, "no multiple of", "bench", "step", recipe(folder, global_batch_size=3))


main([check_step, check_ranks, check_text, check_refusals])
