"""What the scripts of this folder share: running the program, models made on the spot, safetensors in a few lines.
Every script: test_cli_X.py AUTOMODEL MAKE_CHECKPOINT MPIEXEC, run in the root of the source tree."""
import json
import os
import random
import shutil
import struct
import subprocess
import sys
import tempfile

AUTOMODEL, MAKE_CHECKPOINT, MPIEXEC = sys.argv[1:4]
ROOT = os.environ.get("AM_SOURCE_DIR", os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
GOLDEN = os.path.join(ROOT, "tests", "golden")
TINY = os.path.join(ROOT, "tests", "data", "files", "tiny")
ENV = {**os.environ, "AM_CARDS": os.path.join(ROOT, "configs", "models"), "OMPI_ALLOW_RUN_AS_ROOT": "1",
       "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}


def start(command, code=0, env=None, says=(), once=None):
    """Run; the exit code and each text of `says` (in stderr) must be as expected, `once` must occur once.  Returns stdout."""
    done = subprocess.run([str(x) for x in command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**ENV, **(env or {})},
                          check=False)
    said = done.stderr.decode(errors="replace")
    assert done.returncode == code, (command, done.returncode, said[-2000:])
    for text in [says] if isinstance(says, str) else says:
        assert text in said, (command, text, said[-2000:])
    assert once is None or said.count(once) == 1, (command, said)
    return done.stdout.decode()


def run(*args, **more):
    return start([AUTOMODEL, *args], **more)


def ranks(n, *args, **more):
    return start([MPIEXEC, "--oversubscribe", "-np", n, AUTOMODEL, *args], **more)


def refused(code, says, *args, **more):
    """One sentence, nothing on stdout."""
    out = run(*args, code=code, says=says, **more)
    assert out == "", (args, out)


def make_checkpoint(model, folder, step, factor, np=1):
    start([MPIEXEC, "--oversubscribe", "-np", np, MAKE_CHECKPOINT, model, folder, step, factor])
    return os.path.join(folder, f"step_{step:08d}")


def read_safetensors(path):
    """{name: (dtype, shape, bytes)}"""
    with open(path, "rb") as f:
        data = f.read()
    n = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8:8 + n])
    header.pop("__metadata__", None)
    return {k: (v["dtype"], v["shape"], data[8 + n + v["data_offsets"][0]:8 + n + v["data_offsets"][1]]) for k, v in header.items()}


def write_safetensors(path, tensors):
    header, at = {"__metadata__": {"format": "pt"}}, 0
    for name, (dtype, shape, data) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + len(data)]}
        at += len(data)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text)
        for _, _, data in tensors.values():
            f.write(data)


def tensors_of(folder):
    found = {}
    for name in sorted(os.listdir(folder)):
        if name.endswith(".safetensors") and name != "reference.safetensors":
            found.update(read_safetensors(os.path.join(folder, name)))
    return found


def copy_model(name, to):
    shutil.copytree(os.path.join(GOLDEN, name), to, ignore=shutil.ignore_patterns("reference.safetensors"))
    for file in os.listdir(to):
        os.chmod(os.path.join(to, file), 0o644)
    return to


def tiny_model(folder, layers=1):
    """A random llama whose vocabulary is that of the tiny tokenizer, which lies beside it."""
    vocab, d, ffn = 300, 16, 32
    os.makedirs(folder)
    config = dict(model_type="llama", hidden_size=d, intermediate_size=ffn, num_hidden_layers=layers, num_attention_heads=2,
                  num_key_value_heads=1, vocab_size=vocab, max_position_embeddings=512, rms_norm_eps=1e-5, rope_theta=10000.0,
                  hidden_act="silu", tie_word_embeddings=False, torch_dtype="float32", eos_token_id=299)
    with open(os.path.join(folder, "config.json"), "w") as f:
        json.dump(config, f)
    r, tensors = random.Random(3), {}

    def put(name, *shape):
        n = 1
        for s in shape:
            n *= s
        scale = shape[-1] ** -0.5 if len(shape) > 1 else 0
        tensors[name] = ("F32", list(shape), struct.pack(f"<{n}f", *[r.gauss(0, 1) * scale + (scale == 0) for _ in range(n)]))
    put("model.embed_tokens.weight", vocab, d)
    for i in range(layers):
        at = f"model.layers.{i}."
        for norm in ("input_layernorm", "post_attention_layernorm"):
            put(at + norm + ".weight", d)
        put(at + "self_attn.q_proj.weight", d, d)
        put(at + "self_attn.k_proj.weight", d // 2, d)
        put(at + "self_attn.v_proj.weight", d // 2, d)
        put(at + "self_attn.o_proj.weight", d, d)
        put(at + "mlp.gate_proj.weight", ffn, d)
        put(at + "mlp.up_proj.weight", ffn, d)
        put(at + "mlp.down_proj.weight", d, ffn)
    put("model.norm.weight", d)
    put("lm_head.weight", vocab, d)
    write_safetensors(os.path.join(folder, "model.safetensors"), tensors)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(os.path.join(TINY, file), folder)
    return folder


def main(checks):
    """Each check gets a folder of its own."""
    for check in checks:
        with tempfile.TemporaryDirectory() as folder:
            check(folder)
        print("ok", check.__name__, flush=True)
