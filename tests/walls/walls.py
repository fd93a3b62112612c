"""walls.py: what the scripts of this folder share: token shards, a model from a config, a recipe, one run of
`automodel train`.  The program is AM_PROGRAM, or the script's first argument."""
import atexit
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
SOURCE = os.environ.get("AM_SOURCE_DIR", os.path.join(HERE, "..", ".."))
PROGRAM = os.environ.get("AM_PROGRAM") or (sys.argv[1] if len(sys.argv) > 1 else "")
MPIRUN = os.environ.get("AM_MPIRUN", "mpirun")


def skip(why):
    print("skipped:", why)
    sys.exit(77)


def folder():
    """A scratch folder that goes with the process."""
    path = tempfile.mkdtemp(prefix="am_walls_")
    atexit.register(shutil.rmtree, path, True)
    return path


def environment(**more):
    env = {**os.environ, "AM_CARDS": os.path.join(SOURCE, "configs", "models"), "OMPI_ALLOW_RUN_AS_ROOT": "1",
           "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1", "LC_ALL": "C"}
    env.update({k: str(v) for k, v in more.items()})
    return env


def make_shards(out, samples=64, words=80):
    """Token shards of random words, made by the program itself."""
    rng, vocabulary = random.Random(1), "what is the answer to question user asks and assistant".split()
    text = os.path.join(out, "text.jsonl")
    with open(text, "w", encoding="utf-8") as f:
        for _ in range(samples):
            f.write(json.dumps({"text": " ".join(rng.choice(vocabulary) for _ in range(words))}) + "\n")
    tokenizer = os.path.join(SOURCE, "tests", "data", "files", "tiny")
    shards = os.path.join(out, "shards")
    subprocess.run([PROGRAM, "prepare", "--input", text, "--tokenizer", tokenizer, "-o", shards],
                   env=environment(), check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return shards


def make_config(out, D=64, heads=4, kv=2, F=128, layers=2, vocab=320):
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": D,
              "intermediate_size": F, "num_hidden_layers": layers, "num_attention_heads": heads,
              "num_key_value_heads": kv, "head_dim": D // heads, "vocab_size": vocab,
              "max_position_embeddings": 4096, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
              "hidden_act": "silu", "attention_bias": False, "mlp_bias": False, "tie_word_embeddings": False,
              "bos_token_id": 0, "eos_token_id": 1, "torch_dtype": "float32"}
    path = os.path.join(out, "config.json")
    with open(path, "w", encoding="utf-8") as f:
        json.dump(config, f)
    return path


def write_recipe(out, name, config, shards, dtype="float32", steps=3, batch=2, length=64, extra=""):
    """A recipe whose run directory is OUT/NAME.  Returns (recipe, run directory)."""
    run, path = os.path.join(out, name), os.path.join(out, name + ".yaml")
    with open(path, "w", encoding="utf-8") as f:
        f.write(f"""recipe: TrainFinetuneRecipeForNextTokenPrediction
run: {{dir: {run}}}
step_scheduler: {{global_batch_size: {batch}, local_batch_size: 1, max_steps: {steps}}}
rng: {{seed: 7}}
model:
  _target_: nemo_automodel.NeMoAutoModelForCausalLM.from_config
  config: {config}
  torch_dtype: {dtype}
dataset: {{_target_: automodel.ShardDataset, data_dir: {shards}}}
packed_sequence: {{packed_sequence_size: {length}, split_across_pack: true}}
optimizer: {{_target_: torch.optim.AdamW, lr: 1.0e-3}}
clip_grad_norm: {{max_norm: 1.0}}
checkpoint: {{enabled: false}}
{extra}""")
    return path, run


def command(recipe, ranks, *options):
    train = [PROGRAM, "train", recipe, *options]
    return train if ranks == 1 else [MPIRUN, "--oversubscribe", "-np", str(ranks), *train]


def train(recipe, ranks=1, options=(), **env):
    """Run to the end; a failure shows what the program said."""
    done = subprocess.run(command(recipe, ranks, *options), env=environment(**env), stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, check=False)
    assert done.returncode == 0, f"exit {done.returncode} of {recipe} on {ranks} ranks:\n{done.stdout}"
    return done.stdout


def metrics(run):
    with open(os.path.join(run, "training.jsonl"), encoding="utf-8") as f:
        return [json.loads(line) for line in f]


def plan(run):
    with open(os.path.join(run, "run.json"), encoding="utf-8") as f:
        return json.load(f)["plan"]
