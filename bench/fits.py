"""What both sides must hold, and what the peer will need at least.  Standard library only.

Training P parameters with AdamW in fp32 holds 16 bytes of each: weights, gradients, two states.  The peer's
further needs are estimated from below (on SmolLM2-135M it took 3.4 GiB at 512 tokens and 6.1 at 2048, where
this says 3.4 and 5.2), so that a run that cannot end well is not begun: a process that the kernel kills for
memory has taken its neighbours' first."""
import json, os, struct

GIB = 2**30
LIBRARIES = 0.5 * GIB  # of a process that has imported torch and transformers


def tensor_shapes(folder):
    """{name: shape} of the *.safetensors of a folder; empty where there are none"""
    shapes = {}
    for name in sorted(os.listdir(folder)):
        if name.endswith(".safetensors"):
            with open(os.path.join(folder, name), "rb") as f:
                header = json.loads(f.read(struct.unpack("<Q", f.read(8))[0]))
            shapes.update({k: v["shape"] for k, v in header.items() if k != "__metadata__"})
    return shapes


def elements(shape):
    n = 1
    for s in shape:
        n *= s
    return n


def parameters(folder, config):
    """Trained elements, a tied head counted once: from the headers of the weights, else from config.json."""
    shapes, tied = tensor_shapes(folder), config.get("tie_word_embeddings")
    if shapes:
        return sum(elements(s) for name, s in shapes.items() if not (tied and name == "lm_head.weight"))
    h, d, kv = config["hidden_size"], config["head_dim"], config["num_key_value_heads"]
    layer = 2 * h * d * (config["num_attention_heads"] + kv) + 3 * h * config["intermediate_size"] + 2 * h
    return config["num_hidden_layers"] * layer + h + (1 if tied else 2) * config["vocab_size"] * h


def states_bytes(count):
    """weights, gradients and AdamW's states in fp32"""
    return 16 * count


def peer_bytes(config, count, way, seq, recompute):
    """The least that the peer's process will take: states (and the bf16 weights beside them), three tensors of
    logits in fp32, what layers save for backward, libraries."""
    h, ffn, layers = config["hidden_size"], config["intermediate_size"], config["num_hidden_layers"]
    real = 4 if way == "fp32" else 2
    saved = seq * layers * h * real if recompute else seq * layers * (10 * h + 4 * ffn) * real
    weights = 2 * count if way == "master" else 0
    return states_bytes(count) + weights + 3 * 4 * seq * config["vocab_size"] + saved + LIBRARIES


def available():
    """bytes that may still be taken: the machine's, or less where a cgroup says so"""
    with open("/proc/meminfo", encoding="utf-8") as f:
        free = next(int(line.split()[1]) * 1024 for line in f if line.startswith("MemAvailable:"))
    try:
        with open("/sys/fs/cgroup/memory.max", encoding="utf-8") as f:
            limit = f.read().strip()
        with open("/sys/fs/cgroup/memory.current", encoding="utf-8") as f:
            used = int(f.read())
        return free if limit == "max" else min(free, int(limit) - used)
    except (OSError, ValueError):
        return free
