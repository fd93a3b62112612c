#!/usr/bin/env python3
"""`automodel inspect`: models, checkpoints and shards as JSON and as text; broken models and what is said about them."""
import hashlib
import json
import os
import pickle
import shutil

from cli_test import (GOLDEN, TINY, copy_model, main, make_checkpoint, read_safetensors, refused, run, tensors_of, tiny_model,
                      write_safetensors)


def look(*args):
    return json.loads(run("inspect", *args, "--json"))


def sha256(path):
    with open(path, "rb") as f:
        return hashlib.sha256(f.read()).hexdigest()


def check_model(folder):
    """Counts come from the files' own headers."""
    for name, family, kinds in (("llama", "llama", ["0-1"]), ("qwen2", "qwen2", ["0", "1-2"]), ("qwen3", "qwen3", ["0", "1"]),
                                ("mistral", "mistral", ["0-1"]), ("qwen3_tied_bias", "qwen3", ["0-1"])):
        model = os.path.join(GOLDEN, name)
        tensors = tensors_of(model)
        elements = sum(len(b) // (4 if d == "F32" else 2) for d, _, b in tensors.values())
        o = look(model)
        assert o["kind"] == "model" and o["family"] == family and o["card"].endswith(family + ".card")
        assert o["parameters"] == o["trainable"] == elements and o["tensors"] == len(tensors)
        assert o["bytes"] == sum(len(b) for _, _, b in tensors.values()) and o["files"] == 1
        assert [k["layers"] for k in o["kinds"]] == kinds, (name, o["kinds"])
        assert sum(k["count"] for k in o["kinds"]) == o["layers"]
        inside = sum(k["count"] * k["parameters"] for k in o["kinds"])
        outside = [t["name"] for t in o["outside"]]
        assert inside + sum(t["shape"][0] * (t["shape"] + [1])[1] for t in o["outside"]) == elements
        assert ("lm_head.weight" in outside) == ("lm_head.weight" in tensors)
        assert o["tokenizer"] is None and o["chat_template"] is None
    o = look(os.path.join(GOLDEN, "qwen2"))
    assert [k["attention"] for k in o["kinds"]] == [dict(heads=3, kv_heads=1, width=16, window=w) for w in (0, 8)]
    assert o["dtype"] == "BF16" and o["dtypes"] == {"BF16": o["tensors"]}
    assert [t["uses"] for t in o["outside"] if t["name"] == "model.embed_tokens.weight"] == [2]
    alone = look(os.path.join(GOLDEN, "qwen2", "config.json"))
    assert alone["parameters"] == o["parameters"] and alone["files"] == 0
    text = run("inspect", os.path.join(GOLDEN, "qwen2"))
    assert "layers 1-2 (2)" in text and "window of 8 tokens" in text and "52,800" in text


def check_kinds(folder):
    """Layers of one kind that do not stand together; a config.json alone is enough."""
    with open(os.path.join(GOLDEN, "qwen3", "config.json"), encoding="utf-8") as f:
        config = json.load(f)
    full, sliding = "full_attention", "sliding_attention"
    config.update(num_hidden_layers=7, layer_types=[full, full, sliding, sliding, full, full, sliding])
    with open(os.path.join(folder, "config.json"), "w", encoding="utf-8") as f:
        json.dump(config, f)
    o = look(os.path.join(folder, "config.json"))
    assert [(k["layers"], k["count"], k["attention"]["window"]) for k in o["kinds"]] == [("0-1,4-5", 4, 0), ("2-3,6", 3, 8)]


def check_identity(folder):
    model = tiny_model(os.path.join(folder, "m"))
    o = look(model)
    assert o["tokenizer"] == dict(sha256=sha256(os.path.join(model, "tokenizer.json")), vocab_size=298, fits=True)
    assert len(o["chat_template"]["sha256"]) == 64
    sample = o["chat_template"]["sample"]
    marked = "".join(p["text"] for p in sample["parts"] if p["supervised"])
    assert "Eight." in marked and "Six." in marked and "spider" not in marked
    assert "spider" in "".join(p["text"] for p in sample["parts"]) and 0 < sample["supervised"] < sample["tokens"]
    assert "[[" in run("inspect", model)
    with open(os.path.join(model, "tokenizer_config.json"), encoding="utf-8") as f:
        config = json.load(f)
    config["chat_template"] = "{% for m in messages %}"
    with open(os.path.join(model, "tokenizer_config.json"), "w", encoding="utf-8") as f:
        json.dump(config, f)
    assert "error" in look(model)["chat_template"]
    alien = copy_model("llama", os.path.join(folder, "alien"))
    shutil.copy(os.path.join(TINY, "tokenizer.json"), alien)
    o = look(alien)
    assert o["tokenizer"]["fits"] is False and "not the model's tokenizer" in o["tokenizer"]["error"]


def check_block_and_experts(folder):
    """A block's lines, and the parameters that one token uses, from the headers: of five experts two."""
    model = os.path.join(GOLDEN, "mixtral")
    with open(os.path.join(model, "config.json"), encoding="utf-8") as f:
        config = json.load(f)
    o = look(model)
    size = {name: len(data) // 2 for name, (_, _, data) in tensors_of(model).items()}
    experts = sum(n for name, n in size.items() if ".experts." in name)
    unused = experts * (config["num_local_experts"] - config["num_experts_per_tok"]) // config["num_local_experts"]
    assert o["parameters"] == sum(size.values()) and o["active"] == o["parameters"] - unused
    block = o["kinds"][0]["block"]
    assert sum("= grouped_linear(" in line for line in block) == 3 and sum("= attention(" in line for line in block) == 1
    assert "self_attn.q_proj.weight)" in block[1] and f"[N, H={config['num_attention_heads']}, d=" in block[1]
    text = run("inspect", model)
    assert "as it runs" in text and block[0] in text and "active for a token" in text
    assert "active" not in run("inspect", os.path.join(GOLDEN, "llama")).split("\n")[2]


def check_program_and_card(folder):
    model = os.path.join(GOLDEN, "qwen3")
    one = run("inspect", model, "--program", "--seq-len", 16)
    two = run("inspect", model, "--program", "--seq-len", 16, "--ranks", 2)
    assert "linear_ce" in one and "adamw" in one and "schedule: " in one and "all_gather" not in one
    assert "all_gather" in two and "0 messages" not in two
    assert run("inspect", model, "--program", "--seq-len", 16) == one  # compiling is pure
    card = run("inspect", model, "--card-text")
    assert card.startswith("family qwen3") and "def swiglu" in card  # taken over from llama
    path = os.path.join(folder, "own.card")
    with open(path, "w", encoding="utf-8") as f:
        f.write(card)
    assert look(model, "--card", path)["parameters"] == look(model)["parameters"]
    refused(2, "goes with --program", "inspect", model, "--ranks", 2)
    refused(2, "--rank is 0 to 1", "inspect", model, "--program", "--ranks", 2, "--rank", 2)
    refused(2, "give one of them", "inspect", model, "--program", "--json")


def check_checkpoint(folder):
    model = os.path.join(GOLDEN, "qwen2")
    step = make_checkpoint(model, os.path.join(folder, "run", "checkpoints"), 7, 1, np=2)
    o = look(os.path.join(folder, "run"))
    c = o["checkpoint"]
    assert o["kind"] == "checkpoint" and o["family"] == "qwen2" and o["parameters"] == 52800
    assert (c["step"], c["samples"], c["tokens"], c["seed"]) == (7, 12, 3456, "77")
    assert c["layout"] == dict(ranks=2, dp_shard=2, dp_replicate=1) and c["files"] == 2 and c["verified"] is False
    assert c["bytes"] == sum(os.path.getsize(os.path.join(step, f)) for f in os.listdir(step) if f.endswith(".safetensors"))
    # every tensor in three roles, and some cut between the two ranks
    assert c["pieces"] >= 3 * len(tensors_of(model))
    assert look(step, "--verify")["checkpoint"]["verified"] is True
    assert "hashes not compared" in run("inspect", step) and "intact" in run("inspect", step, "--verify")
    file = os.path.join(step, "rank-00001.safetensors")
    os.chmod(file, 0o644)
    with open(file, "r+b") as f:
        f.seek(-5, 2)
        f.write(b"\x55")
    look(step)  # the manifest alone is well
    refused(3, "rank-00001.safetensors", "inspect", step, "--verify")
    manifest = os.path.join(step, "manifest.json")
    os.chmod(manifest, 0o644)
    with open(manifest, encoding="utf-8") as f:
        text = f.read()
    with open(manifest, "w", encoding="utf-8") as f:
        f.write(text.replace('"tokens": 3456', '"tokens": 3457').replace('"tokens":3456', '"tokens":3457'))
    refused(3, "manifest.json", "inspect", step)


def check_shards(folder):
    model, shards = tiny_model(os.path.join(folder, "m")), os.path.join(folder, "shards")
    lines = os.path.join(folder, "t.jsonl")
    turns = [("user", "what is"), ("assistant", "the answer \u00e9\U0001f600"), ("user", "and"), ("assistant", "\x1b[31m it")]
    with open(lines, "w", encoding="utf-8") as f:
        f.write(json.dumps({"messages": [dict(role=r, content=c) for r, c in turns]}) + "\n")
        f.write(json.dumps({"text": "the question"}) + "\n")
        f.write(json.dumps({"prompt": "the user", "completion": " asks"}) + "\n")
    run("prepare", "--input", lines, "--tokenizer", model, "-o", shards)
    o = look(shards, "--samples", 9, "--tokenizer", model)
    assert o["kind"] == "shards" and o["sequences"] == 3 and len(o["shards"]) == 1 and o["sources"] == ["t.jsonl"]
    assert o["vocab_size"] == 298 and o["tokenizer_sha256"] == sha256(os.path.join(model, "tokenizer.json"))
    chat, text, pair = [[(p["supervised"], p["text"]) for p in s["parts"]] for s in o["samples"]]
    assert chat == [(False, "<|im_start|>user\nwhat is<|im_end|>\n<|im_start|>assistant\n"),
                    (True, "the answer \u00e9\U0001f600<|im_end|>\n"),
                    (False, "<|im_start|>user\nand<|im_end|>\n<|im_start|>assistant\n"), (True, "\x1b[31m it<|im_end|>\n")]
    assert text == [(False, "<s>"), (True, "the question</s>")]
    assert pair == [(False, "<s>the user"), (True, " asks</s>")]
    assert sum(s["tokens"] for s in o["samples"]) == o["tokens"]
    assert sum(s["supervised"] for s in o["samples"]) == o["supervised"]
    assert sum(len(p["ids"]) for s in look(shards, "--samples", 9)["samples"] for p in s["parts"]) == o["tokens"]
    said = run("inspect", shards, "--samples", 1, "--tokenizer", model)
    assert "[[the answer \u00e9\U0001f600<|im_end|>\n]]<|im_start|>user" in said
    assert "\x1b" not in said and "\\x1b[31m it" in said  # data do not speak to the terminal
    assert "[[" not in run("inspect", shards, "--samples", 0)
    other = tiny_model(os.path.join(folder, "other"))
    with open(os.path.join(other, "tokenizer.json"), "a", encoding="utf-8") as f:
        f.write("\n")
    refused(3, "another tokenizer", "inspect", shards, "--tokenizer", other)
    refused(2, "is for models and checkpoints", "inspect", shards, "--program")
    file = os.path.join(shards, "shard-00000-of-00001.h5")
    with open(file, "r+b") as f:
        f.truncate(os.path.getsize(file) // 2)
    refused(3, "shard-00000-of-00001.h5", "inspect", shards)


def check_broken_models(folder):
    def broken(name, change):
        model = copy_model("llama", os.path.join(folder, name))
        path = os.path.join(model, "model.safetensors")
        tensors = read_safetensors(path)
        change(tensors)
        write_safetensors(path, tensors)
        return model
    q = "model.layers.1.self_attn.q_proj.weight"

    def narrow(t):
        t[q] = (t[q][0], [t[q][1][0] // 2, t[q][1][1] * 2], t[q][2])
    for name, change, says in (("missing", lambda t: t.pop(q), q),
                               ("over", lambda t: t.update({"model.extra.weight": ("F32", [2], b"\0" * 8)}), "model.extra.weight"),
                               ("shape", narrow, q)):
        model = broken(name, change)
        for command in ("inspect", "export"):
            refused(3, says, command, model, *(["-o", os.path.join(folder, "out")] if command == "export" else []))
        refused(3, says, "generate", model, "--prompt-ids", "1")
    cut = copy_model("llama", os.path.join(folder, "cut"))
    path = os.path.join(cut, "model.safetensors")
    with open(path, "r+b") as f:
        f.truncate(os.path.getsize(path) - 1000)
    refused(3, "[safetensors/TRUNCATED]", "inspect", cut)
    pickled = copy_model("llama", os.path.join(folder, "pickled"))
    os.remove(os.path.join(pickled, "model.safetensors"))
    with open(os.path.join(pickled, "pytorch_model.bin"), "wb") as f:
        pickle.dump({"x": 1}, f)
    refused(3, "pytorch_model.bin", "generate", pickled, "--prompt-ids", "1")
    refused(3, "pytorch_model.bin", "export", pickled, "-o", os.path.join(folder, "out"))
    config = os.path.join(copy_model("llama", os.path.join(folder, "keys")), "config.json")
    with open(config, encoding="utf-8") as f:
        keys = json.load(f)
    for change, says in (({"logit_scale": 2.0}, "logit_scale"), ({"model_type": "nonsense"}, "nonsense")):
        with open(config, "w", encoding="utf-8") as f:
            json.dump({**keys, **change}, f)
        refused(3, says, "inspect", os.path.dirname(config))
    with open(config, "w", encoding="utf-8") as f:
        f.write('{"model_type": "llama",')
    refused(3, "config.json:1:", "inspect", os.path.dirname(config))


def check_refusals(folder):
    model = os.path.join(GOLDEN, "llama")
    refused(2, "usage: automodel inspect", "inspect")
    refused(2, "one argument too many", "inspect", model, model)
    refused(2, "did you mean --samples?", "inspect", model, "--sample", 3)
    refused(2, "is for token shards", "inspect", model, "--samples", 3)
    refused(2, "is for checkpoints", "inspect", model, "--verify")
    refused(3, "does not exist", "inspect", os.path.join(folder, "nothing"))
    refused(3, "config.json", "inspect", folder)
    refused(3, "none.h5", "inspect", os.path.join(folder, "none.h5"))


if __name__ == "__main__":
    main([check_model, check_kinds, check_identity, check_block_and_experts, check_program_and_card, check_checkpoint, check_shards, check_broken_models, check_refusals])
