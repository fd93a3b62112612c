#!/usr/bin/env python3
"""`automodel prepare`: the same samples from any number of ranks; recipes; what is refused, told once."""
import gzip
import json
import os

from cli_test import (GOLDEN, copy_model, main, ranks, refused, run, start, tiny_model, AUTOMODEL, MPIEXEC)


def write_lines(path, lines, opener=open):
    with opener(path, "wt", encoding="utf-8") as f:
        f.writelines(json.dumps(line) + "\n" for line in lines)
    return path


def chats(n):
    return [{"messages": [dict(role="user", content="what is " + "the " * (i % 7) + str(i)),
                          dict(role="assistant", content=f"the answer {i * i}")]} for i in range(n)]


def samples(shards, model):
    o = json.loads(run("inspect", shards, "--json", "--samples", 1000, "--tokenizer", model))
    return [[(p["supervised"], p["text"]) for p in s["parts"]] for s in o["samples"]]


def check_ranks(folder):
    model = tiny_model(os.path.join(folder, "m"))
    lines = [write_lines(os.path.join(folder, "a.jsonl"), chats(23)), write_lines(os.path.join(folder, "b.jsonl.gz"), chats(3), gzip.open)]
    seen = {}
    for n in (1, 2, 3):
        out = os.path.join(folder, f"out{n}")
        said = ranks(n, "prepare", "--input", *lines, "--tokenizer", model, "-o", out)
        assert said.count("26 samples") == 1, said  # the sum, told once
        assert len(os.listdir(out)) == n
        seen[n] = samples(out, model)
    assert seen[1] == seen[2] == seen[3] and len(seen[1]) == 26
    assert seen[1][4] == [(False, "<|im_start|>user\nwhat is the the the the 4<|im_end|>\n<|im_start|>assistant\n"),
                          (True, "the answer 16<|im_end|>\n")]


def check_options(folder):
    model, out = tiny_model(os.path.join(folder, "m")), lambda n: os.path.join(folder, n)
    columns = write_lines(out("c.jsonl"), [{"q": "the user", "a": " asks", "ctx": "and"}])
    keys = ("--prompt-key", "q", "--completion-key", "a", "--context-key", "ctx")
    run("prepare", "--input", columns, "--tokenizer", model, "-o", out("plain"), *keys)
    assert samples(out("plain"), model) == [[(False, "<s>and the user"), (True, " asks</s>")]]
    run("prepare", "--input", columns, "--tokenizer", model, "-o", out("all"), *keys, "--supervise-all", "--deflate", 4)
    assert samples(out("all"), model) == [[(True, "<s>and the user asks</s>")]]
    run("prepare", "--input", columns, "--tokenizer", model, "-o", out("chat"), "--prompt-key", "q", "--completion-key", "a",
        "--as-chat", "--system-prompt", "the")
    assert samples(out("chat"), model)[0][0] == (False, "<|im_start|>system\nthe<|im_end|>\n<|im_start|>user\nthe user<|im_end|>\n"
                                                        "<|im_start|>assistant\n")
    turns = [{"messages": [dict(role=r, content=c) for r, c in (("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d"))]}]
    run("prepare", "--input", write_lines(out("t.jsonl"), turns), "--tokenizer", model, "-o", out("turns"), "--one-sample-per-turn")
    assert [s[-1][1] for s in samples(out("turns"), model)] == ["b<|im_end|>\n", "d<|im_end|>\n"]


RECIPE = """
model:
  pretrained_model_name_or_path: {model}
run:
  dir: {folder}/run
dataset:
  _target_: nemo_automodel.components.datasets.llm.chat_dataset.ChatDataset
  path_or_dataset_id: {folder}/part*.jsonl
validation_dataset:
  _target_: nemo_automodel.components.datasets.llm.column_mapped_text_instruction_dataset.ColumnMappedTextInstructionDataset
  path_or_dataset_id: {folder}/held.jsonl
  column_mapping: {{question: q, answer: a}}
  answer_only_loss_mask: {only}
validation_dataset_ready:
  _target_: automodel.ShardDataset
  data_dir: {folder}/somewhere
"""


def write_recipe(folder, model, only="true", more=""):
    path = os.path.join(folder, "recipe.yaml")
    with open(path, "w", encoding="utf-8") as f:
        f.write(RECIPE.format(model=model, folder=folder, only=only) + more)
    return path


def check_recipe(folder):
    model = tiny_model(os.path.join(folder, "m"))
    write_lines(os.path.join(folder, "part1.jsonl"), chats(5))
    write_lines(os.path.join(folder, "part2.jsonl"), chats(2))
    write_lines(os.path.join(folder, "held.jsonl"), [{"q": "the", "a": " answer"}])
    said = ranks(2, "prepare", write_recipe(folder, model, "false"))
    data = os.path.join(folder, "run", "data")
    assert "7 samples" in said and "1 samples" in said and sorted(os.listdir(data)) == ["dataset", "validation_dataset"]
    assert len(samples(os.path.join(data, "dataset"), model)) == 7
    assert samples(os.path.join(data, "validation_dataset"), model) == [[(True, "<s>the answer</s>")]]
    other = os.path.join(folder, "other")
    run("prepare", write_recipe(folder, model), "--run.dir=" + other)
    assert samples(os.path.join(other, "data", "validation_dataset"), model) == [[(False, "<s>the"), (True, " answer</s>")]]


def check_recipe_refusals(folder):
    model = tiny_model(os.path.join(folder, "m"))
    recipe = write_recipe(folder, model)
    refused(3, "there is no file " + folder + "/part*.jsonl", "prepare", recipe)
    write_lines(os.path.join(folder, "part1.jsonl"), chats(5))
    write_lines(os.path.join(folder, "held.jsonl"), [{"q": "the", "a": " answer"}])
    refused(2, "--input goes", "prepare", recipe, "--output", "x", "--input", "y")
    refused(2, "--deflate goes with --input", "prepare", recipe, "--deflate", 3)
    refused(3, "is a folder", "prepare", recipe, "--dataset.path_or_dataset_id=" + model)
    refused(2, "did you mean", "prepare", recipe, "--dataset.sytem_prompt=x")
    alien = tiny_model(os.path.join(folder, "alien"))
    with open(os.path.join(alien, "tokenizer.json"), "a", encoding="utf-8") as f:
        f.write("\n")
    refused(2, "another tokenizer than the model's", "prepare", recipe, "--dataset.tokenizer.pretrained_model_name_or_path=" + alien)
    small = copy_model("llama", os.path.join(folder, "small"))
    for file in ("tokenizer.json", "tokenizer_config.json"):
        with open(os.path.join(model, file), "rb") as f, open(os.path.join(small, file), "wb") as g:
            g.write(f.read())
    refused(3, "this is not the model's tokenizer", "prepare", recipe, "--model.pretrained_model_name_or_path=" + small)


def check_refusals(folder):
    model, out = tiny_model(os.path.join(folder, "m")), os.path.join(folder, "out")
    good = write_lines(os.path.join(folder, "good.jsonl"), chats(4))
    to = ("--tokenizer", model, "-o", out)
    refused(2, "a recipe, or --input FILE", "prepare")
    refused(2, "--tokenizer DIR", "prepare", "--input", good, "-o", out)
    refused(2, "-o DIR", "prepare", "--input", good, "--tokenizer", model)
    refused(2, "did you mean --tokenizer?", "prepare", "--input", good, "--tokeniser", model, "-o", out)
    refused(2, "--deflate is 0 to 9", "prepare", "--input", good, *to, "--deflate", 11)
    refused(3, "nothing.jsonl", "prepare", "--input", os.path.join(folder, "nothing.jsonl"), *to)
    refused(3, "no tokenizer.json", "prepare", "--input", good, "--tokenizer", os.path.join(GOLDEN, "llama"), "-o", out)
    empty = write_lines(os.path.join(folder, "empty.jsonl"), [])
    refused(3, "the data are empty", "prepare", "--input", empty, *to)
    silent = write_lines(os.path.join(folder, "silent.jsonl"), [{"messages": [dict(role="user", content="x")]}])
    refused(3, "nothing would be learnt", "prepare", "--input", silent, "--tokenizer", model, "-o", os.path.join(folder, "o2"))
    bad = os.path.join(folder, "bad.jsonl")
    with open(good, encoding="utf-8") as f, open(bad, "w", encoding="utf-8") as g:
        g.write(f.read() + '{"messages": [\n')
    refused(3, "bad.jsonl:5", "prepare", "--input", bad, "--tokenizer", model, "-o", os.path.join(folder, "o3"))
    refused(3, "good.jsonl:1: the sample has 21 tokens", "prepare", "--input", good, "--tokenizer", model, "-o", os.path.join(folder, "o4"), "--max-length", 5)
    refused(4, "python3-jinja2", "prepare", "--input", good, *to, env={"AM_PYTHON": "/nowhere/python3"})
    run("prepare", "--input", good, "--tokenizer", model, "-o", os.path.join(folder, "o5"))
    ranks(2, "prepare", "--input", good, "--tokenizer", model, "-o", os.path.join(folder, "o5"), code=3, says="another preparation")


def check_told_once(folder):
    """All ranks see the same mistake, before MPI; or one sees it, while working."""
    model = tiny_model(os.path.join(folder, "m"))
    bad = os.path.join(folder, "bad.jsonl")
    write_lines(bad, chats(20))
    with open(bad, "a", encoding="utf-8") as f:
        f.write("[]\n")
    for source, says, code in ((os.path.join(folder, "nothing.jsonl"), "nothing.jsonl", 3), (bad, "bad.jsonl:21", 3)):
        command = [MPIEXEC, "--oversubscribe", "-np", 3, AUTOMODEL, "prepare", "--input", source, "--tokenizer", model, "-o",
                   os.path.join(folder, "out")]
        start(command, code=code, says=says, once="] error:")
    ranks(3, "prepare", "--inptu", bad, code=2, says="did you mean --input?", once="] error:")


if __name__ == "__main__":
    main([check_ranks, check_options, check_recipe, check_recipe_refusals, check_refusals, check_told_once])
