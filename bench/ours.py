"""Our side of bench/run.sh, and the rows that both sides train on.  Standard library only; work_folder first.

A row is T token ids drawn evenly from the model's vocabulary.  So that `automodel prepare` writes exactly
these ids, the work folder gets a tokenizer in which every id is a word of its own, beside hard links or
copies of the model's files."""
import json, os, random, shutil, subprocess, sys

import shapes

RECIPE = """recipe: TrainFinetuneRecipeForNextTokenPrediction
run: {{dir: "{run_dir}", threads: {threads}}}
step_scheduler: {{global_batch_size: 1, local_batch_size: 1, max_steps: {steps}}}
model: {model}
distributed: {{recompute: {recompute}}}
dataset: {{_target_: automodel.ShardDataset, data_dir: "{shards}", seq_length: {seq}, truncation: true}}
dataloader: {{shuffle: false}}
optimizer: {{_target_: torch.optim.AdamW, lr: 1.0e-5, betas: [0.9, 0.999], weight_decay: 0.01}}
clip_grad_norm: {{max_norm: {max_norm}}}
checkpoint: {{enabled: false}}
"""


def write_json(path, value):
    with open(path, "w", encoding="utf-8") as f:
        json.dump(value, f)


def link_or_copy(source, target):
    if not os.path.isfile(source):
        return
    try:
        os.link(source, target)  # automodel follows no symbolic links out of a model folder
    except OSError:
        shutil.copyfile(source, target)


def write_tokenizer(folder, vocab, tiny):
    """The tests' tokenizer plus the words <t298>, <t299> … up to the vocabulary.  @return the first one"""
    with open(os.path.join(tiny, "tokenizer.json"), encoding="utf-8") as f:
        tokenizer = json.load(f)
    shutil.copy(os.path.join(tiny, "tokenizer_config.json"), folder)
    first = 1 + max([a["id"] for a in tokenizer["added_tokens"]] + list(tokenizer["model"]["vocab"].values()))
    plain = dict(single_word=False, lstrip=False, rstrip=False, normalized=False, special=False)
    tokenizer["added_tokens"] += [dict(id=i, content=f"<t{i}>", **plain) for i in range(first, vocab)]
    write_json(os.path.join(folder, "tokenizer.json"), tokenizer)
    return first


def work_folder(folder, program, model, shape, seq, rows, tiny):
    """folder/model (config, tokenizer; weights where the model has them), folder/shards, folder/rows.json.
    @return config.json's content"""
    target, config = os.path.join(folder, "model"), shapes.read_config(model, shape)
    os.makedirs(target)
    if shape:
        write_json(os.path.join(target, "config.json"), config)
    else:
        for name in os.listdir(model):
            if "token" not in name and not name.startswith("chat_template"):
                link_or_copy(os.path.realpath(os.path.join(model, name)), os.path.join(target, name))
    first = write_tokenizer(target, config["vocab_size"], tiny)
    rng, ids = random.Random(1), []
    with open(os.path.join(folder, "rows.jsonl"), "w", encoding="utf-8") as f:
        for _ in range(rows):
            drawn = [rng.randrange(first, config["vocab_size"]) for _ in range(seq - 1)]
            ids.append([0] + drawn)  # the tokenizer begins a text with <s>, its id 0
            f.write(json.dumps({"text": "".join(f"<t{i}>" for i in drawn)}) + "\n")
    write_json(os.path.join(folder, "rows.json"), ids)
    done = subprocess.run([program, "prepare", "--input", os.path.join(folder, "rows.jsonl"),
                           "--tokenizer", target, "--output", os.path.join(folder, "shards")],
                          capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"bench: automodel prepare: {done.stderr}")
    return config


def command(folder, program, run_dir, o, has_weights, max_norm):
    """The command of one run; its recipe lies beside run_dir.  max_norm: of clipping, 0: none."""
    model = os.path.join(folder, "model")
    kind = f'pretrained_model_name_or_path: "{model}"' if has_weights else \
        f'_target_: nemo_automodel.NeMoAutoModelForCausalLM.from_config, config: "{model}/config.json"'
    dtype = {"bf16": "bf16", "fp32": "float32"}[o.dtype]
    with open(run_dir + ".yaml", "w", encoding="utf-8") as f:
        f.write(RECIPE.format(run_dir=run_dir, threads=o.threads, steps=o.steps, seq=o.seq,
                              model="{%s, torch_dtype: %s}" % (kind, dtype),
                              recompute="full" if o.recompute else "selective",
                              max_norm=max_norm, shards=os.path.join(folder, "shards")))
    return [program, "train", run_dir + ".yaml"]


def figures(run_dir, seq):
    """[seconds of each step], [loss of each step], as training.jsonl tells them"""
    with open(os.path.join(run_dir, "training.jsonl"), encoding="utf-8") as f:
        lines = [json.loads(line) for line in f]
    for x in lines:
        if x["num_tokens_per_step"] != seq or x["num_label_tokens"] != seq - 1:
            sys.exit(f"bench: a step of {x['num_tokens_per_step']} tokens, {x['num_label_tokens']} with a "
                     f"label, where the peer has {seq} and {seq - 1}")
    return [x["num_tokens_per_step"] / x["tps"] for x in lines], [x["loss"] for x in lines]
