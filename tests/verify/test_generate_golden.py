#!/usr/bin/env python3
"""automodel generate over the golden models: the token it takes after a prompt is the most likely one of transformers' logits.

    test_generate_golden.py [NAME…]       models of tests/golden, else those of MODELS

Prompts are beginnings of the longest document of the reference.  A prompt goes in three tokens at a time, and of
every prompt a few tokens are generated after it, so that keys, values, indexed keys and states come from the cache: the
tokens after the first are compared with a run of the longer prompt in one piece.  Where the two largest logits of the
reference are closer than 1e-3 of the largest, either may be taken."""
import concurrent.futures, json, os, struct, subprocess, sys

SOURCE = os.environ["AM_SOURCE_DIR"]
PROGRAM = os.environ.get("AM_PROGRAM", os.path.join(os.environ["AM_BUILD_DIR"], "automodel"))
ENVIRONMENT = {**os.environ, "AM_CARDS": os.path.join(SOURCE, "configs/models")}
# every option of attention: windows, chunks, sinks, ALiBi, softcaps, latent and differential attention, lists of keys
MODELS = ["llama", "mistral", "gemma2", "bloom", "mpt", "falcon", "falcon_40b", "falcon_rw", "granite_swa", "ministral3",
          "smollm3", "diffllama", "minicpm3", "youtu", "gpt_oss", "llama4_text", "deepseek_v32", "glm_moe_dsa", "axk2", "minimax_m3"]
# recurrences: their states
MODELS += ["qwen3_5_text", "qwen3_next", "olmo_hybrid", "minimax", "recurrent_gemma", "rwkv"]
# experts
MODELS += ["mixtral", "qwen2_moe", "deepseek_v3", "longcat_flash", "granitemoe", "jetmoe"]
NEW = 4


def read(path, *names):
    with open(path, "rb") as f:
        header = json.loads(f.read(struct.unpack("<Q", f.read(8))[0]))
        start = f.tell()
        out = []
        for name in names:
            if name not in header:
                out.append(None)
                continue
            begin, end = header[name]["data_offsets"]
            f.seek(start + begin)
            kind = {"F32": "f", "I64": "q"}[header[name]["dtype"]]
            raw = f.read(end - begin)
            out.append((header[name]["shape"], struct.unpack(f"<{len(raw) // struct.calcsize(kind)}{kind}", raw)))
        return out


def generate(model, ids, chunk, new):
    done = subprocess.run([PROGRAM, "generate", model, "--prompt-ids", ",".join(map(str, ids)), "--max-tokens", str(new), "--chunk",
                           str(chunk), "--dtype", "float32", "--threads", "1", "--json"], capture_output=True, text=True,
                          env=ENVIRONMENT)
    if done.returncode:
        raise RuntimeError(f"{os.path.basename(model)}: {' '.join(done.stderr.split())[:500]}")
    return json.loads(done.stdout)["ids"]


def longest(shape, documents):
    """Where the longest document begins, and its length."""
    best = (0, 0)
    for begin in range(len(documents)):
        row_end = (begin // shape[1] + 1) * shape[1]
        end = begin
        while end < row_end and documents[end] == documents[begin]:
            end += 1
        best = max(best, (begin, end - begin), key=lambda x: x[1])
    return best


def check(model):
    name = os.path.basename(model)
    (shape, ids), (_, logits), documents = read(os.path.join(model, "reference.safetensors"), "input_ids", "logits", "document_ids")
    vocabulary = len(logits) // (shape[0] * shape[1])
    start, length = longest(shape, documents[1] if documents else [0] * len(ids))
    ids, logits = ids[start:start + length], logits[start * vocabulary:]
    compared = 0
    for n in sorted({1, 2, length // 3, length // 2, length - 1, length} - {0}):
        row = logits[(n - 1) * vocabulary:n * vocabulary]
        best, second = sorted(row, reverse=True)[:2]
        got = generate(model, ids[:n], 3, NEW)
        if best - second > 1e-3 * max(map(abs, row)):
            assert got[0] == row.index(best), f"{name}: after {n} tokens {got[0]} is generated, transformers' is {row.index(best)}"
            compared += 1
        for k in range(1, len(got)):
            whole = generate(model, [*ids[:n], *got[:k]], 512, 1)
            assert whole[:1] == got[k:k + 1], f"{name}: token {k} after {n} is {got[k]} from the cache, {whole[0]} without"
    assert compared > 1, f"{name}: no position decides"
    return f"ok   {name:22s} {compared} prompts of up to {length} tokens"


with concurrent.futures.ThreadPoolExecutor(2) as pool:  # two at a time, printed in order
    for line in pool.map(check, [os.path.join(SOURCE, "tests/golden", wanted) for wanted in sys.argv[1:] or MODELS]):
        print(line, flush=True)
