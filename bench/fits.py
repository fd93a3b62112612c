"""What both sides must hold, and what a peer will need at least.  Standard library only.

Training P parameters with AdamW in fp32 holds 16 bytes of each: weights, gradients, two states.  A peer's
further needs are estimated from below, so that a run that cannot end well is not begun: a process that the
kernel kills for memory has taken its neighbours' first."""
import llmc_files, shapes

GIB = 2**30
LIBRARIES = 0.5 * GIB  # of a process that has imported torch and transformers


def states_bytes(count):
    """weights, gradients and AdamW's states in fp32"""
    return 16 * count


def torch_bytes(config, count, way, seq, recompute):
    """The least that PyTorch's process will take: states (and the bf16 weights beside them), three tensors of
    logits in fp32, what layers save for backward, libraries.  On SmolLM2-135M it took 3.4 GiB at 512 tokens
    and 6.1 at 2048, where this says 3.4 and 5.2."""
    x, real = shapes.dims(config), 4 if way == "fp32" else 2
    saved = x["hidden"] if recompute else 10 * x["hidden"] + 4 * x["ffn"]
    weights = 2 * count if way == "master" else 0
    logits = 3 * 4 * seq * x["vocab"]
    return states_bytes(count) + weights + logits + seq * x["layers"] * saved * real + LIBRARIES


def llmc_bytes(config, count, seq):
    """What llm.c touches of what it allocates: states, every activation (fill_in_activation_sizes in
    train_gpt2.c) and its gradient, but of attention's scores no more than what lies below the diagonal."""
    x = shapes.dims(config)
    plain = 18 * x["layers"] * x["hidden"] + 2 * x["hidden"] + 2 * llmc_files.padded_vocab(config)
    square = x["layers"] * x["heads"] * seq * seq
    return states_bytes(count) + 4 * int(2 * seq * plain + 3.5 * square)


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
