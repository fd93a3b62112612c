#!/usr/bin/env python3
"""`automodel generate`: greedy tokens and their log probabilities equal those of transformers, however the prompt is cut;
the text that is streamed is the decoded text; what is refused, and in which words."""
import json
import math
import os
import re
import shutil

from cli_test import (GOLDEN, MAKE_CHECKPOINT, TINY, copy_model, main, make_checkpoint, ranks, refused, run, tiny_model)

PROMPT = [1] + [(7 * i * i + 11 * i + 5) % 125 + 3 for i in range(20)]
# model.generate(PROMPT, max_new_tokens=24, do_sample=False) of transformers 5.23, torch 2.15, float32, eager attention, and the
# sum of the chosen tokens' log_softmax(scores).  Smallest distance between the two best logits: 6e-4 (qwen3).
REFERENCE = {
    "llama": ([79, 120, 56, 35, 108, 120, 56, 35, 47, 55, 56, 44, 65, 56, 44, 65, 56, 44, 65, 56, 44, 65, 56, 44], -57.01065),
    "llama_rope3_tied": ([110, 36, 83, 83, 83, 83, 43, 36, 83, 43, 36, 83, 43, 36, 62, 105, 105, 76, 34, 36, 62, 105, 105, 76],
                         -57.68567),
    "llama_linear_bias": ([117, 92, 121, 92, 121, 7, 93, 106, 117, 117, 117, 117, 117, 117, 117, 117, 117, 117, 117, 82, 87, 82,
                           121, 7], -65.59802),
    "mistral": ([108, 52, 50, 22, 122, 63, 118, 108, 125, 120, 94, 103, 46, 1, 127, 79, 79, 79, 79, 90, 31, 11, 33, 90],
                -65.10636),
    "qwen2": ([49, 89, 23, 89, 101, 101, 101, 101, 101, 101, 101, 101, 101, 101, 101, 101, 101, 83, 83, 83, 83, 40, 39, 39],
              -64.47399),
    "qwen2_full": ([104, 3, 3, 3, 94, 39, 104, 3, 39, 61, 3, 39, 124, 112, 115, 91, 93, 91, 93, 91, 93, 126, 120, 44], -68.79176),
    "qwen3": ([82, 14, 119, 0, 25, 10, 106, 39, 93, 7, 110, 18, 21, 17, 105, 81, 104, 88, 45, 10, 8, 107, 36, 111], -70.57714),
    "qwen3_tied_bias": ([47, 47, 47, 125] + [79] * 20, -46.33459),
}


def ids_text(ids):
    return ",".join(map(str, ids))


def generate(model, prompt, *more):
    return json.loads(run("generate", model, "--prompt-ids", ids_text(prompt), "--dtype", "float32", "--threads", 1, "--json", *more))


def check_greedy(folder):
    for name, (ids, logprob) in REFERENCE.items():
        got = generate(os.path.join(GOLDEN, name), PROMPT, "-n", 24)
        assert got["ids"] == ids, (name, got["ids"])
        assert abs(sum(got["logprobs"]) - logprob) < 24 * 2e-5, (name, sum(got["logprobs"]), logprob)
        assert got["finish"] == "length" and got["prompt_tokens"] == 21 and got["text"] is None


def check_chunks(folder):
    """A prompt cut into chunks, of which the last is shorter, and token by token."""
    for name in ("qwen3", "mistral"):
        model = os.path.join(GOLDEN, name)
        whole = generate(model, PROMPT, "-n", 24)
        for chunk in (1, 4, 21):
            cut = generate(model, PROMPT, "-n", 24, "--chunk", chunk)
            assert cut["ids"] == whole["ids"], (name, chunk)
            assert max(abs(a - b) for a, b in zip(cut["logprobs"], whole["logprobs"])) < 1e-5


def check_decode_is_forward(folder):
    """Token n + 1 out of the cache = the one token after a prompt of n, computed at once."""
    model = os.path.join(GOLDEN, "qwen2")
    whole = generate(model, PROMPT, "-n", 24)
    for n in (1, 2, 9, 23):
        again = generate(model, PROMPT + whole["ids"][:n], "-n", 1)
        assert again["ids"] == whole["ids"][n:n + 1]
        assert abs(again["logprobs"][0] - whole["logprobs"][n]) < 1e-5


def check_guarded_and_bf16(folder):
    model = os.path.join(GOLDEN, "llama")
    assert generate(model, PROMPT, "-n", 24, "--device", "guarded")["ids"] == REFERENCE["llama"][0]
    out = run("generate", model, "--prompt-ids", ids_text(PROMPT), "-n", 5, "--dtype", "bfloat16", "--json")
    assert len(json.loads(out)["ids"]) == 5
    # without a tokenizer and without --json: ids
    out = run("generate", model, "--prompt-ids", ids_text(PROMPT), "-n", 3)
    assert out == ids_text(REFERENCE["llama"][0][:3]) + "\n"


def check_ends_at_every_eos(folder):
    model = copy_model("llama", os.path.join(folder, "m"))
    ids = REFERENCE["llama"][0]
    with open(os.path.join(model, "generation_config.json"), "w") as f:
        json.dump({"eos_token_id": [2, 108]}, f)
    got = generate(model, PROMPT, "-n", 24)
    assert got["ids"] == ids[:ids.index(108) + 1] and got["finish"] == "eos"


def check_sampling(folder):
    model = os.path.join(GOLDEN, "llama")
    sample = lambda *o: generate(model, PROMPT, "-n", 24, *o)["ids"]
    a = sample("--temperature", "1", "--seed", 1)
    assert a == sample("--temperature", "1", "--seed", 1)
    assert a != sample("--temperature", "1", "--seed", 2) and a != REFERENCE["llama"][0]
    assert sample("--top-k", 1) == REFERENCE["llama"][0]
    assert sample("--top-p", "1e-9") == REFERENCE["llama"][0]
    assert sample("--temperature", "0") == REFERENCE["llama"][0]


def byte_of():
    """The byte-level alphabet of GPT-2: printable bytes are themselves, the others follow from U+0100 on."""
    kept = [*range(33, 127), *range(161, 173), *range(174, 256)]
    table, n = {chr(b): b for b in kept}, 0
    for b in range(256):
        if b not in kept:
            table[chr(256 + n)] = b
            n += 1
    return table


def check_text(folder):
    """Streamed text = bytes of the tokens, decoded at once.  Sampled hot, so that characters are often cut or broken."""
    model = tiny_model(os.path.join(folder, "m"))
    tokenizer = json.load(open(os.path.join(TINY, "tokenizer.json"), encoding="utf-8"))
    spelled = {i: s for s, i in tokenizer["model"]["vocab"].items()}
    table = byte_of()
    broken = 0
    for seed in range(6):
        options = ("--prompt", "what is", "-n", 200, "--temperature", "2", "--seed", seed, "--dtype", "float32", "--threads", 1)
        got = json.loads(run("generate", model, *options, "--json"))
        ids = [i for i in got["ids"] if i > 3 and i in spelled]  # special tokens are not text; 298 has no spelling, 299 ends it
        expected = bytes(table[c] for i in ids for c in spelled[i]).decode("utf-8", errors="replace")
        broken += expected.count("\ufffd")
        assert got["text"] == expected, (got["text"], expected)
        assert run("generate", model, *options) == expected + "\n"
    assert broken > 20


def check_chat(folder):
    """<|im_start|>user…<|im_end|> by the template, no BOS added, and a system turn."""
    model = tiny_model(os.path.join(folder, "m"))
    render = lambda *turns: "".join(f"<|im_start|>{r}\n{c}<|im_end|>\n" for r, c in turns) + "<|im_start|>assistant\n"
    lines = os.path.join(folder, "t.jsonl")
    for extra, turns in (((), [("user", "the question")]), (("--system", "and"), [("system", "and"), ("user", "the question")])):
        got = json.loads(run("generate", model, "--chat", "--prompt", "the question", *extra, "-n", 4, "--json"))
        with open(lines, "w") as f:
            f.write(json.dumps({"text": render(*turns)}) + "\n")
        ids = json.loads(run("tokenize", model, "--input", lines, "--no-special"))["ids"]
        assert got["prompt_tokens"] == len(ids)
        assert got["ids"] == json.loads(run("generate", model, "--prompt-ids", ids_text(ids), "-n", 4, "--json"))["ids"]


def check_checkpoint(folder):
    """The weights of the checkpoint, not those of the model beside it; a run's directory names its newest step."""
    model = os.path.join(GOLDEN, "llama")
    run_dir = os.path.join(folder, "run")
    one = make_checkpoint(model, os.path.join(run_dir, "checkpoints"), 3, 1)
    two = make_checkpoint(model, os.path.join(run_dir, "checkpoints"), 12, 2, np=2)
    assert generate(one, PROMPT, "-n", 24)["ids"] == REFERENCE["llama"][0]
    doubled = generate(two, PROMPT, "-n", 24)
    assert abs(doubled["logprobs"][0] - generate(one, PROMPT, "-n", 1)["logprobs"][0]) > 0.01
    assert generate(run_dir, PROMPT, "-n", 24)["ids"] == doubled["ids"]
    assert generate(os.path.dirname(two), PROMPT, "-n", 24)["ids"] == doubled["ids"]
    file = os.path.join(two, "rank-00001.safetensors")
    os.chmod(file, 0o644)
    with open(file, "r+b") as f:
        f.seek(-9, 2)
        byte = f.read(1)
        f.seek(-9, 2)
        f.write(bytes([byte[0] ^ 1]))
    refused(3, "rank-00001.safetensors", "generate", two, "--prompt-ids", "1,2")
    os.remove(os.path.join(two, "manifest.json"))
    refused(3, "manifest.json", "generate", two, "--prompt-ids", "1,2")


def check_refusals(folder):
    llama = os.path.join(GOLDEN, "llama")
    ids = ("--prompt-ids", "1,2")
    for code, says, args in (
            (2, "--prompt TEXT", (llama,)),
            (2, "not both", (llama, "--prompt", "x", *ids)),
            (2, "did you mean --temperature?", (llama, *ids, "--temprature", "1")),
            (2, "no token id", (llama, "--prompt-ids", "1,x")),
            (2, "beyond the model's vocabulary of 128", (llama, "--prompt-ids", "1,128")),
            (2, "no tokens", (llama, "--prompt-ids", "")),
            (2, "--max-tokens can be 254", (llama, *ids, "-n", 255)),
            (2, "--max-tokens is at least 1", (llama, *ids, "-n", 0)),
            (2, "256 positions", (llama, "--prompt-ids", ids_text([3] * 256))),
            (2, "--seed has no effect", (llama, *ids, "--seed", 1)),
            (2, "--temperature 0 samples none", (llama, *ids, "--temperature", 0, "--top-k", 3)),
            (2, "--top-p is above 0", (llama, *ids, "--top-p", "1.5")),
            (2, "--system goes with --chat", (llama, *ids, "--system", "x")),
            (2, "float32 or bfloat16", (llama, *ids, "--dtype", "float8")),
            (2, "--model goes with a checkpoint", (llama, *ids, "--model", llama)),
            (3, "has no tokenizer.json", (llama, "--prompt", "x")),
            (3, "does not exist", (os.path.join(folder, "nothing"), *ids)),
            (3, "no card", (llama, *ids, "--card", "nonsense"))):
        refused(code, says, "generate", *args)
    alien = copy_model("llama", os.path.join(folder, "alien"))
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(os.path.join(TINY, file), alien)
    refused(3, "this is not the model's tokenizer", "generate", alien, "--prompt", "x")
    untemplated = tiny_model(os.path.join(folder, "untemplated"))
    os.remove(os.path.join(untemplated, "tokenizer_config.json"))
    refused(3, "template", "generate", untemplated, "--prompt", "x", "--chat")
    refused(4, "python3-jinja2", "generate", tiny_model(os.path.join(folder, "m")), "--prompt", "x", "--chat",
            env={"AM_PYTHON": "/nowhere/python3"})
    ranks(2, "generate", llama, *ids, code=2, says="generate runs on one rank and was started on 2", once="] error:")


if __name__ == "__main__":
    main([check_greedy, check_chunks, check_decode_is_forward, check_guarded_and_bf16, check_ends_at_every_eos, check_sampling,
          check_text, check_chat, check_checkpoint, check_refusals])
