#!/usr/bin/env python3
"""A model type that no card names: the refusal, `inspect --match` (tensors, keys, loss of a text) and `inspect --new-card`."""
import json
import math
import os

from cli_test import copy_model, main, read_safetensors, refused, run, tensors_of, tiny_model, write_safetensors


def edit_config(model, **changes):
    path = os.path.join(model, "config.json")
    with open(path, encoding="utf-8") as f:
        config = json.load(f)
    config.update(changes)
    with open(path, "w", encoding="utf-8") as f:
        json.dump({k: v for k, v in config.items() if v is not None}, f)


def match(model, *args):
    o = json.loads(run("inspect", model, "--match", "--json", *args))
    return o, {c["card"]: c for c in o["cards"]}


def check_renamed(folder):
    """Names and shapes fit several cards; the keys they do not read tell them apart."""
    model = copy_model("llama", os.path.join(folder, "m"))
    edit_config(model, model_type="newllm")
    refused(3, ['no card describes model type "newllm"', "inspect MODEL --match"], "inspect", model)
    o, cards = match(model)
    assert o["model_type"] == "newllm" and o["cards"][0]["card"] == "llama"
    assert cards["llama"]["tensors_fit"] and cards["llama"]["unread"] == [] and "loss" not in cards["llama"]
    assert cards["mistral"]["tensors_fit"] and "attention_bias = false" in cards["mistral"]["unread"]
    assert not cards["qwen3"]["tensors_fit"]
    assert cards["qwen3"]["missing_names"] == ["model.layers.{i}.self_attn.k_norm.weight", "model.layers.{i}.self_attn.q_norm.weight"]
    assert cards["qwen3"]["extra"] == 0 and cards["qwen3"]["missing"] == 4
    assert run("inspect", model, "--card", "llama", "--json")
    assert "every tensor, names and shapes" in run("inspect", model, "--match")


def check_changed_key(folder):
    """One key that the card does not read: refused by name, told by --match, marked in the draft."""
    model = copy_model("llama", os.path.join(folder, "m"))
    edit_config(model, logits_divisor=3)
    refused(3, ["logits_divisor = 3", "model.ignore_config_keys: [logits_divisor]"], "inspect", model)
    edit_config(model, model_type="newllm")
    _, cards = match(model)
    assert cards["llama"]["unread"] == ["logits_divisor = 3"]
    draft = run("inspect", model, "--new-card")
    assert "\nfamily newllm\nlike llama\n" in draft and "\n  ??? logits_divisor = 3\n" in draft
    path = os.path.join(folder, "newllm.card")
    with open(path, "w", encoding="utf-8") as f:
        f.write(draft)
    refused(3, "newllm.card:7:3: ", "inspect", model, "--card", path)  # as long as it holds ???
    with open(path, "w", encoding="utf-8") as f:
        f.write(draft.replace("??? logits_divisor = 3", "ignore logits_divisor"))
    assert json.loads(run("inspect", model, "--card", path, "--json"))["family"] == "newllm"


def check_dropout(folder):
    """A dropout that is not 0 stands in many published files: nothing to a look, refused where it would be left out of training."""
    model = copy_model("llama", os.path.join(folder, "m"))
    edit_config(model, attention_dropout=0.1)
    assert json.loads(run("inspect", model, "--json"))["family"] == "llama"
    _, cards = match(model)
    assert cards["llama"]["tensors_fit"] and cards["llama"]["unread"] == []
    recipe = os.path.join(folder, "r.yaml")
    with open(recipe, "w", encoding="utf-8") as f:
        f.write(f"run: {{dir: {folder}/run}}\nmodel: {{pretrained_model_name_or_path: {model}}}\n"
                f"step_scheduler: {{global_batch_size: 1, local_batch_size: 1, max_steps: 1}}\n"
                f"dataset: {{_target_: automodel.ShardDataset, data_dir: {folder}/none, seq_length: 8}}\n"
                "optimizer: {_target_: torch.optim.AdamW, lr: 1.0e-5}\n")
    refused(3, ["attention_dropout = 0.1", "model.ignore_config_keys: [attention_dropout]"], "bench", "step", recipe)


def check_other_tensors(folder):
    model = copy_model("llama", os.path.join(folder, "m"))
    edit_config(model, model_type="newllm")
    path = os.path.join(model, "model.safetensors")
    tensors = read_safetensors(path)
    tensors["model.layers.0.mlp.router.weight"] = ("F32", [2], bytes(8))
    tensors["model.layers.1.mlp.router.weight"] = ("F32", [2], bytes(8))
    del tensors["model.norm.weight"]
    write_safetensors(path, tensors)
    o, cards = match(model)
    llama = cards["llama"]
    assert not llama["tensors_fit"] and llama["extra"] == 2 and llama["missing"] == 1
    assert llama["extra_names"] == ["model.layers.{i}.mlp.router.weight"] and llama["missing_names"] == ["model.norm.weight"]
    assert llama["named"] == len(tensors_of(model)) - 2 and "no card names every tensor" in o["verdict"]
    draft = run("inspect", model, "--new-card")
    assert "??? tensor model.layers.{i}.mlp.router.weight" in draft and "??? no tensor model.norm.weight" in draft


def check_loss(folder):
    """With a tokenizer every card that fits is run: a random model's loss is near ln V, and cards that compute the same agree."""
    model = tiny_model(os.path.join(folder, "m"))
    edit_config(model, model_type="newllm")
    text = os.path.join(folder, "text")
    with open(text, "w", encoding="utf-8") as f:
        f.write("one two three four " * 200)
    for more in ([], ["--text", text]):
        _, cards = match(model, *more)
        assert math.isclose(cards["llama"]["loss"], math.log(300), rel_tol=0.1), cards["llama"]
        assert cards["mistral"]["loss"] == cards["llama"]["loss"] != cards["granite"]["loss"]
        losses = [c["loss"] for c in cards.values() if "loss" in c]
        assert losses == sorted(losses) and len(losses) == sum(c["tensors_fit"] for c in cards.values())
    refused(2, "--text goes with --match", "inspect", model, "--card", "llama", "--text", text)
    refused(2, "--new-card prints a card", "inspect", model, "--new-card", "--json")


main([check_renamed, check_changed_key, check_dropout, check_other_tensors, check_loss])
